"""Laws of evaluation: pairs are known by content, offenders are all listed, order is nothing."""

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unetseg
from tests.builders import Heard, bundle_info, random_segmenter, save_run, write_geotiff
from unetseg.bundle import join_bundles, load_bundle, save_bundle
from unetseg.config import DeviceConfig, EvalConfig, ExportConfig, PredictConfig, ScoringConfig
from unetseg.data.files import image as image_file
from unetseg.data.files.pages import image_hash
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.pairs.match import PairSet, find_pairs
from unetseg.data.pairs.splits import write_splits
from unetseg.data.sample import draw_sample
from unetseg.errors import BundleError, ConfigError, DataError
from unetseg.evaluation.evaluate import choose_pairs, evaluate, evaluate_pairs
from unetseg.export.export import export
from unetseg.prediction.predictor import Predictor

CPU = DeviceConfig(device="cpu", precision="float32")
PLAIN = EvalConfig(scoring=ScoringConfig(save_masks=False, overlays=False), device=CPU)
SPLITS = ["train", "train", "val", "train", "val", "test"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sample(tmp_path_factory.mktemp("data") / "cells", count=6, size=48)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with random weights."""
    return save_run(tmp_path_factory.mktemp("runs") / "run")


def remember(run: Path, data: Path, splits: Sequence[str]) -> None:
    """Let `run` have been trained with these splits of `data`."""
    found = find_pairs(data)
    pairs = tuple(replace(p, split=s) for p, s in zip(found.pairs, splits, strict=True))
    hashes = [image_hash(pair.image, pair.mask) for pair in pairs if pair.mask]
    write_splits(run / "splits.json", replace(found, pairs=pairs), hashes)


def names(found: PairSet, run: Path, split: str) -> tuple[str, list[str]]:
    chosen, pairs = choose_pairs(found, run, split)
    return chosen, [pair.name for pair in pairs]


def ensemble(home: Path, data: Path) -> Path:
    """Two folds of random weights, of which each has held out its own part of `data`."""
    folds = [
        save_run(home / f"fold_{n}", segmenter=random_segmenter(bundle_info(), seed=n))
        for n in range(2)
    ]
    join_bundles(folds, home / "model")
    remember(folds[0], data, ["val", "val", "train", "train", "train", "test"])
    remember(folds[1], data, ["train", "train", "val", "val", "val", "test"])
    remember(home, data, ["val"] * 5 + ["test"])
    return home


# ------------------------------------------------------------------ which pairs


def test_pairs_are_known_by_content_wherever_they_are(data: Path, tmp_path: Path) -> None:
    remember(tmp_path / "run", data, SPLITS)
    moved = tmp_path / "elsewhere"
    for kind in ("images", "masks"):
        (moved / kind).mkdir(parents=True)
        for i in range(6):
            shutil.copy(data / kind / f"cells_{i:03d}.png", moved / kind / f"other{5 - i}.png")
    found = find_pairs(moved)
    assert names(found, tmp_path / "run", "train")[1] == ["other2", "other4", "other5"]
    assert names(found, tmp_path / "run", "val")[1] == ["other1", "other3"]
    assert names(found, tmp_path / "run", "auto") == ("test", ["other0"])


def test_a_changed_image_is_no_longer_known(data: Path, tmp_path: Path) -> None:
    remember(tmp_path / "run", data, SPLITS)
    copy = shutil.copytree(data, tmp_path / "copy")
    image = copy / "images" / "cells_002.png"
    Image.fromarray(255 - np.array(Image.open(image))).save(image)
    assert names(find_pairs(copy), tmp_path / "run", "val")[1] == ["cells_004"]


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["train", "val", "test"], ("test", ["cells_002", "cells_005"])),
        (["train", "val", "val"], ("val", ["cells_001", "cells_002", "cells_004", "cells_005"])),
        (["train", "train", "train"], ("all", [f"cells_{i:03d}" for i in range(6)])),
    ],
)
def test_auto_takes_what_was_held_out(
    splits: list[str], expected: tuple[str, list[str]], data: Path, tmp_path: Path
) -> None:
    remember(tmp_path / "run", data, splits * 2)
    assert names(find_pairs(data), tmp_path / "run", "auto") == expected


def test_a_foreign_folder_is_scored_whole(data: Path, tmp_path: Path) -> None:
    remember(tmp_path / "run", data, SPLITS)
    foreign = draw_sample(tmp_path / "foreign", count=3, size=32, seed=9)
    assert names(find_pairs(foreign), tmp_path / "run", "auto")[0] == "all"
    with pytest.raises(DataError, match=r"no pair of .* is in split 'val'; there are: none"):
        choose_pairs(find_pairs(foreign), tmp_path / "run", "val")


def test_a_folders_own_splits_count_for_pairs_that_are_unknown(data: Path, tmp_path: Path) -> None:
    for split, i in (("train", 0), ("val", 1), ("test", 2)):
        for kind in ("images", "masks"):
            target = tmp_path / "own" / split / kind / "x.png"
            target.parent.mkdir(parents=True)
            shutil.copy(data / kind / f"cells_{i:03d}.png", target)
    found = find_pairs(tmp_path / "own")
    assert names(found, tmp_path / "run", "auto") == ("test", ["test/x"])
    remember(tmp_path / "run", data, ["train", "val", "train", "val", "val", "val"])
    # What was trained on is never taken for a test image, whatever the folder is called.
    assert names(found, tmp_path / "run", "train")[1] == ["test/x", "train/x"]
    assert names(found, tmp_path / "run", "auto") == ("val", ["val/x"])


def test_a_damaged_list_of_splits_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text("{")
    with pytest.raises(BundleError, match=r"splits\.json is no list of splits"):
        choose_pairs(find_pairs(data), tmp_path, "auto")


def test_files_that_may_not_be_read_are_all_listed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(image: Path, _: Path) -> str:
        raise PermissionError(13, "Permission denied", str(image))

    remember(tmp_path / "run", data, SPLITS)
    monkeypatch.setattr("unetseg.evaluation.evaluate.image_hash", refuse)
    with pytest.raises(DataError, match="6 of 6 pairs cannot be read") as caught:
        choose_pairs(find_pairs(data), tmp_path / "run", "auto")
    assert f"{data / 'images/cells_000.png'} cannot be read: Permission denied" in str(caught.value)


# ------------------------------------------------------------------ scores


def test_the_order_of_the_images_does_not_matter(data: Path, run: Path) -> None:
    predictor = Predictor(run, PredictConfig(), CPU)
    pairs = find_pairs(data).pairs
    counts = evaluate_pairs(predictor.engine, predictor.info, pairs)
    backwards = evaluate_pairs(predictor.engine, predictor.info, pairs[::-1])
    np.testing.assert_array_equal(counts, backwards[::-1])
    assert counts.sum(axis=(1, 2)).tolist() == [48 * 48] * 6


def test_counts_are_those_of_the_masks_predicted_one_by_one(data: Path, run: Path) -> None:
    predictor = Predictor(run, PredictConfig(), CPU)
    pairs = find_pairs(data).pairs
    counts = evaluate_pairs(predictor.engine, predictor.info, pairs)
    for pair, count in zip(pairs, counts, strict=True):
        assert isinstance(pair.mask, Path)
        true, predicted = np.array(Image.open(pair.mask)), predictor.predict(pair.image)
        by_hand = [[np.sum((true == t) & (predicted == p)) for p in (0, 255)] for t in (0, 255)]
        np.testing.assert_array_equal(count, by_hand)


def test_scores_are_written_where_asked(data: Path, run: Path, tmp_path: Path) -> None:
    result = evaluate(run, data, PLAIN, output=tmp_path / "scores")
    written = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert written == json.loads(json.dumps(result.to_json()))
    assert (result.split, result.scores.images) == ("all", 6)
    low, high = result.scores.foreground_dice_interval
    assert low <= result.scores.foreground_dice <= high
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == [
        "anatomy.json",
        "classes.csv",
        "images.csv",
        "scores.json",
    ]


def test_suspects_are_those_of_the_scores_beside_them(data: Path, tmp_path: Path) -> None:
    trained, out = save_run(tmp_path / "run"), tmp_path / "out"
    remember(trained, data, ["val"] * 6)
    evaluate(trained, data, device="cpu", output=out)
    assert (out / "suspects.csv").is_file()
    evaluate(trained, data, device="cpu", output=out, calibration=False)
    assert not (out / "suspects.csv").exists()


@pytest.mark.parametrize("part", ["masks", "gallery"])
def test_scores_are_not_written_among_the_pairs(
    data: Path, run: Path, tmp_path: Path, part: str
) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    (folder / "masks").rename(folder / part)
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    with pytest.raises(ConfigError, match="would be written among the pairs") as caught:
        evaluate(run, folder, device="cpu", output=folder, images="images", masks=part)
    assert caught.value.offenders == [str((folder / part).resolve())]
    assert before == {path: path.read_bytes() for path in folder.rglob("*.png")}


def test_a_perfect_model_scores_one(data: Path, run: Path, tmp_path: Path) -> None:
    predictor = Predictor(run, PredictConfig(), CPU)
    copy = shutil.copytree(data, tmp_path / "copy")
    for pair in find_pairs(copy).pairs:
        assert isinstance(pair.mask, Path)
        Image.fromarray(predictor.predict(pair.image)).save(pair.mask)
    scores = evaluate(run, copy, PLAIN, output=tmp_path / "out").scores
    assert scores.pixel_accuracy == 1
    assert {row.dice for row in scores.classes} <= {1.0}


def test_the_scores_of_one_image_are_those_of_the_evaluation(
    data: Path, run: Path, tmp_path: Path
) -> None:
    evaluate(run, data, PLAIN, output=tmp_path)
    rows = list(csv.DictReader((tmp_path / "images.csv").read_text().splitlines()))
    model = Predictor(run, device=CPU)
    for row in rows[:3]:
        image, mask = (data / kind / f"{row['image']}.png" for kind in ("images", "masks"))
        of_files = unetseg.score(run, image, mask, device="cpu", precision="float32")
        values = np.asarray(Image.open(mask))
        for one in (values, values > 0, values.astype(float), values.tolist(), Image.open(mask)):
            found = unetseg.score(model, Image.open(image), one)
            assert str(found) == str(of_files)  # as a string, in which nan is nan
        assert f"{of_files.foreground_dice:.4f}" == row["foreground_dice"]
        assert f"{of_files.foreground_iou:.4f}" == row["foreground_iou"]
        assert f"{of_files.classes[0].dice:.4f}" == row["dice background"]
    with pytest.raises(DataError, match=r"^the image is 48×48, the mask is 40×48"):
        unetseg.score(model, image, values[:, :40])
    with pytest.raises(DataError, match=r"^the mask holds values that are no class: 7"):
        unetseg.score(model, image, np.full((48, 48), 7))


def test_the_mask_of_an_image_in_memory_may_be_as_large(
    data: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = find_pairs(data).pairs[0]
    for module in ("files.image", "masks.mask_file"):
        monkeypatch.setattr(f"unetseg.data.{module}.PIXEL_LIMIT", 48 * 48 - 1)
    assert unetseg.score(Predictor(run, device=CPU), np.asarray(Image.open(pair.image)), pair.mask)


def test_an_exported_file_is_scored_as_its_run_is(data: Path, tmp_path: Path) -> None:
    home = save_run(tmp_path / "run")
    remember(home, data, SPLITS)
    file = export(home, ExportConfig(to="torchscript")).file
    result = evaluate(file, data, PLAIN)
    assert (result.split, result.folder) == ("test", home / "model-eval" / "test")
    of_run = evaluate(home, data, PLAIN)
    assert of_run.folder == home / "eval" / "test"
    assert result.scores.pixel_accuracy == pytest.approx(of_run.scores.pixel_accuracy, abs=0.01)


def test_scores_count_inside_the_field_of_view(data: Path, run: Path, tmp_path: Path) -> None:
    """Outside of it the masks may hold anything: here, what the model did not predict."""
    predictor = Predictor(run, PredictConfig(), CPU)
    copy = shutil.copytree(data, tmp_path / "copy")
    view = np.zeros((48, 48), np.uint8)
    view[8:40, 8:40] = 255
    (copy / "fov").mkdir()
    for pair in find_pairs(copy).pairs:
        assert isinstance(pair.mask, Path)
        mask = predictor.predict(pair.image)
        Image.fromarray(np.where(view > 0, mask, 255 - mask)).save(pair.mask)
        Image.fromarray(view).save(copy / "fov" / pair.mask.name)
    assert evaluate(run, copy, PLAIN, output=tmp_path / "inside").scores.pixel_accuracy == 1
    whole = PLAIN.model_copy(update={"scoring": ScoringConfig(region="whole", overlays=False)})
    share = evaluate(run, copy, whole, output=tmp_path / "whole").scores.pixel_accuracy
    assert share == pytest.approx((view > 0).mean())


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_an_image_that_shows_no_object_counts_inside_its_region(
    data: Path, run: Path, tmp_path: Path, mode: str
) -> None:
    view = np.zeros((48, 48), np.uint8)
    view[8:40, 8:40] = 255
    Image.fromarray(view).convert(mode).save(tmp_path / "view.png")  # alpha is opaque
    predictor = Predictor(run, PredictConfig(), CPU)
    bare = replace(find_pairs(data).pairs[0], mask=None, region=tmp_path / "view.png")
    counts = evaluate_pairs(predictor.engine, predictor.info, [bare])
    assert counts[0].sum(axis=1).tolist() == [32 * 32, 0]


def test_every_pair_that_does_not_fit_is_listed(data: Path, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(data, tmp_path / "copy")
    truncated, small, strange = (copy / "masks" / f"cells_00{i}.png" for i in range(3))
    truncated.write_bytes(truncated.read_bytes()[:60])
    Image.new("L", (20, 30)).save(small)
    Image.new("L", (48, 48), 7).save(strange)
    bands = copy / "images" / "cells_003.png"
    write_tiff(bands, np.random.default_rng(0).integers(0, 99, (48, 48, 4), np.uint8))
    with pytest.raises(DataError, match="4 of 6 pairs do not fit") as caught:
        evaluate(run, copy, PLAIN, output=tmp_path / "out")
    listed = "\n".join(caught.value.offenders)
    for path in (truncated, small, strange, bands):
        assert str(path) in listed
    assert "holds values that are no class: 7" in listed
    assert "has 4 bands, expected 3" in listed
    assert not (tmp_path / "out" / "scores.json").exists()


@pytest.mark.parametrize("is_large", [False, True])
def test_the_no_data_value_of_masks_does_not_count(
    is_large: bool, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    codes = np.zeros((40, 50), np.uint8)
    codes[:20], codes[:, :5] = 255, 77
    write_geotiff(tmp_path / "data/images/a.tif", image)
    write_geotiff(tmp_path / "data/masks/a.tif", codes, nodata=77)
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0 if is_large else 2**25)
    predictor = Predictor(run, device=DeviceConfig(device="cpu"))
    pairs = find_pairs(tmp_path / "data").pairs
    counts = evaluate_pairs(predictor.engine, predictor.info, pairs)
    assert counts.sum() == 40 * 45


def test_evaluation_leaves_the_bundle_as_it_was(data: Path, run: Path, tmp_path: Path) -> None:
    before = load_bundle(run)[0].state_dict()
    evaluate(run, data, PLAIN, output=tmp_path)
    after = load_bundle(run)[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


# ------------------------------------------------------------------ more than one bundle


def test_an_ensemble_without_its_folds_says_that_it_knows_the_images(
    data: Path, tmp_path: Path
) -> None:
    home = ensemble(tmp_path / "home", data)

    def warnings(split: str) -> list[str]:
        heard = Heard()
        evaluate(home, data, PLAIN, split=split, progress=heard)
        return [line for line in heard.said if "which flatters" in line]

    assert not warnings("val")
    shutil.rmtree(home / "fold_1")
    (line,) = warnings("val")
    assert line.startswith("warning: 3 images")
    assert not warnings("test")


def test_pairs_that_do_not_fit_are_listed_whichever_fold_held_them_out(
    data: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(data, tmp_path / "copy")
    wrong = [copy / "masks" / f"cells_00{number}.png" for number in (0, 2)]  # of both folds
    for path in wrong:
        Image.new("L", (20, 30)).save(path)
    home = ensemble(tmp_path / "home", copy)
    with pytest.raises(DataError, match="2 of 5 pairs do not fit") as caught:
        evaluate(home, copy, PLAIN, split="val")
    for path in wrong:
        assert str(path) in "\n".join(caught.value.offenders)


def test_a_further_bundle_in_a_run_folder_has_scores_of_its_own(data: Path, tmp_path: Path) -> None:
    run, info = save_run(tmp_path / "run"), bundle_info()
    remember(run, data, SPLITS)
    save_bundle(run / "pruned", random_segmenter(info, seed=5).state_dict(), info)
    first = evaluate(run, data, PLAIN)
    kept = (run / "eval" / "test" / "scores.json").read_bytes()
    other = evaluate(run / "pruned", data, PLAIN)
    assert (other.split, other.folder) == ("test", run / "pruned" / "eval" / "test")
    assert (run / "eval" / "test" / "scores.json").read_bytes() == kept
    assert evaluate(run / "model", data, PLAIN).folder == first.folder


def test_only_pairs_that_the_training_knew_are_wanted(data: Path, tmp_path: Path) -> None:
    remember(tmp_path / "run", data, SPLITS)
    copy = shutil.copytree(data, tmp_path / "copy")
    image = copy / "images" / "cells_005.png"
    Image.fromarray(255 - np.array(Image.open(image))).save(image)
    chosen, pairs = choose_pairs(find_pairs(copy), tmp_path / "run", "all", known=True)
    assert (chosen, len(pairs)) == ("all", 5)
