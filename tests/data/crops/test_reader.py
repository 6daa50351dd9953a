"""Laws of the reader: what is kept is what is decoded, and few large ones are open at once."""

import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile

from unetseg.data.crops import reader as module
from unetseg.data.crops.reader import DecodedPair, PairReader
from unetseg.data.files import image as image_file
from unetseg.data.files.pngs import write_png
from unetseg.data.masks.class_map import ClassInfo, ClassMap
from unetseg.data.pairs.match import Pair
from unetseg.errors import DataError

CLASSES = ClassMap(
    classes=tuple(ClassInfo(name=str(n), code=n, colour=(n, n, n)) for n in range(3)), background=0
)


def pairs(folder: Path, bands: int, suffix: str = ".png") -> list[Pair]:
    """Eight pairs of 90×70."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(8):
        image, mask = (folder / f"{index}{end}{suffix}" for end in ("", "_mask"))
        pixels = rng.integers(0, 256, (90, 70, bands), np.uint8)
        pixels[..., 3:] = 255
        truth = rng.integers(0, 3, (90, 70), np.uint8)
        if suffix == ".tif":
            tifffile.imwrite(image, pixels)
            tifffile.imwrite(mask, truth)
        else:
            write_png(image, pixels)
            write_png(mask, truth)
        found.append(Pair(image, mask, str(index)))
    return found


@pytest.mark.parametrize("bands", [3, 4])
def test_what_is_kept_is_what_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bands: int
) -> None:
    reader = PairReader(pairs(tmp_path, bands), CLASSES, 3)
    before = [reader[index] for index in range(8)]
    store: dict[int, DecodedPair] = {}
    reader.keep(store)
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_matched", None)
        kept = [reader[index] for index in range(8)]
    for (image, mask), (kept_image, kept_mask) in zip(before, kept, strict=True):
        np.testing.assert_array_equal(image, kept_image)
        np.testing.assert_array_equal(mask, kept_mask)
        assert kept_image.flags.c_contiguous
        assert kept_image.base is None or kept_image.base.nbytes == kept_image.nbytes
    reader.forget()
    assert not store
    np.testing.assert_array_equal(reader[5][0], before[5][0])


def test_as_many_pairs_are_decoded_at_once_as_there_are_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set[int]()

    class Store(dict[int, DecodedPair]):
        def __setitem__(self, index: int, pair: DecodedPair) -> None:
            threads.add(threading.get_ident())
            super().__setitem__(index, pair)

    monkeypatch.setattr(module, "usable_cores", lambda: 1)
    store = Store()
    PairReader(pairs(tmp_path, 3), CLASSES, 3).keep(store)
    assert (len(store), len(threads)) == (8, 1)


def test_few_large_pairs_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 1000)
    monkeypatch.setattr(module, "OPEN_PAIRS", 1)
    reader = PairReader(pairs(tmp_path, 3, ".tif"), CLASSES, 3)
    large = [reader.pair(index) for index in range(8)]
    files = Path("/proc/self/fd")
    if files.is_dir():
        names = [str(link.resolve()) for link in files.iterdir()]
        assert sum(str(tmp_path) in name for name in names) == 2
    first = large[0].crop((45, 35), 20)[0]
    np.testing.assert_array_equal(first, PairReader(reader.pairs, CLASSES, 3)[0][0][35:55, 25:45])
    reader.close()
    reader.pair(0).crop((45, 35), 20)
    reader.close()


def test_large_pairs_of_different_size_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 1000)
    first = pairs(tmp_path, 3, ".tif")[0]
    tifffile.imwrite(str(first.mask), np.zeros((70, 90), np.uint8))
    reader = PairReader([first], CLASSES, 3)
    with pytest.raises(DataError, match=r"0\.tif is 70×90, .*0_mask\.tif is 90×70"):
        reader.files(0)


def test_a_pair_whose_mask_has_become_another_is_refused(tmp_path: Path) -> None:
    """Unless its sides are multiples of the image's, or fractions of them."""
    first = pairs(tmp_path, 3)[0]
    reader, path = PairReader([first], CLASSES, 3), Path(str(first.mask))
    for times in (1, 2):
        write_png(path, np.zeros((90 * times, 70 * times), np.uint8))
        assert reader[0][1].shape == (90, 70)
    write_png(path, np.zeros((70, 90), np.uint8))
    with pytest.raises(DataError, match=r"0\.png is 70×90, .*0_mask\.png is 90×70"):
        reader[0]
