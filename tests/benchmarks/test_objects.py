"""Objects that are known are counted right, and drawn ellipses are what they are said to be."""

import numpy as np

from benchmarks.objects import compared, ellipses
from unetseg.prediction.objects import parted


def test_the_truth_itself_has_no_errors_and_parting_comes_nearer_to_it() -> None:
    (labels,) = ellipses(1, side=256)
    assert np.unique(labels).tolist() == list(range(labels.max() + 1))
    row = compared("drawn", 0.8, [(labels, labels)])
    assert row[3] == row[4] == labels.max()
    assert row[5:] == [0.0, "0.0%", 1.0]
    whole, better = (compared("", s, [(labels, parted(labels > 0, s))]) for s in (0, 0.8))
    assert float(whole[5]) > float(better[5])
    assert float(whole[7]) < float(better[7])
