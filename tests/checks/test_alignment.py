"""Shifted, mirrored and single misplaced masks are found; masks that fit are not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unetseg.checks.alignment import REACH, Agreement, agreement, inspect_alignment
from unetseg.data.facts.survey import Survey, survey
from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.sample import draw_cells, draw_sample


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sample(tmp_path_factory.mktemp("sample"), count=8, size=192)


def _changed(
    known: Survey,
    folder: Path,
    change: Callable[[int, NDArray[np.generic]], NDArray[np.generic]],
) -> Survey:
    """The first 16 pairs with changed masks, `change(number, pixels)`."""
    pairs = []
    for number, pair in enumerate(known.pairs.pairs[:16]):
        assert pair.mask is not None
        mask = np.ascontiguousarray(change(number, read_mask(pair.mask).pixels))
        write_tiff(folder / f"{number:03d}.tif", mask)
        pairs.append(replace(pair, mask=folder / f"{number:03d}.tif"))
    return replace(known, pairs=replace(known.pairs, pairs=tuple(pairs)))


def measured(image: NDArray[Any], index: NDArray[np.uint8]) -> Agreement:
    found = agreement(image, index)
    assert found is not None
    return found


@pytest.mark.parametrize("offset", [(4, 8), (-7, 0), (0, -12), (9, -5)])
def test_the_offset_of_a_shifted_mask_is_measured(offset: tuple[int, int]) -> None:
    image, mask = draw_cells(192, seed=0, index=0)
    fitting = measured(image, mask // 255)
    shifted = measured(image, np.roll(mask // 255, offset, (0, 1)))
    assert fitting.distance <= 1
    assert max(abs(np.subtract(shifted.peak, offset))) <= 1
    assert shifted.clarity > 6


def test_agreement_is_the_mean_of_the_edge_under_the_outline() -> None:
    """Moved image and moved mask change places, and the outline of a step lies on the step."""
    image, mask = draw_cells(160, seed=1, index=0)
    by_mask = measured(image, np.roll(mask, (3, -6), (0, 1)) // 255)
    by_image = measured(np.roll(image, (-3, 6), (0, 1)), mask // 255)
    assert by_mask.peak == by_image.peak
    step = np.zeros((64, 64), np.uint8)
    step[:, 32:] = 1
    upright = measured(step[..., None] * 200, step)
    crossing = measured(step.T[..., None] * 200, step)
    assert upright.near(0, 0) > 10 * crossing.near(0, 0)  # across an edge, an outline is none


@pytest.mark.parametrize("size", [1, 2 * REACH, 40])
def test_a_mask_without_outline_cannot_be_judged(size: int) -> None:
    image = np.zeros((size, size, 3), np.uint8)
    assert agreement(image, np.zeros((size, size), np.uint8)) is None
    assert agreement(image, np.full((size, size), 255, np.uint8)) is None


@pytest.mark.long
def test_masks_that_fit_are_no_finding(sample: Path) -> None:
    assert list(inspect_alignment(survey(sample))) == []


def test_shifted_masks_are_told_with_their_offset(sample: Path, tmp_path: Path) -> None:
    known = _changed(survey(sample), tmp_path, lambda _, mask: np.roll(mask, (4, 8), (0, 1)))
    (finding,) = inspect_alignment(known)
    assert (finding.check, finding.severity) == ("shifted-masks", "warning")
    assert "8 px right of and 4 px below the edges" in finding.summary
    assert "of the 8 pairs" in finding.summary
    assert len(finding.files) == 8


def test_a_single_shifted_mask_is_named(sample: Path, tmp_path: Path) -> None:
    known = _changed(
        survey(sample), tmp_path, lambda number, mask: np.roll(mask, -9 * (number == 5), axis=1)
    )
    (finding,) = inspect_alignment(known)
    assert (finding.check, finding.severity) == ("shifted-mask", "warning")
    (line,) = finding.files
    assert "005.tif" in line
    assert "9 px left of" in line


def test_mirrored_masks_are_told(sample: Path, tmp_path: Path) -> None:
    known = _changed(survey(sample), tmp_path, lambda _, mask: mask[::-1])
    (finding,) = inspect_alignment(known)
    assert (finding.check, finding.severity) == ("turned-masks", "warning")
    assert "upside down" in finding.summary


def test_masks_that_are_too_wide_are_not_shifted(sample: Path, tmp_path: Path) -> None:
    def widen(_: int, mask: NDArray[np.generic]) -> NDArray[np.generic]:
        wide = [np.roll(mask, (d, r), (0, 1)) for d in range(-4, 5) for r in range(-4, 5)]
        return np.asarray(np.max(wide, axis=0))

    found = inspect_alignment(_changed(survey(sample), tmp_path, widen))
    assert "shifted-masks" not in {finding.check for finding in found}


def test_a_file_that_is_gone_or_has_changed_is_left_to_other_checks(tmp_path: Path) -> None:
    draw_sample(tmp_path, count=5, size=96)
    known = survey(tmp_path)
    known.pairs.pairs[0].image.unlink()
    write_png(known.pairs.pairs[1].image, np.zeros((20, 30, 3), np.uint8))
    write_png(tmp_path / "masks" / "cells_002.png", np.full((96, 96), 7, np.uint8))
    assert list(inspect_alignment(known)) == []


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("camvid", "crackforest", "dsb2018")]


@pytest.mark.long
@pytest.mark.parametrize("name", ["drive", "glas256", "isbi2012_em", "nucseg_16bit", *SLOW])
def test_shifts_of_real_masks_are_found_and_the_originals_fit(
    real_data: Path, tmp_path: Path, name: str
) -> None:
    original = survey(real_data / name)
    assert list(inspect_alignment(original)) == []
    shifted = _changed(original, tmp_path, lambda _, mask: np.roll(mask, (-6, 9), (0, 1)))
    checks = [finding.check for finding in inspect_alignment(shifted)]
    assert checks == ["shifted-masks"]


@pytest.mark.long
@pytest.mark.parametrize("name", ["hot_buildings_geotiff", "sen1floods11_tiles13band"])
def test_other_real_masks_fit(real_data: Path, name: str) -> None:
    assert list(inspect_alignment(survey(real_data / name))) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_do_no_harm(value: float) -> None:
    image, mask = draw_cells(160, seed=0, index=1)
    wild = image.astype(np.float32)
    wild[:20, :20] = value
    shifted = measured(wild, np.roll(mask // 255, 6, axis=0))
    assert max(abs(np.subtract(shifted.peak, (6, 0)))) <= 1
    assert agreement(np.full_like(image, value, np.float32), mask // 255) is not None


def test_the_largest_floats_do_no_harm() -> None:
    image, mask = draw_cells(160, seed=0, index=1)
    huge = image.astype(np.float32) * np.float32(1e36)
    shifted = measured(huge, mask // 255)
    assert shifted.distance <= 1
