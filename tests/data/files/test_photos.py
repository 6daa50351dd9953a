"""Photos: the pixels that Pillow gives, none where a file is in doubt; JPEG 2000 and HEIC."""

import io
import itertools
import logging
import random
import sys
import types
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from unetseg.data.files.image import ImageFile, read_image
from unetseg.data.files.photos import jpeg_pixels, png_pixels, webp_size
from unetseg.data.files.pngs import PNG_START, png_bytes
from unetseg.data.masks.mask_file import read_mask
from unetseg.errors import ImageError

Array = NDArray[Any]
RELAXED = settings(max_examples=40, deadline=None)


def saved(array: Array, mode: str | None = None, kind: str = "PNG", **options: Any) -> bytes:
    """What Pillow writes."""
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def by_pillow(content: bytes) -> Array:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return len(data).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)


# PNG


@RELAXED
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(4))),
    st.sampled_from(["L", "LA", "RGB", "RGBA"]),
    st.integers(0, 9),
)
def test_pngs_of_pillow_are_read_as_pillow_reads_it(array: Array, mode: str, level: int) -> None:
    content = saved(array, mode, compress_level=level)
    read = png_pixels(content)
    assert read is not None
    np.testing.assert_array_equal(read, by_pillow(content))


def test_real_pngs_are_those_of_pillow(real_data: Path) -> None:
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
        png_bytes(array, [0] * 768),
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


def test_truncated_and_damaged_pngs_are_left_to_others() -> None:
    content = saved(np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8))
    for length in range(len(PNG_START), len(content)):
        assert png_pixels(content[:length]) is None
    for at, flip in itertools.product(range(len(PNG_START), len(content)), (1, 0x55, 0x80)):
        damaged = bytearray(content)
        damaged[at] ^= flip
        assert png_pixels(bytes(damaged)) is None


# JPEG


def picture(height: int, width: int, seed: int) -> Array:
    """Something between a photograph and noise, H×W×3."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(height, width, 3)).cumsum(0).cumsum(1)
    return (128 + 10 * rng.random() * steps).clip(0, 255).astype(np.uint8)


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
def test_jpegs_are_those_of_pillow(
    size: tuple[int, int, int], mode: str, options: dict[str, Any]
) -> None:
    content = saved(picture(*size), mode, "JPEG", **options)
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
def test_truncated_jpegs_are_left_to_others(progressive: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(picture(30, 40, 0), kind="JPEG", exif=exif, progressive=progressive)
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
def test_a_jpeg_that_pillow_refuses_is_never_read(progressive: bool) -> None:
    content = saved(picture(40, 50, 1), kind="JPEG", progressive=progressive)
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


# PGM and PPM


@pytest.mark.parametrize("highest", [1, 2, 100, 255, 256, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_numbers_of_pgm_and_ppm_are_as_stored(tmp_path: Path, kind: str, highest: int) -> None:
    bands = 3 if kind in {"P3", "P6"} else 1
    array = np.random.default_rng(0).integers(0, highest, (5, 6, bands), endpoint=True)
    content = array.astype(">u2" if highest > 255 else "u1").tobytes()
    if kind in {"P2", "P3"}:
        rows = [" ".join(map(str, row)) for row in array.reshape(5, -1).tolist()]
        content = "\n# a comment of 1 line\n".join(rows).encode()
    (tmp_path / "a.pnm").write_bytes(f"{kind}\n# 7\n6 5\n{highest}\n".encode() + content)
    with ImageFile(tmp_path / "a.pnm") as image:
        for _ in range(2):
            read = image.read()
            assert read.dtype == (np.uint16 if highest > 255 else np.uint8)
            np.testing.assert_array_equal(read, array)
        np.testing.assert_array_equal(image.read(1, 2, 3, 4), array[1:4, 2:6])


def test_the_codes_of_pgm_masks_do_not_depend_on_the_highest_in_each(tmp_path: Path) -> None:
    for highest in (1, 2, 9):
        (tmp_path / "a.pgm").write_bytes(b"P5 3 1 %d\n\0\1\1" % highest)
        assert read_mask(tmp_path / "a.pgm").pixels.tolist() == [[0, 1, 1]]
    (tmp_path / "a.pbm").write_bytes(b"P1 3 1\n0 1 1\n")  # of 1 bit, as elsewhere; 1 is black
    assert read_mask(tmp_path / "a.pbm").pixels.tolist() == [[255, 0, 0]]


@pytest.mark.parametrize(
    "content",
    [
        b"P5 3 1 2\n\0\1",
        b"P5 3 1 2\n\0\1\3",
        b"P6 1 1 65535\n\0\1\2\3\4",
        b"P2 3 1 2\n0 1",
        b"P2 3 1 2\n0 1 3",
        b"P2 3 1 2\n0 -1 2",
        b"P2 3 1 2\n0 x 2",
    ],
)
def test_damaged_pgms_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pgm").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.pgm cannot be read"):
        read_image(tmp_path / "a.pgm")


# WebP, JPEG 2000, HEIC, Git LFS


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize(
    "options", [{}, {"lossless": True}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}]
)
def test_a_webp_says_its_size_at_once(mode: str, options: dict[str, Any]) -> None:
    for width, height in ((1, 1), (7, 300), (300, 7)):
        content = saved(np.zeros((height, width, 3), np.uint8), mode, "WEBP", **options)
        assert webp_size(content[:30]) == (width, height)


@pytest.mark.row(26)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory as Linux does")
def test_a_webp_bomb_takes_no_memory(tmp_path: Path) -> None:
    """Pillow takes two canvases when it opens one; here 16384×16384 pixels, 2 GB."""
    resource = pytest.importorskip("resource")
    content = bytearray(saved(np.zeros((9, 9, 3), np.uint8), None, "WEBP", lossless=True))
    content[21:25] = (2**28 - 1).to_bytes(4, "little")
    (tmp_path / "a.webp").write_bytes(content)
    limit = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 2**28, limit[1]))
    try:
        with pytest.raises(ImageError, match=r"bomb: 16384×16384"):
            read_image(tmp_path / "a.webp")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)


@pytest.mark.parametrize("kind", ["j2k", "jp2"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_jpeg_2000_keeps_every_bit_and_band(tmp_path: Path, kind: str, dtype: type) -> None:
    for bands in (1, 2, 3, 4, 12):
        array: Array = np.random.default_rng(0).integers(0, 30000, (40, 50, bands)).astype(dtype)
        content = imagecodecs.jpeg2k_encode(
            array, level=0, codecformat=kind, reversible=True, planar=False
        )
        (tmp_path / f"a.{kind}").write_bytes(content)
        with ImageFile(tmp_path / f"a.{kind}") as image:
            assert image.format == "JPEG2000"
            np.testing.assert_array_equal(image.read(), array)


def test_heic_is_read_by_its_package_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.HEIC").write_bytes(bytes.fromhex("00000024") + b"ftypheic" + bytes(2000))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match="is a HEIC photo") as caught:
        read_image(tmp_path / "a.HEIC")
    assert caught.value.code == "no-heif"
    assert "pip install 'unetseg[heic]'" in caught.value.fix
    package = types.ModuleType("pillow_heif")
    package.HeifImageFile = lambda _file: Image.new("RGB", (7, 6))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    assert read_image(tmp_path / "a.HEIC").shape == (6, 7, 3)


def test_a_pointer_of_git_lfs_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")
    with pytest.raises(ImageError, match="is a pointer of Git LFS") as caught:
        read_image(tmp_path / "a.png")
    assert (caught.value.code, caught.value.fix) == ("lfs-pointer", "git lfs pull")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_grey_of_few_bits_becomes_alpha(tmp_path: Path, depth: int) -> None:
    header = (8).to_bytes(4) + (2).to_bytes(4) + bytes([depth, 0, 0, 0, 0])
    rows = b"\0" + b"\xff" * depth + b"\0" + bytes(depth)  # white, black: eight pixels each
    for key, alpha in ((2**depth - 1, [0, 255]), (0, [255, 0])):
        chunks = [(b"IHDR", header), (b"tRNS", key.to_bytes(2)), (b"IDAT", zlib.compress(rows))]
        content = b"".join(chunk(*one) for one in [*chunks, (b"IEND", b"")])
        (tmp_path / "a.png").write_bytes(PNG_START + content)
        read = read_image(tmp_path / "a.png")
        assert read[:, 0].tolist() == [[255, alpha[0]], [0, alpha[1]]]
        assert (read == read[:, :1]).all()
