"""Subjects of the lab: which part of an image is seen, and images fitted to another's size."""

import itertools

import numpy as np
import pytest
import torch

from unetseg.skiplab.trained import View, fitted


@pytest.mark.parametrize(("height", "width"), list(itertools.product((6, 7), (9, 10))))
def test_a_view_fitted_to_its_own_size_is_itself(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    view = View("a", image, np.zeros((height, width), np.uint8), torch.zeros(1, 2, 3))
    assert torch.equal(fitted(view, height, width), view.tensor)


def test_a_larger_size_is_filled_with_the_mirror_image() -> None:
    image = np.arange(4, dtype=np.uint8).reshape(1, 4, 1).repeat(4, axis=0)
    view = View("a", image, np.zeros((4, 4), np.uint8), torch.zeros(1, 2, 1))
    assert fitted(view, 4, 8)[0, 0, 0].tolist() == [2, 1, 0, 1, 2, 3, 2, 1]
