"""CVAT: its exports "Segmentation mask 1.1" and "CVAT for images 1.1".

The first has labelmap.txt, SegmentationClass/*.png in the colours of the labels, and lists of all
images in ImageSets/Segmentation (datumaro's VOC writer; SegmentationObject is not needed). An image
on which nothing was drawn has no mask file there: it is all background. The second is an XML of
shapes; see `cvat_xml`. With "Save images" the images lie in JPEGImages/ or images/.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.folders import scan
from unetseg.errors import DataError, MaskError
from unetseg.importers import cvat_xml
from unetseg.importers.annotations import AnnotatedImage, Annotations, Problem, split_of
from unetseg.importers.image_files import CLASS_MASKS, images_beside_masks
from unetseg.importers.label_colours import LabelColours, read_labelmap, read_painted
from unetseg.text import plural, printable

_LABELS, _SHAPES = "labelmap.txt", "annotations.xml"
_LISTS = "ImageSets/Segmentation"


def read(source: Path, images: Path | None = None) -> Annotations:
    """Read an export with labelmap.txt or annotations.xml, or such an XML file.

    Args:
        source: The folder of the export, or one above; or the XML.
        images: The folder of the images, where the export does not hold them.

    Raises:
        DataError: there is neither, or it cannot be read.
    """
    if source.is_file():
        return cvat_xml.read(source, images)
    for name, reader in ((_LABELS, _read_masks), (_SHAPES, cvat_xml.read)):
        found = sorted(path for path in source.rglob(name) if path.is_file())
        if len(found) > 1:
            raise DataError(
                f"{printable(source)} holds several exports", found, "Give one of them."
            )
        if found:
            return reader(found[0], images)
    raise DataError(
        f"{printable(source)} holds neither {_LABELS} nor {_SHAPES}",
        fix='Export the task as "Segmentation mask 1.1" or as "CVAT for images 1.1".',
    )


def _read_masks(labelmap: Path, images: Path | None) -> Annotations:
    """Read the masks beside a labelmap.txt."""
    root = labelmap.parent
    labels = read_labelmap(labelmap)
    masks = _masks(root)
    splits, problems = _read_lists(root)
    files = images_beside_masks(root, images)
    found = []
    for name in dict.fromkeys(chain(masks, splits)):
        path = files.find(name)
        if isinstance(path, Problem):
            problems.append(path)
            continue
        draw = partial(_draw, masks[name], labels) if name in masks else _draw_nothing
        found.append(AnnotatedImage(path, name, draw, splits.get(name)))
    return Annotations(labels.classes, found, tuple(problems), tuple(_notes(masks, splits)))


def _masks(root: Path) -> dict[str, Path]:
    """The mask files by the names of their images.

    Raises:
        DataError: there are none.
    """
    folder = root / CLASS_MASKS
    paths = scan(folder, MaskError) if folder.is_dir() else []
    if not paths:
        raise DataError(
            f"{printable(root)} has no masks in {CLASS_MASKS}",
            fix="Export a task on which something was drawn.",
        )
    return {path.relative_to(folder).with_name(path.stem).as_posix(): path for path in paths}


def _read_lists(root: Path) -> tuple[dict[str, str | None], list[Problem]]:
    """The split of each image that is listed, and images that are in several."""
    splits: dict[str, str | None] = {}
    problems = []
    for path in sorted((root / _LISTS).glob("*.txt")):
        split = split_of(path.stem)
        for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
            name = line.strip()
            if splits.get(name, split) != split:
                problems.append(Problem("in several splits", f"{name}: {splits[name]} and {split}"))
            elif name:
                splits[name] = split
    return splits, problems


def _draw(path: Path, labels: LabelColours, height: int, width: int) -> NDArray[np.uint8]:
    """The class codes of a mask file."""
    codes = read_painted(path, labels)
    if codes.shape != (height, width):
        came = "×".join(map(str, codes.shape))
        raise MaskError(f"{path.name} is {came}, expected {height}×{width}")
    return codes


def _draw_nothing(height: int, width: int) -> NDArray[np.uint8]:
    return np.zeros((height, width), np.uint8)


def _notes(masks: Mapping[str, Path], splits: Mapping[str, str | None]) -> Iterator[str]:
    bare = len(splits.keys() - masks.keys())
    if bare:
        yield f"{plural(bare, 'image')} without a mask: nothing was drawn, all background"
