"""A training: loading alone, steps alone, and both together."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from statistics import median
from typing import Any

from unetseg.bundle import BundleInfo
from unetseg.data.crops.cache import read_split
from unetseg.data.crops.dataset import Crops, Order, Sample, crop_loader, find_gaps
from unetseg.data.crops.reader import PairReader
from unetseg.progress import SILENT, Progress
from unetseg.runtime import explained_memory, synchronise, usable_cores
from unetseg.skiplab.cost import network_cost
from unetseg.speed.ceiling import Ceiling, fitting_product
from unetseg.speed.memory import PeakMemory
from unetseg.speed.pace import MOST_ROUNDS, Pace
from unetseg.timing import in_turns, seconds_of
from unetseg.training.learner import build_learner
from unetseg.training.loading import choose_workers, measure_loading
from unetseg.training.plan import FORWARD_SHARE, bundle_info, crop_rule
from unetseg.training.run import TrainingRun
from unetseg.training.trial import compile_step

WARM_STEPS = 2
"""Steps before the measuring: the first ones choose algorithms and take memory."""
PAIRS_READ = 16
"""Pairs that are decoded to learn how long that takes."""
TASK = "measuring training"  # what progress hears of


@dataclass(frozen=True)
class TrainingSpeed:
    """How fast a training learns, in crops."""

    patch: int
    """Side of the crops, pixels."""
    batch: int
    workers: int
    """Processes that load; 0: the training loads by itself."""
    compiled: bool
    """Whether the step was compiled."""
    read_seconds: float
    """To decode a pair, once; as long as memory lasts it is kept."""
    augment_seconds: float
    """To cut and augment a crop of a decoded pair, in one process."""
    loaded: float
    """Crops per second that the loader gives when nothing else runs."""
    steps: Pace
    """Forward, backward and optimizer for one crop, when nothing else runs."""
    together: Pace
    """The training itself: loading and steps, for one crop."""
    share: float
    """Of the ceiling that the steps alone reach."""
    memory_mib: float | None
    """At the peak of a step, with gradients and the optimizer's state."""

    @property
    def loading_bounds(self) -> bool:
        """Whether the loader gives fewer crops than the steps take."""
        return self.loaded < self.steps.images_per_second

    def to_json(self) -> dict[str, Any]:
        """All figures."""
        paces = {"steps": self.steps.to_json(), "together": self.together.to_json()}
        steps_per_second = self.together.images_per_second / self.batch
        bounds = "loading" if self.loading_bounds else "steps"
        return {**asdict(self), **paces, "steps_per_second": steps_per_second, "bounds": bounds}


@explained_memory("Choose a smaller --batch, or a smaller --width.")
def measure_training(
    run: TrainingRun, *, seconds: float, progress: Progress = SILENT
) -> TrainingSpeed:
    """Measure the training that `run` would be.

    Args:
        run: Data, settings and plan, in a folder of its own.
        seconds: Time for all of it.
        progress: Hears what is done.

    Raises:
        OutOfMemoryError: a step does not fit in memory.
    """
    third = seconds / 3
    progress.start(TASK, 3)
    with closing(_Parts(run)) as parts:
        parts.warm_up()
        step, ceiling = parts.time_steps(third)
        progress.advance(TASK, seconds_per_step=step)
        augmenting = measure_loading(parts.crops, parts.order)
        workers = parts.count_workers(augmenting, step)
        loaded = run.plan.batch * _rate(parts.batches(workers), third)
        progress.advance(TASK, crops_per_second=loaded)
        together = run.plan.batch * _rate(map(parts.step, parts.batches(workers)), third)
        reading = _reading_seconds(parts.reader)
    progress.finish(TASK)
    gflop = training_gflop(parts.info, run.plan.patch)
    steps = Pace(step / run.plan.batch, run.plan.patch**2, gflop)
    return TrainingSpeed(
        patch=run.plan.patch,
        batch=run.plan.batch,
        workers=workers,
        compiled=parts.compiled,
        read_seconds=reading,
        augment_seconds=augmenting,
        loaded=loaded,
        steps=steps,
        together=replace(steps, seconds=1 / together),
        share=steps.gflops / ceiling.gflops,
        memory_mib=parts.memory_mib,
    )


def training_gflop(info: BundleInfo, patch: int) -> float:
    """What forward and backward pass compute for one crop: three times the forward pass."""
    return network_cost(info, patch).gflop / FORWARD_SHARE


class _Parts:
    """The parts of a training, to be measured one by one.

    Args:
        run: Data, settings and plan, in a folder of its own.
    """

    def __init__(self, run: TrainingRun) -> None:
        known, plan, runtime = run.known, run.plan, run.config.runtime
        self.run, self.machine = run, run.machine
        self.info = bundle_info(plan, known, run.data_hash)
        self.reader = read_split(known, "train", plan.bands, runtime.cache, run.folder)
        gaps = find_gaps(known, "train", plan.bands)
        self.crops = Crops(self.reader, crop_rule(plan), known.statistics("train"), gaps)
        self.order = Order(plan.repeats, plan.batch, runtime.seed)
        self.batch = next(self.batches(0))
        self.compiled = False
        self.memory_mib: float | None = None
        self._numbers = count()

    def warm_up(self) -> None:
        """Make the first steps. Compiling takes minutes, so that it has to be asked for."""
        with PeakMemory(self.machine.device) as memory:
            self.learner = build_learner(self.info, self.run.plan, self.run.config, self.machine)
            self.learner.segmenter.train()
            if self.run.config.runtime.compile == "yes":
                self.compiled = compile_step(self.learner, self.batch) is None
            for _ in range(WARM_STEPS):
                self.step(self.batch)
        self.memory_mib = memory.mebibytes

    def step(self, batch: Sample) -> None:
        """Make a training step, and wait for it."""
        self.learner.step(batch, next(self._numbers), 1.0)
        synchronise(self.machine.device)

    def time_steps(self, seconds: float) -> tuple[float, Ceiling]:
        """Seconds of a step, and the ceiling, measured in turns."""
        product = fitting_product(self.machine.device, self.machine.dtype)
        work: dict[str, Callable[[], None]] = {
            "step": partial(self.step, self.batch),
            "product": product,
        }
        turns = {name: partial(seconds_of, one) for name, one in work.items()}
        taken = in_turns(turns, MOST_ROUNDS, seconds)
        return median(taken["step"]), product.ceiling(median(taken["product"]))

    def count_workers(self, crop_seconds: float, step_seconds: float) -> int:
        """Processes that load the crops of this training."""
        wanted, load = self.run.config.runtime.workers, crop_seconds * self.run.plan.batch
        if wanted != "auto":
            return wanted
        return choose_workers(load, step_seconds, usable_cores(), is_cpu=self.machine.is_cpu)[0]

    def batches(self, workers: int) -> Iterator[Sample]:
        """The batches of the training, loaded by so many processes."""
        pin = self.machine.device.type == "cuda"
        return iter(crop_loader(self.crops, self.order, workers, pin=pin))

    def close(self) -> None:
        """Close the files, and give back what was decoded."""
        self.reader.close()
        self.reader.forget()


def _reading_seconds(reader: PairReader) -> float:
    """Seconds to decode a pair; of giants none is decoded."""
    wholes = [at for at in range(len(reader)) if not reader.is_giant(at)][:PAIRS_READ]
    began = time.perf_counter()
    for at in wholes:
        reader.decode(at)
    return (time.perf_counter() - began) / max(1, len(wholes))


def _rate(work: Iterator[object], seconds: float) -> float:
    """How many a second `work` gives once it runs; at least two are waited for."""
    next(work)
    began = time.perf_counter()
    for done, _ in enumerate(work, 1):
        taken = time.perf_counter() - began
        if taken > seconds:
            return done / taken
    raise AssertionError("the batches of a training have no end")
