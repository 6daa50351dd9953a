"""Patterns name the files of one series and no others; answers of questions are such patterns."""

from pathlib import Path

import pytest

from unetseg.data.pairs.questions import fits, is_pattern, pattern
from unetseg.data.pairs.series import read_entries, split_series


@pytest.mark.parametrize(
    ("path", "wanted", "expected"),
    [
        ("masks/a.png", "masks", True),
        ("masks/p1/a.png", "masks", True),
        ("more masks/a.png", "masks", False),
        ("a_mask.png", "*_mask.png", True),
        ("p1/a_mask.png", "*_mask.png", False),  # * stops at a slash
        ("p1/a_mask.png", "*/*_mask.png", True),
        ("p1/x/a_mask.png", "**/*_mask.png", True),
        ("a_mask.png", "**/*_mask.png", True),
        ("train/gt/a.png", "[tv]*/gt/?.png", True),
        ("test/gt/ab.png", "[tv]*/gt/?.png", False),
    ],
)
def test_what_a_pattern_means(path: str, wanted: str, expected: bool) -> None:
    assert fits(path, wanted) == expected


def test_what_is_a_pattern() -> None:
    assert is_pattern("*.png")
    assert not is_pattern(Path("masks/train"))


@pytest.mark.parametrize(
    "names",
    [
        ["images/1.png", "images/2.png", "masks/1.png", "masks/2.png"],
        ["1_rgb.png", "1_seg.png", "2_rgb.png", "2_seg.png"],
        ["train/img/1.png", "train/gt/1.png", "test/img/2.png", "test/gt/2.png"],
        ["p1/x_rgb.png", "p1/x_seg.png", "p2/q/y_rgb.png", "p2/q/y_seg.png"],
        ["only_rgb.png", "only_seg.png"],
        ["a [1]_rgb.png", "a [1]_seg.png", "a [2]_rgb.png", "a [2]_seg.png"],
        ["only [1]_rgb.png", "only [1]_seg.png"],
    ],
)
def test_the_pattern_of_a_series_fits_its_files_alone(names: list[str]) -> None:
    entries = read_entries(Path("data"), [Path("data") / name for name in names])
    series = split_series(entries)
    assert len(series) == 2
    for one in series:
        wanted = pattern(one, entries)
        fitting = {entry.inner for entry in entries if fits(entry.inner, wanted)}
        assert fitting == {entry.inner for entry in one.entries}, wanted
