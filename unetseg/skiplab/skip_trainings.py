"""Each kind of skip trained with each seed, scored on images clean and spoilt, and timed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from unetseg.config import TrainConfig
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.pairs.dataset_yaml import find_described
from unetseg.data.pairs.match import Pair
from unetseg.errors import DataError, DivergedError
from unetseg.evaluation.confusion import Counts, confusion, dice, mean_over
from unetseg.evaluation.evaluate import choose_pairs
from unetseg.evaluation.truth import read_truth
from unetseg.prediction.pipeline import Opened, predict_each, read_ahead
from unetseg.prediction.predictor import Predictor
from unetseg.progress import Progress
from unetseg.skiplab.corruptions import CORRUPTIONS
from unetseg.skiplab.cost import predict_ms
from unetseg.skiplab.look import read_filled
from unetseg.storage import read_csv, write_json
from unetseg.text import plural
from unetseg.training.trainings import told_how_to_go_on, train_in
from unetseg.unet.build import WITH_ALPHA

CLEAN = "clean"
"""The condition of images that are as they were."""
SEVERITY = 3
"""Severity of the corruptions that robustness is measured with, 1–5."""

RUNS = "runs"
SCORES = "skip_scores.json"
"""In a run folder: this training is complete, and these are its scores."""
DIVERGED = "diverged.json"
"""In a run folder: this training diverged, as it would again, and is left out."""


class Training(BaseModel):
    """One training, and its scores on the images held out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    skip: str
    seed: int
    steps: int
    seconds: float
    """Of the whole training, validation included."""
    split: str
    images: int
    """Images that it was scored on."""
    dice: dict[str, float]
    """Foreground Dice over all pixels of the split, 0–1, by condition: clean or a corruption."""
    dice_per_image: dict[str, float]
    """Mean of the foreground Dice of every image that has one, likewise."""

    def row(self) -> dict[str, object]:
        """The training as a row of a table."""
        scores = {name: round(self.dice[name], 4) for name in CORRUPTIONS}
        per_image = round(self.dice_per_image[CLEAN], 4)
        first = {"skip": self.skip, "seed": self.seed, "dice": round(self.dice[CLEAN], 4)}
        last = {"train_seconds": round(self.seconds, 1), "steps": self.steps}
        return {**first, "dice_per_image": per_image, **scores, **last}


def of_kind(base: TrainConfig, skip: str) -> TrainConfig:
    """The settings with one kind of skip, and with α only where there is one."""
    alpha = base.network.alpha if WITH_ALPHA & {base.network.shortcut, skip} else None
    network = base.network.model_copy(update={"skip": (skip,), "alpha": alpha})
    return base.model_copy(update={"network": network})


@dataclass(frozen=True)
class Trainings:
    """Where trainings are made, scored and timed."""

    data: Path
    base: TrainConfig
    output: Path
    progress: Progress

    def all(self, skips: Sequence[str], seeds: Sequence[int]) -> tuple[list[Training], list[str]]:
        """Every kind with the first seed, then every kind with the next; and what diverged.

        Raises:
            DivergedError: fewer than two kinds are left.
        """
        turns = [(skip, seed) for seed in seeds for skip in skips]
        results, diverged = [], []
        for turn, (skip, seed) in enumerate(turns, 1):
            where = f"training {turn} of {len(turns)}: {skip}, seed {seed}"
            folder = self._folder(skip, seed)
            done, lost = _completed(folder), (folder / DIVERGED).is_file()
            before = ": done before" if done else ": diverged before, and is left out"
            self.progress.say(f"{where}{before if done or lost else ''}")
            if not (done or lost):
                try:
                    self._train(folder, skip, seed)
                    done = self._score(folder, skip, seed)
                except DivergedError as error:
                    write_json(folder / DIVERGED, {"reason": error.summary})
                    self.progress.say(f"{skip}, seed {seed} is left out: {error.summary}")
            if done:
                results.append(done)
            else:
                diverged.append(f"{skip} (seed {seed})")
        if len({training.skip for training in results}) < 2:
            fix = "Choose a lower --lr, or --precision float32, and another --output."
            raise DivergedError("trainings diverged, and no two kinds are left", diverged, fix)
        return results, diverged

    def predict_times(self, of: Sequence[Training]) -> tuple[dict[str, float], tuple[int, ...]]:
        """Median milliseconds of each kind for one image, and that image's height and width.

        The kinds take turns, so that whatever else the machine does slows all of them alike.
        """
        folders: dict[str, Path] = {}  # of the first training of each kind that is left
        for training in of:
            folders.setdefault(training.skip, self._folder(training.skip, training.seed))
        predictors = {
            skip: Predictor(folder, device=self.base.runtime) for skip, folder in folders.items()
        }
        kind, folder = next(iter(folders.items()))
        first = self._pairs(folder)[1][0]
        image, _ = read_truth(first, predictors[kind].info, self.base.data.max_pixels)
        engines = {skip: predictor.engine for skip, predictor in predictors.items()}
        return predict_ms(engines, image, self.progress), image.shape[:2]

    def _folder(self, skip: str, seed: int) -> Path:
        return self.output / RUNS / f"{skip}-seed{seed}"

    def _pairs(self, folder: Path) -> tuple[str, tuple[Pair, ...]]:
        """The split that scores are taken on, and its pairs."""
        found, _ = find_described(self.data, self.base.data)
        return choose_pairs(found, folder, "auto", known=True)

    def _train(self, folder: Path, skip: str, seed: int) -> None:
        """Train anew, or go on with what an interruption left."""
        runtime = self.base.runtime.model_copy(update={"seed": seed})
        config = of_kind(self.base, skip).model_copy(update={"runtime": runtime})
        with told_how_to_go_on("Give the same `unetseg lab compare` command again to go on."):
            train_in(folder, self.data, config, self.progress)

    def _score(self, folder: Path, skip: str, seed: int) -> Training:
        """Score a training on images held out, clean and spoilt, and write that down."""
        split, pairs = self._pairs(folder)
        predictor = Predictor(folder, device=self.base.runtime)
        counts = self._counts(predictor, pairs)
        class_map = predictor.info.class_map
        if not counts[CLEAN][:, list(class_map.foreground)].any():
            raise DataError(
                f"the masks of split {split} ({plural(len(pairs), 'image')}) show no foreground, "
                "so that nothing can be compared",
                fix="Bring test or validation images with foreground.",
            )
        *_, last = read_csv(folder / "metrics.csv")
        done = Training(
            skip=skip,
            seed=seed,
            steps=int(float(last["step"])),
            seconds=float(last["seconds"]),
            split=split,
            images=len(pairs),
            dice={name: _dice(n.sum(axis=0), class_map) for name, n in counts.items()},
            dice_per_image={name: _dice(n, class_map) for name, n in counts.items()},
        )
        write_json(folder / SCORES, done.model_dump(mode="json"))
        self.progress.say(f"{skip}, seed {seed}: Dice {done.dice[CLEAN]:.4f} ({split})")
        return done

    def _counts(self, predictor: Predictor, pairs: Sequence[Pair]) -> dict[str, Counts]:
        """The confusions N×K×K of clean images and of each corruption's copies."""
        info, by_image = predictor.info, {pair.image: pair for pair in pairs}
        limit = self.base.data.max_pixels
        rows: dict[str, list[Counts]] = {name: [] for name in (CLEAN, *CORRUPTIONS)}
        self.progress.start("scoring", len(pairs))

        def copies() -> Iterator[Opened[tuple[str, NDArray[np.uint8]]]]:
            """Every image clean and spoilt, with its condition and its truth."""
            read = read_ahead(
                by_image, lambda path: (path, *read_filled(by_image[path], info, limit))
            )
            for seed, (path, image, truth) in enumerate(read):
                yield Opened((CLEAN, truth), image)
                for name, spoil in CORRUPTIONS.items():
                    yield Opened((name, truth), spoil(image, SEVERITY, seed))
                self.progress.advance("scoring", file=path.name)

        for predicted in predict_each(predictor.engine, copies()):
            name, truth = predicted.name
            (band,) = predicted.bands()
            rows[name].append(confusion(truth, band.index, len(info.class_map.classes)))
        self.progress.finish("scoring")
        return {name: np.stack(counts) for name, counts in rows.items()}


def _completed(folder: Path) -> Training | None:
    try:
        done = Training.model_validate_json((folder / SCORES).read_bytes())
    except (OSError, ValueError):
        return None
    return done if (folder / "model" / "model.json").is_file() else None


def _dice(counts: Counts, class_map: ClassMap) -> float:
    """Foreground Dice of K×K; of N×K×K the mean over the images that have one."""
    return float(np.nanmean(mean_over(dice(counts), class_map.foreground)))
