"""A trained U-Net made ready to predict on this machine: device, arithmetic, layout, tiles."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetseg.bundle import BundleInfo
from unetseg.data.files.nodata import filled, missing_pixels
from unetseg.data.masks.class_map import IGNORED
from unetseg.errors import OutOfMemoryError
from unetseg.prediction.backends import Choice, choose_backend
from unetseg.prediction.tiling import Blend, Layout, Logits, Tile, lay_out
from unetseg.runtime import COMPUTING, Machine, after_fork, explained_memory
from unetseg.unet.segmenter import Segmenter, image_statistics, memory_fix, to_machine

T = TypeVar("T")
PIXELS_ON_CPU = 2**17
"""Pixels of images or tiles that go through the network together: small ones are faster so."""
PIXELS_ON_GPU = 2**21
"""The same on a GPU."""
FORKING = ("eager", "fused")
"""Engines that go on in a forked process: the others hold threads of their own."""
MIRRORS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
"""Axes of N×C×H×W that each copy of a test-time augmentation is mirrored along."""


class Engine:
    """Predicts images of any size, for any number of threads.

    Args:
        segmenter: The trained U-Net; its weights are not to be changed afterwards.
        machine: Where it runs.
        tile: Images with a longer side are cut into tiles of this side, pixels.
        overlap: Share of a tile that its neighbour covers too.
        tta: Average over the four mirror images.
        engine: What runs the network; see `choose_backend`, unless it is chosen already.
        temperature: What logits are divided by for probabilities.
        margin: Of two classes, by how much the logit of the second must be above that of the first.
    """

    def __init__(  # noqa: PLR0913 (the whole of a prediction)
        self,
        segmenter: Segmenter,
        machine: Machine,
        *,
        tile: int,
        overlap: float,
        tta: bool = False,
        engine: str | Choice = "auto",
        temperature: float = 1.0,
        margin: float = 0.0,
    ) -> None:
        self.temperature, self.margin = temperature, margin
        self.segmenter = to_machine(segmenter, machine).eval()
        self.machine = machine
        self.tile = tile
        self.overlap = overlap
        self.mirrors = MIRRORS if tta else MIRRORS[:1]
        self.pixels: int | None = None  # of the whole job, where that is known
        self.share = 1  # of the usual batch that fits in memory: 1/2 of it, 1/4 …
        self.ahead = 0 if machine.is_cpu else 1  # batches a GPU is given before it is waited for
        self._engine = engine if isinstance(engine, str) else engine.name
        self._choice: Choice | None = None if isinstance(engine, str) else engine
        self._process = os.getpid()
        self._mean, self._std = (
            table.flatten().cpu().numpy() for table in (segmenter.mean, segmenter.std)
        )

    @property
    def choice(self) -> Choice:
        """What runs the network, made ready at the first image.

        Raises:
            MachineError: it cannot run in this process, which was forked.
            OutOfMemoryError: it does not fit in memory.
        """
        is_forked = os.getpid() != self._process
        if is_forked and not self.machine.is_cpu:
            raise after_fork(f"a network on {self.machine.device}")
        with COMPUTING, explained_memory(memory_fix(self.machine)):
            if self._choice is None:
                self._choice = choose_backend(
                    self.segmenter, self.machine, self._engine, self.pixels
                )
        if is_forked and self._choice.name not in FORKING:
            raise after_fork(f"engine {self._choice.name}")
        return self._choice

    @property
    def grid(self) -> int:
        """Pixels; tiles start at its multiples, so that they are pooled as the whole would be."""
        return max(1, round(self.segmenter.network.geometry.stride / self.segmenter.scale))

    def images_at_once(self, height: int, width: int) -> int:
        """How many images of this size go through the network together; 1 where they are cut."""
        if not self._is_whole(height, width):
            return 1
        return max(1, fitting_batch(self.machine, height, width) // self.share)

    def missing(self, image: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Where an image H×W×C, or one band more, has no data, H×W; None: nowhere."""
        return missing_pixels(image, len(self._mean))

    def classes(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """Class indexes H×W uint8 of an image H×W×C of raw pixel values; 255 without data."""
        return self.classes_of([image])[0]

    def classes_of(self, images: Sequence[NDArray[Any]]) -> list[NDArray[np.uint8]]:
        """The classes of images of one size, all at once; `images_at_once` is a good number."""
        return self.begin(images)()

    def begin(self, images: Sequence[NDArray[Any]]) -> Callable[[], list[NDArray[np.uint8]]]:
        """Set the network to work on images of one size; what is returned waits for the classes.

        A GPU computes meanwhile.
        """
        if self._is_whole(*images[0].shape[:2]):
            index = most_probable(self._whole_logits(images), self.margin)
        else:
            logits = (self.logits(each)[None] for each in images)
            index = torch.cat([most_probable(each, self.margin) for each in logits])
        wait = fetch(index)

        def classes() -> list[NDArray[np.uint8]]:
            indexes = wait()
            for index, image in zip(indexes, images, strict=True):
                if (missing := self.missing(image)) is not None:
                    index[missing] = IGNORED
            return list(indexes)

        return classes

    def logits(self, image: NDArray[Any], statistics: Tensor | None = None) -> Tensor:
        """Logits K×H×W float32 of an image H×W×C of raw pixel values.

        Where one band more is 0 there are no data, and the logits say nothing.

        Args:
            image: The pixels.
            statistics: 1×2×C mean and deviation of the whole image that `image` is a part of.
        """
        height, width = image.shape[:2]
        if statistics is None or not self.segmenter.per_image:
            statistics = self.statistics(image)
        if self._is_whole(height, width):
            return self.forward([image], statistics)[0].float()
        layout = self.lay_out(height, width)
        network = TileNetwork(self, statistics)
        continued = np.pad(image, ((0, layout.below), (0, layout.right), (0, 0)), "reflect")
        blend = Blend(self.segmenter.classes, layout.height, layout.width)
        for tile, logits in network.predict(layout.tiles, lambda tile: continued[tile.slices]):
            blend.add(tile, logits)
        return torch.from_numpy(blend.result())[:, :height, :width]

    def index(self, logits: Tensor, missing: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
        """Class indexes H×W uint8 of logits K×H×W; 255 where pixels are missing."""
        index: NDArray[np.uint8] = most_probable(logits[None], self.margin)[0].cpu().numpy()
        if missing is not None:
            index[missing] = IGNORED
        return index

    def probabilities(
        self, logits: Tensor, missing: NDArray[np.bool_] | None
    ) -> NDArray[np.float32]:
        """Probabilities H×W×K float32 of logits K×H×W; NaN where pixels are missing."""
        likely: NDArray[np.float32] = (logits / self.temperature).softmax(0).cpu().numpy()
        if missing is not None:
            likely[:, missing] = np.nan
        return np.ascontiguousarray(likely.transpose(1, 2, 0))

    def lay_out(self, height: int, width: int, tile: int | None = None) -> Layout:
        """The tiles of an image, of this engine's size unless another is given."""
        return lay_out(height, width, tile or self.tile, self.overlap, self.grid)

    def statistics(self, image: NDArray[Any]) -> Tensor | None:
        """1×2×C mean and deviation of a whole image H×W×C, if the network wants to know them."""
        if not self.segmenter.per_image:
            return None
        missing, image = self.missing(image), image[..., : len(self._mean)]
        if missing is None:
            return image_statistics(_tensor(image))
        moments = Moments(image.shape[-1])
        moments.add(image, missing)
        return moments.tensor()

    def forward(self, crops: Sequence[NDArray[Any]], statistics: Tensor | None) -> Tensor:
        """Logits N×K×h×w of crops h×w×C of one size, on the device, as precise as the network is.

        Args:
            crops: Raw pixel values; one band more where there are gaps.
            statistics: N×2×C or 1×2×C mean and deviation of the whole images, where they count.

        Raises:
            OutOfMemoryError: not even one crop fits in memory; several are halved until they do.
        """
        try:
            return self._forward(crops, statistics)
        except OutOfMemoryError:
            if len(crops) == 1:
                raise
        self.share *= 2
        if self.machine.device.type == "cuda":
            torch.cuda.empty_cache()
        logits = []
        for half in (slice(len(crops) // 2), slice(len(crops) // 2, None)):
            theirs = statistics
            if statistics is not None and len(statistics) > 1:
                theirs = statistics[half]
            logits.append(self.forward(crops[half], theirs))
        return torch.cat(logits)

    @explained_memory("Choose a smaller --tile.")
    @torch.inference_mode()
    def _forward(self, crops: Sequence[NDArray[Any]], statistics: Tensor | None) -> Tensor:
        batch = torch.cat([_tensor(filled(crop, self._mean, self._std)) for crop in crops])
        if self.machine.device.type == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self.machine.device, non_blocking=True)
        if statistics is not None:
            statistics = statistics.to(self.machine.device).expand(len(batch), -1, -1)
        height, width = batch.shape[-2:]
        copies = []
        for axes in self.mirrors:
            image = self.segmenter.prepared(batch.flip(axes) if axes else batch, statistics)
            image = image.contiguous(memory_format=torch.channels_last)
            backend = self.choice.backend
            with COMPUTING:
                logits = self.segmenter.full_size(backend(image), height, width)
            if len(self.mirrors) == 1:
                return logits
            copies.append(logits.float().flip(axes))
        return torch.stack(copies).mean(0)

    def _is_whole(self, height: int, width: int) -> bool:
        """Whether an image goes through the network in one piece."""
        return max(height, width) <= self.tile

    def _whole_logits(self, images: Sequence[NDArray[Any]]) -> Tensor:
        every = [self.statistics(each) for each in images]
        statistics = [one for one in every if one is not None]
        return self.forward(images, torch.cat(statistics) if statistics else None)


class TileNetwork:
    """A network at work on the tiles of one image.

    Tiles without data, and those of one value after the first, do not go through the network: what
    it would say is known.

    Args:
        engine: The network.
        statistics: 1×2×C mean and deviation of the whole image, with "image" normalisation.
    """

    def __init__(self, engine: Engine, statistics: Tensor | None) -> None:
        self._engine = engine
        self._statistics = statistics
        self._plain: tuple[bytes, Logits] | None = None  # a tile of one value, and its logits

    def predict(
        self, tiles: Sequence[Tile], pixels: Callable[[Tile], NDArray[Any]]
    ) -> Iterator[tuple[Tile, Logits]]:
        """Each tile with its logits K×h×w; `pixels` gives the h×w×C of a tile."""
        batch = self._engine.images_at_once(tiles[0].height, tiles[0].width)
        for at in range(0, len(tiles), batch):
            some = tiles[at : at + batch]
            crops = [pixels(tile) for tile in some]
            answers = [self._without_network(crop) for crop in crops]
            new = [n for n, answer in enumerate(answers) if answer is None]
            if new:
                computed = self.forward([crops[n] for n in new]).float().cpu().numpy()
                for n, logits in zip(new, computed, strict=True):
                    answers[n] = logits
                    value = _only_value(crops[n])
                    self._plain = self._plain if value is None else (value, logits)
            for tile, answer in zip(some, answers, strict=True):
                if answer is not None:  # none is
                    yield tile, answer

    def _without_network(self, crop: NDArray[Any]) -> Logits | None:
        """The logits of a crop that needs no network, or None."""
        shape = self._engine.segmenter.classes, *crop.shape[:2]
        missing = self._engine.missing(crop)
        if missing is not None and missing.all():
            return np.zeros(shape, np.float32)
        if self._plain is None or self._plain[1].shape != shape:
            return None
        value, logits = self._plain
        return logits if _only_value(crop) == value else None

    def forward(self, crops: list[NDArray[Any]]) -> Tensor:
        """Logits N×K×h×w of crops h×w×C, on the device."""
        return self._engine.forward(crops, self._statistics)


class Moments:
    """Mean and deviation of every band of an image, in float64, part by part.

    The parts' sums of squares are taken around their own means and merged, so that nothing is lost
    where the mean is large (Chan, Golub and LeVeque 1983, The American Statistician 37:242).

    Args:
        bands: C.

    >>> moments = Moments(1)
    >>> for part in ([[[1.0]], [[2.0]]], [[[6.0]]]):
    ...     moments.add(np.array(part))
    >>> moments.mean.tolist(), (moments.std**2).round(6).tolist()
    ([3.0], [4.666667])
    """

    def __init__(self, bands: int) -> None:
        self.pixels = 0
        self.mean = np.zeros(bands)
        self._squares = np.zeros(bands)  # sums of (value − mean)²

    def add(self, image: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> None:
        """Take in the pixels of `image` (H×W×C), those that are `missing` (H×W) left out."""
        kept = None if missing is None or not missing.any() else ~missing
        pixels = image[..., 0].size if kept is None else int(kept.sum())
        if not pixels:
            return
        together = self.pixels + pixels
        for band in range(image.shape[-1]):
            # Band by band: numpy reduces contiguous pixels many times faster than interleaved ones.
            values = image[..., band].ravel() if kept is None else image[..., band][kept]
            mean = values.mean(dtype=np.float64)
            shift = mean - self.mean[band]
            self._squares[band] += values.var(dtype=np.float64) * pixels
            self._squares[band] += shift**2 * self.pixels * pixels / together
            self.mean[band] += shift * pixels / together
        self.pixels = together

    @property
    def std(self) -> NDArray[np.float64]:
        """Deviation of each band; 0 without pixels."""
        return np.sqrt(self._squares / max(1, self.pixels))

    def tensor(self) -> Tensor:
        """Mean and deviation as 1×2×C float32."""
        return torch.from_numpy(np.stack([self.mean, self.std])[None].astype(np.float32))


def machine_for(info: BundleInfo, machine: Machine, precision: str) -> tuple[Machine, str]:
    """`machine`, or the same in float32 where the bundle knows that fast arithmetic costs too much.

    Args:
        info: The bundle.
        machine: What `runtime.start` chose.
        precision: The user's `--precision`; only "auto" leaves the choice to the bundle.

    Returns:
        The machine, and a sentence that says why it is another one; "" where it is the same: with
        any other `precision`, a verdict that holds, none, or one about another arithmetic.
    """
    verdict = info.precision
    if precision != "auto" or verdict is None or verdict.holds or not verdict.judges(machine):
        return machine, ""
    short = {"bfloat16": "bf16", "float16": "fp16"}[verdict.dtype]
    why = (
        f"float32, because {verdict.dtype} scored otherwise in validation, see model.json "
        f"(--precision {short} is faster)"
    )
    return replace(machine, dtype=torch.float32), why


def fitting_batch(machine: Machine, height: int, width: int) -> int:
    """How many images of height × width pixels go through a network together."""
    pixels = PIXELS_ON_CPU if machine.is_cpu else PIXELS_ON_GPU
    return max(1, pixels // (height * width))


def most_probable(logits: Tensor, margin: float = 0.0) -> Tensor:
    """Class indexes N×H×W uint8 of logits N×K×H×W; the first class of equals.

    With a `margin`, of two classes, the second where its logit is above the first's by more.
    """
    if margin:
        return (logits[:, 1].float() - logits[:, 0].float() > margin).to(torch.uint8)
    # max().indices, because argmax over channels is many times slower on CPU (pytorch#140000).
    index = logits[:, 1] > logits[:, 0] if logits.shape[1] == 2 else logits.max(1).indices
    return index.to(torch.uint8)


def fetch(tensor: Tensor) -> Callable[[], NDArray[Any]]:
    """Start copying a tensor to the host; what is returned waits for the copy.

    It waits for no work that a GPU is given later.
    """
    if tensor.device.type != "cuda":
        return tensor.cpu().numpy
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record(torch.cuda.current_stream(tensor.device))

    def wait() -> NDArray[Any]:
        done.synchronize()
        return np.asarray(host.numpy())

    return wait


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
