"""Facts of a run → README.md of its bundle: what the model is, and what it is not for."""

import math
import re
from collections.abc import Mapping
from typing import Any

from unetseg.evaluation.confusion import FEW
from unetseg.report.facts import Facts, after_prediction
from unetseg.storage import write_text
from unetseg.text import plural, printable

NAME = "README.md"
WEAK = 0.5
"""Dice below which a class is named among the limits."""


def model_card(info: Mapping[str, Any], facts: Facts) -> str:
    """The card of a bundle in Markdown.

    Args:
        info: Its model.json.
        facts: Those of its run; where it was evaluated, these scores are told.
    """
    try:
        return _card(info, facts)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        return f"# {plain(facts.name)}\n\nA U-Net of unetseg; more could not be told: {error!r}\n"


def plain(text: object) -> str:
    r"""A name as Markdown and HTML show it, whatever it holds.

    >>> plain("a_b <script>|")
    'a\\_b \\<script\\>\\|'
    """
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&])", r"\\\1", printable(str(text)))


def _card(info: Mapping[str, Any], facts: Facts) -> str:
    classes = [one["name"] for one in info["class_map"]["classes"]]
    scores = facts.scores if facts.scored else info.get("scores", {})
    images, network = facts.split_images, info["network"]
    rows = {
        "classes": ", ".join(map(plain, classes)),
        "images": f"{info['dtype']}, {plural(info['bands'], 'band')}{_values(info)}",
        "network": f"U-Net, encoder {plain(network.get('encoder') or 'our own')}, "
        f"skips {plain(', '.join(network['skip']))}",
        "after a prediction": plain("; ".join(after_prediction(info))),
        "trained on": ", ".join(f"{plural(n, 'image')} ({split})" for split, n in images.items()),
        "data": f"BLAKE2b {info['data_hash']}" if info.get("data_hash") else "",
        "weights": f"SHA-256 {info['weights_sha256']}" if info.get("weights_sha256") else "",
        "versions": ", ".join(f"{plain(k)} {plain(v)}" for k, v in info["versions"].items()),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items() if value)
    limits = "\n".join(f"- {one}" for one in _limits(info, scores, classes))
    return f"""# {plain(facts.name)}

A U-Net that gives every pixel of an image one of {len(classes)} classes.

| | |
|---|---|
{table}

## Scores

{_scores(scores)}
## Use

MODEL is this folder.

```
unetseg predict MODEL IMAGES -o masks
```

```python
import unetseg

mask = unetseg.load("MODEL").predict("image.png")  # H×W class codes
```

## Limits

{limits}
"""


def _values(info: Mapping[str, Any]) -> str:
    seen = info.get("values")
    return f", values {min(seen['low']):g} to {max(seen['high']):g}" if seen else ""


def _scores(scores: Mapping[str, Any]) -> str:
    if not scores:
        return "None yet.\n"
    low, high = (number(end) for end in scores["foreground_dice_interval"])
    dice, of_all = number(scores["foreground_dice"]), number(scores["mean_iou"])
    images = plural(scores["images"], "image")
    rows = "\n".join(
        f"| {plain(name)} | {number(one['dice'])} | {number(one['iou'])} | "
        f"{number(one['precision'])} | {number(one['recall'])} |"
        for name, one in scores["classes"].items()
    )
    return f"""Mean Dice of the foreground {dice} (95% interval {low}–{high}) on {images} of the
split {plain(scores["split"])}; mean IoU of all classes {of_all}.

| class | Dice | IoU | precision | recall |
|---|---|---|---|---|
{rows}
"""


def _limits(info: Mapping[str, Any], scores: Mapping[str, Any], classes: list[str]) -> list[str]:
    """What a user has to know before trusting a mask."""
    found = [
        "The scores hold for images like those it was trained on; `unetseg eval` scores others.",
        f"Every image needs {plural(info['bands'], 'band')} of {info['dtype']}; a prediction says "
        "where values lie far from those trained on.",
    ]
    if scores.get("split") == "val":
        found.append("The best weights were chosen by the images it is scored on, which flatters.")
    if 0 < scores.get("images", 0) < FEW:
        found.append(f"It was scored on {plural(scores['images'], 'image')}: the interval is wide.")
    dice = {name: one["dice"] for name, one in scores.get("classes", {}).items()}
    weak = [name for name, value in dice.items() if value is not None and value < WEAK]
    absent = [name for name in classes if dice and dice.get(name) is None]
    for names, what in (weak, f"Dice below {WEAK}"), (absent, "not in the images it is scored on"):
        if names:
            found.append(f"{what}: {', '.join(map(plain, names))}")
    return found


def number(value: object, form: str = "{:.3f}") -> str:
    """A number in its form, that of scores; a dash where there is none."""
    is_known = isinstance(value, int | float) and math.isfinite(value)
    return form.format(value) if is_known else "–"


def write_card(facts: Facts) -> None:
    """Write the card into the bundle of a run, if there is one.

    Raises:
        MachineError: it cannot be written.
    """
    if facts.info:
        write_text(facts.bundle / NAME, model_card(facts.info, facts))
