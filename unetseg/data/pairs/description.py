"""dataset.yaml honoured: pairs, settings and splits as the folder itself describes them.

What the user sets explicitly wins over the file.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import translate
from pathlib import Path
from typing import Any, TypeVar

from unetseg.config import DataConfig, PairsConfig
from unetseg.data.pairs.dataset_yaml import (
    GROUPS,
    PLACES,
    Description,
    read_description,
    write_description,
)
from unetseg.data.pairs.match import PairSet, find_pairs, match_pairs, with_variants
from unetseg.data.pairs.mismatch import Fault
from unetseg.errors import ConfigError
from unetseg.text import plural, printable

__all__ = [
    "Description",
    "described",
    "find_described",
    "honoured",
    "join_described",
    "match_described",
    "read_description",
    "write_description",
]

_REST = "*"  # all pairs that no other line names
_Config = TypeVar("_Config", bound=PairsConfig)


def described(data: Path, config: _Config) -> _Config:
    """`config` with what dataset.yaml says for the settings that are not set (are the default).

    Who says by hand where the pairs are, or how they are grouped, says all of it: then the file's
    own places (with its splits) or groups do not count.

    Raises:
        ConfigError: dataset.yaml is wrong, or names what is not there.
    """
    description = read_description(data)
    if description is None:
        return config
    stated = description.settings
    keys = [key for key in _in_force(description, data, config) if key in type(config).model_fields]
    filled = {key: getattr(stated, key) for key in keys if key in stated.model_fields_set}
    lost = [f"{key}: {printable(filled[key])}" for key in PLACES if not _is_there(filled.get(key))]
    if lost:
        fix = "Correct it; paths are relative to the folder of dataset.yaml."
        raise ConfigError(f"{printable(description.path)} names what is not there", lost, fix)
    return config.model_copy(update=filled)


def honoured(data: Path, config: PairsConfig) -> tuple[str, ...]:
    """The keys of dataset.yaml that `config` does not overrule."""
    description = read_description(data)
    return _in_force(description, data, config) if description else ()


def find_described(data: Path, config: PairsConfig) -> PairSet:
    """`find_pairs` with the settings and the splits of dataset.yaml.

    Raises:
        PairingError: images and masks do not match up; every offender is listed.
        ConfigError: dataset.yaml is wrong, or its splits name pairs that are not there.
    """
    found = find_pairs(data, **_arguments(described(data, config)))
    return _with_splits(found, data, config, whole=True)


def match_described(data: Path, config: PairsConfig) -> tuple[PairSet, tuple[Fault, ...]]:
    """`match_pairs` with the settings and the splits of dataset.yaml.

    Splits may name pairs that are not there as long as there are faults.
    """
    found, faults = match_pairs(data, **_arguments(described(data, config)))
    return _with_splits(found, data, config, whole=not faults), faults


def join_described(
    found: PairSet, faults: Iterable[Fault], data: Path, config: DataConfig
) -> PairSet:
    """The pairs of `match_described`, and those whose names differ only in case or Unicode form."""
    joined = with_variants(found, faults, described(data, config).group)
    return _with_splits(joined, data, config, whole=False)


def _arguments(config: PairsConfig) -> dict[str, Any]:
    """The arguments of `find_pairs`."""
    groups = GROUPS if isinstance(config, DataConfig) else ()
    places = {"images": config.images, "masks": config.masks, "table": config.pairs}
    return places | {name: getattr(config, name) for name in groups}


def _is_there(place: Path | None) -> bool:
    return place is None or place.exists()


def _in_force(description: Description, data: Path, config: PairsConfig) -> tuple[str, ...]:
    """The keys of the file that nothing overrules."""
    stated = description.settings
    over = {
        name
        for name, field in type(config).model_fields.items()
        if getattr(config, name) not in (field.default, getattr(stated, name))
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


# Splits of pairs


def _with_splits(found: PairSet, data: Path, config: PairsConfig, *, whole: bool) -> PairSet:
    """The pairs with the splits of dataset.yaml; those that it does not name keep their own."""
    description = read_description(data)
    if description is None or "splits" not in _in_force(description, data, config):
        return found
    claims = _claims([pair.name for pair in found.pairs], description.splits)
    faults = [f"{printable(line)} matches no pair" for line in claims.unmatched] if whole else []
    faults += [
        f"{printable(name)} is in {' and '.join(splits)}"
        for name, splits in claims.splits.items()
        if len(splits) > 1
    ]
    if faults:
        count = len(found.pairs)
        example = f", such as {printable(found.pairs[0].name)}" if count else ""
        raise ConfigError(
            f"the splits of {printable(description.path)} do not fit its {plural(count, 'pair')}",
            faults,
            f"Name each pair in one split; names are relative and without suffix{example}. "
            "Names count before patterns, and * means all the others.",
        )
    pairs = (replace(p, split=claims.splits.get(p.name, [p.split])[0]) for p in found.pairs)
    return replace(found, pairs=tuple(pairs))


@dataclass(frozen=True)
class _Claims:
    """The splits that claim each pair, and the lines that claim none."""

    splits: dict[str, list[str]]
    unmatched: list[str]


def _claims(names: Sequence[str], lines: Iterable[tuple[str, str]]) -> _Claims:
    """Match lines with names: an exact name counts before a pattern, and that before a mere *."""
    forms: dict[str, list[str]] = defaultdict(list)
    for name in names:
        forms[_form(name)].append(name)
    known = set(names)
    ranks: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    unmatched = []
    for split, wanted in lines:
        rank, matched = _matched(wanted, known, forms)
        for name in matched:
            ranks[name][rank].add(split)
        if not matched and wanted != _REST:
            unmatched.append(f"{split}: {wanted}")
    return _Claims({name: sorted(rank[min(rank)]) for name, rank in ranks.items()}, unmatched)


def _matched(
    wanted: str, known: set[str], forms: Mapping[str, list[str]]
) -> tuple[int, Iterable[str]]:
    """The names that a line means, and how surely (0: to the letter)."""
    if wanted in known:
        return 0, [wanted]
    if _form(wanted) in forms:
        return 1, forms[_form(wanted)]
    if wanted == _REST:
        return 3, known
    if re.search(r"[*?\[]", wanted) is None:
        return 2, []
    matches = re.compile(translate(_form(wanted))).match
    return 2, [name for form, same in forms.items() if matches(form) for name in same]


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)
