"""The learning curve: growing shares, one set of held-out images, and a fit that finds its law."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unetseg.cli.app import run
from unetseg.config import TrainConfig
from unetseg.data.files.pngs import write_png
from unetseg.data.sample import draw_sample
from unetseg.errors import ConfigError, DataError
from unetseg.storage import parse_json
from unetseg.training.learning_curve import (
    LearningCurve,
    Share,
    epochs_as_long,
    fitted,
    learning_curve,
)
from unetseg.training.plan import Plan

WORDS = ["--depth=2", "--width=4", "--patch=32", "-b=4", "-e=1", "--device=cpu", "--workers=0"]
WORDS += ["--doublings", "2"]


def test_a_power_law_is_found_again() -> None:
    images = (20, 40, 80, 160)

    def curve_of(dice: Sequence[float], half: float) -> LearningCurve:
        return fitted([Share(n, d, d - half, d + half) for n, d in zip(images, dice, strict=True)])

    law = [0.9 - 0.8 / n**0.5 for n in images]
    curve = curve_of(law, 0.004)
    expected = 0.8 / 160**0.5 - 0.8 / 320**0.5
    assert curve.gain == pytest.approx(expected, abs=1e-4)
    assert curve.low < curve.gain < curve.high
    assert curve.verdict.startswith("more labels help")
    wide = curve_of(law, 0.04)
    assert wide.high - wide.low > 2 * (curve.high - curve.low)
    assert curve_of([0.9] * 4, 0.01).verdict.startswith("not shown to help")


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("images", [1, 3, 5, 10, 20])
def test_shares_learn_in_as_many_steps(images: int, accumulate: int) -> None:
    known: dict[str, Any] = {"epochs": 100, "batch": 4, "repeats": (2,) * 20}
    whole = Plan.model_construct(**known)
    steps, part = (math.ceil(2 * n / (4 * accumulate)) for n in (20, images))  # of an epoch
    epochs = epochs_as_long(whole, (2,) * images, accumulate)
    assert epochs is not None
    assert abs(epochs * part - 100 * steps) <= part / 2
    assert epochs_as_long(whole.model_copy(update={"epochs": None}), (1,), 1) is None


@pytest.mark.parametrize(("held_out", "told"), [(1, "fewer than two images"), (2, "no foreground")])
def test_images_whose_scores_would_have_no_interval_are_refused_before_any_training(
    tmp_path: Path, held_out: int, told: str
) -> None:
    drawn = draw_sample(tmp_path / "drawn", count=12, size=48)
    for kind in ("images", "masks"):
        for number, path in enumerate(sorted((drawn / kind).iterdir())):
            split = "val" if number < held_out else "train"
            target = tmp_path / "cells" / split / kind / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    for mask in (tmp_path / "cells" / "val" / "masks").iterdir():
        if told == "no foreground":
            write_png(mask, np.zeros((48, 48), np.uint8))
    (tmp_path / "curve").mkdir()
    with pytest.raises(DataError, match=told):
        learning_curve(tmp_path / "cells", tmp_path / "curve", TrainConfig(), doublings=1)
    assert not (tmp_path / "curve").exists()


def test_a_share_beside_those_of_the_curve_is_refused(tmp_path: Path) -> None:
    config = TrainConfig.model_validate({"data": {"share": 0.5}})
    (tmp_path / "curve").mkdir()
    with pytest.raises(ConfigError, match="the curve takes its own shares"):
        learning_curve(draw_sample(tmp_path / "cells", count=6), tmp_path / "curve", config)
    assert not (tmp_path / "curve").exists()


@pytest.mark.long
def test_a_curve_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, home = draw_sample(tmp_path / "cells", count=16, size=64), tmp_path / "curve"
    assert run(["curve", str(data), "-o", str(home), *WORDS]) == 0
    told = capsys.readouterr().out
    assert "training images" in told
    assert "twice as many" in told
    with (home / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["images"]) for row in rows] == [3, 6, 13]
    content = parse_json((home / "curve.json").read_bytes())
    assert content == parse_json((home / "share_1" / "curve.json").read_bytes())
    held_out = set()
    for share in (1, 2, 4):
        pairs = parse_json((home / f"share_{share}" / "splits.json").read_bytes())["pairs"]
        held_out.add(tuple(sorted(row["hash"] for row in pairs if row["split"] == "val")))
    assert len(held_out) == 1
    stamps = [(home / f"share_{share}" / "last.pt").stat().st_mtime_ns for share in (1, 2, 4)]
    assert run(["curve", str(data), "-o", str(home), *WORDS]) == 0
    assert stamps == [
        (home / f"share_{share}" / "last.pt").stat().st_mtime_ns for share in (1, 2, 4)
    ]
    assert run(["curve", str(data), "-o", str(home / "x"), *WORDS[:-1], "3"]) == 2


@pytest.mark.long
def test_what_was_left_out_of_the_trainings_is_not_scored(tmp_path: Path) -> None:
    drawn, cells = draw_sample(tmp_path / "drawn", count=20, size=64), tmp_path / "cells"
    for kind in ("images", "masks"):
        for number, path in enumerate(sorted((drawn / kind).iterdir())):
            target = cells / ("val" if number < 5 else "train") / kind / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    bad = cells / "val" / "images" / "cells_000.png"
    bad.write_bytes(bad.read_bytes()[:200])
    home = tmp_path / "curve"
    assert run(["curve", str(cells), "-o", str(home), "--on-bad", "skip", *WORDS]) == 0
    for share in (1, 2, 4):
        scores = home / f"share_{share}" / "eval" / "val" / "scores.json"
        assert parse_json(scores.read_bytes())["images"] == 4
