"""The hash is blind to what does not change an image's content, and to nothing else."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import fft, stats

from unetseg.data.facts import similarity
from unetseg.data.facts.similarity import (
    BITS,
    NEAR,
    TURNS,
    Turn,
    distance,
    near_across,
    near_limit,
    turned,
)
from unetseg.data.files.folders import scan
from unetseg.data.files.image import read_image
from unetseg.data.files.windows import upright
from unetseg.data.sample import draw_cells
from unetseg.errors import ImageError

Image = NDArray[Any]
DRAWN = [draw_cells(160, seed=0, index=index)[0] for index in range(8)]
HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)
RNG = np.random.default_rng(0)


def perceptual_hash(image: Image) -> str:
    """That of the mean of the bands, H×W×C."""
    return similarity.perceptual_hash(image.mean(axis=-1, dtype=np.float32))


def near_couples(hashes: list[str], limit: int) -> list[tuple[int, int]]:
    """The places (first below second) of all couples that differ in at most `limit` bits."""
    return [
        (i, int(j)) for i, others in near_across(hashes, hashes, limit) for j in others[others > i]
    ]


def _jpeg(image: Image) -> Image:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])
    return _with_bands(np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED)))


def _with_bands(image: Image) -> Image:
    return image if image.ndim == 3 else image[..., None]


def _clipped(image: Image) -> Image:
    return image.clip(0, 255).round().astype(np.uint8)


def _resized(image: Image, factor: float) -> Image:
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    return _with_bands(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


CHANGES: dict[str, Callable[[Image], Image]] = {
    "JPEG": _jpeg,
    "brighter": lambda image: _clipped(image * 1.3),
    "darker": lambda image: _clipped(image * 0.7),
    "gamma": lambda image: _clipped(255 * (image / 255) ** 1.5),
    "noise": lambda image: _clipped(image + RNG.normal(0, 5, image.shape)),
    "smaller": lambda image: _resized(image, 0.9),
    "half": lambda image: _resized(image, 0.5),
    "blurred": lambda image: _with_bands(cv2.GaussianBlur(image, (0, 0), 1.5)),
    "grey": lambda image: _clipped(image.mean(axis=-1, keepdims=True)),
}


@pytest.mark.parametrize("index", range(3))
def test_the_hash_has_the_signs_of_scipys_transforms(index: int) -> None:
    grey = DRAWN[index].mean(axis=-1, dtype=np.float64)
    small = grey.reshape(32, 5, 32, 5).mean((1, 3))
    ranks = stats.rankdata(small).reshape(small.shape) / small.size
    waves = fft.dctn(ranks + (small - small.mean()) / (4 * small.std()), norm="ortho")[:16, :16]
    waves[0, 0] = 0
    assert similarity.perceptual_hash(grey) == np.packbits(waves > 0).tobytes().hex()


@given(HASHES, HASHES, HASHES)
def test_distance_is_a_metric(first: str, second: str, third: str) -> None:
    assert distance(first, first) == 0
    assert distance(first, second) == distance(second, first)
    assert distance(first, third) <= distance(first, second) + distance(second, third)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("index", range(3))
def test_a_changed_copy_is_near(change: Callable[[Image], Image], index: int) -> None:
    image = DRAWN[index]
    assert distance(perceptual_hash(image), perceptual_hash(change(image))) <= NEAR


def test_different_samples_are_far_from_each_other() -> None:
    hashes = [perceptual_hash(image) for image in DRAWN]
    apart = [distance(*couple) for couple in combinations(hashes, 2)]
    assert min(apart) > 2 * NEAR
    assert near_couples(hashes, near_limit(hashes)) == []


@given(st.integers(2, 5), st.sampled_from(["uint8", "uint16", "int16", "float32"]))
def test_type_scale_and_repeated_pixels_do_not_count(times: int, dtype: str) -> None:
    image = np.random.default_rng(times).integers(0, 250, (40, 56, 1))
    changed = (image * 100 if dtype in {"uint16", "float32"} else image).astype(dtype)
    enlarged = changed.repeat(times, 0).repeat(times, 1)
    assert distance(perceptual_hash(image.astype(np.uint8)), perceptual_hash(enlarged)) <= 2


@pytest.mark.parametrize("turn", TURNS, ids=lambda turn: turn.words)
def test_a_hash_turns_like_its_image(turn: Turn) -> None:
    image = DRAWN[0][:100]
    hashes = turned(["", perceptual_hash(image)], turn)
    assert hashes[0] == ""
    assert distance(hashes[1], perceptual_hash(upright(image, turn.orientation))) <= 1
    assert distance(hashes[1], perceptual_hash(image)) > NEAR


def test_turns_are_all_other_orientations() -> None:
    square = np.arange(9).reshape(3, 3)
    ways = {upright(square, turn.orientation).tobytes() for turn in TURNS}
    rotations = [np.rot90(flat, k).tobytes() for flat in (square, square.T) for k in range(4)]
    assert ways == set(rotations) - {square.tobytes()}
    words = {turn.words: turn for turn in TURNS}
    assert (upright(square, words["turned clockwise"].orientation) == np.rot90(square, -1)).all()
    assert (upright(square, words["turned counterclockwise"].orientation) == np.rot90(square)).all()


@pytest.mark.parametrize("value", [0, 200, 255])
def test_an_image_without_content_resembles_nothing(value: int) -> None:
    plain = perceptual_hash(np.full((50, 60, 3), value, np.uint8))
    other = perceptual_hash(DRAWN[0])
    assert plain == ""
    assert distance(plain, plain) == distance(plain, other) == distance(other, plain) == BITS
    assert near_couples([plain, plain, other, other], 0) == [(2, 3)]


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 90, 1), (7, 5, 13), (33, 700, 4)])
def test_any_size_has_a_hash(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert len(perceptual_hash(image)) in {0, 64}


@pytest.mark.parametrize("block", [1, 37, 10**9])
def test_near_couples_are_those_of_brute_force(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "_BLOCK", block)
    hashes = [RNG.bytes(32).hex() for _ in range(20)] + [""]
    for place in range(12):  # copies with few bits changed
        bits = RNG.integers(0, BITS, RNG.integers(1, 40)).tolist()
        number = int(hashes[place], 16)
        for bit in bits:
            number ^= 1 << bit
        hashes.append(f"{number:064x}")
    expected = [
        (i, j)
        for i, j in combinations(range(len(hashes)), 2)
        if distance(hashes[i], hashes[j]) <= 24
    ]
    assert expected
    assert near_couples(hashes, 24) == expected
    across = {(i, int(j)) for i, others in near_across(hashes[:9], hashes[9:], 24) for j in others}
    assert across == {(i, j - 9) for i, j in expected if i < 9 <= j}


def test_nothing_is_near_in_nothing() -> None:
    assert near_couples([], 9) == near_couples(["", ""], 9) == []
    assert near_limit([]) == near_limit(["ab" * 32]) == NEAR


@pytest.mark.long
def test_copies_of_real_images_are_near_and_others_are_not(real_data: Path) -> None:
    misses = []
    for name in ("isbi2012_em", "glas256", "nucseg_16bit"):
        images = [read_image(path) for path in scan(real_data / name / "images", ImageError)]
        hashes = [perceptual_hash(image) for image in images]
        limit = near_limit(hashes)
        assert near_couples(hashes, limit) == []
        for image, original in list(zip(images, hashes, strict=True))[:8]:
            eight = _clipped(image * (255 / image.max()))
            for key, change in CHANGES.items():
                bits = distance(original, perceptual_hash(change(eight)))
                misses += [(name, key, bits)] if bits > limit else []
    assert len(misses) <= 0.02 * 3 * 8 * len(CHANGES), misses
