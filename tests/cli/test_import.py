"""`unetseg import`: from the annotations to a folder that `check` has nothing to say against."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from cyclopts import App
from PIL import Image

from unetseg.cli.app import run
from unetseg.cli.import_ import Format, import_
from unetseg.data.files import image
from unetseg.data.files.pngs import write_png
from unetseg.data.masks import mask_file
from unetseg.errors import ConfigError, DataError
from unetseg.importers.importing import FORMATS

Capture = pytest.CaptureFixture[str]
RGB, CODES = np.ones((64, 64, 3), np.uint8), np.ones((64, 64), np.uint8)
LARGE = {
    "voc": {"JPEGImages/a.png": RGB, "SegmentationClass/a.png": CODES},
    "instances": {"a/images/a.png": RGB, "a/masks/1.png": CODES},
    "cityscapes": {
        "leftImg8bit/train/x/x_000000_000000_leftImg8bit.png": RGB,
        "gtFine/train/x/x_000000_000000_gtFine_labelIds.png": CODES,
    },
}
"""Files of one image and its masks, in the layouts of three formats."""


def command(*tokens: object) -> None:
    app = App(result_action="return_value")
    app.command(import_, name="import")
    app(["import", *map(str, tokens)], exit_on_error=False, print_error=False)


def export(folder: Path, count: int = 6) -> Path:
    """Photos with a square each, as labelme writes them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 90, (64, 64, 3), np.uint8)
        left = 4 + 5 * i
        pixels[10:40, left : left + 20] += 120
        Image.fromarray(pixels).save(folder / f"{i}.png")
        points = [[left, 10], [left + 20, 40]]
        square = {"label": "square", "points": points, "shape_type": "rectangle"}
        size = {"imageHeight": 64, "imageWidth": 64}
        content = {"shapes": [square], "imagePath": f"{i}.png"} | size
        (folder / f"{i}.json").write_text(json.dumps(content))
    return folder


def test_an_import_ends_with_the_next_command_and_check_agrees(
    tmp_path: Path, capsys: Capture
) -> None:
    command("labelme", export(tmp_path / "photos"), tmp_path / "out")
    text = capsys.readouterr().out
    assert f"6 pairs in {tmp_path / 'out'}" in text
    assert "background (6), square (6)" in text
    assert text.endswith(f"next: unetseg check {tmp_path / 'out'}\n")
    small = ("--device", "cpu", "--width", "4", "--depth", "2", "--workers", "0", "--json")
    assert run(["check", str(tmp_path / "out"), *small]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["name"] for item in found["classes"]["classes"]] == ["background", "square"]


@pytest.mark.parametrize("kind", ["labelme", "voc", "instances", "cityscapes"])
def test_an_image_over_the_limit_is_allowed_by_the_flag_that_is_told(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    if kind == "labelme":
        export(source, count=1)
    else:
        for name, pixels in LARGE[kind].items():
            write_png(source / name, pixels)
    for module in (image, mask_file):
        monkeypatch.setattr(module, "PIXEL_LIMIT", 4095)
    with pytest.raises(DataError) as caught:
        command(kind, source, tmp_path / "out")
    assert any("--max-pixels 4096" in str(line) for line in caught.value.offenders)
    with pytest.raises(DataError):
        command(kind, source, tmp_path / "out", "--max-pixels", 4095)
    command(kind, source, tmp_path / "out", "--max-pixels", 4096)
    assert len(list((tmp_path / "out").rglob("masks/**/*.png"))) == 1


def test_faults_are_listed_and_may_be_skipped(tmp_path: Path, capsys: Capture) -> None:
    folder = export(tmp_path / "photos")
    for i in (2, 4):
        (folder / f"{i}.png").unlink()
    with pytest.raises(DataError, match=r"no such image \(2\)") as caught:
        command("labelme", folder, tmp_path / "out")
    assert "2.json names 2.png" in str(caught.value)
    assert "4.json names 4.png" in str(caught.value)
    command("labelme", folder, tmp_path / "out", "--on-bad", "skip")
    text = capsys.readouterr().out
    assert "4 pairs in" in text
    assert "left out, 2 problems" in text


def test_a_wrong_format_is_answered_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        command("cocoo", tmp_path, tmp_path / "out")
    text = str(caught.value)
    assert all(name in text for name in get_args(Format))


def test_the_format_may_be_left_out(tmp_path: Path, capsys: Capture) -> None:
    photos = export(tmp_path / "photos", 1)
    command(photos, tmp_path / "out")
    assert "read as labelme, the format that was recognised" in capsys.readouterr().out
    to_coco(export(photos / "more", 1))
    with pytest.raises(DataError) as caught:
        command(photos, tmp_path / "two")
    for name in ("coco", "labelme"):
        assert f"unetseg import {name} {photos} {tmp_path / 'two'}" in caught.value.offenders
    with pytest.raises(
        ConfigError, match="SRC and OUT are missing\nunetseg import labelme SRC OUT"
    ):
        import_(Path("labelme"))
    with pytest.raises(ConfigError, match=f"OUT is missing\nunetseg import {photos} OUT"):
        import_(photos)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=f"unetseg import FORMAT {tmp_path / 'none'}"):
        command(tmp_path / "none", tmp_path / "two")
    with pytest.raises(ConfigError, match=f"unetseg import coco {photos} OUT"):
        command("coco", photos)


def test_the_help_tells_every_argument(capsys: Capture) -> None:
    command("--help")
    text = capsys.readouterr().out
    for part in ("FORMAT", "SRC", "OUT", "--images", "--on-bad", "coco", "unetseg import"):
        assert part in text


def test_the_help_tells_every_format() -> None:
    assert get_args(Format) == tuple(FORMATS)
    text = import_.__doc__ or ""
    for name in FORMATS:
        assert f"{name}: " in text


# End to end


def to_coco(photos: Path) -> Path:
    """The squares of `export` as COCO has them."""
    images, annotations = [], []
    for i, path in enumerate(sorted(photos.glob("*.json"))):
        (left, top), (right, bottom) = json.loads(path.read_text())["shapes"][0]["points"]
        path.unlink()
        corners = [left, top, right, top, right, bottom, left, bottom]
        images.append({"id": i, "file_name": f"{path.stem}.png", "height": 64, "width": 64})
        square = {"id": i, "image_id": i, "category_id": 7, "segmentation": [corners]}
        annotations.append(square)
    categories = [{"id": 7, "name": "square"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (photos / "instances.json").write_text(json.dumps(content))
    return photos


@pytest.mark.long
@pytest.mark.parametrize("kind", ["coco", "labelme"])
def test_import_then_check_then_train(tmp_path: Path, capsys: Capture, kind: str) -> None:
    photos = export(tmp_path / "photos", 10)
    source = to_coco(photos) if kind == "coco" else photos
    out, small = str(tmp_path / "out"), ("--device", "cpu", "--workers", "0")
    assert run(["import", kind, str(source), out]) == 0
    tiny = (*small, "--width", "4", "--depth", "2")
    assert run(["check", out, "--strict", *tiny]) == 0, capsys.readouterr().out
    once = ("-e", "1", "-b", "2", "--patch", "64", "--out", str(tmp_path / "runs"), "--name", "x")
    assert run(["train", out, *once, *tiny]) == 0, capsys.readouterr().err
    assert "best validation Dice" in capsys.readouterr().out
