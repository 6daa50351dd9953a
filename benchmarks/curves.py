"""Whether fast training learns what plain training learns: losses of the very same batches.

    python -m benchmarks.train_steps --curves

A small U-Net is trained by unetseg, and its batches are kept. The plain script's step (float32) and
the one with the flags then learn from the same batches, from the same first weights and with the
same learning rates; so does the plain step from other first weights: how far that is off is the
noise that any difference is to be seen against. Dice: of the validation pairs, after the last step.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.baseline import STEP, WEIGHT_DECAY, build
from benchmarks.networks import NETWORKS, copy_weights
from benchmarks.pictures import lay, pieces
from benchmarks.rounds import markdown, report
from unetseg.bundle import build_segmenter
from unetseg.config import TrainConfig
from unetseg.data.crops.loading import crop_batches
from unetseg.data.crops.reader import PairReader
from unetseg.progress import SILENT
from unetseg.training.fit import Trainer
from unetseg.training.plan import bundle_info
from unetseg.training.run import TrainingRun, open_run
from unetseg.unet.segmenter import Segmenter

NETWORK = "base16"
PATCH, BATCH, PAIRS = 96, 8, 40
SIDE = 256
OTHER_SEED = 1


@dataclass
class Learned:
    """A training: what came in, the loss of every step, and the network at the end."""

    first: nn.Module
    """A plain network with the first weights."""
    net: nn.Module
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    batches: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Images N×3×H×W, normalised, and masks N×H×W, as a plain script has them."""


def compare_curves(folder: Path, steps: int, device: str, *, write: bool) -> None:
    """Train all, and print how far their losses and Dice are from the plain script's."""
    squares = pieces(folder / "sample", PAIRS)
    data = lay(folder / "pairs", squares, (SIDE, SIDE), PAIRS, ".png")
    with _opened(data, folder, steps, device, "auto") as run:
        ours = train_ours(run)
        other = copy_weights(_fresh(run, OTHER_SEED).network, build(NETWORK))
        pairs = list(_validation(run))
    with _opened(data, folder, steps, device, "float32") as run:
        exact = train_ours(run)
    learned = {
        "plain": train_script("plain", ours.first, ours, device),
        "ours": ours,
        "ours, float32": exact,
        "flags": train_script("flags", ours.first, ours, device),
        "plain, other first weights": train_script("plain", other, ours, device),
    }
    rows = {name: figures(one, learned["plain"], pairs) for name, one in learned.items()}
    report("curves", "Loss curves on the same batches", table(rows), rows, write=write)


def _opened(data: Path, folder: Path, steps: int, device: str, precision: str) -> Any:
    """A run of so many steps, about."""
    crops = round(SIDE**2 / PATCH**2) * round(0.8 * PAIRS)
    epochs = max(1, round(steps * BATCH / crops))
    training = {
        "optimizer": "adamw",  # as the plain scripts
        "patch": PATCH,
        "batch": BATCH,
        "epochs": epochs,
        "upright": "no",
    }
    config = TrainConfig.model_validate(
        {
            "network": NETWORKS[NETWORK],
            "training": training,
            "runtime": {"device": device, "precision": precision},
        }
    )
    return open_run(data, config, folder / "runs", precision, SILENT)


def train_ours(run: TrainingRun) -> Learned:
    """Train as `unetseg train` does, but for validation, and keep what came by."""
    trainer = Trainer(run, time.monotonic(), SILENT)
    network = trainer.segmenter.network
    learned = Learned(copy_weights(network, build(NETWORK)), network)
    trainer.segmenter.train()
    for batch in crop_batches(trainer.crops, trainer.order):
        image = trainer.segmenter.normalise(batch.image.to(run.machine.device))
        learned.batches.append((image.detach().cpu().contiguous(), batch.mask.long()))
        learned.rates.append(trainer.plan.lr * trainer.factor)
        learned.losses.append(float(trainer.learner.step(batch, trainer.step, trainer.factor)))
        trainer.step += 1
        trainer.clock.step_done(trainer.step)
        if trainer.clock.over:
            break
    trainer.close()
    return learned


def train_script(kind: str, first: nn.Module, given: Learned, device: str) -> Learned:
    """Train as a plain script does, on the batches and with the rates of another training."""
    net = copy_weights(first, build(NETWORK, kind)).to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=WEIGHT_DECAY)
    learned = Learned(first, net)
    for rate, (images, masks) in zip(given.rates, given.batches, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        learned.losses.append(STEP[kind](net, optimizer, images.to(device), masks.to(device)))
    return learned


def figures(
    learned: Learned, plain: Learned, pairs: list[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Dice, last losses, and the mean distance of the losses from the plain script's."""
    losses, others = np.array(learned.losses), np.array(plain.losses)
    half = len(losses) // 2
    return {
        "distance": round(float(np.abs(losses - others).mean()), 5),
        "distance_second_half": round(float(np.abs(losses - others)[half:].mean()), 5),
        "difference_second_half": round(float((losses - others)[half:].mean()), 5),
        "loss_second_half": round(float(losses[half:].mean()), 5),
        "dice": round(dice(learned.net, pairs), 4),
        "steps": len(losses),
    }


@torch.no_grad()
def dice(net: nn.Module, pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Dice of class 1 over all pixels of all pairs, in float32."""
    net.eval()
    device = next(net.parameters()).device
    both = total = 0
    for image, mask in pairs:
        found = net(image.to(device)).argmax(1).cpu() == 1
        both += int((found & (mask == 1)).sum())
        total += int(found.sum()) + int((mask == 1).sum())
    return 2 * both / total if total else 1.0


def table(rows: dict[str, dict[str, float]]) -> list[str]:
    """The figures as lines of Markdown."""
    keys = ("loss_second_half", "distance", "distance_second_half", "dice")
    head = ["training", "mean loss, 2nd half", "mean distance from plain", "2nd half", "Dice"]
    cells = [[name, *(f"{row[key]:.4f}" for key in keys)] for name, row in rows.items()]
    steps = f"{BATCH} per step, {rows['ours']['steps']} steps"
    return [f"{NETWORK}, crops of {PATCH}², {steps}", "", *markdown(head, cells)]


def _fresh(run: TrainingRun, seed: int) -> Segmenter:
    """The network of a run before its training, from a seed."""
    torch.manual_seed(seed)
    return build_segmenter(bundle_info(run.plan, run.known, run.data_hash))


def _validation(run: TrainingRun) -> Iterator[tuple[Tensor, Tensor]]:
    """The validation pairs as 1×3×H×W, normalised, and 1×H×W."""
    reader = PairReader(run.known.select("val"), run.known.class_map, run.plan.bands)
    segmenter = _fresh(run, 0)
    for index in range(len(reader)):
        image, mask = reader[index]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        yield segmenter.normalise(pixels).contiguous(), torch.from_numpy(mask)[None].long()
