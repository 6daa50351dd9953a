"""The ONNX file as the plugin Deepness of QGIS runs it: a tile of fixed size in, probabilities out.

The plugin gives bands of 8 bit divided by 255, float32 1×C×T×T, takes one output of the same sides,
and reads its settings in the metadata, each as JSON:
https://qgis-plugin-deepness.readthedocs.io/en/latest/creators/creators_add_metadata_to_model.html
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from unetseg.bundle import BundleInfo
from unetseg.errors import ConfigError
from unetseg.storage import write_bytes

EIGHT_BIT = np.array(255, np.float32)


def write_deepness(output: Path, file: Path, info: BundleInfo) -> None:
    """Make of an ONNX file one for the plugin.

    Args:
        output: The file for it.
        file: Written by `write_onnx`; it is gone afterwards.
        info: What it is.

    Raises:
        ConfigError: the network was trained on other pixels than the plugin gives.
    """
    if info.dtype != "uint8":
        told = f"Deepness gives a network pixels of 8 bit, this one was trained on {info.dtype}"
        raise ConfigError(told, fix="Use unetseg predict, which writes georeferenced masks.")
    model = onnx.load(file)
    graph, sides = model.graph, (info.tile, info.tile)
    for node in graph.node:
        node.input[:] = ["raw" if name == "image" else name for name in node.input]
    graph.node.insert(0, helper.make_node("Mul", ["image", "eight_bit"], ["raw"]))
    graph.initializer.append(numpy_helper.from_array(EIGHT_BIT, "eight_bit"))
    for values, name, count in (
        (graph.input, "image", info.bands),
        (graph.output, "probabilities", len(info.class_map.classes)),
    ):
        del values[:]
        shape = (1, count, *sides)
        values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    settings = {
        "model_type": "Segmentor",
        "class_names": dict(enumerate(info.class_map.names)),
        "tiles_size": info.tile,
        "tiles_overlap": round(100 * info.overlap),  # percent
    }
    for key, value in settings.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    write_bytes(output, model.SerializeToString())
    file.unlink()
