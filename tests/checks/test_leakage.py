"""What the splits tear apart is found; names that tell of no groups are left alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from unetseg.checks.finding import Finding
from unetseg.checks.groups import propose_group
from unetseg.checks.leakage import chains, inspect_duplicates, inspect_leakage
from unetseg.config import GroupsConfig
from unetseg.data.facts.survey import Survey, survey
from unetseg.data.files.image import read_image
from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.pairs.match import Pair, find_pairs
from unetseg.data.sample import draw_cells, draw_sample

Image = NDArray[np.uint8]


def _survey(root: Path, *, own_splits: bool = True) -> Survey:
    return replace(survey(root), own_splits=own_splits)


def _folder(root: Path, images: dict[str, Image]) -> Survey:
    """Pairs `images/NAME.png` and `masks/NAME.png`."""
    for name, image in images.items():
        write_png(root / "images" / f"{name}.png", image)
        write_png(root / "masks" / f"{name}.png", np.eye(*image.shape[:2], dtype=np.uint8) * 255)
    return _survey(root)


def _cells(index: int) -> Image:
    return draw_cells(96, seed=5, index=index)[0]


def _by_check(known: Survey) -> dict[str, Finding]:
    return {finding.check: finding for finding in inspect_leakage(known)}


def test_a_clean_folder_has_no_finding(tmp_path: Path) -> None:
    draw_sample(tmp_path, count=10, size=96)
    assert _by_check(_survey(tmp_path, own_splits=False)) == {}


@pytest.mark.row(33)
def test_an_image_in_two_splits_is_found(tmp_path: Path) -> None:
    images = {f"train/a{k}": _cells(k) for k in range(4)}
    known = _folder(tmp_path, {**images, "val/x": _cells(9), "val/y": _cells(2)})
    findings = _by_check(known)
    assert list(findings) == ["identical-across-splits"]
    (line,) = findings["identical-across-splits"].files
    assert "a2.png (train) = " in line
    assert line.endswith("y.png (val)")
    assert findings["identical-across-splits"].severity == "warning"


@pytest.mark.row(33)
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
    groups = {pair.group for pair in find_pairs(tmp_path, GroupsConfig(group=expression)).pairs}
    assert first in groups
    assert 3 <= len(groups) <= len(names) / 2


@pytest.mark.parametrize("names", SILENT.values(), ids=SILENT.keys())
def test_other_names_tell_none(names: list[str]) -> None:
    assert propose_group(names) is None


def _named(known: Survey, names: Sequence[str], *, own_splits: bool) -> Survey:
    """The same pairs under other names, the splits taking turns."""
    pairs = tuple(
        replace(pair, image=Path(f"{name}.png"), name=name, split=split)
        for pair, name, split in zip(known.pairs.pairs, names, ["train", "val"] * 99, strict=False)
    )
    return _with_pairs(replace(known, own_splits=own_splits), pairs)


def _with_pairs(known: Survey, pairs: Sequence[Pair]) -> Survey:
    """The survey with other pairs of the same facts."""
    facts = {pair.name: fact for pair, fact in zip(pairs, known.facts_of("all"), strict=True)}
    return replace(known, pairs=replace(known.pairs, pairs=tuple(pairs)), facts=facts)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    root = draw_sample(tmp_path_factory.mktemp("sample"), count=12, size=96)
    return _survey(root)


@pytest.mark.parametrize("own_splits", [True, False])
def test_groups_that_the_splits_tear_are_told(drawn: Survey, own_splits: bool) -> None:
    names = [f"patient{p}_slice{k}" for p in range(3) for k in range(4)]
    (finding,) = inspect_leakage(_named(drawn, names, own_splits=own_splits))
    assert finding.check == "torn-groups"
    assert finding.severity == ("warning" if own_splits else "note")
    assert "3 groups" in finding.summary
    assert finding.files == tuple(f"patient{p}: 2 train, 2 val" for p in range(3))
    verb = "check" if own_splits else "train"
    assert finding.command.startswith(f"unetseg {verb} DATA --group '")


def test_groups_that_are_whole_are_fine(drawn: Survey) -> None:
    names = [f"patient{k % 4}_slice{k // 4}" for k in range(12)]
    assert list(inspect_leakage(_named(drawn, names, own_splits=True))) == []


def test_groups_that_were_given_count_before_names(drawn: Survey) -> None:
    names = [f"patient{p}_slice{k}" for p in range(3) for k in range(4)]
    known = _named(drawn, names, own_splits=True)
    whole = tuple(replace(pair, group=pair.split) for pair in known.pairs.pairs)
    assert list(inspect_leakage(_with_pairs(known, whole))) == []
    torn = tuple(replace(pair, group=f"g{k // 2}") for k, pair in enumerate(known.pairs.pairs))
    (finding,) = inspect_leakage(_with_pairs(known, torn))
    assert "there are 6 groups" in finding.summary
    assert finding.command == ""
    lone = (replace(torn[0], group=None), *torn[1:])
    (finding,) = inspect_leakage(_with_pairs(known, lone))
    assert [line.split(":")[0] for line in finding.files] == [f"g{k}" for k in range(1, 6)]


@pytest.mark.long
def test_the_video_that_camvid_trains_and_validates_on_is_told(real_data: Path) -> None:
    findings = _by_check(_survey(real_data / "camvid"))
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
    assert _by_check(_survey(real_data / name)) == {}


# Within a split

Drawn = tuple[Image, Image]  # image and mask


def _drawn_folder(root: Path, names: Sequence[str], draw: Callable[[int], Drawn]) -> Survey:
    """Pairs `images/NAME.png` and `masks/NAME.png`, the n-th as drawn."""
    for index, name in enumerate(names):
        image, mask = draw(index)
        write_png(root / "images" / f"{name}.png", image)
        write_png(root / "masks" / f"{name}.png", mask)
    return survey(root)


def _cells_and_mask(index: int) -> Drawn:
    return draw_cells(96, seed=3, index=index)


def _copies(known: Survey) -> dict[str, Finding]:
    findings = list(inspect_duplicates(known))
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding for finding in findings}


def test_a_clean_folder_has_no_copies(tmp_path: Path) -> None:
    draw_sample(tmp_path, count=10, size=96)
    assert _copies(survey(tmp_path)) == {}


def test_one_image_in_two_formats_is_one_image(tmp_path: Path) -> None:
    _drawn_folder(tmp_path, ["train/a", "train/b", "val/c"], _cells_and_mask)
    image, mask = _cells_and_mask(0)
    write_tiff(tmp_path / "images/train/d.tif", image)
    write_png(tmp_path / "masks/train/d.png", mask)
    finding = _copies(survey(tmp_path))["identical-images"]
    (line,) = finding.files
    assert finding.severity == "warning"
    assert "1 image has the same pixels" in finding.summary
    assert ("a.png" in line, "d.tif" in line, "b.png" in line) == (True, True, False)


def test_one_image_with_two_masks_is_told_with_the_difference(tmp_path: Path) -> None:
    def draw(index: int) -> Drawn:
        image, mask = _cells_and_mask(index % 3)
        mask = mask.copy()
        if index == 3:
            mask[:4] = 255 - mask[0, 0]
            mask[:4, :48] = mask[4:8, :48].max()
        return image, mask

    known = _drawn_folder(tmp_path, ["a", "b", "c", "d"], draw)
    masks = [read_image(tmp_path / f"masks/{name}.png") for name in "ad"]
    least = abs(int((masks[0] > 0).sum()) - int((masks[1] > 0).sum())) / masks[0].size
    finding = _copies(known)["one-image-two-masks"]
    (line,) = finding.files
    assert least > 0
    assert f"{least:.2%}" in line
    assert ("a.png" in line, "d.png" in line) == (True, True)


def test_a_mirrored_mask_of_the_same_image_differs(tmp_path: Path) -> None:
    def draw(index: int) -> Drawn:
        image, mask = _cells_and_mask(index % 3)
        return image, mask[::-1].copy() if index == 3 else mask

    (line,) = _copies(_drawn_folder(tmp_path, list("abcd"), draw))["one-image-two-masks"].files
    assert ("a.png" in line, "d.png" in line) == (True, True)


def test_a_mask_of_another_image_is_found(tmp_path: Path) -> None:
    def draw(index: int) -> Drawn:
        return _cells_and_mask(index)[0], _cells_and_mask(2 if index == 5 else index)[1]

    finding = _copies(_drawn_folder(tmp_path, list("abcdef"), draw))["identical-masks"]
    (line,) = finding.files
    assert finding.severity == "warning"
    assert [name in line for name in ("a.png", "c.png", "f.png")] == [False, True, True]


def test_masks_with_equal_counts_or_without_content_are_no_copies(tmp_path: Path) -> None:
    def draw(index: int) -> Drawn:
        mask = np.zeros((96, 96), np.uint8)
        mask[: 30 * (index > 1), 10 * index : 10 * index + 5] = 255  # 0 and 1 hold nothing
        return _cells_and_mask(index)[0], mask

    assert _copies(_drawn_folder(tmp_path, list("abcdef"), draw)) == {}


def test_exposures_of_one_scene_may_share_a_mask(tmp_path: Path) -> None:
    def draw(index: int) -> Drawn:
        image, mask = _cells_and_mask(index // 2)
        return (image * (1 if index % 2 else 0.7)).astype(np.uint8), mask

    findings = _copies(_drawn_folder(tmp_path, list("abcdef"), draw))
    assert list(findings) == ["near-copies"]
    assert findings["near-copies"].severity == "note"


def test_near_copies_count_within_a_split_only(tmp_path: Path) -> None:
    def draw(index: int) -> Drawn:
        image, mask = _cells_and_mask(index % 3)
        return (image * (1 - 0.1 * (index // 3))).astype(np.uint8), mask

    names = ["train/a", "train/b", "train/c", "train/d", "val/e", "train/f"]
    finding = _copies(_drawn_folder(tmp_path, names, draw))["near-copies"]
    lines = [[name for name in "abcdef" if f"{name}.png" in line] for line in finding.files]
    assert lines == [["a", "d"], ["c", "f"]]


def test_facts_without_hashes_are_no_copies(tmp_path: Path) -> None:
    known = _drawn_folder(tmp_path, list("abc"), lambda _: _cells_and_mask(0))
    unseen = {"pixel_hash": "", "perceptual_hash": ""}
    blind = {
        name: fact.model_copy(update={"image": fact.image.model_copy(update=unseen)})
        for name, fact in known.facts.items()
    }
    assert "identical-images" not in _copies(replace(known, facts=blind))


@pytest.mark.parametrize("count", [2, 300])
def test_chains_join_what_neighbours_join(count: int) -> None:
    """Each hash differs from the next in 4 bits, as the frames of a video might."""
    frames = [f"{(1 << 4 * k) - 1:064x}" for k in range(min(count, 60))]
    other = "5" * 64
    assert chains([other, *frames], 4) == [list(range(1, len(frames) + 1))]
    assert chains([other, *frames[::2]], 4) == []


def test_a_misplaced_mask_of_a_published_set_is_found(real_data: Path) -> None:
    """042.png of crackforest is the mask of 065.jpg, as anyone can see who looks."""
    findings = _copies(survey(real_data / "crackforest"))
    assert list(findings) == ["identical-masks"]
    (line,) = findings["identical-masks"].files
    assert ("042.png" in line, "065.png" in line) == (True, True)


@pytest.mark.parametrize("name", ["drive", "glas256", "isbi2012_em", "nucseg_16bit"])
def test_real_folders_have_no_copies(real_data: Path, name: str) -> None:
    assert _copies(survey(real_data / name)) == {}
