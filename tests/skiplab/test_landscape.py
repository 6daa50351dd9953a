"""Laws of the loss surface of a trained U-Net, and the files of a real small run."""

import csv
import json
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.builders import Heard
from tests.skiplab.builders import tiny
from unetseg.config import (
    DeviceConfig,
    LandscapeConfig,
)
from unetseg.errors import DivergedError
from unetseg.skiplab.landscape import (
    colour_levels,
    compare_valleys,
    contour_figure,
    landscape,
    measure_surface,
    relief_figure,
)
from unetseg.skiplab.look import Result, Subject, open_subject
from unetseg.skiplab.loss_surface import Sharpness, Surface, images_loss
from unetseg.training.fit import train

CPU = DeviceConfig(device="cpu", precision="float32")
QUICK = LandscapeConfig(split="all", images_used=2, points=3, reach=0.5, iterations=2)
KEPT = QUICK.model_copy(update={"statistics": "keep"})
FILES = {"landscape.csv", "landscape.json", "landscape.png", "landscape_surface.png"}

Trained = Callable[[str], Subject]


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Trains for an epoch, with one norm or another, and looks at the result."""
    out = tmp_path_factory.mktemp("runs")
    subjects: dict[str, Subject] = {}

    def look(norm: str) -> Subject:
        if norm not in subjects:
            run = train(data, tiny({"norm": norm}, augment="none"), out=out, name=norm)
            subjects[norm] = open_subject(run, data, QUICK, device=CPU)
        return subjects[norm]

    return look


@pytest.fixture(scope="module")
def pair(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Result:
    output = tmp_path_factory.mktemp("landscape")
    return landscape(trained("batch"), trained("none"), config=QUICK, output=output)


def report(result: Result) -> dict[str, Any]:
    """The content of landscape.json, which must be JSON by the letter."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    text = (result.folder / "landscape.json").read_text()
    content: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return content


def bowl(name: str, width: float, centre: float = 0.25, points: int = 21) -> Surface:
    """A loss that doubles at the distance `width`."""
    axis = np.linspace(-1, 1, points)
    losses = centre * (1 + (axis**2 + axis[:, None] ** 2) / width**2)
    return Surface(name, axis, losses, centre, centre, Sharpness(2 * centre / width**2, 5, True))


# ------------------------------------------------------------------ the surface


@pytest.mark.long
def test_the_middle_is_the_loss_of_the_network_as_it_is_used(trained: Trained) -> None:
    subject = trained("batch")
    surface = measure_surface(subject, "net", KEPT)
    assert surface.losses[1, 1] == surface.centre == surface.as_trained
    assert surface.centre == images_loss(subject)(subject.segmenter)
    assert (surface.losses != surface.centre).sum() == 8


@pytest.mark.long
def test_the_loss_as_trained_is_in_the_arithmetic_of_the_surface(trained: Trained) -> None:
    subject = trained("batch")
    coarse = replace(subject, machine=replace(subject.machine, dtype=torch.bfloat16))
    surface = measure_surface(coarse, "net", KEPT)
    assert surface.as_trained == surface.centre
    assert surface.centre != measure_surface(subject, "net", KEPT).centre


@pytest.mark.long
def test_recomputed_statistics_change_a_network_with_batch_norm(trained: Trained) -> None:
    anew, kept = (measure_surface(trained("batch"), "net", config) for config in (QUICK, KEPT))
    assert anew.losses[1, 1] == anew.centre != anew.as_trained
    assert anew.as_trained == kept.as_trained
    assert not np.isclose(anew.losses, kept.losses).any()
    assert anew.sharpness == kept.sharpness  # of the network as it is used


@pytest.mark.long
def test_without_batch_norm_there_is_nothing_to_recompute(trained: Trained) -> None:
    anew, kept = (measure_surface(trained("none"), "net", config) for config in (QUICK, KEPT))
    np.testing.assert_array_equal(anew.losses, kept.losses)


@pytest.mark.long
def test_the_seed_decides_the_surface(trained: Trained) -> None:
    subject = trained("none")
    configs = [KEPT.model_copy(update={"seed": seed}) for seed in (1, 1, 2)]
    first, again, other = (measure_surface(subject, "net", one).losses for one in configs)
    np.testing.assert_array_equal(first, again)
    assert first[1, 1] == other[1, 1]
    assert (first != other).sum() == 8


@pytest.mark.long
def test_the_network_is_left_as_it_was(trained: Trained) -> None:
    subject = trained("batch")
    before = deepcopy(subject.segmenter.state_dict())
    measure_surface(subject, "net", QUICK)
    after = subject.segmenter.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in subject.segmenter.modules())
    assert all(parameter.grad is None for parameter in subject.segmenter.parameters())


# ------------------------------------------------------------------ the files


@pytest.mark.long
def test_a_run_writes_table_report_and_pictures(pair: Result, trained: Trained) -> None:
    assert {path.name for path in pair.folder.iterdir()} == FILES
    with (pair.folder / "landscape.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 3
    assert list(rows[0]) == ["network", "a", "b", "loss"]
    middle = {row["network"]: row["loss"] for row in rows if row["a"] == row["b"] == "0.0"}
    content = report(pair)
    assert {net["network"]: net["centre"] for net in content["networks"]} == {
        name: pytest.approx(float(loss), rel=1e-6) for name, loss in middle.items()
    }
    assert (content["seed"], content["settings"]["reach"]) == (0, 0.5)
    assert content["settings"]["statistics"] == "recompute"
    assert [row["network"] for row in pair.summary] == ["batch", "none"]
    assert all(row["verdict"] for row in pair.summary)
    assert trained("batch").machine.dtype == torch.float32
    assert content["networks"][0]["surface_arithmetic"] == "float32"
    assert content["networks"][0]["sharpness"]["steps"] == 2
    for name in ("landscape.png", "landscape_surface.png"):
        with Image.open(pair.folder / name) as picture:
            assert picture.width > picture.height > 500


@pytest.mark.long
def test_equal_names_are_told_apart_and_different_images_mentioned(
    trained: Trained, tmp_path: Path
) -> None:
    listener = Heard()
    subject = trained("none")
    fewer = replace(subject, views=subject.views[:1])
    result = landscape(subject, fewer, config=KEPT, output=tmp_path, progress=listener)
    names = [network["network"] for network in report(result)["networks"]]
    assert names == [f"{subject.run} (1)", f"{subject.run} (2)"]
    assert any("different images" in said for said in listener.said)


@pytest.mark.long
def test_weights_that_are_no_numbers_are_refused(trained: Trained, tmp_path: Path) -> None:
    broken = replace(trained("none"), segmenter=deepcopy(trained("none").segmenter))
    with torch.no_grad():
        broken.segmenter.network.head.weight.fill_(math.nan)
    with pytest.raises(DivergedError, match="the loss of none is nan at its trained weights"):
        landscape(broken, config=QUICK, output=tmp_path)


@pytest.mark.long
def test_a_surface_that_overflows_is_drawn_and_counted(trained: Trained, tmp_path: Path) -> None:
    far = KEPT.model_copy(update={"reach": 1e30, "iterations": 0})
    result = landscape(trained("none"), config=far, output=tmp_path)
    facts = report(result)["networks"][0]
    assert len(result.rows) == 9
    assert facts["off_scale"] == sum(row["loss"] is None for row in result.rows) > 0
    assert facts["highest"] >= facts["centre"] >= facts["lowest"]
    assert facts["sharpness"] is None


# ------------------------------------------------------------------ verdicts and pictures


@pytest.mark.parametrize(
    ("first", "second", "verdicts"),
    [
        (bowl("", 0.8, centre=0.2), bowl("", 0.2, centre=0.4), ["wider", "narrower"]),
        # twice the own loss would be the wider valley of what learned nothing
        (bowl("", 0.5, centre=1.0), bowl("", 0.4, centre=0.1), ["narrower", "wider"]),
        (bowl("", 0.5), bowl("", 0.52), ["equal", "equal"]),
        (bowl("", 9), bowl("", 9), ["equal", "equal"]),
        (bowl("", 9), bowl("", 1.15), ["wider", "narrower"]),  # without end, so to the corners
        (bowl("", 9), bowl("", 1.35), ["equal", "equal"]),
        # doubles at 96%, beside one that is nowhere as low as its trained weights
        (bowl("", 0.96, centre=0.938), bowl("", 3.0, centre=1.07), ["valley", "flat"]),
    ],
)
def test_two_valleys_are_compared_at_one_loss(
    first: Surface, second: Surface, verdicts: list[str]
) -> None:
    assert compare_valleys([first, second], reach=1.0) == verdicts
    assert compare_valleys([second, first], reach=1.0) == verdicts[::-1]


@pytest.mark.parametrize("widths", [(0.5, 0.8), (0.01, 0.5), (1e-5, 0.5), (1e-30, 1e-20), (9, 9)])
def test_levels_are_round_ascending_and_span_all_surfaces(widths: tuple[float, float]) -> None:
    surfaces = [bowl("a", widths[0]), bowl("b", widths[1])]
    levels = colour_levels(surfaces)
    assert levels[0] <= min(surface.lowest for surface in surfaces)
    assert levels[-1] >= max(surface.highest for surface in surfaces)
    assert (np.diff(levels) > 0).all()
    assert 4 <= len(levels) <= 24
    assert [float(f"{level:g}") for level in levels] == pytest.approx(levels, rel=1e-9)


def test_a_loss_that_is_the_same_everywhere_has_levels_too() -> None:
    flat = bowl("flat", 1e9)
    assert flat.highest == flat.lowest
    assert len(colour_levels([flat])) > 1
    contour_figure([flat])
    relief_figure([flat])


def test_two_networks_share_levels_and_colours() -> None:
    surfaces = [bowl("steep", 0.05), bowl("flat", 0.9)]
    surfaces[0].losses[:2, :2] = math.nan
    levels = colour_levels(surfaces)
    left, right, bar = contour_figure(surfaces).axes
    for panel in (left, right):
        filled: Any = panel.collections[0]
        assert list(filled.levels) == levels
        assert filled.norm.boundaries.tolist() == levels
        assert panel.get_xlim() == panel.get_ylim() == (-1, 1)
    assert [tick for tick in bar.get_yticks() if tick in levels] == levels
    first, second, _ = relief_figure(surfaces).axes
    assert first.get_zlim() == second.get_zlim()  # type: ignore[attr-defined]
