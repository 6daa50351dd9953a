"""The folder of pairs that an import writes: images/, masks/ and classes.txt.

It is complete or not there. Image files are copied byte for byte. Masks hold class codes, the line
numbers of classes.txt, and 255 where there is no truth; one pair has one name on both sides, so
that every command understands the folder without a flag.
"""

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.folders import IMAGE_SUFFIXES
from unetseg.data.files.pngs import write_png
from unetseg.data.masks.class_map import IGNORED, MAX_CLASSES
from unetseg.data.pairs.match import find_pairs
from unetseg.data.pairs.naming import SPLITS, fold, read_name
from unetseg.errors import DataError, MachineError, MaskError, PairingError
from unetseg.importers.annotations import AnnotatedImage
from unetseg.storage import (
    atomic_path,
    replace_folder,
    write_csv,
    write_json,
    write_text,
    writing,
)
from unetseg.text import printable

RECORD = "import.json"
"""What was imported and what was left out, in OUT."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|__macosx", re.IGNORECASE)
_LONGEST = 180  # bytes of one part of a name; file systems hold 255
_LIKE_CODES = re.compile(r"^\d+[\s,;:]+\d+([\s,;:]|$)|\d+[\s,;:]+\d+[\s,;:]+\d+$|(^|\s)#|^[\s,;:]")


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


@dataclass
class PairsFolder:
    """OUT while it is written, still a hidden folder beside it.

    Attributes:
        folder: The hidden folder.
        classes: The name of each code from 0 on.
        counts: What was written so far.
        couples: Image and mask of each pair, below the folder.
    """

    folder: Path
    classes: tuple[str, ...]
    counts: Counts = field(default_factory=Counts)
    couples: list[tuple[str, str]] = field(default_factory=list)
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
        suffix = ".png" if mask_file is None else mask_file.suffix.lower()
        couple = f"images/{name}{image.suffix}", f"masks/{name}{suffix}"
        copies = {couple[0]: image}
        if mask_file is None:
            write_png(self.folder / couple[1], codes)
        else:
            copies[couple[1]] = mask_file
        for target, source in copies.items():
            with atomic_path(self.folder / target) as temporary:
                shutil.copyfile(source, temporary)
        with self._lock:
            self.couples.append(couple)
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
        """Write import.json and, where they are needed, dataset.yaml and pairs.csv."""
        write_json(self.folder / RECORD, record)
        pin_pairs(self.folder, self.couples)
        if self.counts.ignored:
            write_text(self.folder / "dataset.yaml", f"ignore: [{IGNORED}]  # no truth there\n")


def pin_pairs(folder: Path, couples: Iterable[tuple[str, str]]) -> None:
    """Write pairs.csv, unless all commands find these pairs, in these splits, without it.

    Names may say anything: `a` and `a_mask`, `a` and `images/a`. One split of all is none.

    Args:
        folder: The folder of pairs.
        couples: Image and mask of each pair, below the folder.
    """
    firsts = {image: Path(image).parts[1] for image, _ in couples}
    splits = {*firsts.values()} & SPLITS.keys()
    rows = [
        {
            "image": image,
            "mask": mask,
            "split": firsts[image] if len(splits) > 1 and firsts[image] in splits else "",
        }
        for image, mask in sorted(couples)
    ]
    try:
        again = find_pairs(folder).pairs
    except PairingError:
        again = ()
    wanted = {(folder / row["image"], folder / row["mask"], row["split"]) for row in rows}
    if {(pair.image, pair.mask, pair.split or "") for pair in again} != wanted:
        write_csv(folder / "pairs.csv", rows)


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
        MachineError: it holds something, is a file, or may not be looked into.
    """
    with writing(out):
        if out.exists() and not out.is_dir():
            raise MachineError(f"{printable(out)} is a file; an import needs a folder")
        if out.exists() and any(out.iterdir()):
            fix = "Name a folder that is not there yet, or empty this one."
            raise MachineError(f"{printable(out)} holds something already", fix=fix)


def told_splits(images: Sequence[AnnotatedImage]) -> list[str | None]:
    """The split of each image, as the source tells it, else as one of its folders is called."""
    above = [safe_parts(image.name)[:-1] for image in images]
    return [
        image.split or next((SPLITS[f.lower()] for f in folders if f.lower() in SPLITS), None)
        for image, folders in zip(images, above, strict=True)
    ]


def pair_names(images: Sequence[AnnotatedImage]) -> list[str]:
    """Where each pair lies below images/ and masks/: `train/north/0001`, safe and unique.

    Folders of splits stand first, when every image has a split and some are for training;
    otherwise no split is told: a folder such as val becomes val_set, which no command takes for
    one. Names that only differ in case or Unicode form are made different: those that are taken get
    their suffix, then numbers.
    """
    splits = told_splits(images)
    has_splits = None not in splits and "train" in splits
    wanted = []
    for split, image in zip(splits, images, strict=True):
        *folders, stem = safe_parts(image.name)
        if has_splits and split:
            folders = [split, *(f for f in folders if f.lower() not in SPLITS)]
        else:
            folders = [f"{f}_set" if f.lower() in SPLITS else f for f in folders]
        wanted.append("/".join([*folders, stem]))
    taken: set[str] = set()
    tries: Counter[str] = Counter()  # of each wanted name, so that equal ones do not count anew
    names = []
    for plain, image in zip(wanted, images, strict=True):
        name = plain
        while fold(name) in taken:
            tries[plain] += 1
            suffix, number = image.path.suffix, tries[plain]
            name = f"{plain}_{suffix[1:]}" if number == 1 and suffix else f"{plain}_{number}"
        taken.add(fold(name))
        names.append(name)
    return names


def safe_parts(name: str) -> list[str]:
    r"""The parts of a relative name that every file system can hold and nothing can climb out of.

    Folders that say "mask" are left out: they would change the role of what lies below masks/.

    >>> safe_parts("../../etc/a:b.c"), safe_parts(r"C:\x\labels\y"), safe_parts(".")
    (['etc', 'a_b.c'], ['x', 'y'], ['_'])
    """
    text = re.sub(r"^[A-Za-z]:", "", name)
    parts = [part for part in re.split(r"[/\\]+", text) if part not in {"", ".", ".."}] or ["_"]
    *folders, stem = parts
    folders = [folder for folder in folders if read_name(folder).role != "mask"]
    for i, folder in enumerate(folders):  # no image or mask beside it has the same name: a_png
        plain, dot, suffix = folder.rpartition(".")
        folders[i] = f"{plain}_{suffix}" if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else folder
    safe = []
    for part in [*folders, stem]:
        text = "".join("_" if c in '<>:"|?*' or not c.isprintable() else c for c in part)
        text = text.encode()[:_LONGEST].decode(errors="ignore").rstrip(". ")
        text = "_" + text[1:] if text.startswith(".") else text
        safe.append(f"_{text}" if _RESERVED.fullmatch(text) or not text else text)
    return safe


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
