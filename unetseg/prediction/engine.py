"""A trained U-Net made ready to predict on this machine: device, arithmetic, layout, tiles."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetseg.bundle import Segmenter, image_statistics, to_machine
from unetseg.prediction.tiling import Blend, Tile, cut
from unetseg.runtime import Machine, explained_memory

PIXELS_AT_ONCE = 2**21
"""Pixels of tiles that go through a GPU together."""
MIRRORS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
"""Axes of N×C×H×W that each copy of a test-time augmentation is mirrored along."""


class Engine:
    """Predicts images of any size.

    Args:
        segmenter: The trained U-Net.
        machine: Where it runs.
        tile: Images with a longer side are cut into tiles of this side, pixels.
        overlap: Share of a tile that its neighbour covers too.
        tta: Average over the four mirror images.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        machine: Machine,
        *,
        tile: int,
        overlap: float,
        tta: bool = False,
    ) -> None:
        self.segmenter = to_machine(segmenter, machine).eval()
        self.machine = machine
        self.tile = tile
        self.overlap = overlap
        self.mirrors = MIRRORS if tta else MIRRORS[:1]
        self.batch = 1 if machine.is_cpu else max(1, PIXELS_AT_ONCE // tile**2)

    def classes(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """Class indexes H×W uint8 of an image H×W×C of raw pixel values."""
        # max().indices, because argmax over channels is many times slower on CPU (pytorch#140000).
        index = self.logits(image).max(0).indices
        return index.to(torch.uint8).cpu().numpy()

    def probabilities(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Probability of each class, K×H×W float32, of an image H×W×C of raw pixel values."""
        return self.logits(image).softmax(0).cpu().numpy()

    @property
    def grid(self) -> int:
        """Pixels; tiles start at its multiples, so that they are pooled as the whole would be."""
        return max(1, round(self.segmenter.network.geometry.stride / self.segmenter.scale))

    @explained_memory("Choose a smaller --tile.")
    @torch.inference_mode()
    def logits(self, image: NDArray[Any]) -> Tensor:
        """Logits K×H×W float32 of an image H×W×C of raw pixel values."""
        height, width = image.shape[:2]
        whole = self._tensor(image)  # 1, C, H, W
        statistics = image_statistics(whole) if self.segmenter.per_image else None
        if max(height, width) <= self.tile:
            return self._forward(whole, statistics)[0]
        below, right = (-side % self.grid for side in (height, width))
        continued = np.pad(image, ((0, below), (0, right), (0, 0)), "reflect")
        return self._tiled(self._tensor(continued), statistics)[:, :height, :width]

    def _tiled(self, whole: Tensor, statistics: Tensor | None) -> Tensor:
        height, width = whole.shape[-2:]
        tiles = cut_on_grid(height, width, self.tile, self.overlap, self.grid)
        blend = Blend(self.segmenter.classes, height, width)
        for at in range(0, len(tiles), self.batch):
            some = tiles[at : at + self.batch]
            batch = torch.cat([whole[..., *tile.slices] for tile in some])
            logits = self._forward(batch, statistics).cpu().numpy()
            for tile, tile_logits in zip(some, logits, strict=True):
                blend.add(tile, tile_logits)
        return torch.from_numpy(blend.result())

    def _forward(self, batch: Tensor, statistics: Tensor | None) -> Tensor:
        batch = batch.to(self.machine.device)
        batch = batch.float().contiguous(memory_format=torch.channels_last)
        if statistics is not None:
            statistics = statistics.to(self.machine.device).expand(len(batch), -1, -1)
        with self.machine.autocast():
            copies = [self._mirrored(batch, statistics, axes) for axes in self.mirrors]
        return copies[0] if len(copies) == 1 else torch.stack(copies).mean(0)

    def _mirrored(self, batch: Tensor, statistics: Tensor | None, axes: tuple[int, ...]) -> Tensor:
        if not axes:
            return self.segmenter.forward(batch, statistics).float()
        return self.segmenter.forward(batch.flip(axes), statistics).float().flip(axes)

    @staticmethod
    def _tensor(image: NDArray[Any]) -> Tensor:
        dtype = np.uint8 if image.dtype == np.uint8 else np.float32
        image = np.require(image, dtype, ["C", "W"])  # torch takes no views that run backwards
        return torch.from_numpy(image).permute(2, 0, 1)[None]  # 1, C, H, W


def cut_on_grid(height: int, width: int, tile: int, overlap: float, grid: int) -> list[Tile]:
    """Tiles as of `cut`, with every position and side a multiple of `grid`.

    Args:
        height: Pixels, a multiple of `grid`.
        width: Pixels, a multiple of `grid`.
        tile: Side of a tile, pixels; the largest multiple of `grid` in it is taken.
        overlap: Share of a tile that its neighbour covers too.
        grid: Pixels.

    >>> [tile.left for tile in cut_on_grid(8, 24, tile=9, overlap=0.25, grid=4)]
    [0, 8, 16]
    """
    coarse = cut(height // grid, width // grid, max(1, tile // grid), overlap)
    return [
        Tile(tile.top * grid, tile.left * grid, tile.height * grid, tile.width * grid)
        for tile in coarse
    ]
