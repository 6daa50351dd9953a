"""Which predicted images most need a look: those whose own probabilities promise the lowest Dice.

For each image the expected Dice of its foreground is computed from the probability p of the class
that each pixel has: 2 · Σ p over the foreground / (pixels of the foreground + Σ p there + Σ (1 − p)
over the background). Without a foreground, the pixel most likely to be some counts; where no class
is background, the mean of p.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unetseg.data.masks.class_map import ClassMap
from unetseg.prediction.bands import BandStore, OneBand
from unetseg.storage import write_csv

UNSURE = 0.75
"""Probability below which a pixel is called unsure."""


class Doubt(NamedTuple):
    """How much an image needs a look."""

    score: float
    """0–1; the higher, the more."""
    why: str


def doubt_of(
    bands: BandStore | OneBand, spans: Sequence[tuple[int, int]], class_map: ClassMap
) -> Doubt:
    """The doubt in what is predicted of an image, looked through in pieces."""
    found = likely = spread = unsure = pixels = largest = 0.0
    for top, bottom in spans:
        index, certainty = bands.index(top, bottom), bands.certainty(top, bottom)
        known = np.isfinite(certainty)
        inside = known & (index != class_map.background)
        beside = 1 - certainty[known & ~inside]
        found += int(inside.sum())
        likely += float(certainty[inside].sum(dtype=np.float64))
        spread += float(beside.sum(dtype=np.float64))
        largest = max(largest, float(beside.max(initial=0)))
        unsure += int((certainty[known] < UNSURE).sum())
        pixels += int(known.sum())
    if not found:
        return Doubt(largest, f"nothing found; the likeliest pixel has {largest:.2f}")
    expected = 2 * likely / (found + likely + spread)
    share = f"{unsure / pixels:.1%} of the pixels below {UNSURE}"
    return Doubt(1 - expected, f"expected Dice {expected:.2f}; {share}")


def write_review(path: Path, doubts: Mapping[str, Doubt], most: int) -> list[str]:
    """Write the images with the most doubt, by their names, and give them in words."""
    ranked = sorted(doubts.items(), key=lambda item: (-item[1].score, item[0]))[:most]
    rows = [
        {"rank": rank, "image": name, "score": f"{doubt.score:.4f}", "why": doubt.why}
        for rank, (name, doubt) in enumerate(ranked, 1)
    ]
    write_csv(path, rows, ("rank", "image", "score", "why"))
    return [f"{name}: {doubt.why}" for name, doubt in ranked]
