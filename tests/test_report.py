"""The report: self-contained, the same bytes for the same study, and safe to show."""

import re
from html.parser import HTMLParser

import pytest

from synth_pipeline.cases import load
from synth_pipeline.config import load_config
from synth_pipeline.publishing import report_node
from synth_pipeline.study import Study


class Page(HTMLParser):
    """Tags, and every attribute that could lead outside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.alts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        values = dict(attrs)
        names = ("src", "href", "action", "data", "xlink:href")
        self.addresses += [values[name] for name in names if values.get(name)]
        if tag == "img":
            self.alts.append(values.get("alt") or "")


@pytest.fixture(scope="module")
def page(finished) -> str:
    return (finished.root / "studies" / "small" / "report.html").read_text(encoding="utf-8")


def test_it_stands_alone(page):
    parsed = Page(page)
    assert not parsed.tags & {"script", "link", "iframe", "object", "embed"}
    assert parsed.addresses
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in parsed.addresses)
    assert not re.search(r"url\(\s*['\"]?(?!#)", page)
    assert "@import" not in page


def test_every_picture_is_told_to_those_who_cannot_see_it(page):
    assert all(alt.startswith("synthetic image") for alt in Page(page).alts)


def test_it_shows_no_real_photo_and_no_place(page, finished, phantoms):
    study = Study(load_config(finished.config), finished.root)
    case_set = load(study.graph.artifact(study.cases()).path)
    assert not [case.case_id for case in case_set.cases if case.case_id in page]
    assert str(phantoms) not in page
    assert str(finished.root) not in page
    shown = sum(tag == "data:image/jpeg;base64," for tag in re.findall("data:[^,]+,", page))
    assert shown == len(Page(page).alts)


def test_same_study_same_bytes(page, finished, tmp_path):
    study = Study(load_config(finished.config), finished.root)
    study.make(study.cases())
    classes = list(study.case_set.classes)
    node = report_node(study, classes, {})
    folders = {item.name: study.graph.artifact(item.node).path for item in node.inputs}
    node.body(folders, tmp_path, lambda *_: None)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_a_name_cannot_write_into_the_page(finished, tmp_path):
    study = Study(load_config(finished.config), finished.root)
    study.make(study.cases())
    classes = list(study.case_set.classes)
    node = report_node(study, classes, {"x": "<script>alert(1)</script>"})
    folders = {item.name: study.graph.artifact(item.node).path for item in node.inputs}
    node.body(folders, tmp_path, lambda *_: None)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_it_tells_the_worth_of_one_photo(page):
    assert re.search(r"[\d.]+ points of Top-1", page)
