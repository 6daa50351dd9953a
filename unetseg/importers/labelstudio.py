"""Label Studio: the JSON export of a project, or its PNG export of brushes.

The JSON is a list of tasks, each with the path or URL of its image and its annotations
(https://labelstud.io/guide/export). Of several annotations of a task the newest counts; cancelled
ones, and predictions, never do. Later regions lie above earlier ones. The classes are in the order
of their names.

Positions of regions are per cent of the image's width and height. Rectangles are turned clockwise
around their upper left corner, ellipses around their centre; a bit mask is a PNG with black pixels
on nothing. Format: https://labelstud.io/guide/task_format, and "Result parameters" in
https://labelstud.io/tags.

The PNG export, read where no JSON has annotations, has one file for each brush, called
`task-5-annotation-7-by-1-tag-Car-0.png`: the task, the annotation, who made it, the name of the
tag, the label and a number (`save_brush_images_from_annotation` of label-studio-converter). It
holds the alpha of the brush; whatever is not 0 is covered. Which image task 5 is, a JSON beside the
files tells (JSON-MIN will do), or else an image that is called `5` or `task-5`.
"""

import base64
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from pydantic import AfterValidator, AliasChoices, BaseModel, Field, ValidationError

from unetseg.data.files.folders import IMAGE_SUFFIXES
from unetseg.errors import DataError, MaskError
from unetseg.importers.annotations import (
    AnnotatedImage,
    Entry,
    Note,
    Problem,
    Shape,
    mask_pixels,
)
from unetseg.importers.brushes import decode_brush
from unetseg.importers.shapes import Patch, Size, crop, ellipse, polygon, turned_rectangle
from unetseg.importers.source_files import (
    ImageFiles,
    embedded_png,
    holding,
    name_in,
    only_one,
    read_json,
    visible_files,
)

_USUAL_KEYS = ("image", "img")
_LIST = rb"(?:\xef\xbb\xbf)?\s*\["  # after the mark with which Windows begins a text
_TASK_KEYS = (b'"annotations"', b'"completions"')  # the second in old versions
_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")  # 0a1b2c3d-my_photo.jpg
_BRUSH = re.compile(r"task-(\d+)-annotation-(\d+)-by-[^-]*-(.+)-\d+")
_AREAS = ("brush", "bitmask", "polygon", "rectangle", "ellipse")
_LABELLED = tuple(f"{area}labels" for area in _AREAS)
_ANY = "labels"  # the type of whatever has labels from a tag of its own
_POSITIONS = ({"rle"}, {"imageDataURL"}, {"points"}, {"radiusX", "radiusY"}, {"width", "height"})
"""What the value of an area holds; a key point has a width alone."""


def _packed(value: dict[str, Any]) -> dict[str, Any]:
    """The list of bytes of a brush as bytes, which need an eighth of the memory."""
    try:
        return value | {"rle": bytes(value["rle"])} if isinstance(value.get("rle"), list) else value
    except (TypeError, ValueError):
        return value  # is told when the brush is drawn


class Result(BaseModel):
    """One entry of an annotation: a region, or anything else that was asked for."""

    id: str | int | None = None
    type: str = ""
    value: Annotated[dict[str, Any], AfterValidator(_packed)] = Field(default_factory=dict)
    original_width: int | None = None
    original_height: int | None = None
    image_rotation: float | None = None


class _Value(BaseModel):
    """Where a region is; which of these there are tells what it is."""

    rle: Any = None
    bitmask: str | None = Field(None, alias="imageDataURL")
    points: list[tuple[float, float]] | None = None
    x: float = 0.0
    y: float = 0.0
    width: float | None = None
    height: float | None = None
    radius_x: float | None = Field(None, alias="radiusX")
    radius_y: float | None = Field(None, alias="radiusY")
    rotation: float | None = None

    def patch(self, size: Size) -> Patch:
        """The pixels that it covers on an image of `size` (height, width).

        Raises:
            MaskError: its numbers make no area of this image.
        """
        if self.rle is not None:
            return crop(decode_brush(self.rle, *size))
        if self.bitmask is not None:
            pixels = embedded_png(self.bitmask.partition(",")[2], size, "the bit mask")
            return crop(np.asarray(pixels.convert("RGBA"))[..., 3] > 0)
        scale_x, scale_y = size[1] / 100, size[0] / 100
        x, y, angle = self.x * scale_x, self.y * scale_y, self.rotation or 0.0
        if self.points is not None:
            return polygon([(px * scale_x, py * scale_y) for px, py in self.points], size)
        if self.radius_x is not None and self.radius_y is not None:
            radii = (self.radius_x * scale_x, self.radius_y * scale_y)
            return ellipse((x, y), radii, size, angle)
        if self.width is not None and self.height is not None:
            opposite = (x + self.width * scale_x, y + self.height * scale_y)
            return polygon(turned_rectangle((x, y), opposite, (x, y), angle), size)
        raise MaskError("it has neither a brush nor points, radii or sides")


class Annotation(BaseModel):
    """The work of one person on one task."""

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
    annotations: list[Annotation] | None = Field(
        None, validation_alias=AliasChoices("annotations", "completions")
    )

    @property
    def finished(self) -> list[Annotation]:
        """The annotations that were not cancelled, the newest last."""
        kept = [one for one in self.annotations or () if not one.was_cancelled]
        return sorted(kept, key=lambda one: one.date)


def recognises(source: Path) -> bool:
    """Whether there is a JSON of tasks with annotations, or a PNG of a brush."""
    if any(map(_holds_tasks, holding(source, "*.json"))):
        return True
    return any(_BRUSH.fullmatch(path.stem) for path in visible_files(source, "*.png"))


def _holds_tasks(path: Path) -> bool:
    """Whether a JSON is a list of tasks with annotations."""
    content = path.read_bytes()
    return bool(re.match(_LIST, content)) and any(key in content for key in _TASK_KEYS)


def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
    """Read the JSON or PNG export in the folder `source`, or the JSON file `source`.

    Raises:
        DataError: there is no export, there are several, or a JSON is something else.
    """
    full, rows = [source], []
    brushes: list[tuple[Path, re.Match[str]]] = []
    if source.is_dir():
        files = visible_files(source, "*")
        jsons = [path for path in files if path.suffix.lower() == ".json"]
        full = [path for path in jsons if _holds_tasks(path)]
        rows = [path for path in jsons if path not in full and re.match(_LIST, path.read_bytes())]
        pngs = [path for path in files if path.suffix.lower() == ".png"]
        brushes = [(path, name) for path in pngs if (name := _BRUSH.fullmatch(path.stem))]
    task_images = TaskImages(ImageFiles(source, images))
    export = only_one(full, source)
    if export is not None:
        yield Note(len(brushes), "PNG file", "not read: the JSON has the brushes")
        for task in read_json(export, list[_Task], source):
            yield from _read_task(task, task_images)
    elif brushes:
        urls = {}
        for path in rows:
            for row in read_json(path, list[dict[str, Any]], source):
                url = url_of({key: value for key, value in row.items() if key != "id"})
                if isinstance(url, str):
                    urls[str(row.get("id"))] = url
        yield from _read_brushes(brushes, urls, task_images)
    else:
        raise DataError(
            "no list of tasks with annotations found",
            [name_in(source, path) for path in rows],
            "Export the project as JSON (not JSON-MIN).",
        )


def _read_task(task: _Task, images: "TaskImages") -> Iterator[Entry]:
    """What the newest annotation of a task shows, or all that is wrong with it."""
    if not task.finished:
        yield Note(1, "task", "without a finished annotation left out")
        return
    yield Note(len(task.finished) > 1, "task", "with several annotations: the newest is taken")
    results = task.finished[-1].result
    shapes, faults = read_regions(results)
    problems = [Problem("region cannot be read", fault) for fault in faults]
    stated = {(one.original_height, one.original_width) for one in results}
    sizes = sorted((height, width) for height, width in stated if height and width)
    if len(sizes) > 1:
        shown = ", ".join(f"{height}×{width}" for height, width in sizes)
        problems.append(Problem("images of several sizes in one task", shown))
    url = url_of(task.data)
    path = images.find(url) if isinstance(url, str) else url
    if isinstance(path, Problem):
        problems.append(path)
    elif not problems:
        yield AnnotatedImage(path, images.files.name_of(path), shapes, size=next(iter(sizes), None))
        yield Note(not shapes, "annotation", "without areas: all background")
    yield from (Problem(one.kind, f"task {task.id}: {one.where}") for one in problems)
    for kind in other_types(results):
        yield Note(1, "result", f"of the type {kind} left out: no area")


# The PNG export


def _read_brushes(
    brushes: Iterable[tuple[Path, re.Match[str]]], urls: Mapping[str, str], images: "TaskImages"
) -> Iterator[Entry]:
    """Files of brushes with their names taken apart; of each task, the newest annotation counts.

    The images are those at the `urls` of the tasks that JSON-MIN exports tell.
    """
    tasks: dict[str, dict[int, list[Shape]]] = defaultdict(lambda: defaultdict(list))
    for path, name in brushes:
        task, annotation, tag = name.groups()
        shape = Shape(tag.partition("-")[2] or tag, partial(_brush_patch, path))
        tasks[task][int(annotation)].append(shape)
    for task, annotations in tasks.items():
        note = "with several annotations: the one with the highest id taken"
        yield Note(len(annotations) > 1, "task", note)
        names = [urls[task]] if task in urls else [task, f"task-{task}"]
        answers = [images.find(name) for name in names]
        image = next((answer for answer in answers if isinstance(answer, Path)), answers[0])
        if isinstance(image, Path):
            shapes = annotations[max(annotations)]
            yield AnnotatedImage(image, images.files.name_of(image), shapes, smallest_on_top=True)
        elif task in urls:
            yield image
        else:
            hint = "put the JSON export of the project beside the PNG files"
            yield Problem("no such image", f"task {task}: {hint}")


def _brush_patch(path: Path, size: Size) -> Patch:
    return crop(mask_pixels(path, *size) > 0)


# The image of a task


class TaskImages:
    """The images that tasks may name, all below one folder.

    Label Studio keeps uploaded files under a changed name (`0a1b2c3d-my_photo.jpg` for
    `my photo.jpg`), and tells paths of its own server or URLs. Images are looked up by what these
    names have in common with those of the files.

    Attributes:
        files: The images.
    """

    def __init__(self, files: ImageFiles) -> None:
        self.files = files

    def find(self, url: str) -> Path | Problem:
        """The file that `url`, a path or URL, means; or why there is none."""
        names = list(image_names(url))
        for name in names:
            path = self.files.find(name)
            if isinstance(path, Path):
                return path
        uploads = {path for name in names for path in self._uploads.get(_changed(name), ())}
        if len(uploads) > 1:
            shown = ", ".join(sorted(self.files.name_of(path) for path in uploads))
            return Problem("several files fit", f"{url}: {shown}")
        return next(iter(uploads), self.files.find(names[-1]))

    @cached_property
    def _uploads(self) -> Mapping[str, list[Path]]:
        """The files by the names that they have after an upload."""
        names: dict[str, list[Path]] = defaultdict(list)
        for path in self.files.paths:
            names[_changed(path.name)].append(path)
        return names


def url_of(data: Mapping[str, Any]) -> str | Problem:
    """The path or URL of the image among the data of a task; or why there is not one.

    >>> url_of({"image": "/data/upload/1/a.png", "text": "a cat"})
    '/data/upload/1/a.png'
    """

    def is_image(text: str) -> bool:
        suffixes = {Path(name).suffix.lower() for name in image_names(text)}
        return len(text) < 4096 and not IMAGE_SUFFIXES.isdisjoint(suffixes)

    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    urls = {key: text for key, text in texts.items() if is_image(text)}
    usual = [texts[key] for key in _USUAL_KEYS if key in texts]
    if len(urls) > 1 and not usual:
        return Problem("several images in one task", ", ".join(sorted(urls)))
    missing = Problem("no image in a task", f"its data are {sorted(data)}")
    return next(iter([*usual, *urls.values()]), missing)


def image_names(url: str) -> Iterator[str]:
    """The names that the file of a path or URL may have, the most certain first.

    >>> list(image_names("/data/upload/1/0a1b2c3d-cat.jpg"))
    ['/data/upload/1/0a1b2c3d-cat.jpg', 'cat.jpg']
    >>> list(image_names("/data/local-files/?d=set%201/cat.jpg"))
    ['set 1/cat.jpg']
    """
    try:
        parts = urlsplit(url.replace("\\", "/"))
    except ValueError:  # no URL, whatever it looks like
        yield url
        return
    query = parse_qs(parts.query)
    name = url
    if "d" in query and parts.path.startswith("/data/"):  # of local files
        name = query["d"][0]
    elif "fileuri" in query:  # of storages
        name = _decoded(query["fileuri"][0])
    elif len(parts.scheme) > 1 or parts.path.startswith("/data/"):
        name = unquote(parts.path)
    yield name
    uploaded = _UPLOADED.fullmatch(_last(name))
    if uploaded:
        yield uploaded[1]


def _decoded(uri: str) -> str:
    """The path of a URL that is written in base 64."""
    try:
        text = base64.urlsafe_b64decode(uri + "=" * (-len(uri) % 4)).decode()
        return unquote(urlsplit(text).path)
    except ValueError:
        return uri


def _changed(name: str) -> str:
    """The last part of a name as an upload changes it: Django's `get_valid_filename`."""
    return re.sub(r"[^-\w.]", "", _last(name).strip().replace(" ", "_"))


def _last(name: str) -> str:
    return re.split(r"[/\\]", name)[-1]


# Regions


def read_regions(results: Sequence[Result]) -> tuple[list[Shape], list[str]]:
    """The areas among the results of one annotation, the lowest first, and what is wrong."""
    shapes = []
    faults = []
    for result in _areas(results):
        where = f"region {result.id}"
        lists = (result.value.get(key) for key in (*_LABELLED, _ANY))
        labels = [str(name) for names in lists if isinstance(names, list) for name in names]
        try:
            value = _Value.model_validate(result.value)
        except ValidationError as error:
            fields = (".".join(map(str, fault["loc"])) for fault in error.errors())
            faults.append(f"{where} has another form than expected: {', '.join(fields)}")
            continue
        if len(labels) != 1:
            faults.append(f"{where} has {len(labels)} labels ({', '.join(labels)}), expected one")
        elif result.image_rotation:
            faults.append(f"{where} was drawn on an image turned by {result.image_rotation:g}°")
        else:
            shapes.append(Shape(labels[0], value.patch, f"{where} ({labels[0]})"))
    return shapes, faults


def other_types(results: Sequence[Result]) -> Iterator[str]:
    """The types of the results that are no areas, such as keypointlabels and choices."""
    areas = [id(result) for result in _areas(results)]
    return (r.type for r in results if r.type and r.type not in _AREAS and id(r) not in areas)


def _areas(results: Sequence[Result]) -> Iterator[Result]:
    """The regions: those with labels, and those of which no other result tells the label."""

    def is_labelled(result: Result) -> bool:
        is_area = any(keys <= result.value.keys() for keys in _POSITIONS)
        return result.type in _LABELLED or (result.type == _ANY and is_area)

    ids = {result.id for result in results if is_labelled(result)}
    for result in results:
        if is_labelled(result) or (result.type in _AREAS and result.id not in ids):
            yield result
