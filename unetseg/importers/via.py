"""VGG Image Annotator (VIA) 1 and 2: a JSON of regions, or a project file with them.

The class of a region is the value of one of its attributes: of the one that is called class, label
or the like, else of the one that most regions have; regions without any are the foreground. VIA
lists every image that was opened, so that images without regions are left out, as
Mask R-CNN's balloon.py does, which made the format common. VIA has no order of depth: small regions
lie over large ones. Closed polylines are areas, others lines; points mark no pixels.
Format: https://www.robots.ox.ac.uk/~vgg/software/via/
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, RootModel

from unetseg.data.pairs.naming import split_of
from unetseg.errors import DataError, MaskError
from unetseg.importers.annotations import FOREGROUND, Entry, Note, Shape
from unetseg.importers.labelme import LINE_WIDTH
from unetseg.importers.shapes import Patch, Size, ellipse, line, polygon
from unetseg.importers.source_files import ImageFiles, holding, read_json

_WORDS = (b'"regions"', b'"filename"')
_KEYS = ("class", "label", "name", "type", "category", "object")  # of attributes that tell classes


class _Region(BaseModel):
    shape_attributes: dict[str, Any]
    region_attributes: dict[str, Any] = Field(default_factory=dict)

    def value(self, key: str) -> str:
        """The value of an attribute: a text, or the options that are ticked."""
        value = self.region_attributes.get(key)
        if isinstance(value, dict):
            value = " ".join(str(option) for option, is_on in value.items() if is_on)
        return "" if value is None else str(value).strip()


class _Image(BaseModel):
    filename: str
    regions: list[_Region] | dict[str, _Region] = Field(default_factory=list)

    @property
    def areas(self) -> list[_Region]:
        """The regions that cover pixels."""
        regions = self.regions.values() if isinstance(self.regions, dict) else self.regions
        return [one for one in regions if one.shape_attributes.get("name") != "point"]


class _Project(BaseModel):
    images: dict[str, _Image] = Field(alias="_via_img_metadata")


class _Export(RootModel[_Project | dict[str, _Image]]):
    @property
    def images(self) -> list[_Image]:
        return [*(self.root.images if isinstance(self.root, _Project) else self.root).values()]


def recognises(source: Path) -> bool:
    """Whether there is a JSON of regions."""
    return bool(holding(source, "*.json", *_WORDS, first=None))


def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
    """Read the JSONs of regions in a folder and below, or one of them.

    Raises:
        DataError: there are none, or one holds something else.
    """
    jsons = holding(source, "*.json", *_WORDS, first=None)
    if not jsons:
        fix = "Give the JSON that VIA saves or exports, or the folder with it."
        raise DataError("no annotations of VIA found", fix=fix)
    listed = {path: read_json(path, _Export, source).images for path in jsons}
    regions = [region for every in listed.values() for image in every for region in image.areas]
    key = _class_attribute(regions)
    if key:
        yield f"the classes are the values of the attribute {key!r}"
    files = ImageFiles(source, images)
    for path, every in listed.items():
        for image in every:
            areas = image.areas
            yield Note(len(image.regions) - len(areas), "point", "left out: points mark no pixels")
            if not areas:
                yield Note(1, "image", "without regions left out: VIA lists all that were opened")
                continue
            shapes = [
                Shape(
                    region.value(key) or FOREGROUND,
                    partial(_patch, region.shape_attributes),
                    f"region {i}",
                )
                for i, region in enumerate(areas)
            ]
            yield files.annotated(
                image.filename,
                shapes,
                near=path.parent,
                split=split_of(path.parent.name, path.stem),
                smallest_on_top=True,
            )


def _class_attribute(regions: Iterable[_Region]) -> str:
    """The attribute whose values are classes, or nothing where regions have none."""
    count = Counter(key for one in regions for key in one.region_attributes if one.value(key))
    ranked = sorted(count, key=lambda key: -count[key])
    named = (key for word in _KEYS for key in ranked if word in key.lower())
    return next(named, next(iter(ranked), ""))


def _patch(shape: dict[str, Any], size: Size) -> Patch:
    def number(key: str) -> float:
        value = shape.get(key)
        if not isinstance(value, int | float):
            raise MaskError(f"its {key} is {value!r}, expected a number")
        return float(value)

    kind = shape.get("name")
    match kind:
        case "polygon" | "polyline":
            xs, ys = (shape.get(key) for key in ("all_points_x", "all_points_y"))
            if not (isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys)):
                raise MaskError("its points are no lists of x and y")
            points = list(zip(xs, ys, strict=True))
            is_open = kind == "polyline" and points[:1] != points[-1:]
            return line(points, LINE_WIDTH, size) if is_open else polygon(points, size)
        case "circle":
            radius = number("r")
            return ellipse((number("cx"), number("cy")), (radius, radius), size)
        case "ellipse":
            radii = number("rx"), number("ry")
            angle = math.degrees(number("theta")) if "theta" in shape else 0.0
            return ellipse((number("cx"), number("cy")), radii, size, angle)
        case "rect":
            left, top = number("x"), number("y")
            right, bottom = left + number("width"), top + number("height")
            return polygon([(left, top), (right, top), (right, bottom), (left, bottom)], size)
    raise MaskError(f"its shape {kind!r} is not known")
