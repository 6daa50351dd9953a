"""What the machine can do at best: a product of matrices, and a copy in memory."""

from dataclasses import dataclass
from statistics import median

import torch

from unetseg.runtime import MEBIBYTE, dtype_name, synchronise
from unetseg.timing import seconds_of

LONGEST = 0.6
"""Seconds that one product takes at most, about."""
SMALLEST_SIDE = 512
LARGEST_SIDE = {"cpu": 4096, "cuda": 8192, "mps": 4096}
COPIED = 256 * MEBIBYTE
"""Bytes that are copied: more than any cache holds."""
COPIES = 7


@dataclass(frozen=True)
class Ceiling:
    """The best that a device was seen to multiply in one arithmetic."""

    dtype: str
    side: int
    """Of the two square matrices."""
    gflops: float


class Product:
    """The product of two square matrices, which is what a convolution can be at best.

    Args:
        device: Where.
        dtype: In which arithmetic.
        side: Of the matrices.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, side: int) -> None:
        generator = torch.Generator().manual_seed(0)
        left, right = torch.randn(2, side, side, generator=generator).to(device, dtype)
        self.side = side
        self.gflop = 2 * side**3 / 1e9
        self.device, self.dtype = device, dtype
        self._left, self._right, self._product = left, right, torch.empty_like(left)

    def __call__(self) -> None:
        """Multiply, and wait for the result."""
        torch.mm(self._left, self._right, out=self._product)
        synchronise(self.device)

    def ceiling(self, seconds: float) -> Ceiling:
        """The ceiling, when one product takes `seconds`."""
        return Ceiling(dtype_name(self.dtype), self.side, self.gflop / seconds)


def fitting_product(device: torch.device, dtype: torch.dtype) -> Product:
    """The largest product that takes a moment; it was computed once already."""
    product = Product(device, dtype, SMALLEST_SIDE)
    while product.side < LARGEST_SIDE[device.type]:
        product()  # the first time is slower
        if 8 * seconds_of(product) > LONGEST:  # twice the side takes 8 times as long
            break
        product = Product(device, dtype, 2 * product.side)
    product()
    return product


def copy_bandwidth(device: torch.device) -> float:
    """Gigabytes per second that a copy in the device's memory reads and writes together."""
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)

    def copy() -> None:
        target.copy_(source)
        synchronise(device)

    return 2 * COPIED / 1e9 / median(seconds_of(copy) for _ in range(COPIES))
