"""Where an encoder's weights come from: the cache and the hub, here a server of our own."""

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from torch import nn

from tests.builders import INCEPTION, Heard, fill_hub_cache, hub_snapshot
from unetseg.config import NetworkConfig
from unetseg.errors import BundleError, MachineError
from unetseg.unet import weights as module
from unetseg.unet.build import build_unet
from unetseg.unet.segmenter import Normalisation, Segmenter
from unetseg.unet.weights import expected_pixels, read_weights, weights_file

pytestmark = pytest.mark.long  # segmentation-models-pytorch takes seconds to import


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of huggingface_hub, for this process and those it starts."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub"


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(subprocess, "run", refuse)


class Hub(ThreadingHTTPServer):
    """Answers as the hub does, with the files of a snapshot folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder, self.share = folder, 1.0
        self.asked: list[str] = []
        self.closing = threading.Event()


class Answer(BaseHTTPRequestHandler):
    """One file, or the `share` of it after which the line is dead; none where that is below 0."""

    server: Hub

    def do_HEAD(self) -> bytes:
        path = self.server.folder / self.path.rsplit("/", 1)[1]
        self.server.asked.append(f"{self.command} {self.path}")
        if self.server.share < 0:
            self.server.closing.wait()
        self.send_response(200)
        content = path.read_bytes()
        self.send_header("X-Repo-Commit", path.parent.name)
        self.send_header("ETag", f'"{path.name}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def do_GET(self) -> None:
        content = self.do_HEAD()
        self.wfile.write(content[: int(len(content) * self.server.share)])
        if self.server.share < 1:
            self.server.closing.wait()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Stay silent."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the weights of resnet18, which processes started from here ask."""
    fill_hub_cache(tmp_path / "there")
    server = Hub(hub_snapshot(tmp_path / "there"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("no_process")
def test_cached_weights_reach_the_network_without_a_download(cache: Path) -> None:
    state = fill_hub_cache(cache)
    network = build_unet(NetworkConfig(encoder="resnet18", weights="imagenet"), 3, 2)
    body = network.encoder.get_submodule("body").state_dict()
    assert body.keys() == state.keys()
    assert all(torch.equal(body[name], state[name]) for name in state)


@pytest.mark.parametrize("name", ["densenet121", "mobilenet_v2", "efficientnet-b0"])
def test_what_is_in_the_cache_is_read_as_smp_reads_it(name: str, cache: Path) -> None:
    from segmentation_models_pytorch.encoders import get_encoder

    fill_hub_cache(cache, name)
    reference: nn.Module = get_encoder(name, weights="imagenet")
    network = build_unet(NetworkConfig(encoder=name, weights="imagenet"), 3, 2)
    image = torch.randn(1, 3, 64, 64)
    ours = network.encoder.eval()(image)
    for feature, expected in zip(ours, reference.eval()(image), strict=True):
        torch.testing.assert_close(feature, expected)


def test_a_download_lands_in_the_cache_and_is_made_once(cache: Path, hub: Hub) -> None:
    heard = Heard()
    file = weights_file("resnet18", "imagenet", progress=heard)
    assert file == hub_snapshot(cache) / "model.safetensors"
    assert read_weights(file).keys() == read_weights(hub.folder / "model.safetensors").keys()
    assert json.loads(file.with_name("config.json").read_text()) == INCEPTION
    assert len(heard.said) == 1
    asked = len(hub.asked)
    assert weights_file("resnet18", "imagenet", progress=heard) == file
    assert (len(hub.asked), len(heard.said)) == (asked, 1)


@pytest.mark.usefixtures("no_process")
def test_nothing_is_tried_offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MachineError) as error:
        weights_file("resnet18", "imagenet")
    assert error.value.offenders == ["HF_HUB_OFFLINE is set"]
    assert not cache.exists()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
@pytest.mark.usefixtures("no_process")
def test_half_of_the_files_do_not_count(
    missing: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    fill_hub_cache(cache)
    gone = hub_snapshot(cache) / missing
    gone.rename(gone.with_name(f"{missing}.incomplete"))
    with pytest.raises(MachineError, match="could not be downloaded"):
        weights_file("resnet18", "imagenet")


def test_a_line_that_goes_dead_ends_in_time_and_leaves_nothing_that_counts(
    cache: Path, hub: Hub
) -> None:
    hub.share = 0.5
    for seconds in (5, 25, 125):  # a busy machine takes long to ask
        with pytest.raises(MachineError, match="could not be downloaded") as error:
            weights_file("resnet18", "imagenet", seconds)
        assert error.value.offenders[0].startswith("it was not there after")
        if any(line.startswith("GET") for line in hub.asked):
            break
    else:
        pytest.fail("the hub was not asked for a file")
    assert not list(cache.glob("*/snapshots/*/model.safetensors"))
    hub.share = 1.0
    assert weights_file("resnet18", "imagenet").is_file()


@pytest.mark.usefixtures("cache")
def test_a_hub_that_does_not_answer_is_asked_once(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECTING", 0.5)
    hub.share = -1
    with pytest.raises(MachineError, match="could not be downloaded"):
        weights_file("resnet18", "imagenet", seconds=100)
    assert len(hub.asked) == 1


@pytest.mark.usefixtures("cache")
def test_no_network_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(MachineError) as error:
        weights_file("resnet18", "imagenet", seconds=100)
    assert "refused" in error.value.offenders[0]


# Pixels


@pytest.mark.parametrize(
    "said",
    [
        None,
        INCEPTION,
        {"mean": [0, 0, 0], "std": [1, 1, 1]},
        {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4], "input_range": [0, 255]},
    ],
    ids=["ImageNet", "config.json", "0 to 1", "0 to 255"],
)
def test_pixels_reach_the_encoder_as_smp_prepares_them(
    said: dict[str, Any] | None, tmp_path: Path
) -> None:
    from segmentation_models_pytorch.encoders import preprocess_input

    if said is not None:
        (tmp_path / "config.json").write_text(json.dumps(said | {"architectures": ["x"]}))
    statistics = expected_pixels(tmp_path / "w.pth").statistics(3)
    assert statistics is not None
    mean, std = statistics
    network = build_unet(NetworkConfig(depth=1, width=1), 3, 2)
    segmenter = Segmenter(network, Normalisation(kind="dataset", mean=mean, std=std))
    image = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    ours = segmenter.normalise(torch.from_numpy(image).permute(2, 0, 1)[None])
    imagenet = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    settings = {"input_range": [0, 1], **(said or imagenet)}
    theirs = preprocess_input(image.astype(np.float64), **settings)
    expected = torch.from_numpy(theirs).permute(2, 0, 1)[None].float()
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_grey_is_the_mean_of_colour_and_other_bands_are_unknown(tmp_path: Path) -> None:
    expected = expected_pixels(tmp_path / "w.pth")
    assert expected.statistics(4) is None
    grey, colour = expected.statistics(1), expected.statistics(3)
    assert grey is not None
    assert colour is not None
    for mean, of in zip(grey, colour, strict=True):
        assert list(mean) == pytest.approx([sum(of) / 3])


@pytest.mark.parametrize(
    "content", ["", "[]", '{"mean": "grey"}', '{"std": [1, 1, 0]}', '{"input_space": "BGR"}']
)
def test_a_config_that_says_nothing_clear_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(BundleError, match="does not say which pixels the weights expect") as error:
        expected_pixels(tmp_path / "w.pth")
    assert error.value.offenders
