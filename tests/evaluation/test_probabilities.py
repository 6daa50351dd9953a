"""Histograms of probabilities against torchmetrics, which keeps every pixel."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    multiclass_auroc,
    multiclass_average_precision,
    multiclass_calibration_error,
)

from unetseg.evaluation.confusion import confusion, dice, precision, recall
from unetseg.evaluation.probabilities import Probabilities, Sweep

Floats = NDArray[np.float32]


def drawn(classes: int, pixels: int = 4000, seed: int = 0) -> tuple[NDArray[np.uint8], Floats]:
    """True classes n, and probabilities n×K that know something of them."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, pixels, dtype=np.uint8)
    logits = rng.normal(size=(pixels, classes)) * 2
    logits[np.arange(pixels), truth] += 1.5
    return truth, torch.from_numpy(logits).softmax(1).float().numpy()


def counted(
    truth: NDArray[np.uint8], likely: Floats, parts: int = 1, temperature: float = 1.0
) -> Probabilities:
    found = Probabilities(likely.shape[1], temperature)
    for some in zip(np.array_split(truth, parts), np.array_split(likely, parts), strict=True):
        found.add(*some)
    return found


def content(found: Probabilities) -> dict[str, Any]:
    names = [str(k) for k in range(len(found.histograms))]
    return found.to_json(names, [len(names) - 1])


@pytest.mark.parametrize("seed", range(3))
def test_two_classes_agree_with_torchmetrics(seed: int) -> None:
    truth, likely = drawn(2, seed=seed)
    pair = torch.from_numpy(likely[:, 1]), torch.from_numpy(truth).long()
    found = content(counted(truth, likely))
    assert found["auc"]["1"] == pytest.approx(float(binary_auroc(*pair)), abs=1e-4)
    expected = float(binary_average_precision(*pair))
    assert found["average_precision"]["1"] == pytest.approx(expected, abs=1e-3)
    assert found["auc"]["0"] == pytest.approx(found["auc"]["1"], abs=1e-6)


def test_every_class_against_the_rest_agrees_with_torchmetrics() -> None:
    truth, likely = drawn(5)
    pair = torch.from_numpy(likely), torch.from_numpy(truth).long()
    found = content(counted(truth, likely))
    for key, oracle in (
        ("auc", multiclass_auroc),
        ("average_precision", multiclass_average_precision),
    ):
        expected = oracle(*pair, num_classes=5, average=None)
        assert [*found[key].values()] == pytest.approx(expected.tolist(), abs=1e-3)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("temperature", [1.0, 1.7, 0.4])
def test_calibration_errors_agree_with_torchmetrics(classes: int, temperature: float) -> None:
    truth, likely = drawn(classes)
    scaled = torch.from_numpy(likely).log().div(temperature).softmax(1)
    found = content(counted(truth, scaled.numpy(), temperature=temperature))["calibration"]
    target = torch.from_numpy(truth).long()
    for key, p in (("ece_before", torch.from_numpy(likely)), ("ece", scaled)):
        expected = multiclass_calibration_error(p, target, num_classes=classes, n_bins=15)
        assert found[key] == pytest.approx(float(expected), abs=1e-4)
    rows = found["bins"]
    assert sum(row["pixels"] for row in rows) == len(truth)
    total = sum(row["pixels"] * abs(row["accuracy"] - row["confidence"]) for row in rows)
    assert total / len(truth) == pytest.approx(found["ece"])


def test_thresholds_score_what_masks_of_them_score() -> None:
    truth, likely = drawn(2)
    found = counted(truth, likely)
    for row in content(found)["threshold_sweep"][::4]:
        mask = (likely[:, 1] >= row["threshold"]).astype(np.uint8)
        counts = confusion(truth, mask, classes=2)
        for name, score in (("dice", dice), ("precision", precision), ("recall", recall)):
            assert row[name] == pytest.approx(score(counts)[1], abs=0.01)
    all_of = Sweep.of(found.histograms[1])
    half = len(all_of.thresholds) // 2
    assert all_of.thresholds[half] == 0.5
    counts = confusion(truth, likely.argmax(1).astype(np.uint8), classes=2)
    assert all_of.dice[half] == pytest.approx(dice(counts)[1], abs=1e-12)


def test_parts_add_up_and_what_has_no_truth_or_no_data_is_not_counted() -> None:
    truth, likely = drawn(3)
    whole, parts = counted(truth, likely), counted(truth, likely, parts=7)
    np.testing.assert_array_equal(whole.histograms, parts.histograms)
    np.testing.assert_allclose(whole.after, parts.after)
    gaps, holes = np.r_[truth, 255, 0].astype(np.uint8), np.r_[likely, likely[:1], likely[:1]]
    holes[-1] = np.nan
    np.testing.assert_array_equal(counted(gaps, holes).histograms, whole.histograms)


@pytest.mark.parametrize(
    ("truth", "p", "auc", "average_precision"),
    [
        ([0, 0], [0.2, 0.9], None, None),  # an absent class
        ([1, 1], [0.2, 0.9], None, 1.0),  # nothing else
        ([1], [0.0], None, 1.0),  # one pixel
        ([0, 1], [0.0, 1.0], 1.0, 1.0),  # as sure as can be
        ([0, 1], [1.0, 0.0], 0.0, 0.5),
        ([0, 1], [0.5, 0.5], 0.5, 0.5),
    ],
)
def test_edges(
    truth: list[int], p: list[float], auc: float | None, average_precision: float | None
) -> None:
    likely = np.stack([1 - np.array(p), p], axis=1).astype(np.float32)
    found = content(counted(np.array(truth, np.uint8), likely))
    assert found["auc"]["1"] == auc
    assert found["average_precision"]["1"] == average_precision
    if 1 not in truth:
        assert {row["dice"] for row in found["threshold_sweep"]} == {None}


def test_nothing_counted_says_nothing() -> None:
    found = Probabilities(2)
    found.add(np.full((2, 2), 255, np.uint8), np.zeros((2, 2, 2), np.float32))
    assert content(found) == {}
