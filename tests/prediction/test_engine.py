"""Laws of prediction: tiled = whole, mirrored = mirrored, any size, any way of giving the image."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.builders import CPU, blotches, bundle_info, class_map, random_segmenter
from unetseg.bundle import BundleInfo, save_bundle
from unetseg.config import DeviceConfig, PredictConfig
from unetseg.errors import ImageError, OutOfMemoryError
from unetseg.prediction.engine import Engine, Moments
from unetseg.prediction.predictor import Predictor, load
from unetseg.prediction.tiling import lay_out
from unetseg.unet.segmenter import Segmenter


def info(kind: str = "dataset", **network: object) -> BundleInfo:
    return bundle_info({"width": 8} | network, class_map(0, 128, 255), kind=kind)


def segmenter(kind: str = "dataset", **network: object) -> Segmenter:
    return random_segmenter(info(kind, **network))


def engine(built: Segmenter, **settings: Any) -> Engine:
    return Engine(built, CPU, **{"tile": 4096, "overlap": 0.5} | settings)


# ------------------------------------------------------------------ memory


class Little:
    """A backend whose memory holds a few images, and not those that are too high."""

    def __init__(self, built: Engine, images: int, height: int = 10**6) -> None:
        self.backend, self.images, self.height = built.choice.backend, images, height
        self.sent: list[int] = []

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self.sent.append(len(batch))
        if len(batch) > self.images or batch.shape[2] > self.height:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.backend(batch)


@pytest.mark.parametrize("kind", ["dataset", "image"])
def test_a_batch_that_does_not_fit_is_halved_now_and_later(kind: str) -> None:
    built = engine(segmenter(kind))
    images = [blotches(40, 50, seed=seed) for seed in range(7)]
    at_once = built.images_at_once(40, 50)
    whole = built.classes_of(images)
    little = Little(built, 2)
    built._choice = replace(built.choice, backend=little)
    for one, other in zip(built.classes_of(images), whole, strict=True):
        np.testing.assert_array_equal(one, other)
    assert built.images_at_once(40, 50) < at_once
    assert max(little.sent) == 7
    built._choice = replace(built.choice, backend=Little(built, 0))
    with pytest.raises(OutOfMemoryError, match="does not fit in memory"):
        built.classes(images[0])


# ------------------------------------------------------------------ tiles


@pytest.mark.parametrize(
    ("kind", "network"),
    [
        ("dataset", {}),
        ("image", {}),
        ("dataset", {"block": "residual"}),
        ("image", {"up": "bilinear"}),
    ],
)
def test_tiled_is_whole(kind: str, network: dict[str, object]) -> None:
    # The field of view is 22 pixels to each side (depth 2: 2+4+8+4+2 of convolutions, and
    # pooling), the seams of half-overlapping tiles of 128 lie 32 pixels from their borders. Only
    # where a tile counts for less than e⁻⁴ does it see its border: below 2% of a deviation there.
    image = blotches(233, 150)
    built = segmenter(kind, **network)
    whole = engine(built).logits(image)
    tiled = engine(built, tile=128).logits(image)
    assert tiled.shape == whole.shape == (3, 233, 150)
    difference = (tiled - whole).abs() / whole.std()
    assert difference[:, 32:-32, 32:-32].max() < 0.02
    assert difference.mean() < 0.001


@pytest.mark.long
def test_tiles_see_the_same_pooling_grid_as_the_whole() -> None:
    # In the middle of a tile nothing of its border is seen: there, equality to rounding.
    image = blotches(256, 200)
    built = segmenter()
    whole = engine(built).logits(image)
    for tile in lay_out(256, 200, 128, 0.3, grid=4).tiles:
        alone = engine(built).logits(image[tile.slices])
        inner = (slice(None), slice(32, -32), slice(32, -32))
        torch.testing.assert_close(
            alone[inner], whole[:, *tile.slices][inner], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_the_grid_is_that_of_the_network(scale: float) -> None:
    assert engine(segmenter(scale=scale)).grid == 4 / scale
    image = blotches(200, 150)
    built = segmenter(scale=scale)
    whole, tiled = engine(built).logits(image), engine(built, tile=128).logits(image)
    inner = (slice(None), slice(48, -48), slice(48, -48))
    assert ((tiled - whole)[inner].abs() / whole.std()).max() < 0.05


def test_tiles_on_a_grid_cover_the_image_in_multiples() -> None:
    tiles = lay_out(96, 40, tile=37, overlap=0.25, grid=8).tiles
    covered = np.zeros((96, 40), int)
    for tile in tiles:
        assert (tile.top % 8, tile.left % 8, tile.height, tile.width) == (0, 0, 32, 32)
        covered[tile.slices] += 1
    assert covered.min() >= 1


@pytest.mark.parametrize("kind", ["dataset", "image"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (7, 5), (33, 32), (31, 97), (97, 64)])
def test_any_size_comes_out_as_it_went_in(kind: str, shape: tuple[int, int]) -> None:
    built = segmenter(kind)
    for tile in (32, 4096):
        predicted = engine(built, tile=tile, overlap=0.25, tta=True).classes(blotches(*shape))
        assert predicted.shape == shape
        assert predicted.dtype == np.uint8
        assert predicted.max() < 3


# ------------------------------------------------------------------ mirrors


@pytest.mark.parametrize("kind", ["dataset", "image"])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_with_tta_a_mirrored_image_has_mirrored_logits(kind: str, axes: tuple[int, ...]) -> None:
    image = blotches(45, 38)
    averaged = engine(segmenter(kind), tta=True)
    once = averaged.logits(image)
    mirrored = averaged.logits(np.flip(image, axes))
    torch.testing.assert_close(
        mirrored.flip([axis + 1 for axis in axes]), once, rtol=1e-4, atol=1e-4
    )
    plain = engine(segmenter(kind))
    assert not torch.allclose(plain.logits(np.flip(image, axes)).flip(1), plain.logits(image))


def test_tta_averages_the_four_mirrors() -> None:
    image = blotches(24, 40)
    built = segmenter()
    plain = engine(built)
    mean = torch.stack(
        [
            plain.logits(np.flip(image, axes)).flip([axis + 1 for axis in axes])
            for axes in ((), (0,), (1,), (0, 1))
        ]
    ).mean(0)
    torch.testing.assert_close(engine(built, tta=True).logits(image), mean, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------ ways of giving the image


@pytest.mark.parametrize("kind", ["dataset", "image"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.int16])
def test_the_type_of_equal_pixels_does_not_matter(kind: str, dtype: type) -> None:
    image = blotches(50, 40)
    one = engine(segmenter(kind))
    torch.testing.assert_close(one.logits(image), one.logits(image.astype(dtype)))


def test_views_and_read_only_arrays_are_taken() -> None:
    image = blotches(40, 30)
    one = engine(segmenter())
    expected = one.logits(image)
    frozen = image.copy()
    frozen.setflags(write=False)
    backwards = np.ascontiguousarray(image[::-1, ::-1])[::-1, ::-1]
    columns_first = np.asfortranarray(image)
    for view in (frozen, backwards, columns_first):
        torch.testing.assert_close(one.logits(view), expected)
    np.testing.assert_array_equal(frozen, image)


def test_classes_are_the_most_probable() -> None:
    image = blotches(40, 30)
    one = engine(segmenter())
    np.testing.assert_array_equal(one.logits(image).argmax(0), one.classes(image))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "run" / "model", segmenter().state_dict(), info())
    return tmp_path / "run"


def test_an_array_and_its_file_have_one_mask(bundle: Path, tmp_path: Path) -> None:
    image = blotches(150, 140)
    Image.fromarray(image).save(tmp_path / "x.png")
    predictor = load(bundle, device="cpu")
    mask = predictor.predict(image)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 128, 255}
    np.testing.assert_array_equal(mask, predictor.predict(tmp_path / "x.png"))
    np.testing.assert_array_equal(mask, predictor.predict(str(tmp_path / "x.png")))


def test_grey_arrays_need_no_third_axis(bundle: Path) -> None:
    grey = blotches(40, 30)[..., 0]
    predictor = load(bundle, device="cpu")
    mask = predictor.predict(grey)
    assert mask.shape == (40, 30)
    np.testing.assert_array_equal(mask, predictor.predict(np.stack([grey] * 3, -1)))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 7), np.uint8), "has 7 bands, expected 3"),
        (np.full((4, 4, 3), -1, np.float32), "holds float32 values .* trained on uint8 images"),
        (np.zeros((2, 4, 4, 3), np.uint8), "is 2×4×4×3, expected H×W"),
        (np.zeros(4, np.uint8), "is 4, expected H×W"),
        (np.zeros((0, 4, 3), np.uint8), "is 0×4×3, expected H×W"),
    ],
)
def test_an_array_unlike_the_training_is_refused(
    bundle: Path, array: NDArray[Any], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        load(bundle, device="cpu").predict(array)


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    floats = info().model_copy(update={"dtype": "float32"})
    save_bundle(tmp_path / "model", segmenter().state_dict(), floats)
    image = blotches(20, 20).astype(np.float32)
    predictor = load(tmp_path, device="cpu")
    assert predictor.predict(image).shape == (20, 20)
    image[3, 4, 1] = np.nan
    with pytest.raises(ImageError, match="NaN or infinite pixels"):
        predictor.predict(image)


def test_settings_win_over_the_bundle(bundle: Path) -> None:
    cpu = DeviceConfig(device="cpu")
    as_trained = Predictor(bundle, device=cpu).engine
    assert (as_trained.tile, as_trained.overlap, len(as_trained.mirrors)) == (128, 0.5, 1)
    chosen = Predictor(bundle, PredictConfig(tile=64, overlap=0.25, tta=True), cpu).engine
    assert (chosen.tile, chosen.overlap, len(chosen.mirrors)) == (64, 0.25, 4)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(1, 20), st.floats(-1e4, 1e4), st.integers(0, 99))
def test_moments_of_parts_are_those_of_the_whole(
    height: int, width: int, offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(offset, 3, (height, width, 2))
    missing = rng.random((height, width)) < 0.3
    moments = Moments(2)
    for top in range(0, height, 7):
        moments.add(image[top : top + 7], missing[top : top + 7])
    data = image[~missing]
    assert moments.pixels == len(data)
    if len(data):
        np.testing.assert_allclose(moments.mean, data.mean(0), rtol=1e-10)
        np.testing.assert_allclose(moments.std, data.std(0), rtol=1e-6, atol=1e-8)
