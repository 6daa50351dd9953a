"""The app in the browser: its page, and under /app/api what the page asks for.

Handlers run in threads, long work in processes of its own (processes.py).
"""

import asyncio
import json
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel, Field

from unetseg.data.files.folders import IMAGE_SUFFIXES, is_hidden
from unetseg.serving.door import Refusal
from unetseg.serving.images import file_routes, image_routes, mask_routes
from unetseg.serving.runs import object_rows, told_row, validations
from unetseg.serving.studio import COOKIE, OTHERS, Studio, told_classes, told_plan
from unetseg.storage import is_file, is_folder, json_value

PAGE = Path(__file__).with_name("page")
MOST_FOLDERS = 500
FEWEST = 2
"""Masks that a training needs."""
SHORTEST, LONGEST = 5, 7 * 86400
"""Seconds that a training may take."""
TICK, QUIET = 0.2, 15.0
"""Seconds between two looks for events, and after which a browser hears that nothing happened."""
Byte = Annotated[int, Field(ge=0, le=255)]


class NewClass(BaseModel):
    """A class as the page names it."""

    name: str = Field(max_length=100)
    colour: tuple[Byte, Byte, Byte]


class Training(BaseModel):
    """What a training is asked for."""

    budget: float = Field(ge=SHORTEST, le=LONGEST)
    from_present: bool = False


def app_router(studio: Studio) -> APIRouter:
    """The app's page and its API."""
    router = APIRouter(prefix="/app", include_in_schema=False)
    pictures = image_routes, mask_routes, file_routes
    for part in (_folders, *pictures, _learning, _predicting, _events, _page):
        part(router, studio)
    whole = APIRouter(include_in_schema=False)
    whole.include_router(router)
    for address in ("/", "/app"):
        whole.add_api_route(address, lambda: RedirectResponse("/app/"))
    return whole


def _page(router: APIRouter, studio: Studio) -> None:
    """The page's own files."""

    @router.get("/")
    def index(request: Request) -> Response:
        response = FileResponse(PAGE / "index.html")
        browser_of(request, response)
        return response

    @router.get("/{name}")
    def file(name: str) -> Response:
        path = PAGE / name
        if path.parent != PAGE or not is_file(path):
            raise Refusal(404, f"there is no {name}")
        return FileResponse(path, headers={"cache-control": "no-cache"})


def browser_of(request: Request, response: Response) -> str:
    """Which browser asks, by its cookie; one without gets it with the answer."""
    browser = request.cookies.get(COOKIE)
    if not browser:
        browser = secrets.token_urlsafe(16)
        response.set_cookie(COOKIE, browser, httponly=True, samesite="strict")
    return browser


def _folders(router: APIRouter, studio: Studio) -> None:
    """Folder and classes."""

    @router.get("/api/state")
    def state(request: Request, response: Response) -> dict[str, Any]:
        return studio.state(browser_of(request, response))

    @router.get("/api/folders")
    def folders(path: str = "") -> dict[str, Any]:
        here = studio.inside(path)
        inner = sorted(
            one for one in here.iterdir() if is_folder(one) and not is_hidden([one.name])
        )
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
            raise Refusal(423, OTHERS, "Look on, or wait.")
        studio.open(studio.inside(path))
        return studio.state(browser)

    @router.get("/api/findings")
    def findings(response: Response) -> Any:
        found = studio.findings()
        response.status_code = 202 if found is None else 200
        return {} if found is None else found

    @router.put("/api/classes")
    def classes(request: Request, wanted: list[NewClass]) -> list[dict[str, Any]]:
        with studio.writing(request) as folder:
            folder.set_classes([(one.name, one.colour) for one in wanted])
            return told_classes(folder.classes)


def _learning(router: APIRouter, studio: Studio) -> None:
    """Training and predicting."""

    @router.get("/api/plan")
    def plan(budget: Annotated[float, Query(ge=SHORTEST, le=LONGEST)] = 300.0) -> dict[str, Any]:
        return told_plan(studio.survey(), budget)

    @router.post("/api/train", status_code=202)
    def train(request: Request, wanted: Training) -> Any:
        with studio.writing(request) as folder:
            if sum(entry.mask is not None for entry in folder.entries.values()) < FEWEST:
                told = f"a training needs {FEWEST} masks: some to learn from, one to check itself"
                raise Refusal(422, told, "Draw some more.")
            studio.learner.train(wanted.budget, from_present=wanted.from_present)
            return studio.learner.training

    @router.post("/api/train/stop", status_code=202)
    def stop(request: Request) -> Any:
        with studio.writing(request):
            studio.learner.stop()
            return studio.learner.training

    @router.post("/api/train/resume", status_code=202)
    def resume(request: Request) -> Any:
        with studio.writing(request):
            studio.learner.resume()
            return studio.learner.training


def _predicting(router: APIRouter, studio: Studio) -> None:
    """Predicting, and what came of it."""

    @router.post("/api/predict", status_code=202)
    def predict(
        request: Request,
        ids: Annotated[list[str] | Literal["all"], Body(embed=True)],
    ) -> dict[str, int]:
        with studio.writing(request) as folder:
            wanted = [*folder.entries.values()] if ids == "all" else [*map(studio.entry, ids)]
            return {"total": studio.learner.predict(wanted)}

    @router.get("/api/previews/{name}")
    def preview(name: str) -> Response:
        run = studio.learner.latest_run()
        path = run / "previews" / name if run else PAGE
        if not re.fullmatch(r"[a-z_]+\d*\.png", name) or not is_file(path):
            raise Refusal(404, "there is no such preview")
        return FileResponse(path)

    @router.get("/api/images/{key}/objects")
    def objects(key: str) -> dict[str, Any]:
        predicted = studio.learner.predictions().get(studio.entry(key).id)
        rows = object_rows(predicted) if predicted else ()
        return {"count": len(rows), "rows": rows}


def _events(router: APIRouter, studio: Studio) -> None:
    """What happens, as it happens."""

    @router.get("/api/events")
    async def events(request: Request) -> Response:
        door = request.app.state.door
        last, before = studio.events.last, await run_in_threadpool(told_before, studio)

        async def stream() -> AsyncIterator[str]:
            nonlocal last
            for kind, facts in before:
                yield event_text(kind, facts)
            quiet = time.monotonic()
            while not door.is_draining and not await request.is_disconnected():
                for number, kind, facts in studio.events.after(last):
                    yield event_text(kind, facts)
                    last, quiet = number, time.monotonic()
                if time.monotonic() - quiet > QUIET:
                    yield ":\n\n"
                    quiet = time.monotonic()
                await asyncio.sleep(TICK)

        return StreamingResponse(stream(), media_type="text/event-stream")


def told_before(studio: Studio) -> list[tuple[str, Mapping[str, Any]]]:
    """The curve of the last training, for a page that comes later."""
    if studio.folder is None:
        return []
    run, training = studio.learner.latest_run(), studio.learner.training
    told: list[tuple[str, Mapping[str, Any]]] = []
    if run:
        told = [("epoch", told_row(run, row)) for row in validations(run)]
    return [*told, ("training", training)] if training else told


def event_text(kind: str, facts: Mapping[str, Any]) -> str:
    """A server-sent event."""
    return f"event: {kind}\ndata: {json.dumps(json_value(facts))}\n\n"


def count_images(folder: Path, depth: int = 1) -> int:
    """The images in a folder and the folders in it, none deeper: it may be a whole disk."""
    count = 0
    with suppress(OSError), os.scandir(folder) as listing:
        for entry in listing:
            if is_hidden([entry.name]):
                continue
            if entry.is_dir(follow_symlinks=False):
                count += count_images(Path(entry.path), depth - 1) if depth else 0
            else:
                count += Path(entry.name).suffix.lower() in IMAGE_SUFFIXES
    return count
