"""Shortcuts change channels where they must and nothing else."""

import torch
from torch import nn

from unetseg.unet.blocks import no_norm
from unetseg.unet.shortcuts import Projection, identity_or_projection


def test_equal_shapes_take_the_identity() -> None:
    image = torch.randn(2, 4, 5, 6)
    shortcut = identity_or_projection(4, 4, nn.BatchNorm2d)
    assert torch.equal(shortcut(image), image)
    assert not list(shortcut.parameters())


def test_other_shapes_take_a_projection_that_keeps_height_and_width() -> None:
    shortcut = identity_or_projection(4, 7, nn.BatchNorm2d)
    assert isinstance(shortcut, Projection)
    assert shortcut(torch.randn(2, 4, 5, 6)).shape == (2, 7, 5, 6)


def test_a_projection_without_norm_is_a_matrix_and_a_bias_per_pixel() -> None:
    projection = Projection(4, 7, no_norm)
    image = torch.randn(2, 4, 5, 6)
    weight, bias = projection.get_parameter("0.weight"), projection.get_parameter("0.bias")
    expected = torch.einsum("oi,nihw->nohw", weight.flatten(1), image) + bias[:, None, None]
    torch.testing.assert_close(projection(image), expected)


def test_only_a_projection_without_norm_has_a_bias() -> None:
    assert Projection(4, 7, nn.BatchNorm2d)[0].bias is None
    assert Projection(4, 7, no_norm)[0].bias is not None
