"""The one function that builds a UNet from NetworkConfig, of an allow-list of parts."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from unetseg.config import NetworkConfig
from unetseg.errors import ConfigError
from unetseg.unet.blocks import (
    DenseBlock,
    MakeShortcut,
    PlainBlock,
    ResidualBlock,
    group_norm,
    instance_norm,
    no_norm,
)
from unetseg.unet.decoder import AlignedUp, BilinearUp, Decoder, Step, TransposeUp
from unetseg.unet.encoder import Encoder, MakeBlock
from unetseg.unet.initialisation import initialise
from unetseg.unet.model import Geometry, UNet
from unetseg.unet.nested import NestedPathway, Node
from unetseg.unet.pretrained import (
    DECODER_WIDTHS,
    DEPTH,
    DEPTHS,
    PretrainedEncoder,
    pretrained_encoder,
)
from unetseg.unet.shortcuts import (
    Deactivable,
    Highway,
    MakePath,
    Norm,
    NoShortcut,
    Projection,
    ScaledBranch,
    ScaledInput,
    Sum,
    ZeroPad,
    identity_or_projection,
)
from unetseg.unet.skips import Add, Attention, Concat, Gated, Learned, NoSkip, Skip, Switch

NORMS: dict[str, Norm] = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
    "instance": instance_norm,
    "none": no_norm,
}
UPS: dict[str, type[TransposeUp | BilinearUp | AlignedUp]] = {
    "transpose": TransposeUp,
    "bilinear": BilinearUp,
    "aligned": AlignedUp,
}
WITH_ALPHA = {"learned", "rezero"}
"""Skips and shortcuts that have a factor α."""
HAVE_ALPHA = "--skip learned, --shortcut learned or --shortcut rezero"
PATHS: dict[str, MakePath] = {"projection": Projection, "zero_pad": ZeroPad}
"""How x gets the shape of F(x), where that is not by `identity_or_projection`."""

# Ronneberger 2015 (1505.04597), exactly.
CLASSIC: dict[str, object] = {
    "depth": 4,
    "width": 64,
    "widths": (),
    "block": "plain",
    "blocks_per_level": 1,
    "skip": ("concat",),
    "norm": "none",
    "up": "transpose",
    "padding": "valid",
    "deep_supervision": False,
    "encoder": None,
    "weights": "none",
}


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
    problems: list[str] = []
    if config.preset == "classic":
        problems = [
            f"{name} is {getattr(config, name)!r}: preset classic is {value!r}"
            for name, value in CLASSIC.items()
            if getattr(config, name) not in (value, _default(name))
        ]
        config = config.model_copy(update=CLASSIC)
    elif config.encoder is not None and config.depth == "auto":
        config = config.model_copy(update={"depth": DEPTH})
    problems += _problems(config, bands, classes)
    plain = (config.block, config.blocks_per_level) == ("plain", 1) and "nested" not in config.skip
    if config.up == "aligned" and not plain:
        problems.append("up is 'aligned': only with one plain block per level, no nested skips")
    if problems:
        summary = "no network can be built from these settings"
        raise ConfigError(summary, problems, fix="Correct them in the flags or the --config file.")
    assert isinstance(config.depth, int)
    encoder, widths = _encoder(config, config.depth, bands)
    network = UNet(
        encoder,
        _decoder(config, encoder.widths, widths),
        classes,
        geometry=Geometry(config.depth, valid=config.padding == "valid"),
        deep_supervision=config.deep_supervision,
    )
    for part in network.children():
        if not isinstance(part, PretrainedEncoder):
            initialise(part, config.init)
    return network


def _default(name: str) -> object:
    return NetworkConfig.model_fields[name].default


def _problems(config: NetworkConfig, bands: int, classes: int) -> list[str]:
    """What the settings lack, and where they contradict one another or speak of absent parts."""
    depth = 0 if config.depth == "auto" else config.depth
    widths, encoder, skips, alpha = config.widths, config.encoder, config.skip, config.alpha
    checks = [
        (not depth, "depth is 'auto': a number of levels, for example --depth 4"),
        (
            not encoder and not widths and config.width == "auto",
            "width is 'auto': a number of channels, for example --width 32",
        ),
        (
            not encoder and widths and depth and len(widths) != depth + 1,
            f"widths has {len(widths)} numbers: depth {depth} takes {depth + 1}",
        ),
        (
            not encoder and min(widths, default=1) < 1,
            f"widths is {widths}: every level has at least 1 channel",
        ),
        (encoder == "auto", "encoder is 'auto': a name, for example --encoder resnet18"),
        (
            encoder and depth not in DEPTHS,
            f"depth is {depth}: an encoder has a depth of 3, 4 or 5",
        ),
        (encoder and widths, f"widths is {widths}: the encoder {encoder} brings its own"),
        (
            depth and len(skips) not in {1, depth},
            f"skip has {len(skips)} kinds: 1 for all levels, or {depth}",
        ),
        (
            config.padding == "valid" and config.preset != "classic",
            "padding is 'valid': only --preset classic has valid convolutions",
        ),
        (
            config.weights != "none" and not encoder,
            f"weights is {config.weights!r}: it needs an --encoder, such as resnet34",
        ),
        (
            config.shortcut != "identity" and config.block != "residual",
            f"shortcut is {config.shortcut!r}: only --block residual has shortcuts",
        ),
        (
            config.growth is not None and config.block != "dense",
            f"growth is {config.growth}: only --block dense grows",
        ),
        *(
            (
                config.shortcut != "deactivable" and getattr(config, name) != _default(name),
                f"{name} is {getattr(config, name)!r}: only --shortcut deactivable drops branches",
            )
            for name in ("survival", "deactivable")
        ),
        (
            alpha is not None and not WITH_ALPHA & {config.shortcut, *skips},
            f"alpha is {alpha}: only {HAVE_ALPHA} has an α",
        ),
        (bands < 1, f"bands is {bands}: at least 1"),
        (classes < 1, f"classes is {classes}: at least 1"),
    ]
    return [problem for is_wrong, problem in checks if is_wrong]


def _encoder(
    config: NetworkConfig, depth: int, bands: int
) -> tuple[Encoder | PretrainedEncoder, tuple[int, ...]]:
    """The encoder, and the channels of the decoder's levels, full resolution first."""
    if config.encoder is not None:
        pretrained = pretrained_encoder(config.encoder, bands, depth, config.weights)
        return pretrained, DECODER_WIDTHS[:depth]
    widths = config.widths
    if not widths:
        assert isinstance(config.width, int)
        widths = tuple(config.width << level for level in range(depth + 1))
    return Encoder(bands, widths, make_level(config)), widths[:-1]


def _decoder(config: NetworkConfig, features: tuple[int, ...], widths: tuple[int, ...]) -> Decoder:
    """Steps to `widths` from the encoder's `features`, whose last is the bottom.

    What is interpolated alone keeps its channels; then the blocks of a level halve them twice.
    """
    aligned = config.up == "aligned"
    widths = (widths[0], *widths[:-1]) if aligned else widths
    asked = config.skip_of_levels(len(widths))
    # some encoders (mit_b0) have no features at half the resolution
    kinds = [kind if n else "none" for kind, n in zip(asked, features[:-1], strict=True)]
    nodes = _nodes(config, kinds, features, widths)
    widths_below = (*widths[1:], features[-1])
    steps = []
    for level, (kind, width, below) in enumerate(zip(kinds, widths, widths_below, strict=True)):
        doubled = below if aligned else width
        skip = _skip(config, kind, features[level] + len(nodes[level]) * width, doubled)
        block: nn.Module
        if aligned:
            block = PlainBlock(skip.width, width, NORMS[config.norm], middle=skip.width // 2)
        else:
            block = make_level(config, project=kind == "pruned")(skip.width, width)
        steps.append(Step(UPS[config.up](below, width), skip, block))
    return Decoder(steps, widths, NestedPathway(nodes) if any(nodes) else None)


def _nodes(
    config: NetworkConfig, kinds: Sequence[str], features: tuple[int, ...], widths: tuple[int, ...]
) -> list[list[Node]]:
    """The nodes of every level: as many as the row of the level below has entries."""
    nodes: list[list[Node]] = []
    row_below: list[int] = []
    for kind, feature, width in reversed(list(zip(kinds, features[:-1], widths, strict=True))):
        row = [feature] if feature else []
        made = []
        for below in row_below if kind == "nested" else []:
            block = make_level(config)(sum(row) + width, width)
            made.append(Node(UPS[config.up](below, width), block))
            row.append(width)
        nodes.insert(0, made)
        row_below = row
    return nodes


def _skip(config: NetworkConfig, kind: str, feature: int, width: int) -> Skip:
    """A skip of `kind` from `feature` channels of the encoder to `width` of the decoder."""
    alpha = 1.0 if config.alpha is None else config.alpha
    made: dict[str, Callable[[int, int], Skip]] = {
        "concat": Concat,
        "nested": Concat,  # its nodes stand before the decoder
        "add": Add,
        "none": NoSkip,
        "pruned": NoSkip,
        "learned": partial(Learned, alpha=alpha),
        "gated": Gated,
        "attention": partial(Attention, norm=NORMS[config.norm]),
        "switch": Switch,
    }
    return made[kind](feature, width)


def make_level(config: NetworkConfig, *, project: bool = False) -> MakeBlock:
    """What makes the blocks of one level, from the channels that come in and go out.

    Args:
        config: As for `make_block`, and the number of blocks.
        project: Whether the first shortcut has a projection even where the shapes agree.
    """
    first, further = make_block(config, project=project), make_block(config)

    def level(inputs: int, outputs: int) -> nn.Module:
        rest = [further(outputs, outputs) for _ in range(config.blocks_per_level - 1)]
        block = first(inputs, outputs)
        return nn.Sequential(block, *rest) if rest else block

    return level


def make_block(config: NetworkConfig, *, project: bool = False) -> MakeBlock:
    """What makes one block as `config` says.

    Args:
        config: Block, shortcut, norm, padding and their numbers.
        project: Whether a shortcut has a projection even where the shapes agree.
    """
    norm = NORMS[config.norm]
    shortcut = _shortcut(config, project=project)

    def block(inputs: int, outputs: int) -> nn.Module:
        if config.block == "plain":
            padding = 0 if config.padding == "valid" else 1
            return PlainBlock(inputs, outputs, norm, padding)
        if config.block == "residual":
            return ResidualBlock(inputs, outputs, norm, shortcut)
        growth = max(1, outputs // 4) if config.growth is None else config.growth
        return DenseBlock(inputs, outputs, norm, growth)

    return block


def _shortcut(config: NetworkConfig, *, project: bool) -> MakeShortcut:
    make_path = PATHS.get(config.shortcut, Projection if project else identity_or_projection)

    def shortcut(inputs: int, outputs: int, norm: Norm) -> nn.Module:
        if config.shortcut == "none":
            return NoShortcut()
        path = make_path(inputs, outputs, norm)
        match config.shortcut:
            case "learned":
                return ScaledInput(path, 1.0 if config.alpha is None else config.alpha)
            case "rezero":
                return ScaledBranch(path, config.alpha or 0.0)
            case "gated":
                return Highway(path, outputs)
            case "deactivable":
                return Deactivable(path, config.survival, whole=config.deactivable == "whole")
        return Sum(path)

    return shortcut
