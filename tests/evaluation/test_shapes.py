"""Outlines and objects are scored as MONAI, torchmetrics and skimage score them."""

import csv
import json
import math
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import hausdorff_distance
from torchmetrics.detection import PanopticQuality

from tests.builders import save_run
from unetseg.config import DeviceConfig, EvalConfig, ScoringConfig
from unetseg.data.masks.class_map import ClassInfo, ClassMap
from unetseg.data.sample import draw_sample
from unetseg.evaluation.evaluate import evaluate
from unetseg.evaluation.objects import match_objects, object_scores
from unetseg.evaluation.outlines import outline_scores
from unetseg.evaluation.shapes import Shapes

Mask = NDArray[np.bool_]
SEEDS = st.integers(0, 2**32 - 1)


def blobs(seed: int, shape: tuple[int, int] = (40, 56)) -> Mask:
    """Blobs of random sizes, some at the border; now and then none, or a single pixel."""
    random = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(random.normal(size=shape), random.uniform(0.5, 5))
    share = random.choice([0.0, 1 / noise.size, 0.05, 0.3, 0.9])
    return noise > np.quantile(noise, 1 - share) if share else np.zeros(shape, bool)


def one_hot(mask: Mask) -> torch.Tensor:
    return torch.from_numpy(mask[None, None])


# ------------------------------------------------------------------ outlines


@pytest.mark.filterwarnings("ignore:monai.metrics:FutureWarning")  # of MONAI to itself
@given(SEEDS, st.sampled_from([0.0, 1.0, 1.5, 3.0]))
def test_distances_are_those_of_monai(seed: int, tolerance: float) -> None:
    truth, prediction = blobs(seed), blobs(seed + 1)
    scores = outline_scores(truth, prediction, tolerance)
    if not (truth.any() and prediction.any()):
        return
    distance = compute_hausdorff_distance(
        one_hot(prediction), one_hot(truth), include_background=True, percentile=95
    )
    assert scores.hausdorff_95 == pytest.approx(float(distance), abs=1e-4)
    dice = compute_surface_dice(
        one_hot(prediction), one_hot(truth), [tolerance], include_background=True
    )
    assert scores.surface_dice == pytest.approx(float(dice), abs=1e-6)


@given(SEEDS)
def test_boundary_iou_is_that_of_its_definition(seed: int) -> None:
    """Pixels of a mask at most `width` from its outside, the chessboard's distance (Cheng 2021)."""
    truth, prediction = blobs(seed), blobs(seed + 1)
    if not (truth.any() and prediction.any()):
        return
    width = max(1, round(0.02 * math.hypot(*truth.shape)))

    def band(mask: Mask) -> Mask:
        depth = ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1]
        inside: Mask = (depth > 0) & (depth <= width)
        return inside

    one, other = band(truth), band(prediction)
    iou = (one & other).sum() / (one | other).sum()
    assert outline_scores(truth, prediction).boundary_iou == pytest.approx(iou)


def test_a_line_aside_is_right_by_the_tolerance() -> None:
    truth = np.zeros((64, 64), bool)
    truth[10, 5:60] = True
    aside = np.roll(truth, 2, axis=0)
    assert outline_scores(truth, aside, 2).surface_dice == 1
    assert outline_scores(truth, aside, 1.9).surface_dice == 0
    assert outline_scores(truth, aside, 1.9).boundary_f1 == 0
    assert outline_scores(truth, aside).hausdorff_95 == 2 == hausdorff_distance(truth, aside)
    assert outline_scores(truth, aside).cl_dice == 0
    assert outline_scores(truth, ndimage.binary_dilation(truth)).cl_dice == pytest.approx(
        1, abs=0.02
    )


def test_what_is_missed_or_made_up_is_the_worst_and_what_is_absent_is_left_out() -> None:
    full, empty = np.ones((30, 40), bool), np.zeros((30, 40), bool)
    for both in ((full, empty), (empty, full)):
        assert astuple(outline_scores(*both)) == (0, 0, 0, 50, 0)
    assert all(map(math.isnan, astuple(outline_scores(empty, empty))))
    assert astuple(outline_scores(full, full)) == (1, 1, 1, 0, 1)


@given(SEEDS, st.integers(0, 20), st.integers(0, 20))
def test_space_around_changes_no_distance(seed: int, rows: int, columns: int) -> None:
    both = [np.pad(blobs(seed + i), 1) for i in (0, 1)]
    apart = [np.pad(mask, ((rows, 3), (columns, 0))) for mask in both]
    here, there = outline_scores(both[0], both[1]), outline_scores(apart[0], apart[1])
    if both[0].any() and both[1].any():
        assert (there.hausdorff_95, there.surface_dice) == (here.hausdorff_95, here.surface_dice)


# ------------------------------------------------------------------ objects


@given(SEEDS)
def test_panoptic_quality_is_that_of_torchmetrics(seed: int) -> None:
    truth = blobs(seed)
    prediction = np.roll(truth, 1, axis=1) ^ (blobs(seed + 1) & blobs(seed + 2))
    reference = PanopticQuality(things={1}, stuffs={0}, allow_unknown_preds_category=True)
    maps = []
    for mask in (prediction, truth):
        instances, _ = ndimage.label(mask, np.ones((3, 3)))
        maps.append(torch.from_numpy(np.stack([mask, instances], axis=-1).astype(np.int64))[None])
    reference.update(*maps)
    things = reference.true_positives, reference.false_positives, reference.false_negatives
    found, made_up, missed = (int(count[0]) for count in things)
    scores = object_scores([match_objects(truth, prediction)])
    assert (scores.found, scores.made_up, scores.objects) == (found, made_up, found + missed)
    if found:
        quality = float(reference.iou_sum[0]) / (found + (made_up + missed) / 2)
        assert scores.panoptic_quality == pytest.approx(quality)


def test_objects_add_up_over_images() -> None:
    images = [match_objects(blobs(seed), blobs(seed) & blobs(seed + 1)) for seed in range(12)]
    scores = object_scores(images)
    alone = [object_scores([image]) for image in images]
    for name in ("objects", "found", "made_up"):
        assert getattr(scores, name) == sum(getattr(one, name) for one in alone)


def test_found_and_made_up_are_told_by_size() -> None:
    truth = np.zeros((64, 64), bool)
    for row, side in enumerate((2, 4, 8, 16)):
        truth[2 + sum((2, 4, 8, 16)[:row]) + 3 * row :][:side, 2 : 2 + side] = True
    prediction = truth.copy()
    prediction[:6] = False  # the smallest is missed
    prediction[2:4, 40:41] = True  # two pixels are made up
    scores = object_scores([match_objects(truth, prediction)])
    assert scores.found_by_size == (0, 1, 1, 1)
    assert scores.made_up_by_size == (1, 0, 0, 0)
    assert scores.f1 == pytest.approx(6 / 8)


def test_nothing_has_no_score() -> None:
    nothing = object_scores([match_objects(*np.zeros((2, 5, 5), bool))])
    assert math.isnan(nothing.f1)
    assert math.isnan(nothing.panoptic_quality)
    assert nothing.objects == nothing.found == nothing.made_up == 0
    made_up = object_scores([match_objects(np.zeros((5, 5), bool), np.ones((5, 5), bool))])
    assert (made_up.f1, made_up.made_up) == (0, 1)


# ------------------------------------------------------------------ a split


def test_ignored_pixels_are_of_no_class() -> None:
    classes = ClassMap(
        classes=(
            ClassInfo(name="ground", code=0, colour=(0, 0, 0)),
            ClassInfo(name="cell", code=1, colour=(255, 0, 0)),
        ),
        background=0,
    )
    truth, prediction = np.zeros((2, 20, 20), np.uint8)
    truth[5:10, 5:10] = prediction[5:10, 5:10] = 1
    truth[:, 15:], prediction[:, 15:] = 255, 1
    shapes = Shapes(classes)
    shapes.add("image", truth, prediction)
    assert shapes.outlines["cell"].surface_dice == 1
    assert shapes.objects["cell"].f1 == 1


def test_eval_writes_outlines_and_objects(tmp_path: Path) -> None:
    data = draw_sample(tmp_path / "cells", count=6, size=48)
    run = save_run(tmp_path / "run")
    config = EvalConfig(
        scoring=ScoringConfig(overlays=False, save_masks=False),
        device=DeviceConfig(device="cpu", precision="float32"),
    )
    result = evaluate(run, data, config)
    written = json.loads((result.folder / "scores.json").read_text())
    ((name, row),) = written["outlines"].items()
    assert row["surface_dice"] == pytest.approx(result.shapes.outlines[name].surface_dice)
    with (result.folder / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["objects"]) for row in rows) == written["objects"][name]["objects"]
    without = replace_scoring(config, shapes=False)
    assert "outlines" not in evaluate(run, data, without).to_json()


def replace_scoring(config: EvalConfig, **changes: bool) -> EvalConfig:
    scoring = config.scoring.model_copy(update=changes)
    return config.model_copy(update={"scoring": scoring})
