"""Bundle + pairs → scores per class and per image, predicted masks and error pictures."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unetseg.bundle import BundleInfo, load_bundle
from unetseg.config import ComparisonConfig, EvalConfig, ScoringConfig, with_flags
from unetseg.data.files.pages import image_hash
from unetseg.data.files.photos import coloured, pillow_pixels
from unetseg.data.files.pngs import write_png
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.masks.mask_file import RawMask, mask_of_image
from unetseg.data.masks.mask_forms import whole_numbers
from unetseg.data.masks.overlay import error_overlay
from unetseg.data.pairs.dataset_yaml import find_described
from unetseg.data.pairs.match import Pair, PairSet, within
from unetseg.data.pairs.splits import read_groups, read_splits
from unetseg.errors import ConfigError, DataError, UnetsegError
from unetseg.evaluation.anatomy import Anatomy, class_pairs
from unetseg.evaluation.confusion import Counts, Scores, dice, iou, mean_over, score
from unetseg.evaluation.counting import PairCount, count_classes
from unetseg.evaluation.gallery import Gallery
from unetseg.evaluation.paired import Observers
from unetseg.evaluation.probabilities import Probabilities
from unetseg.evaluation.shapes import Shapes
from unetseg.evaluation.suspects import write_suspects
from unetseg.evaluation.truth import Truth, matched_truth, open_pair
from unetseg.prediction.engine import Engine
from unetseg.prediction.in_memory import numbers
from unetseg.prediction.outputs import Job, Writer, plan_job
from unetseg.prediction.pipeline import Opened, predict_each, read_ahead
from unetseg.prediction.postprocess import cleaned_image
from unetseg.prediction.predictor import Predictor, build_engine, load
from unetseg.prediction.stream import Stream
from unetseg.prediction.values import SeenValues, tell_strange
from unetseg.progress import SILENT, Progress
from unetseg.storage import json_value, write_csv, write_json
from unetseg.text import plural

THE_IMAGE, THE_MASK = Path("the image"), Path("the mask")
"""What those in memory are called in errors."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of one split, and where they were written."""

    split: str
    scores: Scores
    kept: "Artifacts"
    info: BundleInfo
    threshold: float | None
    """The probability from which on a pixel was foreground; None: whatever was more likely was."""

    @property
    def shapes(self) -> Shapes:
        """Outlines and objects."""
        return self.kept.shapes

    @property
    def folder(self) -> Path:
        """Where everything was written."""
        return self.kept.folder

    def to_json(self) -> dict[str, Any]:
        """The content of scores.json."""
        class_map, known = self.info.class_map, self.info.calibration
        content = {"split": self.split, **self.scores.to_json(), **self.shapes.to_json()}
        if len(class_map.classes) == 2:
            best = {"best": known.threshold, "dice_gain": known.dice_gain} if known else {}
            content["threshold"] = {"used": self.threshold or 0.5, **json_value(best)}
        content |= self.kept.likely.to_json(class_map.names, class_map.foreground)
        return content | self.kept.observers.to_json()


def evaluate(
    run: str | Path,
    data: str | Path,
    config: EvalConfig | None = None,
    *,
    output: str | Path | None = None,
    progress: Progress = SILENT,
    known: bool = False,
    **flags: Any,
) -> Evaluation:
    """Score a trained U-Net on the pairs of a folder.

    Writes scores.json, anatomy.json, classes.csv and images.csv, and masks and pictures of errors
    unless `config` says not to, below `output` (`run`/eval/`split`; FILE-eval/`split` for a file).

    Args:
        run: Run folder, bundle folder, or file of `unetseg export`.
        data: The folder of pairs. Images known from training keep their split, recognised by
            content, wherever the folder is now.
        config: Which split, how it is predicted, and what is written beside the scores.
        output: Folder to write to.
        progress: Hears what is done.
        known: Only pairs that the training knew: none that `--on-bad skip` left out of it.
        **flags: Settings by the names of the command's flags: split, tta, device ….

    Raises:
        DataError: pairs that cannot be read or do not fit the model, all of them.
        ConfigError: `output` is where the pairs themselves are.
        BundleError: there is no usable model.
    """
    (config,) = with_flags(flags, config or EvalConfig(), beside=["output", "known"])
    predictor = Predictor(run := Path(run), config.tiling, config.device)
    pair_set, source = find_described(Path(data), config.data, predictor.info.class_map)
    info = predictor.info.snapping(source.snap)
    progress.say(f"pairs: {pair_set.rule}")
    split, pairs = choose_pairs(pair_set, run_folder(run), config.scoring.split, known=known)
    pairs = restricted(pairs, config.scoring.region, progress)
    output = Path(output or _scores_folder(run) / split)
    _refuse_among(pair_set, output)
    progress.say(f"{plural(len(pairs), 'image')} of split {split} on {predictor.describe()}")
    keep = Artifacts(output, config.scoring, info.class_map, Probabilities.of(predictor.engine))
    counted = counted_by(
        held_out_by(predictor, run, pairs, config, progress),
        lambda one, share: evaluate_pairs(
            one, info, share, keep, progress, max_pixels=source.max_pixels
        ),
    )
    counts = in_order(pairs, counted)
    scores = score(
        counts, info.class_map.names, info.class_map.foreground, [pair.group for pair in pairs]
    )
    keep.observers.tell_refused(progress)
    result = Evaluation(split, scores, keep, info, predictor.threshold)
    write_scores(result, pairs, counts)
    (output / "suspects.csv").unlink(missing_ok=True)
    suspects = keep.write_suspects(pairs, counts) if split in {"val", "test"} else []
    keep.write_anatomy(pairs, counts, info.weights_sha256, suspects)
    return result


def held_out_by(
    predictor: Predictor,
    run: Path,
    pairs: Sequence[Pair],
    config: EvalConfig | ComparisonConfig,
    progress: Progress = SILENT,
) -> Iterator[tuple[Engine, list[Pair]]]:
    """Each U-Net of an ensemble with the pairs that it alone was not trained on; then the rest.

    Members predict as the ensemble does: without what was measured and chosen on those very pairs.
    Where they are not there, it is told that all of them score what most have seen.
    """
    home, rest = run_folder(run), list(pairs)
    is_known = predictor.info.members and (home / "splits.json").is_file()
    held_out = read_splits(home / "splits.json") if is_known else {}
    # an exported file has all of them inside
    folds = sorted(home.glob("fold_*/splits.json")) if held_out and run.is_dir() else []
    digests = _digests(pairs) if held_out else {}
    for file in folds:
        splits = read_splits(file)
        own = [pair for pair in rest if splits.get(digests[pair.name]) == "val"]
        rest = [pair for pair in rest if splits.get(digests[pair.name]) != "val"]
        if own:
            member, _ = load_bundle(file.parent)
            given = predictor.info, predictor.machine, config.tiling, config.device.engine
            yield build_engine(member, *given), own
    if seen := sum(held_out.get(digests.get(pair.name, "")) == "val" for pair in rest):
        progress.say(
            f"warning: {plural(seen, 'image')} scored by U-Nets that were trained on them, which "
            f"flatters: only a run folder with fold_0, fold_1 … knows which were not"
        )
    if rest:
        yield predictor.engine, rest


def counted_by(
    shares: Iterable[tuple[Engine, list[Pair]]], count: Callable[[Engine, list[Pair]], Counts]
) -> Iterator[tuple[list[Pair], Counts]]:
    """Each share with its counts.

    Raises:
        DataError: pairs do not fit, those of all shares together.
    """
    failures, pairs = list[str](), 0
    for engine, share in shares:
        pairs += len(share)
        try:
            yield share, count(engine, share)
        except DataError as error:
            failures += error.offenders or [error.summary]
    if failures:
        raise _unfit(failures, pairs)


def _unfit(failures: Sequence[str], pairs: int) -> DataError:
    fix = "Replace these files, or leave them out."
    return DataError(f"{len(failures)} of {pairs} pairs do not fit", failures, fix)


def in_order(pairs: Sequence[Pair], counted: Iterable[tuple[Sequence[Pair], Counts]]) -> Counts:
    """The counts N×K×K of pairs that were counted in shares, in the order of `pairs`."""
    by_name = {
        pair.name: one for share, counts in counted for pair, one in zip(share, counts, strict=True)
    }
    return np.stack([by_name[pair.name] for pair in pairs])


def score_image(
    model: Predictor | str | Path,
    image: object,
    mask: object,
    nodata: float | None = None,
    **flags: Any,
) -> Scores:
    """The scores of one image, those that `evaluate` gives it: `unetseg.score(model, image, mask)`.

    Args:
        model: From `unetseg.load`, or a run folder.
        image: As `Predictor.predict` takes it.
        mask: The true mask: the path of a file, or its values as array, tensor, list or of Pillow.
        nodata: The value of pixels without data, which do not count.
        **flags: Settings of a run folder; see `load`.

    Raises:
        DataError: one of them cannot be read, or they do not fit the model or one another.
    """
    model = model if isinstance(model, Predictor) else load(model, **flags)
    prediction = cleaned_image(model.engine.classes(model.pixels(image, nodata)), model.info)
    name = THE_MASK
    if isinstance(mask, (str, os.PathLike)):
        name = Path(mask)
        raw = mask_of_image(name, *prediction.shape)
    elif isinstance(mask, Image.Image):
        values, colours, _ = coloured(mask, pillow_pixels(mask))
        values = values[..., 0] if values.shape[-1] == 1 else values
        palette = None if colours is None else tuple(colours[:, :3].ravel().tolist())
        raw = RawMask(values, "integer" if palette is None else "palette", palette)
    else:
        raw = RawMask(whole_numbers(numbers(mask, name), name), "integer")
    class_map = model.info.class_map
    truth = matched_truth(raw, class_map, prediction.shape, (THE_IMAGE, name))
    counts = count_classes(truth, prediction, len(class_map.classes))
    return score(counts[None], class_map.names, class_map.foreground)


def run_folder(run: Path) -> Path:
    """The run folder: `run` itself, or its parent when `run` is RUN/model or an exported file."""
    is_bundle = (run / "model.json").is_file() and (run.parent / "splits.json").is_file()
    return run.parent if is_bundle or run.is_file() else run


def _scores_folder(run: Path) -> Path:
    """Where scores go unless it is said; a further bundle in a run folder has its own."""
    if run.is_file():
        return run.with_name(f"{run.stem}-eval")
    home = run_folder(run)
    return (home if run in {home, home / "model"} else run) / "eval"


def choose_pairs(
    pair_set: PairSet,
    run: Path,
    split: str,
    digests: Mapping[str, str] | None = None,
    *,
    known: bool = False,
) -> tuple[str, tuple[Pair, ...]]:
    """The split to score and its pairs, in the groups of the training unless they have their own.

    The splits of the training count, for images that were there (recognised by content); else the
    folder's own; without any, every pair is scored as "all". `digests` are those of
    `trained_digests`, where they are known; pairs that were not there are left out if only `known`
    ones are wanted.

    Raises:
        DataError: no pair is in that split, or files cannot be read; all of them.
    """
    file = run / "splits.json"
    trained = read_splits(file) if file.is_file() else {}  # by content
    groups = read_groups(file) if trained else {}
    digests = trained_digests(pair_set, [run]) if digests is None else digests
    splits, pairs = {}, []
    for pair in pair_set.pairs:
        digest = digests.get(pair.name, "")
        if known and digest not in trained:
            continue
        splits[pair.name] = trained.get(digest, pair.split)
        pairs.append(replace(pair, group=pair.group or groups.get(digest)))
    if split == "auto":
        present = set(splits.values())
        split = next((name for name in ("test", "val") if name in present), "all")
    chosen = tuple(p for p in pairs if split == "all" or splits[p.name] == split)
    if not chosen:
        there = sorted({name or "none" for name in splits.values()})
        raise DataError(
            f"no pair of {pair_set.root} is in split {split!r}; there are: {', '.join(there)}",
            fix="Choose --split all, or one of those.",
        )
    return split, chosen


def trained_digests(pair_set: PairSet, runs: Iterable[Path]) -> dict[str, str]:
    """The hash of the content of each pair, by its name; none where no run tells its splits."""
    are_told = any((run / "splits.json").is_file() for run in runs)
    return _digests(pair_set.pairs) if are_told else {}


def _digests(pairs: Sequence[Pair]) -> dict[str, str]:
    """The hash of the content of each pair, by its name."""
    digests, failures = {}, []
    for pair in pairs:
        try:
            digests[pair.name] = image_hash(pair.image, pair.mask or pair.image)
        except OSError as error:
            failures.append(f"{error.filename} cannot be read: {error.strerror}")
    if failures:
        fix = "Replace these files, or leave them out."
        raise DataError(f"{len(failures)} of {len(pairs)} pairs cannot be read", failures, fix)
    return digests


def restricted(
    pairs: tuple[Pair, ...], region: Literal["auto", "whole"] | Path, progress: Progress = SILENT
) -> tuple[Pair, ...]:
    """The pairs with the regions in which they count, see `CountingConfig`; it is told.

    Raises:
        PairingError: the region is no file or folder with a mask for each image.
    """
    if region == "whole":
        return tuple(replace(pair, region=None) for pair in pairs)
    if isinstance(region, Path):
        progress.say(f"scores count inside the masks of {region}")
        return within(pairs, region)
    if views := sum(pair.region is not None for pair in pairs):
        progress.say(f"scores count inside the fields of view of {plural(views, 'image')}")
    return pairs


def _refuse_among(pair_set: PairSet, folder: Path) -> None:
    """Masks and pictures written into `folder` must not take the place of the pairs' own files.

    Raises:
        ConfigError: they would be written among them.
    """
    files = {file for pair in pair_set.pairs for file in (*pair.files, pair.region, pair.second)}
    homes = {home.resolve() for home in {file.parent for file in files if file}}
    parts = [(folder / name).resolve() for name in ("masks", "overlays", "gallery")]
    among = [part for part in parts if any(home.is_relative_to(part) for home in homes)]
    if among:
        fix = "Choose another folder with -o."
        raise ConfigError("masks and pictures would be written among the pairs, in", among, fix)


def evaluate_pairs(
    engine: Engine,
    info: BundleInfo,
    pairs: Iterable[Pair],
    keep: "Artifacts | None" = None,
    progress: Progress = SILENT,
    *,
    max_pixels: int | None = None,
) -> NDArray[np.int64]:
    """The confusion N×K×K of every pair.

    Args:
        engine: The trained U-Net.
        info: What its masks mean.
        pairs: What to score.
        keep: Writes masks and pictures on the way.
        progress: Hears what is done.
        max_pixels: The most pixels of a file that are decoded at once.

    Raises:
        DataError: pairs that cannot be read or do not fit the model, all of them.
    """
    pairs = list(pairs)
    folder = keep.folder / "masks" if keep else Path()
    jobs = [plan_job(pair.image, folder / pair.name, info.class_map, max_pixels) for pair in pairs]
    strange: dict[Path, str] = {}
    counted: list[Counts | UnetsegError | None] = [None] * len(pairs)

    def read(number: int) -> Opened[tuple[int, Truth]]:
        image, truth = open_pair(pairs[number], jobs[number], engine, info, progress)
        seen = image.seen if isinstance(image, Stream) else SeenValues(info, image)
        return Opened((number, truth), image, info.bands, seen)

    def done(number: int, result: Counts | UnetsegError) -> None:
        counted[number] = result
        progress.advance("evaluating", file=pairs[number].image.name)

    progress.start("evaluating", len(pairs))
    opened = read_ahead(range(len(pairs)), read, lambda number: jobs[number].pixels, refuse=done)
    likely = keep.likely if keep and keep.wanted.calibration else None
    for image in predict_each(engine, opened, probabilities=bool(likely)):
        number, truth = image.name
        count = PairCount(image, truth, kept=keep is not None, info=info, likely=likely)
        try:
            written = keep.write(pairs[number], jobs[number], count) if keep else count.count()
            path = pairs[number].image
            strange[path] = image.judged(path, strict=keep is not None and keep.wanted.strict)
            done(number, written)
        except DataError as error:
            done(number, error)
        finally:
            truth.close()
    progress.finish("evaluating")
    tell_strange(strange, progress)
    failures = [one.summary for one in counted if isinstance(one, UnetsegError)]
    if failures:
        raise _unfit(failures, len(pairs))
    return np.stack([one for one in counted if isinstance(one, np.ndarray)])


def write_scores(result: Evaluation, pairs: Iterable[Pair], counts: NDArray[np.int64]) -> None:
    """Write scores.json, classes.csv and images.csv into the evaluation's folder."""
    class_map = result.shapes.class_map
    content = result.to_json()
    write_json(result.folder / "scores.json", content)
    classes = content["classes"].items()
    write_csv(result.folder / "classes.csv", [{"class": name, **row} for name, row in classes])
    images = []
    for pair, count in zip(pairs, counts, strict=True):
        by_class = dice(count)
        scores = {
            "foreground_dice": mean_over(by_class, class_map.foreground),
            "foreground_iou": mean_over(iou(count), class_map.foreground),
            **{f"dice {name}": d for name, d in zip(class_map.names, by_class, strict=True)},
        }
        cells = {name: "" if np.isnan(d) else f"{d:.4f}" for name, d in scores.items()}
        shapes = result.shapes.of_image(pair.name)
        images.append({"image": pair.name, **cells, **json_value(shapes)})
    write_csv(result.folder / "images.csv", images)


class Artifacts:
    """Masks and pictures of errors, written beside the scores.

    Args:
        folder: Where `masks/`, `overlays/` and `gallery/` go.
        wanted: Which of them are.
        class_map: The coding of the masks.
        likely: Collects probabilities.
    """

    def __init__(
        self, folder: Path, wanted: ScoringConfig, class_map: ClassMap, likely: Probabilities
    ) -> None:
        self.folder, self.wanted, self.class_map, self.likely = folder, wanted, class_map, likely
        self.shapes = Shapes(class_map, wanted.tolerance)
        self.anatomy = Anatomy(class_map, wanted.tolerance)
        self.observers = Observers(class_map)
        self.gallery = Gallery(class_map)
        self.disagreements: dict[str, float] = {}
        """How surely each mask is contradicted, by the name of its image."""

    def write(self, pair: Pair, job: Job, count: PairCount) -> Counts:
        """Count a pair, and write what is wanted on the way."""
        if self.wanted.save_masks:
            writer = Writer(job, *count.size)
            writer.write_mask(job.mask, count.predict(), self.class_map)
        else:
            count.count()
        self.disagreements[pair.name] = count.disagreement.share
        if count.is_whole or self.wanted.overlays:
            self._look_at(pair, count)
        if pair.second and not count.is_whole:
            told = f"{pair.image} is too large to be compared with a second observer"
            self.observers.refused.append(told)
        return count.counts

    def _look_at(self, pair: Pair, count: PairCount) -> None:
        """Collect what the pixels of a pair that was counted show, and draw its errors."""
        image, truth, prediction = sampled = count.sampled
        if count.is_whole:
            self.anatomy.add(pair.name, *sampled)
            self.observers.add(pair, truth, prediction)
            if self.wanted.shapes:
                self.shapes.add(pair.name, truth, prediction)
        if self.wanted.overlays:
            errors = error_overlay(image, truth, prediction, self.class_map.background)
            write_png(self.folder / "overlays" / f"{pair.name}.png", errors)
            of_image = float(mean_over(dice(count.counts), self.class_map.foreground))
            self.gallery.add(pair.name, of_image, *sampled)

    def write_suspects(self, pairs: Iterable[Pair], counts: Counts) -> list[str]:
        """Write suspects.csv; the names, those that the network contradicts most surely first.

        Nothing where no probabilities were counted.
        """
        if not self.wanted.calibration:
            return []
        scores = mean_over(dice(counts), self.class_map.foreground).tolist()
        rows = [
            (pair.name, pair.mask or pair.image, self.disagreements[pair.name], of_image)
            for pair, of_image in zip(pairs, scores, strict=True)
        ]
        return write_suspects(self.folder / "suspects.csv", rows)

    def write_anatomy(
        self, pairs: Iterable[Pair], counts: Counts, weights: str, suspects: Sequence[str]
    ) -> None:
        """Write anatomy.json, and the pictures of the worst, median, best and suspect images.

        `weights` is the sum over those of the model.
        """
        names = [pair.name for pair in pairs]
        scores = mean_over(dice(counts), self.class_map.foreground).tolist()
        content = self.anatomy.to_json(counts.sum(axis=0), dict(zip(names, scores, strict=True)))
        kinds = {
            name: {
                "reason": errors.reason,
                "kinds": errors.kinds,
                "most": next(iter(class_pairs(one, self.class_map.names)), None),
            }
            for name, one in zip(names, counts, strict=True)
            if (errors := self.anatomy.images.get(name))
        }
        if self.wanted.overlays:
            content["gallery"] = self.gallery.write(self.folder / "gallery", kinds, suspects)
        write_json(self.folder / "anatomy.json", {"weights": weights, **content})
