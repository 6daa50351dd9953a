"""nnU-Net 2d in the same minutes, in a Python of its own: it is no dependency of this project.

    uv venv /tmp/nnunet && uv pip install --python /tmp/nnunet nnunetv2
    NNUNET_PYTHON=/tmp/nnunet/bin/python python -m benchmarks.accuracy DATA --recipe nnunet

What nnU-Net chooses stays: fingerprint, plan, preprocessing, network, augmentation, loss, SGD,
float32 (on a CPU it takes no bfloat16), and mirrored, half-overlapping tiles when it predicts. Ours
are the clock and what follows from it: the learning rate falls with the share of the time, instead
of 1000 epochs of 250 steps, and its validation while training is left out, for it chooses nothing:
nnU-Net keeps the last weights. Its start-up, planning and preprocessing are part of the time, as
ours are; writing the images as it wants them, and predicting in the end, are not.

The images are those of peers.py, which runs this file in that Python: nothing of unetseg is
imported here.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

IGNORED = 255
NAME = "Dataset001_peer"
LABELS = "labelsTr"


def find_python() -> str:
    """The Python that has nnU-Net.

    Raises:
        SystemExit: none is named; the message says how to make one.
    """
    if python := os.environ.get("NNUNET_PYTHON"):
        return python
    made = "uv venv /tmp/nnunet && uv pip install --python /tmp/nnunet nnunetv2"
    raise SystemExit(f"nnunet: {made} && export NNUNET_PYTHON=/tmp/nnunet/bin/python")


def convert(source: Path, target: Path, classes: int, *, background: bool) -> None:
    """Write source/{train,val}/{images,masks} as the raw data set that nnU-Net reads.

    Number 0 is nnU-Net's background, which counts in no Dice. Ignored pixels have the highest
    number.

    Args:
        source: RGB images, and masks of class numbers, 255 being ignored.
        target: Folder of the data set; images of val go to imagesTs.
        classes: How many there are.
        background: Whether class 0 is the background; if not, every class is numbered one higher.
    """
    first = 0 if background else 1
    for split, images in (("train", "imagesTr"), ("val", "imagesTs")):
        (target / images).mkdir(parents=True)
        for path in (source / split / "images").iterdir():
            shutil.copy(path, target / images / f"{path.stem}_0000.png")
    (target / LABELS).mkdir()
    labels = {"background": 0} | {f"class {i}": i + first for i in range(1 - first, classes)}
    for path in (source / "train" / "masks").iterdir():
        mask = np.array(Image.open(path))
        if (mask == IGNORED).any():
            labels["ignore"] = classes + first
        numbers = np.where(mask == IGNORED, classes, mask) + first
        Image.fromarray(numbers.astype(np.uint8)).save(target / LABELS / path.name)
    content = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": labels,
        "numTraining": len(list((target / LABELS).iterdir())),
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }
    (target / "dataset.json").write_text(json.dumps(content))


def prepare() -> dict[str, Any]:
    """nnU-Net's fingerprint, plan and preprocessing of the data set; the plan."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as steps
    from nnunetv2.paths import nnUNet_preprocessed

    processes = os.cpu_count() or 1
    steps.extract_fingerprints([1], num_processes=processes)
    steps.plan_experiments([1])
    steps.preprocess([1], configurations=("2d",), num_processes=(processes,))
    folder = Path(nnUNet_preprocessed) / NAME
    plan: dict[str, Any] = json.loads((folder / "nnUNetPlans.json").read_text())
    return plan


def train(plan: dict[str, Any], raw: Path, ends: float) -> tuple[Any, int]:
    """Train nnU-Net 2d on all of raw/imagesTr until the time is over; its trainer, and steps."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    dataset = json.loads((raw / "dataset.json").read_text())
    plan = plan | {"continue_training": False}
    trainer = nnUNetTrainer(plan, "2d", "all", dataset, torch.device("cpu"))
    trainer.on_train_start()
    trainer.dataloader_val._finish()
    trainer.network.train()
    began, steps = time.monotonic(), 0
    while steps == 0 or time.monotonic() < ends:
        left = max(0.0, ends - time.monotonic()) / max(ends - began, 1e-9)
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * left**0.9  # nnU-Net's polynomial
        trainer.train_step(next(trainer.dataloader_train))
        steps += 1
    trainer.dataloader_train._finish()
    return trainer, steps


def predict(trainer: Any, images: Path, output: Path, *, background: bool) -> None:
    """Write the masks of a folder of images as nnU-Net does it, in the numbers before `convert`."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    output.mkdir()
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    predictor.predict_from_files_sequential(str(images), str(output))
    first = 0 if background else 1
    for path in output.glob("*.png"):
        numbers = np.array(Image.open(path))
        Image.fromarray(np.maximum(numbers, first) - np.uint8(first)).save(path)


def main() -> None:
    """Train on FOLDER/train within SECONDS, and predict FOLDER/val into FOLDER/predicted."""
    folder, budget, seed, classes, background = Path(sys.argv[1]), *map(float, sys.argv[2:])
    for kind in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{kind}"] = str(folder / "nnunet" / kind)
    raw = folder / "nnunet" / "raw" / NAME
    convert(folder, raw, int(classes), background=bool(background))

    began = time.monotonic()
    import torch

    torch.manual_seed(int(seed))
    trainer, steps = train(prepare(), raw, began + budget)
    seconds = time.monotonic() - began

    predict(trainer, raw / "imagesTs", folder / "predicted", background=bool(background))
    chosen = trainer.configuration_manager
    pixels = steps * chosen.batch_size * int(np.prod(chosen.patch_size))
    width = chosen.network_arch_init_kwargs["features_per_stage"][0]
    told = {"steps": steps, "pixels": pixels, "width": width, "seconds": seconds}
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
