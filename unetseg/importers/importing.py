"""From the annotations of another program to a folder of plain pairs.

A format is one line of `FORMATS`: its name, and the module that recognises and reads it.
Reading finds the images and says what is wrong; masks are drawn one by one afterwards.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, Protocol

from unetseg.data.files.folders import IMAGE_SUFFIXES, SUFFIXES
from unetseg.data.files.image import ImageFile
from unetseg.data.files.limits import BOMB
from unetseg.data.masks.mask_file import mask_of_image
from unetseg.errors import ConfigError, DataError, ImageError, MaskError
from unetseg.importers import (
    cityscapes,
    class_masks,
    coco,
    cvat,
    instances,
    labelme,
    labelstudio,
    nnunet,
    panoptic,
    rle,
    roboflow,
    supervisely,
    via,
    voc,
    yolo,
)
from unetseg.importers.annotations import (
    AnnotatedImage,
    Annotations,
    Entry,
    Problem,
    collect,
    reasons,
)
from unetseg.importers.archives import unpacked
from unetseg.importers.pairs_folder import (
    Counts,
    PairsFolder,
    new_folder,
    pair_names,
    refuse_used,
    told_splits,
)
from unetseg.importers.shapes import Size
from unetseg.importers.source_files import name_in
from unetseg.progress import SILENT, Progress
from unetseg.resources import usable_cores
from unetseg.text import plural, printable


class Format(Protocol):
    """A module that reads a format."""

    def read(self, source: Path, images: Path | None = None) -> Iterable[Entry]:
        """See `annotations`."""

    def recognises(self, source: Path) -> bool:
        """Whether a folder or file is of this format, at a glance."""


FORMATS: dict[str, Format] = {
    "coco": coco,
    "voc": voc,
    "labelme": labelme,
    "cvat": cvat,
    "labelstudio": labelstudio,
    "cityscapes": cityscapes,
    "instances": instances,
    "yolo": yolo,
    "rle": rle,
    "via": via,
    "supervisely": supervisely,
    "roboflow": roboflow,
    "nnunet": nnunet,
    "coco-panoptic": panoptic,
    "classes": class_masks,
}
_BY_NAMES_ALONE = ("instances", "classes")  # asked where no other format is recognised
_BATCH = 64  # pairs that are given to the threads at once


@dataclass(frozen=True)
class Imported:
    """What an import wrote.

    Attributes:
        classes: The name of each code from 0 on, as in classes.txt.
        counts: Pairs, splits, and masks that show each class.
        skipped: What was left out because something was wrong with it.
        notes: What was concluded or left out on purpose, one sentence each.
    """

    classes: tuple[str, ...]
    counts: Counts
    skipped: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return self.counts.pairs


def import_dataset(  # noqa: PLR0913 (each is an argument of the command)
    kind: str | None,
    source: Path,
    out: Path,
    *,
    images: Path | None = None,
    on_bad: Literal["error", "skip"] = "error",
    max_pixels: int | None = None,
    progress: Progress = SILENT,
) -> Imported:
    """Write the annotations in `source` as pairs to the folder `out`, which is whole or not there.

    Args:
        kind: One of `FORMATS`; None for the one that is recognised.
        source: A folder, a file, or an archive of them.
        out: A folder that is not there yet, or empty.
        images: Folder of the images, where they do not lie beside the annotations.
        on_bad: error: anything wrong is an error that lists all of it; skip: images with which
            something is wrong are left out, and listed in OUT/import.json.
        max_pixels: The largest image that is read, pixels; None for the usual limit.
        progress: Hears how many are done.

    Raises:
        ConfigError: there is no such format.
        DataError: there is no `source`, the annotations cannot be read, something is wrong with
            them, or no format is recognised, or several are.
        MachineError: `out` holds something, or cannot be written.
    """
    with _readable(source):
        if not source.exists():
            raise DataError(f"there is no {printable(source)}", fix="Check the path.")
    refuse_used(out)
    with unpacked(source, beside=out) as folder:
        remarks = []
        if not kind:
            with _readable(folder):
                kind = _recognised(folder, (source, out))
            remarks.append(f"read as {kind}, the format that was recognised")
        annotations = read_annotations(kind, folder, images)
        if not annotations.images or (annotations.problems and len(annotations.classes) < 2):
            raise _nothing(annotations.problems)
        with new_folder(out, annotations.classes) as target:
            problems = _write_pairs(annotations, target, on_bad, max_pixels, progress)
            without, total = told_splits(annotations.images).count(None), len(annotations.images)
            if 0 < without < total:
                remarks.append(f"splits are left out: {without} of {total} images have none")
            notes = tuple(map(printable, [*remarks, *annotations.notes]))
            done = Imported(target.classes, target.counts, tuple(problems), notes)
            target.finish(_record(kind, source, done))
    return done


def _record(kind: str, source: Path, done: Imported) -> dict[str, object]:
    """What import.json holds."""
    shown = done.counts.shown
    return {
        "format": kind,
        "source": source.name,
        "pairs": done.pairs,
        "splits": done.counts.splits,
        "classes": {
            name: {"code": code, "masks": shown[code]} for code, name in enumerate(done.classes)
        },
        "masks_with_ignored_pixels": done.counts.ignored,
        "notes": done.notes,
        "skipped": [str(problem) for problem in done.skipped],
    }


def read_annotations(kind: str, source: Path, images: Path | None = None) -> Annotations:
    """What the annotations in a folder or file say; nothing is drawn yet.

    Raises:
        ConfigError: there is no such format.
        DataError: the annotations cannot be read.
    """
    if kind not in FORMATS:
        raise ConfigError(f"there is no format {kind!r}", fix=f"Choose of {', '.join(FORMATS)}.")
    with _readable(source):
        return collect(FORMATS[kind].read(source, images))


@contextmanager
def _readable(source: Path) -> Iterator[None]:
    """Turn what the system says against reading what is in `source` into an answer."""
    try:
        yield
    except OSError as error:
        where = name_in(source, Path(error.filename or source))
        raise DataError(f"{where} cannot be read: {error.strerror}", fix="Check it.") from error


def _recognised(folder: Path, paths: tuple[Path, Path]) -> str:
    """The format of a folder or file; errors show commands with `paths`, SRC and OUT."""
    exact = [name for name in FORMATS if name not in _BY_NAMES_ALONE]
    for names in (exact, _BY_NAMES_ALONE):
        recognised = [name for name in names if FORMATS[name].recognises(folder)]
        if len(recognised) == 1:
            return recognised[0]
        if recognised:
            commands = [
                shlex.join(["unetseg", "import", name, *map(str, paths)]) for name in recognised
            ]
            raise DataError(
                "annotations of several formats are there", commands, "Choose one of these."
            )
    command = shlex.join(["unetseg", "import", "FORMAT", *map(str, paths)])
    check = shlex.join(["unetseg", "check", str(paths[0])])
    fix = (
        f"Say which these are: {command} with one of {', '.join(FORMATS)}. Images and masks of "
        f"equal names need no import: {check}"
    )
    raise DataError(f"no annotations recognised in {printable(paths[0])}", fix=fix)


def _write_pairs(
    annotations: Annotations,
    target: PairsFolder,
    on_bad: str,
    max_pixels: int | None,
    progress: Progress,
) -> list[Problem]:
    """Draw and write what can be; the problems of what cannot.

    Once something is wrong that is not to be skipped, masks are still drawn, to list all faults,
    but no longer written.

    Raises:
        DataError: there are problems that are not to be skipped, or nothing can be written.
    """
    problems = list(annotations.problems)
    pairs = list(zip(annotations.images, pair_names(annotations.images), strict=True))
    progress.start("importing", len(pairs))
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(pairs), _BATCH):
            batch = pairs[start : start + _BATCH]
            is_refused = on_bad == "error" and bool(problems)
            write = partial(_write_pair, target, is_refused, max_pixels)
            for faults in pool.map(write, batch):
                problems += faults
            progress.advance("importing", len(batch), file=batch[-1][1])
    progress.finish("importing")
    if problems and on_bad == "error":
        kinds = Counter(problem.kind for problem in problems)
        counted = ", ".join(f"{kind} ({count})" for kind, count in kinds.items())
        raise DataError(
            f"{plural(len(problems), 'problem')} in the annotations: {counted}",
            problems,
            "Fix them, give --images DIR if images are elsewhere, or leave these images out by "
            "--on-bad skip.",
        )
    if not target.counts.pairs:
        raise _nothing(problems)
    return problems


def _write_pair(
    target: PairsFolder,
    is_refused: bool,
    max_pixels: int | None,
    pair: tuple[AnnotatedImage, str],
) -> list[Problem]:
    """Draw one mask, write the pair unless all are refused, and say what is wrong with it."""
    image, name = pair
    mask = image.mask
    try:
        with _image_file(image, max_pixels) as (path, size):
            if isinstance(mask, Path):
                file, codes = mask, mask_of_image(mask, *size).pixels
            else:
                assert callable(mask)  # as `collect` makes it
                file, codes = None, mask(*size)
            if codes.shape[:2] != size:
                came = f"the mask has {_text(codes.shape)} pixels, the image {_text(size)}"
                raise MaskError(came)
            target.check(codes) if is_refused else target.add(name, path, codes, file)
    except DataError as error:
        return [Problem("cannot be drawn", f"{image.name}: {reason}") for reason in reasons(error)]
    return []


@contextmanager
def _image_file(image: AnnotatedImage, max_pixels: int | None) -> Iterator[tuple[Path, Size]]:
    """The image file, an embedded one until the end, and its upright size, as annotated.

    Raises:
        MaskError: it is no image, or the annotations are for another size.
    """
    with TemporaryDirectory() if image.embedded else nullcontext("") as folder:
        path = image.path
        if image.embedded:
            path = Path(folder) / "image"
            path.write_bytes(image.embedded())
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            raise MaskError(f"{path.name} has the suffix of no image")
        try:
            with ImageFile(path, max_pixels) as file:
                size, is_turned, format_ = file.size, file.orientation > 4, file.format
        except ImageError as error:
            if not image.embedded or error.code == BOMB:
                raise
            raise MaskError("the image within the annotations is no image") from error
        if image.size not in {None, size}:
            turned = "; they were drawn without regard to its EXIF orientation"
            remark = turned if is_turned and image.size == size[::-1] else ""
            raise MaskError(
                f"the annotations are for {_text(image.size or ())} pixels (height × width), the "
                f"image has {_text(size)}{remark}"
            )
        yield path.rename(path.with_suffix(SUFFIXES[format_][0])) if image.embedded else path, size


def _text(size: Sequence[int]) -> str:
    return "×".join(str(side) for side in size[:2])


def _nothing(problems: Sequence[Problem]) -> DataError:
    fix = "Check that this is the format, and that the images are there (--images DIR)."
    return DataError("nothing could be imported", problems, fix)
