"""What masks mean: the rules, each with the folder that made it necessary."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.builders import Heard, write_geotiff
from unetseg.data.files.folders import IMAGE_SUFFIXES
from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.masks.class_list import (
    ClassNames,
    NamedClass,
    find_class_file,
    guess_class_names,
    read_class_names,
)
from unetseg.data.masks.class_map import IGNORED, ClassMap, Code, write_mask
from unetseg.data.masks.infer_classes import distinct_colours, infer_class_map
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.masks.mask_forms import ALPHA, BANDS
from unetseg.data.masks.mask_values import MaskFacts, mask_facts
from unetseg.errors import MaskError

Array = NDArray[Any]
VOC = tuple(value for i in range(256) for value in (i, 7 * i % 256, 255 - i))


def facts(*codes: Code | tuple[Code, int], path: str = "a.png", **more: Any) -> MaskFacts:
    """A mask with these codes, or (code, pixels); a code alone has 1,000 pixels."""
    counts = [item if _is_counted(item) else (item, 1000) for item in codes]
    parts = {
        "path": path,
        "shape": (1, sum(count for _, count in counts)),  # type: ignore[misc]
        "coding": "rgb" if isinstance(counts[0][0], tuple) else "integer",  # type: ignore[index]
        "dtype": "uint8",
        "counts": counts,
    }
    return MaskFacts.model_validate({**parts, **more})


def _is_counted(item: object) -> bool:
    return isinstance(item, tuple) and len(item) == 2


def codes_of(known: ClassMap) -> list[Code]:
    return [item.code for item in known.classes]


def class_list(tmp_path: Path, text: str, name: str = "classes.txt") -> ClassNames:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_class_names(tmp_path / name)


# Real folders

BINARY = ["background", "foreground"]
REAL: dict[str, dict[str, Any]] = {
    "camvid": {"codes": list(range(11)), "ignore": (11,), "background": None},
    "crackforest": {"codes": [0, 255]},
    "cwfid": {"codes": [(0, 0, 0), (0, 255, 0), (255, 0, 0)], "coding": "rgb"},
    "drive": {"codes": [0, 255]},
    "dsb2018": {"codes": [0, 255]},
    "glas256": {"codes": [0, 255]},
    "hot_buildings_geotiff": {"codes": [0, 1], "suffix": ".tif"},
    "isbi2012_em": {"codes": [0, 255]},
    "nucseg_16bit": {"codes": [0, 255]},
    "sen1floods11_sample": {"codes": [0, 1], "ignore": (-1,), "dtype": "int16", "suffix": ".tif"},
    "sen1floods11_tiles13band": {
        "codes": [0, 1],
        "ignore": (-1,),
        "dtype": "int16",
        "suffix": ".tif",
    },
    "tiny_ade20k": {
        "codes": [0, 1, 2, 3, 5, 7, 10, 12, 14, 18, 21, 44, 81, 88, 97, 103],
        "background": None,
    },
    "tiny_kvasir_jpgmask": {
        "codes": [(0, 0, 0), (255, 255, 255)],
        "coding": "rgb",
        "snap": True,
    },
    "tiny_voc_palette": {
        "codes": [0, 5, 6, 7, 9, 15, 18],
        "ignore": (255,),
        "coding": "palette",
    },
}


def mask_files(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "masks").rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


@pytest.mark.parametrize("name", sorted(REAL))
def test_real_folders_come_out_right_without_a_flag(real_data: Path, name: str) -> None:
    files = mask_files(real_data / name)
    listed = find_class_file(real_data / name)
    names = read_class_names(listed) if listed else None
    known, sentence = infer_class_map([mask_facts(file) for file in files], names=names)
    expected = {
        "ignore": (),
        "coding": "integer",
        "dtype": "uint8",
        "suffix": ".png",
        "background": 0,
        "snap": False,
        **REAL[name],
    }
    assert codes_of(known) == expected.pop("codes")
    assert known.model_dump(include=set(expected)) == expected
    assert "\n" not in sentence
    for file in files[:3]:
        pixels = read_mask(file).pixels
        decoded = known.decode(known.encode(pixels))
        assert decoded.shape == pixels.shape
        assert known.snap or (decoded == pixels).all()


def test_the_real_sentences(real_data: Path) -> None:
    camvid = real_data / "camvid"
    some = [mask_facts(file) for file in mask_files(camvid)[:3]]
    known, sentence = infer_class_map(some, names=read_class_names(camvid / "classes.txt"))
    assert len(known.classes) == 11
    assert "11 classes by classes.txt" in sentence
    assert "11 = unlabelled(void/ignore) is ignored" in sentence
    nuclei = [mask_facts(file) for file in mask_files(real_data / "nucseg_16bit")]
    assert infer_class_map(nuclei)[1] == (
        "masks: 0/255 grey, 2 classes (background 0, foreground 255)"
    )


def test_voc_classes_have_their_published_colours(real_data: Path) -> None:
    files = mask_files(real_data / "tiny_voc_palette")
    known, _ = infer_class_map([mask_facts(file) for file in files])
    colours = {item.name: item.colour for item in known.classes}
    assert colours["class 15"] == (192, 128, 128)  # person
    assert colours["background"] == (0, 0, 0)


# Facts


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 6))
def test_facts_count_every_pixel(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, n, (6, 11, 3)).astype(np.uint8)
    path = tmp_path_factory.mktemp("facts") / "a.png"
    for stored in (pixels, pixels[..., 0]):
        write_png(path, stored)
        flat = stored.reshape(66, -1)
        values, counts = np.unique(flat, axis=0, return_counts=True)
        expected = {
            tuple(v) if len(v) == 3 else v[0]: c
            for v, c in zip(values.tolist(), counts.tolist(), strict=True)
        }
        seen = mask_facts(path)
        assert dict(seen.counts) == expected
        assert [c for _, c in seen.counts] == sorted(expected.values(), reverse=True)
        assert seen.shape == (6, 11)


def test_facts_are_capped_and_survive_json(tmp_path: Path) -> None:
    pixels = np.arange(90 * 90, dtype=np.uint16).reshape(90, 90)
    pixels[0] = 5
    write_tiff(tmp_path / "a.tif", pixels)
    seen = mask_facts(tmp_path / "a.tif")
    assert len(seen.counts) == 4096
    assert seen.counts[0] == (5, 90)
    assert (seen.dtype, seen.suffix, seen.coding) == ("uint16", ".tif", "integer")
    colours = facts((0, 0, 0), (1, 2, 3))
    assert MaskFacts.model_validate_json(colours.model_dump_json()) == colours


# Rules without a class list


@pytest.mark.parametrize(
    ("found", "classes", "ignored", "background"),
    [
        ([0, 255], [0, 255], (), 0),
        ([0, 1], [0, 1], (), 0),
        ([1, 2], [1, 2], (), 0),
        ([0, 1, 255], [0, 1], (255,), 0),
        ([0, 128, 255], [0, 128, 255], (), None),
        ([0, 85, 170, 255], [0, 85, 170, 255], (), None),
        ([0, 5, 9, 255], [0, 5, 9], (255,), None),
        ([-1, 0, 1], [0, 1], (-1,), 0),
        ([-9999, 0, 255], [0, 255], (-9999,), 0),
        ([1, 2, 3], [1, 2, 3], (), None),
        ([0, 1000, 60000], [0, 1000, 60000], (), None),
        (list(range(151)), list(range(151)), (), None),
        ([*range(254), 255], list(range(254)), (255,), None),
        ([(0, 0, 0), (255, 255, 255)], [(0, 0, 0), (255, 255, 255)], (), 0),
        ([(1, 0, 0), (0, 1, 0), (0, 0, 1)], [(0, 0, 1), (0, 1, 0), (1, 0, 0)], (), None),
    ],
)
def test_the_values_say_what_they_mean(
    found: list[Code], classes: list[Code], ignored: tuple[Code, ...], background: int | None
) -> None:
    known, sentence = infer_class_map([facts(*found)])
    assert codes_of(known) == classes
    assert (known.ignore, known.background, known.snap) == (ignored, background, False)
    assert f"{len(classes)} classes" in sentence
    assert all(f"{code} is ignored" in sentence for code in ignored)


def test_the_union_of_all_files_counts() -> None:
    known, _ = infer_class_map([facts(0), facts(0, 2), facts(0, 1, 255)])
    assert codes_of(known) == [0, 1, 2]
    assert known.ignore == (255,)


@pytest.mark.parametrize(
    ("masks", "background"),
    [
        ([facts((0, 7000), 1, 2), facts((0, 5000), 2)], 0),  # objects on a ground
        ([facts((0, 2000), (1, 3000), 2), facts((0, 3000), (1, 4000), 2)], None),  # the sky, say
        ([facts((0, 9000), 1, 2), facts(1, 2)], None),  # not in every image
        ([*[facts((0, 9000), 1, 2)] * 9, facts(1)], 0),  # a tile within an object
        ([facts((0, 9000), 1, 2, (255, 80_000))], 0),  # what is ignored does not count
        ([facts((0, 1000), (5, 8000), 6)], None),  # 5 may be the ground, or a road
        ([facts(((0, 0, 0), 9000), (9, 0, 0), (0, 9, 0))], 0),
    ],
)
def test_0_is_the_background_of_several_where_it_lies_around_all_others(
    masks: list[MaskFacts], background: int | None
) -> None:
    known, _ = infer_class_map(masks)
    assert known.background == background
    assert known.names[0] == ("background" if background == 0 else known.names[0])
    assert "background" not in known.names[1:]


def test_the_background_is_the_class_that_is_stated(tmp_path: Path) -> None:
    masks = [facts((0, 9000), 1, 2)]
    names = class_list(tmp_path, "0 background\n1 sea\n2 land\n")
    for listed, stated, background in (
        (names, "none", None),
        (names, "land", 2),
        (names, "1", 1),
        (None, "class 2", 2),
        (None, "2", 2),
        (None, "none", None),
    ):
        known, _ = infer_class_map(masks, names=listed, background=stated)
        assert known.background == background
        assert len(set(known.names)) == 3
    two, _ = infer_class_map([facts(0, 255)], background="none")
    assert (two.names, two.foreground) == (("class 0", "class 255"), (0, 1))
    with pytest.raises(MaskError, match="no class 'sky' to be the background") as caught:
        infer_class_map(masks, names=names, background="sky")
    assert "background, sea, land, or none" in str(caught.value.fix)


def test_names_colours_and_sentence() -> None:
    known, sentence = infer_class_map([facts(0, 255)])
    assert known.names == ("background", "foreground")
    assert known.classes[0].colour == (0, 0, 0)
    assert sentence == "masks: 0/255 grey, 2 classes (background 0, foreground 255)"
    known, sentence = infer_class_map(
        [
            facts((0, 9000), 15, 255, coding="palette", palette=VOC),
            facts(0, 20, coding="palette", palette=VOC),
        ]
    )
    assert known.names == ("background", "class 15", "class 20")
    assert [item.colour for item in known.classes] == [VOC[3 * c : 3 * c + 3] for c in (0, 15, 20)]
    assert known.palette == VOC
    assert sentence == (
        "masks: 0–255 palette, 3 classes (background 0, class 15, class 20), 255 is ignored"
    )
    known, _ = infer_class_map([facts((0, 0, 0), (9, 8, 7), (255, 255, 255))])
    assert [item.colour for item in known.classes] == [(0, 0, 0), (9, 8, 7), (255, 255, 255)]


def test_palette_with_two_codes_is_binary() -> None:
    known, _ = infer_class_map([facts(0, 255, coding="palette", palette=VOC)])
    assert codes_of(known) == [0, 255]


def test_the_user_decides_what_is_ignored() -> None:
    known, sentence = infer_class_map([facts(0, 1, 2)], ignore=(2,))
    assert (codes_of(known), known.ignore) == ([0, 1], (2,))
    assert "2 is ignored" in sentence
    known, _ = infer_class_map([facts((0, 0, 0), (9, 9, 9), (1, 2, 3))], ignore=(9,))
    assert known.ignore == ((9, 9, 9),)
    known, _ = infer_class_map([facts(0, 255)], ignore=(7, -1, 300))
    assert (known.ignore, known.dtype) == ((7,), "uint8")  # the others no such mask can hold
    small, large = facts(0, 1, path="a.tif"), facts(0, 1, 999, dtype="int16", path="b.tif")
    for masks in ([small, large], [large, small]):  # as floats have it, each by its content
        known, _ = infer_class_map(masks, ignore=(999, 70_000))
        assert (codes_of(known), known.ignore) == ([0, 1], (999,))


def test_the_value_that_masks_declare_for_no_data_is_ignored(tmp_path: Path) -> None:
    codes = np.repeat([0, 1, 2, 200], 16).reshape(8, 8).astype(np.uint8)
    some = mask_facts(write_geotiff(tmp_path / "a.tif", codes, nodata=200))
    known, sentence = infer_class_map([some])
    assert (codes_of(known), known.ignore) == ([0, 1, 2], (200,))
    assert "200 is ignored" in sentence
    listed = ClassNames(tuple(NamedClass(f"class {code}", code) for code in (0, 1, 2, 200)))
    assert codes_of(infer_class_map([some], names=listed)[0]) == [0, 1, 2, 200]
    floats = np.where(codes == 200, np.nan, codes).astype(np.float32)
    gaps = mask_facts(write_geotiff(tmp_path / "nan.tif", floats, nodata=np.nan))
    known, _ = infer_class_map([gaps])
    assert (codes_of(known), known.ignore) == ([0, 1, 2], (-1,))
    zero = mask_facts(write_geotiff(tmp_path / "b.tif", codes, nodata=0))
    assert codes_of(infer_class_map([zero])[0]) == [0, 1, 2, 200]  # 0 is the background
    # A value without which there were no two classes is one of them.
    both = mask_facts(write_geotiff(tmp_path / "c.tif", (codes > 0) * np.uint8(255), nodata=255))
    assert codes_of(infer_class_map([both])[0]) == [0, 255]


@pytest.mark.parametrize(
    ("found", "more", "dtype", "suffix"),
    [
        ([0, 255], {}, "uint8", ".png"),
        ([0, 1], {"dtype": "int32", "suffix": ".tif"}, "uint8", ".tif"),
        ([0, 256], {"dtype": "uint16"}, "uint16", ".png"),
        ([0, 256], {"dtype": "uint16", "suffix": ".tif"}, "uint16", ".tif"),
        ([-1, 0, 1], {"dtype": "int16", "suffix": ".tif"}, "int16", ".tif"),
        ([0, 1, 70000], {"dtype": "int32", "suffix": ".tif"}, "int32", ".tif"),
        ([-1, 0, 40000], {"dtype": "int32", "suffix": ".tif"}, "int32", ".tif"),
        ([0, 255], {"suffix": ".gif"}, "uint8", ".png"),
        ([0, 255], {"suffix": ".bmp"}, "uint8", ".png"),
    ],
)
def test_masks_are_written_in_the_smallest_type(
    found: list[Code], more: dict[str, Any], dtype: str, suffix: str
) -> None:
    known, _ = infer_class_map([facts(*found, **more)])
    assert (known.dtype, known.suffix) == (dtype, suffix)


@pytest.mark.parametrize(
    ("masks", "reason"),
    [
        ([], "no masks"),
        ([facts(0)], "no two classes.*all masks hold 0"),
        ([facts(0, -1)], "ignored"),
        ([facts(*range(0, 3000, 10), dtype="uint16")], "300 distinct values; at most 254"),
    ],
)
def test_masks_without_sense_are_refused(masks: Sequence[MaskFacts], reason: str) -> None:
    with pytest.raises(MaskError, match=reason) as caught:
        infer_class_map(masks)
    assert caught.value.fix


def test_mixed_codings_list_the_files() -> None:
    grey = [facts(0, 255, path=f"grey{i}.png") for i in range(3)]
    odd = [
        facts((0, 0, 0), (1, 2, 3), path="colour.png"),
        facts(0, 1, path="palette.png", coding="palette", palette=VOC),
    ]
    with pytest.raises(MaskError, match="3 grey, 1 RGB, 1 palette") as caught:
        infer_class_map([*grey, *odd])
    assert caught.value.offenders == ["colour.png: RGB", "palette.png: palette"]


def test_a_last_band_that_is_a_class_or_alpha_is_refused() -> None:
    bands = [facts(1, 2, form=BANDS, path="a.tif"), facts(1, form=BANDS, path="b.tif")]
    black = facts(0, alpha=True, path="c.tif")
    for doubtful in (black, facts(0, form=ALPHA, path="c.tif")):
        with pytest.raises(MaskError, match="the last band of 1 mask may be alpha") as caught:
            infer_class_map([*bands, doubtful])
        assert caught.value.offenders == ["c.tif"]
    assert codes_of(infer_class_map(bands)[0]) == [1, 2]
    assert codes_of(infer_class_map([facts(0, 255), black])[0]) == [0, 255]


@pytest.mark.parametrize("clear", [0, 255])
@pytest.mark.parametrize("coding", ["integer", "rgb"])
def test_a_file_that_is_all_transparent_shows_nothing(
    tmp_path: Path, clear: int, coding: str
) -> None:
    """Beside others that hold colours, or one colour of which alpha tells where it is."""
    parts, ground = np.indices((24, 33))[1] // 11, [clear] * 3
    colours = np.array([ground, *([[200, 0, 0], [0, 0, 200]] if coding == "rgb" else [ground] * 2)])
    drawn = np.dstack([colours[parts], 255 * (parts > 0)]).astype(np.uint8)
    blank = np.full_like(drawn, clear)
    blank[..., 3] = 0
    files = [tmp_path / f"{name}.png" for name in "abc"]
    for file, pixels in zip(files, (drawn, drawn, blank), strict=True):
        write_png(file, pixels)
    known, _ = infer_class_map([mask_facts(file) for file in files])
    assert known.coding == coding
    masks = [read_mask(file) for file in files]
    first, _, last = (
        known.encode(m.pixels, f, m.palette) for m, f in zip(masks, files, strict=True)
    )
    assert np.array_equal(last, np.full_like(first, first[0, 0]))
    assert known.classes[last[0, 0]].code == (0 if coding == "integer" else tuple(ground))
    if coding == "rgb":  # an opaque ground of another colour: nobody says which it is
        opaque = [np.where(drawn[..., 3:] == 0, 99, drawn), np.full_like(drawn, 99)]
        for file, pixels in zip(files, opaque, strict=False):
            pixels[..., 3] = 255
            write_png(file, pixels)
        with pytest.raises(MaskError, match="different codings"):
            infer_class_map([mask_facts(file) for file in files])


def test_grey_saved_as_rgb_is_grey_among_grey(tmp_path: Path) -> None:
    truth = np.kron(np.eye(9, dtype=np.uint8), np.full((7, 7), 255, np.uint8))
    write_png(tmp_path / "grey.png", truth)
    write_png(tmp_path / "rgb.png", np.repeat(truth[..., None], 3, axis=-1))
    files = [tmp_path / "grey.png", tmp_path / "rgb.png"]
    known, _ = infer_class_map([mask_facts(file) for file in files])
    assert (codes_of(known), known.coding) == ([0, 255], "integer")
    grey, rgb = (known.encode(read_mask(file).pixels, file) for file in files)
    np.testing.assert_array_equal(grey, rgb)
    with pytest.raises(MaskError, match="expected grey masks"):
        known.encode(np.array([[(0, 0, 255)]], np.uint8))


def test_palettes_that_disagree_are_refused_where_it_matters() -> None:
    other = (*VOC[:3], 1, 1, 1, *VOC[6:])
    one = facts(0, 1, path="one.png", coding="palette", palette=VOC)
    two = facts(0, 1, path="two.png", coding="palette", palette=other)
    with pytest.raises(MaskError, match="palette") as caught:
        infer_class_map([one, two, one])
    assert caught.value.offenders == ["two.png: index 1 is (1, 1, 1), in others (1, 7, 254)"]
    unused = facts(0, path="three.png", coding="palette", palette=other)
    assert infer_class_map([unused, one])[0].palette == VOC


def test_palettes_without_colours_are_no_classes() -> None:
    black = [facts(0, 1, 2, coding="palette", palette=(0,) * 768, path=f"{n}.png") for n in "ab"]
    good = [facts(0, 1, 2, coding="palette", palette=VOC, path=f"{n}.png") for n in "cd"]
    with pytest.raises(MaskError, match="different colours") as caught:
        infer_class_map([*black, *good])
    assert caught.value.offenders[0] == "a.png: 3 indexes have 1 colour"


def test_the_palette_has_the_colours_of_all_files() -> None:
    """Some end with the last index that the file uses."""
    short, long = (VOC[: 3 * n] + (0,) * (768 - 3 * n) for n in (4, 10))
    known, _ = infer_class_map(
        [
            facts(0, 1, 2, 3, path="a.png", coding="palette", palette=short),
            facts(0, 9, path="b.png", coding="palette", palette=long),
        ]
    )
    assert known.palette is not None
    assert known.palette[27:30] == VOC[27:30]
    colours = [VOC[3 * code : 3 * code + 3] for code in (0, 1, 2, 3, 9)]
    assert [item.colour for item in known.classes] == colours


@pytest.mark.parametrize("with_rgb", [False, True])
def test_masks_with_palettes_of_their_own_are_read_by_colour(
    tmp_path: Path, *, with_rgb: bool
) -> None:
    """Three classes, whose indexes each file gives in its own order."""
    rng = np.random.default_rng(0)
    truth = [
        np.kron(rng.integers(0, 3, (4, 4), np.uint8), np.ones((9, 9), np.uint8)) for _ in "abc"
    ]
    colours = np.array([(0, 0, 0), (0, 200, 0), (90, 10, 20)], np.uint8)
    files = []
    for name, labels, order in zip("abc", truth, ([0, 1, 2], [2, 0, 1], [1, 0, 2]), strict=True):
        files.append(tmp_path / f"{name}.png")
        if with_rgb and name == "c":
            write_png(files[-1], colours[labels])
            continue
        palette = np.full((256, 3), 7, np.uint8)
        palette[order] = colours
        write_png(files[-1], np.array(order, np.uint8)[labels], palette.ravel().tolist())
    known, sentence = infer_class_map([mask_facts(file) for file in files])
    assert known.coding == "rgb"
    assert codes_of(known) == [tuple(colour) for colour in colours.tolist()]
    assert f"{2 if with_rgb else 3} of 3 have a palette of their own: read by colour" in sentence
    for file, labels in zip(files, truth, strict=True):
        raw = read_mask(file)
        np.testing.assert_array_equal(known.encode(raw.pixels, file, raw.palette), labels)


# Scales and objects


def test_masks_of_two_scales_are_refused() -> None:
    ones = [facts(0, 1, path=f"one{i}.png") for i in range(3)]
    full = [facts(0, path="blank.png"), facts(0, 255, path="a.png"), facts(255, path="b.png")]
    with pytest.raises(MaskError, match="3 of the masks hold 0/1 and 2 0/255") as caught:
        infer_class_map([*ones, *full])
    assert caught.value.offenders == ["a.png: 0/255", "b.png: 0/255"]
    assert "--ignore 255" in caught.value.fix
    assert infer_class_map([*ones, *full], ignore=[255])[0].ignore == (255,)
    border = facts(0, 1, 255)
    assert infer_class_map([*ones, *full, border])[0].ignore == (255,)


@pytest.mark.parametrize("black", [(0, 1), ((0, 0, 0), (1, 1, 1))])
def test_black_that_some_files_call_1_is_one_background(black: tuple[Code, Code]) -> None:
    white: Code = (255, 255, 255) if isinstance(black[0], tuple) else 255
    masks = [facts(black[i % 2], white, path=f"{i}.png") for i in range(6)]
    known, sentence = infer_class_map(masks)
    assert codes_of(known) == [black[0], white]
    assert not known.ignore
    assert [known.index_of(code) for code in (*black, white)] == [0, 0, 1]
    assert "counts as" in sentence
    assert infer_class_map([*masks, facts(*black, white)])[0].united == ()  # all in one: distinct


@pytest.mark.parametrize(
    ("files", "numbers", "expected"),
    [
        ([[0, 257, 258, 513], [0, 257, 769, 770, 771]], 256, {0: 0, 258: 1, 600: 2, 771: 3}),
        ([[7, 11, 26000, 26001], [7, 24000, 26000]], 1000, {7: 0, 11: 1, 24009: 2, 26005: 3}),
        ([[0, 1000, 2000, 3000]] * 3, None, {0: 0, 1000: 1, 3000: 3}),
        ([[0, 111, 112, 311, 523], [0, 111, 324, 523]], None, {0: 0, 111: 1, 523: 5}),
    ],
)
def test_codes_of_class_and_object_are_their_classes(
    files: list[list[int]], numbers: int | None, expected: dict[int, int]
) -> None:
    masks = [facts(*file, path=f"{i}.png", dtype="uint16") for i, file in enumerate(files)]
    known, sentence = infer_class_map(masks)
    assert known.numbers == numbers
    assert ("number of the object" in sentence) == bool(numbers)
    assert {code: known.index_of(code) for code in expected} == expected
    if numbers == 256:
        assert known.names == ("class 0", "class 1", "class 2", "class 3")
    index = np.arange(len(known.classes), dtype=np.uint8)[None]
    assert np.array_equal(known.encode(known.decode(index)), index)


@pytest.mark.parametrize("base", [256, 1000])
@pytest.mark.parametrize(
    "text",
    ["0 ground\n1 cat\n2 dog\n3 cow\n", "1 cat\n2 dog\n3 cow\n9 owl\n", "ground\ncat\ndog\ncow\n"],
)
def test_a_class_list_names_the_classes_of_codes_of_class_and_object(
    tmp_path: Path, text: str, base: int
) -> None:
    codes = [[0, base + 1, base + 2, 2 * base + 1], [0, base + 1, 3 * base + 1, 3 * base + 2]]
    masks = [facts(*file, path=f"{i}.png", dtype="uint16") for i, file in enumerate(codes)]
    known, sentence = infer_class_map(masks, names=class_list(tmp_path, text))
    assert known.names[1:4] == ("cat", "dog", "cow")
    assert known.background in {0, None}
    assert known.numbers == base
    expected = {0: 0, base + 2: 1, 2 * base + 7: 2, 3 * base + 1: 3}
    assert {code: known.index_of(code) for code in expected} == expected
    assert "number of the object" in sentence


@pytest.mark.parametrize("blank", [-1, 255, 65535])
def test_what_is_ignored_is_no_number_of_an_object(blank: int) -> None:
    files = [[blank, 0, 257, 258, 513], [blank, 0, 257, 769, 770, 771]]
    masks = [facts(*file, path=f"{i}.png", dtype="int32") for i, file in enumerate(files)]
    known, _ = infer_class_map(masks, ignore=(blank,))
    assert (known.numbers, known.ignore) == (256, (blank,))
    assert codes_of(known) == [0, 256, 512, 768]
    assert [known.index_of(code) for code in (blank, 1, 258)] == [IGNORED, 0, 1]


def test_a_class_list_may_give_codes_of_class_and_object_in_full(tmp_path: Path) -> None:
    files = [[0, 257, 258, 513], [0, 257, 769, 770, 771]]
    masks = [facts(*file, path=f"{i}.png", dtype="uint16") for i, file in enumerate(files)]
    names = class_list(tmp_path, "0 ground\n256 cat\n512 dog\n768 cow\n")
    known, _ = infer_class_map(masks, names=names)
    assert (known.numbers, codes_of(known)) == (256, [0, 256, 512, 768])
    assert known.index_of(770) == 3


def test_a_class_list_of_all_codes_is_taken_at_its_word(tmp_path: Path) -> None:
    masks = [facts(0, 257, 258, 513, dtype="uint16"), facts(0, 257, 769, 770, dtype="uint16")]
    text = "0 a\n257 b\n258 c\n513 d\n769 e\n770 f\n"
    known, _ = infer_class_map(masks, names=class_list(tmp_path, text))
    assert known.numbers is None
    assert len(known.classes) == 6


@pytest.mark.parametrize("snap", [False, True])
def test_numbered_objects_are_one_class(snap: bool) -> None:
    masks = [facts(*range(count), path=f"{count}.png") for count in (1, 9, 21, 35)]
    class_map, told = infer_class_map(masks, snap=snap)
    assert class_map.names == ("background", "object")
    assert "number objects, not classes" in told
    assert class_map.encode(np.array([[0, 1, 34, 999]])).tolist() == [[0, 1, 1, 1]]
    assert class_map.decode(np.array([[0, 1]], np.uint8)).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("blank", "dtype", "nodata", "ignore"),
    [
        (-1, "int16", None, ()),
        (-9999, "int16", -9999, ()),
        (65535, "uint16", 65535, ()),
        (65535, "uint16", None, (65535,)),
    ],
)
def test_what_is_ignored_beside_numbered_objects_is_none(
    blank: int, dtype: str, nodata: int | None, ignore: tuple[int, ...]
) -> None:
    masks = [
        facts(blank, *range(count), path=f"{count}.tif", dtype=dtype, nodata=nodata)
        for count in (9, 21, 35)
    ]
    known, told = infer_class_map(masks, ignore=ignore)
    assert (known.names, known.ignore) == (("background", "object"), (blank,))
    assert [known.index_of(code) for code in (blank, 0, 1, 34)] == [IGNORED, 0, 1, 1]
    assert f"{blank} is ignored" in told


def test_numbered_objects_are_classes_when_a_list_says_so(tmp_path: Path) -> None:
    names = class_list(tmp_path, "".join(f"kind {chr(97 + i)}\n" for i in range(25)))
    masks = [facts(*range(count)) for count in (9, 21, 25)]
    assert len(infer_class_map(masks, names=names)[0].classes) == 25


@pytest.mark.parametrize(
    "masks",
    [
        [range(20)] * 4,  # every class in every file
        [range(0, 40, 3), range(0, 30, 2), range(9)],  # gaps
        [range(4), range(9), range(14)],  # a sane number
        [range(9), range(40)],  # too few files to tell
    ],
)
def test_classes_are_no_numbered_objects(masks: Sequence[range]) -> None:
    known, _ = infer_class_map([facts(*codes) for codes in masks])
    assert len(known.classes) == len({code for codes in masks for code in codes})


# Class lists


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("classes.txt", "sky\nsign symbol\n", [("sky", None), ("sign symbol", None)]),
        ("classes.txt", "# list\n0 sky\n\n7 a tree # green\n", [("sky", 0), ("a tree", 7)]),
        ("classes.txt", "-1: void\n0: sea\n", [("void", -1), ("sea", 0)]),
        ("classes.txt", "sky: 0\nbig tree = 7\n", [("sky", 0), ("big tree", 7)]),
        (
            "classes.txt",
            "\ufeffsky 1 2 3\nred car 255 0 0",
            [("sky", (1, 2, 3)), ("red car", (255, 0, 0))],
        ),
        (
            "classes.txt",
            "1,2,3 sky\n0 0 0 bare ground",
            [("sky", (1, 2, 3)), ("bare ground", (0, 0, 0))],
        ),
        ("classes.txt", "4 sky 1 2 3", [("sky", 4)]),
        ("classes.json", '["sky", "tree"]', [("sky", None), ("tree", None)]),
        ("classes.json", '{"sky": 3, "tree": 4}', [("sky", 3), ("tree", 4)]),
        ("classes.json", '{"3": "sky", "4": "tree"}', [("sky", 3), ("tree", 4)]),
        ("classes.json", '{"sky": [1, 2, 3]}', [("sky", (1, 2, 3))]),
        ("classes.yaml", "- sky\n- tree\n", [("sky", None), ("tree", None)]),
        ("classes.yaml", "0: sky\n1: tree\n", [("sky", 0), ("tree", 1)]),
        ("classes.yml", "names:\n  0: sky\n  1: tree\n", [("sky", 0), ("tree", 1)]),
        ("classes.yml", "sky: [1, 2, 3]\n", [("sky", (1, 2, 3))]),
        # of other programs: Roboflow, CamVid, Semantic Drone, CVAT, Supervisely, ADE20K
        ("_classes.csv", "Pixel Value, Class\n0, sky\n7, a tree\n", [("sky", 0), ("a tree", 7)]),
        ("label_class_dict.csv", "name,r,g,b,c11\nVoid,1,2,3,0\n", [("Void", (1, 2, 3))]),
        ("class_dict_seg.csv", "Name, R, G, B\nsea, 1, 2, 3\n", [("sea", (1, 2, 3))]),
        ("class_dict.csv", "name;id\nsky;4\n", [("sky", 4)]),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nleaf:1,2,3::\n", [("leaf", (1, 2, 3))]),
        ("label_colors.txt", "1 2 3\tAnimal\n", [("Animal", (1, 2, 3))]),
        ("obj_class_to_machine_color.json", '{"car": [1, 2, 3]}', [("car", (1, 2, 3))]),
        (
            "meta.json",
            '{"classes": [{"title": "car", "color": "#010203"}]}',
            [("car", (1, 2, 3))],
        ),
        ("labels.json", '[{"id": 4, "name": "car", "color": [1, 2, 3]}]', [("car", 4)]),
        (
            "class_dict.csv",
            "name,r,g,b\nunlabelled(void/ignore),0,0,0\nveg.misc,1,2,3\n",
            [("unlabelled(void/ignore)", (0, 0, 0)), ("veg.misc", (1, 2, 3))],
        ),
        ("objectInfo.txt", "Idx\tRatio\tName\n1\t0.2\tdoor, gate\n", [("door, gate", 1)]),
    ],
)
def test_class_lists_come_in_many_forms(
    tmp_path: Path, name: str, text: str, expected: list[tuple[str, Code | None]]
) -> None:
    names = class_list(tmp_path, text, name)
    assert [(entry.name, entry.code) for entry in names.entries] == expected
    assert names.source == name
    if not name.startswith("classes"):
        assert guess_class_names(tmp_path) == replace(names, guessed=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "id,name,age\n1,bob,3\n"),
        ("labels.csv", "image,label\na.png,cat\n"),
        ("labels.csv", "id,label\n1,a.png\n"),
        ("labels.txt", "a.png\nb.png\n"),
        ("labels.txt", "train/001 3\ntrain/002 4\n"),
        ("labels.txt", "0 notes.txt\n1 more.xml\n"),
        ("label_1.txt", "0 0.5 0.3\n1 0.5 0.4\n"),
        ("labels.json", '{"images": [], "annotations": []}'),
        ("label.json", '{"version": "4.5", "shapes": [], "imagePath": "a.png"}'),
        ("class_weights.json", '{"cat": 0.3}'),
        pytest.param("labels.csv", "id,name\n1," + 140_000 * "a", id="a long field"),
    ],
)
def test_other_files_are_no_class_lists(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / name).write_text(text)
    assert guess_class_names(tmp_path) is None


def test_folders_that_are_hidden_or_closed_show_no_class_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = {tmp_path / ".Trashes", tmp_path / "lost+found"}
    for folder in (*closed, tmp_path / ".old", tmp_path / "palettes"):
        folder.mkdir()
        (folder / "class_dict.csv").write_text(f"name,id\n{folder.name},1\n")
    walk = Path.iterdir

    def guarded(folder: Path) -> Iterator[Path]:
        if folder in closed:
            raise PermissionError(13, "Permission denied")
        return walk(folder)

    monkeypatch.setattr(Path, "iterdir", guarded)
    names = guess_class_names(tmp_path)
    assert names is not None
    assert [entry.name for entry in names.entries] == ["palettes"]


def test_a_folder_of_masks_that_may_not_be_entered_shows_no_class_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "masks_old").mkdir()
    look = os.stat

    def guarded(path: Any, **how: Any) -> os.stat_result:
        if str(path).startswith(f"{tmp_path}/masks_old"):
            raise PermissionError(13, "Permission denied")
        return look(path, **how)

    monkeypatch.setattr(os, "stat", guarded)
    assert find_class_file(tmp_path) is None
    assert guess_class_names(tmp_path) is None


def test_a_likely_class_list_that_is_not_used_is_told_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "my classes.csv").write_text("name,r,g,b\nsky,1,2,3\nsea,1,2,3\n")
    ear = Heard()
    assert guess_class_names(tmp_path, ear) is None
    (said,) = ear.said
    assert "twice there: (1, 2, 3)" in said
    assert said.endswith(f"--classes '{tmp_path}/my classes.csv'")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "# nothing\n"),
        ("classes.txt", "0 sky\n0 tree\n"),
        ("classes.txt", "sky\nsky\n"),
        ("classes.txt", "0 sky\ntree\n"),
        ("classes.txt", "sky 1 2 300\n"),
        ("classes.txt", "road,7\nsky,1\ncar,3\n"),
        ("classes.txt", "road\t7\nsky\t1\n"),
        ("classes.json", "{"),
        ("classes.json", "3"),
        ("classes.json", '{"sky": true}'),
        ("classes.json", '{"a": "sky"}'),
        ("classes.json", "[" * 100_000),
        ("classes.yaml", "a: [1, 2"),
        ("classes.yaml", "- 0: background\n- 1: cell\n"),
        pytest.param("classes.csv", "id,name\n1," + 140_000 * "a", id="a long field"),
        ("classes.yaml", "!!python/object/apply:os.system ['touch pwned']"),
    ],
)
def test_what_is_no_class_list_is_named(
    tmp_path: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MaskError, match="is no class list"):
        class_list(tmp_path, text, name)
    assert not (tmp_path / "pwned").exists()


def test_a_missing_or_binary_class_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="cannot be read"):
        read_class_names(tmp_path / "classes.txt")
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(MaskError, match="is no class list"):
        read_class_names(tmp_path / "classes.txt")


@pytest.mark.parametrize(
    "place", ["classes.txt", "masks/classes.json", "SegmentationClass/classes.yml"]
)
def test_class_files_are_found(tmp_path: Path, place: str) -> None:
    assert find_class_file(tmp_path) is None
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    file.write_text("sky")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "classes.txt").write_text("no")
    assert find_class_file(tmp_path) == file


# Rules with a class list


def test_a_name_with_several_codes_is_one_class(tmp_path: Path) -> None:
    names = class_list(tmp_path, "0 void\n1 sea\n2 land\n3 sea\n9 void\n")
    known, sentence = infer_class_map([facts(0, 1, 2, 3, 9)], names=names)
    assert (known.names, known.ignore) == (("sea", "land"), (0, 9))
    assert known.encode(np.array([[0, 1, 2, 3, 9]])).tolist() == [[IGNORED, 0, 1, 0, IGNORED]]
    assert "3 counts as 1" in sentence


def test_what_masks_with_several_codes_of_a_class_mean_is_read_again(tmp_path: Path) -> None:
    """Codes that are read and never written are of the number type too."""
    names = class_list(tmp_path, "0 ground\n1 sea\n300 sea\n")
    masks = [facts(0, 1, 300, dtype="uint16")]
    known, _ = infer_class_map(masks, names=names)
    assert (known.dtype, known.index_of(300)) == ("uint16", 1)
    assert ClassMap.model_validate_json(known.model_dump_json()) == known
    known, _ = infer_class_map(masks, names=names, ignore=(300,))
    assert (known.ignore, known.united) == ((300,), ())
    assert known.index_of(300) == IGNORED


@pytest.mark.parametrize(
    ("text", "masks", "names", "codes"),
    [
        ("crack\n", [0, 255], ["background", "crack"], [0, 255]),
        ("cat\ndog\n", [0, 1, 2], ["background", "cat", "dog"], [0, 1, 2]),
        ("cat\ndog\n", [0, 1, 2, 255], ["background", "cat", "dog"], [0, 1, 2]),
        ("1 cat\n2 dog\n", [0, 1, 2], ["background", "cat", "dog"], [0, 1, 2]),
        ("cat 9 0 0\n", [(0, 0, 0), (9, 0, 0)], ["background", "cat"], [(0, 0, 0), (9, 0, 0)]),
        ("leaf\nbackground\n", [0, 255], ["leaf", "background"], [255, 0]),
        ("leaf\nbackground\n", [0, 1], ["leaf", "background"], [0, 1]),
    ],
)
def test_lists_without_the_background_or_with_it_elsewhere(
    tmp_path: Path, text: str, masks: list[Code], names: list[str], codes: list[Code]
) -> None:
    known, _ = infer_class_map([facts(*masks)], names=class_list(tmp_path, text))
    assert ([*known.names], codes_of(known)) == (names, codes)
    assert known.background is None or known.names[known.background] == "background"


def test_0_is_no_class_of_ade20k(tmp_path: Path) -> None:
    table = "Idx\tName\n1\twall\n2\tsky\n"
    known, _ = infer_class_map(
        [facts(0, 1, 2)], names=class_list(tmp_path, table, "objectInfo150.txt")
    )
    assert (known.names, known.ignore) == (("wall", "sky"), (0,))


def test_listed_classes_stay_when_the_masks_lack_them(tmp_path: Path) -> None:
    names = class_list(tmp_path, "0 background\n1 car\n2 tram\n")
    known, _ = infer_class_map([facts(0, 1)], names=names)
    assert known.names == ("background", "car", "tram")
    assert known.background == 0


def test_bare_names_are_numbered_or_take_the_values_in_order(tmp_path: Path) -> None:
    names = class_list(tmp_path, "background\ncell\n")
    assert codes_of(infer_class_map([facts(0, 1)], names=names)[0]) == [0, 1]
    assert codes_of(infer_class_map([facts(0)], names=names)[0]) == [0, 1]
    assert codes_of(infer_class_map([facts(0, 255)], names=names)[0]) == [0, 255]
    voc = infer_class_map([facts(0, 1, 255)], names=names)[0]
    assert (codes_of(voc), voc.ignore) == ([0, 1], (255,))
    with pytest.raises(MaskError, match="2 names without codes; the masks hold 0, 1, 2"):
        infer_class_map([facts(0, 1, 2)], names=names)
    with pytest.raises(MaskError, match="without codes"):
        infer_class_map([facts((0, 0, 0), (1, 2, 3))], names=names)


@pytest.mark.parametrize(
    "void", ["void", "Ignore", "unlabeled", "unlabelled(void/ignore)", "don't care", "dont_care"]
)
def test_classes_called_void_are_ignored(tmp_path: Path, void: str) -> None:
    names = class_list(tmp_path, f"0 sea\n1 land\n2 {void}\n")
    known, sentence = infer_class_map([facts(0, 1, 2)], names=names)
    assert (codes_of(known), known.ignore) == ([0, 1], (2,))
    assert f"2 = {void} is ignored" in sentence


@pytest.mark.parametrize("name", ["avoidance", "devoid", "relabelled"])
def test_words_inside_words_are_not_void(tmp_path: Path, name: str) -> None:
    names = class_list(tmp_path, f"0 sea\n1 land\n2 {name}\n")
    assert codes_of(infer_class_map([facts(0, 1, 2)], names=names)[0]) == [0, 1, 2]


def test_background_goes_by_name(tmp_path: Path) -> None:
    for text, background in (
        ("0 sea\n1 background\n", 1),
        ("0 sea\n1 BG\n", 1),
        ("0 sea\n1 land\n", None),
        ("0 unlabelled\n1 land\n", 0),  # ignoring it would leave one class
        ("0 sea\n1 Others\n", 1),
        ("0 sea\n1 clutter/background\n", 1),
        ("0 other\n1 background\n", 1),
    ):
        known, _ = infer_class_map([facts(0, 1)], names=class_list(tmp_path, text))
        assert known.background == background
        assert known.ignore == ()


def test_codes_that_no_mask_holds_are_named(tmp_path: Path) -> None:
    names = class_list(tmp_path, f"0 ground\n1 sea\n{2**31} sea\n{2**40} land\n")
    with pytest.raises(MaskError, match="codes that no mask holds") as caught:
        infer_class_map([facts(0, 1)], names=names)
    assert caught.value.offenders == [f"sea: {2**31}", f"land: {2**40}"]


def test_lists_fit_every_coding(tmp_path: Path) -> None:
    colours = class_list(tmp_path, "background 0 0 0\ncell 255 255 255\n")
    assert codes_of(infer_class_map([facts(0, 255)], names=colours)[0]) == [0, 255]
    assert codes_of(infer_class_map([facts((0, 0, 0))], names=colours)[0]) == [
        (0, 0, 0),
        (255, 255, 255),
    ]
    numbers = class_list(tmp_path, "0 background\n255 cell\n")
    assert codes_of(infer_class_map([facts((0, 0, 0))], names=numbers)[0])[1] == (255, 255, 255)
    palette = class_list(tmp_path, "one {} {} {}\ntwo {} {} {}".format(*VOC[15:18], *VOC[27:30]))
    seen = facts(5, 9, coding="palette", palette=VOC)
    assert codes_of(infer_class_map([seen], names=palette)[0]) == [5, 9]
    both = class_list(tmp_path, "0 sea 1 2 3\n1 land 4 5 6\n")
    assert [c.colour for c in infer_class_map([facts(0, 1)], names=both)[0].classes] == [
        (1, 2, 3),
        (4, 5, 6),
    ]
    assert codes_of(infer_class_map([facts((1, 2, 3))], names=both)[0]) == [(1, 2, 3), (4, 5, 6)]
    with pytest.raises(MaskError, match="colour"):
        infer_class_map([facts(0, 1)], names=class_list(tmp_path, "sea 1 2 3"))
    pictures = replace(class_list(tmp_path, "sea 1 2 3\nland 4 5 6"), guessed=True)
    assert codes_of(infer_class_map([facts(0, 1)], names=pictures)[0]) == [0, 1]


def test_a_listed_255_or_negative_is_a_class(tmp_path: Path) -> None:
    names = class_list(tmp_path, "-1 water\n0 sea\n1 land\n255 border\n")
    known, _ = infer_class_map([facts(-1, 0, 1, 255, dtype="int16")], names=names)
    assert (codes_of(known), known.ignore) == ([-1, 0, 1, 255], ())
    known, _ = infer_class_map([facts(-1, 0, 1, 255, dtype="int16")], names=names, ignore=(-1,))
    assert (codes_of(known), known.ignore) == ([0, 1, 255], (-1,))


# Laws


@st.composite
def folders(draw: st.DrawFn) -> list[MaskFacts]:
    number: st.SearchStrategy[Any] = st.integers(0, 255)
    code = st.tuples(number, number, number) if draw(st.booleans()) else number
    masks = draw(
        st.lists(st.lists(code, min_size=1, max_size=9, unique=True), min_size=1, max_size=4)
    )
    return [facts(*mask, path=f"{i}.png") for i, mask in enumerate(masks)]


@settings(deadline=None)
@given(folders(), st.booleans())
def test_every_value_of_a_folder_has_a_place_or_the_folder_is_refused(
    masks: list[MaskFacts], snap: bool
) -> None:
    try:
        known, sentence = infer_class_map(masks, snap=snap)
    except MaskError:
        return
    assert "\n" not in sentence
    for mask in masks:
        for code, _ in mask.counts:
            index = known.index_of(code)
            assert index == IGNORED or index < len(known.classes)
            assert snap or index == IGNORED or known.classes[index].code == code


CODINGS = [
    *[("uint8", 1, None, suffix) for suffix in (".png", ".tif")],
    *[("uint16", 1, None, suffix) for suffix in (".png", ".tif")],
    *[("int16", 1, None, ".tif"), ("int32", 1, None, ".tif")],
    *[("uint8", 1, VOC, suffix) for suffix in (".png", ".tif")],
    *[("uint8", 3, None, suffix) for suffix in (".png", ".tif")],
]


@pytest.mark.long
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(CODINGS), st.data())
def test_masks_survive_reading_understanding_and_writing(
    tmp_path_factory: pytest.TempPathFactory,
    coding: tuple[str, int, tuple[int, ...] | None, str],
    data: st.DataObject,
) -> None:
    dtype, bands, palette, suffix = coding
    limits, folder = np.iinfo(dtype), tmp_path_factory.mktemp("masks")
    number = st.integers(int(limits.min), int(limits.max))
    codes = data.draw(st.lists(st.tuples(*[number] * bands), min_size=2, max_size=6, unique=True))
    table = np.array(codes, dtype)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    masks = [
        np.squeeze(
            table[np.kron(rng.integers(0, len(codes), (4, 5)), np.ones((3, 3), int))],
            -1 if bands == 1 else (),
        )
        for _ in range(3)
    ]
    files = [folder / f"{place}{suffix}" for place in range(3)]
    for file, pixels in zip(files, masks, strict=True):
        (write_tiff if suffix == ".tif" else write_png)(file, pixels, palette)
    try:
        known, _ = infer_class_map([mask_facts(file) for file in files])
    except MaskError:
        return
    for file, pixels in zip(files, masks, strict=True):
        index = known.encode(read_mask(file).pixels, file)
        write_mask(file.with_suffix(known.suffix), index, known)
        again = read_mask(file.with_suffix(known.suffix))
        np.testing.assert_array_equal(known.encode(again.pixels), index)
        if len(known.ignore) <= 1:  # several ignored codes become the first
            np.testing.assert_array_equal(again.pixels, pixels)


def test_the_order_of_files_does_not_matter() -> None:
    masks = [facts(0, 3, path="a"), facts(0, 1, 255, path="b"), facts((0, 5), (2, 9), path="c")]
    assert infer_class_map(masks)[0] == infer_class_map(masks[::-1])[0]


def test_colours_are_distinct() -> None:
    colours = distinct_colours(254)
    assert len(set(colours)) == 254
    assert (0, 0, 0) not in colours


def test_written_predictions_are_understood_alike(tmp_path: Path) -> None:
    for i, codes in enumerate([[0, 1, 2], [0, 128, 255], [0, 300]]):
        pixels = np.array([codes, codes], np.uint16 if max(codes) > 255 else np.uint8)
        pixels = pixels.repeat(2, axis=1)
        write_png(tmp_path / f"{i}.png", pixels)
        known, _ = infer_class_map([mask_facts(tmp_path / f"{i}.png")])
        assert known.encode(pixels)[0, ::2].tolist() == list(range(len(codes)))
        tifffile.imwrite(tmp_path / f"{i}.tif", known.decode(known.encode(pixels)))
        again, _ = infer_class_map([mask_facts(tmp_path / f"{i}.tif")])
        assert again == known.model_copy(update={"suffix": ".tif"})
