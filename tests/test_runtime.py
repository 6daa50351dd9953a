"""The machine: devices are there or refused by name, memory is what a container leaves."""

import platform
import subprocess
import sys

import pytest
import torch

from unetseg import runtime
from unetseg.config import RuntimeConfig
from unetseg.errors import ConfigError, MachineError
from unetseg.resources import LEAST
from unetseg.runtime import Machine, choose_device, choose_dtype, start

CPU = torch.device("cpu")


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
    assert machine.free_memory() >= LEAST


def test_a_quota_of_cores_holds_for_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr("unetseg.runtime.usable_cores", lambda: 1)
    try:
        torch.set_num_threads(2)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        start(RuntimeConfig(device="cpu"))
        assert torch.get_num_threads() == 2  # as asked
        monkeypatch.delenv("OMP_NUM_THREADS")
        start(RuntimeConfig(device="cpu"))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_versions_name_python_and_torch() -> None:
    found = runtime.versions()
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"]
    assert {"python", "unetseg", "numpy"} <= set(found)


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
