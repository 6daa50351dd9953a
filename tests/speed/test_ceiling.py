"""Products of matrices and copies: what they compute, and what is counted."""

import pytest
import torch

from unetseg.speed import ceiling
from unetseg.speed.ceiling import Product, copy_bandwidth, fitting_product
from unetseg.speed.memory import PeakMemory

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_one(dtype: torch.dtype) -> None:
    product = Product(CPU, dtype, 64)
    product()
    exact = product._left.double() @ product._right.double()
    error = (product._product.double() - exact).norm() / exact.norm()
    assert error < (1e-5 if dtype == torch.float32 else 1e-2)


def test_a_product_of_1000_takes_two_gigaflop() -> None:
    product = Product(CPU, torch.float32, 1000)
    assert product.gflop == pytest.approx(2)
    assert product.ceiling(0.5).gflops == pytest.approx(4)


def test_the_product_is_as_large_as_the_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "LONGEST", 0.0)
    assert fitting_product(CPU, torch.float32).side == ceiling.SMALLEST_SIDE
    monkeypatch.setattr(ceiling, "LONGEST", 60.0)
    monkeypatch.setitem(ceiling.LARGEST_SIDE, "cpu", 1024)
    assert fitting_product(CPU, torch.float32).side == 1024


def test_a_copy_is_timed() -> None:
    assert 0.01 < copy_bandwidth(CPU) < 10_000


def test_the_peak_counts_what_is_gone_by_the_end() -> None:
    with PeakMemory(CPU) as memory:
        gone = torch.ones(64 * 2**18)  # 64 MiB
        del gone
    if memory.mebibytes is None:
        pytest.skip("this system does not tell")
    assert 60 < memory.mebibytes < 100


def test_what_was_taken_before_is_not_counted() -> None:
    before = torch.ones(64 * 2**18)
    with PeakMemory(CPU) as memory:
        torch.ones(2**18)
    assert memory.mebibytes is None or memory.mebibytes < 40
    assert len(before)
