"""Laws of predicting folders: real images keep their place, what does not fit is named."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image
from rasterio.shutil import copy
from rasterio.vrt import WarpedVRT

from tests.builders import bundle_info, class_map, noise, save_run, write_geotiff
from unetseg.cli.app import run
from unetseg.config import DeviceConfig
from unetseg.data.files import image as image_file
from unetseg.data.files.image import read_image
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.masks.mask_file import read_mask
from unetseg.errors import OutOfMemoryError
from unetseg.prediction.engine import Engine
from unetseg.prediction.manifest import states_of
from unetseg.prediction.predictor import Predictor

Capture = pytest.CaptureFixture[str]
INTEGERS = class_map(0, 1, ignore=(-1,), dtype="int16", suffix=".tif")


def bundle(folder: Path, bands: int, dtype: str, classes: ClassMap | None = None) -> Path:
    """A run with random weights."""
    known = classes or class_map(0, 1)
    info = bundle_info(classes=known, bands=bands, dtype=dtype, kind="image")
    return save_run(folder / "run", info)


def predict(trained: Path, source: Path, out: Path, *more: str) -> int:
    words = ["predict", str(trained), str(source), "-o", str(out), "--device", "cpu"]
    return run([*words, "--precision", "float32", *more])


@pytest.mark.parametrize("is_large", [False, True])
def test_real_images_of_the_earth_keep_their_place(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    if is_large:
        monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0)
    folder = real_data / "hot_buildings_geotiff" / "images" / "val"
    source = sorted(folder.glob("*.tif"))[0]
    trained = bundle(tmp_path, 3, "uint8")
    assert predict(trained, source, tmp_path / "out", "--overlay", "--probabilities") == 0
    written = sorted((tmp_path / "out").glob("*.tif"))
    assert len(written) == 3
    with rasterio.open(source) as image:
        for path in written:
            with rasterio.open(path) as file:
                assert (file.crs, file.transform) == (image.crs, image.transform)
                assert (file.bounds, file.shape) == (image.bounds, image.shape)


def test_photos_with_world_files_give_placed_masks_and_a_lost_place_is_told(
    tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("placed", "lost", "plain"):
        Image.fromarray(noise(40, 50, 3)).save(folder / f"{name}.jpg")
    (folder / "placed.jgw").write_text("2\n0\n0\n-2\n500001\n5199999\n")
    (folder / "lost.jgw").write_text("nothing\n")
    assert predict(bundle(tmp_path, 3, "uint8"), folder, tmp_path / "out", "--overlay") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "the place on the earth of 1 image is not kept, or not all of it: lost.jpg (" in told
    with rasterio.open(folder / "placed.jpg") as image:
        for name in ("placed.tif", "placed_overlay.tif"):
            with rasterio.open(tmp_path / "out" / name) as mask:
                assert (mask.transform, mask.shape) == (image.transform, image.shape)
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        *("lost.png", "lost_overlay.png", "plain.png", "plain_overlay.png")
    }


def test_rasters_of_a_folder_are_predicted_in_their_place_and_a_mosaic_of_it_once(
    tmp_path: Path, capsys: Capture
) -> None:
    folder, elsewhere, out = tmp_path / "in", tmp_path / "elsewhere", tmp_path / "out"
    options = {"height": 40, "width": 50, "count": 3, "dtype": "uint8", "crs": "EPSG:32633"}
    place = rasterio.Affine(2, 0, 5e5, 0, -2, 5.2e6)
    pixels = noise(3, 40, 50)
    for driver, path in (
        ("HFA", folder / "scene.img"),
        ("ENVI", folder / "flat.dat"),
        ("ENVI", folder / "bare"),
        ("GTiff", folder / "part.tif"),
        ("GTiff", elsewhere / "other.tif"),
    ):
        path.parent.mkdir(exist_ok=True)
        with rasterio.open(path, "w", driver=driver, transform=place, **options) as raster:
            raster.write(pixels)
    for name, source in (("of_part", folder / "part.tif"), ("other", elsewhere / "other.tif")):
        with rasterio.open(source) as raster, WarpedVRT(raster) as mosaic:
            copy(mosaic, folder / f"{name}.vrt", driver="VRT")
    (folder / "disk.img").write_bytes(b"no raster")
    (folder / "winds.nc").write_bytes(b"CDF")
    (folder / ".hidden").mkdir()
    (folder / ".hidden/rain.nc").write_bytes(b"CDF")
    trained = bundle(tmp_path, 3, "uint8")
    assert predict(trained, folder, out) == 0
    said = capsys.readouterr().out
    assert "left out, because their formats are not read: winds.nc\n" in said
    assert "left out 1 file beside the images: 1 × a VRT of images that are here (name it" in said
    masks = {path.stem: path for path in out.glob("*.tif")}
    assert set(masks) == {"scene", "flat", "bare", "part", "other"}
    cpu = DeviceConfig(device="cpu", precision="float32")
    expected = Predictor(trained, device=cpu).predict(np.moveaxis(pixels, 0, -1))
    for name in ("scene", "flat", "bare", "part"):
        with rasterio.open(masks[name]) as mask:
            assert (mask.crs, mask.transform) == ("EPSG:32633", place)
            np.testing.assert_array_equal(mask.read(1), expected)
    assert predict(trained, folder / "of_part.vrt", tmp_path / "named") == 0
    assert (tmp_path / "named" / "of_part.tif").is_file()


@pytest.mark.parametrize("is_large", [False, True])
def test_real_images_of_13_bands_give_masks_of_the_training(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    if is_large:
        monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0)
    source = sorted((real_data / "sen1floods11_sample").rglob("images/**/*.tif"))[0]
    trained = bundle(tmp_path, 13, "int16", INTEGERS)
    assert predict(trained, source, tmp_path / "out") == 0
    mask = read_mask(next((tmp_path / "out").glob("*.tif")))
    assert mask.pixels.dtype == np.int16
    assert mask.pixels.shape == read_image(source).shape[:2]
    assert set(np.unique(mask.pixels)) <= {-1, 0, 1}


def test_the_bands_and_the_type_that_are_wanted_are_named(tmp_path: Path, capsys: Capture) -> None:
    trained = bundle(tmp_path, 13, "int16", INTEGERS)
    Image.fromarray(noise(20, 30, 3)).save(tmp_path / "photo.png")
    assert predict(trained, tmp_path / "photo.png", tmp_path / "out") == 5
    error = capsys.readouterr().err
    assert "photo.png has 3 bands, expected 13 bands of int16" in error


def test_a_file_and_its_path_have_one_mask_holes_included(tmp_path: Path) -> None:
    trained, image = bundle(tmp_path, 3, "uint8"), noise(150, 140, 3)
    image[30:90, 20:100] = 0
    declared = (42113, "s", 0, "0", True)
    tifffile.imwrite(tmp_path / "x.tif", image, photometric="rgb", extratags=[declared])
    assert predict(trained, tmp_path / "x.tif", tmp_path / "out") == 0
    cpu = DeviceConfig(device="cpu", precision="float32")
    mask = Predictor(trained, device=cpu).predict(tmp_path / "x.tif")
    np.testing.assert_array_equal(mask, tifffile.imread(tmp_path / "out" / "x.tif"))
    assert (mask[30:90, 20:100] == 255).all()
    assert np.sum(mask == 255) == 60 * 80


@pytest.mark.row(35)
def test_a_large_image_that_fails_is_listed_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    trained, folder = bundle(tmp_path, 3, "uint8"), tmp_path / "in"
    folder.mkdir()
    layout: dict[str, Any] = {"planarconfig": "contig", "compression": "zlib"}
    for name, bands in (("good", 3), ("wrong", 5), ("cut", 3)):
        image = noise(90, 80, bands)
        tifffile.imwrite(folder / f"{name}.tif", image, photometric="minisblack", **layout)
    cut = folder / "cut.tif"
    cut.write_bytes(cut.read_bytes()[:-900])
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0)
    out = tmp_path / "out"
    assert predict(trained, folder, out) == 4
    assert "wrong.tif has 5 bands, expected 3 bands of uint8" in capsys.readouterr().err
    rows = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert {row["image"] for row in rows} == {str(folder / "wrong.tif"), str(cut)}
    assert sorted(path.name for path in out.glob("*.tif")) == ["good.tif"]


@pytest.mark.parametrize("options", [(), ("--probabilities",)])
def test_an_image_that_memory_does_not_hold_is_listed_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, options: tuple[str, ...]
) -> None:
    trained, folder, out = bundle(tmp_path, 3, "uint8"), tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, height in (("a", 40), ("high", 90), ("z", 40)):
        Image.fromarray(noise(height, 50, 3)).save(folder / f"{name}.png")
    forward = Engine._forward

    def little(engine: Engine, crops: Any, *more: Any) -> Any:
        if crops[0].shape[0] > 64:
            raise OutOfMemoryError("this does not fit in memory", fix="Choose a smaller --tile.")
        return forward(engine, crops, *more)

    monkeypatch.setattr(Engine, "_forward", little)
    assert predict(trained, folder, out, *options) == 4
    assert "Choose a smaller --tile." in capsys.readouterr().err
    (row,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    assert (row["image"], row["code"]) == (str(folder / "high.png"), "out-of-memory")
    assert row["fix"] == "Choose a smaller --tile."
    assert {path.name for path in out.glob("?.png")} == {"a.png", "z.png"}


def test_large_images_that_are_there_are_refused_or_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    trained, image = bundle(tmp_path, 3, "uint8"), noise(70, 80, 3)
    Image.fromarray(image).save(tmp_path / "x.png")
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0)
    out = tmp_path / "out"
    assert predict(trained, tmp_path / "x.png", out) == 0
    stamp = (out / "x.tif").stat().st_mtime_ns
    assert predict(trained, tmp_path / "x.png", out) == 2
    assert "x.tif" in capsys.readouterr().err
    assert predict(trained, tmp_path / "x.png", out, "--existing", "skip") == 0
    assert (out / "x.tif").stat().st_mtime_ns == stamp
    assert predict(trained, tmp_path / "x.png", out, "--existing", "overwrite") == 0
    assert (out / "x.tif").stat().st_mtime_ns > stamp


def test_images_beyond_the_limit_of_pixels_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    trained = bundle(tmp_path, 3, "uint8")
    Image.fromarray(noise(40, 50, 3)).save(tmp_path / "x.png")
    assert predict(trained, tmp_path / "x.png", tmp_path / "out", "--max-pixels", "1999") == 5
    assert "x.png is refused as a decompression bomb" in capsys.readouterr().err
    assert predict(trained, tmp_path / "x.png", tmp_path / "out", "--max-pixels", "2000") == 0
    monkeypatch.setenv("UNETSEG_MAX_PIXELS", "1999")
    assert predict(trained, tmp_path / "x.png", tmp_path / "other") == 5


def test_masks_beside_images_are_left_out_unless_they_are_named(
    tmp_path: Path, capsys: Capture
) -> None:
    trained, folder = bundle(tmp_path, 3, "uint8"), tmp_path / "in"
    folder.mkdir()
    mask = Image.fromarray(np.pad(np.full((20, 20, 3), 255, np.uint8), ((5, 35), (9, 11), (0, 0))))
    for number in range(3):
        Image.fromarray(noise(60, 40, 3, seed=number)).save(folder / f"a{number}.png")
        mask.save(folder / f"a{number}_mask.png")
    out = folder / "new"
    assert predict(trained, folder, out, "--overlay", "--probabilities") == 0
    said = capsys.readouterr().out
    assert "left out 3 files beside the images: 3 × a mask" in said
    assert {path.stem for path in out.glob("*.png")} == {
        f"a{number}{end}" for number in range(3) for end in ("", "_overlay")
    }
    assert predict(trained, folder, out, "--existing", "skip") == 0
    said = capsys.readouterr().out
    assert "left out 12 files beside the images: 9 × an earlier output, 3 × a mask" in said
    assert "there already: 3 masks" in said
    assert predict(trained, folder / "a0_mask.png", tmp_path / "named") == 0
    assert (tmp_path / "named" / "a0_mask.png").is_file()


@pytest.mark.long
def test_real_images_are_trained_on_scored_and_predicted_by_windows_as_whole(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(real_data / "sen1floods11_tiles13band")
    source = next((real_data / "sen1floods11_sample" / "images").rglob("*.tif"))
    cpu = ["--device", "cpu", "--precision", "float32"]
    trained = tmp_path / "run"
    words = ["train", data, "--out", str(tmp_path), "--name", "run", "--ignore", "-1", *cpu]
    with monkeypatch.context() as patch:
        patch.setattr(image_file, "WHOLE_PIXELS", 0)
        assert run([*words, "-e", "1", "--width", "4", "--depth", "2", "--workers", "0"]) == 0
    logged = (trained / "metrics.csv").read_text(encoding="utf-8").splitlines()
    for kind, limit in (("windows", 0), ("whole", image_file.WHOLE_PIXELS)):
        monkeypatch.setattr(image_file, "WHOLE_PIXELS", limit)
        out = tmp_path / kind
        assert run(["eval", str(trained), data, "--split", "val", "--output", str(out), *cpu]) == 0
        assert predict(trained, source, out / "new", "--tile", "128", "--probabilities") == 0
    scores = [json.loads((tmp_path / k / "scores.json").read_text()) for k in ("windows", "whole")]
    assert scores[0] == scores[1]
    row = dict(zip(logged[0].split(","), logged[-1].split(","), strict=True))
    assert float(row["val_dice"]) == pytest.approx(scores[0]["foreground_dice"], rel=1e-4)
    with rasterio.open(source) as image:
        place = image.crs, image.transform, image.shape
    for name in (source.name, f"{source.stem}_probabilities.tif"):
        with rasterio.open(tmp_path / "windows" / "new" / name) as file:
            assert (file.crs, file.transform, file.shape) == place
            by_windows = file.read()
        with rasterio.open(tmp_path / "whole" / "new" / name) as file:
            np.testing.assert_array_equal(by_windows, file.read())


def test_a_large_image_that_is_gone_before_its_turn_fails_alone(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0)
    folder = tmp_path / "in"
    for name in ("a", "b"):
        write_geotiff(folder / f"{name}.tif", noise(40, 50, 3))

    def states(image: Path) -> list[os.stat_result]:
        if image.name == "a.tif":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return states_of(image)

    monkeypatch.setattr("unetseg.prediction.predict.states_of", states)
    assert predict(bundle(tmp_path, 3, "uint8"), folder, tmp_path / "out") == 4
    assert "a.tif cannot be read: No such file" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in (tmp_path / "out").glob("*.tif")] == ["b.tif"]
