"""Regions as https://labelstud.io/guide/task_format has them, against masks made here.

`encode` follows the README of thi.ng/rle-pack ("Encoding format") and its `encode` in index.ts:
runs of equal words, and lists of words between them. `encode_alone` is the other writer that is in
use, `encode_rle` of label-studio-converter, which writes lone words as lists of one.
"""

import base64
from collections.abc import Callable, Sequence
from io import BytesIO
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies
from numpy.typing import NDArray
from PIL import Image

from unetseg.errors import MaskError
from unetseg.importers.labelstudio import (
    Result,
    other_types,
    read_regions,
)
from unetseg.importers.shapes import decode_brush, decode_words, paint_in_order

HEIGHT, WIDTH = 20, 40
Mask = NDArray[np.uint8]
SIZES = (3, 4, 8, 16)
Encoder = Callable[..., list[int]]


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
    return encode(canvas(alpha))


def data_url(alpha: Mask) -> str:
    """Black pixels on a transparent background (https://labelstud.io/tags/bitmasklabels)."""
    file = BytesIO()
    black = np.zeros((*alpha.shape, 4), np.uint8)
    black[..., 3] = alpha
    Image.fromarray(black).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


# Brushes, by encoders written from the published description


def header(count: int, size: int, sizes: Sequence[int]) -> str:
    return f"{count:032b}{size - 1:05b}" + "".join(f"{length - 1:04b}" for length in sizes)


def piece(is_run: int, words: Sequence[int], size: int, sizes: Sequence[int]) -> str:
    """One run (its words are equal) or list."""
    length = len(words) - 1
    group = next(i for i, bits in enumerate(sizes) if length < 1 << bits)
    shown = words[:1] if is_run else words
    return f"{is_run}{group:02b}{length:0{sizes[group]}b}" + "".join(
        f"{word:0{size}b}" for word in shown
    )


def parts(words: Sequence[int], limit: int) -> list[Sequence[int]]:
    return [words[i : i + limit] for i in range(0, len(words), limit)]


def to_bytes(bits: str) -> list[int]:
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def encode(words: Sequence[int], size: int = 8, sizes: Sequence[int] = SIZES) -> list[int]:
    bits, lone, limit = header(len(words), size, sizes), [], 1 << sizes[3]
    for _, group in groupby(words):
        run = list(group)
        if len(run) == 1:
            lone += run
            continue
        bits += "".join(piece(0, part, size, sizes) for part in parts(lone, limit))
        bits += "".join(piece(1, part, size, sizes) for part in parts(run, limit))
        lone = []
    return to_bytes(bits + "".join(piece(0, part, size, sizes) for part in parts(lone, limit)))


def encode_alone(words: Sequence[int]) -> list[int]:
    bits = header(len(words), 8, SIZES)
    for _, group in groupby(words):
        for part in parts(list(group), 1 << 16):
            bits += piece(int(len(part) > 1), part, 8, SIZES)
    return to_bytes(bits)


def canvas(alpha: NDArray[np.uint8]) -> list[int]:
    """The words of an RGBA canvas with this alpha and colours that mean nothing."""
    colours = np.broadcast_to(np.array([200, 0, 90], np.uint8), (*alpha.shape, 3))
    return list(np.dstack([colours, alpha]).ravel().tolist())


# Regions


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
        (
            "rectanglelabels",
            {"x": 1, "y": 1, "width": 9, "height": 9, "rotation": float("inf")},
            "turned by inf degrees",
        ),
        ("rectanglelabels", {"x": 1, "y": 1}, "neither a brush nor points"),
    ],
)
def test_regions_that_cannot_be_drawn(kind: str, value: dict[str, Any], reason: str) -> None:
    with pytest.raises(MaskError, match=reason):
        covered(kind, value)


# The coding of brushes


@strategies.composite
def streams(draw: strategies.DrawFn, largest: int = 255) -> list[int]:
    """Words in runs, short and long, as canvases have them."""
    runs = draw(
        strategies.lists(
            strategies.tuples(strategies.integers(0, largest), strategies.integers(1, 300)),
            max_size=12,
        )
    )
    return [word for word, length in runs for _ in range(length)]


@given(streams())
def test_decoding_undoes_both_encoders(words: list[int]) -> None:
    for encoder in (encode, encode_alone):
        assert decode_words(bytes(encoder(words)), len(words)).tolist() == words


@given(streams(largest=15), strategies.permutations([2, 5, 9, 11]))
def test_any_size_of_words_and_lengths(words: list[int], sizes: list[int]) -> None:
    coded = bytes(encode(words, size=4, sizes=sorted(sizes)))
    assert decode_words(coded, len(words)).tolist() == words


@pytest.mark.parametrize("encoder", [encode, encode_alone])
def test_runs_beyond_the_longest_length_are_joined(encoder: Encoder) -> None:
    words = [0] * 65537 + [255] * 131072 + [7]
    assert decode_words(bytes(encoder(words)), len(words)).tolist() == words


def test_a_stream_written_by_hand() -> None:
    # 9 words of 8 bits, lengths of 3, 4, 8 and 16 bits; a run of 8 times 255, a list of one 0.
    bits = "0" * 28 + "1001" + "00111" + "0010001101111111"
    bits += "10011111111111" + "00000000000000"
    assert decode_words(bytes(to_bytes(bits)), 9).tolist() == [255] * 8 + [0]


def test_the_mask_is_wherever_alpha_is_above_zero() -> None:
    alpha = np.array([[0, 1, 100], [127, 255, 0]], np.uint8)
    assert decode_brush(encode(canvas(alpha)), 2, 3).tolist() == (alpha > 0).tolist()


@pytest.mark.parametrize(
    ("coded", "text"),
    [
        (encode([1] * 12), "12 words of 8 bits, expected 24 of 8 bits"),
        (encode([0xFFFFFFFF % 256] * 24)[:-2], "cut off"),
        ([], "cut off: 0 bytes"),
        (encode(list(range(24)))[:20], "cut off"),
        (to_bytes(header(24, 8, SIZES) + piece(1, [3] * 25, 8, SIZES)), "more than the 24 words"),
        (to_bytes(header(24, 16, SIZES)), "24 words of 16 bits"),
        ([1, 2, 300], "numbers from 0 to 255"),
        (["a"], "numbers from 0 to 255"),
    ],
)
def test_what_is_no_brush_is_refused(coded: list[int], text: str) -> None:
    with pytest.raises(MaskError, match=text):
        decode_brush(coded, 2, 3)


def test_a_bomb_is_refused_before_memory_is_taken() -> None:
    bomb = to_bytes(header(2**32 - 1, 8, SIZES) + piece(1, [0] * 65536, 8, SIZES) * 10)
    with pytest.raises(MaskError, match="4294967295 words"):
        decode_brush(bomb, 2, 3)


def test_a_canvas_of_photographic_size() -> None:
    rows, columns = np.mgrid[:1500, :2000]
    alpha = (((rows - 700) ** 2 + (columns - 900) ** 2 < 600**2) * 255).astype(np.uint8)
    coded = encode(np.repeat(alpha.ravel(), 4).tolist())
    assert (decode_brush(coded, 1500, 2000) == (alpha > 0)).all()
