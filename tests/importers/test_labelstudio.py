"""Label Studio: its JSON export, as https://labelstud.io/guide/export shows it, and PNG brushes.

Regions are as https://labelstud.io/guide/task_format has them.
"""

import base64
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.importers.exports import (
    Mask,
    canvas,
    draw,
    encode,
    photo,
    png_base64,
    problems_of,
)
from unetseg.data.files.pngs import write_png
from unetseg.errors import DataError, MaskError
from unetseg.importers.annotations import AnnotatedImage, Annotations, Problem
from unetseg.importers.importing import read_annotations
from unetseg.importers.labelstudio import (
    Result,
    TaskImages,
    image_names,
    other_types,
    read_regions,
    recognises,
    url_of,
)
from unetseg.importers.shapes import paint_in_order
from unetseg.importers.source_files import ImageFiles

SIZE = HEIGHT, WIDTH = 10, 20
read = partial(read_annotations, "labelstudio")


def box(label: str, left: float, width: float, **more: Any) -> dict[str, Any]:
    """A rectangle over the whole height, in per cent."""
    value = {"x": left, "y": 0, "width": width, "height": 100, "rotation": 0}
    return {
        "id": "Dx_aB91ISN",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": value | {"rectanglelabels": [label]},
        **more,
    }


def annotation(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": 1001, "result": list(results), "was_cancelled": False, **more}


def task(number: int, *annotations: dict[str, Any], image: str = "") -> dict[str, Any]:
    return {
        "id": number,
        "data": {"image": image or f"/data/upload/1/0a1b2c3d-{number}.png"},
        "annotations": list(annotations),
        "predictions": [{"result": [box("Predicted", 0, 100)]}],
    }


def export(root: Path, *tasks: dict[str, Any]) -> Annotations:
    """Read the tasks, whose images are 1.png, 2.png, …"""
    for number in range(1, len(tasks) + 1):
        photo(root / f"images/{number}.png", SIZE)
    (root / "project-1.json").write_text(json.dumps(tasks))
    return read(root)


def row(image: AnnotatedImage) -> list[int]:
    """The first row of a mask whose rows are all alike."""
    mask = draw(image, SIZE)
    assert (mask == mask[:1]).all()
    return list(mask[0].tolist())


# The JSON export


def test_later_regions_lie_above_and_classes_are_sorted(tmp_path: Path) -> None:
    found = export(tmp_path, task(1, annotation(box("Zebra", 0, 50), box("Ant", 25, 50))))
    assert (found.classes, found.problems) == (("background", "Ant", "Zebra"), ())
    (image,) = found.images
    assert (image.path, image.name) == (tmp_path / "images/1.png", "images/1")
    assert image.size == SIZE
    assert row(image) == [2] * 5 + [1] * 10 + [0] * 5


def test_the_newest_finished_annotation_counts(tmp_path: Path) -> None:
    old = annotation(box("Old", 0, 100), id=9, updated_at="2024-01-01T00:00:00Z")
    new = annotation(box("New", 0, 100), id=3, updated_at="2024-02-01T00:00:00Z")
    skipped = annotation(box("Skipped", 0, 100), id=10, was_cancelled=True)
    found = export(tmp_path, task(1, new, old, skipped))
    assert found.classes == ("background", "New")
    assert found.notes == ("1 task with several annotations: the newest is taken",)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    point = {"id": "k", "type": "keypointlabels", "value": {"x": 1, "y": 1, "width": 0.2}}
    found = export(
        tmp_path,
        task(1, annotation()),
        task(2, annotation(box("A", 0, 100), was_cancelled=True)),
        task(3),
        task(4, annotation(box("B", 0, 9), point)),
    )
    assert [image.name for image in found.images] == ["images/1", "images/4"]
    assert not any(row(found.images[0]))
    assert found.classes == ("background", "B")
    assert set(found.notes) == {
        "1 annotation without areas: all background",
        "2 tasks without a finished annotation left out",
        "1 result of the type keypointlabels left out: no area",
    }


def test_everything_that_is_wrong_is_listed(tmp_path: Path) -> None:
    twice = box("A", 0, 9)
    twice["value"]["rectanglelabels"] = ["A", "B"]
    good = annotation(box("A", 0, 9))
    found = export(
        tmp_path,
        task(1, annotation(twice, box("A", 0, 9, image_rotation=180))),
        task(2, annotation(box("A", 0, 9), box("A", 0, 9, original_width=21))),
        task(3, good, image="../../etc/x.png"),
        task(4, good, image="/data/upload/1/0a1b2c3d-missing.png"),
        task(5, good),
        task(6, good),
        task(7, good, image="6.png"),
    )
    assert [image.name for image in found.images] == ["images/5"]
    assert problems_of(found) == [
        "region cannot be read: task 1: region Dx_aB91ISN has 2 labels (A, B), expected one",
        "region cannot be read: task 1: region Dx_aB91ISN was drawn on an image turned by 180°",
        "images of several sizes in one task: task 2: 10×20, 10×21",
        "no such image: task 3: ../../etc/x.png",
        "no such image: task 4: missing.png",
        "image listed several times: images/6",
    ]


def test_regions_that_cannot_be_drawn_are_listed(tmp_path: Path) -> None:
    value = {"points": [[0, 0], [9, 9]], "polygonlabels": ["A"]}
    flat = box("A", 0, 9) | {"type": "polygonlabels", "value": value}
    (image,) = export(tmp_path, task(1, annotation(flat, box("A", 0, 9), flat))).images
    with pytest.raises(MaskError) as error:
        row(image)
    line = "region Dx_aB91ISN (A): a polygon has 2 points, expected 3 or more"
    assert error.value.offenders == [line, line]


def test_exports_of_old_versions(tmp_path: Path) -> None:
    old = task(1, annotation(box("A", 0, 50)))
    old["completions"] = old.pop("annotations")
    assert row(export(tmp_path, old).images[0]) == [1] * 10 + [0] * 10
    assert recognises(tmp_path)


def test_the_file_and_images_elsewhere(tmp_path: Path) -> None:
    export(tmp_path / "labels", task(1, annotation(box("A", 0, 50))))
    (tmp_path / "labels/images").rename(tmp_path / "photos")
    found = read(tmp_path / "labels/project-1.json", tmp_path / "photos")
    assert [image.name for image in found.images] == ["1"]


def test_other_json_files_beside_it_are_left_alone_and_a_second_export_is_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": []}')
    (tmp_path / "._project-1.json").write_bytes(b"\0\5\26\7")
    (tmp_path / "list.json").write_text("[1, 2]")
    assert len(export(tmp_path, task(1, annotation(box("A", 0, 50)))).images) == 1
    (tmp_path / "project-2.json").write_bytes((tmp_path / "project-1.json").read_bytes())
    with pytest.raises(DataError, match="several exports") as error:
        read(tmp_path)
    assert error.value.offenders == ["project-1.json", "project-2.json"]


def test_what_is_no_export_is_said(tmp_path: Path) -> None:
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints/tasks.json").write_text('[{"annotations": []}]')
    with pytest.raises(DataError, match="no list of tasks with annotations"):
        read(tmp_path)
    (tmp_path / "a.json").write_text('[{"annotations": 3}, {"annotations": [{"result": 1}]}]')
    with pytest.raises(DataError, match="is not what this format has") as error:
        read(tmp_path)
    assert len(error.value.offenders) == 2


# The image of a task: uploads have eight digits before a name that Django has changed

NAMES = ("a.png", "north/b.png", "south/b.png", "my photo (1).png", "0a1b2c3d-kept.png")
CODED = base64.urlsafe_b64encode(b"s3://bucket/set/a.png").decode().rstrip("=")


@pytest.fixture
def images(tmp_path: Path) -> TaskImages:
    for name in (*NAMES, "../outside.png", "x 1.png", "x_(1).png"):
        photo(tmp_path / "images" / name, (2, 2))
    return TaskImages(ImageFiles(tmp_path / "images"))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/data/upload/3/0a1b2c3d-a.png", "a"),
        ("/data/upload/3/deadbeef-my_photo_1.png", "my photo (1)"),
        ("/data/upload/3/0a1b2c3d-kept.png", "0a1b2c3d-kept"),
        ("/data/local-files/?d=set%201/north/b.png", "north/b"),
        ("/data/local-files/?d=my%20photo%20(1).png", "my photo (1)"),
        ("s3://bucket/south/b.png", "south/b"),
        ("https://host/a.png?X-Amz-Signature=b.png", "a"),
        (f"/tasks/12/presign/?fileuri={CODED}", "a"),
        ("my photo (1).png", "my photo (1)"),
        ("C:\\photos\\south\\b.png", "south/b"),
    ],
)
def test_urls_mean_files(images: TaskImages, url: str, name: str) -> None:
    path = images.find(url)
    assert isinstance(path, Path)
    assert images.files.name_of(path) == name


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("/data/upload/3/0a1b2c3d-missing.png", "no such image"),
        ("../outside.png", "no such image"),
        ("/data/local-files/?d=../../outside.png", "no such image"),
        ("/data/local-files/?d=%2e%2e/outside.png", "no such image"),
        ("../../etc/passwd", "no such image"),
        ("/tasks/12/presign/?fileuri=%%%", "no such image"),
        ("http://[::zz/missing.png", "no such image"),
        ("", "no such image"),
        ("/data/upload/3/0a1b2c3d-b.png", "several files fit"),
        ("/data/upload/3/0a1b2c3d-x_1.png", "several files fit"),  # both became alike
    ],
)
def test_other_urls_are_problems(images: TaskImages, url: str, kind: str) -> None:
    problem = images.find(url)
    assert isinstance(problem, Problem)
    assert problem.kind == kind


def test_the_prefix_of_an_upload_is_no_part_of_the_name() -> None:
    assert list(image_names("/data/upload/1/0a1b2c3d-cat.jpg"))[-1] == "cat.jpg"
    assert len(list(image_names("cat-and-dog.jpg"))) == 1


def test_the_image_among_the_data_of_a_task() -> None:
    assert url_of({"image": "x", "thumbnail": "y.png"}) == "x"
    assert url_of({"photo": "/data/1/y.JPG", "title": "a dog", "n": 3}) == "/data/1/y.JPG"
    several = Problem("several images in one task", "left, right")
    assert url_of({"left": "a.png", "right": "b.png"}) == several
    assert url_of({"text": "a dog"}) == Problem("no image in a task", "its data are ['text']")


# The PNG export: task-ID-annotation-ID-by-WHO-TAG-LABEL-NUMBER.png, each the alpha of one brush, as
# `save_brush_images_from_annotation` of label-studio-converter writes them


def brush(
    root: Path, number: int, label: str, columns: slice, *, annotation: int = 7, count: int = 0
) -> None:
    alpha = np.zeros(SIZE, np.uint8)
    alpha[:, columns] = 153
    name = f"task-{number}-annotation-{annotation}-by-ann@site.org-tag-{label}-{count}.png"
    write_png(root / name, alpha)


def json_min(root: Path, rows: list[dict[str, Any]]) -> None:
    (root / "project.json").write_text(json.dumps(rows))


@pytest.fixture
def brushes(tmp_path: Path) -> Path:
    brush(tmp_path, 5, "Road", slice(0, 4))
    brush(tmp_path, 5, "Car", slice(1, 2))
    brush(tmp_path, 5, "Car", slice(5, 6), count=1)
    brush(tmp_path, 6, "Old-timer", slice(0, 1))
    for name in ("5", "task-6"):
        photo(tmp_path / f"images/{name}.png", SIZE)
    return tmp_path


def test_brushes_of_a_task_are_joined(brushes: Path) -> None:
    found = read(brushes, brushes / "images")
    assert found.classes == ("background", "Car", "Old-timer", "Road")
    assert found.problems == ()
    masks = {image.name: row(image)[:6] for image in found.images}
    assert masks == {"5": [3, 1, 3, 3, 0, 1], "task-6": [2, 0, 0, 0, 0, 0]}


def test_of_brushes_too_the_newest_annotation_counts(brushes: Path) -> None:
    brush(brushes, 5, "Road", slice(2, 3), annotation=12)
    found = read(brushes, brushes / "images")
    assert row(found.images[0])[:4] == [0, 0, 2, 0]
    assert found.notes == ("1 task with several annotations: the one with the highest id taken",)


def test_a_json_min_export_tells_the_images(brushes: Path) -> None:
    for path in (brushes / "images").iterdir():
        path.rename(path.with_name(f"photo {path.name}"))
    rows = [
        {"id": 5, "image": "/data/upload/1/0a1b2c3d-photo_5.png", "tag": [{"format": "rle"}]},
        {"id": 6, "image": "/data/local-files/?d=set/photo%20task-6.png", "annotator": 1},
    ]
    json_min(brushes, rows)
    found = read(brushes, brushes / "images")
    assert (len(found.images), found.problems) == (2, ())
    assert row(found.images[1])[:2] == [2, 0]


def test_tasks_without_an_image_are_problems(brushes: Path) -> None:
    brush(brushes, 8, "Car", slice(0, 1))
    brush(brushes, 9, "Car", slice(0, 1))
    json_min(brushes, [{"id": 9, "image": "../../etc/x.png"}])
    assert problems_of(read(brushes, brushes / "images")) == [
        "no such image: task 8: put the JSON export of the project beside the PNG files",
        "no such image: ../../etc/x.png",
    ]


def test_a_brush_of_another_size_is_named(brushes: Path) -> None:
    (wrong,) = brushes.glob("task-6-*")
    write_png(wrong, np.zeros((HEIGHT + 1, WIDTH), np.uint8))
    with pytest.raises(MaskError) as error:
        row(read(brushes, brushes / "images").images[1])
    assert error.value.offenders == [f"{wrong.name} is 11×20, expected 10×20"]


def test_other_files_are_no_brushes(tmp_path: Path) -> None:
    for name in ("task-5.png", "task-5-annotation-7-by-1-tag-Car-0.jpg"):
        photo(tmp_path / name, SIZE)
    json_min(tmp_path, [{"id": 5, "image": "a.png"}])
    with pytest.raises(DataError, match="no list of tasks with annotations"):
        read(tmp_path)


# Regions


def result(
    kind: str, value: dict[str, Any], labels: list[str] | None = None, **more: Any
) -> Result:
    """One entry of an annotation: `{"type": "polygonlabels", "value": {…}}`."""
    named = {} if labels == [] else {kind: labels or ["Car"]}
    return Result.model_validate({"id": "r1", "type": kind, "value": value | named, **more})


def covered(kind: str, value: dict[str, Any], size: tuple[int, int] = SIZE) -> Mask:
    regions, faults = read_regions([result(kind, value)])
    assert faults == []
    return paint_in_order([(1, regions[0].patch(size))], size)


def coded(alpha: Mask) -> list[int]:
    return encode(canvas(alpha))


def data_url(alpha: Mask) -> str:
    """Black pixels on a transparent background (https://labelstud.io/tags/bitmasklabels)."""
    black = np.zeros((*alpha.shape, 4), np.uint8)
    black[..., 3] = alpha
    return f"data:image/png;base64,{png_base64(black)}"


def test_a_polygon_in_per_cent() -> None:
    points = [[10, 20], [60, 20], [60, 70], [10, 70]]
    expected = np.zeros(SIZE, np.uint8)
    expected[2:7, 2:12] = 1
    assert (covered("polygonlabels", {"points": points, "closed": True}) == expected).all()


def test_a_rectangle_turned_as_a_user_measured_it() -> None:
    """The example of https://github.com/HumanSignal/label-studio/issues/2293, 1000×500 pixels."""
    size = (500, 1000)
    turned = {"x": 20, "y": 20, "width": 30, "height": 20, "rotation": 90}
    upright = {"x": 10, "y": 20, "width": 10, "height": 60, "rotation": 0}
    expected = np.zeros(size, np.uint8)
    expected[100:400, 100:200] = 1
    assert (covered("rectanglelabels", upright, size) == expected).all()
    assert (covered("rectanglelabels", turned, size) == expected).all()


@pytest.mark.parametrize("angle", [0, 90, 30])
def test_an_ellipse_around_its_centre(angle: float) -> None:
    value = {"x": 50, "y": 45, "radiusX": 25, "radiusY": 20, "rotation": angle}
    y, x = np.mgrid[:20, :40] + 0.5
    dx, dy, turn = x - 20, y - 9, np.radians(angle)
    along = dx * np.cos(turn) + dy * np.sin(turn)
    across = dy * np.cos(turn) - dx * np.sin(turn)
    expected = (along / 10) ** 2 + (across / 4) ** 2 <= 1
    assert (covered("ellipselabels", value, (20, 40)) == expected).all()


@pytest.mark.parametrize("kind", ["brushlabels", "labels"])
def test_brushes_come_back(kind: str) -> None:
    alpha = np.random.default_rng(5).integers(0, 3, SIZE, np.uint8) * 50
    assert (covered(kind, {"format": "rle", "rle": coded(alpha)}) == (alpha > 0)).all()


def test_bit_masks_come_back() -> None:
    alpha = np.random.default_rng(6).integers(0, 2, SIZE, np.uint8) * 255
    assert (covered("bitmasklabels", {"imageDataURL": data_url(alpha)}) == (alpha > 0)).all()


def test_shapes_whose_labels_come_from_a_tag_of_their_own() -> None:
    corner = {"x": 0.0, "y": 0.0, "width": 50.0, "height": 50.0}
    shape, label = result("rectangle", corner, []), result("labels", corner)
    regions, faults = read_regions([shape, label])
    assert ([region.label for region in regions], faults) == (["Car"], [])
    assert read_regions([shape]) == ([], ["region r1 has 0 labels (), expected one"])


def test_what_is_no_area_is_left_out_and_counted() -> None:
    results = [
        result("keypointlabels", {"x": 1, "y": 2, "width": 0.5}),
        result("labels", {"x": 1, "y": 2, "width": 0.5}),  # a key point, too
        result("choices", {"choices": ["good"]}, []),
        result("labels", {"start": 3, "end": 8, "text": "a car"}),
        result("rectangle", {"x": 1, "y": 1, "width": 1, "height": 1}, []),
    ]
    assert list(other_types(results)) == ["keypointlabels", "labels", "choices", "labels"]
    assert read_regions(results[:4]) == ([], [])


def test_a_region_of_another_form_is_named() -> None:
    regions, faults = read_regions([result("polygonlabels", {"points": [[1, 2, 3], "x"]})])
    assert regions == []
    assert faults == ["region r1 has another form than expected: points.0, points.1"]


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("brushlabels", {"rle": [0, 0, 1]}, "cut off"),
        ("brushlabels", {"rle": [0, 999]}, "numbers from 0 to 255"),
        ("brushlabels", {"rle": "abc"}, "numbers from 0 to 255"),
        ("brushlabels", {"rle": 10**12}, "numbers from 0 to 255"),
        ("brushlabels", {"rle": coded(np.zeros((2, 2), np.uint8))}, "16 words of 8 bits"),
        ("bitmasklabels", {"imageDataURL": "data:image/png;base64,*"}, "no base64"),
        ("bitmasklabels", {"imageDataURL": "data:image/png;base64,AAAA"}, "cannot be read"),
        ("bitmasklabels", {"imageDataURL": data_url(np.zeros((3, 2), np.uint8))}, "3×2 pixels"),
        ("polygonlabels", {"points": [[1, 2], [3, 4]]}, "2 points, expected 3"),
        ("ellipselabels", {"x": 1, "y": 1, "radiusX": -1, "radiusY": 2}, "the radii"),
        ("rectanglelabels", {"x": NAN, "y": 1, "width": 1, "height": 2}, "no numbers"),
        ("rectanglelabels", {"width": 9, "height": 9, "rotation": INFINITE}, "inf degrees"),
        ("rectanglelabels", {"x": 1, "y": 1}, "neither a brush nor points"),
    ],
)
def test_regions_that_cannot_be_drawn(kind: str, value: dict[str, Any], reason: str) -> None:
    with pytest.raises(MaskError, match=reason):
        covered(kind, value)
