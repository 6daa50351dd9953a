"""Skips: what they pass on, in which order, and where they crop."""

import pytest
import torch
from torch import nn

from unetseg.unet.skips import Add, Concat, NoSkip, crop


@pytest.mark.parametrize("inputs", [4, 6])
@pytest.mark.parametrize("kind", [Concat, Add, NoSkip])
def test_the_width_is_the_number_of_channels_that_come_out(
    kind: type[Concat | Add | NoSkip], inputs: int
) -> None:
    skip = kind(inputs, 4)
    joined = skip(torch.randn(2, inputs, 5, 7), torch.randn(2, 4, 5, 7))
    assert joined.shape == (2, skip.width, 5, 7)


def test_concat_puts_the_encoder_first() -> None:
    feature, up = torch.randn(2, 3, 5, 7), torch.randn(2, 4, 5, 7)
    joined = Concat(3, 4)(feature, up)
    assert torch.equal(joined[:, :3], feature)
    assert torch.equal(joined[:, 3:], up)


def test_add_of_equal_widths_is_the_sum_and_has_no_parameters() -> None:
    feature, up = torch.randn(2, 4, 5, 7), torch.randn(2, 4, 5, 7)
    skip = Add(4, 4)
    assert torch.equal(skip(feature, up), feature + up)
    assert not list(skip.parameters())


def test_add_of_other_widths_is_linear_in_the_feature() -> None:
    feature, up, skip = torch.randn(2, 3, 5, 7), torch.randn(2, 4, 5, 7), Add(3, 4)
    assert sum(p.numel() for p in skip.parameters()) == 12
    torch.testing.assert_close(skip(2 * feature, up) - up, 2 * (skip(feature, up) - up))


def test_none_passes_the_decoder_alone() -> None:
    up = torch.randn(2, 4, 5, 7)
    assert torch.equal(NoSkip(3, 4)(torch.randn(2, 3, 5, 7), up), up)


def test_crop_takes_the_middle() -> None:
    feature = nn.functional.pad(torch.ones(1, 1, 4, 6), (3, 3, 2, 2))
    assert torch.equal(crop(feature, torch.empty(1, 9, 4, 6)), torch.ones(1, 1, 4, 6))


def test_crop_leaves_equal_sizes_alone() -> None:
    feature = torch.randn(2, 3, 5, 7)
    assert torch.equal(crop(feature, torch.empty(2, 1, 5, 7)), feature)
