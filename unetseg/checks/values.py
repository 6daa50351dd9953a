"""Mask values: stray ones, odd codings, values that may be one class, polarity."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetseg.checks.finding import (
    FIX,
    SNAP,
    Finding,
    Flags,
    Line,
    are,
    error,
    error_lines,
    note,
    percent,
    warning,
)
from unetseg.data.facts.survey import Survey, conclude
from unetseg.data.masks.class_map import IGNORED, ClassMap, Code
from unetseg.data.masks.mask_values import Folder, distance, gather, in_order, integers, some
from unetseg.data.masks.numbered_objects import object_numbers
from unetseg.data.masks.stray_values import NEAR, separate
from unetseg.errors import MaskError
from unetseg.text import plural

INVERTED = 0.9  # share of the pixels above which a foreground may be a background
LARGE = 2 / 3  # share above which it is worth a word
DARK = 26  # a tenth of 255: viewers show such values as black
RARER = 20  # values are odd when every other is in so many times as many masks
MET = 3  # masks with both of two values, were they independent, that make their absence tell
DIVIDED = 0.9  # share of the masks with objects that two exclusive values divide between them
ALIKE = 8  # palette entries no further apart look the same
OBJECTS = 4  # highest number from which 1, 2, 3, … may number objects
FEW = 3  # a class is rare in fewer masks than this, unless they are half of all


@dataclass(frozen=True)
class Masks:
    """The masks of a folder that makes sense, with the pixels of each class counted.

    Attributes:
        values: What they hold.
        class_map: What it means.
        listed: Whether the classes come from a class list.
    """

    values: Folder
    class_map: ClassMap
    listed: bool

    @cached_property
    def codes(self) -> list[Code]:
        """The codes of the classes, in order."""
        return [item.code for item in self.class_map.classes]

    @cached_property
    def pixels(self) -> NDArray[np.int64]:
        """N×(K+1): the pixels of each class in each mask; the last column counts the ignored."""
        codes, dtype = list(self.values.counts), np.uint8 if self.values.coding == "rgb" else int
        indexes = self.class_map.encode(np.array([codes], dtype))[0]
        last = len(self.class_map.classes)
        column = dict(zip(codes, np.minimum(indexes, last).tolist(), strict=True))
        rows = [
            np.bincount(
                [column[code] for code, _ in fact.counts],
                [count for _, count in fact.counts],  # exact below 2⁵³
                minlength=last + 1,
            )
            for fact in self.values.facts
        ]
        return np.array(rows, np.int64)

    @cached_property
    def counted(self) -> NDArray[np.int64]:
        """N: the pixels of each mask that are not ignored."""
        return np.asarray(self.pixels[:, :-1].sum(axis=1))

    @cached_property
    def objects(self) -> NDArray[np.int64]:
        """N: the pixels of each mask that show foreground."""
        return np.asarray(self.pixels[:, list(self.class_map.foreground)].sum(axis=1))

    @cached_property
    def shown(self) -> NDArray[np.int64]:
        """K: the number of masks that show each class."""
        return np.asarray((self.pixels[:, :-1] > 0).sum(axis=0))

    @cached_property
    def share(self) -> NDArray[np.float64]:
        """K: the share of each class in the pixels that count, 0–1."""
        counts = self.pixels[:, :-1].sum(axis=0)
        return np.asarray(counts / max(int(counts.sum()), 1))

    @cached_property
    def slips(self) -> dict[Code, Code]:
        """Classes that no list names and that look like slips, each with the one that was meant."""
        if self.listed or self.class_map.snap or self.class_map.numbers:
            return {}
        slips = separate(self.values, self.class_map.ignore).slips
        return {code: meant for code, meant in slips.items() if code in self.codes}

    @cached_property
    def present(self) -> list[int]:
        """The classes that some mask shows, those left out that look like slips."""
        return [k for k, code in enumerate(self.codes) if self.shown[k] and code not in self.slips]

    @cached_property
    def in_few(self) -> list[int]:
        """The classes, but the background, that fewer than 3 masks show, and fewer than half."""
        most = min(FEW, len(self.pixels) / 2)
        background = self.class_map.background
        return [k for k in self.present if self.shown[k] < most and k != background]

    def paths(self, rows: NDArray[np.intp]) -> list[Path]:
        """The files of these rows of `pixels`."""
        return [Path(self.values.facts[int(row)].path) for row in rows]

    def together(self, one: Code, other: Code) -> bool:
        """Whether any mask holds both classes."""
        columns = [self.codes.index(one), self.codes.index(other)]
        return bool((self.pixels[:, columns] > 0).all(axis=1).any())

    def holders(self, codes: Iterable[Code]) -> list[Line]:
        """The files that hold one of these codes, each with those it holds and their pixels."""
        return [(Path(path), f": {held}") for path, held in self.values.held(codes)]

    def part(self, count: int) -> str:
        """So many of the masks, in words."""
        return f"{count} of {plural(len(self.values.facts), 'mask')}"

    def names_of(self, indexes: Iterable[int]) -> str:
        """The names of classes, for a message."""
        return some(self.class_map.names[k] for k in indexes)


def masks_of(survey: Survey) -> Masks | None:
    """The masks of a folder; None where their values make no sense."""
    if survey.classes is None or not survey.facts:
        return None
    values, known = gather([fact.mask for _, fact in survey.items()]), survey.classes
    if known.united or known.numbers or known.objects:
        held = list(values.counts)
        code_of = {
            code: code if index == IGNORED else known.classes[index].code
            for code, index in zip(held, known.indexes_of(held), strict=True)
        }
        values = values.recoded(code_of.__getitem__)
    return Masks(values, survey.classes, survey.names is not None)


def inspect_values(survey: Survey) -> Iterator[Finding]:
    """What is notable in the values of the masks; no file is read."""
    if fault := survey.faults.masks:
        flags: Flags = ()
        with suppress(MaskError):
            conclude(survey, snap=True)
            flags = FIX
        yield error("mask-coding", fault.summary, error_lines(fault), fault.fix, flags)
    if masks := masks_of(survey):
        yield from _inspect_noise(masks)
        if not masks.listed:
            yield from _inspect_slips(masks)
            yield from _inspect_odd_values(masks)
            yield from _inspect_exclusive_values(masks)
            yield from _inspect_objects(masks)
        yield from _inspect_palette(masks)
        yield from _inspect_polarity(masks)
        yield from _inspect_notes(masks)


def _inspect_noise(masks: Masks) -> Iterator[Finding]:
    """Pixels that are snapped to the nearest class."""
    meant = {*masks.codes, *masks.class_map.ignore}
    strays = {
        Path(fact.path): sum(pixels for code, pixels in fact.counts if code not in meant)
        for fact in masks.values.facts
    }
    noisy = {path: pixels for path, pixels in strays.items() if pixels}
    if masks.class_map.snap and noisy:
        share = sum(noisy.values()) / masks.values.pixels
        cause = "JPEG noise" if masks.values.lossy else "noise"
        yield warning(
            "mask-noise",
            f"{percent(share)} of the pixels are {cause} around {some(masks.codes)}, in "
            f"{masks.part(len(noisy))}; each counts as the nearest class",
            lines=[(p, f": {plural(pixels, 'stray pixel')}") for p, pixels in noisy.items()],
            fix="Training can live with that; the command writes clean masks, saved without loss.",
            flags=FIX if masks.values.lossy else SNAP,
        )


def _inspect_slips(masks: Masks) -> Iterator[Finding]:
    """Values that are almost equal, of which one is a slip of the other."""
    is_rgb = masks.values.coding == "rgb"
    couples: dict[Code, Code] = {}
    for pair in combinations(masks.codes, 2) if is_rgb else ():
        rare, other = sorted(pair, key=masks.values.counts.__getitem__)
        if distance(rare, other) <= NEAR and not masks.together(rare, other):
            couples[rare] = other
    couples |= masks.slips
    if couples:
        what = "colours" if is_rgb else "values"
        shown = some(f"{code} and {other}" for code, other in couples.items())
        yield warning(
            "near-colours" if is_rgb else "stray-values",
            f"{what} that are almost equal count as classes of their own: {shown}",
            lines=masks.holders(couples),
            fix="If each couple is one class, unite them (the command does, where one is rare); "
            "if not, name the classes in classes.txt.",
            flags=SNAP if masks.slips else (),
        )


def _inspect_odd_values(masks: Masks) -> Iterator[Finding]:
    """Values that a few masks hold, while every other value is widespread."""
    files = {code: masks.values.files[code] for code in masks.codes if code in masks.values.files}
    widest = sorted(files.values())[-2:]
    few = {c for c, held in files.items() if RARER * held <= widest[0]} - masks.slips.keys()
    others = [held for code, held in files.items() if code not in few]
    if not few or len(others) < 2 or min(others) < RARER * max(files[code] for code in few):
        return
    holders = masks.holders(few)
    yield warning(
        "odd-values",
        f"{some(in_order(few))} {are(len(few))} in {masks.part(len(holders))} only, "
        f"every other value in {min(others)} or more",
        lines=holders,
        fix="Look at these masks; give --ignore for a value without meaning, or name the classes "
        "in classes.txt if it has one.",
    )


def _inspect_exclusive_values(masks: Masks) -> Iterator[Finding]:
    """Two values that divide the masks between them: one class with two codes?"""
    if masks.class_map.background is None:
        return
    files, filled = masks.values.files, int((masks.objects > 0).sum())
    for pair in combinations(masks.class_map.foreground, 2):
        one, other = (masks.codes[k] for k in pair)
        expected = files[one] * files[other] / max(filled, 1)
        is_divided = files[one] + files[other] >= DIVIDED * filled and expected >= MET
        if is_divided and not masks.together(one, other):
            yield warning(
                "exclusive-values",
                f"{one} is in {masks.part(files[one])} and {other} in {files[other]}, "
                "never both in one: two classes, or one class with two codes?",
                lines=masks.holders([min(one, other, key=files.__getitem__)]),
                fix="If they are one class, save them with one code; if they are two, name them "
                "in classes.txt.",
            )


def _inspect_objects(masks: Masks) -> Iterator[Finding]:
    """Masks whose numbers run 1, 2, 3, … to an end of their own, too few for an error."""
    ends = object_numbers(masks.values)
    if max(ends, default=0) >= OBJECTS:
        fullest = sorted(masks.values.facts, key=lambda fact: -len(fact.counts))
        yield warning(
            "numbered-objects",
            f"each mask holds 1, 2, 3, … up to a number of its own, {min(ends)} to "
            f"{max(ends)}: these may number objects, and here they count as classes",
            lines=[(Path(f.path), f": {len(f.counts)} distinct values") for f in fullest],
            fix="Save one number for each class, such as 255 wherever there is an object; or, if "
            "these are classes, name them in classes.txt.",
        )


def _inspect_palette(masks: Masks) -> Iterator[Finding]:
    """Palette entries that the eye takes for one."""
    if masks.values.palette is None:
        return
    used = in_order({*masks.codes, *masks.class_map.ignore} & masks.values.counts.keys())
    colour = {code: masks.values.colour(code) for code in integers(used)}
    alike = [
        (one, other)
        for one, other in combinations(colour, 2)
        if distance(colour[one], colour[other]) <= ALIKE
    ]
    if alike:
        shown = some(f"{one} and {other} ({colour[one]})" for one, other in alike)
        rarer = {min(pair, key=masks.values.counts.__getitem__) for pair in alike}
        yield warning(
            "near-colours",
            f"palette indexes with almost equal colours count as classes: {shown}",
            lines=masks.holders(rarer),
            fix="If each couple is one class, save it with one index.",
        )


def _inspect_polarity(masks: Masks) -> Iterator[Finding]:
    """Two classes, of which the foreground is the larger by far."""
    background = masks.class_map.background
    if background is None or len(masks.codes) != 2:
        return
    code, share = masks.codes[1 - background], float(masks.share[1 - background])
    if share > LARGE:
        inverted = share > INVERTED
        remark = ": the masks may be inverted" if inverted else ", which is the larger class"
        yield Finding(
            check="mask-polarity",
            severity="warning" if inverted else "note",
            summary=f"{percent(share)} of the pixels are foreground ({code}){remark}",
            fix=f"If the objects are what {masks.codes[background]} marks, invert the masks, or "
            "say in classes.txt which class is the background.",
        )


def _inspect_notes(masks: Masks) -> Iterator[Finding]:
    """What is right, and may astonish."""
    values = masks.values
    if alpha := [Path(fact.path) for fact in values.facts if fact.alpha]:
        summary = f"an alpha band, opaque throughout, is left out in {masks.part(len(alpha))}"
        yield note("mask-alpha", summary, alpha)
    highest = max(integers(values.counts), default=-1)
    is_stored = any(fact.format for fact in values.facts)  # sets of files have codes of ours
    if values.coding == "integer" and 0 <= highest <= DARK and is_stored:
        summary = f"the masks hold numbers up to {highest}: they look black in viewers, and that "
        yield note("dark-masks", summary + "is fine")
    for code in integers(masks.class_map.ignore):
        if code in values.counts and (code == 255 or code < 0):
            yield note(
                "ignored-value",
                f"{code} stands for pixels without a truth: "
                f"{percent(values.share([code]))} of the pixels, in "
                f"{masks.part(values.files[code])}",
                fix="If it is a class, name it in classes.txt.",
            )
    if not masks.listed and any(len({*c}) > 1 for c in masks.codes if isinstance(c, tuple)):
        summary = f"the masks are RGB: each of the {len(masks.codes)} colours is a class"
        fix = "Name the classes in classes.txt, one `name r g b` per line."
        yield note("mask-coding", summary, fix=fix)
    if highest > 255:
        types = ", ".join(sorted({fact.dtype for fact in values.facts}))
        summary = f"the masks are {types} with values up to {highest}, and so are predictions"
        yield note("mask-coding", summary)
