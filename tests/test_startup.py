"""What each door loads: nothing heavy before it is needed, so that short work starts at once."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.builders import save_run
from unetseg.cli.app import COMMANDS, LAB
from unetseg.data.sample import draw_sample

HEAVY = {"torch", "numpy", "PIL", "cv2", "scipy", "yaml", "matplotlib", "rasterio"}
SELDOM = {
    *("albumentations", "jinja2", "matplotlib", "openvino", "pycocotools", "rasterio", "scipy"),
    *("segmentation_models_pytorch", "sympy", "tensorboard", "timm", "torchvision"),
    *("torch._dynamo", "torch._inductor"),
}
"""What only some images, networks and commands need."""
STEPPING = {"albumentations", "scipy"}
"""What the first step of a training needs of it: augmentation, and what albumentations loads."""


def loaded(script: str, modules: set[str]) -> set[str]:
    """Those of `modules` that a process of its own has loaded at the end of a script."""
    report = f"{script}\nprint('loaded', *({modules!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{report}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.long
def test_no_help_page_loads_anything_heavy() -> None:
    pages = [[verb, "--help"] for verb in COMMANDS] + [["lab", verb, "--help"] for verb in LAB]
    script = f"from unetseg.cli.app import run\nfor page in {pages!r}:\n    assert run(page) == 0"
    assert loaded(script, HEAVY) == set()


@pytest.mark.long
@pytest.mark.parametrize("module", ["checks.check", "importers.importing", "data.sample"])
def test_what_needs_no_network_does_without_torch(module: str) -> None:
    assert loaded(f"import unetseg.{module}", {"torch"}) == set()


@pytest.mark.long
def test_a_prediction_from_the_shell_loads_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "image.png")
    words = ["predict", *(str(tmp_path / name) for name in ("run", "image.png"))]
    words += ["-o", str(tmp_path / "masks")]
    script = f"from unetseg.cli.app import run\nassert run({words!r}) == 0"
    assert loaded(script, SELDOM) == set()
    assert (tmp_path / "masks" / "image.png").is_file()


@pytest.mark.long
def test_training_loads_what_only_other_commands_need_late() -> None:
    script = "import unetseg.training.fit, unetseg.evaluation.evaluate"
    assert loaded(script, SELDOM) == set()


@pytest.mark.long
def test_the_first_step_of_a_training_waits_for_nothing_that_it_does_not_use(
    tmp_path: Path,
) -> None:
    data = draw_sample(tmp_path / "cells", count=6, size=64)
    words = ["train", str(data), "--out", str(tmp_path), "--width", "4", "--patch", "32", "-e", "1"]
    script = f"""
from unetseg.cli.app import run
from unetseg.training.learner import Learner
step = Learner.step
def first(*arguments):
    step(*arguments)
    raise KeyboardInterrupt
Learner.step = first
assert run({words!r}) == 130
"""
    assert loaded(script, SELDOM - STEPPING | {"fsspec", "scipy.stats"}) == set()
