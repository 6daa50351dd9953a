"""COCO panoptic: a JSON of segments and, for each image, a PNG whose colours number them.

The number of a segment is red + 256 green + 256² blue, and the JSON tells its category. Categories
become the classes in the order of their ids; crowds, and pixels of no segment (0), which nobody has
judged, become 255, ignored. Where all categories are things (`isthing`), what is no segment is the
background. Format: https://cocodataset.org/#format-data, "Panoptic Segmentation"
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from unetseg.data.masks.class_map import IGNORED, pack
from unetseg.data.masks.mask_file import mask_of_image
from unetseg.data.pairs.naming import split_of
from unetseg.errors import DataError, MaskError
from unetseg.importers.annotations import (
    BACKGROUND,
    Classes,
    Entry,
    Note,
    Problem,
    check_size,
    recode,
)
from unetseg.importers.coco import Category, Image
from unetseg.importers.source_files import ImageFiles, holding, read_json

_KEYS = (b'"segments_info"', b'"categories"')


class _Segment(BaseModel):
    id: int
    category_id: int
    iscrowd: int | None = 0


class _Annotation(BaseModel):
    image_id: int | str
    file_name: str
    segments_info: list[_Segment]


class _Category(Category):
    isthing: int | None = None


class _Dataset(BaseModel):
    images: list[Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def recognises(source: Path) -> bool:
    """Whether there is a JSON of segments."""
    return bool(holding(source, "*.json", *_KEYS))


def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
    """Read a JSON of segments, or a folder that holds one for each split, with their PNGs.

    Raises:
        DataError: there is no such JSON, or it holds something else.
    """
    paths = holding(source, "*.json", *_KEYS, first=None)
    jsons = {path: read_json(path, _Dataset, source) for path in paths}
    if not jsons:
        fix = "Give the JSON with segments_info, and the folder of its PNGs beside it."
        raise DataError("no panoptic annotations of COCO found", fix=fix)
    categories = {c.id: c for json in jsons.values() for c in json.categories}
    ordered = [categories[key] for key in sorted(categories)]
    are_things = all(category.isthing == 1 for category in ordered)
    names = [BACKGROUND] * are_things + [category.name for category in ordered]
    codes = {category.id: code for code, category in enumerate(ordered, int(are_things))}
    yield Classes(names, coded=True)
    yield f"what is no segment is {BACKGROUND if are_things else 'ignored: 255 in the masks'}"
    pngs = ImageFiles(source if source.is_dir() else source.absolute().parent)
    files = ImageFiles(source, images, apart=[path.stem for path in jsons])
    for path, json in jsons.items():
        yield from _read_json(path, json, codes, pngs, files)


def _read_json(
    path: Path, json: _Dataset, codes: Mapping[int, int], pngs: ImageFiles, files: ImageFiles
) -> Iterator[Entry]:
    """The images of one file with their segments; `codes` has the code of each category."""
    by_id = {image.id: image.file_name for image in json.images}
    void = IGNORED if 0 in codes.values() else 0  # what is no segment
    for one in json.annotations:
        png = pngs.find(one.file_name, near=path.parent / path.stem)
        segments = {
            segment.id: IGNORED if segment.iscrowd else codes.get(segment.category_id, -1)
            for segment in one.segments_info
        }
        where = f"{path.name}: {one.file_name}"
        if isinstance(png, Problem):
            yield Problem("no such PNG of segments", where)
        elif one.image_id not in by_id:
            yield Problem("annotation without image", where)
        elif -1 in segments.values():
            yield Problem("unknown category", where)
        else:
            draw = partial(_draw, png, segments | {0: void})
            split = split_of(path.stem, path.parent.name)
            yield files.annotated(by_id[one.image_id], draw, near=path.parent, split=split)
    missing = by_id.keys() - {one.image_id for one in json.annotations}
    yield Note(len(missing), "image", "without segments left out")


def _draw(path: Path, codes: Mapping[int, int], height: int, width: int) -> NDArray[np.uint8]:
    """The class codes of a PNG of segments."""
    mask = mask_of_image(path, height, width)
    if mask.coding != "rgb":
        raise MaskError(f"{path.name} has no colours, expected segments as RGB")
    segments = pack(mask.pixels[..., ::-1])  # blue in the highest byte
    check_size(path, segments, height, width)
    return recode(segments, codes, f"{path.name} has segments that the JSON does not tell")
