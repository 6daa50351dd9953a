"""The resume state survives damage and crashes."""

from hashlib import sha256
from pathlib import Path

import pytest
import torch

from tests.builders import Heard
from unetseg.errors import BundleError
from unetseg.training.checkpoint import load_state, save_state


def test_round_trip(tmp_path: Path) -> None:
    save_state(tmp_path, {"step": 3, "weights": torch.arange(4.0), "rows": [{"a": 1.5}]})
    state = load_state(tmp_path)
    assert state["step"] == 3
    assert state["rows"] == [{"a": 1.5}]
    assert torch.equal(state["weights"], torch.arange(4.0))


@pytest.mark.row(11)
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete"])
def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    for step in (1, 2, 3):
        save_state(tmp_path, {"step": step})
    last = tmp_path / "last.pt"
    content = last.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    last.write_bytes({"flip": bytes(flipped), "truncate": content[:-9]}.get(damage, b""))
    heard = Heard()
    if damage == "delete":
        last.unlink()
        with pytest.raises(BundleError, match="no state to go on from"):
            load_state(tmp_path)
        return
    assert load_state(tmp_path, heard)["step"] == 2
    assert "damaged" in heard.said[0]


@pytest.mark.row(11)
def test_both_damaged_is_an_error_naming_both(tmp_path: Path) -> None:
    for step in (1, 2):
        save_state(tmp_path, {"step": step})
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BundleError, match="no state of") as error:
        load_state(tmp_path)
    assert len(error.value.offenders) == 2


@pytest.mark.row(1)
def test_a_crash_between_sum_and_state_loses_nothing(tmp_path: Path) -> None:
    save_state(tmp_path, {"step": 1})
    before = (tmp_path / "last.pt").read_bytes()
    save_state(tmp_path, {"step": 2})
    (tmp_path / "last.pt").write_bytes(before)  # the new sums are there, the rename is not
    assert load_state(tmp_path)["step"] == 1


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("__import__('pathlib').Path('ran').touch()",)


@pytest.mark.row(41)
def test_no_code_runs_from_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"step": Bomb()}, tmp_path / "last.pt")
    digest = sha256((tmp_path / "last.pt").read_bytes()).hexdigest()
    (tmp_path / "last.pt.sha256").write_text(digest)  # as an attacker would
    with pytest.raises(BundleError, match="no resume state"):
        load_state(tmp_path)
    assert not (tmp_path / "ran").exists()
