"""From the annotations of another program to a folder of plain pairs.

A format is a module with `read(source, images) -> Annotations`; `FORMATS` is the list of those that
there are. Reading finds the images and says what is wrong; masks are drawn one by one afterwards.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from unetseg.data.files.folders import IMAGE_SUFFIXES
from unetseg.data.files.image import ImageFile
from unetseg.data.masks.mask_file import read_mask
from unetseg.errors import ConfigError, DataError, ImageError, MaskError
from unetseg.importers import cityscapes, coco, cvat, instances, labelme, labelstudio, voc
from unetseg.importers.annotations import (
    AnnotatedImage,
    Annotations,
    Problem,
    name_in,
    reasons,
)
from unetseg.importers.archives import unpacked
from unetseg.importers.pairs_folder import Counts, PairsFolder, new_folder, pair_names, refuse_used
from unetseg.progress import SILENT, Progress
from unetseg.text import plural, printable

_BATCH = 64  # pairs that are given to the threads at once
_SUFFIXES = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "TIFF": ".tif",
    "GIF": ".gif",
    "BMP": ".bmp",
    "WEBP": ".webp",
    "PPM": ".ppm",
    "JPEG2000": ".jp2",
}

Reader = Callable[[Path, Path | None], Annotations]
FORMATS: dict[str, Reader] = {
    "coco": coco.read,
    "voc": voc.read,
    "labelme": labelme.read,
    "cvat": cvat.read,
    "labelstudio": labelstudio.read,
    "cityscapes": cityscapes.read,
    "instances": instances.read,
}


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


def import_dataset(
    kind: str,
    source: Path,
    out: Path,
    *,
    images: Path | None = None,
    on_bad: Literal["error", "skip"] = "error",
    progress: Progress = SILENT,
) -> Imported:
    """Write the annotations in `source` as pairs to the folder `out`, which is whole or not there.

    Args:
        kind: One of `FORMATS`.
        source: A folder, a file, or an archive of them.
        out: A folder that is not there yet, or empty.
        images: Folder of the images, where they do not lie beside the annotations.
        on_bad: error: anything wrong is an error that lists all of it; skip: images with which
            something is wrong are left out, and listed in OUT/import.json.
        progress: Hears how many are done.

    Raises:
        ConfigError: there is no such format.
        DataError: the annotations cannot be read, or something is wrong with them.
        MachineError: `out` holds something, or cannot be written.
    """
    if kind not in FORMATS:
        raise ConfigError(f"there is no format {kind!r}", fix=f"Choose of {', '.join(FORMATS)}.")
    if not source.exists():
        raise DataError(f"there is no {printable(source)}", fix="Check the path.")
    refuse_used(out)
    with unpacked(source, beside=out) as folder:
        try:
            annotations = FORMATS[kind](folder, images)
        except OSError as error:
            where = name_in(folder, Path(error.filename or folder))
            raise DataError(f"{where} cannot be read: {error.strerror}", fix="Check it.") from error
        if not annotations.images or (annotations.problems and len(annotations.classes) < 2):
            raise _nothing(annotations.problems)
        with new_folder(out, annotations.classes) as target:
            problems = _write_pairs(annotations, target, on_bad, progress)
            notes = tuple(map(printable, annotations.notes))
            done = Imported(target.classes, target.counts, tuple(problems), notes)
            target.finish(_record(kind, source, done))
    return done


def _write_pairs(
    annotations: Annotations, target: PairsFolder, on_bad: str, progress: Progress
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
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(pairs), _BATCH):
            batch = pairs[start : start + _BATCH]
            is_refused = on_bad == "error" and bool(problems)
            for faults in pool.map(partial(_write_pair, target, is_refused), batch):
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
    target: PairsFolder, is_refused: bool, pair: tuple[AnnotatedImage, str]
) -> list[Problem]:
    """Draw one mask, write the pair unless all are refused, and say what is wrong with it."""
    image, name = pair
    mask = image.mask
    try:
        with _file_of(image) as path:
            size = _agreed_size(path, image.size)
            codes = read_mask(mask).pixels if isinstance(mask, Path) else mask(*size)
            if codes.shape[:2] != size:
                came = f"the mask has {_text(codes.shape)} pixels, the image {_text(size)}"
                raise MaskError(came)
            if is_refused:
                target.check(codes)
            else:
                target.add(name, path, codes, mask if isinstance(mask, Path) else None)
    except DataError as error:
        return [Problem("cannot be drawn", f"{image.name}: {reason}") for reason in reasons(error)]
    return []


@contextmanager
def _file_of(image: AnnotatedImage) -> Iterator[Path]:
    """The image file; for an embedded image one that is removed afterwards."""
    if image.embedded is None:
        yield image.path
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        path.write_bytes(image.embedded())
        try:
            with ImageFile(path) as embedded:
                suffix = _SUFFIXES[embedded.format]
        except ImageError as error:
            raise MaskError("the image within the annotations is no image") from error
        yield path.rename(path.with_suffix(suffix))


def _agreed_size(path: Path, stated: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the upright image, which the annotations must agree with."""
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise MaskError(f"{path.name} has the suffix of no image")
    with ImageFile(path) as image:
        size, orientation = image.size, image.orientation
    if stated is None or stated == size:
        return size
    is_turned = stated == size[::-1] and orientation > 4
    remark = "; they were drawn without regard to its EXIF orientation" if is_turned else ""
    raise MaskError(
        f"the annotations are for {_text(stated)} pixels (height × width), the image has "
        f"{_text(size)}{remark}"
    )


def _text(size: Sequence[int]) -> str:
    return "×".join(str(side) for side in size[:2])


def _nothing(problems: Sequence[Problem]) -> DataError:
    fix = "Check that this is the format, and that the images are there (--images DIR)."
    return DataError("nothing could be imported", problems, fix)


def _record(kind: str, source: Path, done: Imported) -> dict[str, object]:
    """What import.json says."""
    return {
        "format": kind,
        "source": source.name,
        "pairs": done.pairs,
        "splits": done.counts.splits,
        "classes": {
            name: {"code": code, "masks": done.counts.shown[code]}
            for code, name in enumerate(done.classes)
        },
        "masks_with_ignored_pixels": done.counts.ignored,
        "notes": done.notes,
        "skipped": [str(problem) for problem in done.skipped],
    }
