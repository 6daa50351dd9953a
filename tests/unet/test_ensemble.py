"""Laws of an ensemble: the mean of its members, in every engine, and whole from a bundle."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.builders import CPU, bundle_info, noise, random_segmenter, save_run
from unetseg.bundle import (
    BundleInfo,
    Calibration,
    Rule,
    join_bundles,
    keep_in_bundle,
    load_bundle,
    load_single,
)
from unetseg.errors import BundleError, ConfigError
from unetseg.prediction.engine import Engine
from unetseg.prediction.predictor import threshold_of
from unetseg.storage import parse_json, write_json
from unetseg.training.fit import train


def member(folder: Path, seed: int, kind: str = "dataset") -> Path:
    """A run whose normalisation depends on its seed."""
    numbers = {"mean": (100.0 + seed, 110.0, 90.0 - seed), "std": (50.0 + seed, 60.0, 40.0)}
    info = bundle_info(normalisation={"kind": kind, **numbers})
    return save_run(folder / f"fold_{seed}", info, random_segmenter(info, seed))


@pytest.fixture
def image() -> torch.Tensor:
    return torch.from_numpy(noise(40, 52, 3, seed=1)).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("kind", ["dataset", "image"])
def test_the_logits_are_the_mean_of_those_of_the_members(
    tmp_path: Path, image: torch.Tensor, kind: str
) -> None:
    runs = [member(tmp_path, seed, kind) for seed in range(3)]
    join_bundles(runs, tmp_path / "model")
    joined, info = load_bundle(tmp_path)
    assert len(info.members) == 3
    with torch.no_grad():
        expected = torch.stack([load_bundle(run)[0](image) for run in runs]).mean(0)
        torch.testing.assert_close(joined(image), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["eager", "fused"])
def test_engines_run_it(tmp_path: Path, name: str) -> None:
    runs = [member(tmp_path, seed) for seed in range(2)]
    join_bundles(runs, tmp_path / "model")
    joined, info = load_bundle(tmp_path)
    engine = Engine(joined, CPU, tile=64, overlap=0.5, engine=name)
    pixels = noise(40, 52, 3, seed=1)
    expected = sum(
        Engine(load_bundle(run)[0], CPU, tile=64, overlap=0.5).logits(pixels).numpy()
        for run in runs
    )
    np.testing.assert_allclose(engine.logits(pixels).numpy(), expected / 2, atol=2e-3)
    assert engine.choice.name == name
    assert info.values is None


def test_what_is_of_another_shape_is_refused(tmp_path: Path) -> None:
    other = bundle_info({"depth": 2, "width": 6})
    save_run(tmp_path / "other", other)
    with pytest.raises(BundleError, match="U-Nets of several network are no ensemble"):
        join_bundles([member(tmp_path, 0), tmp_path / "other"], tmp_path / "model")


def test_what_was_measured_of_one_member_is_not_told_of_all(tmp_path: Path) -> None:
    runs = [member(tmp_path, seed) for seed in range(2)]
    found = {"temperature": 5.0, "ece_before": 0.2, "ece": 0.1, "windows": 3}
    info = load_bundle(runs[0])[1]
    keep_in_bundle(
        runs[0],
        info.weights_sha256,
        calibration=Calibration.model_validate(found),
        postprocess=(Rule(class_index=1, largest_only=True),),
    )
    join_bundles(runs, tmp_path / "model")
    _, joined = load_bundle(tmp_path)
    assert joined.calibration is None
    with pytest.raises(ConfigError, match="nobody measures an ensemble"):
        threshold_of(joined, "auto")
    assert not joined.postprocess


def test_members_that_the_weights_lack_are_refused(tmp_path: Path) -> None:
    join_bundles([member(tmp_path, seed) for seed in range(3)], tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    content = parse_json(file.read_bytes())
    write_json(file, content | {"members": content["members"][:2]})
    with pytest.raises(BundleError, match="2 members there, the weights of 3"):
        load_bundle(tmp_path)


def test_kinds_of_normalisation_are_not_mixed(tmp_path: Path) -> None:
    runs = [member(tmp_path, 0), member(tmp_path, 1, "image")]
    with pytest.raises(BundleError, match="normalise by image and by data set are no ensemble"):
        join_bundles(runs, tmp_path / "model")


def test_an_ensemble_is_no_single_network(tmp_path: Path, data: Path) -> None:
    join_bundles([member(tmp_path, seed) for seed in range(2)], tmp_path / "model")
    with pytest.raises(BundleError, match="is an ensemble of 2 U-Nets, not a single one"):
        load_single(tmp_path)
    with pytest.raises(BundleError, match="is an ensemble") as caught:
        load_single(tmp_path / "model")
    assert str(tmp_path / "fold_0") in caught.value.fix
    with pytest.raises(BundleError, match="fold_0"):
        train(data, from_=tmp_path, epochs=1, out=tmp_path / "runs", device="cpu")


def test_two_kinds_of_normalisation_are_refused() -> None:
    image = {"kind": "image", "mean": (1.0,) * 3, "std": (1.0,) * 3}
    with pytest.raises(ValueError, match="of two kinds"):
        BundleInfo.model_validate(bundle_info().model_dump() | {"members": [image]})
