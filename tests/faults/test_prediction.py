"""Predictions of folders that are killed, meet images that kill them, or fill the disk."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.builders import noise, save_run

WORDS = ["--device", "cpu", "--precision", "float32"]
SKIP = ["--existing", "skip"]
STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def none_left_running() -> Iterator[None]:
    yield
    while STARTED:
        with STARTED.pop() as process:
            process.kill()


def draw(folder: Path, count: int, side: int = 40) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = noise(side, side + 8 * (number % 3), 3, seed=number)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


def start(
    run: Path, images: Path | str, out: Path, *more: str, path: Path | None = None
) -> subprocess.Popen[str]:
    """`unetseg predict`, in a process of its own."""
    words = [sys.executable, "-m", "unetseg", "predict", run, images, "-o", out, *WORDS, *more]
    known = os.environ | {"OMP_NUM_THREADS": "1"}
    if path:
        known["PYTHONPATH"] = os.pathsep.join([str(path), known.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [str(word) for word in words],
        env=known,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    STARTED.append(process)
    return process


def finish(process: subprocess.Popen[str], code: int) -> str:
    told, _ = process.communicate(timeout=240)
    assert process.returncode == code, told
    return told


def masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*.png")}


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def killed_and_begun_again(tmp_path: Path, count: int, kills: int, wait: float) -> None:
    run, folder = save_run(tmp_path / "run"), draw(tmp_path / "in", count)
    begun = time.monotonic()
    finish(start(run, folder, tmp_path / "whole"), 0)
    took = time.monotonic() - begun
    draws, out, ended, done = random.Random(0), tmp_path / "out", 0, 0
    while ended < kills:
        process = start(run, folder, out, *SKIP)
        deadline = time.monotonic() + 300
        while len(list(out.glob("[!.]*.png"))) <= done and time.monotonic() < deadline:
            if process.poll() is not None:
                break
            time.sleep(0.01)
        time.sleep(draws.uniform(0, wait))
        process.kill()
        process.communicate()
        if process.returncode == 0:
            break
        ended += 1
        done = len(list(out.glob("[!.]*.png")))
    told = finish(start(run, folder, out, *SKIP), 0)
    print(f"{ended} kills, {done} masks before the last run; undisturbed {took:.1f} s\n{told}")  # noqa: T201
    assert ended
    assert masks(out) == masks(tmp_path / "whole")
    assert not leftovers(out)
    assert not (out / "failures.jsonl").exists()


@pytest.mark.row(34)
@pytest.mark.slow
def test_500_images_survive_ten_kills(tmp_path: Path) -> None:
    killed_and_begun_again(tmp_path, 500, 10, 0.15)


@pytest.mark.row(34)
@pytest.mark.long
def test_a_killed_prediction_of_a_folder_is_completed(tmp_path: Path) -> None:
    killed_and_begun_again(tmp_path, 150, 1, 0.05)


POISON = """
import os, signal
from unetseg.data.files.image import ImageFile
read = ImageFile.read
def deadly(image, *more):
    if image.path.name == "003.png":
        os.kill(os.getpid(), signal.SIGSEGV)
    return read(image, *more)
ImageFile.read = deadly
"""


@pytest.mark.row(36)
@pytest.mark.long
def test_an_image_that_kills_its_process_is_put_aside_and_the_others_are_done(
    tmp_path: Path,
) -> None:
    run, folder, out = save_run(tmp_path / "run"), draw(tmp_path / "in", 9), tmp_path / "out"
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(POISON)
    finish(start(run, folder, out, path=tmp_path / "path"), -signal.SIGSEGV)
    for _ in range(2):  # apart, and then not again
        told = finish(start(run, folder, out, *SKIP, path=tmp_path / "path"), 4)
        assert "no mask for 1 image, 8 have one" in told
        assert "003.png ended the process that read it, twice: SIGSEGV" in told
        assert len(masks(out)) == 8
        (row,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
        assert (row["image"], row["code"]) == (str(folder / "003.png"), "deadly")
        assert "--existing overwrite" in row["fix"]
    Image.fromarray(noise(40, 40, 3, seed=9)).save(folder / "003.png")
    finish(start(run, folder, out, *SKIP), 0)  # it changed, and is harmless now
    assert len(masks(out)) == 9
    assert not (out / "failures.jsonl").exists()


SLOW = """
import time
from unetseg.data.files.image import ImageFile
read = ImageFile.read
def slow(image, *more):
    time.sleep(0.2)
    return read(image, *more)
ImageFile.read = slow
"""


@pytest.mark.row(34)
@pytest.mark.slow
def test_a_prediction_that_is_terminated_goes_on_as_ever(tmp_path: Path) -> None:
    run, folder, out = save_run(tmp_path / "run"), draw(tmp_path / "in", 40), tmp_path / "out"
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(SLOW)
    process = start(run, folder, out, path=tmp_path / "path")
    while not masks(out):
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    assert "stopped by SIGTERM" in finish(process, 143)
    assert len(masks(out)) < 40
    assert "apart" not in finish(start(run, folder, out, *SKIP), 0)
    assert not leftovers(out)
    assert len(masks(out)) == 40


HEADER = """
import os, signal
from unetseg.data.files.image import ImageFile
begin = ImageFile.__init__
def deadly(image, path, *more, **others):
    if path.name == "003.png":
        os.kill(os.getpid(), signal.SIGSEGV)
    begin(image, path, *more, **others)
ImageFile.__init__ = deadly
"""


@pytest.mark.row(36)
@pytest.mark.slow
def test_a_header_that_kills_its_process_is_put_aside(tmp_path: Path) -> None:
    run, folder, out = save_run(tmp_path / "run"), draw(tmp_path / "in", 9), tmp_path / "out"
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(HEADER)
    finish(start(run, folder, out, path=tmp_path / "path"), -signal.SIGSEGV)
    for _ in range(2):  # apart, and then not again
        told = finish(start(run, folder, out, *SKIP, path=tmp_path / "path"), 4)
        assert "003.png ended the process that read it, twice: SIGSEGV" in told
        assert len(masks(out)) == 8
        (row,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
        assert (row["image"], row["code"]) == (str(folder / "003.png"), "deadly")
    assert not [*leftovers(out), *leftovers(tmp_path)]
    finish(start(run, folder, out, "--existing", "overwrite"), 0)
    assert len(masks(out)) == 9


WAITING = """
import time
from pathlib import Path
from unetseg.data.files.image import ImageFile
read = ImageFile.read
def waiting(image, *more):
    while image.path.name == "019.png" and not Path("GO").exists():
        time.sleep(0.1)
    return read(image, *more)
ImageFile.read = waiting
"""


@pytest.mark.row(38)
@pytest.mark.long
def test_a_folder_takes_several_predictions_with_the_same_settings_and_no_others(
    tmp_path: Path,
) -> None:
    run, folder, out = save_run(tmp_path / "run"), draw(tmp_path / "in", 40), tmp_path / "out"
    (tmp_path / "path").mkdir()
    go = tmp_path / "go"
    (tmp_path / "path" / "sitecustomize.py").write_text(WAITING.replace("GO", str(go)))
    halves = [[f"{folder}/0{a}?.png" for a in some] for some in ("01", "23")]
    first = start(run, halves[0][0], out, halves[0][1], path=tmp_path / "path")
    deadline = time.monotonic() + 300
    while len(masks(out)) < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    told = finish(start(run, folder, out, "--tta", "--existing", "overwrite"), 3)
    assert "another prediction is at work in" in told
    assert "tta: False there, True here" in told
    finish(start(run, halves[1][0], out, halves[1][1]), 0)
    assert first.poll() is None
    go.touch()
    finish(first, 0)
    assert len(masks(out)) == 40
    finish(start(run, folder, out, "--tta", "--existing", "overwrite"), 0)


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, BYTES))
"""


@pytest.mark.row(37)
@pytest.mark.long
def test_a_disk_that_fills_half_way_ends_it_cleanly_and_a_rerun_completes(tmp_path: Path) -> None:
    run, folder = save_run(tmp_path / "run"), draw(tmp_path / "in", 150)
    out, whole = tmp_path / "out", tmp_path / "whole"
    finish(start(run, folder, whole), 0)
    limit = (whole / "predictions.jsonl").stat().st_size // 2
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(FULL.replace("BYTES", str(limit)))
    told = finish(start(run, folder, out, path=tmp_path / "path"), 3)
    assert f"cannot write {out}" in told
    assert "Free space" in told
    assert not leftovers(out)
    some = masks(out)
    assert 0 < len(some) < 150
    finish(start(run, folder, out, *SKIP), 0)
    assert masks(out) == masks(whole)
