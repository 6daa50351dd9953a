"""How much memory a piece of work takes at its peak."""

import ctypes
import platform
import re
import sys
from pathlib import Path
from types import TracebackType

import torch

from unetseg.runtime import MEBIBYTE

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # proc(5): resets the highest resident size


class PeakMemory:
    """Measures the work inside its context: memory at the peak, less what was taken before.

    On a GPU that is what torch takes there; on a CPU what the process takes, where the system
    (Linux) tells.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.mebibytes: float | None = None
        """After the work; None where the system does not tell."""
        self._before: float | None = None

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device) / MEBIBYTE
        elif self.device.type == "cpu" and _forget_peak():
            self._before = _resident("VmRSS")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is None:
            return
        if self.device.type == "cuda":
            peak: float | None = torch.cuda.max_memory_allocated(self.device) / MEBIBYTE
        else:
            peak = _resident("VmHWM")
        self.mebibytes = None if peak is None else max(0.0, peak - self._before)


def _forget_peak() -> bool:
    """Give free memory back to the system, and begin a new peak; False where that cannot be."""
    if sys.platform != "linux":
        return False
    if platform.libc_ver()[0] == "glibc":
        # `tune_allocator` keeps what is free, and later work would hide in it
        ctypes.CDLL(None).malloc_trim(0)
    try:
        CLEAR.write_text(FORGET_PEAK)
    except OSError:
        return False
    return True


def _resident(name: str) -> float | None:
    """VmRSS (now) or VmHWM (the peak) of this process, mebibytes."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) / 1024 if found else None
