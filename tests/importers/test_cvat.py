"""Exports of CVAT, written as its exporters write them.

"Segmentation mask 1.1" is datumaro's VOC writer (plugins/voc_format/converter.py): labels sorted by
name, RGB masks, names of all images in ImageSets/Segmentation/SUBSET.txt, and no mask file where
nothing was drawn. "CVAT for images 1.1" is https://docs.cvat.ai/docs/other/xml_format; its expected
masks come from loops over pixel centres, written here, and from the decoder that CVAT's developers
publish (https://github.com/cvat-ai/cvat/issues/6487).
"""

import cmath
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import make_archive

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.importers.exports import Mask, draw, masks_in, photo, problems_of
from unetseg.data.files.pngs import write_png
from unetseg.data.masks.mask_file import read_mask
from unetseg.errors import DataError, MaskError
from unetseg.importers.annotations import Annotations
from unetseg.importers.importing import import_dataset, read_annotations

SIZE = (4, 6)
COLOURS = {"background": (0, 0, 0), "car": (250, 50, 83), "road": (51, 221, 255)}
read = partial(read_annotations, "cvat")


# Segmentation mask 1.1


def export(root: Path, masks: dict[str, NDArray[np.uint8]], lists: dict[str, list[str]]) -> None:
    """What datumaro writes for codes in the order of COLOURS."""
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in sorted(COLOURS.items())]
    (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *lines, ""]))
    table = np.array(list(COLOURS.values()), np.uint8)
    for name, codes in masks.items():
        write_png(root / f"SegmentationClass/{name}.png", table[codes])
        write_png(root / f"SegmentationObject/{name}.png", table[codes] // 2)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for subset, names in lists.items():
        text = "".join(f"{name}\n" for name in names)
        (root / f"ImageSets/Segmentation/{subset}.txt").write_text(text)


def codes(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 3, SIZE, np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "above/export"
    root.mkdir(parents=True)
    export(root, {"a": codes(1), "north/b c": codes(2)}, {"default": ["a", "north/b c", "d"]})
    for name in ("a", "north/b c", "d"):
        photo(root / f"JPEGImages/{name}.png", SIZE)
    return root


def names_of(root: Path, subset: str, *names: str) -> None:
    """Add names to a list of images."""
    with (root / f"ImageSets/Segmentation/{subset}.txt").open("a") as file:
        file.writelines(f"{name}\n" for name in names)


def test_colours_become_codes_in_the_order_of_the_labels(root: Path) -> None:
    for source in (root, root.parent):
        found = read(source)
        assert (found.classes, found.problems) == (tuple(COLOURS), ())
        masks = {image.name: draw(image, SIZE).tolist() for image in found.images}
        nothing = np.zeros(SIZE, int).tolist()
        assert masks == {
            "a": codes(1).tolist(),
            "north/b c": codes(2).tolist(),
            "d": nothing,
        }
        assert found.notes == ("1 image without a mask: nothing was drawn, all background",)


def test_subsets_are_splits(root: Path) -> None:
    lists = root / "ImageSets/Segmentation"
    (lists / "default.txt").rename(lists / "Train.txt")
    names_of(root, "Validation", "e")
    photo(root / "JPEGImages/e.png", SIZE)
    splits = {image.name: image.split for image in read(root).images}
    assert splits == {"a": "train", "north/b c": "train", "d": "train", "e": "val"}
    names_of(root, "Validation", "a")
    assert problems_of(read(root)) == ["in several splits: a: train and val"]


def test_images_that_are_elsewhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("photos") / "all"
    (root / "JPEGImages").rename(elsewhere)
    found = read(root, elsewhere)
    assert (len(found.images), found.problems) == (3, ())
    assert all(elsewhere in image.path.parents for image in found.images)
    with pytest.raises(DataError, match="no images found"):
        read(root)


@pytest.mark.parametrize("folder", ["JPEGImages", "."])
def test_masks_are_never_taken_for_images(root: Path, folder: str) -> None:
    for path in [*(root / "JPEGImages").iterdir()]:
        path.rename(root / folder / path.name)
    if folder == ".":
        (root / "JPEGImages").rmdir()
    (root / folder / "a.png").unlink()
    found = read(root)
    assert problems_of(found) == ["no such image: a"]
    assert len(found.images) == 2
    assert not any("SegmentationClass" in image.path.parts for image in found.images)


def test_names_in_lists_that_climb_lead_nowhere(root: Path) -> None:
    photo(root.parent / "secret.png", SIZE)
    names = ["../../secret", "/etc/hostname", "..\\..\\secret", "../secret.png"]
    names_of(root, "default", *names)
    found = read(root)
    assert [problem.where for problem in found.problems] == names
    assert {problem.kind for problem in found.problems} == {"no such image"}
    assert all(root in image.path.parents for image in found.images)


def test_a_hidden_copy_is_no_second_export(root: Path) -> None:
    photo(root / ".trash/labelmap.txt", SIZE)
    assert read(root).images


def test_a_mask_of_another_size_is_refused(root: Path) -> None:
    write_png(root / "SegmentationClass/a.png", np.zeros((4, 7, 3), np.uint8))
    with pytest.raises(MaskError, match=r"a.png is 4×7, expected 4×6"):
        draw(read(root).images[0], SIZE)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda root: (root / "SegmentationClass").rename(root / "x"), "no masks in"),
        (lambda root: (root / "labelmap.txt").unlink(), "neither labelmap.txt nor annotations.xml"),
        (lambda root: photo(root / "second/labelmap.txt", SIZE), "several exports"),
    ],
)
def test_what_is_no_export_of_masks_is_said(
    root: Path, change: Callable[[Path], object], text: str
) -> None:
    change(root)
    with pytest.raises(DataError, match=text):
        read(root)


def test_an_archive_becomes_pairs(root: Path) -> None:
    source = Path(make_archive(str(root.parent / "task"), "zip", root))
    done = import_dataset("cvat", source, root.parent / "out")
    assert (done.pairs, done.skipped) == (3, ())
    masks = masks_in(root.parent / "out")
    for name, seed in (("a", 1), ("north/b c", 2)):
        assert (masks[name] == codes(seed)).all()


def test_real_masks_in_colours_come_back(real_data: Path, tmp_path: Path) -> None:
    """CWFID's masks are red, green and black, as CVAT would export them."""
    lines = ["background:0,0,0::", "crop:0,255,0::", "weed:255,0,0::"]
    (tmp_path / "labelmap.txt").write_text("\n".join(lines))
    masks = sorted((real_data / "cwfid/masks/train").glob("*"))[:3]
    for path in masks:
        write_png(tmp_path / f"SegmentationClass/{path.stem}.png", read_mask(path).pixels)
        write_png(tmp_path / f"JPEGImages/{path.stem}.png", read_mask(path).pixels)
    for image, path in zip(read(tmp_path).images, masks, strict=True):
        pixels = read_mask(path).pixels
        drawn = draw(image, pixels.shape[:2])
        assert (np.array([[0, 0, 0], [0, 255, 0], [255, 0, 0]])[drawn] == pixels).all()
        assert set(np.unique(drawn)) == {0, 1, 2}


# CVAT for images 1.1

HEIGHT, WIDTH = 24, 32
META = """<meta><task><id>4</id><name>segmentation</name><labels>
<label><name>road</name><color>#aaaaaa</color><type>any</type><attributes><attribute>
<name>wet</name><values>yes
no</values></attribute></attributes></label>
<label><name>car &amp; van</name><type>polygon</type></label>
<label><name>note</name><type>tag</type></label>
</labels></task></meta>"""
# From https://github.com/cvat-ai/cvat/issues/4723, at left 79 and top 304 there
PUBLISHED = (
    "17, 10, 27, 15, 23, 18, 20, 21, 18, 23, 16, 24, 15, 26, 13, 27, 13, 27, 12, 29, 10, 30, 9, "
    "32, 7, 34, 5, 36, 3, 38, 2, 38, 2, 39, 1, 39, 1, 120, 1, 39, 1, 39, 1, 39, 2, 38, 2, 38, 3, "
    "37, 3, 37, 3, 37, 4, 36, 4, 35, 6, 34, 7, 33, 7, 32, 9, 30, 10, 29, 13, 26, 15, 23, 18, 20, "
    "22, 15, 12"
)


def write(folder: Path, *shapes: str, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    """An export of one image, a.png, with these shapes."""
    height, width = size
    write_png(folder / "images/a.png", np.zeros((height, width, 3), np.uint8))
    head = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{META}'
    image = (
        f'<image id="0" name="a.png" width="{width}" height="{height}">{"".join(shapes)}</image>'
    )
    (folder / "annotations.xml").write_text(f"{head}{image}</annotations>", encoding="utf-8")
    return folder / "annotations.xml"


def drawn(folder: Path, *shapes: str) -> Mask:
    return draw(read(write(folder, *shapes)).images[0], (HEIGHT, WIDTH))


def centres(is_inside: Callable[[float, float], bool]) -> Mask:
    """The mask of the pixels whose centres (x, y) lie inside."""
    rows = [[is_inside(x + 0.5, y + 0.5) for x in range(WIDTH)] for y in range(HEIGHT)]
    return np.array(rows, np.uint8)


def turned_back(x: float, y: float, cx: float, cy: float, degrees: float) -> tuple[float, float]:
    """Where a point was before it was turned clockwise (y points down) around (cx, cy)."""
    point = complex(cx, cy) + complex(x - cx, y - cy) * cmath.exp(-1j * math.radians(degrees))
    return point.real, point.imag


def test_classes_are_the_labels_that_can_be_drawn(tmp_path: Path) -> None:
    write(tmp_path, '<tag label="note" source="manual"></tag>')
    found = read(tmp_path)
    assert found.classes == ("background", "road", "car & van")
    assert found.notes == (
        "1 image without shapes: nothing was drawn, all background",
        "1 tag left out: they cover no area",
    )
    assert not draw(found.images[0], (HEIGHT, WIDTH)).any()


def test_polygons_and_boxes_along_the_pixels(tmp_path: Path) -> None:
    mask = drawn(
        tmp_path,
        '<polygon label="road" points="2.00,3.00;20.00,3.00;20.00,9.00;2.00,9.00" z_order="0"/>',
        '<box label="car &amp; van" xtl="18.00" ytl="5.00" xbr="25.00" ybr="20.00" z_order="0"/>',
    )
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:9, 2:20] = 1
    expected[5:20, 18:25] = 2
    assert (mask == expected).all()


def test_a_larger_z_order_lies_above(tmp_path: Path) -> None:
    def box(label: str, depth: int, left: int) -> str:
        corners = f'xtl="{left}" ytl="0" xbr="{left + 9}" ybr="5"'
        return f'<box label="{label}" {corners} z_order="{depth}"/>'

    van = "car &amp; van"
    high, low, next_ = box(van, 2, 3), box("road", -1, 0), box("road", 2, 6)
    row = drawn(tmp_path, high, low, next_)[0, :16].tolist()
    assert row == [1] * 3 + [2] * 3 + [1] * 9 + [0]


@pytest.mark.parametrize("angle", [0, 30, 90, 217.5])
def test_boxes_turn_around_their_centre(tmp_path: Path, angle: float) -> None:
    mask = drawn(
        tmp_path,
        f'<box label="road" xtl="9" ytl="9.1" xbr="23.3" ybr="14.2" rotation="{angle}"/>',
    )

    def is_inside(x: float, y: float, margin: float) -> bool:
        x, y = turned_back(x, y, 16.15, 11.65, angle)
        return 9 - margin < x < 23.3 + margin and 9.1 - margin < y < 14.2 + margin

    # Corners are rounded to fifths of a pixel before a polygon is filled.
    assert not (centres(lambda x, y: is_inside(x, y, -0.3)) & (mask == 0)).any()
    assert not ((mask == 1) & (centres(lambda x, y: is_inside(x, y, 0.3)) == 0)).any()


@pytest.mark.parametrize("angle", [0, 45, 130])
def test_ellipses_turn_around_their_centre(tmp_path: Path, angle: float) -> None:
    shape = f'<ellipse label="road" cx="16.3" cy="11.2" rx="9.5" ry="4.25" rotation="{angle}"/>'

    def is_inside(x: float, y: float) -> bool:
        x, y = turned_back(x, y, 16.3, 11.2, angle)
        return ((x - 16.3) / 9.5) ** 2 + ((y - 11.2) / 4.25) ** 2 <= 1

    assert (drawn(tmp_path, shape) == centres(is_inside)).all()


def published_decoder(
    runs: list[int], box: tuple[int, int, int, int], size: tuple[int, int]
) -> Mask:
    """The loop of issue 6487, with its bounding box left, top, width, height."""
    left, top, width, _ = box
    mask = np.zeros(size, np.uint8)
    value = offset = 0
    for count in runs:
        for _ in range(count):
            y, x = divmod(offset, width)
            mask[y + top][x + left] = value
            offset += 1
        value = 1 - value
    return mask


def test_a_mask_of_a_real_export(tmp_path: Path) -> None:
    shape = (
        f'<mask label="road" source="manual" occluded="0" rle="{PUBLISHED}" '
        'left="79" top="304" width="40" height="40" z_order="0"></mask>'
    )
    size = (400, 300)
    mask = draw(read(write(tmp_path, shape, size=size)).images[0], size)
    runs = [int(part) for part in PUBLISHED.split(",")]
    assert (mask == published_decoder(runs, (79, 304, 40, 40), size)).all()
    assert mask.sum() == sum(runs[1::2])


def test_masks_come_back_from_their_run_lengths(tmp_path: Path) -> None:
    covered = np.random.default_rng(3).random((7, 5)) < 0.6
    covered[0, 0] = True  # the first run, of nothing, is empty
    flat = covered.ravel().astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    runs = np.diff([0, *edges, flat.size]).tolist()
    rle = ", ".join(map(str, runs))
    shape = f'<mask label="road" rle="{rle}" left="27" top="17" width="5" height="7"/>'
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[17:, 27:] = covered
    assert (drawn(tmp_path, shape) == expected).all()


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ('<polygon label="road" points="1,1;2,2"/>', "a polygon has 2 points"),
        ('<polygon label="road"/>', "its points are no numbers"),
        ('<polygon label="road" points="1,1,1;2,2,2;3,3,3"/>', "no couples of numbers"),
        ('<polygon label="road" points="nan,1;2,2;3,1"/>', "coordinates that are no numbers"),
        ('<box label="road" xtl="1" ytl="x" xbr="2" ybr="3"/>', "its ytl is 'x'"),
        ('<box label="road" xtl="1" ytl="2" xbr="3"/>', "its ybr is None"),
        ('<ellipse label="road" cx="1" cy="2" rx="-3" ry="1"/>', "the radii -3 and 1"),
        ('<ellipse label="road" cx="1" cy="2" rx="3" ry="1" z_order="x"/>', "its z_order is 'x'"),
        ('<mask label="road" rle="3, 2" left="0" top="0" width="2" height="2"/>', "cover 5 pixels"),
        ('<mask label="road" rle="a" left="0" top="0" width="2" height="2"/>', "no whole numbers"),
        (
            '<mask label="road" rle="-1, 5" left="0" top="0" width="2" height="2"/>',
            "cover 4 pixels",
        ),
        ('<mask label="road" rle="4" left="31" top="0" width="2" height="2"/>', "leaves the image"),
    ],
)
def test_shapes_that_cannot_be_drawn_are_named(tmp_path: Path, shape: str, reason: str) -> None:
    good = '<box label="road" xtl="1" ytl="1" xbr="2" ybr="2"/>'
    with pytest.raises(MaskError) as error:
        drawn(tmp_path, good, shape, good, shape)
    kind = shape[1:].partition(" ")[0]
    first, second = error.value.offenders
    assert first.startswith(f"{kind} 2 (road): ")
    assert second.startswith(f"{kind} 4 (road): ")
    assert reason in first


def raw(folder: Path, text: str) -> Annotations:
    folder.mkdir(exist_ok=True)
    (folder / "annotations.xml").write_text(text, encoding="utf-8")
    return read(folder / "annotations.xml")


SWELLING = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))


@pytest.mark.parametrize(
    "doctype",
    [
        f'x [<!ENTITY e0 "lol">{SWELLING}<!ENTITY s "&e11;">]',
        'x [<!ENTITY s SYSTEM "file:///etc/hostname">]',
        'annotations SYSTEM "file:///etc/a.dtd"',
    ],
)
def test_a_document_type_is_refused(tmp_path: Path, doctype: str) -> None:
    with pytest.raises(DataError, match="declares a document type"):
        raw(tmp_path, f"<!DOCTYPE {doctype}><annotations>&s;</annotations>")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotations><image", "is no XML"),
        ("", "is no XML"),
        ("<annotations>&unknown;</annotations>", "is no XML"),
        ("<annotations></annotations>", "has no images, expected images with shapes"),
        ('<annotations><track id="0" label="a"/></annotations>', "has 1 track, expected images"),
    ],
)
def test_what_is_no_export_of_shapes_is_said(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        raw(tmp_path, text)


def test_subsets_sizes_and_images_that_are_listed_twice(tmp_path: Path) -> None:
    images = ""
    for name, subset in (("Train/a", "Train"), ("Validation/a", "Validation"), ("b", "")):
        photo(tmp_path / f"images/{name}.png", (2, 3))
        images += f'<image name="{name}.png" subset="{subset}" width="3" height="2"/>'
    found = raw(tmp_path, f'<annotations>{images}<image name="b.png"/></annotations>')
    told = [(image.name, image.split, image.size) for image in found.images]
    assert told == [("Train/a", "train", (2, 3)), ("Validation/a", "val", (2, 3))]
    assert problems_of(found) == ["image listed several times: b"]


@pytest.mark.parametrize(
    "label", ["<type>points</type><name>nose</name>", "<name>nose</name><type>points</type>"]
)
def test_labels_of_points_are_no_classes_wherever_their_type_stands(
    tmp_path: Path, label: str
) -> None:
    found = raw(
        tmp_path,
        f"<annotations><meta><task><labels><label><name>road</name></label><label>{label}</label>"
        "</labels></task></meta><image name='a.png'><points label='nose' points='1,1'/>"
        "<points label='nose' points='2,2'/></image></annotations>",
    )
    assert found.classes == ("background", "road")
    assert "2 points left out: they cover no area" in found.notes
