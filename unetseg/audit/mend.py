"""A mended copy of a folder; the folder itself is never touched.

What a program can put right is put right: stray mask values are snapped to their class, masks at a
whole fraction or multiple of the image's size are resized, masks drawn on the unrotated photo are
rotated with it, names that differ only in case or Unicode form are made equal, and suffixes are
those of the content. Everything else is copied byte for byte, or left out and listed.
"""

import csv
import io
import shutil
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.audit.evidence import Evidence
from unetseg.audit.finding import listed
from unetseg.audit.sizes import whole_factor
from unetseg.data.description import write_description
from unetseg.data.fingerprint import PairFacts
from unetseg.data.images import upright
from unetseg.data.masks import ClassMap, read_mask, write_mask
from unetseg.data.pairs import Pair
from unetseg.errors import DataError, MachineError
from unetseg.progress import SILENT, Progress
from unetseg.storage import replace_folder, write_json, write_text

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "GIF": ".gif", "BMP": ".bmp"}
"""The suffix that a file of each content is given, where its name has another's."""


@dataclass
class Mended:
    """What `write_mended` did, one line for each file.

    Attributes:
        pairs: Pairs that were written.
        changes: Files of the copy that differ from the original, and how.
        left_out: Files that could not be mended, and why.
    """

    pairs: int = 0
    changes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def write_mended(
    evidence: Evidence,
    class_map: ClassMap,
    out: Path,
    left_out: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Mended:
    """Write OUT/images, OUT/masks, OUT/pairs.csv, OUT/dataset.yaml and OUT/mended.json.

    Args:
        evidence: The pairs to copy.
        class_map: What the mask values mean; with `snap` where stray ones are to be snapped.
        out: A folder that is not there yet, or empty.
        left_out: Files that are known to be beyond mending, for the list.
        progress: Hears what is done.

    Raises:
        MachineError: `out` holds something, or cannot be written.
        DataError: no pair can be mended.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MachineError(
            f"{out} holds something already", mend="Name a folder that is not there."
        )
    result = Mended(left_out=list(left_out))
    rows: list[dict[str, str]] = []
    progress.start("mending", len(evidence.pairs))
    with replace_folder(out) as fresh, ThreadPoolExecutor() as pool:
        work = partial(_mend_pair, class_map=class_map, out=fresh)
        couples = zip(evidence.pairs, evidence.facts, strict=True)
        for pair, done in zip(evidence.pairs, pool.map(lambda c: work(*c), couples), strict=True):
            progress.advance("mending", file=pair.name)
            if isinstance(done, str):
                result.left_out.append(done)
                continue
            rows.append(_row(pair, done, own_splits=evidence.own_splits))
            result.changes += done.changes
        if not rows:
            raise DataError("no pair can be mended", result.left_out, "Mend the files by hand.")
        result.pairs = len(rows)
        _write_lists(fresh, rows, class_map, result)
    progress.finish("mending")
    return result


@dataclass(frozen=True)
class _Copy:
    """Where a mended pair lies below the copy, and what was changed."""

    image: str
    mask: str
    changes: tuple[str, ...]


def _mend_pair(pair: Pair, fact: PairFacts, class_map: ClassMap, out: Path) -> _Copy | str:
    """Copy a pair, mended; or say why that cannot be."""
    assert pair.mask is not None  # the evidence holds whole pairs
    name = unicodedata.normalize("NFC", pair.name)
    suffix = _suffix(pair.image, fact.image.format)
    image, changes = f"images/{name}{suffix}", []
    if fact.image.bad:
        return f"{pair.image}: NaN or infinite pixels"
    if suffix != pair.image.suffix.lower():
        changes.append(f"{image}: the content is {fact.image.format}, not {pair.image.suffix}")
    index, how = _mended_mask(pair.mask, fact, class_map)
    if index is None:
        return f"{pair.mask}: {how}"
    mask = f"masks/{name}{class_map.suffix if how else pair.mask.suffix}"
    if how:
        changes.append(f"{mask}: {how}")
        write_mask(out / mask, index, class_map)
    for source, target in ((pair.image, image), *([] if how else [(pair.mask, mask)])):
        (out / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, out / target)
    if pair.mask.stem != pair.image.stem and _folded(pair.mask.stem) == _folded(pair.image.stem):
        changes.append(f"{mask}: named like its image")
    return _Copy(image, mask, tuple(changes))


def _mended_mask(
    path: Path, fact: PairFacts, class_map: ClassMap
) -> tuple[NDArray[np.uint8] | None, str]:
    """The class indexes of a mask that needs mending, and what was done.

    An empty text means that the file is good as it is; None, that it is beyond mending.
    """
    known = {*(item.code for item in class_map.classes), *class_map.ignore}
    strays = sum(pixels for code, pixels in fact.mask.counts if code not in known)
    same_size = fact.mask.shape == fact.image.shape
    if same_size and not strays and not fact.mask.lossy:
        return np.empty(0, np.uint8), ""
    index = class_map.encode(read_mask(path).pixels, path)
    steps = [f"{strays} pixels snapped to the nearest class"] if strays else []
    if not same_size:
        resized, step = _resized(index, fact)
        if resized is None:
            return None, step
        index, steps = resized, [*steps, step]
    return index, ", ".join(steps) or "saved without loss"


def _resized(index: NDArray[np.uint8], fact: PairFacts) -> tuple[NDArray[np.uint8] | None, str]:
    """A mask at the size of its image, where a whole factor or a rotation makes it so."""
    factor = whole_factor(fact.image.shape, fact.mask.shape)
    if factor is not None and factor >= 1:
        times = round(factor)
        return index.repeat(times, 0).repeat(times, 1), f"enlarged {times} times"
    if factor is not None:
        step = round(1 / factor)
        return index[step // 2 :: step, step // 2 :: step], f"reduced {step} times"
    turned: NDArray[Any] = upright(index[..., None], fact.image.orientation)[..., 0]
    if turned.shape == fact.image.shape and fact.image.orientation > 1:
        return np.ascontiguousarray(turned), "turned upright like its image"
    return None, "its size is no whole multiple or fraction of the image's"


def _suffix(path: Path, content: str) -> str:
    """The suffix that says what the file holds; its own where that is no lie."""
    right = SUFFIXES.get(content, path.suffix.lower())
    alike = {".jpg": {".jpeg", ".jpe", ".jfif"}, ".tif": {".tiff"}}.get(right, set())
    return path.suffix.lower() if path.suffix.lower() in {right, *alike} else right


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _row(pair: Pair, copy: _Copy, *, own_splits: bool) -> dict[str, str]:
    split = (pair.split or "") if own_splits else ""
    return {"image": copy.image, "mask": copy.mask, "split": split, "group": pair.group or ""}


def _write_lists(
    out: Path, rows: Sequence[dict[str, str]], class_map: ClassMap, result: Mended
) -> None:
    """pairs.csv, dataset.yaml with the classes, and mended.json with what was done."""
    used = [name for name in rows[0] if any(row[name] for row in rows)]
    text = io.StringIO()
    writer = csv.DictWriter(text, used, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "pairs.csv", text.getvalue())
    write_description(out / "dataset.yaml", class_map.model_copy(update={"snap": False}))
    lists = {"changes": listed(result.changes), "left_out": listed(result.left_out)}
    write_json(out / "mended.json", {"pairs": result.pairs, **lists})
