"""What `unetseg predict` writes: the same bands or whole, in place on the earth, and resumable."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from rasterio.shutil import copy
from rasterio.vrt import WarpedVRT

from tests.builders import (
    GEOTRANSFORM,
    UTM,
    blotches,
    bundle_info,
    class_map,
    save_run,
    write_geotiff,
    write_raster,
)
from unetseg.cli.app import run
from unetseg.data.files import image as image_file
from unetseg.data.files.georeference import quiet
from unetseg.data.files.geotiff import RasterWriter
from unetseg.data.files.image import read_image
from unetseg.data.masks.class_map import IGNORED, ClassMap, Code
from unetseg.data.masks.mask_file import read_mask
from unetseg.prediction import stream
from unetseg.prediction.bands import BandStore, held_bands
from unetseg.prediction.engine import TileNetwork
from unetseg.prediction.outputs import Job, Writer, mask_pixels, no_data_code
from unetseg.prediction.predictor import load
from unetseg.prediction.stream import Band
from unetseg.prediction.tiling import lay_out

Pixels = NDArray[Any]
ALL = ("--overlay", "--probabilities")
PALETTE = tuple(np.random.default_rng(0).integers(0, 256, 768).tolist())
CODINGS: dict[str, dict[str, Any]] = {
    "uint8": {"codes": (0, 128, 255)},
    "int16": {"codes": (0, 1, 2), "dtype": "int16", "ignore": (-1,), "suffix": ".tif"},
    "palette": {"codes": (0, 3, 7), "coding": "palette", "palette": PALETTE},
    "rgb": {"codes": ((0, 0, 0), (255, 0, 0), (0, 255, 0)), "coding": "rgb"},
}


def bundle(folder: Path, coding: str = "uint8", **about: Any) -> Path:
    """A run with random weights that give all classes."""
    more = dict(CODINGS[coding])
    info = bundle_info(classes=class_map(*more.pop("codes"), **more), tile=64, **about)
    return save_run(folder / "run", info)


def predict(trained: Path, source: Path, out: Path, *more: str) -> Path:
    words = ["predict", str(trained), str(source), "-o", str(out), "--device", "cpu"]
    assert run([*words, "--precision", "float32", *more]) == 0
    return out


def read(path: Path) -> Pixels:
    return np.asarray(tifffile.imread(path) if path.suffix == ".tif" else Image.open(path))


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files, byte for byte."""
    contents = (
        [(name, (folder / name).read_bytes()) for name in files(folder)] for folder in (one, other)
    )
    first, second = contents
    return first == second


def files(folder: Path) -> list[str]:
    """All files but predictions.jsonl, which tells of the others."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(name for name in names if name != "predictions.jsonl")


@pytest.fixture
def as_large(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, every image is predicted band by band, and in small parts."""

    def start() -> None:
        monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0)
        monkeypatch.setattr(stream, "STRIP_ROWS", 29)
        monkeypatch.setattr(stream, "PIECE_PIXELS", 1500)

    return start


# ------------------------------------------------------------------ bands = whole


@pytest.mark.long
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("nodata", [None, 0])
def test_bands_and_whole_write_the_same(
    coding: str, nodata: int | None, tmp_path: Path, as_large: Callable[[], None]
) -> None:
    trained, image = bundle(tmp_path, coding), blotches(203, 90)
    image[20:170, :70] = 0
    source = write_geotiff(tmp_path / "in" / "x.tif", image, nodata=nodata)
    whole = predict(trained, source, tmp_path / "whole", *ALL)
    as_large()
    bands = predict(trained, source, tmp_path / "bands", *ALL)
    names = ["x.tif", "x_overlay.tif", "x_probabilities.tif"]
    assert files(whole) == files(bands) == names
    for name in names:
        np.testing.assert_allclose(read(bands / name), read(whole / name), atol=1e-6)
        with rasterio.open(bands / name) as one, rasterio.open(whole / name) as other:
            for file in (one, other):
                assert file.crs == UTM
                assert file.transform == GEOTRANSFORM
                assert file.profile["tiled"]
            assert str(one.nodata) == str(other.nodata)
    mask = read_mask(bands / "x.tif")
    assert mask.coding == CODINGS[coding].get("coding", "integer")
    assert mask.palette == CODINGS[coding].get("palette")
    assert mask.pixels.dtype == CODINGS[coding].get("dtype", "uint8")


@pytest.mark.parametrize(
    ("coding", "code", "tag"),
    [("uint8", 254, 254), ("int16", -1, -1), ("palette", 0, None), ("rgb", (0, 0, 0), None)],
)
def test_pixels_without_data_have_their_code_and_the_mask_says_so(
    coding: str, code: Code, tag: int | None, tmp_path: Path, as_large: Callable[[], None]
) -> None:
    trained, image = bundle(tmp_path, coding), blotches(150, 90).astype(np.uint8) + 1
    image[20:120, :50] = 0
    image[130, :, 1] = 0  # data: only one band is 0
    source = write_geotiff(tmp_path / "in" / "x.tif", image, nodata=0)
    as_large()
    out = predict(trained, source, tmp_path / "out", "--probabilities")
    mask, expected = read(out / "x.tif"), np.zeros((150, 90), bool)
    expected[20:120, :50] = True
    assert (mask[expected] == np.array(code)).all()
    if tag is not None:
        assert (mask[~expected] != tag).all()
    with rasterio.open(out / "x.tif") as file:
        assert file.nodata == tag
    probabilities = read(out / "x_probabilities.tif")
    np.testing.assert_array_equal(np.isnan(probabilities).all(-1), expected)
    with rasterio.open(out / "x_probabilities.tif") as file:
        assert np.isnan(file.nodata)


@pytest.mark.parametrize("kind", ["dataset", "image"])
def test_however_a_file_tells_where_it_has_no_data_the_mask_is_the_same(
    kind: str, tmp_path: Path, as_large: Callable[[], None]
) -> None:
    trained, bands = bundle(tmp_path, kind=kind), np.moveaxis(blotches(150, 90), 2, 0) // 2 + 1
    valid = np.add.outer(np.arange(150), np.arange(90)) > 80
    bands[:, ~valid] = 0
    alpha = np.concatenate([bands, valid[None] * np.uint8(255)])
    written = tmp_path / "in"
    written.mkdir()
    write_raster(written / "value.tif", bands, nodata=0)
    write_raster(written / "alpha.tif", alpha, photometric="RGB", alpha="yes")
    write_raster(written / "fourth.tif", alpha, photometric="minisblack", alpha="unspecified")
    write_raster(written / "mask.tif", bands, valid=valid)
    write_raster(written / "beside.tif", bands, valid=valid, internal=False)
    outs = [predict(trained, written, tmp_path / "whole", *ALL)]
    as_large()
    outs.append(predict(trained, written, tmp_path / "bands", *ALL))
    for out in outs:
        assert len(files(out)) == 5 * 3
        for name in files(out):
            expected = out / f"value{name[name.index('_') if '_' in name else -4 :]}"
            assert (out / name).read_bytes() == expected.read_bytes()
        with rasterio.open(out / "value.tif") as file:
            np.testing.assert_array_equal(file.read(1) == file.nodata, ~valid)


@pytest.mark.row(39)
@pytest.mark.long
@pytest.mark.parametrize("shape", [(1, 90), (90, 1), (1, 1), (7, 5), (33, 200), (300, 17)])
@pytest.mark.parametrize("kind", ["dataset", "image"])
def test_any_size_by_bands(
    shape: tuple[int, int], kind: str, tmp_path: Path, as_large: Callable[[], None]
) -> None:
    trained, image = bundle(tmp_path, kind=kind), blotches(*shape)
    Image.fromarray(image).save(tmp_path / "x.png")
    whole = predict(trained, tmp_path / "x.png", tmp_path / "whole", *ALL)
    as_large()
    bands = predict(trained, tmp_path / "x.png", tmp_path / "bands", *ALL)
    assert files(whole) == ["x.png", "x_overlay.png", "x_probabilities.tif"]
    assert files(bands) == ["x.tif", "x_overlay.tif", "x_probabilities.tif"]
    for name, other in zip(files(bands), files(whole), strict=True):
        np.testing.assert_allclose(
            read(bands / name).reshape(*shape, -1),
            read(whole / other).reshape(*shape, -1),
            atol=1e-5,
        )


@pytest.mark.long
def test_the_overlay_of_deep_images_has_one_brightness(
    tmp_path: Path, as_large: Callable[[], None]
) -> None:
    trained = bundle(tmp_path, bands=2, dtype="int16")
    ramp = np.linspace(-3000, 9000, 300)[:, None, None] + blotches(300, 60, 2)  # brighter downwards
    source = write_geotiff(tmp_path / "x.tif", ramp.astype(np.int16))
    whole = predict(trained, source, tmp_path / "whole", "--overlay")
    as_large()
    bands = predict(trained, source, tmp_path / "bands", "--overlay")
    drawn = [read(folder / "x_overlay.tif") for folder in (whole, bands)]
    assert np.ptp(drawn[0].astype(int).mean((1, 2))) > 150
    np.testing.assert_array_equal(drawn[0], drawn[1])


# ------------------------------------------------------------------ files


def test_ordinary_images_keep_the_suffix_of_the_training(tmp_path: Path) -> None:
    trained, image = bundle(tmp_path), blotches(40, 50)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "plain.tif", image, photometric="rgb")
    Image.fromarray(image).save(tmp_path / "in" / "photo.png")
    write_geotiff(tmp_path / "in" / "placed.tif", image)
    declared = (42113, "s", 0, "7", True)
    tifffile.imwrite(tmp_path / "in" / "holes.tif", image, photometric="rgb", extratags=[declared])
    out = predict(trained, tmp_path / "in", tmp_path / "out")
    assert files(out) == ["holes.tif", "photo.png", "placed.tif", "plain.png"]
    np.testing.assert_array_equal(read(out / "placed.tif"), read(out / "plain.png"))


def test_overviews_are_added_where_asked_for(tmp_path: Path, as_large: Callable[[], None]) -> None:
    trained = bundle(tmp_path)
    source = write_geotiff(tmp_path / "x.tif", np.zeros((600, 700, 3), np.uint8) + 9)
    as_large()
    for more, levels in (((), []), (("--overviews",), [2, 4])):
        out = predict(trained, source, tmp_path / f"out{len(levels)}", *more)
        with rasterio.open(out / "x.tif") as file:
            assert file.overviews(1)[: len(levels)] == levels
            assert bool(file.overviews(1)) == bool(levels)


# ------------------------------------------------------------------ going on


@pytest.fixture
def large(tmp_path: Path, as_large: Callable[[], None]) -> tuple[Path, Path, Path]:
    """A run, a large image and the folder for its mask."""
    as_large()
    source = write_geotiff(tmp_path / "x.tif", blotches(200, 90))
    return bundle(tmp_path), source, tmp_path / "out"


def predict_and_keep_bands(trained: Path, source: Path, out: Path, *more: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BandStore, "remove", lambda store: None)
        predict(trained, source, out, *more)


class Stopped(BaseException):
    """What ends a prediction here, as a signal would."""


def test_a_stopped_prediction_goes_on_where_it_was(
    tmp_path: Path, as_large: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = bundle(tmp_path, kind="image")
    source = write_geotiff(tmp_path / "x.tif", blotches(300, 90))
    as_large()
    sent: list[int] = []
    forward, save = TileNetwork.forward, BandStore.save

    def counted(network: TileNetwork, crops: list[Pixels]) -> torch.Tensor:
        sent.append(len(crops))
        return forward(network, crops)

    def stopping(store: BandStore, band: Band) -> None:
        if band.number == 5:
            raise Stopped
        save(store, band)

    monkeypatch.setattr(TileNetwork, "forward", counted)
    whole = predict(trained, source, tmp_path / "whole", *ALL)
    rows = lay_out(300, 90, tile=64, overlap=0.5, grid=4).rows
    assert sum(sent) == sum(map(len, rows))
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(BandStore, "save", stopping)
        words = ["predict", str(trained), str(source), "-o", str(out), *ALL]
        with pytest.raises(Stopped):
            run([*words, "--device", "cpu", "--precision", "float32"])
    assert not (out / "x.tif").exists()
    finished = sorted((out / ".x.tif.bands").glob("*.classes"))
    assert len(finished) == 5
    stamps = [file.stat().st_mtime_ns for file in finished]
    sent.clear()
    predict_and_keep_bands(trained, source, out, *ALL, "--existing", "skip")
    assert [file.stat().st_mtime_ns for file in finished] == stamps
    # Of the rows of tiles above band 5, only those that reach into it are done again.
    assert sum(sent) == sum(len(row) for row in rows if row[0].bottom > rows[5][0].top)
    assert sum(sent) < sum(map(len, rows[3:])) + 1
    predict(trained, source, out, *ALL, "--existing", "overwrite")
    assert same(out, whole)


@pytest.mark.parametrize("change", [("--tta",), ("--tile", "32"), ("--probabilities",)])
def test_with_other_settings_it_begins_anew(
    change: tuple[str, ...], tmp_path: Path, large: tuple[Path, Path, Path]
) -> None:
    trained, source, out = large
    expected = predict(trained, source, tmp_path / "expected", *change)
    predict_and_keep_bands(trained, source, out)
    (out / "x.tif").unlink()
    predict(trained, source, out, *change)
    assert same(out, expected)


KILLED = """
import os, signal, sys
from unetseg.cli.app import run
from unetseg.data.files import image as image_file
from unetseg.prediction.bands import BandStore, held_bands
image_file.WHOLE_PIXELS = 0
save = BandStore.save
def killing(store, band):
    save(store, band)
    if band.number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
BandStore.save = killing
run(sys.argv[1:])
"""


@pytest.mark.row(34)
@pytest.mark.slow
def test_a_killed_prediction_goes_on_where_it_was(
    tmp_path: Path, as_large: Callable[[], None]
) -> None:
    trained = bundle(tmp_path)
    source = write_geotiff(tmp_path / "x.tif", blotches(300, 90))
    out = tmp_path / "out"
    words = ["predict", str(trained), str(source), "-o", str(out)]
    words += ["--device", "cpu", "--precision", "float32"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words], check=False, env=os.environ, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list((out / ".x.tif.bands").glob("*.classes"))) == 4
    as_large()
    predict(trained, source, out)
    whole = predict(trained, source, tmp_path / "whole")
    assert same(out, whole)


def test_two_processes_do_not_mix_their_bands(
    large: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    trained, source, out = large
    words = ["predict", str(trained), str(source), "-o", str(out), "--device", "cpu"]
    with held_bands(out / "x.tif"):
        assert run(words) != 0
        assert f"another process predicts {out / 'x.tif'} now" in capsys.readouterr().err
    predict(trained, source, out)
    assert files(out) == ["x.tif"]


def test_what_was_half_written_is_cleared_and_nothing_of_it_lies_beside_the_mask(
    large: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, source, out = large
    seen: list[list[str]] = []

    def stopping(writer: RasterWriter, *_: object) -> None:
        seen.append([name for name in files(out) if "/" not in name])
        raise Stopped

    words = ["predict", str(trained), str(source), "-o", str(out), "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(RasterWriter, "write", stopping)
        with pytest.raises(Stopped):
            run(words)
    assert seen == [[".x.tif.bands"]]
    (out / ".x.tif.bands" / ".x-half.tif").write_bytes(b"left by a kill")
    predict_and_keep_bands(trained, source, out)
    assert not list((out / ".x.tif.bands").glob("*.tif"))
    assert not list((out / ".x.tif.bands").glob(".x-*"))


def test_an_image_changed_to_one_of_the_same_size_and_time_is_begun_anew(
    tmp_path: Path, large: tuple[Path, Path, Path]
) -> None:
    (trained, source, out), image = large, blotches(200, 90)
    tifffile.imwrite(source, image)
    status = source.stat()
    predict_and_keep_bands(trained, source, out)
    tifffile.imwrite(source, image[::-1])
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert source.stat().st_size == status.st_size
    predict(trained, source, out, "--existing", "overwrite")
    expected = predict(trained, source, tmp_path / "expected")
    assert same(out, expected)


def test_a_mosaic_of_which_a_source_has_changed_is_begun_anew(
    tmp_path: Path, large: tuple[Path, Path, Path]
) -> None:
    trained, source, out = large
    with rasterio.open(source) as raster, WarpedVRT(raster) as warped:
        copy(warped, tmp_path / "mosaic.vrt", driver="VRT")
    predict_and_keep_bands(trained, tmp_path / "mosaic.vrt", out)
    write_geotiff(source, blotches(200, 90, seed=1))
    predict(trained, tmp_path / "mosaic.vrt", out, "--existing", "overwrite")
    expected = predict(trained, tmp_path / "mosaic.vrt", tmp_path / "expected")
    assert same(out, expected)


# ------------------------------------------------------------------ the code of no data

RGB = ((0, 0, 0), (255, 0, 0))


@pytest.mark.parametrize(
    ("coding", "code"),
    [
        (class_map(0, 1), 255),
        (class_map(0, 255), 254),
        (class_map(*range(253)), 255),
        (class_map(0, 255, 254, 252), 253),
        (class_map(0, 1).model_copy(update={"united": ((255, 1),)}), 254),
        (class_map(*range(254)).model_copy(update={"united": ((254, 1), (255, 1))}), None),
        (class_map(0, 1, ignore=(7, 9)), 7),
        (class_map(0, 1, ignore=(-1,), dtype="int16"), -1),
        (class_map(0, 1, dtype="int16"), 32767),
        (class_map(0, 65535, dtype="uint16"), 65534),
        (class_map(0, 1, coding="palette", palette=PALETTE), None),
        (class_map(0, 1, coding="palette", palette=PALETTE, ignore=(255,)), 255),
        (class_map(*RGB, coding="rgb"), None),
        (class_map(*RGB, coding="rgb", ignore=((9, 9, 9),)), (9, 9, 9)),
    ],
)
def test_the_code_is_the_first_ignored_or_the_highest_without_a_meaning(
    coding: ClassMap, code: Code | None
) -> None:
    assert no_data_code(coding) == code


MAPS = [
    class_map(0, 255),
    class_map(0, 1, ignore=(-1,), dtype="int16"),
    class_map(0, 1, coding="palette", palette=PALETTE),
    class_map(*RGB, coding="rgb"),
    class_map(*RGB, coding="rgb", ignore=((9, 9, 9),)),
    class_map(3, 4, background=None),
    class_map(*RGB, coding="rgb", background=None),
]


@pytest.mark.parametrize("coding", MAPS, ids=[f"{m.coding} {m.ignore}" for m in MAPS])
def test_masks_differ_only_where_there_is_no_data(coding: ClassMap) -> None:
    index: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 2, (6, 7)).astype(np.uint8)
    np.testing.assert_array_equal(mask_pixels(index, coding), coding.decode(index))
    some = index.copy()
    some[2:4, 3] = IGNORED
    pixels, full = mask_pixels(some, coding), coding.decode(index)
    assert pixels.dtype == full.dtype
    np.testing.assert_array_equal(pixels[some != IGNORED], full[some != IGNORED])
    code = no_data_code(coding)
    expected = coding.classes[0].code if code is None else code
    assert (pixels[some == IGNORED] == np.array(expected)).all()


@pytest.mark.parametrize("coding", MAPS, ids=[f"{m.coding} {m.ignore}" for m in MAPS])
def test_a_mask_that_declares_nothing_holds_the_background_where_there_is_no_data(
    coding: ClassMap, tmp_path: Path
) -> None:
    mask = tmp_path / ("a.png" if coding.dtype == "uint8" else "a.tif")
    index = np.array([[0, 1, IGNORED], [IGNORED, 1, 0]], np.uint8)
    Writer(Job(mask, mask), 2, 3).write_mask(mask, iter([index]), coding)
    expected = mask_pixels(index, coding)  # as in memory where there is no background
    if coding.background is not None and not coding.ignore:
        expected = coding.decode(np.where(index == IGNORED, np.uint8(coding.background), index))
    np.testing.assert_array_equal(read(mask), expected)


def test_a_model_without_background_writes_masks_of_transparent_photos(tmp_path: Path) -> None:
    info = bundle_info(classes=class_map(3, 4, background=None))
    trained, image = save_run(tmp_path / "run", info), blotches(40, 50)
    alpha = np.full((40, 50, 1), 255, np.uint8)
    alpha[:20, :30] = 0
    Image.fromarray(np.concatenate([image, alpha], axis=2)).save(tmp_path / "a.png")
    mask = read(predict(trained, tmp_path / "a.png", tmp_path / "out") / "a.png")
    np.testing.assert_array_equal(mask == 255, alpha[..., 0] == 0)
    model = load(trained, device="cpu", precision="float32")
    np.testing.assert_array_equal(mask, model.predict(tmp_path / "a.png"))


@pytest.mark.parametrize("is_placed", [True, False])
def test_bands_have_names_and_codes_have_colours_that_no_reader_takes_for_values(
    tmp_path: Path, *, is_placed: bool
) -> None:
    classes = class_map(0, 128, 255)
    named = [item.model_copy(update={"name": f"{item.name} <Straße>"}) for item in classes.classes]
    classes = classes.model_copy(update={"classes": tuple(named)})
    trained = save_run(tmp_path / "run", bundle_info(classes=classes, tile=64))
    source = tmp_path / "in" / ("a.tif" if is_placed else "a.png")
    source.parent.mkdir()
    if is_placed:
        write_geotiff(source, blotches(60, 70))
    else:
        Image.fromarray(blotches(60, 70)).save(source)
    out = predict(trained, source, tmp_path / "out", "--probabilities")
    with quiet(), rasterio.open(out / "a_probabilities.tif") as raster:
        assert raster.descriptions == classes.names
    mask = out / source.name
    raw = read_mask(mask)
    assert (raw.coding, raw.palette) == ("integer", None)
    assert {0} < {*np.unique(raw.pixels).tolist()} <= {0, 128, 255}
    if is_placed:
        with rasterio.open(mask) as raster:
            np.testing.assert_array_equal(raster.read(1), raw.pixels)
            colours = raster.colormap(1)
        assert {code: colours[code][:3] for code in (0, 128, 255)} == {
            item.code: item.colour for item in classes.classes
        }
        np.testing.assert_array_equal(read_image(mask)[..., 0], raw.pixels)
        np.testing.assert_array_equal(np.asarray(Image.open(mask)), raw.pixels)
