"""A trained U-Net as OpenVINO's two files, .xml and .bin: what the ONNX file holds, converted."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from unetseg.export.onnx import onnx_model
from unetseg.prediction.exported import DIGEST, RT_INFO, Whole
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
    save = openvino_package().save_model
    save(model, file, compress_to_fp16=False)
    digest = sha256(file.with_suffix(".bin").read_bytes()).hexdigest()
    model.set_rt_info(digest, [RT_INFO, DIGEST])
    save(model, file, compress_to_fp16=False)  # the same .bin, and its sum in the .xml


def run_openvino(file: Path) -> Whole:
    """What runs the whole of an .xml file."""
    model = compiled(openvino_core().read_model(file))

    def whole(images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        found = model(images)
        return found["mask"], found["probabilities"]

    return whole
