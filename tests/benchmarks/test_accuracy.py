"""The table of recipes: what is a gain and what is noise, and that a cell is done once."""

import math
from pathlib import Path

import pytest

from benchmarks import accuracy
from benchmarks.accuracy import Cell, Table, compare, gain, read_table, write_table


def cell(recipe: str, data: str, seed: int) -> Cell:
    return Cell(recipe, "", data, 60.0, seed, "CPU")


def table(scores: dict[str, list[list[float]]]) -> Table:
    """Recipe → data set → seed → Dice; the mean IoU is half of it."""
    return {
        cell(recipe, f"set{number}", seed): {"dice": dice, "iou": dice / 2, "steps": 10}
        for recipe, sets in scores.items()
        for number, seeds in enumerate(sets)
        for seed, dice in enumerate(seeds)
    }


def test_a_gain_is_the_mean_of_paired_differences_with_students_interval() -> None:
    found = gain(table({"a": [[0.5, 0.52]], "b": [[0.6, 0.64]]}), "a", "b", "dice")
    assert found["mean"] == pytest.approx(0.11)
    # two differences, .10 and .12: s = .01414, s / √2 = .01, t(1 degree, 97.5%) = 12.706
    assert found["half"] == pytest.approx(0.12706, abs=1e-5)
    # variances .0002 and .0008: a spread of √.0005 = .02236, times √(2/2)
    assert found["noise"] == pytest.approx(0.02236, abs=1e-5)
    assert found["cells"] == 2


def test_a_gain_that_seeds_alone_could_make_is_called_none() -> None:
    scores = {"a": [[0.5, 0.6], [0.7, 0.8]], "b": [[0.51, 0.61], [0.71, 0.81]]}
    assert "+0.0100 ± 0.0000 (none)" in "\n".join(compare(table(scores))[0])
    scores["b"] = [[0.7, 0.8], [0.9, 1.0]]
    lines = "\n".join(compare(table(scores))[0])
    assert "+0.2000 ± 0.0000 |" in lines
    assert "none" not in lines


def test_only_cells_of_equal_data_set_and_seed_are_compared() -> None:
    known = table({"a": [[0.5, 0.5]], "b": [[0.6, 0.6]]})
    del known[cell("a", "set0", 1)]
    assert gain(known, "a", "b", "dice")["cells"] == 1
    assert math.isnan(gain(known, "a", "b", "dice")["half"])


def test_a_finished_cell_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Cell] = []

    def train(cell: Cell, _: Path) -> dict[str, object]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(cell)
        return {"dice": 0.5, "iou": 0.4, "steps": 3}

    monkeypatch.setattr(accuracy, "train", train)
    given = ["data", "--sets", "x,y", "--recipe", "default", "--recipe", "thin=--width 4"]
    given += ["--budget", "1m", "--seeds", "1", "--table", str(tmp_path / "table.jsonl")]
    with pytest.raises(KeyboardInterrupt):
        accuracy.main(given)
    kept = read_table(tmp_path / "table.jsonl")
    assert [(one.recipe, one.data) for one in kept] == [
        ("default", "x"),
        ("thin", "x"),
        ("default", "y"),
    ]
    del done[:2]
    accuracy.main(given)
    assert [(one.recipe, one.flags, one.data) for one in done[1:]] == [("thin", "--width 4", "y")]


def test_the_table_on_disk_is_the_table(tmp_path: Path) -> None:
    known = table({"a": [[0.5, 0.52]], "b": [[0.6, 0.64]]})
    write_table(tmp_path / "table.jsonl", known)
    assert read_table(tmp_path / "table.jsonl") == known
    assert read_table(tmp_path / "none.jsonl") == {}
