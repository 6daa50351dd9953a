"""JPEG as bytes: the pixels that Pillow gives, and none where Pillow would refuse the file."""

import io
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from unetseg.data.files.photos import jpeg_pixels

Array = NDArray[Any]
RELAXED = settings(max_examples=60, deadline=None)


def picture(height: int, width: int, seed: int) -> Array:
    """Something between a photograph and noise, H×W×3."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(height, width, 3)).cumsum(0).cumsum(1)
    return (128 + 10 * rng.random() * steps).clip(0, 255).astype(np.uint8)


def saved(array: Array, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def by_pillow(content: bytes) -> Array:
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        return np.asarray(image)


@RELAXED
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(0, 999)),
    st.sampled_from(["L", "RGB"]),
    st.fixed_dictionaries(
        {
            "quality": st.integers(1, 100),
            "subsampling": st.integers(0, 2),
            "progressive": st.booleans(),
            "optimize": st.booleans(),
            "restart_marker_blocks": st.integers(0, 3),
        }
    ),
)
def test_the_pixels_are_those_of_pillow(
    size: tuple[int, int, int], mode: str, options: dict[str, Any]
) -> None:
    content = saved(picture(*size), mode, **options)
    read = jpeg_pixels(content)
    assert read is not None
    np.testing.assert_array_equal(read, by_pillow(content))


def test_real_photographs_are_those_of_pillow(real_data: Path) -> None:
    files = sorted(file for file in real_data.rglob("*") if file.suffix in {".jpg", ".jpeg"})[::4]
    assert len(files) > 20
    for file in files:
        read = jpeg_pixels(file.read_bytes())
        assert read is not None
        with Image.open(file) as image:
            np.testing.assert_array_equal(read, np.asarray(image))


@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_files_are_left_to_others(progressive: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(picture(30, 40, 0), exif=exif, progressive=progressive)
    assert jpeg_pixels(content) is not None
    for length in range(len(content)):
        assert jpeg_pixels(content[:length]) is None
    assert jpeg_pixels(content + b"more") is None
    assert jpeg_pixels(content + content) is None


def spoilt(content: bytes, rng: random.Random) -> bytes:
    """A few bytes put in the place of none or some; the end stays."""
    at = rng.randrange(2, len(content) - 2)
    after = min(at + rng.choice([0, 1, 5, 50]), len(content) - 2)
    return content[:at] + rng.randbytes(rng.randint(0, 6)) + content[after:]


@pytest.mark.parametrize("progressive", [False, True])
def test_what_pillow_refuses_is_never_read(progressive: bool) -> None:
    content = saved(picture(40, 50, 1), progressive=progressive)
    rng = random.Random(progressive)
    verdicts: Counter[str] = Counter()
    for _ in range(1500):
        damaged = spoilt(content, rng)
        try:
            image = Image.open(io.BytesIO(damaged), formats=["JPEG"])
        except OSError:  # refused by its header
            continue
        if image.mode != "RGB" or image.width * image.height > 10**5:
            continue
        read = jpeg_pixels(damaged)
        try:
            expected = np.asarray(image)
        except OSError:
            verdicts["refused"] += 1
            assert read is None
        else:
            verdicts["read" if read is None else "read by both"] += 1
            assert read is None or np.array_equal(read, expected)
    assert verdicts["refused"] > 100
    assert verdicts["read by both"] > 100 * verdicts["read"]
