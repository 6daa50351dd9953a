"""Rasters that GDAL reads and tifffile does not: VRT mosaics, ERDAS Imagine, ENVI."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.georeference import place_of, quiet
from unetseg.data.files.limits import PIXEL_BYTES, bomb, explained, gdal_faults, unreadable
from unetseg.data.files.tiffs import told_scaling
from unetseg.data.files.vrts import (
    HFA_START,
    VRT_START,
    first_bytes,
    has_envi_header,
    refuse_foreign_sources,
)
from unetseg.data.files.windows import Window
from unetseg.errors import ImageError
from unetseg.storage import is_file

_STARTS = {"VRT": VRT_START, "HFA": HFA_START}
_ENVI_SUFFIXES = frozenset({".dat", ".img", ".bsq", ".bil", ".bip", ".raw", ".envi", ""})
UNTRAINED = "VRT, ERDAS .img and ENVI files are predicted, and trained on where a CSV names them"


class Raster:
    """An open raster; the pixels are as stored, read by windows as GDAL does.

    Attributes:
        format: VRT, HFA or ENVI.
        shape: Height, width and bands.
        dtype: Number type of the pixels.
        georeference: Where it lies on the earth.
        nodata: The value that it declares for pixels without data, in all bands.
        alpha: Whether the last band is declared to be alpha.
        has_mask: Whether a mask tells which pixels are valid, or values that differ by band.
        scaling: What it declares that its values are multiplied with.

    Raises:
        ImageError: GDAL cannot open it, or its bands differ in type.
    """

    lossy, orientation, palette = False, 1, None

    def __init__(self, path: Path, driver: str, max_pixels: int) -> None:
        self._path, self._lock, self._max_pixels = path, threading.Lock(), max_pixels
        if driver == "VRT":
            refuse_foreign_sources(path)
        self._raster: Any = _opened(path, driver)
        with _answered(path):
            self._describe(driver)

    def _describe(self, driver: str) -> None:
        raster, path = self._raster, self._path
        if len({*raster.dtypes}) > 1:
            raise unreadable(path, f"its bands differ in type: {', '.join(raster.dtypes)}")
        self.format, self.dtype = driver, np.dtype(raster.dtypes[0])
        self.shape = int(raster.height), int(raster.width), int(raster.count)
        self.kind = str(self.dtype)
        self.segment: tuple[int, int] = raster.block_shapes[0]
        values = dict.fromkeys(str(value) for value in raster.nodatavals if value is not None)
        self.nodata: float | None = raster.nodata if len(values) == 1 else None
        may_be_alpha = self.shape[2] > 1 and self.dtype in (np.uint8, np.uint16)
        self.alpha = may_be_alpha and raster.colorinterp[-1].name == "alpha"
        self.scaling = told_scaling(raster.scales, raster.offsets)
        self.has_mask = len(values) > 1 or has_mask(raster)
        self.georeference = place_of(raster)

    def whole(self) -> NDArray[Any]:
        """All pixels, H×W×C."""
        return self.window(Window(0, 0, *self.shape[:2]))

    def window(self, window: Window) -> NDArray[Any]:
        """The pixels of `window`, which lies inside: H×W×C, the same as of `whole`."""
        _, _, height, width = window
        size = height * width * self.shape[2] * self.dtype.itemsize
        if size > PIXEL_BYTES * self._max_pixels:
            told = f"{width}×{height} pixels of {self.shape[2]} bands"
            raise bomb(self._path, size // PIXEL_BYTES + 1, told, self._max_pixels)
        with _answered(self._path), self._lock:  # GDAL's handles are for one thread at a time
            pixels: NDArray[Any] = self._raster.read(window=window.slices)
        return np.moveaxis(pixels, 0, -1)

    def close(self) -> None:
        """Close the file."""
        self._raster.close()


def has_mask(raster: Any) -> bool:
    """Whether a mask, and no alpha, tells which pixels of all bands are valid."""
    flags = [{flag.name for flag in of_band} for of_band in raster.mask_flag_enums]
    return {"per_dataset"} in flags


class ValidityMask:
    """Which pixels of a file are valid, as GDAL has it from a mask in the file or beside it.

    Raises:
        ImageError: GDAL cannot open the file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._raster = _opened(path)
        beside = path.with_name(f"{path.name}.msk")
        if is_file(beside) and not has_mask(self._raster):
            raise unreadable(beside, "GDAL finds no mask in it")

    def window(self, window: Window) -> NDArray[np.bool_]:
        """Whether there are data, H×W, in a window of the image as it is stored."""
        with _answered(self._path), self._lock:
            mask: NDArray[np.uint8] = self._raster.dataset_mask(window=window.slices)
        return np.asarray(mask != 0)

    def close(self) -> None:
        """Close the file."""
        self._raster.close()


def _opened(path: Path, driver: str | None = None) -> Any:
    """A file that GDAL has opened; it says nothing of images that lie nowhere.

    Raises:
        ImageError: it cannot.
    """
    import rasterio

    with _answered(path), quiet():
        return rasterio.open(path.absolute(), driver=driver)


@contextmanager
def _answered(path: Path) -> Iterator[None]:
    try:
        yield
    except gdal_faults() as error:
        raise unreadable(path, error.__cause__ or error) from error


def raster_driver(path: Path, start: bytes) -> str:
    """VRT or HFA by the first bytes, ENVI by the header beside the file; nothing of other files."""
    for driver, beginning in _STARTS.items():
        if start.startswith(beginning):
            return driver
    is_envi = path.suffix.lower() in _ENVI_SUFFIXES and has_envi_header(path)
    return "ENVI" if is_envi else ""


def is_raster(path: Path) -> bool:
    """Whether a file that its suffix would let pass is such a raster, by its first bytes."""
    may_be = path.suffix.lower() in {*_ENVI_SUFFIXES, ".vrt"}
    return may_be and path.is_file() and bool(raster_driver(path, first_bytes(path)))


def read_with(image: Path) -> list[Path]:
    """The other files that tell of an image's pixels: those beside it, and the sources of a mosaic.

    What lies beside it and tells of its place alone: see `companions`.
    """
    beside = {image.with_name(f"{image.name}{end}") for end in (".aux.xml", ".msk", ".hdr")}
    beside |= {image.with_suffix(".hdr")}
    shown = sources_of(image) if image.suffix.lower() == ".vrt" else set()
    return sorted(filter(is_file, (beside | shown) - {image}))


def sources_of(vrt: Path) -> set[Path]:
    """The files whose pixels a VRT shows, with links resolved; none of a damaged one."""
    try:
        with explained(vrt):
            refuse_foreign_sources(vrt)
            with _opened(vrt, "VRT") as raster:
                return {Path(name).resolve() for name in raster.files[1:]}
    except ImageError:
        return set()  # it is listed with the reason when it is read
