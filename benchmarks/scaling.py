"""How work grows: with processor cores, with processes that load crops, and with image size.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --of cores --cores 1 2 4 8 --network base32

The same processes work on one core and on several, or on small images and on large ones, in turns.
Each is held to its cores by the system, so that reading and writing count too (Linux). The last
line is one JSON object.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender
from benchmarks.networks import fresh_run
from benchmarks.pictures import lay, pieces
from benchmarks.rounds import Ratio, markdown, paired_ratio, parser, report, spread
from unetseg.timing import in_turns

TURN = 2.0
"""Seconds that a contender works in a round, about."""
SIDE = 512
"""Of the images whose size is not what counts, pixels."""
COUNT = 16
"""Images in a folder; a turn is at most all of them, because a job has no image twice."""
UNITS = {
    "predict": "image from file to file",
    "forward": "image",
    "train": "step",
    "workers": "step",
    "sizes": "megapixel from file to file",
}
Commands = dict[str, list[str]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print tables and a line of JSON."""
    flags = parser("scaling", __doc__)
    flags.add_argument("--of", nargs="+", choices=MEASURES, default=list(MEASURES))
    flags.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    flags.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    flags.add_argument("--sides", type=int, nargs="+", default=[128, 256, 512, 1024, 2048])
    flags.add_argument("--network", default="classic", help="classic, base32, base16, resnet34")
    flags.add_argument("--engine", default="auto", help="unetseg's engine")
    flags.add_argument("--rounds", type=int, default=7)
    flags.add_argument("--seconds", type=float, default=90, help="of the rounds of a kind of work")
    given = flags.parse_args(arguments)
    there = os.sched_getaffinity(0)
    if max(given.cores) > len(there):
        raise SystemExit(f"--cores {max(given.cores)}: this process may use {len(there)}")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        for measure in given.of:
            results |= MEASURES[measure](Path(folder) / measure, given)
    lines = [line for work, row in results.items() for line in table(work, row)]
    found = {"network": given.network, **results}
    report("scaling", f"How work grows: {given.network}", lines, found, write=given.save)


def over_cores(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Prediction, the network alone and training on some cores."""
    data, run = _pairs(folder), str(fresh_run(given.network, folder / "runs"))
    images, masks = str(data / "images"), str(folder / "masks")
    works = {
        "predict": ["predict-ours", run, images, masks, "cpu", given.engine],
        "forward": ["forward-ours", run, str(SIDE), str(SIDE), "cpu", given.engine],
        "train": ["train-ours", given.network, str(data), "cpu"],
    }
    found = {}
    for work, words in works.items():
        commands = {f"{n} core{'s' * (n > 1)}": list(words) for n in given.cores}
        if work == "train":
            for number, command in enumerate(commands.values()):
                command.append(str(folder / f"training-{number}"))
        found[work] = compare(commands, given, given.cores)
    return found


def over_workers(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Training whose crops are loaded by some processes beside it."""
    data, words = str(_pairs(folder)), ["train-ours", given.network]
    commands = {
        f"{n} processes": [*words, data, "cpu", str(folder / f"training-{n}"), str(n)]
        for n in given.workers
    }
    return {"workers": compare(commands, given)}


def over_sizes(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Prediction of images of some sizes, per megapixel."""
    run, squares = str(fresh_run(given.network, folder / "runs")), pieces(folder / "sample", 24)
    commands, megapixels = {}, []
    for side in given.sides:
        data = lay(folder / f"side-{side}", squares, (side, side), COUNT, ".png")
        images, masks = str(data / "images"), str(folder / f"masks-{side}")
        commands[f"{side}²"] = ["predict-ours", run, images, masks, "cpu", given.engine]
        megapixels.append(side**2 / 1e6)
    return {"sizes": compare(commands, given, units=megapixels)}


MEASURES: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "cores": over_cores,
    "workers": over_workers,
    "sizes": over_sizes,
}


def _pairs(folder: Path) -> Path:
    return lay(folder / "pairs", pieces(folder / "sample", 24), (SIDE, SIDE), COUNT, ".png")


def compare(
    commands: Commands,
    given: argparse.Namespace,
    cores: Sequence[int] = (),
    units: Sequence[float] = (),
) -> dict[str, Any]:
    """Seconds per unit of each command, and how many times as fast it is as the first.

    Args:
        commands: Arguments of `benchmarks.workers` by name.
        given: The arguments of the command line.
        cores: The cores that each is held to; all of them where none are named.
        units: What one unit of each counts for; 1 where none are named.
    """
    with ExitStack() as stack:
        them = {}
        for number, (name, words) in enumerate(commands.items()):
            them[name] = on_cores(cores[number] if cores else None, name, words)
            stack.callback(them[name].close)
        for one in them.values():
            one.warm_up(TURN, most=COUNT)
            one.go()  # the second pass through a network still takes memory from the system
        measured = in_turns(
            {name: one.go for name, one in them.items()}, given.rounds, given.seconds
        )
    sizes = dict(zip(commands, units or [1.0] * len(commands), strict=True))
    seconds = {name: [value / sizes[name] for value in row] for name, row in measured.items()}
    first = next(iter(seconds.values()))
    return {
        "seconds": {name: round(spread(row).median, 4) for name, row in seconds.items()},
        "times_as_fast": {n: paired_ratio(row, first).rounded() for n, row in seconds.items()},
        "rounds": len(first),
    }


def on_cores(count: int | None, name: str, words: Sequence[str]) -> Contender:
    """A contender that is held to some cores."""
    there = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(there)[:count])  # the process that is started has the same
    try:
        return Contender(name, ["benchmarks.workers", *words])
    finally:
        os.sched_setaffinity(0, there)


def table(work: str, row: dict[str, Any]) -> list[str]:
    """The figures of a kind of work as lines of Markdown."""
    rows = []
    for name, seconds in row["seconds"].items():
        rows.append([name, f"{seconds:.3f}", Ratio(**row["times_as_fast"][name])])
    return markdown([f"{work}, per {UNITS[work]}", "seconds", "times as fast"], rows)


if __name__ == "__main__":
    main()
