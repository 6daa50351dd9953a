"""Laws of pictures: what must show, what must not change, what must not fail."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.color import deltaE_ciede2000, xyz2lab
from skimage.color.colorconv import xyz_from_rgb

from unetseg.data.files.image import read_image
from unetseg.data.masks.overlay import (
    ERROR_COLOURS,
    IGNORED_COLOUR,
    contact_sheet,
    error_overlay,
    levels_of,
    outline_reach,
    outlines,
    overlay,
    picture,
)

law = settings(deadline=None, max_examples=50)
HIT, MISS, FALSE_ALARM, CONFUSED = (np.array(colour) for colour in ERROR_COLOURS.values())
COLOURS = np.array([[0, 0, 0], [250, 10, 10], [10, 10, 250]])
DTYPES = [np.bool_, np.uint8, np.int16, np.uint16, np.int32, np.float16, np.float32, np.float64]


def photo(height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


SEEN = {  # what eyes without one kind of cone see of linear RGB (Machado 2009, severity 1)
    "all cones": np.eye(3),
    "no red": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "no green": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "no blue": np.array([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
}


@pytest.mark.parametrize("eyes", SEEN)
def test_colours_of_errors_differ_to_all_eyes(eyes: str) -> None:
    values = np.array(list(ERROR_COLOURS.values())) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = (linear @ SEEN[eyes].T).clip(0, 1) @ xyz_from_rgb.T
    lab = xyz2lab(xyz[None])[0]
    differences = [deltaE_ciede2000(one, other) for one, other in combinations(lab, 2)]
    assert min(differences) > 20  # 1 is just noticeable


@law
@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays(dtype, array_shapes(min_dims=3, max_dims=3, max_side=6))
    )
)
def test_every_image_has_a_picture(image: NDArray[Any]) -> None:
    drawn = picture(image)
    assert drawn.shape == (*image.shape[:2], 3)
    assert drawn.dtype == np.uint8


def test_an_rgb_image_is_its_own_picture() -> None:
    np.testing.assert_array_equal(picture(photo()), photo())
    alpha = np.full((24, 32, 1), 7, np.uint8)
    np.testing.assert_array_equal(picture(np.concatenate([photo(), alpha], 2)), photo())


@pytest.mark.parametrize("bands", [1, 2])
def test_one_and_two_bands_are_grey(bands: int) -> None:
    image = photo()[..., :bands]
    np.testing.assert_array_equal(picture(image), np.repeat(image[..., :1], 3, 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32])
def test_a_constant_image_has_a_constant_picture(dtype: type) -> None:
    assert np.ptp(picture(np.full((5, 5, 3), 9, dtype))) == 0


@law
@given(st.floats(0.01, 1e4), st.floats(-1e4, 1e4))
def test_gain_and_offset_do_not_show(gain: float, offset: float) -> None:
    image = np.random.default_rng(0).normal(size=(20, 20, 3))
    difference = picture(image * gain + offset).astype(int) - picture(image)
    assert np.abs(difference).max() <= 2 + 10 * abs(offset) / gain / 1e4  # float32 of the values


@pytest.mark.parametrize(("bands", "kept"), [(3, True), (4, True), (5, False)])
def test_colours_of_photographs_stay_and_spectral_bands_are_stretched_apart(
    bands: int, kept: bool
) -> None:
    image = photo(40, 40).repeat(2, 2)[..., :bands].astype(np.uint16)
    image[..., 1] //= 4  # a band with little light
    drawn = picture(image)
    assert (drawn[..., 1].mean() < drawn[..., 0].mean() / 2) == kept


def test_a_few_bright_pixels_are_not_lost() -> None:
    image = np.zeros((100, 100, 1), np.uint16)
    image[3, 4] = 40_000
    assert picture(image)[3, 4].tolist() == [255, 255, 255]
    assert picture(image).sum() == 3 * 255


def test_nan_is_black_and_spoils_no_other_pixel() -> None:
    image = np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10, 1)
    image[0, 0], image[0, 1] = np.nan, np.inf
    drawn = picture(image)
    assert drawn[0, :2].max() == 0
    assert drawn[9, 9, 0] == 255


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_parts_with_the_levels_of_the_whole_are_parts_of_its_picture(
    dtype: type, bands: int
) -> None:
    ramp = np.linspace(0, 900, 60)[:, None, None] * np.arange(1, bands + 1)
    image: NDArray[Any] = (ramp + photo(60, 40)[..., :1]).astype(dtype)
    levels = levels_of(image)
    assert levels.shape == (3 if bands >= 3 else 1, 2)
    parts = [picture(image[top : top + 7], levels) for top in range(0, 60, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), picture(image))


@law
@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 5), st.integers(0, 99))
def test_parts_with_rows_around_are_parts_of_the_overlay(
    height: int, width: int, reach: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    index = random.integers(0, 3, (height, width)).astype(np.uint8)
    index[random.random(index.shape) < 0.1] = 255
    image = photo(height, width)
    top = int(random.integers(height))
    bottom = int(random.integers(top, height)) + 1
    above = min(top, reach)
    outline = outlines(index[top - above : bottom + reach], reach)[above : above + bottom - top]
    whole = outlines(index, reach)
    np.testing.assert_array_equal(outline, whole[top:bottom])
    part = overlay(image[top:bottom], index[top:bottom], COLOURS, background=0, outline=outline)
    drawn = overlay(image, index, COLOURS, background=0, outline=whole)
    np.testing.assert_array_equal(part, drawn[top:bottom])
    if reach == outline_reach(height, width):
        np.testing.assert_array_equal(drawn, overlay(image, index, COLOURS, background=0))


def test_background_is_untouched_and_insides_are_blended() -> None:
    image, index = photo(), np.zeros((24, 32), np.uint8)
    index[4:20, 4:20] = 1
    drawn = overlay(image, index, COLOURS, opacity=0.4, background=0)
    np.testing.assert_array_equal(drawn[index == 0], image[index == 0])
    expected = 0.6 * image[5:19, 5:19] + 0.4 * COLOURS[1]
    assert np.abs(drawn[5:19, 5:19] - expected).max() <= 0.5 + 1e-4


def test_outlines_are_what_erosion_takes_away() -> None:
    random = np.random.default_rng(1)
    index = (ndimage.gaussian_filter(random.normal(size=(80, 80)), 4) > 0).astype(np.uint8)
    drawn = overlay(np.zeros((80, 80, 3), np.uint8), index, COLOURS, opacity=0, background=0)
    eroded = ndimage.binary_erosion(index, np.ones((3, 3), bool), border_value=1)
    edge = (index == 1) & ~eroded
    np.testing.assert_array_equal((drawn == COLOURS[1]).all(axis=2), edge)
    assert drawn[~edge].max() == 0


def test_without_a_background_every_class_is_drawn() -> None:
    index = np.ones((6, 6), np.uint8)
    drawn = overlay(np.zeros((6, 6, 3), np.uint8), index, COLOURS, opacity=1)
    assert (drawn == COLOURS[1]).all()
    drawn = overlay(np.full((6, 6, 3), 99, np.uint8), index * 0, COLOURS, opacity=1)
    assert drawn.max() == 0


def test_ignored_pixels_are_grey() -> None:
    index = np.full((6, 6), 255, np.uint8)
    drawn = overlay(photo(6, 6), index, COLOURS, opacity=1, background=0)
    assert (drawn == IGNORED_COLOUR).all()


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image of \(24, 32\) pixels with a mask of \(32, 24\)"):
        overlay(photo(), np.zeros((32, 24), np.uint8), COLOURS)
    mask = np.zeros((24, 32), np.uint8)
    with pytest.raises(ValueError, match="truth has shape"):
        error_overlay(photo(), mask, mask[:5], background=0)


def test_each_kind_of_error_has_its_colour() -> None:
    truth = np.repeat(np.array([0, 1, 1, 0, 1, 255], np.uint8), 8)[None].repeat(8, 0)
    guess = np.repeat(np.array([0, 1, 0, 2, 2, 1], np.uint8), 8)[None].repeat(8, 0)
    drawn = error_overlay(np.full((8, 48, 3), 60, np.uint8), truth, guess, background=0)
    middles = drawn[4, 4::8].astype(int) - 60  # the shift from the image, per kind
    assert middles[0].tolist() == [0, 0, 0]
    for shift, colour in zip(
        middles[1:], [HIT, MISS, FALSE_ALARM, CONFUSED, np.array(IGNORED_COLOUR)], strict=True
    ):
        towards = colour - 60
        cosine = shift @ towards / np.linalg.norm(shift) / np.linalg.norm(towards)
        assert cosine > 0.999


def test_perfect_multiclass_predictions_without_background_are_the_grey_image() -> None:
    index = np.random.default_rng(0).integers(0, 3, (24, 32)).astype(np.uint8)
    drawn = error_overlay(photo(), index, index, background=None)
    assert np.ptp(drawn, axis=2).max() == 0
    wrong = error_overlay(photo(), index, (index + 1) % 3, background=None)
    assert (wrong[..., 0] > wrong[..., 2]).all()  # yellow everywhere


@law
@given(st.lists(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=4)))
def test_every_picture_is_on_the_sheet_whole(shapes: list[list[tuple[int, int]]]) -> None:
    rows = [[np.zeros((*shape, 3), np.uint8) for shape in row] for row in shapes]
    if not any(rows):
        with pytest.raises(ValueError, match="needs a picture"):
            contact_sheet(rows)
        return
    sheet = contact_sheet(rows, cell=16)
    labels, number = ndimage.label(sheet[..., 0] == 0)
    assert number == sum(map(len, rows))
    fitted = [max(1, round(16 * min(shape) / max(shape))) for row in shapes for shape in row]
    found = [s for place in ndimage.find_objects(labels) for s in [sheet[place].shape[:2]]]
    assert all(max(shape) == 16 for shape in found)
    assert sorted(min(shape) for shape in found) == sorted(fitted)


@pytest.mark.parametrize(
    ("folder", "suffix"),
    [("dsb2018", "png"), ("sen1floods11_tiles13band", "tif"), ("nucseg_16bit", "tif")],
)
def test_real_images_have_contrast(real_data: Path, folder: str, suffix: str) -> None:
    path = sorted((real_data / folder / "images").rglob(f"*.{suffix}"))[0]
    image = read_image(path)
    drawn = picture(image)
    if image.dtype != np.uint8:
        assert np.ptp(np.percentile(drawn, [2, 98])) > 100
    else:
        with Image.open(path) as opened:
            np.testing.assert_array_equal(drawn, np.asarray(opened.convert("RGB")))
