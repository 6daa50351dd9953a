"""Shapes cover the pixels whose centres they hold: as COCO's own program, and as geometry says."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy.spatial import cKDTree

from unetseg.errors import MaskError
from unetseg.importers import shapes
from unetseg.importers.shapes import (
    Patch,
    Points,
    Size,
    crop,
    ellipse,
    line,
    paint_in_order,
    polygon,
    polygons,
    runs_to_patch,
    turned_rectangle,
    unpack_runs,
)

SIZE = (40, 60)
pytestmark = pytest.mark.filterwarnings(  # pycocotools' own decoder, the reference here
    "ignore:__array__ implementation:DeprecationWarning"
)


def whole(patch: Patch, size: Size = SIZE) -> NDArray[np.bool_]:
    """The patch on the whole image, bool H×W."""
    return np.asarray(paint_in_order([(1, patch)], size) == 1)


def by_coco(parts: Sequence[Points], size: Size) -> NDArray[np.bool_]:
    """What pycocotools makes of polygons: its own `annToMask`."""
    flat = [np.asarray(part, float).ravel().tolist() for part in parts]
    codes = coco_mask.merge(coco_mask.frPyObjects(flat, *size))
    return np.asarray(coco_mask.decode(codes)).astype(bool)


SIZES = st.tuples(st.integers(1, 90), st.integers(1, 90))
# Tenths of a pixel make the ties of rounding that COCO's hundredths have.
COORDINATES = st.one_of(
    st.floats(-30, 120, allow_nan=False), st.integers(-300, 1200).map(lambda tenths: tenths / 10)
)
CORNERS = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=3, max_size=12)


@given(st.lists(CORNERS, min_size=1, max_size=3), SIZES)
def test_polygons_are_those_of_pycocotools(parts: list[Points], size: Size) -> None:
    near = max(abs(value) for part in parts for point in part for value in point) < min(size)
    found = whole(polygons(parts, size), size)
    if near:  # nothing is cut off
        assert (found == by_coco(parts, size)).all()
    else:  # what is cut off moves corners by rounding alone
        assert (found != by_coco(parts, size)).sum() <= 4 * sum(len(part) for part in parts)


@given(st.integers(0, 2**32))
def test_shapes_as_people_draw_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(20, 500)), int(rng.integers(20, 500)))
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 60)))
    radius = rng.uniform(1, 200) * rng.uniform(0.5, 1, len(angles))
    middle = rng.uniform(0, 1, 2) * size[::-1]
    corners = middle + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    corners = np.clip(corners, 0, size[::-1]).round(2)
    assert (whole(polygon(corners.tolist(), size), size) == by_coco([corners.tolist()], size)).all()


def test_corners_a_billion_pixels_away_cost_nothing() -> None:
    far = polygon([(-1e9, -1e9), (1e9, -1e9), (1e9, 1e9), (-1e9, 1e9)], SIZE)
    assert far.covered.all()
    assert far.covered.shape == SIZE
    assert polygon([(1e9, 1e9), (2e9, 1e9), (2e9, 2e9)], SIZE).area == 0
    half = polygon([(-1e6, 10), (1e6, 10), (1e6, 1e6), (-1e6, 1e6)], SIZE)
    assert (whole(half) == (np.arange(40)[:, None] >= 10)).all()


def test_an_outline_that_would_fill_the_memory_is_refused() -> None:
    zigzag = [(0.0, float(y)) if y % 2 else (5000.0, float(y)) for y in range(5000)]
    with pytest.raises(MaskError, match="an outline of"):
        polygon(zigzag, (5000, 5000))


@pytest.mark.parametrize(
    ("points", "text"),
    [
        ([], "0 points, expected 3"),
        ([(1, 1), (2, 2)], "2 points, expected 3"),
        ([(1, 1), (2, 2), (float("nan"), 3)], "no numbers"),
        ([(1, 1), (2, 2), (float("inf"), 3)], "no numbers"),
        ([(1, 1), (2, 2), (1e308, -1e308)], "no numbers"),
        ([(1, 1), (2, 2), (3,)], "no numbers"),
        ([(1, 1, 1), (2, 2, 2), (3, 3, 3)], "3 points"),
    ],
)
def test_what_is_no_polygon_is_refused(points: Points, text: str) -> None:
    with pytest.raises(MaskError, match=text):
        polygon(points, SIZE)


# Rectangles, ellipses, lines


def rectangle(x: float, y: float, x2: float, y2: float) -> Patch:
    return polygon([(x, y), (x2, y), (x2, y2), (x, y2)], SIZE)


@given(st.integers(0, 60), st.integers(0, 40), st.integers(0, 60), st.integers(0, 40))
def test_a_rectangle_on_the_grid_is_a_slice(x: int, y: int, x2: int, y2: int) -> None:
    expected = np.zeros(SIZE, bool)
    expected[min(y, y2) : max(y, y2), min(x, x2) : max(x, x2)] = True
    assert (whole(rectangle(x, y, x2, y2)) == expected).all()


def inside(size: Size, holds: str, **values: float) -> NDArray[np.bool_]:
    """Where a formula in x and y, the centres of pixels, holds."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return np.asarray(eval(holds, {"np": np}, {"x": x, "y": y, **values}))


@given(st.floats(-10, 70), st.floats(-10, 50), st.floats(0.1, 40))
def test_a_circle_is_its_formula(x: float, y: float, radius: float) -> None:
    patch = ellipse((x, y), (radius, radius), SIZE)
    distance = "((x - a) / r) ** 2 + ((y - b) / r) ** 2"
    surely = inside(SIZE, f"{distance} <= 1 - 1e-9", a=x, b=y, r=radius)
    perhaps = inside(SIZE, f"{distance} <= 1 + 1e-9", a=x, b=y, r=radius)  # up to rounding
    assert (surely <= whole(patch)).all()
    assert (whole(patch) <= perhaps).all()


def test_an_ellipse_turned_by_a_quarter_has_its_radii_swapped() -> None:
    upright = whole(ellipse((30.5, 20.5), (15, 6), SIZE))
    assert (whole(ellipse((30.5, 20.5), (6, 15), SIZE, angle=90)) == upright).mean() > 0.999
    tilted = whole(ellipse((30, 20), (15, 3), SIZE, angle=45))  # clockwise: down to the right
    assert tilted[28, 38]
    assert not tilted[12, 38]


@given(st.lists(st.tuples(st.floats(-20, 80), st.floats(-20, 60)), min_size=2, max_size=4))
@settings(max_examples=40)
def test_a_line_is_what_lies_near_it(points: list[tuple[float, float]]) -> None:
    found = whole(line(points, 6, SIZE))
    shares = np.linspace(0, 1, 600)[:, None]
    pieces = [(1 - shares) * np.array(a) + shares * np.array(b) for a, b in pairwise(points)]
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    distances = cKDTree(np.concatenate(pieces)).query(np.stack([x, y], axis=-1))[0]
    assert found[distances <= 2.98].all()
    assert not found[distances >= 3.02].any()


@pytest.mark.parametrize("at_once", [1, 61, 700])
def test_rows_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    def both() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        points = [(3, 4), (50, 30), (20, 39)]
        return whole(line(points, 7, SIZE)), whole(ellipse((30, 20), (25, 9), SIZE, angle=20))

    expected = both()
    monkeypatch.setattr(shapes, "_AT_ONCE", at_once)
    assert all((one == other).all() for one, other in zip(both(), expected, strict=True))


def test_a_straight_line_has_its_thickness() -> None:
    rows = np.arange(40)[:, None]
    expected = np.broadcast_to((rows >= 15) & (rows < 25), SIZE)
    assert (whole(line([(-50, 20), (200, 20)], 10, SIZE)) == expected).all()


@pytest.mark.parametrize(
    ("draw", "text"),
    [
        (lambda: line([(1, 1)], 5, SIZE), "1 points, expected 2"),
        (lambda: line([(1, 1), (float("nan"), 2)], 5, SIZE), "no numbers"),
        (lambda: line([(1,), (2,), (3,)], 5, SIZE), "3 points, expected 2"),
        (lambda: ellipse((1, 1), (-1, 2), SIZE), "radii -1 and 2"),
        (lambda: ellipse((1, float("inf")), (1, 2), SIZE), "no numbers"),
    ],
)
def test_what_is_no_shape_is_refused(draw: object, text: str) -> None:
    with pytest.raises(MaskError, match=text):
        draw()  # type: ignore[operator]


# Run lengths


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.uint8]:
    size = draw(SIZES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    noise = rng.random(size) < draw(st.sampled_from([0, 0.02, 0.5, 0.98, 1]))
    return np.asfortranarray(noise.astype(np.uint8))


@given(masks())
def test_compressed_runs_of_pycocotools_are_read(mask: NDArray[np.uint8]) -> None:
    text = coco_mask.encode(mask)["counts"]
    size = (mask.shape[0], mask.shape[1])
    assert (whole(runs_to_patch(unpack_runs(text), size), size) == mask).all()
    assert (unpack_runs(text.decode()) == unpack_runs(text)).all()


@given(masks())
def test_plain_runs_are_read(mask: NDArray[np.uint8]) -> None:
    flat = mask.ravel(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(np.r_[np.int8(0), flat]))  # where 0 and 1 change
    runs = np.diff(np.r_[0, edges, flat.size]).tolist()
    size = (mask.shape[0], mask.shape[1])
    assert (whole(runs_to_patch(runs, size), size) == mask).all()


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([5, 5], "cover 10 pixels, expected 12"),
        ([], "cover 0 pixels"),
        ([20, -8], "cover 12 pixels"),
        ([2**62, 2**62, 2**62, 2**62], "expected 12"),
        ([1.5, 10.5], "whole numbers"),
        (["a", 3], "whole numbers"),
        ([[3, 9]], "whole numbers"),
        ([3, [9]], "whole numbers"),
    ],
)
def test_wrong_runs_are_refused(counts: list[int], text: str) -> None:
    with pytest.raises(MaskError, match=text):
        runs_to_patch(counts, (3, 4))


@pytest.mark.parametrize("text", ["P", "0P", "~~", "\n00", "ä0", "oooooooooo0"])
def test_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(MaskError, match="damaged"):
        unpack_runs(text)


# Painting


@given(masks())
def test_cropping_keeps_every_pixel(mask: NDArray[np.uint8]) -> None:
    patch = crop(mask > 0)
    assert (whole(patch, (mask.shape[0], mask.shape[1])) == mask).all()
    assert patch.area == mask.sum()
    assert not patch.area or (patch.covered[0].any() and patch.covered[:, -1].any())


# Turned rectangles


@given(st.floats(-1000, 1000), st.floats(-1000, 1000), st.floats(0, 360))
def test_sides_keep_their_lengths_and_the_pivot_its_place(x: float, y: float, angle: float) -> None:
    corners = turned_rectangle((x, y), (x + 30, y + 10), (x, y), angle)
    assert corners[0] == pytest.approx((x, y), abs=1e-6)
    sides = [math.dist(corners[i], corners[i - 1]) for i in range(4)]
    assert sides == pytest.approx([10, 30, 10, 30], abs=1e-6)


@given(st.floats(0, 360))
def test_positive_angles_are_clockwise_on_the_screen(angle: float) -> None:
    right = turned_rectangle((0, 0), (1, 1), (0, 0), angle)[1]
    clockwise = math.degrees(math.atan2(right[1], right[0])) % 360  # y points down
    assert math.cos(math.radians(clockwise - angle)) == pytest.approx(1)
