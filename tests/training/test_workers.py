"""Laws of who loads the crops: the batches are the same, and processes come where they pay."""

import time
from collections.abc import Iterator
from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from tests.builders import CPU, Heard, noisy_crops
from unetseg.data.crops.dataset import CropRule, Crops, Order, Sample
from unetseg.data.crops.loading import crop_batches
from unetseg.training import workers as room
from unetseg.training.workers import choose_workers, training_batches


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Crops:
    """Crops of 32² from five pairs."""
    return noisy_crops(tmp_path_factory.mktemp("pairs"), 5, CropRule(32, "full", 0.5))


def equal(first: list[Sample], second: list[Sample]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_measured_batches_are_those_of_the_order(
    crops: Crops, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    order = Order((1, 2, 1, 1, 3), 3, seed=5, first_step=4)
    expected = list(islice(crop_batches(crops, order, 0), 9))
    monkeypatch.setattr(room, "choose_workers", lambda *_, **__: (workers, "because"))
    heard = Heard()
    state = torch.get_rng_state()
    measured = list(islice(training_batches(crops, order, CPU, progress=heard), 9))
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(measured, expected)
    assert heard.said == ["crops are loaded by because"]
    assert equal(list(islice(training_batches(crops, order, CPU, workers), 9)), expected)


def test_steps_and_loading_are_timed_apart(crops: Crops, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 50 ms and loading of 20 ms a crop; one step is followed by a validation."""

    class Slow(Crops):
        def __getitem__(self, key: tuple[int, int]) -> Sample:
            time.sleep(0.02)
            return super().__getitem__(key)

    seen: list[tuple[float, float]] = []

    def choose(batch: float, step: float, _cores: int, *, is_cpu: bool) -> tuple[int, str]:
        seen.append((batch, step))
        assert is_cpu
        return 0, ""

    monkeypatch.setattr(room, "choose_workers", choose)
    slow = Slow(crops.reader, CropRule(16, "none", 0.0), crops.statistics)
    for done, _ in enumerate(training_batches(slow, Order([1] * 5, 2, seed=0), CPU)):
        time.sleep(0.4 if done == 3 else 0.05)
        if done == 5:
            break
    [(batch, step)] = seen
    assert 0.04 <= batch < 0.2
    assert 0.05 <= step < 0.3


def test_a_gpu_never_waits_and_a_small_cpu_is_left_alone() -> None:
    assert choose_workers(0.02, 0.5, 2, is_cpu=True)[0] == 0
    assert choose_workers(0.5, 0.5, 2, is_cpu=True)[0] == 0
    assert choose_workers(0.01, 0.5, 16, is_cpu=True)[0] == 0
    assert choose_workers(0.1, 0.5, 16, is_cpu=True)[0] == 1
    assert choose_workers(1e-4, 0.5, 16, is_cpu=False)[0] == 1
    assert choose_workers(0.02, 0.01, 16, is_cpu=False)[0] == 3
    assert choose_workers(0.02, 0.01, 1, is_cpu=False)[0] == 0
    workers, reason = choose_workers(1.0, 0.02, 64, is_cpu=False)
    assert (workers, reason) == (
        16,
        "16 processes: a batch loads in 1 s, a step takes 20 ms",
    )


def counts(cores: int, *, is_cpu: bool) -> Iterator[int]:
    """Workers for ever dearer loading."""
    for share in np.geomspace(1e-3, 1e3, 60):
        yield choose_workers(float(share), 1.0, cores, is_cpu=is_cpu)[0]


@pytest.mark.parametrize("is_cpu", [True, False])
@pytest.mark.parametrize("cores", [1, 2, 4, 16, 128])
def test_dearer_loading_never_gets_fewer_processes(cores: int, is_cpu: bool) -> None:
    found = list(counts(cores, is_cpu=is_cpu))
    assert all(first <= second for first, second in pairwise(found))
    assert max(found) <= max(0, cores - 1)
