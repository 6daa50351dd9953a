"""Laws of recomputing: the same numbers, from less that is kept."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from unetseg.config import NetworkConfig
from unetseg.unet.build import build_unet
from unetseg.unet.checkpointing import blocks, recompute
from unetseg.unet.model import UNet


def trained(network: UNet, image: Tensor, steps: int = 2) -> tuple[list[Tensor], int]:
    """All gradients and buffers after some steps, and the bytes that a forward pass keeps."""
    torch.manual_seed(1)  # some networks draw numbers
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for _ in range(steps):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = network(image).float().square().mean()
        torch.autograd.backward(loss)
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return [*gradients, *network.buffers()], sum(kept.values())


NETWORKS = [
    NetworkConfig(depth=3, width=8),
    NetworkConfig(depth=2, width=4, block="dense", skip=("nested",)),
    NetworkConfig(
        depth=2, width=4, block="residual", shortcut="deactivable", survival=0.5, skip=("switch",)
    ),
    NetworkConfig(depth=2, width=4, norm="group", skip=("attention", "gated"), up="bilinear"),
    NetworkConfig(encoder="resnet18"),
    NetworkConfig(encoder="densenet121"),  # its blocks are given lists that grow
    NetworkConfig(encoder="vgg11_bn"),  # it has no blocks
]


@pytest.mark.long
@pytest.mark.parametrize("config", NETWORKS, ids=lambda c: c.encoder or c.skip[0])
def test_gradients_and_statistics_stay_the_same(config: NetworkConfig) -> None:
    torch.manual_seed(0)
    network = build_unet(config, bands=3, classes=2).train()
    twin = deepcopy(network)
    recompute(twin)
    image = torch.randn(2, 3, 64, 64)
    expected, _ = trained(network, image)
    found, _ = trained(twin, image)
    assert len(found) == len(expected)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_less_is_kept_for_the_backward_pass() -> None:
    torch.manual_seed(0)
    network = build_unet(NetworkConfig(depth=3, width=16), bands=3, classes=2).train()
    twin = deepcopy(network)
    recompute(twin)
    image = torch.randn(2, 3, 64, 64)
    _, all_kept = trained(network, image, steps=1)
    _, kept = trained(twin, image, steps=1)
    assert kept < all_kept / 3


def test_a_copy_recomputes_itself_and_not_its_original() -> None:
    torch.manual_seed(0)
    network = build_unet(NetworkConfig(depth=2, width=4), bands=3, classes=2).train()
    recompute(network)
    twin = deepcopy(network)
    for parameter in network.parameters():
        nn.init.constant_(parameter, torch.nan)
    image = torch.randn(2, 3, 32, 32)
    assert twin(image).isfinite().all()
    assert twin.eval()(image).isfinite().all()


def test_names_of_weights_stay() -> None:
    network = build_unet(NetworkConfig(encoder="resnet18"), bands=3, classes=2)
    names = list(network.state_dict())
    recompute(network)
    assert list(network.state_dict()) == names


def test_every_level_is_a_block() -> None:
    network = build_unet(NetworkConfig(depth=3, width=4), bands=3, classes=2)
    assert list(blocks(network.encoder)) == list(network.encoder.get_submodule("levels").children())
    assert list(blocks(network.decoder)) == list(network.decoder.steps)
