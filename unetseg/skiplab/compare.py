"""Kinds of skips trained alike, on the same data, and held against each other.

Every kind is trained with the same settings, the same budget and the same seeds; then scored on
images held out, clean and spoilt; then timed. What that tells of the kinds is in `arms`.
"""

import csv
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg import __version__
from unetseg.bundle import BundleInfo
from unetseg.config import CompareConfig, TrainConfig
from unetseg.data.folders import number
from unetseg.data.images import read_image
from unetseg.data.masks import ClassMap
from unetseg.data.pairs import Pair, find_pairs
from unetseg.data.survey import survey
from unetseg.errors import ConfigError, DataError, StoppedError, UnetsegError
from unetseg.evaluation.confusion import Counts, confusion, dice, mean_over
from unetseg.evaluation.evaluate import choose_pairs, read_truth
from unetseg.prediction.predict import Predictor, check_image, read_ahead
from unetseg.progress import SILENT, Progress
from unetseg.runtime import Machine, start, versions
from unetseg.skiplab.arms import CLEAN, CONFIDENCE, Arm, Training, advise, describe, draw, rank
from unetseg.skiplab.corruptions import CORRUPTIONS
from unetseg.skiplab.cost import network_cost, time_in_turns
from unetseg.skiplab.finding import Finding, publish
from unetseg.storage import locked, write_json
from unetseg.training.checkpoint import STATE
from unetseg.training.fit import train
from unetseg.training.plan import bundle_info, make_plan
from unetseg.training.run import data_hash, flat_settings

SEVERITY = 3
"""Severity of the corruptions that robustness is measured with, 1–5."""

RUNS = "runs"
STARTED = "started.json"
"""What a comparison was started with; only the same is gone on with."""
SCORES = "skip_scores.json"
"""In a run folder: this training is complete, and these are its scores."""


def compare(
    data: Path,
    config: CompareConfig,
    base: TrainConfig,
    *,
    output: Path,
    progress: Progress = SILENT,
) -> Finding:
    """Train every kind of skip with every seed, and tell which is best, by how much, at what cost.

    Writes compare.csv, compare.json and compare.png, and compare_seeds.csv with a row for each
    training, whose run folders are in `output`/runs. The trainings take turns, all kinds with one
    seed before the next seed. Calling it again goes on where it was interrupted, and repeats no
    training that is complete; kinds and seeds may be added.

    Args:
        data: The folder of pairs. Scores are taken on its test images, else on those held out for
            validation (which also chose the weights that were kept), else on all.
        config: Kinds and number of seeds.
        base: All other settings; its skip and its seed do not count.
        output: Where to write.
        progress: Hears what is done.

    Raises:
        ConfigError: `output` holds a comparison of other data or settings, or there is no network
            of these settings.
        DataError: the folder cannot be used.
        StoppedError: a signal stopped a training; its state is saved.
    """
    skips = _distinct(config.skips)
    machine = start(base.runtime)
    known = survey(data, base.data, progress)
    plan = make_plan(known, base, machine)
    info = bundle_info(plan, known, data_hash(known))
    costs = {skip: network_cost(_with_skip(info, skip), plan.patch) for skip in skips}
    batch = _claim(output, _identity(base, info, machine), plan.batch)
    training = base.training.model_copy(update={"batch": batch})  # the same for all, to the end
    base = base.model_copy(update={"training": training})
    with locked(output):
        bench = _Bench(data, base, output, progress)
        results = bench.all_trainings(skips, range(config.seeds))
        times, shape = bench.predict_times(skips)
    arms = [
        Arm(
            s,
            costs[s].parameters,
            costs[s].gflop,
            times[s],
            tuple(r for r in results if r.skip == s),
        )
        for s in skips
    ]
    facts = {
        "data": str(data),
        "data_hash": info.data_hash,
        "split": results[0].split,
        "images": results[0].images,
        "severity": SEVERITY,
        "confidence": CONFIDENCE,
        "gflop_of": [plan.patch, plan.patch],
        "predict_ms_of": shape,
        "machine": str(machine),
        "settings": _common_settings(base),
        "versions": versions(),
    }
    return _publish(output, arms, facts)


def _distinct(skips: Sequence[str]) -> tuple[str, ...]:
    distinct = tuple(dict.fromkeys(skips))
    if len(distinct) < 2:
        mend = "Give two kinds at least: --skips concat,none."
        raise ConfigError(f"--skips {','.join(skips)} leaves nothing to compare", mend=mend)
    return distinct


def _publish(output: Path, arms: Sequence[Arm], facts: Mapping[str, Any]) -> Finding:
    """The table of the kinds with its picture, and the table of all trainings."""
    standing = rank(arms)
    split = {"val": "validation"}.get(facts["split"], facts["split"])
    where = number(facts["images"], "image" if split == "all" else f"{split} image")
    seen, meaning = describe(standing, where), advise(standing)
    rows = [training.row() for arm in arms for training in arm.trainings]
    publish(output, "compare_seeds", Finding(output, rows, seen, meaning), {})
    finding = Finding(output, [arm.row() for arm in arms], seen, meaning)
    return publish(
        output, "compare", finding, {"compare": draw(standing, where, SEVERITY)}, **facts
    )


def _with_skip(info: BundleInfo, skip: str) -> BundleInfo:
    network = info.network.model_copy(update={"skip": (skip,)})
    return info.model_copy(update={"network": network})


# ------------------------------------------------------------------ what was started


def _identity(base: TrainConfig, info: BundleInfo, machine: Machine) -> dict[str, Any]:
    """What all trainings of a comparison have in common."""
    return _common_settings(base) | {
        "content of the data": info.data_hash,
        "severity of the corruptions": SEVERITY,
        "machine": f"{machine.device.type}, {machine.dtype}",
        "unetseg": __version__,
    }


def _common_settings(base: TrainConfig) -> dict[str, Any]:
    settings = flat_settings(base)
    return {name: value for name, value in settings.items() if name not in {"skip", "seed"}}


def _claim(output: Path, identity: dict[str, Any], batch: int) -> int:
    """Remember what is compared in `output`, or check that it is the same; the batch to use.

    Raises:
        ConfigError: `output` holds a comparison of something else.
    """
    file = output / STARTED
    if not any((output / RUNS).glob("*")):
        write_json(file, {"identity": identity, "batch": batch})
        return batch
    mend = "Choose another --out, or go back to what it was started with."
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        before, batch = dict(saved["identity"]), int(saved["batch"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{output / RUNS} is of no known comparison", [error], mend) from error
    names = [n for n in before | identity if before.get(n) != identity.get(n)]
    if names:
        differences = [f"{n}: {before.get(n)} → {identity.get(n)}" for n in names]
        raise ConfigError(f"{output} holds another comparison; these differ", differences, mend)
    return batch


# ------------------------------------------------------------------ trainings and their scores


@dataclass(frozen=True)
class _Bench:
    """Where trainings are made, scored and timed."""

    data: Path
    base: TrainConfig
    output: Path
    progress: Progress

    def all_trainings(self, skips: Sequence[str], seeds: Sequence[int]) -> list[Training]:
        """Every kind with the first seed, then every kind with the next."""
        turns = [(skip, seed) for seed in seeds for skip in skips]
        results = []
        for turn, (skip, seed) in enumerate(turns, 1):
            where = f"training {turn} of {len(turns)}: {skip}, seed {seed}"
            done = _completed(self._folder(skip, seed))
            self.progress.say(f"{where}: done before" if done else where)
            results.append(done or self._trained_and_scored(skip, seed))
        return results

    def predict_times(self, skips: Sequence[str]) -> tuple[dict[str, float], tuple[int, ...]]:
        """Median milliseconds of each kind for one image, and that image's height and width.

        The kinds take turns, so that whatever else the machine does slows all of them alike.
        """
        predictors = {skip: self._predictor(self._folder(skip, 0)) for skip in skips}
        first = self._pairs(self._folder(skips[0], 0))[1][0]
        info = predictors[skips[0]].info
        image = check_image(read_image(first.image), info, first.image)
        engines = {skip: predictor.engine for skip, predictor in predictors.items()}
        return time_in_turns(engines, image, self.progress), image.shape[:2]

    def _folder(self, skip: str, seed: int) -> Path:
        return self.output / RUNS / f"{skip}-seed{seed}"

    def _trained_and_scored(self, skip: str, seed: int) -> Training:
        folder = self._folder(skip, seed)
        self._train(folder, skip, seed)
        split, pairs = self._pairs(folder)
        predictor = self._predictor(folder)
        counts = self._counts(predictor, pairs)
        class_map = predictor.info.class_map
        _check_foreground(counts[CLEAN], class_map, split)
        last = _last_metrics(folder)
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

    def _train(self, folder: Path, skip: str, seed: int) -> None:
        """Train anew, or go on with what an interruption left."""
        network = self.base.network.model_copy(update={"skip": (skip,)})
        runtime = self.base.runtime.model_copy(update={"seed": seed})
        config = self.base.model_copy(update={"network": network, "runtime": runtime})
        resume = (folder / STATE).is_file()
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)  # stopped before there was anything to keep
        try:
            train(
                self.data,
                config,
                out=folder.parent,
                name=folder.name,
                resume=resume,
                progress=self.progress,
            )
        except StoppedError as error:
            mend = "Give the same `unetseg lab compare` command again to go on."
            code = error.exit_code
            raise StoppedError(error.summary, error.offenders, mend, exit_code=code) from error

    def _predictor(self, folder: Path) -> Predictor:
        return Predictor(folder, device=self.base.runtime)

    def _pairs(self, folder: Path) -> tuple[str, tuple[Pair, ...]]:
        """The split that scores are taken on, and its pairs."""
        source = self.base.data
        found = find_pairs(self.data, images=source.images, masks=source.masks, table=source.pairs)
        return choose_pairs(found, folder, "auto")

    def _counts(self, predictor: Predictor, pairs: Sequence[Pair]) -> dict[str, Counts]:
        """The confusions N×K×K of clean images and of each corruption's copies."""
        info, by_image = predictor.info, {pair.image: pair for pair in pairs}
        rows: dict[str, list[Counts]] = {name: [] for name in (CLEAN, *CORRUPTIONS)}
        self.progress.start("scoring", len(pairs))
        read = read_ahead(by_image, lambda path: read_truth(by_image[path], info))
        for seed, (path, found) in enumerate(read):
            if isinstance(found, UnetsegError):
                raise found
            image, truth = found
            for name, copy in _copies(image, seed):
                prediction = predictor.engine.classes(copy)
                rows[name].append(confusion(truth, prediction, len(info.class_map.classes)))
            self.progress.advance("scoring", file=path.name)
        self.progress.finish("scoring")
        return {name: np.stack(counts) for name, counts in rows.items()}


def _copies(image: NDArray[Any], seed: int) -> Iterator[tuple[str, NDArray[Any]]]:
    yield CLEAN, image
    for name, corrupt in CORRUPTIONS.items():
        yield name, corrupt(image, SEVERITY, seed)


def _completed(folder: Path) -> Training | None:
    """What is known of a training that is complete."""
    try:
        done = Training.model_validate_json((folder / SCORES).read_bytes())
    except (OSError, ValueError):
        return None
    return done if (folder / "model" / "model.json").is_file() else None


def _last_metrics(folder: Path) -> dict[str, str]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))[-1]


def _dice(counts: Counts, class_map: ClassMap) -> float:
    """Foreground Dice of K×K; of N×K×K the mean over the images that have one."""
    scores = np.atleast_1d(mean_over(dice(counts), class_map.foreground))
    return float(scores[~np.isnan(scores)].mean())


def _check_foreground(counts: Counts, class_map: ClassMap, split: str) -> None:
    if not counts[:, list(class_map.foreground)].any():
        raise DataError(
            f"the masks of split {split} ({number(len(counts), 'image')}) show no foreground, "
            "so that nothing can be compared",
            mend="Bring test or validation images with foreground.",
        )
