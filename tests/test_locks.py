"""A folder belongs to one process, with locks of the file system and without."""

import errno
import fcntl
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unetseg import locks
from unetseg.errors import MachineError
from unetseg.locks import locked

SCRIPT = """
import sys, time
from pathlib import Path
from unetseg import locks

def refuse(*_):
    raise OSError({error}, "No locks available")

if {error}:
    locks.fcntl.flock = refuse
locks.HEARTBEAT, locks.SILENCE = 0.1, 1.5
with locks.locked(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(float(sys.argv[2]))
print("out", flush=True)
"""
NO_LOCKS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL]


def other(folder: Path, error: int, seconds: float = 0) -> subprocess.Popen[str]:
    """Another process that holds the folder for some time."""
    words = [sys.executable, "-c", SCRIPT.format(error=error), str(folder), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(params=[0, errno.ENOLCK], ids=["locks", "no locks"])
def error(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """What the system answers when a lock is wanted, here and in `other`."""
    number: int = request.param
    if number:
        refuse_locks(monkeypatch, number)
    return number


def refuse_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "HEARTBEAT", 0.1)
    monkeypatch.setattr(locks, "SILENCE", 1.5)


@pytest.mark.row(14)
@pytest.mark.long
def test_a_second_process_is_refused_and_named_the_first(tmp_path: Path, error: int) -> None:
    with locked(tmp_path):
        second = other(tmp_path, error)
        _, answer = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"process {os.getpid()} on {platform.node()} works in {tmp_path}" in answer
    told, _ = other(tmp_path, error).communicate(timeout=60)
    assert told == "in\nout\n"


@pytest.mark.long
def test_the_folder_of_a_dead_process_is_free(tmp_path: Path, error: int) -> None:
    first = other(tmp_path, error, 60)
    assert first.stdout is not None
    assert first.stdout.readline() == "in\n"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    began = time.monotonic()
    with locked(tmp_path):
        waited = time.monotonic() - began
    assert waited < (5 if error else 1)
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}


@pytest.mark.long
def test_of_many_that_wait_for_a_dead_process_one_gets_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".owner").write_text("1 on elsewhere\nabc")
    waiting = [other(tmp_path, errno.ENOLCK, 4) for _ in range(4)]
    answers = [process.communicate(timeout=60) for process in waiting]
    assert sorted(told for told, _ in answers) == ["", "", "", "in\nout\n"]
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_file_system_without_locks_is_no_reason_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse_locks(monkeypatch, number)
    with locked(tmp_path):
        assert (tmp_path / ".owner").read_text().startswith(f"{os.getpid()} on ")
    assert not (tmp_path / ".owner").exists()


def test_without_the_module_for_locks_there_is_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "fcntl", None)  # Windows
    with locked(tmp_path):
        assert (tmp_path / ".owner").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(MachineError, match=r"cannot write .*gone/\.lock: No such"),
        locked(tmp_path / "gone"),
    ):
        pass


def test_a_full_disk_is_an_answer(tmp_path: Path, error: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with (
            pytest.raises(MachineError, match=r"cannot write .*: File too large"),
            locked(tmp_path),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
