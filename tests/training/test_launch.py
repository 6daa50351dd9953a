"""Laws of several training processes: they learn what one does, and stop and begin anew as one."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.in_group import in_group
from unetseg.data.crops.dataset import Sample
from unetseg.data.sample import draw_sample
from unetseg.errors import StoppedError, UnetsegError
from unetseg.training import fit
from unetseg.training.checkpoint import load_state
from unetseg.training.fit import train
from unetseg.training.learner import Learner

UNETSEG = [sys.executable, "-m", "unetseg"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
FLAGS: dict[str, Any] = {"depth": 2, "width": 4, "patch": 32, "batch": 5, "epochs": 4, "workers": 0}
FLAGS |= {"norm": "instance", "precision": "float32", "device": "cpu", "optimizer": "sgd"}
CLOSE = 5e-3
"""What rounding does in 28 steps: 1e-7, until it decides which of equal pixels is the largest."""
LONGEST = 500
"""Seconds after which processes are taken to hang."""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sample(tmp_path_factory.mktemp("data") / "cells", count=10, size=64)


def begun(data: Path, name: str, *words: str, by: list[str]) -> "subprocess.Popen[str]":
    """A training beside `data`, with one thread in each process."""
    settings = [f"--{flag}={value}" for flag, value in FLAGS.items()]
    command = [*by, "train", data.name, "--out", "runs", "--name", name, *settings, *words]
    environment, pipe = os.environ | {"OMP_NUM_THREADS": "1"}, subprocess.PIPE
    return subprocess.Popen(
        command, cwd=data.parent, env=environment, stdout=pipe, stderr=pipe, text=True
    )


def ended(process: "subprocess.Popen[str]", exit_code: int = 0) -> tuple[str, str]:
    """What a training has said."""
    try:
        said, wrong = process.communicate(timeout=LONGEST)
    finally:
        process.terminate()  # which it hands on to the others
    assert process.returncode == exit_code, wrong
    return said, wrong


def member(launcher: int, rank: int) -> int:
    """The process of that rank."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError("there is no such process")


def wait_for_step(process: "subprocess.Popen[str]", run: Path, step: int) -> None:
    until = time.monotonic() + LONGEST
    while not (run / "last.pt").exists() or load_state(run)["step"] < step:
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def weights(run: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_state(run)["weights"]
    return state


def assert_close(ours: Path, theirs: Path) -> None:
    """Their curves and their weights."""
    for row, other in zip(curve(ours), curve(theirs), strict=True):
        assert row == pytest.approx(other, abs=CLOSE)
    for name, each in weights(ours).items():
        torch.testing.assert_close(each, weights(theirs)[name], rtol=0.0, atol=CLOSE)


def curve(run: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv, without what the clock says."""
    with (run / "metrics.csv").open() as file:
        return [
            {k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)
        ]


@pytest.fixture(scope="module")
def whole(data: Path) -> Path:
    """A training by one process."""
    return train(data, out=data.parent / "runs", name="whole", **FLAGS)


@pytest.fixture(scope="module")
def both(data: Path) -> Path:
    """The same by two processes."""
    runs = in_group(2, lambda: train(data, out=data.parent / "runs", name="both", **FLAGS))
    assert runs[0] == runs[1]
    return Path(runs[0])


def test_two_processes_learn_what_one_learns(whole: Path, both: Path) -> None:
    """From batches of five crops, of which the first takes three."""
    assert sorted(p.name for p in whole.iterdir()) == sorted(p.name for p in both.iterdir())
    assert (both / "log.jsonl").read_text().count('"cache"') == 1
    assert_close(both, whole)


@pytest.mark.row(5, 8)
def test_a_signal_to_one_stops_all_and_one_goes_on(data: Path, whole: Path) -> None:
    words, run = ("--nproc", "2", "--save-every", "0"), data.parent / "runs" / "cut"
    process = begun(data, "cut", *words, by=UNETSEG)
    wait_for_step(process, run, 3)
    os.kill(member(process.pid, 1), signal.SIGTERM)
    said, wrong = ended(process, 143)
    assert said.count("2 processes; 8 training and 2 validation images") == 1
    step = load_state(run)["step"]
    assert wrong.count("error: ") == 1
    assert f"error: stopped at step {step}; the state is in runs/cut/last.pt" in wrong
    train(data, out=run.parent, name="cut", resume=True)
    assert_close(run, whole)


@pytest.mark.row(8)
def test_two_go_on_where_one_has_stopped(
    data: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, step = data.parent / "runs", Learner.step

    def stopping(learner: Learner, batch: Sample, number: int, *more: Any) -> Tensor:
        if number == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(learner, batch, number, *more)

    monkeypatch.setattr(Learner, "step", stopping)
    with pytest.raises(StoppedError):
        train(data, out=out, name="grown", **FLAGS)
    monkeypatch.undo()
    runs = in_group(2, lambda: train(data, out=out, name="grown", resume=True))
    assert_close(runs[1], whole)


@pytest.mark.row(6)
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_costs_nothing(data: Path, both: Path, rank: int) -> None:
    name, once = f"killed {rank}", ["--max-restarts", "1"]
    run, often = data.parent / "runs" / name, ["--save-every", "0"]
    if rank:
        process = begun(data, name, *often, by=[*TORCHRUN, *once, "-m", "unetseg"])
    else:
        process = begun(data, name, "--nproc", "2", *once, *often, by=UNETSEG)
    wait_for_step(process, run, 3)
    os.kill(member(process.pid, rank), signal.SIGKILL)
    said, _ = ended(process)
    assert said.count(f"going on with runs/{name} at step ") == 1
    assert said.count("next: unetseg eval") == 1
    assert all(torch.equal(weights(run)[name], each) for name, each in weights(both).items())
    assert curve(run) == curve(both)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"batch": 1}, "a batch of 1 is too small for 2 processes\nChoose --batch 2 or more."),
        ({"sync_batchnorm": True}, "--sync-batchnorm needs GPUs"),
        ({"cache": "disk"}, "--cache disk needs a run folder, and one process alone"),
        ({"device": "cuda"}, "--device cuda:0: this machine or this torch has none"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_what_one_refuses_all_refuse_and_one_tells(
    data: Path, tmp_path: Path, setting: dict[str, Any], said: str
) -> None:
    errors = in_group(2, lambda: train(data, out=tmp_path, name="a", **(FLAGS | setting)))
    for error in errors:
        assert isinstance(error, UnetsegError)
        assert said in str(error)
    assert [error.told for error in errors] == [False, True]
    assert not (tmp_path / "a").exists()


def test_a_run_that_begins_anew_has_a_name(data: Path) -> None:
    process = subprocess.run(
        [*UNETSEG, "train", data, "--nproc", "2", "--max-restarts", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
    )
    assert process.returncode == 2
    assert "a run that begins anew by itself needs a name" in process.stderr


def test_machines_that_were_started_at_other_times_save_together(
    data: Path, both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of each tells the seconds since that machine was started."""

    def since_the_start() -> float:
        return time.monotonic() - 1e6 * int(os.environ["RANK"])

    monkeypatch.setattr(fit, "time", SimpleNamespace(monotonic=since_the_start))
    runs = in_group(2, lambda: train(data, out=data.parent / "runs", name="apart", **FLAGS))
    assert runs[0] == runs[1] == data.parent / "runs" / "apart"
    assert curve(runs[0]) == curve(both)
