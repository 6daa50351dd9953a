"""Which values of a folder of masks stand for something, and which are noise.

`judge` tells the codes of classes from the stray values around them; `unite_colours` tells the
colours that are slips of others.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unetseg.data.masks.class_map import Code
from unetseg.data.masks.mask_values import (
    COUNTED,
    Folder,
    MaskFacts,
    as_point,
    distance,
    gather,
    in_order,
    integers,
    some,
)
from unetseg.errors import MaskError

REACH = 48  # a stray value lies at most this far from its class, in grey values
CENTRE_SHARE = 0.001  # a third class among noise holds at least this share of the pixels
LOSSY_SHARE = 0.99  # of lossy masks at least this share lies within reach of a class
CLOSE = 12  # and most of their pixels lie this near to it, which tells a mask from a photo
CLOSE_SHARE = 0.9
SNAP_SHARE = 0.9  # the same, of other masks when the user asks to snap; or half is exact
STRAY_SHARE = 0.05  # noise is less than this share of the pixels …
SANE_VALUES = 16  # … spread over more distinct values than this
SOLID = 0.15  # of the pixels of a class at least this share begins a 2×2 square of nothing else …
SOFT_VALUES = 4  # … unless fewer values than this are so thin
EDGE = 51  # a fifth of the range: nearly black or nearly white
MANY_VALUES = 64  # over more than so many, it may be …
MANY_STRAY_SHARE = 0.5  # … this share: the soft edges of thin structures
SMALL_INDEX = 64  # numbers below this are class indexes, not grey values
PATCH_SHARE = 0.001  # a class holds at least this share of one of its masks, when others are noise
NEAR = 24  # a slip of a colour lies at most this far from it …
SLIP_SHARE = 0.05  # … and has less than this share of its pixels
CROWD = 2  # stray values to each centre in masks with soft edges; rare classes are fewer
ODD_SHARE = 0.001  # odd numbers in masks of 0/255 have less than this share of 255's pixels …
ODD_FILES = 0.05  # … and are in at most this share of its files


@dataclass(frozen=True)
class Verdict:
    """The codes that stand for something; whether others are snapped to them; why, in words."""

    codes: tuple[Code, ...]
    snap: bool = False
    noise: str = ""


def judge(
    folder: Folder, named: tuple[Code, ...], given: tuple[Code, ...], *, snap: bool
) -> Verdict:
    """Tell the codes that stand for something from noise.

    Args:
        folder: All masks.
        named: The codes of a class list, if there is one.
        given: The codes that the user ignores.
        snap: Whether stray values may be snapped to the nearest code.

    Raises:
        MaskError: there is more noise than may be snapped.
    """
    known = tuple(dict.fromkeys([*named, *given]))
    if folder.lossy:
        return _judge_lossy(folder, known) if named else _judge_jpeg(folder, given)
    if named and snap:
        return Verdict(known, snap=True, noise="stray values are snapped to the nearest class")
    if named:
        return Verdict(folder.found)
    centres = find_centres(folder, given)
    if snap:
        return _judge_snapped(folder, centres, given)
    if is_noise(folder, centres):
        nearest = some(in_order(centres))
        fix = f"Give --snap to take the nearest of {nearest}, or save the masks without smoothing."
        raise _too_many(folder, centres, fix)
    _check_odd_numbers(folder, given)
    return Verdict(folder.found)


def _judge_snapped(folder: Folder, centres: tuple[Code, ...], given: tuple[Code, ...]) -> Verdict:
    """The codes that stray values are snapped to, when the user wants that."""
    codes = _solid(folder, centres, given)
    if len(codes) == len(folder.counts):
        return Verdict(codes, snap=True)
    is_photo = folder.share(codes) < MANY_STRAY_SHARE and folder.share(codes, REACH) < SNAP_SHARE
    if is_photo:
        raise _too_many(folder, codes, "Save the masks without smoothing.")
    nearest = some(codes)
    return Verdict(codes, snap=True, noise=f"stray values are snapped to the nearest of {nearest}")


def _solid(folder: Folder, centres: tuple[Code, ...], given: tuple[Code, ...]) -> tuple[Code, ...]:
    """The codes but the stray ones: centres, and whatever else is large enough for a class."""
    if _is_clean(folder, centres):
        return in_order(folder.counts.keys() - set(_odd_numbers(folder, given)))
    sure = {*centres, *(code for code in integers(folder.counts) if code < 0)}
    if _is_crowded(folder, centres) or _soft_edges(folder):
        return in_order(sure)
    if folder.coding == "palette":  # indexes next to each other are nothing alike
        return folder.found
    patches = {
        code
        for fact in folder.facts
        for code, pixels in fact.counts
        if pixels >= PATCH_SHARE * fact.pixels
    }
    return in_order(sure | (patches - find_slips(folder).keys()))


def _judge_jpeg(folder: Folder, given: tuple[Code, ...]) -> Verdict:
    """Lossy masks without a class list: their classes are where the pixels crowd."""
    centres = in_order(find_centres(folder, given))
    if len(centres) < 2 and len(folder.counts) > 1:
        raise _spoilt(folder, centres, REACH)
    if folder.share(centres, CLOSE) < CLOSE_SHARE:
        raise _spoilt(folder, centres, CLOSE)
    return _judge_lossy(folder, centres, REACH)


def _judge_lossy(folder: Folder, codes: tuple[Code, ...], reach: int | None = None) -> Verdict:
    """Lossy masks with known codes: no value may be as near to another class as to its own."""
    gap = min((distance(a, b) for i, a in enumerate(codes) for b in codes[:i]), default=2 * REACH)
    reach = min(REACH, (gap - 1) // 2) if reach is None else reach
    share = folder.share(codes, reach)
    if share < LOSSY_SHARE:
        raise _spoilt(folder, codes, reach)
    if set(folder.counts) <= set(codes):
        return Verdict(codes, snap=True)
    near = f"{_percent(share)} of the pixels are within {reach}"
    return Verdict(
        codes, snap=True, noise=f"JPEG noise is snapped to the nearest of {some(codes)} ({near})"
    )


def find_centres(folder: Folder, seeds: tuple[Code, ...] = ()) -> tuple[Code, ...]:
    """The most frequent codes, greedily, each 48 or more from the others, `seeds` first.

    Distances are the largest of the bands. The third centre and any after it need 0.1% of the
    pixels; two are found even when the foreground is rarer than that. Of many numbers, one between
    the lowest and the highest that covers no area anywhere is the soft edge of something else.
    """
    chosen = [code for code in seeds if code in folder.counts]
    edges = _soft_edges(folder)
    for code, count in sorted(
        folder.counts.items(), key=lambda item: (-item[1], as_point(item[0]))
    ):
        if code in edges:
            continue
        if len(chosen) > 1 and count < CENTRE_SHARE * folder.pixels:
            break
        if all(distance(code, other) >= REACH for other in chosen):
            chosen.append(code)
    return tuple(chosen)


def _soft_edges(folder: Folder) -> set[Code]:
    """The numbers that lie between others and cover no area, where there are several such.

    Class numbers are small; and a class of thin lines covers no area either, but is alone in that.
    """
    if folder.coding != "integer" or folder.lossy or max(integers(folder.found)) < SMALL_INDEX:
        return set()
    soft = {code for code in folder.found[1:-1] if folder.solidity[code] < SOLID}
    return soft if len(soft) >= SOFT_VALUES else set()


def is_noise(folder: Folder, centres: tuple[Code, ...]) -> bool:
    """Whether the values between `centres` look like anti-aliasing, not like classes.

    The evidence, all of it: more than 16 distinct values, and less than 5% of the pixels outside
    the centres (half of them for more than 64 values, or where none of the others covers an area).
    Of colours also: masks with stray ones hold twice as many of those as of others, and rare
    classes are not as many at once. Of numbers also: all values lie between the lowest and the
    highest centre and reach near to both (class numbers stop far below 255), and they are not
    simply 0, 1, 2, … nearly without gaps. Fewer values are noise when hardly any pixel holds them
    and they are almost black or almost white in masks of 0 and 255, or when several cover no area
    anywhere.
    """
    if len(centres) < 2 or len(folder.counts) == len(centres):
        return False
    if len(folder.counts) <= SANE_VALUES:
        return folder.coding != "rgb" and (
            _is_speckled(folder, centres) or _is_softened(folder, centres)
        )
    if folder.coding == "rgb":
        return _is_crowded(folder, centres)
    is_soft = _is_softened(folder, centres) and folder.share(centres) > MANY_STRAY_SHARE
    if not (is_soft or is_sparse(folder, centres)):
        return False
    low, high = min(integers(centres)), max(integers(centres))
    others = sorted(set(integers(folder.counts)) - set(integers(centres)))
    edge = (high - low) / 5
    between = low < others[0] <= low + edge and high - edge <= others[-1] < high
    return between and not _is_dense(folder)


def _is_speckled(folder: Folder, centres: tuple[Code, ...]) -> bool:
    """Whether a pixel in a thousand or fewer is nearly 0 or 255, and the others are just that."""
    others = sorted(set(integers(folder.counts)) - set(integers(centres)))
    near = all(min(code, 255 - code) <= EDGE for code in others) and others[-1] >= 255 - EDGE
    return set(centres) == {0, 255} and near and folder.share(centres) > 1 - CENTRE_SHARE


def _is_softened(folder: Folder, centres: tuple[Code, ...]) -> bool:
    """Whether all values but the centres are soft edges."""
    soft = _soft_edges(folder)
    return bool(soft) and soft >= folder.counts.keys() - set(centres)


def _is_dense(folder: Folder) -> bool:
    """Whether the codes but 255 are 0, 1, 2, … up to at most 239, with few gaps."""
    small = [code for code in integers(folder.counts) if code >= 0 and code != 255]
    return max(small) < 240 and len(small) >= 0.9 * (max(small) + 1)


def _is_clean(folder: Folder, centres: tuple[Code, ...]) -> bool:
    """Whether nothing needs snapping: codes far from each other, or small class numbers."""
    if len(centres) == len(folder.counts):
        return True
    highest = max((code for code in integers(folder.counts) if code != 255), default=255)
    return folder.coding != "rgb" and highest < SMALL_INDEX


def is_sparse(folder: Folder, codes: Iterable[Code]) -> bool:
    """Whether the pixels with other values than `codes` are few enough to be noise."""
    limit = MANY_STRAY_SHARE if len(folder.counts) > MANY_VALUES else STRAY_SHARE
    return 1 - folder.share(codes) < limit


def _is_crowded(folder: Folder, centres: tuple[Code, ...]) -> bool:
    """Whether masks with stray values, few pixels each, hold twice as many of them as of centres.

    Soft edges pass through many values; rare classes are seldom in one mask together.
    """
    strays = [sum(code not in centres for code, _ in fact.counts) for fact in folder.facts]
    others = [len(fact.counts) - odd for fact, odd in zip(folder.facts, strays, strict=True) if odd]
    return sum(strays) > CROWD * sum(others) and is_sparse(folder, centres)


def find_slips(folder: Folder) -> dict[Code, Code]:
    """Rare codes next to frequent ones, each with the frequent one that was meant.

    A slip lies within 24 of a code with more than 20 times its pixels; of colours, the largest
    difference of the three bands counts. Where the frequent codes (0.1% of the pixels) lie closer
    than 48 to each other, slips lie nearer than half of that.
    """
    ranked = sorted(folder.counts.items(), key=lambda item: (-item[1], as_point(item[0])))[:COUNTED]
    points = np.array([as_point(code) for code, _ in ranked], np.int64)
    pixels = np.array([count for _, count in ranked], np.int64)
    meant = np.full(len(ranked), -1)  # the place of the code that was meant; -1: this one
    for i in range(len(ranked)):
        mains = np.flatnonzero((meant[:i] < 0) & (pixels[i] < SLIP_SHARE * pixels[:i]))
        gaps = np.abs(points[mains] - points[i]).max(axis=1)
        if gaps.size and gaps.min() <= NEAR:
            meant[i] = mains[gaps.argmin()]
    frequent = points[(meant < 0) & (pixels >= CENTRE_SHARE * folder.pixels)]
    reach = min([NEAR, *((_gap(frequent, i) - 1) // 2 for i in range(1, len(frequent)))])
    return {
        ranked[i][0]: ranked[main][0]
        for i, main in enumerate(meant)
        if main >= 0 and np.abs(points[i] - points[main]).max() <= reach
    }


def _gap(points: NDArray[np.int64], place: int) -> int:
    """How far a point (of N×3) is from the nearest before it."""
    return int(np.abs(points[:place] - points[place]).max(axis=1).min())


def find_strays(folder: Folder, given: tuple[Code, ...] = ()) -> dict[Code, Code]:
    """The codes that snapping takes away, each with the one that takes its place."""
    solid = _solid(folder, find_centres(folder, given), given)
    strays = in_order(folder.counts.keys() - set(solid))
    return {code: min(solid, key=lambda other: distance(code, other)) for code in strays}


def unite_colours(facts: Sequence[MaskFacts]) -> dict[Code, Code]:
    """The RGB colours that are slips of others, such as 254,0,0 of 255,0,0, with the one meant.

    Raises:
        MaskError: the masks have different codings.
    """
    folder = gather(facts)
    return find_slips(folder) if folder.coding == "rgb" else {}


def _odd_numbers(folder: Folder, given: tuple[Code, ...]) -> tuple[Code, ...]:
    """Numbers in masks of 0 and 255 that are too rare to make 255 "no truth"."""
    codes = [code for code in integers(folder.counts) if code not in {0, 255, *given} and code > 0]
    is_plain = {0, 255} <= folder.counts.keys() and 255 not in given
    if not codes or not is_plain or (max(codes) >= SMALL_INDEX and 1 not in codes):
        return ()
    pixels = sum(folder.counts[code] for code in codes)
    held = sum(any(code in codes for code, _ in fact.counts) for fact in folder.facts)
    is_rare = pixels < ODD_SHARE * folder.counts[255]
    return tuple(codes) if is_rare and held <= max(1, ODD_FILES * folder.files[255]) else ()


def _check_odd_numbers(folder: Folder, given: tuple[Code, ...]) -> None:
    """Refuse masks of 0 and 255 where a few pixels would have all 255 ignored."""
    if odd := _odd_numbers(folder, given):
        raise MaskError(
            f"the masks hold 0 and 255, and hardly any {some(in_order(odd))}: stray pixels, or "
            "classes beside a 255 that has no truth",
            folder.holders(odd),
            "Give --snap to take the nearest of 0, 255; or --ignore 255 if it has no truth; or "
            "name the classes in classes.txt.",
        )


def _too_many(folder: Folder, centres: tuple[Code, ...], fix: str) -> MaskError:
    few = len(folder.counts) <= SANE_VALUES
    strays = set(folder.counts) - set(centres)
    return MaskError(
        f"more classes than sense: the masks hold {len(folder.counts)} distinct values; "
        f"{_percent(folder.share(centres))} of the pixels are exactly {some(in_order(centres))}",
        folder.holders(strays) if few else folder.fullest(),
        fix,
    )


def _spoilt(folder: Folder, codes: tuple[Code, ...], reach: int) -> MaskError:
    return MaskError(
        f"lossy compression (JPEG) has spoilt the masks: of {len(folder.counts)} distinct values "
        f"{_percent(folder.share(codes, reach))} of the pixels lie within {reach} of {some(codes)}",
        folder.fullest(),
        "Export the masks again, as PNG.",
    )


def _percent(share: float) -> str:
    """A share rounded down, so that only all is 100%."""
    return f"{math.floor(1000 * share) / 10:.1f}%"
