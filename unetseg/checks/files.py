"""Files that cannot be read, do not fit together, or hold what few would expect."""

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from unetseg.checks.finding import FIX, Finding, Line, Severity, error_line, percent
from unetseg.data.facts.fingerprint import (
    KIND_FIX,
    NO_NUMBERS,
    ImageFacts,
    PairFacts,
    find_strangers,
    size_text,
)
from unetseg.data.facts.survey import Survey
from unetseg.data.files.folders import IMAGE_SUFFIXES
from unetseg.data.files.limits import BOMB
from unetseg.errors import DataError
from unetseg.text import plural

SUFFIXES: dict[str, tuple[str, ...]] = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2",),
}
"""The suffixes that say what a file holds, the usual one first."""
LARGEST_FACTOR = 16  # a mask with less than one pixel for 16×16 of the image is another mask
SMALL = 32  # pixels: with a shorter side an image has little context
UNEQUAL = 64  # times: the pixels of the largest image over those of the smallest
SATURATED = 0.1  # share of the values at the highest of their band that is worth a word
SCALE = 32  # levels between lowest and highest value; with fewer, many pixels hold the highest
COMMON = 0.25  # share of the images from which a trait is how these images are, and no slip

_SIDEWAYS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap the sides


class _Kind(NamedTuple):
    """One finding about several files."""

    check: str
    severity: Severity
    noun: str
    remark: str
    fix: str = ""
    flags: tuple[str, ...] = ()

    def finding(self, lines: Sequence[Line]) -> Finding:
        summary = f"{plural(len(lines), self.noun)} {self.remark}"
        return Finding(self.check, self.severity, summary, lines, self.fix, self.flags)


# Entries of a folder

_NO_FILE = _Kind(
    "no-regular-file",
    "error",
    "image",
    "behind broken links, pipes or the like",
    "Restore the files or remove the entries.",
)
_LEADS_NOWHERE = _Kind(
    "broken-link",
    "warning",
    "link",
    "leading nowhere, perhaps once to a folder of images",
    "Restore what they lead to, or remove them.",
)
_FORBIDDEN = _Kind(
    "no-permission",
    "error",
    "file or folder",
    "without permission to read",
    "Give yourself the permission (chmod -R u+rX FOLDER), or take them out.",
)
_LOOP = _Kind("link-loop", "note", "link", "to a folder above, left out")


def inspect_entries(survey: Survey) -> Iterator[Finding]:
    """Links that lead nowhere or in a circle, pipes, and what may not be read, in the folder.

    No file is opened, so that nothing is waited for; hidden entries are left out.
    """
    groups: dict[_Kind, list[Line]] = defaultdict(list)
    if survey.data.is_dir():
        above = frozenset(map(_identity, survey.data.resolve().parents))
        for kind, line in _walk(survey.data, above, set()):
            groups[kind].append(line)
    for kind in filter(groups.__contains__, (_NO_FILE, _LEADS_NOWHERE, _FORBIDDEN, _LOOP)):
        yield kind.finding(groups[kind])


_Identity = tuple[int, int]  # device and number on it, which tell a folder whatever its name


def _identity(folder: Path) -> _Identity:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _walk(
    folder: Path, above: frozenset[_Identity], seen: set[_Identity]
) -> Iterator[tuple[_Kind, Line]]:
    """What is odd in a folder; each is entered once, and none that lies above."""
    try:
        here, entries = _identity(folder), sorted(folder.iterdir())
    except OSError as error:
        yield _FORBIDDEN, (folder, f": {error.strerror}")
        return
    if here in above:
        yield _LOOP, (folder, f": a link to {folder.resolve()}")
    if here in above or here in seen:
        return
    seen.add(here)
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        if entry.is_dir():
            yield from _walk(entry, above | {here}, seen)
        else:
            yield from _inspect_entry(entry)


def _inspect_entry(entry: Path) -> Iterator[tuple[_Kind, Line]]:
    is_image = entry.suffix.lower() in IMAGE_SUFFIXES
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        reason = str(error.strerror)
        if error.errno == errno.ELOOP:
            reason = "a link that leads to itself"
        elif error.errno == errno.ENOENT and entry.is_symlink():
            reason = f"a link to {entry.readlink()}, which is not there"
        yield _NO_FILE if is_image else _LEADS_NOWHERE, (entry, f": {reason}")
        return
    if is_image and not stat.S_ISREG(mode):
        kind = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}.get(stat.S_IFMT(mode), "device")
        yield _NO_FILE, (entry, f": a {kind}")
    elif is_image and not os.access(entry, os.R_OK):
        yield _FORBIDDEN, (entry, f": {os.strerror(errno.EACCES)}")


# Files that cannot be read

_FAILURES = {  # code of the error: what is at fault, and what is wrong with it
    BOMB: ("image", "over the limit for decompression bombs"),
    "several-pages": ("file", "with several images"),
    "empty-file": ("empty file", ""),
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
    for error in survey.faults.unreadable:
        if not any(survey.data in path.parents and not path.is_file() for path in error.paths):
            groups[error.code if error.code in _FAILURES else "unusable-file"].append(error)
    for check in filter(groups.__contains__, _FAILURES):
        errors, (noun, remark) = groups[check], _FAILURES[check]
        fix = " ".join(dict.fromkeys(error.fix for error in errors if error.fix))
        if check == BOMB:  # one limit that lets all pass
            limit = max(error.came for error in errors if isinstance(error.came, int))
            fix = f"If you trust the files, allow them by --max-pixels {limit}."
        summary = f"{plural(len(errors), noun)} {remark}".rstrip()
        lines = dict.fromkeys(error_line(error.summary, error.paths) for error in errors)
        yield Finding(check, "error", summary, list(lines), fix)


# Sizes

_BY_FACTOR = _Kind(
    "size-factor",
    "error",
    "mask",
    "larger or smaller than the image by a whole factor (width×height)",
    "The command resizes them by that factor.",
    FIX,
)
_UNTURNED = _Kind(
    "size-unturned",
    "error",
    "mask",
    "drawn before the rotation: they fit the image as it is stored, not as EXIF turns it upright "
    "(width×height)",
    "The command turns them like their image.",
    FIX,
)
_SWAPPED = _Kind(
    "size-swapped",
    "error",
    "mask",
    "with height and width swapped (width×height)",
    "Turn these masks so that they lie on their image, or remove the pairs.",
)
_OTHER_SIZE = _Kind(
    "size-mismatch",
    "error",
    "mask",
    "with another size than the image (width×height)",
    "Resize these masks with nearest-neighbour interpolation, or remove the pairs.",
)


def inspect_sizes(survey: Survey) -> Iterator[Finding]:
    """Masks of another size than their image, by what is behind it; then odd sizes of images."""
    groups: dict[_Kind, list[Line]] = defaultdict(list)
    for pair, fact in survey.items():
        if fact.image.shape != fact.mask.shape and pair.mask is not None:
            sizes = size_text(fact.image.shape), size_text(fact.mask.shape)
            line = pair.image, f" is {sizes[0]}, ", pair.mask, f" is {sizes[1]}"
            groups[_why_another_size(fact)].append(line)
    for kind in filter(groups.__contains__, (_BY_FACTOR, _UNTURNED, _SWAPPED, _OTHER_SIZE)):
        yield kind.finding(groups[kind])
    yield from _inspect_image_sizes(survey)


def whole_factor(image: tuple[int, int], mask: tuple[int, int]) -> float | None:
    """What the sides of a mask must be multiplied with to be those of its image.

    Only 2, 3, … 16 and the inverse of these count, the same for both sides; else it is None.

    >>> whole_factor((96, 64), (48, 32)), whole_factor((96, 64), (192, 128))
    (2.0, 0.5)
    >>> whole_factor((96, 64), (96, 32)), whole_factor((96, 64), (96, 64))
    (None, None)
    """
    for times in range(2, LARGEST_FACTOR + 1):
        if image == (times * mask[0], times * mask[1]):
            return float(times)
        if mask == (times * image[0], times * image[1]):
            return 1 / times
    return None


def _why_another_size(fact: PairFacts) -> _Kind:
    if whole_factor(fact.image.shape, fact.mask.shape) is not None:
        return _BY_FACTOR
    if fact.mask.shape != fact.image.shape[::-1]:
        return _OTHER_SIZE
    return _UNTURNED if fact.image.orientation in _SIDEWAYS else _SWAPPED


def _inspect_image_sizes(survey: Survey) -> Iterator[Finding]:
    """Images that are very small or very unequal."""
    sized = [(pair.image, fact.image.shape) for pair, fact in survey.items()]
    if small := [(path, f": {size_text(s)}") for path, s in sized if min(s) < SMALL]:
        yield Finding(
            "small-images",
            "note",
            f"{plural(len(small), 'image')} with a side below {SMALL} pixels, which leaves a "
            "network little to go by",
            small,
        )
    shapes = sorted({(height * width, (height, width)) for _, (height, width) in sized})
    if shapes and shapes[-1][0] >= UNEQUAL * shapes[0][0]:
        ends = shapes[0][1], shapes[-1][1]
        yield Finding(
            "unequal-sizes",
            "note",
            f"the images reach from {size_text(ends[0])} to {size_text(ends[1])} pixels; large "
            "ones are seen in small parts, so that things should have one size in pixels "
            "everywhere",
            [(path, f": {size_text(shape)}") for path, shape in sized if shape in ends],
        )


# How images are stored


def inspect_formats(survey: Survey) -> Iterator[Finding]:
    """Suffixes that lie, images that are stored turned, and bands that other programs overlook."""
    yield from _inspect_suffixes(survey)
    yield from _inspect_orientations(survey)
    images = [(pair.image, fact.image) for pair, fact in survey.items()]
    unseen = [
        (path, f": {image.pillow_bands} of {image.bands}")
        for path, image in images
        if image.pillow_bands is not None and image.pillow_bands < image.bands
    ]
    if unseen:
        yield Finding(
            "unseen-bands",
            "note",
            f"{plural(len(unseen), 'image')} of which Pillow, and programs built on it, read fewer "
            "bands than there are; all of them are used here",
            unseen,
        )


def _inspect_suffixes(survey: Survey) -> Iterator[Finding]:
    contents: dict[Path, str] = {}
    for pair, fact in survey.items():
        contents[pair.image] = fact.image.format
        if pair.mask is not None:
            contents[pair.mask] = fact.mask.format
    lines = [
        (path, f": the content is {kind}, so {SUFFIXES[kind][0]}")
        for path, kind in contents.items()
        if kind in SUFFIXES and path.suffix.lower() not in SUFFIXES[kind]
    ]
    if lines:
        yield Finding(
            "wrong-suffix",
            "warning",
            f"{plural(len(lines), 'file')} with the suffix of another content, which other "
            "programs may refuse",
            lines,
            "Rename them, or let the command do so.",
            FIX,
        )


def _inspect_orientations(survey: Survey) -> Iterator[Finding]:
    """Where only the upright image fits its mask all is well; where both do, nobody knows."""
    sure: list[Line] = []
    unsure: list[Line] = []
    for pair, fact in survey.items():
        image = fact.image
        if image.orientation > 1 and image.shape == fact.mask.shape:
            has_one_way = image.orientation in _SIDEWAYS and image.shape[0] != image.shape[1]
            line = pair.image, f": orientation {image.orientation}"
            (sure if has_one_way else unsure).append(line)
    if sure:
        yield Finding(
            "stored-turned",
            "note",
            f"{plural(len(sure), 'image')} stored on the side (EXIF), with masks that fit the "
            "upright picture: they are turned upright",
            sure,
        )
    if unsure:
        yield Finding(
            "perhaps-turned",
            "warning",
            f"{plural(len(unsure), 'image')} stored turned or mirrored (EXIF), with masks of a "
            "size that fits both ways: they are turned upright, the masks are not",
            unsure,
            "Look whether masks and pictures lie on each other; if not, turn the masks.",
            ("--preview sheet.png",),
        )


# Pixels

_Images = Sequence[tuple[Path, ImageFacts]]


def inspect_pixels(survey: Survey) -> Iterator[Finding]:
    """What is notable in the pixel values of the images; no file is read."""
    images = [(pair.image, fact.image) for pair, fact in survey.items()]
    if images:
        yield from _inspect_kinds(survey, images)
        yield from _inspect_constant(images)
        yield from _inspect_no_data(images)
        yield from _inspect_fills(images)
        yield from _inspect_saturation(images)


def _inspect_kinds(survey: Survey, images: _Images) -> Iterator[Finding]:
    """Pixels that are no numbers, and images of several number types and bands."""
    if bad := [(path, f": {plural(image.bad, 'pixel')}") for path, image in images if image.bad]:
        yield Finding(
            "nan-pixels",
            "error",
            f"{plural(len(bad), 'image')} with {NO_NUMBERS}",
            bad,
            "Replace them by a number, and ignore these pixels in the masks.",
        )
    most, strangers = find_strangers(dict(survey.items()))
    if strangers:
        yield Finding(
            "image-kinds",
            "error",
            f"the images differ in kind: most are {most}, {len(strangers)} of {len(images)} "
            "are not",
            [(pair.image, f" is {kind}") for pair, kind in strangers.items()],
            KIND_FIX,
        )
    grey = [path for path, image in images if image.bands == 1]
    if grey and any(image.bands == 3 for _, image in images):
        yield Finding(
            "grey-among-colour",
            "note",
            f"{len(grey)} of {plural(len(images), 'image')} grey among RGB ones: their band is "
            "repeated",
            grey,
        )


def _inspect_constant(images: _Images) -> Iterator[Finding]:
    """Images of a single colour, and bands of a single value."""
    constant: list[Line] = []
    flat: dict[Path, frozenset[int]] = {}  # bands that hold one value, the first is 1
    for path, image in images:
        if image.low == image.high and image.pixels > 1 and not image.bad:
            values = ", ".join(f"{value:g}" for value in dict.fromkeys(image.low))
            content = f"all pixels are {values}" if image.with_data else "no pixel has data"
            constant.append((path, f": {content}"))
        else:
            ends = enumerate(zip(image.low, image.high, strict=True), 1)
            flat[path] = frozenset(band for band, (low, high) in ends if low == high)
    if constant:
        yield Finding(
            "constant-image",
            "warning",
            f"{plural(len(constant), 'image')} of a single colour, from which nothing can be "
            "learnt",
            constant,
            "Look whether the export failed, or remove the pairs.",
        )
    everywhere = frozenset.intersection(*flat.values()) if flat else frozenset()
    if everywhere:
        summary = f"{_band_names(everywhere)} without content: one value in each image"
        yield Finding("unused-band", "note", summary)
    rest = {path: bands - everywhere for path, bands in flat.items() if bands - everywhere}
    if rest:
        yield Finding(
            "constant-band",
            "note" if len(rest) >= COMMON * len(images) else "warning",
            f"{plural(len(rest), 'image')} with bands of a single value that vary in others",
            [(path, f": {_band_names(bands)}") for path, bands in rest.items()],
            "Look whether the export of these bands failed.",
        )


def _band_names(bands: Iterable[int]) -> str:
    """Bands in words.

    >>> _band_names({3}), _band_names({2, 1})
    ('band 3', 'bands 1, 2')
    """
    numbers = sorted(bands)
    return f"band{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _inspect_no_data(images: _Images) -> Iterator[Finding]:
    """Pixels that are declared to hold no data."""
    blank = {path: image for path, image in images if image.nodata_share}
    if blank:
        pixels = sum(image.pixels - image.with_data for image in blank.values())
        share = pixels / sum(image.pixels for _, image in images)
        yield Finding(
            "no-data",
            "note",
            f"{percent(share)} of the pixels have no data, in {plural(len(blank), 'image')}",
            [
                (path, f": {percent(image.nodata_share)} of the pixels are {image.nodata:g}")
                for path, image in blank.items()
            ],
            "Give these pixels an ignored value in the masks, unless they have one.",
        )


def _inspect_fills(images: _Images) -> Iterator[Finding]:
    """Pixels that seem to hold no data although nothing says so."""
    groups: dict[float, list[Line]] = defaultdict(list)
    for path, image in images:
        if image.fill is not None:
            groups[image.fill].append((path, f": {percent(image.fill_share)} of the pixels"))
    for fill, lines in sorted(groups.items()):
        yield Finding(
            "undeclared-no-data",
            "warning",
            f"{plural(len(lines), 'image')} with pixels of {fill:g}, far from all others: it "
            "seems to stand for no data, and would be taken for a brightness",
            lines,
            f"Replace {fill:g} by a number near the others and ignore these pixels in the masks, "
            f"or declare it (gdal_edit.py -a_nodata {fill:g} FILE).",
        )


def _inspect_saturation(images: _Images) -> Iterator[Finding]:
    """Few such images are slips; many are how these images are, with a sky or a white ground."""
    shares = {path: _saturated_share(image) for path, image in images}
    lines = [(p, f": {percent(s)} of the values") for p, s in shares.items() if s >= SATURATED]
    common = len(lines) >= COMMON * len(images)
    if lines:
        yield Finding(
            "saturated",
            "note" if common else "warning",
            f"{len(lines)} of {plural(len(images), 'image')} with {SATURATED:.0%} or more of the "
            "values at the highest of their band: overexposed, or bright as a sky or a white "
            "ground",
            lines,
            "" if common else "Look at them; where a band is saturated it shows nothing.",
        )


def _saturated_share(image: ImageFacts) -> float:
    """Share of the highest value in each band, the mean of all bands, 0–1.

    A band of few levels counts as 0: many of its pixels must be equal.
    """
    levels = 0 if image.dtype == "float32" else SCALE
    bands = zip(image.low, image.high, image.at_high, strict=True)
    shares = [
        share if high != image.fill and high > low and high - low >= levels else 0
        for low, high, share in bands
    ]
    return sum(shares) / len(shares)
