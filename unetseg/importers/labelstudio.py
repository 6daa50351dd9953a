"""Label Studio: the JSON export of a project, or its PNG export of brushes.

The JSON is a list of tasks, each with the place of its image and its annotations
(https://labelstud.io/guide/export). Of several annotations of a task the newest counts; cancelled
ones, and predictions, never do. Later regions lie above earlier ones. The classes are in the order
of their names. The PNG export is read by `labelstudio_png`, where no JSON has annotations.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, Field, RootModel

from unetseg.errors import DataError, MaskError
from unetseg.importers.annotations import (
    AnnotatedImage,
    Annotations,
    Problem,
    class_codes,
    read_model,
    visible_files,
    without_twins,
)
from unetseg.importers.image_files import ImageFiles
from unetseg.importers.labelstudio_names import TaskImages, place_of
from unetseg.importers.labelstudio_png import is_brush, read_brushes
from unetseg.importers.labelstudio_regions import (
    Region,
    Result,
    other_types,
    read_regions,
    stated_sizes,
)
from unetseg.importers.shapes import Patch, Size, paint_in_order
from unetseg.text import plural, printable

_LIST = rb"(?:\xef\xbb\xbf)?\s*\["  # after the mark with which Windows begins a text
_TASKS = _LIST + rb'(?s:.*?)"(?:annotations|completions)"'


class _Annotation(BaseModel):
    id: int | str | None = None
    result: list[Result] = Field(default_factory=list)
    was_cancelled: bool | None = None
    created_at: str | None = None
    updated_at: str | None = None

    @property
    def date(self) -> tuple[str, int]:
        """What is larger for newer annotations."""
        return self.updated_at or self.created_at or "", self.id if isinstance(self.id, int) else 0


class _Task(BaseModel):
    id: int | str | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    annotations: list[_Annotation] | None = Field(
        None, validation_alias=AliasChoices("annotations", "completions")
    )

    @property
    def finished(self) -> list[_Annotation]:
        """The annotations that were not cancelled, the newest last."""
        kept = [one for one in self.annotations or () if not one.was_cancelled]
        return sorted(kept, key=lambda one: one.date)


class _Tasks(RootModel[list[_Task]]):
    """The JSON export."""


@dataclass(frozen=True)
class _Drawing:
    """What the newest annotation of a task shows."""

    path: Path
    regions: tuple[Region, ...]
    size: Size | None


def read(source: Path, images: Path | None = None) -> Annotations:
    """Read the JSON or PNG export in the folder `source`, or the JSON file `source`.

    Args:
        source: The export.
        images: The folder of the images, where they do not lie beside the export.

    Raises:
        DataError: there is no export, there are several, or a JSON is something else.
    """
    full, rows, brushes = _exports(source)
    task_images = TaskImages(ImageFiles(source, images))
    if len(full) > 1:
        raise DataError(f"{printable(source)} holds several exports", full, "Give one of them.")
    if full:
        return _read_tasks(read_model(full[0], _Tasks).root, task_images, len(brushes))
    if brushes:
        return read_brushes(brushes, rows, task_images)
    raise DataError(
        f"{printable(source)} holds no list of tasks with annotations",
        rows,
        "Export the project as JSON (not JSON-MIN).",
    )


def _exports(source: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """The JSON exports, other lists such as JSON-MIN exports, and the PNG files of brushes."""
    if source.is_file():
        return [source], [], []
    files = visible_files(source, "*")
    jsons = [path for path in files if path.suffix.lower() == ".json"]
    full = [path for path in jsons if re.match(_TASKS, path.read_bytes())]
    rows = [path for path in jsons if path not in full and re.match(_LIST, path.read_bytes())]
    return full, rows, [path for path in files if is_brush(path)]


def _read_tasks(tasks: Sequence[_Task], images: TaskImages, brushes: int) -> Annotations:
    """Read tasks with their annotations."""
    drawings: list[_Drawing] = []
    problems: list[Problem] = []
    for task in tasks:
        if task.finished:
            drawing, faults = _read_task(task, task.finished[-1].result, images)
            drawings += [drawing] if drawing else []
            problems += faults
    names = sorted({region.label for drawing in drawings for region in drawing.regions})
    classes, codes = class_codes(names)
    found, twins = without_twins(
        [
            AnnotatedImage(
                one.path,
                images.name_of(one.path),
                partial(_draw, one.regions, codes),
                size=one.size,
            )
            for one in drawings
        ]
    )
    notes = [*_notes(tasks, drawings)]
    notes += (
        [f"{plural(brushes, 'PNG file')} not read: the JSON has the brushes"] if brushes else []
    )
    return Annotations(classes, found, (*problems, *twins), tuple(notes))


def _read_task(
    task: _Task, results: Sequence[Result], images: TaskImages
) -> tuple[_Drawing | None, list[Problem]]:
    """What a task shows, if nothing is wrong with it; and what is."""
    regions, faults = read_regions(results)
    problems = [Problem("region cannot be read", fault) for fault in faults]
    sizes = sorted(stated_sizes(results))
    if len(sizes) > 1:
        shown = ", ".join(f"{height}×{width}" for height, width in sizes)
        problems.append(Problem("images of several sizes in one task", shown))
    place = place_of(task.data)
    path = images.find(place) if isinstance(place, str) else place
    if isinstance(path, Problem):
        problems.append(path)
    elif not problems:
        return _Drawing(path, tuple(regions), sizes[0] if sizes else None), []
    return None, [Problem(one.kind, f"task {task.id}: {one.where}") for one in problems]


def _draw(
    regions: Sequence[Region], codes: Mapping[str, int], height: int, width: int
) -> NDArray[np.uint8]:
    """The codes of an image.

    Raises:
        MaskError: regions that cannot be drawn, all of them.
    """
    layers: list[tuple[int, Patch]] = []
    faults = []
    for region in regions:
        try:
            layers.append((codes[region.label], region.patch((height, width))))
        except MaskError as error:
            faults.append(error.summary)
    if faults:
        raise MaskError("regions cannot be drawn", faults)
    return paint_in_order(layers, (height, width))


def _notes(tasks: Sequence[_Task], drawings: Sequence[_Drawing]) -> Iterator[str]:
    """What was left out and chosen."""
    newest = [task.finished[-1] for task in tasks if task.finished]
    if len(newest) < len(tasks):
        yield f"{plural(len(tasks) - len(newest), 'task')} without a finished annotation left out"
    several = sum(len(task.finished) > 1 for task in tasks)
    if several:
        yield f"{plural(several, 'task')} with several annotations: the newest is taken"
    bare = sum(not drawing.regions for drawing in drawings)
    if bare:
        yield f"{plural(bare, 'annotation')} without areas: all background"
    for kind, count in Counter(k for one in newest for k in other_types(one.result)).items():
        yield f"{plural(count, 'result')} of the type {kind} left out: no area"
