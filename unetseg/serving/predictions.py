"""POST /predict: an image file in, its mask and whatever else `unetseg predict` writes out."""

import io
import json
import re
import shutil
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile

from unetseg.config import PredictConfig
from unetseg.prediction.outputs import Job
from unetseg.serving.door import Refusal
from unetseg.serving.service import Service
from unetseg.storage import read_csv

Want = Literal["mask", "overlay", "probabilities", "objects", "polygons"]
TYPES = {".png": "image/png", ".tif": "image/tiff", ".geojson": "application/geo+json"}
ACCEPTED: dict[str, Want] = {"application/json": "objects", "application/geo+json": "polygons"}
"""What a header Accept asks for, where no `want` does."""
MOST_FILES = 16
"""Of one request."""
LONGEST = 100
"""Bytes of a file's name: file systems take 255, and outputs have longer ends."""
NO_IMAGE = ("application/json", "application/x-www-form-urlencoded")
FIX = "curl --data-binary @a.png -H 'Content-Type: image/png' …/predict, or -F file=@a.png"


def predictions_router(service: Service) -> APIRouter:
    """POST /predict of one model."""
    router = APIRouter(lifespan=service.lifespan)

    @router.get("/health", summary="Whether the server is there")
    async def health() -> dict[str, str]:
        return {"status": "UP"}

    @router.post(
        "/predict",
        summary="The mask of an image",
        response_class=Response,
        openapi_extra={"requestBody": {"content": _BODIES, "required": True}},
    )
    async def predict(
        request: Request, want: Annotated[list[Want] | None, Query()] = None
    ) -> Response:
        """Send an image as the body, or up to 16 as files of a form.

        The mask has the coding of the training masks. Several wants, or files, give a ZIP.
        """
        wants = want or [ACCEPTED.get(request.headers.get("accept", ""), "mask")]
        flags = {name: True for name in wants if name != "mask"}
        config = PredictConfig.model_validate(flags)
        with service.folder() as folder:
            images = await received(request, Path(folder), service)
            works = [partial(service.files, image, config) for image in images]
            done = await service.answers(request, works)
            jobs = [job for job, _ in done]
            is_one = len(jobs) == len(wants) == 1
            make = partial(alone, jobs[0], wants[0]) if is_one else partial(zipped, jobs, config)
            response = await service.thread(make)
        strange = "; ".join(filter(None, (told for _, told in done)))
        if strange:
            response.headers["x-unetseg-warning"] = strange.encode("ascii", "replace").decode()
        return response

    return router


_FILE = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"type": "object", "properties": {"file": {"type": "array", "items": _FILE["schema"]}}}
_BODIES = {"image/*": _FILE, "multipart/form-data": {"schema": _FORM}}


async def received(request: Request, folder: Path, service: Service) -> list[Path]:
    """The images of a request as files, each in a folder of its own below `folder`.

    Raises:
        Refusal: there is none, or something else.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in NO_IMAGE:
        raise Refusal(415, f"the body is {kind}, expected an image", FIX)
    if kind != "multipart/form-data":
        path = _place(folder, 0, "image")
        with path.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        if not path.stat().st_size:
            raise Refusal(422, "the body is empty, expected an image", FIX)
        return [path]
    paths = []
    async with request.form(max_files=MOST_FILES, max_fields=MOST_FILES) as form:
        for number, (_, upload) in enumerate(form.multi_items()):
            if isinstance(upload, UploadFile):
                path = _place(folder, number, upload.filename or "image")
                paths.append(path)
                await service.thread(_copy, upload, path)
    if not paths:
        raise Refusal(422, "the form holds no file, expected an image", FIX)
    return paths


def _place(folder: Path, number: int, name: str) -> Path:
    """Where a file is kept: its own name, as far as it is one, in a folder of its own."""
    last = re.split(r"[/\\]", name)[-1]
    safe = re.sub(r"[^\w.+ -]", "_", last).lstrip(". ")
    safe = safe.encode()[-LONGEST:].decode(errors="ignore") or "image"
    (folder / str(number)).mkdir()
    return folder / str(number) / safe


def _copy(upload: UploadFile, path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(upload.file, file)


def alone(job: Job, want: Want) -> Response:
    """The one file that is wanted of one image; objects as JSON."""
    if want == "objects":
        rows = objects_of(job)
        return JSONResponse({"count": len(rows), "objects": rows})
    path = job.mask if want == "mask" else job.beside[want][0]
    return Response(path.read_bytes(), media_type=TYPES[path.suffix])


def objects_of(job: Job) -> list[dict[str, object]]:
    """The rows of the table of objects."""
    return [
        {name: value if name == "class" else json.loads(value) for name, value in row.items()}
        for row in read_csv(job.objects)
    ]


def zipped(jobs: Sequence[Job], config: PredictConfig) -> Response:
    """All files of some images, called as `unetseg predict` calls them.

    Where one of another image is called so, those of the later image begin with its number.
    """
    content = io.BytesIO()
    names = set[str]()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for number, job in enumerate(jobs):
            files, begin = job.files(config), ""
            while names.intersection(begin + path.name for path in files):
                begin += f"{number}_"
            for path in files:
                names.add(begin + path.name)
                archive.write(path, begin + path.name)
    return Response(content.getvalue(), media_type="application/zip")
