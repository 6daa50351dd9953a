"""U-Nets of every family with random weights, for the tests of what runs them."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.builders import bundle_info, class_map, random_segmenter
from unetseg.unet.segmenter import Segmenter

FAMILIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no norm": {"norm": "none"},
    "group norm": {"norm": "group"},
    "instance norm": {"norm": "instance"},
    "residual": {"block": "residual"},
    "gated shortcut": {"block": "residual", "shortcut": "gated"},
    "learned shortcut": {"block": "residual", "shortcut": "learned"},
    "zero-padded shortcut": {"block": "residual", "shortcut": "zero_pad"},
    "deactivable shortcut": {"block": "residual", "shortcut": "deactivable"},
    "dense": {"block": "dense", "up": "bilinear"},
    "all skips": {"skip": ("concat", "add", "none"), "depth": 3},
    "learned skips": {"skip": ("learned", "gated", "attention", "switch"), "depth": 4},
    "nested": {"skip": ("nested",)},
    "deep supervision": {"deep_supervision": True},
    "resnet34": {"encoder": "resnet34", "depth": "auto", "width": "auto"},
    "mobilenet_v2": {"encoder": "mobilenet_v2", "depth": "auto", "width": "auto"},
    "efficientnet-b0": {"encoder": "efficientnet-b0", "depth": "auto", "width": "auto"},
}


@pytest.fixture
def make() -> Callable[..., Segmenter]:
    """Makes a U-Net of other settings than those of a small plain one; see `built`."""
    return built


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Segmenter:
    """A U-Net of each family."""
    return built(**FAMILIES[request.param])


def built(classes: int = 3, **network: Any) -> Segmenter:
    """A U-Net in evaluation mode whose batch norms have seen something else than 0 and 1."""
    info = bundle_info({"width": 8} | network, class_map(*range(classes)))
    return random_segmenter(info).requires_grad_(requires_grad=False)
