"""Whether probabilities say how often a network is right: measured once on validation, and kept.

At the end of a training windows of validation pairs are predicted. One number, the temperature,
makes their probabilities as likely as can be; of two classes, the threshold is found at which Dice
is largest. The masks stay what they are, unless `--threshold` asks for it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.bundle import Calibration, keep_in_bundle, load_bundle
from unetseg.config import TilingConfig
from unetseg.data.masks.class_map import IGNORED
from unetseg.evaluation.precision import Labelled
from unetseg.evaluation.probabilities import EDGES, Probabilities, Sweep
from unetseg.prediction.engine import Engine, machine_for
from unetseg.prediction.predictor import build_engine
from unetseg.runtime import Machine

MOST_NUMBERS = 2**24
"""Logits that are held; of more pixels every n-th is taken."""
FITTED = 2**20
"""Logits that the temperature, one number, is fitted to."""
LARGEST_TEMPERATURE = 20.0
"""Beyond, and below its inverse, no temperature is looked for."""


def check_calibration(run: Path, machine: Machine, pairs: Sequence[Labelled]) -> Calibration | None:
    """Measure a bundle's calibration; the bundle holds it from then on. What it knows is not anew.

    Args:
        run: Run folder or bundle folder.
        machine: The machine that trained, or any other.
        pairs: What is looked at; see `precision.spread_windows`.

    Returns:
        What was found; None, and the bundle stays as it is, when no pixel has truth and data.

    Raises:
        BundleError: there is no usable bundle.
    """
    segmenter, info = load_bundle(run)
    if info.calibration is not None:
        return info.calibration
    machine, _ = machine_for(info, machine, "auto")
    engine = build_engine(segmenter, info, machine, TilingConfig())
    found = calibrate(engine, pairs, info.class_map.foreground)
    if found is not None:
        keep_in_bundle(run, info.weights_sha256, calibration=found)
    return found


def calibrate(
    engine: Engine, pairs: Sequence[Labelled], foreground: Sequence[int]
) -> Calibration | None:
    """Find the temperature, and of two classes the threshold, of an engine that has none yet."""
    logs, truth = _sample(engine, pairs)
    if not truth.size:
        return None
    temperature = fit_temperature(logs, truth)
    likely = Probabilities(len(logs), temperature)
    scaled = np.exp((logs - logs.max(0)) / np.float32(temperature))
    likely.add(truth, (scaled / scaled.sum(0)).T)
    before, after = likely.errors
    found = Calibration(temperature=temperature, ece_before=before, ece=after, windows=len(pairs))
    if len(logs) != 2:
        return found
    best = best_threshold(likely.histograms[foreground[-1]])
    names = ("threshold", "dice", "dice_at_threshold")
    return found.model_copy(update=dict(zip(names, best, strict=True)))


def _sample(
    engine: Engine, pairs: Sequence[Labelled]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Log-probabilities K×n of pixels with truth and data, evenly taken, and their classes n."""
    pixels = sum(pair.truth.size for pair in pairs)
    step = -(-pixels * engine.segmenter.classes // MOST_NUMBERS)
    logs, truths = [], []
    for image, truth, statistics in pairs:
        logits = engine.logits(image, statistics).log_softmax(0).cpu().numpy()
        missing = engine.missing(image)
        counted = truth != IGNORED if missing is None else (truth != IGNORED) & ~missing
        counted &= np.isfinite(logits).all(axis=0)
        logs.append(logits[:, counted][:, ::step].copy())  # a view would keep them all
        truths.append(truth[counted][::step])
    return np.concatenate(logs, axis=1), np.concatenate(truths)


def fit_temperature(logs: NDArray[Any], truth: NDArray[np.uint8]) -> float:
    """The T that makes softmax(logs / T) of K×n logits likeliest for n true classes (Guo 2017)."""
    from scipy.optimize import minimize_scalar  # takes time to load

    step = -(-logs.size // FITTED)
    logs, truth = logs[:, ::step], truth[::step]
    own = logs[truth, np.arange(truth.size)]

    def loss(log_temperature: float) -> float:  # convex in 1 / T
        power = np.float32(np.exp(-log_temperature))
        scaled = power * (logs - logs.max(0))
        normaliser = np.log(np.exp(scaled).sum(0)) + power * logs.max(0)
        return float((normaliser - power * own).mean(dtype=np.float64))

    reach = np.log(LARGEST_TEMPERATURE)
    found = minimize_scalar(loss, bounds=(-reach, reach), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))


def best_threshold(histogram: NDArray[np.int64]) -> tuple[float | None, float, float]:
    """The threshold of the best Dice, Dice at 0.5, and that at the threshold; see `Sweep`.

    Of equals, the one nearest to 0.5. None, and nan, without any foreground in the truth.
    """
    found = Sweep.of(histogram)
    usual = float(found.dice[len(EDGES) // 2])
    if np.isnan(usual):
        return None, usual, usual
    equals = np.flatnonzero(found.dice == found.dice.max())
    best = int(equals[np.abs(equals - len(EDGES) // 2).argmin()])
    return float(found.thresholds[best]), usual, float(found.dice[best])
