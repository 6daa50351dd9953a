"""Training steps per second, loading and augmentation included: ours against the plain script.

    python -m benchmarks.train_steps --quick
    python -m benchmarks.train_steps --curves    # do they learn the same? see curves.py

`unetseg train` and the scripts (see baseline.py) train on one folder of 512² PNG pairs: crops of
256², 8 per step, the full augmentation. Each is a process of its own; they make steps in turns. The
last line is one JSON object.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender, contenders
from benchmarks.pictures import lay, pieces
from benchmarks.rounds import markdown, parser, ratio_text, ratios, report, spread
from unetseg.timing import in_turns

KINDS = ("ours", "plain", "flags")
TURN = 4.0
"""Seconds that a contender works in a round, about; at least one step."""
PAIRS = 64
BATCH = 8
LOOKED_AT = 6
"""Steps whose times decide who loads our crops; they are not to be interrupted."""
CORES_TO_SPARE = 4
"""Cores from which processes load for a network on the CPU."""
QUICK_SECONDS = 225.0
"""All that --quick takes, about."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table and a line of JSON."""
    flags = parser("train_steps", __doc__)
    flags.add_argument("--quick", action="store_true", help="the classic U-Net in four minutes")
    flags.add_argument("--curves", action="store_true", help="compare what is learned instead")
    flags.add_argument("--network", action="append", help="only these: classic, base32, resnet34")
    flags.add_argument("--device", default="cpu")
    flags.add_argument("--threads", type=int, help="threads of each contender")
    flags.add_argument("--rounds", type=int, default=9)
    flags.add_argument("--seconds", type=float, default=300, help="of the rounds of a network")
    flags.add_argument("--steps", type=int, default=300, help="of --curves")
    given = flags.parse_args(arguments)
    if given.threads:
        os.environ["OMP_NUM_THREADS"] = str(given.threads)
    with tempfile.TemporaryDirectory(prefix="train-steps-") as folder:
        if given.curves:
            from benchmarks.curves import compare_curves

            compare_curves(Path(folder), given.steps, given.device, write=given.save)
        else:
            results = measure_all(Path(folder), given)
            first, *others = results
            cases = {name: results[name] for name in others}
            found = {"network": first, **results[first], "cases": cases}
            report("train_steps", "Training steps", table(results), found, write=given.save)


def measure_all(folder: Path, given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The figures of every network."""
    began = time.monotonic()
    data = lay(folder / "pairs", pieces(folder / "sample", 48), (512, 512), PAIRS, ".png")
    wanted = given.network or (["classic"] if given.quick else ["classic", "base32", "resnet34"])
    results = {}
    for network in wanted:
        ends = began + QUICK_SECONDS if given.quick else None
        results[network] = measure(network, data, folder / "runs", given, ends)
    return results


def measure(
    network: str, data: Path, runs: Path, given: argparse.Namespace, ends: float | None
) -> dict[str, Any]:
    """The figures of a network; no round goes on after `ends` (of `time.monotonic`)."""
    device = given.device
    commands = {
        kind: ["benchmarks.workers", "train-script", kind, network, str(data), device]
        for kind in KINDS[1:]
    }
    ours = ["benchmarks.workers", "train-ours", network, str(data), device, str(runs)]
    with contenders({"ours": ours} | commands) as all_of_them:
        for kind, contender in all_of_them.items():
            contender.warm_up(TURN, first=_first(device) if kind == "ours" else 1)
        left = given.seconds if ends is None else ends - time.monotonic()
        turns = {kind: one.go for kind, one in all_of_them.items()}
        return figures(in_turns(turns, given.rounds, left), all_of_them)


def _first(device: str) -> int:
    """Steps of ours before any turn ends: where processes may load, their number is found out."""
    return LOOKED_AT if device != "cpu" or (os.cpu_count() or 1) >= CORES_TO_SPARE else 1


def figures(seconds: dict[str, list[float]], them: dict[str, Contender]) -> dict[str, Any]:
    """What is told of the rounds: seconds per step of every contender → JSON."""
    medians = {kind: spread(values).median for kind, values in seconds.items()}
    return ratios(seconds) | {
        "seconds_per_step": {kind: round(value, 4) for kind, value in medians.items()},
        "crops_per_second": {kind: round(BATCH / value, 3) for kind, value in medians.items()},
        "ready_seconds": {kind: round(one.started, 2) for kind, one in them.items()},
        "first_step_seconds": {kind: round(one.first, 2) for kind, one in them.items()},
        "steps_per_turn": {kind: one.units for kind, one in them.items()},
        "rounds": len(seconds["ours"]),
    }


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """The figures as lines of Markdown."""
    rows = []
    for name, row in results.items():
        speed = [f"{row['seconds_per_step'][kind]:.2f} s" for kind in KINDS]
        rows.append([name, *speed, *(ratio_text(row, kind) for kind in KINDS[1:])])
    lines = markdown(["network", *KINDS, "× plain", "× flags"], rows)
    return [*lines, f"Seconds of a step of {BATCH} crops of 256²; medians of the rounds."]


if __name__ == "__main__":
    main()
