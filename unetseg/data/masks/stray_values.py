"""Values that are classes, and stray ones: soft edges, slips of the brush, noise.

Values that cover area are classes. Whether strays are classes all the same or go to the nearest one
is for classes.txt or `--snap`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unetseg.data.masks.class_map import Code
from unetseg.data.masks.mask_values import (
    COUNTED,
    Folder,
    as_point,
    distance,
    in_order,
    integers,
    is_negative,
    some,
)
from unetseg.errors import MaskError

SOLID = 0.15  # of the pixels of a value with area this share begins a 2×2 square of nothing else
LINES = 2  # so few values without area may draw lines; more of them are soft edges
LINE_SHARE = 0.001  # a line holds this share of the pixels of a mask
NUMBERS = 64  # values below this are class numbers: none is near to another
NEAR = 24  # grey values (of colours, in each band) between a value and its slips
OFTEN = 20  # times the pixels that a value has more than a slip of it
CLEAN = 0.9  # of the pixels of JPEG masks this share is within half of NEAR of a class
EXACT = 0.5  # of the pixels of masks that are snapped this share is exactly a class


class Separation(NamedTuple):
    """The values of a folder, told apart.

    Attributes:
        classes: Those that cover area, that draw lines, or that the user ignores.
        strays: All others.
        slips: Those of `classes` that are close to a far more frequent one, with that one.
    """

    classes: tuple[Code, ...]
    strays: tuple[Code, ...]
    slips: dict[Code, Code]

    @property
    def centres(self) -> tuple[Code, ...]:
        """The classes without the slips: what others are snapped to."""
        return tuple(code for code in self.classes if code not in self.slips)


class Reading(NamedTuple):
    """The codes that stand for something; whether others are snapped to them; why, in words."""

    codes: tuple[Code, ...]
    snap: bool = False
    noise: str = ""


def separate(folder: Folder, ignored: Sequence[Code] = ()) -> Separation:
    """Tell the values that are classes from stray ones.

    A value is a class where it covers area: where 15% of its pixels begin a 2×2 square of nothing
    else. One or two without area are classes too if they draw lines, 0.1% of the pixels of a mask;
    more of them are soft edges, and stray. Class numbers, all of them below 64 but for 255, and
    palette indexes are never stray, unless what remains without them is just 0 and 255. Values that
    the user ignores, and negative ones, have a meaning however rare they are.
    """
    fixed = {code for code in folder.found if code in ignored or is_negative(code)}
    thin = [c for c in folder.found if folder.solidity[c] < SOLID and c not in fixed]
    strays = {c for c in thin if len(thin) > LINES or folder.largest[c] < LINE_SHARE}
    solid = set(folder.found) - strays - fixed
    if _are_indexes(folder) and solid != {0, 255}:
        return Separation(folder.found, (), {})
    if len(solid) < 2:  # lines, all of them soft: the most frequent value is the line's
        far = [c for c in strays if all(distance(c, other) >= 2 * NEAR for other in solid)]
        strays -= {*sorted(far, key=lambda c: (-folder.counts[c], as_point(c)))[:1]}
    classes = in_order(set(folder.found) - strays)
    return Separation(classes, in_order(strays), _slips(folder, classes, fixed))


def _are_indexes(folder: Folder) -> bool:
    """Whether the values are palette indexes or class numbers, of which none is near to another."""
    highest = max((code for code in integers(folder.found) if code != 255), default=0)
    return not folder.lossy and (
        folder.coding == "palette" or (folder.coding == "integer" and highest < NUMBERS)
    )


def _slips(folder: Folder, classes: Sequence[Code], fixed: set[Code]) -> dict[Code, Code]:
    """The classes within 24 of one with more than 20 times their pixels, each with that one.

    There are none where the others are as near to each other: such numbers count. In lossy masks
    noise itself covers area: there it is all within 48 of any that is more frequent.
    """
    ranked = sorted(classes, key=lambda c: (c not in fixed, -folder.counts[c], as_point(c)))
    ranked = ranked[:COUNTED]
    points = np.array([as_point(code) for code in ranked], np.int64)
    pixels = np.array([folder.counts[code] for code in ranked], np.int64)
    is_main = np.ones(len(ranked), bool)
    slips = {}
    for i, code in enumerate(ranked):
        gaps = np.where(is_main[:i], np.abs(points[:i] - points[i]).max(axis=1), 2**32)
        near = gaps < 2 * NEAR if folder.lossy else gaps <= NEAR
        rarer = near & (folder.lossy | (OFTEN * pixels[i] < pixels[:i]))
        if rarer.any() and code not in fixed:
            is_main[i] = False
            slips[code] = ranked[int(np.where(rarer, gaps, 2**32).argmin())]
        elif near.any() and folder.coding == "integer" and not folder.lossy:
            return {}
    return slips


def read_values(folder: Folder, values: Separation, *, snap: bool) -> Reading:
    """What stands for something in masks without a class list."""
    centres = values.centres
    noise = f"stray values are snapped to the nearest of {some(centres)}"
    if folder.lossy:
        if len(centres) < 2 <= len(folder.counts) or folder.share(centres, NEAR // 2) < CLEAN:
            raise _spoilt(folder, centres, NEAR // 2)
        noise = f"JPEG noise is snapped to the nearest of {some(centres)}"
    elif values.strays and (folder.share(centres) < EXACT or not snap):
        raise _too_many(folder, values)
    if not (folder.lossy or snap):
        return Reading(folder.found)
    return Reading(centres, snap=True, noise=noise if len(centres) < len(folder.counts) else "")


def read_listed(
    folder: Folder, named: tuple[Code, ...], ignored: tuple[Code, ...], *, snap: bool
) -> Reading:
    """What stands for something in masks with a class list: its codes, and the ignored ones."""
    codes = tuple(dict.fromkeys([*named, *ignored]))
    if folder.lossy:
        is_noisy = not set(folder.counts) <= set(codes)
        gap = min((distance(a, b) for i, a in enumerate(codes) for b in codes[:i]), default=255)
        if is_noisy and (gap <= NEAR or folder.share(codes, NEAR) < CLEAN):
            raise _spoilt(folder, codes, NEAR)
        noise = f"JPEG noise is snapped to the nearest of {some(codes)}"
        return Reading(codes, snap=True, noise=noise if is_noisy else "")
    if snap:
        return Reading(codes, snap=True, noise="stray values are snapped to the nearest class")
    return Reading(folder.found)


def _too_many(folder: Folder, values: Separation) -> MaskError:
    nearest, share = some(values.centres), folder.share(values.centres)
    fix = f"Give --snap to take the nearest of {nearest}, or name the classes in classes.txt."
    if share < EXACT:
        fix = "Check that these are the masks, and save them without smoothing."
    return MaskError(
        f"more classes than sense: the masks hold {len(folder.counts)} distinct values; "
        f"{_percent(share)} of the pixels are exactly {nearest}, and "
        f"{some(values.strays)} cover no area",
        folder.holders(values.strays),
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
