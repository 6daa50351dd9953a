"""Work of the app in processes of its own, which tell through a pipe how far they are."""

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

from unetseg.config import DataConfig, PredictConfig, TrainConfig
from unetseg.data.pairs.dataset_yaml import find_described
from unetseg.errors import BundleError, StoppedError, UnetsegError
from unetseg.progress import Silent
from unetseg.serving.runs import MANIFEST, PREDICTIONS, VERSION, version_of
from unetseg.storage import write_json

STATE = "last.pt"
"""A file of a run; torch is not loaded to name it."""
APP = "app.json"
"""In a run: what the app asked for, and how it ended."""
BEFORE = "before.json"
"""In a run that began from another: what that one scores on the same images."""
EVERY = 0.25
"""Seconds between two words of a process."""


class Told(Silent):
    """Sends how far a training is, a few times a second."""

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
            figures = {name: facts[name] for name in ("step", "epoch") if name in facts}
            self._send(seconds=now - self._began, share=self._share, **figures)

    def finish(self, task: str) -> None:
        """Tell that all steps are done."""
        if task == "training":
            self._send(share=1.0)

    def _send(self, **figures: object) -> None:
        with suppress(OSError):  # see `_end_with_server`
            self._pipe.send(figures)


def work_apart(pipe: Connection, work: Callable[..., None], *args: Any) -> None:
    """Do work, and tell the error that ends it; a server that was killed ends it too."""
    Thread(target=_end_with_server, daemon=True).start()
    try:
        work(pipe, *args)
        return
    except UnetsegError as error:
        told = "\n".join([error.summary, *error.offenders[:5]])
        stopped = isinstance(error, StoppedError)
        fault = {"message": told, "fix": error.fix, "stopped": stopped}
    except KeyboardInterrupt:
        fault = {"message": "stopped", "fix": "Begin again.", "stopped": True}
    with suppress(OSError):  # nobody listens any more
        pipe.send(fault)


def _end_with_server() -> None:
    """Wait for the end of the process that started this one, then end as if asked to."""
    if server := parent_process():
        server.join()
        os.kill(os.getpid(), signal.SIGTERM)


def note(run: Path, config: TrainConfig, status: str) -> None:
    """Keep in a run what a later server needs to go on with it, once there is a state."""
    if (run / STATE).is_file():
        settings = config.model_dump(mode="json")
        write_json(run / APP, {"config": settings, "status": status})


def train_apart(
    pipe: Connection, data: Path, out: Path, name: str, config: TrainConfig, resume: bool
) -> None:
    """Train, and score the U-Net that it began from on the same images."""
    from unetseg.training.fit import train

    try:
        run = train(data, config, out=out, name=name, resume=resume, progress=Told(pipe))
    except StoppedError:
        note(out / name, config, "stopped")  # there may be no server that does
        raise
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


def predict_apart(pipe: Connection, run: Path, images: Iterable[tuple[Path, Path]]) -> None:
    """Predict images, each with the name of its mask, and tell where the manifest is.

    The folder is that of the U-Net as it was loaded: a training may save others meanwhile. In the
    end the folders of earlier ones of this run go: nothing shows their masks any more.

    Raises:
        BundleError: some could not be predicted.
    """
    from unetseg.prediction.predict import predict_listed, work_of

    images = list(images)
    config = PredictConfig(objects=True, review=len(images), existing="skip")
    work = work_of(run, [path for path, _ in images], run / PREDICTIONS, config)
    work = replace(work, output=run / PREDICTIONS / version_of(work.predictor.info))
    pipe.send({"manifest": work.output / MANIFEST})
    result = predict_listed(work, images, failures=work.output / "failures.jsonl")
    for folder in work.output.parent.glob("*"):
        if folder != work.output and re.fullmatch(VERSION, folder.name):
            shutil.rmtree(folder, ignore_errors=True)
    if result.failures:
        told = [f"{path.name}: {error.summary}" for path, error in result.failures.items()]
        raise BundleError(f"{len(told)} images could not be predicted", told)
