"""The PNG export of Label Studio: one file for each brush.

A file is called `task-5-annotation-7-by-1-tag-Car-0.png`: the task, the annotation, who made it,
the name of the tag, the label and a number (`save_brush_images_from_annotation` of
label-studio-converter). It holds the alpha of the brush; whatever is not 0 is covered. Which image
task 5 is, a JSON beside the files tells (JSON-MIN will do), or else an image that is called `5` or
`task-5`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import RootModel

from unetseg.data.masks.mask_file import read_mask
from unetseg.errors import MaskError
from unetseg.importers.annotations import (
    AnnotatedImage,
    Annotations,
    Problem,
    class_codes,
    read_model,
    without_twins,
)
from unetseg.importers.labelstudio_names import TaskImages, place_of
from unetseg.importers.shapes import Patch, crop, paint_small_on_top
from unetseg.text import plural

_BRUSH = re.compile(r"task-(\d+)-annotation-(\d+)-by-[^-]*-(.+)-\d+")
_HINT = "put the JSON export of the project beside the PNG files"

_Labelled = tuple[Path, str]  # the file of a brush, and its label


class _Rows(RootModel[list[dict[str, Any]]]):
    """The JSON-MIN export: for each task its data, its id, and results, which are not read."""


def is_brush(path: Path) -> bool:
    """Whether a file has the name of an exported brush."""
    return path.suffix.lower() == ".png" and _BRUSH.fullmatch(path.stem) is not None


def read_brushes(brushes: Sequence[Path], rows: Iterable[Path], images: TaskImages) -> Annotations:
    """Read the PNG files `brushes`; of each task, those of the annotation with the highest id.

    Args:
        brushes: Files for which `is_brush` holds.
        rows: JSON-MIN exports, which tell the images of tasks.
        images: The images.

    Raises:
        DataError: a JSON is something else.
    """
    tasks = _by_task(brushes)
    newest = {task: annotations[max(annotations)] for task, annotations in tasks.items()}
    classes, codes = class_codes(sorted({label for files in newest.values() for _, label in files}))
    places = _places(rows)
    found = []
    problems = []
    for task, files in newest.items():
        path = _image_of(task, places, images)
        if isinstance(path, Problem):
            problems.append(path)
        else:
            draw = partial(_draw, [(brush, codes[label]) for brush, label in files])
            found.append(AnnotatedImage(path, images.name_of(path), draw))
    single, twins = without_twins(found)
    several = sum(len(annotations) > 1 for annotations in tasks.values())
    note = f"{plural(several, 'task')} with several annotations: the one with the highest id taken"
    return Annotations(classes, single, (*problems, *twins), (note,) if several else ())


def _by_task(brushes: Iterable[Path]) -> dict[str, dict[int, list[_Labelled]]]:
    """The files of each task and annotation, with their labels."""
    tasks: dict[str, dict[int, list[_Labelled]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(brushes):
        parts = _BRUSH.fullmatch(path.stem)
        if parts:
            label = parts[3].partition("-")[2] or parts[3]
            tasks[parts[1]][int(parts[2])].append((path, label))
    return tasks


def _places(rows: Iterable[Path]) -> dict[str, str]:
    """The place of the image of each task."""
    found = {}
    for path in rows:
        for row in read_model(path, _Rows).root:
            place = place_of({key: value for key, value in row.items() if key != "id"})
            if isinstance(place, str):
                found[str(row.get("id"))] = place
    return found


def _image_of(task: str, places: Mapping[str, str], images: TaskImages) -> Path | Problem:
    """The image of a task: what a JSON says, or else the one that has its number for a name."""
    if task in places:
        return images.find(places[task])
    found = (images.find(name) for name in (task, f"task-{task}"))
    paths = (path for path in found if isinstance(path, Path))
    return next(paths, Problem("no such image", f"task {task}: {_HINT}"))


def _draw(layers: Sequence[tuple[Path, int]], height: int, width: int) -> NDArray[np.uint8]:
    """The codes of an image; the files do not tell an order, so small areas lie above large ones.

    Raises:
        MaskError: files that cannot be read or have another size, all of them.
    """
    patches: list[tuple[int, Patch]] = []
    faults = []
    for path, code in layers:
        try:
            pixels = read_mask(path).pixels
        except MaskError as error:
            faults.append(error.summary)
            continue
        if pixels.shape == (height, width):
            patches.append((code, crop(pixels > 0)))
        else:
            came = "×".join(map(str, pixels.shape))
            faults.append(f"{path.name} is {came}, expected {height}×{width}")
    if faults:
        raise MaskError("brushes do not fit", faults)
    return paint_small_on_top(patches, (height, width))
