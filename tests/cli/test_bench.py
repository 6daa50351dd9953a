"""unetseg bench: real runs with tiny settings, and what it says of bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unetseg.bundle import load_bundle, save_bundle
from unetseg.cli.app import run
from unetseg.config import NetworkConfig, RuntimeConfig
from unetseg.data.files.images import write_png
from unetseg.speed import ceiling
from unetseg.speed.settings import BenchConfig
from unetseg.speed.subject import open_subject

Capture = pytest.CaptureFixture[str]
TINY = ["--size", "64", "--count", "4", "--seconds", "0.3", "--device", "cpu", "--workers", "0"]
NETWORK = ["--width", "4", "--depth", "2"]
ENGINE = {"engine", "dtype", "batch", "pace", "share", "ready_seconds", "memory_mib"}
PACE = {"milliseconds", "images_per_second", "megapixels_per_second", "gflops"}


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of matrices that a busy machine is done with at once."""
    monkeypatch.setitem(ceiling.LARGEST_SIDE, "cpu", ceiling.SMALLEST_SIDE)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a U-Net for RGB images."""
    folder = tmp_path_factory.mktemp("bundle")
    network, runtime = NetworkConfig(width=4, depth=2), RuntimeConfig(device="cpu")
    subject = open_subject(None, BenchConfig(size=32, count=2), network, runtime, folder)
    save_bundle(folder / "run" / "model", subject.segmenter.state_dict(), subject.info)
    return folder / "run"


def figures(capsys: Capture, *tokens: str) -> Any:
    """What `--json -` prints, which is nothing but JSON."""
    assert run(["bench", *tokens, *TINY, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def test_prediction_and_training_as_tables_and_json(tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "speed.json"
    assert run(["bench", *NETWORK, *TINY, "--train", "--json", str(target)]) == 0
    shown = capsys.readouterr().out
    for words in ("machine: ", "at best: ", "model: U-Net, depth 2, width 4", "network alone"):
        assert words in shown
    for row in ("eager float32", "read alone", "folder to folder", "steps alone"):
        assert f"\n{row} " in shown
    assert "→ prediction: " in shown
    assert "→ training: " in shown
    assert f"all figures: {target}" in shown
    assert shown.splitlines()[-1].startswith("next: unetseg ")
    tables = shown[shown.index("network alone") : shown.index("→")]
    assert max(len(line) for line in tables.splitlines()) <= 80
    assert "…" not in tables
    check_schema(json.loads(target.read_text()), train=True)


def check_schema(found: dict[str, Any], *, train: bool) -> None:
    """Every figure is there, and they agree with one another."""
    assert list(found) == [
        *("format", "machine", "model", "engines", "refused", "prediction", "training"),
        *("advice", "seconds"),
    ]
    assert {"name", "processor", "cores", "dtype", "ceilings"} <= set(found["machine"])
    best = {each["dtype"]: each["gflops"] for each in found["machine"]["ceilings"]}
    model = found["model"]
    for engine in found["engines"]:
        assert set(engine) == ENGINE
        pace = engine["pace"]
        assert set(pace) == PACE
        assert engine["share"] == pytest.approx(pace["gflops"] / best[engine["dtype"]])
        assert pace["gflops"] == pytest.approx(pace["images_per_second"] * model["gflop"])
        assert pace["megapixels_per_second"] == pytest.approx(
            pace["images_per_second"] * model["size"] ** 2 / 1e6
        )
    alone = found["prediction"]["alone"]
    assert sum(alone["shares"].values()) == pytest.approx(1)
    assert alone["longest"] in alone["shares"]
    assert set(found["prediction"]["overlapped"]) == PACE
    assert found["advice"]
    training = found["training"]
    assert (training is not None) == train
    if training:
        crops = training["together"]["images_per_second"]
        assert training["steps_per_second"] * training["batch"] == pytest.approx(crops)
        assert training["bounds"] in ("loading", "steps")


def test_a_bundle_on_the_images_of_the_user(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(0)
    for number, size in enumerate([(50, 70), (60, 90), (40, 40), (64, 64), (33, 60)]):
        pixels = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
        write_png(tmp_path / "new" / f"{number}.png", pixels)
    found = figures(capsys, str(bundle), "--data", str(tmp_path / "new"), "--engines", "eager")
    check_schema(found, train=False)
    _, info = load_bundle(bundle)
    assert found["model"]["bands"] == info.bands
    assert {engine["engine"] for engine in found["engines"]} == {"eager"}
    assert found["prediction"]["images"] == 4


def test_a_training_on_the_pairs_of_the_user(tmp_path: Path, capsys: Capture) -> None:
    assert run(["sample", str(tmp_path / "cells"), "-n", "4", "--size", "48"]) == 0
    capsys.readouterr()
    found = figures(capsys, "--data", str(tmp_path / "cells"), "--train", *NETWORK, "-b", "2")
    check_schema(found, train=True)
    assert (found["training"]["patch"], found["training"]["batch"]) == (64, 2)


def test_nothing_is_left_behind(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = sorted(bundle.rglob("*"))
    figures(capsys, str(bundle))
    assert list(tmp_path.iterdir()) == []
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
