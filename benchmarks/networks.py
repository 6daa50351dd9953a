"""The networks that are measured, as bundles of unetseg and as weights for the plain scripts."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baseline import build
from unetseg.bundle import BundleInfo, build_segmenter, load_bundle, save_bundle
from unetseg.config import NetworkConfig
from unetseg.data.masks.class_map import ClassInfo, ClassMap

NETWORKS: dict[str, NetworkConfig] = {
    "classic": NetworkConfig(width=64, depth=4),
    "base32": NetworkConfig(width=32, depth=4),
    "base16": NetworkConfig(width=16, depth=4),
    "tiny": NetworkConfig(width=4, depth=2),
    "resnet34": NetworkConfig(encoder="resnet34", depth=5),
}
"""By the names that the command lines take; three bands, two classes."""
CLASS_MAP = ClassMap(
    classes=(
        ClassInfo(name="background", code=0, colour=(0, 0, 0)),
        ClassInfo(name="foreground", code=255, colour=(255, 255, 255)),
    ),
    background=0,
)
EIGHT_BIT = 255
"""Largest pixel value; the plain scripts divide by it."""


def trained_run(network: str, data: Path, folder: Path, epochs: int) -> Path:
    """Train a network for a moment, in a process of its own; the run folder."""
    words = ["train", str(data), "--out", str(folder), "--name", network, "-e", str(epochs)]
    words += ["--patch", "128", "--batch", "4", "--augment", "light", "--val-fraction", "0.1"]
    for name, value in NETWORKS[network].model_dump(exclude_defaults=True).items():
        words += [f"--{name}", str(value)]
    subprocess.run([sys.executable, "-m", "unetseg", *words], check=True, stdout=subprocess.DEVNULL)
    return folder / network


def fresh_run(network: str, folder: Path) -> Path:
    """A bundle of a network that has learned nothing: it is as fast as any."""
    return fresh_bundle(NETWORKS[network], folder / network)


def fresh_bundle(network: NetworkConfig, folder: Path, **more: Any) -> Path:
    """The same of any network, with `more` in its model.json, written as `folder`."""
    usual = {
        "network": network,
        "bands": 3,
        "dtype": "uint8",
        "class_map": CLASS_MAP,
        "normalisation": {"kind": "dataset", "mean": [128.0] * 3, "std": [64.0] * 3},
        "tile": 2048,
        "overlap": 0.25,
    }
    info = BundleInfo.model_validate(usual | more)
    torch.manual_seed(0)
    save_bundle(folder, build_segmenter(info).state_dict(), info)
    return folder


def plain_weights(network: str, run: Path, path: Path) -> Path:
    """The weights and statistics of a run, as a plain script saves and loads them."""
    segmenter, info = load_bundle(run)
    if info.normalisation.kind != "dataset":
        raise SystemExit(f"{run} normalises every image by its own mean; a plain script cannot")
    plain = copy_weights(segmenter.network, build(network).eval())
    mean, std = info.normalisation.mean, info.normalisation.std
    checkpoint = {
        "model": plain.state_dict(),
        "mean": [value / EIGHT_BIT for value in mean],
        "std": [value / EIGHT_BIT for value in std],
    }
    torch.save(checkpoint, path)
    return path


def copy_weights(source: nn.Module, target: nn.Module) -> nn.Module:
    """`target` with the weights of `source`, layer by layer in the order an image meets them."""
    for one, other in zip(_layers(target), _layers(source), strict=True):
        one.load_state_dict(other.state_dict())
    return target


def gflop(network: str, height: int, width: int) -> float:
    """Arithmetic of a forward pass, 10⁹ operations (a multiplication and an addition are two)."""
    with FlopCounterMode(display=False) as counter:
        build(network, device="meta")(torch.empty(1, 3, height, width, device="meta"))
    return float(counter.get_total_flops()) / 1e9


def _layers(network: nn.Module) -> list[nn.Module]:
    """Layers with weights, in the order in which an image meets them."""
    met: list[nn.Module] = []

    def note(layer: nn.Module, *_: object) -> None:
        met.append(layer)

    layers = [m for m in network.modules() if m.state_dict() and not list(m.children())]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    was_training = network.training
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 64, 64))
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    return met
