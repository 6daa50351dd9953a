"""Places of images as Label Studio writes them, and the files they mean.

Uploads: eight hexadecimal digits before the name, which Django's `get_valid_filename` has changed.
Local files: https://labelstud.io/guide/storage (`/data/local-files/?d=`).
"""

import base64
from pathlib import Path

import numpy as np
import pytest

from unetseg.data.files.pngs import write_png
from unetseg.importers.annotations import Problem
from unetseg.importers.image_files import ImageFiles
from unetseg.importers.labelstudio import TaskImages, image_names, url_of

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
    assert images.name_of(found) == name


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
