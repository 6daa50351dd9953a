"""UNet: image → logits."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from unetseg.errors import ConfigError
from unetseg.unet.decoder import Decoder
from unetseg.unet.encoder import Encoder
from unetseg.unet.pretrained import PretrainedEncoder

Edit = Callable[[list[Tensor]], list[Tensor]]
"""Changes the skips, full resolution first, on their way from the encoder to the decoder."""


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
        return self.cropped(self.on_grid(self.continued(image), edit), image)

    def on_grid(self, image: Tensor, edit: Edit = unchanged) -> Tensor:
        """Logits of an image whose sides fit the network, as those of `continued` do."""
        features = self.encoder(image)
        *skips, bottom = features
        logits: Tensor = self.head(self.decoder(bottom, edit(skips)))
        return logits

    def all_logits(self, image: Tensor) -> list[Tensor]:
        """Logits of every level with a head: N×K×H×W, then N×K×⌈H/2⌉×⌈W/2⌉ and so on.

        Pixel (y, x) of level l stands for the square of 2ˡ pixels from (2ˡ·y, 2ˡ·x). Without deep
        supervision there is one level: what `forward` returns.
        """
        *skips, bottom = self.encoder(self.continued(image))
        heads = [self.head, *self.coarse_heads]
        levels = self.decoder.levels(bottom, skips)[: len(heads)]
        logits = [head(features) for head, features in zip(heads, levels, strict=True)]
        return [self.cropped(each, image, 1 << level) for level, each in enumerate(logits)]

    def openings(self, image: Tensor) -> list[Tensor | None]:
        """How much each skip lets through, full resolution first; None where that is not learned.

        See `Decoder.openings`. Maps are of the continued image: the smallest that is at least as
        large and that the network can work on, with the image at its top left.
        """
        *skips, bottom = self.encoder(self.continued(image))
        return self.decoder.openings(bottom, skips)

    def continued(self, image: Tensor) -> Tensor:
        """The image with what is missing to sides that fit, to the right and below."""
        height, width = image.shape[-2:]
        if min(height, width) <= 2 * self.geometry.margin:
            least = 2 * self.geometry.margin + 1
            raise ConfigError(
                f"an image of {height}×{width} pixels is too small for valid convolutions, "
                f"which take at least {least}×{least}",
                fix="Use --padding same and preset unet, or larger images.",
            )
        below = self.geometry.fitting(height) - height
        right = self.geometry.fitting(width) - width
        if below:
            image = functional.pad(image, (0, 0, 0, below), _mode(below, height))
        if right:
            image = functional.pad(image, (0, right, 0, 0), _mode(right, width))
        return image

    def cropped(self, logits: Tensor, image: Tensor, scale: int = 1) -> Tensor:
        """The logits of a continued image, 1/`scale` of its size, without what was added."""
        height, width = (side - 2 * self.geometry.margin for side in image.shape[-2:])
        return logits[..., : -(-height // scale), : -(-width // scale)]


def _mode(pixels: int, side: int) -> str:
    return "reflect" if pixels < side else "replicate"
