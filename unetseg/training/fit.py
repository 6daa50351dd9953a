"""Pairs → bundle: the training loop, readable from top to bottom."""

import math
import shlex
import time
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from unetseg.bundle import save_bundle
from unetseg.config import TrainConfig, with_flags
from unetseg.data.crops.cache import choose_cache, read_split
from unetseg.data.crops.dataset import Crops, Order, Sample, collate, known_gaps
from unetseg.data.crops.loading import crop_batches
from unetseg.data.files.pngs import write_png
from unetseg.errors import (
    ConfigError,
    DataError,
    DivergedError,
    MachineError,
    OutOfMemoryError,
    StoppedError,
)
from unetseg.evaluation.confusion import Scores
from unetseg.evaluation.counting import score_split
from unetseg.group import joined_group
from unetseg.prediction.engine import Engine
from unetseg.progress import SILENT, Progress
from unetseg.report.card import model_card
from unetseg.report.facts import Facts
from unetseg.report.page import write_report
from unetseg.runtime import StopRequest, explained_memory
from unetseg.storage import write_json
from unetseg.text import duration, plural
from unetseg.training.checkpoint import save_state
from unetseg.training.learner import build_learner
from unetseg.training.losses import LossMean
from unetseg.training.plan import FORWARD_SHARE, bundle_info, crop_rule
from unetseg.training.previews import augmented_sheet, skip_openings, validation_sheet
from unetseg.training.run import TrainingRun, begins_anew, joint_run, open_run, resume_run
from unetseg.training.run_log import RunLog
from unetseg.training.schedule import Clock, learning_rate_factor
from unetseg.training.tuning import compile_step, free_memory, rehearse, two_crops
from unetseg.training.verdicts import store_verdicts
from unetseg.training.workers import training_batches
from unetseg.unet.segmenter import Segmenter

T = TypeVar("T")

NON_FINITE_IN_A_ROW = 10
"""Steps with a non-finite gradient after which training stops."""
MOST_UNREAD = 10
"""Steps after which the device is waited for, to read back what it has computed."""
PRECISION_SHARE = 0.03
"""Share of a budget kept for comparing the arithmetic of the masks with float32."""
CALIBRATION_SHARE = 0.01
"""Share of a budget kept for measuring how sure the network may be."""


def train(
    data: str | Path,
    config: TrainConfig | None = None,
    *,
    out: str | Path = "checkpoints",
    name: str | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
    **flags: Any,
) -> Path:
    """Train a U-Net on a folder of image/mask pairs: `unetseg.train("photos", budget="10m")`.

    Processes that torchrun has started with the same arguments train it together.

    Args:
        data: The folder, or a CSV of pairs.
        config: Settings; "auto" is resolved by the plan.
        out: Folder of the run folders.
        name: Name of the run folder; default: date and time.
        resume: Go on with the run called `name`, or with the last one in `out`.
        progress: Hears what is done.
        **flags: Settings by the names of the command's flags: epochs, budget, from_ ….

    Returns:
        The run folder, with the bundle in `model/`.

    Raises:
        DataError: the folder cannot be used; every offender is listed.
        ConfigError: settings contradict each other or the run that is resumed.
        BundleError: there is no run to go on with, or no trained U-Net to start from.
        StoppedError: a signal stopped the training; its state is saved.
        DivergedError: the loss stopped being a number.
        MachineError: the device is not there, or the run folder cannot be written.
        OutOfMemoryError: a step does not fit in memory.
    """
    began = time.monotonic()
    (config,) = with_flags(flags, config or TrainConfig(), beside=["out", "name", "resume"])
    with (
        joined_group(gpu=config.runtime.device != "cpu") as group,
        StopRequest(has_begun=False) as stop,
    ):
        progress = progress if group.is_first else SILENT
        goes_on = group.first(lambda: begins_anew(Path(out), name) or resume)
        open_or_resume = resume_run if goes_on else open_run
        opening = open_or_resume(Path(data), config, Path(out), name, progress, group)
        with joint_run(opening, group) as run:
            advice = f"Choose a --batch below {run.plan.batch}, a smaller --patch or --width."
            with explained_memory(advice), closing(Trainer(run, began, progress)) as trainer:
                stop.has_begun = True
                trainer.fit(stop)
            return run.folder


class Trainer:
    """One training, from fresh or restored weights to the bundle."""

    def __init__(self, run: TrainingRun, began: float, progress: Progress) -> None:
        self.run, self.plan, self.config = run, run.plan, run.config.training
        self.machine, self.progress = run.machine, progress
        self.group = group = run.machine.group
        self.log = RunLog(run.folder, progress, writes=group.is_first)
        # Data
        known, bands = run.known, self.plan.bands
        folder = run.folder if group.size == 1 else None
        asked, copies = run.config.runtime.cache, group.local_size
        cache = group.first(lambda: choose_cache(known, bands, asked, folder, copies=copies))
        self.log.event("cache", place=cache.place, reason=cache.reason)
        train_reader, self.val_reader = group.together(
            lambda: [
                read_split(known, split, bands, cache.place, folder, progress)
                for split in ("train", "val")
            ]
        )
        self.val_facts = [fact.image for fact in known.facts_of("val")]
        self.gaps = known_gaps(known, bands)
        rule = crop_rule(self.plan)
        self.crops = Crops(train_reader, rule, known.statistics("train"), self.gaps)
        seed = run.config.runtime.seed
        self.order = Order(self.plan.repeats, self.plan.batch * self.config.accumulate, seed)
        # Network
        self.info = bundle_info(self.plan, known, run.data_hash)
        is_given = run.state or not group.is_first  # the weights: by the state, by the first
        info = self.info.fresh if is_given else self.info
        self.learner = build_learner(info, self.plan, run.config, run.machine)
        # State
        self.step = 0
        self.best = -1.0
        self.without_better = 0
        self.losses = LossMean()
        self.latest = math.nan
        self.rows: list[dict[str, float]] = []
        steps = self.plan.epochs * self.order.steps_per_epoch if self.plan.epochs else None
        began = group.largest(began if group.is_first else -math.inf)[0]
        self.clock = Clock(began, self.config.budget, steps)
        self._tick()
        self.saved, self.saving = self.clock.now, 0.0  # by the clock that all go by
        self.clock.afterwards = CALIBRATION_SHARE
        self.clock.afterwards += PRECISION_SHARE * (run.machine.dtype != torch.float32)
        if run.state:
            self.restore(run.state)
        elif self.config.from_ and group.is_first:
            self._start_from(self.config.from_)
        for each in (self.segmenter, self.learner.average):
            group.share([*each.parameters(), *each.buffers()])
        torch.set_rng_state(group.first(torch.get_rng_state))

    @property
    def segmenter(self) -> Segmenter:
        """The network that learns."""
        return self.learner.segmenter

    @property
    def factor(self) -> float:
        """The learning rate now, relative to its peak."""
        return learning_rate_factor(self.clock.fraction, self.config.schedule, self.config.warmup)

    @property
    def _is_due(self) -> bool:
        """Whether this step is to be validated now."""
        validated = self.rows[-1]["step"] if self.rows else 0
        every = self.plan.validate_every * self.order.steps_per_epoch
        is_time = self.step % every == 0 and self.clock.may_validate
        return self.step > validated and (is_time or self.clock.over)

    @property
    def _is_done(self) -> bool:
        """Whether no further step is to be learned."""
        return self.clock.over or self.without_better >= (self.config.patience or math.inf)

    # ---------------------------------------------------------------- the loop

    def fit(self, stop: StopRequest) -> None:
        """Train until the epochs or the budget are over, validating and saving on the way."""
        self._begin()
        with closing(self._batches()) as batches:
            for batch in batches:
                self.learner.optimizer.frozen = self.clock.fraction < self.plan.freeze
                loss = self._learn(batch)  # maybe not yet computed
                self.losses.add(loss)
                self.step += 1
                self._tick()
                self.clock.step_done(self.step)
                self._report(loss)
                self._heed(stop)
                if self._is_due:
                    self.validate()
                elif self.clock.now - self.saved >= self.run.config.runtime.save_every:
                    self.save()
                if self._is_done:
                    break
        if not self.rows or self.rows[-1]["step"] != self.step:
            self.validate()
        self._heed(stop)
        trained = self.step * self.order.batch * self.plan.patch**2
        self.group.first(
            lambda: store_verdicts(self.run, self.val_reader, trained, self.log, self.progress)
        )
        self.progress.finish("training")
        self.log.close()
        self._tick()
        self.progress.say(
            f"best validation Dice {self.best if self.best >= 0 else math.nan:.4f} after "
            f"{plural(self.step, 'step')} in {duration(self.clock.elapsed)}"
        )
        for remark in self.clock.remarks():
            self.progress.say(remark)
        self.group.first(lambda: write_report(self.run.folder, self.progress))
        self._heed(stop)  # else the next of several trainings would begin

    def _begin(self) -> None:
        """Get ready, and make up for a validation that was due when the training was stopped."""
        sheet = self.run.folder / "previews" / "augmented.png"
        self.group.first(lambda: write_png(sheet, augmented_sheet(self.crops)))
        self._close_files()  # the processes that read from now on open them themselves
        if self.run.config.runtime.engine != "auto":  # refused before anything is learned
            self.group.together(lambda: self._engine().choice)
        self.segmenter.train()
        self._announce()
        if self._is_due:
            self.validate()

    def _tick(self) -> None:
        """Set the clock, by that of the first process."""
        now = time.monotonic() if self.group.is_first else -math.inf
        self.clock.now = self.group.largest(now)[0]

    def _learn(self, batch: Sample) -> Tensor:
        """One step; a batch that was chosen for the memory goes in parts when that runs out.

        Raises:
            OutOfMemoryError: it was set, or is of parts of one crop already; or this is one of
                several processes, which have tried it before they joined.
        """
        if self.group.size > 1:
            return self.learner.step(batch, self.step, self.factor, self.order.batch)
        return self._fitting(lambda: self.learner.step(batch, self.step, self.factor))

    def _fitting(self, work: Callable[[], T]) -> T:
        """What `work` gives, once batches are in so many parts that there is memory for it."""
        is_halved = False
        while True:
            try:
                return self.group.together(work)
            except ConfigError as error:  # of an encoder, of parts of one crop
                if not is_halved:
                    raise
                raise two_crops() from error
            except OutOfMemoryError:
                crops = -(-self.order.batch // (self.learner.parts * self.group.size))
                if self.config.batch != "auto" or crops == 1:
                    raise
            free_memory(self.machine.device)  # not before the error with all it holds is gone
            self._halve(crops)
            is_halved = True

    def _halve(self, crops: int) -> None:
        """Let half of so many crops go through the network at once, also after a resume."""
        self.learner.parts *= 2
        parts = 2 * self.plan.parts
        reason = f"memory ran out with {plural(crops, 'crop')} at once: in {parts} parts"
        reasons = self.plan.reasons | {"parts": reason}
        self.plan = self.plan.model_copy(update={"parts": parts, "reasons": reasons})
        if self.group.is_first:
            write_json(self.run.folder / "plan.json", self.plan.model_dump(mode="json"))
        self.log.event("halved", step=self.step, parts=parts)
        self.progress.say(
            f"warning: memory ran out with {plural(crops, 'crop')} at once; every step is still on "
            f"{self.order.batch}, but in {self.learner.parts} parts"
        )

    def validate(self) -> None:
        """Score the whole validation set; keep the weights when they are the best so far.

        Without any foreground in truth and prediction there is no Dice; the latest weights stay.
        """
        began = self.clock.now
        self.group.together(self._check_skipped_steps)
        train_loss = self.losses.take()
        kept, engine = self.learner.kept, self._engine()
        self.group.share(kept.buffers())
        try:
            scores = score_split(engine, self.info, self.val_reader, self.val_facts, self.progress)
        except OutOfMemoryError as error:  # whose fix is for `predict`
            fix = "Choose a smaller --width, or cut the validation images into smaller ones."
            raise OutOfMemoryError("a validation does not fit in memory", fix=fix) from error
        dice = scores.foreground_dice
        is_better = math.isnan(dice) or dice > self.best
        self.without_better = 0 if is_better else self.without_better + 1
        if is_better or dice == self.best == 0:
            self.best = max(self.best, dice)
            info = self.info.model_copy(update={"scores": {"split": "val", **scores.to_json()}})
            folder = self.run.folder / "model"
            card = partial(model_card, facts=Facts(self.run.folder))
            self.group.first(lambda: save_bundle(folder, kept.state_dict(), info, card))
        self._record(train_loss, scores, engine)
        self._tick()
        self.clock.validation_done(self.clock.now - began + self.saving)
        self.save()  # last: with the time that all of it took, and the save before this one
        self.segmenter.train()

    def _engine(self) -> Engine:
        """What predicts with the weights as they are now."""
        kept, tile, overlap = self.learner.kept, self.plan.tile, self.plan.overlap
        asked = self.run.config.runtime.engine
        engine = "auto" if asked == "compile" else asked  # it would compile for each validation
        return Engine(kept, self.machine, tile=tile, overlap=overlap, engine=engine)

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
        self._tick()
        began = self.clock.now
        self.group.first(self._write_state)
        self._tick()
        self.saved, self.saving = self.clock.now, self.clock.now - began

    def _write_state(self) -> None:
        device = self.machine.device
        state = {
            "step": self.step,
            **self.clock.state(),
            "best": self.best,
            "without_better": self.without_better,
            "rows": self.rows,
            "losses": self.losses.state(),
            **self.learner.state(),
            "random": torch.get_rng_state(),
            "random_on_gpu": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "identity": self.run.identity,
        }
        save_state(self.run.folder, state)

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `save` was called."""
        self.step, self.best = state["step"], state["best"]
        self.without_better, self.rows = state["without_better"], state["rows"]
        self.losses.restore(*state["losses"])
        self.learner.restore(state)
        torch.set_rng_state(state["random"])
        drawn = state.get("random_on_gpu")  # none on a CPU, and none that earlier versions wrote
        if drawn is not None and self.machine.device.type == "cuda":
            torch.cuda.set_rng_state(drawn, self.machine.device)
        self.order.first_step = self.step
        self.clock.resume(self.step, state)
        self.log.rewrite(self.rows)

    # ---------------------------------------------------------------- parts

    def _start_from(self, trained: Path) -> None:
        """Take the weights of a trained network, and say for which classes they stand."""
        names = self.info.class_map.names
        kept = self.learner.start_from(trained, names)
        fresh = [name for name in names if name not in kept]
        told = {"as trained": kept, "anew": fresh}
        classes = "; ".join(f"{word}: {', '.join(n)}" for word, n in told.items() if n)
        self.progress.say(f"starting from the weights of {trained} (classes {classes})")

    def _batches(self) -> Generator[Sample, None, None]:
        """The batches that are left, or this process's share of them.

        Where they end in an error, the state is saved: a file that vanished may come back.
        """
        if self._is_done:
            return
        order = self.order.of_rank(self.group.rank, self.group.size)
        if self.plan.compile or self.group.size > 1:
            self._prepare(self.group.together(lambda: next(crop_batches(self.crops, order))))
        wanted = self.run.config.runtime.workers
        workers = None if wanted == "auto" else wanted
        batches = training_batches(self.crops, order, self.machine, workers, self.progress)
        try:
            with closing(batches):
                while True:
                    yield self.group.together(lambda: next(batches))
        except (DataError, MachineError):
            if self.step:
                self.save()
                self.progress.say(f"the state at step {self.step} is saved. {self._way_on}")
            raise

    def _prepare(self, batch: Sample) -> None:
        """Join the other processes, once a part fits in the memory of each; compile the step."""
        group, learner = self.group, self.learner

        def try_alone() -> bool:  # who waits for the others cannot give up a step
            with explained_memory("Choose a smaller --batch, --patch or --width."):
                return rehearse(learner, learner.parts_of(batch)[0][0])

        if group.size > 1:
            learner.join(all_used=not group.any(not self._fitting(try_alone)))
        if self.plan.compile:
            problem = compile_step(learner, learner.parts_of(batch, self.order.batch)[0][0])
            if group.any(problem is not None):
                learner.objective = learner.loss_of
                self.progress.say(f"training without torch.compile: {problem}")

    def _check_skipped_steps(self) -> None:
        """Log steps that were no numbers; give up after several in a row."""
        skipped, in_a_row = self.learner.skipped_steps.read()
        if skipped:
            self.log.event("skipped", step=self.step, steps=skipped)
        if in_a_row >= NON_FINITE_IN_A_ROW:
            raise DivergedError(
                f"the gradient was not a number in {in_a_row} steps in a row",
                [f"{path}: a crop whose loss is no number" for path in self._bad_images()],
                fix="Choose a lower --lr, or --precision float32.",
            )

    def _bad_images(self) -> list[Path]:
        """The images of the last step with crops whose loss is no number."""
        for step in range(self.step - 1, max(-1, self.step - 1 - MOST_UNREAD), -1):
            keys = next(iter(self.order.after(step - self.order.first_step)))
            losses = ((key, self.learner.loss_alone(collate([self.crops[key]]))) for key in keys)
            if bad := {index for (index, _), loss in losses if not math.isfinite(loss)}:
                return [self.crops.reader.pairs[index].image for index in sorted(bad)]
        return []

    def _heed(self, stop: StopRequest) -> None:
        """Stop all processes, where one of them has had a signal."""
        if number := self.group.largest(stop.signal or 0)[0]:
            self._stop(int(number))

    def _stop(self, number: int) -> NoReturn:
        """Save, and end as the signal of that number wants it."""
        self.save()
        told = f"stopped at step {self.step}; the state is in {self.run.folder / 'last.pt'}"
        error = StoppedError(told, fix=self._way_on)
        error.exit_code, error.told = 128 + number, not self.group.is_first
        raise error

    @property
    def _way_on(self) -> str:
        folder = self.run.folder
        words = ["unetseg", "train", self.run.data, "--out", folder.parent, "--name", folder.name]
        return f"Go on with: {shlex.join(map(str, words))} --resume"

    def _record(self, train_loss: float, scores: Scores, engine: Engine) -> None:
        row = {
            "epoch": round(self.step / self.order.steps_per_epoch, 3),
            "step": self.step,
            "seconds": round(self.clock.elapsed, 2),
            "lr": self.plan.lr * self.factor,
            "train_loss": train_loss,
            "val_dice": scores.foreground_dice,
            "val_iou": scores.foreground_iou,
            **{f"val_dice_{row.name}": row.dice for row in scores.classes},
        }
        self.rows.append(row)

        def write() -> None:
            self.log.rewrite(self.rows)
            self.log.scalars(row)
            side = self.plan.patch
            if opened := skip_openings(engine.segmenter, self.val_reader, self.gaps, side):
                self.log.event("skips", step=self.step, **opened)
            sheet = validation_sheet(self.val_reader, engine)
            write_png(self.run.folder / "previews" / f"step_{self.step:06d}.png", sheet)

        self.group.first(write)

    def _announce(self) -> None:
        parameters = sum(p.numel() for p in self.segmenter.parameters())
        self.progress.say(
            f"U-Net of {parameters:,} parameters on {self.machine}; {len(self.crops.reader)} "
            f"training and {plural(len(self.val_reader), 'validation image')}; "
            f"crops of {self.plan.patch}², {self.plan.batch} per step, "
            f"{plural(self.order.steps_per_epoch, 'step')} per epoch"
            + (f"; budget {duration(self.clock.budget)}" if self.clock.budget else "")
        )
        pixels = sum(fact.pixels for fact in self.val_facts)
        step_pixels = self.plan.patch**2 * self.order.batch
        self.clock.validation_steps = FORWARD_SHARE * pixels / step_pixels
        self.progress.start("training", 1000)
        self._tick()
        self.clock.started = self.clock.now

    def _report(self, loss: Tensor) -> None:
        """Tell how far the training is; look at the device's numbers about once a second."""
        if self.step % max(1, min(MOST_UNREAD, round(self.clock.speed))) == 0:
            self.latest = float(loss)
            self.group.together(self._check_skipped_steps)
        done = round(1000 * self.clock.fraction)
        facts: dict[str, float] = {"loss": self.latest}
        if self.best >= 0:
            facts["best Dice"] = self.best
        facts |= {"epoch": self.step // self.order.steps_per_epoch, "step": self.step}
        if self.clock.speed:
            facts["steps/s"] = self.clock.speed
        self.progress.advance("training", done - self.clock.reported, **facts)
        self.clock.reported = done
