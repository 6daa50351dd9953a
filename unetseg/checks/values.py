"""Mask values: noise, slips, codings that need a look, and masks that may be inverted."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from unetseg.checks.finding import FIX, SNAP, Finding, error_lines
from unetseg.checks.tally import Masks, masks_of, percent
from unetseg.data.facts.survey import Survey, makes_sense
from unetseg.data.masks.class_map import Code
from unetseg.data.masks.infer_classes import NEAR, object_numbers
from unetseg.data.masks.mask_values import distance, in_order, integers, some
from unetseg.text import plural

INVERTED = 0.9  # share of the pixels above which a foreground may be a background
LARGE = 2 / 3  # share above which it is worth a word
DARK = 26  # a tenth of 255: viewers show such values as black
RARER = 20  # values are odd when every other is in so many times as many masks
MET = 3  # masks with both of two values, were they independent, that make their absence tell
DIVIDED = 0.9  # share of the masks with objects that two exclusive values divide between them
ALIKE = 8  # palette entries no further apart look the same
OBJECTS = 4  # highest number from which 1, 2, 3, … may number objects


def inspect_coding(known: Survey) -> Iterator[Finding]:
    """What is notable in the values of the masks; no file is read."""
    error = known.faults.masks
    if error is not None:
        flags = FIX if makes_sense(known, snap=True) else ()
        lines = error_lines(error)
        yield Finding("mask-coding", "error", error.summary, lines, error.fix, flags)
    if masks := masks_of(known):
        yield from _inspect_noise(masks)
        if not masks.names:
            yield from _inspect_slips(masks)
            yield from _inspect_odd_values(masks)
            yield from _inspect_exclusive_values(masks)
            yield from _inspect_objects(masks)
        yield from _inspect_palette(masks)
        yield from _inspect_polarity(masks)
        yield from _inspect_notes(masks)


# Noise


def _inspect_noise(masks: Masks) -> Iterator[Finding]:
    """Pixels that are snapped to the nearest class."""
    known = {*masks.codes, *masks.class_map.ignore}
    noisy: dict[Path, int] = {}
    for fact in masks.folder.facts if masks.class_map.snap else ():
        strays = fact.pixels - sum(pixels for code, pixels in fact.counts if code in known)
        if strays:
            noisy[Path(fact.path)] = strays
    if noisy:
        share = sum(noisy.values()) / masks.folder.pixels
        cause = "JPEG noise" if masks.folder.lossy else "noise"
        yield Finding(
            check="mask-noise",
            severity="warning",
            summary=f"{percent(share)} of the pixels are {cause} around {some(masks.codes)}, in "
            f"{masks.part(len(noisy))}; each counts as the nearest class",
            lines=[(p, f": {plural(pixels, 'stray pixel')}") for p, pixels in noisy.items()],
            fix="Training can live with that; the command writes clean masks, saved without loss.",
            flags=FIX if masks.folder.lossy else SNAP,
        )


def _inspect_slips(masks: Masks) -> Iterator[Finding]:
    """Values that are almost equal, of which one is a slip of the other."""
    is_rgb = masks.folder.coding == "rgb"
    couples = {**(_divided_colours(masks) if is_rgb else {}), **masks.slips}
    if couples:
        what = "colours" if is_rgb else "values"
        shown = some(f"{code} and {other}" for code, other in couples.items())
        yield Finding(
            check="near-colours" if is_rgb else "stray-values",
            severity="warning",
            summary=f"{what} that are almost equal count as classes of their own: {shown}",
            lines=masks.holders(couples),
            fix="If each couple is one class, unite them (the command does, where one is rare); "
            "if not, name the classes in classes.txt.",
            flags=SNAP if masks.slips else (),
        )


def _divided_colours(masks: Masks) -> dict[Code, Code]:
    """Colours that are almost equal and never in one mask: the rarer with the other."""
    pairs = (
        sorted(pair, key=masks.folder.counts.__getitem__)
        for pair in combinations(masks.codes, 2)
        if distance(*pair) <= NEAR
    )
    return {rare: other for rare, other in pairs if not masks.together(rare, other)}


# Values that are in few masks, or exclude each other


def _inspect_odd_values(masks: Masks) -> Iterator[Finding]:
    """Values that a few masks hold, while every other value is widespread."""
    files = {c: masks.folder.files[c] for c in masks.codes if c in masks.folder.files}
    widest = sorted(files.values())[-2:]
    few = {c for c, held in files.items() if RARER * held <= widest[0]} - masks.slips.keys()
    others = [held for code, held in files.items() if code not in few]
    if not few or len(others) < 2 or min(others) < RARER * max(files[code] for code in few):
        return
    holders = masks.holders(few)
    yield Finding(
        check="odd-values",
        severity="warning",
        summary=f"{some(in_order(few))} {'is' if len(few) == 1 else 'are'} in "
        f"{masks.part(len(holders))} only, every other value in {min(others)} or more",
        lines=holders,
        fix="Look at these masks; give --ignore for a value without meaning, or name the classes "
        "in classes.txt if it has one.",
    )


def _inspect_exclusive_values(masks: Masks) -> Iterator[Finding]:
    """Two values that divide the masks between them: one class with two codes?"""
    background = masks.class_map.background
    codes = [code for place, code in enumerate(masks.codes) if place != background]
    if background is None or len(codes) < 2:
        return
    is_rgb, files = masks.folder.coding == "rgb", masks.folder.files
    filled = int((masks.pixels[:, list(masks.class_map.foreground)].sum(axis=1) > 0).sum())
    for one, other in combinations(codes, 2):
        expected = files[one] * files[other] / max(filled, 1)
        is_divided = files[one] + files[other] >= DIVIDED * filled and expected >= MET
        is_near = is_rgb and distance(one, other) <= NEAR
        if is_divided and not is_near and not masks.together(one, other):
            yield Finding(
                check="exclusive-values",
                severity="warning",
                summary=f"{one} is in {masks.part(files[one])} and {other} in {files[other]}, "
                "never both in one: two classes, or one class with two codes?",
                lines=masks.holders([min(one, other, key=files.__getitem__)]),
                fix="If they are one class, save them with one code; if they are two, name them "
                "in classes.txt.",
            )


def _inspect_objects(masks: Masks) -> Iterator[Finding]:
    """Masks whose numbers run 1, 2, 3, … to an end of their own, too few for an error."""
    ends = object_numbers(masks.folder)
    if max(ends, default=0) >= OBJECTS:
        yield Finding(
            check="numbered-objects",
            severity="warning",
            summary=f"each mask holds 1, 2, 3, … up to a number of its own, {min(ends)} to "
            f"{max(ends)}: these may number objects, and here they count as classes",
            lines=[
                (Path(fact.path), f": {len(fact.counts)} distinct values")
                for fact in sorted(masks.folder.facts, key=lambda fact: -len(fact.counts))
            ],
            fix="Save one number for each class, such as 255 wherever there is an object; or, if "
            "these are classes, name them in classes.txt.",
        )


def _inspect_palette(masks: Masks) -> Iterator[Finding]:
    """Palette entries that the eye takes for one."""
    if masks.folder.palette is None:
        return
    used = in_order({*masks.codes, *masks.class_map.ignore} & masks.folder.counts.keys())
    colour = {code: masks.folder.colour(code) for code in integers(used)}
    alike = [
        (one, other)
        for one, other in combinations(colour, 2)
        if distance(colour[one], colour[other]) <= ALIKE
    ]
    if alike:
        shown = some(f"{one} and {other} ({colour[one]})" for one, other in alike)
        rarer = {min(pair, key=masks.folder.counts.__getitem__) for pair in alike}
        yield Finding(
            check="near-colours",
            severity="warning",
            summary=f"palette indexes with almost equal colours count as classes: {shown}",
            lines=masks.holders(rarer),
            fix="If each couple is one class, save it with one index.",
        )


# Polarity and notes


def _inspect_polarity(masks: Masks) -> Iterator[Finding]:
    """Two classes, of which the foreground is the larger by far."""
    background = masks.class_map.background
    if background is None or len(masks.codes) != 2:
        return
    code, share = masks.codes[1 - background], float(masks.share[1 - background])
    if share > LARGE:
        inverted = share > INVERTED
        yield Finding(
            check="mask-polarity",
            severity="warning" if inverted else "note",
            summary=f"{percent(share)} of the pixels are foreground ({code})"
            + (": the masks may be inverted" if inverted else ", which is the larger class"),
            fix=f"If the objects are what {masks.codes[background]} marks, invert the masks, or "
            "say in classes.txt which class is the background.",
        )


def _inspect_notes(masks: Masks) -> Iterator[Finding]:
    """What is right, and may astonish."""
    facts = masks.folder.facts
    if alpha := [Path(fact.path) for fact in facts if fact.alpha]:
        summary = f"an alpha band, opaque throughout, is left out in {masks.part(len(alpha))}"
        yield Finding("mask-alpha", "note", summary, alpha)
    numbers = [*integers(masks.folder.counts)]
    if masks.folder.coding == "integer" and numbers and max(numbers) <= DARK:
        yield Finding(
            "dark-masks",
            "note",
            f"the masks hold numbers up to {max(numbers)}: they look black in viewers, and that is "
            "fine",
        )
    yield from _inspect_ignored(masks)
    colours = [code for code in masks.codes if isinstance(code, tuple) and len({*code}) > 1]
    if colours and not masks.names:
        yield Finding(
            "mask-coding",
            "note",
            f"the masks are RGB: each of the {len(masks.codes)} colours is a class",
            fix="Name the classes in classes.txt, one `name r g b` per line.",
        )
    if numbers and max(numbers) > 255:
        types = ", ".join(sorted({fact.dtype for fact in facts}))
        summary = f"the masks are {types} with values up to {max(numbers)}, and so are predictions"
        yield Finding("mask-coding", "note", summary)


def _inspect_ignored(masks: Masks) -> Iterator[Finding]:
    """Codes that were taken for "no truth" because of what they are."""
    for code in masks.class_map.ignore:
        if code in masks.folder.counts and (
            code == 255 or (not isinstance(code, tuple) and code < 0)
        ):
            share = percent(masks.folder.share([code]))
            yield Finding(
                check="ignored-value",
                severity="note",
                summary=f"{code} stands for pixels without a truth: {share} of the pixels, in "
                f"{masks.part(masks.folder.files[code])}",
                fix="If it is a class, name it in classes.txt.",
            )
