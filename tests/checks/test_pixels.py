"""Each fault of the pixels in a folder of its own is named; a good folder has none."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from unetseg.checks.evidence import Evidence
from unetseg.checks.finding import Finding
from unetseg.checks.pixels import inspect_pixels
from unetseg.data.facts.fingerprint import PairFacts, describe_pairs
from unetseg.data.files.geotiff import write_geotiff
from unetseg.data.files.images import read_image, write_png
from unetseg.data.pairs.match import find_pairs
from unetseg.data.sample import draw_sample

Array = NDArray[Any]
COUNT = 6


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sample(tmp_path_factory.mktemp("data") / "sample", count=COUNT, size=64)


@pytest.fixture
def data(sample: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample, tmp_path / "photos"))


def image(data: Path, number: int) -> Path:
    (path,) = (data / "images").glob(f"cells_{number:03d}.*")
    return path


def spoil(
    data: Path,
    change: Callable[[Array], Array],
    *numbers: int,
    nodata: float | None = None,
) -> list[str]:
    """Change some images, all without `numbers`; their paths as TIFF."""
    paths = []
    for number in numbers or range(COUNT):
        pixels = change(read_image(image(data, number)).copy())
        image(data, number).unlink()
        paths.append(data / "images" / f"cells_{number:03d}.tif")
        write_geotiff(paths[-1], pixels, nodata=nodata)
    return [str(path) for path in paths]


def findings(data: Path) -> list[Finding]:
    pairs = find_pairs(data).pairs
    facts = [fact for fact in describe_pairs(pairs) if isinstance(fact, PairFacts)]
    assert len(facts) == len(pairs)
    return list(inspect_pixels(Evidence(data, pairs, tuple(facts))))


def only(data: Path, check: str, severity: str) -> Finding:
    """The one finding there is."""
    (found,) = findings(data)
    assert (found.check, found.severity) == (check, severity)
    assert found.fix or severity == "note"
    return found


def with_value(value: float) -> Callable[[Array], Array]:
    """The pixels as float32, 16 of 64 rows (a quarter) with a value."""

    def change(pixels: Array) -> Array:
        pixels = pixels.astype(np.float32)
        pixels[:16] = value
        return pixels

    return change


def test_a_good_folder_has_no_finding(data: Path) -> None:
    assert findings(data) == []
    assert list(inspect_pixels(Evidence(data, (), ()))) == []


# ------------------------------------------------------------------ numbers


def test_nan_and_infinity_are_an_error(data: Path) -> None:
    spoil(data, lambda pixels: pixels.astype(np.float32))
    paths = spoil(data, with_value(np.nan), 1) + spoil(data, with_value(np.inf), 4)
    found = only(data, "nan-pixels", "error")
    assert found.files == tuple(f"{path}: 1024 pixels" for path in paths)
    assert found.summary == "2 images with NaN or infinite pixels"


def test_nan_that_is_declared_is_no_error(data: Path) -> None:
    spoil(data, lambda pixels: pixels.astype(np.float32))
    spoil(data, with_value(np.nan), 2, nodata=np.nan)
    assert [finding.check for finding in findings(data)] == ["no-data"]


def test_images_of_another_type_or_bands_are_an_error(data: Path) -> None:
    paths = spoil(data, lambda pixels: pixels.astype(np.uint16) * 100, 0)
    paths += spoil(data, lambda pixels: np.dstack([pixels, pixels[..., :2]]), 5)
    found = only(data, "image-kinds", "error")
    assert found.files == (
        f"{paths[0]} is uint16 with 3 bands",
        f"{paths[1]} is uint8 with 5 bands",
    )
    assert "differ" in found.summary
    assert "most are uint8 with 3 bands" in found.summary


def test_grey_among_colour_is_a_note(data: Path) -> None:
    paths = spoil(data, lambda pixels: pixels[..., :1], 1, 3)
    assert only(data, "grey-among-colour", "note").files == tuple(paths)


def test_all_grey_is_fine(data: Path) -> None:
    spoil(data, lambda pixels: pixels[..., :1])
    assert findings(data) == []


# ------------------------------------------------------------------ nothing to see


def test_images_of_one_colour_are_a_warning(data: Path) -> None:
    (black,) = spoil(data, lambda pixels: pixels * 0, 0)
    (violet,) = spoil(data, lambda pixels: pixels * 0 + np.array([90, 0, 90], np.uint8), 1)
    found = only(data, "constant-image", "warning")
    assert found.files == (f"{black}: all pixels are 0", f"{violet}: all pixels are 90, 0")


def test_an_image_without_any_data_has_one_colour(data: Path) -> None:
    spoil(data, lambda pixels: pixels.astype(np.float32))
    (path,) = spoil(data, lambda pixels: pixels * 0 - 9999, 3, nodata=-9999)
    found = {finding.check: finding for finding in findings(data)}
    assert set(found) == {"constant-image", "no-data"}
    assert found["constant-image"].files == (f"{path}: no pixel has data",)


def without_green(pixels: Array) -> Array:
    pixels[..., 1] = 7
    return pixels


def test_a_band_that_failed_in_few_images_is_a_warning(data: Path) -> None:
    paths = spoil(data, without_green, 2)
    found = only(data, "constant-band", "warning")
    assert found.files == (f"{paths[0]}: band 2",)


def test_a_band_that_is_often_empty_is_a_note(data: Path) -> None:
    spoil(data, without_green, 0, 2, 4)
    assert len(only(data, "constant-band", "note").files) == 3


def test_a_band_that_is_never_used_is_a_note(data: Path) -> None:
    spoil(data, without_green)
    assert only(data, "unused-band", "note").summary.startswith("band 2 without content")


# ------------------------------------------------------------------ no data


def test_declared_no_data_is_a_note(data: Path) -> None:
    spoil(data, lambda pixels: pixels.astype(np.float32))
    paths = spoil(data, with_value(-9999), 0, 1, 2, nodata=-9999)
    found = only(data, "no-data", "note")
    assert found.files == tuple(f"{path}: 25.0% of the pixels are -9999" for path in paths)
    assert found.summary == "12.5% of the pixels have no data, in 3 images"


@pytest.mark.parametrize("value", [-9999.0, -32768.0, float(np.finfo(np.float32).min)])
def test_undeclared_no_data_is_a_warning(data: Path, value: float) -> None:
    spoil(data, lambda pixels: pixels.astype(np.float32))
    paths = spoil(data, with_value(value), 0, 5)
    found = only(data, "undeclared-no-data", "warning")
    assert found.files == tuple(f"{path}: 25.0% of the pixels" for path in paths)
    assert f"{value:g}" in found.summary


def test_each_fill_value_is_a_finding(data: Path) -> None:
    spoil(data, lambda pixels: pixels.astype(np.float32))
    spoil(data, with_value(-9999), 0)
    spoil(data, with_value(65535), 1)
    assert [(finding.check, len(finding.files)) for finding in findings(data)] == [
        ("undeclared-no-data", 1)
    ] * 2


# ------------------------------------------------------------------ saturation


def overexposed(pixels: Array) -> Array:
    """The brightest quarter of each band at 255."""
    level = np.quantile(pixels, 0.75, axis=(0, 1))
    bright: Array = (pixels * (255 / level)).clip(0, 255).astype(np.uint8)
    return bright


def test_few_saturated_images_are_a_warning(data: Path) -> None:
    (path,) = spoil(data, overexposed, 3)
    found = only(data, "saturated", "warning")
    assert found.files[0].startswith(f"{path}: 2")


def test_where_many_are_saturated_it_is_a_note(data: Path) -> None:
    spoil(data, overexposed, 0, 1, 2)
    assert len(only(data, "saturated", "note").files) == 3


def test_saturation_of_sixteen_bits_is_seen_wherever_it_is(data: Path) -> None:
    spoil(data, lambda pixels: pixels.astype(np.uint16) * 16)
    spoil(data, lambda pixels: overexposed(pixels // 16).astype(np.uint16) * 16, 0)
    only(data, "saturated", "warning")  # at 4080, far from the top of the type


def test_few_levels_are_no_saturation(data: Path) -> None:
    spoil(data, lambda pixels: pixels // 100)
    assert findings(data) == []


def test_a_fill_value_is_no_saturation(data: Path) -> None:
    spoil(data, lambda pixels: pixels.astype(np.float32))
    spoil(data, with_value(65535), 2)
    only(data, "undeclared-no-data", "warning")


# ------------------------------------------------------------------ real folders


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("drive", [("saturated", "warning", 2)]),
        ("hot_buildings_geotiff", []),
        ("isbi2012_em", []),
        ("nucseg_16bit", []),
        ("sen1floods11_sample", []),
        ("sen1floods11_tiles13band", []),
        ("tiny_ade20k", []),
        ("tiny_kvasir_jpgmask", []),
        ("tiny_voc_palette", []),
    ],
)
def test_real_folders(real_data: Path, name: str, expected: list[tuple[str, str, int]]) -> None:
    found = findings(real_data / name)
    assert [(one.check, one.severity, len(one.files)) for one in found] == expected


def test_the_sky_of_street_scenes_is_a_note(real_data: Path, tmp_path: Path) -> None:
    for side in ("images", "masks"):
        (tmp_path / side).mkdir()
        for path in sorted((real_data / "camvid" / side / "train").glob("0006R0*"))[:6]:
            shutil.copy(path, tmp_path / side)
    only(tmp_path, "saturated", "note")


def test_alpha_and_palettes_are_no_finding(data: Path) -> None:
    pixels = read_image(image(data, 0))
    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    write_png(image(data, 0), opaque)
    spoil(data, lambda pixels: pixels, 1)
    Image.open(image(data, 2)).quantize(250).save(image(data, 2))
    assert findings(data) == []
