"""Which networks are compared; the gradient of their layers, and what a step makes of it.

What floating-point arithmetic leaves of a step: w − lr·g is w itself where the step is below half a
unit in the last place, and such weights are stuck.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from unetseg.config import (
    GradientsConfig,
    NetworkConfig,
    ShortcutKind,
    TrainingConfig,
)
from unetseg.progress import SILENT, Progress
from unetseg.skiplab.result import Row
from unetseg.training.optimizer import build_optimizer
from unetseg.unet.blocks import ResidualBlock
from unetseg.unet.model import UNet
from unetseg.unet.pretrained import PretrainedEncoder

TASK = "measuring gradients"
ARRIVES = 1e-3, 1e3
"""Norms of a first layer's gradient that has neither vanished nor exploded."""
Stages = Sequence[tuple[str, nn.Module]]
"""The parts of a network in the order of the forward pass, with their names."""


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

    @property
    def is_factor(self) -> bool:
        """Whether this is a learned α or switch, and no convolution."""
        return self.weight.ndim == 0


def find_layers(stages: Stages) -> list[Layer]:
    """The weights of all convolutions in the order of the forward pass, and learned factors."""
    layers: list[Layer] = []
    number = 0
    for stage, part in stages:
        for name, weight in _in_order(part):
            if weight.ndim in {0, 4}:
                layers.append(Layer(number, stage, name, weight))
                number += weight.ndim == 4
    return layers


def _in_order(part: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters in the order of the forward pass.

    That is the order in which modules register them, except in residual blocks: these have their
    shortcut before their branch, but what a shortcut learns comes last, where both are joined.
    """
    named = list(part.named_parameters())
    keys = {weight: (place, False) for place, (_, weight) in enumerate(named)}
    for block in part.modules():
        if isinstance(block, ResidualBlock):
            place = min(keys[weight] for weight in block.parameters())[0]
            keys |= dict.fromkeys(block.parameters(), (place, False))
            keys |= dict.fromkeys(block.shortcut.parameters(), (place, True))
    return sorted(named, key=lambda entry: keys[entry[1]])


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
        part = {"part": "factor" if layer.is_factor else "weights"}
        update = measure_update(layer.weight, gradient, lr)
        numbers = {name: _short(value) for name, value in update.items()}
        rows.append({**case.labels, **moment, **place, **part, **numbers})
    return rows


def follow(
    case: Case, lr: float, steps: int, config: TrainingConfig, progress: Progress = SILENT
) -> list[Row]:
    """The rows of `measure` at `chosen_steps` of a training with a constant learning rate.

    The optimizer is the one of `unetseg train`, gradients are clipped as there, and a step whose
    gradient is no number is not taken. Progress in `TASK` is `steps` + 1.
    """
    facts = {name: case.labels[name] for name in ("network", "depth") if name in case.labels}
    parameters = [p for p in case.network.parameters() if p.requires_grad]
    optimizer = build_optimizer(case.network, lr, config)
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


def _take_gradients(loss: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradient with respect to each weight; 0 where it plays no part."""
    return torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)


def _short(value: float) -> float:
    """Six significant digits: a table of thousands of rows stays small."""
    return float(f"{value:.6g}")
