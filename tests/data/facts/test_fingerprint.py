"""The fingerprint is what numpy says of all pixels, and lists every file that does not fit."""

import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.builders import write_geotiff
from unetseg.data.facts import fingerprint
from unetseg.data.facts.fingerprint import (
    PairFacts,
    cache_folder,
    describe_pairs,
    per_band,
    pooled,
    refuse_unusable,
)
from unetseg.data.facts.image_values import ImageFacts, image_facts
from unetseg.data.files import image as image_file
from unetseg.data.files.image import read_image
from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.masks.mask_values import mask_facts
from unetseg.data.pairs.match import Pair, find_pairs
from unetseg.errors import DataError
from unetseg.storage import content_hash, parse_json


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNETSEG_CACHE_FOLDER", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for index, size in enumerate([(8, 9), (12, 5), (7, 7)]):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / "data" / "images" / f"{index}.png")
        mask = (rng.random(size) > 0.5).astype(np.uint8) * 255
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{index}.png")
    return tmp_path / "data"


def pairs_of(folder: Path) -> tuple[Pair, ...]:
    return find_pairs(folder).pairs


def take_fingerprint(pairs: Sequence[Pair]) -> list[PairFacts]:
    """The facts of pairs, all of which can be trained on."""
    return list(refuse_unusable(*describe_pairs(pairs)).values())


def test_statistics_are_those_of_all_pixels(folder: Path) -> None:
    facts = take_fingerprint(pairs_of(folder))
    files = sorted((folder / "images").iterdir())
    pixels = np.concatenate([np.asarray(Image.open(file)).reshape(-1, 3) for file in files])
    over = pooled([fact.image for fact in facts], 3)
    np.testing.assert_allclose(over["mean"], pixels.mean(0))
    np.testing.assert_allclose(over["std"], pixels.std(0))
    np.testing.assert_array_equal(over["low"], pixels.min(0))
    np.testing.assert_array_equal(over["high"], pixels.max(0))


def test_the_cache_is_by_content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = take_fingerprint(pairs_of(folder))
    reads: list[Path] = []
    read = image_facts

    def spy(path: Path, max_pixels: int | None) -> ImageFacts:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(fingerprint, "image_facts", spy)
    assert take_fingerprint(pairs_of(folder)) == before
    assert not reads
    changed = folder / "images" / "1.png"
    Image.fromarray(np.zeros((12, 5, 3), np.uint8)).save(changed)
    assert take_fingerprint(pairs_of(folder))[1].image.mean == (0, 0, 0)
    assert reads == [changed]


def test_facts_of_what_files_held_once_are_not_kept_for_ever(
    folder: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "STALE", 0)
    kept = []
    for value in range(6):
        Image.fromarray(np.full((12, 5, 3), value, np.uint8)).save(folder / "images" / "1.png")
        take_fingerprint(pairs_of(folder))
        (store,) = fresh_cache.iterdir()
        kept.append(len(parse_json(store.read_text())))
    assert kept == [3, 4, 5, 6, 3, 4]


def test_names_that_are_as_long_as_a_file_may_have_are_read(tmp_path: Path) -> None:
    """Those of the files that may lie beside it would be longer."""
    inside = np.zeros((40, 40), np.uint8)
    inside[10:20] = 255
    image = write_geotiff(tmp_path / "a.tif", np.full((40, 40, 3), 7, np.uint8))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(image, "r+") as raster:
        raster.write_mask(inside > 0)
    image = image.rename(tmp_path / f"{246 * 'i'}.tif")
    mask = tmp_path / f"{246 * 'm'}.tif"
    tifffile.imwrite(mask, inside)
    (fact,) = take_fingerprint([Pair(image, mask, "a")])
    assert fact.image.with_data == 400


NO_DATA = """<PAMDataset>{}</PAMDataset>""".format(
    "".join(
        f'<PAMRasterBand band="{band}"><NoDataValue>0</NoDataValue></PAMRasterBand>'
        for band in (1, 2, 3)
    )
)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("beside", ["a.tif.aux.xml", "a.tif.msk"])
def test_a_file_that_comes_beside_an_image_is_no_old_news(tmp_path: Path, beside: str) -> None:
    image = np.full((3, 40, 40), 7, np.uint8)
    image[:, :, :10] = 0
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", planarconfig="separate")
    Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(tmp_path / "a_mask.png")
    (pair,) = pairs_of(tmp_path)
    assert take_fingerprint([pair])[0].image.with_data == 1600
    if beside.endswith(".xml"):
        (tmp_path / beside).write_text(NO_DATA)
    else:
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False),
            rasterio.open(tmp_path / "a.tif", "r+") as raster,
        ):
            raster.write_mask(image[0] > 0)
        assert (tmp_path / beside).is_file()
    assert take_fingerprint([pair])[0].image.with_data == 1200


@pytest.mark.parametrize(
    ("stored", "read", "ends"),
    [
        ("int8", "int16", [(-100, 90), (0, 90)]),
        ("int32", "float32", [(-1024, 3071), (0, 3071), (-3, 70_000)]),
        ("int64", "float32", [(0, 255), (-1, 255)]),
    ],
)
def test_images_of_one_stored_type_are_of_one_kind(
    tmp_path: Path, stored: str, read: str, ends: list[tuple[int, int]]
) -> None:
    """Such as slices of a CT, some of which hold nothing below 0."""
    pairs = []
    for number, (low, high) in enumerate(ends):
        image, mask = tmp_path / f"{number}.tif", tmp_path / f"{number}_mask.tif"
        tifffile.imwrite(image, np.linspace(low, high, 80).astype(stored).reshape(8, 10))
        tifffile.imwrite(mask, np.eye(8, 10, dtype=np.uint8))
        pairs.append(Pair(image, mask, str(number)))
    facts = take_fingerprint(pairs)
    assert {fact.image.dtype for fact in facts} == {read}
    assert [(*fact.image.low, *fact.image.high) for fact in facts] == ends
    assert {read_image(pair.image).dtype.name for pair in pairs} == {read}


def test_a_cache_that_cannot_be_written_is_done_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNETSEG_CACHE_FOLDER", "/proc/nowhere")
    assert len(take_fingerprint(pairs_of(folder))) == 3


def test_a_damaged_cache_is_read_anew(folder: Path, fresh_cache: Path) -> None:
    before = take_fingerprint(pairs_of(folder))
    for file in fresh_cache.iterdir():
        file.write_text("{")
    assert take_fingerprint(pairs_of(folder)) == before


def test_all_sizes_that_differ_are_listed(folder: Path) -> None:
    for index in (0, 2):
        Image.fromarray(np.zeros((3, 4), np.uint8)).save(folder / "masks" / f"{index}.png")
    with pytest.raises(DataError, match="2 masks differ in size") as error:
        take_fingerprint(pairs_of(folder))
    assert [line.endswith("is 4×3") for line in error.value.offenders] == [True, True]


def test_all_unreadable_files_are_listed(folder: Path) -> None:
    whole = (folder / "images" / "0.png").read_bytes()
    (folder / "images" / "0.png").write_bytes(whole[: len(whole) // 2])
    (folder / "masks" / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 3 pairs cannot be read") as error:
        take_fingerprint(pairs_of(folder))
    assert "0.png" in error.value.offenders[0]
    assert "2.png" in error.value.offenders[1]


def test_all_images_of_another_kind_are_listed(folder: Path) -> None:
    (folder / "images" / "1.png").unlink()
    write_tiff(folder / "images" / "1.tif", np.zeros((12, 5, 3), np.uint16))
    with pytest.raises(DataError, match="most are uint8 with 3 bands") as error:
        take_fingerprint(pairs_of(folder))
    assert error.value.offenders == [f"{folder / 'images' / '1.tif'} is uint16 with 3 bands"]


def test_grey_among_rgb_counts_as_rgb(folder: Path) -> None:
    Image.fromarray(np.full((7, 7), 9, np.uint8)).save(folder / "images" / "2.png")
    facts = take_fingerprint(pairs_of(folder))
    assert [fact.image.bands for fact in facts] == [3, 3, 1]
    assert pooled([facts[2].image], 3)["mean"].tolist() == [9, 9, 9]


def test_nan_names_the_file(folder: Path) -> None:
    for index, size in enumerate([(8, 9), (12, 5), (7, 7)]):
        (folder / "images" / f"{index}.png").unlink()
        image = np.ones((*size, 2), np.float32)
        image[0, 0, 0] = np.nan if index else 1
        write_tiff(folder / "images" / f"{index}.tif", image)
    with pytest.raises(DataError, match="2 of 3") as error:
        take_fingerprint(pairs_of(folder))
    assert "1.tif has NaN" in error.value.offenders[0]


def test_both_files_of_a_pair_are_named_and_every_fix_given(folder: Path) -> None:
    (folder / "images" / "0.png").write_text("no image")
    (folder / "masks" / "0.png").write_bytes(b"")
    Image.fromarray(np.arange(240, dtype=np.uint8).reshape(12, 5, 4)).save(
        folder / "masks" / "1.png"
    )
    with pytest.raises(DataError, match="2 of 3 pairs cannot be read") as error:
        take_fingerprint(pairs_of(folder))
    named = [line.split()[0] for line in error.value.offenders]
    assert named == [str(folder / f"{side}.png") for side in ("images/0", "masks/0", "masks/1")]
    assert "Copy the file again" in error.value.fix
    assert "8-bit RGB without transparency" in error.value.fix


def test_control_characters_in_names_are_made_visible(folder: Path) -> None:
    for side in ("images", "masks"):
        (folder / side / "0.png").rename(folder / side / "0\n\x1b[31m.png")
    (folder / "images" / "0\n\x1b[31m.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        take_fingerprint(pairs_of(folder))
    assert r"0\n\x1b[31m.png is empty" in error.value.offenders[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_each_band_has_its_statistics(tmp_path: Path, dtype: type, bands: int) -> None:
    drawn = np.random.default_rng(1).normal(90, 20, (30, 41, bands))
    image: NDArray[Any] = drawn.clip(0, 250).astype(dtype)
    write_tiff(tmp_path / "a.tif", image)
    facts = image_facts(tmp_path / "a.tif")
    wide = image.astype(np.float64)
    assert (facts.shape, facts.dtype, facts.bands) == ((30, 41), np.dtype(dtype).name, bands)
    np.testing.assert_allclose(facts.mean, wide.mean((0, 1)))
    np.testing.assert_allclose(facts.std, wide.std((0, 1)))
    assert (facts.low, facts.high) == (tuple(wide.min((0, 1))), tuple(wide.max((0, 1))))


# ------------------------------------------------------------------ for the check


def test_what_can_be_read_is_described_in_the_order_of_the_pairs(folder: Path) -> None:
    (folder / "masks" / "1.png").write_text("no image")
    write_tiff(folder / "images" / "2.tif", np.full((7, 7, 3), np.inf, np.float32))
    (folder / "images" / "2.png").unlink()
    pairs = pairs_of(folder)
    facts, unreadable = describe_pairs(pairs)
    assert list(facts) == [pairs[0], pairs[2]]
    assert facts[pairs[0]].mask.path == str(pairs[0].mask)
    assert facts[pairs[2]].image.bad == 49
    assert [error.paths for error in unreadable[pairs[1]]] == [(pairs[1].mask,)]
    assert take_fingerprint(pairs[:1]) == [facts[pairs[0]]]


def test_all_that_is_wrong_with_a_pair_is_told(folder: Path) -> None:
    image, mask = folder / "images" / "0.tif", folder / "masks" / "0.png"
    write_tiff(image, np.full((8, 9, 3), np.inf, np.float32))
    mask.unlink()
    (wrong,) = describe_pairs([Pair(image, mask, "0")])[1].values()
    assert [error.summary for error in wrong] == [
        f"{image} has NaN or infinite pixels",
        f"{mask} cannot be read: No such file or directory",
    ]


def test_transparent_tiles_go_with_opaque_ones_without_their_alpha(folder: Path) -> None:
    values = {}
    for index, alpha in enumerate([None, 255, 0]):
        path = folder / "images" / f"{index}.png"
        image = np.asarray(Image.open(path))
        values[index] = image.reshape(-1, 3)
        if alpha is not None:
            rgba = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
            rgba[:3, ..., 3] = alpha
            Image.fromarray(rgba).save(path)
    values[2] = values[2][3 * 7 :]  # three rows of seven pixels are transparent
    facts = [fact.image for fact in take_fingerprint(pairs_of(folder))]
    assert [image.bands for image in facts] == [3, 3, 3]
    assert [image.nodata_share for image in facts] == [0, 0, 3 / 7]
    over = pooled(facts, 3)
    pixels = np.concatenate(list(values.values())).astype(float)
    np.testing.assert_allclose(over["mean"], pixels.mean(0))
    np.testing.assert_allclose(over["std"], pixels.std(0))


def test_near_infrared_called_alpha_is_a_band(folder: Path) -> None:
    """As in NAIP; a black tile, whose fourth band might be alpha, goes with the others."""
    for index in range(3):
        path = folder / "images" / f"{index}.png"
        image = np.asarray(Image.open(path))
        rgbn = np.dstack([image, image[..., 0] // 2 + 40])
        Image.fromarray(rgbn * np.uint8(index != 1)).save(path)
    facts = [fact.image for fact in take_fingerprint(pairs_of(folder))]
    assert [image.bands for image in facts] == [4, 3, 4]
    assert per_band(facts, "high", 4)[1].tolist() == [0, 0, 0, 0]
    assert pooled(facts, 4)["mean"].shape == (4,)
    image = np.asarray(Image.open(folder / "images" / "0.png"))
    Image.fromarray(image[..., :3]).save(folder / "images" / "0.png")
    with pytest.raises(DataError, match="differ in kind"):
        take_fingerprint(pairs_of(folder))


def test_nobody_waits_for_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    pairs = [Pair(folder / "pipe.png", folder / "pipe.png", "pipe")]
    (wrong,) = describe_pairs(pairs)[1].values()
    assert ["is no regular file" in error.summary for error in wrong] == [True, True]


def test_nan_survives_the_cache_and_is_fine_when_it_is_declared(folder: Path) -> None:
    image = np.ones((8, 9, 1), np.float32)
    image[:2] = np.nan
    write_geotiff(folder / "images" / "0.tif", image, nodata=float("nan"))
    pairs = [Pair(folder / "images" / "0.tif", folder / "masks" / "0.png", "0")]
    for _ in range(2):  # read, and from the cache
        (fact,) = take_fingerprint(pairs)
        assert np.isnan(fact.image.nodata or 0)
        assert (fact.image.nodata_share, fact.image.bad) == (0.25, 0)
        assert fact.image.mean == (1.0,)


def test_pooled_statistics_are_over_the_pixels_with_data(tmp_path: Path) -> None:
    drawn = np.random.default_rng(2).normal(50, 9, (3, 20, 30, 2)).astype(np.float32)
    drawn[1, :5] = drawn[2] = -9999
    for number, image in enumerate(drawn):
        write_geotiff(tmp_path / f"{number}.tif", image, nodata=-9999)
    over = pooled([image_facts(tmp_path / f"{n}.tif") for n in range(3)], 2)
    counted = np.concatenate([drawn[0].reshape(-1, 2), drawn[1, 5:].reshape(-1, 2)])
    np.testing.assert_allclose(over["mean"], counted.astype(np.float64).mean(0))
    np.testing.assert_allclose(over["std"], counted.astype(np.float64).std(0))
    np.testing.assert_array_equal(over["low"], counted.min(0))
    np.testing.assert_array_equal(over["high"], counted.max(0))


def test_without_any_data_there_are_zeros(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif", np.full((4, 4, 1), -9999, np.float32), nodata=-9999)
    over = pooled([image_facts(tmp_path / "a.tif")], 1)
    assert {name: values.tolist() for name, values in over.items()} == {
        name: [0] for name in ("mean", "std", "low", "high")
    }


# ------------------------------------------------------------------ large images


@pytest.mark.parametrize(
    "mask",
    [
        np.random.default_rng(0).integers(0, 9, (700, 40), np.uint8),
        np.random.default_rng(0).integers(-400, 400, (600, 40)).astype(np.int16),
        np.random.default_rng(0).integers(0, 3, (513, 40, 3), np.uint8),
        np.random.default_rng(0).integers(0, 60000, (600, 99)).astype(np.uint16),
    ],
    ids=["numbers", "signed", "colours", "more values than are kept"],
)
def test_a_large_mask_has_the_counts_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: NDArray[Any]
) -> None:
    write_tiff(tmp_path / "a.tif", mask)
    whole = mask_facts(tmp_path / "a.tif")
    flat = mask.reshape(-1, 3) if mask.ndim == 3 else mask.ravel()
    values, counts = np.unique(flat, axis=0, return_counts=True)
    expected = dict(zip(map(str, values.tolist()), counts.tolist(), strict=True))
    found = {str(list(c) if isinstance(c, tuple) else c): n for c, n in whole.counts}
    assert found.items() <= expected.items()
    assert len(found) == min(len(expected), 4096)
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 1000)
    assert mask_facts(tmp_path / "a.tif") == whole


def test_the_content_of_masks_is_told_whatever_their_name(tmp_path: Path) -> None:
    write_png(tmp_path / "a.jpg", np.zeros((4, 4), np.uint8))
    write_tiff(tmp_path / "b.png", np.zeros((4, 4), np.uint8))
    assert [mask_facts(tmp_path / name).format for name in ("a.jpg", "b.png")] == ["PNG", "TIFF"]


def test_a_file_of_many_chunks_has_the_hash_of_its_bytes(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(5 * 2**19 + 3)
    (tmp_path / "a").write_bytes(content)
    assert content_hash(tmp_path / "a") == blake2b(content, digest_size=16).hexdigest()


def test_a_user_whom_the_system_does_not_know_has_a_folder_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "UNETSEG_CACHE_FOLDER"):
        monkeypatch.delenv(name, raising=False)

    def fail(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr("pwd.getpwuid", fail)
    assert cache_folder() == Path("/.cache/unetseg")


def test_what_one_limit_allows_another_refuses(folder: Path) -> None:
    pairs = pairs_of(folder)
    for limit, refused in ((72, []), (60, ["0"]), (72, []), (None, [])):
        _, unreadable = describe_pairs(pairs, max_pixels=limit)
        assert [pair.name for pair in unreadable] == refused


def test_masks_that_were_not_turned_with_their_image_are_not_to_be_resized(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = np.random.default_rng(1).integers(0, 256, (8, 12, 3), np.uint8)
    Image.fromarray(photo).save(folder / "images" / "0.png", exif=exif)
    Image.fromarray(np.eye(8, 12, dtype=np.uint8) * 255).save(folder / "masks" / "0.png")
    with pytest.raises(DataError, match="1 mask differs in size") as error:
        take_fingerprint(pairs_of(folder))
    assert "--fix" in error.value.fix
    assert "Resize" not in error.value.fix


def test_images_without_any_data_are_all_named(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        rgb = read_image(path)
        write_png(path, np.concatenate([rgb, np.zeros_like(rgb[..., :1])], axis=-1))
    with pytest.raises(DataError, match="no pixel of any image has data") as error:
        take_fingerprint(pairs_of(folder))
    assert len(error.value.offenders) == 3
