"""Masks and pictures beside images are told from them; a folder of images stays whole."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.builders import blotches
from unetseg.data.files.folders import scan
from unetseg.data.pairs.beside import files_beside
from unetseg.errors import ImageError

NUMBERS = range(3)


def draw(root: Path, files: Mapping[str, str]) -> Path:
    """Photos and masks, three of each name."""
    for name, kind in files.items():
        for number in NUMBERS:
            photo = blotches(64, 64, seed=number)
            mask = np.uint8(255) * (np.hypot(*np.mgrid[-30:34, -30:34]) < 12 + 4 * number)
            path = root / name.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo if kind == "photo" else mask.astype(np.uint8)).save(path)
    return root


def beside(root: Path) -> set[str]:
    paths = scan(root, ImageError)
    return {path.relative_to(root).as_posix() for path in files_beside(root, paths)}


@pytest.mark.parametrize(
    "files",
    [
        {"a{}.png": "photo", "a{}_mask.png": "mask"},
        {"images/a{}.jpg": "photo", "masks/a{}.png": "mask"},
        {"train/images/a{}.jpg": "photo", "train/masks/a{}.png": "mask", "test/b{}.jpg": "photo"},
        {"a{}.png": "photo", "old/a{}.png": "mask"},  # an earlier output
        {"a{}.png": "photo", "results/a{}.png": "mask", "results/a{}_overlay.png": "photo"},
        {"a{}.jpg": "photo", "a{}.png": "mask"},
        {"a{}.png": "photo", "a{}_m1.png": "mask", "a{}_m2.png": "mask"},  # masks that compete
        {"{}/images/q.png": "photo", "{}/masks/u.png": "mask", "{}/masks/v.png": "mask"},
        {"im/im{}.png": "photo", "masks/im{}/1.png": "mask", "masks/im{}/2.png": "mask"},
    ],
)
def test_masks_and_outputs_are_told(tmp_path: Path, files: dict[str, str]) -> None:
    draw(tmp_path, files)
    expected = {
        name.format(number)
        for name, kind in files.items()
        for number in NUMBERS
        if kind == "mask" or "overlay" in name
    }
    assert beside(tmp_path) == expected


@pytest.mark.parametrize(
    "files",
    [
        {"IMG_{}.png": "photo"},
        {"site1/{}.png": "photo", "site2/{}.png": "photo"},
        {"a{}.png": "photo", "a{}.jpg": "photo"},
        {"x{}_rgb.png": "photo", "x{}_nir.png": "photo"},
        {"masks/{}.png": "mask"},  # a folder of masks alone was meant
        {"plan{}.png": "photo", "site map {}.png": "photo"},
        {"results/{}.png": "photo", "more/day 7{}.png": "photo"},  # of other images
    ],
)
def test_a_folder_of_images_stays_whole(tmp_path: Path, files: dict[str, str]) -> None:
    assert beside(draw(tmp_path, files)) == set()
