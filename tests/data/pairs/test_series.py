"""Files become series: by folder words, by the part that makes twins, by suffix, by place."""

from pathlib import Path

import pytest

from unetseg.data.pairs.series import read_entries, split_series

ROOT = Path("data")


def series(*names: str) -> dict[frozenset[str], str]:
    """The files of each series, and what tells them from others of their folder."""
    entries = read_entries(ROOT, [ROOT / name for name in names])
    return {
        frozenset(entry.inner for entry in one.entries): one.kind for one in split_series(entries)
    }


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (["a.jpg", "a_mask.png", "b.jpg", "b_mask.png"], {"", "mask"}),
        (["1_rgb.png", "1_dem.png", "2_rgb.png", "2_dem.png"], {"rgb", "dem"}),
        (["img_1.png", "seg_1.png", "img_2.png", "seg_2.png"], {"img", "seg"}),
        (["a.jpg", "a.png", "b.jpg", "b.png"], {".jpg", ".png"}),
        (["a.jpg", "b.png", "c.jpeg"], {""}),
        (["a.jpg", "a.jpg___fuse.png", "b.jpg", "b.jpg___fuse.png"], {"", "fuse"}),
    ],
)
def test_twins_of_a_folder_are_series(names: list[str], kinds: set[str]) -> None:
    found = series(*names)
    assert len(found) == len(kinds)
    assert {kind.strip("_# ").removeprefix(".jpg___") for kind in found.values()} == kinds


@pytest.mark.parametrize(
    "sides",
    [
        (["images/1.png", "images/2.png"], ["masks/1.png", "masks/2.png"]),
        (["train/images/1.png", "val/images/2.png"], ["train/masks/1.png", "val/masks/2.png"]),
        (["p1/scan/1.png", "p2/scan/1.png"], ["p1/label/1.png", "p2/label/1.png"]),
        (["images/a/1.png", "images/b/1.png"], ["masks/a/1.png", "masks/b/1.png"]),
        (["left/1.png", "left/2.png"], ["right/1.png", "right/2.png"]),
    ],
)
def test_folders_with_a_role_or_rival_places_are_series(sides: tuple[list[str], list[str]]) -> None:
    assert set(series(*sides[0], *sides[1])) == {frozenset(side) for side in sides}


def test_splits_and_places_of_an_entry() -> None:
    (entry,) = read_entries(ROOT, [ROOT / "x/train/images/aachen/a_1.png"])
    assert (entry.split, entry.stem, entry.inner) == (
        "train",
        "a_1",
        "x/train/images/aachen/a_1.png",
    )
    one, other = read_entries(ROOT, [ROOT / "images/p 3/a.png", ROOT / "masks/p 3/a.png"])
    assert one.place == other.place
