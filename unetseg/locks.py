"""A folder held by one process alone, also where the file system knows no locks."""

import errno
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from unetseg.errors import MachineError
from unetseg.storage import writing

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind.
    fcntl = None  # type: ignore[assignment]

HEARTBEAT = 10.0
"""Seconds after which the owner of a folder touches its file, where there are no locks."""
SILENCE = 60.0
"""Seconds without a heartbeat after which the owner is taken for dead."""
TAKEN = (errno.EWOULDBLOCK, errno.EACCES)
"""What the system says when another process has the lock; all else means that there are none."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process alone; the lock ends with the process, however it ends.

    Where the file system has no locks (some network file systems, Windows), a file names the owner
    and has a heartbeat: a process that died there holds the folder for `SILENCE` seconds more.

    Raises:
        MachineError: another process holds it, or it cannot be written.
    """
    path = folder / ".lock"
    with writing(path):
        file = path.open("ab+", buffering=0)
    with file:
        has_lock = lock(file)
        if has_lock is False:
            file.seek(0)
            raise _taken(folder, file.read().decode(errors="replace"))
        if has_lock:
            with writing(path):
                file.truncate(0)
                file.write(_this_process().encode())
            yield
    if not has_lock:
        with _owned(folder):
            yield


def lock(file: FileIO, *, shared: bool = False) -> bool | None:
    """Lock an open file until it is closed, in place of the lock that it has.

    Args:
        file: Open for reading and writing.
        shared: With all others that share it, as soon as nobody has it alone; else alone and at
            once, or not at all.

    Returns:
        Whether it is locked; None where the file system knows no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in TAKEN else None
    return True


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Hold `folder` by a file that names this process and is touched all the time."""
    path, name = folder / ".owner", f"{_this_process()}\n{os.urandom(8).hex()}"
    with writing(path):
        _take(path, name)
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, over), daemon=True)
    heart.start()
    try:
        yield
    finally:
        over.set()
        heart.join()
        held = _look(path)
        if held and held[0] == name:
            path.unlink(missing_ok=True)


def _take(path: Path, name: str) -> None:
    """Write the file, as soon as there is none or nobody has touched it for `SILENCE` seconds."""
    first, until = _look(path), time.monotonic() + SILENCE
    while time.monotonic() < until and (now := _look(path)) is not None:
        if now != first:
            raise _taken(path.parent, now[0])
        time.sleep(min(1.0, HEARTBEAT))
    aside = path.with_name(f"{path.name}-{os.urandom(8).hex()}")
    with suppress(FileNotFoundError):  # there is none, or who waited too was faster
        path.rename(aside)
        if _look(aside) != first:  # of one who was faster still
            aside.rename(path)
        aside.unlink(missing_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(name)
    except FileExistsError:
        raise _taken(path.parent, (_look(path) or ("",))[0]) from None


def _beat(path: Path, over: threading.Event) -> None:
    while not over.wait(HEARTBEAT):
        with suppress(OSError):  # the network may be away for a while
            os.utime(path)


def _look(path: Path) -> tuple[str, float] | None:
    """What the file says and when it was touched; opened, for networks remember times for long."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None


def _this_process() -> str:
    return f"{os.getpid()} on {platform.node()}"


def _taken(folder: Path, owner: str) -> MachineError:
    fix = "Wait for it, stop it, or choose another folder."
    who = owner.split("\n")[0] or "unknown"
    return MachineError(f"process {who} works in {folder}", fix=fix)
