"""Classes after a prediction: holes filled, components removed that are small or not the largest.

What is done to which class stands in the bundle: `evaluation/postprocessing.py` finds out, at the
end of a training, whether it makes masks better.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo, Rule
from unetseg.prediction.objects import Components, Rows, Spans
from unetseg.prediction.stream import Band

Index = NDArray[np.uint8]
Step = Callable[[Rows, Spans], Rows]
"""Of the class indexes of all pieces, 255 without data, those after it; it gives these alone."""


def steps(info: BundleInfo) -> Iterator[Step]:
    """What the rules of a bundle do to an image, one after the other.

    What a step gives is to be kept before the next one begins, which asks for it several times.
    """
    for rule in info.postprocess:
        background = info.class_map.background
        assert background is not None
        if rule.fill_holes:
            yield partial(_filled, kind=rule.class_index, background=background)
        if rule.smallest or rule.largest_only:
            yield partial(_without, rule=rule, background=background)


def cleaned_image(index: Index, info: BundleInfo) -> Index:
    """The class indexes H×W of an image with the rules of a bundle applied."""
    held = {0: index}
    for step in steps(info):
        _apply(step, held)
    return held[0]


def filled_image(index: Index, kind: int, background: int) -> Index:
    """The class indexes H×W of an image with the holes of one class filled."""
    held = {0: index}
    _apply(partial(_filled, kind=kind, background=background), held)
    return held[0]


def cleaned_bands(bands: Iterable[Band], info: BundleInfo) -> Iterator[Band]:
    """The bands of an image with the rules of a bundle applied, if there are any.

    Then the classes of all bands are in memory, a byte for each pixel, and no probabilities.
    """
    if not info.postprocess:
        yield from bands
        return
    held = {band.top: band.index for band in bands}
    for step in steps(info):
        _apply(step, held)
    for number, (top, index) in enumerate(held.items()):
        yield Band(number, top, index)


def _apply(step: Step, held: dict[int, Index]) -> None:
    """Put the pieces of an image, by their first rows, in the place of what they were."""
    spans = [(top, top + len(index)) for top, index in held.items()]
    rows = step(lambda top, _: held[top], spans)
    for top, bottom in spans:
        held[top] = rows(top, bottom)


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
