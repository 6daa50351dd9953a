"""COCO: whatever is wrong is listed, all of it, and nothing is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unetseg.data.pairs.match import find_pairs
from unetseg.errors import DataError
from unetseg.importers.importing import import_dataset

SIZE = (60, 80)


def write_image(path: Path, size: tuple[int, int] = SIZE, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.full((*size, 3), len(path.name), np.uint8))
    image.save(path, exif=exif) if path.suffix == ".jpg" else image.save(path)
    return path


def dataset(
    annotations: list[dict[str, Any]],
    names: tuple[str, ...] = ("a.png",),
    categories: dict[int, str] | None = None,
) -> dict[str, Any]:
    """COCO's layout: images numbered from 1, each 60×80."""
    return {
        "info": {"year": 2017},
        "images": [
            {"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
            for i, name in enumerate(names, 1)
        ],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "iscrowd": 0} | one
            for i, one in enumerate(annotations, 1)
        ],
        "categories": [
            {"id": i, "name": name, "supercategory": "x"}
            for i, name in (categories or {1: "cat"}).items()
        ],
    }


def write(folder: Path, content: object, name: str = "instances.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def box(x: float, y: float, x2: float, y2: float) -> list[float]:
    return [x, y, x2, y, x2, y2, x, y2]


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content = dataset([{"segmentation": [box(0, 0, 9, 9)]}] * 2)
    change(content)
    return content


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "missing image": (lambda c: c["images"][0].update(file_name="x.png"), "no such image: x.png"),
    "stray annotation": (
        lambda c: c["annotations"][0].update(image_id=7),
        "annotation without image: instances.json: 1 annotation of id 7",
    ),
    "two points": (
        lambda c: c["annotations"][1].update(segmentation=[[1, 1, 5, 5]]),
        "a: annotation 2: a polygon has 2 points, expected 3 or more",
    ),
    "odd": (lambda c: c["annotations"][0].update(segmentation=[[1, 1, 5, 5, 9, 9, 1]]), "odd"),
    "no numbers": (
        lambda c: c["annotations"][0].update(segmentation=[[1, 1, 5, 5, 9, float("nan")]]),
        "no numbers",
    ),
    "text": (lambda c: c["annotations"][0].update(segmentation="abc"), "neither polygons nor"),
    "unknown category": (
        lambda c: c["annotations"][1].update(category_id=4),
        "unknown category: a.png: annotation 2 has the category 4",
    ),
    "one box": (
        lambda c: c["annotations"][1].update(segmentation=[]),
        "no segmentation: a.png: annotation 2 has none; boxes are no masks",
    ),
    "runs of another size": (
        lambda c: c["annotations"][0].update(segmentation={"size": [8, 9], "counts": [72]}),
        "its run lengths are for [8, 9], the image has [60, 80]",
    ),
    "too few runs": (
        lambda c: c["annotations"][0].update(segmentation={"size": [60, 80], "counts": [72]}),
        "cover 72 pixels, expected 4800",
    ),
    "damaged runs": (
        lambda c: c["annotations"][0].update(segmentation={"size": [60, 80], "counts": "oo"}),
        "damaged",
    ),
    "another size": (
        lambda c: c["images"][0].update(width=81),
        "the annotations are for 60×81 pixels (height × width), the image has 60×80",
    ),
    "image twice": (lambda c: c["images"].append(c["images"][0]), "image id is there twice"),
    "file twice": (
        lambda c: c["images"].append(c["images"][0] | {"id": 2}),
        "image listed several times",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_is_listed_and_nothing_is_written(tmp_path: Path, fault: str) -> None:
    write_image(tmp_path / "src/a.png")
    change, text = WRONG[fault]
    write(tmp_path / "src", changed(change))
    with pytest.raises(DataError) as caught:
        import_dataset("coco", tmp_path / "src", tmp_path / "out")
    assert text in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_all_of_it_is_listed_at_once(tmp_path: Path) -> None:
    names = ("a.png", "b.png", "gone.png", "lost.png")
    content = dataset(
        [
            {"segmentation": [[1, 1, 2, 2]]},
            {"segmentation": [[1, 1]], "image_id": 2},
            {"segmentation": [box(0, 0, 9, 9)], "image_id": 2, "category_id": 66},
            {"segmentation": [box(0, 0, 9, 9)], "image_id": 77},
        ],
        names,
    )
    for name in names[:2]:
        write_image(tmp_path / "src" / name)
    write(tmp_path / "src", content)
    with pytest.raises(DataError) as caught:
        import_dataset("coco", tmp_path / "src", tmp_path / "out")
    for part in ("gone.png", "lost.png", "category 66", "id 77", "a: annotation 1", "5 problems"):
        assert part in str(caught.value)


def test_with_skip_images_with_faults_are_left_out_and_listed(tmp_path: Path) -> None:
    names = ("a.png", "b.png", "gone.png")
    content = dataset(
        [{"segmentation": [box(0, 0, 9, 9)]}, {"segmentation": [[1, 1]], "image_id": 2}], names
    )
    for name in names[:2]:
        write_image(tmp_path / "src" / name)
    write(tmp_path / "src", content)
    done = import_dataset("coco", tmp_path / "src", tmp_path / "out", on_bad="skip")
    assert done.pairs == 1
    assert sorted(str(problem) for problem in done.skipped) == [
        "cannot be drawn: b: annotation 2: a polygon has 1 points, expected 3 or more",
        "no such image: gone.png",
    ]
    record = json.loads((tmp_path / "out/import.json").read_text())
    assert record["skipped"] == [str(problem) for problem in done.skipped]
    assert [pair.name for pair in find_pairs(tmp_path / "out").pairs] == ["a"]


REFUSED = {
    "boxes are no masks": dataset([{"bbox": [1, 2, 3, 4]}, {"segmentation": []}]),
    "panoptic annotations are not read": {
        "images": [],
        "categories": [],
        "annotations": [{"image_id": 1, "segments_info": []}],
    },
    "annotations.0.image_id: Field required": {
        "images": [],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"category_id": 1}],
    },
    "no COCO annotations found": {"images": []},
    "category ids have several names": dataset([{"segmentation": [box(0, 0, 9, 9)]}])
    | {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
    "1 classes, the background counted": dataset([]) | {"categories": []},
}


@pytest.mark.parametrize("text", REFUSED)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    write_image(tmp_path / "src/a.png")
    write(tmp_path / "src", REFUSED[text])
    with pytest.raises(DataError, match=text):
        import_dataset("coco", tmp_path / "src", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"images": 3}', "\xff"])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "instances.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match="is not what this format has"):
        import_dataset("coco", tmp_path / "instances.json", tmp_path / "out")


def test_a_turned_photo_whose_annotations_are_not_turned_says_so(tmp_path: Path) -> None:
    write_image(tmp_path / "src/a.jpg", size=SIZE, orientation=6)  # upright: 80×60
    write(tmp_path / "src", dataset([{"segmentation": [box(0, 0, 9, 9)]}], ("a.jpg",)))
    with pytest.raises(DataError, match=r"the image has 80×60; .* EXIF orientation"):
        import_dataset("coco", tmp_path / "src", tmp_path / "out")


def test_more_classes_than_a_mask_can_hold(tmp_path: Path) -> None:
    many = dataset([], categories={i: f"c{i}" for i in range(1, 255)})
    write_image(tmp_path / "src/a.png")
    write(tmp_path / "src", many)
    with pytest.raises(DataError, match="255 classes, the background counted; from 2 to 254"):
        import_dataset("coco", tmp_path / "src", tmp_path / "out")
