"""The way down: a list of features, shallow to deep."""

from functools import partial

import torch
from torch import nn

from unetseg.unet.blocks import PlainBlock, no_norm
from unetseg.unet.encoder import Encoder


def test_every_level_halves_the_resolution() -> None:
    encoder = Encoder(3, (4, 6, 10), partial(PlainBlock, norm=nn.BatchNorm2d))
    shapes = [tuple(feature.shape) for feature in encoder(torch.randn(2, 3, 16, 24))]
    assert shapes == [(2, 4, 16, 24), (2, 6, 8, 12), (2, 10, 4, 6)]
    assert encoder.widths == (4, 6, 10)


def test_a_level_sees_the_largest_of_each_square_above_it() -> None:
    def channels(_inputs: int, _outputs: int) -> nn.Module:
        return nn.Identity()

    features = Encoder(1, (1, 1), channels)(torch.arange(16.0).view(1, 1, 4, 4))
    assert features[1].flatten().tolist() == [5, 7, 13, 15]


def test_features_do_not_depend_on_deeper_levels() -> None:
    encoder = Encoder(1, (4, 4, 4), partial(PlainBlock, norm=no_norm))
    image = torch.randn(1, 1, 8, 8)
    before = [feature.clone() for feature in encoder(image)]
    for parameter in encoder.levels[2].parameters():
        nn.init.zeros_(parameter)
    after = encoder(image)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert not after[2].any()
