"""The skip lab and prune through the command line, on the drawn sample: real runs, tiny sizes."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from unetseg.cli.app import LAB, run
from unetseg.skiplab.look import Result

Capture = pytest.CaptureFixture[str]
TINY = ["-e", "1", "--depth", "2", "--width", "4", "--patch", "32", "-b", "2", "--workers", "0"]
TINY += ["--device", "cpu"]
SMALL = ["--images-used", "3", "--window", "32", "--device", "cpu"]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "sample"
    assert run(["sample", str(folder), "-n", "8", "--size", "48"]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with a skip of its own kind on each level: attention on top, a switch below."""
    out = tmp_path_factory.mktemp("runs")
    skips = ["--skip", "attention,switch"]
    assert run(["train", str(sample), *TINY, *skips, "--out", str(out), "--name", "cells"]) == 0
    return out / "cells"


def found(folder: Path, name: str) -> dict[str, object]:
    """The JSON of a look, whose table and pictures are there too."""
    content: dict[str, object] = json.loads((folder / f"{name}.json").read_text())
    with (folder / f"{name}.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(list(content["rows"]))  # type: ignore[call-overload]
    pictures = list(folder.glob("*.png"))
    assert pictures
    for picture in pictures:
        with Image.open(picture) as opened:
            assert min(opened.size) > 100
    return content


@pytest.mark.long
@pytest.mark.parametrize("verb", LAB)
def test_the_help_of_a_look_has_an_example(verb: str, capsys: Capture) -> None:
    assert run(["lab", verb, "--help"]) == 0
    _, _, examples = capsys.readouterr().out.partition("Example")
    assert f"unetseg lab {verb}" in examples.split("╭")[0]


def test_the_lab_lists_its_looks(capsys: Capture) -> None:
    assert run(["lab", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f" {verb} " in shown for verb in LAB)


@pytest.mark.long
@pytest.mark.parametrize("verb", ["ablate", "gates", "landscape"])
def test_a_look_at_a_run(verb: str, trained: Path, sample: Path, capsys: Capture) -> None:
    extra = ["--points", "3", "--iterations", "2"] if verb == "landscape" else []
    extra += ["--samples", "100"] if verb == "ablate" else []
    assert run(["lab", verb, str(trained), str(sample), "--split", "all", *SMALL, *extra]) == 0
    content = found(trained / "lab" / verb, verb)
    shown = capsys.readouterr().out
    assert str(content["caption"]) in shown
    assert ("verdict" in shown) == (verb != "landscape")  # of a single network there is none
    assert str(trained / "lab" / verb) in shown


@pytest.mark.long
def test_a_look_at_a_further_bundle_of_a_run_is_its_own(
    trained: Path, sample: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("lab"))
    shutil.copytree(home / "model", home / "pruned")
    alone = shutil.copytree(home / "model", tmp_path / "elsewhere" / "model")
    for bundle in (home / "pruned", alone, home / "model"):
        assert run(["lab", "gates", str(bundle), str(sample), "--split", "all", *SMALL]) == 0
        owner = home if bundle == home / "model" else bundle
        found(owner / "lab" / "gates", "gates")
        assert (home / "lab").exists() == (bundle == home / "model")


@pytest.mark.long
def test_quick_leaves_what_was_asked_for(trained: Path, sample: Path, tmp_path: Path) -> None:
    flags = ["--quick", "--edits", "zero", "--images-used", "2", "--split", "all"]
    assert run(["lab", "ablate", str(trained), str(sample), *flags, "-o", str(tmp_path)]) == 0
    rows = found(tmp_path, "ablate")["rows"]
    assert isinstance(rows, list)
    assert {row["edit"] for row in rows} <= {"zero", "none", None, ""}


@pytest.mark.long
@pytest.mark.parametrize("source", ["nothing", "data", "run"])
def test_gradients(source: str, trained: Path, sample: Path, tmp_path: Path) -> None:
    sources = {"nothing": [], "data": [str(sample)], "run": [str(trained)]}
    flags = ["--depths", "4", "--norms", "none", "--inits", "he", "--steps", "1", "--width", "4"]
    assert run(["lab", "gradients", *sources[source], *flags, "-o", str(tmp_path)]) == 0
    found(tmp_path, "gradients")


@pytest.mark.long
def test_compare(sample: Path, tmp_path: Path) -> None:
    line = ["lab", "compare", str(sample), "--skips", "concat,none", "--seeds", "1", *TINY]
    assert run([*line, "-o", str(tmp_path / "c")]) == 0
    rows = found(tmp_path / "c", "compare")["rows"]
    assert isinstance(rows, list)
    assert [row["skip"] for row in rows] == ["concat", "none"]


@pytest.mark.parametrize("slip", ["--skip", "--seed"])
def test_compare_refuses_what_it_sets_itself(slip: str, sample: Path, capsys: Capture) -> None:
    value = "concat" if slip == "--skip" else "1"
    assert run(["lab", "compare", str(sample), slip, value]) == 2
    answer = capsys.readouterr().err
    assert f"  - {slip}\n" in answer
    assert "Give --skips concat,none and --seeds 3" in answer


@pytest.mark.long
def test_a_look_at_a_bundle_is_kept_in_its_run(trained: Path, sample: Path) -> None:
    line = ["lab", "gates", str(trained / "model"), str(sample), "--split", "all", *SMALL]
    assert run(line) == 0
    assert not (trained / "model" / "lab").exists()
    found(trained / "lab" / "gates", "gates")


@pytest.mark.parametrize("verb", ["ablate", "gates", "landscape"])
def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def begun(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr("unetseg.skiplab.look.open_subject", begun)
    (tmp_path / "file").touch()
    output = str(tmp_path / "file" / "look")
    assert run(["lab", verb, str(tmp_path / "run"), str(tmp_path), "-o", output]) == 3
    assert f"cannot write {output}" in capsys.readouterr().err


def test_folders_that_differ_after_a_dot_have_looks_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes: list[str] = []

    def note(*_: object, output: Path, **__: object) -> Result:
        homes.append(output.name)
        return Result(output, [], [], "")

    monkeypatch.setattr("unetseg.skiplab.compare.compare", note)
    (tmp_path / "pairs.csv").touch()
    for name in ("photos.v1", "photos.v2", "pairs.csv"):
        assert run(["lab", "compare", str(tmp_path / name)]) == 0
    assert homes == ["compare-photos.v1", "compare-photos.v2", "compare-pairs"]
