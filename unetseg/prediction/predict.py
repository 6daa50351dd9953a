"""Images → mask files: reading, inference and writing overlapped, and every failure listed."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo, load_bundle
from unetseg.config import DeviceConfig, PredictConfig, TilingConfig
from unetseg.data.files.folders import find_images
from unetseg.data.files.images import allow_pixels, match_bands, read_image
from unetseg.data.files.nodata import missing_pixels
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.masks.rasters import Raster, georeference, open_raster
from unetseg.errors import ConfigError, DataError, ImageError, UnetsegError
from unetseg.prediction.engine import Engine, classes_with_data, machine_for, softmax
from unetseg.prediction.giants import predict_giant
from unetseg.prediction.nodata import mask_pixels
from unetseg.prediction.outputs import (
    Job,
    draw_classes,
    levels_with_data,
    plan_job,
    write_outputs,
)
from unetseg.prediction.stream import Stream
from unetseg.progress import SILENT, Progress
from unetseg.runtime import Machine, start
from unetseg.storage import write_text
from unetseg.unet.segmenter import Segmenter

T = TypeVar("T")
AHEAD = 2
"""Images at least that are read before, and written behind, those in the network."""
WRITERS = 4
"""Threads that write: they wait for the disk (fsync) more than they compute."""
MOST_AHEAD = 64
"""Images at most that are read before those in the network."""
PIXELS_AHEAD = 2**22
"""Pixels beyond which no more than `AHEAD` images are read before those in the network."""


@dataclass
class Prediction:
    """What `predict_folder` did."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failures: dict[Path, str] = field(default_factory=dict)
    """Image → why it has no mask."""


class Predictor:
    """A trained U-Net that turns images into masks of the training coding.

    Args:
        run: Run folder or bundle folder.
        config: Tiles and test-time augmentation; "auto" takes what the bundle says.
        device: Device and arithmetic.
    """

    def __init__(
        self, run: Path, config: TilingConfig | None = None, device: DeviceConfig | None = None
    ) -> None:
        device = device or DeviceConfig()
        segmenter, self.info = load_bundle(run)
        self.machine, self.remark = machine_for(self.info, start(device), device.precision)
        self.engine = build_engine(
            segmenter, self.info, self.machine, config or TilingConfig(), device.engine
        )

    def describe(self) -> str:
        """Where and how it predicts, and why so; makes the network ready."""
        remarks = [str(self.machine), str(self.engine.choice), self.remark]
        return "; ".join(filter(None, remarks))

    def read(self, path: Path, nodata: float | None = None) -> NDArray[Any]:
        """The image at `path`, H×W×C, checked against what the model was trained on."""
        return check_image(read_image(path), self.info, path, nodata)

    def predict(self, image: NDArray[Any] | str | Path) -> NDArray[Any]:
        """The mask of an image, in the coding of the masks the model was trained on.

        Args:
            image: H×W×C or H×W raw pixel values, or the path of a file.

        Returns:
            H×W (integer or palette coding) or H×W×3 (RGB coding), in the masks' own type.

        Raises:
            ImageError: the file cannot be read, or bands or pixel type are not those trained on.
        """
        nodata: float | None = None
        if isinstance(image, (str, Path)):
            _, nodata = georeference(Path(image))
            pixels = self.read(Path(image), nodata)
        else:
            pixels = image[:, :, None] if image.ndim == 2 else image
            if pixels.ndim != 3 or not pixels.size:
                raise ImageError(f"the array has shape {image.shape}, expected H×W or H×W×C")
            pixels = check_image(pixels, self.info, Path("the array"))
        return mask_pixels(self.engine.classes(pixels, nodata), self.info.class_map)


def load(run: str | Path, *, device: str = "auto", **settings: Any) -> Predictor:
    """Load a trained U-Net: `unetseg.load("checkpoints/cells").predict("image.png")`.

    Args:
        run: Run folder or bundle folder.
        device: auto, cpu, cuda, cuda:1 or mps.
        **settings: Fields of `TilingConfig`: tile, overlap, tta.

    Raises:
        BundleError: there is no usable model.
    """
    return Predictor(Path(run), TilingConfig(**settings), DeviceConfig(device=device))


def build_engine(
    segmenter: Segmenter,
    info: BundleInfo,
    machine: Machine,
    config: TilingConfig,
    engine: str = "auto",
) -> Engine:
    """The engine for a bundle; tile and overlap as the bundle says unless `config` says."""
    tile = info.tile if config.tile == "auto" else config.tile
    overlap = info.overlap if config.overlap == "auto" else config.overlap
    return Engine(segmenter, machine, tile=tile, overlap=overlap, tta=config.tta, engine=engine)


def check_image(
    image: NDArray[Any], info: BundleInfo, path: Path, nodata: float | None = None
) -> NDArray[Any]:
    """`image` with the bands of the model.

    Args:
        image: H×W×C, or some rows of it.
        info: What the model was trained on.
        path: Named where the image does not fit.
        nodata: Pixels that hold this value in all bands may hold anything, even NaN.

    Raises:
        ImageError: other bands than the model was trained on, 8 bit against more, or NaN.
    """
    try:
        image = match_bands(image, info.bands, path)
    except ImageError as error:
        bands = f"{info.bands} band{'s' if info.bands > 1 else ''} of {info.dtype}"
        summary = f"{path} has {image.shape[-1]} bands, expected {bands}"
        raise ImageError(summary, fix=error.fix) from error
    if (image.dtype == np.uint8) != (info.dtype == "uint8"):
        raise ImageError(
            f"{path} is {image.dtype}, the model was trained on {info.dtype} images",
            fix=f"Give the images as {info.dtype}, with the values they had in training.",
        )
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        strange = ~np.isfinite(image).all(-1)
        if (strange & ~missing_pixels(image, nodata)).any():
            raise ImageError(f"{path} has NaN or infinite pixels", fix="Replace them by a number.")
    return image


def open_stream(
    engine: Engine, info: BundleInfo, raster: Raster, progress: Progress = SILENT
) -> Stream:
    """An image on its way through a network band by band, checked on the way."""
    return Stream(
        engine,
        raster,
        lambda rows: check_image(rows, info, raster.path, raster.nodata),
        progress,
    )


def predict_folder(
    run: str | Path,
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    config: PredictConfig | None = None,
    device: DeviceConfig | None = None,
    progress: Progress = SILENT,
) -> Prediction:
    """Write a mask for every image in `inputs` (files, folders, globs) below `output`.

    Subfolders are kept. An image that fails is listed in `failures.jsonl`; the others go on.

    Raises:
        ConfigError: masks would overwrite inputs, or files that are there already.
        BundleError: there is no usable model.
    """
    config, output = config or PredictConfig(), Path(output)
    allow_pixels(config.max_pixels)
    given = [inputs] if isinstance(inputs, (str, Path)) else inputs
    images = find_images([Path(path) for path in given])
    predictor = Predictor(Path(run), config, device)
    class_map = predictor.info.class_map
    jobs = [plan_job(path, output / relative, class_map) for path, relative in images]
    result = Prediction()
    jobs = _without_existing(jobs, config, result)
    predictor.engine.pixels = sum(job.pixels for job in jobs)
    progress.say(f"{len(jobs)} images on {predictor.describe()}")
    predict_images(predictor, jobs, config, result, progress)
    _write_failures(output / "failures.jsonl", result)
    return result


def _without_existing(jobs: list[Job], config: PredictConfig, result: Prediction) -> list[Job]:
    sources = {job.image.resolve().parent for job in jobs}
    folders = {job.mask.parent for job in jobs}
    beside = sorted(folder for folder in folders if folder.resolve() in sources)
    if beside:
        fix = "Choose another folder with -o."
        raise ConfigError("masks would be written among the input images in", beside, fix)
    existing = [job.mask for job in jobs if job.mask.exists()]
    if existing and config.existing == "refuse":
        fix = "Add --existing skip to predict only the missing ones, or --existing overwrite."
        raise ConfigError(f"{len(existing)} masks are there already", existing, fix)
    if config.existing == "overwrite":
        return jobs
    result.skipped = existing
    done = set(existing)
    return [job for job in jobs if job.mask not in done]


def predict_images(
    predictor: Predictor,
    jobs: Sequence[Job],
    config: PredictConfig,
    result: Prediction,
    progress: Progress = SILENT,
) -> None:
    """Write what is wanted for every image; reading, network and writing overlap.

    Args:
        predictor: The trained U-Net.
        jobs: The images, and the files for their masks.
        config: What is written.
        result: Gets the masks that are written, and the images that fail.
        progress: Hears of every image.
    """
    progress.start("predicting", len(jobs))
    at_once = predictor.engine.images_at_once if not config.probabilities else _one
    with ThreadPoolExecutor(WRITERS) as writers:
        writes: deque[tuple[Path, Future[Path]]] = deque()
        batches = alike(_read(predictor, jobs, result, progress), at_once)
        for answers in _answers(predictor.engine, batches, config):
            for answer in answers:
                write = writers.submit(_write, answer, predictor.info.class_map, config)
                writes.append((answer.job.image, write))
            while len(writes) > max(AHEAD, len(answers)):
                _collect(*writes.popleft(), result)
            progress.advance("predicting", len(answers), file=answers[-1].job.image.name)
        for waiting in writes:
            _collect(*waiting, result)
    for job in jobs:
        if job.is_giant:
            _predict_giant(predictor, job, config, result, progress)
            progress.advance("predicting", file=job.image.name)
    progress.finish("predicting")


def _read(
    predictor: Predictor, jobs: Sequence[Job], result: Prediction, progress: Progress
) -> Iterator[tuple[Job, NDArray[Any]]]:
    """The images that are not giants; those that cannot be read are noted."""
    ordinary = {job.image: job for job in jobs if not job.is_giant}
    for path, image in read_ahead(
        ordinary,
        lambda path: predictor.read(path, ordinary[path].nodata),
        lambda path: ordinary[path].pixels,
    ):
        if isinstance(image, UnetsegError):
            result.failures[path] = image.summary
            progress.advance("predicting", file=path.name)
        else:
            yield ordinary[path], image


def alike(
    images: Iterable[tuple[T, NDArray[Any]]], at_once: Callable[[int, int], int]
) -> Iterator[list[tuple[T, NDArray[Any]]]]:
    """Neighbours of one shape and type together, at most `at_once` of their height and width.

    >>> wide, high = np.zeros((1, 2, 3)), np.zeros((2, 1, 3))
    >>> pairs = [("a", wide), ("b", wide), ("c", wide), ("d", high)]
    >>> [[name for name, _ in batch] for batch in alike(pairs, lambda height, width: 2)]
    [['a', 'b'], ['c'], ['d']]
    """
    batch: list[tuple[T, NDArray[Any]]] = []
    for name, image in images:
        if batch and (image.shape, image.dtype) != (batch[0][1].shape, batch[0][1].dtype):
            yield batch
            batch = []
        batch.append((name, image))
        if len(batch) >= at_once(*image.shape[:2]):
            yield batch
            batch = []
    if batch:
        yield batch


def _one(_height: int, _width: int) -> int:
    return 1


@dataclass(frozen=True)
class _Answer:
    """What the network says of an image."""

    job: Job
    image: NDArray[Any] | None
    """The pixels, if they are drawn: an image that nobody needs is not to be held."""
    index: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None = None


def _answers(
    engine: Engine,
    batches: Iterable[Sequence[tuple[Job, NDArray[Any]]]],
    config: PredictConfig,
) -> Iterator[list[_Answer]]:
    """Predict batches of images of one shape."""
    if config.probabilities:
        yield from ([_likely(engine, *each, config) for each in batch] for batch in batches)
        return
    for batch, found in engine.classes_of_each(batches, lambda job: job.nodata):
        yield [
            _Answer(job, image if config.overlay else None, index)
            for (job, image), index in zip(batch, found, strict=True)
        ]


def _likely(engine: Engine, job: Job, image: NDArray[Any], config: PredictConfig) -> _Answer:
    """Predict an image with its probabilities."""
    logits = engine.logits(image, job.nodata)
    missing = missing_pixels(image, job.nodata)
    index = classes_with_data(logits, missing)
    return _Answer(job, image if config.overlay else None, index, softmax(logits, missing))


def _write(answer: _Answer, class_map: ClassMap, config: PredictConfig) -> Path:
    """Write the files of an ordinary image; the one of its mask."""
    job, index, shown = answer.job, answer.index, None
    if answer.image is not None:
        levels = levels_with_data(answer.image, job.nodata)
        shown = draw_classes(answer.image, index, class_map, levels)
    return write_outputs(
        job, class_map, index, answer.probabilities, shown, overviews=config.overviews
    )


def _predict_giant(
    predictor: Predictor,
    job: Job,
    config: PredictConfig,
    result: Prediction,
    progress: Progress,
) -> None:
    """Predict an image bigger than memory, or note why not."""
    try:
        with open_raster(job.image) as raster:
            stream = open_stream(predictor.engine, predictor.info, raster, progress)
            predict_giant(stream, predictor.info, job, config, progress)
    except DataError as error:
        result.failures[job.image] = error.summary
    else:
        result.written.append(job.mask)


def read_ahead(
    paths: Iterable[Path],
    read: Callable[[Path], T],
    pixels: Callable[[Path], int] = lambda path: PIXELS_AHEAD // 4,
) -> Iterator[tuple[Path, T | UnetsegError]]:
    """Each path with what `read` gives for it, or the error it raised; some are read ahead.

    Args:
        paths: What to read.
        read: Reads one.
        pixels: The size of each, so that many small ones are read ahead, and few large ones.
    """

    def attempt(path: Path) -> T | UnetsegError:
        try:
            return read(path)
        except UnetsegError as error:
            return error

    with ThreadPoolExecutor(2) as readers:
        waiting: deque[tuple[Path, int, Future[T | UnetsegError]]] = deque()
        held = 0
        for path in paths:
            waiting.append((path, pixels(path), readers.submit(attempt, path)))
            held += waiting[-1][1]
            while len(waiting) > MOST_AHEAD or (len(waiting) > AHEAD and held > PIXELS_AHEAD):
                done, size, future = waiting.popleft()
                held -= size
                yield done, future.result()
        for done, _, future in waiting:
            yield done, future.result()


def _collect(path: Path, write: Future[Path], result: Prediction) -> None:
    try:
        result.written.append(write.result())
    except DataError as error:
        result.failures[path] = error.summary


def _write_failures(path: Path, result: Prediction) -> None:
    if result.failures:
        lines = (json.dumps({"image": str(p), "error": e}) for p, e in result.failures.items())
        write_text(path, "\n".join(lines) + "\n")
    else:
        path.unlink(missing_ok=True)
