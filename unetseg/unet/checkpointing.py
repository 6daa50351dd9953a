"""Activation checkpointing: blocks that keep their input alone until the backward pass."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from unetseg.unet.model import UNet

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def recompute(network: UNet) -> None:
    """Let the blocks of `network` compute their activations again in the backward pass.

    Loss, gradients and running statistics stay the same; a training step takes about a third more
    arithmetic. The names of weights stay too, and copies of the network behave like it.

    Source: Chen et al. 2016 (Training deep nets with sublinear memory cost, 1604.06174).
    """
    for side in (network.encoder, network.decoder):
        for block in list(blocks(side)) or [side]:
            block.forward = partial(_recomputed, block, block.forward)


def blocks(part: nn.Module) -> Iterator[nn.Module]:
    """The outermost members of containers inside `part` that are made of layers themselves."""
    for child in part.children():
        is_block = isinstance(part, CONTAINERS) and any(child.children())
        if is_block and not isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield child
        else:
            yield from blocks(child)


def _recomputed(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **more: Any) -> Any:
    """What `forward` of a block gives; random numbers are the same the second time."""
    if not torch.is_grad_enabled():
        return forward(*inputs, **more)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _on_copies(block)

    inputs = tuple(copy(each) if isinstance(each, list) else each for each in inputs)  # may grow
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **more)


@contextmanager
def _on_copies(block: nn.Module) -> Iterator[None]:
    """Let a block work on copies of its buffers: what its norms count meanwhile is forgotten."""
    buffers = [
        (module, name, buffer)
        for module in block.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    for module, name, buffer in buffers:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in buffers:
            setattr(module, name, buffer)
