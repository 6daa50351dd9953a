"""The loss of a trained U-Net along two directions of its weights, and what is seen on it."""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from unetseg.progress import SILENT, Progress
from unetseg.skiplab.sharpness import Sharpness

Direction = Mapping[str, Tensor]
"""A step for each parameter of a module, by its name."""
Floats = NDArray[np.float64]

DOUBLED = 2.0
"""Times the loss of the trained weights at which a valley ends."""


def random_direction(module: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """A random step for each parameter, each filter as long as the same filter of the weights.

        d_ij ← d_ij / |d_ij| · |θ_ij|,  d ~ N(0, 1)

    A filter is all that makes one output: `weight[i]` of a convolution or a linear layer, and
    `weight[:, i]` of a transposed convolution, whose weights are inputs × outputs × k × k.
    Parameters of less than two dimensions have the step 0.

    Source: Li et al. 2018 (1712.09913), section 4.
    """
    direction = {}
    for prefix, layer in module.named_modules():
        outputs = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        for name, weights in layer.named_parameters(prefix, recurse=False):
            draw = torch.randn(weights.shape, generator=generator).to(weights)
            direction[name] = _filter_normalised(draw, weights.detach(), outputs)
    return direction


def _filter_normalised(draw: Tensor, weights: Tensor, outputs: int) -> Tensor:
    """`draw` with every slice along dimension `outputs` as long as that of `weights`."""
    if weights.ndim < 2:
        return torch.zeros_like(weights)
    within = [dimension for dimension in range(weights.ndim) if dimension != outputs]
    length = torch.linalg.vector_norm(weights, dim=within, keepdim=True)
    drawn = torch.linalg.vector_norm(draw, dim=within, keepdim=True)
    return draw.mul(length / drawn)


def loss_surface(
    module: nn.Module,
    loss: Callable[[nn.Module], float],
    directions: Sequence[Direction],
    axis: Floats,
    *,
    task: str = "surface",
    progress: Progress = SILENT,
) -> Floats:
    """loss(weights + a·first + b·second) for all a and b of `axis`: rows are b, columns are a.

    `module` is not changed: a copy of it is moved, and handed to `loss`.

    Args:
        module: Its weights are the middle.
        loss: The loss of a module, a number that need not be finite; it may change its buffers.
        directions: Two.
        axis: Steps along each direction.
        task: What `progress` is told.
        progress: Told about every point.
    """
    moved = deepcopy(module)
    losses = np.empty((len(axis), len(axis)))
    progress.start(task, losses.size)
    for (row, column), _ in np.ndenumerate(losses):
        _move(moved, module, directions, axis[[column, row]].tolist())
        losses[row, column] = loss(moved)
        progress.advance(task, loss=losses[row, column])
    progress.finish(task)
    return losses


@torch.no_grad()
def _move(
    moved: nn.Module, module: nn.Module, directions: Sequence[Direction], steps: Sequence[float]
) -> None:
    """Set the parameters of `moved` to those of `module` + Σ step · direction."""
    origin = dict(module.named_parameters())
    for name, parameter in moved.named_parameters():
        parameter.copy_(origin[name])
        for direction, step in zip(directions, steps, strict=True):
            parameter.add_(direction[name], alpha=step)


@dataclass(frozen=True)
class Surface:
    """The loss of one network on a grid around its weights."""

    name: str
    axis: Floats
    """Steps along each direction, relative to the length of each filter, ascending."""
    losses: Floats
    """One row per step along the second direction, one column per step along the first."""
    centre: float
    """The loss of the trained weights, in the middle of the surface."""
    as_trained: float
    """The loss of the network as it is used: with the statistics of the training."""
    sharpness: Sharpness | None
    """None where it was not asked for."""

    @property
    def off_scale(self) -> int:
        """Points whose loss is not a finite number."""
        return int((~np.isfinite(self.losses)).sum())

    @property
    def lowest(self) -> float:
        """The least finite loss, that of the trained weights included."""
        return float(np.min(self.losses, where=np.isfinite(self.losses), initial=self.centre))

    @property
    def highest(self) -> float:
        """The largest finite loss, that of the trained weights included."""
        return float(np.max(self.losses, where=np.isfinite(self.losses), initial=self.centre))

    def radius(self, level: float) -> float:
        """Distance from the trained weights within which the loss is below `level`."""
        return valley_radius(self.axis, self.losses, level)

    @property
    def doubling_radius(self) -> float:
        """The radius of twice the loss of the trained weights."""
        return self.radius(DOUBLED * self.centre)

    def is_flat_beside(self, other: "Surface") -> bool:
        """Whether it never doubles, unlike the other, and is all above the other's weights."""
        ends = [surface.doubling_radius < math.inf for surface in (self, other)]
        return ends == [False, True] and self.lowest > other.centre

    def facts(self) -> dict[str, Any]:
        """What belongs to the JSON."""
        bend = self.sharpness
        return {
            "network": self.name,
            "centre": self.centre,
            "as_trained": self.as_trained,
            "lowest": self.lowest,
            "highest": self.highest,
            "off_scale": self.off_scale,
            "doubling_radius": finite_or_none(self.doubling_radius),
            "local_minima": count_minima(self.losses),
            "sharpness": bend and asdict(bend) | {"eigenvalue": finite_or_none(bend.eigenvalue)},
        }


def valley_radius(axis: Floats, losses: Floats, level: float) -> float:
    """Distance from the middle to the nearest place where the loss is `level` or more.

    It is looked for along the lines of the grid, and placed between two points by linear
    interpolation; a point that is not finite lies above every level. Infinite where there is none.

    >>> axis = np.array([-1.0, 0.0, 1.0])
    >>> valley_radius(axis, axis**2 + axis[:, None] ** 2, 0.5)
    0.5
    """
    heights = np.where(np.isfinite(losses), losses, np.inf)
    distance = np.hypot(axis, axis[:, None])
    nearest = float(distance[heights >= level].min(initial=math.inf))
    for grid in (heights, heights.T):  # both directions have the same axis
        near, far = grid[:, :-1], grid[:, 1:]
        rows, columns = np.nonzero((near < level) != (far < level))
        inner = np.minimum(near, far)[rows, columns]
        outer = np.maximum(near, far)[rows, columns]
        share = (level - inner) / (outer - inner)  # of the way from the lower to the higher point
        share = np.where(near[rows, columns] < level, share, 1 - share)
        along = axis[columns] + share * (axis[columns + 1] - axis[columns])
        nearest = min(nearest, float(np.hypot(along, axis[rows]).min(initial=math.inf)))
    return nearest


def count_minima(losses: Floats) -> int:
    """Inner points of the grid that are lower than all their eight neighbours.

    Points of the border are not counted: what lies beyond is not known.

    >>> count_minima(np.array([[2.0, 2, 2, 2], [2, 1, 2, 2], [2, 2, 2, 0]]))
    1
    """
    heights = np.where(np.isfinite(losses), losses, np.inf)
    around = np.ones((3, 3), bool)
    around[1, 1] = False
    lower = heights < ndimage.minimum_filter(heights, footprint=around)
    return int(lower[1:-1, 1:-1].sum())


def finite_or_none(number: float) -> float | None:
    """JSON knows no number that is not finite."""
    return number if math.isfinite(number) else None
