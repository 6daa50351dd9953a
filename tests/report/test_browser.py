"""The page in a real browser: nothing overflows, all can be read, nothing is loaded or said."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.chromium import WEAK, WIDER, browser
from tests.report.runs import made_run
from unetseg.report.page import save_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["browser"]
MODES: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1280, "height": 900}},
    "narrow": {"viewport": {"width": 360, "height": 740}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "dark and narrow": {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"},
    "print": {"viewport": {"width": 794, "height": 1123}},
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a run, and the one that sets it beside another."""
    run = made_run(tmp_path_factory.mktemp("runs"))
    other = Path(shutil.copytree(run, run.parent / "a run with a long name, " / ("x" * 40)))
    (other / "config.yaml").write_text("budget: 900s\n")
    return {"one": save_page([run]), "two": save_page([run, other], run.parent / "two.html")}


def shown(browser: "Browser", path: Path, mode: str) -> tuple["Page", list[str]]:
    """A page as it looks in a mode, and what the browser said meanwhile."""
    page, said = browser.new_page(**MODES[mode]), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda one: said.extend([one.url] if one.url.startswith("http") else []))
    if mode == "print":
        page.emulate_media(media="print")
    page.goto(path.as_uri())
    return page, said


@pytest.mark.parametrize("which", ["one", "two"])
@pytest.mark.parametrize("mode", MODES)
def test_a_page_is_whole_and_can_be_read(
    browser: "Browser", pages: dict[str, Path], which: str, mode: str
) -> None:
    page, said = shown(browser, pages[which], mode)
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it is wider"
    assert page.evaluate(WIDER) == []
    assert page.evaluate(WEAK) == [], "contrast below 4.5"
    loaded = "[...document.images].every((i) => i.alt && i.complete && i.naturalWidth)"
    assert page.evaluate(loaded), "a picture without alternative text, or without pixels"
    page.close()


def test_the_slider_uncovers_the_truth(browser: "Browser", pages: dict[str, Path]) -> None:
    page, _ = shown(browser, pages["one"], "wide")
    place = "getComputedStyle(document.querySelector('.over-it')).clipPath"
    before = page.evaluate(place)
    page.locator(".compare input").first.focus()
    page.keyboard.press("End")
    assert before == "inset(0px 0px 0px 50%)"
    assert page.evaluate(place) == "inset(0px 0px 0px 100%)"
    page.close()


def test_on_paper_truth_and_prediction_lie_side_by_side(
    browser: "Browser", pages: dict[str, Path]
) -> None:
    page, _ = shown(browser, pages["one"], "print")
    boxes = [one.bounding_box() for one in page.locator(".compare").first.locator("img").all()]
    assert all(boxes)
    left, right = (box for box in boxes if box)
    assert left["x"] + left["width"] <= right["x"]
    page.close()
