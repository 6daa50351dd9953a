"""How the gradient fares on its way to the first layer: vanishing, exploding, or carried."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from torch import Tensor

from unetseg.bundle import BundleInfo, build_segmenter, load_single
from unetseg.config import DataConfig, GradientsConfig, TrainConfig, TrainingConfig
from unetseg.data.crops.cache import choose_cache, read_split
from unetseg.data.crops.dataset import Crops, Order, known_gaps
from unetseg.data.crops.loading import crop_batches
from unetseg.data.facts.survey import Survey, survey, with_splits
from unetseg.data.pairs.splits import read_splits
from unetseg.errors import BundleError, DataError
from unetseg.evaluation.evaluate import run_folder
from unetseg.progress import SILENT, Progress
from unetseg.runtime import Machine, explained_memory, start
from unetseg.skiplab.gradient_flow import (
    TASK,
    Case,
    follow,
    measure,
    of_stacks,
    tell_apart,
    unet_stages,
    vary,
)
from unetseg.skiplab.look import COLOURS, Result, Row, new_figure, publish
from unetseg.storage import parse_json
from unetseg.training.losses import SegmentationLoss
from unetseg.training.plan import Plan, bundle_info, crop_rule, make_plan, read_plan
from unetseg.unet.model import Edit, unchanged
from unetseg.unet.segmenter import Segmenter, to_machine

ARRIVES = 1e-3, 1e3
"""Norms of a first layer's gradient that has neither vanished nor exploded."""
PLACE = frozenset({"images", "masks", "pairs", "group", "group_column"})
"""Settings that belong to the place of the pairs: those of a run say nothing of another place."""
Panel = tuple[str, Sequence[Row]]
"""A title, and the rows that are drawn below it."""
CAPTION = (
    f"The norm of each layer's gradient: between {ARRIVES[0]:g} and {ARRIVES[1]:g} it arrives at "
    "the first layer, below it vanishes, above it explodes (the verdict, in the last depth or "
    "step). Stuck is the share of that layer's weights which one plain step at --lr cannot move."
)


def gradients(
    config: GradientsConfig,
    *,
    source: Path | None = None,
    base: TrainConfig | None = None,
    output: Path,
    progress: Progress = SILENT,
) -> Result:
    """Measure the gradient of every layer, and the updates that a learning rate makes of it.

    Without a source, of stacks of convolutions on random images. With a data folder, of U-Nets
    planned for it, trained a little. With a run folder, of its network, with fresh and with
    trained weights, with its skips as they are and zeroed. Gradients are those of float32
    passes, whatever precision `base.runtime` asks for: they are what other types are held against.

    Args:
        config: What is compared. For U-Nets, blocks, shortcuts, norms and inits that are not set
            explicitly are those of `base`.
        source: A run folder or a data folder.
        base: Settings of the U-Nets, the optimizer and the machine. A run has its own loss, and
            is shown the images it was trained on, or those that `base.data` names; of the other
            settings of its data, those that are no defaults in `base.data` are changed.
        output: Folder for gradients.csv, gradients.json and the plots.
        progress: Hears what is done.

    Raises:
        ConfigError: a network cannot be built as asked.
        DataError: the data folder cannot be used.
        BundleError: the run folder has no usable model, or its data are gone.
        OutOfMemoryError: a network does not fit in memory.
    """
    base = base or TrainConfig()
    runtime = base.runtime.model_copy(update={"seed": config.seed})
    base = base.model_copy(update={"runtime": runtime})
    machine = start(runtime)
    if source is None:
        rows = of_stacks(config, base, machine, progress)
        first_layer = first_layer_table(at_start(rows), "depth")
        figures = stack_figures(rows)
    else:
        is_run = any((source / name).is_file() for name in ("plan.json", "model.json"))
        rows = (of_run if is_run else of_unets)(config, source, base, machine, progress)
        first_layer, figures = first_layer_table(rows, "step"), {"gradients": unet_figure(rows)}
    settings = config.model_dump(mode="json")
    result = Result(output, rows, first_layer, CAPTION)
    return publish(
        result, "gradients", figures, settings=settings, source=source, first_layer=first_layer
    )


# ---------------------------------------------------------------- U-Nets


@dataclass(frozen=True)
class Lesson:
    """What U-Nets are shown: crops of real images, the same ones for every network."""

    info: BundleInfo
    crops: Crops
    batch: int
    """Crops of a step."""
    seed: int
    """Of their order."""
    criterion: SegmentationLoss
    device: torch.device

    def loss(self, segmenter: Segmenter, edit: Edit, step: int) -> Tensor:
        """The loss of a training step, on the batch that it has whenever it is asked for."""
        order = Order([1] * len(self.crops.reader), self.batch, self.seed, first_step=step)
        sample = next(crop_batches(self.crops, order))
        image, mask, statistics = (part.to(self.device) for part in sample)
        return self.criterion(segmenter(image, statistics, edit), mask)

    def case(self, columns: Row, segmenter: Segmenter, edit: Edit = unchanged) -> Case:
        """`segmenter` in training mode, on its way through this lesson."""
        segmenter.train()
        loss = partial(self.loss, segmenter, edit)
        return Case(columns, segmenter, unet_stages(segmenter.network), loss, self.criterion.kind)


def of_unets(
    config: GradientsConfig,
    data: Path,
    base: TrainConfig,
    machine: Machine,
    progress: Progress = SILENT,
) -> list[Row]:
    """Rows of U-Nets planned for `data`, with each kind of skip, along a training on its crops.

    Blocks, shortcuts, norms and inits vary too where they are set explicitly in `config`.

    Raises:
        ConfigError: a U-Net cannot be built as asked.
        DataError: the folder cannot be used.
        OutOfMemoryError: a U-Net does not fit in memory.
    """
    images = survey(data, base.data, progress)
    plan = make_plan(images, base, machine)
    lesson = _read_lesson(images, plan, base, machine.device)
    variants = [
        network.model_copy(update={"skip": (skip,)})
        for network, skip in product(vary(config, plan.network, explicit=True), config.skips)
    ]
    rows: list[Row] = []
    progress.start(TASK, len(variants) * (config.steps + 1))
    for network in variants:
        with explained_memory("Choose a smaller --width, or another --device."):
            torch.manual_seed(base.runtime.seed)
            segmenter = build_segmenter(lesson.info.model_copy(update={"network": network}))
            case = lesson.case(tell_apart(network, unet=True), to_machine(segmenter, machine))
            rows += follow(case, config.lr, config.steps, base.training, progress)
    progress.finish(TASK)
    return rows


def of_run(
    config: GradientsConfig,
    run: Path,
    base: TrainConfig,
    machine: Machine,
    progress: Progress = SILENT,
) -> list[Row]:
    """Rows of a run's network, fresh and trained, with its skips as they are and zeroed.

    Fresh weights are random ones, also where the run began with those of a trained encoder. Each
    time, whatever the network draws (switches, deactivable blocks) is drawn the same.

    Raises:
        BundleError: the run has no usable model, or its data are gone.
        DataError: the data cannot be used.
        OutOfMemoryError: the network does not fit in memory.
    """
    trained, info = load_single(run)
    lesson = _lesson_of(run_folder(run), info, base, machine.device, progress)
    torch.manual_seed(base.runtime.seed)
    networks = {"fresh": build_segmenter(info.fresh), "trained": trained}
    edits: dict[str, Edit] = {
        "skips as they are": unchanged,
        "skips zeroed": lambda skips: [torch.zeros_like(skip) for skip in skips],
    }
    rows: list[Row] = []
    progress.start(TASK, len(networks) * len(edits))
    for (state, segmenter), (skips, edit) in product(networks.items(), edits.items()):
        columns = {"network": f"{state}, {skips}", "weights": state, "skips": skips}
        columns |= {"norm": info.network.norm, "init": info.network.init}
        with explained_memory("Look at it on another --device."):
            case = lesson.case(columns, to_machine(segmenter, machine), edit)
            torch.manual_seed(base.runtime.seed)
            rows += measure(case, config.lr)
        progress.advance(TASK, network=columns["network"])
    progress.finish(TASK)
    return rows


def _read_lesson(images: Survey, plan: Plan, base: TrainConfig, device: torch.device) -> Lesson:
    """The crops of a training on `images`.

    Raises:
        DataError: there is nothing to train on.
    """
    place = choose_cache(images, plan.bands, splits=("train",)).place
    reader = read_split(images, "train", plan.bands, place)
    if not len(reader):
        fix = "Give other pairs with --images and --masks."
        raise DataError(f"no pair of {images.pairs.root} is for training", fix=fix)
    gaps = known_gaps(images, plan.bands)
    crops = Crops(reader, crop_rule(plan), images.statistics("train"), gaps)
    foreground = images.class_map.foreground
    criterion = SegmentationLoss(base.training.loss, plan.class_weights, foreground)
    info = bundle_info(plan, images, data_hash="")
    return Lesson(info, crops, plan.batch, base.runtime.seed, criterion, device)


# ---------------------------------------------------------------- what a run was trained on


def _lesson_of(
    run: Path, info: BundleInfo, base: TrainConfig, device: torch.device, progress: Progress
) -> Lesson:
    """The crops and the loss of a run's training, its settings changed as `base.data` asks.

    Images of the training keep their split, recognised by content; others have the one they would
    have in a training of their own.

    Raises:
        BundleError: the run does not say how it was trained, or its data are gone.
    """
    try:
        plan = read_plan(run)
        settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) or {}
        own = {name: value for name, value in settings.items() if name in DataConfig.model_fields}
        loss = TrainingConfig(loss=settings.get("loss", TrainingConfig().loss)).loss
    except (BundleError, OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        summary = f"{run} does not say how it was trained (plan.json, config.yaml)"
        fix = "Give the folder that `unetseg train` wrote, or a data folder."
        raise BundleError(summary, [error], fix) from error
    changes = base.data.model_dump(exclude_defaults=True)
    if changes.keys() & {"images", "masks", "pairs"}:
        own = {name: value for name, value in own.items() if name not in PLACE}
    config = DataConfig.model_validate(own | changes)
    images = survey(_folder_of(run, base.data), config, progress)
    if (run / "splits.json").is_file():
        splits = read_splits(run / "splits.json")
        by_name = {pair.name: pair.split for pair in images.pairs.pairs if pair.split}
        by_content = {name: splits.get(fact.hash) for name, fact in images.facts.items()}
        images = with_splits(images, by_name | {name: s for name, s in by_content.items() if s})
    images = replace(images, classes=info.snapping(base.data.snap).class_map)
    training = base.training.model_copy(update={"loss": loss})
    return _read_lesson(images, plan, base.model_copy(update={"training": training}), device)


def _folder_of(run: Path, asked: DataConfig) -> Path:
    """Where the pairs are: the place that is asked for, else the folder of the training."""
    place = asked.images or asked.pairs
    if place is not None and place.exists():
        return place.parent
    try:
        folder = Path(parse_json((run / "env.json").read_bytes())["data"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        summary = f"{run} does not say what it was trained on"
        raise BundleError(summary, [error], "Give pairs with --images and --masks.") from error
    if not folder.exists():
        summary = f"{folder}, which {run} was trained on, is not there"
        raise BundleError(summary, fix="Say where it is now with --images and --masks.")
    return folder


# ---------------------------------------------------------------- tables and pictures


def at_start(rows: Sequence[Row]) -> list[Row]:
    """The rows before any training, with the loss that was measured first."""
    return _where(rows, step=0, objective=rows[0]["objective"])


def first_layer_table(rows: Sequence[Row], across: str) -> list[Row]:
    """The gradient of each network's first convolution, a column for each depth or step.

    What is stuck, and the verdict, are of the last column: the gradient vanishes, arrives or
    explodes.
    """
    by_network: dict[tuple[str, ...], list[Row]] = {}
    for row in _where(rows, layer=0, part="weights"):
        by_network.setdefault((row["network"], row["norm"], row["init"]), []).append(row)
    table: list[Row] = []
    for names, own in by_network.items():
        network = dict(zip(("network", "norm", "init"), names, strict=True))
        sizes = {f"{across} {row[across]}": row["gradient"] for row in own}
        stuck = {name: own[-1][name] for name in ("stuck_float32", "stuck_bf16")}
        table.append({**network, **sizes, **stuck, "verdict": verdict_on(own[-1]["gradient"])})
    return table


def verdict_on(size: float) -> str:
    """What becomes of a gradient on its way to the first layer.

    >>> [verdict_on(size) for size in (1e-8, 0.2, float("inf"))]
    ['vanishes', 'arrives', 'explodes']
    """
    least, most = ARRIVES
    return "vanishes" if size < least else "arrives" if size <= most else "explodes"


def stack_figures(rows: Sequence[Row]) -> dict[str, Figure]:
    """Gradient by layer, first layer's gradient by depth, and the latter after training.

    Each norm and init has its panels; gradients by layer those of three depths at most.
    """
    settings, depths = _settings(rows), sorted({row["depth"] for row in rows})
    depths = sorted({depths[0], depths[len(depths) // 2], depths[-1]})
    start, trained = at_start(rows), _where(rows, objective=rows[-1]["objective"])
    before = _where(trained, step=0)
    layers = [
        (f"{depth} layers, {name}", _where(before, depth=depth, **own))
        for (name, own), depth in product(settings.items(), depths)
    ]

    def by_depth(title: str, shown: Sequence[Row]) -> Figure:
        firsts = _where(shown, layer=0, part="weights")
        panels = [(name, _where(firsts, **own)) for name, own in settings.items()]
        along = "depth", "layers in the network"
        return draw(f"Gradient of the first layer {title}", panels, min(2, len(panels)), along)

    title = f"Gradient of each layer before training, {before[0]['objective']}"
    figures = {
        "gradients": draw(title, layers, len(depths), ("layer", "layer")),
        "first_layer": by_depth(f"before training, {start[0]['objective']}", start),
    }
    if steps := rows[-1]["step"]:
        ends = [row for row in trained if row["step"] in {0, steps}]
        figures["training"] = by_depth(f"before (dotted) and after {steps} steps (solid)", ends)
    return figures


def unet_figure(rows: Sequence[Row]) -> Figure:
    """The norm of each stage's convolutions together, of U-Nets or of a run's network.

    Panels: norm and init down; before and after training, or fresh and trained weights, across.
    """
    stages = _by_stage(_where(rows, part="weights"))
    if "weights" in rows[0]:
        line, columns = "skips", 2
        panels = [(f"{w} weights", _where(stages, weights=w)) for w in ("fresh", "trained")]
    else:
        steps = dict.fromkeys((0, rows[-1]["step"]))
        line, columns = "network", len(steps)
        panels = [
            (f"after {step} steps, {name}", _where(stages, step=step, **own))
            for (name, own), step in product(_settings(rows).items(), steps)
        ]
    along = "place", "stage, from image to masks"
    figure = draw("Gradient of each stage of the U-Net", panels, columns, along, line)
    names = {row["place"]: row["stage"] for row in stages}
    for axes in figure.axes:
        axes.set_xticks(list(names), list(names.values()), rotation=45, ha="right")
    return figure


def _by_stage(rows: Sequence[Row]) -> list[Row]:
    """A row for each stage, with its place among those of the network that has most."""
    grouped: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for row in rows:
        key = tuple(str(row[name]) for name in ("network", "norm", "init", "step"))
        grouped.setdefault(key, {}).setdefault(row["stage"], []).append(row)
    order = max((list(stages) for stages in grouped.values()), key=len)
    return [
        {
            **own[0],
            "place": order.index(stage),
            "gradient": math.hypot(*(r["gradient"] for r in own)),
        }
        for stages in grouped.values()
        for stage, own in stages.items()
    ]


def draw(
    title: str, panels: Sequence[Panel], columns: int, along: tuple[str, str], line: str = "network"
) -> Figure:
    """Gradients on one logarithmic scale; those of 0 and inf lie on its border.

    Args:
        title: Of the whole figure.
        panels: From the top left on.
        columns: Panels side by side.
        along: The table's column that is the x axis, and what it is called.
        line: The column whose values have a line and a colour each; dotted before a training
            whose end is in the same panel. Learned factors are points alone.
    """
    down = math.ceil(len(panels) / columns)
    figure, axes = new_figure(4 * columns + 1, 2.5 * down + 1, down, columns)
    rows = [row for _, own in panels for row in own]
    sizes = [row["gradient"] for row in rows if 0 < row["gradient"] < math.inf] or [1.0]
    low, high = min(sizes) / 2, max(sizes) * 2
    colours = dict(zip(dict.fromkeys(row[line] for row in rows), cycle(COLOURS), strict=False))
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (name, own) in zip(axes.flat, panels, strict=False):
        lines: dict[tuple[Any, ...], list[Row]] = {}
        for row in own:
            lines.setdefault((row["part"], row["step"], row[line]), []).append(row)
        last = max((row["step"] for row in own), default=0)
        for (part, step, value), points in lines.items():
            style = "" if part == "factor" else "-" if step == last else ":"
            heights = np.clip([row["gradient"] for row in points], low, high)
            places = [row[along[0]] for row in points]
            axis.plot(places, heights, style, marker=".", color=colours[value], clip_on=False)
        axis.set(title=name, yscale="log", ylim=(low, high))
    for axis in axes[:, 0]:
        axis.set_ylabel("norm of the gradient")
    for axis in axes[-1]:
        axis.set_xlabel(along[1])
    figure.suptitle(f"{title}\n(on the border: 0, or too large for float32)")
    for value, colour in colours.items():
        axes[0, 0].plot([], [], color=colour, label=value)
    figure.legend(loc="outside lower center", ncols=2 * columns)
    return figure


def _where(rows: Sequence[Row], **values: object) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def _settings(rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """The pairs of norm and init that there are, by what a picture calls them."""
    pairs = dict.fromkeys((row["norm"], row["init"]) for row in rows)
    return {f"norm {norm}, init {init}": {"norm": norm, "init": init} for norm, init in pairs}
