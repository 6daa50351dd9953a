"""The way up: doubling, order of the levels, number of skips, openings."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from unetseg.unet.blocks import PlainBlock, no_norm
from unetseg.unet.decoder import BilinearUp, Decoder, Step, TransposeUp
from unetseg.unet.skips import Concat, Gated, Learned


def decoder() -> Decoder:
    steps = [
        Step(TransposeUp(6, 4), Concat(4, 4), PlainBlock(8, 4, no_norm)),
        Step(BilinearUp(10, 6), Concat(6, 6), PlainBlock(12, 6, no_norm)),
    ]
    return Decoder(steps, (4, 6))


def pyramid() -> tuple[Tensor, list[Tensor]]:
    bottom = torch.randn(2, 10, 2, 3)
    return bottom, [torch.randn(2, 4, 8, 12), torch.randn(2, 6, 4, 6)]


@pytest.mark.parametrize("up", [TransposeUp, BilinearUp])
def test_up_doubles_height_and_width(up: type[TransposeUp | BilinearUp]) -> None:
    layer = up(6, 4)
    assert layer(torch.randn(2, 6, 3, 5)).shape == (2, 4, 6, 10)
    assert layer.bias is not None


def test_transpose_up_has_the_gradients_of_a_transposed_convolution() -> None:
    layer, features = TransposeUp(6, 4).double(), torch.randn(2, 6, 3, 5, dtype=torch.float64)
    inputs = [features.requires_grad_(), *layer.parameters()]
    ours = layer(features).sin()
    torchs = functional.conv_transpose2d(inputs[0], inputs[1], inputs[2], stride=2).sin()
    torch.testing.assert_close(ours, torchs)
    gradients = (torch.autograd.grad(each.sum(), inputs) for each in (ours, torchs))
    for ours, torchs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, torchs)
    assert layer.bias is not None
    assert torch.autograd.gradgradcheck(lambda x, _: layer(x), (inputs[0], layer.bias))


def test_bilinear_up_may_convolve_before_it_interpolates() -> None:
    layer, features = BilinearUp(6, 4), torch.randn(2, 6, 3, 5)
    doubled = functional.interpolate(features, scale_factor=2, mode="bilinear")
    expected = functional.conv2d(doubled, layer.weight, layer.bias)
    torch.testing.assert_close(layer(features), expected)


def test_levels_come_full_resolution_first() -> None:
    levels = decoder().levels(*pyramid())
    assert [tuple(level.shape) for level in levels] == [(2, 4, 8, 12), (2, 6, 4, 6)]


def test_the_decoder_returns_the_full_resolution() -> None:
    network, (bottom, skips) = decoder(), pyramid()
    assert torch.equal(network(bottom, skips), network.levels(bottom, skips)[0])


def test_a_step_takes_the_middle_of_a_larger_feature() -> None:
    step = Step(TransposeUp(6, 4), Concat(4, 4), nn.Identity())
    below, feature = torch.randn(1, 6, 2, 2), torch.randn(1, 4, 8, 10)
    assert torch.equal(step(below, feature)[:, :4], feature[..., 2:6, 3:7])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_skips_as_steps(count: int) -> None:
    bottom, skips = pyramid()
    with pytest.raises(ValueError, match=f"{count} skips for 2 levels"):
        decoder()(bottom, (skips * 2)[:count])


# Openings


def adaptive() -> Decoder:
    steps = [
        Step(TransposeUp(6, 4), Gated(4, 4), PlainBlock(8, 4, no_norm)),
        Step(BilinearUp(10, 6), Learned(6, 6, alpha=0.5), PlainBlock(6, 6, no_norm)),
    ]
    return Decoder(steps, (4, 6))


def test_fixed_skips_have_no_openings() -> None:
    assert decoder().openings(*pyramid()) == [None, None]


def test_the_openings_are_those_of_every_step_with_the_level_below() -> None:
    network, (bottom, skips) = adaptive(), pyramid()
    nn.init.normal_(network.get_parameter("steps.0.skip.excite.weight"))
    top, lower = network.openings(bottom, skips)
    assert lower is network.get_parameter("steps.1.skip.alpha")
    up = network.get_submodule("steps.0.up")(network.levels(bottom, skips)[1])
    gated = network.get_submodule("steps.0.skip")
    assert isinstance(gated, Gated)
    assert top is not None
    assert torch.equal(top, gated.opening(skips[0], up))


def test_the_opening_of_a_larger_feature_is_that_of_its_middle() -> None:
    torch.manual_seed(0)
    step = Step(TransposeUp(6, 4), Gated(4, 4), nn.Identity())
    nn.init.normal_(step.get_parameter("skip.excite.weight"))
    below, feature = torch.randn(1, 6, 2, 2), torch.randn(1, 4, 8, 10)
    opening = step.opening(below, feature)
    assert opening is not None
    assert torch.equal(step(below, feature)[:, :4], opening * feature[..., 2:6, 3:7])


def test_what_the_skips_pass_together_comes_before_the_steps() -> None:
    class Doubled(nn.Module):
        def forward(self, skips: list[Tensor]) -> list[Tensor]:
            return [2 * skip for skip in skips]

    plain, (bottom, skips) = decoder(), pyramid()
    steps = [step for step in plain.steps if isinstance(step, Step)]
    doubled = Decoder(steps, (4, 6), Doubled())
    expected = plain(bottom, [2 * skip for skip in skips])
    assert torch.equal(doubled(bottom, skips), expected)
