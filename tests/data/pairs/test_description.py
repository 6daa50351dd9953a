"""dataset.yaml is honoured: settings, classes and splits; what the user sets explicitly wins."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import Heard
from unetseg.config import DataConfig, PairsConfig
from unetseg.data.facts.survey import class_names, survey
from unetseg.data.files.pngs import write_png
from unetseg.data.pairs.dataset_yaml import described, find_described, write_description
from unetseg.data.pairs.match import NO_MASK, PairSet, find_pairs
from unetseg.errors import ConfigError


def write(root: Path, names: Iterable[str], text: str = "") -> Path:
    """Files that pair by name, and a dataset.yaml."""
    for name in names:
        for side in ("images", "masks"):
            (root / side / name).parent.mkdir(parents=True, exist_ok=True)
            (root / side / f"{name}.png").write_bytes(b"content is not looked at")
    if text:
        (root / "dataset.yaml").write_text(text, encoding="utf-8")
    return root


def splits(found: PairSet) -> dict[str, str | None]:
    return {pair.name: pair.split for pair in found.pairs}


def keys_in_force(data: Path, config: PairsConfig) -> tuple[str, ...]:
    return described(data, config)[1].keys


def pairs_of(data: Path, config: PairsConfig | None = None) -> PairSet:
    return find_described(data, config or PairsConfig())[0]


# Settings


def test_without_the_file_nothing_changes(tmp_path: Path) -> None:
    root = write(tmp_path, ["a", "b"])
    config = DataConfig(snap=True)
    result, description = described(root, config)
    assert (result, description.keys) == (config, ())
    assert find_described(root, config) == (find_pairs(root), config)


@given(
    st.fixed_dictionaries(
        {
            "snap": st.booleans(),
            "val_fraction": st.sampled_from([0.1, 0.2, 0.3]),
            "ignore": st.sampled_from([(), (255,), (0, -1)]),
        }
    ),
    st.fixed_dictionaries({"snap": st.booleans(), "val_fraction": st.sampled_from([0.2, 0.4])}),
)
def test_a_set_value_wins_and_honouring_twice_is_once(
    tmp_path_factory: pytest.TempPathFactory, said: dict[str, object], given: dict[str, object]
) -> None:
    root = tmp_path_factory.mktemp("data")
    lines = [f"{key}: {list(v) if isinstance(v, tuple) else v}\n" for key, v in said.items()]
    (root / "dataset.yaml").write_text("".join(lines))
    config = DataConfig.model_validate(given)
    result, _ = described(root, config)
    for key, value in said.items():
        default = DataConfig.model_fields[key].default
        own = getattr(config, key)
        assert getattr(result, key) == (value if own == default else own)
    assert described(root, result)[0] == result
    assert keys_in_force(root, result) == keys_in_force(root, config)


def test_settings_that_a_command_has_not_are_left(tmp_path: Path) -> None:
    write(tmp_path, ["a"], "val_fraction: 0.5\nsnap: true\ngroup: .\nimages: images\nmasks: masks")
    found, _ = described(tmp_path, PairsConfig())
    assert type(found) is PairsConfig
    assert found == PairsConfig(
        snap=True, images=tmp_path / "images", masks=tmp_path / "masks", pairs=None
    )


def test_places_are_relative_to_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "x", ["a", "b"])
    (tmp_path / "x" / "images").rename(tmp_path / "x" / "left (1)")
    (tmp_path / "x" / "masks").rename(tmp_path / "right")
    (tmp_path / "x" / "dataset.yaml").write_text("images: left (1)\nmasks: ../right")
    found = pairs_of(tmp_path / "x")
    assert [pair.name for pair in found.pairs] == ["a", "b"]


def test_places_are_not_those_of_a_folder_of_the_same_name_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "data", ["a"], "images: images\nmasks: masks")
    write(tmp_path / "data" / "data", ["b"])
    monkeypatch.chdir(tmp_path)
    assert [pair.name for pair in pairs_of(Path("data")).pairs] == ["a"]


def test_places_that_are_not_there_are_listed(tmp_path: Path) -> None:
    write(tmp_path, ["a"], "images: pictures\nmasks: truths\n")
    with pytest.raises(ConfigError, match="names what is not there") as error:
        pairs_of(tmp_path, PairsConfig())
    assert error.value.offenders == [
        f"images: {tmp_path / 'pictures'}",
        f"masks: {tmp_path / 'truths'}",
    ]
    by_hand = PairsConfig(images=tmp_path / "images", masks=tmp_path / "masks")
    assert len(pairs_of(tmp_path, by_hand).pairs) == 1


def test_places_by_hand_put_those_of_the_file_aside_with_their_splits(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("image,mask,patient\nimages/a.png,masks/a.png,7\n")
    (tmp_path / "other.csv").write_text("image,mask\nimages/b.png,masks/b.png\n")
    text = "pairs: own.csv\ngroup_column: patient\nsplits: {test: [a]}\nval_fraction: 0.5"
    root = write(tmp_path, ["a", "b"], text)
    for table in (None, root / "own.csv"):
        (pair,) = pairs_of(root, DataConfig(pairs=table)).pairs
        assert (pair.name, pair.split, pair.group) == ("a", "test", "7")
    by_hand = DataConfig(images=root / "images", masks=root / "masks")
    assert splits(pairs_of(root, by_hand)) == {"a": None, "b": None}
    assert keys_in_force(root, by_hand) == ("val_fraction",)
    assert splits(pairs_of(root, PairsConfig(pairs=root / "other.csv"))) == {"b": None}
    (pair,) = pairs_of(root, DataConfig(group="(.)")).pairs
    assert pair.group == "a"


def test_a_csv_file_as_the_data_is_described_by_its_folder(tmp_path: Path) -> None:
    text = "snap: true\nsplits: {val: [a]}\nclasses: [x, y]"
    root = write(tmp_path, ["a", "b"], text)
    rows = "image,mask\nimages/a.png,masks/a.png\nimages/b.png,masks/b.png\n"
    for name in ("pairs.csv", "other.csv"):
        (root / name).write_text(rows)
    config = DataConfig()
    assert pairs_of(root / "pairs.csv", config) == pairs_of(root, config)
    assert keys_in_force(root / "pairs.csv", config) == ("snap", "splits", "classes")
    assert keys_in_force(root / "other.csv", config) == ("snap", "classes")
    assert described(root / "other.csv", config)[0] == DataConfig(snap=True)


# Classes


def test_class_lists_in_order(tmp_path: Path) -> None:
    root = write(tmp_path, ["a"], "classes: [from, yaml]")
    (root / "classes.txt").write_text("from\ntxt\n")
    (root / "mine.txt").write_text("from\nuser\n")

    def last(config: DataConfig) -> str:
        names = class_names(root, *described(root, config))
        assert names is not None
        return names.entries[-1].name

    assert last(DataConfig(classes=root / "mine.txt")) == "user"
    assert keys_in_force(root, DataConfig(classes=root / "mine.txt")) == ()
    assert last(DataConfig()) == "yaml"
    (root / "dataset.yaml").write_text("snap: true")
    assert last(DataConfig()) == "txt"


# Splits

NAMES = ["s1/a", "s1/b [1]", "s2/a", "s2/c\nd", "s3/x"]
SPLITS: dict[str, list[str | None]] = {  # lines: the split of each of NAMES
    "{train: [s1/a], test: ['s1/b [1]', s2/a]}": ["train", "test", "test", None, None],
    "{train: ['*'], val: [s1/*], test: [s3/x]}": ["val", "val", "train", "train", "test"],
    "{train: ['*'], val: ['*/a'], test: [s2/a]}": ["val", "train", "test", "train", "train"],
    "{valid: 's?/a', testing: 's[12]/[!a]*'}": ["val", "test", "val", "test", None],
    '{train: ["s2/c\\nd"], val: ["*"]}': ["val", "val", "val", "train", "val"],
}


@pytest.mark.parametrize("text", SPLITS)
def test_splits_by_name_and_pattern(tmp_path: Path, text: str) -> None:
    found = pairs_of(write(tmp_path, NAMES, f"splits: {text}"), PairsConfig())
    assert splits(found) == dict(zip(NAMES, SPLITS[text], strict=True))


def test_numbers_are_names(tmp_path: Path) -> None:
    text = "splits:\n  train: [001, 1e3, 2020-01-01]\n  val:\n  - 010\n  - no\n"
    found = pairs_of(
        write(tmp_path, ["001", "1e3", "2020-01-01", "010", "no"], text), PairsConfig()
    )
    assert sorted(name for name, split in splits(found).items() if split == "val") == ["010", "no"]


def test_unicode_form_does_not_count_unless_both_are_there(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    root = write(tmp_path / "1", [composed], f"splits: {{val: [{apart}]}}")
    assert splits(pairs_of(root, PairsConfig())) == {composed: "val"}
    text = f"splits: {{val: [{apart}], train: [{composed}]}}"
    root = write(tmp_path / "2", [composed, apart], text)
    assert splits(pairs_of(root, PairsConfig())) == {composed: "train", apart: "val"}


def test_splits_of_folders_stay_where_the_file_names_none(tmp_path: Path) -> None:
    root = write(tmp_path, ["train/a", "train/b", "test/c"], "splits: {val: [train/b]}")
    assert splits(pairs_of(root, PairsConfig())) == {
        "test/c": "test",
        "train/a": "train",
        "train/b": "val",
    }


def test_every_line_that_does_not_fit_is_listed(tmp_path: Path) -> None:
    text = "splits: {train: [a, b.png, 'x*', '*'], val: [a, 'b*'], test: ['?']}"
    root = write(tmp_path, ["a", "b"], text)
    with pytest.raises(ConfigError, match="do not fit its 2 pairs") as error:
        pairs_of(root, PairsConfig())
    assert error.value.offenders == [
        "train: b.png matches no pair",
        "train: x* matches no pair",
        "a is in train and val",
        "b is in test and val",
    ]
    assert "without suffix, such as a" in error.value.fix


def test_names_of_files_that_are_left_out_are_forgiven(tmp_path: Path) -> None:
    root = draw(tmp_path, ["a", "b"])
    (root / "dataset.yaml").write_text("splits: {train: [a], val: [b]}")
    (root / "masks" / "b.png").unlink()
    assert splits(pairs_of(root, PairsConfig())) == {"a": "train"}
    known = survey(root, strict=False)
    assert splits(known.pairs) == {"a": "train"}
    assert known.pairs.left_out == ((root / "images" / "b.png", NO_MASK),)


# A folder as a whole


def draw(root: Path, stems: Iterable[str], seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for stem in stems:
        write_png(root / "images" / f"{stem}.png", rng.integers(0, 256, (16, 16, 3), np.uint8))
        mask = np.repeat(np.array([0, 1, 9, 200], np.uint8), 64).reshape(16, 16)
        write_png(root / "masks" / f"{stem}.png", mask)
    return root


def test_a_survey_follows_the_file(tmp_path: Path) -> None:
    root = draw(tmp_path, ["p1_a", "p1_b", "p2_a", "p3_a"])
    (root / "dataset.yaml").write_text(
        "classes: {sky: 0, tree: 1, car: 9}\nignore: 200\nsplits: {val: [p1_*], train: ['*']}"
    )
    heard = Heard()
    known = survey(root, progress=heard)
    assert known.class_map.names == ("sky", "tree", "car")
    assert known.class_map.ignore == (200,)
    assert splits(known.pairs) == {"p1_a": "val", "p1_b": "val", "p2_a": "train", "p3_a": "train"}
    assert known.rules[0] == heard.said[0] == "dataset.yaml: classes, ignore, splits"
    assert "by dataset.yaml" in known.rules[2]
    again = survey(root, DataConfig(ignore=(200, 1)))
    assert again.class_map.names == ("sky", "car")
    assert again.rules[0] == "dataset.yaml: classes, splits"


def test_what_a_survey_found_is_kept_by_writing_it(tmp_path: Path) -> None:
    root = draw(tmp_path, [f"{i:03}" for i in range(8)])
    known = survey(root)
    write_description(root / "dataset.yaml", known.class_map, known.pairs)
    draw(root, [pair.name for pair in known.pairs.pairs], seed=1)
    written = (root / "dataset.yaml").rename(tmp_path / "kept.yaml")
    assert splits(survey(root).pairs) != splits(known.pairs)  # by content, they split otherwise
    written.rename(root / "dataset.yaml")
    again = survey(root)
    assert again.class_map == known.class_map
    assert splits(again.pairs) == splits(known.pairs)


def test_names_of_no_file_are_listed_whatever_else_is_left_out(tmp_path: Path) -> None:
    root = write(tmp_path, ["a", "b"], "splits: {train: ['*'], test: [b.png]}")
    (root / "logo.png").write_bytes(b"content is not looked at")
    with pytest.raises(ConfigError, match="do not fit its 2 pairs") as error:
        pairs_of(root)
    assert error.value.offenders == ["test: b.png matches no pair"]


def test_places_by_hand_that_are_those_of_the_file_leave_its_splits(tmp_path: Path) -> None:
    text = "images: images\nmasks: masks\nsplits: {train: [a], test: [b]}"
    root = write(tmp_path, ["a", "b"], text)
    for base in (Path(), root):
        by_hand = PairsConfig(images=base / "images", masks=base / "masks")
        assert splits(pairs_of(root, by_hand)) == {"a": "train", "b": "test"}


def test_a_name_in_another_case_of_a_file_that_is_left_out_is_forgiven(tmp_path: Path) -> None:
    for n in (1, 2, 3):
        for path in (tmp_path / f"images/IMG_{n}.png", tmp_path / f"masks/img_{n}.png"):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"content is not looked at")
    (tmp_path / "masks/img_3.png").unlink()
    (tmp_path / "dataset.yaml").write_text("splits: {train: [img_1, img_3], val: [img_2]}")
    assert splits(pairs_of(tmp_path, PairsConfig())) == {"img_1": "train", "img_2": "val"}
