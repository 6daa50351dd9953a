"""Laws of trials: the largest batch that fits is found, and nothing is left behind."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unetseg.config import NetworkConfig, TrainConfig, TrainingConfig
from unetseg.data.crops.dataset import Sample
from unetseg.data.facts.survey import Survey, survey
from unetseg.data.sample import draw_sample
from unetseg.runtime import MEBIBYTE, Machine
from unetseg.training import trial
from unetseg.training.learner import Learner
from unetseg.training.losses import SegmentationLoss
from unetseg.training.plan import make_plan
from unetseg.training.trial import (
    compile_step,
    largest_batch,
    random_crops,
    rehearse,
    step_memory,
    tried_plan,
)
from unetseg.unet.build import build_unet
from unetseg.unet.segmenter import Normalisation, Segmenter

CPU = Machine(torch.device("cpu"), torch.bfloat16, "CPU")


@dataclass(frozen=True)
class Card(Machine):
    """A GPU of so much memory, to be looked at only."""

    memory: int = 0

    def free_memory(self) -> int:
        return self.memory


@given(each=st.integers(1, 1000), most=st.integers(1, 40), memory=st.integers(1, 20_000))
def test_the_largest_batch_is_found(each: int, most: int, memory: int) -> None:
    tried: list[int] = []

    def needed(batch: int) -> int:
        tried.append(batch)
        if batch * each > memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch * each

    fits = [n for n in range(1, most + 1) if n * each <= 0.9 * memory]
    batch, reason = largest_batch(needed, memory, most)
    assert batch == max(fits, default=1)
    assert ("not even" in reason) == (not fits)
    assert len(tried) == len(set(tried)) <= 12
    assert max(tried) <= most


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def needed(batch: int) -> int:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        largest_batch(needed, 1000, 8)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    return survey(draw_sample(tmp_path_factory.mktemp("trial") / "cells", count=6, size=64))


SMALL = TrainConfig(network=NetworkConfig(depth=2, width=4), training=TrainingConfig(patch=32))


def test_a_gpu_that_holds_nine_crops_gets_nine(
    cells: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card(torch.device("cuda"), torch.bfloat16, "GPU", 1000 * MEBIBYTE)
    monkeypatch.setattr(trial, "free_memory", lambda device: None)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: torch.no_grad())
    monkeypatch.setattr(trial, "step_memory", lambda batch, *_: batch * 100 * MEBIBYTE)
    plan = tried_plan(make_plan(cells, SMALL, card), cells, SMALL, card)
    assert plan.batch == 9
    assert plan.reasons["batch"] == "tried: a step on 9 crops takes 900 of 1000 MiB that are free"
    wanted = SMALL.training.model_copy(update={"batch": 9})
    other = make_plan(cells, SMALL.model_copy(update={"training": wanted}), card)
    assert plan.model_copy(update={"reasons": {}}) == other.model_copy(update={"reasons": {}})


def test_nothing_is_tried_where_the_batch_is_set_or_the_device_no_gpu(cells: Survey) -> None:
    card = Card(torch.device("cuda"), torch.bfloat16, "GPU", 1000 * MEBIBYTE)
    chosen = SMALL.training.model_copy(update={"batch": 3})
    config = SMALL.model_copy(update={"training": chosen})
    for settings, machine in ((SMALL, CPU), (config, card)):
        plan = make_plan(cells, settings, machine)
        assert tried_plan(plan, cells, settings, machine) is plan


@pytest.mark.long
def test_a_step_is_tried_with_everything_that_a_training_has(
    cells: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, with a counter of memory that tells the largest tensor instead."""
    largest: list[int] = []
    step = Learner.step

    def watched(self: Learner, batch: Sample, number: int, factor: float) -> Tensor:
        largest.append(batch.image.nbytes)
        return step(self, batch, number, factor)

    monkeypatch.setattr(Learner, "step", watched)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: max(largest))
    config = SMALL.model_copy(update={"training": TrainingConfig(patch=32, accumulate=2)})
    plan = make_plan(cells, config, CPU)
    assert step_memory(3, plan, cells, config, CPU) == 3 * 2 * plan.bands * 32**2
    assert len(largest) == 2


def learner() -> Learner:
    torch.manual_seed(0)
    network = build_unet(NetworkConfig(depth=2, width=4, skip=("switch",)), bands=3, classes=2)
    normalisation = Normalisation(kind="dataset", mean=(120.0,) * 3, std=(60.0,) * 3)
    segmenter = Segmenter(network, normalisation).train()
    return Learner(segmenter, SegmentationLoss(), TrainingConfig(), 0.01, CPU)


def left(of: Learner) -> bytes:
    """A sum of everything that a rehearsal could leave behind."""
    state = of.state()
    tensors = [*state["weights"].values(), *state["average"].values(), torch.get_rng_state()]
    gradients = [parameter.grad for parameter in of.segmenter.parameters()]
    content = [[tensor.tolist() for tensor in tensors], gradients, state["optimizer"]["state"]]
    return sha256(repr(content).encode()).digest()


def test_a_rehearsal_leaves_no_trace(cells: Survey) -> None:
    tried, crops = learner(), random_crops(2, make_plan(cells, SMALL, CPU), classes=2)
    before = left(tried)
    rehearse(tried, crops)
    assert left(tried) == before


@pytest.mark.parametrize("when", ["at once", "later"])
def test_without_a_compiler_the_step_stays_as_it_was(
    cells: Survey, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def broken(function: Callable[[Sample], Tensor], dynamic: bool) -> Any:
        if when == "at once":
            raise ImportError("no module named triton")

        def late(part: Sample) -> Tensor:
            function(part)
            raise RuntimeError("InvalidCxxCompiler: no compiler\nSet CXX.")

        return late

    monkeypatch.setattr(torch, "compile", broken)
    tried, crops = learner(), random_crops(2, make_plan(cells, SMALL, CPU), classes=2)
    before = left(tried)
    problem = compile_step(tried, crops)
    expected = {"at once": "no module named triton", "later": "InvalidCxxCompiler: no compiler"}
    assert problem == expected[when]
    assert tried.objective == tried.loss_of
    assert left(tried) == before


@pytest.mark.long
@pytest.mark.filterwarnings("default::DeprecationWarning")  # torch's own, inside torch.compile
def test_compiled_steps_move_the_weights_alike(
    cells: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and differentiated as for compiling, then run as it is: compiling takes minutes."""
    compiler = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, dynamic: compiler(f, dynamic=dynamic, backend="aot_eager")
    )
    batch = random_crops(2, make_plan(cells, SMALL, CPU), classes=2)
    eager, compiled = learner(), learner()
    assert compile_step(compiled, batch) is None
    assert compiled.objective != compiled.loss_of
    for each in (eager, compiled):
        torch.manual_seed(1)
        each.step(batch, 0, 1.0)
    ours, theirs = (each.state()["weights"] for each in (compiled, eager))
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-3)
