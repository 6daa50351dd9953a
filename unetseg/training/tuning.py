"""What is tried before it is chosen: the batch that fits, the network, whether the step compiles.

A trial of a step leaves no trace: neither in weights and buffers, nor in the state of random
numbers, nor in the memory of the device.
"""

import gc
import math
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from unetseg.config import NetworkConfig, TrainConfig
from unetseg.data.crops.dataset import Sample
from unetseg.data.facts.survey import Survey
from unetseg.errors import ConfigError, OutOfMemoryError
from unetseg.resources import MEBIBYTE
from unetseg.runtime import Machine, explained_memory
from unetseg.text import first_line
from unetseg.timing import seconds_of
from unetseg.training.fine_tuning import with_encoder
from unetseg.training.learner import Learner, build_learner
from unetseg.training.plan import BATCH, Plan, bundle_info, make_plan

FILLED = 0.9
"""Share of the free memory that a step may take: some is lost between the pieces."""
# What torch.compile raises without a compiler or Triton, and on what it cannot compile.
NOT_COMPILED = (RuntimeError, OSError, ImportError, subprocess.SubprocessError)
TRIED = 3
"""Steps that tell how long a step takes; the first is slower."""
SIZES = {(3, 8): 0, (3, 16): 320, (3, 24): 3200, (4, 24): 5000, (4, 32): 6400}
"""Depths and widths that a budget on a CPU chooses from, the fastest first, and the steps that it
must have for each; with fewer a smaller one learns more. Measured: docs/accuracy.md."""
FEWEST_EPOCHS = 15
"""Passes over the images below which light augmentation learns more than full."""
IN_STEPS = 0.8
"""Share of a budget that goes into steps; the rest are start and validations."""


def tried_plan(plan: Plan, known: Survey, config: TrainConfig, machine: Machine) -> Plan:
    """`plan`, with what a trial of training steps tells of its open settings.

    On a GPU that is the largest batch that fits; on a CPU with a budget, depth and width of the
    network and the augmentation, by the steps that there is time for. What was set stays as it is.
    """
    training, config = config.training, with_encoder(config, plan.network)
    if machine.device.type == "cuda" and training.batch == "auto":
        return _fitting_batch(plan, known, config, machine)
    if machine.is_cpu and training.budget:
        return _fitting_budget(plan, known, config, machine, training.budget)
    return plan


def _fitting_batch(plan: Plan, known: Survey, config: TrainConfig, machine: Machine) -> Plan:
    """`plan` with the largest batch that training steps were seen to fit with."""
    most = BATCH[machine.device.type]
    with no_trace(machine.device):
        free_memory(machine.device)  # of what an earlier training of this process has left
        free = machine.free_memory()
        batch, reason = largest_batch(
            lambda batch: step_memory(batch, plan, known, config, machine), free, most
        )
    training = config.training.model_copy(update={"batch": batch})
    tried = make_plan(known, config.model_copy(update={"training": training}), machine)
    return tried.model_copy(update={"reasons": plan.reasons | tried.reasons | {"batch": reason}})


def _fitting_budget(
    plan: Plan, known: Survey, config: TrainConfig, machine: Machine, budget: float
) -> Plan:
    """`plan` with the largest network that learns enough steps, and augmentation for its epochs."""
    sizes, steps, smaller, before = _sizes(plan, config.network), 0.0, "", plan.reasons
    for size, fewest in sizes:
        network = config.network.model_copy(update=size)
        config = config.model_copy(update={"network": network})
        larger = make_plan(known, config, machine)
        fits = IN_STEPS * budget / step_seconds(larger, known, config, machine)
        if steps and fits < fewest:
            smaller = ", of a larger network too few"
            break
        plan, steps = larger, fits
    reasons = dict.fromkeys(sizes[0][0], f"about {steps:.0f} steps fit in the budget{smaller}")
    epochs = steps * plan.batch * config.training.accumulate / sum(plan.repeats)
    augment = plan.augment
    if config.training.augment == "auto" and epochs < FEWEST_EPOCHS:
        augment, reasons["augment"] = "light", f"about {epochs:.1f} epochs fit in the budget"
    reasons = before | plan.reasons | reasons
    return plan.model_copy(update={"augment": augment, "reasons": reasons})


def _sizes(plan: Plan, asked: NetworkConfig) -> list[tuple[dict[str, int], int]]:
    """Those of `SIZES` that differ in what is not set and fit the crops, as settings, and steps."""
    unset: list[str] = [name for name in ("depth", "width") if name in plan.reasons]
    if asked.encoder or asked.widths or len(asked.skip) > 1:
        unset = [name for name in unset if name != "depth"]  # it follows from them
    sizes: list[tuple[dict[str, int], int]] = []
    for (depth, width), fewest in SIZES.items():
        both = {"depth": min(depth, int(plan.network.depth)), "width": width}
        size = {name: both[name] for name in unset}
        if size not in [other for other, _ in sizes]:
            sizes.append((size, fewest))
    return sizes


def step_seconds(plan: Plan, known: Survey, config: TrainConfig, machine: Machine) -> float:
    """What a training step of `plan` takes on random crops, loading left out."""
    with no_trace(machine.device):
        learner, crops = _trial(plan, known, config, machine)
        return min(seconds_of(partial(learner.step, crops, number, 1.0)) for number in range(TRIED))


def largest_batch(needed: Callable[[int], int], free: int, most: int) -> tuple[int, str]:
    """The largest batch, at most `most`, whose step takes at most 90% of the `free` bytes, and why.

    `needed` gives the bytes of a step on so many crops, or raises what says that they are too many.

    >>> largest_batch(lambda batch: batch * 1000 * 2**20, free=10_000 * 2**20, most=16)
    (9, 'tried: a step on 9 crops takes 9000 of 10000 MiB that are free')
    """
    fits, too_many, taken = 0, most + 1, 0.0
    while too_many - fits > 1:
        twice = 2 * fits or 1
        batch = twice if twice < too_many else (fits + too_many) // 2
        try:
            with explained_memory(""):
                bytes_needed: float = needed(batch)
        except OutOfMemoryError:
            bytes_needed = math.inf
        except ConfigError:  # an encoder that needs two crops, which are tried next
            if batch > 1:
                raise
            bytes_needed = 0.0
        if bytes_needed <= FILLED * free:
            fits, taken = batch, bytes_needed
        else:
            too_many = batch
    if fits and not taken:
        raise two_crops()
    if not fits:
        return 1, f"tried: not even a step on 1 crop fits in {free // MEBIBYTE} MiB"
    megabytes = f"{taken / MEBIBYTE:.0f} of {free // MEBIBYTE} MiB that are free"
    return fits, f"tried: a step on {fits} crops takes {megabytes}"


def two_crops() -> OutOfMemoryError:
    """An encoder learns from two crops or more, for which there is no memory."""
    fix = "Choose a smaller --patch, or another --encoder."
    return OutOfMemoryError("two crops, which this encoder needs, do not fit in memory", fix=fix)


def step_memory(
    batch: int, plan: Plan, known: Survey, config: TrainConfig, machine: Machine
) -> int:
    """Bytes of a GPU that a training step of `plan` takes at most, on random crops.

    Raises:
        OutOfMemoryError: there are not so many; or torch's own.
    """
    free_memory(machine.device)
    plan = plan.model_copy(update={"batch": batch})
    learner, crops = _trial(plan, known, config, machine)
    learner.step(crops, 0, 1.0)  # chooses kernels, and makes the optimizer's moments
    free_memory(machine.device)
    torch.cuda.reset_peak_memory_stats(machine.device)
    learner.step(crops, 1, 1.0)
    torch.cuda.synchronize(machine.device)
    return torch.cuda.max_memory_allocated(machine.device)


def _trial(
    plan: Plan, known: Survey, config: TrainConfig, machine: Machine
) -> tuple[Learner, Sample]:
    """A learner with fresh weights, and random crops for a step of `plan`."""
    learner = build_learner(bundle_info(plan, known, data_hash="").fresh, plan, config, machine)
    learner.segmenter.train()
    crops = -(-plan.batch * config.training.accumulate // machine.group.size)  # its share
    return learner, random_crops(crops, plan, learner.segmenter.classes)


def random_crops(count: int, plan: Plan, classes: int) -> Sample:
    """Crops of a training, as `collate` gives them, but of random pixels."""
    size = (count, plan.patch, plan.patch)
    image = torch.randint(256, (*size, plan.bands), dtype=torch.uint8).permute(0, 3, 1, 2)
    mask = torch.randint(classes, size, dtype=torch.uint8)
    statistics = torch.tensor([[0.0], [1.0]]).repeat(count, 1, plan.bands)  # mean 0, deviation 1
    return Sample(image, mask, statistics)


def compile_step(learner: Learner, crops: Sample) -> str | None:
    """Let `learner` compute its loss and the gradient by compiled code, if that works.

    Args:
        learner: Its `objective` is replaced; the names of its weights stay as they are.
        crops: Part of a step, like those of the training.

    Returns:
        None, or what went wrong; then the learner computes as before.
    """
    try:
        learner.objective = torch.compile(learner.loss_of, dynamic=False)
        rehearse(learner, crops)
    except NOT_COMPILED as error:
        learner.objective = learner.loss_of
        return first_line(error)
    return None


def rehearse(learner: Learner, crops: Sample) -> bool:
    """Forward and backward pass on part of a step, for nothing; whether all weights took part."""
    before = [buffer.clone() for buffer in learner.segmenter.buffers()]
    with no_trace(learner.machine.device):
        try:
            learner.add_gradient(crops)
            return all(p.grad is not None for p in learner.segmenter.parameters())
        finally:
            learner.forget_gradient(before)


@contextmanager
def no_trace(device: torch.device) -> Iterator[None]:
    """Forget the random numbers that are drawn inside, and give memory back afterwards."""
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        free_memory(device)


def free_memory(device: torch.device) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
