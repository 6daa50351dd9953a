"""The machine: device, arithmetic, memory allocator, signals, and what it is made of."""

import ctypes
import os
import platform
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from types import FrameType, TracebackType
from typing import Any

import torch

from unetseg.config import MachineConfig
from unetseg.errors import ConfigError, MachineError, OutOfMemoryError, StoppedError
from unetseg.group import ALONE, Group
from unetseg.resources import host_memory, processor, usable_cores
from unetseg.text import first_line, plural

NO_MEMORY = re.compile(
    r"out of memory|allocate memory|^could not create a (primitive|memory object)$"
    r"|CU(BLAS|DNN)_STATUS_\w*ALLOC(ATION)?_FAILED"
)
"""What torch, the allocator of the CPU, oneDNN, cuBLAS and cuDNN say when memory runs out."""
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # Windows has two of them
    if hasattr(signal, name)
)
"""What stops a training politely: Ctrl-C, an end of the job, of the terminal, of Slurm's time."""
COMPUTING = threading.RLock()
"""Held while a network predicts: one at a time, since each takes all cores or a whole GPU."""
PACKAGES = (
    "unetseg",
    "torch",
    "torchvision",
    "albumentations",
    "segmentation-models-pytorch",
    "timm",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "tifffile",
)


@dataclass(frozen=True)
class Machine:
    """Where the network runs, and in which arithmetic."""

    device: torch.device
    dtype: torch.dtype
    name: str
    group: Group = ALONE
    """The processes that train together; what predicts is alone."""

    @property
    def is_cpu(self) -> bool:
        """Whether the network runs on the processor."""
        return self.device.type == "cpu"

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which convolutions run in `dtype`; does nothing for float32."""
        enabled = self.dtype != torch.float32
        dtype = self.dtype if enabled else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=enabled)

    def free_memory(self) -> int:
        """Bytes that the network may use."""
        if self.device.type == "cuda":
            return int(torch.cuda.mem_get_info(self.device)[0])
        return host_memory()

    def __str__(self) -> str:
        processes = f", {self.group.size} processes" if self.group.size > 1 else ""
        return f"{self.name}, {dtype_name(self.dtype)}{processes}"


def start(config: MachineConfig, group: Group = ALONE) -> Machine:
    """Make this process ready for numerical work, and choose device and arithmetic.

    In a group every process has a GPU of its own.

    Raises:
        ConfigError: the device name is not one.
        MachineError: the device is not there, is held by others, was left behind by a fork, or
            cannot do the arithmetic asked for.
    """
    tune_allocator()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    survive_forks()
    device = choose_device(config.device, group)
    if device.type == "cuda":
        _hold(device)
    dtype = choose_dtype(config.precision, device)
    name = (
        "Apple MPS"
        if device.type == "mps"
        else f"CPU ({plural(torch.get_num_threads(), 'thread')})"
    )
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        name = str(torch.cuda.get_device_name(device))
    return Machine(device, dtype, name, group)


def _hold(device: torch.device) -> None:
    """Let this process work on a GPU, which it is the first to ask for anything."""
    try:
        if device.index is not None:
            torch.cuda.set_device(device)  # which is where a group looks for it
        torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        fix = "End what holds it (nvidia-smi lists that), or choose --device cuda:N or cpu."
        told = f"--device {device}: it is there, but takes no work"
        raise MachineError(told, [first_line(error)], fix) from error


def tune_allocator() -> None:
    """Keep glibc from handing big buffers back to the kernel after every training step.

    M_MMAP_MAX = 0 and M_TRIM_THRESHOLD = -1 (none) keep pages mapped, which spares the page faults
    that otherwise take a third of a training step on CPU. Does nothing where the C library is not
    glibc.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_max = -1, -4
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, -1)


@cache
def survive_forks() -> None:
    """Let processes that are forked from this one compute, with one thread each.

    OpenMP's threads are not there after a fork, and whoever gives them work waits for ever. No fork
    happens while a network predicts in another thread, whose locks would stay closed.
    """

    def in_child() -> None:
        torch.set_num_threads(1)
        COMPUTING.release()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=COMPUTING.acquire, after_in_parent=COMPUTING.release, after_in_child=in_child
        )


def end_of(exit_code: int) -> str:
    """What ended a process: the name of a signal, or its exit code."""
    names = {-one.value: one.name for one in signal.Signals}
    return names.get(exit_code, f"exit code {exit_code}")


def after_fork(what: str) -> MachineError:
    """The answer to a process that was forked and wants what only its parent has."""
    fix = (
        "Start processes by multiprocessing's spawn (torch needs it for GPUs), load the model in "
        "each of them, or predict with device cpu and engine fused or eager."
    )
    return MachineError(f"{what} cannot be used in a process that was forked", fix=fix)


def choose_device(name: str, group: Group = ALONE) -> torch.device:
    """The device called `name`; "auto" takes CUDA, then Apple MPS, then the CPU.

    Of several GPUs each process of a group has the one of its number on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        is_mac = torch.backends.mps.is_available() and group.size == 1
        name = "mps" if name == "cpu" and is_mac else name
    if name == "cuda" and group.size > 1:
        name = f"cuda:{group.local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name!r} is none of auto, cpu, cuda, cuda:N, mps") from None
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available() and group.size == 1,
    }
    if not available.get(device.type, False):
        fix = "Choose --device cpu, or run `unetseg doctor` to see what this machine offers."
        raise MachineError(f"--device {name}: this machine or this torch has none", fix=fix)
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise after_fork("a GPU that the parent has used")
    return device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The arithmetic called `precision` ("auto" takes what `device` has units for)."""
    if precision == "auto":
        if device.type == "cuda":
            is_new = torch.cuda.get_device_capability(device) >= (8, 0)
            return torch.bfloat16 if is_new else torch.float16
        return torch.bfloat16 if device.type == "cpu" and cpu_has_bf16() else torch.float32
    if precision == "fp16" and device.type == "cpu":
        raise MachineError("--precision fp16 needs a GPU", fix="Choose bf16 or float32.")
    return {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 natively (AVX-512 BF16, AMX or Arm BF16)."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(processor()[1])


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def dtype_name(dtype: torch.dtype) -> str:
    """Such as float32."""
    return str(dtype).removeprefix("torch.")


@contextmanager
def explained_memory(fix: str) -> Iterator[None]:
    """Turn what torch says when memory runs out, on any device, into an answer.

    Raises:
        OutOfMemoryError: the work inside does not fit in memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            raise OutOfMemoryError("this does not fit in memory", fix=fix) from error
        raise


def versions() -> dict[str, str]:
    """Version of every package that shapes a result, and of Python."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


class StopRequest:
    """Within its context, `signal` becomes the number of the first of `SIGNALS` received.

    A second SIGINT interrupts at once. Outside the main thread nothing is caught, and no SIGHUP
    where nohup had it ignored.

    Args:
        has_begun: Whether there is anything to save; before, any signal interrupts.

    Raises:
        StoppedError: on leaving the context, if it was interrupted before.
    """

    def __init__(self, *, has_begun: bool = True) -> None:
        self.has_begun = has_begun
        self.signal: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            kept = [n for n in SIGNALS[2:] if signal.getsignal(n) == signal.SIG_IGN]
            caught = [number for number in SIGNALS if number not in kept]
            self._before = {number: signal.signal(number, self._receive) for number in caught}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, KeyboardInterrupt) and not self.has_begun:
            told = "stopped before the first step: nothing was trained"
            stopped = StoppedError(told, fix="The same command begins again.")
            stopped.exit_code = 128 + next(iter(error.args), signal.SIGINT)
            raise stopped from None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self.has_begun or (self.signal is not None and number == signal.SIGINT):
            raise KeyboardInterrupt(number)
        self.signal = number
