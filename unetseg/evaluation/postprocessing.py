"""Whether filling holes and removing components makes the masks of a trained U-Net better.

For each class every variant is scored on the validation images. It is kept where images that had no
part in its choice say so: in each of ten folds (of one image each, if there are fewer) the best
variant for the others is applied, and the Dice of all folds together must rise by `LEAST_GAIN`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetseg.bundle import Rule, keep_in_bundle, load_bundle
from unetseg.config import TilingConfig
from unetseg.data.crops.reader import PairReader
from unetseg.data.facts.image_values import ImageFacts
from unetseg.data.masks.class_map import IGNORED, ClassMap
from unetseg.prediction.objects import parted
from unetseg.prediction.pipeline import Opened, predict_each
from unetseg.prediction.postprocess import filled_image
from unetseg.prediction.predictor import build_engine
from unetseg.runtime import Machine

LEAST_GAIN = 0.002
"""Of the cross-validated Dice of the class."""
FEWEST_IMAGES = 4
FOLDS = 10
SIZES = (0, *(2**n for n in range(3, 13)))
"""Pixels below which components may be removed."""

Index = NDArray[np.uint8]


def check_postprocessing(
    run: Path, machine: Machine, reader: PairReader, facts: Sequence[ImageFacts], pixels: int
) -> str:
    """Choose what is done to the masks of the bundle of a run, and store it there.

    Args:
        run: The run folder.
        machine: What predicts.
        reader: The validation pairs; those that are read by windows are left out.
        facts: Of their images.
        pixels: About how many are looked at, of images at even distances.

    Returns:
        What is done and what it gains, in a line; "" for nothing.
    """
    segmenter, info = load_bundle(run)
    background = info.class_map.background
    whole = [at for at in range(len(reader)) if not reader.is_windowed(at)]
    mean = sum(facts[at].pixels for at in whole) / max(1, len(whole))
    wanted = min(len(whole), max(FEWEST_IMAGES, round(pixels / max(1, mean))))
    chosen = [whole[(2 * n + 1) * len(whole) // (2 * wanted)] for n in range(wanted)]
    if len(chosen) < FEWEST_IMAGES or background is None:
        return ""
    engine = build_engine(segmenter, info, machine, TilingConfig())
    opened = (Opened(truth, image) for image, truth in map(reader.__getitem__, chosen))
    pairs = [(one.name, band.index) for one in predict_each(engine, opened) for band in one.bands()]
    rules, told = choose_rules(pairs, info.class_map)
    if rules:
        keep_in_bundle(run, info.weights_sha256, postprocess=rules)
    return told


def choose_rules(
    pairs: Sequence[tuple[Index, Index]], class_map: ClassMap
) -> tuple[tuple[Rule, ...], str]:
    """What is done to each class, where that raises Dice, and that in a line.

    Args:
        pairs: Truth and prediction H×W of each image; 255 of one of them is not counted.
        class_map: The classes; one is background.
    """
    rules, told = [], []
    assert class_map.background is not None
    for kind in class_map.foreground:
        variants = list(_variants(kind))
        sums = np.array([_sums(*pair, kind, class_map.background) for pair in pairs])  # N, V, 2
        best, before, after = cross_validated(sums)
        if best and after - before >= LEAST_GAIN:
            rules.append(variants[best])
            told.append(
                f"{class_map.names[kind]}: {variants[best].words}, Dice {before:.4f} → {after:.4f}"
            )
    words = f"post-processing, cross-validated: {'; '.join(told)} (--postprocess off leaves it out)"
    return tuple(rules), words if rules else ""


def cross_validated(sums: NDArray[np.int64]) -> tuple[int, float, float]:
    """The best variant, and Dice without any and with those chosen on other images.

    Args:
        sums: N×V×2: of each image and variant the pixels that are right, and those that truth and
            prediction have together. The first variant does nothing.
    """
    fold = np.arange(len(sums)) % min(FOLDS, len(sums))
    held_out = np.zeros(2)
    for number in range(fold.max() + 1):
        best = _dice(sums[fold != number].sum(0)).argmax()
        held_out += sums[fold == number, best].sum(0)
    of_all = _dice(sums.sum(0))
    return int(of_all.argmax()), float(of_all[0]), float(_dice(held_out))


def _dice(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """2 · right / both together, of …×2; 0 of nothing."""
    return 2 * sums[..., 0] / np.maximum(sums[..., 1], 1)


def _variants(kind: int) -> Iterator[Rule]:
    """What may be done to a class, nothing first."""
    for fill in (False, True):
        for size in SIZES:
            yield Rule(class_index=kind, fill_holes=fill, smallest=size)
        yield Rule(class_index=kind, fill_holes=fill, largest_only=True)


def _sums(truth: Index, found: Index, kind: int, background: int) -> list[tuple[int, int]]:
    """Of each variant, the pixels that are right, and those of truth and prediction together."""
    truth = np.where(found == IGNORED, IGNORED, truth)
    if not ((truth == kind) | (found == kind)).any():
        return [(0, 0)] * 2 * (len(SIZES) + 1)  # what all of it would come to
    sums = []
    for fill in (False, True):
        index = filled_image(found, kind, background) if fill else found
        labels = parted(index == kind, 0)
        pixels, right = (
            np.bincount(labels[of], minlength=labels.max() + 1)[1:]
            for of in (truth != IGNORED, truth == kind)
        )
        areas, true = np.bincount(labels.ravel())[1:], int((truth == kind).sum())
        kept = [areas >= size for size in SIZES]
        kept.append(np.arange(len(areas)) == (areas.argmax() if len(areas) else 0))
        sums += [(int(right[k].sum()), int(pixels[k].sum()) + true) for k in kept]
    return sums
