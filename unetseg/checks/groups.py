"""Groups of images that splits tear, such as patients or videos: given, or told by names."""

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from unetseg.checks.finding import Finding
from unetseg.data.facts.survey import Survey
from unetseg.data.pairs.match import Pair
from unetseg.data.pairs.naming import SPLIT_NAMES
from unetseg.text import plural

# What names call a thing of which there are several images, the largest first.
_THINGS = (
    *("patient", "pat", "subject", "subj", "sub", "case", "donor", "animal", "mouse", "specimen"),
    *("slide", "wsi", "plate", "volume", "vol", "stack", "video", "vid", "clip", "sequence"),
    *("seq", "series", "scene", "scan", "site"),
)
_ROBOFLOW = r"^(.+)\.rf\.[0-9a-f]{16,}"  # its changed copies of one image differ after this
_SEPARATOR = r"[._\- ]+"
_FEWEST = 3  # groups
_SHARED = 0.5  # of the images share their group with another one
_NO_IDENTITY = re.compile(r"(19|20)\d\d|\d+x", re.IGNORECASE)  # a year, a magnification
_FOLDS = re.compile(r"(fold|part|batch|set|split|chunk)[._\- ]?\d+", re.IGNORECASE)
_VIEWS = 8  # distinct ends of names, such as L_CC and R_MLO, that are no counters
_FAR = 10  # a counter starts at no more than so many times its range


def torn_groups(survey: Survey) -> Iterator[Finding]:
    """Groups, given or told by the names, of which each of two splits has a part."""
    expression, keys = None, [pair.group for pair in survey.pairs.pairs]
    if not any(keys):
        expression, keys = _told_groups(survey.pairs.pairs)
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    for pair, key in zip(survey.pairs.pairs, keys, strict=False):
        if key is not None:  # a pair without a group is alone
            splits[key][pair.split or ""] += 1
    torn = sorted((key, parts) for key, parts in splits.items() if len(parts) > 1)
    if torn:
        said = "the names tell" if expression else "there are"
        own = survey.own_splits
        yield Finding(
            "torn-groups",
            "warning" if own else "note",
            f"{said} {plural(len(splits), 'group')} of images, and {len(torn)} of them "
            f"{'lies' if len(torn) == 1 else 'lie'} in more than one split: if images of one group "
            "resemble each other, scores on them are too good",
            [
                f"{key}: "
                + ", ".join(f"{parts[split]} {split}" for split in SPLIT_NAMES if parts[split])
                for key, parts in torn
            ],
            f"{'Move' if own else 'Let'} each group {'into' if own else 'stay in'} one split, if "
            "these are patients, scenes, videos or the like.",
            (f"--group {shlex.quote(expression)}",) if expression else (),
            "check" if own else "train",
        )


def _told_groups(pairs: Sequence[Pair]) -> tuple[str | None, list[str | None]]:
    """The expression that --group would need, and the group of each pair; (None, []) for none."""
    files, names = [pair.image.name for pair in pairs], [pair.name for pair in pairs]
    expression = propose_group(files)
    if expression is not None:
        return expression, [*(_keys(files, expression) or [])]
    expression = propose_group(names)
    if expression is None or _keys(files, expression) is not None:  # --group looks at files first
        return None, []
    return expression, [*(_keys(names, expression) or [])]


def propose_group(names: Sequence[str]) -> str | None:
    """A regular expression for --group, where the names tell of several images of one thing.

    That is where names are made of an identity and a counter: `patient07_slice3`, `scene_004_012`,
    `0016E5_00480`, or `patient07/slice3`. Plain counters (`img_001`), random names, years, grid
    coordinates (`1238448-1046531`) and words (`cat_001`) tell of no groups.

    Args:
        names: Names of image files, or of pairs with their folders, parted by "/".

    Returns:
        An expression that all names match, or None.

    >>> propose_group([f"p{patient}_slice{k}.png" for patient in range(4) for k in range(9)])
    '^([^_]+)_'
    >>> propose_group([f"img_{k:03d}.png" for k in range(40)])
    """
    for expression in _expressions(names):
        sizes = Counter(_keys(names, expression) or []).values()
        shared = sum(size for size in sizes if size > 1)  # images that are not alone in theirs
        if len(sizes) >= _FEWEST and shared >= _SHARED * len(names):
            return expression
    return None


def _expressions(names: Sequence[str]) -> Iterator[str]:
    """Candidates, the plainest first."""
    yield _ROBOFLOW
    for thing in _THINGS:
        expression = rf"(?<![A-Za-z])((?i:{thing})[_-]?\d+)"
        keys = _keys(names, expression)
        if keys:
            plain = "(" + keys[0].rstrip("0123456789") + r"\d+)"
            yield plain if _keys(names, plain) == keys else expression
    folders = {parts[-2] for parts in (name.split("/") for name in names) if len(parts) > 1}
    if _are_identities(folders) and not any(map(_FOLDS.fullmatch, folders)):
        yield r"([^/]+)/[^/]+$"
    yield from _prefixes([name.rpartition("/")[2] for name in names])


def _prefixes(names: Sequence[str]) -> Iterator[str]:
    """The first part, the first two parts, … of names, where what follows is a counter or a view.

    The names have equally many parts, the suffix counted.
    """
    parts = [re.split(_SEPARATOR, name) for name in names]
    if len({len(row) for row in parts}) != 1:
        return
    for cut in range(1, len(parts[0])):
        tails = defaultdict(set)
        for row in parts:
            tails[tuple(row[:cut])].add(tuple(row[cut:]))
        if _are_identities({head[-1] for head in tails}) and _are_parts(list(tails.values())):
            marks = {mark for name in names for mark in re.findall(_SEPARATOR, name)[:cut]}
            part, mark = r"[^._\- ]+", _SEPARATOR
            if len(marks) == 1 and len(min(marks)) == 1:
                part, mark = f"[^{min(marks)}]+", min(marks).replace(".", r"\.")
            yield "^(" + mark.join([part] * cut) + ")" + mark


def _are_identities(words: set[str]) -> bool:
    """Whether the words differ, have a number each, and are no years or magnifications."""
    if len(words) < _FEWEST or all(map(_NO_IDENTITY.fullmatch, words)):
        return False
    return all(any(letter.isdigit() for letter in word) for word in words)


def _are_parts(tails: Sequence[set[tuple[str, ...]]]) -> bool:
    """Whether the ends of names, a set for each beginning, number or name the parts of a thing."""
    several = [ends for ends in tails if len(ends) > 1]
    if not several:
        return False
    shared = Counter(end for ends in tails for end in ends)
    shapes = {re.sub(r"\d+", "#", " ".join(end)) for end in shared}
    if len(shapes) == len(shared) <= _VIEWS and min(shared.values()) > 1:
        return True
    return len(shapes) <= 2 and sorted(map(_is_counter, several))[len(several) // 2]


def _is_counter(ends: set[tuple[str, ...]]) -> bool:
    """Whether the first number that differs starts near to 0; grid coordinates do not."""
    rows = [[int(digits) for digits in re.findall(r"\d+", " ".join(end))] for end in ends]
    for column in zip(*rows, strict=False):
        low, high = int(min(column)), int(max(column))
        if low < high:
            return low <= _FAR * (high - low)
    return False


def _keys(names: Sequence[str], expression: str) -> list[str] | None:
    """The group of each name, as --group finds it; None where it misses one."""
    found = [re.search(expression, name) for name in names]
    return None if None in found else [match[1] for match in found if match]
