"""How the gradient fares on its way to the first layer: vanishing, exploding, or carried."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor
from torch.nn import functional

from unetseg.bundle import BundleInfo, build_segmenter, load_bundle
from unetseg.config import (
    DataConfig,
    GradientsConfig,
    NetworkConfig,
    ShortcutKind,
    TrainConfig,
    TrainingConfig,
)
from unetseg.data.crops.cache import read_split
from unetseg.data.crops.dataset import Crops, Order, Sample, crop_loader, find_gaps
from unetseg.data.facts.survey import Survey, survey, with_splits
from unetseg.data.pairs.splits import read_splits
from unetseg.errors import BundleError, DataError
from unetseg.evaluation.evaluate import run_folder
from unetseg.progress import SILENT, Progress
from unetseg.runtime import Machine, explained_memory, start
from unetseg.skiplab.gradient_flow import (
    BANDS,
    TASK,
    WIDTH,
    Case,
    Stack,
    build_stack,
    check_depths,
    follow,
    measure,
    unet_stages,
)
from unetseg.skiplab.result import COLOURS, Result, Row, new_figure, publish
from unetseg.training.losses import SegmentationLoss
from unetseg.training.plan import Plan, bundle_info, crop_rule, make_plan, read_plan
from unetseg.unet.model import Edit, unchanged
from unetseg.unet.segmenter import Segmenter, to_machine

Group = TypeVar("Group", DataConfig, TrainingConfig)
PIXELS, IMAGES = 8, 4
"""Side and number of the random images that stacks are shown."""
OUTPUT = "mean square of the output"
LABELS = "cross-entropy with random labels"
ARRIVES = 1e-3, 1e3
"""Norms of a first layer's gradient that has neither vanished nor exploded."""
SMALLER = "Choose a smaller --width, or another --device."
PLACE = frozenset({"images", "masks", "pairs", "group", "group_column"})
"""Settings that belong to the place of the pairs: those of a run say nothing of another place."""
MOST_DEPTHS = 3
"""Depths that stand side by side."""
PANEL_WIDTH, PANEL_HEIGHT = 4.0, 2.5
"""Inches."""
MOST_MARKS = 25
"""Marks of one line at the border of a panel."""
Lines = Mapping[str, Sequence[tuple[float, float]]]
"""Points of each line by its label: place along the x axis, and a gradient from 0 to inf."""
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
    seed: int = 0,
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
        seed: Seed of weights, images and order.
        progress: Hears what is done.

    Raises:
        ConfigError: a network cannot be built as asked.
        DataError: the data folder cannot be used.
        BundleError: the run folder has no usable model, or its data are gone.
        OutOfMemoryError: a network does not fit in memory.
    """
    base = base or TrainConfig()
    runtime = base.runtime.model_copy(update={"seed": seed})
    base = base.model_copy(update={"runtime": runtime})
    machine = start(runtime)
    if source is None:
        rows = of_stacks(config, base, machine, progress)
        first_layer = first_layer_table(at_start(rows), "depth")
        figures = stack_figures(rows)
    else:
        is_run = any((source / name).is_file() for name in ("plan.json", "model.json"))
        rows = (of_run if is_run else of_unets)(config, source, base, machine, progress)
        first_layer, figures = first_layer_table(rows, "step"), unet_figures(rows)
    settings = config.model_dump(mode="json") | {"seed": seed}
    result = Result(output, rows, first_layer, CAPTION)
    return publish(
        result, "gradients", figures, settings=settings, source=source, first_layer=first_layer
    )


# ---------------------------------------------------------------- stacks


def output_loss(images: Tensor, stack: Stack, step: int) -> Tensor:
    """Mean square of the output: its gradient shrinks on the way in and on the way back."""
    output: Tensor = stack(images)
    return output.square().mean()


def label_loss(images: Tensor, labels: Tensor, stack: Stack, step: int) -> Tensor:
    """Cross-entropy of the output's mean over all pixels, taken as the logits of 16 classes."""
    return functional.cross_entropy(stack(images).mean((2, 3)), labels)


def of_stacks(
    config: GradientsConfig, base: TrainConfig, machine: Machine, progress: Progress = SILENT
) -> list[Row]:
    """Rows of stacks of every block × shortcut × norm × init × depth, on random images.

    Each is measured at the start with `output_loss`, then along a training for random labels.

    Raises:
        ConfigError: a depth is not whole blocks.
    """
    for block in config.blocks:
        check_depths(config.depths, block)
    generator = torch.Generator().manual_seed(base.runtime.seed)
    images = torch.randn(IMAGES, BANDS, PIXELS, PIXELS, generator=generator)
    labels = torch.randint(WIDTH, (IMAGES,), generator=generator)
    images, labels = images.to(machine.device), labels.to(machine.device)
    variants = vary(config, base.network)
    rows: list[Row] = []
    progress.start(TASK, len(variants) * len(config.depths) * (config.steps + 1))
    for network, depth in product(variants, config.depths):
        torch.manual_seed(base.runtime.seed)
        stack = build_stack(network, depth).to(machine.device)
        blocks = [(f"block {number}", block) for number, block in enumerate(stack.blocks, 1)]
        stages = [("first", stack.first), *blocks, ("last", stack.last)]
        columns = {**tell_apart(network), "depth": depth}
        case = Case(columns, stack, stages, partial(output_loss, images, stack), OUTPUT)
        rows += measure(case, config.lr)
        case = replace(case, loss=partial(label_loss, images, labels, stack), objective=LABELS)
        rows += follow(case, config.lr, config.steps, base.training, progress)
    progress.finish(TASK)
    return rows


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

    def draw(self, step: int) -> Sample:
        """The batch of a training step: as in a training, and the same whenever it is asked for."""
        repeats = [1] * len(self.crops.reader)
        order = Order(repeats, self.batch, self.seed, first_step=step)
        return Sample(*next(iter(crop_loader(self.crops, order, workers=0))))

    def loss(self, segmenter: Segmenter, edit: Edit, step: int) -> Tensor:
        """The loss of the training at full resolution."""
        image, mask, statistics = (part.to(self.device) for part in self.draw(step))
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
        with explained_memory(SMALLER):
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
    trained, info = load_bundle(run)
    lesson = _lesson_of(run_folder(run), info, base, machine.device, progress)
    torch.manual_seed(base.runtime.seed)
    random = info.network.model_copy(update={"weights": "none"})
    fresh = build_segmenter(info.model_copy(update={"network": random}))
    networks = {"fresh": fresh, "trained": trained}
    edits: dict[str, Edit] = {"skips as they are": unchanged, "skips zeroed": zeroed}
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


def zeroed(skips: list[Tensor]) -> list[Tensor]:
    """Zeros instead of every skip."""
    return [torch.zeros_like(skip) for skip in skips]


def _read_lesson(images: Survey, plan: Plan, base: TrainConfig, device: torch.device) -> Lesson:
    """The crops of a training on `images`.

    Raises:
        DataError: there is nothing to train on.
    """
    reader = read_split(images, "train", plan.bands)
    if not len(reader):
        fix = "Give other pairs with --images and --masks."
        raise DataError(f"no pair of {images.pairs.root} is for training", fix=fix)
    gaps = find_gaps(images, "train", plan.bands)
    crops = Crops(reader, crop_rule(plan), images.statistics("train"), gaps)
    foreground = images.class_map.foreground
    criterion = SegmentationLoss(base.training.loss, plan.class_weights, foreground)
    info = bundle_info(plan, images, data_hash="")
    return Lesson(info, crops, plan.batch, base.runtime.seed, criterion, device)


# ---------------------------------------------------------------- what a run was trained on


def _lesson_of(
    run: Path, info: BundleInfo, base: TrainConfig, device: torch.device, progress: Progress
) -> Lesson:
    """The crops and the loss of a run's training.

    Raises:
        BundleError: the run does not say how it was trained, or its data are gone.
    """
    try:
        plan = read_plan(run)
    except (OSError, ValueError) as error:
        fix = "Give the folder that `unetseg train` wrote."
        raise BundleError(f"{run} has no plan of this version (plan.json)", [error], fix) from error
    try:
        settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) or {}
        data, training = _own(settings, DataConfig), _own(settings, TrainingConfig)
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        summary = f"{run} does not say how it was trained (config.yaml)"
        raise BundleError(summary, [error], "Train again, or give a data folder.") from error
    images = replace(
        _survey_of(run, data, base.data, progress),
        classes=info.snapping(base.data.snap).class_map,
    )
    learning = base.training.model_copy(update={"loss": training.loss})
    return _read_lesson(images, plan, base.model_copy(update={"training": learning}), device)


def _own(settings: Mapping[str, Any], group: type[Group]) -> Group:
    """Those of the settings that belong to a group."""
    return group.model_validate({k: v for k, v in settings.items() if k in group.model_fields})


def _survey_of(run: Path, own: DataConfig, asked: DataConfig, progress: Progress) -> Survey:
    """The images of a run's training with its settings and its splits, changed as asked.

    Images of the training keep their split, recognised by content; others have the one they would
    have in a training of their own.
    """
    changes = asked.model_dump(exclude_defaults=True)
    kept = own.model_dump(exclude_unset=True)
    if changes.keys() & {"images", "masks", "pairs"}:
        kept = {name: value for name, value in kept.items() if name not in PLACE}
    config = DataConfig.model_validate(kept | changes)
    images = survey(_folder_of(run, asked), config, progress)
    if not (run / "splits.json").is_file():
        return images
    splits = read_splits(run / "splits.json")
    by_name = {pair.name: pair.split for pair in images.pairs.pairs if pair.split}
    by_content = {name: splits.get(fact.hash) for name, fact in images.facts.items()}
    return with_splits(images, by_name | {name: s for name, s in by_content.items() if s})


def _folder_of(run: Path, asked: DataConfig) -> Path:
    """Where the pairs are: the place that is asked for, else the folder of the training."""
    place = asked.images or asked.pairs
    if place is not None and place.exists():
        return place.parent
    try:
        folder = Path(json.loads((run / "env.json").read_bytes())["data"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        summary = f"{run} does not say what it was trained on"
        raise BundleError(summary, [error], "Give pairs with --images and --masks.") from error
    if not folder.exists():
        summary = f"{folder}, which {run} was trained on, is not there"
        raise BundleError(summary, fix="Say where it is now with --images and --masks.")
    return folder


# ---------------------------------------------------------------- what is compared


def vary(
    config: GradientsConfig, base: NetworkConfig, *, explicit: bool = False
) -> list[NetworkConfig]:
    """`base` with every norm × init × block and shortcut of `config`.

    Only residual blocks have a choice of shortcut. With `explicit`, only of those settings that
    were set: the product of all defaults would be days of training for U-Nets.

    >>> config = GradientsConfig(blocks=("plain", "residual"), shortcuts=("zero_pad", "rezero"))
    >>> networks = vary(config, NetworkConfig(), explicit=True)
    >>> [(network.block, network.shortcut) for network in networks]
    [('plain', 'identity'), ('residual', 'zero_pad'), ('residual', 'rezero')]
    """
    asked = config.model_fields_set if explicit else set(GradientsConfig.model_fields)
    norms = config.norms if "norms" in asked else (base.norm,)
    inits = config.inits if "inits" in asked else (base.init,)
    blocks = [(base.block, base.shortcut)]
    if asked & {"blocks", "shortcuts"}:
        no_choice: tuple[ShortcutKind, ...] = ("identity",)
        blocks = [
            (block, shortcut)
            for block in config.blocks
            for shortcut in (config.shortcuts if block == "residual" else no_choice)
        ]
    return [
        base.model_copy(update={"norm": norm, "init": init, "block": block, "shortcut": shortcut})
        for norm, init, (block, shortcut) in product(norms, inits, blocks)
    ]


def tell_apart(network: NetworkConfig, *, unet: bool = False) -> Row:
    """The columns that tell networks apart."""
    shortcut = network.shortcut if network.block == "residual" else ""
    name = f"{network.block}, {shortcut}" if shortcut else network.block
    settings: dict[str, str] = {"block": network.block, "shortcut": shortcut}
    settings |= {"norm": network.norm, "init": network.init}
    if not unet:
        return {"network": name, **settings}
    skip = ", ".join(network.skip)
    name = f"{'no' if skip == 'none' else skip} skips, {name}"
    return {"network": name, "skip": skip, **settings}


# ---------------------------------------------------------------- tables and pictures


def at_start(rows: Sequence[Row]) -> list[Row]:
    """The rows before any training, with the loss that was measured first."""
    return [row for row in rows if row["step"] == 0 and row["objective"] == rows[0]["objective"]]


def first_layers(rows: Sequence[Row]) -> list[Row]:
    """The rows of the first convolution of each network."""
    return [row for row in rows if row["layer"] == 0 and row["part"] == "weights"]


def first_layer_table(rows: Sequence[Row], across: str) -> list[Row]:
    """The gradient of each network's first convolution, a column for each depth or step.

    What is stuck, and the verdict, are of the last column: the gradient vanishes, arrives or
    explodes.
    """
    table: dict[tuple[object, ...], dict[str, object]] = {}
    last: dict[tuple[object, ...], Row] = {}
    for row in first_layers(rows):
        network = {name: row[name] for name in ("network", "norm", "init")}
        key = tuple(network.values())
        table.setdefault(key, network)[f"{across} {row[across]}"] = row["gradient"]
        last[key] = row
    for key, columns in table.items():
        columns |= {name: last[key][name] for name in ("stuck_float32", "stuck_bf16")}
        columns["verdict"] = verdict_on(last[key]["gradient"])
    return list(table.values())


def verdict_on(size: float) -> str:
    """What becomes of a gradient on its way to the first layer.

    >>> [verdict_on(size) for size in (1e-8, 0.2, float("inf"))]
    ['vanishes', 'arrives', 'explodes']
    """
    least, most = ARRIVES
    return "vanishes" if size < least else "arrives" if size <= most else "explodes"


def stack_figures(rows: Sequence[Row]) -> dict[str, Figure]:
    """Gradient by layer, first layer's gradient by depth, and the latter after training."""
    last = rows[-1]
    trained = _where(rows, objective=last["objective"])
    before = f"Gradient of the first layer before training, {rows[0]['objective']}"
    figures = {
        "gradients": layer_figure(_where(trained, step=0)),
        "first_layer": depth_figure(at_start(rows), before, {0: "-"}),
    }
    if steps := last["step"]:
        both = f"Gradient of the first layer before (dotted) and after {steps} steps (solid)"
        figures["training"] = depth_figure(trained, both, {0: ":", steps: "-"})
    return figures


def layer_figure(rows: Sequence[Row]) -> Figure:
    """A line per network: gradient by layer. Panels: norm and init down, depths across."""
    depths, settings = _some(sorted({row["depth"] for row in rows})), _settings(rows)
    panels = Panels(rows, len(settings), len(depths))
    for y, setting in enumerate(settings):
        for x, depth in enumerate(depths):
            own = _where(rows, depth=depth, **setting)
            lines = _lines(_where(own, part="weights"), "layer")
            factors = _lines(_where(own, part="factor"), "layer")
            panels.draw(y, x, lines, title=f"{depth} layers, {_said(setting)}")
            panels.draw(y, x, factors, linestyle="none", marker=".")
    panels.marks["• learned factor α"] = any(row["part"] == "factor" for row in rows)
    panels.finish(f"Gradient of each layer before training, {rows[0]['objective']}", "layer")
    return panels.figure


def depth_figure(rows: Sequence[Row], title: str, style_of_step: Mapping[int, str]) -> Figure:
    """A line per network and step: gradient of the first layer by the depth of the stack."""
    firsts = first_layers(rows)
    settings = _settings(firsts)
    panels = Panels(firsts, -(-len(settings) // 2), min(2, len(settings)))
    for number, setting in enumerate(settings):
        for step, style in style_of_step.items():
            lines = _lines(_where(firsts, step=step, **setting), "depth")
            panels.draw(
                *divmod(number, 2), lines, title=_said(setting), linestyle=style, marker="o"
            )
    panels.finish(title, "layers in the network")
    return panels.figure


def unet_figures(rows: Sequence[Row]) -> dict[str, Figure]:
    """The gradient of each stage: of U-Nets before and after training, or of a run's network."""
    if "weights" in rows[0]:
        parts = {f"{state} weights": _where(rows, weights=state) for state in ("fresh", "trained")}
        return {"gradients": stage_figure(rows, [parts], line="skips")}
    steps = max(row["step"] for row in rows)
    moments = {"before training": 0, f"after {steps} steps": steps} if steps else {"at first": 0}
    several = len(_settings(rows)) > 1
    panels = [
        {
            moment + (f", {_said(setting)}" if several else ""): _where(rows, step=step, **setting)
            for moment, step in moments.items()
        }
        for setting in _settings(rows)
    ]
    return {"gradients": stage_figure(rows, panels)}


def stage_figure(
    rows: Sequence[Row], grid: Sequence[Mapping[str, Sequence[Row]]], line: str = "network"
) -> Figure:
    """A line per network: gradient by stage. Each row of the grid has panels by their title."""
    every = [row for row in rows if row["part"] == "weights"]
    networks = [_where(every, network=name) for name in _unique(every, "network")]
    longest = max(networks, key=lambda own: len({row["stage"] for row in own}))
    stages = {stage: place for place, stage in enumerate(_unique(longest, "stage"))}
    panels = Panels(every, len(grid), len(grid[0]), line=line)
    for y, across in enumerate(grid):
        for x, (title, own) in enumerate(across.items()):
            panels.draw(y, x, _stage_lines(own, stages, line), title=title, marker="o")
    panels.finish("Gradient of each stage of the U-Net", "stage, from image to masks")
    for axes in panels.axes[:-1].flat:
        axes.set_xticks(range(len(stages)), [""] * len(stages))
    for axes in panels.axes[-1]:
        axes.set_xticks(range(len(stages)), list(stages), rotation=45, ha="right")
    return panels.figure


class Panels:
    """Plots on one logarithmic scale, with one colour for each line; 0 and inf are drawn too.

    Args:
        rows: All rows that are drawn.
        down: Panels below one another.
        across: Panels side by side.
        line: The column whose values are the lines.
    """

    def __init__(self, rows: Sequence[Row], down: int, across: int, line: str = "network") -> None:
        width = max(PANEL_WIDTH * across, 6.5)
        self.figure, self.axes = new_figure(width, PANEL_HEIGHT * down + 1, down, across)
        self.across = across
        labels = _unique(rows, line)
        self.colours = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(labels)}
        sizes = [row["gradient"] for row in rows]
        exponents = [math.log10(size) for size in sizes if 0 < size < math.inf] or [0.0]
        gap = max(0.2, 0.05 * (max(exponents) - min(exponents)))
        self.nothing, self.everything = min(exponents) - gap, max(exponents) + gap
        vanished, exploded = 0.0 in sizes, math.inf in sizes
        self.limits = (
            10 ** (self.nothing - gap * vanished),
            10 ** (self.everything + gap * exploded),
        )
        self.marks = {"× no gradient at all": vanished, "▲ too large for float32": exploded}

    def draw(self, y: int, x: int, lines: Lines, *, title: str = "", **style: Any) -> None:
        """Draw lines into the panel in row y and column x."""
        axes = self.axes[y][x]
        if title:
            axes.set_title(title, fontsize=10)
        for label, points in lines.items():
            colour = self.colours[label]
            whole = [(at, size if 0 < size < math.inf else math.nan) for at, size in points]
            axes.plot(*zip(*whole, strict=True), color=colour, markersize=4, **style)
            for mark, value, height in (("x", 0, self.nothing), ("^", math.inf, self.everything)):
                places = [at for at, size in points if size == value]
                marks = places[:: max(1, len(places) // MOST_MARKS)]
                axes.plot(marks, [10**height] * len(marks), mark, color=colour, markersize=5)

    def finish(self, title: str, along: str) -> None:
        """Add scales, labels and the legend."""
        for axes in self.axes.flat:
            axes.set_yscale("log")
            axes.set_ylim(*self.limits)
            axes.set_visible(bool(axes.lines))
        for axes in self.axes[:, 0]:
            axes.set_ylabel("norm of the gradient")
        for axes in self.axes[-1]:
            axes.set_xlabel(along)
        marks = [mark for mark, seen in self.marks.items() if seen]
        self.figure.suptitle("\n".join([title, "   ".join(marks)] if marks else [title]))
        handles = [Line2D([], [], color=c, label=name) for name, c in self.colours.items()]
        columns = min(len(handles), 2 * self.across)
        self.figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, frameon=False
        )


def _lines(rows: Sequence[Row], along: str) -> Lines:
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        lines.setdefault(row["network"], []).append((row[along], row["gradient"]))
    return lines


def _stage_lines(rows: Sequence[Row], stages: Mapping[str, int], line: str) -> Lines:
    """The norm of all convolutions of a stage together."""
    lines: dict[str, list[tuple[float, float]]] = {}
    own = [row for row in rows if row["part"] == "weights"]
    for name in _unique(own, line):
        for stage in (stage for stage in stages if _where(own, stage=stage, **{line: name})):
            sizes = [row["gradient"] for row in _where(own, stage=stage, **{line: name})]
            lines.setdefault(name, []).append((stages[stage], math.hypot(*sizes)))
    return lines


def _where(rows: Sequence[Row], **values: object) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def _unique(rows: Sequence[Row], column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))


def _settings(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The pairs of norm and init that there are."""
    pairs = dict.fromkeys((row["norm"], row["init"]) for row in rows)
    return [{"norm": norm, "init": init} for norm, init in pairs]


def _said(setting: Mapping[str, str]) -> str:
    norm = "no norm" if setting["norm"] == "none" else f"{setting['norm']} norm"
    return f"{norm}, init {setting['init']}"


def _some(depths: Sequence[int]) -> list[int]:
    """The smallest, the largest and those in the middle, `MOST_DEPTHS` at most."""
    last = len(depths) - 1
    count = min(len(depths), MOST_DEPTHS)
    return [depths[round(at * last / max(count - 1, 1))] for at in range(count)]
