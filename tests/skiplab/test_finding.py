"""Findings on disk: table, sentences and pictures, in files that others can read."""

import csv
import json
import math
from pathlib import Path

from PIL import Image

from unetseg.skiplab.finding import MOST_ROWS, Finding, new_figure, publish


def strict(path: Path) -> dict[str, object]:
    """JSON as the standard has it: no Infinity, no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    content: dict[str, object] = json.loads(path.read_text(), parse_constant=refuse)
    return content


def test_a_finding_is_written_with_every_column_and_picture(tmp_path: Path) -> None:
    figure, axes = new_figure(3, 2)
    axes[0, 0].plot([0, 1], [0, 1])
    rows: list[dict[str, object]] = [{"level": 0, "dice": 0.5}, {"level": 1, "verdict": "idle"}]
    finding = Finding(tmp_path / "look", rows, "Seen.", "Meant.")
    assert publish(tmp_path / "look", "ablate", finding, {"picture": figure}, seed=3) is finding
    with (tmp_path / "look" / "ablate.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"level": "0", "dice": "0.5", "verdict": ""},
            {"level": "1", "dice": "", "verdict": "idle"},
        ]
    expected = {"seen": "Seen.", "meaning": "Meant.", "seed": 3, "rows": rows}
    assert strict(tmp_path / "look" / "ablate.json") == expected
    with Image.open(tmp_path / "look" / "picture.png") as picture:
        assert picture.size == (360, 240)
    assert {path.name[0] for path in (tmp_path / "look").iterdir()} == {"a", "p"}  # no leftovers


def test_numbers_without_end_are_null_in_json_and_kept_in_csv(tmp_path: Path) -> None:
    rows = [{"gradient": math.inf}, {"gradient": math.nan}]
    publish(tmp_path, "gradients", Finding(tmp_path, rows, "", ""), {})
    assert strict(tmp_path / "gradients.json")["rows"] == [{"gradient": None}] * 2
    assert (tmp_path / "gradients.csv").read_text().split() == ["gradient", "inf", "nan"]


def test_a_very_long_table_is_in_the_csv_only(tmp_path: Path) -> None:
    rows = [{"layer": number} for number in range(MOST_ROWS + 1)]
    publish(tmp_path, "gradients", Finding(tmp_path, rows, "", ""), {})
    assert "rows" not in strict(tmp_path / "gradients.json")
    assert len((tmp_path / "gradients.csv").read_text().splitlines()) == MOST_ROWS + 2
