"""One image bigger than memory: its bands to disk one by one, and from there into the files."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo
from unetseg.config import PredictConfig
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.masks.overlay import outline_reach, outlines
from unetseg.prediction.bands import BandStore, held_bands
from unetseg.prediction.outputs import GeotiffWriter, Job, draw_classes, levels_with_data
from unetseg.prediction.stream import Stream, rows_at_once
from unetseg.progress import SILENT, Progress

THUMBNAIL = 1024
"""Longer side of the picture that the brightness of an overlay is taken from, pixels."""


def predict_giant(
    stream: Stream,
    info: BundleInfo,
    job: Job,
    config: PredictConfig,
    progress: Progress = SILENT,
) -> None:
    """Write the mask of a large image, and what else `config` asks for, band by band.

    What was done before this was killed is not done again; see `BandStore`.

    Raises:
        ImageError: the image cannot be read, or is not what the model was trained on.
        MachineError: a file cannot be written.
    """
    classes = len(info.class_map.classes) if config.probabilities else 0
    job_facts = identity(stream, info, job)
    with held_bands(job.mask):
        store = BandStore(job.mask, job_facts, stream.spans, stream.raster.width, classes)
        fill(store, stream, progress)
        assemble(store, stream, info.class_map, job, config)
        store.remove()


def identity(stream: Stream, info: BundleInfo, job: Job) -> dict[str, Any]:
    """Everything that the bands of an image depend on."""
    status = job.image.stat()
    engine = stream.engine
    return {
        "image": str(job.image.resolve()),
        "bytes": status.st_size,
        "modified": [status.st_mtime_ns, status.st_ctime_ns],  # copies may keep the first
        "nodata": str(stream.raster.nodata),
        "model": info.model_dump(mode="json", exclude={"scores", "versions", "precision"}),
        "tile": stream.tile,
        "overlap": engine.overlap,
        "mirrors": len(engine.mirrors),
        "arithmetic": [
            engine.machine.device.type,
            str(engine.machine.dtype),
            engine.choice.name,
        ],
    }


def fill(store: BandStore, stream: Stream, progress: Progress) -> None:
    """Predict the bands that are not there yet."""
    done, total = store.finished, len(stream.spans)
    if done == total:
        return
    task = f"bands of {stream.raster.path.name}"
    progress.start(task, total)
    progress.advance(task, done)
    with closing(stream.predict(done)) as bands:  # so that nothing reads on after an error
        for band in bands:
            store.save(band.number, band.classes(), band.probabilities())
            del band  # its logits are not to be held while the next are made
            progress.advance(task)
    progress.finish(task)


def assemble(
    store: BandStore, stream: Stream, class_map: ClassMap, job: Job, config: PredictConfig
) -> None:
    """Write the files from the bands, the mask last: it says that all is there."""
    raster = stream.raster
    inside = replace(job, mask=store.folder / job.mask.name)
    geotiff = GeotiffWriter(inside, raster.height, raster.width, config.overviews)
    spans = pieces(raster.height, raster.width)
    if config.probabilities:
        geotiff.write_probabilities(store.probabilities(*span) for span in spans)
        store.hand_over(job.probabilities)
    if config.overlay:
        geotiff.write_overlay(overlay_pieces(store, stream, class_map))
        store.hand_over(job.overlay)
    geotiff.write_mask((store.index(*span) for span in spans), class_map)
    store.hand_over(job.mask)


def pieces(height: int, width: int) -> list[tuple[int, int]]:
    """First row, and first row below, of the parts that an image is written in."""
    rows = rows_at_once(width)
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def overlay_pieces(
    store: BandStore, stream: Stream, class_map: ClassMap
) -> Iterator[NDArray[np.uint8]]:
    """The overlay from top to bottom, as it would be drawn of the whole."""
    raster = stream.raster
    levels = None
    if raster.dtype != np.uint8:  # 8-bit values are drawn as they are
        levels = levels_with_data(stream.check(raster.thumbnail(THUMBNAIL)), raster.nodata)
    reach = outline_reach(raster.height, raster.width)
    for top, bottom in pieces(raster.height, raster.width):
        above = min(top, reach)
        around = store.index(top - above, bottom + reach)
        outline = outlines(around, reach)[above : above + bottom - top]
        image = stream.check(raster.read(top, 0, bottom - top, raster.width))
        yield draw_classes(image, store.index(top, bottom), class_map, levels, outline)
