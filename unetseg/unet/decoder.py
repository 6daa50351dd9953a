"""The way up: bottom + skips → full-resolution features."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unetseg.unet.skips import Adaptive, crop


class TransposeUp(nn.ConvTranspose2d):
    """Doubles height and width by a 2×2 transposed convolution of stride 2, with a bias.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=2, stride=2)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002
        """N×inputs×H×W → N×outputs×2H×2W."""
        if not torch.is_grad_enabled() or self.bias is None:
            return super().forward(input, output_size)
        constant = self.bias.detach()
        doubled = functional.conv_transpose2d(input, self.weight, constant, self.stride)
        output: Tensor = BiasGradient.apply(doubled, self.bias)  # type: ignore[no-untyped-call]
        return output


class BiasGradient(torch.autograd.Function):
    """Passes features on that hold a bias already, and gives the bias its gradient.

    That is the sum over images and pixels. On CPU the backward pass of a transposed convolution
    takes 7 to 50 times as long for it as `sum` does: 9% of a training step of the classic U-Net.
    """

    @staticmethod
    def forward(context: Any, features: Tensor, bias: Tensor) -> Tensor:
        """`features` N×C×H×W as they are; `bias` has C numbers."""
        return features.view_as(features)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of features and bias."""
        (gradient,) = gradients
        return gradient, gradient.sum((0, 2, 3))


class BilinearUp(nn.Conv2d):
    """A 1×1 convolution, then twice the height and width by bilinear interpolation.

    The two commute, and the convolution is four times cheaper at the lower resolution.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=1)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 — torch's name
        """N×inputs×H×W → N×outputs×2H×2W."""
        return functional.interpolate(super().forward(input), scale_factor=2.0, mode="bilinear")


class AlignedUp(nn.Module):
    """Twice the height and width by bilinear interpolation, corners on corners; nothing is learned.

    Args:
        inputs: Channels that come in, and go out.
        outputs: Not looked at.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()

    def forward(self, features: Tensor) -> Tensor:
        """N×inputs×H×W → N×inputs×2H×2W."""
        return functional.interpolate(
            features, scale_factor=2.0, mode="bilinear", align_corners=True
        )


class Step(nn.Module):
    """One level of the way up: double the size, join the encoder's features, convolve.

    Args:
        up: Doubles the height and width of the level below.
        skip: Joins the encoder's features of this level with it.
        block: The convolutions of this level.
    """

    def __init__(self, up: nn.Module, skip: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.up = up
        self.skip = skip
        self.block = block

    def forward(self, below: Tensor, feature: Tensor) -> Tensor:
        """Below N×C'×H/2×W/2 and feature N×C×H×W (or larger, cropped) → N×width×H×W."""
        up = self.up(below)
        output: Tensor = self.block(self.skip(crop(feature, up), up))
        return output

    def opening(self, below: Tensor, feature: Tensor) -> Tensor | None:
        """How much of `feature` the skip lets through; None where that is not learned."""
        if not isinstance(self.skip, Adaptive):
            return None
        up = self.up(below)
        return self.skip.opening(crop(feature, up), up)


class Decoder(nn.Module):
    """Steps from the bottom to full resolution.

    Args:
        steps: One per level, full resolution first, as the skips are.
        widths: Channels that each step puts out, in the same order.
        pathway: What the skips of all levels pass together before the steps: nested nodes.
    """

    def __init__(
        self, steps: Iterable[Step], widths: Sequence[int], pathway: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.widths = tuple(widths)
        self.pathway = pathway or nn.Identity()

    def forward(self, bottom: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Bottom N×C×h×w and skips (full resolution first) → N×widths[0]×H×W."""
        return self.levels(bottom, skips)[0]

    def levels(self, bottom: Tensor, skips: Sequence[Tensor]) -> list[Tensor]:
        """The output of every step, full resolution first; level l is N×widths[l]×H/2ˡ×W/2ˡ.

        Raises:
            ValueError: there are more or fewer skips than steps.
        """
        if len(skips) != len(self.steps):
            raise ValueError(f"{len(skips)} skips for {len(self.steps)} levels of the decoder")
        outputs: list[Tensor] = []
        features = bottom
        for step, skip in zip(reversed(self.steps), reversed(self.pathway(skips)), strict=True):
            features = step(features, skip)
            outputs.insert(0, features)
        return outputs

    def openings(self, bottom: Tensor, skips: Sequence[Tensor]) -> list[Tensor | None]:
        """How much each skip lets through, full resolution first; None where that is not learned.

        One number for learned and switch, N×C×1×1 for gated, N×1×H×W for attention.
        """
        openings: list[Tensor | None] = []
        features = bottom
        for step, skip in zip(reversed(self.steps), reversed(self.pathway(skips)), strict=True):
            assert isinstance(step, Step)
            openings.insert(0, step.opening(features, skip))
            features = step(features, skip)
        return openings
