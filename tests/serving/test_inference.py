"""The Open Inference Protocol, asked as its clients ask."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from httpx2 import Response
from numpy.typing import NDArray

from tests.builders import blotches, class_map
from tests.serving.models import Cells, asked, model
from unetseg import __version__
from unetseg.config import ServeConfig

URL = "/v2/models/cells/infer"
BINARY = "inference-header-content-length"
IMAGES = np.stack([blotches(40, 56, seed=seed) for seed in range(3)]).transpose(0, 3, 1, 2)
TYPES = {"uint8": "UINT8", "float32": "FP32"}


def tensor(images: NDArray[Any], **more: Any) -> dict[str, Any]:
    datatype = TYPES[images.dtype.name]
    return {"name": "image", "shape": list(images.shape), "datatype": datatype, **more}


def outputs(answer: Response) -> dict[str, NDArray[Any]]:
    """The tensors of an answer, as JSON or as bytes after it."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get(BINARY, len(answer.content)))
    told, rest = json.loads(answer.content[:length]), answer.content[length:]
    found = {}
    for output in told["outputs"]:
        dtype = {"UINT8": "u1", "FP32": "<f4"}[output["datatype"]]
        if size := output.get("parameters", {}).get("binary_data_size"):
            values, rest = np.frombuffer(rest[:size], dtype), rest[size:]
        else:
            values = np.array(output["data"], dtype)
        found[output["name"]] = values.reshape(output["shape"])
    assert not rest
    return found


def binary(request: dict[str, Any], images: NDArray[Any]) -> dict[str, Any]:
    text = json.dumps(request).encode()
    headers = {BINARY: str(len(text)), "content-type": "application/octet-stream"}
    return {"content": text + images.tobytes(), "headers": headers}


def test_what_there_is(cells: Cells) -> None:
    ask = cells.client.get
    assert ask("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert ask("/v2").json()["version"] == __version__
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/cells/ready"):
        assert ask(path).status_code == 200
    told = ask("/v2/models/cells").json()
    (version,) = told["versions"]
    assert ask(f"/v2/models/cells/versions/{version}").json() == told
    assert told["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 3, -1, -1]}]
    assert [output["shape"] for output in told["outputs"]] == [[-1, -1, -1], [-1, 2, -1, -1]]
    for path in ("/v2/models/none", "/v2/models/cells/versions/7", "/v2/models/none/ready"):
        assert ask(path).status_code == 404
        assert isinstance(ask(path).json()["error"], str)


def test_it_is_not_ready_while_it_drains(cells: Cells) -> None:
    door = cells.client.app.state.door  # type: ignore[attr-defined]
    door.is_draining = True
    try:
        assert cells.client.get("/v2/health/ready").status_code == 503
        assert cells.client.get("/v2/models/cells/ready").status_code == 503
        assert cells.client.get("/v2/health/live").status_code == 200
        assert cells.client.post(URL, json={}).status_code == 503
    finally:
        door.is_draining = False


def test_json_and_bytes_give_what_the_model_does(cells: Cells) -> None:
    client, predictor = cells.client, cells.predictor
    rows = IMAGES.transpose(0, 2, 3, 1)
    masks = np.stack([predictor.predict(image) for image in rows])
    likely = np.stack([predictor.probabilities(image).transpose(2, 0, 1) for image in rows])
    flat = client.post(URL, json={"inputs": [tensor(IMAGES, data=IMAGES.ravel().tolist())]})
    nested = client.post(URL, json={"id": "7", "inputs": [tensor(IMAGES, data=IMAGES.tolist())]})
    assert nested.json()["id"] == "7"
    size = {"parameters": {"binary_data_size": IMAGES.nbytes}}
    request = {"inputs": [tensor(IMAGES, **size)], "parameters": {"binary_data_output": True}}
    for answer in (flat, nested, client.post(URL, **binary(request, IMAGES))):
        found = outputs(answer)
        assert (found["mask"] == masks).all()
        assert found["probabilities"] == pytest.approx(likely, abs=1e-6)
    one = {"name": "mask", "parameters": {"binary_data": True}}
    answer = client.post(URL, **binary({**request, "outputs": [one]}, IMAGES))
    assert (outputs(answer)["mask"] == masks).all()
    alone = IMAGES[0].astype(np.float32)
    asked_for = {"inputs": [tensor(alone, data=alone.tolist())], "outputs": [{"name": "mask"}]}
    assert (outputs(client.post(URL, json=asked_for))["mask"] == masks[:1]).all()


def test_colours_have_an_axis_of_their_own(tmp_path: Any) -> None:
    classes = class_map((0, 0, 0), (255, 0, 0), coding="rgb")
    run, predictor = model(tmp_path, classes=classes)
    request = {"inputs": [tensor(IMAGES, data=IMAGES.tolist())], "outputs": [{"name": "mask"}]}
    with asked(run, name="reds") as client:
        assert client.get("/v2/models/reds").json()["outputs"][0]["shape"] == [-1, -1, -1, 3]
        found = outputs(client.post("/v2/models/reds/infer", json=request))["mask"]
    assert found.shape == (3, 40, 56, 3)
    assert (found[1] == predictor.predict(IMAGES[1].transpose(1, 2, 0))).all()


SMALL = np.zeros((1, 3, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": [1, 2]}, "the data are no UINT8"),
        ({"data": ["x"] * 192}, "the data are no UINT8"),
        ({"data": [300] * 192}, "the data are no UINT8"),
        ({"data": [1.5] * 192}, "the data are no UINT8 of [1, 3, 8, 8]: there are fractions"),
        ({"shape": [1, 3, 8, 9]}, "the data are no UINT8"),
        ({"shape": [2**40, 3, 8, 8]}, "inputs.0.shape.0"),
        ({"shape": [8, 8]}, "inputs.0.shape"),
        ({"shape": [0, 3, 8, 8], "data": []}, "inputs.0.shape"),
        ({"datatype": "FP64"}, "inputs.0.datatype"),
        ({"name": "x"}, "inputs.0.name"),
        ({"shape": [1, 6, 4, 8]}, "image 0 has 6 bands"),
        ({"shape": [64 + 128, 1, 1, 1]}, "at most 64"),
        ({"parameters": {"binary_data_size": 192}}, "0 bytes follow the JSON"),
    ],
)
def test_what_is_no_request_is_refused(cells: Cells, change: dict[str, Any], told: str) -> None:
    request = {"inputs": [tensor(SMALL, data=SMALL.ravel().tolist()) | change]}
    answer = cells.client.post(URL, json=request)
    assert answer.status_code == 422
    assert told in answer.json()["error"]


@pytest.mark.parametrize("names", [["mask", "mask"], ["mask", "probabilities"] * 1000])
def test_an_output_is_given_once(cells: Cells, names: list[str]) -> None:
    request = {"inputs": [tensor(SMALL, data=SMALL.ravel().tolist())]}
    answer = cells.client.post(URL, json={**request, "outputs": [{"name": name} for name in names]})
    assert (answer.status_code, "outputs: " in answer.json()["error"]) == (422, True)


@pytest.mark.parametrize(("length", "status"), [("999", 413), ("-1", 413), ("x", 422), ("3", 422)])
def test_a_length_of_json_that_does_not_fit(cells: Cells, length: str, status: int) -> None:
    headers = {BINARY: length, "content-type": "application/octet-stream"}
    answer = cells.client.post(URL, content=b'{"inputs": []}', headers=headers)
    assert answer.status_code == status
    assert isinstance(answer.json()["error"], str)


def test_an_image_of_too_many_pixels_is_refused(cells: Cells) -> None:
    assert ServeConfig().max_pixels is None
    image = np.zeros((3, 1, 2**25 // 3 * 2), np.uint8)
    assert image.shape[2] < 2**25
    wide = np.zeros((1, 1, 2**25 + 1), np.uint8)
    request = {"inputs": [tensor(wide, parameters={"binary_data_size": wide.nbytes})]}
    answer = cells.client.post(URL, **binary(request, wide))
    assert (answer.status_code, "at most 33554432" in answer.json()["error"]) == (413, True)


def test_numbers_are_raw_values_however_small(cells: Cells) -> None:
    dark = IMAGES[:1] % 2  # as floats of 0 and 1 they are no shares of white
    both = [
        outputs(cells.client.post(URL, json={"inputs": [tensor(one, data=one.ravel().tolist())]}))
        for one in (dark, dark.astype(np.float32))
    ]
    assert (both[0]["probabilities"] == both[1]["probabilities"]).all()


def test_a_name_keeps_its_dots(tmp_path: Path) -> None:
    run, _ = model(tmp_path)
    with asked(run.rename(tmp_path / "cells-1.5")) as client:
        assert client.get("/v2/models/cells-1.5").status_code == 200


def test_all_routes_stand_on_a_page_that_loads_nothing(cells: Cells) -> None:
    answer = cells.client.get("/docs")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    paths = cells.client.get("/openapi.json").json()["paths"]
    assert {"/predict", "/v2/models/{name}/infer"} <= paths.keys()
    assert all(f"<code>{path}</code>" in answer.text for path in paths)
    assert "mask, overlay, probabilities, objects, polygons" in answer.text
