"""A trained U-Net as OpenVINO's two files, .xml and .bin: what the ONNX file holds, converted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from unetseg.export.onnx import onnx_model
from unetseg.prediction.exported import RT_INFO, Whole
from unetseg.prediction.openvino import compiled, openvino_core, openvino_package
from unetseg.prediction.predictor import Predictor


def write_openvino(file: Path, predictor: Predictor, metadata: Mapping[str, str]) -> None:
    """Write the .xml, with texts that it holds beside, and the .bin.

    Raises:
        NotImplementedError: the network does something that cannot be written.
    """
    content = onnx_model(predictor.engine, predictor.info).SerializeToString()
    model = openvino_core().read_model(content)
    for name, text in metadata.items():
        model.set_rt_info(text, [RT_INFO, name])
    openvino_package().save_model(model, file, compress_to_fp16=False)


def run_openvino(file: Path) -> Whole:
    """What runs the whole of an .xml file."""
    model = compiled(openvino_core().read_model(file))

    def whole(images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        found = model(images)
        return found["mask"], found["probabilities"]

    return whole
