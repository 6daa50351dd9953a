"""Who loads the crops: the training itself, or processes beside it, whichever is measured faster.

On a CPU the steps keep all cores busy, and a process that loads takes from them what it saves: on
two cores, trainings with 0, 1 and 2 of them were measured equally fast, after a second of copying
the pages that the fork shared. So processes help on a CPU only where it has cores to spare. A GPU
leaves the cores alone, and must not wait for them.
"""

import math
import time
from collections.abc import Generator, Iterable, Iterator
from itertools import chain, islice

import torch

from unetseg.data.crops.dataset import Crops, Order, Sample, crop_loader
from unetseg.progress import SILENT, Progress
from unetseg.runtime import Machine, synchronise, usable_cores

WARM_UP = 2
"""Steps that are not timed: they choose kernels and fill the memory."""
TIMED = 3
"""Steps that are."""
MEASURED_SECONDS = 1.0
"""Time after which the measuring of crops ends, seconds."""
MEASURED_CROPS = 32
"""Crops that are measured, at most."""
NOTABLE = 0.03
"""Share of a step below which loading is let be on a CPU."""
FEWEST_CORES = 4
"""Cores from which a CPU has some to spare for loading."""
SPARE = 1.5
"""Processes for a GPU, relative to those that are just fast enough."""
MOST_WORKERS = 16


def training_batches(
    crops: Crops,
    order: Order,
    machine: Machine,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> Iterator[Sample]:
    """The batches of the whole training, without end.

    Without `workers` the first steps are loaded here and timed, from one batch asked for to the
    next; what they tell decides who loads the others. The batches are the same in any case.

    Args:
        crops: What batches are made of.
        order: Which crops, from its first step on.
        machine: Where the network trains.
        workers: Processes that load, 0 for none; or None, to be measured.
        progress: Hears what was chosen.
    """
    pin = machine.device.type == "cuda"
    if workers is None:
        alone = iter(crop_loader(crops, order, 0))
        yield from islice(alone, WARM_UP)
        began = time.perf_counter()
        timed = list(islice(alone, TIMED))
        loading = (time.perf_counter() - began) / TIMED
        step = yield from _timed_steps(timed, machine.device)
        workers, reason = choose_workers(loading, step, usable_cores(), is_cpu=machine.is_cpu)
        progress.say(f"loading: {reason}")
        order = order.after(WARM_UP + TIMED)
    yield from crop_loader(crops, order, workers, pin=pin)


def choose_workers(
    batch_seconds: float, step_seconds: float, cores: int, *, is_cpu: bool
) -> tuple[int, str]:
    """How many processes load the crops, and why.

    Args:
        batch_seconds: What a batch takes to load in one process.
        step_seconds: What a training step takes without loading.
        cores: Processor cores this process may use.
        is_cpu: Whether the network runs on these cores too.

    Returns:
        Processes (0: the training loads by itself), and the reason in one line.

    >>> choose_workers(0.02, 0.01, cores=16, is_cpu=False)
    (3, '3 processes: a batch loads in 20 ms, a step takes 10 ms')
    """
    share = batch_seconds / max(step_seconds, 1e-6)
    if is_cpu:
        needed = 0 if share < NOTABLE or cores < FEWEST_CORES else math.ceil(share)
        most = cores // FEWEST_CORES
    else:
        needed, most = math.ceil(SPARE * share), cores - 1
    workers = min(needed, most, MOST_WORKERS)
    who = {0: "the training itself", 1: "1 process"}.get(workers, f"{workers} processes")
    times = f"a batch loads in {1e3 * batch_seconds:.3g} ms, a step takes {1e3 * step_seconds:.3g}"
    return workers, f"{who}: {times} ms"


def measure_loading(crops: Crops, order: Order) -> float:
    """Seconds that one augmented crop takes in this process.

    The first crops of the training are made and thrown away. A crop is a function of its key alone,
    so that neither the order nor any random state is disturbed.
    """
    first, *others = islice(chain.from_iterable(order), MEASURED_CROPS + 1)
    crops[first]  # imports what the others only use
    moments = [time.perf_counter()]
    for key in others:
        crops[key]
        moments.append(time.perf_counter())
        if moments[-1] - moments[0] > MEASURED_SECONDS:
            break
    return (moments[-1] - moments[0]) / (len(moments) - 1)


def _timed_steps(batches: Iterable[Sample], device: torch.device) -> Generator[Sample, None, float]:
    """Give batches that are loaded already; the seconds of the fastest step made of one.

    The fastest, because a validation may come between two of them.
    """
    seconds = []
    for batch in batches:
        synchronise(device)
        began = time.perf_counter()
        yield batch
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds)
