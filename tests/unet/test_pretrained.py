"""Encoders of segmentation-models-pytorch: smp itself is the reference."""

import socket
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unetseg.config import NetworkConfig
from unetseg.errors import BundleError, ConfigError, MachineError
from unetseg.unet.build import build_unet
from unetseg.unet.model import UNet
from unetseg.unet.pretrained import PretrainedEncoder, pretrained_encoder

pytestmark = pytest.mark.long  # segmentation-models-pytorch takes seconds to import


def build(bands: int = 3, classes: int = 2, **settings: Any) -> UNet:
    return build_unet(NetworkConfig(**settings), bands, classes)


def reference() -> nn.Module:
    from segmentation_models_pytorch.encoders import get_encoder

    encoder: nn.Module = get_encoder("resnet18", weights=None)
    return encoder


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """A 3-band resnet18 whose running statistics are not those of a fresh one."""
    torch.manual_seed(0)
    encoder = reference()
    encoder(torch.randn(2, 3, 64, 64))
    state: dict[str, Tensor] = encoder.state_dict()
    return state


def save(state: dict[str, Tensor], path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


def smp_features(state: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    encoder = reference()
    encoder.load_state_dict(dict(state))
    features: list[Tensor] = encoder.eval()(image)
    return features


def assert_equal_features(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


# Shapes


@pytest.mark.parametrize("bands", [1, 3, 13])
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "mobilenet_v2"])
def test_any_bands_and_any_size(name: str, bands: int) -> None:
    network = build(bands, 4, encoder=name)
    for size in [(64, 64), (17, 31), (1, 70), (1, 1)]:
        assert network(torch.randn(1, bands, *size)).shape == (1, 4, *size)


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("resnet18", 3),
        ("resnet18", 4),
        ("resnet18", 5),
        ("mobilenet_v2", 3),
        ("mobilenet_v2", 5),
        ("efficientnet-b0", 4),
    ],
)
def test_the_gradient_reaches_every_parameter_at_every_depth(name: str, depth: int) -> None:
    torch.manual_seed(0)
    network = build(3, 2, encoder=name, depth=depth)
    logits = network(torch.randn(2, 3, 64, 64))
    (logits * torch.randn_like(logits)).sum().backward()
    assert len(network.encoder.widths) == depth + 1
    missing = [name for name, p in network.named_parameters() if p.grad is None]
    assert not missing


@pytest.mark.parametrize("kind", ["concat", "add", "none"])
@pytest.mark.parametrize("name", ["resnet18", "mit_b0"])
def test_every_kind_of_skip(name: str, kind: str) -> None:
    network = build(3, 2, encoder=name, skip=(kind,), up="bilinear")
    assert network(torch.randn(1, 3, 40, 70)).shape == (1, 2, 40, 70)


def test_skips_are_shallow_to_deep_with_the_image_first() -> None:
    seen: list[Tensor] = []

    def look(skips: list[Tensor]) -> list[Tensor]:
        seen.extend(skips)
        return skips

    image = torch.randn(1, 3, 64, 96)
    build(encoder="resnet18")(image, look)
    assert torch.equal(seen[0], image)
    assert [s.shape[1] for s in seen] == [3, 64, 64, 128, 256]
    assert [tuple(s.shape[2:]) for s in seen] == [(64 >> i, 96 >> i) for i in range(5)]


def test_the_decoder_has_the_widths_of_smp() -> None:
    assert build(encoder="resnet18").decoder.widths == (16, 32, 64, 128, 256)
    assert build(encoder="resnet18", depth=3).decoder.widths == (16, 32, 64)


def test_a_shallow_encoder_carries_no_deep_stages() -> None:
    names = build(encoder="resnet18", depth=3).state_dict()
    assert any(".layer2." in name for name in names)
    assert not any(".layer3." in name or ".layer4." in name for name in names)


def test_deep_supervision() -> None:
    network = build(3, 2, encoder="resnet18", deep_supervision=True)
    shapes = [tuple(each.shape[2:]) for each in network.all_logits(torch.randn(1, 3, 64, 40))]
    assert shapes == [(64, 40), (32, 20), (16, 10), (8, 5), (4, 3)]


def test_building_leaves_the_running_statistics_alone() -> None:
    encoder = pretrained_encoder("resnet18", 3, 5, "none")
    assert encoder.training
    assert not encoder.state_dict()["body.bn1.running_mean"].any()


def test_export_and_autocast() -> None:
    network, image = build(encoder="resnet18", depth=3).eval(), torch.randn(1, 3, 17, 31)
    program = torch.export.export(network, (image,))
    torch.testing.assert_close(program.module()(image), network(image), atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(image).isfinite().all()


# Weights


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_weights_come_back_whole(
    trained: dict[str, Tensor], suffix: str, tmp_path: Path
) -> None:
    path = save(trained, tmp_path / f"w{suffix}")
    encoder = pretrained_encoder("resnet18", 3, 5, path)
    for name, tensor in encoder.body.state_dict().items():
        assert torch.equal(tensor, trained[name]), name
    image = torch.randn(1, 3, 64, 64)
    assert_equal_features(encoder.eval()(image), smp_features(trained, image))


def test_a_classifier_head_is_left_out(trained: dict[str, Tensor], tmp_path: Path) -> None:
    head = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    encoder = pretrained_encoder("resnet18", 3, 5, save(trained | head, tmp_path / "w.pth"))
    assert encoder.body.state_dict().keys() == trained.keys()


def test_files_from_before_the_counters_of_batches(
    trained: dict[str, Tensor], tmp_path: Path
) -> None:
    old = {k: v for k, v in trained.items() if not k.endswith("num_batches_tracked")}
    encoder = pretrained_encoder("resnet18", 3, 5, save(old, tmp_path / "w.safetensors"))
    assert torch.equal(encoder.body.state_dict()["layer4.1.bn2.weight"], old["layer4.1.bn2.weight"])


def test_one_band_is_seen_as_grey(trained: dict[str, Tensor], tmp_path: Path) -> None:
    encoder = pretrained_encoder("resnet18", 1, 5, save(trained, tmp_path / "w.pth")).eval()
    grey = torch.randn(1, 1, 64, 64)
    expected = smp_features(trained, grey.expand(1, 3, 64, 64))
    assert_equal_features(encoder(grey)[1:], expected[1:])


def test_six_bands_are_seen_as_colour_twice(trained: dict[str, Tensor], tmp_path: Path) -> None:
    encoder = pretrained_encoder("resnet18", 6, 5, save(trained, tmp_path / "w.pth")).eval()
    colour = torch.randn(1, 3, 64, 64)
    expected = smp_features(trained, colour)
    assert_equal_features(encoder(torch.cat([colour, colour], dim=1))[1:], expected[1:])


def test_weights_of_as_many_bands_are_taken_as_they_are(
    trained: dict[str, Tensor], tmp_path: Path
) -> None:
    stem = torch.randn(64, 13, 7, 7)
    path = save(trained | {"conv1.weight": stem}, tmp_path / "w.safetensors")
    encoder = pretrained_encoder("resnet18", 13, 5, path)
    assert torch.equal(encoder.body.state_dict()["conv1.weight"], stem)


def test_local_weights_reach_the_network(trained: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(trained, tmp_path / "w.pth")
    network = build(encoder="resnet18", depth=4, weights=path)
    assert isinstance(network.encoder, PretrainedEncoder)
    loaded = network.encoder.body.state_dict()["layer1.0.conv1.weight"]
    assert torch.equal(loaded, trained["layer1.0.conv1.weight"])


def test_no_weights_touch_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    build(encoder="mobilenet_v2", weights="none")


# Errors


def test_an_unknown_encoder_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(ConfigError) as error:
        build(encoder="ResNet-34")
    assert error.value.summary == "there is no encoder 'ResNet-34'; the nearest names:"
    assert error.value.offenders[0] == "resnet34"
    assert error.value.fix == "Choose one, for example --encoder resnet34"


@pytest.mark.parametrize("name", ["§§§", "tu-hf-hub:someone/something", "os.system"])
def test_only_names_of_the_table_are_built(name: str) -> None:
    with pytest.raises(ConfigError, match="there is no encoder") as error:
        build(encoder=name)
    assert error.value.offenders


def test_a_failed_download_names_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MachineError) as error:
        build(encoder="resnet18", weights="imagenet")
    assert error.value.summary == "the ImageNet weights of resnet18 could not be downloaded"
    assert len(error.value.offenders) == 1
    assert error.value.fix == (
        "Use --weights none, or --weights FILE with a local .safetensors or .pth file."
    )


def test_an_encoder_without_imagenet_weights() -> None:
    with pytest.raises(ConfigError, match=r"no weights 'imagenet' .* only instagram") as error:
        build(encoder="resnext101_32x16d", weights="imagenet")
    assert error.value.fix == "Use --weights none or a local file."


@pytest.mark.parametrize("weights", ["swsl", "missing.pth", "README.md"])
def test_weights_that_are_no_file(weights: str) -> None:
    with pytest.raises(ConfigError, match=f"--weights {weights} is neither imagenet, none nor"):
        build(encoder="resnet18", weights=weights)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x02junk" * 50])
def test_a_damaged_file_is_named(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(BundleError) as error:
        pretrained_encoder("resnet18", 3, 5, str(path))
    assert error.value.summary == f"{path} cannot be read as weights"
    assert error.value.fix == "Give a state dict: a file of named tensors and nothing else."


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_file_is_named(
    trained: dict[str, Tensor], share: float, suffix: str, tmp_path: Path
) -> None:
    path = Path(save(trained, tmp_path / f"w{suffix}"))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BundleError, match="cannot be read as weights"):
        pretrained_encoder("resnet18", 3, 5, str(path))


class Payload:
    """Would write a file if it were ever unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_malicious_file_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"fc.weight": Payload(tmp_path / "pwned")}, path)
    with pytest.raises(BundleError, match="cannot be read as weights"):
        pretrained_encoder("resnet18", 3, 5, str(path))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state": {"a": torch.ones(1)}}])
def test_a_file_of_other_things_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(BundleError, match=r"w\.pth holds no state dict \(names → tensors\)"):
        pretrained_encoder("resnet18", 3, 5, str(path))


def test_weights_of_another_encoder_are_refused_with_every_difference(
    trained: dict[str, Tensor], tmp_path: Path
) -> None:
    other = dict(trained)
    del other["layer1.0.conv1.weight"], other["layer4.1.bn2.running_var"]
    other |= {"layer9.weight": torch.ones(2), "bn1.weight": torch.ones(5)}
    path = save(other, tmp_path / "w.safetensors")
    with pytest.raises(BundleError) as error:
        pretrained_encoder("resnet18", 3, 5, path)
    assert error.value.summary == f"{path} holds no weights of the encoder resnet18"
    assert error.value.offenders == [
        "missing: layer1.0.conv1.weight",
        "missing: layer4.1.bn2.running_var",
        "unknown: layer9.weight",
        "bn1.weight: (5,), expected (64,)",
    ]


def test_without_smp_the_fix_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(MachineError) as error:
        build(encoder="resnet18")
    assert error.value.fix == "pip install segmentation-models-pytorch"
