"""How the gradient fares on its way to the first layer: vanishing, exploding, or carried."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, product
from pathlib import Path

import torch
import yaml
from torch import Tensor
from torch.nn import functional

from unetseg.bundle import BundleInfo, Segmenter, build_segmenter, load_bundle, to_machine
from unetseg.config import (
    BlockKind,
    DataConfig,
    GradientsConfig,
    NetworkConfig,
    ShortcutKind,
    TrainConfig,
)
from unetseg.data.dataset import Crops, Order, Sample, crop_loader, read_split
from unetseg.data.splits import read_splits
from unetseg.data.survey import Survey, survey, with_splits
from unetseg.errors import BundleError
from unetseg.evaluation.evaluate import run_folder
from unetseg.progress import SILENT, Progress
from unetseg.runtime import Machine, start
from unetseg.skiplab.finding import Finding, Row, publish
from unetseg.skiplab.gradient_figures import stack_figures, unet_figures
from unetseg.skiplab.gradient_flow import Case, follow, measure, unet_stages
from unetseg.skiplab.gradient_words import run_words, stack_words, unet_words
from unetseg.skiplab.tower import WIDTH, Stack, build_stack, check_depths
from unetseg.training.losses import SegmentationLoss
from unetseg.training.plan import Plan, bundle_info, crop_rule, make_plan
from unetseg.unet.model import Edit, unchanged

PIXELS, IMAGES, BANDS = 8, 4, 3
"""Side, number and bands of the random images that stacks are shown."""
OUTPUT = "mean square of the output"
LABELS = "cross-entropy with random labels"
TASK = "measuring gradients"


def gradients(
    config: GradientsConfig,
    *,
    source: Path | None = None,
    base: TrainConfig | None = None,
    output: Path,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Finding:
    """Measure the gradient of every layer, and the updates that a learning rate makes of it.

    Without a source, of stacks of convolutions on random images. With a data folder, of U-Nets
    planned for it, trained a little. With a run folder, of its network, fresh and trained, with
    its skips as they are and zeroed.

    Args:
        config: What is compared. For U-Nets, blocks, shortcuts, norms and inits that are not set
            explicitly are those of `base`.
        source: A run folder or a data folder.
        base: Settings of the U-Nets, the optimizer and the machine. A run is shown the images it
            was trained on, or those of `base.data` where these are set.
        output: Folder for gradients.csv, gradients.json and the plots.
        seed: Seed of weights, images and order.
        progress: Hears what is done.

    Raises:
        ConfigError: a network cannot be built as asked.
        DataError: the data folder cannot be used.
        BundleError: the run folder has no usable model, or its data are gone.
    """
    base = _seeded(base or TrainConfig(), seed)
    machine = start(base.runtime)
    if source is None:
        rows = of_stacks(config, base, machine, progress)
        words, figures = stack_words(rows, config.lr), stack_figures(rows)
    elif any((source / name).is_file() for name in ("plan.json", "model.json")):
        rows = of_run(config, source, base, machine, progress)
        words, figures = run_words(rows, config.lr), unet_figures(rows)
    else:
        rows = of_unets(config, source, base, machine, progress)
        words, figures = unet_words(rows, config.lr), unet_figures(rows)
    settings = config.model_dump(mode="json") | {"seed": seed}
    finding = Finding(output, rows, *words)
    return publish(output, "gradients", finding, figures, settings=settings, source=source)


# ---------------------------------------------------------------- stacks


@dataclass(frozen=True)
class Toy:
    """What stacks are shown: random images, and labels that have nothing to do with them."""

    images: Tensor
    """4×3×8×8, mean 0 and deviation 1."""
    labels: Tensor
    """4 numbers of 0–15."""

    def output_loss(self, stack: Stack, step: int) -> Tensor:
        """Mean square of the output: its gradient shrinks on the way in and on the way back."""
        output: Tensor = stack(self.images)
        return output.square().mean()

    def label_loss(self, stack: Stack, step: int) -> Tensor:
        """Cross-entropy of the output's mean over all pixels, taken as the logits of 16 classes."""
        return functional.cross_entropy(stack(self.images).mean((2, 3)), self.labels)


def of_stacks(
    config: GradientsConfig, base: TrainConfig, machine: Machine, progress: Progress = SILENT
) -> list[Row]:
    """Rows of stacks of every block × shortcut × norm × init × depth, on random images.

    Each is measured at the start with `Toy.output_loss`, then along a training for random labels.

    Raises:
        ConfigError: a depth is not whole blocks.
    """
    for block in config.blocks:
        check_depths(config.depths, block)
    toy = _draw_toy(base.runtime.seed, machine.device)
    variants = _variants(config, base.network)
    rows: list[Row] = []
    progress.start(TASK, len(variants) * len(config.depths))
    for network, depth in product(variants, config.depths):
        torch.manual_seed(base.runtime.seed)
        stack = build_stack(network, depth, BANDS).to(machine.device)
        blocks = [(f"block {number}", block) for number, block in enumerate(stack.blocks, 1)]
        stages = [("first", stack.first), *blocks, ("last", stack.last)]
        columns = {**_columns(network), "depth": depth}
        case = Case(columns, stack, stages, partial(toy.output_loss, stack), OUTPUT)
        rows += measure(case, config.lr)
        case = replace(case, loss=partial(toy.label_loss, stack), objective=LABELS)
        rows += follow(case, config.lr, config.steps, base.training)
        progress.advance(TASK, network=columns["network"], depth=depth)
    progress.finish(TASK)
    return rows


def _draw_toy(seed: int, device: torch.device) -> Toy:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(IMAGES, BANDS, PIXELS, PIXELS, generator=generator)
    labels = torch.randint(WIDTH, (IMAGES,), generator=generator)
    return Toy(images.to(device), labels.to(device))


# ---------------------------------------------------------------- U-Nets


@dataclass(frozen=True)
class Lesson:
    """What U-Nets are shown: crops of real images, the same ones for every network."""

    info: BundleInfo
    batches: Sequence[Sample]
    criterion: SegmentationLoss
    device: torch.device

    def loss(self, segmenter: Segmenter, edit: Edit, step: int) -> Tensor:
        """The loss of the training at full resolution."""
        image, mask, statistics = (part.to(self.device) for part in self.batches[step])
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
    """
    known = survey(data, base.data, progress)
    plan = make_plan(known, base, machine)
    lesson = _read_lesson(known, plan, base, machine.device, config.steps + 1)
    variants = [
        network.model_copy(update={"skip": (skip,)})
        for network, skip in product(_variants(config, plan.network, explicit=True), config.skips)
    ]
    rows: list[Row] = []
    progress.start(TASK, len(variants))
    for network in variants:
        torch.manual_seed(base.runtime.seed)
        segmenter = build_segmenter(lesson.info.model_copy(update={"network": network}))
        case = lesson.case(_columns(network, unet=True), to_machine(segmenter, machine))
        rows += follow(case, config.lr, config.steps, base.training)
        progress.advance(TASK, network=case.labels["network"])
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

    Raises:
        BundleError: the run has no usable model, or its data are gone.
        DataError: the data cannot be used.
    """
    trained, info = load_bundle(run)
    torch.manual_seed(base.runtime.seed)
    fresh = build_segmenter(info)
    known = _survey_of(run_folder(run), base.data, progress)
    plan = _plan_of(run_folder(run))
    known = replace(known, class_map=info.class_map)
    lesson = _read_lesson(known, plan, base, machine.device, 1)
    networks = {"fresh": fresh, "trained": trained}
    edits: dict[str, Edit] = {"skips as they are": unchanged, "skips zeroed": zeroed}
    rows: list[Row] = []
    progress.start(TASK, len(networks) * len(edits))
    for (state, segmenter), (skips, edit) in product(networks.items(), edits.items()):
        columns = {"network": f"{state}, {skips}", "weights": state, "skips": skips}
        columns |= {"norm": info.network.norm, "init": info.network.init}
        rows += measure(lesson.case(columns, to_machine(segmenter, machine), edit), config.lr)
        progress.advance(TASK, network=columns["network"])
    progress.finish(TASK)
    return rows


def zeroed(skips: list[Tensor]) -> list[Tensor]:
    """Zeros instead of every skip."""
    return [torch.zeros_like(skip) for skip in skips]


def _read_lesson(
    known: Survey, plan: Plan, base: TrainConfig, device: torch.device, steps: int
) -> Lesson:
    """As many batches of crops as there are steps, drawn as in a training."""
    reader = read_split(known, "train", plan.bands)
    crops = Crops(reader, crop_rule(plan), known.statistics("train"))
    order = Order([1] * len(reader), plan.batch, base.runtime.seed)
    batches = [Sample(*batch) for batch in islice(crop_loader(crops, order, workers=0), steps)]
    info = bundle_info(plan, known, data_hash="")
    foreground = known.class_map.foreground
    criterion = SegmentationLoss(base.training.loss, plan.class_weights, foreground)
    return Lesson(info, batches, criterion, device)


def _plan_of(run: Path) -> Plan:
    try:
        return Plan.model_validate_json((run / "plan.json").read_bytes())
    except (OSError, ValueError) as error:
        mend = "Give the folder that `unetseg train` wrote."
        raise BundleError(
            f"{run} has no plan of this version (plan.json)", [error], mend
        ) from error


def _survey_of(run: Path, asked: DataConfig, progress: Progress) -> Survey:
    """What a run was trained on, in its splits; or other images where they are asked for."""
    try:
        folder = Path(json.loads((run / "env.json").read_bytes())["data"])
        settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) or {}
        own = DataConfig.model_validate(
            {name: value for name, value in settings.items() if name in DataConfig.model_fields}
        )
    except (OSError, ValueError, KeyError, yaml.YAMLError) as error:
        summary = f"{run} does not say what it was trained on"
        raise BundleError(summary, [error], "Train again, or give a data folder.") from error
    if asked != DataConfig():
        return survey(folder, asked, progress)
    if not folder.exists():
        summary = f"{folder}, which {run} was trained on, is not there"
        raise BundleError(summary, mend="Give other pairs with --images and --masks.")
    return with_splits(survey(folder, own, progress), read_splits(run / "splits.json", "name"))


def _seeded(base: TrainConfig, seed: int) -> TrainConfig:
    runtime = base.runtime.model_copy(update={"seed": seed})
    return base.model_copy(update={"runtime": runtime})


# ---------------------------------------------------------------- what is compared


def kinds(
    blocks: Sequence[BlockKind], shortcuts: Sequence[ShortcutKind]
) -> list[tuple[BlockKind, ShortcutKind]]:
    """Every block with every shortcut it can have; only residual blocks have a choice.

    >>> kinds(["plain", "residual"], ["zero_pad", "rezero"])
    [('plain', 'identity'), ('residual', 'zero_pad'), ('residual', 'rezero')]
    """
    return [
        (block, shortcut)
        for block in blocks
        for shortcut in (shortcuts if block == "residual" else ("identity",))
    ]


def _variants(
    config: GradientsConfig, base: NetworkConfig, *, explicit: bool = False
) -> list[NetworkConfig]:
    """`base` with every norm × init × block and shortcut of `config`.

    With `explicit`, only of those that were set: the product of all defaults would be days of
    training for U-Nets.
    """
    set_ones = config.model_fields_set if explicit else set(GradientsConfig.model_fields)
    norms = config.norms if "norms" in set_ones else (base.norm,)
    inits = config.inits if "inits" in set_ones else (base.init,)
    pairs = [(base.block, base.shortcut)]
    if set_ones & {"blocks", "shortcuts"}:
        pairs = kinds(config.blocks, config.shortcuts)
    return [
        base.model_copy(update={"norm": norm, "init": init, "block": block, "shortcut": shortcut})
        for norm, init, (block, shortcut) in product(norms, inits, pairs)
    ]


def _columns(network: NetworkConfig, *, unet: bool = False) -> Row:
    """The columns that tell networks apart."""
    shortcut = network.shortcut if network.block == "residual" else ""
    name = f"{network.block}, {shortcut}" if shortcut else network.block
    columns: Row = {
        "block": network.block,
        "shortcut": shortcut,
        "norm": network.norm,
        "init": network.init,
    }
    if not unet:
        return {"network": name, **columns}
    skip = ", ".join(network.skip)
    return {"network": f"{'no' if skip == 'none' else skip} skips, {name}", "skip": skip, **columns}
