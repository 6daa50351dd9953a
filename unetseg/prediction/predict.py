"""Images → mask files: reading, inference and writing overlapped, and every failure listed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

from unetseg.bundle import BundleInfo
from unetseg.config import DeviceConfig, PredictConfig, with_flags
from unetseg.data.files.limits import explained
from unetseg.errors import (
    ConfigError,
    DataError,
    ImageError,
    OutOfMemoryError,
    UnetsegError,
)
from unetseg.prediction.alone import each_alone
from unetseg.prediction.bands import BandStore, OneBand, held_bands
from unetseg.prediction.jobs import deadly, find_inputs, outdated, outstanding, planned
from unetseg.prediction.manifest import (
    Journal,
    Manifest,
    append_lines,
    failure_row,
    states_of,
)
from unetseg.prediction.objects import COLUMNS, MAP_COLUMNS
from unetseg.prediction.outputs import Job, lost_places, other_scalings, write_outputs
from unetseg.prediction.pipeline import Opened, Waiting, predict_each, read_ahead
from unetseg.prediction.postprocess import cleaned_image
from unetseg.prediction.predictor import Predictor
from unetseg.prediction.review import Doubt, write_review
from unetseg.prediction.stream import Stream
from unetseg.prediction.values import tell_strange
from unetseg.progress import SILENT, Progress
from unetseg.storage import read_csv, refuse_read_only, remove_leftovers, write_csv, writing
from unetseg.text import plural, printable

WRITERS = 4
"""Threads that write: they wait for the disk (fsync) more than they compute."""
LISTED = 10
"""Images that most need a look that are named on the screen."""
TRIES = 2
"""Times that an image may be in work, apart, when all that runs is ended."""


@dataclass
class Prediction:
    """What `predict_folder` did."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failures: dict[Path, UnetsegError] = field(default_factory=dict)
    """Image → why it has no mask."""
    strange: dict[Path, str] = field(default_factory=dict)
    """Image → its values and those trained on, where they are far apart."""
    doubts: dict[Path, Doubt] = field(default_factory=dict)
    """Mask → how much its image needs a look, where `review` asks."""
    manifest: Manifest | None = None
    """Hears of every image."""

    def begin(self, job: Job, *, alone: bool = False) -> Job:
        """The same job, whose image is about to be read."""
        if self.manifest:
            self.manifest.begin(job, alone=alone)
        return job

    def end(self, job: Job, files: Sequence[Path]) -> None:
        """All files of a job are written."""
        self.written.append(job.mask)
        if self.manifest:
            self.manifest.end(job, files, self.doubts.get(job.mask))

    def fail(self, job: Job, error: UnetsegError, *, aside: bool = False) -> None:
        """A job has no mask, and is put `aside` where it ended processes."""
        self.failures[job.image] = error
        if self.manifest:
            self.manifest.fail(job, error, aside=aside)


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

    Subfolders are kept. Masks beside the images of a folder, and all that lies below `output`, are
    left out. `predictions.jsonl` tells what each mask was made with and from (see `manifest`); an
    image that fails is listed in `failures.jsonl`, and the others go on. `flags` are settings by
    the names of the command's flags: overlay, existing ….

    Raises:
        ConfigError: `inputs` are no paths, files would overwrite one another, inputs, or files that
            are there already, or `existing="skip"` would mix masks of two models or settings.
        BundleError: there is no usable model.
    """
    work = work_of(run, inputs, output, config, device, **flags)
    images = find_inputs(work.given, work.output, progress)
    return predict_listed(work, images, progress, failures=work.output / "failures.jsonl")


@dataclass(frozen=True)
class Work:
    """What is the same for all images of a prediction."""

    run: Path
    output: Path
    given: Sequence[Path]
    """The inputs, for ready commands."""
    config: PredictConfig
    device: DeviceConfig
    predictor: Predictor
    times: int = 1
    """How many times as much is predicted in all as is planned at once, about."""


def work_of(
    run: str | Path,
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    config: PredictConfig | None = None,
    device: DeviceConfig | str | None = None,
    **flags: Any,
) -> Work:
    """The arguments of `predict_folder`, checked, and the trained U-Net loaded."""
    if isinstance(device, str):
        flags["device"], device = device, None
    config, where = with_flags(flags, config or PredictConfig(), device or DeviceConfig())
    config.refuse_idle(flags)
    predictor, output = Predictor(Path(run), config, where), Path(output)
    work = Work(Path(run), output, paths_of(inputs), config, where, predictor)
    refuse_read_only(output)
    return work


def predict_listed(
    work: Work,
    images: Sequence[tuple[Path, Path]],
    progress: Progress = SILENT,
    journal: Journal | None = None,
    failures: Path | None = None,
) -> Prediction:
    """Write a mask for each of these images, of which none is planned with others.

    Args:
        work: The trained U-Net and its settings.
        images: Path, and name of the output below the folder, without suffix.
        progress: Hears of every image.
        journal: Where the lines of the manifest are, if not in predictions.jsonl.
        failures: File for the images that fail; without it nothing is told of a block.

    Raises:
        ConfigError: as `predict_folder`.
    """
    config, predictor, info = work.config, work.predictor, work.predictor.info
    seen = info.values.scalings if info.values else None
    manifest = manifest_of(work, journal)
    jobs, dead = planned(images, info.class_map, config, manifest)
    for told in (lost_places(jobs), other_scalings(jobs, seen)):
        if told:
            progress.say(told)
    plan = partial(outstanding, jobs, work.given, config, manifest, progress)
    jobs, there = plan()  # what is refused leaves no trace
    with manifest.held() as has_changed:
        if has_changed:
            jobs, there = plan()
        result = Prediction(skipped=[job.mask for job in there], manifest=manifest)
        predictor.engine.pixels = work.times * sum(job.pixels for job in jobs)
        if failures:
            progress.say(f"{plural(len(jobs), 'image')} on {predictor.describe()}")
            _begin_failures(failures, manifest)
        for job, error in dead.items():
            result.fail(job, error, aside=True)
        _predict_all(predictor, jobs, config, result, progress)
        tell_strange(result.strange, progress)
        if failures:
            append_lines(failures, (failure_row(*item) for item in result.failures.items()))
            _write_of_all(config, [*there, *jobs], result, progress)
    return result


def _write_of_all(
    config: PredictConfig, jobs: Sequence[Job], result: Prediction, progress: Progress
) -> None:
    """Write what is wanted of all images together."""
    assert result.manifest
    if config.objects:
        made = {job.mask: job.objects for job in jobs if job.image not in result.failures}
        tables = _earlier_tables(result.manifest, jobs) | made
        _write_all_objects(result.manifest.folder, tables, progress)
    if config.review:
        _write_review(config.review, jobs, result, progress)


def _write_review(most: int, jobs: Sequence[Job], result: Prediction, progress: Progress) -> None:
    """Write review.csv, and name the images that most need a look."""
    manifest = result.manifest
    assert manifest
    doubts = dict[str, Doubt]()
    for job in jobs:
        record = manifest.done.get(manifest.name(job.mask))
        doubt = result.doubts.get(job.mask) or (record.doubt if record else None)
        if doubt and job.image not in result.failures:
            doubts[str(job.image)] = doubt
    file = manifest.folder / "review.csv"
    ranked = write_review(file, doubts, most)
    progress.say(f"{plural(len(ranked), 'image')} that most need a look: {file}")
    for line in ranked[:LISTED]:
        progress.say(f"  {printable(line)}")


def _earlier_tables(manifest: Manifest, jobs: Sequence[Job]) -> dict[Path, Path]:
    """Mask → table of the images that were predicted alike into the folder before."""
    now = {manifest.name(job.mask) for job in jobs}
    images = {str(job.image.absolute()) for job in jobs}  # whose masks may have had other names
    masks = [
        mask
        for mask, one in manifest.done.items()
        if one.by == manifest.key and mask not in now and one.image not in images
    ]
    tables = {mask: Job(Path(), manifest.folder / mask).objects for mask in masks}
    return {
        manifest.folder / mask: table
        for mask, table in tables.items()
        if manifest.name(table) in manifest.done[mask].files
    }


def _write_all_objects(output: Path, of_masks: Mapping[Path, Path], progress: Progress) -> None:
    """Write objects.csv: the rows of all tables of a folder, with the mask of each."""
    tables = [(mask, table) for mask, table in of_masks.items() if table.is_file()]
    count = 0

    def rows() -> Iterator[dict[str, str]]:
        nonlocal count
        for mask, table in sorted(tables):
            for row in read_csv(table):
                count += 1
                yield {"image": mask.relative_to(output).as_posix()} | row

    file = output / "objects.csv"
    write_csv(file, rows(), ["image", *COLUMNS, *MAP_COLUMNS])
    progress.say(f"{plural(count, 'object')} in {plural(len(tables), 'image')}: {file}")


def _begin_failures(failures: Path, manifest: Manifest) -> None:
    with writing(failures):
        if manifest.is_alone:
            failures.unlink(missing_ok=True)


def _predict_all(
    predictor: Predictor,
    jobs: Sequence[Job],
    config: PredictConfig,
    result: Prediction,
    progress: Progress,
) -> None:
    """Write the files of all jobs; last and apart those that were begun before and never ended."""
    manifest = result.manifest
    assert manifest
    if not jobs:
        return
    for file in outdated(jobs, config, manifest):
        file.unlink(missing_ok=True)
    if config.existing != "overwrite":
        asides = {job.image: manifest.put_aside(job) for job in jobs}
        result.failures |= {image: error for image, error in asides.items() if error}
        jobs = [job for job in jobs if job.image not in result.failures]
    suspects = [job for job in jobs if manifest.is_suspect(job)]
    masks = {job.mask for job in suspects}
    for folder in {mask.parent for mask in masks if manifest.is_alone and mask.parent.is_dir()}:
        beside = (files for job in suspects for files in job.beside.values())
        remove_leftovers(folder, [*masks, *chain.from_iterable(beside)])
    predict_images(
        predictor, [job for job in jobs if job.mask not in masks], config, result, progress
    )
    if suspects:
        several = plural(len(suspects), "image")
        progress.say(f"{several} in work when a process ended: predicted one by one, apart")
        _predict_alone(predictor, suspects, config, result)


def _predict_alone(
    predictor: Predictor, jobs: Sequence[Job], config: PredictConfig, result: Prediction
) -> None:
    """Predict images one by one in a process apart; what ends it is put aside."""
    manifest = result.manifest
    assert manifest
    for job in jobs:
        if manifest.tries(job) >= TRIES and not job.is_large:  # a container without memory, say
            result.fail(job, deadly(job.image, "each time"), aside=True)
    jobs = [job for job in jobs if job.image not in result.failures]
    begun = (result.begin(job, alone=True) for job in jobs)
    predict_one = partial(_predict_one, predictor, predictor.engine.pixels, config)
    with closing(each_alone(partial(partial, predict_one), begun)) as answers:
        for job, answer in zip(jobs, answers, strict=True):
            if isinstance(answer, str):
                result.fail(job, deadly(job.image, answer), aside=True)
            elif error := answer.failures.get(job.image):
                result.fail(job, error)
            else:
                result.strange |= answer.strange
                result.doubts |= answer.doubts
                result.end(job, job.files(config))


def _predict_one(
    predictor: Predictor, pixels: int | None, config: PredictConfig, job: Job
) -> Prediction:
    """Predict one image, in the process apart; `pixels` are those of all."""
    result, predictor.engine.pixels = Prediction(), pixels
    predict_images(predictor, [job], config, result)
    return result


def manifest_of(work: Work, journal: Journal | None = None) -> Manifest:
    """The manifest of the output, with everything that a mask depends on beside its image."""
    engine, config = work.predictor.engine, work.config
    content = work.predictor.info.model_dump_json(exclude=_aside(work.predictor.info))
    settings = {
        "model": sha256(content.encode()).hexdigest()[:12],  # weights too: their sum is in it
        "tile": engine.tile,
        "overlap": engine.overlap,
        "tta": config.tta,
        "arithmetic": f"{engine.machine.device.type} {engine.machine.dtype}".replace("torch.", ""),
        "overviews": config.overviews,
    }
    if config.objects or config.polygons:
        names = ("watershed", "simplify") if config.polygons else ("watershed",)
        shaped = config.model_dump(include=set(names), exclude_defaults=True)
        settings |= shaped  # those that are not told are the defaults
    if engine.margin:
        settings["threshold"] = work.predictor.threshold
    if engine.temperature != 1:  # masks alone have it too: objects may be asked for later
        settings["temperature"] = engine.temperature
    flags = config.model_dump(mode="json", exclude_defaults=True, exclude={"existing"})
    flags |= work.device.model_dump(mode="json", exclude_defaults=True)
    return Manifest(work.output, settings, str(work.run), flags, journal)


def paths_of(inputs: str | Path | Sequence[str | Path]) -> list[Path]:
    """The paths of the inputs, one or several.

    Raises:
        ConfigError: there is something else, such as an array.
    """
    try:
        return [Path(path) for path in ([inputs] if isinstance(inputs, (str, Path)) else inputs)]
    except TypeError as error:
        raise ConfigError(
            f"inputs is {type(inputs).__name__}, expected paths of files or folders",
            fix="Images in memory: unetseg.load(run).predict(array)",
        ) from error


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
        result.fail(job, error)
        progress.advance("predicting", file=job.image.name)

    progress.start("predicting", len(jobs))
    small_first = sorted(jobs, key=lambda job: job.is_large)
    opened = read_ahead(
        map(result.begin, small_first),
        lambda job: predictor.open(job, progress, strict=config.strict),
        lambda job: job.pixels,
        refuse,
    )
    with ThreadPoolExecutor(WRITERS) as writers:
        writes = Waiting[tuple[Job, Callable[[], Doubt | None]]]()
        predicted = predict_each(
            predictor.engine, opened, probabilities=config.with_probabilities, refuse=refuse
        )
        for image in predicted:
            job = image.name
            if job.is_large:  # the network is at work in this thread
                large = job, partial(write_large, image, info, config, progress)
                _collect([*writes.rest(), large], config, result)
            else:
                (band,) = image.bands()
                band = replace(band, index=cleaned_image(band.index, info))
                shown = image if config.overlay else image.without_pixels()
                outputs = shown, OneBand(band), info.class_map, config
                writes.put((job, writers.submit(write_outputs, *outputs).result), job.pixels)
                _collect(writes.overdue(), config, result)
            if job.image not in result.failures and (strange := image.judged(job.image)):
                result.strange[job.image] = strange
            progress.advance("predicting", file=job.image.name)
        _collect(writes.rest(), config, result)
    progress.finish("predicting")


def _collect(
    writes: Iterable[tuple[Job, Callable[[], Doubt | None]]],
    config: PredictConfig,
    result: Prediction,
) -> None:
    """Wait for masks to be written."""
    for job, write in writes:
        try:
            doubt = write()
        except (DataError, OutOfMemoryError) as error:
            result.fail(job, error)
        else:
            if doubt:
                result.doubts[job.mask] = doubt
            result.end(job, job.files(config))


def write_large(
    image: Opened[Job], info: BundleInfo, config: PredictConfig, progress: Progress = SILENT
) -> Doubt | None:
    """Predict a large image, its bands to disk one by one, and from there into the files.

    What was done before this was killed is not done again; see `BandStore`.

    Raises:
        ImageError: the image cannot be read, or is not what the model was trained on.
        MachineError: a file cannot be written.
    """
    stream, job = image.image, image.name
    assert isinstance(stream, Stream)
    total = len(stream.spans)
    classes = int(config.with_probabilities)
    if config.probabilities or (classes and info.postprocess):  # pixels may get another class
        classes = len(info.class_map.classes)
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
        store.clean(info)
        doubt = write_outputs(image, store, info.class_map, config)
        store.remove()
    return doubt


def _aside(info: BundleInfo) -> set[str]:
    """What masks do not depend on; what is empty is so in bundles of versions that knew none."""
    aside = {"scores", "versions", "precision", "calibration"}
    return aside | {name for name in ("postprocess", "members") if not getattr(info, name)}


def identity(stream: Stream, info: BundleInfo, job: Job) -> dict[str, Any]:
    """Everything that the bands of an image depend on.

    Raises:
        ImageError: it is not there any more.
    """
    with explained(job.image):  # it may be gone by now
        status, *others = states_of(job.image)
    engine = stream.engine
    beside = tuple((one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in others)
    later: dict[str, Any] = {"margin": engine.margin or None, "temperature": engine.temperature}
    later["beside"] = beside or None
    return {
        "image": str(job.image.resolve()),
        "bytes": status.st_size,
        "modified": [status.st_mtime_ns, status.st_ctime_ns],  # copies may keep the first
        "gaps": job.has_gaps,
        "model": info.model_dump(mode="json", exclude=_aside(info)),
        **{name: value for name, value in later.items() if value not in {None, 1}},
        "tile": stream.tile,
        "overlap": engine.overlap,
        "mirrors": len(engine.mirrors),
        "arithmetic": [
            engine.machine.device.type,
            str(engine.machine.dtype),
            engine.choice.name,
        ],
    }
