"""The names of before, until nothing uses them."""

from pathlib import Path

from unetseg.data.files.georeference import Georeference as Georeference
from unetseg.data.files.image import ImageFile
from unetseg.data.masks.mask_file import MaskFile

Raster = ImageFile
MaskRaster = MaskFile
open_raster = ImageFile
open_mask_raster = MaskFile


def is_giant(path: Path) -> bool:
    """Whether an image is large."""
    with ImageFile(path) as image:
        return image.is_large


def reads_by_windows(path: Path) -> bool:
    """Whether a file is read by windows."""
    with ImageFile(path) as image:
        return image.is_windowed


def georeference(path: Path) -> tuple[Georeference | None, float | None]:
    """Georeference and no-data value."""
    with ImageFile(path) as image:
        return image.georeference, image.nodata
