"""Folders as people have them: the table layouts.txt, read and drawn small.

A layout begins with `[name]` and what it is, followed by lines of fields with two or more spaces
between them:

    PATH  KIND                        a file that is in no pair
    PATH  KIND  = PATH  KIND          an image and its mask; further masks of it follow after +
    PATH  KIND  ? PATH  KIND          a pair that may be found, but need not
    PATH  KIND  of PATH               a file in no pair that shows the same as another one
    outcome  ONE or ANOTHER           pairs (where nothing is said); numbered: pairs whose masks
                                      number objects; ask; import FORMAT; names WORD
    splits  6 train, 3 val            any, or how many pairs; where nothing is said, no test split

Braces hold what the files of a line differ in: `{01..12}` numbers, `{a,b}` words. Several braces
of a line count together, and `{}` repeats the one before. `KIND` is a word of `PIXELS` below,
often with a number of classes; or `text:` and what the file holds.
"""

import gzip
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

TABLE = Path(__file__).with_name("layouts.txt")
SIZES = ((40, 48), (48, 48), (40, 56))
COLOURS = np.array(
    [(0, 0, 0), (0, 255, 0), (255, 0, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)],
    np.uint8,
)
PHOTOS = {"rgb", "scan", "dark", "grey", "rgba", "palette-photo", "uint16", "float", "bands"}


@dataclass
class Layout:
    """A folder: its files, and what is to become of them.

    Attributes:
        name: One word.
        what: What it is.
        files: Path → kind, and the scene that it shows.
        pairs: Image → its masks.
        optional: Pairs that may be found, but need not.
        outcomes: What may come of it.
        splits: How many pairs are in each, or nothing; None where any is as good.
        lines: The lines of the table.
    """

    name: str
    what: str
    files: dict[str, tuple[str, str]] = field(default_factory=dict)
    pairs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    optional: dict[str, tuple[str, ...]] = field(default_factory=dict)
    outcomes: tuple[str, ...] = ("pairs",)
    splits: dict[str, int] | None = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def read_table(text: str) -> list[Layout]:
    """The layouts of the table, in its order."""
    layouts: list[Layout] = []
    for line in filter(str.strip, text.splitlines()):
        if head := re.fullmatch(r"\[(\S+)\] +(.+)", line):
            layouts.append(Layout(head[1], head[2]))
        elif not line.startswith("#"):
            layouts[-1].lines.append(line.strip())
            _read_line(layouts[-1], line.strip())
    return layouts


def _read_line(layout: Layout, line: str) -> None:
    word, _, rest = line.partition("  ")
    if line == "sizes differ":
        return
    if word == "outcome":
        layout.outcomes = tuple(rest.strip().split(" or "))
    elif word == "splits":
        counts = re.findall(r"(\d+) (\w+)", rest)
        layout.splits = {split: int(n) for n, split in counts} if counts else None
    else:
        for row in expand(line):
            _read_row(layout, re.split(r" {2,}", row))


def expand(line: str) -> Iterator[str]:
    """The lines that one with braces stands for.

    >>> list(expand("a/{08..10}.png = b/{}_{x,y,z}.png"))[1:]
    ['a/09.png = b/09_y.png', 'a/10.png = b/10_z.png']
    """
    line, colon, text = line.partition("  text:")  # braces of a text are its own
    parts = re.split(r"\{([^{}]*)\}", line)
    values: list[list[str]] = []
    for inside in parts[1::2]:
        ends = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
        numbers = range(int(ends[1]), int(ends[2]) + 1) if ends else ()
        width = len(ends[1]) if ends else 0
        values.append([f"{n:0{width}}" for n in numbers] or inside.split(","))
        if not inside:
            values[-1] = values[-2]
    for chosen in zip(*values, strict=True) if values else [()]:
        row = (head + tail for head, tail in zip(parts[::2], (*chosen, ""), strict=True))
        yield "".join(row) + colon + text


def _read_row(layout: Layout, fields: list[str]) -> None:
    path, kind, *more = fields
    scene = path
    if more and more[0].startswith("of "):
        scene = more.pop(0).removeprefix("of ")
    layout.files[path] = kind, scene
    masks = tuple(text[2:] for text in more[::2])
    for mask, mask_kind in zip(masks, more[1::2], strict=True):
        layout.files[mask] = mask_kind, scene
    if masks:
        pairs = layout.optional if more[0].startswith("?") else layout.pairs
        pairs[path] = masks


def draw(layout: Layout, root: Path) -> Path:
    """Draw the files of a layout below `root`; files of one scene show the same blobs."""
    for path, (kind, scene) in layout.files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        what, _, more = kind.partition(":")
        if what == "text":
            file.write_text(more.encode().decode("unicode_escape"), encoding="utf-8")
        else:
            size = SIZES[crc32(scene.encode()) % 3 if "sizes differ" in layout.lines else 0]
            write(file, PIXELS[what](Scene(f"{layout.name}/{scene}", size), int(more or 0)))
    return root


class Scene:
    """Blobs of three classes on a textured ground, float and integer arrays H×W."""

    def __init__(self, name: str, size: tuple[int, int]) -> None:
        self.rng = np.random.default_rng(crc32(name.encode()))
        rows, columns = np.mgrid[: size[0], : size[1]]
        self.objects = np.zeros(size, np.uint8)
        for number in range(1, int(self.rng.integers(6, 9))):
            at = self.rng.uniform(0.1, 0.9, 2) * size
            radii = self.rng.uniform(0.08, 0.16, 2) * min(size)
            inside = np.hypot((rows - at[0]) / radii[0], (columns - at[1]) / radii[1]) < 1
            self.objects[inside] = number
        self.classes = np.where(self.objects, (self.objects - 1) % 3 + 1, 0).astype(np.uint8)
        texture = gaussian_filter(self.rng.standard_normal(size), 2) + self.noise(0.3)
        self.tone = np.clip(
            0.3 + 0.1 * texture + np.array([0, 0.3, 0.42, 0.54])[self.classes], 0, 1
        )
        self.outlines = np.hypot(*np.gradient(self.objects.astype(float))) > 0
        across = np.hypot(rows - size[0] / 2, columns - size[1] / 2)
        self.disc = across < (0.47 + self.rng.uniform(-0.01, 0.01)) * min(size)

    def noise(self, deviation: float) -> NDArray[np.float64]:
        return self.rng.standard_normal(self.objects.shape) * deviation

    @property
    def area(self) -> NDArray[np.bool_]:
        return self.objects > 0


def _white(area: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(area * 255, np.uint8)


def _rgb(scene: Scene) -> NDArray[np.uint8]:
    tints = np.array([(1, 0.95, 0.8), (0.8, 1.1, 0.8), (1.15, 0.8, 0.75), (0.75, 0.85, 1.15)])
    return np.asarray(np.clip(scene.tone[..., None] * tints[scene.classes], 0, 1) * 255, np.uint8)


def _scan(scene: Scene) -> NDArray[np.uint8]:
    ink = (np.indices(scene.area.shape)[0] % 7 < 2) & (scene.rng.random(scene.area.shape) < 0.35)
    return np.repeat(np.where(ink, 30, np.where(scene.area, 228, 255))[..., None], 3, -1).astype(
        "u1"
    )


def _overlay(scene: Scene) -> NDArray[np.uint8]:
    red = np.where(scene.area[..., None], np.array([128, 0, 0]), 0)
    return np.asarray(_rgb(scene) * np.where(scene.area[..., None], 0.5, 1) + red, np.uint8)


def _bands(scene: Scene, count: int) -> NDArray[np.uint16]:
    bands = [scene.tone * (900 + 300 * band) + abs(scene.noise(40)) for band in range(count)]
    return np.stack(bands, -1).astype(np.uint16)


def _objects_in_colours(scene: Scene) -> NDArray[np.uint8]:
    table = scene.rng.integers(40, 255, (9, 3), np.uint8)
    return np.asarray(np.where(scene.area[..., None], table[scene.objects], 0), np.uint8)


def _soft(scene: Scene) -> NDArray[np.uint8]:
    return np.asarray(gaussian_filter(_white(scene.area).astype(float), 0.7), np.uint8)


def _prediction(scene: Scene) -> NDArray[np.uint8]:
    shifted = np.roll(scene.area, (2, 1), (0, 1)) * 0.8
    return np.asarray(np.clip(shifted + abs(scene.noise(0.05)), 0, 1) * 255, np.uint8)


def _palette(indexes: NDArray[Any], colours: NDArray[Any]) -> Image.Image:
    image = Image.fromarray(indexes.astype(np.uint8), "P")
    image.putpalette(colours.astype(np.uint8).ravel().tolist())
    return image


GREYS = np.repeat(np.arange(256)[:, None], 3, 1)
PIXELS: dict[str, Callable[[Scene, int], Any]] = {
    "rgb": lambda s, _: _rgb(s),
    "scan": lambda s, _: _scan(s),
    "dark": lambda s, _: np.asarray(s.tone * 36, np.uint8),
    "grey": lambda s, _: np.asarray(s.tone * 255, np.uint8),
    "rgba": lambda s, _: np.dstack([_rgb(s), np.full(s.area.shape, 255, np.uint8)]),
    "palette-photo": lambda s, _: _palette(s.tone * 255, GREYS),
    "uint16": lambda s, _: np.asarray(s.tone * 4000 + 200, np.uint16),
    "float": lambda s, _: s.tone.astype(np.float32),
    "bands": _bands,
    "pages": lambda s, n: np.stack([np.asarray(s.tone * (255 - p), np.uint8) for p in range(n)]),
    "mask": lambda s, _: _white(s.area),
    "mask01": lambda s, _: s.area.astype(np.uint8),
    "mask16": lambda s, _: s.area.astype(np.uint16) * 65535,
    "mask-bit": lambda s, _: Image.fromarray(s.area),
    "mask-rgb": lambda s, _: np.dstack([_white(s.area)] * 3),
    "mask-rgba": lambda s, _: np.dstack([*[_white(s.area)] * 3, np.full(s.area.shape, 255, "u1")]),
    "mask-palette": lambda s, _: _palette(s.area, COLOURS[[0, 0]] + GREYS[[0, 255]]),
    "mask-pages": lambda s, n: np.stack([_white(s.area)] * n),
    "inverted": lambda s, _: _white(~s.area),
    "soft": lambda s, _: _soft(s),
    "empty": lambda s, _: np.zeros(s.area.shape, np.uint8),
    "greys": lambda s, _: np.array([0, 128, 255, 128], np.uint8)[s.classes],
    "index": lambda s, n: s.classes % n,
    "index1": lambda s, n: s.classes % n + 1,
    "ignore": lambda s, n: np.where(s.outlines, 255, s.classes % n).astype(np.uint8),
    "palette": lambda s, n: _palette(s.classes % n, COLOURS),
    "colours": lambda s, n: COLOURS[s.classes % n],
    "trimap": lambda s, _: np.where(s.outlines, 3, np.where(s.area, 1, 2)).astype(np.uint8),
    "class": lambda s, n: _white(s.classes == n),
    "object": lambda s, n: _white(s.objects == n),
    "objects": lambda s, _: s.objects,
    "objects16": lambda s, _: s.objects.astype(np.uint16),
    "objects-rgb": lambda s, _: _objects_in_colours(s),
    "fov": lambda s, _: _white(s.disc),
    "second": lambda s, _: _white(np.roll(s.area, (1, 0), (0, 1))),
    "prediction": lambda s, _: _prediction(s),
    "overlay": lambda s, _: _overlay(s),
    "edges": lambda s, _: _white(s.outlines),
    "depth": lambda s, _: np.asarray(1000 + 70 * np.indices(s.area.shape)[0] - 300 * s.area, "u2"),
}


def write(path: Path, pixels: Any) -> None:
    """Write an array H×W or H×W×C, or an image with a palette, in the format of the suffix."""
    suffix = path.suffix.lower()
    if suffix in {".npy", ".gz"}:
        with path.open("wb") if suffix == ".npy" else gzip.open(path, "wb") as file:
            np.save(file, np.asarray(pixels))
    elif suffix in {".tif", ".tiff"} and isinstance(pixels, np.ndarray):
        photometric = "rgb" if pixels.ndim == 3 and pixels.shape[2] in (3, 4) else "minisblack"
        planar = "contig" if pixels.ndim == 3 and pixels.shape[2] < 16 else None
        tifffile.imwrite(path, pixels, photometric=photometric, planarconfig=planar, metadata=None)
    else:
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        if suffix in {".jpg", ".jpeg"}:
            image.convert("L" if image.mode in "1L" else "RGB").save(path, quality=92)
        elif suffix == ".gif" and image.mode != "L":
            image.quantize(64).save(path)
        else:
            image.save(path)
