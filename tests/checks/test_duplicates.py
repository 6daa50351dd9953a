"""What is there twice is found, and what only looks alike is not."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from unetseg.checks.duplicates import chains, inspect_duplicates
from unetseg.checks.evidence import Evidence
from unetseg.checks.finding import Finding
from unetseg.data.facts.survey import survey
from unetseg.data.files.images import read_image, write_png, write_tiff
from unetseg.data.sample import draw_cells, draw_sample

Draw = Callable[[int], tuple[NDArray[np.uint8], NDArray[np.uint8]]]


def _evidence(root: Path) -> Evidence:
    known = survey(root)
    facts = tuple(known.facts[pair.name] for pair in known.pairs.pairs)
    return Evidence(root, known.pairs.pairs, facts, known.class_map)


def _folder(root: Path, names: Sequence[str], draw: Draw) -> Evidence:
    """Pairs `images/NAME.png` and `masks/NAME.png`, the n-th as drawn."""
    for index, name in enumerate(names):
        image, mask = draw(index)
        write_png(root / "images" / f"{name}.png", image)
        write_png(root / "masks" / f"{name}.png", mask)
    return _evidence(root)


def _cells(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return draw_cells(96, seed=3, index=index)


def _by_check(evidence: Evidence) -> dict[str, Finding]:
    findings = list(inspect_duplicates(evidence))
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding for finding in findings}


def test_a_clean_folder_has_no_finding(tmp_path: Path) -> None:
    draw_sample(tmp_path, count=10, size=96)
    assert _by_check(_evidence(tmp_path)) == {}


def test_one_image_in_two_formats_is_one_image(tmp_path: Path) -> None:
    _folder(tmp_path, ["train/a", "train/b", "val/c"], _cells)
    image, mask = _cells(0)
    write_tiff(tmp_path / "images/train/d.tif", image)
    write_png(tmp_path / "masks/train/d.png", mask)
    finding = _by_check(_evidence(tmp_path))["identical-images"]
    (line,) = finding.files
    assert finding.severity == "warning"
    assert "1 image has the same pixels" in finding.summary
    assert ("a.png" in line, "d.tif" in line, "b.png" in line) == (True, True, False)


def test_one_image_with_two_masks_is_told_with_the_difference(tmp_path: Path) -> None:
    def draw(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, mask = _cells(index % 3)
        mask = mask.copy()
        if index == 3:
            mask[:4] = 255 - mask[0, 0]
            mask[:4, :48] = mask[4:8, :48].max()
        return image, mask

    evidence = _folder(tmp_path, ["a", "b", "c", "d"], draw)
    masks = [read_image(tmp_path / f"masks/{name}.png") for name in "ad"]
    least = abs(int((masks[0] > 0).sum()) - int((masks[1] > 0).sum())) / masks[0].size
    finding = _by_check(evidence)["one-image-two-masks"]
    (line,) = finding.files
    assert least > 0
    assert f"{least:.2%}" in line
    assert ("a.png" in line, "d.png" in line) == (True, True)


def test_a_mask_of_another_image_is_found(tmp_path: Path) -> None:
    def draw(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return _cells(index)[0], _cells(2 if index == 5 else index)[1]

    finding = _by_check(_folder(tmp_path, list("abcdef"), draw))["identical-masks"]
    (line,) = finding.files
    assert finding.severity == "warning"
    assert [name in line for name in ("a.png", "c.png", "f.png")] == [False, True, True]


def test_masks_with_equal_counts_or_without_content_are_no_copies(tmp_path: Path) -> None:
    def draw(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        mask = np.zeros((96, 96), np.uint8)
        mask[: 30 * (index > 1), 10 * index : 10 * index + 5] = 255  # 0 and 1 hold nothing
        return _cells(index)[0], mask

    assert _by_check(_folder(tmp_path, list("abcdef"), draw)) == {}


def test_exposures_of_one_scene_may_share_a_mask(tmp_path: Path) -> None:
    def draw(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, mask = _cells(index // 2)
        return (image * (1 if index % 2 else 0.7)).astype(np.uint8), mask

    findings = _by_check(_folder(tmp_path, list("abcdef"), draw))
    assert list(findings) == ["near-copies"]
    assert findings["near-copies"].severity == "note"


def test_near_copies_count_within_a_split_only(tmp_path: Path) -> None:
    def draw(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, mask = _cells(index % 3)
        return (image * (1 - 0.1 * (index // 3))).astype(np.uint8), mask

    names = ["train/a", "train/b", "train/c", "train/d", "val/e", "train/f"]
    finding = _by_check(_folder(tmp_path, names, draw))["near-copies"]
    lines = [[name for name in "abcdef" if f"{name}.png" in line] for line in finding.files]
    assert lines == [["a", "d"], ["c", "f"]]


def test_facts_without_hashes_are_no_copies(tmp_path: Path) -> None:
    evidence = _folder(tmp_path, list("abc"), lambda _: _cells(0))
    blind = [
        fact.model_copy(
            update={
                "image": fact.image.model_copy(update={"pixel_hash": "", "perceptual_hash": ""})
            }
        )
        for fact in evidence.facts
    ]
    assert "identical-images" not in _by_check(replace(evidence, facts=tuple(blind)))


@pytest.mark.parametrize("count", [2, 300])
def test_chains_join_what_neighbours_join(count: int) -> None:
    """Each hash differs from the next in 4 bits, as the frames of a video might."""
    frames = [f"{(1 << 4 * k) - 1:064x}" for k in range(min(count, 60))]
    other = "5" * 64
    assert chains([other, *frames], 4) == [list(range(1, len(frames) + 1))]
    assert chains([other, *frames[::2]], 4) == []


def test_a_misplaced_mask_of_a_published_set_is_found(real_data: Path) -> None:
    """042.png of crackforest is the mask of 065.jpg, as anyone can see who looks."""
    findings = _by_check(_evidence(real_data / "crackforest"))
    assert list(findings) == ["identical-masks"]
    (line,) = findings["identical-masks"].files
    assert ("042.png" in line, "065.png" in line) == (True, True)


@pytest.mark.parametrize("name", ["drive", "glas256", "isbi2012_em", "nucseg_16bit"])
def test_real_folders_have_no_copies(real_data: Path, name: str) -> None:
    assert _by_check(_evidence(real_data / name)) == {}
