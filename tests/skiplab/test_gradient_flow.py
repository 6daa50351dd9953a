"""The gradient of every layer as a backward pass has it; what is stuck does not move."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unetseg.config import NetworkConfig, TrainingConfig
from unetseg.skiplab.gradient_flow import (
    Case,
    find_layers,
    follow,
    measure,
    measure_update,
    stuck,
    unet_stages,
)
from unetseg.unet.build import build_unet

# ------------------------------------------------------------------ all layers


def test_norms_are_those_of_a_backward_pass() -> None:
    torch.manual_seed(0)
    network = build_unet(NetworkConfig(depth=2, width=4, skip=("learned", "attention")), 3, 2)
    image = torch.randn(2, 3, 16, 16)

    def loss(step: int) -> Tensor:
        logits: Tensor = network(image)
        return logits.square().mean()

    rows = measure(Case({}, network, unet_stages(network), loss, "square"), lr=0.1)
    torch.autograd.backward(loss(0))
    layers = find_layers(unet_stages(network))
    for row, layer in zip(rows, layers, strict=True):
        assert layer.weight.grad is not None
        assert row["gradient"] == pytest.approx(layer.weight.grad.norm().item(), rel=1e-4)
    assert {row["part"] for row in rows} == {"weights", "factor"}


@pytest.mark.parametrize("skip", ["concat", "nested"])
def test_layers_come_in_the_order_of_the_forward_pass(skip: Any) -> None:
    network = build_unet(NetworkConfig(depth=3, width=2, skip=(skip,)), 3, 2)
    called: list[nn.Module] = []
    stages = unet_stages(network)
    for _, part in stages:
        part.register_forward_hook(lambda part, *_: called.append(part))
    network(torch.randn(2, 3, 16, 16))
    assert called == [part for _, part in stages]
    layers = [layer for layer in find_layers(stages) if layer.weight.ndim]
    assert [layer.number for layer in layers] == list(range(len(layers)))
    found = {id(layer.weight) for layer in layers}
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))
    assert found == {id(m.weight) for m in convolutions}


def test_a_residual_block_begins_with_its_first_3x3_convolution() -> None:
    config = NetworkConfig(depth=1, width=2, block="residual", shortcut="projection")
    layers = find_layers(unet_stages(build_unet(config, 3, 2)))
    sides = [layer.weight.shape[-1] for layer in layers if layer.stage == "encoder 0"]
    assert sides == [3, 3, 1]
    assert (layers[0].number, layers[0].name.split(".")[-3:]) == (0, ["branch", "0", "weight"])


def test_a_step_that_is_no_number_is_not_taken() -> None:
    layer = nn.Conv2d(1, 1, 3)
    before = layer.weight.detach().clone()

    def loss(step: int) -> Tensor:
        return (layer.weight * torch.full((3, 3), math.inf if step == 0 else 2.0)).sum()

    case = Case({}, layer, [("only", layer)], loss, "sum")
    rows = follow(case, 0.1, 2, TrainingConfig(weight_decay=0))
    assert [(row["step"], row["gradient"]) for row in rows] == [(0, math.inf), (2, 6.0)]
    torch.testing.assert_close(before - layer.weight, torch.full_like(before, 0.1))  # one step


# ------------------------------------------------------------------ one layer


def drawn(low: float, high: float, seed: int) -> Tensor:
    """Numbers of either sign, their exponents of ten spread evenly."""
    generator = torch.Generator().manual_seed(seed)
    exponents = low + (high - low) * torch.rand(20_000, generator=generator)
    signs = torch.randint(2, (20_000,), generator=generator) * 2 - 1
    return signs * 10**exponents


@pytest.mark.parametrize(("torch_type", "numpy_type"), [("float32", "f4"), ("float16", "f2")])
def test_stuck_is_what_numpy_leaves_as_it_was(torch_type: str, numpy_type: str) -> None:
    weight, gradient = drawn(-3, 2, seed=0), drawn(-7, 0, seed=1)
    before = weight.numpy().astype(numpy_type)
    rounded = gradient.numpy().astype(numpy_type).astype("f4")
    after = before - (np.float32(0.01) * rounded).astype(numpy_type)
    found = stuck(weight, gradient, 0.01, getattr(torch, torch_type))
    np.testing.assert_array_equal(found.numpy(), after == before)
    assert 0.1 < found.double().mean() < 0.9


@pytest.mark.parametrize(
    ("dtype", "places"), [(torch.float32, 23), (torch.bfloat16, 7), (torch.float16, 10)]
)
def test_stuck_is_below_half_a_unit_in_the_last_place(dtype: torch.dtype, places: int) -> None:
    weight, gradient = drawn(-1, 2, seed=2), drawn(-8, 1, seed=3)
    exponent = torch.frexp(weight.to(dtype).double()).exponent - 1
    half_unit = torch.ldexp(torch.full_like(weight, 0.5).double(), exponent - places)
    step = (0.01 * gradient.to(dtype)).double().abs()
    found = stuck(weight, gradient, 0.01, dtype)
    # towards 0, the numbers below a power of two are twice as close
    edge = torch.frexp(weight.to(dtype).double().abs()).mantissa == 0.5
    assert found[(step < half_unit) & ~edge].all()
    assert not found[step > half_unit].any()


def test_an_update_by_hand() -> None:
    weight = torch.tensor([1.0, -2.0, 4.0, 0.0])
    gradient = torch.tensor([0.5, 4.0, -1e-9, 3.0])
    update = measure_update(weight, gradient, lr=0.1)
    assert update["gradient"] == pytest.approx(math.sqrt(0.25 + 16 + 9))
    assert update["smallest"] == pytest.approx(0.1 * 1e-9 / 4)
    assert update["median"] == pytest.approx(0.1 * 0.5)
    assert update["stuck_float32"] == update["stuck_bf16"] == 0.25


def test_tiny_gradients_have_a_norm_and_endless_ones_are_endless() -> None:
    weight = torch.ones(4)
    assert measure_update(weight, torch.full((4,), 1e-23), 0.1)["gradient"] == pytest.approx(2e-23)
    assert measure_update(weight, torch.zeros(4), 0.1)["stuck_float32"] == 1
    for wrong in (math.nan, math.inf):
        assert measure_update(weight, torch.tensor([1, wrong, 1, 1]), 0.1)["gradient"] == math.inf
    assert math.isnan(measure_update(torch.zeros(2), torch.ones(2), 0.1)["median"])
