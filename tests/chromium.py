"""A Chromium of the system, and what it is asked about any page of this project."""

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
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
NAMELESS = """() => {
  const named = (e) => [e.ariaLabel, e.alt, e.title, e.textContent,
    [...(e.labels || [])].map((label) => label.textContent).join("")].some((name) => name?.trim());
  return [...document.querySelectorAll("a, button, input, select, canvas, img, svg, [role=img]")]
    .filter((e) => e.checkVisibility() && !e.closest("[aria-hidden=true]") && e.alt !== "")
    .filter((e) => !named(e)).map((e) => e.outerHTML.slice(0, 90));
}"""


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
