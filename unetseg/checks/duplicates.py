"""Images and masks that are there more than once."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np

from unetseg.checks.evidence import Evidence
from unetseg.checks.finding import Finding, listed
from unetseg.data.facts.similarity import distance, near_across, near_limit
from unetseg.data.masks.mask_values import MaskFacts
from unetseg.text import plural

Places = list[int]
"""Places in the pairs of the evidence, in ascending order."""


def inspect_duplicates(evidence: Evidence) -> Iterator[Finding]:
    """Equal images, equal masks and near-copies."""
    yield from _same_images(evidence)
    yield from _two_truths(evidence)
    yield from _same_masks(evidence)
    yield from _near_copies(evidence)


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


def _same_images(evidence: Evidence) -> Iterator[Finding]:
    keys = (
        (pair.split, fact.image.pixel_hash) if fact.image.pixel_hash else None
        for pair, fact in zip(evidence.pairs, evidence.facts, strict=True)
    )
    groups = together(keys)
    if groups:
        surplus = sum(len(group) - 1 for group in groups)
        yield Finding(
            "identical-images",
            "warning",
            f"{plural(surplus, 'image')} {'has' if surplus == 1 else 'have'} the same pixels as "
            "another one of the same split: each counts as often as it is there",
            _joined(evidence, groups),
            "Keep one of each, with its mask.",
        )


def _two_truths(evidence: Evidence) -> Iterator[Finding]:
    """One image with masks that differ, in whatever split."""
    lines = []
    for group in together(fact.image.pixel_hash for fact in evidence.facts):
        first, *others = group
        for other in others:
            share = _least_difference(evidence.facts[first].mask, evidence.facts[other].mask)
            if share > 0:
                names = f"{evidence.pairs[first].mask} and {evidence.pairs[other].mask}"
                lines.append(f"{names}: {max(share, 0.0001):.2%} of the pixels or more differ")
    if lines:
        yield Finding(
            "one-image-two-masks",
            "warning",
            f"{plural(len(lines), 'couple')} of masks {'differs' if len(lines) == 1 else 'differ'} "
            "although their images have the same pixels: the network is taught both",
            listed(lines),
            "Keep the better mask of each image.",
        )


def _same_masks(evidence: Evidence) -> Iterator[Finding]:
    """One mask for images that do not resemble each other: most likely a slip while copying."""
    groups = list(_unlike(evidence, _equal_masks(evidence)))
    if groups:
        count = sum(len(group) for group in groups)
        yield Finding(
            "identical-masks",
            "warning",
            f"{count} masks have the same pixels as another one although their images differ",
            listed(
                " = ".join(str(evidence.pairs[place].mask) for place in group) for group in groups
            ),
            "Look at these masks over their images: most likely one of each is in its place.",
        )


def _equal_masks(evidence: Evidence) -> list[Places]:
    """Masks with equal pixels, of two values or more."""
    masks = [fact.mask for fact in evidence.facts]
    return together(mask.pixel_hash if len(mask.counts) > 1 else "" for mask in masks)


def _unlike(evidence: Evidence, groups: Iterable[Places]) -> Iterator[Places]:
    """The groups with images that differ; exposures of one scene may well share a mask."""
    limit = near_limit([fact.image.perceptual_hash for fact in evidence.facts])
    for group in groups:
        first, *others = (evidence.facts[place].image for place in group)
        if any(
            image.pixel_hash != first.pixel_hash
            and distance(image.perceptual_hash, first.perceptual_hash) > limit
            for image in others
        ):
            yield group


def _near_copies(evidence: Evidence) -> Iterator[Finding]:
    """Images of one split that nearly equal one another; of equal ones, the first."""
    limit = near_limit([fact.image.perceptual_hash for fact in evidence.facts])
    groups = []
    for split in sorted({pair.split or "" for pair in evidence.pairs}):
        places = distinct(evidence, split)
        hashes = [evidence.facts[place].image.perceptual_hash for place in places]
        groups += [[places[k] for k in chain] for chain in chains(hashes, limit)]
    if groups:
        count = sum(len(group) for group in groups)
        yield Finding(
            "near-copies",
            "note",
            f"{count} images nearly equal another one of the same split (frames of one video, "
            "exposures of one scene?): they teach less than as many different ones",
            _joined(evidence, groups, " ≈ "),
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


def distinct(evidence: Evidence, split: str) -> Places:
    """One place for each image of a split ("" for none), equal ones counted once."""
    first: dict[str, int] = {}
    for place, (pair, fact) in enumerate(zip(evidence.pairs, evidence.facts, strict=True)):
        if (pair.split or "") == split:
            first.setdefault(fact.image.pixel_hash or str(place), place)
    return list(first.values())


def _least_difference(first: MaskFacts, second: MaskFacts) -> float:
    """The least share of pixels in which masks of these counts differ, 0–1."""
    if first.shape != second.shape:
        return 1.0
    left, right = dict(first.counts), dict(second.counts)
    moved = sum(abs(left.get(code, 0) - right.get(code, 0)) for code in {*left, *right})
    return moved / 2 / (first.shape[0] * first.shape[1])


def _counts(mask: MaskFacts) -> tuple[object, ...]:
    return mask.shape, mask.coding, tuple(sorted(mask.counts, key=str))


def _joined(evidence: Evidence, groups: Iterable[Places], sign: str = " = ") -> tuple[str, ...]:
    """One line for each group of images."""
    return listed(
        sign.join(str(evidence.pairs[place].image) for place in group) for group in groups
    )
