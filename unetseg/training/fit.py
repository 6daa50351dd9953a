"""Pairs → bundle: the training loop, readable from top to bottom."""

import time
from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unetseg.bundle import build_segmenter, save_bundle, to_machine
from unetseg.config import TrainConfig
from unetseg.data.dataset import Crops, Order, Sample, crop_loader, find_gaps, read_split
from unetseg.data.images import write_png
from unetseg.errors import DivergedError, StoppedError
from unetseg.evaluation.confusion import Counts, Scores, score
from unetseg.evaluation.counting import GiantCount, count_classes
from unetseg.prediction.engine import Engine
from unetseg.progress import SILENT, Progress
from unetseg.runtime import explained_memory
from unetseg.training.checkpoint import save_state
from unetseg.training.losses import LossMean, SegmentationLoss, deep_supervision
from unetseg.training.optimizer import build_optimizer, restore_buffers, update_average
from unetseg.training.plan import FORWARD_SHARE, bundle_info, crop_rule
from unetseg.training.previews import augmented_sheet, middle, validation_sheet
from unetseg.training.run import RunLog, TrainingRun, open_run, resume_run
from unetseg.training.schedule import Clock, learning_rate_factor
from unetseg.training.signals import StopRequest
from unetseg.unet.skips import Adaptive, expected_open_switches

SAVE_SECONDS = 600.0
"""Longest time between two saved states."""
NON_FINITE_IN_A_ROW = 10
"""Steps with a non-finite gradient after which training stops."""


def train(
    data: str | Path,
    config: TrainConfig | None = None,
    *,
    out: str | Path = "checkpoints",
    name: str | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
) -> Path:
    """Train a U-Net on a folder of image/mask pairs.

    Args:
        data: The folder, or a CSV of pairs.
        config: Settings; "auto" is resolved by the plan.
        out: Folder of the run folders.
        name: Name of the run folder; default: date and time.
        resume: Go on with the run called `name`, or with the last one in `out`.
        progress: Hears what is done.

    Returns:
        The run folder, with the bundle in `model/`.

    Raises:
        DataError: the folder cannot be used; every offender is listed.
        ConfigError: settings contradict each other or the run that is resumed.
        StoppedError: a signal stopped the training; its state is saved.
        DivergedError: the loss stopped being a number.
        OutOfMemoryError: a step does not fit in memory.
    """
    began = time.monotonic()
    config = config or TrainConfig()
    open_or_resume = resume_run if resume else open_run
    with open_or_resume(Path(data), config, Path(out), name, progress) as run:
        advice = f"Choose a --batch below {run.plan.batch}, a smaller --patch or --width."
        with (
            explained_memory(advice),
            StopRequest() as stop,
            closing(Trainer(run, began, progress)) as trainer,
        ):
            trainer.fit(stop)
        return run.folder


class Trainer:
    """One training, from fresh or restored weights to the bundle."""

    def __init__(self, run: TrainingRun, began: float, progress: Progress) -> None:
        self.run, self.plan, self.config = run, run.plan, run.config.training
        self.machine, self.progress = run.machine, progress
        self.log = RunLog(run.folder, progress)
        # Data
        seed = run.config.runtime.seed
        rule = crop_rule(self.plan)
        self.val_reader = read_split(run.known, "val", self.plan.bands)
        train_reader = read_split(run.known, "train", self.plan.bands)
        gaps = find_gaps(run.known, "train", self.plan.bands)
        self.crops = Crops(train_reader, rule, run.known.statistics("train"), gaps)
        self.order = Order(self.plan.repeats, self.plan.batch * self.config.accumulate, seed)
        # Network
        self.info = bundle_info(self.plan, run.known, run.data_hash)
        self.segmenter = to_machine(build_segmenter(self.info), run.machine)
        self.average = deepcopy(self.segmenter).requires_grad_(False)
        self.loss = SegmentationLoss(
            self.config.loss, self.plan.class_weights, run.known.class_map.foreground
        )
        self.optimizer = build_optimizer(self.segmenter, self.plan.lr, self.config)
        self.scaler = torch.amp.GradScaler(
            run.machine.device.type, enabled=run.machine.dtype == torch.float16
        )
        # State
        self.step = 0
        self.best = -1.0
        self.without_better = 0
        self.skipped_in_a_row = 0
        self.saved = time.monotonic()
        self.losses = LossMean()
        self.rows: list[dict[str, float]] = []
        self.clock = Clock(began, self.config.budget, self._total_steps())
        if run.state:
            self.restore(run.state)

    # ---------------------------------------------------------------- the loop

    def fit(self, stop: StopRequest) -> None:
        """Train until the epochs or the budget are over, validating and saving on the way."""
        write_png(self.run.folder / "previews" / "augmented.png", augmented_sheet(self.crops))
        self.close()  # the processes that read from now on open them themselves
        self.segmenter.train()
        self._announce()
        for batch in self._batches():
            self.losses.add(self.train_step(batch))
            self.step += 1
            self.clock.step_done(self.step)
            self._report()
            if stop.signal is not None:
                self._stop(stop)
            if self._validation_is_due():
                self.validate()
            elif self._save_is_due():
                self.save()
            if self.clock.over or self._gave_up():
                break
        if not self.rows or self.rows[-1]["step"] != self.step:
            self.validate()
        self.finish()

    def train_step(self, batch: Sample) -> Tensor:
        """One optimizer step on a batch of `accumulate` parts; its mean loss."""
        self._set_learning_rate()
        losses = [self._backward(part) for part in batch.split(self.config.accumulate)]
        self._update()
        return torch.stack(losses).mean()

    def _backward(self, part: Sample) -> Tensor:
        """Add the gradient of a part of a step; its loss."""
        loss = self._loss(part)
        torch.autograd.backward(self.scaler.scale(loss / self.config.accumulate))
        return loss.detach()

    def _update(self) -> None:
        """Move the weights, and their running mean, when the gradient is a number."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.segmenter.parameters(), self.config.clip)
        finite = bool(torch.isfinite(norm))
        if finite or self.scaler.is_enabled():  # the scaler skips such a step itself, and learns
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if finite:
            self.skipped_in_a_row = 0
            update_average(self.average, self.segmenter, self.step)
        else:
            self._skip()

    def _loss(self, part: Sample) -> Tensor:
        device = self.machine.device
        image = part.image.to(device, non_blocking=True).float()
        image = image.contiguous(memory_format=torch.channels_last)
        mask = part.mask.to(device, non_blocking=True)
        with self.machine.autocast():
            logits = self.segmenter.all_logits(image, part.statistics.to(device))
        loss = deep_supervision(self.loss, logits, mask)
        switches = expected_open_switches(self.segmenter)
        return loss if switches is None else loss + self.config.switch_penalty * switches

    def validate(self) -> None:
        """Score the whole validation set; keep the weights when they are the best so far.

        Without any foreground in truth and prediction there is no Dice; that counts as perfect.
        """
        began = time.monotonic()
        train_loss = self.losses.take()
        scores = self.score(self.engine())
        dice = float(np.nan_to_num(scores.foreground_dice, nan=1.0))
        self.without_better = 0 if dice > self.best else self.without_better + 1
        if dice > self.best or dice == self.best == 0:
            self.best = dice
            self._save_bundle(scores)
        self._record(train_loss, scores)
        self.clock.validation_done(time.monotonic() - began)
        self.segmenter.train()

    def score(self, engine: Engine) -> Scores:
        """The scores of the validation set."""
        class_map = self.run.known.class_map
        counts = []
        self.progress.start("validating", len(self.val_reader))
        for index in range(len(self.val_reader)):
            counts.append(self._count(engine, index))
            self.progress.advance("validating")
        self.progress.finish("validating")
        return score(np.stack(counts), class_map.names, class_map.foreground)

    def _count(self, engine: Engine, index: int) -> Counts:
        """The confusion of a validation pair."""
        reader = self.val_reader
        if reader.is_giant(index):
            return GiantCount(engine, self.info, *reader.rasters(index)).count()
        image, truth = reader[index]
        facts = self.run.known.facts[reader.pairs[index].name]
        prediction = engine.classes(image, facts.image.nodata)
        return count_classes(truth, prediction, len(self.info.class_map.classes))

    def engine(self) -> Engine:
        """The weights to be kept, ready to predict."""
        weights = self.average if self.config.ema else self.segmenter
        return Engine(weights, self.machine, tile=self.plan.tile, overlap=self.plan.overlap)

    def finish(self) -> None:
        """Say how it went."""
        self.progress.finish("training")
        self.log.close()
        self.progress.say(
            f"best validation Dice {self.best:.4f} after {self.step} steps "
            f"in {self.clock.elapsed:.0f} s"
        )

    def close(self) -> None:
        """Close the files of images bigger than memory."""
        self.crops.reader.close()
        self.val_reader.close()

    # ---------------------------------------------------------------- state

    def save(self) -> None:
        """Write everything that a bit-exact continuation needs."""
        state = {
            "step": self.step,
            "elapsed": self.clock.elapsed,
            "best": self.best,
            "without_better": self.without_better,
            "rows": self.rows,
            "losses": self.losses.state(),
            "weights": self.segmenter.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "identity": self.run.identity,
        }
        save_state(self.run.folder, state)
        self.saved = time.monotonic()

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `save` was called."""
        self.step, self.best = state["step"], state["best"]
        self.without_better, self.rows = state["without_better"], state["rows"]
        self.losses.restore(*state["losses"])
        self.segmenter.load_state_dict(state["weights"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        self.order.first_step = self.step
        self.clock.resume(self.step, state["elapsed"])
        self.log.rewrite(self.rows)

    # ---------------------------------------------------------------- parts

    def _batches(self) -> Iterator[Sample]:
        pin = self.machine.device.type == "cuda"
        loader = crop_loader(self.crops, self.order, self.plan.workers, pin=pin)
        return iter(()) if self.clock.over else iter(loader)

    def _total_steps(self) -> int | None:
        return self.plan.epochs * self.order.steps_per_epoch if self.plan.epochs else None

    def _set_learning_rate(self) -> None:
        factor = learning_rate_factor(self.clock.fraction, self.config.schedule, self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.lr * factor

    def _skip(self) -> None:
        """Forget what a step that is no number left behind; give up after several in a row."""
        self.skipped_in_a_row += 1
        self.log.event("skipped", step=self.step)
        restore_buffers(self.segmenter, self.average)
        if self.skipped_in_a_row >= NON_FINITE_IN_A_ROW:
            raise DivergedError(
                f"the gradient was not a number in {self.skipped_in_a_row} steps in a row",
                mend="Choose a lower --lr, or --precision float32.",
            )

    def _validation_is_due(self) -> bool:
        every = self.plan.validate_every * self.order.steps_per_epoch
        return self.clock.over or (self.step % every == 0 and self.clock.may_validate)

    def _save_is_due(self) -> bool:
        return time.monotonic() - self.saved > SAVE_SECONDS

    def _gave_up(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.without_better >= patience

    def _stop(self, stop: StopRequest) -> None:
        self.save()
        folder = self.run.folder
        raise StoppedError(
            f"stopped at step {self.step}; the state is in {folder / 'last.pt'}",
            mend=f"Go on with: unetseg train {self.run.data} --out {folder.parent} "
            f"--name {folder.name} --resume",
            exit_code=stop.exit_code,
        )

    def _save_bundle(self, scores: Scores) -> None:
        weights = (self.average if self.config.ema else self.segmenter).state_dict()
        info = self.info.model_copy(update={"scores": {"split": "val", **scores.to_json()}})
        save_bundle(self.run.folder / "model", weights, info)

    def _record(self, train_loss: float, scores: Scores) -> None:
        row = {
            "epoch": round(self.step / self.order.steps_per_epoch, 3),
            "step": self.step,
            "seconds": round(self.clock.elapsed, 2),
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": train_loss,
            "val_dice": scores.foreground_dice,
            "val_iou": scores.foreground_iou,
            **{f"val_dice_{row.name}": row.dice for row in scores.classes},
        }
        self.rows.append(row)
        self.log.rewrite(self.rows)
        self.log.scalars(row)
        self._log_skips()
        self.save()
        sheet = validation_sheet(self.val_reader, self.engine())
        write_png(self.run.folder / "previews" / f"step_{self.step:06d}.png", sheet)

    @torch.no_grad()
    def _log_skips(self) -> None:
        """Log the learned factors, and how much each skip lets through on a validation crop."""
        kept = self.engine().segmenter
        network = kept.network
        factors = {name: p.item() for name, p in network.named_parameters() if p.ndim == 0}
        if not factors and not any(isinstance(part, Adaptive) for part in network.modules()):
            return
        image, _ = middle(self.val_reader, 0, self.plan.patch)
        crop = torch.from_numpy(image).permute(2, 0, 1)[None]
        pixels = kept.prepared(crop.to(self.machine.device))
        openings = network.openings(pixels)  # in float32: bf16 has few numbers near 1
        means = [None if opening is None else opening.float().mean().item() for opening in openings]
        self.log.event("skips", step=self.step, openings=means, factors=factors)

    def _announce(self) -> None:
        parameters = sum(p.numel() for p in self.segmenter.parameters())
        self.progress.say(
            f"U-Net of {parameters:,} parameters on {self.machine}; {len(self.crops.reader)} "
            f"training and {len(self.val_reader)} validation images; crops of {self.plan.patch}², "
            f"{self.plan.batch} per step, {self.order.steps_per_epoch} steps per epoch"
        )
        pixels = sum(fact.image.pixels for fact in self.run.known.facts_of("val"))
        crop_pixels = self.plan.patch**2 * self.plan.batch * self.config.accumulate
        self.clock.validation_steps = FORWARD_SHARE * pixels / crop_pixels
        self.progress.start("training", 1000)

    def _report(self) -> None:
        done = round(1000 * self.clock.fraction)
        facts: dict[str, float] = {"loss": self.losses.latest}
        if self.best >= 0:
            facts["best Dice"] = self.best
        facts |= {"epoch": self.step // self.order.steps_per_epoch, "step": self.step}
        if self.clock.speed:
            facts["steps/s"] = self.clock.speed
        self.progress.advance("training", done - self.clock.reported, **facts)
        self.clock.reported = done
