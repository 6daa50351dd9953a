import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.contenders import Contender, ContenderError, InTurns, NoMoreOrders, contenders

SLEEPER = """
import time
from benchmarks.contenders import serve
serve(lambda units: (time.sleep(0.02 * units), print("at any time")), engine="sleep")
"""


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    monkeypatch.chdir(tmp_path)
    return "sleeper"


def test_a_contender_works_when_told_and_says_how_long_a_unit_took(sleeper: str) -> None:
    with contenders({"one": [sleeper], "other": [sleeper]}) as them:
        assert them["one"].facts == {"engine": "sleep"}
        for contender in them.values():
            contender.units = 3
            assert 0.02 <= contender.go() < 0.2


def test_warming_up_chooses_turns_of_about_the_time_asked_for(sleeper: str) -> None:
    with contenders({"one": [sleeper]}) as them:
        assert 2 <= them["one"].warm_up(0.1).units <= 5
        assert them["one"].warm_up(0.1, most=2).units == 2
        assert them["one"].warm_up(0.001, first=3).units == 1


def test_a_contender_that_ends_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ContenderError, match="nobody ended with 3"):
        Contender("nobody", ["gone"])


def test_a_training_goes_on_only_as_long_as_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.contenders.Orders", FakeOrders)
    progress = InTurns()
    progress.start("reading")
    progress.advance("reading")
    progress.start("training")
    for _ in range(4):
        progress.advance("training")
    with pytest.raises(NoMoreOrders):
        progress.advance("training")
    assert FakeOrders.answers == 2


class FakeOrders:
    """Two orders, of two and three steps."""

    answers = 0

    def __init__(self) -> None:
        self._units = iter([2, 3])

    def next(self) -> int | None:
        return next(self._units, None)

    def answer(self, *, seconds: float) -> None:
        assert seconds >= 0
        FakeOrders.answers += 1


@pytest.mark.long
def test_the_plain_scripts_import_nothing_of_ours() -> None:
    root = Path(__file__).parents[2]
    code = "import sys, benchmarks.baseline, benchmarks.workers; print(*sys.modules)"
    words = [sys.executable, "-c", code]
    modules = subprocess.run(words, cwd=root, check=True, capture_output=True, text=True).stdout
    assert "torch" in modules.split()
    assert not [name for name in modules.split() if name.split(".")[0] == "unetseg"]
