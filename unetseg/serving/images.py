"""The app's images and their masks: shown at every scale, drawn on, dropped in, taken away."""

import gzip
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal
from zipfile import ZipFile

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask

from unetseg.data.files.folders import IMAGE_SUFFIXES, output_names
from unetseg.data.files.image import ImageFile
from unetseg.data.files.pages import MaskPath, MaskSet, file_of
from unetseg.data.files.pngs import png_bytes
from unetseg.data.files.rasters import raster_driver
from unetseg.data.files.vrts import first_bytes
from unetseg.data.files.windows import Window
from unetseg.data.pairs.content import size_of
from unetseg.serving.door import Refusal
from unetseg.serving.drawing import read_index, save_mask
from unetseg.serving.folder import Entry
from unetseg.serving.pictures import (
    TILE,
    Pyramid,
    image_pyramid,
    jpeg_bytes,
    kept,
    state_of,
    thumbnail,
)
from unetseg.serving.studio import Studio, told_image, told_prediction

WHOLE = 16 * 10**6
"""Pixels of a mask that is sent at once."""
WINDOW = 2048
"""Pixels, side of the windows in which larger masks are sent."""
MOST_UPLOADS = 200
BYTES = "application/octet-stream"
Of = Literal["own", "predicted"]


class Asked(BaseModel):
    """Which mask, as it was when, and which window of it."""

    of: Of = "own"
    revision: str = ""
    x: int = Field(0, ge=0)
    y: int = Field(0, ge=0)
    width: int | None = Field(None, ge=1)
    height: int | None = Field(None, ge=1)

    def within(self, size: tuple[int, int]) -> Window:
        """The window, or the whole where none is asked for.

        Raises:
            Refusal: it is too large, or does not lie inside.
        """
        rows, columns = self.height or size[0] - self.y, self.width or size[1] - self.x
        if min(rows, columns) < 1 or self.y + rows > size[0] or self.x + columns > size[1]:
            raise Refusal(422, f"the window does not lie in {size[1]}×{size[0]} pixels")
        if rows * columns > WHOLE:
            told = f"{columns}×{rows} pixels are too many at once"
            raise Refusal(413, told, f"Ask for windows of at most {WINDOW}×{WINDOW}.")
        return Window(self.y, self.x, rows, columns)


def image_routes(router: APIRouter, studio: Studio) -> None:
    """The images, at every scale."""

    @router.get("/api/images")
    def images() -> list[dict[str, Any]]:
        folder = studio.opened
        predicted, model = studio.learner.predictions(), studio.learner.model()
        since = (model.run / "env.json").stat().st_mtime_ns if model else 0
        return [
            told_image(folder, entry, since)
            | told_prediction(studio, entry, predicted.get(entry.id))
            for entry in folder.entries.values()
        ]

    @router.get("/api/images/{key}/thumbnail.jpg")
    def small(key: str, of: Literal["", "own", "predicted"] = "") -> Response:
        entry = studio.entry(key)
        opened, classes = studio.mask_of(entry, of), studio.opened.classes
        made = opened.args if opened else ()
        states = state_of(entry.image), made, state_of(made[0]) if made else ()

        def make() -> bytes:
            mask = opened() if opened else None
            return jpeg_bytes(thumbnail(image_pyramid(entry.image), mask, classes))

        return Response(kept(("thumbnail", entry.image, states), make), media_type="image/jpeg")

    @router.get("/api/images/{key}/info")
    def info(key: str) -> dict[str, Any]:
        entry = studio.entry(key)
        with ImageFile(entry.image) as file:
            height, width = file.size
        return {
            "width": width,
            "height": height,
            "tile": TILE,
            "levels": image_pyramid(entry.image).levels,
            "large": height * width > WHOLE,
            "window": WINDOW,
            "revision": entry.revision,
            "mask": studio.opened.origin(entry),
        }

    @router.get("/api/images/{key}/tiles/{level}/{column}/{row}.jpg")
    def tile(request: Request, key: str, level: int, column: int, row: int) -> Response:
        path = studio.entry(key).image
        state = state_of(path)
        headers = {"cache-control": "private, no-cache", "etag": f'"{key}-{state}"'}
        if state and request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)

        def make() -> bytes:
            return jpeg_bytes(cut_tile(image_pyramid(path), level, column, row))

        content = kept((path, state, level, column, row), make)
        return Response(content, media_type="image/jpeg", headers=headers)


def mask_routes(router: APIRouter, studio: Studio) -> None:
    """Masks as class indexes, out and in."""

    def pyramid(key: str, of: str) -> Pyramid:
        entry = studio.entry(key)
        opened = studio.mask_of(entry, of)
        if opened is None:
            raise Refusal(404, f"{entry.name} has no such mask")
        return opened()

    @router.get("/api/images/{key}/mask.png")
    def mask(request: Request, key: str, asked: Annotated[Asked, Query()]) -> Response:
        there = pyramid(key, asked.of)
        index = there.window(0, *asked.within(there.size))
        return index_answer(index, as_bytes=request.headers.get("accept") == BYTES)

    @router.get("/api/images/{key}/mask_tiles/{level}/{column}/{row}.png")
    def mask_tile(key: str, level: int, column: int, row: int, of: Of = "own") -> Response:
        content = png_bytes(cut_tile(pyramid(key, of), level, column, row))
        return Response(content, media_type="image/png")

    @router.put("/api/images/{key}/mask.png")
    def put(
        request: Request,
        key: str,
        asked: Annotated[Asked, Query()],
        body: Annotated[bytes, Depends(whole_body)],
    ) -> dict[str, Any]:
        with studio.writing(request) as folder:
            entry = unchanged(studio.entry(key), asked.revision)
            if entry.uploaded or folder.classes is None:
                raise Refusal(422, f"{entry.name} is here to look at only")
            window = asked.within(entry.size)
            index = read_index(body, folder.classes, window[2:])
            entry = save_mask(folder, entry, index, window)
            studio.events.tell("changed", id=key)
            return {"revision": entry.revision, "mask": folder.origin(entry)}

    @router.delete("/api/images/{key}/mask")
    def delete(request: Request, key: str, revision: str = "") -> dict[str, Any]:
        with studio.writing(request) as folder:
            folder.remove_mask(unchanged(studio.entry(key), revision))
            studio.events.tell("changed", id=key)
            entry = studio.entry(key)
            return {"revision": entry.revision, "mask": folder.origin(entry)}


def file_routes(router: APIRouter, studio: Studio) -> None:
    """Masks to take away, images to look at."""

    @router.get("/api/masks.zip")
    def masks(of: Of = "own") -> Response:
        folder, predicted = studio.opened, studio.learner.predictions()
        file = Path(studio.uploads.name) / f"{secrets.token_hex(8)}.zip"
        entries = folder.entries.values()
        places = [one.image for one in entries if not one.uploaded]
        couples = [(p, folder.root if folder.root in p.parents else p.parent) for p in places]
        names = dict(output_names(couples))
        with whole_or_gone(file), ZipFile(file, "w", strict_timestamps=False) as archive:
            for entry in entries:
                made = predicted[entry.id].mask if entry.id in predicted else None
                name = names.get(entry.image, Path("uploads", entry.id, Path(entry.name).stem))
                for path, place in archived(entry.mask if of == "own" else made, name):
                    if path.is_file():
                        archive.write(path, as_text(f"{place.as_posix()}{path.suffix}"))
        called = as_text(f"{folder.root.name}-masks.zip")
        return FileResponse(file, filename=called, background=BackgroundTask(file.unlink))

    @router.post("/api/uploads")
    def uploads(request: Request, files: list[UploadFile]) -> list[dict[str, Any]]:
        with studio.writing(request) as folder:
            there = sum(entry.uploaded for entry in folder.entries.values())
            if there + len(files) > MOST_UPLOADS:
                told = f"at most {MOST_UPLOADS} images are looked at"
                raise Refusal(413, told, "Put them in a folder, and open that.")
            entries = all_uploaded(files, Path(studio.uploads.name))
            # a new dict: others may be reading the one that was
            folder.entries = folder.entries | {entry.id: entry for entry in entries}
            with suppress(Refusal):  # no U-Net yet, or one that is at work
                studio.learner.predict(entries)
            return [told_image(folder, entry, 0) for entry in entries]


@contextmanager
def whole_or_gone(file: Path) -> Iterator[None]:
    """Take a file away that cannot be written to its end: on a full disk it would stay there."""
    try:
        yield
    except OSError:
        file.unlink(missing_ok=True)
        raise


def index_answer(index: NDArray[np.uint8], *, as_bytes: bool) -> Response:
    """Class indexes as a PNG, or row by row: what a browser reads from a picture may be changed."""
    if not as_bytes:
        return Response(png_bytes(index), media_type="image/png")
    packed = {"content-encoding": "gzip"}
    return Response(gzip.compress(index.tobytes(), 1), media_type=BYTES, headers=packed)


def archived(mask: MaskPath | None, name: Path) -> list[tuple[Path, Path]]:
    """The files of a mask, each with its name in an archive; several are in a folder there."""
    if isinstance(mask, MaskSet):
        couples = output_names([(path, path.parent) for path in mask.paths])
        return [(path, name / inner) for path, inner in couples]
    return [(file_of(mask), name)] if mask else []


def as_text(name: str) -> str:
    """A name as archives and headers hold it: names of files need not be text."""
    return os.fsencode(name).decode(errors="replace")


def all_uploaded(files: Iterable[UploadFile], folder: Path) -> list[Entry]:
    """As `uploaded`; where one of them is no image, or the disk is full, none is kept."""
    entries = list[Entry]()
    try:
        for file in files:
            entries.append(uploaded(file, folder))
    except (Refusal, OSError):
        for entry in entries:
            entry.image.unlink()
        raise
    return entries


def uploaded(file: UploadFile, folder: Path) -> Entry:
    """An image that was sent, kept under a name of our own.

    Raises:
        Refusal: it is no image.
    """
    name = Path(file.filename or "image").name
    if (suffix := Path(name).suffix.lower()) not in IMAGE_SUFFIXES:
        raise Refusal(415, f"{name} is no image that is read")
    key = f"u{secrets.token_hex(8)}"
    path = folder / f"{key}{suffix}"
    with whole_or_gone(path), path.open("wb") as copy:
        shutil.copyfileobj(file.file, copy)
    if raster_driver(path, first_bytes(path)) or not (size := size_of(path)):
        path.unlink()  # a VRT names other files, which are not this browser's
        raise Refusal(415, f"{name} is no image that is read")
    return Entry(key, path, name, size=size, uploaded=True)


async def whole_body(request: Request) -> bytes:
    """What a request brings."""
    return await request.body()


def unchanged(entry: Entry, revision: str) -> Entry:
    """The image, if its mask is still the one that was looked at.

    Raises:
        Refusal: somebody wrote since.
    """
    if revision != entry.revision:
        told = f"the mask of {entry.name} was changed by somebody else since it was opened"
        raise Refusal(409, told, "Load it again, and draw once more.")
    return entry


def cut_tile(pyramid: Pyramid, level: int, column: int, row: int) -> Any:
    """The pixels of a tile.

    Raises:
        Refusal: there is no such tile.
    """
    pixels = pyramid.tile(level, column, row)
    if pixels is None:
        raise Refusal(404, "there is no such tile")
    return pixels
