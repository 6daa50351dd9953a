"""Temperature and threshold: found where a grid finds them, kept, and used without other masks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.builders import bundle_info, class_map, noise, random_segmenter, save_run
from unetseg.bundle import Calibration, Rule, keep_in_bundle, load_bundle
from unetseg.config import DeviceConfig, EvalConfig, PredictConfig, ScoringConfig, TilingConfig
from unetseg.data.files.image import read_image
from unetseg.data.sample import draw_sample
from unetseg.errors import ConfigError
from unetseg.evaluation.calibration import (
    best_threshold,
    calibrate,
    check_calibration,
    fit_temperature,
)
from unetseg.evaluation.evaluate import evaluate
from unetseg.evaluation.precision import Labelled
from unetseg.evaluation.probabilities import Probabilities
from unetseg.prediction.engine import Engine, most_probable
from unetseg.prediction.predict import predict_folder
from unetseg.prediction.predictor import Predictor
from unetseg.runtime import Machine, start
from unetseg.unet.segmenter import Normalisation, Segmenter

CPU = DeviceConfig(device="cpu", precision="float32")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save_run(tmp_path / "run")


def found_in(run: Path, machine: Machine) -> Calibration:
    image, truth = noise(64, 64, 3), noise(64, 64) % 2
    found = check_calibration(run, machine, [Labelled(image, truth), Labelled(image[::-1], truth)])
    assert found is not None
    return found


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_is_the_one_that_was_applied(classes: int, sharpness: float) -> None:
    """Classes drawn from softmax(z): for logits sharpness · z the best T is the sharpness."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(classes, 40_000)) * 2
    p = np.exp(z) / np.exp(z).sum(0)
    truth = (rng.random(p.shape[1]) > p.cumsum(0)).sum(0).astype(np.uint8)
    found = fit_temperature((sharpness * z).astype(np.float32), truth)
    assert found == pytest.approx(sharpness, rel=0.05)
    grid = np.geomspace(0.2, 6, 60)
    logits, target = torch.from_numpy(sharpness * z).T, torch.from_numpy(truth).long()
    losses = [float(torch.nn.functional.cross_entropy(logits / t, target)) for t in grid]
    at_found = float(torch.nn.functional.cross_entropy(logits / found, target))
    assert at_found <= min(losses) + 1e-6


def test_sure_and_right_or_sure_and_wrong_end_at_the_limits() -> None:
    logits = np.array([[5, -5], [-5, 5]], np.float32)
    assert fit_temperature(logits, np.array([0, 1], np.uint8)) < 0.3
    assert fit_temperature(logits, np.array([1, 0], np.uint8)) > 19


def test_the_best_threshold_is_the_best_of_all() -> None:
    rng = np.random.default_rng(1)
    truth = (rng.random(5000) < 0.1).astype(np.uint8)
    p = np.clip(rng.normal(0.2 + 0.25 * truth, 0.12), 0.001, 0.999)
    likely = Probabilities(2)
    likely.add(truth, np.stack([1 - p, p], axis=1).astype(np.float32))
    threshold, usual, best = best_threshold(likely.histograms[1])

    def dice(t: float) -> float:
        return float(2 * (truth * (p >= t)).sum() / (truth.sum() + (p >= t).sum()))

    assert threshold is not None
    assert usual == pytest.approx(dice(0.5), abs=0.01)
    assert best == pytest.approx(dice(threshold), abs=0.01)
    assert best >= max(map(dice, np.linspace(0.01, 0.99, 197))) - 0.005
    assert best_threshold(np.zeros((2, likely.histograms.shape[-1]), np.int64))[0] is None


def test_a_calibration_is_kept_once_and_changes_nothing_else(run: Path) -> None:
    machine, before = start(CPU), load_bundle(run)[1]
    found = found_in(run, machine)
    after = load_bundle(run)[1]
    assert after.calibration == found
    assert after.model_copy(update={"calibration": None}) == before
    assert check_calibration(run, machine, []) == found  # not measured anew
    assert found.ece <= found.ece_before + 0.02
    assert found.dice_at_threshold >= found.dice


def test_a_bundle_from_before_calibrations_loads_and_knows_no_threshold(run: Path) -> None:
    file = run / "model" / "model.json"
    content = json.loads(file.read_text())
    assert content.pop("calibration") is None
    file.write_text(json.dumps(content))
    assert load_bundle(run)[1].calibration is None
    with pytest.raises(ConfigError, match="knows no best threshold") as caught:
        Predictor(run, TilingConfig(threshold="auto"), CPU)
    assert "--threshold 0.4" in str(caught.value.fix)


def calibrated(run: Path, temperature: float, threshold: float) -> Path:
    found = Calibration(
        temperature=temperature, ece_before=0.2, ece=0.1, threshold=threshold, windows=1
    )
    keep_in_bundle(run, load_bundle(run)[1].weights_sha256, calibration=found)
    return run


def test_probabilities_are_calibrated_and_masks_stay(run: Path, tmp_path: Path) -> None:
    image = noise(48, 48, 3)
    plain = Predictor(run, device=CPU)
    mask, p = plain.predict(image), plain.probabilities(image)
    warm = Predictor(calibrated(run, 2.5, 0.3), device=CPU)
    np.testing.assert_array_equal(warm.predict(image), mask)
    expected = torch.from_numpy(p).log().div(2.5).softmax(-1).numpy()
    np.testing.assert_allclose(warm.probabilities(image), expected, atol=1e-6)
    data = draw_sample(tmp_path / "cells", count=1, size=48)
    exact: dict[str, Any] = {"device": "cpu", "precision": "float32"}
    predict_folder(run, data / "images", tmp_path / "out", probabilities=True, **exact)
    (written,) = (tmp_path / "out").rglob("*_probabilities.tif")
    (source,) = (data / "images").iterdir()
    np.testing.assert_allclose(read_image(written), warm.probabilities(source), atol=1e-6)


@pytest.mark.parametrize("background", [0, 1])
@pytest.mark.parametrize("tile", [64, 256])
def test_a_threshold_is_one_of_the_probabilities(
    tmp_path: Path, background: int, tile: int
) -> None:
    info = bundle_info(classes=class_map(0, 255, background=background))
    run = calibrated(save_run(tmp_path / "run", info), 1.8, 0.35)
    image, own = noise(96, 96, 3), 1 - background
    p = Predictor(run, TilingConfig(tile=tile), CPU).probabilities(image)[..., own]
    for threshold, value in (("auto", 0.35), (0.35, 0.35), (0.6, 0.6), (0.5, 0.5)):
        config = TilingConfig(tile=tile, threshold=threshold)
        mask = Predictor(run, config, CPU).engine.classes(image)
        wrong = (mask == own) != (p >= value)
        assert not wrong[np.abs(p - value) > 1e-5].any()
    half = Predictor(run, TilingConfig(tile=tile, threshold=0.5), CPU).engine.classes(image)
    np.testing.assert_array_equal(
        half, Predictor(run, TilingConfig(tile=tile), CPU).engine.classes(image)
    )


def test_a_threshold_wants_two_classes(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", bundle_info(classes=class_map(0, 1, 2)))
    with pytest.raises(ConfigError, match="for two classes, this model has 3"):
        Predictor(run, TilingConfig(threshold=0.4), CPU)


def test_masks_of_another_threshold_are_not_gone_on_with(run: Path, tmp_path: Path) -> None:
    images = draw_sample(tmp_path / "cells", count=2, size=48) / "images"
    predict_folder(run, images, tmp_path / "out", device="cpu")
    with pytest.raises(ConfigError) as caught:
        predict_folder(
            run, images, tmp_path / "out", PredictConfig(existing="skip"), CPU, threshold=0.3
        )
    assert "threshold" in str(caught.value)


def test_scores_know_the_threshold_and_the_calibration(run: Path, tmp_path: Path) -> None:
    data = draw_sample(tmp_path / "cells", count=3, size=48)
    calibrated(run, 2.0, 0.3)
    config = EvalConfig(
        scoring=ScoringConfig(save_masks=False, overlays=False, shapes=False),
        device=CPU,
        tiling=TilingConfig(threshold="auto"),
    )
    result = evaluate(run, data, config, output=tmp_path / "out")
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert content["threshold"] == {"used": 0.3, "best": 0.3, "dice_gain": None}
    assert content["calibration"]["temperature"] == 2
    assert content["calibration"]["ece"] != content["calibration"]["ece_before"]
    at_30 = next(row for row in content["threshold_sweep"] if row["threshold"] == 0.3)
    assert at_30["dice"] == pytest.approx(result.scores.foreground_dice, abs=0.01)
    plain = evaluate(run, data, config, output=tmp_path / "2", calibration=False, threshold=None)
    assert "calibration" not in plain.to_json()
    assert plain.to_json()["threshold"]["used"] == 0.5


def test_a_margin_moves_the_boundary_between_two_classes() -> None:
    logits = torch.tensor([[[[0.0, 0.0, 1.0]], [[0.0, 0.4, 1.2]]]])
    assert most_probable(logits, 0.3).tolist() == [[[0, 1, 0]]]
    assert most_probable(logits, -0.1).tolist() == [[[1, 1, 1]]]


def test_probabilities_are_counted_before_rules_change_the_masks(run: Path, tmp_path: Path) -> None:
    data = draw_sample(tmp_path / "cells", count=2, size=48)
    plain = evaluate(run, data, EvalConfig(device=CPU), output=tmp_path / "plain").to_json()
    rule = Rule(class_index=1, smallest=20)
    keep_in_bundle(run, load_bundle(run)[1].weights_sha256, postprocess=(rule,))
    ruled = evaluate(run, data, EvalConfig(device=CPU), output=tmp_path / "ruled").to_json()
    assert ruled["auc"] == plain["auc"]
    assert ruled["calibration"] == plain["calibration"]


def test_a_network_without_numbers_is_not_calibrated(run: Path) -> None:
    segmenter, info = load_bundle(run)
    torch.nn.init.constant_(segmenter.network.head.weight, torch.nan)
    engine = Engine(segmenter, start(CPU), tile=64, overlap=0.5, engine="eager")
    windows = [Labelled(noise(32, 32, 3), np.ones((32, 32), np.uint8))]
    assert calibrate(engine, windows, info.class_map.foreground) is None


def test_a_window_is_calibrated_with_the_normalisation_of_its_image() -> None:
    info = bundle_info(kind="image")
    built = random_segmenter(info)
    fixed = Normalisation(kind="dataset", mean=(90.0,) * 3, std=(20.0,) * 3)
    image, truth = noise(32, 32, 3), noise(32, 32) % 2
    whole = torch.tensor([[[90.0] * 3, [20.0] * 3]])
    foreground = info.class_map.foreground
    own, known = (
        Engine(each, start(CPU), tile=64, overlap=0.5, engine="eager")
        for each in (built, Segmenter(built.network, fixed))
    )
    found = calibrate(own, [Labelled(image, truth, whole)], foreground)
    assert found == calibrate(known, [Labelled(image, truth)], foreground)
    assert found != calibrate(own, [Labelled(image, truth)], foreground)
