"""What a command line costs before and around its work: `--help`, one image, a training's start.

    python -m benchmarks.startup --rounds 7

Each command is a process of its own, started in turns with one that only imports torch; what is
told is the wall time, and what of it is left without that import. Python keeps its bytecode in a
temporary folder, so that the first start (which compiles all of it) is told apart from the others.
The last line is one JSON object.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.networks import fresh_run, plain_weights
from benchmarks.pictures import SOURCE, lay, pieces
from benchmarks.rounds import Ratio, markdown, parser, report, spread
from unetseg.timing import in_turns

SIDE = 512
"""Of the image, pixels."""
PAIRS = 64
"""Pairs of 256² pixels of the training whose start is timed."""
HELP, ONE, STEP = 0.5, 1.0, 5.0
"""Seconds that `--help`, an image by a small network without the import of torch, and a training
until its first step is done may take."""
TORCH = "import torch"
SMALL = "one image, base16"
STARTED = f"first step, {PAIRS} pairs"
FIRST_STEP = """
import os, sys
from unetseg.cli.app import main
from unetseg.training.learner import Learner
step = Learner.step
def first(*arguments):
    step(*arguments)
    os._exit(0)
Learner.step = first
try:
    main()
except SystemExit as end:
    sys.exit(f"ended with {end.code} before its first step")
"""
"""A command of unetseg that trains, ended by its first step."""


class Command:
    """A process that is started again and again.

    Args:
        words: What follows `python`.
        environment: Its environment.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = [sys.executable, *words]
        self._environment = environment
        self.processor: list[float] = []
        """Seconds of processor time of every start; other processes disturb them less."""
        self.first = self()
        """Seconds of the first start."""
        self.processor.clear()

    def __call__(self) -> float:
        """Wall time from start to end, seconds."""
        began = time.monotonic()
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(self._command, stdout=quiet, env=self._environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(self._command)} ended with {process.returncode}")
        self.processor.append(usage.ru_utime + usage.ru_stime)
        return time.monotonic() - began


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table and a line of JSON."""
    flags = parser("startup", __doc__)
    flags.add_argument("--rounds", type=int, default=7)
    flags.add_argument("--seconds", type=float, default=150, help="no round begins after these")
    flags.add_argument("--engine", default="auto", help="unetseg's engine")
    flags.add_argument("--train", action="store_true", help="also the shortest of trainings")
    given = flags.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        rows = measure(Path(folder), given)
    report("startup", "Start-up", table(rows), summary(rows), write=given.save)


def measure(folder: Path, given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The figures of every command."""
    environment = environment_of(folder)
    started = {name: Command(words, environment) for name, words in commands(folder, given).items()}
    seconds = in_turns(started, given.rounds, given.seconds)
    rows: dict[str, dict[str, Any]] = {}
    for name, command in started.items():
        rows[name] = {"first": round(command.first, 3)}
        times = {
            "wall": (seconds[name], seconds[TORCH]),
            "processor": (command.processor, started[TORCH].processor),
        }
        for kind, (own, torch) in times.items():
            beyond = [one - other for one, other in zip(own, torch, strict=True)]
            key = "beyond_torch" if kind == "wall" else f"{kind}_beyond_torch"
            rows[name] |= {kind: spread(own).rounded(), key: spread(beyond).rounded()}
    return rows


def commands(folder: Path, given: argparse.Namespace) -> dict[str, list[str]]:
    """Name → what follows `python`; the import of torch comes first."""
    drawn = lay(folder / "pairs", pieces(folder / "sample", 8), (SIDE, SIDE), 8, ".png")
    image = next((drawn / "images").iterdir())
    lone = folder / "lone" / "image.png"
    lone.parent.mkdir()
    image.rename(lone)
    unetseg = ["-m", "unetseg"]
    found = {
        TORCH: ["-c", TORCH],
        "--help": [*unetseg, "--help"],
        "predict --help": [*unetseg, "predict", "--help"],
    }
    out = ["--existing", "overwrite", "--engine", given.engine, "-o", str(folder / "masks")]
    for network in ("base16", "classic"):
        run = fresh_run(network, folder / "runs")
        found[f"one image, {network}"] = [*unetseg, "predict", str(run), str(lone), *out]
    pairs = lay(folder / "many", pieces(folder / "sample", 8), (SOURCE, SOURCE), PAIRS, ".png")
    found[STARTED] = ["-c", FIRST_STEP, "train", str(pairs), "--out", str(folder / "started")]
    weights = plain_weights("classic", run, folder / "weights.pt")
    script = ["-m", "benchmarks.baseline", "plain", "classic", str(weights)]
    found["one image, plain script"] = [*script, str(lone.parent), str(folder / "plain")]
    if given.train:
        words = ["train", str(drawn), "--out", str(folder), "-e", "1"]
        found["one epoch"] = [*unetseg, *words]
    return found


def environment_of(folder: Path) -> dict[str, str]:
    """This environment, with Python's bytecode kept in `folder`, and no facts about images."""
    names = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    return {**os.environ, **names, "UNETSEG_CACHE_FOLDER": os.devnull}


def summary(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the targets speak of, and everything else below it."""
    found = {
        "help_seconds": rows["--help"]["wall"]["median"],
        "torch_seconds": rows[TORCH]["wall"]["median"],
        "one_image_beyond_torch": rows[SMALL]["beyond_torch"]["median"],
        "first_step_seconds": rows[STARTED]["wall"]["median"],
    }
    limits = {"help_seconds": HELP, "one_image_beyond_torch": ONE, "first_step_seconds": STEP}
    held = all(found[name] <= limit for name, limit in limits.items())
    return {**found, "targets_held": held, "commands": rows}


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The figures as lines of Markdown."""
    kinds = ("wall", "beyond_torch", "processor", "processor_beyond_torch")
    head = ["seconds", "wall", "without torch", "processor", "without torch", "first start, wall"]
    cells = [
        [name, *(Ratio(**row[kind]) for kind in kinds), f"{row['first']:.2f}"]
        for name, row in rows.items()
    ]
    return markdown(head, cells)


if __name__ == "__main__":
    main()
