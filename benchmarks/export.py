"""Exported files beside the run they are of: pixels that agree, Dice of 8 bit, sizes, images/s.

    python -m benchmarks.export parity
    python -m benchmarks.export speed checkpoints/cracks crackforest

`parity` writes networks that have learned nothing, with 8 and 16 bit and both normalisations, to
every kind of file. `speed` writes a trained run, and times its kinds in turns on one image of the
data: whole images, from raw pixels to classes. The last line is one JSON object.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import unetseg
from benchmarks.networks import fresh_bundle
from benchmarks.rounds import markdown, paired_ratio, parser, ratios, report
from unetseg.config import ExportConfig, NetworkConfig
from unetseg.errors import MachineError
from unetseg.export.export import Export, export
from unetseg.timing import in_turns, seconds_of

NETWORKS = {
    "own": NetworkConfig(width=16, depth=4),
    "resnet34": NetworkConfig(encoder="resnet34", depth=5),
    "attention and gated skips": NetworkConfig(
        width=16, depth=3, skip=("attention", "gated", "attention")
    ),
}
LEVELS = {"uint8": (128.0, 64.0), "uint16": (30000.0, 9000.0)}
"""Mean and deviation of the pixels."""
KINDS = ("onnx", "openvino", "torchscript")
PLAIN = "run, float32"
"""What the others are compared with."""


def main() -> None:
    """Measure what is asked for."""
    flags = parser("export", __doc__)
    flags.add_argument("what", choices=["parity", "speed"])
    flags.add_argument("run", type=Path, nargs="?", help="a run folder, for speed")
    flags.add_argument("data", type=Path, nargs="?", help="its data, for speed")
    flags.add_argument("--rounds", type=int, default=15)
    given = flags.parse_args()
    if given.what == "speed" and given.data is None:
        flags.error("speed needs RUN and DATA")
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "parity":
            lines, told = parity(Path(folder))
        else:
            lines, told = speed(given.run, given.data, Path(folder), given.rounds)
    name = f"export_{given.what}"
    report(name, f"Exported files: {given.what}", lines, told, write=given.save)


def parity(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """The share of equal pixels of each network, type, normalisation and kind of file."""
    rows, told = [], dict[str, Any]()
    for network, dtype, scaling in product(NETWORKS, LEVELS, ("dataset", "image")):
        run = fresh(folder / "run", network, dtype, scaling)
        made = {kind: written(run, kind, folder) for kind in KINDS}
        cells = [
            f"{one.agreement.equal:.3%}, {one.agreement.probability_gap:.0e}"
            for one in made.values()
        ]
        rows.append([network, dtype, scaling, *cells])
        told[f"{network}, {dtype}, {scaling}"] = {k: m.agreement.equal for k, m in made.items()}
    head = ["network", "pixels", "normalisation", *KINDS]
    note = "Pixels with the code that the run gives, and the largest difference of a probability."
    return [*markdown(head, rows), note], told


def fresh(folder: Path, network: str, dtype: str, scaling: str) -> Path:
    """A run that has learned nothing."""
    mean, std = LEVELS[dtype]
    numbers = {"kind": scaling, "mean": [mean] * 3, "std": [std] * 3}
    more = {"dtype": dtype, "normalisation": numbers, "tile": 256}
    return fresh_bundle(NETWORKS[network], folder, **more)


def written(run: Path, kind: str, folder: Path, data: Path | None = None) -> Export:
    """A run in a kind of file; "int8" is ONNX in 8 bit."""
    suffix = {"openvino": ".xml", "torchscript": ".pt"}.get(kind, ".onnx")
    to = "onnx" if kind == "int8" else kind
    config = ExportConfig.model_validate({"to": to, "int8": kind == "int8"})
    return export(run, config, data, output=folder / f"{kind}{suffix}")


def speed(run: Path, data: Path, folder: Path, rounds: int) -> tuple[list[str], dict[str, Any]]:
    """Size, Dice and images/s of each kind of file of a trained run."""
    made = {kind: written(run, kind, folder, data) for kind in (*KINDS, "int8")}
    work = dict(contenders(run, made))
    for call in work.values():
        call()
    seconds = in_turns({n: partial(seconds_of, call) for n, call in work.items()}, rounds)
    rows = []
    for name, taken in seconds.items():
        one = made.get(name.partition(" ")[0])
        size = f"{one.bytes[1] / 2**20:.2f}" if one else f"{made['onnx'].bytes[0] / 2**20:.2f}"
        equal = f"{one.agreement.equal:.3%}" if one else ""
        ratio = paired_ratio(taken, seconds[PLAIN]) if name != PLAIN else "1"
        rows.append([name, size, equal, f"{1 / np.median(taken):.1f}", ratio])
    height, width = made["onnx"].size
    before, after = made["int8"].dice or (np.nan, np.nan)
    note = (
        f"Images of {height}×{width}; Dice of held-out images {before:.4f}, in 8 bit {after:.4f}."
    )
    head = ["", "MiB", "pixels equal", "images/s", "× run in float32"]
    return [*markdown(head, rows), note], ratios(seconds, PLAIN) | {"dice": [before, after]}


def contenders(run: Path, made: dict[str, Export]) -> Iterator[tuple[str, Callable[[], object]]]:
    """What takes an image from raw pixels to classes."""
    info = unetseg.load(run, device="cpu").info
    height, width = made["onnx"].size
    rng = np.random.default_rng(0)
    noise = rng.normal(info.normalisation.mean, info.normalisation.std, (height, width, info.bands))
    image = noise.clip(0, 255).astype(np.uint8) if info.dtype == "uint8" else noise
    image = image.astype(info.dtype)
    for precision in ("float32", "bf16"):
        try:
            model = unetseg.load(run, device="cpu", precision=precision, tile=2048)
            model.engine.classes(image)
        except MachineError:
            continue  # this processor has no bfloat16
        yield f"run, {precision}", partial(model.engine.classes, image)
    for kind, one in made.items():
        model = unetseg.load(one.file, tile=2048)
        yield f"{kind} by unetseg", partial(model.engine.classes, image)


if __name__ == "__main__":
    main()
