"""nnU-Net: trees as its documentation of the data set format shows them."""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.importers.exports import SIZE, imported, masks_in, only_mask, splits_in, truth, wrong
from unetseg.data.files.image import read_image
from unetseg.errors import MachineError
from unetseg.importers import importing
from unetseg.importers.importing import import_dataset
from unetseg.importers.nnunet import recognises

LABELS = {"background": 0, "cat": 1, "dog": 2}
BANDS = np.random.default_rng(0).integers(0, 255, (3, *SIZE), np.uint8)


def save(path: Path, pixels: Any) -> None:
    """An image file; or a volume, its axes being x, y, z."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if ".nii" not in path.name:
        Image.fromarray(pixels).save(path)
        return
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), path)


def export(
    folder: Path, channels: int = 1, ending: str = ".png", case: str = "img-1", **more: Any
) -> None:
    """A case with its label; volumes have two slices, of which the second is without objects."""
    label, images = truth(), BANDS[:channels]
    if ".nii" in ending:
        label = np.stack([label.T, 0 * label.T], -1)
        images = np.stack([images.swapaxes(1, 2)] * 2, -1).astype(np.int16)
    save(folder / f"labelsTr/{case}{ending}", label)
    for i, pixels in enumerate(images):
        save(folder / f"imagesTr/{case}_{i:04}{ending}", pixels)
    content = {"channel_names": {}, "labels": LABELS, "numTraining": 1, "file_ending": ending}
    (folder / "dataset.json").write_text(json.dumps(content | more))


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_a_single_channel_is_copied(tmp_path: Path, ending: str) -> None:
    export(tmp_path / "src/Dataset001", ending=ending)
    assert recognises(tmp_path / "src")
    assert imported("nnunet", tmp_path).classes == ("background", "cat", "dog")
    assert (only_mask(tmp_path) == truth()).all()
    copied = tmp_path / f"out/images/img-1{ending}"
    original = tmp_path / f"src/Dataset001/imagesTr/img-1_0000{ending}"
    assert copied.read_bytes() == original.read_bytes()


def test_its_json_may_be_given(tmp_path: Path) -> None:
    export(tmp_path / "src")
    done = import_dataset(None, tmp_path / "src/dataset.json", tmp_path / "out")
    assert done.classes == ("background", "cat", "dog")
    assert (only_mask(tmp_path) == truth()).all()


@pytest.mark.parametrize("channels", [2, 3])
def test_channels_become_the_bands_of_a_tiff(tmp_path: Path, channels: int) -> None:
    export(tmp_path / "src", channels)
    imported("nnunet", tmp_path)
    pixels = read_image(tmp_path / "out/images/img-1.tif")
    assert (pixels == np.moveaxis(BANDS[:channels], 0, -1)).all()


@pytest.mark.parametrize(
    ("labels", "classes", "codes"),
    [
        ({"0": "background", "1": "cat", "2": "dog"}, ("background", "cat", "dog"), [0, 1, 2]),
        ({"background": 0, "cat": 1, "ignore": 2}, ("background", "cat"), [0, 1, 255]),
        (
            {"background": 0, "whole": [1, 2], "core": [2]},
            ("background", "whole", "core"),
            [0, 1, 2],
        ),
    ],
)
def test_the_labels_of_each_version(
    tmp_path: Path, labels: Any, classes: tuple[str, ...], codes: list[int]
) -> None:
    export(tmp_path / "src", labels=labels)
    assert imported("nnunet", tmp_path).classes == classes
    assert (only_mask(tmp_path) == np.array(codes, np.uint8)[truth()]).all()


def test_labels_of_the_test_split(tmp_path: Path) -> None:
    export(tmp_path / "src")
    for part in ("images", "labels"):
        (tmp_path / f"src/{part}Ts").mkdir()
    save(tmp_path / "src/imagesTs/b_0000.png", BANDS[0])
    save(tmp_path / "src/labelsTs/b.png", truth())
    imported("nnunet", tmp_path)
    assert splits_in(tmp_path / "out") == {"train/img-1": "train", "test/b": "test"}


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_volumes_become_slices(tmp_path: Path, ending: str) -> None:
    export(tmp_path / "src", 2, ending)
    if ending == ".nii.gz":  # as the Medical Segmentation Decathlon has them: no channel, no ending
        path = tmp_path / "src/imagesTr/img-1_0000.nii.gz"
        (tmp_path / "src/imagesTr/img-1_0001.nii.gz").unlink()
        path.rename(path.with_name("img-1.nii.gz"))
        (tmp_path / "src/dataset.json").write_text(json.dumps({"labels": LABELS}))
    done = imported("nnunet", tmp_path)
    assert "1 volume cut into slices across the last axis" in done.notes
    masks = masks_in(tmp_path / "out")
    assert list(masks) == ["img-1/img-1_000", "img-1/img-1_001"]
    assert (masks["img-1/img-1_000"] == truth()).all()
    assert not masks["img-1/img-1_001"].any()
    pixels = read_image(tmp_path / "out/images/img-1/img-1_001.tif")
    bands = 1 if ending == ".nii.gz" else 2
    assert pixels.dtype == np.int16
    assert (pixels == np.moveaxis(BANDS[:bands], 0, -1)).all()


def test_a_volume_is_loaded_once_for_all_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nibabel = pytest.importorskip("nibabel")
    load, loads = nibabel.load, Counter[str]()

    def slow(path: Path) -> Any:
        loads[path.name] += 1
        time.sleep(0.05)
        return load(path)

    monkeypatch.setattr(nibabel, "load", slow)
    monkeypatch.setattr(importing, "usable_cores", lambda: 2)
    export(tmp_path / "src", 1, ".nii")
    imported("nnunet", tmp_path)
    assert loads == {"img-1.nii": 2, "img-1_0000.nii": 2}  # their headers, their values


def test_a_volume_that_has_changed_is_loaded_anew(tmp_path: Path) -> None:
    export(tmp_path / "src", 1, ".nii.gz")
    imported("nnunet", tmp_path)
    save(tmp_path / "src/labelsTr/img-1.nii.gz", np.stack([0 * truth().T] * 2, -1))
    import_dataset("nnunet", tmp_path / "src", tmp_path / "again")
    assert not any(mask.any() for mask in masks_in(tmp_path / "again").values())


def test_volumes_that_do_not_fit(tmp_path: Path) -> None:
    export(tmp_path / "src", 1, ".nii")
    save(tmp_path / "src/imagesTr/img-1_0000.nii", np.zeros((9, 8, 2), np.int16))
    assert "several sizes: img-1: 60×40×2; 9×8×2" in wrong("nnunet", tmp_path)
    (tmp_path / "src/imagesTr/img-1_0000.nii").write_bytes(b"no volume")
    assert "img-1_0000.nii cannot be read" in wrong("nnunet", tmp_path)
    export(tmp_path / "src", 1, ".nii")
    path = tmp_path / "src/labelsTr/img-1.nii"
    path.write_bytes(path.read_bytes()[:400])
    assert "img-1.nii cannot be read" in wrong("nnunet", tmp_path)
    save(path, np.full((*SIZE[::-1], 2), 0.5, np.float32))
    assert "img-1.nii has fractions" in wrong("nnunet", tmp_path)


def test_volumes_need_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(tmp_path / "src")
    (tmp_path / "src/imagesTr/img-1_0000.png").rename(tmp_path / "src/imagesTr/img-1_0000.nii")
    (tmp_path / "src/labelsTr/img-1.png").rename(tmp_path / "src/labelsTr/img-1.nii")
    (tmp_path / "src/dataset.json").write_text(json.dumps({"labels": LABELS}))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MachineError, match="needs nibabel"):
        imported("nnunet", tmp_path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"labels": {"background": 0, "cat": 1}}, "img-1.png has numbers not in dataset.json: 2"),
        ({"labels": {"cat": "many"}}, "the labels in dataset.json have no numbers"),
        ({"labels": 3}, "dataset.json is not what this format has"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, more: Any, message: str) -> None:
    export(tmp_path / "src", **more)
    assert message in wrong("nnunet", tmp_path)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    export(tmp_path / "src", 2)
    save(tmp_path / "src/imagesTr/img-1_0001.png", BANDS[0][:9])
    assert "its channels have several sizes" in wrong("nnunet", tmp_path)
    for path in (tmp_path / "src/imagesTr").iterdir():
        path.unlink()
    assert "no such image: img-1, for labelsTr/img-1.png" in wrong("nnunet", tmp_path)
    (tmp_path / "src/dataset.json").unlink()
    assert not recognises(tmp_path / "src")
    assert "there is no dataset.json beside labelsTr" in wrong("nnunet", tmp_path)


def test_cases_of_four_digits_without_a_channel(tmp_path: Path) -> None:
    """As AMOS has them on both sides."""
    for case in ("amos_0001", "amos_0004"):
        export(tmp_path / "src", case=case)
        path = tmp_path / f"src/imagesTr/{case}_0000.png"
        path.rename(path.with_name(f"{case}.png"))
    assert imported("nnunet", tmp_path).pairs == 2
    assert sorted(masks_in(tmp_path / "out")) == ["amos_0001", "amos_0004"]
