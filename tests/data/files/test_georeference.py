"""Places: where GDAL says that an image lies, turned with the image, and no warnings."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import WktVersion

from unetseg.data.files.georeference import LARGEST_BESIDE, Georeference, quiet
from unetseg.data.files.geotiff import RasterWriter
from unetseg.data.files.image import ImageFile, read_image
from unetseg.data.files.tiffs import write_tiff
from unetseg.errors import ImageError

UTM = CRS.from_epsg(32633)
TRANSFORM = rasterio.Affine(0.5, 0.0, 500_000.0, 0.0, -0.5, 4_649_776.0)
TURNED = rasterio.Affine(0.4, 0.3, 500_000.0, 0.3, -0.4, 4_649_776.0)


def georeference(path: Path) -> tuple[Georeference | None, float | None]:
    with ImageFile(path) as image:
        return image.georeference, image.nodata


def write(path: Path, **options: Any) -> None:
    size = {"height": 4, "width": 6, "count": 1, "dtype": "int16"}
    with quiet(), rasterio.open(path, "w", driver="GTiff", **size, **options) as file:
        file.write(np.arange(24, dtype=np.int16).reshape(4, 6), 1)


@pytest.mark.parametrize("transform", [TRANSFORM, TURNED])
@pytest.mark.parametrize("nodata", [None, -9999.0, 0.0])
def test_crs_transform_and_nodata_are_gdals(
    tmp_path: Path, transform: rasterio.Affine, nodata: float | None
) -> None:
    write(tmp_path / "a.tif", crs=UTM, transform=transform, nodata=nodata)
    place, value = georeference(tmp_path / "a.tif")
    assert place is not None
    assert CRS.from_wkt(place.crs) == UTM
    assert place.transform == pytest.approx(tuple(transform)[:6], abs=1e-9)
    assert value == nodata


def test_what_is_missing_is_none(tmp_path: Path) -> None:
    write_tiff(tmp_path / "plain.tif", np.zeros((3, 3), np.uint8))
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    write(tmp_path / "value.tif", nodata=7)
    write(tmp_path / "nan.tif", transform=TRANSFORM)
    write(tmp_path / "crs.tif", crs=UTM)
    assert georeference(tmp_path / "plain.tif") == (None, None)
    assert georeference(tmp_path / "a.png") == (None, None)
    assert georeference(tmp_path / "value.tif") == (None, 7.0)
    place, _ = georeference(tmp_path / "nan.tif")
    assert place == Georeference("", tuple(TRANSFORM)[:6])
    place, _ = georeference(tmp_path / "crs.tif")
    assert place is not None
    assert place.transform == (1, 0, 0, 0, 1, 0)


@pytest.mark.parametrize("orientation", [1, 2, 6, 7])
def test_ground_control_points_go_with_the_image(tmp_path: Path, orientation: int) -> None:
    corners = [(0, 0), (0, 6), (4, 0), (4, 6), (1, 2)]
    points = [GroundControlPoint(r, c, 10 + c + r / 8, 50 - r, 3) for r, c in corners]
    write(tmp_path / "points.tif", gcps=points, crs=UTM)
    with tifffile.TiffFile(tmp_path / "points.tif") as file:
        tags = [(t.code, t.dtype, t.count, t.value, True) for t in file.pages.first.tags]
    tags = [tag for tag in tags if tag[0] in {33922, 34735, 34736, 34737}]
    tags.append((0x0112, 3, 1, orientation, True))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 6), np.uint8), extratags=tags, metadata=None)
    place, _ = georeference(tmp_path / "a.tif")
    assert place is not None
    assert CRS.from_wkt(place.crs) == UTM
    height, width = (6, 4) if orientation > 4 else (4, 6)
    with RasterWriter(tmp_path / "b.tif", height, width, 1, "uint8", georeference=place) as writer:
        writer.write(0, np.zeros((height, width), np.uint8))
    with rasterio.open(tmp_path / "b.tif") as raster:
        written, crs = raster.gcps
    assert crs == UTM
    turn: dict[int, Callable[[int, int], tuple[int, int]]] = {
        1: lambda r, c: (r, c),
        2: lambda r, c: (r, 6 - c),
        6: lambda r, c: (c, 4 - r),
        7: lambda r, c: (6 - c, 4 - r),
    }
    for old, new in zip(points, written, strict=True):
        assert (new.row, new.col) == turn[orientation](old.row, old.col)
        assert (new.x, new.y, new.z) == (old.x, old.y, old.z)


PLACED = """<PAMDataset><SRS>EPSG:32633</SRS>
<GeoTransform>500000, 2, 0.5, 5200000, 0.25, -2</GeoTransform></PAMDataset>"""
POINTS = """<PAMDataset><GCPList Projection="EPSG:4326">
<GCP Id="1" Pixel="0" Line="0" X="10" Y="47" Z="3"/><GCP Id="2" Pixel="6" Line="0" X="11" Y="47"/>
<GCP Id="3" Pixel="0" Line="4" X="10" Y="46"/></GCPList></PAMDataset>"""
WORLD = "2\n0.25\n0.5\n-2\n500001.25\n5199999.125\n"
POLYNOMIALS = "".join(
    [
        "".join(f"{name}_{of}: {n}.5\n" for of in ("OFF", "SCALE"))
        for n, name in enumerate(("LINE", "SAMP", "LAT", "LONG", "HEIGHT"), 1)
    ]
    + [
        f"{side}_{part}_COEFF_{n}: {n / 8}\n"
        for side in ("LINE", "SAMP")
        for part in ("NUM", "DEN")
        for n in range(1, 21)
    ]
)
BESIDE = [
    ("a.jpg", {"a.jpg.aux.xml": PLACED}),
    ("a.tif", {"a.tif.aux.xml": PLACED}),
    ("a.png", {"a.png.aux.xml": POINTS}),
    ("a.jpg", {"a.jgw": WORLD}),
    ("a.JPG", {"A.JGW": WORLD}),
    ("a.jpeg", {"a.jpegw": WORLD}),
    ("a.png", {"a.pgw": WORLD}),
    ("a.tif", {"a.tfw": WORLD}),
    ("a.bmp", {"a.wld": WORLD}),
    ("a.tif", {"a_RPC.TXT": POLYNOMIALS}),
    ("a.tif", {"a_rpc.txt": POLYNOMIALS, "a.tfw": WORLD}),
]


def written_back(path: Path) -> Path:
    """An image of nothing with the place of that at `path`."""
    with ImageFile(path) as image:
        place, (height, width), lost = image.georeference, image.size, image.lost_place
    assert not lost
    with RasterWriter(
        path.parent / "out.tif", height, width, 1, "uint8", georeference=place
    ) as writer:
        writer.write(0, np.zeros((height, width), np.uint8))
    return path.parent / "out.tif"


def gdals(path: Path) -> tuple[Any, ...]:
    """CRS, transform, ground control points and polynomials as GDAL reads them."""
    with quiet(), rasterio.open(path) as raster:
        points, system = raster.gcps
        rpcs = raster.rpcs.to_dict() if raster.rpcs else {}
        rpcs = {name: value for name, value in rpcs.items() if not name.startswith("err")}
        places = [(p.row, p.col, p.x, p.y, p.z or 0) for p in points]
        return raster.crs, raster.transform, places, system, rpcs


@pytest.mark.parametrize(("name", "beside"), BESIDE)
def test_what_lies_beside_an_image_places_it_as_gdal_does(
    tmp_path: Path, name: str, beside: dict[str, str]
) -> None:
    Image.new("L", (6, 4)).save(tmp_path / name)
    for companion, text in beside.items():
        (tmp_path / companion).write_text(text)
    expected, came = gdals(tmp_path / name), gdals(written_back(tmp_path / name))
    nowhere = rasterio.Affine.identity()
    assert expected[1:] != (nowhere, [], None, {})
    assert came == expected


@pytest.mark.parametrize("boxes", ["GMLJP2", "GeoJP2"])
def test_boxes_of_jpeg_2000_place_it(tmp_path: Path, boxes: str) -> None:
    size = {"height": 40, "width": 60, "count": 1, "dtype": "uint8"}
    options = {"GMLJP2": "NO", "GeoJP2": "NO"} | {boxes: "YES"}
    with rasterio.open(
        tmp_path / "a.jp2", "w", "JP2OpenJPEG", **size, crs=UTM, transform=TRANSFORM, **options
    ) as file:
        file.write(np.zeros((1, 40, 60), np.uint8))
    assert not (tmp_path / "a.jp2.aux.xml").exists()
    assert gdals(written_back(tmp_path / "a.jp2"))[:2] == (UTM, TRANSFORM)


def test_a_prj_file_is_the_crs_of_a_world_file(tmp_path: Path) -> None:
    Image.new("L", (6, 4)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jgw").write_text(WORLD)
    (tmp_path / "a.prj").write_text(UTM.to_wkt(version=WktVersion.WKT1_ESRI))
    crs, transform, *_ = gdals(written_back(tmp_path / "a.jpg"))
    assert crs == UTM
    assert tuple(transform)[:6] == (2, 0.5, 500_000, 0.25, -2, 5_200_000)


def test_what_lies_beside_a_turned_photo_turns_with_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "a.jgw").write_text(WORLD)
    *_, transform = gdals(written_back(tmp_path / "a.jpg"))[:2]
    assert tuple(transform @ (0, 0)) == tuple(
        rasterio.Affine(2, 0.5, 5e5, 0.25, -2, 5.2e6) @ (0, 4)
    )


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        ({"a.jgw": "two\n"}, "a.jgw cannot be read"),
        ({"a.jgw": "nan\n0\n0\n-1\ninf\n0\n"}, "a.jgw cannot be read"),
        ({"a.jpg.aux.xml": "no XML"}, "a.jpg.aux.xml cannot be read"),
        ({"a.jgw": WORLD, "a.prj": "somewhere"}, "a.prj cannot be read"),
        ({"a.jpg.aux.xml": "<PAMDataset><Metadata/></PAMDataset>"}, ""),
        ({"a.jpg.aux.xml": PLACED + " " * LARGEST_BESIDE}, "a.jpg.aux.xml cannot be read"),
        ({"a.jgw": WORLD + " " * LARGEST_BESIDE}, "a.jgw cannot be read"),
        ({"a.prj": UTM.to_wkt()}, ""),
        ({"b.jgw": WORLD, "a.tfw": WORLD}, ""),
    ],
)
def test_a_place_that_is_lost_is_told(tmp_path: Path, beside: dict[str, str], told: str) -> None:
    Image.new("L", (6, 4)).save(tmp_path / "a.jpg")
    for companion, text in beside.items():
        (tmp_path / companion).write_text(text)
    with ImageFile(tmp_path / "a.jpg") as image:
        assert image.lost_place == told
        assert (image.georeference is None) == (beside.get("a.jgw") != WORLD)


def test_a_file_beside_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (6, 4)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jgw").write_text(WORLD)
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.suffix == ".jgw":
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ImageError, match=r"a\.jgw cannot be read: Permission denied"):
        georeference(tmp_path / "a.jpg")


def test_a_crs_that_no_geotiff_holds_is_told(tmp_path: Path) -> None:
    turned = "+proj=ob_tran +o_proj=longlat +o_lat_p=39.25 +o_lon_p=0 +lon_0=18"
    Image.new("L", (6, 4)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg.aux.xml").write_text(
        PLACED.replace("EPSG:32633", CRS.from_string(turned).to_wkt())
    )
    with ImageFile(tmp_path / "a.jpg") as image:
        assert image.lost_place == "a GeoTIFF does not hold its coordinate system"
        assert image.georeference is not None


def test_files_beside_are_seen_as_soon_as_they_are_there(tmp_path: Path) -> None:
    Image.new("L", (6, 4)).save(tmp_path / "a.jpg")
    assert georeference(tmp_path / "a.jpg") == (None, None)
    (tmp_path / "a.jgw").write_text(WORLD)
    os.utime(tmp_path, ns=(1, 1))  # a clock may be coarse
    assert georeference(tmp_path / "a.jpg")[0] is not None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_place_turns_with_the_image(tmp_path: Path, orientation: int) -> None:
    """The corner of the world at the stored first pixel stays with that pixel."""
    write(tmp_path / "a.tif", crs=UTM, transform=TURNED)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = [(t.code, t.dtype, t.count, t.value, True) for t in file.pages.first.tags]
    tags = [tag for tag in tags if tag[0] in {33550, 33922, 34264, 34735, 34736, 34737}]
    stored = np.arange(24, dtype=np.int16).reshape(4, 6)
    tags.append((0x0112, 3, 1, orientation, True))
    tifffile.imwrite(tmp_path / "b.tif", stored, extratags=tags, metadata=None)
    place, _ = georeference(tmp_path / "b.tif")
    assert place is not None
    upright = read_image(tmp_path / "b.tif")[..., 0]
    seen = rasterio.Affine(*place.transform)
    for value in (0, 5, 18, 23, 9):
        (row,), (column,) = np.nonzero(upright == value)
        (stored_row,), (stored_column,) = np.nonzero(stored == value)
        middle = np.array([column + 0.5, row + 0.5, 1])
        there = np.array([stored_column + 0.5, stored_row + 0.5, 1])
        np.testing.assert_allclose(
            np.array(seen).reshape(3, 3) @ middle, np.array(TURNED).reshape(3, 3) @ there
        )


@pytest.mark.parametrize("name", ["a#b?.tif", "zip:a!b.tif", "größe 1.tif", "a,b&c=%20.tif"])
def test_names_are_only_names(tmp_path: Path, name: str) -> None:
    place = Georeference(UTM.to_wkt(), tuple(TRANSFORM)[:6])
    with RasterWriter(tmp_path / name, 3, 4, 1, "uint8", georeference=place) as writer:
        writer.write(0, np.zeros((3, 4), np.uint8))
    found, _ = georeference(tmp_path / name)
    assert found is not None
    assert found.transform == place.transform


def test_damaged_headers_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", crs=UTM, transform=TRANSFORM)
    content = (tmp_path / "a.tif").read_bytes()
    for length in (4, 9, 60, 150):
        (tmp_path / "a.tif").write_bytes(content[:length])
        with pytest.raises(ImageError, match=r"a\.tif"):
            georeference(tmp_path / "a.tif")


def test_real_geotiffs(real_data: Path) -> None:
    (file,) = (real_data / "sen1floods11_sample" / "images").rglob("*.tif")
    place, nodata = georeference(file)
    assert place is not None
    assert CRS.from_wkt(place.crs).to_epsg() == 4326
    assert nodata == 0
    for file in sorted((real_data / "hot_buildings_geotiff" / "masks").rglob("*.tif"))[:5]:
        place, _ = georeference(file)
        assert place is not None
        assert place.crs


FORKED = """
import os, threading, time
from unetseg.data.files.georeference import quiet

def read():
    with quiet():
        inside.set()
        time.sleep(0.5)

inside = threading.Event()
threading.Thread(target=read).start()
inside.wait()
child = os.fork()
with quiet():
    pass
if child:
    raise SystemExit(os.waitpid(child, 0)[1])
"""


def test_a_process_that_is_forked_while_another_thread_reads_reads_too() -> None:
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=60)
