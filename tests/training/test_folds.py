"""Folds: every image is held out once, and the ensemble is the mean of what they learn."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unetseg.config import TrainConfig
from unetseg.data.pairs.splits import read_splits
from unetseg.errors import ConfigError
from unetseg.evaluation.evaluate import evaluate
from unetseg.prediction.predictor import load
from unetseg.storage import parse_json
from unetseg.training import folds
from unetseg.training.folds import train_folds

pytestmark = pytest.mark.long
CONFIG = TrainConfig.model_validate(
    {
        "network": {"depth": 2, "width": 4},
        "training": {"epochs": 1, "patch": 32, "batch": 4},
        "runtime": {"device": "cpu", "workers": 0, "precision": "float32"},
    }
)


def unwanted(*_: object, **__: object) -> None:
    raise AssertionError("trained again")


def test_each_image_is_held_out_once_and_scored_by_who_did_not_see_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "folds"
    home.mkdir()
    train_folds(data, 2, home, CONFIG)
    parts = [read_splits(home / f"fold_{n}" / "splits.json", "name") for n in range(2)]
    held_out = [{name for name, split in part.items() if split == "val"} for part in parts]
    assert [len(part) for part in held_out] == [4, 4]
    assert held_out[0].isdisjoint(held_out[1])
    plans = [parse_json((home / f"fold_{n}" / "plan.json").read_bytes()) for n in range(2)]
    assert plans[0]["network"] == plans[1]["network"]
    # The ensemble predicts the mean of their logits
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    ours = load(home, device="cpu", precision="float32").engine.logits(image)
    theirs = [
        load(home / f"fold_{n}", device="cpu", precision="float32").engine.logits(image)
        for n in range(2)
    ]
    np.testing.assert_allclose(ours, (theirs[0] + theirs[1]) / 2, atol=2e-3)
    # Each image has the score that its own fold gives it
    scores = parse_json((home / "eval" / "val" / "scores.json").read_bytes())
    assert scores["images"] == 8
    for fold, names in enumerate(held_out):
        evaluate(home / f"fold_{fold}", data, device="cpu", split="val")
        own, joint = (
            {row["image"]: row for row in rows_of(run / "eval" / "val" / "images.csv")}
            for run in (home / f"fold_{fold}", home)
        )
        assert set(own) == names
        assert all(joint[name] == own[name] for name in names)
    suspects = rows_of(home / "eval" / "val" / "suspects.csv")
    assert len(suspects) == 8
    shares = [float(row["disagreement"]) for row in suspects]
    assert shares == sorted(shares, reverse=True)
    assert (home / "report.html").is_file()
    # What is complete is not trained again
    monkeypatch.setattr(folds, "train", unwanted)
    train_folds(data, 2, home, CONFIG)


def rows_of(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_more_folds_than_images_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are no 9 parts to hold out"):
        train_folds(data, 9, tmp_path, CONFIG)
