"""Laws of counting: band by band = at once, and pixels without data do not count."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image

from tests.builders import GEOTRANSFORM, bundle_info, save_run, write_geotiff
from unetseg.config import DeviceConfig, EvalConfig, ScoringConfig, TilingConfig
from unetseg.data.crops.reader import PairReader
from unetseg.data.files import image as image_file
from unetseg.data.pairs.match import find_pairs
from unetseg.errors import DataError
from unetseg.evaluation.confusion import confusion
from unetseg.evaluation.counting import count_classes
from unetseg.evaluation.evaluate import Artifacts, evaluate, evaluate_pairs
from unetseg.evaluation.probabilities import Probabilities
from unetseg.prediction import stream
from unetseg.prediction.predictor import Predictor

CPU = DeviceConfig(device="cpu", precision="float32")
SMALL = TilingConfig(tile=64)
INFO = bundle_info(kind="image")
SIZES = [(150, 90), (64, 200), (70, 70)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save_run(tmp_path / "run", INFO)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pairs: a GeoTIFF with a hole, a GeoTIFF without, and a PNG."""
    rng = np.random.default_rng(0)
    for name, (height, width) in zip("abc", SIZES, strict=True):
        image = np.kron(rng.random((height // 8 + 1, width // 8 + 1, 3)), np.ones((8, 8, 1)))
        pixels = (200 * image[:height, :width]).astype(np.uint8) + 1
        mask = np.where(rng.random((height, width)) < 0.4, 255, 0).astype(np.uint8)
        if name == "a":
            pixels[10:90, 20:80] = 0
        suffix = "png" if name == "c" else "tif"
        for kind, array in (("images", pixels), ("masks", mask[..., None])):
            write(tmp_path / "data" / kind / f"{name}.{suffix}", array, nodata=0)
    return tmp_path / "data"


def write(path: Path, array: NDArray[np.uint8], nodata: int) -> None:
    if path.suffix == ".tif":
        write_geotiff(path, array, **({"nodata": nodata} if array.shape[2] == 3 else {}))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array.squeeze()).save(path)


def in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0)
    monkeypatch.setattr(stream, "STRIP_ROWS", 29)


def test_pixels_without_prediction_are_as_pixels_without_truth() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 3, (2, 40, 30)).astype(np.uint8)
    np.testing.assert_array_equal(
        count_classes(truth, prediction, 3), confusion(truth, prediction, 3)
    )
    missing = rng.random(truth.shape) < 0.3
    seen = confusion(truth[~missing], prediction[~missing], 3)
    prediction[missing] = 255
    np.testing.assert_array_equal(count_classes(truth, prediction, 3), seen)


def test_counts_of_bands_are_those_of_the_whole(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(run, SMALL, CPU)
    pairs = find_pairs(data).pairs
    whole = evaluate_pairs(predictor.engine, predictor.info, pairs)
    in_bands(monkeypatch)
    bands = evaluate_pairs(predictor.engine, predictor.info, pairs)
    np.testing.assert_array_equal(bands, whole)
    hole = 80 * 60
    assert whole.sum((1, 2)).tolist() == [150 * 90 - hole, 64 * 200, 70 * 70]


def test_large_pairs_have_a_field_of_view_and_masks_of_another_size_as_others_do(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(data / "masks" / "a.tif", np.eye(75, 45, dtype=np.uint8)[..., None] * 255, nodata=0)
    pairs = []
    for pair, size in zip(find_pairs(data).pairs, SIZES, strict=True):
        view = np.zeros((*size, 1), np.uint8)
        view[10:50, 20:60] = 255
        region = data.parent / "fov" / f"{pair.name}.tif"
        write(region, view, nodata=0)
        pairs.append(replace(pair, region=region))
    predictor = Predictor(run, SMALL, CPU)
    whole = evaluate_pairs(predictor.engine, predictor.info, pairs)
    in_bands(monkeypatch)
    bands = evaluate_pairs(predictor.engine, predictor.info, pairs)
    np.testing.assert_array_equal(bands, whole)
    assert whole.sum((1, 2)).tolist() == [0, 40 * 40, 40 * 40]  # the first has no data there
    reader = PairReader(pairs, predictor.info.class_map, 3)
    image, mask = reader.pair(0).crop((70, 45), 32)
    np.testing.assert_array_equal(image, reader.decode(0)[0][54:86, 29:61])
    np.testing.assert_array_equal(mask, reader.decode(0)[1][54:86, 29:61])
    reader.close()


def test_what_is_written_of_large_images_is_what_is_written_of_others(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EvalConfig(scoring=ScoringConfig(split="all"), tiling=SMALL, device=CPU)
    evaluate(run, data, config, output=tmp_path / "whole")
    in_bands(monkeypatch)
    evaluate(run, data, config, output=tmp_path / "bands")
    for name in ("scores.json", "images.csv", "classes.csv", *(f"overlays/{n}.png" for n in "abc")):
        whole, bands = (tmp_path / kind / name for kind in ("whole", "bands"))
        assert whole.read_bytes() == bands.read_bytes()
    for name in "ab":
        with (
            rasterio.open(tmp_path / "whole" / "masks" / f"{name}.tif") as whole_file,
            rasterio.open(tmp_path / "bands" / "masks" / f"{name}.tif") as bands_file,
        ):
            np.testing.assert_array_equal(whole_file.read(), bands_file.read())
            assert whole_file.transform == bands_file.transform == GEOTRANSFORM
    assert (tmp_path / "whole" / "masks" / "c.png").is_file()
    assert (tmp_path / "bands" / "masks" / "c.tif").is_file()


def test_the_picture_of_errors_of_a_large_image_is_small(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_bands(monkeypatch)
    monkeypatch.setattr("unetseg.evaluation.counting.PICTURE", 40)
    config = EvalConfig(scoring=ScoringConfig(split="all"), tiling=SMALL, device=CPU)
    evaluate(run, data, config, output=tmp_path / "out")
    for name, (height, width) in zip("abc", SIZES, strict=True):
        step = -(-max(height, width) // 40)
        with Image.open(tmp_path / "out" / "overlays" / f"{name}.png") as picture:
            assert picture.size == (-(-width // step), -(-height // step))


def test_large_pairs_that_do_not_fit_are_all_listed(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_bands(monkeypatch)
    write(data / "images" / "a.tif", np.ones((40, 30, 3), np.uint8), nodata=0)
    write(data / "masks" / "b.tif", np.full((64, 200, 1), 7, np.uint8), nodata=0)
    config = EvalConfig(scoring=ScoringConfig(split="all"), device=CPU)
    with pytest.raises(DataError, match="2 of 3 pairs do not fit") as caught:
        evaluate(run, data, config, output=tmp_path / "out")
    first, second = caught.value.offenders
    assert "a.tif is 30×40" in first
    assert "holds values that are no class: 7" in second
    assert not (tmp_path / "out" / "scores.json").exists()


def test_a_region_whose_numbers_jpeg_has_blurred_is_refused_for_large_pairs_too(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_bands(monkeypatch)
    Image.new("L", (200, 64), 60).save(tmp_path / "region.jpg")
    pair = replace(find_pairs(data).pairs[1], region=tmp_path / "region.jpg")
    predictor = Predictor(run, SMALL, CPU)
    with pytest.raises(DataError, match="1 of 1 pairs do not fit") as caught:
        evaluate_pairs(predictor.engine, predictor.info, [pair])
    assert "is a JPEG with values up to 60, expected 0 and 255" in caught.value.offenders[0]


def test_a_second_observer_of_a_large_pair_is_told_to_be_left_out(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_bands(monkeypatch)
    monkeypatch.setattr("unetseg.evaluation.counting.PICTURE", 40)
    predictor = Predictor(run, SMALL, CPU)
    info, wanted = predictor.info, ScoringConfig(save_masks=False, overlays=False)
    kept = Artifacts(tmp_path, wanted, info.class_map, Probabilities.of(predictor.engine))
    pair = replace(find_pairs(data).pairs[1], second=data / "masks" / "b.tif")
    evaluate_pairs(predictor.engine, info, [pair], kept)
    assert kept.observers.refused == [
        f"{pair.image} is too large to be compared with a second observer"
    ]
