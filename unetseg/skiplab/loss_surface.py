"""The loss of a trained U-Net on its images: its value, its surface, and how sharply it bends."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from unetseg.data.masks.class_map import IGNORED
from unetseg.errors import DataError
from unetseg.progress import SILENT, Progress
from unetseg.skiplab.look import Subject, View
from unetseg.training.losses import SegmentationLoss

PIXELS_AT_ONCE = 2**18
"""Pixels that go through the network together, more only where one image has more."""
TOLERANCE = 1e-3
"""Relative change of the eigenvalue from step to step below which the power iteration ends."""
DOUBLED = 2.0
"""Times the loss of the trained weights at which a valley ends."""
Parts = Callable[[nn.Module], Iterable[Tensor]]
"""Gives the scalars whose sum is a module's loss, one by one: memory holds the graph of one."""
Direction = Mapping[str, Tensor]
"""A step for each parameter of a module, by its name."""
Floats = NDArray[np.float64]


# ------------------------------------------------------------------ the loss on the images


@dataclass(frozen=True)
class Batch:
    """Images of one size."""

    image: Tensor
    """N×C×H×W float32, raw pixel values."""
    statistics: Tensor
    """N×2×C mean and deviation of the whole images."""
    truth: Tensor
    """N×H×W uint8 class indexes; 255 is ignored."""
    shares: tuple[float, ...]
    """N shares of the counted pixels of all batches; over all batches they sum to 1."""


@dataclass(frozen=True)
class ImagesLoss:
    """The mean over all counted pixels of the loss of the training, image by image.

        loss = Σ_i n_i · dice_ce(image i) / Σ_i n_i,  n_i = pixels of image i that are not ignored

    The Dice part is that of each image, so that the sum does not depend on how images are batched.
    """

    batches: tuple[Batch, ...]
    loss: SegmentationLoss

    def parts(self, segmenter: nn.Module) -> Iterator[Tensor]:
        """The share of each batch in the loss, scalars."""
        for batch in self.batches:
            logits = segmenter(batch.image, batch.statistics)  # N, K, H, W
            losses = [
                share * self.loss(logits[i : i + 1], batch.truth[i : i + 1])
                for i, share in enumerate(batch.shares)
            ]
            yield torch.stack(losses).sum()

    @torch.no_grad()
    def __call__(self, segmenter: nn.Module) -> float:
        """The loss; not finite where the network's outputs are not."""
        return float(sum(part.item() for part in self.parts(segmenter)))


def images_loss(subject: Subject) -> ImagesLoss:
    """The loss of `subject` on its views: soft Dice + cross-entropy, without class weights.

    Raises:
        DataError: every pixel of every view is ignored.
    """
    total = sum(_counted(view) for view in subject.views)
    if not total:
        raise DataError("every pixel of these images is ignored: there is no loss to look at")
    groups: dict[tuple[int, ...], list[View]] = {}
    for view in subject.views:
        groups.setdefault(view.truth.shape, []).append(view)
    device = subject.machine.device
    batches = []
    for group in groups.values():  # as few and as even batches as `PIXELS_AT_ONCE` allows
        at_once = max(1, PIXELS_AT_ONCE // group[0].truth.size)
        for part in np.array_split(np.arange(len(group)), math.ceil(len(group) / at_once)):
            views = [group[index] for index in part]
            image = torch.cat([view.tensor for view in views]).to(device)
            batches.append(
                Batch(
                    image.contiguous(memory_format=torch.channels_last),
                    torch.cat([view.statistics for view in views]).to(device),
                    torch.from_numpy(np.stack([view.truth for view in views])).to(device),
                    tuple(_counted(view) / total for view in views),
                )
            )
    loss = SegmentationLoss("dice_ce", foreground=subject.info.class_map.foreground)
    return ImagesLoss(tuple(batches), loss)


def recompute_statistics(segmenter: nn.Module, batches: Sequence[Batch]) -> None:
    """Take the running statistics of every batch norm anew, in one pass over `batches`.

    Only the batch norms are in training mode for that pass; each ends in evaluation mode, with the
    plain mean of its batches' statistics.
    """
    norms = [m for m in segmenter.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean instead of a running one
        norm.train()
    with torch.no_grad():
        for batch in batches if norms else ():
            segmenter(batch.image, batch.statistics)
    for norm in norms:
        norm.eval()


def _counted(view: View) -> int:
    return int((view.truth != IGNORED).sum())


# ------------------------------------------------------------------ its sharpness


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
    sharpness = Sharpness(math.nan, 0, converged=False)
    progress.start(task, iterations)
    for step in range(1, iterations + 1):
        product = hessian_product(parts(module), parameters, vector)
        eigenvalue, length = _dot(vector, product), math.sqrt(_dot(product, product))
        change = abs(eigenvalue - sharpness.eigenvalue)
        settled = not length or change <= TOLERANCE * abs(eigenvalue)
        sharpness = Sharpness(eigenvalue, step, settled)
        progress.advance(task, eigenvalue=eigenvalue)
        if settled or not math.isfinite(length):
            break
        vector = _unit(product)
    progress.finish(task)
    return sharpness


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


# ------------------------------------------------------------------ its surface


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
            within = [dimension for dimension in range(weights.ndim) if dimension != outputs]
            lengths = [
                torch.linalg.vector_norm(each.detach(), dim=within, keepdim=True)
                for each in (weights, draw)
            ]
            share = lengths[0] / lengths[1] if weights.ndim > 1 else torch.zeros(())
            direction[name] = draw.mul(share.to(draw))
    return direction


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
    moved, origin = deepcopy(module), dict(module.named_parameters())
    losses = np.empty((len(axis), len(axis)))
    progress.start(task, losses.size)
    for (row, column), _ in np.ndenumerate(losses):
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                parameter.copy_(origin[name])
                for direction, step in zip(directions, axis[[column, row]].tolist(), strict=True):
                    parameter.add_(direction[name], alpha=step)
        losses[row, column] = loss(moved)
        progress.advance(task, loss=losses[row, column])
    progress.finish(task)
    return losses


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

    @property
    def doubling_radius(self) -> float:
        """Distance from the trained weights within which the loss is below twice theirs."""
        return valley_radius(self.axis, self.losses, DOUBLED * self.centre)

    def rows(self) -> list[dict[str, Any]]:
        """The points of the grid."""
        steps = self.axis.tolist()
        return [
            {"network": self.name, "a": steps[column], "b": steps[row], "loss": float(loss)}
            for (row, column), loss in np.ndenumerate(self.losses)
        ]

    def facts(self) -> dict[str, Any]:
        """What belongs to the JSON."""
        names = "centre as_trained lowest highest off_scale doubling_radius"
        return {
            "network": self.name,
            **{name: getattr(self, name) for name in names.split()},
            "local_minima": count_minima(self.losses),
            "sharpness": self.sharpness and asdict(self.sharpness),
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
