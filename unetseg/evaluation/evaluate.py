"""Bundle + pairs → scores per class and per image, predicted masks and error pictures."""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo
from unetseg.config import EvalConfig, ScoringConfig
from unetseg.data.files import image as image_file
from unetseg.data.files.images import allow_pixels, pixel_count, read_image, write_png
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.masks.overlay import error_overlay
from unetseg.data.masks.rasters import georeference, open_mask_raster, open_raster
from unetseg.data.pairs.dataset_yaml import find_described
from unetseg.data.pairs.match import Pair, PairSet
from unetseg.data.pairs.splits import read_splits
from unetseg.errors import DataError, ImageError, UnetsegError
from unetseg.evaluation.confusion import Counts, Scores, dice, iou, mean_over, score
from unetseg.evaluation.counting import GiantCount, count_classes
from unetseg.prediction.engine import Engine
from unetseg.prediction.outputs import GeotiffWriter, plan_job, write_outputs
from unetseg.prediction.predict import Predictor, alike, check_image, read_ahead
from unetseg.progress import SILENT, Progress
from unetseg.storage import content_hash, write_json, write_text

Truth = tuple[NDArray[Any], NDArray[np.uint8]]
"""An image H×W×C of raw pixel values, and its class indexes H×W."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of one split, and where they were written."""

    split: str
    scores: Scores
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """The content of scores.json."""
        return {"split": self.split, **self.scores.to_json()}


def evaluate(
    run: str | Path,
    data: str | Path,
    config: EvalConfig | None = None,
    *,
    output: str | Path | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Score a trained U-Net on the pairs of a folder.

    Writes scores.json, classes.csv and images.csv, and masks and error pictures unless `config`
    says not to, below `output` (default: `run`/eval/`split`).

    Args:
        run: Run folder or bundle folder.
        data: The folder of pairs. Images known from training keep their split, recognised by
            content, wherever the folder is now.
        config: Which split, how it is predicted, and what is written beside the scores.
        output: Folder to write to.
        progress: Hears what is done.

    Raises:
        DataError: pairs that cannot be read or do not fit the model, all of them.
        BundleError: there is no usable model.
    """
    config, run = config or EvalConfig(), Path(run)
    predictor = Predictor(run, config.tiling, config.device)
    found, source = find_described(Path(data), config.data)
    allow_pixels(source.max_pixels)
    info = predictor.info.snapping(source.snap)
    progress.say(f"pairs: {found.rule}")
    home = run_folder(run)
    split, pairs = choose_pairs(found, home, config.scoring.split)
    output = Path(output or home / "eval" / split)
    progress.say(f"{len(pairs)} images of split {split} on {predictor.describe()}")
    keep = Artifacts(output, info.class_map, config.scoring)
    counts = evaluate_pairs(predictor.engine, info, pairs, keep, progress)
    result = Evaluation(split, _score(counts, info.class_map), output)
    write_scores(result, pairs, counts, info.class_map)
    return result


def run_folder(run: Path) -> Path:
    """The run folder of a bundle: `run` itself, or its parent when `run` is RUN/model."""
    return run.parent if (run.parent / "splits.json").is_file() else run


def choose_pairs(found: PairSet, run: Path, split: str) -> tuple[str, tuple[Pair, ...]]:
    """The split to score and its pairs.

    The splits of the training count, for images that were there (recognised by content); else the
    folder's own; without any, every pair is scored as "all".
    """
    file = run / "splits.json"
    known = read_splits(file) if file.is_file() else {}
    splits = {pair.name: pair.split for pair in found.pairs}
    for pair in found.pairs:
        digest = content_hash(pair.image, pair.mask) if known and pair.mask else ""
        splits[pair.name] = known.get(digest, pair.split)
    if split == "auto":
        present = set(splits.values())
        split = next((name for name in ("test", "val") if name in present), "all")
    chosen = tuple(p for p in found.pairs if split == "all" or splits[p.name] == split)
    if not chosen:
        there = sorted({name or "none" for name in splits.values()})
        raise DataError(
            f"no pair of {found.root} is in split {split!r}; there are: {', '.join(there)}",
            fix="Choose --split all, or one of those.",
        )
    return split, chosen


def evaluate_pairs(
    engine: Engine,
    info: BundleInfo,
    pairs: Iterable[Pair],
    keep: "Artifacts | None" = None,
    progress: Progress = SILENT,
) -> NDArray[np.int64]:
    """The confusion N×K×K of every pair.

    Args:
        engine: The trained U-Net.
        info: What its masks mean.
        pairs: What to score.
        keep: Writes masks and pictures on the way.
        progress: Hears what is done.

    Raises:
        DataError: pairs that cannot be read or do not fit the model, all of them.
    """
    pairs = list(pairs)
    giants = {pair.image: pair for pair in pairs if _is_giant(pair)}
    whole = {pair.image: pair for pair in pairs if pair.image not in giants}
    counted: dict[Path, Counts | UnetsegError] = {}
    progress.start("evaluating", len(pairs))
    batches = alike(_read(whole, info, counted, progress), engine.images_at_once)
    for batch, predictions in engine.classes_of_each(batches, _nodata):
        for ((pair, index), image), prediction in zip(batch, predictions, strict=True):
            counted[pair.image] = count_classes(index, prediction, len(info.class_map.classes))
            if keep:
                keep.write(pair, (image, index), prediction)
            progress.advance("evaluating", file=pair.image.name)
    for path, pair in giants.items():
        counted[path] = _count_giant(engine, info, pair, keep, progress)
        progress.advance("evaluating", file=path.name)
    progress.finish("evaluating")
    in_order = [counted[pair.image] for pair in pairs]
    failures = [one.summary for one in in_order if isinstance(one, UnetsegError)]
    if failures:
        fix = "Replace these files, or leave them out."
        raise DataError(f"{len(failures)} of {len(pairs)} pairs do not fit", failures, fix)
    return np.stack([one for one in in_order if not isinstance(one, UnetsegError)])


def _read(
    pairs: dict[Path, Pair],
    info: BundleInfo,
    counted: dict[Path, Counts | UnetsegError],
    progress: Progress,
) -> Iterator[tuple[tuple[Pair, NDArray[np.uint8]], NDArray[Any]]]:
    """Each pair and its class indexes with its image; what is wrong with the others is noted."""
    for path, truth in read_ahead(pairs, lambda path: read_truth(pairs[path], info), _pixels):
        if isinstance(truth, UnetsegError):
            counted[path] = truth
            progress.advance("evaluating", file=path.name)
        else:
            yield (pairs[path], truth[1]), truth[0]


def _nodata(known: tuple[Pair, NDArray[np.uint8]]) -> float | None:
    return georeference(known[0].image)[1]


def _is_giant(pair: Pair) -> bool:
    return pair.mask is not None and _pixels(pair.image) > image_file.WHOLE_PIXELS


def _pixels(path: Path) -> int:
    try:
        return pixel_count(path)
    except ImageError:
        return 0  # it is listed with the reason when it is read


def _count_giant(
    engine: Engine, info: BundleInfo, pair: Pair, keep: "Artifacts | None", progress: Progress
) -> Counts | DataError:
    """The confusion of a pair bigger than memory, or what is wrong with it."""
    if pair.mask is None:
        return DataError(f"{pair.image} has no mask")
    try:
        with open_raster(pair.image) as image, open_mask_raster(pair.mask) as mask:
            giant = GiantCount(engine, info, image, mask, progress)
            return keep.write_giant(pair, giant) if keep else giant.count()
    except DataError as error:
        return error


def read_truth(pair: Pair, info: BundleInfo) -> Truth:
    """The image and the class indexes of a pair, checked against the model."""
    if pair.mask is None:
        raise DataError(f"{pair.image} has no mask")
    _, nodata = georeference(pair.image)
    image = check_image(read_image(pair.image), info, pair.image, nodata)
    index = info.class_map.encode(read_mask(pair.mask).pixels, pair.mask)
    if index.shape != image.shape[:2]:
        raise DataError(f"{pair.image} is {image.shape[:2]}, {pair.mask} is {index.shape}")
    return image, index


def write_scores(
    result: Evaluation, pairs: Iterable[Pair], counts: NDArray[np.int64], class_map: ClassMap
) -> None:
    """Write scores.json, classes.csv and images.csv into the evaluation's folder."""
    write_json(result.folder / "scores.json", result.to_json())
    rows = result.to_json()["classes"]
    write_text(
        result.folder / "classes.csv",
        _csv([{"class": name, **values} for name, values in rows.items()]),
    )
    write_text(result.folder / "images.csv", _csv(_image_rows(pairs, counts, class_map)))


def _image_rows(
    pairs: Iterable[Pair], counts: NDArray[np.int64], class_map: ClassMap
) -> Iterator[dict[str, Any]]:
    for pair, count in zip(pairs, counts, strict=True):
        overlaps = dice(count)
        yield {
            "image": pair.name,
            "foreground_dice": _cell(mean_over(overlaps, class_map.foreground)),
            "foreground_iou": _cell(mean_over(iou(count), class_map.foreground)),
        } | {f"dice {name}": _cell(d) for name, d in zip(class_map.names, overlaps, strict=True)}


class Artifacts:
    """Masks and pictures of errors, written beside the scores.

    Args:
        folder: Where `masks/` and `overlays/` go.
        class_map: The coding of the masks.
        config: What is wanted.
    """

    def __init__(self, folder: Path, class_map: ClassMap, config: ScoringConfig) -> None:
        self._folder = folder
        self._class_map = class_map
        self._config = config

    def write(self, pair: Pair, truth: Truth, prediction: NDArray[np.uint8]) -> None:
        """Write what is wanted of an ordinary pair."""
        if self._config.save_masks:
            job = plan_job(pair.image, self._folder / "masks" / pair.name, self._class_map)
            write_outputs(job, self._class_map, prediction)
        if self._config.overlays:
            picture = error_overlay(*truth, prediction, self._class_map.background)
            self._write_picture(pair, picture)

    def write_giant(self, pair: Pair, giant: GiantCount) -> Counts:
        """Predict and count a pair bigger than memory, and write what is wanted on the way."""
        if self._config.save_masks:
            job = plan_job(pair.image, self._folder / "masks" / pair.name, self._class_map)
            writer = GeotiffWriter(job, giant.image.height, giant.image.width)
            writer.write_mask(giant.predict(), self._class_map)
        else:
            giant.count()
        if self._config.overlays:
            self._write_picture(pair, giant.picture())
        return giant.counts

    def _write_picture(self, pair: Pair, picture: NDArray[np.uint8]) -> None:
        write_png(self._folder / "overlays" / f"{pair.name}.png", picture)


def _score(counts: NDArray[np.int64], class_map: ClassMap) -> Scores:
    return score(counts, class_map.names, class_map.foreground)


def _cell(value: Any) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


def _csv(rows: Iterable[dict[str, Any]]) -> str:
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
