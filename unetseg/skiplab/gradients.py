"""How the gradient fares on its way to the first layer: vanishing, exploding, or carried."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional

from unetseg.bundle import BundleInfo, build_segmenter, load_bundle
from unetseg.config import (
    BlockKind,
    DataConfig,
    GradientsConfig,
    NetworkConfig,
    TrainConfig,
    TrainingConfig,
)
from unetseg.data.crops.cache import read_split
from unetseg.data.crops.dataset import Crops, Order, Sample, crop_loader, find_gaps
from unetseg.data.facts.survey import Survey, survey, with_splits
from unetseg.data.pairs.splits import read_splits
from unetseg.errors import BundleError, ConfigError, DataError
from unetseg.evaluation.evaluate import run_folder
from unetseg.progress import SILENT, Progress
from unetseg.runtime import Machine, explained_memory, start
from unetseg.skiplab.gradient_figures import stack_figures, unet_figures
from unetseg.skiplab.gradient_flow import (
    ARRIVES,
    TASK,
    Case,
    at_start,
    first_layer_table,
    follow,
    measure,
    tell_apart,
    unet_stages,
    vary,
)
from unetseg.skiplab.result import Result, Row, publish
from unetseg.training.losses import SegmentationLoss
from unetseg.training.plan import Plan, bundle_info, crop_rule, make_plan
from unetseg.unet.blocks import DENSE_LAYERS, convolution
from unetseg.unet.build import NORMS, make_block
from unetseg.unet.initialisation import initialise
from unetseg.unet.model import Edit, unchanged
from unetseg.unet.segmenter import Segmenter, to_machine
from unetseg.unet.shortcuts import Gate

Group = TypeVar("Group", DataConfig, TrainingConfig)
PIXELS, IMAGES, BANDS = 8, 4, 3
"""Side, number and bands of the random images that stacks are shown."""
WIDTH = 16
"""Channels of a stack."""
LAYERS: dict[BlockKind, int] = {"plain": 2, "residual": 2, "dense": DENSE_LAYERS}
"""3×3 convolutions of one block."""
OUTPUT = "mean square of the output"
LABELS = "cross-entropy with random labels"
SMALLER = "Choose a smaller --width, or another --device."
PLACE = frozenset({"images", "masks", "pairs", "group", "group_column"})
"""Settings that belong to the place of the pairs: those of a run say nothing of another place."""
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
    facts = {"settings": settings, "source": source, "first_layer": first_layer}
    return publish(Result(output, rows, first_layer, CAPTION), "gradients", figures, **facts)


# ---------------------------------------------------------------- stacks


class Stack(nn.Module):
    """3×3 convolutions of 16 channels, one after the other, all at the image's resolution.

    Args:
        first: From the image to 16 channels.
        blocks: From 16 channels to 16 channels.
        last: The last convolution, with neither norm nor ReLU after it.
    """

    def __init__(self, first: nn.Module, blocks: Iterable[nn.Module], last: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.blocks = nn.Sequential(*blocks)
        self.last = last

    def forward(self, image: Tensor) -> Tensor:
        """Image N×bands×H×W → N×16×H×W, any number."""
        output: Tensor = self.last(self.blocks(self.first(image)))
        return output


def build_stack(config: NetworkConfig, depth: int) -> Stack:
    """A stack of `depth` 3×3 convolutions: one on the image, blocks as `config` says, a last one.

    All blocks keep the shape, so their shortcuts have no projection. Biases start at 0, torch's
    too: what reaches the last layer comes from the image, and not from the biases on the way.

    Args:
        config: Block, shortcut, norm and init, with their numbers.
        depth: 3×3 convolutions; 2 more than a multiple of those in a block.

    Raises:
        ConfigError: `depth` is not whole blocks and two convolutions.
    """
    check_depths([depth], config.block)
    make = make_block(config)
    count = (depth - 2) // LAYERS[config.block]
    first = nn.Sequential(*convolution(BANDS, WIDTH, NORMS[config.norm]), nn.ReLU(inplace=True))
    last = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
    stack = Stack(first, (make(WIDTH, WIDTH) for _ in range(count)), last)
    initialise(stack, config.init)
    for module in stack.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None and type(module) is not Gate:
            nn.init.zeros_(module.bias)
    return stack


def check_depths(depths: Sequence[int], block: BlockKind) -> None:
    """Refuse depths that a stack of such blocks cannot have.

    Raises:
        ConfigError: some are not whole blocks and two convolutions; all are listed.
    """
    layers = LAYERS[block]
    wrong = [depth for depth in depths if depth < 2 or (depth - 2) % layers]
    if wrong:
        nearest = {depth: 2 + layers * max(1, round((depth - 2) / layers)) for depth in wrong}
        possible = dict.fromkeys(nearest.get(depth, depth) for depth in depths)
        summary = f"a stack of {block} blocks has 2 + {layers}·n convolutions"
        fix = f"Use --depths {','.join(map(str, possible))}."
        raise ConfigError(summary, [f"depth {depth}" for depth in wrong], fix)


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
    generator = torch.Generator().manual_seed(base.runtime.seed)
    images = torch.randn(IMAGES, BANDS, PIXELS, PIXELS, generator=generator)
    labels = torch.randint(WIDTH, (IMAGES,), generator=generator)
    toy = Toy(images.to(machine.device), labels.to(machine.device))
    variants = vary(config, base.network)
    rows: list[Row] = []
    progress.start(TASK, len(variants) * len(config.depths) * (config.steps + 1))
    for network, depth in product(variants, config.depths):
        torch.manual_seed(base.runtime.seed)
        stack = build_stack(network, depth).to(machine.device)
        blocks = [(f"block {number}", block) for number, block in enumerate(stack.blocks, 1)]
        stages = [("first", stack.first), *blocks, ("last", stack.last)]
        columns = {**tell_apart(network), "depth": depth}
        case = Case(columns, stack, stages, partial(toy.output_loss, stack), OUTPUT)
        rows += measure(case, config.lr)
        case = replace(case, loss=partial(toy.label_loss, stack), objective=LABELS)
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
        plan = Plan.model_validate_json((run / "plan.json").read_bytes())
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
