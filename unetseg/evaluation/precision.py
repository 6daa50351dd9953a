"""Whether fast arithmetic (bf16, fp16) gives the masks of float32: measured once, and kept.

At the end of a training both predict the same windows of validation pairs. `PrecisionVerdict.holds`
tells what is enough, `engine.machine_for` applies it wherever the bundle is used.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetseg.bundle import PrecisionVerdict, keep_in_bundle, load_bundle
from unetseg.config import TilingConfig
from unetseg.data.crops.reader import PairReader
from unetseg.data.facts.fingerprint import per_band
from unetseg.data.facts.image_values import ImageFacts
from unetseg.data.masks.class_map import IGNORED
from unetseg.evaluation.confusion import Counts, dice, mean_over
from unetseg.evaluation.counting import count_classes
from unetseg.prediction.engine import Engine
from unetseg.prediction.predictor import build_engine
from unetseg.runtime import Machine

WINDOW = 256
"""Side of the windows that are compared, pixels; smaller images are compared whole."""
TRAINED_PER_COMPARED = 128
"""Pixels trained with for each pixel compared.

A pixel trained with costs about 3 forward passes, a pixel compared 1 and another in float32 that
takes up to 10 times as long: (1 + 10) / (3 · 128) = 3% of the training, at most.
"""
FEWEST_PIXELS = 4 * WINDOW**2
MOST_PIXELS = 64 * WINDOW**2


class Labelled(NamedTuple):
    """An image or a part of one, and its truth."""

    image: NDArray[Any]
    """H×W×C raw pixel values."""
    truth: NDArray[np.uint8]
    """H×W class indexes, 255 ignored."""
    statistics: Tensor | None = None
    """1×2×C mean and deviation of the whole image; None: `image` is all of it."""


def check_precision(
    run: Path, machine: Machine, pairs: Iterable[Labelled]
) -> PrecisionVerdict | None:
    """Compare the masks of a bundle in `machine`'s arithmetic and in float32; keep the verdict.

    What a bundle knows already is not measured again, so that a training that was resumed at its
    end costs nothing.

    Args:
        run: Run folder or bundle folder.
        machine: The machine that trained, or any other.
        pairs: What is compared; read only when it is needed. See `spread_windows`.

    Returns:
        The verdict, which the bundle holds now. None, and the bundle stays as it is, when `machine`
        computes in float32 anyway or no pixel had data.

    Raises:
        BundleError: there is no usable bundle.
    """
    if machine.dtype == torch.float32:
        return None
    segmenter, info = load_bundle(run)
    if info.precision is not None and info.precision.judges(machine):
        return info.precision
    exact = replace(machine, dtype=torch.float32)
    verdict = compare_precision(
        build_engine(deepcopy(segmenter), info, machine, TilingConfig()),
        build_engine(segmenter, info, exact, TilingConfig()),
        pairs,
        len(info.class_map.classes),
        info.class_map.foreground,
    )
    if verdict is not None:
        keep_in_bundle(run, info.weights_sha256, precision=verdict)
    return verdict


def compare_precision(
    fast: Engine,
    exact: Engine,
    pairs: Iterable[Labelled],
    classes: int,
    foreground: Sequence[int],
) -> PrecisionVerdict | None:
    """Predict every image with two engines, and tell how far their masks agree.

    Equal pixels are counted over all pixels with data, those of ignored truth too: they are
    predicted like any other. Dice is that of the scores: one confusion over all images, pixels of
    ignored truth left out, the mean over the foreground classes that are there. The gap is that of
    the class, background too, that differs most among those in the truth.

    Args:
        fast: The network in bf16 or fp16.
        exact: The same in float32.
        pairs: What is predicted, one after the other.
        classes: K.
        foreground: Indexes of the classes that Dice is the mean over.

    Returns:
        The verdict; None when no pixel of any image has data.
    """
    counts: Counts = np.zeros((2, classes, classes), np.int64)
    equal, pixels, images = 0, 0, 0
    pairs = list(pairs)

    def masks_of(engine: Engine) -> Iterator[NDArray[np.uint8]]:
        for image, _, statistics in pairs:
            yield engine.index(engine.logits(image, statistics), engine.missing(image))

    for (_, truth, _), *masks in zip(pairs, masks_of(fast), masks_of(exact), strict=True):
        counts += np.stack([count_classes(truth, mask, classes) for mask in masks])
        seen = masks[1] != IGNORED
        equal += int(((masks[0] == masks[1]) & seen).sum())
        pixels += int(seen.sum())
        images += bool(seen.any())
    if not images:
        return None
    of_classes = dice(counts)
    scores = mean_over(of_classes, foreground)
    gaps = np.abs(of_classes[0] - of_classes[1])[counts[1].any(axis=1)]
    dtype: Literal["bfloat16", "float16"]
    dtype = "bfloat16" if fast.machine.dtype == torch.bfloat16 else "float16"
    return PrecisionVerdict(
        dtype=dtype,
        equal_pixels=equal / pixels,
        dice=float(scores[0]),
        dice_float32=float(scores[1]),
        class_gap=float(gaps.max()) if gaps.size else math.nan,
        images=images,
    )


def pixels_to_compare(trained: int) -> int:
    """How many pixels are compared after a training on `trained` pixels (steps · batch · patch²).

    3% of the training's time at most, but at least 4 windows and at most 64: with 4 million pixels
    0.1% is known well enough.

    >>> pixels_to_compare(1000 * 8 * 256**2)  # the default training on a CPU
    4096000
    """
    return min(max(trained // TRAINED_PER_COMPARED, FEWEST_PIXELS), MOST_PIXELS)


def spread_windows(
    reader: PairReader, facts: Sequence[ImageFacts], pixels: int
) -> Iterator[Labelled]:
    """Windows of a split, spread evenly over it, the same in every run; at least one.

    Images give as many as their share of the pixels says; large ones are read by windows.

    Args:
        reader: The pairs.
        facts: Of each of their images, in the reader's order.
        pixels: About how many to give in all.

    Yields:
        Image and class indexes of each window, at most WINDOW² pixels, and mean and deviation of
        the whole image.
    """
    rng = np.random.default_rng(0)
    # those that `pixels` pays for, at even distances over all windows that there are
    areas = np.array([fact.pixels for fact in facts])
    slots = np.repeat(np.arange(len(areas)), np.maximum(1, areas // WINDOW**2))  # image of each
    mean = float(np.minimum(areas[slots], WINDOW**2).mean())
    wanted = min(len(slots), max(1, round(pixels / mean)))
    chosen = slots[(np.arange(wanted) * 2 + 1) * len(slots) // (2 * wanted)]
    for index, number in zip(*np.unique(chosen, return_counts=True), strict=True):
        pair = reader.pair(int(index))
        tables = [per_band([facts[index]], name, reader.bands) for name in ("mean", "std")]
        statistics = torch.from_numpy(np.stack(tables, axis=1).astype(np.float32))
        side = min(WINDOW, *pair.size)
        for _ in range(number):
            centre = [side // 2 + int(rng.integers(length - side + 1)) for length in pair.size]
            yield Labelled(*pair.crop((centre[0], centre[1]), side), statistics)
