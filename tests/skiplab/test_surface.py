"""Laws of filter-normalised directions, of surfaces over them, and of what is seen there."""

import math
from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from unetseg.skiplab.surface import (
    Floats,
    Surface,
    count_minima,
    loss_surface,
    random_direction,
    valley_radius,
)

AXIS = np.linspace(-1, 1, 5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def every_kind_of_layer() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


def test_each_filter_of_a_direction_is_as_long_as_that_of_the_weights() -> None:
    module = every_kind_of_layer()
    direction = random_direction(module, generator())
    assert set(direction) == {name for name, _ in module.named_parameters()}
    for name, output in (("0.weight", 0), ("3.weight", 1), ("4.weight", 0), ("6.weight", 0)):
        weights = module.get_parameter(name).movedim(output, 0).flatten(1)
        step = direction[name].movedim(output, 0).flatten(1)
        torch.testing.assert_close(step.norm(dim=1), weights.norm(dim=1))
        cosine = functional.cosine_similarity(step, weights)
        assert (cosine.abs() < 0.9).all()  # as long, but another way


def test_biases_and_norms_stay() -> None:
    direction = random_direction(every_kind_of_layer(), generator())
    for name in ("0.bias", "1.weight", "1.bias", "3.bias", "6.bias"):
        assert not direction[name].any()


def test_a_filter_ten_times_as_long_moves_ten_times_as_far() -> None:
    module = every_kind_of_layer()
    before = random_direction(module, generator())
    with torch.no_grad():
        module.get_parameter("0.weight")[2] *= 10
        module.get_parameter("3.weight")[:, 1] *= 10
    after = random_direction(module, generator())
    expected = {name: step.clone() for name, step in before.items()}
    expected["0.weight"][2] *= 10
    expected["3.weight"][:, 1] *= 10
    torch.testing.assert_close(after, expected)


def test_a_filter_of_zeros_stays() -> None:
    module = nn.Conv2d(2, 3, 3)
    with torch.no_grad():
        module.weight[1] = 0
    direction = random_direction(module, generator())
    assert [bool(step.any()) for step in direction["weight"]] == [True, False, True]


def test_the_surface_of_a_square_is_the_exact_parabola() -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 3).double()
    first, second = (random_direction(module, generator(seed)) for seed in (1, 2))

    def square(moved: nn.Module) -> float:
        return sum(float(p.detach().square().sum()) for p in moved.parameters())

    losses = loss_surface(module, square, (first, second), AXIS)
    w, d, e = (t.detach() for t in (module.weight, first["weight"], second["weight"]))
    ww, dd, ee = ((x * x).sum().item() for x in (w, d, e))
    wd, we, de = ((x * y).sum().item() for x, y in ((w, d), (w, e), (d, e)))
    a, b = AXIS[None, :], AXIS[:, None]
    expected = ww + a**2 * dd + b**2 * ee + 2 * (a * wd + b * we + a * b * de)
    expected += module.bias.detach().square().sum().item()
    np.testing.assert_allclose(losses, expected, rtol=1e-12)


def test_the_module_itself_never_moves_even_when_the_loss_fails() -> None:
    module = every_kind_of_layer()
    before = deepcopy(module.state_dict())
    directions = [random_direction(module, generator(seed)) for seed in (1, 2)]
    calls: Iterator[int] = iter(range(3))

    def failing(moved: nn.Module) -> float:
        moved.get_buffer("1.running_mean").fill_(7)
        return float(next(calls))

    with pytest.raises(StopIteration):
        loss_surface(module, failing, directions, AXIS)
    assert all(torch.equal(before[name], now) for name, now in module.state_dict().items())
    assert module.training


def cone(points: int, slope: float = 1.0) -> tuple[Floats, Floats]:
    axis = np.linspace(-1, 1, points)
    return axis, slope * np.hypot(axis, axis[:, None])


def test_the_valley_of_a_cone_is_as_wide_as_it_is_steep() -> None:
    for slope in (0.5, 1.0, 4.0):
        assert valley_radius(*cone(81, slope), 0.43) == pytest.approx(0.43 / slope, rel=0.02)
    assert valley_radius(*cone(21), 1.2) == pytest.approx(1.2, rel=0.02)  # in the corners
    assert valley_radius(*cone(21), 2.0) == math.inf


def test_a_valley_that_no_point_is_in_ends_at_the_nearest_point() -> None:
    axis, losses = cone(4)  # without a point in the middle
    assert valley_radius(axis, losses, 0.1) == pytest.approx(math.hypot(1 / 3, 1 / 3))


def test_a_valley_ends_where_the_loss_is_no_number() -> None:
    axis, losses = cone(21)
    for hole in (math.nan, math.inf):
        losses[10, 13] = hole
        assert valley_radius(axis, losses, 0.9) == pytest.approx(axis[12])


def test_minima_are_counted_inside_the_grid() -> None:
    axis = np.linspace(-1, 1, 41)
    waves = -np.cos(4 * np.pi * axis) - np.cos(4 * np.pi * axis[:, None])  # at multiples of ½
    assert count_minima(waves) == 9
    assert count_minima(axis + axis[:, None]) == 0
    assert count_minima(np.zeros((5, 5))) == 0
    waves[20, 20] = math.nan
    assert count_minima(waves) == 8


def test_points_off_the_scale_are_counted_and_left_out_of_the_extremes() -> None:
    axis, losses = cone(5)
    losses[0, 0], losses[4, 4] = math.nan, math.inf
    surface = Surface("net", axis, losses + 1, centre=1.0, as_trained=1.0, sharpness=None)
    assert surface.off_scale == 2
    assert surface.lowest == 1.0
    assert surface.highest == pytest.approx(1 + math.sqrt(2))
