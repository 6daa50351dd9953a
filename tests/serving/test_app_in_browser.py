"""The whole road in a real browser: drawn, trained, looked at, corrected, trained on, exported.

UNETSEG_SCREENSHOTS=FOLDER keeps a picture of each step, as docs/app.md shows them.
"""

import io
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from multiprocessing import Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.builders import save_run
from tests.chromium import NAMELESS, WEAK, WIDER, browser
from unetseg.data.sample import draw_cells
from unetseg.serving.processes import predict_apart
from unetseg.storage import write_json

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

__all__ = ["browser"]
WIDTHS = {
    "wide": (1280, 800),
    "tablet": (768, 1024),
    "phone": (360, 640),
    "phone on its side": (740, 360),
}
COVERED = """() => {
  const [tools, stage] = [".tools", ".stage"]
    .map((name) => [...document.querySelectorAll(name)].find((each) => each.checkVisibility()))
    .map((each) => each?.getBoundingClientRect());
  return Boolean(tools && (tools.bottom > stage.bottom || tools.right > stage.right));
}"""
"""Whether the tools lie over more than the image."""
MARGIN = 24  # CSS pixels around an image that fits the canvas
TRAINED = 240_000  # milliseconds until a training must have ended


@contextmanager
def served(folder: Path, *flag: str) -> Iterator[str]:
    """`unetseg app FOLDER` as a user starts it, or with a flag before it; the page's address."""
    command = [sys.executable, "-m", "unetseg", "app", *flag, str(folder)]
    command += ["--no-browser", "--port", "0", "--out", str(folder.parent / "runs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as app:
        try:
            assert app.stdout
            yield app.stdout.readline().split(": ")[-1].strip()
        finally:
            app.terminate()
            app.wait(60)


class Visitor:
    """Somebody at the page: a mouse, a keyboard, and what the browser said meanwhile."""

    def __init__(self, browser: "Browser | BrowserContext", address: str, size: int) -> None:
        self.address, self.size = address, size
        self.said, self.elsewhere = list[str](), list[str]()
        self.page: Page = browser.new_page()
        self.page.set_viewport_size({"width": 1280, "height": 800})
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", self._note)
        self.page.goto(address)

    def _note(self, request: Any) -> None:
        if not request.url.startswith((self.address, "blob:", "data:")):
            self.elsewhere.append(request.url)

    def step(self, name: str) -> None:
        self.page.get_by_role("navigation").get_by_text(name, exact=True).click()
        self.page.wait_for_timeout(500)

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name).click()

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the image that fits the canvas is on the screen."""
        box = self.page.locator("#draw canvas").bounding_box()
        assert box
        side = min(box["width"], box["height"]) - 2 * MARGIN
        left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
        return left + x * side / self.size, top + y * side / self.size

    def polygon(self, points: NDArray[Any]) -> None:
        self.page.keyboard.press("p")
        for x, y in points:
            self.page.mouse.click(*self.place(x, y))
        self.page.keyboard.press("Enter")

    def stroke(self, points: NDArray[Any], tool: str = "b") -> None:
        self.page.keyboard.press(tool)
        self.page.mouse.move(*self.place(*points[0]))
        self.page.mouse.down()
        for x, y in points[1:]:
            self.page.mouse.move(*self.place(x, y), steps=3)
        self.page.mouse.up()

    def opened(self) -> None:
        """Waits for an image that has no mask yet."""
        self.page.locator(".saved", has_text="no mask yet").wait_for()

    def saved(self) -> None:
        self.page.keyboard.press("Control+s")
        self.page.locator(".saved:not(.dirty)", has_text="saved").wait_for()

    def picture(self, name: str) -> None:
        """Checks the page as it is, wide, on a tablet and on phones, and keeps a picture of it."""
        for width, height in reversed(WIDTHS.values()):
            self.page.set_viewport_size({"width": width, "height": height})
            self.page.wait_for_timeout(200)
            assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
            assert self.page.evaluate(WIDER) == [], name
            assert not self.page.evaluate(COVERED), name
        assert self.page.evaluate(WEAK) == [], f"{name}: contrast below 4.5"
        assert self.page.evaluate(NAMELESS) == [], f"{name}: without a name"
        assert (self.said, self.elsewhere) == ([], []), name
        if folder := os.environ.get("UNETSEG_SCREENSHOTS"):
            path = Path(folder) / f"app-{name}.jpg"
            self.page.screenshot(path=path, type="jpeg", quality=80)


def outlines(mask: NDArray[np.uint8], most: int) -> list[NDArray[Any]]:
    """The largest objects of a mask as polygons, points in pixels, x before y."""
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = sorted(found, key=cv2.contourArea, reverse=True)[:most]
    return [cv2.approxPolyDP(one, 1.2, True)[:, 0] + 0.5 for one in largest]


def overlap(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Dice of two binary masks."""
    both = np.logical_and(one, other).sum()
    return float(2 * both / (one.astype(bool).sum() + other.astype(bool).sum()))


def walk(visitor: Visitor, folder: Path, seconds: float, most: int) -> dict[str, float]:
    """The whole road; what was drawn and found, as Dice with the truth."""
    page = visitor.page
    truths = [draw_cells(visitor.size, 0, index)[1] for index in range(12)]
    page.get_by_text("12 images").first.wait_for()
    visitor.picture("folder")
    drawn = draw_four(visitor, folder, truths, most)
    train(visitor, "Start training", seconds)
    page.get_by_text("Dice", exact=True).first.wait_for()
    visitor.picture("trained")
    visitor.step("Look")
    visitor.picture("look-empty")
    visitor.press("Find in")
    page.get_by_text("All images are done").wait_for(timeout=TRAINED)
    page.wait_for_timeout(800)
    visitor.picture("look")
    found = masks_of(page, "predicted")
    correct(visitor, folder)
    train(visitor, "Train on with 1", seconds)
    page.get_by_text("Dice before").wait_for()
    visitor.picture("retrained")
    return {
        "drawn": drawn,
        "found": float(np.mean([overlap(found[n], truths[n]) for n in range(4, 12)])),
        "masks": len(masks_of(page, "own")),
    }


def draw_four(visitor: Visitor, folder: Path, truths: list[NDArray[Any]], most: int) -> float:
    """Four masks by polygons and a stroke; how well the first lies on the truth."""
    page = visitor.page
    visitor.step("Draw")
    visitor.opened()
    for truth in truths[:4]:
        for points in outlines(truth, most):
            visitor.polygon(points)
        visitor.stroke(outlines(truth, 1)[0][::3])  # along the outline of the largest
        page.keyboard.press("Control+z")
        if truth is truths[0]:
            visitor.picture("draw")
        visitor.saved()
        page.keyboard.press("n")
        visitor.opened()
    asked = np.zeros_like(truths[0])
    cv2.fillPoly(asked, [(one - 0.5).astype(np.int32) for one in outlines(truths[0], most)], 255)
    written = np.asarray(Image.open(folder / "masks" / "cells_000.png"))
    assert len(np.unique(written)) == 2
    return overlap(written, asked)


def train(visitor: Visitor, button: str, seconds: float) -> None:
    visitor.step("Train")
    page = visitor.page
    page.locator("#budget").evaluate(
        "(slider, s) => { slider.min = 1; slider.value = Math.log2(s);"
        "slider.dispatchEvent(new Event('input')); }",
        seconds,
    )
    page.get_by_text("A U-Net").wait_for()
    if button.startswith("Start"):
        visitor.picture("train")
    visitor.press(button)
    page.locator("#train .chart circle").first.wait_for(timeout=TRAINED)
    page.wait_for_timeout(600 * seconds)
    if button.startswith("Start"):
        visitor.picture("training")
    page.get_by_role("button", name="Stop and keep").wait_for(state="hidden", timeout=TRAINED)
    page.locator(".score").first.wait_for()


def correct(visitor: Visitor, folder: Path) -> None:
    """The first one without a mask: the model's, mended by eraser and brush."""
    page = visitor.page
    visitor.step("Correct")
    visitor.picture("correct")
    page.locator("#correct .card.none").first.click()
    visitor.opened()
    visitor.press("Start from the model’s mask")
    page.locator(".saved.dirty").wait_for()
    middle = np.array([[0.5, 0.5], [0.6, 0.5]]) * visitor.size
    visitor.stroke(middle, "e")
    visitor.stroke(middle + 0.2 * visitor.size, "b")
    visitor.saved()
    assert len(list((folder / "masks").iterdir())) == 5
    visitor.step("Correct")
    page.get_by_role("link", name="Train on with 1 correction").wait_for()


def masks_of(page: "Page", which: str) -> dict[int, NDArray[Any]]:
    """The masks that the page offers as a zip, by the number in the image's name."""
    answer = page.request.get(page.url.split("#")[0] + f"api/masks.zip?of={which}")
    with zipfile.ZipFile(io.BytesIO(answer.body())) as packed:
        names = [name for name in packed.namelist() if name.endswith(".png")]
        return {
            int(Path(name).stem[-3:]): np.asarray(Image.open(io.BytesIO(packed.read(name))))
            for name in names
        }


def without_masks(folder: Path, size: int) -> Path:
    """Twelve images of cells, of size×size pixels."""
    folder.mkdir()
    for index in range(12):
        Image.fromarray(draw_cells(size, 0, index)[0]).save(folder / f"cells_{index:03d}.png")
    return folder


@pytest.mark.long
def test_from_images_without_masks_to_a_model_that_was_corrected(
    browser: "Browser", tmp_path: Path
) -> None:
    folder = without_masks(tmp_path / "cells", 64)
    with served(folder) as address:
        scores = walk(Visitor(browser, address, 64), folder, seconds=5, most=2)
    assert scores["drawn"] > 0.9
    assert scores["masks"] == 5


@pytest.mark.slow
def test_a_minute_of_training_on_four_drawn_masks_finds_the_cells(
    browser: "Browser", tmp_path: Path
) -> None:
    folder = without_masks(tmp_path / "cells", 192)
    with served(folder) as address:
        scores = walk(Visitor(browser, address, 192), folder, seconds=60, most=40)
    assert scores["drawn"] > 0.95
    assert scores["found"] > 0.7


@pytest.mark.long
def test_one_browser_draws_the_others_look_and_no_mask_is_overwritten_unasked(
    browser: "Browser", tmp_path: Path
) -> None:
    folder = without_masks(tmp_path / "cells", 64)
    line = np.array([[20.0, 20.0], [40.0, 40.0]])
    with served(folder) as address, browser.new_context() as context:
        one, same = (Visitor(context, address + "#draw", 64) for _ in range(2))
        other = Visitor(browser, address + "#draw", 64)
        other.page.get_by_text("Somebody else is drawing here").wait_for()
        assert other.page.get_by_role("button", name="Save").is_disabled()
        for visitor in (one, same):  # two tabs of one browser, at the same mask
            visitor.opened()
            visitor.stroke(line if visitor is one else line[:, ::-1] + [20, 0])
        one.saved()
        first = np.asarray(Image.open(folder / "masks" / "cells_000.png"))
        other.page.locator(".strip a.has").wait_for()  # told by an event
        same.page.keyboard.press("Control+s")
        same.press("Go on drawing")
        same.page.locator(".saved.dirty").wait_for()
        assert np.array_equal(np.asarray(Image.open(folder / "masks" / "cells_000.png")), first)
        same.page.keyboard.press("Control+s")
        same.press("Keep mine")
        same.page.locator(".saved:not(.dirty)").wait_for()
        second = np.asarray(Image.open(folder / "masks" / "cells_000.png"))
        assert not np.array_equal(second, first)


@pytest.mark.long
def test_a_mask_that_is_there_is_replaced_by_the_models_only_when_asked(
    browser: "Browser", tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    folder = without_masks(tmp_path / "cells", 64)
    (folder / "masks").mkdir()
    given = [draw_cells(64, 0, index)[1] for index in range(4)]
    for index, mask in enumerate(given):
        Image.fromarray(mask).save(folder / "masks" / f"cells_{index:03d}.png")
    run = save_run(tmp_path / "runs" / "cells")
    write_json(run / "env.json", {"data": str(folder.resolve())})
    write_json(run / "splits.json", {"pairs": []})
    with served(folder) as address:
        visitor = Visitor(browser, address, 64)
        page, home = visitor.page, address.split("#")[0]
        ids = {one["name"]: one["id"] for one in page.request.get(home + "api/images").json()}
        has_mask, has_none = ids["cells_000.png"], ids["cells_005.png"]
        ours, theirs = Pipe(duplex=False)
        with ours, theirs:
            predict_apart(theirs, run, [(folder / name, Path(key)) for name, key in ids.items()])
        page.goto(f"{home}#look/{has_mask}")
        page.reload()
        link = page.get_by_role("link", name="Correct this mask")
        expect(link).to_have_attribute("href", f"#draw/{has_mask}")
        link.click()
        page.locator(".saved:not(.dirty)", has_text="saved").wait_for()
        page.wait_for_timeout(1000)
        assert page.locator(".saved.dirty").count() == 0
        visitor.press("Start from the model’s mask")
        page.locator(".saved.dirty").wait_for()
        page.keyboard.press("Control+z")
        visitor.saved()
        written = np.asarray(Image.open(folder / "masks" / "cells_000.png"))
        assert np.array_equal(written, given[0])
        page.goto(f"{home}#look/{has_none}")
        expect(link).to_have_attribute("href", f"#draw/{has_none}/model")
        link.click()
        page.locator(".saved.dirty").wait_for()
        assert visitor.said == []


@pytest.mark.long
def test_an_open_mask_takes_new_classes_and_the_background_that_they_bring(
    browser: "Browser", tmp_path: Path
) -> None:
    folder = without_masks(tmp_path / "cells", 64)
    (folder / "classes.txt").write_text("soil\nroot\n")  # of which none is called background
    with served(folder) as address:
        visitor = Visitor(browser, address + "#draw", 64)
        page = visitor.page
        visitor.opened()
        page.get_by_role("button", name="Edit", exact=True).click()
        page.get_by_role("button", name="Add a class").click()
        page.keyboard.type("stone")
        page.get_by_role("dialog").get_by_role("button", name="Save").click()
        page.get_by_role("radio", name="stone").wait_for()
        middle = "(canvas) => [...canvas.getContext('2d').getImageData(canvas.width / 2 | 0, "
        middle += "canvas.height / 2 | 0, 1, 1).data]"
        before = page.locator("#draw canvas").evaluate(middle)
        page.keyboard.press("3")
        visitor.stroke(np.array([[28.0, 32.0], [36.0, 32.0]]))
        page.mouse.move(*visitor.place(2, 2))
        page.wait_for_timeout(300)
        assert page.locator("#draw canvas").evaluate(middle) != before
        visitor.saved()
        written = np.asarray(Image.open(folder / "masks" / "cells_000.png"))
        assert np.unique(written).tolist() == [0, 2]


@pytest.mark.long
def test_without_a_folder_the_page_asks_for_one(browser: "Browser", tmp_path: Path) -> None:
    without_masks(tmp_path / "cells", 64)
    with served(tmp_path, "--root") as address:
        visitor = Visitor(browser, address, 64)
        visitor.page.get_by_text("Which images?").wait_for()
        visitor.page.get_by_role("button", name="Choose a folder", exact=True).click()
        visitor.page.get_by_role("dialog").get_by_role("button", name="cells").click()
        visitor.page.get_by_text("No folders in here.").wait_for()
        visitor.press("Open this folder")
        visitor.page.get_by_text("12 images").first.wait_for()
        assert visitor.said == []


def test_the_page_is_part_of_the_package() -> None:
    page = files("unetseg.serving") / "page"
    index = (page / "index.html").read_text()
    assert "<script" in index
    assert "style=" not in index  # the page's policy lets no inline style or script run
    for name in ("app.js", "style.css", "icon.svg"):
        assert name in index or (page / name).is_file()
        assert "http://" not in (page / name).read_text().replace("http://www.w3.org", "")


@pytest.mark.long
def test_what_is_drawn_is_saved_before_another_folder_is_chosen(
    browser: "Browser", tmp_path: Path
) -> None:
    for name in ("cells", "others"):
        without_masks(tmp_path / name, 64)
    with served(tmp_path, "--root") as address:
        visitor = Visitor(browser, address, 64)
        page = visitor.page
        page.get_by_role("button", name="Choose a folder", exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name="cells").click()
        page.get_by_text("No folders in here.").wait_for()
        visitor.press("Open this folder")
        page.get_by_text("12 images").first.wait_for()
        visitor.step("Draw")
        visitor.opened()
        visitor.stroke(np.array([[20.0, 20.0], [40.0, 40.0]]))
        page.locator("#where").click()
        page.get_by_role("dialog").get_by_role("button", name="others").click()
        page.get_by_text("No folders in here.").wait_for()
        visitor.press("Open this folder")
        page.locator("#where", has_text="others").wait_for()
        assert (tmp_path / "cells" / "masks" / "cells_000.png").is_file()


@pytest.mark.long
def test_findings_are_of_the_masks_as_they_are(browser: "Browser", tmp_path: Path) -> None:
    folder = without_masks(tmp_path / "cells", 64)
    (folder / "masks").mkdir()
    for index in range(4):  # the first shows nothing
        mask = draw_cells(64, 0, index)[1] * (index > 0)
        Image.fromarray(mask).save(folder / "masks" / f"cells_{index:03d}.png")
    with served(folder) as address:
        visitor = Visitor(browser, address, 64)
        page = visitor.page
        told = page.get_by_text("background only")
        told.wait_for()
        page.locator("#folder .card").first.click()
        page.locator(".saved:not(.dirty)", has_text="saved").wait_for()
        visitor.stroke(np.array([[20.0, 20.0], [40.0, 40.0]]))
        visitor.saved()
        visitor.step("Folder")
        told.wait_for(state="detached", timeout=10_000)
        page.get_by_text("to know about this folder").wait_for()
        assert told.count() == 0


@pytest.mark.long
def test_the_first_mask_of_an_image_reaches_whoever_has_it_open(
    browser: "Browser", tmp_path: Path
) -> None:
    folder = without_masks(tmp_path / "cells", 64)
    line = np.array([[20.0, 16.0], [40.0, 16.0]])
    with served(folder) as address, browser.new_context() as context:
        one, same = (Visitor(context, address + "#draw", 64) for _ in range(2))
        for visitor in (one, same):  # two tabs of one browser, at the same image
            visitor.opened()
        one.stroke(line)
        one.saved()
        same.page.locator(".saved", has_text="saved").wait_for()
        same.page.wait_for_timeout(1000)
        same.stroke(line + np.array([0.0, 32.0]))
        same.saved()
        written = np.asarray(Image.open(folder / "masks" / "cells_000.png"))
        assert written[16, 30] == written[48, 30] != written[2, 2]


@pytest.mark.long
def test_images_that_were_dropped_are_looked_at_and_not_drawn_on(
    browser: "Browser", tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    folder = without_masks(tmp_path / "cells", 64)
    with served(folder) as address:
        visitor = Visitor(browser, address, 64)
        page = visitor.page
        content = (folder / "cells_003.png").read_bytes()
        file: Any = {"name": "mine.png", "mimeType": "image/png", "buffer": content}
        (added,) = page.request.post(address + "api/uploads", multipart={"files": file}).json()
        page.reload()
        card = page.locator("#folder .card", has_text="mine.png")
        expect(card).to_have_attribute("href", f"#look/{added['id']}")
        page.goto(f"{address}#draw/{added['id']}")
        visitor.opened()
        expect(page.locator("#draw h1")).to_have_text("cells_000.png")


@pytest.mark.long
def test_what_cannot_be_saved_can_be_given_up(browser: "Browser", tmp_path: Path) -> None:
    folder = without_masks(tmp_path / "cells", 64)
    refusal = {"error": {"message": "the mask lies in several files", "fix": "Unite them first."}}

    def refuse(route: Any) -> None:
        if route.request.method == "PUT":
            route.fulfill(status=422, json=refusal)
        else:
            route.continue_()

    with served(folder) as address:
        visitor = Visitor(browser, address + "#draw", 64)
        page = visitor.page
        page.route(lambda url: "/mask.png" in url, refuse)
        visitor.opened()
        visitor.stroke(np.array([[20.0, 20.0], [40.0, 40.0]]))
        page.keyboard.press("Control+s")
        visitor.press("Give up what I drew")
        visitor.opened()
        visitor.step("Train")
        page.locator("#train").wait_for()


SLOW = """() => { const real = window.fetch; window.fetch = async (address, ...rest) => {
  if (String(address).endsWith("/info")) await new Promise((done) => setTimeout(done, 2500));
  return real(address, ...rest); }; }"""


@pytest.mark.long
def test_what_is_drawn_while_another_image_opens_is_saved(
    browser: "Browser", tmp_path: Path
) -> None:
    folder = without_masks(tmp_path / "cells", 64)
    with served(folder) as address:
        visitor = Visitor(browser, address + "#draw", 64)
        visitor.opened()
        visitor.page.evaluate(SLOW)
        visitor.page.keyboard.press("n")
        visitor.stroke(np.array([[20.0, 20.0], [40.0, 40.0]]))
        visitor.page.locator("#draw .strip a.has").wait_for(timeout=20_000)
        assert (folder / "masks" / "cells_000.png").is_file()
        assert visitor.said == []


@pytest.mark.long
def test_a_line_of_the_keyboards_brush_is_saved_when_the_image_is_left(
    browser: "Browser", tmp_path: Path
) -> None:
    folder = without_masks(tmp_path / "cells", 64)
    with served(folder) as address:
        visitor = Visitor(browser, address + "#draw", 64)
        page = visitor.page
        visitor.opened()
        page.locator("#draw canvas").focus()
        for key in ("b", "ArrowRight", "Enter", "ArrowRight", "ArrowRight", "n"):
            page.keyboard.press(key)
        page.locator("#draw h1", has_text="cells_001.png").wait_for()
        assert (folder / "masks" / "cells_000.png").is_file()


@pytest.mark.long
def test_two_fingers_zoom_and_fill_nothing(browser: "Browser", tmp_path: Path) -> None:
    folder = without_masks(tmp_path / "cells", 64)
    with served(folder) as address, browser.new_context(has_touch=True) as context:
        visitor = Visitor(context, address + "#draw", 64)
        page = visitor.page
        session = context.new_cdp_session(page)

        def touch(kind: str, *points: tuple[float, float]) -> None:
            places = [visitor.place(*point) for point in points]
            told = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": told})

        visitor.opened()
        page.keyboard.press("f")
        touch("touchStart", (20, 32))
        touch("touchStart", (20, 32), (44, 32))
        touch("touchMove", (10, 32), (54, 32))
        touch("touchEnd")
        page.wait_for_timeout(300)
        assert page.locator("#draw .undo").is_disabled()
        touch("touchStart", (20, 32))
        touch("touchEnd")
        page.locator(".saved.dirty").wait_for()


@pytest.mark.long
def test_tabs_out_of_sight_hold_no_connection(browser: "Browser", tmp_path: Path) -> None:
    folder = without_masks(tmp_path / "cells", 64)
    hide = "() => { Object.defineProperty(document, 'hidden', { value: true });"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    with served(folder) as address, browser.new_context() as context:
        for _ in range(7):  # one more than a browser has connections to a server
            visitor = Visitor(context, address, 64)
            visitor.page.get_by_text("12 images").first.wait_for()
            visitor.page.wait_for_timeout(500)
            visitor.page.evaluate(hide)


@pytest.mark.long
def test_the_curve_is_of_one_training(browser: "Browser", tmp_path: Path) -> None:
    folder = without_masks(tmp_path / "cells", 64)
    tell = """async () => {
      const { events } = await import("/app/training.js");
      const { store } = await import("/app/store.js");
      for (const run of ["cells-1", "cells-2"]) for (const step of [10, 20])
        events.epoch({ run, step, seconds: step, train_loss: 1, val_dice: 0.5, preview: null });
      return store.epochs.map((one) => one.run + " " + one.step);
    }"""
    with served(folder) as address:
        visitor = Visitor(browser, address, 64)
        visitor.page.get_by_text("12 images").first.wait_for()
        assert visitor.page.evaluate(tell) == ["cells-2 10", "cells-2 20"]


@pytest.mark.long
def test_the_mask_is_shown_again_whatever_the_case_of_the_key(
    browser: "Browser", tmp_path: Path
) -> None:
    folder = without_masks(tmp_path / "cells", 64)
    middle = "(canvas) => [...canvas.getContext('2d').getImageData(canvas.width / 2 | 0, "
    middle += "canvas.height / 2 | 0, 1, 1).data]"
    with served(folder) as address:
        visitor = Visitor(browser, address + "#draw", 64)
        page = visitor.page
        visitor.opened()
        visitor.stroke(np.array([[28.0, 32.0], [36.0, 32.0]]))
        page.mouse.move(*visitor.place(2, 2))
        page.wait_for_timeout(500)
        shown = page.locator("#draw canvas").evaluate(middle)
        page.keyboard.press("V")  # as with Caps Lock
        page.wait_for_timeout(500)
        assert page.locator("#draw canvas").evaluate(middle) == shown


@pytest.mark.long
def test_what_failed_while_nobody_looked_is_told(browser: "Browser", tmp_path: Path) -> None:
    folder = without_masks(tmp_path / "cells", 64)
    fault = {"number": 3, "message": "the disk is full", "fix": "Free space."}

    def fail(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"failed": fault})

    with served(folder) as address:
        visitor = Visitor(browser, address, 64)
        visitor.page.route("**/api/state", fail)
        visitor.page.reload()
        visitor.page.get_by_text("the disk is full").wait_for()
        visitor.page.unroute_all(behavior="ignoreErrors")


@pytest.mark.long
def test_a_training_that_goes_on_is_shown_at_once_with_the_time_that_is_left(
    browser: "Browser", tmp_path: Path
) -> None:
    folder = without_masks(tmp_path / "cells", 64)
    tell = """async () => {
      const { events, isRunning } = await import("/app/training.js");
      events.training({ status: "running", budget: 300, share: 0.8, step: 9, epoch: 1 });
      return [isRunning(), document.querySelector("#train .now").textContent];
    }"""
    with served(folder) as address:
        visitor = Visitor(browser, address, 64)
        visitor.page.get_by_text("12 images").first.wait_for()
        visitor.page.wait_for_timeout(1000)
        is_running, shown = visitor.page.evaluate(tell)
        assert (is_running, "60 s" in shown) == (True, True)


@pytest.mark.long
def test_who_only_looks_by_now_can_give_up_and_leave(browser: "Browser", tmp_path: Path) -> None:
    folder = without_masks(tmp_path / "cells", 64)

    def looking(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"writer": False})

    with served(folder) as address:
        visitor = Visitor(browser, address + "#draw", 64)
        page = visitor.page
        visitor.opened()
        page.wait_for_timeout(1000)
        visitor.stroke(np.array([[20.0, 20.0], [40.0, 40.0]]))
        page.route("**/api/state", looking)
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.locator(".saved", has_text="looking only").wait_for()
        page.keyboard.press("Control+s")
        visitor.press("Give up what I drew")
        page.locator(".saved:not(.dirty)").wait_for()
        visitor.step("Train")
        page.locator("#train").wait_for()
        page.unroute_all(behavior="ignoreErrors")


@pytest.mark.long
def test_who_only_looks_draws_nothing_by_the_keyboard(browser: "Browser", tmp_path: Path) -> None:
    folder = without_masks(tmp_path / "cells", 64)
    with served(folder) as address, browser.new_context() as context:
        Visitor(context, address + "#draw", 64).opened()
        other = Visitor(browser, address + "#draw", 64)
        other.page.get_by_text("Somebody else is drawing here").wait_for()
        other.page.locator("#draw canvas").focus()
        aside, below = ("ArrowRight",) * 3, ("ArrowDown",) * 3
        for key in ("p", "ArrowRight", "Enter", *aside, "Enter", *below, "Enter", "c"):
            other.page.keyboard.press(key)
        assert other.page.locator(".saved.dirty").count() == 0
        other.step("Train")
        other.page.locator("#train").wait_for()


@pytest.mark.long
def test_the_window_of_a_large_image_stays_where_it_is_when_another_tab_saves(
    browser: "Browser", tmp_path: Path
) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    Image.new("L", (4400, 4400), 90).save(folder / "a.png")
    with served(folder) as address:
        visitor = Visitor(browser, address + "#draw", 4400)
        page, asked = visitor.page, list[str]()
        visitor.opened()
        page.wait_for_timeout(1000)
        page.mouse.click(*visitor.place(300, 300))  # outside of the window: it moves there
        page.wait_for_timeout(1500)
        page.on("request", lambda one: asked.append(one.url))
        (one,) = page.request.get(address + "api/images").json()
        place = f"x=0&y=0&width=64&height=64&revision={one['revision']}"
        saved = page.request.put(
            f"{address}api/images/{one['id']}/mask.png?{place}", data=zlib.compress(bytes(64 * 64))
        )
        assert saved.ok, saved.text()
        page.wait_for_timeout(3000)
        (again, *_) = [url for url in asked if "mask.png?of=own" in url]
        assert "x=0&y=0&" in again
