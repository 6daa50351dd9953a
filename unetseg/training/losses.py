"""Losses: (logits, target) → scalar.

Everywhere, `logits` is N×K×H×W of any floating type, one channel per class, before the softmax, and
`target` is N×H×W uint8 or int64 class indexes, with 255 where a pixel is ignored. The arithmetic
is float32 whatever the type of the logits (float64 stays float64), under autocast too. No pixel is
counted whose target is 255, and its gradient is exactly zero.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unetseg.data.masks.class_map import IGNORED

SMOOTH = 1e-5
"""Pixels added above and below Dice's fraction bar (nnU-Net)."""
Total = Callable[[Tensor], Tensor]
"""Sums of one process → sums over the batch that all processes have together: `Group.total`."""


def as_it_is(sums: Tensor) -> Tensor:
    """The total where one process has the whole batch."""
    return sums


def _log_probability(logits: Tensor) -> Tensor:
    """Log-softmax over the classes in at least float32, N×K×H×W."""
    return logits.log_softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))


def _of_true_class(values: Tensor, target: Tensor) -> Tensor:
    """The entry of N×K×H×W `values` at each pixel's target class; 0 where ignored. N×H×W."""
    ignored = target == IGNORED
    index = target.long().masked_fill(ignored, 0).unsqueeze(1)
    return values.gather(1, index).squeeze(1).masked_fill(ignored, 0)


def _dice_loss(
    probability: Tensor,
    target: Tensor,
    foreground: Sequence[int] | None,
    total: Total = as_it_is,
) -> Tensor:
    """One minus the mean over classes of the soft Dice overlap of the whole batch.

        loss = 1 - 1/|C| · Σ_{k ∈ C} (2 Σ p_k g_k + smooth) / (Σ p_k + Σ g_k + smooth)

    p is the probability, g the truth (1 or 0) and smooth `SMOOTH`. The sums run over all counted
    pixels of the batch at once (nnU-Net's "batch Dice"), so that an image with little of a class
    weighs little. C holds the classes of `foreground` (None: all classes) that have a truth pixel
    in the batch: an absent class is left out of the mean, because its Dice would be 0 whatever the
    network says. Without any such class the loss and its gradient are 0.

    Args:
        probability: N×K×H×W, the softmax of the logits.
        target: N×H×W.
        foreground: Class indexes of the mean; None takes all.
        total: See `SegmentationLoss`.

    Returns:
        A scalar of 0–1.

    Source: Milletari et al. 2016 (V-Net, arXiv:1606.04797); Isensee et al. 2021 (nnU-Net, Nature
    Methods 18:203).

    >>> probability = torch.tensor([[[[1.0, 0.5]], [[0.0, 0.5]]]])  # sure of class 0; undecided
    >>> target = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    >>> round(_dice_loss(probability, target, None).item(), 4)  # 1 - (2·1/2.5 + 2·0.5/1.5) / 2
    0.2667
    """
    classes = range(probability.shape[1]) if foreground is None else foreground
    masks = [target == k for k in classes]
    hits = _of_true_class(probability, target)  # N, H, W
    overlap = torch.stack([(hits * mask).sum() for mask in masks])
    truth = torch.stack([mask.sum() for mask in masks])
    counted = (target != IGNORED).unsqueeze(1)  # N, 1, H, W
    sums = (probability * counted).sum((0, 2, 3))
    predicted = torch.stack([sums[k] for k in classes])  # a list as index would be copied over
    overlap, truth, predicted = total(torch.stack([overlap, truth, predicted]))
    dice = (2 * overlap + SMOOTH) / (truth + predicted + SMOOTH)
    present = truth > 0
    loss: Tensor = ((1 - dice) * present).sum() / present.sum().clamp(min=1)
    return loss


def _cross_entropy(
    log_probability: Tensor, target: Tensor, weights: Tensor | None, total: Total = as_it_is
) -> Tensor:
    """Mean surprise at the true class, over the counted pixels.

        loss = - Σ w[y] · log p_y / Σ w[y]

    p is the softmax of the logits, y the target class and w the class weights (1 without). An
    absent class adds nothing. When every pixel is ignored the loss and its gradient are 0, where
    `torch.nn.functional.cross_entropy` gives nan.

    Args:
        log_probability: N×K×H×W, the log-softmax of the logits.
        target: N×H×W.
        weights: K weights, 0 or more; only their ratios matter.
        total: See `SegmentationLoss`.

    Returns:
        A scalar ≥ 0 in nats.

    Source: Ronneberger et al. 2015 (U-Net, arXiv:1505.04597), equation 1, with w per class.

    >>> undecided = torch.full((1, 4, 2, 2), 0.25).log()  # four classes: ln 4
    >>> round(_cross_entropy(undecided, torch.zeros(1, 2, 2, dtype=torch.uint8), None).item(), 4)
    1.3863
    """
    surprise = -_of_true_class(log_probability, target)  # N, H, W
    counted = (target != IGNORED).to(surprise.dtype)
    if weights is not None:
        counted = counted * weights.to(surprise)[target.long().masked_fill(counted == 0, 0)]
        surprise = surprise * counted
    over, count = total(torch.stack([surprise.sum(), counted.sum()]))
    loss: Tensor = over / count.masked_fill(count == 0, 1)
    return loss


@dataclass(frozen=True)
class SegmentationLoss:
    """The loss that a training was set to: `loss(logits, target)` → scalar.

    Dice cares for small classes, and cross-entropy has a useful gradient everywhere, also for
    classes that are absent from the batch; their sum is nnU-Net's. What they say of absent classes
    stands in `_dice_loss` and `_cross_entropy`; both are 0 when every pixel is ignored.

    Args:
        kind: `dice` (soft Dice), `ce` (cross-entropy), or `dice_ce`, the sum of both.
        class_weights: K weights of the cross-entropy; None weighs all classes alike. A float32
            tensor on the device of the logits is taken as it is, without a copy in each step.
        foreground: Class indexes of the Dice mean; None takes all.
        total: Where several processes share the batch, what adds up their sums of pixels before any
            ratio is taken: the loss is that of the whole batch, whoever has how much of it.

    Source: Isensee et al. 2021 (nnU-Net, Nature Methods 18:203).

    >>> loss = SegmentationLoss("ce", class_weights=(1.0, 3.0))
    >>> logits, target = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 255]]])
    >>> round(loss(logits, target).item(), 4)
    0.6931
    >>> perfect = torch.tensor([[[[20.0, -20.0]], [[-20.0, 20.0]]]])
    >>> round(SegmentationLoss("dice_ce")(perfect, torch.tensor([[[0, 1]]])).item(), 4)
    0.0
    """

    kind: Literal["dice_ce", "dice", "ce"] = "dice_ce"
    class_weights: Sequence[float] | Tensor | None = None
    foreground: Sequence[int] | None = None
    total: Total = as_it_is

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of N×K×H×W `logits` for N×H×W `target`."""
        log_probability = _log_probability(logits)
        losses = []
        if self.kind != "ce":
            probability = log_probability.exp()
            losses += [_dice_loss(probability, target, self.foreground, self.total)]
        if self.kind != "dice":
            weights = None
            if self.class_weights is not None:
                weights = torch.as_tensor(self.class_weights, device=logits.device).float()
            losses += [_cross_entropy(log_probability, target, weights, self.total)]
        return losses[0] if len(losses) == 1 else losses[0] + losses[1]


def shrink_target(target: Tensor, height: int, width: int) -> Tensor:
    """`target` N×H×W at `height`×`width` pixels by nearest neighbour: no new values, any dtype.

    Pixel i of h takes pixel ⌊i·H/h⌋ of H, as `torch.nn.functional.interpolate(mode="nearest")`.

    >>> shrink_target(torch.arange(16).reshape(1, 4, 4), 2, 2).tolist()
    [[[0, 2], [8, 10]]]
    """
    if target.shape[1:] == (height, width):
        return target
    rows = torch.arange(height, device=target.device) * target.shape[1] // height
    columns = torch.arange(width, device=target.device) * target.shape[2] // width
    return target[:, rows[:, None], columns]  # N, height, width


def deep_supervision(
    loss: Callable[[Tensor, Tensor], Tensor], all_logits: Sequence[Tensor], target: Tensor
) -> Tensor:
    """The loss of the logits of several resolutions, each half as important as the one before.

        Σ_i w_i · loss(logits_i, target at their size),  w_i = ½ⁱ / Σ_j ½ʲ

    Args:
        loss: (logits N×K×h×w, target N×h×w) → scalar, for example a `SegmentationLoss`.
        all_logits: Full resolution first, then coarser; at least one.
        target: N×H×W class indexes, 255 ignored; brought to each size by nearest neighbour.

    Returns:
        A scalar in the range of `loss`; a class absent at a coarse size is treated there as `loss`
        treats absent classes.

    Source: Lee et al. 2015 (Deeply-supervised nets, arXiv:1409.5185); weights of Isensee et al.
    2021 (nnU-Net).

    >>> fine, coarse = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)
    >>> target = torch.zeros(1, 4, 4, dtype=torch.uint8)
    >>> round(deep_supervision(SegmentationLoss("ce"), [fine, coarse], target).item(), 4)
    0.6931
    """
    weights = [0.5**level for level in range(len(all_logits))]
    losses = [loss(logits, shrink_target(target, *logits.shape[2:])) for logits in all_logits]
    weighted = [weight * value for weight, value in zip(weights, losses, strict=True)]
    return torch.stack(weighted).sum() / sum(weights)


class LossMean:
    """The mean of losses, on the device until it is taken; losses that are no numbers are left out.

    >>> mean = LossMean()
    >>> for loss in (1.0, math.nan, 2.0):
    ...     mean.add(torch.tensor(loss))
    >>> mean.take()
    1.5
    """

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._count: Tensor | int = 0

    def add(self, loss: Tensor) -> None:
        """Count one more loss."""
        finite = loss.isfinite()
        self._sum = self._sum + loss.where(finite, 0)
        self._count = self._count + finite.long()

    def state(self) -> tuple[Tensor | float, Tensor | int]:
        """What `restore` takes."""
        return self._sum, self._count

    def restore(self, total: Tensor | float | None, count: Tensor | int) -> None:
        """Go on from a `state`."""
        self._sum, self._count = total or 0.0, count

    def take(self) -> float:
        """The mean since the last call; nan of none."""
        total, count = float(self._sum), int(self._count)
        self._sum, self._count = 0.0, 0
        return total / count if count else math.nan
