"""VGG Image Annotator: files as versions 1 and 2 write them, against shapes by their definition."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.importers.exports import BOXES, SIZE, imported, only_mask, photo, splits_in, truth, wrong
from unetseg.importers.via import recognises

Y, X = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5


def rect(left: int, top: int, right: int, bottom: int) -> dict[str, Any]:
    sides = {"width": right - left, "height": bottom - top}
    return {"name": "rect", "x": left, "y": top} | sides


def region(shape: Any, **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


REGIONS = [region(rect(*box), kind=name) for name, box in BOXES]


def export(path: Path, regions: Any, version: int = 2, name: str = "a.jpg") -> Path:
    """A JSON beside its photo: of version 1 (regions are numbered), 2, or (3) a project of 2."""
    photo(path.parent / name, SIZE)
    numbered = {str(i): one for i, one in enumerate(regions)} if version == 1 else regions
    content: Any = {f"{name}99": {"filename": name, "size": 99, "regions": numbered}}
    if version == 3:
        content = {"_via_settings": {}, "_via_img_metadata": content, "_via_attributes": {}}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("version", [1, 2, 3])
def test_each_version(tmp_path: Path, version: int) -> None:
    export(tmp_path / "src/via_region_data.json", REGIONS[::-1], version)
    assert recognises(tmp_path / "src")
    done = imported("via", tmp_path)
    assert done.classes == ("background", "cat", "dog")
    assert "the classes are the values of the attribute 'kind'" in done.notes
    assert (only_mask(tmp_path) == truth()).all()


POLYGON = {"all_points_x": [10, 30, 30, 10], "all_points_y": [5, 5, 25, 25]}
CLOSED = {"all_points_x": [10, 30, 30, 10, 10], "all_points_y": [5, 5, 25, 25, 5]}
SQUARE = (X > 10) & (X < 30) & (Y > 5) & (Y < 25)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({"name": "polygon"} | POLYGON, SQUARE),
        ({"name": "polyline"} | CLOSED, SQUARE),
        (
            {"name": "polyline", "all_points_x": [10, 50], "all_points_y": [20, 20]},
            np.hypot(X - np.clip(X, 10, 50), Y - 20) <= 5,
        ),
        ({"name": "circle", "cx": 30, "cy": 20, "r": 12.5}, np.hypot(X - 30, Y - 20) <= 12.5),
        (
            {"name": "ellipse", "cx": 30, "cy": 20, "rx": 15, "ry": 6},
            np.hypot((X - 30) / 15, (Y - 20) / 6) <= 1,
        ),
        (
            {"name": "ellipse", "cx": 30, "cy": 20, "rx": 15, "ry": 6, "theta": np.pi / 2},
            np.hypot((X - 30) / 6, (Y - 20) / 15) <= 1,
        ),
    ],
)
def test_each_shape_is_its_definition(tmp_path: Path, shape: Any, expected: Any) -> None:
    point = region({"name": "point", "cx": 1, "cy": 1})
    export(tmp_path / "src/a.json", [region(shape), point])
    done = imported("via", tmp_path)
    assert done.classes == ("background", "foreground")
    assert "1 point left out: points mark no pixels" in done.notes
    assert ((only_mask(tmp_path) == 1) == expected).mean() > 0.999


@pytest.mark.parametrize(
    "attributes",
    [
        {"text": "x", "Class": "cat"},
        {"form": "", "animal": {"cat": True, "dog": False}},
        {"object_name": " cat ", "id": "7"},
    ],
)
def test_the_attribute_that_tells_classes(tmp_path: Path, attributes: dict[str, Any]) -> None:
    export(tmp_path / "src/a.json", [region(rect(1, 1, 9, 9), **attributes)])
    assert imported("via", tmp_path).classes == ("background", "cat")


def test_folders_of_splits_and_images_without_regions(tmp_path: Path) -> None:
    for split in ("train", "val"):
        export(tmp_path / f"src/{split}/via_region_data.json", REGIONS)
    point = region({"name": "point", "cx": 1, "cy": 1})
    export(tmp_path / "src/more/a.json", [point], name="b.jpg")
    done = imported("via", tmp_path)
    assert set(splits_in(tmp_path / "out").values()) == {"train", "val"}
    assert "1 image without regions left out: VIA lists all that were opened" in done.notes
    assert "1 point left out: points mark no pixels" in done.notes


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1]}, "no lists of x and y"),
        ({"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]}, "has 2 points"),
        ({"name": "circle", "cx": 1, "cy": None, "r": 2}, "its cy is None, expected a number"),
        ({"name": "cube"}, "region 0: its shape 'cube' is not known"),
    ],
)
def test_wrong_regions_are_named(tmp_path: Path, shape: Any, message: str) -> None:
    export(tmp_path / "src/a.json", [region(shape)])
    assert message in wrong("via", tmp_path)


def test_other_files(tmp_path: Path) -> None:
    export(tmp_path / "src/a.json", REGIONS)
    (tmp_path / "src/a.jpg").unlink()
    assert "no such image: a.jpg" in wrong("via", tmp_path)
    (tmp_path / "src/a.json").write_text('{"a": {"filename": 1, "regions": []}}')
    assert "a.json is not what this format has" in wrong("via", tmp_path)
    (tmp_path / "src/a.json").write_text("{}")
    assert not recognises(tmp_path / "src")
    assert "no annotations of VIA found" in wrong("via", tmp_path)
