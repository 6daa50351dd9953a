"""The page in a real browser: nothing overflows, all can be read, nothing is loaded or said."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.report.runs import made_run
from unetseg.report.page import save_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
MODES: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1280, "height": 900}},
    "narrow": {"viewport": {"width": 360, "height": 740}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "dark and narrow": {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"},
    "print": {"viewport": {"width": 794, "height": 1123}},
}
WEAK = """() => {
  const channels = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const parsed = (colour) => {
    const [r, g, b, a = 1] = channels(colour);
    return colour.startsWith("color(") ? [255 * r, 255 * g, 255 * b, a] : [r, g, b, a];
  };
  const over = (top, below) => top.slice(0, 3).map((c, i) => top[3] * c + (1 - top[3]) * below[i]);
  const light = (rgb) => rgb.map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    const colours = [];
    for (let at = element; at; at = at.parentElement)
      colours.push(parsed(getComputedStyle(at).backgroundColor));
    return colours.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const element = node.parentElement;
    const isDrawn = element.checkVisibility() && !element.closest("script, title");
    if (!node.data.trim() || !isDrawn) continue;
    const style = getComputedStyle(element), below = behind(element);
    const ink = parsed(element.closest("svg") ? style.fill : style.color);
    const [low, high] = [light(over(ink, below)), light(below)].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (!(contrast >= 4.5)) found.push([contrast, node.data.trim().slice(0, 40)]);
  }
  return found;
}"""
WIDER = """() => {
  const limit = document.documentElement.clientWidth + 1;
  return [...document.querySelectorAll("body *")]
    .filter((e) => !e.closest(".scroll") && e.getBoundingClientRect().right > limit)
    .map((e) => e.outerHTML.slice(0, 90));
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a run, and the one that sets it beside another."""
    run = made_run(tmp_path_factory.mktemp("runs"))
    other = Path(shutil.copytree(run, run.parent / "a run with a long name, " / ("x" * 40)))
    (other / "config.yaml").write_text("budget: 900s\n")
    return {"one": save_page([run]), "two": save_page([run, other], run.parent / "two.html")}


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("there is no Chromium (Debian: apt install chromium)")
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=root)
        yield opened
        opened.close()


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
