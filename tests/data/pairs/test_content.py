"""What samples show: masks or photos, objects, discs; whether masks explain their images."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.pairs.layouts import PIXELS, Scene, write
from unetseg.data.files.pngs import write_png
from unetseg.data.pairs.content import explains, is_recoloured, look_at
from unetseg.data.pairs.match import find_pairs

SETS = ["camvid", "crackforest", "cwfid", "drive", "dsb2018", "glas256", "isbi2012_em"]
SETS += ["nucseg_16bit", "hot_buildings_geotiff", "tiny_kvasir_jpgmask", "tiny_voc_palette"]


def drawn(folder: Path, kind: str, count: int = 6, suffix: str = "png") -> list[Path]:
    """Files of one kind, each of a scene of its own that has the same name for every kind."""
    folder.mkdir(exist_ok=True)
    word, _, number = kind.partition(":")
    paths = [folder / f"{kind.replace(':', '-')}_{n}.{suffix}" for n in range(count)]
    for n, path in enumerate(paths):
        write(path, PIXELS[word](Scene(f"scene {n}", (48, 56)), int(number or 0)))
    return paths


@pytest.mark.parametrize(
    "kind",
    [
        *("mask", "mask01", "mask16", "mask-bit", "mask-rgb", "mask-palette", "index:4", "class:1"),
        *("colours:4", "palette:4", "ignore:3", "trimap", "objects", "objects-rgb"),
    ],
)
def test_masks_are_seen(tmp_path: Path, kind: str) -> None:
    look = look_at(drawn(tmp_path, kind))
    assert (look.readable, look.masks, look.disc, look.blank) == (6, 1, False, False)
    assert look.numbered == kind.startswith("objects")


@pytest.mark.parametrize("kind", ["rgb", "dark", "grey", "rgba", "uint16", "float", "overlay"])
def test_photos_are_seen(tmp_path: Path, kind: str) -> None:
    look = look_at(drawn(tmp_path, kind, suffix="tif"))
    assert (look.readable, look.masks, look.numbered, look.blank) == (6, 0, False, False)


def test_jpeg_leaves_a_mask_one(tmp_path: Path) -> None:
    assert look_at(drawn(tmp_path, "mask", suffix="jpg")).masks == 1


def test_a_field_of_view_is_one_disc_whatever_the_images(tmp_path: Path) -> None:
    assert look_at(drawn(tmp_path, "fov")).disc
    assert not look_at(drawn(tmp_path, "fov", count=1)).disc


def test_what_shows_nothing_and_what_cannot_be_read(tmp_path: Path) -> None:
    assert look_at(drawn(tmp_path, "empty")).blank
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert look_at([tmp_path / "bad.png"]).readable == 0
    assert not is_recoloured(tmp_path / "bad.png", tmp_path / "empty_0.png")
    assert explains([tmp_path / "bad.png"] * 3, [tmp_path / "bad.png"] * 3) is None


def test_copies_in_other_colours_are_known(tmp_path: Path) -> None:
    numbers, colours, area = (drawn(tmp_path, kind)[0] for kind in ("index:4", "colours:4", "mask"))
    assert is_recoloured(numbers, colours)
    assert not is_recoloured(numbers, area)


def test_masks_explain_their_own_images_better_than_others(tmp_path: Path) -> None:
    images, masks = drawn(tmp_path, "rgb"), drawn(tmp_path, "mask")
    assert (explains(images, masks) or 0) > 0.3
    assert (explains(images, masks[1:] + masks[:1]) or 0) < 0.1
    assert explains(images[:1], masks[:1]) is None  # nothing to compare with
    assert explains(images, masks[:1] * len(images)) is None  # masks that are all alike


def test_a_few_right_pairs_do_not_vouch_for_wrong_ones(tmp_path: Path) -> None:
    images: list[Path] = []
    masks: list[Path] = []
    for number in range(6):
        mask = np.zeros((48, 48), np.uint8)
        mask[12 * (number // 4) :, 12 * (number % 4) :][:9, :9] = 200
        texture = np.random.default_rng(number).integers(0, 5, mask.shape).astype(np.uint8)
        for paths, pixels in ((images, mask + texture), (masks, mask)):
            paths.append(tmp_path / f"{len(images)}-{len(masks)}.png")
            write_png(paths[-1], pixels)
    assert (explains(images, masks) or 0) > 0.3
    assert (explains(images, [*masks[:2], *masks[3:], masks[2]]) or 0) < 0.1


@pytest.mark.parametrize("name", SETS)
def test_real_photos_and_masks_are_told_apart(real_data: Path, name: str) -> None:
    pairs = find_pairs(real_data / name).pairs
    images, masks = (
        [path for pair in pairs if (path := getattr(pair, side))] for side in ("image", "mask")
    )
    assert look_at(masks).masks > 0.8
    assert look_at(images).masks < 0.4
    own, other = explains(images, masks), explains(images, masks[1:] + masks[:1])
    assert own is None or own > max(0.1, other or 0)


@pytest.mark.parametrize("shape", [(1, 400), (400, 1), (3, 1600)])
def test_masks_explain_strips_whose_small_copy_is_a_line(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    images: list[Path] = []
    masks: list[Path] = []
    step = max(shape) // 8
    for number in range(6):
        along = np.zeros(max(shape), np.uint8)
        along[number * step :][: step * 3 // 4] = 200
        mask = np.broadcast_to(along if shape[1] > 1 else along[:, None], shape).copy()
        texture = np.random.default_rng(number).integers(0, 5, shape).astype(np.uint8)
        for paths, pixels in ((images, mask + texture), (masks, mask)):
            paths.append(tmp_path / f"{len(images)}-{len(masks)}.png")
            write_png(paths[-1], pixels)
    assert (explains(images, masks) or 0) > 0.3
