"""The process that predicts suspect images one by one; see `alone`.

Its standard input brings one line, what to do, and ends with the process that started it; then it
ends too. Its standard output tells the number of each image that it begins.
"""

import json
import os
import sys
from pathlib import Path
from threading import Thread
from typing import Any

from unetseg.config import DeviceConfig, PredictConfig, with_flags
from unetseg.errors import UnetsegError
from unetseg.prediction.outputs import Job, plan_job
from unetseg.prediction.predict import Prediction, manifest_of, predict_images
from unetseg.prediction.predictor import Predictor


def main() -> None:
    """Do what the line says."""
    order = json.loads(sys.stdin.buffer.readline())
    Thread(target=_end_with_parent, daemon=True).start()
    channel = os.dup(1)
    os.dup2(2, 1)  # what libraries print is not for the process that listens
    try:
        _predict(order, channel)
    except UnetsegError as error:
        _tell(channel, str(error))


def _predict(order: dict[str, Any], channel: int) -> None:
    config, device = with_flags(order["flags"], PredictConfig(), DeviceConfig())
    run, output = Path(order["run"]), Path(order["output"])
    predictor = Predictor(run, config, device)
    predictor.engine.pixels = order["pixels"]
    manifest = manifest_of(run, output, predictor, config, device)
    for number, (image, mask, suffix) in enumerate(order["jobs"]):
        _tell(channel, number)
        job = Job(Path(image), Path(mask))
        manifest.begin(job, alone=True)
        stem = Path(mask.removesuffix(suffix))
        job = plan_job(job.image, stem, predictor.info.class_map, config.max_pixels)
        predict_images(predictor, [job], config, Prediction(manifest=manifest))


def _tell(channel: int, what: object) -> None:
    os.write(channel, f"{json.dumps(what)}\n".encode())


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)
