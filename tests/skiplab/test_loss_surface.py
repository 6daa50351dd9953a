"""Laws of the loss: what it weighs, known eigenvalues, directions as long as the filters."""

import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from tests.builders import CPU, bundle_info
from tests.skiplab.builders import view_of
from unetseg.bundle import build_segmenter
from unetseg.data.masks.class_map import IGNORED
from unetseg.errors import DataError
from unetseg.skiplab.look import Subject, View
from unetseg.skiplab.loss_surface import (
    Floats,
    Surface,
    count_minima,
    hessian_product,
    images_loss,
    loss_surface,
    measure_sharpness,
    random_direction,
    recompute_statistics,
    valley_radius,
)
from unetseg.training.losses import SegmentationLoss

AXIS = np.linspace(-1, 1, 5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------ on the images


def subject_of(*views: View, norm: str = "batch") -> Subject:
    """A U-Net with random weights that looks at `views` of three bands and two classes."""
    torch.manual_seed(0)
    info = bundle_info({"norm": norm})
    return Subject(Path("run"), build_segmenter(info).eval(), info, CPU, "val", views)


def random_view(name: str, height: int, width: int, ignored: int = 0) -> View:
    """Random pixels and truth, the first `ignored` rows without a truth."""
    rng = np.random.default_rng(len(name) + height)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    truth = rng.integers(0, 2, (height, width), dtype=np.uint8)
    truth[:ignored] = IGNORED
    return view_of(image, truth, name)


def test_the_loss_is_that_of_each_image_weighed_by_its_counted_pixels() -> None:
    views = (
        random_view("a", 32, 32),
        random_view("b", 48, 32, ignored=40),
        random_view("c", 32, 32),
    )
    subject = subject_of(*views)
    of_image = SegmentationLoss("dice_ce", foreground=(1,))
    expected, pixels = 0.0, 0
    for view in views:
        counted = int((view.truth != IGNORED).sum())
        with torch.no_grad():
            logits = subject.segmenter(view.tensor, view.statistics)
        loss = of_image(logits, torch.from_numpy(view.truth[None]))
        expected, pixels = expected + counted * loss.item(), pixels + counted
    assert images_loss(subject)(subject.segmenter) == pytest.approx(expected / pixels, rel=1e-5)


def test_the_loss_does_not_depend_on_how_images_are_batched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = subject_of(*(random_view("v" * i, 32, 32) for i in range(1, 6)))
    together = images_loss(subject)
    monkeypatch.setattr("unetseg.skiplab.loss_surface.PIXELS_AT_ONCE", 2 * 32 * 32)
    apart = images_loss(subject)
    assert [len(batch.shares) for batch in together.batches] == [5]
    assert [len(batch.shares) for batch in apart.batches] == [2, 2, 1]
    assert apart(subject.segmenter) == pytest.approx(together(subject.segmenter), rel=1e-5)


def test_images_without_truth_have_no_loss() -> None:
    with pytest.raises(DataError, match="every pixel of these images is ignored"):
        images_loss(subject_of(random_view("a", 32, 32, ignored=32)))


def test_statistics_are_recomputed_as_torch_does_it() -> None:
    subject = subject_of(random_view("a", 32, 32), random_view("b", 32, 64))
    ours, theirs = deepcopy(subject.segmenter), deepcopy(subject.segmenter)
    batches = images_loss(subject).batches
    recompute_statistics(ours, batches)
    update_bn([(batch.image,) for batch in batches], theirs)
    assert not any(module.training for module in ours.modules())
    assert len(batches) == 2
    for (name, buffer), other in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, msg=name)


# ------------------------------------------------------------------ its sharpness


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
        return SegmentationLoss()(logits, truth)

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
    found = measure_sharpness(
        module, lambda m: [SegmentationLoss()(m(image), truth)], iterations=200
    )
    assert found.converged
    assert found.eigenvalue == pytest.approx(exact, rel=0.01)
    assert all(torch.equal(before[name], now) for name, now in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_a_hessian_product_is_the_hessian_times_the_vector() -> None:
    module, image = convolutions(), torch.randn(2, 1, 8, 8)
    truth = torch.randint(0, 2, (2, 6, 6), dtype=torch.uint8)
    parameters = list(module.parameters())
    vector = [torch.randn_like(p) for p in parameters]
    product = hessian_product([SegmentationLoss()(module(image), truth)], parameters, vector)
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


# ------------------------------------------------------------------ its surface


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
    assert not any(step.any() for step in direction.values() if step.ndim < 2)


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
    assert valley_radius(*cone(4), 0.1) == pytest.approx(math.hypot(1 / 3, 1 / 3))  # of no point


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
