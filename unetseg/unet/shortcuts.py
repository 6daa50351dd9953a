"""Shortcuts: the paths around the convolutions inside a block.

A shortcut maps the input of a block, N×inputs×H×W, to the shape of its output, N×outputs×H×W.
"""

from collections.abc import Callable

from torch import nn

Norm = Callable[[int], nn.Module]
"""Makes the normalisation layer of so many channels; `nn.Identity()` where there is none."""


class Projection(nn.Sequential):
    """A 1×1 convolution and a norm: changes the channels, keeps height and width.

    Args:
        inputs: Channels of the block's input.
        outputs: Channels of the block's output.
        norm: Makes the norm; without one the convolution has a bias.
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        layer = norm(outputs)
        bias = isinstance(layer, nn.Identity)
        super().__init__(nn.Conv2d(inputs, outputs, 1, bias=bias), layer)


def identity_or_projection(inputs: int, outputs: int, norm: Norm) -> nn.Module:
    """The identity where the shapes agree, else a projection (option B of He 2015, 1512.03385)."""
    return nn.Identity() if inputs == outputs else Projection(inputs, outputs, norm)
