"""Supervisely: a project with meta.json and, for each data set, img/ and ann/.

`DATASET/img/x.jpg` has `DATASET/ann/x.jpg.json` (in older projects `x.json`) with its objects, the
lowest first: polygons with holes, rectangles, and bitmaps (a PNG, compressed once more and coded in
base64, from `origin` on). The classes have the order of meta.json. A data set or a tag that is
called train, val or test is a split. Points and lines cover nothing.
Format: https://docs.supervisely.com/data-organization/00_ann_format_navi
"""

import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field

from unetseg.data.pairs.naming import split_of
from unetseg.errors import DataError, MaskError
from unetseg.importers.annotations import AnnotatedImage, Classes, Entry, Note, Problem, Shape
from unetseg.importers.shapes import Patch, Size, crop, paint_in_order, pasted, polygon
from unetseg.importers.source_files import (
    ImageFiles,
    decode_base64,
    embedded_png,
    holding,
    read_json,
    visible_files,
)

META = "meta.json"
_AREAS = {"polygon", "rectangle", "bitmap"}
_LARGEST = 2**28  # bytes of a bitmap's PNG


class _Points(BaseModel):
    exterior: list[tuple[float, float]] = Field(default_factory=list)
    interior: list[list[tuple[float, float]]] = Field(default_factory=list)


class _Bitmap(BaseModel):
    data: str
    origin: tuple[int, int]


class _Object(BaseModel):
    classTitle: str  # noqa: N815 (the format's name)
    geometryType: str = "polygon"  # noqa: N815
    points: _Points = Field(default_factory=_Points)
    bitmap: _Bitmap | None = None


class _Size(BaseModel):
    height: int
    width: int


class _Tag(BaseModel):
    name: str = ""


class _Annotation(BaseModel):
    size: _Size
    objects: list[_Object]
    tags: list[_Tag | str] = Field(default_factory=list)


class _Class(BaseModel):
    title: str


class _Meta(BaseModel):
    classes: list[_Class]


def recognises(source: Path) -> bool:
    """Whether there is a meta.json with classes, and annotations."""
    metas = holding(source, META, b'"classes"', b'"title"')
    return bool(metas) and any(path.parent.name == "ann" for path in source.rglob("*.json"))


def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
    """Read a project, or the folder above several.

    Raises:
        DataError: there are no annotations, or a meta.json is something else.
    """
    titles = [
        one.title
        for path in visible_files(source, META)
        for one in read_json(path, _Meta, source).classes
    ]
    jsons = [path for path in visible_files(source, "*.json") if path.parent.name == "ann"]
    if not jsons:
        fix = "Give the folder of the project: meta.json and folders with img/ and ann/."
        raise DataError("no annotations of Supervisely found", fix=fix)
    yield Classes(titles)
    files = ImageFiles(source, images, apart=("ann",))
    for path in jsons:
        try:
            annotation = read_json(path, _Annotation, source)
        except DataError as error:
            yield Problem(
                "no annotation of Supervisely", f"{error.summary}: {'; '.join(error.offenders)}"
            )
            continue
        yield from _annotated(path, annotation, files)


def _annotated(path: Path, annotation: _Annotation, files: ImageFiles) -> Iterator[Entry]:
    """The image of an annotation, and what was left out."""
    areas = [one for one in annotation.objects if one.geometryType in _AREAS]
    folder = path.parent.parent
    shapes = [
        Shape(one.classTitle, partial(_patch, one), f"object {i} ({one.classTitle})")
        for i, one in enumerate(areas)
    ]
    image = files.find(path.stem, near=folder / "img", split=split_of(folder.name))
    if isinstance(image, Problem):
        yield Problem(image.kind, f"{folder.name}/{path.name} names {image.where}")
        return
    tags = [tag if isinstance(tag, str) else tag.name for tag in annotation.tags]
    size = (annotation.size.height, annotation.size.width)
    name = f"{folder.name}/{image.stem}"
    yield AnnotatedImage(image, name, shapes, split_of(*tags, folder.name), size)
    yield Note(
        len(annotation.objects) - len(areas), "object", "left out: points and lines cover no area"
    )
    yield Note(not shapes, "image", "without objects: all background")


def _patch(shape: _Object, size: Size) -> Patch:
    corners, holes = shape.points.exterior, shape.points.interior
    if shape.geometryType == "bitmap":
        return _pasted(shape.bitmap, size)
    if shape.geometryType == "rectangle":
        if len(corners) != 2:
            raise MaskError(f"a rectangle has {len(corners)} corners, expected 2")
        (left, top), (right, bottom) = corners
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    outer = polygon(corners, size)
    if not holes:
        return outer
    layers = [(1, outer), *((0, polygon(hole, size)) for hole in holes)]
    return crop(paint_in_order(layers, size) == 1)


def _pasted(bitmap: _Bitmap | None, size: Size) -> Patch:
    """The pixels of a bitmap: those that are not transparent, or not 0 where nothing can be."""
    if bitmap is None:
        raise MaskError("a bitmap without pixels")
    packed = decode_base64(bitmap.data, "its bitmap")
    try:
        content = zlib.decompressobj().decompress(packed, _LARGEST)
    except zlib.error as error:
        raise MaskError("its bitmap is damaged: it cannot be decompressed") from error
    image = embedded_png(content, None, "its bitmap")
    has_alpha = image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info
    pixels = np.asarray(image.convert("RGBA"))[..., 3] if has_alpha else np.asarray(image)
    covered = np.asarray(pixels.reshape(*pixels.shape[:2], -1).any(axis=-1))
    left, top = bitmap.origin
    return pasted(covered, top, left, size)
