"""Updates: what is called stuck does not move, and what is not called so does."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from unetseg.skiplab.updates import measure_update, stuck


def drawn(low: float, high: float, seed: int) -> Tensor:
    """Numbers of either sign, their exponents of ten spread evenly."""
    generator = torch.Generator().manual_seed(seed)
    exponents = low + (high - low) * torch.rand(20_000, generator=generator)
    signs = torch.randint(2, (20_000,), generator=generator) * 2 - 1
    return signs * 10**exponents


def test_the_founding_example() -> None:
    weight, gradient = torch.ones(1), torch.full((1,), 1e-15)
    assert 1 - 1e-4 * 1e-15 == 1.0  # 1e-19 is too little for float64 even
    assert stuck(weight, gradient, 1e-4, torch.float32).all()
    assert gradient.half().item() == 0
    assert stuck(torch.zeros(1), gradient, 1e-4, torch.float16).all()
    assert not stuck(torch.zeros(1), gradient, 1e-4, torch.float32).any()


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


def test_nothing_moves_without_a_gradient_and_all_with_a_large_one() -> None:
    weight = drawn(-2, 2, seed=4)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert stuck(weight, torch.zeros_like(weight), 1.0, dtype).all()
        assert not stuck(weight, weight, 0.1, dtype).any()


def test_an_update_by_hand() -> None:
    weight = torch.tensor([1.0, -2.0, 4.0, 0.0])
    gradient = torch.tensor([0.5, 4.0, -1e-9, 3.0])
    update = measure_update(weight, gradient, lr=0.1)
    assert update.gradient == pytest.approx(math.sqrt(0.25 + 16 + 9))
    assert update.smallest == pytest.approx(0.1 * 1e-9 / 4)
    assert update.median == pytest.approx(0.1 * 0.5)
    assert update.stuck_float32 == update.stuck_bf16 == 0.25


def test_tiny_gradients_have_a_norm_and_endless_ones_are_endless() -> None:
    weight = torch.ones(4)
    assert measure_update(weight, torch.full((4,), 1e-23), 0.1).gradient == pytest.approx(2e-23)
    assert measure_update(weight, torch.zeros(4), 0.1).stuck_float32 == 1
    for wrong in (math.nan, math.inf):
        assert measure_update(weight, torch.tensor([1, wrong, 1, 1]), 0.1).gradient == math.inf
    assert math.isnan(measure_update(torch.zeros(2), torch.ones(2), 0.1).median)
