"""Shortcuts: what of x and F(x) goes on, exactly, and which way the gradient takes."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unetseg.unet.blocks import no_norm
from unetseg.unet.shortcuts import (
    Deactivable,
    Gate,
    Highway,
    NoShortcut,
    Projection,
    ScaledBranch,
    ScaledInput,
    Sum,
    ZeroPad,
    identity_or_projection,
)

MakeJoin = Callable[[nn.Module], nn.Module]
"""Makes a shortcut of four channels around the path it is given."""


class Branch(nn.Conv2d):
    """F: one convolution of four channels that counts how often it is computed."""

    def __init__(self) -> None:
        super().__init__(4, 4, 3, padding=1)
        self.calls = 0

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 — torch's name
        self.calls += 1
        return super().forward(input)


@pytest.fixture
def features() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 4, 5, 6)


# Paths


def test_equal_shapes_take_the_identity(features: Tensor) -> None:
    path = identity_or_projection(4, 4, nn.BatchNorm2d)
    assert torch.equal(path(features), features)
    assert not list(path.parameters())


def test_other_shapes_take_a_projection(features: Tensor) -> None:
    path = identity_or_projection(4, 7, nn.BatchNorm2d)
    assert isinstance(path, Projection)
    assert path(features).shape == (2, 7, 5, 6)


def test_a_projection_without_norm_is_a_matrix_and_a_bias_per_pixel(features: Tensor) -> None:
    projection = Projection(4, 7, no_norm)
    weight, bias = projection.get_parameter("0.weight"), projection.get_parameter("0.bias")
    expected = torch.einsum("oi,nihw->nohw", weight.flatten(1), features) + bias[:, None, None]
    torch.testing.assert_close(projection(features), expected)


def test_only_a_projection_without_norm_has_a_bias() -> None:
    assert Projection(4, 7, nn.BatchNorm2d)[0].bias is None
    assert Projection(4, 7, no_norm)[0].bias is not None


def test_zero_padding_adds_channels_of_zeros(features: Tensor) -> None:
    path = ZeroPad(4, 7, no_norm)
    padded = path(features)
    assert padded.shape == (2, 7, 5, 6)
    assert torch.equal(padded[:, :4], features)
    assert not padded[:, 4:].any()
    assert not list(path.parameters())


def test_zero_padding_of_equal_shapes_is_the_identity(features: Tensor) -> None:
    assert torch.equal(ZeroPad(4, 4, no_norm)(features), features)


def test_where_channels_become_fewer_the_last_go_on(features: Tensor) -> None:
    feature, up = features[:, :1], features[:, 1:]
    assert torch.equal(ZeroPad(4, 3, no_norm)(torch.cat([feature, up], dim=1)), up)


# Laws of the joins


@pytest.mark.parametrize("path", [nn.Identity(), Projection(4, 4, no_norm)])
def test_rezero_with_alpha_0_is_the_path(features: Tensor, path: nn.Module) -> None:
    assert torch.equal(ScaledBranch(path)(features, Branch()), path(features))


@pytest.mark.parametrize("path", [nn.Identity(), Projection(4, 4, no_norm)])
def test_a_learned_shortcut_with_alpha_0_is_the_branch(features: Tensor, path: nn.Module) -> None:
    branch = Branch()
    assert torch.equal(ScaledInput(path, alpha=0.0)(features, branch), branch(features))


@pytest.mark.parametrize("join", [ScaledBranch, ScaledInput])
def test_alpha_1_is_the_residual_sum(
    features: Tensor, join: type[ScaledBranch | ScaledInput]
) -> None:
    branch = Branch()
    expected = Sum(nn.Identity())(features, branch)
    assert torch.equal(expected, features + branch(features))
    assert torch.equal(join(nn.Identity(), alpha=1.0)(features, branch), expected)


def test_alpha_weighs_its_own_side(features: Tensor) -> None:
    branch = Branch()
    of_branch = ScaledBranch(nn.Identity(), alpha=0.25)(features, branch)
    of_input = ScaledInput(nn.Identity(), alpha=0.25)(features, branch)
    torch.testing.assert_close(of_branch, features + branch(features) / 4)
    torch.testing.assert_close(of_input, features / 4 + branch(features))


def test_rezero_moves_alpha_before_the_branch(features: Tensor) -> None:
    join, branch = ScaledBranch(nn.Identity()), Branch()
    join(features, branch).square().sum().backward()
    assert join.alpha.grad is not None
    assert join.alpha.grad.item() != 0
    assert branch.weight.grad is not None
    assert not branch.weight.grad.any()


def highway_with(bias: float) -> Highway:
    join = Highway(nn.Identity(), 4)
    nn.init.constant_(join.get_parameter("gate.bias"), bias)
    return join


def test_a_closed_highway_carries_and_an_open_one_transforms(features: Tensor) -> None:
    branch = Branch()
    torch.testing.assert_close(highway_with(-50)(features, branch), features)
    torch.testing.assert_close(highway_with(50)(features, branch), branch(features))


def test_a_highway_starts_by_carrying_88_percent(features: Tensor) -> None:
    branch = Branch()
    gate = 1 / (1 + math.exp(2))
    expected = gate * branch(features) + (1 - gate) * features
    torch.testing.assert_close(Highway(nn.Identity(), 4)(features, branch), expected)


def test_a_highway_decides_for_each_channel_and_pixel_by_what_is_there(features: Tensor) -> None:
    join, branch = Highway(nn.Identity(), 4), Branch()
    nn.init.normal_(join.gate.weight)
    weight, bias = join.gate.weight.flatten(1), join.get_parameter("gate.bias")
    score = torch.einsum("oi,nihw->nohw", weight, features) + bias[:, None, None]
    gate = 1 / (1 + torch.exp(-score))
    expected = gate * branch(features) + (1 - gate) * features
    torch.testing.assert_close(join(features, branch), expected)


def test_the_control_is_the_branch_alone(features: Tensor) -> None:
    branch = Branch()
    assert torch.equal(NoShortcut()(features, branch), branch(features))
    assert not list(NoShortcut().parameters())


@pytest.mark.parametrize(
    "join",
    [
        Sum,
        ScaledInput,
        lambda path: ScaledBranch(path, 0.5),
        lambda path: Highway(path, 4),
        lambda path: Deactivable(path, 0.7),
    ],
)
def test_every_join_takes_the_input_by_its_path(features: Tensor, join: MakeJoin) -> None:
    branch, path = Branch(), Projection(4, 4, no_norm)
    expected = join(nn.Identity()).eval()(path(features), lambda _: branch(features))
    assert torch.equal(join(path).eval()(features, branch), expected)


# The gradient


def test_the_gradient_through_an_identity_is_the_upstream_one_plus_the_branchs(
    features: Tensor,
) -> None:
    branch, upstream = Branch(), torch.randn(2, 4, 5, 6)
    features.requires_grad_()
    (of_branch,) = torch.autograd.grad(branch(features), features, upstream)
    (of_sum,) = torch.autograd.grad(Sum(nn.Identity())(features, branch), features, upstream)
    assert torch.equal(of_sum, upstream + of_branch)


def test_a_thousand_silent_blocks_hand_the_gradient_down_untouched(features: Tensor) -> None:
    def silent(inputs: Tensor) -> Tensor:
        return 0 * inputs

    join, upstream = Sum(nn.Identity()), torch.randn(2, 4, 5, 6)
    features.requires_grad_()
    output = features
    for _ in range(1000):
        output = join(output, silent)
    (gradient,) = torch.autograd.grad(output, features, upstream)
    assert torch.equal(gradient, upstream)


# Stochastic depth


def kept_and_dropped(join: Deactivable, features: Tensor, branch: Branch) -> list[Tensor]:
    """The outputs in training with b = 1 and b = 0."""
    found: dict[int, Tensor] = {}
    while len(found) < 2:
        before = branch.calls
        output = join.train()(features, branch)
        found[branch.calls - before] = output
    return [found[1], found[0]]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("survival", [0.25, 0.5, 0.8])
def test_the_mean_over_training_is_the_evaluation(
    features: Tensor, survival: float, whole: bool
) -> None:
    join, branch = Deactivable(nn.Identity(), survival, whole=whole), Branch()
    kept, dropped = kept_and_dropped(join, features, branch)
    mean = survival * kept + (1 - survival) * dropped
    torch.testing.assert_close(join.eval()(features, branch), mean)


@pytest.mark.parametrize("survival", [0.25, 0.8])
def test_the_branch_is_computed_as_often_as_it_survives(features: Tensor, survival: float) -> None:
    join, branch = Deactivable(nn.Identity(), survival), Branch()
    draws = 2000
    with torch.no_grad():
        for _ in range(draws):
            join(features, branch)
    deviation = math.sqrt(survival * (1 - survival) / draws)
    assert branch.calls / draws == pytest.approx(survival, abs=4 * deviation)


@pytest.mark.parametrize(("whole", "weight"), [(False, 0.75), (True, 1.0)])
def test_evaluation_weighs_the_branch_by_its_survival_or_takes_it_whole(
    features: Tensor, whole: bool, weight: float
) -> None:
    join, branch = Deactivable(nn.Identity(), 0.75, whole=whole).eval(), Branch()
    first = join(features, branch)
    torch.testing.assert_close(first, features + weight * branch(features))
    assert all(torch.equal(join(features, branch), first) for _ in range(20))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("whole", [False, True])
def test_a_block_that_always_survives_is_residual(
    features: Tensor, whole: bool, training: bool
) -> None:
    join, branch = Deactivable(nn.Identity(), 1.0, whole=whole).train(training), Branch()
    expected = Sum(nn.Identity())(features, branch)
    assert all(torch.equal(join(features, branch), expected) for _ in range(20))


def test_a_dropped_branch_is_not_computed_and_the_input_goes_on(features: Tensor) -> None:
    join, branch = Deactivable(nn.Identity(), 1e-9), Branch()
    assert torch.equal(join(features, branch), features)
    assert branch.calls == 0


# Gates


def test_a_gate_starts_as_one_number(features: Tensor) -> None:
    torch.testing.assert_close(Gate(4, 3, 0.75)(features), torch.full((2, 3, 5, 6), 0.75))
