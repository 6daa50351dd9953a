"""PNG files of brushes, as `save_brush_images_from_annotation` of label-studio-converter writes:

task-ID-annotation-ID-by-WHO-TAG-LABEL-NUMBER.png, each with the alpha of one brush.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unetseg.data.files.pngs import write_png
from unetseg.errors import DataError, MaskError
from unetseg.importers.annotations import AnnotatedImage, Annotations
from unetseg.importers.importing import read_annotations

HEIGHT, WIDTH = 6, 9
read = partial(read_annotations, "labelstudio")


def photo(path: Path) -> None:
    write_png(path, np.full((HEIGHT, WIDTH, 3), 3, np.uint8))


def brush(
    root: Path, task: int, label: str, rows: slice, *, annotation: int = 7, count: int = 0
) -> None:
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[rows] = 153
    name = f"task-{task}-annotation-{annotation}-by-ann@site.org-tag-{label}-{count}.png"
    write_png(root / name, alpha)


def rows_of(image: AnnotatedImage) -> list[int]:
    """The code of each row of a mask whose rows are of one code."""
    assert callable(image.mask)
    mask: NDArray[np.uint8] = image.mask(HEIGHT, WIDTH)
    assert (mask == mask[:, :1]).all()
    return list(mask[:, 0].tolist())


def json_min(root: Path, rows: list[dict[str, Any]]) -> None:
    (root / "project.json").write_text(json.dumps(rows))


@pytest.fixture
def export(tmp_path: Path) -> Path:
    brush(tmp_path, 5, "Road", slice(0, 4))
    brush(tmp_path, 5, "Car", slice(1, 2))
    brush(tmp_path, 5, "Car", slice(5, 6), count=1)
    brush(tmp_path, 6, "Old-timer", slice(0, 1))
    (tmp_path / "images").mkdir()
    for name in ("5", "task-6"):
        photo(tmp_path / f"images/{name}.png")
    return tmp_path


def found_in(export: Path) -> Annotations:
    return read(export, export / "images")


def test_brushes_of_a_task_are_joined(export: Path) -> None:
    found = found_in(export)
    assert found.classes == ("background", "Car", "Old-timer", "Road")
    assert found.problems == ()
    masks = {image.name: rows_of(image) for image in found.images}
    assert masks == {"5": [3, 1, 3, 3, 0, 1], "task-6": [2, 0, 0, 0, 0, 0]}


def test_the_newest_annotation_counts(export: Path) -> None:
    brush(export, 5, "Road", slice(2, 3), annotation=12)
    found = found_in(export)
    assert rows_of(found.images[0]) == [0, 0, 2, 0, 0, 0]
    assert found.notes == ("1 task with several annotations: the one with the highest id taken",)


def test_a_json_min_export_tells_the_images(export: Path) -> None:
    for path in (export / "images").iterdir():
        path.rename(path.with_name(f"photo {path.name}"))
    rows = [
        {"id": 5, "image": "/data/upload/1/0a1b2c3d-photo_5.png", "tag": [{"format": "rle"}]},
        {"id": 6, "image": "/data/local-files/?d=set/photo%20task-6.png", "annotator": 1},
    ]
    json_min(export, rows)
    found = found_in(export)
    assert (len(found.images), found.problems) == (2, ())
    assert rows_of(found.images[1]) == [2, 0, 0, 0, 0, 0]


def test_tasks_without_an_image_are_problems(export: Path) -> None:
    brush(export, 8, "Car", slice(0, 1))
    brush(export, 9, "Car", slice(0, 1))
    json_min(export, [{"id": 9, "image": "../../etc/x.png"}])
    assert [str(problem) for problem in found_in(export).problems] == [
        "no such image: task 8: put the JSON export of the project beside the PNG files",
        "no such image: ../../etc/x.png",
    ]


def test_a_brush_of_another_size_is_named(export: Path) -> None:
    (wrong,) = export.glob("task-6-*")
    write_png(wrong, np.zeros((HEIGHT + 1, WIDTH), np.uint8))
    with pytest.raises(MaskError) as error:
        rows_of(found_in(export).images[1])
    assert error.value.offenders == [f"{wrong.name} is 7×9, expected 6×9"]


def test_other_files_are_no_brushes(tmp_path: Path) -> None:
    for name in ("task-5.png", "task-5-annotation-7-by-1-tag-Car-0.jpg"):
        photo(tmp_path / name)
    json_min(tmp_path, [{"id": 5, "image": "a.png"}])
    with pytest.raises(DataError, match="no list of tasks with annotations"):
        read(tmp_path)
