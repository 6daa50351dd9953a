"""Laws of the loop: order kept, groups as one by one, errors at their place, nothing hoarded."""

from collections.abc import Iterator

import numpy as np
import pytest

from tests.builders import CPU, blotches, bundle_info, class_map, random_segmenter
from unetseg.data.files.nodata import with_gaps
from unetseg.errors import ImageError
from unetseg.prediction.engine import Engine
from unetseg.prediction.pipeline import (
    AHEAD,
    MOST_AHEAD,
    PIXELS_AHEAD,
    Opened,
    Waiting,
    predict_each,
    read_ahead,
)


@pytest.fixture
def engine() -> Engine:
    info = bundle_info({"width": 8}, class_map(0, 1, 2))
    return Engine(random_segmenter(info), CPU, tile=64, overlap=0.5)


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_groups_are_begun_ahead_and_answered_in_order(engine: Engine, ahead: int) -> None:
    engine.ahead = ahead
    sides = [16, 16, 40, 24, 24]
    images = [blotches(side, 30, seed=number) for number, side in enumerate(sides)]
    begun: list[int] = []

    def opened() -> Iterator[Opened[int]]:
        for number, image in enumerate(images):
            begun.append(number)
            yield Opened(number, image)

    for number, image in enumerate(predict_each(engine, opened())):
        assert image.name == number
        assert len(begun) <= len(sides) if ahead else len(begun) <= number + 3
        (band,) = image.bands()
        np.testing.assert_array_equal(band.index, engine.classes(images[number]))
        assert image.size == band.index.shape


def test_probabilities_and_classes_are_those_of_the_engine(engine: Engine) -> None:
    images = [blotches(40, 30), blotches(130, 90)]  # whole, and cut into tiles
    missing = np.zeros((40, 30), bool)
    missing[:9, :9] = True
    images[0] = with_gaps(images[0], 3, missing)
    opened = [Opened(None, image) for image in images]
    for each, image in zip(predict_each(engine, opened, probabilities=True), images, strict=True):
        (band,) = each.bands()
        (probabilities,) = band.probabilities
        expected = engine.logits(image).softmax(0).permute(1, 2, 0).numpy()
        expected[image[..., 3:].any(-1) < image.shape[-1] - 3] = np.nan
        np.testing.assert_array_equal(probabilities, expected)
        np.testing.assert_array_equal(band.index, engine.classes(image))
        assert each.without_pixels().size == each.size


def test_what_cannot_be_read_is_told_and_the_others_go_on() -> None:
    def open_one(number: int) -> Opened[int]:
        if number % 3 == 0:
            raise ImageError(f"no {number}")
        return Opened(number, np.zeros((1, 1, 3), np.uint8))

    refused: dict[int, str] = {}

    def refuse(number: int, error: Exception) -> None:
        refused[number] = str(error)

    with pytest.raises(ImageError, match="no 0"):
        list(read_ahead(range(100), open_one))
    opened = read_ahead(range(100), open_one, refuse=refuse)
    assert [each.name for each in opened] == [number for number in range(100) if number % 3]
    assert list(refused) == list(range(0, 100, 3))
    assert refused[3] == "no 3"


@pytest.mark.parametrize(
    ("pixels", "most"), [(1, MOST_AHEAD), (PIXELS_AHEAD // 8, 8), (2 * PIXELS_AHEAD, AHEAD)]
)
def test_many_small_images_wait_or_few_large_ones(pixels: int, most: int) -> None:
    waiting = Waiting[int]()
    done: list[int] = []
    for number in range(200):
        waiting.put(number, pixels)
        done += waiting.overdue()
        assert number + 1 - len(done) == min(number + 1, most)
    assert [*done, *waiting.rest()] == list(range(200))
