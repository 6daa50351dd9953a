"""What is written for one image: its mask, and what is asked for beside it.

Ordinary images get masks as the training had them. Images that are placed on the earth, that
declare a no-data value, or that are predicted band by band get GeoTIFFs with the same place.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.config import PredictConfig
from unetseg.data.files.georeference import Georeference
from unetseg.data.files.geotiff import Halving, RasterWriter, every_other, mean_of_four
from unetseg.data.files.image import ImageFile
from unetseg.data.files.pages import SEVERAL, page_paths
from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.masks.class_map import IGNORED, ClassMap, Code, write_mask
from unetseg.data.masks.overlay import levels_of, outline_reach, outlines, overlay, picture
from unetseg.errors import ImageError
from unetseg.prediction.bands import BandStore, OneBand
from unetseg.prediction.objects import Labels, Objects, columns_of
from unetseg.prediction.pipeline import Opened
from unetseg.prediction.polygons import write_polygons
from unetseg.prediction.review import Doubt, doubt_of
from unetseg.prediction.stream import pieces
from unetseg.storage import write_csv
from unetseg.text import plural, printable, some_of

THUMBNAIL = 1024
"""Longer side of the picture that the brightness of a large image is taken from, pixels."""


@dataclass(frozen=True)
class Job:
    """An image, and the file for its mask."""

    image: Path
    mask: Path
    pixels: int = 0
    """Height × width."""
    is_large: bool = False
    """Whether it is predicted band by band."""
    georeference: Georeference | None = None
    declares_gaps: bool = False
    """Whether its file declares which pixels have no data, by a value or a mask."""
    has_gaps: bool = False
    """Whether it may have such: declared, transparent, or NaN."""
    scaling: str = ""
    """What it declares that its values, which are used as stored, are multiplied with."""
    lost: str = ""
    """What is told of its place and no mask of it keeps, in words."""
    max_pixels: int | None = None
    """The most pixels of it that are decoded at once."""
    pages: int = 0
    """Images in the file, where it is a stack, which is no image itself."""

    @property
    def is_geotiff(self) -> bool:
        """Whether GeoTIFFs are written."""
        return self.is_large or self.georeference is not None or self.declares_gaps

    @property
    def overlay(self) -> Path:
        """The file for the image with the classes drawn over it."""
        return self._beside("overlay.tif" if self.is_geotiff else "overlay.png")

    @property
    def probabilities(self) -> Path:
        """The file for the probabilities."""
        return self._beside("probabilities.tif")

    @property
    def objects(self) -> Path:
        """The file for the table of objects."""
        return self._beside("objects.csv")

    @property
    def labels(self) -> Path:
        """The file for the number of the object of each pixel."""
        return self._beside("labels.tif")

    @property
    def polygons(self) -> Path:
        """The file for the outlines of objects."""
        return self._beside("polygons.geojson")

    @property
    def beside(self) -> dict[str, tuple[Path, ...]]:
        """All files that may be written beside the mask, by the flag that asks for them."""
        return {
            "overlay": (self.overlay,),
            "probabilities": (self.probabilities,),
            "objects": (self.objects, self.labels),
            "polygons": (self.polygons,),
        }

    def files(self, config: PredictConfig) -> list[Path]:
        """All files that are written, the mask first."""
        wanted = (files for flag, files in self.beside.items() if getattr(config, flag))
        return [self.mask, *chain.from_iterable(wanted)]

    def _beside(self, end: str) -> Path:
        return self.mask.with_name(f"{self.mask.stem}_{end}")


def plan_job(image: Path, stem: Path, class_map: ClassMap, max_pixels: int | None = None) -> Job:
    """How `image` is predicted, from its header alone; the mask is `stem` and a suffix."""
    try:
        with ImageFile(image, max_pixels) as file:
            declares = file.nodata_code is not None or file.has_mask
            job = Job(image, stem, file.pixels, file.is_large, None, declares, file.has_gaps)
            try:
                job = replace(job, scaling=file.scaling, georeference=file.georeference)
                job = replace(job, lost=file.lost_place)
            except ImageError as error:
                job = replace(job, lost=error.summary)
    except ImageError as error:  # it is listed with the reason when it is read
        pages = error.came if error.code == SEVERAL else None
        job = Job(image, stem, pages=pages if isinstance(pages, int) else 0)
    job = replace(job, max_pixels=max_pixels)
    suffix = ".tif" if job.is_geotiff else class_map.suffix
    return replace(job, mask=stem.with_name(stem.name + suffix))


def plan_jobs(
    image: Path, stem: Path, class_map: ClassMap, max_pixels: int | None = None
) -> list[Job]:
    """The job of an image, or those of the pages of a stack."""
    job = plan_job(image, stem, class_map, max_pixels)
    return [
        plan_job(page, stem.with_name(stem.name + end), class_map, max_pixels)
        for page, end in page_paths(image, job.pages)
    ] or [job]


def lost_places(jobs: Sequence[Job]) -> str:
    """The images whose place is not kept, or not all of it, and why, in a line; or nothing."""
    lost = [f"{printable(job.image.name)} ({printable(job.lost)})" for job in jobs if job.lost]
    told = f"the place on the earth of {plural(len(lost), 'image')} is not kept, or not all of it: "
    return f"{told}{some_of(lost)}" if lost else ""


def other_scalings(jobs: Sequence[Job], trained: Sequence[str] | None) -> str:
    """The images that declare another scale of their values than those trained on; or nothing."""
    if trained is None:  # nobody noted it
        return ""
    others = [
        f"{printable(job.image.name)} ({job.scaling or 'none'})"
        for job in jobs
        if job.scaling not in trained
    ]
    told = f"{plural(len(others), 'image')} with another scale than trained on "
    told += f"({' or '.join(word or 'none' for word in trained)}), used as stored: "
    return f"{told}{some_of(others)}" if others else ""


def write_outputs(
    image: Opened[Job],
    bands: BandStore | OneBand,
    class_map: ClassMap,
    config: PredictConfig,
) -> Doubt | None:
    """Write what `config` asks for of an image, the mask last: it says that all is there.

    Returns:
        How much it needs a look, where that is asked for.

    Args:
        image: The image and its job.
        bands: All its bands.
        class_map: The coding of the mask.
        config: What is written.

    Raises:
        DataError: a large image cannot be read again.
        MachineError: a file cannot be written.
    """
    job, (height, width) = image.name, image.size
    spans = pieces(height, width) if job.is_large else [(0, height)]
    if job.is_geotiff and not job.has_gaps:  # a band beyond those of the model is transparency
        job = replace(job, has_gaps=any((bands.index(*span) == IGNORED).any() for span in spans))
    writer = Writer(job, height, width, config.overviews)
    if config.probabilities:
        with bands.written(job.probabilities) as path:
            probabilities = (bands.probabilities(*span) for span in spans)
            names = class_map.names
            write = partial(write_tiff, names=names)
            writer.write(path, probabilities, write, nodata=np.nan, names=names)
    if config.overlay:
        with bands.written(job.overlay) as path:
            writer.write(path, overlay_pieces(image, bands, spans, class_map), write_png)
    if config.objects or config.polygons:
        write_objects(writer, bands, class_map, config)
    with bands.written(job.mask) as path:
        writer.write_mask(path, (bands.index(*span) for span in spans), class_map)
    return doubt_of(bands, spans, class_map) if config.review else None


def write_objects(
    writer: "Writer",
    bands: BandStore | OneBand,
    class_map: ClassMap,
    config: PredictConfig,
) -> None:
    """Write table, labels and outlines of the objects of an image, as far as they are wanted."""
    job = writer.job
    place = job.georeference
    spans = pieces(writer.height, writer.width)  # parting takes a hundred bytes for each pixel
    objects = Objects(bands.index, spans, class_map.foreground, config.watershed)
    pieces_of_labels = objects.labels(bands.certainty)
    labels: Labels | Path
    if isinstance(bands, BandStore):
        labels = bands.folder / job.labels.name
        writer.write(labels, pieces_of_labels, write_tiff, every_other)
    else:
        labels = np.concatenate(list(pieces_of_labels))
    table = objects.table()
    if config.polygons:
        with bands.written(job.polygons) as path:
            write_polygons(path, labels, table, class_map, place, config.simplify)
    if config.objects:
        with bands.written(job.objects) as path:
            write_csv(path, table.rows(class_map, place), columns_of(place))
        with bands.written(job.labels) as path:
            if not isinstance(labels, Path):
                fits = len(table.area) <= np.iinfo(np.uint16).max
                narrow: NDArray[Any] = labels.astype(np.uint16) if fits else labels
                writer.write(path, iter([narrow]), write_tiff, every_other)


def overlay_pieces(
    image: Opened[Job],
    bands: BandStore | OneBand,
    spans: Sequence[tuple[int, int]],
    class_map: ClassMap,
) -> Iterator[NDArray[np.uint8]]:
    """An image with its classes drawn over it, rows×W×3 from top to bottom; see `overlay`."""
    levels = None
    if image.image.dtype != np.uint8:  # 8-bit values are drawn as they are
        levels = levels_of(image.thumbnail(THUMBNAIL))
    reach = outline_reach(*image.size)
    for top, bottom in spans:
        above = min(top, reach)
        around = bands.index(top - above, bottom + reach)
        yield overlay(
            picture(image.rows(top, bottom), levels),
            bands.index(top, bottom),
            class_map.colours,
            background=class_map.background,
            outline=outlines(around, reach)[above : above + bottom - top],
        )


@dataclass(frozen=True)
class Writer:
    """Writes what is predicted for one image, from top to bottom; a small image in one piece.

    Args:
        job: What the image's header says, and so whether GeoTIFFs are written.
        height: Pixels.
        width: Pixels.
        overviews: Whether GeoTIFFs get smaller copies for viewers.
    """

    job: Job
    height: int
    width: int
    overviews: bool = False

    def write_mask(
        self, path: Path, indexes: Iterator[NDArray[np.uint8]], class_map: ClassMap
    ) -> None:
        """Write class indexes, in pieces of rows×W, in the coding of the training masks."""
        if not self.job.is_geotiff:
            write_mask(path, next(indexes), undeclared(class_map))
            return
        coded = (mask_pixels(index, class_map) for index in indexes)
        code = no_data_code(class_map)
        nodata = None if isinstance(code, tuple) else code
        colours: dict[int, Sequence[int]] = {}  # of integers; viewers show them
        if (class_map.coding, class_map.dtype) == ("integer", "uint8"):
            colours = {item.code: item.colour for item in class_map.classes}  # type: ignore[misc]
        self._write_geotiff(
            path, coded, every_other, nodata, palette=class_map.palette, colours=colours
        )

    def write(
        self,
        path: Path,
        parts: Iterator[NDArray[Any]],
        write_whole: Callable[[Path, NDArray[Any]], None],
        halving: Halving = mean_of_four,
        nodata: float | None = None,
        names: Sequence[str] = (),
    ) -> None:
        """Write pieces of rows×W or rows×W×C: a small image's only one by `write_whole`.

        Args:
            path: The file.
            parts: The pieces.
            write_whole: Writes an image to a file that is no GeoTIFF.
            halving: Makes the smaller copies of a GeoTIFF.
            nodata: Value of pixels without data, where the image has some.
            names: What the bands of a GeoTIFF are called, if anything.
        """
        if self.job.is_geotiff:
            self._write_geotiff(path, parts, halving, nodata, names=names)
        else:
            write_whole(path, next(parts))

    def _write_geotiff(
        self,
        path: Path,
        parts: Iterator[NDArray[Any]],
        halving: Halving,
        nodata: float | None = None,
        **shown: Any,
    ) -> None:
        """Write a GeoTIFF; `shown` is what `RasterWriter` takes of palettes, colours and names."""
        first = next(parts)
        with RasterWriter(
            path,
            self.height,
            self.width,
            first.shape[2] if first.ndim == 3 else 1,
            first.dtype,
            **shown,
            georeference=self.job.georeference,
            nodata=nodata if self.job.has_gaps else None,
            overviews=halving if self.overviews else None,
        ) as writer:
            top = 0
            for part in chain([first], parts):
                writer.write(top, part)
                top += len(part)


def no_data_code(class_map: ClassMap) -> Code | None:
    """The code of a mask's pixels without data: of ignored pixels, or a number that is no class.

    That is the highest number of the masks' type without a meaning. Palettes and colours have no
    such code to spare, nor 256 classes of 8 bits: None.

    >>> from unetseg.data.masks.class_map import ClassInfo
    >>> cell = ClassInfo(name="cell", code=255, colour=(0, 0, 0))
    >>> no_data_code(ClassMap(classes=(cell,)))
    254
    """
    if class_map.ignore:
        return class_map.ignore[0]
    if class_map.coding != "integer":
        return None
    taken = {item.code for item in class_map.classes} | {code for code, _ in class_map.united}
    highest = int(np.iinfo(class_map.dtype).max)
    spare = (code for code in range(highest, max(highest - 256, -1), -1) if code not in taken)
    return next(spare, None)


def undeclared(class_map: ClassMap) -> ClassMap:
    """The coding of masks in files that cannot declare a no-data value, such as PNG.

    A code that is no class would be one to whoever reads them. So pixels without data get it only
    where nothing is ignored and no class is background; see `mask_pixels` for what they get then.
    """
    if class_map.ignore or class_map.background is not None:
        return class_map
    code = no_data_code(class_map)
    return class_map.model_copy(update={"background": 0} if code is None else {"ignore": (code,)})


def mask_pixels(index: NDArray[np.uint8], class_map: ClassMap) -> NDArray[Any]:
    """Indexes (uint8 H×W, `IGNORED` without data) in the coding of the masks.

    Without data a pixel gets the no-data code, or where there is none, that of the background.
    """
    missing = index == IGNORED
    if not missing.any():
        return class_map.decode(index)
    pixels = class_map.decode(np.where(missing, np.uint8(class_map.background or 0), index))
    code = no_data_code(class_map)
    if code is not None:
        pixels[missing] = code
    return pixels
