"""What OpenVINO runs gives what torch gives: exactly in float32, nearly in bfloat16."""

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unetseg.errors import MachineError
from unetseg.prediction.openvino import OpenVinoNetwork
from unetseg.prediction.recording import relative_error
from unetseg.runtime import cpu_has_bf16
from unetseg.unet.segmenter import Segmenter

needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None, reason="openvino is not installed (an extra)"
)
NETWORKS: dict[str, dict[str, Any]] = {
    "four skips": {"skip": ("concat", "add", "attention", "gated"), "depth": 4},
    "group norm": {"block": "residual", "norm": "group", "up": "bilinear"},
    "instance norm": {"skip": ("learned", "none"), "norm": "instance"},
    "resnet34": {"encoder": "resnet34", "depth": "auto", "width": "auto"},
}
SIZES = ((1, 64, 64), (3, 75, 130), (2, 7, 9))
"""Batches of images: as the network likes them, odd, and smaller than it can work on."""


def image(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    noise = torch.randn(batch, 3, height, width, generator=generator)
    return noise.contiguous(memory_format=torch.channels_last)


@pytest.mark.long
@needs_openvino
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_torch(name: str, make: Callable[..., Segmenter]) -> None:
    network = make(**NETWORKS[name]).network
    converted = OpenVinoNetwork(network, torch.float32, threads=2)
    with torch.inference_mode():
        for size in SIZES:
            assert relative_error(converted(image(*size)), network(image(*size))) < 1e-4


@needs_openvino
def test_bfloat16_is_no_further_off_than_autocast(make: Callable[..., Segmenter]) -> None:
    if not cpu_has_bf16():
        pytest.skip("this processor has no bfloat16")
    network, pixels = make().network, image(2, 96, 80)
    exact = network(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        # converted in the midst of it, as in prediction: nothing of autocast is written down
        usual, found = network(pixels), OpenVinoNetwork(network, torch.bfloat16, 2)(pixels)
    assert 1e-4 < relative_error(found, exact) < 1.5 * relative_error(usual, exact)


@needs_openvino
def test_an_image_alone_in_any_layout_is_the_image_in_a_batch(
    make: Callable[..., Segmenter],
) -> None:
    converted = OpenVinoNetwork(make().network, torch.float32, threads=2)
    batch = image(3, 40, 50)
    found = converted(batch)
    kept = found.clone()
    for at in range(3):
        for alone in (batch[at : at + 1], batch[at : at + 1].contiguous()):
            torch.testing.assert_close(converted(alone)[0], found[at], rtol=1e-5, atol=1e-5)
    assert torch.equal(found, kept), "later images were written over earlier logits"


class Foreign(nn.Module):
    """Of a function that OpenVINO does not have."""

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = torch.special.bessel_j0(features[:, :3])
        return logits


class OfOneSize(nn.Module):
    """Of a number that a recording takes from its example."""

    def forward(self, features: Tensor) -> Tensor:
        return features[:, :3] * float(features.shape[-1])


@needs_openvino
@pytest.mark.parametrize(
    ("head", "reason"),
    [(Foreign(), "bessel_j0"), (OfOneSize(), "converted, its logits are off by")],
)
def test_networks_that_it_cannot_run_are_refused(
    head: nn.Module, reason: str, make: Callable[..., Segmenter]
) -> None:
    network = make().network
    network.head = head  # type: ignore[assignment]
    with pytest.raises(MachineError, match=f"(?s)cannot run this network.*{reason}.*auto"):
        OpenVinoNetwork(network, torch.float32, threads=1)(image(1, 16, 16))


SIGNAL = """
import gc, os, signal, threading, torch
from unetseg.config import NetworkConfig
from unetseg.prediction.openvino import OpenVinoNetwork
from unetseg.unet.build import build_unet

network = build_unet(NetworkConfig(depth=1, width=4), bands=3, classes=2).eval()
networks = [OpenVinoNetwork(network, torch.float32, threads=1)]
networks[0](torch.zeros(1, 3, 16, 16))
thread = threading.Thread(target=lambda: (networks.clear(), gc.collect()))
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("received"))
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.long
@needs_openvino
def test_signals_arrive_after_a_network_went_in_another_thread() -> None:
    # OpenVINO's plugin leaves the thread that loaded it without a stack for signals
    done = subprocess.run([sys.executable, "-c", SIGNAL], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "received\n"), done.stderr


@needs_openvino
def test_nothing_is_reported_to_its_makers(make: Callable[..., Segmenter]) -> None:
    OpenVinoNetwork(make().network, torch.float32, threads=1)
    assert sys.modules["openvino"]
    assert sys.modules["openvino_telemetry"] is None


def test_without_openvino_the_error_names_the_extra(
    make: Callable[..., Segmenter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MachineError, match=r"pip install 'unetseg\[openvino\]'"):
        OpenVinoNetwork(make().network, torch.float32, threads=1)
