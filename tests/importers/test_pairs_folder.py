"""The folder of pairs: whatever images are called, every pair is found again."""

import os
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.importers.exports import photo
from unetseg.data.masks.class_list import read_class_names
from unetseg.data.pairs.match import find_pairs
from unetseg.errors import DataError, MachineError, MaskError
from unetseg.importers.annotations import AnnotatedImage
from unetseg.importers.pairs_folder import (
    new_folder,
    pair_names,
    pin_pairs,
    refuse_used,
    unique_classes,
)

CLASSES = ("background", "cell")
MASK = np.zeros((2, 3), np.uint8)


def wanted(name: str, split: str | None = None, suffix: str = ".png") -> AnnotatedImage:
    return AnnotatedImage(Path(f"x{suffix}"), name, Path("unused"), split)


# Names

ORDINARY = (
    "a A masks labels images img train val Test data seg gt .. . c: 1 2 con .hidden a.b a_mask <b> "
    "* __MACOSX image_1"
)
ODD = ("", "ä", "a\u0308", "\udce4", "x y", "\x1b[31m", "a\nb", "a" * 250, "trailing. ")
WORDS = st.sampled_from([*ORDINARY.split(), *ODD])
NAMES = st.lists(WORDS, min_size=1, max_size=4).map("/".join)


@given(st.lists(st.tuples(NAMES, st.sampled_from([None, "train", "val"])), min_size=1, max_size=8))
def test_every_pair_is_found_again_whatever_its_name(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[str, str | None]]
) -> None:
    out = tmp_path_factory.mktemp("x")
    found = pair_names([wanted(name, split) for name, split in items])
    for path in (out / side / f"{name}.png" for name in found for side in ("images", "masks")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
    pin_pairs(out, [(f"images/{name}.png", f"masks/{name}.png") for name in found])
    again = find_pairs(out).pairs
    couples = {
        (pair.image.relative_to(out / "images"), pair.mask.relative_to(out / "masks"))
        for pair in again
        if pair.mask
    }
    assert couples == {(Path(f"{name}.png"),) * 2 for name in found}
    splits = {pair.split for pair in again}
    assert len(splits) == 1 or (None not in splits and "train" in splits)
    shutil.rmtree(out)


@given(st.lists(NAMES, min_size=1, max_size=8))
def test_names_are_safe_and_differ_everywhere(names: list[str]) -> None:
    found = pair_names([wanted(name) for name in names])
    folded = {unicodedata.normalize("NFC", name).casefold() for name in found}
    assert len(folded) == len(names)
    for place in found:
        parts = place.split("/")
        assert all(part and len(part.encode()) < 250 for part in parts)
        assert not any(part.startswith(".") or part.endswith((".", " ")) for part in parts)
        assert place.isprintable()
        assert not set(place) & set('<>:"|?*\\')


@given(st.text(alphabet="abc123_- é", min_size=1, max_size=20).filter(lambda t: t == t.strip()))
def test_ordinary_names_are_kept(name: str) -> None:
    assert pair_names([wanted(f"north/{name}")]) == [f"north/{name}"]


@pytest.mark.parametrize(
    ("images", "names"),
    [  # splits stand first if all have one and some train
        ([("train2017/a", "train"), ("val2017/a", "val")], ["train/train2017/a", "val/val2017/a"]),
        ([("train/a",), ("Valid/b",)], ["train/a", "val/b"]),
        ([("a", "val"), ("b", "test")], ["a", "b"]),
        ([("val/a",), ("b",)], ["val_set/a", "b"]),
        # equal names get their suffix and then numbers
        ([("a", "train"), ("a",)], ["a", "a_png"]),
        ([("a", None, s) for s in (".png", ".jpg", ".jpg", ".jpg")], ["a", "a_jpg", "a_2", "a_3"]),
        # a folder is not called like a file beside it, and does not say mask
        ([("a",), ("a.png/b",)], ["a", "a_png/b"]),
        ([("labels/north/a_mask",)], ["north/a_mask"]),
    ],
)
def test_names_of_pairs(images: list[tuple[Any, ...]], names: list[str]) -> None:
    assert pair_names([wanted(*image) for image in images]) == names


def test_many_equal_names_are_numbered_in_no_time() -> None:
    count = 20_000
    assert len(set(pair_names([wanted("x" * 200)] * count))) == count


# Classes


@pytest.mark.long
@given(st.lists(st.text(max_size=12), min_size=2, max_size=6))
@example(["0 0", "0 0"])
def test_class_names_survive_classes_txt(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    classes = unique_classes(names)
    path = tmp_path_factory.getbasetemp() / "classes.txt"
    path.write_text("".join(f"{code} {name}\n" for code, name in enumerate(classes)))
    read = read_class_names(path)
    assert [(entry.code, entry.name) for entry in read.entries] == list(enumerate(classes))
    assert all(entry.colour is None for entry in read.entries)


@given(st.text(alphabet="1 2#,;:ab", max_size=9))
def test_names_like_numbers_colours_and_comments_survive(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "classes.txt"
    (found,) = unique_classes([name])
    path.write_text(f"3 {found}\n")
    (entry,) = read_class_names(path).entries
    assert (entry.code, entry.name) == (3, found)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["sky", "tree, small", "#1"], ["sky", "tree, small", "_1"]),
        (["a", "x 1 2 3", "1 2 y"], ["a", "x_1_2_3", "1_2_y"]),
        (["a", "a", "a"], ["a", "a 2nd", "a 3rd"]),
        (["a", " b\t c ", "\n"], ["a", "b c", "class 2"]),
    ],
)
def test_names_that_a_list_cannot_hold_are_changed_as_little_as_may_be(
    names: list[str], expected: list[str]
) -> None:
    assert list(unique_classes(names)) == expected


# The folder


def add(out: Path, image: Path, mask: NDArray[np.uint8], classes: Sequence[str] = CLASSES) -> None:
    with new_folder(out, classes) as target:
        target.add("a", image, mask)
        target.finish({})


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    image = photo(tmp_path / "one.png", (2, 3))

    def spoil() -> None:
        with new_folder(tmp_path / "out", CLASSES) as target:
            target.add("a", image, MASK)
            assert len(list(tmp_path.rglob("*.png"))) == 3
            raise KeyError

    with pytest.raises(KeyError):
        spoil()
    assert list(tmp_path.iterdir()) == [image]


def test_what_is_there_is_never_touched(tmp_path: Path) -> None:
    image = photo(tmp_path / "out/mine.png", (2, 3))
    with pytest.raises(MachineError, match="holds something already"):
        add(tmp_path / "out", image, MASK)
    with pytest.raises(MachineError, match="is a file"):
        add(image, image, MASK)
    assert list((tmp_path / "out").iterdir()) == [image]


def test_an_empty_folder_may_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo(tmp_path / "one.png", (2, 3))
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    add(Path("out"), image, MASK)
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "classes.txt",
        "images",
        "import.json",
        "masks",
    ]


def test_codes_of_no_class_are_refused(tmp_path: Path) -> None:
    image = photo(tmp_path / "one.png", (2, 3))
    with pytest.raises(MaskError, match="the mask holds 2, 254; the classes end at 1"):
        add(tmp_path / "out", image, np.array([[0, 2, 254, 255]], np.uint8))
    with pytest.raises(MaskError, match="uint16 pixels"):
        add(tmp_path / "out", image, MASK.astype(np.uint16))


@pytest.mark.parametrize("count", [0, 1, 255, 1000])
def test_the_number_of_classes_has_limits(tmp_path: Path, count: int) -> None:
    classes = [str(i) for i in range(count)]
    with (
        pytest.raises(DataError, match=f"have {count} classes"),
        new_folder(tmp_path / "o", classes),
    ):
        pass


def test_a_pipe_is_no_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out")
    with pytest.raises(MachineError, match="is a file; an import needs a folder"):
        refuse_used(tmp_path / "out")
