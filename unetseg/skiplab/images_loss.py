"""The loss of a trained U-Net on the images it is looked at with."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from unetseg.data.masks.class_map import IGNORED
from unetseg.errors import DataError
from unetseg.skiplab.subject import Subject, View
from unetseg.training.losses import SegmentationLoss

PIXELS_AT_ONCE = 2**18
"""Pixels that go through the network together, more only where one image has more."""


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
    batches = [_batch(some, total, device) for group in groups.values() for some in _parted(group)]
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


def _parted(views: Sequence[View]) -> list[list[View]]:
    """`views` of one size in as few and as even batches as `PIXELS_AT_ONCE` allows."""
    at_once = max(1, PIXELS_AT_ONCE // views[0].truth.size)
    parts = np.array_split(np.arange(len(views)), math.ceil(len(views) / at_once))
    return [[views[index] for index in part] for part in parts]


def _counted(view: View) -> int:
    return int((view.truth != IGNORED).sum())


def _batch(views: Sequence[View], total: int, device: torch.device) -> Batch:
    image = torch.cat([view.tensor for view in views]).to(device)
    return Batch(
        image.contiguous(memory_format=torch.channels_last),
        torch.cat([view.statistics for view in views]).to(device),
        torch.from_numpy(np.stack([view.truth for view in views])).to(device),
        tuple(_counted(view) / total for view in views),
    )
