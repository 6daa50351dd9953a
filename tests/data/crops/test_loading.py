"""Laws of loading: batches are the same whoever is lost on the way, and no process stays behind."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing import active_children
from multiprocessing.context import ForkProcess
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from tests.builders import Heard, noisy_crops
from unetseg.data.crops import loading
from unetseg.data.crops.dataset import CropRule, Crops, Key, Order, Sample
from unetseg.data.crops.loading import crop_batches
from unetseg.errors import DataError, ImageError, MachineError

PAIRS, BATCH, COUNT = 7, 3, 30
HERE = os.getpid()


@pytest.fixture
def crops(tmp_path: Path) -> Crops:
    """Crops of seven pairs that are decoded anew each time."""
    return noisy_crops(tmp_path, PAIRS, CropRule(16, "light", 0.5))


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """No process is left by any of these tests."""
    yield
    assert not active_children()


def spoilt(crops: Crops, fault: Callable[[Key], None]) -> Crops:
    """The same crops; `fault` comes first in a process that loads them."""

    class Spoilt(Crops):
        def __getitem__(self, key: Key) -> Sample:
            if os.getpid() != HERE:
                fault(key)
            return super().__getitem__(key)

    return Spoilt(crops.reader, crops.rule, crops.statistics)


def order() -> Order:
    return Order([1] * PAIRS, BATCH, seed=3)


def same(crops: Crops, batches: list[Sample]) -> bool:
    """Whether these are the first batches of a training that loads them by itself."""
    expected = islice(crop_batches(crops, order()), len(batches))
    return all(
        torch.equal(mine, theirs)
        for one, other in zip(batches, expected, strict=True)
        for mine, theirs in zip(one, other, strict=True)
    )


@pytest.mark.row(18)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_batches_are_the_same_when_processes_are_killed(
    crops: Crops, number: signal.Signals
) -> None:
    heard = Heard()
    batches = crop_batches(crops, order(), 3, progress=heard)
    taken: list[Sample] = []
    for batch in islice(batches, 40):
        taken.append(batch)
        if len(taken) in {10, 25}:
            victim = active_children()[0].pid
            assert victim is not None
            os.kill(victim, number)
    workers = len(active_children())
    batches.close()
    assert same(crops, taken)
    first, second = heard.said
    assert "; 1 process loads them from here on" in first
    if number == signal.SIGKILL:
        assert "a process that loads crops was killed, as when memory runs out" in first
        assert "; the training itself loads them from here on" in second
    else:  # what crashes must not crash the training
        assert "a process that loads crops ended (SIGSEGV)" in first
        assert "; 1 process loads them from here on" in second
    assert workers == (0 if number == signal.SIGKILL else 1)


@pytest.mark.row(18)
def test_a_crop_that_ends_two_processes_is_named(crops: Crops) -> None:
    def crash(key: Key) -> None:
        if key[0] == 4:
            os.kill(os.getpid(), signal.SIGABRT)

    heard = Heard()
    with pytest.raises(DataError, match=r"ended \(SIGABRT\) at .*4\.png, as did one") as error:
        list(islice(crop_batches(spoilt(crops, crash), order(), 2, progress=heard), COUNT))
    assert [path.name for path in error.value.paths] == ["4.png"]
    assert len(heard.said) == 1


@pytest.mark.row(18)
def test_processes_that_end_again_and_again_are_given_up(crops: Crops) -> None:
    """Each at another crop, as no file but the machine would do it."""
    calls = iter(range(1000))

    def crash(_key: Key) -> None:
        if next(calls) == 7:
            os._exit(3)

    with pytest.raises(MachineError, match=r"ended \(exit code 3\)") as error:
        list(islice(crop_batches(spoilt(crops, crash), order(), 1), 1000))
    assert "--workers 0" in error.value.fix


@pytest.mark.row(17, 18)
def test_fewer_processes_share_memory_that_is_short(crops: Crops) -> None:
    def fail(_key: Key) -> None:
        raise MemoryError

    heard = Heard()
    loaded = crop_batches(spoilt(crops, fail), order(), 2, progress=heard)
    assert same(crops, list(islice(loaded, COUNT)))
    assert ["ran out of memory" in line for line in heard.said] == [True, True]
    assert "the training itself loads them" in heard.said[-1]


@pytest.mark.row(18)
def test_without_room_for_a_process_the_training_loads(
    crops: Crops, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_process: ForkProcess) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(ForkProcess, "start", fail)
    heard = Heard()
    assert same(crops, list(islice(crop_batches(crops, order(), 2, progress=heard), COUNT)))
    assert "cannot be started (Resource temporarily unavailable)" in heard.said[-1]


@pytest.mark.row(19)
def test_a_stopped_process_is_not_waited_for_without_end(
    crops: Crops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "PATIENCE", 0.3)
    heard = Heard()
    batches = crop_batches(crops, order(), 2, progress=heard)
    taken = list(islice(batches, 10))
    pids = [child.pid for child in active_children()]
    assert pids[0] is not None
    os.kill(pids[0], signal.SIGSTOP)
    taken += islice(batches, 20)
    batches.close()
    assert same(crops, taken)
    [line] = heard.said
    assert "a process that loads crops hung for 300 ms" in line


@pytest.mark.row(19)
def test_a_crop_that_hangs_is_named(crops: Crops, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PATIENCE", 0.3)
    hanging = spoilt(crops, lambda key: time.sleep(60 if key[0] == 2 else 0))
    began = time.monotonic()
    with pytest.raises(DataError, match=r"hung for 300 ms at .*2\.png, as did one before it"):
        list(islice(crop_batches(hanging, order(), 2), COUNT))
    assert time.monotonic() - began < 10


@pytest.mark.row(19)
def test_slow_crops_are_waited_for(crops: Crops, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that takes longer than the patience for one of its crops."""
    monkeypatch.setattr(loading, "PATIENCE", 0.2)
    slow = spoilt(crops, lambda _: time.sleep(0.12))
    assert same(crops, list(islice(crop_batches(slow, order(), 1), 5)))


@pytest.mark.row(32)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", ["gone", "cut", "pipe"])
def test_a_file_that_changes_is_named(crops: Crops, workers: int, fault: str) -> None:
    batches = crop_batches(crops, order(), workers)
    next(batches)
    file = crops.reader.pairs[5].image
    content = file.read_bytes()
    file.unlink()
    if fault == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif fault == "pipe":
        os.mkfifo(file)
    with pytest.raises(ImageError, match=r"5\.png"):
        list(islice(batches, COUNT))


@pytest.mark.row(18)
def test_a_bug_is_no_lost_process(crops: Crops, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(_key: Key) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        next(crop_batches(spoilt(crops, fail), order(), 2))
    assert "in fail" in capfd.readouterr().err  # where it was


@pytest.mark.row(20)
def test_nothing_lies_in_shared_memory_with_a_name(crops: Crops) -> None:
    """Docker gives /dev/shm 64 MB; no batch is there, nor anything else."""
    before = sorted(Path("/dev/shm").iterdir())
    batches = crop_batches(crops, order(), 2)
    next(batches)
    maps = [Path(f"/proc/{child.pid}/maps").read_text() for child in active_children()]
    assert sorted(Path("/dev/shm").iterdir()) == before
    batches.close()
    assert len(maps) == 2
    assert not any("/dev/shm" in text for text in maps)


@pytest.mark.long
def test_started_processes_load_as_forked_ones(
    crops: Crops, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS and Windows have no fork that is safe."""
    monkeypatch.setattr(loading, "FORKS", False)
    batches = crop_batches(crops, order(), 1)
    taken = list(islice(batches, 10))
    batches.close()
    assert same(crops, taken)


PROGRAM = """
    import os, sys
    from multiprocessing import active_children
    from pathlib import Path
    import numpy as np
    from unetseg.data.crops.dataset import CropRule, Crops, Order
    from unetseg.data.crops.loading import crop_batches
    from unetseg.data.crops.reader import PairReader
    from unetseg.data.facts.survey import survey

    known = survey(Path({folder!r}))
    reader = PairReader(known.select("all"), known.class_map, 3)
    crops = Crops(reader, CropRule(16, "none", 0.5), np.zeros(({pairs}, 2, 3), np.float32))
    batches = crop_batches(crops, Order([1] * {pairs}, 3, seed=3), 2)
    next(batches)
    print(*[child.pid for child in active_children()], flush=True)
    {end}
"""


@pytest.mark.row(18)
@pytest.mark.long
@pytest.mark.parametrize(
    "end",
    [
        "sys.exit(3)",
        "raise ValueError",
        "os.kill(os.getpid(), 9)",
        "os.kill(active_children()[0].pid, 19); os.kill(os.getpid(), 9)",
        "os.kill(os.getpid(), 15)",
    ],
)
def test_no_process_outlives_the_training(crops: Crops, tmp_path: Path, end: str) -> None:
    program = dedent(PROGRAM).format(folder=str(tmp_path), pairs=len(crops.reader), end=end)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    pids = done.stdout.split()
    assert len(pids) == 2, done.stderr
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if is_running(pid)]


def is_running(pid: str) -> bool:
    """Whether there is such a process, and no remains that nobody has asked for."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
