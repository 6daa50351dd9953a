"""Lists of names are the splits, whatever their lines look like; one that is not used is told."""

import errno
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from unetseg.data.pairs.lists import Listed, listed_splits
from unetseg.data.pairs.match import find_pairs

NAMES = ("a 1", "b 2", "c.0", "d", "e", "f")
TRAIN, VAL = NAMES[:4], NAMES[4:]


def listed(root: Path, lists: Mapping[str, str], names: tuple[str, ...] = NAMES) -> Listed:
    for name, text in lists.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode("utf-8-sig"))
    pairs = [[f"images/{name}.jpg", f"masks/{name}_m.png", name] for name in names]
    return listed_splits(root, pairs, ["images/no mask.jpg", "colours/a 1.png"])


def lines(form: str, names: tuple[str, ...], end: str = "\n") -> str:
    return end.join(form.format(name) for name in names) + end


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "{}.jpg",
        "{}.PNG",
        "{}_m.png",
        "images/{}.jpg",
        "./images/{}.jpg",
        "/home/me/data set/images/{}.jpg",
        "C:\\data set\\images\\{}.jpg",
        "images/{}.jpg masks/{}_m.png",
        "/JPEGImages/{}.jpg /Annotations/{}.png",
        "images/{}.jpg,masks/{}_m.png",
        '"images\\{}.jpg";"masks\\{}_m.png"',
        "7,images/{}.jpg",
        "{} 1 3 2",
        "{}.jpg\t2",
        "{}  -1",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_of_every_kind_name_their_pairs(tmp_path: Path, form: str, end: str) -> None:
    form = form.replace("{}", "{0}")
    lists = {"train.txt": lines(form, TRAIN, end), "val.txt": lines(form, VAL, end)}
    splits, told = listed(tmp_path, lists)
    assert splits == ["train"] * 4 + ["val"] * 2
    assert told == "split by train.txt, val.txt"


BOTH = lines("{}", NAMES)
SPLIT = {"train": lines("{}", TRAIN), "val": lines("{}", VAL)}
OTHER = {"train": lines("{}", NAMES[2:]), "val": lines("{}", NAMES[:2])}


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({"val_list.txt": SPLIT["val"]}, "ttttvv"),
        ({"trainval.txt": SPLIT["train"], "test.txt": SPLIT["val"]}, "ttttss"),
        (
            {"l/train.txt": SPLIT["train"], "l/val.txt": SPLIT["val"], "l/trainval.txt": BOTH},
            "ttttvv",
        ),
        ({"train/train.lst": SPLIT["train"], "val/val.lst": SPLIT["val"]}, "ttttvv"),
        ({"train.txt": "a 1\nb 2\n", "val.txt": "c.0\n"}, "ttv---"),
        # of a part of the published set, of which each list names more
        ({"train.txt": SPLIT["train"] + "more\n" * 40, "val.txt": SPLIT["val"]}, "ttttvv"),
        ({"train.txt": SPLIT["train"], "val.txt": SPLIT["val"], "cat_train.txt": BOTH}, "ttttvv"),
        ({"train.txt": BOTH}, "------"),
        ({"test.txt": "f\n"}, "ttttts"),  # few, but nothing is left out
    ],
)
def test_lists_that_are_the_split(tmp_path: Path, lists: dict[str, str], expected: str) -> None:
    letters = {"t": "train", "v": "val", "s": "test", "-": None}
    splits, told = listed(tmp_path, lists)
    assert splits == [letters[letter] for letter in expected]
    assert "not used" not in told


def test_lists_for_masks_count_where_folders_of_lists_differ(tmp_path: Path) -> None:
    sets = {"Main": OTHER, "Segmentation": SPLIT}
    lists = {f"ImageSets/{k}/{n}.txt": text for k, v in sets.items() for n, text in v.items()}
    splits, told = listed(tmp_path, lists)
    assert splits == ["train"] * 4 + ["val"] * 2
    assert "ImageSets/Main/train.txt is not used, because another folder holds lists" in told


@pytest.mark.parametrize(
    ("lists", "why"),
    [
        ({"train.txt": "a 1\n" + "gone\n" * 9}, "of its 10 lines 1 name files of this folder"),
        ({"train.txt": "a 1\nb 2\n"}, "no list of another split is with it"),
        ({"train.txt": "a 1\n", "val.txt": "a 1\nb 2\n"}, "some images are in several splits"),
        ({"train.txt": "a 1\n", "val.txt": ""}, "no list of another split is with it"),
        (
            {
                f"{fold}/{n}.txt": t
                for fold, v in (("1", SPLIT), ("2", OTHER))
                for n, t in v.items()
            },
            "some images are in several splits",
        ),
    ],
)
def test_lists_that_are_not_used_are_told(tmp_path: Path, lists: dict[str, str], why: str) -> None:
    splits, told = listed(tmp_path, lists)
    assert splits == [None] * 6
    assert f"train.txt is not used, because {why}" in told


def test_a_column_tells_the_split(tmp_path: Path) -> None:
    rows = [f"{name}.jpg,3,{'Train' if name in TRAIN else 'valid'}" for name in NAMES]
    splits, told = listed(tmp_path, {"about/meta.csv": "\n".join(["image_id,age,split", *rows])})
    assert splits == ["train"] * 4 + ["val"] * 2
    assert told == "split by about/meta.csv"
    rows[0] = "a 1.jpg,3,fold1"
    text = "\n".join(["image_id,age,split", *rows])
    assert listed(tmp_path, {"about/meta.csv": text}).splits == [None] * 6


@pytest.mark.parametrize(
    ("lists", "told"),
    [
        (SPLIT, ""),
        ({"trainval": BOTH}, ""),
        ({"train": "gone\n" * 9 + "f\n"}, ""),
        ({"val": lines("{}", VAL[:1])}, ""),
        (OTHER, "split by folders, not by train.txt, val.txt, where 4 pairs would change sides"),
        ({"test": "a 1"}, "split by folders, not by test.txt, where 1 pair would change sides"),
    ],
)
def test_folders_count_and_lists_that_differ_are_told(
    tmp_path: Path, lists: dict[str, str], told: str
) -> None:
    for name in NAMES:
        for side in ("images", "masks"):
            folder = tmp_path / side / ("train" if name in TRAIN else "val")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.png").write_bytes(b"not looked at")
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    found = find_pairs(tmp_path)
    assert [pair.split for pair in found.pairs] == ["train"] * 4 + ["val"] * 2
    assert found.rule.split("; ")[1:] == ([told] if told else [])


def test_lists_in_a_folder_of_one_split_are_the_split(tmp_path: Path) -> None:
    for name in NAMES:
        for side in ("images", "masks"):
            (tmp_path / "training" / side).mkdir(parents=True, exist_ok=True)
            (tmp_path / "training" / side / f"{name}.png").write_bytes(b"not looked at")
    for name, text in SPLIT.items():
        (tmp_path / "training" / f"{name}.txt").write_text(text)
    assert [p.split for p in find_pairs(tmp_path).pairs] == ["train"] * 4 + ["val"] * 2


def test_lists_in_utf_16_are_read(tmp_path: Path) -> None:
    for split, text in SPLIT.items():
        (tmp_path / f"{split}.txt").write_bytes(text.encode("utf-16"))
    assert listed(tmp_path, {}).splits == ["train"] * 4 + ["val"] * 2


def test_lists_that_may_not_be_looked_at_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed(tmp_path, {"train.txt": BOTH, "table.csv": "image,split\na 1.jpg,train\n"})

    def refuse(*_: object, **_more: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("is_file", "open"):  # as in a folder whose names alone may be read
        monkeypatch.setattr(Path, name, refuse)
    assert listed(tmp_path, {}) == ([None] * 6, "")


def test_lists_of_few_pairs_leave_no_pair_out(tmp_path: Path) -> None:
    names = tuple(f"x{n}" for n in range(20))
    splits, told = listed(tmp_path, {"train.txt": "x1\nx2", "test.txt": "x3"}, names)
    assert splits == [None] * 20
    assert "because the lists name 3 of 20 pairs" in told


def test_equal_names_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("train.txt", "val.txt"):
        (tmp_path / name).write_text("data/p1/image.png\n" if name == "train.txt" else "p2/image")
    for patient in ("p1", "p2"):
        (tmp_path / patient).mkdir()
        for side in ("image", "mask"):
            (tmp_path / patient / f"{side}.png").write_bytes(b"not looked at")
    found = find_pairs(tmp_path)
    assert {pair.image.parent.name: pair.split for pair in found.pairs} == {
        "p1": "train",
        "p2": "val",
    }
    assert found.rule.endswith("; split by train.txt, val.txt")


@pytest.mark.long
@pytest.mark.parametrize("form", ["images/{:06d}.jpg masks/{:06d}.png", "p{}/image.png 1"])
def test_a_hundred_thousand_lines_take_seconds(tmp_path: Path, form: str) -> None:
    form = form.replace("{:06d}", "{0:06d}")
    names = [[form.format(n).split()[0]] for n in range(100_000)]
    (tmp_path / "train.txt").write_text("\n".join(form.format(n) for n in range(90_000)))
    (tmp_path / "val.txt").write_text("\n".join(form.format(n) for n in range(90_000, 100_000)))
    began = time.process_time()
    splits = listed_splits(tmp_path, names).splits
    assert time.process_time() - began < 10
    assert (splits.count("train"), splits.count("val")) == (90_000, 10_000)


def test_lists_in_linked_folders_are_read(tmp_path: Path) -> None:
    root, store = tmp_path / "root", tmp_path / "store"
    root.mkdir()
    store.mkdir()
    for split, text in SPLIT.items():
        (store / f"{split}.txt").write_text(text)
    (root / "ImageSets").symlink_to(store, target_is_directory=True)
    (store / "loop").symlink_to(root, target_is_directory=True)
    splits, told = listed(root, {})
    assert splits == ["train"] * 4 + ["val"] * 2
    assert told == "split by ImageSets/train.txt, ImageSets/val.txt"


def test_lists_in_the_encoding_of_old_windows_are_read(tmp_path: Path) -> None:
    names = (*NAMES[:5], "Größe")
    for split, part in (("train", names[:4]), ("val", names[4:])):
        (tmp_path / f"{split}.txt").write_bytes(lines("{}", part).encode("cp1252"))
    assert listed(tmp_path, {}, names).splits == ["train"] * 4 + ["val"] * 2


def test_a_split_column_in_the_encoding_of_old_windows_counts(tmp_path: Path) -> None:
    names = (*NAMES[:5], "Größe")
    rows = [f"{name}.jpg;{'train' if name in TRAIN else 'val'}" for name in names]
    (tmp_path / "metadata.csv").write_bytes("\n".join(["Bild;split", *rows]).encode("cp1252"))
    assert listed(tmp_path, {}, names).splits == ["train"] * 4 + ["val"] * 2


def test_lists_tell_the_rest_where_folders_tell_no_training(tmp_path: Path) -> None:
    for name in NAMES:
        for side in ("images", "masks"):
            folder = tmp_path / side / ("test" if name == "f" else "")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.png").write_bytes(b"not looked at")
    for split, part in (("train", NAMES[:2]), ("val", NAMES[2:5])):
        (tmp_path / f"{split}.txt").write_text(lines("{}", part))
    splits = [pair.split for pair in find_pairs(tmp_path).pairs]
    assert splits == ["train"] * 2 + ["val"] * 3 + ["test"]
