"""Laws of doubt: 1 − IoU where a network is sure, less where it is not, in any order."""

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from unetseg.evaluation.suspects import Disagreement, write_suspects


def probabilities(prediction: NDArray[np.uint8], sure: float) -> NDArray[np.float32]:
    """Of two classes, the predicted one with the probability `sure`."""
    other = np.where(prediction == 0, sure, 1 - sure)
    return np.stack([other, 1 - other], axis=-1).astype(np.float32)


@pytest.fixture
def masks() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    truth, prediction = random.integers(0, 2, (2, 30, 20), np.uint8)
    return truth, prediction


def test_a_sure_network_doubts_by_what_the_iou_lacks(
    masks: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    truth, prediction = masks
    iou = (truth & prediction).sum() / (truth | prediction).sum()
    for sure, expected in ((1.0, 1 - iou), (0.75, 0.5 * (1 - iou))):
        disagreement = Disagreement([1])
        for rows in (slice(0, 7), slice(7, None)):
            disagreement.add(truth[rows], probabilities(prediction[rows], sure))
        assert disagreement.share == pytest.approx(expected)


def test_what_does_not_count_is_no_doubt(
    masks: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    truth, prediction = masks
    likely = probabilities(prediction, 1.0)
    disagreement = Disagreement([1])
    disagreement.add(np.full_like(truth, 255), likely)
    disagreement.add(truth, np.full_like(likely, np.nan))
    disagreement.add(np.zeros_like(truth), probabilities(np.zeros_like(truth), 0.9))
    assert disagreement.share == 0


def test_the_most_suspect_comes_first(tmp_path: Path) -> None:
    rows = [("a", Path("a.png"), 0.1, 0.9), ("b", Path("b.png"), 0.7, float("nan"))]
    write_suspects(tmp_path / "suspects.csv", rows)
    with (tmp_path / "suspects.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["image"] for row in found] == ["b", "a"]
    assert found[0] == {
        "rank": "1", "image": "b", "mask": "b.png", "disagreement": "0.7000", "dice": ""
    }  # fmt: skip
