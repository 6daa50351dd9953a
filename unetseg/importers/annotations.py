"""What a reader of a format yields, and how it becomes masks.

A reader is a generator. It finds images, says what is drawn on them, and no more:

    def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
        files = ImageFiles(source, images)
        for path in visible_files(source, "*.txt"):
            shapes = [Shape(label, partial(polygon, points)) for label, points in lines_of(path)]
            yield files.annotated(path.stem, shapes, split=split_of(path.parent.name))
            yield Note(not shapes, "image", "without shapes: all background")

Codes of classes, masks, names, splits, and the lists of what is wrong and of what was left out are
made of these entries, alike for all formats.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.limits import BOMB
from unetseg.data.masks.class_map import IGNORED, runs
from unetseg.data.masks.mask_file import mask_of_image
from unetseg.errors import DataError, MaskError
from unetseg.importers.shapes import Patch, Size, paint_in_order
from unetseg.text import plural, printable

BACKGROUND, FOREGROUND = "background", "foreground"
_BACKGROUND_NAMES = frozenset({"background", "_background_", "bg"})

Draw = Callable[[int, int], NDArray[np.uint8]]
"""Height and width of the upright image → class codes, uint8 H×W.

It may raise `MaskError`: the image is then left out, and the summary or all offenders listed.
"""


# What a reader yields


@dataclass(frozen=True)
class Shape:
    """An area that somebody marked.

    Attributes:
        label: The name of its class; None for what is ignored, 255 in the mask.
        patch: Gives the pixels that it covers on an image of a size; it may raise `MaskError`.
        name: What errors call it: `polygon 3 (car)`. Without one the error speaks for itself.
    """

    label: str | None
    patch: Callable[[Size], Patch]
    name: str = ""


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and what its mask is made of.

    Attributes:
        path: The image file.
        name: What the pair is to be called: relative, with "/" and without suffix. It may come
            from a foreign file as it is; the folder of pairs makes it safe and unique.
        mask: Shapes, of which later ones lie over earlier ones; a function that draws class codes;
            or a file that holds them and is copied as it is.
        split: train, val or test, where the source says; else a folder in `name` may.
        size: Height and width that the source states for the upright image, if it does.
        embedded: Gives the content of the image file where it lies within `path` instead.
        smallest_on_top: The source knows no order of depth: shapes with small areas lie over those
            with large ones, so that all can be seen, and ignored ones below all.
    """

    path: Path
    name: str
    mask: Sequence[Shape] | Draw | Path
    split: str | None = None
    size: Size | None = None
    embedded: Callable[[], bytes] | None = None
    smallest_on_top: bool = False


@dataclass(frozen=True)
class Problem:
    """One thing that keeps an image, or an annotation, from being imported.

    Attributes:
        kind: What is wrong, the same words for all of a kind: `no such image`.
        where: The file or entry, and what it holds.
    """

    kind: str
    where: str

    def __str__(self) -> str:
        return printable(f"{self.kind}: {self.where}")


@dataclass(frozen=True)
class Classes:
    """The names of the classes, where the labels of shapes in sorted order will not do.

    Attributes:
        names: The names in their order. The background is put first, whatever it is called.
        coded: The masks hold codes already, and these are the names of 0, 1, 2, … as they stand.
    """

    names: Iterable[str]
    coded: bool = False


@dataclass(frozen=True)
class Note:
    """So many of something, and what was concluded of them; equal notes are added up.

    >>> str(Note(2, "image", "without shapes: all background"))
    '2 images without shapes: all background'
    """

    count: int
    noun: str
    text: str

    def __str__(self) -> str:
        return f"{plural(self.count, self.noun)} {self.text}"


Entry = AnnotatedImage | Problem | Classes | Note | str
"""What a reader yields; a text is a sentence for the user.

A reader takes the annotations (a folder or a file), and the folder of the images where it is
another."""


# What becomes of it


@dataclass(frozen=True)
class Annotations:
    """A data set of another program, read but not drawn yet.

    Attributes:
        classes: The name of each code from 0 on; 255 is ignored and has no name.
        images: Those that can be drawn: `mask` is a function or a file.
        problems: What is wrong, as far as reading shows it.
        notes: What the reader left out or concluded, one sentence each.
    """

    classes: tuple[str, ...]
    images: Sequence[AnnotatedImage]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def _without_strays(images: list[AnnotatedImage]) -> tuple[list[AnnotatedImage], list[Problem]]:
    """The images but for those that took the file of another one, as their own is missing."""

    def is_own(image: AnnotatedImage) -> bool:  # the path of the file ends as it is called
        return f"/{image.path.with_suffix('').as_posix()}".endswith(f"/{image.name}")

    own, others = list[AnnotatedImage](), list[AnnotatedImage]()
    for image in images:
        if not image.embedded:
            (own if is_own(image) else others).append(image)
    owned = Counter(image.path for image in own)
    strays = {image.name: image.path for image in others if owned[image.path] == 1}
    kept = [image for image in images if strays.get(image.name) != image.path]
    return kept, [Problem("no such image", name) for name in strays]


def collect(entries: Iterable[Entry]) -> Annotations:
    """All that a reader yields; an image that it yields several times becomes a problem."""
    by_type: dict[type, list[Any]] = defaultdict(list)
    for entry in entries:
        by_type[type(entry)].append(entry)
    images, strays = _without_strays(by_type[AnnotatedImage])
    named = next(iter(by_type[Classes]), Classes(()))
    shapes = [shape for one in images if isinstance(one.mask, Sequence) for shape in one.mask]
    labels = [shape.label for shape in shapes if shape.label is not None]
    names = tuple(named.names) or sorted(set(labels))
    classes, codes = (tuple(names), {}) if named.coded else class_codes([*names, *labels])
    count = Counter(image.path for image in images if not image.embedded)
    twins = {image.path: image.name for image in images if count[image.path] > 1}
    strays += [Problem("image listed several times", name) for name in twins.values()]
    drawable = []
    for image in (image for image in images if image.path not in twins):
        mask = image.mask
        if isinstance(mask, Sequence):
            mask = partial(draw_shapes, mask, codes, smallest_on_top=image.smallest_on_top)
        drawable.append(replace(image, mask=mask))
    counted: Counter[tuple[str, str]] = Counter()
    for note in by_type[Note]:
        counted[note.noun, note.text] += note.count
    notes = [str(Note(number, *words)) for words, number in counted.items() if number]
    return Annotations(classes, drawable, (*by_type[Problem], *strays), (*by_type[str], *notes))


def class_codes(names: Iterable[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes with the background first, and the code of each of `names`.

    A class that is called background already is the background; equal names are one class.

    >>> class_codes(["cat", "Background", "dog"])
    (('background', 'cat', 'dog'), {'cat': 1, 'Background': 0, 'dog': 2})
    """
    classes = [BACKGROUND]
    codes: dict[str, int] = {}
    for name in names:
        if name in codes:
            continue
        is_background = name.strip().lower() in _BACKGROUND_NAMES
        codes[name] = 0 if is_background else len(classes)
        classes += [] if is_background else [name]
    return tuple(classes), codes


# Masks


def draw_shapes(
    shapes: Iterable[Shape],
    codes: Mapping[str, int],
    height: int,
    width: int,
    *,
    smallest_on_top: bool = False,
) -> NDArray[np.uint8]:
    """The class codes of an image, uint8 H×W, 0 where no shape is.

    Args:
        shapes: From below to above.
        codes: The code of each label.
        height: Height of the image, pixels.
        width: Its width.
        smallest_on_top: See `AnnotatedImage`; of equal areas the later lies above.

    Raises:
        MaskError: shapes that cannot be drawn, all of them.
    """
    layers: list[tuple[int, Patch]] = []
    faults: list[str] = []
    for shape in shapes:
        try:
            patch = shape.patch((height, width))
            layers.append((IGNORED if shape.label is None else codes[shape.label], patch))
        except MaskError as error:
            beginning = f"{shape.name}: " if shape.name else ""
            faults += [f"{beginning}{reason}" for reason in reasons(error)]
    if faults:
        raise MaskError("annotations cannot be drawn", faults)
    if smallest_on_top:
        layers.sort(key=lambda layer: (layer[0] != IGNORED, -layer[1].area))
    return paint_in_order(layers, (height, width))


def recode(
    pixels: NDArray[np.integer],
    codes: Mapping[int, int],
    complaint: str,
    name: Callable[[int], str] = str,
) -> NDArray[np.uint8]:
    """The code of each pixel.

    Raises:
        MaskError: `complaint`, with the names of the values that have no code.
    """
    distinct, inverse, lengths = runs(pixels.ravel())
    values = distinct.tolist()
    strange = [name(value) for value in values if value not in codes]
    if strange:
        raise MaskError(f"{complaint}: {'; '.join(strange)}")
    table = np.array([codes[value] for value in values], np.uint8)
    return np.repeat(table[inverse], lengths).reshape(pixels.shape)


def reasons(error: DataError) -> list[str]:
    """What is wrong with an image or mask; files are called by their names alone."""
    if error.offenders or not error.paths:
        return error.offenders or [error.summary]
    reason = error.came if isinstance(error.came, str) else error.code.replace("-", " ")
    if error.code == BOMB:
        reason = f"{error.came} pixels; if you trust it, allow it by --max-pixels {error.came}"
    return [f"{path.name} cannot be read: {reason}" for path in error.paths]


def mask_pixels(path: Path, height: int, width: int) -> NDArray[Any]:
    """The values of the mask file `path`, H×W.

    Raises:
        MaskError: the file cannot be read, has colours, or another size.
    """
    pixels = mask_of_image(path, height, width).pixels
    check_size(path, pixels, height, width)
    return pixels


def check_size(path: Path, pixels: NDArray[Any], height: int, width: int) -> None:
    """See that the pixels of the mask file `path` are H×W numbers.

    Raises:
        MaskError: they are not.
    """
    if pixels.shape != (height, width):
        came = "×".join(map(str, pixels.shape))
        raise MaskError(f"{path.name} is {came}, expected {height}×{width}")
