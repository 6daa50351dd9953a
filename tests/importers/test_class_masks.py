"""One mask file for each class, in the layouts that labelling tools and data sets have."""

from pathlib import Path

import numpy as np
import pytest

from tests.importers.exports import (
    BOXES,
    SIZE,
    imported,
    masks_in,
    only_mask,
    photo,
    truth,
    wrong,
)
from unetseg.data.files.pngs import write_png
from unetseg.importers import instances
from unetseg.importers.class_masks import recognises

LAYOUTS = {
    "suffix": ("images/{}.jpg", "masks/{}_class_{}.png"),
    "beside": ("{}.jpg", "{}_{}.png"),
    "folders": ("images/{}.jpg", "masks/{1}/{0}.png"),
    "folders and suffixes": ("Original Images/{}.jpg", "Ground Truths/1. {1}/{0}_{1}.png"),
    "splits": ("train/images/{}.jpg", "train/masks/{}_{}.png"),
}


def export(folder: Path, layout: str, name: str = "IMG_0001") -> None:
    image, mask = LAYOUTS[layout]
    photo(folder / image.format(name), SIZE)
    for word, box in BOXES:
        write_png(folder / mask.format(name, word), truth([(word, box)], (word,)) * 255)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout(tmp_path: Path, layout: str) -> None:
    names = ["IMG_0001", "IMG_0010"]
    for name in names:
        export(tmp_path / "src", layout, name)
    assert recognises(tmp_path / "src")
    assert not instances.recognises(tmp_path / "src")
    done = imported("classes", tmp_path)
    assert done.classes == ("background", "cat", "dog")
    masks = masks_in(tmp_path / "out")
    assert sorted(name.rpartition("/")[2] for name in masks) == names
    assert all((mask == truth()).all() for mask in masks.values())  # small ones on top
    assert all(name.startswith("train/") == (layout == "splits") for name in masks)


def test_names_of_numbered_objects_may_say_classes(tmp_path: Path) -> None:
    for name in "ab":
        photo(tmp_path / f"src/images/{name}.jpg", SIZE)
        for number in (1, 2):
            for word, box in BOXES:
                path = tmp_path / f"src/masks/{name}/{number:04}_{word}.png"
                write_png(path, truth([(word, box)], (word,)) * 255)
    done = imported(None, tmp_path)
    assert done.classes == ("background", "cat", "dog")
    assert all((mask == truth()).all() for mask in masks_in(tmp_path / "out").values())


@pytest.mark.parametrize("words", [("1stHO", "2ndHO"), ("label", "fov"), ("seg", "color")])
def test_observers_and_fields_of_view_are_no_classes(
    tmp_path: Path, words: tuple[str, str]
) -> None:
    for name in "ab":
        photo(tmp_path / f"{name}.jpg", SIZE)
        for word in words:
            write_png(tmp_path / f"{name}_{word}.png", truth())
    assert not recognises(tmp_path)
    assert not instances.recognises(tmp_path)


def test_folders_of_masks_of_other_images_are_no_classes(tmp_path: Path) -> None:
    for kit in ("red", "blue"):
        for name in "ab":
            photo(tmp_path / f"{kit}/{kit}_images/{name}.jpg", SIZE)
            write_png(tmp_path / f"{kit}/{kit}_masks/{name}.png", truth())
    assert not recognises(tmp_path)


def test_a_class_may_be_missing_from_an_image_and_images_may_be_elsewhere(tmp_path: Path) -> None:
    export(tmp_path / "src", "folders", "a")
    (tmp_path / "src/images").rename(tmp_path / "photos")
    (tmp_path / "src/masks").rename(tmp_path / "classes")
    (tmp_path / "src").rmdir()
    (tmp_path / "classes").rename(tmp_path / "src")
    (tmp_path / "src/dog/a.png").unlink()
    write_png(tmp_path / "src/dog/b.png", np.zeros(SIZE, np.uint8))
    photo(tmp_path / "photos/b.jpg", SIZE)
    done = imported("classes", tmp_path, images=tmp_path / "photos")
    assert done.classes == ("background", "cat", "dog")
    assert (masks_in(tmp_path / "out")["a"] == truth(BOXES[:1])).all()


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    export(tmp_path / "src", "suffix", "a")
    write_png(tmp_path / "src/masks/a_mask.png", truth())
    assert not recognises(tmp_path / "src")
    assert "no class in the name: masks/a_mask.png" in wrong("classes", tmp_path)
    write_png(tmp_path / "src/masks/b_cat.png", truth())
    photo(tmp_path / "src/images/c.jpg", SIZE)
    write_png(tmp_path / "src/masks/a_mask.png", truth())
    text = wrong("classes", tmp_path)
    assert "no such image: masks/b_cat.png" in text
    assert "no masks: c" in text
    (tmp_path / "src/masks/a_mask.png").unlink()
    imported("classes", tmp_path, on_bad="skip")
    assert (only_mask(tmp_path) == truth()).all()
