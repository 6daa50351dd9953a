"""Which images most need a look: the expected Dice is the Dice that is expected."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.builders import CELLS, blotches, bundle_info, class_map, save_run
from unetseg.cli.app import run
from unetseg.data.files import image as image_file
from unetseg.prediction import stream
from unetseg.prediction.bands import OneBand
from unetseg.prediction.review import doubt_of
from unetseg.prediction.stream import Band


def doubt(cell: NDArray[Any], rows: int = 9, missing: int = 0) -> tuple[float, str]:
    """That in a prediction with these probabilities of cells, the first rows without data."""
    likely = np.stack([1 - cell, cell], axis=-1).astype(np.float32)
    index = (cell > 0.5).astype(np.uint8)
    likely[:missing], index[:missing] = np.nan, 255
    band = OneBand(Band(0, 0, index, [likely]))
    spans = [(top, min(top + rows, len(cell))) for top in range(0, len(cell), rows)]
    return doubt_of(band, spans, CELLS)


def test_doubt_is_one_less_the_dice_of_truths_drawn_from_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    cell = rng.beta(0.5, 0.9, (60, 70))
    found = cell > 0.5
    truths = rng.random((300, *cell.shape)) < cell
    dice = 2 * (truths & found).sum((1, 2)) / (truths.sum((1, 2)) + found.sum())
    score, why = doubt(cell)
    assert score == pytest.approx(1 - dice.mean(), abs=2e-3)
    assert f"expected Dice {dice.mean():.2f}" in why
    assert f"{(np.maximum(cell, 1 - cell) < 0.75).mean():.1%} of the pixels" in why
    assert doubt(np.concatenate([np.ones((9, 70)), cell]), missing=9)[0] == pytest.approx(score)


def test_where_nothing_is_found_the_likeliest_pixel_counts() -> None:
    cell = np.full((20, 20), 0.01)
    cell[3, 4] = 0.4
    score, why = doubt(cell)
    assert score == pytest.approx(0.4)
    assert why == "nothing found; the likeliest pixel has 0.40"


@pytest.mark.long
def test_predict_ranks_images_also_those_that_were_there_and_large_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = class_map(0, 1)
    trained = save_run(tmp_path / "run", bundle_info(classes=classes, tile=64))
    (tmp_path / "in").mkdir()
    for seed in range(4):
        image = blotches(70, 60, seed=seed) // (seed + 1)
        Image.fromarray(image).save(tmp_path / "in" / f"{seed}.png")
    words = ["predict", str(trained), str(tmp_path / "in"), "--device", "cpu"]
    words += ["--precision", "float32", "--existing", "skip", "-o"]

    def ranked(out: str, most: str) -> list[dict[str, str]]:
        assert run([*words, str(tmp_path / out), "--review", most]) == 0
        with (tmp_path / out / "review.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    assert run([*words, str(tmp_path / "out")]) == 0  # without: they are predicted again
    rows = ranked("out", "3")
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    told = capsys.readouterr().out
    assert all(f"{row['image']}: {row['why']}" in told for row in rows)
    assert [row["image"] for row in ranked("out", "9")][:3] == [row["image"] for row in rows]
    assert "there already: 4 masks" in capsys.readouterr().out
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0)
    monkeypatch.setattr(stream, "PIECE_PIXELS", 1500)
    assert ranked("bands", "3") == rows
