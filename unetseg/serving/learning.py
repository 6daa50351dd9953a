"""Trainings and predictions of the app: begun, followed by their run folders, and stopped.

A run of the app is a run as any other: `unetseg train --resume`, `eval` and `predict` take it. What
is predicted lies in the run, in predictions/, in a folder for each state of its U-Net (the earlier
ones go once a later one has predicted), named by the ids of the images.
"""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from threading import Lock, RLock, Thread
from typing import Any

from unetseg.config import TrainConfig, TrainingConfig
from unetseg.data.pairs.splits import read_splits
from unetseg.errors import BundleError, UnetsegError
from unetseg.serving.door import Refusal
from unetseg.serving.folder import UNPAIRED, Entry
from unetseg.serving.processes import (
    APP,
    BEFORE,
    EVERY,
    STATE,
    note,
    predict_apart,
    train_apart,
    work_apart,
)
from unetseg.serving.runs import (
    MANIFEST,
    PREDICTIONS,
    Predicted,
    Trained,
    json_of,
    predictions_of,
    preview_of,
    told_row,
    trained_of,
    validations,
)

KEPT = 2000
"""Events that are kept for browsers which are late."""
ENDING = 30.0
"""Seconds that a process has to save and end."""


class Events:
    """What happens, numbered; browsers ask for what came after the last they heard."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: deque[tuple[int, str, Mapping[str, Any]]] = deque(maxlen=KEPT)
        self.last = 0
        self.failed: dict[str, Any] | None = None
        """The last work, if it failed, and its number: a page may not have heard it."""

    def tell(self, kind: str, **facts: Any) -> None:
        """Let every browser hear."""
        with self._lock:
            self.last += 1
            self._kept.append((self.last, kind, facts))
            if kind == "failed":
                self.failed = {"number": self.last, **facts}

    def after(self, number: int) -> list[tuple[int, str, Mapping[str, Any]]]:
        """Number, kind and facts of all after that one."""
        with self._lock:
            return [event for event in self._kept if event[0] > number]


class Learning:
    """Trainings and predictions of one folder, one of each at a time.

    Args:
        data: The folder.
        out: Folder of the run folders.
        events: Hears what happens.
    """

    def __init__(self, data: Path, out: Path, events: Events) -> None:
        self.data, self.out, self.events = data, out, events
        self.training: dict[str, Any] | None = None
        self._run = out  # of the training that was begun here last
        self.predicting: dict[str, int] | None = None
        self._lock = RLock()
        self._processes: dict[str, Any] = {}

    # Runs

    def runs(self) -> list[Path]:
        """The runs that were trained on the folder, the latest last."""
        found = []
        for file in self.out.glob("*/env.json"):
            with suppress(OSError):
                if json_of(file).get("data") == str(self.data):
                    found.append((file.stat().st_mtime, file.parent))
        return [run for _, run in sorted(found)]

    def latest_run(self) -> Path | None:
        """The run of the training under way, which tells no data when it begins, or the last."""
        return self._run if "training" in self._processes else next(reversed(self.runs()), None)

    def model(self) -> Trained | None:
        """The last run with a trained U-Net."""
        for run in reversed(self.runs()):
            with suppress(UnetsegError, OSError):
                return trained_of(run / "model" / "model.json")
        return None

    def told_model(self) -> dict[str, Any] | None:
        """The trained U-Net as the page shows it."""
        if (model := self.model()) is None:
            return None
        run, scores = model.run, model.info.scores
        low, high = scores.get("foreground_dice_interval") or (None, None)
        splits: dict[str, str] = {}
        with suppress(BundleError):  # it predicts all the same
            splits = read_splits(run / "splits.json", "name")
        # each fold of an ensemble learned from what the others hold out
        learned = {"train", "val"} if model.info.members else {"train"}
        return {
            "run": run.name,
            "dice": scores.get("foreground_dice"),
            "low": low,
            "high": high,
            "images": sum(split in learned for split in splits.values()),
            "version": model.version,
            "before": json_of(run / BEFORE) or None,
        }

    @property
    def is_resumable(self) -> bool:
        """Whether the last training was stopped and may go on."""
        runs = [] if "training" in self._processes else self.runs()
        status = json_of(runs[-1] / APP).get("status", "done") if runs else "done"
        return status != "done" and (runs[-1] / STATE).is_file()

    # Training

    def train(self, budget: float, *, from_present: bool) -> None:
        """Begin a training of so many seconds, with fresh weights or those there are.

        Raises:
            Refusal: one runs already, or there is nothing to begin from.
        """
        model = self.model() if from_present else None
        if from_present and model is None:
            raise Refusal(422, "there is no trained network yet", "Train one first.")
        training = TrainingConfig(budget=budget, from_=model.run if model else None)
        stem = re.sub(r"[^\w.+-]", "-", self.data.name).lstrip(".-") or "folder"
        taken = {run.name for run in self.out.glob("*")}
        name = next(n for n in (f"{stem}-{i}" for i in range(1, 10**6)) if n not in taken)
        self._begin(name, TrainConfig(data=UNPAIRED, training=training), resume=False)

    def resume(self) -> None:
        """Go on with the training that was stopped.

        Raises:
            Refusal: there is none.
        """
        if not self.is_resumable:
            raise Refusal(409, "there is no training to go on with")
        run = self.runs()[-1]
        config = TrainConfig.model_validate(json_of(run / APP)["config"])
        self._begin(run.name, config, resume=True)

    def stop(self) -> None:
        """Let the training save its state and end.

        Raises:
            Refusal: none runs.
        """
        with self._lock:
            process = self._processes.get("training")
            if process is None or self.training is None:
                raise Refusal(409, "no training runs")
            self.training = self.training | {"status": "stopping"}
            process.terminate()

    def _begin(self, name: str, config: TrainConfig, *, resume: bool) -> None:
        work = _Training(self, self.out / name, config)
        with self._lock:
            self._start("training", work, (train_apart, self.data, self.out, name, config, resume))
            self._run = self.out / name
            known = {"seconds": 0.0, "share": 0.0, "step": 0, "epoch": 0, "error": None}
            self.training = {"status": "running", "budget": config.training.budget, **known}
            self.events.tell("training", **self.training)

    # Predicting

    def predict(self, entries: Sequence[Entry]) -> int:
        """Begin to predict images; how many.

        Raises:
            Refusal: a prediction runs already, or there is no trained U-Net, or no image.
        """
        if not entries:
            raise Refusal(422, "no image is to be predicted", "Name some.")
        if (model := self.model()) is None:
            raise Refusal(422, "there is no trained network yet", "Train one first.")
        images = [(entry.image, Path(entry.id)) for entry in entries]
        work = _Predicting(self, [entry.id for entry in entries])
        with self._lock:
            self._start("predicting", work, (predict_apart, model.run, images))
            self.predicting = {"done": 0, "total": len(images)}
        return len(images)

    def predictions(self) -> dict[str, Predicted]:
        """What the present U-Net made of images, by their ids."""
        model = self.model()
        if model is None:
            return {}
        return predictions_of(model.run / PREDICTIONS / model.version / MANIFEST)

    # Processes

    def _start(self, what: str, watched: "_Training | _Predicting", work: tuple[Any, ...]) -> None:
        """Do work in a process, and follow it in a thread."""
        if what in self._processes:
            raise Refusal(409, f"{what} is under way already", "Wait for it, or stop it.")
        context = get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work_apart, args=(theirs, *work))
        process.start()
        self._processes[what] = process
        self.events.failed = None
        theirs.close()

        def watch() -> None:
            fault: dict[str, Any] | None = None
            try:
                with ours, suppress(EOFError):
                    while process.is_alive() or ours.poll():
                        told = ours.recv() if ours.poll(EVERY) else {}
                        if "message" in told:
                            fault = told
                        else:
                            watched.follow(told)
                process.join()
                watched.follow(None)
            except (OSError, UnetsegError) as error:  # such as a full disk
                fault = {"message": str(error), "fix": "Free space, or begin again."}
            finally:
                with self._lock:
                    self._processes.pop(what, None)
                process.terminate()
            if process.exitcode and fault is None:
                from unetseg.runtime import end_of

                is_asked = what == "training" and (self.training or {}).get("status") == "stopping"
                why = f"the process ended: {end_of(process.exitcode)}"
                fix = "Free memory, or begin again."
                fault = {"message": why, "fix": fix, "stopped": is_asked}
            watched.over(fault, stopped=bool(fault and fault.pop("stopped", False)))

        Thread(target=watch, name=what, daemon=True).start()

    def close(self) -> None:
        """End all processes; a training saves its state."""
        with self._lock:
            processes = list(self._processes.values())
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(ENDING)
            process.kill()

    @property
    def is_busy(self) -> bool:
        """Whether a process works."""
        return bool(self._processes)


class _Training:
    """A training, as its process and its run folder tell of it."""

    def __init__(self, home: Learning, run: Path, config: TrainConfig) -> None:
        self.home, self.run, self.config = home, run, config
        self.seen = len(list(validations(run)))

    def follow(self, told: Mapping[str, Any] | None) -> None:
        """Tell the page what is new; None: the process has ended."""
        if not (self.run / APP).is_file():
            note(self.run, self.config, "running")
        for row in list(validations(self.run))[self.seen :]:
            if told is None or (self.run / "previews" / preview_of(row)).is_file():
                self.seen += 1
                self.home.events.tell("epoch", **told_row(self.run, row))
        if told:
            self.home.events.tell("training", **self.tell(**told))

    def over(self, fault: Mapping[str, str] | None, *, stopped: bool) -> None:
        """Tell how it ended."""
        status = "stopped" if stopped else "failed" if fault else "done"
        self.tell(status=status, error=fault and fault["message"])
        note(self.run, self.config, status)
        model = self.home.told_model()
        if status == "done" and model:
            self.home.events.tell("trained", **model)
        elif fault:
            self.home.events.tell(status, **fault)

    def tell(self, **facts: Any) -> dict[str, Any]:
        """What is known of the training, with these facts."""
        told: dict[str, Any] = (self.home.training or {}) | facts
        self.home.training = told
        return told


class _Predicting:
    """A prediction, as the manifest of its folder tells of it."""

    def __init__(self, home: Learning, wanted: Sequence[str]) -> None:
        self.home, self.wanted = home, wanted
        self.manifest: Path | None = None
        self.seen: set[str] = set()

    def follow(self, told: Mapping[str, Any] | None) -> None:
        """Tell the page which masks are there."""
        self.manifest = (told or {}).get("manifest", self.manifest)
        made = predictions_of(self.manifest) if self.manifest else {}
        total = len(self.wanted)
        for key in self.wanted:
            if key in made and key not in self.seen:
                self.seen.add(key)
                self.home.predicting = {"done": len(self.seen), "total": total}
                self.home.events.tell("predicted", id=key, done=len(self.seen), total=total)

    def over(self, fault: Mapping[str, str] | None, *, stopped: bool) -> None:
        """Tell that all is done."""
        self.home.predicting = None
        total = len(self.wanted)
        if fault and not stopped:
            self.home.events.tell("failed", **fault)
        self.home.events.tell("predicted", id=None, done=total, total=total)
