"""Where the time goes, part by part: in the network, in a training step, in a file's way.

    python -m benchmarks.profiles
    python -m benchmarks.profiles --network base32 --top

The plain scripts and unetseg, each in a process of its own, by torch's profiler. The last line is
one JSON object.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pictures import lay, pieces
from benchmarks.rounds import markdown, parser, report

PARTS = {
    "convolutions, backward": ("convolution_backward",),
    "convolutions": ("convolution",),
    "batch norm, backward": ("batch_norm_backward",),
    "batch norm": ("batch_norm",),
    "joining features": ("aten::cat", "aten::narrow", "slice_backward"),
    "ReLU": ("relu", "clamp_min", "threshold_backward"),
    "pooling": ("max_pool",),
    "weights and running mean": ("adam", "foreach", "clip_grad", "linalg_vector_norm", "lerp"),
    "loss": ("softmax", "nll_loss", "cross_entropy"),
    "copies, casts and zeros": ("copy", "contiguous", "clone", "fill_", "zero"),
}
"""Parts of the work, and what the names of torch's operations in them hold; the first fits."""
OTHER = "other operations"
OUTSIDE = "outside of operations"
KINDS = ("plain", "flags", "ours")
BATCH = 8
WARM = 6
"""Images or steps before any counts: they, and the profiler itself, take memory from the system."""
UNITS = 3
"""Images or steps that are profiled."""
COUNT = 8
"""Files whose way is measured, after as many that are not."""
CHILD = "from benchmarks.profiles import {name}; {name}({words})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print tables and a line of JSON."""
    flags = parser("profiles", __doc__)
    flags.add_argument("--network", default="classic", help="classic, base32, base16, resnet34")
    flags.add_argument("--side", type=int, default=512, help="of the images, pixels")
    flags.add_argument("--top", action="store_true", help="name the operations of `other`, too")
    given = flags.parse_args(arguments)
    results = {}
    with tempfile.TemporaryDirectory(prefix="profiles-") as folder:
        squares, size = pieces(Path(folder) / "sample", 24), (given.side, given.side)
        data = lay(Path(folder) / "pairs", squares, size, COUNT, ".png")
        works: dict[str, tuple[object, ...]] = {
            "forward": (given.network, given.side, given.top),
            "train": (given.network, given.top),
            "files": (given.network, str(data)),
        }
        for work, words in works.items():
            results[work] = {kind: child(work, kind, *words) for kind in KINDS}
    lines = [line for work, row in results.items() for line in table(work, row)]
    title, found = f"Where the time goes: {given.network}", {"network": given.network, **results}
    report("profiles", title, lines, found, write=given.save)


def child(name: str, *words: object) -> dict[str, float]:
    """Milliseconds of each part, from a process of its own."""
    script = CHILD.format(name=name, words=", ".join(map(repr, words)))
    done = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE)
    parts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return parts


# ------------------------------------------------------------------- in a child


def forward(kind: str, network: str, side: int, top: bool) -> None:
    """The network alone, on one image in memory."""
    import torch

    from benchmarks.baseline import FORWARD, build

    image = torch.randn(1, 3, side, side)
    if kind == "ours":
        predictor = _predictor(network)
        backend = predictor.engine.choice.backend
        image = image.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            _profile(lambda: backend(image), top=top)
    else:
        net = build(network, kind).eval()
        _profile(lambda: FORWARD[kind](net, image), top=top)


def train(kind: str, network: str, top: bool) -> None:
    """A training step, on crops in memory."""
    from benchmarks.steps import our_step, script_step

    ours = kind == "ours"
    step = our_step(network, BATCH) if ours else script_step(kind, network, BATCH)
    _profile(step, top=top)


def files(kind: str, network: str, data: str) -> None:
    """The way of a file to its mask, one stage after the other."""
    paths, seconds = sorted((Path(data) / "images").iterdir()), defaultdict[str, float](float)
    with tempfile.TemporaryDirectory(prefix="files-") as folder:
        stages = _way(kind, network, Path(folder))
        for number, path in enumerate([*paths, *paths]):
            result = None
            for name, stage in stages.items():
                began = time.perf_counter()
                result = stage(path, result)
                seconds[name] += (time.perf_counter() - began) * (number >= len(paths))
    parts = {name: 1e3 * value / len(paths) for name, value in seconds.items()}
    sys.stdout.write(json.dumps({"all": sum(parts.values()), **parts}) + "\n")


def _way(kind: str, network: str, folder: Path) -> dict[str, Callable[[Path, Any], Any]]:
    """The stages of a file's way; each is given the file and what the stage before gave."""
    from benchmarks.baseline import Model, write_mask
    from benchmarks.networks import fresh_run, plain_weights

    if kind == "ours":
        from unetseg.prediction.outputs import Writer, plan_job

        predictor = _predictor(network)
        class_map = predictor.info.class_map

        def write(path: Path, index: Any) -> None:
            job = plan_job(path, folder / path.stem, class_map)
            Writer(job, *index.shape).write_mask(job.mask, iter([index]), class_map)

        return {
            "read": lambda path, _: predictor.read(path),
            "network": lambda _, image: predictor.engine.classes(image),
            "write": write,
        }
    weights = plain_weights(network, fresh_run(network, folder / "run"), folder / "weights.pt")
    model = Model(kind, network, weights)
    return {
        "read": lambda path, _: model.read(path),
        "network": lambda _, x: model.forward(model.net, x),
        "write": lambda path, logits: write_mask(logits, path, folder),
    }


def _predictor(network: str) -> Any:
    from benchmarks.networks import fresh_run
    from unetseg.config import DeviceConfig
    from unetseg.prediction.predictor import Predictor

    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        return Predictor(fresh_run(network, Path(folder)), device=DeviceConfig(device="cpu"))


def _profile(work: Callable[[], object], *, top: bool) -> None:
    """Print the milliseconds of each part of a unit of work."""
    from torch.profiler import ProfilerActivity, profile, schedule

    turns = schedule(wait=0, warmup=WARM, active=UNITS, repeat=1)
    walls = []
    with profile(activities=[ProfilerActivity.CPU], schedule=turns, acc_events=True) as profiler:
        for _ in range(WARM + UNITS):
            began = time.perf_counter()
            work()
            walls.append(1e3 * (time.perf_counter() - began))
            profiler.step()
    wall = sum(walls[WARM:]) / UNITS
    parts: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        if event.key.startswith("ProfilerStep"):
            continue
        parts[part_of(event.key, top=top)] += event.self_cpu_time_total / 1e3 / UNITS
    parts[OUTSIDE] = wall - sum(parts.values())
    sys.stdout.write(json.dumps({"all": wall, **parts}) + "\n")


def part_of(operation: str, *, top: bool = False) -> str:
    """The part of the work that an operation of torch belongs to.

    >>> part_of("mkldnn::_convolution_pointwise"), part_of("aten::native_batch_norm_backward")
    ('convolutions', 'batch norm, backward')
    """
    name = operation.lower()
    fits = (part for part, words in PARTS.items() if any(word in name for word in words))
    return next(fits, operation if top else OTHER)


def table(work: str, row: dict[str, dict[str, float]]) -> list[str]:
    """The milliseconds of each part as lines of Markdown, the largest of the plain script first."""
    heads = {
        "forward": "network, one image",
        "train": f"training step, {BATCH} crops of 256²",
        "files": "one image, from file to file",
    }
    names = sorted({name for parts in row.values() for name in parts} - {"all"})
    names.sort(key=lambda name: -row["plain"].get(name, 0))
    rows = []
    for name in ["all", *names]:
        cells = [f"{row[kind].get(name, 0):.1f}" for kind in KINDS]
        if any(float(cell) for cell in cells):
            rows.append([name, *cells])
    return markdown([f"{heads[work]}, ms", *KINDS], rows)


if __name__ == "__main__":
    main()
