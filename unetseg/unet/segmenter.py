"""Normalisation + U-Net: raw pixel values in, logits out.

The normalisation is part of the network, so that whoever loads one cannot scale pixels wrongly.
"""

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from unetseg.runtime import Machine, explained_memory
from unetseg.unet.model import Edit, UNet, unchanged

SMALLEST_DEVIATION = 0.05
"""Deviation that an image is taken to have at least, relative to the data set's."""


class Normalisation(BaseModel):
    """How pixel values reach the network: (pixel − mean) / std, per band."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dataset", "image"]
    """dataset: mean and std of the training pixels; image: of each whole image, at the time."""
    mean: tuple[FiniteFloat, ...]
    std: tuple[Annotated[PositiveFloat, Field(allow_inf_nan=False)], ...]


class Segmenter(nn.Module):
    """Normalisation + U-Net: raw pixel values in, logits out.

    Args:
        network: The U-Net.
        normalisation: How pixels are scaled; one number per band.
        scale: Size at which the network sees the image, as a fraction.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: UNet, normalisation: Normalisation, scale: float = 1.0) -> None:
        super().__init__()
        self.classes = network.head.out_channels
        self.network = network
        self.per_image = normalisation.kind == "image"
        self.scale = scale
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(normalisation.std).view(1, -1, 1, 1))

    def forward(
        self, image: Tensor, statistics: Tensor | None = None, edit: Edit = unchanged
    ) -> Tensor:
        """Logits N×K×H×W of `image`, float32 or uint8 N×C×H×W, raw pixel values.

        Args:
            image: The pixels.
            statistics: N×2×C mean and deviation of the whole images that `image` is cut from, for
                "image" normalisation; taken from `image` itself when not given.
            edit: Changes the skips on their way to the decoder.
        """
        height, width = image.shape[-2:]
        logits = self.network(self.prepared(image, statistics), edit)
        return self.full_size(logits, height, width)

    def all_logits(self, image: Tensor, statistics: Tensor | None = None) -> list[Tensor]:
        """Logits of every supervised level, the full resolution first."""
        height, width = image.shape[-2:]
        first, *coarser = self.network.all_logits(self.prepared(image, statistics))
        return [self.full_size(first, height, width), *coarser]

    def prepared(self, image: Tensor, statistics: Tensor | None = None) -> Tensor:
        """What the network sees: normalised, scaled, and with the margin it loses added."""
        height, width = image.shape[-2:]
        pixels = self.normalise(image, statistics)
        if self.scale != 1:
            size = [max(1, round(side * self.scale)) for side in (height, width)]
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        margin = self.network.geometry.margin
        if margin:
            mode = "reflect" if margin < min(pixels.shape[-2:]) else "replicate"
            pixels = F.pad(pixels, (margin,) * 4, mode)
        return pixels

    def full_size(self, logits: Tensor, height: int, width: int) -> Tensor:
        """What the network says of the `prepared` image, at the size of the image itself.

        Args:
            logits: N×K×h×w, what `network` gives.
            height: Pixels of the raw image.
            width: Pixels of the raw image.

        Returns:
            N×K×height×width; interpolated in float32 unless the network saw the full size.
        """
        if self.scale == 1:
            return logits
        return F.interpolate(logits.float(), (height, width), mode="bilinear")

    def normalise(self, image: Tensor, statistics: Tensor | None = None) -> Tensor:
        """`image` in float32 with mean 0 and deviation 1, as the network was trained."""
        image = image.float()
        if not self.per_image:
            return (image - self.mean) / self.std
        if statistics is None:
            statistics = image_statistics(image)
        mean, std = statistics[:, 0, :, None, None], statistics[:, 1, :, None, None]
        # A blank image has no deviation of its own; what augmentation adds must not explode.
        return (image - mean) / std.maximum(SMALLEST_DEVIATION * self.std)


def image_statistics(image: Tensor) -> Tensor:
    """N×2×C mean and deviation of every band of N×C×H×W images."""
    flat = image.double().flatten(2)
    return torch.stack([flat.mean(2), flat.std(2, correction=0)], dim=1).float()


def memory_fix(machine: Machine) -> str:
    """What to do where a network does not fit in the memory of `machine`."""
    return f"End what else holds this memory{'' if machine.is_cpu else ', or choose --device cpu'}."


def to_machine(segmenter: Segmenter, machine: Machine) -> Segmenter:
    """`segmenter` on the device of `machine`, in the memory layout of fast convolutions.

    Raises:
        OutOfMemoryError: its weights do not fit there.
    """
    with explained_memory(memory_fix(machine)):
        segmenter.to(machine.device)
        for parameter in segmenter.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return segmenter
