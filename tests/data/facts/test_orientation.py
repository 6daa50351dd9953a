"""Up is up where classes keep their heights."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetseg.data.facts.orientation import is_upright
from unetseg.data.facts.survey import survey
from unetseg.data.masks.mask_file import read_mask


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "upright"),
    [("camvid", True), ("dsb2018", False), ("drive", False), ("glas256", False)],
)
def test_real_folders(real_data: Path, name: str, upright: bool) -> None:
    known = survey(real_data / name)
    masks = [
        known.class_map.encode(read_mask(pair.mask).pixels)
        for pair in known.select("train")[:40]
        if pair.mask
    ]
    assert is_upright(masks, range(len(known.class_map.classes))) is upright
    upside_down = [mask[::-1] for mask in masks]
    assert is_upright(upside_down, range(len(known.class_map.classes))) is upright
    every_way = [mask[:: 1 - 2 * (i % 2)] for i, mask in enumerate(masks)]
    assert not is_upright(every_way, range(len(known.class_map.classes)))


@given(seed=st.integers(0, 1000), count=st.integers(0, 12))
def test_noise_has_no_up(seed: int, count: int) -> None:
    masks = np.random.default_rng(seed).integers(0, 3, (count, 32, 24), np.uint8)
    assert not is_upright(masks, range(3))
