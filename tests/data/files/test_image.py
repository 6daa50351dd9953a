"""Images: whatever a file holds comes out as it is, or the file is named in an error."""

import contextlib
import os
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tests.builders import noise
from unetseg.data.files.bands import effective_bands, match_bands
from unetseg.data.files.folders import IMAGE_SUFFIXES
from unetseg.data.files.image import ImageFile, read_image
from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.masks.mask_values import mask_facts
from unetseg.errors import DataError, ImageError

Array = NDArray[Any]
RELAXED = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# Round trips


@RELAXED
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]),
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 13)),
    )
)
def test_files_hold_every_band_count_and_type_exactly(tmp_path: Path, array: Array) -> None:
    names: dict[str, Callable[[Path, Array], None]] = {"a.tif": write_tiff}
    if array.dtype in (np.uint8, np.uint16) and array.shape[2] <= 4:
        names["a.png"] = write_png
    for name, write in names.items():
        write(tmp_path / name, array)
        read = read_image(tmp_path / name)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def test_pillow_reads_the_tiff_that_is_written(tmp_path: Path) -> None:
    flat = noise(7, 5)
    write_tiff(tmp_path / "flat.tif", flat)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "flat.tif")), flat)


def test_png_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="int16"):
        write_png(tmp_path / "a.png", noise(3, 3, dtype="int16"))
    with pytest.raises(ImageError, match="13"):
        write_png(tmp_path / "a.png", noise(3, 3, 13))
    with pytest.raises(ImageError, match=r"\(0, 3\)"):
        write_png(tmp_path / "a.png", noise(0, 3))
    for index in (noise(3, 3, dtype="uint16"), noise(3, 3, 3)):
        with pytest.raises(ImageError, match="PNG with a palette"):
            write_png(tmp_path / "a.png", index, palette=[0] * 768)
    assert not list(tmp_path.iterdir())


# Files of other programs


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_bands_come_last(
    tmp_path: Path, compression: str | None, planar: str, order: Literal["<", ">"]
) -> None:
    pixels = noise(9, 11, 13, dtype="uint16")
    stored = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
    options: dict[str, Any] = {"compression": compression, "planarconfig": planar}
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric="minisblack", byteorder=order, **options
    )
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels)


def test_imagej_channels_are_bands(tmp_path: Path) -> None:
    pixels = noise(4, 9, 11, dtype="uint16")
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, metadata={"axes": "CYX"})
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels.transpose(1, 2, 0))


def write_ome_set(folder: Path, names: Sequence[str]) -> Array:
    """Write an OME data set of two files, a band in each, which call one another so; H×W×2."""
    planes = noise(7, 9, 2)
    folder.mkdir()
    bands = "".join(
        f'<TiffData FirstC="{band}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{band}'
        "</UUID></TiffData>"
        for band, name in enumerate(names)
    )
    for band in range(2):
        text = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{band}"><Image><Pixels DimensionOrder="XYCZT" Type="uint8" SizeX="9" '
            f'SizeY="7" SizeC="2" SizeZ="1" SizeT="1">{bands}</Pixels></Image></OME>'
        )
        path = folder / f"{band}.tif"
        tifffile.imwrite(path, planes[..., band], description=text, metadata=None)
    return planes


def test_a_link_to_a_file_of_a_data_set_shows_the_whole_set(tmp_path: Path) -> None:
    planes = write_ome_set(tmp_path / "set", ["0.tif", "1.tif"])
    (tmp_path / "link.tif").symlink_to(tmp_path / "set" / "0.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "link.tif"), planes)


def test_a_missing_file_of_a_data_set_is_named(tmp_path: Path) -> None:
    write_ome_set(tmp_path / "set", ["0.tif", "1.tif"])
    (tmp_path / "set" / "1.tif").unlink()
    reason = r"0\.tif cannot be read: files of its data set are missing: 1\.tif"
    with pytest.raises(ImageError, match=reason):
        read_image(tmp_path / "set" / "0.tif")


def test_a_missing_page_is_named(tmp_path: Path) -> None:
    text = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image><Pixels '
        'DimensionOrder="XYCZT" Type="uint8" SizeX="9" SizeY="7" SizeC="2" SizeZ="1" SizeT="1">'
        '<TiffData PlaneCount="1"/></Pixels></Image></OME>'
    )
    tifffile.imwrite(tmp_path / "a.tif", noise(7, 9), description=text, metadata=None)
    with pytest.raises(ImageError, match="pages that its header names are missing"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("place", ["../other/1.tif", "{}/other/1.tif", "..\\other\\1.tif"])
def test_no_file_of_another_folder_is_of_a_data_set(tmp_path: Path, place: str) -> None:
    write_ome_set(tmp_path / "other", ["0.tif", "1.tif"])
    name = place.format(tmp_path)
    write_ome_set(tmp_path / "set", ["0.tif", name])
    with pytest.raises(ImageError, match="a file in another folder") as caught:
        read_image(tmp_path / "set" / "0.tif")
    assert repr(name) in caught.value.summary


@pytest.mark.row(30)
@pytest.mark.parametrize("axes", ["ZYX", "TYX", None])
def test_stacks_of_pages_are_refused(tmp_path: Path, axes: str | None) -> None:
    metadata = {"axes": axes} if axes else None
    imagej = axes is not None
    tifffile.imwrite(
        tmp_path / "a.tif",
        noise(6, 9, 11),
        imagej=imagej,
        metadata=metadata,
        photometric="minisblack",
    )
    with pytest.raises(ImageError, match=r"a\.tif holds .*expected one image"):
        read_image(tmp_path / "a.tif")


def test_pages_of_different_shape_are_refused_but_overviews_are_not(tmp_path: Path) -> None:
    big, small = noise(16, 16), noise(5, 3)
    for kind, name in ((0, "pages.tif"), (1, "overview.tif")):
        with tifffile.TiffWriter(tmp_path / name) as file:
            file.write(big, metadata=None)
            file.write(small, subfiletype=kind, metadata=None)
    with pytest.raises(ImageError, match="2 different images"):
        read_image(tmp_path / "pages.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "overview.tif")[..., 0], big)


@pytest.mark.row(30)
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_grey_keeps_its_values(tmp_path: Path, name: str) -> None:
    pixels = noise(6, 7, dtype="uint16")
    Image.fromarray(pixels).save(tmp_path / name)
    read = read_image(tmp_path / name)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read[..., 0], pixels)


@pytest.mark.parametrize("bands", [3, 4])
def test_sixteen_bit_colour_png_keeps_its_low_byte(tmp_path: Path, bands: int) -> None:
    pixels = noise(6, 7, bands, dtype="uint16")
    order = [2, 1, 0, 3][:bands]  # OpenCV stores BGR
    cv2.imwrite(str(tmp_path / "a.png"), pixels[..., order])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


def test_one_bit_is_0_and_255(tmp_path: Path) -> None:
    bits = noise(6, 7) > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", bits, photometric="minisblack")
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name)[..., 0], bits * np.uint8(255))


@pytest.mark.row(30)
def test_palettes_become_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(noise(8, 8, 3)).quantize(16)
    for name in ("a.png", "a.tif"):
        picture.save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name), picture.convert("RGB"))
    picture.save(tmp_path / "b.png", transparency=0)
    with Image.open(tmp_path / "b.png") as clear:
        expected = np.asarray(clear.convert("RGBA"))
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), expected)


def test_a_colour_map_of_8_bits_keeps_its_colours(tmp_path: Path) -> None:
    table, indexes = noise(256, 3), noise(8, 8, seed=1)
    for name, factor in (("old.tif", 1), ("usual.tif", 257)):
        colours = table.T.astype(np.uint16) * factor
        tifffile.imwrite(tmp_path / name, indexes, photometric="palette", colormap=colours)
        np.testing.assert_array_equal(read_image(tmp_path / name), table[indexes])


@pytest.mark.parametrize(
    ("pixels", "key"),
    [
        (noise(8, 8, 3), (1, 2, 3)),
        (noise(8, 8), 7),
        (noise(8, 8) > 127, 0),
        (noise(8, 8, dtype=np.uint16), 300),
    ],
)
def test_a_colour_that_stands_for_transparency_becomes_alpha(
    tmp_path: Path, pixels: NDArray[Any], key: int | tuple[int, ...]
) -> None:
    pixels[:3] = key
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=key)
    opaque = (pixels != np.array(key)).reshape(8, 8, -1).any(-1)
    with ImageFile(tmp_path / "a.png") as file:
        assert file.alpha
        read = file.read()
    bands = read.shape[-1] - 1
    np.testing.assert_array_equal(read[..., -1] > 0, opaque)
    white = 255 if pixels.dtype == bool else 1
    np.testing.assert_array_equal(read[..., :bands], (pixels * white).reshape(8, 8, bands))


def test_grey_gifs_are_grey(tmp_path: Path) -> None:
    grey = np.array([[0, 17], [200, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.gif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.gif")[..., 0], grey)


@pytest.mark.row(30)
def test_cmyk_jpeg_becomes_rgb_and_grey_alpha_stays(tmp_path: Path) -> None:
    Image.fromarray(noise(8, 8, 4), "CMYK").save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), expected)
    pair = noise(8, 8, 2)
    Image.fromarray(pair, "LA").save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), pair)


@pytest.mark.row(28)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_orientation_is_told_and_applied(tmp_path: Path, orientation: int, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(4, 6, 3)).save(tmp_path / name, exif=exif, lossless=True)
    with Image.open(tmp_path / name) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    with ImageFile(tmp_path / name) as image:
        assert (image.orientation, image.size) == (orientation, expected.shape[:2])
        np.testing.assert_array_equal(image.read(), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_behind_the_pixels_of_a_png_is_applied(
    tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = noise(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    expected = read_image(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4])
    moved = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    (tmp_path / "a.png").write_bytes(moved)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)
    with ImageFile(tmp_path / "a.png") as image:
        assert image.orientation == orientation


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_exif_that_cannot_be_read_turns_nothing(tmp_path: Path, name: str) -> None:
    image = Image.new("RGB", (40, 30))
    image.save(tmp_path / name, dpi=(72, 72), exif=b"Exif\0\0" + bytes(64))
    with ImageFile(tmp_path / name) as file:
        assert (file.orientation, file.size, file.read().shape) == (1, (30, 40), (30, 40, 3))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        *((name, told) for name in ("a.png", "a.jpg", "a.tif") for told in (0, 9, 256)),
        ("a.tif", (6, 6)),
    ],
)
def test_an_orientation_that_is_none_turns_nothing(tmp_path: Path, name: str, told: Any) -> None:
    """Such as 1 with its bytes in the wrong order."""
    pixels, exif = noise(30, 40, 3), Image.Exif()
    exif[0x0112] = told
    if name == "a.tif":
        tag = (0x0112, 3, np.size(told), told, True)
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", extratags=[tag])
    else:
        Image.fromarray(pixels).save(tmp_path / name, exif=exif)
    with ImageFile(tmp_path / name) as file:
        assert (file.orientation, file.size, file.read().shape) == (1, (30, 40), (30, 40, 3))


def test_content_and_not_the_suffix_decides(tmp_path: Path) -> None:
    pixels = noise(6, 7, 5, dtype="int16")
    write_tiff(tmp_path / "a.tif", pixels)
    (tmp_path / "a.tif").rename(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.row(30)
@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.array([[-128, 127]], np.int8), "int16"),
        (np.array([[0, 65535]], np.uint32), "float32"),
        (np.array([[-5, 300]], np.int32), "float32"),
        (np.array([[-1, 70000]], np.int32), "float32"),
        (np.array([[0.5, 2.25]], np.float64), "float32"),
        (np.array([[0.5, 2.25]], np.float16), "float32"),
    ],
)
def test_other_number_types_keep_their_values(tmp_path: Path, stored: Array, expected: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", stored)
    read = read_image(tmp_path / "a.tif")
    assert read.dtype == expected
    np.testing.assert_array_equal(read[..., 0], stored)


@pytest.mark.parametrize(
    "stored",
    [np.array([[0, 2**31]], np.uint32), np.array([[0, 1e300]]), np.array([[1j, 2]], np.complex64)],
)
def test_values_that_do_not_fit_are_refused(tmp_path: Path, stored: Array) -> None:
    tifffile.imwrite(tmp_path / "a.tif", stored)
    with pytest.raises(ImageError, match=r"a\.tif holds"):
        read_image(tmp_path / "a.tif")


# Damage


def animated(path: Path) -> None:
    frames = [Image.fromarray(noise(8, 8, seed=seed)) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def folder(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.row(25)
@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("a.png", lambda path: path.write_bytes(b""), "empty"),
        ("a.png", lambda path: path.write_text("not an image\n" * 20), "no image"),
        ("a.tif", lambda path: path.write_bytes(b"II*\0"), "cannot be read"),
        ("a.jpg", lambda path: None, "No such file"),
        ("a.png", folder, "no regular file"),
        ("a.png", os.mkfifo, "no regular file"),
        ("a.png", loop, "cannot be read"),
        ("a.gif", animated, "3 frames"),
        ("a.eps", lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n"), "no image"),
    ],
)
def test_what_is_no_image_is_named(
    tmp_path: Path, name: str, make: Callable[[Path], object], reason: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(tmp_path / name)
    assert str(tmp_path / name) in caught.value.summary
    assert caught.value.fix


@pytest.mark.row(25)
@pytest.mark.parametrize(
    "suffix", [".png", ".jpg", ".bmp", ".gif", ".webp", ".ppm", ".jp2", ".tif"]
)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_files_are_named(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(64, 64, 3)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ImageError, match=r"a\.\w+ cannot be read"):
        read_image(path)


def test_a_png_with_whole_pixels_is_read_though_its_end_is_lost(tmp_path: Path) -> None:
    pixels = noise(64, 64, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:-12])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits"])
def test_tiff_that_lost_its_last_byte_is_named(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(64, 64, 3), compression=compression, photometric="rgb")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ImageError, match="truncated"):
        read_image(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".webp", ".bmp", ".tif"])
def test_flipped_bytes_raise_nothing_but_image_errors(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(12, 12, 3)).save(path)
    content = path.read_bytes()
    rng = random.Random(suffix)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ImageError):
            read_image(path)


@pytest.mark.row(26)
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_decompression_bombs_are_refused(tmp_path: Path, action: Any) -> None:
    path = tmp_path / "bomb.png"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.new("1", (20_000, 6_000)).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(ImageError, match=r"bomb.*120000000.*89478485") as caught:
            read_image(path)
    assert "--max-pixels 120000000" in caught.value.fix


@pytest.mark.parametrize("header", [b"II*\0\0\0\0\0", b"MM\0*\0\0\0\0"])
def test_a_header_alone_is_no_image(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "a.tif").write_bytes(header)
    with pytest.raises(ImageError, match=r"a\.tif cannot be read: it ends before its first image"):
        read_image(tmp_path / "a.tif")


@pytest.mark.row(25)
@pytest.mark.parametrize("pages", [1, 3, 150])
@pytest.mark.parametrize("back", [0, 1])
def test_pages_that_lead_in_a_circle_end(tmp_path: Path, pages: int, back: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(pages, 4, 5), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as file:
        offsets = [page.offset for page in file.pages]
        last = offsets[-1] + 2 + 12 * len(file.pages[-1].aspage().tags)
    content = bytearray(path.read_bytes())
    content[last : last + 4] = offsets[-1 if back else 0].to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.tif cannot be read: its pages lead in a circle"):
        ImageFile(path)


@pytest.mark.row(26)
@pytest.mark.parametrize("sides", [(1, 1), (64, 64)])
def test_too_many_bands_are_the_fault_of_their_file(tmp_path: Path, sides: tuple[int, int]) -> None:
    """A TIFF of some 200 bytes holds an image of 65,535 bands."""
    write_tiff(tmp_path / "a.tif", np.zeros((*sides, 65_535), np.uint8))
    for action in (read_image, ImageFile, mask_facts):
        with pytest.raises(
            DataError, match=r"a\.tif cannot be read: it has 65535 bands, at most 5"
        ):
            action(tmp_path / "a.tif")


@pytest.mark.row(26)
def test_tiff_bombs_are_refused_but_large_tiffs_are_not(tmp_path: Path) -> None:
    write_tiff(tmp_path / "bomb.tif", np.zeros((600, 600), np.uint8))
    write_tiff(tmp_path / "large.tif", noise(600, 600))
    with pytest.raises(ImageError, match=r"bomb.*600×600 = 360000.*1000"):
        read_image(tmp_path / "bomb.tif", max_pixels=1000)
    assert read_image(tmp_path / "large.tif", max_pixels=1000).shape == (600, 600, 1)


def test_the_pixel_limit_can_be_set(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", noise(16, 16))
    with pytest.raises(ImageError, match="limit is 255") as caught:
        read_image(tmp_path / "a.png", max_pixels=255)
    assert "--max-pixels 256" in caught.value.fix
    assert read_image(tmp_path / "a.png", max_pixels=256).shape == (16, 16, 1)


# What the header tells


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".png", "PNG"),
        (".jpg", "JPEG"),
        (".tif", "TIFF"),
        (".gif", "GIF"),
        (".bmp", "BMP"),
        (".webp", "WEBP"),
        (".ppm", "PPM"),
        (".jp2", "JPEG2000"),
    ],
)
def test_the_content_tells_format_and_size(tmp_path: Path, suffix: str, kind: str) -> None:
    Image.fromarray(noise(8, 9, 3)).save(tmp_path / f"a{suffix}")
    path = (tmp_path / f"a{suffix}").rename(tmp_path / "a.dat")
    with ImageFile(path) as image:
        assert (image.format, image.size, image.pixels) == (kind, (8, 9), 72)


def test_two_photographs_in_a_jpeg_are_a_jpeg(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(8, 9, 3, seed=seed)) for seed in (0, 1)]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    with ImageFile(tmp_path / "a.jpg") as image:
        assert (image.format, image.lossy, image.read().shape) == ("JPEG", True, (8, 9, 3))


def test_pillow_sees_fewer_bands_than_there_are(tmp_path: Path) -> None:
    def pillow_bands(name: str) -> int | None:
        with ImageFile(tmp_path / name) as image:
            return image.pillow_bands

    for bands in (1, 3):
        write_png(tmp_path / "a.png", noise(5, 6, bands))
        write_tiff(tmp_path / "a.tif", noise(5, 6, bands))
        assert pillow_bands("a.png") == pillow_bands("a.tif") == bands
    write_tiff(tmp_path / "a.tif", noise(5, 6, 13, dtype="int16"))
    assert pillow_bands("a.tif") is None
    tifffile.imwrite(
        tmp_path / "a.tif", noise(13, 5, 6, dtype="int16"), photometric="minisblack", planarconfig=2
    )
    assert pillow_bands("a.tif") in {1, None}


# Bands


@pytest.mark.parametrize(
    ("have", "want"), [(1, 1), (1, 3), (2, 1), (2, 3), (3, 3), (4, 3), (4, 4), (4, 1), (13, 13)]
)
def test_bands_match_without_loss(have: int, want: int) -> None:
    image = np.repeat(noise(5, 6, 1), have, axis=-1)
    if have in {2, 4}:
        image[..., -1] = 255
    matched = match_bands(image, want, Path("a.png"))
    assert matched.shape == (5, 6, want)
    np.testing.assert_array_equal(matched[..., 0], image[..., 0])


@pytest.mark.parametrize(
    ("have", "want"), [(3, 1), (4, 3), (4, 1), (2, 1), (13, 3), (3, 4), (1, 4)]
)
def test_bands_that_would_lose_something_are_refused(have: int, want: int) -> None:
    image = noise(5, 6, have)
    with pytest.raises(ImageError, match=rf"a\.png has {have} bands, expected {want}"):
        match_bands(image, want, Path("a.png"))


def test_only_constant_full_alpha_is_no_band() -> None:
    for dtype, full in (("uint8", 255), ("uint16", 65535)):
        image = noise(4, 4, 4, dtype=dtype)
        assert effective_bands(image) == 4
        image[..., -1] = full
        assert effective_bands(image) == 3
    assert effective_bands(np.full((4, 4, 4), 255, np.float32)) == 4
    assert effective_bands(np.full((4, 4, 3), 255, np.uint8)) == 3


# Real files


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dsb2018", ("uint8", 4, 3)),
        ("drive", ("uint8", 3, 3)),
        ("isbi2012_em", ("uint8", 1, 1)),
        ("nucseg_16bit", ("uint16", 1, 1)),
        ("hot_buildings_geotiff", ("uint8", 3, 3)),
        ("sen1floods11_tiles13band", ("int16", 13, 13)),
        ("sen1floods11_sample", ("int16", 13, 13)),
        ("tiny_voc_palette", ("uint8", 3, 3)),
    ],
)
def test_real_images_have_their_published_kind(
    real_data: Path, name: str, kind: tuple[str, int, int]
) -> None:
    files = [p for p in (real_data / name / "images").rglob("*") if p.suffix in IMAGE_SUFFIXES]
    assert files
    for file in files[:5]:
        image = read_image(file)
        assert (image.dtype.name, image.shape[2], effective_bands(image)) == kind


def test_real_images_are_what_pillow_reads(real_data: Path) -> None:
    formats: set[str] = set()
    for name in ("dsb2018", "camvid", "isbi2012_em", "cwfid", "crackforest", "tiny_ade20k"):
        files = sorted(file for file in (real_data / name).rglob("*") if file.suffix != ".txt")
        for file in (file for file in files[:: max(1, len(files) // 6)] if file.is_file()):
            with Image.open(file) as image:
                formats.add(f"{image.format} {image.mode}")
                expected = np.asarray(ImageOps.exif_transpose(image))
            read = read_image(file)
            np.testing.assert_array_equal(read[..., 0] if expected.ndim == 2 else read, expected)
    assert formats >= {"PNG L", "PNG RGB", "PNG RGBA", "JPEG RGB"}


def test_every_band_of_a_geotiff_differs(real_data: Path) -> None:
    (file,) = (real_data / "sen1floods11_sample" / "images").rglob("*.tif")
    image = read_image(file)
    assert image.shape == (512, 512, 13)
    assert len({image[..., band].tobytes() for band in range(13)}) == 13
    with ImageFile(file) as opened:
        assert (opened.format, opened.pillow_bands) == ("TIFF", 1)
