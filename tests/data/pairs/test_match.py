"""Pairs are found by name, whatever the layout; whatever does not pair is listed whole."""

import csv
import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetseg.config import GroupsConfig
from unetseg.data.files.folders import find_images
from unetseg.data.pairs.affixes import Affixes, find_affixes
from unetseg.data.pairs.match import NO_IMAGE, NO_MASK, Pair, PairSet, find_pairs
from unetseg.errors import ConfigError, ImageError, PairingError


def write(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"content is not looked at")
    return root


def couples(found: PairSet) -> dict[str, str]:
    return {
        pair.image.relative_to(found.root).as_posix(): pair.mask.relative_to(found.root).as_posix()
        for pair in found.pairs
        if isinstance(pair.mask, Path)
    }


# Each layout: image → mask, with the rule that states it.
LAYOUTS = {
    "plain": ({"images/a.jpg": "masks/a.png", "images/b.jpg": "masks/b.png"}, "images/NAME.jpg"),
    "peers": ({"data/imgs/a.png": "data/masks/a_mask.gif"}, "data/imgs/NAME.png"),
    "one folder per image": (
        {"image_1/image.png": "image_1/mask.png", "image_2/image.png": "image_2/mask.png"},
        "…/image.png ↔ …/mask.png, 2 pairs",
    ),
    "people beside others": (
        {
            "human/images/a.png": "human/masks/a.png",
            "mouse/images/b.png": "mouse/masks/b.png",
            "second_batch/images/c.png": "second_batch/masks/c.png",
        },
        "…/NAME.png, 3 pairs",
    ),
    "centres beside another place": (
        {
            "center_1/images/a.png": "center_1/masks/a.png",
            "center_2/images/a.png": "center_2/masks/a.png",
            "external/images/a.png": "external/masks/a.png",
        },
        "…/NAME.png, 3 pairs",
    ),
    "upper case": ({"Images/a.JPG": "Labels/a.PNG"}, "Images/NAME.JPG ↔ Labels/NAME.PNG, 1 pair"),
    "split below": (
        {"images/train/a.png": "masks/train/a.png", "images/val/a.png": "masks/val/a.png"},
        "images/{split}/NAME.png ↔ masks/{split}/NAME.png, 2 pairs",
    ),
    "split above": (
        {"Training/img/a.png": "Training/gt/a.png", "Testing/img/b.png": "Testing/gt/b.png"},
        "{split}/img/NAME.png ↔ {split}/gt/NAME.png, 2 pairs",
    ),
    "split above and below": ({"train/images/a.png": "masks/train/a.png"}, "{split}/images/NAME"),
    "split in the name": (
        {"train_images/a.png": "train_masks/a.png", "images_test/a.png": "masks_test/a.png"},
        "2 pairs",
    ),
    "words around": ({"JPEGImages/a.jpg": "SegmentationClass/a.png"}, "SegmentationClass/NAME.png"),
    "challenge": (
        {"X-Task1_Training_Input/a.jpg": "X-Task1_Training_GroundTruth/a_segmentation.png"},
        "X-Task1_{split}_Input/NAME.jpg",
    ),
    "two sets": (
        {"images_b/1.png": "masks_b/1.png", "images_a/1.png": "masks_a/1.png"},
        "… ↔ … 2 pairs",
    ),
    "only masks are named": (
        {"train/a_1.jpg": "train_masks/a_1_mask.gif", "train/b_1.jpg": "train_masks/b_1_mask.gif"},
        "{split}/NAME.jpg ↔ {split}_masks/NAME_mask.gif, 2 pairs",
    ),
    "glued": (
        {"train/a.png": "trainannot/a.png", "val/a.png": "valannot/a.png"},
        "2 pairs",
    ),
    "ambiguous word data": ({"data/a.png": "ground truth/a.png"}, "data/NAME.png"),
    "nested": (
        {"images/x/y/a.png": "masks/x/y/a.png", "images/x/z/a.png": "masks/x/z/a.png"},
        "images/x/…/NAME.png ↔ masks/x/…/NAME.png, 2 pairs",
    ),
    "role words inside": (
        {"images/seg/a.png": "masks/seg/a.png", "images/other/a.png": "masks/other/a.png"},
        "images/…/NAME.png",
    ),
    "role words outside": (
        {"segmentation/images/a.png": "segmentation/masks/a.png"},
        "segmentation/images/NAME.png",
    ),
    "one folder per sample": (
        {"s1/image.png": "s1/mask.png", "s2/image.png": "s2/mask.png"},
        "…/image.png ↔ …/mask.png, 2 pairs",
    ),
    "both affixes": (
        {
            "images/21_training.tif": "masks/21_manual1.gif",
            "images/3_training.tif": "masks/3_manual1.gif",
        },
        "images/NAME_training.tif ↔ masks/NAME_manual1.gif, 2 pairs",
    ),
    "affixes that differ by split": (
        {
            "training/images/21_training.tif": "training/1st_manual/21_manual1.gif",
            "training/images/22_training.tif": "training/1st_manual/22_manual1.gif",
            "test/images/01_test.tif": "test/1st_manual/01_manual1.gif",
            "test/images/02_test.tif": "test/1st_manual/02_manual1.gif",
        },
        "{split}/images/NAME.tif ↔ {split}/1st_manual/NAME.gif, 4 pairs",
    ),
    "annotation": (
        {"images/001_image.png": "masks/001_annotation.png"},
        "images/NAME_image.png ↔ masks/NAME_annotation.png, 1 pair",
    ),
    "dots in stems": (
        {"images/a.b.tif": "masks/a.b.mask.tif", "images/c.tif": "masks/c.mask.tif"},
        "images/NAME.tif ↔ masks/NAME.mask.tif, 2 pairs",
    ),
    "camel case, one pair": (
        {"images/Spain_7370579_S2Hand.tif": "masks/Spain_7370579_LabelHand.tif"},
        "images/NAME_S2Hand.tif ↔ masks/NAME_LabelHand.tif, 1 pair",
    ),
    "prefixes": (
        {"images/img_1.png": "masks/mask_1.png", "images/img_10.png": "masks/mask_10.png"},
        "images/img_NAME.png ↔ masks/mask_NAME.png, 2 pairs",
    ),
    "both ends": (
        {"images/im-1-rgb.png": "masks/gt-1-bw.png", "images/im-2-rgb.png": "masks/gt-2-bw.png"},
        "images/im-NAME-rgb.png ↔ masks/gt-NAME-bw.png, 2 pairs",
    ),
    "masks among the images": (
        {"images/a.png": "images/masks/a.png", "images/b.png": "images/masks/b.png"},
        "images/NAME.png ↔ images/masks/NAME.png, 2 pairs",
    ),
    "nnU-Net": (
        {"imagesTr/c_001_0000.png": "labelsTr/c_001.png", "imagesTs/d_0000.png": "labelsTs/d.png"},
        "2 pairs",
    ),
    "Cityscapes": (
        {
            "leftImg8bit/val/x/x_1_2_leftImg8bit.png": "gtFine/val/x/x_1_2_gtFine_labelIds.png",
            "leftImg8bit/train/y/y_1_3_leftImg8bit.png": "gtFine/train/y/y_1_3_gtFine_labelIds.png",
        },
        "NAME_leftImg8bit.png ↔ gtFine/{split}/… ↔ … 2 pairs",
    ),
    "odd names": (
        {"images/a [1]\n(*).png": "masks/a [1]\n(*).png", "images/ü ß.png": "masks/ü ß.png"},
        "2 pairs",
    ),
}
SUFFIXES = ["_mask", "_seg", "_label", "_gt", ".mask", "-mask", "_annotation", "_manual1", " mask"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_found(tmp_path: Path, layout: str) -> None:
    expected, rule = LAYOUTS[layout]
    found = find_pairs(write(tmp_path, [*expected, *expected.values()]))
    assert couples(found) == expected
    assert all(re.search(re.escape(part), found.rule) for part in rule.split("… ↔ …"))
    assert len({pair.name for pair in found.pairs}) == len(expected)
    assert [pair.name for pair in found.pairs] == sorted(pair.name for pair in found.pairs)


@pytest.mark.parametrize("folder", ["", "train/", "images/", "labels/"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_masks_in_the_folder_of_the_images(tmp_path: Path, folder: str, suffix: str) -> None:
    expected = {f"{folder}{x}.jpg": f"{folder}{x}{suffix}.png" for x in ("a", "a_1", "b")}
    assert couples(find_pairs(write(tmp_path, [*expected, *expected.values()]))) == expected


def test_mask_prefix_in_one_folder(tmp_path: Path) -> None:
    expected = {f"{x}.jpg": f"mask_{x}.png" for x in ("a", "b")}
    assert couples(find_pairs(write(tmp_path, [*expected, *expected.values()]))) == expected


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("valid", "val"),
        ("validation", "val"),
        ("dev", "val"),
        ("eval", "val"),
        ("testing", "test"),
        ("TEST", "test"),
    ],
)
def test_split_is_the_folders(tmp_path: Path, name: str, split: str | None) -> None:
    other = "test" if split == "train" else "train"
    both = [(name, "a"), (other, "b")]
    below = [f"{side}/{part}/{x}.png" for part, x in both for side in ("images", "masks")]
    above = [f"{part}/{side}/{x}.png" for part, x in both for side in ("images", "masks")]
    for i, files in enumerate((below, above)):
        found = find_pairs(write(tmp_path / str(i), files)).pairs
        splits = {pair.name: pair.split for pair in found}
        assert splits[f"{split or name}/a"] == (split if split else None)


names = st.from_regex(r"[_\-. ]{0,2}[ab01][ab01_\-. ]{0,4}", fullmatch=True)
affixes = st.sampled_from(["", "_image", "_x1", "-rgb"]), st.sampled_from(["", "_mask", ".gt"])


@given(st.sets(names, min_size=2, max_size=12), *affixes)
def test_constant_affixes_are_found_whatever_the_names(
    keys: set[str], image_suffix: str, mask_suffix: str
) -> None:
    images = [((), key + image_suffix) for key in keys]
    masks = [((), key + mask_suffix) for key in keys]
    found = find_affixes(images, masks)
    pairs = {
        (key + image_suffix)[len(found[0]) : len(key + image_suffix) - len(found[1])]: key
        for key in keys
    }
    others = {
        (key + mask_suffix)[len(found[2]) : len(key + mask_suffix) - len(found[3])]: key
        for key in keys
    }
    assert pairs == others


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["scan_1"], ["scan_2"]),  # a number is no affix
        (["scan_01", "scan_02"], ["scan_11", "scan_12"]),  # nor is a part of one
        (["day1_a", "day1_b"], ["day2_a", "day2_b"]),
        (["cat"], ["car"]),
        (["cat"], ["dog_mask"]),
        (["left_eye"], ["right_eye"]),  # one pair with no word for a mask proves nothing
    ],
)
def test_unlike_names_are_not_paired(tmp_path: Path, images: list[str], masks: list[str]) -> None:
    files = [f"images/{name}.png" for name in images] + [f"masks/{name}.png" for name in masks]
    with pytest.raises(PairingError) as error:
        find_pairs(write(tmp_path, files))
    assert error.value.offenders


def test_affixes_with_some_masks_missing() -> None:
    images = [((), f"{i}_training") for i in range(40)]
    masks = [((), f"{i}_manual1") for i in range(0, 40, 7)]
    assert find_affixes(images, masks) == Affixes("", "_training", "", "_manual1")


def test_noise_in_the_folder_is_ignored(tmp_path: Path) -> None:
    noise = ["classes.txt", "README.md", "images/Thumbs.db", "images/.hidden.png", ".git/x.png"]
    noise += ["__MACOSX/images/._a.png", "images/.DS_Store", "masks/notes.csv", "images/png"]
    noise += ["images/NDTiff.index", "masks/NDTiff.index"]  # of Micro-Manager
    root = write(tmp_path, ["images/a.png", "masks/a.png", *noise])
    found = find_pairs(root)
    assert couples(found) == {"images/a.png": "masks/a.png"}
    assert "left out" not in found.rule


@pytest.mark.parametrize(
    ("files", "image"),
    [
        (["train/images/a.png", "train/masks/a.png", "test/images/b.png"], "train/images/a.png"),
        (["train/a.jpg", "train_masks/a_mask.gif", "test/b.jpg"], "train/a.jpg"),
        (["imagesTr/a.png", "labelsTr/a.png", "imagesTs/b.png"], "imagesTr/a.png"),
    ],
)
def test_a_test_split_without_masks_is_left_out_and_told(
    tmp_path: Path, files: list[str], image: str
) -> None:
    found = find_pairs(write(tmp_path, files))
    assert list(couples(found)) == [image]
    assert found.rule.endswith("1 pair (left out: 1 × test image without masks)")
    assert [pair.split for pair in found.pairs] == [None]


def test_images_outside_the_folders_are_told(tmp_path: Path) -> None:
    found = find_pairs(write(tmp_path, ["images/a.png", "masks/a.png", "logo.png"]))
    assert (
        found.rule
        == "images/NAME.png ↔ masks/NAME.png, 1 pair (left out: 1 × goes with no other file)"
    )


def test_link_loops_end(tmp_path: Path) -> None:
    root = write(tmp_path, ["images/a.png", "masks/a.png"])
    (root / "images" / "loop").symlink_to(root, target_is_directory=True)
    (root / "masks" / "self").symlink_to(root / "masks" / "self")
    assert len(find_pairs(root).pairs) == 1
    assert len(find_images([root])) == 2


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    store = write(tmp_path / "store", ["x/a.png", "y/a.png"])
    root = tmp_path / "root"
    root.mkdir()
    (root / "images").symlink_to(store / "x", target_is_directory=True)
    (root / "masks").symlink_to(store / "y", target_is_directory=True)
    assert couples(find_pairs(root)) == {"images/a.png": "masks/a.png"}


def test_broken_links_and_pipes_are_named(tmp_path: Path) -> None:
    root = write(tmp_path, ["images/a.png", "masks/a.png"])
    (root / "images" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "images" / "round.png").symlink_to(root / "images" / "round.png")
    os.mkfifo(root / "masks" / "pipe.png")
    for call, kind in ((find_pairs, PairingError), (lambda r: find_images([r]), ImageError)):
        with pytest.raises(kind, match="broken links or no ordinary files") as error:
            call(root)
        assert {Path(name).name for name in error.value.offenders} == {
            "gone.png",
            "round.png",
            "pipe.png",
        }


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(PairingError, match=r"there is no folder .*nowhere"):
        find_pairs(tmp_path / "nowhere")


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    image = write(tmp_path, ["a.png"]) / "a.png"
    with pytest.raises(PairingError, match=r"a\.png is a file\nGive the folder"):
        find_pairs(image)


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(PairingError, match=r"holds no images\nImages end in .*\.png"):
        find_pairs(write(tmp_path, ["classes.txt"]))


def test_images_but_no_masks(tmp_path: Path) -> None:
    with pytest.raises(PairingError, match="2 image files, of which none") as error:
        find_pairs(write(tmp_path, ["images/a.png", "images/b.png"]))
    assert error.value.offenders == ["images: 2 image files"]
    assert [command.split(" ", 3)[3] for command in error.value.commands] == ["--pairs FILE.csv"]


def test_other_numbers_are_asked_for_in_a_table_whose_lines_are_shown(tmp_path: Path) -> None:
    with pytest.raises(PairingError) as error:
        find_pairs(write(tmp_path, ["a/1.png", "a/2.png", "b/7.png", "b/8.png"]))
    assert error.value.fix.endswith("the lines image,mask and a/1.png,b/8.png …:")
    assert error.value.commands[-1].endswith("--pairs FILE.csv")


def test_masks_but_no_images(tmp_path: Path) -> None:
    with pytest.raises(PairingError, match="1 image file, of which none") as error:
        find_pairs(write(tmp_path, ["masks/a.png"]))
    assert "no masks" not in str(error.value)


# What does not pair

HASHES = {"abc": ("9c", "1f"), "def": ("07", "3d", "e2")}
ODD = {  # files beside the good pairs, and why each takes no part
    "no mask": {"images/left [1]\n.png": NO_MASK},
    "no image": {"masks/or phan.png": NO_IMAGE},
    "a numbered orphan": {"masks/z\n3_1.png": NO_IMAGE},
    "equal images": {"images/t.jpg": NO_MASK, "images/t.png": NO_MASK},
}


@pytest.mark.parametrize("name", ODD)
def test_orphans_are_left_out_and_told(tmp_path: Path, name: str) -> None:
    good = {f"images/{stem}.png": f"masks/{stem}.png" for stem in ("x 1", "y[2]", "z\n3")}
    root = write(tmp_path, [*good, *good.values(), *ODD[name]])
    found = find_pairs(root)
    assert couples(found) == good
    assert dict(found.left_out) == {root / file: why for file, why in ODD[name].items()}
    with pytest.raises(PairingError) as error:
        find_pairs(root, GroupsConfig(unpaired="error"))
    assert set(error.value.paths) == {root / file for file in ODD[name]}
    assert all(line.isprintable() for line in error.value.offenders)


def test_images_without_mask_may_show_nothing(tmp_path: Path) -> None:
    both = [f"{side}/{i}.png" for side in ("images", "masks") for i in range(2)]
    root = write(tmp_path, [*both, *(f"images/good{i}.png" for i in range(9))])
    with pytest.raises(PairingError, match="9 images without mask") as error:
        find_pairs(root)
    assert len(error.value.offenders) == 9
    assert [command.split()[-1] for command in error.value.commands] == ["skip", "empty"]
    found = find_pairs(root, GroupsConfig(unpaired="empty"))
    assert Counter(pair.mask is None for pair in found.pairs) == {True: 9, False: 2}
    assert not found.left_out
    assert found.rule.endswith(", 2 pairs, and 9 images without mask, which show nothing")


def test_case_and_unicode_form_do_not_matter(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "zoé") for form in ("NFC", "NFD"))
    expected = {f"images/{composed}.png": f"masks/{apart}.png", "images/Cat.png": "masks/cat.png"}
    assert couples(find_pairs(write(tmp_path, [*expected, *expected.values()]))) == expected


def test_an_image_with_several_masks_is_told_with_them(tmp_path: Path) -> None:
    files = [f"{x}/images/{x}.png" for x in ("abc", "def")]
    files += [f"{x}/masks/{hash_}.png" for x in ("abc", "def") for hash_ in (HASHES[x])]
    with pytest.raises(PairingError, match="2 images with several masks") as error:
        find_pairs(write(tmp_path, files))
    assert error.value.offenders[0] == "abc/images/abc.png: abc/masks/1f.png, abc/masks/9c.png"
    assert "unetseg import instances" in error.value.commands[0]


def test_masks_of_which_no_content_tells_that_they_are_apart_are_asked_about(
    tmp_path: Path,
) -> None:
    files = [f"benign/benign ({i}){end}.png" for i in range(9) for end in ("", "_mask")]
    with pytest.raises(PairingError, match="with several masks") as error:
        find_pairs(write(tmp_path, [*files, "benign/benign (3)_mask_1.png"]))
    assert len(error.value.offenders) == 1


@pytest.mark.parametrize("name", ["{i}_class_{kind}", "{kind}/{i}"])
def test_masks_of_several_classes_are_a_question_with_the_command_that_unites_them(
    tmp_path: Path, name: str
) -> None:
    files = [f"images/IMG_{i}.png" for i in range(4)]
    for kind in ("cat", "dog"):
        files += ["masks/" + name.format(i=f"IMG_{i}", kind=kind) + ".png" for i in range(4)]
    with pytest.raises(PairingError, match="several masks for each image") as error:
        find_pairs(write(tmp_path, files))
    assert error.value.commands[0] == f"unetseg import classes {tmp_path} OUT"
    assert len(error.value.commands) == 3


@pytest.mark.parametrize("rival", ["labels", "mask"])
def test_rivals_are_a_question_whose_answers_work(tmp_path: Path, rival: str) -> None:
    files = [f"train/{folder}/{i}.png" for folder in ("images", "manual", rival) for i in range(3)]
    with pytest.raises(PairingError, match="several masks for each image") as error:
        find_pairs(write(tmp_path, files))
    answers = [shlex.split(command) for command in error.value.commands]
    masks = {words[words.index("--masks") + 1] for words in answers}
    assert masks == {f"train/{rival}", "train/manual"}
    for words in answers:
        images, masks_ = (Path(words[words.index(flag) + 1]) for flag in ("--images", "--masks"))
        found = find_pairs(tmp_path, GroupsConfig(images=images, masks=masks_))
        assert len(found.pairs) == 3


@pytest.mark.parametrize(
    ("images", "masks"), [("*_rgb.png", "*_fg.png"), ("plants/*_rgb.png", "plants/*_fg.png")]
)
def test_patterns_choose_files(tmp_path: Path, images: str, masks: str) -> None:
    folder = Path(images).parent
    kinds = ("rgb", "fg", "label", "centers")
    root = write(tmp_path, [str(folder / f"{i}_{kind}.png") for i in range(3) for kind in kinds])
    found = find_pairs(root, GroupsConfig(images=Path(images), masks=Path(masks)))
    expected = {str(folder / f"{i}_rgb.png"): str(folder / f"{i}_fg.png") for i in range(3)}
    assert couples(found) == expected


sides = st.sets(st.from_regex(r"[abAB]{1,2}(_[xX1])?\.(png|jpg)", fullmatch=True), min_size=1)


@settings(max_examples=60)
@given(sides, sides)
def test_every_file_is_paired_or_told(
    tmp_path_factory: pytest.TempPathFactory, images: set[str], masks: set[str]
) -> None:
    files = {*(f"images/{name}" for name in images), *(f"masks/{name}" for name in masks)}
    root = write(tmp_path_factory.mktemp("data"), files)
    with suppress(PairingError):
        every_file_is_told(find_pairs(root), {root / file for file in files})


def every_file_is_told(found: PairSet, files: set[Path]) -> None:
    sides = (path for pair in found.pairs for path in (pair.image, pair.mask))
    paired = [path for path in sides if isinstance(path, Path)]
    left_out = [path for path, _ in found.left_out]
    assert sorted([*paired, *left_out]) == sorted(files)
    assert len({pair.name for pair in found.pairs}) == len(found.pairs)
    assert {pair.image.parent.name for pair in found.pairs} == {"images"}
    assert {p.mask.parent.name for p in found.pairs if isinstance(p.mask, Path)} == {"masks"}


# Splits


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["training_data/{}/a.png", "test_data/{}/b.png"], {"train": 1, "test": 1}),
        (["Train_Folder/{}/a.png", "Val_Folder/{}/b.png"], {"train": 1, "val": 1}),
        (["train/{}/a.png", "train/{}/b.png"], {None: 2}),  # one split splits nothing
        (["train/{}/a.png", "test/{}/b.png", "more/{}/c.png"], {"train": 1, "test": 1}),
        (["random_train/{}/a.png", "random_test/{}/b.png"], {"train": 1, "test": 1}),
        (["{}/a.png", "{}/b.png", "test/{}/c.png"], {"train": 2, "test": 1}),
        (["my_test/train/{0}/1.png", "my_test/val/{0}/1.png"], {"train": 1, "val": 1}),
        (["TrainVal_{0}/train_{0}/a.png", "TrainVal_{0}/val_{0}/b.png"], {"train": 1, "val": 1}),
        ([*(f"{{}}/{x}.png" for x in "abcd"), "val/{}/e.png"], {"train": 4, "val": 1}),
        (
            ["train/{}/a.png", "val/{}/b.png", "old/val/train/{}/c.png", "old/val/test/{}/d.png"],
            {"train": 2, "val": 1, "test": 1},
        ),
    ],
)
def test_words_are_splits_where_they_split(
    tmp_path: Path, files: list[str], expected: dict[str | None, int]
) -> None:
    root = write(tmp_path, [file.format(side) for file in files for side in ("images", "masks")])
    assert Counter(pair.split for pair in find_pairs(root).pairs) == expected


@pytest.mark.parametrize(
    "lists",
    [
        {"train.txt": "a\nb\n", "val.txt": "c\n"},
        {"ImageSets/Segmentation/train.txt": "a.png\nb.png", "ImageSets/Segmentation/val.txt": "c"},
        {
            "train.txt": "images/a.png masks/a.png\nimages/b.png masks/b.png",
            "val.txt": "images/c.png",
        },
        {"val_list.txt": "images\\c.png\r\n"},
    ],
)
def test_lists_are_the_splits(tmp_path: Path, lists: dict[str, str]) -> None:
    root = write(tmp_path, [f"{side}/{x}.png" for side in ("images", "masks") for x in "abc"])
    for name, text in lists.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8-sig", newline="")
    splits = {pair.name: pair.split for pair in find_pairs(root).pairs}
    assert splits == {"a": "train", "b": "train", "c": "val"}


# Folders and tables by hand


def test_explicit_folders_need_no_telling_names(tmp_path: Path) -> None:
    expected = {"left/train/a.tif": "right/train/a_x.png", "left/val/b.tif": "right/val/b_x.png"}
    write(tmp_path, [*expected, *expected.values()])
    for root in (tmp_path, Path()):
        found = find_pairs(tmp_path, GroupsConfig(images=root / "left", masks=tmp_path / "right"))
        assert couples(found) == expected
        assert [pair.split for pair in found.pairs] == ["train", "val"]
    assert found.rule == "left/{split}/NAME.tif ↔ right/{split}/NAME_x.png, 2 pairs"


def test_explicit_folders_may_be_nested_or_one(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "b.png", "deep/a.png", "deep/b.png"])
    found = find_pairs(tmp_path, GroupsConfig(images=tmp_path, masks=tmp_path / "deep"))
    assert couples(found) == {"a.png": "deep/a.png", "b.png": "deep/b.png"}
    one = write(tmp_path / "one", ["a.png", "a_mask.png"])
    assert couples(find_pairs(one, GroupsConfig(images=one, masks=one))) == {"a.png": "a_mask.png"}


@pytest.mark.parametrize("images", ["left", "left [1]"])
def test_explicit_folders_are_those_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: str
) -> None:
    data = write(tmp_path / "data", [f"{images}/a.png", "right/a.png"])
    monkeypatch.chdir(write(tmp_path, ["left/x.png", "right/x.png"]))
    found = find_pairs(data, GroupsConfig(images=Path(images), masks=Path("right")))
    assert couples(found) == {f"{images}/a.png": "right/a.png"}


def test_a_table_by_hand_is_that_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "data", ["a.png", "m.png"])
    (data / "list.csv").write_text("image,mask\na.png,m.png\n")
    (tmp_path / "list.csv").write_text("image,mask\n")
    monkeypatch.chdir(tmp_path)
    for table in (Path("list.csv"), Path("data/list.csv")):
        assert couples(find_pairs(data, GroupsConfig(pairs=table))) == {"a.png": "m.png"}


def test_explicit_folders_that_are_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(PairingError, match="no such folder") as error:
        find_pairs(tmp_path, GroupsConfig(images=Path("here"), masks=Path("there")))
    assert error.value.offenders == [str(tmp_path / "here"), str(tmp_path / "there")]
    (tmp_path / "here").mkdir()
    write(tmp_path, ["there/a.png"])
    with pytest.raises(PairingError, match="no images in") as error:
        find_pairs(tmp_path, GroupsConfig(images=Path("here"), masks=Path("there")))
    assert error.value.offenders == [f"{tmp_path / 'here'} (images)"]


def test_contradicting_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--images DIR --masks DIR"):
        find_pairs(tmp_path, GroupsConfig(images=tmp_path))
    with pytest.raises(ConfigError):
        find_pairs(tmp_path, GroupsConfig(images=tmp_path, masks=tmp_path, pairs=Path("x.csv")))
    with pytest.raises(ConfigError, match="--group-column"):
        find_pairs(tmp_path, GroupsConfig(group_column="patient"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_table(tmp_path: Path, delimiter: str) -> None:
    write(tmp_path, ["x/1.jpg", "x/2.jpg", "y/cat, one.png", "y/dog.png"])
    rows = [
        ["Image", "mask", "split", "group", "patient"],
        ["x/1.jpg", '"y/cat, one.png"', "Training", "g", "p1"],
        [str(tmp_path / "x" / "2.jpg"), "y/dog.png", "", "", "p2"],
    ]
    text = "\ufeff" + "\r\n".join(delimiter.join(row) for row in rows) + "\r\n\r\n"
    (tmp_path / "pairs.csv").write_bytes(text.encode())
    found = find_pairs(tmp_path)
    assert found == find_pairs(tmp_path / "pairs.csv")
    assert found.pairs == (
        Pair(tmp_path / "x/1.jpg", tmp_path / "y/cat, one.png", "1", "train", "g"),
        Pair(tmp_path / "x/2.jpg", tmp_path / "y/dog.png", "2", None, None),
    )
    grouped = find_pairs(tmp_path, GroupsConfig(group_column="Patient"))
    assert [pair.group for pair in grouped.pairs] == ["p1", "p2"]
    assert found.rule.endswith("pairs.csv, 2 pairs")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("image_path,mask_path,subset,note", [("train", None), ("val", None)]),
        ("Image Path, Label ,set,fold", [("train", "0"), ("val", "1")]),
        ("filename;seg;SPLIT;Group", [("train", "0"), ("val", "1")]),
        ("file\tgt\tnote\tfold", [(None, "0"), (None, "1")]),
        ("path,annotation,label,note", [(None, None)] * 2),  # label is no file, annotation is
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_usual_columns_of_a_table(
    tmp_path: Path, header: str, expected: list[tuple[str | None, str | None]], encoding: str
) -> None:
    write(tmp_path, ["scans/ä 1/x.tif", "scans/ä 1/y.tif", "scans/ä 2/x.tif", "scans/ä 2/y.tif"])
    delimiter = next(d for d in ",;\t" if d in header)
    rows = [
        [f"scans\\ä {n}\\{name}.tif" for name in "xy"] + [split, fold]
        for n, split, fold in ((1, "Train", "0"), (2, "val", "1"))
    ]
    text = "\r\n".join([header, *(delimiter.join(row) for row in rows), ""])
    (tmp_path / "lists").mkdir()
    for table in (tmp_path / "my.csv", tmp_path / "lists" / "my.csv"):
        table.write_bytes(text.encode(encoding))
        found = find_pairs(tmp_path, GroupsConfig(pairs=table.relative_to(tmp_path)))
        assert couples(found) == {f"scans/ä {n}/x.tif": f"scans/ä {n}/y.tif" for n in (1, 2)}
        assert [(pair.split, pair.group) for pair in found.pairs] == expected


def test_names_of_data_sets_and_a_single_fold_are_neither_split_nor_group(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "b.png", "m.png"])
    (tmp_path / "pairs.csv").write_text("img,mask,set,fold\na.png,m.png,isic,1\nb.png,m.png,,1\n")
    assert {(pair.split, pair.group) for pair in find_pairs(tmp_path).pairs} == {(None, None)}


def test_table_names_are_unique(tmp_path: Path) -> None:
    images = ["p/a.png", "p/a.jpg", "q/a.png"]
    write(tmp_path, [*images, "m.png"])
    table = tmp_path / "list.csv"
    table.write_text("image,mask\n" + "".join(f"{image},m.png\n" for image in images))
    found = find_pairs(tmp_path, GroupsConfig(pairs=table))
    assert [pair.name for pair in found.pairs] == ["p/a_jpg", "p/a_png", "q/a"]


def test_every_fault_of_a_table_is_listed(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "b.png"])
    rows = ["a.png,b.png,train", "a.png,gone.png,train", "lost.png,,fold1", "b.png,a.png,val,more"]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,mask,split", *rows]))
    with pytest.raises(PairingError, match="faulty rows") as error:
        find_pairs(tmp_path)
    assert error.value.offenders == [
        "line 3: mask gone.png does not exist",
        "line 4: image lost.png does not exist",
        "line 4: no mask",
        "line 4: split fold1 is none of train, val, test",
        "line 5: more cells than columns (quote names with commas)",
        f"{tmp_path}/a.png is listed 2 times as image",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"picture,truth\na,b\n", "lacks columns\n  - image\n  - mask\n.*found: picture, truth"),
        (b"", "lacks columns"),
        (b"image,mask\n", "lists no pairs"),
        (b"image,mask\n\xff\xfe,a\n", "cannot read .*UTF-8"),
        (b'image,mask\n"a"b,c\n', "cannot read"),
    ],
)
def test_table_that_is_none(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "pairs.csv").write_bytes(text)
    with pytest.raises(PairingError, match=f"(?s){message}"):
        find_pairs(tmp_path)


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(PairingError, match=r"gone\.csv: No such file or directory\nCheck"):
        find_pairs(tmp_path, GroupsConfig(pairs=tmp_path / "gone.csv"))


UNLIKE = {f"scans/{image}.png": f"scans/{mask}.png" for image, mask in ("ax", "by", "cz", "dw")}


def rows(header: str, form: str, *numbers: int) -> str:
    couples = [[*UNLIKE.items()][number] for number in numbers]
    return "\n".join([header, *(form.format(*couple) for couple in couples)])


@pytest.mark.parametrize(
    ("tables", "splits"),
    [
        ({"metadata.csv": rows("image,mask", "{},{}", 0, 1, 2, 3)}, "----"),
        ({"lists/set.csv": rows("mask_path,img_path,age", "{1},{0},7", 0, 1, 2, 3)}, "----"),
        ({"m.csv": rows("image;mask;split", "{};{};train", 0, 1, 2, 3)}, "----"),
        (
            {
                "train.csv": rows("image,label", "{},{}", 0, 1),
                "valid.csv": rows("image,label", "{},{}", 2),
                "test.csv": rows("image,label", "{},{}", 3),
                "results.csv": rows("image,mask", "{1},{0}", 0),
                "classes.csv": "image,label\nscans/a.png,cat\n",
                "boxes.csv": "image,annotation\nscans/a.png,lists.xml\n",
            },
            "ttvs",
        ),
        (
            {
                "all.csv": rows("image,mask", "{},{}", 0, 1, 2, 3),
                "train.csv": rows("image,mask", "{},{}", 0, 1),
                "test.csv": rows("mask,image", "{1},{0}", 2, 3),
            },
            "ttss",
        ),
    ],
)
def test_a_table_of_any_name_tells_what_the_folder_does_not(
    tmp_path: Path, tables: dict[str, str], splits: str
) -> None:
    write(tmp_path, [*UNLIKE, *UNLIKE.values(), "lists/a.txt", "lists.xml"])
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
    found = find_pairs(tmp_path)
    assert couples(found) == UNLIKE
    words = {"t": "train", "v": "val", "s": "test", "-": None}
    assert [pair.split for pair in found.pairs] == [words[letter] for letter in splits]
    assert all((name in found.rule) == (name[0] not in "rcb") for name in tables)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_table_in_utf_16_tells_what_the_folder_does_not(tmp_path: Path, encoding: str) -> None:
    write(tmp_path, [*UNLIKE, *UNLIKE.values()])
    text = "\ufeff" + rows("image,mask", "{},{}", 0, 1, 2, 3)
    (tmp_path / "metadata.csv").write_bytes(text.encode(encoding))
    assert couples(find_pairs(tmp_path)) == UNLIKE


@pytest.mark.parametrize("row", ["scans/none.png,none.png", "scans/a.png,", "{},{}"])
def test_faulty_rows_of_the_only_table_are_told(tmp_path: Path, row: str) -> None:
    write(tmp_path, [*UNLIKE, *UNLIKE.values()])
    table = rows("image,mask", "{},{}", 0, 1, 2, 3)
    (tmp_path / "metadata.csv").write_text(f"{table}\n{row.format(*next(iter(UNLIKE.items())))}\n")
    with pytest.raises(PairingError, match="has faulty rows"):
        find_pairs(tmp_path)


def test_tables_that_differ_are_a_question_whose_answers_work(tmp_path: Path) -> None:
    write(tmp_path, [*UNLIKE, *UNLIKE.values()])
    (tmp_path / "one.csv").write_text(rows("image,mask", "{},{}", 0, 1))
    (tmp_path / "two.csv").write_text(rows("image,mask", "{0},{0}", 0, 1))
    with pytest.raises(PairingError, match="several tables of pairs") as error:
        find_pairs(tmp_path)
    answers = [Path(shlex.split(command)[-1]) for command in error.value.commands]
    found = [couples(find_pairs(tmp_path, GroupsConfig(pairs=table))) for table in answers]
    assert found[0].items() < UNLIKE.items()
    assert found[1] == {image: image for image in found[0]}


@pytest.mark.parametrize("swapped", [False, True])
def test_a_table_against_a_clear_folder_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: bool
) -> None:
    write(tmp_path, [f"{side}/{name}.png" for side in ("images", "masks") for name in "abc"])
    masks = "bac" if swapped else "abc"
    lines = [f"images/{a}.png,masks/{b}.png" for a, b in zip("abc", masks, strict=True)]
    (tmp_path / "metadata.csv").write_text("\n".join(["image,mask", *lines]))
    monkeypatch.chdir(tmp_path)
    found = find_pairs(Path())
    assert couples(found)["images/a.png"] == "masks/a.png"
    told = "metadata.csv lists 2 other pairs and is not used without --pairs"
    assert found.rule.endswith(f"3 pairs; {told}" if swapped else "3 pairs")


# Groups


def test_groups_from_file_names_or_folders(tmp_path: Path) -> None:
    keys = ["p1/7_a", "p1/8_b", "p2/7_c"]
    root = write(tmp_path, [f"{side}/{key}.png" for side in ("images", "masks") for key in keys])
    for expression, groups in (
        (r"^\d", ["7", "8", "7"]),
        (r"_(.)", ["a", "b", "c"]),
        ("^p[0-9]+", ["p1", "p1", "p2"]),
    ):
        found = find_pairs(root, GroupsConfig(group=expression))
        assert [pair.group for pair in found.pairs] == groups


def test_group_must_match_every_image(tmp_path: Path) -> None:
    keys = ["p1", "q", "r"]
    root = write(tmp_path, [f"{side}/{key}.png" for side in ("images", "masks") for key in keys])
    with pytest.raises(ConfigError, match="does not match 2 of 3 images") as error:
        find_pairs(root, GroupsConfig(group=r"p\d"))
    assert error.value.offenders == ["q", "r"]
    with pytest.raises(ConfigError, match="no regular expression"):
        find_pairs(root, GroupsConfig(group="("))


def test_selection() -> None:
    pairs = tuple(Pair(Path(s), None, s, s) for s in ("train", "test"))
    assert [p.name for p in PairSet(Path(), pairs, "").select("all")] == ["train", "test"]
    assert [p.name for p in PairSet(Path(), pairs, "").select("test")] == ["test"]
    assert [p.name for p in PairSet(Path(), pairs, "").select("val")] == ["train"]


# Images for prediction


def outputs(found: list[tuple[Path, Path]]) -> dict[str, str]:
    return {path.as_posix(): name.as_posix() for path, name in found}


def test_images_of_folders_files_and_patterns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write(tmp_path, ["in/a.png", "in/sub/b.x.tif", "in/.c.png", "in/d.txt"]))
    assert outputs(find_images([Path("in")])) == {"in/a.png": "a", "in/sub/b.x.tif": "sub/b.x"}
    assert outputs(find_images(["in/sub/b.x.tif"])) == {"in/sub/b.x.tif": "b.x"}
    assert outputs(find_images(["in/*.*"])) == {"in/a.png": "a"}
    expected = {"in/a.png": "a", "in/sub/b.x.tif": "sub/b.x"}
    assert outputs(find_images(["in/*"])) == outputs(find_images(["in/**/*"])) == expected
    assert outputs(find_images([str(tmp_path / "i?/sub")])) == {
        str(tmp_path / "in/sub/b.x.tif"): "in/sub/b.x"
    }


def test_equal_outputs_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path, ["p/x.jpg", "p/x.png", "p/y.png", "q/x.png", "q/z.png"]))
    assert outputs(find_images(["p"])) == {"p/x.jpg": "x_jpg", "p/x.png": "x_png", "p/y.png": "y"}
    assert outputs(find_images(["p/x.png", "q"])) == {
        "p/x.png": "p/x_png",
        "q/x.png": "q/x_png",
        "q/z.png": "z",
    }


@given(st.sets(st.from_regex(r"([ab]/)?[xy](_png)?\.(png|jpg)", fullmatch=True), min_size=1))
def test_outputs_never_collide(tmp_path_factory: pytest.TempPathFactory, files: set[str]) -> None:
    root = write(tmp_path_factory.mktemp("in"), files)
    found = find_images([root, *(root / file for file in sorted(files))])
    assert {path for path, _ in found} == {root / file for file in files}
    assert max(Counter(name for _, name in found).values()) == 1
    assert [name for _, name in found] == sorted(name for _, name in found)


def test_brackets_in_file_names_are_no_pattern(tmp_path: Path) -> None:
    path = write(tmp_path, ["a[1].png", "a1.png"]) / "a[1].png"
    assert find_images([path]) == [(path, Path("a[1]"))]


def test_inputs_without_images_are_all_listed(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "empty/x.txt"])
    inputs = [str(tmp_path / name) for name in ("a.png", "empty", "gone.png", "*.jpg")]
    with pytest.raises(ImageError, match="no images found") as error:
        find_images(inputs)
    assert error.value.offenders == inputs[1:]
    with pytest.raises(ImageError, match=r"^there is no gone.png\nCheck the path"):
        find_images(["gone.png"])
    with pytest.raises(ImageError):
        find_images([])


# Real data

REAL = {
    "camvid": {"train": 82, "val": 30},
    "crackforest": {None: 118},
    "cwfid": {"train": 7, "test": 5},
    "drive": {None: 20},
    "dsb2018": {None: 217},
    "glas256": {"train": 85, "test": 80},
    "hot_buildings_geotiff": {"train": 48, "val": 13},
    "isbi2012_em": {None: 30},
    "nucseg_16bit": {None: 29},
    "sen1floods11_sample": {None: 1},
    "sen1floods11_tiles13band": {"train": 12, "val": 4},
    "tiny_ade20k": {None: 3},
    "tiny_kvasir_jpgmask": {None: 5},
    "tiny_voc_palette": {None: 3},
}


ENDS = {
    "drive": ("_training", "_manual1"),
    "cwfid": ("_image", "_annotation"),
    "hot_buildings_geotiff": ("", ".mask"),
    "sen1floods11_sample": ("_S2Hand", "_LabelHand"),
}


@pytest.mark.parametrize("folder", REAL)
def test_real_folder(real_data: Path, folder: str) -> None:
    found = find_pairs(real_data / folder)
    assert Counter(pair.split for pair in found.pairs) == REAL[folder]
    image_end, mask_end = ENDS.get(folder, ("", ""))
    for pair in found.pairs:
        assert isinstance(pair.mask, Path)
        assert pair.image.stem == pair.name.split("/")[-1] + image_end
        assert pair.mask.stem == pair.name.split("/")[-1] + mask_end
        assert pair.image.parent.name.replace("images", "masks") == pair.mask.parent.name


def test_real_rule(real_data: Path) -> None:
    rule = find_pairs(real_data / "drive").rule
    assert rule == "images/{split}/NAME_training.tif ↔ masks/{split}/NAME_manual1.gif, 20 pairs"


def test_a_table_may_hold_any_name(tmp_path: Path) -> None:
    names = ["a\rb", "c\nd", "e,f;g", 'h"i', " j "]
    root = write(tmp_path, [f"{side}/{name}.png" for name in names for side in ("images", "masks")])
    with (root / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mask"])
        writer.writerows([f"images/{name}.png", f"masks/{name}.png"] for name in names)
    found = couples(find_pairs(root))
    assert found == {f"images/{name}.png": f"masks/{name}.png" for name in names}


def test_a_table_with_a_name_beyond_all_limits_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("image,mask\n" + "a" * 5000 + ".png,b.png\n", encoding="utf-8")
    with pytest.raises(PairingError, match="faulty rows"):
        find_pairs(table)


@pytest.mark.parametrize(
    ("images", "masks", "expected"),
    [
        ("*.png", "*_mask.png", {"a.png": "a_mask.png", "b.png": "b_mask.png"}),
        ("*_rgb.png", "*.png", {"a_rgb.png": "a.png", "b_rgb.png": "b.png"}),
    ],
)
def test_files_that_both_patterns_fit_are_of_the_narrower_one(
    tmp_path: Path, images: str, masks: str, expected: dict[str, str]
) -> None:
    root = write(tmp_path, [*expected, *expected.values()])
    assert (
        couples(find_pairs(root, GroupsConfig(images=Path(images), masks=Path(masks)))) == expected
    )


def test_answers_work_where_images_have_plain_names_beside_their_masks(tmp_path: Path) -> None:
    root = write(tmp_path, [f"{x}{end}.png" for x in "abc" for end in ("", "_seg", "_gt")])
    with pytest.raises(PairingError, match="several masks for each image") as error:
        find_pairs(root)
    found = []
    for words in map(shlex.split, error.value.commands):
        images, masks = (Path(words[words.index(flag) + 1]) for flag in ("--images", "--masks"))
        found.append(couples(find_pairs(root, GroupsConfig(images=images, masks=masks))))
    for end in ("_seg", "_gt"):
        assert {f"{x}.png": f"{x}{end}.png" for x in "abc"} in found


def test_images_of_a_test_split_do_not_take_the_masks_of_others(tmp_path: Path) -> None:
    expected = {f"images/{i}.png": f"masks/{i}.png" for i in range(6)}
    bare = [f"test_images/{i}.png" for i in range(4)]
    found = find_pairs(write(tmp_path, [*expected, *expected.values(), *bare]))
    assert couples(found) == expected
    assert {why for _, why in found.left_out} == {"test image without masks"}


@pytest.mark.parametrize("images", ["*.png", "."])
def test_what_both_sides_name_is_of_the_narrower_one(tmp_path: Path, images: str) -> None:
    expected = {f"{i}.png": f"{i}_fg.png" for i in range(3)}
    root = write(tmp_path, [*expected, *expected.values()])
    assert (
        couples(find_pairs(root, GroupsConfig(images=Path(images), masks=Path("*_fg.png"))))
        == expected
    )


def test_images_in_two_formats_stay_together_where_some_are_in_both(tmp_path: Path) -> None:
    images = [f"images/{i}.jpg" for i in range(7)] + [f"images/{i}.png" for i in range(5, 10)]
    found = find_pairs(write(tmp_path, [*images, *(f"masks/{i}.png" for i in range(10))]))
    assert sorted(couples(found).values()) == [f"masks/{i}.png" for i in range(10)]
    assert {path.name for path, _ in found.left_out} == {"5.png", "6.png"}


@pytest.mark.parametrize("absolute", [False, True])
def test_patterns_count_from_here_as_folders_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool
) -> None:
    write(tmp_path / "data", [f"{i}_{kind}.png" for i in range(3) for kind in ("rgb", "fg")])
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "data" if absolute else Path("data")
    found = find_pairs(
        Path("data"), GroupsConfig(images=base / "*_rgb.png", masks=base / "*_fg.png")
    )
    assert len(found.pairs) == 3


def test_lists_of_other_folders_do_not_split_folders_named_by_hand(tmp_path: Path) -> None:
    data = write(tmp_path / "data", ["logo.png"])
    places = ("here/images", "there/masks")
    write(tmp_path, [f"{place}/{x}.png" for place in places for x in "abcd"])
    (tmp_path / "other").mkdir()
    for split, text in {"train": "a\nb\nc\n", "val": "d\n"}.items():
        (tmp_path / "other" / f"{split}.txt").write_text(text)
    images, masks = (tmp_path / place for place in places)
    found = find_pairs(data, GroupsConfig(images=images, masks=masks))
    assert [pair.split for pair in found.pairs] == [None] * 4


@pytest.mark.parametrize("outer", ["training_data", "my_test"])
def test_splits_of_images_alone_leave_no_mask_behind(tmp_path: Path, outer: str) -> None:
    images = [f"{outer}/images/{'train' if i < 8 else 'val'}/{i}.png" for i in range(10)]
    found = find_pairs(write(tmp_path, [*images, *(f"{outer}/masks/{i}.png" for i in range(10))]))
    assert Counter(pair.split for pair in found.pairs) == {"train": 8, "val": 2}


def test_pseudo_labels_beside_true_ones_take_no_part(tmp_path: Path) -> None:
    expected = {f"images/{i}.png": f"masks/{i}.png" for i in range(4)}
    more = [f"pseudo/{side}/p{i}.png" for side in ("images", "masks") for i in range(4)]
    assert couples(find_pairs(write(tmp_path, [*expected, *expected.values(), *more]))) == expected


def test_lists_beside_two_folders_named_by_hand_split_them(tmp_path: Path) -> None:
    data = write(tmp_path / "project", ["logo.png"])
    write(tmp_path / "voc", [f"{side}/{x}.png" for side in ("left", "right") for x in "abcd"])
    for split, text in {"train": "a\nb\nc\n", "val": "d\n"}.items():
        (tmp_path / "voc" / f"{split}.txt").write_text(text)
    images, masks = (tmp_path / "voc" / side for side in ("left", "right"))
    found = find_pairs(data, GroupsConfig(images=images, masks=masks))
    assert [pair.split for pair in found.pairs] == ["train"] * 3 + ["val"]


def test_hand_labelled_is_a_place_of_both_sides(tmp_path: Path) -> None:
    expected = {
        f"HandLabeled/S2Hand/Spain_{n}_S2Hand.tif": f"HandLabeled/LabelHand/Spain_{n}_LabelHand.tif"
        for n in (11, 22)
    }
    root = write(tmp_path, [*expected, *expected.values(), "preview.png"])
    assert couples(find_pairs(root)) == expected
