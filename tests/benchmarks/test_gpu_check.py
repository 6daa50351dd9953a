"""The checks of a GPU run: small on a CPU, and those of its memory on one that is none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_check
from tests.card import fake_card

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes a minute, and nothing here is about it."""
    same: Callable[..., Any] = lambda graph, **how: graph  # noqa: E731
    monkeypatch.setattr(torch, "compile", same)


def results(capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([]) == 3
    told = capsys.readouterr().err
    assert "--device cuda: this machine or this torch has none" in told
    assert "--device cpu --quick" in told


@pytest.mark.slow
def test_a_dry_run_on_a_cpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path)
    monkeypatch.setattr("benchmarks.rounds.RESULTS", tmp_path)
    words = ["--device", "cpu", "--quick", "--save", "--name", "none"]
    code, found = gpu_check.main(words), results(capsys)
    assert code == 0, found
    assert list(found) == list(gpu_check.checks(quick=True))
    skipped = {title for title, (result, _) in found.items() if result == "SKIP"}
    assert {"batch trial", "steps in fp16"} < skipped
    assert not {"doctor", "masks, eager float32", "look-ahead", "speed, tiny"} & skipped
    written = (tmp_path / "gpu-none.md").read_text()
    assert "| doctor | PASS | nothing is wrong |" in written
    assert "| training, 2 × 64×64 | steps alone |" in written


@pytest.mark.slow
def test_a_gpu_that_is_short_of_memory(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_card(free=4 * 2**30):
        words = ["--device", "cuda", "--quick", "--only", "learns|trial|memory, pred|fused bf16"]
        code, found = gpu_check.main(words), results(capsys)
    assert code == 0, found
    assert {result for result, _ in found.values()} == {"PASS"}
    assert found["batch trial"][1].endswith("short of memory: 5")
    assert found["out of memory, prediction"][1].startswith("4 images in 2 parts, ")


def test_what_goes_wrong_stops_no_other_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(subject: gpu_check.Subject) -> str:
        raise ZeroDivisionError("so it is")

    def slow(subject: gpu_check.Subject) -> str:
        return gpu_check.expect(False, "3 images/s")

    def fine(subject: gpu_check.Subject) -> str:
        return "4 images/s"

    monkeypatch.setattr(
        gpu_check, "checks", lambda quick: {"broken": broken, "slow": slow, "fine": fine}
    )
    assert gpu_check.main(["--device", "cpu"]) == 1
    found = results(capsys)
    assert found["broken"] == ["FAIL", "ZeroDivisionError: so it is"]
    assert found["slow"] == ["FAIL", "3 images/s"]
    assert found["fine"] == ["PASS", "4 images/s"]
    assert gpu_check.main(["--device", "cpu", "--seconds", "-1"]) == 0
    assert results(capsys)["fine"] == ["SKIP", "no time is left"]


def test_the_peak_of_a_gpu_is_told_by_its_whole_name() -> None:
    assert gpu_check.peak_of("NVIDIA A100-SXM4-80GB") == 312
    assert gpu_check.peak_of("NVIDIA L40S") == 362
    assert gpu_check.peak_of("NVIDIA L40") is None
