"""Whole trainings whose loading processes and files are taken away: equal weights, or a name."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch

from tests.builders import Heard
from unetseg.config import NetworkConfig, RuntimeConfig, TrainConfig, TrainingConfig
from unetseg.data.pairs.splits import read_splits
from unetseg.errors import ImageError
from unetseg.training.checkpoint import load_state
from unetseg.training.fit import train


class At(Heard):
    """Does something when a training step is reached."""

    def __init__(self, step: int, fault: Callable[[], object]) -> None:
        super().__init__()
        self.step, self.fault = step, fault

    def advance(self, task: str, steps: int = 1, **facts: object) -> None:
        if task == "training" and facts.get("step") == self.step:
            self.fault()


def settings(workers: int = 2) -> TrainConfig:
    """A training of twenty steps, a few seconds, that decodes each image anew."""
    return TrainConfig(
        network=NetworkConfig(depth=2, width=4),
        training=TrainingConfig(epochs=10, batch=8, patch=64),
        runtime=RuntimeConfig(device="cpu", workers=workers, cache="none"),
    )


def equal_weights(first: Path, second: Path) -> bool:
    one, other = (load_state(run)["weights"] for run in (first, second))
    return all(torch.equal(one[name], other[name]) for name in one)


def kill_one() -> None:
    pid = active_children()[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


@pytest.mark.row(18)
@pytest.mark.long
def test_a_killed_process_does_not_change_the_weights(data: Path, tmp_path: Path) -> None:
    whole = train(data, settings(), out=tmp_path, name="whole")
    heard = At(3, kill_one)
    cut = train(data, settings(), out=tmp_path, name="cut", progress=heard)
    assert sum("a process that loads crops was killed" in line for line in heard.said) == 1
    assert equal_weights(whole, cut)
    assert not active_children()


@pytest.mark.row(32)
@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_vanishes_is_named_and_the_training_goes_on_when_it_is_back(
    data: Path, tmp_path: Path, workers: int
) -> None:
    whole = train(data, settings(0), out=tmp_path, name="whole")
    splits = read_splits(whole / "splits.json", "name")
    files = [path for path in (data / "images").iterdir() if splits[path.stem] == "train"]
    assert len(files) == 6

    def take_away() -> None:
        for file in files:
            file.rename(file.with_suffix(".away"))

    heard = At(3, take_away)
    with pytest.raises(ImageError, match=r"cells_.*\.png cannot be read: No such file") as error:
        train(data, settings(workers), out=tmp_path, name="cut", progress=heard)
    assert error.value.exit_code == 5
    assert re.search(r"the state at step \d+ is saved. Go on with: unetseg tr", heard.said[-1])
    assert not active_children()
    for file in files:
        file.with_suffix(".away").rename(file)
    cut = train(data, settings(workers), out=tmp_path, name="cut", resume=True)
    assert equal_weights(whole, cut)


@pytest.mark.row(20)
@pytest.mark.long
def test_a_training_with_processes_needs_no_dev_shm(data: Path, tmp_path: Path) -> None:
    """64 KB there, where batches of 64 crops of 64² take 1 MB each."""
    enter = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if sys.platform != "linux" or subprocess.run([*enter, "sh", "-c", mount]).returncode:
        pytest.skip("needs the right to mount a file system")
    flags = "--name a --epochs 2 --depth 2 --width 4 --patch 64 -b 64 --workers 2 --device cpu"
    command = [sys.executable, "-m", "unetseg", "train", str(data), "--out", str(tmp_path)]
    script = [*enter, "sh", "-c", f'{mount} && exec "$0" "$@"', *command, *flags.split()]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "warning: a process" not in done.stderr
