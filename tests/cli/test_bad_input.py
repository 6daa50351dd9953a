"""Bad folders: one clear error that lists every offender and the fix, and nothing is left."""

import io
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from unetseg.cli.app import run
from unetseg.data.files.pngs import write_png
from unetseg.data.sample import draw_sample

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sample(tmp_path_factory.mktemp("data") / "sample", count=4, size=48)


@pytest.fixture
def data(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good folder of four pairs, to be spoilt."""
    monkeypatch.setenv("UNETSEG_CACHE_FOLDER", str(tmp_path / "cache"))
    return Path(shutil.copytree(sample, tmp_path / "photos"))


def refusal(data: Path, capsys: Capture, *flags: str, code: int = 5) -> str:
    """The error of `train` on a folder; `check` names the same files; no run folder is left."""
    out = data.parent / "runs"
    capsys.readouterr()
    assert run(["check", str(data), "--device", "cpu", "--json", *flags]) == code
    of_check = "".join(capsys.readouterr())
    assert run(["train", str(data), "--device", "cpu", "--out", str(out), *flags]) == code
    of_train = capsys.readouterr().err
    assert not files_in(of_train) - files_in(of_check)
    assert "Traceback" not in of_check + of_train
    assert of_train.startswith("error: ")
    assert of_train.count("error: ") == 1
    assert not out.exists() or list(out.iterdir()) == []
    return of_train


def files_in(text: str) -> set[str]:
    return set(re.findall(r"[\w.\[\]-]+\.(?:png|jpe?g|tiff?|gif|bmp|txt)", text))


def pixels(path: Path) -> NDArray[Any]:
    return np.array(Image.open(path))


def all_named(answer: str, *paths: Path) -> bool:
    return all(path.name in answer for path in paths)


# ------------------------------------------------------------------ pairs


def test_no_folder_and_an_empty_folder(data: Path, capsys: Capture) -> None:
    assert "there is no folder" in refusal(data / "nothing", capsys)
    (data.parent / "empty").mkdir()
    assert "holds no images" in refusal(data.parent / "empty", capsys)


@pytest.mark.row(27)
def test_images_without_any_mask(data: Path, capsys: Capture) -> None:
    shutil.rmtree(data / "masks")
    answer = refusal(data, capsys)
    assert "4 image files, of which none" in answer
    assert "There are no masks here" in answer
    assert "unetseg import labelme" in answer


@pytest.mark.row(27)
@pytest.mark.long
def test_every_image_and_mask_without_counterpart(data: Path, capsys: Capture) -> None:
    lonely = data / "masks" / "cells_000.png", data / "images" / "cells_001.png"
    for path in lonely:
        path.unlink()
    extra = data / "images" / "odd name [1].png"
    shutil.copy(data / "images" / "cells_002.png", extra)
    answer = refusal(data, capsys, "--unpaired", "error")
    assert all(name in answer for name in ("cells_000.png", "cells_001.png", extra.name))
    assert "2 images without mask and 1 mask without image" in answer


def test_a_wrong_folder_flag(data: Path, capsys: Capture) -> None:
    answer = refusal(data, capsys, "--images", "images", "--masks", "labels")
    assert "labels" in answer
    assert "--images" in refusal(data, capsys, "--images", "images", code=2).lower()


def test_a_process_alone_does_not_begin_anew(
    data: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    out = data.parent / "runs"
    words = ["train", str(data), "--out", str(out), "--name", "a", "--max-restarts", "3"]
    assert run(words) == 2
    said = capsys.readouterr().err
    assert "--max-restarts does nothing\nAdd --nproc" in said
    assert not out.exists()


@pytest.mark.long
def test_settings_that_contradict_leave_no_run(data: Path, capsys: Capture) -> None:
    out = data.parent / "runs"
    words = ["train", str(data), "--out", str(out), "--depth", "2", "--skip", "add,concat,add"]
    assert run([*words, "--device", "cpu"]) == 2
    assert "skip has 3 kinds: 1 for all levels, or 2" in capsys.readouterr().err


# ------------------------------------------------------------------ files


@pytest.mark.row(25)
def test_every_unreadable_file_is_listed(data: Path, capsys: Capture) -> None:
    truncated = data / "images" / "cells_000.png"
    truncated.write_bytes(truncated.read_bytes()[:-600])
    empty = data / "images" / "cells_001.png"
    empty.write_bytes(b"")
    text = data / "masks" / "cells_002.png"
    text.write_text("no image")
    answer = refusal(data, capsys)
    assert "3 of 4 pairs cannot be read" in answer
    assert all_named(answer, truncated, empty, text)


# ------------------------------------------------------------------ masks


@pytest.mark.row(29)
def test_smoothed_masks_have_more_classes_than_sense(data: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(0)
    for path in (data / "masks").iterdir():
        array = pixels(path)
        edges = np.flatnonzero(np.diff(array.ravel().astype(int)))[::2]  # 3% of the pixels
        array.ravel()[edges] = rng.integers(1, 255, len(edges))
        Image.fromarray(array).save(path)
    answer = refusal(data, capsys)
    assert "more classes than sense" in answer
    assert "nearest of 0, 255" in answer
    assert "--snap" in answer
    assert all_named(answer, *(data / "masks").iterdir())
    assert run(["check", str(data), "--device", "cpu", "--snap"]) == 0
    assert "2 classes" in capsys.readouterr().out


@pytest.mark.row(29)
def test_masks_spoilt_by_jpeg_are_named(data: Path, capsys: Capture) -> None:
    # Class numbers 0…3 as a JPEG: what one class is can no longer be told from its neighbours.
    (data / "classes.txt").write_text("ground\ncell\ncrack\nhole\n")
    rng = np.random.default_rng(0)
    for path in list((data / "masks").iterdir()):
        classes = np.kron(rng.integers(0, 4, (12, 12)), np.ones((4, 4), int))
        Image.fromarray(classes.astype(np.uint8)).save(path.with_suffix(".jpg"), quality=30)
        path.unlink()
    answer = refusal(data, capsys)
    assert "JPEG" in answer
    assert "PNG" in answer
    assert all_named(answer, *(data / "masks").iterdir())


@pytest.mark.row(29)
def test_jpeg_noise_on_two_clear_classes_just_works(data: Path, capsys: Capture) -> None:
    for path in list((data / "masks").iterdir()):
        Image.open(path).save(path.with_suffix(".jpg"), quality=90)
        path.unlink()
    assert run(["check", str(data), "--device", "cpu"]) == 0
    assert "2 classes" in capsys.readouterr().out


@pytest.mark.row(29)
def test_masks_of_several_codings_are_listed(data: Path, capsys: Capture) -> None:
    colour = data / "masks" / "cells_002.png"
    Image.fromarray(np.stack([pixels(colour), *[pixels(colour) * 0] * 2], -1)).save(colour)
    answer = refusal(data, capsys)
    assert "different codings: 3 grey, 1 RGB" in answer
    assert colour.name in answer


@pytest.mark.row(29)
def test_masks_with_fractions_are_named(data: Path, capsys: Capture) -> None:
    for path in list((data / "masks").iterdir())[:2]:
        tifffile.imwrite(path.with_suffix(".tif"), pixels(path).astype(np.float32) / 254)
        path.unlink()
    answer = refusal(data, capsys)
    assert answer.count("holds fractions or NaN") == 2


# What libraries say of odd files


@pytest.mark.long
def test_libraries_keep_quiet_about_odd_files(tmp_path: Path) -> None:
    """A header of 18 GB, broken tags, broken EXIF: all that is said is said here."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for n in range(5):
        write_png(tmp_path / "masks" / f"{n}.png", np.eye(48, dtype=np.uint8) * 255)
    bands = np.random.default_rng(0).integers(0, 999, (48, 48, 12), np.uint16)
    geo = [(42112, "s", 0, "<GDALMetadata><Item", True), (34735, "H", 5, (1, 1, 0, 9, 3072), True)]
    text = [(270, "s", 0, "ImageJ=1\nimages=99\nchannels=7\n", True)]
    for n, tags in enumerate((geo, text, [(34665, "I", 1, 99999999, True)])):
        options: dict[str, Any] = {"photometric": "rgb", "metadata": None, "extratags": tags}
        tifffile.imwrite(tmp_path / "images" / f"{n}.tif", bands, **options)
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40
    photo = io.BytesIO()
    Image.fromarray(bands[..., :3].astype(np.uint8)).save(photo, "JPEG")
    start = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (tmp_path / "images" / "3.jpg").write_bytes(start + photo.getvalue()[2:])
    promised = {256: 65535, 257: 900, 258: 8, 259: 1, 262: 1, 273: 8, 277: 300, 278: 900, 279: 10}
    header = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in promised.items())
    content = b"II*\0" + struct.pack("<IH", 8, len(promised)) + header + bytes(4)
    (tmp_path / "images" / "4.tif").write_bytes(content)
    command = [sys.executable, "-m", "unetseg", "check", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert done.stderr.startswith(f"error: {tmp_path}: ")
    assert len(done.stderr.splitlines()) <= 2
    assert "images/4.tif cannot be read: it is truncated" in done.stdout
