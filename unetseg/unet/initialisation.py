"""Initialisation: the weights that a network starts with."""

import math

from torch import nn

from unetseg.config import InitKind
from unetseg.unet.shortcuts import Gate


def initialise(part: nn.Module, kind: InitKind = "he") -> None:
    """Draw the weights of all convolutions of `part` and set their biases to 0; gates stay.

    Gain² is 2 for 3×3 convolutions, which a ReLU follows, and 1 for 1×1 and transposed ones, which
    mostly none follows. Each output pixel of a 2×2 transposed convolution of stride 2 sees one
    pixel of every input channel, so its fan-in is the number of input channels.

    Args:
        part: A network or a piece of one.
        kind: he: N(0, gain² / fan-in) (He 2015, 1502.01852). xavier: N(0, 2 / (fan-in + fan-out))
            (Glorot 2010). orthogonal: rows at right angles, of length gain (Saxe 2013, 1312.6120).
            torch: as torch made them, U(−1, 1) / √fan-in, biases too.
    """
    if kind == "torch":
        return
    for module in part.modules():
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d) or isinstance(module, Gate):
            continue
        transposed = isinstance(module, nn.ConvTranspose2d)
        taps = 1 if transposed else math.prod(module.kernel_size)
        gain = math.sqrt(2) if taps > 1 else 1.0
        fan_in, fan_out = module.in_channels * taps, module.out_channels * taps
        if kind == "orthogonal":
            nn.init.orthogonal_(module.weight, gain)
        else:
            variance = gain**2 / fan_in if kind == "he" else 2 / (fan_in + fan_out)
            nn.init.normal_(module.weight, std=math.sqrt(variance))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
