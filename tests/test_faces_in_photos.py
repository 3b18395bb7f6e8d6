"""Training photos without a face, or with several people, are told where photos are counted."""

from pathlib import Path

import pytest
from PIL import Image

from synth_pipeline.config import load_config
from synth_pipeline.export import export
from synth_pipeline.faces_in_photos import FacesInPhotos
from synth_pipeline.progress import silent
from synth_pipeline.publishing import report_node
from synth_pipeline.study import Study
from tests.command_line import command

UNUSUAL = FacesInPhotos(photos=4, with_face=3, several=2, by_search=1)
FACTS = (
    "No face was found in 1 of 4 training photos; 2 of 4 training photos show several people (the "
    "largest face is taken); 1 of 3 faces was found only by searching: small, or turned."
)
LEFT_OUT = "The fine-tuning leaves out the photos without a face: no morph is made of them."


class Unusual(Study):
    """A study in one of whose classes the photos show what they should not."""

    def faces_in_photos(self, class_id: str) -> FacesInPhotos:
        usual = super().faces_in_photos(class_id)
        return UNUSUAL if class_id == self.case_set.classes[1] else usual


@pytest.fixture(scope="module")
def unusual(finished) -> Study:
    study = Unusual(load_config(finished.config), finished.root)
    study.graph.resolve(study.cases())
    return study


@pytest.mark.parametrize(
    ("found", "morphs", "told"),
    [
        (FacesInPhotos(4, 4, 0, 0), True, ""),
        (UNUSUAL, True, f"{FACTS} {LEFT_OUT}"),
        (
            FacesInPhotos(4, 3, 0, 0),
            False,
            "No face was found in 1 of 4 training photos. The fine-tuning learns from the photos "
            "without a face too; remove them, or set dreambooth.morphs to true, which leaves them "
            "out.",
        ),
        (
            FacesInPhotos(4, 1, 0, 0),
            True,
            "No face was found in 3 of 4 training photos. Fewer than two photos show a face, so "
            "there is nothing to morph: the fine-tuning learns from all photos, those without a "
            "face too.",
        ),
        (
            FacesInPhotos(4, 4, 1, 0),
            False,
            "1 of 4 training photos shows several people (the largest face is taken).",
        ),
    ],
)
def test_what_is_said(found, morphs, told):
    assert found.sentence(morphs) == told


def test_the_report_tells_it(unusual, tmp_path):
    classes = list(unusual.case_set.classes)
    node = report_node(unusual, classes, {})
    folders = {item.name: unusual.graph.artifact(item.node).path for item in node.inputs}
    node.body(folders, tmp_path, silent)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"<strong>{classes[1]}</strong>: {FACTS} {LEFT_OUT}" in page
    assert f"<strong>{classes[0]}</strong>" not in page
    row = page.split(f"<tr><td>{classes[1]}</td><td>4</td>")[-1]
    assert row.startswith("<td>3</td>")


def test_the_cards_tell_it(unusual, tmp_path):
    classes = list(unusual.case_set.classes)
    done = export(unusual, tmp_path / "out", kinds=["images", "adapters"], classes=classes)
    assert classes[1] not in done.refused, done.refused
    images = (tmp_path / "out/images/README.md").read_text(encoding="utf-8")
    assert f"- {classes[1]}: {FACTS} {LEFT_OUT}\n" in images
    assert f"| {classes[1]} | {unusual.case_set.class_name(classes[1])} | 4 | 3 |" in images
    adapter = (tmp_path / "out/adapters" / classes[1] / "README.md").read_text(encoding="utf-8")
    assert "on morphs of 3 real photos" in adapter
    assert f"\n{FACTS} {LEFT_OUT}\n" in adapter
    other = (tmp_path / "out/adapters" / classes[0] / "README.md").read_text(encoding="utf-8")
    assert "on morphs of 4 real photos" in other
    assert "No face was found" not in other


def test_the_terminal_tells_it(phantom_files, tmp_path):
    """A third of the photos of one class are noise, and one shows two people."""
    names = list(phantom_files)[:2]
    for name in names:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number, path in enumerate(phantom_files[name][:4]):
            with Image.open(path) as photo:
                photo.save(tmp_path / "photos" / name / f"{number}.png")
    noisy = tmp_path / "photos" / names[0]
    for number in range(2):
        Image.effect_noise((160, 160), 60 + 20 * number).save(noisy / f"noise-{number}.png")
    config = _study(tmp_path)
    ended = command("run", config, "--root", tmp_path / "root", "--until", "landmarks")
    assert ended.code == 0, ended.err
    told = [line for line in ended.out.splitlines() if line.startswith(f"class {names[0]}: ")]
    assert len(told) == 1, ended.out
    assert "No face was found in 2 of 6 training photos. The fine-tuning learns" in told[0]
    assert f"class {names[0]}: no face was found in 2 of 6 training photos" in ended.err
    assert "cases check" in ended.out
    assert "noise-" not in ended.out + ended.err
    again = command("run", config, "--root", tmp_path / "root", "--until", "landmarks")
    assert told[0] in again.out


def _study(folder: Path) -> Path:
    path = folder / "noisy.yaml"
    path.write_text(
        f"name: noisy\ncases: {{source: {folder / 'photos'}, format: imagefolder, "
        "test_fraction: 0}\n"
    )
    return path
