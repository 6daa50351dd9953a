"""Training and predicting for the app: each in a process of its own, told by its run folder.

A run of the app is a run as any other: `unetseg train --resume`, `eval` and `predict` take it. What
is predicted lies in the run, in predictions/, named by the ids of the images.
"""

import csv
import math
import os
import re
import signal
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock, RLock, Thread
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from unetseg.config import DataConfig, PredictConfig, TrainConfig, TrainingConfig
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.pairs.dataset_yaml import find_described
from unetseg.data.pairs.splits import read_splits
from unetseg.errors import BundleError, StoppedError, UnetsegError
from unetseg.progress import Silent
from unetseg.serving.folder import UNPAIRED, Entry
from unetseg.serving.pictures import state_of
from unetseg.serving.server import Refusal
from unetseg.storage import parse_json, write_json

if TYPE_CHECKING:
    from unetseg.bundle import BundleInfo

LOG, STATE, MANIFEST = "log.jsonl", "last.pt", "predictions.jsonl"
"""Files of a run, and of a folder of masks; torch is not loaded to name them."""
APP = "app.json"
"""In a run: what the app asked for, and how it ended."""
BEFORE = "before.json"
"""In a run that began from another: what that one scores on the same images."""
PREDICTIONS = "predictions"
EVERY = 0.25
"""Seconds between two looks at a process."""
KEPT = 2000
"""Events that are kept for browsers which are late."""
MOST_FILES = 4096
"""Files of which is remembered what they hold."""
ENDING = 30.0
"""Seconds that a process has to save and end."""

T = TypeVar("T")


class Events:
    """What happens, numbered; browsers ask for what came after the last they heard."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: deque[tuple[int, str, Mapping[str, Any]]] = deque(maxlen=KEPT)
        self.last = 0

    def tell(self, kind: str, **facts: Any) -> None:
        """Let every browser hear."""
        with self._lock:
            self.last += 1
            self._kept.append((self.last, kind, facts))

    def after(self, number: int) -> list[tuple[int, str, Mapping[str, Any]]]:
        """Number, kind and facts of all after that one."""
        with self._lock:
            return [event for event in self._kept if event[0] > number]


class Predicted(NamedTuple):
    """What a trained U-Net made of an image."""

    mask: Path
    doubt: float | None
    objects: Path


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
        self.predicting: dict[str, int] | None = None
        self._lock = RLock()
        self._processes: dict[str, Any] = {}

    # Runs

    def runs(self) -> list[Path]:
        """The runs that were trained on the folder, the latest last."""
        found = []
        for file in self.out.glob("*/env.json"):
            with suppress(OSError):
                if (_read(file) or {}).get("data") == str(self.data):
                    found.append((file.stat().st_mtime, file.parent))
        return [run for _, run in sorted(found)]

    def model(self) -> tuple[Path, "BundleInfo"] | None:
        """The last run with a trained U-Net, and what is known of that."""
        for run in reversed(self.runs()):
            with suppress(UnetsegError, OSError):
                return run, _info(run / "model" / "model.json")
        return None

    def told_model(self) -> dict[str, Any] | None:
        """The trained U-Net as the page shows it."""
        if (found := self.model()) is None:
            return None
        run, info = found
        low, high = info.scores.get("foreground_dice_interval") or (None, None)
        rows, splits = list(validations(run)), read_splits(run / "splits.json", "name")
        return {
            "run": run.name,
            "dice": info.scores.get("foreground_dice"),
            "low": low,
            "high": high,
            "images": [*splits.values()].count("train"),
            "trained_at": (run / "env.json").stat().st_mtime,
            "before": _read(run / BEFORE),
            "parameters": count_parameters(run / "model" / "model.safetensors"),
            "words": plan_words(_read(run / "plan.json") or {}),
            "steps": rows[-1]["step"] if rows else 0,
        }

    @property
    def is_resumable(self) -> bool:
        """Whether the last training was stopped and may go on."""
        runs = self.runs()
        asked = _read(runs[-1] / APP) if runs and not self.is_training else None
        return asked is not None and asked["status"] != "done" and (runs[-1] / STATE).is_file()

    # Training

    @property
    def is_training(self) -> bool:
        """Whether a process trains."""
        return "training" in self._processes

    def train(self, budget: float, *, from_present: bool) -> None:
        """Begin a training of so many seconds, with fresh weights or those there are.

        Raises:
            Refusal: one runs already, or there is nothing to begin from.
        """
        model = self.model() if from_present else None
        if from_present and model is None:
            raise Refusal(422, "there is no trained network yet", "Train one first.")
        training = TrainingConfig(budget=budget, from_=model[0] if model else None)
        stem = re.sub(r"[^\w.+-]", "-", self.data.name).lstrip(".") or "folder"
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
        config = TrainConfig.model_validate(_read(run / APP)["config"])
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
            self._start("training", work, (_train, self.data, self.out, name, config, resume))
            known = {"seconds": 0.0, "share": 0.0, "step": 0, "epoch": 0, "error": None}
            self.training = {"status": "running", "budget": config.training.budget, **known}
            self.events.tell("training", **self.training)

    # Predicting

    def predict(self, entries: Sequence[Entry]) -> int:
        """Begin to predict images; how many.

        Raises:
            Refusal: a prediction runs already, or there is no trained U-Net.
        """
        if (model := self.model()) is None:
            raise Refusal(422, "there is no trained network yet", "Train one first.")
        images = [(entry.image, Path(entry.id)) for entry in entries]
        work = _Predicting(self, [entry.id for entry in entries])
        with self._lock:
            folder = model[0] / PREDICTIONS
            self._start("predicting", work, (_predict, model[0], folder, images))
            self.predicting = {"done": 0, "total": len(images)}
        return len(images)

    def predictions(self) -> dict[str, Predicted]:
        """What the present U-Net made of images, by their ids."""
        model = self.model()
        return _predictions(model[0] / PREDICTIONS / MANIFEST) if model else {}

    def predicted_classes(self) -> ClassMap | None:
        """What the values of predicted masks mean."""
        model = self.model()
        return model[1].class_map if model else None

    # Processes

    def _start(self, what: str, watched: "_Training | _Predicting", work: tuple[Any, ...]) -> None:
        """Do work in a process, and follow it in a thread."""
        if what in self._processes:
            raise Refusal(409, f"{what} is under way already", "Wait for it, or stop it.")
        context = get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(theirs, *work))
        self._processes[what] = process
        process.start()
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

                why = f"the process ended: {end_of(process.exitcode)}"
                fault = {"message": why, "fix": "Free memory, or begin again."}
            is_asked = what == "training" and (self.training or {}).get("status") == "stopping"
            watched.over(fault, stopped=bool(fault and (fault.pop("stopped", False) or is_asked)))

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
            self.note("running")
        for row in list(validations(self.run))[self.seen :]:
            if told is None or (self.run / "previews" / preview_of(row)).is_file():
                self.seen += 1
                self.tell(dice=row["val_dice"])
                self.home.events.tell("epoch", **told_row(self.run, row))
        if told:
            self.home.events.tell("training", **self.tell(**told))

    def over(self, fault: Mapping[str, str] | None, *, stopped: bool) -> None:
        """Tell how it ended."""
        status = "stopped" if stopped else "failed" if fault else "done"
        self.tell(status=status, error=fault and fault["message"])
        self.note(status)
        model = self.home.told_model()
        if status == "done" and model:
            self.home.events.tell("trained", **model)
        elif fault:
            self.home.events.tell(status, **fault)

    def tell(self, **facts: Any) -> dict[str, Any]:
        """What is known of the training, with these facts."""
        self.home.training = (self.home.training or {}) | facts
        return self.home.training

    def note(self, status: str) -> None:
        """Keep in the run what a later server needs to go on with it, once there is a state."""
        if (self.run / STATE).is_file():
            settings = self.config.model_dump(mode="json")
            write_json(self.run / APP, {"config": settings, "status": status})


class _Predicting:
    """A prediction, as the manifest of its folder tells of it."""

    def __init__(self, home: Learning, wanted: Sequence[str]) -> None:
        self.home, self.wanted = home, wanted
        self.before = {key: state_of(one.mask) for key, one in home.predictions().items()}
        self.seen: set[str] = set()

    def follow(self, _told: Mapping[str, Any] | None) -> None:
        """Tell the page which masks are new."""
        made, total = self.home.predictions(), len(self.wanted)
        for key in self.wanted:
            one = made.get(key)
            if one and key not in self.seen and self.before.get(key) != state_of(one.mask):
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


def validations(run: Path) -> Iterator[dict[str, Any]]:
    """The rows of a run's log that say how good it was."""
    with suppress(OSError), (run / LOG).open("rb") as lines:
        for line in lines:
            with suppress(ValueError):
                row = parse_json(line)
                if row.get("event") == "validation":
                    yield row


def preview_of(row: Mapping[str, Any]) -> str:
    """The name of the picture of a validation."""
    return f"step_{row['step']:06d}.png"


def told_row(run: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """A validation as the page shows it."""
    preview = preview_of(row)
    there = (run / "previews" / preview).is_file()
    figures = {name: row.get(name) for name in ("step", "seconds", "train_loss", "val_dice")}
    return figures | {"preview": f"api/previews/{preview}" if there else None}


def of_file(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """The same, called anew only when the file has changed."""
    known: OrderedDict[Path, tuple[object, T]] = OrderedDict()

    def current(file: Path) -> T:
        state = state_of(file)
        found = known.get(file)
        if found is None or found[0] != state:
            found = known[file] = state, read(file)
            while len(known) > MOST_FILES:
                known.popitem(last=False)
        return found[1]

    return current


@of_file
def _predictions(manifest: Path) -> dict[str, Predicted]:
    from unetseg.prediction.manifest import Manifest

    folder = manifest.parent
    if not manifest.is_file():
        return {}
    return {
        Path(name).stem: Predicted(
            folder / name,
            record.doubt.score if record.doubt else None,
            folder / f"{Path(name).stem}_objects.csv",
        )
        for name, record in Manifest(folder).done.items()
        if (folder / name).is_file()
    }


def object_rows(predicted: Predicted) -> list[dict[str, str]]:
    """The objects of a predicted mask."""
    if not predicted.objects.is_file():
        return []
    with predicted.objects.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


@of_file
def count_objects(table: Path) -> int:
    """The rows of a table of objects; 0 where there is none."""
    if not table.is_file():
        return 0
    with table.open("rb") as lines:
        return max(0, sum(1 for _ in lines) - 1)


@of_file
def _info(model: Path) -> "BundleInfo":
    from unetseg.bundle import read_info

    return read_info(model)


@of_file
def count_parameters(weights: Path) -> int:
    """The learned numbers of a network, by the head of its file; 0 where there is none."""
    with suppress(OSError, ValueError), weights.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        tensors = parse_json(file.read(min(size, 2**24)))
        moments = ("running_mean", "running_var", "num_batches_tracked")
        learned = (n for n in tensors if n.startswith("network.") and not n.endswith(moments))
        return sum(math.prod(tensors[name]["shape"]) for name in learned)
    return 0


def plan_words(plan: dict[str, Any]) -> list[str]:
    """What a plan chose, and why, in lines."""
    values = plan | {name: plan.get("network", {}).get(name) for name in ("depth", "width")}
    values = {name: f"{v:.3g}" if isinstance(v, float) else v for name, v in values.items()}
    return [
        f"{name}: {values[name]} ({reason})" if values.get(name) else f"{name}: {reason}"
        for name, reason in plan.get("reasons", {}).items()
        if isinstance(values.get(name) or "", str | int)
    ]


@of_file
def _read(file: Path) -> Any:
    """What is in a JSON file; None where there is none."""
    try:
        return parse_json(file.read_bytes())
    except (OSError, ValueError):
        return None


# In the process apart


class Told(Silent):
    """Sends how far a training is, a few times a second; ends it when nobody listens."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._share, self._sent = pipe, 0.0, 0.0
        self._began = time.monotonic()

    def advance(self, task: str, steps: int = 1, **facts: object) -> None:
        """Tell the figures of a training."""
        if task != "training":
            return
        now = time.monotonic()
        self._share += steps / 1000
        if now - self._sent > EVERY:
            self._sent = now
            figures = {name: facts[name] for name in ("loss", "step", "epoch") if name in facts}
            best = {"best": facts["best Dice"]} if "best Dice" in facts else {}
            self._send(seconds=now - self._began, share=self._share, **figures, **best)

    def say(self, message: str) -> None:
        """Tell what was concluded or is done just now."""
        self._send(note=message)

    def finish(self, task: str) -> None:
        """Tell that all steps are done."""
        if task == "training":
            self._send(share=1.0)

    def _send(self, **figures: object) -> None:
        try:
            self._pipe.send(figures)
        except OSError:
            os.kill(os.getpid(), signal.SIGTERM)


def _work(pipe: Connection, work: Callable[..., None], *args: Any) -> None:
    """Do work, and tell the error that ends it."""
    try:
        work(pipe, *args)
    except UnetsegError as error:
        told = "\n".join([error.summary, *error.offenders[:5]])
        stopped = isinstance(error, StoppedError)
        pipe.send({"message": told, "fix": error.fix, "stopped": stopped})
    except KeyboardInterrupt:
        pipe.send({"message": "stopped", "fix": "Begin again.", "stopped": True})


def _train(
    pipe: Connection, data: Path, out: Path, name: str, config: TrainConfig, resume: bool
) -> None:
    from unetseg.training.fit import train

    run = train(data, config, out=out, name=name, resume=resume, progress=Told(pipe))
    if before := config.training.from_:
        with suppress(UnetsegError):  # of other classes: there is nothing to compare
            write_json(run / BEFORE, score_of(before, run, data, config.data))


def score_of(before: Path, run: Path, data: Path, config: DataConfig) -> dict[str, Any]:
    """The Dice of the U-Net `before` on the images that `run` was validated on."""
    from unetseg.evaluation.confusion import score
    from unetseg.evaluation.evaluate import choose_pairs, evaluate_pairs
    from unetseg.prediction.predictor import Predictor

    predictor = Predictor(before)
    classes = predictor.info.class_map
    pairs = choose_pairs(find_described(data, config, classes)[0], run, "val")[1]
    counts = evaluate_pairs(predictor.engine, predictor.info, pairs)
    dice = score(counts, classes.names, classes.foreground).foreground_dice
    return {"run": before.name, "dice": dice, "images": len(pairs)}


def _predict(_: Connection, run: Path, folder: Path, images: Iterable[tuple[Path, Path]]) -> None:
    from unetseg.prediction.predict import predict_listed, work_of

    images = list(images)
    config = PredictConfig(objects=True, review=len(images), existing="skip")
    work = work_of(run, [path for path, _ in images], folder, config)
    result = predict_listed(work, images, failures=folder / "failures.jsonl")
    if result.failures:
        told = [f"{path.name}: {error.summary}" for path, error in result.failures.items()]
        raise BundleError(f"{len(told)} images could not be predicted", told)
