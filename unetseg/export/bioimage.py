"""A trained U-Net as a package of bioimage.io: its ONNX file, and rdf.yaml that says how to run it.

Fiji (deepImageJ), ilastik and BiaPy read such packages. They take one output best, so the
probabilities alone come out of the network.
"""

import math
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from io import BytesIO
from keyword import iskeyword
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray

import unetseg
from unetseg.bundle import BundleInfo, find_bundle
from unetseg.data.files.pngs import png_bytes
from unetseg.data.masks.overlay import overlay, picture
from unetseg.evaluation.evaluate import run_folder
from unetseg.export.operators import OPSET
from unetseg.prediction.exported import onnx_session
from unetseg.prediction.predictor import Predictor
from unetseg.skiplab.look import View
from unetseg.storage import write_bytes

FORMAT = "0.5.12"
"""Version of the model description."""
LARGEST = 256
"""Side of the test image, pixels, unless the network needs more."""
Tiles = tuple[int, int, int]
"""Smallest side of a tile, its steps, and what is cropped of its borders, pixels of the image."""
PAPER = {
    "text": "Ronneberger et al.: U-Net: Convolutional Networks for Biomedical Image Segmentation",
    "doi": "10.1007/978-3-319-24574-4_28",
}


def write_package(
    package: Path,
    file: Path,
    run: Path,
    predictor: Predictor,
    drawn: NDArray[Any],
    views: Sequence[View],
) -> None:
    """Put an ONNX file into a package, with what others test it and show it with.

    Args:
        package: The .zip.
        file: Written by `write_onnx`; it is gone afterwards.
        run: The run it was made of.
        predictor: The same.
        drawn: H×W×C of raw pixels to test on where there are no views.
        views: Images like those that it will see; that with most foreground is the test.
    """
    info, tiles = predictor.info, _tiles(predictor)
    ignored = [255] if info.class_map.background is None else [255, info.class_map.background]
    foreground = [(~np.isin(view.truth, ignored)).sum() for view in views]
    image = views[int(np.argmax(foreground))].image if views else drawn
    tile = _square(image.astype(info.pixel_type), tiles)
    pixels, network = tile.transpose(2, 0, 1)[None], _probabilities_alone(file)
    (likely,) = onnx_session(network).run(None, {"image": pixels})
    name = re.sub(r"[^\w+() -]", "-", run_folder(run).resolve().name, flags=re.ASCII)
    name, card = f"unetseg {name}"[:64], find_bundle(run) / "README.md"
    text = card.read_text(errors="replace") if card.is_file() else f"# {name}\n"
    parts = {
        "model.onnx": network,
        "image.npy": _npy(pixels),
        "probabilities.npy": _npy(likely),
        "cover.png": _cover(tile, likely[0], info),
        "README.md": text.replace("## Scores", "## Scores in validation").encode(),
    }
    told = _description(name, info, tiles, parts)
    parts["rdf.yaml"] = yaml.safe_dump(told, sort_keys=False, allow_unicode=True).encode()
    packed = BytesIO()
    with ZipFile(packed, "w") as archive:
        for part, content in parts.items():
            archive.writestr(ZipInfo(part), content, ZIP_DEFLATED)
    write_bytes(package, packed.getvalue())
    file.unlink()


def _tiles(predictor: Predictor) -> Tiles:
    """The sides of tiles in pixels of the image, whatever the size that the network sees it at.

    The network takes any side; of these nothing is added at the borders, unless it is `valid`.
    """
    segmenter, step = predictor.engine.segmenter, predictor.engine.grid
    halo = max(step, math.ceil(segmenter.network.geometry.margin / segmenter.scale))
    halo += halo % 2
    return 2 * (halo + step), step, halo


def _square(image: NDArray[Any], tiles: Tiles) -> NDArray[Any]:
    """The middle of an image, of a side that tiles may have; continued by its mirror image."""
    smallest, step, _ = tiles
    side = max(0, min(*image.shape[:2], LARGEST) - smallest) // step * step + smallest
    added = [(0, max(0, side - length)) for length in image.shape[:2]]
    image = np.pad(image, [*added, (0, 0)], "symmetric")
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def _probabilities_alone(file: Path) -> bytes:
    """An ONNX file without the output `mask`."""
    model = onnx.load(file)
    kept = [output for output in model.graph.output if output.name == "probabilities"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    content: bytes = model.SerializeToString()
    return content


def _npy(array: NDArray[Any]) -> bytes:
    content = BytesIO()
    np.save(content, np.ascontiguousarray(array))
    return content.getvalue()


def _cover(tile: NDArray[Any], likely: NDArray[Any], info: BundleInfo) -> bytes:
    """The test image, and the same with its classes in colour, 1:2."""
    classes, index = info.class_map, likely.argmax(0).astype(np.uint8)
    found = overlay(tile, index, classes.colours, background=classes.background)
    return png_bytes(np.concatenate([picture(tile), found], 1))


def _description(
    name: str, info: BundleInfo, tiles: Tiles, parts: Mapping[str, bytes]
) -> dict[str, Any]:
    """The content of rdf.yaml."""
    classes = info.class_map.names
    smallest, step, halo = tiles
    bands = {1: ["grey"], 3: ["red", "green", "blue"]}.get(info.bands)
    bands = bands or [f"band_{number}" for number in range(1, info.bands + 1)]
    files = {
        part: {"source": part, "sha256": sha256(content).hexdigest()}
        for part, content in parts.items()
    }
    outputs = [
        {"type": "space", "id": side, "size": {"tensor_id": "image", "axis_id": side}, "halo": halo}
        for side in "yx"
    ]
    inputs = [
        {"type": "space", "id": side, "size": {"min": smallest, "step": step}} for side in "yx"
    ]
    told = f"A U-Net that gives every pixel of an image one of {len(classes)} classes: "
    return {
        "format_version": FORMAT,
        "type": "model",
        "name": name,
        "description": (told + ", ".join(classes))[:500],
        "authors": [{"name": f"unetseg {unetseg.__version__}"}],
        "cite": [PAPER],
        "documentation": files["README.md"],
        "covers": [files["cover.png"]],
        "tags": ["2d", "unet", "semantic-segmentation", "onnx", "unetseg"],
        "inputs": [
            {
                "id": "image",
                "description": "raw pixels, as files hold them",
                "axes": [{"type": "batch"}, _channels(bands), *inputs],
                "data": {"type": info.pixel_type},
                "test_tensor": files["image.npy"],
            }
        ],
        "outputs": [
            {
                "id": "probabilities",
                "description": "of each class, 0-1",
                "axes": [{"type": "batch"}, _channels(classes), *outputs],
                "data": {"type": "float32", "range": [0.0, 1.0]},
                "test_tensor": files["probabilities.npy"],
            }
        ],
        "weights": {"onnx": {**files["model.onnx"], "opset_version": OPSET}},
    }


def _channels(names: Sequence[str]) -> dict[str, Any]:
    """An axis of channels; older readers want names that Python could have."""
    words = [re.sub(r"\W", "_", name) for name in names]
    words = [word if word.isidentifier() and not iskeyword(word) else f"_{word}" for word in words]
    return {"type": "channel", "channel_names": words}
