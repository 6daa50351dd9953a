"""The frame: OUT is whole or not there, and every command understands it without a flag."""

import json
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.importers.exports import photo
from unetseg.data.facts.survey import survey
from unetseg.data.masks.mask_file import read_mask
from unetseg.errors import ConfigError, DataError, ImageError, MachineError, MaskError
from unetseg.importers import coco, importing
from unetseg.importers.annotations import AnnotatedImage, Classes, Entry, Problem
from unetseg.importers.importing import Imported, import_dataset
from unetseg.progress import Silent

CLASSES = ("background", "cell", "red thing")
SIZE = (20, 30)


def code_image(seed: int, codes: tuple[int, ...] = (0, 1, 2, 255)) -> NDArray[np.uint8]:
    """Blocks of codes."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.choice(codes, (4, 6)), np.ones((5, 5), int)).astype(np.uint8)


Use = Callable[..., None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Lets the format coco yield the given entries."""

    def replace(*entries: Entry, classes: tuple[str, ...] = CLASSES) -> None:
        given = [Classes(classes, coded=True), *entries]
        monkeypatch.setattr(coco, "read", lambda *_: given)

    return replace


def annotated(
    tmp_path: Path, count: int = 8, codes: tuple[int, ...] = (0, 1, 2, 255)
) -> list[AnnotatedImage]:
    return [
        AnnotatedImage(
            photo(tmp_path / "src" / f"{i}.png", SIZE),
            f"{i}",
            lambda _height, _width, i=i: code_image(i, codes),  # type: ignore[misc]
            "train" if i % 4 else "val",
        )
        for i in range(count)
    ]


def run(tmp_path: Path, *, skip: bool = False) -> Imported:
    (tmp_path / "src").mkdir(exist_ok=True)
    return import_dataset(
        "coco", tmp_path / "src", tmp_path / "out", on_bad="skip" if skip else "error"
    )


# What is written


@pytest.mark.long
@pytest.mark.parametrize("codes", [(0, 1, 2), (0, 1, 2, 255), (0, 255, 2), (0,)])
def test_training_understands_the_folder_as_classes_txt_says(
    tmp_path: Path, use: Use, codes: tuple[int, ...]
) -> None:
    use(*annotated(tmp_path, codes=codes))
    done = run(tmp_path)
    known = survey(tmp_path / "out")
    assert known.class_map.names == CLASSES
    assert known.class_map.background == 0
    assert known.class_map.ignore == ((255,) if 255 in codes else ())
    assert {pair.split for pair in known.pairs.pairs} == {"train", "val"}
    assert done.counts.splits == {"train": 6, "val": 2}
    for pair in known.pairs.pairs:
        seed = int(pair.image.stem)
        assert pair.mask is not None
        assert (read_mask(pair.mask).pixels == code_image(seed, codes)).all()
        assert (
            known.class_map.encode(read_mask(pair.mask).pixels) == code_image(seed, codes)
        ).all()
        assert pair.image.read_bytes() == (tmp_path / f"src/{seed}.png").read_bytes()


def test_one_class_here_and_ignored_pixels_there_is_no_mixture(tmp_path: Path, use: Use) -> None:
    """Masks of 0/1 and masks of 0/255 look like two habits; dataset.yaml says that 255 is none."""
    images = annotated(tmp_path, codes=(0, 1))
    crowds = annotated(tmp_path, 2, codes=(0, 255))
    images[:2] = crowds
    use(*images, classes=("background", "cell"))
    run(tmp_path)
    assert survey(tmp_path / "out").class_map.ignore == (255,)


def test_the_record_says_what_was_done(tmp_path: Path, use: Use) -> None:
    problem = Problem("no such image", "x\n.png")
    use(*annotated(tmp_path, 4), problem, "a note")
    done = run(tmp_path, skip=True)
    masks = [code_image(seed) for seed in range(4)]
    record = json.loads((tmp_path / "out/import.json").read_text())
    assert record == {
        "format": "coco",
        "source": "src",
        "pairs": 4,
        "splits": {"train": 3, "val": 1},
        "classes": {
            name: {"code": code, "masks": sum(code in mask for mask in masks)}
            for code, name in enumerate(CLASSES)
        },
        "masks_with_ignored_pixels": sum(255 in mask for mask in masks),
        "notes": ["a note"],
        "skipped": [r"no such image: x\n.png"],
    }
    assert done.pairs == 4
    assert done.classes == CLASSES


def test_splits_that_are_lost_are_told(tmp_path: Path, use: Use) -> None:
    *others, last = annotated(tmp_path, 4)
    use(*others, replace(last, split=None))
    done = run(tmp_path)
    assert not done.counts.splits
    assert "splits are left out: 1 of 4 images have none" in done.notes


def test_progress_counts_every_image(tmp_path: Path, use: Use) -> None:
    class Watcher(Silent):
        total: int | None = 0
        done = 0

        def start(self, task: str, total: int | None = None) -> None:
            self.total = total

        def advance(self, task: str, steps: int = 1, **facts: object) -> None:
            self.done += steps

    use(*annotated(tmp_path, 5))
    watcher = Watcher()
    import_dataset("coco", tmp_path / "src", tmp_path / "out", progress=watcher)
    assert watcher.total == watcher.done == 5


def test_masks_are_drawn_one_by_one(tmp_path: Path, use: Use) -> None:
    """At no time are there more masks than threads, so that memory does not grow with the set."""
    alive, most, lock = 0, 0, threading.RLock()

    def count(change: int) -> None:
        nonlocal alive, most
        with lock:
            alive += change
            most = max(most, alive)

    def draw(height: int, width: int) -> NDArray[np.uint8]:
        mask = np.ones((height, width), np.uint8)
        weakref.finalize(mask, count, -1)
        count(1)
        return mask

    paths = [photo(tmp_path / "src" / f"{i}.png", SIZE) for i in range(150)]
    use(*(AnnotatedImage(path, path.stem, draw) for path in paths))
    assert run(tmp_path).pairs == 150
    assert most < 60


def test_as_many_masks_are_drawn_at_once_as_there_are_cores(
    tmp_path: Path, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set[int]()

    def draw(height: int, width: int) -> NDArray[np.uint8]:
        threads.add(threading.get_ident())
        return np.ones((height, width), np.uint8)

    monkeypatch.setattr(importing, "usable_cores", lambda: 1)
    paths = [photo(tmp_path / "src" / f"{i}.png", SIZE) for i in range(8)]
    use(*(AnnotatedImage(path, path.stem, draw) for path in paths))
    assert (run(tmp_path).pairs, len(threads)) == (8, 1)


# What is wrong


def failing(text: str) -> Callable[[int, int], NDArray[np.uint8]]:
    def draw(_height: int, _width: int) -> NDArray[np.uint8]:
        raise MaskError("several", [text, f"more {text}"])

    return draw


def spoilt(tmp_path: Path) -> list[AnnotatedImage]:
    """Eight good images and four bad ones."""
    source = tmp_path / "src"
    good = annotated(tmp_path)
    names = ("fails", "small", "turned", "text", "strange")
    fails, small, turned, text, strange = (photo(source / f"{name}.png", SIZE) for name in names)
    text.write_text("no image")
    return [
        *good[:3],
        AnnotatedImage(fails, "fails", failing("shape 3")),
        AnnotatedImage(small, "small", lambda *_: np.zeros((9, 9), np.uint8)),
        AnnotatedImage(turned, "turned", lambda *_: code_image(1), size=SIZE[::-1]),
        AnnotatedImage(text, "text", lambda *_: code_image(1)),
        AnnotatedImage(strange, "strange", lambda *_: code_image(1, (0, 3))),
        *good[3:],
    ]


FAULTS = (
    "fails: shape 3",
    "fails: more shape 3",
    "small: the mask has 9×9 pixels, the image 20×30",
    "turned: the annotations are for 30×20 pixels (height × width), the image has 20×30",
    "text.png cannot be read",
    "strange: the mask holds 3; the classes end at 2",
)


def test_everything_is_listed_and_nothing_is_written(tmp_path: Path, use: Use) -> None:
    gone = Problem("no such image", "gone.png")
    use(*spoilt(tmp_path), gone)
    with pytest.raises(DataError) as caught:
        run(tmp_path)
    for text in ("no such image: gone.png", *FAULTS, "no such image (1)", "--on-bad skip"):
        assert text in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_with_skip_the_good_ones_are_written(tmp_path: Path, use: Use) -> None:
    use(*spoilt(tmp_path))
    done = run(tmp_path, skip=True)
    assert done.pairs == 8
    assert len(done.skipped) == len(FAULTS)
    text = (tmp_path / "out/import.json").read_text()
    assert all(fault in text for fault in FAULTS)
    assert len(survey(tmp_path / "out").pairs.pairs) == 8


def test_nothing_left_is_an_error_even_with_skip(tmp_path: Path, use: Use) -> None:
    use(Problem("no such image", "gone.png"))
    with pytest.raises(DataError, match="nothing could be imported"):
        run(tmp_path, skip=True)
    assert not (tmp_path / "out").exists()


def test_a_bug_leaves_nothing_either(tmp_path: Path, use: Use) -> None:
    def draw(_height: int, _width: int) -> NDArray[np.uint8]:
        raise ZeroDivisionError

    path = photo(tmp_path / "src" / "a.png", SIZE)
    use(AnnotatedImage(path, "a", draw))
    with pytest.raises(ZeroDivisionError):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_what_is_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    photo(tmp_path / "out" / "mine.png", SIZE)
    (tmp_path / "src").mkdir()
    with pytest.raises(MachineError, match="holds something already"):
        run(tmp_path)
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no format 'os'\nChoose of coco, voc"):
        import_dataset("os", tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="there is no"):
        import_dataset("coco", tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match=r"there is no .*coco.zip"):
        import_dataset(None, tmp_path / "coco.zip", tmp_path / "out")
    (tmp_path / "voc/SegmentationClass").mkdir(parents=True)
    with pytest.raises(ImageError, match="Check --images"):
        import_dataset("voc", tmp_path / "voc", tmp_path / "out", images=tmp_path / "nowhere")


# Archives


def pack_labelme(tmp_path: Path, *names: str) -> Path:
    """An archive of photos with a square each; of the first the JSON is cut off."""
    folder = tmp_path / "packed"
    for seed, name in enumerate(names):
        path = photo(folder / f"{name}.png", SIZE)
        square = {"label": "a", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"}
        content = json.dumps({"shapes": [square], "imagePath": path.name})
        (folder / f"{name}.json").write_text(content[: 20 if seed == 0 else None])
    return Path(shutil.make_archive(str(tmp_path / "set"), "zip", folder))


def test_of_an_archive_the_names_within_it_are_told(tmp_path: Path) -> None:
    source = pack_labelme(tmp_path, "a", "b")
    with pytest.raises(DataError) as caught:
        import_dataset("labelme", source, tmp_path / "out")
    assert ": a.json is not what this format has" in str(caught.value)
    with pytest.raises(DataError, match=r"^no COCO annotations found\n  - a\.json"):
        import_dataset("coco", source, tmp_path / "out")
    done = import_dataset("labelme", source, tmp_path / "out", on_bad="skip")
    assert str(done.skipped[0]).startswith("no JSON of labelme: a.json is not")
    assert ".unpacked" not in (tmp_path / "out/import.json").read_text()


def test_of_masks_in_an_archive_the_names_are_told(tmp_path: Path) -> None:
    for name in "abc":
        photo(tmp_path / "packed/images" / f"{name}.png", SIZE)
        photo(tmp_path / "packed/masks" / f"{name}.png", SIZE)
    (tmp_path / "packed/masks/a.png").write_text("no image")
    (tmp_path / "packed/images/b.png").write_bytes(b"")
    source = Path(shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "packed"))
    with pytest.raises(DataError) as caught:
        import_dataset("instances", source, tmp_path / "out")
    first, second = caught.value.offenders
    assert first.startswith("cannot be drawn: a: a.png cannot be read: its content is no image")
    assert second == "cannot be drawn: b: b.png cannot be read: empty file"


def test_what_the_system_refuses_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(source: Path, _images: Path | None = None) -> Iterator[Entry]:
        raise PermissionError(13, "Permission denied", str(source / "x.json"))

    monkeypatch.setattr(coco, "read", read)
    with pytest.raises(DataError, match=r"^x\.json cannot be read: Permission denied"):
        run(tmp_path)
    monkeypatch.setattr(coco, "recognises", read)
    with pytest.raises(DataError, match=r"^x\.json cannot be read: Permission denied"):
        import_dataset(None, tmp_path / "src", tmp_path / "out")
    no_name = tmp_path / ("x" * 300)
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        import_dataset(None, no_name, tmp_path / "out")
    with pytest.raises(MachineError, match=r"cannot write .*: File name too long"):
        import_dataset(None, tmp_path / "src", no_name)


def test_problems_are_told_before_the_number_of_classes(tmp_path: Path, use: Use) -> None:
    images = annotated(tmp_path, 1, codes=(0,))
    use(*images, Problem("no such image", "gone.png"), classes=("background",))
    with pytest.raises(DataError, match=r"nothing could be imported\n.*gone\.png"):
        run(tmp_path)


def test_no_text_of_a_foreign_file_reaches_the_terminal_raw(tmp_path: Path, use: Use) -> None:
    escape = "\x1b[2J"
    images = [*annotated(tmp_path, 2), AnnotatedImage(tmp_path, "bad", failing(escape))]
    use(*images, escape, classes=("background", f"a{escape}", "b"))
    with pytest.raises(DataError) as caught:
        run(tmp_path)
    done = run(tmp_path, skip=True)
    texts = [str(caught.value), *map(str, done.skipped), *done.notes, *done.classes]
    assert all(line.isprintable() for text in texts for line in text.split("\n"))
