"""Noise in masks: what is snapped, what is refused, and what is a class all the same."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tests.builders import mask_facts as facts
from unetseg.data.files.pngs import write_png
from unetseg.data.masks.class_list import ClassNames, read_class_names
from unetseg.data.masks.class_map import ClassMap, Code
from unetseg.data.masks.infer_classes import infer_class_map
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.masks.mask_values import MaskFacts, gather, mask_facts
from unetseg.data.masks.stray_values import separate
from unetseg.errors import MaskError


def codes_of(known: ClassMap) -> list[Code]:
    return [item.code for item in known.classes]


def class_list(tmp_path: Path, text: str, name: str = "classes.txt") -> ClassNames:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_class_names(tmp_path / name)


def blob(size: int = 256, smooth: int = 1) -> NDArray[np.uint8]:
    """A disc of 255 on 0, drawn `smooth` times as large and averaged down."""
    rows, columns = np.mgrid[: size * smooth, : size * smooth] - size * smooth / 2
    disc = (rows**2 + columns**2 < (size * smooth / 3) ** 2) * 255.0
    return np.asarray(disc.reshape(size, smooth, size, smooth).mean((1, 3)).round(), np.uint8)


def test_jpeg_masks_are_snapped_by_themselves(tmp_path: Path) -> None:
    truth = blob()
    Image.fromarray(truth).save(tmp_path / "a.jpg", quality=75)
    seen = mask_facts(tmp_path / "a.jpg")
    assert len(seen.counts) > 20
    known, sentence = infer_class_map([seen])
    assert (codes_of(known), known.snap, known.suffix) == ([0, 255], True, ".png")
    assert "JPEG noise" in sentence
    index = known.encode(read_mask(tmp_path / "a.jpg").pixels)
    assert ((index == 1) == (truth == 255)).mean() > 0.999


def test_rare_foreground_of_jpeg_masks_is_found() -> None:
    found = facts((0, 10**6), (1, 5000), (2, 3000), (255, 200), (254, 90), lossy=True)
    assert codes_of(infer_class_map([found])[0]) == [0, 255]


def test_three_jpeg_classes_and_a_list(tmp_path: Path) -> None:
    found = facts((0, 9000), (2, 100), (127, 900), (128, 3000), (250, 50), (255, 2000), lossy=True)
    assert codes_of(infer_class_map([found])[0]) == [0, 128, 255]
    names = class_list(tmp_path, "0 background\n128 border\n255 cell")
    known, _ = infer_class_map([found], names=names)
    assert (known.names, known.snap) == (("background", "border", "cell"), True)
    named_only = class_list(tmp_path, "background\nborder\ncell")
    assert codes_of(infer_class_map([found], names=named_only)[0]) == [0, 128, 255]


def test_class_numbers_do_not_survive_jpeg(tmp_path: Path) -> None:
    spoilt = facts((0, 9000), (1, 3000), (2, 2000), (3, 1500), lossy=True, path="a.jpg")
    with pytest.raises(MaskError, match="spoilt") as caught:
        infer_class_map([spoilt])
    assert "a.jpg" in caught.value.offenders[0]
    with pytest.raises(MaskError, match="spoilt"):
        infer_class_map([spoilt], names=class_list(tmp_path, "0 sky\n2 road"))


def test_a_photograph_is_no_mask(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.jpg")
    with pytest.raises(MaskError, match="lossy"):
        infer_class_map([mask_facts(tmp_path / "a.jpg")])
    write_png(tmp_path / "a.png", values)
    with pytest.raises(MaskError, match="distinct values"):
        infer_class_map([mask_facts(tmp_path / "a.png")])


@pytest.mark.long
def test_smoothed_masks_are_refused_and_fixed_by_snap(tmp_path: Path) -> None:
    truth, smooth = blob(), blob(smooth=16)
    write_png(tmp_path / "a.png", smooth)
    write_png(tmp_path / "b.png", truth)
    both = [mask_facts(tmp_path / "a.png"), mask_facts(tmp_path / "b.png")]
    assert len(both[0].counts) > 64
    with pytest.raises(MaskError, match="more classes than sense") as caught:
        infer_class_map(both)
    assert "--snap to take the nearest of 0, 255" in caught.value.fix
    assert "a.png" in caught.value.offenders[0]
    known, sentence = infer_class_map(both, snap=True)
    assert (codes_of(known), known.snap) == ([0, 255], True)
    assert "stray values are snapped to the nearest of 0, 255" in sentence
    np.testing.assert_array_equal(known.encode(smooth), smooth > 127)


@pytest.mark.parametrize("smooth", [0.5, 1])
def test_soft_edges_of_small_things_are_noise_however_many_pixels(
    tmp_path: Path, smooth: float
) -> None:
    y, x = np.mgrid[:48, :48]
    disc = np.where((y - 20) ** 2 + (x - 22) ** 2 < 150, 255, 0).astype(np.uint8)
    Image.fromarray(disc).filter(ImageFilter.GaussianBlur(smooth)).save(tmp_path / "a.png")
    soft = mask_facts(tmp_path / "a.png")
    assert sum(pixels for code, pixels in soft.counts if code not in {0, 255}) > 0.1 * 48 * 48
    with pytest.raises(MaskError, match="more classes than sense"):
        infer_class_map([soft])
    assert codes_of(infer_class_map([soft], snap=True)[0]) == [0, 255]


def test_a_few_stray_greys_are_noise_too() -> None:
    greys = {7: 9, **{16 * i: 30 for i in range(1, 16)}}
    soft = facts((0, 90_000), (255, 20_000), *greys.items(), thin=greys)
    with pytest.raises(MaskError, match="more classes than sense: the masks hold 18 distinct"):
        infer_class_map([soft])


def test_one_stray_pixel_in_one_file_is_no_class() -> None:
    masks = [facts((0, 90_000), (255, 20_000), path=f"{i}.png") for i in range(3)]
    speckled = facts((0, 90_000), (255, 20_000), (7, 1), (254, 2), thin=[7, 254], path="odd.png")
    with pytest.raises(MaskError, match=r"99\.9% of the pixels are exactly 0, 255") as caught:
        infer_class_map([*masks, speckled])
    assert caught.value.offenders == ["odd.png: 7 (1 px), 254 (2 px)"]
    assert codes_of(infer_class_map([*masks, speckled], snap=True)[0]) == [0, 255]


@pytest.mark.parametrize(
    "rare", [(128, 2), (128, 2, 254, 2), (1, 30), (7, 30), (2, 20, 3, 20), (1, 1000)]
)
def test_a_rare_class_is_a_class(rare: tuple[int, ...]) -> None:
    codes = dict(zip(rare[::2], rare[1::2], strict=True))
    known, _ = infer_class_map([facts((0, 90_000), (255, 20_000), *codes.items())])
    assert not known.snap
    assert set(codes) < set(codes_of(known))


@pytest.mark.parametrize("odd", [(1,), (7,), (2, 3)])
def test_a_stray_pixel_does_not_turn_the_foreground_into_no_truth(odd: tuple[int, ...]) -> None:
    plain = [facts((0, 90_000), (255, 20_000), path=f"{i}.png") for i in range(3)]
    few = ((code, 2) for code in odd)
    strange = facts((0, 90_000), (255, 20_000), *few, thin=odd, path="odd.png")
    with pytest.raises(MaskError, match="more classes than sense") as caught:
        infer_class_map([*plain, strange])
    assert [line.split(":")[0] for line in caught.value.offenders] == ["odd.png"]
    assert codes_of(infer_class_map([*plain, strange], snap=True)[0]) == [0, 255]
    known, _ = infer_class_map([*plain, strange], ignore=[255])
    assert (codes_of(known), known.ignore) == ([0, *odd], (255,))


def test_a_rare_class_in_many_masks_leaves_255_without_truth() -> None:
    lesions = [facts((0, 70_000), (1, 9), (255, 30_000), path=f"{i}.png") for i in range(30)]
    known, _ = infer_class_map(lesions)
    assert (codes_of(known), known.ignore) == ([0, 1], (255,))


@pytest.mark.long
def test_smoothed_colours_are_refused_and_fixed_by_snap(tmp_path: Path) -> None:
    smooth = np.stack([blob(smooth=16), np.zeros((256, 256), np.uint8), blob(smooth=16)], -1)
    write_png(tmp_path / "a.png", smooth)
    seen = [mask_facts(tmp_path / "a.png")]
    with pytest.raises(MaskError, match="more classes than sense"):
        infer_class_map(seen)
    assert codes_of(infer_class_map(seen, snap=True)[0]) == [(0, 0, 0), (255, 0, 255)]


@pytest.mark.parametrize(
    "found",
    [
        [(0, 970_000), *((i, 300) for i in range(1, 101))],  # rare objects on background
        [(0, 900_000), (255, 80_000), *((i, 100) for i in range(1, 151))],  # and a void
        [(0, 600_000), (60, 390_000), (255, 5_000), *((i, 10) for i in range(1, 140, 2))],
    ],
)
def test_many_class_numbers_are_no_noise(found: list[tuple[Code, int]]) -> None:
    known, _ = infer_class_map([facts(*found)])
    assert len(known.classes) == len(dict(found).keys() - {255})


def test_snap_leaves_class_numbers_alone() -> None:
    known, _ = infer_class_map([facts((0, 10**6), (1, 10**5), (2, 5), (255, 9))], snap=True)
    assert (codes_of(known), known.ignore, known.snap) == ([0, 1, 2], (255,), True)


def test_snap_merges_strays_into_the_listed_classes(tmp_path: Path) -> None:
    names = class_list(tmp_path, "0 background\n255 cell")
    found = facts((0, 1000), (3, 5), (250, 8), (255, 500), path="bad.png")
    with pytest.raises(MaskError, match=r"not in classes\.txt: 3, 250") as caught:
        infer_class_map([found], names=names)
    assert caught.value.offenders == ["bad.png: 3 (5 px), 250 (8 px)"]
    known, _ = infer_class_map([found], names=names, snap=True)
    assert known.encode(np.array([[0, 3, 250, 255]], np.uint8)).tolist() == [[0, 0, 1, 1]]


# Colours

# The 32 colours of CamVid (label_colors.txt), void last; the first 20 are common enough.
CAMVID: list[Code] = [
    *((128, 64, 128), (128, 0, 0), (128, 128, 128), (128, 128, 0), (0, 0, 192), (64, 0, 128)),
    *((192, 192, 128), (192, 128, 128), (64, 64, 128), (64, 64, 0), (0, 128, 192), (128, 0, 192)),
    *((128, 128, 192), (64, 128, 192), (192, 128, 192), (192, 192, 0), (64, 192, 0)),
    *((0, 64, 64), (128, 128, 64), (192, 0, 128), (64, 128, 64), (0, 128, 64), (64, 0, 192)),
    *((192, 128, 64), (192, 0, 64), (192, 0, 192), (128, 64, 64), (64, 192, 128), (0, 0, 64)),
    *((192, 64, 128), (64, 0, 64), (0, 0, 0)),
]


def street(number: int) -> MaskFacts:
    """A mask of common classes, and of one or two that have one pixel in 5,000 of the folder."""
    common = [(code, 40_000 // (place + 1)) for place, code in enumerate(CAMVID[:14])]
    rare = [(CAMVID[14 + (number + step) % 18], 150) for step in range(1 + number % 2)]
    return facts(*common, *rare, path=f"{number}.png")


@pytest.mark.parametrize("snap", [False, True])
def test_many_rare_colours_are_classes(snap: bool) -> None:
    known, _ = infer_class_map([street(number) for number in range(36)], snap=snap)
    assert set(codes_of(known)) == set(CAMVID)


SLIPS: list[tuple[Code, Code]] = [
    ((254, 0, 0), (255, 0, 0)),
    ((250, 5, 3), (255, 0, 0)),
    ((3, 0, 0), (0, 0, 0)),
    ((231, 24, 24), (255, 0, 0)),
]
PLAIN: list[tuple[Code, int]] = [((0, 0, 0), 90_000), ((255, 0, 0), 8_000), ((0, 255, 0), 2_000)]


@pytest.mark.parametrize(("slip", "meant"), SLIPS)
def test_a_slip_of_a_colour_is_united_with_it(slip: Code, meant: Code) -> None:
    masks = [facts(*PLAIN), facts(*PLAIN, (slip, 300), path="odd.png")]
    assert separate(gather(masks)).slips == {slip: meant}
    assert set(codes_of(infer_class_map(masks)[0])) == {slip, *dict(PLAIN)}
    known, sentence = infer_class_map(masks, snap=True)
    assert set(codes_of(known)) == set(dict(PLAIN))
    assert "stray values are snapped" in sentence
    assert known.index_of(slip) == known.index_of(meant)


@pytest.mark.parametrize(
    "other",
    [
        ((255, 30, 0), 300),  # too far
        ((250, 5, 3), 1_000),  # too many
    ],
)
def test_a_colour_of_its_own_is_no_slip(other: tuple[Code, int]) -> None:
    masks = [facts(*PLAIN, other)]
    assert separate(gather(masks)).slips == {}
    assert other[0] in codes_of(infer_class_map(masks, snap=True)[0])


def test_a_fine_scale_of_colours_stays() -> None:
    fine = [*PLAIN, ((255, 20, 0), 5_000)]
    values = separate(gather([facts(*fine, ((255, 3, 0), 20), ((255, 22, 0), 20))]))
    assert values.slips == {(255, 3, 0): (255, 0, 0), (255, 22, 0): (255, 20, 0)}


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=2, max_size=12, unique=True))
def test_slips_go_to_colours_that_stay(colours: list[Code]) -> None:
    masks = [facts(*((code, 7**place) for place, code in enumerate(colours)))]
    united = separate(gather(masks)).slips
    assert not set(united) & set(united.values())
    counts = dict(masks[0].counts)
    for slip, meant in united.items():
        assert counts[slip] < 0.05 * counts[meant]
        assert max(abs(a - b) for a, b in zip(slip, meant, strict=True)) <= 24  # type: ignore[arg-type]


def test_a_class_that_the_list_lacks_is_not_snapped_away(tmp_path: Path) -> None:
    names = class_list(tmp_path, "0 background\n1 cell\n")
    found = facts((0, 9000), (1, 500), (2, 600), (255, 900), path="a.png")
    with pytest.raises(MaskError, match=r"not in classes\.txt: 2") as caught:
        infer_class_map([found], names=names, snap=True)
    assert caught.value.offenders == ["a.png: 2 (600 px)"]
    few = facts((0, 9000), (1, 500), (2, 6), (255, 900), thin=[2])
    known, _ = infer_class_map([few], names=names, snap=True)
    assert (codes_of(known), known.ignore, known.index_of(2)) == ([0, 1], (255,), 1)


def test_snap_keeps_what_is_large_in_one_mask() -> None:
    masks = [facts((0, 95_000), (255, 5_000), path=f"{i}.png") for i in range(200)]
    odd = facts((0, 95_000), (100, 300), (130, 4_000), (253, 5), (255, 700), path="odd.png")
    known, _ = infer_class_map([*masks, odd], snap=True)
    assert (codes_of(known), known.snap) == ([0, 100, 130, 255], True)


def test_snap_leaves_negative_codes_ignored(tmp_path: Path) -> None:
    soft = blob(smooth=16).astype(np.int16)
    soft[:3] = -1
    values, counts = np.unique(soft, return_counts=True)
    pairs = zip(values.tolist(), counts.tolist(), strict=True)
    found = facts(*pairs, thin=range(1, 255), dtype="int16")
    known, _ = infer_class_map([found], snap=True)
    assert (codes_of(known), known.ignore) == ([0, 255], (-1,))


# ------------------------------------------------------------------ soft edges


@pytest.mark.parametrize("radius", [1, 2])
def test_soft_edges_are_no_classes_however_frequent_their_values(
    tmp_path: Path, radius: int
) -> None:
    """Straight edges give a few values between 0 and 255 far more often than others."""
    facts = []
    for number in range(6):
        hard = np.zeros((96, 96), np.uint8)
        hard[10 + number : 60, 20 : 70 - 3 * number] = 255
        hard[70:90, 10 + 5 * number : 60] = 255
        path = tmp_path / f"{number}.png"
        Image.fromarray(hard).filter(ImageFilter.GaussianBlur(radius)).save(path)
        facts.append(mask_facts(path))
    class_map, _ = infer_class_map(facts, snap=True)
    assert [item.code for item in class_map.classes] == [0, 255]


def test_a_third_class_among_soft_edges_is_kept(tmp_path: Path) -> None:
    hard = np.zeros((96, 96), np.uint8)
    hard[10:60, 20:70], hard[30:50, 30:50] = 255, 128
    Image.fromarray(hard).filter(ImageFilter.GaussianBlur(1)).save(tmp_path / "a.png")
    class_map, _ = infer_class_map([mask_facts(tmp_path / "a.png")], snap=True)
    assert [item.code for item in class_map.classes] == [0, 128, 255]


def test_squares_of_one_value_are_counted(tmp_path: Path) -> None:
    mask = np.zeros((5, 6), np.uint8)
    mask[1:4, 1:4] = 7  # 3×3 pixels: four squares of 2×2
    mask[4, 5] = 9
    Image.fromarray(mask).save(tmp_path / "a.png")
    fact = mask_facts(tmp_path / "a.png")
    found = dict(zip((code for code, _ in fact.counts), fact.inner, strict=True))
    squares = sum((mask[y : y + 2, x : x + 2] == 0).all() for y in range(4) for x in range(5))
    assert found == {0: squares, 7: 4, 9: 0}


def test_smoothed_masks_number_no_objects(tmp_path: Path) -> None:
    """Heat maps hold 1, 2, 3, … up to a peak of their own."""
    rows, columns = np.mgrid[:160, :160] - 80
    heat = np.exp(-(rows**2 + columns**2) / 1800)
    masks = []
    for peak in (150, 190, 230):
        write_png(tmp_path / f"{peak}.png", np.rint(peak * heat).astype(np.uint8))
        masks.append(mask_facts(tmp_path / f"{peak}.png"))
        assert len(masks[-1].counts) > 0.9 * peak
    with pytest.raises(MaskError, match="more classes than sense"):
        infer_class_map(masks)
