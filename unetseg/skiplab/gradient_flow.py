"""The gradient of every layer of a U-Net or a stack, and what a step makes of it.

What floating-point arithmetic leaves of a step: w − lr·g is w itself where the step is below half a
unit in the last place, and such weights are stuck.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional

from unetseg.config import (
    BlockKind,
    GradientsConfig,
    NetworkConfig,
    ShortcutKind,
    TrainConfig,
    TrainingConfig,
)
from unetseg.errors import ConfigError
from unetseg.progress import SILENT, Progress
from unetseg.runtime import Machine
from unetseg.skiplab.look import Row
from unetseg.training.optimizer import build_optimizer
from unetseg.unet.blocks import DENSE_LAYERS, ResidualBlock, convolution
from unetseg.unet.build import NORMS, make_block
from unetseg.unet.initialisation import initialise
from unetseg.unet.model import UNet
from unetseg.unet.pretrained import PretrainedEncoder
from unetseg.unet.shortcuts import Gate

TASK = "measuring gradients"
BANDS, WIDTH = 3, 16
"""Channels of the images that a stack is shown, and of the stack."""
LAYERS: dict[BlockKind, int] = {"plain": 2, "residual": 2, "dense": DENSE_LAYERS}
"""3×3 convolutions of one block."""
PIXELS, IMAGES = 8, 4
"""Side and number of the random images that stacks are shown."""
OUTPUT = "mean square of the output"
LABELS = "cross-entropy with random labels"
Stages = Sequence[tuple[str, nn.Module]]
"""The parts of a network in the order of the forward pass, with their names."""


# ---------------------------------------------------------------- one layer


def stuck(weight: Tensor, gradient: Tensor, lr: float, dtype: torch.dtype) -> Tensor:
    """Which weights a step of gradient descent leaves as they are when all is held in `dtype`.

    A step below half a unit in the last place of w is rounded away: that unit is at most 2⁻²³ of w
    in float32, 2⁻¹⁰ in float16 and 2⁻⁷ in bfloat16. The gradient is rounded to `dtype` before, so
    that one too small for it counts as 0.

    Args:
        weight: Any shape.
        gradient: The same shape.
        lr: Learning rate.
        dtype: float32, bfloat16 or float16.

    Returns:
        Boolean, the shape of `weight`.

    >>> one, gradient = torch.ones(1), torch.full((1,), 1e-15)
    >>> stuck(one, gradient, 1e-4, torch.float32).item()  # 1 − 1e-19 is 1
    True
    >>> gradient.to(torch.float16).item()
    0.0
    """
    before = weight.to(dtype)
    step = lr * gradient.to(dtype)
    return before - step == before


@torch.no_grad()
def measure_update(weight: Tensor, gradient: Tensor, lr: float) -> dict[str, float]:
    """The size of a gradient, and of the step of plain gradient descent that it makes, lr·g.

    Norm and ratios are float64: a float32 sum of squares would take 1e-23 for 0.

    Returns:
        gradient: Its Euclidean norm; inf where an entry is not a finite number.
        smallest, median: Of lr·|g| / |w| over the weights that are not 0; nan where all are.
        stuck_float32, stuck_bf16: Share of the weights that do not move in that type, 0–1.
    """
    names = ("gradient", "smallest", "median", "stuck_float32", "stuck_bf16")
    if not torch.isfinite(gradient).all():
        return dict(zip(names, (math.inf, math.inf, math.inf, 0.0, 0.0), strict=True))
    wide = gradient.double()
    some = weight != 0
    ratios = lr * wide[some].abs() / weight[some].double().abs()
    smallest, median = math.nan, math.nan
    if len(ratios):
        smallest, median = ratios.min().item(), ratios.median().item()
    shares = [
        stuck(weight, gradient, lr, dtype).double().mean().item()
        for dtype in (torch.float32, torch.bfloat16)
    ]
    return dict(zip(names, (wide.norm().item(), smallest, median, *shares), strict=True))


# ---------------------------------------------------------------- all layers


@dataclass(frozen=True)
class Case:
    """A network that is looked at, and what it is trained for."""

    labels: Mapping[str, object]
    """What tells it from the others: the first columns of its rows."""
    network: nn.Module
    stages: Stages
    loss: Callable[[int], Tensor]
    """The loss at a training step."""
    objective: str
    """The name of the loss."""


@dataclass(frozen=True)
class Layer:
    """A weight whose gradient is measured."""

    number: int
    """0 for the first convolution; a learned factor has the number of the next one."""
    stage: str
    name: str
    weight: nn.Parameter


def find_layers(stages: Stages) -> list[Layer]:
    """The weights of all convolutions in the order of the forward pass, and learned factors.

    That is the order in which modules register them, except in residual blocks: these have their
    shortcut before their branch, but what a shortcut learns comes last, where both are joined.
    """
    layers: list[Layer] = []
    number = 0
    for stage, part in stages:
        named = list(part.named_parameters())
        keys = {weight: (place, False) for place, (_, weight) in enumerate(named)}
        for block in (block for block in part.modules() if isinstance(block, ResidualBlock)):
            place = min(keys[weight] for weight in block.parameters())[0]
            keys |= dict.fromkeys(block.parameters(), (place, False))
            keys |= dict.fromkeys(block.shortcut.parameters(), (place, True))
        for name, weight in sorted(named, key=lambda entry: keys[entry[1]]):
            if weight.ndim in {0, 4}:
                layers.append(Layer(number, stage, name, weight))
                number += weight.ndim == 4
    return layers


def unet_stages(network: UNet) -> list[tuple[str, nn.Module]]:
    """Encoder from the top, bottom, nested nodes, decoder from the bottom, head."""
    encoder = network.encoder
    if isinstance(encoder, PretrainedEncoder):
        down: list[tuple[str, nn.Module]] = [("encoder", encoder)]
    else:
        *levels, bottom = encoder.levels
        down = [(f"encoder {level}", part) for level, part in enumerate(levels)]
        down.append(("bottom", bottom))
    steps = [(f"decoder {level}", step) for level, step in enumerate(network.decoder.steps)]
    up = [("nested", network.decoder.pathway), *reversed(steps), ("head", network.head)]
    return [(name, part) for name, part in [*down, *up] if any(True for _ in part.parameters())]


def measure(case: Case, lr: float, step: int = 0) -> list[Row]:
    """One row per layer: its gradient, and the update that a learning rate makes of it.

    Args:
        case: The network; it is left as it is, batch norm's running statistics aside.
        lr: Learning rate of the update.
        step: Training step whose loss is taken.
    """
    layers = find_layers(case.stages)
    loss = case.loss(step)
    gradients = _take_gradients(loss, [layer.weight for layer in layers])
    moment = {"objective": case.objective, "step": step, "loss": _short(loss.item())}
    rows: list[Row] = []
    for layer, gradient in zip(layers, gradients, strict=True):
        place = {"layer": layer.number, "stage": layer.stage, "name": layer.name}
        part = {"part": "weights" if layer.weight.ndim else "factor"}  # α, or a switch
        update = measure_update(layer.weight, gradient, lr)
        numbers = {name: _short(value) for name, value in update.items()}
        rows.append({**case.labels, **moment, **place, **part, **numbers})
    return rows


def follow(
    case: Case, lr: float, steps: int, config: TrainingConfig, progress: Progress = SILENT
) -> list[Row]:
    """The rows of `measure` at `chosen_steps` of a training with a constant learning rate.

    The optimizer is AdamW unless `config` names another. Gradients are clipped as in training, and
    a step whose gradient is no number is not taken. Progress in `TASK` is `steps` + 1.
    """
    facts = {name: case.labels[name] for name in ("network", "depth") if name in case.labels}
    parameters = [p for p in case.network.parameters() if p.requires_grad]
    kind = "adamw" if config.optimizer == "auto" else config.optimizer
    optimizer = build_optimizer(case.network, kind, lr, config.weight_decay)
    rows: list[Row] = []
    for step in range(steps + 1):
        if step in chosen_steps(steps):
            rows += measure(case, lr, step)
        if step < steps:
            gradients = _take_gradients(case.loss(step), parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            if torch.isfinite(nn.utils.clip_grad_norm_(parameters, config.clip)):
                optimizer.step()
        progress.advance(TASK, 1, **facts)
    return rows


def chosen_steps(steps: int) -> tuple[int, ...]:
    """Steps at which gradients are measured: the first, one after a fifth, and the last.

    >>> chosen_steps(50), chosen_steps(0)
    ((0, 10, 50), (0,))
    """
    return tuple(sorted({0, steps // 5, steps}))


def _take_gradients(loss: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradient with respect to each weight; 0 where it plays no part."""
    return torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)


def _short(value: float) -> float:
    """Six significant digits: a table of thousands of rows stays small."""
    return float(f"{value:.6g}")


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
