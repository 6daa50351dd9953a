"""PNG as bytes: Pillow, OpenCV and libpng read what is written, and only sound files are read."""

import io
import itertools
import logging
import zlib
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
from unetseg.data.files.pngs import PNG_START, png_bytes
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


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return len(data).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)


# Written


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


# Read


@RELAXED
@given(
    hnp.arrays(np.uint8, st.tuples(side(), side(), st.just(4))),
    st.sampled_from(["L", "LA", "RGB", "RGBA"]),
    st.integers(0, 9),
)
def test_what_pillow_writes_is_read_as_pillow_reads_it(array: Array, mode: str, level: int) -> None:
    content = saved(array, mode, compress_level=level)
    read = png_pixels(content)
    assert read is not None
    np.testing.assert_array_equal(read, by_pillow(content))


def test_real_files_are_read_as_pillow_reads_them(real_data: Path) -> None:
    files = sorted(real_data.rglob("*.png"))[::29]
    plain = 0
    for file in files:
        read = png_pixels(file.read_bytes())
        if read is not None:
            plain += 1
            np.testing.assert_array_equal(read, by_pillow(file.read_bytes()))
    assert plain > 0.9 * len(files) > 20


def test_other_chunks_change_nothing_and_make_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    array = np.random.default_rng(0).integers(0, 9, (6, 7, 3), np.uint8)
    plain = saved(array)
    more = chunk(b"gAMA", (22222).to_bytes(4)) + chunk(b"iCCP", b"junk\0\0") + chunk(b"tRNS", b"\0")
    content = plain[:33] + more + plain[33:]
    with caplog.at_level(logging.DEBUG):
        read = png_pixels(content)
    assert read is not None
    np.testing.assert_array_equal(read, array)
    assert not caplog.records


def test_what_is_not_plain_is_left_to_others() -> None:
    array = np.random.default_rng(0).integers(0, 256, (6, 7), np.uint8)
    plain = saved(array)
    header = bytearray(plain[16:29])
    header[-1] = 1
    end = chunk(b"IEND", b"")
    assert plain.endswith(end)
    for content in (
        png_bytes(array, VOC),
        saved(array > 127),
        PNG_START + chunk(b"IHDR", bytes(header)) + plain[33:],  # interlaced
        plain.removesuffix(end) + chunk(b"tEXt", b"a\0b") + end,
        plain.removesuffix(end) + chunk(b"eXIf", b"II*\0") + end,
        plain + b"more",
        PNG_START,
        PNG_START + end,
        plain[:33] + end,
    ):
        assert png_pixels(content) is None


def test_what_is_sound_and_yet_wrong_is_left_to_others() -> None:
    plain = saved(np.zeros((6, 7), np.uint8))
    rows = zlib.compress(bytes(8 * 3))  # three rows of six
    content = plain[:33] + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert png_pixels(content) is None


def test_truncated_and_damaged_files_are_left_to_others() -> None:
    content = saved(np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8))
    for length in range(len(PNG_START), len(content)):
        assert png_pixels(content[:length]) is None
    for at, flip in itertools.product(range(len(PNG_START), len(content)), (1, 0x55, 0x80)):
        damaged = bytearray(content)
        damaged[at] ^= flip
        assert png_pixels(bytes(damaged)) is None
