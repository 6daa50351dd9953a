"""What a network costs: parameters, arithmetic, and time on this machine."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from unetseg.bundle import BundleInfo, build_segmenter
from unetseg.prediction.engine import Engine
from unetseg.progress import SILENT, Progress

ROUNDS = 15
"""Times that every network is timed."""
LONGEST = 120.0
"""Seconds after which no further round of timing is begun."""
TIMING = "timing"  # what progress hears of


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
    network = info.network.model_copy(update={"weights": "none"})
    fresh = build_segmenter(info.model_copy(update={"network": network}))
    segmenter = fresh.eval().to("meta")  # shapes without numbers
    image = torch.empty(1, info.bands, side, side, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        segmenter(image)
    parameters = sum(parameter.numel() for parameter in segmenter.parameters())
    return Cost(parameters, counter.get_total_flops() / 1e9)


def time_in_turns(
    engines: Mapping[str, Engine], image: NDArray[Any], progress: Progress = SILENT
) -> dict[str, float]:
    """Median milliseconds of each engine from `image`, H×W×C raw, to class indexes.

    The engines take turns, so that whatever else the machine does slows all of them alike.
    """
    for engine in engines.values():
        engine.classes(image)  # the first time is slower
    times: dict[str, list[float]] = {name: [] for name in engines}
    began = time.perf_counter()
    progress.start(TIMING, ROUNDS)
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            turn = time.perf_counter()
            engine.classes(image)  # ends on the CPU, so that a GPU is waited for
            times[name].append(1000 * (time.perf_counter() - turn))
        progress.advance(TIMING)
        if time.perf_counter() - began > LONGEST:
            break
    progress.finish(TIMING)
    return {name: median(taken) for name, taken in times.items()}
