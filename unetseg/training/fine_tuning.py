"""What a network has learned before the training, and how carefully that is moved.

That is a U-Net trained before (`--from`), or a pretrained encoder, which `--encoder auto` looks
for. Such an encoder sees pixels as its weights expect them, rests while the random decoder learns
what to ask for, and then learns at a lower rate.
"""

import math

from unetseg.bundle import starting_network
from unetseg.config import NetworkConfig, TrainConfig
from unetseg.data.facts.survey import Survey
from unetseg.errors import BundleError, ConfigError, MachineError
from unetseg.progress import Progress
from unetseg.runtime import Machine
from unetseg.unet.pretrained import DEPTHS
from unetseg.unet.segmenter import Normalisation
from unetseg.unet.weights import LONGEST_DOWNLOAD, expected_pixels, read_weights, weights_file

ENCODER = {"cpu": "resnet18", "cuda": "resnet34", "mps": "resnet34"}
"""What `--encoder auto` takes: on a CPU a step of resnet18 takes two thirds of one of resnet34."""
DOWNLOAD_SHARE = 0.1
"""Largest share of a budget for downloading its weights."""
ENCODER_LR = 0.1
"""Learning rate of a pretrained encoder, relative to that of the decoder, which begins with nothing
(DeepLab, 1606.00915; DETR, 2005.12872)."""
FREEZE = 0.1
"""Share of a training in which a pretrained encoder rests: the gradient that a random decoder sends
it would spoil what it knows (Kumar 2022, 2202.10054)."""


def starting_config(
    known: Survey,
    config: TrainConfig,
    machine: Machine,
    reasons: dict[str, str],
    progress: Progress,
) -> TrainConfig:
    """`config` with the network that the training starts from; its weights are there.

    Args:
        known: The images.
        config: Whose encoder may be "auto".
        machine: Where it is trained.
        reasons: Gets why the encoder is what it is.
        progress: Hears of a download, and what is missed without pretrained weights.

    Raises:
        BundleError: there is no trained U-Net to start from.
        ConfigError: it does not fit the settings or the images; or there are no such weights.
        MachineError: weights that were asked for could not be downloaded.
    """
    network = config.network
    if config.training.from_ is not None:
        network = starting_network(config.training.from_, network, known.bands)
    elif network.encoder == "auto":
        network, reasons["encoder"] = _choose_encoder(known, config, machine, progress)
    elif network.encoder and network.weights != "none":
        weights_file(network.encoder, network.weights, progress=progress)
    return config.model_copy(update={"network": network})


def with_encoder(config: TrainConfig, chosen: NetworkConfig) -> TrainConfig:
    """`config` with the encoder that was chosen, so that weights are not looked for again."""
    encoder = chosen.model_dump(include={"encoder", "weights"})
    network = config.network.model_copy(update=encoder)
    return config.model_copy(update={"network": network})


def _choose_encoder(
    known: Survey, config: TrainConfig, machine: Machine, progress: Progress
) -> tuple[NetworkConfig, str]:
    """A pretrained encoder where it suits and its weights can be had, else our own; and why."""
    network, kind = config.network, machine.device.type
    name = ENCODER[kind]
    if network.weights not in {"none", "imagenet"}:
        summary = f"--weights {network.weights} needs the name of its encoder, not --encoder auto"
        raise ConfigError(summary, fix=f"Name it, for example --encoder {name}")
    ours = network.model_copy(update={"encoder": None, "weights": "none"})
    shape = (network.preset, network.widths, network.width)
    if shape != ("unet", (), "auto") or network.depth not in {"auto", *DEPTHS}:
        return ours, "our own, whose shape is set"
    if known.bands not in {1, 3}:
        return ours, f"our own: ImageNet's weights are for RGB or grey, not for {known.bands} bands"
    seconds = min(LONGEST_DOWNLOAD, DOWNLOAD_SHARE * (config.training.budget or math.inf))
    try:
        read_weights(weights_file(name, "imagenet", seconds, progress))
    except (MachineError, BundleError) as error:
        why = (
            f"our own: {'; '.join([error.summary, *error.offenders])}. Pretrained weights make a "
            "training shorter and, with few images, better: fetch model.safetensors and "
            f"config.json from https://huggingface.co/smp-hub/{name}.imagenet, and give "
            f"--encoder {name} --weights model.safetensors"
        )
        progress.say(f"encoder: {why}")
        return ours, why
    pretrained = network.model_copy(update={"encoder": name, "weights": "imagenet"})
    return pretrained, f"{name} with ImageNet's weights, what {kind} trains in good time"


def encoder_normalisation(
    known: Survey, network: NetworkConfig
) -> tuple[Normalisation, str] | None:
    """The normalisation that pretrained weights expect; none where they know no such pixels.

    They know 8-bit RGB, and grey. Other pixels are normalised as for our own encoder: to mean 0 and
    deviation 1, as those of the weights were.
    """
    if network.encoder is None or network.weights == "none":
        return None
    expected = expected_pixels(weights_file(network.encoder, network.weights))
    statistics = expected.statistics(known.bands)
    if statistics is None or known.dtype != "uint8":
        return None
    mean, std = statistics
    normalisation = Normalisation(kind="dataset", mean=mean, std=std)
    return normalisation, "of the pixels that the encoder's weights were trained with"


def encoder_lr(network: NetworkConfig) -> tuple[float | None, str]:
    """Learning rate of the encoder, relative to the decoder's, and why; None: the same."""
    if network.weights == "none":
        return None, "nothing is pretrained"
    return ENCODER_LR, "pretrained weights move little (DeepLab, DETR)"


def freeze(network: NetworkConfig) -> tuple[float, str]:
    """Share of the training before the encoder learns, and why."""
    if network.weights == "none":
        return 0.0, "nothing is pretrained"
    return FREEZE, "the random decoder learns first (Kumar 2022)"
