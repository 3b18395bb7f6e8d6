"""Tables of cases as spreadsheets save them: read, or all that is wrong with them said at once."""

import os
import pickle

import pytest

from synth_pipeline import case_sources
from synth_pipeline.case_tables import TableError
from synth_pipeline.config import CasesConfig
from synth_pipeline.errors import InputError

ROWS = [
    ("photos/a1.jpg", "Noonan", "p1"),
    ("photos/a2.jpg", "Noonan", "p2"),
    ("photos/b1.jpg", "Möbius", "p3"),
    ("photos/b2.jpg", "Möbius", "p4"),
]
HEADER = ("file", "class", "subject")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "photos").mkdir(parents=True)
    for file, _, _ in ROWS:
        (tmp_path / "in" / file).write_bytes(file.encode())
    return tmp_path / "in"


def text(rows=ROWS, separator=",", end="\n", header=HEADER):
    return end.join(separator.join(row) for row in (header, *rows)) + end


def look(folder, content):
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / "cases.csv").write_bytes(raw)
    return case_sources.look(CasesConfig(source=str(folder), format="csv"))


def refusal(folder, content) -> InputError:
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        look(folder, content)
    return caught.value


def found(source, folder):
    return [(str(p.path.relative_to(folder)), p.class_name, p.subject) for p in source.photos]


@pytest.mark.parametrize(
    "content",
    [
        text(),
        text(separator=";"),
        text(separator="\t"),
        text(separator="|"),
        "sep=;\n" + text(separator=";"),
        text(end="\r\n"),
        text(end="\r"),
        ("\ufeff" + text(end="\r\n")).encode(),
        text().encode("utf-16"),
        ("\ufeff" + text(separator="\t")).encode("utf-16-le"),
        text().encode("utf-16-be"),
        text().encode("utf-32"),
        text().encode("cp1252"),
        text(header=("File", " CLASS ", "Subject ")),
        text(header=('"file"', '"class"', '"subject"')),
        text([tuple(f" {value}  " for value in row) for row in ROWS]),
        text([(f.replace("/", "\\"), c, s) for f, c, s in ROWS]),
        "\n\n" + text() + "\n,,\n , ,\n",
        text([(f, c.replace("ö", "o\u0308"), s) for f, c, s in ROWS]),
        text([(*row, "") for row in ROWS], header=(*HEADER, "")),
        text([*ROWS, ROWS[0]]),
    ],
)
def test_what_spreadsheets_write_is_read(folder, content):
    assert found(look(folder, content), folder) == sorted(ROWS, key=lambda row: (row[1], row[0]))


def test_absolute_paths_within_the_folder(folder):
    rows = [(str(folder / f), c, s) for f, c, s in ROWS]
    assert len(look(folder, text(rows)).photos) == 4


def test_what_was_guessed_or_not_used_is_said(folder):
    rows = [(*row, "7") for row in ROWS]
    source = look(folder, text([*rows, rows[0]], header=(*HEADER, "Age")).encode("cp1252"))
    assert source.notes == [
        "cases.csv is not UTF-8; it was read as Windows-1252.",
        "cases.csv: not used: age.",
        "cases.csv: 1 rows say again what others say.",
    ]


@pytest.mark.parametrize(
    ("words", "sides"),
    [
        (("Train", "TEST", "train", " test "), ["test", "test", "train", "train"]),
        (("train", "test", "val", ""), ["test", None, "train", "train"]),
        (("train", "validation", "training", "Val"), ["test", "test", "train", "train"]),
    ],
)
def test_split_in_any_case(folder, words, sides):
    rows = [(*row, word) for row, word in zip(ROWS, words, strict=True)]
    photos = look(folder, text(rows, header=(*HEADER, "Split"))).photos
    assert sorted((p.split for p in photos), key=str) == sorted(sides, key=str)


def test_all_faults_are_said_at_once_with_their_lines(folder):
    os.mkfifo(folder / "pipe.jpg")
    (folder / "outside.jpg").symlink_to("/etc/hostname")
    content = (
        "file,class,subject,split\n"
        "photos/a1.jpg,Noonan,p1,train\n"
        "\n"
        "photos/gone Jane.jpg,Noonan,p1,train\n"
        "photos/a2.jpg,,p1,train\n"
        '"photos/b1.jpg",Möbius,p1,sometimes\n'
        ",,,\n"
        "photos/b2.jpg,MÖBIUS,p1,test\n"
        "photos/b1.jpg,Möbius,p1,test,Jane\n"
        "pipe.jpg,Möbius,p1,\n"
        "photos,Möbius,p1,\n"
        "../in/../elsewhere.jpg,Möbius,p1,\n"
        "outside.jpg,Möbius,p1,\n"
        "photos/a1.jpg,Möbius,p1,train\n"
        "C:\\data\\Jane.jpg,Möbius,p1,train\n"
    )
    error = refusal(folder, content)
    told = str(error)
    for part in (
        f"{folder / 'cases.csv'}, ",
        "lines 4, 12, 15: the file it names does not exist",
        "line 5: a value is missing (class)",
        "line 6: the split is neither train nor test nor val",
        "line 9: there are more values than columns",
        "lines 10, 11: what it names is no file",
        "line 13: the file it names lies outside the folder",
        "line 14: line 2 says something else of the same file",
        "one class is written in 2 ways, write one: MÖBIUS (line 8) and Möbius",
    ):
        assert part in told, part
    # Whose photo it is only the terminal of `cases check` says.
    assert "Jane" not in told
    assert "cases.csv, line 4: photos/gone Jane.jpg: the file it names does not exist" in (
        "\n".join(error.details)
    )
    assert pickle.loads(pickle.dumps(error)).details == error.details


def test_lines_are_those_of_the_file_though_values_have_several(folder):
    content = text().replace("p1", '"p\n1"').replace("photos/b2", "photos/gone")
    error = refusal(folder, content)
    assert "line 2: a quotation mark" in str(error)
    assert "line 6: the file it names does not exist" in str(error)


def test_a_quotation_mark_that_does_not_close(folder):
    assert "line 3: a quotation mark" in str(
        refusal(folder, text().replace("photos/a2.jpg", '"photos/a2.jpg'))
    )


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (("name", "class", "subject"), "lacks the column file; it needs file, class"),
        (("filename", "Diagnosis", "subject"), "has the column filename; call it file"),
        (("file", "class", "Patient ID"), "has the column patient id; call it subject"),
        (("file", "class", "subjct"), "has the column subjct; call it subject"),
        (("file", "class", "class"), "has the column class twice"),
    ],
)
def test_columns_that_are_not_understood_are_refused(folder, header, complaint):
    assert complaint in str(refusal(folder, text(header=header)))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"PK\x03\x04 and more", "is a workbook"),
        (b"\x81\x8d\x8f", "is no text"),
        (b"", "lacks the column file and class"),
        (b"file,class\n", "holds no photo"),
        (b"file,class\n\0\0\0", "is no text"),
    ],
)
def test_what_is_no_table_is_one_sentence(folder, content, complaint):
    assert complaint in str(refusal(folder, content))


def test_names_on_the_disk_in_old_bytes_or_decomposed(tmp_path):
    for name in (os.fsdecode(b"M\xfcller 1.jpg"), "Müller 2.jpg", "Mu\u0308ller 3.jpg"):
        (tmp_path / name).write_bytes(os.fsencode(name))
    rows = [(f"Müller {n}.jpg", "ab"[n % 2], f"p{n}") for n in (1, 2, 3)]
    source = look(tmp_path, text(rows))
    assert len(source.photos) == 3
    case_sources.source_digest(source.photos)


def test_rdface_has_the_same_reader(tmp_path):
    for number in range(2):
        folder = tmp_path / "rd_images" / "AB"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"AB.{number}.jpg").write_bytes(b"%d" % number)
    rows = [(f"AB.{n}.jpg", "a disease", "AB") for n in (0, 1, 2)]
    header = ("Image_Name", "disease_name", "disease_abbr")
    (tmp_path / "disease_images.csv").write_bytes(text(rows[:2], ";", header=header).encode())
    config = CasesConfig(source=str(tmp_path), format="rdface")
    assert len(case_sources.scan(config)) == 2
    (tmp_path / "disease_images.csv").write_text(text(rows, header=header))
    with pytest.raises(TableError, match="line 4: the file it names does not exist"):
        case_sources.scan(config)
