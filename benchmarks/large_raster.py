"""How fast, and in how much memory, an image bigger than memory is predicted.

    python -m benchmarks.large_raster --side 20000

A square RGB TIFF is laid with the images of a folder, predicted by `unetseg predict` in a process
of its own, and a crop of it is predicted whole for comparison. The last line is one JSON object.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.networks import trained_run
from benchmarks.rounds import markdown, parser, report
from unetseg.data.files.folders import find_images
from unetseg.data.files.geotiff import RasterWriter
from unetseg.data.files.image import ImageFile, read_image
from unetseg.data.sample import draw_sample

SEED = 0
CROP = 1536
"""Side of the crop that is predicted whole, pixels."""
BORDER = 256
"""Pixels at the border of the crop that are not compared: there it lacks what lies around it."""
AS_LARGE = """
from unetseg.cli.app import main
from unetseg.data.files import image as image_file
image_file.WHOLE_PIXELS = 0
main()
"""
"""`unetseg` that predicts by bands what is small enough to be predicted whole."""
ON_GRID = 256
"""Pixels; the crop begins at a multiple, so that it is pooled as the whole is."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table and a line of JSON."""
    flags = parser("large_raster", __doc__)
    flags.add_argument("--side", type=int, default=20_000, help="pixels")
    flags.add_argument("--run", type=Path, help="trained run (default: a small one is trained)")
    flags.add_argument("--data", type=Path, help="folder of RGB images (default: drawn samples)")
    flags.add_argument("--network", default="base16", help="of the U-Net that is trained")
    flags.add_argument("--work", type=Path, help="folder to work in (default: a temporary one)")
    given = flags.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="large-", dir=given.work) as folder:
        found = measure(Path(folder), given)
    note = f"compared: a crop of {CROP}² without the {BORDER} pixels at its border"
    lines = [*markdown(list(found), [list(found.values())]), note]
    report("large_raster", "Images bigger than memory", lines, found, write=given.save)


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Lay the image, predict it, and compare a crop.

    Until the prediction has run, this process stays small: what it holds when it starts another
    counts as the memory of the other.
    """
    sample = draw_sample(folder / "sample", count=24, size=256, seed=SEED)
    run = given.run or trained_run(given.network, sample, folder, epochs=6)
    image = folder / "large.tif"
    lay_tiles(image, given.data or sample / "images", given.side)
    seconds, peak = predict(run, image, folder / "masks")
    equal = compare(run, image, folder / "masks" / "large.tif")
    megapixels = given.side**2 / 1e6
    return {
        "side": given.side,
        "megapixels": megapixels,
        "file_megabytes": round(image.stat().st_size / 1e6, 1),
        "seconds": round(seconds, 1),
        "megapixels_per_second": round(megapixels / seconds, 3),
        "peak_gigabytes": round(peak / 1e9, 3),  # resident, of `unetseg predict`, torch included
        "equal_share": float(equal.mean()),
        "compared_pixels": equal.size,
    }


def lay_tiles(path: Path, data: Path, side: int) -> None:
    """A square image of `side` pixels, laid with the images of a folder in an order drawn once."""
    images = [rgb(read_image(file)) for file, _ in find_images([data])]
    high = min(len(image) for image in images)
    wide = min(image.shape[1] for image in images)
    rng = np.random.default_rng(SEED)
    with RasterWriter(path, side, side, 3, np.uint8) as writer:
        for top in range(0, side, high):
            picks = rng.integers(len(images), size=-(-side // wide))
            row = np.concatenate([images[pick][:high, :wide] for pick in picks], axis=1)
            writer.write(top, row[: side - top, :side])


def rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """The first three bands of an 8-bit image; grey is repeated."""
    if image.dtype != np.uint8:
        raise SystemExit(f"the images must be 8 bit, these are {image.dtype}")
    return np.repeat(image[..., :1], 3, axis=2) if image.shape[2] < 3 else image[..., :3]


def predict(run: Path, image: Path, output: Path) -> tuple[float, int]:
    """Seconds of wall time and bytes of peak memory of `unetseg predict`."""
    words = ["predict", str(run), str(image), "-o", str(output), "--device", "cpu"]
    with ImageFile(image) as opened:
        start = ["-m", "unetseg"] if opened.is_large else ["-c", AS_LARGE]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, *start, *words])
    _, status, usage = os.wait4(process.pid, 0)  # of this child alone, not of those before
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"unetseg predict ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes
    return time.monotonic() - began, usage.ru_maxrss * unit


def compare(run: Path, image: Path, mask: Path) -> NDArray[np.bool_]:
    """Where the middle of the mask is what the crop around it, predicted whole, gives there."""
    from unetseg.config import DeviceConfig
    from unetseg.data.masks.mask_file import MaskFile
    from unetseg.prediction.engine import TileNetwork
    from unetseg.prediction.predictor import Predictor
    from unetseg.prediction.stream import Stream

    predictor = Predictor(run, device=DeviceConfig(device="cpu"))
    with ImageFile(image) as raster, MaskFile(mask) as masks:
        size = min(CROP, raster.height, raster.width)
        top = (raster.height - size) // 2 // ON_GRID * ON_GRID
        statistics = Stream(predictor.engine, predictor.info, raster).statistics
        network = TileNetwork(predictor.engine, statistics)
        logits = network.forward([raster.read(top, top, size, size)])[0]
        index = logits.max(0).indices.numpy().astype(np.uint8)
        inner = slice(BORDER, size - BORDER)
        alone = predictor.info.class_map.decode(index)[inner, inner]
        start, side = top + BORDER, size - 2 * BORDER
        return np.asarray(masks.read(start, start, side, side) == alone)


if __name__ == "__main__":
    main()
