"""What a network costs: parameters, arithmetic, and time on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from unetseg.bundle import BundleInfo, build_segmenter
from unetseg.prediction.engine import Engine
from unetseg.progress import SILENT, Progress
from unetseg.timing import median_seconds

ROUNDS = 15
"""Times that every network is timed."""
LONGEST = 120.0
"""Seconds that the timing takes at most, one round aside."""


@dataclass(frozen=True)
class Cost:
    """What a network takes for one image."""

    parameters: int
    gflop: float
    """Convolutions and matrix products; a multiplication and an addition count as two."""


def network_cost(info: BundleInfo, side: int) -> Cost:
    """What the network of `info` takes for one image of side×side pixels; no weights are needed.

    Raises:
        ConfigError: there is no network of these settings.
    """
    segmenter = build_segmenter(info.fresh).eval().to("meta")  # shapes without numbers
    image = torch.empty(1, info.bands, side, side, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        segmenter(image)
    parameters = sum(parameter.numel() for parameter in segmenter.parameters())
    return Cost(parameters, counter.get_total_flops() / 1e9)


def predict_ms(
    engines: Mapping[str, Engine], image: NDArray[Any], progress: Progress = SILENT
) -> dict[str, float]:
    """Median milliseconds of each engine from `image`, H×W×C raw, to class indexes on the CPU."""
    work = {name: partial(engine.classes, image) for name, engine in engines.items()}
    for predict in work.values():
        predict()  # the first time is slower
    seconds = median_seconds(work, ROUNDS, LONGEST, progress, task="timing")
    return {name: 1000 * taken for name, taken in seconds.items()}
