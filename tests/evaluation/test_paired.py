"""Paired differences: known by hand, by brute force, and by what a second observer drew."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.builders import Heard, bundle_info, class_map, random_segmenter, save_run
from tests.evaluation.test_evaluate import remember
from unetseg.cli.app import run as command
from unetseg.config import ComparisonConfig, DeviceConfig, EvalConfig, ScoringConfig
from unetseg.data.files.pages import MaskPath, image_hash
from unetseg.data.files.pngs import write_png
from unetseg.data.pairs.match import Pair, find_pairs
from unetseg.data.pairs.splits import read_groups, write_splits
from unetseg.data.sample import draw_sample
from unetseg.errors import ConfigError, DataError, MachineError, PairingError
from unetseg.evaluation.compare import compare
from unetseg.evaluation.confusion import dice, merged, score
from unetseg.evaluation.evaluate import evaluate
from unetseg.evaluation.paired import Observers, difference, image_scores
from unetseg.prediction.predictor import Predictor

CPU = DeviceConfig(device="cpu", precision="float32")
SCORED = EvalConfig(
    scoring=ScoringConfig(save_masks=False, overlays=False, shapes=False), device=CPU
)
NAN = float("nan")


def counts_of(*images: tuple[int, int, int, int]) -> NDArray[np.int64]:
    return np.array(images, np.int64).reshape(-1, 2, 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sample(tmp_path_factory.mktemp("data") / "cells", count=6, size=48)


# ------------------------------------------------------------------ differences


def test_both_are_scored_over_the_same_classes() -> None:
    first = counts_of((9, 0, 0, 0), (5, 1, 1, 3), (9, 0, 0, 0), (0, 0, 4, 0))
    other = counts_of((8, 1, 0, 0), (6, 0, 2, 2), (9, 0, 0, 0), (0, 0, 0, 4))
    expected = [[1, 0.75, NAN, 0], [0, 2 / 3, NAN, 1]]
    np.testing.assert_allclose(image_scores(first, other, [1]), expected)
    np.testing.assert_allclose(image_scores(first, first, [1])[0, [1, 3]], dice(first)[[1, 3], 1])


@pytest.mark.parametrize(("gain", "verdict"), [(0.05, "better"), (-0.05, "worse"), (0.0, "none")])
def test_the_verdict_is_that_of_a_brute_force_bootstrap(gain: float, verdict: str) -> None:
    rng = np.random.default_rng(3)
    hard = rng.uniform(0.2, 0.9, 40)  # far more than the difference
    scores = np.stack([hard, hard + gain + rng.normal(0, 0.03, 40)])
    found = difference(scores)
    assert (found.verdict, found.images) == (verdict, 40)
    gained = scores[1] - scores[0]
    assert found.mean == pytest.approx(gained.mean())
    means = gained[rng.integers(0, 40, (4000, 40))].mean(axis=1)
    assert found.interval == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.002)


def test_images_without_a_score_do_not_count_and_one_tells_no_spread() -> None:
    found = difference(np.array([[0.5, NAN, 0.7], [0.6, NAN, 0.9]]))
    assert found.images == 2
    assert found.mean == pytest.approx(0.15)
    for scores in (np.array([[0.5], [0.6]]), np.full((2, 3), NAN), np.zeros((2, 0))):
        one = difference(scores)
        assert one.verdict == "none"
        assert np.isnan(one.interval).all()


def test_a_group_is_one_piece_of_evidence() -> None:
    """Ten frames of each of four films: as wide as four images, not as forty."""
    gains = np.array([0.1, -0.05, 0.12, 0.02])
    films = np.stack([np.zeros(4), gains])
    frames, groups = np.repeat(films, 10, axis=1), [str(n // 10) for n in range(40)]
    alone, together = difference(films), difference(frames, groups)
    assert together.interval == pytest.approx(alone.interval)
    assert together.images == 40
    low, high = difference(frames).interval
    assert high - low < 0.5 * (alone.interval[1] - alone.interval[0])


def test_scores_over_groups_are_those_of_merged_images() -> None:
    rng = np.random.default_rng(0)
    confusions = rng.integers(1, 50, (12, 3, 3))
    groups = [*"aabbccdd", None, None, None, None]
    found = score(confusions, ["x", "y", "z"], [1, 2], groups)
    alone = score(merged(confusions, groups), ["x", "y", "z"], [1, 2])
    assert found.foreground_dice_interval == alone.foreground_dice_interval
    assert found.foreground_dice == alone.foreground_dice
    assert (found.images, found.intervals.n, found.intervals.over) == (12, 8, "groups")
    assert str(found.intervals) == "over 8 groups, wide: fewer than 50"
    assert str(score(np.ones((50, 2, 2), np.int64), ["x", "y"], [1]).intervals) == "over 50 images"
    low, high = found.intervals.classes["y"]["dice"]
    assert low < found.classes[1].dice < high


# ------------------------------------------------------------------ runs


def test_a_run_is_no_better_than_itself_and_better_than_a_worse_one(
    data: Path, tmp_path: Path
) -> None:
    """The truth is what `good` predicts."""
    good = save_run(tmp_path / "good")
    poor = save_run(tmp_path / "poor", segmenter=random_segmenter(bundle_info(), seed=5))
    copy = tmp_path / "copy"
    predictor = Predictor(good, device=CPU)
    for pair in find_pairs(data).pairs:
        write_png(copy / "images" / pair.image.name, np.asarray(Image.open(pair.image)))
        write_png(copy / "masks" / pair.image.name, predictor.predict(pair.image))
    config = ComparisonConfig(device=CPU)
    result = compare([good, good, poor], copy, config, output=tmp_path / "out")
    verdicts = [one.difference and one.difference.verdict for one in result.runs]
    assert verdicts == [None, "none", "worse"]
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert content == result.to_json()
    assert content["runs"][0]["foreground_dice"] == 1
    lines = (tmp_path / "out" / "compare.csv").read_text().splitlines()
    assert len(lines) == 7
    back = compare([poor, good], copy, config, output=tmp_path / "2")
    gap, other = back.runs[1].difference, result.runs[2].difference
    assert gap
    assert other
    assert gap.verdict == "better"
    assert gap.mean == pytest.approx(-other.mean)


def test_what_cannot_be_compared_is_refused(data: Path, tmp_path: Path) -> None:
    two = save_run(tmp_path / "two")
    three = save_run(tmp_path / "three", bundle_info(classes=class_map(0, 1, 2)))
    with pytest.raises(ConfigError, match="the classes of the runs differ"):
        compare([two, three], data, device="cpu")
    with pytest.raises(ConfigError, match="1 run to compare, expected two"):
        compare([two], data, device="cpu")
    assert command(["compare", str(two), str(data)]) == 2


def test_only_pairs_that_every_run_held_out_are_compared(data: Path, tmp_path: Path) -> None:
    first, second = save_run(tmp_path / "first"), save_run(tmp_path / "second")
    remember(first, data, ["train", "train", "train", "val", "val", "val"])
    remember(second, data, ["train", "train", "val", "train", "val", "val"])
    result = compare([first, second], data, device="cpu")
    assert (result.split, result.runs[0].scores.images) == ("val", 2)
    assert result.folder == first / "compare"
    remember(second, data, ["val", "val", "val", "train", "train", "train"])
    with pytest.raises(DataError, match="hold out no pairs in common"):
        compare([first, second], data, device="cpu")


def test_files_are_hashed_once_for_all_runs_whatever_these_are_called(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [save_run(Path(name)) for name in ("image", "group")]
    for run in runs:
        remember(run, data, ["val"] * 6)
    hashed: list[tuple[MaskPath, ...]] = []

    def counted(*paths: MaskPath) -> str:
        hashed.append(paths)
        return image_hash(*paths)

    monkeypatch.setattr("unetseg.evaluation.evaluate.image_hash", counted)
    compare(runs, data, device="cpu")
    assert len(hashed) == 6
    columns = (tmp_path / "image/compare/compare.csv").read_text().splitlines()[0]
    assert columns == "image,group,./image,./group"


def test_eval_knows_the_groups_of_the_training(data: Path, tmp_path: Path) -> None:
    run = save_run(tmp_path / "run")
    found = find_pairs(data)
    hashes = [image_hash(pair.image, pair.mask) for pair in found.pairs if pair.mask]
    pairs = tuple(
        replace(pair, split="val", group="ab"[n % 2]) for n, pair in enumerate(found.pairs)
    )
    write_splits(run / "splits.json", replace(found, pairs=pairs), hashes)
    assert set(read_groups(run / "splits.json").values()) == {"a", "b"}
    result = evaluate(run, data, SCORED, output=tmp_path / "out")
    assert (result.scores.intervals.over, result.scores.intervals.n) == ("groups", 2)
    own = evaluate(run, data, SCORED, output=tmp_path / "2", group=r"\d+")
    assert (own.scores.intervals.over, own.scores.intervals.n) == ("groups", 6)


# ------------------------------------------------------------------ regions


def test_scores_count_inside_the_masks_of_a_region(data: Path, tmp_path: Path) -> None:
    run = save_run(tmp_path / "run")
    pairs = find_pairs(data).pairs
    view = np.zeros((48, 48), np.uint8)
    view[:12, :20] = 255
    write_png(tmp_path / "one.png", view)
    for pair in pairs:
        write_png(tmp_path / "regions" / f"{pair.image.stem}_roi.png", view)
    pixels = {
        name: sum(
            row.pixels
            for row in evaluate(
                run, data, SCORED, output=tmp_path / name, region=region
            ).scores.classes
        )
        for name, region in (
            ("file", tmp_path / "one.png"),
            ("folder", tmp_path / "regions"),
            ("whole", "whole"),
        )
    }
    assert pixels == {"file": 6 * 240, "folder": 6 * 240, "whole": 6 * 48 * 48}
    (tmp_path / "regions" / f"{pairs[0].image.stem}_roi.png").unlink()
    with pytest.raises(PairingError, match="has no mask for 1 of 6 images") as caught:
        evaluate(run, data, SCORED, output=tmp_path / "no", region=tmp_path / "regions")
    assert caught.value.offenders
    with pytest.raises(DataError):
        evaluate(run, data, SCORED, output=tmp_path / "no", region=tmp_path / "nowhere")


# ------------------------------------------------------------------ a second observer


@pytest.mark.parametrize("layout", ["folders", "names"])
def test_a_second_observer_gives_the_human_level(data: Path, tmp_path: Path, layout: str) -> None:
    run = save_run(tmp_path / "run")
    model = Predictor(run, device=CPU)
    folder, truths, others = tmp_path / "eyes", [], []
    for n, pair in enumerate(find_pairs(data).pairs):
        truth = np.asarray(Image.open(pair.mask))  # type: ignore[arg-type]
        other = np.roll(truth, n % 3, axis=0)
        names = (
            (
                f"images/{n}_training.png",
                f"1st_manual/{n}_manual1.png",
                f"2nd_manual/{n}_manual2.png",
            )
            if layout == "folders"
            else (f"Image_{n}L.png", f"Image_{n}L_1stHO.png", f"Image_{n}L_2ndHO.png")
        )
        for name, array in zip(
            names, (np.asarray(Image.open(pair.image)), truth, other), strict=True
        ):
            write_png(folder / name, array)
        truths.append(truth > 0)
        others.append(other > 0)
    heard = Heard()
    result = evaluate(run, folder, SCORED, output=tmp_path / "out", progress=heard)
    human = json.loads((tmp_path / "out" / "scores.json").read_text())["human"]
    true, drawn = np.stack(truths), np.stack(others)
    expected = 2 * (true & drawn).sum() / (true.sum() + drawn.sum())
    assert human["foreground_dice"] == pytest.approx(expected)
    low, high = human["foreground_dice_interval"]
    assert low <= expected <= high
    assert human["images"] == 6
    assert human["model"]["foreground_dice"] == pytest.approx(result.scores.foreground_dice)
    assert human["difference"]["verdict"] == "worse"  # random weights
    assert model.info.class_map == result.info.class_map


def test_a_second_observer_who_does_not_fit_is_told_and_left_out(
    data: Path, tmp_path: Path
) -> None:
    run, folder = save_run(tmp_path / "run"), tmp_path / "eyes"
    for n, pair in enumerate(find_pairs(data).pairs):
        mask = np.asarray(Image.open(pair.mask))  # type: ignore[arg-type]
        write_png(folder / f"images/{n}_training.png", np.asarray(Image.open(pair.image)))
        write_png(folder / f"1st_manual/{n}_manual1.png", mask)
        write_png(folder / f"2nd_manual/{n}_manual2.png", mask[: 48 - 8 * (n == 0)])
    heard = Heard()
    result = evaluate(run, folder, SCORED, output=tmp_path / "out", progress=heard)
    human = result.to_json()["human"]
    assert (human["images"], human["foreground_dice"]) == (5, 1)
    assert any("no human level of 1 image" in said for said in heard.said)


def test_a_second_observer_may_have_drawn_at_half_the_size(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, 2, (10, 15), np.uint8)
    write_png(tmp_path / "second.png", drawn)
    observers = Observers(class_map(0, 1))
    truth = drawn.repeat(2, 0).repeat(2, 1)
    pair = Pair(tmp_path / "a.png", None, "a", second=tmp_path / "second.png")
    observers.add(pair, truth, truth)
    assert not observers.refused
    assert observers.to_json()["human"]["foreground_dice"] == 1


def test_a_second_observer_may_have_drawn_on_a_large_image_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("files.image", "masks.mask_file"):
        monkeypatch.setattr(f"unetseg.data.{module}.PIXEL_LIMIT", 599)
    truth = np.random.default_rng(0).integers(0, 2, (20, 30), np.uint8)
    write_png(tmp_path / "second.png", truth)
    observers = Observers(class_map(0, 1))
    pair = Pair(tmp_path / "a.png", None, "a", second=tmp_path / "second.png")
    observers.add(pair, truth, truth)
    assert not observers.refused


def test_a_second_observer_and_the_model_are_scored_on_the_same_pixels(tmp_path: Path) -> None:
    truth, drawn, model = np.random.default_rng(0).integers(0, 2, (3, 20, 30), np.uint8)
    truth[12:14], drawn[:5], model[:, :4] = 255, 255, 255
    write_png(tmp_path / "second.png", drawn)
    observers = Observers(class_map(0, 1, ignore=(255,)))
    pair = Pair(tmp_path / "a.png", None, "a", second=tmp_path / "second.png")
    observers.add(pair, truth, model)
    human = observers.to_json()["human"]
    counted = np.stack([truth, drawn, model]).max(axis=0) < 255
    for answer, side in ((drawn, human), (model, human["model"])):
        true, said = truth[counted] > 0, answer[counted] > 0
        expected = 2 * (true & said).sum() / (true.sum() + said.sum())
        assert side["foreground_dice"] == pytest.approx(expected)


def test_a_folder_that_cannot_be_written_is_told_before_runs_are_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    runs = [save_run(tmp_path / name) for name in "ab"]
    photos = draw_sample(tmp_path / "photos", count=2, size=64)
    monkeypatch.setattr("unetseg.evaluation.compare.evaluate_pairs", begun)
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="cannot write"):
        compare(runs, photos, output=tmp_path / "file" / "x", split="all", device="cpu")
