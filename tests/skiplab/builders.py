"""What the lab's tests begin with: tiny trainings, and views."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unetseg.config import NetworkConfig, RuntimeConfig, TrainConfig, TrainingConfig
from unetseg.skiplab.look import View
from unetseg.unet.segmenter import image_statistics


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
