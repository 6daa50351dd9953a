"""A fixed copy of a folder; the folder itself is never touched.

What a program can put right is put right: stray mask values are snapped to their class, masks at a
whole fraction or multiple of the image's size are resized, masks drawn on the unrotated photo are
rotated with it, names that differ only in case or Unicode form are made equal, suffixes are those
of the content, and names that collide or hold what is not seen get others. Everything else is
copied byte for byte, or left out and listed.
"""

import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetseg.checks.names import UNSEEN
from unetseg.config import DataConfig
from unetseg.data.facts.fingerprint import NO_NUMBERS, PairFacts
from unetseg.data.facts.survey import Survey, conclude
from unetseg.data.files.folders import SUFFIXES
from unetseg.data.files.georeference import companions
from unetseg.data.files.image import ImageFile
from unetseg.data.files.pages import MaskPath, MaskSet, split_page
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.files.windows import upright
from unetseg.data.masks.class_map import ClassMap, write_mask
from unetseg.data.masks.mask_file import fitted, read_mask, whole_factor
from unetseg.data.masks.mask_values import as_colours
from unetseg.data.pairs.dataset_yaml import write_description
from unetseg.data.pairs.match import NO_IMAGE, NO_MASK, SEVERAL, Pair
from unetseg.data.pairs.naming import fold
from unetseg.errors import DataError, ImageError, MachineError, MaskError
from unetseg.progress import SILENT, Progress
from unetseg.resources import usable_cores
from unetseg.storage import is_file, replace_folder, write_csv, write_json, writing
from unetseg.text import plural, printable


@dataclass
class Fixed:
    """What `write_fixed` did, one line for each file.

    Attributes:
        pairs: Pairs that were written.
        changes: Files of the copy that differ from the original, and how.
        left_out: Files that could not be fixed, and why.
    """

    pairs: int = 0
    changes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def check_target(data: Path, out: Path) -> None:
    """Refuse a folder for the copy of `data` that is in use, or a part of `data`.

    Raises:
        MachineError: `out` holds something, lies in `data`, or may not be looked into.
    """
    if data.resolve() in out.resolve().parents:
        raise MachineError(
            f"{printable(out)} lies in {printable(data)}, which is never changed",
            fix="Name a folder outside of it.",
        )
    with writing(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            fix = "Name a folder that is not there."
            raise MachineError(f"{printable(out)} holds something already", fix=fix)


def write_fixed(survey: Survey, out: Path, progress: Progress = SILENT) -> Fixed:
    """Write OUT/images, OUT/masks, OUT/pairs.csv, OUT/dataset.yaml and OUT/fixed.json.

    Args:
        survey: The folder, with all its faults (`strict=False`).
        out: A folder that is not there yet, or empty.
        progress: Hears what is done.

    Raises:
        MaskError: the masks' values make no sense, even when stray ones are snapped.
        MachineError: `out` holds something, lies in the folder, or cannot be written.
        DataError: no pair can be fixed.
    """
    for source in filter(None, (survey.data, survey.config.images, survey.config.masks)):
        check_target(source, out)
    pairs = tuple(pair for pair in survey.paired if pair.name in survey.facts)
    whole = replace(survey, pairs=replace(survey.pairs, pairs=pairs))
    orphans = [
        f"{path}: {why}"
        for path, why in survey.pairs.left_out
        if why in {NO_MASK, NO_IMAGE, SEVERAL}
    ]
    views = [f"{p.region}: a field of view; eval takes it by --region" for p in pairs if p.region]
    unreadable = (fault.summary for fault in survey.faults.unreadable)
    fixed = Fixed(left_out=[*orphans, *views, *unreadable])
    if not whole.facts:
        raise _nothing_fixed(fixed)
    try:
        class_map, _ = conclude(whole, snap=survey.config.snap)
    except MaskError:
        class_map, _ = conclude(whole, snap=True)
    progress.start("fixing", len(whole.facts))
    # "." has no name beside which a folder could be prepared
    with replace_folder(out.resolve()) as fresh:
        rows = list(_fix_pairs(whole, class_map, fresh, fixed, progress))
        if not rows:
            raise _nothing_fixed(fixed)
        fixed.pairs = len(rows)
        _write_lists(fresh, rows, class_map, survey.config, fixed)
    progress.finish("fixing")
    return fixed


def _nothing_fixed(fixed: Fixed) -> DataError:
    lines = [printable(line) for line in fixed.left_out]
    return DataError("no pair can be fixed", lines, "Fix the files by hand.")


def _fix_pairs(
    whole: Survey, class_map: ClassMap, out: Path, fixed: Fixed, progress: Progress
) -> Iterator[dict[str, str]]:
    """Fix every pair, and yield the row of pairs.csv for each that could be."""
    pairs, facts = whole.pairs.pairs, whole.facts_of("all")
    names: dict[str, str] = {}  # without unseen characters, and different in more than case
    for pair in pairs:
        seen = UNSEEN.sub("_", unicodedata.normalize("NFC", pair.name))
        options = chain([seen], (f"{seen}_{i}" for i in count(2)))
        free = next(option for option in options if fold(option) not in names)
        names[fold(free)] = free

    def fix(pair: Pair, fact: PairFacts, name: str) -> tuple[dict[str, str], list[str]] | DataError:
        try:
            return _fix_pair(pair, fact, name, class_map, out, whole.config.max_pixels)
        except DataError as error:  # beyond fixing, or changed since it was looked at
            return error

    with ThreadPoolExecutor(usable_cores()) as pool:
        for pair, copy in zip(pairs, pool.map(fix, pairs, facts, names.values()), strict=True):
            progress.advance("fixing", file=printable(pair.name))
            if isinstance(copy, DataError):
                fixed.left_out.append(copy.summary)
                continue
            files, changes = copy
            fixed.changes += changes
            yield files | {"split": pair.split or "", "group": printable(pair.group or "")}


def _fix_pair(
    pair: Pair, fact: PairFacts, name: str, class_map: ClassMap, out: Path, max_pixels: int | None
) -> tuple[dict[str, str], list[str]]:
    """Copy a pair, fixed, under a new name: its files below `out`, and how they were changed.

    Raises:
        DataError: it is beyond fixing, or cannot be read.
    """
    if fact.image.bad:
        raise ImageError(f"{pair.image}: {NO_NUMBERS}")
    index, step = _fixed_mask(pair.mask, fact, class_map, max_pixels)
    image = f"images/{name}{_suffix(pair.image, fact.image.format)}"
    first = pair.mask.paths[0] if isinstance(pair.mask, MaskSet) else pair.mask or pair.image
    suffix = _suffix(first, fact.mask.format) if index is None else class_map.suffix
    mask = f"masks/{name}{suffix}"
    was, stem = unicodedata.normalize("NFC", pair.name), pair.image.stem
    renamed = [f"was {printable(pair.name)}"] if was != name else []
    is_unlike = stem != first.stem and fold(stem) == fold(first.stem)
    alike = ["named like its image"] if is_unlike and not renamed else []
    written = [step] if step else _relabelled(first, fact.mask.format)
    changes = {
        image: [*renamed, *_relabelled(pair.image, fact.image.format)],
        mask: [*renamed, *alike, *written],
    }
    copies = _copy(pair.image, out / image, max_pixels)
    try:
        if index is None:
            _copy(first, out / mask, max_pixels)
        else:
            write_mask(out / mask, index, class_map)
    except ImageError:
        for copy in copies:
            copy.unlink()
        raise
    lines = [f"{file}: {', '.join(steps)}" for file, steps in changes.items() if steps]
    return {"image": image, "mask": mask}, lines


def _copy(source: Path, target: Path, max_pixels: int | None) -> list[Path]:
    """Copy a file or a page, with what lies beside it and tells of places or missing pixels.

    Returns:
        The copies.

    Raises:
        ImageError: a file cannot be read; an error of writing stays an OSError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if split_page(source)[1]:
        with ImageFile(source, max_pixels) as page:
            picture = page.picture()
        colours = None if picture.palette is None else picture.palette[:, :3].ravel().tolist()
        write_tiff(target, picture.pixels, colours, white_is_zero=picture.white_is_zero)
        return [target]
    files = {target: source}
    for known, beside in companions(source).items():
        stem, end = (target.name, known[9:]) if ".tif." in known else (target.stem, known[5:])
        files[target.with_name(stem + end.replace(".tfw", ".wld"))] = beside
    if is_file(f"{source}.msk"):
        files[target.with_name(f"{target.name}.msk")] = Path(f"{source}.msk")
    for copy, file in files.items():
        try:
            shutil.copyfile(file, copy)
        except OSError as error:
            if error.filename is None or Path(error.filename) != file:
                raise
            raise ImageError(f"{file} cannot be read: {error.strerror}") from error
    return [*files]


def _fixed_mask(
    path: MaskPath | None, fact: PairFacts, class_map: ClassMap, max_pixels: int | None
) -> tuple[NDArray[np.uint8] | None, str]:
    """The class indexes of a mask that needs fixing, and what was done; (None, "") for a good file.

    Raises:
        MaskError: it is beyond fixing.
    """
    if path is None:
        blank = np.full(fact.image.shape, class_map.background or 0, np.uint8)
        return blank, "drawn for an image that shows nothing"
    by_colour = class_map.coding == "rgb" and fact.mask.palette is not None
    held = as_colours(fact.mask) if by_colour else fact.mask
    united = (code for code, _ in class_map.united)
    codes = {*(item.code for item in class_map.classes), *class_map.ignore, *united}
    if fact.mask.coding == "rgb" and class_map.coding != "rgb":  # grey among numbers
        codes = {(code, code, code) for code in codes if not isinstance(code, tuple)}
    strays = held.pixels - sum(n for code, n in held.counts if code in codes)
    strays = strays if class_map.snap else 0
    same_size = fact.mask.shape == fact.image.shape
    parts = len(path.paths) if isinstance(path, MaskSet) else 0
    if same_size and not (strays or fact.mask.lossy or by_colour or parts):
        return None, ""
    raw = read_mask(path, max_pixels)
    index = class_map.encode(raw.pixels, path, raw.palette)
    steps = ["saved as RGB"] if by_colour else []
    steps += [f"united from {plural(parts, 'file')}"] if parts else []
    steps += [f"{plural(strays, 'pixel')} snapped to the nearest class"] if strays else []
    if not same_size:
        factor = whole_factor(fact.image.shape, fact.mask.shape)
        if factor is None:
            index = np.ascontiguousarray(upright(index[..., None], fact.image.orientation)[..., 0])
            if index.shape != fact.image.shape or fact.image.orientation <= 1:
                reason = "its size is no whole multiple or fraction of the image's"
                raise MaskError(f"{path}: {reason}")
            steps.append("turned upright like its image")
        elif factor >= 1:
            steps.append(f"enlarged {factor:.0f} times")
        else:
            steps.append(f"reduced {1 / factor:.0f} times")
        index = fitted(index, fact.image.shape)
    return index, ", ".join(steps) or "saved without loss"


def _suffix(path: Path, content: str) -> str:
    """The suffix that says what the file holds; its own where that is no lie."""
    if split_page(path)[1]:
        return ".tif"
    own, right = path.suffix.lower(), SUFFIXES.get(content, ())
    return own if own in right or not right else right[0]


def _relabelled(path: Path, content: str) -> list[str]:
    """What is said about a page, or a suffix that lied."""
    if split_page(path)[1]:
        return [f"was {printable(path.name)}"]
    lied = _suffix(path, content) != path.suffix.lower()
    return [f"the content is {content}, not {path.suffix}"] if lied else []


def _write_lists(
    out: Path,
    rows: Sequence[dict[str, str]],
    class_map: ClassMap,
    settings: DataConfig,
    fixed: Fixed,
) -> None:
    """pairs.csv, dataset.yaml with the classes, and fixed.json with what was done."""
    used = [name for name in rows[0] if any(row[name] for row in rows)]
    write_csv(out / "pairs.csv", [{name: row[name] for name in used} for row in rows])
    clean = class_map.model_copy(update={"snap": False})
    kept = DataConfig(val_fraction=settings.val_fraction)
    write_description(out / "dataset.yaml", clean, settings=kept)
    lists = {"changes": fixed.changes, "left_out": fixed.left_out}
    told = {name: [printable(line) for line in lines] for name, lines in lists.items()}
    write_json(out / "fixed.json", {"pairs": fixed.pairs, **told})
