"""From the annotations of another program to a folder of plain pairs.

A format is a module with `read(source, images) -> Annotations`; `FORMATS` is the list of those that
there are. Reading finds the images and says what is wrong; masks are drawn one by one afterwards.

What is written is images/, masks/ and classes.txt, complete or not there. Image files are copied
byte for byte. Masks hold class codes, the line numbers of classes.txt, and 255 where there is no
truth; one pair has one name on both sides, so that every command understands the folder without a
flag.
"""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.folders import IMAGE_SUFFIXES
from unetseg.data.files.image import ImageFile
from unetseg.data.files.limits import BOMB
from unetseg.data.files.pngs import write_png
from unetseg.data.masks.class_map import IGNORED, MAX_CLASSES
from unetseg.data.pairs.naming import SPLITS, read_folder_name
from unetseg.errors import ConfigError, DataError, ImageError, MachineError, MaskError
from unetseg.importers import cityscapes, coco, cvat, instances, labelme, labelstudio, voc
from unetseg.importers.annotations import (
    AnnotatedImage,
    Annotations,
    Problem,
    mask_of_image,
    name_in,
    reasons,
    same_name,
)
from unetseg.importers.archives import unpacked
from unetseg.progress import SILENT, Progress
from unetseg.storage import atomic_path, replace_folder, write_json, write_text
from unetseg.text import plural, printable

RECORD = "import.json"
"""What was imported and what was left out, in OUT."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|__macosx", re.IGNORECASE)
_LONGEST = 180  # bytes of one part of a name; file systems hold 255
_LIKE_CODES = re.compile(r"^\d+[\s,;:]+\d+([\s,;:]|$)|\d+[\s,;:]+\d+[\s,;:]+\d+$|(^|\s)#|^[\s,;:]")
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


@dataclass
class Counts:
    """What was written.

    Attributes:
        pairs: Number of pairs.
        splits: Pairs of each split; empty without splits.
        shown: Masks that show each code.
        ignored: Masks with pixels that are ignored.
    """

    pairs: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    shown: Counter[int] = field(default_factory=Counter)
    ignored: int = 0


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
    kind: str,
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
        kind: One of `FORMATS`.
        source: A folder, a file, or an archive of them.
        out: A folder that is not there yet, or empty.
        images: Folder of the images, where they do not lie beside the annotations.
        on_bad: error: anything wrong is an error that lists all of it; skip: images with which
            something is wrong are left out, and listed in OUT/import.json.
        max_pixels: The largest image that is read, pixels; None for the usual limit.
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
            problems = _write_pairs(annotations, target, on_bad, max_pixels, progress)
            notes = tuple(map(printable, annotations.notes))
            done = Imported(target.classes, target.counts, tuple(problems), notes)
            target.finish(_record(kind, source, done))
    return done


def _write_pairs(
    annotations: Annotations,
    target: "PairsFolder",
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
    with ThreadPoolExecutor() as pool:
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
    target: "PairsFolder",
    is_refused: bool,
    max_pixels: int | None,
    pair: tuple[AnnotatedImage, str],
) -> list[Problem]:
    """Draw one mask, write the pair unless all are refused, and say what is wrong with it."""
    image, name = pair
    mask = image.mask
    try:
        with _file_of(image, max_pixels) as path:
            size = _agreed_size(path, image.size, max_pixels)
            codes = mask_of_image(mask, *size).pixels if isinstance(mask, Path) else mask(*size)
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
def _file_of(image: AnnotatedImage, max_pixels: int | None) -> Iterator[Path]:
    """The image file; for an embedded image one that is removed afterwards."""
    if image.embedded is None:
        yield image.path
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        path.write_bytes(image.embedded())
        try:
            with ImageFile(path, max_pixels) as embedded:
                suffix = _SUFFIXES[embedded.format]
        except ImageError as error:
            if error.code == BOMB:
                raise
            raise MaskError("the image within the annotations is no image") from error
        yield path.rename(path.with_suffix(suffix))


def _agreed_size(
    path: Path, stated: tuple[int, int] | None, max_pixels: int | None
) -> tuple[int, int]:
    """Height and width of the upright image, which the annotations must agree with."""
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise MaskError(f"{path.name} has the suffix of no image")
    with ImageFile(path, max_pixels) as image:
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


# The folder of pairs


@dataclass
class PairsFolder:
    """OUT while it is written, still a hidden folder beside it.

    Attributes:
        folder: The hidden folder.
        classes: The name of each code from 0 on.
        counts: What was written so far.
    """

    folder: Path
    classes: tuple[str, ...]
    counts: Counts = field(default_factory=Counts)
    _lock: Lock = field(default_factory=Lock)

    def add(
        self, name: str, image: Path, codes: NDArray[Any], mask_file: Path | None = None
    ) -> None:
        """Write one pair; threads may do so at once.

        Args:
            name: As `pair_names` gives it: `train/0001`.
            image: The image file, copied as it is.
            codes: Class codes and 255, uint8 H×W.
            mask_file: A file that holds just these codes; it is copied as it is.

        Raises:
            MaskError: the mask holds codes that are no class.
            MachineError: a file cannot be written.
        """
        used = self.check(codes)
        if mask_file is None:
            write_png(self.folder / f"masks/{name}.png", codes)
        else:
            self._copy(mask_file, f"masks/{name}{mask_file.suffix.lower()}")
        self._copy(image, f"images/{name}{image.suffix}")
        with self._lock:
            self.counts.pairs += 1
            self.counts.shown.update(code for code in used if code != IGNORED)
            self.counts.ignored += IGNORED in used
            first, _, rest = name.partition("/")
            if first in SPLITS and rest:
                self.counts.splits[first] += 1

    def check(self, codes: NDArray[Any]) -> list[int]:
        """The distinct codes of a mask, which must be classes or 255.

        Raises:
            MaskError: it holds others, or no codes at all.
        """
        if codes.ndim != 2 or codes.dtype != np.uint8:
            raise MaskError(f"the mask has {codes.dtype} pixels of {codes.ndim} axes, not codes")
        used = [int(code) for code in np.flatnonzero(np.bincount(codes.ravel(), minlength=256))]
        strange = [code for code in used if code >= len(self.classes) and code != IGNORED]
        if strange:
            shown = ", ".join(str(code) for code in strange)
            raise MaskError(f"the mask holds {shown}; the classes end at {len(self.classes) - 1}")
        return used

    def finish(self, record: object) -> None:
        """Write import.json and, where pixels are ignored, a dataset.yaml that says so."""
        write_json(self.folder / RECORD, record)
        if self.counts.ignored:
            write_text(self.folder / "dataset.yaml", f"ignore: [{IGNORED}]  # no truth there\n")

    def _copy(self, source: Path, target: str) -> None:
        with atomic_path(self.folder / target) as temporary:
            shutil.copyfile(source, temporary)


@contextmanager
def new_folder(out: Path, classes: Sequence[str]) -> Iterator[PairsFolder]:
    """Yield a hidden folder that becomes OUT in the end, and is removed if anything fails.

    Args:
        out: A folder that is not there yet, or empty.
        classes: The name of each code from 0 on.

    Raises:
        MachineError: `out` holds something, or cannot be written.
        DataError: there are more classes than a mask can hold, or fewer than two.
    """
    if not 2 <= len(classes) <= MAX_CLASSES:
        fix = "Take out or unite categories in the annotations, then import them again."
        came = f"the annotations have {len(classes)} classes, the background counted"
        raise DataError(f"{came}; from 2 to {MAX_CLASSES} are possible", fix=fix)
    refuse_used(out)
    with replace_folder(out.absolute()) as folder:
        target = PairsFolder(folder, unique_classes(classes))
        lines = (f"{code} {name}\n" for code, name in enumerate(target.classes))
        write_text(folder / "classes.txt", "".join(lines))
        yield target


def refuse_used(out: Path) -> None:
    """See that `out` is not there, or an empty folder.

    Raises:
        MachineError: it holds something, or is a file.
    """
    if out.exists() and not out.is_dir():
        raise MachineError(f"{printable(out)} is a file; an import needs a folder")
    if out.exists() and any(out.iterdir()):
        fix = "Name a folder that is not there yet, or empty this one."
        raise MachineError(f"{printable(out)} holds something already", fix=fix)


def pair_names(images: Sequence[AnnotatedImage]) -> list[str]:
    """Where each pair lies below images/ and masks/: `train/north/0001`, safe and unique.

    Folders of splits stand first, when every image has a split and some are for training;
    otherwise no split is told: a folder such as val becomes val_set, which no command takes for
    one. Names that only differ in case or Unicode form are made different.
    """
    parts = [safe_parts(image.name) for image in images]
    splits = [
        image.split or next((SPLITS[f.lower()] for f in folders if f.lower() in SPLITS), None)
        for image, (*folders, _) in zip(images, parts, strict=True)
    ]
    has_splits = None not in splits and "train" in splits
    wanted = []
    for split, (*folders, stem) in zip(splits, parts, strict=True):
        if has_splits and split:
            folders = [split, *(f for f in folders if f.lower() not in SPLITS)]
        else:
            folders = [f"{f}_set" if f.lower() in SPLITS else f for f in folders]
        wanted.append("/".join([*folders, stem]))
    return _unique(wanted, [image.path.suffix for image in images])


def safe_parts(name: str) -> list[str]:
    r"""The parts of a relative name that every file system can hold and nothing can climb out of.

    Folders that say "mask" are left out: they would change the role of what lies below masks/.

    >>> safe_parts("../../etc/a:b.c"), safe_parts(r"C:\x\labels\y"), safe_parts(".")
    (['etc', 'a_b.c'], ['x', 'y'], ['_'])
    """
    text = re.sub(r"^[A-Za-z]:", "", name)
    parts = [part for part in re.split(r"[/\\]+", text) if part not in {"", ".", ".."}] or ["_"]
    kept = [part for part in parts[:-1] if read_folder_name(part).role != "mask"]
    return [_safe(part) for part in [*map(_no_file, kept), parts[-1]]]


def unique_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Class names that a line of classes.txt can hold, all different.

    >>> unique_classes(["traffic  light", "a", "a", "x 1 2 3", ""])
    ('traffic light', 'a', 'a 2nd', 'x_1_2_3', 'class 4')
    """
    classes: list[str] = []
    for index, name in enumerate(names):
        text = " ".join("".join(c if c.isprintable() else " " for c in name).split())
        if _LIKE_CODES.search(text):  # would be read as numbers, a colour or a comment
            text = re.sub(r"[\s,;:#]+", "_", text)
        text = text or f"class {index}"
        counted = ["2nd", "3rd", *(f"{n}th" for n in range(4, MAX_CLASSES + 2))]
        names_left = (f"{text} {n}" for n in counted if f"{text} {n}" not in classes)
        classes.append(text if text not in classes else next(names_left))
    return tuple(classes)


def _safe(part: str) -> str:
    """One part of a name without what some system forbids or hides."""
    text = "".join("_" if c in '<>:"|?*' or not c.isprintable() else c for c in part)
    text = text.encode()[:_LONGEST].decode(errors="ignore").rstrip(". ")
    text = "_" + text[1:] if text.startswith(".") else text
    return f"_{text}" if _RESERVED.fullmatch(text) or not text else text


def _no_file(folder: str) -> str:
    """The name of a folder so that no image or mask beside it has the same: `a.png` as `a_png`."""
    stem, dot, suffix = folder.rpartition(".")
    return f"{stem}_{suffix}" if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else folder


def _unique(wanted: Iterable[str], suffixes: Iterable[str]) -> list[str]:
    """The wanted names; those that are taken get their suffix, then numbers."""
    taken: set[str] = set()
    tries: Counter[str] = Counter()  # of each wanted name, so that equal ones do not count anew
    names = []
    for plain, suffix in zip(wanted, suffixes, strict=True):
        name = plain
        while same_name(name) in taken:
            tries[plain] += 1
            number = tries[plain]
            name = f"{plain}_{suffix[1:]}" if number == 1 and suffix else f"{plain}_{number}"
        taken.add(same_name(name))
        names.append(name)
    return names
