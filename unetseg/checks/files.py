"""Files that cannot be read, do not fit together, or hold what few would expect."""

import errno
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from unetseg.checks.finding import (
    FIX,
    Check,
    Finding,
    Kind,
    Line,
    by_kind,
    error,
    error_line,
    note,
    percent,
    warning,
)
from unetseg.data.facts.fingerprint import KIND_FIX, NO_NUMBERS, find_strangers, size_text
from unetseg.data.facts.image_values import ImageFacts
from unetseg.data.facts.survey import Survey
from unetseg.data.files.folders import IMAGE_SUFFIXES, SUFFIXES, is_hidden
from unetseg.data.files.limits import BOMB
from unetseg.data.files.pages import file_of
from unetseg.data.files.rasters import UNTRAINED, is_raster
from unetseg.data.masks.mask_file import whole_factor
from unetseg.errors import DataError
from unetseg.storage import is_file, is_folder
from unetseg.text import plural

SMALL = 32  # pixels: with a shorter side an image has little context
UNEQUAL = 64  # times: the pixels of the largest image over those of the smallest
SATURATED = 0.1  # share of the values at the highest of their band that is worth a word
SCALE = 32  # levels between lowest and highest value; with fewer, many pixels hold the highest
COMMON = 0.25  # share of the images from which a trait is how these images are, and no slip


# Entries of a folder

_ENTRIES = {
    "no-regular-file": Kind(
        "error",
        "image",
        "behind broken links, pipes or the like",
        "Restore the files or remove the entries.",
    ),
    "broken-link": Kind(
        "warning",
        "link",
        "leading nowhere, perhaps once to a folder of images",
        "Restore what they lead to, or remove them.",
    ),
    "no-permission": Kind(
        "error",
        "file or folder",
        "without permission to read",
        "Give yourself the permission (chmod -R u+rX FOLDER), or take them out.",
    ),
    "unnamed-raster": Kind("note", "raster", f"left out: {UNTRAINED}"),
    "link-loop": Kind("note", "link", "to a folder above, left out"),
}
_Identity = tuple[int, int]  # device and number on it, which tell a folder whatever its name


def inspect_entries(survey: Survey) -> Iterator[Finding]:
    """Links that lead nowhere or in a circle, pipes, what may not be read, and rasters of GDAL.

    No pipe is opened, so that nothing is waited for; hidden entries are left out.
    """
    groups: dict[str, list[Line]] = defaultdict(list)
    if survey.data.is_dir():
        above = frozenset(map(_identity, survey.data.resolve().parents))
        for check, line in _walk(survey.data, above, set()):
            groups[check].append(line)
        named = {(pair.image, "") for pair in survey.pairs.pairs}
        groups["unnamed-raster"] = [r for r in groups["unnamed-raster"] if r not in named]
    yield from by_kind(_ENTRIES, groups)


def _identity(folder: Path) -> _Identity:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _walk(
    folder: Path, above: frozenset[_Identity], seen: set[_Identity]
) -> Iterator[tuple[str, Line]]:
    """What is odd in a folder; each is entered once, and none that lies above."""
    try:
        here, entries = _identity(folder), sorted(folder.iterdir())
    except OSError as fault:
        yield "no-permission", (folder, f": {fault.strerror}")
        return
    if here in above:
        yield "link-loop", (folder, f": a link to {folder.resolve()}")
    if here in above or here in seen:
        return
    seen.add(here)
    for entry in entries:
        if is_hidden([entry.name]):
            continue
        if is_folder(entry):
            yield from _walk(entry, above | {here}, seen)
        else:
            yield from _look_at_entry(entry)


def _look_at_entry(entry: Path) -> Iterator[tuple[str, Line]]:
    is_image = entry.suffix.lower() in IMAGE_SUFFIXES
    try:
        mode = entry.stat().st_mode
    except OSError as fault:
        check, reason = "no-regular-file" if is_image else "broken-link", str(fault.strerror)
        if fault.errno == errno.EACCES:
            check = "no-permission"
        elif fault.errno == errno.ELOOP:
            reason = "a link that leads to itself"
        elif fault.errno == errno.ENOENT and entry.is_symlink():
            reason = f"a link to {entry.readlink()}, which is not there"
        yield check, (entry, f": {reason}")
        return
    if is_image and not stat.S_ISREG(mode):
        kind = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}.get(stat.S_IFMT(mode), "device")
        yield "no-regular-file", (entry, f": a {kind}")
    elif is_image and not os.access(entry, os.R_OK):
        yield "no-permission", (entry, f": {os.strerror(errno.EACCES)}")
    elif is_raster(entry):
        yield "unnamed-raster", (entry, "")


# Files that cannot be read

_FAILURES = {  # by the code of the error: what they are called, and what is said of them
    BOMB: ("image", "over the limit for decompression bombs"),
    "several-pages": ("file", "with several images"),
    "empty-file": ("empty file", ""),
    "lfs-pointer": ("pointer", "of Git LFS in place of files"),
    "no-heif": ("HEIC photo", "that cannot be read yet"),
    "no-image": ("file", "whose content is no image"),
    "no-regular-file": ("path", "to no regular file"),
    "missing-file": ("missing file", ""),
    "no-permission": ("file", "without permission to read"),
    "nan-pixels": ("image", f"with {NO_NUMBERS}"),
    "unreadable-file": ("truncated or damaged file", ""),
    "mask-values": ("mask", "whose values are no class numbers"),
    "unusable-file": ("file", "that training has no use for"),
}


def inspect_unreadable(survey: Survey) -> Iterator[Finding]:
    """The files that cannot be read, one finding for each way in which they fail.

    Entries of the folder that are no files are left out: `inspect_entries` tells them.
    """
    groups: dict[str, list[DataError]] = defaultdict(list)
    for fault in survey.faults.unreadable:
        if not any(
            survey.data in path.parents and not is_file(file_of(path)) for path in fault.paths
        ):
            groups[fault.code if fault.code in _FAILURES else "unusable-file"].append(fault)
    for check in filter(groups.__contains__, _FAILURES):
        faults, (noun, remark) = groups[check], _FAILURES[check]
        fix = " ".join(dict.fromkeys(fault.fix for fault in faults if fault.fix))
        if check == BOMB:  # one limit that lets all pass
            limit = max(fault.came for fault in faults if isinstance(fault.came, int))
            fix = f"If you trust the files, allow them by --max-pixels {limit}."
        summary = f"{plural(len(faults), noun)} {remark}".rstrip()
        lines = dict.fromkeys(error_line(fault.summary, fault.paths) for fault in faults)
        yield error(check, summary, list(lines), fix)


# Sizes

_SIZES = {
    "size-factor": Kind(
        "warning",
        "mask",
        "larger or smaller than the image by a whole factor (width×height): read at the size of "
        "the image, the nearest pixel counts",
        "The command writes them at that size.",
        FIX,
    ),
    "size-unturned": Kind(
        "error",
        "mask",
        "drawn before the rotation: they fit the image as it is stored, not as EXIF turns it "
        "upright (width×height)",
        "The command turns them like their image.",
        FIX,
    ),
    "size-swapped": Kind(
        "error",
        "mask",
        "with height and width swapped (width×height)",
        "Turn these masks so that they lie on their image, or remove the pairs.",
    ),
    "size-mismatch": Kind(
        "error",
        "mask",
        "with another size than the image (width×height)",
        "Resize these masks with nearest-neighbour interpolation, or remove the pairs.",
    ),
    "small-images": Kind(
        "note",
        "image",
        f"with a side below {SMALL} pixels, which leaves a network little to go by",
    ),
}


def inspect_sizes(survey: Survey) -> Iterator[Finding]:
    """Masks of another size than their image, by what is behind it; then odd sizes of images."""
    groups: dict[str, list[Line]] = defaultdict(list)
    for pair, fact in survey.items():
        image, mask = fact.image.shape, fact.mask.shape
        if image == mask or pair.mask is None:
            continue
        if whole_factor(image, mask) is not None:
            check = "size-factor"
        elif image != mask[::-1]:
            check = "size-mismatch"
        else:
            check = "size-unturned" if fact.image.orientation > 4 else "size-swapped"
        line = pair.image, f" is {size_text(image)}, ", pair.mask, f" is {size_text(mask)}"
        groups[check].append(line)
    sized = [(pair.image, fact.image.shape) for pair, fact in survey.items()]
    groups["small-images"] = [(path, f": {size_text(s)}") for path, s in sized if min(s) < SMALL]
    yield from by_kind(_SIZES, groups)
    areas = sorted({(height * width, (height, width)) for _, (height, width) in sized})
    if areas and areas[-1][0] >= UNEQUAL * areas[0][0]:
        ends = areas[0][1], areas[-1][1]
        yield note(
            "unequal-sizes",
            f"the images reach from {size_text(ends[0])} to {size_text(ends[1])} pixels; large "
            "ones are seen in small parts, so that things should have one size in pixels "
            "everywhere",
            [(path, f": {size_text(shape)}") for path, shape in sized if shape in ends],
        )


# How images are stored

_FORMATS = {
    "wrong-suffix": Kind(
        "warning",
        "file",
        "with the suffix of another content, which other programs may refuse",
        "Rename them, or let the command do so.",
        FIX,
    ),
    "stored-turned": Kind(
        "note",
        "image",
        "stored on the side (EXIF), with masks that fit the upright picture: they are turned "
        "upright",
    ),
    "perhaps-turned": Kind(
        "warning",
        "image",
        "stored turned or mirrored (EXIF), with masks of a size that fits both ways: they are "
        "turned upright, the masks are not",
        "Look whether masks and pictures lie on each other; if not, turn the masks.",
        ("--preview sheet.png",),
    ),
    "unseen-bands": Kind(
        "note",
        "image",
        "of which Pillow, and programs built on it, read fewer bands than there are; all of them "
        "are used here",
    ),
}


def inspect_formats(survey: Survey) -> Iterator[Finding]:
    """Suffixes that lie, images stored turned, and bands that other programs overlook."""
    groups: dict[str, list[Line]] = defaultdict(list)
    contents: dict[Path, str] = {}
    for pair, fact in survey.items():
        image = fact.image
        contents[pair.image] = image.format
        if isinstance(pair.mask, Path):
            contents[pair.mask] = fact.mask.format
        if image.orientation > 1 and image.shape == fact.mask.shape:
            # Where only the upright image fits its mask all is well.
            has_one_way = image.orientation > 4 and image.shape[0] != image.shape[1]
            line = pair.image, f": orientation {image.orientation}"
            groups["stored-turned" if has_one_way else "perhaps-turned"].append(line)
        if image.pillow_bands is not None and image.pillow_bands < image.bands:
            line = pair.image, f": {image.pillow_bands} of {image.bands}"
            groups["unseen-bands"].append(line)
    groups["wrong-suffix"] = [
        (path, f": the content is {kind}, so {SUFFIXES[kind][0]}")
        for path, kind in contents.items()
        if kind in SUFFIXES and file_of(path).suffix.lower() not in SUFFIXES[kind]
    ]
    yield from by_kind(_FORMATS, groups)


# Pixels


def _images(survey: Survey) -> list[tuple[Path, ImageFacts]]:
    return [(pair.image, fact.image) for pair, fact in survey.items()]


def inspect_kinds(survey: Survey) -> Iterator[Finding]:
    """Pixels that are no numbers, and images of several number types and bands."""
    images = _images(survey)
    if bad := [(path, f": {plural(image.bad, 'pixel')}") for path, image in images if image.bad]:
        yield error(
            "nan-pixels",
            f"{plural(len(bad), 'image')} with {NO_NUMBERS}",
            bad,
            "Replace them by a number, and ignore these pixels in the masks.",
        )
    most, strangers = find_strangers(dict(survey.items())) if images else ("", {})
    if strangers:
        yield error(
            "image-kinds",
            f"the images differ in kind: most are {most}, {len(strangers)} of {len(images)} "
            "are not",
            [(pair.image, f" is {kind}") for pair, kind in strangers.items()],
            KIND_FIX,
        )
    scalings = Counter(image.scaling for _, image in images)
    if len(scalings) > 1:
        usual = scalings.most_common(1)[0][0]
        others = [
            (path, f": {image.scaling or 'none'}")
            for path, image in images
            if image.scaling != usual
        ]
        yield warning(
            "scales-differ",
            f"{plural(len(others), 'image')} with another scale than the others, which declare "
            f"{usual or 'none'}; values are used as stored",
            others,
            "Bring all to one scale (gdal_translate -unscale -ot Float32), or train on them apart.",
        )
    grey = [path for path, image in images if image.bands == 1]
    if grey and any(image.bands == 3 for _, image in images):
        yield note(
            "grey-among-colour",
            f"{len(grey)} of {plural(len(images), 'image')} grey among RGB ones: their band is "
            "repeated",
            grey,
        )


def inspect_constant(survey: Survey) -> Iterator[Finding]:
    """Images of a single colour, and bands of a single value."""
    constant: list[Line] = []
    flat: dict[Path, frozenset[int]] = {}  # bands that hold one value, the first is 1
    images = _images(survey)
    for path, image in images:
        if image.low == image.high and image.pixels > 1 and not image.bad:
            values = ", ".join(f"{value:g}" for value in dict.fromkeys(image.low))
            content = f"all pixels are {values}" if image.with_data else "no pixel has data"
            constant.append((path, f": {content}"))
        else:
            ends = enumerate(zip(image.low, image.high, strict=True), 1)
            flat[path] = frozenset(band for band, (low, high) in ends if low == high)
    if constant:
        yield warning(
            "constant-image",
            f"{plural(len(constant), 'image')} of a single colour, from which nothing can be "
            "learnt",
            constant,
            "Look whether the export failed, or remove the pairs.",
        )
    everywhere = frozenset.intersection(*flat.values()) if flat else frozenset()
    if everywhere:
        summary = f"{_band_names(everywhere)} without content: one value in each image"
        yield note("unused-band", summary)
    rest = {path: bands - everywhere for path, bands in flat.items() if bands - everywhere}
    if rest:
        is_common = len(rest) >= COMMON * len(images)
        yield Finding(
            "constant-band",
            "note" if is_common else "warning",
            f"{plural(len(rest), 'image')} with bands of a single value that vary in others",
            [(path, f": {_band_names(bands)}") for path, bands in rest.items()],
            "Look whether the export of these bands failed.",
        )


def _band_names(bands: Iterable[int]) -> str:
    numbers = sorted(bands)
    return f"band{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def inspect_no_data(survey: Survey) -> Iterator[Finding]:
    """Pixels that are declared to hold no data, or seem to although nothing says so."""
    images = _images(survey)
    if blank := [(path, image) for path, image in images if image.nodata_share]:
        pixels = sum(image.pixels - image.with_data for _, image in blank)
        share = pixels / sum(image.pixels for _, image in images)
        yield note(
            "no-data",
            f"{percent(share)} of the pixels have no data, in {plural(len(blank), 'image')}",
            [
                (path, f": {percent(image.nodata_share)} of the pixels{are}")
                for path, image in blank
                for are in ["" if image.nodata is None else f" are {image.nodata:g}"]
            ],
            "They count in no loss and no score, whatever the masks hold there.",
        )
    groups: dict[float, list[Line]] = defaultdict(list)
    for path, image in images:
        if image.fill is not None:
            groups[image.fill].append((path, f": {percent(image.fill_share)} of the pixels"))
    for fill, lines in sorted(groups.items()):
        yield warning(
            "undeclared-no-data",
            f"{plural(len(lines), 'image')} with pixels of {fill:g}, far from all others: it "
            "seems to stand for no data, and would be taken for a brightness",
            lines,
            f"Replace {fill:g} by a number near the others and ignore these pixels in the masks, "
            f"or declare it (gdal_edit.py -a_nodata {fill:g} FILE).",
        )


def inspect_saturation(survey: Survey) -> Iterator[Finding]:
    """Few such images are slips; many are how these images are, with a sky or a white ground."""
    images = _images(survey)
    lines: list[Line] = []
    for path, image in images:
        levels = 0 if image.dtype == "float32" else SCALE  # of few levels, many must be equal
        bands = zip(image.low, image.high, image.at_high, strict=True)
        shares = [
            at_high if high not in (image.fill, low) and high - low >= levels else 0
            for low, high, at_high in bands
        ]
        share = sum(shares) / len(shares)
        if share >= SATURATED:
            lines.append((path, f": {percent(share)} of the values"))
    is_common = len(lines) >= COMMON * len(images)
    if lines:
        yield Finding(
            "saturated",
            "note" if is_common else "warning",
            f"{len(lines)} of {plural(len(images), 'image')} with {SATURATED:.0%} or more of the "
            "values at the highest of their band: "
            + ("so many, that is their sky or white ground" if is_common else "overexposed?"),
            lines,
            "" if is_common else "Look at them; where a band is saturated it shows nothing.",
        )


PIXEL_CHECKS: tuple[Check, ...] = (
    inspect_kinds,
    inspect_constant,
    inspect_no_data,
    inspect_saturation,
)
