"""A network's calls on one image, written down as a graph that can be rewritten.

Python's control flow is gone from the graph, and so are batch norms: in evaluation, a convolution
with other weights does the work of the two (Jacob 2018, 1712.05877, section 3.2). Whatever a graph
is rewritten to is held against the network on noise.
"""

import inspect
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from unetseg.unet.model import Geometry, UNet

Function = Callable[..., Any]

SAME_AS: dict[str, tuple[Function, int]] = {
    **dict.fromkeys(["relu", "relu_"], (torch.relu, 1)),
    **dict.fromkeys(["add", "add_", "__add__", "__iadd__", "__radd__"], (torch.add, 2)),
}
"""Calls that are written down as one function, when they are given so many tensors."""
OF_ANY_SIZE = {
    *("conv2d", "conv_transpose2d", "batch_norm", "instance_norm", "group_norm", "cat", "mean"),
    *("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "interpolate", "pad", "__getitem__"),
    *("relu", "relu6", "hardtanh", "silu", "sigmoid", "hardswish", "hardsigmoid", "gelu", "tanh"),
    *("leaky_relu", "elu", "clamp", "neg", "add", "sub", "mul", "div", "mul_", "rsub"),
    *("relu_", "add_", "__add__", "__iadd__", "__radd__"),
    *("__sub__", "__mul__", "__truediv__", "__rsub__", "__rmul__"),
}
"""Calls whose arguments, beside tensors, say nothing of the image's size."""
DIRECT = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
TRANSPOSED = (*DIRECT[:5], "output_padding", "groups", "dilation")
"""Arguments of torch.conv2d and torch.conv_transpose2d."""
EXAMPLE = (4, 5)
"""Height and width of the image that a network is converted with, in strides of the network."""
TOLERANCE = 0.01
"""Largest relative error of logits in float32, as a norm: more is a wrong rewriting. What bfloat16
costs is another question; see `BundleInfo.precision`."""


@dataclass(frozen=True)
class Convolution:
    """A convolution whose weights are constant, with zeros around the image."""

    weight: Tensor
    """outputs×inputs/groups×h×w; inputs×outputs×h×w where it is transposed."""
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    is_transposed: bool = False

    def scaled(self, factor: Tensor, shift: Tensor) -> "Convolution":
        """The one whose outputs are `factor` times those of this, plus `shift` (one per output)."""
        shape = (1, -1, 1, 1) if self.is_transposed else (-1, 1, 1, 1)
        bias = shift if self.bias is None else self.bias * factor + shift
        return replace(self, weight=self.weight * factor.view(shape), bias=bias)


@dataclass
class Recording:
    """What a network does with an image."""

    graph: fx.Graph = field(default_factory=fx.Graph)
    """Image N×C×H×W → logits; `node.meta["shape"]` is the shape of what a node gave."""
    values: dict[str, Any] = field(default_factory=dict)
    """Constant tensors of the graph, and modules that it calls, by name."""
    of_any_size: bool = True
    """Whether the network does the same with images of other sizes."""

    def put(self, tensor: Tensor) -> fx.Node:
        """A node for a new constant, where the graph inserts."""
        name = f"constant{len(self.values)}"
        self.values[name] = tensor.detach()
        return self.graph.get_attr(name)

    def constant(self, node: object) -> Tensor | None:
        """The tensor that a node stands for, if that is constant."""
        is_constant = isinstance(node, fx.Node) and node.op == "get_attr"
        return self.values[str(node.target)] if is_constant else None  # type: ignore[attr-defined]

    def convolution(self, node: object) -> Convolution | None:
        """The convolution that a node is, if it is one; see `Convolution`."""
        if not isinstance(node, fx.Node) or node.target not in (
            torch.conv2d,
            torch.conv_transpose2d,
        ):
            return None
        transposed = node.target is torch.conv_transpose2d
        given: dict[str, Any] = {"bias": None, "stride": 1, "padding": 0, "dilation": 1}
        given |= {"groups": 1, "output_padding": 0}
        given |= dict(zip(TRANSPOSED if transposed else DIRECT, node.args, strict=False))
        given |= node.kwargs
        weight, bias = self.constant(given["weight"]), self.constant(given["bias"])
        is_odd = transposed and (given["groups"] != 1 or any(pair(given["output_padding"])))
        if weight is None or weight.ndim != 4 or isinstance(given["padding"], str) or is_odd:
            return None
        if given["bias"] is not None and bias is None:
            return None
        stride, padding, dilation = (pair(given[n]) for n in ("stride", "padding", "dilation"))
        return Convolution(weight, bias, stride, padding, dilation, given["groups"], transposed)

    def write(self, call: Convolution, image: fx.Node) -> fx.Node:
        """A node for a convolution of `image`, where the graph inserts."""
        bias = None if call.bias is None else self.put(call.bias)
        given = {"stride": call.stride, "padding": call.padding, "dilation": call.dilation}
        function = torch.conv_transpose2d if call.is_transposed else torch.conv2d
        args = (image, self.put(call.weight), bias)
        return self.graph.call_function(function, args, given | {"groups": call.groups})

    def copy(self) -> "Recording":
        """The same, to be rewritten otherwise; the tensors are shared."""
        return Recording(deepcopy(self.graph), dict(self.values), self.of_any_size)

    def cast(self, dtype: torch.dtype) -> "Recording":
        """This, with all constants that are not whole numbers in `dtype`."""
        for name, value in self.values.items():
            self.values[name] = value.to(dtype) if value.is_floating_point() else value
        return self

    def module(self) -> fx.GraphModule:
        """The graph as a module."""
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        return fx.GraphModule(self.values, self.graph)


@torch.no_grad()
def record(network: Function, example: Tensor) -> Recording:
    """What `network` does with an image like `example`.

    Args:
        network: In evaluation mode.
        example: N×C×H×W.

    Raises:
        NotImplementedError: the network does something that cannot be written down.
    """
    recorder = _Recorder(example)
    with recorder:
        logits = network(example)
    recording = recorder.recording
    recording.graph.output(recorder.written(logits))
    _fold_norms(recording)
    return recording


class _Recorder(TorchFunctionMode):
    """Writes down every call that gives a tensor."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.recording = Recording()
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[Tensor] = []  # so that no id is given anew
        self._remember(example, self.recording.graph.placeholder("image"))

    def __torch_function__(
        self, function: Function, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call, and write down."""
        kwargs = kwargs or {}
        nodes, named = self.written(args), self.written(kwargs)  # before anything works in place
        result = function(*args, **kwargs)
        if isinstance(result, Tensor):
            self._remember(result, self._node(function, args, nodes, named, result))
        elif isinstance(result, (tuple, list)) and any(isinstance(r, Tensor) for r in result):
            raise NotImplementedError(f"{_name(function)} gives several tensors")
        return result

    def written(self, value: Any) -> Any:
        """`value` with nodes for its tensors."""

        def node_of(part: Any) -> Any:
            if not isinstance(part, Tensor):
                return part
            if id(part) not in self._nodes:
                self._remember(part, self.recording.put(part))
            return self._nodes[id(part)]

        return fx.node.map_aggregate(value, node_of)

    def _remember(self, tensor: Tensor, node: fx.Node) -> None:
        self._alive.append(tensor)
        self._nodes[id(tensor)] = node
        node.meta["shape"] = tuple(tensor.shape)

    def _node(
        self, function: Function, args: Any, nodes: Any, named: Any, result: Tensor
    ) -> fx.Node:
        """The node of a call, or of what is known to be its result."""
        name, graph = _name(function), self.recording.graph
        tensors = [node for node in nodes if isinstance(node, fx.Node)]
        if name in ("dropout", "__getitem__") and result.shape == args[0].shape:
            return tensors[0]
        if tensors and not named and all(node.op == "get_attr" for node in tensors):
            return self.recording.put(result)
        self.recording.of_any_size &= name in OF_ANY_SIZE and not _names_a_size(name, args, named)
        same, count = SAME_AS.get(name, (None, 0))
        if same and len(tensors) == count:
            return graph.call_function(same, tuple(tensors))
        if getattr(Tensor, name, None) is function:
            return graph.call_method(name, nodes, named)
        return graph.call_function(function, nodes, named)


def _name(function: Function) -> str:
    return "max_pool2d" if function is F.max_pool2d else str(function.__name__)


def _names_a_size(name: str, args: Any, named: dict[str, Any]) -> bool:
    """Whether arguments are rows or columns: where to crop, or how large to make an image."""
    if name == "__getitem__":
        spatial = args[1][2:] if isinstance(args[1], tuple) else ()
        whole = [isinstance(cut, slice) and cut.start is cut.stop is None for cut in spatial]
        return len(spatial) < 2 or not all(whole)
    return name == "interpolate" and (len(args) > 1 or named.get("size") is not None)


def pair(value: Any) -> tuple[Any, ...]:
    """What torch takes as one number for both sides of an image, or as one for each."""
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return sides * (2 // len(sides))


def _fold_norms(recording: Recording) -> None:
    """Let convolutions do the work of the batch norms behind them."""
    for node in list(recording.graph.nodes):
        if node.target is F.batch_norm:
            norm = inspect.signature(F.batch_norm).bind(*node.args, **node.kwargs)
            norm.apply_defaults()
            if not norm.arguments["training"] and norm.arguments["running_mean"] is not None:
                _fold(recording, node, norm.arguments)


def _fold(recording: Recording, node: fx.Node, norm: dict[str, Any]) -> None:
    """Put a convolution in the place of a convolution and its norm; or else factor × x + shift."""
    tensors = {name: recording.constant(value) for name, value in norm.items()}
    mean, variance = tensors["running_mean"], tensors["running_var"]
    weight, bias = tensors["weight"], tensors["bias"]
    assert mean is not None
    assert variance is not None
    factor = torch.rsqrt(variance + norm["eps"]) * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * factor
    image = norm["input"]
    before = recording.convolution(image) if len(image.users) == 1 else None
    with recording.graph.inserting_before(node):
        if before:
            new = recording.write(before.scaled(factor, shift), image.args[0])
        else:
            wide = [recording.put(each.view(1, -1, 1, 1)) for each in (factor, shift)]
            product = recording.graph.call_function(torch.mul, (image, wide[0]))
            new = recording.graph.call_function(torch.add, (product, wide[1]))
    new.meta["shape"] = node.meta["shape"]
    node.replace_all_uses_with(new)
    recording.graph.erase_node(node)
    if before:
        recording.graph.erase_node(image)


class OnGrid(nn.Module):
    """A U-Net for images whose sides fit it: without the control flow that continues others."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Image N×C×H×W → logits N×K×H×W, or smaller with valid convolutions."""
        return self.network.on_grid(image)


def probe(geometry: Geometry, bands: int, strides: tuple[int, int]) -> Tensor:
    """Noise 1×bands×h×w, channels_last, of so many strides of a network that it fits."""
    sides = [geometry.fitting(2 * geometry.margin + n * geometry.stride) for n in strides]
    generator = torch.Generator().manual_seed(strides[0])  # the global one is not to be disturbed
    noise = torch.randn(1, bands, *sides, generator=generator)
    return noise.contiguous(memory_format=torch.channels_last)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference, relative to that of what was expected."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-6))
