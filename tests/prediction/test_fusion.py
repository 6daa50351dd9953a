"""A fused network gives what the network gives: exactly in float32, nearly in bfloat16."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unetseg.prediction.fusion import FusedConvolution, FusedTransposed, fuse, is_fusible
from unetseg.prediction.recording import record, relative_error
from unetseg.unet.segmenter import Segmenter

pytestmark = pytest.mark.skipif(not is_fusible(torch.float32), reason="torch has no oneDNN here")


def image(side: int, batch: int = 1, seed: int = 0) -> Tensor:
    noise = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return noise.contiguous(memory_format=torch.channels_last)


@pytest.mark.long
def test_logits_in_float32_are_equal(family: Segmenter) -> None:
    network = family.network
    graph = fuse(record(network.on_grid, image(64)), torch.float32)
    for shape in ((64, 1), (96, 2)):
        assert (
            relative_error(graph(image(*shape, seed=1)), network.on_grid(image(*shape, seed=1)))
            < 1e-4
        )


@pytest.mark.long
@pytest.mark.skipif(not is_fusible(torch.bfloat16), reason="this processor has no bfloat16")
def test_logits_in_bfloat16_are_no_further_off_than_those_of_autocast(family: Segmenter) -> None:
    network = family.network
    exact = network.on_grid(image(96))
    with torch.autocast("cpu", torch.bfloat16):
        usual = network.on_grid(image(96)).float()
    graph = fuse(record(network.on_grid, image(64)), torch.bfloat16)
    assert (
        relative_error(graph(image(96).bfloat16()), exact)
        < 1.5 * relative_error(usual, exact) + 0.01
    )


def test_joined_features_are_never_made(make: Callable[..., Segmenter]) -> None:
    network = make().network
    graph = fuse(record(network.on_grid, image(64)), torch.float32)
    targets = [node.target for node in graph.graph.nodes]
    assert torch.cat not in targets
    assert torch.relu not in targets
    kinds = [type(module) for module in graph.children()]
    assert kinds.count(FusedTransposed) == 2  # a depth of 2
    assert kinds.count(FusedConvolution) == 2 * 5 + 1  # two at each of 5 stations, and the head


class Joined(nn.Module):
    """Features that are joined, for a convolution and something else."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.convolution = nn.Conv2d(3 * parts, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        joined = torch.cat([image * (part + 1) for part in range(self.parts)], dim=1)
        features: Tensor = self.convolution(joined)
        return torch.relu(features) + joined.mean()


class Projected(nn.Module):
    """Two convolutions of one image, added: the shortcut with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.projection = nn.Conv2d(3, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        branch: Tensor = self.branch(image)
        return torch.relu(branch + self.projection(image)) * 2


class Doubled(nn.Module):
    """A convolution added to itself, and one added to something that is broadcast."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding=1, groups=3)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.first(image)
        features = features + features
        narrow: Tensor = self.second(features)
        return narrow + image.mean((2, 3), keepdim=True)


@pytest.mark.parametrize(
    "network",
    [Joined(2), Joined(3), Joined(6), Projected(), Doubled()],
    ids=lambda n: type(n).__name__,
)
def test_what_cannot_be_fused_whole_stays_right(network: nn.Module) -> None:
    network.eval()
    graph = fuse(record(network, image(16)), torch.float32)
    with torch.no_grad():
        assert relative_error(graph(image(24, 2, 1)), network(image(24, 2, 1))) < 1e-5
