"""A file for QGIS gives a tile the probabilities that the run gives it, and says how it is run."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import unetseg
from tests.builders import blotches, bundle_info, save_run
from unetseg.cli.app import run as command
from unetseg.config import ExportConfig
from unetseg.errors import ConfigError
from unetseg.export.export import export


def test_a_tile_as_the_plugin_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetseg.export.export.ROUNDS", 1)
    run = save_run(tmp_path / "run", bundle_info())
    file = export(run, ExportConfig(to="deepness"), output=tmp_path / "whole.onnx").file
    model = unetseg.load(run, device="cpu", precision="float32")
    side = model.info.tile
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,), (asked,) = session.get_inputs(), session.get_outputs()
    assert (given.shape, asked.shape) == ([1, 3, side, side], [1, 2, side, side])
    tile = blotches(side, side)
    pixels = tile.astype("float32").transpose(2, 0, 1)[None] / np.float32(255)
    (likely,) = session.run(None, {given.name: pixels})
    np.testing.assert_allclose(likely[0].transpose(1, 2, 0), model.probabilities(tile), atol=1e-4)
    told = session.get_modelmeta().custom_metadata_map
    keys = ("model_type", "class_names", "tiles_size", "tiles_overlap")
    names = {str(number): name for number, name in enumerate(model.info.class_map.names)}
    overlap = round(100 * model.info.overlap)
    assert [json.loads(told[key]) for key in keys] == ["Segmentor", names, side, overlap]


def test_other_than_8_bit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetseg.export.export.ROUNDS", 1)
    run = save_run(tmp_path / "run", bundle_info(dtype="uint16"))
    with pytest.raises(ConfigError, match="pixels of 8 bit, this one was trained on uint16"):
        export(run, ExportConfig(to="deepness"), output=tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("kind", ["dataset", "image"])
def test_tiles_that_may_disagree_are_told(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("unetseg.export.export.ROUNDS", 1)
    run = save_run(tmp_path / "run", bundle_info(kind=kind))
    words = ["export", str(run), "--to", "deepness", "-o", str(tmp_path / "x.onnx")]
    assert command(words) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert ("each tile is normalised by itself" in told) == (kind == "image")
