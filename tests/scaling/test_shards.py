"""Shards together are one prediction: same masks, each once, nothing twice, whoever goes on."""

import json
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from tests.builders import Heard, noise, save_run
from unetseg.cli.app import run
from unetseg.config import ScalingConfig
from unetseg.prediction.predict import work_of
from unetseg.scaling import listing
from unetseg.scaling.blocks import Shard
from unetseg.scaling.listing import list_images

Capture = pytest.CaptureFixture[str]


def draw(folder: Path, count: int) -> Path:
    for number in range(count):
        path = folder / f"{number % 3}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():  # else it would have changed
            Image.fromarray(noise(32, 40, 3, seed=number)).save(path)
    return folder


def predict(trained: Path, folder: Path, out: Path, *more: str) -> int:
    cpu = ["--device", "cpu", "--precision", "float32"]
    return run(["predict", str(trained), str(folder), "-o", str(out), *cpu, *more])


def masks(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_three_shards_are_the_whole_and_disjoint_with_the_masks_of_one_process(
    tmp_path: Path, capsys: Capture
) -> None:
    trained, folder, out = save_run(tmp_path / "run"), draw(tmp_path / "in", 30), tmp_path / "out"
    (folder / "0" / "00.png").write_bytes(b"no image")
    assert predict(trained, folder, tmp_path / "whole") == 4
    codes, counts = [], []
    for number in range(3):
        before = len(masks(out))
        codes.append(predict(trained, folder, out, "--shard", f"{number}/3"))
        counts.append(len(masks(out)) - before)
    assert sorted(codes) == [0, 0, 4]
    assert masks(out) == masks(tmp_path / "whole")
    assert (sum(counts), min(counts) > 0) == (29, True)  # each wrote its own, and no other
    (failures,) = out.glob("failures-*-of-3.jsonl")
    (row,) = map(json.loads, failures.read_text().splitlines())
    assert row["image"] == str(folder / "0" / "00.png")
    capsys.readouterr()

    # a shard that is begun again refuses, or does what is missing
    shard = next(number for number in range(3) if not codes[number])
    assert predict(trained, folder, out, "--shard", f"{shard}/3") == 2
    assert "--existing skip" in capsys.readouterr().err
    lost = next(path for path in out.rglob("*.png"))
    lost.unlink()
    for number in range(3):
        predict(trained, folder, out, "--shard", f"{number}/3", "--existing", "skip")
    assert masks(out) == masks(tmp_path / "whole")
    assert capsys.readouterr().out.count("\n1 mask: ") == 1

    # other splits, and one process, know what is done
    Image.fromarray(noise(32, 40, 3, seed=0)).save(folder / "0" / "00.png")
    for more in (["--shard", "0/2"], ["--shard", "1/2"], []):
        assert predict(trained, folder, out, *more, "--existing", "skip") == 0
    assert capsys.readouterr().out.count("\n1 mask: ") == 1
    assert len(masks(out)) == 30
    assert predict(trained, folder, out, "--shard", "0/2", "--existing", "skip", "--tta") == 2
    assert "tta: False there, True here" in capsys.readouterr().err


def test_a_shard_goes_on_with_what_one_process_began(tmp_path: Path, capsys: Capture) -> None:
    trained, folder, out = save_run(tmp_path / "run"), draw(tmp_path / "in", 8), tmp_path / "out"
    assert predict(trained, folder, out) == 0
    draw(folder, 9)
    for number in range(2):
        assert predict(trained, folder, out, "--shard", f"{number}/2", "--existing", "skip") == 0
    assert capsys.readouterr().out.count("\n1 mask: ") == 1
    assert len(masks(out)) == 9


@pytest.mark.parametrize("shard", ["3/3", "-1/3", "a/b", "1", "0/0"])
def test_what_is_no_shard_is_refused(tmp_path: Path, capsys: Capture, shard: str) -> None:
    assert predict(tmp_path, tmp_path, tmp_path / "out", f"--shard={shard}") == 2
    assert "is no part: write I/N, such as 0/3, 1/3 and 2/3" in capsys.readouterr().err


def test_a_streamed_folder_is_listed_as_one_that_is_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, progress = draw(tmp_path / "in", 20), Heard()
    for name in ("1/04.jpg", "1/04_jpg.tif", "odd.png"):
        (folder / name).touch()
    out = folder / "out"
    assert predict(save_run(tmp_path / "run"), folder / "2", out) == 0
    shard = Shard(0, 1)
    whole = [image for block in list_images([folder], out, shard, progress).read()
             for image in block.images]  # fmt: skip
    monkeypatch.setattr(listing, "LOOKED_THROUGH", 10)
    streamed = [image for block in list_images([folder], out, shard, progress).read()
                for image in block.images]  # fmt: skip
    assert sorted(streamed) == sorted(whole)
    assert len(streamed) == 23
    assert "left out 6 files: mosaics, and outputs of predictions" in progress.said
    assert any("none is taken for a mask" in said for said in progress.said)


def test_a_shard_without_images_is_done(tmp_path: Path, capsys: Capture) -> None:
    trained, folder = save_run(tmp_path / "run"), draw(tmp_path / "in", 1)
    counts = [predict(trained, folder, tmp_path / "out", "--shard", f"{n}/4") for n in range(4)]
    assert counts == [0] * 4
    assert len(masks(tmp_path / "out")) == 1
    assert work_of(trained, folder, tmp_path / "out").given == [folder]
    assert "0 masks: " in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--workers", "4"], ["--cores", "8", "--address", "local"]])
def test_flags_of_a_cluster_are_refused_without_one(
    tmp_path: Path, capsys: Capture, words: list[str]
) -> None:
    assert predict(tmp_path / "run", tmp_path, tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert "without a cluster these do nothing" in said
    assert "--cluster ray" in said
    assert all(flag in said for flag in words[::2])


@pytest.mark.parametrize("workers", ["4", "0", "auto"])
def test_the_environment_of_other_commands_is_no_flag_of_a_cluster(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("UNETSEG_WORKERS", workers)
    assert predict(tmp_path / "run", tmp_path, tmp_path / "out") != 2
    assert "cluster" not in capsys.readouterr().err


def test_a_cluster_has_all_its_workers_by_auto_and_one_at_least() -> None:
    assert ScalingConfig(cluster="ray", workers="auto").bounds == (1, None)
    assert ScalingConfig(cluster="ray", workers="2-8").bounds == (2, 8)
    for wrong in ("0", "8-2", "2-0", "many"):
        with pytest.raises(ValidationError, match="is no number of workers"):
            ScalingConfig(cluster="ray", workers=wrong)


def test_masks_in_subfolders_of_an_earlier_output_are_no_images_of_a_streamed_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, progress = draw(tmp_path / "in", 6), Heard()
    assert predict(save_run(tmp_path / "run"), folder, folder / "first") == 0
    monkeypatch.setattr(listing, "LOOKED_THROUGH", 3)
    blocks = list_images([folder], folder / "second", Shard(), progress)
    assert len([image for block in blocks.read() for image in block.images]) == 6
    assert "left out 6 files: mosaics, and outputs of predictions" in progress.said


@pytest.mark.parametrize("more", [[], ["--shard", "0/2"]])
def test_no_input_is_answered_to_a_shard_too(
    tmp_path: Path, capsys: Capture, more: list[str]
) -> None:
    words = ["predict", str(save_run(tmp_path / "run")), "-o", str(tmp_path / "out"), *more]
    assert run([*words, "--device", "cpu"]) == 5
    assert "no images found in the input" in capsys.readouterr().err


def test_a_shard_names_all_broken_links(tmp_path: Path, capsys: Capture) -> None:
    trained, folder = save_run(tmp_path / "run"), draw(tmp_path / "in", 2)
    for name in ("x.png", "y.png"):
        (folder / name).symlink_to("nothing")
    assert predict(trained, folder, tmp_path / "out", "--shard", "0/2") == 5
    told = capsys.readouterr().err
    assert all(text in told for text in ("x.png", "y.png", "Restore the files"))
