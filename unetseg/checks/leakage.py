"""What validation and test have seen before: copies, near-copies and torn groups across splits.

Scores on such images are too good: images of one patient, scene or video are no independent samples
(S. Kapoor and A. Narayanan, Leakage and the reproducibility crisis in machine-learning-based
science, Patterns 4, 2023, find it in 17 fields).
"""

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

from unetseg.checks.duplicates import distinct, together
from unetseg.checks.evidence import Evidence
from unetseg.checks.finding import Finding, listed
from unetseg.data.facts.similarity import TURNS, Turn, near_across, near_limit, turned
from unetseg.data.pairs.match import Pair
from unetseg.text import plural

_SPLITS = ("train", "val", "test")
_SHOWN = 3  # near-copies of one image that its line names

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


def inspect_leakage(evidence: Evidence) -> Iterator[Finding]:
    """Images that are in two splits, nearly so, or belong to a group that the splits tear."""
    yield from _same_images(evidence)
    yield from _near_copies(evidence)
    yield from _torn_groups(evidence)


def _same_images(evidence: Evidence) -> Iterator[Finding]:
    groups = [
        group
        for group in together(fact.image.pixel_hash for fact in evidence.facts)
        if len({evidence.pairs[place].split for place in group}) > 1
    ]
    if groups:
        lines = [" = ".join(_file(evidence, place) for place in group) for group in groups]
        yield Finding(
            "identical-across-splits",
            "warning",
            f"{plural(len(groups), 'image')} {'is' if len(groups) == 1 else 'are'} in more than "
            "one split, pixel by pixel: scores on them say nothing about new images",
            listed(lines),
            "Keep each image in one split.",
        )


def _near_copies(evidence: Evidence) -> Iterator[Finding]:
    """Images of val and test that nearly equal one of train, and of test one of val."""
    plain = _couples(evidence, None)
    if plain:
        yield _seen_before(
            "near-copies-across-splits",
            "one of another split",
            [_resembling(evidence, place, plain[place]) for place in sorted(plain)],
        )
    lines = [
        f"{_resembling(evidence, place, others)}, {turn.words}"
        for turn in TURNS
        for place, others in sorted(_couples(evidence, turn).items())
        if place not in plain
    ]
    if lines:
        yield _seen_before(
            "turned-copies-across-splits", "a mirrored or turned one of another split", lines
        )


def _seen_before(check: str, what: str, lines: Sequence[str]) -> Finding:
    return Finding(
        check,
        "warning",
        f"{plural(len(lines), 'image')} nearly {'equals' if len(lines) == 1 else 'equal'} {what}: "
        "scores on such images are too good",
        listed(lines),
        "Keep such images in one split: move them, or give them one group in pairs.csv.",
    )


def _couples(evidence: Evidence, turn: Turn | None) -> dict[int, list[int]]:
    """The places of images with those that they resemble in an earlier split, when turned.

    Of each image at most a few, as the frames of a video may all resemble one another.
    """
    hashes = [fact.image.perceptual_hash for fact in evidence.facts]
    limit = near_limit(hashes)
    found: dict[int, list[int]] = defaultdict(list)
    for earlier, later in combinations(_SPLITS, 2):
        known, asked = distinct(evidence, earlier), distinct(evidence, later)
        wanted = [hashes[place] for place in asked]
        wanted = wanted if turn is None else turned(wanted, turn)
        for k, others in near_across(wanted, [hashes[place] for place in known], limit):
            near = (known[j] for j in others[: _SHOWN + 1])
            found[asked[k]] += [j for j in near if not _are_equal(evidence, asked[k], j)]
    return {place: others for place, others in found.items() if others}


def _are_equal(evidence: Evidence, first: int, second: int) -> bool:
    one, other = evidence.facts[first].image, evidence.facts[second].image
    return bool(one.pixel_hash) and one.pixel_hash == other.pixel_hash


def _torn_groups(evidence: Evidence) -> Iterator[Finding]:
    """Groups, given or told by the names, of which each of two splits has a part."""
    expression, keys = None, [pair.group for pair in evidence.pairs]
    if None in keys:
        expression, keys = _told_groups(evidence.pairs)
    parts: dict[str | None, Counter[str]] = defaultdict(Counter)
    for pair, key in zip(evidence.pairs, keys, strict=False):
        parts[key][pair.split or ""] += 1
    torn = {key: counts for key, counts in parts.items() if len(counts) > 1}
    if torn:
        yield _torn(torn, len(parts), expression, own_splits=evidence.own_splits)


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


def _torn(
    torn: dict[str | None, Counter[str]], count: int, expression: str | None, *, own_splits: bool
) -> Finding:
    lines = [
        f"{key}: " + ", ".join(f"{parts[split]} {split}" for split in _SPLITS if parts[split])
        for key, parts in sorted(torn.items(), key=lambda item: str(item[0]))
    ]
    said = "the names tell" if expression else "there are"
    flag = f" --group {shlex.quote(expression)}" if expression else ""
    fix = "Move each group into one split" if own_splits else "Let each group stay in one split"
    return Finding(
        "torn-groups",
        "warning" if own_splits else "note",
        f"{said} {plural(count, 'group')} of images, and {len(torn)} of them "
        f"{'lies' if len(torn) == 1 else 'lie'} in more than one split: if images of one group "
        "resemble each other, scores on them are too good",
        listed(lines),
        f"{fix}, if these are patients, scenes, videos or the like.",
        f"unetseg {'check' if own_splits else 'train'} DATA{flag}" if flag else "",
    )


def _file(evidence: Evidence, place: int) -> str:
    pair = evidence.pairs[place]
    return f"{pair.image} ({pair.split})"


def _resembling(evidence: Evidence, place: int, others: Sequence[int]) -> str:
    """An image and those that it resembles."""
    named = ", ".join(_file(evidence, other) for other in others[:_SHOWN])
    more = " and more" if len(others) > _SHOWN else ""
    return f"{_file(evidence, place)} resembles {named}{more}"


# Groups told by names


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
        keys = _keys(names, expression)
        if keys is not None and _is_plausible(keys):
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
            yield _prefix(names, cut)


def _prefix(names: Sequence[str], cut: int) -> str:
    """What matches the first `cut` parts of each name, and the separator after them."""
    marks = {mark for name in names for mark in re.findall(_SEPARATOR, name)[:cut]}
    mark: str = marks.pop()
    if marks or len(mark) > 1:
        return "^(" + _SEPARATOR.join([r"[^._\- ]+"] * cut) + ")" + _SEPARATOR
    literal = mark.replace(".", r"\.")
    return "^(" + literal.join([f"[^{mark}]+"] * cut) + ")" + literal


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


def _is_plausible(keys: Sequence[str]) -> bool:
    """Whether there are some groups, and most images are not alone in theirs."""
    counts = Counter(keys)
    shared = sum(count for count in counts.values() if count > 1)
    return len(counts) >= _FEWEST and shared >= _SHARED * len(keys)
