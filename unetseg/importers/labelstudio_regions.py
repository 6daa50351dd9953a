"""Regions of Label Studio: brushes, bit masks, polygons, rectangles, ellipses, and their pixels.

Places are per cent of the image's width and height. Rectangles are turned clockwise around their
upper left corner, ellipses around their centre; a brush is run-length coded, see `brush`; a bit
mask is a PNG with black pixels on nothing. Format: https://labelstud.io/guide/task_format, and
"Result parameters" in https://labelstud.io/tags.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from unetseg.data.files.limits import explained
from unetseg.errors import ImageError, MaskError
from unetseg.importers.brush import decode_brush
from unetseg.importers.shapes import Patch, Size, crop, ellipse, polygon, turned_rectangle

_AREAS = ("brush", "bitmask", "polygon", "rectangle", "ellipse")
_LABELLED = tuple(f"{area}labels" for area in _AREAS)
_ANY = "labels"  # the type of whatever has labels from a tag of its own
_PLACES = ({"rle"}, {"imageDataURL"}, {"points"}, {"radiusX", "radiusY"}, {"width", "height"})
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
        try:
            return _patch(self.value, size)
        except MaskError as error:
            raise MaskError(f"{self.where} ({self.label}): {error.summary}") from error


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
            places = (".".join(map(str, fault["loc"])) for fault in error.errors())
            faults.append(f"{where} has another form than expected: {', '.join(places)}")
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
    has_place = any(keys <= result.value.keys() for keys in _PLACES)
    return result.type in _LABELLED or (result.type == _ANY and has_place)


def _labels(value: Mapping[str, Any]) -> list[str]:
    lists = (value.get(key) for key in (*_LABELLED, _ANY))
    return [str(name) for names in lists if isinstance(names, list) for name in names]


def _patch(value: _Value, size: Size) -> Patch:
    if value.rle is not None:
        return crop(decode_brush(value.rle, *size))
    if value.bitmask is not None:
        return crop(_opaque(value.bitmask, size))
    scale_x, scale_y = size[1] / 100, size[0] / 100
    x, y, angle = value.x * scale_x, value.y * scale_y, value.rotation or 0.0
    if value.points is not None:
        return polygon([(px * scale_x, py * scale_y) for px, py in value.points], size)
    if value.radius_x is not None and value.radius_y is not None:
        return ellipse((x, y), (value.radius_x * scale_x, value.radius_y * scale_y), size, angle)
    if value.width is not None and value.height is not None:
        opposite = (x + value.width * scale_x, y + value.height * scale_y)
        return polygon(turned_rectangle((x, y), opposite, (x, y), angle), size)
    raise MaskError("it has neither a brush nor points, radii or sides")


def _opaque(url: str, size: Size) -> NDArray[np.bool_]:
    """The pixels of a PNG in a data URL that are not transparent.

    Raises:
        MaskError: it is no PNG, or has another size.
    """
    head, _, text = url.partition(",")
    try:
        raw = base64.b64decode(text, validate=True)
        with explained(Path("the bit mask")), Image.open(BytesIO(raw), formats=("PNG",)) as image:
            if image.size != size[::-1]:
                came = f"{image.height}×{image.width}"
                raise MaskError(f"the bit mask is {came}, expected {size[0]}×{size[1]}")
            return np.asarray(image.convert("RGBA"))[..., 3] > 0
    except binascii.Error as error:
        raise MaskError(
            f"the bit mask is no PNG in base 64, but begins with {head[:30]}"
        ) from error
    except ImageError as error:
        raise MaskError(error.summary) from error
