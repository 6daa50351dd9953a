"""Folds: every image is held out once, and the ensemble is the mean of what they learn."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unetseg.cli.app import run
from unetseg.config import TrainConfig
from unetseg.data.pairs.splits import read_splits
from unetseg.errors import ConfigError, MachineError, StoppedError
from unetseg.evaluation.compare import compare
from unetseg.evaluation.evaluate import evaluate
from unetseg.locks import locked
from unetseg.prediction.predictor import load
from unetseg.progress import Silent
from unetseg.storage import parse_json, read_json, write_text
from unetseg.training import trainings
from unetseg.training.folds import train_folds

pytestmark = pytest.mark.long
EXACT: Any = {"device": "cpu", "precision": "float32"}
CONFIG = TrainConfig.model_validate(
    {
        "network": {"depth": 2, "width": 4},
        "training": {"epochs": 1, "patch": 32, "batch": 4},
        "runtime": {"workers": 0, **EXACT},
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
        evaluate(home / f"fold_{fold}", data, split="val", postprocess="off", **EXACT)
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
    page = (home / "report.html").read_text(encoding="utf-8")
    assert f"--config {home / 'config.yaml'} --folds 2 --name {home.name}-again" in page
    assert 'alt="Truth of' in page.partition('id="suspects"')[2].partition("</section>")[0]
    # Beside one of them it is held against what it held out too, by that very one
    both = compare([home, home / "fold_0"], data, postprocess="off", **EXACT)
    assert both.runs[1].scores.images == 4
    assert both.runs[1].difference is not None
    assert both.runs[1].difference.mean == 0
    # What is complete is not trained again
    monkeypatch.setattr(trainings, "train", unwanted)
    train_folds(data, 2, home, CONFIG)


def rows_of(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_more_folds_than_images_are_refused_and_leave_no_trace(data: Path, tmp_path: Path) -> None:
    home = tmp_path / "many"
    home.mkdir()
    with pytest.raises(ConfigError, match="there are no 9 parts to hold out"):
        train_folds(data, 9, home, CONFIG)
    assert not home.exists()
    home.mkdir()
    (home / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="there are no 9 parts to hold out"):
        train_folds(data, 9, home, CONFIG)
    assert (home / "notes.txt").read_text() == "mine"


def test_the_folder_that_another_process_has_stays(data: Path, tmp_path: Path) -> None:
    home = tmp_path / "f"
    home.mkdir()
    with locked(home), pytest.raises(MachineError, match="works in"):
        train_folds(data, 2, home, CONFIG)
    assert (home / ".lock").exists()


def test_trainings_that_another_version_began_are_answered(data: Path, tmp_path: Path) -> None:
    write_text(tmp_path / "f" / "started.json", '{"config": {"training": {"gone": 1}}}')
    with pytest.raises(ConfigError, match=r"started\.json is damaged, or of another version"):
        train_folds(data, 2, tmp_path / "f", CONFIG)


@pytest.mark.parametrize("named", [True, False])
def test_folds_never_go_on_in_the_run_of_one_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, named: bool
) -> None:
    kept = {"last.pt": "state", "plan.json": "{}", "model/model.json": "{}"}
    for name, text in kept.items():
        write_text(tmp_path / "cells" / name, text)
    words = ["train", str(data), "--out", str(tmp_path), "--folds", "2", "--resume"]
    told = "cells holds a run already, of one training" if named else "there is no run"
    assert run([*words, *(["--name", "cells"] if named else [])]) != 0
    assert told in capsys.readouterr().err
    assert {name: (tmp_path / "cells" / name).read_text() for name in kept} == kept
    assert not (tmp_path / "cells" / "started.json").exists()


def test_the_run_of_one_training_never_goes_on_in_folds(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("last.pt", "started.json"):
        write_text(tmp_path / "f" / name, "{}")
    assert run(["train", str(data), "--out", str(tmp_path), "--resume"]) == 2
    assert "f holds the trainings of several folds" in capsys.readouterr().err


def test_folds_go_on_only_as_they_were_begun(data: Path, tmp_path: Path) -> None:
    words = ["train", str(data), "--out", str(tmp_path), "--name", "f", "--device", "cpu"]
    words += ["--depth=2", "--width=4", "--patch=32", "-b=4", "-e=1", "--workers=0"]

    class Stop(Silent):
        def advance(self, task: str, steps: int = 1, **facts: object) -> None:
            if task == "training" and facts.get("step") == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    home = tmp_path / "f"
    home.mkdir()
    with pytest.raises(StoppedError, match="The same command with --resume goes on"):
        train_folds(data, 2, home, CONFIG, Stop())
    for change, told in (
        (["--folds", "3"], "trainings: 2 → 3"),
        (["--folds", "2", "--lr", "0.5"], "--lr: auto → 0.5"),
        (["--folds", "2", "--norm", "group"], "--norm: batch → group"),
        ([], "holds the trainings of several folds"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "unetseg", *words, "--resume", *change],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    other = home.with_name("later") / "last.pt"  # a run of one training, which is not meant
    write_text(other, "state")
    moved = shutil.copytree(data, tmp_path / "moved")
    assert run(["train", str(moved), *words[2:4], "--folds", "2", "--resume"]) == 0
    assert read_json(home / "env.json")["data"] == str(moved.resolve())
    assert other.read_text() == "state"
    assert (home / "model" / "model.json").is_file()


def test_a_signal_while_a_fold_ends_begins_no_other(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told_to_stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    home = tmp_path / "f"
    home.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("unetseg.training.fit.store_verdicts", told_to_stop)
        with pytest.raises(StoppedError, match="The same command with --resume") as stopped:
            train_folds(data, 2, home, CONFIG)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert not (home / "fold_1").exists()
    train_folds(data, 2, home, CONFIG)
    assert (home / "model" / "model.json").is_file()


def test_images_that_a_fold_leaves_out_are_scored_by_the_one_that_holds_them_out(
    data: Path, tmp_path: Path
) -> None:
    home = tmp_path / "folds"
    home.mkdir()
    part = CONFIG.data.model_copy(update={"share": 0.5})
    train_folds(data, 2, home, CONFIG.model_copy(update={"data": part}))
    assert len(read_splits(home / "fold_0" / "splits.json", "name")) == 6
    assert set(read_splits(home / "splits.json", "name").values()) == {"val"}
    scores = parse_json((home / "eval" / "val" / "scores.json").read_bytes())
    assert scores["images"] == 8
