"""nnU-Net as a peer: it reads what we read, and says how it is to be had."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.nnunet import convert
from benchmarks.peers import train_peer
from tests.builders import noise
from tests.importers.exports import masks_in
from unetseg.data.files.image import read_image
from unetseg.data.sample import draw_sample
from unetseg.importers.importing import import_dataset

IMAGES = "pairs/train/images"


def draw(folder: Path, *, ignored: bool) -> None:
    """Two training images and one for validation, with three classes."""
    for split, count in (("train", 2), ("val", 1)):
        for side in ("images", "masks"):
            (folder / split / side).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(noise(20, 30, 3)).save(folder / split / f"images/{number}.png")
            mask = noise(20, 30, seed=number) % 3
            mask[:4, :4] = 255 if ignored else 0
            Image.fromarray(mask).save(folder / split / f"masks/{number}.png")


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_our_importer_reads_the_data_set_of_nnunet_back(
    tmp_path: Path, *, ignored: bool, background: bool
) -> None:
    draw(tmp_path / "pairs", ignored=ignored)
    convert(tmp_path / "pairs", tmp_path / "raw", 3, background=background)
    import_dataset("nnunet", tmp_path / "raw", tmp_path / "out")
    shift = 0 if background else 1  # its 0 is a background that no pixel has
    for name, mask in masks_in(tmp_path / "out").items():
        expected = read_image(tmp_path / f"pairs/train/masks/{name}.png")[..., 0]
        assert (mask == np.where(expected == 255, 255, expected + shift)).all()
        images = [tmp_path / folder / f"{name}.png" for folder in ("out/images", IMAGES)]
        assert images[0].read_bytes() == images[1].read_bytes()
    labels = json.loads((tmp_path / "raw/dataset.json").read_text())["labels"]
    assert list(labels.values()) == [*range(3 + shift + ignored)]
    assert ("ignore" in labels) == ignored
    assert [path.name for path in (tmp_path / "raw/imagesTs").iterdir()] == ["0_0000.png"]


def test_without_nnunet_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NNUNET_PYTHON", raising=False)
    with pytest.raises(SystemExit, match=r"uv pip install .* nnunetv2 && export NNUNET_PYTHON="):
        train_peer("nnunet", tmp_path, tmp_path / "out", 1.0, 0)


@pytest.mark.slow
@pytest.mark.skipif("NNUNET_PYTHON" not in os.environ, reason="no Python with nnU-Net is named")
def test_nnunet_is_trained_and_scored(tmp_path: Path) -> None:
    data = draw_sample(tmp_path / "cells", count=10, size=64)
    told = train_peer("nnunet", data, tmp_path / "out", 30.0, 0)
    assert told["steps"] >= 1
    assert told["pixels"] % told["steps"] == 0
    assert 0 <= told["iou"] < told["dice"] <= 1
    assert told["curve"] == [[told["seconds"], told["dice"]]]
