"""The constant beginnings and ends that names of images and masks have around what they share."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from typing import NamedTuple

from unetseg.data.pairs.naming import read_name, says_mask

Key = tuple[tuple[str, ...], str]
"""The folders and the stem by which an image and its mask are known to belong together."""

_SEPARATORS = frozenset("._- ")
_SAMPLE = 16
_CANDIDATES = 8


class Affixes(NamedTuple):
    """What the names of images and masks have around the key they share."""

    image_prefix: str = ""
    image_suffix: str = ""
    mask_prefix: str = ""
    mask_suffix: str = ""


def name_parts(stem: str) -> list[str]:
    """The parts of a file name between dots, dashes, underscores and spaces."""
    return re.split(r"[._\- ]+", stem)


def strip(key: Key, prefix: str, suffix: str) -> Key | None:
    """The key without `prefix` and `suffix`; None where it lacks them or a word would be cut."""
    folder, stem = key
    end = len(stem) - len(suffix)
    if not (stem.startswith(prefix) and stem.endswith(suffix) and len(prefix) <= end):
        return None
    core = stem[len(prefix) : end]
    if core and not (cuts_at(stem, len(prefix)) and cuts_at(stem, end)):
        return None
    return folder, core


def find_affixes(images: Collection[Key], masks: Collection[Key]) -> Affixes:
    """The constant affixes that make the most keys agree, and of these the shortest.

    Affixes end where words or numbers end. Those that differ only in a number (`scan_1`,
    `scan_2`) are no rule, and a single pair needs a word such as "mask" in them.
    """
    images, masks = set(images), set(masks)
    best, most = Affixes(), len(images & masks)
    if most == len(images) == len(masks):
        return best
    candidates = {*_voted(images, masks), *_constant(images, masks)}
    for affixes in sorted(candidates, key=lambda a: (sum(map(len, a)), a)):
        keys = {strip(key, *affixes[:2]) for key in images}
        shared = {strip(key, *affixes[2:]) for key in masks} & keys - {None}
        if len(shared) > most and _credible(affixes, shared):
            best, most = affixes, len(shared)
    return best


def cuts_at(stem: str, at: int) -> bool:
    """Whether a word or number ends before the character `at`."""
    if at in (0, len(stem)):
        return True
    left, right = stem[at - 1], stem[at]
    if left in _SEPARATORS or right in _SEPARATORS or left.isdigit() != right.isdigit():
        return True
    return right.isupper() and not left.isupper()


def _credible(affixes: Affixes, shared: Collection[Key | None]) -> bool:
    image, mask = "_".join(affixes[:2]), "_".join(affixes[2:])
    if image != mask and re.sub(r"\d+", "", image) == re.sub(r"\d+", "", mask):
        return False
    if len(shared) > 1:
        return True
    image_said = any(read_name(part).role == "image" for part in name_parts(image))
    mask_said = any(says_mask(part) for part in name_parts(mask))
    nothing_left = any(key is not None and not key[1] for key in shared)
    return image_said and mask_said if nothing_left else image_said or mask_said


def _voted(images: Collection[Key], masks: Collection[Key]) -> list[Affixes]:
    """The affixes most often seen between some of the images and any mask of their folder."""
    stems: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for folder, stem in masks:
        stems[folder].append(stem)
    votes: Counter[Affixes] = Counter()
    for folder, stem in sorted(images)[:: len(images) // _SAMPLE + 1]:
        for other in stems[folder]:
            votes.update(_cuts(stem, other))
    ranked = sorted(votes, key=lambda a: (-votes[a], sum(map(len, a)), a))
    return ranked[:_CANDIDATES]


def _cuts(image: str, mask: str) -> Iterator[Affixes]:
    """The shortest suffixes, and the shortest prefixes, without which the two names agree."""
    size = len(common_beginning([image, mask]))
    while size and not (_ends_clean(image, size) and _ends_clean(mask, size)):
        size -= 1
    if size:
        yield Affixes("", image[size:], "", mask[size:])
    size = len(common_beginning([image[::-1], mask[::-1]]))
    while size and not (_starts_clean(image, -size) and _starts_clean(mask, -size)):
        size -= 1
    if size:
        yield Affixes(image[:-size], "", mask[:-size], "")


def _ends_clean(stem: str, end: int) -> bool:
    return stem[end - 1] not in _SEPARATORS and cuts_at(stem, end)


def _starts_clean(stem: str, start: int) -> bool:
    return stem[start] not in _SEPARATORS and cuts_at(stem, start % len(stem))


def _constant(images: Collection[Key], masks: Collection[Key]) -> list[Affixes]:
    """The affixes on both ends that all images, and all masks, have in common."""
    if not images or not masks:
        return []
    image, image_head, image_tail = _common({stem for _, stem in images})
    mask, mask_head, mask_tail = _common({stem for _, stem in masks})
    whole = Affixes(image, "", mask, "")
    if len(image_head) == len(image) and len(mask_head) == len(mask):
        return [whole]  # a/image.png, b/image.png: the folder is the key
    kept = len(common_beginning([image_head[::-1], mask_head[::-1]]))
    while kept and not _starts_clean(image, len(image_head) - kept):
        kept -= 1
    left = (image_head[: len(image_head) - kept], mask_head[: len(mask_head) - kept])
    kept = len(common_beginning([image_tail, mask_tail]))
    while kept and not _ends_clean(image, len(image) - len(image_tail) + kept):
        kept -= 1
    return [Affixes(left[0], image_tail[kept:], left[1], mask_tail[kept:])]


def _common(stems: Collection[str]) -> tuple[str, str, str]:
    """One of the stems, and the beginning and end of all."""
    head = common_beginning(stems)
    tail = common_beginning([stem[len(head) :][::-1] for stem in stems])[::-1]
    return min(stems), head, tail


def common_beginning(names: Collection[str]) -> str:
    """The longest beginning of all `names`."""
    low, high = min(names), max(names)
    ends = (at for at, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return low[: next(ends, None)]
