"""A trained U-Net as routers use it: any number of requests at once, in bounded memory and time."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import numpy as np
from fastapi import FastAPI, Request
from numpy.typing import NDArray

from unetseg.config import PredictConfig
from unetseg.data.files.arrays import MOST_COLOURS
from unetseg.data.files.image import ImageFile
from unetseg.data.files.rasters import raster_driver
from unetseg.data.files.vrts import first_bytes
from unetseg.errors import UnetsegError
from unetseg.prediction.bands import OneBand
from unetseg.prediction.in_memory import image_in_memory
from unetseg.prediction.outputs import Job, plan_job, write_outputs
from unetseg.prediction.pipeline import Opened
from unetseg.prediction.postprocess import cleaned_image
from unetseg.prediction.predictor import Predictor
from unetseg.prediction.stream import Band
from unetseg.resources import usable_cores
from unetseg.serving.door import GONE, Refusal, status_of
from unetseg.serving.network_queue import NetworkQueue
from unetseg.storage import not_kept

T = TypeVar("T")
Work = Callable[[], Awaitable[T]]
OUT = ".out"
"""The folder beside an image for what is made of it: no file that is sent keeps a dot in front."""
MOST_PIXELS, LAYERS = 2**25, 8
"""Pixels of an image, unless more are allowed, and of all that are decoded at once: that many with
up to so many bands and classes together, fewer with more."""


class Service:
    """A trained U-Net behind HTTP; it works within `lifespan`.

    Args:
        predictor: The trained U-Net.
        name: What the model is called.
        max_pixels: The most of an image; None: what `MOST_PIXELS` says.
        seconds: In which a request is answered.
    """

    queue: NetworkQueue
    _folder: Path
    _threads: anyio.CapacityLimiter

    def __init__(
        self, predictor: Predictor, name: str, max_pixels: int | None, seconds: float
    ) -> None:
        self.predictor, self.name = predictor, name
        layers = predictor.info.bands + len(predictor.info.class_map.classes)
        usual = MOST_PIXELS * LAYERS // max(LAYERS, layers)
        self.max_pixels, self.seconds = max_pixels or usual, seconds
        self._pixels = PixelBudget(max(self.max_pixels, usual))

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Hold the network, and a folder for what is on its way, while the server runs."""
        metrics = app.state.door.metrics

        def note(images: int) -> None:
            metrics.images.inc(images)
            metrics.batches.observe(images)

        self._threads = anyio.CapacityLimiter(usable_cores() + 1)
        self.queue = NetworkQueue(self.predictor.engine, note)
        metrics.show("unetseg_images_waiting", "For the network", lambda: len(self.queue))
        with TemporaryDirectory(prefix="unetseg-serve-") as folder:
            self._folder = Path(folder)
            yield
            self.queue.close()

    # What a request asks for

    async def answers(self, request: Request, works: Sequence[Work[T]]) -> list[T]:
        """What all works give, at once, so that they may share a batch.

        They are given up where the client goes away. The body has been read by then.

        Raises:
            Refusal: the client went away, or it takes too long.
            Exception: the first error of a work; a refusal tells all others too.
        """
        found, errors = dict[int, T](), dict[int, Exception]()

        async def one(number: int, work: Work[T]) -> None:
            try:
                found[number] = await work()
            except Exception as error:  # noqa: BLE001 (raised below: a group would wrap it)
                errors[number] = error

        try:
            with anyio.fail_after(self.seconds):
                async with anyio.create_task_group() as watched:
                    watched.start_soon(cancel_when_gone, request, watched.cancel_scope)
                    async with anyio.create_task_group() as group:
                        for number, work in enumerate(works):
                            group.start_soon(one, number, work)
                    watched.cancel_scope.cancel()
        except TimeoutError:
            told = f"there is no answer after {self.seconds:g} seconds"
            raise Refusal(503, told, "Ask again later, or for less.", retry=5) from None
        if errors:
            first, *others = (errors[number] for number in sorted(errors))
            if isinstance(first, Refusal):
                also = [one.detail for one in others if isinstance(one, Refusal)]
                first.detail = "\n".join([first.detail, *also])
            raise first
        if len(found) < len(works):
            raise Refusal(GONE, "the client went away")
        return [found[number] for number in range(len(works))]

    def folder(self) -> TemporaryDirectory[str]:
        """A folder for one request, gone at its end."""
        return TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True)

    async def thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Let a thread do something; as many do as there are cores."""
        return await anyio.to_thread.run_sync(work, *arguments, limiter=self._threads)

    async def files(self, image: Path, config: PredictConfig) -> tuple[Job, str]:
        """Write what is asked for of an image file near it, as `unetseg predict` does.

        Returns:
            The files, and what is strange about the values of the image.

        Raises:
            Refusal: it cannot be predicted.
        """
        with named(image):
            if raster_driver(image, first_bytes(image)):
                told = f"{image} names other files"
                raise Refusal(415, told, "Send the pixels as a TIFF or PNG.")
            job = await self.thread(self._planned, image, image.parent / OUT / image.stem)
            opening = partial(self.predictor.open, job)
            writing = partial(self._write, config)
            likely = config.with_probabilities
            return await self._predicted(job.pixels, opening, writing, probabilities=likely)

    async def file_band(self, image: Path) -> Band:
        """The classes and probabilities of an image file.

        Raises:
            Refusal: it cannot be predicted.
        """
        with named(image):
            job = await self.thread(self._planned, image, image)
            opening = partial(self.predictor.open, job)
            return await self._predicted(job.pixels, opening, self._cleaned, probabilities=True)

    async def band(self, image: NDArray[Any], name: str, *, probabilities: bool = False) -> Band:
        """The classes, and perhaps probabilities, of an image H×W×C in memory.

        Raises:
            ImageError: it is none that the model can read.
            Refusal: it is too large.
        """
        pixels = image.shape[0] * image.shape[1]
        self._refuse_large(pixels)
        opening = partial(self._opened, image, name)
        return await self._predicted(pixels, opening, self._cleaned, probabilities=probabilities)

    async def _predicted(
        self,
        pixels: int,
        opening: Callable[[], Opened[Any]],
        finish: Callable[[Opened[Any]], T],
        *,
        probabilities: bool,
    ) -> T:
        """What `finish` makes of an image that has gone through the network."""
        async with self._pixels.held(pixels):
            opened = await self.thread(opening)
            future = self.queue.put(opened, probabilities=probabilities)
            return await self.thread(finish, await asyncio.wrap_future(future))

    def _opened(self, image: NDArray[Any], name: str) -> Opened[str]:
        info = self.predictor.info
        if info.dtype == "uint8" and image.min() >= 0 and image.max() <= 255:
            image = np.rint(image).astype(np.uint8)  # raw values, however small all of them are
        return Opened(name, image_in_memory(image, info, Path(name)), info.bands)

    def _planned(self, image: Path, stem: Path) -> Job:
        bands = self.predictor.info.bands
        with ImageFile(image, self.max_pixels) as file:
            if file.shape[2] > max(MOST_COLOURS, bands + 1):  # alpha
                raise Refusal(422, f"{image} has {file.shape[2]} bands, expected {bands}")
        stem.parent.mkdir(exist_ok=True)
        job = plan_job(image, stem, self.predictor.info.class_map, self.max_pixels)
        self._refuse_large(job.pixels)
        return replace(job, is_large=False)  # all of it fits

    def _refuse_large(self, pixels: int) -> None:
        if pixels > self.max_pixels:
            told = f"the image has {pixels} pixels, at most {self.max_pixels} are taken"
            raise Refusal(413, told, "Send it in parts, or start the server with --max-pixels.")

    def _cleaned(self, image: Opened[Any]) -> Band:
        assert image.band
        index = cleaned_image(image.band.index, self.predictor.info)
        return replace(image.band, index=index)

    def _write(self, config: PredictConfig, image: Opened[Job]) -> tuple[Job, str]:
        band = OneBand(self._cleaned(image))
        with not_kept():
            write_outputs(image, band, self.predictor.info.class_map, config)
        return image.name, image.judged(image.name.image)


async def cancel_when_gone(request: Request, scope: anyio.CancelScope) -> None:
    """Wait until the client goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


class PixelBudget:
    """So many pixels are in memory at once; whoever wants more waits.

    Args:
        most: Pixels; an image of more takes all of them.
    """

    def __init__(self, most: int) -> None:
        self._most = self._free = most
        self._freed = asyncio.Event()
        self._turn = asyncio.Lock()  # first come, first served: a large image waits for its share

    @asynccontextmanager
    async def held(self, pixels: int) -> AsyncIterator[None]:
        """Hold so many, once they are free."""
        pixels = min(pixels, self._most)
        async with self._turn:
            while self._free < pixels:
                self._freed.clear()
                await self._freed.wait()
            self._free -= pixels
        try:
            yield
        finally:
            self._free += pixels
            self._freed.set()


@contextmanager
def named(image: Path) -> Iterator[None]:
    """Errors within name the image as the client does, not where it lies here.

    Raises:
        Refusal: in the place of every error.
    """
    place = f"{image.parent}{os.sep}"
    try:
        yield
    except UnetsegError as error:
        told = "\n".join([error.summary, *error.offenders])
        fix = error.fix.replace(place, "")
        raise Refusal(status_of(error), told.replace(place, ""), fix) from error
    except Refusal as error:
        error.detail = error.detail.replace(place, "")
        raise
