"""Folder-to-folder prediction: `unetseg predict` against the plain script, with the same weights.

    python -m benchmarks.predict_folder --quick

Three processes (ours, the plain script, the script with the flags that everybody knows) predict a
few images each in turns. Steady state: everything is loaded and warm. End to end: from the shell,
start-up and preparation counted in. The last line is one JSON object.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.contenders import Contender, contenders
from benchmarks.networks import plain_weights, trained_run
from benchmarks.pictures import lay, pieces
from benchmarks.rounds import markdown, parser, ratio_text, ratios, report, spread
from unetseg.bundle import find_bundle, read_info
from unetseg.timing import in_turns

KINDS = ("ours", "plain", "flags")
TURN = 2.0
"""Seconds that a contender works in a round, about."""
FEW = 4
"""Images of the scripts' end-to-end run with --quick; the others are added in the steady state."""
LATE = 165.0
"""Seconds after which --quick begins no further case."""

HEAD = (
    *("network, images", "engine", "ours", "plain", "flags", "× plain", "× flags"),
    *("from the shell: × plain", "× flags", "equal pixels"),
)


@dataclass(frozen=True)
class Case:
    """A network and a folder of images."""

    network: str
    height: int = 512
    width: int = 512
    suffix: str = ".png"
    count: int = 64

    def __str__(self) -> str:
        return f"{self.network} {self.width}×{self.height} {self.suffix[1:].upper()}"


QUICK = (Case("classic"), Case("resnet34"))
LARGE = [Case(name, 1536, 2048, ".jpg", 8) for name in ("resnet34", "base32", "classic")]
FULL = (Case("classic"), Case("base32"), Case("resnet34"), *LARGE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table and a line of JSON."""
    flags = parser("predict_folder", __doc__)
    flags.add_argument("--quick", action="store_true", help="one or two cases in four minutes")
    flags.add_argument("--runs", type=Path, help="trained runs by network; others are trained")
    flags.add_argument("--network", action="append", help="only these: classic, base32, resnet34")
    flags.add_argument("--engine", default="auto", help="unetseg's engine")
    flags.add_argument("--device", default="cpu")
    flags.add_argument("--threads", type=int, help="threads of each contender")
    flags.add_argument("--rounds", type=int, default=7)
    flags.add_argument("--seconds", type=float, help="of all rounds (default: 120, --quick: 40)")
    flags.add_argument("--epochs", type=int, default=2, help="of the short training")
    given = flags.parse_args(arguments)
    given.seconds = given.seconds or (40 if given.quick else 120)
    if given.threads:
        os.environ["OMP_NUM_THREADS"] = str(given.threads)
    with tempfile.TemporaryDirectory(prefix="predict-folder-") as folder:
        results = measure_all(Path(folder), given)
    first, *others = results
    found = {"case": first, **results[first], "cases": {name: results[name] for name in others}}
    title = "Folder-to-folder prediction"
    report("predict_folder", title, table(results), found, write=given.save)


def measure_all(folder: Path, given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The figures of every case."""
    began = time.monotonic()
    results: dict[str, dict[str, Any]] = {}
    bench = Bench(folder, given)
    for case in QUICK if given.quick else FULL:
        late = given.quick and time.monotonic() - began > LATE
        wanted = not given.network or case.network in given.network
        if wanted and not (results and late):
            results[str(case)] = bench.measure(case)
    return results


class Bench:
    """Measures cases in a folder, with trained runs that several may share.

    Args:
        folder: Where everything goes.
        given: The command line.
    """

    def __init__(self, folder: Path, given: argparse.Namespace) -> None:
        self.folder, self.given = folder, given
        self.squares = pieces(folder / "sample", 48)
        self.pairs = lay(folder / "pairs", self.squares, (256, 256), 40, ".png")
        self.runs = given.runs or folder / "runs"

    def measure(self, case: Case) -> dict[str, Any]:
        """The figures of a case."""
        place = self.folder / str(case).replace(" ", "-")
        size = (case.height, case.width)
        lay(place, self.squares, size, case.count, case.suffix)
        run = self.runs / case.network
        if not (run / "model").is_dir():
            trained_run(case.network, self.pairs, self.runs, self.given.epochs)
        weights = plain_weights(case.network, run, place / "weights.pt")
        result = self._steady(case, place, run, weights)
        result["end_to_end"] = self._end_to_end(case, place, run, weights, result)
        return result | same_masks(run, place / "from-shell-ours", place / "plain")

    def _steady(self, case: Case, place: Path, run: Path, weights: Path) -> dict[str, Any]:
        """Seconds of all contenders, in turns, when everything is warm."""
        device, images = self.given.device, str(place / "images")
        commands: dict[str, list[str]] = {
            kind: ["predict-script", kind, case.network, str(weights), images, str(place / kind)]
            for kind in KINDS[1:]
        }
        commands["ours"] = ["predict-ours", str(run), images, str(place / "ours")]
        commands = {kind: ["benchmarks.workers", *commands[kind], device] for kind in KINDS}
        commands["ours"].append(self.given.engine)
        with contenders(commands) as all_of_them:
            for contender in all_of_them.values():
                contender.warm_up(TURN)
            turns = {kind: one.go for kind, one in all_of_them.items()}
            seconds = in_turns(turns, self.given.rounds, self.given.seconds)
            return figures(seconds, all_of_them)

    def _end_to_end(
        self, case: Case, place: Path, run: Path, weights: Path, steady: dict[str, Any]
    ) -> dict[str, float]:
        """Seconds from the shell for all images of the case, and the ratios."""
        device, images = self.given.device, place / "images"
        words = [str(run), str(images), "-o", str(place / "from-shell-ours"), "--device", device]
        seconds = {"ours": shell("unetseg", "predict", *words, "--engine", self.given.engine)}
        some = few(images, place / "few") if self.given.quick else images
        left = case.count - len(list(some.iterdir()))
        for kind in KINDS[1:]:
            files = [str(path) for path in (weights, some, place / kind)]
            took = shell("benchmarks.baseline", kind, case.network, *files, "--device", device)
            seconds[kind] = took + left * steady["seconds_per_image"][kind]
        times = {f"ratio_{kind}": seconds[kind] / seconds["ours"] for kind in KINDS[1:]}
        return {name: round(value, 3) for name, value in (seconds | times).items()}


def figures(seconds: dict[str, list[float]], them: dict[str, Contender]) -> dict[str, Any]:
    """What is told of the rounds: seconds per image of every contender → JSON."""
    medians = {kind: spread(values).median for kind, values in seconds.items()}
    return ratios(seconds) | {
        "seconds_per_image": {kind: round(value, 4) for kind, value in medians.items()},
        "images_per_second": {kind: round(1 / value, 3) for kind, value in medians.items()},
        "ready_seconds": {kind: round(one.started, 2) for kind, one in them.items()},
        "first_image_seconds": {kind: round(one.first, 2) for kind, one in them.items()},
        "images_per_turn": {kind: one.units for kind, one in them.items()},
        "rounds": len(seconds["ours"]),
        **them["ours"].facts,
    }


def shell(module: str, *words: str) -> float:
    """Wall time of `python -m module words…` from start to end, seconds."""
    began = time.monotonic()
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr}")
    return time.monotonic() - began


def few(images: Path, folder: Path) -> Path:
    """A folder with the last images of another; the first ones have been predicted already."""
    folder.mkdir()
    for path in sorted(images.iterdir())[-FEW:]:
        shutil.copy(path, folder)
    return folder


def same_masks(run: Path, ours: Path, plain: Path) -> dict[str, float]:
    """The share of the pixels that have the same class in our masks and in the plain script's."""
    class_map = read_info(find_bundle(run) / "model.json").class_map
    equal = pixels = images = 0
    for path in sorted(plain.iterdir()):
        index = class_map.encode(np.asarray(Image.open(ours / path.name)))
        same = index == np.asarray(Image.open(path))
        equal, pixels, images = equal + int(same.sum()), pixels + same.size, images + 1
    return {"equal_pixels": round(equal / pixels, 6), "compared_images": images}


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """The figures of all cases as lines of Markdown."""
    rows = []
    for name, row in results.items():
        speed = [f"{row['images_per_second'][kind]:.2f}/s" for kind in KINDS]
        times = [ratio_text(row, kind) for kind in KINDS[1:]]
        ends = [f"{row['end_to_end'][f'ratio_{kind}']:.2f}" for kind in KINDS[1:]]
        equal = f"{row['equal_pixels']:.4%} of {row['compared_images']} images"
        rows.append([name, row["engine"], *speed, *times, *ends, equal])
    return markdown(HEAD, rows)


if __name__ == "__main__":
    main()
