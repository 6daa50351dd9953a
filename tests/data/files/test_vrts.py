"""Mosaics read images of this machine, and nothing else: a server here would hear of it."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
import tifffile
from PIL import Image

from tests.builders import blotches, write_geotiff
from unetseg.data.files.image import ImageFile, read_image
from unetseg.data.files.rasters import sources_of
from unetseg.data.files.vrts import refuse_foreign_sources
from unetseg.errors import ImageError

SOURCE = "<SourceFilename relativeToVRT='{}'>{}</SourceFilename><SourceBand>1</SourceBand>"


def mosaic(path: Path, source: str, relative: int = 1, kind: str = "") -> Path:
    band = f"<VRTRasterBand dataType='Byte' band='1' {kind}><SimpleSource>{source}</SimpleSource>"
    if "<" not in source:
        band = band.replace(source, SOURCE.format(relative, source))
    path.write_text(
        f"<VRTDataset rasterXSize='9' rasterYSize='9'>{band}</VRTRasterBand></VRTDataset>"
    )
    return path


@pytest.fixture
def heard() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server, and what it heard."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection = server.accept()[0]
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(100))

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", heard
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.row(46)
@pytest.mark.parametrize(
    "source",
    [
        "{}/a.tif",
        "/vsicurl/{}/a.tif",
        "/vsizip/vsicurl/{}/a.zip/a.tif",
        "WCS:{}/w",
        escape("<GDAL_WMS><Service name='TMS'><ServerUrl>{}/x</ServerUrl></Service></GDAL_WMS>"),
        "<SourceFilename><!-- a -->{}/a.tif</SourceFilename>",
        "<sourcefilename>{}/a.tif</sourcefilename>",
        "<x SourceFilename='{}/a.tif'/>",
        "service.xml",
    ],
)
def test_no_source_is_fetched(tmp_path: Path, heard: tuple[str, list[bytes]], source: str) -> None:
    address, requests = heard
    service = (
        f"<GDAL_WMS><Service name='TMS'><ServerUrl>{address}/x</ServerUrl></Service></GDAL_WMS>"
    )
    (tmp_path / "service.xml").write_text(service)
    for relative in (0, 1):
        path = mosaic(tmp_path / "a.vrt", source.format(address), relative)
        with pytest.raises(ImageError, match=r"a\.vrt cannot be read: its source .* is no image"):
            read_image(path)
    assert not requests


@pytest.mark.row(46)
def test_a_folder_called_like_an_address_does_not_help(
    tmp_path: Path, heard: tuple[str, list[bytes]]
) -> None:
    address, requests = heard
    write_geotiff(tmp_path / address / "a.tif", blotches(9, 9, 1))
    with pytest.raises(ImageError, match="is no image file here"):
        read_image(mosaic(tmp_path / "a.vrt", f"{address}/a.tif", 0))
    assert not requests


@pytest.mark.row(46)
@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "a.jp2"])
@pytest.mark.parametrize("address", ["/vsicurl/{}/a.tif", "{}/a.tif"])
def test_what_lies_beside_an_image_fetches_nothing(
    tmp_path: Path, heard: tuple[str, list[bytes]], name: str, address: str
) -> None:
    address = address.format(heard[0])
    Image.fromarray(blotches(9, 9)).save(tmp_path / name)
    (tmp_path / f"{name}.aux.xml").write_text(
        f"<PAMDataset><SRS>{address}</SRS><GeoTransform>1,2,0,3,0,-2</GeoTransform>"
        f"<Metadata domain='OVERVIEWS'><MDI key='OVERVIEW_FILE'>{address}</MDI></Metadata>"
        "</PAMDataset>"
    )
    (tmp_path / "a.prj").write_text(address)
    with ImageFile(tmp_path / name) as image:
        assert not (image.georeference and image.georeference.crs)
        assert image.nodata is None
        image.read()
    assert not heard[1]


@pytest.mark.row(46)
def test_overviews_of_a_source_are_not_fetched(
    tmp_path: Path, heard: tuple[str, list[bytes]]
) -> None:
    item = f'<Item name="OVERVIEW_FILE" domain="OVERVIEWS">{heard[0]}/a.tif</Item>'
    tag = (42112, "s", 0, f"<GDALMetadata>{item}</GDALMetadata>", True)
    tifffile.imwrite(tmp_path / "a.tif", blotches(36, 36, 1), extratags=[tag])
    scaled = "<SrcRect xOff='0' yOff='0' xSize='36' ySize='36'/><DstRect xSize='9' ySize='9'/>"
    mosaic(tmp_path / "a.vrt", SOURCE.format(1, "a.tif") + scaled)
    read_image(tmp_path / "a.vrt")
    assert not heard[1]


def test_no_other_file_is_read_as_pixels(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("a" * 999)
    raw = mosaic(tmp_path / "raw.vrt", str(secret), 0, "subClass='VRTRawRasterBand'")
    with pytest.raises(ImageError, match=r"raw bytes of another file|is no image file here"):
        read_image(raw)
    doctype = tmp_path / "doctype.vrt"
    doctype.write_text("<VRTDataset><!DOCTYPE a></VRTDataset>")
    with pytest.raises(ImageError, match="document type"):
        read_image(doctype)


def test_what_is_looked_at_is_what_gdal_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes names from the working folder, or from where a link to the mosaic leads."""
    monkeypatch.chdir(tmp_path)
    image = write_geotiff(tmp_path / "in/a.tif", blotches(9, 9, 1))
    plain = mosaic(tmp_path / "in/plain.vrt", "in/a.tif", 0)
    (tmp_path / "link.vrt").symlink_to(mosaic(tmp_path / "in/linked.vrt", "a.tif"))
    for path in (plain, tmp_path / "link.vrt"):
        assert (read_image(path) == read_image(image)).all()
        assert sources_of(path) == {image}
    (tmp_path / "secret.txt").write_text("a" * 999)
    raw = "subClass='VRTRawRasterBand'"
    mosaic(tmp_path / "in/raw.vrt", str(tmp_path / "secret.txt"), 0, raw)
    for decoy in ("in/in/raw.vrt", "raw.vrt"):
        (tmp_path / decoy).parent.mkdir(exist_ok=True)
        (tmp_path / decoy).write_bytes(image.read_bytes())
    mosaic(plain, "in/raw.vrt", 0)
    mosaic(tmp_path / "in/linked.vrt", "raw.vrt")
    for path in (plain, tmp_path / "link.vrt"):
        with pytest.raises(ImageError, match="raw bytes of another file"):
            read_image(path)


@pytest.mark.parametrize("name", ["x" * 300, "/", "..", "", "folder", "a\0b"])
def test_a_name_that_no_image_can_have_is_an_answer(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    path = mosaic(tmp_path / "a.vrt", SOURCE.format(1, name))
    with pytest.raises(ImageError, match=r"a\.vrt cannot be read"):
        read_image(path)
    assert sources_of(path) == set()


def test_mosaics_of_mosaics_end(tmp_path: Path) -> None:
    image = write_geotiff(tmp_path / "images/a.tif", blotches(9, 9, 1))
    inner = mosaic(tmp_path / "inner.vrt", "images/a.tif")
    outer = mosaic(tmp_path / "outer.vrt", "inner.vrt")
    assert (read_image(outer) == read_image(image)).all()
    mosaic(inner, "outer.vrt")
    with pytest.raises(ImageError, match="without end"):
        read_image(outer)


def test_a_mosaic_that_many_others_show_is_looked_at_once(tmp_path: Path) -> None:
    """Eight floors of ten, each of which shows all ten below: else there would be 10⁷ looks."""
    write_geotiff(tmp_path / "a.tif", blotches(9, 9, 1))
    below = ["a.tif"]
    for floor in range(8):
        shown = "".join(f"<b>{SOURCE.format(1, name)}</b>" for name in below)
        below = [f"{floor}_{number}.vrt" for number in range(10)]
        for name in below:
            (tmp_path / name).write_text(f"<VRTDataset>{shown}</VRTDataset>")
    refuse_foreign_sources(tmp_path / below[0])
