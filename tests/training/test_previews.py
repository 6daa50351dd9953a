"""Laws of previews: a pair bigger than memory is shown by a window, and never decoded whole."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.builders import CELLS, CPU, bundle_info, noise, random_segmenter
from unetseg.data.crops import reader as reading
from unetseg.data.crops.reader import PairReader
from unetseg.data.files import image as image_file
from unetseg.data.pairs.match import find_pairs
from unetseg.prediction.engine import Engine
from unetseg.training import previews
from unetseg.training.previews import middle, validation_sheet


@pytest.fixture
def reader(tmp_path: Path) -> PairReader:
    """One pair of 200×120 pixels."""
    image, mask = noise(200, 120, 3), np.where(noise(200, 120) < 80, 255, 0).astype(np.uint8)
    for kind, array in (("images", image), ("masks", mask)):
        (tmp_path / kind).mkdir()
        tifffile.imwrite(tmp_path / kind / "a.tif", array, tile=(64, 64), compression="zlib")
    return PairReader(find_pairs(tmp_path).pairs, CELLS, 3)


@pytest.mark.parametrize("is_large", [False, True])
def test_the_middle_is_the_same_of_large_pairs_and_others(
    reader: PairReader, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    image, truth = reader[0]
    if is_large:
        monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0)
    part, mask = middle(reader, 0, 64)
    np.testing.assert_array_equal(part, image[68:132, 28:92])
    np.testing.assert_array_equal(mask, truth[68:132, 28:92])
    reader.close()


def test_large_images_are_shown_without_decoding_them(
    reader: PairReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(random_segmenter(bundle_info()), CPU, tile=64, overlap=0.25)
    whole = validation_sheet(reader, engine)
    assert whole.shape[0] > previews.VIEW / 4
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0)
    monkeypatch.setattr(previews, "VIEW", 48)
    monkeypatch.delattr(reading, "read_matched")
    windowed = PairReader(reader.pairs, CELLS, 3)
    sheet = validation_sheet(windowed, engine)
    assert sheet.ndim == 3
    assert len(np.unique(sheet)) > 50
    windowed.close()
