"""Supervisely: a project as its export writes it."""

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.importers.exports import (
    BOXES,
    SIZE,
    corners,
    imported,
    masks_in,
    only_mask,
    photo,
    splits_in,
    truth,
    write,
    wrong,
)
from unetseg.importers.supervisely import recognises

META = {"classes": [{"title": "dog", "shape": "any"}, {"title": "cat", "shape": "any"}], "tags": []}


def bitmap(covered: Any, origin: tuple[int, int], kind: str = "P") -> dict[str, Any]:
    """As `Bitmap.data_2_base64` of the SDK: a PNG, compressed once more, in base64."""
    image = Image.fromarray(covered.astype(np.uint8), "L" if kind == "L" else "P")
    if kind == "P":
        image.putpalette([0, 0, 0, 255, 255, 255])
    memory = io.BytesIO()
    image.save(memory, "PNG", **({"transparency": 0} if kind == "P" else {}))
    data = base64.b64encode(zlib.compress(memory.getvalue())).decode()
    return {"data": data, "origin": list(origin)}


def figure(name: str, kind: str, exterior: Any = (), interior: Any = (), **more: Any) -> Any:
    points = {"exterior": list(exterior), "interior": list(interior)}
    return {"classTitle": name, "geometryType": kind, "points": points, "tags": []} | more


OBJECTS = [figure(name, "polygon", corners(box)) for name, box in BOXES]


def export(folder: Path, objects: list[Any], name: str = "a.jpg", **more: Any) -> None:
    photo(folder / "img" / name, SIZE)
    size = {"height": SIZE[0], "width": SIZE[1]}
    content = {"description": "", "tags": [], "size": size, "objects": objects} | more
    write(folder / "ann" / f"{name}.json", json.dumps(content))
    write(folder.parent / "meta.json", json.dumps(META))


def drawn(tmp_path: Path, *objects: Any) -> Any:
    export(tmp_path / "src/ds0", list(objects))
    imported("supervisely", tmp_path)
    return only_mask(tmp_path)


def test_polygons_later_ones_on_top_and_classes_in_the_order_of_the_project(
    tmp_path: Path,
) -> None:
    mask = drawn(tmp_path, *OBJECTS)
    assert recognises(tmp_path / "src")
    assert (mask == truth(classes=("dog", "cat"))).all()
    assert (tmp_path / "out/classes.txt").read_text() == "0 background\n1 dog\n2 cat\n"


def test_holes_rectangles_and_bitmaps(tmp_path: Path) -> None:
    hole = corners((10, 10, 20, 20))
    blob = np.random.default_rng(0).random((8, 9)) < 0.5
    expected = np.zeros(SIZE, np.uint8)
    expected[5:30, 4:40] = 2
    expected[10:20, 10:20] = 0
    expected[30:36, 40:60] = 1
    expected[0:8, 50:59][blob] = 1
    expected[32:40, 0:5][blob[:, 4:]] = 2
    mask = drawn(
        tmp_path,
        figure("cat", "polygon", corners((4, 5, 40, 30)), [hole]),
        figure("dog", "rectangle", [[40, 30], [60, 36]]),
        figure("dog", "bitmap", bitmap=bitmap(blob, (50, 0))),
        figure("cat", "bitmap", bitmap=bitmap(blob, (-4, 32), "L")),
        figure("cat", "line", [[0, 0], [9, 9]]),
    )
    assert (mask == expected).all()


@pytest.mark.parametrize("tag", ["", "val"])
def test_splits_are_data_sets_or_tags(tmp_path: Path, tag: str) -> None:
    export(tmp_path / "src/train", OBJECTS)
    tags = [{"name": tag}] if tag else []
    export(tmp_path / f"src/{'ds1' if tag else 'val'}", [], "b.png", tags=tags)
    done = imported("supervisely", tmp_path)
    assert sorted(splits_in(tmp_path / "out").values(), key=str) == ["train", "val"]
    assert "1 image without objects: all background" in done.notes


def test_annotations_of_older_projects_are_of_the_image_beside_them(tmp_path: Path) -> None:
    for name, objects in (("ds0", OBJECTS), ("ds1", [])):
        export(tmp_path / "src" / name, objects)
        (tmp_path / f"src/{name}/ann/a.jpg.json").rename(tmp_path / f"src/{name}/ann/a.json")
    imported("supervisely", tmp_path)
    masks = masks_in(tmp_path / "out")
    assert (masks["ds0/a"] == truth(classes=("dog", "cat"))).all()
    assert not masks["ds1/a"].any()


@pytest.mark.parametrize(
    ("wrong_object", "message"),
    [
        (figure("cat", "polygon", [[1, 1]]), "object 0 (cat): a polygon has 1 points"),
        (figure("cat", "rectangle", [[1, 1]]), "a rectangle has 1 corners, expected 2"),
        (figure("cat", "bitmap"), "a bitmap without pixels"),
        (figure("cat", "bitmap", bitmap={"data": "§", "origin": [0, 0]}), "no base64"),
        (figure("cat", "bitmap", bitmap={"data": "eHh4", "origin": [0, 0]}), "be decompressed"),
        (
            figure("cat", "bitmap", bitmap={"data": "eJwDAAAAAAE=", "origin": [0, 0]}),
            "its bitmap cannot be read",
        ),
        ({"classTitle": "cat", "points": 3}, "no annotation of Supervisely"),
    ],
)
def test_wrong_objects_are_named(tmp_path: Path, wrong_object: Any, message: str) -> None:
    export(tmp_path / "src/ds0", [wrong_object])
    assert message in wrong("supervisely", tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    export(tmp_path / "src/ds0", OBJECTS)
    (tmp_path / "src/ds0/img/a.jpg").unlink()
    assert "no such image: ds0/a.jpg.json names a.jpg" in wrong("supervisely", tmp_path)
    (tmp_path / "src/ds0/ann/a.jpg.json").unlink()
    assert not recognises(tmp_path / "src")
    assert "no annotations of Supervisely found" in wrong("supervisely", tmp_path)
