"""Laws of the gallery: the worst are there, the memory is bounded, neighbours are not all alike."""

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.builders import CELLS
from unetseg.evaluation import gallery as module
from unetseg.evaluation.gallery import KEPT, PART, Gallery


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that are drawn in no time."""
    monkeypatch.setattr(module, "SIDE", 12)


def filled(scores: list[float]) -> Gallery:
    gallery = Gallery(CELLS)
    image, index = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8)
    for number, dice in enumerate(scores):
        gallery.add(f"{number:04d}", dice, image, index, index)
    return gallery


def test_of_many_images_the_worst_and_best_are_kept_in_bounded_memory(tiny: None) -> None:
    scores = np.random.default_rng(0).permutation(1000) / 1000
    gallery = filled(scores.tolist())
    assert len(gallery._pictures) <= KEPT
    parts = gallery.parts()
    dice = {part: [scores[int(name)] for name in names] for part, names in parts.items()}
    assert all(
        len(names) == PART and one == sorted(one)
        for one, names in zip(dice.values(), parts.values(), strict=True)
    )
    assert dice["worst"][0] == 0
    assert dice["worst"][-1] <= 0.048
    assert dice["best"][-1] == 0.999
    assert np.median(np.abs(np.array(dice["median"]) - 0.5)) < 0.1


def test_frames_of_one_film_are_shown_once(tiny: None) -> None:
    """The 20 worst images follow one another."""
    others = 0.5 + np.random.default_rng(0).random(180) / 2
    worst = [int(name) for name in filled([*[0.1] * 20, *others.tolist()]).parts()["worst"]]
    assert len(worst) == PART
    assert min(np.diff(sorted(worst))) >= 200 // (2 * PART)
    assert sum(one < 20 for one in worst) == 3


def test_few_images_are_shown_once_each() -> None:
    for number in (0, 1, 2, 4, 7):
        parts = filled([n / 10 for n in range(number)]).parts().values()
        assert sorted(chain(*parts)) == [f"{n:04d}" for n in range(number)]


def test_pictures_of_an_earlier_evaluation_go(tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    filled([0.1, 0.2, 0.3]).write(folder, {})
    rows = filled([0.4]).write(folder, {"0000": {"reason": "miss"}})
    (row,) = json.loads(json.dumps(rows))
    assert (row["part"], row["dice"], row["reason"]) == ("worst", 0.4, "miss")
    files = {row[kind] for kind in ("truth", "prediction", "errors")}
    assert files == {path.name for path in folder.iterdir()}
    with Image.open(folder / row["truth"]) as picture:
        assert picture.size == (6, 4)


def test_suspect_masks_are_a_part_of_their_own_and_drawn_once(tmp_path: Path) -> None:
    rows = filled([0.1, 0.2, 0.9]).write(tmp_path / "gallery", {}, ["0002", "unknown", "0000"])
    assert [row["image"] for row in rows if row["part"] == "suspect"] == ["0002", "0000"]
    assert len({row["truth"] for row in rows}) == 3
    assert len(list((tmp_path / "gallery").iterdir())) == 9
