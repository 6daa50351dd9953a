"""What the pixels of one image are like, in one reading; a large TIFF is read strip by strip."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from unetseg.data.facts.similarity import perceptual_hash
from unetseg.data.files import image as image_file
from unetseg.data.files.bands import alpha_share, effective_bands
from unetseg.data.files.image import ImageFile
from unetseg.data.files.nodata import told_missing
from unetseg.data.files.readers import WINDOWED_FORMATS

THUMBNAIL = 1024  # pixels: the longer side of what the perceptual hash is made from, at most
ALPHA_SHARE = 0.95  # of the pixels of an alpha band are 0 or opaque; the others are soft edges
FILL_SHARE = 0.005  # of the pixels; a value that fills less may be there by chance

_GREY = 64  # pixels: the sides that the thumbnail is reduced to
_SUMMABLE = 1e30  # sums of the float32 numbers below stay finite
# Nobody measures just these. They need to lie a tenth of the range of the others away from it.
_CODES = (-9999.0, float(np.finfo(np.float32).min))
# Ends of a number type, where saturated pixels gather too, but then others lie near: these must
# lie further away than the others are from each other.
_ENDS = (-32768.0, 65535.0)


class ImageFacts(BaseModel):
    """One image in numbers; one entry per band in the tuples, raw pixel values.

    Attributes:
        shape: Height and width, pixels, upright.
        dtype: Number type of the pixels.
        mean: Mean of each band, over the finite pixels with data; 0 where there are none.
        std: Deviation of each band, over the same pixels.
        low: Lowest value of each band, over the same pixels.
        high: Highest value of each band, over the same pixels.
        format: What the content is, whatever the name says: PNG, JPEG, TIFF, …
        orientation: 1–8 as EXIF or TIFF store it (the pixels here are upright already).
        pillow_bands: Bands that Pillow sees in the file; None where it cannot open it.
        pixel_hash: BLAKE2b-128 of shape, type and the hashes of the upright bands without an
            opaque alpha, 32 hexadecimal digits.
        perceptual_hash: See `similarity.py`; near-copies have near hashes.
        at_high: Share of the same pixels that hold the highest value of the band, 0–1.
        nodata: The value that the file declares for pixels without data (may be nan).
        nodata_share: Share of the pixels without data, however that is told, 0–1.
        alpha: "mean", "std", "low" and "high" of an alpha band that tells which pixels have data,
            and so is none of the bands; empty where there is none, or an opaque one.
        white_is_zero: Whether it is stored with white as 0, and read as viewers show it.
        scaling: What the file declares that its values are multiplied with, in words.
        fill: A value such as −9999 that stands for "no data" without being declared.
        fill_share: Share of the pixels that hold it in any band, 0–1.
        bad: Pixels with NaN or infinity in any band, those without data not counted.
    """

    # NaN, a common no-data value, must come back from the cache as it went in.
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    shape: tuple[int, int]
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    format: str = ""
    orientation: int = 1
    pillow_bands: int | None = None
    white_is_zero: bool = False
    pixel_hash: str = ""
    perceptual_hash: str = ""
    at_high: tuple[float, ...] = ()
    nodata: float | None = None
    nodata_share: float = 0.0
    alpha: dict[str, float] = {}
    scaling: str = ""
    fill: float | None = None
    fill_share: float = 0.0
    bad: int = 0

    @property
    def pixels(self) -> int:
        """Height × width."""
        return self.shape[0] * self.shape[1]

    @property
    def is_large(self) -> bool:
        """Whether the image is predicted by bands, see `ImageFile`."""
        return self.pixels > image_file.WHOLE_PIXELS

    @property
    def is_windowed(self) -> bool:
        """Whether windows of the image are read one by one, see `ImageFile`."""
        return self.is_large and self.format in WINDOWED_FORMATS

    @property
    def bands(self) -> int:
        """Number of bands, alpha not counted."""
        return len(self.mean)

    @property
    def with_data(self) -> int:
        """Pixels with data, as far as the file declares which have none."""
        return self.pixels - round(self.nodata_share * self.pixels)


def image_facts(path: Path, max_pixels: int | None = None) -> ImageFacts:
    """Read an image and describe it.

    Raises:
        ImageError: it cannot be read.
    """
    with ImageFile(path, max_pixels) as image:
        strips: Callable[[], Iterator[tuple[int, NDArray[Any]]]]
        if image.is_windowed:
            bands, dtype, strips = image.bands, image.dtype, image.strips
        else:
            pixels = image.read()
            bands, dtype, strips = pixels.shape[2], pixels.dtype, partial(iter, [(0, pixels)])
        # Where the last is no opaque alpha, most strips tell at once.
        if bands in {2, 4} and all(effective_bands(strip) < bands for _, strip in strips()):
            bands, has_alpha = bands - 1, False
        else:
            has_alpha = image.alpha and _is_alpha(strip for _, strip in strips())
        tally = _Tally(image, bands - has_alpha, dtype, has_alpha=has_alpha)
        tally.add_all(strips())
        return tally.facts()


def _is_alpha(strips: Iterable[NDArray[Any]]) -> bool:
    """Whether a band that is declared to be alpha is that: nearly all of it lies at its ends.

    Near infrared that a tool has declared so, as in NAIP, varies.
    """
    shares = [(alpha_share(strip), len(strip)) for strip in strips]
    return sum(share * rows for share, rows in shares) >= ALPHA_SHARE * sum(r for _, r in shares)


class _Tally:
    """Counts over the pixels of an image that comes in strips, from top to bottom."""

    def __init__(
        self, image: ImageFile, bands: int, dtype: np.dtype[Any], *, has_alpha: bool
    ) -> None:
        self._image, self._size, self._dtype, self._nodata = image, image.size, dtype, image.nodata
        self._bands = [_Band() for _ in range(bands)]
        self._alpha = _Band() if has_alpha else None
        limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        possible = (v for v in (*_CODES, *_ENDS) if limits.min <= v <= limits.max)
        self._fills = [_Fill(value) for value in possible if value != self._nodata]
        self._missing = self._bad = 0
        self._thumbnail: list[NDArray[Any]] = []
        self._blank: list[NDArray[np.bool_]] = []  # of the thumbnail, where it has no data

    def add_all(self, strips: Iterable[tuple[int, NDArray[Any]]]) -> None:
        """Take in (top, rows×W×C), one below the other."""
        step = -(-max(self._size) // THUMBNAIL)
        for top, strip in strips:
            valid = self._image.valid(top, 0, *strip.shape[:2])
            bands = strip[..., : len(self._bands)]
            if self._alpha is not None:
                alpha = np.ascontiguousarray(strip[..., len(self._bands)])
                self._alpha.digest.update(alpha.data)
                self._alpha.add(alpha)
                valid = alpha != 0 if valid is None else valid & (alpha != 0)
            missing = told_missing(bands, self._nodata, valid)
            picked = np.s_[-top % step :: step, ::step]
            self._thumbnail.append(bands[picked].copy())
            self._blank.append(np.zeros(strip.shape[:2], bool) if missing is None else missing)
            self._blank[-1] = self._blank[-1][picked].copy()
            self._count(bands, missing)

    def _count(self, strip: NDArray[Any], missing: NDArray[np.bool_] | None) -> None:
        kept: NDArray[np.bool_] | None = None  # None keeps all
        if missing is not None:
            kept = ~missing
            self._missing += int(missing.sum())
        if strip.dtype.kind == "f" and not np.isfinite(strip).all():
            finite = np.isfinite(strip).all(axis=-1)
            with_data = np.ones_like(finite) if kept is None else kept
            self._bad += int((with_data & ~finite).sum())
            kept = with_data & finite
        extremes: list[float] = []
        for band, plane in zip(self._bands, np.moveaxis(strip, -1, 0), strict=True):
            # numpy reduces contiguous pixels many times faster than interleaved ones.
            plane = np.ascontiguousarray(plane)
            band.digest.update(plane.data)
            extremes += band.add(plane if kept is None else plane[kept])
        if not extremes:
            return
        pixels = strip if kept is None or not self._fills else strip[kept]
        for fill in self._fills:
            fill.add(pixels, min(extremes), max(extremes))

    def facts(self) -> ImageFacts:
        """What was counted, with what the header of the file says."""
        image, alpha = self._image, self._alpha
        pixels = self._size[0] * self._size[1]
        counted = max(self._bands[0].pixels, 1)
        fills = [f for f in self._fills if f.pixels >= FILL_SHARE * pixels and f.lies_apart]
        fill = max(fills, key=lambda fill: fill.pixels, default=None)
        # A hash of those of the bands, so that interleaved pixels need not be put in order.
        hashed = [*self._bands, *([alpha] if alpha else [])]
        kind = f"{self._size} {len(hashed)} {self._dtype}".encode()
        digests = b"".join(band.digest.digest() for band in hashed)
        return ImageFacts(
            shape=self._size,
            dtype=str(self._dtype),
            mean=tuple(band.mean for band in self._bands),
            std=tuple(band.std for band in self._bands),
            low=tuple(band.low for band in self._bands),
            high=tuple(band.high for band in self._bands),
            format=image.format,
            orientation=image.orientation,
            pillow_bands=image.pillow_bands,
            white_is_zero=image.white_is_zero,
            scaling=image.scaling,
            pixel_hash=blake2b(kind + digests, digest_size=16).hexdigest(),
            perceptual_hash=_resemblance(
                np.concatenate(self._thumbnail),
                np.concatenate(self._blank),
                fill.value if fill else None,
            ),
            at_high=tuple(band.at_high / counted for band in self._bands),
            nodata=self._nodata,
            nodata_share=self._missing / pixels,
            alpha=alpha.numbers if alpha else {},
            fill=fill.value if fill else None,
            fill_share=fill.pixels / pixels if fill else 0,
            bad=self._bad,
        )


@dataclass
class _Band:
    """Counts of one band."""

    digest: blake2b = field(default_factory=lambda: blake2b(digest_size=16))
    pixels: int = 0
    mean: float = 0
    variance: float = 0
    low: float = 0
    high: float = 0
    at_high: int = 0

    @property
    def std(self) -> float:
        """Deviation."""
        return float(np.sqrt(self.variance))

    @property
    def numbers(self) -> dict[str, float]:
        """What `ImageFacts` has of each band."""
        return {"mean": self.mean, "std": self.std, "low": self.low, "high": self.high}

    def add(self, values: NDArray[Any]) -> tuple[float, ...]:
        """Take in contiguous values; their lowest and highest, if there are any."""
        if not values.size:
            return ()
        low, high = float(values.min()), float(values.max())
        if not self.pixels or low < self.low:
            self.low = low
        if not self.pixels or high > self.high:
            self.high, self.at_high = high, 0
        self.at_high += int(np.count_nonzero(values == high)) if high == self.high else 0
        # Parts are merged around their own means (Chan, Golub and LeVeque 1983, The American
        # Statistician 37:242): nothing is lost where the mean is large.
        self.pixels += values.size
        share = values.size / self.pixels
        mean = values.mean(dtype=np.float64, keepdims=True)
        variance = float(values.var(dtype=np.float64, mean=mean))
        shift = float(mean.item()) - self.mean
        self.variance = (1 - share) * self.variance + share * variance
        self.variance += share * (1 - share) * shift**2
        self.mean += share * shift
        return low, high


@dataclass
class _Fill:
    """How often a value is there that may stand for "no data", and the range of all others."""

    value: float
    pixels: int = 0
    low: float = np.inf
    high: float = -np.inf

    def add(self, pixels: NDArray[Any], low: float, high: float) -> None:
        """Take in pixels, …×C, from `low` to `high`; inside that range the value is no fill."""
        if self.value in {low, high}:
            held = pixels == self.value
            self.pixels += int(held.any(axis=-1).sum())
            others = pixels[~held]
            if not others.size:
                return
            low, high = float(others.min()), float(others.max())
        self.low, self.high = min(self.low, low), max(self.high, high)

    @property
    def lies_apart(self) -> bool:
        """Whether the value lies so far outside the others that it is no measurement."""
        gap, spread = max(self.low - self.value, self.value - self.high), self.high - self.low
        if self.value in _ENDS:
            return gap > spread > 0
        return spread < 0 or gap > spread / 10  # spread < 0: there is no other value


def _resemblance(small: NDArray[Any], blank: NDArray[np.bool_], fill: float | None) -> str:
    """The perceptual hash of a thumbnail, H×W×C, that shows nothing where it is blank, H×W."""
    if fill is not None:
        blank |= (small == fill).any(axis=-1)
    if small.dtype.kind == "f":
        blank |= ~(np.abs(small) < _SUMMABLE).all(axis=-1)
    if blank.all():
        return ""
    if blank.any():
        small = np.where(blank[..., None], small.dtype.type(0), small)
    bands, wide = small.shape[-1], small.astype(np.float32)
    grey = wide[..., 0] if bands == 1 else wide @ np.full(bands, 1 / bands, np.float32)  # H, W
    if blank.any():
        grey[blank] = grey[~blank].mean()
    if min(grey.shape) > _GREY:
        grey = np.asarray(cv2.resize(grey, (_GREY, _GREY), interpolation=cv2.INTER_AREA))
    return perceptual_hash(grey)
