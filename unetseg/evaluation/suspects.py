"""Which masks are suspect: those that a network which never saw them contradicts most surely."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetseg.data.masks.class_map import IGNORED
from unetseg.storage import write_csv


class Disagreement:
    """How surely a network contradicts one mask, collected in any order.

    Args:
        foreground: Indexes of the classes that count as foreground.
    """

    def __init__(self, foreground: Sequence[int]) -> None:
        self._foreground = list(foreground)
        self._surplus, self._area = 0.0, 0

    def add(self, truth: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> None:
        """Take in some pixels: class indexes (255: ignored) and probabilities, the same shape ×K.

        NaN where there are no data.
        """
        counted = (truth != IGNORED) & ~np.isnan(probabilities[..., 0])
        labelled, likely = truth[counted], probabilities[counted]  # n; n, K
        best = likely.argmax(1)
        shown = np.isin(best, self._foreground) | np.isin(labelled, self._foreground)
        pixels = np.arange(len(best))
        self._surplus += float((likely[pixels, best] - likely[pixels, labelled]).sum())
        self._area += int(shown.sum())

    @property
    def share(self) -> float:
        """0–1; 0 where mask and prediction show nothing.

        By how much the likeliest class is likelier than that of the mask, summed over all pixels,
        for each pixel that is foreground in one of the two: 1 − IoU where the network is sure, less
        where it is not. A margin of that kind is what confident learning ranks labels by
        (Northcutt 2021, 1911.00068).
        """
        return self._surplus / self._area if self._area else 0.0


def write_suspects(
    path: Path, disagreements: Sequence[tuple[str, object, float, float]]
) -> list[str]:
    """Write name, mask, disagreement and Dice of every image, the most suspect first.

    Returns:
        The names in that order.
    """
    ranked = sorted(disagreements, key=lambda row: -row[2])
    write_csv(
        path,
        [
            {
                "rank": str(rank),
                "image": name,
                "mask": str(mask),
                "disagreement": f"{share:.4f}",
                "dice": "" if np.isnan(dice) else f"{dice:.4f}",
            }
            for rank, (name, mask, share, dice) in enumerate(ranked, 1)
        ],
    )
    return [name for name, *_ in ranked]
