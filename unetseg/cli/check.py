"""unetseg check."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table

from unetseg.cli.console import observer, out, say
from unetseg.config import TrainConfig

if TYPE_CHECKING:
    from unetseg.data.survey import Survey
    from unetseg.training.plan import Plan


def check(
    data: Path,
    /,
    *,
    preview: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig(),  # noqa: B008 (frozen)
) -> None:
    """Say what is found in a folder of image/mask pairs, and how training would go about it.

    Examples:
    unetseg check photos/
    unetseg check photos/ --preview augmented.png --augment light

    Parameters
    ----------
    data
        Folder with images and masks, or a CSV with the columns image and mask.
    preview
        Write a sheet of augmented pairs to this PNG file.
    as_json
        Print everything as one JSON object.
    config_file
        YAML file with settings.
    """
    from unetseg.data.images import write_png
    from unetseg.data.survey import survey
    from unetseg.progress import SILENT
    from unetseg.runtime import start
    from unetseg.training.plan import make_plan
    from unetseg.training.previews import planned_sheet

    progress = observer()
    machine = start(config.runtime)
    try:
        known = survey(data, config.data, SILENT if as_json else progress)
    finally:
        progress.stop()
    plan = make_plan(known, config, machine)
    if preview:
        write_png(preview, planned_sheet(known, plan))
    if as_json:
        found = {"rules": known.rules, "classes": known.class_map.model_dump(mode="json")}
        out.print_json(json.dumps({**found, "plan": plan.model_dump(mode="json")}))
        return
    _show_data(known)
    _show_plan(plan)
    say(f"next: unetseg train {data} --budget 10m")


def _show_data(known: "Survey") -> None:
    """Sizes, bands and class frequencies."""
    sizes = sorted({fact.image.shape for fact in known.facts.values()})
    low, high = sizes[0], sizes[-1]
    span = f"{low[1]}×{low[0]}" + (f" to {high[1]}×{high[0]}" if high != low else "")
    say(f"images: {known.dtype}, bands: {known.bands}, sizes: {len(sizes)}, {span}")
    pixels = known.class_pixels("all")
    table = Table("class", "code", "share of pixels", box=None)
    for info, count in zip(known.class_map.classes, pixels, strict=True):
        table.add_row(info.name, str(info.code), f"{count / max(1, sum(pixels)):.2%}")
    out.print(table)


def _show_plan(plan: "Plan") -> None:
    """What training would do, and why."""
    table = Table("plan", "", "why", box=None)
    values = plan.model_dump(mode="json") | {
        "depth": plan.network.depth,
        "width": plan.network.width,
        "normalisation": plan.normalisation.kind,
        "repeats": f"{sum(plan.repeats)} crops per epoch",
    }
    for name, reason in plan.reasons.items():
        table.add_row(name, str(values.get(name, "")), reason)
    out.print(table)
