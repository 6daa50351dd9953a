"""PNGs out: Pillow, OpenCV and libpng read what is written."""

import io
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from unetseg.data.files import pngs
from unetseg.data.files.photos import png_pixels
from unetseg.data.files.pngs import png_bytes
from unetseg.data.masks.mask_file import read_mask

Array = NDArray[Any]
RELAXED = settings(max_examples=30, deadline=None)
VOC = [value for i in range(256) for value in (i, 7 * i % 256, 255 - i)]


def side() -> st.SearchStrategy[int]:
    return st.integers(1, 40)


def arrays(dtypes: list[type[np.generic]]) -> st.SearchStrategy[Array]:
    shapes = st.tuples(side(), side()) | st.tuples(side(), side(), st.integers(2, 4))
    return hnp.arrays(st.sampled_from(dtypes), shapes)


def by_pillow(content: bytes) -> Array:
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        return np.asarray(image)


def saved(array: Array, mode: str | None = None, **options: Any) -> bytes:
    """What Pillow writes."""
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, "PNG", **options)
    return file.getvalue()


@RELAXED
@given(arrays([np.uint8, np.uint16]))
def test_what_is_written_is_read_back_exactly(array: Array) -> None:
    content = png_bytes(array)
    for read in (png_pixels(content), imagecodecs.png_decode(content)):
        assert read is not None
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


@RELAXED
@given(arrays([np.uint8]))
def test_pillow_reads_eight_bits_of_every_band_count(array: Array) -> None:
    np.testing.assert_array_equal(by_pillow(png_bytes(array)), array)


@RELAXED
@given(hnp.arrays(np.uint16, st.tuples(side(), side())))
def test_pillow_and_opencv_read_sixteen_bits(array: Array) -> None:
    np.testing.assert_array_equal(by_pillow(png_bytes(array)), array)
    colours = np.stack([array, array[::-1], array[:, ::-1]], axis=-1)
    buffer = np.frombuffer(png_bytes(colours), np.uint8)
    seen = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
    assert seen is not None
    np.testing.assert_array_equal(seen[..., ::-1], colours)


@RELAXED
@given(hnp.arrays(np.uint8, st.tuples(side(), side())))
def test_palettes_are_kept(index: Array) -> None:
    with Image.open(io.BytesIO(png_bytes(index, VOC))) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), index)
        assert image.getpalette("RGB") == VOC
    colours = np.array(VOC, np.uint8).reshape(256, 3)
    seen = cv2.imdecode(np.frombuffer(png_bytes(index, VOC), np.uint8), cv2.IMREAD_COLOR)
    assert seen is not None
    np.testing.assert_array_equal(seen[..., ::-1], colours[index])


@pytest.mark.parametrize("turn", [np.flipud, np.fliplr, np.transpose])
def test_the_layout_in_memory_does_not_matter(turn: Any) -> None:
    array = np.arange(7 * 9, dtype=np.uint16).reshape(7, 9) * np.uint16(997)
    assert png_bytes(turn(array)) == png_bytes(turn(array).copy())
    assert png_bytes(array.astype(">u2")) == png_bytes(array)


def test_pixels_may_be_split_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    monkeypatch.setattr(pngs, "_PIECE", 50)
    content = png_bytes(array)
    assert content.count(b"IDAT") > 5
    np.testing.assert_array_equal(by_pillow(content), array)
    read = png_pixels(content)
    assert read is not None
    np.testing.assert_array_equal(read, array)


def test_masks_are_at_most_a_third_larger_than_pillow_writes_them(real_data: Path) -> None:
    for name in ("camvid", "isbi2012_em", "cwfid"):
        files = sorted((real_data / name / "masks").rglob("*.png"))[:5]
        masks = [np.ascontiguousarray(read_mask(file).pixels) for file in files]
        ours, theirs = (sum(len(write(mask)) for mask in masks) for write in (png_bytes, saved))
        assert ours < 1.3 * theirs, name
