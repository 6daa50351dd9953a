"""What is fuzzed: sound folders of every kind of input, and what reads them."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tifffile
import torch
from PIL import Image
from rasterio.shutil import copy as copy_raster
from safetensors.torch import save_file

from tests.builders import blotches, bundle_info, noise, save_run, write_geotiff
from tests.importers import (
    test_class_masks,
    test_cvat,
    test_nnunet,
    test_panoptic,
    test_rle,
    test_roboflow,
    test_supervisely,
    test_via,
    test_voc,
    test_yolo,
)
from tests.importers.exports import BOXES, SIZE, photo, truth, yolo_text
from tests.importers.test_junk import GOOD, XML
from unetseg.bundle import load_bundle
from unetseg.cli.app import run
from unetseg.data.facts.image_values import image_facts
from unetseg.data.facts.survey import survey
from unetseg.data.files.image import ImageFile, count_pages
from unetseg.data.files.pngs import write_png
from unetseg.data.masks.mask_values import mask_facts
from unetseg.data.pairs.splits import read_splits
from unetseg.data.sample import draw_sample
from unetseg.errors import UnetsegError
from unetseg.importers.importing import FORMATS, import_dataset
from unetseg.prediction.predictor import load
from unetseg.training.checkpoint import load_state, save_state
from unetseg.unet.weights import expected_pixels, read_weights

MOST_PIXELS = 2**22
ON_BAD: tuple[Literal["skip", "error"], ...] = ("skip", "error")


class Target(NamedTuple):
    """One kind of input.

    Attributes:
        draw: Draws a sound folder.
        read: Reads the folder; is told the file that was spoilt.
        spoil: Patterns of the files that are spoilt.
    """

    draw: Callable[[Path], object]
    read: Callable[[Path, Path], object]
    spoil: tuple[str, ...] = ("**/*.*",)


def answered(*work: Callable[[], object]) -> None:
    """Do all of the work; each may end in an answer."""
    for part in work:
        with suppress(UnetsegError):
            part()


# ------------------------------------------------------------------------------------ images


def draw_images(folder: Path) -> None:
    """An image of each format and kind that is read."""
    folder.mkdir()
    rgb, grey = blotches(40, 56), blotches(40, 56, 1)[..., 0]
    photo, plain = Image.fromarray(rgb), Image.fromarray(grey)
    for name, image, options in (
        ("rgb.png", photo, {}),
        ("grey.png", plain, {}),
        ("deep.png", Image.fromarray(noise(20, 24, dtype=np.uint16)), {}),
        ("bits.png", plain.convert("1"), {}),
        ("palette.png", photo.quantize(9), {"transparency": 1}),
        ("alpha.png", photo.convert("RGBA"), {}),
        ("rgb.jpg", photo, {}),
        ("grey.jpg", plain, {}),
        ("progressive.jpg", photo, {"progressive": True, "restart_marker_blocks": 2}),
        ("print.jpg", photo.convert("CMYK"), {}),
        ("rgb.bmp", photo, {}),
        ("palette.bmp", photo.quantize(9), {}),
        ("one.gif", photo, {}),
        ("two.gif", photo, {"save_all": True, "append_images": [photo.rotate(90)]}),
        ("lossy.webp", photo, {}),
        ("exact.webp", photo.convert("RGBA"), {"lossless": True}),
        ("rgb.ppm", photo, {}),
        ("grey.pgm", plain, {}),
        ("rgb.jp2", photo, {}),
        ("bands.j2k", photo.convert("RGBA"), {"no_jp2": True}),
    ):
        image.save(folder / name, **options)
    for name, compression in {
        "lzw": "lzw",
        "deflate": "zlib",
        "packbits": "packbits",
        "jpeg": "jpeg",
        "zstd": "zstd",
        "lzma": "lzma",
        "webp": "webp",
        "jp2": "jpeg2000",
    }.items():
        tifffile.imwrite(folder / f"{name}.tif", rgb, compression=compression, rowsperstrip=16)
    tifffile.imwrite(folder / "tiles.tif", rgb, tile=(16, 16), compression="zlib", predictor=True)
    tifffile.imwrite(folder / "big.tif", noise(20, 24, dtype=np.float32), bigtiff=True)
    tifffile.imwrite(folder / "planar.tif", noise(5, 20, 24, dtype=np.uint16), planarconfig=2)
    tifffile.imwrite(folder / "pages.tif", noise(3, 20, 24), photometric="minisblack")
    tifffile.imwrite(folder / "imagej.tif", noise(3, 20, 24), imagej=True)
    tifffile.imwrite(folder / "ome.ome.tif", noise(20, 24), ome=True)
    tifffile.imwrite(folder / "motorola.tif", grey, byteorder=">", photometric="miniswhite")
    Image.fromarray(rgb).quantize(9).save(folder / "palette.tif")
    Image.fromarray(grey).convert("1").save(folder / "fax.tif", compression="group4")
    write_geotiff(folder / "geo.tif", rgb, nodata=0, tiled=True, blockxsize=16, blockysize=16)
    np.save(folder / "a.npy", noise(20, 24, 3))
    np.save(folder / "floats.npy", noise(20, 24, dtype=np.float64))
    np.savez_compressed(folder / "a.npz", a=noise(3, 20, 24))
    for driver, name in {"VRT": "a.vrt", "HFA": "a.img", "ENVI": "envi.dat"}.items():
        copy_raster(folder / "geo.tif", folder / name, driver=driver)


def read_any_image(folder: Path, file: Path) -> None:
    """Everything that is asked of an image file, and of a mask file."""
    del folder
    path = file.with_suffix(".dat") if file.suffix in {".hdr", ".aux.xml"} else file

    def header() -> None:
        with ImageFile(path, MOST_PIXELS) as image:
            answered(lambda: image.georeference, lambda: image.nodata)
            answered(lambda: image.pillow_bands, lambda: (image.shape, image.dtype))
            answered(lambda: image.read(0, 0, image.height // 2 + 1, image.width // 2 + 1))

    def page() -> None:
        with ImageFile(path.with_name(f"{path.name}#2"), MOST_PIXELS) as image:
            image.read()

    answered(header, page, lambda: image_facts(path, MOST_PIXELS), lambda: count_pages(path))
    answered(lambda: mask_facts(path, MOST_PIXELS))


# ------------------------------------------------------------------------ models and states


def draw_run(folder: Path) -> None:
    """A run with a tiny model and its lists."""
    save_run(folder, bundle_info({"depth": 1, "width": 2}))
    pairs = [{"name": name, "hash": name * 32, "split": "val"} for name in "ab"]
    (folder / "splits.json").write_text(json.dumps({"pairs": pairs}))


def read_run(folder: Path, file: Path) -> None:
    """Load the model, its weights as if they were those that were saved."""
    if file.suffix == ".safetensors":
        info = json.loads((folder / "model/model.json").read_text())
        info["weights_sha256"] = sha256(file.read_bytes()).hexdigest()
        (folder / "model/model.json").write_text(json.dumps(info))
    answered(lambda: load_bundle(folder))
    answered(lambda: load(folder, device="cpu").predict(blotches(9, 13)))
    answered(lambda: read_splits(folder / "splits.json"))
    answered(lambda: read_splits(folder / "splits.json", "name"))


def draw_weights(folder: Path) -> None:
    """Weights of others, a description of their pixels, and the state of a training."""
    folder.mkdir()
    weights = {name: torch.ones(3, 2) for name in ("conv.weight", "conv.bias")}
    save_file(weights, folder / "a.safetensors")
    torch.save(weights, folder / "a.pth")
    pixels = {"mean": [0.5] * 3, "std": [0.2] * 3, "input_range": [0, 1]}
    (folder / "config.json").write_text(json.dumps(pixels))
    save_state(folder, {"step": 3, "weights": weights, "order": [1, 2]})


def read_weights_of_others(folder: Path, file: Path) -> None:
    """Weights, and a state whose sum is that of its bytes."""
    if file.name == "last.pt":
        sums = file.with_name("last.pt.sha256")
        sums.write_text(sha256(file.read_bytes()).hexdigest())
    answered(lambda: read_weights(file), lambda: expected_pixels(file))
    answered(lambda: load_state(folder))


# --------------------------------------------------------------------------- descriptions


def draw_data(folder: Path) -> None:
    """Pairs with everything that may describe them."""
    draw_sample(folder, count=4, size=32)
    names = sorted(path.stem for path in (folder / "images").iterdir())
    (folder / "dataset.yaml").write_text(
        "classes:\n  background: 0\n  cell: 255\nignore: [7]\nsnap: true\nval_fraction: 0.25\n"
        f"splits:\n  train: [{', '.join(names[:3])}]\n  val: {names[3]}\n"
    )
    (folder / "classes.txt").write_text("0 background\n255 cell 200 0 0\n")
    rows = "".join(f"images/{name}.png,masks/{name}.png,train,{name}\n" for name in names)
    (folder / "pairs.csv").write_text(f"image,mask,split,group\n{rows}")
    (folder / "train.txt").write_text("\n".join(names[:3]))
    (folder / "val.txt").write_text(names[3])
    classes = [{"name": "background", "code": 0}, {"name": "cell", "code": 255}]
    (folder / "classes.json").write_text(json.dumps(classes))
    (folder / "settings.yaml").write_text("epochs: 3\nlr: 0.01\nskip: [add]\nignore: 3\n")


def read_data(folder: Path, file: Path) -> None:
    """Understand the folder as the spoilt file tells."""
    if file.name != "dataset.yaml":
        (folder / "dataset.yaml").rename(folder / "aside")
    if file.name == "settings.yaml":
        command = ["train", str(folder / "none"), "--config", str(file)]
        code = run(command)
        assert code in {2, 5}, f"exit code {code}"
    elif file.name == "pairs.csv":
        answered(lambda: survey(file))
    answered(lambda: survey(folder))
    if (folder / "aside").exists():
        (folder / "aside").rename(folder / "dataset.yaml")


# ---------------------------------------------------------------------------- annotations


def draw_exports(folder: Path) -> None:
    """An export of every format, in a folder of its name."""
    for kind, file in {"coco": "instances", "labelme": "a", "labelstudio": "tasks"}.items():
        for name in "ab":
            photo(folder / kind / f"{name}.png", (60, 80))
        (folder / kind / f"{file}.json").write_text(json.dumps(GOOD[kind]))
    photo(folder / "cvat/a.png", (60, 80))
    (folder / "cvat/annotations.xml").write_text(XML)
    test_voc.devkit(folder / "voc", ("a", "b"))
    test_voc.write_list(folder / "voc", "train", "a\nb\n")
    (folder / "voc2").mkdir()
    test_cvat.export(folder / "voc2", {"a": test_cvat.codes(1)}, {"default": ["a"]})
    photo(folder / "voc2/JPEGImages/a.png", test_cvat.SIZE)
    test_yolo.pair(folder / "yolo", "images/train/a.jpg", yolo_text(BOXES))
    (folder / "yolo/data.yaml").write_text(test_yolo.NAMES)
    photo(folder / "rle/a.jpg", SIZE)
    (folder / "rle/train.csv").write_text(test_rle.TABLES["severstal"])
    test_via.export(folder / "via/via.json", test_via.REGIONS)
    bitmap = test_supervisely.bitmap(truth() > 0, (0, 0))
    objects = [*test_supervisely.OBJECTS, test_supervisely.figure("dog", "bitmap", bitmap=bitmap)]
    test_supervisely.export(folder / "supervisely/ds0", objects)
    test_roboflow.export(folder / "roboflow/train", truth())
    test_nnunet.export(folder / "nnunet", 2)
    test_nnunet.export(folder / "volumes", ending=".nii.gz")
    test_panoptic.export(folder / "coco-panoptic")
    test_class_masks.export(folder / "classes", "suffix")
    for name in ("one", "two"):
        photo(folder / f"instances/{name}/images/{name}.png", SIZE)
        write_png(folder / f"instances/{name}/masks/1.png", truth() * 255)
    city = folder / "cityscapes"
    photo(city / "leftImg8bit/train/aachen/aachen_0_0_leftImg8bit.png", SIZE)
    write_png(city / "gtFine/train/aachen/aachen_0_0_gtFine_labelIds.png", truth())
    (folder / "packed").mkdir()
    for kind in ("zip", "tar", "gztar"):
        shutil.make_archive(str(folder / "packed/coco"), kind, folder / "coco")


def read_export(folder: Path, file: Path) -> None:
    """Import what the spoilt file belongs to."""
    kind = file.relative_to(folder).parts[0]
    source = file if kind == "packed" else folder / kind
    known = "nnunet" if kind == "volumes" else kind if kind in FORMATS else None
    out = folder / "out"
    for on_bad in ON_BAD if len(file.read_bytes()) % 2 else ON_BAD[:1]:
        answered(partial(import_dataset, known, source, out, on_bad=on_bad))
        shutil.rmtree(out, ignore_errors=True)


TARGETS = {
    "images": Target(draw_images, read_any_image),
    "run": Target(draw_run, read_run),
    "weights": Target(draw_weights, read_weights_of_others, ("a.*", "config.json", "last.pt")),
    "data": Target(draw_data, read_data, ("*.*",)),
    "exports": Target(draw_exports, read_export),
}
