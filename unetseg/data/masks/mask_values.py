"""Which values the masks of a folder hold.

`mask_facts` counts the codes of one file; `gather` puts the files of a folder together.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from unetseg.data.files.pages import MaskPath, files_of
from unetseg.data.masks.class_map import Code, Coding, Colour, coding_name, pack, runs, unpack
from unetseg.data.masks.mask_file import MaskFile
from unetseg.data.masks.mask_forms import ALPHA, BANDS
from unetseg.errors import MaskError
from unetseg.text import plural

BY_COLOUR = "have a palette of their own: read by colour"
COUNTED = 4096  # distinct codes that the facts of one file keep, the most frequent ones
_SHOWN = 6  # values that a message lists


class MaskFacts(BaseModel):
    """The values of one mask.

    Attributes:
        path: The file, or the first of a set and how many there are more.
        shape: Height and width, pixels.
        coding: What the values are.
        dtype: Their number type.
        counts: Codes with their pixels, the most frequent first; at most 4096.
        palette: 768 numbers with the coding "palette", or as of `RawMask`.
        lossy: Whether the compression changes values (JPEG).
        alpha: Whether the file has an opaque alpha band, which does not count.
        form: What was made of another form, in words.
        suffix: ".tif" when the content is TIFF, else that of the name, in lower case.
        format: What the content is, whatever the name says (PNG, JPEG, TIFF …); none of a set.
        inner: Of each code in `counts`, the 2×2 squares that hold nothing else: areas have about
            as many as pixels, soft edges nearly none. Empty where it is not known.
        nodata: The number other than 0 that the file declares for pixels without data.
        pixel_hash: BLAKE2b-128 of shape, coding and pixels, 32 hexadecimal digits.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    shape: tuple[int, int]
    coding: Coding
    dtype: str
    counts: tuple[tuple[Code, int], ...]
    inner: tuple[int, ...] = ()
    nodata: int | None = None
    pixel_hash: str = ""
    palette: tuple[int, ...] | None = None
    lossy: bool = False
    alpha: bool = False
    form: str = ""
    suffix: str = ".png"
    format: str = ""

    @property
    def pixels(self) -> int:
        """Height × width."""
        return self.shape[0] * self.shape[1]


def mask_facts(path: MaskPath, max_pixels: int | None = None) -> MaskFacts:
    """Read a mask and count its codes; a large TIFF is read strip by strip.

    Raises:
        MaskError: the file cannot be read or is no mask.
    """
    with MaskFile(path, max_pixels) as mask:
        values, counts, inner, digest = _count_codes(mask)
        raw = mask.raw
        return MaskFacts(
            path=str(path),
            shape=mask.size,
            coding=raw.coding,
            dtype=raw.pixels.dtype.name,
            counts=tuple(zip(unpack(values, raw.coding), counts.tolist(), strict=True)),
            inner=tuple(inner.tolist()),
            nodata=raw.nodata,
            pixel_hash=digest,
            palette=raw.palette,
            lossy=raw.lossy,
            alpha=raw.alpha,
            form=raw.form,
            suffix=".tif" if mask.format == "TIFF" else files_of(path)[0].suffix.lower(),
            format=mask.format,
        )


def _count_codes(mask: MaskFile) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], str]:
    """The codes of a mask, the most frequent first, their pixels, their 2×2 squares, a hash."""
    coding = mask.raw.coding
    kind = f"{mask.size[0]} {mask.size[1]} {coding} {mask.raw.pixels.dtype.name}"
    digest = blake2b(kind.encode(), digest_size=16)
    found: list[NDArray[Any]] = []
    numbers: list[NDArray[np.float64]] = []  # V×2
    for _, strip in mask.strips():
        digest.update(strip.tobytes())
        codes = pack(strip) if coding == "rgb" else strip
        values, inverse, lengths = runs(codes.ravel())
        squares = np.add.reduceat(
            _squares(codes).ravel(), np.r_[0, np.cumsum(lengths)[:-1]], dtype=int
        )
        found.append(values)
        numbers.append(
            np.stack(
                [np.bincount(inverse, weights, len(values)) for weights in (lengths, squares)], 1
            )
        )
    values, inverse = np.unique(np.concatenate(found), return_inverse=True)
    rows = np.concatenate(numbers)
    # Exact below 2⁵³.
    counts, inner = (np.bincount(inverse, column).astype(np.int64) for column in rows.T)
    order = np.argsort(-counts, kind="stable")[:COUNTED]
    return values[order], counts[order], inner[order], digest.hexdigest()


def _squares(codes: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each pixel, its right, its lower and its diagonal neighbour hold one code; H×W."""
    same = np.zeros(codes.shape, bool)
    corner = codes[:-1, :-1]
    others = codes[1:, :-1], codes[:-1, 1:], codes[1:, 1:]
    same[:-1, :-1] = np.logical_and.reduce([corner == other for other in others])
    return same


@dataclass(frozen=True)
class Folder:
    """The facts of all masks together."""

    facts: Sequence[MaskFacts]
    coding: Coding
    palette: tuple[int, ...] | None

    @cached_property
    def counts(self) -> Counter[Code]:
        """The codes of all files, with their pixels."""
        total: Counter[Code] = Counter()
        for fact in self.facts:
            total.update(dict(fact.counts))
        return total

    @cached_property
    def found(self) -> tuple[Code, ...]:
        """The codes of all files, in ascending order."""
        return in_order(self.counts)

    @property
    def pixels(self) -> int:
        """Number of pixels of all files."""
        return sum(fact.pixels for fact in self.facts)

    @property
    def lossy(self) -> bool:
        """Whether the compression of any file changes values."""
        return any(fact.lossy for fact in self.facts)

    def colour(self, index: int) -> Colour:
        """The colour of a palette index."""
        return _entry(self.palette, index)

    def share(self, codes: Iterable[Code], reach: int = 0) -> float:
        """Share of the pixels that lie within `reach` of one of `codes`, 0–1."""
        values = _table(self.counts)
        near = np.zeros(len(values), bool)
        for code in _table(codes):
            near |= np.abs(values - code).max(axis=1) <= reach
        pixels = np.fromiter(self.counts.values(), np.float64)
        return float(pixels[near].sum() / max(self.pixels, 1))

    @cached_property
    def solidity(self) -> dict[Code, float]:
        """The 2×2 squares of each code per pixel, 0–1; 1 where they were not counted."""
        squares: Counter[Code] = Counter()
        for fact in self.facts:
            codes = (code for code, _ in fact.counts)
            known = fact.inner or (pixels for _, pixels in fact.counts)
            squares.update(dict(zip(codes, known, strict=True)))
        return {code: squares[code] / pixels for code, pixels in self.counts.items()}

    @cached_property
    def largest(self) -> dict[Code, float]:
        """The largest share of the pixels of a mask that each code holds, 0–1."""
        shares: dict[Code, float] = {}
        for fact in self.facts:
            for code, pixels in fact.counts:
                shares[code] = max(shares.get(code, 0), pixels / fact.pixels)
        return shares

    @cached_property
    def files(self) -> dict[Code, int]:
        """The number of files that hold each code."""
        return Counter(code for fact in self.facts for code, _ in fact.counts)

    def recoded(self, code_of: Callable[[Code], Code]) -> "Folder":
        """The folder with other codes, which may be one for several."""
        facts = [recoded(fact, code_of) for fact in self.facts]
        return Folder(facts, self.coding, self.palette)

    def held(self, codes: Iterable[Code]) -> Iterator[tuple[str, str]]:
        """The files that hold any of `codes`, each with those it holds and their pixels."""
        wanted = set(codes)
        for fact in self.facts:
            if held := {code: pixels for code, pixels in fact.counts if code in wanted}:
                yield fact.path, some(f"{code} ({held[code]} px)" for code in in_order(held))

    def holders(self, codes: Iterable[Code]) -> list[str]:
        """The same in lines, for an error."""
        return [f"{path}: {held}" for path, held in self.held(codes)]

    def fullest(self) -> list[str]:
        """All files, those with the most distinct values first."""
        ranked = sorted(self.facts, key=lambda fact: -len(fact.counts))
        return [f"{fact.path}: {len(fact.counts)} distinct values" for fact in ranked]


def gather(facts: Sequence[MaskFacts]) -> Folder:
    """Put the files of a folder together.

    Raises:
        MaskError: there is none, they have different codings, one palette index has different
            colours, some of which are in no other file, or are those of another index; or a band
            of some is alpha or a class.
    """
    if not facts:
        raise MaskError("there are no masks", fix="Put the mask of each image into masks/.")
    _refuse_bands_or_alpha(facts)
    facts = _palettes_as_colours(_blanks_as_colours(_grey_as_numbers(facts)))
    kinds = Counter(fact.coding for fact in facts).most_common()
    if len(kinds) > 1:
        listed = ", ".join(f"{count} {coding_name(coding)}" for coding, count in kinds)
        lines = [f"{f.path}: {coding_name(f.coding)}" for f in facts if f.coding != kinds[0][0]]
        fix = f"Save these as {coding_name(kinds[0][0])} like the others."
        raise MaskError(f"the masks have different codings: {listed}", lines, fix)
    return Folder(facts, facts[0].coding, _palette_of_all(facts))


def _palette_of_all(facts: Sequence[MaskFacts]) -> tuple[int, ...] | None:
    """The palette of the file with most codes, with the colours of those that others alone hold.

    Files may have a palette that ends with the last code that they use.
    """
    palette = max(facts, key=lambda fact: len(fact.counts)).palette
    if palette is None:
        return None
    colours = list(palette)
    for fact in facts:
        for code in integers(dict(fact.counts)):
            colours[3 * code : 3 * code + 3] = _entry(fact.palette, code)
    return tuple(colours)


def _refuse_bands_or_alpha(facts: Sequence[MaskFacts]) -> None:
    """Refuse files whose last band was taken for alpha, where others have a band for each class.

    Those are in one colour, or black and opaque: they show nothing, or one class everywhere.
    """
    are_black = (not any(any(as_point(code)) for code, _ in fact.counts) for fact in facts)
    doubtful = [
        fact.path
        for fact, is_black in zip(facts, are_black, strict=True)
        if fact.form == ALPHA or (fact.alpha and is_black)
    ]
    if doubtful and any(fact.form == BANDS for fact in facts):
        masks = plural(len(doubtful), "mask")
        summary = f"the last band of {masks} may be alpha, or a class as in others"
        raise MaskError(summary, doubtful, "Save one band, in which each class has a number.")


def recoded(fact: MaskFacts, code_of: Callable[[Code], Code], **more: Any) -> MaskFacts:
    """The facts with other codes, which may be one for several, and other properties."""
    pixels: Counter[Code] = Counter()
    inner: Counter[Code] = Counter()
    for i, (code, count) in enumerate(fact.counts):
        pixels[code_of(code)] += count
        inner[code_of(code)] += fact.inner[i] if fact.inner else 0
    counts = tuple(pixels.most_common())
    squares = tuple(inner[code] for code, _ in counts) if fact.inner else ()
    return fact.model_copy(update={"counts": counts, "inner": squares, **more})


def _grey_as_numbers(facts: Sequence[MaskFacts]) -> Sequence[MaskFacts]:
    """Count grey RGB files as numbers where other files hold numbers."""
    colours = (code for fact in facts if fact.coding == "rgb" for code, _ in fact.counts)
    are_grey = all(len({*as_point(code)}) == 1 for code in colours)
    if all(fact.coding != "integer" for fact in facts) or not are_grey:
        return facts
    return [
        fact
        if fact.coding != "rgb"
        else recoded(fact, lambda code: as_point(code)[0], coding="integer")
        for fact in facts
    ]


def _blanks_as_colours(facts: Sequence[MaskFacts]) -> Sequence[MaskFacts]:
    """Count files that are all transparent as their colour if most that hold colours hold it."""
    others = [dict(fact.counts) for fact in facts if fact.coding == "rgb"]

    def as_others(fact: MaskFacts) -> MaskFacts:
        if fact.coding != "integer" or fact.palette is None:
            return fact
        blank = as_colours(fact).model_copy(update={"form": fact.form})
        is_ground = 2 * sum(blank.counts[0][0] in codes for codes in others) > len(others)
        return blank if is_ground else fact.model_copy(update={"palette": None})

    return [as_others(fact) for fact in facts]


def _palettes_as_colours(facts: Sequence[MaskFacts]) -> Sequence[MaskFacts]:
    """Count colours in place of indexes, where an index has several or other files hold colours.

    Each colour must be in a second file: one palette alone may as well be wrong.
    """
    used: dict[Code, dict[Colour, list[str]]] = {}
    for fact in facts:
        for code, _ in fact.counts if fact.palette else ():
            colours = used.setdefault(code, {})
            colours.setdefault(_entry(fact.palette, code), []).append(fact.path)
    has_colours = {fact.coding for fact in facts} == {"palette", "rgb"}
    if not has_colours and all(len(colours) == 1 for colours in used.values()):
        return facts
    by_colour = [as_colours(fact) for fact in facts]
    files = Counter(code for fact in by_colour for code, _ in fact.counts)
    clashes = []
    for code, colours in used.items():
        usual, *others = sorted(colours, key=lambda colour: -len(colours[colour]))
        clashes += [
            f"{path}: index {code} is {colour}, in others {usual}"
            for colour in others
            for path in colours[colour]
        ]
    lost = [
        f"{fact.path}: {len(fact.counts)} indexes have {plural(len(own.counts), 'colour')}"
        for fact, own in zip(facts, by_colour, strict=True)
        if len(own.counts) < len(fact.counts)
    ]
    if not lost and (min(files.values()) > 1 or not clashes):
        return by_colour if min(files.values()) > 1 else facts
    clashes = lost or clashes
    fix = "Save the masks with one palette, as class numbers, or as RGB."
    raise MaskError("a palette index has different colours in the masks", clashes, fix)


def as_colours(fact: MaskFacts) -> MaskFacts:
    """The facts of a palette mask with its colours as codes; others as they are."""
    if fact.palette is None:
        return fact
    more = {"coding": "rgb", "palette": None, "form": BY_COLOUR}
    return recoded(fact, lambda code: _entry(fact.palette, code), **more)


def in_order(codes: Iterable[Code]) -> tuple[Code, ...]:
    """Codes in ascending order."""
    return tuple(sorted(codes, key=as_point))


def integers(codes: Iterable[Code]) -> Iterator[int]:
    """The codes that are numbers."""
    return (code for code in codes if not isinstance(code, tuple))


def is_negative(code: Code) -> bool:
    """Whether a code is a number below 0."""
    return not isinstance(code, tuple) and code < 0


def some(codes: Iterable[object]) -> str:
    """The first of many codes, for a message."""
    texts = [str(code) for code in codes]
    more = f", … ({len(texts)} values)" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def as_point(code: Code) -> Colour:
    """A code as a point in the space of colours; numbers lie on the first axis."""
    return code if isinstance(code, tuple) else (code, 0, 0)


def distance(one: Code, other: Code) -> int:
    """The largest difference of the bands of two codes (the Chebyshev distance)."""
    return max(abs(a - b) for a, b in zip(as_point(one), as_point(other), strict=True))


def _table(codes: Iterable[Code]) -> NDArray[np.int64]:
    """Codes as rows: N×3."""
    return np.array([as_point(code) for code in codes], np.int64).reshape(-1, 3)


def _entry(palette: Sequence[int] | None, code: Code) -> Colour:
    if palette is None or isinstance(code, tuple):
        return (0, 0, 0)
    red, green, blue = palette[3 * code : 3 * code + 3]
    return red, green, blue
