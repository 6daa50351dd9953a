"""A trained U-Net made ready to predict on this machine: device, arithmetic, layout, tiles."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetseg.bundle import Segmenter, image_statistics, to_machine
from unetseg.data.masks import IGNORED
from unetseg.data.nodata import filled, missing_pixels
from unetseg.prediction.moments import Moments
from unetseg.prediction.tiling import Blend, Layout, Logits, Tile, lay_out
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

    @property
    def grid(self) -> int:
        """Pixels; tiles start at its multiples, so that they are pooled as the whole would be."""
        return max(1, round(self.segmenter.network.geometry.stride / self.segmenter.scale))

    def classes(self, image: NDArray[Any], nodata: float | None = None) -> NDArray[np.uint8]:
        """Class indexes H×W uint8 of an image H×W×C of raw pixel values; 255 without data."""
        return most_probable(self.logits(image, nodata), missing_pixels(image, nodata))

    def probabilities(
        self, image: NDArray[Any], nodata: float | None = None
    ) -> NDArray[np.float32]:
        """Probability of each class, K×H×W float32, of an image H×W×C; NaN without data."""
        return softmax(self.logits(image, nodata), missing_pixels(image, nodata))

    @explained_memory("Choose a smaller --tile.")
    @torch.inference_mode()
    def logits(self, image: NDArray[Any], nodata: float | None = None) -> Tensor:
        """Logits K×H×W float32 of an image H×W×C of raw pixel values.

        Args:
            image: The pixels.
            nodata: Pixels that hold this value in all bands have no data; their logits say nothing.
        """
        height, width = image.shape[:2]
        layout = self.lay_out(height, width)
        network = TileNetwork(self, self.statistics(image, nodata), nodata)
        if len(layout.tiles) == 1 and layout.tiles[0] == Tile(0, 0, height, width):
            return network.forward([image])[0]
        continued = np.pad(image, ((0, layout.below), (0, layout.right), (0, 0)), "reflect")
        blend = Blend(self.segmenter.classes, layout.height, layout.width)
        for tile, logits in network.predict(layout.tiles, lambda tile: continued[tile.slices]):
            blend.add(tile, logits)
        return torch.from_numpy(blend.result())[:, :height, :width]

    def lay_out(self, height: int, width: int, tile: int | None = None) -> Layout:
        """The tiles of an image, of this engine's size unless another is given."""
        return lay_out(height, width, tile or self.tile, self.overlap, self.grid)

    def statistics(self, image: NDArray[Any], nodata: float | None = None) -> Tensor | None:
        """1×2×C mean and deviation of a whole image H×W×C, if the network wants to know them."""
        if not self.segmenter.per_image:
            return None
        missing = missing_pixels(image, nodata)
        if not missing.any():
            return image_statistics(_tensor(image))
        moments = Moments(image.shape[-1])
        moments.add(image, missing)
        return moments_tensor(moments)


class TileNetwork:
    """A network at work on the tiles of one image.

    Tiles without data, and those of one value after the first, do not go through the network: what
    it would say is known.

    Args:
        engine: The network.
        statistics: 1×2×C mean and deviation of the whole image, with "image" normalisation.
        nodata: Value of pixels without data.
    """

    def __init__(self, engine: Engine, statistics: Tensor | None, nodata: float | None) -> None:
        self._engine = engine
        self._machine = engine.machine
        self._segmenter = engine.segmenter
        self._statistics = None if statistics is None else statistics.to(self._machine.device)
        self._nodata = nodata
        mean, std = engine.segmenter.mean, engine.segmenter.std
        self._mean, self._std = (table.flatten().cpu().numpy() for table in (mean, std))
        self._plain: tuple[bytes, Logits] | None = None  # a tile of one value, and its logits

    def predict(
        self, tiles: Sequence[Tile], pixels: Callable[[Tile], NDArray[Any]]
    ) -> Iterator[tuple[Tile, Logits]]:
        """Each tile with its logits K×h×w; `pixels` gives the h×w×C of a tile."""
        side = max(tiles[0].height, tiles[0].width)
        batch = 1 if self._machine.is_cpu else max(1, PIXELS_AT_ONCE // side**2)
        for at in range(0, len(tiles), batch):
            some = tiles[at : at + batch]
            yield from zip(some, self._answers([pixels(tile) for tile in some]), strict=True)

    def _answers(self, crops: list[NDArray[Any]]) -> list[Logits]:
        """Logits of crops of equal size; of those that are known, without the network."""
        answers = [self._known(crop) for crop in crops]
        new = [at for at, answer in enumerate(answers) if answer is None]
        if new:
            computed = self.forward([crops[at] for at in new]).cpu().numpy()
            for at, logits in zip(new, computed, strict=True):
                answers[at] = logits
                value = _only_value(crops[at])
                self._plain = self._plain if value is None else (value, logits)
        return [answer for answer in answers if answer is not None]

    def _known(self, crop: NDArray[Any]) -> Logits | None:
        """The logits of a crop that needs no network, or None."""
        shape = self._segmenter.classes, *crop.shape[:2]
        if self._nodata is not None and missing_pixels(crop, self._nodata).all():
            return np.zeros(shape, np.float32)
        if self._plain is None or self._plain[1].shape != shape:
            return None
        value, logits = self._plain
        return logits if _only_value(crop) == value else None

    @explained_memory("Choose a smaller --tile.")
    @torch.inference_mode()
    def forward(self, crops: list[NDArray[Any]]) -> Tensor:
        """Logits N×K×h×w float32 of crops h×w×C, on the device."""
        tensors = [_tensor(filled(crop, self._nodata, self._mean, self._std)) for crop in crops]
        batch = torch.cat(tensors).to(self._machine.device)
        batch = batch.float().contiguous(memory_format=torch.channels_last)
        statistics = self._statistics
        if statistics is not None:
            statistics = statistics.expand(len(batch), -1, -1)
        with self._machine.autocast():
            copies = [self._mirrored(batch, statistics, axes) for axes in self._engine.mirrors]
        return copies[0] if len(copies) == 1 else torch.stack(copies).mean(0)

    def _mirrored(self, batch: Tensor, statistics: Tensor | None, axes: tuple[int, ...]) -> Tensor:
        if not axes:
            return self._segmenter.forward(batch, statistics).float()
        return self._segmenter.forward(batch.flip(axes), statistics).float().flip(axes)


def most_probable(logits: Tensor, missing: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Class indexes H×W uint8 of logits K×H×W; 255 where pixels are missing."""
    # max().indices, because argmax over channels is many times slower on CPU (pytorch#140000).
    index = logits.max(0).indices.to(torch.uint8).cpu().numpy()
    index[missing] = IGNORED
    return index


def softmax(logits: Tensor, missing: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Probabilities K×H×W float32 of logits K×H×W; NaN where pixels are missing."""
    probabilities: NDArray[np.float32] = logits.softmax(0).cpu().numpy()
    probabilities[:, missing] = np.nan
    return probabilities


def moments_tensor(moments: Moments) -> Tensor:
    """Mean and deviation as 1×2×C float32."""
    return torch.from_numpy(np.stack([moments.mean, moments.std])[None].astype(np.float32))


def _only_value(crop: NDArray[Any]) -> bytes | None:
    """The one value of all pixels of a crop h×w×C, if there is one."""
    first = crop[0, 0]
    if not (crop[0] == first).all() or not (crop == first).all():
        return None
    return bytes(first.tobytes())


def _tensor(image: NDArray[Any]) -> Tensor:
    dtype = np.uint8 if image.dtype == np.uint8 else np.float32
    image = np.require(image, dtype, ["C", "W"])  # torch takes no views that run backwards
    return torch.from_numpy(image).permute(2, 0, 1)[None]  # 1, C, H, W
