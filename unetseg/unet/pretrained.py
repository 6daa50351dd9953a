"""An encoder of segmentation-models-pytorch (smp) behind the contract of our own.

Its shallowest feature is the image itself, so that the decoder ends at full resolution.
"""

from typing import Any

import torch
from torch import Tensor, nn

from unetseg.errors import BundleError, ConfigError
from unetseg.unet.weights import read_weights, smp_encoder, weights_file

DEPTH = 5
"""Times an smp encoder halves the resolution when nothing else is asked for."""
DEPTHS = (3, 4, 5)
"""Depths that every such encoder is known to work with."""
DECODER_WIDTHS = (16, 32, 64, 128, 256)
"""Channels of the decoder's levels, full resolution first (smp's Unet)."""

_HEADS = ("fc.", "_fc.", "classifier.", "head.", "last_linear.", "linear.")
_PROBE = 64  # pixels: the smallest square that five halvings leave 2×2 of


class Unused(nn.Module):
    """Stands where a stage was that no feature depends on; passes its first argument on."""

    def forward(self, features: Tensor, *_: object) -> Tensor:
        """The features as they came."""
        return features


class PretrainedEncoder(nn.Module):
    """An smp encoder without the parts that its features do not need.

    Args:
        body: Maps an image to its features, the image first.
        bands: Channels of the image.
    """

    def __init__(self, body: nn.Module, bands: int) -> None:
        super().__init__()
        self.body = body
        self.widths = _trim(body, bands)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image N×bands×H×W → features, level l being N×widths[l]×H/2ˡ×W/2ˡ; level 0: the image.

        Height and width must be multiples of 2^depth.
        """
        return list(self.body(image))


def pretrained_encoder(name: str, bands: int, depth: int, weights: str) -> PretrainedEncoder:
    """The smp encoder `name` for any number of bands.

    The first convolution is adapted as smp does: summed for 1 band, repeated cyclically for
    others. A local file may also have been trained with just these bands.

    Args:
        name: Name in smp's own table, for example resnet34.
        bands: Channels of the image.
        depth: Times the resolution is halved, 3 to 5.
        weights: "imagenet" (smp's: from the cache, or downloaded), "none" (touches no network) or a
            local .safetensors or .pth state dict.

    Raises:
        ConfigError: smp has no such encoder or weights, or it does not take these bands.
        MachineError: smp is not installed, or the download failed.
        BundleError: the weights are damaged or belong to another encoder.
    """
    smp_encoder(name)
    from segmentation_models_pytorch.encoders import get_encoder

    body: nn.Module = get_encoder(name, in_channels=3, depth=depth, weights=None)
    if weights == "none":
        _set_bands(body, name, bands, pretrained=False)
    else:
        state = read_weights(weights_file(name, weights))
        if weights == "imagenet":
            body.load_state_dict(state)  # smp's own: in some encoders it renames what the hub has
            _set_bands(body, name, bands, pretrained=True)
        else:
            _load(body, name, state, bands=bands, source=weights)
    return PretrainedEncoder(body, bands)


def _load(body: nn.Module, name: str, state: dict[str, Tensor], *, bands: int, source: str) -> None:
    """Load `state` into a 3-band `body`, adapting the first convolution of either to `bands`."""
    stem = next(
        f"{path}.weight"
        for path, module in body.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3
    )
    fits_bands = bands != 3 and stem in state and state[stem].shape[1:2] == (bands,)
    if fits_bands:
        _set_bands(body, name, bands, pretrained=False)
    given = {key: value for key, value in state.items() if not key.startswith(_HEADS)}
    expected = body.state_dict()
    # old files lack the counters of batches
    needed = [key for key in expected if not key.endswith("num_batches_tracked")]
    offenders = [f"missing: {key}" for key in needed if key not in given]
    offenders += [f"unknown: {key}" for key in given if key not in expected]
    offenders += [
        f"{key}: {tuple(given[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in needed
        if key in given and given[key].shape != expected[key].shape
    ]
    if offenders:
        summary = f"{source} holds no weights of the encoder {name}"
        fix = "Give the weights of this encoder, or name theirs by --encoder."
        raise BundleError(summary, offenders, fix=fix)
    # smp's own load_state_dict would take the head off again and, in some encoders, rename keys
    nn.Module.load_state_dict(body, given, strict=False)
    if not fits_bands:
        _set_bands(body, name, bands, pretrained=True)


def _set_bands(body: Any, name: str, bands: int, *, pretrained: bool) -> None:
    try:
        body.set_in_channels(bands, pretrained=pretrained)
    except ValueError as error:
        raise ConfigError(
            f"the encoder {name} does not take {bands} bands: {error}",
            fix="Choose another, for example --encoder resnet34",
        ) from error


def _trim(body: nn.Module, bands: int) -> tuple[int, ...]:
    """Drop what the features do not depend on and return the channels of the features.

    smp keeps the deepest stages of an encoder that is cut short. They would be saved, and
    distributed training would wait for their gradients.

    Raises:
        ConfigError: the features do not halve the resolution from level to level.
    """
    training = body.training
    named = dict(body.named_parameters())
    with torch.enable_grad():
        probe = torch.zeros(1, bands, _PROBE, _PROBE, device=next(iter(named.values())).device)
        features = body.eval()(probe)
        total = torch.stack([feature.sum() for feature in features]).sum()
        gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    body.train(training)
    if [feature.shape[-1] for feature in features] != [_PROBE >> i for i in range(len(features))]:
        raise ConfigError(
            f"{type(body).__name__} does not halve the resolution from level to level",
            fix="Choose another, for example --encoder resnet34",
        )
    used = {name for name, gradient in zip(named, gradients, strict=True) if gradient is not None}
    dropped: list[str] = []
    for name, module in list(body.named_modules()):
        own = {f"{name}.{key}" for key, _ in module.named_parameters()}
        inside = any(name.startswith(f"{outer}.") for outer in dropped)
        if name and own and not own & used and not inside:
            parent, _, child = name.rpartition(".")
            setattr(body.get_submodule(parent), child, Unused())
            dropped.append(name)
    return tuple(feature.shape[1] for feature in features)
