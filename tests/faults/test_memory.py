"""Trainings that run out of memory: the batch goes in parts, or the user is told what would fit."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.builders import Heard
from unetseg.config import NetworkConfig, RuntimeConfig, TrainConfig, TrainingConfig
from unetseg.data.crops.dataset import Sample
from unetseg.errors import OutOfMemoryError
from unetseg.training.checkpoint import load_state
from unetseg.training.fit import train
from unetseg.training.learner import Learner

SHORT = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
)


def settings(batch: int | str = "auto", accumulate: int = 1, epochs: int = 3) -> TrainConfig:
    """A training of a second or two; where batch is auto, of 8 crops a step."""
    training = {"epochs": epochs, "batch": batch, "accumulate": accumulate, "patch": 64}
    return TrainConfig(
        network=NetworkConfig(depth=2, width=4, norm="group"),
        training=TrainingConfig.model_validate(training),
        runtime=RuntimeConfig(device="cpu", workers=0, precision="float32"),
    )


def limit(patch: pytest.MonkeyPatch, most: int, error: Exception, after: int = 3) -> list[int]:
    """From a part of a step on, memory ends in the loss of more crops; what was asked for."""
    honest, asked = Learner.loss_of, list[int]()

    def loss_of(self: Learner, part: Sample) -> Tensor:
        asked.append(len(part.mask))
        loss = honest(self, part)
        if len(asked) > after and asked[-1] > most:
            raise error
        return loss

    patch.setattr(Learner, "loss_of", loss_of)
    return asked


def weights(run: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_state(run)["weights"]
    return state


@pytest.mark.row(17)
@pytest.mark.long
@pytest.mark.parametrize("error", SHORT)
def test_a_batch_that_was_left_open_goes_in_parts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    expected = train(data, settings(4, accumulate=2), out=tmp_path, name="expected")
    heard = Heard()
    with monkeypatch.context() as patch:
        asked = limit(patch, 4, error, after=0)
        run = train(data, settings(), out=tmp_path, name="run", progress=heard)
    assert set(asked[1:]) == {4}
    ours, theirs = weights(run), weights(expected)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    [line] = [line for line in heard.said if "memory" in line]
    assert line == (
        "warning: memory ran out with 8 crops at once; every step is still on 8, but in 2 parts"
    )


@pytest.mark.row(17)
@pytest.mark.long
def test_a_resumed_training_keeps_the_parts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        limit(patch, 2, MemoryError())
        run = train(data, settings(), out=tmp_path, name="run")
        whole = train(data, settings(epochs=5), out=tmp_path, name="whole")
    plan = json.loads((run / "plan.json").read_text())
    assert (plan["batch"], plan["parts"]) == (8, 4)
    assert plan["reasons"]["parts"] == "memory ran out with 4 crops at once: in 4 parts"
    with monkeypatch.context() as patch:
        asked = limit(patch, 8, MemoryError())
        train(data, settings(epochs=5), out=tmp_path, name="run", resume=True)
    assert set(asked) == {2}
    assert load_state(run)["step"] == load_state(whole)["step"]


@pytest.mark.row(17)
@pytest.mark.long
@pytest.mark.parametrize("batch", [6, "auto"])
def test_what_would_fit_is_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int | str
) -> None:
    """A batch that was set stays; of one crop no part can be made."""
    limit(monkeypatch, 0, MemoryError(), after=0)
    with pytest.raises(OutOfMemoryError, match="does not fit in memory") as error:
        train(data, settings(batch), out=tmp_path, name="run")
    assert error.value.exit_code == 7
    fewer = "--batch 3 --accumulate 2, which learns as much in a step, or " if batch == 6 else ""
    assert error.value.fix == f"Choose {fewer}a smaller --patch or --width."
    assert not (tmp_path / "run").exists()


@pytest.mark.row(17)
def test_other_errors_are_no_lack_of_memory(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, 4, RuntimeError("a bug"), after=0)
    with pytest.raises(RuntimeError, match="a bug"):
        train(data, settings(), out=tmp_path, name="run")


@pytest.mark.row(17)
@pytest.mark.long
def test_an_encoder_for_whose_two_crops_there_is_no_memory(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss_of(_: Learner, part: Sample) -> Tensor:
        if len(part.mask) == 1:
            raise ValueError("Expected more than 1 value per channel when training")
        raise MemoryError

    monkeypatch.setattr(Learner, "loss_of", loss_of)
    with pytest.raises(OutOfMemoryError, match="two crops, which this encoder needs"):
        train(data, settings(), out=tmp_path, name="run")
