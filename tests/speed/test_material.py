"""Drawn pairs are what a network of any kind takes, and can be trained on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unetseg.config import TrainConfig
from unetseg.data.facts.survey import survey
from unetseg.data.files.images import read_image
from unetseg.data.masks.class_map import ClassInfo, ClassMap, read_mask
from unetseg.errors import ImageError
from unetseg.runtime import start
from unetseg.speed.material import (
    CELLS,
    PAIRS,
    Kind,
    draw_pairs,
    find_material,
    kind_of_file,
    repeated,
    spread_out,
)
from unetseg.training.plan import make_plan

STREET = ClassMap(
    classes=tuple(
        ClassInfo(name=name, code=(10 * at, 0, at), colour=(10 * at, 0, at))
        for at, name in enumerate(["sky", "road", "car", "tree"])
    ),
    ignore=((1, 1, 1),),
    coding="rgb",
)
FLOOD = ClassMap(
    classes=(
        ClassInfo(name="dry", code=0, colour=(0, 0, 0)),
        ClassInfo(name="water", code=1, colour=(0, 0, 255)),
    ),
    ignore=(-1,),
    dtype="int16",
    suffix=".tif",
    background=0,
)
ONE = ClassMap(classes=(ClassInfo(name="all", code=7, colour=(1, 1, 1)),))
KINDS = [
    Kind(),
    Kind(1, "uint8", CELLS),
    Kind(4, "uint8", STREET),
    Kind(3, "uint16", CELLS),
    Kind(13, "int16", FLOOD),
    Kind(2, "float32", ONE),
]


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_pairs_are_of_their_kind(kind: Kind, tmp_path: Path) -> None:
    known = draw_pairs(tmp_path, kind, 40)
    assert len(known.pairs.pairs) == PAIRS
    assert (known.bands, known.dtype) == (kind.bands, kind.dtype)
    pair = known.pairs.pairs[0]
    assert read_image(pair.image).shape == (40, 40, kind.bands)
    assert kind_of_file(pair.image).dtype == kind.dtype
    assert pair.mask is not None
    classes = kind.class_map.encode(read_mask(pair.mask).pixels)
    assert classes.shape == (40, 40)
    counted = np.bincount(classes.ravel(), minlength=len(kind.class_map.classes))
    assert known.class_pixels("val") == counted.tolist()
    plan = make_plan(known, TrainConfig(), start(TrainConfig().runtime))
    assert plan.bands == kind.bands


def test_all_classes_are_in_the_masks(tmp_path: Path) -> None:
    assert min(draw_pairs(tmp_path, Kind(3, "uint8", STREET), 256).class_pixels("all")) > 0


def test_no_two_drawn_images_are_alike_however_large(tmp_path: Path) -> None:
    known = draw_pairs(tmp_path, Kind(), 300)
    images = [read_image(pair.image) for pair in known.pairs.pairs]
    assert {image.shape for image in images} == {(300, 300, 3)}
    assert len({image.tobytes() for image in images}) == PAIRS


def test_a_survey_of_the_drawn_folder_says_the_same(tmp_path: Path) -> None:
    drawn = draw_pairs(tmp_path, Kind(), 48)
    found = survey(tmp_path)
    assert found.class_pixels("all") == drawn.class_pixels("all")
    assert [pair.image for pair in found.pairs.pairs] == [p.image for p in drawn.pairs.pairs]


def test_of_pairs_only_the_images_are_material(tmp_path: Path) -> None:
    known = draw_pairs(tmp_path, Kind(), 32)
    images = sorted(pair.image for pair in known.pairs.pairs)
    assert sorted(find_material(tmp_path)) == images
    assert sorted(find_material(tmp_path / "images")) == images


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no images found"):
        find_material(tmp_path)


def test_images_come_from_all_over_the_list() -> None:
    paths = [Path(str(number)) for number in range(100)]
    some = spread_out(paths, 10)
    assert len(set(some)) == 10
    assert some[-1] == Path("90")
    assert spread_out(paths, 1000) == paths
    assert spread_out([], 5) == []


def test_repeated_images_are_files_of_their_own(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    copies = repeated([tmp_path / "a.png"], 3, tmp_path / "copies")
    assert len(set(copies)) == 3
    assert {path.read_bytes() for path in copies} == {(tmp_path / "a.png").read_bytes()}
