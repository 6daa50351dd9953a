"""What holds one picture gives one mask, be it a file, an array, a tensor, a list or of Pillow."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.builders import blotches, bundle_info, noise, save_run
from unetseg.bundle import BundleInfo
from unetseg.config import DeviceConfig
from unetseg.errors import ImageError
from unetseg.prediction.in_memory import image_in_memory
from unetseg.prediction.predictor import Predictor

IMAGE = blotches(40, 50)
NAME = Path("the image")
INFO = bundle_info()
FLOATS = bundle_info(dtype="float32")


class Wrapped:
    """An array of another library."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return IMAGE


def read(given: object, info: BundleInfo = INFO, nodata: float | None = None) -> NDArray[Any]:
    return image_in_memory(given, info, NAME, nodata)


@pytest.mark.parametrize(
    "given",
    [
        IMAGE,
        IMAGE.tolist(),
        [torch.from_numpy(row) for row in IMAGE],
        Wrapped(),
        torch.from_numpy(IMAGE),
        torch.from_numpy(IMAGE).permute(2, 0, 1),
        torch.from_numpy(IMAGE).permute(2, 0, 1).float().div(255).requires_grad_(),
        torch.from_numpy(IMAGE).double() / 255,
        IMAGE.transpose(2, 0, 1),
        np.asfortranarray(IMAGE),
        np.ma.masked_array(IMAGE, mask=False),
        *(IMAGE.astype(dtype) for dtype in (">u1", "u2", ">i4", "i8", "f2", "f4", "f8")),
        IMAGE.astype(np.float32) / 255,
        np.dstack([IMAGE, np.full((40, 50), 255, np.uint8)]),
        np.concatenate([IMAGE.transpose(2, 0, 1), np.full((1, 40, 50), 255, np.uint8)]),
        Image.fromarray(IMAGE),
        Image.fromarray(IMAGE).convert("RGBA"),
        Image.fromarray(IMAGE).convert("RGBX"),
    ],
)
def test_one_picture_is_one_image(given: object) -> None:
    pixels = read(given)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, IMAGE)


def test_memory_mapped_files_and_grey_ones_are_taken(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGE)
    np.testing.assert_array_equal(read(np.load(tmp_path / "x.npy", mmap_mode="r")), IMAGE)
    np.testing.assert_array_equal(read(IMAGE[..., 0]), np.dstack([IMAGE[..., 0]] * 3))
    np.testing.assert_array_equal(
        read(IMAGE[..., 0] > 100)[..., 0], (IMAGE[..., 0] > 100) * np.uint8(255)
    )


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 3, 7), (3, 7, 3)),
        ((3, 7, 3), (3, 7, 3)),
        ((7, 3, 3), (7, 3, 3)),
        ((3, 5, 8), (5, 8, 3)),
    ],
)
def test_the_first_axis_holds_the_bands_where_the_last_does_not(
    shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert read(noise(*shape)).shape == expected


@pytest.mark.filterwarnings("ignore:.*values far from those trained on")
@pytest.mark.parametrize("info", [INFO, bundle_info(dtype="uint16", bands=1), FLOATS])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16", "CMYK"])
def test_an_image_of_pillow_is_its_file(tmp_path: Path, mode: str, info: BundleInfo) -> None:
    run, image = save_run(tmp_path / "run", info), Image.fromarray(IMAGE)
    if mode == "I;16":
        image = Image.fromarray(noise(40, 50, dtype=np.uint16))
    elif mode != "RGB":
        image = image.convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray((noise(40, 50) > 99).astype(np.uint8) * 255))
    file = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    image.save(file)
    model = Predictor(run, device=DeviceConfig(device="cpu", precision="float32"))
    masks: list[Any] = []
    with Image.open(file) as opened:
        for given in (file, opened, *([image] if mode != "CMYK" else [])):
            try:
                masks.append(model.predict(given))
            except ImageError:
                masks.append("refused")
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


def test_a_palette_with_transparency_has_gaps(tmp_path: Path) -> None:
    image = Image.fromarray(IMAGE[..., 0] // 64, "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    image.info["transparency"] = 2
    pixels = read(image)
    np.testing.assert_array_equal(pixels[..., 3] == 0, IMAGE[..., 0] // 64 == 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pixels_without_data_get_no_class(tmp_path: Path, dtype: type) -> None:
    hole, run = np.zeros((40, 50), bool), save_run(tmp_path / "run", INFO)
    hole[10:20, 5:30] = True
    image: NDArray[Any] = np.where(IMAGE == 0, 1, IMAGE).astype(dtype)
    image[hole] = 0
    model = Predictor(run, device=DeviceConfig(device="cpu", precision="float32"))
    index = model.engine.classes(model.pixels(image, nodata=0))
    np.testing.assert_array_equal(index == 255, hole)
    masked = np.ma.masked_array(image, np.dstack([hole] * 3))
    np.testing.assert_array_equal(model.engine.classes(model.pixels(masked)), index)
    likely = model.probabilities(image, nodata=0)
    assert likely.shape == (40, 50, 2)
    assert likely.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(likely).all(-1), hole)
    np.testing.assert_allclose(likely[~hole].sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(likely[~hole].argmax(-1), index[~hole])
    far = image.astype(np.int32)
    far[hole] = -9999
    np.testing.assert_array_equal(model.engine.classes(model.pixels(far, nodata=-9999)), index)


def test_models_of_other_types_get_the_values_as_they_are() -> None:
    values = noise(20, 30, 3, dtype=np.float64)
    np.testing.assert_array_equal(read(values, FLOATS), values.astype(np.float32))
    assert read(torch.from_numpy(values).bfloat16(), FLOATS).dtype == np.float32
    assert read(noise(20, 30, 3, dtype=np.uint16).astype(np.int64), FLOATS).dtype == np.float32


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            None,
            "the image is NoneType of object, expected numbers\nGive a path, an array, a tensor",
        ),
        ({1, 2}, "the image is set of object, expected numbers"),
        (IMAGE.astype(object), "the image is ndarray of object, expected numbers"),
        (IMAGE.astype(complex), "the image is ndarray of complex128, expected numbers"),
        ([[1, 2], [3]], "the image (list) is no array: "),
        (torch.eye(9).to_sparse(), "the image (Tensor) is no array: "),
        (b"\x89PNG", "the image is bytes, the content of a file\nGive its path, or open it first"),
        (io.BytesIO(), "the image is BytesIO, the content of a file"),
        (IMAGE[:0], "the image is 0×50×3, expected H×W, H×W×C or C×H×W"),
        (7, "the image is a single number, expected H×W"),
        (IMAGE[None], "the image is 1×40×50×3, expected H×W, H×W×C or C×H×W\n`predict_many` takes"),
        (noise(40, 50, 5), "the image has 5 bands, expected 3 bands of uint8"),
        (noise(40, 50, 3, dtype=np.uint16), "the image holds uint16 values from "),
    ],
)
def test_anything_else_is_answered(given: object, told: str) -> None:
    with pytest.raises(ImageError) as error:
        read(given)
    assert told in str(error.value)


def test_values_beyond_8_bits_are_named() -> None:
    with pytest.raises(ImageError) as error:
        read(np.full((4, 4, 3), -2.5, np.float32))
    assert str(error.value) == (
        "the image holds float32 values from -2.5 to -2.5, the model was trained on uint8 images\n"
        "Give the values of 8 bits, 0 to 255, or floats from 0 to 1."
    )
