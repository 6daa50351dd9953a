"""`unetseg doctor`: what a machine offers, each thing that is wrong with it, and the exit code."""

import os
import re
import sys
from collections import namedtuple
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.card import fake_card
from unetseg import resources
from unetseg.cli.app import run
from unetseg.doctor import GIBIBYTE, runs_on

Look = Callable[..., tuple[int, str]]
Disk = namedtuple("Disk", ["total", "used", "free"])
LIMIT = "sys/fs/cgroup/memory.max"
CUDA = torch.version.cuda or "13.0"


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a healthy system: 8 cores, 8 GiB of memory, 64 MiB of /dev/shm, no GPU."""
    monkeypatch.setattr(resources, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", CUDA)
    write(tmp_path, "proc/meminfo", "MemAvailable: 8388608 kB")
    write(tmp_path, "proc/self/cgroup", "0::/")
    mounted = "30 24 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw"
    write(tmp_path, "proc/self/mountinfo", mounted)
    write(tmp_path, "proc/cpuinfo", "model name : Some CPU\nflags : fpu avx2 avx512_vnni amx_bf16")
    write(tmp_path, "dev/shm/any", "")
    write(tmp_path, "out/any", "")
    disks(monkeypatch, 100 * GIBIBYTE)
    return tmp_path


def write(root: Path, name: str, text: object) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    return path


def disks(monkeypatch: pytest.MonkeyPatch, free: int, shared: int = 64 * 2**20) -> None:
    def usage(folder: Path) -> Disk:
        return Disk(shared, 0, shared) if folder.name == "shm" else Disk(free, 0, free)

    monkeypatch.setattr("unetseg.doctor.shutil.disk_usage", usage)


def driver(host: Path, *gpus: str, version: str = "550.54.15") -> None:
    """A driver that nvidia-smi finds GPUs with; without any, only the kernel knows it."""
    if gpus:
        lines = "\\n".join(f"{version}, {gpu}" for gpu in gpus)
        write(host, "bin/nvidia-smi", f"#!/bin/sh\nprintf '{lines}\\n'").chmod(0o755)
    told = f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build"
    write(host, "proc/driver/nvidia/version", told)


@pytest.fixture
def look(host: Path, capsys: pytest.CaptureFixture[str]) -> Look:
    """Runs the command: its exit code, and all that it says."""

    def looked(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = run(["doctor", "--out", str(host / "out"), *words])
        told = capsys.readouterr()
        return code, told.out + told.err

    return looked


def test_a_healthy_machine(look: Look, host: Path) -> None:
    code, told = look()
    assert code == 0, told
    rows = {
        "processor": r"Some CPU \(avx2, avx512_vnni, amx_bf16\)",
        "device": r"CPU \(\d+ threads?\), bfloat16",
        "NVIDIA driver": "none",
        "CUDA": f"{re.escape(CUDA)}, as torch was built",
        "cores": r"8 \(no limit\), \d+ threads?",
        "free memory": r"8\.0 GiB \(no limit\)",
        "/dev/shm": "0.1 GiB",
        "free disk": rf"100\.0 GiB for {host}/out",
        "torch": re.escape(torch.__version__),
    }
    for name, value in rows.items():
        assert re.search(rf"^{name} +{value}$", told, re.MULTILINE), (name, told)
    assert "error" not in told
    assert "warning" not in told
    assert told.endswith("next: unetseg demo\n")


def test_limits_of_a_container(look: Look, host: Path) -> None:
    write(host, "sys/fs/cgroup/cpu.max", "150000 100000")
    write(host, LIMIT, 2 * GIBIBYTE)
    code, told = look()
    assert code == 0
    assert re.search(r"cores +1 \(the container's quota: 1.5\)", told)
    assert re.search(r"free memory +2.0 GiB \(what the container's limit leaves\)", told)


@pytest.mark.parametrize(
    ("limit", "code", "expected"),
    [
        (2**30, 0, "warning: the container's limit leaves 1.0 GiB of memory, and a usual training"),
        (3 * 2**27, 3, "error: the container's limit leaves 0.4 GiB of memory, and the smallest"),
    ],
)
def test_memory_that_is_too_little(
    look: Look, host: Path, limit: int, code: int, expected: str
) -> None:
    write(host, LIMIT, limit)
    found, told = look()
    assert (found, expected in told) == (code, True), told
    assert "fix: Give it more (docker run --memory 4g)" in told
    assert ("training would fail here: 1 error" in told) == (code == 3)


@pytest.mark.parametrize(
    ("free", "code", "expected"),
    [
        (2 * GIBIBYTE, 0, "warning: 2.0 GiB of disk are free for"),
        (GIBIBYTE // 8, 3, "and the smallest run takes 0.2 GiB [disk]"),
    ],
)
def test_a_disk_that_is_full(
    look: Look, monkeypatch: pytest.MonkeyPatch, free: int, code: int, expected: str
) -> None:
    disks(monkeypatch, free)
    found, told = look()
    assert (found, expected in told) == (code, True), told
    assert "fix: Free space, or choose another --out." in told


def test_a_folder_that_cannot_be_written(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**where: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("unetseg.doctor.tempfile.TemporaryFile", refused)
    code, told = look()
    assert code == 3
    assert "out cannot be written: Permission denied [disk]" in told


def test_more_threads_than_cores(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    code, told = look()
    assert code == 0
    assert "warning: torch computes in 64 threads on 8 cores, and is slow so [threads]" in told
    assert "  unset OMP_NUM_THREADS" in told


def test_a_torchvision_that_does_not_fit(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    code, told = look()
    assert code == 3
    assert f"error: torchvision cannot be used with torch {torch.__version__}: " in told
    assert "  uv pip install -c constraints.txt -e ." in told


def test_packages_of_other_versions(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["torch>=99", "numpy>=1", "no-such-package", 'pytest>=99; extra == "dev"']
    monkeypatch.setattr(metadata, "requires", lambda name: needed)
    code, told = look()
    assert code == 0
    assert "warning: 2 packages of other versions than unetseg needs [packages]" in told
    assert f"  torch {metadata.version('torch')}, expected >=99" in told
    assert "  no-such-package missing" in told


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--device", "cuda"], 3, "error: there is no NVIDIA driver [no-gpu]"),
        (["--device", "mps"], 3, "error: --device mps: this machine or this torch has none"),
        (["--precision", "fp16"], 3, "error: --precision fp16 needs a GPU [device]"),
        (["--device", "tpu"], 2, "--device 'tpu' is none of auto, cpu, cuda, cuda:N, mps"),
    ],
)
def test_what_is_asked_for_and_not_there(
    look: Look, words: list[str], code: int, expected: str
) -> None:
    found, told = look(*words)
    assert (found, expected in told) == (code, True), told


def test_arithmetic_without_units(look: Look, host: Path) -> None:
    write(host, "proc/cpuinfo", "model name : Old CPU\nflags : fpu")
    code, told = look("--precision", "bf16")
    assert code == 0
    assert "has no units for bf16: it is slower there than float32 [precision]" in told
    assert "fix: Choose --precision float32, or auto." in told
    assert "Old CPU (no units for fast arithmetic)" in told


# ------------------------------------------------------------------ a GPU that torch cannot use


def no_kernel_driver() -> None:
    raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nUpdate")


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize(
    ("case", "expected", "fix"),
    [
        ("cpu build", f"but torch {torch.__version__} was built for the CPU", "--torch-backend"),
        ("hidden", "but CUDA_VISIBLE_DEVICES='' hides the GPU", "unset CUDA_VISIBLE_DEVICES"),
        ("unreachable", "but no GPU can be reached", "docker run --gpus all"),
        (
            "old driver",
            "cannot use it: The NVIDIA driver on your system is too old (found version 11040).",
            "--torch-backend=auto",
        ),
    ],
)
def test_a_driver_whose_gpu_torch_does_not_have(
    look: Look,
    host: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    expected: str,
    fix: str,
    asked: bool,
) -> None:
    driver(host, *([] if case == "unreachable" else ["NVIDIA H200", "NVIDIA L4"]))
    if case == "cpu build":
        monkeypatch.setattr(torch.version, "cuda", None)
    if case == "hidden":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "init", no_kernel_driver)
    code, told = look(*(["--device", "cuda"] if asked else []))
    assert code == (3 if asked else 0)
    assert ("error" if asked else "warning") + ": NVIDIA driver 550.54.15 is here, " in told
    assert expected in told
    assert fix in told
    assert ("  NVIDIA L4" in told) == (case != "unreachable")


# ------------------------------------------------------------------ a GPU that it has


def test_a_gpu_that_is_fine(look: Look, host: Path) -> None:
    driver(host, "Card")
    with fake_card(free=100 * GIBIBYTE) as card:
        code, told = look("--device", "cuda")
    assert code == 0, told
    assert re.search(r"NVIDIA driver +550.54.15", told)
    assert re.search(r"built for +sm_80, sm_90", told)
    expected = "Card, 100.0 GiB of 200.0 GiB free, compute capability 9.0 (bf16, fp16, TF32)"
    assert re.search(rf"GPU 0 +{re.escape(expected)}", told)
    assert re.search(r"device +Card, bfloat16", told)
    assert "warning" not in told
    assert card.asked[-1] == "synchronize"  # a convolution was tried


@pytest.mark.parametrize(
    ("capability", "words", "code"), [((6, 1), [], 3), ((12, 0), [], 3), ((6, 1), ["cpu"], 0)]
)
def test_a_gpu_that_torch_was_not_built_for(
    look: Look, capability: tuple[int, int], words: list[str], code: int
) -> None:
    with fake_card(capability, free=100 * GIBIBYTE):
        found, told = look(*(["--device", *words] if words else []))
    severity = "error" if code else "warning"
    assert found == code
    assert f"{severity}: torch {torch.__version__} has no code for GPU 0, Card" in told
    assert "  built for sm_80, sm_90" in told
    assert "fix: Choose --device cpu, or install a build that has:" in told


def test_a_gpu_that_others_use(look: Look) -> None:
    with fake_card(free=GIBIBYTE):
        code, told = look()
    assert code == 0
    assert "warning: 1.0 GiB of 2.0 GiB are free on GPU 0 [gpu-memory]" in told
    assert "choose --device cuda:N" in told


def test_an_older_gpu_computes_in_fp16(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_card((7, 5), free=100 * GIBIBYTE):
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75"])
        assert "compute capability 7.5 (fp16)" in look()[1]
        told = look("--precision", "bf16")[1]
    assert "fix: Choose --precision fp16, or auto." in told


def test_several_gpus_talk_through_shared_memory(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_card(free=100 * GIBIBYTE):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        code, told = look()
        assert code == 0
        assert "/dev/shm has 0.1 GiB: too little for one training on several GPUs" in told
        assert "fix: Start Docker with --shm-size 1g." in told
        assert "GPU 1" in told
        disks(monkeypatch, 100 * GIBIBYTE, shared=GIBIBYTE)
        assert "shared-memory" not in look()[1]


def test_work_that_fails_on_the_device(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(device: torch.device) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with …")

    monkeypatch.setattr("unetseg.runtime.synchronise", fails)
    code, told = look()
    assert code == 3
    assert "a convolution fails on CPU" in told
    assert ": CUDA error: no kernel image is available [work]" in told
    assert "training would fail here: 1 error" in told


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((12, 1), ["sm_120f"], True),
        ((8, 6), ["sm_75", "sm_86"], True),
        ((8, 6), ["sm_89"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((9, 0), ["gfx90a"], True),
        ((9, 0), ["gfx90a", "sm_80"], False),
    ],
)
def test_code_runs_on_its_generation(
    capability: tuple[int, int], built: list[str], runs: bool
) -> None:
    assert runs_on(capability, built) == runs


def test_a_gpu_that_others_hold_wholly(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(device: object) -> tuple[int, int]:
        raise RuntimeError("CUDA error: out of memory\nCompile with …")

    sized = SimpleNamespace(total_memory=80 * GIBIBYTE)
    with fake_card(), monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "mem_get_info", held)
        patch.setattr(torch.cuda, "get_device_properties", lambda number: sized)
        code, told = look()
    assert code == 3, told
    assert "error: --device cuda: it is there, but takes no work [device]" in told
    assert "CUDA error: out of memory" in told
    assert re.search(r"GPU 0 +Card, 0\.0 GiB of 80\.0 GiB free", told)
