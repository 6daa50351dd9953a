"""How fast this machine is with a U-Net: engines, prediction, training, and what bounds them."""

import platform
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from unetseg.config import NetworkConfig, RuntimeConfig
from unetseg.errors import ConfigError
from unetseg.prediction.engine import fitting_batch
from unetseg.progress import SILENT, Progress
from unetseg.runtime import dtype_name, usable_cores, versions
from unetseg.speed.advice import advise
from unetseg.speed.ceiling import copy_bandwidth
from unetseg.speed.network import (
    ENGINES,
    QUICK,
    Comparison,
    Model,
    compare_engines,
    describe_model,
)
from unetseg.speed.settings import BenchConfig
from unetseg.speed.stages import PredictionSpeed, measure_prediction
from unetseg.speed.subject import Subject, open_subject
from unetseg.speed.training import TrainingSpeed, measure_training

FORMAT = 1
"""Version of the JSON."""
TRAINING, PREDICTION = 0.5, 0.4
"""Shares of the time: training's of all, and prediction's of what training leaves."""


@dataclass(frozen=True)
class Benchmark:
    """What was measured, and what follows from it."""

    machine: str
    processor: str
    dtype: str
    """The arithmetic of the network."""
    copy_gigabytes: float
    """That a copy in memory reads and writes, per second."""
    model: Model
    compared: Comparison
    prediction: PredictionSpeed
    training: TrainingSpeed | None
    advice: tuple[str, ...]
    seconds: float
    """That all of it took."""

    def to_json(self) -> dict[str, Any]:
        """Everything, with the versions of the packages."""
        compared = self.compared
        return {
            "format": FORMAT,
            "machine": {
                "name": self.machine,
                "processor": self.processor,
                "cores": usable_cores(),
                "dtype": self.dtype,
                "copy_gigabytes_per_second": self.copy_gigabytes,
                "ceilings": [asdict(ceiling) for ceiling in compared.ceilings],
                "versions": versions(),
            },
            "model": asdict(self.model),
            "engines": [speed.to_json() for speed in compared.engines],
            "refused": compared.refused,
            "prediction": self.prediction.to_json(),
            "training": self.training.to_json() if self.training else None,
            "advice": list(self.advice),
            "seconds": self.seconds,
        }


def bench(
    run: Path | None = None,
    config: BenchConfig | None = None,
    *,
    network: NetworkConfig | None = None,
    runtime: RuntimeConfig | None = None,
    progress: Progress = SILENT,
) -> Benchmark:
    """Measure how fast this machine predicts, and if wanted trains, and say what bounds it.

    Args:
        run: A trained U-Net; without one, the network that training would choose here.
        config: What is measured.
        network: The U-Net where there is no run.
        runtime: Device, arithmetic, engine; and how training loads.
        progress: Hears what is done.

    Raises:
        ConfigError: settings contradict each other.
        BundleError: `run` holds no model.
        DataError: the images cannot be used.
    """
    config, runtime = config or BenchConfig(), runtime or RuntimeConfig()
    if run is not None and network is not None and network.model_fields_set:
        given = sorted(f"--{name}" for name in network.model_fields_set)
        raise ConfigError(f"{run} brings its own network; these are for none", given)
    with TemporaryDirectory(prefix="unetseg-bench-") as folder:
        network = network or NetworkConfig()
        subject = open_subject(run, config, network, runtime, Path(folder))
        return _measured(subject, config, runtime, Path(folder), progress)


def _measured(
    subject: Subject,
    config: BenchConfig,
    runtime: RuntimeConfig,
    folder: Path,
    progress: Progress,
) -> Benchmark:
    """Measure the network, the prediction and the training, one after the other."""
    began = time.perf_counter()
    machine = subject.machine
    rest = config.seconds * (1 - TRAINING if config.train else 1)
    model = describe_model(subject.info, subject.side)
    compared = compare_engines(
        subject,
        engine_names(config.engines, runtime.engine),
        config.batch or fitting_batch(machine, subject.side, subject.side),
        model,
        seconds=rest * (1 - PREDICTION),
        progress=progress,
    )
    prediction = measure_prediction(
        subject,
        runtime,
        folder / "masks",
        model.gflop_per_pixel,
        seconds=rest * PREDICTION,
        progress=progress,
    )
    wanted, training = config.seconds * TRAINING, None
    if config.train:
        training = measure_training(subject.training, seconds=wanted, progress=progress)
    return Benchmark(
        machine=machine.name,
        processor=processor(),
        dtype=dtype_name(machine.dtype),
        copy_gigabytes=copy_bandwidth(machine.device),
        model=model,
        compared=compared,
        prediction=prediction,
        training=training,
        advice=advise(machine, subject.why, compared, prediction, training),
        seconds=time.perf_counter() - began,
    )


def engine_names(asked: Sequence[str], engine: str = "auto") -> list[str]:
    """The engines that are compared, each once: what was asked for, and the one that is set.

    >>> engine_names(["auto"], "compile")
    ['eager', 'fused', 'compile']
    """
    groups = {"auto": QUICK, "all": ENGINES}
    names = [name for group in asked for name in groups.get(group, (group,))]
    return list(dict.fromkeys(names if engine == "auto" else [*names, engine]))


def processor() -> str:
    """What the processor calls itself."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()
