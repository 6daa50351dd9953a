"""Which images are predicted, and into which files: all planned before anything is written."""

import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from unetseg.config import PredictConfig
from unetseg.data.files.folders import find_images, root_of, unread_images
from unetseg.data.files.rasters import sources_of
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.pairs.beside import files_beside
from unetseg.data.pairs.naming import fold
from unetseg.errors import ConfigError, ImageError
from unetseg.locks import lock
from unetseg.prediction.alone import each_alone
from unetseg.prediction.bands import bands_folder
from unetseg.prediction.manifest import NAME, Manifest, identity_of, is_predicted
from unetseg.prediction.outputs import Job, plan_jobs
from unetseg.progress import Progress
from unetseg.storage import nearest_folder, writing
from unetseg.text import address_of, plural, printable, some_of

MOST_WORDS = 5
"""Inputs that a ready command repeats."""
LONGEST_NAME = 255
"""Bytes of a file's name, on every usual file system."""


class State(StrEnum):
    """How far the files of a job are there."""

    NEW = "not at all"
    UNFINISHED = "some are missing, or the process that wrote them ended"
    CHANGED = "of an image that has changed since"
    DONE = "all"
    UNKNOWN = "a mask of which the manifest knows nothing"
    OTHERWISE = "made by another model or with other settings"
    FOREIGN = "made of another image"


def find_inputs(given: Sequence[Path], output: Path, progress: Progress) -> list[tuple[Path, Path]]:
    """All images in files, folders and patterns, and the name of each output; see `find_images`.

    Left out, and told, is what a folder or pattern finds below the output folder, in the outputs of
    other predictions, and masks beside the images. Files that are named themselves are images.

    Raises:
        ImageError: there is no image.
    """
    if hidden := [f"{printable(path)}: {why}" for path in given if (why := _unseen(path))]:
        fix = "Check the paths, and who may enter their folders."
        raise ImageError("some of the input cannot be looked for", hidden, fix)
    if unread := unread_images(given):
        names = some_of([printable(path.name) for path in unread])
        progress.say(f"left out, because their formats are not read: {names}")
    images = find_images(given)
    left_out = _left_out([path for path, _ in images], given, output)
    if not left_out:
        return images
    counts = ", ".join(f"{n} × {why}" for why, n in Counter(left_out.values()).items())
    if len(left_out) == len(images):
        fix = "Name other images, or choose another folder with -o."
        raise ImageError(f"there is no image to predict, only files left out: {counts}", fix=fix)
    progress.say(f"left out {plural(len(left_out), 'file')} beside the images: {counts}")
    return find_images(given, left_out)


def _unseen(path: Path) -> str:
    """Why nobody can tell whether a path is there; "" where one can."""
    try:
        path.exists()
    except OSError as error:  # its name is too long, or a folder above it may not be entered
        return error.strerror or str(error)
    return ""


def _left_out(images: Sequence[Path], given: Sequence[Path], output: Path) -> dict[Path, str]:
    """The files that are no images to predict, and why."""
    roots = {root_of(path) for path in given if not path.is_file()}
    folders = {path.parent for path in images}
    within = {
        above
        for folder in folders
        for above in (folder, *folder.parents)
        if not roots.isdisjoint(above.parents)
    }
    earlier = [Manifest(folder) for folder in within if is_predicted(folder)]
    outputs = {manifest.folder / file for manifest in earlier for file in manifest.owners}
    home = output.resolve()
    # A folder of images that itself lies below the output folder is meant.
    meant = {root for root in roots if root.resolve().is_relative_to(home)}
    below = {
        folder
        for folder in folders
        if meant.isdisjoint((folder, *folder.parents)) and folder.resolve().is_relative_to(home)
    }
    left_out: dict[Path, str] = {}
    for path in images:
        if path in outputs:
            left_out[path] = "an earlier output"
        elif path.parent in below:
            left_out[path] = f"below the output folder {printable(output)}"
    for root, inside in _by_root([path for path in given if path.is_dir()], images).items():
        left_out |= files_beside(root, [path for path in inside if path not in left_out])
    mosaics = [path for path in images if path.suffix.lower() == ".vrt"]
    files = {path.resolve() for path in images if mosaics}
    mosaics = [path for path in mosaics if sources_of(path) & files]
    left_out |= dict.fromkeys(mosaics, "a VRT of images that are here (name it to predict it)")
    named = {path.absolute() for path in given if path.is_file()}
    return {path: why for path, why in left_out.items() if path.absolute() not in named}


def _by_root(roots: Sequence[Path], images: Sequence[Path]) -> dict[Path, list[Path]]:
    """The images below each of several folders, in time that does not grow with their product."""
    by_root: dict[Path, list[Path]] = {root: [] for root in roots}
    folders = {path.parent for path in images}
    above = {folder: by_root.keys() & {folder, *folder.parents} for folder in folders}
    for path in images:
        for root in above[path.parent]:
            by_root[root].append(path)
    return by_root


def planned(
    images: Sequence[tuple[Path, Path]],
    class_map: ClassMap,
    config: PredictConfig,
    manifest: Manifest,
) -> tuple[list[Job], dict[Job, ImageError]]:
    """The jobs of images, by their headers, and those whose header ends processes, with why.

    Where a process ended while it read headers, they are read in a process apart. Those of images
    that are put aside are not read.

    Args:
        images: Each with the name of its output below the folder, without suffix.
        class_map: How masks are written.
        config: What is written, and what is done where it is there.
        manifest: What lies in the output folder.
    """
    unread = [
        Job(path, manifest.folder / name.with_name(f"{name.name}{class_map.suffix}"))
        for path, name in images
    ]
    read, jobs, dead = list[Job](), list[Job](), dict[Job, ImageError]()
    for job in unread:
        is_aside = config.existing != "overwrite" and manifest.put_aside(job)
        (jobs if is_aside else read).append(job)
    plan = partial(_planned, class_map, config.max_pixels)
    with noted(manifest.folder, manifest.file.stem) as has_ended:
        answers = each_alone(partial(partial, plan), read) if has_ended else map(plan, read)
        for job, answer in zip(read, answers, strict=True):
            if isinstance(answer, str):
                dead[job] = deadly(job.image, answer)
            else:
                jobs += answer
    return jobs, dead


def _planned(class_map: ClassMap, max_pixels: int | None, job: Job) -> list[Job]:
    stem = job.mask.with_name(job.mask.name.removesuffix(class_map.suffix))
    return plan_jobs(job.image, stem, class_map, max_pixels)


@contextmanager
def noted(output: Path, name: str) -> Iterator[bool]:
    """Keep a note while headers are read; whether there is one of a process that ended meanwhile.

    It lies in the output folder, or while that is not there, in the one where it will be.
    """
    note = note_of(output, name)
    with writing(note):
        was_there = note.exists()
        file = note.open("ab+", buffering=0)
    with file:
        is_alone = lock(file) is not False
        lock(file, shared=True)
        try:
            yield was_there and is_alone
        finally:
            note.unlink(missing_ok=True)


def note_of(output: Path, name: str) -> Path:
    """Where the note of `noted` lies."""
    return nearest_folder(output) / f".{output.name[:40]}-{name}-planning"


def deadly(image: Path, reason: str) -> ImageError:
    """The answer about an image that ends processes."""
    return ImageError(
        f"{image} ended the process that read it, twice: {reason}",
        fix="It is put aside until the file changes. Save it anew, in another format, "
        "or see whether memory suffices; --existing overwrite tries it again.",
        code="deadly",
        paths=[image],
    )


def outstanding(
    jobs: Sequence[Job],
    given: Sequence[Path],
    config: PredictConfig,
    manifest: Manifest,
    progress: Progress,
) -> tuple[list[Job], list[Job]]:
    """The jobs that are to be done, and those whose files are there and stay.

    Args:
        jobs: All of them.
        given: The inputs, for ready commands.
        config: What is written, and what is done where it is there.
        manifest: What lies in the output folder.
        progress: Hears what is told of masks that are there.

    Raises:
        ConfigError: files would overwrite one another, or what must stay; all of them.
    """
    problems = [*_clashes(jobs, config), *_among_images(jobs), *_long_names(jobs, config)]
    states: dict[State, list[Job]] = defaultdict(list)
    for job in jobs:
        states[_state(job, config, manifest)].append(job)
    there = [job for state, some in states.items() if state != State.NEW for job in some]
    if config.existing == "refuse" and there:
        fix = "Add --existing skip to predict only the missing ones, or --existing overwrite."
        masks = [printable(job.mask) for job in there]
        problems.append(ConfigError(f"{plural(len(there), 'mask')} there already", masks, fix))
    elif config.existing == "skip":
        problems += _mixtures(states, config, given, manifest)
    _refuse(problems)
    if config.existing == "overwrite":
        states.clear()
    if states[State.UNKNOWN]:
        progress.say(
            f"{plural(len(states[State.UNKNOWN]), 'mask')} of which {NAME} knows nothing stay as "
            "they are; --existing overwrite predicts all again"
        )
    if states[State.CHANGED]:
        progress.say(
            f"{plural(len(states[State.CHANGED]), 'image')} changed since the masks were written; "
            "predicted again"
        )
    planned = {manifest.name(job.mask) for job in jobs}
    others = {mask for mask, one in manifest.done.items() if one.by != manifest.key} - planned
    if others:
        progress.say(
            f"{printable(manifest.folder)} also holds {plural(len(others), 'mask')} made otherwise "
            f"({printable(min(others))} …); {NAME} tells how"
        )
    kept = {job.mask for job in [*states[State.DONE], *states[State.UNKNOWN]]}
    return [job for job in jobs if job.mask not in kept], [job for job in jobs if job.mask in kept]


def outdated(jobs: Sequence[Job], config: PredictConfig, manifest: Manifest) -> set[Path]:
    """Files that were made otherwise, or of other images, with masks that are made again."""
    files: set[str] = set()
    for job in jobs:
        record = manifest.done.get(manifest.name(job.mask))
        if record and (record.by, record.identity) != (manifest.key, identity_of(job.image)):
            files |= record.files
    files -= {manifest.name(file) for job in jobs for file in job.files(config)}
    return {manifest.folder / file for file in files - manifest.done.keys()}


def _state(job: Job, config: PredictConfig, manifest: Manifest) -> State:
    """How far the files of a job are there."""
    files = job.files(config)
    mask, *_ = names = [manifest.name(file) for file in files]
    sizes = [_size_of(file) for file in files]
    there = [name for name, size in zip(names, sizes, strict=True) if size]  # not what was cut
    record = manifest.done.get(mask)
    if not there:
        return State.NEW
    is_current = record is not None and record.identity == identity_of(job.image)
    if record and is_current and record.by == manifest.key:
        is_done = record.files.issuperset(names) and there == names
        is_done &= record.doubt is not None or not config.review
        return State.DONE if is_done else State.UNFINISHED
    if _other_image(job, config, manifest):
        return State.FOREIGN
    if record is None:
        is_unknown = mask in there and mask not in manifest.begun and mask not in manifest.stale
        return State.UNKNOWN if is_unknown else State.UNFINISHED
    return State.OTHERWISE if is_current else State.CHANGED


def _size_of(file: Path) -> int:
    with suppress(OSError):  # there is none, or no file system could hold its name
        return file.stat().st_size
    return 0


def _other_image(job: Job, config: PredictConfig, manifest: Manifest) -> str:
    """The other image whose files a job would replace; images may have moved, but not changed."""
    for file in job.files(config):
        record = manifest.done.get(manifest.owners.get(manifest.name(file), ""))
        if record is not None and not (
            record.image == str(job.image.absolute()) or record.identity == identity_of(job.image)
        ):
            return record.image
    return ""


def _mixtures(
    states: Mapping[State, Sequence[Job]],
    config: PredictConfig,
    given: Sequence[Path],
    manifest: Manifest,
) -> Iterator[ConfigError]:
    """What `--existing skip` would mix."""
    here = manifest.header
    again = command(here["run"], given, manifest.folder, here["flags"] | {"existing": "overwrite"})
    if foreign := states[State.FOREIGN]:
        yield ConfigError(
            f"{plural(len(foreign), 'mask')} would take the place of those of other images",
            [
                f"{printable(job.mask)} is of {printable(_other_image(job, config, manifest))}"
                for job in foreign
            ],
            "Choose another folder with -o, or predict these images in their place.",
            commands=[again],
        )
    by: dict[str, list[Job]] = defaultdict(list)
    for job in states[State.OTHERWISE]:
        by[manifest.done[manifest.name(job.mask)].by].append(job)
    for key, jobs in by.items():
        earlier = manifest.headers.get(key, {})
        flags = earlier.get("flags", {}) | {"existing": "skip"}
        yield ConfigError(
            f"{plural(len(jobs), 'mask')} in {printable(manifest.folder)} were made otherwise "
            f"(the first is {printable(jobs[0].mask.name)})",
            manifest.differences(key),
            "Predict all again, go on as before, or choose another folder with -o.",
            commands=[again, command(earlier.get("run", "RUN"), given, manifest.folder, flags)],
        )


def _clashes(jobs: Sequence[Job], config: PredictConfig) -> Iterator[ConfigError]:
    """Files that several jobs would write."""
    names = Counter(fold(str(file)) for job in jobs for file in job.files(config))
    wanted: dict[str, dict[Path, list[Job]]] = defaultdict(lambda: defaultdict(list))
    for job in jobs:
        for file in job.files(config):
            if names[fold(str(file))] > 1:
                wanted[fold(str(file))][file].append(job)
    similar = [files for files in wanted.values() if len(files) > 1]
    one = similar and takes_for_one(next(iter(similar[0])).parent)
    clashes = [
        f"{printable(next(iter(files)))}: of "
        + " and of ".join(printable(job.image) for some in files.values() for job in some)
        for files in wanted.values()
        if any(len(some) > 1 for some in files.values()) or (one and len(files) > 1)
    ]
    if clashes:
        beside = " and ".join(f"--{flag}" for flag in jobs[0].beside if getattr(config, flag))
        without = f", or leave out {beside}" if beside else ""
        fix = f"Rename one of each, predict them to another folder{without}."
        yield ConfigError("outputs of several images would be the same file", clashes, fix)


def takes_for_one(folder: Path) -> bool:
    """Whether names that differ in case, or in how an accent is written, are one file there."""
    above = nearest_folder(folder)
    with writing(above), TemporaryDirectory(prefix=".", dir=above) as probe:
        (Path(probe) / "\u00e9").touch()
        return any((Path(probe) / name).exists() for name in ("\u00c9", "e\u0301"))


def _among_images(jobs: Sequence[Job]) -> Iterator[ConfigError]:
    """Folders of images that masks would be written to."""
    folders = {job.image.parent for job in jobs}
    sources = {folder.resolve() for folder in folders}
    sources |= {job.image.resolve().parent for job in jobs if job.image.is_symlink()}
    beside = sorted(to for to in {job.mask.parent for job in jobs} if to.resolve() in sources)
    if beside:
        fix = "Choose another folder with -o."
        yield ConfigError("masks would be written among the input images in", beside, fix)


def _long_names(jobs: Sequence[Job], config: PredictConfig) -> Iterator[ConfigError]:
    """Files that no file system could hold."""
    names = [
        printable(job.image)
        for job in jobs
        for path in [*job.files(config), *([bands_folder(job.mask)] if job.is_large else [])]
        if len(os.fsencode(path.name)) > LONGEST_NAME
    ]
    if names:
        fix = f"Shorten their names: those of the outputs may have {LONGEST_NAME} bytes."
        yield ConfigError("outputs of some images would have too long names", names, fix)


def _refuse(problems: Sequence[ConfigError]) -> None:
    """Raise all of them as one."""
    if problems:
        raise ConfigError(
            "; ".join(problem.summary for problem in problems),
            [offender for problem in problems for offender in problem.offenders],
            " ".join(problem.fix for problem in problems),
            commands=list(dict.fromkeys(c for problem in problems for c in problem.commands)),
        )


def command(run: str, given: Sequence[Path], output: Path, flags: Mapping[str, Any]) -> str:
    """The command line of a prediction."""
    words = [
        "unetseg",
        "predict",
        run,
        *([address_of(p) or str(p) for p in given] if len(given) <= MOST_WORDS else ["IMAGES"]),
        "-o",
        str(output),
    ]
    for name, value in flags.items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)
