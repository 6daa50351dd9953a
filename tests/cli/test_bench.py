"""unetseg bench: real runs with tiny settings, and what it says of bad input."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import noise, save_run
from unetseg import bench
from unetseg.bench import Benchmark, Row
from unetseg.cli.app import run
from unetseg.data.files.pngs import write_png

Capture = pytest.CaptureFixture[str]
TINY = ["--size", "64", "--count", "4", "--seconds", "0.3", "--device", "cpu", "--workers", "0"]
NETWORK = ["--width", "4", "--depth", "2"]


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of matrices that a busy machine is done with at once."""
    monkeypatch.setitem(bench.LARGEST_PRODUCT, "cpu", bench.SMALLEST_PRODUCT)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The bundle of a U-Net for RGB images."""
    return save_run(tmp_path / "run")


def figures(capsys: Capture, *tokens: str) -> Any:
    """What `--json -` prints, which is nothing but JSON."""
    capsys.readouterr()
    assert run(["bench", *tokens, *TINY, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def rows_of(found: dict[str, Any], stage: str) -> dict[str, dict[str, Any]]:
    """The rows of one stage, by what was done."""
    return {row["what"]: row for row in found["rows"] if row["stage"].startswith(stage)}


def check_schema(found: dict[str, Any]) -> None:
    """Every figure is there, and one stage of the prediction bounds it."""
    assert set(found) == {field.name for field in fields(Benchmark)}
    assert {"name", "processor", "dtype", "torch"} <= set(found["machine"])
    assert all(set(row) == {field.name for field in fields(Row)} for row in found["rows"])
    assert set(rows_of(found, "product of matrices")) >= {"float32"}
    stages = rows_of(found, "prediction")
    assert list(stages) == ["read alone", "network alone", "write alone", "folder to folder"]
    assert [row["word"] for row in stages.values()].count("bounds") == 1
    slowest = min(list(stages.values())[:3], key=lambda row: row["per_second"])
    assert slowest["word"] == "bounds"


@pytest.mark.long
def test_prediction_and_training_as_tables_and_json(tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "speed.json"
    assert run(["bench", *NETWORK, *TINY, "--train", "--json", str(target)]) == 0
    shown = capsys.readouterr().out
    for words in ("machine: ", "product of", "model: U-Net, depth 2, width 4", "network, batch"):
        assert words in shown
    for row in ("float32", "eager float32", "read alone", "folder to folder", "steps alone"):
        assert f"\n{row} " in shown
    assert shown.count(" is bounded by: ") == 2
    assert f"all figures: {target}" in shown
    assert shown.splitlines()[-1].startswith("next: unetseg ")
    tables = shown[shown.index("product of") : shown.index("prediction is bounded")]
    assert max(len(line) for line in tables.splitlines()) <= 80
    assert "…" not in tables
    found = json.loads(target.read_text())
    check_schema(found)
    said = [row["word"] for row in rows_of(found, "training").values()]
    assert said in (["bounds", "", ""], ["", "bounds", ""])


@pytest.mark.long
def test_a_bundle_on_the_images_of_the_user(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    for number, size in enumerate([(50, 70), (60, 90), (40, 40), (64, 64), (33, 60)]):
        write_png(tmp_path / "new" / f"{number}.png", noise(*size, 3))
    found = figures(capsys, str(bundle), "--data", str(tmp_path / "new"), "--engines", "eager")
    check_schema(found)
    assert found["model"]["bands"] == 3
    assert {what.split()[0] for what in rows_of(found, "network, ")} == {"eager"}
    assert rows_of(found, "prediction, 4 images, ")
    assert not rows_of(found, "training")


@pytest.mark.long
def test_a_training_on_the_pairs_of_the_user(tmp_path: Path, capsys: Capture) -> None:
    assert run(["sample", str(tmp_path / "cells"), "-n", "4", "--size", "48"]) == 0
    where = ["--data", str(tmp_path / "cells"), "--images", "images", "--masks", "masks/*.png"]
    found = figures(capsys, *where, "--train", *NETWORK, "-b", "2")
    check_schema(found)
    assert rows_of(found, "training, 2 × 64×64")


@pytest.mark.long
def test_nothing_is_left_behind(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = sorted(bundle.rglob("*"))
    figures(capsys, str(bundle))
    assert list(tmp_path.glob("unetseg-*")) == []
    assert sorted(bundle.rglob("*")) == before


@pytest.mark.parametrize(
    ("tokens", "code", "answer"),
    [
        (["nowhere"], 8, "nowhere does not exist"),
        (["--data", "nowhere"], 5, "there is no nowhere"),
        (["--data", "README.md", "--train"], 5, "error: "),
        (["--size", "8"], 2, "--size '8': must be greater than or equal to 32"),
        (["--engines", "fuse"], 2, "--engines 'fuse': must be 'auto', 'all', "),
        (["--count", "1"], 2, "--count '1'"),
        (["--seconds", "soon"], 2, "'soon' is no duration"),
        (["--device", "gpu"], 2, "--device 'gpu' is none of"),
        (["--widht", "4"], 2, "--widht"),
    ],
)
def test_bad_input_is_answered(tokens: list[str], code: int, answer: str, capsys: Capture) -> None:
    assert run(["bench", *tokens]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert answer in shown.err
    assert "Traceback" not in shown.err


def test_a_run_brings_its_own_network(bundle: Path, capsys: Capture) -> None:
    assert run(["bench", str(bundle), "--width", "8", "--depth", "3"]) == 2
    shown = capsys.readouterr().err
    assert "brings its own network" in shown
    assert "  - --depth\n  - --width" in shown


def test_images_that_do_not_fit_the_bundle(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    write_png(tmp_path / "deep.png", np.full((40, 40, 3), 1000, np.uint16))
    assert run(["bench", str(bundle), "--data", str(tmp_path), *TINY]) == 5
    assert "deep.png is uint16, the model was trained on uint8" in capsys.readouterr().err
