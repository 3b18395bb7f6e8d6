"""A study's report, opened as people open it: it shows its figures and asks nobody for anything."""


def test_the_report_loads_nothing_from_outside(finished, browser):
    page = finished.root / "studies" / "small" / "report.html"
    browser.open(page.as_uri(), "document.body?.innerText.length > 200")
    assert browser.value("document.images.length") > 0
    assert browser.value("[...document.images].every(it => it.complete && it.naturalWidth > 0)")
    assert browser.let_through() <= {"127.0.0.1", ""}
    assert browser.outside() == set()
