"""Survey + machine + settings → every "auto" resolved, each with its reason.

The rules follow nnU-Net (Isensee et al. 2021) where they are about the data, and measured step
times where they are about the machine.
"""

import json
import math
from pathlib import Path
from statistics import median

import numpy as np
from pydantic import BaseModel, ConfigDict

from unetseg.bundle import BundleInfo
from unetseg.config import NetworkConfig, TrainConfig
from unetseg.data.crops.dataset import CropRule
from unetseg.data.facts.fingerprint import PairFacts, pooled
from unetseg.data.facts.orientation import is_upright
from unetseg.data.facts.survey import Survey
from unetseg.data.masks.mask_file import read_mask
from unetseg.runtime import Machine
from unetseg.unet.build import CLASSIC
from unetseg.unet.pretrained import DEPTHS
from unetseg.unet.segmenter import Normalisation

LARGEST_PATCH = {"cpu": 256, "cuda": 512, "mps": 384}
BATCH = {"cpu": 8, "cuda": 16, "mps": 8}
WIDTH = {"cpu": 32, "cuda": 64, "mps": 32}
SMALLEST_BOTTOM = 8
"""Pixels along the bottom of the U that a crop keeps."""
DEEPEST = 5
DEFAULT_STEPS = {"cpu": 1000, "cuda": 8000, "mps": 3000}
MOST_EPOCHS = 300
RARE = 0.1
"""Share of foreground below which crops are centred on it."""
MASKS_LOOKED_AT = 40
"""Masks read to tell whether up is up."""
LARGEST_TILE = 2048
OVERLAP = 0.25
VALIDATION_SHARE = 0.25
"""Largest share of the training's arithmetic that validation may take on top."""
FORWARD_SHARE = 1 / 3
"""Arithmetic of a forward pass, as a share of a training step on the same pixels."""
MOST_VALIDATIONS = 100
WORTH_COMPILING = (2000, 900.0)
"""Steps, and seconds of a budget, from which a GPU makes up for the minutes of compiling."""
ACTIVATION_BYTES = 60
"""Bytes that a training step holds per pixel and channel of the first level, measured, bf16."""


class Plan(BaseModel):
    """The training, with nothing left open."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: NetworkConfig
    bands: int
    normalisation: Normalisation
    patch: int
    batch: int
    lr: float
    oversample: float
    augment: str
    upright: bool
    class_weights: tuple[float, ...] | None
    repeats: tuple[int, ...]
    """Crops of each training image in an epoch."""
    epochs: int | None
    """None: as many as the budget allows."""
    validate_every: int
    """Epochs from one validation to the next."""
    compile: bool = False
    """Whether the training step is compiled."""
    tile: int
    overlap: float
    reasons: dict[str, str]


def read_plan(run: Path) -> Plan:
    """The plan that a run folder holds.

    Raises:
        OSError: there is none.
        ValueError: it is of another version.
    """
    content = json.loads((run / "plan.json").read_bytes())
    content.pop("workers", None)  # earlier versions wrote it
    return Plan.model_validate(content)


def make_plan(known: Survey, config: TrainConfig, machine: Machine) -> Plan:
    """Resolve every "auto" of `config` for this folder and this machine."""
    reasons: dict[str, str] = {}
    train = known.facts_of("train")
    patch = _patch(train, config, machine, reasons)
    network = _network(config, patch, machine, reasons)
    batch = _batch(config, network, patch, machine, reasons)
    repeats = tuple(max(1, round(fact.image.pixels / patch**2)) for fact in train)
    reasons["repeats"] = "one crop per image and epoch, more where an image is larger than a crop"
    steps = -(-sum(repeats) // (batch * config.training.accumulate))
    epochs = _epochs(config, steps, machine, reasons)
    return Plan(
        network=network,
        bands=known.bands,
        normalisation=_normalisation(train, known.bands, reasons),
        patch=patch,
        batch=batch,
        lr=_learning_rate(config, network, reasons),
        oversample=_oversample(known, config, reasons),
        augment=_augment(config, reasons),
        upright=_upright(known, config, reasons),
        class_weights=_class_weights(known, config, reasons),
        repeats=repeats,
        epochs=epochs,
        validate_every=_validate_every(known, config, patch**2 * sum(repeats), reasons),
        compile=_compile(config, epochs and epochs * steps, machine, reasons),
        tile=LARGEST_TILE,
        overlap=OVERLAP,
        reasons=reasons,
    )


def crop_rule(plan: Plan) -> CropRule:
    """How the crops of this training are taken."""
    return CropRule(plan.patch, plan.augment, plan.oversample, plan.upright)


def bundle_info(plan: Plan, known: Survey, data_hash: str) -> BundleInfo:
    """What the bundle of this training will say beside its weights and scores."""
    return BundleInfo(
        network=plan.network,
        bands=plan.bands,
        dtype=known.dtype,
        class_map=known.class_map,
        normalisation=plan.normalisation,
        tile=plan.tile,
        overlap=plan.overlap,
        data_hash=data_hash,
    )


def _patch(
    train: list[PairFacts], config: TrainConfig, machine: Machine, reasons: dict[str, str]
) -> int:
    if config.training.patch != "auto":
        reasons["patch"] = "as set"
        return config.training.patch
    side = median(min(fact.image.shape) for fact in train)
    largest = round(LARGEST_PATCH[machine.device.type] / config.network.scale)
    patch = max(32, min(largest, 32 * math.ceil(side / 32)))
    reasons["patch"] = (
        f"median shorter side is {side:g}, at most {largest} on {machine.device.type}"
    )
    return patch


def _network(
    config: TrainConfig, patch: int, machine: Machine, reasons: dict[str, str]
) -> NetworkConfig:
    network = config.network
    if network.preset == "classic":
        reasons["network"] = "preset classic"
        return network.model_copy(update=CLASSIC)
    found: dict[str, object] = {}
    if network.depth == "auto":
        found["depth"], reasons["depth"] = _depth(network, patch, machine)
    if network.width == "auto" and not (network.encoder or network.widths):
        found["width"] = WIDTH[machine.device.type]
        reasons["width"] = f"what {machine.device.type} trains in good time"
    return network.model_copy(update=found)


def _depth(network: NetworkConfig, patch: int, machine: Machine) -> tuple[int, str]:
    if network.widths:
        return len(network.widths) - 1, "one less than the widths"
    if network.encoder:
        return max(DEPTHS), "the whole encoder"
    fits = int(math.log2(max(2, patch * network.scale / SMALLEST_BOTTOM)))
    reason = f"the bottom keeps at least {SMALLEST_BOTTOM} of {patch} pixels"
    return min(DEEPEST - machine.is_cpu, fits), reason


def _batch(
    config: TrainConfig,
    network: NetworkConfig,
    patch: int,
    machine: Machine,
    reasons: dict[str, str],
) -> int:
    if config.training.batch != "auto":
        reasons["batch"] = "as set"
        return config.training.batch
    width = network.widths[0] if network.widths else WIDTH[machine.device.type]
    width = network.width if isinstance(network.width, int) else width
    crop = patch**2 * network.scale**2 * width * network.blocks_per_level * ACTIVATION_BYTES
    fits = int(machine.free_memory() * 0.6 / crop)
    batch = max(2, min(BATCH[machine.device.type], fits))
    reasons["batch"] = f"{fits} crops fit in 60% of the free memory by estimate"
    return batch


def _normalisation(train: list[PairFacts], bands: int, reasons: dict[str, str]) -> Normalisation:
    """Per image where images differ more between one another than within."""
    over = pooled([fact.image for fact in train], bands)
    std = np.maximum(over["std"], 1e-6)
    means = np.array([np.mean(fact.image.mean) for fact in train])
    within = np.mean([np.mean(fact.image.std) for fact in train])
    ratio = float(means.std() / max(within, 1e-6))
    kind = "image" if ratio > 1 else "dataset"
    reasons["normalisation"] = f"image means vary {ratio:.2f} times the deviation within images"
    return Normalisation(kind=kind, mean=tuple(over["mean"].tolist()), std=tuple(std.tolist()))


def _learning_rate(config: TrainConfig, network: NetworkConfig, reasons: dict[str, str]) -> float:
    if config.training.lr != "auto":
        reasons["lr"] = "as set"
        return config.training.lr
    if config.training.optimizer == "sgd":
        reasons["lr"] = "usual for SGD with momentum (nnU-Net)"
        return 1e-2
    pretrained = bool(network.encoder) and network.weights != "none"
    reasons["lr"] = "pretrained weights move little" if pretrained else "usual for AdamW"
    return 3e-4 if pretrained else 1e-3


def _foreground_shares(known: Survey) -> dict[int, float]:
    pixels = known.class_pixels("train")
    total = max(1, sum(pixels))
    return {index: pixels[index] / total for index in known.class_map.foreground}


def _oversample(known: Survey, config: TrainConfig, reasons: dict[str, str]) -> float:
    if config.training.oversample != "auto":
        reasons["oversample"] = "as set"
        return config.training.oversample
    rarest = min((s for s in _foreground_shares(known).values() if s), default=1.0)
    reasons["oversample"] = f"the rarest class has {rarest:.2%} of the pixels"
    return 1 / 3 if rarest < RARE else 0.0


def _augment(config: TrainConfig, reasons: dict[str, str]) -> str:
    asked = config.training.augment
    reasons["augment"] = "as set" if asked != "auto" else "the full profile suits most images"
    return "full" if asked == "auto" else asked


def _upright(known: Survey, config: TrainConfig, reasons: dict[str, str]) -> bool:
    if config.training.upright != "auto":
        reasons["upright"] = "as set"
        return config.training.upright == "yes"
    train = known.select("train")
    some = train[:: max(1, len(train) // MASKS_LOOKED_AT)]
    small = (pair for pair in some if not known.facts[pair.name].image.is_large)
    paths = (pair.mask for pair in small if pair.mask)
    limit = known.config.max_pixels
    masks = (known.class_map.encode(read_mask(path, limit).pixels) for path in paths)
    found = is_upright(masks, range(len(known.class_map.classes)))
    reasons["upright"] = f"classes {'have' if found else 'have no'} heights of their own"
    return found


def _class_weights(
    known: Survey, config: TrainConfig, reasons: dict[str, str]
) -> tuple[float, ...] | None:
    """√(median frequency / frequency) of each class, within ½–3, for more than two classes."""
    pixels = np.array(known.class_pixels("train"), np.float64)
    if config.training.class_weights == "none" or len(pixels) <= 2:
        reasons["class_weights"] = (
            "none: Dice balances the classes" if len(pixels) <= 2 else "as set"
        )
        return None
    weights = np.sqrt(np.median(pixels[pixels > 0]) / np.maximum(pixels, 1))
    reasons["class_weights"] = "square root of the median frequency over the class's, ½–3"
    return tuple(np.where(pixels > 0, weights.clip(0.5, 3), 1.0).round(3).tolist())


def _epochs(
    config: TrainConfig, steps: int, machine: Machine, reasons: dict[str, str]
) -> int | None:
    if config.training.epochs or config.training.budget:
        reasons["epochs"] = "as set" if config.training.epochs else "what fits in the budget"
        return config.training.epochs
    wanted = DEFAULT_STEPS[machine.device.type]
    reasons["epochs"] = f"about {wanted} steps; use --epochs or --budget to choose"
    return max(10, min(MOST_EPOCHS, math.ceil(wanted / steps)))


def _validate_every(
    known: Survey, config: TrainConfig, epoch_pixels: int, reasons: dict[str, str]
) -> int:
    pixels = sum(fact.image.pixels for fact in known.facts_of("val"))
    every = math.ceil(FORWARD_SHARE * pixels / (VALIDATION_SHARE * epoch_pixels))
    reasons["validate_every"] = f"validation takes at most {VALIDATION_SHARE:.0%} on top"
    return max(every, math.ceil((config.training.epochs or 0) / MOST_VALIDATIONS), 1)


def _compile(
    config: TrainConfig, steps: int | None, machine: Machine, reasons: dict[str, str]
) -> bool:
    """Whether compiling the step pays; never on a CPU, where it was measured not to."""
    if config.runtime.compile != "auto":
        reasons["compile"] = "as set"
        return config.runtime.compile == "yes"
    fewest, shortest = WORTH_COMPILING
    long = (steps or fewest) >= fewest and (config.training.budget or shortest) >= shortest
    if machine.device.type != "cuda" or config.runtime.checkpointing:
        reasons["compile"] = "it pays on CUDA alone, and without checkpointing"
        return False
    reasons["compile"] = f"the training is {'long' if long else 'too short to make up for it'}"
    return long
