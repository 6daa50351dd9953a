"""The clock keeps a budget, and no single slow step ends a training."""

from operator import attrgetter

import pytest

from unetseg.training.schedule import Clock


def run(clock: Clock, seconds: float, most: int = 100_000) -> int:
    """Steps of `seconds` until the clock says over."""
    for step in range(1, most + 1):
        clock.now += seconds
        clock.step_done(step)
        if clock.over:
            return step
    return most


def test_a_budget_ends_with_time_for_the_last_validation() -> None:
    clock = Clock(0.0, 600.0, None)
    clock.validation_done(50.0)
    run(clock, 1.0)
    assert 500 < clock.now < 600 - 50


@pytest.mark.parametrize(
    ("steps", "seconds", "said"),
    [
        (1, 170.0, ["over the budget of 10 s: a step took 2 min 50 s here", "only 1 step fitted"]),
        (3, 3.0, ["only 3 steps fitted"]),
        (30, 0.2, []),
        (30, 2.0, ["over the budget of 10 s: a step took 2 s here"]),
    ],
)
def test_a_budget_that_is_too_short_is_told(steps: int, seconds: float, said: list[str]) -> None:
    clock = Clock(0.0, 10.0, None)
    for step in range(1, steps + 1):
        clock.now += seconds
        clock.step_done(step)
    remarks = list(clock.remarks())
    assert len(remarks) == len(said)
    assert all(words in remark for words, remark in zip(said, remarks, strict=True))
    assert list(Clock(0.0, None, 3).remarks()) == []


def test_before_a_validation_its_cost_is_estimated() -> None:
    clock = Clock(0.0, 600.0, None)
    clock.validation_steps = 44.0
    run(clock, 1.0)
    assert 500 < clock.now < 600 - 44


def test_one_slow_interval_does_not_end_the_training() -> None:
    clock = Clock(0.0, 600.0, None)
    clock.validation_steps = 44.0
    clock.now = 10.0
    clock.step_done(1)
    clock.now = 20.0
    clock.step_done(2)
    assert not clock.over


def test_half_of_a_short_budget_is_for_training() -> None:
    clock = Clock(0.0, 60.0, None)
    clock.validation_steps = 1000.0
    run(clock, 1.0)
    assert clock.now >= 29


def test_a_clock_goes_on_where_it_was() -> None:
    clock = Clock(0.0, 600.0, None)
    run(clock, 1.0, most=300)
    clock.validation_done(20.0)
    told = attrgetter("fraction", "may_validate", "over")
    for seconds, expected in ((7, (False, False)), (120, (True, False)), (300, (False, True))):
        clock.now += seconds
        later = Clock(10_000.0, 600.0, None)
        later.resume(clock.step, clock.state())
        assert told(later) == told(clock)
        assert told(later)[1:] == expected
    earlier = Clock(10_000.0, 600.0, None)
    earlier.resume(300, {"elapsed": 300.0})  # as earlier versions wrote it
    assert earlier.elapsed == 300
    assert not earlier.over


def test_steps_end_a_training_exactly() -> None:
    assert run(Clock(0.0, None, 37), 5.0) == 37


def test_whichever_ends_first() -> None:
    assert run(Clock(0.0, 1000.0, 37), 1.0) == 37
    assert run(Clock(0.0, 30.0, 10_000), 1.0) < 31


def test_a_clock_that_stands_still_for_a_few_steps_knows_no_speed() -> None:
    clock = Clock(0.0, None, 100)
    assert run(clock, 0.0, most=10) == 10
    assert clock.speed == 0
