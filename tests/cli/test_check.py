"""`unetseg check`: each fault in a folder of its own is named with its files and its fix."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from unetseg.cli.app import run
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.pairs.match import find_pairs
from unetseg.storage import content_hash

Capture = pytest.CaptureFixture[str]
SMALL = ("--device", "cpu", "--width", "4", "--depth", "2", "--workers", "0")


def image(data: Path, number: int) -> Path:
    return data / "images" / f"cells_{number:03d}.png"


def mask(data: Path, number: int) -> Path:
    return data / "masks" / f"cells_{number:03d}.png"


def pixels(path: Path) -> NDArray[Any]:
    return np.array(Image.open(path))


def save(path: Path, array: NDArray[Any]) -> Path:
    Image.fromarray(array).save(path)
    return path


def findings(data: Path, capsys: Capture, *flags: str, code: int | None = None) -> list[Any]:
    """The findings of `check --json`, and that its exit code fits them."""
    capsys.readouterr()
    exit_code = run(["check", str(data), "--json", *SMALL, *flags])
    found = json.loads(capsys.readouterr().out)["findings"]
    errors = any(finding["severity"] == "error" for finding in found)
    assert exit_code == (code if code is not None else 5 * errors)
    return list(found)


def named(found: list[Any], severity: str, words: str, *files: Path | str) -> dict[str, Any]:
    """The finding of this severity that says `words` and names all `files`, with its fix."""
    for finding in found:
        said = f"{finding['check']} {finding['summary']} {finding['fix']}".lower()
        listed = "\n".join(finding["files"])
        all_there = all((f.name if isinstance(f, Path) else f) in listed for f in files)
        if finding["severity"] == severity and words.lower() in said and all_there:
            assert finding["fix"] or finding["command"] or severity == "note"
            return dict(finding)
    raise AssertionError(f"no {severity} says {words!r} and names {files}: {found}")


def test_a_good_folder_has_no_finding(data: Path, capsys: Capture) -> None:
    before = {path: content_hash(path) for path in sorted(data.rglob("*.*"))}
    assert findings(data, capsys, "--strict") == []
    assert {path: content_hash(path) for path in sorted(data.rglob("*.*"))} == before


# Names


@pytest.mark.row(27)
def test_files_that_do_not_pair_are_all_listed(data: Path, capsys: Capture) -> None:
    mask(data, 0).unlink()
    image(data, 1).unlink()
    mask(data, 2).rename(data / "masks" / "CELLS_002.png")
    odd = data / "images" / "odd [1]\n name.png"
    shutil.copy(image(data, 3), odd)
    found = findings(data, capsys)
    named(found, "warning", "without mask", f"images/{image(data, 0).name}", "odd [1]\\n name.png")
    named(found, "warning", "without image", f"masks/{mask(data, 1).name}")
    found = findings(data, capsys, "--unpaired", "error", code=5)
    named(found, "error", "2 images without mask and 1 mask without image", "odd [1]")


def test_the_json_holds_every_pair_and_what_is_left_out(data: Path, capsys: Capture) -> None:
    mask(data, 0).unlink()
    run(["check", str(data), "--json", *SMALL])
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["pairs"]) == 7
    assert answer["pairs"][0] == {
        "image": "images/cells_001.png",
        "mask": "masks/cells_001.png",
        "split": answer["pairs"][0]["split"],
    }
    assert answer["left_out"] == [{"path": "images/cells_000.png", "why": "image without mask"}]


def test_the_commands_of_the_json_have_the_flags_that_were_given(
    data: Path, capsys: Capture
) -> None:
    mask(data, 0).unlink()
    save(mask(data, 1), pixels(mask(data, 1))[::2, ::2])
    found = findings(data, capsys, "--unpaired", "skip")
    check = f"unetseg check {shlex.quote(str(data))}"
    assert named(found, "warning", "factor")["commands"] == [f"{check} --unpaired skip --fix OUT"]
    assert named(found, "warning", "without mask")["commands"] == [f"{check} --unpaired empty"]


# Sizes and rotation


@pytest.mark.row(28)
def test_masks_at_half_size_are_named_and_fixed(data: Path, capsys: Capture) -> None:
    small = save(mask(data, 1), pixels(mask(data, 1))[::2, ::2])
    save(mask(data, 2), pixels(mask(data, 2))[:90])
    found = findings(data, capsys)
    assert "--fix" in named(found, "warning", "factor", small, image(data, 1))["command"]
    named(found, "error", "size", mask(data, 2), image(data, 2))
    assert run(["check", str(data), *SMALL, "--fix", str(data.parent / "fixed")]) == 5
    fixed = read_mask(data.parent / "fixed" / "masks" / small.name).pixels
    assert (fixed == pixels(small).repeat(2, 0).repeat(2, 1)).all()
    assert not (data.parent / "fixed" / "masks" / mask(data, 2).name).exists()


@pytest.mark.row(28)
def test_a_mask_drawn_before_the_rotation_is_fixed(data: Path, capsys: Capture) -> None:
    truth = pixels(mask(data, 5))[:64]
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.open(image(data, 5)).crop((0, 0, 96, 64)).transpose(Image.Transpose.ROTATE_90)
    lying.save(image(data, 5), exif=exif)
    save(mask(data, 5), np.rot90(truth))
    named(findings(data, capsys), "error", "rotat", mask(data, 5))
    assert run(["check", str(data), *SMALL, "--fix", str(data.parent / "fixed")]) == 5
    assert (read_mask(data.parent / "fixed" / "masks" / "cells_005.png").pixels == truth).all()


# Mask values


def test_stray_values_around_two_classes(data: Path, capsys: Capture) -> None:
    for number in range(8):
        soft = Image.open(mask(data, number)).filter(ImageFilter.GaussianBlur(1))
        soft.save(mask(data, number))
    found = findings(data, capsys)
    noisy = next(f for f in found if f["check"].startswith("mask") and "--fix" in f["command"])
    assert noisy["severity"] in {"error", "warning"}
    assert run(["check", str(data), *SMALL, "--fix", str(data.parent / "fixed")]) in {0, 5}
    assert findings(data.parent / "fixed", capsys, "--strict") == []
    values = np.unique(read_mask(data.parent / "fixed" / "masks" / "cells_000.png").pixels)
    assert set(values.tolist()) <= {0, 255}


@pytest.mark.row(29)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: np.where(m, 1, 0).astype(np.uint8),
        lambda m: m > 0,
        lambda m: np.stack([m, m, m], -1),
        lambda m: np.stack([m, m, m, np.full_like(m, 255)], -1),
        lambda m: np.where(m, 40000, 0).astype(np.uint16),
        lambda m: np.where(m, 2, np.where(np.arange(96) < 4, 255, 1)).astype(np.uint8),
        lambda m: np.stack([m, m // 2, m * 0], -1),
    ],
    ids=["0/1", "1 bit", "grey RGB", "opaque RGBA", "16 bit", "ignore value", "colours"],
)
def test_every_coding_is_right_or_explained(
    data: Path, capsys: Capture, spoil: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    for number in range(8):
        save(mask(data, number), spoil(pixels(mask(data, number))))
    assert not [f for f in findings(data, capsys) if f["severity"] == "error"]


@pytest.mark.row(30)
def test_cmyk_grey_and_palette_images_are_read(data: Path, capsys: Capture) -> None:
    original = Image.open(image(data, 0))
    original.convert("CMYK").save(image(data, 0).with_suffix(".jpg"), quality=95)
    image(data, 0).unlink()
    original.quantize(64).save(image(data, 1))
    original.convert("L").save(image(data, 2))
    shutil.copy(mask(data, 0), mask(data, 1))
    shutil.copy(mask(data, 0), mask(data, 2))
    assert not [f for f in findings(data, capsys) if f["severity"] == "error"]


# Doubles


def split_in_two(data: Path) -> None:
    for number in range(8):
        for side, path in (("images", image(data, number)), ("masks", mask(data, number))):
            folder = data / side / ("val" if number > 5 else "train")
            folder.mkdir(exist_ok=True)
            path.rename(folder / path.name)


@pytest.mark.row(33)
def test_an_image_on_both_sides_of_a_split_is_a_warning(data: Path, capsys: Capture) -> None:
    original = pixels(image(data, 0))
    save(image(data, 6), original)  # the same pixels with another mask
    brighter = np.clip(original * 1.15, 0, 255).astype(np.uint8)
    save(image(data, 7), brighter)
    split_in_two(data)
    found = findings(data, capsys)
    named(found, "warning", "identical", "cells_000.png", "cells_006.png")
    named(found, "warning", "near", "cells_000.png", "cells_007.png")
    assert findings(data, capsys, "--strict", code=5)


# What check writes


def test_a_refusal_is_short_and_the_report_whole(data: Path, capsys: Capture) -> None:
    extra = [data / "images" / f"lonely_{n}.png" for n in range(15)]
    for path in extra:
        shutil.copy(image(data, 0), path)
    report = data.parent / "report.txt"
    flags = ["--unpaired", "error", "--report", str(report)]
    assert run(["check", str(data), *SMALL, *flags]) == 5
    shown = capsys.readouterr()
    named = sum(path.name in shown.out for path in extra)
    assert f"and {15 - named} more (--report FILE lists all)" in shown.out
    assert named
    assert len((shown.out + shown.err).splitlines()) <= 12
    assert all(path.name in report.read_text() for path in extra)


def test_many_errors_are_a_few_lines_and_a_count(data: Path, capsys: Capture) -> None:
    mask(data, 1).write_text("no image")
    save(mask(data, 2), pixels(mask(data, 2))[:90])
    mask(data, 3).write_bytes(b"")
    image(data, 4).write_bytes(image(data, 4).read_bytes()[:200])
    assert run(["check", str(data), *SMALL]) == 5
    shown = capsys.readouterr()
    assert len((shown.out + shown.err).splitlines()) <= 12
    assert "errors" in next(line for line in shown.out.splitlines() if line.startswith("… and "))


def test_files_that_take_no_part_are_one_line_in_all(data: Path, capsys: Capture) -> None:
    for folder in ("predictions", "overlays"):
        shutil.copytree(data / "masks", data / folder)
    assert run(["check", str(data), *SMALL]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "[left-out]" in line]
    assert len(lines) == 1
    assert "predictions/cells_000.png and 7 more" in lines[0]
    assert "overlays/cells_000.png and 7 more" in lines[0]


def test_a_description_is_written_and_applied(data: Path, capsys: Capture) -> None:
    target = data / "dataset.yaml"
    assert run(["check", str(data), *SMALL, "--describe", str(target)]) == 0
    capsys.readouterr()
    assert run(["check", str(data), "--json", *SMALL]) == 0
    described = json.loads(capsys.readouterr().out)
    target.write_text(target.read_text().replace("foreground", "nucleus"))
    assert run(["check", str(data), "--json", *SMALL]) == 0
    renamed = json.loads(capsys.readouterr().out)
    assert [c["name"] for c in described["classes"]["classes"]] == ["background", "foreground"]
    assert [c["name"] for c in renamed["classes"]["classes"]] == ["background", "nucleus"]
    assert run(["check", str(data), *SMALL, "--describe", str(target)]) == 3  # not overwritten


@pytest.mark.parametrize(
    "flags",
    [
        ["--images", "images", "--masks", "labels"],
        ["--images", "images/*.png", "--masks", "labels/*.png"],
        ["--pairs", "../list.csv"],
    ],
)
def test_a_description_says_where_the_pairs_are(
    data: Path, capsys: Capture, flags: list[str]
) -> None:
    shutil.copytree(data / "masks", data / "labels")
    rows = [f"{data}/images/{path.name},{path}" for path in (data / "labels").iterdir()]
    (data.parent / "list.csv").write_text("\n".join(["image,mask", *rows]), encoding="utf-8")
    assert run(["check", str(data), *SMALL]) == 5
    target = data / "dataset.yaml"
    assert run(["check", str(data), *SMALL, *flags, "--describe", str(target)]) == 0
    capsys.readouterr()
    assert run(["check", str(data), "--json", *SMALL]) == 0
    pairs = json.loads(capsys.readouterr().out)["pairs"]
    assert [Path(pair["mask"]).parent.name for pair in pairs] == ["labels"] * 8


def test_fix_never_touches_the_source_or_a_folder_in_use(data: Path, capsys: Capture) -> None:
    small = mask(data, 2)
    save(small, pixels(small)[::2, ::2])
    before = {path: content_hash(path) for path in sorted(data.rglob("*.png"))}
    out = data.parent / "fixed"
    assert run(["check", str(data), *SMALL, "--strict", "--fix", str(out)]) == 5
    assert {path: content_hash(path) for path in sorted(data.rglob("*.png"))} == before
    assert len(find_pairs(out).pairs) == 8
    assert findings(out, capsys, "--strict") == []
    assert run(["check", str(data), *SMALL, "--fix", str(out)]) == 3
    assert "holds something already" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--fix", "--describe"])
def test_a_target_that_may_not_be_looked_for_is_answered(
    data: Path, capsys: Capture, flag: str
) -> None:
    assert run(["check", str(data), *SMALL, flag, "x" * 300]) == 3
    assert "cannot write xxx" in capsys.readouterr().err


def test_nothing_but_json_is_printed_with_json(data: Path, capsys: Capture) -> None:
    mask(data, 2).write_bytes(b"")
    image(data, 3).rename(data / "images" / "a:cat:[red]\x1b[31m.png")
    out = data.parent / "fixed"
    found = findings(data, capsys, "--fix", str(out), "--report", str(data.parent / "report.json"))
    assert json.loads((data.parent / "report.json").read_text())["findings"] == found
    assert out.is_dir()
    named(found, "warning", "without mask", "a:cat:[red]\\x1b[31m.png")


def test_the_report_may_be_asked_for_in_a_file_of_settings(data: Path, tmp_path: Path) -> None:
    settings, report = tmp_path / "settings.yaml", tmp_path / "findings.txt"
    settings.write_text(f"report: {report}\n")  # which is a command too
    assert run(["check", str(data), *SMALL, "--config", str(settings)]) == 0
    assert report.is_file()


@pytest.mark.row(27)
def test_names_are_shown_as_they_are(
    data: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(shutil.move(data, data.parent / "s"))
    for name in ("a:cat:[red]b", "x's/y", "\x1b[31m"):
        target = home / "images" / f"{name}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(image(home, 0), target)
    monkeypatch.chdir(home.parent)
    assert run(["check", "s", *SMALL]) == 0
    shown = capsys.readouterr()
    for name in ("images/a:cat:[red]b.png", "images/x's/y.png", "images/\\x1b[31m.png"):
        assert name in shown.out
    assert "\x1b" not in shown.out + shown.err


def test_commands_can_be_copied(data: Path, capsys: Capture) -> None:
    home = Path(shutil.move(data, data.parent / "it's my DATA"))
    assert run(["check", str(home), *SMALL]) == 0
    assert shlex.split(capsys.readouterr().out.splitlines()[-1])[3] == str(home)
    small = mask(home, 2)
    save(small, pixels(small)[::2, ::2])
    out = data.parent / "a copy"
    assert run(["check", str(home), *SMALL, "--strict", "--fix", str(out)]) == 5
    shown = capsys.readouterr()
    lines = [line for line in shown.out.splitlines() if line.startswith("  unetseg check ")]
    assert shlex.split(lines[0]) == ["unetseg", "check", str(home), "--fix", "OUT"]
    assert shlex.split(shown.out.splitlines()[-1]) == ["next:", "unetseg", "check", str(out)]


def test_a_copy_within_the_folder_is_refused_before_it_is_read(data: Path, capsys: Capture) -> None:
    assert run(["check", str(data), *SMALL, "--fix", str(data / "fixed")]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Name a folder outside of it" in shown.err
    assert not (data / "fixed").exists()


def test_class_names_are_text_whatever_they_hold(data: Path, capsys: Capture) -> None:
    names = '"[/bold] ground": 0, ":cat:\\e[31m": 255'
    (data / "dataset.yaml").write_text(f"classes: {{{names}}}\n", encoding="utf-8")
    assert run(["check", str(data), *SMALL]) == 0
    shown = capsys.readouterr().out
    assert "[/bold] ground" in shown
    assert ":cat:\\x1b[31m" in shown
    assert "\x1b" not in shown


def test_codes_that_no_mask_holds_are_refused_by_name(data: Path, capsys: Capture) -> None:
    (data / "dataset.yaml").write_text(f"classes: {{ground: 0, sky: {10**30}}}\n", encoding="utf-8")
    named(findings(data, capsys), "error", "no mask holds", "sky")


def test_commands_repeat_what_was_given_about_the_folder(data: Path, capsys: Capture) -> None:
    (data / "images").rename(data / "my A")
    (data / "masks").rename(data / "B")
    flags = ["--images", str(data / "my A"), "--masks", "B", "--ignore", "7,8", "--snap"]
    assert run(["check", str(data), *flags, *SMALL]) == 0
    told = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert told[:4] == ["next:", "unetseg", "train", str(data)]
    assert set(flags) <= set(told)
    small = data / "B" / "cells_002.png"
    save(small, pixels(small)[::2, ::2])
    assert run(["check", str(data), *flags, *SMALL, "--strict"]) == 5
    lines = capsys.readouterr().out.splitlines()
    command = shlex.split(next(line for line in lines if line.startswith("  unetseg check ")))
    assert command.count("--snap") == 1
    command[command.index("OUT")] = str(data.parent / "fixed")
    assert run([*command[1:], *SMALL, "--strict"]) == 5
    assert findings(data.parent / "fixed", capsys, "--strict") == []


@pytest.mark.row(27)
def test_a_preview_that_cannot_be_drawn_is_told(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    save(mask(data, 0), pixels(mask(data, 0))[:-3])
    sheet = tmp_path / "sheet.png"
    assert run(["check", str(data), *SMALL, "--preview", str(sheet)]) == 5
    assert not sheet.exists()
    assert f"{sheet} is not written" in capsys.readouterr().out
