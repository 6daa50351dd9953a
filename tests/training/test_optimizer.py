"""The rules move weights as torch's own optimizers do, and Muon by equal singular values."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unetseg.errors import BundleError
from unetseg.training import optimizer as optimizer_module
from unetseg.training.optimizer import (
    AdamW,
    Muon,
    Nesterov,
    Optimizer,
    build_optimizer,
    move_weights,
    orthogonal,
)

SHAPES = [(8, 3, 3, 3), (16, 8), (8,), ()]
Made = Callable[[list[Tensor]], torch.optim.Optimizer]


def weights(shapes: list[tuple[int, ...]]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw).requires_grad_() for shape in shapes]


def follow(ours: Optimizer, theirs: torch.optim.Optimizer, tolerance: float) -> None:
    """Both take five steps along equal gradients; the third leaves one parameter out."""
    draw = torch.Generator().manual_seed(1)
    pairs = list(zip(ours.rules[0].parameters, theirs.param_groups[0]["params"], strict=True))
    for number in range(5):
        for our, their in pairs:
            our.grad = torch.randn(our.shape, generator=draw)
            their.grad = our.grad.clone()
        if number == 2:
            pairs[0][0].grad = pairs[0][1].grad = None
        ours.step(0.5)
        theirs.step()
        for our, their in pairs:
            torch.testing.assert_close(our, their, rtol=tolerance, atol=tolerance)


def test_adam_and_momentum_are_those_of_torch() -> None:
    decay = 0.1
    theirs: torch.optim.Optimizer = torch.optim.AdamW(weights(SHAPES), lr=0.01, weight_decay=decay)
    follow(Optimizer([AdamW(weights(SHAPES), 0.02, decay)]), theirs, 1e-6)
    theirs = torch.optim.SGD(
        weights(SHAPES), lr=0.01, weight_decay=decay, momentum=0.99, nesterov=True
    )
    follow(Optimizer([Nesterov(weights(SHAPES), 0.02, decay)]), theirs, 1e-6)


def test_muon_is_that_of_torch() -> None:
    """Which takes matrices alone, and iterates in bfloat16."""
    shapes: list[tuple[int, ...]] = [(16, 8), (8, 40), (12, 12)]
    theirs = torch.optim.Muon(weights(shapes), lr=0.5, weight_decay=0.1)
    ours = Optimizer([Muon(weights(shapes), 1.0, 0.1, torch.float32)])
    follow(ours, theirs, 3e-2)  # of weights that move by 0.1 to 0.5 in a step


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (16, 16)])
@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-3), (torch.bfloat16, 8e-2)])
def test_directions_become_equally_long(
    shape: tuple[int, int], dtype: torch.dtype, off: float
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ orthogonal(matrix, dtype) @ right.T  # diagonal in the singular vectors
    lengths = turned.diagonal()
    assert lengths.min() > 0.3
    assert lengths.max() < 1.3
    assert (turned - lengths.diag()).abs().max() < off


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_directions_never_grow_past_the_others(dtype: torch.dtype) -> None:
    """Singular values from 1 down to 1e-4, and 0: rounding errors must not be blown up."""
    draw = torch.Generator().manual_seed(3)
    left, right = (torch.linalg.qr(torch.randn(n, 64, generator=draw))[0] for n in (64, 300))
    lengths = torch.logspace(0, -4, 64)
    lengths[48:] = 0
    made = orthogonal((left * lengths) @ right.T, dtype)
    assert torch.linalg.svdvals(made).max() < 1.4


def test_no_direction_of_nothing() -> None:
    assert torch.equal(orthogonal(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_muon_moves_convolutions_and_not_the_head() -> None:
    convolution = nn.Conv2d(3, 4, 3)
    each_channel = nn.Conv2d(4, 4, 3, groups=4)
    network = nn.Sequential(convolution, nn.BatchNorm2d(4), each_channel, nn.Conv2d(4, 2, 1))
    optimizer = build_optimizer(network, "muon", 0.01, 0.01)
    moved = {type(rule).__name__ + str(len(rule.parameters)) for rule in optimizer.rules}
    assert moved == {"Muon1", "AdamW2", "AdamW5"}
    assert optimizer.rules[0].parameters[0] is convolution.weight


def test_a_state_of_another_optimizer_is_refused() -> None:
    adamw, muon = (
        build_optimizer(nn.Conv2d(3, 4, 3), name, 0.01, 0.01) for name in ("adamw", "muon")
    )
    with pytest.raises(BundleError, match="of another optimizer"):
        muon.restore(adamw.state())
    earlier = torch.optim.AdamW(nn.Conv2d(3, 4, 3).parameters()).state_dict()
    with pytest.raises(BundleError, match="earlier version"):
        adamw.restore(earlier)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_a_device_without_fused_rules_moves_alike(
    kind: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clipped by the rules or before them, and with a loss that was scaled: the same weights."""
    ends = []
    for fused in ({"cpu"}, set[str]()):
        monkeypatch.setattr(optimizer_module, "FUSED", fused)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))
        starts = weights([tuple(weight.shape) for weight in network.parameters()])
        network.load_state_dict(dict(zip(network.state_dict(), starts, strict=True)))
        moves = build_optimizer(network, kind, 0.01, 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale > 1)
        for number in range(3):
            image = torch.full((1, 3, 8, 8), float(number + 1))
            scaler.scale(network(image).square().sum()).backward()
            assert move_weights(moves, scaler, 0.5, 1.0)
        ends.append([weight.detach() for weight in network.parameters()])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
