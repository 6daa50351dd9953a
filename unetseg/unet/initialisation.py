"""Initialisation: the weights that a network starts with."""

import math

import torch
from torch import nn

from unetseg.config import InitKind
from unetseg.unet.shortcuts import Gate


def initialise(part: nn.Module, kind: InitKind = "he") -> None:
    """Draw the weights of all convolutions of `part` and set their biases to 0; gates stay.

    Gain² is 2 for convolutions that a ReLU follows, which are the 3×3 ones and those with a ReLU
    behind them in a sequence, and 1 for the others. Each output pixel of a 2×2 transposed
    convolution of stride 2 sees one pixel of every input channel, so its fan-in is the number of
    input channels; each input pixel feeds four of every output channel.

    Args:
        part: A network or a piece of one.
        kind: he: N(0, gain² / fan-in) (He 2015, 1502.01852). xavier: N(0, 2 / (fan-in + fan-out))
            (Glorot 2010). orthogonal: rows at right angles, of length gain (Saxe 2013, 1312.6120).
            torch: as torch made them, U(−1, 1) / √fan-in, biases too.
    """
    if kind == "torch":
        return
    before_relu = _before_relu(part)
    for module in part.modules():
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d) or isinstance(module, Gate):
            continue
        taps = math.prod(module.kernel_size)
        transposed = isinstance(module, nn.ConvTranspose2d)
        fan_in = module.in_channels * (1 if transposed else taps)
        fan_out = module.out_channels * taps
        rectified = module in before_relu or (taps > 1 and not transposed)
        gain = math.sqrt(2) if rectified else 1.0
        if kind == "orthogonal":
            _draw_orthogonal(module, gain)
        else:
            variance = gain**2 / fan_in if kind == "he" else 2 / (fan_in + fan_out)
            nn.init.normal_(module.weight, std=math.sqrt(variance))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _before_relu(part: nn.Module) -> set[nn.Module]:
    """The layers of sequences that a ReLU follows, directly or behind a norm."""
    sequences = [list(module) for module in part.modules() if isinstance(module, nn.Sequential)]
    return {
        layer
        for layers in sequences
        for at, layer in enumerate(layers)
        if any(isinstance(following, nn.ReLU) for following in layers[at + 1 : at + 3])
    }


@torch.no_grad()
def _draw_orthogonal(module: nn.Conv2d | nn.ConvTranspose2d, gain: float) -> None:
    """Orthogonal weights: of all taps together, or of each tap of a transposed convolution."""
    if isinstance(module, nn.Conv2d):
        nn.init.orthogonal_(module.weight, gain)
        return
    inputs, outputs, rows, columns = module.weight.shape
    taps = [nn.init.orthogonal_(torch.empty(inputs, outputs), gain) for _ in range(rows * columns)]
    drawn = torch.stack(taps, dim=-1).view(inputs, outputs, rows, columns)
    module.weight.copy_(drawn)
