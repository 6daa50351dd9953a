"""Cores and memory are what the tightest limit of a container leaves, as trees of files tell it."""

import ctypes
import os
from pathlib import Path
from typing import Any

import pytest

from unetseg import resources
from unetseg.resources import LEAST, host_memory, usable_cores

GIBIBYTE = 2**30
V2 = "30 24 0:26 {} /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate"
V1 = "3{0} 24 0:3{0} {1} /sys/fs/cgroup/{2} ro,nosuid shared:9 - cgroup cgroup rw,{2}"
GROUP = "sys/fs/cgroup"
NO_LIMIT = str(2**63 - 4096)  # how version 1 says that there is none


class Status(ctypes.Structure):
    """MEMORYSTATUSEX of Windows."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("free", ctypes.c_uint64),
        ("more", ctypes.c_uint64 * 5),
    )


class Windows:
    """What ctypes calls windll, with 3 GiB that are free."""

    @property
    def kernel32(self) -> "Windows":
        return self

    def GlobalMemoryStatusEx(self, pointer: Any) -> int:  # noqa: N802 (its name)
        status = ctypes.cast(pointer, ctypes.POINTER(Status)).contents
        assert status.length == ctypes.sizeof(Status)
        status.total, status.free = 16 * GIBIBYTE, 3 * GIBIBYTE
        return 1


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a system with 8 cores, of which 8 GiB are free."""
    monkeypatch.setattr(resources, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    write(tmp_path, "proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n")
    return tmp_path


def write(root: Path, name: str, text: object) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def v2(root: Path, group: str = "/", top: str = "/") -> None:
    write(root, "proc/self/cgroup", f"0::{group}")
    write(root, "proc/self/mountinfo", "24 1 8:1 / / rw - ext4 /dev/sda rw\n" + V2.format(top))


def v1(root: Path, group: str = "/", top: str = "/") -> None:
    write(root, "proc/self/cgroup", f"9:memory:{group}\n4:cpu,cpuacct:{group}\n0::/")
    mounts = [V1.format(1, top, "memory"), V1.format(2, top, "cpu,cpuacct")]
    write(root, "proc/self/mountinfo", "\n".join(mounts))


def test_this_process_has_a_core_and_memory() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    assert host_memory() >= LEAST


def test_without_a_container_all_is_free(machine: Path) -> None:
    assert (usable_cores(), host_memory()) == (8, 8 * GIBIBYTE)
    v2(machine)
    assert (usable_cores(), host_memory()) == (8, 8 * GIBIBYTE)
    write(machine, f"{GROUP}/cpu.max", "max 100000")
    write(machine, f"{GROUP}/memory.max", "max")
    write(machine, f"{GROUP}/memory.current", 1000)
    assert (usable_cores(), host_memory()) == (8, 8 * GIBIBYTE)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("300000 100000", 3), ("150000 100000", 1), ("20000 100000", 1), ("9900000 100000", 8)],
)
def test_a_quota_of_version_2_leaves_whole_cores(machine: Path, quota: str, cores: int) -> None:
    v2(machine)
    write(machine, f"{GROUP}/cpu.max", quota)
    assert usable_cores() == cores


def test_limits_of_version_1(machine: Path) -> None:
    v1(machine)
    for name, value in {"cfs_quota_us": -1, "cfs_period_us": 100_000}.items():
        write(machine, f"{GROUP}/cpu,cpuacct/cpu.{name}", value)
    write(machine, f"{GROUP}/memory/memory.limit_in_bytes", NO_LIMIT)
    assert (usable_cores(), host_memory()) == (8, 8 * GIBIBYTE)
    write(machine, f"{GROUP}/cpu,cpuacct/cpu.cfs_quota_us", 250_000)
    write(machine, f"{GROUP}/memory/memory.limit_in_bytes", 4 * GIBIBYTE)
    write(machine, f"{GROUP}/memory/memory.usage_in_bytes", 3 * GIBIBYTE)
    statistics = f"inactive_file 5\ntotal_inactive_file {GIBIBYTE}"
    write(machine, f"{GROUP}/memory/memory.stat", statistics)
    assert (usable_cores(), host_memory()) == (2, 2 * GIBIBYTE)


def test_cached_files_do_not_count_as_held(machine: Path) -> None:
    v2(machine)
    write(machine, f"{GROUP}/memory.max", 4 * GIBIBYTE)
    write(machine, f"{GROUP}/memory.current", 4 * GIBIBYTE)
    write(machine, f"{GROUP}/memory.stat", f"file 99\ninactive_file {2 * GIBIBYTE}")
    assert host_memory() == 2 * GIBIBYTE
    write(machine, f"{GROUP}/memory.high", 3 * GIBIBYTE)  # above it, all is slowed down
    assert host_memory() == 1 * GIBIBYTE


@pytest.mark.parametrize("limited", ["", "pod", "pod/job", "pod/job/step"])
def test_the_tightest_of_nested_groups_holds(machine: Path, limited: str) -> None:
    v2(machine, "/pod/job/step")
    for group in ("pod", "pod/job", "pod/job/step"):
        write(machine, f"{GROUP}/{group}/cpu.max", "600000 100000")
        write(machine, f"{GROUP}/{group}/memory.max", 7 * GIBIBYTE)
    write(machine, f"{GROUP}/{limited}/cpu.max", "200000 100000")
    write(machine, f"{GROUP}/{limited}/memory.max", 2 * GIBIBYTE)
    write(machine, f"{GROUP}/elsewhere/cpu.max", "100000 100000")
    assert (usable_cores(), host_memory()) == (2, 2 * GIBIBYTE)


@pytest.mark.parametrize(
    ("group", "top"),
    [("/docker/abc", "/docker/abc"), ("/docker/abc", "/"), ("/../..", "/"), ("/", "/docker/abc")],
)
def test_the_own_group_is_mounted_as_the_topmost(machine: Path, group: str, top: str) -> None:
    v1(machine, group, top)  # as Docker does, with and without a namespace of groups
    write(machine, f"{GROUP}/cpu,cpuacct/cpu.cfs_quota_us", 400_000)
    write(machine, f"{GROUP}/cpu,cpuacct/cpu.cfs_period_us", 100_000)
    write(machine, f"{GROUP}/memory/memory.limit_in_bytes", GIBIBYTE)
    assert (usable_cores(), host_memory()) == (4, GIBIBYTE)


def test_never_less_than_something_starts_with(machine: Path) -> None:
    v2(machine)
    write(machine, f"{GROUP}/memory.max", GIBIBYTE)
    write(machine, f"{GROUP}/memory.current", 2 * GIBIBYTE)
    assert host_memory() == LEAST


def test_systems_without_proc_have_memory_too(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / "proc/meminfo").unlink()
    names = {name: code for name, code in os.sysconf_names.items() if name != "SC_AVPHYS_PAGES"}
    assert host_memory() >= LEAST
    monkeypatch.setattr(os, "sysconf_names", names)  # macOS
    assert host_memory() >= LEAST
    monkeypatch.delattr(os, "sysconf")  # Windows
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(ctypes, "windll", Windows(), raising=False)
    assert host_memory() == 3 * GIBIBYTE
    assert usable_cores() >= 1
