"""A trained U-Net as one ONNX file: raw pixels in, masks in their own codes and probabilities out.

    image N×C×H×W, as files hold it → mask N×H×W (of colours N×H×W×3), probabilities N×K×H×W

Between them, in the file: normalisation, scale, what is added to sides that do not fit the network,
the network with its norms folded, what is cropped again, temperature, softmax, the class of each
pixel, and its code.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

import unetseg
from unetseg.bundle import BundleInfo
from unetseg.export.operators import HEIGHT, IR_VERSION, OPSET, WIDTH, Nodes, write_network
from unetseg.prediction.engine import Engine
from unetseg.prediction.exported import DIGEST, GRID, LOGITS, Whole, onnx_digest, onnx_session
from unetseg.prediction.predictor import Predictor
from unetseg.prediction.recording import EXAMPLE, probe, record
from unetseg.storage import write_bytes
from unetseg.unet.model import Geometry
from unetseg.unet.segmenter import SMALLEST_DEVIATION, Segmenter


def onnx_model(engine: Engine, info: BundleInfo) -> onnx.ModelProto:
    """The whole of a trained U-Net, but for its rules of post-processing.

    Args:
        engine: The network in float32 on the CPU, its temperature and margin.
        info: What it is.

    Raises:
        NotImplementedError: the network does something that cannot be written.
    """
    segmenter, nodes = engine.segmenter, Nodes()
    sides = [nodes("Shape", "image", start=axis, end=axis + 1) for axis in (HEIGHT, WIDTH)]
    pixels, small = _normalised(nodes, segmenter), sides
    if segmenter.scale != 1:
        small = [_scaled(nodes, side, segmenter.scale) for side in sides]
        rows, columns = map(partial(_averages, nodes), sides, small)
        pixels = nodes("MatMul", rows, pixels)
        pixels = nodes("MatMul", pixels, nodes("Transpose", columns, perm=[1, 0]))
    logits = _on_grid(nodes, pixels, small, segmenter)
    ends = nodes("Concat", *small, axis=0)
    logits = nodes("Slice", logits, nodes.whole(0, 0), ends, nodes.whole(HEIGHT, WIDTH))
    if segmenter.scale != 1:
        logits = _resized(nodes, logits, sides)
    codes = nodes.constant([item.code for item in info.class_map.classes], info.class_map.dtype)
    nodes("Gather", codes, _classes(nodes, logits, engine.margin), name="mask")
    tempered = nodes("Div", logits, nodes.constant(engine.temperature))
    nodes("Softmax", tempered, axis=1, name="probabilities")
    return _model(nodes, info)


def write_onnx(file: Path, predictor: Predictor, metadata: Mapping[str, str]) -> None:
    """Write a trained U-Net as an ONNX file, with texts that it holds beside.

    Raises:
        NotImplementedError: the network does something that cannot be written.
    """
    model = onnx_model(predictor.engine, predictor.info)
    helper.set_model_props(model, dict(metadata))
    write_bytes(file, model.SerializeToString())


def seal_onnx(file: Path) -> None:
    """Note the sum over all numbers of an ONNX file in it: a damaged one is no other model."""
    model = onnx.load(file)
    entry = model.metadata_props.add()
    entry.key, entry.value = DIGEST, onnx_digest(model)
    write_bytes(file, model.SerializeToString())


def run_onnx(file: Path) -> Whole:
    """What runs the whole of an ONNX file."""
    session = onnx_session(file.read_bytes())

    def whole(images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        mask, likely = session.run(["mask", "probabilities"], {"image": images})
        return mask, likely

    return whole


def _normalised(nodes: Nodes, segmenter: Segmenter) -> str:
    """The pixels as `Segmenter.normalise` gives them."""
    pixels = nodes("Cast", "image", to=TensorProto.FLOAT)
    mean, std = (nodes.constant(table.numpy()) for table in (segmenter.mean, segmenter.std))
    if segmenter.per_image:
        mean = _mean(nodes, pixels)
        # float32 sums of many large numbers are off; what is left of the mean is added to it
        mean = nodes("Add", mean, _mean(nodes, nodes("Sub", pixels, mean)))
        centred = nodes("Sub", pixels, mean)
        own = nodes("Sqrt", _mean(nodes, nodes("Mul", centred, centred)))
        std = nodes("Max", own, nodes.constant(SMALLEST_DEVIATION * segmenter.std.numpy()))
    return nodes("Div", nodes("Sub", pixels, mean), std, name="normalised")


def _mean(nodes: Nodes, pixels: str) -> str:
    """N×C×1×1: of each row, then of these."""
    rows = nodes("ReduceMean", pixels, nodes.whole(WIDTH))
    return nodes("ReduceMean", rows, nodes.whole(HEIGHT))


def _scaled(nodes: Nodes, side: str, scale: float) -> str:
    """A side of the image that the network sees, as Python would round it."""
    wide = nodes("Cast", side, to=TensorProto.DOUBLE)
    rounded = nodes("Round", nodes("Mul", wide, nodes.constant([scale], np.float64)))
    return nodes("Max", nodes("Cast", rounded, to=TensorProto.INT64), nodes.whole(1))


def _averages(nodes: Nodes, side: str, small: str) -> str:
    """What makes a side smaller when it is multiplied by it, small×side: as torch's "antialias".

    Each place of the small side is the mean around its place in the large one, weighted by a
    triangle as wide as two of its pixels. Not every runtime has that for a resize.
    """
    wide, few = (nodes("Cast", each, to=TensorProto.DOUBLE) for each in (side, small))
    ratio, half = nodes("Div", wide, few), nodes.constant([0.5], np.float64)
    zero, one = (nodes.constant(n, np.int64) for n in (0, 1))
    places, centres = (
        nodes("Add", nodes("Cast", index, to=TensorProto.DOUBLE), half)
        for index in (nodes("Range", zero, nodes("Squeeze", n), one) for n in (side, small))
    )
    centres = nodes("Unsqueeze", nodes("Mul", centres, ratio), nodes.whole(1))
    unit = nodes.constant([1.0], np.float64)
    away = nodes("Div", nodes("Abs", nodes("Sub", places, centres)), nodes("Max", ratio, unit))
    weights = nodes("Max", nodes("Sub", unit, away), nodes.constant([0.0], np.float64))
    weights = nodes("Div", weights, nodes("ReduceSum", weights, nodes.whole(1)))
    return nodes("Cast", weights, to=TensorProto.FLOAT)


def _resized(nodes: Nodes, image: str, sides: list[str]) -> str:
    whole = nodes("Shape", image, start=0, end=HEIGHT)
    size = nodes("Concat", whole, *sides, axis=0)
    places: dict[str, Any] = {"coordinate_transformation_mode": "half_pixel", "mode": "linear"}
    return nodes("Resize", image, "", "", size, **places)


def _on_grid(nodes: Nodes, pixels: str, sides: list[str], segmenter: Segmenter) -> str:
    """The logits of an image that is continued to sides that fit the network."""
    network, geometry = segmenter.network, segmenter.network.geometry
    below, right = (_continued(nodes, side, sides, geometry) for side in sides)
    continued = nodes("Gather", pixels, below, axis=HEIGHT)
    grid = nodes("Gather", continued, right, axis=WIDTH, name=GRID)
    with torch.inference_mode():
        example = probe(geometry, segmenter.mean.numel(), EXAMPLE)
        recording = record(network.on_grid, example)
        logits = write_network(recording.cast(torch.float32), nodes, grid)
    return nodes("Identity", logits, name=LOGITS)


def _continued(nodes: Nodes, side: str, sides: list[str], geometry: Geometry) -> str:
    """Which pixel along a side stands at each place of the side that the network works on.

    As `Segmenter.prepared` and `UNet.continued`: the margin on both sides, then what is missing to
    a side that fits behind it, each by the mirror image or, of images too small for it, the border.
    """
    zero, one, margin = (nodes.constant(n, np.int64) for n in (0, 1, geometry.margin))
    length = nodes("Squeeze", side)
    last = nodes("Sub", length, one)
    wide = nodes("Add", length, nodes.constant(2 * geometry.margin, np.int64))
    # the fitting side: ⌈(wide − offset) / stride⌉ strides, two at least
    over = nodes("Sub", wide, nodes.constant(geometry.offset - geometry.stride + 1, np.int64))
    strides = nodes("Div", over, nodes.constant(geometry.stride, np.int64))
    strides = nodes("Max", strides, nodes.constant(2, np.int64))
    fitting = nodes("Mul", strides, nodes.constant(geometry.stride, np.int64))
    fitting = nodes("Add", fitting, nodes.constant(geometry.offset, np.int64))
    index = nodes("Range", zero, fitting, one)
    is_mirrored = nodes("Less", nodes("Sub", fitting, wide), wide)
    end = nodes("Sub", wide, one)
    index = nodes("Where", is_mirrored, _mirrored(nodes, index, end), nodes("Min", index, end))
    if not geometry.margin:
        return index
    index = nodes("Sub", index, margin)
    shorter = nodes("Squeeze", nodes("Min", *sides))
    mirrored = _mirrored(nodes, nodes("Abs", index), last)
    border = nodes("Max", nodes("Min", index, last), zero)
    return nodes("Where", nodes("Less", margin, shorter), mirrored, border)


def _mirrored(nodes: Nodes, index: str, last: str) -> str:
    """Places behind the last as those that lie as far before it."""
    return nodes("Sub", last, nodes("Abs", nodes("Sub", last, index)))


def _classes(nodes: Nodes, logits: str, margin: float) -> str:
    """The class of each pixel, N×H×W, as `most_probable` gives it."""
    if not margin:
        return nodes("ArgMax", logits, axis=1, keepdims=0)
    first, second = (
        nodes("Squeeze", nodes("Gather", logits, nodes.whole(n), axis=1), nodes.whole(1))
        for n in (0, 1)
    )
    above = nodes("Greater", nodes("Sub", second, first), nodes.constant(margin))
    return nodes("Cast", above, to=TensorProto.INT64)


def _model(nodes: Nodes, info: BundleInfo) -> onnx.ModelProto:
    def value(name: str, dtype: str, *shape: int | str) -> onnx.ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, kind, shape)

    used = {name for node in nodes.nodes for name in node.input}
    classes = len(info.class_map.classes)
    colours = (3,) if info.class_map.coding == "rgb" else ()
    graph = helper.make_graph(
        nodes.nodes,
        "unetseg",
        [value("image", info.pixel_type, "N", info.bands, "H", "W")],
        [
            value("mask", info.class_map.dtype, "N", "H", "W", *colours),
            value("probabilities", "float32", "N", classes, "H", "W"),
        ],
        [constant for constant in nodes.constants if constant.name in used],
        value_info=[
            value(GRID, "float32", "N", info.bands, "fitting H", "fitting W"),
            value(LOGITS, "float32", "N", classes, "logits H", "logits W"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "unetseg", unetseg.__version__
    return model
