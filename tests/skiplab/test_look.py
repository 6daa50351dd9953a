"""A look: images fitted to another's size; results in files that others can read."""

import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unetseg.skiplab.look import MOST_ROWS, Result, View, fitted, new_figure, publish


@pytest.mark.parametrize(("height", "width"), list(itertools.product((6, 7), (9, 10))))
def test_a_view_fitted_to_its_own_size_is_itself(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    view = View("a", image, np.zeros((height, width), np.uint8), torch.zeros(1, 2, 3))
    assert torch.equal(fitted(view, height, width), view.tensor)


def test_a_larger_size_is_filled_with_the_mirror_image() -> None:
    image = np.arange(4, dtype=np.uint8).reshape(1, 4, 1).repeat(4, axis=0)
    view = View("a", image, np.zeros((4, 4), np.uint8), torch.zeros(1, 2, 1))
    assert fitted(view, 4, 8)[0, 0, 0].tolist() == [2, 1, 0, 1, 2, 3, 2, 1]


def strict(path: Path) -> dict[str, object]:
    """JSON as the standard has it: no Infinity, no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    content: dict[str, object] = json.loads(path.read_text(), parse_constant=refuse)
    return content


def test_a_result_is_written_with_every_column_and_picture(tmp_path: Path) -> None:
    figure, axes = new_figure(3, 2)
    axes[0, 0].plot([0, 1], [0, 1])
    rows: list[dict[str, object]] = [{"level": 0, "dice": 0.5}, {"level": 1, "verdict": "idle"}]
    result = Result(tmp_path / "look", rows, [], "How to read it.")
    assert publish(result, "ablate", {"picture": figure}, seed=3) is result
    with (tmp_path / "look" / "ablate.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"level": "0", "dice": "0.5", "verdict": ""},
            {"level": "1", "dice": "", "verdict": "idle"},
        ]
    expected = {"caption": "How to read it.", "seed": 3, "rows": rows}
    assert strict(tmp_path / "look" / "ablate.json") == expected
    with Image.open(tmp_path / "look" / "picture.png") as picture:
        assert picture.size == (360, 240)
    assert {path.name[0] for path in (tmp_path / "look").iterdir()} == {"a", "p"}  # no leftovers


def test_numbers_without_end_are_null_in_json_and_kept_in_csv(tmp_path: Path) -> None:
    rows = [{"gradient": math.inf}, {"gradient": math.nan}]
    publish(Result(tmp_path, rows, [], ""), "gradients", {})
    assert strict(tmp_path / "gradients.json")["rows"] == [{"gradient": None}] * 2
    assert (tmp_path / "gradients.csv").read_text().split() == ["gradient", "inf", "nan"]


def test_a_very_long_table_is_in_the_csv_only(tmp_path: Path) -> None:
    rows = [{"layer": number} for number in range(MOST_ROWS + 1)]
    publish(Result(tmp_path, rows, [], ""), "gradients", {})
    assert "rows" not in strict(tmp_path / "gradients.json")
    assert len((tmp_path / "gradients.csv").read_text().splitlines()) == MOST_ROWS + 2
