"""What the words of names mean: in several languages, glued or apart, and never inside others."""

import pytest

from unetseg.data.pairs.naming import read_name, tokens


@pytest.mark.parametrize(
    "name",
    [
        *("masks", "1st_manual", "labelcol", "SegmentationClass", "gts_for_participants", "y"),
        *("trainannot", "Ground Truth", "GroundTruth_v2", "lab", "target", "trimaps", "GT_color"),
        *(
            "mascara",
            "Masken",
            "masque",
            "etiquetas",
            "маски",
            "разметка",
            "标签",
            "マスク",
            "마스크",
        ),
        *("gland_masks", "hand_labels", "Mandible masks"),  # "and" is no word of these
    ],
)
def test_words_of_masks(name: str) -> None:
    assert read_name(name).role == "mask"


@pytest.mark.parametrize(
    "name",
    [
        *("images", "JPEGImages", "leftImg8bit", "imgs", "src", "org", "Input", "sat", "x", "rgb"),
        *("RUGD_frames-with-annotations", "Bilder", "imagens", "снимки", "原图", "画像", "원본"),
        *("island_images", "FramesWithAnnotations", "images_and_masks"),
    ],
)
def test_words_of_images(name: str) -> None:
    assert read_name(name).role == "image"


@pytest.mark.parametrize("name", ["labelme", "mapping", "Maple", "imagination", "berlin", "A", "7"])
def test_other_words_say_nothing(name: str) -> None:
    assert read_name(name).role is None


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("train", "train"), ("trainannot", "train"), ("Training_Images", "train")),
        *(("imagesTr", "train"), ("imagesTs", "test"), ("valid", "val"), ("test_data", "test")),
        *(("random_train", "train"), ("island_val", "val"), ("standard_test", "test")),
        *(("trains", None), ("contest", None), ("evaluate", None), ("interval", None)),
    ],
)
def test_splits_are_words_of_their_own(name: str, split: str | None) -> None:
    assert read_name(name).split == split


@pytest.mark.parametrize(
    ("name", "why"),
    [
        *(("predictions", "prediction"), ("overlays", "picture"), ("nDSM", "depth")),
        *(("x_superpixels", "superpixels"), ("fov", "field of view"), ("masks", "")),
    ],
)
def test_what_is_neither_takes_no_part(name: str, why: str) -> None:
    aside = read_name(name).aside
    assert why in aside
    assert bool(why) == bool(aside)


@pytest.mark.parametrize("name", ["masks_color", "2nd_manual", "SegmentationObject", "gt_edges"])
def test_what_something_plainer_is_preferred_to(name: str) -> None:
    assert read_name(name).second


def test_a_name_is_read_apart() -> None:
    said = read_name("train_masks_v2")
    assert (said.split, said.words) == ("train", ("masks",))
    assert (said.rest, said.numbers) == (("v",), ("2",))
    said = read_name("train_images_v2")
    assert (said.rest, said.numbers) == (("v",), ("2",))
    assert tokens("1stHO_e\u0301") == tokens("1stHO_\u00e9") == ("1st", "ho", "\u00e9")
