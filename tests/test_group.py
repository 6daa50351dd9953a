"""Laws of a group: what one fails at all raise, sums are exact, who is alone waits for nobody."""

import os
import signal

import pytest
import torch

from tests.in_group import in_group
from unetseg.errors import DataError, MachineError
from unetseg.group import ALONE, Group, joined_group

BIG = 2**53 + 1
"""A number that floats round."""


def test_who_was_started_alone_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # as some machines have it for other purposes
    with joined_group(gpu=True) as group:
        assert group == ALONE
    assert ALONE.first(lambda: 3) == ALONE.together(lambda: 3) == 3
    assert ALONE.largest(1, 2.5) == [1, 2.5]
    assert ALONE.sum(torch.tensor([BIG])).item() == BIG


@pytest.mark.long
def test_a_group_agrees() -> None:
    def fail() -> int:
        raise DataError("no such image", ["a.png"])

    def agree(group: Group) -> dict[str, object]:
        shared = torch.full((2,), float(group.rank))
        group.share([shared])
        told = []
        for way, worker in ((group.first, 0), (group.together, 2)):
            try:
                way(fail if group.rank == worker else lambda: 0)
            except DataError as error:
                told.append((str(error), error.told))
        return {
            "first": group.first(lambda: group.rank + 10),
            "largest": group.largest(group.rank, -group.rank),
            "any": [group.any(group.rank == 1), group.any(False)],
            "sum": group.sum(torch.tensor([BIG, group.rank])).tolist(),
            "shared": shared.tolist(),
            "told": told,
        }

    def joined() -> dict[str, object]:
        with joined_group(gpu=False) as group:
            return agree(group)

    answers = in_group(3, joined)
    for rank, answer in enumerate(answers):
        said = ("no such image\n  - a.png", rank > 0)
        assert answer == {
            "first": 10,
            "largest": [2, 0],
            "any": [True, False],
            "sum": [3 * BIG, 3],
            "shared": [0, 0],
            "told": [said, said],
        }


@pytest.mark.row(6)
@pytest.mark.long
def test_who_has_lost_another_says_so() -> None:
    def lose() -> list[float]:
        with joined_group(gpu=False) as group:
            if group.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return group.largest(0.0)

    survivor, killed = in_group(2, lose)
    assert isinstance(killed, EOFError)
    assert isinstance(survivor, MachineError)
    assert "or one has ended" in survivor.summary
