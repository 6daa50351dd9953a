"""COCO: what comes out is what went in, by an independent writer and pycocotools' own masks.

Whatever is wrong is listed, all of it, and nothing is written.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.importers.exports import masks_in, photo, splits_in
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.pairs.match import find_pairs
from unetseg.data.sample import draw_sample
from unetseg.errors import DataError
from unetseg.importers.importing import import_dataset

pytestmark = pytest.mark.filterwarnings(  # pycocotools' own decoder, the reference here
    "ignore:__array__ implementation:DeprecationWarning"
)
SIZE = (60, 80)


def dataset(
    annotations: list[dict[str, Any]],
    names: tuple[str, ...] = ("a.png",),
    categories: dict[int, str] | None = None,
) -> dict[str, Any]:
    """COCO's layout: images numbered from 1, each 60×80."""
    return {
        "info": {"year": 2017},
        "images": [
            {"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
            for i, name in enumerate(names, 1)
        ],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "iscrowd": 0} | one
            for i, one in enumerate(annotations, 1)
        ],
        "categories": [
            {"id": i, "name": name, "supercategory": "x"}
            for i, name in (categories or {1: "cat"}).items()
        ],
    }


def write(folder: Path, content: object, name: str = "instances.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def box(x: float, y: float, x2: float, y2: float) -> list[float]:
    return [x, y, x2, y, x2, y2, x, y2]


SQUARE = {"segmentation": [box(0, 0, 9, 9)]}


def imported(tmp_path: Path, content: object, names: tuple[str, ...] = ("a.png",)) -> Path:
    """OUT of one JSON beside its images."""
    for name in names:
        photo(tmp_path / "src" / name, SIZE)
    write(tmp_path / "src", content)
    import_dataset("coco", tmp_path / "src", tmp_path / "out")
    return tmp_path / "out"


# The same masks as pycocotools


def star(rng: np.random.Generator) -> list[float]:
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 30)))
    reach = rng.uniform(2, 30, len(angles))
    points = (
        rng.uniform(0, 1, 2) * [80, 60] + reach[:, None] * np.c_[np.cos(angles), np.sin(angles)]
    )
    return np.clip(points, 0, [80, 60]).round(2).ravel().tolist()  # type: ignore[no-any-return]


def shapes(rng: np.random.Generator, kind: str) -> Any:
    """A random shape as polygons, plain runs or compressed runs."""
    if kind == "polygon":
        return [star(rng) for _ in range(rng.integers(1, 3))]
    blob = np.asfortranarray(rng.random(SIZE) < 0.3, np.uint8)
    code = coco_mask.encode(blob)
    if kind == "compressed":
        return {"size": list(SIZE), "counts": code["counts"].decode()}
    flat = blob.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.r_[0, flat].astype(np.int8)))
    return {"size": list(SIZE), "counts": np.diff(np.r_[0, edges, flat.size]).tolist()}


@pytest.mark.parametrize("kind", ["polygon", "runs", "compressed"])
def test_each_mask_is_that_of_pycocotools(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(len(kind))
    names = tuple(f"{i}.png" for i in range(25))
    one_each = [{"image_id": i, "segmentation": shapes(rng, kind)} for i in range(1, 26)]
    out = imported(tmp_path, dataset(one_each, names), names)
    reference = COCO(tmp_path / "src/instances.json")
    masks = masks_in(out)
    for annotation in reference.anns.values():
        mask = masks[str(annotation["image_id"] - 1)]
        assert (mask == reference.annToMask(annotation)).all()


def test_a_folder_of_pairs_goes_to_coco_and_back(tmp_path: Path) -> None:
    """By another writer: pycocotools encodes what draw_sample drew."""
    draw_sample(tmp_path / "pairs", count=6, size=64, seed=1)
    pairs = find_pairs(tmp_path / "pairs").pairs
    content = dataset([], (), {7: "foreground"})
    for i, pair in enumerate(pairs):
        assert pair.mask is not None
        mask = read_mask(pair.mask).pixels
        runs = coco_mask.encode(np.asfortranarray(mask > 0, np.uint8))
        runs["counts"] = runs["counts"].decode()
        size = dict(zip(("height", "width"), mask.shape, strict=True))
        content["images"].append({"id": i, "file_name": pair.image.name} | size)
        content["annotations"].append(
            {"id": i, "image_id": i, "category_id": 7, "segmentation": runs, "iscrowd": 0}
        )
    path = write(tmp_path / "coco/annotations", content, "instances_all.json")
    images = pairs[0].image.parent
    import_dataset("coco", path, tmp_path / "out", images=images)
    again = find_pairs(tmp_path / "out").pairs
    assert len(again) == len(pairs)
    for before, after in zip(pairs, again, strict=True):
        assert after.image.read_bytes() == before.image.read_bytes()
        assert before.mask is not None
        assert after.mask is not None
        assert (read_mask(after.mask).pixels == (read_mask(before.mask).pixels > 0)).all()


# Order, crowds, classes


def test_small_objects_stay_visible_in_any_order(tmp_path: Path) -> None:
    small = {"segmentation": [box(10, 10, 20, 20)], "category_id": 5}
    large = {"segmentation": [box(0, 0, 60, 50)], "category_id": 9}
    for i, order in enumerate([[small, large], [large, small]]):
        out = imported(tmp_path / str(i), dataset(order, categories={9: "sea", 5: "boat"}))
        mask = masks_in(out)["a"]
        assert [(mask == code).sum() for code in (1, 2)] == [100, 60 * 50 - 100]
        assert (out / "classes.txt").read_text() == "0 background\n1 boat\n2 sea\n"


def test_crowds_are_ignored_but_never_hide_an_object(tmp_path: Path) -> None:
    crowd = {"segmentation": [box(10, 10, 20, 20)], "iscrowd": 1}
    cat = {"segmentation": [box(0, 0, 15, 60)]}
    out = imported(tmp_path, dataset([cat, crowd]))
    mask = masks_in(out)["a"]
    assert (mask == 255).sum() == 50
    assert (mask == 1).sum() == 15 * 60
    record = json.loads((out / "import.json").read_text())
    assert "1 crowd region (iscrowd) ignored: 255 in the masks" in record["notes"]
    assert "ignore: [255]" in (out / "dataset.yaml").read_text()


@pytest.mark.parametrize("polygons", [0, 1])
def test_crowds_that_are_most_are_brush_strokes_and_drawn(tmp_path: Path, polygons: int) -> None:
    """Datumaro, which writes COCO for CVAT, marks every mask so and no polygon."""
    rng, names = np.random.default_rng(7), ("a.png", "b.png")
    strokes = [
        {"image_id": i, "segmentation": shapes(rng, "compressed"), "iscrowd": 1} for i in (1, 2)
    ]
    out = imported(tmp_path, dataset([*strokes, *[SQUARE] * polygons], names), names)
    reference = COCO(tmp_path / "src/instances.json")
    for number, mask in enumerate(masks_in(out).values(), 1):
        drawn = [reference.annToMask(one) for one in reference.imgToAnns[number]]
        assert (mask == np.any(drawn, axis=0)).all()
    note = "2 crowd regions (iscrowd) drawn as objects: most are marked so, as brush strokes"
    assert note in (out / "import.json").read_text()


def test_images_without_annotations_are_background(tmp_path: Path) -> None:
    names = ("a.png", "b.png")
    out = imported(tmp_path, dataset([SQUARE], names), names)
    assert masks_in(out)["b"].max() == 0
    assert "1 image without annotations" in (out / "import.json").read_text()


def test_names_of_categories_are_kept_and_made_different(tmp_path: Path) -> None:
    categories = {3: "traffic light", 1: "background", 2: "cat", 8: "cat", 90: "a\tb"}
    one = [{"segmentation": [box(0, 0, 9, 9)], "category_id": i} for i in (8, 3)]
    out = imported(tmp_path, dataset(one, categories=categories))
    expected = "0 background\n1 cat\n2 traffic light\n3 a b\n"
    assert (out / "classes.txt").read_text() == expected


def test_a_flat_polygon_is_a_polygon(tmp_path: Path) -> None:
    out = imported(tmp_path, dataset([{"segmentation": box(0, 0, 10, 10)}]))
    assert masks_in(out)["a"].sum() == 100


# Where images and splits are


def test_splits_are_told_by_the_names_of_the_files(tmp_path: Path) -> None:
    for split in ("train", "val"):
        photo(tmp_path / f"src/{split}2017/{split}1.png", SIZE)
        content = dataset([SQUARE], (f"{split}1.png",))
        write(tmp_path / "src/annotations", content, f"instances_{split}2017.json")
        write(tmp_path / "src/annotations", {"images": []}, f"captions_{split}2017.json")
    done = import_dataset("coco", tmp_path / "src", tmp_path / "out")
    assert done.counts.splits == {"train": 1, "val": 1}
    assert splits_in(tmp_path / "out") == {"train/train1": "train", "val/val1": "val"}


def test_files_beside_their_images_and_equal_names(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        photo(tmp_path / f"src/{split}/a.jpg", SIZE)
        content = dataset([SQUARE], ("a.jpg",))
        write(tmp_path / f"src/{split}", content, "_annotations.coco.json")
    done = import_dataset("coco", tmp_path / "src", tmp_path / "out")
    assert done.counts.splits == {"train": 1, "val": 1, "test": 1}


def test_a_lone_validation_set_has_no_splits(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", SIZE)
    path = write(tmp_path, dataset([SQUARE]), "instances_val.json")
    import_dataset("coco", path, tmp_path / "out")
    assert splits_in(tmp_path / "out") == {"a": None}


@pytest.mark.parametrize(
    "name",
    ["sub/a.png", "/home/someone/sub/a.png", "C:\\sub\\a.png", "./sub/a.png", "../x/sub/a.png"],
)
def test_subfolders_and_foreign_paths(tmp_path: Path, name: str) -> None:
    photo(tmp_path / "src/sub/a.png", SIZE)
    photo(tmp_path / "src/other/a.png", SIZE)
    write(tmp_path / "src", dataset([SQUARE], (name,)))
    import_dataset("coco", tmp_path / "src", tmp_path / "out")
    assert [*masks_in(tmp_path / "out")] == ["sub/a"]


@pytest.mark.parametrize(
    "name", ["../secret.png", "/secret.png", "..\\secret.png", "x/../../secret.png", "..", "", "/"]
)
def test_a_file_name_never_reaches_outside(tmp_path: Path, name: str) -> None:
    photo(tmp_path / "secret.png", SIZE)
    photo(tmp_path / "src/b.png", SIZE)
    absolute = name.replace("/secret", f"{tmp_path}/secret") if name == "/secret.png" else name
    write(tmp_path / "src", dataset([SQUARE], (absolute,)))
    with pytest.raises(DataError, match="no such image"):
        import_dataset("coco", tmp_path / "src", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_splits_that_number_their_images_alike(tmp_path: Path) -> None:
    """`0001.jpg` of the training JSON is the one in the folder for training."""
    for split in ("train", "val"):
        photo(tmp_path / f"src/{split}2017/0001.png", SIZE)
        content = dataset([SQUARE], ("0001.png",))
        write(tmp_path / "src/annotations", content, f"instances_{split}2017.json")
    done = import_dataset("coco", tmp_path / "src", tmp_path / "out")
    assert done.counts.splits == {"train": 1, "val": 1}
    content["images"][0]["file_name"] = "2017/0001.png"
    write(tmp_path / "src/annotations", content, "instances.json")
    with pytest.raises(DataError, match="several files fit"):
        import_dataset("coco", tmp_path / "src", tmp_path / "second")


# What is wrong


WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"file_name": "x.png"}, {}, "no such image: x.png"),
    ({}, {"image_id": 7}, "annotation without image: instances.json: 1 annotation of id 7"),
    ({}, {"segmentation": [[1, 1, 5, 5]]}, "annotation 2: a polygon has 2 points, expected 3"),
    ({}, {"segmentation": [[1, 1, 5, 5, 9, 9, 1]]}, "odd"),
    ({}, {"segmentation": [[1, 1, 5, 5, 9, float("nan")]]}, "no numbers"),
    ({}, {"segmentation": "abc"}, "neither polygons nor"),
    ({}, {"category_id": 4}, "unknown category: a.png: annotation 2 has the category 4"),
    ({}, {"segmentation": []}, "no segmentation: a.png: annotation 2 has none"),
    ({}, {"segmentation": {"size": [8, 9], "counts": [72]}}, "for [8, 9], the image has [60, 80]"),
    ({}, {"segmentation": {"size": [60, 80], "counts": [72]}}, "72 pixels, expected 4800"),
    ({}, {"segmentation": {"size": [60, 80], "counts": "oo"}}, "damaged"),
    ({"width": 81}, {}, "the annotations are for 60×81 pixels (height × width)"),
]


def changed(image: dict[str, Any], annotation: dict[str, Any]) -> dict[str, Any]:
    """One image and two annotations, the second of them and the image changed."""
    content = dataset([SQUARE, SQUARE | annotation])
    content["images"][0] |= image
    return content


@pytest.mark.parametrize(("image", "annotation", "text"), WRONG)
def test_what_is_wrong_is_listed_and_nothing_is_written(
    tmp_path: Path, image: dict[str, Any], annotation: dict[str, Any], text: str
) -> None:
    photo(tmp_path / "src/a.png", SIZE)
    write(tmp_path / "src", changed(image, annotation))
    with pytest.raises(DataError) as caught:
        import_dataset("coco", tmp_path / "src", tmp_path / "out")
    assert text in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_an_image_id_that_is_there_twice(tmp_path: Path) -> None:
    content = dataset([SQUARE], ("a.png", "b.png"))
    content["images"][1]["id"] = 1
    with pytest.raises(DataError) as caught:
        imported(tmp_path, content, ("a.png", "b.png"))
    assert caught.value.offenders == [
        "image id is there twice: instances.json: 1 of a.png",
        "image id is there twice: instances.json: 1 of b.png",
    ]


REFUSED = {
    "boxes are no masks": dataset([{"bbox": [1, 2, 3, 4]}, {"segmentation": []}]),
    "these are panoptic annotations": {
        "images": [],
        "categories": [],
        "annotations": [{"image_id": 1, "segments_info": []}],
    },
    "annotations.0.image_id: Field required": {
        "images": [],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"category_id": 1}],
    },
    "no COCO annotations found": {"images": []},
    "category ids have several names": dataset([SQUARE])
    | {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
    "1 classes, the background counted": dataset([]) | {"categories": []},
}


@pytest.mark.parametrize("text", REFUSED)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    photo(tmp_path / "src/a.png", SIZE)
    write(tmp_path / "src", REFUSED[text])
    with pytest.raises(DataError, match=text):
        import_dataset("coco", tmp_path / "src", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"images": 3}', "\xff"])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "instances.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match="is not what this format has"):
        import_dataset("coco", tmp_path / "instances.json", tmp_path / "out")


def test_a_turned_photo_whose_annotations_are_not_turned_says_so(tmp_path: Path) -> None:
    photo(tmp_path / "src/a.jpg", SIZE, orientation=6)  # upright: 80×60
    write(tmp_path / "src", dataset([SQUARE], ("a.jpg",)))
    with pytest.raises(DataError, match=r"the image has 80×60; .* EXIF orientation"):
        import_dataset("coco", tmp_path / "src", tmp_path / "out")


def test_a_category_that_only_groups_others_is_no_class(tmp_path: Path) -> None:
    """Roboflow puts one before all others."""
    content = dataset([SQUARE])
    content["categories"] = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "animals"},
        {"id": 2, "name": "dog", "supercategory": "animals"},
    ]
    out = imported(tmp_path / "0", content)
    assert (out / "classes.txt").read_text() == "0 background\n1 cat\n2 dog\n"
    content["annotations"][0]["category_id"] = 0
    out = imported(tmp_path / "1", content)
    assert (out / "classes.txt").read_text() == "0 background\n1 animals\n2 cat\n3 dog\n"
    content["categories"] = [{"id": 0, "name": "cat"}, {"id": 1, "name": "None"}]
    out = imported(tmp_path / "2", content)
    assert (out / "classes.txt").read_text() == "0 background\n1 cat\n2 None\n"


def test_a_missing_image_does_not_take_the_file_of_another(tmp_path: Path) -> None:
    photo(tmp_path / "src/cam2/0001.png", SIZE)
    names = ("cam1/0001.png", "cam2/0001.png")
    write(tmp_path / "src", dataset([SQUARE | {"image_id": 2}], names))
    with pytest.raises(DataError) as caught:
        import_dataset("coco", tmp_path / "src", tmp_path / "out")
    assert caught.value.offenders == ["no such image: cam1/0001"]
    import_dataset("coco", tmp_path / "src", tmp_path / "out", on_bad="skip")
    assert [*masks_in(tmp_path / "out")] == ["cam2/0001"]
