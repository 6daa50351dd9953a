"""JPEG as bytes: read at full speed where the file is whole.

Source: ITU-T T.81 (1992), annex B: a JPEG is a chain of markers, most with a segment of known
length behind them; compressed data, in which no marker but the restarts 0–7 can occur, follow one
of them.
"""

import re
from contextlib import suppress

import imagecodecs
import numpy as np
from numpy.typing import NDArray

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END = b"\xff\xd9"


def jpeg_pixels(content: bytes) -> NDArray[np.uint8] | None:
    """The pixels of a whole grey or RGB JPEG, uint8 H×W or H×W×3, or None.

    They are those that Pillow gives, which uses the same library but copies them twice. It judges
    what is not whole, since the decoder here would fill up what is missing.
    """
    if not _is_whole(content):
        return None
    with suppress(RuntimeError, ValueError):  # whole and yet wrong: for others to judge
        return np.asarray(imagecodecs.jpeg8_decode(content))
    return None


def _is_whole(content: bytes) -> bool:
    """Whether the chain of markers leads to the end of the image, and the file ends there."""
    at = 2
    while marker := _MARKER.search(content, at):
        at = marker.end()
        if marker.group() == _END:
            return at == len(content)
        at += int.from_bytes(content[at : at + 2])
    return False
