"""Each fault of a file is one finding with its name; a good folder has none."""

import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from tests.builders import noise, write_geotiff
from unetseg.checks.files import (
    PIXEL_CHECKS,
    inspect_entries,
    inspect_formats,
    inspect_sizes,
    inspect_unreadable,
)
from unetseg.checks.finding import Finding
from unetseg.config import DataConfig
from unetseg.data.facts.fingerprint import describe_pairs
from unetseg.data.facts.survey import Faults, Survey, survey
from unetseg.data.files.image import read_image
from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.masks.mask_file import fitted, read_mask, whole_factor
from unetseg.data.pairs.match import Pair, PairSet
from unetseg.data.sample import draw_sample
from unetseg.errors import DataError

Array = NDArray[Any]
Check = Callable[[Survey], Iterator[Finding]]
COUNT = 6


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sample(tmp_path_factory.mktemp("data") / "sample", count=COUNT, size=64)


@pytest.fixture
def data(sample: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample, tmp_path / "photos"))


def image(data: Path, number: int) -> Path:
    return data / "images" / f"cells_{number:03d}.png"


def mask(data: Path, number: int) -> Path:
    return data / "masks" / f"cells_{number:03d}.png"


def findings_of(known: Survey, *checks: Check) -> list[Finding]:
    return [finding for check in checks for finding in check(known)]


def findings(data: Path, *checks: Check, max_pixels: int | None = None) -> list[Finding]:
    return findings_of(survey(data, DataConfig(max_pixels=max_pixels), strict=False), *checks)


def empty_survey(data: Path, *unreadable: DataError) -> Survey:
    """A folder of which nothing is known but its place and what cannot be read."""
    return Survey(data, PairSet(data, (), ""), {}, faults=Faults(unreadable=unreadable))


def unreadable(data: Path, max_pixels: int | None = None) -> dict[str, Finding]:
    listed = findings(data, inspect_unreadable, max_pixels=max_pixels)
    found = {finding.check: finding for finding in listed}
    assert all(finding.severity == "error" and finding.fix for finding in found.values())
    return found


def formats(data: Path) -> list[Finding]:
    return findings(data, inspect_formats)


def sizes(data: Path) -> list[Finding]:
    return findings(data, inspect_sizes)


def only(found: Iterable[Finding], check: str, severity: str) -> Finding:
    """The one finding there is."""
    (finding,) = found
    assert (finding.check, finding.severity) == (check, severity)
    assert finding.fix or severity == "note"
    return finding


def names(finding: Finding) -> list[str]:
    return [line.split(": ")[0].split()[0].rsplit("/")[-1] for line in finding.files]


def test_a_good_folder_has_no_finding(data: Path) -> None:
    checks = (
        inspect_unreadable,
        inspect_formats,
        inspect_entries,
        inspect_sizes,
        *PIXEL_CHECKS,
    )
    assert findings(data, *checks) == []
    assert findings_of(empty_survey(data), *checks) == []


# ------------------------------------------------------------------ files that cannot be read


@pytest.mark.row(25)
def test_damaged_files_are_told_apart(data: Path) -> None:
    image(data, 0).write_bytes(image(data, 0).read_bytes()[:2000])
    mask(data, 0).write_bytes(mask(data, 0).read_bytes()[:-60])
    image(data, 1).write_bytes(b"")
    mask(data, 1).write_bytes(b"")
    image(data, 2).write_text("not an image")
    photo = image(data, 3).with_suffix(".jpg")
    Image.open(image(data, 3)).save(photo)
    photo.write_bytes(photo.read_bytes()[:-300])
    image(data, 3).unlink()
    found = unreadable(data)
    assert {check: names(finding) for check, finding in found.items()} == {
        "empty-file": ["cells_001.png", "cells_001.png"],
        "no-image": ["cells_002.png"],
        "unreadable-file": ["cells_000.png", "cells_000.png", "cells_003.jpg"],
    }
    assert found["empty-file"].summary == "2 empty files"
    assert found["unreadable-file"].summary == "3 truncated or damaged files"


@pytest.mark.row(26)
def test_one_limit_lets_all_bombs_pass(data: Path) -> None:
    Image.new("1", (80, 80)).save(image(data, 0))
    write_tiff(image(data, 1).with_suffix(".tif"), np.zeros((900, 900), np.uint8))
    image(data, 1).unlink()
    (found,) = unreadable(data, 5000).values()
    assert (found.check, names(found)) == ("decompression-bomb", ["cells_000.png", "cells_001.tif"])
    assert found.fix.endswith("--max-pixels 810000.")
    assert not unreadable(data, 810_000)


@pytest.mark.row(30)
def test_animations_and_stacks_hold_several_images(data: Path) -> None:
    frames = [Image.open(image(data, n)) for n in (0, 1)]
    moving, stack = image(data, 0).with_suffix(".gif"), image(data, 1).with_suffix(".tif")
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    tifffile.imwrite(stack, np.zeros((5, 2, 64, 64), np.uint8), photometric="minisblack")
    for number in (0, 1):
        image(data, number).unlink()
    (found,) = unreadable(data).values()
    assert (found.check, names(found)) == ("several-pages", [moving.name, stack.name])
    assert found.summary == "2 files with several images"


def test_masks_of_fractions_or_bands_are_no_masks(data: Path) -> None:
    spoilt: list[NDArray[Any]] = [
        np.full((64, 64), 0.5, np.float32),
        np.arange(2**14).astype(np.uint8).reshape(64, 64, 4),
        np.full((64, 64), 2**40, np.int64),
        np.full((64, 64), np.inf, np.float32),
    ]
    for number, pixels in enumerate(spoilt):
        mask(data, number).unlink()
        tifffile.imwrite(mask(data, number).with_suffix(".tif"), pixels)
    (found,) = unreadable(data).values()
    assert (found.check, len(found.files)) == ("mask-values", 4)


def test_values_that_no_type_holds(data: Path) -> None:
    image(data, 4).unlink()
    tifffile.imwrite(image(data, 4).with_suffix(".tif"), np.full((64, 64), 2**40, np.int64))
    (found,) = unreadable(data).values()
    assert (found.check, names(found)) == ("unusable-file", ["cells_004.tif"])


def test_files_of_a_table_that_are_gone_or_pipes(data: Path) -> None:
    os.mkfifo(data / "pipe.png")
    pairs = [
        Pair(data / "gone.png", mask(data, 0), "a"),
        Pair(image(data, 0), data / "pipe.png", "b"),
    ]
    _, failures = describe_pairs(pairs)
    known = empty_survey(data / "list.csv", *(e for errors in failures.values() for e in errors))
    found = {finding.check: names(finding) for finding in inspect_unreadable(known)}
    assert found == {"missing-file": ["gone.png"], "no-regular-file": ["pipe.png"]}


def test_a_nan_image_beside_a_broken_mask_is_told(data: Path) -> None:
    image(data, 5).unlink()
    write_tiff(image(data, 5).with_suffix(".tif"), np.full((64, 64, 3), np.inf, np.float32))
    mask(data, 5).write_bytes(b"")
    assert set(unreadable(data)) == {"nan-pixels", "empty-file"}


# ------------------------------------------------------------------ entries


def entries(data: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in inspect_entries(empty_survey(data))}


@pytest.mark.row(31)
def test_links_pipes_and_sockets_are_named_without_waiting(data: Path) -> None:
    os.mkfifo(data / "images" / "pipe.png")
    (data / "images" / "gone.png").symlink_to("nowhere.png")
    (data / "images" / "self.png").symlink_to("self.png")
    (data / "more masks").symlink_to("/nowhere/masks")
    (data / ".hidden.png").symlink_to("nowhere.png")
    os.mkfifo(data / "pipe")  # nobody takes it for an image
    (data / "fine.png").symlink_to(image(data, 0))
    here = Path.cwd()
    os.chdir(data / "masks")  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.png")
    os.chdir(here)
    found = entries(data)
    assert [(check, finding.severity) for check, finding in found.items()] == [
        ("no-regular-file", "error"),
        ("broken-link", "warning"),
    ]
    assert [line.rsplit("/", 1)[1] for line in found["no-regular-file"].files] == [
        "gone.png: a link to nowhere.png, which is not there",
        "pipe.png: a pipe",
        "self.png: a link that leads to itself",
        "s.png: a socket",
    ]
    assert found["broken-link"].files == (
        f"{data}/more masks: a link to /nowhere/masks, which is not there",
    )


def test_rasters_that_are_read_by_name_are_a_note(data: Path) -> None:
    (data / "images" / "mosaic.VRT").write_text("<VRTDataset>")
    (data / "scene.img").write_bytes(b"EHFA_HEADER_TAG")
    (data / "scene.bsq").write_bytes(b"1234")
    (data / "scene.hdr").write_text("ENVI\n")
    (data / "disk.img").write_bytes(b"no raster")
    os.mkfifo(data / "pipe.img")
    found = only(entries(data).values(), "unnamed-raster", "note")
    names = {str(path) for path in (data / "images" / "mosaic.VRT", data / "scene.bsq")}
    assert {*found.files} == names | {str(data / "scene.img")}


@pytest.mark.row(31)
def test_rasters_that_a_table_names_are_images(tmp_path: Path) -> None:
    options = {"height": 40, "width": 50, "count": 3, "dtype": "uint8", "driver": "HFA"}
    for name in ("a", "b"):
        transform = rasterio.Affine(2, 0, 5e5, 0, -2, 5.2e6)
        with rasterio.open(tmp_path / f"{name}.img", "w", transform=transform, **options) as file:
            file.write(noise(3, 40, 50))
        write_png(tmp_path / f"{name}_mask.png", noise(40, 50) // 128 * 255)
    (tmp_path / "pairs.csv").write_text("image,mask\na.img,a_mask.png\n")
    folder = survey(tmp_path, DataConfig(), strict=False)
    assert [pair.image.name for pair in folder.pairs.pairs] == ["a.img"]
    (found,) = inspect_entries(folder)
    assert found.files == (str(tmp_path / "b.img"),)


@pytest.mark.parametrize("target", [".", "..", "../..", "/"])
def test_a_link_to_a_folder_above_is_a_loop(data: Path, target: str) -> None:
    (data / "images" / "loop").symlink_to(target)
    found = only(entries(data).values(), "link-loop", "note")
    assert found.files[0].startswith(f"{data}/images/loop: a link to /")


@pytest.mark.row(31)
def test_links_from_folder_to_folder_end(data: Path) -> None:
    for number in range(12):  # every folder leads to all others: 12! ways
        (data / str(number)).mkdir()
        for other in range(12):
            (data / str(number) / f"to{other}").symlink_to(data / str(other))
    assert set(entries(data)) <= {"link-loop"}


def test_a_csv_file_or_a_missing_folder_has_no_entries(data: Path) -> None:
    assert entries(data / "pairs.csv") == entries(data / "nowhere") == {}


@pytest.mark.row(31)
def test_what_may_not_be_read_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(data, 1).chmod(0)
    (data / "masks").chmod(0)
    if os.geteuid() == 0:  # root may read everything: ask as somebody else would
        closed = {image(data, 1), data / "masks"}
        monkeypatch.setattr(os, "access", lambda path, _mode: path not in closed)
        walk = Path.iterdir

        def guarded(folder: Path) -> Iterator[Path]:
            if folder in closed:
                raise PermissionError(errno.EACCES, "Permission denied")
            return walk(folder)

        monkeypatch.setattr(Path, "iterdir", guarded)
    (found,) = entries(data).values()
    (data / "masks").chmod(0o700)
    assert (found.check, found.severity) == ("no-permission", "error")
    assert found.files == (
        f"{image(data, 1)}: Permission denied",
        f"{data}/masks: Permission denied",
    )


def test_a_folder_that_may_be_listed_and_not_entered_is_told(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "masks").chmod(0o600)
    if os.geteuid() == 0:  # as above
        look = os.stat

        def guarded(path: Any, **how: Any) -> os.stat_result:
            if str(path).startswith(f"{data}/masks/"):
                raise PermissionError(errno.EACCES, "Permission denied")
            return look(path, **how)

        monkeypatch.setattr(os, "stat", guarded)
    found = only(entries(data).values(), "no-permission", "error")
    closed = DataError(f"{mask(data, 0)} cannot be read", paths=[mask(data, 0)])
    assert not list(inspect_unreadable(empty_survey(data, closed)))  # it is told
    (data / "masks").chmod(0o700)
    assert len(found.files) == COUNT
    assert found.files[0] == f"{mask(data, 0)}: Permission denied"


# ------------------------------------------------------------------ formats


def test_suffixes_of_another_content_are_named_with_the_right_one(data: Path) -> None:
    image(data, 0).rename(image(data, 0).with_suffix(".jpg"))
    Image.open(image(data, 1)).save(image(data, 1).with_suffix(".jpeg"))
    image(data, 1).with_suffix(".jpeg").rename(image(data, 1))
    write_tiff(data / "masks" / "new.tif", np.zeros((64, 64), np.uint8))
    (data / "masks" / "new.tif").rename(mask(data, 2))
    found = only(formats(data), "wrong-suffix", "warning")
    assert found.files == (
        f"{image(data, 0).with_suffix('.jpg')}: the content is PNG, so .png",
        f"{image(data, 1)}: the content is JPEG, so .jpg",
        f"{mask(data, 2)}: the content is TIFF, so .tif",
    )
    assert "--fix" in found.command


@pytest.mark.parametrize("suffix", [".jpeg", ".JPG", ".jfif", ".TIFF", ".pgm", ".bmp", ".webp"])
def test_other_right_suffixes_are_fine(data: Path, suffix: str) -> None:
    Image.open(image(data, 0)).convert("L").save(image(data, 0).with_suffix(suffix))
    image(data, 0).unlink()
    assert formats(data) == []


def turn(path: Path, orientation: int, size: tuple[int, int]) -> None:
    """Crop an image and save it with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(path).crop((0, 0, *size)).save(path, exif=exif)


@pytest.mark.row(28)
def test_a_turned_image_whose_upright_mask_fits_is_a_note(data: Path) -> None:
    turn(image(data, 0), 6, (64, 40))
    Image.open(mask(data, 0)).crop((0, 0, 40, 64)).save(mask(data, 0))
    found = only(formats(data), "stored-turned", "note")
    assert found.files == (f"{image(data, 0)}: orientation 6",)


@pytest.mark.parametrize("orientation", [3, 8])
def test_a_turned_image_whose_mask_fits_both_ways_is_a_warning(
    data: Path, orientation: int
) -> None:
    turn(image(data, 0), orientation, (64, 64))
    found = only(formats(data), "perhaps-turned", "warning")
    assert [image(data, 0).name in file for file in found.files] == [True]


def test_bands_that_pillow_overlooks_are_a_note(real_data: Path) -> None:
    found = only(formats(real_data / "sen1floods11_sample"), "unseen-bands", "note")
    assert found.files[0].endswith(": 1 of 13")


@pytest.mark.parametrize(
    "name", ["drive", "hot_buildings_geotiff", "tiny_kvasir_jpgmask", "sen1floods11_tiles13band"]
)
def test_real_folders_have_nothing_else(real_data: Path, name: str) -> None:
    assert findings(real_data / name, inspect_unreadable, inspect_formats, inspect_entries) == []


# ------------------------------------------------------------------ sizes


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """As `data`, of 96×96 pixels."""
    return draw_sample(tmp_path / "large", count=COUNT, size=96)


def resize(path: Path, width: int, height: int) -> None:
    Image.open(path).resize((width, height), Image.Resampling.NEAREST).save(path)


def test_whole_factors_are_one_finding(large: Path) -> None:
    resize(mask(large, 0), 48, 48)
    resize(mask(large, 1), 192, 192)
    resize(mask(large, 2), 24, 24)
    found = only(sizes(large), "size-factor", "warning")
    assert found.summary.startswith("3 masks")
    assert found.files == tuple(
        f"{image(large, n)} is 96×96, {mask(large, n)} is {side}×{side}"
        for n, side in enumerate((48, 192, 24))
    )
    assert found.command == "unetseg check DATA --fix OUT"


@pytest.mark.row(28)
@pytest.mark.parametrize("size", [(96, 48), (48, 96), (47, 47), (90, 96), (95, 95), (3, 3)])
def test_other_sizes_are_another(large: Path, size: tuple[int, int]) -> None:
    resize(mask(large, 3), *size)
    found = only(sizes(large), "size-mismatch", "error")
    assert found.files == (f"{image(large, 3)} is 96×96, {mask(large, 3)} is {size[0]}×{size[1]}",)
    assert "nearest" in found.fix
    assert not found.command


def test_swapped_sides_are_another(large: Path) -> None:
    resize(image(large, 4), 96, 64)
    resize(mask(large, 4), 64, 96)
    found = only(sizes(large), "size-swapped", "error")
    assert found.files[0].endswith("is 64×96")


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_drawn_before_the_rotation_is_another(large: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(image(large, 5)).crop((0, 0, 96, 64)).save(image(large, 5), exif=exif)
    resize(mask(large, 5), 96, 64)  # as stored
    assert read_image(image(large, 5)).shape[:2] == read_mask(mask(large, 5)).pixels.shape[::-1]
    found = only(sizes(large), "size-unturned", "error")
    assert "rotation" in found.summary
    assert found.command == "unetseg check DATA --fix OUT"
    resize(mask(large, 5), 64, 96)  # as seen
    assert sizes(large) == []


def test_each_kind_is_a_finding_of_its_own(large: Path) -> None:
    resize(mask(large, 0), 48, 48)
    resize(mask(large, 1), 50, 48)
    resize(image(large, 2), 96, 64)
    resize(mask(large, 2), 64, 96)
    checks = [finding.check for finding in sizes(large)]
    assert sorted(checks) == ["size-factor", "size-mismatch", "size-swapped"]


def test_very_small_images_are_a_note(large: Path) -> None:
    for path in (image(large, 0), mask(large, 0)):
        resize(path, 96, 31)
    (found,) = sizes(large)
    assert (found.check, found.severity, found.files) == (
        "small-images",
        "note",
        (f"{image(large, 0)}: 96×31",),
    )


def test_very_unequal_images_are_a_note(large: Path) -> None:
    for path in (image(large, 0), mask(large, 0)):
        resize(path, 768, 767)
    assert sizes(large) == []
    for path in (image(large, 0), mask(large, 0)):
        resize(path, 768, 768)
    found = only(sizes(large), "unequal-sizes", "note")
    assert "from 96×96 to 768×768" in found.summary


@given(
    height=st.integers(1, 99), width=st.integers(1, 99), factor=st.sampled_from([2, 3, 4, 8, 16])
)
def test_a_whole_factor_brings_the_mask_to_the_size_of_the_image(
    height: int, width: int, factor: int
) -> None:
    small, large = (height, width), (height * factor, width * factor)
    assert whole_factor(large, small) == factor
    assert whole_factor(small, large) == 1 / factor
    assert whole_factor(large, large) is None
    index = np.random.default_rng(0).integers(0, 9, small, dtype=np.uint8)
    assert np.array_equal(fitted(fitted(index, large), small), index)
    assert fitted(index, (height + 1, width)) is index


@pytest.mark.parametrize("name", ["drive", "cwfid", "tiny_ade20k", "hot_buildings_geotiff"])
def test_real_folders_have_no_finding(real_data: Path, name: str) -> None:
    assert sizes(real_data / name) == []


# ------------------------------------------------------------------ pixels


def stored(data: Path, number: int) -> Path:
    """The image, whatever its suffix is by now."""
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
        pixels = change(read_image(stored(data, number)).copy())
        stored(data, number).unlink()
        paths.append(data / "images" / f"cells_{number:03d}.tif")
        write_geotiff(paths[-1], pixels, nodata=nodata)
    return [str(path) for path in paths]


def pixels(data: Path) -> list[Finding]:
    return findings(data, *PIXEL_CHECKS)


def with_value(value: ArrayLike) -> Callable[[Array], Array]:
    """The pixels as float32, 16 of 64 rows (a quarter) with a value."""

    def change(pixels: Array) -> Array:
        pixels = pixels.astype(np.float32)
        pixels[:16] = value
        return pixels

    return change


# ------------------------------------------------------------------ numbers


@pytest.mark.row(16)
def test_nan_and_infinity_are_an_error(data: Path) -> None:
    spoil(data, lambda pixels: pixels.astype(np.float32))
    mixed = [[7, np.nan, 7]]  # NaN in all bands stands for no data
    paths = spoil(data, with_value(mixed), 1) + spoil(data, with_value(np.inf), 4)
    found = only(pixels(data), "nan-pixels", "error")
    assert found.files == tuple(f"{path}: 1024 pixels" for path in paths)
    assert found.summary == "2 images with NaN or infinite pixels"


@pytest.mark.parametrize("nodata", [np.nan, None])
def test_nan_in_all_bands_stands_for_no_data(data: Path, nodata: float | None) -> None:
    spoil(data, lambda pixels: pixels.astype(np.float32))
    spoil(data, with_value(np.nan), 2, nodata=nodata)
    assert [finding.check for finding in pixels(data)] == ["no-data"]


def test_another_declared_scale_is_a_warning(data: Path) -> None:
    (path,) = spoil(data, lambda pixels: pixels, 2)
    with rasterio.open(path, "r+") as file:
        file.scales = (0.5,) * 3
    found = only(pixels(data), "scales-differ", "warning")
    assert found.files == (f"{path}: scale 0.5",)
    assert "1 image with another scale than the others, which declare none" in found.summary


def test_images_of_another_type_or_bands_are_an_error(data: Path) -> None:
    paths = spoil(data, lambda pixels: pixels.astype(np.uint16) * 100, 0)
    paths += spoil(data, lambda pixels: np.dstack([pixels, pixels[..., :2]]), 5)
    found = only(pixels(data), "image-kinds", "error")
    assert found.files == (
        f"{paths[0]} is uint16 with 3 bands",
        f"{paths[1]} is uint8 with 5 bands",
    )
    assert "differ" in found.summary
    assert "most are uint8 with 3 bands" in found.summary


def test_grey_among_colour_is_a_note(data: Path) -> None:
    paths = spoil(data, lambda pixels: pixels[..., :1], 1, 3)
    assert only(pixels(data), "grey-among-colour", "note").files == tuple(paths)


def test_all_grey_is_fine(data: Path) -> None:
    spoil(data, lambda pixels: pixels[..., :1])
    assert pixels(data) == []


# ------------------------------------------------------------------ nothing to see


def test_images_of_one_colour_are_a_warning(data: Path) -> None:
    (black,) = spoil(data, lambda pixels: pixels * 0, 0)
    (violet,) = spoil(data, lambda pixels: pixels * 0 + np.array([90, 0, 90], np.uint8), 1)
    found = only(pixels(data), "constant-image", "warning")
    assert found.files == (f"{black}: all pixels are 0", f"{violet}: all pixels are 90, 0")


def test_an_image_without_any_data_has_one_colour(data: Path) -> None:
    spoil(data, lambda pixels: pixels.astype(np.float32))
    (path,) = spoil(data, lambda pixels: pixels * 0 - 9999, 3, nodata=-9999)
    found = {finding.check: finding for finding in pixels(data)}
    assert set(found) == {"constant-image", "no-data"}
    assert found["constant-image"].files == (f"{path}: no pixel has data",)


def without_green(pixels: Array) -> Array:
    pixels[..., 1] = 7
    return pixels


def test_a_band_that_failed_in_few_images_is_a_warning(data: Path) -> None:
    paths = spoil(data, without_green, 2)
    found = only(pixels(data), "constant-band", "warning")
    assert found.files == (f"{paths[0]}: band 2",)


def test_a_band_that_is_often_empty_is_a_note(data: Path) -> None:
    spoil(data, without_green, 0, 2, 4)
    assert len(only(pixels(data), "constant-band", "note").files) == 3


def test_a_band_that_is_never_used_is_a_note(data: Path) -> None:
    spoil(data, without_green)
    assert only(pixels(data), "unused-band", "note").summary.startswith("band 2 without content")


# ------------------------------------------------------------------ no data


def test_declared_no_data_is_a_note(data: Path) -> None:
    spoil(data, lambda pixels: pixels.astype(np.float32))
    paths = spoil(data, with_value(-9999), 0, 1, 2, nodata=-9999)
    found = only(pixels(data), "no-data", "note")
    assert found.files == tuple(f"{path}: 25.0% of the pixels are -9999" for path in paths)
    assert found.summary == "12.5% of the pixels have no data, in 3 images"


@pytest.mark.parametrize("value", [-9999.0, -32768.0, float(np.finfo(np.float32).min)])
def test_undeclared_no_data_is_a_warning(data: Path, value: float) -> None:
    spoil(data, lambda pixels: pixels.astype(np.float32))
    paths = spoil(data, with_value(value), 0, 5)
    found = only(pixels(data), "undeclared-no-data", "warning")
    assert found.files == tuple(f"{path}: 25.0% of the pixels" for path in paths)
    assert f"{value:g}" in found.summary


def test_each_fill_value_is_a_finding(data: Path) -> None:
    spoil(data, lambda pixels: pixels.astype(np.float32))
    spoil(data, with_value(-9999), 0)
    spoil(data, with_value(65535), 1)
    assert [(finding.check, len(finding.files)) for finding in pixels(data)] == [
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
    found = only(pixels(data), "saturated", "warning")
    assert found.files[0].startswith(f"{path}: 2")


def test_where_many_are_saturated_it_is_a_note(data: Path) -> None:
    spoil(data, overexposed, 0, 1, 2)
    assert len(only(pixels(data), "saturated", "note").files) == 3


def test_saturation_of_sixteen_bits_is_seen_wherever_it_is(data: Path) -> None:
    spoil(data, lambda pixels: pixels.astype(np.uint16) * 16)
    spoil(data, lambda pixels: overexposed(pixels // 16).astype(np.uint16) * 16, 0)
    only(pixels(data), "saturated", "warning")  # at 4080, far from the top of the type


def test_few_levels_are_no_saturation(data: Path) -> None:
    spoil(data, lambda pixels: pixels // 100)
    assert pixels(data) == []


def test_a_fill_value_is_no_saturation(data: Path) -> None:
    spoil(data, lambda pixels: pixels.astype(np.float32))
    spoil(data, with_value(65535), 2)
    only(pixels(data), "undeclared-no-data", "warning")


# ------------------------------------------------------------------ real folders


@pytest.mark.long
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
    found = findings(real_data / name, *PIXEL_CHECKS)
    assert [(one.check, one.severity, len(one.files)) for one in found] == expected


def test_the_sky_of_street_scenes_is_a_note(real_data: Path, tmp_path: Path) -> None:
    for side in ("images", "masks"):
        (tmp_path / side).mkdir()
        for path in sorted((real_data / "camvid" / side / "train").glob("0006R0*"))[:6]:
            shutil.copy(path, tmp_path / side)
    only(pixels(tmp_path), "saturated", "note")


def test_alpha_and_palettes_are_no_finding(data: Path) -> None:
    photo = read_image(stored(data, 0))
    write_png(stored(data, 0), np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)]))
    spoil(data, lambda pixels: pixels, 1)
    Image.open(stored(data, 2)).quantize(250).save(stored(data, 2))
    assert pixels(data) == []
