"""Kinds of skips trained alike, on the same data, and held against each other.

Every kind is trained with the same settings, the same budget and the same seeds, and of the same
width and depth, chosen once for concatenation; then scored on images held out, clean and spoilt;
then timed.

Whether one kind of skip is better than another is told by how far the seeds alone move the scores:
by Welch's interval (1947) of the difference of two means. Which kind is best is seen in the same
scores, and might have been any; so the level is 95% for all pairs of kinds together (Bonferroni).
"""

import csv
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.special import stdtrit

from unetseg import __version__
from unetseg.bundle import BundleInfo
from unetseg.config import CompareConfig, NetworkConfig, TrainConfig
from unetseg.data.facts.survey import Survey, survey
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.pairs.dataset_yaml import find_described
from unetseg.data.pairs.match import Pair
from unetseg.errors import ConfigError, DataError, DivergedError
from unetseg.evaluation.confusion import Counts, Floats, confusion, dice, mean_over
from unetseg.evaluation.evaluate import choose_pairs, read_truth
from unetseg.locks import locked
from unetseg.prediction.pipeline import Opened, predict_each, read_ahead
from unetseg.prediction.predictor import Predictor
from unetseg.progress import SILENT, Progress
from unetseg.runtime import Machine, start, versions
from unetseg.skiplab.corruptions import CORRUPTIONS, STRONGEST
from unetseg.skiplab.cost import Cost, network_cost, predict_ms
from unetseg.skiplab.look import COLOURS, Result, new_figure, publish, read_filled
from unetseg.storage import parse_json, write_json, writing
from unetseg.text import plural
from unetseg.training.checkpoint import STATE
from unetseg.training.plan import bundle_info, make_plan
from unetseg.training.run import data_hash, flat_settings
from unetseg.training.trainings import STARTED, told_how_to_go_on, train_in
from unetseg.training.tuning import tried_plan
from unetseg.unet.build import WITH_ALPHA

CONFIDENCE = 0.95
"""Of all statements together that a kind scores less than the best, whichever that is."""
CLEAN = "clean"
"""The condition of images that are as they were."""
SEVERITY = 3
"""Severity of the corruptions that robustness is measured with, 1–5."""

RUNS = "runs"
SCORES = "skip_scores.json"
"""In a run folder: this training is complete, and these are its scores."""
DIVERGED = "diverged.json"
"""In a run folder: this training diverged, as it would again, and is left out."""
CONTENT = "content of the data"
FREE = {"workers"}
"""Settings that may change when a comparison is gone on with."""
SUMMARY = ("skip", "seeds", "dice_mean", "dice_sd", "gflop", "predict_ms", "verdict")
CAPTION = (
    "Foreground Dice on images held out, mean and deviation over the seeds. Best is the highest "
    f"mean; equal is what the seeds cannot tell from it with {CONFIDENCE:.0%} confidence in all "
    "pairs together, as a single seed never can; worse is what they can."
)


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


@dataclass(frozen=True)
class Arm:
    """One kind of skip: what it costs, and its trainings, one per seed."""

    skip: str
    cost: Cost
    """For one image of the size of a training crop."""
    predict_ms: float
    """Median time for one image, milliseconds."""
    trainings: tuple[Training, ...]

    def dice(self, condition: str = CLEAN) -> Floats:
        """The Dice of each seed under a condition."""
        return np.array([training.dice[condition] for training in self.trainings])

    @property
    def mean(self) -> float:
        """Mean Dice of the seeds on clean images."""
        return float(self.dice().mean())

    def row(self) -> dict[str, object]:
        """The arm as a row of a table: means and deviations over the seeds."""
        per_image = np.array([training.dice_per_image[CLEAN] for training in self.trainings])
        scores = {"dice": self.dice(), "dice_per_image": per_image}
        scores |= {name: self.dice(name) for name in CORRUPTIONS}
        row: dict[str, object] = {"skip": self.skip, "seeds": len(self.trainings)}
        row |= {"parameters": self.cost.parameters, "gflop": round(self.cost.gflop, 4)}
        for name, values in scores.items():
            row[f"{name}_mean"] = round(float(values.mean()), 4)
            row[f"{name}_sd"] = None if len(values) < 2 else round(deviation(values), 4)
        seconds = np.mean([training.seconds for training in self.trainings])
        steps = np.mean([training.steps for training in self.trainings])
        row |= {"train_seconds": round(float(seconds), 1), "steps": round(float(steps))}
        return row | {"predict_ms": round(self.predict_ms, 2)}


def compare(
    data: Path,
    config: CompareConfig,
    base: TrainConfig,
    *,
    output: Path,
    progress: Progress = SILENT,
) -> Result:
    """Train every kind of skip with every seed, and tell which is best, by how much, at what cost.

    Writes compare.csv, compare.json and compare.png, and compare_seeds.csv with a row for each
    training, whose run folders are in `output`/runs. The trainings take turns, all kinds with one
    seed before the next seed. Called again it goes on with what is not complete; kinds and seeds
    may be added. A training that diverges is left out, and so is a kind of which all do.

    Args:
        data: The folder of pairs. Scores are taken on its test images, else on those held out for
            validation (which also chose the weights that were kept), else on all.
        config: Kinds and number of seeds.
        base: All other settings; its skip and its seed do not count, and its α only for those
            kinds that have one.
        output: The folder to write to.
        progress: Hears what is done.

    Raises:
        ConfigError: `output` holds another comparison, or these settings make no network.
        DataError: the folder cannot be used.
        DivergedError: fewer than two kinds are left.
        StoppedError: a signal stopped a training; its state is saved.
    """
    skips, machine = _comparable(config.skips, base.network), start(base.runtime)
    images = survey(data, base.data, progress)
    chosen = partial(_chosen, images, _of_kind(base, "concat"), machine, progress)
    base, started = _started(output, base, data_hash(images), machine, chosen)
    plan = make_plan(images, _of_kind(base, "concat"), machine)
    info = bundle_info(plan, images, started["identity"][CONTENT])
    costs = {skip: _cost(info, skip, plan.patch) for skip in skips}
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    with locked(output):
        write_json(output / STARTED, started)
        runs = Trainings(data, base, output, progress)
        trainings, diverged = runs.all(skips, range(config.seeds))
        times, shape = runs.predict_times(trainings)
    arms = [
        Arm(skip, costs[skip], times[skip], tuple(each for each in trainings if each.skip == skip))
        for skip in times
    ]
    return _publish(
        output,
        arms,
        data=str(data),
        data_hash=info.data_hash,
        gflop_of=[plan.patch, plan.patch],
        settings=_common_settings(base),
        diverged=diverged,
        predict_ms_of=shape,
        machine=str(machine),
    )


def _publish(output: Path, arms: Sequence[Arm], **facts: object) -> Result:
    """Write the table of all trainings, and that of the kinds with its picture."""
    split, images = arms[0].trainings[0].split, arms[0].trainings[0].images
    standing = rank(arms)
    verdicts = {arm.skip: verdict for arm, verdict in standing}
    rows = [arm.row() | {"verdict": verdicts[arm.skip]} for arm in arms]
    summary = [{name: row[name] for name in SUMMARY} for row in rows]
    seeds = [training.row() for arm in arms for training in arm.trainings]
    publish(Result(output, seeds, summary, CAPTION), "compare_seeds", {})
    where = {"all": "", "val": "validation "}.get(split, f"{split} ") + "image"
    figures = {"compare": draw(standing, plural(images, where), SEVERITY)}
    facts |= {
        "versions": versions(),
        "split": split,
        "images": images,
        "severity": SEVERITY,
        "confidence": CONFIDENCE,
    }
    return publish(Result(output, rows, summary, CAPTION), "compare", figures, **facts)


def _comparable(skips: Sequence[str], network: NetworkConfig) -> tuple[str, ...]:
    """The kinds, each once; refuses fewer than two, fixed skips, and an α that none has."""
    distinct = tuple(dict.fromkeys(skips))
    if len(distinct) < 2:
        fix = "Give two kinds at least: --skips concat,none."
        raise ConfigError(f"--skips {','.join(skips)} leaves nothing to compare", fix=fix)
    if network.preset == "classic":
        fix = "Leave --preset classic out; --depth 4 --width 64 make a network of its size."
        raise ConfigError("preset classic has fixed skips, which nothing compares with", fix=fix)
    if network.alpha is not None and not WITH_ALPHA & {network.shortcut, *distinct}:
        fix = "Leave --alpha out, or compare learned too."
        raise ConfigError(f"alpha is {network.alpha:g}, but none of these kinds has an α", fix=fix)
    return distinct


def _of_kind(base: TrainConfig, skip: str) -> TrainConfig:
    """The settings with one kind of skip, and with α only where there is one."""
    alpha = base.network.alpha if WITH_ALPHA & {base.network.shortcut, skip} else None
    network = base.network.model_copy(update={"skip": (skip,), "alpha": alpha})
    return base.model_copy(update={"network": network})


# ------------------------------------------------------------------ what was started


def _common_settings(base: TrainConfig) -> dict[str, Any]:
    settings = flat_settings(base)
    return {name: value for name, value in settings.items() if name not in {"skip", "seed"}}


def _cost(info: BundleInfo, skip: str, patch: int) -> Cost:
    """Parameters and GFLOP of the network with one kind of skip."""
    network = info.network.model_copy(update={"skip": (skip,)})
    return network_cost(info.model_copy(update={"network": network}), patch)


def _chosen(
    images: Survey, config: TrainConfig, machine: Machine, progress: Progress
) -> dict[str, Any]:
    """The network and the crops that all kinds share: what is left open is chosen for one kind."""
    plan = make_plan(images, config, machine, progress)
    training = config.training.model_copy(update={"batch": plan.batch})
    config = config.model_copy(update={"training": training})
    plan = tried_plan(plan, images, config, machine)
    crops = plan.model_dump(include={"batch", "patch", "augment"})
    crops |= {"normalisation": plan.normalisation.kind}
    return {"network": plan.network.model_dump(mode="json"), "crops": crops}


def _started(
    output: Path,
    base: TrainConfig,
    content: str,
    machine: Machine,
    chosen: Callable[[], dict[str, Any]],
) -> tuple[TrainConfig, dict[str, Any]]:
    """The settings of all trainings, and what is to be remembered of them in `output`.

    A comparison that is gone on with keeps the network and the crops that it was started with.

    Raises:
        ConfigError: `output` holds another comparison.
    """
    identity = {name: v for name, v in _common_settings(base).items() if name not in FREE}
    identity |= {CONTENT: content, "severity of the corruptions": SEVERITY}
    identity |= {"machine": f"{machine.device.type}, {machine.dtype}", "unetseg": __version__}
    has_begun = any((output / RUNS).glob("*"))
    started = _before(output, identity) if has_begun else chosen()
    network = NetworkConfig.model_validate(started["network"])
    network = network.model_copy(update=base.network.model_dump(include={"skip", "alpha"}))
    training = base.training.model_copy(update=started["crops"])
    base = base.model_copy(update={"network": network, "training": training})
    return base, {"identity": identity} | started


def _before(output: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """What the comparison in `output` was started with.

    Raises:
        ConfigError: it is another one.
    """
    fix = "Choose another --output, or go back to what it was started with."
    try:
        saved = dict(parse_json((output / STARTED).read_bytes()))
        before = dict(saved["identity"])
        NetworkConfig.model_validate(saved["network"]), dict(saved["crops"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{output / RUNS} is of no known comparison", [error], fix) from error
    shared = [name for name in before | identity if name not in FREE]
    differences = [
        f"{name}: {before.get(name)} → {identity.get(name)}"
        for name in shared
        if before.get(name) != identity.get(name)
    ]
    if differences:
        raise ConfigError(f"{output} holds another comparison; these differ", differences, fix)
    return saved


# ------------------------------------------------------------------ trainings and their scores


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
        return choose_pairs(find_described(self.data, self.base.data)[0], folder, "auto")

    def _train(self, folder: Path, skip: str, seed: int) -> None:
        """Train anew, or go on with what an interruption left."""
        runtime = self.base.runtime.model_copy(update={"seed": seed})
        config = _of_kind(self.base, skip).model_copy(update={"runtime": runtime})
        if not (folder / STATE).is_file():
            shutil.rmtree(folder, ignore_errors=True)  # stopped before there was anything to keep
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
        with (folder / "metrics.csv").open(encoding="utf-8") as file:
            last = list(csv.DictReader(file))[-1]
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


# ------------------------------------------------------------------ what the seeds can tell


def deviation(values: Floats) -> float:
    """Standard deviation of a sample (n − 1); nan of fewer than two values."""
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def difference_interval(first: Floats, second: Floats, comparisons: int = 1) -> tuple[float, float]:
    """Welch's interval of mean(first) − mean(second), of samples with variances of their own.

    So many `comparisons` hold together at a level of 95% (Bonferroni). The ends are infinite where
    a sample has fewer than two values. Source: Welch 1947, Biometrika 34:28.

    >>> low, high = difference_interval(np.array([0.90, 0.91, 0.92]), np.array([0.80, 0.82, 0.84]))
    >>> bool(0 < low < 0.09 < high)
    True
    """
    if min(len(first), len(second)) < 2:
        return -math.inf, math.inf
    middle = float(first.mean() - second.mean())
    parts = [deviation(sample) ** 2 / len(sample) for sample in (first, second)]
    if not sum(parts):
        return middle, middle
    degrees = [len(sample) - 1 for sample in (first, second)]
    freedom = sum(parts) ** 2 / sum(p**2 / d for p, d in zip(parts, degrees, strict=True))
    quantile = stdtrit(freedom, 1 - (1 - CONFIDENCE) / (2 * comparisons))
    half = float(quantile) * math.sqrt(sum(parts))
    return middle - half, middle + half


def rank(arms: Sequence[Arm]) -> list[tuple[Arm, str]]:
    """The arms with their verdicts on clean images: best, then equal, then worse.

    Best is the highest mean, equal what the seeds cannot tell from it, worse what they can. Any of
    k arms may turn out the best, so an interval is one of k(k − 1)/2 that hold together.
    """
    best, *others = sorted(arms, key=lambda arm: -arm.mean)
    pairs = math.comb(len(arms), 2)
    ranked = [(best, "best")]
    for arm in others:
        low, _ = difference_interval(best.dice(), arm.dice(), pairs)
        ranked.append((arm, "worse" if low > 0 else "equal"))
    return sorted(ranked, key=lambda entry: entry[1] == "worse")  # each group by its means


# ------------------------------------------------------------------ picture


def draw(standing: Sequence[tuple[Arm, str]], where: str, severity: int) -> Figure:
    """Left: the Dice of every kind and seed on `where` ("80 test images"), the best kind first.

    Right: the same under each corruption.
    """
    figure, (across,) = new_figure(13, 5, columns=2)
    left, right = across
    conditions = (CLEAN, *CORRUPTIONS)
    shifts = np.linspace(-0.3, 0.3, len(standing))
    for number, (arm, _) in enumerate(standing):
        style: dict[str, Any] = {"fmt": "o", "color": COLOURS[number % len(COLOURS)]}
        of = [arm.dice(condition) for condition in conditions]
        means = [float(values.mean()) for values in of]
        spread = [deviation(values) for values in of] if len(of[0]) > 1 else None
        left.plot(of[0], [number + 0.18] * len(of[0]), ".", color=style["color"], alpha=0.6)
        left.errorbar(arm.mean, number, xerr=spread and spread[:1], capsize=4, **style)
        places = np.arange(len(conditions)) + shifts[number]
        right.errorbar(places, means, spread, capsize=3, label=arm.skip, **style)
    names = [f"{arm.skip} ({verdict})\n{arm.cost.gflop:.3g} GFLOP" for arm, verdict in standing]
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set_xlabel("foreground Dice (mean ± deviation; dots: one training each)")
    left.set_title(f"On {where}")
    for border in range(len(conditions) - 1):
        right.axvline(border + 0.5, color="0.8", linewidth=0.8)
    right.grid(visible=False, axis="x")
    right.set_xticks(range(len(conditions)), conditions)
    right.set(xlim=(-0.5, len(conditions) - 0.5), ylim=(-0.02, 1.02))
    right.set_ylabel("foreground Dice (mean ± deviation)")
    right.set_title(f"The same images spoilt, severity {severity} of {STRONGEST}")
    figure.legend(loc="outside right upper", title="--skip")
    return figure
