"""Label Studio's machine-learning backend: labels come pre-drawn, corrections come back as pairs.

What Label Studio asks of a backend: GET health, POST setup {schema}, POST predict {tasks,
label_config} → {results: [{result, score, model_version}]}, POST webhook {action, annotation, task}
(https://labelstud.io/guide/ml_create, https://labelstud.io/guide/webhook_reference). Images are
found by name below one folder, never fetched. Each class becomes one brush, called like its label.
"""

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from unetseg.data.files.image import ImageFile
from unetseg.data.masks.class_map import IGNORED, ClassMap, write_mask
from unetseg.errors import ImageError, MaskError
from unetseg.importers.annotations import Problem, draw_shapes
from unetseg.importers.brushes import encode_brush
from unetseg.importers.labelstudio import Annotation, TaskImages, read_regions, url_of
from unetseg.importers.source_files import ImageFiles
from unetseg.prediction.bands import OneBand
from unetseg.prediction.review import doubt_of
from unetseg.prediction.stream import Band
from unetseg.serving.door import Refusal
from unetseg.serving.service import Service
from unetseg.storage import atomic_path

CORRECTED = {"ANNOTATION_CREATED", "ANNOTATION_UPDATED"}
MOST_TASKS = 64
"""Of one request; Label Studio sends one, or some, at a time."""
Json = dict[str, Any]


class Brushes(NamedTuple):
    """The brush of a labelling setup, and the class of each of its labels."""

    from_name: str
    to_name: str
    classes: Mapping[str, int]


class Setup(BaseModel):
    """What is asked when the backend is connected."""

    schema_: str = Field("", alias="schema")


class Tasks(BaseModel):
    """Images that predictions are wanted of."""

    tasks: list[Json] = Field(max_length=MOST_TASKS)
    label_config: str


class Event(BaseModel):
    """What Label Studio tells of annotations."""

    action: str
    annotation: Annotation | None = None
    task: Json = {}


def label_studio_router(service: Service, files: Path, pairs: Path | None) -> APIRouter:
    """The backend at /label-studio.

    Args:
        service: The model.
        files: The folder below which the images lie that tasks name.
        pairs: Folder for corrected pairs; None: they are not kept.
    """
    router = APIRouter(prefix="/label-studio")
    info = service.predictor.info
    version = f"{service.name}-{info.weights_sha256[:8]}" if info.weights_sha256 else service.name

    @router.get("/health", summary="Label Studio: whether the backend is there")
    async def health() -> Json:
        return {"status": "UP", "model_class": "unetseg"}

    @router.post("/setup", summary="Label Studio: connects")
    async def setup(asked: Setup) -> Json:
        if asked.schema_:
            brushes_of(asked.schema_, info.class_map)
        return {"model_version": version}

    @router.post("/predict", summary="Label Studio: brushes for tasks")
    async def predict(request: Request, asked: Tasks) -> Json:
        brushes = brushes_of(asked.label_config, info.class_map)
        paths = await service.thread(images_of, asked.tasks, files)
        works = [partial(service.file_band, path) for path in paths]
        bands = await service.answers(request, works)
        drawn = [await service.thread(drawn_by, band, brushes, info.class_map) for band in bands]
        return {"results": [{**one, "model_version": version} for one in drawn]}

    @router.post("/webhook", summary="Label Studio: tells of an annotation", status_code=201)
    async def webhook(event: Event) -> Json:
        is_finished = event.annotation and not event.annotation.was_cancelled
        if pairs is None or event.action not in CORRECTED or not is_finished:
            return {"kept": None}
        kept = await service.thread(keep_pair, event, files, pairs, info.class_map)
        return {"kept": kept}

    return router


def brushes_of(label_config: str, class_map: ClassMap) -> Brushes:
    """The brush of a labelling setup, whose labels are names of classes, in any case.

    Raises:
        Refusal: there is none, or a label is no class.
    """
    try:
        if "<!DOCTYPE" in label_config:
            raise ValueError("it declares a document type")
        root = ElementTree.fromstring(label_config)
    except (ElementTree.ParseError, ValueError) as error:
        raise Refusal(422, f"the labelling setup is no XML: {error}") from error
    listed = "".join(f'<Label value="{name}"/>' for name in class_map.names)
    fix = f'It needs <BrushLabels name="tag" toName="image">{listed}</BrushLabels>'
    tag = root.find(".//BrushLabels")
    if tag is None:
        raise Refusal(422, "the labelling setup has no BrushLabels", fix)
    labels = [label.get("value", "") for label in tag.iter("Label")]
    found = {label: index_of(label, class_map) for label in labels}
    classes = {label: index for label, index in found.items() if index is not None}
    strange = [label for label in found if label not in classes]
    if strange or not labels:
        told = f"the model knows no class {', '.join(strange)}" if strange else "there is no Label"
        raise Refusal(422, told, fix)
    return Brushes(tag.get("name", ""), tag.get("toName", ""), classes)


def index_of(label: str, class_map: ClassMap) -> int | None:
    """The class that a label names, in these letters or, where none is, in any case."""
    names = class_map.names
    alike = [name for name in names if name.lower() == label.lower()]
    return names.index(label if label in names else alike[0]) if alike else None


def images_of(tasks: Sequence[Json], files: Path) -> list[Path]:
    """The image file of each task.

    Raises:
        Refusal: tasks without one, all listed.
    """
    images = TaskImages(ImageFiles(files))
    urls = [url_of(task.get("data") or {}) for task in tasks]
    found = [images.find(url) if isinstance(url, str) else url for url in urls]
    problems = [str(one) for one in found if isinstance(one, Problem)]
    if problems:
        fix = "Put the images below the folder of --label-studio-files, under their own names."
        raise Refusal(422, "\n".join(problems), fix)
    return [one for one in found if isinstance(one, Path)]


def drawn_by(band: Band, brushes: Brushes, class_map: ClassMap) -> Json:
    """The brushes of one image, and how sure they are, 0–1."""
    height, width = band.index.shape
    result = [
        {
            "id": f"class-{index}",
            "from_name": brushes.from_name,
            "to_name": brushes.to_name,
            "type": "brushlabels",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": encode_brush(covered), "brushlabels": [label]},
        }
        for label, index in brushes.classes.items()
        if (covered := band.index == index).any()
    ]
    doubt = doubt_of(OneBand(band), [(0, height)], class_map)
    return {"result": result, "score": round(1 - doubt.score, 4)}


def keep_pair(event: Event, files: Path, pairs: Path, class_map: ClassMap) -> str:
    """Write an annotated image and its mask, in the coding of the training; the newest counts.

    Where nothing is drawn, there is background; without such a class, nothing is known.

    Returns:
        The mask, below `pairs`.

    Raises:
        DataError: a region cannot be drawn on this image, or pixels without a label have no code.
        MachineError: a file cannot be written.
    """
    assert event.annotation
    (image,) = images_of([event.task], files)
    with ImageFile(image) as file:
        height, width = file.shape[:2]
    results = event.annotation.result
    stated = {(one.original_height, one.original_width) for one in results}
    if stated - {(height, width), (None, None)}:
        raise ImageError(f"{image.name} has {width}×{height} pixels, the annotation another size")
    shapes, faults = read_regions(results)
    indexes = {str(one.label): index_of(str(one.label), class_map) for one in shapes}
    faults += [f"{one.name} is no class" for one in shapes if indexes[str(one.label)] is None]
    if faults:
        raise MaskError(f"the annotation of {image.name} cannot be drawn", faults)
    # 0 is where nothing is drawn
    codes = {label: index + 1 for label, index in indexes.items() if index is not None}
    drawn = draw_shapes(shapes, codes, height, width)
    rest = IGNORED if class_map.background is None else class_map.background
    index = np.where(drawn == 0, np.uint8(rest), drawn - 1)
    if not class_map.ignore and (index == IGNORED).any():
        raise MaskError(
            f"{image.name} has pixels without a label, and the model knows no background",
            fix="Label every pixel.",
        )
    place = image.relative_to(files)
    mask = (pairs / "masks" / place).with_suffix(class_map.suffix)
    kept = pairs / "images" / place
    refuse_twins(kept)
    with atomic_path(kept) as temporary:
        shutil.copyfile(image, temporary)
    with atomic_path(mask) as temporary:
        write_mask(temporary, index, class_map)
    return mask.relative_to(pairs).as_posix()


def refuse_twins(image: Path) -> None:
    """Refuse an image beside one that has its name but for the end: they would share a mask.

    Raises:
        MaskError: there is such a one.
    """
    beside = image.parent.iterdir() if image.parent.is_dir() else ()
    if twins := [one.name for one in beside if one.stem == image.stem and one != image]:
        told = f"{image.name} would share its mask with {', '.join(twins)}"
        raise MaskError(told, fix="Give the images names that differ in more than their ends.")
