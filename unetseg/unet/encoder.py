"""The way down: image → features, shallow to deep."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

MakeBlock = Callable[[int, int], nn.Module]
"""Makes a block from the number of channels that come in and go out."""


class Encoder(nn.Module):
    """One block per level, with 2×2 max pooling between them.

    Args:
        bands: Channels of the image.
        widths: Channels of every level, full resolution first.
        block: Makes the block of a level.
    """

    def __init__(self, bands: int, widths: Sequence[int], block: MakeBlock) -> None:
        super().__init__()
        self.widths = tuple(widths)
        top = nn.Sequential(block(bands, widths[0]))
        deeper = [
            nn.Sequential(nn.MaxPool2d(2), block(above, width)) for above, width in pairwise(widths)
        ]
        self.levels = nn.ModuleList([top, *deeper])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image N×bands×H×W → features, level l being N×widths[l]×H/2ˡ×W/2ˡ."""
        features = []
        for level in self.levels:
            image = level(image)
            features.append(image)
        return features
