"""Pretrained encoders: chosen once, planned with care, and needed by nothing that comes later."""

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.builders import CPU, INCEPTION, Heard, encoder_weights, fill_hub_cache
from tests.training.test_fit import StopAt
from unetseg.bench import draw_pairs
from unetseg.bundle import load_bundle
from unetseg.config import NetworkConfig, RuntimeConfig, TrainConfig, TrainingConfig
from unetseg.data.facts.survey import Survey, survey
from unetseg.data.sample import draw_sample
from unetseg.errors import ConfigError, MachineError, StoppedError
from unetseg.training import fine_tuning, tuning
from unetseg.training.checkpoint import load_state
from unetseg.training.fit import train
from unetseg.training.optimizer import AdamW, Optimizer
from unetseg.training.plan import Plan, make_plan
from unetseg.training.tuning import tried_plan

pytestmark = pytest.mark.long  # segmentation-models-pytorch takes seconds to import


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sample(tmp_path_factory.mktemp("data") / "cells", count=6, size=64)


@pytest.fixture(scope="module")
def known(cells: Path) -> Survey:
    return survey(cells)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of huggingface_hub, without a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights of a small encoder in two forms, and what pixels they expect."""
    folder = tmp_path_factory.mktemp("weights")
    state = encoder_weights(SMALL)
    save_file(state, folder / "w.safetensors")
    torch.save(state, folder / "w.pth")
    (folder / "config.json").write_text(json.dumps(INCEPTION))
    return folder


def settings(network: NetworkConfig, **training: object) -> TrainConfig:
    """Settings under which a training of an smp encoder takes seconds."""
    given = {"epochs": 3, "batch": 2, "patch": 64, **training}
    return TrainConfig(
        network=network,
        training=TrainingConfig.model_validate(given),
        runtime=RuntimeConfig(device="cpu", workers=0),
    )


AUTO = NetworkConfig(encoder="auto")
SMALL = "mobilenet_v2"


def encoder_of(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    start = "network.encoder.body."
    return {name.removeprefix(start): t for name, t in weights.items() if name.startswith(start)}


# The plan


def test_weights_in_the_cache_are_taken(known: Survey, cache: Path) -> None:
    fill_hub_cache(cache)
    plan = make_plan(known, settings(AUTO), CPU)
    assert (plan.network.encoder, plan.network.weights) == ("resnet18", "imagenet")
    assert plan.optimizer == "adamw"
    assert (plan.lr, plan.encoder_lr, plan.freeze) == (1e-3, 0.1, 0.1)
    assert plan.normalisation.mean == pytest.approx([255 * mean for mean in INCEPTION["mean"]])
    assert plan.normalisation.std == pytest.approx([255 * std for std in INCEPTION["std"]])
    assert plan.reasons.keys() >= {"encoder", "encoder_lr", "freeze", "normalisation"}


@pytest.mark.usefixtures("cache")
def test_without_weights_our_own_is_taken_and_told_how_to_get_them(known: Survey) -> None:
    heard = Heard()
    plan = make_plan(known, settings(AUTO), CPU, heard)
    plain = make_plan(known, settings(NetworkConfig()), CPU)
    assert plan.model_copy(update={"reasons": plain.reasons}) == plain
    (line,) = heard.said
    assert line == f"encoder: {plan.reasons['encoder']}"
    for word in ("HF_HUB_OFFLINE", "model.safetensors", "config.json", "resnet18", "--weights"):
        assert word in line


def test_damaged_weights_in_the_cache_are_not_taken(known: Survey, cache: Path) -> None:
    fill_hub_cache(cache)
    (file,) = cache.glob("*/snapshots/*/model.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    plan = make_plan(known, settings(AUTO), CPU)
    assert plan.network.encoder is None
    assert str(file) in plan.reasons["encoder"]


@pytest.mark.parametrize(
    "network", [{"width": 8}, {"widths": (4, 8)}, {"depth": 2}, {"preset": "classic"}]
)
def test_a_shape_that_was_set_is_kept(network: dict[str, Any], known: Survey, cache: Path) -> None:
    fill_hub_cache(cache)
    plan = make_plan(known, settings(NetworkConfig(encoder="auto", **network)), CPU)
    assert (plan.network.encoder, plan.network.weights) == (None, "none")


def test_other_bands_than_colour_and_grey_get_our_own(tmp_path: Path, cache: Path) -> None:
    fill_hub_cache(cache)
    for bands, encoder in ((1, "resnet18"), (4, None)):
        folder = draw_pairs(tmp_path / str(bands), 6, 64, bands, "uint8")
        assert make_plan(survey(folder), settings(AUTO), CPU).network.encoder == encoder


def test_pixels_that_the_weights_do_not_know_are_normalised_by_the_data(
    tmp_path: Path, local: Path
) -> None:
    network = NetworkConfig(encoder=SMALL, weights=str(local / "w.pth"))
    for bands, dtype in ((4, "uint8"), (3, "uint16")):
        images = survey(draw_pairs(tmp_path / dtype, 6, 64, bands, dtype))
        plan = make_plan(images, settings(network), CPU)
        ours = make_plan(images, settings(NetworkConfig()), CPU)
        assert plan.normalisation == ours.normalisation
        assert plan.encoder_lr == 0.1


@pytest.mark.usefixtures("cache")
def test_weights_that_were_asked_for_by_name_must_be_there(known: Survey) -> None:
    network = NetworkConfig(encoder="resnet18", weights="imagenet")
    with pytest.raises(MachineError, match="could not be downloaded"):
        make_plan(known, settings(network), CPU)
    with pytest.raises(ConfigError, match="needs the name of its encoder"):
        make_plan(known, settings(NetworkConfig(encoder="auto", weights="w.pth")), CPU)


@pytest.mark.usefixtures("cache")
def test_a_budget_is_tried_without_a_second_look(
    known: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    waits: list[float] = []

    def hang(*_: Any, timeout: float, **__: Any) -> None:
        waits.append(timeout)
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    monkeypatch.setattr(tuning, "step_seconds", lambda *_: 0.1)
    config = settings(AUTO, budget="60s", epochs=None)
    plan = tried_plan(make_plan(known, config, CPU), known, config, CPU)
    assert plan.network.encoder is None
    assert "it was not there after 6" in plan.reasons["encoder"]
    assert "steps fit in the budget" in plan.reasons["width"]
    assert waits == [pytest.approx(6)]


# The training


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_frozen_encoder_stays_what_the_file_holds(
    suffix: str, cells: Path, local: Path, tmp_path: Path
) -> None:
    network = NetworkConfig(encoder=SMALL, weights=str(local / f"w{suffix}"))
    run = train(cells, settings(network, epochs=1, freeze=1.0), out=tmp_path, name="a")
    trained, given = encoder_of(load_state(run)["weights"]), encoder_weights(SMALL)
    assert trained.keys() == given.keys()
    for name, tensor in trained.items():
        counts = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert counts or torch.equal(tensor, given[name]), name
    plan = Plan.model_validate_json((run / "plan.json").read_text())
    assert plan.normalisation.mean == pytest.approx([255 * mean for mean in INCEPTION["mean"]])
    segmenter, info = load_bundle(run)
    assert info.normalisation == plan.normalisation
    assert segmenter.mean.flatten().tolist() == pytest.approx(plan.normalisation.mean)


def test_the_encoder_rests_and_then_learns_at_a_tenth(
    cells: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[tuple[float, float]] = []
    step = Optimizer.step
    moved: list[float] = []
    monkeypatch.setattr(AdamW, "move", lambda rule, factor, *_: moved.append(rule.lr * factor))

    def note(optimizer: Optimizer, *given: Any) -> None:
        moved.clear()
        step(optimizer, *given)
        rules = dict(zip(optimizer.rules, moved, strict=True))
        (encoder,) = {rules[rule] for rule in optimizer.encoder}
        (decoder,) = {rate for rule, rate in rules.items() if rule not in optimizer.encoder}
        rates.append((decoder, encoder))

    monkeypatch.setattr(Optimizer, "step", note)
    network = NetworkConfig(encoder=SMALL, weights=str(local / "w.pth"))
    train(cells, settings(network, epochs=5, freeze=0.4), out=tmp_path, name="a")
    resting = 0.4 * len(rates)
    for number, (decoder, encoder) in enumerate(rates):
        assert encoder == pytest.approx(0.0 if number < resting else 0.1 * decoder)
    assert max(decoder for decoder, _ in rates) <= 1e-3


def test_a_stopped_run_goes_on_bit_for_bit_without_the_weights(
    cells: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a resume nor a bundle looks again for what `--encoder auto` has chosen."""
    monkeypatch.setitem(fine_tuning.ENCODER, "cpu", SMALL)
    fill_hub_cache(cache, SMALL)
    whole = train(cells, settings(AUTO), out=tmp_path, name="whole")
    stop = StopAt(4, signal.SIGINT)
    with pytest.raises(StoppedError):
        train(cells, settings(AUTO), out=tmp_path, name="cut", progress=stop)
    plan = (tmp_path / "cut" / "plan.json").read_bytes()
    shutil.rmtree(cache)
    cut = train(cells, settings(AUTO), out=tmp_path, name="cut", resume=True)
    one, other = (load_state(run)["weights"] for run in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (cut / "plan.json").read_bytes() == plan
    bundles = [load_file(run / "model" / "model.safetensors") for run in (whole, cut)]
    assert all(torch.equal(bundles[0][name], bundles[1][name]) for name in bundles[0])
    segmenter, info = load_bundle(cut)
    assert (info.network.encoder, info.network.weights) == (SMALL, "imagenet")
    assert segmenter(torch.zeros(1, 3, 64, 64)).isfinite().all()
    assert "encoder: auto" in (cut / "config.yaml").read_text()


def test_a_normalisation_by_image_that_was_set_is_kept(known: Survey, local: Path) -> None:
    network = NetworkConfig(encoder=SMALL, weights=str(local / "w.pth"))
    plan = make_plan(known, settings(network, normalisation="image"), CPU)
    assert (plan.normalisation.kind, plan.reasons["normalisation"]) == ("image", "as set")
