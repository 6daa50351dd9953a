"""Laws of the comparison: alike for all, scored as stated, never repeated, never mixed.

The verdict is Welch's, and says no more than the seeds can tell.
"""

import csv
import json
import math
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from tests.builders import Heard
from tests.skiplab.builders import tiny
from unetseg.config import (
    CompareConfig,
    EvalConfig,
    NetworkConfig,
    RuntimeConfig,
    ScoringConfig,
    TrainConfig,
    TrainingConfig,
)
from unetseg.data.files.image import read_image
from unetseg.data.pairs.match import find_pairs
from unetseg.data.pairs.splits import read_splits
from unetseg.data.sample import draw_sample
from unetseg.errors import ConfigError, DataError, DivergedError, StoppedError
from unetseg.evaluation.evaluate import evaluate
from unetseg.prediction.predictor import Predictor
from unetseg.skiplab.compare import compare
from unetseg.skiplab.corruptions import CORRUPTIONS
from unetseg.skiplab.cost import Cost
from unetseg.skiplab.look import Result
from unetseg.skiplab.seeds import Arm, difference_interval, rank
from unetseg.skiplab.skip_trainings import CLEAN, SCORES, SEVERITY, Training
from unetseg.storage import write_text
from unetseg.training import trainings, tuning
from unetseg.training.fit import train

KINDS = CompareConfig(skips=("concat", "none"), seeds=2)
RUNS = ["concat-seed0", "none-seed0", "concat-seed1", "none-seed1"]


def settings(network: dict[str, Any] | None = None, **training: Any) -> TrainConfig:
    return tiny(network, **{"ema": False, "batch": "auto"} | training)


class Watcher(Heard):
    """Remembers what was said, and stops the process at the first training step if asked to."""

    def __init__(self, *, stop: bool = False) -> None:
        super().__init__()
        self.stop = stop

    def advance(self, task: str, steps: int = 1, **facts: object) -> None:
        if self.stop and task == "training":
            os.kill(os.getpid(), signal.SIGTERM)
            self.stop = False

    @property
    def trained(self) -> list[str]:
        """The trainings that were not done before, `skip-seedN`."""
        turns = [text for text in self.said if text.startswith("training ")]
        fresh = [text.split(": ")[1] for text in turns if "done before" not in text]
        return [text.replace(", seed ", "-seed") for text in fresh]


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def scores(output: Path) -> list[dict[str, str]]:
    """The table of all trainings, without the times."""
    rows = table(output / "compare_seeds.csv")
    return [{k: v for k, v in row.items() if k != "train_seconds"} for row in rows]


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Watcher]:
    """A comparison of two kinds with two seeds, and what was said."""
    listener = Watcher()
    output = tmp_path_factory.mktemp("first") / "out"
    return compare(data, KINDS, settings(), output=output, progress=listener), listener


@pytest.fixture
def copy(first: tuple[Result, Watcher], tmp_path: Path) -> Path:
    """A copy of the folder of `first`."""
    return shutil.copytree(first[0].folder, tmp_path / "copy")


# ------------------------------------------------------------------ what is written


@pytest.mark.long
def test_everything_is_written(data: Path, first: tuple[Result, Watcher]) -> None:
    result, listener = first
    rows = table(result.folder / "compare.csv")
    assert [row["skip"] for row in rows] == ["concat", "none"]
    for row in rows:
        assert all(row.values()), row
        assert {f"{name}_mean" for name in CORRUPTIONS} < row.keys()
    assert int(rows[0]["parameters"]) > int(rows[1]["parameters"])
    assert float(rows[0]["gflop"]) > float(rows[1]["gflop"])
    facts = json.loads((result.folder / "compare.json").read_text())
    assert facts["caption"] == result.caption
    assert {row["verdict"] for row in rows} <= {"best", "equal", "worse"}
    assert (facts["split"], facts["images"], facts["severity"]) == ("val", 1, 3)
    assert facts["predict_ms_of"] == [48, 48]
    with Image.open(result.folder / "compare.png") as picture:
        assert picture.width > 1000
    assert listener.trained == RUNS  # all kinds with one seed before the next seed


@pytest.mark.long
def test_kinds_differ_in_the_skip_alone_and_seeds_in_the_seed(
    first: tuple[Result, Watcher],
) -> None:
    plans, splits = [], []
    for name in RUNS:
        run = first[0].folder / "runs" / name
        plans.append(json.loads((run / "plan.json").read_text()))
        splits.append(read_splits(run / "splits.json"))
        assert plans[-1]["network"].pop("skip") == [name.split("-")[0]]
        assert f"seed: {name[-1]}" in (run / "config.yaml").read_text()
        plans[-1].pop("reasons")
    assert all(plan == plans[0] for plan in plans)
    assert all(split == splits[0] for split in splits)
    rows = scores(first[0].folder)
    assert len({row["steps"] for row in rows}) == 1
    assert len({row["dice"] for row in rows}) == 4


@pytest.mark.long
def test_means_are_of_the_seeds(first: tuple[Result, Watcher]) -> None:
    seeds = scores(first[0].folder)
    for row in table(first[0].folder / "compare.csv"):
        values = [float(seed["noise"]) for seed in seeds if seed["skip"] == row["skip"]]
        assert float(row["noise_mean"]) == pytest.approx(np.mean(values), abs=1e-4)
        assert float(row["noise_sd"]) == pytest.approx(np.std(values, ddof=1), abs=1e-4)


# ------------------------------------------------------------------ scores


@pytest.mark.long
def test_the_clean_score_is_that_of_eval(
    data: Path, first: tuple[Result, Watcher], tmp_path: Path
) -> None:
    config = EvalConfig(
        scoring=ScoringConfig(save_masks=False, overlays=False),
        device=RuntimeConfig(device="cpu", precision="float32"),
    )
    for row, name in zip(scores(first[0].folder), sorted(RUNS), strict=True):
        run = first[0].folder / "runs" / name
        found = evaluate(run, data, config, output=tmp_path / name)
        assert found.split == "val"
        assert float(row["dice"]) == pytest.approx(found.scores.foreground_dice, abs=1e-4)


@pytest.mark.long
def test_corrupted_scores_are_those_of_corrupted_images(
    data: Path, first: tuple[Result, Watcher]
) -> None:
    run = first[0].folder / "runs" / "concat-seed1"
    predictor = Predictor(run, device=RuntimeConfig(device="cpu", precision="float32"))
    held_out = [n for n, s in read_splits(run / "splits.json", "name").items() if s == "val"]
    pair = next(pair for pair in find_pairs(data).pairs if pair.name == held_out[0])
    assert isinstance(pair.mask, Path)
    truth = np.array(Image.open(pair.mask)) > 0
    row = next(r for r in scores(first[0].folder) if (r["skip"], r["seed"]) == ("concat", "1"))
    for name, corrupt in CORRUPTIONS.items():
        image = corrupt(read_image(pair.image), SEVERITY, 0)
        found = predictor.predict(image) > 0
        by_hand = 2 * (truth & found).sum() / (truth.sum() + found.sum())
        assert float(row[name]) == pytest.approx(by_hand, abs=1e-4)
        assert row["dice_per_image"] == row["dice"]  # of a single image


@pytest.mark.long
def test_test_images_count_before_validation_images(data: Path, tmp_path: Path) -> None:
    for i, split in enumerate(["train", "train", "train", "val", "test", "test"]):
        for kind in ("images", "masks"):
            target = tmp_path / "split" / split / kind / f"x{i}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(data / kind / f"cells_{i:03d}.png", target)
    one = CompareConfig(skips=("add", "none"), seeds=1)
    compare(tmp_path / "split", one, settings(), output=tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert (facts["split"], facts["images"]) == ("test", 2)
    rows = table(tmp_path / "out" / "compare.csv")
    assert {row["dice_sd"] for row in rows} == {""}  # one seed has no spread
    assert sorted(row["verdict"] for row in rows) == ["best", "equal"]


@pytest.mark.long
def test_images_without_foreground_compare_nothing(data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(data, tmp_path / "copy")
    for kind in ("images", "masks"):
        (copy / "train" / kind).mkdir(parents=True)
        (copy / "test" / kind).mkdir(parents=True)
        for path in sorted((copy / kind).iterdir()):
            path.rename(copy / ("test" if path.stem.endswith("5") else "train") / kind / path.name)
        (copy / kind).rmdir()
    Image.new("L", (48, 48)).save(copy / "test" / "masks" / "cells_005.png")
    with pytest.raises(DataError, match=r"split test \(1 image\) show no foreground"):
        compare(copy, KINDS, settings(), output=tmp_path / "out")


# ------------------------------------------------------------------ going on


@pytest.mark.long
def test_what_is_complete_is_not_repeated(
    data: Path, copy: Path, first: tuple[Result, Watcher]
) -> None:
    weights = {path: path.stat().st_mtime_ns for path in copy.rglob("model.safetensors")}
    assert len(weights) == 4
    listener = Watcher()
    again = compare(data, KINDS, settings(), output=copy, progress=listener)
    assert listener.trained == []
    assert sum("done before" in text for text in listener.said) == 4
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert scores(copy) == scores(first[0].folder)
    assert [r["verdict"] for r in again.rows] == [r["verdict"] for r in first[0].rows]


@pytest.mark.long
def test_only_what_is_incomplete_is_trained(
    data: Path, copy: Path, first: tuple[Result, Watcher]
) -> None:
    shutil.rmtree(copy / "runs" / "concat-seed1" / "model")
    (copy / "runs" / "concat-seed1" / "last.pt").unlink()  # stopped before its first validation
    (copy / "runs" / "none-seed0" / SCORES).unlink()  # stopped before it was scored
    listener = Watcher()
    compare(data, KINDS, settings(), output=copy, progress=listener)
    assert listener.trained == ["none-seed0", "concat-seed1"]
    assert any("none-seed0 at step" in text for text in listener.said)  # resumed, not repeated
    assert scores(copy) == scores(first[0].folder)


@pytest.mark.long
def test_a_signal_stops_and_the_same_command_goes_on(
    data: Path, copy: Path, first: tuple[Result, Watcher]
) -> None:
    shutil.rmtree(copy / "runs" / "none-seed1")
    with pytest.raises(StoppedError, match="the same `unetseg lab compare` command") as caught:
        compare(data, KINDS, settings(), output=copy, progress=Watcher(stop=True))
    assert caught.value.exit_code == 128 + signal.SIGTERM
    compare(data, KINDS, settings(), output=copy)
    assert scores(copy) == scores(first[0].folder)


@pytest.mark.long
def test_kinds_are_added_to_a_comparison(data: Path, copy: Path) -> None:
    listener = Watcher()
    more = CompareConfig(skips=("none", "add"), seeds=1)
    result = compare(data, more, settings(), output=copy, progress=listener)
    assert listener.trained == ["add-seed0"]
    assert [row["skip"] for row in result.rows] == ["none", "add"]


# ------------------------------------------------------------------ what diverges


@pytest.fixture
def diverging(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The trainings named in this set diverge when they are begun."""
    names: set[str] = set()

    def train_or_diverge(*args: Any, name: str, **rest: Any) -> Path:
        if name in names:
            raise DivergedError("the gradient was not a number in 20 steps in a row")
        return train(*args, name=name, **rest)

    monkeypatch.setattr(trainings, "train", train_or_diverge)
    return names


@pytest.mark.long
def test_what_diverges_is_left_out_and_not_tried_again(
    data: Path, tmp_path: Path, diverging: set[str]
) -> None:
    diverging |= {"add-seed0", "add-seed1", "concat-seed0"}
    kinds = CompareConfig(skips=("concat", "add", "none"), seeds=2)
    listener = Watcher()
    result = compare(data, kinds, settings(), output=tmp_path / "out", progress=listener)
    assert [(row["skip"], row["seeds"]) for row in result.rows] == [("none", 2), ("concat", 1)]
    assert sum("is left out: the gradient was not a number" in said for said in listener.said) == 3
    facts = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert facts["diverged"] == ["concat (seed 0)", "add (seed 0)", "add (seed 1)"]
    diverging.clear()
    again = Watcher()
    compare(data, kinds, settings(), output=tmp_path / "out", progress=again)
    assert sum("diverged before" in said for said in again.said) == 3


@pytest.mark.long
def test_a_single_kind_that_is_left_is_no_comparison(
    data: Path, tmp_path: Path, diverging: set[str]
) -> None:
    diverging |= {"none-seed0", "none-seed1"}
    with pytest.raises(DivergedError, match="no two kinds are left") as caught:
        compare(data, KINDS, settings(), output=tmp_path / "out")
    assert caught.value.offenders == ["none (seed 0)", "none (seed 1)"]


# ------------------------------------------------------------------ what is refused


@pytest.mark.long
def test_other_settings_and_other_data_are_not_mixed(
    data: Path, copy: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="these differ") as caught:
        compare(data, KINDS, settings(lr=0.01, epochs=2), output=copy)
    assert caught.value.offenders == ["epochs: 1 → 2", "lr: auto → 0.01"]
    other = draw_sample(tmp_path / "other", count=6, size=48, seed=1)
    with pytest.raises(ConfigError, match="content of the data: "):
        compare(other, KINDS, settings(), output=copy)
    assert caught.value.fix.startswith("Choose another --output, ")
    (copy / "started.json").unlink()
    with pytest.raises(ConfigError, match="is of no known comparison"):
        compare(data, KINDS, settings(), output=copy)


@pytest.mark.parametrize("name", ["started.json", "last.pt"])
def test_the_folder_of_other_trainings_is_left_alone(data: Path, tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, '{"trainings": 5, "config": {}}')  # of folds; of a single one
    with pytest.raises(ConfigError, match="is of no known comparison"):
        compare(data, KINDS, settings(), output=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_is_left_open_is_chosen_once_for_all_kinds(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TrainConfig] = []
    seconds = iter([0.001, 0.001, 9.0, *[0.001] * 9])  # a slow moment, later none

    def diverge(_: Path, config: TrainConfig, *, out: Path, name: str, **__: Any) -> Path:
        (out / name).mkdir(parents=True)
        seen.append(config)
        raise DivergedError("as is asked for")

    monkeypatch.setattr(trainings, "train", diverge)
    monkeypatch.setattr(tuning, "step_seconds", lambda *_: next(seconds))
    base = TrainConfig(
        training=TrainingConfig(budget=60), runtime=RuntimeConfig(device="cpu", workers=0)
    )
    for _ in range(2):
        with pytest.raises(DivergedError):
            compare(data, KINDS, base, output=tmp_path / "out")
        shutil.rmtree(tmp_path / "out/runs/none-seed1")  # is trained again
    assert len(seen) == 5
    sizes = {(one.network.depth, one.network.width, one.training.augment) for one in seen}
    assert len(sizes) == 1
    assert sizes < {(3, width, augment) for width in (8, 16, 24) for augment in ("light", "full")}
    assert {one.network.skip for one in seen} == {("concat",), ("none",)}


@pytest.mark.long
def test_the_skip_and_the_seed_of_the_settings_do_not_count(data: Path, copy: Path) -> None:
    runtime = RuntimeConfig(device="cpu", precision="float32", workers=0, seed=9)
    base = settings({"skip": ("add",)}).model_copy(update={"runtime": runtime})
    listener = Watcher()
    compare(data, KINDS, base, output=copy, progress=listener)
    assert listener.trained == []


@pytest.mark.long
def test_another_number_of_workers_changes_nothing(data: Path, copy: Path) -> None:
    runtime = RuntimeConfig(device="cpu", precision="float32", workers=1)
    listener = Watcher()
    base = settings().model_copy(update={"runtime": runtime})
    compare(data, KINDS, base, output=copy, progress=listener)
    assert listener.trained == []
    started = json.loads((copy / "started.json").read_text())
    assert "workers" not in started["identity"]
    started["identity"]["workers"] = 7  # as earlier versions wrote it
    (copy / "started.json").write_text(json.dumps(started))
    compare(data, KINDS, base, output=copy)


@pytest.mark.long
def test_alpha_is_of_the_kinds_that_have_one(data: Path, tmp_path: Path) -> None:
    kinds = CompareConfig(skips=("none", "learned"), seeds=1)
    compare(data, kinds, settings({"alpha": 0.1}), output=tmp_path)
    for skip, alpha in (("none", None), ("learned", 0.1)):
        plan = json.loads((tmp_path / f"runs/{skip}-seed0/plan.json").read_text())
        assert plan["network"]["alpha"] == alpha


@pytest.mark.parametrize(
    ("network", "skips", "answer"),
    [
        ({"alpha": 0.1}, ("concat", "none"), r"alpha is 0\.1, but none of these kinds"),
        ({"preset": "classic"}, ("concat", "none"), "classic has fixed skips"),
        ({"growth": 4}, ("concat", "none"), "no network can be built"),
        ({}, ("add", "add"), "leaves nothing to compare"),
    ],
)
def test_what_cannot_be_compared_leaves_nothing(
    network: dict[str, Any], skips: Any, answer: str, data: Path, tmp_path: Path
) -> None:
    base = settings().model_copy(update={"network": NetworkConfig.model_validate(network)})
    with pytest.raises(ConfigError, match=answer):
        compare(data, CompareConfig(skips=skips), base, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ what the seeds can tell

LOSSES = {"noise": 0.3, "blur": 0.1, "contrast": 0.02, "texture": 0.2}


def arm(skip: str, dice: Sequence[float], gflop: float = 10) -> Arm:
    """An arm that loses LOSSES of its Dice under corruption."""
    trainings = []
    for seed, value in enumerate(dice):
        scores = {CLEAN: value} | {name: value - LOSSES[name] for name in CORRUPTIONS}
        trainings.append(
            Training(
                skip=skip,
                seed=seed,
                steps=100,
                seconds=60,
                split="test",
                images=8,
                dice=scores,
                dice_per_image={name: value - 0.01 for name, value in scores.items()},
            )
        )
    return Arm(skip, Cost(1000, gflop), 2 * gflop, tuple(trainings))


def verdicts(arms: Sequence[Arm]) -> list[str]:
    return [verdict for _, verdict in rank(arms)]


CLEAR = [
    arm("none", [0.70, 0.71, 0.72], 8),
    arm("concat", [0.90, 0.91, 0.92]),
    arm("add", [0.80, 0.81, 0.82], 8),
]
CLOSE = [
    arm("add", [0.89, 0.91, 0.90], 9.8),
    arm("concat", [0.89, 0.88, 0.92]),
    arm("none", [0.86, 0.92, 0.88], 8),
]


@pytest.mark.parametrize("sizes", [(3, 3), (2, 5), (10, 4)])
def test_the_interval_is_that_of_scipys_welch_test(sizes: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    first, second = (random.normal(0.8, 0.01 * size, size) for size in sizes)
    reference = stats.ttest_ind(first, second, equal_var=False)
    for comparisons in (1, 5):
        expected = reference.confidence_interval(1 - 0.05 / comparisons)
        found = difference_interval(first, second, comparisons)
        assert found == pytest.approx((expected.low, expected.high), rel=1e-6)


def test_one_value_tells_no_spread_and_equal_values_no_doubt() -> None:
    one, two = np.array([0.9]), np.array([0.5, 0.5])
    assert difference_interval(one, two) == (-math.inf, math.inf)
    assert difference_interval(two + 0.25, two) == (0.25, 0.25)


def test_kinds_of_one_distribution_are_seldom_told_apart() -> None:
    """At most in 5% of comparisons, however many kinds take part."""
    random = np.random.default_rng(1)
    wrong = 0
    for _ in range(300):
        draws = random.normal(0.8, 0.02, (5, 3))
        wrong += "worse" in verdicts([arm(str(k), row.tolist()) for k, row in enumerate(draws)])
    assert wrong / 300 <= 0.05


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        (CLEAR, [("concat", "best"), ("add", "worse"), ("none", "worse")]),
        (CLOSE, [("add", "best"), ("concat", "equal"), ("none", "equal")]),
        ([arm("concat", [0.9]), arm("none", [0.3])], [("concat", "best"), ("none", "equal")]),
    ],
    ids=["beyond the spread", "within it", "one seed"],
)
def test_arms_beyond_the_spread_are_worse_and_arms_within_it_equal(
    arms: list[Arm], expected: list[tuple[str, str]]
) -> None:
    for order in (arms, arms[::-1]):
        assert [(arm.skip, verdict) for arm, verdict in rank(order)] == expected
