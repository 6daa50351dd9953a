"""What floating-point arithmetic leaves of a step: w − lr·g, and the weights it cannot move."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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


@dataclass(frozen=True)
class Update:
    """What one step of plain gradient descent, lr·g, would do to the weights of one layer."""

    gradient: float
    """Euclidean norm of the gradient; inf where an entry is not a finite number."""
    smallest: float
    """The smallest lr·|g| / |w| of the weights that are not 0; nan where all are."""
    median: float
    """Their median."""
    stuck_float32: float
    """Share of the weights that do not move in float32, 0–1."""
    stuck_bf16: float
    """Share of the weights that do not move in bfloat16, 0–1."""


@torch.no_grad()
def measure_update(weight: Tensor, gradient: Tensor, lr: float) -> Update:
    """The size of a gradient, and of the step it makes, beside the weights of its layer.

    Norm and ratios are float64: a float32 sum of squares would take 1e-23 for 0.
    """
    if not torch.isfinite(gradient).all():
        return Update(math.inf, math.inf, math.inf, 0.0, 0.0)
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
    return Update(wide.norm().item(), smallest, median, *shares)
