"""The names of before, until nothing uses them."""

from pathlib import Path

from unetseg.data.files.folders import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from unetseg.data.files.image import ImageFile
from unetseg.data.files.image import effective_bands as effective_bands
from unetseg.data.files.image import match_bands as match_bands
from unetseg.data.files.image import read_image as read_image
from unetseg.data.files.image import upright as upright
from unetseg.data.files.limits import PIXEL_LIMIT as PIXEL_LIMIT
from unetseg.data.files.limits import allow_pixels as allow_pixels
from unetseg.data.files.limits import pixel_limit as pixel_limit
from unetseg.data.files.pngs import write_png as write_png
from unetseg.data.files.tiffs import write_tiff as write_tiff


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an upright image, pixels."""
    with ImageFile(path) as image:
        return image.size


def pixel_count(path: Path) -> int:
    """Height times width."""
    with ImageFile(path) as image:
        return image.pixels


def content_format(path: Path) -> str:
    """The format by the content."""
    with ImageFile(path) as image:
        return image.format


def stored_orientation(path: Path) -> int:
    """The orientation, 1–8."""
    with ImageFile(path) as image:
        return image.orientation
