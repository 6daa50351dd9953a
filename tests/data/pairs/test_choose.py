"""Which series are images and which masks, where names do not say it all."""

import shlex
from pathlib import Path

import pytest

from tests.data.pairs.layouts import draw, read_table
from unetseg.config import GroupsConfig
from unetseg.data.pairs.match import NO_IMAGE, PairSet, find_pairs
from unetseg.errors import PairingError
from unetseg.importers.importing import import_dataset


def folder(root: Path, *lines: str) -> Path:
    """Files drawn as lines of the table of layouts say."""
    (layout,) = read_table("\n".join(["[drawn] for a test", *lines]))
    return draw(layout, root)


def folders(found: PairSet) -> set[tuple[str, str]]:
    """The folders of images and masks."""
    pairs = ((pair.image, pair.mask) for pair in found.pairs)
    return {(i.parent.name, m.parent.name) for i, m in pairs if isinstance(m, Path)}


def reasons(found: PairSet) -> dict[str, str]:
    return {path.parent.name: why for path, why in found.left_out}


def test_numbers_that_agree_are_no_pairs_where_masks_fit_another_image(tmp_path: Path) -> None:
    root = folder(
        tmp_path,
        "photos/shot-{11..18}.png  rgb",
        "masks/no. {011..018} b.png  mask  of photos/shot-{12,13,14,15,16,17,18,11}.png",
    )
    with pytest.raises(PairingError):
        find_pairs(root)


def test_numbers_that_agree_count_where_masks_explain_their_images(tmp_path: Path) -> None:
    line = "photos/shot-{11..18}.png  rgb  = masks/no. {011..018} b.png  mask"
    assert folders(find_pairs(folder(tmp_path, line))) == {("photos", "masks")}


@pytest.mark.parametrize("name", ["mask", "masks", "area"])
def test_discs_beside_masks_are_fields_of_view(tmp_path: Path, name: str) -> None:
    root = folder(
        tmp_path, "images/{1..8}.png  rgb  = manual/{}.png  mask", f"{name}/{{1..8}}.png  fov"
    )
    found = find_pairs(root)
    assert folders(found) == {("images", "manual")}
    assert set(reasons(found)) == {name}


def test_copies_in_colours_give_way_to_numbers(tmp_path: Path) -> None:
    root = folder(
        tmp_path,
        "images/{1..8}.png  rgb  = truth/{}.png  index:4",
        "masks/{1..8}.png  colours:4  of images/{}.png",
    )
    assert folders(find_pairs(root)) == {("images", "truth")}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("predictions", "mask"),
        ("overlays", "overlay"),
        ("depth", "depth"),
        ("2nd_manual", "second"),
    ],
)
def test_what_takes_no_part_is_told_with_its_reason(tmp_path: Path, name: str, kind: str) -> None:
    root = folder(
        tmp_path,
        "images/{1..8}.png  rgb  = masks/{}.png  mask",
        f"{name}/{{1..8}}.png  {kind}  of images/{{}}.png",
    )
    found = find_pairs(root)
    assert folders(found) == {("images", "masks")}
    assert reasons(found)[name]


def test_contents_decide_where_no_word_does(tmp_path: Path) -> None:
    root = folder(tmp_path, "A/{1..8}.png  rgb  = B/{}.png  mask")
    assert folders(find_pairs(root)) == {("A", "B")}


def test_equal_names_of_a_few_are_not_the_images(tmp_path: Path) -> None:
    root = folder(
        tmp_path,
        "images/{1..10}_img.png  rgb  = masks/{}_mask.png  mask",
        "shots/{3..4}_mask.png  rgb",
    )
    assert folders(find_pairs(root)) == {("images", "masks")}


def test_two_truths_are_a_question(tmp_path: Path) -> None:
    root = folder(
        tmp_path,
        "images/{1..8}.png  rgb",
        "roads/{1..8}_mask.png  class:1  of images/{}.png",
        "houses/{1..8}_mask.png  class:2  of images/{}.png",
    )
    with pytest.raises(PairingError, match="several masks") as error:
        find_pairs(root)
    assert len(error.value.commands) == 2


def test_two_kinds_of_photos_are_a_question(tmp_path: Path) -> None:
    root = folder(
        tmp_path,
        "day/{1..8}.png  rgb  = masks/{}.png  mask",
        "night/{1..8}.png  dark  of day/{}.png",
    )
    with pytest.raises(PairingError, match="several images") as error:
        find_pairs(root)
    assert len(error.value.commands) == 2


@pytest.mark.parametrize("masks", ["gt", "labelsTr"])
def test_bands_in_files_of_their_own_are_told_with_what_joins_them(
    tmp_path: Path, masks: str
) -> None:
    root = folder(
        tmp_path,
        f"imagesTr/{{1..8}}_0000.png  grey  = {masks}/{{}}.png  mask",
        "imagesTr/{1..8}_0001.png  grey  of imagesTr/{}_0000.png",
    )
    (root / "dataset.json").write_text(
        '{"labels": {"background": 0, "a": 255}, "file_ending": ".png", "numTraining": 8}'
    )
    with pytest.raises(PairingError, match="several images for each mask, of one band") as error:
        find_pairs(root)
    assert error.value.fix.startswith("Join them")
    first = shlex.split(error.value.commands[0])
    assert (first[1] == "import") == (masks == "labelsTr")
    if first[1] == "import":
        out = tmp_path / "joined"
        import_dataset("nnunet", Path(first[3]), out)
        assert len(find_pairs(out).pairs) == 8


def test_masks_that_number_objects_are_told(tmp_path: Path) -> None:
    root = folder(tmp_path, "images/{1..8}.png  rgb  = masks/{}.png  objects")
    assert find_pairs(root).numbered


def test_a_place_with_good_names_does_not_vouch_for_another(tmp_path: Path) -> None:
    root = folder(
        tmp_path,
        "images/a/img_{001..030}.png  rgb  = masks/a/mask_{}.png  mask",
        "images/b/frame_{0..5}.png  rgb",
        "masks/b/seg_{1..6}.png  mask  of images/b/frame_{0,1,2,3,4,5}.png",
    )
    found = find_pairs(root)
    assert {pair.image.parent.name for pair in found.pairs} == {"a"}
    assert len(found.pairs) == 30
    assert reasons(found) == {"b": NO_IMAGE}  # of images and masks, the last to be told


def test_answers_in_one_folder_pair_no_mask_with_itself(tmp_path: Path) -> None:
    root = folder(
        tmp_path,
        "{1..8}.png  rgb",
        "{1..8}_roads.png  class:1  of {}.png",
        "{1..8}_houses.png  class:2  of {}.png",
    )
    with pytest.raises(PairingError, match="several masks") as error:
        find_pairs(root)
    answers = [words for words in map(shlex.split, error.value.commands) if "--images" in words]
    assert len(answers) == 2
    for words in answers:
        images, masks = (Path(words[words.index(flag) + 1]) for flag in ("--images", "--masks"))
        found = find_pairs(root, GroupsConfig(images=images, masks=masks))
        assert {pair.image.name for pair in found.pairs} == {f"{n}.png" for n in range(1, 9)}
