"""The arithmetic of paces, and work that is measured in turns."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetseg.speed.pace import MOST_ROUNDS, Pace, in_turns, seconds_of

positive = st.floats(1e-4, 1e4)


@given(seconds=positive, pixels=positive, gflop=positive)
def test_all_figures_say_the_same(seconds: float, pixels: float, gflop: float) -> None:
    pace = Pace(seconds, pixels, gflop)
    figures = pace.to_json()
    each = figures["images_per_second"]
    assert figures["megapixels_per_second"] == pytest.approx(each * pixels / 1e6)
    assert figures["gflops"] == pytest.approx(each * gflop)
    assert figures["milliseconds"] * each == pytest.approx(1000)


def test_every_other_round_goes_backwards() -> None:
    calls: list[str] = []
    in_turns({name: lambda name=name: calls.append(name) for name in "abc"}, seconds=1)  # type: ignore[misc]
    assert "".join(calls[:9]) == "abccbaabc"
    assert len(calls) == 3 * MOST_ROUNDS


def test_one_round_is_done_in_no_time_at_all() -> None:
    calls: list[int] = []
    taken = in_turns({"work": lambda: calls.append(1)}, seconds=0)
    assert len(calls) == 1
    assert taken["work"] >= 0


def test_the_time_is_kept() -> None:
    taken = seconds_of(lambda: in_turns({"nap": lambda: time.sleep(0.02)}, seconds=0.2))
    assert 0.2 < taken < 0.2 + 10 * 0.02


def test_the_median_is_told() -> None:
    naps = iter([0.0, 0.0, 0.3, *[0.0] * MOST_ROUNDS])
    assert in_turns({"nap": lambda: time.sleep(next(naps))}, seconds=2)["nap"] < 0.1
