"""The coding of brushes: laws against an encoder written from the published description.

`encode` follows the README of thi.ng/rle-pack ("Encoding format") and its `encode` in index.ts:
runs of equal words, and lists of words between them. `encode_alone` is the other writer that is in
use, `encode_rle` of label-studio-converter, which writes lone words as lists of one.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, strategies
from numpy.typing import NDArray

from unetseg.errors import MaskError
from unetseg.importers.labelstudio_regions import decode_brush, decode_words

SIZES = (3, 4, 8, 16)
Encoder = Callable[..., list[int]]


def header(count: int, size: int, sizes: Sequence[int]) -> str:
    return f"{count:032b}{size - 1:05b}" + "".join(f"{length - 1:04b}" for length in sizes)


def piece(is_run: int, words: Sequence[int], size: int, sizes: Sequence[int]) -> str:
    """One run (its words are equal) or list."""
    length = len(words) - 1
    group = next(i for i, bits in enumerate(sizes) if length < 1 << bits)
    shown = words[:1] if is_run else words
    return f"{is_run}{group:02b}{length:0{sizes[group]}b}" + "".join(
        f"{word:0{size}b}" for word in shown
    )


def parts(words: Sequence[int], limit: int) -> list[Sequence[int]]:
    return [words[i : i + limit] for i in range(0, len(words), limit)]


def to_bytes(bits: str) -> list[int]:
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def encode(words: Sequence[int], size: int = 8, sizes: Sequence[int] = SIZES) -> list[int]:
    bits, lone, limit = header(len(words), size, sizes), [], 1 << sizes[3]
    for _, group in groupby(words):
        run = list(group)
        if len(run) == 1:
            lone += run
            continue
        bits += "".join(piece(0, part, size, sizes) for part in parts(lone, limit))
        bits += "".join(piece(1, part, size, sizes) for part in parts(run, limit))
        lone = []
    return to_bytes(bits + "".join(piece(0, part, size, sizes) for part in parts(lone, limit)))


def encode_alone(words: Sequence[int]) -> list[int]:
    bits = header(len(words), 8, SIZES)
    for _, group in groupby(words):
        for part in parts(list(group), 1 << 16):
            bits += piece(int(len(part) > 1), part, 8, SIZES)
    return to_bytes(bits)


@strategies.composite
def streams(draw: strategies.DrawFn, largest: int = 255) -> list[int]:
    """Words in runs, short and long, as canvases have them."""
    runs = draw(
        strategies.lists(
            strategies.tuples(strategies.integers(0, largest), strategies.integers(1, 300)),
            max_size=12,
        )
    )
    return [word for word, length in runs for _ in range(length)]


@given(streams())
def test_decoding_undoes_both_encoders(words: list[int]) -> None:
    for encoder in (encode, encode_alone):
        assert decode_words(bytes(encoder(words)), len(words)).tolist() == words


@given(streams(largest=15), strategies.permutations([2, 5, 9, 11]))
def test_any_size_of_words_and_lengths(words: list[int], sizes: list[int]) -> None:
    coded = bytes(encode(words, size=4, sizes=sorted(sizes)))
    assert decode_words(coded, len(words)).tolist() == words


@pytest.mark.parametrize("encoder", [encode, encode_alone])
def test_runs_beyond_the_longest_length_are_joined(encoder: Encoder) -> None:
    words = [0] * 65537 + [255] * 131072 + [7]
    assert decode_words(bytes(encoder(words)), len(words)).tolist() == words


def test_a_stream_written_by_hand() -> None:
    # 9 words of 8 bits, lengths of 3, 4, 8 and 16 bits; a run of 8 times 255, a list of one 0.
    bits = "0" * 28 + "1001" + "00111" + "0010001101111111"
    bits += "10011111111111" + "00000000000000"
    assert decode_words(bytes(to_bytes(bits)), 9).tolist() == [255] * 8 + [0]


def canvas(alpha: NDArray[np.uint8]) -> list[int]:
    """The words of an RGBA canvas with this alpha and colours that mean nothing."""
    colours = np.broadcast_to(np.array([200, 0, 90], np.uint8), (*alpha.shape, 3))
    return list(np.dstack([colours, alpha]).ravel().tolist())


def test_the_mask_is_wherever_alpha_is_above_zero() -> None:
    alpha = np.array([[0, 1, 100], [127, 255, 0]], np.uint8)
    assert decode_brush(encode(canvas(alpha)), 2, 3).tolist() == (alpha > 0).tolist()


@pytest.mark.parametrize(
    ("coded", "text"),
    [
        (encode([1] * 12), "12 words of 8 bits, expected 24 of 8 bits"),
        (encode([0xFFFFFFFF % 256] * 24)[:-2], "cut off"),
        ([], "cut off: 0 bytes"),
        (encode(list(range(24)))[:20], "cut off"),
        (to_bytes(header(24, 8, SIZES) + piece(1, [3] * 25, 8, SIZES)), "more than the 24 words"),
        (to_bytes(header(24, 16, SIZES)), "24 words of 16 bits"),
        ([1, 2, 300], "numbers from 0 to 255"),
        (["a"], "numbers from 0 to 255"),
    ],
)
def test_what_is_no_brush_is_refused(coded: list[int], text: str) -> None:
    with pytest.raises(MaskError, match=text):
        decode_brush(coded, 2, 3)


def test_a_bomb_is_refused_before_memory_is_taken() -> None:
    bomb = to_bytes(header(2**32 - 1, 8, SIZES) + piece(1, [0] * 65536, 8, SIZES) * 10)
    with pytest.raises(MaskError, match="4294967295 words"):
        decode_brush(bomb, 2, 3)


def test_a_canvas_of_photographic_size() -> None:
    rows, columns = np.mgrid[:1500, :2000]
    alpha = (((rows - 700) ** 2 + (columns - 900) ** 2 < 600**2) * 255).astype(np.uint8)
    coded = encode(np.repeat(alpha.ravel(), 4).tolist())
    assert (decode_brush(coded, 1500, 2000) == (alpha > 0)).all()
