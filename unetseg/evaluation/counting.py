"""A pair → its confusion: at once, or band by band where the image is bigger than memory.

Counts add up, so that both ways give the same. Pixels without data get no class from the model;
they are not counted, whatever the mask says of them.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo
from unetseg.data.masks.class_map import IGNORED
from unetseg.data.masks.overlay import error_overlay
from unetseg.data.masks.rasters import MaskRaster, Raster
from unetseg.errors import DataError
from unetseg.evaluation.confusion import Counts, confusion
from unetseg.prediction.engine import Engine
from unetseg.prediction.predict import open_stream
from unetseg.progress import SILENT, Progress

PICTURE = 2048
"""Longer side of the picture of errors of a large image, pixels."""


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


class GiantCount:
    """A pair bigger than memory that is predicted and counted band by band.

    Args:
        engine: The network.
        info: What its masks mean.
        image: The image.
        mask: Its mask.
        progress: Hears of a look through the image, where one is needed first.

    Raises:
        DataError: image and mask differ in size.
    """

    def __init__(
        self,
        engine: Engine,
        info: BundleInfo,
        image: Raster,
        mask: MaskRaster,
        progress: Progress = SILENT,
    ) -> None:
        sizes = [(one.height, one.width) for one in (image, mask)]
        if sizes[0] != sizes[1]:
            raise DataError(f"{image.path} is {sizes[0]}, {mask.path} is {sizes[1]}")
        self.image = image
        self.class_map = info.class_map
        classes = len(self.class_map.classes)
        self.counts: Counts = np.zeros((classes, classes), np.int64)
        self._mask = mask
        self._stream = open_stream(engine, info, image, progress)
        self._step = -(-max(sizes[0]) // PICTURE)
        self._small: list[NDArray[np.uint8]] = []  # 2, rows, columns: truth and prediction

    def predict(self) -> Iterator[NDArray[np.uint8]]:
        """Class indexes rows×W from top to bottom; what has passed is counted.

        Raises:
            DataError: image or mask cannot be read, or do not fit the model.
        """
        with closing(self._stream.predict()) as bands:  # so that nothing reads on after an error
            for band in bands:
                top, index = band.top, band.classes()
                del band  # its logits are not to be held while the next are made
                self._count(top, index)
                yield index

    def _count(self, top: int, index: NDArray[np.uint8]) -> None:
        """Compare some rows with their truth."""
        truth = self.class_map.encode(self._mask.read(top, 0, *index.shape), self._mask.path)
        self.counts += count_classes(truth, index, len(self.counts))
        picked = np.s_[-top % self._step :: self._step, :: self._step]
        self._small.append(np.stack([truth[picked], index[picked]]))

    def count(self) -> Counts:
        """The confusion K×K of the whole pair."""
        for _ in self.predict():
            pass
        return self.counts

    def picture(self) -> NDArray[np.uint8]:
        """`error_overlay` of every n-th pixel, after the prediction."""
        image: NDArray[Any] = self._stream.check(self.image.thumbnail(PICTURE))
        truth, prediction = np.concatenate(self._small, axis=1)
        return error_overlay(image, truth, prediction, self.class_map.background)
