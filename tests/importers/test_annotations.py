"""What names of classes and files say."""

import pytest

from unetseg.importers.annotations import class_codes, split_of


def test_the_background_comes_first_whatever_it_is_called() -> None:
    assert class_codes(["_background_", "b", "a"])[0] == ("background", "b", "a")
    assert class_codes(["b", "BG", "b"])[1] == {"b": 1, "BG": 0}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_val2017", "val"),
        ("train", "train"),
        ("validation", "val"),
        ("Testing", "test"),
        ("trainval", None),
        ("trainval2012", None),
        ("contest", None),
        ("_annotations.coco", None),
    ],
)
def test_splits_in_names(name: str, split: str | None) -> None:
    assert split_of(name) == split
