"""Engines side by side, on a tiny network."""

from pathlib import Path
from typing import Any

import pytest
import torch

from unetseg.config import NetworkConfig, RuntimeConfig
from unetseg.errors import MachineError
from unetseg.prediction.engine import Engine
from unetseg.speed import ceiling, network
from unetseg.speed.network import Comparison, Model, compare_engines, describe_model
from unetseg.speed.settings import BenchConfig
from unetseg.speed.subject import Subject, open_subject

TINY = NetworkConfig(width=4, depth=2)


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of matrices that a busy machine is done with at once."""
    monkeypatch.setitem(ceiling.LARGEST_SIDE, "cpu", ceiling.SMALLEST_SIDE)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("bench")
    config = BenchConfig(size=64, count=4)
    return open_subject(None, config, TINY, RuntimeConfig(device="cpu"), folder)


@pytest.fixture(scope="module")
def model(subject: Subject) -> Model:
    return describe_model(subject.info, 64)


def compared(subject: Subject, model: Model, *names: str) -> Comparison:
    return compare_engines(subject, names, 2, model, seconds=0.1)


def test_the_model_is_counted_by_hand(subject: Subject, model: Model) -> None:
    network = subject.segmenter.network
    assert model.parameters == sum(p.numel() for p in network.parameters())
    shapes = []
    hooks = [
        layer.register_forward_hook(lambda layer, _, output: shapes.append((layer, output.shape)))
        for layer in network.modules()
        if isinstance(layer, torch.nn.Conv2d)
    ]
    with torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    products = sum(layer.weight.numel() * shape[-1] * shape[-2] for layer, shape in shapes)
    assert 2 * products / 1e9 <= model.gflop < 3 * products / 1e9  # transposed ones come on top


def test_shares_are_of_the_ceiling(subject: Subject, model: Model) -> None:
    found = compared(subject, model, "eager", "fused")
    assert {speed.engine for speed in found.engines} >= {"eager"}
    assert "float32" in {speed.dtype for speed in found.engines}
    for speed in found.engines:
        best = found.ceiling(speed.dtype).gflops
        assert speed.share * best == pytest.approx(speed.pace.gflops)
        assert speed.pace.gflop == model.gflop
        assert speed.ready_seconds > 0
        fastest = found.fastest(speed.dtype)
        assert fastest is not None
        assert fastest.pace.seconds <= speed.pace.seconds


def refusing(*names: str) -> type[Engine]:
    class Refusing(Engine):
        def __init__(self, *args: Any, engine: str, **settings: Any) -> None:
            if engine in names:
                raise MachineError(f"{engine} is not installed")
            super().__init__(*args, engine=engine, **settings)

    return Refusing


def test_an_engine_that_does_not_run_is_told(
    subject: Subject, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "Engine", refusing("openvino"))
    found = compared(subject, model, "eager", "openvino")
    assert found.refused == {"openvino": "openvino is not installed"}
    assert {speed.engine for speed in found.engines} == {"eager"}


def test_no_engine_at_all(subject: Subject, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "Engine", refusing("eager", "fused"))
    with pytest.raises(MachineError, match="no engine runs here") as caught:
        compared(subject, model, "fused")
    assert "fused: fused is not installed" in caught.value.offenders


def test_the_network_is_left_as_it_is(subject: Subject, model: Model) -> None:
    before = {name: value.clone() for name, value in subject.segmenter.state_dict().items()}
    compared(subject, model, "fused")
    for name, value in subject.segmenter.state_dict().items():
        assert torch.equal(value, before[name])


def test_squares_are_as_wanted(subject: Subject, tmp_path: Path) -> None:
    squares = subject.squares(5)  # more than there are images
    assert {square.shape for square in squares} == {(64, 64, 3)}
