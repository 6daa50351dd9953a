"""Who loads the crops: the training itself, or processes beside it; measured before it is chosen.

On a CPU the steps keep all cores busy, and a process that loads takes from them what it saves: on
two cores, trainings with 0, 1 and 2 of them were measured equally fast, after a second of copying
the pages that the fork shared. So processes help on a CPU only where it has cores to spare. A GPU
leaves the cores alone, and must not wait for them.
"""

import math
import time
from collections.abc import Generator
from itertools import islice

from unetseg.data.crops.dataset import Crops, Order, Sample
from unetseg.data.crops.loading import crop_batches
from unetseg.progress import SILENT, Progress
from unetseg.resources import usable_cores
from unetseg.runtime import Machine, synchronise
from unetseg.text import duration

WARM_UP = 2
"""Steps that are not timed: they choose kernels and fill the memory."""
TIMED = 3
"""Steps that are."""
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
) -> Generator[Sample, None, None]:
    """The batches of the whole training, without end; to be closed, as those of `crop_batches`.

    Without `workers` the first steps are loaded here and timed, from one batch asked for to the
    next; what they tell decides who loads the others. The batches are the same in any case.

    Args:
        crops: What batches are made of.
        order: Which crops, from its first step on.
        machine: Where the network trains.
        workers: Processes that load, 0 for none; or None, to be measured.
        progress: Hears what was chosen, and of processes that were lost.
    """
    pin = machine.device.type == "cuda"
    cores = max(1, usable_cores() // machine.group.local_size)
    if workers is None:
        alone = crop_batches(crops, order, pin=pin)
        yield from islice(alone, WARM_UP)
        began = time.perf_counter()
        timed = list(islice(alone, TIMED))
        loading = (time.perf_counter() - began) / TIMED
        seconds = []
        for batch in timed:
            synchronise(machine.device)
            began = time.perf_counter()
            yield batch
            synchronise(machine.device)
            seconds.append(time.perf_counter() - began)
        step = min(seconds)  # a validation may come between two of them
        workers, reason = choose_workers(loading, step, cores, is_cpu=machine.is_cpu)
        progress.say(f"crops are loaded by {reason}")
        order = order.after(WARM_UP + TIMED)
    yield from crop_batches(crops, order, workers, pin=pin, progress=progress)


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
    times = f"a batch loads in {duration(batch_seconds)}, a step takes {duration(step_seconds)}"
    return workers, f"{who}: {times}"
