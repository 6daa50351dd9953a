"""Counts and ratios against torchmetrics, against sets, and as laws."""

import json
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import bootstrap

from unetseg.evaluation.confusion import (
    CHUNK,
    bootstrap_intervals,
    confusion,
    dice,
    frequency_weighted_iou,
    iou,
    mean_over,
    pixel_accuracy,
    precision,
    recall,
    score,
    specificity,
)

law = settings(deadline=None, max_examples=50)
CLASSES = 5
ORACLE = "torchmetrics.functional.classification"  # takes seconds to import
Masks = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@st.composite
def masks(draw: st.DrawFn) -> Masks:
    """Truth (with 255) and prediction; classes may be absent, all pixels may be ignored."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    allowed = draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 255]), min_size=1, unique=True))
    truth = random.choice(np.array(allowed, np.uint8), shape)
    prediction = random.integers(0, draw(st.integers(1, CLASSES)), shape).astype(np.uint8)
    return truth, prediction


def many_images(number: int = 12) -> NDArray[np.int64]:
    random = np.random.default_rng(3)
    return np.stack([random.integers(0, 1 + 40 * n, (3, 3)) for n in range(number)])


def interval(images: NDArray[np.int64], **settings: int) -> tuple[float, float]:
    """That of the pixel accuracy."""
    (found,) = bootstrap_intervals(images, lambda sums: pixel_accuracy(sums)[:, None], **settings)
    return found


@pytest.mark.long
@law
@given(masks())
def test_counts_are_those_of_torchmetrics(pair: Masks) -> None:
    torchmetrics = import_module(ORACLE)
    truth, prediction = pair
    reference = torchmetrics.multiclass_confusion_matrix(
        torch.from_numpy(prediction.astype(int)),
        torch.from_numpy(truth.astype(int)),
        CLASSES,
        ignore_index=255,
    )
    counts = confusion(truth, prediction, CLASSES)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, reference.numpy())


@pytest.mark.long
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (iou, "multiclass_jaccard_index"),
        (dice, "multiclass_f1_score"),
        (precision, "multiclass_precision"),
        (recall, "multiclass_recall"),
        (specificity, "multiclass_specificity"),
    ],
)
def test_ratios_are_those_of_torchmetrics(ours: Any, theirs: str) -> None:
    random = np.random.default_rng(0)
    truth = random.choice(np.array([0, 1, 2, 4, 255], np.uint8), (40, 50))
    prediction = random.integers(0, CLASSES, (40, 50)).astype(np.uint8)
    for near in (0.0, 0.7):  # by chance, and mostly right
        right = (random.random(truth.shape) < near) & (truth != 255)
        guess = np.where(right, truth, prediction)
        reference = getattr(import_module(ORACLE), theirs)(
            torch.from_numpy(guess.astype(int)),
            torch.from_numpy(truth.astype(int)),
            CLASSES,
            average="none",
            ignore_index=255,
        )
        result = ours(confusion(truth, guess, CLASSES))
        np.testing.assert_allclose(result, reference.numpy(), atol=1e-6)


@pytest.mark.long
def test_accuracy_is_that_of_torchmetrics() -> None:
    random = np.random.default_rng(1)
    truth = random.choice(np.array([0, 1, 2, 255], np.uint8), (40, 50))
    prediction = random.integers(0, 3, (40, 50)).astype(np.uint8)
    guess, true = (torch.from_numpy(mask.astype(int)) for mask in (prediction, truth))
    theirs = import_module(ORACLE).multiclass_accuracy
    reference = theirs(guess, true, 3, average="micro", ignore_index=255)
    assert pixel_accuracy(confusion(truth, prediction, 3)) == pytest.approx(reference.item())


@law
@given(masks())
def test_ratios_are_those_of_sets(pair: Masks) -> None:
    truth, prediction = (mask.ravel().tolist() for mask in pair)
    counted = {place for place, value in enumerate(truth) if value != 255}
    counts = confusion(*pair, CLASSES)
    for k in range(CLASSES):
        true = {place for place in counted if truth[place] == k}
        found = {place for place in counted if prediction[place] == k}
        both, either = len(true & found), len(true | found)
        if not either:
            ratios = iou, dice, precision, recall, specificity
            assert np.isnan([f(counts)[k] for f in ratios]).all()
            continue
        assert iou(counts)[k] == pytest.approx(both / either)
        assert dice(counts)[k] == pytest.approx(2 * both / (len(true) + len(found)))
        assert precision(counts)[k] == pytest.approx(both / len(found) if found else 0)
        assert recall(counts)[k] == pytest.approx(both / len(true) if true else 0)
        others = counted - true
        spared = len(others - found) / len(others) if others else np.nan
        assert specificity(counts)[k] == pytest.approx(spared, nan_ok=True)


@law
@given(masks())
def test_dice_and_iou_say_the_same(pair: Masks) -> None:
    counts = confusion(*pair, CLASSES)
    overlap = iou(counts)
    np.testing.assert_allclose(dice(counts), 2 * overlap / (1 + overlap))


@law
@given(masks())
def test_swapping_truth_and_prediction_swaps_precision_and_recall(pair: Masks) -> None:
    counts = confusion(*pair, CLASSES)
    np.testing.assert_array_equal(precision(counts), recall(counts.T))
    np.testing.assert_array_equal(iou(counts), iou(counts.T))


@law
@given(masks(), st.lists(st.integers(0, 12), max_size=4))
def test_counts_of_parts_add_up_to_the_whole(pair: Masks, cuts: list[int]) -> None:
    truth, prediction = pair
    edges = pairwise([0, *sorted(cuts), 12])
    parts = [confusion(truth[a:b], prediction[a:b], CLASSES) for a, b in edges]
    np.testing.assert_array_equal(sum(parts), confusion(*pair, CLASSES))


def test_masks_longer_than_a_chunk_are_counted_whole() -> None:
    random = np.random.default_rng(2)
    truth, prediction = random.integers(0, 254, (2, 3 * CHUNK + 17)).astype(np.uint8)
    reference = np.histogram2d(truth, prediction, bins=np.arange(256) - 0.5)[0]
    np.testing.assert_array_equal(confusion(truth, prediction, 255), reference)


def test_views_are_counted_like_copies() -> None:
    random = np.random.default_rng(2)
    truth, prediction = random.integers(0, 3, (2, 30, 40)).astype(np.uint8)
    np.testing.assert_array_equal(
        confusion(truth[::2, ::-3], prediction.T.copy().T[::2, ::-3], 3),
        confusion(truth[::2, ::-3].copy(), prediction[::2, ::-3].copy(), 3),
    )


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ([0, 3, 254], [0, 0, 0], r"truth has classes \[3, 254\] of 3 classes"),
        ([0, 255], [0, 3], "prediction has class 3 of 3 classes"),
        ([0, 0], [0], r"truth has shape \(2,\), prediction \(1,\)"),
    ],
)
def test_values_that_are_no_class_are_refused(
    truth: list[int], prediction: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        confusion(np.array(truth, np.uint8), np.array(prediction, np.uint8), 3)


def test_other_dtypes_are_refused_rather_than_wrapped() -> None:
    with pytest.raises(ValueError, match="prediction int64, not uint8"):
        confusion(np.zeros(2, np.uint8), np.zeros(2, np.int64), 2)


def test_absent_classes_are_left_out_of_means() -> None:
    assert mean_over(np.array([1.0, 0.5, np.nan]), [0, 1, 2]) == 0.75
    assert np.isnan(mean_over(np.array([1.0, np.nan]), [1]))
    assert np.isnan(mean_over(np.array([1.0, 0.0]), []))


def test_an_empty_mask_found_empty_has_no_foreground_score() -> None:
    counts = np.array([[[9, 0], [0, 0]], [[8, 1], [0, 0]]])  # nothing there: none found, one found
    np.testing.assert_array_equal(dice(counts)[:, 1], [np.nan, 0])


def test_the_interval_is_that_of_scipy() -> None:
    images = many_images()
    low, high = interval(images, samples=4000)
    reference = bootstrap(
        (np.arange(len(images)),),
        lambda drawn, axis: pixel_accuracy(images[drawn].sum(axis=drawn.ndim + axis)),
        vectorized=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    spread = reference.high - reference.low
    assert low == pytest.approx(reference.low, abs=0.1 * spread)
    assert high == pytest.approx(reference.high, abs=0.1 * spread)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits, tries = 0, 200
    for _ in range(tries):
        right = random.binomial(100, 0.8, 60)  # 60 images of 100 pixels, accuracy 0.8
        zero = np.zeros_like(right)
        images = np.stack([np.stack([right, 100 - right], 1), np.stack([zero, zero], 1)], 1)
        low, high = interval(images, samples=300)
        hits += low <= 0.8 <= high
    assert 0.88 <= hits / tries <= 0.99


def test_equal_seeds_give_equal_intervals() -> None:
    images = many_images()
    first, second, other = (interval(images, seed=seed) for seed in (7, 7, 8))
    assert first == second != other


def test_frequencies_weigh_as_those_of_torchmetrics() -> None:
    for counts in many_images()[1:]:
        truth, prediction = (
            torch.from_numpy(np.repeat(axis.ravel(), counts.ravel())) for axis in np.indices((3, 3))
        )
        reference = import_module(ORACLE).multiclass_jaccard_index(
            prediction, truth, 3, average="none"
        )
        weights = torch.from_numpy(counts.sum(axis=1) / counts.sum())
        assert float(frequency_weighted_iou(counts)) == pytest.approx(
            float(weights @ reference.double())
        )


def test_one_image_has_no_interval() -> None:
    assert np.isnan(interval(many_images(1))).all()


def test_scores_come_from_the_summed_counts() -> None:
    images = many_images()
    scores = score(images, ["ground", "leaf", "root"], foreground=[1, 2])
    total = images.sum(axis=0)
    assert scores.images == 12
    assert [row.name for row in scores.classes] == ["ground", "leaf", "root"]
    assert [row.pixels for row in scores.classes] == total.sum(axis=1).tolist()
    assert scores.foreground_dice == pytest.approx(dice(total)[1:].mean())
    assert scores.mean_iou == pytest.approx(iou(total).mean())
    low, high = scores.foreground_iou_interval
    assert low < scores.foreground_iou < high
    batched = score(images.reshape(3, 4, 3, 3).sum(axis=1), ["a", "b", "c"], [1, 2])
    assert batched.foreground_dice == scores.foreground_dice


def test_scores_as_json_hold_null_for_what_could_not_be_scored() -> None:
    images = np.array([[[5, 0], [0, 0]], [[4, 0], [0, 0]]])
    text = json.dumps(score(images, ["ground", "crack"], [1]).to_json(), allow_nan=False)
    loaded = json.loads(text)
    assert loaded["classes"]["crack"] == {
        "iou": None,
        "dice": None,
        "precision": None,
        "recall": None,
        "specificity": None,
        "pixels": 0,
    }
    assert loaded["foreground_dice"] is None
    assert loaded["foreground_dice_interval"] == [None, None]
    assert loaded["images"] == 2
    assert loaded["pixel_accuracy"] == 1


def test_a_data_set_without_images_scores_nothing() -> None:
    scores = score(np.zeros((0, 2, 2), np.int64), ["a", "b"], [1])
    assert scores.images == 0
    assert np.isnan(scores.pixel_accuracy)


def test_names_must_fit_the_counts() -> None:
    with pytest.raises(ValueError, match=r"confusions of shape \(12, 3, 3\) for 2 classes"):
        score(many_images(), ["a", "b"], [1])
