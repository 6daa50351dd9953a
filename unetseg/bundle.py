"""A trained U-Net on disk: model.safetensors + model.json, complete in itself.

Whoever loads a bundle cannot scale pixels wrongly: the normalisation is part of the `Segmenter`,
which takes raw pixel values. No pickled object and no import path is stored; the network is rebuilt
from the allow-list of `unet/build.py`.
"""

import json
import math
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional as F

from unetseg.config import NetworkConfig
from unetseg.data.masks.class_map import ClassMap
from unetseg.errors import BundleError
from unetseg.runtime import Machine, versions
from unetseg.storage import replace_folder, write_bytes, write_json
from unetseg.unet.build import build_unet
from unetseg.unet.model import Edit, UNet, unchanged

FORMAT: Literal[1] = 1
SMALLEST_DEVIATION = 0.05
"""Deviation that an image is taken to have at least, relative to the data set's."""
LARGEST_JSON = 16 * 2**20
"""Bytes; a model.json beyond that is refused unread."""
LARGEST_WEIGHTS = 16 * 2**30
"""Bytes; weights beyond that are refused unread."""
FEWEST_EQUAL = 0.999
"""Share of pixels that must get the same class in fast arithmetic as in float32."""
LARGEST_DICE_GAP = 0.001
"""Difference of Dice beyond which fast arithmetic is not taken for float32."""


class Normalisation(BaseModel):
    """How pixel values reach the network: (pixel − mean) / std, per band."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dataset", "image"]
    """dataset: mean and std of the training pixels; image: of each whole image, at the time."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _nan_for_null(value: Any) -> Any:
    """JSON has no nan; `storage.json_value` writes null for it."""
    return math.nan if value is None else value


Dice = Annotated[float, BeforeValidator(_nan_for_null)]


class PrecisionVerdict(BaseModel):
    """How far masks in fast arithmetic are those of float32, on validation pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["bfloat16", "float16"]
    """The fast arithmetic."""
    equal_pixels: Annotated[float, Field(ge=0, le=1)]
    """Share of the pixels with data that got the same class in both, 0–1."""
    dice: Dice
    """Mean foreground Dice in fast arithmetic, 0–1; nan where no foreground is."""
    dice_float32: Dice
    """The same in float32."""
    images: Annotated[int, Field(ge=1)]
    """Images, or windows of images, that were compared."""

    @property
    def holds(self) -> bool:
        """Whether fast arithmetic stands for float32: 99.9% equal pixels, Dice within 0.001."""
        without = math.isnan(self.dice) and math.isnan(self.dice_float32)
        near = without or abs(self.dice - self.dice_float32) <= LARGEST_DICE_GAP
        return near and self.equal_pixels >= FEWEST_EQUAL

    @property
    def figures(self) -> str:
        """What was measured, in words, to stand inside a sentence.

        >>> PrecisionVerdict(
        ...     dtype="bfloat16", equal_pixels=0.99937, dice=0.9121, dice_float32=0.912, images=12
        ... ).figures
        '99.937% of the pixels get the same class in bfloat16 as in float32, Dice 0.9121 and 0.9120'
        """
        percent = math.floor(1e5 * self.equal_pixels) / 1e3  # never rounded up to what is wanted
        scores = [f"{d:.4f}" for d in (self.dice, self.dice_float32) if not math.isnan(d)]
        return (
            f"{percent:.3f}% of the pixels get the same class in {self.dtype} as in float32, "
            f"Dice {' and '.join(scores) or 'none'}"
        )

    def judges(self, machine: Machine) -> bool:
        """Whether this is about the arithmetic of `machine`."""
        return str(machine.dtype) == f"torch.{self.dtype}"


class BundleInfo(BaseModel):
    """model.json: everything beside the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    network: NetworkConfig
    bands: int
    dtype: str
    """Pixel type of the training images (numpy name)."""
    class_map: ClassMap
    normalisation: Normalisation
    tile: int
    """Side of the tiles for images larger than that, pixels."""
    overlap: float
    """Share of a tile that its neighbour covers too."""
    data_hash: str = ""
    """Hash over all training pairs."""
    scores: dict[str, Any] = {}
    """Scores at the end of training, with the split they are from."""
    precision: PrecisionVerdict | None = None
    """Whether fast arithmetic stands for float32; None: never compared."""
    versions: dict[str, str] = {}
    weights_sha256: str = ""

    def snapping(self, snap: bool) -> "BundleInfo":
        """The same, with stray mask values taken for the nearest class if `snap` says so too."""
        class_map = self.class_map.model_copy(update={"snap": self.class_map.snap or snap})
        return self.model_copy(update={"class_map": class_map})


class Segmenter(nn.Module):
    """Normalisation + U-Net: raw pixel values in, logits out.

    Args:
        network: The U-Net.
        normalisation: How pixels are scaled; one number per band.
        scale: Size at which the network sees the image, as a fraction.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: UNet, normalisation: Normalisation, scale: float = 1.0) -> None:
        super().__init__()
        self.classes = network.head.out_channels
        self.network = network
        self.per_image = normalisation.kind == "image"
        self.scale = scale
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(normalisation.std).view(1, -1, 1, 1))

    def forward(
        self, image: Tensor, statistics: Tensor | None = None, edit: Edit = unchanged
    ) -> Tensor:
        """Logits N×K×H×W of `image`, float32 or uint8 N×C×H×W, raw pixel values.

        Args:
            image: The pixels.
            statistics: N×2×C mean and deviation of the whole images that `image` is cut from, for
                "image" normalisation; taken from `image` itself when not given.
            edit: Changes the skips on their way to the decoder.
        """
        height, width = image.shape[-2:]
        logits = self.network(self.prepared(image, statistics), edit)
        return self.full_size(logits, height, width)

    def all_logits(self, image: Tensor, statistics: Tensor | None = None) -> list[Tensor]:
        """Logits of every supervised level, the full resolution first."""
        height, width = image.shape[-2:]
        first, *coarser = self.network.all_logits(self.prepared(image, statistics))
        return [self.full_size(first, height, width), *coarser]

    def prepared(self, image: Tensor, statistics: Tensor | None = None) -> Tensor:
        """What the network sees: normalised, scaled, and with the margin it loses added."""
        height, width = image.shape[-2:]
        pixels = self.normalise(image, statistics)
        if self.scale != 1:
            size = [max(1, round(side * self.scale)) for side in (height, width)]
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        margin = self.network.geometry.margin
        if margin:
            mode = "reflect" if margin < min(pixels.shape[-2:]) else "replicate"
            pixels = F.pad(pixels, (margin,) * 4, mode)
        return pixels

    def full_size(self, logits: Tensor, height: int, width: int) -> Tensor:
        """What the network says of the `prepared` image, at the size of the image itself.

        Args:
            logits: N×K×h×w, what `network` gives.
            height: Pixels of the raw image.
            width: Pixels of the raw image.

        Returns:
            N×K×height×width; interpolated in float32 unless the network saw the full size.
        """
        if self.scale == 1:
            return logits
        return F.interpolate(logits.float(), (height, width), mode="bilinear")

    def normalise(self, image: Tensor, statistics: Tensor | None = None) -> Tensor:
        """`image` in float32 with mean 0 and deviation 1, as the network was trained."""
        image = image.float()
        if not self.per_image:
            return (image - self.mean) / self.std
        if statistics is None:
            statistics = image_statistics(image)
        mean, std = statistics[:, 0, :, None, None], statistics[:, 1, :, None, None]
        # A blank image has no deviation of its own; what augmentation adds must not explode.
        return (image - mean) / std.maximum(SMALLEST_DEVIATION * self.std)


def image_statistics(image: Tensor) -> Tensor:
    """N×2×C mean and deviation of every band of N×C×H×W images."""
    flat = image.double().flatten(2)
    return torch.stack([flat.mean(2), flat.std(2, correction=0)], dim=1).float()


def build_segmenter(info: BundleInfo) -> Segmenter:
    """A segmenter with fresh weights."""
    network = build_unet(info.network, info.bands, len(info.class_map.classes))
    return Segmenter(network, info.normalisation, info.network.scale)


def to_machine(segmenter: Segmenter, machine: Machine) -> Segmenter:
    """`segmenter` on the device of `machine`, in the memory layout of fast convolutions."""
    segmenter.to(machine.device)
    for parameter in segmenter.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return segmenter


def save_bundle(folder: Path, weights: dict[str, Tensor], info: BundleInfo) -> None:
    """Write a bundle into `folder`, replacing one that is there, whole or not at all."""
    content = save_tensors({name: tensor.cpu().contiguous() for name, tensor in weights.items()})
    digest = sha256(content).hexdigest()
    complete = info.model_copy(update={"weights_sha256": digest, "versions": versions()})
    with replace_folder(folder) as temporary:
        write_bytes(temporary / "model.safetensors", content)
        write_json(temporary / "model.json", complete.model_dump(mode="json"))


def store_verdict(run: Path, verdict: PrecisionVerdict, weights_sha256: str) -> None:
    """Put a verdict into a bundle that is on disk; only model.json is written, whole or not at all.

    Whoever reads meanwhile finds the bundle as it was or with this verdict. One that was there is
    replaced. Weights saved later by `save_bundle` have the verdict that their own `info` brings.

    Args:
        run: Run folder or bundle folder.
        verdict: What was found.
        weights_sha256: Of the weights it was found with, as `load_bundle` told.

    Raises:
        BundleError: there is no bundle, or it holds other weights by now; nothing is written.
    """
    file = find_bundle(run) / "model.json"
    info = read_info(file)
    if info.weights_sha256 != weights_sha256:
        raise BundleError(f"{file.parent} holds other weights than those that were compared")
    write_json(file, info.model_copy(update={"precision": verdict}).model_dump(mode="json"))


def machine_for(info: BundleInfo, machine: Machine, precision: str) -> tuple[Machine, str]:
    """`machine`, or the same in float32 where the bundle knows that fast arithmetic costs too much.

    Args:
        info: The bundle.
        machine: What `runtime.start` chose.
        precision: The user's `--precision`; only "auto" leaves the choice to the bundle.

    Returns:
        The machine, and a sentence that says why it is another one; "" where it is the same: with
        any other `precision`, a verdict that holds, none, or one about another arithmetic.
    """
    verdict = info.precision
    if precision != "auto" or verdict is None or verdict.holds or not verdict.judges(machine):
        return machine, ""
    short = {"bfloat16": "bf16", "float16": "fp16"}[verdict.dtype]
    why = (
        f"float32 instead of {verdict.dtype}, which is faster: of {verdict.images} validation "
        f"images {verdict.figures}; {FEWEST_EQUAL:.1%} and a difference of at most "
        f"{LARGEST_DICE_GAP:g} are wanted (--precision {short} takes it all the same)"
    )
    return replace(machine, dtype=torch.float32), why


def load_bundle(run: Path) -> tuple[Segmenter, BundleInfo]:
    """The trained U-Net in a run folder or bundle folder, in evaluation mode on the CPU.

    Raises:
        BundleError: there is none, it is damaged, or it is not of this format.
    """
    folder = find_bundle(run)
    info = read_info(folder / "model.json")
    file = folder / "model.safetensors"
    _check_size(file, LARGEST_WEIGHTS)
    content = file.read_bytes()
    if sha256(content).hexdigest() != info.weights_sha256:
        raise BundleError(f"{file} is damaged: its bytes differ from the sum in model.json")
    network = info.network.model_copy(update={"weights": "none"})
    segmenter = build_segmenter(info.model_copy(update={"network": network}))
    try:
        segmenter.load_state_dict(load_tensors(content))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise BundleError(f"{file} does not hold the network of model.json", [error]) from error
    return segmenter.eval(), info


def find_bundle(run: Path) -> Path:
    """The folder with model.json: `run` itself or `run`/model."""
    for folder in (run, run / "model", run / ".model-old"):  # the last after a crash in saving
        if (folder / "model.json").is_file() and (folder / "model.safetensors").is_file():
            return folder
    if run.is_file():
        raise BundleError(
            f"{run} is a file, not a run folder",
            fix="Give the folder that `unetseg train` wrote; foreign checkpoints are not loaded.",
        )
    what = "has no trained model" if run.is_dir() else "does not exist"
    runs = sorted(str(path.parents[1]) for path in run.absolute().parent.glob("*/model/model.json"))
    raise BundleError(f"{run} {what} (model/model.json)", runs, "Give a run folder of `train`.")


def read_info(path: Path) -> BundleInfo:
    """The checked content of a model.json."""
    _check_size(path, LARGEST_JSON)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{path} is no JSON: {error}") from error
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        fix = "Use the unetseg version that wrote it."
        raise BundleError(f"{path} is of format {version!r}, this version reads {FORMAT}", fix=fix)
    try:
        return BundleInfo.model_validate(content)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise BundleError(f"{path} is not a bundle of this version", wrong) from error


def _check_size(path: Path, largest: int) -> None:
    if path.stat().st_size > largest:
        raise BundleError(f"{path} has {path.stat().st_size} bytes; at most {largest} are read")
