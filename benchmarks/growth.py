"""Whether thousands of images cost more, each, than the first few: memory, pace and planning.

    python -m benchmarks.growth                  # prediction over 250, 500, 1000 and 2000 images
    python -m benchmarks.growth --varied         # images of varied sizes
    python -m benchmarks.growth --pairs          # also `unetseg check` and `unetseg eval`

The network is small, so that what is around it shows. `unetseg` runs in a process of its own whose
memory and processor time are read while it works (Linux); when an image was done is the time of its
mask. Processor time tells the pace better where others use the machine too. The last line is one
JSON object.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.networks import CLASS_MAP, fresh_run
from benchmarks.pictures import lay, pieces
from benchmarks.rounds import markdown, parser, report
from unetseg.data.files.folders import find_images
from unetseg.prediction.outputs import plan_job

DISTINCT = 40
"""Files that the images of a folder are links to."""
SIDE = 512
"""Of the images, pixels."""
SIDES = (96, 1024)
"""Range of the sides of images of varied sizes, pixels."""
PAIR_SIDE = 128
"""Of the pairs that are checked and scored, pixels."""
EVERY = 0.1
"""Seconds between two looks at a process."""
WARM = 0.1
"""Share of the images that a run may take to find its size."""
QUARTERS = 4
TICKS = os.sysconf("SC_CLK_TCK")
"""Units of processor time in a second."""


@dataclass(frozen=True)
class Look:
    """A process at one moment."""

    at: float
    """Seconds since the epoch, as the times of files."""
    megabytes: float
    """Resident memory."""
    processor: float
    """Seconds of processor time so far."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table and a line of JSON."""
    flags = parser("growth", __doc__)
    flags.add_argument("--images", type=int, nargs="+", default=[250, 500, 1000, 2000])
    flags.add_argument("--varied", action="store_true", help="images of varied sizes")
    flags.add_argument("--pairs", action="store_true", help="also check and eval")
    flags.add_argument("--network", default="base16", help="classic, base32, base16, resnet34")
    flags.add_argument("--run", type=Path, help="run of `unetseg train` (default: fresh weights)")
    flags.add_argument("--engine", default="auto", help="unetseg's engine")
    given = flags.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        results = measure(Path(folder), given)
    lines = prediction_table(results["predict"]) + pairs_table(results["pairs"])
    report("growth", "Growth with the number of images", lines, results, write=given.save)


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of every number of images, and those of the largest as the answer."""
    run = given.run or fresh_run(given.network, folder)
    originals = draw(folder, varied=given.varied)
    rows = []
    for count in given.images:
        images = link(originals, folder / f"images-{count}", count)
        began = time.monotonic()
        for path, relative in find_images([images]):
            plan_job(path, folder / "nowhere" / relative, CLASS_MAP)
        planning = round(time.monotonic() - began, 3)
        words = ["predict", str(run), str(images), "-o", str(folder / f"masks-{count}")]
        looks = watch([*words, "--engine", given.engine])
        done = [mask.stat().st_mtime for mask in (folder / f"masks-{count}").iterdir()]
        rows.append({"images": count, "planning_seconds": planning} | pace(looks, sorted(done)))
    pairs = [pairs_row(run, folder, count) for count in given.images] if given.pairs else []
    last = {name: value for name, value in rows[-1].items() if name != "planning_seconds"}
    return {**last, "predict": rows, "pairs": pairs}


# ------------------------------------------------------------------- folders


def draw(folder: Path, *, varied: bool) -> list[Path]:
    """Different images; of varied sizes no two have the same."""
    squares, rng, images = pieces(folder / "sample", 24), np.random.default_rng(0), []
    if not varied:
        laid = lay(folder / "drawn", squares, (SIDE, SIDE), DISTINCT, ".png")
        return sorted((laid / "images").iterdir())
    for number in range(DISTINCT):
        height, width = rng.integers(*SIDES, size=2)
        laid = lay(folder / f"drawn-{number:02}", squares, (height, width), 1, ".png")
        images += list((laid / "images").iterdir())
    return images


def link(originals: list[Path], folder: Path, count: int) -> Path:
    """A folder of `count` images, each a hard link to an original."""
    folder.mkdir()
    for number in range(count):
        original = originals[number % len(originals)]
        os.link(original, folder / f"image_{number:05}{original.suffix}")
    return folder


def draw_pairs(folder: Path, count: int) -> Path:
    """Pairs that differ all from one another: cut at random places out of smooth noise."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        image = Image.fromarray(coarse).resize((PAIR_SIDE, PAIR_SIDE), Image.Resampling.BICUBIC)
        mask = np.where(np.asarray(image.convert("L")) > 127, 255, 0).astype(np.uint8)
        image.save(folder / "images" / f"pair_{number:05}.png")
        Image.fromarray(mask).save(folder / "masks" / f"pair_{number:05}.png")
    return folder


# ---------------------------------------------------------------- measurements


def watch(words: Sequence[str]) -> list[Look]:
    """How `unetseg WORDS` fared, looked at until it ended."""
    command = [sys.executable, "-m", "unetseg", *words]
    looks = [Look(time.time(), 0.0, 0.0)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            look = look_at(process.pid)
            looks += [look] if look else []
            time.sleep(EVERY)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return looks


def look_at(pid: int) -> Look | None:
    """Memory and processor time of a process; None when it has ended."""
    status, times = (Path(f"/proc/{pid}/{name}").read_text() for name in ("status", "stat"))
    resident = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    if not resident:
        return None
    user, system = times.rpartition(")")[2].split()[11:13]  # proc(5): fields 14 and 15
    return Look(time.time(), int(resident[0]) / 1024, (int(user) + int(system)) / TICKS)


def pace(looks: Sequence[Look], done: Sequence[float]) -> dict[str, Any]:
    """What looks at a prediction tell, when its masks were written at the times `done`."""
    at = np.array([look.at for look in looks])
    images = np.searchsorted(done, at)
    memory = np.array([look.megabytes for look in looks])
    warm = (images >= WARM * len(done)) & (images < len(done))
    slope = np.polyfit(images[warm], memory[warm], 1)[0] if warm.sum() > 2 else np.nan
    edges = np.array([done[round(q * (len(done) - 1) / QUARTERS)] for q in range(QUARTERS + 1)])
    busy = np.interp(edges, at, [look.processor for look in looks])
    each = (len(done) - 1) / QUARTERS
    wall, processor = np.diff(edges), np.diff(busy)
    return {
        "first_mask_seconds": round(done[0] - looks[0].at, 2),
        "images_per_second": rounded(each / wall),
        "processor_milliseconds": rounded(1000 * processor / each),
        "ratio_last_first": round(float(wall[0] / wall[-1]), 3),
        "ratio_processor": round(float(processor[0] / processor[-1]), 3),
        "peak_megabytes": round(float(memory.max())),
        "megabytes_per_1000": round(float(1000 * slope), 1),
    }


def rounded(values: NDArray[np.float64]) -> list[float]:
    """Numbers for JSON."""
    return [round(float(value), 2) for value in values]


def pairs_row(run: Path, folder: Path, count: int) -> dict[str, Any]:
    """Seconds and memory of `unetseg check` and `unetseg eval` on `count` pairs."""
    data = draw_pairs(folder / f"pairs-{count}", count)
    row: dict[str, Any] = {"pairs": count}
    evaluate = ["eval", str(run), str(data), "--split", "all", "-o", str(folder / f"eval-{count}")]
    commands = {"check": ["check", str(data)], "eval": evaluate}
    for name, words in commands.items():
        looks = watch(words)
        row[f"{name}_seconds"] = round(looks[-1].at - looks[0].at, 1)
        row[f"{name}_processor_seconds"] = round(looks[-1].processor, 1)
        row[f"{name}_megabytes"] = round(max(look.megabytes for look in looks))
    return row


# ---------------------------------------------------------------------- tables


def prediction_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The figures of predictions as lines of Markdown."""
    head = ["images", "planning", "first mask", "images/s by quarter", "processor, by quarter"]
    table = []
    for row in rows:
        speeds = " · ".join(f"{value:.1f}" for value in row["images_per_second"])
        busy = " · ".join(f"{value:.0f}" for value in row["processor_milliseconds"])
        ratios = f"{row['ratio_last_first']:.3f} (processor {row['ratio_processor']:.3f})"
        times = [f"{row['planning_seconds']:.2f} s", f"{row['first_mask_seconds']} s"]
        memory = [f"{row['peak_megabytes']} MB", f"{row['megabytes_per_1000']:+.1f}"]
        table.append([row["images"], *times, speeds, f"{busy} ms", ratios, *memory])
    return markdown([*head, "last/first", "peak", "MB per 1000"], table)


def pairs_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The figures of check and eval as lines of Markdown, if they were measured."""
    head = ["pairs", "check", "processor", "memory", "eval", "processor", "memory"]
    units = {"seconds": "s", "processor_seconds": "s", "megabytes": "MB"}
    table = [
        [row["pairs"]]
        + [
            f"{row[f'{name}_{of}']} {unit}"
            for name in ("check", "eval")
            for of, unit in units.items()
        ]
        for row in rows
    ]
    return markdown(head, table) if rows else []


if __name__ == "__main__":
    main()
