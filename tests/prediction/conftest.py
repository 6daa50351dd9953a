"""U-Nets of every family with random weights, for the tests of what runs them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from unetseg.config import NetworkConfig
from unetseg.unet.build import build_unet
from unetseg.unet.segmenter import Normalisation, Segmenter

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
    torch.manual_seed(0)
    config = NetworkConfig.model_validate({"depth": 2, "width": 8} | network)
    unet = build_unet(config, bands=3, classes=classes).eval()
    for module in unet.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    normalisation = Normalisation(kind="dataset", mean=(0.0,) * 3, std=(1.0,) * 3)
    return Segmenter(unet, normalisation).eval().requires_grad_(requires_grad=False)
