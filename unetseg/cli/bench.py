"""unetseg bench."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table

from unetseg.cli.console import observer, out, say
from unetseg.config import NetworkConfig, RuntimeConfig
from unetseg.speed.settings import BenchConfig

if TYPE_CHECKING:
    from unetseg.speed.bench import Benchmark
    from unetseg.speed.network import EngineSpeed
    from unetseg.speed.pace import Pace
    from unetseg.speed.stages import PredictionSpeed
    from unetseg.speed.training import TrainingSpeed

STDOUT = Path("-")


def bench(
    run: Path | None = None,
    /,
    *,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    wanted: Annotated[BenchConfig, Parameter(name="*", group="Bench")] = BenchConfig(),  # noqa: B008
    network: Annotated[NetworkConfig, Parameter(name="*", group="Network")] = NetworkConfig(),  # noqa: B008
    runtime: Annotated[RuntimeConfig, Parameter(name="*", group="Machine")] = RuntimeConfig(),  # noqa: B008
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
    from unetseg.progress import SILENT
    from unetseg.speed.bench import bench as measure
    from unetseg.storage import json_value, write_json

    target = wanted.json_file
    alone = target == STDOUT
    progress = observer()
    try:
        found = measure(
            run,
            wanted,
            network=network,
            runtime=runtime,
            progress=SILENT if alone else progress,
        )
    finally:
        progress.stop()
    if alone:
        out.print_json(json.dumps(json_value(found.to_json())), ensure_ascii=True)
        return
    _show(found)
    if target:
        write_json(target, found.to_json())
        say(f"all figures: {target}")
    say(f"next: {_next(run, found)}")


def _show(found: "Benchmark") -> None:
    """Machine, model, tables, and what follows from them."""
    say(f"machine: {found.processor} · {found.machine} · {found.dtype}")
    ceilings = ", ".join(f"{c.dtype} {c.gflops:,.0f} GFLOP/s" for c in found.compared.ceilings)
    say(f"at best: {ceilings} (products of matrices), copies {found.copy_gigabytes:.1f} GB/s")
    model = found.model
    gflop = f"{model.gflop:,.1f}" if model.gflop >= 1 else f"{model.gflop:.3g}"
    say(
        f"model: {model.name}, {model.parameters:,} parameters, bands: {model.bands}, "
        f"classes: {model.classes}, {gflop} GFLOP per {model.size}×{model.size} image"
    )
    out.print(_engine_table(found.compared.engines))
    for engine, why in found.compared.refused.items():
        say(f"  {engine}: {why}")
    out.print(_prediction_table(found.prediction))
    if found.training:
        out.print(_training_table(found.training))
    for sentence in found.advice:
        say(f"→ {sentence}")


def _engine_table(speeds: Sequence["EngineSpeed"]) -> Table:
    """The engines side by side."""
    what = "network alone" if speeds[0].batch == 1 else f"batch of {speeds[0].batch}"
    table = _table(what, "ms/image", "images/s", "MP/s", "GFLOP/s", "of best", "ready in", "MiB")
    for speed in speeds:
        gflops, ready = f"{speed.pace.gflops:,.0f}", f"{speed.ready_seconds:.1f} s"
        memory = "" if speed.memory_mib is None else f"{speed.memory_mib:,.0f}"
        figures = (*_figures(speed.pace), gflops, f"{speed.share:.0%}", ready, memory)
        table.add_row(f"{speed.engine} {speed.dtype}", *figures)
    return table


def _prediction_table(speed: "PredictionSpeed") -> Table:
    """The stages of a prediction alone, and overlapped."""
    what = f"prediction, {speed.images} images, {speed.engine}"
    table = _table(what, "ms/image", "images/s", "MP/s", "of the sum")
    stages, whole = speed.stages, speed.pace
    alone = {f"{name} alone": getattr(stages, name) for name in stages.shares}
    for name, seconds in {**alone, "one after the other": stages.total}.items():
        pace = replace(whole, seconds=seconds)
        table.add_row(name, *_figures(pace), f"{seconds / stages.total:.0%}")
    table.add_row("folder to folder", *_figures(whole), f"{whole.seconds / stages.total:.0%}")
    table.add_row("until the first mask", f"{1000 * speed.first_seconds:,.0f}")
    return table


def _training_table(speed: "TrainingSpeed") -> Table:
    """A training's loading and steps, alone and together."""
    from unetseg.text import plural

    what = f"training, {speed.batch} × {speed.patch}×{speed.patch}"
    table = _table(what, "ms/crop", "crops/s", "MP/s", "GFLOP/s", "of best", "MiB")
    who = plural(speed.workers, "worker") if speed.workers else "by itself"
    loading = {
        "read a pair, once": speed.read_seconds,
        "augment, one process": speed.augment_seconds,
        f"load, {who}": 1 / speed.loaded,
    }
    for name, seconds in loading.items():
        table.add_row(name, *_figures(replace(speed.steps, seconds=seconds)))
    memory = "" if speed.memory_mib is None else f"{speed.memory_mib:,.0f}"
    gflops, share = f"{speed.steps.gflops:,.0f}", f"{speed.share:.0%}"
    table.add_row("steps alone", *_figures(speed.steps), gflops, share, memory)
    table.add_row("loading and steps", *_figures(speed.together), f"{speed.together.gflops:,.0f}")
    return table


def _table(title: str, *heads: str) -> Table:
    """An empty table that fits a line of 80 characters."""
    table = Table(title, box=None, pad_edge=False, collapse_padding=True)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _figures(pace: "Pace") -> tuple[str, str, str]:
    """Milliseconds for one, how many per second, and megapixels per second."""
    milliseconds = f"{1000 * pace.seconds:,.1f}"
    return milliseconds, f"{pace.images_per_second:,.1f}", f"{pace.megapixels_per_second:,.2f}"


def _next(run: Path | None, found: "Benchmark") -> str:
    """The command that is worth a try."""
    if not found.training:
        return f"unetseg bench {run} --train" if run else "unetseg bench --train"
    return f"unetseg predict {run} IMAGES -o masks" if run else "unetseg train YOUR_FOLDER"
