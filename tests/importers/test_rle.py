"""Run lengths of Kaggle: written by the code of its evaluation pages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.importers.exports import BOXES, SIZE, imported, only_mask, photo, truth, write, wrong
from unetseg.importers.rle import recognises


def encoded(mask: Any) -> str:
    """Starts from 1 on and lengths, down column after column."""
    pixels = np.concatenate([[0], mask.flatten(order="F"), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(x) for x in runs)


CAT, DOG = (encoded(truth([one], (one[0],))) for one in BOXES)

TABLES = {
    "airbus": f"ImageId,EncodedPixels\na.jpg,{CAT}\na.jpg,{DOG}\n",
    "severstal": f"ImageId,ClassId,EncodedPixels\na.jpg,2,{DOG}\na.jpg,1,{CAT}\n",
    "clouds": f"Image_Label,EncodedPixels\na.jpg_Sugar,{DOG}\na.jpg_Fish,{CAT}\na.jpg_Flower,\n",
    "old severstal": f"ImageId_ClassId,EncodedPixels\na.jpg_1,{CAT}\na.jpg_2,{DOG}\na.jpg_3,\n",
    "salt": f"id,rle_mask\na,{CAT}\n",
    "siim": f"ImageId, EncodedPixels\na, {CAT}\n",
    "semicolons": f"image;class;rle\r\na.jpg;x;{CAT}\r\na.jpg;y;{DOG}\r\n",
    "tabs": f"EncodedPixels\tImageId\n{CAT}\ta.jpg\n",
    "a comma in a name": f"size, mm;ImageId;rle\n3;a.jpg;{CAT}\n",
}
CAT_ALONE = {"airbus", "salt", "siim", "tabs", "a comma in a name"}


@pytest.mark.parametrize("name", TABLES)
def test_each_table(tmp_path: Path, name: str) -> None:
    photo(tmp_path / "src/train_images/a.jpg", SIZE)
    write(tmp_path / "src/train.csv", TABLES[name].encode("utf-8-sig"))
    assert recognises(tmp_path / "src")
    done = imported("rle", tmp_path)
    expected = truth(BOXES[:1] if name in CAT_ALONE else BOXES)
    classes = {"severstal": "12", "clouds": ["Fish", "Sugar"], "old severstal": "12"}
    if name == "clouds":
        assert done.classes == ("background", "Fish", "Flower", "Sugar")
        expected = np.array([0, 1, 3], np.uint8)[expected]
    elif name in classes:
        assert done.classes[1:3] == tuple(classes[name])
    assert (only_mask(tmp_path) == expected).all()


@pytest.mark.parametrize("empty", ["", "-1", "nan"])
def test_rows_without_runs_are_background_and_images_without_rows_left_out(
    tmp_path: Path, empty: str
) -> None:
    for name in "abc":
        photo(tmp_path / f"src/{name}.jpg", SIZE)
    write(tmp_path / "src/a.csv", f"ImageId,EncodedPixels\na.jpg,{CAT}\nb.jpg,{empty}\n")
    done = imported("rle", tmp_path)
    assert done.pairs == 2
    assert "1 image without runs: all background" in done.notes
    assert "1 image left out that no row names" in done.notes


def test_runs_along_the_rows_are_recognised(tmp_path: Path) -> None:
    """UW-Madison and Sartorius have them, in columns of the same names."""
    photo(tmp_path / "src/a.png", SIZE)
    across = encoded(truth(BOXES[:1]).T)
    write(tmp_path / "src/a.csv", f"id,class,segmentation\na,cell,{across}\n")
    done = imported("rle", tmp_path)
    assert "runs follow one another by the width of the images" in " ".join(done.notes)
    assert (only_mask(tmp_path) == truth(BOXES[:1])).all()


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ("1 2 3", "row 1 (foreground): its runs are no couples of whole numbers"),
        ("1 x", "no couples of whole numbers"),
        ("0 5", "its runs begin at pixel 0, expected 1"),
        ("1 5 3 9", "its runs overlap"),
        ("2395 9", "its runs end at pixel 2403, the image has 2400"),
    ],
)
def test_wrong_runs_are_named(tmp_path: Path, runs: str, message: str) -> None:
    photo(tmp_path / "src/a.jpg", SIZE)
    write(tmp_path / "src/a.csv", f"ImageId,EncodedPixels\na.jpg,{runs}\n")
    assert message in wrong("rle", tmp_path)


def test_other_tables(tmp_path: Path) -> None:
    write(tmp_path / "src/a.csv", f"ImageId,EncodedPixels\na.jpg,{CAT}\n")
    assert "no such image: a.jpg" in wrong("rle", tmp_path)
    write(tmp_path / "src/a.csv", "image,mask_path\na.jpg,b.png\n")
    assert not recognises(tmp_path / "src")
    assert "no CSV of run lengths found" in wrong("rle", tmp_path)


def test_a_row_without_class_and_runs_adds_no_class(tmp_path: Path) -> None:
    for name in "ab":
        photo(tmp_path / f"src/{name}.jpg", SIZE)
    table = f"ImageId,ClassId,EncodedPixels\na.jpg,1,{CAT}\nb.jpg,,\n"
    write(tmp_path / "src/train.csv", table)
    done = imported("rle", tmp_path)
    assert (done.pairs, done.classes) == (2, ("background", "1"))


def test_a_sample_submission_is_no_truth(tmp_path: Path) -> None:
    photo(tmp_path / "src/train_images/a.jpg", SIZE)
    photo(tmp_path / "src/test_images/b.jpg", SIZE)
    write(tmp_path / "src/train.csv", f"ImageId,EncodedPixels\na.jpg,{CAT}\n")
    write(tmp_path / "src/sample_submission.csv", "ImageId,EncodedPixels\nb.jpg,1 2\n")
    done = imported("rle", tmp_path)
    assert (only_mask(tmp_path) == truth(BOXES[:1])).all()
    assert "1 table left out: submissions are no truth" in done.notes
    assert "1 image left out that no row names" in done.notes
