"""The plan follows its rules, keeps what was set, and gives a reason for each choice."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unetseg.config import NetworkConfig, TrainConfig, TrainingConfig
from unetseg.data.facts.survey import Survey, survey
from unetseg.data.sample import draw_sample
from unetseg.errors import ConfigError
from unetseg.runtime import Machine
from unetseg.training.plan import Plan, make_plan
from unetseg.unet.build import build_unet

CPU = Machine(torch.device("cpu"), torch.bfloat16, "CPU")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    return survey(draw_sample(tmp_path_factory.mktemp("plan") / "cells", count=10, size=96))


def plan(known: Survey, **settings: object) -> Plan:
    return make_plan(known, TrainConfig(training=TrainingConfig.model_validate(settings)), CPU)


def test_nothing_is_left_open(cells: Survey) -> None:
    made = plan(cells)
    assert "auto" not in made.model_dump(exclude={"reasons"}).values()
    assert "auto" not in made.network.model_dump().values()
    assert set(made.reasons) >= {"patch", "depth", "width", "batch", "lr", "normalisation"}
    assert all(made.reasons.values())
    build_unet(made.network, made.bands, 2)


def test_what_was_set_is_kept(cells: Survey) -> None:
    made = plan(cells, patch=64, batch=3, lr=0.5, oversample=0.7, augment="light", epochs=7)
    kept = (made.patch, made.batch, made.lr, made.oversample, made.augment, made.epochs)
    assert kept == (64, 3, 0.5, 0.7, "light", 7)


def test_the_crop_is_the_median_image_and_fits_the_network(cells: Survey) -> None:
    made = plan(cells)
    assert made.patch == 96
    assert isinstance(made.network.depth, int)
    assert made.patch / 2**made.network.depth >= 8


def of_side(known: Survey, side: int) -> Survey:
    """The same, as if all images were squares of so many pixels."""
    facts = {
        name: fact.model_copy(
            update={"image": fact.image.model_copy(update={"shape": (side, side)})}
        )
        for name, fact in known.facts.items()
    }
    return replace(known, facts=facts)


@pytest.mark.parametrize(
    ("side", "network", "patch"),
    [
        (64, {}, 64),
        (256, {}, 128),
        (1000, {}, 224),  # a fifth
        (5000, {}, 256),
        (256, {"scale": 0.5}, 256),  # seen at 128
        (5000, {"scale": 0.5}, 512),
        (512, {"depth": 5}, 256),  # the bottom keeps 8 pixels
        (512, {"encoder": "resnet18"}, 256),
        (512, {"widths": (4, 8, 16)}, 128),
        (512, {"preset": "classic"}, 256),
    ],
)
def test_crops_on_a_cpu_are_small(
    cells: Survey,
    monkeypatch: pytest.MonkeyPatch,
    side: int,
    network: dict[str, object],
    patch: int,
) -> None:
    monkeypatch.setattr(Machine, "free_memory", lambda self: 10**10)
    config = TrainConfig(network=NetworkConfig.model_validate(network))
    known = of_side(cells, side)
    made = make_plan(known, config, CPU)
    assert made.patch == patch
    assert ("small crops teach more" in made.reasons["patch"]) == (
        patch < min(side, 256 / config.network.scale)
    )
    card = Machine(torch.device("cuda"), torch.bfloat16, "card")
    card_patch = make_plan(known, config, card).patch
    assert card_patch == min(32 * math.ceil(side / 32), round(512 / config.network.scale))


def test_fresh_weights_are_moved_by_muon_and_trained_ones_by_adam(cells: Survey) -> None:
    assert plan(cells).optimizer == "muon"
    assert "20 times" in plan(cells).reasons["lr"]
    assert plan(cells, optimizer="sgd").lr == 1e-2


def test_a_training_without_a_budget_is_validated_at_most_a_hundred_times(cells: Survey) -> None:
    for made in (plan(cells), plan(cells, epochs=300)):
        assert (made.epochs, made.validate_every) == (300, 3)
    assert plan(cells, budget=60.0).validate_every == 1


def test_an_epoch_covers_every_image(cells: Survey) -> None:
    made = plan(cells, patch=32, batch=4)
    assert len(made.repeats) == len(cells.select("train"))
    assert set(made.repeats) == {9}  # 96² pixels in crops of 32²


@pytest.mark.parametrize(
    "network",
    [
        NetworkConfig(preset="classic"),
        NetworkConfig(encoder="resnet18"),
        NetworkConfig(widths=(8, 16, 32)),
        NetworkConfig(scale=0.5),
        NetworkConfig(skip=("concat", "concat", "none", "gated")),
    ],
)
def test_every_network_can_be_built(cells: Survey, network: NetworkConfig) -> None:
    made = make_plan(cells, TrainConfig(network=network), CPU)
    assert build_unet(made.network, made.bands, 2).head.out_channels == 2


def test_what_contradicts_the_classic_preset_is_refused(cells: Survey) -> None:
    network = NetworkConfig(preset="classic", depth=2, norm="group")
    made = make_plan(cells, TrainConfig(network=network), CPU)
    with pytest.raises(ConfigError, match=r"(?s)depth is 2.*norm is 'group'"):
        build_unet(made.network, made.bands, 2)


@pytest.mark.long
def test_rare_foreground_is_sought(real_data: Path) -> None:
    assert plan(survey(real_data / "crackforest")).oversample == pytest.approx(1 / 3)
    assert plan(survey(real_data / "glas256")).oversample == 0


@pytest.mark.long
def test_rare_classes_weigh_more(real_data: Path) -> None:
    known = survey(real_data / "camvid")
    weights = dict(zip(known.class_map.names, plan(known).class_weights or (), strict=True))
    assert weights["bicyclist"] > weights["car"] > weights["building"]
    assert plan(survey(real_data / "dsb2018")).class_weights is None


def test_images_without_data_have_no_say_in_the_normalisation(cells: Survey) -> None:
    """Empty tiles of a mosaic: their mean of 0 is no brightness."""
    facts = dict(cells.facts)
    for number, pair in enumerate(cells.select("train")):
        image, value = facts[pair.name].image, float(number % 2)
        update = {
            "mean": (1000 * value,) * image.bands,
            "std": (200 * value,) * image.bands,
            "nodata_share": 1 - value,
        }
        changed = {"image": image.model_copy(update=update)}
        facts[pair.name] = facts[pair.name].model_copy(update=changed)
    made = make_plan(replace(cells, facts=facts), TrainConfig(), CPU)
    assert made.normalisation.kind == "dataset"
    assert made.normalisation.mean == pytest.approx((1000.0,) * made.bands)


def test_a_level_without_channels_is_refused_as_such(cells: Survey) -> None:
    made = make_plan(cells, TrainConfig(network=NetworkConfig(widths=(0, 8))), CPU)
    with pytest.raises(ConfigError, match=r"widths is \(0, 8\): every level has at least 1"):
        build_unet(made.network, made.bands, 2)


@pytest.mark.parametrize("side", [96, 5000])
def test_the_reason_of_the_epochs_tells_the_steps_that_they_make(
    cells: Survey, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    monkeypatch.setattr(Machine, "free_memory", lambda self: 10**10)
    made = plan(of_side(cells, side))
    assert made.epochs is not None
    steps = made.epochs * -(-sum(made.repeats) // made.batch)
    assert made.reasons["epochs"].startswith(f"{steps} steps")
