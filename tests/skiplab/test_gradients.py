"""Gradients: the founding figures, measured as by hand, for stacks, U-Nets and trained runs."""

import csv
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unetseg.config import (
    DataConfig,
    DeviceConfig,
    GradientsConfig,
    NetworkConfig,
    RuntimeConfig,
    TrainConfig,
    TrainingConfig,
)
from unetseg.data.sample import draw_sample
from unetseg.errors import BundleError, ConfigError
from unetseg.runtime import start
from unetseg.skiplab.finding import Finding, Row
from unetseg.skiplab.gradient_flow import Case, find_layers, follow, measure, unet_stages
from unetseg.skiplab.gradient_words import first_layer_table
from unetseg.skiplab.gradients import gradients, of_stacks
from unetseg.training.fit import train
from unetseg.unet.build import build_unet

BASE = TrainConfig(
    network=NetworkConfig(depth=2, width=4),
    training=TrainingConfig(patch=32, batch=2, epochs=1),
    runtime=RuntimeConfig(device="cpu", workers=0),
)
COUNT = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sample(tmp_path_factory.mktemp("data") / "cells", count=COUNT, size=48)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(data, BASE, out=tmp_path_factory.mktemp("runs"), name="cells")


def stacks(**config: object) -> list[Row]:
    settings = GradientsConfig.model_validate({"steps": 0} | config)
    return of_stacks(settings, BASE, start(DeviceConfig(device="cpu")))


def check_files(finding: Finding, *figures: str) -> None:
    """The files are there, and hold what was found."""
    assert {p.name for p in finding.folder.iterdir()} == {
        "gradients.csv",
        "gradients.json",
        *(f"{name}.png" for name in figures),
    }
    with (finding.folder / "gradients.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["gradient"]) for row in table] == [row["gradient"] for row in finding.rows]
    facts = json.loads((finding.folder / "gradients.json").read_text())
    assert (facts["seen"], facts["meaning"]) == (finding.seen, finding.meaning)
    assert all(s.endswith(".") and "\n" not in s for s in (finding.seen, finding.meaning))


# ------------------------------------------------------------------ measuring


def test_norms_are_those_of_a_backward_pass() -> None:
    torch.manual_seed(0)
    network = build_unet(NetworkConfig(depth=2, width=4, skip=("learned", "attention")), 3, 2)
    image = torch.randn(2, 3, 16, 16)

    def loss(step: int) -> Tensor:
        logits: Tensor = network(image)
        return logits.square().mean()

    rows = measure(Case({}, network, unet_stages(network), loss, "square"), lr=0.1)
    torch.autograd.backward(loss(0))
    layers = find_layers(unet_stages(network))
    for row, layer in zip(rows, layers, strict=True):
        assert layer.weight.grad is not None
        assert row["gradient"] == pytest.approx(layer.weight.grad.norm().item(), rel=1e-4)
    assert {row["part"] for row in rows} == {"weights", "factor"}


@pytest.mark.parametrize("skip", ["concat", "nested"])
def test_layers_come_in_the_order_of_the_forward_pass(skip: Any) -> None:
    network = build_unet(NetworkConfig(depth=3, width=2, skip=(skip,)), 3, 2)
    called: list[nn.Module] = []
    stages = unet_stages(network)
    for _, part in stages:
        part.register_forward_hook(lambda part, *_: called.append(part))
    network(torch.randn(2, 3, 16, 16))
    assert called == [part for _, part in stages]
    layers = [layer for layer in find_layers(stages) if not layer.is_factor]
    assert [layer.number for layer in layers] == list(range(len(layers)))
    found = {id(layer.weight) for layer in layers}
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))
    assert found == {id(m.weight) for m in convolutions}


def test_a_step_that_is_no_number_is_not_taken() -> None:
    layer = nn.Conv2d(1, 1, 3)
    before = layer.weight.detach().clone()

    def loss(step: int) -> Tensor:
        return (layer.weight * torch.full((3, 3), math.inf if step == 0 else 2.0)).sum()

    case = Case({}, layer, [("only", layer)], loss, "sum")
    rows = follow(case, 0.1, 2, TrainingConfig(weight_decay=0))
    assert [(row["step"], row["gradient"]) for row in rows] == [(0, math.inf), (2, 6.0)]
    torch.testing.assert_close(before - layer.weight, torch.full_like(before, 0.1))  # one step


# ------------------------------------------------------------------ stacks


def sizes(rows: Sequence[Row], **columns: object) -> list[float]:
    """First-layer gradients of the mean square of the output, by depth."""
    table = [row for row in first_layer_table(rows) if columns.items() <= row.items()]
    assert len(table) == 1
    return [size for name, size in table[0].items() if name.startswith("depth")]


def test_the_founding_figures() -> None:
    plain = stacks(depths=(10, 20, 56, 200), blocks=("plain",), norms=("none",))
    with_torch, with_he = (sizes(plain, init=init) for init in ("torch", "he"))
    assert with_torch[2:] == [0, 0]
    found = [*with_torch[:2], *with_he[2:]]
    for size, published in zip(found, (1.1e-8, 6e-17, 1.6e-4, 2.6e-13), strict=True):
        assert abs(math.log10(size / published)) < 1.2  # the images of those are not recorded


def test_shortcuts_without_a_norm_explode_and_rezero_keeps_the_gradient() -> None:
    rows = stacks(depths=(10, 56, 200), blocks=("residual",), norms=("none",), inits=("he",))
    exploding = sizes(rows, network="residual, identity")
    assert exploding[0] < 1e2 < 1e6 < exploding[1] < 1e25 < exploding[2]
    kept = sizes(rows, network="residual, rezero")
    assert max(kept) < 3 * min(kept)


def test_at_first_rezero_moves_its_factors_alone() -> None:
    rows = stacks(depths=(10,), blocks=("residual",), shortcuts=("rezero",))
    inside = [row for row in rows if row["stage"].startswith("block")]
    weights = [row for row in inside if row["part"] == "weights"]
    factors = [row for row in inside if row["part"] == "factor"]
    assert len(weights) == 2 * len(factors) > 0
    assert {(row["gradient"], row["stuck_float32"]) for row in weights} == {(0, 1)}
    assert all(row["gradient"] > 0 and row["stuck_float32"] == 0 for row in factors)


def test_stacks_are_compared_and_drawn(tmp_path: Path) -> None:
    config = GradientsConfig(depths=(4, 10), steps=2)
    finding = gradients(config, base=BASE, output=tmp_path / "a", seed=3)
    check_files(finding, "gradients", "first_layer", "training")
    assert len(first_layer_table(finding.rows)) == 12  # 3 kinds of block × 2 norms × 2 inits
    assert "the first of 10 convolutions" in finding.seen
    assert {row["step"] for row in finding.rows} == {0, 2}


def test_seeds_decide(tmp_path: Path) -> None:
    config = GradientsConfig(depths=(4,), steps=1, blocks=("plain",), norms=("batch",))
    same, again, other = (
        gradients(config, base=BASE, output=tmp_path / str(at), seed=seed).rows
        for at, seed in enumerate((1, 1, 2))
    )
    assert same == again != other


def test_refused_depths_cost_no_time(tmp_path: Path) -> None:
    config = GradientsConfig(blocks=("plain", "dense"), depths=(10, 12))
    with pytest.raises(ConfigError, match="depth 12"):
        gradients(config, base=BASE, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ U-Nets


def test_unets_with_and_without_skips_learn_the_data(data: Path, tmp_path: Path) -> None:
    config = GradientsConfig(skips=("concat", "none"), steps=5, lr=1e-3)
    finding = gradients(config, source=data, base=BASE, output=tmp_path)
    check_files(finding, "gradients")
    assert {row["network"] for row in finding.rows} == {"concat skips, plain", "no skips, plain"}
    stages = list(dict.fromkeys(row["stage"] for row in finding.rows))
    assert stages == ["encoder 0", "encoder 1", "bottom", "decoder 1", "decoder 0", "head"]
    assert {row["step"] for row in finding.rows} == {0, 1, 5}


def test_what_is_asked_for_explicitly_varies_too(data: Path, tmp_path: Path) -> None:
    config = GradientsConfig(
        skips=("add",), steps=0, norms=("none", "group"), shortcuts=("rezero", "identity")
    )
    finding = gradients(config, source=data, base=BASE, output=tmp_path)
    found = {(row["norm"], row["network"]) for row in finding.rows}
    names = ("plain", "residual, rezero", "residual, identity")
    assert found == {(n, f"add skips, {name}") for n in ("none", "group") for name in names}
    assert {row["init"] for row in finding.rows} == {"he"}


# ------------------------------------------------------------------ runs


def test_a_run_is_seen_fresh_and_trained_with_skips_and_without(run: Path, tmp_path: Path) -> None:
    finding = gradients(GradientsConfig(), source=run, base=BASE, output=tmp_path)
    check_files(finding, "gradients")
    losses = {(row["weights"], row["skips"]): row["loss"] for row in finding.rows}
    assert len(losses) == len(set(losses.values())) == 4
    edges = {(row["stage"], row["name"]): row for row in finding.rows if "zeroed" in row["skips"]}
    assert all(row["gradient"] > 0 for row in edges.values())


def test_zeroing_skips_that_are_not_there_changes_nothing(data: Path, tmp_path: Path) -> None:
    network = BASE.network.model_copy(update={"skip": ("none",)})
    run = train(data, BASE.model_copy(update={"network": network}), out=tmp_path, name="bare")
    finding = gradients(GradientsConfig(), source=run, base=BASE, output=tmp_path / "out")
    whole, zeroed = (
        [row["gradient"] for row in finding.rows if row["skips"] == f"skips {how}"]
        for how in ("as they are", "zeroed")
    )
    assert whole == zeroed
    assert "no use of skips" in finding.meaning


def test_a_run_can_be_shown_other_images(run: Path, data: Path, tmp_path: Path) -> None:
    other = draw_sample(tmp_path / "other", count=COUNT, size=48, seed=9)
    pairs = DataConfig(images=other / "images", masks=other / "masks")
    own, foreign = (
        gradients(GradientsConfig(), source=run, base=base, output=tmp_path / name).rows
        for name, base in (("a", BASE), ("b", BASE.model_copy(update={"data": pairs})))
    )
    assert [row["name"] for row in own] == [row["name"] for row in foreign]
    assert own[0]["loss"] != foreign[0]["loss"]


def test_a_run_whose_images_are_gone_says_so(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "env.json").write_text(json.dumps({"data": str(tmp_path / "gone")}))
    with pytest.raises(BundleError, match=r"gone, which .*copy was trained on, is not there"):
        gradients(GradientsConfig(), source=copy, base=BASE, output=tmp_path / "out")
    (copy / "env.json").unlink()
    with pytest.raises(BundleError, match="does not say what it was trained on"):
        gradients(GradientsConfig(), source=copy, base=BASE, output=tmp_path / "out")
