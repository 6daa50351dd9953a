"""Which skips carry a trained U-Net: each level broken in turn, and what that does to Dice.

Four edits replace the encoder's features of one level, all else being left as it is:

- zero: nothing in their place. Features after a ReLU are 0 in most places anyway; but norms and
  biases behind the skip may count on more, and then the loss is theirs and not the content's.
- mean: each channel's mean over space and all images. Norms and biases get what they count on; but
  sparse features are never at their mean, which may look like something that is seen everywhere.
- shuffle: the same level of another image: the right statistics, the wrong content (permutation
  importance: Breiman 2001, doi 10.1023/A:1010933404324).
- noise: Gaussian, with the mean and deviation that each channel has in this image.

Zero and mean take the content of a level away; shuffle and noise put something false in its place.
What the network loses with the content is at most what the gentlest removal costs, and harsher ones
overstate it (Li & Janson 2024, 2409.09951). So the gentler of zero and mean decides the verdict:
where one of them costs nothing the skip could go, whatever other edits break. The better of two is
above 0 by chance more often than either, so that a skip hurts only if both removals gain. Shuffle
and noise tell whether the level is read; an idle one may be, for what brings nothing can still
mislead. They decide only where neither zero nor mean was run. Where the whole network has hardly
any Dice, or there is none, nothing can be lost and nothing is judged.

Taking the gentler of two edits favours doing without a little, and bootstrap intervals of few
images are too narrow (by a third for five): a verdict close to its threshold is no certainty. It is
about this trained network too; another one, trained without the skip, may learn to do without.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetseg.config import AblateConfig, NetworkConfig
from unetseg.errors import ConfigError
from unetseg.evaluation.confusion import (
    Counts,
    Floats,
    confusion,
    dice,
    mean_over,
)
from unetseg.progress import SILENT, Progress
from unetseg.runtime import explained_memory
from unetseg.skiplab.result import Result, publish
from unetseg.skiplab.trained import Subject, fitted
from unetseg.skiplab.verdicts import (
    CARRIES,
    IDLE,
    Change,
    decide,
    deciding_edit,
    draw_classes,
    draw_levels,
    first_dice,
    one_class,
    paired_change,
)
from unetseg.text import plural
from unetseg.unet.model import Edit

FOREGROUND = "foreground"
"""What the mean over the foreground classes is called in the table."""
WHOLE, BROKEN = "whole network", "broken skips"  # what progress hears of
CAPTION = (
    "The change of Dice when a skip is broken, by the gentler of zero and mean. It carries if the "
    f"network loses {CARRIES} or more, helps if more than {IDLE}, is idle if Dice stays within "
    f"±{IDLE}, hurts if every removal gains, and is unclear if the images tell none of these for "
    "certain."
)


@dataclass(frozen=True)
class Level:
    """One skip of the U-Net."""

    number: int
    """0 is full resolution."""
    kind: str
    there: bool
    """Whether the decoder is given anything of it."""

    @property
    def place(self) -> dict[str, Any]:
        """Its columns in the table; the resolution is relative to the image the network sees."""
        return {"level": self.number, "resolution": f"1/{1 << self.number}", "kind": self.kind}


@dataclass(frozen=True)
class Look:
    """What the whole network does with the images."""

    levels: tuple[Level, ...]
    means: tuple[Tensor, ...]
    """1×C×1×1 of each level: the mean of each channel over space and all images."""
    confusions: Counts
    """N×K×K, one per image."""


def ablate(
    subject: Subject,
    config: AblateConfig,
    *,
    output: Path,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Result:
    """Break each skip of a trained U-Net in turn, and judge it by the change of Dice.

    Writes ablate.csv (a row per level, class and edit; its verdict is that on the level for this
    class), ablate.json, ablate.png and, for more than two classes, ablate_classes.png.

    Args:
        subject: The trained U-Net and its images.
        config: The edits, and the number of bootstrap samples.
        output: Folder to write to.
        seed: Seed of noise, partners and bootstrap; equal seeds give equal results.
        progress: Hears what is done.

    Raises:
        ConfigError: no edit is left to break the skips with.
        OutOfMemoryError: an image does not fit in memory.
    """
    edits = _possible_edits(config.edits, subject, progress)
    with explained_memory("Choose a smaller --window."), torch.inference_mode():
        look = look_at_whole(subject, progress)
        broken = break_skips(subject, look, edits, seed=seed, progress=progress)
    rows = tabulate(subject, look, broken, samples=config.samples, seed=seed)
    overall = [row for row in rows if row["class"] == FOREGROUND]
    score = float(mean_over(dice(look.confusions.sum(0)), subject.info.class_map.foreground))
    amount = "no Dice" if np.isnan(score) else f"Dice {score:.3f}"
    images = f"{plural(len(subject.views), 'image')} of split {subject.split}"
    pictures = {"ablate": draw_levels(overall, f"whole network: {amount} on {images}")}
    if subject.segmenter.classes > 2 and broken:
        pictures["ablate_classes"] = draw_classes(rows)
    facts = {
        "run": subject.run,
        "split": subject.split,
        "images": [view.name for view in subject.views],
        "dice": score,
        "verdicts": {row["level"]: row["verdict"] for row in overall},
        "thresholds": {"carries": CARRIES, "idle": IDLE},
        "seed": seed,
        "settings": config.model_dump(mode="json"),
    }
    table = [  # None for nan: empty in the CSV
        {
            name: None if isinstance(value, float) and np.isnan(value) else value
            for name, value in row.items()
        }
        for row in rows
    ]
    hidden = {"class", "decides", "resolution"}
    summary = [
        {name: value for name, value in row.items() if name not in hidden}
        for row in table
        if row["class"] == FOREGROUND and (row["decides"] or row["verdict"] == "none")
    ]
    return publish(Result(output, table, summary, CAPTION), "ablate", pictures, **facts)


def _possible_edits(wanted: Iterable[str], subject: Subject, progress: Progress) -> list[str]:
    edits = list(dict.fromkeys(wanted))
    if "shuffle" in edits and len(subject.views) < 2:
        progress.say("shuffle is left out: it needs a second image")
        edits.remove("shuffle")
    if not edits:
        fix = "Choose --edits zero,mean, or use at least two images."
        raise ConfigError("no edit is left to break the skips with", fix=fix)
    return edits


# ------------------------------------------------------------------ the network, whole and broken


def look_at_whole(subject: Subject, progress: Progress = SILENT) -> Look:
    """Predict every view with the whole network, and take the mean of its features."""
    confusions, sums, areas = [], [], []
    progress.start(WHOLE, len(subject.views))
    for view in subject.views:
        features: list[Tensor] = []
        prediction = _predict(subject, view.tensor, view.statistics, _remembering(features))
        confusions.append(confusion(view.truth, prediction, subject.segmenter.classes))
        areas.append([feature.shape[-2] * feature.shape[-1] for feature in features])
        means = [feature.float().mean((0, 2, 3)).cpu().double() for feature in features]
        sums.append([mean * area for mean, area in zip(means, areas[-1], strict=True)])
        progress.advance(WHOLE, file=view.name)
    progress.finish(WHOLE)
    means = [
        (torch.stack(of_level).sum(0) / sum(area)).float()[None, :, None, None]  # 1, C, 1, 1
        for of_level, area in zip(zip(*sums, strict=True), zip(*areas, strict=True), strict=True)
    ]
    levels = skip_levels(subject.info.network, [mean.shape[1] for mean in means])
    return Look(levels, tuple(means), np.stack(confusions))


def skip_levels(network: NetworkConfig, channels: Sequence[int]) -> tuple[Level, ...]:
    """The skips of a network whose encoder has features of so many `channels`.

    A level without features or skip is not there; but nested nodes of the level above read the
    features of a level that has no skip of its own.

    >>> [level.there for level in skip_levels(NetworkConfig(skip=("none", "concat")), [8, 16])]
    [False, True]
    """
    kinds = network.skip_of_levels(len(channels))
    levels = []
    for number, (kind, width) in enumerate(zip(kinds, channels, strict=True)):
        read = kind not in {"none", "pruned"} or "nested" in kinds[max(0, number - 1) : number]
        levels.append(Level(number, kind if width else "none", there=read and width > 0))
    return tuple(levels)


def break_skips(
    subject: Subject,
    look: Look,
    edits: Sequence[str],
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[tuple[Level, str], Counts]:
    """The confusions N×K×K of the views for every level that is there and every edit."""
    of_edit: dict[tuple[Level, str], list[Counts]] = {
        (level, edit): [] for level in look.levels if level.there for edit in edits
    }
    progress.start(BROKEN, len(subject.views) * len(of_edit))
    partner = partners(len(subject.views), seed)
    for index, view in enumerate(subject.views):
        features: list[Tensor] = []  # of another image, as large as those of this one
        if "shuffle" in edits:
            other = subject.views[partner[index]]
            image = fitted(other, *view.truth.shape)
            _predict(subject, image, other.statistics, _remembering(features))
        for (level, edit), confusions in of_edit.items():
            if edit == "shuffle":
                replace = _always(features[level.number])
            elif edit == "mean":
                replace = _always(look.means[level.number])
            elif edit == "noise":
                replace = _noise([seed, level.number, index])
            else:
                replace = torch.zeros_like
            broken = replaced(level.number, replace)
            prediction = _predict(subject, view.tensor, view.statistics, broken)
            confusions.append(confusion(view.truth, prediction, subject.segmenter.classes))
            progress.advance(BROKEN, file=view.name)
    progress.finish(BROKEN)
    return {key: np.stack(confusions) for key, confusions in of_edit.items()}


def partners(count: int, seed: int) -> list[int]:
    """Another image for each of `count` images; each is chosen once.

    The images stand in a drawn ring and each takes the next: neighbours in a folder are often
    alike, such as slices of one volume.

    >>> sorted(partners(4, seed=0))
    [0, 1, 2, 3]
    """
    ring = np.random.default_rng(seed).permutation(count)
    following = dict(zip(ring.tolist(), np.roll(ring, -1).tolist(), strict=True))
    return [following[index] for index in range(count)]


def replaced(number: int, replace: Callable[[Tensor], Tensor]) -> Edit:
    """The edit that gives the decoder `replace(features)` at one level, all else as it is."""

    def edit(skips: list[Tensor]) -> list[Tensor]:
        return [*skips[:number], replace(skips[number]), *skips[number + 1 :]]

    return edit


def _remembering(features: list[Tensor]) -> Edit:
    """The edit that changes nothing and puts the skips into `features`."""

    def edit(skips: list[Tensor]) -> list[Tensor]:
        features.extend(skips)
        return skips

    return edit


def _always(value: Tensor) -> Callable[[Tensor], Tensor]:
    def replace(feature: Tensor) -> Tensor:
        return value.to(feature).expand_as(feature)

    return replace


def _noise(seeds: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Gaussian noise with each channel's mean and deviation, drawn alike on every machine."""

    def replace(feature: Tensor) -> Tensor:
        drawn = np.random.default_rng(seeds).standard_normal(feature.shape, np.float32)
        values = feature.float()
        mean = values.mean((2, 3), keepdim=True)
        deviation = values.std((2, 3), correction=0, keepdim=True)
        noise = torch.from_numpy(drawn).to(feature.device)
        return (mean + deviation * noise).to(feature.dtype)

    return replace


def _predict(subject: Subject, image: Tensor, statistics: Tensor, edit: Edit) -> NDArray[np.uint8]:
    """Class indexes H×W of an image 1×C×H×W."""
    machine = subject.machine
    image = image.to(machine.device).contiguous(memory_format=torch.channels_last)
    with machine.autocast():
        logits: Tensor = subject.segmenter(image, statistics.to(machine.device), edit)
    return logits[0].float().max(0).indices.to(torch.uint8).cpu().numpy()


# ------------------------------------------------------------------ changes and verdicts


def tabulate(
    subject: Subject,
    look: Look,
    broken: Mapping[tuple[Level, str], Counts],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row per level, class (the foreground first) and edit; nan where a class is absent.

    A level that is not there has one row, without numbers.
    """
    class_map = subject.info.class_map

    def foreground_dice(sums: Counts) -> Floats:
        return mean_over(dice(sums), class_map.foreground)

    rows: list[dict[str, Any]] = []
    for level in look.levels:
        pairs = {
            edit: np.stack([look.confusions, confusions], axis=1)  # N, 2, K, K
            for (at, edit), confusions in broken.items()
            if at == level
        }
        if not level.there:
            empty = dict.fromkeys(("edit", "dice", "change", "low", "high"))
            empty |= {"class": FOREGROUND, "decides": False, "verdict": "none"}
            rows.append(level.place | empty)
            continue
        changes = {
            edit: paired_change(pair, foreground_dice, samples=samples, seed=seed)
            for edit, pair in pairs.items()
        }
        rows += _rows(level, FOREGROUND, changes)
        for index, name in enumerate(class_map.names):
            changes = {
                edit: paired_change(one_class(pair, index), first_dice, samples=samples, seed=seed)
                for edit, pair in pairs.items()
            }
            rows += _rows(level, f"{name} (class)" if name == FOREGROUND else name, changes)
    return rows


def _rows(level: Level, name: str, changes: Mapping[str, Change]) -> list[dict[str, Any]]:
    decides = deciding_edit(changes)
    verdict = decide(changes)
    return [
        {**level.place, "edit": edit, "class": name, **change}
        | {"decides": edit == decides, "verdict": verdict}
        for edit, change in changes.items()
    ]
