"""Laws of the anatomy of errors: sums are whole, planted errors are named, chance is not."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from tests.builders import class_map
from unetseg.evaluation.anatomy import (
    AREAS,
    Anatomy,
    explaining,
    missed_by_area,
    outline_distance,
)
from unetseg.evaluation.confusion import confusion
from unetseg.evaluation.counting import count_classes

THREE = class_map(0, 1, 2)
NO_DICE: dict[str, float] = {}
masks = arrays(np.uint8, (9, 12), elements=st.sampled_from([0, 1, 2, 255]))


def grey(truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.zeros((*truth.shape, 1), np.uint8)


def squares() -> NDArray[np.uint8]:
    """Two large squares of class 1, one of class 2."""
    truth = np.zeros((96, 96), np.uint8)
    truth[8:40, 8:40] = truth[56:88, 8:40] = 1
    truth[8:40, 56:88] = 2
    return truth


@given(masks)
def test_the_distance_is_that_to_the_nearest_pixel_of_another_class(mask: Any) -> None:
    mask[mask == 255] = 0
    expected = np.full(mask.shape, np.inf)
    differs = np.zeros(mask.shape, bool)
    for shift, axis in ((1, 0), (1, 1)):
        pairs = np.diff(mask.astype(int), axis=axis) != 0
        first, last = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        first[axis], last[axis] = (0, shift), (shift, 0)
        differs |= np.pad(pairs, first) | np.pad(pairs, last)
    if differs.any():
        expected = ndimage.distance_transform_edt(~differs) + 1
    np.testing.assert_allclose(outline_distance(mask), expected, rtol=1e-5)


@given(masks, masks)
def test_every_counted_pixel_is_in_one_row_of_each_table(truth: Any, prediction: Any) -> None:
    anatomy = Anatomy(THREE)
    anatomy.add("a", grey(truth), truth, prediction)
    counts = count_classes(truth, prediction, 3)
    found = anatomy.to_json(counts, NO_DICE)
    wrong = counts.sum() - np.trace(counts)
    assert sum(row["pixels"] for row in found["distances"]) == counts.sum()
    assert sum(row["wrong"] for row in found["distances"]) == wrong
    assert sum(found["kinds"].values()) == wrong
    assert sum(row["pixels"] for row in found["sizes"]) == counts[1:].sum()
    assert sum(row["wrong"] for row in found["sizes"]) == counts[1:].sum() - np.trace(
        counts[1:, 1:]
    )


def test_objects_go_by_their_area() -> None:
    truth = np.zeros((40, 40), bool)
    truth[0, :15] = truth[10:14, :4] = truth[20:30, :30] = True  # 15, 16 and 300 pixels
    objects, pixels, missed = missed_by_area(truth, truth & (np.arange(40)[:, None] >= 25))
    assert dict(zip(AREAS, objects, strict=False)) | {16: 1, 64: 1, 1024: 1} == dict(
        zip(AREAS, objects, strict=False)
    )
    assert pixels.sum() == truth.sum()
    assert missed.tolist()[3] == 150
    assert missed.sum() == 150


@pytest.mark.parametrize(
    ("reason", "spoil"),
    [
        ("boundary", lambda mask: np.roll(mask, 2, axis=1)),
        ("miss", np.zeros_like),
        ("class swap", lambda mask: np.array([0, 2, 1], np.uint8)[mask]),
        ("false alarm", lambda mask: np.where(np.arange(96)[:, None] > 50, 1, mask)),
        ("", np.copy),
    ],
)
def test_planted_errors_are_named(reason: str, spoil: Any) -> None:
    anatomy = Anatomy(THREE)
    anatomy.add("a", grey(squares()), squares(), spoil(squares()).astype(np.uint8))
    assert anatomy.images["a"].reason == reason


def test_a_thin_line_that_is_missed_is_no_boundary() -> None:
    truth, aside = np.zeros((2, 64, 64), np.uint8)
    truth[30:32], aside[31:33] = 1, 1
    anatomy = Anatomy(THREE)
    anatomy.add("missed", grey(truth), truth, np.zeros_like(truth))
    anatomy.add("aside", grey(truth), truth, aside)
    assert [anatomy.images[name].reason for name in ("missed", "aside")] == ["miss", "boundary"]


def test_a_pair_of_classes_is_told_as_shares_of_its_truth_and_of_all_errors() -> None:
    truth = squares()
    prediction = np.where(truth == 2, 1, truth).astype(np.uint8)
    prediction[:4] = 2
    anatomy = Anatomy(THREE)
    anatomy.add("a", grey(truth), truth, prediction)
    first, second = anatomy.to_json(confusion(truth, prediction, 3), NO_DICE)["pairs"]
    assert (first["truth"], first["prediction"], first["of_truth"]) == ("class 2", "class 1", 1.0)
    assert (second["truth"], second["prediction"]) == ("class 0", "class 2")
    assert first["of_errors"] + second["of_errors"] == 1


def test_dark_images_are_blamed_when_they_score_low() -> None:
    random = np.random.default_rng(0)
    anatomy, dice = Anatomy(THREE), {}
    for number in range(40):
        image = random.integers(0, 60 + 4 * number, (48, 48, 3)).astype(np.uint8)
        anatomy.add(str(number), image, squares()[:48, :48], squares()[:48, :48])
        dice[str(number)] = 0.6 + 0.01 * number + random.normal(0, 0.02)
    (first, *_) = anatomy.to_json(np.eye(3, dtype=np.int64), dice)["properties"]
    assert first["property"] in {"brightness", "contrast"}
    assert first["correlation"] > 0.9
    assert first["lowest"] < first["highest"]


def test_chance_explains_nothing() -> None:
    random = np.random.default_rng(1)
    found = 0
    for _ in range(200):
        facts = {str(i): {"brightness": float(random.random())} for i in range(50)}
        found += bool(explaining(facts, {name: float(random.random()) for name in facts}))
    assert found <= 3  # of 200; 0.5 is what 3 standard errors give


def test_an_image_without_outline_or_size_is_no_trouble() -> None:
    anatomy = Anatomy(THREE)
    one = np.zeros((1, 1), np.uint8)
    anatomy.add("pixel", grey(one), one, one + 1)
    anatomy.add("ignored", grey(one), one + 255, one)
    found = anatomy.to_json(np.zeros((3, 3), np.int64), {"pixel": np.nan})
    assert found["distances"][-1] == {"within": None, "pixels": 1, "wrong": 1}
    assert found["properties"] == []
