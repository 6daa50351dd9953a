"""A recorded network gives what the network gives, without its batch norms."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unetseg.prediction.recording import record
from unetseg.unet.segmenter import Segmenter

Make = Callable[..., Segmenter]


def image(side: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() < 1e-4 * expected.norm())


@pytest.mark.long
def test_a_recording_gives_what_the_network_gives_at_any_size(family: Segmenter) -> None:
    network = family.network
    recording = record(network.on_grid, image(64))
    assert recording.of_any_size
    other = image(96, seed=1)
    assert close(recording.module()(other), network.on_grid(other))


@pytest.mark.parametrize("network", [{}, {"block": "residual"}, {"block": "dense"}])
def test_no_batch_norm_is_left(make: Make, network: dict[str, Any]) -> None:
    recording = record(make(**network).network.on_grid, image())
    targets = [node.target for node in recording.module().graph.nodes]
    assert F.batch_norm not in targets
    assert torch.mul not in targets  # what a norm becomes that stands apart


def test_a_norm_before_the_convolution_is_kept_as_a_product_and_a_sum() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)).eval()
    nn.init.uniform_(network[0].running_var, 0.5, 2)  # type: ignore[arg-type]
    assert close(record(network, image()).module()(image()), network(image()))


def test_a_norm_after_a_transposed_convolution_is_folded() -> None:
    network = nn.Sequential(nn.ConvTranspose2d(3, 5, 2, 2), nn.BatchNorm2d(5)).eval()
    nn.init.uniform_(network[1].running_var, 0.5, 2)  # type: ignore[arg-type]
    nn.init.normal_(network[1].running_mean)  # type: ignore[arg-type]
    graph = record(network, image()).module()
    assert close(graph(image()), network(image()))
    assert F.batch_norm not in [node.target for node in graph.graph.nodes]


class Twice(nn.Module):
    """A convolution whose output goes through a norm, and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        nn.init.normal_(self.norm.running_mean)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.convolution(image)
        normed: Tensor = self.norm(features)
        return features + normed


def test_a_convolution_that_others_need_too_keeps_its_weights() -> None:
    network = Twice().eval()
    assert close(record(network, image()).module()(image()), network(image()))


def in_place(image: Tensor) -> Tensor:
    features = image.mul(2)
    features.add_(1).relu_()
    return torch.mul(features, features)


@pytest.mark.parametrize(
    "work",
    [
        in_place,
        lambda image: image.sub(1).clamp(0, 1) + 0.5,
        lambda image: F.interpolate(image, scale_factor=2.0, mode="bilinear"),
        lambda image: image * torch.sigmoid(image.mean((2, 3), keepdim=True)),
        lambda image: F.pad(image, (0, 0, 0, 0, 0, 2))[:, -4:, ::2, ::2],
    ],
)
def test_calls_of_any_size(work: Callable[[Tensor], Tensor]) -> None:
    recording = record(work, image(16))
    assert recording.of_any_size
    assert close(recording.module()(image(24, 1)), work(image(24, 1)))


@pytest.mark.parametrize(
    "work",
    [
        lambda image: F.interpolate(image, size=(32, 32), mode="bilinear"),
        lambda image: image[..., 2:-2, 2:14],
        lambda image: image.flatten(2).softmax(2).view(image.shape),
        lambda image: image + torch.linspace(0, 1, image.shape[-1]),
    ],
)
def test_what_depends_on_the_size_is_known_to(work: Callable[[Tensor], Tensor]) -> None:
    recording = record(work, image(16))
    assert not recording.of_any_size
    assert close(recording.module()(image(16, 1)), work(image(16, 1)))


def chunks(image: Tensor) -> Tensor:
    first: Tensor = image.chunk(3, dim=1)[0]
    return first


def test_what_cannot_be_written_down_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="several tensors"):
        record(chunks, image())


def test_recording_leaves_the_network_and_the_random_numbers_as_they_were(make: Make) -> None:
    built = make()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    state = torch.get_rng_state()
    record(built.network.on_grid, image())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in built.state_dict().items())
