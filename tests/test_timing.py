"""Laws of measuring in turns: every other round goes backwards, and the time is kept."""

import time
from functools import partial

import pytest

from unetseg.timing import in_turns, seconds_of


def test_every_round_has_everyone_and_every_other_goes_backwards() -> None:
    order: list[str] = []

    def work(name: str) -> float:
        order.append(name)
        return float(len(order))

    measured = in_turns({name: partial(work, name) for name in "abc"}, rounds=3)
    assert "".join(order) == "abccbaabc"
    assert measured == {"a": [1.0, 6.0, 7.0], "b": [2.0, 5.0, 8.0], "c": [3.0, 4.0, 9.0]}


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_one_round_is_done_without_any_time(seconds: float) -> None:
    assert in_turns({"a": lambda: 1.0}, 5, seconds) == {"a": [1.0]}


def test_the_time_is_kept() -> None:
    nap = partial(seconds_of, lambda: time.sleep(0.02))
    began = time.perf_counter()
    taken = in_turns({"nap": nap}, rounds=1000, seconds=0.2)["nap"]
    assert time.perf_counter() - began < 0.2 + 10 * 0.02
    assert 1 < len(taken) <= 10
    assert min(taken) >= 0.02
