"""The JSON export, as https://labelstud.io/guide/export ("Raw JSON format") shows it."""

import base64
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unetseg.data.files.pngs import write_png
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.pairs.match import find_pairs
from unetseg.errors import DataError, MaskError
from unetseg.importers import importing
from unetseg.importers.annotations import AnnotatedImage, Annotations, Problem
from unetseg.importers.importing import read_annotations
from unetseg.importers.labelstudio import TaskImages, image_names, url_of
from unetseg.importers.source_files import ImageFiles

HEIGHT, WIDTH = 10, 20
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
    place = image or f"/data/upload/1/0a1b2c3d-{number}.png"
    return {
        "id": number,
        "data": {"image": place},
        "annotations": list(annotations),
        "predictions": [{"result": [box("Predicted", 0, 100)]}],
    }


def export(root: Path, *tasks: dict[str, Any]) -> Annotations:
    """Read the tasks, whose images are 1.png, 2.png, …"""
    for number in range(1, len(tasks) + 1):
        write_png(root / f"images/{number}.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (root / "project-1.json").write_text(json.dumps(tasks))
    return read(root)


def row(image: AnnotatedImage) -> list[int]:
    """The first row of a mask whose rows are all alike."""
    assert callable(image.mask)
    mask = image.mask(HEIGHT, WIDTH)
    assert (mask == mask[:1]).all()
    return list(mask[0].tolist())


def test_later_regions_lie_above_and_classes_are_sorted(tmp_path: Path) -> None:
    found = export(tmp_path, task(1, annotation(box("Zebra", 0, 50), box("Ant", 25, 50))))
    assert (found.classes, found.problems) == (("background", "Ant", "Zebra"), ())
    (image,) = found.images
    assert (image.path, image.name) == (tmp_path / "images/1.png", "images/1")
    assert image.size == (HEIGHT, WIDTH)
    assert row(image) == [2] * 5 + [1] * 10 + [0] * 5


def test_the_newest_finished_annotation_counts(tmp_path: Path) -> None:
    old = annotation(box("Old", 0, 100), id=9, updated_at="2024-01-01T00:00:00Z")
    new = annotation(box("New", 0, 100), id=3, updated_at="2024-02-01T00:00:00Z")
    skipped = annotation(box("Skipped", 0, 100), id=10, was_cancelled=True)
    found = export(tmp_path, task(1, new, old, skipped))
    assert found.classes == ("background", "New")
    assert "1 task with several annotations: the newest is taken" in found.notes


def test_tasks_without_an_annotation_are_left_out_and_empty_ones_are_background(
    tmp_path: Path,
) -> None:
    skipped = task(2, annotation(box("A", 0, 100), was_cancelled=True))
    found = export(
        tmp_path, task(1, annotation()), skipped, task(3), task(4, annotation(box("B", 0, 9)))
    )
    assert [image.name for image in found.images] == ["images/1", "images/4"]
    assert not any(row(found.images[0]))
    assert found.classes == ("background", "B")
    assert found.notes == (
        "1 annotation without areas: all background",
        "2 tasks without a finished annotation left out",
    )


def test_other_results_are_counted(tmp_path: Path) -> None:
    point = {"id": "k", "type": "keypointlabels", "value": {"x": 1, "y": 1, "width": 0.2}}
    found = export(tmp_path, task(1, annotation(box("A", 0, 50), point)))
    assert found.notes == ("1 result of the type keypointlabels left out: no area",)


def test_everything_that_is_wrong_is_listed(tmp_path: Path) -> None:
    twice = box("A", 0, 9)
    twice["value"]["rectanglelabels"] = ["A", "B"]
    found = export(
        tmp_path,
        task(1, annotation(twice, box("A", 0, 9, image_rotation=180))),
        task(2, annotation(box("A", 0, 9), box("A", 0, 9, original_width=21))),
        task(3, annotation(box("A", 0, 9)), image="../../etc/x.png"),
        task(4, annotation(box("A", 0, 9)), image="/data/upload/1/0a1b2c3d-missing.png"),
        task(5, annotation(box("A", 0, 9))),
    )
    assert [image.name for image in found.images] == ["images/5"]
    assert [str(problem) for problem in found.problems] == [
        "region cannot be read: task 1: region Dx_aB91ISN has 2 labels (A, B), expected one",
        "region cannot be read: task 1: region Dx_aB91ISN was drawn on an image turned by 180°",
        "images of several sizes in one task: task 2: 10×20, 10×21",
        "no such image: task 3: ../../etc/x.png",
        "no such image: task 4: missing.png",
    ]


def test_regions_that_cannot_be_drawn_are_listed(tmp_path: Path) -> None:
    flat = box("A", 0, 9)
    flat["value"] = {"points": [[0, 0], [9, 9]], "polygonlabels": ["A"]}
    flat["type"] = "polygonlabels"
    (image,) = export(tmp_path, task(1, annotation(flat, box("A", 0, 9), flat))).images
    with pytest.raises(MaskError) as error:
        row(image)
    line = "region Dx_aB91ISN (A): a polygon has 2 points, expected 3 or more"
    assert error.value.offenders == [line, line]


def test_an_image_of_two_tasks_is_a_problem(tmp_path: Path) -> None:
    one = task(1, annotation(box("A", 0, 9)))
    found = export(tmp_path, one, task(2, annotation(box("A", 0, 9)), image="1.png"))
    assert found.images == []
    assert len(found.problems) == 1


def test_exports_of_old_versions(tmp_path: Path) -> None:
    old = task(1, annotation(box("A", 0, 50)))
    old["completions"] = old.pop("annotations")
    assert row(export(tmp_path, old).images[0]) == [1] * 10 + [0] * 10


def test_the_file_and_images_elsewhere(tmp_path: Path) -> None:
    export(tmp_path / "labels", task(1, annotation(box("A", 0, 50))))
    (tmp_path / "labels/images").rename(tmp_path / "photos")
    found = read(tmp_path / "labels/project-1.json", tmp_path / "photos")
    assert [image.name for image in found.images] == ["1"]


def test_several_exports_are_not_mixed(tmp_path: Path) -> None:
    export(tmp_path, task(1, annotation(box("A", 0, 50))))
    (tmp_path / "project-2.json").write_bytes((tmp_path / "project-1.json").read_bytes())
    with pytest.raises(DataError, match="several exports") as error:
        read(tmp_path)
    assert len(error.value.offenders) == 2


def test_other_json_files_beside_it_are_left_alone(tmp_path: Path) -> None:
    tmp_path.joinpath("coco.json").write_text('{"images": [], "annotations": []}')
    tmp_path.joinpath("._project-1.json").write_bytes(b"\0\5\26\7")
    tmp_path.joinpath("list.json").write_text("[1, 2]")
    assert len(export(tmp_path, task(1, annotation(box("A", 0, 50)))).images) == 1


def test_what_is_no_export_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no list of tasks with annotations"):
        read(tmp_path)
    (tmp_path / "a.json").write_text('[{"annotations": 3}, {"annotations": [{"result": 1}]}]')
    with pytest.raises(DataError, match="is not what this format has") as error:
        read(tmp_path)
    assert len(error.value.offenders) == 2


def test_imported_pairs(tmp_path: Path) -> None:
    export(tmp_path / "in", task(1, annotation(box("A", 0, 50))), task(2, annotation()))
    done = importing.import_dataset("labelstudio", tmp_path / "in", tmp_path / "out")
    assert (done.pairs, done.classes) == (2, ("background", "A"))
    first, second = find_pairs(tmp_path / "out").pairs
    assert first.mask is not None
    assert second.mask is not None
    assert read_mask(first.mask).pixels.sum() == HEIGHT * WIDTH // 2
    assert not read_mask(second.mask).pixels.any()


def test_exports_in_hidden_folders_are_not_seen(tmp_path: Path) -> None:
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints/tasks.json").write_text('[{"annotations": []}]')
    with pytest.raises(DataError, match="no list of tasks"):
        read(tmp_path)


# The image of a task: uploads have eight digits before a name that Django has changed

NAMES = ("a.png", "north/b.png", "south/b.png", "my photo (1).png", "0a1b2c3d-kept.png")


@pytest.fixture
def images(tmp_path: Path) -> TaskImages:
    for name in NAMES:
        write_png(tmp_path / "images" / name, np.zeros((2, 2), np.uint8))
    write_png(tmp_path / "outside.png", np.zeros((2, 2), np.uint8))
    return TaskImages(ImageFiles(tmp_path / "images"))


CODED = base64.urlsafe_b64encode(b"s3://bucket/set/a.png").decode().rstrip("=")


@pytest.mark.parametrize(
    ("place", "name"),
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
def test_places_mean_files(images: TaskImages, place: str, name: str) -> None:
    found = images.find(place)
    assert isinstance(found, Path)
    assert images.files.name_of(found) == name


@pytest.mark.parametrize(
    "place",
    [
        "/data/upload/3/0a1b2c3d-missing.png",
        "../outside.png",
        "/data/local-files/?d=../../outside.png",
        "/data/local-files/?d=%2e%2e/outside.png",
        "../../etc/passwd",
        "/tasks/12/presign/?fileuri=%%%",
        "http://[::zz/missing.png",
        "",
    ],
)
def test_nothing_else_is_found(images: TaskImages, place: str) -> None:
    found = images.find(place)
    assert isinstance(found, Problem)
    assert found.kind == "no such image"


def test_two_files_that_fit_are_told(images: TaskImages) -> None:
    found = images.find("/data/upload/3/0a1b2c3d-b.png")
    assert isinstance(found, Problem)
    assert found.kind == "several files fit"


def test_uploads_of_two_files_that_became_alike_are_told(tmp_path: Path) -> None:
    for name in ("x 1.png", "x_(1).png"):
        write_png(tmp_path / name, np.zeros((2, 2), np.uint8))
    found = TaskImages(ImageFiles(tmp_path)).find("/data/upload/3/0a1b2c3d-x_1.png")
    assert found == Problem("several files fit", "/data/upload/3/0a1b2c3d-x_1.png: x 1, x_(1)")


def test_the_prefix_of_an_upload_is_no_part_of_the_name() -> None:
    assert list(image_names("/data/upload/1/0a1b2c3d-cat.jpg"))[-1] == "cat.jpg"
    assert len(list(image_names("cat-and-dog.jpg"))) == 1


def test_the_image_among_the_data_of_a_task() -> None:
    assert url_of({"image": "x", "thumbnail": "y.png"}) == "x"
    assert url_of({"photo": "/data/1/y.JPG", "title": "a dog", "n": 3}) == "/data/1/y.JPG"
    assert url_of({"left": "a.png", "right": "b.png"}) == Problem(
        "several images in one task", "left, right"
    )
    assert url_of({"text": "a dog"}) == Problem("no image in a task", "its data are ['text']")
