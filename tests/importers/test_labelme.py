"""labelme: files in the layout of its version 5, against shapes computed from their definition."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

from tests.importers.exports import Mask, masks_in, picture, png_base64
from unetseg.errors import DataError
from unetseg.importers.importing import Imported, import_dataset

SIZE = (60, 80)


def shape(label: str, points: Sequence[Sequence[float]], kind: str = "polygon", **more: Any) -> Any:
    return {
        "label": label,
        "points": points,
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
    } | more


def box(x: float, y: float, x2: float, y2: float) -> list[list[float]]:
    return [[x, y], [x2, y], [x2, y2], [x, y2]]


SQUARE = shape("cell", box(0, 0, 9, 9))


def write(folder: Path, name: str, shapes: list[Any], **more: Any) -> Path:
    """A JSON of labelme 5, and its image unless `imageData` is there."""
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"{path.stem}.png",
        "imageData": None,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
    } | more
    path.write_text(json.dumps(content))
    if not content["imageData"] and "imagePath" not in more:
        path.with_suffix(".png").write_bytes(picture(SIZE))
    return path


def imported(tmp_path: Path, **more: Any) -> Imported:
    return import_dataset("labelme", tmp_path / "src", tmp_path / "out", **more)


def drawn(tmp_path: Path, *shapes: Any) -> Mask:
    write(tmp_path / "src", "a", list(shapes))
    imported(tmp_path)
    return np.asarray(masks_in(tmp_path / "out")["a"])


Y, X = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5

KINDS: dict[str, tuple[list[list[float]], NDArray[np.bool_]]] = {
    "polygon": (box(10, 20, 30, 50), (X > 10) & (X < 30) & (Y > 20) & (Y < 50)),
    "rectangle": ([[30.2, 50], [10, 20.4]], (X > 10) & (X < 30.2) & (Y > 20.4) & (Y < 50)),
    "circle": ([[40, 30], [52, 35]], (X - 40) ** 2 + (Y - 30) ** 2 <= 13**2),
    "line": ([[10, 30], [70, 30]], np.hypot(X - np.clip(X, 10, 70), Y - 30) <= 5),
    "linestrip": (
        [[10, 30], [40, 30], [40, 50]],
        (np.hypot(X - np.clip(X, 10, 40), Y - 30) <= 5)
        | (np.hypot(X - 40, Y - np.clip(Y, 30, 50)) <= 5),
    ),
    "oriented_rectangle": (
        [[40.2, 10], [60.2, 30], [40.2, 50], [20.2, 30]],
        np.abs(X - 40.2) + np.abs(Y - 30) < 20,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_shape_is_its_definition(tmp_path: Path, kind: str) -> None:
    points, expected = KINDS[kind]
    assert (drawn(tmp_path, shape("cell", points, kind)) == expected).mean() > 0.999


def test_older_files_without_a_type_hold_polygons(tmp_path: Path) -> None:
    old = {"label": "cell", "points": box(0, 0, 10, 10), "line_color": None, "fill_color": None}
    assert drawn(tmp_path, old).sum() == 100


def test_labelme_itself_differs_at_the_outline_alone(tmp_path: Path) -> None:
    """labelme's shape_to_mask fills with Pillow, which adds the outline."""
    rng = np.random.default_rng(3)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 20))
    points = np.c_[40 + 25 * np.cos(angles), 30 + 25 * np.sin(angles)]
    canvas = Image.new("1", SIZE[::-1])
    ImageDraw.Draw(canvas).polygon([(x, y) for x, y in points], outline=1, fill=1)
    theirs, ours = np.asarray(canvas), drawn(tmp_path, shape("cell", points.tolist())) == 1
    shares = np.linspace(0, 1, 200)[:, None]
    edges = zip(points, np.roll(points, -1, 0), strict=True)
    outline = cKDTree(np.concatenate([(1 - shares) * a + shares * b for a, b in edges]))
    distances = np.asarray(outline.query(np.stack([X, Y], axis=-1))[0])
    assert (theirs != ours).any()
    assert distances[theirs != ours].max() < 1.5
    assert (theirs & ~ours).sum() > 5 * (ours & ~theirs).sum()


@pytest.mark.parametrize(("left", "top"), [(10, 20), (-4, -3), (75, 55), (200, 200)])
def test_masks_are_pasted_and_cut_off(tmp_path: Path, left: int, top: int) -> None:
    blob = np.random.default_rng(1).random((12, 9)) < 0.5
    corners = [[left, top], [left + 8, top + 11]]
    mask = drawn(tmp_path, shape("cell", corners, "mask", mask=png_base64(blob)))
    expected = np.zeros((500, 500), bool)
    expected[top + 100 : top + 112, left + 100 : left + 109] = blob
    assert (mask == expected[100:160, 100:180]).all()


def test_labels_are_sorted_and_later_shapes_lie_on_top(tmp_path: Path) -> None:
    mask = drawn(
        tmp_path,
        shape("zebra", box(0, 0, 40, 40)),
        shape("ant", box(0, 0, 30, 30)),
        shape("__ignore__", box(0, 0, 20, 20)),
        shape("_background_", box(0, 0, 10, 10)),
        shape("nowhere", [[5, 5]], "point"),
    )
    assert [(mask == code).sum() for code in (1, 2, 255)] == [500, 700, 300]
    assert (mask[:10, :10] == 0).all()
    assert (tmp_path / "out/classes.txt").read_text() == "0 background\n1 ant\n2 zebra\n"
    assert "1 point left out" in (tmp_path / "out/import.json").read_text()


def test_photos_that_are_stored_turned(tmp_path: Path) -> None:
    """labelme shows and measures the upright image."""
    stored = picture((80, 60), "JPEG", orientation=6)  # upright: 60 rows, 80 columns
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.jpg").write_bytes(stored)
    write(tmp_path / "src", "a", [shape("cell", box(70, 0, 80, 10))], imagePath="a.jpg")
    imported(tmp_path)
    assert masks_in(tmp_path / "out")["a"][:10, 70:].sum() == 100
    assert (tmp_path / "out/images/a.jpg").read_bytes() == stored


# Where images are


@pytest.mark.parametrize("named", ["../photos/a.png", "..\\photos\\a.png", "/home/x/photos/a.png"])
def test_images_in_another_folder(tmp_path: Path, named: str) -> None:
    write(tmp_path / "src/labels", "a", [SQUARE], imagePath=named)
    (tmp_path / "src/photos").mkdir()
    (tmp_path / "src/photos/a.png").write_bytes(picture(SIZE))
    imported(tmp_path)
    assert [*masks_in(tmp_path / "out")] == ["photos/a"]


def test_a_path_never_leads_out(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(SIZE))
    write(tmp_path / "src", "a", [SQUARE], imagePath="../a.png")
    with pytest.raises(DataError, match=r"no such image: a\.json names \.\./a\.png"):
        imported(tmp_path)
    assert imported(tmp_path, images=tmp_path).pairs == 1  # unless the user says so


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", "png"), ("JPEG", "jpg"), ("BMP", "bmp")])
def test_embedded_images_are_taken_where_the_file_is_missing(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    data = picture(SIZE, kind)
    text = base64.b64encode(data).decode()
    write(tmp_path / "src", "deep/a", [SQUARE], imageData=text)
    done = imported(tmp_path)
    assert (tmp_path / f"out/images/deep/a.{suffix}").read_bytes() == data
    assert "1 image taken out of a JSON, since the file is missing" in done.notes


def test_the_file_counts_where_both_are_there(tmp_path: Path) -> None:
    write(tmp_path / "src", "a", [SQUARE], imageData="bm90IG1pbmU=")
    (tmp_path / "src/a.png").write_bytes(picture(SIZE))
    imported(tmp_path)
    assert (tmp_path / "out/images/a.png").read_bytes() == picture(SIZE)


def test_a_path_to_another_picture_does_not_count(tmp_path: Path) -> None:
    """labelme opens the embedded image: of renamed files, `imagePath` names another one."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for i in range(3):
        scene = 90 + 60 * np.sin(x / (3 + i) + i) * np.cos(y / 7) + rng.normal(0, 9, SIZE)
        memory = io.BytesIO()
        grey = Image.fromarray(scene.clip(0, 255).astype(np.uint8))
        grey.convert("RGB").save(memory, "JPEG", quality=95)
        again = io.BytesIO()
        Image.open(memory).save(again, "JPEG", quality=75)
        (tmp_path / "src").mkdir(exist_ok=True)
        (tmp_path / f"src/{i}.jpg").write_bytes(memory.getvalue())
        data = base64.b64encode(again.getvalue()).decode()
        named = "0.jpg" if i == 0 else "2.jpg" if i == 1 else "3.jpg"
        write(tmp_path / "src", str(i), [SQUARE], imagePath=named, imageData=data)
        if i == 1:
            stale = again.getvalue()
    done = imported(tmp_path)
    assert (tmp_path / "out/images/0.jpg").read_bytes() == (tmp_path / "src/0.jpg").read_bytes()
    assert (tmp_path / "out/images/1.jpg").read_bytes() == stale
    assert done.pairs == 3
    text = " ".join(done.notes)
    assert "1 image taken out of a JSON: the file that it names" in text
    assert "1 image taken out of a JSON, since the file is missing" in text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("bm90IG1pbmU=", "the image within the annotations is no image"),
        ("!!!!", "its embedded image is damaged: no base64"),
        (base64.b64encode(picture((9, 9))).decode(), "for 60×80 pixels .*, the image has 9×9"),
    ],
)
def test_embedded_images_that_are_none(tmp_path: Path, data: str, text: str) -> None:
    write(tmp_path / "src", "a", [SQUARE], imageData=data)
    with pytest.raises(DataError, match=text) as caught:
        imported(tmp_path)
    assert "/tmp" not in str(caught.value)


def test_what_is_no_embedded_image_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    write(tmp_path / "src", "a", [SQUARE], imageData=7)
    (tmp_path / "src/a.png").write_bytes(picture(SIZE))
    assert imported(tmp_path).pairs == 1


def test_an_embedded_image_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetseg.importers.labelme.MOST_EMBEDDED", 99)
    text = base64.b64encode(picture(SIZE)).decode()
    write(tmp_path / "src", "a", [SQUARE], imageData=text)
    with pytest.raises(DataError, match="characters; 99 may be"):
        imported(tmp_path)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    write(tmp_path / "src", "a", [SQUARE])
    write(tmp_path / "src", "b", [])
    (tmp_path / "src/c.png").write_bytes(picture(SIZE))
    (tmp_path / "src/settings.json").write_text("{}")
    done = imported(tmp_path)
    assert done.pairs == 2
    assert "1 image without shapes: all background" in done.notes
    assert "1 image file that no JSON names left out" in done.notes


# What is wrong

CORNERS = [[0, 0], [4, 4]]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (shape("cell", [[1, 1], [2, 2]]), r"shape 0 \(cell\): a polygon has 2 points"),
        (shape("cell", [[1, 1]], "circle"), "a circle of 1 point"),
        (shape("cell", [[1, 1], [2], [3, 3]]), "not x and y each"),
        (shape("cell", box(0, 0, 9, 9), "spline"), "its type 'spline' is not known"),
        (shape("cell", CORNERS, "mask"), "without pixels or corners"),
        (shape("cell", CORNERS, "mask", mask=png_base64(np.ones((5, 6)))), "5×6 pixels, expected"),
        (shape("cell", CORNERS, "mask", mask="bm90IG1pbmU="), "its mask cannot be read"),
        (shape("cell", CORNERS, "mask", mask="§"), "its mask is damaged: no base64"),
    ],
)
def test_wrong_shapes_are_named(tmp_path: Path, wrong: Any, text: str) -> None:
    write(tmp_path / "src", "a", [wrong, shape("dog", [[1, 1]], "circle")])
    with pytest.raises(DataError, match=text) as caught:
        imported(tmp_path)
    assert "shape 1 (dog): a circle of 1 point" in str(caught.value)  # all of them
    assert not (tmp_path / "out").exists()


def test_another_size_and_two_files_of_one_image(tmp_path: Path) -> None:
    write(tmp_path / "src", "a", [SQUARE], imageWidth=81)
    with pytest.raises(DataError, match="a: the annotations are for 60×81 pixels"):
        imported(tmp_path)
    write(tmp_path / "src", "b", [SQUARE], imagePath="a.png")
    with pytest.raises(DataError, match="image listed several times"):
        imported(tmp_path)


def test_no_files_of_labelme(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.json").write_text("{}")
    with pytest.raises(DataError, match="no annotations of labelme found"):
        imported(tmp_path)


@pytest.mark.parametrize("cut", [0, 20, -5])
def test_jsons_that_are_cut_off_are_listed_or_left_out(tmp_path: Path, cut: int) -> None:
    square = shape("cat", box(1, 1, 9, 9))
    paths = [write(tmp_path / "src", name, [square]) for name in "abc"]
    for path in paths[:2]:
        path.write_text(path.read_text()[:cut])
    (tmp_path / "src/other.json").write_text('{"shapes": "of something else"}')
    with pytest.raises(DataError, match="2 problems in the annotations: no JSON of labelme"):
        imported(tmp_path)
    done = imported(tmp_path, on_bad="skip")
    assert (done.pairs, len(done.skipped)) == (1, 2)
    paths[2].unlink()
    with pytest.raises(DataError, match="nothing could be imported") as caught:
        import_dataset("labelme", tmp_path / "src", tmp_path / "nothing")
    assert len(caught.value.offenders) == 2


def test_the_mark_at_the_beginning_of_texts_from_windows(tmp_path: Path) -> None:
    path = write(tmp_path / "src", "a", [shape("cat", box(1, 1, 9, 9))])
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert imported(tmp_path).pairs == 1
