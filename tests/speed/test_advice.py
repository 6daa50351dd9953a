"""The sentences follow the figures."""

from dataclasses import replace

import pytest
import torch

from unetseg import runtime
from unetseg.runtime import Machine
from unetseg.speed import advice
from unetseg.speed.advice import (
    advise_arithmetic,
    advise_engine,
    advise_prediction,
    advise_training,
)
from unetseg.speed.ceiling import Ceiling
from unetseg.speed.network import Comparison, EngineSpeed
from unetseg.speed.pace import Pace
from unetseg.speed.stages import PredictionSpeed, Stages
from unetseg.speed.training import TrainingSpeed

CPU = torch.device("cpu")
FAST, EXACT = Machine(CPU, torch.bfloat16, "CPU"), Machine(CPU, torch.float32, "CPU")


def speed(engine: str, dtype: str, seconds: float, share: float = 0.6) -> EngineSpeed:
    return EngineSpeed(engine, dtype, 1, Pace(seconds, 1e6, 100.0), share, 0.1, None)


COMPARED = Comparison(
    (
        speed("eager", "float32", 1.0),
        speed("eager", "bfloat16", 0.5),
        speed("fused", "bfloat16", 0.25),
    ),
    (Ceiling("float32", 1, 100.0), Ceiling("bfloat16", 1, 1000.0)),
    {},
)


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: True)


def test_units_that_are_used(units: None) -> None:
    (said,) = advise_arithmetic(FAST, COMPARED)
    assert "10.0 times as fast as float32" in said
    assert "this network runs 4.0 times as fast" in said


def test_units_that_lie_idle(units: None) -> None:
    (said,) = advise_arithmetic(EXACT, COMPARED)
    assert said == "float32 leaves the bfloat16 units idle; --precision auto uses them"


def test_no_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: False)
    (said,) = advise_arithmetic(EXACT, COMPARED)
    assert "no bf16 units" in said


def test_the_bundle_has_the_first_word(units: None) -> None:
    assert list(advise_arithmetic(EXACT, COMPARED, "float32, as masks differ")) == [
        "float32, as masks differ"
    ]


def test_the_fastest_engine() -> None:
    (said,) = advise_engine(FAST, COMPARED)
    assert "fused, 2.0 times as fast as eager: 60%" in said
    assert "channels" not in said
    slow = replace(COMPARED, engines=(speed("fused", "bfloat16", 1.0, share=0.1),))
    (said,) = advise_engine(FAST, slow)
    assert "few channels" in said


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (Stages(1, 8, 1), "the network bounds it (80%"),
        (Stages(8, 1, 1), "JPEG"),
        (Stages(1, 1, 2), "faster disk"),
    ],
)
def test_the_longest_stage(stages: Stages, words: str) -> None:
    (said,) = advise_prediction(PredictionSpeed(8, "fused", "", stages, Pace(1, 1, 1), 1.0))
    assert words in said


def test_what_bounds_a_training() -> None:
    step = Pace(0.1, 1.0, 1.0)
    fed = TrainingSpeed(256, 8, 1, False, 0.1, 0.1, 40.0, step, step, 0.4, None)
    (said,) = advise_training(fed)
    assert "4.0 times as many crops" in said
    (said,) = advise_training(replace(fed, loaded=5.0))
    assert "loading bounds it, with 50%" in said
    assert advice.NEAR > 0
