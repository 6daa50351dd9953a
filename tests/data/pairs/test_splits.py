"""Splits follow content, never order or path; groups and copies stay together."""

import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetseg.data.pairs.match import Pair, PairSet, find_pairs
from unetseg.data.pairs.splits import assign_splits, keep_share, read_splits, write_splits
from unetseg.errors import BundleError, ConfigError, PairingError
from unetseg.storage import content_hash


def digest(text: object) -> str:
    return sha256(str(text).encode()).hexdigest()


def make(splits: Sequence[str | None], groups: Sequence[str | None] | None = None) -> PairSet:
    groups = groups or [None] * len(splits)
    return PairSet(
        Path("root"),
        tuple(
            Pair(Path(f"{i}.png"), None, str(i), split, group)
            for i, (split, group) in enumerate(zip(splits, groups, strict=True))
        ),
        "",
    )


def split_of(
    pairs: PairSet, classes: Sequence[set[int]] | None = None, share: float = 0.2
) -> list[str]:
    hashes = [digest(pair.name) for pair in pairs.pairs]
    presence = [frozenset(c) for c in classes or [{0, 1}] * len(hashes)]
    assigned = assign_splits(pairs, hashes, presence, share)
    assert [replace(p, split=None) for p in assigned.pairs] == [
        replace(p, split=None) for p in pairs.pairs
    ]
    return [pair.split or "none" for pair in assigned.pairs]


@pytest.mark.long
@given(st.integers(2, 700), st.floats(0.01, 0.99))
def test_count_is_exact_without_groups(count: int, share: float) -> None:
    held_out = split_of(make([None] * count), share=share).count("val")
    assert held_out == min(max(round(count * share), 1), count - 1)


@st.composite
def folders(draw: st.DrawFn) -> tuple[PairSet, list[str], list[frozenset[int]]]:
    """Pairs with groups, classes and copies."""
    count = draw(st.integers(2, 40))
    column = st.lists(st.sampled_from([None, *"abcdefgh"]), min_size=count, max_size=count)
    names = draw(st.lists(st.integers(0, 30), min_size=count, max_size=count))
    shown = st.lists(st.frozensets(st.integers(0, 4)), min_size=count, max_size=count)
    pairs = make([None] * count, draw(column))
    return pairs, [digest(name) for name in names], draw(shown)


@given(folders(), st.floats(0.05, 0.5), st.randoms(use_true_random=False))
def test_order_and_paths_do_not_matter(
    folder: tuple[PairSet, list[str], list[frozenset[int]]], share: float, chance: random.Random
) -> None:
    pairs, hashes, presence = folder
    order = list(range(len(hashes)))
    chance.shuffle(order)
    moved = replace(
        pairs,
        root=Path("/elsewhere"),
        pairs=tuple(replace(pairs.pairs[i], image=Path(f"/else/{i}.tif")) for i in order),
    )
    try:
        first = assign_splits(pairs, hashes, presence, share)
    except ConfigError:
        with pytest.raises(ConfigError):
            assign_splits(moved, [hashes[i] for i in order], [presence[i] for i in order], share)
        return
    second = assign_splits(moved, [hashes[i] for i in order], [presence[i] for i in order], share)
    assert {p.name: p.split for p in first.pairs} == {p.name: p.split for p in second.pairs}


@pytest.mark.long
@given(folders(), st.floats(0.05, 0.5))
def test_groups_and_copies_stay_together(
    folder: tuple[PairSet, list[str], list[frozenset[int]]], share: float
) -> None:
    pairs, hashes, presence = folder
    try:
        assigned = assign_splits(pairs, hashes, presence, share).pairs
    except ConfigError:
        return
    splits = defaultdict(set)
    for pair, key in zip(assigned, hashes, strict=True):
        splits[key].add(pair.split)
        if pair.group is not None:
            splits[pair.group].add(pair.split)
    assert all(len(found) == 1 for found in splits.values())
    found = {pair.split for pair in assigned}
    assert found == {"train", "val"} or (found == {"train"} and len(set(hashes)) < len(hashes))


@pytest.mark.parametrize("size", [3, 10])
def test_groups_of_equal_size_fill_the_share(size: int) -> None:
    groups = [str(i // size) for i in range(size * 20)]
    splits = split_of(make([None] * len(groups), groups))
    assert splits.count("val") == size * 4


def test_groups_larger_than_the_share_still_give_validation() -> None:
    splits = split_of(make([None] * 10, ["big"] * 6 + ["small"] * 4), share=0.1)
    assert splits == ["train"] * 6 + ["val"] * 4


def test_a_single_group_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match="all 3 pairs are in one group") as error:
        split_of(make([None] * 3, ["a"] * 3))
    assert error.value.offenders == ["a"]


@pytest.mark.parametrize("count", [1, 4])
def test_one_image_trains_and_validates(count: int) -> None:
    pairs = make([None] * count)
    assigned = assign_splits(pairs, [digest("same")] * count, [frozenset({0})] * count, 0.5)
    assert {pair.split for pair in assigned.pairs} == {"train"}
    assert assigned.select("val") == assigned.select("train") == assigned.pairs


def test_nothing_to_split() -> None:
    assert split_of(make([])) == []


def test_adding_one_image_to_many_moves_at_most_one() -> None:
    count = 600
    before = split_of(make([None] * count))
    for more in range(count + 1, count + 12):
        after = split_of(make([None] * more))
        assert sum(a != b for a, b in zip(before, after, strict=False)) <= 1
        before = after


def test_a_share_is_carved_by_content_not_by_name() -> None:
    ordered = split_of(make([None] * 1000))
    assert 60 < ordered[:500].count("val") < 140


# Classes


def test_rare_classes_are_on_both_sides() -> None:
    classes = [
        {0, 1} | ({2} if i in {3, 77} else set()) | ({3} if i == 9 else set()) for i in range(100)
    ]
    splits = split_of(make([None] * 100), classes, share=0.1)
    assert Counter(splits) == {"val": 10, "train": 90}
    assert {splits[3], splits[77]} == {"train", "val"}


@given(st.integers(20, 120), st.integers(1, 9))
def test_empty_masks_are_shared_out_in_proportion(count: int, tenths: int) -> None:
    classes = [{0} if i % 10 < tenths else {0, 1} for i in range(count)]
    splits = split_of(make([None] * count), classes, share=0.25)
    held_out = sum(split == "val" and len(c) == 2 for split, c in zip(splits, classes, strict=True))
    share = sum(len(c) == 2 for c in classes) * 0.25
    assert abs(held_out - share) <= 1.5


def missing_classes(classes: Sequence[frozenset[int]], splits: Sequence[str | None]) -> int:
    """Classes of two images or more that only one of train and val shows."""
    sides = [
        {index for c, s in zip(classes, splits, strict=True) if s == split for index in c}
        for split in ("train", "val")
    ]
    shared = {index for index in range(6) if sum(index in c for c in classes) >= 2}
    return len(shared - (sides[0] & sides[1]))


@pytest.mark.long
@given(st.lists(st.frozensets(st.integers(0, 5), min_size=1), min_size=40, max_size=60))
def test_no_exchange_of_two_images_would_show_more_classes(classes: list[frozenset[int]]) -> None:
    splits = split_of(make([None] * len(classes)), [set(c) for c in classes])
    least = missing_classes(classes, splits)
    for a, b in itertools.combinations(range(len(classes)) if least else (), 2):
        exchanged = list(splits)
        exchanged[a], exchanged[b] = splits[b], splits[a]
        assert missing_classes(classes, exchanged) >= least


@pytest.mark.long
@given(st.lists(st.frozensets(st.integers(1, 5)), min_size=40, max_size=60))
def test_every_class_in_enough_images_is_validated(classes: list[frozenset[int]]) -> None:
    frequent = {c for c in range(1, 6) if sum(c in k for k in classes) > len(classes) // 5 + 1}
    classes = [c & frequent | {0} for c in classes]
    splits = split_of(make([None] * len(classes)), [set(c) for c in classes])
    assert missing_classes(classes, splits) == 0


def test_a_class_in_two_images_is_on_both_sides_among_many_others() -> None:
    # Three classes in two images each, chained: of the chain's four images, every other one.
    classes = [frozenset({0})] * 40 + [frozenset(c) for c in ({1}, {1, 2}, {2, 3}, {3})]
    splits = split_of(make([None] * len(classes)), [set(c) for c in classes])
    assert missing_classes(classes, splits) == 0


# The folder's own splits


def test_own_splits_are_kept() -> None:
    own = ["train", "val", "test", "train", "val"]
    assert split_of(make(own)) == own


def test_validation_is_carved_from_train_beside_a_test() -> None:
    splits = split_of(make(["train"] * 85 + ["test"] * 80))
    assert splits[85:] == ["test"] * 80
    assert Counter(splits[:85]) == {"train": 68, "val": 17}


def test_a_folder_of_train_alone_is_split() -> None:
    assert Counter(split_of(make(["train"] * 20))) == {"train": 16, "val": 4}


def test_pairs_without_split_among_others_are_listed() -> None:
    with pytest.raises(PairingError, match="some have none") as error:
        split_of(make(["train", None, "val", None]))
    assert error.value.offenders == ["1", "3"]
    assert "train: ['*']" in error.value.fix


def test_nothing_to_train_on() -> None:
    with pytest.raises(PairingError, match="all are for test and val"):
        split_of(make(["test", "val"]))


# The record


def test_record_is_found_again_by_content(tmp_path: Path) -> None:
    pairs = make(["train", "val", "test"])
    write_splits(tmp_path / "splits.json", pairs, ["a", "b", "c"])
    assert read_splits(tmp_path / "splits.json") == {"a": "train", "b": "val", "c": "test"}
    rows = json.loads((tmp_path / "splits.json").read_text())["pairs"]
    assert rows[1] == {"name": "1", "hash": "b", "split": "val"}


def test_what_was_trained_on_is_never_held_out(tmp_path: Path) -> None:
    write_splits(tmp_path / "s.json", make(["train", "test", "val", "test"]), ["a", "a", "b", "b"])
    assert read_splits(tmp_path / "s.json") == {"a": "train", "b": "val"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"pairs": [1]}',
        '{"pairs": null}',
        '{"pairs": [{"hash": "a"}]}',
        '{"pairs": [{"hash": "a", "split": "fold1"}]}',
    ],
)
def test_damaged_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(BundleError, match="splits"):
        read_splits(tmp_path / "splits.json")


def test_missing_record(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        read_splits(tmp_path / "splits.json")


# Real data

REAL = {
    "camvid": {"train": 82, "val": 30},
    "crackforest": {"train": 94, "val": 24},
    "cwfid": {"train": 6, "val": 1, "test": 5},
    "drive": {"train": 16, "val": 4},
    "dsb2018": {"train": 174, "val": 43},
    "glas256": {"train": 68, "val": 17, "test": 80},
    "hot_buildings_geotiff": {"train": 48, "val": 13},
    "isbi2012_em": {"train": 24, "val": 6},
    "nucseg_16bit": {"train": 23, "val": 6},
    "sen1floods11_sample": {"train": 1},
    "sen1floods11_tiles13band": {"train": 12, "val": 4},
    "tiny_ade20k": {"train": 2, "val": 1},
    "tiny_kvasir_jpgmask": {"train": 4, "val": 1},
    "tiny_voc_palette": {"train": 2, "val": 1},
}


@pytest.mark.parametrize("folder", REAL)
def test_real_folder(real_data: Path, folder: str) -> None:
    pairs = find_pairs(real_data / folder)
    hashes = [content_hash(pair.image) for pair in pairs.pairs]
    assigned = assign_splits(pairs, hashes, [frozenset({0, 1})] * len(hashes), 0.2)
    assert Counter(pair.split for pair in assigned.pairs) == REAL[folder]


@given(folders(), st.integers(2, 6))
def test_folds_are_disjoint_parts_of_whole_groups_that_make_all(
    folder: tuple[PairSet, list[str], list[frozenset[int]]], folds: int
) -> None:
    pairs, hashes, shown = folder
    parts = []
    try:
        for number in range(folds):
            fold = assign_splits(pairs, hashes, shown, 0.2, fold=f"{number}/{folds}")
            parts.append({pair.name for pair in fold.pairs if pair.split == "val"})
            assert {pair.split for pair in fold.pairs} == {"train", "val"}
    except ConfigError as error:
        assert "stay together" in str(error) or "one group" in str(error)  # noqa: PT017
        return
    assert sum(map(len, parts)) == len(pairs.pairs)
    assert set.union(*parts) == {pair.name for pair in pairs.pairs}
    for tie in (hashes, [pair.group or pair.name for pair in pairs.pairs]):
        for value in set(tie):
            together = {p.name for p, v in zip(pairs.pairs, tie, strict=True) if v == value}
            assert sum(not together.isdisjoint(part) for part in parts) == 1


def test_folds_keep_test_pairs_apart_and_share_out_val() -> None:
    pairs = make(["train"] * 6 + ["val"] * 3 + ["test"] * 2)
    hashes = [digest(pair.name) for pair in pairs.pairs]
    seen = []
    for number in range(3):
        fold = assign_splits(pairs, hashes, [frozenset()] * 11, 0.2, fold=f"{number}/3")
        splits = [pair.split for pair in fold.pairs]
        assert splits[-2:] == ["test", "test"]
        assert splits.count("val") == 3
        seen += [pair.name for pair in fold.pairs if pair.split == "val"]
    assert sorted(seen) == sorted(pair.name for pair in pairs.pairs[:9])


@given(folders(), st.floats(0.1, 0.9))
def test_a_share_of_the_training_pairs_leaves_validation_alone(
    folder: tuple[PairSet, list[str], list[frozenset[int]]], share: float
) -> None:
    pairs, hashes, shown = folder
    try:
        whole = assign_splits(pairs, hashes, shown, 0.2)
    except ConfigError:
        return
    part = keep_share(whole, hashes, shown, share)
    held_out = [pair for pair in whole.pairs if pair.split == "val"]
    assert [pair for pair in part.pairs if pair.split == "val"] == held_out
    trained = {pair.name for pair in part.pairs if pair.split == "train"}
    assert trained <= {pair.name for pair in whole.pairs if pair.split == "train"}
    assert trained
