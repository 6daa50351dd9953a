"""Shapes in the XML "CVAT for images 1.1": polygons, boxes, ellipses and masks.

Format: https://docs.cvat.ai/docs/other/xml_format. Shapes with a larger z_order lie above others,
of equal ones the later; boxes and ellipses are turned clockwise around their centre by `rotation`
degrees; a mask is run lengths of nothing, something, nothing, … row after row of a window. An image
without shapes is all background. Points, lines, cuboids, skeletons and tags cover nothing.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from unetseg.errors import DataError, MaskError
from unetseg.importers.annotations import (
    AnnotatedImage,
    Annotations,
    Problem,
    class_codes,
    split_of,
    without_twins,
)
from unetseg.importers.image_files import ImageFiles
from unetseg.importers.shapes import Patch, Size, ellipse, paint_in_order, polygon, turned_rectangle
from unetseg.text import plural, printable

_AREAS = ("polygon", "box", "ellipse", "mask")
_OTHERS = ("polyline", "points", "cuboid", "skeleton", "tag")
_FIX = 'Export the task as "CVAT for images 1.1".'


@dataclass(frozen=True)
class _Shape:
    """An element of an image: its tag and its attributes as they stand there."""

    kind: str
    attributes: Mapping[str, str]

    @property
    def label(self) -> str:
        return self.attributes.get("label", "")

    def figure(self, key: str, default: float | None = None) -> float:
        """The attribute `key` as a number."""
        text = self.attributes.get(key, default)
        try:
            value = float("" if text is None else text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise MaskError(f"its {key} is {text!r}, expected a number")
        return value


@dataclass
class _Image:
    """An image and its shapes."""

    attributes: Mapping[str, str]
    shapes: list[_Shape] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.attributes.get("name", "")

    @property
    def size(self) -> Size | None:
        """Height and width, where they are stated."""
        sides = [self.attributes.get(key, "") for key in ("height", "width")]
        if not all(re.fullmatch(r"\d{1,9}", side) for side in sides):
            return None
        return int(sides[0]), int(sides[1])


class _Collector:
    """What an XML parser sees, kept as far as it is needed."""

    def __init__(self) -> None:
        self.images: list[_Image] = []
        self.labels: list[str] = []
        self.others: Counter[str] = Counter()
        self.tracks = 0
        self._path: list[str] = []
        self._text = ""
        self._label: dict[str, str] = {}

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        above = self._path[-1] if self._path else ""
        self._path.append(tag)
        self._text = ""
        if tag == "image":
            self.images.append(_Image(attributes))
        elif above == "image" and tag in _AREAS:
            self.images[-1].shapes.append(_Shape(tag, attributes))
        elif above == "image" and tag in _OTHERS:
            self.others[tag] += 1
        self.tracks += tag == "track"

    def text(self, data: str) -> None:
        """Text, or a part of it."""
        self._text += data if self._path[-2:-1] == ["label"] else ""

    def end(self, _tag: str) -> None:
        """An element ends."""
        if self._path[-3:-1] == ["labels", "label"]:
            self._label[self._path[-1]] = self._text
        elif self._path[-2:] == ["labels", "label"]:
            if "name" in self._label and self._label.get("type") not in _OTHERS:
                self.labels.append(self._label["name"])
            self._label = {}
        self._path.pop()


def read(source: Path, images: Path | None = None) -> Annotations:
    """Read the XML file `source`.

    Raises:
        DataError: it is no such XML, or has a document type, which could swell without end.
    """
    found = _parse(source)
    if found.tracks or not found.images:
        came = plural(found.tracks, "track") if found.tracks else "no images"
        raise DataError(f"{printable(source)} has {came}, expected images with shapes", fix=_FIX)
    drawn = dict.fromkeys(shape.label for image in found.images for shape in image.shapes)
    classes, codes = class_codes([*(found.labels or sorted(drawn)), *drawn])
    files = ImageFiles(source, images)
    annotated = []
    problems = []
    for image in found.images:
        path = files.find(image.name, source.parent)
        if isinstance(path, Problem):
            problems.append(path)
            continue
        name = image.name.removesuffix(path.suffix)
        draw = partial(_draw, tuple(image.shapes), codes)
        split = split_of(image.attributes.get("subset", ""))
        annotated.append(AnnotatedImage(path, name, draw, split, image.size))
    annotated, twins = without_twins(annotated)
    return Annotations(classes, annotated, (*problems, *twins), tuple(_notes(found)))


def _parse(source: Path) -> _Collector:
    """What the XML holds; nothing outside of it is ever read.

    Raises:
        DataError: it is no XML, or declares a document type, where entities come from.
    """
    found = _Collector()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = found.start
    parser.EndElementHandler = found.end
    parser.CharacterDataHandler = found.text
    parser.StartDoctypeDeclHandler = partial(_refuse_doctype, source)
    try:
        with source.open("rb") as file:
            parser.ParseFile(file)
    except OSError as error:
        raise DataError(f"{printable(source)} cannot be read: {error.strerror}") from error
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(f"{printable(source)} is no XML: {error}", fix=_FIX) from error
    return found


def _refuse_doctype(source: Path, *_declaration: object) -> None:
    raise DataError(
        f"{printable(source)} declares a document type, which these exports never do", fix=_FIX
    )


def _draw(
    shapes: Sequence[_Shape], codes: Mapping[str, int], height: int, width: int
) -> NDArray[np.uint8]:
    """The codes of an image: shapes from the lowest to the highest.

    Raises:
        MaskError: shapes that cannot be drawn, all of them.
    """
    layers: list[tuple[float, int, Patch]] = []
    faults = []
    for place, shape in enumerate(shapes, 1):
        try:
            depth, patch = shape.figure("z_order", 0), _patch(shape, (height, width))
        except MaskError as error:
            faults.append(f"{shape.kind} {place} ({shape.label}): {error.summary}")
            continue
        layers.append((depth, codes[shape.label], patch))
    if faults:
        raise MaskError("shapes cannot be drawn", faults)
    layers.sort(key=lambda layer: layer[0])
    return paint_in_order(((code, patch) for _, code, patch in layers), (height, width))


def _patch(shape: _Shape, size: Size) -> Patch:
    """The pixels of a shape."""
    if shape.kind == "polygon":
        return polygon(_points(shape.attributes.get("points", "")), size)
    if shape.kind == "mask":
        return _window(shape, size)
    angle = shape.figure("rotation", 0)
    if shape.kind == "ellipse":
        cx, cy, rx, ry = (shape.figure(key) for key in ("cx", "cy", "rx", "ry"))
        return ellipse((cx, cy), (rx, ry), size, angle)
    left, top, right, bottom = (shape.figure(key) for key in ("xtl", "ytl", "xbr", "ybr"))
    centre = ((left + right) / 2, (top + bottom) / 2)
    return polygon(turned_rectangle((left, top), (right, bottom), centre, angle), size)


def _points(text: str) -> list[list[float]]:
    """The points of `x,y;x,y;…`."""
    try:
        points = [[float(part) for part in point.split(",")] for point in text.split(";")]
    except ValueError as error:
        raise MaskError("its points are no numbers") from error
    if any(len(point) != 2 for point in points):
        raise MaskError("its points are no couples of numbers")
    return points


def _window(shape: _Shape, size: Size) -> Patch:
    """The pixels of a mask: run lengths, the first of nothing, row after row of its window."""
    place = [int(shape.figure(key)) for key in ("left", "top", "width", "height")]
    left, top, width, height = place
    if min(place) < 0 or left + width > size[1] or top + height > size[0]:
        raise MaskError(f"its window ({width}×{height} at {left}, {top}) leaves the image")
    try:
        runs = [int(part) for part in shape.attributes.get("rle", "").split(",")]
    except ValueError as error:
        raise MaskError("its run lengths are no whole numbers") from error
    if min(runs) < 0 or sum(runs) != width * height:
        raise MaskError(f"its run lengths cover {sum(runs)} pixels, expected {width * height}")
    covered = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return Patch(top, left, covered.reshape(height, width))


def _notes(found: _Collector) -> Iterator[str]:
    """What was left out, and images without shapes."""
    for kind, count in found.others.items():
        yield f"{plural(count, kind.removesuffix('s'))} left out: they cover no area"
    bare = sum(not image.shapes for image in found.images)
    if bare:
        yield f"{plural(bare, 'image')} without shapes: nothing was drawn, all background"
