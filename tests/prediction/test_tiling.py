"""Laws of cutting and blending."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal.windows import gaussian
from torch.nn.functional import conv2d

from unetseg.prediction.tiling import (
    Blend,
    Tile,
    blend_strips,
    cut,
    lay_out,
    tile_starts,
    tile_window,
)

law = settings(deadline=None, max_examples=50)
sides = st.integers(1, 60)
tile_sides = st.integers(1, 40)
overlaps = st.floats(0, 0.75)
layouts = st.tuples(sides, sides, tile_sides, overlaps)
Layout = tuple[int, int, int, float]


def pieces(whole: NDArray[Any], tiles: list[Tile]) -> Iterator[tuple[Tile, NDArray[Any]]]:
    return ((tile, whole[:, *tile.slices]) for tile in tiles)


@law
@given(st.integers(1, 5000), st.integers(1, 700), overlaps)
def test_starts_cover_the_side_and_end_with_it(length: int, tile: int, overlap: float) -> None:
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] + min(tile, length) == length
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= max(1, round(tile * (1 - overlap)))).all()  # neighbours overlap enough


@law
@given(st.integers(1, 5000), st.integers(1, 700), overlaps)
def test_there_are_no_more_tiles_than_needed(length: int, tile: int, overlap: float) -> None:
    number = len(tile_starts(length, tile, overlap))
    stride = max(1, round(tile * (1 - overlap)))
    assert number == 1 or tile + (number - 2) * stride < length


def test_published_half_overlap_of_nnunet() -> None:
    # compute_steps_for_sliding_window of nnU-Net v2 for image 110, tile 64, step 0.5
    assert tile_starts(110, 64, 0.5) == [0, 23, 46]


@pytest.mark.parametrize(
    ("length", "tile", "overlap"), [(0, 4, 0.5), (4, 0, 0.5), (4, 4, 1.0), (4, 4, -0.1)]
)
def test_impossible_tilings_are_refused(length: int, tile: int, overlap: float) -> None:
    with pytest.raises(ValueError, match=f"no tiles for length {length}, tile {tile}"):
        tile_starts(length, tile, overlap)


@pytest.mark.row(39)
@law
@given(layouts)
def test_every_pixel_is_in_a_tile_and_no_tile_leaves_the_image(layout: Layout) -> None:
    height, width, tile, _ = layout
    covered = np.zeros((height, width), int)
    for piece in cut(*layout):
        assert covered[piece.slices].shape == (min(tile, height), min(tile, width))
        covered[piece.slices] += 1
    assert covered.min() >= 1


@law
@given(sides, sides, overlaps, st.integers(0, 50))
def test_a_tile_as_large_as_the_image_is_the_only_one(
    height: int, width: int, overlap: float, more: int
) -> None:
    assert cut(height, width, max(height, width) + more, overlap) == [Tile(0, 0, height, width)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 3), (33, 32), (512, 512), (2048, 300)])
def test_inside_the_image_the_window_is_the_gaussian_of_scipy(shape: tuple[int, int]) -> None:
    window = tile_window(Tile(5, 5, *shape), 5000, 5000)
    reference = np.outer(*(gaussian(side, side / 8) for side in shape))
    np.testing.assert_allclose(window, reference / reference.max(), rtol=1e-6)
    assert window.dtype == np.float32
    assert window.max() == 1
    assert window.min() > 0


@law
@given(layouts)
def test_the_window_is_one_from_the_middle_to_the_border_of_the_image(layout: Layout) -> None:
    height, width, _, _ = layout
    for tile in cut(*layout):
        window = tile_window(tile, height, width)
        assert window.shape == (tile.height, tile.width)
        assert window.min() > 0
        middle = window[tile.height // 2]
        if tile.left == 0:
            assert (middle[: tile.width // 2 + 1] == 1).all()
        elif tile.width > 2:
            assert middle[0] < 0.03  # a cut border hardly counts
        if tile.left + tile.width == width:
            assert (middle[tile.width // 2 :] == 1).all()


@law
@given(layouts, st.floats(-1e4, 1e4, width=32))
def test_blending_a_constant_gives_the_constant(layout: Layout, constant: float) -> None:
    whole = np.full((1, *layout[:2]), constant, np.float32)
    blend = Blend(1, *layout[:2])
    for tile, logits in pieces(whole, cut(*layout)):
        blend.add(tile, logits)
    np.testing.assert_allclose(blend.result(), whole, rtol=1e-5, atol=1e-30)


@law
@given(layouts, st.integers(0, 2**32 - 1))
def test_cutting_then_blending_is_the_identity(layout: Layout, seed: int) -> None:
    whole = np.random.default_rng(seed).normal(size=(3, *layout[:2])).astype(np.float32)
    blend = Blend(3, *layout[:2])
    for tile, logits in pieces(whole, cut(*layout)):
        blend.add(tile, logits)
    np.testing.assert_allclose(blend.result(), whole, rtol=1e-5, atol=1e-6)
    assert blend.result().dtype == np.float32


@law
@given(layouts, st.integers(0, 2**32 - 1))
def test_strips_are_the_whole_to_the_last_bit(layout: Layout, seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width, tile, overlap = layout
    rows = lay_out(height, width, tile, overlap, grid=1).rows
    shape = (2, min(tile, height), min(tile, width))
    predicted = {
        piece: random.normal(size=shape).astype(np.float32) for row in rows for piece in row
    }
    blend = Blend(2, height, width)
    for piece, logits in predicted.items():
        blend.add(piece, logits)

    def predict(row: Sequence[Tile]) -> list[tuple[Tile, NDArray[np.float32]]]:
        return [(piece, predicted[piece]) for piece in row]

    strips = list(blend_strips(rows, predict, height, width))
    tops = np.cumsum([0] + [strip.shape[1] for _, strip in strips])
    assert [top for top, _ in strips] == tops[:-1].tolist()
    np.testing.assert_array_equal(np.concatenate([s for _, s in strips], axis=1), blend.result())
    # Begun further down, the strips that no tile above reaches into are the same.
    first = random.integers(len(rows))
    for top, strip in blend_strips(rows[first:], predict, height, width):
        if first == 0 or top >= rows[first - 1][0].bottom:
            np.testing.assert_array_equal(strip, blend.result()[:, top : top + strip.shape[1]])


def test_strips_hold_only_a_tile_of_rows() -> None:
    # 200 rows of tiles: each strip comes before the next row is asked for
    asked = []

    def predict(row: Sequence[Tile]) -> Iterator[tuple[Tile, NDArray[np.float32]]]:
        for tile in row:
            asked.append(tile.top)
            yield tile, np.ones((1, 32, 32), np.float32)

    rows = lay_out(3216, 32, 32, 0.5, grid=1).rows
    for top, strip in blend_strips(rows, predict, 3216, 32):
        assert max(asked) == top
        assert strip.shape[1] <= 32
    assert len(asked) == 200


@law
@given(layouts, st.integers(1, 16))
def test_a_layout_covers_the_image_continued_to_its_grid(layout: Layout, grid: int) -> None:
    height, width, tile, overlap = layout
    laid = lay_out(height, width, tile, overlap, grid)
    assert 0 <= laid.below < grid
    assert 0 <= laid.right < grid
    assert (laid.height, laid.width) == (height + laid.below, width + laid.right)
    assert [piece for row in laid.rows for piece in row] == laid.tiles
    if max(height, width) <= tile:
        assert laid.tiles == [Tile(0, 0, height, width)]
    else:
        assert {number % grid for t in laid.tiles for number in (t.top, t.left, t.bottom)} == {0}


def test_a_forgotten_tile_is_an_error() -> None:
    blend = Blend(1, 8, 12)
    blend.add(Tile(0, 0, 8, 8), np.ones((1, 8, 8), np.float32))
    with pytest.raises(ValueError, match="32 pixels are in no tile"):
        blend.result()


def test_logits_of_another_shape_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"logits of shape \(1, 1, 8\) for a tile of \(1, 8, 8\)"):
        Blend(1, 8, 8).add(Tile(0, 0, 8, 8), np.ones((1, 1, 8), np.float32))


RADIUS = 3  # three 3x3 convolutions see three pixels to each side


def convolved(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """A fixed zero-padded stack of three 3×3 convolutions with ReLU, in float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.from_numpy(image)[None]
    for inner, outer in ((1, 4), (4, 4), (4, 2)):
        weight = torch.randn(outer, inner, 3, 3, generator=generator, dtype=torch.float64)
        x = conv2d(x, weight / (9 * inner) ** 0.5, padding=1).relu()
    return x[0].numpy()


@pytest.mark.row(39)
@settings(law, max_examples=10)
@given(st.integers(40, 120), st.integers(40, 120), st.sampled_from([32, 48]))
def test_tiled_is_whole_away_from_the_borders_of_tiles(height: int, width: int, tile: int) -> None:
    image = np.random.default_rng(0).normal(size=(1, height, width))
    whole = convolved(image)
    blend = Blend(2, height, width)
    near = np.zeros((height, width), bool)  # some tile's cut edge is within the receptive field
    for piece in cut(height, width, tile, 0.5):
        blend.add(piece, convolved(image[:, *piece.slices]))
        inside = np.zeros((height, width), bool)
        right = piece.left + piece.width
        inside[
            piece.top + RADIUS * (piece.top > 0) : piece.bottom - RADIUS * (piece.bottom < height),
            piece.left + RADIUS * (piece.left > 0) : right - RADIUS * (right < width),
        ] = True
        near[piece.slices] |= ~inside[piece.slices]
    error = np.abs(blend.result() - whole)
    assert (~near).any()
    assert error[:, ~near].max() <= 2e-6 * np.abs(whole).max()  # float32 sums
    assert error.max() <= 0.005 * np.abs(whole).max()  # the window mutes what the cut edge spoiled
