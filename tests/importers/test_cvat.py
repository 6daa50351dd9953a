"""Exports of CVAT, written as its exporters write them.

"Segmentation mask 1.1" is datumaro's VOC writer (plugins/voc_format/converter.py): labels sorted by
name, RGB masks, names of all images in ImageSets/Segmentation/SUBSET.txt, and no mask file where
nothing was drawn. "CVAT for images 1.1" is https://docs.cvat.ai/docs/other/xml_format.
"""

from functools import partial
from pathlib import Path
from shutil import make_archive

import numpy as np
import pytest
from numpy.typing import NDArray

from unetseg.data.files.pngs import write_png
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.pairs.match import find_pairs
from unetseg.errors import DataError, MaskError
from unetseg.importers import importing
from unetseg.importers.annotations import AnnotatedImage
from unetseg.importers.importing import read_annotations

HEIGHT, WIDTH = 4, 6
read = partial(read_annotations, "cvat")
COLOURS = {"background": (0, 0, 0), "car": (250, 50, 83), "road": (51, 221, 255)}
ORDER = ("background", "car", "road")


def photo(path: Path) -> None:
    write_png(path, np.full((HEIGHT, WIDTH, 3), 50, np.uint8))


def export(root: Path, masks: dict[str, NDArray[np.uint8]], lists: dict[str, list[str]]) -> None:
    """What datumaro writes for codes in the order of COLOURS."""
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in sorted(COLOURS.items())]
    (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *lines, ""]))
    table = np.array(list(COLOURS.values()), np.uint8)
    for name, codes in masks.items():
        write_png(root / f"SegmentationClass/{name}.png", table[codes])
        write_png(root / f"SegmentationObject/{name}.png", table[codes] // 2)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for subset, names in lists.items():
        text = "".join(f"{name}\n" for name in names)
        (root / f"ImageSets/Segmentation/{subset}.txt").write_text(text)


def codes(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 3, (HEIGHT, WIDTH), np.uint8)


def draw(image: AnnotatedImage) -> list[list[int]]:
    assert callable(image.mask)
    return list(image.mask(HEIGHT, WIDTH).tolist())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "above/export"
    root.mkdir(parents=True)
    export(root, {"a": codes(1), "north/b c": codes(2)}, {"default": ["a", "north/b c", "d"]})
    for name in ("a", "north/b c", "d"):
        photo(root / f"JPEGImages/{name}.png")
    return root


def test_colours_become_codes_in_the_order_of_the_labels(root: Path) -> None:
    found = read(root)
    assert (found.classes, found.problems) == (ORDER, ())
    masks = {image.name: draw(image) for image in found.images}
    nothing = np.zeros((HEIGHT, WIDTH), int).tolist()
    expected = {"a": codes(1).tolist(), "north/b c": codes(2).tolist(), "d": nothing}
    assert masks == expected
    assert found.notes == ("1 image without a mask: nothing was drawn, all background",)


def test_the_folder_above_will_do(root: Path) -> None:
    assert len(read(root.parent).images) == 3


def test_subsets_are_splits(root: Path) -> None:
    lists = root / "ImageSets/Segmentation"
    (lists / "default.txt").rename(lists / "Train.txt")
    (lists / "Validation.txt").write_text("e\n")
    photo(root / "JPEGImages/e.png")
    splits = {image.name: image.split for image in read(root).images}
    assert splits == {"a": "train", "north/b c": "train", "d": "train", "e": "val"}


def test_an_image_in_two_subsets_is_a_problem(root: Path) -> None:
    for subset in ("Train", "Validation"):
        (root / f"ImageSets/Segmentation/{subset}.txt").write_text("a\n")
    (root / "ImageSets/Segmentation/default.txt").unlink()
    (problem,) = read(root).problems
    assert str(problem) == "in several splits: a: train and val"


def test_images_that_are_elsewhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("photos") / "all"
    (root / "JPEGImages").rename(elsewhere)
    found = read(root, elsewhere)
    assert (len(found.images), found.problems) == (3, ())
    assert all(elsewhere in image.path.parents for image in found.images)
    with pytest.raises(DataError, match="no images found"):
        read(root)


def test_masks_are_never_taken_for_images(root: Path) -> None:
    (root / "JPEGImages/a.png").unlink()
    found = read(root)
    assert [str(problem) for problem in found.problems] == ["no such image: a"]
    assert all("JPEGImages" in image.path.parts for image in found.images)


def test_masks_are_never_taken_for_images_that_lie_beside_them(root: Path) -> None:
    for path in (root / "JPEGImages").iterdir():
        path.rename(root / path.name)
    (root / "JPEGImages").rmdir()
    (root / "a.png").unlink()
    found = read(root)
    assert [str(problem) for problem in found.problems] == ["no such image: a"]
    assert len(found.images) == 2


def test_names_that_climb_lead_nowhere(root: Path) -> None:
    photo(root.parent / "secret.png")
    names = ["../../secret", "/etc/hostname", "..\\..\\secret", "../secret.png"]
    with (root / "ImageSets/Segmentation/default.txt").open("a") as file:
        file.writelines(f"{name}\n" for name in names)
    found = read(root)
    expected = [f"no such image: {name}" for name in names]
    assert [problem.kind + ": " + problem.where for problem in found.problems] == expected
    assert all(root in image.path.parents for image in found.images)


def test_a_mask_of_another_size_or_colour_is_refused(root: Path) -> None:
    write_png(root / "SegmentationClass/a.png", np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8))
    write_png(root / "SegmentationClass/d.png", np.full((HEIGHT, WIDTH, 3), 7, np.uint8))
    found = {image.name: image for image in read(root).images}
    with pytest.raises(MaskError, match=r"a.png is 4×7, expected 4×6"):
        draw(found["a"])
    with pytest.raises(MaskError, match=r"d.png has colours of no label: 7,7,7"):
        draw(found["d"])


def test_the_xml_is_found_in_its_folder(tmp_path: Path) -> None:
    photo(tmp_path / "images/a.png")
    text = (
        '<annotations><image id="0" name="a.png" width="6" height="4"><polygon label="car" '
        'points="1,1;5,1;5,3;1,3" z_order="0"/></image></annotations>'
    )
    (tmp_path / "annotations.xml").write_text(text)
    for source in (tmp_path, tmp_path / "annotations.xml"):
        (image,) = read(source).images
        empty, full = [0] * 6, [0, 1, 1, 1, 1, 0]
        assert draw(image) == [empty, full, full, empty]


def test_an_export_without_a_mask_is_refused(root: Path) -> None:
    (root / "SegmentationClass").rename(root / "SegmentationObject/x")
    with pytest.raises(DataError, match="no masks in SegmentationClass"):
        read(root)


def test_what_is_no_export_is_said(root: Path) -> None:
    (root / "labelmap.txt").unlink()
    with pytest.raises(DataError, match=r"neither labelmap.txt nor annotations.xml"):
        read(root)


def test_several_exports_are_not_mixed(root: Path) -> None:
    (root / "second").mkdir()
    (root / "second/labelmap.txt").write_text("a:1,2,3::\n")
    with pytest.raises(DataError, match="several exports") as error:
        read(root)
    assert len(error.value.offenders) == 2


def test_an_archive_becomes_pairs(root: Path) -> None:
    source = Path(make_archive(str(root.parent / "task"), "zip", root))
    done = importing.import_dataset("cvat", source, root.parent / "out")
    assert (done.pairs, done.skipped) == (3, ())
    masks = {pair.name: pair.mask for pair in find_pairs(root.parent / "out").pairs}
    for name, seed in (("a", 1), ("north/b c", 2)):
        mask = masks[name]
        assert mask is not None
        assert (read_mask(mask).pixels == codes(seed)).all()


def test_all_problems_are_told_at_once(root: Path) -> None:
    with (root / "ImageSets/Segmentation/default.txt").open("a") as file:
        file.write("../../etc/x.png\nmissing\n")
    write_png(root / "SegmentationClass/a.png", np.full((HEIGHT, WIDTH, 3), 7, np.uint8))
    with pytest.raises(DataError, match="3 problems in the annotations") as error:
        importing.import_dataset("cvat", root, root.parent / "out")
    assert error.value.offenders == [
        "no such image: ../../etc/x.png",
        "no such image: missing",
        "cannot be drawn: a: a.png has colours of no label: 7,7,7",
    ]
    assert not (root.parent / "out").exists()


def test_real_masks_in_colours_come_back(real_data: Path, tmp_path: Path) -> None:
    """CWFID's masks are red, green and black, as CVAT would export them."""
    lines = ["background:0,0,0::", "crop:0,255,0::", "weed:255,0,0::"]
    (tmp_path / "labelmap.txt").write_text("\n".join(lines))
    masks = sorted((real_data / "cwfid/masks/train").glob("*"))[:3]
    for path in masks:
        write_png(tmp_path / f"SegmentationClass/{path.stem}.png", read_mask(path).pixels)
        write_png(tmp_path / f"JPEGImages/{path.stem}.png", read_mask(path).pixels)
    for image, path in zip(read(tmp_path).images, masks, strict=True):
        pixels = read_mask(path).pixels
        assert callable(image.mask)
        drawn = image.mask(*pixels.shape[:2])
        assert (np.array([[0, 0, 0], [0, 255, 0], [255, 0, 0]])[drawn] == pixels).all()
        assert set(np.unique(drawn)) == {0, 1, 2}
