"""Gradients: the founding figures, measured as by hand, for stacks, U-Nets and trained runs."""

import csv
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from unetseg.bundle import load_bundle, save_bundle
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
from unetseg.errors import BundleError, ConfigError, DataError, OutOfMemoryError, UnetsegError
from unetseg.progress import Silent
from unetseg.runtime import start
from unetseg.skiplab.finding import Finding, Row
from unetseg.skiplab.gradient_flow import Case, find_layers, follow, measure, unet_stages
from unetseg.skiplab.gradient_words import first_layer_table, run_words, stack_words, unet_words
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


def test_a_residual_block_begins_with_its_first_3x3_convolution() -> None:
    config = NetworkConfig(depth=1, width=2, block="residual", shortcut="projection")
    layers = find_layers(unet_stages(build_unet(config, 3, 2)))
    sides = [layer.weight.shape[-1] for layer in layers if layer.stage == "encoder 0"]
    assert sides == [3, 3, 1]
    assert (layers[0].number, layers[0].name.split(".")[-3:]) == (0, ["branch", "0", "weight"])


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
    facts = json.loads((finding.folder / "gradients.json").read_text())
    assert facts["first_layer"] == first_layer_table(finding.rows)


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


class Count(Silent):
    """Counts the steps of each task."""

    def __init__(self) -> None:
        self.total: dict[str, int | None] = {}
        self.done: dict[str, int] = {}

    def start(self, task: str, total: int | None = None) -> None:
        self.total[task] = total

    def advance(self, task: str, steps: int = 1, **facts: object) -> None:
        self.done[task] = self.done.get(task, 0) + steps


def test_every_step_is_heard_of(data: Path, tmp_path: Path) -> None:
    heard = Count()
    config = GradientsConfig(steps=3)
    gradients(config, source=data, base=BASE, output=tmp_path, progress=heard)
    assert heard.done["measuring gradients"] == heard.total["measuring gradients"] == 2 * 4


def test_too_little_memory_is_answered_with_flags_that_there_are(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("unetseg.skiplab.gradients.follow", fail)
    with pytest.raises(OutOfMemoryError) as caught:
        gradients(GradientsConfig(), source=data, base=BASE, output=tmp_path)
    assert "--width" in caught.value.fix


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
    chance = {"block": "residual", "shortcut": "deactivable", "survival": 0.5}
    network = BASE.network.model_copy(update={"skip": ("none",), **chance})
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


def settings_of(run: Path, **changes: object) -> None:
    """Change the settings that a run was trained with."""
    file = run / "config.yaml"
    settings = yaml.safe_load(file.read_text()) | changes
    file.write_text(yaml.safe_dump(settings))


def look(run: Path, output: Path, **data: object) -> list[Row]:
    base = BASE.model_copy(update={"data": DataConfig.model_validate(data)})
    return list(gradients(GradientsConfig(), source=run, base=base, output=output).rows)


def test_images_that_moved_are_those_of_the_training(run: Path, data: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(data, tmp_path / "moved")
    for file in (path for path in moved.rglob("*") if path.is_file()):
        file.rename(file.with_name(f"x{file.name}"))  # known by what they hold
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "env.json").write_text(json.dumps({"data": str(tmp_path / "gone")}))
    found = look(copy, tmp_path / "a", images=moved / "images", masks=moved / "masks")
    assert found == look(run, tmp_path / "b")


def test_images_held_out_stay_so_whatever_else_is_asked(
    data: Path, tmp_path: Path, run: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    settings_of(copy, val_fraction=0.7)
    rows = json.loads((copy / "splits.json").read_text())
    for at, row in enumerate(rows["pairs"]):
        row["split"] = "train" if at == 0 else "val"
    (copy / "splits.json").write_text(json.dumps(rows))
    few = look(copy, tmp_path / "a")
    assert few != look(run, tmp_path / "b")
    assert few == look(copy, tmp_path / "c", snap=True)
    places = {"images": data / "images", "masks": data / "masks"}
    assert few == look(copy, tmp_path / "d", **places)
    for row in rows["pairs"]:
        row["split"] = "val"
    (copy / "splits.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match="is for training"):
        look(copy, tmp_path / "e")


def test_stray_mask_values_are_snapped_where_asked(run: Path, data: Path, tmp_path: Path) -> None:
    stray = shutil.copytree(data, tmp_path / "stray")
    for file in (stray / "masks").iterdir():
        mask = np.array(Image.open(file))
        mask[0, :8] = 3
        Image.fromarray(mask).save(file)
    places = {"images": stray / "images", "masks": stray / "masks"}
    with pytest.raises(UnetsegError, match="3"):
        look(run, tmp_path / "a", **places)
    assert look(run, tmp_path / "b", snap=True, **places)


def test_a_run_is_measured_with_its_own_loss(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    settings_of(copy, loss="ce")
    rows = look(copy, tmp_path / "out")
    assert {row["objective"] for row in rows} == {"ce"} != {BASE.training.loss}


def test_fresh_weights_are_random_ones(run: Path, tmp_path: Path) -> None:
    segmenter, info = load_bundle(run)
    network = info.network.model_copy(update={"weights": "imagenet"})
    copy = shutil.copytree(run, tmp_path / "copy")
    model = next(path.parent for path in copy.rglob("model.json"))
    save_bundle(model, segmenter.state_dict(), info.model_copy(update={"network": network}))
    assert look(copy, tmp_path / "a") == look(run, tmp_path / "b")


def test_a_run_whose_images_are_gone_says_so(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "env.json").write_text(json.dumps({"data": str(tmp_path / "gone")}))
    with pytest.raises(BundleError, match=r"gone, which .*copy was trained on, is not there"):
        gradients(GradientsConfig(), source=copy, base=BASE, output=tmp_path / "out")
    (copy / "env.json").unlink()
    with pytest.raises(BundleError, match="does not say what it was trained on"):
        gradients(GradientsConfig(), source=copy, base=BASE, output=tmp_path / "out")


# ------------------------------------------------------------------ words


def first(network: str, size: float, step: int = 0, **columns: object) -> Row:
    """The row of a first layer."""
    place = {"objective": "ce", "step": step, "layer": 0, "part": "weights", "depth": 10}
    shares = {"stuck_float32": 0.0, "stuck_bf16": 0.5}
    kind = {"network": network, "norm": "none", "init": "he"}
    return {**kind, **place, "gradient": size, **shares, **columns}


def test_one_kind_is_not_held_against_itself() -> None:
    stack = " ".join(stack_words([first("plain", 0.19)], 1e-4))
    unet = " ".join(unet_words([first("plain", 0.19), first("plain", 0.2, step=1)], 1e-4))
    for text in (stack, unet):
        assert text.count("0.19") == 1
        assert "these" not in text
    assert "after 1 step with" in unet
    assert "after" not in unet_words([first("plain", 0.19)], 1e-4)[0]


@pytest.mark.parametrize(("size", "said"), [(0.0, "No gradient"), (math.inf, "too large")])
def test_a_gradient_that_never_arrives_says_nothing_of_the_skips(size: float, said: str) -> None:
    rows = [
        first("plain", size, weights=weights, skips=skips)
        for weights in ("fresh", "trained")
        for skips in ("skips as they are", "skips zeroed")
    ]
    assert said in run_words(rows, 1e-4)[1]
    assert "no use" not in run_words(rows, 1e-4)[1]
    assert said in unet_words([first("a", size), first("b", size)], 1e-4)[1]
