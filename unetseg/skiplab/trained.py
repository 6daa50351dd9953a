"""What the lab looks at: a trained U-Net, and images with their truth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetseg.bundle import BundleInfo, load_bundle
from unetseg.config import DeviceConfig, PairsConfig, SubjectConfig
from unetseg.data.crops.crop import crop
from unetseg.data.pairs.dataset_yaml import find_described
from unetseg.data.pairs.match import Pair
from unetseg.errors import DataError, UnetsegError
from unetseg.evaluation.evaluate import choose_pairs, read_truth, run_folder
from unetseg.prediction.engine import machine_for
from unetseg.prediction.pipeline import read_ahead
from unetseg.progress import SILENT, Progress
from unetseg.runtime import Machine, start
from unetseg.text import plural
from unetseg.unet.segmenter import Segmenter, image_statistics, to_machine


@dataclass(frozen=True)
class View:
    """One image as the network is shown it, and its truth."""

    name: str
    image: NDArray[Any]
    """H×W×C, raw pixel values."""
    truth: NDArray[np.uint8]
    """H×W class indexes; 255 is ignored."""
    statistics: Tensor
    """1×2×C mean and deviation of the whole image, of which `image` may be a part."""

    @property
    def tensor(self) -> Tensor:
        """1×C×H×W float32, raw pixel values."""
        return _tensor(self.image)


@dataclass(frozen=True)
class Subject:
    """A trained U-Net in evaluation mode on its machine, and the images it is looked at with."""

    run: Path
    """The run folder."""
    segmenter: Segmenter
    info: BundleInfo
    machine: Machine
    split: str
    views: tuple[View, ...]


def open_subject(
    run: Path,
    data: Path,
    config: SubjectConfig,
    pairs: PairsConfig | None = None,
    device: DeviceConfig | None = None,
    *,
    progress: Progress = SILENT,
) -> Subject:
    """Load a trained U-Net and the images of `data` that `config` chooses.

    Raises:
        DataError: pairs that cannot be read or do not fit the model, all of them.
        BundleError: there is no usable model.
    """
    device = device or DeviceConfig()
    segmenter, info = load_bundle(run)
    machine, remark = machine_for(info, start(device), device.precision)
    found, source = find_described(data, pairs or PairsConfig())
    info = info.snapping(source.snap)
    split, chosen = choose_pairs(found, run_folder(run), config.split)
    by_image = {pair.image: pair for pair in chosen[: config.images_used]}
    why = f"; {remark}" if remark else ""
    progress.say(f"{plural(len(by_image), 'image')} of split {split} on {machine}{why}")
    failures: list[str] = []

    def read(pair: Pair) -> View:
        return _view(pair.name, *read_truth(pair, info, source.max_pixels), config.window)

    def refuse(_pair: Pair, error: UnetsegError) -> None:
        failures.append(error.summary)

    views = list(read_ahead(by_image.values(), read, refuse=refuse))
    if failures:
        fix = "Replace these files, or leave them out."
        raise DataError(f"{len(failures)} of {len(by_image)} pairs do not fit", failures, fix)
    moved = to_machine(segmenter, machine)
    return Subject(run_folder(run), moved, info, machine, split, tuple(views))


def _view(name: str, image: NDArray[Any], truth: NDArray[np.uint8], side: int) -> View:
    """The middle of an image, at most `side` pixels high and wide."""
    statistics = image_statistics(_tensor(image))
    height, width = (min(side, length) for length in truth.shape)
    top, left = (truth.shape[0] - height) // 2, (truth.shape[1] - width) // 2
    part = np.s_[top : top + height, left : left + width]
    return View(name, image[part], truth[part], statistics)


def fitted(view: View, height: int, width: int) -> Tensor:
    """The image of `view` as 1×C×height×width: its middle, continued by mirroring if smaller."""
    side = max(height, width)
    centre = (view.truth.shape[0] // 2, view.truth.shape[1] // 2)
    square = crop(view.image, centre, side)
    top, left = side // 2 - height // 2, side // 2 - width // 2
    return _tensor(square[top : top + height, left : left + width])


def _tensor(image: NDArray[Any]) -> Tensor:
    array = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
    return torch.from_numpy(array)[None]  # 1, C, H, W
