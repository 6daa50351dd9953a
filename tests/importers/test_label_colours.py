"""labelmap.txt, as datumaro's VocLabelMap writes and reads it (plugins/voc_format/format.py)."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from unetseg.data.files.pngs import write_png
from unetseg.errors import DataError, MaskError
from unetseg.importers.voc import LabelColours, read_labelmap, read_painted

# The example of https://docs.cvat.ai/docs/dataset_management/formats/format-smask
PUBLISHED = """# labelmap.txt
# label : color (RGB) : 'body' parts : actions
background:0,128,0::
aeroplane:10,10,128::
bicycle:10,128,0::
bird:0,108,128::
boat:108,0,100::
bottle:18,0,8::
bus:12,28,0::
"""


def labelmap(folder: Path, text: str) -> LabelColours:
    (folder / "labelmap.txt").write_text(text)
    return read_labelmap(folder / "labelmap.txt")


def painted(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    write_png(folder / "mask.png", pixels)
    return folder / "mask.png"


def test_the_published_example(tmp_path: Path) -> None:
    labels = labelmap(tmp_path, PUBLISHED)
    names = ("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus")
    assert labels.classes == names
    colours = [(0, 128, 0), (12, 28, 0), (0, 0, 0), (18, 0, 8)]
    pixels = np.array([colours], np.uint8)
    assert read_painted(painted(tmp_path, pixels), labels).tolist() == [[0, 6, 0, 5]]


def test_the_background_comes_first_wherever_it_stands(tmp_path: Path) -> None:
    labels = labelmap(tmp_path, "ant:1,2,3:head,tail:crawl\nbackground:0,0,0::\ncat:4,5,6::\n")
    assert labels.classes == ("background", "ant", "cat")
    pixels = np.array([[[1, 2, 3], [0, 0, 0], [4, 5, 6]]], np.uint8)
    assert read_painted(painted(tmp_path, pixels), labels).tolist() == [[1, 0, 2]]


def test_the_black_label_is_the_background_whatever_its_name(tmp_path: Path) -> None:
    labels = labelmap(tmp_path, "ant:1,2,3::\nelsewhere:0,0,0::\n")
    assert labels.classes == ("elsewhere", "ant")
    pixels = np.array([[[1, 2, 3], [0, 0, 0]]], np.uint8)
    assert read_painted(painted(tmp_path, pixels), labels).tolist() == [[1, 0]]


def test_numbers_count_the_lines_and_greys_are_colours(tmp_path: Path) -> None:
    labels = labelmap(tmp_path, "ant:1,2,3::\nbackground:0,0,0::\ncat:200,200,200::\n")
    lines = painted(tmp_path, np.array([[0, 1, 2]], np.uint8))
    assert read_painted(lines, labels).tolist() == [[1, 0, 2]]
    greys = painted(tmp_path, np.array([[200, 0]], np.uint8))
    assert read_painted(greys, labels).tolist() == [[2, 0]]
    with pytest.raises(MaskError, match=r"mask.png has numbers of no label: 7; 9"):
        read_painted(painted(tmp_path, np.array([[0, 7, 9]], np.uint8)), labels)


def test_a_palette_is_read_by_its_colours(tmp_path: Path) -> None:
    labels = labelmap(tmp_path, PUBLISHED)
    image = Image.fromarray(np.array([[3, 1]], np.uint8))
    image.putpalette([0, 0, 0, 10, 128, 0, 9, 9, 9, 108, 0, 100])
    image.save(tmp_path / "mask.png")
    assert read_painted(tmp_path / "mask.png", labels).tolist() == [[4, 2]]


def test_all_colours_of_no_label_are_named(tmp_path: Path) -> None:
    labels = labelmap(tmp_path, PUBLISHED)
    pixels = np.array([[[9, 9, 9], [10, 10, 128], [255, 0, 1]]], np.uint8)
    with pytest.raises(MaskError, match=r"mask.png has colours of no label: 9,9,9; 255,0,1"):
        read_painted(painted(tmp_path, pixels), labels)


def test_all_faults_of_a_labelmap_are_listed(tmp_path: Path) -> None:
    text = "a:1,2,3::\nb\nc:1,2,3::\na:4,5,6::\nd:1,2,256::\ne:::\n"
    with pytest.raises(DataError, match="is no list of labels and colours") as error:
        labelmap(tmp_path, text)
    assert error.value.offenders == [
        "b: expected name:r,g,b::",
        "c:1,2,3::: a has the same colour",
        "a:4,5,6::: the name is there twice",
        "d:1,2,256::: expected colours from 0 to 255",
        "e:::: expected name:r,g,b::",
    ]


def test_an_empty_labelmap_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no list of labels"):
        labelmap(tmp_path, "# nothing\n")
