"""unetseg eval."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from unetseg.cli.console import observed, out, say
from unetseg.config import EvalConfig
from unetseg.text import plural, printable, quoted

if TYPE_CHECKING:
    from unetseg.evaluation.evaluate import Evaluation
    from unetseg.evaluation.shapes import Shapes


def evaluate(
    run: Path,
    data: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    config: Annotated[EvalConfig, Parameter(name="*")] = EvalConfig(),
) -> None:
    """Score a trained U-Net on a folder of image/mask pairs.

    Writes scores.json, classes.csv, images.csv, masks/, overlays/ (hits green, misses red,
    false alarms blue, confused classes yellow), anatomy.json (where the errors are) and gallery/
    (the worst, median and best images).

    Examples:
    unetseg eval checkpoints/cells photos/
    unetseg eval checkpoints/cells photos/ --split all --tta -o scores/

    Parameters
    ----------
    run
        Run folder of `unetseg train`.
    data
        Folder of pairs; images known from training keep their split.
    output
        Folder to write to (default: RUN/eval/SPLIT).
    config_file
        YAML file with settings.
    """
    from unetseg.evaluation.evaluate import evaluate as run_evaluation
    from unetseg.report.page import write_report

    with observed() as progress:
        result = run_evaluation(run, data, config, output=output, progress=progress)
        page = write_report(run, progress, result.folder) if run.is_dir() else None
    scores = result.scores
    table = Table("class", "IoU", "Dice", "precision", "recall", "pixels", box=None)
    for row in scores.classes:
        ratios = (row.iou, row.dice, row.precision, row.recall)
        table.add_row(
            Text(printable(row.name)), *(f"{ratio:.4f}" for ratio in ratios), f"{row.pixels:,}"
        )
    out.print(table)
    if result.shapes.outlines:
        out.print(_shape_table(result.shapes))
    low, high = scores.foreground_dice_interval
    say(
        f"{result.split}, {plural(scores.images, 'image')}: "
        f"foreground Dice {scores.foreground_dice:.4f} "
        f"(95% interval {low:.4f}–{high:.4f} {scores.intervals}), "
        f"IoU {scores.foreground_iou:.4f}; all classes: IoU {scores.mean_iou:.4f}"
    )
    for told in filter(None, (_told_human(result), _told_probabilities(result))):
        say(told)
    say(f"scores, masks and overlays: {result.folder}")
    if page:
        say(f"page: {page}")
    say(f"next: unetseg predict {quoted(run)} IMAGES -o masks")


def _told_human(result: "Evaluation") -> str:
    """How a second observer does beside the model, in a line; nothing where there is none."""
    human = result.kept.observers.to_json().get("human")
    if human is None:
        return ""
    low, high = human["foreground_dice_interval"]
    verdict = {"better": "the model is better", "worse": "the observer is better"}
    return (
        f"second observer, {plural(human['images'], 'image')}: "
        f"foreground Dice {human['foreground_dice']:.4f} (95% interval {low:.4f}–{high:.4f}), "
        f"IoU {human['foreground_iou']:.4f}; "
        f"the model there {human['model']['foreground_dice']:.4f}: "
        f"{verdict.get(human['difference']['verdict'], 'no difference that these images tell')}"
    )


def _told_probabilities(result: "Evaluation") -> str:
    """What the probabilities are worth, in a line; nothing where they were not measured."""
    content = result.to_json()
    if "calibration" not in content:
        return ""
    calibration, foreground = content["calibration"], result.info.class_map.foreground
    told = f"probabilities: calibration error {calibration['ece']:.4f}"
    if calibration["temperature"] != 1:
        told += f" ({calibration['ece_before']:.4f} without temperature)"
    for key, name in (("auc", "ROC-AUC"), ("average_precision", "average precision")):
        values = list(content[key].values())
        known = [values[k] for k in foreground if values[k] is not None]
        told += f", {name} {sum(known) / len(known):.4f}" if known else ""
    known_best = content.get("threshold", {})
    if known_best.get("best") and known_best["dice_gain"] > 0:
        told += f"; threshold {known_best['used']:.2f}, the best in validation was "
        told += f"{known_best['best']:.2f} (Dice {known_best['dice_gain']:+.4f}; --threshold auto)"
    return told


def _shape_table(shapes: "Shapes") -> Table:
    """A row of outlines and objects for each class of the foreground."""
    heads = ("class", "boundary IoU", f"NSD ±{shapes.tolerance:g}", "HD95", "clDice")
    table = Table(*heads, "objects", "found", "made up", "PQ", box=None)
    both = zip(shapes.outlines.items(), shapes.objects.values(), strict=True)
    for (name, outline), objects in both:
        table.add_row(
            Text(printable(name)),
            f"{outline.boundary_iou:.4f}",
            f"{outline.surface_dice:.4f}",
            f"{outline.hausdorff_95:.1f}",
            f"{outline.cl_dice:.4f}",
            *(f"{count:,}" for count in (objects.objects, objects.found, objects.made_up)),
            f"{objects.panoptic_quality:.4f}",
        )
    return table
