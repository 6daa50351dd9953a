"""labelme: one JSON for each image, with shapes in the coordinates of the upright image.

Labels become classes in sorted order, after the background; `_background_` is the background and
`__ignore__` becomes 255, as in labelme's own exports. Later shapes lie over earlier ones; lines are
as wide as labelme draws them into masks; points mark no pixels and are left out. An image that is
embedded in its JSON is the one that was annotated, and the one that labelme opens: it is taken
where the file is missing or shows another picture. Format: https://github.com/wkentaro/labelme
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import cv2
import numpy as np
from pydantic import AfterValidator, BaseModel
from pydantic_core import from_json

from unetseg.data.files.image import read_image
from unetseg.errors import DataError, MaskError
from unetseg.importers.annotations import AnnotatedImage, Classes, Entry, Note, Problem, Shape
from unetseg.importers.shapes import Patch, Size, ellipse, line, pasted, polygon
from unetseg.importers.source_files import (
    ImageFiles,
    decode_base64,
    embedded_png,
    holding,
    holds,
    name_in,
    read_json,
    visible_files,
)
from unetseg.resources import usable_cores
from unetseg.text import plural

LINE_WIDTH = 10.0
"""Pixels; the width that labelme gives lines in masks."""
IGNORE_LABEL = "__ignore__"
MOST_EMBEDDED = 2**28
"""Characters that an embedded image may have in base64."""

_MISSING = "taken out of a JSON, since the file is missing"
_STALE = "taken out of a JSON: the file that it names (imagePath) shows another picture"
_SIDE = 32  # areas on a side whose means are compared
_POINTS = frozenset({"point", "points"})
_KEYS = (b'"shapes"', b'"imagePath"')


class _Shape(BaseModel):
    label: str
    points: list[list[float]]
    shape_type: str | None = "polygon"
    mask: str | None = None


class _Json(BaseModel):
    shapes: list[_Shape]
    imagePath: str  # noqa: N815 (the format's name)
    imageHeight: int | None = None  # noqa: N815
    imageWidth: int | None = None  # noqa: N815
    imageData: Annotated[Any, AfterValidator(bool)] = False  # noqa: N815 (whether there is any)

    @property
    def areas(self) -> dict[int, _Shape]:
        """The shapes that mark pixels, by their numbers."""
        return {i: one for i, one in enumerate(self.shapes) if one.shape_type not in _POINTS}


class _Embedded(BaseModel):
    imageData: str | None = None  # noqa: N815


def recognises(source: Path) -> bool:
    """Whether there is a JSON with shapes and the name of an image."""
    return bool(holding(source, "*.json", *_KEYS))


def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
    """Read the JSONs of labelme in a folder and below, or one of them.

    Raises:
        DataError: there are none.
    """
    jsons: dict[Path, _Json] = {}
    for path in _json_files(source):
        try:
            jsons[path] = read_json(path, _Json, source)
        except DataError as error:
            faults = "; ".join(error.offenders)
            yield Problem("no JSON of labelme", f"{error.summary}: {faults}")
    labels = {shape.label for json in jsons.values() for shape in json.areas.values()}
    yield Classes(sorted(labels - {IGNORE_LABEL}))
    files = ImageFiles(source, images)
    folder = source if source.is_dir() else source.parent
    used = set()
    with ThreadPoolExecutor(usable_cores()) as pool:
        images_of = pool.map(lambda path: _image_of(path, jsons[path], files, folder), jsons)
        entries = dict(zip(jsons, images_of, strict=True))
    for path, json in jsons.items():
        entry, note = entries[path]
        yield entry
        yield Note(bool(note), "image", note)
        used |= {entry.path} if isinstance(entry, AnnotatedImage) else set()
        points = len(json.shapes) - len(json.areas)
        yield Note(points, "point", "left out: points mark no pixels")
        yield Note(not json.shapes, "image", "without shapes: all background")
    bare = sum(path not in used for path in files.paths)
    yield Note(bare, "image file", "that no JSON names left out")


def _json_files(source: Path) -> list[Path]:
    """The files with shapes and the name of an image, and what may be left of a file cut off."""
    if source.is_file():
        return [source]

    def is_cut_off(path: Path) -> bool:
        try:
            from_json(path.read_bytes())
        except ValueError:
            return True
        return False

    jsons = visible_files(source, "*.json")
    of_labelme = [path for path in jsons if holds(path, *_KEYS) or is_cut_off(path)]
    if not of_labelme:
        names = [name_in(source, path) for path in jsons]
        fix = "Give the folder that holds a JSON for each image."
        raise DataError("no annotations of labelme found", names, fix)
    return of_labelme


def _image_of(
    path: Path, json: _Json, files: ImageFiles, folder: Path
) -> tuple[AnnotatedImage | Problem, str]:
    """The image of a JSON, or a problem; and why it is the one within the JSON, if it is."""
    shapes = [
        Shape(
            None if shape.label == IGNORE_LABEL else shape.label,
            partial(_patch, shape),
            f"shape {i} ({shape.label})",
        )
        for i, shape in json.areas.items()
    ]
    size = (json.imageHeight, json.imageWidth) if json.imageHeight and json.imageWidth else None
    image = files.find(json.imagePath, near=path.parent)
    name = path.relative_to(folder)
    if isinstance(image, Problem) and not json.imageData:
        return Problem(image.kind, f"{name} names {image.where}"), ""
    if isinstance(image, Path) and not (json.imageData and _differ(image, path)):
        return AnnotatedImage(image, files.name_of(image), shapes, size=size), ""
    plain_name = name.with_name(name.stem).as_posix()
    embedded = partial(_embedded, path)
    note = _STALE if isinstance(image, Path) else _MISSING
    return AnnotatedImage(path, plain_name, shapes, size=size, embedded=embedded), note


def _differ(image: Path, json: Path) -> bool:
    """Whether an image file and the image within a JSON show different pictures.

    The means of 32×32 equal areas are compared: JPEG of quality 75 changes them by a third of a
    level. Numbers of other types (16 bits, of which labelme embeds 8) are not compared, and what
    cannot be read is told when it is written.
    """
    with TemporaryDirectory() as folder:
        embedded = Path(folder) / "image"
        try:
            embedded.write_bytes(_embedded(json))
            first, second = (read_image(path) for path in (image, embedded))
        except DataError:
            return False
    if first.dtype != second.dtype:
        return False
    if first.shape[:2] != second.shape[:2]:
        return True
    small = [
        cv2.resize(pixels.mean(axis=-1), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        for pixels in (first, second)
    ]
    return bool(np.abs(small[0] - small[1]).mean() > small[1].std() / 10 + 0.5)


def _embedded(path: Path) -> bytes:
    """The image file within a JSON."""
    text = read_json(path, _Embedded, path).imageData or ""
    if len(text) > MOST_EMBEDDED:
        raise MaskError(f"its embedded image has {len(text)} characters; {MOST_EMBEDDED} may be")
    return decode_base64(text, "its embedded image")


def _patch(shape: _Shape, size: Size) -> Patch:
    points = shape.points
    kind = shape.shape_type or "polygon"
    couples = {"circle": 2, "line": 2, "mask": 2}
    if any(len(point) != 2 for point in points) or len(points) != couples.get(kind, len(points)):
        raise MaskError(f"a {kind} of {plural(len(points), 'point')} that are not x and y each")
    match kind:
        case "mask":
            return _pasted(shape, size)
        case "circle":  # its centre, and a point on it
            radius = math.dist(*points)
            return ellipse((points[0][0], points[0][1]), (radius, radius), size)
        case "line" | "linestrip":
            return line(points, LINE_WIDTH, size)
        case "rectangle" if len(points) == 2:  # opposite corners
            (x, y), (x2, y2) = points
            return polygon([(x, y), (x2, y), (x2, y2), (x, y2)], size)
        case "polygon" | "rectangle" | "oriented_rectangle" | "rotation":
            return polygon(points, size)
    raise MaskError(f"its type {kind!r} is not known")


def _pasted(shape: _Shape, size: Size) -> Patch:
    """The pixels of a mask, a PNG in base64 between two corners, both of them included."""
    corners = np.array(shape.points)
    if not shape.mask or not np.isfinite(corners).all():
        raise MaskError("a mask without pixels or corners")
    (left, top), (right, bottom) = np.clip(corners, -(2**31), 2**31).astype(int).tolist()
    stated = (bottom - top + 1, right - left + 1)
    pixels = np.asarray(embedded_png(shape.mask, stated, "its mask"))
    covered = np.asarray(pixels.reshape(*stated, -1).any(axis=-1))
    if abs(top) > 2**20 or abs(left) > 2**20:
        raise MaskError("a mask far outside of the image")
    return pasted(covered, top, left, size)
