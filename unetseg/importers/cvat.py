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
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from unetseg.data.masks.mask_file import mask_of_image
from unetseg.data.pairs.naming import split_of
from unetseg.errors import DataError, MaskError
from unetseg.importers.annotations import Classes, Entry, Note, Shape, check_size
from unetseg.importers.shapes import Patch, Size, ellipse, polygon, turned_rectangle
from unetseg.importers.source_files import ImageFiles, holding, only_one, visible_files
from unetseg.importers.voc import (
    CLASS_MASKS,
    LABELMAP,
    LabelColours,
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


def recognises(source: Path) -> bool:
    """Whether there are masks with a labelmap.txt, or an XML of shapes."""
    masks = any((path.parent / CLASS_MASKS).is_dir() for path in source.rglob(LABELMAP))
    return masks or bool(holding(source, "*.xml", b"<annotations>", b"<image "))


def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
    """Read an export with labelmap.txt or annotations.xml, or such an XML file.

    Raises:
        DataError: there is neither, or it cannot be read.
    """
    if source.is_file():
        return _read_xml(source, images)
    for name, reader in ((LABELMAP, _read_masks), (_SHAPES, _read_xml)):
        path = only_one(visible_files(source, name), source)
        if path is not None:
            return reader(path, images)
    fix = 'Export the task as "Segmentation mask 1.1" or as "CVAT for images 1.1".'
    raise DataError(f"there is neither {LABELMAP} nor {_SHAPES}", fix=fix)


# Segmentation mask 1.1


def _read_masks(labelmap: Path, images: Path | None) -> Iterator[Entry]:
    """Read the masks beside a labelmap.txt."""
    root = labelmap.parent
    labels = read_labelmap(labelmap)
    yield Classes(labels.classes, coded=True)
    masks = masks_by_name(root)
    if not masks:
        fix = "Export a task on which something was drawn."
        raise DataError(f"there are no masks in {CLASS_MASKS}", fix=fix)
    splits, problems = read_lists(root, split_of)
    yield from problems
    files = images_beside_masks(root, images)
    for name in dict.fromkeys([*masks, *splits]):
        draw = partial(_draw_painted, masks.get(name), labels)
        yield files.annotated(name, draw, split=splits.get(name))
    bare = len(splits.keys() - masks.keys())
    yield Note(bare, "image", "without a mask: nothing was drawn, all background")


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


def _read_xml(source: Path, images: Path | None) -> Iterator[Entry]:
    root = _parse(source)
    elements = list(root.iter("image"))
    tracks = sum(1 for _ in root.iter("track"))
    if tracks or not elements:
        came = plural(tracks, "track") if tracks else "no images"
        raise DataError(f"{source.name} has {came}, expected images with shapes", fix=_FIX)
    shapes_of = {
        element: [_Shape(child.tag, child.attrib) for child in element if child.tag in _AREAS]
        for element in elements
    }
    labels = [
        label.findtext("name", "")
        for label in root.iterfind(".//labels/label[name]")
        if label.findtext("type") not in _OTHERS
    ]
    drawn = dict.fromkeys(shape.label for shapes in shapes_of.values() for shape in shapes)
    yield Classes([*(labels or sorted(drawn)), *drawn])
    files = ImageFiles(source, images)
    for element, shapes in shapes_of.items():
        names = [f"{shape.tag} {i} ({shape.label})" for i, shape in enumerate(shapes, 1)]
        named = sorted(zip(shapes, names, strict=True), key=lambda item: item[0].depth)
        sides = [element.get(key, "") for key in ("height", "width")]
        is_stated = all(re.fullmatch(r"\d{1,9}", side) for side in sides)
        yield files.annotated(
            element.get("name", ""),
            [Shape(shape.label, shape.patch, name) for shape, name in named],
            near=source.parent,
            split=split_of(element.get("subset", "")),
            size=(int(sides[0]), int(sides[1])) if is_stated else None,
        )
        yield Note(not shapes, "image", "without shapes: nothing was drawn, all background")
        for tag in _OTHERS:
            yield Note(
                len(element.findall(tag)), tag.removesuffix("s"), "left out: they cover no area"
            )


def _parse(source: Path) -> ElementTree.Element:
    """The XML's first element; nothing outside of the file is ever read."""

    class WithoutDoctype(ElementTree.TreeBuilder):
        """Refuses document types, where entities come from, which could swell without end."""

        def doctype(self, *_declaration: object) -> None:
            came = f"{source.name} declares a document type, which these exports never do"
            raise DataError(came, fix=_FIX)

    try:
        parser = ElementTree.XMLParser(target=WithoutDoctype())
        return ElementTree.parse(source, parser).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{source.name} is no XML: {error}", fix=_FIX) from error


class _Shape(NamedTuple):
    """An element of an image: its tag and its attributes as they stand there."""

    tag: str
    attributes: dict[str, str]

    @property
    def label(self) -> str:
        return self.attributes.get("label", "")

    @property
    def depth(self) -> float:
        """What is larger for what lies above; 0 where that is no number, as `patch` will say."""
        try:
            return self.number("z_order", 0)
        except MaskError:
            return 0.0

    def number(self, key: str, default: float | None = None) -> float:
        """The attribute `key` as a number."""
        text = self.attributes.get(key, default)
        try:
            value = float("" if text is None else text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise MaskError(f"its {key} is {text!r}, expected a number")
        return value

    def patch(self, size: Size) -> Patch:
        """The pixels that it covers."""
        self.number("z_order", 0)
        if self.tag == "polygon":
            return polygon(self._points(), size)
        if self.tag == "mask":
            return self._runs_in_window(size)
        angle = self.number("rotation", 0)
        if self.tag == "ellipse":
            cx, cy, rx, ry = (self.number(key) for key in ("cx", "cy", "rx", "ry"))
            return ellipse((cx, cy), (rx, ry), size, angle)
        left, top, right, bottom = (self.number(key) for key in ("xtl", "ytl", "xbr", "ybr"))
        centre = ((left + right) / 2, (top + bottom) / 2)
        return polygon(turned_rectangle((left, top), (right, bottom), centre, angle), size)

    def _points(self) -> list[list[float]]:
        """The points of `x,y;x,y;…`."""
        text = self.attributes.get("points", "")
        try:
            points = [[float(part) for part in point.split(",")] for point in text.split(";")]
        except ValueError as error:
            raise MaskError("its points are no numbers") from error
        if any(len(point) != 2 for point in points):
            raise MaskError("its points are no couples of numbers")
        return points

    def _runs_in_window(self, size: Size) -> Patch:
        """The pixels of a mask: run lengths, the first of nothing, row after row of its window."""
        window = [int(self.number(key)) for key in ("left", "top", "width", "height")]
        left, top, width, height = window
        if min(window) < 0 or left + width > size[1] or top + height > size[0]:
            raise MaskError(f"its window ({width}×{height} at {left}, {top}) leaves the image")
        try:
            runs = [int(part) for part in self.attributes.get("rle", "").split(",")]
        except ValueError as error:
            raise MaskError("its run lengths are no whole numbers") from error
        if min(runs) < 0 or sum(runs) != width * height:
            raise MaskError(f"its run lengths cover {sum(runs)} pixels, expected {width * height}")
        covered = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        return Patch(top, left, covered.reshape(height, width))
