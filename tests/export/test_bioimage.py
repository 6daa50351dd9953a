"""A package of bioimage.io says what is in it, and gives the probabilities that it promises."""

import io
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import onnxruntime
import pytest
import yaml
from PIL import Image

import unetseg
from tests.builders import bundle_info, class_map, save_run
from unetseg.cli.app import run as unetseg_command
from unetseg.config import ExportConfig
from unetseg.errors import ConfigError
from unetseg.export.export import export

SCALING = {"mean": (30000.0,) * 4, "std": (9000.0,) * 4}
BUNDLES: dict[str, dict[str, Any]] = {
    "two classes": {},
    "three classes, 16 bit": {
        "bands": 4,
        "dtype": "uint16",
        "classes": class_map(3, 7, 9),
        "normalisation": {"kind": "image", **SCALING},
    },
    "at half the size": {"network": {"scale": 0.5}},
}


def package_of(folder: Path, data: Path | None = None, **bundle: Any) -> Path:
    run = save_run(folder / "run", bundle_info(**bundle))
    return export(run, ExportConfig(to="bioimage", split="all"), data).file


def described(package: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    with ZipFile(package) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    return yaml.safe_load(parts["rdf.yaml"]), parts


def files_of(told: Any) -> list[dict[str, Any]]:
    """What names a file, anywhere in a description."""
    if not isinstance(told, dict | list):
        return []
    inner = told.values() if isinstance(told, dict) else told
    own = [told] if isinstance(told, dict) and "source" in told else []
    return own + [file for each in inner for file in files_of(each)]


@pytest.fixture(autouse=True)
def measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetseg.export.export.ROUNDS", 1)


@pytest.mark.long
@pytest.mark.parametrize("name", BUNDLES)
def test_the_package_gives_what_it_says(name: str, tmp_path: Path) -> None:
    package = package_of(tmp_path, **BUNDLES[name])
    told, parts = described(package)
    files = {file["source"]: file["sha256"] for file in files_of(told)}
    assert files == {part: sha256(parts[part]).hexdigest() for part in parts if part != "rdf.yaml"}
    taken, given = (
        np.load(io.BytesIO(parts[tensor["test_tensor"]["source"]]))
        for tensor in (told["inputs"][0], told["outputs"][0])
    )
    session = onnxruntime.InferenceSession(parts["model.onnx"])
    outputs = session.run(None, {session.get_inputs()[0].name: taken})
    assert len(outputs) == len(told["outputs"]) == 1
    np.testing.assert_allclose(outputs[0], given, atol=1e-5)
    model = unetseg.load(tmp_path / "run", device="cpu", precision="float32")
    exact = model.probabilities(taken[0].transpose(1, 2, 0))
    np.testing.assert_allclose(given[0].transpose(1, 2, 0), exact, atol=1e-4)
    for tensor, array in zip((*told["inputs"], *told["outputs"]), (taken, given), strict=True):
        assert tensor["data"]["type"] == array.dtype
        assert len(tensor["axes"][1]["channel_names"]) == array.shape[1]
    grid = model.engine.grid
    for axis, side in zip(told["inputs"][0]["axes"][2:], taken.shape[2:], strict=True):
        assert (side - axis["size"]["min"]) % axis["size"]["step"] == 0
        assert (axis["size"]["min"] % grid, axis["size"]["step"] % grid) == (0, 0)
    assert all(axis["halo"] >= grid for axis in told["outputs"][0]["axes"][2:])
    with Image.open(io.BytesIO(parts["cover.png"])) as cover:
        assert cover.width == 2 * cover.height


@pytest.mark.long
@pytest.mark.parametrize("name", BUNDLES)
def test_the_validator_of_bioimage_io_takes_it(name: str, tmp_path: Path) -> None:
    spec = pytest.importorskip("bioimageio.spec", reason="bioimageio.spec is not installed")
    summary = spec.load_description(package_of(tmp_path, **BUNDLES[name])).validation_summary
    if "index_key" in summary.format():
        pytest.skip("bioimageio.spec takes no model at all with this pydantic")
    assert summary.status != "failed", summary.format()


@pytest.mark.long
def test_the_test_image_is_one_of_the_users(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = save_run(tmp_path / "run", bundle_info(classes=class_map(0, 255)))
    file = tmp_path / "cells.zip"
    words = ["export", str(run), str(data), "--to", "bioimage", "--split", "all", "-o", str(file)]
    assert unetseg_command(words) == 0
    assert f"next: bioimageio test {file}" in " ".join(capsys.readouterr().out.split())
    told, parts = described(file)
    taken = np.load(io.BytesIO(parts["image.npy"]))[0].transpose(1, 2, 0)
    height, width = taken.shape[:2]
    images = [np.asarray(Image.open(path)) for path in sorted((data / "images").iterdir())]
    middles = [
        image[top : top + height, left : left + width]
        for image in images
        for top, left in [((image.shape[0] - height) // 2, (image.shape[1] - width) // 2)]
    ]
    assert any(np.array_equal(taken, middle) for middle in middles)
    assert told["name"] == "unetseg run"


def test_a_threshold_is_no_part_of_probabilities(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="probabilities alone"):
        export(run, ExportConfig(to="bioimage", threshold=0.3))
