"""The file dataset.yaml: what a folder of pairs says about itself, read and written.

Its keys are settings of `DataConfig` (paths are relative to the folder), `classes`, a class list as
in classes.yaml, and `splits`, the names of pairs, or patterns for them, below train, val and test.
"""

import difflib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from unetseg.config import DataConfig
from unetseg.data.masks.class_list import ClassNames, load_yaml, parse_class_names
from unetseg.data.masks.class_map import ClassMap, Code
from unetseg.data.masks.infer_classes import distinct_colours
from unetseg.data.pairs.match import PairSet
from unetseg.data.pairs.naming import SPLITS
from unetseg.errors import ConfigError, MaskError
from unetseg.storage import write_text
from unetseg.text import plural, printable

FILE = "dataset.yaml"
SIZE_LIMIT = 2**24  # bytes; the names of some 400,000 pairs
PLACES = ("images", "masks", "pairs")
GROUPS = ("group", "group_column")
_SETTINGS = (*PLACES, *GROUPS, "val_fraction", "snap", "ignore")
_KEYS = (*_SETTINGS, "classes", "splits")
_SHOWN = 60  # characters of a wrong value
_BREAKS = frozenset("\x85\u2028\u2029")  # PyYAML breaks lines there unless they are escaped


@dataclass(frozen=True)
class Description:
    """What a dataset.yaml says.

    Attributes:
        path: The file.
        keys: Its keys, in their order.
        settings: Those that are settings; the others have their default and are not in
            `model_fields_set`. Paths begin with the folder.
        classes: The class list, if there is one.
        splits: Split and name of pairs, or a pattern, in the order of the file.
    """

    path: Path
    keys: tuple[str, ...]
    settings: DataConfig
    classes: ClassNames | None
    splits: tuple[tuple[str, str], ...]


def read_description(data: Path) -> Description | None:
    """What the dataset.yaml in the folder `data`, or beside the CSV file `data`, says.

    Raises:
        ConfigError: it cannot be read, or has unknown keys or wrong values; all of them are listed.
    """
    folder = data if data.is_dir() else data.parent if data.is_file() else None
    if folder is None or not (folder / FILE).is_file():
        return None
    return _parse(folder / FILE, _read(folder / FILE))


def _read(file: Path) -> str:
    try:
        size = file.stat().st_size
        if size > SIZE_LIMIT:
            raise ConfigError(
                f"{printable(file)} has {size:,} bytes, at most {SIZE_LIMIT:,} are read",
                fix="Say it shorter: splits may hold patterns, such as site1/*.",
            )
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        fix = "Save it as plain text in UTF-8."
        raise ConfigError(f"{printable(file)} cannot be read: {error}", fix=fix) from error


@lru_cache(maxsize=8)  # one command looks at it several times
def _parse(file: Path, text: str) -> Description:
    try:
        content = load_yaml(text)
    except yaml.YAMLError as error:
        reason = printable(" ".join(str(error).split()))
        fix = "Write plain YAML, with lines such as snap: true."
        raise ConfigError(f"{printable(file)} is no such YAML: {reason}", fix=fix) from error
    if not isinstance(content, dict | None):
        fix = "Write lines such as snap: true."
        raise ConfigError(
            f"{printable(file)} holds no keys, but a {type(content).__name__}", fix=fix
        )
    return _understood(file, text, content or {})


def _understood(file: Path, text: str, content: Mapping[object, object]) -> Description:
    said = {str(key): value for key, value in content.items() if value is not None}
    faults = [_unknown(key) for key in map(str, content) if key not in _KEYS]
    settings, wrong = _settings(file.parent, said)
    classes, no_list = _classes(said)
    splits = list(_splits(text)) if "splits" in said else []
    faults += [*wrong, *no_list, *(fault for fault in splits if isinstance(fault, str))]
    if faults:
        fix = (
            f"The keys are {', '.join(_KEYS)}. If the file is another program's, call it otherwise."
        )
        raise ConfigError(
            f"{printable(file)} is wrong in {plural(len(faults), 'place')}", faults, fix
        )
    named = tuple(split for split in splits if not isinstance(split, str))
    return Description(file, tuple(said), settings, classes, named)


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, _KEYS, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"unknown key {_short(key)}{hint}"


def _settings(folder: Path, said: Mapping[str, object]) -> tuple[DataConfig, list[str]]:
    """The settings, and what is wrong with them."""
    stated = {key: said[key] for key in _SETTINGS if key in said}
    if type(stated.get("ignore")) is int:
        stated["ignore"] = [stated["ignore"]]
    try:
        settings = DataConfig.model_validate(stated)
    except ValidationError as error:
        return DataConfig(), [
            f"{fault['loc'][0]}: {_short(fault['input'])} {_expected(fault['msg'])}"
            for fault in error.errors()
        ]
    places = {key: folder / getattr(settings, key) for key in PLACES if key in stated}
    return settings.model_copy(update=places), []


def _expected(message: str) -> str:
    """What pydantic says, as an expectation."""
    return f"is wrong: expected {message.removeprefix('Input should be ')}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _classes(said: Mapping[str, object]) -> tuple[ClassNames | None, list[str]]:
    """The class list, and what is wrong with it."""
    if "classes" not in said:
        return None, []
    try:
        return parse_class_names(said["classes"], FILE), []
    except MaskError as error:
        return None, [f"classes: {error.summary}"]


def _splits(text: str) -> Iterator[tuple[str, str] | str]:
    """Split and name of each line, as it is written (001 is no number); or what is wrong."""
    splits = yaml.load(text, Loader=yaml.BaseLoader).get("splits")
    if not isinstance(splits, dict):
        yield "splits: expected train, val and test, each with names of pairs"
        return
    for key, names in splits.items():
        split = SPLITS.get(str(key).lower())
        listed = [names] if isinstance(names, str) and names else names or []
        if split is None:
            yield f"splits: {_short(key)} is none of train, val, test"
        elif not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            yield f"splits: {key}: expected a list of names"
        else:
            yield from ((split, name) for name in listed)


# Writing

_COMMENTS = {
    "images": "Folder of the images.",
    "masks": "Folder of the masks.",
    "pairs": "CSV file of the pairs.",
    "group": "Regular expression; images with equal matches stay in one split.",
    "group_column": "Column of the CSV file; images with equal values stay in one split.",
    "val_fraction": "Share of the images held out for validation.",
    "classes": "Classes: name, and code in the mask files.",
    "ignore": "Codes of pixels without a truth: no loss and no score counts them.",
    "snap": "Other mask values are snapped to the nearest class.",
    "splits": "Names of the pairs in each split; patterns such as site1/* may be used.",
}


def write_description(
    path: Path,
    class_map: ClassMap,
    pairs: PairSet | None = None,
    settings: DataConfig | None = None,
) -> None:
    """Write a dataset.yaml, from which the same `ClassMap` and the same splits are read again.

    Args:
        path: The file; `dataset.yaml` in the folder of the pairs to have an effect.
        class_map: Classes, ignored codes, and whether to snap.
        pairs: Their splits, if they have any.
        settings: Where the pairs are and how they are grouped and split, as far as it is set.

    Raises:
        MaskError: two classes have one name.
        MachineError: the file cannot be written.
    """
    classes, ignore = _class_codes(class_map)
    content = {
        **_stated(settings or DataConfig(), path.parent),
        "classes": classes,
        "ignore": ignore,
        "snap": class_map.snap,
        "splits": _names_of_splits(pairs) if pairs else {},
    }
    blocks = [f"# {_COMMENTS[key]}\n{_dump(key, value)}" for key, value in content.items() if value]
    head = "# What these images and masks are; every unetseg command honours it.\n"
    write_text(path, "\n".join([head, *blocks]))


def _stated(settings: DataConfig, folder: Path) -> dict[str, object]:
    """The settings that are not the default, with paths relative to the folder of the file."""
    own = {key: getattr(settings, key) for key in (*PLACES, *GROUPS, "val_fraction")}
    return {
        key: os.path.relpath(value, folder) if isinstance(value, Path) else value
        for key, value in own.items()
        if value != DataConfig.model_fields[key].default
    }


def _class_codes(class_map: ClassMap) -> tuple[dict[str, object], list[int]]:
    """What to write for each class, and the ignored codes.

    Ignored codes are numbers, which are greys among colours. From the first that is another colour
    they become classes that are called void, so that their order stays.
    """
    twice = [name for name, times in Counter(class_map.names).items() if times > 1]
    if twice:
        raise MaskError("two classes have one name", twice, "Rename one of each.")
    colours = None if _has_usual_colours(class_map) else class_map.colours.tolist()
    classes: dict[str, object] = {}
    for i, item in enumerate(class_map.classes):
        code = _plain(item.code)
        classes[item.name] = {"code": code, "colour": colours[i]} if colours else code
    numbers = [_number(code) for code in takewhile(_is_number, class_map.ignore)]
    names = (name for i in count(1) if (name := f"void {i}") not in classes)
    voids = class_map.ignore[len(numbers) :]
    classes |= {name: _plain(code) for code, name in zip(voids, names, strict=False)}
    return classes, numbers


def _plain(code: Code) -> int | list[int]:
    return list(code) if isinstance(code, tuple) else code


def _has_usual_colours(class_map: ClassMap) -> bool:
    """Whether the colours follow from the codes or are the fixed list, so that none is written."""
    if class_map.coding != "integer":
        return True
    colours = distinct_colours(len(class_map.classes))
    if class_map.background is not None:
        colours.insert(class_map.background, (0, 0, 0))
    return [item.colour for item in class_map.classes] == colours[: len(class_map.classes)]


def _is_number(code: Code) -> bool:
    return not isinstance(code, tuple) or len(set(code)) == 1


def _number(code: Code) -> int:
    """The number that stands for an ignored code: itself, or that of a grey."""
    return code[0] if isinstance(code, tuple) else code


def _names_of_splits(pairs: PairSet) -> dict[str, list[str]]:
    splits = {
        split: [pair.name for pair in pairs.pairs if pair.split == split]
        for split in ("train", "val", "test")
    }
    return {split: names for split, names in splits.items() if names}


def _dump(key: str, value: object) -> str:
    """A key and its value as YAML, with numbers in one line and names in lines of their own."""
    codes = value.values() if isinstance(value, dict) else ()
    in_line = key == "ignore" or (key == "classes" and not all(isinstance(c, int) for c in codes))
    style: dict[str, Any] = {"default_flow_style": None if in_line else False}
    style |= {"sort_keys": False, "width": 10**6}
    text = str(yaml.safe_dump({key: value}, allow_unicode=True, **style))
    return text if _BREAKS.isdisjoint(text) else str(yaml.safe_dump({key: value}, **style))
