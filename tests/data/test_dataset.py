"""Laws of the crops: pure functions of (seed, step), mirrored outside, centred on rare classes."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from unetseg.data.dataset import CropRule, Crops, Order, PairReader, crop_loader, window
from unetseg.data.masks import ClassInfo, ClassMap
from unetseg.data.pairs import Pair

CLASSES = ClassMap(
    classes=(
        ClassInfo(name="background", code=0, colour=(0, 0, 0)),
        ClassInfo(name="dot", code=255, colour=(200, 0, 0)),
    ),
    coding="integer",
    dtype="uint8",
    background=0,
)


@pytest.fixture
def reader(tmp_path: Path) -> PairReader:
    """Three images of 40×50 whose only foreground is one pixel at row 9, column 41."""
    rng = np.random.default_rng(0)
    pairs = []
    for index in range(3):
        image, mask = tmp_path / f"{index}.png", tmp_path / f"{index}_mask.png"
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(image)
        truth = np.zeros((40, 50), np.uint8)
        truth[9, 41] = 255
        Image.fromarray(truth).save(mask)
        pairs.append(Pair(image, mask, str(index)))
    return PairReader(pairs, CLASSES, 3)


def crops(reader: PairReader, profile: str = "full", oversample: float = 0.0) -> Crops:
    statistics = np.zeros((len(reader), 2, 3), np.float32)
    return Crops(reader, CropRule(16, profile, oversample), statistics)


def test_reading_kept_or_not_is_the_same(reader: PairReader) -> None:
    before = [reader[index] for index in range(3)]
    reader.keep()
    for (image, mask), (kept_image, kept_mask) in zip(
        before, map(reader.__getitem__, range(3)), strict=True
    ):
        np.testing.assert_array_equal(image, kept_image)
        np.testing.assert_array_equal(mask, kept_mask)


@pytest.mark.parametrize("profile", ["none", "light", "full"])
def test_a_crop_is_a_function_of_image_and_seed(reader: PairReader, profile: str) -> None:
    some = crops(reader, profile)
    first, again, other = some[1, 7], some[1, 7], some[1, 8]
    assert first.image.shape == (3, 16, 16)
    assert first.mask.shape == (16, 16)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.mask, again.mask)
    assert not torch.equal(first.image, other.image)


def test_without_augmentation_a_crop_is_cut_from_the_image(reader: PairReader) -> None:
    image, _ = reader[0]
    crop = crops(reader, "none")[0, 3].image.permute(1, 2, 0).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(image, (16, 16, 3)).reshape(-1, 16, 16, 3)
    assert (windows == crop).all((1, 2, 3)).any()


def test_oversampling_centres_on_the_foreground(reader: PairReader) -> None:
    always = crops(reader, "none", oversample=1.0)
    assert all(always[0, seed].mask.sum() == 1 for seed in range(20))
    never = crops(reader, "none", oversample=0.0)
    assert sum(int(never[0, seed].mask.sum()) for seed in range(20)) < 10


def test_workers_do_not_change_the_batches(reader: PairReader) -> None:
    batches = []
    for workers in (0, 2):
        loader = crop_loader(crops(reader), Order((1, 2, 1), 3, seed=5), workers)
        batches.append(list(islice(iter(loader), 4)))
    for alone, helped in zip(*batches, strict=True):
        assert torch.equal(alone.image, helped.image)
        assert torch.equal(alone.mask, helped.mask)


@given(
    repeats=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    batch=st.integers(1, 7),
    first=st.integers(0, 30),
)
def test_the_order_can_be_entered_anywhere(repeats: list[int], batch: int, first: int) -> None:
    whole = list(islice(Order(repeats, batch, seed=1), first + 5))
    assert list(islice(Order(repeats, batch, seed=1, first_step=first), 5)) == whole[first:]


@given(repeats=st.lists(st.integers(1, 4), min_size=1, max_size=6), batch=st.integers(1, 7))
def test_an_epoch_visits_every_image_as_often_as_it_should(repeats: list[int], batch: int) -> None:
    order = Order(repeats, batch, seed=2)
    seen = [key for keys in islice(order, order.steps_per_epoch) for key in keys]
    counts = np.bincount([image for image, _ in seen], minlength=len(repeats))
    assert (counts >= repeats).all()
    assert len(seen) - sum(repeats) < batch
    assert len({seed for _, seed in seen}) == len(seen)


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    centre=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    size=st.integers(1, 30),
)
def test_a_window_is_numpys_reflection(
    shape: tuple[int, int], centre: tuple[int, int], size: int
) -> None:
    array = np.arange(shape[0] * shape[1]).reshape(shape)
    centre = (min(centre[0], shape[0] - 1), min(centre[1], shape[1] - 1))
    margin = size
    padded: NDArray[np.int64] = np.pad(array, margin, "reflect")
    top, left = (middle - size // 2 + margin for middle in centre)
    np.testing.assert_array_equal(
        window(array, centre, size), padded[top : top + size, left : left + size]
    )
