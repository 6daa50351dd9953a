"""Skips: what they pass on, in which order, how much of it, and where they crop."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unetseg.unet.blocks import group_norm, no_norm
from unetseg.unet.shortcuts import Norm
from unetseg.unet.skips import (
    ABOVE,
    BELOW,
    SWITCH_SPEED,
    TEMPERATURE,
    Add,
    Attention,
    Concat,
    Gated,
    Learned,
    NoSkip,
    Skip,
    Switch,
    crop,
    expected_open_switches,
)


def attention(inputs: int, outputs: int, norm: Norm = nn.BatchNorm2d) -> Attention:
    return Attention(inputs, outputs, norm)


KINDS: list[Callable[[int, int], Skip]] = [
    Concat,
    Add,
    NoSkip,
    Learned,
    Gated,
    attention,
    Switch,
]


def pair(inputs: int = 3, outputs: int = 4) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, inputs, 5, 7), torch.randn(2, outputs, 5, 7)


@pytest.mark.parametrize("inputs", [4, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_the_width_is_the_number_of_channels_that_come_out(
    kind: Callable[[int, int], Skip], inputs: int
) -> None:
    skip = kind(inputs, 4)
    assert skip(*pair(inputs)).shape == (2, skip.width, 5, 7)


def test_concat_puts_the_encoder_first() -> None:
    feature, up = pair()
    joined = Concat(3, 4)(feature, up)
    assert torch.equal(joined[:, :3], feature)
    assert torch.equal(joined[:, 3:], up)


def test_add_of_equal_widths_is_the_sum_and_has_no_parameters() -> None:
    feature, up = pair(4)
    skip = Add(4, 4)
    assert torch.equal(skip(feature, up), feature + up)
    assert not list(skip.parameters())


def test_add_of_other_widths_is_linear_in_the_feature() -> None:
    (feature, up), skip = pair(), Add(3, 4)
    assert sum(p.numel() for p in skip.parameters()) == 12
    torch.testing.assert_close(skip(2 * feature, up) - up, 2 * (skip(feature, up) - up))


def test_none_passes_the_decoder_alone() -> None:
    feature, up = pair()
    assert torch.equal(NoSkip(3, 4)(feature, up), up)


# Learned


@pytest.mark.parametrize("inputs", [3, 4])
def test_a_learned_skip_with_alpha_0_passes_the_decoder_alone(inputs: int) -> None:
    feature, up = pair(inputs)
    assert torch.equal(Learned(inputs, 4, alpha=0.0)(feature, up), up)


@pytest.mark.parametrize("inputs", [3, 4])
def test_a_learned_skip_adds_alpha_times_the_feature(inputs: int) -> None:
    (feature, up), skip = pair(inputs), Learned(inputs, 4, alpha=0.25)
    torch.testing.assert_close(skip(feature, up) - up, 0.25 * (skip.add(feature, up) - up))
    assert skip.opening(feature, up).item() == 0.25


def test_a_learned_skip_with_alpha_0_can_open_again() -> None:
    skip = Learned(4, 4, alpha=0.0)
    skip(*pair(4)).square().sum().backward()
    assert skip.alpha.grad is not None
    assert skip.alpha.grad.item() != 0


# Gated


def test_a_gated_skip_starts_88_percent_open() -> None:
    (feature, up), skip = pair(), Gated(3, 4)
    share = 1 / (1 + math.exp(-2))
    torch.testing.assert_close(skip.opening(feature, up), torch.full((2, 3, 1, 1), share))
    torch.testing.assert_close(skip(feature, up), torch.cat([share * feature, up], dim=1))


@pytest.mark.parametrize(("bias", "share"), [(-200, 0.0), (50, 1.0)])
def test_a_gated_skip_may_close_or_open_all_channels(bias: float, share: float) -> None:
    (feature, up), skip = pair(), Gated(3, 4)
    nn.init.constant_(skip.get_parameter("excite.bias"), bias)
    assert torch.equal(skip(feature, up), torch.cat([share * feature, up], dim=1))


def test_the_openings_of_a_gated_skip_follow_from_the_means_of_both_sides() -> None:
    (feature, up), skip = pair(), Gated(3, 4)
    nn.init.normal_(skip.excite.weight)
    means = torch.cat([feature.mean((2, 3)), up.mean((2, 3))], dim=1)
    squeeze, squeeze_bias = skip.squeeze.weight.flatten(1), skip.get_parameter("squeeze.bias")
    excite, excite_bias = skip.excite.weight.flatten(1), skip.get_parameter("excite.bias")
    hidden = (means @ squeeze.T + squeeze_bias).clamp(min=0)
    expected = 1 / (1 + torch.exp(-(hidden @ excite.T + excite_bias)))
    opening = skip.opening(feature, up)
    torch.testing.assert_close(opening, expected[:, :, None, None])
    assert opening.min() > 0
    assert opening.max() < 1
    assert not torch.equal(opening[0], opening[1])  # the image decides
    torch.testing.assert_close(skip(feature, up), torch.cat([opening * feature, up], dim=1))


# Attention


def batch_normed(features: Tensor) -> Tensor:
    variance, mean = torch.var_mean(features, (0, 2, 3), correction=0, keepdim=True)
    return (features - mean) / (variance + 1e-5).sqrt()


def unchanged(features: Tensor) -> Tensor:
    return features


@pytest.mark.parametrize(("norm", "normed"), [(no_norm, unchanged), (nn.BatchNorm2d, batch_normed)])
def test_attention_follows_the_formula_of_the_paper(
    norm: Norm, normed: Callable[[Tensor], Tensor]
) -> None:
    (feature, up), skip = pair(6), attention(6, 4, norm)

    def per_pixel(name: str, features: Tensor) -> Tensor:
        weight, bias = (skip.get_parameter(f"{name}.0.{part}") for part in ("weight", "bias"))
        score = torch.einsum("oi,nihw->nohw", weight.flatten(1), features)
        return normed(score + bias[:, None, None])

    hidden = (per_pixel("of_feature", feature) + per_pixel("of_up", up)).clamp(min=0)
    assert hidden.shape == (2, 3, 5, 7)
    expected = 1 / (1 + torch.exp(-per_pixel("psi", hidden)))
    opening = skip.opening(feature, up)
    torch.testing.assert_close(opening, expected)
    torch.testing.assert_close(skip(feature, up), torch.cat([expected * feature, up], dim=1))


@pytest.mark.parametrize("inputs", [1, 2, 5])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, group_norm, no_norm])
def test_attention_opens_each_pixel_between_0_and_1(norm: Norm, inputs: int) -> None:
    feature, up = pair(inputs)
    opening = attention(inputs, 4, norm).opening(feature, up)
    assert opening.shape == (2, 1, 5, 7)
    assert opening.min() >= 0
    assert opening.max() <= 1


def test_attention_without_openings_passes_the_decoder_alone() -> None:
    (feature, up), skip = pair(), attention(3, 4, no_norm)
    nn.init.constant_(skip.get_parameter("psi.0.bias"), -200)
    assert torch.equal(skip(feature, up), torch.cat([torch.zeros_like(feature), up], dim=1))


# Switch


def switch_with(log_odds: float) -> Switch:
    skip = Switch(3, 4)
    nn.init.constant_(skip.slow_log_odds, log_odds / SWITCH_SPEED)
    return skip


def draws_of(skip: Switch, count: int) -> Tensor:
    feature, up = pair()
    with torch.no_grad():
        return torch.stack([skip.opening(feature, up) for _ in range(count)])


@pytest.mark.parametrize("log_odds", [0.01, 2.0, 30.0])
def test_an_open_switch_concatenates_in_evaluation(log_odds: float) -> None:
    (feature, up), skip = pair(), switch_with(log_odds).eval()
    assert skip.is_open
    assert all(torch.equal(skip(feature, up), Concat(3, 4)(feature, up)) for _ in range(20))


@pytest.mark.parametrize("log_odds", [-0.01, -2.0, -30.0])
def test_a_closed_switch_passes_zeros_in_evaluation(log_odds: float) -> None:
    (feature, up), skip = pair(), switch_with(log_odds).eval()
    expected = torch.cat([torch.zeros_like(feature), up], dim=1)
    assert not skip.is_open
    assert all(torch.equal(skip(feature, up), expected) for _ in range(20))


def test_a_switch_starts_open_with_a_probability_of_97_percent() -> None:
    skip = Switch(3, 4)
    assert skip.is_open
    assert skip.log_odds.item() == pytest.approx(2.0)
    assert skip.probability().item() == pytest.approx(0.97, abs=0.005)


@pytest.mark.parametrize("log_odds", [-4.0, -1.6, 0.0, 2.0])
def test_the_probability_is_that_of_the_hard_concrete_distribution(log_odds: float) -> None:
    uniform = (np.arange(1_000_000) + 0.5) / 1_000_000
    odds = uniform / (1 - uniform) * math.exp(log_odds)
    concrete = odds ** (1 / TEMPERATURE) / (1 + odds ** (1 / TEMPERATURE))
    stretched = concrete * (ABOVE - BELOW) + BELOW
    share = (stretched > 0).mean()
    assert switch_with(log_odds).probability().item() == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize("log_odds", [-3.0, 0.0, 2.0])
def test_a_switch_is_drawn_as_often_as_its_probability_says(log_odds: float) -> None:
    torch.manual_seed(0)
    skip, count = switch_with(log_odds), 3000
    drawn = draws_of(skip, count)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    probability = skip.probability().item()
    deviation = math.sqrt(probability * (1 - probability) / count)
    assert (drawn > 0).float().mean().item() == pytest.approx(probability, abs=4 * deviation)


def test_a_drawn_switch_is_mostly_0_or_1_and_symmetric_at_even_odds() -> None:
    torch.manual_seed(0)
    drawn = draws_of(switch_with(0.0), 3000)
    closed, opened = (drawn == 0).float().mean().item(), (drawn == 1).float().mean().item()
    assert closed == pytest.approx(opened, abs=0.03)
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.03)


def test_one_draw_holds_for_the_whole_batch() -> None:
    (feature, up), skip = pair(), switch_with(0.0)
    torch.manual_seed(3)
    joined = skip(feature, up)
    torch.manual_seed(3)
    expected = torch.cat([skip.opening(feature, up) * feature, up], dim=1)
    assert torch.equal(joined, expected)
    assert skip.opening(feature, up).shape == ()


@pytest.mark.parametrize(("worth", "stays_open"), [(1.0, True), (0.0, False)])
def test_a_switch_stays_open_where_its_features_are_worth_the_penalty(
    worth: float, stays_open: bool
) -> None:
    torch.manual_seed(0)
    skip, features = Switch(1, 1), torch.ones(1, 1, 2, 2)
    optimizer = torch.optim.Adam(skip.parameters(), lr=0.01)
    for _ in range(200):
        passed = skip(features, torch.zeros_like(features))[:, :1]
        penalty = expected_open_switches(skip)
        assert penalty is not None
        loss = worth * (passed - features).square().mean() + 0.1 * penalty
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert skip.is_open == stays_open


def test_the_gradient_reaches_the_log_odds_through_the_drawn_switch() -> None:
    torch.manual_seed(0)
    (feature, up), skip = pair(), switch_with(0.0)
    total = torch.zeros(())
    for _ in range(50):
        total = total + skip(feature.abs(), up)[:, :3].sum()
    (gradient,) = torch.autograd.grad(total, skip.slow_log_odds)
    assert gradient.item() > 0  # the more open, the more passes


def test_the_expected_number_of_open_switches_is_the_sum_over_the_network() -> None:
    network = nn.ModuleList([switch_with(-3), nn.Sequential(switch_with(1)), Concat(3, 4)])
    found = expected_open_switches(network)
    expected = switch_with(-3).probability() + switch_with(1).probability()
    assert found is not None
    torch.testing.assert_close(found, expected)


def test_without_switches_nothing_is_expected() -> None:
    assert expected_open_switches(nn.ModuleList([Concat(3, 4), Gated(3, 4)])) is None


# Crop


def test_crop_takes_the_middle() -> None:
    feature = nn.functional.pad(torch.ones(1, 1, 4, 6), (3, 3, 2, 2))
    assert torch.equal(crop(feature, torch.empty(1, 9, 4, 6)), torch.ones(1, 1, 4, 6))


def test_crop_leaves_equal_sizes_alone() -> None:
    feature = torch.randn(2, 3, 5, 7)
    assert torch.equal(crop(feature, torch.empty(2, 1, 5, 7)), feature)
