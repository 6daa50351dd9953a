"""Alike images share a batch; whoever goes away costs nothing."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from typing import Any

import numpy as np
import pytest
import torch

from tests.builders import blotches, bundle_info, random_segmenter
from unetseg.errors import OutOfMemoryError
from unetseg.prediction.engine import Engine
from unetseg.prediction.pipeline import Opened
from unetseg.runtime import Machine
from unetseg.serving.network_queue import NetworkQueue


class Slow(Engine):
    """Begins its first batch when it is let, and notes the batches."""

    def __init__(self) -> None:
        machine = Machine(torch.device("cpu"), torch.float32, "CPU")
        segmenter = random_segmenter(bundle_info())
        super().__init__(segmenter, machine, tile=128, overlap=0.5, engine="eager")
        self.may_begin, self.has_begun = threading.Event(), threading.Event()
        self.fails = False

    def begin(self, images: Any) -> Any:
        self.has_begun.set()
        assert self.may_begin.wait(20)
        if self.fails:
            raise OutOfMemoryError("full")
        return super().begin(images)


@pytest.fixture
def engine() -> Slow:
    return Slow()


@pytest.fixture
def batches() -> list[int]:
    return []


@pytest.fixture
def queue(engine: Slow, batches: list[int]) -> Iterator[NetworkQueue]:
    queue = NetworkQueue(engine, batches.append)
    yield queue
    engine.may_begin.set()
    queue.close()


def opened(side: int, seed: int = 0) -> Opened[str]:
    return Opened(f"{side}-{seed}", blotches(side, side, seed=seed))


def test_alike_images_share_a_batch_and_the_oldest_goes_first(
    engine: Slow, queue: NetworkQueue, batches: list[int]
) -> None:
    images = [opened(64, 0), opened(32, 1), opened(48, 2), opened(32, 3), opened(32, 4)]
    first = queue.put(images[0])
    assert engine.has_begun.wait(20)
    rest = [queue.put(image) for image in images[1:]]
    engine.may_begin.set()
    found = [future.result(20) for future in (first, *rest)]
    assert batches == [1, 3, 1]
    for image, done in zip(images, found, strict=True):
        assert done.name == image.name
        assert done.band is not None
        assert (done.band.index == engine.classes(np.asarray(image.image))).all()


def test_who_goes_away_is_left_out(engine: Slow, queue: NetworkQueue, batches: list[int]) -> None:
    first = queue.put(opened(32))
    assert engine.has_begun.wait(20)
    gone, kept = queue.put(opened(32, 1)), queue.put(opened(32, 2))
    assert len(queue) == 2
    assert gone.cancel()
    assert len(queue) == 1  # its pixels are held no more
    assert not first.cancel()  # it is with the network
    engine.may_begin.set()
    assert wait([first, kept], 20).not_done == set()
    assert batches == [1, 1]


def test_an_error_is_told_to_all_of_its_batch_and_no_other(
    engine: Slow, queue: NetworkQueue
) -> None:
    engine.fails = True
    engine.may_begin.set()
    with pytest.raises(OutOfMemoryError, match="full"):
        queue.put(opened(32)).result(20)
    engine.fails = False
    assert queue.put(opened(32)).result(20).band is not None


def test_probabilities_come_with_the_band(engine: Slow, queue: NetworkQueue) -> None:
    engine.may_begin.set()
    band = queue.put(opened(32), probabilities=True).result(20).band
    assert band is not None
    assert next(iter(band.probabilities)).shape == (32, 32, 2)


def test_at_the_end_who_waits_is_told(engine: Slow, batches: list[int]) -> None:
    queue = NetworkQueue(engine, batches.append)
    first = queue.put(opened(32))
    assert engine.has_begun.wait(20)
    second = queue.put(opened(48))
    threading.Timer(0.1, engine.may_begin.set).start()
    queue.close()
    assert first.result(0).band is not None
    with pytest.raises(CancelledError):
        second.result(0)
