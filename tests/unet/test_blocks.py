"""Blocks: sizes, residual law, norms and the scale of fresh weights."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from unetseg.unet.blocks import (
    PlainBlock,
    ResidualBlock,
    group_norm,
    instance_norm,
    no_norm,
)
from unetseg.unet.initialisation import initialise


@pytest.mark.parametrize("block", [PlainBlock, ResidualBlock])
def test_padding_keeps_the_size(block: type[nn.Module]) -> None:
    assert block(3, 8, nn.BatchNorm2d)(torch.randn(2, 3, 9, 11)).shape == (2, 8, 9, 11)


def test_valid_convolutions_lose_two_pixels_on_every_side() -> None:
    padded, valid = PlainBlock(3, 8, no_norm), PlainBlock(3, 8, no_norm, padding=0)
    valid.load_state_dict(padded.state_dict())
    image = torch.randn(2, 3, 9, 11)
    torch.testing.assert_close(valid(image), padded(image)[..., 2:-2, 2:-2])


@pytest.mark.parametrize("outputs", [3, 8])
def test_a_residual_block_with_a_silent_branch_is_its_shortcut(outputs: int) -> None:
    block = ResidualBlock(3, outputs, no_norm)
    path = block.get_submodule("shortcut.path")
    nn.init.zeros_(block.get_parameter("branch.3.weight"))
    nn.init.zeros_(block.get_parameter("branch.3.bias"))
    image = torch.randn(2, 3, 9, 11)
    torch.testing.assert_close(block(image), functional.relu(path(image)))


def test_a_residual_block_leaves_its_input_alone() -> None:
    image = torch.randn(2, 3, 9, 11)
    before = image.clone()
    ResidualBlock(3, 3, nn.BatchNorm2d)(image)
    assert torch.equal(image, before)


@pytest.mark.parametrize("block", [PlainBlock, ResidualBlock])
def test_convolutions_have_a_bias_only_without_norm(block: type[nn.Module]) -> None:
    def biases(made: nn.Module) -> set[bool]:
        return {m.bias is not None for m in made.modules() if isinstance(m, nn.Conv2d)}

    assert biases(block(3, 8, nn.BatchNorm2d)) == {False}
    assert biases(block(3, 8, no_norm)) == {True}


@pytest.mark.parametrize("channels", [1, 2, 3, 7, 8, 9, 10, 16, 36, 48, 64, 100, 1024])
def test_groups_divide_any_width_and_hold_two_channels(channels: int) -> None:
    norm = group_norm(channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm(torch.randn(2, channels, 4, 4)).shape == (2, channels, 4, 4)
    assert channels == 1 or channels // norm.num_groups >= 2


def test_instance_norm_centres_and_scales_every_channel_of_every_image() -> None:
    normed = instance_norm(5)(torch.randn(2, 5, 16, 16) * 7 + 3)
    torch.testing.assert_close(normed.mean((2, 3)), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.std((2, 3), correction=0), torch.ones(2, 5))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(64, 128, 3), math.sqrt(2 / (9 * 64))),
        (nn.Conv2d(256, 512, 1), math.sqrt(1 / 256)),
        (nn.ConvTranspose2d(256, 128, 2, stride=2), math.sqrt(1 / 256)),
    ],
)
def test_fresh_weights_have_the_deviation_of_he(layer: nn.Module, expected: float) -> None:
    torch.manual_seed(0)
    initialise(layer)
    assert isinstance(layer.weight, torch.Tensor)
    assert layer.weight.std().item() == pytest.approx(expected, rel=0.02)
    assert layer.weight.mean().item() == pytest.approx(0, abs=expected / 50)
    assert isinstance(layer.bias, torch.Tensor)
    assert not layer.bias.any()


def test_he_weights_carry_the_signal_through_fifty_layers() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(*[PlainBlock(32, 32, no_norm) for _ in range(25)])
    initialise(layers)
    with torch.no_grad():
        last = layers(torch.randn(1, 32, 64, 64))
    assert 1e-4 < last.square().mean().item() < 100  # with half the gain it is 1e-15
