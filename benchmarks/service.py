"""A service that runs for long: what it answers to threads, sizes and errors, and its memory.

    python -m benchmarks.service                 # an hour
    python -m benchmarks.service --minutes 2 --threads 8

One model answers several threads, which ask for images of many sizes in random order: arrays,
tensors, Pillow images and files. One request in five must be refused: other bands, damaged and
missing files, no image at all. Every mask is compared with that of a model that is asked alone.
What is told of memory is that of the whole process (Linux). The last line is one JSON object.
"""

import argparse
import os
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import unetseg
from benchmarks.memory import resident
from benchmarks.networks import fresh_run
from benchmarks.rounds import markdown, parser, report
from unetseg.errors import DataError
from unetseg.prediction.predictor import Predictor

SIDES = (48, 900)
"""Range of the sides of images, pixels; beyond 512 they are cut into tiles."""
SIZES = 40
MOMENTS = (0.0, 0.05, 0.25, 0.5, 0.75, 1.0)
"""Shares of the time at which memory is looked at; at the first, every request was made once."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve, and print a table and a line of JSON."""
    flags = parser("service", __doc__)
    flags.add_argument("--minutes", type=float, default=60)
    flags.add_argument("--threads", type=int, default=4)
    flags.add_argument("--network", default="base16", help="classic, base32, base16, resnet34")
    given = flags.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="service-") as folder:
        run = fresh_run(given.network, Path(folder))
        requests = draw_requests(Path(folder))
        alone = unetseg.load(run, device="cpu", tile=512)
        expected = [answer(alone, request) for request in requests]
        looks, outcomes = serve(run, requests, expected, given)
    result = {"network": given.network, "threads": given.threads, "minutes": given.minutes}
    result |= {"requests": outcomes.total(), "wrong": 0, **outcomes, "megabytes": looks}
    lines = markdown(
        ["at", "resident memory"],
        [[f"{minutes} min", f"{megabytes} MB"] for minutes, megabytes in looks],
    )
    lines.append(
        f"{outcomes.total()} requests of {given.threads} threads, {SIZES} sizes: "
        f"{outcomes['right']} right masks, {outcomes['refused']} refused with the reason, "
        f"{outcomes['wrong']} wrong."
    )
    report("service", "A service", lines, result, write=given.save)


def draw_requests(folder: Path) -> list[object]:
    """Images of many sizes in every form, and what is none."""
    rng, requests = np.random.default_rng(0), list[object]()
    for number in range(SIZES):
        height, width = rng.integers(*SIDES, 2)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        file = folder / f"{number}.png"
        Image.fromarray(image).save(file)
        forms = (image, torch.from_numpy(image).permute(2, 0, 1), Image.fromarray(image), file)
        requests.append(forms[number % len(forms)])
    damaged = folder / "damaged.png"
    damaged.write_bytes(file.read_bytes()[:-999])
    wrong = np.zeros((300, 300, 5), np.uint8)
    return [*requests, *[damaged, folder / "missing.png", wrong, None, wrong[:0]] * 2]


def answer(model: Predictor, request: object) -> NDArray[Any] | str:
    """The mask, or why there is none."""
    try:
        return model.predict(request)
    except DataError as error:
        return str(error)


def serve(
    run: Path,
    requests: Sequence[object],
    expected: Sequence[NDArray[Any] | str],
    given: argparse.Namespace,
) -> tuple[list[tuple[float, int]], Counter[str]]:
    """(minutes, megabytes) at some moments, and how many requests had which outcome."""
    model, outcomes = unetseg.load(run, device="cpu", tile=512), Counter[str]()
    lock, began = threading.Lock(), time.monotonic()
    end = began + 60 * given.minutes

    def ask(seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < end:
            number = chance.randrange(len(requests))
            try:
                found: object = answer(model, requests[number])
            except Exception as error:  # noqa: BLE001 (a service would see it)
                found = error
            is_right = type(found) is type(expected[number]) and np.array_equal(
                np.asarray(found), np.asarray(expected[number])
            )
            outcome = "refused" if isinstance(found, str) else "right"
            with lock:
                outcomes[outcome if is_right else "wrong"] += 1

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(given.threads)]
    looks = [(0.0, usual_memory())]
    for thread in threads:
        thread.start()
    for share in MOMENTS[1:]:
        time.sleep(max(0, began + share * (end - began) - time.monotonic()))
        looks.append((round(share * given.minutes, 2), usual_memory()))
    for thread in threads:
        thread.join()
    return looks, outcomes


def usual_memory() -> int:
    """Megabytes of memory that this process has, the median of a second."""
    found = []
    for _ in range(10):
        found.append(resident(os.getpid()))
        time.sleep(0.1)
    return round(statistics.median(found))


if __name__ == "__main__":
    main()
