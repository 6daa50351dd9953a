"""Rasters: a window is what the whole image shows there, and costs no more than the window."""

import contextlib
import gc
import itertools
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile as PillowImage

from tests import builders
from tests.builders import GEOTRANSFORM, write_geotiff
from unetseg.data.files import image as image_file
from unetseg.data.files.bands import match_bands
from unetseg.data.files.image import ImageFile, read_image
from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import Tiff, write_tiff
from unetseg.data.masks.mask_file import MaskFile, fitted, read_mask
from unetseg.errors import ImageError, MaskError

Array = NDArray[Any]
HEIGHT, WIDTH = 37, 53
COLOURS = (np.arange(768).reshape(3, 256) * 89 % 65536).astype(np.uint16)


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every TIFF of more than 100 pixels is read by windows."""
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 100)


def noise(dtype: str, *shape: int) -> Array:
    """Noise; of the wide integers only numbers that float32 holds."""
    is_narrow = dtype not in {"bool", "uint32", "int32"}
    drawn = builders.noise(*shape, dtype=dtype if is_narrow else "uint8")
    return drawn > 127 if dtype == "bool" else drawn.astype(dtype)


def windows(height: int, width: int, seed: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """The whole, its corners, and a few at random."""
    yield 0, 0, height, width
    yield 0, 0, 1, 1
    yield height - 1, width - 1, 1, 1
    rng = np.random.default_rng(seed)
    for _ in range(4):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        rows, columns = rng.integers(1, height - top + 1), rng.integers(1, width - left + 1)
        yield top, left, int(rows), int(columns)


def check_windows(path: Path) -> None:
    """Windows, strips and thumbnail are those of `read_image`."""
    whole = read_image(path)
    with ImageFile(path) as raster:
        assert raster.is_windowed
        assert raster.shape == whole.shape
        for top, left, height, width in windows(raster.height, raster.width):
            part = raster.read(top, left, height, width)
            assert part.dtype == raster.dtype
            assert part.flags.c_contiguous
            np.testing.assert_array_equal(part, whole[top : top + height, left : left + width])
        strips = list(raster.strips(10))
        assert [top for top, _ in strips] == list(range(0, raster.height, 10))
        np.testing.assert_array_equal(np.concatenate([rows for _, rows in strips]), whole)
        np.testing.assert_array_equal(raster.thumbnail(20), whole[::3, ::3])


# Every kind of file


@pytest.mark.long
@pytest.mark.parametrize("bands", [1, 2, 3, 13])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_a_window_is_a_crop_of_the_whole(tmp_path: Path, dtype: str, bands: int) -> None:
    pixels = noise(dtype, HEIGHT, WIDTH, bands)
    kinds: Any = itertools.product(
        [True, False], [None, (16, 32)], [None, "zlib", "lzw"], ["<", ">"], [1, 7]
    )
    for number, (chunky, tile, compression, order, rows) in enumerate(kinds):
        if bands == 1 and not chunky:
            continue
        stored = pixels if chunky else pixels.transpose(2, 0, 1)
        options: dict[str, Any] = {"tile": tile} if tile else {"rowsperstrip": rows}
        if compression in {"zlib", "lzw"} and number % 2:
            options["predictor"] = True
        tifffile.imwrite(
            tmp_path / "a.tif",
            stored[..., 0] if bands == 1 else stored,
            photometric="minisblack",
            planarconfig=None if bands == 1 else "contig" if chunky else "separate",
            compression=compression,
            byteorder=order,
            bigtiff=number % 3 == 0,
            **options,
        )
        whole = read_image(tmp_path / "a.tif")
        np.testing.assert_array_equal(whole, pixels)
        with ImageFile(tmp_path / "a.tif") as raster:
            for top, left, height, width in windows(HEIGHT, WIDTH, number):
                part = raster.read(top, left, height, width)
                np.testing.assert_array_equal(part, whole[top : top + height, left : left + width])
                assert part.dtype == whole.dtype == raster.dtype


TILES = {"tiled": True, "blockxsize": 16, "blockysize": 16}


def lossy(path: Path, *, ycbcr: bool) -> None:
    smooth = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))[..., None] * [1, 2, 2]
    kind = {"compress": "jpeg", "photometric": "ycbcr" if ycbcr else "rgb"}
    write_geotiff(path, smooth.astype(np.uint8), **TILES, **kind)


def ome(path: Path, tile: tuple[int, int] | None, compression: str | None) -> None:
    pixels = noise("uint16", 5, HEIGHT, WIDTH)
    options: dict[str, Any] = {"tile": tile, "compression": compression}
    metadata = {"axes": "CYX"}
    tifffile.imwrite(path, pixels, ome=True, metadata=metadata, photometric="minisblack", **options)


def imagej(path: Path) -> None:
    tifffile.imwrite(path, noise("uint16", 4, HEIGHT, WIDTH), imagej=True, metadata={"axes": "CYX"})


def sparse(path: Path) -> None:
    pixels = np.full((HEIGHT, WIDTH), -7, np.int16)
    pixels[20:30, 20:30] = noise("int16", 10, 10)
    write_geotiff(path, pixels, **TILES, sparse_ok=True, nodata=-7)


def palette(path: Path) -> None:
    tifffile.imwrite(
        path, noise("uint8", HEIGHT, WIDTH), photometric="palette", colormap=COLOURS, tile=(16, 16)
    )


def palette_of_two(path: Path) -> None:
    write_geotiff(path, noise("bool", HEIGHT, WIDTH).astype(np.uint8), nbits=1)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (10, 20, 30), 1: (200, 100, 50)})


def rows_of_pages(path: Path) -> None:
    """A page for each row, bands last: no plain strips, so decoded whole."""
    pixels = noise("uint8", HEIGHT, WIDTH, 5)
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": "YXC"})


def with_overview(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(noise("uint8", HEIGHT, WIDTH), metadata=None, tile=(16, 16))
        file.write(noise("uint8", HEIGHT // 2, WIDTH // 2), subfiletype=1, metadata=None)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: lossy(path, ycbcr=False),
        lambda path: lossy(path, ycbcr=True),
        lambda path: ome(path, None, None),
        lambda path: ome(path, (16, 16), "zlib"),
        lambda path: ome(path, None, "lzw"),
        imagej,
        sparse,
        palette,
        palette_of_two,
        rows_of_pages,
        with_overview,
        lambda path: tifffile.imwrite(path, noise("bool", HEIGHT, WIDTH), rowsperstrip=5),
        lambda path: tifffile.imwrite(
            path, noise("bool", HEIGHT, WIDTH), compression="packbits", photometric="miniswhite"
        ),
        lambda path: Image.fromarray(noise("bool", HEIGHT, WIDTH)).save(path, compression="group4"),
        lambda path: tifffile.imwrite(path, noise("float64", HEIGHT, WIDTH), rowsperstrip=4),
        lambda path: tifffile.imwrite(path, noise("int8", HEIGHT, WIDTH), compression="zlib"),
        lambda path: tifffile.imwrite(path, noise("uint32", HEIGHT, WIDTH), tile=(16, 16)),
        lambda path: write_tiff(path, noise("uint8", HEIGHT, WIDTH, 4)),
    ],
)
def test_files_of_other_programs(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "a.tif")
    check_windows(tmp_path / "a.tif")


def test_one_bit_palettes_become_colours(tmp_path: Path) -> None:
    palette_of_two(tmp_path / "a.tif")
    bits = noise("bool", HEIGHT, WIDTH)[..., None]
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.tif"), np.where(bits, [200, 100, 50], [10, 20, 30])
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_windows_are_upright(tmp_path: Path, orientation: int) -> None:
    tag = [(0x0112, 3, 1, orientation, True)]
    pixels = noise("uint16", HEIGHT, WIDTH, 3)
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="rgb", tile=(16, 32), extratags=tag, metadata=None
    )
    check_windows(tmp_path / "a.tif")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_window_of_any_tiling(data: st.DataObject, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("hypothesis")
    height, width = data.draw(st.integers(11, 70)), data.draw(st.integers(11, 70))
    tile = data.draw(st.tuples(*[st.sampled_from([16, 32, 48])] * 2))
    bands = data.draw(st.sampled_from([1, 3, 5]))
    pixels = noise("int16", height, width, bands)
    write_geotiff(
        folder / "a.tif",
        pixels,
        tiled=True,
        blockysize=tile[0],
        blockxsize=tile[1],
        compress=data.draw(st.sampled_from(["deflate", "lzw", "none"])),
        predictor=data.draw(st.sampled_from([1, 2])),
        interleave=data.draw(st.sampled_from(["pixel", "band"])),
    )
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows = data.draw(st.integers(1, height - top))
    columns = data.draw(st.integers(1, width - left))
    with ImageFile(folder / "a.tif") as raster:
        part = raster.read(top, left, rows, columns)
    np.testing.assert_array_equal(part, pixels[top : top + rows, left : left + columns])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int16"])
def test_white_as_zero_is_read_as_viewers_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """Whole and by windows, with the value for no data; numbers with a sign are as stored."""
    stored = noise(dtype, HEIGHT, WIDTH)
    path = tmp_path / "a.tif"
    extra = [(42113, "s", 0, "7", True)]  # no data
    tifffile.imwrite(path, stored, photometric="miniswhite", extratags=extra)
    check_windows(path)
    with ImageFile(path) as image:
        shown, nodata = image.read(0, 0, HEIGHT, WIDTH)[..., 0], image.nodata
    if dtype == "int16":
        np.testing.assert_array_equal(shown, stored)
        assert nodata == 7
        return
    values = stored * np.uint8(255) if dtype == "bool" else stored
    highest = np.iinfo(values.dtype).max
    np.testing.assert_array_equal(shown, highest - values)
    assert nodata == highest - 7
    if dtype == "uint8":  # of the others Pillow shows 1 bit as bool, and 16 bits as stored
        monkeypatch.undo()
        np.testing.assert_array_equal(shown, np.asarray(Image.open(path)))


def test_windows_outside_are_refused(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", noise("uint8", HEIGHT, WIDTH))
    with ImageFile(tmp_path / "a.tif") as raster:
        for window in ((-1, 0, 2, 2), (0, 0, HEIGHT + 1, 1), (0, 0, 0, 1), (0, WIDTH, 1, 1)):
            with pytest.raises(ValueError, match="does not lie in an image of 37×53"):
                raster.read(*window)


# Numbers that windows cannot judge alone


@pytest.mark.parametrize("value", [2**24 + 1, -(2**31)])
def test_wide_integers_are_float32_or_refused_where_they_do_not_fit(
    tmp_path: Path, value: int
) -> None:
    pixels = np.zeros((HEIGHT, WIDTH), np.int32)
    pixels[30, 40], pixels[0, 0] = value, 70_000
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(16, 16), compression="zlib")
    with ImageFile(tmp_path / "a.tif") as raster:
        assert raster.dtype == np.float32
        assert raster.read(0, 0, 2, 2).ravel().tolist() == [70_000, 0, 0, 0]
        with pytest.raises(ImageError, match=r"a\.tif holds integers from .*, too large"):
            raster.read(16, 16, 21, 30)


def test_other_number_types_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((HEIGHT, WIDTH), np.complex64))
    with pytest.raises(ImageError, match="complex64"):
        ImageFile(tmp_path / "a.tif")


@pytest.mark.parametrize("model_bands", [1, 3, 4])
def test_bands_of_windows_match_as_those_of_the_whole(tmp_path: Path, model_bands: int) -> None:
    pixels = np.repeat(noise("uint8", HEIGHT, WIDTH, 1), 4, axis=-1)
    pixels[..., 3] = 255
    path = tmp_path / "a.tif"
    write_tiff(path, pixels)
    expected = match_bands(read_image(path), model_bands, path)
    with ImageFile(path) as raster:
        part = match_bands(raster.read(5, 6, 7, 8), model_bands, path)
    np.testing.assert_array_equal(part, expected[5:12, 6:14])


# Masks


@pytest.mark.parametrize(
    ("dtype", "bands", "expected"),
    [
        ("uint8", 1, "uint8"),
        ("uint16", 1, "uint16"),
        ("int16", 1, "int16"),
        ("int32", 1, "int32"),
        ("int8", 1, "int16"),
        ("uint32", 1, "int32"),
        ("bool", 1, "uint8"),
        ("uint8", 3, "uint8"),
    ],
)
def test_windows_of_masks(tmp_path: Path, dtype: str, bands: int, expected: str) -> None:
    path = tmp_path / "a.tif"
    pixels = noise(dtype, HEIGHT, WIDTH, bands)
    tifffile.imwrite(
        path,
        pixels if bands > 1 else pixels[..., 0],
        photometric="rgb" if bands == 3 else "minisblack",
        rowsperstrip=6,
    )
    raw = read_mask(path)
    with MaskFile(path) as raster:
        assert (raster.raw.coding, raster.raw.lossy) == (raw.coding, raw.lossy)
        assert raster.size == (HEIGHT, WIDTH)
        for top, left, height, width in windows(HEIGHT, WIDTH):
            part = raster.read(top, left, height, width)
            assert part.dtype == raster.raw.pixels.dtype == expected
            np.testing.assert_array_equal(part, raw.pixels[top : top + height, left : left + width])
        whole = np.concatenate([rows for _, rows in raster.strips(8)])
    np.testing.assert_array_equal(whole, raw.pixels)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize("factor", [3, 1 / 2, 1 / 3])
def test_windows_of_a_mask_of_another_size_are_those_of_the_fitted_whole(
    tmp_path: Path, factor: float, suffix: str
) -> None:
    """A mask that a whole factor brings to the size of its image, here or in another process."""
    stored = noise("uint8", 36, 54)
    path = tmp_path / f"mask{suffix}"
    (write_tiff if suffix == ".tif" else write_png)(path, stored)
    size = round(36 * factor), round(54 * factor)
    whole = fitted(stored, size)
    with MaskFile(path) as mask:
        mask.fit(size)
        with pickle.loads(pickle.dumps(mask)) as sent:
            assert mask.size == sent.size == whole.shape == size
            for top, left, height, width in windows(*size):
                part = whole[top : top + height, left : left + width]
                np.testing.assert_array_equal(mask.read(top, left, height, width), part)
                np.testing.assert_array_equal(sent.read(top, left, height, width), part)
        mask.fit((size[0] + 1, size[1]))
        assert mask.size == (36, 54)


def test_palettes_of_masks_stay_indexes(tmp_path: Path) -> None:
    palette(tmp_path / "a.tif")
    raw = read_mask(tmp_path / "a.tif")
    grey = np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))
    tifffile.imwrite(
        tmp_path / "b.tif", raw.pixels, photometric="palette", colormap=grey, rowsperstrip=5
    )
    with MaskFile(tmp_path / "a.tif") as raster:
        assert (raster.raw.coding, raster.raw.palette) == ("palette", raw.palette)
        np.testing.assert_array_equal(raster.read(3, 4, 20, 30), raw.pixels[3:23, 4:34])
    with MaskFile(tmp_path / "b.tif") as raster:
        assert (raster.raw.coding, raster.raw.palette) == ("integer", None)


def test_windows_of_a_palette_of_black_and_white_are_grey_as_the_whole(tmp_path: Path) -> None:
    index, path = noise("bool", HEIGHT, WIDTH).astype(np.uint8), tmp_path / "a.tif"
    colours = np.zeros((3, 256), np.uint16)
    colours[:, 1] = 65535
    for highest, coding in ((1, "integer"), (2, "palette")):
        index[30, 40] = highest
        tifffile.imwrite(path, index, photometric="palette", colormap=colours, rowsperstrip=5)
        raw = read_mask(path)
        with MaskFile(path) as raster:
            assert raster.raw.coding == raw.coding == coding
            np.testing.assert_array_equal(raster.read(3, 4, 30, 40), raw.pixels[3:33, 4:44])


def test_whole_floats_are_class_numbers_and_fractions_are_not(tmp_path: Path) -> None:
    pixels = noise("int16", HEIGHT, WIDTH).astype(np.float32)
    pixels[30, 40] = 0.5
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(16, 16))
    with MaskFile(tmp_path / "a.tif") as raster:
        np.testing.assert_array_equal(raster.read(0, 0, 16, 16), pixels[:16, :16])
        with pytest.raises(MaskError, match=r"a\.tif holds fractions"):
            raster.read(20, 30, 17, 20)


def test_an_opaque_alpha_of_a_mask_is_left_out_and_another_is_refused(tmp_path: Path) -> None:
    pixels = noise("uint8", HEIGHT, WIDTH, 4)
    pixels[..., 3] = 255
    pixels[30, 40, 3] = 7
    write_tiff(tmp_path / "a.tif", pixels)
    with MaskFile(tmp_path / "a.tif") as raster:
        assert (raster.raw.coding, raster.raw.alpha) == ("rgb", True)
        np.testing.assert_array_equal(raster.read(0, 0, 16, 16), pixels[:16, :16, :3])
        with pytest.raises(MaskError, match=r"a\.tif has 4 bands of uint8, expected one"):
            raster.read(20, 30, 17, 20)


def test_what_is_no_mask_is_refused_at_once(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", noise("int16", HEIGHT, WIDTH, 13))
    with pytest.raises(MaskError, match=r"a\.tif has 13 bands of int16"):
        MaskFile(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-9])
    with pytest.raises(MaskError, match="truncated"):
        MaskFile(tmp_path / "b.tif")


# Other files


def test_small_and_other_files_are_decoded_whole_once(tmp_path: Path) -> None:
    pixels = noise("uint8", HEIGHT, WIDTH, 3)
    write_png(tmp_path / "a.png", pixels)
    write_tiff(tmp_path / "a.tif", pixels[:9, :9])
    with ImageFile(tmp_path / "a.png") as raster:
        assert raster.is_large
        assert not raster.is_windowed
        np.testing.assert_array_equal(raster.read(1, 2, 3, 4), pixels[1:4, 2:6])
        (tmp_path / "a.png").unlink()
        np.testing.assert_array_equal(raster.thumbnail(20), pixels[::3, ::3])
    with ImageFile(tmp_path / "a.tif") as raster, MaskFile(tmp_path / "a.tif") as mask:
        assert not raster.is_large
        np.testing.assert_array_equal(raster.read(0, 0, 9, 9), pixels[:9, :9])
        np.testing.assert_array_equal(mask.read(0, 0, 9, 9), pixels[:9, :9])


def test_the_pixels_of_a_raster_are_its_readers_own(tmp_path: Path) -> None:
    for name, write in (("a.png", write_png), ("a.tif", write_tiff)):
        write(tmp_path / name, noise("uint8", HEIGHT, WIDTH))
        with ImageFile(tmp_path / name) as raster:
            raster.read(0, 0, 9, 9)[:] = 0
            np.testing.assert_array_equal(
                raster.read(0, 0, 9, 9), read_image(tmp_path / name)[:9, :9]
            )


# Damage


def test_a_file_whose_pixels_were_never_written_is_named(tmp_path: Path) -> None:
    size = {"height": 16, "width": 16, "count": 1, "dtype": "uint8"}
    with rasterio.open(
        tmp_path / "a.tif", "w", **size, **TILES, transform=GEOTRANSFORM, sparse_ok=True
    ):
        pass
    with pytest.raises(ImageError, match="truncated"):
        read_image(tmp_path / "a.tif")


@pytest.mark.row(32)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_truncated_and_changed_files_are_named(tmp_path: Path, compression: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise("uint8", 200, 200), compression=compression, tile=(64, 64))
    content = path.read_bytes()
    raster = ImageFile(path)
    raster.read(0, 0, 200, 200)
    raster.close()
    path.write_bytes(content[:-1])
    with pytest.raises(ImageError, match=r"a\.tif cannot be read: it is truncated"):
        raster.read(0, 0, 9, 9)
    with pytest.raises(ImageError, match="truncated"):
        ImageFile(path)
    tifffile.imwrite(path, noise("uint8", 200, 100))
    with pytest.raises(ImageError, match=r"a\.tif has changed") as caught:
        raster.read(0, 0, 9, 9)
    assert caught.value.fix
    raster.close()
    path.unlink()
    with pytest.raises(ImageError, match="No such file"):
        raster.read(0, 0, 9, 9)


def test_damaged_tiles_are_named_when_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise("uint8", 64, 64), compression="zlib", tile=(32, 32))
    with tifffile.TiffFile(path) as file:
        at = file.pages.first.dataoffsets[3]
    content = bytearray(path.read_bytes())
    content[at + 2 : at + 60] = bytes(58)
    path.write_bytes(content)
    with ImageFile(path) as raster:
        raster.read(0, 0, 32, 32)
        with pytest.raises(ImageError, match=r"a\.tif cannot be read"):
            raster.read(40, 40, 9, 9)


def test_windows_of_a_file_that_packs_well_need_no_permission(tmp_path: Path) -> None:
    pixels = np.zeros((600, 600), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(128, 128), compression="zlib")
    with ImageFile(tmp_path / "a.tif", max_pixels=20_000) as raster:
        assert not raster.read(500, 500, 100, 100).any()
    with pytest.raises(ImageError, match=r"bomb.*600×600 = 360000.*20000") as caught:
        read_image(tmp_path / "a.tif", max_pixels=20_000)
    assert "--max-pixels 360000" in caught.value.fix


@pytest.mark.row(26)
def test_a_tile_that_is_a_bomb_is_refused(tmp_path: Path) -> None:
    pixels = np.zeros((100, 100), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(1024, 1024), compression="zlib")
    with (
        ImageFile(tmp_path / "a.tif", max_pixels=100_000) as raster,
        pytest.raises(ImageError, match="bomb: 1024×1024"),
    ):
        raster.read(0, 0, 10, 10)


@pytest.mark.filterwarnings("ignore")
def test_flipped_bytes_raise_nothing_but_answers(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise("uint8", 40, 40), tile=(16, 16), compression="zlib")
    content = path.read_bytes()
    rng = random.Random(0)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(400)] = rng.choice([0, 1, 255, rng.randrange(256)])
        path.write_bytes(damaged)
        for open_it in (ImageFile, MaskFile):
            with contextlib.suppress(ImageError, MaskError), open_it(path) as raster:
                raster.read(0, 0, *(min(20, side) for side in raster.size))


def test_a_damaged_mask_whose_white_is_zero_is_a_mask_error_and_closed(tmp_path: Path) -> None:
    """Its pixels are looked at while it is opened."""
    path = tmp_path / "a.tif"
    settings: dict[str, Any] = {"compression": "zlib", "photometric": "miniswhite"}
    tifffile.imwrite(path, noise("uint8", 40, 40), **settings)
    with tifffile.TiffFile(path) as file:
        start = file.pages.first.dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[start : start + 20] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(MaskError, match="cannot be read"):
        MaskFile(path)
    gc.collect()  # warns, an error here, of a file that was left open


# Processes and threads


def _sum(raster: ImageFile, expected: int) -> bool:
    return int(raster.read(3, 4, 30, 40).sum()) == expected


def test_open_files_live_on_in_forked_and_in_spawned_processes(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", noise("uint8", HEIGHT, WIDTH))
    raster = ImageFile(tmp_path / "a.tif")
    expected = int(raster.read(3, 4, 30, 40).sum())
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert all(pool.starmap(_sum, [(raster, expected)] * 6))  # pickled
    if hasattr(os, "fork"):
        child = os.fork()
        if not child:
            same = all(_sum(raster, expected) for _ in range(50))
            os._exit(0 if same else 1)
        assert all(_sum(raster, expected) for _ in range(50))
        assert os.waitpid(child, 0)[1] == 0
    other = pickle.loads(pickle.dumps(raster))
    assert _sum(other, expected)
    other.close()
    raster.close()


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_threads_share_a_raster(tmp_path: Path, compression: Any) -> None:
    pixels = noise("uint16", 300, 400)
    tifffile.imwrite(tmp_path / "a.tif", pixels, compression=compression, tile=(64, 64))
    with ImageFile(tmp_path / "a.tif") as raster, ThreadPoolExecutor(8) as pool:
        boxes = [box for seed in range(20) for box in windows(300, 400, seed)]
        for (t, le, h, w), part in zip(
            boxes, pool.map(lambda b: raster.read(*b), boxes), strict=True
        ):
            np.testing.assert_array_equal(part[..., 0], pixels[t : t + h, le : le + w])


# Cost


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12,000² pixels, 144 MB unpacked."""
    path = tmp_path_factory.mktemp("large") / "a.tif"
    tile = noise("uint8", 512, 512)
    tiles = itertools.repeat(tile, 24 * 24)
    tifffile.imwrite(
        path,
        tiles,
        shape=(12_000, 12_000),
        dtype=np.uint8,
        tile=(512, 512),
        compression="zlib",
        compressionargs={"level": 1},
    )
    return path


@pytest.mark.long
def test_a_window_of_a_large_file_is_read_in_no_time(large: Path) -> None:
    start = time.process_time()
    with ImageFile(large) as raster:
        part = raster.read(5000, 6000, 512, 512)
    assert time.process_time() - start < 1
    tile = noise("uint8", 512, 512)
    np.testing.assert_array_equal(part[..., 0], np.roll(tile, (-5000, -6000), (0, 1)))


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc tells the memory used")
def test_the_strips_of_a_large_file_take_little_memory(large: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from unetseg.data.files.image import ImageFile\n"
        "def most():\n"
        "    return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "raster = ImageFile(Path(sys.argv[1])); before = most()\n"
        "for top, rows in raster.strips(512): pass\n"
        "raster.read(11_000, 11_000, 512, 512)\n"
        "print((most() - before) // 1024)"
    )
    command = [sys.executable, "-c", script, str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100, "MiB: a strip takes 6, the pieces kept 64"


# Real files


@pytest.mark.parametrize("name", ["hot_buildings_geotiff", "sen1floods11_sample", "nucseg_16bit"])
def test_real_images(real_data: Path, name: str) -> None:
    for file in sorted((real_data / name / "images").rglob("*.tif"))[:3]:
        whole = read_image(file)
        with ImageFile(file) as raster:
            assert (raster.bands, raster.dtype) == (whole.shape[2], whole.dtype)
            part = raster.read(20, 30, 100, 90)
            np.testing.assert_array_equal(part, whole[20:120, 30:120])


@pytest.mark.parametrize("name", ["hot_buildings_geotiff", "sen1floods11_sample"])
def test_real_masks(real_data: Path, name: str) -> None:
    for file in sorted((real_data / name / "masks").rglob("*.tif"))[:3]:
        raw = read_mask(file)
        with MaskFile(file) as raster:
            assert (raster.raw.coding, raster.raw.pixels.dtype) == (raw.coding, raw.pixels.dtype)
            np.testing.assert_array_equal(raster.read(20, 30, 100, 90), raw.pixels[20:120, 30:120])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_the_header_alone_says_what_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(path)

    def reading(*_: object) -> None:
        raise AssertionError("pixels were read")

    monkeypatch.setattr(PillowImage, "load", reading)
    monkeypatch.setattr(Tiff, "whole", reading)
    for limit in (1199, 1200):
        monkeypatch.setattr(image_file, "WHOLE_PIXELS", limit)
        with ImageFile(path) as image:
            assert image.is_large == (limit == 1199)


@pytest.mark.parametrize("stored", [{"tile": (256, 256), "compression": "zlib"}, {}])
def test_a_thumbnail_of_a_large_image_takes_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: dict[str, Any]
) -> None:
    """In tiles, and unpacked in one piece."""
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 100)
    pixels = np.zeros((4000, 1000, 3), np.uint8)
    tifffile.imwrite(tmp_path / "large.tif", pixels, photometric="rgb", **stored)
    with ImageFile(tmp_path / "large.tif") as file:
        file.thumbnail(200)  # loads decoders
        tracemalloc.start()
        file.thumbnail(200)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4_000_000  # bytes; the image has 12 million
