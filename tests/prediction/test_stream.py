"""Laws of prediction by bands: bands = whole, whatever the tiles, and no band twice."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.builders import CPU, blotches, bundle_info, class_map, random_segmenter
from unetseg.bundle import BundleInfo
from unetseg.data.files import image as image_file
from unetseg.data.files.image import ImageFile
from unetseg.errors import ImageError
from unetseg.prediction import stream
from unetseg.prediction.engine import MIRRORS, Engine, TileNetwork
from unetseg.prediction.stream import RowWindow, Stream, band_tile, check_image, read_on
from unetseg.prediction.tiling import Tile
from unetseg.unet.segmenter import image_statistics

Image = NDArray[Any]


def info(
    kind: str = "dataset", bands: int = 3, dtype: str = "uint8", classes: int = 3
) -> BundleInfo:
    return bundle_info({"width": 8}, class_map(*range(classes)), kind=kind, dtype=dtype)


def engine(about: BundleInfo, tile: int = 128, overlap: float = 0.5) -> Engine:
    return Engine(random_segmenter(about), CPU, tile=tile, overlap=overlap)


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0)
    monkeypatch.setattr(stream, "STRIP_ROWS", 23)
    monkeypatch.setattr(stream, "PIECE_PIXELS", 1000)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Stream]]:
    """A stream of an image, through a file."""
    files = ExitStack()

    def open_it(
        image: Image, about: BundleInfo, one: Engine, nodata: float | None = None
    ) -> Stream:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.tif"
        tags = [] if nodata is None else [(42113, "s", 0, str(nodata), True)]
        tifffile.imwrite(
            path,
            image,
            photometric="minisblack",
            planarconfig="contig",
            tile=(64, 48),
            compression="zlib",
            extratags=tags,
        )
        return Stream(one, about, files.enter_context(ImageFile(path)))

    with files:
        yield open_it


def logits(one: Stream, first: int = 0) -> NDArray[np.float32]:
    return np.concatenate([each for _, each, _ in one.logits(first)], axis=1)


SHAPES = [(1, 1), (1, 90), (90, 1), (7, 5), (31, 97), (97, 31), (130, 129), (257, 150), (300, 40)]


@pytest.mark.row(39)
@pytest.mark.long
@pytest.mark.parametrize("kind", ["dataset", "image"])
@pytest.mark.parametrize("shape", SHAPES)
def test_bands_are_the_whole(
    kind: str, shape: tuple[int, int], opened: Callable[..., Stream]
) -> None:
    about, image = info(kind), blotches(*shape)
    for tile, overlap in ((32, 0.25), (64, 0.7), (128, 0.5), (512, 0.5)):
        one = engine(about, tile, overlap)
        bands = logits(opened(image, about, one))
        np.testing.assert_allclose(bands, one.logits(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("network", [{"scale": 0.5}, {"scale": 0.3}])
@pytest.mark.parametrize("shape", [(7, 5), (31, 97), (133, 129)])
def test_bands_of_scaled_networks_with_tta_are_the_whole(
    opened: Callable[..., Stream], network: dict[str, Any], shape: tuple[int, int]
) -> None:
    about = info("image")
    about = about.model_copy(update={"network": about.network.model_copy(update=network)})
    one, image = engine(about, tile=64), blotches(*shape)
    one.mirrors = MIRRORS
    whole = one.logits(image).numpy()
    np.testing.assert_allclose(logits(opened(image, about, one)), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_other_tiles_give_the_same_classes(opened: Callable[..., Stream]) -> None:
    # The field of view is 22 pixels to each side; half-overlapping tiles of 128 and more are
    # joined 32 pixels from their borders. What differs is a thousandth of a deviation, so that
    # only pixels where two classes are nearly tied may change.
    about, image = info(), blotches(700, 400)
    results = [
        logits(opened(image, about, engine(about, tile, overlap)))
        for tile, overlap in ((128, 0.5), (160, 0.5), (256, 0.3), (256, 0.5))
    ]
    deviation = results[0].std()
    classes = [result.argmax(0) for result in results]
    assert len(np.unique(classes[0])) == 3
    second, first = np.sort(results[0], axis=0)[-2:]
    clear = first - second > 0.05 * deviation
    assert clear.mean() > 0.9
    for other, index in zip(results[1:], classes[1:], strict=True):
        assert np.abs(other - results[0]).max() < 0.02 * deviation
        assert np.abs(other - results[0]).mean() < 0.001 * deviation
        assert (index == classes[0])[clear].all()
        assert (index == classes[0]).mean() >= 0.999


def test_a_shifted_grid_of_tiles_gives_the_same_logits(opened: Callable[..., Stream]) -> None:
    about, image = info(), blotches(420, 260)
    one = engine(about)
    whole = logits(opened(image, about, one))
    part = logits(opened(np.ascontiguousarray(image[52:, 36:]), about, one))  # multiples of 4
    inner = np.s_[:, 32:, 32:]  # without what sees the new border
    difference = np.abs(part - whole[:, 52:, 36:])[inner]
    assert difference.max() < 0.02 * whole.std()
    assert difference.mean() < 0.001 * whole.std()


def test_a_stream_begun_further_down_is_the_same_to_the_last_bit(
    opened: Callable[..., Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    about, image = info("image"), blotches(300, 90)
    one = engine(about, 64, 0.6)
    whole = opened(image, about, one)
    expected = list(whole.predict())
    expected_probabilities = [np.concatenate(list(band.probabilities)) for band in expected]
    calls: list[int] = []
    forward = TileNetwork.forward

    def counted(network: TileNetwork, crops: list[Image]) -> torch.Tensor:
        calls.append(len(crops))
        return forward(network, crops)

    monkeypatch.setattr(TileNetwork, "forward", counted)
    rows = whole.layout.rows
    for first in (1, 4, len(expected) - 1):
        calls.clear()
        bands = list(opened(image, about, one).predict(first))
        assert [band.number for band in bands] == list(range(first, len(expected)))
        for band in bands:
            before = expected[band.number]
            assert band.top == before.top == whole.spans[band.number][0]
            np.testing.assert_array_equal(band.index, before.index)
            probabilities = np.concatenate(list(band.probabilities))
            np.testing.assert_array_equal(probabilities, expected_probabilities[band.number])
        # Only the tiles that reach into the bands wanted go through the network.
        needed = [row for row in rows if row[0].bottom > rows[first][0].top]
        assert sum(calls) == sum(map(len, needed))


def test_spans_follow_one_another_from_top_to_bottom(opened: Callable[..., Stream]) -> None:
    about = info()
    one = opened(blotches(333, 50), about, engine(about, 64, 0.3))
    bands = list(one.predict())
    assert one.spans == [(band.top, band.top + len(band.index)) for band in bands]
    assert one.spans[0][0] == 0
    assert one.spans[-1][1] == 333
    assert all(a[1] == b[0] for a, b in zip(one.spans, one.spans[1:], strict=False))


def test_classes_and_probabilities_of_bands_are_those_of_the_engine(
    opened: Callable[..., Stream],
) -> None:
    about, image = info(), blotches(200, 90)
    one = engine(about, 64)
    bands = list(opened(image, about, one).predict())
    classes = np.concatenate([band.index for band in bands])
    np.testing.assert_array_equal(classes, one.classes(image))
    pieces = [piece for band in bands for piece in band.probabilities]
    assert max(len(piece) for piece in pieces) <= 1000 // 90
    probabilities = np.concatenate(pieces).transpose(2, 0, 1)
    np.testing.assert_allclose(probabilities, one.logits(image).softmax(0), atol=1e-6)


# ------------------------------------------------------------------ no data


@pytest.mark.parametrize("kind", ["dataset", "image"])
@pytest.mark.parametrize("nodata", [0.0, -9999.0, np.nan])
def test_no_data_is_left_out_and_spoils_nothing(
    kind: str, nodata: float, opened: Callable[..., Stream]
) -> None:
    about = info(kind, dtype="float32")
    image = blotches(260, 180).astype(np.float32) + 1
    image[:140, :100] = nodata
    image[200, 60:, 1] = 0 if np.isnan(nodata) else nodata  # one band alone is data
    one = engine(about, 64)
    stream = opened(image, about, one, nodata)
    missing = np.concatenate([each for _, _, each in stream.logits()])
    expected = np.zeros((260, 180), bool)
    expected[:140, :100] = True
    np.testing.assert_array_equal(missing, expected)
    classes = np.concatenate([band.index for band in stream.predict()])
    whole = check_image(image, about, Path("a.tif"), nodata)
    np.testing.assert_array_equal(classes, one.classes(whole))
    assert (classes[missing] == 255).all()
    assert classes[~missing].max() < 3
    both = [logits(stream), one.logits(whole).numpy()]
    np.testing.assert_allclose(both[0][:, ~missing], both[1][:, ~missing], rtol=1e-4, atol=1e-4)
    assert np.isfinite(both[0]).all()
    # Far from the border, there is no difference to the image with data there.
    full = np.where(missing[..., None], blotches(260, 180, seed=5).astype(np.float32), image)
    if kind == "dataset":
        inner = np.s_[:, 180:, 140:]
        np.testing.assert_allclose(both[0][inner], one.logits(full)[inner], rtol=1e-3, atol=1e-3)


def test_tiles_without_data_and_repeated_blank_tiles_do_not_go_through_the_network(
    opened: Callable[..., Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    about, image = info(), blotches(512, 64)
    image[:256], image[256:448] = 0, 77
    one = engine(about, 64, 0.0)
    with_all = one.logits(image).numpy()
    sent: list[Image] = []
    forward = TileNetwork.forward

    def noted(network: TileNetwork, crops: list[Image]) -> torch.Tensor:
        sent.extend(crops)
        return forward(network, crops)

    monkeypatch.setattr(TileNetwork, "forward", noted)
    bands = logits(opened(image, about, one, nodata=0))
    np.testing.assert_array_equal(bands[:, 256:], with_all[:, 256:])
    assert len(sent) == 2  # of 8 tiles, the first of the blank ones and the one with noise


def test_not_a_number_that_is_data_is_refused_before_any_work(
    opened: Callable[..., Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    about = info(dtype="float32")
    image = blotches(200, 50).astype(np.float32)
    image[190, 3, 1] = np.nan
    monkeypatch.delattr(TileNetwork, "forward")
    for nodata in (None, np.nan):  # of the no-data pixels, all bands are
        with pytest.raises(ImageError, match="has NaN or infinite pixels"):
            list(opened(image, about, engine(about, 64), nodata).predict())


@pytest.mark.parametrize("value", [np.finfo(np.float32).min, np.float32(2e30)])
def test_a_fill_value_that_nobody_declared_is_refused_and_told(
    value: np.float32, opened: Callable[..., Stream]
) -> None:
    about = info(dtype="float32")
    image, one = blotches(64, 64).astype(np.float32), engine(about, 64)
    image[60, 7] = value
    with pytest.raises(ImageError, match=r"has 3 values beyond ±1e\+30") as caught:
        list(opened(image, about, one).predict())
    assert f"-a_nodata {value:.9g} FILE" in caught.value.fix
    (told,) = re.findall(r"nodata=(\S+)\)", caught.value.fix)
    classes = np.concatenate([b.index for b in opened(image, about, one, float(told)).predict()])
    assert np.argwhere(classes == 255).tolist() == [[60, 7]]
    whole = check_image(image, about, Path("a.tif"), float(told))
    np.testing.assert_array_equal(classes, one.classes(whole))
    image[60, 7, 0] = 5  # one band is data
    with pytest.raises(ImageError, match="has 2 values beyond"):
        check_image(image, about, Path("a.tif"), float(told))


def test_bands_are_matched_or_refused(opened: Callable[..., Stream]) -> None:
    about = info()
    one = engine(about, 64)
    image = blotches(150, 60)
    opaque = np.concatenate([image, np.full((150, 60, 1), 255, np.uint8)], axis=2)
    np.testing.assert_array_equal(logits(opened(opaque, about, one)), one.logits(image))
    opaque[140, 7, 3] = 9  # somewhere down, not opaque: four bands with a meaning
    with pytest.raises(ImageError, match="has 4 bands, expected 3 bands of uint8"):
        list(opened(opaque, about, one).predict())
    with pytest.raises(ImageError, match="is uint16, the model was trained on uint8"):
        list(opened(image.astype(np.uint16), about, one).predict())


# ------------------------------------------------------------------ statistics


def test_statistics_are_those_of_the_whole_image(opened: Callable[..., Stream]) -> None:
    about = info("image", dtype="uint16")
    image = blotches(300, 70).astype(np.uint16) * 200 + 3000
    expected = image_statistics(torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None])
    streamed = opened(image, about, engine(about)).statistics
    assert streamed is not None
    torch.testing.assert_close(streamed, expected, rtol=1e-5, atol=0)
    assert opened(image, info(), engine(info())).statistics is None


# ------------------------------------------------------------------ parts


@pytest.mark.row(39)
@pytest.mark.parametrize(
    ("classes", "width"), [(2, 20_000), (2, 2_000), (20, 20_000), (150, 9_000)]
)
def test_a_band_and_a_tile_stay_small(classes: int, width: int) -> None:
    about = info(classes=classes)
    one = engine(about, tile=2048)
    tile = band_tile(one, width, pixel_bytes=3)
    assert 256 <= tile <= 1024
    assert tile == 256 or (4 * (classes + 1) + 3) * tile * width <= 2**28
    assert band_tile(engine(about, tile=64), width, 3) == 64


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=1), st.integers(1, 20), st.integers(0, 99))
def test_rows_pass_through_the_window(heights: list[int], side: int, seed: int) -> None:
    whole = np.arange(sum(heights) * 3).reshape(-1, 3, 1)
    strips = np.split(whole, np.cumsum(heights)[:-1])
    window = RowWindow(iter(strips))
    rng = np.random.default_rng(seed)
    top = 0
    while top < len(whole):
        bottom = min(top + side, len(whole))
        window.move(top, bottom)
        inside = np.s_[top + (bottom - top) // 2 : bottom, 1:3]
        crop = window.crop(Tile(inside[0].start, 1, bottom - inside[0].start, 2))
        np.testing.assert_array_equal(crop, whole[inside])
        np.testing.assert_array_equal(window.crop(Tile(top, 0, bottom - top, 3)), whole[top:bottom])
        top += int(rng.integers(1, side + 1))


def test_items_made_ahead_come_in_order_and_errors_at_their_place() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise ImageError("the file ends here")

    made = read_on(items())
    assert [next(made) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ImageError, match="ends here"):
        next(made)


def test_items_that_nobody_wants_are_not_made() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10**9):
            made.append(item)
            yield item

    for item in read_on(items()):
        if item == 3:
            break
    assert len(made) < 10
