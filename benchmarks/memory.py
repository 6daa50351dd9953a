"""How much memory prediction and training take at their peak, by image size, width and batch.

    python -m benchmarks.memory
    python -m benchmarks.memory --network classic --sides 512 2048 --batches 4

Everything is done in a process of its own, and what is told is the largest resident memory of the
whole process, Python and torch included (Linux). Images are JPEGs, decoded whole; beyond 33
megapixels they are predicted band by band. The last line is one JSON object.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.pictures import lay, pieces
from benchmarks.rounds import markdown, parser, report

PREDICT = "from unetseg.cli.app import run; assert run({words!r}) == 0"
STEPS = {
    "plain": "script_step('plain', {network!r}, {batch})",
    "ours": "our_step({network!r}, {batch})",
    "checkpointing": "our_step({network!r}, {batch}, checkpointing=True)",
}
STEP = "from benchmarks.steps import our_step, script_step; step = {step}; step(); step()"
"""Two steps: in the second, what the optimizer keeps is there from the start."""
PEAK = """
import pathlib
print(next(l for l in pathlib.Path("/proc/self/status").open() if l.startswith("VmHWM")).strip())
"""
NOTHING = "import torch"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table and a line of JSON."""
    flags = parser("memory", __doc__)
    flags.add_argument("--network", nargs="+", default=["base16", "base32", "classic"])
    flags.add_argument("--sides", type=int, nargs="*", default=[512, 1024, 2048, 4096, 8192])
    flags.add_argument("--batches", type=int, nargs="*", default=[2, 8])
    flags.add_argument("--engine", default="auto", help="unetseg's engine")
    given = flags.parse_args(arguments)
    torch = peak(NOTHING)
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        predicting = measure_prediction(Path(folder), given)
    training = measure_training(given.network, given.batches)
    lines = markdown(["prediction", "side", "MB"], [list(row.values()) for row in predicting])
    head = ["training", "batch", "plain script", "ours", "--checkpointing"]
    units = ([f"{v} MB" if k in STEPS else v for k, v in row.items()] for row in training)
    lines += [*markdown(head, units), f"A process that only imports torch takes {torch} MB."]
    result = {"torch_megabytes": torch, "predict": predicting, "train": training}
    report("memory", "Memory", lines, result, write=given.save)


def measure_prediction(folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The peak of `unetseg predict` for each size; of the smallest network at all of them."""
    from benchmarks.networks import fresh_run

    squares, rows = pieces(folder / "sample", 24), []
    images = {}
    for side in given.sides:
        laid = lay(folder / f"side-{side}", squares, (side, side), 1, ".jpg")
        images[side] = next((laid / "images").iterdir())
    for at, network in enumerate(given.network):
        run = fresh_run(network, folder / "runs")
        for side in given.sides if at == 0 else given.sides[:3]:
            words = ["predict", str(run), str(images[side]), "--engine", given.engine]
            words += ["-o", str(folder / f"{network}-{side}")]
            megabytes = peak(PREDICT.format(words=words))
            rows.append({"network": network, "side": side, "megabytes": megabytes})
    return rows


def measure_training(networks: Sequence[str], batches: Sequence[int]) -> list[dict[str, Any]]:
    """The peak of training steps, for each network and batch."""
    rows = []
    for network in networks:
        for batch in batches:
            row: dict[str, Any] = {"network": network, "batch": batch}
            for kind, step in STEPS.items():
                row[kind] = peak(STEP.format(step=step.format(network=network, batch=batch)))
            rows.append(row)
    return rows


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


def resident(process: int) -> int:
    """Megabytes of memory that a process has (Linux)."""
    pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]
    return round(int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20)


if __name__ == "__main__":
    main()
