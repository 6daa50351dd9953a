"""Class lists: classes.txt, .json or .yaml, with the names of classes and, mostly, their codes."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unetseg.data.masks import Code, Colour
from unetseg.errors import MaskError

_FILES = ("classes.txt", "classes.json", "classes.yaml", "classes.yml")
_MASK_FOLDER = re.compile(r"mask|label|annot|segm|truth|target|^gts?$", re.IGNORECASE)
_MEND = "Write classes.txt with one class per line: index and name, or name and r g b."


@dataclass(frozen=True)
class NamedClass:
    """One class of a list; `code` and `colour` where the list gives them."""

    name: str
    code: Code | None = None
    colour: Colour | None = None


@dataclass(frozen=True)
class ClassNames:
    """A class list, in the order of the file called `source`."""

    entries: tuple[NamedClass, ...]
    source: str = "the class list"


def find_class_file(root: Path) -> Path | None:
    """The classes.txt, .json, .yaml or .yml in `root`, or else in its folders of masks."""
    folders = [root]
    if root.is_dir():
        folders += sorted(entry for entry in root.iterdir() if _MASK_FOLDER.search(entry.name))
    files = (folder / name for folder in folders for name in _FILES)
    return next((file for file in files if file.is_file()), None)


def read_class_names(path: Path) -> ClassNames:
    """Read a class list.

    Text has one class per line: `name`, `index name`, `name: index`, `name r g b`,
    `index name r g b` or `r,g,b name`, with `#` comments. JSON and YAML have a list of names,
    {name: code or [r, g, b]} or {code: name}, directly or below the key `names` or `classes`.

    Raises:
        MaskError: the file cannot be read, or is no such list.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        entries = _parse(text, path.suffix.lower())
    except OSError as error:
        raise MaskError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise MaskError(f"{path} is no class list: {reason}", mend=_MEND) from error
    fault = _fault(entries)
    if fault:
        raise MaskError(f"{path} is no class list: {fault}", mend=_MEND)
    return ClassNames(entries, path.name)


def _parse(text: str, suffix: str) -> tuple[NamedClass, ...]:
    if suffix == ".json":
        return tuple(_structured(json.loads(text)))
    if suffix in {".yaml", ".yml"}:
        return tuple(_structured(yaml.safe_load(text)))
    bare = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return tuple(_line(line) for line in bare if line)


def _line(line: str) -> NamedClass:
    """One class of a text list.

    >>> _line("0 sky"), _line("sky 1 2 3").code, _line("1,2,3 sky").code
    (NamedClass(name='sky', code=0, colour=None), (1, 2, 3), (1, 2, 3))
    """
    gap = r"[\s,;:]+"
    triple, index = gap.join([r"(\d+)"] * 3), r"(-?\d+)"
    if found := re.fullmatch(f"{triple}{gap}(.+)", line):
        return NamedClass(found[4], _colour(found.groups()[:3]))
    if found := re.fullmatch(f"(?:{index}{gap})?(.*?[^\\s,;:]){gap}{triple}", line):
        colour = _colour(found.groups()[2:])
        return NamedClass(found[2], colour if found[1] is None else int(found[1]), colour)
    if found := re.fullmatch(f"{index}{gap}(.+)", line):
        return NamedClass(found[2], int(found[1]))
    if found := re.fullmatch(rf"(.*\S)\s*[:=]\s*{index}", line):
        return NamedClass(found[1], int(found[2]))
    return NamedClass(line)


def _structured(content: object) -> Iterator[NamedClass]:
    """The classes of parsed JSON or YAML."""
    if isinstance(content, dict):
        inner = (content.get(key) for key in ("names", "classes"))
        content = next((item for item in inner if isinstance(item, list | dict)), content)
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        yield from (NamedClass(name) for name in content)
    elif isinstance(content, dict) and all(isinstance(name, str) for name in content.values()):
        yield from (NamedClass(name, _number(code)) for code, name in content.items())
    elif isinstance(content, dict):
        yield from (NamedClass(str(name), _code(code)) for name, code in content.items())
    else:
        raise ValueError("expected a list of names, or pairs of names and codes")


def _number(text: object) -> int:
    if not re.fullmatch(r"-?\d+", str(text)):
        raise ValueError(f"{text!r} is no code: expected a whole number")
    return int(str(text))


def _code(value: object) -> Code:
    if type(value) is int:
        return value
    if isinstance(value, list) and len(value) == 3 and all(type(part) is int for part in value):
        return _colour(value)
    raise ValueError(f"{value!r} is no code: expected a whole number or [r, g, b]")


def _colour(values: Iterable[Any]) -> Colour:
    red, green, blue = (int(value) for value in values)
    if not 0 <= min(red, green, blue) <= max(red, green, blue) <= 255:
        raise ValueError(f"{red} {green} {blue} is no colour: expected three numbers from 0 to 255")
    return red, green, blue


def _fault(entries: tuple[NamedClass, ...]) -> str:
    """What is wrong with the list as a whole, or nothing."""
    if not entries:
        return "it names no class"
    names = [entry.name for entry in entries]
    codes = [entry.code for entry in entries if entry.code is not None]
    twice = [str(item) for items in (names, codes) for item, n in Counter(items).items() if n > 1]
    if twice:
        return f"twice there: {', '.join(twice)}"
    if codes and len(codes) < len(entries):
        return f"no code for {', '.join(entry.name for entry in entries if entry.code is None)}"
    return ""
