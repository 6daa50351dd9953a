"""Laws of moments: parts = whole, and pixels that are missing do not count."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unetseg.prediction.moments import Moments


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(1, 20), st.floats(-1e4, 1e4), st.integers(0, 99))
def test_moments_of_parts_are_those_of_the_whole(
    height: int, width: int, offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(offset, 3, (height, width, 2))
    missing = rng.random((height, width)) < 0.3
    moments = Moments(2)
    for top in range(0, height, 7):
        moments.add(image[top : top + 7], missing[top : top + 7])
    data = image[~missing]
    assert moments.pixels == len(data)
    if len(data):
        np.testing.assert_allclose(moments.mean, data.mean(0), rtol=1e-10)
        np.testing.assert_allclose(moments.std, data.std(0), rtol=1e-6, atol=1e-8)
