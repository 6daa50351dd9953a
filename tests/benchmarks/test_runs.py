import json
from typing import Any

import pytest

from benchmarks import forward_pass, memory, predict_folder, scaling, service, train_steps
from benchmarks.predict_folder import Case

pytestmark = pytest.mark.slow


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return result


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_prediction_is_measured_and_its_masks_are_equal(
    suffix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predict_folder, "QUICK", [Case("base16", 128, 160, suffix, 6)])
    monkeypatch.setattr(predict_folder, "TURN", 0.3)
    predict_folder.main(["--quick", "--seconds", "3", "--rounds", "3"])
    found = last_line(capsys)
    assert found["ratio_plain"] > 1
    assert found["equal_pixels"] > 0.99
    assert found["compared_images"] >= predict_folder.FEW
    assert found["engine"] in {"eager", "fused", "compile", "openvino"}
    ends = found["end_to_end"]
    assert ends["ratio_flags"] == pytest.approx(ends["flags"] / ends["ours"], abs=0.01)


def test_training_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    train_steps.main(["--network", "base16", "--rounds", "2"])
    found = last_line(capsys)
    assert found["rounds"] == 2
    assert found["crops_per_second"]["ours"] > 0


def test_ours_learns_what_the_script_learns(capsys: pytest.CaptureFixture[str]) -> None:
    train_steps.main(["--curves", "--steps", "40"])
    found = last_line(capsys)
    noise = found["plain, other first weights"]["distance"]
    assert found["ours, float32"]["distance"] < 0.1 * noise
    assert found["ours"]["distance"] < noise


def test_the_forward_pass_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--height", "128", "--width", "128", "--network", "base16"]
    forward_pass.main([*size, "--engine", "auto", "--engine", "eager", "--rounds", "2"])
    found = last_line(capsys)
    assert set(found["contenders"]) == {"auto", "eager", "plain", "flags"}
    assert found["share_of_product"] > 0


def test_growth_with_cores_workers_and_sizes_is_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = ["--cores", "1", "--workers", "0", "1", "--sides", "64", "128"]
    scaling.main([*few, "--network", "base16", "--rounds", "2"])
    found = last_line(capsys)
    assert found["predict"]["seconds"]["1 core"] > found["forward"]["seconds"]["1 core"]
    assert set(found["workers"]["seconds"]) == {"0 processes", "1 processes"}
    assert found["sizes"]["times_as_fast"]["64²"]["median"] == 1


def test_memory_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    memory.main(["--network", "base16", "--sides", "128", "--batches", "2"])
    found = last_line(capsys)
    (predicting,), (training,) = found["predict"], found["train"]
    assert predicting["megabytes"] > found["torch_megabytes"]
    assert training["checkpointing"] <= training["ours"]


def test_a_service_answers_right_and_tells_its_memory(capsys: pytest.CaptureFixture[str]) -> None:
    service.main(["--minutes", "0.2", "--threads", "2"])
    found = last_line(capsys)
    assert found["wrong"] == 0
    assert found["right"] > found["refused"] > 0
    assert len(found["megabytes"]) == len(service.MOMENTS)
