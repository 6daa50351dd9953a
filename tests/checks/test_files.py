"""Each kind of file that cannot be read is one finding; no entry of a folder is waited for."""

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from unetseg.checks.evidence import Evidence
from unetseg.checks.files import inspect_entries, inspect_files, inspect_formats
from unetseg.checks.finding import Finding
from unetseg.data.facts.fingerprint import PairFacts, describe_pairs
from unetseg.data.files.images import write_tiff
from unetseg.data.pairs.match import Pair, find_pairs
from unetseg.data.sample import draw_sample
from unetseg.errors import DataError


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sample(tmp_path_factory.mktemp("data") / "sample", count=6, size=64)


@pytest.fixture
def data(sample: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample, tmp_path / "photos"))


def image(data: Path, number: int) -> Path:
    return data / "images" / f"cells_{number:03d}.png"


def mask(data: Path, number: int) -> Path:
    return data / "masks" / f"cells_{number:03d}.png"


def look(data: Path) -> tuple[Evidence, list[DataError]]:
    """What can be read of a folder, and what cannot."""
    pairs = find_pairs(data).pairs
    described = list(zip(pairs, describe_pairs(pairs), strict=True))
    known = [(pair, fact) for pair, fact in described if isinstance(fact, PairFacts)]
    failures = [error for _, fact in described if isinstance(fact, list) for error in fact]
    return Evidence(data, tuple(p for p, _ in known), tuple(f for _, f in known)), failures


def unreadable(data: Path) -> dict[str, Finding]:
    found = {finding.check: finding for finding in inspect_files(look(data)[1])}
    assert all(finding.severity == "error" and finding.fix for finding in found.values())
    return found


def formats(data: Path) -> list[Finding]:
    return list(inspect_formats(look(data)[0]))


def names(finding: Finding) -> list[str]:
    return [line.split(": ")[0].split()[0].rsplit("/")[-1] for line in finding.files]


def test_a_good_folder_has_no_finding(data: Path) -> None:
    evidence, failures = look(data)
    assert [*inspect_files(failures), *inspect_formats(evidence), *inspect_entries(data)] == []


# ------------------------------------------------------------------ files that cannot be read


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


def test_one_limit_lets_all_bombs_pass(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # reading changes it
    monkeypatch.setenv("UNETSEG_MAX_PIXELS", "5000")
    Image.new("1", (80, 80)).save(image(data, 0))
    write_tiff(image(data, 1).with_suffix(".tif"), np.zeros((900, 900), np.uint8))
    image(data, 1).unlink()
    (found,) = unreadable(data).values()
    assert (found.check, names(found)) == ("decompression-bomb", ["cells_000.png", "cells_001.tif"])
    assert found.fix.endswith("--max-pixels 810000.")
    monkeypatch.setenv("UNETSEG_MAX_PIXELS", "810000")
    assert not unreadable(data)


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
        np.zeros((64, 64, 4), np.uint8),
        np.full((64, 64), 2**40, np.int64),
    ]
    for number, pixels in enumerate(spoilt):
        mask(data, number).unlink()
        tifffile.imwrite(mask(data, number).with_suffix(".tif"), pixels)
    (found,) = unreadable(data).values()
    assert (found.check, len(found.files)) == ("mask-values", 3)


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
    failures = [e for fact in describe_pairs(pairs) if isinstance(fact, list) for e in fact]
    found = {finding.check: names(finding) for finding in inspect_files(failures)}
    assert found == {"missing-file": ["gone.png"], "no-regular-file": ["pipe.png"]}


def test_a_nan_image_beside_a_broken_mask_is_told(data: Path) -> None:
    image(data, 5).unlink()
    write_tiff(image(data, 5).with_suffix(".tif"), np.full((64, 64, 3), np.nan, np.float32))
    mask(data, 5).write_bytes(b"")
    assert set(unreadable(data)) == {"nan-pixels", "empty-file"}


# ------------------------------------------------------------------ entries


def entries(data: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in inspect_entries(data)}


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


@pytest.mark.parametrize("target", [".", "..", "../..", "/"])
def test_a_link_to_a_folder_above_is_a_loop(data: Path, target: str) -> None:
    (data / "images" / "loop").symlink_to(target)
    (found,) = entries(data).values()
    assert (found.check, found.severity) == ("link-loop", "note")
    assert found.files[0].startswith(f"{data}/images/loop: a link to /")


def test_links_from_folder_to_folder_end(data: Path) -> None:
    for number in range(12):  # every folder leads to all others: 12! ways
        (data / str(number)).mkdir()
        for other in range(12):
            (data / str(number) / f"to{other}").symlink_to(data / str(other))
    assert set(entries(data)) <= {"link-loop"}


def test_a_csv_file_or_a_missing_folder_has_no_entries(data: Path) -> None:
    assert entries(data / "pairs.csv") == entries(data / "nowhere") == {}


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


# ------------------------------------------------------------------ formats


def test_suffixes_of_another_content_are_named_with_the_right_one(data: Path) -> None:
    image(data, 0).rename(image(data, 0).with_suffix(".jpg"))
    Image.open(image(data, 1)).save(image(data, 1).with_suffix(".jpeg"))
    image(data, 1).with_suffix(".jpeg").rename(image(data, 1))
    write_tiff(data / "masks" / "new.tif", np.zeros((64, 64), np.uint8))
    (data / "masks" / "new.tif").rename(mask(data, 2))
    (found,) = formats(data)
    assert (found.check, found.severity) == ("wrong-suffix", "warning")
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


def test_a_turned_image_whose_upright_mask_fits_is_a_note(data: Path) -> None:
    turn(image(data, 0), 6, (64, 40))
    Image.open(mask(data, 0)).crop((0, 0, 40, 64)).save(mask(data, 0))
    (found,) = formats(data)
    assert (found.check, found.severity) == ("stored-turned", "note")
    assert found.files == (f"{image(data, 0)}: orientation 6",)


@pytest.mark.parametrize("orientation", [3, 8])
def test_a_turned_image_whose_mask_fits_both_ways_is_a_warning(
    data: Path, orientation: int
) -> None:
    turn(image(data, 0), orientation, (64, 64))
    (found,) = formats(data)
    assert (found.check, found.severity) == ("perhaps-turned", "warning")


def test_bands_that_pillow_overlooks_are_a_note(real_data: Path) -> None:
    (found,) = formats(real_data / "sen1floods11_sample")
    assert (found.check, found.severity) == ("unseen-bands", "note")
    assert found.files[0].endswith(": 1 of 13")


@pytest.mark.parametrize(
    "name", ["drive", "hot_buildings_geotiff", "tiny_kvasir_jpgmask", "sen1floods11_tiles13band"]
)
def test_real_folders_have_nothing_else(real_data: Path, name: str) -> None:
    evidence, failures = look(real_data / name)
    assert not [*inspect_files(failures), *inspect_formats(evidence)]
    assert not list(inspect_entries(real_data / name))
