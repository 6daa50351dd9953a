"""Convolutions fused with what follows them, by the operations of oneDNN.

These are the operations that torch.compile puts convolutions into (torch.ops.mkldnn), taken
without compiling:

- an activation, and the sum with another tensor, are computed while a convolution's output is
  still in the processor's cache;
- a convolution over features that a skip has joined is one over each part, summed: so the joined
  features, the largest tensors of a U-Net, are never made;
- weights are laid out once as the processor's matrix units want them, not at every call.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from unetseg.prediction.recording import Convolution, Recording

oneDNN: Any = torch.ops.mkldnn  # noqa: N816 — as it calls itself
ACTIVATIONS: dict[Any, str] = {
    torch.relu: "relu",
    torch.sigmoid: "sigmoid",
    F.silu: "swish",
    F.hardswish: "hardswish",
}
"""What oneDNN calls the activations that it can fuse."""
MOST_PARTS = 3
"""Joined features are not taken apart into more than this: each part is one more sum."""


def is_fusible(dtype: torch.dtype) -> bool:
    """Whether this torch and this processor have the fused operations in `dtype`."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    has_bf16 = dtype == torch.bfloat16 and bool(oneDNN._is_mkldnn_bf16_supported())
    return dtype == torch.float32 or has_bf16


class FusedConvolution(nn.Module):
    """activation(convolution(parts side by side) + other).

    Args:
        call: The convolution of all parts, not transposed.
        channels: Channels of each part.
        activation: What oneDNN calls it, if there is one.
        adds: Whether another tensor is added before the activation.
    """

    def __init__(
        self, call: Convolution, channels: Sequence[int], activation: str | None, *, adds: bool
    ) -> None:
        super().__init__()
        self.weights = [call.weight]
        if len(channels) > 1:
            self.weights = list(torch.split(call.weight, list(channels), dim=1))
        self.bias = call.bias
        self.numbers = [list(call.padding), list(call.stride), list(call.dilation), call.groups]
        self.activation = activation
        self.adds = adds
        self._is_laid_out = False

    def forward(self, *tensors: Tensor) -> Tensor:
        """The parts N×C'×H×W, then the other tensor where one is added → N×outputs×H'×W'."""
        parts = tensors[: len(self.weights)]
        if not self._is_laid_out:  # for parts of these shapes; others find them good enough
            self.weights = [
                oneDNN._reorder_convolution_weight(weight, *self.numbers, list(part.shape))
                for weight, part in zip(self.weights, parts, strict=True)
            ]
            self._is_laid_out = True
        activations = [None] * (len(parts) - 1) + [self.activation]  # after the last sum alone
        start = self.weights[0], self.bias, *self.numbers
        total: Tensor
        if self.adds:
            total = oneDNN._convolution_pointwise.binary(
                parts[0], tensors[-1], *start, "add", None, activations[0], [], ""
            )
        else:
            total = oneDNN._convolution_pointwise(
                parts[0], *start, activations[0] or "none", [], ""
            )
        for part, weight, activation in zip(
            parts[1:], self.weights[1:], activations[1:], strict=True
        ):
            arguments = (*self.numbers, "add", None, activation, [], "")
            oneDNN._convolution_pointwise_.binary(total, part, weight, None, *arguments)
        return total


class FusedTransposed(nn.Module):
    """A transposed convolution."""

    def __init__(self, call: Convolution) -> None:
        super().__init__()
        self.weight = call.weight
        self.bias = call.bias
        self.numbers = [list(call.padding), [0, 0], list(call.stride), list(call.dilation), 1]
        self._is_laid_out = False

    def forward(self, image: Tensor) -> Tensor:
        """N×inputs×H×W → N×outputs×H'×W'."""
        if not self._is_laid_out:
            start = self.weight, *self.numbers
            self.weight = oneDNN._reorder_convolution_transpose_weight(*start, list(image.shape))
            self._is_laid_out = True
        start = image, self.weight, self.bias
        output: Tensor = oneDNN._convolution_transpose_pointwise(
            *start, *self.numbers, "none", [], ""
        )
        return output


def fuse(recording: Recording, dtype: torch.dtype) -> fx.GraphModule:
    """A recorded network in the fused operations of oneDNN; the recording is used up.

    Args:
        recording: From `record`.
        dtype: Of the weights and of all between image and logits: float32 or bfloat16.

    Returns:
        Image N×C×H×W of `dtype`, channels_last → logits of `dtype`.
    """
    recording.cast(dtype)
    for node in list(recording.graph.nodes):
        call = recording.convolution(node)
        if call is not None and call.is_transposed:
            _replace(recording, [node], FusedTransposed(call), (node.args[0],))
        elif call is not None:
            _fuse_convolution(recording, node, call)
    return recording.module()


def _fuse_convolution(recording: Recording, node: fx.Node, call: Convolution) -> None:
    """Put a convolution, the joining before and the sum and activation after it into one."""
    image = node.args[0]
    assert isinstance(image, fx.Node)
    parts = _parts(image) if call.groups == 1 else [image]
    channels = [part.meta["shape"][1] for part in parts]
    replaced, others = [node], []
    after = _only_user(node)
    if after is not None and _is_plain_sum(after):
        others = [arg for arg in after.args if arg is not node]
        replaced.append(after)
        after = _only_user(after)
    activation = ACTIVATIONS.get(after.target) if after is not None else None
    if after is not None and activation:
        replaced.append(after)
    module = FusedConvolution(call, channels, activation, adds=bool(others))
    _replace(recording, replaced, module, (*parts, *others))


def _parts(image: fx.Node) -> list[fx.Node]:
    """The features that `image` joins, if it joins a few for one convolution alone."""
    if image.target is not torch.cat or len(image.users) != 1:
        return [image]
    arguments = dict(zip(("tensors", "dim"), image.args, strict=False)) | image.kwargs
    parts: Any = arguments["tensors"]
    few = arguments.get("dim") == 1 and len(parts) <= MOST_PARTS
    return list(parts) if few and len(set(parts)) == len(parts) else [image]


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_plain_sum(node: fx.Node) -> bool:
    """Whether a node adds two tensors of one shape."""
    if node.target is not torch.add or len(set(node.args)) != 2:
        return False
    shapes = {arg.meta.get("shape") for arg in node.args if isinstance(arg, fx.Node)}
    return shapes == {node.meta["shape"]}


def _replace(
    recording: Recording, nodes: Sequence[fx.Node], module: nn.Module, arguments: tuple[Any, ...]
) -> None:
    """Call `module` instead of the last of `nodes`, and take all of them away."""
    name = f"fused{len(recording.values)}"
    recording.values[name] = module
    last = nodes[-1]
    with recording.graph.inserting_before(last):
        new = recording.graph.call_module(name, arguments)
    new.meta["shape"] = last.meta["shape"]
    last.replace_all_uses_with(new)
    for node in reversed(nodes):
        recording.graph.erase_node(node)
