import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unetseg.data.sample import draw_cells, draw_sample
from unetseg.errors import ConfigError, MachineError


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_draws_the_same_files(tmp_path: Path) -> None:
    one = draw_sample(tmp_path / "one", count=3, size=64, seed=5)
    two = draw_sample(tmp_path / "two", count=3, size=64, seed=5)
    assert contents(one) == contents(two)


def test_a_pair_depends_on_its_number_alone(tmp_path: Path) -> None:
    few = contents(draw_sample(tmp_path / "few", count=2, size=64))
    many = contents(draw_sample(tmp_path / "many", count=4, size=64))
    few.pop("sample.json")
    assert few.items() <= many.items()


def test_another_seed_and_another_number_draw_other_pictures() -> None:
    pictures = {draw_cells(64, seed, index)[0].tobytes() for seed in (0, 1) for index in (0, 1)}
    assert len(pictures) == 4


def test_layout_and_files(tmp_path: Path) -> None:
    folder = draw_sample(tmp_path / "cells", count=2, size=48)
    images, masks = sorted(folder.glob("images/*")), sorted(folder.glob("masks/*"))
    assert [path.name for path in images] == ["cells_000.png", "cells_001.png"]
    assert [path.name for path in masks] == [path.name for path in images]
    for image, mask in zip(images, masks, strict=True):
        with Image.open(image) as picture, Image.open(mask) as coded:
            assert (picture.mode, picture.size) == ("RGB", (48, 48))
            assert (coded.mode, coded.size) == ("L", (48, 48))
            assert set(np.unique(np.asarray(coded)).tolist()) == {0, 255}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**63), index=st.integers(0, 10_000), size=st.sampled_from([32, 96]))
def test_every_mask_has_a_sensible_share_of_cells(seed: int, index: int, size: int) -> None:
    _, mask = draw_cells(size, seed, index)
    assert 0.05 <= (mask == 255).mean() <= 0.5


def test_cells_are_darker_but_no_threshold_finds_them() -> None:
    for index in range(4):
        image, mask = draw_cells(128, 0, index)
        grey, cells = image.mean(axis=2), mask == 255
        assert grey[cells].mean() < grey[~cells].mean()
        found = grey[None] < np.arange(256)[:, None, None]  # 256, H, W: every threshold
        dice = 2 * (found & cells).sum((1, 2)) / (found.sum((1, 2)) + cells.sum())
        assert dice.max() < 0.9


def test_what_an_interrupted_call_left_is_completed(tmp_path: Path) -> None:
    folder = draw_sample(tmp_path / "cells", count=2, size=32)
    whole = contents(folder)
    (folder / "masks" / "cells_001.png").unlink()
    kept = (folder / "images" / "cells_000.png").stat().st_mtime_ns
    draw_sample(folder, count=2, size=32)
    assert contents(folder) == whole
    assert (folder / "images" / "cells_000.png").stat().st_mtime_ns == kept


def test_a_hidden_file_does_not_fill_a_folder(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    assert draw_sample(tmp_path, count=1, size=32) == tmp_path


def test_a_folder_with_something_else_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "images").mkdir()
    before = contents(tmp_path)
    with pytest.raises(MachineError, match="something else than this sample") as caught:
        draw_sample(tmp_path)
    assert [Path(name).name for name in caught.value.offenders] == ["images", "thesis.txt"]
    assert contents(tmp_path) == before


def test_a_sample_with_other_settings_is_refused(tmp_path: Path) -> None:
    draw_sample(tmp_path, count=1, size=32)
    with pytest.raises(MachineError):
        draw_sample(tmp_path, count=1, size=64)
    assert json.loads((tmp_path / "sample.json").read_text())["size"] == 32


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "cells").touch()
    with pytest.raises(MachineError, match="is a file"):
        draw_sample(tmp_path / "cells")


def test_all_wrong_settings_are_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        draw_sample(Path("never"), count=0, size=8, seed=-1)
    assert caught.value.offenders == [
        "count is 0; the least is 1",
        "size is 8; the least is 32",
        "seed is -1; the least is 0",
    ]
    assert not Path("never").exists()


def test_progress_hears_of_every_pair(tmp_path: Path) -> None:
    class Heard:
        def __init__(self) -> None:
            self.events: list[tuple[str, object]] = []

        def start(self, task: str, total: int | None = None) -> None:
            self.events.append(("start", total))

        def advance(self, task: str, steps: int = 1, **facts: object) -> None:
            self.events.append(("advance", facts["file"]))

        def finish(self, task: str) -> None:
            self.events.append(("finish", None))

        def say(self, message: str) -> None:
            raise AssertionError(message)

    heard = Heard()
    draw_sample(tmp_path, count=2, size=32, progress=heard)
    assert heard.events == [
        ("start", 2),
        ("advance", "cells_000.png"),
        ("advance", "cells_001.png"),
        ("finish", None),
    ]
