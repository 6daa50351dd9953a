"""How sharply the loss bends around the weights: the largest eigenvalue of its Hessian."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unetseg.progress import SILENT, Progress

Parts = Callable[[nn.Module], Iterable[Tensor]]
"""Gives the scalars whose sum is a module's loss, one by one: memory holds the graph of one."""

TOLERANCE = 1e-3
"""Relative change of the eigenvalue from step to step below which the power iteration ends."""


@dataclass(frozen=True)
class Sharpness:
    """The eigenvalue of the loss's Hessian that is largest in size, as far as it was found.

    It depends on the scale of the weights: where a norm follows, weights ten times as large have
    the same loss and a hundredth of the sharpness (Dinh 2017, 1703.04933). Between networks that
    are built differently it says little without the surface beside it.
    """

    eigenvalue: float
    """Loss per squared length in the space of all weights; negative where the loss bends down."""
    steps: int
    """Steps of the power iteration."""
    converged: bool
    """Whether the last step changed it by less than a thousandth."""


def measure_sharpness(
    module: nn.Module,
    parts: Parts,
    *,
    iterations: int = 20,
    seed: int = 0,
    task: str = "sharpness",
    progress: Progress = SILENT,
) -> Sharpness:
    """The largest Hessian eigenvalue of Σ `parts(module)` by power iteration.

    Each step multiplies a vector by the Hessian, v ← Hv / |Hv|, and takes vᵀHv, whose size never
    exceeds that of the eigenvalue: stopped early, it is too small. Hessian-vector products are
    exact (Pearlmutter 1994), the gradient of vᵀ∇loss, over all parameters, in float32.

    Args:
        module: In evaluation mode: the loss is a function of its parameters alone. Not changed.
        parts: The scalars whose sum is the loss.
        iterations: Steps at most, at least 1.
        seed: Seed of the first vector.
        task: What `progress` is told.
        progress: Told about every step.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(seed)
    vector = _unit([torch.randn(p.shape, generator=generator).to(p) for p in parameters])
    found = Sharpness(math.nan, 0, converged=False)
    progress.start(task, iterations)
    for step in range(1, iterations + 1):
        product = hessian_product(parts(module), parameters, vector)
        eigenvalue, length = _dot(vector, product), math.sqrt(_dot(product, product))
        change = abs(eigenvalue - found.eigenvalue)
        settled = not length or change <= TOLERANCE * abs(eigenvalue)
        found = Sharpness(eigenvalue, step, settled)
        progress.advance(task, eigenvalue=eigenvalue)
        if settled or not math.isfinite(length):
            break
        vector = _unit(product)
    progress.finish(task)
    return found


def hessian_product(
    parts: Iterable[Tensor], parameters: Sequence[Tensor], vector: Sequence[Tensor]
) -> list[Tensor]:
    """The Hessian of Σ `parts` by `parameters` times `vector`, shaped as the parameters."""
    total = [torch.zeros_like(p) for p in parameters]
    for part in parts:
        gradients = torch.autograd.grad(
            part, parameters, create_graph=True, allow_unused=True, materialize_grads=True
        )
        slope = torch.stack([(g * v).sum() for g, v in zip(gradients, vector, strict=True)]).sum()
        products = torch.autograd.grad(slope, parameters, allow_unused=True, materialize_grads=True)
        for each, product in zip(total, products, strict=True):
            each += product
    return total


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    products = [(a.double() * b.double()).sum() for a, b in zip(left, right, strict=True)]
    return torch.stack(products).sum().item()


def _unit(vector: Sequence[Tensor]) -> list[Tensor]:
    length = math.sqrt(_dot(vector, vector))
    return [part / length for part in vector]
