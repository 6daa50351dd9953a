"""CVAT: its exports "Segmentation mask 1.1" and "CVAT for images 1.1".

The first has labelmap.txt, SegmentationClass/*.png in the colours of the labels, and lists of all
images in ImageSets/Segmentation (datumaro's VOC writer; SegmentationObject is not needed). An image
on which nothing was drawn has no mask file there: it is all background. With "Save images" the
images lie in JPEGImages/ or images/.

The second is an XML of shapes, https://docs.cvat.ai/docs/other/xml_format. Shapes with a larger
z_order lie above others, of equal ones the later; boxes and ellipses are turned clockwise around
their centre by `rotation` degrees; a mask is run lengths of nothing, something, nothing, … row
after row of a window. An image without shapes is all background. Points, lines, cuboids, skeletons
and tags cover nothing.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from unetseg.errors import DataError, MaskError
from unetseg.importers.annotations import (
    AnnotatedImage,
    Annotations,
    ImageFiles,
    Problem,
    check_size,
    class_codes,
    draw_each,
    mask_of_image,
    name_in,
    sort_out,
    split_of,
)
from unetseg.importers.shapes import Patch, Size, ellipse, paint_in_order, polygon, turned_rectangle
from unetseg.importers.voc import (
    CLASS_MASKS,
    LABELMAP,
    LabelColours,
    image_of,
    images_beside_masks,
    masks_by_name,
    painted_codes,
    read_labelmap,
    read_lists,
)
from unetseg.text import plural

_SHAPES = "annotations.xml"
_AREAS = ("polygon", "box", "ellipse", "mask")
_OTHERS = ("polyline", "points", "cuboid", "skeleton", "tag")
_FIX = 'Export the task as "CVAT for images 1.1".'


def read(source: Path, images: Path | None = None) -> Annotations:
    """Read an export with labelmap.txt or annotations.xml, or such an XML file.

    Args:
        source: The folder of the export, or one above; or the XML.
        images: The folder of the images, where the export does not hold them.

    Raises:
        DataError: there is neither, or it cannot be read.
    """
    if source.is_file():
        return _read_shapes(source, images)
    for name, reader in ((LABELMAP, _read_masks), (_SHAPES, _read_shapes)):
        exports = sorted(path for path in source.rglob(name) if path.is_file())
        if len(exports) > 1:
            names = [name_in(source, path) for path in exports]
            raise DataError("there are several exports", names, "Give one of them.")
        if exports:
            return reader(exports[0], images)
    fix = 'Export the task as "Segmentation mask 1.1" or as "CVAT for images 1.1".'
    raise DataError(f"there is neither {LABELMAP} nor {_SHAPES}", fix=fix)


# Segmentation mask 1.1


def _read_masks(labelmap: Path, images: Path | None) -> Annotations:
    """Read the masks beside a labelmap.txt.

    Raises:
        DataError: there are none, or labelmap.txt is wrong.
    """
    root = labelmap.parent
    labels = read_labelmap(labelmap)
    masks = masks_by_name(root)
    if not masks:
        fix = "Export a task on which something was drawn."
        raise DataError(f"there are no masks in {CLASS_MASKS}", fix=fix)
    splits, problems = read_lists(root, split_of)
    files = images_beside_masks(root, images)
    entries: list[AnnotatedImage | Problem] = [*problems]
    for name in dict.fromkeys(chain(masks, splits)):
        draw = partial(_draw_painted, masks.get(name), labels)
        entries.append(image_of(name, files, draw, splits.get(name)))
    annotated, faults = sort_out(entries)
    bare = len(splits.keys() - masks.keys())
    note = f"{plural(bare, 'image')} without a mask: nothing was drawn, all background"
    return Annotations(labels.classes, annotated, tuple(faults), (note,) if bare else ())


def _draw_painted(
    path: Path | None, labels: LabelColours, height: int, width: int
) -> NDArray[np.uint8]:
    """The class codes of a mask file, or of none."""
    if path is None:
        return np.zeros((height, width), np.uint8)
    codes = painted_codes(mask_of_image(path, height, width), labels, path)
    check_size(path, codes, height, width)
    return codes


# CVAT for images 1.1


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


class _Export:
    """What the XML holds, filled in by the parser's handlers as far as it is needed."""

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


def _read_shapes(source: Path, images: Path | None) -> Annotations:
    """Read the XML file `source`.

    Raises:
        DataError: it is no such XML, or has a document type, which could swell without end.
    """
    export = _parse(source)
    if export.tracks or not export.images:
        came = plural(export.tracks, "track") if export.tracks else "no images"
        raise DataError(f"{source.name} has {came}, expected images with shapes", fix=_FIX)
    drawn = dict.fromkeys(shape.label for image in export.images for shape in image.shapes)
    classes, codes = class_codes([*(export.labels or sorted(drawn)), *drawn])
    files = ImageFiles(source, images)
    entries: list[AnnotatedImage | Problem] = []
    for image in export.images:
        path = files.find(image.name, source.parent)
        if isinstance(path, Problem):
            entries.append(path)
            continue
        name = image.name.removesuffix(path.suffix)
        draw = partial(_draw, tuple(image.shapes), codes)
        split = split_of(image.attributes.get("subset", ""))
        entries.append(AnnotatedImage(path, name, draw, split, image.size))
    annotated, problems = sort_out(entries)
    return Annotations(classes, annotated, tuple(problems), tuple(_notes(export)))


def _parse(source: Path) -> _Export:
    """What the XML holds; nothing outside of it is ever read.

    Raises:
        DataError: it is no XML, or declares a document type, where entities come from.
    """

    def refuse(*_declaration: object) -> None:
        came = f"{source.name} declares a document type, which these exports never do"
        raise DataError(came, fix=_FIX)

    export = _Export()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = export.start
    parser.EndElementHandler = export.end
    parser.CharacterDataHandler = export.text
    parser.StartDoctypeDeclHandler = refuse
    try:
        with source.open("rb") as file:
            parser.ParseFile(file)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(f"{source.name} is no XML: {error}", fix=_FIX) from error
    return export


def _draw(
    shapes: Sequence[_Shape], codes: Mapping[str, int], height: int, width: int
) -> NDArray[np.uint8]:
    """The codes of an image: shapes from the lowest to the highest.

    Raises:
        MaskError: shapes that cannot be drawn, all of them.
    """
    layers = draw_each(
        list(enumerate(shapes, 1)),
        lambda item: (item[1].figure("z_order", 0), item[1], _patch(item[1], (height, width))),
        lambda item: f"{item[1].kind} {item[0]} ({item[1].label}): ",
    )
    layers.sort(key=lambda layer: layer[0])
    coded = ((codes[shape.label], patch) for _, shape, patch in layers)
    return paint_in_order(coded, (height, width))


def _patch(shape: _Shape, size: Size) -> Patch:
    """The pixels of a shape."""
    if shape.kind == "polygon":
        return polygon(_points(shape), size)
    if shape.kind == "mask":
        return _window(shape, size)
    angle = shape.figure("rotation", 0)
    if shape.kind == "ellipse":
        cx, cy, rx, ry = (shape.figure(key) for key in ("cx", "cy", "rx", "ry"))
        return ellipse((cx, cy), (rx, ry), size, angle)
    left, top, right, bottom = (shape.figure(key) for key in ("xtl", "ytl", "xbr", "ybr"))
    centre = ((left + right) / 2, (top + bottom) / 2)
    return polygon(turned_rectangle((left, top), (right, bottom), centre, angle), size)


def _points(shape: _Shape) -> list[list[float]]:
    """The points of `x,y;x,y;…`."""
    text = shape.attributes.get("points", "")
    try:
        points = [[float(part) for part in point.split(",")] for point in text.split(";")]
    except ValueError as error:
        raise MaskError("its points are no numbers") from error
    if any(len(point) != 2 for point in points):
        raise MaskError("its points are no couples of numbers")
    return points


def _window(shape: _Shape, size: Size) -> Patch:
    """The pixels of a mask: run lengths, the first of nothing, row after row of its window."""
    window = [int(shape.figure(key)) for key in ("left", "top", "width", "height")]
    left, top, width, height = window
    if min(window) < 0 or left + width > size[1] or top + height > size[0]:
        raise MaskError(f"its window ({width}×{height} at {left}, {top}) leaves the image")
    try:
        runs = [int(part) for part in shape.attributes.get("rle", "").split(",")]
    except ValueError as error:
        raise MaskError("its run lengths are no whole numbers") from error
    if min(runs) < 0 or sum(runs) != width * height:
        raise MaskError(f"its run lengths cover {sum(runs)} pixels, expected {width * height}")
    covered = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return Patch(top, left, covered.reshape(height, width))


def _notes(export: _Export) -> Iterator[str]:
    """What was left out, and images without shapes."""
    for kind, count in export.others.items():
        yield f"{plural(count, kind.removesuffix('s'))} left out: they cover no area"
    bare = sum(not image.shapes for image in export.images)
    if bare:
        yield f"{plural(bare, 'image')} without shapes: nothing was drawn, all background"
