"""What this process may use of the machine: cores and memory, within the limits of its container.

The limits are those of control groups, version 1 and 2. A process is in a group, that is in
another, up to the topmost that the container sees; the tightest limit holds.
"""

import ctypes
import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

MEBIBYTE = 2**20
LEAST = 256 * MEBIBYTE
"""Bytes that are taken for free whatever the system says: with less nothing starts."""
NO_LIMIT = 2**62
"""Bytes from which on version 1 means that there is no limit."""
ROOT = Path("/")
"""Where the files of the operating system are."""
UNITS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_fp16", "avx512_bf16"),
    *("amx_int8", "amx_bf16", "asimddp", "bf16"),
)
"""Flags of processors that decide how fast a network runs, the fastest of each kind last."""


def usable_cores() -> int:
    """Processor cores this process may use; of a quota of 1.5 cores one, for half a one stalls."""
    allowed = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    return max(1, int(min(allowed, core_quota())))


def processor() -> tuple[str, list[str]]:
    """Name of the processor, and those of its flags that matter here."""
    entries = [line.partition(":") for line in lines_of("proc/cpuinfo")]
    facts = {key.strip().lower(): value.strip() for key, _, value in entries}
    words = (facts.get("flags") or facts.get("features") or "").split()
    name = facts.get("model name") or platform.processor() or platform.machine()
    return name, [unit for unit in UNITS if unit in words]


def host_memory() -> int:
    """Bytes of main memory that are free, within the container's limit where there is one."""
    return int(max(min(_free_memory(), memory_left()), LEAST))


def _free_memory() -> int:
    """Bytes that the operating system calls free; half of all where it does not say."""
    entries = [line.split() for line in lines_of("proc/meminfo") if "MemAvailable:" in line]
    available = sum(1024 * int(kilobytes) for _, kilobytes, *_ in entries)
    if available:
        return available
    if windows := getattr(ctypes, "windll", None):
        status = (ctypes.c_uint64 * 8)(64)  # MEMORYSTATUSEX, which begins with its own size
        windows.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return status[2]
    pages, share = ("SC_PHYS_PAGES", 0.5)
    if "SC_AVPHYS_PAGES" in os.sysconf_names:  # macOS has none
        pages, share = ("SC_AVPHYS_PAGES", 1.0)
    return int(share * os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE"))


# ------------------------------------------------------------------ control groups


def core_quota() -> float:
    """Processor cores that the container's quotas leave, such as 1.5; infinite without one."""
    return min(map(_quota, _groups("cpu")), default=math.inf)


def memory_left() -> float:
    """Bytes that the container's limits leave; infinite without one."""
    return min(map(_memory_left, _groups("memory")), default=math.inf)


def _quota(group: Path) -> float:
    words = _words(group / "cpu.max") or [
        *_words(group / "cpu.cfs_quota_us"),
        *_words(group / "cpu.cfs_period_us"),
    ]
    is_limited = len(words) == 2 and words[0].isdigit()  # else "max", or -1
    return int(words[0]) / int(words[1]) if is_limited else math.inf


def _memory_left(group: Path) -> float:
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")
    limits = [int(word) for name in names for word in _words(group / name) if word.isdigit()]
    limits = [limit for limit in limits if limit < NO_LIMIT]
    used = _words(group / "memory.current") or _words(group / "memory.usage_in_bytes") or ["0"]
    entries = dict(line.split() for line in lines_of(group / "memory.stat"))
    cache = entries.get("total_inactive_file", entries.get("inactive_file", 0))
    return min(limits, default=math.inf) - int(used[0]) + int(cache)  # given back when needed


def _groups(controller: str) -> Iterator[Path]:
    """The folders of the groups of this process that may limit what `controller` is about."""
    inside: dict[str, Path] = {}
    for line in lines_of("proc/self/cgroup"):
        _, controllers, name = line.split(":", 2)  # 4:cpu,cpuacct:/a/b; version 2: 0::/a/b
        inside |= dict.fromkeys(controllers.split(","), Path(name))
    for line in lines_of("proc/self/mountinfo"):
        place, _, what = line.partition(" - ")
        top, point = place.split()[3:5]
        kind, *_, options = what.split()
        name = "" if kind == "cgroup2" else controller
        if name not in inside or not (kind == "cgroup2" or name in options.split(",")):
            continue
        topmost, path = ROOT / point.lstrip("/"), inside[name]
        seen = path.is_relative_to(top) and ".." not in path.parts  # else a path of the host
        group = topmost / path.relative_to(top) if seen else topmost
        yield from [group, *(above for above in group.parents if above.is_relative_to(topmost))]


def _words(path: Path) -> list[str]:
    return " ".join(lines_of(path)).split()


def lines_of(path: Path | str) -> list[str]:
    """The lines of a file of the operating system; none where it is not there."""
    try:
        return (ROOT / path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
