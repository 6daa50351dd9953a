"""The app in the browser: what its page asks for, under /app/api, and the page itself.

A folder is opened by one server alone, and drawn in by one browser at a time; others look. Handlers
run in threads, long work in processes of its own (learning.py).
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from fastapi.responses import FileResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from unetseg.data.files.folders import find_images, is_hidden
from unetseg.data.files.image import ImageFile
from unetseg.data.files.pages import MaskPath
from unetseg.data.files.pngs import png_bytes
from unetseg.data.masks.class_map import ClassMap
from unetseg.errors import ImageError
from unetseg.serving.drawing import read_index, save_mask
from unetseg.serving.folder import Entry, Folder
from unetseg.serving.pictures import (
    TILE,
    Pyramid,
    forget,
    image_pyramid,
    jpeg_bytes,
    kept,
    mask_pyramid,
    state_of,
    thumbnail,
)
from unetseg.serving.server import Refusal

PAGE = Path(__file__).with_name("page")
COOKIE = "unetseg_browser"
PATIENCE = 60.0
"""Seconds without a word of the browser that draws, after which another may."""
WHOLE = 16 * 10**6
"""Pixels of a mask that is sent at once."""
WINDOW = 2048
"""Pixels, side of the windows in which larger masks are sent."""
MOST_FOLDERS = 500
Of = Literal["own", "predicted"]


class NewClass(BaseModel):
    """A class as the page names it."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(max_length=100)
    colour: tuple[
        Annotated[int, Field(ge=0, le=255)],
        Annotated[int, Field(ge=0, le=255)],
        Annotated[int, Field(ge=0, le=255)],
    ]


class Asked(BaseModel):
    """Which mask, as it was when, and which window of it."""

    of: Of = "own"
    revision: str = ""
    x: int = Field(0, ge=0)
    y: int = Field(0, ge=0)
    width: int | None = Field(None, ge=1)
    height: int | None = Field(None, ge=1)

    def within(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Top, left, height and width of the window; of the whole where none is asked for.

        Raises:
            Refusal: it is too large, or does not lie inside.
        """
        rows, columns = self.height or size[0] - self.y, self.width or size[1] - self.x
        if min(rows, columns) < 1 or self.y + rows > size[0] or self.x + columns > size[1]:
            raise Refusal(422, f"the window does not lie in {size[1]}×{size[0]} pixels")
        if rows * columns > WHOLE:
            told = f"{columns}×{rows} pixels are too many at once"
            raise Refusal(413, told, f"Ask for windows of at most {WINDOW}×{WINDOW}.")
        return self.y, self.x, rows, columns


class Studio:
    """The folder that is open, and who draws in it.

    Args:
        root: The folder that all are below that may be opened.
        folder: The one to begin with.
    """

    def __init__(self, root: Path, folder: Path | None = None) -> None:
        self.root = root.resolve()
        self.lock = RLock()
        self.folder: Folder | None = None
        self._writer, self._seen = "", 0.0
        if folder is not None:
            self.open(folder)

    def open(self, path: Path) -> Folder:
        """Open another folder in the place of the one that is open."""
        with self.lock:
            if self.folder is not None:
                self.folder.close()
                self.folder = None
            self.folder = Folder(path)
            return self.folder

    def close(self) -> None:
        """End all work, and let others write."""
        if self.folder is not None:
            self.folder.close()
        forget()

    def inside(self, relative: str) -> Path:
        """A folder below the root.

        Raises:
            Refusal: there is none.
        """
        path = (self.root / relative).resolve()
        if not path.is_relative_to(self.root) or not path.is_dir():
            raise Refusal(404, f"there is no folder {relative!r} here")
        return path

    @property
    def opened(self) -> Folder:
        """The folder that is open.

        Raises:
            Refusal: none is.
        """
        if self.folder is None:
            raise Refusal(404, "no folder is open", "Choose one.")
        return self.folder

    def entry(self, key: str) -> Entry:
        """An image by its id.

        Raises:
            Refusal: there is no such image.
        """
        entry = self.opened.entries.get(key)
        if entry is None:
            raise Refusal(404, "there is no such image here")
        return entry

    def mask_of(self, entry: Entry, of: str) -> tuple[MaskPath, ClassMap] | None:
        """The mask of an image, or the one that was predicted, and what its values mean."""
        classes = self.opened.classes
        return (entry.mask, classes) if of == "own" and entry.mask and classes else None

    def may_write(self, browser: str) -> bool:
        """Whether a browser draws here: the first one, until it is silent for `PATIENCE`."""
        with self.lock:
            now = time.monotonic()
            if browser and (browser == self._writer or now - self._seen > PATIENCE):
                self._writer, self._seen = browser, now
            return bool(browser) and browser == self._writer and not self.opened.note

    @contextmanager
    def writing(self, request: Request) -> Iterator[Folder]:
        """The open folder, held for a change.

        Raises:
            Refusal: another browser or process works in it, or nothing can be written.
        """
        if not self.may_write(request.cookies.get(COOKIE, "")):
            note = self.opened.note or "somebody else works in this folder"
            raise Refusal(423, note, "Look on, or wait until it is free.")
        with self.opened.lock:
            yield self.opened

    def state(self, browser: str) -> dict[str, Any]:
        """What the page shows on every tab."""
        if self.folder is None:
            return {
                "folder": None,
                "name": "",
                "writer": False,
                "writer_note": "",
                "classes": [],
            } | {
                "background": None,
                "images": 0,
                "masks": 0,
                "findings": None,
            }
        folder = self.folder
        entries = [entry for entry in folder.entries.values() if not entry.uploaded]
        may_write = self.may_write(browser)
        note = folder.note or ("" if may_write else "somebody else works in this folder")
        return {
            "folder": str(folder.root),
            "name": folder.root.name,
            "writer": may_write,
            "writer_note": note,
            "classes": told_classes(folder.classes),
            "background": folder.classes.background if folder.classes else None,
            "images": len(entries),
            "masks": sum(entry.mask is not None for entry in entries),
            "findings": None,
        }


def told_classes(classes: ClassMap | None) -> list[dict[str, Any]]:
    """The classes as the page takes them."""
    infos = classes.classes if classes else ()
    return [{"index": index, **info.model_dump(mode="json")} for index, info in enumerate(infos)]


def studio_router(studio: Studio) -> APIRouter:
    """The app's page and its API."""
    router = APIRouter(prefix="/app", include_in_schema=False)
    for part in (_page, _folders, _images, _masks):
        part(router, studio)
    return router


def _page(router: APIRouter, studio: Studio) -> None:
    """The page's own files."""

    @router.get("")
    def bare() -> Response:
        return RedirectResponse("/app/")

    @router.get("/")
    def index(request: Request) -> Response:
        response = FileResponse(PAGE / "index.html")
        if COOKIE not in request.cookies:
            response.set_cookie(COOKIE, secrets.token_urlsafe(16), httponly=True, samesite="strict")
        return response

    @router.get("/{name}")
    def file(name: str) -> Response:
        path = PAGE / name
        if not path.is_file() or path.parent != PAGE:
            raise Refusal(404, f"there is no {name}")
        return FileResponse(path, headers={"cache-control": "no-cache"})


def _folders(router: APIRouter, studio: Studio) -> None:
    """Folder and classes."""

    @router.get("/api/state")
    def state(request: Request, response: Response) -> dict[str, Any]:
        browser = request.cookies.get(COOKIE) or secrets.token_urlsafe(16)
        if COOKIE not in request.cookies:
            response.set_cookie(COOKIE, browser, httponly=True, samesite="strict")
        return studio.state(browser)

    @router.get("/api/folders")
    def folders(path: str = "") -> dict[str, Any]:
        here = studio.inside(path)
        inner = sorted(one for one in here.iterdir() if one.is_dir() and not is_hidden([one.name]))
        above = None if here == studio.root else here.parent.relative_to(studio.root).as_posix()
        return {
            "path": here.relative_to(studio.root).as_posix(),
            "parent": above,
            "folders": [
                {
                    "name": one.name,
                    "path": one.relative_to(studio.root).as_posix(),
                    "images": count_images(one),
                }
                for one in inner[:MOST_FOLDERS]
                if one.resolve().is_relative_to(studio.root)
            ],
        }

    @router.post("/api/folder")
    def folder(request: Request, path: Annotated[str, Body(embed=True)]) -> dict[str, Any]:
        browser = request.cookies.get(COOKIE, "")
        if studio.folder is not None and not studio.may_write(browser) and not studio.folder.note:
            raise Refusal(423, "somebody else works in this folder", "Look on, or wait.")
        studio.open(studio.inside(path))
        return studio.state(browser)

    @router.put("/api/classes")
    def classes(request: Request, wanted: list[NewClass]) -> list[dict[str, Any]]:
        with studio.writing(request) as folder:
            folder.set_classes([(one.name, one.colour) for one in wanted])
            return told_classes(folder.classes)


def _images(router: APIRouter, studio: Studio) -> None:
    """The images, at every scale."""

    @router.get("/api/images")
    def images() -> list[dict[str, Any]]:
        folder = studio.opened
        return [told_image(folder, entry) for entry in folder.entries.values()]

    @router.get("/api/images/{key}/thumbnail.jpg")
    def small(key: str, overlay: Literal["0", "1", "predicted"] = "0") -> Response:
        entry = studio.entry(key)
        of = {"1": "own", "predicted": "predicted"}.get(overlay, "")
        there = studio.mask_of(entry, of)
        states = (state_of(entry.image), there and (there[0], mask_state(there[0]), there[1]))

        def make() -> bytes:
            mask = mask_pyramid(*there, entry.size) if there else None
            classes = there[1] if there else None
            return jpeg_bytes(thumbnail(image_pyramid(entry.image), mask, classes))

        return Response(kept(("thumbnail", entry.image, states), make), media_type="image/jpeg")

    @router.get("/api/images/{key}/info")
    def info(key: str) -> dict[str, Any]:
        entry = studio.entry(key)
        with ImageFile(entry.image) as file:
            height, width, bands = file.shape
            kind = file.dtype.name
        return {
            "width": width,
            "height": height,
            "bands": bands,
            "dtype": kind,
            "tile": TILE,
            "levels": image_pyramid(entry.image).levels,
            "large": height * width > WHOLE,
            "window": WINDOW,
            "revision": entry.revision,
        }

    @router.get("/api/images/{key}/tiles/{level}/{column}/{row}.jpg")
    def tile(key: str, level: int, column: int, row: int) -> Response:
        path = studio.entry(key).image

        def make() -> bytes:
            return jpeg_bytes(cut_tile(image_pyramid(path), level, column, row))

        content = kept((path, state_of(path), level, column, row), make)
        headers = {"cache-control": "private, max-age=3600"}
        return Response(content, media_type="image/jpeg", headers=headers)


def _masks(router: APIRouter, studio: Studio) -> None:
    """Masks as class indexes, out and in."""

    def pyramid(key: str, of: str) -> Pyramid:
        entry = studio.entry(key)
        there = studio.mask_of(entry, of)
        if there is None:
            raise Refusal(404, f"{entry.name} has no such mask")
        return mask_pyramid(*there, entry.size)

    @router.get("/api/images/{key}/mask.png")
    def mask(key: str, asked: Annotated[Asked, Query()]) -> Response:
        there = pyramid(key, asked.of)
        content = png_bytes(there.window(0, *asked.within(there.size)))
        headers = {"x-unetseg-revision": studio.entry(key).revision}
        return Response(content, media_type="image/png", headers=headers)

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
            return {"revision": entry.revision, "mask": folder.origin(entry)}

    @router.delete("/api/images/{key}/mask")
    def delete(request: Request, key: str, revision: str = "") -> dict[str, Any]:
        with studio.writing(request) as folder:
            folder.remove_mask(unchanged(studio.entry(key), revision))
            return {"revision": studio.entry(key).revision, "mask": "none"}


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


def mask_state(path: MaskPath) -> Any:
    """What changes whenever a mask's file does."""
    return state_of(path) if isinstance(path, Path) else path


def told_image(folder: Folder, entry: Entry) -> dict[str, Any]:
    """An image as the page lists it."""
    height, width = entry.size
    return {
        "id": entry.id,
        "name": entry.name,
        "width": width,
        "height": height,
        "large": height * width > WHOLE,
        "split": entry.split,
        "mask": folder.origin(entry),
        "predicted": False,
        "uncertainty": None,
        "dice": None,
        "objects": None,
        "fresh": folder.origin(entry) in {"drawn", "corrected"},
        "uploaded": entry.uploaded,
        "revision": entry.revision,
    }


def count_images(folder: Path) -> int:
    """The images in a folder and below."""
    try:
        return len(find_images([folder]))
    except ImageError:
        return 0
