"""The network alone: the engines side by side, and the share of the ceiling that each reaches."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo
from unetseg.errors import MachineError, UnetsegError
from unetseg.prediction.engine import Engine
from unetseg.progress import SILENT, Progress
from unetseg.runtime import Machine, choose_dtype, dtype_name
from unetseg.skiplab.cost import network_cost
from unetseg.speed.ceiling import Ceiling, fitting_product
from unetseg.speed.memory import PeakMemory
from unetseg.speed.pace import MOST_ROUNDS, Pace
from unetseg.speed.subject import Subject
from unetseg.timing import in_turns, seconds_of
from unetseg.unet.segmenter import Segmenter

PLAIN = "eager"
"""The engine that changes nothing."""
QUICK = (PLAIN, "fused")
"""Engines that are ready at once."""
ENGINES = (*QUICK, "compile", "openvino")


@dataclass(frozen=True)
class Model:
    """The network that is measured."""

    name: str
    parameters: int
    bands: int
    classes: int
    size: int
    """Side of the images that `gflop` is for, pixels."""
    gflop: float
    """Of one image; a multiplication and an addition count as two."""

    @property
    def gflop_per_pixel(self) -> float:
        """The same for a pixel of an image."""
        return self.gflop / self.size**2


@dataclass(frozen=True)
class EngineSpeed:
    """How fast one engine is in one arithmetic."""

    engine: str
    dtype: str
    batch: int
    pace: Pace
    share: float
    """Of the ceiling in the same arithmetic, measured in the same turns."""
    ready_seconds: float
    """Until the first result, with all that is prepared for it."""
    memory_mib: float | None
    """At the peak, with the weights; None where the system does not tell."""

    def to_json(self) -> dict[str, Any]:
        """All figures."""
        own = asdict(self)
        return {**own, "pace": self.pace.to_json()}


@dataclass(frozen=True)
class Comparison:
    """The engines side by side."""

    engines: tuple[EngineSpeed, ...]
    ceilings: tuple[Ceiling, ...]
    refused: dict[str, str]
    """Engine → why it does not run here."""

    def ceiling(self, dtype: str) -> Ceiling:
        """The ceiling of one arithmetic."""
        return next(ceiling for ceiling in self.ceilings if ceiling.dtype == dtype)

    def fastest(self, dtype: str) -> EngineSpeed | None:
        """The fastest engine in one arithmetic, if there is one."""
        able = [speed for speed in self.engines if speed.dtype == dtype]
        return min(able, key=lambda speed: speed.pace.seconds, default=None)


def describe_model(info: BundleInfo, side: int) -> Model:
    """What the network of `info` is, and what it computes for an image of side×side pixels."""
    cost = network_cost(info, side)
    network = info.network
    kind = network.encoder or f"U-Net, depth {network.depth}, width {network.width}"
    classes = len(info.class_map.classes)
    return Model(kind, cost.parameters, info.bands, classes, side, cost.gflop)


def compare_engines(
    subject: Subject,
    names: Sequence[str],
    batch: int,
    model: Model,
    *,
    seconds: float,
    progress: Progress = SILENT,
) -> Comparison:
    """Measure engines on the same images, from raw pixels to class indexes.

    Where the machine has a fast arithmetic, the plain engine runs in float32 too.

    Args:
        subject: The network, its machine and its images.
        names: Engines to compare.
        batch: Images that go through the network at once.
        model: What the network computes.
        seconds: Time for the turns.
        progress: Hears what is done.

    Raises:
        MachineError: no engine runs here.
    """
    images, machine = subject.squares(batch), subject.machine
    ready, refused = _prepare_all(subject, names, images, progress)
    if not ready:
        raise MachineError("no engine runs here", [f"{n}: {why}" for n, why in refused.items()])
    dtypes = dict.fromkeys([torch.float32, machine.dtype, choose_dtype("auto", machine.device)])
    products = {
        f"product {dtype_name(dtype)}": fitting_product(machine.device, dtype) for dtype in dtypes
    }
    turns = {one.label: partial(seconds_of, partial(one.run, images)) for one in ready}
    turns |= {name: partial(seconds_of, product) for name, product in products.items()}
    rounds = in_turns(turns, MOST_ROUNDS, seconds, progress, "comparing engines")
    taken = {name: median(times) for name, times in rounds.items()}
    ceilings = tuple(product.ceiling(taken[name]) for name, product in products.items())
    best = {ceiling.dtype: ceiling.gflops for ceiling in ceilings}
    speeds = tuple(one.speed(taken[one.label], batch, model, best) for one in ready)
    return Comparison(speeds, ceilings, refused)


def _prepare_all(
    subject: Subject, names: Sequence[str], images: Sequence[NDArray[Any]], progress: Progress
) -> tuple[list["_Ready"], dict[str, str]]:
    """The engines that run here, and why the others do not."""
    machine = subject.machine
    wanted = [(name, machine) for name in names]
    if machine.dtype != torch.float32:
        wanted.insert(0, (PLAIN, replace(machine, dtype=torch.float32)))
    ready, refused = [], {}
    progress.start("preparing engines", len(wanted))
    for name, where in wanted:
        try:
            ready.append(_prepare(subject.segmenter, where, name, images))
        except UnetsegError as error:
            refused[name] = error.summary
        progress.advance("preparing engines", engine=name)
    progress.finish("preparing engines")
    return ready, refused


@dataclass(frozen=True)
class _Ready:
    """An engine that has given its first result."""

    name: str
    engine: Engine
    seconds: float
    memory_mib: float | None

    @property
    def dtype(self) -> str:
        return dtype_name(self.engine.machine.dtype)

    @property
    def label(self) -> str:
        return f"{self.name} {self.dtype}"

    def run(self, images: Sequence[NDArray[Any]]) -> None:
        self.engine.classes_of(images, [None] * len(images))

    def speed(
        self, seconds: float, batch: int, model: Model, ceilings: dict[str, float]
    ) -> EngineSpeed:
        """The figures, when a batch takes `seconds`."""
        pace = Pace(seconds / batch, model.size**2, model.gflop)
        share = pace.gflops / ceilings[self.dtype]
        return EngineSpeed(self.name, self.dtype, batch, pace, share, self.seconds, self.memory_mib)


def _prepare(
    segmenter: Segmenter, machine: Machine, name: str, images: Sequence[NDArray[Any]]
) -> _Ready:
    """An engine with its own copy of the network, after its first result."""
    tile = max(images[0].shape[:2])
    found: list[Engine] = []

    def first() -> None:
        engine = Engine(deepcopy(segmenter), machine, tile=tile, overlap=0.0, engine=name)
        engine.classes_of(images, [None] * len(images))
        found.append(engine)

    with PeakMemory(machine.device) as memory:
        seconds = seconds_of(first)
    return _Ready(name, found[0], seconds, memory.mebibytes)
