"""Roboflow: its export of masks, and those that other readers take."""

import json
from pathlib import Path

import numpy as np
import pytest

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
    yolo_text,
)
from unetseg.data.files.pngs import write_png
from unetseg.importers.roboflow import recognises

TABLE = "Pixel Value, Class\n0, background\n1, cat\n2, dog\n"


def export(folder: Path, mask: np.ndarray, table: str = TABLE) -> None:
    name = "a_jpg.rf.0f3e"
    photo(folder / f"{name}.jpg", SIZE)
    write_png(folder / f"{name}_mask.png", mask)
    write(folder / "_classes.csv", table)


def test_masks_of_each_split_by_their_own_table(tmp_path: Path) -> None:
    export(tmp_path / "src/train", truth())
    turned = "Pixel Value, Class\n0, background\n2, cat\n1, dog\n"
    export(tmp_path / "src/valid", np.array([0, 2, 1], np.uint8)[truth()], turned)
    assert recognises(tmp_path / "src")
    assert imported("roboflow", tmp_path).classes == ("background", "cat", "dog")
    assert all((mask == truth()).all() for mask in masks_in(tmp_path / "out").values())
    assert set(splits_in(tmp_path / "out").values()) == {"train", "val"}


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_exports_to_other_formats(tmp_path: Path, kind: str) -> None:
    if kind == "yolo":
        photo(tmp_path / "src/train/images/a.jpg", SIZE)
        write(tmp_path / "src/train/labels/a.txt", yolo_text(BOXES))
        write(tmp_path / "src/data.yaml", "names: [cat, dog]\n")
    else:
        photo(tmp_path / "src/train/a.jpg", SIZE)
        names = ["animals", "cat", "dog"]
        content = {
            "images": [{"id": 0, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
            "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
            "annotations": [
                {
                    "id": i,
                    "image_id": 0,
                    "category_id": names.index(name),
                    "segmentation": [np.ravel(corners(box)).tolist()],
                }
                for i, (name, box) in enumerate(BOXES)
            ],
        }
        write(tmp_path / "src/train/_annotations.coco.json", json.dumps(content))
    done = imported("roboflow", tmp_path)
    shift = done.classes.index("cat") - 1
    assert (only_mask(tmp_path) == np.where(truth(), truth() + shift, 0)).all()


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    export(tmp_path / "src/train", truth())
    write(tmp_path / "src/train/_classes.csv", "Pixel Value, Class\n0, background\n1, cat\n")
    assert "has numbers of no class: 2" in wrong("roboflow", tmp_path)
    write(tmp_path / "src/train/_classes.csv", "Pixel Value, Class\nx, cat\n")
    assert "_classes.csv has other lines than `number, name`" in wrong("roboflow", tmp_path)
    export(tmp_path / "src/train", truth())
    photo(tmp_path / "src/train/b.jpg", SIZE)
    write_png(tmp_path / "src/train/c_mask.png", truth())
    text = wrong("roboflow", tmp_path)
    assert "no such mask: train/b.jpg" in text
    assert "no such image: train/c_mask.png" in text
    for path in (tmp_path / "src/train").iterdir():
        path.unlink()
    assert not recognises(tmp_path / "src")
    assert "no masks with _classes.csv found" in wrong("roboflow", tmp_path)
