"""Laws of a training step: parts add up, bad steps leave no trace, nothing is read back."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.builders import CPU, bundle_info, class_map, random_segmenter
from tests.in_group import in_group
from unetseg.config import TrainingConfig
from unetseg.data.crops.dataset import Sample
from unetseg.errors import ConfigError
from unetseg.group import ALONE, Group, joined_group
from unetseg.training.learner import Learner
from unetseg.training.losses import SegmentationLoss
from unetseg.training.optimizer import build_optimizer, update_average

Kind = Literal["dice_ce", "dice", "ce"]


def learner(
    training: dict[str, object] | None = None,
    norm: str = "batch",
    loss: Kind = "dice_ce",
    weights: Sequence[float] | None = (1.0, 2.0, 3.0),
    group: Group = ALONE,
    **network: object,
) -> Learner:
    """A small network with fresh weights, the same each time."""
    segmenter = random_segmenter(bundle_info({"norm": norm, **network}, class_map(0, 1, 2))).train()
    config = TrainingConfig.model_validate({"optimizer": "adamw", **(training or {})})
    made = SegmentationLoss(loss, None if weights is None else torch.tensor(weights), (1, 2))
    optimizer = build_optimizer(segmenter, config.optimizer, 0.01, config.weight_decay)
    return Learner(segmenter, made, optimizer, config, replace(CPU, group=group))


def crops(seed: int, count: int = 4) -> Sample:
    draw = torch.Generator().manual_seed(seed)
    image = torch.randint(256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8)
    mask = torch.randint(3, (count, 32, 32), generator=draw, dtype=torch.uint8)
    return Sample(image, mask, torch.tensor([[0.0], [1.0]]).repeat(count, 1, 3))


def poisoned(sample: Sample) -> Sample:
    image = sample.image.float()
    image[0, 0, 0, 0] = torch.inf
    return sample._replace(image=image)


def tensors(of: Learner) -> list[Tensor]:
    """Copies of everything that a step may change."""
    state = of.state()
    both = [*state["weights"].values(), *state["average"].values()]
    return [tensor.clone() for tensor in (*both, *state["optimizer"])]


def assert_equal(one: Learner, other: Learner) -> None:
    for ours, theirs in zip(tensors(one), tensors(other), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.long
def test_parts_of_a_step_add_up_to_the_whole() -> None:
    whole, parts = (learner({"accumulate": n}, "group", "ce", None) for n in (1, 4))
    losses = [each.step(crops(1), 0, 1.0) for each in (whole, parts)]
    torch.testing.assert_close(*losses)
    for ours, theirs in zip(tensors(whole), tensors(parts), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.row(17)
@pytest.mark.long
@pytest.mark.parametrize("parts", [2, 3, 5])
def test_unequal_parts_weigh_as_many_crops_as_they_are(parts: int) -> None:
    whole, split = (learner({"optimizer": "sgd"}, "group", "ce", None) for _ in range(2))
    split.parts = parts
    losses = [each.step(crops(1, 5), 0, 1.0) for each in (whole, split)]
    torch.testing.assert_close(*losses)
    for ours, theirs in zip(tensors(whole), tensors(split), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def rare(sample: Sample) -> Sample:
    """Crops of which only the first has the last class, and the third counts nowhere."""
    mask = sample.mask.clamp(max=1)
    mask[0, :4, :4] = 2
    mask[2] = 255
    return sample._replace(mask=mask)


SHARED: list[dict[str, Any]] = [
    {"loss": "dice_ce"},
    {"loss": "dice", "weights": None, "accumulate": 2},
    {"loss": "ce", "skip": "switch", "deep_supervision": True},
    {"accumulate": 2, "block": "residual", "shortcut": "deactivable"},
    {"optimizer": "muon"},
]
"""How several processes learn: other losses, parts, further terms, blocks that are skipped."""


@pytest.mark.row(8)
@pytest.mark.long
@pytest.mark.parametrize(("size", "cases"), [(2, SHARED), (3, SHARED[1:2])])
def test_processes_learn_from_a_batch_what_one_learns(
    size: int, cases: list[dict[str, Any]]
) -> None:
    """Seven crops, which no number of processes shares evenly; classes that one of them has not."""

    def made(case: dict[str, Any], group: Group) -> Learner:
        network = dict(case)
        names = {"optimizer", "accumulate"} & network.keys()
        training = {"optimizer": "sgd"} | {name: network.pop(name) for name in names}
        return learner(training, "instance", group=group, **network)

    def learn(each: Learner) -> list[Tensor]:
        torch.manual_seed(3)  # which blocks are skipped
        rank, size = each.group.rank, each.group.size
        losses = []
        for number in range(2):
            whole = rare(crops(number, 7))
            batch = Sample(*(tensor[rank::size] for tensor in whole))
            losses.append(each.step(batch, number, 1.0, 7))
        return [*losses, *tensors(each)]

    def learn_all() -> list[list[Tensor]]:
        learned = []
        with joined_group(gpu=False) as group:
            for case in cases:
                each = made(case, group)
                each.join(all_used="skip" not in case)
                learned.append(learn(each))
        return learned

    alone = [learn(made(case, ALONE)) for case in cases]
    answers = in_group(size, learn_all)
    for case, whole, *shares in zip(cases, alone, *answers, strict=True):
        for one, *others in zip(whole, *shares, strict=True):
            assert all(torch.equal(others[0], other) for other in others), case
            # Muon's directions have no small numbers, however small those of the gradient are.
            atol = 5e-3 if case.get("optimizer") == "muon" else 2e-5
            torch.testing.assert_close(others[0], one, rtol=1e-4, atol=atol, msg=str(case))


@pytest.mark.row(15)
@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("bad", [0, 2])
def test_a_bad_step_leaves_everything_as_it_was(optimizer: str, ema: bool, bad: int) -> None:
    """What follows is as if it had never been: with Adam's counters, momentum and all."""
    settings: dict[str, Any] = {"optimizer": optimizer, "ema": ema, "accumulate": 2}
    clean, hurt = learner(settings), learner(settings)
    for number in range(4):
        if number == bad:
            before = tensors(hurt)
            hurt.step(poisoned(crops(9)), number, 1.0)
            assert all(map(torch.equal, tensors(hurt)[: len(before)], before))
        for each in (clean, hurt):
            each.step(crops(number), number, 1.0)
    assert_equal(clean, hurt)
    assert hurt.skipped_steps.read() == (1, 1)


@pytest.mark.row(15)
@pytest.mark.long
def test_bad_steps_in_a_row_are_counted() -> None:
    bad = learner()
    for number, is_bad in enumerate([True, True, False, True]):
        bad.step(poisoned(crops(number)) if is_bad else crops(number), number, 1.0)
    assert bad.skipped_steps.read() == (3, 2)
    assert bad.skipped_steps.read() == (0, 2)


class ReadsNothing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails where the processor reads a number of a tensor, or makes a tensor of its numbers.

    On a GPU it would wait there until everything before is computed.
    """

    WAITING = ("_local_scalar_dense", "is_nonzero", "lift_fresh", "nonzero", "equal", "item")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.WAITING, name
        return func(*args, **(kwargs or {}))


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("loss", ["dice_ce", "dice", "ce"])
def test_a_step_reads_nothing_back(loss: Kind, optimizer: str) -> None:
    busy = learner({"optimizer": optimizer, "accumulate": 2}, loss=loss)
    busy.step(crops(0), 0, 1.0)  # the first makes Adam's counters
    batch = crops(1)
    with ReadsNothing():  # type: ignore[no-untyped-call]
        busy.step(batch, 1, 1.0)


def test_reading_is_noticed() -> None:
    nothing: Any = ReadsNothing()  # type: ignore[no-untyped-call]
    with nothing, pytest.raises(AssertionError, match="_local_scalar_dense"):
        float(torch.ones(()) + 1)


@pytest.mark.long
@pytest.mark.parametrize("clip", [0.01, 1e6])
def test_long_gradients_are_clipped_as_torch_does(clip: float) -> None:
    ours, theirs = learner({"clip": clip}, "group"), learner(norm="group")
    ours.step(crops(3), 0, 1.0)
    theirs.add_gradient(crops(3))
    nn.utils.clip_grad_norm_(theirs.segmenter.parameters(), clip)
    theirs.optimizer.step()
    for moved, expected in zip(
        ours.segmenter.parameters(), theirs.segmenter.parameters(), strict=True
    ):
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)


def test_the_running_mean_weighs_late_steps_more() -> None:
    """Its weights are those of the recursion m ← d·m + (1 − d)·w, for floats of every kind."""
    live, mean = nn.BatchNorm2d(2), nn.BatchNorm2d(2).requires_grad_(False)
    expected = 1.0
    for step in range(20):
        for value in (*live.parameters(), live.running_var):
            assert value is not None
            nn.init.constant_(value, float(step))
        assert live.num_batches_tracked is not None
        live.num_batches_tracked.fill_(step)
        update_average(mean, live, step, torch.tensor(True))
        decay = (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(mean.weight, torch.full((2,), expected))
    torch.testing.assert_close(mean.running_var, torch.full((2,), expected))
    assert mean.num_batches_tracked == 19


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:`timm-` encoders:DeprecationWarning")  # smp's own
def test_an_encoder_that_needs_two_crops_says_so() -> None:
    with pytest.raises(ConfigError, match="from one crop alone"):
        learner(encoder="timm-skresnet18").step(crops(0, 1), 0, 1.0)
