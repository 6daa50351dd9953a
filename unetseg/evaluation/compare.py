"""Trained U-Nets on the same held-out pairs: which is better, as far as these images tell."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unetseg.config import ComparisonConfig, with_flags
from unetseg.data.pairs.dataset_yaml import find_described
from unetseg.data.pairs.match import Pair
from unetseg.errors import ConfigError, DataError
from unetseg.evaluation.confusion import Counts, Floats, Scores, score
from unetseg.evaluation.evaluate import (
    choose_pairs,
    counted_by,
    evaluate_pairs,
    held_out_by,
    in_order,
    restricted,
    run_folder,
    trained_digests,
)
from unetseg.evaluation.paired import Difference, difference, image_scores
from unetseg.prediction.predictor import Predictor
from unetseg.progress import SILENT, Progress
from unetseg.storage import json_object, refuse_read_only, write_csv, write_json
from unetseg.text import plural


@dataclass(frozen=True)
class Compared:
    """A run, and how it differs from the first."""

    run: Path
    scores: Scores
    difference: Difference | None
    """None of the first."""


@dataclass(frozen=True)
class Comparison:
    """The scores of several runs on the same pairs, and where they were written."""

    split: str
    runs: tuple[Compared, ...]
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """The content of compare.json."""
        rows = [
            {
                "run": str(one.run),
                **one.scores.to_json(),
                "difference": asdict(one.difference) if one.difference else None,
            }
            for one in self.runs
        ]
        return json_object({"split": self.split, "runs": rows})


def compare(
    runs: Sequence[str | Path],
    data: str | Path,
    config: ComparisonConfig | None = None,
    *,
    output: str | Path | None = None,
    progress: Progress = SILENT,
    **flags: Any,
) -> Comparison:
    """Score several trained U-Nets on the pairs that all of them hold out, each beside the first.

    Writes compare.json, and compare.csv with the Dice of every image, below `output` (default:
    compare/ in the folder of the first run).

    Args:
        runs: Run or bundle folders, two or more, of the same classes.
        data: The folder of pairs.
        config: Which split, and how it is predicted.
        output: Folder to write to.
        progress: Hears what is done.
        **flags: Settings by the names of the command's flags: split, region, tta ….

    Raises:
        ConfigError: fewer than two runs, or their classes differ.
        DataError: no pair is held out by all, or pairs do not fit.
        BundleError: there is no usable model.
    """
    (config,) = with_flags(flags, config or ComparisonConfig(), beside=["output"])
    folders = [Path(run) for run in runs]
    if len(folders) < 2:
        fix = f"unetseg compare {' '.join(map(str, folders)) or 'RUN'} RUN {data}"
        raise ConfigError(
            f"{plural(len(folders), 'run')} to compare, expected two or more", fix=fix
        )
    predictors = [Predictor(run, config.tiling, config.device) for run in folders]
    _refuse_other_classes(folders, predictors)
    pair_set, source = find_described(Path(data), config.data, predictors[0].info.class_map)
    progress.say(f"pairs: {pair_set.rule}")
    homes = [run_folder(run) for run in folders]
    output = Path(output or homes[0] / "compare")
    refuse_read_only(output)  # before the work
    digests = trained_digests(pair_set, homes)
    chosen = [choose_pairs(pair_set, home, config.scoring.split, digests) for home in homes]
    split, pairs = _held_out(chosen)
    pairs = restricted(pairs, config.scoring.region, progress)
    progress.say(f"{plural(len(pairs), 'image')} of split {split} on {predictors[0].machine}")

    def counted(one: Predictor, run: Path) -> Iterator[tuple[Sequence[Pair], Counts]]:
        info, most = one.info.snapping(source.snap), source.max_pixels
        return counted_by(
            held_out_by(one, run, pairs, config, progress),
            lambda engine, share: evaluate_pairs(
                engine, info, share, progress=progress, max_pixels=most
            ),
        )

    both = zip(predictors, folders, strict=True)
    counts = [in_order(pairs, counted(one, run)) for one, run in both]
    return _written(folders, pairs, counts, predictors[0], Comparison(split, (), output))


def _refuse_other_classes(folders: Sequence[Path], predictors: Sequence[Predictor]) -> None:
    classes = [one.info.class_map.names for one in predictors]
    if len(set(classes)) > 1:
        told = [f"{run}: {', '.join(names)}" for run, names in zip(folders, classes, strict=True)]
        fix = "Compare runs that were trained on the same masks."
        raise ConfigError("the classes of the runs differ", told, fix)


def _held_out(chosen: Sequence[tuple[str, tuple[Pair, ...]]]) -> tuple[str, tuple[Pair, ...]]:
    """The split, and the pairs that every run has in it."""
    names = [{pair.name for pair in pairs} for _, pairs in chosen]
    shared = set.intersection(*names)
    split, pairs = chosen[0]
    if len({split for split, _ in chosen}) > 1 or not shared:
        told = [f"{plural(len(pairs), 'pair')} of split {split}" for split, pairs in chosen]
        fix = "Give a folder with a test split none has seen, or --split all, which flatters some."
        raise DataError("the runs hold out no pairs in common", told, fix)
    return split, tuple(pair for pair in pairs if pair.name in shared)


def _written(
    folders: Sequence[Path],
    pairs: Sequence[Pair],
    counts: Sequence[Counts],
    first: Predictor,
    empty: Comparison,
) -> Comparison:
    """Write compare.json and compare.csv."""
    class_map, groups = first.info.class_map, [pair.group for pair in pairs]
    rows, columns = [], {}
    for run, own in zip(folders, counts, strict=True):
        both: Floats = image_scores(counts[0], own, class_map.foreground)
        gap = difference(both, groups) if own is not counts[0] else None
        rows.append(Compared(run, score(own, class_map.names, class_map.foreground, groups), gap))
        name = f"./{run}" if str(run) in {"image", "group"} else str(run)  # other columns' names
        columns[name] = image_scores(own, own, class_map.foreground)[0]
    result = Comparison(empty.split, tuple(rows), empty.folder)
    write_json(result.folder / "compare.json", result.to_json())
    table = []
    for n, pair in enumerate(pairs):
        cells = {run: "" if np.isnan(d[n]) else f"{d[n]:.4f}" for run, d in columns.items()}
        table.append({"image": pair.name, "group": pair.group or "", **cells})
    write_csv(result.folder / "compare.csv", table)
    return result
