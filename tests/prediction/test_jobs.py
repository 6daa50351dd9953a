"""Laws of the jobs of a prediction: every image once, nothing overwritten, nothing mixed."""

import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unetseg
from tests.builders import Heard, bundle_info, noise, random_segmenter, save_run
from unetseg.config import PredictConfig
from unetseg.errors import ConfigError, ImageError
from unetseg.prediction import jobs
from unetseg.prediction import predict as prediction
from unetseg.prediction.manifest import Manifest
from unetseg.prediction.outputs import Job
from unetseg.prediction.predict import Prediction


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("run"))


def draw(*paths: Path, seed: int = 0) -> Path:
    """Draws images, and gives the folder of the first."""
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(20, 30, 3, seed=seed + number)).save(path)
    return paths[0].parent


def predict(run: Path, inputs: Path | list[Path], output: Path, **flags: Any) -> Prediction:
    given = [inputs] if isinstance(inputs, Path) else inputs
    return unetseg.predict(run, given, output, device="cpu", precision="float32", **flags)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


# ------------------------------------------------------------------ which images


def test_nothing_below_the_output_folder_is_an_image(trained: Path, tmp_path: Path) -> None:
    folder = draw(tmp_path / "a.png", tmp_path / "sub" / "b.png")
    out = folder / "masks"
    Path(folder / "loop").symlink_to(folder)
    Path(folder / "shortcut").symlink_to(out)
    draw(out / "foreign.png", seed=9)
    heard = Heard()
    predict(trained, folder, out, progress=heard, overlay=True)
    assert "left out 2 files beside the images: 2 × below the output folder" in heard.said[0]
    written = ["a.png", "a_overlay.png", "foreign.png", "sub/b.png", "sub/b_overlay.png"]
    assert names(out) == written
    again = predict(trained, folder, out, existing="skip")
    assert (again.written, len(again.skipped)) == ([], 2)
    assert names(out) == written
    (folder / "a.png").unlink()
    shutil.rmtree(folder / "sub")
    with pytest.raises(ImageError, match="no image to predict, only files left out"):
        predict(trained, folder, out, existing="skip")


def test_outputs_of_other_predictions_are_no_images(trained: Path, tmp_path: Path) -> None:
    folder = draw(tmp_path / "a.png", tmp_path / "b.png")
    predict(trained, folder, folder / "first")
    heard = Heard()
    predict(trained, folder, folder / "second", progress=heard)
    assert heard.said[0] == "left out 2 files beside the images: 2 × an earlier output"
    assert names(folder / "second") == ["a.png", "b.png"]
    predict(trained, folder / "first", tmp_path / "of masks")  # named itself
    assert names(tmp_path / "of masks") == ["a.png", "b.png"]


def test_an_image_named_twice_has_one_mask_below_the_output(trained: Path, tmp_path: Path) -> None:
    image = draw(tmp_path / "in" / "a.png") / "a.png"
    around = tmp_path / "in" / ".." / "in" / "a.png"
    out = tmp_path / "deep" / "masks"
    assert predict(trained, [image, around], out).written == [out / "a.png"]
    assert names(tmp_path / "deep") == ["masks/a.png"]


def test_images_may_lie_in_a_folder_below_the_output(trained: Path, tmp_path: Path) -> None:
    images = draw(tmp_path / "images" / "a.png", tmp_path / "images" / "b.png")
    for _ in range(2):
        assert len(predict(trained, images, tmp_path, existing="overwrite").written) == 2
    assert names(tmp_path) == ["a.png", "b.png", "images/a.png", "images/b.png"]
    with pytest.raises(ConfigError, match="among the input images"):
        predict(trained, tmp_path / "a.png", tmp_path, existing="overwrite")


# ------------------------------------------------------------------ planned before anything


@pytest.mark.row(38)
def test_all_clashes_of_outputs_are_refused_before_anything_is_written(
    trained: Path, tmp_path: Path
) -> None:
    draw(tmp_path / "in" / "x.png", tmp_path / "in" / "x_overlay.png", tmp_path / "in" / "y.png")
    given, out = sorted((tmp_path / "in").iterdir()), tmp_path / "out"
    draw(out / "y.png")
    before = (out / "y.png").read_bytes()
    with pytest.raises(ConfigError) as caught:
        predict(trained, given, out, overlay=True)
    error = caught.value
    assert error.summary == (
        "outputs of several images would be the same file; 1 mask there already"
    )
    of = f"of {tmp_path / 'in' / 'x.png'} and of {tmp_path / 'in' / 'x_overlay.png'}"
    assert error.offenders == [f"{out / 'x_overlay.png'}: {of}", str(out / "y.png")]
    assert "leave out --overlay" in error.fix
    assert "--existing skip" in error.fix
    assert names(out) == ["y.png"]
    assert (out / "y.png").read_bytes() == before
    assert len(predict(trained, given, out, existing="overwrite").written) == 3


@pytest.mark.parametrize("pair", [("a.png", "A.png"), ("\u00e9.png", "e\u0301.png")])
def test_names_that_are_one_file_elsewhere_clash_only_there(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str]
) -> None:
    folder = draw(*(tmp_path / "in" / name for name in pair))
    monkeypatch.setattr(jobs, "takes_for_one", lambda _: True)
    with pytest.raises(ConfigError, match="would be the same file"):
        predict(trained, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    if not jobs.takes_for_one(tmp_path / "not" / "there"):
        assert len(predict(trained, folder, tmp_path / "out").written) == 2
    assert unicodedata.normalize("NFC", pair[0]).casefold()


@pytest.mark.parametrize("is_there", [False, True])
def test_names_that_no_file_system_holds_are_refused_together(
    trained: Path, tmp_path: Path, is_there: bool
) -> None:
    folder = draw(*(tmp_path / "in" / f"{letter * 240}.png" for letter in "ab"))
    if is_there:
        (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="too long names") as caught:
        predict(trained, folder, tmp_path / "out", probabilities=True)
    assert len(caught.value.offenders) == 2
    assert len(predict(trained, folder, tmp_path / "out").written) == 2


def test_planning_compares_no_image_with_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [(tmp_path / f"{number}.png", Path(f"{number}")) for number in range(20)]
    for path, _ in images:
        Image.fromarray(noise(4, 4, 3)).save(path)
    compared: list[object] = []

    def compare(one: Job, other: object) -> bool:
        compared.append(one)
        return one is other

    monkeypatch.setattr(Job, "__eq__", compare)
    manifest = Manifest(tmp_path / "masks")
    found, dead = jobs.planned(images, bundle_info().class_map, PredictConfig(), manifest)
    assert [job.image for job in found] == [path for path, _ in images]
    assert not dead
    assert len(compared) < len(images)


# ------------------------------------------------------------------ --existing skip


def test_skip_predicts_what_is_missing_changed_or_was_interrupted(
    trained: Path, tmp_path: Path
) -> None:
    folder, out = draw(*(tmp_path / "in" / f"{name}.png" for name in "abcde")), tmp_path / "out"
    predict(trained, folder, out)
    (out / "a.png").unlink()
    draw(folder / "b.png", seed=77)
    with (out / "predictions.jsonl").open("a") as file:
        file.write('{"begun": "c.png", "alone": false}\n{"done": "d.p')
    heard = Heard()
    result = predict(trained, folder, out, existing="skip", progress=heard)
    assert [path.name for path in result.written] == ["a.png", "b.png", "c.png"]
    assert [path.name for path in result.skipped] == ["d.png", "e.png"]
    assert "1 image changed since the masks were written; predicted again" in heard.said
    assert predict(trained, folder, out, existing="skip").written == []
    both = predict(trained, folder, out, existing="skip", overlay=True)  # what is missing
    assert len(both.written) == 5


def test_a_mask_that_was_cut_to_nothing_is_predicted_anew(trained: Path, tmp_path: Path) -> None:
    folder, out = draw(tmp_path / "in" / "a.png", tmp_path / "in" / "b.png"), tmp_path / "out"
    predict(trained, folder, out)
    whole = (out / "a.png").read_bytes()
    (out / "a.png").write_bytes(b"")
    again = predict(trained, folder, out, existing="skip")
    assert (again.written, again.skipped) == ([out / "a.png"], [out / "b.png"])
    assert (out / "a.png").read_bytes() == whole


def test_what_was_stopped_goes_on_as_ever(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = draw(*(tmp_path / "in" / f"{name}.png" for name in "abcd")), tmp_path / "out"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prediction, "write_outputs", stop)
        with pytest.raises(KeyboardInterrupt):
            predict(trained, folder, out)
    heard = Heard()
    assert len(predict(trained, folder, out, existing="skip", progress=heard).written) == 4
    assert not any("apart" in said for said in heard.said)


@pytest.mark.row(38)
def test_skip_never_mixes_models_or_settings(trained: Path, tmp_path: Path) -> None:
    other = save_run(tmp_path / "other run", segmenter=random_segmenter(bundle_info(), seed=1))
    folder, out = draw(tmp_path / "in" / "a.png", tmp_path / "in" / "b.png"), tmp_path / "out"
    predict(trained, folder, out, tta=True)
    (out / "b.png").unlink()
    with pytest.raises(ConfigError, match=r"1 mask in .* made otherwise") as caught:
        predict(other, folder, out, existing="skip")
    error = caught.value
    assert error.offenders[0].startswith(f"model: {trained} (")
    assert f", {other} (" in error.offenders[0]
    assert error.offenders[1] == "tta: True there, False here"
    cpu = "--device cpu --precision float32"
    assert error.commands == (
        f"unetseg predict '{other}' {folder} -o {out} {cpu} --existing overwrite",
        f"unetseg predict {trained} {folder} -o {out} --tta {cpu} --existing skip",
    )
    assert names(out) == ["a.png"]
    predict(trained, folder, out, existing="skip", tta=True)
    heard = Heard()
    predict(other, folder / "b.png", out, existing="overwrite", progress=heard)
    assert any("1 mask made otherwise" in said for said in heard.said)


def test_what_earlier_predictions_left_beside_a_mask_goes_with_it(
    trained: Path, tmp_path: Path
) -> None:
    images = [tmp_path / "in" / f"{name}.png" for name in ("a", "b", "c", "c_overlay")]
    draw(*images)
    out = tmp_path / "out"
    predict(trained, images[:3], out, overlay=True)
    predict(trained, images[:1], out, existing="overwrite", tta=True)
    assert names(out) == ["a.png", "b.png", "b_overlay.png", "c.png", "c_overlay.png"]
    draw(images[1], seed=9)
    assert len(predict(trained, images[:2], out, existing="skip", tta=True).written) == 1
    assert names(out) == ["a.png", "b.png", "c.png", "c_overlay.png"]
    predict(trained, images[2:], out, existing="overwrite", tta=True)
    assert names(out) == ["a.png", "b.png", "c.png", "c_overlay.png"]  # of an image called so
    assert len(predict(trained, images, out, existing="skip", tta=True).skipped) == 4


def test_skip_never_takes_the_mask_of_one_image_for_that_of_another(
    trained: Path, tmp_path: Path
) -> None:
    one, two, out = tmp_path / "one", tmp_path / "two", tmp_path / "out"
    draw(one / "a.png")
    draw(two / "a.png", two / "a_overlay.png", seed=5)
    predict(trained, one, out, overlay=True)
    given = sorted(two.iterdir())
    with pytest.raises(ConfigError, match="2 masks would take the place of those of") as caught:
        predict(trained, given, out, existing="skip")
    assert caught.value.offenders == [
        f"{out / name} is of {one / 'a.png'}" for name in ("a.png", "a_overlay.png")
    ]
    one.rename(tmp_path / "moved")
    moved = predict(trained, tmp_path / "moved", out, existing="skip", overlay=True)
    assert len(moved.skipped) == 1


def test_masks_of_which_nothing_is_known_stay_and_are_told(trained: Path, tmp_path: Path) -> None:
    folder, out = draw(tmp_path / "in" / "a.png", tmp_path / "in" / "b.png"), tmp_path / "out"
    draw(out / "a.png", seed=8)
    before = (out / "a.png").read_bytes()
    heard = Heard()
    result = predict(trained, folder, out, existing="skip", progress=heard)
    assert [path.name for path in result.skipped] == ["a.png"]
    assert (out / "a.png").read_bytes() == before
    assert heard.said[0].startswith("1 mask of which predictions.jsonl knows nothing")
    assert np.array(Image.open(out / "b.png")).shape == (20, 30)


def test_a_mask_of_before_never_stands_for_an_image_that_failed(
    trained: Path, tmp_path: Path
) -> None:
    folder, out = draw(tmp_path / "in" / "1.png", tmp_path / "in" / "2.png"), tmp_path / "out"
    predict(trained, folder, out)
    (folder / "1.png").write_bytes(b"no image")
    for _ in range(2):
        again = predict(trained, folder, out, existing="skip")
        assert list(again.failures) == [folder / "1.png"]
        assert again.skipped == [out / "2.png"]
    draw(folder / "1.png", seed=77)
    assert predict(trained, folder, out, existing="skip").written == [out / "1.png"]


def test_inputs_that_nobody_can_look_for_are_told_together(trained: Path, tmp_path: Path) -> None:
    given = [tmp_path / (letter * 300) for letter in "ab"]
    with pytest.raises(ImageError, match="cannot be looked for") as caught:
        predict(trained, given, tmp_path / "out")
    assert caught.value.offenders == [f"{path}: File name too long" for path in given]
