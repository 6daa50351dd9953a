"""unetseg bench: real runs with tiny settings, and what it says of bad input."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import noise, save_run
from unetseg import bench
from unetseg.bench import Benchmark, Speed
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


def check_schema(found: dict[str, Any]) -> None:
    """Every figure is there, and they agree with one another."""
    assert set(found) == {field.name for field in fields(Benchmark)}
    assert {"name", "processor", "cores", "dtype", "gflops_at_best"} <= set(found["machine"])
    parts = [part for part in (found["engines"], found["prediction"], found["training"]) if part]
    for row in (row for part in parts for row in part["rows"]):
        assert set(row) == {field.name for field in fields(Speed)}
        assert row["milliseconds"] * row["images_per_second"] == pytest.approx(1000)
    read, network, write, total, _ = found["prediction"]["rows"]
    alone = read["milliseconds"] + network["milliseconds"] + write["milliseconds"]
    assert total["milliseconds"] == pytest.approx(alone)
    assert found["prediction"]["bounds"] in {"read", "network", "write"}


@pytest.mark.long
def test_prediction_and_training_as_tables_and_json(tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "speed.json"
    assert run(["bench", *NETWORK, *TINY, "--train", "--json", str(target)]) == 0
    shown = capsys.readouterr().out
    for words in ("machine: ", "at best: ", "model: U-Net, depth 2, width 4", "network, batch"):
        assert words in shown
    for row in ("eager float32", "read alone", "folder to folder", "steps alone"):
        assert f"\n{row} " in shown
    assert shown.count("\nbounded by: ") == 2
    assert f"all figures: {target}" in shown
    assert shown.splitlines()[-1].startswith("next: unetseg ")
    tables = shown[shown.index("network, batch") : shown.index("bounded")]
    assert max(len(line) for line in tables.splitlines()) <= 80
    assert "…" not in tables
    found = json.loads(target.read_text())
    check_schema(found)
    assert found["training"]["bounds"] in {"loading", "steps"}


@pytest.mark.long
def test_a_bundle_on_the_images_of_the_user(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    for number, size in enumerate([(50, 70), (60, 90), (40, 40), (64, 64), (33, 60)]):
        write_png(tmp_path / "new" / f"{number}.png", noise(*size, 3))
    found = figures(capsys, str(bundle), "--data", str(tmp_path / "new"), "--engines", "eager")
    check_schema(found)
    assert found["model"]["bands"] == 3
    assert {row["name"].split()[0] for row in found["engines"]["rows"]} == {"eager"}
    assert found["prediction"]["title"].startswith("prediction, 4 images, ")
    assert found["training"] is None


@pytest.mark.long
def test_a_training_on_the_pairs_of_the_user(tmp_path: Path, capsys: Capture) -> None:
    assert run(["sample", str(tmp_path / "cells"), "-n", "4", "--size", "48"]) == 0
    found = figures(capsys, "--data", str(tmp_path / "cells"), "--train", *NETWORK, "-b", "2")
    check_schema(found)
    assert found["training"]["title"] == "training, 2 × 64×64"


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
        (["--data", "nowhere"], 5, "no images found"),
        (["--data", "README.md", "--train"], 5, "error: "),
        (["--size", "8"], 2, "--size '8': must be greater than or equal to 32"),
        (["--engines", "fuse"], 2, "did you mean fused?"),
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
