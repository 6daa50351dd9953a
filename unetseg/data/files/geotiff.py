"""GeoTIFFs out: whole or from top to bottom, tiled, deflated, and placed on the earth.

tifffile writes them, because GDAL leaves a broken file behind without a word when the disk is full.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import SEEK_END, BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from unetseg.data.files.georeference import GEOTIFF_TAGS, NODATA_TAG, Georeference, quiet
from unetseg.data.files.tiffs import colour_options, gdal_tags
from unetseg.errors import ImageError
from unetseg.storage import atomic_path, writing

TILE = 512  # pixels, side of a tile
BUFFER = 2**27  # bytes of rows that may wait for a row of tiles; tiles of wide images are lower

Halving = Callable[[NDArray[Any]], NDArray[Any]]
"""Makes rows×W×C half as high and half as wide; `every_other` or `mean_of_four`."""

_DTYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float32", "float64")
_SMALLEST = 256  # pixels; no overview has both sides smaller than half of this
_CLASSIC_BYTES = 2**32 - 2**25  # a TIFF with more is a BigTIFF


class RasterWriter:
    """A GeoTIFF written from top to bottom; a context manager.

    The file takes its name when the context is left without an error and all rows are written.
    Otherwise nothing is left of it, and a file that was there stays as it was. Every tile is
    written, empty ones too: Pillow and OpenCV cannot read a file that leaves some out.

    Args:
        path: The file.
        height: Pixels.
        width: Pixels.
        bands: Number of bands.
        dtype: Integers of 8 to 32 bits or floats.
        palette: 768 numbers, 256 times RGB, for one band of uint8 indexes.
        colours: RGB of values of one band of uint8, which viewers show; they are read as numbers.
        names: What the bands are called.
        georeference: Where the image lies on the earth.
        nodata: The value of pixels without data.
        overviews: How smaller copies for viewers are made, each half as large; None adds none.

    Raises:
        ImageError: a GeoTIFF cannot hold such pixels.
    """

    def __init__(  # noqa: PLR0913 (each is one property of the file)
        self,
        path: Path,
        height: int,
        width: int,
        bands: int,
        dtype: Any,
        *,
        palette: Sequence[int] | None = None,
        colours: Mapping[int, Sequence[int]] | None = None,
        names: Sequence[str] = (),
        georeference: Georeference | None = None,
        nodata: float | None = None,
        overviews: Halving | None = None,
    ) -> None:
        self.path = path
        self.shape = (height, width, bands)
        self.dtype = np.dtype(dtype)
        if self.dtype.name not in _DTYPES or min(self.shape) < 1:
            raise ImageError(f"{path}: a GeoTIFF holds no {self.dtype} of shape {self.shape}")
        if colours:
            palette = [part for value in range(256) for part in colours.get(value, (0, 0, 0))]
        if palette is not None and (bands, self.dtype.name) != (1, "uint8"):
            raise ImageError(f"{path}: a palette belongs to one band of uint8")
        self._colours = colour_options(self.shape, self.dtype, palette)
        self._extra_tags = [] if georeference is None else _geo_tags(path, georeference)
        self._extra_tags += gdal_tags(names, are_codes=bool(colours))
        if nodata is not None:
            is_whole = float(nodata).is_integer()
            limits = np.iinfo(self.dtype) if self.dtype.kind != "f" else None
            if limits and not (is_whole and limits.min <= nodata <= limits.max):
                raise ImageError(f"{path}: the no-data value {nodata} is no {self.dtype}")
            text = str(int(nodata)) if is_whole else repr(float(nodata))
            self._extra_tags.append((NODATA_TAG, "s", 0, text, True))
        self._overviews = overviews
        self._received = 0  # rows

    def __enter__(self) -> "RasterWriter":
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._spool = TemporaryFile(dir=self.path.parent)  # closed by __exit__
        self._levels = [_Level(self.shape, self.dtype, self._spool)]
        while self._overviews and max(self._levels[-1].shape[:2]) >= _SMALLEST:
            self._levels.append(self._levels[-1].half(self._overviews))
        return self

    def write(self, top: int, rows: NDArray[Any]) -> None:
        """Write rows×W or rows×W×C; `top` is the first of them, and comes after all before.

        Raises:
            MachineError: the disk is full.
            ValueError: the rows do not follow those before, or have another shape or type.
        """
        rows = rows.reshape(*rows.shape[:2], -1)
        height, width, bands = self.shape
        fits = rows.shape[1:] == (width, bands) and rows.dtype == self.dtype
        if top != self._received or top + len(rows) > height or not fits:
            came = f"{rows.dtype} {rows.shape} at row {top}"
            raise ValueError(f"{came} for {self.dtype} {self.shape} with {self._received} rows")
        self._received += len(rows)
        with writing(self.path):
            self._levels[0].add(rows)

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if kind is not None:
            with suppress(OSError):
                self._spool.close()
            return
        with writing(self.path), self._spool:
            if self._received < self.shape[0]:
                raise ValueError(f"{self._received} of {self.shape[0]} rows were written")
            with atomic_path(self.path) as temporary:
                self._assemble(temporary)

    def _assemble(self, path: Path) -> None:
        """Make a TIFF of the packed tiles."""
        is_big = self._spool.seek(0, SEEK_END) > _CLASSIC_BYTES
        with tifffile.TiffWriter(path, bigtiff=is_big) as file:
            for number, level in enumerate(self._levels):
                file.write(
                    level.packed(),
                    shape=level.shape if level.shape[2] > 1 else level.shape[:2],
                    dtype=self.dtype,
                    tile=level.tile,
                    compression="zlib",
                    predictor=level.predictor,
                    planarconfig="contig" if level.shape[2] > 1 else None,
                    subfiletype=min(number, 1),  # 1: a smaller copy
                    extratags=self._extra_tags if number == 0 else (),
                    metadata=None,
                    **self._colours,
                )


class _Level:
    """The image in one resolution: rows come in, and go to the spool as packed tiles."""

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype[Any], spool: IO[bytes]) -> None:
        _, width, bands = shape
        self.shape, self.dtype, self.spool = shape, dtype, spool
        self.tile = (TILE, TILE)
        while self.tile[0] > 16 and self.tile[0] * width * bands * dtype.itemsize > BUFFER:
            self.tile = (self.tile[0] // 2, TILE)
        self.predictor = 3 if dtype.kind == "f" else 2 if bands > 1 else 1
        self._places: list[tuple[int, int]] = []  # offset and bytes of each tile in the spool
        self._waiting: list[NDArray[Any]] = []
        self._received = self._packed = 0  # rows
        self._smaller: tuple[Halving, _Level] | None = None

    def half(self, halving: Halving) -> "_Level":
        """The level of half the size, which is given its rows by this one."""
        height, width, bands = self.shape
        shape = (-(-height // 2), -(-width // 2), bands)
        smaller = _Level(shape, self.dtype, self.spool)
        self._smaller = halving, smaller
        return smaller

    def add(self, rows: NDArray[Any]) -> None:
        """Take rows×W×C, and pack what makes full tiles."""
        self._waiting.append(rows.copy())
        self._received += len(rows)
        tile = self.tile[0]
        end = self._received if self._received == self.shape[0] else self._received // tile * tile
        if end == self._packed:
            return
        ready, rest = np.split(np.concatenate(self._waiting), [end - self._packed])
        self._packed, self._waiting = end, [rest]
        for top in range(0, len(ready), tile):
            for left in range(0, self.shape[1], TILE):
                self._pack(ready[top : top + tile, left : left + TILE])
        if self._smaller is not None:
            halving, smaller = self._smaller
            smaller.add(halving(ready))

    def packed(self) -> Iterator[bytes]:
        """The packed tiles in order."""
        for offset, size in self._places:
            self.spool.seek(offset)
            yield self.spool.read(size)

    def _pack(self, pixels: NDArray[Any]) -> None:
        """Write a tile to the end of the spool, filled up to full size."""
        full = np.zeros((*self.tile, self.shape[2]), self.dtype.newbyteorder("<"))
        full[: pixels.shape[0], : pixels.shape[1]] = pixels
        if self.predictor == 2:
            full = imagecodecs.delta_encode(full, axis=-2)
        elif self.predictor == 3:
            full = imagecodecs.floatpred_encode(full, axis=-2)
        content = imagecodecs.deflate_encode(full.tobytes())
        self._places.append((self.spool.seek(0, SEEK_END), len(content)))
        self.spool.write(content)


def every_other(rows: NDArray[Any]) -> NDArray[Any]:
    """Every other pixel of every other row: for classes, of which there is no mean."""
    return rows[::2, ::2]


def mean_of_four(rows: NDArray[Any]) -> NDArray[Any]:
    """The mean of 2×2 pixels, rounded for integers: for pictures and probabilities."""
    even = np.pad(rows, ((0, len(rows) % 2), (0, rows.shape[1] % 2), (0, 0)), "edge")
    height, width, bands = even.shape
    fours = even.reshape(height // 2, 2, width // 2, 2, bands)
    mean: NDArray[np.float64] = fours.mean((1, 3), dtype=np.float64)
    return (mean if rows.dtype.kind == "f" else np.rint(mean)).astype(rows.dtype)


def _geo_tags(path: Path, georeference: Georeference) -> list[tuple[Any, ...]]:
    """The tags that GDAL gives a GeoTIFF that lies there."""
    import rasterio
    from rasterio.control import GroundControlPoint
    from rasterio.crs import CRS
    from rasterio.errors import CRSError, RasterioError
    from rasterio.io import MemoryFile
    from rasterio.rpc import RPC

    try:
        with quiet(), rasterio.Env(), MemoryFile() as memory:
            crs = CRS.from_wkt(georeference.crs) if georeference.crs else CRS()
            place: dict[str, Any] = {"transform": rasterio.Affine(*georeference.transform)}
            if georeference.points:
                place = {
                    "gcps": [
                        GroundControlPoint(row, column, x, y, z)
                        for column, row, x, y, z in georeference.points
                    ]
                }
            if georeference.rpcs:
                place["rpcs"] = RPC.from_gdal(dict(georeference.rpcs))
            shape = {"height": 1, "width": 1, "count": 1, "dtype": "uint8"}
            memory.open(driver="GTiff", crs=crs, **place, **shape).close()
            content = memory.read()
    except (RasterioError, CRSError) as error:
        summary = f"{path}: {georeference} is no place for a GeoTIFF: {error}"
        raise ImageError(summary) from error
    with tifffile.TiffFile(BytesIO(content)) as file:
        tags = [tag for tag in file.pages.first.tags if tag.code in GEOTIFF_TAGS]
        return [(tag.code, tag.dtype, tag.count, tag.value, True) for tag in tags]
