"""dataset.yaml is read strictly, and what is written reads back the same."""

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from unetseg.config import DataConfig
from unetseg.data.facts.survey import Survey, survey
from unetseg.data.masks.class_list import NamedClass
from unetseg.data.masks.class_map import ClassInfo, ClassMap, Code, write_mask
from unetseg.data.masks.infer_classes import distinct_colours, infer_class_map
from unetseg.data.masks.mask_values import mask_facts
from unetseg.data.pairs.dataset_yaml import (
    SIZE_LIMIT,
    Description,
    located,
    read_description,
    write_description,
)
from unetseg.data.pairs.match import Pair, PairSet
from unetseg.errors import ConfigError, MaskError


def describe(folder: Path, text: str) -> Path:
    (folder / "dataset.yaml").write_text(text, encoding="utf-8")
    return folder


# Reading


def test_every_key_is_read(tmp_path: Path) -> None:
    read = read_description(
        describe(
            tmp_path,
            """
            images: left
            masks: ../right
            pairs: /somewhere/pairs.csv
            group: "^\\\\d+"
            group_column: patient
            val_fraction: 0.25
            snap: yes
            ignore: [255, -1]
            classes: {sky: 0, tree: 1}
            splits: {train: [a, 001, 1e3], validation: b*, test: []}
            """,
        )
    )
    assert read.settings == DataConfig(
        images=tmp_path / "left",
        masks=tmp_path / "../right",
        pairs=Path("/somewhere/pairs.csv"),
        group=r"^\d+",
        group_column="patient",
        val_fraction=0.25,
        snap=True,
        ignore=(255, -1),
    )
    assert read.classes is not None
    assert read.classes.entries == (NamedClass("sky", 0), NamedClass("tree", 1))
    assert read.splits == (("train", "a"), ("train", "001"), ("train", "1e3"), ("val", "b*"))
    assert read.keys[-2:] == ("classes", "splits")


CLASSES = {
    "[sky, no, on]": [("sky", None), ("no", None), ("on", None)],
    "{sky: 0, yes: 255}": [("sky", 0), ("yes", 255)],
    "{0: sky, 7: tree}": [("sky", 0), ("tree", 7)],
    "{names: [1, 2, 3], classes: [4, 5, 6]}": [("names", (1, 2, 3)), ("classes", (4, 5, 6))],
    "{sky: {code: 0, colour: [1, 2, 3]}, tree: 1}": [("sky", 0), ("tree", 1)],
}


@pytest.mark.parametrize("text", CLASSES)
def test_classes_in_any_form_of_a_class_list(tmp_path: Path, text: str) -> None:
    read = read_description(describe(tmp_path, f"classes: {text}"))
    assert read.classes is not None
    assert [(entry.name, entry.code) for entry in read.classes.entries] == CLASSES[text]
    assert read.classes.source == "dataset.yaml"


@pytest.mark.parametrize("text", ["", "# nothing\n", "classes:\nsplits:\n"])
def test_nothing_said_is_nothing_set(tmp_path: Path, text: str) -> None:
    read = read_description(describe(tmp_path, text))
    assert (read.keys, read.settings, read.classes, read.splits) == ((), DataConfig(), None, ())


def test_no_file_is_no_description(tmp_path: Path) -> None:
    assert read_description(tmp_path) == Description()
    assert read_description(tmp_path / "nowhere") == Description()
    (tmp_path / "dataset.yaml").mkdir()
    assert read_description(tmp_path) == Description()


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    for snap in (True, False, True):
        read = read_description(describe(tmp_path, f"snap: {snap!s:5}"))
        assert read.settings.snap is snap


def test_every_wrong_place_is_listed(tmp_path: Path) -> None:
    text = """
    clases: [a, b]
    path: /data
    images: [day, night]
    val_fraction: 3
    ignore: [void]
    snap: perhaps
    max_pixels: 99999999999
    classes: {a: 1, b: pink}
    splits: {train: [[a]], holdout: [b]}
    """
    with pytest.raises(ConfigError, match="is wrong in 10 places") as error:
        read_description(describe(tmp_path, text))
    told = error.value.offenders
    assert told[0] == "unknown key 'clases' (did you mean classes?)"
    assert told[1] == "unknown key 'path'"
    assert told[2] == "unknown key 'max_pixels'"  # a folder cannot lift the limit on bombs
    assert told[3] == "images: ['day', 'night'] is wrong: expected a path"
    assert {line.partition(":")[0] for line in told[4:]} == {
        *("val_fraction", "ignore", "snap", "classes", "splits")
    }
    assert "'pink' is no code" in str(error.value)
    assert "'holdout' is none of train, val, test" in str(error.value)
    assert "pairs, unpaired, group, group_column, val_fraction, snap" in error.value.fix


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b", "holds no keys, but a list"),
        ("just text", "holds no keys, but a str"),
        ("snap: true\nsnap: false", "twice there: snap"),
        ("classes: {a: 1, a: 2}", "twice there: a"),
        ("a: &x [1]\nb: *x", r"references \(\*name\) are refused"),
        ("snap: [", "is no such YAML"),
        ("snap: !!int x", "is no such YAML"),
        ("classes: " + "[" * 5000, "is no such YAML"),
        ("classes: []", "it names no class"),
        ("splits: train", "expected train, val and test"),
        ("classes: classes.txt", "expected a list of names"),
    ],
)
def test_what_is_no_description_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_description(describe(tmp_path, text))


def test_nothing_is_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for tag in ("python/object/apply:os.system", "python/object/new:os.system"):
        for key in ("group", "splits", "classes"):
            text = f"{key}: !!{tag} ['touch {trace}']"
            with pytest.raises(ConfigError, match="could not determine a constructor"):
                read_description(describe(tmp_path, text))
    assert not trace.exists()


def test_other_files_are_refused_before_they_are_parsed(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_bytes(b"group: \xff")
    with pytest.raises(ConfigError, match="plain text in UTF-8"):
        read_description(tmp_path)
    with (tmp_path / "dataset.yaml").open("wb") as file:
        file.truncate(SIZE_LIMIT + 1)
    with pytest.raises(ConfigError, match="16,777,217 bytes, at most 16,777,216"):
        read_description(tmp_path)


# Writing


def read_back(path: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The classes and the names of each split."""
    read = read_description(path.parent)
    assert read.classes is not None
    splits: dict[str, list[str]] = {}
    for split, name in read.splits:
        splits.setdefault(split, []).append(name)
    return {entry.name: entry.code for entry in read.classes.entries}, splits


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8) | st.sampled_from(
    ["001", "1e3", "no", "null", "~", "*", "a [1]", "x\ny", " pad ", "2020-01-01", "# a", "=", "<<"]
)


@settings(max_examples=60)
@given(st.lists(names, min_size=2, max_size=6, unique=True), st.lists(names, unique=True))
def test_any_name_reads_back(
    tmp_path_factory: pytest.TempPathFactory, classes: list[str], pairs: list[str]
) -> None:
    path = tmp_path_factory.mktemp("data") / "dataset.yaml"
    colours = distinct_colours(len(classes))
    infos = [ClassInfo(name=n, code=i, colour=colours[i]) for i, n in enumerate(classes)]
    splits = ["train", "val", "test"]
    found = PairSet(
        path.parent, tuple(Pair(Path(), None, n, splits[len(n) % 3]) for n in pairs), ""
    )
    write_description(path, ClassMap(classes=tuple(infos)), found)
    expected = {
        split: [pair.name for pair in found.pairs if pair.split == split] for split in splits
    }
    assert read_back(path) == (
        {name: i for i, name in enumerate(classes)},
        {split: listed for split, listed in expected.items() if listed},
    )


def test_names_that_are_no_text_read_back(tmp_path: Path) -> None:
    odd = ["train/\udcff", unicodedata.normalize("NFD", "é"), "\x85", "\ufeffa", "\U0001f98a"]
    pairs = tuple(Pair(Path(), None, name, "train") for name in odd)
    infos = (
        ClassInfo(name="a", code=0, colour=(0, 0, 0)),
        ClassInfo(name="b", code=1, colour=(230, 25, 75)),
    )
    write_description(
        tmp_path / "dataset.yaml", ClassMap(classes=infos), PairSet(tmp_path, pairs, "")
    )
    assert read_back(tmp_path / "dataset.yaml")[1] == {"train": odd}


def test_settings_are_written_relative_to_the_file(tmp_path: Path) -> None:
    infos = (
        ClassInfo(name="a", code=0, colour=(0, 0, 0)),
        ClassInfo(name="b", code=1, colour=(9, 9, 9)),
    )
    given_settings = DataConfig(
        images=tmp_path / "left" / "x", masks=tmp_path.parent / "right", group=r"^(\d+)_"
    )
    write_description(tmp_path / "dataset.yaml", ClassMap(classes=infos), settings=given_settings)
    content = yaml.safe_load((tmp_path / "dataset.yaml").read_text())
    assert (content["images"], content["masks"]) == ("left/x", "../right")
    read = read_description(tmp_path)
    assert read.settings.group == given_settings.group
    assert read.settings.images == given_settings.images
    assert read.settings.masks is not None
    assert read.settings.masks.resolve() == given_settings.masks


def test_two_classes_of_one_name_are_refused(tmp_path: Path) -> None:
    infos = tuple(ClassInfo(name="a", code=i, colour=(i, i, i)) for i in range(2))
    with pytest.raises(MaskError, match="two classes have one name"):
        write_description(tmp_path / "dataset.yaml", ClassMap(classes=infos))


def class_map(
    codes: dict[str, Code], colours: Sequence[tuple[int, int, int]], **more: Any
) -> ClassMap:
    infos = [
        ClassInfo(name=name, code=code, colour=colour)
        for (name, code), colour in zip(codes.items(), colours, strict=True)
    ]
    return ClassMap(classes=tuple(infos), **more)


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
MAPS = {
    "own colours": class_map({"sky": 3, "no": 7}, [GREEN, RED], ignore=(255, 9)),
    "colours": class_map(
        {"sky": BLUE, "tree": GREEN}, [BLUE, GREEN], coding="rgb", ignore=((7, 7, 7), RED, (9,) * 3)
    ),
    "negative": class_map(
        {"background": 0, "water": 1},
        [(0, 0, 0), (230, 25, 75)],
        dtype="int16",
        ignore=(-1,),
        background=0,
        suffix=".tif",
    ),
    "snapped": class_map(
        {"background": 0, "cell": 255}, [(0, 0, 0), (230, 25, 75)], background=0, snap=True
    ),
    "a ground": class_map({"sea": 0, "land": 1}, [GREEN, RED], background=1),
    "no ground": class_map({"background": 0, "land": 1}, [GREEN, RED]),
}


@pytest.mark.parametrize("name", MAPS)
def test_the_same_class_map_is_concluded_from_what_was_written(tmp_path: Path, name: str) -> None:
    expected = MAPS[name]
    codes = [*(item.code for item in expected.classes), *expected.ignore]
    mask = np.repeat(np.array(codes, expected.dtype)[None], 4, 0)
    files = write_masks(tmp_path, mask, expected)
    write_description(tmp_path / "dataset.yaml", expected)
    read = read_description(tmp_path)
    facts = [mask_facts(file) for file in files]
    found, _ = infer_class_map(
        facts,
        names=read.classes,
        **read.settings.model_dump(include={"ignore", "snap", "background"}),
    )
    assert found == expected


def write_masks(folder: Path, mask: np.ndarray[Any, Any], like: ClassMap) -> Iterator[Path]:
    """Two files that hold every code of `like`."""
    every = class_map(
        {str(i): code for i, code in enumerate([*(c.code for c in like.classes), *like.ignore])},
        [(i, i, i) for i in range(len(like.classes) + len(like.ignore))],
        coding=like.coding,
        dtype=like.dtype,
    )
    for name in ("a", "b"):
        path = folder / f"{name}{like.suffix}"
        write_mask(path, every.encode(mask), every)
        yield path


REAL = (
    *("camvid", "crackforest", "cwfid", "drive", "dsb2018", "glas256", "hot_buildings_geotiff"),
    *("isbi2012_em", "nucseg_16bit", "sen1floods11_sample", "sen1floods11_tiles13band"),
    *("tiny_ade20k", "tiny_kvasir_jpgmask", "tiny_voc_palette"),
)


@pytest.mark.parametrize("name", REAL)
def test_a_real_folder_reads_back_the_same(real_data: Path, tmp_path: Path, name: str) -> None:
    known = survey(real_data / name)
    for folder in (real_data / name).iterdir():
        if folder.is_dir():  # without classes.txt
            (tmp_path / folder.name).symlink_to(folder)
    write_description(tmp_path / "dataset.yaml", known.class_map, known.pairs)
    again = survey(tmp_path)
    assert again.class_map == known.class_map
    assert splits(again) == splits(known)
    assert again.rules[0] == "dataset.yaml: " + ", ".join(
        key
        for key, stands in (
            ("classes", True),
            ("ignore", known.class_map.ignore),
            ("snap", known.class_map.snap),
            ("splits", True),
        )
        if stands
    )


def splits(known: Survey) -> dict[str, str | None]:
    return {pair.name: pair.split for pair in known.pairs.pairs}


def test_patterns_from_here_are_written_from_the_folder_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    given = DataConfig(images=Path("data/*_rgb.png"), masks=Path("*_fg.png"))
    settings = located(Path("data"), given)
    known = class_map({"a": 0, "b": 1}, [(255, 0, 0), (0, 255, 0)])
    write_description(tmp_path / "data" / "dataset.yaml", known, settings=settings)
    read = read_description(tmp_path / "data").settings
    assert (read.images, read.masks) == (Path("*_rgb.png"), Path("*_fg.png"))
