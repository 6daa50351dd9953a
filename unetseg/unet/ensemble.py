"""Several U-Nets as one: the mean of their logits."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetseg.unet.model import Edit, Geometry, UNet, unchanged
from unetseg.unet.segmenter import Normalisation


class Ensemble(nn.Module):
    """U-Nets of one shape, trained on different images: image → the mean of their logits.

    Where pixels were normalised with numbers of the training images, those of each member differ a
    little from those that all are given; a factor and a shift per band make up for it.

    Args:
        members: The U-Nets.
        shared: How the pixels are normalised that all are given.
        own: How they were for each member.
    """

    factors: Tensor
    shifts: Tensor

    def __init__(
        self, members: Sequence[UNet], shared: Normalisation, own: Sequence[Normalisation]
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        mean, std = torch.tensor(shared.mean).double(), torch.tensor(shared.std).double()
        means, stds = (torch.tensor([getattr(n, k) for n in own]).double() for k in ("mean", "std"))
        if shared.kind == "image":  # nothing but each image decides
            means, stds = mean.expand_as(means), std.expand_as(stds)
        shape = len(own), 1, -1, 1, 1  # member, N, C, H, W
        self.register_buffer("factors", (std / stds).float().reshape(shape))
        self.register_buffer("shifts", ((mean - means) / stds).float().reshape(shape))

    @property
    def _first(self) -> UNet:
        first = self.members[0]
        assert isinstance(first, UNet)
        return first

    @property
    def geometry(self) -> Geometry:
        """The sides that all can work on."""
        return self._first.geometry

    @property
    def head(self) -> nn.Conv2d:
        """The last layer of the first member: its channels are those of all."""
        return self._first.head

    def forward(self, image: Tensor, edit: Edit = unchanged) -> Tensor:
        """As `UNet.forward`."""
        return self.cropped(self.on_grid(self.continued(image), edit), image)

    def on_grid(self, image: Tensor, edit: Edit = unchanged) -> Tensor:
        """As `UNet.on_grid`."""
        first, *others = [
            member.on_grid(image * self.factors[n] + self.shifts[n], edit)  # type: ignore[operator]
            for n, member in enumerate(self.members)
        ]
        mean: Tensor = sum(others, start=first) / len(self.members)
        return mean

    def continued(self, image: Tensor) -> Tensor:
        """As `UNet.continued`."""
        return self._first.continued(image)

    def cropped(self, logits: Tensor, image: Tensor) -> Tensor:
        """As `UNet.cropped`."""
        return self._first.cropped(logits, image)
