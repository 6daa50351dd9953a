"""Classes after a prediction: holes filled, components removed that are small or not the largest.

What is done to which class stands in the bundle: `evaluation/postprocessing.py` finds out, at the
end of a training, whether it makes masks better.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo, Rule
from unetseg.prediction.objects import Components, Rows, Spans
from unetseg.prediction.stream import Band

Index = NDArray[np.uint8]


def cleaned(index: Rows, spans: Spans, info: BundleInfo) -> Rows:
    """The class indexes of the pieces of an image with the rules of a bundle applied.

    Args:
        index: As predicted, 255 without data.
        spans: The pieces; what is returned gives these alone.
        info: The bundle.
    """
    for rule in info.postprocess:
        assert info.class_map.background is not None
        if rule.fill_holes:
            index = _filled(index, spans, rule.class_index, info.class_map.background)
        if rule.smallest or rule.largest_only:
            index = _without(index, spans, rule, info.class_map.background)
    return index


def cleaned_image(index: Index, info: BundleInfo) -> Index:
    """The class indexes H×W of an image with the rules of a bundle applied."""
    span = 0, len(index)
    return np.asarray(cleaned(lambda top, bottom: index[top:bottom], [span], info)(*span))


def filled_image(index: Index, kind: int, background: int) -> Index:
    """The class indexes H×W of an image with the holes of one class filled."""
    span = 0, len(index)
    rows = _filled(lambda top, bottom: index[top:bottom], [span], kind, background)
    return np.asarray(rows(*span))


def cleaned_bands(bands: Iterable[Band], info: BundleInfo) -> Iterator[Band]:
    """The bands of an image with the rules of a bundle applied, if there are any.

    Then the classes of all bands are in memory, a byte for each pixel, and no probabilities.
    """
    if not info.postprocess:
        yield from bands
        return
    held = {band.top: band.index for band in bands}
    spans = [(top, top + len(index)) for top, index in held.items()]
    rows = cleaned(lambda top, _: held[top], spans, info)
    for number, span in enumerate(spans):
        yield Band(number, span[0], rows(*span))


def _filled(index: Rows, spans: Spans, kind: int, background: int) -> Rows:
    """With the background that a class encloses made that class."""

    def others(top: int, bottom: int) -> Index:
        return np.asarray(index(top, bottom) != kind, np.uint8)

    parts = Components(others, spans, (1,), connectivity=1)
    upper, left, lower, right = parts.boxes.T
    inside = (upper > 0) & (left > 0) & (lower < spans[-1][1]) & (right < parts.width)
    is_hole = np.r_[False, inside]

    def rows(top: int, bottom: int) -> Index:
        before = index(top, bottom)
        enclosed = is_hole[parts.rows(top, bottom)] & (before == background)
        return np.asarray(np.where(enclosed, np.uint8(kind), before))

    return rows


def _without(index: Rows, spans: Spans, rule: Rule, background: int) -> Rows:
    """With the small components of a class, or all but the largest, made background."""
    parts = Components(index, spans, (rule.class_index,))
    gone = parts.areas < rule.smallest
    if rule.largest_only and len(gone):
        gone = np.arange(len(gone)) != parts.areas.argmax()
    is_gone = np.r_[False, gone]

    def rows(top: int, bottom: int) -> Index:
        removed = is_gone[parts.rows(top, bottom)]
        return np.asarray(np.where(removed, np.uint8(background), index(top, bottom)))

    return rows
