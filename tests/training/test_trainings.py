"""Several trainings in one folder: all are alike, and what was killed goes on or begins anew."""

from pathlib import Path

import pytest

from tests.builders import CPU
from unetseg.config import TrainConfig
from unetseg.data.facts.survey import survey
from unetseg.data.sample import draw_sample
from unetseg.progress import SILENT
from unetseg.storage import write_json, write_text
from unetseg.training import trainings
from unetseg.training.plan import make_plan
from unetseg.training.run import merged_settings
from unetseg.training.trainings import of_shape, train_in


def test_what_the_first_has_chosen_all_have(tmp_path: Path) -> None:
    known = survey(draw_sample(tmp_path / "cells", count=6, size=64))
    found = {"patch": 32, "augment": "light"}  # as a short budget would
    first = make_plan(known, TrainConfig(), CPU).model_copy(update=found)
    write_json(tmp_path / "fold_0" / "plan.json", first.model_dump(mode="json"))
    second = make_plan(known, of_shape(TrainConfig(), tmp_path / "fold_0"), CPU)
    shared = {"network", "patch", "normalisation", "augment"}
    assert second.model_dump(include=shared) == first.model_dump(include=shared)


def test_what_was_killed_before_its_first_state_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[bool, bool]] = []

    def note(*_: object, out: Path, name: str, resume: bool, **__: object) -> None:
        begun.append((resume, (out / name).exists()))

    monkeypatch.setattr(trainings, "train", note)
    run = tmp_path / "fold_0"
    for name in ("log.jsonl", "model/model.json"):
        write_text(run / name, "{}")
    train_in(run, tmp_path, TrainConfig(), SILENT)
    write_text(run / "last.pt", "state")
    train_in(run, tmp_path, TrainConfig(), SILENT)
    assert begun == [(False, False), (True, True)]


def test_a_default_that_is_given_counts_when_a_run_is_gone_on_with() -> None:
    saved = TrainConfig.model_validate({"runtime": {"device": "cuda", "save_every": "30s"}})
    same = merged_settings(saved, TrainConfig()).runtime
    assert (same.device, same.save_every) == ("cuda", 30)
    given = TrainConfig.model_validate({"runtime": {"device": "auto", "save_every": "10m"}})
    changed = merged_settings(saved, given).runtime
    assert (changed.device, changed.save_every) == ("auto", 600)
    written = TrainConfig.model_validate({"training": {"epochs": None}})
    whole = TrainConfig.model_validate({"training": {"epochs": 5}})
    assert merged_settings(whole, written).training.epochs == 5


def test_another_kind_of_end_takes_the_place_of_the_one_before() -> None:
    timed, counted, both = (
        TrainConfig.model_validate({"training": training})
        for training in ({"budget": "10m"}, {"epochs": 200}, {"epochs": 50, "budget": "1h"})
    )
    ends = [
        (merged.training.epochs, merged.training.budget)
        for merged in (
            merged_settings(timed, counted),
            merged_settings(counted, timed),
            merged_settings(both, counted),
            merged_settings(timed, TrainConfig()),
        )
    ]
    assert ends == [(200, None), (None, 600), (200, 3600), (None, 600)]
