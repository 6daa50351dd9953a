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

from unetseg.config import (
    DeviceConfig,
    LandscapeConfig,
    NetworkConfig,
    RuntimeConfig,
    TrainConfig,
    TrainingConfig,
)
from unetseg.data.sample import draw_sample
from unetseg.errors import ConfigError, DivergedError
from unetseg.progress import Silent
from unetseg.skiplab.finding import Finding
from unetseg.skiplab.images_loss import images_loss
from unetseg.skiplab.landscape import (
    colour_levels,
    common_level,
    contour_figure,
    describe,
    landscape,
    measure_surface,
    relief_figure,
)
from unetseg.skiplab.sharpness import Sharpness
from unetseg.skiplab.subject import Subject, open_subject
from unetseg.skiplab.surface import Surface
from unetseg.training.fit import train

CPU = DeviceConfig(device="cpu", precision="float32")
QUICK = LandscapeConfig(split="all", images_used=2, points=3, reach=0.5, iterations=2)
KEPT = QUICK.model_copy(update={"statistics": "keep"})
FILES = {"landscape.csv", "landscape.json", "landscape.png", "landscape_surface.png"}

Trained = Callable[[str], Subject]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sample(tmp_path_factory.mktemp("data") / "cells", count=6, size=48)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Trains for an epoch, with one norm or another, and looks at the result."""
    out = tmp_path_factory.mktemp("runs")
    subjects: dict[str, Subject] = {}

    def look(norm: str) -> Subject:
        if norm not in subjects:
            network = {"depth": 2, "width": 4, "norm": norm}
            config = TrainConfig(
                network=NetworkConfig.model_validate(network),
                training=TrainingConfig(epochs=1, batch=2, patch=32, augment="none"),
                runtime=RuntimeConfig(device="cpu", precision="float32", workers=0),
            )
            run = train(data, config, out=out, name=norm)
            subjects[norm] = open_subject(run, data, QUICK, device=CPU)
        return subjects[norm]

    return look


@pytest.fixture(scope="module")
def pair(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Finding:
    output = tmp_path_factory.mktemp("landscape")
    return landscape([trained("batch"), trained("none")], QUICK, output=output)


def report(finding: Finding) -> dict[str, Any]:
    """The content of landscape.json, which must be JSON by the letter."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    text = (finding.folder / "landscape.json").read_text()
    content: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return content


def bowl(name: str, width: float, centre: float = 0.25, points: int = 21) -> Surface:
    """A loss that doubles at the distance `width`."""
    axis = np.linspace(-1, 1, points)
    losses = centre * (1 + (axis**2 + axis[:, None] ** 2) / width**2)
    return Surface(name, axis, losses, centre, centre, Sharpness(2 * centre / width**2, 5, True))


# ------------------------------------------------------------------ the surface


def test_the_middle_is_the_loss_of_the_network_as_it_is_used(trained: Trained) -> None:
    subject = trained("batch")
    surface = measure_surface(subject, "net", KEPT)
    assert surface.losses[1, 1] == surface.centre == surface.as_trained
    assert surface.centre == images_loss(subject)(subject.segmenter)
    assert (surface.losses != surface.centre).sum() == 8


def test_the_loss_as_trained_is_in_the_arithmetic_of_the_surface(trained: Trained) -> None:
    subject = trained("batch")
    coarse = replace(subject, machine=replace(subject.machine, dtype=torch.bfloat16))
    surface = measure_surface(coarse, "net", KEPT)
    assert surface.as_trained == surface.centre
    assert surface.centre != measure_surface(subject, "net", KEPT).centre


def test_recomputed_statistics_change_a_network_with_batch_norm(trained: Trained) -> None:
    anew, kept = (measure_surface(trained("batch"), "net", config) for config in (QUICK, KEPT))
    assert anew.losses[1, 1] == anew.centre != anew.as_trained
    assert anew.as_trained == kept.as_trained
    assert not np.isclose(anew.losses, kept.losses).any()
    assert anew.sharpness == kept.sharpness  # of the network as it is used


def test_without_batch_norm_there_is_nothing_to_recompute(trained: Trained) -> None:
    anew, kept = (measure_surface(trained("none"), "net", config) for config in (QUICK, KEPT))
    np.testing.assert_array_equal(anew.losses, kept.losses)


def test_the_seed_decides_the_surface(trained: Trained) -> None:
    subject = trained("none")
    first, again, other = (measure_surface(subject, "net", KEPT, seed=s).losses for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first[1, 1] == other[1, 1]
    assert (first != other).sum() == 8


def test_a_line_of_the_grid_is_the_same_in_a_finer_grid(trained: Trained) -> None:
    subject = trained("none")
    coarse = measure_surface(subject, "net", KEPT).losses
    finer = KEPT.model_copy(update={"points": 5})
    np.testing.assert_array_equal(measure_surface(subject, "net", finer).losses[::2, ::2], coarse)


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


def test_a_run_writes_table_report_and_pictures(pair: Finding, trained: Trained) -> None:
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
    assert "anew from these images" in content["statistics"]
    for name in ("batch", "none"):
        assert f"the loss of {name} is" in pair.seen.lower()
    assert trained("batch").machine.dtype == torch.float32
    assert content["networks"][0]["surface_arithmetic"] == "float32"
    assert content["networks"][0]["sharpness"]["steps"] == 2
    for name in ("landscape.png", "landscape_surface.png"):
        with Image.open(pair.folder / name) as picture:
            assert picture.width > picture.height > 500


def test_equal_names_are_told_apart_and_different_images_mentioned(
    trained: Trained, tmp_path: Path
) -> None:
    class Listener(Silent):
        said = ""

        def say(self, message: str) -> None:
            self.said += message

    listener = Listener()
    subject = trained("none")
    fewer = replace(subject, views=subject.views[:1])
    finding = landscape([subject, fewer], KEPT, output=tmp_path, progress=listener)
    names = [network["network"] for network in report(finding)["networks"]]
    assert names == [f"{subject.run} (1)", f"{subject.run} (2)"]
    assert "different images" in listener.said


@pytest.mark.parametrize("count", [0, 3])
def test_more_than_two_networks_are_refused(trained: Trained, tmp_path: Path, count: int) -> None:
    with pytest.raises(ConfigError, match=f"{count} networks: a landscape shows one, or two"):
        landscape([trained("none")] * count, QUICK, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_no_numbers_are_refused(trained: Trained, tmp_path: Path) -> None:
    broken = replace(trained("none"), segmenter=deepcopy(trained("none").segmenter))
    with torch.no_grad():
        broken.segmenter.network.head.weight.fill_(math.nan)
    with pytest.raises(DivergedError, match="the loss of none is nan at its trained weights"):
        landscape([broken], QUICK, output=tmp_path)


def test_a_surface_that_overflows_is_drawn_and_counted(trained: Trained, tmp_path: Path) -> None:
    far = KEPT.model_copy(update={"reach": 1e30, "iterations": 0})
    finding = landscape([trained("none")], far, output=tmp_path)
    facts = report(finding)["networks"][0]
    assert len(finding.rows) == 9
    assert facts["off_scale"] == sum(row["loss"] is None for row in finding.rows) > 0
    assert f"{facts['off_scale']} points off the scale" in finding.seen
    assert facts["highest"] >= facts["centre"] >= facts["lowest"]
    assert facts["sharpness"] is None
    assert "sharpness" not in finding.seen
    assert "keep the statistics" in report(finding)["statistics"]


# ------------------------------------------------------------------ words and pictures


def test_a_bowl_is_described_by_its_numbers() -> None:
    seen, meaning = describe([bowl("cells", 0.5)], reach=1.0)
    assert seen.startswith("The loss of cells is 0.25 at its trained weights, doubles after a move")
    assert "of 50%" in seen
    assert "reaches 2.25 " in seen  # 0.25 · (1 + 2 / 0.25)
    assert "with 1 low point (sharpness 2)" in seen
    assert "by up to 50% of their size less than double" in meaning
    assert "bottom of this valley" in meaning


def test_a_lower_place_nearby_is_told() -> None:
    surface = bowl("cells", 0.4)
    surface.losses[12, 10] = 0.2
    assert "one lowers it by 20%" in describe([surface], reach=1.0)[1]


def test_a_little_lower_place_nearby_is_no_bottom() -> None:
    surface = bowl("cells", 0.4)
    surface.losses[12, 10] = 0.249
    meaning = describe([surface], reach=1.0)[1]
    assert meaning.endswith("none that was tried lowers it by more than 1%.")


def test_two_valleys_are_compared_at_one_loss() -> None:
    wide, narrow = bowl("wide", 0.8, centre=0.2), bowl("narrow", 0.2, centre=0.4)
    assert common_level([wide, narrow]) == 0.8
    for order in ([wide, narrow], [narrow, wide]):
        meaning = describe(order, reach=1.0)[1]
        assert meaning.startswith("wide keeps its loss below 0.8")
        assert "narrow up to 19%" in meaning  # a chord of the parabola between points 10% apart


def test_a_network_that_learned_nothing_is_not_called_the_better_valley() -> None:
    flat, learned = bowl("flat", 0.5, centre=1.0), bowl("learned", 0.4, centre=0.1)
    assert describe([flat, learned], reach=1.0)[1].startswith("learned keeps its loss below 2")


def test_valleys_of_one_width_are_not_ranked() -> None:
    same = describe([bowl("a", 0.5), bowl("b", 0.52)], reach=1.0)[1]
    assert "b keeps its loss below 0.5 up to random changes of 52% of its weights' size" in same
    assert same.endswith("a up to 50%: neither valley is clearly wider.")
    assert "a larger --reach" in describe([bowl("a", 9), bowl("b", 9)], reach=1.0)[1]


@pytest.mark.parametrize(
    ("width", "verdict"), [(1.15, "the wider valley"), (1.35, "neither valley is clearly wider")]
)
def test_a_valley_without_end_is_told_to_have_none(width: float, verdict: str) -> None:
    for order in (1, -1):
        surfaces = [bowl("endless", 9), bowl("ending", width)][::order]
        meaning = describe(surfaces, reach=1.0)[1]
        assert meaning.startswith("endless keeps its loss below 0.5 all over the picture, ending ")
        assert f"up to {width:.0%}" in meaning
        assert verdict in meaning


def test_what_is_flat_because_it_is_high_is_not_called_wide() -> None:
    """The losses of two trained networks: one doubles at 96%, one is nowhere as low as its own."""
    learned, high = bowl("learned", 0.96, centre=0.938), bowl("high", 3.0, centre=1.07)
    for order in ([learned, high], [high, learned]):
        meaning = describe(order, reach=1.0)[1]
        assert meaning.startswith("high does not double its loss in the picture, as learned does")
        assert "even its lowest, 1.07, is above the 0.938 of learned" in meaning
        assert "no sign of a wider valley" in meaning


@pytest.mark.parametrize("widths", [(0.5, 0.8), (0.01, 0.5), (1e-5, 0.5), (1e-30, 1e-20), (9, 9)])
def test_levels_are_round_ascending_and_span_all_surfaces(widths: tuple[float, float]) -> None:
    surfaces = [bowl("a", widths[0]), bowl("b", widths[1])]
    levels = colour_levels(surfaces)
    assert levels[0] <= min(surface.lowest for surface in surfaces)
    assert levels[-1] >= max(surface.highest for surface in surfaces)
    assert (np.diff(levels) > 0).all()
    assert 4 <= len(levels) <= 24
    assert [float(f"{level:g}") for level in levels] == pytest.approx(levels, rel=1e-9)


def test_levels_are_logarithmic_only_where_the_range_is_wide() -> None:
    even = np.diff(colour_levels([bowl("a", 0.5)]))
    assert np.allclose(even, even[0])
    steps = np.diff(np.log10(colour_levels([bowl("a", 0.01)])))
    assert (steps < 0.5).all()


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


def test_points_off_the_scale_are_in_the_legend() -> None:
    surface = bowl("steep", 0.05)
    surface.losses[0], surface.losses[3, 4] = math.inf, math.nan
    texts = [text.get_text() for text in contour_figure([surface]).legends[0].get_texts()]
    assert texts == ["trained weights", "twice their loss", "off the scale: the loss is no number"]
