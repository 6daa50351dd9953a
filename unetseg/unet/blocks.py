"""Blocks: the convolutions of one level of the U, and their norms.

A block maps N×inputs×H×W to N×outputs×H×W.

No ReLU works in place: on CPU it takes a third of the time to write elsewhere, and no more memory,
as nothing keeps what it reads.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from unetseg.unet.shortcuts import Norm, Projection

MakeShortcut = Callable[[int, int, Norm], nn.Module]
"""Makes a shortcut from the channels that come in and go out and the norm."""
DENSE_LAYERS = 4
"""Layers of a dense block."""


def group_norm(channels: int) -> nn.Module:
    """Group normalisation (Wu 2018, 1803.08494): 32 groups, or fewer so that each has 2 channels.

    >>> [group_norm(channels).num_groups for channels in (64, 16, 9)]
    [32, 8, 1]
    """
    return nn.GroupNorm(math.gcd(32, channels, max(channels // 2, 1)), channels)


def instance_norm(channels: int) -> nn.Module:
    """Instance normalisation with a learned scale and shift."""
    return nn.InstanceNorm2d(channels, affine=True)


def no_norm(channels: int) -> nn.Module:
    """No normalisation; the convolution before it keeps its bias."""
    return nn.Identity()


def convolution(inputs: int, outputs: int, norm: Norm, padding: int = 1) -> list[nn.Module]:
    """A 3×3 convolution and its norm; the convolution has a bias only where there is no norm."""
    layer = norm(outputs)
    bias = isinstance(layer, nn.Identity)
    return [nn.Conv2d(inputs, outputs, 3, padding=padding, bias=bias), layer]


class PlainBlock(nn.Sequential):
    """Twice (3×3 convolution, norm, ReLU): the block of Ronneberger 2015 (1505.04597).

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        norm: Makes the norm after each convolution.
        padding: Pixels of zeros around each convolution: 1 keeps the size, 0 loses 2 per side.
        middle: Channels between the two; default: those that go out.
    """

    def __init__(
        self, inputs: int, outputs: int, norm: Norm, padding: int = 1, middle: int | None = None
    ) -> None:
        super().__init__(
            *convolution(inputs, middle or outputs, norm, padding),
            nn.ReLU(),
            *convolution(middle or outputs, outputs, norm, padding),
            nn.ReLU(),
        )


class ResidualBlock(nn.Module):
    """ReLU(F(x) joined with x), F being two 3×3 convolutions (He 2015, 1512.03385).

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        norm: Makes the norm after each convolution.
        shortcut: Makes what joins x and F(x).
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm, shortcut: MakeShortcut) -> None:
        super().__init__()
        self.shortcut = shortcut(inputs, outputs, norm)
        self.branch = nn.Sequential(
            *convolution(inputs, outputs, norm),
            nn.ReLU(),
            *convolution(outputs, outputs, norm),
        )
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        """N×inputs×H×W → N×outputs×H×W."""
        output: Tensor = self.relu(self.shortcut(features, self.branch))
        return output


class DenseBlock(nn.Module):
    """Layers that each see all before them: DenseNet's connections (Huang 2016, 1608.06993).

    Layer l sees inputs + growth·(l − 1) channels and adds `growth`; at the end a 1×1 convolution
    brings all of them to `outputs` channels. A layer is convolution, norm, ReLU as in the other
    blocks (DenseNet begins with norm and ReLU), so that a dense block may stand first, on the
    image.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        norm: Makes the norm after each convolution.
        growth: Channels that each layer adds.
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm, growth: int) -> None:
        super().__init__()
        widths = [inputs + growth * layer for layer in range(DENSE_LAYERS + 1)]
        self.layers = nn.ModuleList(
            nn.Sequential(*convolution(width, growth, norm), nn.ReLU()) for width in widths[:-1]
        )
        self.transition = nn.Sequential(*Projection(widths[-1], outputs, norm), nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        """N×inputs×H×W → N×outputs×H×W."""
        for layer in self.layers:
            features = torch.cat([features, layer(features)], dim=1)
        output: Tensor = self.transition(features)
        return output
