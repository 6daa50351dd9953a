"""A prediction in this process, then in others: `python -m tests.prediction.in_processes RUN WAY`.

A way is a start method of multiprocessing, or `preload`: forks while threads predict.
"""

import multiprocessing
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.builders import blotches
from unetseg.config import DeviceConfig
from unetseg.prediction.predictor import Predictor

CPU = DeviceConfig(device="cpu", precision="float32")
IMAGE = blotches(250, 260)
held: list[Predictor] = []
"""The model of this process, which forked ones have too."""


def answer(given: Predictor | Path | None) -> NDArray[Any]:
    """The mask by a model that was sent, is loaded here, or was there before the fork."""
    model = Predictor(given, device=CPU) if isinstance(given, Path) else given or held[0]
    return model.predict(IMAGE)


def main(run: Path, way: str) -> None:
    """Print how many masks of other processes are those of this one."""
    held.append(Predictor(run, device=CPU))
    expected = answer(None)
    if way == "preload":
        right = preload(expected)
    else:
        ways = [held[0], run, *([None] if way == "fork" else [])]
        with multiprocessing.get_context(way).Pool(2) as pool:
            right = sum(np.mean(mask == expected) > 0.999 for mask in pool.map(answer, ways))
    sys.stdout.write(f"right {right}")


def preload(expected: NDArray[Any], forks: int = 10) -> int:
    """Fork again and again while two threads predict; how many children were right."""
    stop, right = threading.Event(), 0

    def serve() -> None:
        while not stop.is_set():
            answer(None)

    threads = [threading.Thread(target=serve) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(forks):
        if child := os.fork():
            right += os.waitpid(child, 0)[1] == 0
        else:
            os._exit(int(np.mean(answer(None) == expected) <= 0.999))
    stop.set()
    for thread in threads:
        thread.join()
    return right


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
