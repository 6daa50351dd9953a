"""labelme: one JSON for each image, with shapes in the coordinates of the upright image.

Labels become classes in sorted order, after the background; `_background_` is the background and
`__ignore__` becomes 255, as in labelme's own exports. Later shapes lie over earlier ones; lines are
as wide as labelme draws them into masks; points mark no pixels and are left out. An image that is
embedded in its JSON is taken where the file is missing. Format: https://github.com/wkentaro/labelme
"""

import base64
import binascii
import io
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel
from pydantic_core import from_json

from unetseg.data.files.limits import explained
from unetseg.data.masks.class_map import IGNORED
from unetseg.errors import DataError, ImageError, MaskError
from unetseg.importers.annotations import (
    AnnotatedImage,
    Annotations,
    Problem,
    class_codes,
    mentions,
    read_model,
    visible_files,
    without_twins,
)
from unetseg.importers.image_files import ImageFiles
from unetseg.importers.shapes import (
    Patch,
    Size,
    circle,
    crop,
    line,
    paint_in_order,
    polygon,
    rectangle,
)
from unetseg.text import plural, printable

LINE_WIDTH = 10.0
"""Pixels; the width that labelme gives lines in masks."""
IGNORE_LABEL = "__ignore__"
MOST_EMBEDDED = 2**28
"""Characters that an embedded image may have in base64."""

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


class _Embedded(BaseModel):
    imageData: str | None = None  # noqa: N815


def read(source: Path, images: Path | None = None) -> Annotations:
    """Read the JSONs of labelme in a folder and below, or one of them.

    Raises:
        DataError: there are none.
    """
    jsons, problems = _read_jsons(_json_files(source))
    shapes = [shape for json in jsons.values() for shape in json.shapes]
    labels = {shape.label for shape in shapes if shape.shape_type not in _POINTS}
    classes, codes = class_codes(sorted(labels - {IGNORE_LABEL}))
    codes[IGNORE_LABEL] = IGNORED
    files = ImageFiles(source, images)
    folder = source if source.is_dir() else source.parent
    found: list[AnnotatedImage] = []
    for path, json in jsons.items():
        image = _annotated(path, json, codes, files, folder)
        if isinstance(image, Problem):
            problems.append(image)
        else:
            found.append(image)
    found, twins = without_twins(found)
    notes = _notes(jsons.values(), found, files)
    return Annotations(classes, found, (*problems, *twins), tuple(notes))


def _json_files(source: Path) -> list[Path]:
    """The files with shapes and the name of an image; hidden ones left out."""
    if source.is_file():
        return [source]
    paths = visible_files(source, "*.json")
    found = [path for path in paths if mentions(path, _KEYS) or _is_cut_off(path)]
    if not found:
        fix = "Give the folder that holds a JSON for each image."
        raise DataError(f"{printable(source)} holds no annotations of labelme", paths, fix)
    return found


def _is_cut_off(path: Path) -> bool:
    """Whether a file is no JSON, and may be what is left of one of labelme."""
    try:
        from_json(path.read_bytes())
    except ValueError:
        return True
    return False


def _read_jsons(paths: Iterable[Path]) -> tuple[dict[Path, _Json], list[Problem]]:
    """What the files hold, and all that is wrong with those that cannot be read."""
    found = {}
    problems = []
    for path in paths:
        try:
            found[path] = read_model(path, _Json)
        except DataError as error:
            reasons = "; ".join(error.offenders)
            problems.append(Problem("no JSON of labelme", f"{error.summary}: {reasons}"))
    return found, problems


def _annotated(
    path: Path, json: _Json, codes: dict[str, int], files: ImageFiles, folder: Path
) -> AnnotatedImage | Problem:
    """The image of a JSON: the file it names, else the one within it, else a problem."""
    draw = partial(_draw, json.shapes, codes)
    size = (json.imageHeight, json.imageWidth) if json.imageHeight and json.imageWidth else None
    image = files.find(json.imagePath, near=path.parent)
    if isinstance(image, Path):
        return AnnotatedImage(image, files.name_of(image), draw, size=size)
    if not read_model(path, _Embedded).imageData:
        return Problem(image.kind, f"{path.relative_to(folder)} names {image.where}")
    name = path.relative_to(folder).with_name(path.stem).as_posix()
    return AnnotatedImage(path, name, draw, size=size, embedded=partial(_embedded, path))


def _embedded(path: Path) -> bytes:
    """The image file within a JSON.

    Raises:
        MaskError: it is damaged, or larger than any image that is meant to be there.
    """
    text = read_model(path, _Embedded).imageData or ""
    if len(text) > MOST_EMBEDDED:
        raise MaskError(f"its embedded image has {len(text)} characters; {MOST_EMBEDDED} may be")
    return _decoded(text, "its embedded image")


def _decoded(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MaskError(f"{what} is damaged: no base64") from error


# Drawing


def _draw(
    shapes: Sequence[_Shape], codes: dict[str, int], height: int, width: int
) -> NDArray[np.uint8]:
    """The codes of one image: shapes in their order, later ones on top.

    Raises:
        MaskError: shapes that cannot be drawn, all of them.
    """
    layers: list[tuple[int, Patch]] = []
    faults = []
    for index, shape in enumerate(shapes):
        if shape.shape_type in _POINTS:
            continue
        try:
            layers.append((codes[shape.label], _patch(shape, (height, width))))
        except MaskError as error:
            faults.append(f"shape {index} ({shape.label}): {error.summary}")
    if faults:
        raise MaskError("shapes cannot be drawn", faults)
    return paint_in_order(layers, (height, width))


def _patch(shape: _Shape, size: Size) -> Patch:
    """The pixels of a shape.

    Raises:
        MaskError: it has another number of points than its type, or an unknown type.
    """
    points = shape.points
    kind = shape.shape_type or "polygon"
    couples = {"circle": 2, "line": 2, "mask": 2}
    if any(len(point) != 2 for point in points) or len(points) != couples.get(kind, len(points)):
        raise MaskError(f"a {kind} of {plural(len(points), 'point')} that are not x and y each")
    match kind:
        case "mask":
            return _pasted(shape, size)
        case "circle":
            return circle(_point(points[0]), _point(points[1]), size)
        case "line" | "linestrip":
            return line(points, LINE_WIDTH, size)
        case "rectangle" if len(points) == 2:
            return rectangle(_point(points[0]), _point(points[1]), size)
        case "polygon" | "rectangle" | "oriented_rectangle" | "rotation":
            return polygon(points, size)
    raise MaskError(f"its type {kind!r} is not known")


def _point(values: Sequence[float]) -> tuple[float, float]:
    return values[0], values[1]


def _pasted(shape: _Shape, size: Size) -> Patch:
    """The pixels of a mask, a PNG in base64 between two corners, both of them included."""
    corners = np.array(shape.points)
    if not shape.mask or not np.isfinite(corners).all():
        raise MaskError("a mask without pixels or corners")
    (left, top), (right, bottom) = np.clip(corners, -(2**31), 2**31).astype(int).tolist()
    pixels = _png(_decoded(shape.mask, "its mask"), (bottom - top + 1, right - left + 1))
    if abs(top) > 2**20 or abs(left) > 2**20:
        raise MaskError("a mask far outside of the image")
    inner = pixels[max(-top, 0) : max(size[0] - top, 0), max(-left, 0) : max(size[1] - left, 0)]
    patch = crop(inner)
    return Patch(max(top, 0) + patch.top, max(left, 0) + patch.left, patch.covered)


def _png(data: bytes, size: Size) -> NDArray[np.bool_]:
    """Where a PNG of the size (height, width) that is expected is not 0, bool H×W."""
    try:
        with explained(Path("its mask")), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if (image.height, image.width) != size:
                came = f"{image.height}×{image.width}"
                raise MaskError(f"its mask has {came} pixels, its corners say {size[0]}×{size[1]}")
            pixels = np.asarray(image)
    except ImageError as error:
        raise MaskError(error.summary) from error
    return np.asarray(pixels.reshape(*size, -1).any(axis=-1))


# What else there is to say


def _notes(
    jsons: Iterable[_Json], images: Sequence[AnnotatedImage], files: ImageFiles
) -> Iterator[str]:
    """What was left out on purpose, and what was taken from the JSONs."""
    jsons = list(jsons)
    points = sum(shape.shape_type in _POINTS for json in jsons for shape in json.shapes)
    used = {image.path for image in images}
    bare = sum(path not in used for path in files.paths)
    embedded = sum(image.embedded is not None for image in images)
    empty = sum(not json.shapes for json in jsons)
    if points:
        yield f"{plural(points, 'point')} left out: points mark no pixels"
    if empty:
        yield f"{plural(empty, 'image')} without shapes: all background"
    if embedded:
        yield f"{plural(embedded, 'image')} taken out of a JSON, since the file is missing"
    if bare:
        yield f"{plural(bare, 'image file')} that no JSON names left out"
