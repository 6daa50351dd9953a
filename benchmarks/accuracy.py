"""Score against time: recipes of `unetseg train`, and peers, each with the same minutes.

    python -m benchmarks.accuracy DATA --sets dsb2018,camvid --recipe before --recipe default \
        --budget 4m --seeds 2
    python -m benchmarks.accuracy DATA --recipe default --recipe "mine=--width 24 --augment light"

DATA holds the data sets, a folder each. Every cell of the table, a recipe on a data set from a
seed, is a training of its own in the given time, start-up and validation included. Cells are done
in turns, and kept in results/accuracy.jsonl at once: what is there is not done again, so that an
interrupted table goes on where it stopped. Scores are those of the validation images, a split that
every recipe shares: mean Dice over the foreground, and mean IoU over all classes.

The first recipe is what the others are compared with: differences of equal data set and seed, their
mean with a 95% interval (Student's t over the cells). A difference that the seeds alone could make
is called none.
"""

import argparse
import json
import math
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.rounds import RESULTS, markdown, parser, report
from unetseg.config import parse_duration
from unetseg.resources import processor
from unetseg.storage import read_csv, write_text

RECIPES = {
    "default": "",
    "before": "--width 32 --depth 4 --augment full --optimizer adamw --patch 256",
    "adamw": "--optimizer adamw",
    "full": "--augment full",
    "light": "--augment light",
    **{f"width{width}": f"--width {width}" for width in (8, 12, 16, 24, 32, 48)},
    "supervised": "--deep-supervision",
}
"""Name → flags of `unetseg train`."""
PEERS = ("smp", "milesial", "nnunet")
"""Recipes of other programs; see peers.py."""
SETS = ("dsb2018", "camvid", "drive", "glas256")
SCORES = ("dice", "iou")


class Cell(NamedTuple):
    """A training: what is done with which data, for how long, from which seed."""

    recipe: str
    flags: str
    data: str
    budget: float
    seed: int
    machine: str


Table = dict[Cell, dict[str, Any]]
"""Each cell's scores, steps, pixels seen, seconds, and the curve of (seconds, Dice)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the table, and print it and a line of JSON."""
    flags = parser("accuracy", __doc__)
    flags.formatter_class = argparse.RawDescriptionHelpFormatter
    flags.add_argument("data", type=Path, help="folder of the data sets")
    flags.add_argument(
        "--sets", default=",".join(SETS), help="folders in DATA (default: %(default)s)"
    )
    flags.add_argument(
        "--recipe", action="append", help=f"{', '.join([*RECIPES, *PEERS])}, or NAME=FLAGS"
    )
    flags.add_argument(
        "--budget", type=parse_duration, default=240.0, help="of a cell: 4m (default)"
    )
    flags.add_argument("--seeds", type=int, default=2)
    flags.add_argument("--table", type=Path, default=RESULTS / "accuracy.jsonl")
    flags.add_argument("--only-show", action="store_true", help="train nothing, show what is there")
    given = flags.parse_args(arguments)
    cells = list(_wanted(given))
    table = read_table(given.table)
    for number, cell in enumerate(cells, 1):
        if cell not in table and not given.only_show:
            sys.stderr.write(f"{number}/{len(cells)} {cell.recipe} {cell.data} seed {cell.seed}\n")
            table[cell] = train(cell, given.data / cell.data)
            write_table(given.table, table)
    done: Table = {cell: table[cell] for cell in cells if cell in table}
    lines, told = compare(done)
    report("accuracy", f"Scores after {given.budget:g} s", lines, told, write=given.save)
    if given.save:
        draw(done, RESULTS / "accuracy.png")


def _wanted(given: argparse.Namespace) -> Iterator[Cell]:
    """The cells that were asked for: recipes in turns, seed by seed."""
    recipes = dict(_recipe(text) for text in given.recipe or ["default"])
    name, units = processor()
    machine = " ".join([name, *units[-1:]])  # of one name, with and without bfloat16
    for seed, data in product(range(given.seeds), given.sets.split(",")):
        for name, flags in recipes.items():
            yield Cell(name, flags, data, given.budget, seed, machine)


def _recipe(text: str) -> tuple[str, str]:
    """Name and flags of `default`, or of `mine=--width 24`."""
    name, _, flags = text.partition("=")
    if not flags and name not in RECIPES and name not in PEERS:
        raise SystemExit(f"no recipe {name}: {', '.join([*RECIPES, *PEERS])}, or NAME=FLAGS")
    return name, flags or RECIPES.get(name, "")


# ------------------------------------------------------------------ a cell


def train(cell: Cell, data: Path) -> dict[str, Any]:
    """Train in a process of its own, and read what came of it."""
    with tempfile.TemporaryDirectory(prefix="accuracy-") as folder:
        if cell.recipe in PEERS:
            from benchmarks.peers import train_peer

            return train_peer(cell.recipe, data, Path(folder), cell.budget, cell.seed)
        command = [sys.executable, "-m", "unetseg", "train", data, *shlex.split(cell.flags)]
        command += ["--budget", f"{cell.budget}s", "--seed", cell.seed, "--out", folder]
        subprocess.run([*map(str, command), "--name", "run"], check=True, stdout=sys.stderr)
        return read_run(Path(folder) / "run")


def read_run(run: Path) -> dict[str, Any]:
    """The figures of a run folder: scores of the kept weights, steps, pixels, the curve."""
    scores = json.loads((run / "model" / "model.json").read_text())["scores"]
    plan = json.loads((run / "plan.json").read_text())
    rows = list(read_csv(run / "metrics.csv"))
    steps = int(rows[-1]["step"])
    return {
        "dice": scores["foreground_dice"],
        "iou": scores["mean_iou"],
        "iou_foreground": scores["foreground_iou"],
        "steps": steps,
        "pixels": steps * plan["batch"] * plan["patch"] ** 2,
        "width": plan["network"]["width"],
        "seconds": float(rows[-1]["seconds"]),
        "curve": [[float(row["seconds"]), float(row["val_dice"])] for row in rows],
    }


# ------------------------------------------------------------------ the table


def read_table(file: Path) -> Table:
    """What was done before, if anything."""
    rows = map(json.loads, file.read_text().splitlines() if file.exists() else ())
    return {Cell(**{key: row.pop(key) for key in Cell._fields}): row for row in rows}


def write_table(file: Path, table: Table) -> None:
    """All cells, a line of JSON each; whole or not at all."""
    lines = (json.dumps(cell._asdict() | row) for cell, row in table.items())
    write_text(file, "".join(f"{line}\n" for line in lines))


def compare(table: Table) -> tuple[list[str], dict[str, Any]]:
    """Mean scores of each recipe and data set, and what each recipe gains over the first.

    Returns:
        Lines of Markdown, and the gains for JSON.
    """
    recipes, sets = _named(table)
    first, gains, rows = recipes[0], dict[str, Any](), list[list[str]]()
    for recipe in recipes:
        row = [recipe]
        for data in sets:
            found = [
                one for cell, one in table.items() if (cell.recipe, cell.data) == (recipe, data)
            ]
            means = (
                [statistics.mean(one[score] for one in found) for score in SCORES] if found else []
            )
            steps = f" ({statistics.mean(one['steps'] for one in found):.0f})" if found else "–"
            row.append(" / ".join(f"{mean:.4f}" for mean in means) + steps)
        if recipe != first:
            gains[recipe] = {score: gain(table, first, recipe, score) for score in SCORES}
        row += [_words(gains[recipe][score]) if recipe in gains else "" for score in SCORES]
        rows.append(row)
    head = ["recipe", *sets, "Dice gained", "mean IoU gained"]
    told = "Dice of the foreground / mean IoU of all classes (steps), means over the seeds."
    return [*markdown(head, rows), told], gains


def gain(table: Table, first: str, other: str, score: str) -> dict[str, float]:
    """What `other` gains over `first` in cells of equal data set and seed.

    Returns:
        mean; half: half the 95% interval of the mean; noise: what seeds alone make of such a mean
        (standard error, from the spread between seeds of one recipe on one data set); cells.
    """
    from scipy.stats import t

    scores = {cell: row[score] for cell, row in table.items()}
    pairs = [
        (scores.get(cell._replace(recipe=first, flags=_flags(table, first))), value)
        for cell, value in scores.items()
        if cell.recipe == other
    ]
    differences = [value - base for base, value in pairs if base is not None]
    count = len(differences)
    if not count:
        return {"mean": math.nan, "half": math.nan, "noise": math.nan, "cells": 0}
    half = math.nan
    if count > 1:
        half = float(t.ppf(0.975, count - 1)) * statistics.stdev(differences) / math.sqrt(count)
    noise = spread_of_seeds(scores) * math.sqrt(2 / count)
    numbers = {"mean": statistics.mean(differences), "half": half, "noise": noise}
    return {name: round(number, 5) for name, number in numbers.items()} | {"cells": count}


def spread_of_seeds(scores: dict[Cell, float]) -> float:
    """Standard deviation between seeds of one recipe on one data set, pooled; nan of one seed."""
    groups = defaultdict[tuple[str, str], list[float]](list)
    for cell, value in scores.items():
        groups[cell.recipe, cell.data].append(value)
    variances = [statistics.variance(values) for values in groups.values() if len(values) > 1]
    return math.sqrt(statistics.mean(variances)) if variances else math.nan


def _named(table: Table) -> tuple[list[str], list[str]]:
    """The recipes and the data sets of a table, in order."""
    recipes = dict.fromkeys(cell.recipe for cell in table)
    return list(recipes), list(dict.fromkeys(cell.data for cell in table))


def _flags(table: Iterable[Cell], recipe: str) -> str:
    return next(cell.flags for cell in table if cell.recipe == recipe)


def _words(found: dict[str, float]) -> str:
    """A gain for the table: `+0.0412 ± 0.0100`, and whether it is one."""
    text = f"{found['mean']:+.4f}" + (
        "" if math.isnan(found["half"]) else f" ± {found['half']:.4f}"
    )
    return f"{text} (none)" if abs(found["mean"]) < found["noise"] else text


def draw(table: Table, file: Path) -> None:
    """Dice against minutes, a panel for each data set, a line for each training."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    recipes, sets = _named(table)
    figure, axes = plt.subplots(1, len(sets), figsize=(4 * len(sets), 3.4), squeeze=False)
    for axis, data in zip(axes[0], sets, strict=True):
        for cell, row in table.items():
            if cell.data == data:
                colour = f"C{recipes.index(cell.recipe) % 10}"
                label = cell.recipe if cell.seed == 0 else None
                minutes, dice = zip(*((t / 60, dice) for t, dice in row["curve"]), strict=True)
                axis.plot(minutes, dice, color=colour, label=label, lw=1.2)
        axis.set(title=data, xscale="log", xlabel="minutes", ylabel="validation Dice")
        axis.xaxis.set_major_locator(LogLocator(2))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(alpha=0.3)
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
