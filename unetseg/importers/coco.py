"""COCO: instances as polygons and run lengths in one JSON for each split.

Categories become the classes 1, 2, … in the order of their ids. COCO has no order of depth, so
large objects are drawn first and small ones stay visible; crowds (`iscrowd`), whose objects nobody
has told apart, become 255, ignored, below all objects. In COCO itself they are one annotation in a
hundred: where they are most, they are brush strokes, all of which CVAT (by Datumaro) marks so, and
are drawn. Images without annotations are background: COCO lists what was looked at.
Format: https://cocodataset.org/#format-data
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel

from unetseg.data.pairs.naming import split_of
from unetseg.errors import DataError, MaskError
from unetseg.importers.annotations import Classes, Entry, Note, Problem, Shape
from unetseg.importers.shapes import Patch, Size, polygons, runs_to_patch, unpack_runs
from unetseg.importers.source_files import (
    ImageFiles,
    holding,
    holds,
    name_in,
    read_json,
    visible_files,
)
from unetseg.text import plural, printable

_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_STROKES = "(iscrowd) drawn as objects: most are marked so, as brush strokes of CVAT are"


def _packed(segmentation: Any) -> Any:
    """Polygons as a tuple of arrays, which need a quarter of the memory; all else as it is."""
    if not segmentation or not isinstance(segmentation, list):
        return segmentation
    parts = segmentation if isinstance(segmentation[0], list) else [segmentation]
    try:
        return tuple(array("d", part) for part in parts)
    except (TypeError, OverflowError):
        return segmentation  # is told when it is drawn


class Image(BaseModel):
    """An image, as the JSON lists it."""

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


class Category(BaseModel):
    """A category, as the JSON lists it."""

    id: int
    name: str
    supercategory: Any = None


class _Dataset(BaseModel):
    images: list[Image]
    annotations: list[_Annotation]
    categories: list[Category]


def recognises(source: Path) -> bool:
    """Whether there is a JSON of instances."""
    jsons = holding(source, "*.json", *_KEYS)
    return any(not holds(path, b'"segments_info"') for path in jsons)


def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
    """Read COCO instances: a JSON, or a folder that holds one for each split.

    Raises:
        DataError: there is no such JSON, or it holds something else.
    """
    names = {path: name_in(source, path) for path in _json_files(source)}
    jsons = {path: read_json(path, _Dataset, source) for path in names}
    _check([*names.values()], [*jsons.values()])
    every = [category for json in jsons.values() for category in json.categories]
    used = {one.category_id for json in jsons.values() for one in json.annotations}
    every_above = [one.supercategory for one in every if one.supercategory != one.name]
    above = {str(name) for name in every_above if name is not None}
    groups = {(one.id, one.name) for one in every if one.name in above and one.id not in used}
    categories = sorted({(one.id, one.name) for one in every} - groups)
    yield Classes([name for _, name in categories])
    yield Note(len(groups), "group", "of categories left out: nothing is annotated by its name")
    files = ImageFiles(source, images)
    shaped = [one for json in jsons.values() for one in json.annotations if one.segmentation]
    crowds = [one for one in shaped if one.iscrowd]
    are_strokes = len(crowds) > len(shaped) / 2
    ignored = "(iscrowd) ignored: 255 in the masks"
    yield Note(len(crowds), "crowd region", _STROKES if are_strokes else ignored)
    for one in crowds if are_strokes else ():
        one.iscrowd = 0
    for path, json in jsons.items():
        yield from _read_json(path, json, files)
        bare = {image.id for image in json.images} - {one.image_id for one in json.annotations}
        yield Note(len(bare), "image", "without annotations: all background")


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
        fix = "Import them by unetseg import coco-panoptic, or give the instances JSON."
        raise DataError("these are panoptic annotations", names, fix)
    return plain


def _check(names: Sequence[str], jsons: Sequence[_Dataset]) -> None:
    """See that there are shapes at all, and that each category id of a file has one name."""
    annotations = [one for json in jsons for one in json.annotations]
    if annotations and not any(one.segmentation for one in annotations):
        raise DataError(
            f"{plural(len(annotations), 'annotation')} and no segmentation: boxes are no masks",
            names,
            "Export polygons or masks, not bounding boxes or key points.",
        )
    faults = []
    for name, json in zip(names, jsons, strict=True):
        called: dict[int, set[str]] = defaultdict(set)
        for category in json.categories:
            called[category.id].add(category.name)
        clashes = {key: sorted(several) for key, several in called.items() if len(several) > 1}
        faults += [f"{name}: {key}: {', '.join(clash)}" for key, clash in clashes.items()]
    if faults:
        fix = "Give each category an id of its own."
        raise DataError("category ids have several names", [*map(printable, faults)], fix)


def _read_json(path: Path, json: _Dataset, files: ImageFiles) -> Iterator[Entry]:
    """The images of one file with their shapes, and what is wrong with them."""
    split = split_of(path.stem, path.parent.name)
    labels = {category.id: category.name for category in json.categories}
    by_image: dict[int | str, list[_Annotation]] = defaultdict(list)
    for one in json.annotations:
        by_image[one.image_id].append(one)
    count = Counter(image.id for image in json.images)
    for image_id in (key for key in by_image if key not in count):
        many = plural(len(by_image[image_id]), "annotation")
        yield Problem("annotation without image", f"{path.name}: {many} of id {image_id}")
    for image in json.images:
        shapes, problems = _shapes_on(image, by_image.get(image.id, ()), labels)
        if count[image.id] > 1:
            where = f"{path.name}: {image.id} of {image.file_name}"
            problems.append(Problem("image id is there twice", where))
        size = (image.height, image.width) if image.height and image.width else None
        entry = files.annotated(
            image.file_name,
            shapes,
            near=path.parent,
            split=split,
            size=size,
            smallest_on_top=True,
        )
        yield from problems
        if isinstance(entry, Problem) or not problems:
            yield entry


def _shapes_on(
    image: Image, annotations: Iterable[_Annotation], labels: Mapping[int, str]
) -> tuple[list[Shape], list[Problem]]:
    """The shapes on an image, and what is wrong with them before any is drawn."""
    shapes, problems = [], []
    for one in annotations:
        where = f"{image.file_name}: annotation {one.id}"
        if one.category_id not in labels:
            fault = f"{where} has the category {one.category_id}"
            problems.append(Problem("unknown category", fault))
        if not one.segmentation:
            fault = f"{where} has none; boxes are no masks"
            problems.append(Problem("no segmentation", fault))
        label = None if one.iscrowd else labels.get(one.category_id)
        patch = partial(_patch, one.segmentation)
        shapes.append(Shape(label, patch, f"annotation {one.id}"))
    return shapes, problems


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
