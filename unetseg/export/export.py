"""A trained U-Net as one file for others, held against itself before it is there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.bundle import LARGEST_SIDE, find_bundle
from unetseg.config import DeviceConfig, ExportConfig, PairsConfig, TilingConfig
from unetseg.errors import BundleError, ConfigError, imported
from unetseg.evaluation.evaluate import run_folder
from unetseg.prediction.exported import INFO, THRESHOLD, Whole
from unetseg.prediction.predictor import Predictor
from unetseg.progress import SILENT, Progress
from unetseg.skiplab.look import View, read_views
from unetseg.storage import write_bytes
from unetseg.text import plural
from unetseg.timing import median_seconds

Image = NDArray[Any]
Write = Callable[[Path, Predictor, Mapping[str, str]], None]
"""Writes a file of a trained U-Net, with texts that it holds beside."""
Run = Callable[[Path], Whole]

EQUAL = 0.999
"""Share of the pixels whose code in the file's masks must be that of the run's."""
SIDES = ((2, 2.5), (3.4, 2.1), (0.6, 1.2), (0.1, 0.1))
"""Height and width of the drawn images, in strides of the network."""
ROUNDS, SECONDS = 9, 10.0
"""How often, and for how long at most, both are timed."""


def _onnx() -> tuple[Write, Run]:
    imported("onnx", "onnx")
    imported("onnxruntime", "onnx")
    from unetseg.export.onnx import run_onnx, write_onnx

    return write_onnx, run_onnx


def _openvino() -> tuple[Write, Run]:
    imported("onnx", "onnx")
    from unetseg.export.openvino import run_openvino, write_openvino

    return write_openvino, run_openvino


def _torchscript() -> tuple[Write, Run]:
    from unetseg.export.torchscript import run_torchscript, write_torchscript

    return write_torchscript, run_torchscript


def _as_package(
    output: Path, file: Path, run: Path, predictor: Predictor, drawn: Image, views: Sequence[View]
) -> None:
    from unetseg.export.bioimage import write_package

    write_package(output, file, run, predictor, drawn, views)


def _for_deepness(
    output: Path, file: Path, _run: Path, predictor: Predictor, *_shown: object
) -> None:
    from unetseg.export.deepness import write_deepness

    write_deepness(output, file, predictor.info)


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    suffix: str
    network: Callable[[], tuple[Write, Run]]
    """What writes and what runs a network in it, from raw pixels to masks."""
    remake: Callable[[Path, Path, Path, Predictor, Image, Sequence[View]], None] | None = None
    """Makes of that file another, out of which come probabilities alone."""


KINDS = {
    "onnx": Kind(".onnx", _onnx),
    "openvino": Kind(".xml", _openvino),
    "torchscript": Kind(".pt", _torchscript),
    "bioimage": Kind(".zip", _onnx, _as_package),
    "deepness": Kind(".onnx", _onnx, _for_deepness),
}
"""By what `--to` calls them."""


@dataclass(frozen=True)
class Agreement:
    """How far a file gives the masks of the run, run as a whole and by `predict`."""

    equal: float
    """Share of the pixels that have the run's code in its masks, the lesser of both ways, 0–1."""
    probability_gap: float
    """Largest difference of a probability."""
    images: int


@dataclass(frozen=True)
class Export:
    """What was written, and how it compares."""

    file: Path
    agreement: Agreement
    bytes: tuple[int, int]
    """Of the weights in the run, and of the file with what belongs to it."""
    seconds: tuple[float, float]
    """From raw pixels to classes in the run, and to masks and probabilities in the file."""
    size: tuple[int, int]
    """Height and width of the image that was timed."""
    rules: tuple[str, ...]
    """Post-processing that is not in the file, in words."""
    dice: tuple[float, float] | None = None
    """With 8 bit: Dice of the images of DATA in the run and in the file."""


TILES_DISAGREE = (
    "in QGIS each tile is normalised by itself, in the run each whole image; tiles may disagree: "
    "unetseg predict, or train with --normalisation dataset"
)


def export(
    run: Path,
    config: ExportConfig | None = None,
    data: Path | None = None,
    *,
    pairs: PairsConfig | None = None,
    output: Path | None = None,
    progress: Progress = SILENT,
) -> Export:
    """Write a trained U-Net as one file, after it was held against the run.

    Args:
        run: Run folder or bundle folder.
        config: What is written.
        data: Folder of pairs; their images are compared beside drawn ones.
        pairs: How they are found.
        output: The file; default: "model" in the run folder, "model-int8", "model-deepness" or, of
            a further bundle there, such as RUN/pruned, its name.
        progress: Hears what is done.

    Raises:
        BundleError: there is no usable model, it cannot be written, or masks differ; nothing is
            written then.
        ConfigError: the suffix is another, or a threshold is asked for that there is not.
        MachineError: what writes or runs such files is not installed.
    """
    config = config or ExportConfig()
    remake = KINDS[config.to].remake
    output = _file(run, config, data, output)
    predictor = _opened(run, config)
    if config.to == "deepness" and predictor.engine.segmenter.per_image:
        progress.say(f"warning: {TILES_DISAGREE}")
    views: tuple[View, ...] = ()
    if data:
        split, views = read_views(run, data, predictor.info, config, pairs)
        progress.say(f"compared on {plural(len(views), 'image')} of split {split}")
    images = [*drawn_images(predictor), *(view.image[None] for view in views)]
    with TemporaryDirectory() as folder:
        file = Path(folder) / (f"whole-{output.name}.onnx" if remake else output.name)
        whole = _written(file, predictor, config, views)
        again = _opened(file, config)
        agreement = compare(predictor, whole, again, images, progress)
        dice = _dice(predictor, again, views) if config.int8 else None
        if not config.int8:
            _refuse_unequal(agreement, config.to)
        largest = max(images, key=np.size)[:1]
        seconds = timed(predictor, whole, largest, progress)
        if remake:
            remake(Path(folder) / output.name, file, run, predictor, images[0][0], views)
        size = sum(_copy(part, output) for part in sorted(Path(folder).iterdir()))
    return Export(
        file=output,
        agreement=agreement,
        bytes=((find_bundle(run) / "model.safetensors").stat().st_size, size),
        seconds=seconds,
        size=largest.shape[1:3],
        dice=dice,
        rules=predictor.info.told_rules,
    )


def _file(run: Path, config: ExportConfig, data: Path | None, output: Path | None) -> Path:
    """The file that is written."""
    if Path(run).is_file():
        raise BundleError(
            f"{run} is a file already", fix="Give the run folder that it was made of."
        )
    if config.int8 and (data is None or config.to != "onnx"):
        told = "--int8 is for --to onnx, and needs DATA to measure what it costs"
        raise ConfigError(told, fix="unetseg export RUN DATA --int8")
    kind = KINDS[config.to]
    if kind.remake and config.threshold is not None:
        told = f"--to {config.to} writes probabilities alone, of which a threshold is no part"
        raise ConfigError(told, fix="Leave --threshold away; set it where the package is run.")
    home = run_folder(run)
    stem = "model" if run in {home, home / "model"} else run.name  # RUN/pruned has its own
    use = "-int8" if config.int8 else "-deepness" if config.to == "deepness" else ""
    output = output or home / f"{stem}{use}{kind.suffix}"  # each .onnx is of another kind
    if output.suffix.lower() != kind.suffix or output.is_dir():
        raise ConfigError(f"{output}: the name of a file --to {config.to} ends with {kind.suffix}")
    return output


def _refuse_unequal(agreement: Agreement, to: str) -> None:
    if not agreement.equal >= EQUAL:
        raise BundleError(
            f"{agreement.equal:.3%} of the pixels have the run's code in the masks of {to}, "
            f"at least {EQUAL:.1%} are wanted: nothing was written"
        )


def _opened(run: Path, config: ExportConfig) -> Predictor:
    """A run or a file in float32, for images whole, as a file takes them."""
    tiling = TilingConfig(threshold=config.threshold, tile=LARGEST_SIDE)
    return Predictor(run, tiling, DeviceConfig(device="cpu", precision="float32"))


def _copy(part: Path, output: Path) -> int:
    """Put a part of a file to where it is wanted; its bytes."""
    content = part.read_bytes()
    write_bytes(output.with_suffix(part.suffix), content)
    return len(content)


def _dice(run: Predictor, again: Predictor, views: Sequence[View]) -> tuple[float, float]:
    """Dice in float32 and in 8 bit."""
    from unetseg.export.int8 import measured_loss

    verdict = measured_loss(run, again, views)
    return verdict.dice_float32, verdict.dice


def _written(
    file: Path, predictor: Predictor, config: ExportConfig, views: Sequence[View]
) -> Whole:
    """What runs a file that is written here."""
    write, run = KINDS[config.to].network()
    metadata = {INFO: predictor.info.model_dump_json()}
    if predictor.threshold is not None:
        metadata[THRESHOLD] = str(predictor.threshold)
    try:
        write(file, predictor, metadata)
    except NotImplementedError as error:
        fix = "Most encoders that convolve can be, such as resnet34 and efficientnet-b0."
        raise BundleError(
            f"this network cannot be written as one file: {error}", fix=fix
        ) from error
    if config.int8:
        from unetseg.export.int8 import quantise

        quantise(file, views, predictor.info.pixel_type)
    if config.to == "onnx":
        from unetseg.export.onnx import seal_onnx

        seal_onnx(file)
    return run(file)


def drawn_images(predictor: Predictor) -> Iterator[Image]:
    """Noise 2×H×W×C like the images trained on: of odd sides, and too small for the network."""
    info, grid = predictor.info, predictor.engine.grid
    rng = np.random.default_rng(0)
    given, dtype = info.normalisation, np.dtype(info.pixel_type)
    for sides in SIDES:
        height, width = (max(1, round(side * grid)) for side in sides)
        noise = rng.normal(given.mean, given.std, (2, height, width, info.bands))
        if dtype.kind != "f":
            limits = np.iinfo(dtype)
            noise = noise.round().clip(limits.min, limits.max)
        yield noise.astype(dtype)


def compare(
    run: Predictor,
    whole: Whole,
    again: Predictor,
    images: Sequence[Image],
    progress: Progress = SILENT,
) -> Agreement:
    """Predict images with a run and with a file.

    Args:
        run: The run.
        whole: Runs the file.
        again: The same, loaded for `predict`.
        images: N×H×W×C of raw pixels.
        progress: Hears of each.
    """
    progress.start("comparing", len(images))
    pixels, equal, gap = 0, np.zeros(2, np.int64), 0.0
    dtype, class_map = run.info.pixel_type, run.info.class_map
    for batch in images:
        masks, likely = whole(batch.transpose(0, 3, 1, 2).astype(dtype))
        for image, mask, found in zip(batch, masks, likely, strict=True):
            logits = run.engine.logits(image)
            wanted = class_map.decode(run.engine.index(logits, None))
            for way, codes in enumerate((mask, class_map.decode(again.engine.classes(image)))):
                differ = codes != wanted
                equal[way] += int((~(differ.any(-1) if differ.ndim == 3 else differ)).sum())
            pixels += logits[0].numel()
            exact = run.engine.probabilities(logits, None).transpose(2, 0, 1)
            gap = max(gap, float(np.abs(exact - found).max()))
        progress.advance("comparing")
    progress.finish("comparing")
    return Agreement(float(equal.min() / pixels), gap, sum(map(len, images)))


def timed(
    run: Predictor, whole: Whole, image: Image, progress: Progress = SILENT
) -> tuple[float, float]:
    """Seconds that a run and a file take for an image 1×H×W×C, measured in turns."""
    pixels = image.transpose(0, 3, 1, 2).astype(run.info.pixel_type)
    work = {"run": lambda: run.engine.classes(image[0]), "file": lambda: whole(pixels)}
    taken = median_seconds(work, ROUNDS, SECONDS, progress)
    return taken["run"], taken["file"]
