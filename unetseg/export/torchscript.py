"""A trained U-Net as a TorchScript file: raw pixels in, probabilities out; `mask` gives the masks.

One tensor comes out of it, because QuPath and others take one alone.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from unetseg.bundle import BundleInfo
from unetseg.prediction.engine import Engine
from unetseg.prediction.exported import Whole
from unetseg.prediction.predictor import Predictor
from unetseg.prediction.recording import EXAMPLE, OnGrid, probe, record
from unetseg.storage import write_bytes
from unetseg.unet.segmenter import SMALLEST_DEVIATION


class WholeNetwork(nn.Module):
    """A segmenter in what TorchScript knows, and what follows it.

    Args:
        engine: The network in float32 on the CPU, its temperature and margin.
        info: What it is.
        network: Images whose sides fit → logits, as TorchScript.
    """

    mean: Tensor
    std: Tensor
    codes: Tensor

    def __init__(self, engine: Engine, info: BundleInfo, network: nn.Module) -> None:
        super().__init__()
        segmenter = engine.segmenter
        geometry, classes = segmenter.network.geometry, info.class_map
        self.network = network
        self.register_buffer("mean", segmenter.mean.clone())
        self.register_buffer("std", segmenter.std.clone())
        codes = np.array([item.code for item in classes.classes], TYPES[classes.dtype])
        self.register_buffer("codes", torch.from_numpy(codes))
        self.per_image, self.scale = segmenter.per_image, segmenter.scale
        self.stride, self.offset, self.pad = geometry.stride, geometry.offset, geometry.margin
        self.smallest = SMALLEST_DEVIATION
        self.temperature, self.margin = engine.temperature, engine.margin

    def logits(self, image: Tensor) -> Tensor:
        """N×K×H×W."""
        height, width = image.size(2), image.size(3)
        mean, std = self.mean, self.std
        if self.per_image:
            wide = image.double()
            mean = wide.mean((2, 3), keepdim=True)
            own = (wide - mean).square().mean((2, 3), keepdim=True).sqrt()
            mean, std = mean.float(), own.float().maximum(self.smallest * std)
        pixels = (image.float() - mean) / std
        if self.scale != 1.0:
            small = [
                max(1, int(round(side * self.scale)))  # noqa: RUF046 (a float in TorchScript)
                for side in (height, width)
            ]
            pixels = F.interpolate(pixels, small, None, "bilinear", None, None, True)
        rows, columns = pixels.size(2), pixels.size(3)
        if self.pad > 0:
            mode = "reflect" if self.pad < min(rows, columns) else "replicate"
            pixels = F.pad(pixels, [self.pad, self.pad, self.pad, self.pad], mode)
        below, right = self.missing(pixels.size(2)), self.missing(pixels.size(3))
        mode = "reflect" if below < pixels.size(2) else "replicate"
        pixels = F.pad(pixels, [0, 0, 0, below], mode)
        mode = "reflect" if right < pixels.size(3) else "replicate"
        pixels = F.pad(pixels, [0, right, 0, 0], mode)
        logits: Tensor = self.network(pixels)[:, :, :rows, :columns]
        if self.scale != 1.0:
            logits = F.interpolate(logits, [height, width], None, "bilinear")
        return logits

    def missing(self, side: int) -> int:
        """Pixels that are missing to a side that fits the network."""
        steps = (side - self.offset + self.stride - 1) // self.stride
        return max(steps, 2) * self.stride + self.offset - side

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities N×K×H×W of raw pixels N×C×H×W."""
        return torch.softmax(self.logits(image) / self.temperature, 1)

    @torch.jit.export
    def mask(self, image: Tensor) -> Tensor:
        """The codes of the masks N×H×W, or N×H×W×3, of raw pixels N×C×H×W."""
        logits = self.logits(image)
        if self.margin != 0.0:
            return self.codes[(logits[:, 1] - logits[:, 0] > self.margin).long()]
        return self.codes[logits.argmax(1)]


TYPES = {"uint8": "uint8", "int16": "int16", "int32": "int32", "uint16": "int32"}
"""In which type codes are looked up; torch does little with uint16."""


def write_torchscript(file: Path, predictor: Predictor, metadata: Mapping[str, str]) -> None:
    """Write a trained U-Net as a TorchScript file, with texts that it holds beside."""
    engine, info = predictor.engine, predictor.info
    network = engine.segmenter.network
    example = probe(network.geometry, info.bands, EXAMPLE)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that TorchScript is no longer worked on
        recording = record(network.on_grid, example)
        module = recording.module() if recording.of_any_size else OnGrid(network)
        traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
        script = torch.jit.script(WholeNetwork(engine, info, traced).eval())
        content = script.save_to_buffer(_extra_files=dict(metadata))  # type: ignore[no-untyped-call]
    write_bytes(file, content)


def run_torchscript(file: Path) -> Whole:
    """What runs the whole of a TorchScript file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def whole(images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        pixels = torch.from_numpy(images.astype(TYPES.get(images.dtype.name, images.dtype)))
        return module.mask(pixels).numpy(), module(pixels).numpy()

    return whole
