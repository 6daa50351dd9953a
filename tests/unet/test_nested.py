"""Nested skips, beside UNet++ written out node by node."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unetseg.config import NetworkConfig
from unetseg.unet.build import build_unet
from unetseg.unet.model import UNet
from unetseg.unet.nested import NestedPathway, Node


def build(**settings: Any) -> UNet:
    torch.manual_seed(0)
    return build_unet(NetworkConfig(**settings), 3, 2).eval()


def nodes_of(network: UNet) -> list[int]:
    """How many nodes every level has, full resolution first."""
    pathway = network.decoder.pathway
    assert isinstance(pathway, NestedPathway)
    return [sum(isinstance(m, Node) for m in level.modules()) for level in pathway.nodes]


def unet_plus_plus(network: UNet, depth: int, image: Tensor) -> Tensor:
    """Figure 1a of Zhou 2018 column by column, with the convolutions of `network`."""
    x = {(i, 0): feature for i, feature in enumerate(network.encoder(image))}
    for j in range(1, depth + 1):
        for i in range(depth + 1 - j):
            last = i + j == depth  # the nodes of the outer diagonal are the decoder
            name = f"decoder.steps.{i}" if last else f"decoder.pathway.nodes.{i}.{j - 1}"
            up, block = (network.get_submodule(f"{name}.{part}") for part in ("up", "block"))
            row = [x[i, k] for k in range(j)]
            x[i, j] = block(torch.cat([*row, up(x[i + 1, j - 1])], dim=1))
    logits: Tensor = network.head(x[0, depth])
    return logits


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("up", ["transpose", "bilinear"])
@torch.no_grad()
def test_nested_skips_make_unet_plus_plus(depth: int, up: str) -> None:
    network = build(depth=depth, width=4, skip=("nested",), up=up)
    image = torch.randn(1, 3, 32, 48)
    torch.testing.assert_close(network(image), unet_plus_plus(network, depth, image))


def test_level_i_has_a_node_less_than_levels_below_it() -> None:
    assert nodes_of(build(depth=4, width=4, skip=("nested",))) == [3, 2, 1, 0]


def test_one_nested_level_is_a_u_net() -> None:
    network = build(depth=1, width=4, skip=("nested",))
    assert isinstance(network.decoder.pathway, nn.Identity)


@torch.no_grad()
def test_levels_of_other_kinds_have_no_nodes() -> None:
    network = build(depth=4, width=4, skip=("nested", "concat", "nested", "none"))
    counts = nodes_of(network)
    assert counts[1] == counts[3] == 0
    assert counts[0] >= 1
    assert network(torch.randn(1, 3, 17, 31)).shape == (1, 2, 17, 31)


@torch.no_grad()
def test_a_node_joins_its_row_and_the_level_below() -> None:
    """Levels 0 and 1 of three: X⁰¹ of [X⁰⁰, up X¹⁰]; level 0 hands on [X⁰⁰, X⁰¹]."""
    network = build(depth=2, width=4, skip=("nested",))
    first, second = torch.randn(1, 4, 8, 8), torch.randn(1, 8, 4, 4)
    top, lower = network.decoder.pathway([first, second])
    up, block = (
        network.get_submodule(f"decoder.pathway.nodes.0.0.{part}") for part in ("up", "block")
    )
    node = block(torch.cat([first, up(second)], dim=1))
    torch.testing.assert_close(top, torch.cat([first, node], dim=1))
    assert torch.equal(lower, second)


@torch.no_grad()
def test_nodes_may_stand_on_an_encoder_of_any_widths() -> None:
    network = build(depth=3, encoder="resnet18", skip=("nested",))
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(network(image), unet_plus_plus(network, 3, image))
