"""What a folder holds instead of masks is named with its count and, where one can, imported."""

import os
import shlex
import time
from pathlib import Path

import pytest

from unetseg.data.pairs import foreign as module
from unetseg.data.pairs.foreign import find_foreign
from unetseg.data.pairs.match import find_pairs
from unetseg.errors import PairingError

COCO = '{"images": [], "annotations": [], "categories": []}'
LABELME = '{"version": "5.0", "shapes": [], "imagePath": "a.jpg"}'
CVAT = '<?xml version="1.0"?><annotations>\n<image id="0" name="a.jpg"></image></annotations>'


@pytest.mark.parametrize(
    ("name", "text", "word", "command"),
    [
        ("instances.json", COCO, "COCO", "coco"),
        ("{}.json", LABELME, "labelme", "labelme"),
        ("export.json", '[{"id": 1, "annotations": [{"from_name": 1}]}]', "Label Studio", ""),
        ("via.json", '{"a.jpg1": {"filename": "a.jpg", "regions": []}}', "VIA", "via"),
        ("ann/{}.jpg.json", '{"size": {}, "objects": []}', "Supervisely", "supervisely"),
        ("{}.geojson", '{"type": "FeatureCollection"}', "GeoJSON", ""),
        ("areas.json", '{"type": "FeatureCollection"}', "GeoJSON", ""),
        ("labels/{}.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5\n", "YOLO", "yolo"),
        ("train.csv", "ImageId,EncodedPixels\na,1 3\n", "run lengths", "rle"),
        ("annotations.xml", CVAT, "CVAT", "cvat"),
        ("{}.nii.gz", "", "NIfTI", ""),
        ("{}.dcm", "", "DICOM", ""),
        ("{}.mat", "MATLAB 5.0", "MATLAB", ""),
    ],
)
def test_each_kind_is_named(tmp_path: Path, name: str, text: str, word: str, command: str) -> None:
    count = 3 if "{}" in name else 1
    for stem in "abc"[:count]:
        path = tmp_path / name.format(stem)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    foreign = [one for one in find_foreign(tmp_path) if word.lower() in one.line().lower()]
    assert len(foreign) == 1
    assert len(foreign[0].files) == count
    assert foreign[0].line().startswith(f"{count} ")
    if command:
        words = shlex.split(foreign[0].command())
        assert words[:3] == ["unetseg", "import", command]
        assert Path(words[3]).exists()
        assert words[4:] == ["OUT"]
    with pytest.raises(PairingError) as error:
        find_pairs(tmp_path)
    assert word.lower() in str(error.value).lower()


def test_plain_texts_and_hidden_files_are_nothing_foreign(tmp_path: Path) -> None:
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "instances.json").write_text(COCO)
    (tmp_path / "classes.txt").write_text("0 background\n1 cell\n")
    (tmp_path / "train.txt").write_text("a\nb\n")
    (tmp_path / "pairs.json").write_text("{}")
    (tmp_path / "model.gz").write_bytes(b"")
    assert find_foreign(tmp_path) == []


def test_links_that_lead_nowhere_and_pipes_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").symlink_to("gone")
    os.mkfifo(tmp_path / "a.json")
    os.mkfifo(tmp_path / "b.csv")
    assert not find_foreign(tmp_path)


def test_pointers_of_git_lfs_are_named(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    for name in ("images/a.png", "masks/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(pointer)
    with pytest.raises(PairingError, match="2 pointers of Git LFS in place of files") as error:
        find_pairs(tmp_path)
    assert (error.value.fix, error.value.commands) == ("Fetch the files:", ("git lfs pull",))


def test_of_many_json_files_in_a_folder_the_largest_are_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(300):
        (tmp_path / f"{i}.json").write_text(LABELME)
    (tmp_path / "train.json").write_text(COCO + " " * 99)
    read: list[Path] = []
    head = module._head

    def spy(path: Path) -> str:
        read.append(path)
        return head(path)

    monkeypatch.setattr(module, "_head", spy)
    lines = [one.line() for one in find_foreign(tmp_path)]
    assert lines == ["300 × JSON file of labelme", "1 × annotation file of COCO (train.json)"]
    assert len(read) == 100


def test_many_numbers_before_a_word_take_no_time(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"0 {'1024 ' * 12}plane\n")
    began = time.process_time()
    assert find_foreign(tmp_path) == []
    assert time.process_time() - began < 1
