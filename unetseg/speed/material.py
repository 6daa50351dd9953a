"""What is measured with: drawn pairs of any kind, or images of the user's."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo
from unetseg.config import PairsConfig
from unetseg.data.facts.fingerprint import PairFacts
from unetseg.data.facts.image_values import image_facts
from unetseg.data.facts.survey import Survey
from unetseg.data.files.folders import find_images
from unetseg.data.files.images import write_png, write_tiff
from unetseg.data.masks.class_map import ClassInfo, ClassMap, write_mask
from unetseg.data.masks.mask_values import mask_facts
from unetseg.data.masks.rasters import is_giant
from unetseg.data.pairs.description import find_described
from unetseg.data.pairs.match import Pair, PairSet
from unetseg.data.sample import draw_cells
from unetseg.errors import ImageError, PairingError

CELLS = ClassMap(
    classes=(
        ClassInfo(name="background", code=0, colour=(0, 0, 0)),
        ClassInfo(name="cell", code=255, colour=(255, 255, 255)),
    ),
    background=0,
)
"""What the masks of the drawn pairs mean when nobody asks for other classes."""
PATCH = 256
"""Side of the picture that is drawn; larger images repeat it, as drawing takes its time."""
PAIRS = 8
"""Pairs that are drawn: the picture in all its mirror images."""
LARGEST_VALUE = 10_000
"""Of drawn images with more than 8 bits."""


@dataclass(frozen=True)
class Kind:
    """What images and masks are like."""

    bands: int = 3
    dtype: str = "uint8"
    """Pixel type (numpy name)."""
    class_map: ClassMap = CELLS


def kind_of(info: BundleInfo) -> Kind:
    """What a trained U-Net takes and gives."""
    return Kind(info.bands, info.dtype, info.class_map)


def kind_of_file(path: Path) -> Kind:
    """What a U-Net for images like this one would take.

    Raises:
        ImageError: it cannot be read.
    """
    facts = image_facts(path)
    return Kind(facts.bands, facts.dtype)


def draw_pairs(folder: Path, kind: Kind, side: int) -> Survey:
    """Draw pairs into `folder`, ready for training; one of them is for validation.

    Args:
        folder: Where `images/` and `masks/` go.
        kind: What they are like.
        side: Height and width, pixels.
    """
    picture, mask = draw_cells(PATCH, seed=0, index=0)
    pairs = []
    for number in range(PAIRS):
        image, truth = (_arranged(array, number, side) for array in (picture, mask > 0))
        name = f"cells_{number}"
        path = _write_image(folder / "images" / name, _valued(image, kind))
        target = folder / "masks" / f"{name}{kind.class_map.suffix}"
        write_mask(target, _indexes(truth, len(kind.class_map.classes)), kind.class_map)
        pairs.append(Pair(path, target, name, "val" if number == 0 else "train"))
    facts = {pair.name: _facts(pair) for pair in pairs}
    found = PairSet(folder, tuple(pairs), "drawn")
    return Survey(found, facts, kind.class_map, rules=())


def _arranged(array: NDArray[Any], number: int, side: int) -> NDArray[Any]:
    """One of the eight mirror images of a square array, continued by mirroring to `side`."""
    turned = np.rot90(array, number % 4)
    turned = turned[::-1] if number >= 4 else turned
    missing = max(0, side - len(turned))
    edges = ((0, missing), (0, missing), *[(0, 0)] * (array.ndim - 2))
    return np.ascontiguousarray(np.pad(turned, edges, "symmetric")[:side, :side])


def _valued(image: NDArray[np.uint8], kind: Kind) -> NDArray[Any]:
    """A picture H×W×3 with the bands and the pixel type of `kind`."""
    banded = image[..., np.arange(kind.bands) % image.shape[-1]]
    dtype = np.dtype(kind.dtype)
    if dtype == np.uint8:
        return banded
    highest = min(np.iinfo(dtype).max, LARGEST_VALUE) if dtype.kind in "iu" else 1
    return np.asarray((banded / 255 * highest).astype(dtype))


def _indexes(truth: NDArray[np.bool_], classes: int) -> NDArray[np.uint8]:
    """Class indexes H×W: 0 outside the cells, and inside one class beside the other."""
    height, width = truth.shape
    stripes = 1 + np.arange(width) * (classes - 1) // width
    inside = np.broadcast_to(np.minimum(stripes, classes - 1), (height, width))
    return np.where(truth, inside, 0).astype(np.uint8)


def _write_image(stem: Path, image: NDArray[Any]) -> Path:
    """Write a PNG where that is usual, else a TIFF."""
    is_usual = image.dtype == np.uint8 and image.shape[-1] in (1, 3)
    path = stem.with_suffix(".png" if is_usual else ".tif")
    (write_png if is_usual else write_tiff)(path, image)
    return path


def _facts(pair: Pair) -> PairFacts:
    assert pair.mask is not None
    return PairFacts(hash=pair.name, image=image_facts(pair.image), mask=mask_facts(pair.mask))


def find_material(data: Path) -> list[Path]:
    """The images that `data` is or holds: of its pairs where it has pairs, else all.

    Those bigger than memory are left out: one of them would take all the time.

    Raises:
        ImageError: there are none.
    """
    try:
        paths = [pair.image for pair in find_described(data, PairsConfig()).pairs]
    except PairingError:
        paths = [path for path, _ in find_images([data])]
    ordinary = [path for path in paths if not _is_giant(path)]
    if not ordinary:
        raise ImageError("every image is bigger than memory", paths, "Give some ordinary images.")
    return ordinary


def _is_giant(path: Path) -> bool:
    try:
        return is_giant(path)
    except ImageError:  # it is refused with its reason when it is read
        return False


def spread_out(paths: Sequence[Path], count: int) -> list[Path]:
    """`count` of the paths from all over the list, or all where there are fewer.

    >>> [path.name for path in spread_out([Path(name) for name in "abcdefg"], 3)]
    ['a', 'c', 'e']
    """
    count = min(count, len(paths))
    return [paths[at * len(paths) // count] for at in range(count)]


def repeated(paths: Sequence[Path], count: int, folder: Path) -> list[Path]:
    """`count` files in `folder` that are those of `paths`, again and again."""
    folder.mkdir()
    links = []
    for number in range(count):
        path = paths[number % len(paths)]
        links.append(folder / f"{number:04d}{path.suffix}")
        shutil.copyfile(path, links[-1])
    return links
