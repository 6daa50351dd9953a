"""What a second core gives: prediction, the network alone and training on 1 and 2 cores.

    python -m benchmarks.threads
    python -m benchmarks.threads --cores 1 2 4 8 --network base32

The same processes work on one core and on several, in turns; each is held to its cores by the
system, so that reading and writing count too (Linux). The last line is one JSON object.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender
from benchmarks.networks import fresh_run
from benchmarks.pictures import lay, pieces
from benchmarks.rounds import in_turns, machine_lines, paired_ratio, save, show, spread

TURN = 2.0
"""Seconds that a contender works in a round, about."""
SIDE = 512
"""Of the images, pixels."""
COUNT = 16
UNITS = {"predict": "image from file to file", "forward": "image", "train": "step"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.threads")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--network", default="classic", help="classic, base32, base16, resnet34")
    parser.add_argument("--work", nargs="+", choices=UNITS, default=list(UNITS))
    parser.add_argument("--engine", default="auto", help="unetseg's engine")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=90, help="of the rounds of a kind of work")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/threads.md")
    given = parser.parse_args(arguments)
    there = os.sched_getaffinity(0)
    if max(given.cores) > len(there):
        raise SystemExit(f"--cores {max(given.cores)}: this process may use {len(there)}")
    with tempfile.TemporaryDirectory(prefix="threads-") as folder:
        results = measure_all(Path(folder), given)
    lines = table(results, given.cores)
    if given.save:
        save("threads", "Scaling over cores", lines)
    show([*machine_lines(), "", *lines, ""], {"network": given.network, **results})


def measure_all(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of every kind of work."""
    data = lay(folder / "pairs", pieces(folder / "sample", 24), (SIDE, SIDE), COUNT, ".png")
    run = str(fresh_run(given.network, folder / "runs"))
    images, masks = str(data / "images"), str(folder / "masks")
    commands = {
        "predict": ["predict-ours", run, images, masks, "cpu", given.engine],
        "forward": ["forward-ours", run, str(SIDE), str(SIDE), "cpu", given.engine],
        "train": ["train-ours", given.network, str(data), "cpu"],
    }
    results = {}
    for work in given.work:
        with ExitStack() as stack:
            them = {}
            for cores in given.cores:
                place = [str(folder / f"training-{cores}")] if work == "train" else []
                them[str(cores)] = on_cores(cores, [*commands[work], *place])
                stack.callback(them[str(cores)].close)
            for one in them.values():
                one.warm_up(TURN)
            turns = {cores: one.go for cores, one in them.items()}
            results[work] = figures(in_turns(turns, given.rounds, given.seconds))
    return results


def on_cores(count: int, words: Sequence[str]) -> Contender:
    """A contender that is held to some cores."""
    there = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(there)[:count])  # the process that is started has the same
    try:
        return Contender(f"{words[0]} on {count} cores", ["benchmarks.workers", *words])
    finally:
        os.sched_setaffinity(0, there)


def figures(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Seconds per unit, and how many times as fast more cores are than the fewest."""
    fewest, *others = seconds
    ratios = {cores: paired_ratio(seconds[cores], seconds[fewest]) for cores in others}
    return {
        "seconds": {cores: round(spread(each).median, 4) for cores, each in seconds.items()},
        "times_as_fast": {cores: ratio.rounded() for cores, ratio in ratios.items()},
        "rounds": len(seconds[fewest]),
    }


def table(results: dict[str, Any], cores: Sequence[int]) -> list[str]:
    """The figures as lines of Markdown."""
    head = ["work", *(f"{count} core{'s' if count > 1 else ''}" for count in cores), "× the fewest"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for work, row in results.items():
        times = [f"{seconds:.3f} s" for seconds in row["seconds"].values()]
        ratios = [
            f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"
            for ratio in row["times_as_fast"].values()
        ]
        cells = [f"{work}, per {UNITS[work]}", *times, ", ".join(ratios)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
