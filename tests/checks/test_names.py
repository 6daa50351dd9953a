"""Names that do not pair are told by kind; names that other machines confuse are noticed."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest

from unetseg.checks.finding import Finding
from unetseg.checks.names import inspect_names, inspect_portability, inspect_splits
from unetseg.data.facts.survey import Faults, Survey
from unetseg.data.pairs.match import Pair, PairSet, find_pairs
from unetseg.errors import PairingError

COMPOSED, APART = (unicodedata.normalize(form, "Zoé") for form in ("NFC", "NFD"))


def write(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"content is not looked at")
    return root


def survey_of(root: Path) -> Survey:
    """What the names say."""
    try:
        return Survey(root, find_pairs(root), {})
    except PairingError as error:
        return Survey(root, PairSet(root, (), ""), {}, faults=Faults(error))


def faults_of(root: Path) -> list[Finding]:
    return list(inspect_names(survey_of(root)))


def portability_of(root: Path, *stems: str) -> list[Finding]:
    """The findings on a folder in which these stems are pairs."""
    write(root, [f"{side}/{stem}.png" for stem in stems for side in ("images", "masks")])
    known = survey_of(root)
    assert len(known.pairs.pairs) == len(stems)
    return list(inspect_portability(known))


# Splits


@pytest.mark.parametrize(("splits", "count"), [("t", 1), ("tt", 1), ("tv", 0), ("ts", 1)])
def test_validation_on_what_trains_is_told(tmp_path: Path, splits: str, count: int) -> None:
    words = {"t": "train", "v": "val", "s": "test"}
    pairs = tuple(
        Pair(Path(f"{n}.png"), Path(f"{n}_mask.png"), str(n), words[letter])
        for n, letter in enumerate(splits)
    )
    found = list(inspect_splits(Survey(tmp_path, PairSet(tmp_path, pairs, ""), {})))
    assert [one.check for one in found] == ["no-validation"] * count
    assert all(one.severity == "warning" for one in found)


# Names that do not pair

ODD = {  # files beside good pairs: check, severity, the first file
    "image-without-mask": (["images/alone\n[1].png"], "warning", r"images/alone\n[1].png"),
    "mask-without-image": (["masks/or phan.png"], "warning", "masks/or phan.png"),
    "left-out": (["predictions/a.png"], "note", "predictions/a.png"),
}


@pytest.mark.parametrize("check", ODD)
def test_what_takes_no_part_is_told(tmp_path: Path, check: str) -> None:
    files, severity, told = ODD[check]
    good = [f"{side}/{x}.png" for x in "ab" for side in ("images", "masks")]
    (finding,) = faults_of(write(tmp_path, [*good, *files]))
    assert (finding.check, finding.severity, finding.files) == (check, severity, (told,))
    assert finding.summary.startswith("1 ")


def test_one_finding_for_each_kind_lists_all(tmp_path: Path) -> None:
    files = [f"{side}/{i}.png" for i in range(9) for side in ("images", "masks")]
    files += [f"images/alone{i}.png" for i in range(8)] + ["masks/orphan.png"]
    findings = faults_of(write(tmp_path, files))
    assert [(finding.check, len(finding.files)) for finding in findings] == [
        ("image-without-mask", 8),
        ("mask-without-image", 1),
    ]
    assert findings[0].command == "unetseg check DATA --unpaired empty"


def test_a_question_has_an_answer_to_paste_for_each_reading(tmp_path: Path) -> None:
    files = [f"{side}/{i}.png" for i in range(3) for side in ("images", "labels", "masks")]
    (finding,) = faults_of(write(tmp_path, files))
    assert (finding.check, finding.severity) == ("pairing", "error")
    assert len(finding.commands_for(["DATA"])) == 2


# Names that pair here, and not elsewhere


@pytest.mark.parametrize(
    "stems",
    [
        ("a", "b"),
        ("cells (1)", "cells [2]"),
        ("Zoé", "ß"),
        ("a.b", "a.c"),
        ("x y", "x_y"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f468\u200d\U0001f469"),
    ],
)
def test_usual_names_are_no_finding(tmp_path: Path, stems: tuple[str, ...]) -> None:
    assert portability_of(tmp_path, *stems) == []


@pytest.mark.row(27)
@pytest.mark.parametrize(
    "stems", [("a/cat", "a/Cat"), ("a/x", "A/x"), (COMPOSED, APART), ("straße", "STRASSE")]
)
def test_names_that_become_one_elsewhere(tmp_path: Path, stems: tuple[str, ...]) -> None:
    (finding,) = portability_of(tmp_path, "good", *stems)
    assert (finding.check, finding.severity) == ("colliding-names", "warning")
    assert finding.summary.startswith("2 names of several files")  # image and mask
    assert all(stem in finding.files[0] for stem in stems)


@pytest.mark.row(27, 45)
@pytest.mark.parametrize(
    "character", ["\n", "\x1b", "\x7f", "\xad", "\u200b", "\u200e", "\u2028", "\u202e", "\ufeff"]
)
def test_what_is_not_seen_is_shown(tmp_path: Path, character: str) -> None:
    (finding,) = portability_of(tmp_path, "good", f"a{character}b")
    assert (finding.check, finding.severity) == ("unseen-characters", "warning")
    assert len(finding.files) == 2
    assert all(file.isprintable() and repr(character)[1:-1] in file for file in finding.files)


@pytest.mark.row(27)
def test_names_that_are_no_text(tmp_path: Path) -> None:
    (finding,) = portability_of(tmp_path, "good", "bytes\udcff")
    assert finding.check == "unseen-characters"
    assert r"images/bytes\udcff.png" in finding.files


@pytest.mark.parametrize("stem", [" a", "a ", "folder /a", " folder/a"])
def test_outer_spaces(tmp_path: Path, stem: str) -> None:
    (finding,) = portability_of(tmp_path, "good", stem)
    assert (finding.check, finding.severity) == ("outer-spaces", "note")
    assert f'"images/{stem}.png"' in finding.files


@pytest.mark.parametrize("stem", ["10:30", "a?", "aux", "COM1.x", "con/a", "a\\b", 'a"b'])
def test_names_that_windows_refuses(tmp_path: Path, stem: str) -> None:
    (finding,) = portability_of(tmp_path, "good", stem)
    assert (finding.check, finding.severity) == ("unportable-names", "note")
    assert len(finding.files) == 2


@pytest.mark.row(27)
def test_one_stem_with_two_suffixes(tmp_path: Path) -> None:
    write(tmp_path, ["p/a.png", "p/a.jpg", "q/a.png", "m/1.png", "m/2.png", "p/b.png", "m/b.png"])
    rows = ["p/a.png,m/1.png", "p/a.jpg,m/1.png", "q/a.png,m/2.png", "p/b.png,m/b.png"]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,mask", *rows]))
    (finding,) = inspect_portability(survey_of(tmp_path))
    assert (finding.check, finding.severity) == ("same-stem", "note")
    assert finding.files == ("p/a.jpg, p/a.png",)


def test_an_image_and_its_mask_may_share_a_stem(tmp_path: Path) -> None:
    write(tmp_path, ["a.jpg", "a.png", "b.jpg", "b.png"])
    (tmp_path / "pairs.csv").write_text("image,mask\na.jpg,a.png\nb.jpg,b.png\n")
    assert list(inspect_portability(survey_of(tmp_path))) == []


def test_real_folders_are_clean(real_data: Path) -> None:
    folders = [folder for folder in sorted(real_data.iterdir()) if (folder / "images").is_dir()]
    assert len(folders) >= 14
    for folder in folders:
        assert faults_of(folder) == []
        assert list(inspect_portability(survey_of(folder))) == []
