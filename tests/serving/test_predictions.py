"""POST /predict gives the files that `unetseg predict` writes."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.builders import class_map, noise, write_geotiff
from tests.serving.models import CPU, Cells, as_array, asked, image_file, model
from unetseg.config import PredictConfig
from unetseg.data.files.tiffs import write_tiff
from unetseg.prediction.predict import predict_folder

WANTS = ["mask", "overlay", "probabilities", "objects", "polygons"]
PNG = {"content-type": "image/png"}


def unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"classes": class_map((0, 0, 0), (255, 0, 0), (0, 0, 255), coding="rgb")},
        {"bands": 1, "dtype": "uint16", "kind": "image"},
    ],
    ids=["codes", "colours", "16-bit"],
)
def test_a_mask_is_that_of_the_model(tmp_path: Path, info: dict[str, Any]) -> None:
    run, predictor = model(tmp_path, **info)
    image = tmp_path / "a.tif"
    write_tiff(image, noise(40, 56, info.get("bands", 3), dtype=info.get("dtype", "uint8")))
    expected = predictor.predict(image)
    with asked(run) as client:
        answer = client.post("/predict", content=image.read_bytes(), headers=PNG)
    assert answer.headers["content-type"] == "image/png"
    assert (np.asarray(Image.open(io.BytesIO(answer.content))) == expected).all()


@pytest.mark.long
def test_all_files_are_those_of_the_command(cells: Cells, tmp_path: Path) -> None:
    names = [image_file(tmp_path / "new" / f"{name}.png") for name in ("a", "b c")]
    names.append(write_geotiff(tmp_path / "new" / "placed.tif", noise(40, 56, 3)))
    config = PredictConfig.model_validate(dict.fromkeys(WANTS[1:], True))
    predict_folder(cells.run, [tmp_path / "new"], tmp_path / "out", config, CPU)
    files = [("file", (path.name, path.read_bytes())) for path in names]
    answer = cells.client.post("/predict", files=files, params={"want": WANTS})
    found = unzipped(answer.content)
    expected = {path.name: path for path in (tmp_path / "out").iterdir()}
    expected.pop("objects.csv")  # of all images
    expected.pop("predictions.jsonl")
    assert found.keys() == expected.keys()
    for name, content in found.items():
        if name.endswith((".csv", ".geojson")):
            assert content == expected[name].read_bytes(), name
        else:
            written = np.asarray(Image.open(expected[name])) if name.endswith("png") else None
            if written is not None:
                assert (np.asarray(Image.open(io.BytesIO(content))) == written).all(), name
            else:
                pixels = tifffile.imread(io.BytesIO(content))
                assert (pixels == tifffile.imread(expected[name])).all(), name


def test_all_images_at_fault_are_named(cells: Cells) -> None:
    files = [("file", (f"{name}.png", b"text")) for name in ("a", "b c", "d")]
    answer = cells.client.post("/predict", files=files)
    told = answer.json()["error"]["message"]
    assert answer.status_code == 415
    assert all(f"{name}.png cannot be read" in told for name in ("a", "b c", "d"))


@pytest.mark.parametrize("names", [("a.tif", "a.png"), ("2_a.png", "a.png", "a.png")])
def test_each_file_of_a_zip_has_a_name_of_its_own(
    cells: Cells, tmp_path: Path, names: tuple[str, ...]
) -> None:
    write_geotiff(tmp_path / "a.tif", noise(40, 56, 3))
    image_file(tmp_path / "a.png")
    contents = [(name, (tmp_path / name[-5:]).read_bytes()) for name in names]
    files = [("file", content) for content in contents]
    answer = cells.client.post("/predict", files=files, params={"want": ["mask", "objects"]})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        found = archive.namelist()
    assert len(set(found)) == len(found) == 3 * len(names)  # mask, table and numbers of objects
    assert {"a_objects.csv", f"{len(names) - 1}_a_objects.csv"} <= {name[-15:] for name in found}


def test_each_want_alone_has_its_type(cells: Cells, tmp_path: Path) -> None:
    image, client = image_file(tmp_path / "a.png"), cells.client
    labels, rows = cells.predictor.objects(image)
    kinds = ["image/png", "image/png", "image/tiff", "application/json", "application/geo+json"]
    for want, kind in zip(WANTS, kinds, strict=True):
        answer = client.post("/predict", content=image.read_bytes(), params={"want": want})
        assert answer.headers["content-type"] == kind
        if want == "objects":
            assert answer.json() == {"count": labels.max(), "objects": rows}
    accept = {"accept": "application/geo+json", **PNG}
    answer = client.post("/predict", content=image.read_bytes(), headers=accept)
    assert len(answer.json()["features"]) == labels.max()
    answer = client.post("/predict", files={"any": ("a.png", image.read_bytes())})
    assert (as_array(answer.content) == cells.predictor.predict(image)).all()


def test_values_unlike_those_of_the_training_are_told(tmp_path: Path) -> None:
    values = {"low": (0.0,) * 3, "high": (1000.0,) * 3, "smallest": (900.0,) * 3}
    run, _ = model(tmp_path, dtype="uint16", values=values)
    with asked(run) as client:
        for height, is_told in ((1000, False), (65535, True)):
            file = tmp_path / f"{height}.tif"
            write_tiff(file, np.full((32, 32, 3), height, np.uint16))
            answer = client.post("/predict", content=file.read_bytes(), headers=PNG)
            assert answer.status_code == 200
            assert ("x-unetseg-warning" in answer.headers) is is_told


@pytest.mark.parametrize(
    ("content", "kind", "status", "told"),
    [
        (b"", "image/png", 422, "the body is empty"),
        (b"text", "image/png", 415, "image cannot be read"),
        (b"{}", "application/json", 415, "the body is application/json"),
        (b"x=1", "application/x-www-form-urlencoded", 415, "expected an image"),
        (b"<VRTDataset/>", "image/tiff", 415, "image names other files"),
        (b"--b--", "multipart/form-data; boundary=b", 422, "the form holds no file"),
        (b"--c", "multipart/form-data; boundary=b", 400, ""),
        (b"", "multipart/form-data", 400, "Missing boundary"),
    ],
)
def test_what_is_no_image_is_refused(
    cells: Cells, content: bytes, kind: str, status: int, told: str
) -> None:
    answer = cells.client.post("/predict", content=content, headers={"content-type": kind})
    assert answer.status_code == status
    assert told in answer.json()["error"]["message"]
    assert "/tmp" not in answer.text


def test_images_of_another_kind_or_size_are_refused(tmp_path: Path) -> None:
    run, _ = model(tmp_path)
    with asked(run, max_pixels=40 * 56) as client:

        def ask(pixels: Any) -> tuple[int, str]:
            file = tmp_path / "x.tif"
            write_tiff(file, pixels)
            answer = client.post("/predict", files={"file": ("../x.tif", file.read_bytes())})
            return answer.status_code, answer.json()["error"]["message"] if answer.is_error else ""

        assert ask(noise(40, 56, 3)) == (200, "")
        assert ask(noise(40, 57, 3)) == (413, "the image has 2280 pixels, at most 2240 are taken")
        assert ask(noise(40, 56, 5))[0] == 422
        status, told = ask(noise(40, 56, 3, dtype=np.uint16))
        assert (status, told.partition(" is ")[0]) == (422, "x.tif")


def test_too_many_files_are_refused(cells: Cells) -> None:
    files = [("file", (f"{n}.png", b"x")) for n in range(17)]
    assert cells.client.post("/predict", files=files).status_code == 400


def test_the_description_has_all_routes_and_their_bodies(cells: Cells) -> None:
    described = cells.client.get("/openapi.json").json()
    assert {"/predict", "/metrics", "/health", "/v2", "/v2/models/{name}/infer"} <= set(
        described["paths"]
    )
    assert "image/*" in json.dumps(described["paths"]["/predict"]["post"]["requestBody"])


@pytest.mark.parametrize("name", ["細胞" * 100 + ".png", "out", ".out"])
def test_names_of_any_length_and_letters_are_taken(cells: Cells, tmp_path: Path, name: str) -> None:
    content = image_file(tmp_path / "a.png").read_bytes()
    answer = cells.client.post("/predict", files={"file": (name, content)})
    assert answer.status_code == 200, answer.text
