"""The fields of view of fundus photographs that came without: DRIVE as many mirrors have it.

    python -m benchmarks.fields_of_view DATA COPY

COPY is DATA with fov/ beside its images and masks, which `unetseg eval` finds: 255 where the eye
is. Pairs that have a field of view keep it.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DARK = 20
"""Brightest value, of 255, around the eye; in DRIVE's corners 13 is the 99th percentile."""


def field_of_view(image: NDArray[Any]) -> NDArray[np.bool_]:
    """Where the eye is: the largest bright area of an image H×W×C, with its holes; H×W."""
    from scipy import ndimage

    areas, _ = ndimage.label(image.max(axis=-1) > DARK)
    largest = np.bincount(areas.ravel())[1:].argmax() + 1
    return np.asarray(ndimage.binary_fill_holes(areas == largest))


def main(data: Path, copy: Path) -> None:
    """Copy a folder of pairs, and draw the fields of view that it lacks."""
    from unetseg.data.files.image import read_image
    from unetseg.data.pairs.match import find_pairs

    shutil.copytree(data, copy)
    for pair in find_pairs(copy).pairs:
        if pair.region is None:
            file = copy / "fov" / f"{pair.name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.uint8(255) * field_of_view(read_image(pair.image))).save(file)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
