"""First weights: their variance by the papers, and what initialisation leaves alone."""

import math
from typing import Any, get_args

import pytest
import torch
from torch import nn

from unetseg.config import InitKind, NetworkConfig
from unetseg.unet.blocks import DenseBlock, PlainBlock, no_norm
from unetseg.unet.build import build_unet
from unetseg.unet.initialisation import initialise
from unetseg.unet.shortcuts import Gate

KINDS: tuple[InitKind, ...] = get_args(InitKind)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(64, 128, 3), math.sqrt(2 / (9 * 64))),
        (nn.Conv2d(256, 512, 1), math.sqrt(1 / 256)),
        (nn.ConvTranspose2d(256, 128, 2, stride=2), math.sqrt(1 / 256)),
    ],
)
def test_he_weights_have_the_deviation_of_the_fan_in(layer: nn.Module, expected: float) -> None:
    initialise(layer)
    assert isinstance(layer.weight, torch.Tensor)
    assert layer.weight.std().item() == pytest.approx(expected, rel=0.02)
    assert layer.weight.mean().item() == pytest.approx(0, abs=expected / 50)


def test_he_weights_carry_the_signal_through_fifty_layers() -> None:
    layers = nn.Sequential(*[PlainBlock(32, 32, no_norm) for _ in range(25)])
    initialise(layers)
    with torch.no_grad():
        last = layers(torch.randn(1, 32, 64, 64))
    assert 1e-4 < last.square().mean().item() < 100  # with half the gain it is 1e-15


@pytest.mark.parametrize("layer", [nn.Conv2d(64, 128, 3), nn.Conv2d(256, 512, 1)])
def test_xavier_weights_are_spread_as_torch_spreads_them(layer: nn.Conv2d) -> None:
    reference = nn.init.xavier_normal_(torch.empty_like(layer.weight))
    initialise(layer, "xavier")
    assert layer.weight.std().item() == pytest.approx(reference.std().item(), rel=0.02)
    fans = layer.weight[0].numel() + layer.weight[:, 0].numel()
    assert layer.weight.var().item() == pytest.approx(2 / fans, rel=0.04)


@pytest.mark.parametrize(
    ("layer", "gain"), [(nn.Conv2d(16, 32, 3), math.sqrt(2)), (nn.Conv2d(64, 32, 1), 1.0)]
)
def test_orthogonal_rows_are_at_right_angles(layer: nn.Conv2d, gain: float) -> None:
    initialise(layer, "orthogonal")
    rows = layer.weight.detach().flatten(1)
    torch.testing.assert_close(rows @ rows.T, gain**2 * torch.eye(32), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["he", "xavier", "orthogonal"])
def test_biases_start_at_0(kind: InitKind) -> None:
    block = PlainBlock(3, 8, no_norm)
    initialise(block, kind)
    assert not block.get_parameter("0.bias").any()
    assert not block.get_parameter("3.bias").any()


def test_the_weights_of_torch_stay_as_they_are() -> None:
    block = PlainBlock(3, 8, no_norm)
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    initialise(block, "torch")
    assert all(torch.equal(tensor, before[name]) for name, tensor in block.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_norms_start_as_the_identity(kind: InitKind) -> None:
    block = PlainBlock(3, 8, nn.BatchNorm2d)
    initialise(block, kind)
    for norm in (block[1], block[4]):
        assert isinstance(norm, nn.BatchNorm2d)
        assert bool((norm.weight == 1).all())
        assert not norm.bias.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("settings", "bias", "gates"),
    [
        ({"block": "residual", "shortcut": "gated"}, -2.0, 5),
        ({"skip": ("gated",)}, 2.0, 2),
    ],
)
def test_gates_keep_their_start(
    kind: InitKind, settings: dict[str, Any], bias: float, gates: int
) -> None:
    network = build_unet(NetworkConfig(depth=2, width=4, init=kind, **settings), 3, 2)
    found = [module for module in network.modules() if isinstance(module, Gate)]
    assert len(found) == gates
    for gate in found:
        assert gate.bias is not None
        assert not gate.weight.any()
        assert bool((gate.bias == bias).all())


@pytest.mark.parametrize("kind", KINDS)
def test_learned_factors_keep_their_start(kind: InitKind) -> None:
    settings: dict[str, Any] = {"block": "residual", "shortcut": "rezero", "skip": ("learned",)}
    network = build_unet(NetworkConfig(depth=2, width=4, init=kind, alpha=0.3, **settings), 3, 2)
    factors = [p.item() for p in network.parameters() if p.ndim == 0]
    assert factors == pytest.approx([0.3] * 7)


def test_he_weights_carry_the_signal_through_ten_dense_blocks() -> None:
    layers = nn.Sequential(*[DenseBlock(16, 16, no_norm, growth=4) for _ in range(10)])
    initialise(layers)
    with torch.no_grad():
        last = layers(torch.randn(1, 16, 64, 64))
    assert 0.02 < last.square().mean().item() < 5  # with gain 1 in the transitions it is 7e-4


@pytest.mark.parametrize("kind", ["he", "orthogonal"])
def test_a_transposed_convolution_keeps_the_variance(kind: InitKind) -> None:
    layer = nn.ConvTranspose2d(64, 32, 2, stride=2)
    initialise(layer, kind)
    with torch.no_grad():
        assert layer(torch.randn(4, 64, 32, 32)).var().item() == pytest.approx(1, rel=0.05)


def test_xavier_counts_the_four_pixels_that_each_pixel_of_a_transposed_convolution_feeds() -> None:
    layer = nn.ConvTranspose2d(64, 32, 2, stride=2)
    initialise(layer, "xavier")
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (64 + 4 * 32)), rel=0.05)
