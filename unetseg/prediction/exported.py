"""An exported U-Net made ready to predict: its network from the file, all else as with a run.

A file holds everything from raw pixels to masks. Of that `predict` runs the network alone, between
two tensors that have a name in every export; tiles, the moments of whole images, gaps, blending and
post-processing are those of a run, so that masks are the same, of images of any size.

No file runs code: what its network does must be of `OPERATORS`, nothing outside it is read.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from textwrap import shorten
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unetseg.bundle import LARGEST_JSON, BundleInfo, parse_info
from unetseg.errors import BundleError, UnetsegError, imported
from unetseg.prediction.backends import Choice
from unetseg.prediction.openvino import compiled, openvino_core, openvino_package
from unetseg.storage import is_file
from unetseg.unet.build import build_unet
from unetseg.unet.model import UNet
from unetseg.unet.segmenter import Segmenter

GRID = "grid"
"""In every export, the image N×C×H×W that the network works on: its sides fit, nothing is left to
do to it."""
LOGITS = "logits_on_grid"
"""In every export, what the network says of it, N×K×H×W."""
INFO = "model.json"
"""In every export, the text of the bundle's model.json."""
THRESHOLD = "threshold"
"""Where an export has one inside: the probability from which on a pixel is foreground."""
DIGEST = "numbers_sha256"
"""In files of ONNX and OpenVINO, the sum over the numbers that belong to it."""
LARGEST_FILE = 2**31
"""Bytes; a larger file is refused unread."""
OPERATORS = {
    *("Add", "AveragePool", "Clip", "Concat", "Conv", "ConvTranspose", "Div", "Elu", "Erf"),
    *("GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization"),
    *("LeakyRelu", "MaxPool", "Mul", "Neg", "Pad", "ReduceMean", "Relu", "Reshape", "Resize"),
    *("Shape", "Sigmoid", "Slice", "Sub", "Tanh", "QuantizeLinear", "DequantizeLinear"),
}
"""What a network in an ONNX file may do: arithmetic on tensors as large as images."""

OF_OPENVINO = {
    *("Add", "AvgPool", "Broadcast", "Clamp", "Concat", "Constant", "Convert", "Convolution"),
    *("ConvolutionBackpropData", "Divide", "Elu", "Erf", "FakeQuantize", "Gelu"),
    *("GroupConvolution", "HSwish", "HardSigmoid", "Identity", "Interpolate", "MVN", "MaxPool"),
    *("Maximum", "Minimum", "Multiply", "Negative", "PRelu", "Pad", "Parameter", "Range"),
    *("ReduceMean", "Relu", "Reshape", "Result", "ScatterElementsUpdate", "ShapeOf", "Sigmoid"),
    *("Slice", "Squeeze", "Subtract", "Swish", "Tanh", "VariadicSplit"),
}
"""The same of an OpenVINO file."""
OF_TORCHSCRIPT = {
    *("prim::Constant", "prim::GetAttr", "prim::ListConstruct", "prim::NumToTensor"),
    *("prim::TupleConstruct", "prim::TupleUnpack"),
    *(
        f"aten::{name}"
        for name in (
            *("Int", "_convolution", "adaptive_avg_pool2d", "add", "add_", "avg_pool2d"),
            *("batch_norm", "cat", "chunk", "clamp", "contiguous", "div", "dropout", "elu"),
            *("expand", "flatten", "floor", "floor_divide", "gelu", "group_norm", "hardsigmoid"),
            *("hardswish", "hardtanh", "hardtanh_", "instance_norm", "layer_norm", "leaky_relu"),
            *("linear", "matmul", "max_pool2d", "mean", "mul", "mul_", "neg", "pad", "permute"),
            *("relu", "relu_", "reshape", "rsub", "scaled_dot_product_attention", "select"),
            *("sigmoid", "silu", "silu_", "size", "slice", "softmax", "sub", "tanh", "to"),
            *("transpose", "unbind", "upsample_bilinear2d", "upsample_nearest2d", "view"),
        )
    ),
}
"""The same of a TorchScript file."""
RT_INFO = "unetseg"
"""Under which name an OpenVINO file holds texts."""

Whole = Callable[[NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]
"""What runs all that is in a file: images N×C×H×W of raw pixels → masks, probabilities N×K×H×W."""
Network = Callable[[Tensor], Tensor]
"""Image on the grid N×C×H×W float32 → its logits."""
Loaded = tuple[Mapping[str, str], Network, str]
"""Metadata and network of a file, and what runs it."""


@dataclass(frozen=True)
class Exported:
    """A U-Net in a file, ready to predict."""

    segmenter: Segmenter
    """Its normalisation, scale and geometry; the network in it computes nothing."""
    info: BundleInfo
    choice: Choice
    threshold: float | None
    """What the file has inside."""


def is_exported(run: Path) -> bool:
    """Whether a path is that of a file of `unetseg export`, by its suffix."""
    return run.suffix.lower() in RUNTIMES and is_file(run)


def load_exported(file: Path) -> Exported:
    """The U-Net in a file that `unetseg export` wrote.

    Raises:
        BundleError: it is damaged, of other origin, or does more than a network does.
        MachineError: what runs such files is not installed.
    """
    kind, parts = file.suffix.lower(), [file]
    if kind == ".xml":
        parts.append(file.with_suffix(".bin"))
    for part in parts:
        if not part.is_file():
            raise BundleError(f"{part} is missing: it belongs to {file.name}")
        if not (size := part.stat().st_size):
            raise BundleError(f"{part} is empty", fix="Export it again, or copy it again.")
        if size > LARGEST_FILE:
            raise BundleError(f"{part} has {size} bytes; at most {LARGEST_FILE} are read")
    with _explained(file):
        content = [part.read_bytes() for part in parts]
        metadata, network, name = RUNTIMES[kind](file, *content)
    if INFO not in metadata or len(metadata[INFO]) > LARGEST_JSON:
        raise _foreign(file)
    info = parse_info(metadata[INFO], file)
    # a file of its own, be it of the same training: int8 gives other masks
    info = info.model_copy(update={"weights_sha256": sha256(b"".join(content)).hexdigest()})
    outline = _outline(info)
    segmenter = Segmenter(outline, info.normalisation, info.network.scale)
    threshold = _threshold(file, metadata.get(THRESHOLD))

    def backend(image: Tensor) -> Tensor:
        """Logits of a prepared image of any sides."""
        return outline.cropped(network(outline.continued(image).contiguous()), image)

    return Exported(segmenter.eval(), info, Choice(name, "the file's own", backend), threshold)


def _threshold(file: Path, text: str | None) -> float | None:
    """The threshold that is inside a file, if one is.

    Raises:
        BundleError: it is no number between 0 and 1.
    """
    if text is None:
        return None
    with suppress(ValueError):
        if 0 < (threshold := float(text)) < 1:
            return threshold
    raise BundleError(f"{file} has a threshold of {text!r}, expected a number between 0 and 1")


def _outline(info: BundleInfo) -> UNet:
    """A U-Net's geometry and the shape of its head; nothing in it computes."""
    settings = info.fresh.network.model_copy(update={"init": "torch"})
    with torch.device("cpu" if settings.encoder else "meta"):
        network = build_unet(settings, info.bands, len(info.class_map.classes))
    network.encoder = network.decoder = nn.Identity()  # type: ignore[assignment]
    return network.to_empty(device="cpu")


def _of_onnx(file: Path, content: bytes) -> Loaded:
    """Metadata and network of an ONNX file, run by ONNX Runtime."""
    onnx = imported("onnx", "onnx")
    model = onnx.load_model_from_string(content)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if INFO not in metadata:
        raise _foreign(file)
    if metadata.get(DIGEST, digest := onnx_digest(model)) != digest:
        raise ValueError("its weights differ from the sum in it")
    part = onnx.utils.Extractor(model).extract_model([GRID], [LOGITS])
    strange = {node.op_type for node in part.graph.node if node.op_type not in OPERATORS}
    strange |= {node.domain for node in part.graph.node if node.domain}
    strange |= {function.name for function in part.functions}
    external = onnx.TensorProto.EXTERNAL
    strange |= {t.name for t in part.graph.initializer if t.data_location == external}
    _refuse(strange, file)
    _refuse_no_numbers(map(onnx.numpy_helper.to_array, part.graph.initializer), file)
    session = onnx_session(part.SerializeToString())

    def network(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {GRID: image.numpy()})[0])

    return metadata, network, "ONNX Runtime"


def onnx_digest(model: Any) -> str:
    """The sum over all numbers in an ONNX file."""
    digest = sha256()
    for tensor in sorted(model.graph.initializer, key=lambda tensor: tensor.name):
        digest.update(tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()


def onnx_session(content: bytes) -> Any:
    """What runs an ONNX file, on as many threads as torch.

    Raises:
        MachineError: ONNX Runtime is not installed.
    """
    runtime = imported("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others work too
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _refuse(strange: Iterable[str], file: Path) -> None:
    if found := sorted(strange):
        raise BundleError(f"{file} does more than a network does; it is not run", found)


def _refuse_no_numbers(weights: Iterable[NDArray[Any]], file: Path) -> None:
    if any(values.dtype.kind == "f" and np.isnan(values).any() for values in weights):
        fix = "Export it again; where the masks of the run are wrong too, train anew."
        raise BundleError(f"{file} has weights that are no numbers", fix=fix)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turn whatever is said against a file into an answer.

    Raises:
        BundleError: the work inside cannot read it.
    """
    try:
        yield
    except UnetsegError:
        raise
    except Exception as error:
        told = shorten(str(error), 400)
        fix = "Give a run folder, or export it again; foreign checkpoints are not loaded."
        raise BundleError(f"{file} is damaged, or of other origin", [told], fix) from error


def _foreign(file: Path) -> BundleError:
    fix = "Give a run folder, or a file that `unetseg export` wrote."
    return BundleError(f"{file} says nothing of the classes and images of its network", fix=fix)


def _of_openvino(file: Path, content: bytes, weights: bytes) -> Loaded:
    """Metadata and network of an .xml and its .bin, run by OpenVINO."""
    openvino, core = openvino_package(), openvino_core()
    unfit = BundleError(
        f"{file} and {file.stem}.bin are damaged, or not of one export",
        fix="Copy both of one export, export it again, or give the run folder.",
    )
    try:
        model = core.read_model(content, weights)
    except Exception as error:  # whose words tell of OpenVINO's own code
        raise unfit from error
    told = model.get_rt_info([RT_INFO]).value if model.has_rt_info([RT_INFO]) else {}
    metadata = {name: str(text) for name, text in told.items()}
    if metadata.get(DIGEST, digest := sha256(weights).hexdigest()) != digest:
        raise unfit
    places = {name: o for n in model.get_ops() for o in n.outputs() for name in o.names}
    grid, logits = places[GRID], places[LOGITS]
    image = openvino.op.Parameter(openvino.Type.f32, grid.get_partial_shape())
    for target in grid.get_target_inputs():
        target.replace_source_output(image.output(0))
    part = openvino.Model([logits], [image], "network")
    _refuse({node.get_type_name() for node in part.get_ops()} - OF_OPENVINO, file)
    constants = (node.data for node in part.get_ops() if node.get_type_name() == "Constant")
    _refuse_no_numbers(constants, file)
    run = compiled(part)

    def network(image: Tensor) -> Tensor:
        return torch.from_numpy(run(image.numpy())[0])

    return metadata, network, "OpenVINO"


def _of_torchscript(file: Path, content: bytes) -> Loaded:
    """Metadata and network of a TorchScript file, run by torch."""
    metadata: dict[str, Any] = dict.fromkeys((INFO, THRESHOLD), "")  # texts, which become bytes
    with ZipFile(BytesIO(content)) as archive:
        members = archive.infolist()
        if (size := sum(member.file_size for member in members)) > LARGEST_FILE:
            raise ValueError(f"unpacked it has {size} bytes; at most {LARGEST_FILE} are read")
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} in it differs from its sum")
        code = b"".join(archive.read(m) for m in members if m.filename.endswith(".py"))
    # what is defined by these names is run while a file is read
    _refuse({name for name in ("__setstate__", "__getstate__") if name.encode() in code}, file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is no longer worked on
        module = torch.jit.load(BytesIO(content), "cpu", _extra_files=metadata)  # type: ignore[no-untyped-call]
    _refuse(_kinds(module.network.inlined_graph) - OF_TORCHSCRIPT, file)
    weights = module.network.state_dict().values()
    _refuse_no_numbers((value.float().numpy() for value in weights), file)
    texts = {name: bytes(text).decode() for name, text in metadata.items() if text}
    return texts, module.network, "TorchScript"


def _kinds(block: Any) -> set[str]:
    """What the nodes of a TorchScript graph, and of the blocks in it, do."""
    inner = (inside for node in block.nodes() for inside in node.blocks())
    return {node.kind() for node in block.nodes()}.union(*map(_kinds, inner))


RUNTIMES: dict[str, Callable[..., Loaded]] = {
    ".onnx": _of_onnx,
    ".xml": _of_openvino,
    ".pt": _of_torchscript,
}
"""What reads each kind of file, by its suffix."""
