"""Rectangles that stand askew, as annotation programs turn them."""

import math

from unetseg.importers.shapes import Point


def turned_rectangle(corner: Point, opposite: Point, pivot: Point, angle: float) -> list[Point]:
    """The four corners of an upright rectangle that is turned about a point.

    Args:
        corner: One corner before it is turned; x to the right, y down.
        opposite: The opposite one.
        pivot: The point that stays where it is.
        angle: Degrees, clockwise as one sees it.

    >>> turned_rectangle((0, 0), (4, 2), (0, 0), 90.0)[1]  # the upper right corner is below now
    (0.0, 4.0)
    """
    (left, top), (right, bottom) = corner, opposite
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return [_turned(point, pivot, math.radians(angle)) for point in corners]


def _turned(point: Point, pivot: Point, angle: float) -> Point:
    x, y = point[0] - pivot[0], point[1] - pivot[1]
    cos, sin = math.cos(angle), math.sin(angle)
    # Rounded to billionths of a pixel, so that right angles are exact.
    turned = pivot[0] + x * cos - y * sin, pivot[1] + x * sin + y * cos
    return round(turned[0], 9), round(turned[1], 9)
