"""Survey + machine + settings → every "auto" resolved, each with its reason.

The rules follow nnU-Net (Isensee et al. 2021) where they are about the data, and measured step
times where they are about the machine.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from unetseg.bundle import BundleInfo, KnownValues
from unetseg.config import NetworkConfig, TrainConfig, TrainingConfig
from unetseg.data.crops.dataset import CropRule
from unetseg.data.facts.fingerprint import PairFacts, per_band, pooled
from unetseg.data.facts.survey import Survey
from unetseg.errors import BundleError
from unetseg.progress import SILENT, Progress
from unetseg.runtime import Machine
from unetseg.storage import parse_json
from unetseg.training.fine_tuning import encoder_lr, encoder_normalisation, freeze, starting_config
from unetseg.training.optimizer import MUON_LR
from unetseg.unet.build import CLASSIC
from unetseg.unet.pretrained import DEPTHS
from unetseg.unet.segmenter import Normalisation

T = TypeVar("T")

LARGEST_PATCH = {"cpu": 256, "cuda": 512, "mps": 384}
SMALL_PATCH = 128, 5
"""Side of the crops on a CPU, pixels: many small ones teach more than a few large ones (measured,
docs/accuracy.md); and how many of them a shorter side is at most (a judgement: large images show
large things)."""
BATCH = {"cpu": 8, "cuda": 16, "mps": 8}
WIDTH = {"cpu": 32, "cuda": 64, "mps": 32}
SMALLEST_BOTTOM = 8
"""Pixels along the bottom of the U that a crop keeps."""
DEEPEST = 5
DEFAULT_STEPS = {"cpu": 3000, "cuda": 8000, "mps": 3000}
MOST_EPOCHS = 300
RARE = 0.1
"""Share of foreground below which crops are centred on it."""
LARGEST_TILE = 2048
OVERLAP = 0.25
VALIDATION_SHARE = 0.25
"""Largest share of the training's arithmetic that validation may take on top."""
FORWARD_SHARE = 1 / 3
"""Arithmetic of a forward pass, as a share of a training step on the same pixels."""
MOST_VALIDATIONS = 100
"""Where no budget ends the training."""
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
    parts: int = 1
    """Parts that a batch goes through the network in, since memory ran out for more at once."""
    optimizer: str = "adamw"  # as in earlier versions, which wrote none
    lr: float
    encoder_lr: float | None = None
    """Learning rate of the encoder, relative to `lr`; None: the same."""
    freeze: float = 0.0
    """Share of the training before the encoder learns."""
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
        BundleError: there is none, or it is of another version.
    """
    try:
        content = parse_json((run / "plan.json").read_bytes())
        content.pop("workers", None)  # earlier versions wrote it
        return Plan.model_validate(content)
    except (OSError, ValueError, AttributeError) as error:
        raise BundleError(
            f"{run} has no plan.json that can be read", [error], "Train anew."
        ) from error


def make_plan(
    known: Survey, config: TrainConfig, machine: Machine, progress: Progress = SILENT
) -> Plan:
    """Resolve every "auto" of `config` for this folder and this machine.

    Raises:
        BundleError: there is no trained U-Net to start from.
        ConfigError: it does not fit the settings or the images.
        MachineError: weights that were asked for could not be downloaded.
    """
    training, runtime, reasons = config.training, config.runtime, dict[str, str]()
    config = starting_config(known, config, machine, reasons, progress)

    def settle(name: str, asked: Any, rule: Callable[[], tuple[T, str]]) -> T:
        """What was asked for, or what the rule gives where that is "auto"."""
        value, reasons[name] = rule() if asked == "auto" else (asked, "as set")
        return value

    train = known.facts_of("train")
    patch = settle("patch", training.patch, lambda: _patch(train, config.network, machine))
    network = _network(config.network, patch, machine, reasons)
    batch = settle("batch", training.batch, lambda: _batch(network, patch, machine))
    repeats = crops_of(train, patch)
    reasons["repeats"] = "one crop per image and epoch, more where an image is larger than a crop"
    steps = -(-sum(repeats) // (batch * training.accumulate))
    epochs = settle(
        "epochs", training.epochs or "auto", lambda: _epochs(training.budget, steps, machine)
    )
    upright, compiled = map(_switch, (training.upright, runtime.compile))
    weights = None if training.class_weights == "none" else "auto"
    optimizer = settle("optimizer", training.optimizer, lambda: _optimizer(training, network))
    return Plan(
        network=network,
        bands=known.bands,
        normalisation=settle("normalisation", "auto", lambda: _scaling(known, network, training)),
        patch=patch,
        batch=batch,
        optimizer=optimizer,
        lr=settle("lr", training.lr, lambda: _learning_rate(training, optimizer)),
        encoder_lr=settle("encoder_lr", training.encoder_lr, lambda: encoder_lr(network)),
        freeze=settle("freeze", training.freeze, lambda: freeze(network)),
        oversample=settle("oversample", training.oversample, lambda: _oversample(known)),
        augment=settle("augment", training.augment, lambda: ("full", "suits most images")),
        upright=settle("upright", upright, lambda: _upright(known)),
        class_weights=settle("class_weights", weights, lambda: _class_weights(known)),
        repeats=repeats,
        epochs=epochs,
        validate_every=settle(
            "validate_every", "auto", lambda: _validate_every(known, epochs, patch, repeats)
        ),
        compile=settle(
            "compile", compiled, lambda: _compile(config, epochs and epochs * steps, machine)
        ),
        tile=LARGEST_TILE,
        overlap=OVERLAP,
        reasons=reasons,
    )


def crops_of(images: Sequence[PairFacts], patch: int) -> tuple[int, ...]:
    """Crops of each image in an epoch: one, and more where an image is larger than a crop."""
    return tuple(max(1, round(fact.image.pixels / patch**2)) for fact in images)


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
        values=known_values(known),
    )


def known_values(known: Survey) -> KnownValues:
    """Of the training images that show something."""
    every = [fact.image for fact in known.facts_of("train")]
    images = [image for image in every if image.with_data] or every
    low, high = (per_band(images, name, known.bands) for name in ("low", "high"))
    shown = (low < high).any(axis=1) | bool((low == high).all())
    largest = np.maximum(np.abs(low), np.abs(high))[shown]
    return KnownValues(
        low=tuple(low.min(0).tolist()),
        high=tuple(high.max(0).tolist()),
        smallest=tuple(largest.min(0).tolist()),
        scalings=tuple(sorted({image.scaling for image in images})),
    )


def _switch(asked: str) -> str | bool:
    """Whether "yes" was asked for; "auto" stays as it is."""
    return asked if asked == "auto" else asked == "yes"


def _patch(train: list[PairFacts], network: NetworkConfig, machine: Machine) -> tuple[int, str]:
    kind, side = machine.device.type, median(min(fact.image.shape) for fact in train)
    largest = round(LARGEST_PATCH[kind] / network.scale)
    wanted, why = side, f"at most {largest} on {kind}"
    if machine.is_cpu and network.preset != "classic":  # whose margins would be most of a crop
        small, parts = SMALL_PATCH
        bottom = SMALLEST_BOTTOM * 2 ** _halvings(network)
        enough = max(side / parts, max(small, bottom) / network.scale)
        if enough < min(side, largest):
            wanted, why = enough, "of which many small crops teach more"
    patch = max(32, min(largest, 32 * math.ceil(wanted / 32)))
    return patch, f"median shorter side is {side:g}, {why}"


def _halvings(network: NetworkConfig) -> int:
    """How often a network that is set, or that of an encoder, halves the resolution; else 0.

    Widths or kinds of skip set it too, where there is one for each level.
    """
    if network.widths:
        return len(network.widths) - 1
    if network.depth != "auto":
        return network.depth
    if len(network.skip) > 1:
        return len(network.skip)
    return max(DEPTHS) if network.encoder else 0


def _network(
    network: NetworkConfig, patch: int, machine: Machine, reasons: dict[str, str]
) -> NetworkConfig:
    if network.preset == "classic":
        reasons["network"] = "preset classic"
        left_open = NetworkConfig()  # what was set otherwise stays, and is refused by `build_unet`
        names = [name for name in CLASSIC if getattr(network, name) == getattr(left_open, name)]
        return network.model_copy(update={name: CLASSIC[name] for name in names})
    numbers: dict[str, int] = {}
    if network.depth == "auto":
        numbers["depth"], reasons["depth"] = _depth(network, patch, machine)
    if network.width == "auto" and not (network.encoder or network.widths):
        numbers["width"] = WIDTH[machine.device.type]
        reasons["width"] = f"what {machine.device.type} trains in good time"
    return network.model_copy(update=numbers)


def _depth(network: NetworkConfig, patch: int, machine: Machine) -> tuple[int, str]:
    if halvings := _halvings(network):
        kinds = "one for each kind of skip" if len(network.skip) > 1 else "the whole encoder"
        return halvings, "one less than the widths" if network.widths else kinds
    fits = int(math.log2(max(2, patch * network.scale / SMALLEST_BOTTOM)))
    reason = f"the bottom keeps at least {SMALLEST_BOTTOM} of {patch} pixels"
    return min(DEEPEST - machine.is_cpu, fits), reason


def _batch(network: NetworkConfig, patch: int, machine: Machine) -> tuple[int, str]:
    width = max(1, network.widths[0]) if network.widths else WIDTH[machine.device.type]
    width = network.width if isinstance(network.width, int) else width
    crop = patch**2 * network.scale**2 * width * network.blocks_per_level * ACTIVATION_BYTES
    fits = int(machine.free_memory() * 0.6 / crop)
    reason = f"{fits} crops fit in 60% of the free memory by estimate"
    least = max(2, machine.group.size)
    return max(least, min(BATCH[machine.device.type], fits)), reason


def _scaling(
    known: Survey, network: NetworkConfig, training: TrainingConfig
) -> tuple[Normalisation, str]:
    """The encoder's own; else per image where images differ more than the pixels within them."""
    is_asked = training.normalisation == "image"  # "dataset" may be what a first fold has chosen
    fixed = None if is_asked else encoder_normalisation(known, network)
    if fixed is not None:
        return fixed
    images = [fact.image for fact in known.facts_of("train")]
    over = pooled(images, known.bands)
    std = np.maximum(over["std"], 1e-6)
    images = [image for image in images if image.with_data] or images
    means = np.array([np.mean(image.mean) for image in images])
    within = np.mean([np.mean(image.std) for image in images])
    ratio = float(means.std() / max(within, 1e-6))
    found: Literal["dataset", "image"] = "image" if ratio > 1 else "dataset"
    normalisation = Normalisation(
        kind=found if training.normalisation == "auto" else training.normalisation,
        mean=tuple(over["mean"].tolist()),
        std=tuple(std.tolist()),
    )
    if training.normalisation != "auto":
        return normalisation, "as set"
    return normalisation, f"image means vary {ratio:.2f} times the deviation within images"


def _optimizer(training: TrainingConfig, network: NetworkConfig) -> tuple[str, str]:
    if training.from_ is not None or (network.encoder and network.weights != "none"):
        return "adamw", "trained weights move little"
    return "muon", "learns more in as many steps (measured)"


def _learning_rate(training: TrainingConfig, optimizer: str) -> tuple[float, str]:
    if optimizer == "sgd":
        return 1e-2, "usual for SGD with momentum (nnU-Net)"
    if training.from_ is not None:
        return 3e-4, "trained weights move little"
    muon = f"; Muon's is {MUON_LR:g} times that" if optimizer == "muon" else ""
    return 1e-3, f"usual for AdamW{muon}"


def _oversample(known: Survey) -> tuple[float, str]:
    pixels = known.class_pixels("train")
    shares = [pixels[index] / max(1, sum(pixels)) for index in known.class_map.foreground]
    rarest = min((share for share in shares if share), default=1.0)
    reason = f"the rarest class has {rarest:.2%} of the pixels"
    return 1 / 3 if rarest < RARE else 0.0, reason


def _upright(known: Survey) -> tuple[bool, str]:
    return known.upright, f"classes {'have' if known.upright else 'have no'} heights of their own"


def _class_weights(known: Survey) -> tuple[tuple[float, ...] | None, str]:
    """√(median frequency / frequency) of each class, within ½–3, for more than two classes."""
    pixels = np.array(known.class_pixels("train"), np.float64)
    if len(pixels) <= 2:
        return None, "none: Dice balances the classes"
    weights = np.sqrt(np.median(pixels[pixels > 0]) / np.maximum(pixels, 1))
    reason = "square root of the median frequency over the class's, ½–3"
    return tuple(np.where(pixels > 0, weights.clip(0.5, 3), 1.0).round(3).tolist()), reason


def _epochs(budget: float | None, steps: int, machine: Machine) -> tuple[int | None, str]:
    if budget:
        return None, "what fits in the budget"
    wanted = DEFAULT_STEPS[machine.device.type]
    epochs = max(10, min(MOST_EPOCHS, math.ceil(wanted / steps)))
    return epochs, f"{epochs * steps} steps; use --epochs or --budget to choose"


def _validate_every(
    known: Survey, epochs: int | None, patch: int, repeats: tuple[int, ...]
) -> tuple[int, str]:
    pixels = sum(fact.image.pixels for fact in known.facts_of("val"))
    epoch = patch**2 * sum(repeats)
    every = math.ceil(FORWARD_SHARE * pixels / (VALIDATION_SHARE * epoch))
    reason = f"validation takes at most {VALIDATION_SHARE:.0%} on top"
    return max(every, math.ceil((epochs or 0) / MOST_VALIDATIONS), 1), reason


def _compile(config: TrainConfig, steps: int | None, machine: Machine) -> tuple[bool, str]:
    """Whether compiling the step pays; never on a CPU, where it was measured not to."""
    if machine.device.type != "cuda" or config.runtime.checkpointing:
        return False, "it pays on CUDA alone, and without checkpointing"
    fewest, shortest = WORTH_COMPILING
    long = (steps or fewest) >= fewest and (config.training.budget or shortest) >= shortest
    return long, f"the training is {'long' if long else 'too short to make up for it'}"
