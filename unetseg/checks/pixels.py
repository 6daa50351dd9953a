"""Pixels that are no numbers, tell nothing, stand for "no data", or lie at the end of the scale."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from unetseg.checks.evidence import Evidence
from unetseg.checks.finding import Finding, listed
from unetseg.checks.tally import percent
from unetseg.data.facts.fingerprint import KIND_FIX, NO_NUMBERS, ImageFacts, find_strangers
from unetseg.text import plural

SATURATED = 0.1  # share of the values at the highest of their band that is worth a word
SCALE = 32  # levels between lowest and highest value; with fewer, many pixels hold the highest
COMMON = 0.25  # share of the images from which a trait is how these images are, and no slip

_Images = Sequence[tuple[str, ImageFacts]]  # path and facts


def inspect_pixels(evidence: Evidence) -> Iterator[Finding]:
    """What is notable in the pixel values of the images; no file is read."""
    images = [
        (str(pair.image), fact.image)
        for pair, fact in zip(evidence.pairs, evidence.facts, strict=True)
    ]
    if not images:
        return
    yield from _inspect_numbers(images)
    yield from _inspect_kinds(evidence)
    yield from _inspect_grey(images)
    yield from _inspect_constant_images(images)
    yield from _inspect_constant_bands(images)
    yield from _inspect_no_data(images)
    yield from _inspect_fills(images)
    yield from _inspect_saturation(images)


def _inspect_numbers(images: _Images) -> Iterator[Finding]:
    lines = [f"{path}: {plural(image.bad, 'pixel')}" for path, image in images if image.bad]
    if lines:
        yield Finding(
            check="nan-pixels",
            severity="error",
            summary=f"{plural(len(lines), 'image')} with {NO_NUMBERS}",
            files=listed(lines),
            fix="Replace them by a number, and ignore these pixels in the masks.",
        )


# Number types and bands


def _inspect_kinds(evidence: Evidence) -> Iterator[Finding]:
    most, strangers = find_strangers(evidence.pairs, evidence.facts)
    if strangers:
        yield Finding(
            check="image-kinds",
            severity="error",
            summary=f"the images differ in kind: most are {most}, {len(strangers)} of "
            f"{len(evidence.facts)} are not",
            files=listed(strangers),
            fix=KIND_FIX,
        )


def _inspect_grey(images: _Images) -> Iterator[Finding]:
    bands = [image.bands for _, image in images]
    if {1, 3} <= set(bands):
        yield Finding(
            check="grey-among-colour",
            severity="note",
            summary=f"{bands.count(1)} of {plural(len(images), 'image')} grey among RGB ones: "
            "their band is repeated",
            files=listed(path for path, image in images if image.bands == 1),
        )


# Nothing to see


def _inspect_constant_images(images: _Images) -> Iterator[Finding]:
    lines = [f"{path}: {_content(image)}" for path, image in images if _is_constant(image)]
    if lines:
        yield Finding(
            check="constant-image",
            severity="warning",
            summary=f"{plural(len(lines), 'image')} of a single colour, from which nothing can be "
            "learnt",
            files=listed(lines),
            fix="Look whether the export failed, or remove the pairs.",
        )


def _is_constant(image: ImageFacts) -> bool:
    return image.low == image.high and image.pixels > 1 and not image.bad


def _content(image: ImageFacts) -> str:
    if not image.with_data:
        return "no pixel has data"
    return "all pixels are " + ", ".join(f"{value:g}" for value in dict.fromkeys(image.low))


def _inspect_constant_bands(images: _Images) -> Iterator[Finding]:
    flat = {path: _flat_bands(image) for path, image in images if not _is_constant(image)}
    if not flat:
        return
    everywhere = frozenset.intersection(*flat.values())
    if everywhere:
        yield Finding(
            check="unused-band",
            severity="note",
            summary=f"{_band_names(everywhere)} without content: one value in each image",
        )
    rest = {path: bands - everywhere for path, bands in flat.items() if bands - everywhere}
    if rest:
        yield Finding(
            check="constant-band",
            severity="note" if len(rest) >= COMMON * len(images) else "warning",
            summary=f"{plural(len(rest), 'image')} with bands of a single value that vary "
            "in others",
            files=listed(f"{path}: {_band_names(bands)}" for path, bands in rest.items()),
            fix="Look whether the export of these bands failed.",
        )


def _flat_bands(image: ImageFacts) -> frozenset[int]:
    """The bands that hold one value, the first is 1."""
    bands = zip(image.low, image.high, strict=True)
    return frozenset(i for i, (low, high) in enumerate(bands, 1) if low == high)


def _band_names(bands: Iterable[int]) -> str:
    """Bands in words.

    >>> _band_names({3}), _band_names({2, 1})
    ('band 3', 'bands 1, 2')
    """
    numbers = sorted(bands)
    return f"band{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


# No data


def _inspect_no_data(images: _Images) -> Iterator[Finding]:
    found = {path: image for path, image in images if image.nodata_share}
    if found:
        blank = sum(image.pixels - image.with_data for image in found.values())
        share = blank / sum(image.pixels for _, image in images)
        yield Finding(
            check="no-data",
            severity="note",
            summary=f"{percent(share)} of the pixels have no data, in "
            f"{plural(len(found), 'image')}",
            files=listed(
                f"{path}: {percent(image.nodata_share)} of the pixels are {image.nodata:g}"
                for path, image in found.items()
            ),
            fix="Give these pixels an ignored value in the masks, unless they have one.",
        )


def _inspect_fills(images: _Images) -> Iterator[Finding]:
    found: dict[float, dict[str, ImageFacts]] = defaultdict(dict)
    for path, image in images:
        if image.fill is not None:
            found[image.fill][path] = image
    for fill, holders in sorted(found.items()):
        yield Finding(
            check="undeclared-no-data",
            severity="warning",
            summary=f"{plural(len(holders), 'image')} with pixels of {fill:g}, far from all "
            "others: it seems to stand for no data, and would be taken for a brightness",
            files=listed(
                f"{path}: {percent(image.fill_share)} of the pixels"
                for path, image in holders.items()
            ),
            fix=f"Replace {fill:g} by a number near the others and ignore these pixels in the "
            f"masks, or declare it (gdal_edit.py -a_nodata {fill:g} FILE).",
        )


# The end of the scale


def _inspect_saturation(images: _Images) -> Iterator[Finding]:
    """Few such images are slips; many are how these images are, with a sky or a white ground."""
    shares = {path: _saturated_share(image) for path, image in images}
    lines = [f"{path}: {percent(s)} of the values" for path, s in shares.items() if s >= SATURATED]
    common = len(lines) >= COMMON * len(images)
    if lines:
        yield Finding(
            check="saturated",
            severity="note" if common else "warning",
            summary=f"{len(lines)} of {plural(len(images), 'image')} with {SATURATED:.0%} or more "
            "of the values at the highest of their band: overexposed, or bright as a sky or a "
            "white ground",
            files=listed(lines),
            fix="" if common else "Look at them; where a band is saturated it shows nothing.",
        )


def _saturated_share(image: ImageFacts) -> float:
    """Share of the highest value in each band, the mean of all bands, 0–1."""
    bands = zip(image.low, image.high, image.at_high, strict=True)
    shares = [
        share if high != image.fill and _has_scale(image, low, high) else 0
        for low, high, share in bands
    ]
    return sum(shares) / len(shares)


def _has_scale(image: ImageFacts, low: float, high: float) -> bool:
    """Whether a band may hold so many values that no share of them should be equal."""
    return high > low if image.dtype == "float32" else high - low >= SCALE
