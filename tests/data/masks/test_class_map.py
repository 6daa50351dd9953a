"""Class maps: encode and decode are inverses, through arrays and through files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.masks.class_map import (
    IGNORED,
    MAX_CLASSES,
    ClassMap,
    Code,
    pack,
    runs,
    unpack,
    write_mask,
)
from unetseg.data.masks.mask_file import read_mask
from unetseg.errors import MaskError

Array = NDArray[Any]
RELAXED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
VOC = tuple(value for i in range(256) for value in (i, 7 * i % 256, 255 - i))
SETTINGS = [
    ("integer", "uint8", ".png"),
    ("integer", "uint8", ".tif"),
    ("integer", "uint16", ".png"),
    ("integer", "uint16", ".tif"),
    ("integer", "int16", ".tif"),
    ("integer", "int32", ".tif"),
    ("palette", "uint8", ".png"),
    ("palette", "uint8", ".tif"),
    ("rgb", "uint8", ".png"),
    ("rgb", "uint8", ".tif"),
]


def class_map(codes: list[Code], ignore: tuple[Code, ...] = (), **more: Any) -> ClassMap:
    classes = [
        {"name": f"class {i}", "code": code, "colour": (i, 0, 0)} for i, code in enumerate(codes)
    ]
    return ClassMap.model_validate({"classes": classes, "ignore": ignore, **more})


@st.composite
def class_maps(draw: st.DrawFn) -> ClassMap:
    coding, dtype, suffix = draw(st.sampled_from(SETTINGS))
    limits = np.iinfo(dtype)
    number = st.integers(int(limits.min), int(limits.max))
    code = st.tuples(number, number, number) if coding == "rgb" else number
    codes: list[Any] = draw(st.lists(code, min_size=1, max_size=40, unique=True))
    ignored = min(draw(st.integers(0, 3)), len(codes) - 1)
    codes, ignore = codes[ignored:], tuple(codes[:ignored])
    palette = VOC if coding == "palette" else None
    return class_map(codes, ignore, coding=coding, dtype=dtype, suffix=suffix, palette=palette)


def index_for(known: ClassMap, seed: int) -> NDArray[np.uint8]:
    choices = [*range(len(known.classes)), *([IGNORED] if known.ignore else [])]
    return np.random.default_rng(seed).choice(choices, (7, 9)).astype(np.uint8)


@RELAXED
@given(class_maps(), st.integers(0, 1000))
def test_encode_undoes_decode_and_decode_undoes_encode(known: ClassMap, seed: int) -> None:
    index = index_for(known, seed)
    pixels = known.decode(index)
    assert pixels.dtype == known.dtype
    np.testing.assert_array_equal(known.encode(pixels), index)
    np.testing.assert_array_equal(known.decode(known.encode(pixels)), pixels)


@RELAXED
@given(class_maps(), st.integers(0, 1000))
def test_codes_are_those_of_the_classes_however_the_index_lies(known: ClassMap, seed: int) -> None:
    index = index_for(known, seed)
    codes = {i: item.code for i, item in enumerate(known.classes)}
    codes.update(zip([IGNORED], known.ignore, strict=False))
    expected = np.array([[codes[int(i)] for i in row] for row in index])
    expected = expected.reshape(7, 9, -1)
    for turned, back in ((index, 1), (index[::-1], -1), (np.asfortranarray(index), 1)):
        pixels = known.decode(turned)[::back]
        np.testing.assert_array_equal(pixels.reshape(expected.shape), expected)
        np.testing.assert_array_equal(known.encode(pixels), index)
    assert known.encode(known.decode(index[:0])).shape == (0, 9)


@RELAXED
@given(class_maps(), st.integers(0, 1000))
def test_written_masks_read_back_exactly(tmp_path: Path, known: ClassMap, seed: int) -> None:
    index = index_for(known, seed)
    path = tmp_path / f"mask{known.suffix}"
    write_mask(path, index, known)
    raw = read_mask(path)
    assert (raw.coding, raw.palette, raw.lossy) == (known.coding, known.palette, False)
    np.testing.assert_array_equal(raw.pixels, known.decode(index))
    np.testing.assert_array_equal(known.encode(raw.pixels), index)


@RELAXED
@given(class_maps())
def test_every_code_of_a_class_map_has_its_index(tmp_path: Path, known: ClassMap) -> None:
    codes = np.array([*(item.code for item in known.classes), *known.ignore], known.dtype)[None]
    index = known.encode(codes)
    classes = len(known.classes)
    assert index.tolist() == [[*range(classes), *[IGNORED] * len(known.ignore)]]
    path = tmp_path / f"codes{known.suffix}"
    write_mask(path, index, known)
    np.testing.assert_array_equal(known.encode(read_mask(path).pixels), index)
    np.testing.assert_array_equal(known.decode(index)[:, :classes], codes[:, :classes])


@RELAXED
@given(class_maps())
def test_class_maps_survive_json(known: ClassMap) -> None:
    again = ClassMap.model_validate_json(known.model_dump_json())
    assert again == known
    assert hash(again) == hash(known)


@RELAXED
@given(class_maps(), st.integers(0, 1000))
def test_snap_takes_the_nearest_code(known: ClassMap, seed: int) -> None:
    snapping = known.model_copy(update={"snap": True})
    limits = np.iinfo(known.dtype)
    shape = (5, 6, 3) if known.coding == "rgb" else (5, 6)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(limits.min, limits.max, shape, endpoint=True, dtype=known.dtype)
    codes = [*(item.code for item in known.classes), *known.ignore]
    table = np.array(codes, np.int64).reshape(len(codes), -1)
    distance = np.abs(pixels.reshape(5, 6, 1, -1).astype(np.int64) - table).max(-1)  # 5, 6, K
    chosen = snapping.encode(pixels)
    place = [*range(len(known.classes)), *[IGNORED] * len(known.ignore)]
    others = np.where(chosen[..., None] == place, distance, 2**32)  # to the codes of the index
    np.testing.assert_array_equal(others.min(-1), distance.min(-1))


def test_snap_changes_nothing_where_the_codes_are_known() -> None:
    known = class_map([0, 100, 255], (7,), snap=True)
    pixels = np.array([[0, 100, 255, 7]], np.uint8)
    assert known.encode(pixels).tolist() == [[0, 1, 2, IGNORED]]


def test_the_full_number_of_classes_fits() -> None:
    known = class_map(list(range(1, MAX_CLASSES + 1)), (255,))
    index = np.r_[np.arange(MAX_CLASSES), IGNORED].astype(np.uint8)[None]
    np.testing.assert_array_equal(known.encode(known.decode(index)), index)
    with pytest.raises(ValidationError):
        class_map(list(range(MAX_CLASSES + 1)))


def test_unknown_codes_are_all_named() -> None:
    known = class_map([0, 255])
    with pytest.raises(MaskError, match=r"a\.png .*: 3, 9; known are 0, 255"):
        known.encode(np.array([[0, 3], [9, 255]], np.uint8), Path("a.png"))
    colours = class_map([(0, 0, 0), (255, 0, 0)], coding="rgb")
    with pytest.raises(MaskError, match=r"\(1, 2, 3\)"):
        colours.encode(np.array([[[1, 2, 3]]], np.uint8))


@pytest.mark.parametrize(
    ("coding", "pixels"),
    [
        ("integer", np.eye(3, dtype=np.uint8)[None]),  # a red, a green and a blue pixel
        ("rgb", np.zeros((2, 2), np.uint8)),
        ("integer", np.zeros((2, 2), np.float32)),
    ],
)
def test_pixels_of_another_coding_are_refused(coding: str, pixels: Array) -> None:
    known = class_map([(0, 0, 0)] if coding == "rgb" else [0], coding=coding)
    with pytest.raises(MaskError, match=r"expected (grey|RGB) masks"):
        known.encode(pixels)


def test_indexes_with_the_colours_of_other_classes_are_refused() -> None:
    palette = (0, 0, 0, 200, 0, 0, 0, 200, 0, *[7] * 759)
    swapped = (0, 0, 0, 0, 200, 0, 200, 0, 0, *[7] * 759)
    tinted = (0, 0, 0, 190, 0, 0, 0, 190, 0, *[7] * 759)
    known = class_map([0, 1, 2], coding="palette", palette=palette)
    pixels = np.array([[0, 1, 2]], np.uint8)
    for other in (palette, tinted):
        assert known.encode(pixels, palette=other).tolist() == [[0, 1, 2]]
    assert known.encode(pixels[:, :1], palette=swapped).tolist() == [[0]]  # none of them used
    with pytest.raises(MaskError, match=r"a\.png .*index 1 is \(0, 200, 0\).*index 2 is"):
        known.encode(pixels, Path("a.png"), swapped)


def test_wider_pixels_than_the_codes_are_fine() -> None:
    known = class_map([0, 1], (-1,), dtype="int16", suffix=".tif")
    for dtype in (np.int16, np.int32, np.int64):
        pixels = np.array([[0, 1, -1]], dtype)
        assert known.encode(pixels).tolist() == [[0, 1, IGNORED]]
    with pytest.raises(MaskError, match="65535"):
        known.encode(np.array([[65535]], np.uint16))


def test_ignored_pixels_fall_back_on_the_background() -> None:
    index = np.array([[0, 1, IGNORED]], np.uint8)
    assert class_map([4, 5], background=1).decode(index).tolist() == [[4, 5, 5]]
    assert class_map([4, 5], (9, 8), background=1).decode(index).tolist() == [[4, 5, 9]]
    with pytest.raises(MaskError, match="255"):
        class_map([4, 5]).decode(index)
    with pytest.raises(MaskError, match="2"):
        class_map([4, 5]).decode(np.array([[2]], np.uint8))


def test_names_foreground_and_single_codes() -> None:
    known = class_map([0, 7, 9], (255,), background=0)
    assert known.names == ("class 0", "class 1", "class 2")
    assert known.foreground == (1, 2)
    assert [known.index_of(code) for code in (0, 7, 9, 255)] == [0, 1, 2, IGNORED]
    colours = class_map([(0, 0, 0), (9, 8, 7)], coding="rgb")
    assert colours.index_of((9, 8, 7)) == 1
    with pytest.raises(MaskError, match="8"):
        known.index_of(8)


@pytest.mark.parametrize(
    "fault",
    [
        {"codes": [1, 1]},
        {"codes": [1, 2], "ignore": (2,)},
        {"codes": [300]},
        {"codes": [-1]},
        {"codes": [(1, 2, 3)]},
        {"codes": [1], "coding": "rgb"},
        {"codes": [(1, 2, 256)], "coding": "rgb"},
        {"codes": [1], "coding": "palette"},
        {"codes": [1], "palette": VOC},
        {"codes": [1], "coding": "palette", "palette": VOC[:3]},
        {"codes": [1], "background": 1},
        {"codes": [1], "dtype": "object"},
        {"codes": [1], "suffix": ".pkl"},
        {"codes": []},
    ],
)
def test_inconsistent_class_maps_are_refused(fault: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        class_map(**fault)


# Files


def test_masks_are_never_converted(tmp_path: Path) -> None:
    index = np.array([[0, 1], [15, 255]], np.uint8)
    write_png(tmp_path / "p.png", index, palette=VOC)
    raw = read_mask(tmp_path / "p.png")
    assert (raw.coding, raw.palette) == ("palette", VOC)
    np.testing.assert_array_equal(raw.pixels, index)
    Image.fromarray(index > 0).save(tmp_path / "bit.png")
    assert read_mask(tmp_path / "bit.png").pixels.tolist() == [[0, 255], [255, 255]]
    Image.fromarray(index).save(tmp_path / "grey.bmp")
    np.testing.assert_array_equal(read_mask(tmp_path / "grey.bmp").pixels, index)
    Image.fromarray(index).save(tmp_path / "grey.gif")
    grey = read_mask(tmp_path / "grey.gif")
    np.testing.assert_array_equal(grey.pixels, index)


def test_opaque_alpha_is_dropped_and_other_alpha_refused(tmp_path: Path) -> None:
    colours = np.zeros((4, 4, 4), np.uint8)
    colours[..., 0], colours[..., 3] = 200, 255
    write_png(tmp_path / "a.png", colours)
    raw = read_mask(tmp_path / "a.png")
    assert (raw.coding, raw.pixels.shape, raw.alpha) == ("rgb", (4, 4, 3), True)
    colours[0, 0] = 9, 0, 0, 100
    write_png(tmp_path / "b.png", colours)
    with pytest.raises(MaskError, match=r"b\.png has 4 bands"):
        read_mask(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (np.array([[0.0, 1.0]], np.float32), "uint8"),
        (np.array([[-1.0, 300.0]]), "int16"),
        (np.array([[0, 1]], np.int8), "int16"),
        (np.array([[0, 70000]], np.uint32), "int32"),
        (np.array([[0, 1]], np.int64), "int16"),
    ],
)
def test_other_number_types_keep_their_values(tmp_path: Path, stored: Array, dtype: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", stored)
    raw = read_mask(tmp_path / "a.tif")
    assert raw.pixels.dtype == dtype
    np.testing.assert_array_equal(raw.pixels, stored)


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (np.array([[0.5, 1.0]], np.float32), "fractions"),
        (np.array([[np.nan, 1.0]], np.float32), "NaN"),
        (np.array([[0, 2**32 - 1]], np.uint32), "too large"),
        (np.zeros((4, 4, 13), np.uint8), "13 bands"),
        (np.zeros((4, 4, 3), np.uint16), "3 bands of uint16"),
    ],
)
def test_what_is_no_mask_is_named(tmp_path: Path, stored: Array, reason: str) -> None:
    write_tiff(tmp_path / "a.tif", stored)
    with pytest.raises(MaskError, match=reason) as caught:
        read_mask(tmp_path / "a.tif")
    assert "a.tif" in caught.value.summary


@pytest.mark.parametrize("content", [b"", b"text\n" * 30, b"\x89PNG\r\n\x1a\n", b"II*\0\0"])
def test_damaged_masks_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(MaskError, match=r"a\.png") as caught:
        read_mask(tmp_path / "a.png")
    assert caught.value.fix


def test_lossy_files_are_known(tmp_path: Path) -> None:
    mask = Image.fromarray(np.zeros((8, 8), np.uint8))
    for name, lossy in (("a.jpg", True), ("a.png", False), ("a.webp", True)):
        mask.save(tmp_path / name)
        assert read_mask(tmp_path / name).lossy is lossy
    mask.convert("RGB").save(tmp_path / "b.webp", lossless=True)
    assert not read_mask(tmp_path / "b.webp").lossy


def test_signed_masks_need_a_tiff(tmp_path: Path) -> None:
    known = class_map([0, 1], (-1,), dtype="int16", suffix=".tif")
    index = np.zeros((2, 2), np.uint8)
    with pytest.raises(MaskError, match=r"write a \.tif"):
        write_mask(tmp_path / "a.png", index, known)
    with pytest.raises(MaskError, match=r"\.png or \.tif"):
        write_mask(tmp_path / "a.jpg", index, known)
    assert not list(tmp_path.iterdir())


@RELAXED
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_runs_hold_all_pixels(values: list[int]) -> None:
    distinct, inverse, lengths = runs(np.array(values))
    assert np.repeat(distinct[inverse], lengths).tolist() == values


def test_colours_pack_and_unpack() -> None:
    colours = np.array([[0, 0, 0], [1, 2, 3], [255, 254, 253]], np.uint8)
    assert unpack(pack(colours), "rgb") == [(0, 0, 0), (1, 2, 3), (255, 254, 253)]
    assert unpack(np.array([-1, 5]), "integer") == [-1, 5]
