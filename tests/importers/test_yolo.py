"""YOLO: trees as Ultralytics, Roboflow and CVAT write them."""

from pathlib import Path

import pytest

from tests.importers.exports import (
    BOXES,
    SIZE,
    imported,
    only_mask,
    photo,
    splits_in,
    truth,
    write,
    yolo_text,
)
from unetseg.errors import DataError
from unetseg.importers.yolo import recognises

NAMES = "names:\n  0: cat\n  1: dog\n"
TREES = {
    "images/train/a.jpg": "labels/train/a.txt",
    "train/images/a_jpg.rf.4f.jpg": "train/labels/a_jpg.rf.4f.txt",
    "obj_train_data/a.png": "obj_train_data/a.txt",
    "images/a.jpg": "labels/a.txt",
}


def pair(folder: Path, image: str, text: str, label: str | None = None) -> None:
    photo(folder / image, SIZE)
    write(folder / (label or image.replace("images", "labels").rsplit(".", 1)[0] + ".txt"), text)


@pytest.mark.parametrize("image", TREES)
def test_each_tree(tmp_path: Path, image: str) -> None:
    pair(tmp_path / "src", image, yolo_text(BOXES[::-1]), TREES[image])
    write(tmp_path / "src/data.yaml", NAMES)
    assert recognises(tmp_path / "src")
    done = imported("yolo", tmp_path)
    assert done.classes == ("background", "cat", "dog")
    assert (only_mask(tmp_path) == truth()).all()  # small ones lie on top


@pytest.mark.parametrize(
    "described", ["train: ../train/images\nval: ../valid/images\n", "", "train: x\nval: [y, z]\n"]
)
def test_splits_by_folders(tmp_path: Path, described: str) -> None:
    for name in ("train/images/a.jpg", "train/images/b.jpg", "valid/images/c.jpg"):
        pair(tmp_path / "src", name, yolo_text(BOXES))
    write(tmp_path / "src/data.yaml", described + NAMES)
    imported("yolo", tmp_path)
    assert splits_in(tmp_path / "out") == {"train/a": "train", "train/b": "train", "val/c": "val"}


@pytest.mark.parametrize("suffix", ["jpg", "png"])  # of the images, and another one
def test_splits_by_lists(tmp_path: Path, suffix: str) -> None:
    for name in "abc":
        pair(tmp_path / "src", f"images/{name}.jpg", yolo_text(BOXES))
    write(tmp_path / "src/data.yaml", "train: train.txt\nval: val.txt\n" + NAMES)
    write(tmp_path / "src/train.txt", f"data/images/a.{suffix}\ndata/images/c.{suffix}\n")
    write(tmp_path / "src/val.txt", f"data/images/b.{suffix}\n")
    imported("yolo", tmp_path)
    assert splits_in(tmp_path / "out") == {"train/a": "train", "train/c": "train", "val/b": "val"}


@pytest.mark.parametrize(
    "line", ["data/images/{}/f.png", "./images/{}/f.png", r"C:\set\images\{}\f.png", "{}/f.png"]
)
def test_lists_tell_frames_of_one_name_apart(tmp_path: Path, line: str) -> None:
    for split in ("train", "val"):
        pair(tmp_path / "src", f"images/{split}/f.png", yolo_text(BOXES))
        write(tmp_path / f"src/{split}.txt", line.format(split))
    write(tmp_path / "src/data.yaml", "train: train.txt\nval: val.txt\n" + NAMES)
    imported("yolo", tmp_path)
    assert splits_in(tmp_path / "out") == {"train/f": "train", "val/f": "val"}


@pytest.mark.parametrize(
    ("file", "text", "classes"),
    [
        ("classes.txt", "cat\ndog\n", ("cat", "dog")),
        ("data.yaml", "nc: 2\nnames: ['cat', 'dog']\n", ("cat", "dog")),
        ("README.txt", "nothing", ("class 0", "class 1")),
    ],
)
def test_names_of_classes(tmp_path: Path, file: str, text: str, classes: tuple[str, ...]) -> None:
    pair(tmp_path / "src", "images/a.jpg", yolo_text(BOXES))
    write(tmp_path / "src" / file, text)
    assert imported("yolo", tmp_path).classes == ("background", *classes)


def test_images_without_texts_are_background_and_folders_without_any_are_left_out(
    tmp_path: Path,
) -> None:
    pair(tmp_path / "src", "images/train/a.jpg", yolo_text(BOXES))
    pair(tmp_path / "src", "images/train/b.jpg", "")
    photo(tmp_path / "src/images/train/c.jpg", SIZE)
    photo(tmp_path / "src/images/test/d.jpg", SIZE)
    done = imported("yolo", tmp_path)
    assert done.pairs == 3
    assert set(done.notes) == {
        "2 images without an object: all background",
        "1 image left out: no image of its folder has a label file",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.2 0.2\n", "boxes are no masks: labels/a.txt: line 1 is a box"),
        ("0 0.1 0.1 0.2 0.2\n0 1 2\n", "line 2 has 3 numbers that are no polygon"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.9\n", "line 1 has 8 numbers that are no polygon"),
        ("cat 0.1 0.1 0.2 0.2 0.3 0.3\n", "line 1 has words, expected numbers"),
        ("0 10 10 20 20 30 10\n", "corners outside, expected shares from 0 to 1"),
        ("0 nan 0.1 0.2 0.2 0.3 0.3\n", "corners outside"),
        ("7 0.1 0.1 0.2 0.2 0.3 0.3\n", "class without name: a"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    pair(tmp_path / "src", "images/a.jpg", text)
    pair(tmp_path / "src", "images/b.jpg", yolo_text(BOXES))
    write(tmp_path / "src/data.yaml", NAMES)
    with pytest.raises(DataError, match="1 problem") as caught:
        imported("yolo", tmp_path)
    assert message in str(caught.value)
    assert imported("yolo", tmp_path, on_bad="skip").pairs == 1


def test_boxes_alone_no_texts_and_no_image(tmp_path: Path) -> None:
    pair(tmp_path / "src", "images/a.jpg", "0 0.5 0.5 0.2 0.2\n")
    assert recognises(tmp_path / "src")
    with pytest.raises(DataError, match="1 label file and no polygon: boxes are no masks"):
        imported("yolo", tmp_path)
    (tmp_path / "src/labels/a.txt").unlink()
    assert not recognises(tmp_path / "src")
    with pytest.raises(DataError, match="no label files of YOLO found"):
        imported("yolo", tmp_path)
    write(tmp_path / "src/labels/b.txt", yolo_text(BOXES))
    write(tmp_path / "src/labels/a.txt", yolo_text(BOXES))
    with pytest.raises(DataError, match=r"no such image: labels/b\.txt"):
        imported("yolo", tmp_path)
    for names in ("7", "cat"):
        write(tmp_path / "src/data.yaml", f"names: {names}\n")
        with pytest.raises(DataError, match="no list of names"):
            imported("yolo", tmp_path)


def test_a_file_of_another_format_is_not_taken_for_the_texts_beside_it(tmp_path: Path) -> None:
    pair(tmp_path, "images/a.jpg", yolo_text(BOXES))
    assert recognises(write(tmp_path / "data.yaml", NAMES))
    assert not recognises(write(tmp_path / "instances.json", "{}"))


def test_another_yaml_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    pair(tmp_path / "src", "images/a.jpg", yolo_text(BOXES))
    write(tmp_path / "src/compose.yaml", "a: [")
    with pytest.raises(DataError, match=r"compose\.yaml is no YAML") as error:
        imported("yolo", tmp_path)
    assert "\n" not in error.value.offenders[0]  # it would be shown as \n
    write(tmp_path / "src/data.yaml", NAMES)
    assert imported("yolo", tmp_path).classes == ("background", "cat", "dog")


@pytest.mark.parametrize(
    "described",
    [
        "path: ../src\ntrain: images/one\nval: images/two\n",
        "path: /content/src\ntrain: images/one\nval: images/two\n",
        "train: /content/src/images/one\nval: /content/src/images/two\n",
    ],
)
def test_splits_by_paths_of_elsewhere(tmp_path: Path, described: str) -> None:
    for name in ("one/a", "one/b", "two/c"):
        pair(tmp_path / "src", f"images/{name}.jpg", yolo_text(BOXES))
    write(tmp_path / "src/data.yaml", described + NAMES)
    imported("yolo", tmp_path)
    splits = splits_in(tmp_path / "out").values()
    assert sorted(splits, key=str) == ["train", "train", "val"]
