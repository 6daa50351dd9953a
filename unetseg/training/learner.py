"""A network that learns: one training step, from a batch to moved weights.

A step never waits for the device. What it has to know of its own numbers stays a tensor: a step
whose gradient is no number leaves weights, running mean and buffers as they were.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unetseg.bundle import BundleInfo, build_segmenter, take_weights
from unetseg.config import TrainConfig, TrainingConfig
from unetseg.data.crops.dataset import Sample
from unetseg.errors import ConfigError, OutOfMemoryError
from unetseg.group import ALONE
from unetseg.runtime import Machine, explained_memory
from unetseg.training.losses import SegmentationLoss, deep_supervision
from unetseg.training.optimizer import (
    Optimizer,
    SkippedSteps,
    build_optimizer,
    move_weights,
    restore_buffers,
    update_average,
)
from unetseg.training.plan import Plan
from unetseg.unet.checkpointing import recompute
from unetseg.unet.segmenter import Segmenter, to_machine
from unetseg.unet.shortcuts import Deactivable
from unetseg.unet.skips import expected_open_switches


class Learner:
    """The weights in training, their running mean, and what moves them.

    Args:
        segmenter: The network, on its device.
        loss: What is to become small.
        optimizer: What moves the weights of `segmenter`.
        config: How.
        machine: Where.

    Attributes:
        average: The running mean of the weights.
        objective: `loss_of`, or what was compiled from it.
        parts: How many parts a batch goes through the network in.
        group: The processes that each have a share of every batch, once this one has joined them.
        shared: `objective`, its gradients averaged over these processes.
        skipped_steps: How many steps were no numbers.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        loss: SegmentationLoss,
        optimizer: Optimizer,
        config: TrainingConfig,
        machine: Machine,
    ) -> None:
        self.segmenter = segmenter
        self.average = deepcopy(segmenter).requires_grad_(False)
        self.loss, self.config, self.machine = loss, config, machine
        self.optimizer = optimizer
        self.objective: Callable[[Sample], Tensor] = self.loss_of
        self.shared: Callable[[Sample], Tensor] | None = None
        self.parts = config.accumulate
        self.scaler = torch.amp.GradScaler(
            machine.device.type, enabled=machine.dtype == torch.float16
        )
        self.skipped_steps = SkippedSteps(machine.device)
        self.group = ALONE

    @property
    def kept(self) -> Segmenter:
        """The weights that are validated, and that the bundle gets."""
        return self.average if self.config.ema else self.segmenter

    def start_from(self, run: Path, classes: Sequence[str]) -> tuple[str, ...]:
        """Take the weights of the trained U-Net in `run`; see `take_weights`."""
        kept = take_weights(self.segmenter, classes, run)
        self.average.load_state_dict(self.segmenter.state_dict())
        return kept

    def join(self, *, all_used: bool) -> None:
        """From now on learn with the other processes of the machine's group.

        The loss is that of all crops, batch norm if asked for too, and gradients are averaged.

        Args:
            all_used: Whether all weights were seen to take part in a step.
        """
        self.group = self.machine.group
        self.loss = replace(self.loss, total=self.group.total)
        if self.config.sync_batchnorm:
            nn.SyncBatchNorm.convert_sync_batchnorm(self.segmenter)  # type: ignore[no-untyped-call]
        all_used &= not any(isinstance(part, Deactivable) for part in self.segmenter.modules())
        self.shared = self.group.averaged(
            self.segmenter, lambda part: self.objective(part), all_used=all_used
        )

    def parts_of(self, batch: Sample, crops: int | None = None) -> list[tuple[Sample, float]]:
        """The parts of a batch that go through the network in turn, each as one of how many.

        A process that has every n-th of the `crops` has every n-th of each part: parts are the same
        crops whatever the number of processes. None is left without a crop: else there are fewer.
        """
        whole, rank, size = crops or len(batch.mask), self.group.rank, self.group.size
        count = min(self.parts, max(1, whole // size))
        ends = [-(-whole * part // count) for part in range(count + 1)]
        own = [-((rank - end) // size) for end in ends]
        sizes = [end - begin for begin, end in pairwise(own)]
        parts = [whole / (end - begin) for begin, end in pairwise(ends)]
        return list(zip(batch.split(sizes), parts, strict=True))

    def step(self, batch: Sample, number: int, factor: float, crops: int | None = None) -> Tensor:
        """One step on a batch, in `parts` parts; its mean loss, on the device.

        Args:
            batch: Crops, on the CPU; of a group the share of this process.
            number: How many steps were made before.
            factor: Learning rate, relative to its peak.
            crops: How many all processes have together; None: those of `batch`.

        Raises:
            OutOfMemoryError: a part does not fit in memory; nothing was learned from the batch.
        """
        before = [buffer.clone() for buffer in self.segmenter.buffers()]
        crops, more = crops or len(batch.mask), 2 * self.parts
        fewer = f"--batch {crops // more} --accumulate {more}, which learns as much in a step, or "
        advice = f"Choose {fewer if crops >= more else ''}a smaller --patch or --width."
        try:
            with explained_memory(advice):
                losses = [
                    self.add_gradient(part, parts) for part, parts in self.parts_of(batch, crops)
                ]
        except OutOfMemoryError:
            self.forget_gradient(before)
            raise
        finite = move_weights(self.optimizer, self.scaler, self.config.clip, factor)
        restore_buffers(self.segmenter, before, finite)
        update_average(self.average, self.segmenter, number, finite)
        self.skipped_steps.count(finite)
        return torch.stack(losses).sum()

    def add_gradient(self, part: Sample, parts: float = 1.0) -> Tensor:
        """Add the gradient of one of so many parts of a step; its share of the loss.

        Raises:
            ConfigError: the network takes statistics of several crops, and this is one.
        """
        device = self.machine.device
        part = Sample(*(each.to(device, non_blocking=True) for each in part))
        try:
            loss = (self.shared or self.objective)(part) / parts
        except ValueError as error:  # of a batch norm behind a mean over the whole crop
            if "more than 1 value per channel" not in str(error):
                raise
            fix = "Choose a --batch of 2 or more (for each process), or another --encoder."
            raise ConfigError("this encoder does not learn from one crop alone", fix=fix) from error
        torch.autograd.backward(self.scaler.scale(loss))
        return loss.detach()

    def forget_gradient(self, before: Sequence[Tensor]) -> None:
        """Give up a step whose weights have not moved; its buffers were `before`."""
        self.optimizer.zero_grad()
        never = torch.zeros((), dtype=torch.bool, device=self.machine.device)
        restore_buffers(self.segmenter, before, never)

    def loss_of(self, part: Sample) -> Tensor:
        """The loss of crops that are on the device."""
        image = part.image.float().contiguous(memory_format=torch.channels_last)
        with self.machine.autocast():
            logits = self.segmenter.all_logits(image, part.statistics)
        loss = deep_supervision(self.loss, logits, part.mask)
        switches = expected_open_switches(self.segmenter)
        return loss if switches is None else loss + self.config.switch_penalty * switches

    @torch.no_grad()
    def loss_alone(self, crops: Sample) -> float:
        """The loss of crops, from which nothing is learned."""
        return float(self.loss_of(Sample(*(each.to(self.machine.device) for each in crops))))

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        return {
            "weights": self.segmenter.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was called."""
        self.segmenter.load_state_dict(state["weights"])
        self.average.load_state_dict(state["average"])
        self.optimizer.restore(state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


def build_learner(info: BundleInfo, plan: Plan, config: TrainConfig, machine: Machine) -> Learner:
    """A learner with fresh weights.

    Args:
        info: The network, and what its classes are.
        plan: Everything that was "auto".
        config: Everything else.
        machine: Where it learns.

    Raises:
        ConfigError: settings contradict each other.
    """
    segmenter = to_machine(build_segmenter(info), machine)
    weights = None
    if plan.class_weights is not None:
        weights = torch.tensor(plan.class_weights, device=machine.device)
    loss = SegmentationLoss(config.training.loss, weights, info.class_map.foreground)
    training = config.training
    encoder_lr = 1.0 if plan.freeze and plan.encoder_lr is None else plan.encoder_lr
    optimizer = build_optimizer(
        segmenter,
        plan.optimizer,
        plan.lr,
        training.weight_decay,
        encoder_lr,
        torch.bfloat16 if machine.dtype == torch.bfloat16 else torch.float32,
    )
    learner = Learner(segmenter, loss, optimizer, training, machine)
    learner.parts *= plan.parts
    if config.runtime.checkpointing:
        recompute(segmenter.network)
    return learner
