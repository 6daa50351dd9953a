"""What the splits tear apart is found; names that tell of no groups are left alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from unetseg.checks.evidence import Evidence
from unetseg.checks.finding import Finding
from unetseg.checks.leakage import inspect_leakage, propose_group
from unetseg.data.facts.survey import survey
from unetseg.data.files.images import write_png
from unetseg.data.pairs.match import find_pairs
from unetseg.data.sample import draw_cells, draw_sample

Image = NDArray[np.uint8]


def _evidence(root: Path, *, own_splits: bool = True) -> Evidence:
    known = survey(root)
    facts = tuple(known.facts[pair.name] for pair in known.pairs.pairs)
    return Evidence(root, known.pairs.pairs, facts, known.class_map, own_splits=own_splits)


def _folder(root: Path, images: dict[str, Image]) -> Evidence:
    """Pairs `images/NAME.png` and `masks/NAME.png`."""
    for name, image in images.items():
        write_png(root / "images" / f"{name}.png", image)
        write_png(root / "masks" / f"{name}.png", np.eye(*image.shape[:2], dtype=np.uint8) * 255)
    return _evidence(root)


def _cells(index: int) -> Image:
    return draw_cells(96, seed=5, index=index)[0]


def _by_check(evidence: Evidence) -> dict[str, Finding]:
    return {finding.check: finding for finding in inspect_leakage(evidence)}


def test_a_clean_folder_has_no_finding(tmp_path: Path) -> None:
    draw_sample(tmp_path, count=10, size=96)
    assert _by_check(_evidence(tmp_path, own_splits=False)) == {}


def test_an_image_in_two_splits_is_found(tmp_path: Path) -> None:
    images = {f"train/a{k}": _cells(k) for k in range(4)}
    evidence = _folder(tmp_path, {**images, "val/x": _cells(9), "val/y": _cells(2)})
    findings = _by_check(evidence)
    assert list(findings) == ["identical-across-splits"]
    (line,) = findings["identical-across-splits"].files
    assert "a2.png (train) = " in line
    assert line.endswith("y.png (val)")
    assert findings["identical-across-splits"].severity == "warning"


@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        (lambda image: image // 2 + 40, "near-copies-across-splits", "resembles"),
        (lambda image: image[:, ::-1], "turned-copies-across-splits", "mirrored left to right"),
        (lambda image: np.rot90(image), "turned-copies-across-splits", "clockwise"),
        (lambda image: image[::-1, ::-1], "turned-copies-across-splits", "turned by 180°"),
    ],
)
def test_a_changed_copy_in_another_split_is_found(
    tmp_path: Path, change: Callable[[Image], Image], check: str, words: str
) -> None:
    images = {f"train/a{k}": _cells(k) for k in range(4)}
    copy = np.ascontiguousarray(change(_cells(1)))
    findings = _by_check(_folder(tmp_path, {**images, "val/x": _cells(9), "test/y": copy}))
    assert list(findings) == [check]
    (line,) = findings[check].files
    assert ("a1.png (train)" in line, "y.png (test)" in line, words in line) == (True, True, True)
    assert findings[check].severity == "warning"


def test_copies_within_a_split_do_not_leak(tmp_path: Path) -> None:
    images = {"train/a": _cells(0), "train/b": _cells(0), "train/c": _cells(0) // 2}
    assert _by_check(_folder(tmp_path, {**images, "val/x": _cells(1)})) == {}


TELLING = {  # names, and the group of the first one
    "slices": ([f"patient{p:02d}_slice{k}.png" for p in range(5) for k in range(6)], "patient00"),
    "glued": ([f"Patient{p:02d}slice{k}.png" for p in range(5) for k in range(6)], "Patient00"),
    "scenes": ([f"scene_{p:03d}_{k:03d}.png" for p in range(5) for k in range(6)], "scene_000"),
    "slide tiles": (
        [f"s{p}_{x}_{y}.tif" for p in range(4) for x in (0, 512) for y in (0, 512)],
        "s0",
    ),
    "sequences": (
        [f"{p}_{k:05d}.png" for p in ("0006R0", "0016E5", "0001TP") for k in range(30, 900, 60)],
        "0006R0",
    ),
    "cities": (
        [f"aachen_{p:06d}_{k:06d}_leftImg8bit.png" for p in range(5) for k in range(19, 90, 9)],
        "aachen_000000",
    ),
    "floods": (
        [f"Spain_{p}_r{r}c{c}.tif" for p in (70, 81, 99) for r in (0, 1) for c in (0, 1)],
        "Spain_70",
    ),
    "views": ([f"P{p:03d}_{view}.png" for p in range(9) for view in ("L_CC", "R_CC")], "P000"),
    "folders": ([f"train/p{p}/{k}" for p in range(5) for k in range(6)], "p0"),
    "augmented": (
        [f"img-{p}_jpg.rf.{p * 9 + k:032x}.jpg" for p in range(5) for k in range(3)],
        "img-0_jpg",
    ),
}

SILENT = {
    "a counter": [f"img_{k:03d}.png" for k in range(60)],
    "numbers": [f"{k}.png" for k in range(60)],
    "words": [f"{word}_{k}.png" for word in ("cat", "dog", "cow") for k in range(9)],
    "splits": [f"{word}_{k}.bmp" for word in ("testA", "testB", "train") for k in range(9)],
    "years": [f"{year}_{k:06d}.jpg" for year in range(2007, 2012) for k in range(2, 90, 3)],
    "magnifications": [f"{x}x_{k}.tif" for x in (20, 40, 63) for k in range(9)],
    "one each": [f"{k:03d}_image.png" for k in range(60)],
    "cases": [f"case_{k:03d}.png" for k in range(60)],
    "random": [f"{k * 0x9E3779B97F4A7C15 % 2**64:016x}.png" for k in range(60)],
    "coordinates": [f"OAM-{x}-{y}-21.tif" for x in range(900, 908) for y in range(46000, 46008)],
    "folds": [f"fold{p}/{k}" for p in range(5) for k in range(6)],
    "two groups": [f"patient{p}_slice{k}.png" for p in range(2) for k in range(9)],
    "different kinds": ["a.png", "patient1_2.png", "patient1_3.png", "7.png"],
    "nothing": [],
}


@pytest.mark.parametrize(("names", "first"), TELLING.values(), ids=TELLING.keys())
def test_names_with_an_identity_and_a_counter_tell_groups(
    tmp_path: Path, names: list[str], first: str
) -> None:
    """What is proposed does with --group what it promises."""
    expression = propose_group(names)
    assert expression is not None
    for name in names:
        suffix = "" if name.endswith(("png", "tif", "jpg")) else ".png"
        for folder in ("images", "masks"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / f"{name}{suffix}").touch()
    groups = {pair.group for pair in find_pairs(tmp_path, group=expression).pairs}
    assert first in groups
    assert 3 <= len(groups) <= len(names) / 2


@pytest.mark.parametrize("names", SILENT.values(), ids=SILENT.keys())
def test_other_names_tell_none(names: list[str]) -> None:
    assert propose_group(names) is None


def _named(evidence: Evidence, names: Sequence[str], *, own_splits: bool) -> Evidence:
    """The same pairs under other names, the splits taking turns."""
    pairs = tuple(
        replace(pair, image=Path(f"{name}.png"), name=name, split=split)
        for pair, name, split in zip(evidence.pairs, names, ["train", "val"] * 99, strict=False)
    )
    return replace(evidence, pairs=pairs, own_splits=own_splits)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    root = draw_sample(tmp_path_factory.mktemp("sample"), count=12, size=96)
    return _evidence(root)


@pytest.mark.parametrize("own_splits", [True, False])
def test_groups_that_the_splits_tear_are_told(drawn: Evidence, own_splits: bool) -> None:
    names = [f"patient{p}_slice{k}" for p in range(3) for k in range(4)]
    (finding,) = inspect_leakage(_named(drawn, names, own_splits=own_splits))
    assert finding.check == "torn-groups"
    assert finding.severity == ("warning" if own_splits else "note")
    assert "3 groups" in finding.summary
    assert finding.files == tuple(f"patient{p}: 2 train, 2 val" for p in range(3))
    verb = "check" if own_splits else "train"
    assert finding.command.startswith(f"unetseg {verb} DATA --group '")


def test_groups_that_are_whole_are_fine(drawn: Evidence) -> None:
    names = [f"patient{k % 4}_slice{k // 4}" for k in range(12)]
    assert list(inspect_leakage(_named(drawn, names, own_splits=True))) == []


def test_groups_that_were_given_count_before_names(drawn: Evidence) -> None:
    names = [f"patient{p}_slice{k}" for p in range(3) for k in range(4)]
    evidence = _named(drawn, names, own_splits=True)
    whole = tuple(replace(pair, group=pair.split) for pair in evidence.pairs)
    assert list(inspect_leakage(replace(evidence, pairs=whole))) == []
    torn = tuple(replace(pair, group=f"g{k // 2}") for k, pair in enumerate(evidence.pairs))
    (finding,) = inspect_leakage(replace(evidence, pairs=torn))
    assert "there are 6 groups" in finding.summary
    assert finding.command == ""


def test_the_video_that_camvid_trains_and_validates_on_is_told(real_data: Path) -> None:
    findings = _by_check(_evidence(real_data / "camvid"))
    assert list(findings) == ["torn-groups"]
    assert findings["torn-groups"].files == ("0016E5: 52 train, 30 val",)


@pytest.mark.parametrize(
    "name",
    [
        "crackforest",
        "drive",
        "glas256",
        "hot_buildings_geotiff",
        "isbi2012_em",
        "nucseg_16bit",
        "sen1floods11_tiles13band",
    ],
)
def test_other_real_folders_do_not_leak(real_data: Path, name: str) -> None:
    assert _by_check(_evidence(real_data / name)) == {}
