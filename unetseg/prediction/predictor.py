"""A trained U-Net that turns images into masks of the training coding."""

import math
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo, load_bundle
from unetseg.config import DeviceConfig, TilingConfig, with_flags
from unetseg.data.files.image import ImageFile
from unetseg.errors import BundleError, ConfigError, UnetsegError
from unetseg.prediction.backends import Choice
from unetseg.prediction.bands import OneBand
from unetseg.prediction.engine import Engine, machine_for
from unetseg.prediction.exported import is_exported, load_exported
from unetseg.prediction.in_memory import image_in_memory, nodata_value, refuse_one_image
from unetseg.prediction.objects import Labels, Objects
from unetseg.prediction.outputs import Job, mask_pixels
from unetseg.prediction.pipeline import Opened, predict_each, read_ahead
from unetseg.prediction.postprocess import cleaned_bands, cleaned_image
from unetseg.prediction.stream import Band, Stream, pieces, read_checked
from unetseg.prediction.values import SeenValues, told_strange
from unetseg.progress import SILENT, Progress
from unetseg.runtime import Machine, start
from unetseg.unet.segmenter import Segmenter


class Predictor:
    """A trained U-Net that turns images into masks of the training coding.

    Args:
        run: Run folder, bundle folder, or file of `unetseg export`.
        config: Tiles and test-time augmentation; "auto" takes what the bundle says.
        device: Device and arithmetic.
    """

    info: BundleInfo

    def __init__(
        self, run: Path, config: TilingConfig | None = None, device: DeviceConfig | None = None
    ) -> None:
        device, config = device or DeviceConfig(), config or TilingConfig()
        self._made_of = Path(run).absolute(), config, device
        engine: str | Choice = device.engine
        if is_exported(run):
            self.machine, self.remark = start(_as_exported(device)), ""
            exported = load_exported(run)
            segmenter, self.info, engine = exported.segmenter, exported.info, exported.choice
            if config.threshold is None:
                config = config.model_copy(update={"threshold": exported.threshold})
        else:
            segmenter, self.info = load_bundle(run)
            self.machine, self.remark = machine_for(self.info, start(device), device.precision)
        if config.postprocess == "off":
            self.info = self.info.model_copy(update={"postprocess": ()})
        self.threshold = threshold_of(self.info, config.threshold)
        self.engine = build_engine(segmenter, self.info, self.machine, config, engine)

    def __reduce__(self) -> tuple[object, ...]:
        """Loaded again from the folder, for a copy or in another process."""
        return type(self), self._made_of, self.info.weights_sha256

    def __setstate__(self, weights_sha256: str) -> None:
        """Refuse another model that is in the folder by now.

        Raises:
            BundleError: it is not the one that was pickled.
        """
        if self.info.weights_sha256 != weights_sha256:
            fix = "Load it anew, and send that one."
            raise BundleError(f"{self._made_of[0]} holds another model than was pickled", fix=fix)

    def describe(self) -> str:
        """Where and how it predicts, and why so; makes the network ready."""
        remarks = [str(self.machine), str(self.engine.choice), self.remark, *self.info.told_rules]
        return "; ".join(filter(None, remarks))

    def read(self, path: Path, max_pixels: int | None = None) -> NDArray[Any]:
        """The image at `path`, checked against what the model was trained on; see `check_image`."""
        with ImageFile(path, max_pixels) as file:
            return read_checked(file, self.info)

    def open(self, job: Job, progress: Progress = SILENT, *, strict: bool = False) -> Opened[Job]:
        """The image of a job, ready for the network: the pixels of a small one, else its stream.

        Raises:
            ImageError: it does not fit, or with `strict` its values are far from those trained on.
        """
        if not job.is_large:
            pixels = self.read(job.image, job.max_pixels)
            seen = SeenValues(self.info, pixels)
            seen.judged(job.image, strict=strict)
            return Opened(job, pixels, self.info.bands, seen)
        stream = Stream(self.engine, self.info, ImageFile(job.image, job.max_pixels), progress)
        return Opened(job, stream, self.info.bands, stream.seen)

    def pixels(
        self, image: object, nodata: float | None = None, name: str = "the image"
    ) -> NDArray[Any]:
        """An image as the network reads it, checked; see `image_in_memory`.

        Warns of values that are far from those trained on.
        """
        nodata = nodata_value(nodata)
        if isinstance(image, (str, os.PathLike)):
            name = os.fspath(image)
            with ImageFile(Path(image)) as file:
                pixels = read_checked(file, self.info, nodata=nodata)
        else:
            pixels = image_in_memory(image, self.info, Path(name), nodata)
        if strange := SeenValues(self.info, pixels).judged(Path(name)):
            warnings.warn(told_strange({Path(name): strange}), stacklevel=3)
        return pixels

    def predict(self, image: object, nodata: float | None = None) -> NDArray[Any]:
        """The mask of an image, in the coding of the masks the model was trained on.

        Args:
            image: The path of a file, or an image in memory as `image_in_memory` takes it: raw
                pixel values H×W×C (red first), C×H×W or H×W, as array, tensor, list or of Pillow.
            nodata: The value of pixels without data, which get no class; else a file says so.

        Returns:
            H×W (integer or palette coding) or H×W×3 (RGB coding), in the masks' own type.

        Raises:
            ImageError: the file cannot be read, or bands or values are not those trained on.
            ConfigError: `nodata` is not one real number.
            OutOfMemoryError: it does not fit in memory.
        """
        index = cleaned_image(self.engine.classes(self.pixels(image, nodata)), self.info)
        return mask_pixels(index, self.info.class_map)

    def predict_many(
        self, images: Iterable[object], nodata: float | None = None
    ) -> Iterator[NDArray[Any]]:
        """The mask of each image, in order; see `predict`.

        Some are read ahead, and neighbours of one size go through the network together.

        Raises:
            ImageError: as `predict`, when it is the image's turn; or it is one image alone.
        """
        refuse_one_image(images, self.info.bands)

        def opened(numbered: tuple[int, object]) -> Opened[int]:
            number, image = numbered
            pixels = self.pixels(image, nodata, f"image {number}")
            return Opened(number, pixels, self.info.bands)

        failed: list[UnetsegError] = []

        def until_one_fails() -> Iterator[Opened[int]]:
            try:
                yield from read_ahead(enumerate(images), opened)
            except UnetsegError as error:  # raised once those before it are answered
                failed.append(error)

        for one in predict_each(self.engine, until_one_fails()):
            (band,) = cleaned_bands(one.bands(), self.info)
            yield mask_pixels(band.index, self.info.class_map)
        if failed:
            raise failed[0]

    def probabilities(self, image: object, nodata: float | None = None) -> NDArray[np.float32]:
        """How likely each class is, H×W×K float32, 0–1, in the order of `info.class_map.names`.

        They are calibrated by the temperature that validation gave. NaN where there are no data.
        Arguments and errors are those of `predict`.
        """
        pixels = self.pixels(image, nodata)
        return self.engine.probabilities(self.engine.logits(pixels), self.engine.missing(pixels))

    def objects(
        self, image: object, nodata: float | None = None, watershed: float = 0.8
    ) -> tuple[Labels, list[dict[str, Any]]]:
        """The objects of an image: their number at each pixel H×W, and what is known of each.

        That is what `predict --objects` writes. Arguments and errors are those of `predict`.

        Args:
            image: As `predict` takes it.
            nodata: The value of pixels without data.
            watershed: Where touching objects are parted, 0–1; 0: nowhere.
        """
        pixels = self.pixels(image, nodata)
        logits, missing = self.engine.logits(pixels), self.engine.missing(pixels)
        likely = self.engine.probabilities(logits, missing)
        index = cleaned_image(self.engine.index(logits, missing), self.info)
        band = OneBand(Band(0, 0, index, [likely]))
        class_map = self.info.class_map
        objects = Objects(band.index, pieces(*index.shape), class_map.foreground, watershed)
        labels = np.concatenate(list(objects.labels(band.certainty)))
        return labels, list(objects.table().rows(class_map))


def _as_exported(device: DeviceConfig) -> DeviceConfig:
    """The machine that exported files run on: this one's processor, in their own arithmetic.

    Raises:
        ConfigError: another is asked for.
    """
    only = DeviceConfig(device="cpu", precision="float32")
    asked = device.model_dump(exclude_defaults=True)
    if wrong := [
        f"--{name} {value}" for name, value in asked.items() if value != getattr(only, name)
    ]:
        summary = "an exported file runs on the processor, in its own arithmetic"
        raise ConfigError(summary, wrong, "Leave these out, or give the run folder.")
    return only


def load(run: str | Path, **flags: Any) -> Predictor:
    """Load a trained U-Net: `unetseg.load("checkpoints/cells").predict("image.png")`.

    Args:
        run: Run folder, bundle folder, or file of `unetseg export`.
        **flags: Settings by the names of the command's flags: tile, overlap, tta, threshold;
            device, precision, engine.

    Raises:
        BundleError: there is no usable model.
    """
    return Predictor(Path(run), *with_flags(flags, TilingConfig(), DeviceConfig()))


def build_engine(
    segmenter: Segmenter,
    info: BundleInfo,
    machine: Machine,
    config: TilingConfig,
    engine: str | Choice = "auto",
) -> Engine:
    """The engine for a bundle; tile and overlap as the bundle says unless `config` says.

    Raises:
        ConfigError: a threshold for other than two classes, or none is known.
    """
    tile = info.tile if config.tile == "auto" else config.tile
    overlap = info.overlap if config.overlap == "auto" else config.overlap
    temperature = info.calibration.temperature if info.calibration else 1.0
    margin = 0.0
    if (threshold := threshold_of(info, config.threshold)) is not None:
        margin = temperature * math.log(threshold / (1 - threshold))
        margin = -margin if info.class_map.background == 1 else margin  # the foreground is class 0
    return Engine(
        segmenter,
        machine,
        tile=tile,
        overlap=overlap,
        tta=config.tta,
        engine=engine,
        temperature=temperature,
        margin=margin,
    )


def threshold_of(info: BundleInfo, asked: float | Literal["auto"] | None) -> float | None:
    """The probability from which on a pixel is foreground; None: whatever is more likely is.

    Raises:
        ConfigError: there are other than two classes, or "auto" is asked and nobody measured.
    """
    if asked is not None and len(info.class_map.classes) != 2:
        summary = f"--threshold is for two classes, this model has {len(info.class_map.classes)}"
        raise ConfigError(summary, fix="Leave it out: the most likely class is taken.")
    if asked != "auto":
        return asked
    if info.calibration is None:
        why = "nobody measures an ensemble" if info.members else "nobody measured it in training"
        summary = f"this model knows no best threshold: {why}"
        raise ConfigError(summary, fix="Give a number, such as --threshold 0.4.")
    return info.calibration.threshold
