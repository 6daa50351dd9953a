"""The machine: devices are there or refused by name, memory is what a container leaves."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unetseg import runtime
from unetseg.config import RuntimeConfig
from unetseg.errors import ConfigError, MachineError
from unetseg.runtime import MEBIBYTE, Machine, choose_device, choose_dtype, start

CPU = torch.device("cpu")
GIBIBYTE = 2**30


def test_auto_takes_a_device_that_works() -> None:
    device = choose_device("auto")
    assert torch.ones(3, device=device).sum().item() == 3


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "cuda:-1", "1"])
def test_a_name_that_is_no_device_is_a_wrong_setting(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is none of auto, cpu, cuda, cuda:N, mps"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda:99", "xpu", "meta"])
def test_a_device_that_is_not_there_is_refused_with_the_fix(name: str) -> None:
    with pytest.raises(MachineError, match=f"--device {name}: this machine") as caught:
        choose_device(name)
    assert "--device cpu" in caught.value.fix


def test_arithmetic_as_asked() -> None:
    assert choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype("bf16", CPU) == torch.bfloat16
    assert choose_dtype("auto", CPU) in {torch.float32, torch.bfloat16}
    assert choose_dtype("fp16", torch.device("cuda")) == torch.float16
    with pytest.raises(MachineError, match="fp16 needs a GPU"):
        choose_dtype("fp16", CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_multiplies_in_the_arithmetic_chosen(dtype: torch.dtype) -> None:
    with Machine(CPU, dtype, "test").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_starting_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    start(RuntimeConfig(device="cpu"))
    assert torch.equal(torch.rand(4), expected)


def test_a_machine_says_what_it_is() -> None:
    machine = start(RuntimeConfig(device="cpu", precision="float32"))
    assert machine.is_cpu
    assert str(machine).startswith("CPU (")
    assert str(machine).endswith(", float32")
    assert machine.free_memory() >= 256 * MEBIBYTE


def test_versions_name_python_and_torch() -> None:
    found = runtime.versions()
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"]
    assert {"python", "unetseg", "numpy"} <= set(found)


def test_usable_cores_are_those_of_the_process() -> None:
    assert 1 <= runtime.usable_cores() <= (os.cpu_count() or 1)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What the files of the operating system say; those not listed are not there."""
    content: dict[str, list[str]] = {}
    monkeypatch.setattr(runtime, "_lines", lambda path: content.get(Path(path).name, []))
    return content


def test_memory_is_what_the_system_calls_available(files: dict[str, list[str]]) -> None:
    files["meminfo"] = ["MemTotal: 16777216 kB", "MemAvailable: 8388608 kB"]
    assert runtime.host_memory() == 8 * GIBIBYTE


def test_a_container_leaves_its_limit_less_what_it_holds(files: dict[str, list[str]]) -> None:
    files["meminfo"] = ["MemAvailable: 8388608 kB"]
    files["memory.max"] = [str(4 * GIBIBYTE)]
    files["memory.current"] = [str(3 * GIBIBYTE)]
    assert runtime.host_memory() == 1 * GIBIBYTE


def test_cached_files_do_not_count_as_held(files: dict[str, list[str]]) -> None:
    files["meminfo"] = ["MemAvailable: 8388608 kB"]
    files["memory.max"] = [str(4 * GIBIBYTE)]
    files["memory.current"] = [str(4 * GIBIBYTE)]
    files["memory.stat"] = ["file 99", f"inactive_file {2 * GIBIBYTE}"]
    assert runtime.host_memory() == 2 * GIBIBYTE


def test_a_container_without_limit_has_all(files: dict[str, list[str]]) -> None:
    files["meminfo"] = ["MemAvailable: 8388608 kB"]
    files["memory.max"], files["memory.current"] = ["max"], ["1000"]
    assert runtime.host_memory() == 8 * GIBIBYTE


def test_systems_without_proc_have_memory_too(
    files: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not files
    names = {name: code for name, code in os.sysconf_names.items() if name != "SC_AVPHYS_PAGES"}
    assert runtime.host_memory() >= 256 * MEBIBYTE
    monkeypatch.setattr(os, "sysconf_names", names)  # macOS
    assert runtime.host_memory() >= 256 * MEBIBYTE
    monkeypatch.delattr(os, "sysconf")  # Windows
    assert runtime.host_memory() == 256 * MEBIBYTE


KEEP = """
import ctypes
from unetseg.runtime import tune_allocator

tune_allocator()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
block = libc.malloc(3 * 2**30)
end = libc.sbrk(0)
libc.free(block)
print("kept" if libc.sbrk(0) == end else "handed back")
"""


@pytest.mark.long
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is of glibc")
def test_freed_memory_is_kept_however_much_it_is() -> None:
    # in a process of its own: the 3 GB are never touched, but would stay reserved
    done = subprocess.run([sys.executable, "-c", KEEP], check=True, capture_output=True, text=True)
    assert done.stdout == "kept\n"
