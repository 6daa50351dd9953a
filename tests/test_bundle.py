"""A bundle gives back what was saved, and refuses what is damaged, foreign or absurd."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.builders import CELLS, bundle_info, class_map, random_segmenter
from unetseg.bundle import (
    BundleInfo,
    build_segmenter,
    load_bundle,
    save_bundle,
    starting_network,
    take_weights,
)
from unetseg.config import NetworkConfig
from unetseg.errors import BundleError, ConfigError
from unetseg.unet.segmenter import Segmenter, image_statistics

NORMALISATION = {"mean": (90.0, 100.0, 110.0), "std": (30.0, 20.0, 10.0)}


def info(kind: str = "dataset", network: dict[str, Any] | None = None) -> BundleInfo:
    return bundle_info(network, normalisation={"kind": kind} | NORMALISATION)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "model", build_segmenter(info()).state_dict(), info())
    return tmp_path


@pytest.mark.parametrize("kind", ["dataset", "image"])
def test_round_trip(tmp_path: Path, kind: str) -> None:
    segmenter = build_segmenter(info(kind)).eval()
    save_bundle(tmp_path / "model", segmenter.state_dict(), info(kind))
    loaded, read = load_bundle(tmp_path)
    image = torch.randint(0, 256, (1, 3, 37, 21)).float()
    assert torch.equal(segmenter(image), loaded(image))
    assert read.class_map == CELLS
    assert read.versions["torch"]
    assert not (tmp_path / ".model-new").exists()


def test_saving_again_replaces(saved: Path) -> None:
    again = info().model_copy(update={"scores": {"foreground_dice": 0.5}})
    save_bundle(saved / "model", build_segmenter(again).state_dict(), again)
    assert load_bundle(saved)[1].scores == {"foreground_dice": 0.5}
    assert {p.name for p in saved.iterdir()} == {"model"}


def test_raw_pixels_are_normalised_inside() -> None:
    segmenter = build_segmenter(info())
    image = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    by_hand = (image.numpy().astype(np.float64) - [[[90]], [[100]], [[110]]]) / [
        [[30]],
        [[20]],
        [[10]],
    ]
    np.testing.assert_allclose(segmenter.normalise(image).numpy(), by_hand, rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_image_normalisation_ignores_brightness_and_contrast() -> None:
    segmenter = build_segmenter(info("image")).eval()
    image = torch.randint(0, 200, (1, 3, 32, 32)).float()
    torch.testing.assert_close(segmenter(image), segmenter(3 * image + 20), rtol=1e-3, atol=1e-4)


def test_crops_with_the_statistics_of_their_image_agree_with_it() -> None:
    segmenter = build_segmenter(info("image"))
    image = torch.randint(0, 256, (1, 3, 32, 32)).float()
    crop = segmenter.normalise(image[..., 4:20, 8:24], image_statistics(image))
    torch.testing.assert_close(crop, segmenter.normalise(image)[..., 4:20, 8:24])


@pytest.mark.long
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (37, 21), (64, 64)])
@pytest.mark.parametrize(
    "network", [{}, {"depth": 2, "width": 4, "scale": 0.5}, {"preset": "classic"}]
)
def test_logits_have_the_size_of_the_image(
    size: tuple[int, int], network: dict[str, object]
) -> None:
    segmenter: Segmenter = build_segmenter(info(network=network)).eval()
    with torch.no_grad():
        logits = segmenter(torch.zeros(1, 3, *size))
    assert logits.shape == (1, 2, *size)


@pytest.mark.row(11)
def test_a_flipped_bit_in_the_weights_is_found(saved: Path) -> None:
    file = saved / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match="damaged"):
        load_bundle(saved)


def test_a_bundle_that_may_not_be_read_is_answered(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BundleError, match=r"model\.json cannot be read: Permission denied"):
        load_bundle(saved)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    weights = build_segmenter(info()).state_dict()
    weights["network.head.bias"][0] = torch.nan
    save_bundle(tmp_path / "model", weights, info())
    with pytest.raises(BundleError, match="has weights that are no numbers") as caught:
        load_bundle(tmp_path)
    assert caught.value.offenders == ["network.head.bias"]


def test_a_name_that_no_folder_can_have_is_answered(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        load_bundle(tmp_path / ("x" * 300))


def edit(saved: Path, **changes: object) -> None:
    file = saved / "model" / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.row(40)
def test_another_format_is_refused(saved: Path) -> None:
    edit(saved, format=2)
    with pytest.raises(BundleError, match="is of format 2, this version reads 1"):
        load_bundle(saved)


@pytest.mark.row(42)
def test_an_import_path_is_refused(saved: Path) -> None:
    edit(saved, loader="os.system")
    with pytest.raises(BundleError, match="loader: Extra inputs"):
        load_bundle(saved)


@pytest.mark.row(42)
def test_an_unknown_block_is_refused(saved: Path) -> None:
    network = json.loads((saved / "model" / "model.json").read_text())["network"]
    edit(saved, network=network | {"block": "os.system"})
    with pytest.raises(BundleError, match=r"network\.block"):
        load_bundle(saved)


def test_weights_of_another_network_are_refused(saved: Path) -> None:
    network = json.loads((saved / "model" / "model.json").read_text())["network"]
    edit(saved, network=network | {"width": 8})
    with pytest.raises(BundleError, match="does not hold the network"):
        load_bundle(saved)


@pytest.mark.row(40)
def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    foreign = tmp_path / "model.pt"
    foreign.write_bytes(b"\x80\x04")
    with pytest.raises(BundleError, match="is a file, not a run folder"):
        load_bundle(foreign)
    with pytest.raises(BundleError, match=r"nothing.onnx does not exist\n") as caught:
        load_bundle(tmp_path / "nothing.onnx")
    assert "a file that `unetseg export` wrote" in str(caught.value.fix)
    with pytest.raises(BundleError, match="has no trained model"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("name", ["", "nothing"])
def test_runs_that_are_there_are_told(saved: Path, tmp_path: Path, name: str) -> None:
    model = shutil.copytree(saved / "model", tmp_path / "runs/cells/model")
    with pytest.raises(BundleError, match=f"Runs that are there: {model.parent}$"):
        load_bundle(tmp_path / "runs" / name)


def test_full_size_gives_the_size_back_that_prepared_took() -> None:
    segmenter = build_segmenter(info(network={"depth": 2, "width": 4, "scale": 0.5})).eval()
    image = torch.randint(0, 256, (1, 3, 38, 22)).float()
    with torch.no_grad():
        logits = segmenter.network(segmenter.prepared(image))
        assert logits.shape == (1, 2, 19, 11)
        torch.testing.assert_close(segmenter.full_size(logits, 38, 22), segmenter(image))


def test_rows_of_the_heads_are_taken_for_classes_of_equal_names(tmp_path: Path) -> None:
    network = {"deep_supervision": True, "skip": ("learned",)}
    old = info(network=network)
    trained = random_segmenter(old)
    save_bundle(tmp_path / "model", trained.state_dict(), old)
    new = old.model_copy(update={"class_map": class_map(0, 1, 2), "bands": 3})
    fresh = random_segmenter(new, seed=1)
    drawn = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    assert take_weights(fresh, ["wall", "cell", "background"], tmp_path) == ("cell", "background")
    theirs = trained.state_dict()
    for name, tensor in fresh.state_dict().items():
        if "head" in name:
            assert torch.equal(tensor[0], drawn[name][0])
            assert torch.equal(tensor[1:], theirs[name][[1, 0]])
        else:
            assert torch.equal(tensor, theirs[name]) or name in {"mean", "std"}


def test_a_start_of_other_settings_or_bands_is_refused_with_all_of_them(tmp_path: Path) -> None:
    old = info(network={"norm": "group", "scale": 0.5})
    save_bundle(tmp_path / "model", build_segmenter(old).state_dict(), old)
    for fits in (NetworkConfig(), NetworkConfig(norm="group", depth=2)):
        assert starting_network(tmp_path, fits, 3) == old.network
    with pytest.raises(ConfigError, match="is no start") as error:
        starting_network(tmp_path, NetworkConfig(norm="none", depth=3), 4)
    assert error.value.offenders == [
        "--depth: 2 there, 3 here",
        "--norm: group there, none here",
        "bands of the images: 3 there, 4 here",
    ]
