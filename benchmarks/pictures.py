"""Folders of images and masks of one size, for measurements.

The images of dsb2018 (nuclei in fluorescence) are laid side by side where UNETSEG_REAL_DATA names
the folder with the real data sets, else drawn samples are.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unetseg.data.files.folders import find_images
from unetseg.data.sample import draw_sample

SOURCE = 256
"""Side of the pieces that pictures are laid of, pixels."""
DARK = 80
"""Mean below which an image of dsb2018 is one in fluorescence; the others are stained tissue."""
SEED = 0
QUALITY = 95
"""Of JPEG files."""


class Piece(NamedTuple):
    """A square of `SOURCE` pixels."""

    image: NDArray[np.uint8]
    """H×W×3."""
    mask: NDArray[np.uint8]
    """H×W, 0 and 255."""


def pieces(folder: Path, count: int) -> list[Piece]:
    """At most `count` squares; `folder` is for what must be drawn."""
    real = Path(os.environ.get("UNETSEG_REAL_DATA", "")) / "dsb2018"
    if os.environ.get("UNETSEG_REAL_DATA") and real.is_dir():
        found = (_piece(real, path) for path, _ in find_images([real / "images"]))
        dark = [piece for piece in found if piece.image.mean() < DARK]
        return dark[:count]
    sample = draw_sample(folder, count=min(count, 24), size=SOURCE, seed=SEED)
    return [_piece(sample, path) for path, _ in find_images([sample / "images"])]


def lay(folder: Path, squares: list[Piece], size: tuple[int, int], count: int, suffix: str) -> Path:
    """Write `count` pairs of `size` (height, width), laid of squares in an order drawn once.

    Returns:
        `folder`, with images/ and masks/.
    """
    order = _shuffled(len(squares))
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rows, columns = (-(-side // SOURCE) for side in size)
        chosen = [[squares[next(order)] for _ in range(columns)] for _ in range(rows)]
        image = np.block([[[piece.image] for piece in row] for row in chosen])
        mask = np.block([[piece.mask for piece in row] for row in chosen])
        stem = f"picture_{number:03}"
        pixels = Image.fromarray(image[: size[0], : size[1]])
        pixels.save(folder / "images" / f"{stem}{suffix}", quality=QUALITY)  # PNG ignores it
        Image.fromarray(mask[: size[0], : size[1]]).save(folder / "masks" / f"{stem}.png")
    return folder


def _shuffled(count: int) -> Iterator[int]:
    """The numbers below `count` in an order, then in another, without end."""
    rng = np.random.default_rng(SEED)
    while True:
        yield from rng.permutation(count).tolist()


def _piece(folder: Path, path: Path) -> Piece:
    image = np.asarray(Image.open(path).convert("RGB"))[:SOURCE, :SOURCE]
    mask = np.asarray(Image.open(folder / "masks" / path.name).convert("L"))[:SOURCE, :SOURCE]
    return Piece(image, mask)
