"""The main job on the drawn sample, through the command line: train, evaluate, predict, check."""

import csv
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

import unetseg
from unetseg.cli.app import run

pytestmark = pytest.mark.long  # a training for all of them
Capture = pytest.CaptureFixture[str]
TINY = ["-e", "2", "--depth", "2", "--width", "4", "--patch", "32", "-b", "2", "--workers", "0"]
TINY += ["--device", "cpu"]
SKIP = ("--existing", "skip")
COUNT, SIZE = 8, 48


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNETSEG_CACHE_FOLDER", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "sample"
    assert run(["sample", str(folder), "-n", str(COUNT), "--size", str(SIZE)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    assert run(["train", str(sample), *TINY, "--out", str(out), "--name", "cells"]) == 0
    return out / "cells"


@pytest.fixture(scope="module")
def scored(trained: Path, sample: Path) -> Path:
    assert run(["eval", str(trained), str(sample)]) == 0
    return trained / "eval" / "val"


def command(capsys: Capture, *tokens: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command line."""
    capsys.readouterr()
    code = run([str(token) for token in tokens])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def pixels(path: Path) -> NDArray[Any]:
    return np.array(Image.open(path))


def files(folder: Path) -> set[str]:
    """All files but predictions.jsonl, which tells of the others."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return found - {"predictions.jsonl"}


def splits(trained: Path) -> dict[str, str]:
    rows = json.loads((trained / "splits.json").read_text())["pairs"]
    return {row["name"]: row["split"] for row in rows}


# ------------------------------------------------------------------ train


def test_a_run_folder_holds_what_the_readme_says(trained: Path) -> None:
    expected = {"config.yaml", "env.json", "plan.json", "splits.json", "metrics.csv", "log.jsonl"}
    expected |= {"last.pt", "last.pt.sha256", "model/model.json", "model/model.safetensors"}
    assert expected <= files(trained)
    assert len(list((trained / "previews").glob("*.png"))) >= 2


def test_a_fifth_is_held_out(trained: Path) -> None:
    assert sorted(splits(trained).values()) == ["train"] * 6 + ["val"] * 2


def test_a_runs_own_config_repeats_the_run(
    trained: Path, sample: Path, tmp_path: Path, capsys: Capture
) -> None:
    again = ["--config", trained / "config.yaml", "--device", "cpu"]
    code, out, _ = command(capsys, "train", sample, *again, "--out", tmp_path, "--name", "again")
    assert code == 0
    assert last_line(out) == f"next: unetseg eval {tmp_path / 'again'} {sample}"
    tensors = [folder / "model" / "model.safetensors" for folder in (trained, tmp_path / "again")]
    assert tensors[0].read_bytes() == tensors[1].read_bytes()


@pytest.mark.parametrize(
    "flags", [["--images", "*_rgb.png", "--masks", "*_fg.png"], ["--unpaired", "empty"]]
)
def test_the_command_that_is_told_next_says_what_was_given_about_the_folder(
    sample: Path, tmp_path: Path, capsys: Capture, flags: list[str]
) -> None:
    data = tmp_path / "my data"
    data.mkdir()
    for number in range(COUNT):
        image, mask = (sample / side / f"cells_{number:03d}.png" for side in ("images", "masks"))
        shutil.copy(image, data / f"{number}_rgb.png")
        if number or "--images" in flags:
            shutil.copy(mask, data / f"{number}_fg.png")
        if "--images" in flags:
            shutil.copy(mask, data / f"{number}_other.png")
    where = ["--out", str(tmp_path), "--name", "a run"]
    code, out, err = command(capsys, "train", data, *TINY, *flags, *where)
    assert (code, err) == (0, "")
    told = shlex.split(last_line(out).removeprefix("next: unetseg "))
    assert told == ["eval", str(tmp_path / "a run"), str(data), *flags]
    assert command(capsys, *told)[0] == 0
    assert command(capsys, "predict", tmp_path / "a run", data, "-o", tmp_path / "new")[0] == 0
    assert files(tmp_path / "new") == {f"{number}_rgb.png" for number in range(COUNT)}


def test_a_taken_name_is_refused(trained: Path, sample: Path, capsys: Capture) -> None:
    before = files(trained)
    code, _, err = command(
        capsys, "train", sample, *TINY, "--out", trained.parent, "--name", trained.name
    )
    assert code == 3
    assert "holds a run already" in err
    assert files(trained) == before


# ------------------------------------------------------------------ eval


def test_scores_name_split_images_classes_and_foreground(scored: Path) -> None:
    scores = json.loads((scored / "scores.json").read_text())
    assert scores["split"] == "val"
    assert scores["images"] == 2
    assert set(scores["classes"]) == {"background", "foreground"}
    assert {"iou", "dice"} <= set(scores["classes"]["foreground"])
    assert scores["foreground_dice"] == scores["classes"]["foreground"]["dice"]
    assert scores["foreground_iou"] == scores["classes"]["foreground"]["iou"]


def test_scores_follow_from_the_written_masks(scored: Path, sample: Path, trained: Path) -> None:
    scores = json.loads((scored / "scores.json").read_text())
    held_out = sorted(name for name, split in splits(trained).items() if split == "val")
    assert files(scored / "masks") == {f"{name}.png" for name in held_out}
    assert files(scored / "overlays") == {f"{name}.png" for name in held_out}
    predicted = np.stack([pixels(scored / "masks" / f"{name}.png") for name in held_out])
    true = np.stack([pixels(sample / "masks" / f"{name}.png") for name in held_out])
    for name, code in (("background", 0), ("foreground", 255)):
        hits = np.sum((predicted == code) & (true == code))
        either = np.sum((predicted == code) | (true == code))
        both = np.sum(predicted == code) + np.sum(true == code)
        assert scores["classes"][name]["iou"] == pytest.approx(hits / either, rel=1e-12)
        assert scores["classes"][name]["dice"] == pytest.approx(2 * hits / both, rel=1e-12)
        assert scores["classes"][name]["pixels"] == np.sum(true == code)


def test_outlines_can_be_left_out(
    trained: Path, sample: Path, tmp_path: Path, capsys: Capture
) -> None:
    code, out, _ = command(capsys, "eval", trained, sample, "-o", tmp_path, "--no-shapes")
    assert code == 0
    assert "boundary IoU" not in out
    assert "outlines" not in json.loads((tmp_path / "scores.json").read_text())
    assert "objects" not in (tmp_path / "images.csv").read_text()


def test_the_page_is_written_again_and_runs_side_by_side(
    trained: Path, tmp_path: Path, capsys: Capture
) -> None:
    (trained / "report.html").unlink()
    code, out, _ = command(capsys, "report", trained)
    assert (code, last_line(out)) == (0, f"page: {trained / 'report.html'}")
    assert "</html>" in (trained / "report.html").read_text()
    code, out, _ = command(capsys, "report", trained, trained, "-o", tmp_path / "two.html")
    assert (code, last_line(out)) == (0, f"page: {tmp_path / 'two.html'}")
    code, _, err = command(capsys, "report", trained, tmp_path / "none")
    assert code == 8
    assert "does not exist" in err


def test_dice_inside_the_fields_of_view_follows_from_the_written_masks(
    trained: Path, sample: Path, tmp_path: Path, capsys: Capture
) -> None:
    data = shutil.copytree(sample, tmp_path / "data")
    (data / "fov").mkdir()
    rows, columns = np.ogrid[:SIZE, :SIZE]
    for number, mask in enumerate(sorted((data / "masks").iterdir())):
        view = np.hypot(rows - 20 - number, columns - 24) < 18
        Image.fromarray(view).save(data / "fov" / mask.name)
    for region in ("auto", "whole"):
        out = tmp_path / region
        assert command(capsys, "eval", trained, data, "--region", region, "-o", out)[0] == 0
        names = sorted(path.name for path in (out / "masks").iterdir())
        counted = np.stack([pixels(data / "fov" / name) for name in names]) | (region == "whole")
        predicted = np.stack([pixels(out / "masks" / name) == 255 for name in names])[counted]
        true = np.stack([pixels(data / "masks" / name) == 255 for name in names])[counted]
        scores = json.loads((out / "scores.json").read_text())
        dice = 2 * np.sum(predicted & true) / (predicted.sum() + true.sum())
        assert scores["foreground_dice"] == pytest.approx(dice, rel=1e-12)
        assert scores["classes"]["foreground"]["pixels"] == true.sum()
        assert scores["classes"]["background"]["pixels"] == np.sum(~true)


def test_csv_files_repeat_the_scores(scored: Path) -> None:
    scores = json.loads((scored / "scores.json").read_text())
    with (scored / "classes.csv").open() as file:
        rows = {row["class"]: float(row["dice"]) for row in csv.DictReader(file)}
    assert rows == {name: values["dice"] for name, values in scores["classes"].items()}
    with (scored / "images.csv").open() as file:
        assert len(list(csv.DictReader(file))) == scores["images"]


def test_evaluate_is_another_name_of_eval(
    trained: Path, sample: Path, scored: Path, tmp_path: Path, capsys: Capture
) -> None:
    options = ["-o", tmp_path / "scores", "--no-overlays", "--no-save-masks"]
    code, out, _ = command(capsys, "evaluate", trained, sample, *options)
    assert code == 0
    assert last_line(out) == f"next: unetseg predict {trained} IMAGES -o masks"
    written = {"scores.json", "anatomy.json", "classes.csv", "images.csv", "suspects.csv"}
    written |= {"report.html"}
    assert files(tmp_path / "scores") == written
    same = [(folder / "scores.json").read_text() for folder in (scored, tmp_path / "scores")]
    assert same[0] == same[1]


def test_the_split_can_be_chosen(
    trained: Path, sample: Path, tmp_path: Path, capsys: Capture
) -> None:
    for split, images in (("train", 6), ("all", COUNT)):
        code, out, _ = command(
            capsys, "eval", trained, sample, "--split", split, "-o", tmp_path, "--no-overlays"
        )
        assert code == 0
        assert f"{split}, {images} images: foreground Dice" in out
        assert json.loads((tmp_path / "scores.json").read_text())["images"] == images
    code, _, err = command(capsys, "eval", trained, sample, "--split", "test", "-o", tmp_path)
    assert code == 5
    assert "split 'test'; there are: train, val" in err


def test_stray_mask_values_are_scored_only_with_snap(
    trained: Path, sample: Path, tmp_path: Path, capsys: Capture
) -> None:
    shutil.copytree(sample, tmp_path / "data")
    mask = tmp_path / "data" / "masks" / "cells_000.png"
    Image.fromarray(np.minimum(pixels(mask), 250)).save(mask)
    options = ["--split", "all", "-o", tmp_path / "out", "--no-overlays"]
    code, _, err = command(capsys, "eval", trained, tmp_path / "data", *options)
    assert code == 5
    assert "cells_000.png holds values that are no class: 250" in err
    assert not (tmp_path / "out" / "scores.json").exists()
    assert command(capsys, "eval", trained, tmp_path / "data", *options, "--snap")[0] == 0


# ------------------------------------------------------------------ predict


def test_a_folder_becomes_masks_of_the_training_coding(
    trained: Path, sample: Path, tmp_path: Path, capsys: Capture
) -> None:
    code, out, err = command(capsys, "predict", trained, sample / "images", "-o", tmp_path)
    assert (code, err) == (0, "")
    assert last_line(out).startswith("next: ")
    assert files(tmp_path) == {f"cells_{i:03d}.png" for i in range(COUNT)}
    for path in tmp_path.glob("*.png"):
        assert pixels(path).dtype == np.uint8
        assert pixels(path).shape == (SIZE, SIZE)
        assert set(np.unique(pixels(path))) <= {0, 255}


def test_prediction_repeats_what_was_scored(
    trained: Path, sample: Path, scored: Path, tmp_path: Path
) -> None:
    assert run(["predict", str(trained), str(sample / "images"), "-o", str(tmp_path)]) == 0
    for path in (scored / "masks").glob("*.png"):
        np.testing.assert_array_equal(pixels(path), pixels(tmp_path / path.name))


def test_files_and_globs(trained: Path, sample: Path, tmp_path: Path, capsys: Capture) -> None:
    inputs = [sample / "images" / "cells_000.png", sample / "images" / "cells_00[12].png"]
    assert command(capsys, "predict", trained, *inputs, "-o", tmp_path)[0] == 0
    assert files(tmp_path) == {f"cells_00{i}.png" for i in range(3)}
    code, _, err = command(capsys, "predict", trained, sample / "*.bmp", "-o", tmp_path)
    assert code == 5
    assert "*.bmp" in err


@pytest.mark.row(38)
def test_subfolders_are_kept_and_equal_names_do_not_collide(
    trained: Path, sample: Path, tmp_path: Path
) -> None:
    source = sample / "images" / "cells_000.png"
    for name in ("a/x.png", "b/x.png", "b/deep er/y.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / "in" / name)
    Image.open(source).save(tmp_path / "in" / "a" / "x.bmp")
    assert run(["predict", str(trained), str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    expected = {"a/x_png.png", "a/x_bmp.png", "b/x.png", "b/deep er/y.png"}
    assert files(tmp_path / "out") == expected


@pytest.mark.row(38)
def test_existing_masks_are_refused_skipped_or_overwritten(
    trained: Path, sample: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = ["predict", trained, sample / "images", "-o", tmp_path, "--existing"]
    mine = tmp_path / "cells_000.png"
    Image.new("L", (SIZE, SIZE), 7).save(mine)
    code, _, err = command(capsys, *words, "refuse")
    assert code == 2
    assert str(mine) in err
    assert "--existing skip" in err
    assert files(tmp_path) == {mine.name}
    code, out, _ = command(capsys, *words, "skip")
    assert code == 0
    assert "there already: 1 mask" in out
    assert "1 mask of which predictions.jsonl knows nothing" in out
    assert len(files(tmp_path)) == COUNT
    assert (pixels(mine) == 7).all()
    assert command(capsys, *words, "overwrite")[0] == 0
    assert not (pixels(mine) == 7).any()


@pytest.mark.row(35)
def test_one_corrupt_image_costs_one_mask(
    trained: Path, sample: Path, tmp_path: Path, capsys: Capture
) -> None:
    shutil.copytree(sample / "images", tmp_path / "in")
    bad = tmp_path / "in" / "cells_004.png"
    bad.write_bytes(bad.read_bytes()[:500])
    out = tmp_path / "out"
    code, _, err = command(capsys, "predict", trained, tmp_path / "in", "-o", out)
    assert code == 4
    assert f"no mask for 1 image, {COUNT - 1} have one" in err
    assert "\\n" not in err
    assert str(bad) in err
    assert len(list(out.glob("*.png"))) == COUNT - 1
    rows = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == [str(bad)]
    assert rows[0]["code"] == "unreadable-file"
    assert rows[0]["fix"] in err
    shutil.copy(sample / "images" / bad.name, bad)
    assert run(["predict", str(trained), str(tmp_path / "in"), "-o", str(out), *SKIP]) == 0
    assert len(list(out.glob("*.png"))) == COUNT
    assert not (out / "failures.jsonl").exists()


def test_probabilities_and_overlays_agree_with_the_mask(
    trained: Path, sample: Path, tmp_path: Path, capsys: Capture
) -> None:
    image = sample / "images" / "cells_003.png"
    options = ["--probabilities", "--overlay"]
    code, out, _ = command(capsys, "predict", trained, image, "-o", tmp_path, *options)
    assert code == 0
    assert last_line(out).startswith("next: ")
    mask = pixels(tmp_path / "cells_003.png")
    with tifffile.TiffFile(tmp_path / "cells_003_probabilities.tif") as file:
        assert file.pages[0].aspage().samplesperpixel == 2  # one band per class
        probabilities = file.asarray()  # H, W, K
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (SIZE, SIZE, 2)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(np.array([0, 255])[probabilities.argmax(-1)], mask)
    drawn, plain = pixels(tmp_path / "cells_003_overlay.png"), pixels(image)
    assert drawn.shape == plain.shape
    changed = (drawn != plain).any(-1)
    assert changed[mask == 255].mean() > 0.9 or not (mask == 255).any()


def test_tta_and_small_tiles_predict_too(trained: Path, sample: Path, tmp_path: Path) -> None:
    image = str(sample / "images" / "cells_000.png")
    options = ["--tta", "--tile", "32", "--overlap", "0.5"]
    assert run(["predict", str(trained), image, "-o", str(tmp_path), *options]) == 0
    assert pixels(tmp_path / "cells_000.png").shape == (SIZE, SIZE)


@pytest.mark.row(38)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_masks_are_never_written_among_the_images(
    trained: Path, sample: Path, tmp_path: Path, capsys: Capture, suffix: str
) -> None:
    image = tmp_path / "in" / "sub" / f"x{suffix}"
    image.parent.mkdir(parents=True)
    Image.open(sample / "images" / "cells_000.png").save(image)
    content = image.read_bytes()
    code, _, err = command(
        capsys, "predict", trained, tmp_path / "in", "-o", tmp_path / "in", "--existing", "skip"
    )
    assert code == 2
    assert "among the input images" in err
    assert files(tmp_path) == {f"in/sub/x{suffix}"}
    assert image.read_bytes() == content


@pytest.mark.row(40)
def test_images_unlike_those_of_the_training_are_refused(
    trained: Path, tmp_path: Path, capsys: Capture
) -> None:
    rng = np.random.default_rng(0)
    many = rng.integers(0, 255, (20, 30, 5), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "many.tif", many, photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(tmp_path / "deep.tif", many[..., 0].astype(np.uint16) * 200)
    nan = np.full((20, 30, 3), np.nan, np.float32)
    tifffile.imwrite(tmp_path / "nan.tif", nan, photometric="minisblack", planarconfig="contig")
    out = tmp_path / "out"
    code, _, err = command(capsys, "predict", trained, tmp_path / "*.tif", "-o", out)
    assert code == 5
    assert "many.tif has 5 bands, expected 3" in err
    assert "deep.tif is uint16, the model was trained on uint8 images" in err
    assert "nan.tif is float32" in err
    assert files(out) == {"failures.jsonl"}


def test_grey_images_are_predicted_by_a_colour_model(trained: Path, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (33, 17), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    words = ["predict", str(trained), str(tmp_path / "grey.png"), "-o", str(tmp_path / "out")]
    assert run(words) == 0
    by_hand = unetseg.load(trained, device="cpu").predict(np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "grey.png"), by_hand)
    again = tmp_path / "again"
    unetseg.predict(trained, tmp_path / "grey.png", again, device="cpu", probabilities=True)
    np.testing.assert_array_equal(pixels(again / "grey.png"), by_hand)
    assert (again / "grey_probabilities.tif").is_file()


@pytest.mark.row(40)
@pytest.mark.parametrize("verb", ["predict", "eval"])
def test_a_foreign_checkpoint_is_refused(
    verb: str, sample: Path, tmp_path: Path, capsys: Capture
) -> None:
    foreign = tmp_path / "model.pt"
    foreign.write_bytes(b"\x80\x04\x95")
    rest = [sample / "images", "-o", tmp_path / "out"] if verb == "predict" else [sample]
    code, _, err = command(capsys, verb, foreign, *rest)
    assert code == 8
    assert "model.pt is damaged, or of other origin" in err
    assert "foreign checkpoints are not loaded" in err
    assert not (tmp_path / "out").exists()


def test_a_missing_run_names_those_that_are_there(
    trained: Path, sample: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = ["predict", trained.parent / "cels", sample / "images", "-o", tmp_path / "out"]
    code, _, err = command(capsys, *words)
    assert code == 8
    assert str(trained) in err


# ------------------------------------------------------------------ check


def test_check_says_what_was_found_and_planned(sample: Path, capsys: Capture) -> None:
    code, out, err = command(capsys, "check", sample)
    assert (code, err) == (0, "")
    for words in ("images/NAME.png ↔ masks/NAME.png, 8 pairs", "0/255", "uint8", "48×48"):
        assert words in out
    assert last_line(out) == f"next: unetseg train {sample} --budget 10m"


def test_check_as_json(sample: Path, capsys: Capture) -> None:
    code, out, err = command(capsys, "check", sample, "--json", "--depth", "3")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [info["code"] for info in found["classes"]["classes"]] == [0, 255]
    assert found["plan"]["network"]["depth"] == 3
    assert found["rules"][0].endswith("8 pairs")


def test_check_writes_a_sheet_of_augmented_pairs(
    sample: Path, tmp_path: Path, capsys: Capture
) -> None:
    sheet = tmp_path / "sheet.png"
    words = ["check", sample, "--preview", sheet, "--augment", "light", "--patch", 32]
    assert command(capsys, *words)[0] == 0
    assert pixels(sheet).ndim == 3
    assert len(np.unique(pixels(sheet))) > 50


def test_after_a_resume_the_command_that_is_told_next_pairs_as_the_training_did(
    sample: Path, tmp_path: Path, capsys: Capture
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(COUNT):
        image, mask = (sample / side / f"cells_{number:03d}.png" for side in ("images", "masks"))
        shutil.copy(image, data / f"{number}_rgb.png")
        shutil.copy(mask, data / f"{number}_fg.png")
        shutil.copy(mask, data / f"{number}_other.png")
    flags = ["--images", "*_rgb.png", "--masks", "*_fg.png"]
    where = ["--out", tmp_path, "--name", "cells"]
    assert command(capsys, "train", data, *TINY, *flags, *where)[0] == 0
    code, out, err = command(capsys, "train", data, *where, "--resume", "-e", "3")
    assert (code, err) == (0, "")
    told = shlex.split(last_line(out).removeprefix("next: unetseg "))
    assert told == ["eval", str(tmp_path / "cells"), str(data), *flags]
