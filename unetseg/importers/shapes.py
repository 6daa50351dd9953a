"""Drawn shapes → pixels: polygons, ellipses, lines and run-length codes.

Coordinates are x to the right and y down, in pixels, continuous: the first pixel reaches from 0 to
1. One rule holds for all shapes: a pixel belongs to a shape when its centre lies inside. That is
how COCO's own program fills polygons, which is the reference here (it rounds corners to fifths of a
pixel first); filling by Pillow or OpenCV adds the outline, half a pixel all around. What lies
outside the image is cut off.

A `Patch` is the window that a shape covers, so that a thousand shapes on a large image need no more
memory than their own pixels.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from unetseg.errors import MaskError

Point = tuple[float, float]  # x, y
Points = Sequence[Sequence[float]]  # N×2
Size = tuple[int, int]  # height and width of the image, pixels
Floats = NDArray[np.float64]

LONGEST_OUTLINE = 2**22
"""Pixels; a polygon with a longer outline is refused, since each takes memory."""
_FARTHEST = 1e15  # pixels; what lies farther is no coordinate
_AT_ONCE = 2**18  # pixels whose distances are computed at once


@dataclass(frozen=True)
class Patch:
    """A window of an image and the pixels of it that a shape covers.

    Attributes:
        top: First row of the window.
        left: First column.
        covered: bool H×W of the window.
    """

    top: int
    left: int
    covered: NDArray[np.bool_]

    @property
    def area(self) -> int:
        """Number of covered pixels."""
        return int(np.count_nonzero(self.covered))


NOTHING = Patch(0, 0, np.zeros((0, 0), bool))
"""The patch of a shape that covers no pixel."""


def paint_in_order(layers: Iterable[tuple[int, Patch]], size: Size) -> NDArray[np.uint8]:
    """The mask of (code, patch) couples on background 0: later ones lie over earlier ones.

    >>> full = Patch(0, 0, np.ones((1, 3), bool))
    >>> paint_in_order([(1, full), (2, Patch(0, 1, full.covered[:, :1]))], (1, 3)).tolist()
    [[1, 2, 1]]
    """
    mask = np.zeros(size, np.uint8)
    for code, patch in layers:
        height, width = patch.covered.shape
        mask[patch.top : patch.top + height, patch.left : patch.left + width][patch.covered] = code
    return mask


def polygons(parts: Sequence[Points], size: Size) -> Patch:
    """The union of polygons (N×2 corners each, closed by themselves), as COCO fills them.

    Where an outline crosses itself, what it goes around twice is outside (even-odd rule).

    Raises:
        MaskError: a polygon has fewer than three points, coordinates that are no numbers, or an
            outline too long to follow.
    """
    outlines = []
    for part in parts:
        corners = _numbers(part, "a polygon", fewest=3)
        reach = np.array([size[1], size[0]], np.float64)
        if bool(((corners < -reach) | (corners > 2 * reach)).any()):
            corners = _clipped(corners, -reach, 2 * reach)
        length = np.abs(np.diff(corners, axis=0, append=corners[:1])).max(axis=1).sum()
        if length > LONGEST_OUTLINE:
            raise MaskError(f"a polygon has an outline of {length:.0f} pixels")
        outlines += [corners.ravel().tolist()] if len(corners) else []
    if not outlines:
        return NOTHING
    united = coco_mask.merge(coco_mask.frPyObjects(outlines, *size))
    return runs_to_patch(unpack_runs(united["counts"]), size)


def polygon(points: Points, size: Size) -> Patch:
    """One polygon; see `polygons`."""
    return polygons([points], size)


def turned_rectangle(corner: Point, opposite: Point, pivot: Point, angle: float) -> list[Point]:
    """The four corners of an upright rectangle that is turned about a point.

    Args:
        corner: One corner before it is turned; x to the right, y down.
        opposite: The opposite one.
        pivot: The point that stays where it is.
        angle: Degrees, clockwise as one sees it.

    >>> turned_rectangle((0, 0), (4, 2), (0, 0), 90.0)[1]  # the upper right corner is below now
    (0.0, 4.0)

    Raises:
        MaskError: the angle is no number.
    """
    if not math.isfinite(angle):
        raise MaskError(f"a rectangle is turned by {angle} degrees")
    (left, top), (right, bottom) = corner, opposite
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    corners = []
    for x, y in ((left, top), (right, top), (right, bottom), (left, bottom)):
        dx, dy = x - pivot[0], y - pivot[1]
        # Rounded to billionths of a pixel, so that right angles are exact.
        turned_x = round(pivot[0] + dx * cos - dy * sin, 9)
        corners.append((turned_x, round(pivot[1] + dx * sin + dy * cos, 9)))
    return corners


def ellipse(centre: Point, radii: Point, size: Size, angle: float = 0.0) -> Patch:
    """An ellipse with its radii along x and y, then turned clockwise by `angle` degrees.

    Raises:
        MaskError: a number is none, or a radius is negative.
    """
    values = _numbers([centre, radii, (angle, angle)], "an ellipse", fewest=3)
    if min(radii) < 0:
        raise MaskError(f"an ellipse has the radii {radii[0]:g} and {radii[1]:g}")
    if min(radii) == 0:
        return NOTHING
    turn = math.radians(angle)
    cos, sin = math.cos(turn), math.sin(turn)
    reach = np.hypot([radii[0] * cos, radii[0] * sin], [radii[1] * sin, radii[1] * cos])

    def holds(x: Floats, y: Floats) -> NDArray[np.bool_]:
        x, y = x - centre[0], y - centre[1]
        along, across = x * cos + y * sin, y * cos - x * sin  # H×W each
        with np.errstate(over="ignore"):  # of radii next to nothing
            return np.asarray(np.hypot(along / radii[0], across / radii[1]) <= 1)

    return _filled(_window(values[0] - reach, values[0] + reach, size), holds)


def line(points: Points, thickness: float, size: Size) -> Patch:
    """A line through two or more points: all pixels within half of `thickness` pixels of it.

    Raises:
        MaskError: there are fewer than two points, or coordinates that are no numbers.
    """
    corners = _numbers(points, "a line", fewest=2)
    radius = thickness / 2
    (top, left), inner = _window(corners.min(0) - radius, corners.max(0) + radius, size)
    covered = np.zeros(inner, bool)
    for start, end in pairwise(corners):
        piece = _segment(start, end, radius, size)
        rows, columns = piece.covered.shape
        first, begin = piece.top - top, piece.left - left
        covered[first : first + rows, begin : begin + columns] |= piece.covered
    return Patch(top, left, covered)


def runs_to_patch(counts: Sequence[int] | NDArray[np.integer], size: Size) -> Patch:
    """The pixels of COCO's run lengths: of 0s, of 1s, of 0s, … down column after column.

    Raises:
        MaskError: the runs are negative, or cover another number of pixels than the image has.
    """
    try:
        lengths = np.asarray(counts)
    except (TypeError, ValueError) as error:
        raise MaskError("the run lengths are no list of whole numbers") from error
    if lengths.ndim != 1 or (lengths.size and lengths.dtype.kind not in "iu"):
        raise MaskError("the run lengths are no list of whole numbers")
    height, width = size
    ends = np.cumsum(lengths, dtype=np.float64)  # exact below 2⁵³
    if (lengths < 0).any() or not ends.size or ends[-1] != height * width:
        came = f"the run lengths cover {ends[-1] if ends.size else 0:.0f} pixels"
        raise MaskError(f"{came}, expected {height * width} ({height} rows × {width} columns)")
    filled = np.flatnonzero(lengths[1::2]) * 2 + 1
    if not filled.size:
        return NOTHING
    left, right = int(ends[filled[0] - 1]) // height, int(ends[filled[-1]] - 1) // height + 1
    edges = np.clip(np.r_[0, ends], left * height, right * height).astype(np.int64)
    values = np.arange(lengths.size) % 2 == 1
    columns = np.repeat(values, np.diff(edges)).reshape(right - left, height)  # W, H
    patch = crop(columns.T)
    return Patch(patch.top, left + patch.left, patch.covered)


def unpack_runs(text: str | bytes) -> NDArray[np.int64]:
    """The run lengths in COCO's compressed text.

    Each number is written in 5-bit groups, lowest first, as characters from 48 on; the sixth bit
    says that more follow and the fifth of the last is the sign. From the fourth number on, the
    difference to the last but one is written.

    Raises:
        MaskError: the text is cut off or holds other characters.
    """
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    groups = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if not groups.size:
        return groups
    ends = np.flatnonzero(groups & 0x20 == 0)
    starts = np.r_[0, ends[:-1] + 1] if ends.size else ends
    lengths = ends - starts + 1
    is_whole = bool(ends.size) and ends[-1] == groups.size - 1
    if not is_whole or groups.min() < 0 or groups.max() > 63 or lengths.max() > 7:
        raise MaskError("the compressed run lengths are damaged")
    position = np.arange(groups.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((groups & 0x1F) << (5 * position), starts)
    numbers -= np.where(groups[ends] & 0x10, 1 << (5 * lengths), 0)
    for first in (1, 2):  # every second number from here on adds to the one before
        numbers[first::2] = np.cumsum(numbers[first::2])
    return np.asarray(numbers)


def crop(covered: NDArray[np.bool_]) -> Patch:
    """The patch of a mask of the whole image (bool H×W): the window around what is covered."""
    rows, columns = (np.flatnonzero(covered.any(axis)) for axis in (1, 0))
    if not rows.size:
        return NOTHING
    top, left = int(rows[0]), int(columns[0])
    window = covered[top : rows[-1] + 1, left : columns[-1] + 1]
    return Patch(top, left, np.array(window))


def pasted(covered: NDArray[np.bool_], top: int, left: int, size: Size) -> Patch:
    """The part of `covered` (bool H×W) that lies on the image, its first pixel at `top`, `left`."""
    inner = covered[max(-top, 0) : max(size[0] - top, 0), max(-left, 0) : max(size[1] - left, 0)]
    patch = crop(inner)
    return Patch(max(top, 0) + patch.top, max(left, 0) + patch.left, patch.covered)


def _numbers(points: Points, what: str, *, fewest: int) -> Floats:
    """The points as numbers N×2; fewer, or anything else, is refused."""
    try:
        values = np.array(points, np.float64)
    except (TypeError, ValueError) as error:
        raise MaskError(f"{what} has coordinates that are no numbers") from error
    if not (np.abs(values) < _FARTHEST).all():  # nor NaN
        raise MaskError(f"{what} has coordinates that are no numbers of pixels")
    if values.ndim != 2 or values.shape[1] != 2 or len(values) < fewest:
        raise MaskError(f"{what} has {len(values)} points, expected {fewest} or more")
    return values


def _window(low: Floats, high: Floats, size: Size) -> tuple[Size, Size]:
    """(top, left), (height, width) of the part of the image from `low` to `high` (x, y each)."""
    limit = np.array([size[1], size[0]])
    start = np.clip(np.floor(low) - 1, 0, limit).astype(int)
    end = np.clip(np.ceil(high) + 1, 0, limit).astype(int)
    (left, top), (width, height) = start, end - start
    return (int(top), int(left)), (int(height), int(width))


def _filled(window: tuple[Size, Size], holds: Callable[[Floats, Floats], Any]) -> Patch:
    """The pixels of a window for whose centres (x of 1×W, y of H×1) something holds.

    A few rows at a time, so that large windows need no more memory than their own pixels.
    """
    (top, left), (height, width) = window
    covered = np.zeros((height, width), bool)
    x = np.arange(width, dtype=np.float64)[None] + (left + 0.5)
    step = max(_AT_ONCE // max(width, 1), 1)
    for first in range(0, height, step):
        rows = np.arange(first, min(first + step, height), dtype=np.float64)[:, None]
        covered[first : first + step] = holds(x, rows + (top + 0.5))
    return Patch(top, left, covered)


def _segment(start: Floats, end: Floats, radius: float, size: Size) -> Patch:
    """The pixels whose centres lie within `radius` of the segment from `start` to `end`."""
    dx, dy = end - start
    square = float(dx * dx + dy * dy)

    def holds(x: Floats, y: Floats) -> NDArray[np.bool_]:
        x, y = x - start[0], y - start[1]
        share = np.clip((x * dx + y * dy) / square, 0, 1) if square else 0.0 * (x + y)  # H×W
        return np.asarray(np.hypot(x - share * dx, y - share * dy) <= radius)

    low, high = np.minimum(start, end) - radius, np.maximum(start, end) + radius
    return _filled(_window(low, high, size), holds)


def _clipped(corners: Floats, low: Floats, high: Floats) -> Floats:
    """The part of a polygon between `low` and `high` (x, y each), edge by edge.

    Sutherland and Hodgman, "Reentrant polygon clipping", Communications of the ACM 17 (1974).
    Without it a corner at a million would make a million points in memory.
    """
    for axis, limit, sign in ((0, low, 1), (0, high, -1), (1, low, 1), (1, high, -1)):
        before = np.roll(corners, 1, axis=0)
        depth, depth_before = (sign * (ends[:, axis] - limit[axis]) for ends in (corners, before))
        crosses = (depth_before < 0) != (depth < 0)  # ≥ 0 is inside
        share = np.divide(depth_before, depth_before - depth, where=crosses, out=0 * depth)
        points = np.stack([before + share[:, None] * (corners - before), corners], axis=1)
        corners = points[np.stack([crosses, depth >= 0], axis=1)]
    return corners
