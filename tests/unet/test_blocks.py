"""Blocks: sizes, the laws of residual and dense blocks, and norms."""

from functools import partial
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from unetseg.config import BlockKind, NetworkConfig, ShortcutKind
from unetseg.unet.blocks import (
    DenseBlock,
    PlainBlock,
    ResidualBlock,
    group_norm,
    instance_norm,
    no_norm,
)
from unetseg.unet.build import make_block
from unetseg.unet.shortcuts import Deactivable, Norm

BLOCKS = get_args(BlockKind)


@pytest.mark.parametrize("block", BLOCKS)
def test_padding_keeps_the_size(block: Any) -> None:
    made = make_block(NetworkConfig(block=block))(3, 8)
    assert made(torch.randn(2, 3, 9, 11)).shape == (2, 8, 9, 11)


def test_valid_convolutions_lose_two_pixels_on_every_side() -> None:
    padded, valid = PlainBlock(3, 8, no_norm), PlainBlock(3, 8, no_norm, padding=0)
    valid.load_state_dict(padded.state_dict())
    image = torch.randn(2, 3, 9, 11)
    torch.testing.assert_close(valid(image), padded(image)[..., 2:-2, 2:-2])


# Residual blocks

RESIDUAL = NetworkConfig(block="residual", norm="none")


@pytest.mark.parametrize("outputs", [3, 8])
def test_a_residual_block_with_a_silent_branch_is_its_shortcut(outputs: int) -> None:
    block = make_block(RESIDUAL)(3, outputs)
    path = block.get_submodule("shortcut.path")
    nn.init.zeros_(block.get_parameter("branch.3.weight"))
    nn.init.zeros_(block.get_parameter("branch.3.bias"))
    image = torch.randn(2, 3, 9, 11)
    torch.testing.assert_close(block(image), functional.relu(path(image)))


def test_the_gradient_passes_a_residual_block_on_its_shortcut() -> None:
    block, image = make_block(RESIDUAL)(3, 3), torch.randn(2, 3, 9, 11, requires_grad=True)
    assert isinstance(block, ResidualBlock)
    upstream, output = torch.randn(2, 3, 9, 11), block(image)
    (gradient,) = torch.autograd.grad(output, image, upstream)
    alive = upstream * (output > 0)  # what the ReLU at the end lets through
    (of_branch,) = torch.autograd.grad(block.branch(image), image, alive)
    assert torch.equal(gradient, alive + of_branch)


@pytest.mark.parametrize("outputs", [4, 8, 2])
@pytest.mark.parametrize("shortcut", get_args(ShortcutKind))
def test_every_residual_block_leaves_its_input_alone(shortcut: str, outputs: int) -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"block": "residual", "shortcut": shortcut, "norm": "none"}
    block = make_block(NetworkConfig(**settings, survival=0.5))(4, outputs)
    image = torch.randn(2, 4, 9, 11, requires_grad=True)
    before = image.detach().clone()
    for _ in range(8):  # in some of them a deactivable branch is dropped
        output = block(1 * image)
        assert output.shape == (2, outputs, 9, 11)
        assert output.min() >= 0
        (gradient,) = torch.autograd.grad(output.sum(), image)
        assert gradient.isfinite().all()
        assert torch.equal(image, before)


def test_a_dropped_block_is_a_relu_and_needs_no_gradient_of_its_convolutions() -> None:
    def always_dropped(*_: object) -> nn.Module:
        return Deactivable(nn.Identity(), survival=1e-9)

    block = ResidualBlock(4, 4, nn.BatchNorm2d, always_dropped)
    features = torch.randn(2, 4, 9, 11, requires_grad=True)
    image = 2 * features
    before = image.detach().clone()
    block(image).sum().backward()
    assert torch.equal(image, before)
    assert features.grad is not None
    assert torch.equal(features.grad, 2.0 * (features > 0))
    assert all(parameter.grad is None for parameter in block.parameters())


@pytest.mark.parametrize(("shortcut", "extra"), [("zero_pad", 0), ("none", 0), ("identity", 40)])
def test_what_the_shortcut_adds_to_the_parameters(shortcut: Any, extra: int) -> None:
    config = NetworkConfig(block="residual", shortcut=shortcut, norm="none")
    counts = [
        sum(parameter.numel() for parameter in block.parameters())
        for block in (make_block(config)(4, 8), PlainBlock(4, 8, no_norm))
    ]
    assert counts[0] - counts[1] == extra


# Dense blocks


def test_a_dense_block_is_as_wide_as_the_first_of_densenet_121() -> None:
    block = DenseBlock(64, 128, nn.BatchNorm2d, growth=32)
    widths = [m.in_channels for m in block.layers.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [64, 96, 128, 160]


def test_every_layer_of_a_dense_block_sees_all_before_it() -> None:
    block, image = DenseBlock(3, 8, no_norm, growth=5), torch.randn(2, 3, 9, 11)
    seen: list[Tensor] = [image]
    for index in range(4):
        weight = block.get_parameter(f"layers.{index}.0.weight")
        bias = block.get_parameter(f"layers.{index}.0.bias")
        assert weight.shape == (5, 3 + 5 * index, 3, 3)
        seen.append(functional.conv2d(torch.cat(seen, dim=1), weight, bias, padding=1).relu())
    joined = torch.cat(seen, dim=1)
    weight, bias = (block.get_parameter(f"transition.0.{name}") for name in ("weight", "bias"))
    expected = functional.conv2d(joined, weight, bias).relu()
    torch.testing.assert_close(block(image), expected)


# Norms


@pytest.mark.parametrize("block", BLOCKS)
def test_convolutions_have_a_bias_only_without_norm(block: Any) -> None:
    for norm, has_bias in (("batch", False), ("none", True)):
        made = make_block(NetworkConfig.model_validate({"block": block, "norm": norm}))(3, 8)
        layers = [m for m in made.modules() if isinstance(m, nn.Conv2d)]
        assert {layer.bias is not None for layer in layers} == {has_bias}


@pytest.mark.parametrize("channels", [1, 2, 3, 7, 8, 9, 10, 16, 36, 48, 64, 100, 1024])
def test_groups_divide_any_width_and_hold_two_channels(channels: int) -> None:
    norm = group_norm(channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm(torch.randn(2, channels, 4, 4)).shape == (2, channels, 4, 4)
    assert channels == 1 or channels // norm.num_groups >= 2


@pytest.mark.parametrize("norm", [instance_norm, partial(nn.GroupNorm, 5)])
def test_instance_norm_centres_and_scales_every_channel_of_every_image(norm: Norm) -> None:
    normed = norm(5)(torch.randn(2, 5, 16, 16) * 7 + 3)
    torch.testing.assert_close(normed.mean((2, 3)), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.std((2, 3), correction=0), torch.ones(2, 5))
