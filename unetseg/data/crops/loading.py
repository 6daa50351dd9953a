"""Batches of crops, made here or by processes beside the training, any of which may die or hang.

Batches are the same whoever makes them; where a process is lost, fewer go on with the very batch
that is due. They write into memory without a name that they share with this process: unlike that of
torch's loader it is not in /dev/shm, of which a container has 64 MB.
"""

import atexit
import ctypes
import math
import mmap
import os
import signal
import sys
from collections.abc import Generator
from contextlib import ExitStack, closing, suppress
from itertools import cycle
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import cv2
import torch
from torch import Tensor

from unetseg.data.crops.cache import FORKS
from unetseg.data.crops.dataset import Crops, Key, Order, Sample, collate
from unetseg.errors import DataError, MachineError, OutOfMemoryError, UnetsegError
from unetseg.progress import SILENT, Progress
from unetseg.runtime import SIGNALS, end_of, explained_memory
from unetseg.text import duration

AHEAD = 4
"""Batches that each process makes ahead."""
PATIENCE = 300.0
"""Seconds that one crop may take before its process is taken to hang."""
MOST_LOST = 8
"""Processes that may be lost before the training gives up."""
FAREWELL = 10.0
"""Seconds in which a process that was killed is gone."""


class LostProcessError(Exception):
    """A process that makes no more batches.

    Args:
        how: What became of it.
        key: The crop it was at, if it was at one.
        memory: Whether memory may have run out, so that another process would not help.
    """

    def __init__(self, how: str, key: Key | None = None, *, memory: bool = False) -> None:
        super().__init__(how)
        self.how, self.key, self.memory = how, key, memory


def crop_batches(
    crops: Crops,
    order: Order,
    workers: int = 0,
    *,
    pin: bool = False,
    progress: Progress = SILENT,
) -> Generator[Sample, None, None]:
    """The batches of the whole training, without end; its processes end when it is closed.

    Args:
        crops: What batches are made of.
        order: Which crops, from its first step on.
        workers: Processes that make them; 0: none but this one.
        pin: Whether batches shall lie in memory that a GPU copies from by itself.
        progress: Hears of processes that were lost.

    Raises:
        DataError: a file cannot be read, or ends the processes that read it.
        MachineError: processes end again and again.
        OutOfMemoryError: there is no memory for a batch even in this process.
    """
    done, lost = 0, list[LostProcessError]()
    while workers:
        try:
            with closing(_made_beside(crops, order.after(done), workers)) as batches:
                for batch in batches:
                    done += 1
                    yield _own(batch, pin=pin)
        except LostProcessError as last:
            lost.append(last)
            workers = _fewer(workers, lost, crops, progress)
    for keys in order.after(done):
        batch = collate([crops[key] for key in keys])
        yield _own(batch, pin=True) if pin else batch


def _fewer(workers: int, lost: list[LostProcessError], crops: Crops, progress: Progress) -> int:
    """How many processes go on after the last of those that are `lost`.

    Raises:
        DataError: it was at the crop at which one was lost before.
        MachineError: too many are lost.
    """
    last = lost[-1]
    path = crops.reader.pairs[last.key[0]].image if last.key else None
    told = f"a process that loads crops {last.how}" + (f" at {path}" if path else "")
    again = [each.key for each in lost].count(last.key) > 1
    if path and again:
        fix = "Take the file out of the folder, or save it anew; `unetseg check` looks at all."
        raise DataError(f"{told}, as did one before it", fix=fix, code="lost-loader", paths=[path])
    if len(lost) == MOST_LOST:
        fix = "Train with --workers 0, which loads crops without other processes."
        raise MachineError(f"{told}, the last of {len(lost)}", fix=fix, code="lost-loader")
    # Not this process instead of one that crashed or hung: the next might be this one.
    fewer = max(workers // 2, 0 if last.memory else 1)
    who = {0: "the training itself loads", 1: "1 process loads"}.get(fewer, f"{fewer} load")
    progress.say(f"warning: {told}; {who} them from here on")
    return fewer


def _own(batch: Sample, *, pin: bool) -> Sample:
    """A copy, channels_last as before."""
    image = batch.image.permute(0, 2, 3, 1)  # N, H, W, C
    image, mask, statistics = (
        each.pin_memory() if pin else each.clone() for each in (image, batch.mask, batch.statistics)
    )
    return Sample(image.permute(0, 3, 1, 2), mask, statistics)


# ------------------------------------------------------------------ in this process


def _made_beside(crops: Crops, order: Order, workers: int) -> Generator[Sample, None, None]:
    """The batches of so many processes in turn; each is overwritten once the next is asked for.

    Raises:
        LostProcessError: a process that owes a batch is gone, or hangs.
    """
    keys = iter(order)
    with ExitStack() as stack:
        team = [stack.enter_context(closing(Worker(crops, order.crops))) for _ in range(workers)]
        for worker in team * AHEAD:
            worker.ask(next(keys))
        for worker in cycle(team):
            yield worker.batch()
            worker.ask(next(keys))


class Worker:
    """A process that makes batches, and the memory that it writes them into.

    Args:
        crops: What batches are made of.
        batch: Crops of a batch.

    Raises:
        LostProcessError: it cannot be started.
    """

    def __init__(self, crops: Crops, batch: int) -> None:
        context: Any = get_context("fork" if FORKS else "spawn")
        self.connection, theirs = Pipe()
        try:
            slots = [Slot(crops, batch) for _ in range(AHEAD)]
            self.at = _shared(2 * 8).view(torch.int64).fill_(-1)  # the crop being made
            arguments = (theirs, crops, slots, self.at, os.getpid())
            self.process: BaseProcess = context.Process(target=_work, args=arguments, daemon=True)
            self.process.start()
        except OSError as error:  # too many processes, or too little memory
            raise LostProcessError(f"cannot be started ({error.strerror})", memory=True) from error
        finally:
            theirs.close()  # the connection ends when the process does
        self.slots = cycle(slots)
        atexit.register(self.close)  # else multiprocessing would wait for it without end

    def ask(self, keys: list[Key]) -> None:
        """Let it make a batch."""
        with suppress(OSError):  # where it is gone, that is said when the batch is due
            self.connection.send(keys)

    def batch(self) -> Sample:
        """The batch that was asked for first, of those that it owes.

        Raises:
            LostProcessError: there will be none.
            UnetsegError: a file cannot be read.
        """
        before = self.at.tolist()
        try:
            while not self.connection.poll(PATIENCE):
                if before == self.at.tolist():
                    raise LostProcessError(f"hung for {duration(PATIENCE)}", self._key())
                before = self.at.tolist()
            answer = self.connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(answer, OutOfMemoryError):
            raise LostProcessError("ran out of memory", memory=True)
        if isinstance(answer, Exception):
            raise answer
        return next(self.slots).batch(answer)

    def close(self) -> None:
        """End the process at once: it has nothing to save."""
        atexit.unregister(self.close)
        self.process.kill()
        self.process.join(FAREWELL)
        self.connection.close()

    def _ended(self) -> LostProcessError:
        self.process.join(FAREWELL)
        what = end_of(self.process.exitcode or 0)
        if what == "SIGKILL":
            how = "was killed, as when memory runs out,"
            return LostProcessError(how, self._key(), memory=True)
        return LostProcessError(f"ended ({what})", self._key())

    def _key(self) -> Key | None:
        index, seed = self.at.tolist()
        return (index, seed) if index >= 0 else None


class Slot:
    """Memory of one batch.

    Args:
        crops: What batches are made of.
        batch: Crops of a batch.
    """

    def __init__(self, crops: Crops, batch: int) -> None:
        size, bands = crops.rule.size, crops.statistics.shape[-1]
        self.shape = batch, size, size, bands
        self.image = _shared(4 * math.prod(self.shape))
        self.mask = _shared(batch * size**2).view(batch, size, size)
        self.statistics = _shared(4 * 2 * batch * bands).view(torch.float32).view(batch, 2, bands)

    def batch(self, dtype: torch.dtype) -> Sample:
        """A batch of images of `dtype` that lies there."""
        image = self.image.view(dtype)[: math.prod(self.shape)].view(self.shape)
        return Sample(image.permute(0, 3, 1, 2), self.mask, self.statistics)


def _shared(size: int) -> Tensor:
    """So many bytes that processes started from now on share with this one.

    Raises:
        OSError: there are not so many.
    """
    if FORKS:
        return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)
    memory = torch.empty(size, dtype=torch.uint8)
    memory.share_memory_()  # type: ignore[no-untyped-call]
    return memory


# ------------------------------------------------------------------ in the process beside


def _work(connection: Connection, crops: Crops, slots: list[Slot], at: Tensor, parent: int) -> None:
    """Make the batches that are asked for, until the training ends this process or has ended."""
    _start(parent)
    for slot in cycle(slots):
        try:
            keys: list[Key] = connection.recv()
        except EOFError:
            return
        try:
            with explained_memory(""):
                samples = []
                for key in keys:
                    at[0], at[1] = key
                    samples.append(crops[key])
                at[0] = -1
                batch = collate(samples)
            for place, part in zip(slot.batch(batch.image.dtype), batch, strict=True):
                place.copy_(part)
            connection.send(batch.image.dtype)
        except UnetsegError as error:
            short = isinstance(error.__cause__, MemoryError)
            connection.send(OutOfMemoryError.like(error) if short else error)
            return
        except Exception as error:
            connection.send(error)
            raise


def _start(parent: int) -> None:
    """One thread; signals to stop are for the training, which ends this process with itself."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # the kernel ends this process when `parent` is gone
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
