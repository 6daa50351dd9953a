"""What Label Studio sends to a machine-learning backend, replayed."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from tests.builders import bundle_info, class_map, save_run
from tests.importers.exports import encode
from tests.serving.models import CPU, asked, image_file
from unetseg.data.masks.class_map import ClassInfo, ClassMap
from unetseg.data.masks.mask_file import read_mask
from unetseg.errors import ConfigError, MaskError
from unetseg.importers.brushes import decode_brush
from unetseg.prediction.predictor import Predictor
from unetseg.serving.label_studio import index_of, keep_pair

CONFIG = """<View><Image name="picture" value="$image" zoom="true"/>
<BrushLabels name="tag" toName="picture"><Label value="Cell"/><Label value="nucleus"/></BrushLabels>
</View>"""
CLASSES = ClassMap(
    classes=tuple(
        ClassInfo(name=name, code=code, colour=(code, 0, 0))
        for name, code in (("background", 0), ("cell", 128), ("nucleus", 255))
    ),
    background=0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ with two images, one below a folder, and a run."""
    folder = tmp_path_factory.mktemp("label studio")
    image_file(folder / "photos" / "my photo.png")
    image_file(folder / "photos" / "set 1" / "b.png", 32, 48, seed=1)
    save_run(folder / "cells", bundle_info(classes=CLASSES))
    return folder


@pytest.fixture(scope="module")
def backend(folder: Path) -> Iterator[TestClient]:
    photos = {"label_studio_files": folder / "photos", "label_studio_pairs": folder / "pairs"}
    with asked(folder / "cells", **photos) as client:
        yield client


def task(url: str, number: int = 7) -> dict[str, Any]:
    return {"id": number, "data": {"image": url}, "meta": {}, "annotations": [], "predictions": []}


def request(*urls: str) -> dict[str, Any]:
    return {
        "tasks": [task(url, number) for number, url in enumerate(urls)],
        "model_version": None,
        "project": "1.1700000000",
        "label_config": CONFIG,
        "params": {"login": None, "password": None, "context": None},
    }


def test_it_is_connected(backend: TestClient) -> None:
    assert backend.get("/label-studio/health").json()["status"] == "UP"
    asked_for = {
        "project": "1.1700000000",
        "schema": CONFIG,
        "hostname": "http://localhost:8080",
        "access_token": "secret",
        "extra_params": None,
    }
    answer = backend.post("/label-studio/setup", json=asked_for)
    assert answer.json()["model_version"].startswith("cells")


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ("<View>", "no XML"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View/>', "document type"),
        ("<View/>", "no BrushLabels"),
        ('<View><BrushLabels name="a" toName="b"/></View>', "there is no Label"),
        (CONFIG.replace("Cell", "Dog"), "no class Dog"),
    ],
)
def test_a_setup_that_does_not_fit_is_answered_with_one_that_does(
    backend: TestClient, schema: str, told: str
) -> None:
    answer = backend.post("/label-studio/setup", json={"schema": schema})
    assert answer.status_code == 422
    assert told in answer.json()["error"]["message"]


def test_labels_come_drawn_as_the_model_predicts(backend: TestClient, folder: Path) -> None:
    urls = ("/data/upload/1/0a1b2c3d-my_photo.png", "/data/local-files/?d=set%201/b.png")
    answer = backend.post("/label-studio/predict", json=request(*urls))
    assert answer.status_code == 200
    predictor = Predictor(folder / "cells", device=CPU)
    files = ("my photo.png", "set 1/b.png")
    for found, name in zip(answer.json()["results"], files, strict=True):
        mask = predictor.predict(folder / "photos" / name)
        assert 0 <= found["score"] <= 1
        drawn = np.zeros_like(mask)
        for region in found["result"]:
            assert (region["from_name"], region["to_name"]) == ("tag", "picture")
            assert region["type"] == "brushlabels"
            size = region["original_height"], region["original_width"]
            assert size == mask.shape
            (label,) = region["value"]["brushlabels"]
            covered = decode_brush(region["value"]["rle"], *size)
            drawn[covered] = {"Cell": 128, "nucleus": 255}[label]
        assert (drawn == mask).all()


def test_images_that_are_not_there_are_all_named(backend: TestClient) -> None:
    urls = ("http://evil.example/x.png", "../../etc/passwd.png", "my photo.png")
    answer = backend.post("/label-studio/predict", json=request(*urls))
    assert answer.status_code == 422
    told = answer.json()["error"]["message"]
    assert "no such image: /x.png" in told
    assert "passwd.png" in told
    assert "my photo" not in told
    assert backend.post("/label-studio/predict", json=request(*["x.png"] * 65)).status_code == 422


def brush(covered: NDArray[np.bool_], label: str) -> dict[str, Any]:
    height, width = covered.shape
    words = np.repeat(covered.ravel(), 4) * 255
    return {
        "id": label,
        "type": "brushlabels",
        "from_name": "tag",
        "to_name": "picture",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode(words.tolist()), "brushlabels": [label]},
    }


def event(action: str, *regions: dict[str, Any], **annotation: Any) -> dict[str, Any]:
    told = {"id": 3, "result": list(regions), "was_cancelled": False, "task": 7} | annotation
    project = {"id": 1, "title": "cells", "label_config": CONFIG}
    return {
        "action": action,
        "annotation": told,
        "task": task("/data/local-files/?d=set%201/b.png"),
        "project": project,
    }


def test_a_correction_comes_back_as_a_pair(backend: TestClient, folder: Path) -> None:
    cell = np.zeros((32, 48), bool)
    cell[4:20, 5:30] = True
    nucleus = np.zeros_like(cell)
    nucleus[8:12, 9:15] = True
    image = folder / "pairs" / "images" / "set 1" / "b.png"
    mask = folder / "pairs" / "masks" / "set 1" / "b.png"

    def tell(*event_: Any, **annotation: Any) -> Any:
        answer = backend.post("/label-studio/webhook", json=event(*event_, **annotation))
        assert answer.status_code == 201, answer.text
        return answer.json()["kept"]

    skipped = brush(cell, "Cell")
    assert tell("ANNOTATION_CREATED", skipped, was_cancelled=True) is None
    assert tell("ANNOTATIONS_DELETED", skipped) is None
    assert not mask.exists()
    assert tell("ANNOTATION_CREATED", brush(cell, "Cell")) == "masks/set 1/b.png"
    assert (read_mask(mask).pixels == cell * 128).all()
    assert image.read_bytes() == (folder / "photos" / "set 1" / "b.png").read_bytes()
    tell("ANNOTATION_UPDATED", brush(cell, "Cell"), brush(nucleus, "nucleus"))
    assert (read_mask(mask).pixels == np.where(nucleus, 255, cell * 128)).all()
    tell("ANNOTATION_UPDATED")
    assert not read_mask(mask).pixels.any()


@pytest.mark.parametrize(
    ("region", "told"),
    [
        (brush(np.ones((32, 48), bool), "Dog"), "Dog) is no class"),
        (brush(np.ones((30, 48), bool), "Cell"), "48×32 pixels, the annotation another size"),
        (
            brush(np.ones((32, 48), bool), "Cell")
            | {"value": {"rle": [1], "brushlabels": ["Cell"]}},
            "cut off",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    backend: TestClient, region: dict[str, Any], told: str
) -> None:
    answer = backend.post("/label-studio/webhook", json=event("ANNOTATION_CREATED", region))
    assert answer.status_code == 422
    assert told in answer.json()["error"]["message"]


def test_without_a_background_what_is_not_drawn_is_unknown(folder: Path, tmp_path: Path) -> None:
    from unetseg.serving.label_studio import Event

    covered = np.zeros((32, 48), bool)
    covered[:9] = True
    known = class_map(0, 1, background=None, ignore=(255,))
    told = Event.model_validate(event("ANNOTATION_CREATED", brush(covered, "class 1")))
    name = keep_pair(told, folder / "photos", tmp_path, known)
    assert (read_mask(tmp_path / name).pixels == np.where(covered, 1, 255)).all()
    without_code = class_map(0, 1, background=None)
    with pytest.raises(MaskError, match=r"has pixels without a label(?s:.*)Label every pixel"):
        keep_pair(told, folder / "photos", tmp_path / "none", without_code)
    assert not (tmp_path / "none").exists()


def test_folders_are_looked_at_first(folder: Path, tmp_path: Path) -> None:
    for settings in ({"label_studio_files": tmp_path / "no"}, {"label_studio_pairs": tmp_path}):
        with pytest.raises(ConfigError, match="label-studio"), asked(folder / "cells", **settings):
            pass
    run = Path(shutil.copytree(folder / "cells", tmp_path / "run"))
    with asked(run) as client:
        assert client.post("/label-studio/predict", json={}).status_code == 404


def test_two_images_never_share_a_mask(folder: Path, tmp_path: Path) -> None:
    from unetseg.serving.label_studio import Event

    (tmp_path / "images" / "set 1").mkdir(parents=True)
    (tmp_path / "images" / "set 1" / "b.jpg").write_bytes(b"another")
    told = Event.model_validate(event("ANNOTATION_CREATED"))
    with pytest.raises(MaskError, match=r"b.png would share its mask with b.jpg"):
        keep_pair(told, folder / "photos", tmp_path, CLASSES)
    assert not (tmp_path / "masks").exists()


def test_a_label_is_the_class_in_its_own_letters_first() -> None:
    known = [ClassInfo(name=n, code=c, colour=(c, 0, 0)) for c, n in enumerate(("Cell", "cell"))]
    found = [index_of(name, ClassMap(classes=tuple(known))) for name in ("cell", "Cell", "CELL")]
    assert (found, index_of("dog", CLASSES)) == ([1, 0, 0], None)
