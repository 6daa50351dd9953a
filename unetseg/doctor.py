"""What this machine offers a U-Net, and what is wrong with it, each with its fix."""

import importlib
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement
from torch import nn

from unetseg import resources, runtime
from unetseg.checks.finding import Finding, refusal
from unetseg.config import MachineConfig
from unetseg.data.facts.fingerprint import cache_folder
from unetseg.errors import MachineError
from unetseg.resources import MEBIBYTE, core_quota, host_memory, lines_of, memory_left
from unetseg.runtime import Machine
from unetseg.storage import nearest_folder
from unetseg.text import first_line, plural

GIBIBYTE = 2**30
LEAST_MEMORY, USUAL_MEMORY = 400 * MEBIBYTE, 1500 * MEBIBYTE
"""Bytes that the smallest training and a usual one take beside torch itself: U-Nets of width 16 and
batch 2, width 32 and batch 8 (measured, benchmarks/results/memory.md)."""
LEAST_DISK, USUAL_DISK = GIBIBYTE // 4, 4 * GIBIBYTE
"""Bytes that a run of the default U-Net writes at most on a CPU, and on a GPU: a state holds the
weights, their mean and what the optimizer remembers, and is written before the old one goes."""
LEAST_ON_GPU = 2 * GIBIBYTE
"""Free bytes of a GPU below which other work is taken to hold it."""
SHARED_BY_GPUS = GIBIBYTE
"""Bytes of /dev/shm that the processes of several GPUs are given; NCCL talks through it."""
SMI = ("nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader")
REINSTALL = (
    "uv pip install --torch-backend=auto --reinstall-package torch "
    "--reinstall-package torchvision -c constraints.txt torch torchvision"
)
"""Takes the build of torch for the driver that is there."""


@dataclass(frozen=True)
class Examination:
    """What was found."""

    facts: dict[str, str]
    findings: list[Finding]

    @property
    def errors(self) -> list[Finding]:
        """Those with which training would fail."""
        return [each for each in self.findings if each.severity == "error"]


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver, as the system tells it, whatever torch sees.

    Attributes:
        version: Such as 550.54.15; "" where there is none.
        gpus: Names of the GPUs that can be reached from here.
    """

    version: str
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch can use; bytes of memory, and the compute capability."""

    name: str
    memory: int
    free: int
    capability: tuple[int, int]

    def __str__(self) -> str:
        major, minor = self.capability
        units = "bf16, fp16, TF32" if major >= 8 else "fp16" if major >= 7 else "float32 alone"
        memory = f"{gibibytes(self.free)} of {gibibytes(self.memory)} free"
        return f"{self.name}, {memory}, compute capability {major}.{minor} ({units})"


def examine(config: MachineConfig, out: Path) -> Examination:
    """Look at everything that training needs; `out` is where its runs would be written."""
    driver, gpus, findings = find_driver(), find_gpus(), [*package_findings()]
    try:
        machine = runtime.start(config)
    except MachineError as fault:
        machine = runtime.start(MachineConfig(device="cpu"))
        if gpus or not config.device.startswith("cuda"):
            findings.append(refusal("device", fault))
    findings += [
        *gpu_findings(config, machine, driver, gpus),
        *memory_findings(gpus),
        *disk_findings(out),
    ]
    if not any(each.severity == "error" for each in findings):
        findings += work_findings(machine)
    return Examination(facts(machine, driver, gpus, out), findings)


# ------------------------------------------------------------------ what there is


def facts(machine: Machine, driver: Driver, gpus: list[Gpu], out: Path) -> dict[str, str]:
    """Name → what is told of it, in words."""
    name, units = resources.processor()
    quota, left, shared = core_quota(), memory_left(), shared_memory()
    of_cores = f"the container's quota: {quota:.3g}" if math.isfinite(quota) else "no limit"
    of_memory = "what the container's limit leaves" if math.isfinite(left) else "no limit"
    threads = plural(torch.get_num_threads(), "thread")
    return {
        **runtime.versions(),
        "torch": torch.__version__,
        "processor": f"{name} ({', '.join(units) or 'no units for fast arithmetic'})",
        "device": str(machine),
        "NVIDIA driver": driver.version or "none",
        "CUDA": f"{torch.version.cuda or 'none'}, as torch was built",
        **({"built for": ", ".join(torch.cuda.get_arch_list())} if gpus else {}),
        **{f"GPU {number}": str(gpu) for number, gpu in enumerate(gpus)},
        "cores": f"{resources.usable_cores()} ({of_cores}), {threads}",
        "free memory": f"{gibibytes(host_memory())} ({of_memory})",
        **({"/dev/shm": gibibytes(shared)} if shared is not None else {}),
        "free disk": f"{gibibytes(free_disk(out))} for {out}",
        "fingerprint cache": str(cache_folder()),
    }


def gibibytes(size: float) -> str:
    """A size in GiB."""
    return f"{size / GIBIBYTE:.1f} GiB"


def find_driver() -> Driver:
    """What nvidia-smi says, else the kernel, whose word in a container is of the host's driver."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(SMI, capture_output=True, text=True, check=True, timeout=20)
        rows = [line.split(", ", 1) for line in done.stdout.splitlines() if ", " in line]
        if rows:
            return Driver(rows[0][0], tuple(name for _, name in rows))
    told = re.search(r"\d{3,}\.\d+(\.\d+)?", " ".join(lines_of("proc/driver/nvidia/version")))
    return Driver(told[0] if told else "")


def find_gpus() -> list[Gpu]:
    """Those that torch can use, by number; of CUDA or ROCm."""
    if not torch.cuda.is_available():
        return []
    return [
        Gpu(
            str(torch.cuda.get_device_name(number)),
            *_memory(number),
            torch.cuda.get_device_capability(number),
        )
        for number in range(torch.cuda.device_count())
    ]


def _memory(number: int) -> tuple[int, int]:
    """Bytes of a GPU, and those that are free: none where others hold it."""
    try:
        free, memory = torch.cuda.mem_get_info(number)
    except RuntimeError:
        return torch.cuda.get_device_properties(number).total_memory, 0
    return memory, free


def shared_memory() -> int | None:
    """Bytes of /dev/shm; None where the system has none."""
    folder = resources.ROOT / "dev/shm"
    return shutil.disk_usage(folder).total if folder.is_dir() else None


def free_disk(folder: Path) -> int:
    """Bytes that are free where `folder` is, or would be made."""
    return shutil.disk_usage(nearest_folder(folder)).free


# ------------------------------------------------------------------ what is wrong


def finding(
    check: str, summary: str, fix: str, command: str = "", *, fails: bool, lines: Sequence[str] = ()
) -> Finding:
    """An error where training fails, else a warning."""
    choices = [command] if command else []
    return Finding(check, "error" if fails else "warning", summary, lines, fix, choices=choices)


def package_findings() -> Iterator[Finding]:
    """Packages that are missing, too old, or do not fit each other."""
    misfits = list[str]()
    fix = "Install what belongs together:", "uv pip install -c constraints.txt -e ."
    with suppress(metadata.PackageNotFoundError):  # run from its sources
        for needed in map(Requirement, metadata.requires("unetseg") or []):
            if needed.marker and not needed.marker.evaluate({"extra": ""}):
                continue
            try:
                version = metadata.version(needed.name)
            except metadata.PackageNotFoundError:
                version = "missing"
            if version == "missing" or not needed.specifier.contains(version, prereleases=True):
                misfits.append(f"{needed.name} {version}, expected {needed.specifier}")
    if misfits:
        told = f"{plural(len(misfits), 'package')} of other versions than unetseg needs"
        yield finding("packages", told, *fix, fails=False, lines=misfits)
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as fault:
        told = f"torchvision cannot be used with torch {torch.__version__}: {first_line(fault)}"
        yield finding("torchvision", told, *fix, fails=True)


def gpu_findings(
    config: MachineConfig, machine: Machine, driver: Driver, gpus: list[Gpu]
) -> Iterator[Finding]:
    """GPUs that torch cannot use, cannot use well, or that others use."""
    asked = config.device.startswith("cuda")
    if not gpus and (driver.version or asked):
        yield finding("no-gpu", *unused_gpu(driver), fails=asked, lines=driver.gpus)
    built = torch.cuda.get_arch_list() if gpus else []
    for number, gpu in enumerate(gpus):
        chosen = machine.device.type == "cuda" and number == (machine.device.index or 0)
        if not runs_on(gpu.capability, built):
            told = f"torch {torch.__version__} has no code for GPU {number}, {gpu}"
            fix = "Choose --device cpu, or install a build that has:", REINSTALL
            lines = [f"built for {', '.join(built)}"]
            yield finding("gpu-not-built-for", told, *fix, fails=chosen, lines=lines)
        elif chosen and gpu.free < LEAST_ON_GPU:
            told = f"{gibibytes(gpu.free)} of {gibibytes(gpu.memory)} are free on GPU {number}"
            advice = "End what holds it (nvidia-smi lists that), or choose --device cuda:N."
            yield finding("gpu-memory", told, advice, fails=False)
    if config.precision == "bf16" and not has_bf16(machine, gpus):
        told = f"{machine.name} has no units for bf16: it is slower there than float32"
        advice = f"Choose --precision {'float32' if machine.is_cpu else 'fp16'}, or auto."
        yield finding("precision", told, advice, fails=False)


def unused_gpu(driver: Driver) -> tuple[str, str, str]:
    """Why torch has no GPU, what to do, and a command."""
    seen = f"NVIDIA driver {driver.version} is here"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not driver.version:
        fix = "Choose --device cpu, or install the driver; Docker needs --gpus all."
        return "there is no NVIDIA driver", fix, ""
    if not driver.gpus:
        fix = "In a container: docker run --gpus all, with NVIDIA's Container Toolkit on the host."
        return f"{seen}, but no GPU can be reached", fix, ""
    if torch.version.cuda is None:
        told = f"{seen}, but torch {torch.__version__} was built for the CPU"
        return told, "Install the build for the driver:", REINSTALL
    if visible is not None and not re.match(r"\s*(\d|GPU-|MIG-)", visible):
        told = f"{seen}, but CUDA_VISIBLE_DEVICES={visible!r} hides the GPU"
        return told, "Take it out of the environment:", "unset CUDA_VISIBLE_DEVICES"
    reason = "no reason given"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as fault:
        reason = first_line(fault)
    told = f"{seen}, but torch {torch.__version__} cannot use it: {reason}"
    return told, "Update the driver, or install the build that belongs to it:", REINSTALL


def runs_on(capability: tuple[int, int], built: list[str]) -> bool:
    """Whether code that was built runs on a GPU: of its generation up to its own, or any PTX.

    >>> [runs_on(each, ["sm_75", "sm_80", "compute_80"]) for each in ((7, 0), (8, 9), (9, 0))]
    [False, True, True]
    """
    named = [re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", each) for each in built]
    for one in filter(None, named):
        least = int(one[2]), int(one[3])
        is_general = one[1] == "compute" or (least[0] == capability[0] and one[4] != "a")
        if least == capability or (least < capability and is_general):
            return True
    return not any(named)  # other makers' names, of which nothing is known


def has_bf16(machine: Machine, gpus: list[Gpu]) -> bool:
    """Whether the device multiplies bfloat16 natively."""
    if machine.device.type == "cuda":
        return gpus[machine.device.index or 0].capability >= (8, 0)
    return not machine.is_cpu or runtime.cpu_has_bf16()


def memory_findings(gpus: list[Gpu]) -> Iterator[Finding]:
    """Too little memory, too many threads."""
    free, cores, threads = host_memory(), resources.usable_cores(), torch.get_num_threads()
    if free < USUAL_MEMORY:
        holder = "the container's limit leaves" if memory_left() <= free else "there are"
        too_little = free < LEAST_MEMORY
        of_which = "the smallest training" if too_little else "a usual training"
        needed = gibibytes(LEAST_MEMORY if too_little else USUAL_MEMORY)
        told = f"{holder} {gibibytes(free)} of memory, and {of_which} takes {needed}"
        fix = "Give it more (docker run --memory 4g), or choose a smaller --batch and --width."
        yield finding("memory", told, fix, fails=too_little)
    if threads > cores:
        told = f"torch computes in {threads} threads on {plural(cores, 'core')}, and is slow so"
        fix = "Take the number out of the environment:"
        yield finding("threads", told, fix, "unset OMP_NUM_THREADS", fails=False)
    shared = shared_memory()
    if len(gpus) > 1 and shared is not None and shared < SHARED_BY_GPUS:
        told = f"/dev/shm has {gibibytes(shared)}: too little for one training on several GPUs"
        yield finding("shared-memory", told, "Start Docker with --shm-size 1g.", fails=False)


def disk_findings(out: Path) -> Iterator[Finding]:
    """A folder that cannot be written, or a disk that is full."""
    free, folder = free_disk(out), nearest_folder(out.absolute())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as fault:
        told = f"{folder} cannot be written: {fault.strerror}"
        yield finding("disk", told, "Choose another folder by --out.", fails=True)
    if free < USUAL_DISK:
        too_little = free < LEAST_DISK
        of_which = "the smallest run" if too_little else "a run of a large U-Net"
        needed = gibibytes(LEAST_DISK if too_little else USUAL_DISK)
        told = f"{gibibytes(free)} of disk are free for {out}, and {of_which} takes {needed}"
        yield finding("disk", told, "Free space, or choose another --out.", fails=too_little)


def work_findings(machine: Machine) -> list[Finding]:
    """What a convolution and its gradient come to on the device."""
    try:
        layer = nn.Conv2d(3, 8, 3).to(machine.device)
        with machine.autocast():
            answer = layer(torch.rand(2, 3, 32, 32, device=machine.device))
        torch.autograd.backward(answer.float().mean())
        runtime.synchronise(machine.device)
    except RuntimeError as fault:
        told = f"a convolution fails on {machine}: {first_line(fault)}"
        fix = "Choose --device cpu or --precision float32, or install the build for this machine:"
        return [finding("work", told, fix, REINSTALL, fails=True)]
    return []
