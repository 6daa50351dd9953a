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

from unetseg.bundle import BundleInfo, Segmenter, load_bundle
from unetseg.config import DeviceConfig, PredictConfig, TilingConfig
from unetseg.data.images import match_bands, read_image, write_png, write_tiff
from unetseg.data.masks import ClassMap, write_mask
from unetseg.data.overlay import overlay
from unetseg.data.pairs import find_images
from unetseg.errors import ConfigError, DataError, ImageError, UnetsegError
from unetseg.prediction.engine import Engine
from unetseg.progress import SILENT, Progress
from unetseg.runtime import Machine, start
from unetseg.storage import write_text

T = TypeVar("T")
AHEAD = 4
"""Images that are read before, and written behind, the one in the network."""


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
        config = config or TilingConfig()
        self.machine = start(device or DeviceConfig())
        segmenter, self.info = load_bundle(run)
        self.engine = build_engine(segmenter, self.info, self.machine, config)

    def read(self, path: Path) -> NDArray[Any]:
        """The image at `path`, H×W×C, checked against what the model was trained on."""
        return check_image(read_image(path), self.info, path)

    def predict(self, image: NDArray[Any] | str | Path) -> NDArray[Any]:
        """The mask of an image, in the coding of the masks the model was trained on.

        Args:
            image: H×W×C or H×W raw pixel values, or the path of a file.

        Returns:
            H×W (integer or palette coding) or H×W×3 (RGB coding), in the masks' own type.

        Raises:
            ImageError: the file cannot be read, or bands or pixel type are not those trained on.
        """
        if isinstance(image, (str, Path)):
            pixels = self.read(Path(image))
        else:
            pixels = image[:, :, None] if image.ndim == 2 else image
            if pixels.ndim != 3 or not pixels.size:
                raise ImageError(f"the array has shape {image.shape}, expected H×W or H×W×C")
            pixels = check_image(pixels, self.info, Path("the array"))
        return self.info.class_map.decode(self.engine.classes(pixels))


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
    segmenter: Segmenter, info: BundleInfo, machine: Machine, config: TilingConfig
) -> Engine:
    """The engine for a bundle; tile and overlap as the bundle says unless `config` says."""
    tile = info.tile if config.tile == "auto" else config.tile
    overlap = info.overlap if config.overlap == "auto" else config.overlap
    return Engine(segmenter, machine, tile=tile, overlap=overlap, tta=config.tta)


def check_image(image: NDArray[Any], info: BundleInfo, path: Path) -> NDArray[Any]:
    """`image` with the bands of the model.

    Raises:
        ImageError: other bands than the model was trained on, 8 bit against more, or NaN.
    """
    image = match_bands(image, info.bands, path)
    if (image.dtype == np.uint8) != (info.dtype == "uint8"):
        raise ImageError(
            f"{path} is {image.dtype}, the model was trained on {info.dtype} images",
            mend=f"Give the images as {info.dtype}, with the values they had in training.",
        )
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ImageError(f"{path} has NaN or infinite pixels", mend="Replace them by a number.")
    return image


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
    given = [inputs] if isinstance(inputs, (str, Path)) else inputs
    images = find_images([Path(path) for path in given])
    predictor = Predictor(Path(run), config, device)
    suffix = predictor.info.class_map.suffix
    jobs = {path: output / relative.with_name(relative.name + suffix) for path, relative in images}
    result = Prediction()
    jobs = _without_existing(jobs, config, result)
    progress.say(f"{len(jobs)} images on {predictor.machine}")
    _predict_all(predictor, jobs, config, result, progress)
    _write_failures(output / "failures.jsonl", result)
    return result


def _without_existing(
    jobs: dict[Path, Path], config: PredictConfig, result: Prediction
) -> dict[Path, Path]:
    sources = {path.resolve().parent for path in jobs}
    beside = sorted({mask.parent for mask in jobs.values() if mask.parent.resolve() in sources})
    if beside:
        mend = "Choose another folder with -o."
        raise ConfigError("masks would be written among the input images in", beside, mend)
    existing = [mask for mask in jobs.values() if mask.exists()]
    if existing and config.existing == "refuse":
        mend = "Add --existing skip to predict only the missing ones, or --existing overwrite."
        raise ConfigError(f"{len(existing)} masks are there already", existing, mend)
    if config.existing == "overwrite":
        return jobs
    result.skipped = existing
    return {path: mask for path, mask in jobs.items() if mask not in set(existing)}


def _predict_all(
    predictor: Predictor,
    jobs: dict[Path, Path],
    config: PredictConfig,
    result: Prediction,
    progress: Progress,
) -> None:
    progress.start("predicting", len(jobs))
    with ThreadPoolExecutor(2) as writers:
        writes: deque[tuple[Path, Future[Path]]] = deque()
        for path, image in read_ahead(jobs, predictor.read):
            if isinstance(image, UnetsegError):
                result.failures[path] = image.summary
            else:
                index, probabilities = _infer(predictor.engine, image, config)
                shown = image if config.overlay else None
                class_map = predictor.info.class_map
                write = writers.submit(_write, class_map, jobs[path], index, probabilities, shown)
                writes.append((path, write))
            while len(writes) > AHEAD:
                _collect(*writes.popleft(), result)
            progress.advance("predicting", file=path.name)
        for waiting in writes:
            _collect(*waiting, result)
    progress.finish("predicting")


def read_ahead(
    paths: Iterable[Path], read: Callable[[Path], T]
) -> Iterator[tuple[Path, T | UnetsegError]]:
    """Each path with what `read` gives for it, or the error it raised; a few are read ahead."""

    def attempt(path: Path) -> T | UnetsegError:
        try:
            return read(path)
        except UnetsegError as error:
            return error

    with ThreadPoolExecutor(2) as readers:
        waiting: deque[tuple[Path, Future[T | UnetsegError]]] = deque()
        for path in paths:
            waiting.append((path, readers.submit(attempt, path)))
            if len(waiting) > AHEAD:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def _infer(
    engine: Engine, image: NDArray[Any], config: PredictConfig
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    if not config.probabilities:
        return engine.classes(image), None
    probabilities = engine.probabilities(image)
    return probabilities.argmax(0).astype(np.uint8), probabilities


def _write(
    class_map: ClassMap,
    path: Path,
    index: NDArray[np.uint8],
    probabilities: NDArray[np.float32] | None,
    image: NDArray[Any] | None,
) -> Path:
    """Write the mask, and the probabilities and the overlay over `image` where they are given."""
    write_mask(path, index, class_map)
    if probabilities is not None:
        write_tiff(
            path.with_name(f"{path.stem}_probabilities.tif"), probabilities.transpose(1, 2, 0)
        )
    if image is not None:
        picture = overlay(image, index, class_map.colours, background=class_map.background)
        write_png(path.with_name(f"{path.stem}_overlay.png"), picture)
    return path


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
