"""Pairs → bundle: the training loop, readable from top to bottom."""

import math
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unetseg.bundle import save_bundle
from unetseg.config import TrainConfig
from unetseg.data.crops.cache import choose_cache, read_split
from unetseg.data.crops.dataset import Crops, Order, Sample, crop_loader, find_gaps
from unetseg.data.crops.reader import PairReader
from unetseg.data.facts.fingerprint import ImageFacts
from unetseg.data.files.pngs import write_png
from unetseg.errors import DivergedError, StoppedError
from unetseg.evaluation.confusion import Scores
from unetseg.evaluation.counting import score_split
from unetseg.evaluation.precision import check_precision, pixels_to_compare, spread_windows
from unetseg.prediction.engine import Engine
from unetseg.progress import SILENT, Progress
from unetseg.runtime import StopRequest, explained_memory
from unetseg.training.checkpoint import save_state
from unetseg.training.learner import build_learner
from unetseg.training.losses import LossMean
from unetseg.training.plan import FORWARD_SHARE, bundle_info, crop_rule
from unetseg.training.previews import augmented_sheet, middle, validation_sheet
from unetseg.training.run import RunLog, TrainingRun, open_run, resume_run
from unetseg.training.schedule import Clock, learning_rate_factor
from unetseg.training.tuning import compile_step, training_batches
from unetseg.unet.segmenter import Segmenter
from unetseg.unet.skips import Adaptive

SAVE_SECONDS = 600.0
"""Longest time between two saved states."""
NON_FINITE_IN_A_ROW = 10
"""Steps with a non-finite gradient after which training stops."""
MOST_UNREAD = 10
"""Steps after which the device is waited for, to read back what it has computed."""
PRECISION_SHARE = 0.03
"""Share of a budget kept for comparing the arithmetic of the masks with float32."""


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
        rule = crop_rule(self.plan)
        train_reader, self.val_reader = self._open_readers()
        gaps = find_gaps(run.known, "train", self.plan.bands)
        self.crops = Crops(train_reader, rule, run.known.statistics("train"), gaps)
        seed = run.config.runtime.seed
        self.order = Order(self.plan.repeats, self.plan.batch * self.config.accumulate, seed)
        # Network
        self.info = bundle_info(self.plan, run.known, run.data_hash)
        self.learner = build_learner(self.info, self.plan, run.config, run.machine)
        # State
        self.step = 0
        self.best = -1.0
        self.without_better = 0
        self.saved = time.monotonic()
        self.losses = LossMean()
        self.latest = math.nan
        self.rows: list[dict[str, float]] = []
        self.clock = Clock(began, self.config.budget, self._total_steps())
        self.clock.afterwards = 0.0 if run.machine.dtype == torch.float32 else PRECISION_SHARE
        if run.state:
            self.restore(run.state)

    @property
    def segmenter(self) -> Segmenter:
        """The network that learns."""
        return self.learner.segmenter

    # ---------------------------------------------------------------- the loop

    def fit(self, stop: StopRequest) -> None:
        """Train until the epochs or the budget are over, validating and saving on the way."""
        write_png(self.run.folder / "previews" / "augmented.png", augmented_sheet(self.crops))
        self._close_files()  # the processes that read from now on open them themselves
        self.segmenter.train()
        self._compile()
        self._announce()
        for batch in self._batches():
            loss = self.train_step(batch)
            self.losses.add(loss)
            self.step += 1
            self.clock.step_done(self.step)
            self._report(loss)
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
        self._check_precision()
        self.finish()

    def train_step(self, batch: Sample) -> Tensor:
        """One optimizer step; its loss, which the device may still be computing."""
        factor = learning_rate_factor(self.clock.fraction, self.config.schedule, self.config.warmup)
        return self.learner.step(batch, self.step, factor)

    def validate(self) -> None:
        """Score the whole validation set; keep the weights when they are the best so far.

        Without any foreground in truth and prediction there is no Dice; that counts as perfect.
        """
        began = time.monotonic()
        self._check_skipped_steps()
        train_loss = self.losses.take()
        engine = self.engine()
        scores = score_split(engine, self.info, self.val_reader, self._val_facts, self.progress)
        dice = float(np.nan_to_num(scores.foreground_dice, nan=1.0))
        self.without_better = 0 if dice > self.best else self.without_better + 1
        if dice > self.best or dice == self.best == 0:
            self.best = dice
            self._save_bundle(scores)
        self._record(train_loss, scores, engine)
        self.clock.validation_done(time.monotonic() - began)
        self.segmenter.train()

    def engine(self) -> Engine:
        """The weights to be kept, ready to predict; only until they move."""
        tile, overlap = self.plan.tile, self.plan.overlap
        return Engine(self.learner.kept, self.machine, tile=tile, overlap=overlap)

    def finish(self) -> None:
        """Say how it went."""
        self.progress.finish("training")
        self.log.close()
        self.progress.say(
            f"best validation Dice {self.best:.4f} after {self.step} steps "
            f"in {self.clock.elapsed:.0f} s"
        )

    def close(self) -> None:
        """Close the files of images bigger than memory, and give back what was kept of others."""
        self._close_files()
        for reader in (self.crops.reader, self.val_reader):
            reader.forget()

    def _close_files(self) -> None:
        for reader in (self.crops.reader, self.val_reader):
            reader.close()

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
            **self.learner.state(),
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
        self.learner.restore(state)
        torch.set_rng_state(state["random"])
        self.order.first_step = self.step
        self.clock.resume(self.step, state["elapsed"])
        self.log.rewrite(self.rows)

    # ---------------------------------------------------------------- parts

    def _open_readers(self) -> list[PairReader]:
        """The readers of the training and validation pairs, which are decoded once if possible."""
        known, bands, folder = self.run.known, self.plan.bands, self.run.folder
        choice = choose_cache(known, bands, self.run.config.runtime.cache, folder)
        self.log.event("cache", place=choice.place, reason=choice.reason)
        return [
            read_split(known, split, bands, choice.place, folder, self.progress)
            for split in ("train", "val")
        ]

    def _batches(self) -> Iterator[Sample]:
        if self.clock.over:
            return iter(())
        wanted = self.run.config.runtime.workers
        workers = None if wanted == "auto" else wanted
        return training_batches(self.crops, self.order, self.machine, workers, self.progress)

    def _compile(self) -> None:
        """Compile the step if it was planned; where that does not work, say why and go on."""
        if not self.plan.compile or self.clock.over:
            return
        batch = next(iter(crop_loader(self.crops, self.order, 0)))
        problem = compile_step(self.learner, batch.split(self.config.accumulate)[0])
        if problem:
            self.progress.say(f"training without torch.compile: {problem}")

    def _total_steps(self) -> int | None:
        return self.plan.epochs * self.order.steps_per_epoch if self.plan.epochs else None

    @property
    def _val_facts(self) -> list[ImageFacts]:
        return [fact.image for fact in self.run.known.facts_of("val")]

    def _check_skipped_steps(self) -> None:
        """Log steps that were no numbers; give up after several in a row."""
        skipped, in_a_row = self.learner.skipped_steps.read()
        if skipped:
            self.log.event("skipped", step=self.step, steps=skipped)
        if in_a_row >= NON_FINITE_IN_A_ROW:
            raise DivergedError(
                f"the gradient was not a number in {in_a_row} steps in a row",
                fix="Choose a lower --lr, or --precision float32.",
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
            fix=f"Go on with: unetseg train {self.run.data} --out {folder.parent} "
            f"--name {folder.name} --resume",
            exit_code=stop.exit_code,
        )

    def _save_bundle(self, scores: Scores) -> None:
        info = self.info.model_copy(update={"scores": {"split": "val", **scores.to_json()}})
        save_bundle(self.run.folder / "model", self.learner.kept.state_dict(), info)

    def _check_precision(self) -> None:
        """Let the bundle know whether its masks may be computed in the training's arithmetic."""
        trained = self.step * self.order.batch * self.plan.patch**2
        windows = spread_windows(self.val_reader, self._val_facts, pixels_to_compare(trained))
        verdict = check_precision(self.run.folder, self.machine, windows)
        if verdict is not None:
            self.log.event("precision", **verdict.model_dump(), holds=verdict.holds)
            self.progress.say(verdict.figures)

    def _record(self, train_loss: float, scores: Scores, engine: Engine) -> None:
        row = {
            "epoch": round(self.step / self.order.steps_per_epoch, 3),
            "step": self.step,
            "seconds": round(self.clock.elapsed, 2),
            "lr": self.learner.optimizer.param_groups[0]["lr"],
            "train_loss": train_loss,
            "val_dice": scores.foreground_dice,
            "val_iou": scores.foreground_iou,
            **{f"val_dice_{row.name}": row.dice for row in scores.classes},
        }
        self.rows.append(row)
        self.log.rewrite(self.rows)
        self.log.scalars(row)
        self._log_skips(engine.segmenter)
        self.save()
        sheet = validation_sheet(self.val_reader, engine)
        write_png(self.run.folder / "previews" / f"step_{self.step:06d}.png", sheet)

    @torch.no_grad()
    def _log_skips(self, kept: Segmenter) -> None:
        """Log the learned factors, and how much each skip lets through on a validation crop."""
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
        pixels = sum(fact.pixels for fact in self._val_facts)
        self.clock.validation_steps = (
            FORWARD_SHARE * pixels / (self.plan.patch**2 * self.order.batch)
        )
        self.progress.start("training", 1000)

    def _report(self, loss: Tensor) -> None:
        """Tell how far the training is; look at the device's numbers about once a second."""
        if self.step % max(1, min(MOST_UNREAD, round(self.clock.speed))) == 0:
            self.latest = float(loss)
            self._check_skipped_steps()
        done = round(1000 * self.clock.fraction)
        facts: dict[str, float] = {"loss": self.latest}
        if self.best >= 0:
            facts["best Dice"] = self.best
        facts |= {"epoch": self.step // self.order.steps_per_epoch, "step": self.step}
        if self.clock.speed:
            facts["steps/s"] = self.clock.speed
        self.progress.advance("training", done - self.clock.reported, **facts)
        self.clock.reported = done
