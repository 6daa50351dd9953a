"""Blocks: the convolutions of one level of the U, with the norms and the weights they start with.

A block maps N×inputs×H×W to N×outputs×H×W; without padding it loses 2 pixels on every side.
"""

import math

from torch import Tensor, nn

from unetseg.unet.shortcuts import Norm, identity_or_projection


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


def convolution(inputs: int, outputs: int, norm: Norm, padding: int) -> list[nn.Module]:
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
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm, padding: int = 1) -> None:
        super().__init__(
            *convolution(inputs, outputs, norm, padding),
            nn.ReLU(inplace=True),
            *convolution(outputs, outputs, norm, padding),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """ReLU(branch(x) + shortcut(x)), the branch being two 3×3 convolutions (He 2015, 1512.03385).

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        norm: Makes the norm after each convolution.
        padding: Only 1: branch and shortcut must have one size.
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm, padding: int = 1) -> None:
        super().__init__()
        assert padding == 1, "a residual block keeps the size"
        self.shortcut = identity_or_projection(inputs, outputs, norm)
        self.branch = nn.Sequential(
            *convolution(inputs, outputs, norm, padding),
            nn.ReLU(inplace=True),
            *convolution(outputs, outputs, norm, padding),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """N×inputs×H×W → N×outputs×H×W."""
        output: Tensor = self.relu(self.branch(features) + self.shortcut(features))
        return output


def he_initialise(part: nn.Module) -> None:
    """Draw the weights of `part` from N(0, gain² / fan-in) and set the biases to 0.

    Gain² is 2 for 3×3 convolutions, which a ReLU follows (He 2015, 1502.01852), and 1 for 1×1 and
    transposed ones, which none follows. Each output pixel of a 2×2 transposed convolution of
    stride 2 sees one pixel of every input channel, so its fan-in is the number of input channels.
    """
    for module in part.modules():
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            continue
        transposed = isinstance(module, nn.ConvTranspose2d)
        taps = 1 if transposed else math.prod(module.kernel_size)
        gain = math.sqrt(2) if taps > 1 else 1.0
        nn.init.normal_(module.weight, std=gain / math.sqrt(module.in_channels * taps))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
