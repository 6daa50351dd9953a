"""COCO: instances as polygons and run lengths in one JSON for each split.

Categories become the classes 1, 2, … in the order of their ids. COCO has no order of depth, so
large objects are drawn first and small ones stay visible; crowds (`iscrowd`), whose objects nobody
has told apart, become 255, ignored, below all objects. Images without annotations are background:
COCO lists what was looked at. Format: https://cocodataset.org/#format-data
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    ImageFiles,
    Problem,
    class_codes,
    draw_each,
    holds,
    name_in,
    read_model,
    sort_out,
    split_of,
    split_path,
    visible_files,
)
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
    name: str
    content: _Dataset

    @property
    def split(self) -> str | None:
        return split_of(self.path.stem, self.path.parent.name)


def read(source: Path, images: Path | None = None) -> Annotations:
    """Read COCO instances: a JSON, or a folder that holds one for each split.

    Raises:
        DataError: there is no such JSON, or it holds something else.
    """
    names = {path: name_in(source, path) for path in _json_files(source)}
    jsons = [_Json(path, name, read_model(path, _Dataset, name)) for path, name in names.items()]
    _refuse_boxes(jsons)
    _refuse_unclear(jsons)
    categories = sorted({(c.id, c.name) for json in jsons for c in json.content.categories})
    classes, codes = class_codes(name for _, name in categories)
    files = ImageFiles(source, images)
    annotated, problems = sort_out(
        entry for json in jsons for entry in _entries(json, files, codes)
    )
    return Annotations(classes, annotated, tuple(problems), tuple(_notes(jsons)))


def _json_files(source: Path) -> list[Path]:
    """The instance files: those called so where there are any, else all of that structure."""
    paths = [source]
    if source.is_dir():
        jsons = visible_files(source, "*.json")
        jsons = [path for path in jsons if "instances" in path.name.lower()] or jsons
        paths = [path for path in jsons if holds(path, *_KEYS)]
        if not paths:
            names = [name_in(source, path) for path in jsons]
            fix = "Give the JSON with images, annotations and categories, or the folder with it."
            raise DataError("no COCO annotations found", names, fix)
    plain = [path for path in paths if not holds(path, b'"segments_info"')]
    if not plain:
        names = [name_in(source, path) for path in paths]
        fix = "Give the instances JSON (polygons or run lengths) instead."
        raise DataError("panoptic annotations are not read", names, fix)
    return plain


def _refuse_boxes(jsons: Sequence[_Json]) -> None:
    """See that there are shapes at all."""
    annotations = [one for json in jsons for one in json.content.annotations]
    if annotations and not any(one.segmentation for one in annotations):
        raise DataError(
            f"{plural(len(annotations), 'annotation')} and no segmentation: boxes are no masks",
            [json.name for json in jsons],
            "Export polygons or masks, not bounding boxes or key points.",
        )


def _refuse_unclear(jsons: Sequence[_Json]) -> None:
    """See that each category id of a file has one name."""
    faults = []
    for json in jsons:
        names: dict[int, set[str]] = defaultdict(set)
        for category in json.content.categories:
            names[category.id].add(category.name)
        clashes = {key: sorted(several) for key, several in names.items() if len(several) > 1}
        faults += [f"{json.name}: {key}: {', '.join(clash)}" for key, clash in clashes.items()]
    if faults:
        fix = "Give each category an id of its own."
        raise DataError("category ids have several names", [*map(printable, faults)], fix)


def _entries(
    json: _Json, files: ImageFiles, codes: Mapping[str, int]
) -> Iterator[AnnotatedImage | Problem]:
    """The images of one file that can be drawn, and what is wrong with others."""
    by_category = {category.id: codes[category.name] for category in json.content.categories}
    by_image: dict[int | str, list[_Annotation]] = defaultdict(list)
    for annotation in json.content.annotations:
        by_image[annotation.image_id].append(annotation)
    count = Counter(image.id for image in json.content.images)
    for image_id in (key for key in by_image if key not in count):
        many = plural(len(by_image[image_id]), "annotation")
        yield Problem("annotation without image", f"{json.path.name}: {many} of id {image_id}")
    for image in json.content.images:
        if count[image.id] > 1:
            where = f"{json.path.name}: {image.id} of {image.file_name}"
            yield Problem("image id is there twice", where)
        annotations = by_image.get(image.id, [])
        faults = list(_faults(image, annotations, by_category))
        yield from faults
        path = files.find(image.file_name, json.path.parent, json.split)
        if isinstance(path, Problem):
            yield path
        elif not faults and count[image.id] == 1:
            layers = [
                (IGNORED if a.iscrowd else by_category[a.category_id], a) for a in annotations
            ]
            parts = split_path(image.file_name)
            is_plain = parts == image.file_name.split("/") and ".." not in parts
            name = "/".join([*parts[:-1], path.stem]) if is_plain else files.name_of(path)
            size = (image.height, image.width) if image.height and image.width else None
            yield AnnotatedImage(path, name, partial(_draw, layers), json.split, size)


def _faults(
    image: _Image, annotations: Iterable[_Annotation], by_category: Mapping[int, int]
) -> Iterator[Problem]:
    """What is wrong with the annotations of an image, before any is drawn."""
    for one in annotations:
        where = f"{image.file_name}: annotation {one.id}"
        if one.category_id not in by_category:
            yield Problem("unknown category", f"{where} has the category {one.category_id}")
        if not one.segmentation:
            yield Problem("no segmentation", f"{where} has none; boxes are no masks")


def _draw(layers: Sequence[tuple[int, _Annotation]], height: int, width: int) -> NDArray[np.uint8]:
    """The codes of one image: crowds below, then objects from large to small.

    Raises:
        MaskError: annotations that cannot be drawn, all of them.
    """
    size = (height, width)
    patches = draw_each(
        [annotation for _, annotation in layers],
        lambda annotation: _patch(annotation.segmentation, size),
        lambda annotation: f"annotation {annotation.id}: ",
    )
    coded = [(code, patch) for (code, _), patch in zip(layers, patches, strict=True)]
    crowds = [layer for layer in coded if layer[0] == IGNORED]
    objects = [layer for layer in coded if layer[0] != IGNORED]
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
