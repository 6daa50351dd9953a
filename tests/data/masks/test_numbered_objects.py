"""What samples show: numbered objects, and classes that are one blob each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from unetseg.data.files.pngs import write_png
from unetseg.data.pairs.content import look_at


def draw(path: Path, blobs: Sequence[tuple[int, float, float, float]], colours: bool) -> Path:
    """A mask with discs: value, and centre and radius as shares of the sides."""
    y, x = np.mgrid[:96, :96] / 96
    mask = np.zeros((96, 96), np.uint8)
    for value, row, column, radius in blobs:
        mask[np.hypot(y - row, x - column) < radius] = value
    table: NDArray[np.uint8] = np.random.default_rng(len(path.stem)).integers(
        0, 256, (256, 3), dtype=np.uint8
    )
    table[0] = 0
    write_png(path, table[mask] if colours else mask)
    return path


def cells(rng: np.random.Generator, count: int) -> list[tuple[int, float, float, float]]:
    """Discs of one size on a grid, numbered in any order."""
    spots = rng.permutation(49)[:count]
    return [(i + 1, (s // 7 + 0.7) / 8.4, (s % 7 + 0.7) / 8.4, 0.05) for i, s in enumerate(spots)]


FACE = [(1, 0.5, 0.5, 0.4), (2, 0.5, 0.5, 0.05), (3, 0.7, 0.5, 0.06), (4, 0.35, 0.35, 0.05)]
FACE += [(5, 0.35, 0.65, 0.05), (6, 0.28, 0.35, 0.04), (7, 0.28, 0.65, 0.04), (8, 0.15, 0.5, 0.05)]


@pytest.mark.parametrize("colours", [False, True])
def test_objects_that_each_file_numbers_anew(tmp_path: Path, colours: bool) -> None:
    rng = np.random.default_rng(0)
    names = [tmp_path / f"{'x' * i}.png" for i in range(1, 7)]
    files = [draw(name, cells(rng, int(rng.integers(5, 20))), colours) for name in names]
    assert look_at(files).numbered


@pytest.mark.parametrize("absent", [(), (8,), (4, 8), (6, 7, 8), (5,)])
def test_classes_that_are_one_blob_each_are_no_objects(
    tmp_path: Path, absent: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(1)
    files = []
    for i in range(6):
        shift, shown = rng.normal(0, 0.03, 2), [] if i % 3 else absent
        face = [(v, r + shift[0], c + shift[1], s) for v, r, c, s in FACE if v not in shown]
        files.append(draw(tmp_path / f"{i}.png", face, colours=False))
    assert not look_at(files).numbered


def test_classes_by_colour_come_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    files = []
    for i in range(6):
        chosen = rng.permutation(np.arange(1, 13))[:5]
        blobs = [(int(v), *spot[1:]) for v, spot in zip(chosen, cells(rng, 5), strict=True)]
        files.append(draw(tmp_path / f"{i}.png", blobs, colours=True))
    assert not look_at(files).numbered
