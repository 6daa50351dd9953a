"""Draws the sample folder that the demo and the tests use: stained cells on uneven tissue.

The pictures are learnable but no threshold solves them: the light falls off to one side, the tissue
is blotched in the colour of the cells, some cells are faint, and fibres and specks of the same
stain are background.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from unetseg.errors import ConfigError, MachineError
from unetseg.progress import SILENT, Progress
from unetseg.storage import atomic_path, read_json, write_json

Array = NDArray[np.float32]

MARKER = "sample.json"
TASK = "draw sample"
SMALLEST = 32  # pixels

# Share of the light that the stain takes at full strength, red, green, blue: a violet
STAIN = np.array([0.48, 0.72, 0.22], np.float32)
PAPER = np.array([0.95, 0.92, 0.93], np.float32)


def draw_sample(
    folder: Path,
    *,
    count: int = 24,
    size: int = 256,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Path:
    """Write `count` pairs `images/cells_000.png` (RGB) and `masks/cells_000.png` (0 and 255).

    Each pair is a pure function of `size`, `seed` and its number, and each file is written whole.
    Where the same sample is there already only missing files are drawn, so that an interrupted
    call is fixed by repeating it.

    Args:
        folder: Where `images/` and `masks/` go; made if need be.
        count: Number of pairs, at least 1.
        size: Height and width, pixels, at least 32.
        seed: Seed of every random draw, at least 0.
        progress: Told about every pair.

    Returns:
        `folder`.

    Raises:
        ConfigError: `count`, `size` or `seed` is too small.
        MachineError: `folder` holds something else, or cannot be written.
    """
    _check_settings(count, size, seed)
    _claim(folder, {"drawn_by": "unetseg sample", "count": count, "size": size, "seed": seed})
    progress.start(TASK, count)
    for index in range(count):
        name = f"cells_{index:03d}.png"
        paths = folder / "images" / name, folder / "masks" / name
        if not all(path.is_file() for path in paths):
            for path, pixels in zip(paths, draw_cells(size, seed, index), strict=True):
                with atomic_path(path) as temporary:
                    Image.fromarray(pixels).save(temporary)
        progress.advance(TASK, file=name)
    progress.finish(TASK)
    return folder


def draw_cells(size: int, seed: int, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw pair number `index`: image H×W×3 and mask H×W with 0 (background) and 255 (cell).

    >>> image, mask = draw_cells(64, seed=0, index=3)
    >>> image.shape, mask.shape, np.unique(mask).tolist()
    ((64, 64, 3), (64, 64), [0, 255])
    """
    rng = np.random.default_rng([seed, index])
    stain, mask = _cells(rng, size)
    stain = np.maximum(stain, _fibres(rng, size))
    stain = np.maximum(stain, _specks(rng, size)) + _blotches(rng, size)
    hue = STAIN * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    picture = (PAPER - stain[..., None] * hue) * _light(rng, size)[..., None]
    picture += rng.normal(0, 0.03, picture.shape)  # of the camera
    image = np.clip(picture * 255, 0, 255).round().astype(np.uint8)
    return image, np.where(mask, np.uint8(255), np.uint8(0))


def _cells(rng: np.random.Generator, size: int) -> tuple[Array, NDArray[np.bool_]]:
    """Cells until they cover a drawn share: stain 0–1 H×W, and where they are H×W."""
    stain = np.zeros((size, size), np.float32)
    mask = np.zeros((size, size), bool)
    share = rng.uniform(0.12, 0.32)
    while mask.mean() < share:
        distance, radius = _random_cell(rng, size)
        strength = rng.uniform(0.3, 0.85)
        rim = 1 - 0.35 * np.exp(-(((distance - 0.45) / 0.3) ** 2))  # paler inside than at the rim
        edge = np.clip((1 - distance) * radius + 0.5, 0, 1)  # 1 pixel wide
        stain = stain * (1 - edge) + np.maximum(stain, strength * rim) * edge
        mask |= distance <= 1
    grain = 1 + 0.18 * _texture(rng, size, 1.2)
    return stain * grain, mask


def _random_cell(rng: np.random.Generator, size: int) -> tuple[Array, float]:
    """A wobbly ellipse: the distance from its centre, H×W, 1 on the outline; its smaller radius."""
    radius, stretch = size * rng.uniform(0.03, 0.09), rng.uniform(1, 1.6)  # pixels
    row, column = rng.uniform(0, size), rng.uniform(0, size)
    angle, wobble, phase = rng.uniform(0, np.pi), rng.uniform(0, 0.12), rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    rows, columns = rows - row, columns - column
    along = (columns * np.cos(angle) + rows * np.sin(angle)) / (radius * stretch)
    across = (rows * np.cos(angle) - columns * np.sin(angle)) / (radius / stretch)
    wave = np.cos(3 * np.arctan2(across, along) + phase)
    distance: Array = np.hypot(along, across) / (1 + wobble * wave)
    return distance, radius / stretch


def _fibres(rng: np.random.Generator, size: int) -> Array:
    """Thin bent lines in the stain of the cells, H×W."""
    stain = np.zeros((size, size), np.float32)
    steps = np.linspace(-1, 1, 4 * size)
    for _ in range(rng.integers(3, 7)):
        angle, bend = rng.uniform(0, np.pi), rng.normal(0, 0.25)
        start = rng.uniform(0.1, 0.9, 2)
        rows = (start[0] + steps * np.sin(angle) + bend * steps**2 * np.cos(angle)) * size
        columns = (start[1] + steps * np.cos(angle) - bend * steps**2 * np.sin(angle)) * size
        inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
        stain[rows[inside].astype(int), columns[inside].astype(int)] = rng.uniform(0.5, 1)
    soft: Array = ndimage.gaussian_filter(stain, 0.8)
    return soft * 1.3


def _specks(rng: np.random.Generator, size: int) -> Array:
    """Dots of two or three pixels, darker than any cell, H×W."""
    stain = np.zeros((size, size), np.float32)
    places = rng.integers(0, size, (2, max(4, size * size // 1600)))
    stain[places[0], places[1]] = rng.uniform(3, 8, places.shape[1])
    soft: Array = ndimage.gaussian_filter(stain, 1.0)
    return np.minimum(soft, 1)


def _blotches(rng: np.random.Generator, size: int) -> Array:
    """Tissue between the cells: broad pale patches and fine grain, H×W."""
    broad = np.clip(_texture(rng, size, size / 14), -0.6, 2.2)
    fine = _texture(rng, size, 1.5)
    result: Array = 0.12 + 0.09 * broad + 0.03 * fine
    return result


def _light(rng: np.random.Generator, size: int) -> Array:
    """Brightness that falls off to one side and to the corners, 0.6–1, H×W."""
    rows, columns = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = (columns * np.cos(angle) + rows * np.sin(angle)) / np.sqrt(2)
    result: Array = 0.86 + 0.14 * slope - 0.06 * (rows**2 + columns**2)
    return result


def _texture(rng: np.random.Generator, size: int, sigma: float) -> Array:
    """Smooth noise of mean 0 and deviation 1, with features of `sigma` pixels, H×W."""
    noise = rng.normal(size=(size, size)).astype(np.float32)
    smooth: Array = ndimage.gaussian_filter(noise, sigma, mode="wrap")
    result: Array = (smooth - smooth.mean()) / smooth.std()
    return result


def _check_settings(count: int, size: int, seed: int) -> None:
    lowest = {"count": (count, 1), "size": (size, SMALLEST), "seed": (seed, 0)}
    wrong = [
        f"{name} is {value}; the least is {least}"
        for name, (value, least) in lowest.items()
        if value < least
    ]
    if wrong:
        raise ConfigError("a sample cannot be drawn with these settings", wrong)


def _claim(folder: Path, recipe: dict[str, Any]) -> None:
    """Mark `folder` as the sample of `recipe`, unless it holds anything else."""
    if folder.exists() and not folder.is_dir():
        raise MachineError(f"{folder} is a file; a sample needs a folder")
    content = [path for path in folder.glob("*") if not path.name.startswith(".")]
    if not content:
        write_json(folder / MARKER, recipe)
    elif read_json(folder / MARKER) != recipe:
        fix = "Choose another folder, or empty this one."
        raise MachineError(f"{folder} holds something else than this sample", sorted(content), fix)
