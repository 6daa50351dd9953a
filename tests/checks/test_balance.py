"""Class balance in the check: empty masks, rare classes, ignored pixels, splits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetseg.checks.balance import inspect_balance
from unetseg.checks.finding import Finding
from unetseg.checks.tally import masks_of
from unetseg.data.facts.fingerprint import ImageFacts, PairFacts
from unetseg.data.facts.survey import Survey
from unetseg.data.masks.class_list import ClassNames, NamedClass, find_class_file, read_class_names
from unetseg.data.masks.class_map import IGNORED, ClassMap, Code
from unetseg.data.masks.infer_classes import infer_class_map
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.masks.mask_values import MaskFacts, mask_facts
from unetseg.data.pairs.match import Pair, PairSet, find_pairs
from unetseg.data.pairs.splits import assign_splits

IMAGE = ImageFacts(shape=(1, 1), dtype="uint8", mean=(0,), std=(0,), low=(0,), high=(0,))
GROUND_CELL = ClassNames((NamedClass("ground", 0), NamedClass("cell", 1)))


def facts(path: str, **counts: int) -> MaskFacts:
    """A mask with pixels of each code; `_1` is -1, `x7` is 7."""
    codes = [(-int(code[1:]) if code[0] == "_" else int(code[1:]), n) for code, n in counts.items()]
    shape = (1, sum(counts.values()))
    parts = {"path": path, "shape": shape, "coding": "integer", "dtype": "int16", "counts": codes}
    return MaskFacts.model_validate(parts)


def look(
    masks: Sequence[MaskFacts],
    splits: Sequence[str] = (),
    names: ClassNames | None = None,
    **more: Any,
) -> list[Finding]:
    class_map, _ = infer_class_map(masks, names=names, **more)
    pairs = tuple(
        Pair(Path(f"{mask.path}.jpg"), Path(mask.path), mask.path, split)
        for mask, split in zip(masks, splits or ["train"] * len(masks), strict=True)
    )
    return [*inspect_balance(survey_of(pairs, masks, class_map, names, own_splits=bool(splits)))]


def survey_of(
    pairs: Sequence[Pair],
    masks: Sequence[MaskFacts],
    classes: ClassMap,
    names: ClassNames | None = None,
    *,
    own_splits: bool = False,
) -> Survey:
    facts = {
        pair.name: PairFacts(hash=mask.path, image=IMAGE, mask=mask)
        for pair, mask in zip(pairs, masks, strict=True)
    }
    found = PairSet(Path(), tuple(pairs), "")
    return Survey(Path(), found, facts, classes, names, own_splits=own_splits)


def kinds(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(finding.severity, finding.check) for finding in findings]


def full(count: int, start: int = 0) -> list[MaskFacts]:
    return [facts(f"{start + place}.png", x0=8000, x1=2000) for place in range(count)]


def empty(count: int) -> list[MaskFacts]:
    return [facts(f"empty{place}.png", x0=10_000) for place in range(count)]


REAL: dict[str, list[tuple[str, str]]] = {
    "camvid": [("note", "class-balance")],
    "crackforest": [("note", "class-balance")],
    "cwfid": [("note", "class-balance")],
    "drive": [],
    "dsb2018": [],
    "glas256": [],
    "hot_buildings_geotiff": [("note", "empty-masks")],
    "isbi2012_em": [],
    "nucseg_16bit": [],
    "sen1floods11_sample": [],
    "sen1floods11_tiles13band": [],
    "tiny_ade20k": [("note", "class-balance"), ("warning", "rare-classes")],
    "tiny_kvasir_jpgmask": [],
    "tiny_voc_palette": [("warning", "rare-classes")],
}


def survey_masks(folder: Path) -> Survey:
    """The masks of a real folder, with its own splits or those that training draws."""
    listed = find_class_file(folder)
    names = read_class_names(listed) if listed else None
    found = find_pairs(folder)
    masks = [mask_facts(pair.mask) for pair in found.pairs if pair.mask]
    class_map, _ = infer_class_map(masks, names=names)
    present = [frozenset(class_map.index_of(c) for c, _ in m.counts) - {IGNORED} for m in masks]
    pairs = assign_splits(found, [mask.path for mask in masks], present, 0.2)
    own = any(pair.split for pair in found.pairs)
    return survey_of(pairs.pairs, masks, class_map, names, own_splits=own)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(REAL))
def test_real_folders(real_data: Path, name: str) -> None:
    assert kinds([*inspect_balance(survey_masks(real_data / name))]) == REAL[name]


def test_crackforest_has_its_published_share_of_cracks(real_data: Path) -> None:
    (finding,) = inspect_balance(survey_masks(real_data / "crackforest"))
    assert "background has 98.4% of the pixels, foreground 1.6%" in finding.summary
    (finding,) = inspect_balance(survey_masks(real_data / "hot_buildings_geotiff"))
    blank = [
        str(path)
        for path in sorted((real_data / "hot_buildings_geotiff" / "masks").rglob("*.tif"))
        if not read_mask(path).pixels.any()
    ]
    assert sorted(finding.files) == blank


def test_pixels_are_counted_as_training_sees_them(real_data: Path) -> None:
    for name in ("camvid", "cwfid", "sen1floods11_sample", "tiny_kvasir_jpgmask"):
        known = survey_masks(real_data / name)
        masks = masks_of(known)
        assert masks is not None
        for pair, row in [*zip(known.pairs.pairs, masks.pixels, strict=True)][:3]:
            assert pair.mask is not None
            index = masks.class_map.encode(read_mask(pair.mask).pixels)
            counts = np.bincount(index.ravel(), minlength=256)
            np.testing.assert_array_equal(row[:-1], counts[: len(row) - 1])
            assert row[-1] == counts[IGNORED]


# Empty and ignored masks


@given(st.integers(1, 12), st.integers(0, 30))
def test_empty_masks_are_listed(some: int, blank: int) -> None:
    found = look([*full(some), *empty(blank)])
    share = blank / (some + blank)
    expected = "warning" if share > 0.5 else "note"
    about = [finding for finding in found if finding.check == "empty-masks"]
    assert [finding.severity for finding in about] == ([expected] if blank else [])
    if blank:
        assert about[0].files == tuple(mask.path for mask in empty(blank))
        assert f"{blank} of {some + blank} masks" in about[0].summary


@pytest.mark.parametrize("first", ["background", "ground"])
def test_masks_without_any_object_are_an_error(first: str) -> None:
    names = ClassNames((NamedClass(first, 0), NamedClass("cell", 1)))
    found = look(empty(3), names=names)
    assert kinds(found) == [("error", "one-class"), ("warning", "absent-classes")]


def test_masks_that_are_ignored_throughout() -> None:
    mute = [facts(f"mute{place}.png", _1=10_000) for place in range(2)]
    (finding,) = look([*full(9), *mute])
    assert kinds([finding]) == [("warning", "ignored-masks")]
    assert finding.files == ("mute0.png", "mute1.png")
    assert ("error", "ignored-masks") in kinds(look(mute, names=GROUND_CELL))


@pytest.mark.parametrize(("ignored", "is_much"), [(9_000, False), (11_000, True), (90_000, True)])
def test_mostly_ignored_pixels_are_a_warning(ignored: int, is_much: bool) -> None:
    found = look([facts(f"{i}.png", x0=8000, x1=2000, x255=ignored) for i in range(4)])
    assert kinds(found) == ([("warning", "ignored-pixels")] if is_much else [])
    if is_much:
        share = ignored / (ignored + 10_000)
        assert found[0].files[0] == f"0.png: {share:.1%}"


def test_an_ignored_mask_is_not_empty() -> None:
    assert look([*full(3), facts("a.png", x0=9, _1=1), facts("b.png", _1=9)])[-1].files == (
        "a.png",
    )


# Classes


def test_classes_of_the_list_that_no_mask_shows() -> None:
    entries = [
        NamedClass(name, code) for code, name in enumerate(("ground", "cell", "crack", "hole"))
    ]
    (finding,) = look(full(5), names=ClassNames(tuple(entries)))
    assert kinds([finding]) == [("warning", "absent-classes")]
    assert "2 of 4 classes of the class list are in no mask: crack, hole" in finding.summary


@pytest.mark.parametrize(
    ("pixels", "checks"),
    [
        (600, []),
        (300, ["class-balance"]),
        (30, ["class-balance"]),
        (8, ["rare-classes"]),
    ],
)
def test_rare_classes_are_told_with_their_masks(pixels: int, checks: list[str]) -> None:
    masks = [facts(f"{i}.png", x0=9000, x1=1000 - pixels // 2, x2=pixels) for i in range(4)]
    found = look(masks)
    assert [finding.check for finding in found] == checks
    if checks == ["rare-classes"]:
        assert kinds(found) == [("note", "rare-classes")]
        assert found[0].files == tuple(f"{i}.png: 2 (8 px)" for i in range(4))


@pytest.mark.parametrize(
    ("holders", "count", "is_rare"), [(1, 5, True), (2, 5, True), (3, 9, False), (1, 2, False)]
)
def test_classes_in_one_or_two_masks(holders: int, count: int, is_rare: bool) -> None:
    masks = [facts(f"{i}.png", x0=8000, x1=1000, x2=1000) for i in range(holders)]
    found = look([*masks, *full(count - holders, start=holders)])
    about = [finding for finding in found if finding.check == "rare-classes"]
    assert [finding.severity for finding in about] == (["warning"] if is_rare else [])
    if is_rare:
        assert about[0].files == tuple(f"{i}.png: 2 (1000 px)" for i in range(holders))


def test_slips_are_no_rare_classes() -> None:
    odd = facts("odd.png", x0=8000, x255=2000, x254=2)
    assert look([*(facts(f"{i}.png", x0=8000, x255=2000) for i in range(9)), odd]) == []


# Splits


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_classes_that_a_split_lacks(split: str) -> None:
    splits = ["train", "val", "test"] * 4
    masks = [
        facts(f"{i}.png", x0=8000, x1=1000, **({} if held == split else {"x2": 1000}))
        for i, held in enumerate(splits)
    ]
    (finding,) = look(masks, splits)
    assert kinds([finding]) == [("warning", "split-classes")]
    assert f"1 of 3 classes is in no mask of {split}" in finding.summary
    assert len(finding.files) == 8


def test_drawn_splits_are_not_blamed_for_a_class_in_one_mask() -> None:
    masks = [facts("0.png", x0=8000, x1=1000, x2=1000), *full(9, start=1)]
    pairs = [Pair(Path(m.path), Path(m.path), m.path) for m in masks]
    drawn = assign_splits(
        PairSet(Path(), tuple(pairs), ""), [m.path for m in masks], [frozenset()] * 10, 0.2
    )
    class_map, _ = infer_class_map(masks)
    for own, checks in ((False, ["rare-classes"]), (True, ["rare-classes", "split-classes"])):
        known = survey_of(drawn.pairs, masks, class_map, own_splits=own)
        assert [finding.check for finding in inspect_balance(known)] == checks


def test_without_a_class_map_nothing_is_said() -> None:
    assert [*inspect_balance(Survey(Path(), PairSet(Path(), (), ""), {}))] == []


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["x0", "x1", "x2", "_1", "x255"]), st.integers(1, 99_999), min_size=1
        ),
        min_size=1,
        max_size=8,
    )
)
def test_shares_add_up(rows: list[dict[str, int]]) -> None:
    masks = [facts(f"{i}.png", **row) for i, row in enumerate([{"x0": 1, "x1": 1}, *rows])]
    codes: list[Code] = [0, 1, 2]
    names = ClassNames(tuple(NamedClass(str(code), code) for code in codes))
    class_map, _ = infer_class_map(masks, names=names, ignore=[255])
    pairs = [Pair(Path(mask.path), Path(mask.path), mask.path) for mask in masks]
    tally = masks_of(survey_of(pairs, masks, class_map, names))
    assert tally is not None
    assert tally.pixels.sum(axis=1).tolist() == [mask.pixels for mask in masks]
    assert tally.share.sum() == pytest.approx(1)
