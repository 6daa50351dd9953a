"""Every skip with every block and every encoder, and every shortcut: trains, comes back whole."""

from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.builders import bundle_info
from unetseg.bundle import build_segmenter, load_bundle, save_bundle
from unetseg.config import BlockKind, NetworkConfig, ShortcutKind, SkipKind
from unetseg.unet.segmenter import Segmenter
from unetseg.unet.skips import expected_open_switches

SHORTCUTS = [kind for kind in get_args(ShortcutKind) if kind != "identity"]  # in the first matrix
ENCODERS: dict[str, dict[str, Any]] = {
    "own": {"depth": 2, "width": 4},
    "resnet18": {"depth": 3, "encoder": "resnet18"},
}
STEPS = 4
"""Training steps: a branch behind α = 0 moves in the second, a dropped one when it is drawn."""
# norms take the mean away, so these biases have no gradient but what rounding leaves
IDLE = ("skip.of_feature.0.bias", "skip.of_up.0.bias", "skip.psi.0.bias")


@pytest.fixture(scope="module")
def image() -> Tensor:
    """Two images of bright squares on dark noise, raw pixels."""
    generator = torch.Generator().manual_seed(0)
    pixels = 60 * torch.rand(2, 3, 32, 32, generator=generator)
    pixels[0, :, 4:20, 8:28] += 150
    pixels[1, :, 14:30, 2:18] += 150
    return pixels


@pytest.fixture(scope="module")
def truth(image: Tensor) -> Tensor:
    return (image.mean(1) > 100).long()


def loss_of(segmenter: Segmenter, image: Tensor, truth: Tensor) -> Tensor:
    loss = functional.cross_entropy(segmenter(image), truth)
    switches = expected_open_switches(segmenter)
    return loss if switches is None else loss + 0.02 * switches


def seeded_loss(segmenter: Segmenter, image: Tensor, truth: Tensor) -> float:
    """The loss in training mode, with always the same draws of switches and dropped blocks."""
    torch.manual_seed(5)
    with torch.no_grad():
        return loss_of(segmenter, image, truth).item()


def check_training(segmenter: Segmenter, image: Tensor, truth: Tensor) -> None:
    """The loss falls, every gradient is a number, and every weight moves."""
    fresh = {name: p.detach().clone() for name, p in segmenter.named_parameters()}
    optimizer = torch.optim.AdamW(segmenter.parameters(), lr=2e-3, weight_decay=0.0)
    before = seeded_loss(segmenter, image, truth)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(segmenter, image, truth))
        norm = nn.utils.get_total_norm(
            [p.grad for p in segmenter.parameters() if p.grad is not None]
        )
        assert norm.isfinite()
        optimizer.step()
    assert seeded_loss(segmenter, image, truth) < before
    still = [name for name, p in segmenter.named_parameters() if torch.equal(p, fresh[name])]
    assert [name for name in still if not name.endswith(IDLE)] == []


def check_cell(settings: dict[str, Any], folder: Path, image: Tensor, truth: Tensor) -> None:
    torch.manual_seed(0)
    segmenter = build_segmenter(bundle_info(settings, tile=32))
    check_training(segmenter, image, truth)
    segmenter.eval()
    with torch.no_grad():
        logits = segmenter(image)
    program = torch.export.export(segmenter, (image,))
    torch.testing.assert_close(program.module()(image), logits)
    save_bundle(folder / "model", segmenter.state_dict(), bundle_info(settings, tile=32))
    loaded, read = load_bundle(folder)
    assert read.network == NetworkConfig(**settings)
    with torch.no_grad():
        assert torch.equal(loaded(image), logits)


@pytest.mark.long
@pytest.mark.parametrize(
    ("encoder", "block", "skip"),
    [
        *product(["own"], get_args(BlockKind), get_args(SkipKind)),
        *product(["resnet18"], ["plain"], get_args(SkipKind)),
        *product(["resnet18"], ["residual", "dense"], ["concat"]),
    ],
)
def test_every_skip_with_every_block_and_encoder(
    encoder: str, block: str, skip: str, tmp_path: Path, image: Tensor, truth: Tensor
) -> None:
    settings = ENCODERS[encoder] | {"block": block, "skip": (skip,)}
    check_cell(settings, tmp_path, image, truth)


@pytest.mark.long
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_every_shortcut(shortcut: str, tmp_path: Path, image: Tensor, truth: Tensor) -> None:
    settings = ENCODERS["own"] | {"block": "residual", "shortcut": shortcut}
    check_cell(settings, tmp_path, image, truth)


@pytest.mark.long
def test_kinds_may_be_mixed(tmp_path: Path, image: Tensor, truth: Tensor) -> None:
    settings = {"depth": 4, "width": 4, "skip": ("nested", "switch", "gated", "learned")}
    check_cell(settings, tmp_path, image, truth)
