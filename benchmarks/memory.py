"""How much memory prediction and training take at their peak, by image size, width and batch.

    python -m benchmarks.memory
    python -m benchmarks.memory --network classic --sides 512 2048 --batches 4

Everything is done in a process of its own, and what is told is the largest resident memory of the
whole process, Python and torch included (Linux). Images are JPEGs, decoded whole; beyond 33
megapixels they are predicted band by band. The last line is one JSON object.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.pictures import lay, pieces
from benchmarks.rounds import machine_lines, save, show

if TYPE_CHECKING:
    from unetseg.unet.model import UNet

CROP = 256
"""Side of the crops that are trained on, pixels."""
STEPS = 2
"""Training steps: in the second, what the optimizer keeps is there from the start."""
PREDICT = "from unetseg.cli.app import run; assert run({words!r}) == 0"
STEP = "from benchmarks.memory import {kind}; {kind}({network!r}, {batch})"
PEAK = """
import pathlib
print(next(l for l in pathlib.Path("/proc/self/status").open() if l.startswith("VmHWM")))
"""
NOTHING = "import torch"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.memory")
    parser.add_argument("--network", nargs="+", default=["base16", "base32", "classic"])
    parser.add_argument("--sides", type=int, nargs="*", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--batches", type=int, nargs="*", default=[2, 8])
    parser.add_argument("--engine", default="auto", help="unetseg's engine")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/memory.md")
    given = parser.parse_args(arguments)
    torch = peak(NOTHING)
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        predicting = measure_prediction(Path(folder), given)
    training = measure_training(given.network, given.batches)
    lines = [*table(predicting, training), f"A process that only imports torch takes {torch} MB."]
    if given.save:
        save("memory", "Memory", lines)
    result = {"torch_megabytes": torch, "predict": predicting, "train": training}
    show([*machine_lines(), "", *lines, ""], result)


def measure_prediction(folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The peak of `unetseg predict` for each size; of the smallest network at all of them."""
    from benchmarks.networks import fresh_run

    squares, rows = pieces(folder / "sample", 24), []
    images = {side: _image(folder, squares, side) for side in given.sides}
    for at, network in enumerate(given.network):
        run = fresh_run(network, folder / "runs")
        for side in given.sides if at == 0 else given.sides[:3]:
            words = ["predict", str(run), str(images[side]), "--engine", given.engine]
            words += ["-o", str(folder / f"{network}-{side}")]
            rows.append({"network": network, "side": side, "megabytes": peak_of_command(words)})
    return rows


def _image(folder: Path, squares: Any, side: int) -> Path:
    laid = lay(folder / f"side-{side}", squares, (side, side), 1, ".jpg")
    return next((laid / "images").iterdir())


def measure_training(networks: Sequence[str], batches: Sequence[int]) -> list[dict[str, Any]]:
    """The peak of training steps, for each network and batch."""
    rows = []
    for network in networks:
        for batch in batches:
            row: dict[str, Any] = {"network": network, "batch": batch}
            for kind in ("plain", "ours", "checkpointing"):
                row[kind] = peak(STEP.format(kind=kind, network=network, batch=batch))
            rows.append(row)
    return rows


def peak_of_command(words: Sequence[str]) -> int:
    """Megabytes that `unetseg WORDS` takes at its peak."""
    return peak(PREDICT.format(words=list(words)))


def peak(script: str) -> int:
    """Megabytes that a process which runs `script` takes at its peak.

    It says so itself: what the parent is told counts what the parent held when it forked.
    """
    done = subprocess.run(
        [sys.executable, "-c", script + PEAK], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{script} ended with {done.returncode}\n{done.stderr}")
    return round(int(done.stdout.splitlines()[-1].split()[1]) / 1024)  # VmHWM: 1024 kB


# ------------------------------------------------------ training, in a child


def plain(network: str, batch: int) -> None:
    """Steps of the plain script."""
    import torch

    from benchmarks.baseline import STEP as DESCEND
    from benchmarks.baseline import build

    net = build(network, "plain", "cpu").train()
    optimizer = torch.optim.AdamW(net.parameters())
    images, masks = torch.randn(batch, 3, CROP, CROP), torch.zeros(batch, CROP, CROP).long()
    for _ in range(STEPS):
        DESCEND["plain"](net, optimizer, images, masks)


def ours(network: str, batch: int) -> None:
    """Steps of unetseg."""
    _train(network, batch)


def checkpointing(network: str, batch: int) -> None:
    """The same with --checkpointing."""
    from unetseg.unet.checkpointing import recompute

    _train(network, batch, recompute)


def _train(network: str, batch: int, change: "Callable[[UNet], object]" = lambda _: None) -> None:
    import torch

    from benchmarks.networks import fresh_run
    from unetseg.bundle import load_bundle, to_machine
    from unetseg.config import DeviceConfig, TrainingConfig
    from unetseg.data.dataset import Sample
    from unetseg.runtime import start
    from unetseg.training.learner import Learner
    from unetseg.training.losses import SegmentationLoss

    machine = start(DeviceConfig(device="cpu"))
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        segmenter, info = load_bundle(fresh_run(network, Path(folder)))
    to_machine(segmenter, machine).train()
    loss = SegmentationLoss("dice_ce", None, info.class_map.foreground)
    learner = Learner(segmenter, loss, TrainingConfig(), 1e-3, machine)
    change(segmenter.network)
    image = torch.randint(0, 256, (batch, 3, CROP, CROP), dtype=torch.uint8)
    mask = torch.zeros(batch, CROP, CROP, dtype=torch.uint8)
    sample = Sample(image, mask, torch.ones(batch, 2, 3))
    for number in range(STEPS):
        learner.step(sample, number, 1.0)


# ---------------------------------------------------------------------- tables


def table(predicting: Sequence[dict[str, Any]], training: Sequence[dict[str, Any]]) -> list[str]:
    """The figures as lines of Markdown."""
    lines = ["| prediction | side | MB |", "|---|---|---|"]
    lines += [f"| {row['network']} | {row['side']} | {row['megabytes']} |" for row in predicting]
    lines += ["", "| training | batch | plain script | ours | --checkpointing |", "|" + "---|" * 5]
    for row in training:
        kinds = " | ".join(f"{row[kind]} MB" for kind in ("plain", "ours", "checkpointing"))
        lines.append(f"| {row['network']} | {row['batch']} | {kinds} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
