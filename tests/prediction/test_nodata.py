"""Pixels without data have a code of their own in masks."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unetseg.data.masks.class_map import IGNORED, ClassInfo, ClassMap, Code
from unetseg.prediction.nodata import mask_pixels, no_data_code, no_data_tag


def classes(*codes: Code, **more: Any) -> ClassMap:
    infos = [ClassInfo(name=f"{code}", code=code, colour=(9, 9, 9)) for code in codes]
    return ClassMap.model_validate({"classes": infos, "background": 0} | more)


PALETTE = tuple(range(256)) * 3
RGB = ((0, 0, 0), (255, 0, 0))


@pytest.mark.parametrize(
    ("class_map", "code", "tag"),
    [
        (classes(0, 1), 255, 255),
        (classes(0, 255), 254, 254),
        (classes(*range(253)), 255, 255),
        (classes(0, 255, 254, 252), 253, 253),
        (classes(0, 1, ignore=(7, 9)), 7, 7),
        (classes(0, 1, ignore=(-1,), dtype="int16"), -1, -1),
        (classes(0, 1, dtype="int16"), 32767, 32767),
        (classes(0, 65535, dtype="uint16"), 65534, 65534),
        (classes(0, 1, coding="palette", palette=PALETTE), None, None),
        (classes(0, 1, coding="palette", palette=PALETTE, ignore=(255,)), 255, 255),
        (classes(*RGB, coding="rgb"), None, None),
        (classes(*RGB, coding="rgb", ignore=((9, 9, 9),)), (9, 9, 9), None),
    ],
)
def test_the_code_is_the_first_ignored_or_the_highest_without_a_meaning(
    class_map: ClassMap, code: Code | None, tag: int | None
) -> None:
    assert no_data_code(class_map) == code
    assert no_data_tag(class_map) == tag


MAPS = [
    classes(0, 255),
    classes(0, 1, ignore=(-1,), dtype="int16"),
    classes(0, 1, coding="palette", palette=PALETTE),
    classes(*RGB, coding="rgb"),
    classes(*RGB, coding="rgb", ignore=((9, 9, 9),)),
    classes(3, 4, background=None),
    classes(*RGB, coding="rgb", background=None),
]


@pytest.mark.parametrize("class_map", MAPS, ids=[f"{m.coding} {m.ignore}" for m in MAPS])
def test_masks_differ_only_where_there_is_no_data(class_map: ClassMap) -> None:
    index: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 2, (6, 7)).astype(np.uint8)
    np.testing.assert_array_equal(mask_pixels(index, class_map), class_map.decode(index))
    some = index.copy()
    some[2:4, 3] = IGNORED
    pixels, full = mask_pixels(some, class_map), class_map.decode(index)
    assert pixels.dtype == full.dtype
    np.testing.assert_array_equal(pixels[some != IGNORED], full[some != IGNORED])
    code = no_data_code(class_map)
    expected = class_map.classes[0].code if code is None else code
    assert (pixels[some == IGNORED] == np.array(expected)).all()
