"""How far learned skips open: measured on images, and read from the log of the training.

An opening is the number that a skip multiplies the encoder's features with: 1 lets them through as
they are, 0 shuts them out.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, FiniteFloat
from torch import Tensor, nn

from unetseg.data.masks.class_map import IGNORED
from unetseg.progress import SILENT, Progress
from unetseg.skiplab.trained import Subject
from unetseg.unet.shortcuts import CARRY, Gate, Highway, ScaledBranch, ScaledInput
from unetseg.unet.skips import SWITCH_SPEED, SWITCH_START, Learned, Switch

Array = NDArray[np.float32]

TASK = "reading the openings"
SHUT, OPEN = 0.1, 0.9
"""Openings below and above these are called nearly shut and nearly open."""
SHOWN = 6
"""Images whose attention is drawn."""

OPENING = "mean opening of the skips: on one validation image"
SKIP_ALPHA = "α of the skips: α·encoder + decoder"
INPUT_ALPHA = "α of the shortcuts: F(x) + αx"
BRANCH_ALPHA = "α of the shortcuts: x + αF(x)"
LOG_ODDS = "log-odds of the switches: open above 0"
BIAS_GATE = "gates of the shortcuts: mean of σ(b)"
"""By their biases alone: what the input adds differs from pixel to pixel, and is left out."""


@dataclass(frozen=True)
class Opening:
    """How much the skip of one level lets through of one image, or of all on average."""

    level: int
    kind: str
    image: str
    """"all" where it is averaged over the images."""
    values: Array
    """C gates, H×W attention (of the first images only), or one number."""
    mean: float
    low: float
    """5th percentile over channels or pixels."""
    high: float
    """95th percentile."""
    foreground: float | None
    """Of attention: mean over the foreground of the truth."""
    background: float | None
    """Of attention: mean over all else that is not ignored."""
    spread: float | None = None
    """Deviation over the images: of the mean; of gates, that of each channel, averaged."""

    @property
    def resolution(self) -> str:
        """Side of the features relative to the image the network sees."""
        return f"1/{1 << self.level}"

    @property
    def contrast(self) -> float | None:
        """(foreground − background) / their sum: 1 only objects pass, 0 alike, −1 none does."""
        if self.foreground is None or self.background is None:
            return None
        total = self.foreground + self.background
        return (self.foreground - self.background) / total if total else 0.0

    def row(self) -> dict[str, Any]:
        """The opening as a row of the table; the numbers of gates below 0.1 and above 0.9 too."""
        shut, wide = shut_and_open(self.values) if self.kind == "gated" else (None, None)
        names = ["level", "resolution", "kind", "image", "mean", "low", "high", "spread"]
        names += ["foreground", "background", "contrast"]
        row = {name: getattr(self, name) for name in names}
        row |= {"nearly_shut": shut, "nearly_open": wide}
        return row | {"verdict": verdict_on(self.mean)}


@dataclass(frozen=True)
class Factor:
    """A number that the network learned: an α, the log-odds of a switch, a gate's bias."""

    name: str
    what: str
    value: float
    start: float
    """Its value before training."""

    @property
    def opening(self) -> float:
        """What it multiplies with: itself, but 0 or 1 for the log-odds of a switch."""
        return float(self.value > 0) if self.what == LOG_ODDS else self.value

    @property
    def stage(self) -> str:
        """Where in the U it stands.

        >>> Factor("decoder.steps.2.block.shortcut.alpha", BRANCH_ALPHA, 0.1, 0).stage
        'decoder level 2'
        """
        matched = re.match(r"(encoder|decoder)\D*(\d+)", self.name)
        side, level = matched.groups() if matched else ("network", "")
        return f"{'skip' if '.skip.' in self.name else side} level {level}"


class Moment(BaseModel):
    """What one validation of the training wrote about the skips."""

    step: int
    openings: list[FiniteFloat | None]
    """Mean of each level, full resolution first; None where it is not learned."""
    factors: dict[str, FiniteFloat]
    """Learned numbers by the name of their parameter."""


@dataclass(frozen=True)
class Course:
    """One learned number over the training."""

    what: str
    stage: str
    points: dict[int, float]
    """Its value by the step of the training."""


def verdict_on(opening: float) -> str:
    """Whether a path is shut, open or partly open; of an α the size counts.

    >>> [verdict_on(opening) for opening in (0.05, -0.5, 1.2)]
    ['shut', 'partly', 'open']
    """
    return "shut" if abs(opening) < SHUT else "open" if abs(opening) > OPEN else "partly"


def of_kind(openings: Iterable[Opening], *kinds: str) -> list[Opening]:
    """Those of one of these `kinds` of skip."""
    return [opening for opening in openings if opening.kind in kinds]


# ------------------------------------------------------------------ over images


@torch.inference_mode()
def measure_openings(subject: Subject, progress: Progress = SILENT) -> list[Opening]:
    """The openings of every image and every level whose skip learns; empty where none does."""
    device, segmenter = subject.machine.device, subject.segmenter
    kinds = subject.info.network.skip_of_levels(len(segmenter.network.decoder.steps))
    openings = []
    progress.start(TASK, len(subject.views))
    for index, view in enumerate(subject.views):
        pixels = segmenter.prepared(view.tensor.to(device), view.statistics.to(device))
        opened = segmenter.network.openings(pixels)
        for level, (kind, tensor) in enumerate(zip(kinds, opened, strict=True)):
            if tensor is None:
                continue
            values: Array = tensor.float().cpu().numpy()
            if kind == "attention":
                values = enlarged(values[0, 0], level, pixels.shape[-2:], view.truth.shape)
                sides = on_objects(values, view.truth, subject.info.class_map.foreground)
                kept = values if index < SHOWN else values[:0]
            else:
                kept, sides = values.ravel(), (None, None)
            openings.append(Opening(level, kind, view.name, kept, *_range(values), *sides))
        progress.advance(TASK, file=view.name)
    progress.finish(TASK)
    return openings


def enlarged(opening: Array, level: int, seen: Sequence[int], shape: Sequence[int]) -> Array:
    """A map of `level` as large as its image: each pixel has the number of the square it lies in.

    So every pixel of the truth counts, however small an object is.

    Args:
        opening: Numbers h×w, of the image as the network continued it.
        level: A number stands for a square of 2^level pixels of what the network sees.
        seen: Height and width of that, without the continuation.
        shape: Height and width of the image.
    """
    rows, columns = (
        (2 * np.arange(side) + 1) * length // (2 * side) >> level
        for side, length in zip(shape, seen, strict=True)
    )
    return np.asarray(opening[np.ix_(rows, columns)])


def on_objects(
    opening: Array, truth: NDArray[np.uint8], foreground: Sequence[int]
) -> tuple[float | None, float | None]:
    """Mean of `opening` H×W over the foreground of `truth`, and over all else; None of no pixels.

    >>> on_objects(np.array([[1, 0, 0.5]], np.float32), np.array([[1, 0, 255]], np.uint8), [1])
    (1.0, 0.0)
    """
    objects = np.isin(truth, foreground)
    sides = opening[objects], opening[~objects & (truth != IGNORED)]
    inside, outside = (float(side.mean(dtype=np.float64)) if side.size else None for side in sides)
    return inside, outside


def over_images(openings: Sequence[Opening]) -> Opening:
    """The openings of one level averaged over the images; of gates, channel by channel.

    Foreground and background are averaged over the images that have both.
    """
    first = openings[0]
    mean, low, high = np.mean([[each.mean, each.low, each.high] for each in openings], 0).tolist()
    values, spread = np.array([mean], np.float32), float(np.std([each.mean for each in openings]))
    if first.kind == "gated":
        channels = np.stack([each.values for each in openings])
        values, spread = channels.mean(0), float(channels.std(0).mean())
        mean, low, high = _range(values)
    both = [(o.foreground or 0, o.background or 0) for o in openings if o.contrast is not None]
    inside, outside = np.mean(both, 0).tolist() if both else (None, None)
    return Opening(first.level, first.kind, "all", values, mean, low, high, inside, outside, spread)


def _range(values: Array) -> tuple[float, float, float]:
    """Mean, 5th and 95th percentile."""
    low, high = np.percentile(values, (5, 95))
    return float(values.mean(dtype=np.float64)), float(low), float(high)


def shut_and_open(gates: Array) -> tuple[int, int]:
    """How many of the gates are nearly shut, and nearly open."""
    return int((gates < SHUT).sum()), int((gates > OPEN).sum())


# ------------------------------------------------------------------ learned numbers, over training


def learned_factors(network: nn.Module, alpha: float | None = None) -> list[Factor]:
    """The numbers that tell how far the skips and shortcuts of `network` open.

    Args:
        network: The U-Net.
        alpha: First value of every α, where it is not the default of its kind.
    """
    first = {INPUT_ALPHA: 1.0, BRANCH_ALPHA: 0.0, SKIP_ALPHA: 1.0}
    first = {what: value if alpha is None else alpha for what, value in first.items()}
    first |= {LOG_ODDS: SWITCH_START, BIAS_GATE: torch.tensor(CARRY).sigmoid().item()}
    factors = []
    value: Tensor
    for name, part in network.named_modules():
        match part:
            case ScaledInput():
                own, what, value = "alpha", INPUT_ALPHA, part.alpha
            case ScaledBranch():
                own, what, value = "alpha", BRANCH_ALPHA, part.alpha
            case Learned():
                own, what, value = "alpha", SKIP_ALPHA, part.alpha
            case Switch():
                own, what, value = "log_odds", LOG_ODDS, part.log_odds
            case Highway(gate=Gate(bias=Tensor() as bias)):
                own, what, value = "gate", BIAS_GATE, bias.sigmoid().mean()
            case _:
                continue
        factors.append(Factor(f"{name}.{own}", what, value.item(), first[what]))
    return factors


def read_log(path: Path, progress: Progress = SILENT) -> list[Moment]:
    """What the validations wrote into log.jsonl, by step; empty where there is no such file.

    Where a resumed training went back some steps, what it wrote anew counts.
    """
    moments: list[Moment] = []
    broken = 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for line in lines:
        try:
            content = json.loads(line)
            if not isinstance(content, dict) or content.get("event") != "skips":
                continue
            moment = Moment.model_validate(content)
        except ValueError:  # cut off by a crash, or pydantic's error
            broken += 1
            continue
        while moments and moments[-1].step >= moment.step:
            moments.pop()
        moments.append(moment)
    if broken:
        progress.say(f"{broken} lines of {path} cannot be read and are left out")
    if not moments:
        progress.say(f"{path} tells nothing of the skips over the training")
    return moments


def training_courses(
    moments: Sequence[Moment], overall: Sequence[Opening], factors: Sequence[Factor]
) -> list[Course]:
    """The mean openings of gates and attention, and the factors, along the training."""
    courses = []
    for each in of_kind(overall, "gated", "attention"):
        means = {m.step: m.openings[each.level] for m in moments if each.level < len(m.openings)}
        points = {step: mean for step, mean in means.items() if mean is not None}
        courses.append(Course(OPENING, f"level {each.level}", points))
    for factor in factors:
        key = factor.name.replace(".log_odds", ".slow_log_odds")
        speed = SWITCH_SPEED if factor.what == LOG_ODDS else 1.0
        points = {m.step: speed * m.factors[key] for m in moments if key in m.factors}
        courses.append(Course(factor.what, factor.stage, points))
    return [course for course in courses if course.points]
