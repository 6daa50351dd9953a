"""Small models behind HTTP, asked within this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from starlette.testclient import TestClient

from tests.builders import blotches, bundle_info, save_run
from unetseg.config import DeviceConfig, ServeConfig, TilingConfig
from unetseg.data.files.pngs import write_png
from unetseg.prediction.predictor import Predictor
from unetseg.serving.model_server import model_app

CPU = DeviceConfig(device="cpu", precision="float32")
LOCAL = "http://127.0.0.1"


class Cells(NamedTuple):
    """A model of two classes, and a client of its server."""

    run: Path
    predictor: Predictor
    client: TestClient


@contextmanager
def asked(run: Path, **settings: Any) -> Iterator[TestClient]:
    """A client of the server of a run."""
    config = ServeConfig.model_validate(settings)
    app, _ = model_app(run, config, TilingConfig(), CPU, config.token)
    with TestClient(app, base_url=LOCAL) as client:
        yield client


def model(folder: Path, **info: Any) -> tuple[Path, Predictor]:
    """A run called `cells` of random weights, and the model as Python has it."""
    run = save_run(folder / "cells", bundle_info(**info))
    return run, Predictor(run, device=CPU)


def image_file(path: Path, height: int = 40, width: int = 56, seed: int = 0) -> Path:
    """A blotched PNG."""
    write_png(path, blotches(height, width, seed=seed))
    return path


def as_array(content: bytes) -> Any:
    """The pixels of an image file."""
    import cv2

    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
