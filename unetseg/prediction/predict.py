"""Images → mask files: reading, inference and writing overlapped, and every failure listed."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from unetseg.bundle import BundleInfo
from unetseg.config import DeviceConfig, PredictConfig, with_flags
from unetseg.data.files.folders import find_images, unread_images
from unetseg.data.files.pages import file_of
from unetseg.data.files.rasters import sources_of
from unetseg.data.pairs.beside import files_beside
from unetseg.errors import ConfigError, DataError, ImageError, UnetsegError
from unetseg.prediction.bands import BandStore, OneBand, held_bands
from unetseg.prediction.outputs import (
    OUTPUT_ENDS,
    SHOWN,
    Job,
    lost_places,
    plan_jobs,
    write_outputs,
)
from unetseg.prediction.pipeline import Opened, Waiting, predict_each, read_ahead
from unetseg.prediction.predictor import Predictor
from unetseg.prediction.stream import Stream
from unetseg.prediction.values import tell_strange
from unetseg.progress import SILENT, Progress
from unetseg.storage import write_text
from unetseg.text import plural, printable

WRITERS = 4
"""Threads that write: they wait for the disk (fsync) more than they compute."""


@dataclass
class Prediction:
    """What `predict_folder` did."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failures: dict[Path, str] = field(default_factory=dict)
    """Image → why it has no mask."""
    strange: dict[Path, str] = field(default_factory=dict)
    """Image → its values and those trained on, where they are far apart."""


def predict_folder(
    run: str | Path,
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    config: PredictConfig | None = None,
    device: DeviceConfig | str | None = None,
    progress: Progress = SILENT,
    **flags: Any,
) -> Prediction:
    """Write a mask for every image in `inputs` (files, folders, globs) below `output`.

    Subfolders are kept. Masks and earlier outputs that lie beside the images of a folder are left
    out, unless they are named themselves. An image that fails is listed in `failures.jsonl`; the
    others go on. `flags` are settings by the names of the command's flags: overlay, existing ….

    Raises:
        ConfigError: masks would overwrite inputs, or files that are there already.
        BundleError: there is no usable model.
    """
    if isinstance(device, str):
        flags["device"], device = device, None
    config, where = with_flags(flags, config or PredictConfig(), device or DeviceConfig())
    output, predictor = Path(output), Predictor(Path(run), config, where)
    given = [Path(path) for path in ([inputs] if isinstance(inputs, (str, Path)) else inputs)]
    images = find_images(given)
    if left_out := _left_out(images, given, output):
        images = find_images(given, left_out)
        counts = ", ".join(f"{n} × {why}" for why, n in Counter(left_out.values()).items())
        progress.say(f"left out {plural(len(left_out), 'file')} beside the images: {counts}")
    if unread := unread_images(given):
        names = ", ".join(printable(path.name) for path in unread[:SHOWN])
        names += f" and {len(unread) - SHOWN} more" if len(unread) > SHOWN else ""
        progress.say(f"left out, because their formats are not read: {names}")
    class_map = predictor.info.class_map
    jobs = [
        job
        for path, relative in images
        for job in plan_jobs(path, output / relative, class_map, config.max_pixels)
    ]
    if lost := lost_places(jobs):
        progress.say(lost)
    result = Prediction(skipped=_existing(jobs, config))
    skipped = set(result.skipped)
    jobs = [job for job in jobs if job.mask not in skipped]
    predictor.engine.pixels = sum(job.pixels for job in jobs)
    progress.say(f"{plural(len(jobs), 'image')} on {predictor.describe()}")
    predict_images(predictor, jobs, config, result, progress)
    tell_strange(result.strange, progress)
    lines = [json.dumps({"image": str(p), "error": e}) for p, e in result.failures.items()]
    (output / "failures.jsonl").unlink(missing_ok=True)
    if lines:
        write_text(output / "failures.jsonl", "\n".join(lines) + "\n")
    return result


def _left_out(
    images: Sequence[tuple[Path, Path]], given: Sequence[Path], output: Path
) -> dict[Path, str]:
    """The files of folders that are masks, or were written by this command before, and what is so.

    Files that are named themselves are images.
    """
    left_out: dict[Path, str] = {}
    home = output.absolute()
    made = {
        home / f"{name}{end}"
        for path, name in images
        for end in OUTPUT_ENDS
        if home not in path.absolute().parents
    }
    for folder in (path for path in given if path.is_dir()):
        inside = [path for path, _ in images if folder in path.parents]
        earlier = [p for p in inside if p.absolute().with_name(p.stem) in made]
        left_out |= dict.fromkeys(earlier, "an earlier output")
        left_out |= files_beside(folder, [path for path in inside if path not in left_out])
    files = {path.resolve() for path, _ in images}
    mosaics = [p for p, _ in images if p.suffix.lower() == ".vrt" and sources_of(p) & files]
    left_out |= dict.fromkeys(mosaics, "a VRT of images that are here (name it to predict it)")
    named = {path.absolute() for path in given if path.is_file()}
    return {path: why for path, why in left_out.items() if path.absolute() not in named}


def _existing(jobs: list[Job], config: PredictConfig) -> list[Path]:
    """The masks that are there and stay; what must not be written is refused."""
    sources = {job.image.resolve().parent for job in jobs}
    folders = {job.mask.parent for job in jobs}
    beside = sorted(folder for folder in folders if folder.resolve() in sources)
    if beside:
        fix = "Choose another folder with -o."
        raise ConfigError("masks would be written among the input images in", beside, fix)
    existing = [job.mask for job in jobs if job.mask.exists()]
    if existing and config.existing == "refuse":
        fix = "Add --existing skip to predict only the missing ones, or --existing overwrite."
        raise ConfigError(f"{plural(len(existing), 'mask')} there already", existing, fix)
    return [] if config.existing == "overwrite" else existing


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
        jobs: The images, and the files for their masks; large ones come last.
        config: What is written.
        result: Gets the masks that are written, and the images that fail.
        progress: Hears of every image.
    """
    info = predictor.info

    def refuse(job: Job, error: UnetsegError) -> None:
        result.failures[job.image] = error.summary
        progress.advance("predicting", file=job.image.name)

    progress.start("predicting", len(jobs))
    small_first = sorted(jobs, key=lambda job: job.is_large)
    opened = read_ahead(
        small_first,
        lambda job: predictor.open(job, progress, strict=config.strict),
        lambda job: job.pixels,
        refuse,
    )
    with ThreadPoolExecutor(WRITERS) as writers:
        writes = Waiting[tuple[Job, Callable[[], object]]]()
        for image in predict_each(predictor.engine, opened, probabilities=config.probabilities):
            job = image.name
            if job.is_large:  # the network is at work in this thread
                large = job, partial(write_large, image, info, config, progress)
                _collect([*writes.rest(), large], result)
            else:
                (band,) = image.bands()
                shown = image if config.overlay else image.without_pixels()
                outputs = shown, OneBand(band), info.class_map, config
                writes.put((job, writers.submit(write_outputs, *outputs).result), job.pixels)
                _collect(writes.overdue(), result)
            if job.image not in result.failures and (strange := image.judged(job.image)):
                result.strange[job.image] = strange
            progress.advance("predicting", file=job.image.name)
        _collect(writes.rest(), result)
    progress.finish("predicting")


def _collect(writes: Iterable[tuple[Job, Callable[[], object]]], result: Prediction) -> None:
    """Wait for masks to be written."""
    for job, write in writes:
        try:
            write()
        except DataError as error:
            result.failures[job.image] = error.summary
        else:
            result.written.append(job.mask)


def write_large(
    image: Opened[Job], info: BundleInfo, config: PredictConfig, progress: Progress = SILENT
) -> None:
    """Predict a large image, its bands to disk one by one, and from there into the files.

    What was done before this was killed is not done again; see `BandStore`.

    Raises:
        ImageError: the image cannot be read, or is not what the model was trained on.
        MachineError: a file cannot be written.
    """
    stream, job = image.image, image.name
    assert isinstance(stream, Stream)
    total = len(stream.spans)
    classes = len(info.class_map.classes) if config.probabilities else 0
    with held_bands(job.mask):
        store = BandStore(
            job.mask, identity(stream, info, job), stream.spans, stream.shape[1], classes
        )
        if store.finished < total:
            task = f"bands of {job.image.name}"
            progress.start(task, total)
            progress.advance(task, store.finished)
            with closing(image.bands(store.finished)) as bands:
                for band in bands:
                    store.save(band)
                    del band  # its logits are not to be held while the next are made
                    progress.advance(task)
            progress.finish(task)
        try:
            image.judged(job.image, strict=config.strict)
        except ImageError:  # its bands, complete, would pass the next time
            store.remove()
            raise
        write_outputs(image, store, info.class_map, config)
        store.remove()


def identity(stream: Stream, info: BundleInfo, job: Job) -> dict[str, Any]:
    """Everything that the bands of an image depend on."""
    status = file_of(job.image).stat()
    engine = stream.engine
    return {
        "image": str(job.image.resolve()),
        "bytes": status.st_size,
        "modified": [status.st_mtime_ns, status.st_ctime_ns],  # copies may keep the first
        "gaps": job.has_gaps,
        "model": info.model_dump(mode="json", exclude={"scores", "versions", "precision"}),
        "tile": stream.tile,
        "overlap": engine.overlap,
        "mirrors": len(engine.mirrors),
        "arithmetic": [
            engine.machine.device.type,
            str(engine.machine.dtype),
            engine.choice.name,
        ],
    }
