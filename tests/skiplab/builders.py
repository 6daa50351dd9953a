"""What the lab's tests begin with: tiny trainings, views, an ear for what is said."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unetseg.config import NetworkConfig, RuntimeConfig, TrainConfig, TrainingConfig
from unetseg.progress import Silent
from unetseg.runtime import Machine
from unetseg.skiplab.look import View
from unetseg.unet.segmenter import image_statistics

CPU = Machine(torch.device("cpu"), torch.float32, "CPU")


def tiny(network: dict[str, Any] | None = None, **training: Any) -> TrainConfig:
    """Settings under which a training takes a fraction of a second."""
    return TrainConfig(
        network=NetworkConfig.model_validate({"depth": 2, "width": 4} | (network or {})),
        training=TrainingConfig.model_validate({"epochs": 1, "batch": 2, "patch": 32} | training),
        runtime=RuntimeConfig(device="cpu", precision="float32", workers=0),
    )


def view_of(image: NDArray[Any], truth: NDArray[np.uint8] | None = None, name: str = "v") -> View:
    """A view of an image H×W×C; without truth, all is background."""
    tensor = torch.from_numpy(image.astype(np.float32).transpose(2, 0, 1))[None]
    truth = np.zeros(image.shape[:2], np.uint8) if truth is None else truth
    return View(name, image, truth, image_statistics(tensor))


class Listener(Silent):
    """Keeps what is said, and counts the steps that are announced and done."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.total = self.done = 0

    def say(self, message: str) -> None:
        """Keep the message."""
        self.said.append(message)

    def start(self, task: str, total: int | None = None) -> None:
        """Add what is announced."""
        self.total += total or 0

    def advance(self, task: str, steps: int = 1, **facts: object) -> None:
        """Add what is done."""
        self.done += steps
