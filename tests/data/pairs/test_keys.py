"""The strictest key that works pairs; splits are never crossed; numbers alone are the last."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from unetseg.data.pairs.keys import LOOSE, Matching, match
from unetseg.data.pairs.series import Entry, read_entries

ROOT = Path("data")


def entries(names: Sequence[str]) -> list[Entry]:
    return read_entries(ROOT, [ROOT / name for name in names])


def matched(images: Sequence[str], masks: Sequence[str]) -> Matching:
    every = entries([*images, *masks])
    return match(every[: len(images)], every[len(images) :])


RULES = [  # strictest first
    (["i/a.jpg", "i/b.jpg"], ["m/a.png", "m/b.png"]),
    (["i/A.jpg", "i/B.jpg"], ["m/a.png", "m/b.png"]),
    (["i/1_org.jpg", "i/2_org.jpg"], ["m/1_gt.png", "m/2_gt.png"]),
    (["i/s-7.jpg", "i/s-12.jpg"], ["m/truth of 007.png", "m/truth of 012.png"]),
]


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_pairs_what_belongs_together(rule: tuple[list[str], list[str]]) -> None:
    couples = [(a.inner, b.inner) for a, b in matched(*rule).couples]
    assert sorted(couples) == sorted(zip(*rule, strict=True))


def test_numbers_of_a_single_file_are_as_loose_as_those_of_many() -> None:
    images, masks = RULES[-1]
    assert matched(images[:1], masks[:1]).rule == matched(images, masks).rule


def test_a_raised_digit_is_no_number() -> None:
    found = matched(["i/m²-7.jpg", "i/m²-12.jpg"], ["m/of 1 ² 007.png", "m/of 1 ² 012.png"])
    assert len(found.couples) == 2


def test_rules_are_in_the_order_of_strictness() -> None:
    places = [matched(*rule).rule for rule in RULES]
    assert places == sorted(places)
    assert places[0] == 0
    assert places[-1] >= LOOSE


def test_equal_names_are_never_given_up_for_numbers() -> None:
    found = matched(["i/a1.png", "i/b1.png", "i/c2.png"], ["m/a1.png", "m/b1.png", "m/d2.png"])
    assert {image.stem for image, _ in found.couples} == {"a1", "b1"}


def test_splits_are_not_crossed() -> None:
    found = matched(["train/images/1.png", "val/images/2.png"], ["train/masks/2.png"])
    assert not found.couples


def test_a_split_on_one_side_only_is_no_hindrance() -> None:
    found = matched(["train/images/1.png", "val/images/2.png"], ["masks/1.png", "masks/2.png"])
    assert [(a.stem, b.stem, a.split) for a, b in found.couples] == [
        ("1", "1", "train"),
        ("2", "2", "val"),
    ]


def test_two_masks_for_a_key_are_a_crowd_and_no_pair() -> None:
    found = matched(["p/images/1.png"], ["p/masks/1/a.png", "p/masks/1/b.png"])
    assert not found.couples


def test_the_order_of_the_files_means_nothing() -> None:
    images, masks = [f"i/{n}_x.png" for n in range(9)], [f"m/{n}_y.png" for n in range(9)]
    couples = {(a.stem[0], b.stem[0]) for a, b in matched(images, masks[::-1]).couples}
    assert couples == {(str(n), str(n)) for n in range(9)}


def test_splits_that_names_say_are_not_crossed() -> None:
    images, masks = ([f"{side}_{n}.png" for n in range(1, 6)] for side in ("i/train", "m/test"))
    assert not matched(images, masks).couples
    assert len(matched(images, [f"m/train_{n}_gt.png" for n in range(1, 6)]).couples) == 5


def test_folders_that_one_side_alone_has_are_not_paired_with_one_another() -> None:
    images, masks = (
        [f"{side}/{place}/{n}.png" for place in places for n in range(3)]
        for side, places in (("images", ("bear", "camel")), ("masks", ("camel", "dog")))
    )
    couples = [(image.inner, mask.inner) for image, mask in matched(images, masks).couples]
    assert couples == [(f"images/camel/{n}.png", f"masks/camel/{n}.png") for n in range(3)]


def test_a_folder_that_one_side_alone_has_is_no_hindrance() -> None:
    images = ["images/site/a/1.png", "images/site/b/1.png", "images/more/2.png"]
    masks = ["masks/a/1.png", "masks/b/1.png", "masks/2.png"]
    assert len(matched(images, masks).couples) == 3


@pytest.mark.parametrize(
    ("other", "expected"), [("images/1.png", ["images/1.png"]), ("train/images/1.png", [])]
)
def test_a_mask_is_not_of_images_of_two_splits(other: str, expected: list[str]) -> None:
    found = matched(["test/images/1.png", other], ["masks/1.png"])
    assert [image.inner for image, _ in found.couples] == expected
