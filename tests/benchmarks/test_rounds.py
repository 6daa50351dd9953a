import doctest
import json
import re

import numpy as np
import pytest

from benchmarks import rounds
from benchmarks.rounds import (
    machine_lines,
    paired_ratio,
    ratio_text,
    ratios,
    report,
    spread,
)


def test_the_examples_hold() -> None:
    assert doctest.testmod(rounds).failed == 0


def test_spread_is_what_numpy_calls_quartiles() -> None:
    values = np.random.default_rng(0).lognormal(size=11).tolist()
    found = spread(values)
    expected = np.quantile(values, [0.5, 0.25, 0.75])
    np.testing.assert_allclose([found.median, found.low, found.high], expected)


def test_a_machine_that_slows_down_for_all_changes_no_ratio() -> None:
    slowness = np.linspace(1, 5, 9)
    ratio = paired_ratio((2 * slowness).tolist(), (7 * slowness).tolist())
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((3.5, 3.5, 3.5))


def test_rounds_of_different_number_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_ratio([1.0, 2.0], [1.0])


def test_ratios_and_their_text() -> None:
    told = ratios({"ours": [1.0, 1.0, 2.0], "plain": [4.0, 6.0, 16.0], "flags": [1.0, 1.0, 2.0]})
    assert told["ratio_plain"] == 6.0
    assert told["ratio_flags"] == 1.0
    assert ratio_text(told, "plain") == "6.00 (5.00–7.00)"


def test_the_machine_is_named() -> None:
    first, second = machine_lines()
    assert re.match(r"\d{4}-\d\d-\d\d · .+, \d+ cores?$", first)
    assert "torch" in second


def test_the_last_line_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    report("nothing", "Nothing", ["a table"], {"ratio_plain": 6.1}, write=False)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"ratio_plain": 6.1}
