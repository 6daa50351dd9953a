"""Values and classes in the check: every kind of masks is right or explained; balance, splits."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.builders import mask_facts as facts
from unetseg.checks.balance import inspect_balance
from unetseg.checks.finding import SEVERITIES, Finding
from unetseg.checks.values import inspect_values, masks_of
from unetseg.config import DataConfig
from unetseg.data.facts.fingerprint import PairFacts
from unetseg.data.facts.image_values import ImageFacts
from unetseg.data.facts.survey import Faults, Survey, survey
from unetseg.data.masks.class_list import ClassNames, NamedClass, find_class_file, read_class_names
from unetseg.data.masks.class_map import IGNORED, ClassMap, Code
from unetseg.data.masks.infer_classes import infer_class_map
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.masks.mask_values import MaskFacts, mask_facts
from unetseg.data.pairs.match import Pair, PairSet, find_pairs
from unetseg.data.pairs.splits import assign_splits
from unetseg.data.sample import draw_sample
from unetseg.errors import MaskError

Array = NDArray[Any]
IMAGE = ImageFacts(shape=(1, 1), dtype="uint8", mean=(0,), std=(0,), low=(0,), high=(0,))
BLACK, RED, GREEN = (0, 0, 0), (255, 0, 0), (0, 255, 0)
ORDERED = tuple(value for i in range(256) for value in (i, 7 * i % 256, 255 - i))


def survey_of(
    masks: Sequence[MaskFacts],
    classes: ClassMap | None,
    names: ClassNames | None = None,
    pairs: Sequence[Pair] = (),
    **more: Any,
) -> Survey:
    pairs = pairs or [Pair(Path(f"{i}.jpg"), Path(m.path), str(i)) for i, m in enumerate(masks)]
    facts = {
        pair.name: PairFacts(hash=mask.path, image=IMAGE, mask=mask)
        for pair, mask in zip(pairs, masks, strict=True)
    }
    paired = PairSet(Path("data"), tuple(pairs), "")
    return Survey(Path("data"), paired, facts, classes, names, **more)


def findings_of(masks: Sequence[MaskFacts], **more: Any) -> list[Finding]:
    """What the check says about the values, whether they make sense or not."""
    names = more.pop("names", None)
    config = DataConfig(**more)
    try:
        classes, _ = infer_class_map(masks, names=names, **more)
    except MaskError as error:
        faults = Faults(masks=error)
        return [*inspect_values(survey_of(masks, None, names, config=config, faults=faults))]
    return [*inspect_values(survey_of(masks, classes, names, config=config))]


def makes_sense(masks: Sequence[MaskFacts], **more: Any) -> bool:
    try:
        infer_class_map(masks, **more)
    except MaskError:
        return False
    return True


def kinds(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(finding.severity, finding.check) for finding in findings]


def many(count: int, *counts: tuple[Code, int], **more: Any) -> list[MaskFacts]:
    return [facts(*counts, path=f"{place}.png", **more) for place in range(count)]


# Clean folders and real ones


@pytest.mark.parametrize(("count", "size", "seed"), [(24, 64, 0), (5, 128, 1), (1, 32, 2)])
def test_a_drawn_sample_is_clean(tmp_path: Path, count: int, size: int, seed: int) -> None:
    known = survey(draw_sample(tmp_path / "s", count=count, size=size, seed=seed))
    assert [*inspect_values(known), *inspect_balance(known)] == []


REAL: dict[str, list[tuple[str, str]]] = {
    "camvid": [("note", "dark-masks")],
    "crackforest": [],
    "cwfid": [("note", "mask-coding")],
    "drive": [],
    "dsb2018": [],
    "glas256": [],
    "hot_buildings_geotiff": [("note", "dark-masks")],
    "isbi2012_em": [("note", "mask-polarity")],
    "nucseg_16bit": [],
    "sen1floods11_sample": [("note", "dark-masks"), ("note", "ignored-value")],
    "sen1floods11_tiles13band": [("note", "dark-masks"), ("note", "ignored-value")],
    "tiny_ade20k": [],
    "tiny_kvasir_jpgmask": [("warning", "mask-noise")],
    "tiny_voc_palette": [("note", "ignored-value")],
}


@pytest.mark.parametrize("name", sorted(REAL))
def test_real_folders_give_no_false_alarm(real_data: Path, name: str) -> None:
    listed = find_class_file(real_data / name)
    pairs = find_pairs(real_data / name).pairs
    masks = [mask_facts(pair.mask) for pair in pairs if pair.mask]
    found = findings_of(masks, names=read_class_names(listed) if listed else None)
    assert kinds(found) == REAL[name]


def test_membranes_are_the_smaller_class_and_jpeg_masks_are_noisy(real_data: Path) -> None:
    found = findings_of([mask_facts(path) for path in masks_in(real_data / "isbi2012_em")])
    assert found[0].summary == "78.0% of the pixels are foreground (255), which is the larger class"
    files = [*masks_in(real_data / "tiny_kvasir_jpgmask")]
    (noise,) = findings_of([mask_facts(path) for path in files])
    pixels = [np.asarray(Image.open(path)) for path in files]
    strays = [int(np.isin(mask[..., 0], (0, 255), invert=True).sum()) for mask in pixels]
    assert noise.files == tuple(
        f"{path}: {count} stray pixels" for path, count in zip(files, strays, strict=True)
    )
    share = sum(strays) / sum(mask[..., 0].size for mask in pixels)
    assert noise.summary.startswith(f"{share:.1%} of the pixels are JPEG noise around")
    assert noise.command == "unetseg check DATA --fix OUT"


def masks_in(folder: Path) -> Iterator[Path]:
    return (path for path in sorted((folder / "masks").rglob("*")) if path.is_file())


# Kinds of masks, through files


def disc(size: int = 96) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:size, :size] - size / 2
    return np.asarray(rows**2 + columns**2 < (size / 3) ** 2)


def grey(value: int, dtype: type = np.uint8) -> Array:
    return np.asarray(disc().astype(dtype) * dtype(value))


def noise(bands: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (64, 64, bands), dtype=np.uint8)


def tiff(pixels: Array, **more: Any) -> Callable[[Path], object]:
    return lambda path: tifffile.imwrite(path, pixels, **more)


def pillow(pixels: Array, mode: str | None = None, **more: Any) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        picture = Image.fromarray(pixels)
        (picture.convert(mode) if mode else picture).save(path, **more)

    return write


def palette(colours: Sequence[int]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        picture = Image.fromarray(disc().astype(np.uint8) * 3, "P")
        picture.putpalette(list(colours))
        picture.save(path)

    return write


def rgba(alpha: Array) -> Array:
    """A red disc on black."""
    return np.stack([disc() * 255, disc() * 0, disc() * 0, alpha], axis=-1).astype(np.uint8)


def with_border(value: int, dtype: type) -> Array:
    mask = grey(1, dtype)
    mask[:4] = value
    return mask


ONE_HOT = np.stack([disc() * 255, *[disc() * 0] * 4], axis=-1).astype(np.uint8)
RED_DISC, NOISY = rgba(disc() * 255), ["mask-noise", "mask-coding"]
KINDS: list[tuple[str, Callable[[Path], object], list[Code], list[str]]] = [
    ("0/1.png", pillow(grey(1)), [0, 1], ["dark-masks"]),
    ("0/255.png", pillow(grey(255)), [0, 255], []),
    ("1-bit.png", pillow(disc()), [0, 255], []),
    ("1-bit.tif", tiff(disc()), [0, 255], []),
    ("grey.gif", pillow(grey(255)), [0, 255], []),
    ("noisy.jpg", pillow(grey(255), quality=85), [0, 255], ["mask-noise"]),
    ("rgb.png", pillow(RED_DISC, "RGB"), [BLACK, RED], ["mask-coding"]),
    ("rgb.jpg", pillow(RED_DISC, "RGB", quality=95, subsampling=0), [BLACK, (254, 0, 0)], NOISY),
    ("cmyk.jpg", pillow(RED_DISC, "CMYK"), [BLACK, RED], NOISY),
    ("palette.png", palette(ORDERED), [0, 3], []),
    ("black-palette.png", palette([0] * 768), [0, 3], ["near-colours"]),
    ("rgba.png", pillow(rgba(disc() * 0 + 255)), [BLACK, RED], ["mask-alpha", "mask-coding"]),
    ("clear.png", pillow(RED_DISC), [BLACK, RED], ["mask-coding"]),
    (
        "one-hot.tif",
        tiff(ONE_HOT, photometric="minisblack", planarconfig="contig"),
        [0, 1],
        ["dark-masks"],
    ),
    ("16-bit.png", pillow(grey(255, np.uint16)), [0, 255], []),
    ("16-bit.tif", tiff(grey(7, np.uint16)), [0, 7], ["dark-masks"]),
    ("wide.tif", tiff(grey(60_000, np.uint16)), [0, 60_000], ["mask-coding"]),
    ("float.tif", tiff(grey(1, np.float32)), [0, 1], ["dark-masks"]),
    ("negative.tif", tiff(with_border(-1, np.int16)), [0, 1], ["dark-masks", "ignored-value"]),
    ("void.png", pillow(with_border(255, np.uint8)), [0, 1], ["ignored-value"]),
]


@pytest.mark.row(29)
@pytest.mark.parametrize(("name", "write", "codes", "checks"), KINDS, ids=[k[0] for k in KINDS])
def test_every_kind_of_masks_is_understood(
    tmp_path: Path, name: str, write: Callable[[Path], object], codes: list[Code], checks: list[str]
) -> None:
    path = tmp_path / name.replace("/", "-")
    write(path)
    masks = [mask_facts(path)]
    class_map, _ = infer_class_map(masks)
    assert [item.code for item in class_map.classes] == codes
    known = survey_of(masks, class_map)
    found = [*inspect_values(known), *inspect_balance(known)]
    assert [finding.check for finding in found] == checks
    assert "error" not in {finding.severity for finding in found}


REFUSED: list[tuple[str, Callable[[Path], object], str]] = [
    ("black.png", pillow(grey(0)), "no two classes: all masks hold 0"),
    ("void.tif", tiff(grey(-1, np.int16)), "-1 is ignored"),
    ("photo.png", pillow(noise(3)), "distinct values"),
    ("photo.jpg", pillow(noise(3)), "lossy compression"),
]
FRAMES: dict[str, Any] = {"save_all": True, "append_images": [Image.fromarray(grey(128))]}
UNREAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("clear.png", pillow(noise(4)), "4 bands of uint8"),
    ("la.png", pillow(noise(4), "LA"), "2 bands of uint8"),
    ("half.tif", tiff(disc() * np.float32(0.5)), "fractions"),
    ("pages.tif", tiff(np.stack([grey(1)] * 3), photometric="minisblack"), "pages"),
    ("moving.gif", pillow(grey(255), **FRAMES), "2 frames"),
    ("bands.tif", tiff(noise(13), photometric="minisblack", planarconfig="contig"), "13 bands"),
]


@pytest.mark.row(29)
@pytest.mark.parametrize(("name", "write", "reason"), REFUSED, ids=[k[0] for k in REFUSED])
def test_masks_without_sense_are_explained(
    tmp_path: Path, name: str, write: Callable[[Path], object], reason: str
) -> None:
    write(tmp_path / name)
    (finding,) = findings_of([mask_facts(tmp_path / name)])
    assert (finding.severity, finding.check, finding.command) == ("error", "mask-coding", "")
    assert reason in finding.summary
    assert name in finding.files[0]
    assert finding.fix


@pytest.mark.parametrize(("name", "write", "reason"), UNREAD, ids=[k[0] for k in UNREAD])
def test_files_that_are_no_masks_are_named(
    tmp_path: Path, name: str, write: Callable[[Path], object], reason: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(MaskError, match=reason) as caught:
        mask_facts(tmp_path / name)
    assert name in caught.value.summary


# Noise and slips


def test_smooth_masks_can_be_fixed_by_a_command() -> None:
    greys = {7: 9, **{16 * i: 30 for i in range(1, 16)}}
    soft = facts((0, 90_000), (255, 20_000), *greys.items(), thin=greys)
    (finding,) = findings_of([soft])
    assert kinds([finding]) == [("error", "mask-coding")]
    assert finding.command == "unetseg check DATA --fix OUT"
    (finding,) = findings_of([soft], snap=True)
    assert kinds([finding]) == [("warning", "mask-noise")]
    assert finding.files == ("a.png: 459 stray pixels",)
    assert finding.command == "unetseg check DATA --snap --fix OUT"


def test_a_listed_class_too_few_is_no_case_for_snapping(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("0 ground\n1 cell\n")
    names = read_class_names(tmp_path / "classes.txt")
    (finding,) = findings_of(many(3, (0, 900), (1, 80), (2, 90)), names=names)
    assert (finding.severity, finding.command) == ("error", "")
    assert finding.files == tuple(f"{i}.png: 2 (90 px)" for i in range(3))


@pytest.mark.parametrize("stray", [128, 100])
def test_stray_values_are_refused_with_their_pixels(stray: int) -> None:
    odd = facts((0, 9000), (255, 1000), (stray, 2), thin=[stray], path="x")
    masks = [*many(20, (0, 9000), (255, 1000)), odd]
    (finding,) = findings_of(masks)
    assert kinds([finding]) == [("error", "mask-coding")]
    assert finding.files == (f"x: {stray} (2 px)",)
    assert kinds(findings_of(masks, snap=True)) == [("warning", "mask-noise")]


def test_a_class_beside_an_ignored_code_is_no_slip_of_it_where_codes_count_objects() -> None:
    counts = (255, 60_000), (0, 60_000), (257, 1000), (258, 1000)
    files = [counts, (*counts, (259, 1000))]
    masks = [facts(*file, path=f"{i}.png", dtype="int32") for i, file in enumerate(files)]
    found = findings_of(masks, ignore=(255,))
    assert "stray-values" not in [one.check for one in found]


def test_slips_of_a_grey_value_are_listed() -> None:
    odd = facts((0, 9000), (255, 950), (254, 50), path="x")
    masks = [*many(20, (0, 9000), (255, 1000)), odd]
    (finding,) = findings_of(masks)
    assert kinds([finding]) == [("warning", "stray-values")]
    assert finding.files == ("x: 254 (50 px)",)
    assert finding.command == "unetseg check DATA --snap --fix OUT"


def test_values_in_few_masks_are_odd() -> None:
    plain = many(97, (0, 9000), (255, 1000))
    odd = [facts((0, 9000), (128, 1000), path=f"odd{i}") for i in range(3)]
    (finding,) = findings_of([*plain, *odd])
    assert kinds([finding]) == [("warning", "odd-values")]
    assert finding.files == tuple(f"odd{i}: 128 (1000 px)" for i in range(3))
    assert "128 is in 3 of 100 masks only, every other value in 97 or more" in finding.summary


@pytest.mark.parametrize(
    ("one", "other"), [(RED, (250, 5, 3)), (RED, (254, 0, 0)), (BLACK, (3, 3, 0))]
)
def test_near_colours_are_one_class_in_two_colours(one: Code, other: Code) -> None:
    plain = {BLACK: 9000, RED: 900, GREEN: 800}
    slip = facts(*plain.items(), (other, 30), path="slip.png")
    found = [f for f in findings_of([*many(9, *plain.items()), slip]) if f.severity == "warning"]
    assert kinds(found) == [("warning", "near-colours")]
    assert f"{other} and {one}" in found[0].summary
    assert found[0].files == (f"slip.png: {other} (30 px)",)


def test_painters_with_two_reds() -> None:
    masks = [*many(4, (BLACK, 900), (RED, 100)), *many(3, (BLACK, 900), ((250, 5, 3), 100))]
    found = [f for f in findings_of(masks) if f.severity == "warning"]
    assert kinds(found) == [("warning", "near-colours")]
    assert (len(found[0].files), found[0].command) == (3, "")


@pytest.mark.parametrize(("one", "other"), [(RED, GREEN), (1, 2), (128, 255)])
def test_values_that_exclude_each_other_may_be_one_class(one: Code, other: Code) -> None:
    nothing: Code = BLACK if isinstance(one, tuple) else 0
    masks = [*many(9, (nothing, 900), (one, 90)), *many(6, (nothing, 900), (other, 90))]
    found = [f for f in findings_of(masks) if f.severity == "warning"]
    assert kinds(found) == [("warning", "exclusive-values")]
    assert len(found[0].files) == 6
    both = facts((nothing, 900), (one, 50), (other, 50), path="both")
    assert not [f for f in findings_of([*masks, both]) if f.severity == "warning"]


def test_a_class_list_settles_what_the_values_are(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("0 ground\n128 cell\n255 crack\n")
    names = read_class_names(tmp_path / "classes.txt")
    masks = [*many(9, (0, 900), (128, 90)), *many(6, (0, 900), (255, 90))]
    assert findings_of(masks, names=names) == []


def test_few_numbered_objects_are_a_warning() -> None:
    masks = [
        facts((0, 900), *((i, 10) for i in range(1, last + 1)), path=f"{last}.png")
        for last in (3, 5, 8, 12)
    ]
    assert ("warning", "numbered-objects") in kinds(findings_of(masks))
    classes = [facts((0, 900), *((i, 10) for i in (1, 3, last))) for last in (5, 6, 7, 8)]
    assert ("warning", "numbered-objects") not in kinds(findings_of(classes))


def test_palette_entries_that_look_alike() -> None:
    palette = (0, 0, 0, 200, 0, 0, 0, 200, 0, 203, 0, 1, *[9] * 756)
    masks = many(5, (0, 900), (1, 80), (2, 70), (3, 60), coding="palette", palette=palette)
    (finding,) = findings_of(masks)
    assert "1 and 3 ((200, 0, 0))" in finding.summary
    assert len(finding.files) == 5


# Polarity


@given(st.integers(1, 999))
def test_inverted_masks_are_told_by_their_share(share: int) -> None:
    found = kinds(findings_of(many(3, (0, 1000 - share), (255, share))))
    expected = "warning" if share > 900 else "note" if 3 * share > 2000 else ""
    assert found == ([(expected, "mask-polarity")] if expected else [])


# Laws


@st.composite
def folders(draw: st.DrawFn) -> list[MaskFacts]:
    number = st.one_of(st.integers(-1, 4), st.integers(0, 255))
    code = draw(st.sampled_from([number, st.tuples(*[st.sampled_from([0, 3, 128, 250, 255])] * 3)]))
    lossy = draw(st.booleans())
    rows: Any = st.dictionaries(code, st.sampled_from([1, 7, 400, 90_000]), min_size=1, max_size=9)
    dtype = "int16"
    return [
        facts(*counts.items(), path=f"{place}.png", lossy=lossy, dtype=dtype)
        for place, counts in enumerate(draw(st.lists(rows, min_size=1, max_size=25)))
    ]


@pytest.mark.long
@given(folders(), st.booleans())
def test_the_check_never_fails_and_names_files_of_the_folder(
    masks: list[MaskFacts], snap: bool
) -> None:
    found = findings_of(masks, snap=snap)
    if makes_sense(masks, snap=snap):
        class_map, _ = infer_class_map(masks, snap=snap)
        found += inspect_balance(survey_of(masks, class_map))
        assert "mask-coding" not in {f.check for f in found if f.severity == "error"}
    paths = {fact.path for fact in masks}
    for finding in found:
        assert finding.severity in SEVERITIES
        assert finding.summary
        assert {line.split(": ")[0] for line in finding.files} <= paths


@pytest.mark.long
@given(folders(), st.randoms())
def test_the_order_of_files_changes_no_verdict(masks: list[MaskFacts], random: Any) -> None:
    shuffled = random.sample(masks, len(masks))
    assert kinds(findings_of(shuffled)) == kinds(findings_of(masks))


# Balance of the classes

GROUND_CELL = ClassNames((NamedClass("ground", 0), NamedClass("cell", 1)))


def numbers(path: str, **counts: int) -> MaskFacts:
    """A mask with pixels of each code; `_1` is -1, `x7` is 7."""
    codes = [(int(code.translate({95: "-", 120: ""})), pixels) for code, pixels in counts.items()]
    return facts(*codes, path=path, dtype="int16", inner=())


def look(
    masks: Sequence[MaskFacts], splits: Sequence[str] = (), names: ClassNames | None = None
) -> list[Finding]:
    class_map, _ = infer_class_map(masks, names=names)
    pairs = [
        Pair(Path(f"{mask.path}.jpg"), Path(mask.path), mask.path, split)
        for mask, split in zip(masks, splits or ["train"] * len(masks), strict=True)
    ]
    own = bool(splits)
    return [*inspect_balance(survey_of(masks, class_map, names, pairs=pairs, own_splits=own))]


def full(count: int, start: int = 0) -> list[MaskFacts]:
    return [numbers(f"{start + place}.png", x0=8000, x1=2000) for place in range(count)]


def empty(count: int) -> list[MaskFacts]:
    return [numbers(f"empty{place}.png", x0=10_000) for place in range(count)]


BALANCE: dict[str, list[tuple[str, str]]] = {
    "camvid": [("note", "class-balance")],
    "crackforest": [("note", "class-balance")],
    "cwfid": [("note", "class-balance")],
    "drive": [],
    "dsb2018": [],
    "glas256": [],
    "hot_buildings_geotiff": [("note", "empty-masks")],
    "isbi2012_em": [],
    "nucseg_16bit": [],
    "sen1floods11_sample": [],
    "sen1floods11_tiles13band": [],
    "tiny_ade20k": [("note", "class-balance"), ("warning", "rare-classes")],
    "tiny_kvasir_jpgmask": [],
    "tiny_voc_palette": [("warning", "rare-classes")],
}


def survey_masks(folder: Path) -> Survey:
    """The masks of a real folder, with its own splits or those that training draws."""
    listed = find_class_file(folder)
    names = read_class_names(listed) if listed else None
    found = find_pairs(folder)
    masks = [mask_facts(pair.mask) for pair in found.pairs if pair.mask]
    class_map, _ = infer_class_map(masks, names=names)
    present = [frozenset(class_map.index_of(c) for c, _ in m.counts) - {IGNORED} for m in masks]
    pairs = assign_splits(found, [mask.path for mask in masks], present, 0.2)
    own = any(pair.split for pair in found.pairs)
    return survey_of(masks, class_map, names, pairs=pairs.pairs, own_splits=own)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(BALANCE))
def test_balance_of_real_folders(real_data: Path, name: str) -> None:
    assert kinds([*inspect_balance(survey_masks(real_data / name))]) == BALANCE[name]


def test_crackforest_has_its_published_share_of_cracks(real_data: Path) -> None:
    (finding,) = inspect_balance(survey_masks(real_data / "crackforest"))
    assert "background has 98.4% of the pixels, foreground 1.6%" in finding.summary
    (finding,) = inspect_balance(survey_masks(real_data / "hot_buildings_geotiff"))
    blank = [
        str(path)
        for path in sorted((real_data / "hot_buildings_geotiff" / "masks").rglob("*.tif"))
        if not read_mask(path).pixels.any()
    ]
    assert sorted(finding.files) == blank


def test_pixels_are_counted_as_training_sees_them(real_data: Path) -> None:
    for name in ("camvid", "cwfid", "sen1floods11_sample", "tiny_kvasir_jpgmask"):
        known = survey_masks(real_data / name)
        masks = masks_of(known)
        assert masks is not None
        for pair, row in [*zip(known.pairs.pairs, masks.pixels, strict=True)][:3]:
            assert pair.mask is not None
            index = masks.class_map.encode(read_mask(pair.mask).pixels)
            counts = np.bincount(index.ravel(), minlength=256)
            np.testing.assert_array_equal(row[:-1], counts[: len(row) - 1])
            assert row[-1] == counts[IGNORED]


# Empty and ignored masks


@given(st.integers(1, 12), st.integers(0, 30))
def test_empty_masks_are_listed(some: int, blank: int) -> None:
    found = look([*full(some), *empty(blank)])
    share = blank / (some + blank)
    expected = "warning" if share > 0.5 else "note"
    about = [finding for finding in found if finding.check == "empty-masks"]
    assert [finding.severity for finding in about] == ([expected] if blank else [])
    if blank:
        assert about[0].files == tuple(mask.path for mask in empty(blank))
        assert f"{blank} of {some + blank} masks" in about[0].summary


@pytest.mark.row(29)
@pytest.mark.parametrize("first", ["background", "ground"])
def test_masks_without_any_object_are_an_error(first: str) -> None:
    names = ClassNames((NamedClass(first, 0), NamedClass("cell", 1)))
    found = look(empty(3), names=names)
    assert kinds(found) == [("error", "one-class"), ("warning", "absent-classes")]


def test_masks_that_are_ignored_throughout() -> None:
    mute = [numbers(f"mute{place}.png", _1=10_000) for place in range(2)]
    (finding,) = look([*full(9), *mute])
    assert kinds([finding]) == [("warning", "ignored-masks")]
    assert finding.files == ("mute0.png", "mute1.png")
    assert ("error", "ignored-masks") in kinds(look(mute, names=GROUND_CELL))


@pytest.mark.parametrize(("ignored", "is_much"), [(9_000, False), (11_000, True), (90_000, True)])
def test_mostly_ignored_pixels_are_a_warning(ignored: int, is_much: bool) -> None:
    found = look([numbers(f"{i}.png", x0=8000, x1=2000, x255=ignored) for i in range(4)])
    assert kinds(found) == ([("warning", "ignored-pixels")] if is_much else [])
    if is_much:
        share = ignored / (ignored + 10_000)
        assert found[0].files[0] == f"0.png: {share:.1%}"


def test_an_ignored_mask_is_not_empty() -> None:
    assert look([*full(3), numbers("a.png", x0=9, _1=1), numbers("b.png", _1=9)])[-1].files == (
        "a.png",
    )


# Classes


def test_classes_of_the_list_that_no_mask_shows() -> None:
    words = enumerate(("ground", "cell", "crack", "hole"))
    names = ClassNames(tuple(NamedClass(word, code) for code, word in words))
    (finding,) = look(full(5), names=names)
    assert kinds([finding]) == [("warning", "absent-classes")]
    assert "2 of 4 classes of the class list are in no mask: crack, hole" in finding.summary


@pytest.mark.parametrize(
    ("pixels", "checks"),
    [(600, []), (300, ["class-balance"]), (30, ["class-balance"]), (8, ["rare-classes"])],
)
def test_rare_classes_are_told_with_their_masks(pixels: int, checks: list[str]) -> None:
    masks = [numbers(f"{i}.png", x0=9000, x1=1000 - pixels // 2, x2=pixels) for i in range(4)]
    found = look(masks)
    assert [finding.check for finding in found] == checks
    if checks == ["rare-classes"]:
        assert kinds(found) == [("note", "rare-classes")]
        assert found[0].files == tuple(f"{i}.png: 2 (8 px)" for i in range(4))


@pytest.mark.parametrize(
    ("holders", "count", "is_rare"), [(1, 5, True), (2, 5, True), (3, 9, False), (1, 2, False)]
)
def test_classes_in_one_or_two_masks(holders: int, count: int, is_rare: bool) -> None:
    masks = [numbers(f"{i}.png", x0=8000, x1=1000, x2=1000) for i in range(holders)]
    found = look([*masks, *full(count - holders, start=holders)])
    about = [finding for finding in found if finding.check == "rare-classes"]
    assert [finding.severity for finding in about] == (["warning"] if is_rare else [])
    if is_rare:
        assert about[0].files == tuple(f"{i}.png: 2 (1000 px)" for i in range(holders))


def test_slips_are_no_rare_classes() -> None:
    odd = numbers("odd.png", x0=8000, x255=2000, x254=2)
    assert look([*(numbers(f"{i}.png", x0=8000, x255=2000) for i in range(9)), odd]) == []


# Splits


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_classes_that_a_split_lacks(split: str) -> None:
    splits = ["train", "val", "test"] * 4
    masks = [
        numbers(f"{i}.png", x0=8000, x1=1000, **({} if held == split else {"x2": 1000}))
        for i, held in enumerate(splits)
    ]
    (finding,) = look(masks, splits)
    assert kinds([finding]) == [("warning", "split-classes")]
    assert f"1 of 3 classes is in no mask of {split}" in finding.summary
    assert len(finding.files) == 8


def test_drawn_splits_are_not_blamed_for_a_class_in_one_mask() -> None:
    masks = [numbers("0.png", x0=8000, x1=1000, x2=1000), *full(9, start=1)]
    pairs = [Pair(Path(m.path), Path(m.path), m.path) for m in masks]
    drawn = assign_splits(
        PairSet(Path(), tuple(pairs), ""), [m.path for m in masks], [frozenset()] * 10, 0.2
    )
    class_map, _ = infer_class_map(masks)
    for own, checks in ((False, ["rare-classes"]), (True, ["rare-classes", "split-classes"])):
        known = survey_of(masks, class_map, pairs=drawn.pairs, own_splits=own)
        assert [finding.check for finding in inspect_balance(known)] == checks


def test_without_a_class_map_nothing_is_said() -> None:
    assert [*inspect_balance(Survey(Path(), PairSet(Path(), (), ""), {}))] == []


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["x0", "x1", "x2", "_1", "x255"]), st.integers(1, 99_999), min_size=1
        ),
        min_size=1,
        max_size=8,
    )
)
def test_shares_add_up(rows: list[dict[str, int]]) -> None:
    masks = [numbers(f"{i}.png", **row) for i, row in enumerate([{"x0": 1, "x1": 1}, *rows])]
    codes: list[Code] = [0, 1, 2]
    names = ClassNames(tuple(NamedClass(str(code), code) for code in codes))
    class_map, _ = infer_class_map(masks, names=names, ignore=[255])
    pairs = [Pair(Path(mask.path), Path(mask.path), mask.path) for mask in masks]
    tally = masks_of(survey_of(masks, class_map, names, pairs=pairs))
    assert tally is not None
    assert tally.pixels.sum(axis=1).tolist() == [mask.pixels for mask in masks]
    assert tally.share.sum() == pytest.approx(1)
