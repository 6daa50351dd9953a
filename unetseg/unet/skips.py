"""Skips: how one level of the decoder takes the encoder's features of the same resolution.

A skip joins `feature` N×inputs×H×W of the encoder with `up` N×outputs×H×W, the decoder's features
from below, doubled in size. Its attribute `width` is the number of channels that come out.
"""

import torch
from torch import Tensor, nn


class Concat(nn.Module):
    """[feature, up] side by side, the encoder's channels first (Ronneberger 2015, 1505.04597).

    Args:
        inputs: Channels of the encoder's features.
        outputs: Channels of the decoder's features.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.width = inputs + outputs

    def forward(self, feature: Tensor, up: Tensor) -> Tensor:
        """N×(inputs + outputs)×H×W."""
        return torch.cat([feature, up], dim=1)


class Add(nn.Module):
    """feature + up (LinkNet, 1707.03718), with a 1×1 convolution where the channels differ.

    Args:
        inputs: Channels of the encoder's features.
        outputs: Channels of the decoder's features.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.width = outputs
        same = inputs == outputs
        self.project = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, feature: Tensor, up: Tensor) -> Tensor:
        """N×outputs×H×W."""
        projected: Tensor = self.project(feature)
        return projected + up


class NoSkip(nn.Module):
    """Up alone: the encoder's features of this level are not used.

    Args:
        inputs: Channels of the encoder's features, ignored.
        outputs: Channels of the decoder's features.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.width = outputs

    def forward(self, feature: Tensor, up: Tensor) -> Tensor:
        """N×outputs×H×W."""
        return up


def crop(feature: Tensor, like: Tensor) -> Tensor:
    """The middle of `feature`, as high and wide as `like` (all of it in padded networks)."""
    height, width = like.shape[-2:]
    top, left = (feature.shape[-2] - height) // 2, (feature.shape[-1] - width) // 2
    return feature[..., top : top + height, left : left + width]
