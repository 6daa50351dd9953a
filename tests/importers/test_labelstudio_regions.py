"""Regions as https://labelstud.io/guide/task_format has them, against masks made here."""

import base64
from io import BytesIO
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from unetseg.errors import MaskError
from unetseg.importers.labelstudio_regions import Result, other_types, read_regions
from unetseg.importers.shapes import paint_in_order

HEIGHT, WIDTH = 20, 40
Mask = NDArray[np.uint8]


def result(
    kind: str, value: dict[str, Any], labels: list[str] | None = None, **more: Any
) -> Result:
    """One entry of an annotation: `{"type": "polygonlabels", "value": {…}}`."""
    named = {} if labels == [] else {kind: labels or ["Car"]}
    return Result.model_validate({"id": "r1", "type": kind, "value": value | named, **more})


def covered(kind: str, value: dict[str, Any], size: tuple[int, int] = (HEIGHT, WIDTH)) -> Mask:
    regions, faults = read_regions([result(kind, value)])
    assert faults == []
    return paint_in_order([(1, regions[0].patch(size))], size)


def brush(alpha: Mask) -> list[int]:
    """thi.ng/rle-pack: runs alone, each with a length of 16 bits."""
    words = np.repeat(alpha.ravel(), 4).tolist()
    bits = f"{len(words):032b}{7:05b}" + f"{15:04b}" * 4
    for word, group in groupby(words):
        count = len(list(group))
        for start in range(0, count, 65536):
            bits += f"100{min(count - start, 65536) - 1:016b}{word:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def data_url(alpha: Mask) -> str:
    """Black pixels on a transparent background (https://labelstud.io/tags/bitmasklabels)."""
    file = BytesIO()
    black = np.zeros((*alpha.shape, 4), np.uint8)
    black[..., 3] = alpha
    Image.fromarray(black).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_a_polygon_in_per_cent() -> None:
    points = [[10, 25], [60, 25], [60, 75], [10, 75]]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[5:15, 4:24] = 1
    assert (covered("polygonlabels", {"points": points, "closed": True}) == expected).all()


def test_a_rectangle_turned_as_a_user_measured_it() -> None:
    """The example of https://github.com/HumanSignal/label-studio/issues/2293, 1000×500 pixels."""
    size = (500, 1000)
    turned = {"x": 20, "y": 20, "width": 30, "height": 20, "rotation": 90}
    upright = {"x": 10, "y": 20, "width": 10, "height": 60, "rotation": 0}
    expected = np.zeros(size, np.uint8)
    expected[100:400, 100:200] = 1
    assert (covered("rectanglelabels", upright, size) == expected).all()
    assert (covered("rectanglelabels", turned, size) == expected).all()


@pytest.mark.parametrize("angle", [0, 90, 30])
def test_an_ellipse_around_its_centre(angle: float) -> None:
    value = {"x": 50, "y": 45, "radiusX": 25, "radiusY": 20, "rotation": angle}
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    dx, dy, turn = x - 20, y - 9, np.radians(angle)
    along = dx * np.cos(turn) + dy * np.sin(turn)
    across = dy * np.cos(turn) - dx * np.sin(turn)
    expected = (along / 10) ** 2 + (across / 4) ** 2 <= 1
    assert (covered("ellipselabels", value) == expected).all()


@pytest.mark.parametrize("kind", ["brushlabels", "labels"])
def test_brushes_come_back(kind: str) -> None:
    alpha = np.random.default_rng(5).integers(0, 3, (HEIGHT, WIDTH), np.uint8) * 50
    value = {"format": "rle", "rle": brush(alpha)}
    assert (covered(kind, value) == (alpha > 0)).all()


def test_bit_masks_come_back() -> None:
    alpha = np.random.default_rng(6).integers(0, 2, (HEIGHT, WIDTH), np.uint8) * 255
    assert (covered("bitmasklabels", {"imageDataURL": data_url(alpha)}) == (alpha > 0)).all()


def test_shapes_whose_labels_come_from_a_tag_of_their_own() -> None:
    place = {"x": 0.0, "y": 0.0, "width": 50.0, "height": 50.0}
    shape = result("rectangle", place, [])
    label = result("labels", place)
    regions, faults = read_regions([shape, label])
    assert ([region.label for region in regions], faults) == (["Car"], [])
    regions, faults = read_regions([shape])
    assert (regions, faults) == ([], ["region r1 has 0 labels (), expected one"])


def test_what_is_no_area_is_left_out_and_counted() -> None:
    results = [
        result("keypointlabels", {"x": 1, "y": 2, "width": 0.5}),
        result("labels", {"x": 1, "y": 2, "width": 0.5}),  # a key point, too
        result("choices", {"choices": ["good"]}, []),
        result("labels", {"start": 3, "end": 8, "text": "a car"}),
        result("rectangle", {"x": 1, "y": 1, "width": 1, "height": 1}, []),
    ]
    assert list(other_types(results)) == ["keypointlabels", "labels", "choices", "labels"]
    assert read_regions(results[:4]) == ([], [])


def test_every_region_that_cannot_be_read_is_named() -> None:
    box = {"x": 1, "y": 1, "width": 5, "height": 5}
    regions, faults = read_regions(
        [
            result("rectanglelabels", box, ["Car", "Bus"]),
            result("rectanglelabels", box, image_rotation=90),
            result("polygonlabels", {"points": [[1, 2, 3], "x"]}),
            result("rectanglelabels", box, image_rotation=0),
        ]
    )
    assert len(regions) == 1
    assert faults == [
        "region r1 has 2 labels (Car, Bus), expected one",
        "region r1 was drawn on an image turned by 90°",
        "region r1 has another form than expected: points.0, points.1",
    ]


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("brushlabels", {"rle": [0, 0, 1]}, "cut off"),
        ("brushlabels", {"rle": [0, 999]}, "numbers from 0 to 255"),
        ("brushlabels", {"rle": "abc"}, "numbers from 0 to 255"),
        ("brushlabels", {"rle": 10**12}, "numbers from 0 to 255"),
        ("brushlabels", {"rle": brush(np.zeros((2, 2), np.uint8))}, "16 words of 8 bits"),
        ("bitmasklabels", {"imageDataURL": "data:image/png;base64,*"}, "damaged: no base64"),
        ("bitmasklabels", {"imageDataURL": "data:image/png;base64,AAAA"}, "cannot be read"),
        (
            "bitmasklabels",
            {"imageDataURL": data_url(np.zeros((3, 2), np.uint8))},
            "has 3×2 pixels, expected 20×40",
        ),
        ("polygonlabels", {"points": [[1, 2], [3, 4]]}, "2 points, expected 3"),
        ("ellipselabels", {"x": 1, "y": 1, "radiusX": -1, "radiusY": 2}, "has the radii"),
        ("rectanglelabels", {"x": float("nan"), "y": 1, "width": 1, "height": 2}, "no numbers"),
        ("rectanglelabels", {"x": 1, "y": 1}, "neither a brush nor points"),
    ],
)
def test_regions_that_cannot_be_drawn(kind: str, value: dict[str, Any], reason: str) -> None:
    with pytest.raises(MaskError, match=reason):
        covered(kind, value)
