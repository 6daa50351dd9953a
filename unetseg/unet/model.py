"""UNet, and the one function that builds it from NetworkConfig."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from unetseg.config import NetworkConfig
from unetseg.errors import ConfigError
from unetseg.unet.blocks import (
    PlainBlock,
    ResidualBlock,
    group_norm,
    he_initialise,
    instance_norm,
    no_norm,
)
from unetseg.unet.decoder import BilinearUp, Decoder, Step, TransposeUp
from unetseg.unet.encoder import Encoder, MakeBlock
from unetseg.unet.pretrained import (
    DECODER_WIDTHS,
    DEPTH,
    DEPTHS,
    PretrainedEncoder,
    pretrained_encoder,
)
from unetseg.unet.shortcuts import Norm
from unetseg.unet.skips import Add, Concat, NoSkip

Edit = Callable[[list[Tensor]], list[Tensor]]
"""Changes the skips, full resolution first, on their way from the encoder to the decoder."""

# The allow-list: a network is built of these kinds and no others.
BLOCKS: dict[str, type[PlainBlock | ResidualBlock]] = {
    "plain": PlainBlock,
    "residual": ResidualBlock,
}
SKIPS: dict[str, type[Concat | Add | NoSkip]] = {"concat": Concat, "add": Add, "none": NoSkip}
NORMS: dict[str, Norm] = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
    "instance": instance_norm,
    "none": no_norm,
}
UPS: dict[str, type[TransposeUp | BilinearUp]] = {
    "transpose": TransposeUp,
    "bilinear": BilinearUp,
}

# Ronneberger 2015 (1505.04597), exactly.
CLASSIC: dict[str, object] = {
    "depth": 4,
    "width": 64,
    "widths": (),
    "block": "plain",
    "skip": ("concat",),
    "norm": "none",
    "up": "transpose",
    "padding": "valid",
    "deep_supervision": False,
    "encoder": None,
    "weights": "none",
}


@dataclass(frozen=True)
class Geometry:
    """Which sides a network can work on, and what it loses of them. All in pixels.

    Sides of `offset` + k·`stride` come out whole, k being at least 2: the bottom of the U is never
    1×1, of which batch and instance norms could take no statistics.

    Args:
        depth: Times the resolution is halved.
        valid: Whether the 3×3 convolutions are without padding.
    """

    depth: int
    valid: bool = False

    @property
    def stride(self) -> int:
        """Side of the square of the image that one pixel of the bottom stands for."""
        return 1 << self.depth

    @property
    def offset(self) -> int:
        """What valid convolutions take off a side on the way down, before the bottom."""
        return 4 * (self.stride - 1) if self.valid else 0

    @property
    def margin(self) -> int:
        """Pixels that the logits lack on each side of the image: 0, or 92 for the classic."""
        return 6 * self.stride - 4 if self.valid else 0

    def fitting(self, side: int) -> int:
        """The smallest side, at least `side`, that the network can work on."""
        steps = -(-(side - self.offset) // self.stride)
        return max(steps, 2) * self.stride + self.offset


def unchanged(skips: list[Tensor]) -> list[Tensor]:
    """The skips as they came."""
    return skips


class UNet(nn.Module):
    """The U-Net: image → logits, of any size.

    The image is continued to a side that the network can work on, to the right and below: by its
    mirror image where that is large enough, else by its border. The logits are cropped to match.

    Args:
        encoder: Maps an image to features, full resolution first.
        decoder: Maps the bottom and the skips to features of full resolution.
        classes: Number of classes K.
        geometry: The sides that encoder and decoder can work on.
        deep_supervision: Whether the coarser levels of the decoder have heads, for training.
    """

    def __init__(
        self,
        encoder: Encoder | PretrainedEncoder,
        decoder: Decoder,
        classes: int,
        *,
        geometry: Geometry,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.geometry = geometry
        self.head = nn.Conv2d(decoder.widths[0], classes, 1)
        coarser = decoder.widths[1:] if deep_supervision else ()
        self.coarse_heads = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in coarser)

    def forward(self, image: Tensor, edit: Edit = unchanged) -> Tensor:
        """Logits N×K×H×W of an image N×C×H×W; valid convolutions lose `geometry.margin` per side.

        Args:
            image: Normalised pixels, of any height and width.
            edit: Changes the skips on their way to the decoder.

        Raises:
            ConfigError: valid convolutions leave nothing of so small an image.
        """
        features = self.encoder(self._continued(image))
        *skips, bottom = features
        logits = self.head(self.decoder(bottom, edit(skips)))
        return self._cropped(logits, image)

    def all_logits(self, image: Tensor) -> list[Tensor]:
        """Logits of every level with a head: N×K×H×W, then N×K×⌈H/2⌉×⌈W/2⌉ and so on.

        Pixel (y, x) of level l stands for the square of 2ˡ pixels from (2ˡ·y, 2ˡ·x). Without deep
        supervision there is one level: what `forward` returns.
        """
        *skips, bottom = self.encoder(self._continued(image))
        heads = [self.head, *self.coarse_heads]
        levels = self.decoder.levels(bottom, skips)[: len(heads)]
        logits = [head(features) for head, features in zip(heads, levels, strict=True)]
        return [self._cropped(each, image, 1 << level) for level, each in enumerate(logits)]

    def _continued(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if min(height, width) <= 2 * self.geometry.margin:
            least = 2 * self.geometry.margin + 1
            raise ConfigError(
                f"an image of {height}×{width} pixels is too small for valid convolutions, "
                f"which take at least {least}×{least}",
                mend="Use --padding same and preset unet, or larger images.",
            )
        below = self.geometry.fitting(height) - height
        right = self.geometry.fitting(width) - width
        if below:
            image = functional.pad(image, (0, 0, 0, below), _mode(below, height))
        if right:
            image = functional.pad(image, (0, right, 0, 0), _mode(right, width))
        return image

    def _cropped(self, logits: Tensor, image: Tensor, scale: int = 1) -> Tensor:
        height, width = (side - 2 * self.geometry.margin for side in image.shape[-2:])
        return logits[..., : -(-height // scale), : -(-width // scale)]


def _mode(pixels: int, side: int) -> str:
    return "reflect" if pixels < side else "replicate"


def build_unet(config: NetworkConfig, bands: int, classes: int) -> UNet:
    """The U-Net that `config` describes, with fresh weights (or those of `config.weights`).

    Every level has twice the channels of the one above, without a cap: width·2^level. `widths`
    names each instead. An `encoder` brings its own widths, whatever `width` says, and a depth of 5
    where that is "auto"; its decoder has smp's widths, 256 to 16. To load trained weights
    afterwards, set `weights` to "none": then nothing is downloaded.

    Args:
        config: The settings; depth and width must be numbers, except where the preset or the
            encoder knows them.
        bands: Channels of the image.
        classes: Number of classes.

    Raises:
        ConfigError: settings contradict one another or are still "auto"; all are listed.
        MachineError: the weights of the encoder could not be downloaded.
        BundleError: the weights of the encoder are damaged or belong to another.
    """
    problems = _classic_problems(config)
    config = _settled(config)
    problems += _size_problems(config) + _kind_problems(config)
    counts = {"bands": bands, "classes": classes}
    problems += [f"{name} is {n}: at least 1" for name, n in counts.items() if n < 1]
    if problems:
        summary = "no network can be built from these settings"
        raise ConfigError(summary, problems, mend="Correct them in the flags or the --config file.")
    return _build(config, bands, classes)


def _settled(config: NetworkConfig) -> NetworkConfig:
    """The settings with everything that the preset or the encoder decides."""
    if config.preset == "classic":
        return config.model_copy(update=CLASSIC)
    if config.encoder is not None and config.depth == "auto":
        return config.model_copy(update={"depth": DEPTH})
    return config


def _classic_problems(config: NetworkConfig) -> list[str]:
    """Settings that are neither left alone nor what preset classic is."""
    if config.preset != "classic":
        return []
    defaults = {name: field.default for name, field in NetworkConfig.model_fields.items()}
    return [
        f"{name} is {getattr(config, name)!r}: preset classic is {value!r}"
        for name, value in CLASSIC.items()
        if getattr(config, name) not in (value, defaults[name])
    ]


def _size_problems(config: NetworkConfig) -> list[str]:
    if config.depth == "auto":
        return ["depth is 'auto': a number of levels, for example --depth 4"]
    if config.encoder is not None:
        return _encoder_size_problems(config)
    if not config.widths and config.width == "auto":
        return ["width is 'auto': a number of channels, for example --width 32"]
    if config.widths and len(config.widths) != config.depth + 1:
        count = len(config.widths)
        return [f"widths has {count} numbers: depth {config.depth} takes {config.depth + 1}"]
    if any(width < 1 for width in config.widths):
        return [f"widths is {config.widths}: every level has at least 1 channel"]
    return []


def _encoder_size_problems(config: NetworkConfig) -> list[str]:
    problems = []
    if config.depth not in DEPTHS:
        problems.append(f"depth is {config.depth}: an encoder has a depth of 3, 4 or 5")
    if config.widths:
        problems.append(f"widths is {config.widths}: the encoder {config.encoder} brings its own")
    return problems


def _kind_problems(config: NetworkConfig) -> list[str]:
    problems = []
    if config.depth != "auto" and len(config.skip) not in (1, config.depth):
        count = len(config.skip)
        problems.append(f"skip has {count} kinds: 1 for all levels, or {config.depth}")
    if config.padding == "valid" and config.preset != "classic":
        problems.append("padding is 'valid': only --preset classic has valid convolutions")
    if config.weights != "none" and config.encoder is None and config.preset != "classic":
        problems.append(f"weights is {config.weights!r}: it needs an --encoder, such as resnet34")
    return problems


def _build(config: NetworkConfig, bands: int, classes: int) -> UNet:
    assert isinstance(config.depth, int)
    geometry = Geometry(config.depth, valid=config.padding == "valid")
    block = partial(
        BLOCKS[config.block], norm=NORMS[config.norm], padding=0 if geometry.valid else 1
    )
    encoder, widths = _encoder(config, bands, block)
    decoder = _decoder(config, encoder.widths, widths, block)
    deep = config.deep_supervision
    network = UNet(encoder, decoder, classes, geometry=geometry, deep_supervision=deep)
    for part in network.children():
        if not isinstance(part, PretrainedEncoder):
            he_initialise(part)
    return network


def _encoder(
    config: NetworkConfig, bands: int, block: MakeBlock
) -> tuple[Encoder | PretrainedEncoder, tuple[int, ...]]:
    """The encoder, and the channels of the decoder's levels, full resolution first."""
    assert isinstance(config.depth, int)
    if config.encoder is not None:
        pretrained = pretrained_encoder(config.encoder, bands, config.depth, config.weights)
        return pretrained, DECODER_WIDTHS[: config.depth]
    widths = config.widths
    if not widths:
        assert isinstance(config.width, int)
        widths = tuple(config.width << level for level in range(config.depth + 1))
    return Encoder(bands, widths, block), widths[:-1]


def _decoder(
    config: NetworkConfig, features: tuple[int, ...], widths: tuple[int, ...], block: MakeBlock
) -> Decoder:
    """Steps to `widths` from the encoder's `features`, whose last is the bottom."""
    kinds = config.skip * (len(widths) if len(config.skip) == 1 else 1)
    steps = []
    for kind, feature, width, below in zip(
        kinds, features[:-1], widths, (*widths[1:], features[-1]), strict=True
    ):
        # some encoders (mit_b0) have no features at half the resolution
        skip = SKIPS[kind if feature else "none"](feature, width)
        steps.append(Step(UPS[config.up](below, width), skip, block(skip.width, width)))
    return Decoder(steps, widths)
