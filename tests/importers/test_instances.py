"""Masks of objects in the layouts that are published.

`bowl` follows the 2018 Data Science Bowl, as its page describes it: "Each image is represented by
an associated ImageId. Files belonging to an image are contained in a folder with this ImageId.
Within this folder are two subfolders: images contains the image file. masks contains the segmented
masks of each nucleus" (https://www.kaggle.com/c/data-science-bowl-2018/data).
"""

from functools import partial
from hashlib import sha256
from pathlib import Path
from shutil import make_archive

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from tests.importers.exports import Mask, draw, photo, problems_of
from unetseg.data.files.pngs import write_png
from unetseg.data.masks.mask_file import read_mask
from unetseg.errors import MaskError
from unetseg.importers.importing import import_dataset, read_annotations
from unetseg.importers.instances import recognises

SIZE = HEIGHT, WIDTH = 5, 8
read = partial(read_annotations, "instances")


def box(top: int, left: int, height: int = 2, width: int = 2) -> Mask:
    mask = np.zeros(SIZE, np.uint8)
    mask[top : top + height, left : left + width] = 255
    return mask


def bowl(root: Path, split: str, image_id: str, *objects: Mask) -> None:
    folder = root / f"stage1_{split}/{image_id}"
    photo(folder / f"images/{image_id}.png", SIZE)
    for mask in objects:
        write_png(folder / f"masks/{sha256(mask.tobytes()).hexdigest()}.png", mask)


def test_the_layout_of_the_data_science_bowl(tmp_path: Path) -> None:
    bowl(tmp_path, "train", "00071198d059ba7f", box(0, 0), box(2, 5), box(1, 1))
    bowl(tmp_path, "train", "003cee89357d9fe1", box(3, 3))
    bowl(tmp_path, "test", "0114f484a16c152b")
    found = read(tmp_path)
    assert (found.classes, found.problems) == (("background", "foreground"), ())
    names = [(image.split, image.name) for image in found.images]
    assert names == [("train", "00071198d059ba7f"), ("train", "003cee89357d9fe1")]
    expected = (box(0, 0) | box(2, 5) | box(1, 1)) // 255
    assert (draw(found.images[0], SIZE) == expected).all()
    assert "1 image of the test split left out: it has no masks" in found.notes


def test_a_folder_of_masks_for_each_image(tmp_path: Path) -> None:
    for split, stem, masks in (
        ("train", "image_01", [box(0, 0), box(0, 2)]),
        ("train", "image_02", [box(3, 0)]),
        ("val", "image_01", [box(2, 2)]),
    ):
        photo(tmp_path / f"{split}/images/{stem}.jpg.png", SIZE)
        for i, mask in enumerate(masks):
            write_png(tmp_path / f"{split}/masks/{stem}.jpg/{i}.png", mask)
    found = read(tmp_path)
    names = ["image_01.jpg", "image_02.jpg", "image_01.jpg"]
    assert found.problems == ()
    assert [image.name for image in found.images] == names
    assert [image.split for image in found.images] == ["train", "train", "val"]
    assert (draw(found.images[0], SIZE) == box(0, 0, 2, 4) // 255).all()
    assert (draw(found.images[2], SIZE) == box(2, 2) // 255).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_numbered_objects(tmp_path: Path, dtype: type[np.unsignedinteger]) -> None:
    photo(tmp_path / "images/frame_12_left.png", SIZE)
    photo(tmp_path / "images/frame_13_left.png", SIZE)
    numbers: NDArray[np.integer] = np.arange(HEIGHT * WIDTH, dtype=dtype).reshape(HEIGHT, WIDTH)
    numbers = numbers * dtype(np.iinfo(dtype).max // numbers.size)
    for stem in ("frame_12_left", "frame_13_left"):
        write_png(tmp_path / f"masks/{stem}.png", numbers)
    found = read(tmp_path)
    assert (found.classes, found.problems) == (("background", "foreground"), ())
    for image in found.images:
        assert (draw(image, SIZE) == (numbers > 0)).all()


def test_classes_in_the_names_of_objects(tmp_path: Path) -> None:
    photo(tmp_path / "images/street.png", SIZE)
    write_png(tmp_path / "masks/street/0001_car.png", box(0, 0, 3, 3))
    write_png(tmp_path / "masks/street/0002_bus.png", box(2, 2, 3, 3))
    write_png(tmp_path / "masks/street/0003_car.png", box(0, 6))
    found = read(tmp_path)
    assert found.classes == ("background", "bus", "car")
    expected = np.zeros(SIZE, np.uint8)
    expected[:3, :3], expected[2:, 2:5], expected[:2, 6:] = 2, 1, 2
    assert (draw(found.images[0], SIZE) == expected).all()
    assert "where objects overlap, the one whose file name comes last counts" in found.notes


def test_a_folder_with_the_name_of_its_image_is_no_split(tmp_path: Path) -> None:
    for image_id in ("test_01", "train_02"):
        photo(tmp_path / f"{image_id}/images/{image_id}.png", SIZE)
        write_png(tmp_path / f"{image_id}/masks/1.png", box(0, 0))
    told = [(image.name, image.split) for image in read(tmp_path).images]
    assert told == [("test_01", None), ("train_02", None)]


def test_masks_beside_their_images_are_united(tmp_path: Path) -> None:
    """Breast Ultrasound Images: one file for each lesion; an empty mask shows none."""
    for name in ("benign (1)", "benign (10)", "normal (1)"):
        photo(tmp_path / f"{name.split()[0]}/{name}.png", SIZE)
    write_png(tmp_path / "benign/benign (1)_mask.png", box(0, 0))
    write_png(tmp_path / "benign/benign (1)_mask_1.png", box(2, 5))
    write_png(tmp_path / "benign/benign (10)_mask.png", box(1, 1))
    write_png(tmp_path / "normal/normal (1)_mask.png", box(0, 0, 0))
    assert recognises(tmp_path)
    found = read(tmp_path)
    assert not found.problems
    masks = {image.name: draw(image, SIZE) for image in found.images}
    assert list(masks) == ["benign/benign (1)", "benign/benign (10)", "normal/normal (1)"]
    assert (masks["benign/benign (1)"] * 255 == box(0, 0) | box(2, 5)).all()
    assert not masks["normal/normal (1)"].any()


def test_halves_in_two_folders_are_united(tmp_path: Path) -> None:
    """Montgomery County: one file for each lung."""
    for name in ("a_0", "b_1"):
        photo(tmp_path / f"CXR_png/{name}.png", SIZE)
        write_png(tmp_path / f"ManualMask/leftMask/{name}.png", box(0, 0))
        write_png(tmp_path / f"ManualMask/rightMask/{name}.png", box(2, 5))
    assert recognises(tmp_path)
    found = read(tmp_path)
    assert [image.name for image in found.images] == ["a_0", "b_1"]
    told = "masks of one image in several folders are united: leftMask, rightMask"
    assert told in found.notes
    assert (draw(found.images[0], SIZE) * 255 == box(0, 0) | box(2, 5)).all()


@pytest.mark.parametrize("photo_name", ["{}_rgb", "{}"])
def test_numbered_masks_with_a_suffix(tmp_path: Path, photo_name: str) -> None:
    """Leaves of CVPPP, glands of GlaS; what else lies there is left out."""
    for name in ("plant1", "plant2"):
        photo(tmp_path / f"A1/{photo_name.format(name)}.png", SIZE)
        write_png(tmp_path / f"A1/{name}_label.png", box(0, 0) // 255 + box(2, 5) // 85)
        write_png(tmp_path / f"A1/{name}_fg.png", box(0, 0))
    found = read(tmp_path)
    assert [image.name for image in found.images] == ["A1/plant1", "A1/plant2"]
    assert (draw(found.images[0], SIZE) * 255 == box(0, 0) | box(2, 5)).all()
    assert "2 files left out: they lie beside images, and say no mask" in found.notes


def test_one_name_without_a_class_makes_all_foreground(tmp_path: Path) -> None:
    photo(tmp_path / "images/street.png", SIZE)
    for name in ("0001_car", "0002"):
        write_png(tmp_path / f"masks/street/{name}.png", box(0, 0))
    assert read(tmp_path).classes == ("background", "foreground")


def test_no_objects_are_not_no_masks(tmp_path: Path) -> None:
    bowl(tmp_path, "train", "a", box(0, 0))
    bowl(tmp_path, "train", "empty")
    (tmp_path / "stage1_train/empty/masks").mkdir()
    bowl(tmp_path, "train", "lacking")
    found = read(tmp_path)
    assert [image.name for image in found.images] == ["a", "empty"]
    assert not draw(found.images[1], SIZE).any()
    assert problems_of(found) == ["no masks: lacking"]
    assert "1 image with an empty folder of masks: all background" in found.notes


def test_two_images_of_one_name_are_a_problem(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp", "b.png"):
        photo(tmp_path / f"images/{name}", SIZE)
    for stem in ("a", "b"):
        write_png(tmp_path / f"masks/{stem}/1.png", box(0, 0))
    found = read(tmp_path)
    assert [image.name for image in found.images] == ["b"]
    assert problems_of(found) == ["several images of one name: a"]


def test_masks_of_no_image_are_listed(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        photo(tmp_path / f"images/{stem}.png", SIZE)
        write_png(tmp_path / f"masks/{stem}.png", box(0, 0))
    write_png(tmp_path / "masks/c.png", box(0, 0))
    write_png(tmp_path / "masks/d/1.png", box(0, 0))
    found = read(tmp_path)
    lines = ["no such image: masks/c.png", "no such image: masks/d/1.png"]
    assert problems_of(found) == lines
    assert len(found.images) == 2


def test_all_files_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    bowl(tmp_path, "train", "a", box(0, 0))
    masks = tmp_path / "stage1_train/a/masks"
    write_png(masks / "x.png", np.zeros((HEIGHT, WIDTH + 1), np.uint8))
    (masks / "y.png").write_bytes(b"no image")
    with pytest.raises(MaskError) as error:
        draw(read(tmp_path).images[0], SIZE)
    assert error.value.offenders[0] == "x.png is 5×9, expected 5×8"
    assert "y.png cannot be read" in error.value.offenders[1]


def test_images_elsewhere(tmp_path: Path) -> None:
    photo(tmp_path / "photos/a.png", SIZE)
    write_png(tmp_path / "objects/a/1.png", box(0, 0))
    found = read(tmp_path / "objects", tmp_path / "photos")
    assert (len(found.images), found.problems) == (1, ())
    assert (draw(found.images[0], SIZE) == box(0, 0) // 255).all()


def test_real_nuclei_come_back_from_their_objects(real_data: Path, tmp_path: Path) -> None:
    """Split real masks into one file for each object, and read them as the Bowl has them."""
    masks = sorted((real_data / "dsb2018/masks").glob("*"))[:5]
    for path in masks:
        truth = read_mask(path).pixels > 0
        objects, count = ndimage.label(truth)
        folder = tmp_path / f"stage1_train/{path.stem}"
        write_png(folder / f"images/{path.stem}.png", truth.astype(np.uint8))
        for i in range(1, count + 1):
            write_png(folder / f"masks/{i:04d}.png", (objects == i).astype(np.uint8) * 255)
    found = read(tmp_path)
    assert [image.name for image in found.images] == [path.stem for path in masks]
    for image, path in zip(found.images, masks, strict=True):
        truth = read_mask(path).pixels > 0
        assert (draw(image, truth.shape) == truth).all()


@pytest.mark.parametrize("kind", [None, "zip"])
@pytest.mark.parametrize("hidden", [True, False])
def test_an_empty_folder_of_masks_means_the_same_in_an_archive(
    tmp_path: Path, kind: str | None, hidden: bool
) -> None:
    bowl(tmp_path / "set", "train", "a", box(0, 0))
    bowl(tmp_path / "set", "train", "b")
    (tmp_path / "set/stage1_train/b/masks").mkdir()
    if hidden:
        (tmp_path / "set/stage1_train/b/masks/.DS_Store").touch()
    folder = tmp_path / "set"
    source = Path(make_archive(str(tmp_path / "packed"), kind, folder)) if kind else folder
    done = import_dataset("instances", source, tmp_path / "out")
    assert (done.pairs, done.skipped) == (2, ())
    assert not read_mask(tmp_path / "out/masks/train/b.png").pixels.any()


def test_objects_that_are_0_are_refused(tmp_path: Path) -> None:
    objects = [np.uint8(255) * (np.arange(16).reshape(4, 4) != place) for place in (3, 6, 9)]
    bowl(tmp_path, "train", "a", *objects)
    with pytest.raises(MaskError, match="share most of its pixels"):
        read_annotations("instances", tmp_path)


def test_objects_on_a_transparent_ground_are_read(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0, 0], [255, 0, 0, 255]], np.uint8)
    bowl(tmp_path, "train", "a", *(colours[mask // 255] for mask in (box(0, 0), box(2, 5))))
    found = read(tmp_path)
    assert (draw(found.images[0], SIZE) == (box(0, 0) | box(2, 5)) // 255).all()
