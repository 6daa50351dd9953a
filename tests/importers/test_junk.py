"""Whatever a foreign file holds, the answer is pairs or an error that says what is wrong."""

import base64
import copy
import io
import json
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unetseg import storage
from unetseg.data.pairs import find_pairs
from unetseg.errors import UnetsegError
from unetseg.importers.importing import import_dataset


def _png() -> str:
    """A mask of 5×4 pixels in base64."""
    memory = io.BytesIO()
    Image.fromarray(np.ones((5, 4), np.uint8)).save(memory, "PNG")
    return base64.b64encode(memory.getvalue()).decode()


SQUARE = [[1, 1], [9, 1], [9, 9], [1, 9]]
GOOD: dict[str, Any] = {
    "coco": {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 60, "width": 80},
            {"id": 2, "file_name": "b.png", "height": 60, "width": 80},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]},
            {
                "id": 2,
                "image_id": 2,
                "category_id": 2,
                "iscrowd": 1,
                "segmentation": {"size": [60, 80], "counts": [10, 20, 4770]},
            },
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    },
    "labelme": {
        "version": "5.5.0",
        "shapes": [
            {"label": "a", "points": SQUARE, "shape_type": "polygon"},
            {
                "label": "b",
                "points": [[1, 1], [4, 5]],
                "shape_type": "mask",
                "mask": _png(),
            },
            {"label": "c", "points": [[10, 10], [20, 10]], "shape_type": "circle"},
            {"label": "c", "points": [[10, 10], [20, 10]], "shape_type": "line"},
        ],
        "imagePath": "a.png",
        "imageData": None,
        "imageHeight": 60,
        "imageWidth": 80,
    },
}
JUNK: list[Any] = [
    *(None, True, -1, 0, 7, 1e308, -1e308, 1e-320, float("nan"), float("inf"), 2**63, 2**70),
    *("", "x", "\ud800", "../a.png", "/a.png", "b.png", "circle", "mask", "point", "__ignore__"),
    *([], [[]], [[[1]]], [1, 2], [[1, 2, 3, 4, 5]], [["a", "b"]] * 3, [[None, 1]] * 3, [1, [2]]),
    *(
        {},
        {"counts": [1]},
        {"counts": "a", "size": [60, 80]},
        {"counts": {"a": 1}},
        {"counts": None},
    ),
    {"counts": [2**62] * 4, "size": [60, 80]},
]


def places_in(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where anything stands in a value of JSON."""
    yield place
    inner = enumerate(value) if isinstance(value, list) else ()
    for key, part in value.items() if isinstance(value, dict) else inner:
        yield from places_in(part, (*place, key))


@st.composite
def spoilt(draw: st.DrawFn) -> tuple[str, Any]:
    """A format, and a file of it with one to three junk values in it."""
    kind = draw(st.sampled_from(sorted(GOOD)))
    content = copy.deepcopy(GOOD[kind])
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from([p for p in places_in(content) if p]))
        target = content
        for key in above:
            target = target[key]
        target[last] = copy.deepcopy(draw(st.sampled_from(JUNK)))
    return kind, content


@given(spoilt(), st.sampled_from(["error", "skip"]))
def test_junk_is_answered(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[str, Any], on_bad: Any
) -> None:
    folder = tmp_path_factory.mktemp("junk")
    for name in "ab":
        (folder / "src").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(folder / f"src/{name}.png")
    (folder / "src/instances.json").write_text(json.dumps(case[1]))
    pairs = answer = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_sync", lambda _: None)  # for speed
        try:
            pairs = import_dataset(case[0], folder / "src", folder / "out", on_bad=on_bad).pairs
        except UnetsegError as error:
            answer = str(error)
    if pairs is None:
        assert answer
        assert [path.name for path in folder.iterdir()] == ["src"]
    else:
        assert len(find_pairs(folder / "out").pairs) == pairs
    shutil.rmtree(folder)
