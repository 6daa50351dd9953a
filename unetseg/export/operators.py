"""A recorded network in the operators of ONNX (opset 18)."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike
from onnx import helper, numpy_helper
from torch import Tensor, fx
from torch.nn import functional as F

from unetseg.prediction.recording import Convolution, Recording, pair

OPSET = 18
"""The first with means over given axes and sizes made smaller without aliasing."""
IR_VERSION = 8
"""The format of files of that opset."""
HEIGHT, WIDTH = 2, 3
"""Axes of an image."""
END = 2**62
"""Where a slice goes to the end of an axis."""


class Nodes:
    """The nodes of an ONNX graph, written down by calls; a tensor is known by its name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """The output of a new node, called `name` or after its operator."""
        name = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def constant(self, value: ArrayLike, dtype: DTypeLike = np.float32) -> str:
        """A tensor that is written into the file."""
        name = f"constant_{len(self.constants)}"
        array = np.ascontiguousarray(value, dtype).reshape(np.shape(value))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def whole(self, *numbers: int) -> str:
        """A constant list of whole numbers."""
        return self.constant(numbers, np.int64)


Call = Mapping[str, Any]
"""The arguments of a recorded call by name; tensors are names of the ONNX graph."""
Rule = Callable[[Nodes, Call], str]


def _unary(operator: str, **attributes: Any) -> Rule:
    return lambda nodes, call: nodes(operator, call["input"], **attributes)


def _binary(operator: str, *, swapped: bool = False) -> Rule:
    def rule(nodes: Nodes, call: Call) -> str:
        if call.get("alpha", 1) != 1 or call.get("rounding_mode"):
            raise NotImplementedError(f"{operator} with other numbers than usual")
        both = [
            value if isinstance(value, str) else nodes.constant(value)
            for value in (call["input"], call["other"])
        ]
        return nodes(operator, *(reversed(both) if swapped else both))

    return rule


def _clip(low: str | float | None, high: str | float | None) -> Rule:
    """Values kept within limits: numbers, or the names of arguments that hold them."""

    def rule(nodes: Nodes, call: Call) -> str:
        limits = [call.get(limit) if isinstance(limit, str) else limit for limit in (low, high)]
        named = ["" if limit is None else nodes.constant(limit) for limit in limits]
        return nodes("Clip", call["input"], *named)

    return rule


def _pool(operator: str) -> Rule:
    def rule(nodes: Nodes, call: Call) -> str:
        kernel = pair(call["kernel_size"])
        attributes: dict[str, Any] = {"ceil_mode": int(call.get("ceil_mode", False))}
        if operator == "MaxPool":
            attributes["dilations"] = pair(call.get("dilation", 1))
        else:
            attributes["count_include_pad"] = int(call.get("count_include_pad", True))
        strides, padding = pair(call.get("stride") or kernel), pair(call.get("padding", 0))
        sizes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "pads": padding * 2}
        return nodes(operator, call["input"], **sizes, **attributes)

    return rule


def _mean(nodes: Nodes, call: Call) -> str:
    dims = call["dim"] if isinstance(call["dim"], (tuple, list)) else (call["dim"],)
    keep = int(call.get("keepdim", False))
    return nodes("ReduceMean", call["input"], nodes.whole(*dims), keepdims=keep)


def _mean_of_all(nodes: Nodes, call: Call) -> str:
    if pair(call["output_size"]) != (1, 1):
        raise NotImplementedError("adaptive_avg_pool2d to more than one pixel")
    return nodes("GlobalAveragePool", call["input"])


def _interpolate(nodes: Nodes, call: Call) -> str:
    mode, aligned = call["mode"], bool(call["align_corners"])
    if mode not in {"bilinear", "nearest"} or call["antialias"]:
        raise NotImplementedError(f"interpolate in mode {mode}")
    if call["size"] is not None:
        raise NotImplementedError("interpolate to a size")
    factors = [1, 1, *pair(call["scale_factor"])]
    places = {"coordinate_transformation_mode": "align_corners" if aligned else "half_pixel"}
    if mode == "nearest":
        places = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    mode = {"bilinear": "linear"}.get(mode, mode)
    return nodes("Resize", call["input"], "", nodes.constant(factors), mode=mode, **places)


def _pad(nodes: Nodes, call: Call) -> str:
    if call["mode"] != "constant":
        raise NotImplementedError(f"pad in mode {call['mode']}")
    pairs = [call["pad"][at : at + 2] for at in range(0, len(call["pad"]), 2)][::-1]
    axes = nodes.whole(*range(-len(pairs), 0))
    pads = nodes.whole(*(before for before, _ in pairs), *(after for _, after in pairs))
    return nodes("Pad", call["input"], pads, nodes.constant(call["value"] or 0.0), axes)


def _group_norm(nodes: Nodes, call: Call) -> str:
    groups = call["num_groups"]
    ones, zeros = nodes.constant([1.0] * groups), nodes.constant([0.0] * groups)
    flat = nodes("Reshape", call["input"], nodes.whole(0, groups, -1))
    normed = nodes("InstanceNormalization", flat, ones, zeros, epsilon=call["eps"])
    features = nodes("Reshape", normed, nodes("Shape", call["input"]))
    wide = nodes.whole(1, -1, 1, 1)
    factor, shift = (nodes("Reshape", call[name], wide) for name in ("weight", "bias"))
    return nodes("Add", nodes("Mul", features, factor), shift)


def _instance_norm(nodes: Nodes, call: Call) -> str:
    given = call["input"], call["weight"], call["bias"]
    if None in given or not call["use_input_stats"]:
        raise NotImplementedError("instance_norm without weights, or with running means")
    return nodes("InstanceNormalization", *given, epsilon=call["eps"])


def _silu(nodes: Nodes, call: Call) -> str:
    return nodes("Mul", call["input"], nodes("Sigmoid", call["input"]))


def _gelu(nodes: Nodes, call: Call) -> str:
    if call.get("approximate", "none") != "none":
        raise NotImplementedError("gelu by tanh")
    scaled = nodes("Mul", call["input"], nodes.constant(math.sqrt(0.5)))
    likely = nodes("Add", nodes("Erf", scaled), nodes.constant(1.0))
    return nodes("Mul", nodes("Mul", call["input"], nodes.constant(0.5)), likely)


RULES: dict[str, Rule] = {
    "relu": _unary("Relu"),
    "sigmoid": _unary("Sigmoid"),
    "tanh": _unary("Tanh"),
    "neg": _unary("Neg"),
    "hardswish": _unary("HardSwish"),
    "hardsigmoid": _unary("HardSigmoid", alpha=1 / 6, beta=0.5),
    "leaky_relu": lambda nodes, call: nodes(
        "LeakyRelu", call["input"], alpha=call.get("negative_slope", 0.01)
    ),
    "elu": lambda nodes, call: nodes("Elu", call["input"], alpha=call.get("alpha", 1.0)),
    "relu6": _clip(0.0, 6.0),
    "hardtanh": _clip("min_val", "max_val"),
    "clamp": _clip("min", "max"),
    "silu": _silu,
    "gelu": _gelu,
    **dict.fromkeys(("add", "iadd", "radd"), _binary("Add")),
    **dict.fromkeys(("mul", "rmul"), _binary("Mul")),
    **dict.fromkeys(("div", "truediv"), _binary("Div")),
    "sub": _binary("Sub"),
    "rsub": _binary("Sub", swapped=True),
    "cat": lambda nodes, call: nodes("Concat", *call["tensors"], axis=call.get("dim", 0)),
    "mean": _mean,
    "max_pool2d": _pool("MaxPool"),
    "avg_pool2d": _pool("AveragePool"),
    "adaptive_avg_pool2d": _mean_of_all,
    "interpolate": _interpolate,
    "pad": _pad,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
}
"""How each recorded call is written."""
POSITIONS = {
    "cat": ("tensors", "dim"),
    "mean": ("input", "dim", "keepdim"),
    "clamp": ("input", "min", "max"),
    "max_pool2d": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "avg_pool2d": ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
}
"""Arguments of calls that Python cannot tell, in their order; of the others: input, other."""


def write_network(recording: Recording, nodes: Nodes, image: str) -> str:
    """Write a recorded network, for images of any size; what reads that off an image is refused.

    Args:
        recording: From `record`, its constants float32.
        nodes: What is written to.
        image: N×C×H×W, of sides that fit the network.

    Returns:
        The logits.

    Raises:
        NotImplementedError: the network does something that no rule here writes.
    """
    names: dict[fx.Node, str] = {}

    def name_of(node: fx.Node) -> str:
        if node not in names:  # a constant, written where it is needed
            names[node] = nodes.constant(recording.values[str(node.target)].numpy())
        return names[node]

    recording.module()  # without what nothing uses
    *calls, output = recording.graph.nodes
    for node in calls:
        if node.op == "placeholder":
            names[node] = image
        elif node.op != "get_attr":
            names[node] = _write(recording, nodes, node, name_of)
    return name_of(output.args[0])


def _write(
    recording: Recording, nodes: Nodes, node: fx.Node, name_of: Callable[[fx.Node], str]
) -> str:
    """The output of what writes a call."""
    target: Any = node.target
    given: tuple[Any, ...] = node.args
    if call := recording.convolution(node):
        return _convolution(nodes, call, name_of(given[0]))
    if target is Tensor.__getitem__ or target == "__getitem__":
        whole, cuts = given
        return _cropped(nodes, name_of(whole), whole.meta["shape"], cuts)
    name = "max_pool2d" if target is F.max_pool2d else getattr(target, "__name__", target)
    name = name.strip("_")
    if name not in RULES:
        raise NotImplementedError(f"{name} cannot be written")
    arguments, named = fx.node.map_arg((given, node.kwargs), name_of)
    if inspect.isfunction(target) and name != "max_pool2d":
        bound = inspect.signature(target).bind(*arguments, **named)
        bound.apply_defaults()
        return RULES[name](nodes, bound.arguments)
    order = POSITIONS.get(name, ("input", "other"))
    return RULES[name](nodes, dict(zip(order, arguments, strict=False)) | named)


def _convolution(nodes: Nodes, call: Convolution, image: str) -> str:
    values = [call.weight] if call.bias is None else [call.weight, call.bias]
    operator = "ConvTranspose" if call.is_transposed else "Conv"
    sizes: dict[str, Any] = {"strides": call.stride, "pads": call.padding * 2}
    sizes |= {"dilations": call.dilation, "group": call.groups}
    given = (nodes.constant(value.numpy()) for value in values)
    return nodes(operator, image, *given, **sizes)


def _cropped(nodes: Nodes, image: str, shape: tuple[int, ...], cuts: Any) -> str:
    """Some of the channels, or the middle; the same channels, and as much cut off, of any image."""
    cuts = cuts if isinstance(cuts, tuple) else (cuts,)
    if cuts[0] is Ellipsis:
        cuts = (slice(None),) * (1 + len(shape) - len(cuts)) + cuts[1:]
    if not all(isinstance(cut, slice) and cut.step is None for cut in cuts):
        raise NotImplementedError(f"{cuts} cannot be written")
    starts = [cut.start or 0 for cut in cuts]
    stops = [side if cut.stop is None else cut.stop for cut, side in zip(cuts, shape, strict=False)]
    ends = [stop if axis < HEIGHT else stop - shape[axis] or END for axis, stop in enumerate(stops)]
    axes = nodes.whole(*range(1, len(cuts)))
    return nodes("Slice", image, nodes.whole(*starts[1:]), nodes.whole(*ends[1:]), axes)
