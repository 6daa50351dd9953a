"""Shares of the stages, and the pace of a prediction once it runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetseg.speed.stages import Stages, steady_seconds

seconds = st.floats(1e-6, 100)


@given(read=seconds, network=seconds, write=seconds)
def test_the_shares_are_all_of_the_time(read: float, network: float, write: float) -> None:
    stages = Stages(read, network, write)
    assert sum(stages.shares.values()) == pytest.approx(1)
    assert stages.total == pytest.approx(read + network + write)
    assert stages.shares[stages.longest] == max(stages.shares.values())


@given(batches=st.integers(2, 50), each=seconds, batch=st.integers(1, 40), late=seconds)
def test_a_slow_start_does_not_count(batches: int, each: float, batch: int, late: float) -> None:
    """Images come in batches: while one is computed nothing is done, and then all of it is."""
    ends = [late + each * batch * (1 + number) for number in range(batches)]
    times = [end for end in ends for _ in range(batch)]
    assert steady_seconds(0.0, times, times[-1]) == pytest.approx(each)


def test_of_one_batch_all_the_time_counts() -> None:
    assert steady_seconds(1.0, [3.0, 3.0], ended=3.0) == 1.0
    assert steady_seconds(1.0, [3.0], ended=4.0) == 3.0


def test_one_image_after_a_batch_does_not_count_alone() -> None:
    assert steady_seconds(0.0, [*[8.0] * 8, 9.5], ended=10.0) == pytest.approx(10 / 9)


def test_the_last_writes_count() -> None:
    assert steady_seconds(0.0, [1.0, 2.0, 3.0, 4.0], ended=7.0) == 2.0
