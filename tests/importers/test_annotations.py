"""What a reader yields becomes classes, masks, problems and notes."""

from pathlib import Path

import numpy as np
import pytest

from unetseg.errors import MaskError
from unetseg.importers.annotations import (
    AnnotatedImage,
    Classes,
    Note,
    Problem,
    Shape,
    class_codes,
    collect,
)
from unetseg.importers.shapes import Patch, Size

SIZE = (1, 6)


def bar(label: str | None, left: int, width: int, name: str = "") -> Shape:
    """A shape over some columns of a mask of one row."""
    return Shape(label, lambda _: Patch(0, left, np.ones((1, width), bool)), name)


def image(*shapes: Shape, path: str = "a.png", smallest_on_top: bool = False) -> AnnotatedImage:
    stem = Path(path).stem
    return AnnotatedImage(Path(path), stem, shapes, smallest_on_top=smallest_on_top)


def row(one: AnnotatedImage) -> list[int]:
    assert callable(one.mask)
    return list(one.mask(*SIZE)[0].tolist())


def test_the_background_comes_first_whatever_it_is_called() -> None:
    assert class_codes(["_background_", "b", "a"])[0] == ("background", "b", "a")
    assert class_codes(["b", "BG", "b"])[1] == {"b": 1, "BG": 0}


def test_classes_are_the_sorted_labels_or_in_the_order_that_is_told() -> None:
    entry = image(bar("b", 0, 4), bar("a", 2, 2), bar(None, 3, 1))
    found = collect([entry])
    assert found.classes == ("background", "a", "b")
    assert row(found.images[0]) == [2, 2, 1, 255, 0, 0]
    found = collect([entry, Classes(["c", "b"])])
    assert found.classes == ("background", "c", "b", "a")
    assert row(found.images[0]) == [2, 2, 3, 255, 0, 0]
    assert collect([Classes(["road", "sky"], coded=True)]).classes == ("road", "sky")


@pytest.mark.parametrize("is_small_first", [True, False])
def test_without_an_order_of_depth_the_smallest_lies_on_top(is_small_first: bool) -> None:
    shapes = [bar("a", 1, 2), bar("b", 0, 4)]
    ignored = bar(None, 0, 6)
    ordered = shapes if is_small_first else shapes[::-1]
    (found,) = collect([image(*ordered, ignored, smallest_on_top=True)]).images
    assert row(found) == [2, 1, 1, 2, 255, 255]


def test_of_equal_areas_the_later_lies_on_top() -> None:
    (found,) = collect([image(bar("a", 0, 2), bar("b", 0, 2), smallest_on_top=True)]).images
    assert row(found) == [2, 2, 0, 0, 0, 0]


def test_all_shapes_that_cannot_be_drawn_are_named() -> None:
    def fail(_size: Size) -> Patch:
        raise MaskError("no area")

    shapes = [Shape("a", fail, "box 1"), bar("a", 0, 1), Shape("a", fail)]
    (found,) = collect([image(*shapes)]).images
    with pytest.raises(MaskError) as error:
        row(found)
    assert error.value.offenders == ["box 1: no area", "no area"]


def test_equal_notes_are_added_up_and_notes_on_nothing_are_none() -> None:
    found = collect([Note(1, "point", "left out"), Note(0, "line", "left out"), "so it is"])
    assert found.notes == ("so it is", "1 point left out")
    assert collect([Note(1, "point", "left out")] * 3).notes == ("3 points left out",)


def test_an_image_that_is_listed_several_times_is_one_problem() -> None:
    found = collect([image(), image(), image(path="b.png"), Problem("no such image", "c.png")])
    assert [one.name for one in found.images] == ["b"]
    assert [str(problem) for problem in found.problems] == [
        "no such image: c.png",
        "image listed several times: a",
    ]
