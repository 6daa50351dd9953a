"""How well objects are counted: touching ones parted, against images whose objects are known.

    python -m benchmarks.objects
    python -m benchmarks.objects --instances labels/ --run checkpoints/cells --data cells

Drawn ellipses, and images of instances (integers, 0 is none) where a folder of them is given, are
made one mask each and parted again. A trained U-Net is scored on the pairs that it was not trained
on; where their masks know classes alone, true objects are the components of the masks, parted too.
F1 counts objects of an IoU above ½ as found.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from benchmarks.rounds import markdown, parser, report
from unetseg.config import EvalConfig
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.pairs.dataset_yaml import find_described
from unetseg.evaluation.evaluate import choose_pairs
from unetseg.evaluation.objects import match_labels, object_scores
from unetseg.evaluation.truth import matched_truth
from unetseg.prediction.objects import parted
from unetseg.prediction.predictor import load

Labels = NDArray[np.int32]
STRENGTHS = (0, 0.6, 0.7, 0.8, 0.9)
"""Of --watershed; predictions are parted as by default, and not at all."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, and print a table and a line of JSON."""
    flags = parser("objects", __doc__)
    flags.add_argument("--instances", type=Path, help="folder of images of instances")
    flags.add_argument("--run", type=Path, help="a trained U-Net")
    flags.add_argument("--data", type=Path, help="its pairs")
    given = flags.parse_args(arguments)
    sources = {"masks of drawn ellipses": list(ellipses(10))}
    if given.instances:
        files = sorted(given.instances.iterdir())
        sources["masks of given instances"] = [read_labels(file) for file in files]
    rows = [
        compared(name, strength, [(t, parted(t > 0, strength)) for t in truths])
        for name, truths in sources.items()
        for strength in STRENGTHS
    ]
    for flag in ("off", "auto") if given.run else ():
        both = list(masks(given.run, given.data, flag))
        for strength in (0, 0.8):
            pairs = [(parted(true, strength), parted(found, strength)) for true, found in both]
            rows.append(compared(f"predictions, --postprocess {flag}", strength, pairs))
    head = ["objects of", "--watershed", "images", "true", "counted", "error per image"]
    lines = markdown([*head, "of all", "F1"], rows)
    lines += [
        "",
        "Errors are those of the counts, without their sign, per image and of all true objects.",
    ]
    report("objects", "Objects", lines, {"rows": rows}, write=given.save)


def compared(
    name: str, strength: float, pairs: Iterable[tuple[Labels, Labels]]
) -> list[float | str]:
    """A row: how far the counts of true and found objects are apart, and F1 over all images."""
    matches, counts = [], []
    for true, found in pairs:
        matches.append(match_labels(true, found))
        counts.append((int(true.max()), int(found.max())))
    true, found = np.array(counts).T
    errors = np.abs(found - true)
    return [
        name,
        strength,
        len(counts),
        int(true.sum()),
        int(found.sum()),
        round(float(errors.mean()), 2),
        f"{errors.sum() / true.sum():.1%}",
        round(object_scores(matches).f1, 3),
    ]


def ellipses(images: int, side: int = 512) -> Iterator[Labels]:
    """Ellipses 6 to 18 pixels wide to either side, up to 1.6 times as long, that touch."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    for _ in range(images):
        labels, count = np.zeros((side, side), np.int32), 0
        for _ in range(120):
            radius, long, turn = rng.uniform(6, 18), rng.uniform(1, 1.6), rng.uniform(0, np.pi)
            down, right = y - rng.uniform(0, side), x - rng.uniform(0, side)
            along = right * np.cos(turn) + down * np.sin(turn)
            across = down * np.cos(turn) - right * np.sin(turn)
            inside = np.hypot(along / long, across) < radius
            if (labels[inside] > 0).mean() <= 0.1:
                count += 1
                labels[inside & (labels == 0)] = count
        yield labels


def read_labels(path: Path) -> Labels:
    """The instances of a file, numbered from 1 without a gap."""
    pixels = tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))
    numbers = np.unique(pixels, return_inverse=True)[1].reshape(pixels.shape).astype(np.int32)
    return numbers if (pixels == 0).any() else numbers + np.int32(1)


def masks(
    run: Path, data: Path, postprocess: str
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """True and predicted foreground of the pairs that a network was not trained on."""
    model = load(run, postprocess=postprocess)
    pair_set, _ = find_described(data, EvalConfig().data, model.info.class_map)
    class_map = model.info.class_map
    for pair in choose_pairs(pair_set, run, "auto")[1]:
        assert pair.mask
        index = class_map.encode(model.predict(pair.image))
        truth = matched_truth(read_mask(pair.mask), class_map, index.shape, (pair.image, pair.mask))
        yield np.isin(truth, class_map.foreground), np.isin(index, class_map.foreground)


if __name__ == "__main__":
    main()
