"""Laws of the crops: pure functions of (seed, step), mirrored outside, centred on rare classes."""

from hashlib import blake2b
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import default_collate

from tests.builders import class_map, write_geotiff
from unetseg.data.crops import reader as reading
from unetseg.data.crops.dataset import CropRule, Crops, Order, known_gaps
from unetseg.data.crops.loading import crop_batches
from unetseg.data.crops.reader import PairReader
from unetseg.data.facts.survey import survey
from unetseg.data.files import image as image_file
from unetseg.data.files.pngs import write_png
from unetseg.data.masks.class_map import IGNORED
from unetseg.data.pairs.match import Pair

CLASSES, THREE = class_map(0, 255), class_map(0, 7, 9)


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


@pytest.mark.parametrize(("dtype", "bands"), [("uint8", 1), ("uint8", 3), ("int16", 13)])
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_those_of_torch_laid_out_for_the_network(
    tmp_path: Path, dtype: str, bands: int, workers: int
) -> None:
    """8-bit pixels stay 8-bit until they are on the device; no copy makes them channels_last."""
    some = Crops(
        PairReader(large_pairs(tmp_path, dtype, bands), THREE, bands),
        CropRule(32, "full", 0.5),
        np.zeros((2, 2, bands), np.float32),
    )
    order = Order((2, 1), 3, seed=0)
    batch = next(crop_batches(some, order, workers))
    expected = default_collate([some[key] for key in next(iter(order))])
    assert batch.image.dtype == (torch.uint8 if dtype == "uint8" else torch.float32)
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    for ours, theirs in zip(batch, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    for part in batch.split([1, 1, 1]):
        assert part.image.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kept", [False, True])
def test_crops_are_those_of_the_first_release(reader: PairReader, kept: bool) -> None:
    if kept:
        reader.keep()
    digest = blake2b(digest_size=8)
    some = crops(reader, "none", oversample=0.5)
    for index, seed in product(range(3), range(20)):
        digest.update(some[index, seed].image.numpy().tobytes())
        digest.update(some[index, seed].mask.numpy().tobytes())
    assert digest.hexdigest() == "c6ac658c108f6f72"


# Large images


def large_pairs(folder: Path, dtype: str = "int16", bands: int = 13) -> list[Pair]:
    """Two pairs of 90×70 TIFFs; class 1 is one pixel at row 85, column 3, class 2 a block."""
    rng = np.random.default_rng(0)
    pairs = []
    for index in range(2):
        image, mask = folder / f"{index}.tif", folder / f"{index}_mask.tif"
        limits = np.iinfo(dtype)
        pixels = rng.integers(limits.min, limits.max, (90, 70, bands), dtype=dtype)
        truth = np.zeros((90, 70), np.uint8)
        truth[85, 3], truth[20:30, 40:60] = 7, 9
        options: dict[str, Any] = {"photometric": "minisblack"}
        options |= {"planarconfig": "contig"} if bands > 1 else {}
        tifffile.imwrite(image, pixels, tile=(16, 32), compression="zlib", **options)
        tifffile.imwrite(mask, truth, compression="lzw", rowsperstrip=11)
        pairs.append(Pair(image, mask, str(index)))
    return pairs


@pytest.mark.parametrize("profile", ["none", "full"])
def test_crops_of_large_images_are_those_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    pairs = large_pairs(tmp_path)
    rule, statistics = CropRule(32, profile, 0.0), np.zeros((2, 2, 13), np.float32)
    whole = Crops(PairReader(pairs, THREE, 13), rule, statistics)
    expected = [whole[index, seed] for index, seed in product(range(2), range(10))]
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 1000)
    monkeypatch.setattr(reading, "read_matched", None)  # nothing is decoded whole
    reader = PairReader(pairs, THREE, 13)
    reader.keep()
    assert reader.is_windowed(0)
    assert not reader._kept
    by_windows = Crops(reader, rule, statistics)
    for crop, (index, seed) in zip(expected, product(range(2), range(10)), strict=True):
        assert torch.equal(crop.image, by_windows[index, seed].image)
        assert torch.equal(crop.mask, by_windows[index, seed].mask)
    image, mask = reader.files(1)
    assert (image.bands, mask.size) == (13, (90, 70))
    reader.close()


def test_crops_of_large_images_are_centred_on_each_class_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 1000)
    reader = PairReader(large_pairs(tmp_path, "uint8", 3), THREE, 3)
    some = Crops(reader, CropRule(16, "none", 1.0), np.zeros((2, 2, 3), np.float32))
    centres = [int(some[0, seed].mask[8, 8]) for seed in range(200)]
    assert set(centres) == {1, 2}
    assert 60 < centres.count(1) < 140
    again = Crops(PairReader(reader.pairs, THREE, 3), some.rule, some.statistics)
    for seed in range(20):
        assert torch.equal(some[1, seed].image, again[1, seed].image)
    reader.close()
    again.reader.close()


@pytest.mark.parametrize("limit", [1000, image_file.WHOLE_PIXELS])
def test_workers_do_not_change_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", limit)
    reader = PairReader(large_pairs(tmp_path, "uint8", 3), THREE, 3)
    some = Crops(reader, CropRule(16, "full", 0.5), np.zeros((2, 2, 3), np.float32))
    batches = []
    for workers in (0, 2):
        loader = crop_batches(some, Order((1, 2), 3, seed=5), workers)
        batches.append(list(islice(loader, 4)))
    for alone, helped in zip(*batches, strict=True):
        assert torch.equal(alone.image, helped.image)
        assert torch.equal(alone.mask, helped.mask)
    reader.close()


# Order


@given(
    repeats=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    batch=st.integers(1, 7),
    first=st.integers(0, 30),
)
def test_the_order_can_be_entered_anywhere(repeats: list[int], batch: int, first: int) -> None:
    whole = list(islice(Order(repeats, batch, seed=1), first + 5))
    assert list(islice(Order(repeats, batch, seed=1, first_step=first), 5)) == whole[first:]
    order = Order(repeats, batch, seed=1)
    assert list(islice(order.after(first), 5)) == whole[first:]
    assert order.first_step == 0


@given(repeats=st.lists(st.integers(1, 4), min_size=1, max_size=6), batch=st.integers(1, 7))
def test_an_epoch_visits_every_image_as_often_as_it_should(repeats: list[int], batch: int) -> None:
    order = Order(repeats, batch, seed=2)
    seen = [key for keys in islice(order, order.steps_per_epoch) for key in keys]
    counts = np.bincount([image for image, _ in seen], minlength=len(repeats))
    assert (counts >= repeats).all()
    assert len(seen) - sum(repeats) < batch
    assert len({seed for _, seed in seen}) == len(seen)


@pytest.mark.long
def test_pixels_without_data_are_hidden_from_loss_and_network(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(50, 9, (40, 40, 1)).astype(np.float32)
    image[:10] = np.nan
    write_geotiff(tmp_path / "images" / "a.tif", image, nodata=np.nan)
    mask = np.zeros((40, 40), np.uint8)
    mask[5:30, 5:30] = 255
    write_png(tmp_path / "masks" / "a.png", mask)
    known = survey(tmp_path)
    reader = PairReader(known.select("train"), known.class_map, 1)
    rule = CropRule(40, "none", 0.0)
    crops = Crops(reader, rule, known.statistics("train"), known_gaps(known, 1))
    sample = crops[0, 0]
    assert torch.isfinite(sample.image).all()
    assert (sample.mask[:10] == IGNORED).all()
    assert sorted(set(sample.mask[10:].flatten().tolist())) == [0, 1]
    torch.testing.assert_close(sample.image[0, 10:], torch.from_numpy(image[10:, :, 0]))
    np.testing.assert_allclose(sample.image[0, :10], image[10:].mean(), rtol=1e-5)


def test_transparent_pixels_are_hidden_and_alpha_is_none_of_the_bands(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, alpha in (("a", 255), ("b", 0)):
        image = rng.integers(0, 256, (40, 40, 4), np.uint8)
        image[..., 3] = 255
        image[:10, :, 3] = alpha
        write_png(tmp_path / "images" / f"{name}.png", image)
        mask = np.zeros((40, 40), np.uint8)
        mask[5:30, 5:30] = 255
        write_png(tmp_path / "masks" / f"{name}.png", mask)
    known = survey(tmp_path)
    assert known.bands == 3
    reader = PairReader(known.select("all"), known.class_map, 3)
    crops = Crops(
        reader, CropRule(40, "none", 0.0), np.zeros((2, 2, 3), np.float32), known_gaps(known, 3)
    )
    opaque, transparent = (crops[index, 0] for index in (0, 1))
    assert opaque.image.shape == transparent.image.shape == (3, 40, 40)
    assert sorted(set(opaque.mask.flatten().tolist())) == [0, 1]
    assert (transparent.mask[:10] == IGNORED).all()
    assert sorted(set(transparent.mask[10:].flatten().tolist())) == [0, 1]
