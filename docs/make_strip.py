"""Draws docs/images/strip.jpg: images that were held out, their truth, and what was predicted.

    python docs/make_strip.py DATA RUNS

Both folders hold, for each of `STRIP`, one of that name: the pairs, and the run that
docs/images/README.md says how to train.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import unetseg
from unetseg.data.masks.overlay import overlay

PICTURE = Path(__file__).with_name("images") / "strip.jpg"
COLUMNS = 2
SIDE, GAP, MARGIN = 256, 5, 30
"""Of a tile; between tiles; between threes of tiles and above them, pixels."""
COLOURS = np.array([(0, 0, 0), (0, 214, 232)])
"""Of background and objects."""
INK = (60, 60, 60)
OPACITY = 0.4
QUALITY = 80


class Shown(NamedTuple):
    """One image of the strip."""

    name: str
    """Of the folder of pairs, and of the run."""
    image: str
    """Beginning of the file's path below images/ and masks/."""
    side: int
    """Of the square at the top left that is shown, pixels."""
    title: str


STRIP = (
    Shown("dsb2018", "8c3ef7aa", 256, "nuclei, 8 bit"),
    Shown("dsb2018", "ed5be4b6", 256, "tissue, the same model"),
    Shown("nucseg_16bit", "kidney_40x_air_3", 256, "nuclei, 16 bit"),
    Shown("hot_buildings_geotiff", "val/OAM-1238425-1046547-21", 256, "roofs, GeoTIFF"),
)


def main(data: Path, runs: Path) -> None:
    """Draw the strip and write it."""
    threes = [tiles(data / shown.name, runs / shown.name, shown) for shown in STRIP]
    three = 3 * SIDE + 2 * GAP + MARGIN
    rows = -(-len(STRIP) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * three + MARGIN, rows * (SIDE + MARGIN) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    for number, shown in enumerate(STRIP):
        top = MARGIN + number // COLUMNS * (SIDE + MARGIN)
        left = MARGIN + number % COLUMNS * three
        titles = (shown.title, "truth", "prediction")
        for title, tile in zip(titles, threes[number], strict=True):
            pen.text((left, top - GAP), title, INK, font, anchor="ls")
            sheet.paste(tile, (left, top))
            left += SIDE + GAP
    sheet.save(PICTURE, quality=QUALITY, optimize=True)


def tiles(pairs: Path, run: Path, shown: Shown) -> list[Image.Image]:
    """The image, truth drawn over it, and the prediction drawn over it."""
    path, mask = (next((pairs / role).glob(f"{shown.image}*")) for role in ("images", "masks"))
    model = unetseg.load(run)
    truth, image, prediction = np.asarray(Image.open(mask)), model.read(path), model.predict(path)
    drawn = [
        overlay(image, (marked > 0).astype(np.uint8), COLOURS, OPACITY * shows, background=0)
        for marked, shows in ((truth * 0, 0), (truth, 1), (prediction, 1))
    ]
    square = (0, 0, shown.side, shown.side)
    return [Image.fromarray(tile).resize((SIDE, SIDE), box=square) for tile in drawn]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
