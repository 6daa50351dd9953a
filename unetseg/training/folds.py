"""A training for each part of the images, which it holds out, joined to an ensemble."""

import shutil
from pathlib import Path

from unetseg.bundle import join_bundles
from unetseg.config import TrainConfig
from unetseg.data.facts.survey import survey
from unetseg.errors import ConfigError
from unetseg.evaluation.evaluate import evaluate
from unetseg.progress import SILENT, Progress
from unetseg.report.page import write_report
from unetseg.storage import parse_json, write_json
from unetseg.training.run import tell_place, write_settings
from unetseg.training.trainings import (
    as_begun,
    claim,
    evaluation_of,
    in_one_folder,
    of_shape,
    one_of,
    train_in,
)

WAY_ON = "The same command with --resume goes on."
COMPLETE = "complete"
"""In the folder of a fold: its training has ended."""


def train_folds(
    data: Path, folds: int, home: Path, config: TrainConfig, progress: Progress = SILENT
) -> None:
    """Train `folds` U-Nets, each on all but its own part of the images, and join them to one.

    `home` holds a run of its own for each, fold_0 …, and in model/ the ensemble, which predicts the
    mean of their logits; then every image is scored by the one that did not see it, see
    `evaluate`. A budget is that of all together. The first decides what was left open:
    all have one shape. Called again it goes on with what is not complete.

    Args:
        data: The folder, or a CSV of pairs.
        folds: Parts, two or more.
        home: The run folder.
        config: Settings, as for `train`.
        progress: Hears what is done.

    Raises:
        ConfigError: settings contradict each other, or there are fewer groups of images.
        UnetsegError: as `train`.
    """
    with in_one_folder(home, WAY_ON):
        if config.data.fold is not None:
            raise ConfigError("--fold and --folds contradict one another", fix="Leave --fold away.")
        asked_for = as_begun(home, config)
        claim(home, survey(data, asked_for.data), asked_for, folds)
        config = one_of(asked_for, folds)
        for number in range(folds):
            fold = home / f"fold_{number}"
            progress.say(f"fold {number + 1} of {folds}")
            part = config.data.model_copy(update={"fold": f"{number}/{folds}"})
            asked = config.model_copy(update={"data": part})
            if not (fold / COMPLETE).exists():
                train_in(fold, data, asked, progress)
                (fold / COMPLETE).touch()
            config = of_shape(config, fold)
        join_bundles([home / f"fold_{number}" for number in range(folds)], home / "model")
    write_settings(home, asked_for)
    for file in ("plan.json", "env.json", "data.json"):  # which its page tells of
        shutil.copy(home / "fold_0" / file, home / file)
    tell_place(home, data)
    files = [home / f"fold_{number}" / "splits.json" for number in range(folds)]
    rows = (row for file in files for row in parse_json(file.read_bytes())["pairs"])
    pairs = {row["name"]: row for row in rows}  # with --share each leaves out others
    held_out = [
        row | {"split": "test" if row["split"] == "test" else "val"} for row in pairs.values()
    ]
    write_json(home / "splits.json", {"pairs": held_out})  # each by one of them
    evaluate(home, data, evaluation_of(config), progress=progress, known=True, split="val")
    write_report(home, progress)
