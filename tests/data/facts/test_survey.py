"""Every real folder is understood without a flag."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.builders import noise
from unetseg.checks.check import check_folder
from unetseg.config import DataConfig
from unetseg.data.crops.reader import PairReader
from unetseg.data.facts.survey import survey, with_share, with_splits
from unetseg.data.files import image as image_file
from unetseg.data.files.image import read_image
from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.sample import draw_sample
from unetseg.errors import DataError

FOLDERS = {  # name: (pairs, bands, type, classes, ignored codes, train, val, test)
    "camvid": (112, 3, "uint8", 11, (11,), 82, 30, 0),
    "crackforest": (118, 3, "uint8", 2, (), 94, 24, 0),
    "cwfid": (12, 3, "uint8", 3, (), 6, 1, 5),
    "drive": (20, 3, "uint8", 2, (), 16, 4, 0),
    "dsb2018": (217, 3, "uint8", 2, (), 174, 43, 0),
    "glas256": (165, 1, "uint8", 2, (), 68, 17, 80),
    "hot_buildings_geotiff": (61, 3, "uint8", 2, (), 48, 13, 0),
    "isbi2012_em": (30, 1, "uint8", 2, (), 24, 6, 0),
    "nucseg_16bit": (29, 1, "uint16", 2, (), 23, 6, 0),
    "sen1floods11_sample": (1, 13, "int16", 2, (-1,), 1, 0, 0),
    "sen1floods11_tiles13band": (16, 13, "int16", 2, (-1,), 12, 4, 0),
    "tiny_ade20k": (3, 3, "uint8", 16, (), 2, 1, 0),
    "tiny_kvasir_jpgmask": (5, 3, "uint8", 2, (), 4, 1, 0),
    "tiny_voc_palette": (3, 3, "uint8", 7, (255,), 2, 1, 0),
}


@pytest.mark.long
@pytest.mark.parametrize("name", FOLDERS)
def test_a_real_folder_needs_no_flag(real_data: Path, name: str) -> None:
    known = survey(real_data / name)
    splits = [pair.split for pair in known.pairs.pairs]
    assert (
        len(splits),
        known.bands,
        known.dtype,
        len(known.class_map.classes),
        known.class_map.ignore,
        *(splits.count(split) for split in ("train", "val", "test")),
    ) == FOLDERS[name]


def test_class_pixels_are_those_of_the_masks(real_data: Path) -> None:
    known = survey(real_data / "camvid")
    counted = sum(sum(known.class_pixels(split)) for split in ("train", "val"))
    total = sum(fact.image.shape[0] * fact.image.shape[1] for fact in known.facts.values())
    assert 0.9 * total < counted < total  # void is left out


def test_the_share_held_out_can_be_set(real_data: Path) -> None:
    known = survey(real_data / "drive", DataConfig(val_fraction=0.25))
    assert len(known.select("val")) == 5


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
def test_a_share_of_a_folder_is_that_of_its_survey(tmp_path: Path, share: float) -> None:
    data = draw_sample(tmp_path / "cells", count=12, size=48)
    expected = survey(data, DataConfig(share=share))
    found = with_share(survey(data), share)
    assert found.pairs == expected.pairs


def test_recorded_splits_are_taken_back(real_data: Path) -> None:
    known = survey(real_data / "drive")
    turned = {pair.name: "test" for pair in known.pairs.pairs}
    assert len(with_splits(known, turned).select("test")) == 20


def test_larger_images_than_allowed_are_refused(tmp_path: Path) -> None:
    for side, values in (("images", 256), ("masks", 2)):
        pixels = np.random.default_rng(0).integers(0, values, (20, 20, 1), np.uint8)
        write_png(tmp_path / side / "a.png", pixels)
    with pytest.raises(DataError, match=r"400; the limit is 399|--max-pixels 400"):
        survey(tmp_path, DataConfig(max_pixels=399))
    assert len(survey(tmp_path, DataConfig(max_pixels=400)).pairs.pairs) == 1


@pytest.mark.row(25)
def test_few_bad_files_are_left_out_when_asked_and_many_never(tmp_path: Path) -> None:
    folder = draw_sample(tmp_path / "photos", count=20, size=32)
    bad = [folder / "images" / f"cells_{number:03d}.png" for number in (3, 7, 11)]
    skip = DataConfig(on_bad="skip")
    for path in bad[:2]:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="2 of 20 pairs cannot be read") as error:
        survey(folder)
    assert [path.name in line for path, line in zip(bad, error.value.offenders, strict=False)]
    assert error.value.fix.endswith("Or leave them out: --on-bad skip")
    known = survey(folder, skip)
    assert len(known.pairs.pairs) == len(known.facts) == 18
    bad[2].write_bytes(b"")
    limit = "3 of 20 pairs cannot be read; --on-bad skip leaves out at most 10%\n"
    with pytest.raises(DataError, match=limit):
        survey(folder, skip)
    with pytest.raises(DataError) as error:
        survey(folder)
    assert "--on-bad" not in str(error.value)


def test_a_list_of_another_program_that_does_not_fit_is_told(tmp_path: Path) -> None:
    draw_sample(tmp_path, count=4)
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nsea,1,2,3\nland,4,5,6\nice,7,8,9\n")
    folder = survey(tmp_path)
    assert folder.names is None
    assert any("class_dict.csv is not used" in rule for rule in folder.rules)


def negatives(root: Path, colour: bool) -> DataConfig:
    """Six pairs in two splits, and in each an image that shows nothing and has no mask."""
    for number in range(8):
        split = "train" if number < 5 else "val"
        path = root / split / "images" / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, noise(40, 30, 3, seed=number), photometric="rgb")
        mask = np.zeros((40, 30, 3) if colour else (40, 30), np.uint8)
        mask[5:25, 5:25] = (200, 0, 0) if colour else 255
        if number not in {0, 7}:
            write_png(root / split / "masks" / f"{number}.png", mask)
    return DataConfig(unpaired="empty")


@pytest.mark.parametrize("colour", [False, True])
def test_images_that_show_nothing_are_background_in_the_split_of_their_folder(
    tmp_path: Path, colour: bool
) -> None:
    report = check_folder(tmp_path, negatives(tmp_path, colour))
    known = report.survey
    assert {pair.name: pair.split for pair in known.pairs.pairs if pair.mask is None} == {
        "train/0": "train",
        "val/7": "val",
    }
    assert {fact.mask.format for pair, fact in known.items() if pair.mask is None} == {""}
    assert known.class_pixels("train") == [5 * 1200 - 4 * 400, 4 * 400]
    assert not report.of("error")
    assert "ignored-masks" not in {one.check for one in report.findings}


def test_a_large_image_without_mask_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = negatives(tmp_path, colour=False)
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0)
    with pytest.raises(DataError, match=r"0\.tif is read by windows, which needs a mask file"):
        survey(tmp_path, config)


def test_images_with_white_as_zero_are_read_as_shown_which_is_said_once(tmp_path: Path) -> None:
    for kind in ("minisblack", "miniswhite"):
        draw_sample(tmp_path / kind, count=4, size=64)
        for number, path in enumerate(sorted((tmp_path / kind / "images").iterdir())):
            grey = read_image(path)[..., 0]
            path.unlink()
            is_white = kind == "miniswhite" and number > 0
            write_tiff(
                path.with_suffix(".tif"), 255 - grey if is_white else grey, white_is_zero=is_white
            )
    plain, white = (survey(tmp_path / kind) for kind in ("minisblack", "miniswhite"))
    told = "images: 3 of 4 store white as 0: read as viewers show them"
    assert white.rules.count(told) == 1
    assert not any("white" in rule for rule in plain.rules)
    np.testing.assert_array_equal(white.statistics("all"), plain.statistics("all"))


def test_masks_of_half_the_size_are_read_at_that_of_the_image(tmp_path: Path) -> None:
    draw_sample(tmp_path, count=4, size=64)
    half = {}
    for path in (tmp_path / "masks").iterdir():
        half[path.name] = read_mask(path).pixels[::2, ::2] > 0
        write_png(path, half[path.name] * np.uint8(255))
    folder = survey(tmp_path)
    reader = PairReader(folder.pairs.pairs, folder.class_map, folder.bands)
    for (image, index), pair in zip(map(reader.decode, range(4)), reader.pairs, strict=True):
        assert image.shape[:2] == index.shape == (64, 64)
        assert np.array_equal(index, half[pair.image.name].repeat(2, 0).repeat(2, 1))


def test_the_codes_of_a_mask_are_looked_up_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noisy and numbered masks hold hundreds each: one by one that took minutes."""
    for number in (20, 25, 30):
        rows = np.minimum(np.arange(64) // 2, number).astype(np.uint8)
        write_png(tmp_path / "masks" / f"{number}.png", np.repeat(rows[:, None], 64, 1))
        write_png(tmp_path / "images" / f"{number}.png", noise(64, 64, 3, seed=number))
    known = survey(tmp_path)
    calls, encode = [], ClassMap.encode

    def counted(self: ClassMap, *given: Any) -> Any:
        calls.append(given)
        return encode(self, *given)

    monkeypatch.setattr(ClassMap, "encode", counted)
    assert sum(known.class_pixels("all")) == 3 * 64 * 64
    assert len(calls) == 3
