"""What is written for one image: its mask, and its probabilities and overlay where asked for.

Ordinary images get masks as the training had them. Images that are placed on the earth, that
declare a no-data value, or that are predicted band by band get GeoTIFFs with the same place.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.georeference import Georeference
from unetseg.data.files.geotiff import Halving, RasterWriter, every_other, mean_of_four
from unetseg.data.files.image import ImageFile
from unetseg.data.files.nodata import missing_pixels
from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.masks.class_map import ClassMap, write_mask
from unetseg.data.masks.overlay import Levels, levels_of, overlay, picture
from unetseg.errors import ImageError
from unetseg.prediction.nodata import mask_pixels, no_data_tag


@dataclass(frozen=True)
class Job:
    """An image, and the file for its mask."""

    image: Path
    mask: Path
    pixels: int = 0
    """Height × width."""
    is_giant: bool = False
    """Whether it is predicted band by band."""
    place: Georeference | None = None
    nodata: float | None = None
    """Value of its pixels without data."""

    @property
    def is_geotiff(self) -> bool:
        """Whether GeoTIFFs are written."""
        return self.is_giant or self.place is not None or self.nodata is not None

    @property
    def overlay(self) -> Path:
        """The file for the image with the classes drawn over it."""
        suffix = ".tif" if self.is_geotiff else ".png"
        return self.mask.with_name(f"{self.mask.stem}_overlay{suffix}")

    @property
    def probabilities(self) -> Path:
        """The file for the probabilities."""
        return self.mask.with_name(f"{self.mask.stem}_probabilities.tif")


def plan_job(image: Path, stem: Path, class_map: ClassMap) -> Job:
    """How `image` is predicted, from its header alone; the mask is `stem` and a suffix."""
    try:
        with ImageFile(image) as file:
            job = Job(image, stem, file.pixels, file.is_large, file.georeference, file.nodata)
    except ImageError:  # it is listed with the reason when it is read
        job = Job(image, stem)
    suffix = ".tif" if job.is_geotiff else class_map.suffix
    return replace(job, mask=stem.with_name(stem.name + suffix))


@dataclass(frozen=True)
class GeotiffWriter:
    """Writes what is predicted for one image as GeoTIFFs, from top to bottom.

    Args:
        job: Where to, and what the image's header says.
        height: Pixels.
        width: Pixels.
        overviews: Whether smaller copies for viewers are added.
    """

    job: Job
    height: int
    width: int
    overviews: bool = False

    def write_mask(self, pieces: Iterator[NDArray[np.uint8]], class_map: ClassMap) -> None:
        """Write class indexes, in pieces of rows×W, in the coding of the training masks."""
        coded = (mask_pixels(piece, class_map) for piece in pieces)
        nodata = None if self.job.nodata is None else no_data_tag(class_map)
        self._write(self.job.mask, coded, every_other, class_map.palette, nodata)

    def write_probabilities(self, pieces: Iterator[NDArray[np.float32]]) -> None:
        """Write pieces of rows×W×K; without data there is NaN."""
        nodata = None if self.job.nodata is None else np.nan
        self._write(self.job.probabilities, pieces, mean_of_four, nodata=nodata)

    def write_overlay(self, pieces: Iterator[NDArray[np.uint8]]) -> None:
        """Write pieces of rows×W×3."""
        self._write(self.job.overlay, pieces, mean_of_four)

    def _write(
        self,
        path: Path,
        pieces: Iterator[NDArray[Any]],
        halving: Halving,
        palette: tuple[int, ...] | None = None,
        nodata: float | None = None,
    ) -> None:
        first = next(pieces)
        bands = first.shape[2] if first.ndim == 3 else 1
        with RasterWriter(
            path,
            self.height,
            self.width,
            bands,
            first.dtype,
            palette=palette,
            place=self.job.place,
            nodata=nodata,
            overviews=halving if self.overviews else None,
        ) as writer:
            top = 0
            for piece in chain([first], pieces):
                writer.write(top, piece)
                top += len(piece)


def write_outputs(
    job: Job,
    class_map: ClassMap,
    index: NDArray[np.uint8],
    probabilities: NDArray[np.float32] | None = None,
    shown: NDArray[np.uint8] | None = None,
    *,
    overviews: bool = False,
) -> Path:
    """Write what is predicted for an ordinary image, the mask last: it says that all is there.

    Args:
        job: Where to.
        class_map: The coding of the mask.
        index: Class indexes H×W.
        probabilities: K×H×W, if they are wanted.
        shown: The overlay H×W×3, if it is wanted.
        overviews: Whether GeoTIFFs get smaller copies for viewers.

    Returns:
        The file of the mask.
    """
    height, width = index.shape
    geotiff = GeotiffWriter(job, height, width, overviews) if job.is_geotiff else None
    if probabilities is not None:
        bands = probabilities.transpose(1, 2, 0)  # H, W, K
        if geotiff:
            geotiff.write_probabilities(iter([bands]))
        else:
            write_tiff(job.probabilities, bands)
    if shown is not None:
        if geotiff:
            geotiff.write_overlay(iter([shown]))
        else:
            write_png(job.overlay, shown)
    if geotiff:
        geotiff.write_mask(iter([index]), class_map)
    else:
        write_mask(job.mask, index, class_map)
    return job.mask


def draw_classes(
    image: NDArray[Any],
    index: NDArray[np.uint8],
    class_map: ClassMap,
    levels: Levels | None,
    outline: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """An image, or a part of a larger one, with its classes drawn over it; see `overlay`."""
    return overlay(
        picture(image, levels),
        index,
        class_map.colours,
        background=class_map.background,
        outline=outline,
    )


def levels_with_data(image: NDArray[Any], nodata: float | None) -> Levels:
    """What is drawn black and white in an image H×W×C, pixels without data not counted."""
    missing = missing_pixels(image, nodata)
    if image.dtype == np.uint8 or not missing.any():
        return levels_of(image)
    values = image.astype(np.float32)
    values[missing] = np.nan
    return levels_of(values)
