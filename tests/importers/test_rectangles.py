"""Turned rectangles: an example that is published, and laws."""

import math

import pytest
from hypothesis import given, strategies

from unetseg.importers.rectangles import turned_rectangle

numbers = strategies.floats(-1000, 1000)


def test_a_right_angle_as_a_user_of_label_studio_measured_it() -> None:
    """https://github.com/HumanSignal/label-studio/issues/2293: both overlap exactly."""
    turned = turned_rectangle((200, 100), (500, 200), (200, 100), 90.0)
    upright = turned_rectangle((100, 100), (200, 400), (100, 100), 0.0)
    assert set(turned) == set(upright)


@given(numbers, numbers, strategies.floats(0, 360))
def test_sides_keep_their_lengths_and_the_pivot_its_place(x: float, y: float, angle: float) -> None:
    corners = turned_rectangle((x, y), (x + 30, y + 10), (x, y), angle)
    assert corners[0] == pytest.approx((x, y), abs=1e-6)
    sides = [math.dist(corners[i], corners[i - 1]) for i in range(4)]
    assert sides == pytest.approx([10, 30, 10, 30], abs=1e-6)


@given(strategies.floats(0, 360))
def test_positive_angles_are_clockwise_on_the_screen(angle: float) -> None:
    right = turned_rectangle((0, 0), (1, 1), (0, 0), angle)[1]
    clockwise = math.degrees(math.atan2(right[1], right[0])) % 360  # y points down
    assert math.cos(math.radians(clockwise - angle)) == pytest.approx(1)
