"""Class lists: classes.txt, .json or .yaml, with the names of classes and, mostly, their codes.

Those of other programs are read too: tables with a header (Roboflow, CamVid, ADE20K), labelmap.txt
(CVAT), JSON with an object for each class.
"""

import csv
import os
import re
import shlex
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from unetseg.data.files.folders import IMAGE_SUFFIXES, is_hidden
from unetseg.data.masks.class_map import Code, Colour
from unetseg.errors import MaskError
from unetseg.progress import SILENT, Progress
from unetseg.storage import is_file, parse_json

_FILES = ("classes.txt", "classes.json", "classes.yaml", "classes.yml")
_MASK_FOLDER = re.compile(r"mask|label|annot|segm|truth|target|^gts?$", re.IGNORECASE)
_LIKELY = re.compile(
    r"(.*(class|label|colou?r|palette|categor|legend|objectinfo).*|meta)\.(csv|tsv|txt|json)",
    re.IGNORECASE,
)
_TEXTS = (".txt", ".xml", ".json", ".csv")
_MOST_BYTES = 2**18  # of a class list
_TRIED = 8  # files of a folder that may be class lists
_NAMES = ("name", "classname", "labelname", "objectname", "title", "class", "label", "category")
_CODES = (
    *("pixelvalue", "value", "code", "index", "idx", "id", "classid", "labelid", "categoryid"),
    *("class", "label", "category", "grey", "gray", "pixel"),
)
_COLOURS = ("color", "colour", "rgb", "colorrgb")
_FIX = "Write classes.txt with one class per line: index and name, or name and r g b."
_GAP = r"[\s,;:]+"
_CODE, _COLOUR = r"(?P<code>-?\d+)", rf"(?P<colour>\d+{_GAP}\d+{_GAP}\d+)"
_FORMS = [  # of a line; the first that fits
    re.compile(rf"(?P<name>[^:#]+):{_COLOUR}:[^:]*:[^:]*"),  # CVAT
    re.compile(rf"{_COLOUR}{_GAP}(?P<name>.+)"),
    re.compile(rf"(?:{_CODE}{_GAP})?(?P<name>.*?[^\s,;:]){_GAP}{_COLOUR}"),
    re.compile(rf"{_CODE}{_GAP}(?P<name>.+)"),
    re.compile(rf"(?P<name>.*\S)\s*[:=]\s*{_CODE}"),
    re.compile(r"(?P<name>.+)"),
]


@dataclass(frozen=True)
class NamedClass:
    """One class of a list; `code` and `colour` where the list gives them.

    Attributes:
        name: As the list has it.
        code: A number, or RGB.
        colour: For pictures, beside a number.
        also: Further codes of the same name.
    """

    name: str
    code: Code | None = None
    colour: Colour | None = None
    also: tuple[Code, ...] = ()


@dataclass(frozen=True)
class ClassNames:
    """A class list, in the order of the file called `source`.

    Attributes:
        entries: The classes.
        source: The file.
        guessed: Whether nobody but the file's content says that it is one.
    """

    entries: tuple[NamedClass, ...]
    source: str = "the class list"
    guessed: bool = False

    @property
    def codes(self) -> tuple[Code, ...]:
        """The codes of all classes, further ones of a name too; none where they are bare."""
        stated = (code for entry in self.entries for code in (entry.code, *entry.also))
        return tuple(code for code in stated if code is not None)

    @property
    def bare(self) -> bool:
        """Whether no class has a code."""
        return all(entry.code is None for entry in self.entries)


def find_class_file(root: Path) -> Path | None:
    """The classes.txt, .json, .yaml or .yml in `root`, or else in its folders of masks."""
    masks = sorted(entry for entry in _entries(root) if _MASK_FOLDER.search(entry.name))
    files = (folder / name for folder in (root, *masks) for name in _FILES)
    return next(filter(is_file, files), None)


def guess_class_names(root: Path, progress: Progress = SILENT) -> ClassNames | None:
    """The class list of another program in `root` or a folder of it.

    That is a small file with a likely name, such as class_dict.csv, in which each class has a code.
    One that calls itself classes and cannot be used is told. Hidden folders, and those that may not
    be listed, show none.
    """
    visible = (entry for entry in _entries(root) if not is_hidden([entry.name]))
    for folder in [root, *sorted(filter(os.path.isdir, visible))]:  # which never raises
        for file in _likely_lists(folder):
            try:
                names = read_class_names(file)
            except MaskError as error:
                if "class" in file.name.lower():
                    command = f"--classes {shlex.quote(str(file))}"
                    progress.say(f"{error.summary}; once it is one, add {command}")
                continue
            if all(map(_is_coded, names.entries)):
                return replace(names, guessed=True)
    return None


def _likely_lists(folder: Path) -> list[Path]:
    """The first small files of a folder with a likely name."""
    likely = sorted(file for file in _entries(folder) if _LIKELY.fullmatch(file.name))
    files = islice(filter(is_file, likely), _TRIED)
    return [file for file in files if file.stat().st_size <= _MOST_BYTES]


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder; nothing of one that may not be listed."""
    try:
        return [*folder.iterdir()]
    except OSError:
        return []


def _is_coded(entry: NamedClass) -> bool:
    """Whether an entry has a code and the name of a class: with letters, and of no file."""
    last = re.split(r"[/\\]", entry.name)[-1]
    suffix = f".{last.rpartition('.')[2].lower()}"
    names_file = "." in last and suffix in {*IMAGE_SUFFIXES, *_TEXTS}
    return entry.code is not None and not names_file and any(map(str.isalpha, last))


def read_class_names(path: Path) -> ClassNames:
    """Read a class list.

    Text has one class per line: `name`, `index name`, `name: index`, `name r g b`,
    `index name r g b`, `r,g,b name` or `name:r,g,b::`, with `#` comments, or is a table with a
    header such as `name,r,g,b` or `Pixel Value, Class`. JSON and YAML have what `parse_class_names`
    takes, directly or below the key `names`, `classes` or `labels`. A name with several codes is
    one class.

    Raises:
        MaskError: the file cannot be read, or is no such list.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return ClassNames(_checked(tuple(_rows(text, path.suffix.lower()))), path.name)
    except OSError as error:
        raise MaskError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, csv.Error, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise MaskError(f"{path} is no class list: {reason}", fix=_FIX) from error


def parse_class_names(content: object, source: str) -> ClassNames:
    """The class list in a value of JSON or YAML that stands in the file called `source`.

    It is a list of names, {code: name}, or {name: code}, where the code is a number, [r, g, b], or
    {code: …, colour: [r, g, b]} for a colour that is for pictures only; or a list of objects with
    name and id or colour.

    Raises:
        MaskError: it is no such list.
    """
    try:
        return ClassNames(_checked(tuple(_structured(content))), source)
    except ValueError as error:
        raise MaskError(f"{source} has no class list: {error}", fix=_FIX) from error


def load_yaml(text: str) -> object:
    """The value of a YAML text without references, tags of other programs and repeated keys.

    Only true and false are truth values, so that classes may be called yes, no, on and off.

    Raises:
        YAMLError: the text is no such YAML, or nested too deeply.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise yaml.YAMLError(str(error)) from error  # what PyYAML lets out, as for `!!int x`


class _Loader(yaml.SafeLoader):
    """YAML that cannot surprise: references make bombs, repeated keys lose all but the last."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (declared so by PyYAML)
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":bool")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose the next node, unless it is a reference to another."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise ComposerError(None, None, "references (*name) are refused", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping whose keys differ."""
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = [key for key, count in keys.items() if count > 1]
        if twice:
            problem = f"twice there: {', '.join(twice)}"
            raise ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _rows(text: str, suffix: str) -> Iterator[NamedClass]:
    """The classes of a file's text."""
    if suffix in {".json", ".yaml", ".yml"}:
        content: Any = parse_json(text) if suffix == ".json" else load_yaml(text)
        keys = ("names", "classes", "labels") if isinstance(content, dict) else ()
        inner = (content[key] for key in keys if isinstance(content.get(key), list | dict))
        yield from _structured(next(inner, content))
    elif table := _table(text):
        yield from map(_record, table)
    else:
        bare = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
        yield from (_line(line) for line in bare if line)


def _table(text: str) -> list[dict[str, str]]:
    """The rows of a table by the words of its header; none where the text is no such table."""
    lines = [line for line in text.splitlines() if line.strip()]
    sign = max("\t;,", key="".join(lines[:1]).count)
    rows = [*csv.reader(lines, delimiter=sign, skipinitialspace=True)]
    words = [_plain(cell) for cell in rows[0]] if rows else []
    others = {*_CODES, *_COLOURS, "r", "red"} - {*_NAMES}
    if not others.intersection(words) or not {*_NAMES}.intersection(words):
        return []
    return [dict(zip(words, row, strict=False)) for row in rows[1:]]


def _plain(word: str) -> str:
    return re.sub(r"[\W_]", "", word).lower()


def _record(record: Mapping[Any, Any]) -> NamedClass:
    """The class in a row of a table, or in an object of JSON or YAML."""
    cells = {_plain(str(key)): value for key, value in record.items()}
    title = next((word for word in _NAMES if word in cells), None)
    if title is None:
        raise ValueError("expected a name in each row")
    colour = next((cells[word] for word in _COLOURS if word in cells), None)
    if isinstance(colour, str):
        pairs = re.fullmatch(r"#(..)(..)(..)", colour)
        colour = [int(p, 16) for p in pairs.groups()] if pairs else re.findall(r"\d+", colour)
    for bands in (("r", "g", "b"), ("red", "green", "blue")):
        if all(band in cells for band in bands):
            colour = [str(cells[band]).strip() for band in bands]
    code = next((cells[word] for word in _CODES if word in cells and word != title), None)
    code = code.strip() if isinstance(code, str) else code
    return _named(str(cells[title]).strip(), code, colour)


def _line(line: str) -> NamedClass:
    """One class of a text list.

    >>> _line("0 sky"), _line("sky 1 2 3").code, _line("1,2,3 sky").code
    (NamedClass(name='sky', code=0, colour=None, also=()), (1, 2, 3), (1, 2, 3))
    """
    row = next(filter(None, (form.fullmatch(line) for form in _FORMS))).groupdict()
    colour = re.split(_GAP, row["colour"]) if row.get("colour") else None
    if not colour and not row.get("code") and re.search(r"[,;\t]\s*-?\d+$", row["name"]):
        raise ValueError(f"{row['name']!r} has a code behind the name")  # and would have another
    return _named(row["name"], row.get("code"), colour)


def _structured(content: object) -> Iterator[NamedClass]:
    """The classes of parsed JSON or YAML."""
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        yield from (NamedClass(name) for name in content)
    elif isinstance(content, list) and all(isinstance(item, dict) for item in content):
        yield from map(_record, content)
    elif not isinstance(content, dict):
        raise ValueError("expected a list of names, or pairs of names and codes")
    elif all(isinstance(name, str) for name in content.values()):
        yield from (_named(name, str(code)) for code, name in content.items())
    else:
        for name, value in content.items():
            has_colour = isinstance(value, dict) and value.keys() == {"code", "colour"}
            parts = (value["code"], value["colour"]) if has_colour else (value,)
            yield _named(str(name), *parts)


def _named(name: str, code: object = None, colour: object = None) -> NamedClass:
    """A class from what its row says: a code, which may be a colour, and a colour for pictures."""
    shown = None if colour is None else _code(colour)
    if isinstance(shown, int):
        raise ValueError(f"{shown} is no colour: expected [r, g, b]")
    return NamedClass(name, shown if code is None else _code(code), shown)


def _code(value: object) -> Code:
    """A whole number, or three of them from 0 to 255, as numbers or as digits."""
    if isinstance(value, list) and len(value) == 3:
        red, green, blue = (_whole(part) for part in value)
        if not 0 <= min(red, green, blue) <= max(red, green, blue) <= 255:
            shown = f"{red} {green} {blue}"
            raise ValueError(f"{shown} is no colour: expected three numbers from 0 to 255")
        return red, green, blue
    return _whole(value)


def _whole(value: object) -> int:
    if type(value) is int or (isinstance(value, str) and re.fullmatch(r"-?\d+", value)):
        return int(value)
    raise ValueError(f"{value!r} is no code: expected a whole number or [r, g, b]")


def _checked(entries: tuple[NamedClass, ...]) -> tuple[NamedClass, ...]:
    """The entries, unless they contradict each other."""
    if not entries:
        raise ValueError("it names no class")
    first: dict[str, NamedClass] = {}
    for entry in entries:
        if entry.code is not None and entry.name in first:
            also = (*first[entry.name].also, entry.code)
            first[entry.name] = replace(first[entry.name], also=also)
        else:
            first.setdefault(entry.name, entry)
    names = [entry.name for entry in entries if entry.code is None]
    codes = [entry.code for entry in entries if entry.code is not None]
    twice = [str(item) for items in (names, codes) for item, n in Counter(items).items() if n > 1]
    if twice:
        raise ValueError(f"twice there: {', '.join(twice)}")
    if codes and len(codes) < len(entries):
        lacking = ", ".join(entry.name for entry in entries if entry.code is None)
        raise ValueError(f"no code for {lacking}")
    return tuple(first.values())
