"""Laws of the Hessian's largest eigenvalue: known ones are found."""

import math
from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unetseg.skiplab.sharpness import hessian_product, measure_sharpness
from unetseg.training.losses import dice_ce

AXIS = np.linspace(-1, 1, 5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Regression(nn.Module):
    """Weights w of three numbers; twice the loss is |Xw − y|²."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3))
        self.inputs, self.outputs = torch.randn(9, 3), torch.randn(9)

    def parts(self, module: nn.Module) -> Iterator[Tensor]:
        for rows in (slice(0, 4), slice(4, 9)):
            residual = self.inputs[rows] @ module.get_parameter("weight") - self.outputs[rows]
            yield residual.square().sum() / 2


def test_the_eigenvalue_of_a_linear_regression_is_that_of_its_inputs() -> None:
    module = Regression()
    exact = np.linalg.eigvalsh((module.inputs.T @ module.inputs).numpy())[-1]
    found = measure_sharpness(module, module.parts, iterations=100)
    assert found.eigenvalue == pytest.approx(exact, rel=0.01)
    assert found.eigenvalue <= exact * (1 + 1e-6)
    assert found.converged
    assert 1 < found.steps < 100


def test_few_steps_are_reported_as_not_converged() -> None:
    module = Regression()
    found = measure_sharpness(module, module.parts, iterations=1)
    assert (found.steps, found.converged) == (1, False)


def convolutions() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1)
    ).eval()


def full_hessian(module: nn.Module, image: Tensor, truth: Tensor) -> Tensor:
    """The Hessian by all parameters of `module`, one after the other, P×P."""
    parameters = dict(module.named_parameters())

    def loss(*values: Tensor) -> Tensor:
        moved = dict(zip(parameters, values, strict=True))
        logits = torch.func.functional_call(module, moved, image)
        return dice_ce(logits, truth)

    blocks = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
        loss, tuple(p.detach() for p in parameters.values())
    )
    sizes = [p.numel() for p in parameters.values()]
    rows = [
        torch.cat([b.reshape(n, -1) for b in row], 1) for n, row in zip(sizes, blocks, strict=True)
    ]
    return torch.cat(rows)


def test_a_network_has_the_eigenvalue_of_its_full_hessian() -> None:
    module, image = convolutions(), torch.randn(2, 1, 8, 8)
    truth = torch.randint(0, 2, (2, 6, 6), dtype=torch.uint8)
    hessian = full_hessian(module, image, truth)
    values = torch.linalg.eigvalsh(hessian)
    exact = values[values.abs().argmax()].item()
    before = deepcopy(module.state_dict())
    found = measure_sharpness(module, lambda m: [dice_ce(m(image), truth)], iterations=200)
    assert found.converged
    assert found.eigenvalue == pytest.approx(exact, rel=0.01)
    assert all(torch.equal(before[name], now) for name, now in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_a_hessian_product_is_the_hessian_times_the_vector() -> None:
    module, image = convolutions(), torch.randn(2, 1, 8, 8)
    truth = torch.randint(0, 2, (2, 6, 6), dtype=torch.uint8)
    parameters = list(module.parameters())
    vector = [torch.randn_like(p) for p in parameters]
    product = hessian_product([dice_ce(module(image), truth)], parameters, vector)
    expected = full_hessian(module, image, truth) @ torch.cat([v.flatten() for v in vector])
    actual = torch.cat([part.flatten() for part in product])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("curvatures", "expected"), [((-5.0, 1.0, 2.0), -5.0), ((0.0, 0.0, 0.0), 0.0)]
)
def test_a_loss_that_bends_down_or_not_at_all(
    curvatures: tuple[float, ...], expected: float
) -> None:
    module = Regression()
    bends = torch.tensor(curvatures)

    def parts(moved: nn.Module) -> list[Tensor]:
        return [(bends * moved.get_parameter("weight").square()).sum() / 2]

    found = measure_sharpness(module, parts, iterations=50)
    assert found.eigenvalue == pytest.approx(expected, abs=1e-2)
    assert found.converged


def test_a_loss_that_is_no_number_has_no_sharpness() -> None:
    module = Regression()
    found = measure_sharpness(
        module, lambda m: [m.get_parameter("weight").square().sum() * math.inf], iterations=5
    )
    assert not math.isfinite(found.eigenvalue)
    assert (found.steps, found.converged) == (1, False)
