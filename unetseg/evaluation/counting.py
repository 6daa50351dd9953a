"""A pair → its confusion, band by band; a split that a training reads → its scores.

Counts add up, so that a large image in many bands gives what it would as one. Pixels without data
get no class from the model; they are not counted, whatever the mask says of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo
from unetseg.data.crops.reader import PairReader
from unetseg.data.facts.image_values import ImageFacts
from unetseg.data.masks.class_map import IGNORED
from unetseg.evaluation.confusion import Counts, Scores, confusion, score
from unetseg.evaluation.probabilities import Probabilities
from unetseg.evaluation.suspects import Disagreement
from unetseg.evaluation.truth import Truth
from unetseg.prediction.engine import Engine
from unetseg.prediction.pipeline import Opened, predict_each, read_ahead
from unetseg.prediction.postprocess import cleaned_bands
from unetseg.prediction.stream import Band, Stream
from unetseg.progress import SILENT, Progress

PICTURE = 2048
"""Longer side of what is sampled of a large image, pixels."""


class PairCount:
    """A pair that is counted while it is predicted.

    Args:
        image: The image.
        truth: Its classes.
        kept: Whether `sampled` will be asked for.
        info: The bundle, whose rules are applied to what is predicted.
        likely: Counts the probabilities, where the image's bands have them.
    """

    def __init__(
        self,
        image: Opened[Any],
        truth: Truth,
        *,
        kept: bool = False,
        info: BundleInfo | None = None,
        likely: Probabilities | None = None,
    ) -> None:
        self._image, self._truth, self._kept = image, truth, kept
        self._info, self._likely = info, likely
        self.size = image.size
        classes = len(truth.class_map.classes)
        self.counts: Counts = np.zeros((classes, classes), np.int64)
        self._step = -(-max(image.size) // PICTURE) if truth.is_large else 1
        self.disagreement = Disagreement(truth.class_map.foreground)
        """How surely the probabilities contradict the mask, where they are counted."""
        self._small: list[NDArray[np.uint8]] = []  # 2, rows, columns: truth and prediction

    def predict(self) -> Iterator[NDArray[np.uint8]]:
        """Class indexes rows×W from top to bottom; what has passed is counted.

        Raises:
            DataError: image or mask cannot be read, or do not fit the model.
        """
        with closing(self._image.bands()) as raw:  # so that nothing reads on after an error
            bands = raw if self._likely is None else self._with_probabilities(raw, self._likely)
            for band in cleaned_bands(bands, self._info) if self._info else bands:
                top, index = band.top, band.index
                del band  # its logits are not to be held while the next are made
                truth = self._truth.rows(top, top + len(index))
                self.counts += count_classes(truth, index, len(self.counts))
                if self._kept:
                    picked = np.s_[-top % self._step :: self._step, :: self._step]
                    self._small.append(np.stack([truth[picked], index[picked]]))
                yield index

    def _with_probabilities(self, bands: Iterable[Band], likely: Probabilities) -> Iterator[Band]:
        """The bands; the probabilities of those that have passed are counted."""
        for band in bands:
            top = band.top
            for piece in band.probabilities:
                labelled = self._truth.rows(top, top + len(piece))
                likely.add(labelled, piece)
                self.disagreement.add(labelled, piece)
                top += len(piece)
            yield band
            del band

    def count(self) -> Counts:
        """The confusion K×K of the whole pair."""
        for _ in self.predict():
            pass
        return self.counts

    @property
    def is_whole(self) -> bool:
        """Whether `sampled` is all of the pair."""
        return self._step == 1

    @property
    def sampled(self) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.uint8]]:
        """Image, truth and prediction after it; of a large pair every n-th pixel of them."""
        truth, prediction = np.concatenate(self._small, axis=1)
        return self._image.thumbnail(PICTURE), truth, prediction


def score_split(
    engine: Engine,
    info: BundleInfo,
    reader: PairReader,
    facts: Sequence[ImageFacts],
    progress: Progress = SILENT,
) -> Scores:
    """The scores of the pairs of `reader`; `facts` are those of their images, in its order.

    Processes that train together each count their share of the pairs.
    """
    group, classes = engine.machine.group, len(info.class_map.classes)
    counts: Counts = np.zeros((len(reader), classes, classes), np.int64)

    def open_pair(index: int) -> Opened[Truth]:
        if reader.is_windowed(index):
            image, mask = reader.files(index)
            return Opened(Truth(mask, info.class_map), Stream(engine, info, image))
        pixels, truth = reader[index]
        return Opened(Truth(truth, info.class_map), pixels)

    def count_share() -> None:
        share = range(group.rank, len(reader), group.size)
        opened = read_ahead(share, open_pair, lambda index: facts[index].pixels)
        for index, image in zip(share, predict_each(engine, opened), strict=True):
            counts[index] = PairCount(image, image.name).count()
            progress.advance("validating", min(group.size, len(reader) - index))

    progress.start("validating", len(reader))
    group.together(count_share)
    progress.finish("validating")
    group.sum(torch.from_numpy(counts))
    return score(counts, info.class_map.names, info.class_map.foreground)


def count_classes(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], classes: int) -> Counts:
    """`confusion` of the pixels that have both a truth and a prediction (neither is 255).

    >>> truth, prediction = np.array([[0, 1, 1]], np.uint8), np.array([[0, 1, 255]], np.uint8)
    >>> count_classes(truth, prediction, classes=2).tolist()
    [[1, 0], [0, 1]]
    """
    missing = prediction == IGNORED
    if missing.any():
        truth, prediction = truth.copy(), prediction.copy()
        truth[missing], prediction[missing] = IGNORED, 0
    return confusion(truth, prediction, classes)
