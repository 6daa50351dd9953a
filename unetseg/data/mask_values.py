"""Which values a folder of masks holds, and which of them are noise.

`mask_facts` counts the codes of one file; `gather` puts the files of a folder together;
`judge` tells the codes that stand for something from stray values around them.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from unetseg.data.masks import Code, Coding, Colour, pack, read_mask, runs, unpack
from unetseg.errors import MaskError

COUNTED = 4096  # distinct codes that the facts of one file keep, the most frequent ones
REACH = 48  # a stray value lies at most this far from its class, in grey values
CENTRE_SHARE = 0.001  # a third class among noise holds at least this share of the pixels
LOSSY_SHARE = 0.99  # of lossy masks at least this share lies within reach of a class
CLOSE = 12  # and most of their pixels lie this near to it, which tells a mask from a photo
CLOSE_SHARE = 0.9
SNAP_SHARE = 0.9  # the same, of other masks when the user asks to snap
STRAY_SHARE = 0.05  # noise is less than this share of the pixels …
SANE_VALUES = 16  # … spread over more distinct values than this
EDGE = 51  # a fifth of the range: nearly black or nearly white
MANY_VALUES = 64  # over more than so many, it may be …
MANY_STRAY_SHARE = 0.5  # … this share: the soft edges of thin structures
SMALL_INDEX = 64  # numbers below this are class indexes, not grey values

_SHOWN = 6  # values that a message lists
_SHOWN_FILES = 10  # files that the line about the most values lists


class MaskFacts(BaseModel):
    """The values of one mask file.

    Attributes:
        path: The file.
        shape: Height and width, pixels.
        coding: What the values are.
        dtype: Their number type.
        counts: Codes with their pixels, the most frequent first; at most 4096.
        palette: 768 numbers with the coding "palette".
        lossy: Whether the compression changes values (JPEG).
        suffix: ".tif" when the content is TIFF, else that of the name, in lower case.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    shape: tuple[int, int]
    coding: Coding
    dtype: str
    counts: tuple[tuple[Code, int], ...]
    palette: tuple[int, ...] | None = None
    lossy: bool = False
    suffix: str = ".png"


def mask_facts(path: Path) -> MaskFacts:
    """Read a mask and count its codes.

    Raises:
        MaskError: the file cannot be read or is no mask.
    """
    raw = read_mask(path)
    codes = pack(raw.pixels) if raw.coding == "rgb" else raw.pixels
    values, inverse, lengths = runs(codes.ravel())
    counts = np.bincount(inverse, weights=lengths, minlength=len(values))  # exact below 2⁵³
    order = np.argsort(-counts, kind="stable")[:COUNTED]
    pixels = [int(count) for count in counts[order]]
    return MaskFacts(
        path=str(path),
        shape=(raw.pixels.shape[0], raw.pixels.shape[1]),
        coding=raw.coding,
        dtype=raw.pixels.dtype.name,
        counts=tuple(zip(unpack(values[order], raw.coding), pixels, strict=True)),
        palette=raw.palette,
        lossy=raw.lossy,
        suffix=".tif" if raw.tiff else path.suffix.lower(),
    )


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
        return sum(fact.shape[0] * fact.shape[1] for fact in self.facts)

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

    def holders(self, codes: Iterable[Code]) -> list[str]:
        """The files that hold any of `codes`, each with those it holds."""
        wanted = set(codes)
        held = ((fact.path, wanted & dict(fact.counts).keys()) for fact in self.facts)
        return [f"{path}: {some(in_order(values))}" for path, values in held if values]

    def fullest(self) -> str:
        """The files with the most distinct values, in one line."""
        ranked = sorted(self.facts, key=lambda fact: -len(fact.counts))[:_SHOWN_FILES]
        listed = ", ".join(f"{fact.path} ({len(fact.counts)})" for fact in ranked)
        return f"most distinct values: {listed}"


@dataclass(frozen=True)
class Verdict:
    """The codes that stand for something; whether others are snapped to them; why, in words."""

    codes: tuple[Code, ...]
    snap: bool = False
    noise: str = ""


def gather(facts: Sequence[MaskFacts]) -> Folder:
    """Put the files of a folder together.

    Raises:
        MaskError: there is none, they have different codings, or one palette index has different
            colours.
    """
    if not facts:
        raise MaskError("there are no masks", mend="Put the mask of each image into masks/.")
    facts = _grey_as_numbers(facts)
    kinds = Counter(fact.coding for fact in facts).most_common()
    if len(kinds) > 1:
        listed = ", ".join(f"{count} {coding_name(coding)}" for coding, count in kinds)
        lines = [f"{coding_name(f.coding)}: {f.path}" for f in facts if f.coding != kinds[0][0]]
        mend = f"Save these as {coding_name(kinds[0][0])} like the others."
        raise MaskError(f"the masks have different codings: {listed}", lines, mend)
    _check_palettes(facts)
    # Files with few codes may have a shortened palette.
    palette = max(facts, key=lambda fact: len(fact.counts)).palette
    return Folder(facts, facts[0].coding, palette)


def _grey_as_numbers(facts: Sequence[MaskFacts]) -> Sequence[MaskFacts]:
    """Count grey RGB files as numbers where other files hold numbers."""
    colours = [fact for fact in facts if fact.coding == "rgb"]
    if all(fact.coding != "integer" for fact in facts) or not all(map(_is_grey, colours)):
        return facts
    return [_as_numbers(fact) if fact.coding == "rgb" else fact for fact in facts]


def _is_grey(fact: MaskFacts) -> bool:
    return all(len({*_rank(code)}) == 1 for code, _ in fact.counts)


def _as_numbers(fact: MaskFacts) -> MaskFacts:
    counts = tuple((_rank(code)[0], pixels) for code, pixels in fact.counts)
    return fact.model_copy(update={"coding": "integer", "counts": counts})


def _check_palettes(facts: Sequence[MaskFacts]) -> None:
    """One index must have one colour wherever it is used."""
    used: dict[Code, dict[Colour, str]] = {}
    for fact in facts if facts[0].palette else ():
        for code, _ in fact.counts:
            used.setdefault(code, {}).setdefault(_entry(fact.palette, code), fact.path)
    clashes = [
        f"index {code}: " + ", ".join(f"{colour} in {path}" for colour, path in colours.items())
        for code, colours in used.items()
        if len(colours) > 1
    ]
    if clashes:
        mend = "Save the masks with one palette, as class numbers, or as RGB."
        raise MaskError("a palette index has different colours in the masks", clashes, mend)


def judge(
    folder: Folder, named: tuple[Code, ...], given: tuple[Code, ...], *, snap: bool
) -> Verdict:
    """Tell the codes that stand for something from noise.

    Args:
        folder: All masks.
        named: The codes of a class list, if there is one.
        given: The codes that the user ignores.
        snap: Whether stray values may be snapped to the nearest code.

    Raises:
        MaskError: there is more noise than may be snapped.
    """
    known = tuple(dict.fromkeys([*named, *given]))
    if folder.lossy:
        return _judge_lossy(folder, known) if named else _judge_jpeg(folder, given)
    if named and snap:
        return Verdict(known, snap=True, noise="stray values are snapped to the nearest class")
    if named:
        return Verdict(folder.found)
    centres = find_centres(folder, given)
    if not snap and not is_noise(folder, centres):
        return Verdict(folder.found)
    if snap and _is_clean(folder, centres):
        return Verdict(folder.found, snap=True)
    if not snap or folder.share(centres, REACH) < SNAP_SHARE:
        raise _too_many(folder, centres)
    return Verdict(
        in_order(centres),
        snap=True,
        noise=f"stray values are snapped to the nearest of {some(in_order(centres))}",
    )


def _judge_jpeg(folder: Folder, given: tuple[Code, ...]) -> Verdict:
    """Lossy masks without a class list: their classes are where the pixels crowd."""
    centres = in_order(find_centres(folder, given))
    if len(centres) < 2 and len(folder.counts) > 1:
        raise _spoilt(folder, centres, REACH)
    if folder.share(centres, CLOSE) < CLOSE_SHARE:
        raise _spoilt(folder, centres, CLOSE)
    return _judge_lossy(folder, centres, REACH)


def _judge_lossy(folder: Folder, codes: tuple[Code, ...], reach: int | None = None) -> Verdict:
    """Lossy masks with known codes: no value may be as near to another class as to its own."""
    gap = min((_distance(a, b) for i, a in enumerate(codes) for b in codes[:i]), default=2 * REACH)
    reach = min(REACH, (gap - 1) // 2) if reach is None else reach
    share = folder.share(codes, reach)
    if share < LOSSY_SHARE:
        raise _spoilt(folder, codes, reach)
    if set(folder.counts) <= set(codes):
        return Verdict(codes, snap=True)
    near = f"{_percent(share)} of the pixels are within {reach}"
    return Verdict(
        codes, snap=True, noise=f"JPEG noise is snapped to the nearest of {some(codes)} ({near})"
    )


def find_centres(folder: Folder, seeds: tuple[Code, ...] = ()) -> tuple[Code, ...]:
    """The most frequent codes, greedily, each 48 or more from the others, `seeds` first.

    Distances are the largest of the bands. The third centre and any after it need 0.1% of the
    pixels; two are found even when the foreground is rarer than that.
    """
    chosen = [code for code in seeds if code in folder.counts]
    for code, count in sorted(folder.counts.items(), key=lambda item: (-item[1], _rank(item[0]))):
        if len(chosen) > 1 and count < CENTRE_SHARE * folder.pixels:
            break
        if all(_distance(code, other) >= REACH for other in chosen):
            chosen.append(code)
    return tuple(chosen)


def is_noise(folder: Folder, centres: tuple[Code, ...]) -> bool:
    """Whether the values between `centres` look like anti-aliasing, not like classes.

    The evidence, all of it: more than 16 distinct values, and less than 5% of the pixels outside
    the centres (half of them for more than 64 numbers). Of numbers also: all values lie between
    the lowest and the highest centre and reach near to both (class numbers stop far below 255),
    and they are not simply 0, 1, 2, … nearly without gaps. Fewer values are noise when hardly any
    pixel holds them and they are almost black or almost white in masks of 0 and 255.
    """
    if len(centres) < 2 or len(folder.counts) == len(centres):
        return False
    if len(folder.counts) <= SANE_VALUES:
        return folder.coding != "rgb" and _is_speckled(folder, centres)
    many = folder.coding != "rgb" and len(folder.counts) > MANY_VALUES
    if 1 - folder.share(centres) >= (MANY_STRAY_SHARE if many else STRAY_SHARE):
        return False
    if folder.coding == "rgb":
        return True
    low, high = min(integers(centres)), max(integers(centres))
    others = sorted(set(integers(folder.counts)) - set(integers(centres)))
    edge = (high - low) / 5
    between = low < others[0] <= low + edge and high - edge <= others[-1] < high
    return between and not _is_dense(folder)


def _is_speckled(folder: Folder, centres: tuple[Code, ...]) -> bool:
    """Whether a pixel in a thousand or fewer is nearly 0 or 255, and the others are just that."""
    others = sorted(set(integers(folder.counts)) - set(integers(centres)))
    near = all(min(code, 255 - code) <= EDGE for code in others) and others[-1] >= 255 - EDGE
    return set(centres) == {0, 255} and near and folder.share(centres) > 1 - CENTRE_SHARE


def _is_dense(folder: Folder) -> bool:
    """Whether the codes but 255 are 0, 1, 2, … up to at most 239, with few gaps."""
    small = [code for code in integers(folder.counts) if code >= 0 and code != 255]
    return max(small) < 240 and len(small) >= 0.9 * (max(small) + 1)


def _is_clean(folder: Folder, centres: tuple[Code, ...]) -> bool:
    """Whether nothing needs snapping: codes far from each other, or small class numbers."""
    if len(centres) == len(folder.counts):
        return True
    highest = max((code for code in integers(folder.counts) if code != 255), default=255)
    return folder.coding != "rgb" and highest < SMALL_INDEX


def _too_many(folder: Folder, centres: tuple[Code, ...]) -> MaskError:
    nearest = some(in_order(centres))
    few = len(folder.counts) <= SANE_VALUES
    strays = set(folder.counts) - set(centres)
    return MaskError(
        f"more classes than sense: the masks hold {len(folder.counts)} distinct values; "
        f"{_percent(folder.share(centres))} of the pixels are exactly {nearest}",
        folder.holders(strays) if few else [folder.fullest()],
        f"Give --snap to take the nearest of {nearest}, or save the masks without smoothing.",
    )


def _spoilt(folder: Folder, codes: tuple[Code, ...], reach: int) -> MaskError:
    return MaskError(
        f"lossy compression (JPEG) has spoilt the masks: of {len(folder.counts)} distinct values "
        f"{_percent(folder.share(codes, reach))} of the pixels lie within {reach} of {some(codes)}",
        [folder.fullest()],
        "Export the masks again, as PNG.",
    )


def in_order(codes: Iterable[Code]) -> tuple[Code, ...]:
    """Codes in ascending order."""
    return tuple(sorted(codes, key=_rank))


def integers(codes: Iterable[Code]) -> Iterator[int]:
    """The codes that are numbers."""
    return (code for code in codes if not isinstance(code, tuple))


def some(codes: Iterable[Code]) -> str:
    """The first of many codes, for a message."""
    texts = [str(code) for code in codes]
    more = f", … ({len(texts)} values)" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def coding_name(coding: Coding) -> str:
    """A coding in the words of messages."""
    return {"integer": "grey", "palette": "palette", "rgb": "RGB"}[coding]


def _percent(share: float) -> str:
    """A share rounded down, so that only all is 100%."""
    return f"{math.floor(1000 * share) / 10:.1f}%"


def _rank(code: Code) -> Colour:
    return code if isinstance(code, tuple) else (code, 0, 0)


def _distance(one: Code, other: Code) -> int:
    return max(abs(a - b) for a, b in zip(_rank(one), _rank(other), strict=True))


def _table(codes: Iterable[Code]) -> NDArray[np.int64]:
    """Codes as rows: N×3."""
    return np.array([_rank(code) for code in codes], np.int64).reshape(-1, 3)


def _entry(palette: Sequence[int] | None, code: Code) -> Colour:
    if palette is None or isinstance(code, tuple):
        return (0, 0, 0)
    red, green, blue = palette[3 * code : 3 * code + 3]
    return red, green, blue
