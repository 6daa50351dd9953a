"""Images spoilt on purpose: noise, blur, lost contrast and a foreign texture, in five strengths.

Every function takes an image H×W×C of raw pixel values (uint8, uint16, int16 or float32, any number
of bands), a severity of 0–5 and a seed, which matters where something is drawn, and returns a new
image of the same shape and type. What is added is measured in the image's own spread S, the range
between the 1st and the 99th percentile of each band, so that a severity means the same for 8 bit,
16 bit and reflectances. Results of whole numbers are rounded and held within the range of their
type. Severity 0 gives an equal copy.

The graded severities follow Hendrycks & Dietterich 2019 (1903.12261); the texture takes up Kamath
et al. 2023 (doi 10.1007/978-3-031-43901-8_29), who made foreground and background harder to tell
apart by blending one texture into both.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[Any]
"""H×W×C, raw pixel values."""
Corruption = Callable[[Image, int, int], Image]
"""(image, severity, seed) → a spoilt copy."""

STRONGEST = 5
"""The highest severity."""

# What one step of severity does.
NOISE = 0.05
"""Deviation of the noise, as a share of S."""
BLUR = 0.5
"""Deviation of the Gaussian, pixels."""
CONTRAST = 0.15
"""Share of each pixel's difference from the mean that is lost."""
TEXTURE = 0.15
"""Share of the texture in the blend."""

GRAIN = 2.0
"""Deviation of the Gaussian that the texture is smoothed by, pixels."""
NORMAL_SPREAD = 4.65
"""Range between the 1st and 99th percentile of a normal distribution, in its deviations."""


def noise(image: Image, severity: int, seed: int) -> Image:
    """Gaussian noise: y = x + n, n ~ N(0, (0.05·severity·S)²), drawn for each pixel and band.

    >>> flat = np.full((2, 2, 1), 7, np.uint8)  # has no spread, so that no noise is added
    >>> noise(flat, 5, seed=0).tolist() == flat.tolist()
    True
    """
    amount = np.float32(NOISE * _checked(severity))
    drawn = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
    return _as_type_of(image, image + amount * spread(image) * drawn)


def blur(image: Image, severity: int, seed: int = 0) -> Image:
    """Gaussian blur of deviation 0.5·severity pixels; the border is continued by mirroring."""
    sigma = BLUR * _checked(severity)
    blurred = ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0), mode="reflect")
    return _as_type_of(image, blurred)


def contrast(image: Image, severity: int, seed: int = 0) -> Image:
    """Less contrast: y = m + f·(x − m), f = 1 − 0.15·severity, m the mean of each band.

    >>> contrast(np.array([[[0.0], [100.0]]], np.float32), 2).ravel().tolist()
    [15.0, 85.0]
    """
    factor = np.float32(1 - CONTRAST * _checked(severity))
    middle = _mean(image)
    return _as_type_of(image, middle + factor * (image - middle))


def texture(image: Image, severity: int, seed: int) -> Image:
    """A random texture blended in: y = (1 − a)·x + a·(m + d·t), a = 0.15·severity.

    m is the mean of each band and d = S/4.65, about its deviation. t is a texture of mean 0 and
    deviation 1, the same in all bands: white noise smoothed by a Gaussian of 2 pixels, less the
    same noise smoothed by one of 4 pixels, so that nine tenths of its power lie in periods of
    6 to 20 pixels. It lies over foreground and background alike: what told them apart by their
    grain fades, and a grain that says nothing takes its place.
    """
    share = np.float32(TEXTURE * _checked(severity))
    height, width, _ = image.shape
    foreign = band_limited(height, width, seed)[..., None]  # H, W, 1
    pattern = _mean(image) + spread(image) / np.float32(NORMAL_SPREAD) * foreign
    return _as_type_of(image, (1 - share) * image + share * pattern)


CORRUPTIONS: Mapping[str, Corruption] = {
    "noise": noise,
    "blur": blur,
    "contrast": contrast,
    "texture": texture,
}
"""Every corruption by its name."""


def spread(image: Image) -> NDArray[np.float32]:
    """S: the range between the 1st and the 99th percentile of each band of H×W×C, as C numbers."""
    low, high = np.percentile(image, (1, 99), axis=(0, 1))
    return np.asarray(high - low, np.float32)


def band_limited(height: int, width: int, seed: int) -> NDArray[np.float32]:
    """A random texture H×W of mean 0 and deviation 1, without its finest and broadest grain."""
    white = np.random.default_rng(seed).standard_normal((height, width), np.float32)
    fine = ndimage.gaussian_filter(white, GRAIN, mode="wrap")
    broad = ndimage.gaussian_filter(white, 2 * GRAIN, mode="wrap")
    band = fine - broad
    deviation = max(float(band.std()), np.finfo(np.float32).tiny)
    return np.asarray((band - band.mean()) / deviation, np.float32)


def _checked(severity: int) -> int:
    if not 0 <= severity <= STRONGEST:
        raise ValueError(f"severity {severity} is not within 0–{STRONGEST}")
    return severity


def _mean(image: Image) -> NDArray[np.float32]:
    return np.asarray(image.mean((0, 1), np.float64), np.float32)


def _as_type_of(image: Image, values: NDArray[Any]) -> Image:
    """`values` in the type of `image`: rounded and within its range where that is of integers."""
    if image.dtype.kind == "f":
        return values.astype(image.dtype)
    limits = np.iinfo(image.dtype)
    whole: Image = np.rint(values).clip(limits.min, limits.max).astype(image.dtype)
    return whole
