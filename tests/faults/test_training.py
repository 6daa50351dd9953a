"""What surrounds a training breaks: it is killed, stopped, out of disk, without its helpers."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.builders import Heard
from unetseg.config import NetworkConfig, RuntimeConfig, TrainConfig, TrainingConfig
from unetseg.data.sample import draw_sample
from unetseg.errors import BundleError, MachineError, StoppedError
from unetseg.locks import locked
from unetseg.storage import new_run_folder
from unetseg.training.checkpoint import load_state
from unetseg.training.fit import train

KILLS = 20
TINY = ["--depth", "2", "--width", "4", "--patch", "32", "-b", "2", "--workers", "0"]


def tiny(epochs: int = 3, **runtime: object) -> TrainConfig:
    """Settings under which a training takes a second or two."""
    return TrainConfig(
        network=NetworkConfig(depth=2, width=4),
        training=TrainingConfig(epochs=epochs, batch=2, patch=32),
        runtime=RuntimeConfig.model_validate({"device": "cpu", "workers": 0} | runtime),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sample(tmp_path_factory.mktemp("data") / "cells", count=6, size=64)


class At(Heard):
    """Does something when a training step is reached."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        super().__init__()
        self.step, self.action = step, action

    def advance(self, task: str, steps: int = 1, **facts: object) -> None:
        if task == "training" and facts.get("step") == self.step:
            self.action()


def command(data: Path, out: Path, *words: object) -> list[str]:
    """The command line of a small training."""
    words = ("train", data, *TINY, "--out", out, *words)
    return [sys.executable, "-m", "unetseg", *map(str, words)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_state(run)["weights"]
    return state


def are_equal(first: Path, second: Path) -> bool:
    return all(torch.equal(weights(first)[name], weights(second)[name]) for name in weights(first))


def written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


# ------------------------------------------------------------------ killed and stopped


@pytest.mark.row(1, 7)
@pytest.mark.slow
def test_twenty_kills_at_random_moments_cost_no_state(data: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    config = tiny(epochs=40, save_every=0)
    whole = train(data, config, out=tmp_path, name="whole")
    words = command(data, tmp_path, "--name", "cut", "-e", 40, "--save-every", 0)
    state = tmp_path / "cut" / "last.pt"
    steps: list[int] = []
    while len(steps) < KILLS:
        process = subprocess.Popen([*words, *(["--resume"] if steps else [])])
        for _ in range(chance.randint(1, 8)):
            before = written(state)
            while written(state) == before:
                assert process.poll() is None, "the training was over too soon"
                time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        steps.append(load_state(state.parent, heard := Heard())["step"])
        assert not heard.said
    assert steps == sorted(steps)
    cut = train(data, config, out=tmp_path, name="cut", resume=True)
    assert are_equal(whole, cut)
    assert [path.name for path in cut.iterdir() if path.name.startswith(".")] == [".lock"]


@pytest.mark.row(3)
@pytest.mark.long
def test_a_second_interrupt_ends_at_once(data: Path, tmp_path: Path) -> None:
    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        train(data, tiny(), out=tmp_path, name="a", progress=At(4, twice))
    assert not (tmp_path / "a").exists()  # nothing was learned


@pytest.mark.row(2)
@pytest.mark.long
def test_a_signal_before_the_first_step_is_answered(data: Path, tmp_path: Path) -> None:
    words = command(data, tmp_path, "--name", "a", "-e", 200)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "a").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        _, told = process.communicate(timeout=60)
    assert process.returncode == 143
    assert told.splitlines() == [
        "error: stopped before the first step: nothing was trained",
        "The same command begins again.",
    ]
    assert new_run_folder(tmp_path, "a") == tmp_path / "a"  # the same command begins again


@pytest.mark.row(4)
@pytest.mark.long
def test_what_nohup_has_ignored_stays_ignored(data: Path, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        hang_up = At(4, lambda: os.kill(os.getpid(), signal.SIGHUP))
        train(data, tiny(epochs=1), out=tmp_path, name="a", progress=hang_up)
    finally:
        signal.signal(signal.SIGHUP, before)
    with pytest.raises(StoppedError) as error:
        train(data, tiny(epochs=1), out=tmp_path, name="b", progress=hang_up)
    assert error.value.exit_code == 129


@pytest.mark.long
def test_a_training_that_never_began_begins_anew(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    words = command(data, tmp_path, "--name", "a", "-e", 200)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        while not (folder / "config.yaml").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert not (folder / "last.pt").exists()
    with pytest.raises(BundleError, match=r"a has no state to go on from \(last.pt\)"):
        train(data, tiny(), out=tmp_path, name="a", resume=True)
    run = train(data, tiny(epochs=1), out=tmp_path, name="a")
    assert (run / "log.jsonl").read_text().count('"cache"') == 1


@pytest.mark.row(14)
@pytest.mark.long
def test_a_second_training_leaves_the_folder_of_the_first_alone(data: Path, tmp_path: Path) -> None:
    first = At(1, lambda: None)

    def begin_second() -> None:
        for resume in (False, True):
            with pytest.raises((MachineError, BundleError)) as error:
                train(data, tiny(), out=tmp_path, name="a", resume=resume)
            assert f"process {os.getpid()} on " in str(error.value)

    first.action = begin_second
    run = train(data, tiny(epochs=1), out=tmp_path, name="a", progress=first)
    assert (run / "model" / "model.json").exists()
    with locked(run), pytest.raises(MachineError, match=f"process {os.getpid()} on "):
        train(data, tiny(epochs=2), out=tmp_path, name="a", resume=True)


@pytest.mark.row(17)
@pytest.mark.long
def test_little_memory_is_told_before_the_system_ends_the_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetseg.resources.memory_left", lambda: 300 * 2**20)
    train(data, tiny(1), out=tmp_path, progress=(heard := Heard()))
    assert any("only 300 MiB of memory are free here" in line for line in heard.said)


# ------------------------------------------------------------------ names, disks and loggers


@pytest.mark.row(27)
@pytest.mark.long
def test_names_that_are_no_text_train_and_resume(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / os.fsdecode(b"b\xfcro")))
    for path in sorted(folder.glob("*/*.png")):
        path.rename(path.with_name(os.fsdecode(b"z\xfc_") + path.name))
    train(folder, tiny(1), out=tmp_path, name="a")
    run = train(folder, tiny(2), out=tmp_path, name="a", resume=True)
    assert (run / "splits.json").read_text(encoding="utf-8").count("z\\udcfc_") == 6


@pytest.fixture
def limited() -> Iterator[Callable[[int], None]]:
    """Lets files of this process not grow beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.row(9)
@pytest.mark.long
@pytest.mark.parametrize("size", [0, 20_000])
def test_a_full_disk_costs_no_state(
    data: Path, tmp_path: Path, limited: Callable[[int], None], size: int
) -> None:
    whole = train(data, tiny(save_every=0), out=tmp_path, name="whole")
    full = At(5, lambda: limited(size))
    with pytest.raises(MachineError, match=r"cannot write .*: File too large") as error:
        train(data, tiny(save_every=0), out=tmp_path, name="cut", progress=full)
    assert error.value.exit_code == 3
    limited(resource.RLIM_INFINITY)
    left = [path for path in (tmp_path / "cut").iterdir() if path.name.startswith(".")]
    assert [path.name for path in left] == [".lock"]
    assert load_state(tmp_path / "cut")["step"] == 4
    assert are_equal(whole, train(data, tiny(), out=tmp_path, name="cut", resume=True))


@pytest.mark.row(10)
@pytest.mark.long
def test_a_folder_that_cannot_be_written_is_refused_before_data_are_read(data: Path) -> None:
    words = command(data, Path("/proc/nowhere"), "--name", "a")
    began = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert time.monotonic() - began < 2
    assert done.returncode == 3
    assert done.stdout == ""
    assert "error: cannot write /proc/nowhere: " in done.stderr


@pytest.mark.row(23)
@pytest.mark.long
def test_a_logger_that_fails_is_told_once(data: Path, tmp_path: Path) -> None:
    block = At(1, lambda: (tmp_path / "a" / "tensorboard").write_text("a file"))
    run = train(data, tiny(), out=tmp_path, name="a", progress=block)
    told = [line for line in block.said if "TensorBoard" in line]
    assert len(told) == 1
    assert told[0].startswith("warning: no TensorBoard log from here on: ")
    assert (run / "log.jsonl").read_text().count('"validation"') == 3


@pytest.mark.row(23)
@pytest.mark.long
def test_a_logger_that_fails_later_is_told_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    heard = At(3, lambda: monkeypatch.setattr(SummaryWriter, "flush", fail))
    train(data, tiny(), out=tmp_path, name="a", progress=heard)
    assert sum("TensorBoard" in line for line in heard.said) == 1


@pytest.mark.row(24)
@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        ("RuntimeError('operator torchvision::nms does not exist')", "uv pip install"),
        ("ModuleNotFoundError('No module named torchvision')", "pip install"),
    ],
)
def test_a_package_that_does_not_fit_is_one_line(
    data: Path, tmp_path: Path, fault: str, answer: str
) -> None:
    (tmp_path / "torchvision.py").write_text(f"raise {fault}")
    words = [sys.executable, "-m", "unetseg", "train", str(data), "--out", str(tmp_path)]
    words += ["--encoder", "resnet18"]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert "torchvision" in done.stderr
    assert answer in done.stderr.splitlines()[-1]
