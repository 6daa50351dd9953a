"""The arithmetic of paces, and work that is measured in turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetseg.speed.pace import Pace

positive = st.floats(1e-4, 1e4)


@given(seconds=positive, pixels=positive, gflop=positive)
def test_all_figures_say_the_same(seconds: float, pixels: float, gflop: float) -> None:
    pace = Pace(seconds, pixels, gflop)
    figures = pace.to_json()
    each = figures["images_per_second"]
    assert figures["megapixels_per_second"] == pytest.approx(each * pixels / 1e6)
    assert figures["gflops"] == pytest.approx(each * gflop)
    assert figures["milliseconds"] * each == pytest.approx(1000)
