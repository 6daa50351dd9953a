"""The keys by which an image and its mask are known to belong together, the strictest first."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

from unetseg.data.pairs.affixes import cuts_at, find_affixes, strip
from unetseg.data.pairs.naming import fold, says_role, split_of, tokens
from unetseg.data.pairs.series import Entry, shared_tokens

KeyOf = Callable[[Entry], Hashable]
"""What must agree; None where the rule does not fit the file."""
UNLIKE = 4
"""Rules from this place on pair names that differ in more than case."""
LOOSE = 10
"""Rules from this place on pair unlike names: then the contents must agree."""
ENOUGH = 0.6  # of the smaller side: a rule that matches so many is not given up for a looser one


class Matching(NamedTuple):
    """How one series of masks goes with one of images.

    Attributes:
        couples: Image and mask of each pair.
        names: What each of them is called: the name without what only one side has.
        rule: The place of the rule in the order of strictness; 0 is the strictest.
        crowds: Several files of one side for one key, with the other side's file.
    """

    couples: tuple[tuple[Entry, Entry], ...]
    names: tuple[str, ...]
    rule: int
    crowds: tuple[tuple[tuple[Entry, ...], tuple[Entry, ...]], ...] = ()


def match(images: Sequence[Entry], masks: Sequence[Entry]) -> Matching:
    """Pair by the strictest rule that pairs enough, or else by the one that pairs the most.

    A rule may differ from place to place (`x_training`, `y_test`); then each place has its own.
    """
    best = Matching((), (), 99)
    images, masks = _in_shared_places(images, masks)
    size = min(len(images), len(masks))
    for rule, (image_key, mask_key) in enumerate(_rules(images, masks)):
        found = _apply(images, masks, image_key, mask_key, rule)
        are_first_crowds = found.crowds and not best.crowds and not best.couples
        if len(found.couples) > len(best.couples) or are_first_crowds:
            best = found
        if len(best.couples) >= ENOUGH * size:
            break
    best = _with_folded(images, masks, best)
    if len(best.couples) < size:
        place_of = attrgetter("place", "split")
        places = _by_key(images, masks, place_of, place_of).values()
        parts = [match(*sides) for sides in places if len(sides[0]) < len(images) and all(sides)]
        couples = tuple(couple for part in parts for couple in part.couples)
        if len(couples) > len(best.couples):
            crowds = tuple(crowd for part in parts for crowd in part.crowds)
            names = tuple(name for part in parts for name in part.names)
            return Matching(couples, names, max(part.rule for part in parts), crowds)
    return best


def _in_shared_places(*sides: Sequence[Entry]) -> list[list[Entry]]:
    """The entries with those of their places that occur on both sides.

    Where both sides have places that are theirs alone, beside shared ones, these keep apart:
    `images/bear` has no masks in `masks/{camel,dog}`.
    """
    names = [{name for entry in side for name in entry.place} for side in sides]
    shared = set.intersection(*names)
    places = [{entry.place for entry in side} for side in sides]
    are_apart = bool(shared) and all(
        any(place and shared.isdisjoint(place) for place in own) for own in places
    )
    kept = {
        place: tuple(name for name in place if name in shared) or (place if are_apart else ())
        for place in set.union(*places)
    }
    return [[entry._replace(place=kept[entry.place]) for entry in side] for side in sides]


def _with_folded(images: Sequence[Entry], masks: Sequence[Entry], best: Matching) -> Matching:
    """The pairs, and those of what is left that differ in case or Unicode form only."""
    used = {entry.inner for couple in best.couples for entry in couple}
    left = [[entry for entry in side if entry.inner not in used] for side in (images, masks)]
    more = _apply(left[0], left[1], _folded, _folded, best.rule)
    return best._replace(couples=best.couples + more.couples, names=best.names + more.names)


def _by_key(
    images: Sequence[Entry], masks: Sequence[Entry], image_key: KeyOf, mask_key: KeyOf
) -> dict[Hashable, tuple[list[Entry], list[Entry]]]:
    """The images and the masks of each key."""
    sides: dict[Hashable, tuple[list[Entry], list[Entry]]] = defaultdict(lambda: ([], []))
    for side, (entries, key_of) in enumerate(((images, image_key), (masks, mask_key))):
        for entry in entries:
            if (key := key_of(entry)) is not None:
                sides[key][side].append(entry)
    return sides


def _rules(images: Sequence[Entry], masks: Sequence[Entry]) -> Iterator[tuple[KeyOf, KeyOf]]:
    """Keys of images and masks by each rule."""
    yield _stem, _stem
    yield _folded, _folded
    yield attrgetter("stem"), attrgetter("stem")
    yield (lambda entry: fold(entry.stem),) * 2
    yield _stem, _without_one(images, masks)
    yield _affixed(images, masks)
    for key in (_without_words, _without_numbered_words):
        yield key, key
    if min(len(images), len(masks)) > 1:
        yield _without_shared(images, masks), _without_shared(masks, images)
    else:  # of one file all words are shared; the rules that follow keep their places
        yield (lambda _: None,) * 2
    yield _stem, _begun(images)
    yield _numbered(images, masks), _numbered(masks, images)
    yield _alone(images), lambda entry: entry.place or None


def _stem(entry: Entry) -> Hashable:
    return entry.place, entry.stem


def _folded(entry: Entry) -> Hashable:
    return tuple(map(fold, entry.place)), fold(entry.stem)


def _without_one(images: Sequence[Entry], masks: Sequence[Entry]) -> KeyOf:
    """Masks' stems without the one word of all of them that makes the most an image's."""
    stems = {entry.stem for entry in images}

    def pairs(word: str) -> int:
        return sum(_cut_out(entry.stem, word) in stems for entry in masks)

    words = shared_tokens(masks) if masks else set()
    words -= shared_tokens(images) if len(images) > 1 else set()
    best = max(sorted(word for word in words if not word.isdigit()), key=pairs, default="")
    return lambda entry: (entry.place, _cut_out(entry.stem, best)) if best else None


def is_worded(image: Entry, mask: Entry) -> bool:
    """Whether two names differ in words that say image, mask or split, or one ends the other."""
    if mask.stem.startswith(image.stem) and cuts_at(mask.stem, len(image.stem)):
        return True
    return any(
        key(image) is not None and key(image) == key(mask)
        for key in (_without_words, _without_numbered_words)
    )


def _cut_out(stem: str, word: str) -> str:
    """A stem without a word and one separator beside it.

    >>> _cut_out("um_road_07", "road"), _cut_out("a_mask", "mask"), _cut_out("gt-3", "gt")
    ('um_07', 'a', '3')
    """
    return re.sub(
        rf"(?<![^\W\d_]){re.escape(word)}(?![^\W\d_])[_\-. ]|[_\-. ]?{re.escape(word)}(?![^\W\d_])",
        "",
        stem,
        count=1,
        flags=re.IGNORECASE,
    )


def _affixed(images: Sequence[Entry], masks: Sequence[Entry]) -> tuple[KeyOf, KeyOf]:
    sides = [[(entry.place, entry.stem) for entry in side] for side in (images, masks)]
    affixes = find_affixes(*sides)
    return (
        lambda entry: strip((entry.place, entry.stem), *affixes[:2]),
        lambda entry: strip((entry.place, entry.stem), *affixes[2:]),
    )


def _without_words(entry: Entry) -> Hashable:
    """Place and stem without the words that say image, mask or split."""
    kept = tuple(token for token in tokens(entry.stem) if not says_role(token))
    return (entry.place, kept) if kept else None


def _without_numbered_words(entry: Entry) -> Hashable:
    """As `_without_words`, and without a number that stands at such a word: `_manual1`."""
    stem = re.sub(
        r"([^\W\d_]+)\d+(?![^\W_])", lambda m: "" if says_role(m[1].lower()) else m[0], entry.stem
    )
    return _without_words(entry._replace(stem=stem))


def _without_shared(own: Sequence[Entry], other: Sequence[Entry]) -> KeyOf:
    """Stems without the words that all files of this side have and not all of the other.

    A number goes with them where it stands beside one (`_pixels0`).
    """
    alike = shared_tokens(own) - shared_tokens(other)
    drop = {token for token in alike if not token.isdigit()}
    alike -= drop

    def key(entry: Entry) -> Hashable:
        parts = tokens(entry.stem)
        beside = {n for pair in pairwise(parts) if drop & {*pair} for n in pair if n in alike}
        kept = tuple(token for token in parts if token not in drop and token not in beside)
        return (entry.place, kept) if kept else None

    return key


def _begun(images: Sequence[Entry]) -> KeyOf:
    """The longest stem of an image with which a mask's name begins: `apple_5f3a2b`."""
    stems = {entry.stem for entry in images}

    def key(entry: Entry) -> Hashable:
        stem = entry.stem
        ends = (
            end for end in range(len(stem), 0, -1) if cuts_at(stem, end) and stem[:end] in stems
        )
        end = next(ends, None)
        return (entry.place, stem[:end]) if end else None

    return key


def begun(images: Sequence[Entry], masks: Sequence[Entry]) -> list[tuple[Entry, Entry]]:
    """Each mask whose name begins with an image's, with that image."""
    stems, key_of = {_stem(entry): entry for entry in images}, _begun(images)
    return [(stems[key], mask) for mask in masks if (key := key_of(mask)) in stems]


def _numbered(own: Sequence[Entry], other: Sequence[Entry]) -> KeyOf:
    """Place and numbers, without those that all files of this side have."""
    alike = shared_tokens(own) - shared_tokens(other) if len(own) > 1 and other else set()
    drop = {token for token in alike if token.isdecimal()}

    def key(entry: Entry) -> Hashable:
        kept = tuple(int(n) for n in tokens(entry.stem) if n.isdecimal() and n not in drop)
        return (entry.place, kept) if kept else None

    return key


def _alone(entries: Sequence[Entry]) -> KeyOf:
    """The place, for the only file there."""
    count = Counter((entry.place, entry.split) for entry in entries)
    return lambda entry: (
        entry.place if entry.place and count[entry.place, entry.split] == 1 else None
    )


def _apply(
    images: Sequence[Entry], masks: Sequence[Entry], image_key: KeyOf, mask_key: KeyOf, rule: int
) -> Matching:
    couples, names, crowds = [], [], []
    for key, sides in _by_key(images, masks, image_key, mask_key).items():
        for photos, truths in _by_split(*sides):
            truths = [] if _differ_in_split(photos, truths) else truths
            if len(photos) == len(truths) == 1:
                couples.append((photos[0], truths[0]))
                core = key[-1] if isinstance(key, tuple) and key else key
                names.append(core if isinstance(core, str) and rule < LOOSE else photos[0].stem)
            elif photos and truths:
                crowds.append((tuple(photos), tuple(truths)))
    return Matching(tuple(couples), tuple(names), rule, tuple(crowds))


def _by_split(
    photos: Sequence[Entry], truths: Sequence[Entry]
) -> Iterator[tuple[list[Entry], list[Entry]]]:
    """Images and masks of one split; then those without any, with what is left. None is twice."""
    shared = {entry.split for entry in photos} & {entry.split for entry in truths}
    for split in dict.fromkeys(entry.split for entry in photos if entry.split in shared):
        yield [e for e in photos if e.split == split], [e for e in truths if e.split == split]
    ours, theirs = ([e for e in side if e.split not in shared] for side in (photos, truths))
    if bare := [entry for entry in theirs if entry.split is None]:
        yield ours, bare
    else:
        yield [entry for entry in ours if entry.split is None], theirs


def _differ_in_split(photos: Sequence[Entry], truths: Sequence[Entry]) -> bool:
    """Whether the names of an image and a mask say different splits: `train_1` and `test_1`."""
    if not len(photos) == len(truths) == 1 or photos[0].stem == truths[0].stem:
        return False
    return len({split_of(photos[0].stem), split_of(truths[0].stem)} - {None}) > 1
