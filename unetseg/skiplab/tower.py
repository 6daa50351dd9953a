"""Deep towers without a U: where the story of shortcuts began, and where it is seen best."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import comb

from torch import Tensor, nn

from unetseg.config import BlockKind, NetworkConfig, NormKind, ShortcutKind
from unetseg.errors import ConfigError
from unetseg.unet.blocks import DENSE_LAYERS, convolution
from unetseg.unet.build import NORMS, make_block
from unetseg.unet.initialisation import initialise
from unetseg.unet.shortcuts import Gate

WIDTH = 16
"""Channels of a stack."""
RESNET_WIDTHS = (16, 32, 64)
"""Channels of the stages of a ResNet for CIFAR images."""
LAYERS: dict[BlockKind, int] = {"plain": 2, "residual": 2, "dense": DENSE_LAYERS}
"""3×3 convolutions of one block."""


def count_paths(blocks: int) -> tuple[int, float]:
    """Paths through residual blocks one after the other, and their mean length in blocks.

    Each block is passed by or gone through, so C(blocks, k) paths go through k of them (Veit 2016,
    1605.06431).

    >>> paths, length = count_paths(54)
    >>> paths == 2**54, length
    (True, 27.0)
    """
    of_length = [comb(blocks, length) for length in range(blocks + 1)]
    paths = sum(of_length)
    return paths, sum(length * count for length, count in enumerate(of_length)) / paths


class Stack(nn.Module):
    """3×3 convolutions of 16 channels, one after the other, all at the image's resolution.

    Args:
        first: From the image to 16 channels.
        blocks: From 16 channels to 16 channels.
        last: The last convolution, with neither norm nor ReLU after it.
    """

    def __init__(self, first: nn.Module, blocks: Iterable[nn.Module], last: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.blocks = nn.Sequential(*blocks)
        self.last = last

    def forward(self, image: Tensor) -> Tensor:
        """Image N×bands×H×W → N×16×H×W, any number."""
        output: Tensor = self.last(self.blocks(self.first(image)))
        return output


def build_stack(config: NetworkConfig, depth: int, bands: int = 3) -> Stack:
    """A stack of `depth` 3×3 convolutions: one on the image, blocks as `config` says, a last one.

    All blocks keep the shape, so their shortcuts have no projection. Biases start at 0, torch's
    too: what reaches the last layer comes from the image, and not from the biases on the way.

    Args:
        config: Block, shortcut, norm and init, with their numbers.
        depth: 3×3 convolutions; 2 more than a multiple of those in a block.
        bands: Channels of the image.

    Raises:
        ConfigError: `depth` is not whole blocks and two convolutions.
    """
    check_depths([depth], config.block)
    make = make_block(config)
    count = (depth - 2) // LAYERS[config.block]
    first = nn.Sequential(*convolution(bands, WIDTH, NORMS[config.norm]), nn.ReLU(inplace=True))
    last = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
    stack = Stack(first, (make(WIDTH, WIDTH) for _ in range(count)), last)
    initialise(stack, config.init)
    for module in stack.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None and type(module) is not Gate:
            nn.init.zeros_(module.bias)
    return stack


def check_depths(depths: Sequence[int], block: BlockKind) -> None:
    """Refuse depths that a stack of such blocks cannot have.

    Raises:
        ConfigError: some are not whole blocks and two convolutions; all are listed.
    """
    layers = LAYERS[block]
    wrong = [depth for depth in depths if depth < 2 or (depth - 2) % layers]
    if wrong:
        nearest = {depth: 2 + layers * max(1, round((depth - 2) / layers)) for depth in wrong}
        possible = dict.fromkeys(nearest.get(depth, depth) for depth in depths)
        summary = f"a stack of {block} blocks has 2 + {layers}·n convolutions"
        fix = f"Use --depths {','.join(map(str, possible))}."
        raise ConfigError(summary, [f"depth {depth}" for depth in wrong], fix)


class ResNet(nn.Module):
    """The residual network for CIFAR images (He 2015, 1512.03385, section 4.2).

    Args:
        first: From the image to the channels of the first stage.
        stages: Blocks of the three stages, one after the other.
        head: From the channels of the last stage to the classes.
    """

    def __init__(self, first: nn.Module, stages: Iterable[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.stages = nn.Sequential(*stages)
        self.head = head

    def forward(self, image: Tensor) -> Tensor:
        """Image N×3×H×W → logits N×classes."""
        features = self.stages(self.first(image))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def build_resnet(
    depth: int, shortcut: ShortcutKind = "zero_pad", *, classes: int = 10, norm: NormKind = "batch"
) -> ResNet:
    """A ResNet of `depth` = 6n + 2 layers: three stages of n blocks with 16, 32 and 64 channels.

    Args:
        depth: Layers with weights: 20, 32, 44, 56, 110 or 1202 in the paper.
        shortcut: `zero_pad` is the paper's option A, `identity` its B: projections where the shapes
            change.
        classes: Number of classes.
        norm: Normalisation after each convolution.

    Raises:
        ConfigError: `depth` is not 6n + 2.
    """
    if depth < 8 or (depth - 2) % 6:
        fix = f"Use {6 * max(1, round((depth - 2) / 6)) + 2}."
        raise ConfigError(f"a ResNet of {depth} layers: the depth is 6n + 2, at least 8", fix=fix)
    config = NetworkConfig(block="residual", shortcut=shortcut, norm=norm)
    make = make_block(config)
    stages = []
    for above, width in pairwise((RESNET_WIDTHS[0], *RESNET_WIDTHS)):
        stride = 1 if above == width else 2
        rest = (make(width, width) for _ in range((depth - 2) // 6 - 1))
        stages.append(nn.Sequential(make(above, width, stride=stride), *rest))
    first = nn.Sequential(
        *convolution(3, RESNET_WIDTHS[0], NORMS[config.norm]), nn.ReLU(inplace=True)
    )
    network = ResNet(first, stages, nn.Linear(RESNET_WIDTHS[-1], classes))
    initialise(network)
    return network
