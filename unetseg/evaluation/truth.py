"""The class indexes of a pair: all at once, or of a large one the rows that are asked for.

Outside of a pair's region, such as a field of view, nothing counts.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo
from unetseg.data.crops.reader import misfit
from unetseg.data.files.image import ImageFile
from unetseg.data.files.pages import MaskPath
from unetseg.data.masks.class_map import IGNORED, ClassMap
from unetseg.data.masks.mask_file import MaskFile, RawMask, fitted, object_pixels, read_mask
from unetseg.data.pairs.match import Pair
from unetseg.prediction.engine import Engine
from unetseg.prediction.outputs import Job
from unetseg.prediction.stream import Stream, read_checked
from unetseg.progress import Progress


@dataclass(frozen=True)
class Truth:
    """The class indexes of a pair.

    Attributes:
        mask: All of them, H×W; of a large pair the file that they are read from.
        class_map: What the values of the mask mean.
        region: Where this file is 0, nothing counts.
    """

    mask: NDArray[np.uint8] | MaskFile
    class_map: ClassMap
    region: MaskFile | None = None

    @property
    def is_large(self) -> bool:
        """Whether they are read when they are asked for."""
        return isinstance(self.mask, MaskFile)

    def rows(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """Those of some rows, rows×W; 255 is ignored.

        Raises:
            DataError: a file cannot be read, or a value of the mask is no class.
        """
        mask = self.mask
        if isinstance(mask, MaskFile):
            values = mask.read(top, 0, bottom - top, mask.size[1])
            class_map = self.class_map.ignoring(mask.nodata)
            index = class_map.encode(values, mask.path, mask.raw.palette)
        else:
            index = mask[top:bottom]
        if self.region is None:
            return index
        inside = object_pixels(self.region.read(top, 0, *index.shape), self.region)
        return np.where(inside, index, IGNORED)

    def close(self) -> None:
        """Let go of the files of a large pair."""
        for file in (self.mask, self.region):
            if isinstance(file, MaskFile):
                file.close()


def open_pair(
    pair: Pair, job: Job, engine: Engine, info: BundleInfo, progress: Progress
) -> tuple[NDArray[Any] | Stream, Truth]:
    """A pair ready for the network: its pixels and classes, or of a large one its open files.

    Raises:
        DataError: it cannot be read, or image and mask do not fit the model or one another.
    """
    max_pixels = job.max_pixels
    if pair.mask is None or not job.is_large:
        pixels, index = read_truth(pair, info, max_pixels)
        return pixels, Truth(index, info.class_map)
    with ExitStack() as files:
        image = files.enter_context(ImageFile(pair.image, max_pixels))
        mask = files.enter_context(MaskFile(pair.mask, max_pixels))
        mask.fit(image.size)
        region = files.enter_context(MaskFile(pair.region, max_pixels)) if pair.region else None
        for file in filter(None, (mask, region)):
            if file.size != image.size:
                raise misfit(image.path, image.size, file.path, file.size)
        if region and region.raw.lossy:
            object_pixels(region.read(0, 0, *region.size), region)  # refuses numbers that blurred
        files.pop_all()  # they stay open until the pair is counted
    return Stream(engine, info, image, progress), Truth(mask, info.class_map, region)


def read_truth(
    pair: Pair, info: BundleInfo, max_pixels: int | None = None
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Image H×W×C of raw pixel values and class indexes H×W, checked against the model.

    Raises:
        DataError: as `open_pair`.
    """
    with ImageFile(pair.image, max_pixels) as file:
        image = read_checked(file, info)
    if pair.mask is None:  # the user says that it shows no object
        ground = info.class_map.background or 0
        index: NDArray[np.uint8] = np.full(image.shape[:2], ground, np.uint8)
    else:
        mask = read_mask(pair.mask, max_pixels)
        index = matched_truth(mask, info.class_map, image.shape, (pair.image, pair.mask))
    if pair.region is not None:
        with MaskFile(pair.region, max_pixels) as region:
            if region.size != index.shape:
                raise misfit(pair.image, index.shape, pair.region, region.size)
            index = Truth(index, info.class_map, region).rows(0, len(index))
    return image, index


def matched_truth(
    mask: RawMask, class_map: ClassMap, shape: Sequence[int], names: tuple[Path, MaskPath]
) -> NDArray[np.uint8]:
    """The class indexes H×W of a mask, for an image of `shape`; `names` are those of both.

    Raises:
        DataError: a value is no class, or the sizes do not fit.
    """
    image, path = names
    size = shape[0], shape[1]
    index = class_map.ignoring(mask.nodata).encode(mask.pixels, path, mask.palette)
    index = fitted(index, size)
    if index.shape != size:
        raise misfit(image, size, path, index.shape)
    return index
