"""What the tests of importers begin with: image files, base64, and masks as they come out."""

import base64
import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from unetseg.data.masks.mask_file import read_mask
from unetseg.data.pairs.match import find_pairs
from unetseg.errors import DataError
from unetseg.importers.annotations import AnnotatedImage, Annotations
from unetseg.importers.importing import Imported, import_dataset

Mask = NDArray[np.uint8]


def picture(size: tuple[int, int], kind: str = "PNG", orientation: int = 1) -> bytes:
    """The content of an image file of noise, `size` being height and width as stored."""
    memory, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(noise).save(memory, kind, **({"exif": exif} if orientation > 1 else {}))
    return memory.getvalue()


def photo(path: Path, size: tuple[int, int], orientation: int = 1) -> Path:
    """An image file of the format that its suffix says."""
    kind = {".jpg": "JPEG", ".bmp": "BMP"}.get(path.suffix, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(size, kind, orientation))
    return path


def png_base64(pixels: NDArray[Any]) -> str:
    """A PNG of these pixels, in base64."""
    memory = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(memory, "PNG")
    return base64.b64encode(memory.getvalue()).decode()


def draw(image: AnnotatedImage, size: tuple[int, int]) -> Mask:
    """The mask of an image, before it is written."""
    assert callable(image.mask)
    return np.asarray(image.mask(*size))


def problems_of(answer: Annotations | DataError) -> list[str]:
    """What is wrong, one line each."""
    return answer.offenders if isinstance(answer, DataError) else [*map(str, answer.problems)]


def masks_in(out: Path) -> dict[str, NDArray[Any]]:
    """The masks of a folder of pairs by their names."""
    return {pair.name: read_mask(pair.mask).pixels for pair in find_pairs(out).pairs if pair.mask}


def splits_in(out: Path) -> dict[str, str | None]:
    """The split of each pair of a folder."""
    return {pair.name: pair.split for pair in find_pairs(out).pairs}


# Brushes of Label Studio: `encode` follows the README of thi.ng/rle-pack ("Encoding format") and
# its index.ts, runs of equal words and lists of words between them; `encode_alone` follows the
# other writer in use, `encode_rle` of label-studio-converter: lone words are lists of one.

LENGTHS = (3, 4, 8, 16)
"""Sizes of run lengths, bits."""


def header(count: int, size: int, sizes: Sequence[int]) -> str:
    return f"{count:032b}{size - 1:05b}" + "".join(f"{length - 1:04b}" for length in sizes)


def piece(is_run: int, words: Sequence[int], size: int, sizes: Sequence[int]) -> str:
    """One run (its words are equal) or list."""
    length = len(words) - 1
    group = next(i for i, bits in enumerate(sizes) if length < 1 << bits)
    shown = words[:1] if is_run else words
    return f"{is_run}{group:02b}{length:0{sizes[group]}b}" + "".join(
        f"{word:0{size}b}" for word in shown
    )


def parts(words: Sequence[int], limit: int) -> list[Sequence[int]]:
    return [words[i : i + limit] for i in range(0, len(words), limit)]


def to_bytes(bits: str) -> list[int]:
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def encode(words: Sequence[int], size: int = 8, sizes: Sequence[int] = LENGTHS) -> list[int]:
    bits, lone, limit = header(len(words), size, sizes), [], 1 << sizes[3]
    for _, group in groupby(words):
        run = list(group)
        if len(run) == 1:
            lone += run
            continue
        bits += "".join(piece(0, part, size, sizes) for part in parts(lone, limit))
        bits += "".join(piece(1, part, size, sizes) for part in parts(run, limit))
        lone = []
    return to_bytes(bits + "".join(piece(0, part, size, sizes) for part in parts(lone, limit)))


def encode_alone(words: Sequence[int]) -> list[int]:
    bits = header(len(words), 8, LENGTHS)
    for _, group in groupby(words):
        for part in parts(list(group), 1 << 16):
            bits += piece(int(len(part) > 1), part, 8, LENGTHS)
    return to_bytes(bits)


def canvas(alpha: NDArray[np.uint8]) -> list[int]:
    """The words of an RGBA canvas with this alpha and colours that mean nothing."""
    colours = np.broadcast_to(np.array([200, 0, 90], np.uint8), (*alpha.shape, 3))
    return list(np.dstack([colours, alpha]).ravel().tolist())


# Rectangles on images, as each format writes them

SIZE = (40, 60)
"""Height and width of the images."""
Boxes = Sequence[tuple[str, tuple[int, int, int, int]]]
"""The class, left, top, right and bottom (not included) of rectangles, the lowest first."""
BOXES: Boxes = [("cat", (4, 5, 40, 30)), ("dog", (20, 10, 36, 24))]


def truth(boxes: Boxes = BOXES, classes: Sequence[str] = ("cat", "dog")) -> Mask:
    """The mask of rectangles, the classes being 1, 2, …"""
    mask = np.zeros(SIZE, np.uint8)
    for name, (left, top, right, bottom) in boxes:
        mask[top:bottom, left:right] = classes.index(name) + 1
    return mask


def corners(box: tuple[int, int, int, int]) -> list[list[int]]:
    left, top, right, bottom = box
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def yolo_text(boxes: Boxes, classes: Sequence[str] = ("cat", "dog")) -> str:
    """The lines of a label file."""
    lines = []
    for name, box in boxes:
        shares = [f"{x / SIZE[1]:.6f} {y / SIZE[0]:.6f}" for x, y in corners(box)]
        lines.append(f"{classes.index(name)} {' '.join(shares)}\n")
    return "".join(lines)


def write(path: Path, content: str | bytes) -> Path:
    """A file with the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def imported(kind: str | None, tmp_path: Path, **more: Any) -> Imported:
    """What the import of tmp_path/src writes to tmp_path/out."""
    return import_dataset(kind, tmp_path / "src", tmp_path / "out", **more)


def wrong(kind: str, tmp_path: Path, **more: Any) -> str:
    """The error of an import that cannot succeed."""
    with pytest.raises(DataError) as caught:
        imported(kind, tmp_path, **more)
    return str(caught.value)


def only_mask(tmp_path: Path) -> Mask:
    """The mask of the one pair in tmp_path/out."""
    (mask,) = masks_in(tmp_path / "out").values()
    return mask
