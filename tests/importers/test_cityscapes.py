"""Small Cityscapes trees, laid out and numbered as cityscapesScripts has it (README, labels.py)."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.importers.exports import draw, masks_in, photo, problems_of, splits_in
from unetseg.data.files.pngs import write_png
from unetseg.data.masks.mask_file import read_mask
from unetseg.errors import MaskError
from unetseg.importers.cityscapes import BY_LABEL_ID, LABEL_IDS
from unetseg.importers.importing import import_dataset, read_annotations

# id: trainId of cityscapesscripts/helpers/labels.py, licence plate last
PUBLISHED = dict.fromkeys([*range(34), -1], 255) | {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6}
PUBLISHED |= {20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16}
PUBLISHED |= {32: 17, 33: 18}
SIZE = HEIGHT, WIDTH = 4, 6
read = partial(read_annotations, "cityscapes")
Ids = NDArray[np.uint8]


def ids(*numbers: int) -> Ids:
    """A label image that shows these numbers and 0."""
    image = np.zeros(SIZE, np.uint8)
    image.flat[: len(numbers)] = numbers
    return image


def street(root: Path, split: str, name: str) -> Path:
    folder = root / f"leftImg8bit/{split}/{name.partition('_')[0]}"
    return photo(folder / f"{name}_leftImg8bit.png", SIZE)


def label(root: Path, split: str, name: str, values: Ids, what: str = "gtFine_labelIds") -> Path:
    kind = what.partition("_")[0]
    path = root / f"{kind}/{split}/{name.split('_')[0]}/{name}_{what}.png"
    write_png(path, values)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two cities, fine labels for train and val, and the test split as it is published."""
    for split, name, values in (
        ("train", "aachen_000000_000019", ids(7, 26, 33, 1)),
        ("train", "bochum_000000_000313", ids(8)),
        ("val", "frankfurt_000000_000294", ids(23, 24, 29)),
        ("test", "berlin_000000_000019", ids(1, 2, 3)),
    ):
        street(tmp_path, split, name)
        label(tmp_path, split, name, values)
        for other in ("gtFine_color", "gtFine_instanceIds"):
            label(tmp_path, split, name, values, other)
    return tmp_path


def test_the_numbers_are_the_published_ones() -> None:
    assert PUBLISHED.items() <= BY_LABEL_ID.items()
    assert len(LABEL_IDS) == 19
    assert [PUBLISHED[number] for number in LABEL_IDS.values()] == list(range(19))


def test_splits_cities_and_masks(root: Path) -> None:
    found = read(root)
    assert found.problems == ()
    assert found.classes[0] == "road"
    assert found.classes[18] == "bicycle"
    assert [(image.split, image.name) for image in found.images] == [
        ("train", "aachen/aachen_000000_000019"),
        ("train", "bochum/bochum_000000_000313"),
        ("val", "frankfurt/frankfurt_000000_000294"),
    ]
    void = [255] * WIDTH
    assert draw(found.images[0], SIZE).tolist() == [[0, 13, 18, 255, 255, 255], void, void, void]
    assert draw(found.images[2], SIZE)[0].tolist() == [10, 11, 255, 255, 255, 255]


def test_a_test_split_without_truth_is_left_out_and_said_one_with_truth_stays(root: Path) -> None:
    assert "1 image of the test split left out: it has no published labels" in read(root).notes
    label(root, "test", "berlin_000000_000019", ids(7))
    found = read(root)
    assert [image.split for image in found.images] == ["test", "train", "train", "val"]
    assert found.notes == ()


def test_downloads_unpacked_side_by_side(root: Path) -> None:
    for name in ("leftImg8bit", "gtFine"):
        (root / f"{name}_trainvaltest").mkdir()
        (root / name).rename(root / f"{name}_trainvaltest" / name)
    found = read(root)
    assert (len(found.images), found.problems) == (3, ())
    assert {image.split for image in found.images} == {"train", "val"}


def test_fine_labels_come_before_coarse_ones_and_label_ids_before_train_ids(root: Path) -> None:
    label(root, "train", "bochum_000000_000313", ids(9), "gtCoarse_labelIds")
    label(root, "train", "bochum_000000_000313", ids(5), "gtFine_labelTrainIds")
    street(root, "train_extra", "erlangen_000000_000000")
    label(root, "train_extra", "erlangen_000000_000000", ids(21), "gtCoarse_labelIds")
    found = read(root)
    masks = {image.name: draw(image, SIZE)[0][0] for image in found.images}
    assert masks["bochum/bochum_000000_000313"] == 1
    assert masks["erlangen/erlangen_000000_000000"] == 8
    assert {image.split for image in found.images} == {"train", "val"}
    assert "1 mask of gtCoarse: large parts of them are ignored" in found.notes


def test_train_ids_of_other_people_are_taken_as_they_are(tmp_path: Path) -> None:
    write_png(tmp_path / "images/val/0001.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    write_png(tmp_path / "labels/val/0001_labelTrainIds.png", ids(18, 255, 3))
    (image,) = read(tmp_path).images
    assert (image.split, image.name) == ("val", "0001")
    assert draw(image, SIZE)[0].tolist() == [18, 255, 3, 0, 0, 0]


def test_all_foreign_numbers_are_named(root: Path) -> None:
    label(root, "train", "bochum_000000_000313", ids(34, 90, 7))
    with pytest.raises(MaskError, match=r"label ids of Cityscapes \(0–33, 255\): 34; 90"):
        draw(read(root).images[1], SIZE)
    label(root, "val", "frankfurt_000000_000294", ids(19), "gtFine_labelTrainIds")
    (root / "gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png").unlink()
    with pytest.raises(MaskError, match=r"train ids of Cityscapes \(0–18, 255\): 19"):
        draw(read(root).images[2], SIZE)


def test_what_is_alone_is_a_problem_and_a_whole_folder_a_note(root: Path) -> None:
    street(root, "train", "ulm_000000_000019")
    street(root, "train_extra", "nuremberg_000000_000000")
    label(root, "val", "lindau_000000_000019", ids(7))
    street(root, "demoVideo", "stuttgart_00_000000_000001")
    found = read(root)
    assert problems_of(found) == [
        "no such image: lindau/lindau_000000_000019",
        "no label file: ulm/ulm_000000_000019",
    ]
    for section in ("train_extra", "demoVideo"):
        assert f"1 image of {section} left out: there are no label files" in found.notes


def test_a_label_file_of_another_size_is_refused(root: Path) -> None:
    with pytest.raises(MaskError, match=r"aachen_000000_000019_gtFine_labelIds.png is 4×6"):
        draw(read(root).images[0], (HEIGHT, WIDTH + 1))


def test_images_elsewhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("photos")
    (root / "leftImg8bit").rename(elsewhere / "pictures")
    found = read(root, elsewhere / "pictures")
    assert (len(found.images), found.problems) == (3, ())


def test_imported_pairs_keep_splits_and_truth(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("imported") / "out"
    done = import_dataset("cityscapes", root, out)
    assert done.counts.splits == {"train": 2, "val": 1}
    splits, masks = splits_in(out), masks_in(out)
    assert [*splits.values()] == ["train", "train", "val"]
    assert masks["val/frankfurt/frankfurt_000000_000294"][0].tolist() == [10, 11] + [255] * 4
    assert (out / "classes.txt").read_text().splitlines()[13] == "13 car"


def test_real_streets_come_back(real_data: Path, tmp_path: Path) -> None:
    """CamVid's classes under Cityscapes' numbers: each pixel gets the train id of its class."""
    numbers = np.array([23, 11, 17, 7, 8, 21, 20, 13, 26, 24, 33, 0], np.uint8)
    masks = sorted((real_data / "camvid/masks/val").glob("*.png"))[:3]
    for path in masks:
        pixels = read_mask(path).pixels
        name = f"cam_{path.stem}"
        write_png(tmp_path / f"leftImg8bit/val/cam/{name}_leftImg8bit.png", pixels)
        label(tmp_path, "val", name, numbers[pixels])
    expected = np.array([PUBLISHED[number] for number in numbers.tolist()], np.uint8)
    for image, path in zip(read(tmp_path).images, masks, strict=True):
        pixels = read_mask(path).pixels
        assert (draw(image, pixels.shape) == expected[pixels]).all()
