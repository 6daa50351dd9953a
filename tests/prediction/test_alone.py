"""Work in a process apart: its answers, and its end."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from unetseg.errors import ConfigError, MachineError
from unetseg.prediction import alone
from unetseg.prediction.alone import each_alone


def end_on(deadly: int) -> Callable[[Any], Any]:
    """Doubles numbers, with prints; at `deadly` it ends its process, at -1 it refuses."""

    def double(number: int) -> object:
        print("what a library prints")  # noqa: T201
        if number == -1:
            raise ConfigError("expected numbers from 0 on", [number])
        if number == deadly:
            os.kill(os.getpid(), signal.SIGSEGV)
        return os.getpid(), 2 * number

    return double


def refuse() -> Callable[[int], object]:
    """Cannot begin."""
    raise ConfigError("there is no model")


@pytest.mark.long
def test_each_item_has_its_answer_and_a_new_process_follows_one_that_ended() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for number in (1, 2, 3, 4):
            asked.append(number)
            yield number

    with closing(each_alone(partial(end_on, 2), items())) as answers:
        told: list[Any] = list(answers)
    (first, two), ended, (second, six), (third, eight) = told
    assert (two, ended, six, eight) == (2, "SIGSEGV", 6, 8)
    assert len({first, second, os.getpid()}) == 3
    assert second == third
    assert asked == [1, 2, 3, 4]


@pytest.mark.long
def test_errors_come_whole_and_no_process_stays() -> None:
    answers = each_alone(partial(end_on, 2), [1, -1, 3])
    process = int(next(answers)[0])
    with pytest.raises(ConfigError, match="expected numbers from 0 on") as caught:
        next(answers)
    assert caught.value.offenders == ["-1"]
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(ConfigError, match="there is no model"):
        list(each_alone(refuse, [1]))


def test_a_process_that_cannot_begin_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "COMMAND", [sys.executable, "-c", "raise SystemExit(9)"])
    with pytest.raises(MachineError, match="a process of its own ended: exit code 9"):
        list(each_alone(partial(end_on, 2), [b"x" * 10_000_000]))  # more than a pipe holds
