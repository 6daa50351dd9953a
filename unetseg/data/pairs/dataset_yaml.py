"""The file dataset.yaml: what a folder of pairs says about itself, read, applied and written.

Its keys are settings of `DataConfig` (paths are relative to the folder), `classes`, a class list as
in classes.yaml, and `splits`, the names of pairs, or patterns for them, below train, val and test.
What the user sets explicitly wins over the file.
"""

import difflib
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from unetseg.config import DataConfig, PairsConfig, expected
from unetseg.data.files.folders import root_of
from unetseg.data.masks.class_list import ClassNames, load_yaml, parse_class_names
from unetseg.data.masks.class_map import ClassMap, Code
from unetseg.data.masks.infer_classes import distinct_colours
from unetseg.data.masks.listed_classes import background_by_name
from unetseg.data.pairs.match import find_pairs
from unetseg.data.pairs.naming import SPLIT_NAMES, SPLITS, fold, tokens
from unetseg.data.pairs.pair import PairSet, coded_as
from unetseg.data.pairs.questions import is_pattern
from unetseg.errors import ConfigError, MaskError
from unetseg.storage import write_text
from unetseg.text import plural, printable

FILE = "dataset.yaml"
SIZE_LIMIT = 2**24  # bytes; the names of some 400,000 pairs
PLACES = ("images", "masks", "pairs")
GROUPS = ("group", "group_column")
_SETTINGS = (*PLACES, "unpaired", *GROUPS, "val_fraction", "snap", "ignore", "background")
_KEYS = (*_SETTINGS, "classes", "splits")
_REST = "*"  # all pairs that no other line names
_SHOWN = 60  # characters of a wrong value
_BREAKS = frozenset("\x85\u2028\u2029")  # PyYAML breaks lines there unless they are escaped

_Config = TypeVar("_Config", bound=PairsConfig)


@dataclass(frozen=True)
class Description:
    """What a dataset.yaml says; nothing where there is none.

    Attributes:
        path: The file.
        keys: Its keys, in their order.
        settings: Those that are settings; the others have their default and are not in
            `model_fields_set`. Paths are whole; patterns are of paths in the folder.
        classes: The class list, if there is one.
        splits: Split and name of pairs, or a pattern, in the order of the file.
    """

    path: Path = Path(FILE)
    keys: tuple[str, ...] = ()
    settings: DataConfig = DataConfig()  # noqa: RUF009 (frozen)
    classes: ClassNames | None = None
    splits: tuple[tuple[str, str], ...] = ()


def read_description(data: Path) -> Description:
    """What the dataset.yaml in the folder `data`, or beside the CSV file `data`, says.

    Raises:
        ConfigError: it cannot be read, or has unknown keys or wrong values; all of them are listed.
    """
    file = (data if data.is_dir() else data.parent) / FILE
    if not (data.exists() and file.is_file()):
        return Description()
    text = _read(file)
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
    return _parse(file, text, content or {})


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


def _parse(file: Path, text: str, content: Mapping[object, object]) -> Description:
    said = {str(key): value for key, value in content.items() if value is not None}
    faults = [_unknown(key) for key in map(str, content) if key not in _KEYS]
    settings, wrong = _settings(file.parent, said)
    faults += wrong
    classes = None
    if "classes" in said:
        try:
            classes = parse_class_names(said["classes"], FILE)
        except MaskError as error:
            faults.append(f"classes: {error.summary}")
    splits = list(_splits(text)) if "splits" in said else []
    faults += [fault for fault in splits if isinstance(fault, str)]
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
            f"{fault['loc'][0]}: {_short(fault['input'])} is wrong: expected {expected(fault)}"
            for fault in error.errors()
        ]
    named = {key: Path(getattr(settings, key)) for key in PLACES if key in stated}
    places = {key: (folder / given).absolute() for key, given in named.items()}
    patterns = {k: g for k, g in named.items() if is_pattern(g) and not places[k].exists()}
    return settings.model_copy(update=places | patterns), []


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


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


# Applying


def described(data: Path, config: _Config) -> tuple[_Config, Description]:
    """`config` with what dataset.yaml says for the settings that are the default, and what holds.

    Who says by hand where the pairs are, or how they are grouped, says all of it: then the file's
    own places (with its splits) or groups do not count. The description that is returned holds
    only the keys that nothing overrules.

    Raises:
        ConfigError: dataset.yaml is wrong, or names what is not there.
    """
    description = read_description(data)
    stated = description.settings
    keys = _in_force(description, data, config)
    filled = {
        key: getattr(stated, key)
        for key in keys
        if key in type(config).model_fields and key in stated.model_fields_set
    }
    places = {key: filled[key] for key in PLACES if filled.get(key) is not None}
    whole = {key: place for key, place in places.items() if place.is_absolute()}  # no pattern
    lost = [f"{key}: {printable(place)}" for key, place in whole.items() if not place.exists()]
    if lost:
        fix = "Correct it; paths are relative to the folder of dataset.yaml."
        raise ConfigError(f"{printable(description.path)} names what is not there", lost, fix)
    in_force = replace(
        description,
        keys=keys,
        classes=description.classes if "classes" in keys else None,
        splits=description.splits if "splits" in keys else (),
    )
    return config.model_copy(update=filled), in_force


def _in_force(description: Description, data: Path, config: PairsConfig) -> tuple[str, ...]:
    """The keys of the file that nothing overrules."""
    stated = description.settings
    over = {
        name
        for name, field in type(config).model_fields.items()
        if _whole(getattr(config, name), description.path.parent)
        not in (field.default, getattr(stated, name))
    }
    table = description.path.parent / (stated.pairs or "pairs.csv")
    is_listed_elsewhere = data.is_file() and not (table.is_file() and table.samefile(data))
    if is_listed_elsewhere or not over.isdisjoint(PLACES):
        over |= {*PLACES, "group_column", "splits"}
    if data.is_file():
        over |= {*PLACES}
    if not over.isdisjoint(GROUPS):
        over |= {*GROUPS}
    return tuple(key for key in description.keys if key not in over)


def _whole(value: object, root: Path) -> object:
    """The whole path of what is in `root`, or else there from here; anything else as it is."""
    if not isinstance(value, Path):
        return value
    return next((path.absolute() for path in (root / value, value) if path.exists()), value)


def find_described(
    data: Path, config: _Config, class_map: ClassMap | None = None
) -> tuple[PairSet, _Config]:
    """All pairs of `data` as dataset.yaml describes them, and `config` with what it says.

    With `class_map`, classes that have mask files of their own have the codes that it tells.

    Raises:
        PairingError: images and masks do not match up; every offender is listed.
        ConfigError: dataset.yaml is wrong, or its splits name pairs that are not there.
        MaskError: there is a class that `class_map` lacks.
    """
    config, description = described(data, config)
    pairs = find_pairs(data, config)
    pairs = coded_as(pairs, class_map) if class_map else pairs
    return split_as_described(pairs, description), config


def split_as_described(pairs: PairSet, description: Description) -> PairSet:
    """The pairs with the splits of dataset.yaml; those that it does not name keep their own.

    An exact name counts before a pattern, and that before a mere *.

    Args:
        pairs: What the lines of the file name.
        description: The lines.

    Raises:
        ConfigError: a line names neither a pair nor a file that is left out, or a pair is in
            several splits.
    """
    if "splits" not in description.keys:
        return pairs
    forms: dict[str, list[str]] = defaultdict(list)  # names by their composed Unicode form
    for pair in pairs.pairs:
        forms[_composed(pair.name)].append(pair.name)
    ranks: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    left_out = {fold(path.stem) for path, _ in pairs.left_out}
    faults = []
    for split, line in description.splits:
        rank, names = _matched(line, forms)
        for name in names:
            ranks[name][rank].add(split)
        if not names and line != _REST and not _may_be_among(line, left_out):
            faults.append(f"{printable(f'{split}: {line}')} matches no pair")
    splits = {name: sorted(rank[min(rank)]) for name, rank in ranks.items()}
    faults += [f"{printable(n)} is in {' and '.join(s)}" for n, s in splits.items() if len(s) > 1]
    if faults:
        count = len(pairs.pairs)
        example = f", such as {printable(pairs.pairs[0].name)}" if count else ""
        raise ConfigError(
            f"the splits of {printable(description.path)} do not fit its {plural(count, 'pair')}",
            faults,
            f"Name each pair in one split; names are relative and without suffix{example}. "
            "Names count before patterns, and * means all the others.",
        )
    named = (replace(p, split=splits.get(p.name, [p.split])[0]) for p in pairs.pairs)
    return replace(pairs, pairs=tuple(named))


def _may_be_among(line: str, stems: Collection[str]) -> bool:
    """Whether a line may mean one of the files that are in no pair."""
    last = fold(line).rpartition("/")[2]
    if is_pattern(last):
        return any(fnmatchcase(stem, f"*{last}*") for stem in stems)
    return any(  # 21 of 21_training, um_1 of um_road_1
        last in stem or last.startswith(stem) or {*tokens(last)} <= {*tokens(stem)}
        for stem in stems
    )


def _matched(line: str, forms: Mapping[str, list[str]]) -> tuple[int, list[str]]:
    """The names that a line means, and how surely (0: to the letter)."""
    form = _composed(line)
    if line in forms.get(form, ()):
        return 0, [line]
    if form in forms:
        return 1, forms[form]
    if line == _REST:
        return 3, [*chain(*forms.values())]
    if not is_pattern(line):
        return 2, []
    return 2, [n for other, same in forms.items() if fnmatchcase(other, form) for n in same]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


# Writing

_COMMENTS = {
    "images": "Folder of the images.",
    "masks": "Folder of the masks.",
    "pairs": "CSV file of the pairs.",
    "unpaired": "Images without mask; skip: left out, empty: they show nothing, error: refused.",
    "group": "Regular expression; images with equal matches stay in one split.",
    "group_column": "Column of the CSV file; images with equal values stay in one split.",
    "val_fraction": "Share of the images held out for validation.",
    "classes": "Classes: name, and code in the mask files.",
    "background": "Class that is left out of means over the foreground; none: every class counts.",
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
        settings: Where the pairs are and how they are grouped and split, as far as it is set;
            relative paths are written as they are.

    Raises:
        MaskError: two classes have one name.
        MachineError: the file cannot be written.
    """
    classes, ignore = _class_codes(class_map)
    content = {
        **_stated(settings or DataConfig(), path.parent),
        "classes": classes,
        "background": _background(class_map),
        "ignore": ignore,
        "snap": class_map.snap,
        "splits": _names_of_splits(pairs) if pairs else {},
    }
    blocks = [f"# {_COMMENTS[key]}\n{_dump(key, value)}" for key, value in content.items() if value]
    head = "# What these images and masks are; every unetseg command goes by it.\n"
    write_text(path, "\n".join([head, *blocks]))


def located(data: Path, config: DataConfig) -> DataConfig:
    """The settings of the pairs in `data`, with whole paths; patterns of `data` stay."""
    root = data if data.is_dir() else data.parent
    named = {"pairs": data if data.is_file() else config.pairs}
    named |= {"images": config.images, "masks": config.masks}
    places = {
        key: place.absolute()
        for key, given in named.items()
        if given
        for place in (given, root / given)  # the last that is there counts
        if place.exists()
    }
    places |= {  # patterns that count from here
        key: given.absolute()
        for key, given in named.items()
        if given and key not in places and not root_of(root / given).is_dir()
    }
    return config.model_copy(update=places)


def _stated(settings: DataConfig, folder: Path) -> dict[str, object]:
    """The settings that are not the default, as the file in `folder` has them."""
    own = {key: getattr(settings, key) for key in (*PLACES, "unpaired", *GROUPS, "val_fraction")}
    return {
        key: _written(value, folder)
        for key, value in own.items()
        if value != DataConfig.model_fields[key].default
    }


def _written(value: object, folder: Path) -> object:
    """A setting, of whole paths those from `folder` on."""
    if not isinstance(value, Path):
        return value
    return os.path.relpath(value, folder) if value.is_absolute() else value.as_posix()


def _class_codes(class_map: ClassMap) -> tuple[object, list[int]]:
    """What to write for the classes, and the ignored codes.

    Ignored codes are numbers, which are greys among colours. From the first that is another colour
    they become classes that are called void, so that their order stays. Where classes have several
    codes, each has an entry. Numbers of objects are no classes, and tell themselves that they are.
    """
    twice = [name for name, times in Counter(class_map.names).items() if times > 1]
    if twice:
        raise MaskError("two classes have one name", twice, "Rename one of each.")
    colours = None if _has_usual_colours(class_map) else class_map.colours.tolist()
    classes: dict[str, object] = {}
    for i, item in enumerate(class_map.classes):
        code = _plain(item.code)
        classes[item.name] = {"code": code, "colour": colours[i]} if colours else code
    greys = takewhile(_is_number, class_map.ignore)
    numbers = [code[0] if isinstance(code, tuple) else code for code in greys]
    names = (name for i in count(1) if (name := f"void {i}") not in classes)
    voids = class_map.ignore[len(numbers) :]
    classes |= {name: _plain(code) for code, name in zip(voids, names, strict=False)}
    if class_map.objects:
        return None, numbers
    if not class_map.united:
        return classes, numbers
    further = [(class_map.names[index], _plain(code)) for code, index in class_map.united]
    entries: list[dict[str, object]] = [
        {"name": name, **(code if isinstance(code, dict) else {"code": code})}
        for name, code in (*classes.items(), *further)
    ]
    return entries, numbers


def _background(class_map: ClassMap) -> str | None:
    """The background, where the names of the classes do not tell it."""
    if class_map.background == background_by_name(class_map.names):
        return None
    return "none" if class_map.background is None else class_map.names[class_map.background]


def _plain(code: Code) -> int | list[int]:
    return list(code) if isinstance(code, tuple) else code


def _has_usual_colours(class_map: ClassMap) -> bool:
    """Whether the colours follow from the codes or are the fixed list, so that none is written."""
    if class_map.coding != "integer":
        return True
    colours = distinct_colours(len(class_map.classes), class_map.background)
    return [item.colour for item in class_map.classes] == colours


def _is_number(code: Code) -> bool:
    return not isinstance(code, tuple) or len(set(code)) == 1


def _names_of_splits(pairs: PairSet) -> dict[str, list[str]]:
    splits = {
        split: [pair.name for pair in pairs.pairs if pair.split == split] for split in SPLIT_NAMES
    }
    return {split: names for split, names in splits.items() if names}


def _dump(key: str, value: object) -> str:
    """A key and its value as YAML, with numbers in one line and names in lines of their own."""
    is_plain = isinstance(value, dict) and all(isinstance(code, int) for code in value.values())
    in_line = key == "ignore" or (key == "classes" and not is_plain)
    style: dict[str, Any] = {"default_flow_style": None if in_line else False}
    style |= {"sort_keys": False, "width": 10**6}
    text = str(yaml.safe_dump({key: value}, allow_unicode=True, **style))
    return text if _BREAKS.isdisjoint(text) else str(yaml.safe_dump({key: value}, **style))
