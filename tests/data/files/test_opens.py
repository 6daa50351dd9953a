"""How often a file is opened: to read it, for its hash, and to plan an evaluation."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.builders import save_run, write_geotiff
from unetseg.data.files.pngs import write_png

SCRIPT = """
import sys
from collections import Counter
from pathlib import Path

data, run = map(Path, sys.argv[1:])
opens = Counter()


def count(event, args):
    if event == "open" and isinstance(args[0], str) and args[0].startswith(f"{data}/"):
        opens[args[0]] += 1


sys.addaudithook(count)  # for as long as the process lives
from unetseg.data.facts.fingerprint import describe_pairs
from unetseg.data.pairs.match import find_pairs
from unetseg.evaluation.evaluate import evaluate

pairs = find_pairs(data).pairs  # looks into a few TIFFs, which may be stacks
print(max(opens.values(), default=0))
opens.clear()
describe_pairs(pairs)
print(max(n for path, n in opens.items() if not path.endswith(".yaml")), len(opens))
opens.clear()
evaluate(run, data)
print(max(n for path, n in opens.items() if not path.endswith(".yaml")), len(opens))
"""
SPLITS = '{"pairs": [{"hash": "other", "name": "other", "split": "test"}]}'  # to compare with


@pytest.mark.long
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_files_are_opened_twice_for_the_fingerprint_and_thrice_to_evaluate(
    tmp_path: Path, suffix: str
) -> None:
    rng = np.random.default_rng(0)
    for name in "abc":
        pixels, mask = rng.integers(0, 200, (32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
        mask[4:20, 4:20] = 255
        if suffix == ".png":
            write_png(tmp_path / "data" / "images" / f"{name}.png", pixels)
        else:
            file = tmp_path / "data" / "images" / f"{name}.tif"
            write_geotiff(file, pixels, nodata=255)
        write_png(tmp_path / "data" / "masks" / f"{name}.png", mask)
    save_run(tmp_path / "run")
    (tmp_path / "run" / "splits.json").write_text(SPLITS)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "data"), str(tmp_path / "run")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [[int(number) for number in row.split()] for row in told.split("\n")[:3]]
    (pairing,), (fingerprint, files), (evaluation, scored) = rows
    assert pairing <= (suffix == ".tif")
    assert files == scored == 6
    assert fingerprint <= 2
    assert evaluation <= 3 + pairing
