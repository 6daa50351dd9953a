"""Laws of `lab gates`: what is reported is what the network does, over images and over training."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.builders import CPU, Heard, bundle_info
from tests.skiplab.builders import tiny, view_of
from unetseg.bundle import build_segmenter
from unetseg.config import (
    DeviceConfig,
    NetworkConfig,
    SubjectConfig,
)
from unetseg.data.masks.class_map import IGNORED
from unetseg.data.sample import draw_cells
from unetseg.errors import ConfigError
from unetseg.skiplab.gates import (
    OPENING,
    Opening,
    enlarged,
    gates,
    learned_factors,
    measure_openings,
    on_objects,
    over_images,
    read_log,
    training_courses,
)
from unetseg.skiplab.look import Subject, View, open_subject
from unetseg.training.fit import train
from unetseg.unet.build import build_unet
from unetseg.unet.skips import SWITCH_SPEED, Attention, Gated, Switch

SIZES = ((48, 48), (37, 52), (64, 41))
"""Height and width of the images: none but the first is a multiple of what the network needs."""


def network(**settings: Any) -> NetworkConfig:
    return NetworkConfig.model_validate({"depth": 2, "width": 4, "norm": "none"} | settings)


def view(index: int, height: int, width: int) -> View:
    image, mask = draw_cells(64, seed=0, index=index)
    image, mask = image[:height, :width], mask[:height, :width]
    return view_of(image, (mask > 0).astype(np.uint8), f"cells_{index}")


def subject(
    run: Path, config: NetworkConfig, sizes: tuple[tuple[int, int], ...] = SIZES
) -> Subject:
    """A fresh network of `config`, and drawn cells of several sizes."""
    torch.manual_seed(0)
    info = bundle_info(config)
    segmenter = build_segmenter(info).eval()
    views = tuple(view(index, *size) for index, size in enumerate(sizes))
    return Subject(run, segmenter, info, CPU, "all", views)


def skips(of: Subject) -> list[nn.Module]:
    return [step.get_submodule("skip") for step in of.segmenter.network.decoder.steps]


def width_of(picture: Path) -> int:
    with Image.open(picture) as opened:
        return opened.width


# ------------------------------------------------------------------ over images


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_attention_forced_to_a_constant_is_reported_as_it_everywhere(
    tmp_path: Path, scale: float
) -> None:
    looked_at = subject(tmp_path, network(skip=("attention",), scale=scale))
    for skip, share in zip(skips(looked_at), (0.25, 0.8), strict=True):
        assert isinstance(skip, Attention)
        psi = skip.psi[0]
        assert isinstance(psi, nn.Conv2d)
        assert psi.bias is not None
        nn.init.zeros_(psi.weight)
        nn.init.constant_(psi.bias, math.log(share / (1 - share)))
    result = gates(looked_at, output=tmp_path)
    assert [row["image"] for row in result.rows] == [
        *(f"cells_{index}" for index in range(3) for _ in range(2)),
        *("all", "all"),
    ]
    for row in result.rows:
        share = (0.25, 0.8)[row["level"]]
        for column in ("mean", "low", "high", "foreground", "background"):
            assert row[column] == pytest.approx(share, abs=1e-6)
        assert row["contrast"] == pytest.approx(0, abs=1e-6)
        assert not row["spread"] or row["spread"] < 1e-6
    assert [row["verdict"] for row in result.summary] == ["partly", "partly"]
    assert (tmp_path / "gates_maps.png").is_file()


@pytest.mark.parametrize(("height", "width"), [(8, 12), (9, 13), (3, 5)])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_pixel_gets_the_number_of_the_square_it_lies_in(
    level: int, height: int, width: int
) -> None:
    side = 2**level
    opening = np.random.default_rng(0).random((-(-height // side) + 1, -(-width // side) + 2))
    squares = np.kron(opening, np.ones((side, side)))[:height, :width]
    seen = (height, width)
    found = enlarged(opening.astype(np.float32), level, seen, seen)
    np.testing.assert_allclose(found, squares, rtol=1e-6)
    twice = enlarged(opening.astype(np.float32), level, seen, (2 * height, 2 * width))
    np.testing.assert_allclose(twice, np.kron(squares, np.ones((2, 2))), rtol=1e-6)


def test_a_map_equal_to_the_foreground_is_1_on_it_and_0_elsewhere() -> None:
    truth = view(0, 40, 50).truth
    truth[:5] = IGNORED
    opening = (truth == 1).astype(np.float32)
    opening[:5] = 0.5  # where there is no truth
    inside, outside = on_objects(opening, truth, (1,))
    assert (inside, outside) == (1, 0)
    only = Opening(0, "attention", "cells", opening, 0.3, 0, 1, inside, outside)
    assert only.contrast == 1
    assert over_images([only, only]).contrast == 1


@pytest.mark.parametrize("code", [0, 1])
def test_an_image_without_objects_or_without_background_has_no_contrast(code: int) -> None:
    truth = np.full((4, 4), code, np.uint8)
    opening = np.full((4, 4), 0.3, np.float32)
    sides = on_objects(opening, truth, (1,))
    assert sides.count(None) == 1
    bare = Opening(0, "attention", "bare", opening, 0.3, 0.3, 0.3, *sides)
    whole = Opening(0, "attention", "whole", opening, 0.3, 0.3, 0.3, 0.9, 0.1)
    assert bare.contrast is None
    assert over_images([bare, bare]).contrast is None
    assert over_images([bare, whole, bare]).contrast == whole.contrast


def test_gates_are_counted_and_averaged_channel_by_channel(tmp_path: Path) -> None:
    looked_at = subject(tmp_path, network(skip=("gated", "none")))
    gated = skips(looked_at)[0]
    assert isinstance(gated, Gated)
    assert gated.excite.bias is not None
    with torch.no_grad():
        gated.excite.bias.copy_(torch.tensor([-5.0, 5.0, 0.0, 5.0]))
    result = gates(looked_at, output=tmp_path)
    assert len(result.rows) == 4
    assert all((row["nearly_shut"], row["nearly_open"]) == (1, 2) for row in result.rows)
    expected = torch.tensor([-5.0, 5.0, 0.0, 5.0]).sigmoid().mean().item()
    assert result.rows[-1]["mean"] == pytest.approx(expected, abs=1e-6)
    assert result.rows[-1]["spread"] == pytest.approx(0, abs=1e-6)  # no weights, only biases
    assert (tmp_path / "gates_channels.png").is_file()


def test_gates_that_depend_on_the_image_are_told_from_those_that_do_not(tmp_path: Path) -> None:
    looked_at = subject(tmp_path, network(skip=("gated",)))
    first = looked_at.views[0]
    black = replace(first, name="black", image=np.zeros_like(first.image))
    looked_at = replace(looked_at, views=(first, black))
    follows = skips(looked_at)[1]
    assert isinstance(follows, Gated)
    nn.init.normal_(follows.excite.weight, std=30)
    result = gates(looked_at, output=tmp_path)
    same, different = (row["spread"] for row in result.summary)
    assert same == pytest.approx(0, abs=1e-6)
    assert different > 0.02


def test_a_closed_switch_is_0_and_called_shut(tmp_path: Path) -> None:
    looked_at = subject(tmp_path, network(skip=("switch",)))
    closed = skips(looked_at)[1]
    assert isinstance(closed, Switch)
    nn.init.constant_(closed.slow_log_odds, -0.2)
    result = gates(looked_at, output=tmp_path)
    means = {row["level"]: row["mean"] for row in result.rows if "level" in row}
    assert means == {0: 1.0, 1: 0.0}
    odds = [row["value"] for row in result.rows if "value" in row]
    assert odds == pytest.approx([2.0, -0.2 * SWITCH_SPEED])
    assert [row["verdict"] for row in result.summary] == ["open", "shut"]


# ------------------------------------------------------------------ learned numbers


@pytest.mark.parametrize("shortcut", ["learned", "rezero"])
def test_reported_alphas_are_the_parameters(tmp_path: Path, shortcut: str) -> None:
    config = network(block="residual", shortcut=shortcut, skip=("learned", "concat"))
    looked_at = subject(tmp_path, config)
    numbers = {
        name: parameter
        for name, parameter in looked_at.segmenter.network.named_parameters()
        if parameter.ndim == 0
    }
    assert len(numbers) == 6  # 3 levels of the encoder, 2 of the decoder, 1 skip
    for value, parameter in enumerate(numbers.values()):
        nn.init.constant_(parameter, 0.5 * value - 1)
    result = gates(looked_at, output=tmp_path)
    reported = {row["name"]: row["value"] for row in result.rows if "name" in row}
    assert reported == {name: parameter.item() for name, parameter in numbers.items()}
    assert result.rows[0]["mean"] == reported["decoder.steps.0.skip.alpha"]


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("shortcut", ["learned", "rezero", "gated"])
def test_a_fresh_network_stands_at_its_start(shortcut: str, alpha: float | None) -> None:
    if shortcut == "gated":
        alpha = None
    config = network(block="residual", shortcut=shortcut, alpha=alpha)
    factors = learned_factors(build_unet(config, 3, 2), alpha)
    assert len(factors) == 5
    assert [factor.value for factor in factors] == pytest.approx([f.start for f in factors])
    assert {factor.stage for factor in factors} == {
        *("encoder level 0", "encoder level 1", "encoder level 2"),
        *("decoder level 0", "decoder level 1"),
    }


def test_a_network_that_learns_no_opening_is_refused_with_the_fix(tmp_path: Path) -> None:
    plain = subject(tmp_path, network(skip=("concat", "none")))
    with pytest.raises(ConfigError) as caught:
        gates(plain, output=tmp_path / "out")
    text = str(caught.value)
    assert "learns how far it opens" in text
    assert "skip concat, none" in text
    assert "block plain" in text
    assert "--skip attention, gated, learned or switch" in text
    assert "--shortcut learned, rezero or gated" in text
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ over training


def line(step: int, opening: float | None = 0.5, **factors: float) -> str:
    facts = {"event": "skips", "step": step, "openings": [opening, None], "factors": factors}
    return json.dumps(facts)


def write_log(folder: Path, *lines: str) -> Path:
    path = folder / "log.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.long
def test_the_log_is_read_into_a_course_for_each_number(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        line(5, 0.5, **{"encoder.levels.0.0.shortcut.alpha": 0.0}),
        json.dumps({"event": "validation", "step": 5, "val_dice": None}),
        line(10, None, **{"encoder.levels.0.0.shortcut.alpha": -0.25}),
        line(15, 0.75, **{"decoder.steps.1.skip.slow_log_odds": 0.1}),
    )
    config = network(skip=("attention", "switch"), block="residual", shortcut="rezero")
    looked_at = subject(tmp_path, config)
    openings = measure_openings(looked_at)
    overall = [over_images([o for o in openings if o.level == level]) for level in (0, 1)]
    factors = learned_factors(looked_at.segmenter.network)
    courses = training_courses(read_log(tmp_path / "log.jsonl"), overall, factors)
    found = {(course.what.partition(":")[0], course.stage): course.points for course in courses}
    assert found == {
        (OPENING.partition(":")[0], "level 0"): {5: 0.5, 15: 0.75},
        ("α of the shortcuts", "encoder level 0"): {5: 0.0, 10: -0.25},
        ("log-odds of the switches", "skip level 1"): {15: pytest.approx(2.0)},
    }
    gates(looked_at, output=tmp_path / "out")
    assert (tmp_path / "out" / "gates_training.png").is_file()


def test_broken_lines_are_left_out_and_told(tmp_path: Path) -> None:
    broken = ['{"event": "skips", "step": 7, "open', '{"event": "skips"}', "\xff\x00"]
    others = ["17", '["skips"]', '{"event": "skipped", "step": 8}']
    path = write_log(tmp_path, line(5), *broken, *others, line(10))
    listener = Heard()
    assert [moment.step for moment in read_log(path, listener)] == [5, 10]
    assert listener.said == [f"3 lines of {path} cannot be read and are left out"]


def test_where_a_resumed_training_went_back_the_later_lines_count(tmp_path: Path) -> None:
    lines = [line(step, 0.1) for step in (5, 10, 15, 20)] + [line(step, 0.2) for step in (15, 18)]
    moments = {m.step: m.openings[0] for m in read_log(write_log(tmp_path, *lines))}
    assert moments == {5: 0.1, 10: 0.1, 15: 0.2, 18: 0.2}


def test_a_bundle_without_a_log_has_no_courses(tmp_path: Path) -> None:
    listener = Heard()
    assert read_log(tmp_path / "log.jsonl", listener) == []
    assert "tells nothing" in listener.said[0]


# ------------------------------------------------------------------ pictures and a real run


@pytest.mark.long
def test_a_real_training_is_shown(data: Path, tmp_path: Path) -> None:
    run = train(data, tiny({"skip": ("attention",)}, epochs=2), out=tmp_path, name="run")
    looked_at = open_subject(
        run, data, SubjectConfig(split="all"), device=DeviceConfig(device="cpu")
    )
    result = gates(looked_at, output=tmp_path / "out")
    with (tmp_path / "out" / "gates.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 2 * 6 + 2
    assert all(0 < float(row["low"]) <= float(row["high"]) < 1 for row in table)
    of_top = [row for row in table if row["level"] == "0"]
    assert float(of_top[-1]["mean"]) == pytest.approx(
        np.mean([float(r["mean"]) for r in of_top[:-1]])
    )
    facts = json.loads((tmp_path / "out" / "gates.json").read_text(encoding="utf-8"))
    assert facts["caption"] == result.caption
    assert len(facts["training"]) == 2
    for name in ("gates", "gates_training", "gates_maps"):
        assert width_of(tmp_path / "out" / f"{name}.png") > 300
    assert not (tmp_path / "out" / "gates_channels.png").exists()
