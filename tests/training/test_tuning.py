"""Laws of what is tried: the largest batch that fits, the network for a budget, and no trace."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.builders import bundle_info, random_segmenter
from unetseg.config import NetworkConfig, TrainConfig, TrainingConfig
from unetseg.data.crops.dataset import Sample
from unetseg.data.facts import survey as survey_file
from unetseg.data.facts.survey import Survey, survey
from unetseg.data.files.pages import MaskPath
from unetseg.data.masks.mask_file import RawMask, read_mask
from unetseg.data.sample import draw_sample
from unetseg.errors import ConfigError, OutOfMemoryError
from unetseg.resources import MEBIBYTE
from unetseg.runtime import Machine
from unetseg.training import tuning
from unetseg.training.learner import Learner
from unetseg.training.losses import SegmentationLoss
from unetseg.training.optimizer import build_optimizer
from unetseg.training.plan import Plan, make_plan
from unetseg.training.tuning import (
    compile_step,
    largest_batch,
    random_crops,
    rehearse,
    step_memory,
    tried_plan,
)
from unetseg.unet.segmenter import memory_fix

BF16 = Machine(torch.device("cpu"), torch.bfloat16, "CPU")


@dataclass(frozen=True)
class Card(Machine):
    """A GPU of so much memory, to be looked at only."""

    memory: int = 0

    def free_memory(self) -> int:
        return self.memory


@pytest.mark.row(17)
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


@pytest.mark.row(17)
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
    card = Card(torch.device("cuda"), torch.bfloat16, "GPU", memory=1000 * MEBIBYTE)
    monkeypatch.setattr(tuning, "free_memory", lambda device: None)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: torch.no_grad())
    monkeypatch.setattr(tuning, "step_memory", lambda batch, *_: batch * 100 * MEBIBYTE)
    plan = tried_plan(make_plan(cells, SMALL, card), cells, SMALL, card)
    assert plan.batch == 9
    assert plan.reasons["batch"] == "tried: a step on 9 crops takes 900 of 1000 MiB that are free"
    wanted = SMALL.training.model_copy(update={"batch": 9})
    other = make_plan(cells, SMALL.model_copy(update={"training": wanted}), card)
    assert plan.model_copy(update={"reasons": {}}) == other.model_copy(update={"reasons": {}})


def test_nothing_is_tried_where_the_batch_is_set_or_the_device_no_gpu(cells: Survey) -> None:
    card = Card(torch.device("cuda"), torch.bfloat16, "GPU", memory=1000 * MEBIBYTE)
    chosen = SMALL.training.model_copy(update={"batch": 3})
    config = SMALL.model_copy(update={"training": chosen})
    for settings, machine in ((SMALL, BF16), (config, card)):
        plan = make_plan(cells, settings, machine)
        assert tried_plan(plan, cells, settings, machine) is plan


@pytest.mark.parametrize(
    ("budget", "width", "augment"),
    [
        (60, 8, "light"),
        (750, 8, "full"),
        (850, 16, "full"),
        (9000, 16, "full"),
        (13_000, 24, "full"),
        (9e9, 32, "full"),
    ],
)
def test_a_budget_gets_the_widest_network_that_it_has_steps_for(
    cells: Survey, monkeypatch: pytest.MonkeyPatch, budget: float, width: int, augment: str
) -> None:
    """A step takes width / 8 seconds; 80% of a budget goes into steps."""

    def seconds(plan: Plan, *_: object) -> float:
        assert isinstance(plan.network.width, int)
        return plan.network.width / 8

    monkeypatch.setattr(tuning, "step_seconds", seconds)
    many = TrainingConfig(patch=32, budget=budget, batch=2)
    config = TrainConfig(network=NetworkConfig(depth=2), training=many)
    plan = tried_plan(make_plan(cells, config, BF16), cells, config, BF16)
    assert plan.network.width == width
    steps = 0.8 * budget / (width / 8)
    assert plan.reasons["width"].startswith(f"about {steps:.0f} steps fit in the budget")
    epochs = steps * plan.batch / sum(plan.repeats)
    assert plan.augment == ("light" if epochs < 15 else "full") == augment
    set_by_hand = config.model_copy(
        update={
            "network": NetworkConfig(depth=2, width=20),
            "training": many.model_copy(update={"augment": "full"}),
        }
    )
    plan = tried_plan(make_plan(cells, set_by_hand, BF16), cells, set_by_hand, BF16)
    assert (plan.network.width, plan.augment) == (20, "full")


@pytest.mark.parametrize(("budget", "depth", "width"), [(60, 3, 8), (13_000, 3, 24), (9e9, 4, 32)])
def test_a_budget_gets_the_largest_network_that_it_has_steps_for(
    cells: Survey, monkeypatch: pytest.MonkeyPatch, budget: float, depth: int, width: int
) -> None:
    def seconds(plan: Plan, *_: object) -> float:
        tried.append((plan.network.depth, plan.network.width))
        return len(tried)

    tried: list[tuple[object, object]] = []
    monkeypatch.setattr(tuning, "step_seconds", seconds)
    config = TrainConfig(training=TrainingConfig(patch=128, budget=budget))
    plan = tried_plan(make_plan(cells, config, BF16), cells, config, BF16)
    assert (plan.network.depth, plan.network.width) == (depth, width)
    assert tried == [*tuning.SIZES][: len(tried)]


@pytest.mark.parametrize(
    "network",
    [
        NetworkConfig(encoder="resnet18"),
        NetworkConfig(encoder="resnet18", depth=4),
        NetworkConfig(widths=(4, 8), depth=1),
        NetworkConfig(preset="classic"),
    ],
)
def test_a_budget_leaves_a_network_that_is_set(
    cells: Survey, monkeypatch: pytest.MonkeyPatch, network: NetworkConfig
) -> None:
    monkeypatch.setattr(tuning, "step_seconds", lambda *_: 1.0)
    config = TrainConfig(network=network, training=TrainingConfig(budget=60.0))
    plan = make_plan(cells, config, BF16)
    assert tried_plan(plan, cells, config, BF16).network == plan.network


def test_masks_are_looked_at_once_for_all_plans(
    cells: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[MaskPath] = []

    def read(path: MaskPath, limit: int | None) -> RawMask:
        looked_at.append(path)
        return read_mask(path, limit)

    monkeypatch.setattr(survey_file, "read_mask", read)
    known = replace(cells)
    for _ in range(2):
        make_plan(known, SMALL, BF16)
    assert looked_at == [pair.mask for pair in known.select("train")]


def test_a_trial_of_steps_leaves_the_random_numbers_as_they_are(cells: Survey) -> None:
    plan = make_plan(cells, SMALL, BF16)
    before = torch.get_rng_state()
    assert 0 < tuning.step_seconds(plan, cells, SMALL, BF16) < 60
    assert torch.equal(torch.get_rng_state(), before)


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
    plan = make_plan(cells, config, BF16)
    assert step_memory(3, plan, cells, config, BF16) == 3 * 2 * plan.bands * 32**2
    assert len(largest) == 2


@pytest.mark.row(17)
def test_a_batch_whose_step_runs_out_of_memory_is_too_large(
    cells: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, whose memory ends at the fourth crop."""
    loss_of = Learner.loss_of

    def short(self: Learner, part: Sample) -> Tensor:
        if len(part.mask) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss_of(self, part)

    monkeypatch.setattr(Learner, "loss_of", short)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1)
    plan = make_plan(cells, SMALL, BF16)
    needed = partial(step_memory, plan=plan, known=cells, config=SMALL, machine=BF16)
    assert largest_batch(needed, 1000, 8)[0] == 3


def learner() -> Learner:
    segmenter = random_segmenter(bundle_info({"skip": ("switch",)})).train()
    optimizer = build_optimizer(segmenter, "muon", 0.01, 0.01)
    return Learner(segmenter, SegmentationLoss(), optimizer, TrainingConfig(), BF16)


def left(of: Learner) -> bytes:
    """A sum of everything that a rehearsal could leave behind."""
    state = of.state()
    tensors = [*state["weights"].values(), *state["average"].values(), torch.get_rng_state()]
    gradients = [parameter.grad for parameter in of.segmenter.parameters()]
    tensors += state["optimizer"]
    content = [[tensor.tolist() for tensor in tensors], gradients]
    return sha256(repr(content).encode()).digest()


def test_a_rehearsal_leaves_no_trace(cells: Survey) -> None:
    tried, crops = learner(), random_crops(2, make_plan(cells, SMALL, BF16), classes=2)
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
    tried, crops = learner(), random_crops(2, make_plan(cells, SMALL, BF16), classes=2)
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
    batch = random_crops(2, make_plan(cells, SMALL, BF16), classes=2)
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


def test_what_an_earlier_training_has_left_in_memory_is_free(
    cells: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the second of several folds."""
    left = [900 * MEBIBYTE]
    monkeypatch.setattr(Card, "free_memory", lambda card: card.memory - sum(left))
    monkeypatch.setattr(tuning, "free_memory", lambda device: left.clear())
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: torch.no_grad())
    monkeypatch.setattr(tuning, "step_memory", lambda batch, *_: batch * 100 * MEBIBYTE)
    card = Card(torch.device("cuda"), torch.bfloat16, "GPU", memory=1000 * MEBIBYTE)
    assert tried_plan(make_plan(cells, SMALL, card), cells, SMALL, card).batch == 9


def test_a_budget_leaves_a_level_for_each_kind_of_skip(
    cells: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "step_seconds", lambda *_: 1.0)
    network = NetworkConfig(skip=("concat", "concat", "none", "gated"))
    config = TrainConfig(network=network, training=TrainingConfig(budget=60.0))
    plan = tried_plan(make_plan(cells, config, BF16), cells, config, BF16)
    assert (plan.network.depth, plan.network.width) == (4, 8)


def test_an_encoder_that_needs_two_crops_is_tried_with_more() -> None:
    def needed(batch: int) -> int:
        if batch == 1:
            raise ConfigError("this encoder does not learn from one crop alone")
        return batch * 1000

    assert largest_batch(needed, free=10_000, most=16)[0] == 9
    with pytest.raises(OutOfMemoryError, match="two crops, which this encoder needs"):
        largest_batch(needed, free=2000, most=16)


def test_the_cpu_is_no_way_out_of_its_own_memory() -> None:
    assert "--device cpu" not in memory_fix(BF16)
