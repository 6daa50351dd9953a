"""The scores of a split while training, of pairs that the training reads itself."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo
from unetseg.data.crops.reader import PairReader
from unetseg.data.facts.fingerprint import ImageFacts
from unetseg.evaluation.confusion import Counts, Scores, score
from unetseg.evaluation.counting import GiantCount, count_classes
from unetseg.prediction.engine import Engine
from unetseg.prediction.predict import alike
from unetseg.progress import SILENT, Progress


def score_split(
    engine: Engine,
    info: BundleInfo,
    reader: PairReader,
    facts: Sequence[ImageFacts],
    progress: Progress = SILENT,
) -> Scores:
    """The scores of a split; neighbours of one size go through the network together.

    Args:
        engine: The network.
        info: What its masks mean.
        reader: The pairs.
        facts: Of each of their images, in the reader's order.
        progress: Hears of each pair.
    """
    classes = len(info.class_map.classes)
    counts: dict[int, Counts] = {}
    progress.start("validating", len(reader))
    batches = alike(_whole_pairs(reader), engine.images_at_once)
    for batch, predictions in engine.classes_of_each(batches, lambda known: facts[known[0]].nodata):
        for ((index, truth), _), prediction in zip(batch, predictions, strict=True):
            counts[index] = count_classes(truth, prediction, classes)
            progress.advance("validating")
    for index in filter(reader.is_giant, range(len(reader))):
        counts[index] = GiantCount(engine, info, *reader.rasters(index)).count()
        progress.advance("validating")
    progress.finish("validating")
    in_order = np.stack([counts[index] for index in range(len(reader))])
    return score(in_order, info.class_map.names, info.class_map.foreground)


def _whole_pairs(
    reader: PairReader,
) -> Iterator[tuple[tuple[int, NDArray[np.uint8]], NDArray[Any]]]:
    """Each pair but the giants: its index and its mask, with its image."""
    for index in range(len(reader)):
        if not reader.is_giant(index):
            image, truth = reader[index]
            yield (index, truth), image
