"""Training steps on batches in memory, of the plain scripts and of unetseg."""

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unetseg.config import MachineConfig
    from unetseg.data.crops.dataset import Sample
    from unetseg.training.learner import Learner

CROP = 256
"""Side of the crops that are trained on, pixels."""


def script_step(kind: str, network: str, batch: int) -> Callable[[], object]:
    """A step of a plain script (kind: plain, flags)."""
    import torch

    from benchmarks.baseline import LR, STEP, WEIGHT_DECAY, build

    net = build(network, kind, "cpu").train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    images, masks = torch.randn(batch, 3, CROP, CROP), torch.zeros(batch, CROP, CROP).long()
    masks[:, ::2] = 1
    return lambda: STEP[kind](net, optimizer, images, masks)


def our_step(network: str, batch: int, *, checkpointing: bool = False) -> Callable[[], object]:
    """A step of unetseg."""
    from unetseg.config import MachineConfig
    from unetseg.unet.checkpointing import recompute

    learner, crops = our_learner(network, batch, MachineConfig(device="cpu"))
    if checkpointing:
        recompute(learner.segmenter.network)
    numbers = count()
    return lambda: learner.step(crops, next(numbers), 1.0)


def our_learner(network: str, batch: int, config: "MachineConfig") -> "tuple[Learner, Sample]":
    """A fresh network that learns, and crops for a step; the same numbers on every machine."""
    import torch

    from benchmarks.networks import fresh_run
    from unetseg.bundle import load_bundle
    from unetseg.config import TrainingConfig
    from unetseg.data.crops.dataset import Sample
    from unetseg.runtime import start
    from unetseg.training.learner import Learner
    from unetseg.training.losses import SegmentationLoss
    from unetseg.training.optimizer import build_optimizer
    from unetseg.unet.segmenter import to_machine

    machine = start(config)
    with tempfile.TemporaryDirectory(prefix="steps-") as folder:
        segmenter, info = load_bundle(fresh_run(network, Path(folder)))
    to_machine(segmenter, machine).train()
    loss = SegmentationLoss("dice_ce", None, info.class_map.foreground)
    optimizer = build_optimizer(segmenter, "adamw", 1e-3, 0.01)
    image = torch.randint(0, 256, (batch, 3, CROP, CROP), dtype=torch.uint8)
    mask = torch.zeros(batch, CROP, CROP, dtype=torch.uint8)
    mask[:, ::2] = 1
    crops = Sample(
        image.contiguous(memory_format=torch.channels_last), mask, torch.ones(batch, 2, 3)
    )
    return Learner(segmenter, loss, optimizer, TrainingConfig(), machine), crops
