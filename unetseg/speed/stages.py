"""Prediction from folder to folder: each of its stages alone, and all of them overlapped."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from unetseg.config import DeviceConfig
from unetseg.errors import ImageError
from unetseg.prediction.outputs import Job, plan_job, write_outputs
from unetseg.prediction.predict import Predictor, alike, predict_folder
from unetseg.progress import SILENT, Progress
from unetseg.speed.pace import Pace
from unetseg.speed.subject import Subject

FEWEST = 4
"""Images that are predicted from folder to folder, however long that takes."""
UNSTEADY = 0.25
"""Share of the images after which the pace counts as steady; half of them are left at least."""
ALONE = 0.4
"""Share of the time for the stages alone."""
TASK = "predicting"
"""What `predict_folder` calls it."""


@dataclass(frozen=True)
class Stages:
    """Seconds for an image in each stage, when nothing else runs."""

    read: float
    """Decoding, from the file to raw pixels."""
    network: float
    """From raw pixels to class indexes."""
    write: float
    """From class indexes to the file of the mask."""

    @property
    def total(self) -> float:
        """Seconds for an image, one stage after the other."""
        return self.read + self.network + self.write

    @property
    def shares(self) -> dict[str, float]:
        """Share of each stage in the total.

        >>> Stages(1, 2, 1).shares
        {'read': 0.25, 'network': 0.5, 'write': 0.25}
        """
        return {name: seconds / self.total for name, seconds in asdict(self).items()}

    @property
    def longest(self) -> str:
        """The stage that takes most."""
        return max(self.shares, key=lambda name: self.shares[name])


@dataclass(frozen=True)
class PredictionSpeed:
    """How fast images become masks."""

    images: int
    engine: str
    """What ran the network."""
    reason: str
    """Why that engine."""
    stages: Stages
    pace: Pace
    """All stages overlapped, once it runs."""
    first_seconds: float
    """Until the first image is through, with loading the model."""

    def to_json(self) -> dict[str, Any]:
        """All figures."""
        stages = self.stages
        alone = {f"{name}_milliseconds": 1000 * s for name, s in asdict(stages).items()}
        return {
            "images": self.images,
            "engine": self.engine,
            "reason": self.reason,
            "alone": {**alone, "shares": stages.shares, "longest": stages.longest},
            "overlapped": self.pace.to_json(),
            "first_seconds": self.first_seconds,
        }


def measure_prediction(
    subject: Subject,
    device: DeviceConfig,
    folder: Path,
    gflop_per_pixel: float,
    *,
    seconds: float,
    progress: Progress = SILENT,
) -> PredictionSpeed:
    """Predict images, first stage by stage, then as `unetseg predict` does.

    Args:
        subject: The model, and the files; as many are taken as the time allows.
        device: Device, arithmetic and engine.
        folder: An empty folder for the masks.
        gflop_per_pixel: What the network computes.
        seconds: Time for all of it.
        progress: Hears what is done.

    Raises:
        ImageError: an image does not fit the model.
    """
    predictor = Predictor(subject.bundle, device=device)
    stages, pixels = _alone(predictor, subject.images, folder / "alone", ALONE * seconds, progress)
    most = int((1 - ALONE) * seconds / stages.total)
    chosen = subject.images[: max(FEWEST, most)]
    watch = _Watch(progress)
    began = time.perf_counter()
    done = predict_folder(subject.bundle, chosen, folder / "together", None, device, watch)
    ended = time.perf_counter()
    if done.failures:
        raise ImageError("some images cannot be predicted", list(done.failures.values()))
    pace = Pace(steady_seconds(watch.began, watch.times, ended), pixels, gflop_per_pixel * pixels)
    choice, first = predictor.engine.choice, watch.times[0] - began
    return PredictionSpeed(len(chosen), choice.name, choice.reason, stages, pace, first)


def steady_seconds(began: float, times: Sequence[float], ended: float) -> float:
    """Seconds for an image once it runs.

    Args:
        began: When the first image was begun.
        times: When each image was done; several are done in one moment.
        ended: When all of them were written.

    >>> steady_seconds(0.0, [3.0, 4.0, 5.0, 6.0], ended=6.0)
    1.0
    """
    done = Counter(times)
    moments = [(0, began), *zip(accumulate(done.values()), done, strict=True)]
    early = [moment for moment in moments if moment[0] <= len(times) / 2]
    is_steady = [moment for moment in early if moment[0] >= UNSTEADY * len(times)]
    count, since = (is_steady or early[-1:])[0]
    return (ended - since) / (len(times) - count)


def _alone(
    predictor: Predictor,
    images: Sequence[Path],
    folder: Path,
    seconds: float,
    progress: Progress,
) -> tuple[Stages, float]:
    """Seconds of each stage for an image, and its pixels, as means over the images."""
    class_map = predictor.info.class_map
    jobs = [plan_job(path, folder / str(at), class_map) for at, path in enumerate(images)]
    _Alone(predictor).run(jobs, 0)  # the first time is slower
    alone = _Alone(predictor)
    alone.run(jobs, seconds, progress)
    return alone.stages(), alone.pixels / alone.images


class _Alone:
    """Images on their way through the stages one after the other, and the time of each.

    Args:
        predictor: The model.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.images = self.pixels = 0
        self.seconds = dict.fromkeys(("read", "network", "write"), 0.0)

    def run(self, jobs: Sequence[Job], seconds: float, progress: Progress = SILENT) -> None:
        """Predict `jobs`, as many of one size at once as a prediction does, until time is over.

        One such batch is always predicted.
        """
        engine, ended = self.predictor.engine, time.perf_counter() + seconds
        progress.start("stages alone", len(jobs))
        for batch in alike(self._read(jobs), engine.images_at_once):
            known, images = zip(*batch, strict=True)
            with self._clock("network"):
                found = engine.classes_of(images, [job.nodata for job in known])
            with self._clock("write"):
                for job, index in zip(known, found, strict=True):
                    write_outputs(job, self.predictor.info.class_map, index)
            self.images += len(batch)
            self.pixels += sum(index.size for index in found)
            progress.advance("stages alone", len(batch))
            if time.perf_counter() > ended:
                break
        progress.finish("stages alone")

    def stages(self) -> Stages:
        """Seconds for an image."""
        return Stages(**{name: taken / self.images for name, taken in self.seconds.items()})

    def _read(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, NDArray[Any]]]:
        for job in jobs:
            with self._clock("read"):
                image = self.predictor.read(job.image, job.nodata)
            yield job, image

    @contextmanager
    def _clock(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - began


class _Watch:
    """Notes when each image was done, and tells another observer of the images alone."""

    def __init__(self, progress: Progress) -> None:
        self.began = 0.0
        self.times: list[float] = []
        self._progress = progress

    def start(self, task: str, total: int | None = None) -> None:
        """Note the time, and pass it on."""
        if task == TASK:
            self.began = time.perf_counter()
            self._progress.start(task, total)

    def advance(self, task: str, steps: int = 1, **facts: object) -> None:
        """Note the time, and pass it on."""
        if task == TASK:
            self.times += [time.perf_counter()] * steps
            self._progress.advance(task, steps, **facts)

    def finish(self, task: str) -> None:
        """Pass it on."""
        if task == TASK:
            self._progress.finish(task)

    def say(self, message: str) -> None:
        """Keep it: the table says it all."""
