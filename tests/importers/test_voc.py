"""Pascal VOC: masks with VOC's palette are copied to the byte; painted ones mean the same."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.importers.exports import photo, splits_in
from unetseg.data.files.pngs import write_png
from unetseg.data.masks.class_list import read_class_names
from unetseg.data.masks.class_map import Colour
from unetseg.data.masks.infer_classes import infer_class_map
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.masks.mask_values import mask_facts
from unetseg.data.pairs.match import find_pairs
from unetseg.errors import DataError, MaskError
from unetseg.importers.importing import Imported, import_dataset
from unetseg.importers.voc import (
    BORDER,
    CLASSES,
    LabelColours,
    colours,
    painted_codes,
    read_labelmap,
)

# The beginning and the end of the palette of the devkit (VOClabelcolormap.m).
PUBLISHED = {
    0: (0, 0, 0),
    1: (128, 0, 0),
    2: (0, 128, 0),
    3: (128, 128, 0),
    4: (0, 0, 128),
    7: (128, 128, 128),
    8: (64, 0, 0),
    15: (192, 128, 128),
    20: (0, 64, 128),
    21: (128, 64, 128),
    255: (224, 224, 192),
}
SIZE = (12, 16)
FLAT = [part for colour in colours() for part in colour]


def codes() -> NDArray[np.uint8]:
    """A mask of background, an aeroplane, a monitor and a border."""
    mask = np.zeros(SIZE, np.uint8)
    mask[2:6, 2:8], mask[6:10, 8:14], mask[5, 2:8] = 1, 20, 255
    return mask


def save_mask(path: Path, mask: NDArray[np.uint8], palette: list[int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    image.putpalette(FLAT if palette is None else palette)
    image.save(path)
    return path


def devkit(root: Path, names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    """VOC's tree: each image has its mask."""
    for name in names:
        photo(root / f"JPEGImages/{name}.jpg", SIZE)
        save_mask(root / f"SegmentationClass/{name}.png", codes())
        save_mask(root / f"SegmentationObject/{name}.png", codes() % 5)
    return root


def write_list(root: Path, split: str, names: str) -> None:
    path = root / f"ImageSets/Segmentation/{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names.split()) + "\n")


def imported(source: Path, out: Path) -> Imported:
    return import_dataset("voc", source, out)


def test_the_palette_is_the_published_one() -> None:
    assert {code: colours()[code] for code in PUBLISHED} == PUBLISHED
    assert len(set(colours())) == 256


def test_files_are_copied_to_the_byte(tmp_path: Path) -> None:
    root = devkit(tmp_path / "VOCdevkit/VOC2012")
    done = imported(tmp_path / "VOCdevkit", tmp_path / "out")
    assert done.classes == CLASSES
    assert any("called as in the challenge" in note for note in done.notes)
    for name in "abc":
        for copy, original in (
            (f"images/{name}.jpg", f"JPEGImages/{name}.jpg"),
            (f"masks/{name}.png", f"SegmentationClass/{name}.png"),
        ):
            assert (tmp_path / "out" / copy).read_bytes() == (root / original).read_bytes()


def test_the_real_masks(tmp_path: Path, real_data: Path) -> None:
    source = real_data / "tiny_voc_palette"
    shutil.copytree(source / "images", tmp_path / "voc/JPEGImages")
    shutil.copytree(source / "masks", tmp_path / "voc/SegmentationClass")
    write_list(tmp_path / "voc", "train", "2011_000003 2011_000006")
    write_list(tmp_path / "voc", "val", "2011_000025")
    done = imported(tmp_path / "voc", tmp_path / "out")
    assert done.counts.splits == {"train": 2, "val": 1}
    held = [
        np.unique(np.asarray(Image.open(path))) for path in sorted((source / "masks").iterdir())
    ]
    assert done.counts.ignored == sum(255 in codes for codes in held) == 2
    assert set(done.counts.shown) == {int(code) for codes in held for code in codes} - {255}
    pairs = find_pairs(tmp_path / "out").pairs
    for pair in pairs:
        assert isinstance(pair.mask, Path)
        original = source / "masks" / pair.mask.name
        assert pair.mask.read_bytes() == original.read_bytes()
    names = read_class_names(tmp_path / "out/classes.txt")
    facts = [mask_facts(pair.mask) for pair in pairs if pair.mask]
    class_map, _ = infer_class_map(facts, names=names)
    assert class_map.names == CLASSES
    assert class_map.ignore == (255,)
    assert class_map.coding == "palette"
    assert class_map.colours.tolist() == [list(colour) for colour in colours(21)]


def test_lists_say_what_is_taken_and_for_what(tmp_path: Path) -> None:
    root = devkit(tmp_path / "voc", ("a", "b", "c", "d"))
    photo(root / "JPEGImages/e.jpg", SIZE)
    write_list(root, "train", "a")
    write_list(root, "val", "b")
    write_list(root, "trainval", "a b")
    write_list(root, "test", "c e")
    done = imported(root, tmp_path / "out")
    assert splits_in(tmp_path / "out") == {"train/a": "train", "val/b": "val", "test/c": "test"}
    assert "1 image without a mask left out" in done.notes
    assert "1 mask left out that no file in ImageSets/Segmentation lists" in done.notes


def test_trainval_trains_where_there_is_nothing_else(tmp_path: Path) -> None:
    root = devkit(tmp_path / "voc")
    write_list(root, "trainval", "a b")
    write_list(root, "test", "c")
    assert imported(root, tmp_path / "out").counts.splits == {"train": 2, "test": 1}


@pytest.mark.parametrize("name", ["trainaug", "train_aug"])
def test_lists_of_added_masks_train_where_these_are_there(tmp_path: Path, name: str) -> None:
    root = devkit(tmp_path / "voc")
    write_list(root, "train", "a")
    write_list(root, "val", "c")
    write_list(root, name, "a b c e")
    assert imported(root, tmp_path / "out").counts.splits == {"train": 2, "val": 1}


LABELMAP = "# label:color_rgb:parts:actions\ncat:250,50,83::\nbackground:0,0,0::\nsea:9,9,9::\n"
CODES = {(0, 0, 0): 0, (250, 50, 83): 1, (9, 9, 9): 2, BORDER: 255}


def painted() -> NDArray[np.uint8]:
    picture = np.zeros((12, 16, 3), np.uint8)
    picture[1:4], picture[4:8, 3:9], picture[8] = (250, 50, 83), (9, 9, 9), BORDER
    return picture


@pytest.mark.parametrize("kind", ["rgb", "palette"])
def test_painted_masks_mean_what_labelmap_says(tmp_path: Path, kind: str) -> None:
    root = devkit(tmp_path / "voc", ("a",))
    (root / "labelmap.txt").write_text(LABELMAP)
    image = Image.fromarray(painted())
    (image if kind == "rgb" else image.quantize(8)).save(root / "SegmentationClass/a.png")
    done = imported(root, tmp_path / "out")
    assert done.classes == ("background", "cat", "sea")
    expected = np.array([[CODES[*pixel] for pixel in row.tolist()] for row in painted()])
    mask = read_mask(tmp_path / "out/masks/a.png")
    assert mask.coding == "integer"
    assert (mask.pixels == expected).all()


def test_a_palette_in_the_order_of_labelmap_is_copied(tmp_path: Path) -> None:
    root = devkit(tmp_path / "voc", ("a",))
    lines = [f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(CLASSES, colours(21), strict=True)]
    (root / "labelmap.txt").write_text("\n".join(lines).replace("tvmonitor", "screen"))
    done = imported(root, tmp_path / "out")
    assert done.classes[-1] == "screen"
    original = root / "SegmentationClass/a.png"
    assert (tmp_path / "out/masks/a.png").read_bytes() == original.read_bytes()


@pytest.mark.parametrize("ignore", ["", "__ignore__\n"])
@pytest.mark.parametrize("place", ["set", "."])
def test_labelme2voc_names_the_codes(tmp_path: Path, ignore: str, place: str) -> None:
    root = devkit(tmp_path / "voc/set", ("a",))
    mask = save_mask(root / "SegmentationClass/a.png", np.where(codes() == 20, 2, codes()))
    (tmp_path / "voc" / place / "class_names.txt").write_text(f"{ignore}_background_\nsea\ncat")
    done = imported(tmp_path / "voc", tmp_path / "out")
    assert done.classes == ("background", "sea", "cat")
    assert (tmp_path / "out/masks/a.png").read_bytes() == mask.read_bytes()
    assert not any("challenge" in note for note in done.notes)


def test_one_file_of_another_coding_makes_all_plain_numbers(tmp_path: Path) -> None:
    root = devkit(tmp_path / "voc", ("a", "b"))
    Image.fromarray(codes()).save(root / "SegmentationClass/b.png")  # grey, the same codes
    imported(root, tmp_path / "out")
    for name in "ab":
        mask = read_mask(tmp_path / f"out/masks/{name}.png")
        assert (mask.pixels == codes()).all()
        assert mask.coding == "integer"


def test_numbers_without_names_get_some(tmp_path: Path) -> None:
    root = devkit(tmp_path / "voc", ("a",))
    Image.fromarray(np.where(codes() == 20, 3, codes())).save(root / "SegmentationClass/a.png")
    done = imported(root, tmp_path / "out")
    assert done.classes == ("background", "class 1", "class 2", "class 3")
    assert "classes are called by their codes" in done.notes[-1]


# What is wrong


def fail(source: Path, tmp_path: Path) -> str:
    with pytest.raises(DataError) as caught:
        imported(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    return str(caught.value)


def test_boxes_are_no_masks(tmp_path: Path) -> None:
    (tmp_path / "voc/Annotations").mkdir(parents=True)
    xml = "<annotation><object><bndbox><xmin>1</xmin></bndbox></object></annotation>"
    (tmp_path / "voc/Annotations/a.xml").write_text(xml)
    assert "boxes alone: boxes are no masks" in fail(tmp_path / "voc", tmp_path)


def test_no_folder_or_several(tmp_path: Path) -> None:
    (tmp_path / "voc").mkdir()
    assert "there is no folder SegmentationClass" in fail(tmp_path / "voc", tmp_path)
    for year in (2007, 2012):
        devkit(tmp_path / f"voc/VOC{year}", ("a",))
    assert "VOC2007" in fail(tmp_path / "voc", tmp_path)


def test_everything_that_is_missing_is_listed(tmp_path: Path) -> None:
    root = devkit(tmp_path / "voc")
    (root / "JPEGImages/a.jpg").unlink()
    (root / "SegmentationClass/b.png").unlink()
    photo(root / "JPEGImages/c.jpg", (12, 17))
    write_list(root, "train", "a b c")
    write_list(root, "val", "c")
    text = fail(root, tmp_path)
    for part in ("no such image: a", "no such mask: b", "in several splits: c"):
        assert part in text


def test_another_size(tmp_path: Path) -> None:
    root = devkit(tmp_path / "voc")
    photo(root / "JPEGImages/c.jpg", (12, 17))
    assert "c: the mask has 12×16 pixels, the image 12×17" in fail(root, tmp_path)


def test_codes_and_colours_of_no_class(tmp_path: Path) -> None:
    root = devkit(tmp_path / "voc", ("a", "b"))
    save_mask(root / "SegmentationClass/a.png", codes() + np.uint8(100))
    assert "a: the mask holds 99, 100, 101, 120" in fail(root, tmp_path)
    (root / "labelmap.txt").write_text(LABELMAP)
    assert "b" in fail(root, tmp_path)


def test_a_mask_is_never_taken_for_an_image(tmp_path: Path) -> None:
    root = devkit(tmp_path / "voc", ("a", "b"))
    (root / "JPEGImages/a.jpg").rename(root / "a.jpg")
    shutil.rmtree(root / "JPEGImages")
    assert "1 problem in the annotations: no such image (1)" in fail(root, tmp_path)
    (root / "a.jpg").unlink()
    assert "no images found\nSay where they are (--images DIR)" in fail(root, tmp_path)


@pytest.mark.parametrize("labelled", [True, False])
def test_masks_that_cannot_be_read_are_listed_or_left_out(tmp_path: Path, labelled: bool) -> None:
    root = devkit(tmp_path / "voc", ("a", "b", "c"))
    if not labelled:
        for name in "bc":
            Image.fromarray(codes() % 20).save(root / f"SegmentationClass/{name}.png")
    cut = root / "SegmentationClass/b.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    (root / "SegmentationClass/a.png").write_text("no image")
    text = fail(root, tmp_path)
    assert "cannot be drawn: a: " in text
    assert "cannot be drawn: b: " in text
    done = import_dataset("voc", root, tmp_path / "out", on_bad="skip")
    assert (done.pairs, len(done.skipped)) == (1, 2)
    assert (done.classes == CLASSES) == labelled


def test_all_masks_in_unknown_colours_are_listed(tmp_path: Path) -> None:
    root = devkit(tmp_path / "voc", ("a", "b"))
    for name in "ab":
        Image.fromarray(painted()).save(root / f"SegmentationClass/{name}.png")
    text = fail(root, tmp_path)
    for part in ("SegmentationClass/a.png", "SegmentationClass/b.png", "Put a labelmap.txt"):
        assert part in text


def test_a_list_that_is_no_file(tmp_path: Path) -> None:
    root = devkit(tmp_path / "voc")
    (root / "ImageSets/Segmentation/train.txt").mkdir(parents=True)
    assert "train.txt cannot be read: Is a directory" in fail(root, tmp_path)


def test_shadows_of_macos_are_no_second_data_set(tmp_path: Path) -> None:
    devkit(tmp_path / "set/voc")
    (tmp_path / "set/__MACOSX/voc/SegmentationClass").mkdir(parents=True)
    (tmp_path / "set/__MACOSX/voc/SegmentationClass/._a.png").write_bytes(b"x")
    assert imported(tmp_path / "set", tmp_path / "out").pairs == 3


# labelmap.txt, as datumaro's VocLabelMap has it (plugins/voc_format/format.py)

# The example of https://docs.cvat.ai/docs/dataset_management/formats/format-smask
EXAMPLE = """# labelmap.txt
# label : color (RGB) : 'body' parts : actions
background:0,128,0::
aeroplane:10,10,128::
bicycle:10,128,0::
bird:0,108,128::
boat:108,0,100::
bottle:18,0,8::
bus:12,28,0::
"""


def labelmap_of(folder: Path, text: str) -> LabelColours:
    (folder / "labelmap.txt").write_text(text)
    return read_labelmap(folder / "labelmap.txt")


def codes_of(folder: Path, pixels: Any, labels: LabelColours) -> Any:
    """The codes that a mask file of these pixels has."""
    path = folder / "mask.png"
    write_png(path, np.array(pixels, np.uint8))
    return painted_codes(read_mask(path), labels, path).tolist()


@pytest.mark.parametrize(
    ("text", "classes", "shown", "expected"),
    [
        (
            EXAMPLE,
            "background aeroplane bicycle bird boat bottle bus",
            [(0, 128, 0), (12, 28, 0), (0, 0, 0), (18, 0, 8)],
            [0, 6, 0, 5],
        ),
        (  # the background comes first wherever it stands
            "ant:1,2,3:head,tail:crawl\nbackground:0,0,0::\ncat:4,5,6::\n",
            "background ant cat",
            [(1, 2, 3), (0, 0, 0), (4, 5, 6)],
            [1, 0, 2],
        ),
        (  # the black label is the background whatever its name
            "ant:1,2,3::\nelsewhere:0,0,0::\n",
            "elsewhere ant",
            [(1, 2, 3), (0, 0, 0)],
            [1, 0],
        ),
    ],
)
def test_labels_and_their_colours(
    tmp_path: Path, text: str, classes: str, shown: list[Colour], expected: list[int]
) -> None:
    labels = labelmap_of(tmp_path, text)
    assert labels.classes == tuple(classes.split())
    assert codes_of(tmp_path, [shown], labels) == [expected]


def test_numbers_count_the_lines_and_greys_are_colours(tmp_path: Path) -> None:
    labels = labelmap_of(tmp_path, "ant:1,2,3::\nbackground:0,0,0::\ncat:200,200,200::\n")
    assert codes_of(tmp_path, [[0, 1, 2]], labels) == [[1, 0, 2]]
    assert codes_of(tmp_path, [[200, 0]], labels) == [[2, 0]]
    with pytest.raises(MaskError, match=r"mask.png has numbers of no label: 7; 9"):
        codes_of(tmp_path, [[0, 7, 9]], labels)


def test_a_palette_is_read_by_its_colours(tmp_path: Path) -> None:
    labels = labelmap_of(tmp_path, EXAMPLE)
    image = Image.fromarray(np.array([[3, 1]], np.uint8))
    image.putpalette([0, 0, 0, 10, 128, 0, 9, 9, 9, 108, 0, 100])
    path = tmp_path / "mask.png"
    image.save(path)
    assert painted_codes(read_mask(path), labels, path).tolist() == [[4, 2]]


def test_all_colours_of_no_label_are_named(tmp_path: Path) -> None:
    labels = labelmap_of(tmp_path, EXAMPLE)
    with pytest.raises(MaskError, match=r"mask.png has colours of no label: 9,9,9; 255,0,1"):
        codes_of(tmp_path, [[[9, 9, 9], [10, 10, 128], [255, 0, 1]]], labels)


def test_all_faults_of_a_labelmap_are_listed(tmp_path: Path) -> None:
    text = "a:1,2,3::\nb\nc:1,2,3::\na:4,5,6::\nd:1,2,256::\ne:::\n"
    with pytest.raises(DataError, match="is no list of labels and colours") as error:
        labelmap_of(tmp_path, text)
    assert error.value.offenders == [
        "b: expected name:r,g,b::",
        "c:1,2,3::: a has the same colour",
        "a:4,5,6::: the name is there twice",
        "d:1,2,256::: expected colours from 0 to 255",
        "e:::: expected name:r,g,b::",
    ]
    for text in ("# nothing\n", f"f:{'1' * 5000},2,3::\n", f"g{' ' * 50_000}h\n"):
        with pytest.raises(DataError, match="is no list of labels"):
            labelmap_of(tmp_path, text)


def test_labelme2voc_may_have_its_masks_beside_arrays(tmp_path: Path) -> None:
    root = devkit(tmp_path / "voc", ("a",))
    numbers = np.where(codes() == 20, 2, codes())
    (root / "SegmentationClass/a.png").unlink()
    stored = np.where(numbers == 255, -1, numbers.astype(np.int32))
    np.save(root / "SegmentationClass/a.npy", stored)
    mask = save_mask(root / "SegmentationClassPNG/a.png", numbers)
    (root / "class_names.txt").write_text("_background_\nsea\ncat")
    done = imported(root, tmp_path / "out")
    assert done.classes == ("background", "sea", "cat")
    assert (tmp_path / "out/masks/a.png").read_bytes() == mask.read_bytes()
