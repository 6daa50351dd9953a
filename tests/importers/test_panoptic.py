"""COCO panoptic: JSON and PNGs as panopticapi writes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.importers.exports import SIZE, imported, only_mask, photo, splits_in, truth, wrong
from unetseg.importers.panoptic import recognises

IDS = {1: 70000, 2: 300}
"""The number of the segment of each class of `truth`; 0 is no segment."""
CATEGORIES = [
    {"id": 5, "name": "cat", "isthing": 1},
    {"id": 9, "name": "dog", "isthing": 1},
    {"id": 20, "name": "sky", "isthing": 0},
]


def export(folder: Path, split: str = "val", **more: Any) -> None:
    """`panoptic_val2017.json`, the folder of its PNGs beside it, and the photo."""
    photo(folder / f"{split}2017/a.jpg", SIZE)
    numbers = np.zeros(SIZE, int)
    for code, number in IDS.items():
        numbers[truth() == code] = number
    colours = np.stack([numbers % 256, numbers // 256 % 256, numbers // 256**2], -1)
    png = folder / f"annotations/panoptic_{split}2017/a.png"
    png.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours.astype(np.uint8)).save(png)
    segments = [
        {"id": IDS[1], "category_id": 5, "iscrowd": 0, "area": 1},
        {"id": IDS[2], "category_id": 9, "iscrowd": 0, "area": 1},
    ]
    content = {
        "images": [{"id": 3, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"image_id": 3, "file_name": "a.png", "segments_info": segments}],
        "categories": CATEGORIES,
    } | more
    (folder / f"annotations/panoptic_{split}2017.json").write_text(json.dumps(content))


def segments(*entries: dict[str, int]) -> dict[str, Any]:
    return {"annotations": [{"image_id": 3, "file_name": "a.png", "segments_info": entries}]}


def test_segments_of_stuff_and_things(tmp_path: Path) -> None:
    export(tmp_path / "src")
    export(tmp_path / "src", "train")
    assert recognises(tmp_path / "src")
    done = imported("coco-panoptic", tmp_path)
    assert done.classes == ("cat", "dog", "sky")
    assert splits_in(tmp_path / "out") == {"train/a": "train", "val/a": "val"}
    assert done.counts.ignored == 2


@pytest.mark.parametrize("has_stuff", [True, False])
def test_what_is_no_segment_is_ignored_or_the_background_of_things(
    tmp_path: Path, has_stuff: bool
) -> None:
    export(tmp_path / "src", categories=CATEGORIES if has_stuff else CATEGORIES[:2])
    imported("coco-panoptic", tmp_path)
    expected = np.array([255, 0, 1] if has_stuff else [0, 1, 2], np.uint8)[truth()]
    assert (only_mask(tmp_path) == expected).all()


def test_crowds_are_ignored(tmp_path: Path) -> None:
    crowd = {"id": IDS[1], "category_id": 5, "iscrowd": 1}
    export(tmp_path / "src", **segments(crowd, {"id": IDS[2], "category_id": 9}))
    imported("coco-panoptic", tmp_path)
    assert (only_mask(tmp_path) == np.array([255, 255, 1], np.uint8)[truth()]).all()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (segments({"id": IDS[1], "category_id": 5}), "segments that the JSON does not tell: 300"),
        (segments({"id": IDS[1], "category_id": 6}), "unknown category: panoptic_val2017.json"),
        ({"images": []}, "annotation without image"),
        ({"images": [{"id": 3, "file_name": "x.jpg"}]}, "no such image: x.jpg"),
        (
            {"annotations": [{"image_id": 3, "file_name": "x.png", "segments_info": []}]},
            "no such PNG of segments: panoptic_val2017.json: x.png",
        ),
        ({"annotations": [{"segments_info": 3}]}, "is not what this format has"),
        ({"categories": 3}, "is not what this format has"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, more: Any, message: str) -> None:
    export(tmp_path / "src", **more)
    assert message in wrong("coco-panoptic", tmp_path)


def test_other_files(tmp_path: Path) -> None:
    export(tmp_path / "src")
    grey = Image.fromarray(np.zeros(SIZE, np.uint8))
    grey.save(tmp_path / "src/annotations/panoptic_val2017/a.png")
    assert "a.png has no colours, expected segments as RGB" in wrong("coco-panoptic", tmp_path)
    (tmp_path / "src/annotations/panoptic_val2017.json").write_text("{}")
    assert not recognises(tmp_path / "src")
    assert "no panoptic annotations of COCO found" in wrong("coco-panoptic", tmp_path)
