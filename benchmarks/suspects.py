"""How many of ten wrong masks are found: planted into a folder, then looked for in suspects.csv.

python -m benchmarks.suspects plant data/dsb2018 planted       # writes planted/ and planted.json
unetseg train planted --folds 5 --budget 8m --name planted
python -m benchmarks.suspects find planted checkpoints/planted
"""

import json
import random
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.rounds import markdown, parser, report
from unetseg.storage import read_csv

SHIFTED, EMPTIED, SWAPPED = 4, 3, 3
"""Wrong masks of each kind."""
PART = 12
"""Masks are shifted by one part of so many of their sides."""


def plant(data: Path, planted: Path, seed: int) -> None:
    """Copy a folder with images/ and masks/, and spoil ten of its masks."""
    shutil.copytree(data, planted)
    chance = random.Random(seed)
    files = sorted((planted / "masks").iterdir())
    chosen = chance.sample(files, SHIFTED + EMPTIED + SWAPPED)
    kinds = ["shifted"] * SHIFTED + ["emptied"] * EMPTIED + ["swapped"] * SWAPPED
    for file, kind in zip(chosen, kinds, strict=True):
        with Image.open(file) as mask:
            values, palette = np.array(mask), mask.getpalette()
        if kind == "shifted":
            steps = [chance.choice((-1, 1)) * (side // PART) for side in values.shape[:2]]
            values = np.roll(values, steps, (0, 1))
        elif kind == "emptied":
            values = np.zeros_like(values)
        else:
            others = [other for other in files if other not in chosen and is_like(other, values)]
            values = np.array(Image.open(chance.choice(others)))
        spoilt = Image.fromarray(values)
        if palette:
            spoilt.putpalette(palette)
        spoilt.save(file)
    kind_of = {file.stem: kind for file, kind in zip(chosen, kinds, strict=True)}
    planted.with_suffix(".json").write_text(json.dumps(kind_of, indent=1))


def is_like(file: Path, values: NDArray[np.uint8]) -> bool:
    """Whether the mask in `file` has the size of `values`."""
    with Image.open(file) as mask:
        return mask.size == values.shape[1::-1]


def find(planted: Path, run: Path, *, write: bool) -> None:
    """The rank of each planted mask, and how many are among the first twenty."""
    rows = {row["image"]: row for row in read_csv(run / "eval" / "val" / "suspects.csv")}
    kind_of = json.loads(planted.with_suffix(".json").read_text())
    found = sorted((int(rows[name]["rank"]), kind, name) for name, kind in kind_of.items())
    table = [
        (f"{rank}", kind, rows[name]["disagreement"], rows[name]["dice"], name[:8])
        for rank, kind, name in found
    ]
    first = sum(rank <= 20 for rank, *_ in found)
    told = f"{first} of {len(found)} planted masks are among the first 20 of {len(rows)}."
    lines = [*markdown(("rank", "mask", "disagreement", "Dice", "image"), table), told]
    title = "Masks that were spoilt, and where suspects.csv ranks them"
    report("suspects", title, lines, {"first_20": first, "planted": len(found)}, write=write)


def main() -> None:
    """Plant or find."""
    flags = parser("suspects", __doc__)
    flags.add_argument("verb", choices=("plant", "find"))
    flags.add_argument("first", type=Path, help="of plant: data; of find: the planted folder")
    flags.add_argument("second", type=Path, help="of plant: where to; of find: the run folder")
    flags.add_argument("--seed", type=int, default=1)
    given = flags.parse_args()
    if given.verb == "plant":
        plant(given.first, given.second, given.seed)
    else:
        find(given.first, given.second, write=given.save)


if __name__ == "__main__":
    main()
