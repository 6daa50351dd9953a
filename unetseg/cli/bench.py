"""unetseg bench."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from unetseg.cli.console import observed, say, say_json, show_table
from unetseg.config import BenchConfig, NetworkConfig, RuntimeConfig
from unetseg.progress import SILENT
from unetseg.text import quoted

if TYPE_CHECKING:
    from unetseg.bench import Benchmark, Row

STDOUT = Path("-")
ADVICE = {
    "read": "JPEG and uncompressed TIFF decode several times faster than PNG and deflated TIFF",
    "network": "a smaller --scale or --width in training, or a GPU, makes it faster",
    "write": "a faster disk for the masks helps",
    "loading": "raise --workers, or choose --augment light",
    "steps": "a smaller --scale, --patch or --width, or a GPU, makes them faster",
}
"""What helps, by what takes longest."""


def bench(
    run: Path | None = None,
    /,
    *,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    wanted: Annotated[BenchConfig, Parameter(name="*", group="Bench")] = BenchConfig(),
    network: Annotated[NetworkConfig, Parameter(name="*", group="Network")] = NetworkConfig(),
    runtime: Annotated[RuntimeConfig, Parameter(name="*", group="Machine")] = RuntimeConfig(),
) -> None:
    """Measure how fast this machine is with a U-Net, and where the time goes.

    The engines side by side, as a share of what the machine multiplies at best; prediction from
    folder to folder and its stages alone; with --train also a training.

    Examples:
    unetseg bench                                    the U-Net that training chooses here
    unetseg bench checkpoints/cells --data new/      your model on your images
    unetseg bench --width 64 --train --seconds 2m
    unetseg bench checkpoints/cells --engines all --json speed.json

    Parameters
    ----------
    run
        Run folder of `unetseg train`; without it, random weights.
    config_file
        YAML file with settings.
    """
    from unetseg.bench import bench as measure
    from unetseg.storage import json_value, write_json

    alone = wanted.json_file == STDOUT
    with observed() as progress:
        told = SILENT if alone else progress
        result = measure(run, wanted, network=network, runtime=runtime, progress=told)
    figures = asdict(result)
    if alone:
        say_json(json_value(figures))
        return
    _show(result)
    if wanted.json_file:
        write_json(wanted.json_file, figures)
        say(f"all figures: {wanted.json_file}")
    model = f" {quoted(run)}" if run else ""
    if not wanted.train:
        say(f"next: unetseg bench{model} --train")
    else:
        say(f"next: unetseg predict{model} IMAGES -o masks" if run else "next: unetseg train DATA")


def _show(result: "Benchmark") -> None:
    """Machine, model and tables."""
    machine, model = result.machine, result.model
    say(f"machine: {machine['processor']} · {machine['name']} · {machine['dtype']}")
    if machine["remark"]:
        say(f"  {machine['remark']}")
    say(
        f"model: {model['name']}, {model['parameters']:,} parameters, bands: {model['bands']}, "
        f"classes: {model['classes']}, {model['gflop']:,.3g} GFLOP per "
        f"{model['size']}×{model['size']} image"
    )
    for stage, rows in groupby(result.rows, lambda row: row.stage):
        _show_stage(stage, list(rows))
    for row in result.rows:
        if row.word == "bounds":
            work = row.what.removesuffix(" alone")
            say(f"{row.stage.partition(',')[0]} is bounded by: {work} — {ADVICE[work]}")


def _show_stage(stage: str, rows: "Sequence[Row]") -> None:
    """Speeds side by side, in a line of 80 characters; columns without a figure are left out."""
    numbers = {
        "ms each": [f"{1000 / row.per_second:,.1f}" if row.per_second else "" for row in rows],
        "per second": [f"{row.per_second:,.1f}" if row.per_second else "" for row in rows],
        "GFLOP/s": [f"{row.gflops:,.0f}" if row.gflops else "" for row in rows],
        "of best": [f"{row.share:.0%}" if row.share else "" for row in rows],
    }
    names = {stage: [row.what for row in rows]}
    columns = names | numbers | {"": [row.word for row in rows]}
    show_table({head: cells for head, cells in columns.items() if any(cells)}, numbers)
