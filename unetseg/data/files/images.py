"""The names of before, until nothing uses them."""

from pathlib import Path

from unetseg.data.files.image import ImageFile
from unetseg.data.files.image import match_bands as match_bands
from unetseg.data.files.image import read_image as read_image
from unetseg.data.files.limits import allow_pixels as allow_pixels
from unetseg.data.files.pngs import write_png as write_png
from unetseg.data.files.tiffs import write_tiff as write_tiff


def pixel_count(path: Path) -> int:
    """Height times width."""
    with ImageFile(path) as image:
        return image.pixels
