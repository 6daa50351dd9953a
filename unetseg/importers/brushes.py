"""Brushes of Label Studio ↔ pixels.

A brush is an RGBA canvas, coded by `thi.ng/rle-pack` (Apache-2.0) as its README tells and
`brush.py` of label-studio-converter (Apache-2.0) reads it. A stream of bits, the highest first: 32
bits for the number of words, 5 for the size of a word less one, four times 4 for the sizes of run
lengths less one; then, until all words are there, 1 bit that tells a run from a list, 2 bits that
choose the size of the length, the length less one, and the word that is repeated, or the words of
the list.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unetseg.errors import MaskError

_BANDS = 4  # red, green, blue, alpha
_LENGTHS = (3, 4, 8, 16)  # bits of the lengths of runs, as Label Studio writes them


def decode_brush(coded: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels that a brush touched, H×W: those whose alpha is above 0.

    This is what Label Studio counts as the mask when it exports brushes to COCO. A higher threshold
    would lose brushes whole: some versions write the opacity of the label into alpha.

    Args:
        coded: Bytes as numbers from 0 to 255, as in the JSON.
        height: Height of the image that the brush was drawn on, in pixels.
        width: Its width, in pixels.

    Raises:
        MaskError: the bytes are no such coding, or hold another number of pixels.
    """
    try:
        data = coded if isinstance(coded, bytes) else bytes(list(coded))
    except (TypeError, ValueError) as error:
        raise MaskError("the brush is no list of numbers from 0 to 255") from error
    words = decode_words(data, height * width * _BANDS)
    return np.asarray(words.reshape(height, width, _BANDS)[..., -1] > 0)


def encode_brush(covered: NDArray[np.bool_]) -> list[int]:
    """A mask H×W as a brush, bytes as numbers: opaque white on what is covered, else nothing.

    >>> decode_brush(encode_brush(np.array([[True, False]])), 1, 2).tolist()
    [[True, False]]
    """
    words = np.repeat(covered.ravel(), _BANDS)
    starts = np.r_[0, np.flatnonzero(words[1:] != words[:-1]) + 1]
    bits = [f"{words.size:032b}{7:05b}", *(f"{size - 1:04b}" for size in _LENGTHS)]
    for start, length in zip(starts, np.diff(np.r_[starts, words.size]).tolist(), strict=True):
        word = "1" * 8 if words[start] else "0" * 8
        for left in range(length, 0, -(2 ** _LENGTHS[-1])):
            more = min(left, 2 ** _LENGTHS[-1]) - 1
            which = next(n for n, size in enumerate(_LENGTHS) if more < 2**size)
            bits.append(f"1{which:02b}{more:0{_LENGTHS[which]}b}{word}")
    coded = "".join(bits)
    coded += "0" * (-len(coded) % 8)
    return list(int(coded, 2).to_bytes(len(coded) // 8, "big"))


def decode_words(data: bytes, count: int) -> NDArray[np.uint8]:
    """The `count` words, of at most 8 bits each, that `data` codes.

    Nothing is allocated before the header has agreed with `count`.

    Raises:
        MaskError: `data` is cut off, or codes another number of words or larger ones.
    """
    bits = _Bits(data)
    stated, size = bits.read(32), bits.read(5) + 1
    if stated != count or size > 8:
        came = f"{stated} words of {size} bits"
        raise MaskError(f"the brush holds {came}, expected {count} of 8 bits (RGBA pixels)")
    lengths = [bits.read(4) + 1 for _ in range(4)]
    words = np.empty(count, np.uint8)
    at = 0
    while at < count:
        is_run = bits.read(1)
        end = at + 1 + bits.read(lengths[bits.read(2)])
        if end > count:
            raise MaskError(f"the brush holds more than the {count} words that it announces")
        words[at:end] = bits.read(size) if is_run else bits.read_list(end - at, size)
        at = end
    return words


class _Bits:
    """A stream of bits, the highest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self, size: int) -> int:
        """The next `size` bits as a number."""
        window, end = self._next(size)
        return int.from_bytes(window, "big") >> (-end % 8) & ((1 << size) - 1)

    def read_list(self, count: int, size: int) -> NDArray[np.uint8]:
        """The next `count` numbers of `size` ≤ 8 bits."""
        start = self._at % 8
        window, _ = self._next(count * size)
        bits = np.unpackbits(np.frombuffer(window, np.uint8))[start : start + count * size]
        words = np.packbits(bits.reshape(count, size), axis=1)[:, 0]
        return np.asarray(words >> (8 - size), np.uint8)

    def _next(self, size: int) -> tuple[bytes, int]:
        """The bytes that hold the next bits, and where these end."""
        start, self._at = self._at, self._at + size
        if self._at > 8 * len(self._data):
            raise MaskError(f"the brush is cut off: {len(self._data)} bytes")
        return self._data[start // 8 : -(-self._at // 8)], self._at
