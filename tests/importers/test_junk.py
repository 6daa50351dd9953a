"""Whatever a foreign file holds, the answer is pairs or an error that says what is wrong."""

import copy
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.importers.exports import photo, png_base64
from unetseg.data.pairs.match import find_pairs
from unetseg.errors import UnetsegError
from unetseg.importers.importing import import_dataset

SQUARE = [[1, 1], [9, 1], [9, 9], [1, 9]]
CENTRE = {"x": 10, "y": 10, "rotation": 30}
IMAGE = {"height": 60, "width": 80}
REGIONS: dict[str, dict[str, Any]] = {
    "rectangle": CENTRE | {"width": 9, "height": 9},
    "ellipse": CENTRE | {"radiusX": 3, "radiusY": 4},
    "polygon": {"points": SQUARE},
    "brush": {"rle": [0, 0, 75, 0]},
    "bitmask": {"imageDataURL": "data:,"},
}
GOOD: dict[str, Any] = {
    "coco": {
        "images": [
            {"id": 1, "file_name": "a.png"} | IMAGE,
            {"id": 2, "file_name": "b.png"} | IMAGE,
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]},
            {"id": 2, "image_id": 2, "category_id": 2, "iscrowd": 1}
            | {"segmentation": {"size": [60, 80], "counts": [10, 20, 4770]}},
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    },
    "labelme": {
        "version": "5.5.0",
        "shapes": [
            {"label": "a", "points": SQUARE, "shape_type": "polygon"},
            {"label": "b", "points": [[1, 1], [4, 5]], "shape_type": "mask"}
            | {"mask": png_base64(np.ones((5, 4)))},
            {"label": "c", "points": [[10, 10], [20, 10]], "shape_type": "circle"},
            {"label": "c", "points": [[10, 10], [20, 10]], "shape_type": "line"},
        ],
        "imagePath": "a.png",
        "imageData": None,
        "imageHeight": 60,
        "imageWidth": 80,
    },
    "labelstudio": [
        {
            "id": 1,
            "data": {"image": "/data/upload/1/0a1b2c3d-a.png"},
            "annotations": [
                {
                    "id": 1,
                    "updated_at": "2024-01-01",
                    "was_cancelled": False,
                    "result": [
                        {"id": kind, "type": f"{kind}labels", "image_rotation": 0}
                        | {"original_width": 80, "original_height": 60}
                        | {"value": value | {f"{kind}labels": ["a"]}}
                        for kind, value in REGIONS.items()
                    ],
                }
            ],
        }
    ],
}
JUNK: list[Any] = [
    *(None, True, -1, 0, 7, 1e308, -1e308, 1e-320, float("nan"), float("inf"), 2**63, 2**70),
    *("", "x", "\ud800", "../a.png", "/a.png", "b.png", "circle", "mask", "point", "__ignore__"),
    *([], [[]], [[[1]]], [1, 2], [[1, 2, 3, 4, 5]], [["a", "b"]] * 3, [[None, 1]] * 3, [1, [2]]),
    *({}, {"counts": [1]}, {"counts": "a", "size": [60, 80]}, {"counts": {"a": 1}}),
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


def answer_of(folder: Path, kind: str, name: str, text: str, on_bad: Any) -> None:
    """Import `text` with two images; whatever it is, the answer must be pairs or an error."""
    (folder / "src").mkdir()
    for stem in "ab":
        photo(folder / f"src/{stem}.png", (60, 80))
    (folder / "src" / name).write_text(text)
    pairs = answer = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # for speed
        try:
            pairs = import_dataset(kind, folder / "src", folder / "out", on_bad=on_bad).pairs
        except UnetsegError as error:
            answer = str(error)
    if pairs is None:
        assert answer
        assert [path.name for path in folder.iterdir()] == ["src"]
    else:
        assert len(find_pairs(folder / "out").pairs) == pairs
    shutil.rmtree(folder)


@given(spoilt(), st.sampled_from(["error", "skip"]))
def test_junk_is_answered(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[str, Any], on_bad: Any
) -> None:
    folder = tmp_path_factory.mktemp("junk")
    answer_of(folder, case[0], "instances.json", json.dumps(case[1]), on_bad)


XML = """<annotations><meta><task><labels><label><name>a</name><type>any</type></label></labels>
</task></meta><image id="0" name="a.png" subset="train" width="80" height="60">
<polygon label="a" points="1,1;9,1;9,9" z_order="0"></polygon>
<box label="a" xtl="1" ytl="1" xbr="9" ybr="9" rotation="30"></box>
<ellipse label="a" cx="9" cy="9" rx="3" ry="4"></ellipse>
<mask label="a" rle="2,2" left="1" top="1" width="2" height="2"></mask></image></annotations>"""
BITS = ["", "a", "-1", "0", "9" * 30, "nan", "1e400", ";", ",", "&", "<", ">", '"', "<label>"]


@given(
    st.lists(
        st.tuples(st.integers(0, len(XML)), st.integers(0, 9), st.sampled_from(BITS)), max_size=3
    ),
    st.sampled_from(["error", "skip"]),
)
def test_junk_in_xml_is_answered(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int, str]], on_bad: Any
) -> None:
    text = XML
    for at, length, junk in changes:
        text = text[:at] + junk + text[at + length :]
    answer_of(tmp_path_factory.mktemp("junk"), "cvat", "annotations.xml", text, on_bad)
