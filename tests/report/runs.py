"""Run folders for the tests of the page, with names that do harm where they are not escaped."""

import json
from pathlib import Path

from tests.builders import bundle_info, save_run
from unetseg.config import DeviceConfig, EvalConfig
from unetseg.data.masks.class_map import ClassInfo, ClassMap
from unetseg.data.sample import draw_sample
from unetseg.evaluation.evaluate import evaluate
from unetseg.storage import write_csv, write_json, write_text

HOSTILE = "<script>alert(1)</script>\"'&|`*_\u202e"
CLASSES = ClassMap(
    classes=(
        ClassInfo(name="background", code=0, colour=(0, 0, 0)),
        ClassInfo(name=HOSTILE, code=255, colour=(200, 0, 0)),
    ),
    background=0,
)
RULE = {"class_index": 1, "fill_holes": True}


def made_run(folder: Path, *, images: int = 5) -> Path:
    """A run folder as `train` and `eval` leave it, of a network with random weights."""
    run = save_run(
        folder / "run <b>&", bundle_info(classes=CLASSES, data_hash="ab" * 16, postprocess=[RULE])
    )
    data = draw_sample(folder / "data", count=images, size=96)
    for kind in ("images", "masks"):
        old = data / kind / "cells_000.png"
        old.rename(old.with_name("<img src=x onerror=alert(1)>&'.png"))
    trained = [
        {
            "epoch": n,
            "step": 9 * n,
            "seconds": 30.0 * n,
            "train_loss": 1 / n,
            "val_dice": 0.9 - 1 / n,
        }
        for n in range(1, 16)
    ]
    write_csv(run / "metrics.csv", trained)
    write_json(run / "env.json", {"machine": "CPU", "versions": {}, "data": str(data)})
    write_text(run / "config.yaml", "budget: 450s\nseed: 0\n")
    network = {"depth": 3, "width": 32}
    reasons = {"patch": f"the median side of {HOSTILE}", "depth": "what fits"}
    write_json(run / "plan.json", {"network": network, "patch": 96, "reasons": reasons})
    finding = {"check": "near-copies", "severity": "warning", "summary": HOSTILE, "fix": "Look."}
    shares = [{"class": name, "train": 0.5, "val": 0.4} for name in CLASSES.names]
    facts = {"images": "uint8, 3 bands, 96×96", "class_shares": shares, "findings": [finding]}
    write_json(run / "data.json", facts)
    config = EvalConfig(device=DeviceConfig(device="cpu", precision="float32"))
    evaluate(run, data, config)
    file = run / "eval" / "all" / "scores.json"
    scores = json.loads(file.read_text())
    bins = [{"confidence": n / 10, "accuracy": n / 12, "pixels": 9} for n in range(5, 11)]
    sweep = [{"threshold": n / 10, "dice": n * (9 - n) / 30} for n in range(1, 10)]
    both = {key: scores[key] for key in scores if "foreground" in key}
    difference = {"mean": -0.01, "interval": [-0.02, None], "images": 5, "verdict": "none"}
    measured = {
        "calibration": {"temperature": 1.2, "ece_before": 0.08, "ece": 0.03, "bins": bins},
        "threshold": {"used": 0.5, "best": 0.4, "dice_gain": 0.01},
        "threshold_sweep": sweep,
        "auc": {HOSTILE: 0.9},
        "average_precision": {HOSTILE: None},
        "human": {"images": 5, **both, "model": both, "difference": difference},
    }
    write_json(file, scores | measured)
    return run
