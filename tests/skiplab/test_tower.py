"""Towers: published parameter counts, and the laws of what shortcuts do to a gradient."""

import math

import pytest
import torch
from torch import Tensor, nn

from unetseg.config import BlockKind, NetworkConfig, ShortcutKind
from unetseg.errors import ConfigError
from unetseg.skiplab.tower import Stack, build_resnet, build_stack, check_depths


def stack(depth: int, **network: object) -> Stack:
    torch.manual_seed(0)
    return build_stack(NetworkConfig.model_validate(network), depth)


def images(seed: int = 1) -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def first_gradient(network: Stack) -> Tensor:
    weight = network.get_parameter("first.0.weight")
    return torch.autograd.grad(network(images()).square().mean(), weight)[0]


# ------------------------------------------------------------------ ResNets


@pytest.mark.parametrize(
    ("depth", "parameters"),
    [
        (20, 269_722),
        (32, 464_154),
        (44, 658_586),
        (56, 853_018),
        (110, 1_727_962),
        (1202, 19_421_274),
    ],
)
def test_resnets_have_the_published_number_of_parameters(depth: int, parameters: int) -> None:
    assert sum(p.numel() for p in build_resnet(depth).parameters()) == parameters


@pytest.mark.parametrize(("shortcut", "parameters"), [("none", 853_018), ("identity", 855_770)])
def test_only_projections_cost_parameters(shortcut: ShortcutKind, parameters: int) -> None:
    assert sum(p.numel() for p in build_resnet(56, shortcut).parameters()) == parameters


def test_a_resnet_halves_the_resolution_twice() -> None:
    network = build_resnet(8, classes=7)
    image = torch.randn(2, 3, 16, 16)
    assert network(image).shape == (2, 7)
    shapes = [network.stages[: n + 1](network.first(image)).shape[1:] for n in range(3)]
    assert shapes == [(16, 16, 16), (32, 8, 8), (64, 4, 4)]


@pytest.mark.parametrize("depth", [2, 6, 21, 55])
def test_other_depths_are_no_resnets(depth: int) -> None:
    with pytest.raises(ConfigError, match="6n \\+ 2"):
        build_resnet(depth)


# ------------------------------------------------------------------ stacks


@pytest.mark.parametrize(("block", "depth"), [("plain", 12), ("residual", 20), ("dense", 10)])
def test_a_stack_has_as_many_convolutions_as_it_is_deep(block: BlockKind, depth: int) -> None:
    network = stack(depth, block=block)
    kernels = [m.kernel_size for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert kernels.count((3, 3)) == depth
    assert network(images()).shape == (2, 16, 8, 8)


def test_refused_depths_are_all_listed_with_their_neighbours() -> None:
    with pytest.raises(ConfigError) as caught:
        check_depths([10, 20, 56], "dense")
    assert caught.value.offenders == ["depth 20", "depth 56"]
    assert "--depths 10,18,58" in caught.value.fix
    check_depths([10, 18, 58], "dense")


@pytest.mark.parametrize("init", ["torch", "he", "xavier", "orthogonal"])
def test_all_that_comes_out_is_from_the_image(init: str) -> None:
    network = stack(12, norm="none", init=init)
    assert torch.count_nonzero(network(torch.zeros(1, 3, 8, 8))) == 0
    torch.testing.assert_close(network(2 * images()), 2 * network(images()))


def test_identity_shortcuts_hand_the_gradient_through_unchanged() -> None:
    deep = stack(22, block="residual")
    for block in deep.blocks:
        nn.init.zeros_(block.get_parameter("branch.4.weight"))  # of the last norm: F(x) = 0
    shallow = Stack(deep.first, [], deep.last)
    assert torch.equal(first_gradient(deep), first_gradient(shallow))


def test_without_shortcuts_nothing_comes_through_a_silent_branch() -> None:
    deep = stack(22, block="residual", shortcut="none")
    nn.init.zeros_(deep.blocks[4].get_parameter("branch.4.weight"))
    assert torch.count_nonzero(first_gradient(deep)) == 0


def test_rezero_starts_as_no_block_at_all_and_learns_alpha_first() -> None:
    deep = stack(22, block="residual", shortcut="rezero", norm="none")
    shallow = Stack(deep.first, [], deep.last)
    assert torch.equal(deep(images()), shallow(images()))
    assert torch.equal(first_gradient(deep), first_gradient(shallow))
    named = dict(deep.blocks.named_parameters())
    gradients = torch.autograd.grad(deep(images()).square().mean(), list(named.values()))
    for name, gradient in zip(named, gradients, strict=True):
        assert bool(gradient.any()) == name.endswith("alpha"), name


def test_a_tower_of_a_hundred_layers_tells_images_apart_with_shortcuts_only() -> None:
    def last_loss(shortcut: str) -> float:
        network = stack(102, block="residual", shortcut=shortcut, norm="none")
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
        loss = torch.tensor(0.0)
        for _ in range(20):
            logits = network(images()).mean((2, 3))
            loss = nn.functional.cross_entropy(logits, torch.tensor([3, 7]))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        return loss.item()

    guessing = math.log(2)  # which of the two labels it is: as far as the last bias comes alone
    assert last_loss("rezero") < 0.5 * guessing
    assert last_loss("none") > 0.9 * guessing
