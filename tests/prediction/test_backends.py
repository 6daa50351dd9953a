"""Whatever runs a network, its masks are the same; and the choice is explained."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.builders import CPU
from unetseg.errors import MachineError
from unetseg.prediction import backends
from unetseg.prediction.backends import Compiled, Rewritten, choose_backend, folded
from unetseg.unet.segmenter import Segmenter

Make = Callable[..., Segmenter]
CLASSIC = {"preset": "classic", "depth": 4, "width": 64, "padding": "valid", "norm": "none"}


def image(height: int, width: int) -> Tensor:
    noise = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height))
    return noise.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(64, 64), (37, 51), (200, 9), (5, 3)])
@pytest.mark.parametrize("engine", ["eager", "fused", "auto"])
def test_every_engine_gives_the_logits_of_the_network(
    make: Make, engine: str, shape: tuple[int, int]
) -> None:
    built = make(skip=("concat", "gated"))
    backend = choose_backend(built, CPU, engine).backend
    with torch.no_grad():
        assert torch.allclose(backend(image(*shape)), built.network(image(*shape)), atol=1e-4)


def test_on_cpu_fused_is_taken_and_the_reason_told(make: Make) -> None:
    assert str(choose_backend(make(), CPU, "auto")).startswith("engine fused (")


@pytest.mark.long
def test_a_network_that_needs_a_graph_for_each_size_gets_them_for_usual_sizes(make: Make) -> None:
    built = make(**CLASSIC)
    assert built.network.geometry.margin == 92
    backend = choose_backend(built, CPU, "fused").backend
    with torch.no_grad():
        for _ in range(backends.USUAL + 1):
            expected = built.network(image(188, 204))
            assert torch.allclose(backend(image(188, 204)), expected, atol=1e-4)


@pytest.fixture
def wrong_rewriting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "fuse", lambda recording, dtype: lambda image: image[:, :1] * 0)


@pytest.mark.usefixtures("wrong_rewriting")
def test_a_wrong_rewriting_is_found_out_and_not_used(make: Make) -> None:
    built = make(classes=1)
    assert choose_backend(built, CPU, "auto").name == "eager"
    with pytest.raises(MachineError, match=r"--engine fused cannot run this network.*off by 100"):
        choose_backend(built, CPU, "fused")


def test_a_processor_without_the_units_runs_eager(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "is_fusible", lambda dtype: False)
    choice = choose_backend(make(), CPU, "auto")
    assert choice.name == "eager"
    assert "oneDNN" in choice.reason


class Finished:
    """A graph as torch.compile gives it: it has `__len__`, which fails."""

    def __init__(self, graph: Callable[[Tensor], Tensor]) -> None:
        self.graph = graph

    def __len__(self) -> int:
        raise TypeError("GraphModule does not support len()")

    def __call__(self, image: Tensor) -> Tensor:
        return self.graph(image)


def test_a_finished_graph_is_called_whatever_else_it_is(make: Make) -> None:
    built = make()
    backend = Rewritten(built, CPU, folded, finish=Finished)
    with torch.no_grad():
        assert torch.allclose(backend(image(64, 64)), built.network(image(64, 64)), atol=1e-4)


def test_compiling_sees_few_sizes() -> None:
    shapes = []

    def network(image: Tensor) -> Tensor:
        shapes.append(tuple(image.shape[-2:]))
        return image[:, :2]

    compiled = Compiled(network)
    for height in range(100, 129):
        assert torch.equal(compiled(image(height, 120)), image(height, 120)[:, :2])
    assert set(shapes) == {(128, 128)}


def failing(_image: Tensor) -> Tensor:
    raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand more")


def test_where_compiling_fails_the_answer_names_the_fix_or_another_takes_over() -> None:
    with pytest.raises(MachineError, match="No working C"):
        Compiled(failing)(image(8, 8))
    both: Callable[[Tensor], Any] = Compiled(failing, lambda image: image[:, :1])
    assert both(image(8, 8)).shape == (1, 1, 8, 8)
    assert both(image(9, 9)).shape == (1, 1, 9, 9)
