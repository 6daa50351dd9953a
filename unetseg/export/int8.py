"""The convolutions of an ONNX file in whole numbers of 8 bit: a third of the size.

The ranges of what flows between them are measured on images (static quantisation by ONNX Runtime,
weights per channel). What that costs is measured too, on the masks of held-out images.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from unetseg.bundle import PrecisionVerdict
from unetseg.errors import BundleError, DataError
from unetseg.evaluation.precision import Labelled, compare_precision
from unetseg.prediction.predictor import Predictor
from unetseg.skiplab.look import View

LARGEST_LOSS = 0.005
"""How far the mean Dice of held-out images, or that of any class, may fall."""
CALIBRATING = 8
"""Images that the ranges are measured on."""
OPERATORS = ["Conv", "ConvTranspose", "MaxPool", "Concat"]


class Images(CalibrationDataReader):  # type: ignore[misc]
    """Hands out the images of views, one by one."""

    def __init__(self, views: Sequence[View], dtype: str) -> None:
        self._images = iter([view.image.astype(dtype) for view in views])

    def get_next(self) -> dict[str, Any] | None:
        """The inputs of one run; None: there is no other."""
        image = next(self._images, None)
        return None if image is None else {"image": image[None].transpose(0, 3, 1, 2)}


def quantise(file: Path, views: Sequence[View], dtype: str) -> None:
    """Put an ONNX file into whole numbers of 8 bit.

    Args:
        file: Written by `write_onnx`.
        views: Images like those that it will see.
        dtype: Type of its input.
    """
    model = onnx.load(file)
    convolutions = [node.name for node in model.graph.node if node.op_type in OPERATORS]
    logging.disable(logging.WARNING)  # of what it would do better with fixed sizes
    try:
        quantize_static(
            model,
            file,
            Images(views[:CALIBRATING], dtype),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,  # without it processors before VNNI overflow
            nodes_to_quantize=convolutions,
            op_types_to_quantize=OPERATORS,
        )
    finally:
        logging.disable(logging.NOTSET)


def measured_loss(run: Predictor, quantised: Predictor, views: Sequence[View]) -> PrecisionVerdict:
    """What whole numbers cost on labelled images.

    Raises:
        BundleError: more than is allowed.
        DataError: no pixel of them has data.
    """
    class_map = run.info.class_map
    pairs = [Labelled(view.image, view.truth) for view in views]
    shape = len(class_map.classes), class_map.foreground
    verdict = compare_precision(quantised.engine, run.engine, pairs, *shape)
    if verdict is None:
        raise DataError("no pixel of the images has data: what 8 bit cost cannot be measured")
    is_near = verdict.dice_float32 - verdict.dice <= LARGEST_LOSS
    if not (is_near and verdict.class_gap <= LARGEST_LOSS):  # nor where there is no foreground
        raise BundleError(
            f"in 8 bit Dice is {verdict.dice:.4f}, in float32 {verdict.dice_float32:.4f}; of one "
            f"class it differs by {verdict.class_gap:.4f}, {LARGEST_LOSS} is allowed: nothing was "
            "written",
            fix="Leave out --int8.",
        )
    return verdict
