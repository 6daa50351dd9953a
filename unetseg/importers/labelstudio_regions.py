"""Regions of Label Studio: brushes, bit masks, polygons, rectangles, ellipses, and their pixels.

Positions are per cent of the image's width and height. Rectangles are turned clockwise around their
upper left corner, ellipses around their centre; a bit mask is a PNG with black pixels on nothing.
Format: https://labelstud.io/guide/task_format, and "Result parameters" in
https://labelstud.io/tags.

A brush is the run-length coded RGBA canvas below it, by `thi.ng/rle-pack` (Apache-2.0), written
down in that package's README and read by `brush.py` of label-studio-converter (Apache-2.0). A
stream of bits, the highest first: 32 bits for the number of words, 5 for the size of a word less
one, four times 4 for the sizes of run lengths less one; then, until all words are there, 1 bit that
tells a run from a list, 2 bits that choose the size of the length, the length less one, and the
word that is repeated, or the words of the list.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from unetseg.errors import MaskError
from unetseg.importers.image_files import embedded_png
from unetseg.importers.shapes import Patch, Size, crop, ellipse, polygon, turned_rectangle

_AREAS = ("brush", "bitmask", "polygon", "rectangle", "ellipse")
_LABELLED = tuple(f"{area}labels" for area in _AREAS)
_BANDS = 4  # red, green, blue, alpha
_HEADER = 32 + 5 + 4 * 4  # bits before the runs of a brush
_ANY = "labels"  # the type of whatever has labels from a tag of its own
_POSITIONS = ({"rle"}, {"imageDataURL"}, {"points"}, {"radiusX", "radiusY"}, {"width", "height"})
"""What the value of an area holds; a key point has a width alone."""


def _packed(value: dict[str, Any]) -> dict[str, Any]:
    """The list of bytes of a brush as bytes, which need an eighth of the memory."""
    try:
        return value | {"rle": bytes(value["rle"])} if isinstance(value.get("rle"), list) else value
    except (TypeError, ValueError):
        return value  # is told when the brush is drawn


class Result(BaseModel):
    """One entry of an annotation: a region, or anything else that was asked for."""

    id: str | int | None = None
    type: str = ""
    value: Annotated[dict[str, Any], AfterValidator(_packed)] = Field(default_factory=dict)
    original_width: int | None = None
    original_height: int | None = None
    image_rotation: float | None = None


class _Value(BaseModel):
    """Where a region is; which of these there are tells what it is."""

    rle: Any = None
    bitmask: str | None = Field(None, alias="imageDataURL")
    points: list[tuple[float, float]] | None = None
    x: float = 0.0
    y: float = 0.0
    width: float | None = None
    height: float | None = None
    radius_x: float | None = Field(None, alias="radiusX")
    radius_y: float | None = Field(None, alias="radiusY")
    rotation: float | None = None


@dataclass(frozen=True)
class Region:
    """An area and its label.

    Attributes:
        where: What names it in errors.
        label: The name of its class.
        value: Where it is.
    """

    where: str
    label: str
    value: _Value

    def patch(self, size: Size) -> Patch:
        """The pixels that it covers on an image of `size` (height, width).

        Raises:
            MaskError: its numbers make no area of this image.
        """
        value = self.value
        if value.rle is not None:
            return crop(decode_brush(value.rle, *size))
        if value.bitmask is not None:
            pixels = embedded_png(value.bitmask.partition(",")[2], size, "the bit mask")
            return crop(np.asarray(pixels.convert("RGBA"))[..., 3] > 0)
        scale_x, scale_y = size[1] / 100, size[0] / 100
        x, y, angle = value.x * scale_x, value.y * scale_y, value.rotation or 0.0
        if value.points is not None:
            return polygon([(px * scale_x, py * scale_y) for px, py in value.points], size)
        if value.radius_x is not None and value.radius_y is not None:
            radii = (value.radius_x * scale_x, value.radius_y * scale_y)
            return ellipse((x, y), radii, size, angle)
        if value.width is not None and value.height is not None:
            opposite = (x + value.width * scale_x, y + value.height * scale_y)
            return polygon(turned_rectangle((x, y), opposite, (x, y), angle), size)
        raise MaskError("it has neither a brush nor points, radii or sides")


def read_regions(results: Sequence[Result]) -> tuple[list[Region], list[str]]:
    """The areas among the results of one annotation, the lowest first, and what is wrong."""
    regions = []
    faults = []
    for result in _areas(results):
        where = f"region {result.id}"
        labels = _labels(result.value)
        try:
            value = _Value.model_validate(result.value)
        except ValidationError as error:
            fields = (".".join(map(str, fault["loc"])) for fault in error.errors())
            faults.append(f"{where} has another form than expected: {', '.join(fields)}")
            continue
        if len(labels) != 1:
            faults.append(f"{where} has {len(labels)} labels ({', '.join(labels)}), expected one")
        elif result.image_rotation:
            faults.append(f"{where} was drawn on an image turned by {result.image_rotation:g}°")
        else:
            regions.append(Region(where, labels[0], value))
    return regions, faults


def other_types(results: Sequence[Result]) -> Iterator[str]:
    """The types of the results that are no areas, such as keypointlabels and choices."""
    areas = [id(result) for result in _areas(results)]
    return (r.type for r in results if r.type and r.type not in _AREAS and id(r) not in areas)


def stated_sizes(results: Iterable[Result]) -> set[Size]:
    """The sizes (height, width) of the image that the results state."""
    return {
        (result.original_height, result.original_width)
        for result in results
        if result.original_height and result.original_width
    }


def _areas(results: Sequence[Result]) -> Iterator[Result]:
    """The regions: those with labels, and those of which no other result tells the label."""
    labelled = [result for result in results if _is_labelled(result)]
    ids = {result.id for result in labelled}
    for result in results:
        if _is_labelled(result) or (result.type in _AREAS and result.id not in ids):
            yield result


def _is_labelled(result: Result) -> bool:
    is_area = any(keys <= result.value.keys() for keys in _POSITIONS)
    return result.type in _LABELLED or (result.type == _ANY and is_area)


def _labels(value: Mapping[str, Any]) -> list[str]:
    lists = (value.get(key) for key in (*_LABELLED, _ANY))
    return [str(name) for names in lists if isinstance(names, list) for name in names]


# Brushes


def decode_brush(coded: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels that a brush touched, H×W: those whose alpha is above 0.

    This is what Label Studio counts as the mask when it exports brushes to COCO. A higher threshold
    would lose brushes whole: some versions write the opacity of the label into alpha.

    Args:
        coded: Bytes as numbers from 0 to 255, as in the JSON.
        height: Height of the image that the brush was drawn on, in pixels.
        width: Its width, in pixels.

    Raises:
        MaskError: the bytes are no such coding, or hold another number of pixels.
    """
    try:
        data = coded if isinstance(coded, bytes) else bytes(list(coded))
    except (TypeError, ValueError) as error:
        raise MaskError("the brush is no list of numbers from 0 to 255") from error
    words = decode_words(data, height * width * _BANDS)
    return np.asarray(words.reshape(height, width, _BANDS)[..., -1] > 0)


def decode_words(data: bytes, count: int) -> NDArray[np.uint8]:
    """The `count` words, of at most 8 bits each, that `data` codes.

    Nothing is allocated before the header has agreed with `count`.

    Raises:
        MaskError: `data` is cut off, or codes another number of words or larger ones.
    """
    bits = _Bits(data)
    if bits.left < _HEADER:
        raise MaskError(f"the brush is cut off: {len(data)} bytes")
    stated, size = bits.read(32), bits.read(5) + 1
    if stated != count or size > 8:
        came = f"{stated} words of {size} bits"
        raise MaskError(f"the brush holds {came}, expected {count} of 8 bits (RGBA pixels)")
    lengths = [bits.read(4) + 1 for _ in range(4)]
    words = np.empty(count, np.uint8)
    at = 0
    while at < count:
        is_run = bits.read(1)
        end = at + 1 + bits.read(lengths[bits.read(2)])
        if end > count:
            raise MaskError(f"the brush holds more than the {count} words that it announces")
        words[at:end] = bits.read(size) if is_run else bits.read_list(end - at, size)
        at = end
    return words


class _Bits:
    """A stream of bits, the highest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return 8 * len(self._data) - self._at

    def read(self, size: int) -> int:
        """The next `size` bits as a number."""
        start, end = self._at, self._advance(size)
        window = self._data[start // 8 : -(-end // 8)]
        return int.from_bytes(window, "big") >> (-end % 8) & ((1 << size) - 1)

    def read_list(self, count: int, size: int) -> NDArray[np.uint8]:
        """The next `count` numbers of `size` ≤ 8 bits."""
        start, end = self._at, self._advance(count * size)
        window = np.frombuffer(self._data[start // 8 : -(-end // 8)], np.uint8)
        bits = np.unpackbits(window)[start % 8 :][: count * size]
        words = np.packbits(bits.reshape(count, size), axis=1)[:, 0]
        return np.asarray(words >> (8 - size), np.uint8)

    def _advance(self, size: int) -> int:
        if size > self.left:
            raise MaskError(f"the brush is cut off: {len(self._data)} bytes")
        self._at += size
        return self._at
