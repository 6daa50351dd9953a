"""COCO: instances as polygons and run lengths in one JSON for each split.

Categories become the classes 1, 2, … in the order of their ids. COCO has no order of depth, so
large objects are drawn first and small ones stay visible; crowds (`iscrowd`), whose objects nobody
has told apart, become 255, ignored, below all objects. Images without annotations are background:
COCO lists what was looked at. Format: https://cocodataset.org/#format-data
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel

from unetseg.data.masks.class_map import IGNORED
from unetseg.errors import DataError, MaskError
from unetseg.importers.annotations import (
    AnnotatedImage,
    Annotations,
    Problem,
    class_codes,
    mentions,
    read_model,
    split_of,
    visible_files,
    without_twins,
)
from unetseg.importers.image_files import ImageFiles, split_path
from unetseg.importers.shapes import (
    Patch,
    Size,
    largest_first,
    paint_in_order,
    polygons,
    runs_to_patch,
    unpack_runs,
)
from unetseg.text import plural, printable

_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_FIX = "Give the JSON with images, annotations and categories, or the folder that holds it."


def _packed(segmentation: Any) -> Any:
    """Polygons as a tuple of arrays, which need a quarter of the memory; all else as it is."""
    if not segmentation or not isinstance(segmentation, list):
        return segmentation
    parts = segmentation if isinstance(segmentation[0], list) else [segmentation]
    try:
        return tuple(array("d", part) for part in parts)
    except (TypeError, OverflowError):
        return segmentation  # is told when it is drawn


class _Image(BaseModel):
    id: int | str
    file_name: str
    height: int | None = None
    width: int | None = None


class _Annotation(BaseModel):
    id: int | str | None = None
    image_id: int | str
    category_id: int
    segmentation: Annotated[Any, AfterValidator(_packed)] = None
    iscrowd: int | None = 0


class _Category(BaseModel):
    id: int
    name: str


class _Dataset(BaseModel):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


@dataclass(frozen=True)
class _Json:
    """One JSON file: a split, or everything."""

    path: Path
    content: _Dataset

    @property
    def split(self) -> str | None:
        return split_of(self.path.stem) or split_of(self.path.parent.name)


def read(source: Path, images: Path | None = None) -> Annotations:
    """Read COCO instances: a JSON, or a folder that holds one for each split.

    Raises:
        DataError: there is no such JSON, or it holds something else.
    """
    jsons = [_Json(path, read_model(path, _Dataset)) for path in _json_files(source)]
    _refuse_boxes(jsons)
    _refuse_unclear(jsons)
    categories = sorted({(c.id, c.name) for json in jsons for c in json.content.categories})
    classes, codes = class_codes(name for _, name in categories)
    files = ImageFiles(source, images)
    found: list[AnnotatedImage] = []
    problems: list[Problem] = []
    for json in jsons:
        more, faults = _read_json(json, files, codes)
        found += more
        problems += faults
    found, twins = without_twins(found)
    return Annotations(classes, found, (*problems, *twins), tuple(_notes(jsons)))


def _json_files(source: Path) -> list[Path]:
    """The instance files: those called so where there are any, else all of that structure."""
    if source.is_file():
        _refuse_panoptic([source])
        return [source]
    paths = visible_files(source, "*.json")
    paths = [path for path in paths if "instances" in path.name.lower()] or paths
    found = [path for path in paths if mentions(path, _KEYS)]
    if not found:
        raise DataError(f"{printable(source)} holds no COCO annotations", paths, _FIX)
    plain = [path for path in found if not _is_panoptic(path)]
    if not plain:
        _refuse_panoptic(found)
    return plain


def _is_panoptic(path: Path) -> bool:
    return mentions(path, [b'"segments_info"'])


def _refuse_panoptic(paths: Iterable[Path]) -> None:
    panoptic = [path for path in paths if _is_panoptic(path)]
    if panoptic:
        fix = "Give the instances JSON (polygons or run lengths) instead."
        raise DataError("panoptic annotations are not read", panoptic, fix)


def _refuse_boxes(jsons: Sequence[_Json]) -> None:
    """See that there are shapes at all."""
    annotations = [one for json in jsons for one in json.content.annotations]
    if annotations and not any(one.segmentation for one in annotations):
        raise DataError(
            f"{plural(len(annotations), 'annotation')} and no segmentation: boxes are no masks",
            [json.path for json in jsons],
            "Export polygons or masks, not bounding boxes or key points.",
        )


def _refuse_unclear(jsons: Sequence[_Json]) -> None:
    """See that each category id of a file has one name."""
    faults = []
    for json in jsons:
        names: dict[int, set[str]] = defaultdict(set)
        for category in json.content.categories:
            names[category.id].add(category.name)
        clashes = {one: found for one, found in names.items() if len(found) > 1}
        faults += [f"{json.path}: {i}: {', '.join(sorted(n))}" for i, n in clashes.items()]
    if faults:
        fix = "Give each category an id of its own."
        raise DataError("category ids have several names", faults, fix)


def _read_json(
    json: _Json, files: ImageFiles, codes: dict[str, int]
) -> tuple[list[AnnotatedImage], list[Problem]]:
    """The images of one file that can be drawn, and what is wrong with others."""
    by_category = {category.id: codes[category.name] for category in json.content.categories}
    by_image: dict[int | str, list[_Annotation]] = defaultdict(list)
    for annotation in json.content.annotations:
        by_image[annotation.image_id].append(annotation)
    ids = Counter(image.id for image in json.content.images)
    problems = list(_stray(json, by_image, ids))
    found = []
    for image in json.content.images:
        mine = by_image.get(image.id, [])
        faults = list(_faults(image, mine, by_category))
        path = files.find(image.file_name, json.path.parent, json.split)
        if isinstance(path, Problem):
            faults.append(path)
        elif not faults and ids[image.id] == 1:
            layers = [(_code(one, by_category), one) for one in mine]
            name = _pair_name(image, path, files)
            size = (image.height, image.width) if image.height and image.width else None
            draw = partial(_draw, layers)
            found.append(AnnotatedImage(path, name, draw, json.split, size))
        problems += faults
    return found, problems


def _stray(
    json: _Json, by_image: dict[int | str, list[_Annotation]], ids: Counter[int | str]
) -> Iterator[Problem]:
    """Annotations of images that are not listed, and image ids that are there twice."""
    for image_id, annotations in by_image.items():
        if image_id not in ids:
            many = plural(len(annotations), "annotation")
            yield Problem("annotation without image", f"{json.path.name}: {many} of id {image_id}")
    for image in json.content.images:
        if ids[image.id] > 1:
            where = f"{json.path.name}: {image.id} of {image.file_name}"
            yield Problem("image id is there twice", where)


def _faults(
    image: _Image, annotations: Iterable[_Annotation], by_category: dict[int, int]
) -> Iterator[Problem]:
    """What is wrong with the annotations of an image, before any is drawn."""
    for one in annotations:
        where = f"{image.file_name}: annotation {one.id}"
        if one.category_id not in by_category:
            yield Problem("unknown category", f"{where} has the category {one.category_id}")
        if not one.segmentation:
            yield Problem("no segmentation", f"{where} has none; boxes are no masks")


def _code(annotation: _Annotation, by_category: dict[int, int]) -> int:
    return IGNORED if annotation.iscrowd else by_category[annotation.category_id]


def _pair_name(image: _Image, path: Path, files: ImageFiles) -> str:
    """The file name in the JSON where it is a plain one, else the place of the file."""
    parts = split_path(image.file_name)
    is_plain = parts == image.file_name.split("/") and ".." not in parts
    return "/".join([*parts[:-1], path.stem]) if is_plain else files.name_of(path)


def _draw(layers: Sequence[tuple[int, _Annotation]], height: int, width: int) -> NDArray[np.uint8]:
    """The codes of one image: crowds below, then objects from large to small.

    Raises:
        MaskError: annotations that cannot be drawn, all of them.
    """
    size = (height, width)
    crowds: list[tuple[int, Patch]] = []
    objects: list[tuple[int, Patch]] = []
    faults = []
    for code, annotation in layers:
        try:
            patch = _patch(annotation.segmentation, size)
        except MaskError as error:
            faults.append(f"annotation {annotation.id}: {error.summary}")
            continue
        (crowds if code == IGNORED else objects).append((code, patch))
    if faults:
        raise MaskError("annotations cannot be drawn", faults)
    return paint_in_order([*crowds, *largest_first(objects)], size)


def _patch(segmentation: Any, size: Size) -> Patch:
    """The pixels of polygons, of run lengths, or of compressed run lengths."""
    if isinstance(segmentation, tuple):
        if any(len(part) % 2 for part in segmentation):
            raise MaskError("a polygon has an odd number of coordinates")
        return polygons([list(zip(p[::2], p[1::2], strict=True)) for p in segmentation], size)
    if isinstance(segmentation, list):
        raise MaskError("a polygon has coordinates that are no numbers")
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise MaskError("its segmentation is neither polygons nor run lengths")
    stated = segmentation.get("size", list(size))
    if stated != list(size):
        raise MaskError(f"its run lengths are for {stated}, the image has {list(size)}")
    counts = segmentation["counts"]
    return runs_to_patch(unpack_runs(counts) if isinstance(counts, str) else counts, size)


def _notes(jsons: Sequence[_Json]) -> Iterator[str]:
    """What became of crowds and of images without annotations."""
    crowds = sum(bool(one.iscrowd) for json in jsons for one in json.content.annotations)
    if crowds:
        yield f"{plural(crowds, 'crowd region')} (iscrowd) ignored: 255 in the masks"
    empty = sum(
        len({i.id for i in json.content.images} - {a.image_id for a in json.content.annotations})
        for json in jsons
    )
    if empty:
        yield f"{plural(empty, 'image')} without annotations: all background"
