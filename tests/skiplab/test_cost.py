"""Laws of costs: the known sizes and arithmetic, and times taken in turns."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.builders import bundle_info
from unetseg.prediction.engine import Engine
from unetseg.skiplab.cost import network_cost, time_in_turns


@pytest.mark.parametrize(
    ("settings", "side", "parameters", "gflop"),
    [
        ({"depth": 4, "width": 64}, 512, 31_037_698, 385.4),
        ({"depth": 4, "width": 64}, 256, 31_037_698, 96.3),
        ({"depth": 4, "width": 64, "skip": "none"}, 512, 27_904_258, 308.1),
        ({"depth": 4, "width": 64, "skip": "add"}, 512, 27_904_258, 308.1),
    ],
)
def test_costs_are_the_known_ones(
    settings: Mapping[str, object], side: int, parameters: int, gflop: float
) -> None:
    found = network_cost(bundle_info(settings), side)
    assert found.parameters == parameters
    assert found.gflop == pytest.approx(gflop, abs=0.05)


def test_the_cost_of_a_pretrained_encoder_needs_no_weights() -> None:
    config = {"encoder": "resnet18", "weights": "/there/is/no/such/file.pth", "depth": 5}
    cost = network_cost(bundle_info(config), 64)
    assert cost.parameters > 11_000_000
    assert cost.gflop > 0


def test_the_cost_of_an_encoder_that_reads_numbers_while_it_is_built() -> None:
    cost = network_cost(bundle_info({"encoder": "mit_b0", "depth": 5, "skip": "switch"}), 64)
    assert cost.parameters > 3_000_000
    assert cost.gflop > 0


class Engines:
    """Stand-ins for engines: each notes its turns, and takes the milliseconds it is told."""

    def __init__(self, clock: SimpleNamespace, turns: list[str], name: str, ms: float) -> None:
        self.clock, self.turns, self.name, self.ms = clock, turns, name, ms

    def classes(self, image: NDArray[Any]) -> None:
        self.turns.append(self.name)
        self.clock.now += self.ms / 1000


def test_engines_are_timed_in_turns_and_the_first_time_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, turns = SimpleNamespace(now=0.0), list[str]()
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr("unetseg.skiplab.cost.time", clock)
    engines = {name: Engines(clock, turns, name, ms) for name, ms in (("a", 5), ("b", 20))}
    found = time_in_turns(cast("dict[str, Engine]", engines), np.zeros((4, 4, 1), np.uint8))
    assert found == {"a": pytest.approx(5), "b": pytest.approx(20)}
    assert turns == ["a", "b"] * 16
    turns.clear()
    slow = {"a": Engines(clock, turns, "a", 70_000)}
    time_in_turns(cast("dict[str, Engine]", slow), np.zeros((4, 4, 1), np.uint8))
    assert len(turns) == 3  # two minutes are enough
