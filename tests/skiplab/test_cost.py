"""Laws of costs: the known sizes and arithmetic, and times."""

import time
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.builders import bundle_info
from unetseg.prediction.engine import Engine
from unetseg.skiplab.cost import ROUNDS, network_cost, predict_ms


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


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"encoder": "resnet18", "weights": "/no/such/file.pth"}, 11_000_000),  # needs no weights
        ({"encoder": "mit_b0", "skip": "switch"}, 3_000_000),  # reads numbers while it is built
    ],
)
def test_the_cost_of_an_encoder(settings: Mapping[str, object], least: int) -> None:
    cost = network_cost(bundle_info({"depth": 5, **settings}), 64)
    assert cost.parameters > least
    assert cost.gflop > 0


class Engines:
    """Stands in for an engine: counts its turns, and is slow the first time."""

    def __init__(self) -> None:
        self.turns = 0

    def classes(self, image: NDArray[Any]) -> None:
        self.turns += 1
        time.sleep(0.2 if self.turns == 1 else 0.001)


def test_times_are_medians_of_rounds_without_the_first() -> None:
    engines = {"a": Engines(), "b": Engines()}
    times = predict_ms(cast("dict[str, Engine]", engines), np.zeros((4, 4, 1), np.uint8))
    assert set(times) == {"a", "b"}
    assert all(1 <= milliseconds < 100 for milliseconds in times.values())
    assert [engine.turns for engine in engines.values()] == [1 + ROUNDS] * 2
