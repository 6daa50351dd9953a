"""Masks that differ in size from their image, and images that are very small or very unequal."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from unetseg.checks.evidence import Evidence
from unetseg.checks.finding import Finding, listed
from unetseg.data.facts.fingerprint import PairFacts, size_line
from unetseg.text import plural

Size = tuple[int, int]  # height and width, pixels

SMALL = 32  # pixels: with a shorter side an image has little context
UNEQUAL = 64  # times: the pixels of the largest image over those of the smallest
LARGEST_FACTOR = 16  # a mask with less than one pixel for 16×16 of the image is another mask


def inspect_sizes(evidence: Evidence) -> Iterator[Finding]:
    """Masks of another size than their image, by what is behind it; then odd sizes of images."""
    yield from _inspect_mismatches(evidence)
    yield from _inspect_small(evidence)
    yield from _inspect_unequal(evidence)


def whole_factor(image: Size, mask: Size) -> float | None:
    """What the sides of a mask must be multiplied with to be those of its image.

    Only 2, 3, … 16 and the inverse of these count, the same for both sides; else it is None.

    >>> whole_factor((96, 64), (48, 32)), whole_factor((96, 64), (192, 128))
    (2.0, 0.5)
    >>> whole_factor((96, 64), (96, 32)), whole_factor((96, 64), (96, 64))
    (None, None)
    """
    for times in range(2, LARGEST_FACTOR + 1):
        if image == (times * mask[0], times * mask[1]):
            return float(times)
        if mask == (times * image[0], times * image[1]):
            return 1 / times
    return None


@dataclass(frozen=True)
class _Mismatch:
    """One reason why a mask has another size than its image."""

    check: str
    remark: str
    fix: str
    command: str = ""


_FIX = "unetseg check DATA --fix OUT"
_FACTOR = _Mismatch(
    "size-factor",
    "larger or smaller than the image by a whole factor",
    "The command resizes them by that factor.",
    _FIX,
)
_UNTURNED = _Mismatch(
    "size-unturned",
    "drawn before the rotation: they fit the image as it is stored, not as EXIF turns it upright",
    "The command turns them like their image.",
    _FIX,
)
_SWAPPED = _Mismatch(
    "size-swapped",
    "with height and width swapped",
    "Turn these masks so that they lie on their image, or remove the pairs.",
)
_OTHER = _Mismatch(
    "size-mismatch",
    "with another size than the image",
    "Resize these masks with nearest-neighbour interpolation, or remove the pairs.",
)


def _inspect_mismatches(evidence: Evidence) -> Iterator[Finding]:
    groups: dict[_Mismatch, list[str]] = defaultdict(list)
    for pair, fact in zip(evidence.pairs, evidence.facts, strict=True):
        if fact.image.shape != fact.mask.shape:
            groups[_reason(fact)].append(size_line(pair, fact))
    for reason in filter(groups.__contains__, (_FACTOR, _UNTURNED, _SWAPPED, _OTHER)):
        yield Finding(
            check=reason.check,
            severity="error",
            summary=f"{plural(len(groups[reason]), 'mask')} {reason.remark} (width×height)",
            files=listed(groups[reason]),
            fix=reason.fix,
            command=reason.command,
        )


def _reason(fact: PairFacts) -> _Mismatch:
    """Why the mask of a pair has another size."""
    if whole_factor(fact.image.shape, fact.mask.shape) is not None:
        return _FACTOR
    if fact.mask.shape != fact.image.shape[::-1]:
        return _OTHER
    return _UNTURNED if fact.image.orientation in {5, 6, 7, 8} else _SWAPPED


def _inspect_small(evidence: Evidence) -> Iterator[Finding]:
    lines = [
        f"{pair.image}: {_size(fact.image.shape)}"
        for pair, fact in zip(evidence.pairs, evidence.facts, strict=True)
        if min(fact.image.shape) < SMALL
    ]
    if lines:
        yield Finding(
            check="small-images",
            severity="note",
            summary=f"{plural(len(lines), 'image')} with a side below {SMALL} pixels, which leaves "
            "a network little to go by",
            files=listed(lines),
        )


def _inspect_unequal(evidence: Evidence) -> Iterator[Finding]:
    images = sorted({(fact.image.pixels, fact.image.shape) for fact in evidence.facts})
    if images and images[-1][0] >= UNEQUAL * images[0][0]:
        smallest, largest = (_size(shape) for _, shape in (images[0], images[-1]))
        yield Finding(
            check="unequal-sizes",
            severity="note",
            summary=f"the images reach from {smallest} to {largest} pixels; large ones are seen in "
            "small parts, so that things should have one size in pixels everywhere",
            files=listed(
                f"{pair.image}: {_size(fact.image.shape)}"
                for pair, fact in zip(evidence.pairs, evidence.facts, strict=True)
                if fact.image.shape in {images[0][1], images[-1][1]}
            ),
        )


def _size(shape: Size) -> str:
    return f"{shape[1]}×{shape[0]}"
