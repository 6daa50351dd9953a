"""What the check concludes is what training concludes; no fault ends in a traceback."""

import json
import os
import random
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from unetseg.checks.check import check_folder, refuse_errors
from unetseg.cli.app import run
from unetseg.config import DataConfig
from unetseg.data.facts.survey import Survey, survey
from unetseg.errors import DataError, UnetsegError

Capture = pytest.CaptureFixture[str]
SMALL = ("--device", "cpu", "--width", "4", "--depth", "2", "--workers", "0")


def test_no_fixed_copy_is_offered_where_nothing_can_be_fixed(data: Path, capsys: Capture) -> None:
    for mask in (data / "masks").iterdir():
        with Image.open(mask) as picture:
            picture.resize((50, 70)).save(mask)  # smoothed, of no whole fraction of the size
    assert run(["check", str(data)]) == 5
    told = "".join(capsys.readouterr())
    assert "[mask-coding]" in told
    assert "[size-mismatch]" in told
    assert "--fix OUT" not in told
    assert "more (--report" not in told  # where no file stands above


# The same conclusions


def assert_same(root: Path, config: DataConfig | None = None) -> Survey:
    """The check knows the folder as training does, and training takes it."""
    report, known = check_folder(root, config), survey(root, config)
    assert not report.of("error")
    assert report.trainable is not None
    assert report.trainable.class_map == known.class_map
    assert report.trainable.pairs == known.pairs
    assert report.trainable.facts == known.facts
    assert report.trainable.rules == known.rules
    assert (report.trainable.own_splits, report.trainable.names) == (known.own_splits, known.names)
    refuse_errors(known)
    return known


@pytest.mark.long
def test_the_check_agrees_with_training_on_every_real_folder(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNETSEG_CACHE_FOLDER", str(tmp_path))  # each file is read in full only once
    folders = sorted(path for path in real_data.iterdir() if (path / "images").is_dir())
    assert len(folders) >= 10
    for folder in folders:
        assert_same(folder)


DESCRIPTIONS = {
    "splits": "splits: {train: '*', val: [cells_000, cells_001]}\n",
    "patterns": "splits: {train: '*', test: '*_00[4-7]'}\n",
    "classes": "classes: {ground: 0, cell: 255}\n",
    "ignore": "ignore: [7]\nsnap: true\nval_fraction: 0.5\n",
    "groups": "group: cells_00(.)\n",
    "places": "images: images\nmasks: masks\n",
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_the_check_agrees_with_training_on_described_folders(data: Path, name: str) -> None:
    (data / "dataset.yaml").write_text(DESCRIPTIONS[name], encoding="utf-8")
    known = assert_same(data)
    assert known.rules[0].startswith("dataset.yaml: ")


def table_of(data: Path) -> Path:
    rows = [f"images/cells_00{n}.png,masks/cells_00{n}.png,{'abc'[n % 3]}" for n in range(8)]
    table = data / "list.csv"
    table.write_text("image,mask,group\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return table


def test_the_check_agrees_with_training_on_a_table(data: Path) -> None:
    table = table_of(data)
    assert_same(table)
    assert_same(data, DataConfig(pairs=table))


def test_a_refusal_names_the_table_that_was_given(data: Path) -> None:
    mask = data / "masks" / "cells_000.png"
    with Image.open(mask) as picture:
        picture.crop((0, 0, 50, 70)).save(mask)
    table = table_of(data)
    with pytest.raises(DataError, match=r"list\.csv cannot be trained on") as caught:
        refuse_errors(survey(table, strict=False))
    assert f"`unetseg check {shlex.quote(str(table))}`" in caught.value.fix


# A fault beside others


def test_a_broken_link_does_not_hide_other_faults(data: Path) -> None:
    images = sorted((data / "images").iterdir())
    masks = sorted((data / "masks").iterdir())
    images[0].unlink()
    images[0].symlink_to("nowhere.png")
    masks[1].unlink()
    os.mkfifo(masks[1])
    images[2].write_bytes(b"")
    masks[3].unlink()
    found = {finding.check: finding for finding in check_folder(data).of("error")}
    assert set(found) == {"no-regular-file", "empty-file"}
    assert len(found["no-regular-file"].files) == 2
    with pytest.raises(DataError, match="broken links"):
        survey(data)


# Folders spoilt at random

Spoil = Callable[[random.Random, Path, Path], str]  # the name that must be told, or nothing


def cut(chance: random.Random, image: Path, mask: Path) -> str:
    path = chance.choice([image, mask])
    path.write_bytes(path.read_bytes()[: chance.randint(0, 100)])
    return path.name


def text(chance: random.Random, image: Path, mask: Path) -> str:
    path = chance.choice([image, mask])
    path.write_text("not an image")
    return path.name


def alone(chance: random.Random, image: Path, mask: Path) -> str:
    first, second = chance.sample([image, mask], 2)
    first.unlink()
    return second.name


def unlike(_: random.Random, _image: Path, mask: Path) -> str:
    mask.rename(mask.with_name(mask.name.upper()))
    return ""


def no_file(chance: random.Random, image: Path, mask: Path) -> str:
    path = chance.choice([image, mask])
    path.unlink()
    if chance.random() < 0.5:
        os.mkfifo(path)
    else:
        path.symlink_to(chance.choice(["nowhere.png", path.name]))
    return path.name


def strange(chance: random.Random, image: Path, mask: Path) -> str:
    names = ["a\nb [red]", "\x1b[31mred", "c\rd", "[/bold]", ":cat:", os.fsdecode(b"\xff\xfe")]
    name = chance.choice(names)
    image.rename(image.with_name(f"{name}.png"))
    mask.rename(mask.with_name(f"{name}.png"))
    return ""


def other_size(chance: random.Random, _: Path, mask: Path) -> str:
    pixels = np.array(Image.open(mask))
    step = chance.choice([2, 3, 4])
    Image.fromarray(pixels[::step, ::step]).save(mask)
    return mask.name


def other_coding(chance: random.Random, _: Path, mask: Path) -> str:
    on = np.array(Image.open(mask)) > 0
    number = on.astype(np.uint8)
    codings = [
        number,
        on,
        number.astype(np.uint16) * 40_000,
        np.stack([number * 255] * 3, -1),
        np.stack([number * 255, number * 9, number], -1),
        np.stack([number * 255] * 3 + [np.full_like(number, 200)], -1),
        number * 0,
        number * 7,
    ]
    Image.fromarray(chance.choice(codings)).save(mask)
    return ""


def lossy(chance: random.Random, _: Path, mask: Path) -> str:
    Image.open(mask).save(mask.with_suffix(".jpg"), quality=chance.choice([5, 50, 95]))
    mask.unlink()
    return ""


def other_kind(chance: random.Random, image: Path, _: Path) -> str:
    pixels = np.array(Image.open(image))
    target = image.with_suffix(".tif")
    kinds: list[NDArray[Any]] = [
        pixels.astype(np.uint16) * 200,
        pixels.astype(np.int16) - 300,
        np.where(pixels == pixels.max(), np.nan, pixels).astype(np.float32),
        np.zeros((*pixels.shape[:2], 5), np.uint8),
    ]
    kind = chance.choice(kinds)
    tifffile.imwrite(target, kind, photometric="minisblack", planarconfig="contig")
    image.unlink()
    return target.name


def harmless(chance: random.Random, image: Path, _: Path) -> str:
    photo = Image.open(image)
    if chance.random() < 0.5:
        exif = Image.Exif()
        exif[0x0112] = chance.randint(1, 9)
        photo.save(image, exif=exif)
    else:
        photo.convert(chance.choice(["L", "LA", "P", "RGBA", "1"])).save(image)
    return ""


SPOILS: tuple[Spoil, ...] = (
    *(cut, text, alone, unlike, no_file, strange),
    *(other_size, other_coding, lossy, other_kind, harmless),
)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(24))
def test_a_folder_spoilt_at_random_is_told_in_full(data: Path, capsys: Capture, seed: int) -> None:
    chance = random.Random(seed)
    names = []
    for number in chance.sample(range(8), chance.randint(1, 3)):
        image, mask = (data / side / f"cells_{number:03d}.png" for side in ("images", "masks"))
        names.append(chance.choice(SPOILS)(chance, image, mask))
    code = run(["check", str(data), "--json", *SMALL, "--fix", str(data.parent / "out")])
    shown = capsys.readouterr()
    found = json.loads(shown.out)["findings"]
    listed = "\n".join(file for finding in found for file in finding["files"])
    assert code in {0, 5}
    assert [name for name in names if name not in listed] == []
    errors = [finding for finding in found if finding["severity"] == "error"]
    if not errors:
        refuse_errors(survey(data))
    else:
        with pytest.raises(UnetsegError):
            refuse_errors(survey(data))
