"""Objects and their outlines: components as scipy has them, measures as scikit-image; no seams."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from rasterio.crs import CRS
from rasterio.features import rasterize
from scipy.ndimage import gaussian_filter
from scipy.ndimage import label as components_of
from skimage.measure import regionprops_table

import unetseg
from tests.builders import (
    GEOTRANSFORM,
    blotches,
    bundle_info,
    class_map,
    save_run,
    write_geotiff,
)
from unetseg.cli.app import run
from unetseg.data.files import image as image_file
from unetseg.data.files.georeference import Georeference
from unetseg.errors import ConfigError
from unetseg.prediction import objects as objects_module
from unetseg.prediction import stream
from unetseg.prediction.objects import Objects, Table, parted
from unetseg.prediction.polygons import WGS84, frame, simplified, write_polygons

CLASSES = class_map(0, 1, 2)
Index = NDArray[np.uint8]


def index_of(height: int, width: int, seed: int, classes: int = 3) -> Index:
    """Blobs of several classes that touch, cross and enclose one another; some have no data."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.3, 5)
    fields = [gaussian_filter(rng.normal(size=(height, width)), scale) for _ in range(classes)]
    index: Index = np.stack(fields).argmax(0).astype(np.uint8)
    if seed % 3 == 0:
        index[rng.random((height, width)) < 0.02] = 255
    return index


def found(
    index: Index, watershed: float = 0.8, rows: int = 0
) -> tuple[NDArray[np.int32], Table, NDArray[np.float32]]:
    """Labels and table of the objects of classes 1 and 2, in pieces of so many rows."""
    height = len(index)
    spans = [(top, min(top + rows, height)) for top in range(0, height, rows or height)]
    likely = np.random.default_rng(0).random(index.shape).astype(np.float32)
    spans = spans if rows else [(0, height)]
    objects = Objects(lambda top, bottom: index[top:bottom], spans, (1, 2), watershed)
    labels = np.concatenate(list(objects.labels(lambda top, bottom: likely[top:bottom])))
    return labels, objects.table(), likely


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("watershed", [0, 0.8, 1])
def test_an_image_in_pieces_has_the_objects_of_the_whole(seed: int, watershed: float) -> None:
    height, width = np.random.default_rng(seed).integers(1, 90, 2).tolist()
    index = index_of(height, width, seed)
    labels, table, _ = found(index, watershed)
    for rows in (1, 7, 29):
        others, other, _ = found(index, watershed, rows)
        np.testing.assert_array_equal(others, labels)
        for name in ("classes", "area", "boxes", "x", "y"):
            np.testing.assert_array_equal(getattr(other, name), getattr(table, name))
        np.testing.assert_allclose(other.probability, table.probability)


@pytest.mark.parametrize("seed", range(3))
def test_objects_are_scipys_components_measured_as_scikit_image_does(seed: int) -> None:
    index = index_of(90, 70, seed)
    labels, table, likely = found(index, watershed=0, rows=16)
    for kind in (1, 2):
        reference, count = components_of(index == kind, np.ones((3, 3)))
        mine = labels * (index == kind)
        assert count == (table.classes == kind).sum()
        pairs = np.unique(np.stack([reference.ravel(), mine.ravel()]), axis=1)
        assert pairs.shape[1] == count + 1  # one to one, and nothing with nothing
    names = ("label", "area", "centroid", "bbox", "mean_intensity")
    for watershed in (0, 0.8):
        labels, table, likely = found(index, watershed)
        expected = regionprops_table(labels, likely, properties=names)
        assert expected["label"].tolist() == list(range(1, labels.max() + 1))
        np.testing.assert_array_equal(table.area, expected["area"])
        np.testing.assert_allclose(table.y, expected["centroid-0"] + 0.5)
        np.testing.assert_allclose(table.x, expected["centroid-1"] + 0.5)
        corners = np.stack([expected[f"bbox-{side}"] for side in (1, 0, 3, 2)], axis=1)
        np.testing.assert_array_equal(table.boxes, corners)
        np.testing.assert_allclose(table.probability, expected["mean_intensity"], rtol=1e-5)


def discs(*centres: tuple[int, int], radius: float = 12, size: int = 80) -> NDArray[np.bool_]:
    y, x = np.mgrid[:size, :size]
    distances = [np.hypot(y - cy, x - cx) for cy, cx in centres]
    return np.asarray(np.minimum.reduce(distances) <= radius)


def test_touching_discs_are_parted_half_way_and_single_ones_stay_whole() -> None:
    assert parted(discs((40, 40)), 0.8).max() == 1
    assert parted(np.ones((30, 30), bool), 0.8).max() == 1
    assert parted(np.zeros((30, 30), bool), 0.8).max() == 0
    assert parted(np.pad(np.ones((3, 60), bool), 4), 0.8).max() == 1  # a stripe has no neck
    pair = discs((40, 28), (40, 48))
    assert parted(pair, 0).max() == 1
    parts = parted(pair, 0.8)
    assert parts.max() == 2
    np.testing.assert_array_equal(parts > 0, pair)
    middle = np.abs(np.mgrid[:80, :80][1] - 38) > 1
    np.testing.assert_array_equal(
        (parts == parts[40, 28])[middle], (pair & (np.mgrid[:80, :80][1] < 38))[middle]
    )
    for apart, count in ((8, 1), (14, 1), (18, 2), (23, 2)):  # by how narrow the neck is
        assert parted(discs((40, 28), (40, 28 + apart)), 0.8).max() == count


def test_what_is_larger_than_memory_allows_stays_one_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index = discs((40, 28), (40, 48)).astype(np.uint8)
    monkeypatch.setattr(objects_module, "LARGEST_PARTED", 100)
    labels, table, _ = found(index, rows=16)
    assert len(table.area) == labels.max() == 1
    np.testing.assert_array_equal(labels > 0, index > 0)


# ------------------------------------------------------------------ polygons


def features(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection"
    found: list[dict[str, Any]] = content["features"]
    return found


def drawn(path: Path, shape: tuple[int, int], **how: Any) -> NDArray[Any]:
    """The labels that the outlines of a file enclose, by GDAL."""
    shapes = [(one["geometry"], one["id"]) for one in features(path)]
    return np.asarray(rasterize(shapes, shape, dtype="int32", **how) if shapes else np.zeros(shape))


@pytest.mark.parametrize("seed", range(3))
def test_polygons_enclose_exactly_the_pixels_of_their_objects(seed: int, tmp_path: Path) -> None:
    labels, table, _ = found(index_of(90, 70, seed))
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    place = Georeference("", GEOTRANSFORM[:6])
    sources: tuple[NDArray[np.int32], Path] = labels, tmp_path / "labels.tif"
    for source in sources:
        file = tmp_path / "x.geojson"
        write_polygons(file, source, table, CLASSES)
        np.testing.assert_array_equal(drawn(file, labels.shape), labels)
        write_polygons(file, source, table, CLASSES, place)
        np.testing.assert_array_equal(drawn(file, labels.shape, transform=GEOTRANSFORM), labels)


def test_an_image_without_objects_has_an_empty_collection(tmp_path: Path) -> None:
    labels, table, _ = found(np.zeros((5, 6), np.uint8))
    write_polygons(tmp_path / "none.geojson", labels, table, CLASSES)
    assert features(tmp_path / "none.geojson") == []


@pytest.mark.parametrize("tolerance", [0.5, 1, 3])
def test_simplified_outlines_have_fewer_points_none_of_them_far_off(tolerance: float) -> None:
    angle = np.linspace(0, 2 * np.pi, 400)
    ring = np.rint(np.stack([np.cos(angle), np.sin(angle)], axis=1) * 30)
    fewer = simplified(ring, tolerance)
    assert len(fewer) < len(ring) / 2
    np.testing.assert_array_equal(fewer[0], fewer[-1])
    begins, steps = fewer[:-1], np.diff(fewer, axis=0)
    for point in ring:
        along = ((point - begins) * steps).sum(1) / (steps**2).sum(1)
        nearest = begins + np.clip(along, 0, 1)[:, None] * steps
        assert np.hypot(*(nearest - point).T).min() <= tolerance + 1e-9
    square = np.array([(0, 0), (0, 1), (1, 1), (1, 0), (0, 0)], float)
    np.testing.assert_array_equal(simplified(square, 9), square)


@pytest.mark.parametrize(
    ("crs", "member"),
    [
        (CRS.from_epsg(32631), "urn:ogc:def:crs:EPSG::32631"),
        (CRS.from_epsg(WGS84), ""),
        (CRS.from_proj4("+proj=laea +lat_0=50 +lon_0=5 +ellps=GRS80"), ""),
        (None, None),
    ],
)
def test_a_file_says_whose_coordinates_it_has(crs: CRS | None, member: str | None) -> None:
    transform = (0.01, 0, 5, 0, -0.01, 50) if crs == CRS.from_epsg(WGS84) else GEOTRANSFORM[:6]
    if crs and not crs.to_epsg():
        transform = 1.0, 0.0, 0.0, 0.0, -1.0, 0.0  # the middle of its map is at 5° and 50°
    place, told = frame(Georeference(crs.to_wkt() if crs else "", transform))
    if member is None:
        assert told == '"crs":null,'
    else:
        assert (f'"{member}"' in told) if member else not told
    x, y = place(np.zeros((1, 2)))[0]
    expected = (5, 50) if member == "" else GEOTRANSFORM[2::3][:2]
    np.testing.assert_allclose((x, y), expected)


# ------------------------------------------------------------------ the command


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def predict(trained: Path, source: Path, out: Path, *more: str) -> Path:
    words = ["predict", str(trained), str(source), "-o", str(out), "--device", "cpu"]
    assert run([*words, "--precision", "float32", *more]) == 0
    return out


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return save_run(tmp_path / "run", bundle_info(classes=CLASSES, tile=64))


@pytest.mark.long
def test_predict_writes_the_same_objects_by_bands_and_whole(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_geotiff(tmp_path / "in" / "x.tif", blotches(203, 90))
    flags = ("--objects", "--polygons", "--overviews")
    whole = predict(trained, source, tmp_path / "whole", *flags)
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0)
    monkeypatch.setattr(stream, "PIECE_PIXELS", 1500)
    bands = predict(trained, source, tmp_path / "bands", *flags)
    outlines = predict(trained, source, tmp_path / "outlines", "--polygons")
    names = ["predictions.jsonl", "x.tif"]
    everything = ["objects.csv", *names, "x_labels.tif", "x_objects.csv", "x_polygons.geojson"]
    for folder, expected in ((whole, everything), (bands, everything)):
        assert sorted(file.name for file in folder.iterdir()) == sorted(expected)
    assert sorted(file.name for file in outlines.iterdir()) == [*names, "x_polygons.geojson"]
    labels, others = (tifffile.imread(folder / "x_labels.tif") for folder in (whole, bands))
    assert [labels.dtype.name, others.dtype.name] == ["uint16", "int32"]
    np.testing.assert_array_equal(labels, others)
    np.testing.assert_array_equal(labels > 0, tifffile.imread(whole / "x.tif") > 0)
    for name in ("x_objects.csv", "objects.csv"):
        assert (bands / name).read_text() == (whole / name).read_text()
    for folder in (bands, outlines):
        assert features(folder / "x_polygons.geojson") == features(whole / "x_polygons.geojson")
    drawn_back = drawn(whole / "x_polygons.geojson", labels.shape, transform=GEOTRANSFORM)
    np.testing.assert_array_equal(drawn_back, labels)
    rows = rows_of(whole / "x_objects.csv")
    assert len(rows) == labels.max() > 1
    for row, feature in zip(rows, features(whole / "x_polygons.geojson"), strict=True):
        assert row == {name: str(value) for name, value in feature["properties"].items()}
        assert float(row["map_area"]) == 4 * int(row["area"])
        x, y = 500_000 + 2 * float(row["x"]), 4_900_000 - 2 * float(row["y"])
        np.testing.assert_allclose((float(row["map_x"]), float(row["map_y"])), (x, y), atol=0.02)


@pytest.mark.long
def test_a_folder_has_one_table_of_all_and_what_is_there_is_not_made_again(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "in"
    images.mkdir()
    for name in ("a", "b"):
        Image.fromarray(blotches(50, 60, seed=ord(name))).save(images / f"{name}.png")
    out = predict(trained, images, tmp_path / "out")
    predict(trained, images, out, "--objects", "--existing", "skip")
    stamp = (out / "a_labels.tif").stat().st_mtime_ns
    tables = {name: rows_of(out / f"{name}_objects.csv") for name in ("a", "b")}
    both = rows_of(out / "objects.csv")
    assert [row["image"] for row in both] == ["a.png"] * len(tables["a"]) + ["b.png"] * len(
        tables["b"]
    )
    assert list(tables["a"][0]) == list(objects_module.COLUMNS)
    (out / "b_objects.csv").unlink()
    predict(trained, images, out, "--objects", "--existing", "skip")
    assert (out / "a_labels.tif").stat().st_mtime_ns == stamp
    assert rows_of(out / "objects.csv") == both
    assert f"{len(both)} objects in 2 images" in capsys.readouterr().out
    words = ["predict", str(trained), str(images), "-o", str(out), "--existing", "skip"]
    assert run([*words, "--objects", "--watershed", "0"]) == 2
    assert "watershed: unknown there, 0.0 here" in capsys.readouterr().err


def test_from_python_an_image_in_memory_has_the_objects_that_are_written(
    trained: Path, tmp_path: Path
) -> None:
    image = blotches(50, 60)
    Image.fromarray(image).save(tmp_path / "x.png")
    model = unetseg.load(trained, device="cpu", precision="float32")
    for watershed in (0.8, 0):
        out = predict(
            trained,
            tmp_path / "x.png",
            tmp_path / f"{watershed}",
            "--objects",
            "--watershed",
            str(watershed),
        )
        labels, rows = model.objects(image, watershed=watershed)
        np.testing.assert_array_equal(labels, tifffile.imread(out / "x_labels.tif"))
        assert [{k: str(v) for k, v in row.items()} for row in rows] == rows_of(
            out / "x_objects.csv"
        )


def test_files_of_two_images_that_would_be_one_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "in"
    images.mkdir()
    write_geotiff(images / "x_labels.tif", blotches(40, 40))
    Image.fromarray(blotches(40, 40)).save(images / "x.png")
    words = ["predict", str(trained), str(images), "-o", str(tmp_path / "out")]
    assert run([*words, "--objects"]) == 2
    assert "leave out --objects" in capsys.readouterr().err
    assert run(words) == 0


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["--watershed", "0"], "--objects or --polygons"),
        (["--objects", "--simplify", "1"], "--polygons"),
    ],
)
def test_flags_that_shape_objects_are_refused_where_there_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], missing: str
) -> None:
    given = ["predict", str(tmp_path / "run"), str(tmp_path), "-o", str(tmp_path / "out")]
    assert run([*given, *words]) == 2
    said = capsys.readouterr().err
    assert words[-2] in said
    assert f"Add {missing}, or leave it out." in said


def test_from_python_they_are_refused_too(trained: Path, tmp_path: Path) -> None:
    given = trained, tmp_path, tmp_path / "out"
    with pytest.raises(ConfigError, match="without objects this does nothing"):
        unetseg.predict(*given, watershed=0.5)
    with pytest.raises(ConfigError, match="without polygons this does nothing"):
        unetseg.predict(*given, objects=True, simplify=1)


def test_the_table_of_all_has_no_objects_of_an_image_that_failed(
    trained: Path, tmp_path: Path
) -> None:
    images = tmp_path / "in"
    images.mkdir()
    for name in ("a", "b"):
        Image.fromarray(blotches(50, 60, seed=ord(name))).save(images / f"{name}.png")
    out = predict(trained, images, tmp_path / "out", "--objects")
    assert "a.png" in {row["image"] for row in rows_of(out / "objects.csv")}
    (images / "a.png").write_bytes(b"no image")
    words = ["predict", str(trained), str(images), "-o", str(out), "--objects", "--device", "cpu"]
    assert run([*words, "--precision", "float32", "--existing", "overwrite"]) == 4
    assert "a.png" not in {row["image"] for row in rows_of(out / "objects.csv")}


def test_the_table_of_all_keeps_the_objects_of_images_predicted_before(
    trained: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image = blotches(50, 60, seed=ord(name))
        Image.fromarray(image).save(tmp_path / name / f"{name}.png")
        out = predict(trained, tmp_path / name, tmp_path / "out", "--objects")
    assert {row["image"] for row in rows_of(out / "objects.csv")} == {"a.png", "b.png"}


def test_the_table_of_all_forgets_a_failed_image_whose_mask_was_a_geotiff(
    trained: Path, tmp_path: Path
) -> None:
    images = tmp_path / "in"
    for name in ("a", "b"):
        write_geotiff(images / f"{name}.tif", blotches(50, 60, seed=ord(name)))
    out = predict(trained, images, tmp_path / "out", "--objects")
    assert {row["image"] for row in rows_of(out / "objects.csv")} == {"a.tif", "b.tif"}
    (images / "a.tif").write_bytes(b"no image")  # its mask would be a.png now
    words = ["predict", str(trained), str(images), "-o", str(out), "--objects", "--device", "cpu"]
    assert run([*words, "--precision", "float32", "--existing", "overwrite"]) == 4
    assert {row["image"] for row in rows_of(out / "objects.csv")} == {"b.tif"}
