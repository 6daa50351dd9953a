"""Windows: numpy's reflection, from memory or from disk; and the pixels that a class has."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetseg.data.crops.crop import LargePair, WholePair, crop, find_spots
from unetseg.data.files import image as image_file
from unetseg.data.files.image import ImageFile
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.masks.class_map import ClassInfo, ClassMap
from unetseg.data.masks.mask_file import MaskFile

CLASSES = ClassMap(
    classes=tuple(ClassInfo(name=str(n), code=n, colour=(n, n, n)) for n in range(9)), background=0
)


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    centre=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    size=st.integers(1, 30),
)
def test_a_window_is_numpys_reflection(
    shape: tuple[int, int], centre: tuple[int, int], size: int
) -> None:
    array = np.arange(shape[0] * shape[1]).reshape(shape)
    centre = (min(centre[0], shape[0] - 1), min(centre[1], shape[1] - 1))
    margin = size
    padded: NDArray[np.int64] = np.pad(array, margin, "reflect")
    top, left = (middle - size // 2 + margin for middle in centre)
    np.testing.assert_array_equal(
        crop(array, centre, size), padded[top : top + size, left : left + size]
    )


@settings(max_examples=30, deadline=None)
@given(
    centre=st.tuples(st.integers(0, 39), st.integers(0, 28)),
    size=st.integers(1, 100),
    bands=st.sampled_from([1, 3]),
)
def test_a_window_from_disk_is_that_from_memory(
    centre: tuple[int, int], size: int, bands: int, tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.mktemp("window")
    rng = np.random.default_rng(size)
    image = rng.integers(0, 2**16, (40, 29, bands), dtype=np.uint16)
    mask = rng.integers(0, 9, (40, 29), dtype=np.uint8)
    write_tiff(folder / "i.tif", image)
    tifffile.imwrite(folder / "m.tif", mask, tile=(16, 16), compression="zlib")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_file, "WHOLE_PIXELS", 100)
        pair = LargePair(ImageFile(folder / "i.tif"), MaskFile(folder / "m.tif"), CLASSES, bands)
        whole = WholePair(image, mask)
        assert pair.size == whole.size
        for part, expected in zip(pair.crop(centre, size), whole.crop(centre, size), strict=True):
            np.testing.assert_array_equal(part, expected)
        pair.close()


def test_only_the_part_inside_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An error in another tile does not reach the window."""
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 100)
    mask = np.zeros((64, 64), np.uint8)
    mask[40, 40] = 200  # no class
    tifffile.imwrite(tmp_path / "m.tif", mask)
    with ImageFile(tmp_path / "m.tif") as image, MaskFile(tmp_path / "m.tif") as truth:
        _, part = LargePair(image, truth, CLASSES, 1).crop((2, 2), 60)
    assert part.shape == (60, 60)


# Spots


def strips(mask: NDArray[np.uint8], rows: int) -> list[tuple[int, NDArray[np.uint8]]]:
    return [(top, mask[top : top + rows]) for top in range(0, len(mask), rows)]


def test_a_class_with_few_pixels_keeps_them_all() -> None:
    mask = np.random.default_rng(0).integers(0, 4, (50, 40), dtype=np.uint8)
    spots = find_spots(strips(mask, 7), (1, 3, 8))
    assert set(spots) == {1, 3}
    for wanted, pixels in spots.items():
        assert sorted(map(tuple, pixels.tolist())) == [*map(tuple, np.argwhere(mask == wanted))]


def test_spots_are_drawn_evenly() -> None:
    """Of two areas of one class, one 3 times as large, it has 3 times as many; in every run."""
    mask = np.zeros((400, 100), np.uint8)
    mask[:100] = mask[200:230, :100] = 1
    mask[300:] = 2
    spots = find_spots(strips(mask, 64), (1, 2), most=1000)
    assert [len(pixels) for pixels in spots.values()] == [1000, 1000]
    assert len(np.unique(spots[1], axis=0)) == 1000
    assert (mask[tuple(spots[1].T)] == 1).all()
    above = (spots[1][:, 0] < 100).mean()
    assert above == pytest.approx(100 / 130, abs=4 * np.sqrt(0.25 / 1000))
    again = find_spots(strips(mask, 64), (1, 2), most=1000)
    np.testing.assert_array_equal(spots[1], again[1])
