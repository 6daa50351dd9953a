"""Which networks are compared; the gradient of their layers, at the start and in training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product

import torch
from torch import Tensor, nn

from unetseg.config import (
    BlockKind,
    GradientsConfig,
    NetworkConfig,
    ShortcutKind,
    TrainingConfig,
)
from unetseg.progress import SILENT, Progress
from unetseg.skiplab.finding import Row
from unetseg.skiplab.updates import measure_update
from unetseg.training.optimizer import build_optimizer
from unetseg.unet.blocks import ResidualBlock
from unetseg.unet.model import UNet
from unetseg.unet.pretrained import PretrainedEncoder

TASK = "measuring gradients"
Stages = Sequence[tuple[str, nn.Module]]
"""The parts of a network in the order of the forward pass, with their names."""


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


def vary(
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


def tell_apart(network: NetworkConfig, *, unet: bool = False) -> Row:
    """The columns that tell networks apart."""
    shortcut = network.shortcut if network.block == "residual" else ""
    name = f"{network.block}, {shortcut}" if shortcut else network.block
    settings: Row = {
        "block": network.block,
        "shortcut": shortcut,
        "norm": network.norm,
        "init": network.init,
    }
    if not unet:
        return {"network": name, **settings}
    skip = ", ".join(network.skip)
    return {
        "network": f"{'no' if skip == 'none' else skip} skips, {name}",
        "skip": skip,
        **settings,
    }


# ---------------------------------------------------------------- what is measured


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
        update = asdict(measure_update(layer.weight, gradient, lr))
        place = {
            "layer": layer.number,
            "stage": layer.stage,
            "name": layer.name,
            "part": "factor" if layer.is_factor else "weights",
        }
        rows.append({**case.labels, **moment, **place, **{k: _short(update[k]) for k in update}})
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


def _take_gradients(loss: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradient with respect to each weight; 0 where it plays no part."""
    return torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)


def _short(value: float) -> float:
    """Six significant digits: a table of thousands of rows stays small."""
    return float(f"{value:.6g}")
