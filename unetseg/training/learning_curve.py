"""What more labelled images would bring: trainings on growing shares of those that are there."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unetseg.config import ScoringConfig, TrainConfig
from unetseg.data.crops.dataset import Order
from unetseg.data.facts.survey import Survey, survey, with_share
from unetseg.errors import ConfigError, DataError
from unetseg.evaluation.evaluate import evaluate
from unetseg.progress import SILENT, Progress
from unetseg.report.curves import extrapolated
from unetseg.storage import json_value, parse_json, write_csv, write_json
from unetseg.training.plan import Plan, crops_of, read_plan
from unetseg.training.trainings import (
    as_begun,
    claim,
    evaluation_of,
    in_one_folder,
    of_shape,
    one_of,
    train_in,
)

WAY_ON = "The same command goes on."
FEWEST = 3
"""Shares, and training images of the smallest of them."""
WORTH = 0.005
"""Dice for which more labels are advised."""


@dataclass(frozen=True, slots=True)
class Share:
    """A training on a share of the images, scored on those that are held out from all."""

    images: int
    dice: float
    low: float
    high: float
    """The 95% interval over the held-out images."""


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Foreground Dice over the number of training images, and what twice as many would bring."""

    shares: tuple[Share, ...]
    gain: float
    low: float
    high: float
    """The 95% interval of that, by the intervals of the scores."""

    @property
    def verdict(self) -> str:
        """Whether more labels would help, in a sentence.

        >>> LearningCurve((), 0.021, 0.008, 0.034).verdict
        'more labels help: twice as many, about +0.021 Dice (95% interval +0.008 to +0.034)'
        """
        helps = "more labels help" if self.gain >= WORTH and self.low > 0 else "not shown to help"
        interval = f"95% interval {self.low:+.3f} to {self.high:+.3f}"
        return f"{helps}: twice as many, about {self.gain:+.3f} Dice ({interval})"


def learning_curve(
    data: Path,
    home: Path,
    config: TrainConfig,
    doublings: int = 3,
    progress: Progress = SILENT,
) -> LearningCurve:
    """Train on 1/2ⁿ … 1/4, 1/2 and all of the training images, and fit Dice = a − b·images⁻ᶜ.

    All take the same shape and the same time (without a budget, as many steps), and are scored on
    the same images, which none was trained on (Hestness 2017, 1712.00409). Writes curve.json and
    curve.csv into `home`, beside a run folder for each share; called again it goes on. One training
    each: the interval of the gain holds what the held-out images leave open, and nothing of what
    another seed would change.

    Args:
        data: The folder of pairs.
        home: Where to write to.
        config: Settings, as for `train`; a budget is that of all together.
        doublings: How often the smallest share is doubled, 2 or more.
        progress: Hears what is done.

    Raises:
        ConfigError: there are too few training images, or a share is asked for.
        DataError: one validation image or group, or none with foreground: scores have no interval.
        UnetsegError: as `train`.
    """
    with in_one_folder(home, WAY_ON):
        if config.data.share != 1:
            raise ConfigError("the curve takes its own shares", fix="Leave --share away.")
        config = as_begun(home, config)
        parts = [config.data.model_copy(update={"share": 0.5**n}) for n in range(doublings + 1)]
        known = survey(data, parts[0])
        shares = [with_share(known, part.share) for part in parts]
        _refuse_too_few(shares)
        claim(home, known, config, len(parts))
        config = one_of(config, len(parts))
        whole = home / "share_1"  # all images decide the shape
        asked = config.model_copy(update={"data": parts[0]})
        points = [_trained(data, whole, asked, progress)]
        config, plan = of_shape(config, whole), read_plan(whole)
        for n in range(1, len(parts)):
            crops = crops_of(shares[n].facts_of("train"), plan.patch)
            epochs = epochs_as_long(plan, crops, config.training.accumulate)
            training = config.training.model_copy(update={"epochs": epochs})
            asked = config.model_copy(update={"data": parts[n], "training": training})
            points.insert(0, _trained(data, home / f"share_{2**n}", asked, progress))
        curve = fitted(points)
        content = json_value({"verdict": curve.verdict, **asdict(curve)})
        for folder in (home, whole):
            write_json(folder / "curve.json", content)
        write_csv(home / "curve.csv", [json_value(asdict(point)) for point in curve.shares])
    return curve


def _refuse_too_few(shares: Sequence[Survey]) -> None:
    """Refuse what could be no curve before anything is trained.

    Raises:
        ConfigError: there are too few training images.
        DataError: one image or group is held out, or nothing of the foreground.
    """
    counts = [len(known.select("train")) for known in shares]
    if counts[-1] < FEWEST or len(set(counts)) < len(counts):
        told = f"the shares would have {', '.join(map(str, counts))} training images"
        raise ConfigError(
            told, fix="Take fewer --doublings, or label more images (or groups of them) first."
        )
    whole = shares[0]
    if len({pair.group or pair.name for pair in whole.select("val")}) < 2:
        told = "fewer than two images (or groups) are held out for validation: no score is sure"
        raise DataError(told, fix="Bring more validation images, or of more groups.")
    pixels = whole.class_pixels("val")
    if not any(pixels[index] for index in whole.class_map.foreground):
        told = "the images held out for validation show no foreground: there is nothing to score"
        raise DataError(told, fix="Bring validation images with foreground.")


def epochs_as_long(plan: Plan, crops: Sequence[int], accumulate: int) -> int | None:
    """Epochs of so many crops of each image in the steps of `plan`; None where a budget ends it.

    >>> plan = Plan.model_construct(epochs=30, batch=8, repeats=(1,) * 18)  # 3 steps an epoch
    >>> epochs_as_long(plan, (1,) * 9, accumulate=1)  # 2 steps
    45
    """
    if plan.epochs is None:
        return None
    batch = plan.batch * accumulate
    whole, part = (Order(one, batch, seed=0).steps_per_epoch for one in (plan.repeats, crops))
    return max(1, round(plan.epochs * whole / part))


def _trained(data: Path, run: Path, config: TrainConfig, progress: Progress) -> Share:
    """Train on a share, or go on with that, and score it; what is there is not done again."""
    scores = run / "eval" / "val" / "scores.json"
    if not scores.exists():
        progress.say(f"{config.data.share:.3g} of the training images")
        train_in(run, data, config, progress)
        counted = ScoringConfig(split="val", save_masks=False, overlays=False, shapes=False)
        wanted = evaluation_of(config).model_copy(update={"scoring": counted})
        evaluate(run, data, wanted, progress=progress, known=True)
    found: dict[str, Any] = parse_json(scores.read_bytes())
    low, high = found["foreground_dice_interval"]
    images = len(read_plan(run).repeats)
    return Share(images, found["foreground_dice"], low, high)


def fitted(points: list[Share]) -> LearningCurve:
    """The curve through the scores of some shares, the smallest first."""
    images = np.array([point.images for point in points], float)
    dice = np.array([point.dice for point in points])
    deviations = np.array([(point.high - point.low) / 3.92 for point in points])  # of a normal
    ahead = np.array([1.0, 2.0])
    (gain, low, high), _ = extrapolated(images / images[-1], dice, ahead, deviations)
    return LearningCurve(tuple(points), gain, low, high)
