"""The fixed copy: its classes, splits, groups and names are those of the source, which stays."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tests.builders import write_raster
from unetseg.checks.check import check_folder
from unetseg.checks.fix import Fixed, write_fixed
from unetseg.config import DataConfig
from unetseg.data.facts.image_values import image_facts
from unetseg.data.facts.survey import survey
from unetseg.data.files.image import ImageFile, read_image
from unetseg.data.files.pngs import write_png
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.pairs.match import find_pairs
from unetseg.errors import DataError, MachineError
from unetseg.storage import content_hash

CONFIG = DataConfig()


def photo(seed: int, side: int = 48) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)


def truth(seed: int, side: int = 48) -> NDArray[np.uint8]:
    mask = np.zeros((side, side), np.uint8)
    mask[5 + seed : 30, 4 : 20 + seed] = 255
    return mask


def write_pair(root: Path, seed: int, image: str, mask: str = "") -> tuple[Path, Path]:
    """A pair below images/ and masks/."""
    paths = root / "images" / image, root / "masks" / (mask or image)
    for path, pixels in zip(paths, (photo(seed), truth(seed)), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return paths


def some_pairs(root: Path, count: int = 4, folder: str = "") -> list[tuple[Path, Path]]:
    return [write_pair(root, seed, f"{folder}p{seed}.png") for seed in range(count)]


def fixed(root: Path, config: DataConfig = CONFIG) -> tuple[Fixed, Path]:
    """The copy of a folder beside it; the folder holds the same files as before."""
    out = root.parent / "out"
    before = {path: content_hash(path) for path in root.rglob("*") if path.is_file()}
    done = write_fixed(survey(root, config, strict=False), out)
    assert {path: content_hash(path) for path in root.rglob("*") if path.is_file()} == before
    return done, out


# Splits, groups and classes are kept


def soften(mask: Path) -> None:
    """A disc with a soft edge, whose values make no sense until they are snapped."""
    y, x = np.mgrid[:48, :48]
    disc = np.where((y - 20) ** 2 + (x - 22) ** 2 < 150, 255, 0).astype(np.uint8)
    Image.fromarray(disc).filter(ImageFilter.GaussianBlur(1)).save(mask)


def test_splits_of_the_folder_are_kept_when_masks_are_snapped(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split in ("train", "test"):
        for seed in range(3):
            _, mask = write_pair(root, seed + 3 * (split == "test"), f"{split}/p{seed}.png")
            soften(mask)
    with pytest.raises(DataError):
        survey(root)
    _, out = fixed(root)
    assert [pair.split for pair in find_pairs(out).pairs].count("test") == 3
    assert "val" not in {pair.split for pair in find_pairs(out).pairs}  # drawn, and not stated
    assert survey(out).class_map.names == ("background", "foreground")


def test_couples_of_unlike_names_keep_folder_split_and_group(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split in ("train", "val"):
        write_pair(root, 0 if split == "train" else 5, f"{split}/case1_a.png")
        write_pair(
            root, 1 if split == "train" else 6, f"{split}/case2_B.png", f"{split}/case2_b.png"
        )
    done, out = fixed(root, DataConfig(group=r"case\d"))
    assert done.pairs == 4
    found = find_pairs(out).pairs
    assert sorted((p.split, p.group) for p in found) == [
        (split, group) for split in ("train", "val") for group in ("case1", "case2")
    ]
    survey(out)


def test_a_class_of_a_single_unlike_couple_is_a_class(tmp_path: Path) -> None:
    root = tmp_path / "data"
    some_pairs(root, 3)
    _, mask = write_pair(root, 3, "Q.png", "q.png")
    pixels = truth(3)
    pixels[40:, 40:] = 100
    Image.fromarray(pixels).save(mask)
    done, out = fixed(root)
    assert done.pairs == 4
    assert not done.left_out
    assert [info.code for info in survey(out).class_map.classes] == [0, 100, 255]


def test_names_ignored_values_and_the_share_of_validation_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for _, mask in some_pairs(root, 6):
        pixels = np.where(truth(1) > 0, 2, 1).astype(np.uint8)
        pixels[:3] = 7
        Image.fromarray(pixels).save(mask)
    small = root / "masks" / "p0.png"
    Image.open(small).resize((24, 24), Image.Resampling.NEAREST).save(small)
    (root / "dataset.yaml").write_text(
        "ignore: 7\nval_fraction: 0.5\nclasses: {soil: 1, plant: 2}\n", encoding="utf-8"
    )
    _, out = fixed(root)
    known = survey(out)
    assert known.class_map.names == ("soil", "plant")
    assert known.class_map.ignore == (7,)
    assert len(known.select("val")) == 3


def test_ignored_values_of_dataset_yaml_count_when_masks_are_snapped(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for _, mask in some_pairs(root, 4):
        soften(mask)
        pixels = np.array(Image.open(mask))
        pixels[40:] = 100
        Image.fromarray(pixels).save(mask)
    (root / "dataset.yaml").write_text("ignore: [100]\n", encoding="utf-8")
    _, out = fixed(root)
    known = survey(out)
    assert [info.code for info in known.class_map.classes] == [0, 255]
    assert known.class_map.ignore == (100,)
    for mask in (out / "masks").iterdir():
        assert set(np.unique(read_mask(mask).pixels).tolist()) == {0, 100, 255}


def test_grey_colours_among_numbers_are_copied_as_they_are(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (_, mask), *_ = some_pairs(root, 4)
    Image.fromarray(np.stack([truth(0)] * 3, -1)).save(mask)
    done, out = fixed(root)
    assert done.changes == []
    assert (out / "masks" / mask.name).read_bytes() == mask.read_bytes()
    assert survey(out).class_map == survey(root).class_map


STRIPES = np.arange(48) // 8
CELLS = np.kron(np.arange(1, 65).reshape(8, 8), np.ones((6, 6), int))
SEVERAL = [[0, 257, 258, 513, 0, 0], [0, 257, 769, 770, 771, 0]]  # class × 256 + object
RICHER: dict[str, tuple[list[NDArray[Any]], str]] = {
    "numbered objects": ([CELLS * (end > CELLS) for end in (19, 20, 21, 22)], ""),
    "black as 0 and 1": ([np.where(truth(n) > 0, 255, n % 2) for n in range(4)], ""),
    "several codes": ([np.roll(STRIPES, n) for n in range(4)], "0 sea\n1 mud\n5 mud\n"),
    "class and object": ([np.array(SEVERAL[n % 2])[STRIPES] for n in range(4)], ""),
}


@pytest.mark.parametrize("kind", RICHER)
def test_values_that_are_more_than_classes_mean_the_same_in_the_copy(
    tmp_path: Path, kind: str
) -> None:
    root, (masks, listed) = tmp_path / "data", RICHER[kind]
    for (_, mask), codes in zip(some_pairs(root), masks, strict=True):
        dtype = np.uint16 if codes.max() > 255 else np.uint8
        write_png(mask, (codes + np.zeros((48, 48))).astype(dtype))
    if listed:
        (root / "classes.txt").write_text(f"{listed}2 two\n3 three\n4 four\n", encoding="utf-8")
    _, out = fixed(root)
    known = survey(root).class_map
    assert known.objects or known.united or known.numbers
    assert survey(out).class_map == known


@pytest.mark.long
@pytest.mark.parametrize("name", ["tiny_voc_palette", "cwfid", "tiny_kvasir_jpgmask"])
def test_the_copy_of_a_real_folder_means_the_same(
    real_data: Path, tmp_path: Path, name: str
) -> None:
    root = Path(shutil.copytree(real_data / name, tmp_path / "data"))
    _, out = fixed(root)
    source, copy = survey(root), survey(out)
    kept = {"snap": False, "suffix": ".png"}
    assert copy.class_map == source.class_map.model_copy(update=kept)
    assert not copy.class_map.snap
    for one, other in zip(
        sorted(root.rglob("masks/**/*.*")), sorted((out / "masks").rglob("*.*")), strict=True
    ):
        before = source.class_map.encode(read_mask(one).pixels)
        assert (copy.class_map.encode(read_mask(other).pixels) == before).all()


def test_palettes_of_their_own_become_colours(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number, (_, mask) in enumerate(some_pairs(root)):
        is_turned = number % 2  # index 0 is green
        picture = Image.fromarray((truth(number) // 255) ^ np.uint8(is_turned))
        picture.putpalette([0, 200, 0, 0, 0, 0] if is_turned else [0, 0, 0, 0, 200, 0])
        picture.save(mask)
    done, out = fixed(root)
    assert sum("saved as RGB" in line for line in done.changes) == 4
    for number, pair in enumerate(find_pairs(out).pairs):
        assert pair.mask is not None
        assert read_mask(pair.mask).coding == "rgb"
        np.testing.assert_array_equal(read_mask(pair.mask).pixels[..., 1] > 0, truth(number) > 0)


def test_pages_with_white_as_zero_stay_as_viewers_show_them(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    grey = np.stack([photo(number)[..., 0] for number in range(5)])
    shown = np.stack([np.where(truth(number) > 0, 255, 0).astype(np.uint8) for number in range(5)])
    for name, pages in (("train-volume.tif", grey), ("train-labels.tif", shown)):
        tifffile.imwrite(root / name, 255 - pages, photometric="miniswhite")
    _, out = fixed(root)
    for number, pair in enumerate(find_pairs(out).pairs):
        assert pair.mask is not None
        np.testing.assert_array_equal(read_image(pair.image)[..., 0], grey[number])
        np.testing.assert_array_equal(read_mask(pair.mask).pixels, shown[number])


def test_pages_beyond_the_limit_are_copied_where_it_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    grey = np.stack([photo(number)[..., 0] for number in range(5)])
    shown = np.stack([truth(number) for number in range(5)])
    for name, pages in (("train-volume.tif", grey), ("train-labels.tif", shown)):
        tifffile.imwrite(root / name, pages, photometric="minisblack")
    known = survey(root, DataConfig(max_pixels=48 * 48), strict=False)
    monkeypatch.setattr("unetseg.data.files.image.PIXEL_LIMIT", 2000)
    monkeypatch.setattr("unetseg.data.files.limits.EXPANSION_LIMIT", 0)
    done = write_fixed(known, tmp_path / "out")
    assert (done.pairs, done.left_out) == (5, [])


# Names


def test_names_that_collide_or_cannot_be_seen_get_others(tmp_path: Path) -> None:
    root = tmp_path / "data"
    names = ["a", "A", "b", "b\rc", "b\nc", " d ", "[red]e", "zoe\u0301", "zo\u00e9", "f,g;h"]
    names.append(os.fsdecode(b"\xff"))
    for seed, name in enumerate(names):
        write_pair(root, seed, f"{name}.png")
    done, out = fixed(root)
    assert done.pairs == len(names)
    copies = {read_image(pair.image).tobytes() for pair in find_pairs(out).pairs}
    assert copies == {photo(seed).tobytes() for seed in range(len(names))}
    for pair in find_pairs(out).pairs:
        seed = next(s for s in range(len(names)) if (read_image(pair.image) == photo(s)).all())
        assert pair.mask is not None
        assert (read_mask(pair.mask).pixels == truth(seed)).all()
    assert not [f for f in check_folder(out).findings if f.severity != "note"]
    assert any("was b\\nc" in line for line in done.changes)


def test_suffixes_of_images_and_masks_are_those_of_the_content(tmp_path: Path) -> None:
    root = tmp_path / "data"
    pairs = some_pairs(root, 4)
    Image.fromarray(photo(0)).save(pairs[0][0], format="WEBP", lossless=True)
    tifffile.imwrite(pairs[1][1], truth(1))
    _, out = fixed(root)
    assert (out / "images" / "p0.webp").is_file()
    assert (out / "masks" / "p1.tif").is_file()
    assert not [f for f in check_folder(out).findings if f.check == "wrong-suffix"]


def test_images_that_show_nothing_get_a_blank_mask(tmp_path: Path) -> None:
    root = tmp_path / "data"
    pairs = some_pairs(root, 5)
    pairs[3][1].unlink()
    done, out = fixed(root, DataConfig(unpaired="empty"))
    assert done.pairs == 5
    assert not done.left_out
    assert not read_mask(out / "masks/p3.png").pixels.any()
    assert any("masks/p3.png" in line for line in done.changes)
    assert survey(out).classes == survey(root, DataConfig(unpaired="skip")).classes


def test_what_lies_beside_an_image_goes_along(tmp_path: Path) -> None:
    root = tmp_path / "data"
    pairs = some_pairs(root, 4)
    image = pairs[1][0]
    image.with_suffix(".pgw").write_text("2\n0\n0\n-2\n1000\n5000\n")
    valid = np.full((48, 48), 255, np.uint8)
    valid[:12] = 0
    bands = np.zeros((3, 48, 48), np.uint8)
    write_raster(tmp_path / "b.tif", bands, valid=valid > 0, internal=False)
    shutil.move(tmp_path / "b.tif.msk", image.with_name("p1.png.msk"))
    Image.fromarray(photo(1)).save(image, format="WEBP", lossless=True)  # another suffix
    _, out = fixed(root)
    told = []
    for path in (image, out / "images/p1.webp"):
        with ImageFile(path) as file:
            told.append((file.georeference, image_facts(path).nodata_share))
    assert told[0] == told[1]
    assert told[0][1] == 0.25
    assert told[0][0] is not None


# What is left out, and what goes wrong


def test_everything_that_is_left_out_is_listed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    pairs = some_pairs(root, 9)
    pairs[0][1].unlink()
    pairs[1][0].unlink()
    pairs[2][0].write_bytes(b"")
    pairs[3][1].unlink()
    pairs[3][1].symlink_to("nowhere.png")
    blank = np.full((48, 48, 3), np.inf, np.float32)
    tifffile.imwrite(pairs[4][0].with_suffix(".tif"), blank, photometric="rgb")
    pairs[4][0].unlink()
    Image.fromarray(truth(5)[:40]).save(pairs[5][1])
    Image.fromarray(photo(6)).save(pairs[6][0].with_suffix(".bmp"))
    done, out = fixed(root)
    assert done.pairs == 2
    listed = "\n".join(json.loads((out / "fixed.json").read_text())["left_out"])
    for file in ("p0.png", "p1.png", "p2.png", "p3.png", "p4.tif", "p5.png", "p6.bmp"):
        assert file in listed


def test_a_folder_without_any_good_pair_leaves_nothing_behind(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for image, _ in some_pairs(root, 3):
        image.write_bytes(b"")
    with pytest.raises(DataError, match="no pair can be fixed"):
        fixed(root)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_file_that_vanishes_is_left_out_by_name(tmp_path: Path) -> None:
    root = tmp_path / "data"
    pairs = some_pairs(root, 4)
    known = survey(root, strict=False)
    pairs[1][1].unlink()
    pairs[2][0].unlink()
    done = write_fixed(known, tmp_path / "out")
    assert done.pairs == 2
    assert ["p1.png" in line or "p2.png" in line for line in done.left_out] == [True, True]
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2


def test_an_error_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    some_pairs(root, 4)
    known = survey(root, strict=False)
    left = iter(range(3))

    def full(source: Path, target: Path) -> None:
        if next(left, None) is None:
            raise OSError(28, "No space left on device", str(target))
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(MachineError, match="No space left"):
        write_fixed(known, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("place", ["data/fixed", "data", ".", "data/images/../deep"])
def test_a_copy_in_or_around_the_folder_is_refused(tmp_path: Path, place: str) -> None:
    root = tmp_path / "data"
    some_pairs(root, 3)
    with pytest.raises(MachineError):
        write_fixed(survey(root, strict=False), tmp_path / place)
    assert sorted(path.name for path in root.iterdir()) == ["images", "masks"]


def test_the_copy_may_take_an_empty_folder_that_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    some_pairs(root, 3)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert write_fixed(survey(root, strict=False), Path()).pairs == 3
    assert len(find_pairs(tmp_path / "here").pairs) == 3


def test_fields_of_view_that_are_not_copied_are_listed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    view = np.zeros((48, 48), np.uint8)
    view[4:44, 4:44] = 255
    for image, _ in some_pairs(root):
        write_png(root / "fov" / image.name, view)
    done, _ = fixed(root)
    assert done.pairs == 4
    assert sum("a field of view" in line for line in done.left_out) == 4
