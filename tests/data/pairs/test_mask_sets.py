"""Images with several masks are paired as they are where names and files leave no doubt."""

import shlex
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.builders import class_map
from unetseg.checks.check import check_folder
from unetseg.checks.fix import write_fixed
from unetseg.config import DataConfig, GroupsConfig, Unpaired
from unetseg.data.crops.reader import PairReader
from unetseg.data.facts.survey import survey
from unetseg.data.files.pages import MaskSet
from unetseg.data.files.pngs import write_png
from unetseg.data.masks.class_map import ClassInfo, ClassMap
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.pairs.mask_sets import find_masks, tell_objects, unite
from unetseg.data.pairs.match import NO_MASK, find_pairs
from unetseg.data.pairs.pair import coded_as
from unetseg.errors import MaskError, PairingError

SIDE = 48
COUNTS = (3, 2, 4, 2, 3, 1)  # masks of each image
OBJECTS = {  # image, and the masks of one that has `n`
    "a folder for each image, hashes": ("{i}/images/{i}.png", "{i}/masks/{h}.png"),
    "a folder for each image, numbers": ("{i}/photo.png", "{i}/masks/{k}.png"),
    "a folder of masks with its name": ("images/im{i}.png", "masks/im{i}/{k}.png"),
    "numbers at the end": ("images/im{i}.png", "masks/im{i}_{k}.png"),
    "numbers behind the word": ("images/im{i}.png", "masks/im{i}_mask_{k}.png"),
    "beside": ("a/im ({i}).png", "a/im ({i})_mask_{k}.png"),
}
CLASSES = {
    "folders": ("images/im{i}.png", "masks/{w}/im{i}.png"),
    "folders of masks": ("images/im{i}.png", "{w}_masks/im{i}.png"),
    "suffixes": ("images/im{i}.png", "masks/im{i}_{w}.png"),
    "suffixes with a word": ("im{i}.jpg.png", "im{i}.jpg_class_{w}.png"),
    "beside": ("im{i}.png", "im{i}_mask_{w}.png"),
    "names": ("p{i}/image.png", "p{i}/masks/{w}.png"),
    "numbers and names": ("images/im{i}.png", "masks/im{i}/{k:04}_{w}.png"),
    "numbered folders": ("1. Original Images/I{i}.png", "2. Groundtruths/1. {w}/I{i}_{w}.png"),
}
OBSERVERS = {
    "numbers": ("images/im{i}.png", "masks/im{i}/{k}.png"),
    "readers": ("images/im{i}.png", "masks/reader{k}/im{i}.png"),
    "people": ("images/im{i}.png", "masks/{w}/im{i}.png"),
    "readers in names": ("images/im{i}.png", "masks/im{i}_reader{k}.png"),
}
WORDS = ("cat", "dog", "elk", "fox")


def square(place: int, side: int = 9) -> NDArray[np.uint8]:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    row, column = divmod(place, 4)
    mask[12 * row + 1 :, 12 * column + 1 :][:side, :side] = 255
    return mask


def draw(root: Path, layout: tuple[str, str], masks: list[list[NDArray[np.uint8]]]) -> Path:
    for i, own in enumerate(masks):
        rng = np.random.default_rng(i)
        image = rng.integers(0, 99, (SIDE, SIDE, 3)).astype(np.uint8)
        image[np.max(own, axis=0) > 0] += 99
        write_png(root / layout[0].format(i=i), image)
        for k, mask in enumerate(own):
            name = f"{1 + 7 * i + k:x}a{k}9{i}"
            mask_name = layout[1].format(i=i, k=k, l="ABCD"[k], h=name, w=WORDS[k])
            write_png(root / mask_name, mask)
    return root


def objects() -> list[list[NDArray[np.uint8]]]:
    return [[square((i + 5 * k) % 16) for k in range(n)] for i, n in enumerate(COUNTS)]


def nested() -> list[list[NDArray[np.uint8]]]:
    """A large area, and a small one within."""
    return [[square(i), square(i, 4)] for i in range(4)]


@pytest.mark.parametrize("layout", OBJECTS)
def test_objects_are_united(tmp_path: Path, layout: str) -> None:
    masks = objects()
    found = find_pairs(draw(tmp_path, OBJECTS[layout], masks))
    assert len(found.pairs) == len(COUNTS)
    assert not found.left_out
    for pair, own in zip(found.pairs, masks, strict=True):
        assert pair.mask is not None
        assert (read_mask(pair.mask).pixels == np.max(own, axis=0)).all()


@pytest.mark.parametrize("layout", CLASSES)
def test_classes_are_named_after_their_files(tmp_path: Path, layout: str) -> None:
    folder = survey(draw(tmp_path, CLASSES[layout], nested()))
    assert folder.class_map.names == ("background", "cat", "dog")
    assert "each mask shows a class: cat, dog; they overlap in 4 of 4 samples" in folder.rules[0]
    reader = PairReader(folder.pairs.pairs, folder.class_map, 3)
    for i, (large, small) in enumerate(nested()):
        expected = np.where(small > 0, 2, large > 0)  # the smaller area lies on top
        assert (reader[i][1] == expected).all()


@pytest.mark.parametrize("layout", OBSERVERS)
def test_masks_of_the_same_thing_are_asked_about(tmp_path: Path, layout: str) -> None:
    twice = [[square(i), np.roll(square(i), 1, 0)] for i in range(4)]
    with pytest.raises(PairingError):
        find_pairs(draw(tmp_path, OBSERVERS[layout], twice))


@pytest.mark.parametrize("word", ["reader{l}", "expert_{l}"])
def test_observers_with_letters_are_no_classes(tmp_path: Path, word: str) -> None:
    small = [[square(i), np.roll(square(i), 5, 0)] for i in range(4)]
    with pytest.raises(PairingError):
        find_pairs(draw(tmp_path, ("images/im{i}.png", f"masks/im{{i}}_{word}.png"), small))


@pytest.mark.parametrize(
    ("layout", "command"),
    [
        (("im{i}.png", "im{i}_{w}.png"), "classes"),  # nothing says mask
        (("images/im{i}.png", "masks/im{i}/{k}.png"), "instances"),  # two each: classes, or objects
    ],
)
def test_what_may_be_meant_is_a_command(
    tmp_path: Path, layout: tuple[str, str], command: str
) -> None:
    apart = [[square(i), square(15 - i)] for i in range(4)]
    with pytest.raises(PairingError) as error:
        find_pairs(draw(tmp_path, layout, apart))
    words = ["unetseg", "import", command, str(tmp_path), "OUT"]
    assert words in [shlex.split(text) for text in error.value.commands]


@pytest.mark.parametrize("word", ["v{k}", "t{k}", "reader{k}", "slice_{k}"])
def test_versions_and_times_of_a_mask_are_no_objects(tmp_path: Path, word: str) -> None:
    sets = find_masks(draw(tmp_path, ("images/im{i}.png", f"masks/im{{i}}_{word}.png"), objects()))
    assert not tell_objects(sets)
    assert unite(sets) is None


def test_masks_of_tiles_of_an_image_are_no_objects(tmp_path: Path) -> None:
    draw(tmp_path, OBJECTS["numbers at the end"], objects())
    for path in (tmp_path / "masks").iterdir():
        write_png(path, read_mask(path).pixels[: SIDE // 2, : SIDE // 2])
    with pytest.raises(PairingError):
        find_pairs(tmp_path)


@pytest.mark.parametrize("folder", ["pred", "results/masks", "overlay"])
def test_outputs_beside_sets_take_no_part(tmp_path: Path, folder: str) -> None:
    draw(tmp_path, OBJECTS["numbers at the end"], objects())
    for i, own in enumerate(objects()):
        write_png(tmp_path / folder / f"images/im{i}.png", np.max(own, axis=0))
    for pair, own in zip(find_pairs(tmp_path).pairs, objects(), strict=True):
        assert isinstance(pair.mask, MaskSet)
        assert len(pair.mask.paths) == len(own)


def test_left_and_right_of_different_things_are_classes(tmp_path: Path) -> None:
    for i in range(4):
        write_png(tmp_path / f"images/im{i}.png", square(i) + square(15 - i) // 2)
        write_png(tmp_path / f"masks/left lung/im{i}.png", square(i))
        write_png(tmp_path / f"masks/right kidney/im{i}.png", square(15 - i))
    assert find_pairs(tmp_path).classes == ("left lung", "right kidney")


@pytest.mark.parametrize("times", [1, 2])
def test_a_class_that_few_images_have_is_not_lost_unsaid(tmp_path: Path, times: int) -> None:
    images = [[square(i), square(15 - i)][: 1 + (i < times)] for i in range(6)]
    found = find_pairs(draw(tmp_path, CLASSES["folders"], images), GroupsConfig(unpaired="empty"))
    if times == 2:
        assert found.classes == ("cat", "dog")
    else:  # one mask alone says little: its image is no negative, and told
        assert dict(found.left_out)[tmp_path / "images/im0.png"] == "image with several masks"
    assert all(pair.mask for pair in found.pairs)


def test_black_of_a_palette_is_no_object(tmp_path: Path) -> None:
    draw(tmp_path, OBJECTS["numbers at the end"], objects())
    for path in (tmp_path / "masks").iterdir():
        picture = Image.fromarray(read_mask(path).pixels // 255 + np.uint8(1))
        picture.putpalette([9, 9, 9, 0, 0, 0, 200, 0, 0])
        picture.save(path)
    for pair, own in zip(find_pairs(tmp_path).pairs, objects(), strict=True):
        assert pair.mask is not None
        assert (read_mask(pair.mask).pixels == np.max(own, axis=0)).all()


def test_the_first_of_several_objects_is_no_mask(tmp_path: Path) -> None:
    draw(tmp_path, OBJECTS["numbers at the end"], [[255 - m for m in own] for own in objects()])
    with pytest.raises(PairingError) as error:
        find_pairs(tmp_path)
    assert error.value.commands == (f"unetseg import instances {shlex.quote(str(tmp_path))} OUT",)


def test_a_mask_is_not_of_an_image_in_another_folder(tmp_path: Path) -> None:
    draw(tmp_path, ("{i}/images/{i}.png", "{i}/masks/{k}.png"), objects())  # 1/images/1, 0/masks/1
    for key, masks in find_masks(tmp_path).masks.items():
        assert {mask.path.parent.parent.name for mask in masks} == {key.stem}
    for pair, own in zip(find_pairs(tmp_path).pairs, objects(), strict=True):
        assert pair.mask is not None
        assert (read_mask(pair.mask).pixels == np.max(own, axis=0)).all()


def test_what_is_called_background_is_no_class(tmp_path: Path) -> None:
    three = [[square(i), square(15 - i)] for i in range(4)]
    draw(tmp_path, CLASSES["folders"], three)
    for i, own in enumerate(three):
        write_png(tmp_path / f"masks/background/im{i}.png", 255 - np.max(own, axis=0))
    folder = survey(tmp_path)
    assert folder.class_map.names == ("background", "cat", "dog")
    assert "background is what is in no mask" in folder.rules[0]


def test_each_answer_works_where_one_image_has_several_masks(tmp_path: Path) -> None:
    draw(tmp_path, OBJECTS["numbers at the end"], objects()[:1])
    with pytest.raises(PairingError) as error:
        find_pairs(tmp_path)
    *checks, unite_them = map(shlex.split, error.value.commands)
    assert unite_them == ["unetseg", "import", "instances", str(tmp_path), "OUT"]
    for command in checks:
        _, images, _, masks = command[3:]
        found = find_pairs(tmp_path, GroupsConfig(images=Path(images), masks=Path(masks)))
        assert [pair.mask for pair in found.pairs] == [tmp_path / masks]


def test_empty_is_no_answer_where_masks_have_no_image(tmp_path: Path) -> None:
    nine = [[square(k + i) for k in range(9)] for i in range(4)]
    for i, own in enumerate(nine):
        write_png(tmp_path / f"images/im{i}.png", square(i))
        for k, mask in enumerate(own):
            write_png(tmp_path / f"masks/im{i}_{chr(97 + k) * 2}.png", mask)
    with pytest.raises(PairingError) as error:
        find_pairs(tmp_path)
    assert not any(command.endswith("--unpaired empty") for command in error.value.commands)


def test_files_that_show_several_things_are_asked_about(tmp_path: Path) -> None:
    numbered = [[mask // 85 + square(9) // 127 for mask in own] for own in objects()]
    with pytest.raises(PairingError):
        find_pairs(draw(tmp_path, OBJECTS["a folder for each image, hashes"], numbered))


def test_an_empty_folder_of_masks_shows_nothing(tmp_path: Path) -> None:
    draw(tmp_path, OBJECTS["a folder for each image, hashes"], [*objects(), [square(3)]])
    next((tmp_path / "6/masks").iterdir()).unlink()
    found = find_pairs(tmp_path)
    assert [pair.name for pair in found.pairs if pair.mask is None] == ["6"]


def test_images_without_masks_are_told_in_order(tmp_path: Path) -> None:
    draw(tmp_path, OBJECTS["numbers at the end"], objects())
    bare = [tmp_path / f"images/im{i}.png" for i in range(11, 20)]
    for path in bare:
        write_png(path, square(3))
    assert find_pairs(tmp_path).left_out == tuple((path, NO_MASK) for path in bare)


def test_hidden_folders_of_masks_say_nothing(tmp_path: Path) -> None:
    draw(tmp_path, OBJECTS["a folder of masks with its name"], objects())
    write_png(tmp_path / "images/im9.png", square(3))
    (tmp_path / ".masks/im9").mkdir(parents=True)
    assert "im9" not in {key.stem for key in find_masks(tmp_path).masks}


def test_names_that_recur_in_every_folder_are_found_at_once(tmp_path: Path) -> None:
    for i in range(1200):
        (tmp_path / f"p{i}/masks").mkdir(parents=True)
        for name in ("a", "b", "masks/a_1", "masks/b_1"):
            (tmp_path / f"p{i}/{name}.png").touch()
    began = time.process_time()
    sets = find_masks(tmp_path)
    assert time.process_time() - began < 2
    assert all(key.folders == mask.path.parts[-3:-2] for key, (mask,) in sets.masks.items())
    assert len(sets.masks) == 2400


@pytest.mark.long
@pytest.mark.parametrize(
    ("photo", "mask", "found"),
    [
        ("p{}/a.png", "p{}/masks/deep/a_1.png", 2500),
        ("train/p{}/a.png", "train/masks/q{}/a_1.png", 0),  # all images are as near
    ],
)
def test_masks_in_folders_of_their_own_are_found_at_once(
    tmp_path: Path, photo: str, mask: str, found: int
) -> None:
    for i in range(2500):
        for name in (photo.format(i), mask.format(i)):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
    began = time.process_time()
    sets = find_masks(tmp_path)
    assert time.process_time() - began < 2
    assert all(mask.path.parts[-4] in key.folders for key, (mask,) in sets.masks.items())
    assert (len(sets.masks), len(sets.strays)) == (found, 2500 - found)


def test_folders_that_the_user_names(tmp_path: Path) -> None:
    draw(tmp_path, ("photos/im{i}.png", "things/im{i}/{k}.png"), objects())
    found = find_pairs(tmp_path, GroupsConfig(images=Path("photos"), masks=Path("things")))
    assert len(found.pairs) == len(COUNTS)


@pytest.mark.parametrize("unpaired", ["empty", "error"])
def test_folders_that_the_user_names_from_elsewhere(
    tmp_path: Path, unpaired: Unpaired, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = draw(tmp_path / "home", OBJECTS["numbers at the end"], objects())
    write_png(home / "images/bare.png", np.zeros((SIDE, SIDE), np.uint8))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PairingError) if unpaired == "error" else nullcontext():
        named = GroupsConfig(images=home / "images", masks=home / "masks", unpaired=unpaired)
        found = find_pairs(Path("home"), named)
        assert len(found.pairs) == 7


def test_the_checks_and_the_fixed_copy_take_sets_for_masks(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", OBJECTS["a folder for each image, hashes"], objects())
    report = check_folder(data)
    assert not report.of("error")
    pairs = report.to_json()["pairs"]
    assert [len(pair["mask"]) for pair in pairs[:5]] == list(COUNTS[:5])
    assert pairs[5]["mask"] == "5/masks/24a095.png"  # one file is no list
    write_fixed(survey(data, strict=False), tmp_path / "out")
    again = find_pairs(tmp_path / "out").pairs
    for pair, own in zip(again, objects(), strict=True):
        assert isinstance(pair.mask, Path)
        assert (read_mask(pair.mask).pixels == np.max(own, axis=0)).all()


def test_sizes_that_differ_are_told_with_the_files(tmp_path: Path) -> None:
    draw(tmp_path, OBJECTS["a folder for each image, hashes"], objects())
    odd = next((tmp_path / "0/masks").iterdir())
    write_png(odd, np.zeros((SIDE, SIDE + 1), np.uint8))
    report = check_folder(tmp_path)
    told = "".join(line for finding in report.of("error") for line in finding.files)
    assert "differs in size" in told


def test_a_model_keeps_its_codes_where_a_class_is_missing(tmp_path: Path) -> None:
    trained = ClassMap(
        classes=tuple(
            ClassInfo(name=name, code=code, colour=(code, 0, 0))
            for code, name in enumerate(("background", "cat", "dog", "elk"))
        ),
        background=0,
    )
    images = [[square(i), square(15 - i), square(8)] for i in range(4)]
    draw(tmp_path, CLASSES["folders"], images)
    for path in (tmp_path / "masks/cat").iterdir():
        path.unlink()
    for pair in coded_as(find_pairs(tmp_path), trained).pairs:
        assert isinstance(pair.mask, MaskSet)
        assert pair.mask.codes == (2, 3)
    with pytest.raises(MaskError, match="the masks show dog, elk; the classes are"):
        coded_as(find_pairs(tmp_path), class_map(0, 1))


def test_objects_have_the_code_of_the_model(tmp_path: Path) -> None:
    found = find_pairs(draw(tmp_path, OBJECTS["beside"], objects()))
    pair = coded_as(found, class_map(0, 7, background=0)).pairs[0]
    assert isinstance(pair.mask, MaskSet)
    assert set(pair.mask.codes) == {7}


def test_the_users_list_names_the_classes(tmp_path: Path) -> None:
    draw(tmp_path, CLASSES["folders"], nested())
    (tmp_path / "list.txt").write_text("0 nothing\n1 Katze\n2 Hund\n")
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert survey(tmp_path).class_map.names == ("background", "cat", "dog")
    named = survey(tmp_path, DataConfig(classes=tmp_path / "list.txt"))
    assert named.class_map.names == ("nothing", "Katze", "Hund")
