"""Brushes are what Label Studio's own coders and decoders take them for."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.importers.exports import LENGTHS, canvas, encode, encode_alone, header, piece, to_bytes
from unetseg.errors import MaskError
from unetseg.importers.brushes import decode_brush, decode_words, encode_brush


@st.composite
def streams(draw: st.DrawFn, largest: int = 255) -> list[int]:
    """Words in runs, short and long, as canvases have them."""
    runs = draw(
        st.lists(
            st.tuples(st.integers(0, largest), st.integers(1, 300)),
            max_size=12,
        )
    )
    return [word for word, length in runs for _ in range(length)]


@given(streams())
def test_decoding_undoes_both_encoders(words: list[int]) -> None:
    for encoder in (encode, encode_alone):
        assert decode_words(bytes(encoder(words)), len(words)).tolist() == words


@given(streams(largest=15), st.permutations([2, 5, 9, 11]))
def test_any_size_of_words_and_lengths(words: list[int], sizes: list[int]) -> None:
    coded = bytes(encode(words, size=4, sizes=sorted(sizes)))
    assert decode_words(coded, len(words)).tolist() == words


@pytest.mark.parametrize("encoder", [encode, encode_alone])
def test_runs_beyond_the_longest_length_are_joined(encoder: Callable[..., list[int]]) -> None:
    words = [0] * 65537 + [255] * 131072 + [7]
    assert decode_words(bytes(encoder(words)), len(words)).tolist() == words


def test_a_stream_written_by_hand() -> None:
    # 9 words of 8 bits, lengths of 3, 4, 8 and 16 bits; a run of 8 times 255, a list of one 0.
    bits = "0" * 28 + "1001" + "00111" + "0010001101111111"
    bits += "10011111111111" + "00000000000000"
    assert decode_words(bytes(to_bytes(bits)), 9).tolist() == [255] * 8 + [0]


@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.sampled_from([0, 0.02, 0.5, 0.98, 1]),
    st.integers(0, 2**32),
)
def test_a_brush_covers_what_was_encoded(size: tuple[int, int], share: float, seed: int) -> None:
    covered = np.random.default_rng(seed).random(size) < share
    coded = encode_brush(covered)
    assert (decode_brush(coded, *covered.shape) == covered).all()
    words = np.repeat(covered.ravel(), 4) * np.uint8(255)
    assert (decode_words(bytes(coded), words.size) == words).all()


def test_a_brush_of_one_colour_is_short() -> None:
    for covered in (np.ones((700, 900), bool), np.zeros((700, 900), bool)):
        assert (decode_brush(encode_brush(covered), 700, 900) == covered).all()
        assert len(encode_brush(covered)) < 200


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
        (
            to_bytes(header(24, 8, LENGTHS) + piece(1, [3] * 25, 8, LENGTHS)),
            "more than the 24 words",
        ),
        (to_bytes(header(24, 16, LENGTHS)), "24 words of 16 bits"),
        ([1, 2, 300], "numbers from 0 to 255"),
        (["a"], "numbers from 0 to 255"),
    ],
)
def test_what_is_no_brush_is_refused(coded: list[int], text: str) -> None:
    with pytest.raises(MaskError, match=text):
        decode_brush(coded, 2, 3)


def test_a_bomb_is_refused_before_memory_is_taken() -> None:
    bomb = to_bytes(header(2**32 - 1, 8, LENGTHS) + piece(1, [0] * 65536, 8, LENGTHS) * 10)
    with pytest.raises(MaskError, match="4294967295 words"):
        decode_brush(bomb, 2, 3)


def test_a_canvas_of_photographic_size() -> None:
    rows, columns = np.mgrid[:1500, :2000]
    alpha = (((rows - 700) ** 2 + (columns - 900) ** 2 < 600**2) * 255).astype(np.uint8)
    coded = encode(np.repeat(alpha.ravel(), 4).tolist())
    assert (decode_brush(coded, 1500, 2000) == (alpha > 0)).all()
