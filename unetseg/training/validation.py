"""The scores of a split while training, of pairs that the training reads itself."""

from collections.abc import Sequence

import numpy as np

from unetseg.bundle import BundleInfo
from unetseg.data.crops.reader import PairReader
from unetseg.data.facts.fingerprint import ImageFacts
from unetseg.errors import UnetsegError
from unetseg.evaluation.confusion import Counts, Scores, score
from unetseg.evaluation.counting import PairCount, Truth
from unetseg.prediction.engine import Engine
from unetseg.prediction.pipeline import Opened, open_ahead, open_stream, predict_each
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

    def open_pair(index: int) -> Opened[Truth]:
        if reader.is_windowed(index):
            raster, mask = reader.files(index)
            return Opened(Truth(mask, info.class_map), open_stream(engine, info, raster))
        pixels, truth = reader[index]
        return Opened(Truth(truth, info.class_map), pixels, facts[index].nodata)

    def refuse(_index: int, error: UnetsegError) -> None:
        raise error

    progress.start("validating", len(reader))
    opened = open_ahead(range(len(reader)), open_pair, refuse, lambda index: facts[index].pixels)
    counts: list[Counts] = []
    for image in predict_each(engine, opened):
        counts.append(PairCount(image, image.name).count())
        progress.advance("validating")
    progress.finish("validating")
    return score(np.stack(counts), info.class_map.names, info.class_map.foreground)
