"""What is there more than once: copies and near-copies, within a split and across splits.

Scores on images that training has seen are too good: images of one patient, scene or video are no
independent samples (S. Kapoor and A. Narayanan, Leakage and the reproducibility crisis in
machine-learning-based science, Patterns 4, 2023, find it in 17 fields).
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np

from unetseg.checks.finding import Finding, Line, are, joined, note, warning
from unetseg.checks.groups import torn_groups
from unetseg.data.facts.similarity import TURNS, Turn, distance, near_across, near_limit, turned
from unetseg.data.facts.survey import Survey
from unetseg.data.pairs.match import Pair
from unetseg.data.pairs.naming import SPLIT_NAMES
from unetseg.text import plural

Places = list[int]
"""Places in the pairs of the survey, in ascending order."""

_SHOWN = 3  # near-copies of one image that its line names


# Within a split


def inspect_duplicates(survey: Survey) -> Iterator[Finding]:
    """Equal images, equal masks and near-copies."""
    pairs, facts = survey.pairs.pairs, survey.facts_of("all")
    hashes = [fact.image.pixel_hash for fact in facts]
    keys = [(pair.split, h) if h else None for pair, h in zip(pairs, hashes, strict=True)]
    if groups := together(keys):
        surplus = sum(len(group) - 1 for group in groups)
        yield warning(
            "identical-images",
            f"{plural(surplus, 'image')} {'has' if surplus == 1 else 'have'} the same pixels as "
            "another one of the same split: each counts as often as it is there",
            [joined((pairs[place].image for place in group), " = ") for group in groups],
            "Keep one of each, with its mask.",
        )
    yield from _two_truths(survey)
    yield from _same_masks(survey)
    yield from _near_copies(survey)


def together(keys: Iterable[Hashable]) -> list[Places]:
    """The places of keys that occur more than once; None and "" count for nothing.

    >>> together(["a", "b", "a", "", ""])
    [[0, 2]]
    """
    places: dict[Hashable, Places] = defaultdict(list)
    for place, key in enumerate(keys):
        if key:
            places[key].append(place)
    return [group for group in places.values() if len(group) > 1]


def _two_truths(survey: Survey) -> Iterator[Finding]:
    """One image with masks that differ, in whatever split."""
    samples = survey.items()
    lines: list[Line] = []
    for first, *others in together(fact.image.pixel_hash for _, fact in samples):
        pair, fact = samples[first]
        for other, other_fact in (samples[place] for place in others):
            mask, other_mask = fact.mask, other_fact.mask
            left, right = dict(mask.counts), dict(other_mask.counts)
            moved = sum(abs(left.get(code, 0) - right.get(code, 0)) for code in {*left, *right})
            # at least so many pixels must differ for the counts to do
            share = moved / 2 / mask.pixels if mask.shape == other_mask.shape else 1.0
            alike = (mask.coding, mask.dtype) == (other_mask.coding, other_mask.dtype)
            differs = share > 0 or (alike and mask.pixel_hash != other_mask.pixel_hash)
            if differs and pair.mask and other.mask:
                differ = f": {max(share, 0.0001):.2%} of the pixels or more differ"
                lines.append((pair.mask, " and ", other.mask, differ))
    if lines:
        yield warning(
            "one-image-two-masks",
            f"{plural(len(lines), 'couple')} of masks {'differs' if len(lines) == 1 else 'differ'} "
            "although their images have the same pixels: the network is taught both",
            lines,
            "Keep the better mask of each image.",
        )


def _same_masks(survey: Survey) -> Iterator[Finding]:
    """One mask for images that do not resemble each other: most likely a slip while copying.

    Exposures of one scene may well share a mask, and so may images without any object.
    """
    samples = survey.items()
    limit = near_limit([fact.image.perceptual_hash for _, fact in samples])
    groups = []
    for group in together(
        fact.mask.pixel_hash if len(fact.mask.counts) > 1 else "" for _, fact in samples
    ):
        first, *others = (samples[place][1].image for place in group)
        if any(
            image.pixel_hash != first.pixel_hash
            and distance(image.perceptual_hash, first.perceptual_hash) > limit
            for image in others
        ):
            groups.append([samples[place][0].mask or "" for place in group])
    if groups:
        yield warning(
            "identical-masks",
            f"{sum(map(len, groups))} masks have the same pixels as another one although their "
            "images differ",
            [joined(group, " = ") for group in groups],
            "Look at these masks over their images: most likely one of each is in its place.",
        )


def _near_copies(survey: Survey) -> Iterator[Finding]:
    """Images of one split that nearly equal one another; of equal ones, the first."""
    pairs = survey.pairs.pairs
    hashes = [fact.image.perceptual_hash for fact in survey.facts_of("all")]
    limit = near_limit(hashes)
    groups = []
    for split in sorted({pair.split or "" for pair in pairs}):
        places = distinct(survey, split)
        linked = chains([hashes[place] for place in places], limit)
        groups += [[pairs[places[k]].image for k in chain] for chain in linked]
    if groups:
        yield note(
            "near-copies",
            f"{sum(map(len, groups))} images nearly equal another one of the same split (frames of "
            "one video, exposures of one scene?): they teach less than as many different ones",
            [joined(group, " ≈ ") for group in groups],
            "Nothing has to be done; keep such images in one split.",
        )


def chains(hashes: Sequence[str], limit: int) -> list[Places]:
    """The places of hashes that are near to one another, directly or by way of others.

    >>> chains(["00" * 32, "ff" * 32, "01" + "00" * 31, ""], 8)
    [[0, 2]]
    """
    chain = np.arange(len(hashes))
    for place, others in near_across(hashes, hashes, limit):
        if np.any(chain[others] != chain[place]):
            chain[np.isin(chain, chain[others])] = chain[place]
    return together(str(leader) for leader in chain)


def distinct(survey: Survey, split: str) -> Places:
    """One place for each image of a split ("" for none), equal ones counted once."""
    first: dict[str, int] = {}
    for place, (pair, fact) in enumerate(survey.items()):
        if (pair.split or "") == split:
            first.setdefault(fact.image.pixel_hash or str(place), place)
    return list(first.values())


# Across splits


def inspect_leakage(survey: Survey) -> Iterator[Finding]:
    """Images that are in two splits, nearly so, or belong to a group that the splits tear."""
    pairs = survey.pairs.pairs
    equal = together(fact.image.pixel_hash for fact in survey.facts_of("all"))
    groups = [group for group in equal if len({pairs[place].split for place in group}) > 1]
    if groups:
        yield warning(
            "identical-across-splits",
            f"{plural(len(groups), 'image')} {are(len(groups))} in more than "
            "one split, pixel by pixel: scores on them say nothing about new images",
            [joined((_with_split(pairs[place]) for place in group), " = ") for group in groups],
            "Keep each image in one split.",
        )
    yield from _near_across_splits(survey)
    yield from torn_groups(survey)


def _with_split(pair: Pair) -> Line:
    return pair.image, f" ({pair.split})"


def _near_across_splits(survey: Survey) -> Iterator[Finding]:
    """Images of val and test that nearly equal one of train, and of test one of val."""
    as_they_are = _couples(survey, None)
    if as_they_are:
        yield _seen_before(
            "near-copies-across-splits",
            "one of another split",
            [_resembling(survey, place, others) for place, others in sorted(as_they_are.items())],
        )
    lines = [
        _resembling(survey, place, others, f", {turn.words}")
        for turn in TURNS
        for place, others in sorted(_couples(survey, turn).items())
        if place not in as_they_are
    ]
    if lines:
        yield _seen_before(
            "turned-copies-across-splits", "a mirrored or turned one of another split", lines
        )


def _couples(survey: Survey, turn: Turn | None) -> dict[int, Places]:
    """The places of images with those that they resemble in an earlier split, when turned.

    Of each image at most a few, as the frames of a video may all resemble one another.
    """
    images = [fact.image for fact in survey.facts_of("all")]
    hashes = [image.perceptual_hash for image in images]
    limit = near_limit(hashes)
    couples: dict[int, Places] = defaultdict(list)
    for earlier, later in combinations(SPLIT_NAMES, 2):
        seen, asked = distinct(survey, earlier), distinct(survey, later)
        wanted = [hashes[place] for place in asked]
        wanted = wanted if turn is None else turned(wanted, turn)
        for k, others in near_across(wanted, [hashes[place] for place in seen], limit):
            pixels = images[asked[k]].pixel_hash
            near = (seen[j] for j in others[: _SHOWN + 1])
            couples[asked[k]] += [j for j in near if not pixels or images[j].pixel_hash != pixels]
    return {place: others for place, others in couples.items() if others}


def _resembling(survey: Survey, place: int, others: Places, remark: str = "") -> Line:
    """An image and those that it resembles."""
    pairs = survey.pairs.pairs
    more = " and more" if len(others) > _SHOWN else ""
    named = joined((_with_split(pairs[other]) for other in others[:_SHOWN]), ", ")
    return joined([_with_split(pairs[place]), joined([named, more + remark], "")], " resembles ")


def _seen_before(check: str, what: str, lines: Sequence[Line]) -> Finding:
    return warning(
        check,
        f"{plural(len(lines), 'image')} nearly {'equals' if len(lines) == 1 else 'equal'} {what}: "
        "scores on such images are too good",
        lines,
        "Keep such images in one split: move them, or give them one group in pairs.csv.",
    )
