"""Masks in forms that other programs write: each is read as the numbers that viewers show."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.builders import write_geotiff
from unetseg.data.files.pages import MaskSet, image_hash
from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.masks.mask_file import NOWHERE, MaskFile, object_pixels, read_mask
from unetseg.data.masks.mask_forms import ALPHA, BANDS, WHITE_IS_ZERO
from unetseg.errors import MaskError

DISC = np.hypot(*(np.mgrid[:24, :32] - 12)) < 6
FOUR = np.digitize(np.arange(32), [4, 12, 20])[None].repeat(24, 0)  # 0 … 3


@pytest.mark.parametrize("kind", ["8 bit", "1 bit"])
def test_white_as_zero_is_read_as_shown(tmp_path: Path, kind: str) -> None:
    mask = DISC * np.uint8(255)
    stored = ~DISC if kind == "1 bit" else 255 - mask
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
    raw = read_mask(tmp_path / "a.tif")
    assert raw.form == WHITE_IS_ZERO
    assert np.array_equal(raw.pixels, mask)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.tif").convert("L")), mask)


def test_windows_of_white_as_zero_are_read_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetseg.data.files.image.WHOLE_PIXELS", 0)
    mask = DISC * np.uint8(255)
    tifffile.imwrite(tmp_path / "a.tif", 255 - mask, photometric="miniswhite")
    with MaskFile(tmp_path / "a.tif") as file:
        assert file.is_windowed
        assert np.array_equal(file.read(3, 4, 9, 20), mask[3:12, 4:24])


def test_class_numbers_are_read_as_stored_whatever_is_white(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", FOUR.astype(np.uint8), photometric="miniswhite")
    assert np.array_equal(read_mask(tmp_path / "a.tif").pixels, FOUR)


def test_an_opaque_black_picture_is_all_background(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 6), (0, 0, 0, 255)).save(tmp_path / "a.png")
    raw = read_mask(tmp_path / "a.png")
    assert not raw.pixels.any()
    assert raw.form == ""


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        (np.zeros(3), DISC * np.uint8(255)),  # a cut-out: alpha alone differs
        (
            np.array([0, 200, 0]),
            DISC[..., None] * np.array([0, 200, 0], np.uint8),
        ),  # nothing is transparent
    ],
)
def test_alpha_tells_where_nothing_is(
    tmp_path: Path, colour: NDArray[Any], expected: NDArray[np.uint8]
) -> None:
    pixels = np.dstack([DISC[..., None] * colour, 255 * DISC]).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    raw = read_mask(tmp_path / "a.png")
    assert raw.form == ALPHA
    assert np.array_equal(raw.pixels, expected)


@pytest.mark.parametrize("high", [1, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_band_for_each_class_is_numbers(tmp_path: Path, high: int, dtype: type) -> None:
    bands = np.stack([k == FOUR for k in (1, 2, 3, 9)], -1).astype(dtype) * dtype(high)
    tifffile.imwrite(tmp_path / "a.tif", bands, photometric="minisblack", planarconfig="contig")
    raw = read_mask(tmp_path / "a.tif")
    assert raw.form == BANDS
    assert np.array_equal(raw.pixels, FOUR)
    bands[3, 5, :2] = high
    tifffile.imwrite(tmp_path / "b.tif", bands, photometric="minisblack", planarconfig="contig")
    with pytest.raises(MaskError, match="1 pixels are") as caught:
        read_mask(tmp_path / "b.tif")
    assert caught.value.paths == (tmp_path / "b.tif",)


@pytest.mark.parametrize("bands", [2, 4])
@pytest.mark.parametrize(
    ("name", "high"), [("a.npy", True), ("a.npy", 1), ("a.tif", 1), ("a.tif", 255)]
)
def test_of_bands_that_share_the_pixels_none_is_alpha(
    tmp_path: Path, bands: int, name: str, high: int
) -> None:
    for truth in (FOUR % bands, 0 * FOUR, np.minimum(FOUR, 1), (bands - 1) * DISC):
        marked = truth[..., None] == np.arange(bands)
        stored = marked if high is True else marked * np.uint8(high)
        if name == "a.npy":
            np.save(tmp_path / name, stored)
        else:
            options: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
            tifffile.imwrite(tmp_path / name, stored, **options)
        raw = read_mask(tmp_path / name)
        assert raw.form == BANDS
        assert np.array_equal(raw.pixels, truth + 1)


@pytest.mark.parametrize("bands", [2, 4])
def test_alpha_that_nobody_declares_is_alpha_still(tmp_path: Path, bands: int) -> None:
    disc = DISC * np.uint8(255)
    for grey, alpha, form, shown in (
        (disc, 0 * disc + 255, "", disc),
        (0 * disc, 0 * disc + 255, "", 0 * disc),
        (0 * disc, disc, ALPHA, disc),
    ):
        np.save(tmp_path / "a.npy", np.dstack([*[grey] * (bands - 1), alpha]))
        raw = read_mask(tmp_path / "a.npy")
        assert raw.form == form
        assert np.array_equal(raw.pixels.reshape(24, 32, -1)[..., 0], shown)


OPAQUE = np.full((24, 32), 255, np.uint8)
GAP = np.where(FOUR == 3, np.nan, DISC).astype(np.float32)


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: write_tiff(path, DISC * np.uint8(255)),
        lambda path: write_tiff(path, np.dstack([*[DISC * np.uint8(9)] * 3, OPAQUE])),
        lambda path: write_tiff(path, DISC.astype(np.uint8), [0, 0, 0, 9, 0, 0, *[0] * 762]),
        lambda path: write_tiff(path, DISC - FOUR.astype(np.int16) // 3),
        lambda path: write_geotiff(path, GAP, nodata=np.nan),
    ],
)
def test_objects_are_where_there_is_something_whatever_the_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], windowed: bool
) -> None:
    """Opaque alpha, black of a palette, numbers below 0 and no data show none."""
    if windowed:
        monkeypatch.setattr("unetseg.data.files.image.WHOLE_PIXELS", 0)
    make(tmp_path / "a.tif")
    with MaskFile(tmp_path / "a.tif") as file:
        assert file.is_windowed == windowed
        assert np.array_equal(object_pixels(file.read(0, 0, 24, 32), file), DISC)
        assert np.array_equal(object_pixels(file.read(3, 4, 9, 20), file), DISC[3:12, 4:24])


# Sets of files


def areas(folder: Path, *sides: int) -> tuple[Path, ...]:
    """Masks of a square each, all from one corner, in TIFFs."""
    paths = tuple(folder / f"{i}.tif" for i in range(len(sides)))
    for path, side in zip(paths, sides, strict=True):
        pixels = np.zeros((64, 96), np.uint8)
        pixels[:side, :side] = 255
        tifffile.imwrite(path, pixels)
    return paths


def expected(shape: tuple[int, int], sides: dict[int, int]) -> NDArray[np.uint8]:
    codes = np.zeros(shape, np.uint8)
    for code, side in sorted(sides.items(), key=lambda item: -item[1]):
        codes[:side, :side] = code
    return codes


@pytest.mark.parametrize("windowed", [False, True])
def test_of_a_set_the_smaller_area_lies_on_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windowed: bool
) -> None:
    if windowed:
        monkeypatch.setattr("unetseg.data.files.image.WHOLE_PIXELS", 0)
    masks = MaskSet(areas(tmp_path, 20, 50, 35), (1, 2, 3))
    truth = expected((64, 96), {1: 20, 2: 50, 3: 35})
    with MaskFile(masks) as file:
        assert (file.is_windowed, file.size, file.raw.coding) == (windowed, (64, 96), "integer")
        assert (file.read(10, 15, 30, 40) == truth[10:40, 15:55]).all()
        assert (file.whole().pixels == truth).all()
    with pickle.loads(pickle.dumps(file)) as copy:
        assert (np.concatenate([rows for _, rows in copy.strips(7)]) == truth).all()


def test_the_hash_of_a_set_tells_files_and_codes(tmp_path: Path) -> None:
    paths = areas(tmp_path, 20, 50)
    sets = [MaskSet(paths, (1, 2)), MaskSet(paths, (2, 1)), MaskSet(paths[:1], (1,))]
    assert len({image_hash(paths[0]), *map(image_hash, sets)}) == 4


def test_files_of_a_set_that_differ_in_size_are_named(tmp_path: Path) -> None:
    paths = areas(tmp_path, 20, 50)
    tifffile.imwrite(paths[1], np.zeros((64, 95), np.uint8))
    with pytest.raises(MaskError, match="differs in size") as error:
        read_mask(MaskSet(paths, (1, 1)))
    assert error.value.summary.startswith(str(paths[1]))
    assert error.value.summary.endswith("95×64, expected 96×64")


def test_a_file_of_a_set_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    paths = areas(tmp_path, 20, 50)
    paths[1].write_bytes(b"no image")
    with pytest.raises(MaskError) as error:
        read_mask(MaskSet(paths, (1, 1)))
    assert error.value.paths == (paths[1],)


def test_jpeg_noise_is_no_object(tmp_path: Path) -> None:
    wide = np.zeros((40, 64), np.uint8)
    wide[8:24, 16:32] = 255
    Image.fromarray(wide).save(tmp_path / "a.jpg", quality=60)
    assert (read_mask(MaskSet((tmp_path / "a.jpg",), (1,))).pixels == (wide > 0)).all()
    Image.fromarray(wide // 60).save(tmp_path / "b.jpg")
    with pytest.raises(MaskError, match="JPEG with values up to 4, expected 0 and 255"):
        read_mask(MaskSet((tmp_path / "b.jpg",), (1,)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_grey_that_stands_for_transparency_is_a_number_as_others(
    tmp_path: Path, dtype: type
) -> None:
    codes: NDArray[Any] = np.repeat([0, 1, 2, 7], 4).reshape(4, 4).astype(dtype)
    Image.fromarray(codes).save(tmp_path / "a.png", transparency=7)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png").pixels, codes)


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("float32", np.nan),
        ("float32", np.inf),
        ("float32", -9999.5),
        ("float32", float(np.finfo(np.float32).min)),
        ("float64", float(np.finfo(np.float64).min)),
        ("uint32", 2**32 - 1),
    ],
)
def test_what_is_declared_for_no_data_and_is_no_code_is_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, nodata: float, windowed: bool
) -> None:
    if windowed:
        monkeypatch.setattr("unetseg.data.files.image.WHOLE_PIXELS", 0)
    stored = np.where(DISC, nodata, FOUR).astype(dtype)
    with MaskFile(write_geotiff(tmp_path / "a.tif", stored, nodata=nodata)) as mask:
        assert mask.nodata == mask.raw.nodata == NOWHERE
        assert np.array_equal(mask.read(0, 0, 24, 32), np.where(DISC, NOWHERE, FOUR))
        assert np.array_equal(mask.read(0, 0, 24, 4), FOUR[:, :4])  # no gap in it


@pytest.mark.parametrize(
    ("third", "coding"),
    [((0, 0, 0), "integer"), ((255, 255, 255), "integer"), ((255, 0, 0), "palette")],
)
def test_a_palette_of_black_and_white_alone_is_grey(
    tmp_path: Path, third: tuple[int, int, int], coding: str
) -> None:
    """One with further colours is a palette, whether or not this file shows them."""
    colours = [0, 0, 0, 255, 255, 255, *third, *[0] * 759]
    write_png(tmp_path / "a.png", DISC.astype(np.uint8), colours)
    raw = read_mask(tmp_path / "a.png")
    assert raw.coding == coding
    assert np.array_equal(raw.pixels, DISC * (255 if coding == "integer" else 1))
