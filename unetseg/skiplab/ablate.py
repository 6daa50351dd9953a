"""Which skips carry a trained U-Net: each level broken in turn, and what that does to Dice.

Four edits replace the encoder's features of one level, all else being left as it is:

- zero: nothing in their place. Norms and biases behind the skip may count on more than that, and
  then the loss is theirs and not the content's.
- mean: each channel's mean over space and all images. Norms and biases get what they count on; but
  sparse features are never at their mean, which may look like something that is seen everywhere.
- shuffle: the same level of another image: the right statistics, the wrong content (permutation
  importance: Breiman 2001, doi 10.1023/A:1010933404324).
- noise: Gaussian, with the mean and deviation that each channel has in this image.

What the network loses with the content is at most what the gentlest removal costs, and harsher ones
overstate it (Li & Janson 2024, 2409.09951). So the gentler of zero and mean decides the verdict:
where one of them costs nothing the skip could go. The better of two gains by chance more often than
either, so that a skip hurts only if both gain. Shuffle and noise put something false in its place:
they tell whether the level is read, and decide only where neither zero nor mean was run.

Bootstrap intervals of few images are too narrow (by a third for five): a verdict close to its
threshold is no certainty. And it is about this trained network; another one, trained without the
skip, may learn to do without.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from unetseg.config import AblateConfig, NetworkConfig
from unetseg.errors import ConfigError
from unetseg.evaluation.confusion import (
    Counts,
    Floats,
    bootstrap_intervals,
    confusion,
    dice,
    mean_over,
)
from unetseg.progress import SILENT, Progress
from unetseg.runtime import explained_memory
from unetseg.skiplab.look import COLOURS, Result, Row, Subject, fitted, new_figure, publish
from unetseg.storage import json_value
from unetseg.text import plural
from unetseg.unet.model import Edit

CARRIES = 0.05
"""Dice that a level which carries the network brings at least."""
IDLE = 0.005
"""Dice changes up to this are too small to matter."""
REMOVING = ("zero", "mean")
"""Edits that take the content away and put nothing false in its place."""
MOST_NUMBERS = 20
"""Classes up to which the map of the classes shows its numbers too."""
EDITS = {
    "zero": "zero: nothing in its place",
    "mean": "mean: its mean over all images",
    "shuffle": "shuffle: that of another image",
    "noise": "noise: random, of equal mean and deviation",
}

Change = Mapping[str, float]
"""dice (after), change (after − before), low and high (the ends of its 95% interval)."""
FOREGROUND = "foreground"
"""What the mean over the foreground classes is called in the table."""
WHOLE, BROKEN = "whole network", "broken skips"  # what progress hears of
CAPTION = (
    "The change of Dice when a skip is broken, by the gentler of zero and mean. It carries if the "
    f"network loses {CARRIES} or more and helps if more than {IDLE}, with the whole interval below "
    f"0; it is idle if the interval stays within ±{IDLE}, hurts if every removal gains, and is "
    "unclear if the images tell none of these for certain."
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
    progress: Progress = SILENT,
) -> Result:
    """Break each skip of a trained U-Net in turn, and judge it by the change of Dice.

    Writes ablate.csv (a row per level, class and edit; its verdict is that on the level for this
    class), ablate.json, ablate.png and, for more than two classes, ablate_classes.png.

    Equal seeds give equal noise, partners and bootstrap samples.

    Raises:
        ConfigError: no edit is left to break the skips with.
        OutOfMemoryError: an image does not fit in memory.
    """
    edits = list(dict.fromkeys(config.edits))
    if "shuffle" in edits and len(subject.views) < 2:
        progress.say("shuffle is left out: it needs a second image")
        edits.remove("shuffle")
    if not edits:
        fix = "Choose --edits zero,mean, or use at least two images."
        raise ConfigError("no edit is left to break the skips with", fix=fix)
    with explained_memory("Choose a smaller --window."), torch.inference_mode():
        look = look_at_whole(subject, progress)
        broken = break_skips(subject, look, edits, seed=config.seed, progress=progress)
    rows = tabulate(subject, look, broken, samples=config.samples, seed=config.seed)
    overall = [row for row in rows if row["class"] == FOREGROUND]
    score = float(mean_over(dice(look.confusions.sum(0)), subject.info.class_map.foreground))
    amount = "no Dice" if np.isnan(score) else f"Dice {score:.3f}"
    images = f"{plural(len(subject.views), 'image')} of split {subject.split}"
    pictures = {"ablate": draw_levels(overall, f"whole network: {amount} on {images}")}
    if subject.segmenter.classes > 2 and broken:
        pictures["ablate_classes"] = draw_classes(rows)
    table: list[Row] = json_value(rows)  # None for nan: empty in the CSV
    hidden = {"class", "decides", "resolution"}
    summary = [
        {name: value for name, value in row.items() if name not in hidden}
        for row in table
        if row["class"] == FOREGROUND
        and (row["decides"] or row["edit"] in REMOVING or row["verdict"] == "none")
    ]
    return publish(
        Result(output, table, summary, CAPTION),
        "ablate",
        pictures,
        run=subject.run,
        split=subject.split,
        images=[view.name for view in subject.views],
        dice=score,
        verdicts={row["level"]: row["verdict"] for row in overall},
        thresholds={"carries": CARRIES, "idle": IDLE},
        seed=config.seed,
        settings=config.model_dump(mode="json"),
    )


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
            replace: Callable[[Tensor], Tensor] = torch.zeros_like
            if edit == "noise":
                replace = partial(_noise, [seed, level.number, index])
            elif edit != "zero":
                value = (features if edit == "shuffle" else look.means)[level.number]
                replace = partial(_constant, value)
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


def _constant(value: Tensor, feature: Tensor) -> Tensor:
    return value.to(feature).expand_as(feature)


def _noise(seeds: Sequence[int], feature: Tensor) -> Tensor:
    """Gaussian noise with each channel's mean and deviation, drawn alike on every machine."""
    drawn = np.random.default_rng(seeds).standard_normal(feature.shape, np.float32)
    deviation, mean = torch.std_mean(feature.float(), (2, 3), correction=0, keepdim=True)
    noise = torch.from_numpy(drawn).to(feature.device)
    return (mean + deviation * noise).to(feature.dtype)


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
    samples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """One row per level, class (the foreground first) and edit; nan where a class is absent.

    A level that is not there has one row, without numbers.
    """
    class_map = subject.info.class_map

    def foreground_dice(sums: Counts) -> Floats:
        return mean_over(dice(sums), class_map.foreground)

    rows: list[dict[str, Any]] = []
    for level in look.levels:
        if not level.there:
            empty = dict.fromkeys(("edit", "dice", "change", "low", "high"))
            empty |= {"class": FOREGROUND, "decides": False, "verdict": "none"}
            rows.append(level.place | empty)
            continue
        whole = {
            edit: np.stack([look.confusions, confusions], axis=1)  # N, 2, K, K
            for (at, edit), confusions in broken.items()
            if at == level
        }
        scored = [(FOREGROUND, whole, foreground_dice)]
        for index, name in enumerate(class_map.names):
            alone = {edit: one_class(pair, index) for edit, pair in whole.items()}
            scored.append((f"{name} (class)" if name == FOREGROUND else name, alone, first_dice))
        for name, pairs, score in scored:
            changes = {
                edit: paired_change(pair, score, samples=samples, seed=seed)
                for edit, pair in pairs.items()
            }
            decides, verdict = decide(changes)
            rows += [
                {**level.place, "edit": edit, "class": name, **change}
                | {"decides": edit == decides, "verdict": verdict}
                for edit, change in changes.items()
            ]
    return rows


def paired_change(
    pair: Counts, score: Callable[[Counts], Floats], *, samples: int = 1000, seed: int = 0
) -> Change:
    """How a score changes, with a 95% bootstrap interval: the same images drawn for both.

    All is nan where there is no score; low and high are nan for fewer than two images too.

    Args:
        pair: int64 N×2×K×K, the confusions of each image before and after.
        score: int64 …×K×K sums → … scores, nan where there is none.
        samples: Number of bootstrap samples.
        seed: Seed of the draw.
    """

    def difference(sums: Counts) -> Floats:
        return score(sums[..., 1, :, :]) - score(sums[..., 0, :, :])

    total = pair.sum(axis=0)
    ((low, high),) = bootstrap_intervals(
        pair, lambda sums: difference(sums)[:, None], samples=samples, seed=seed
    )
    after, change = float(score(total[1])), float(difference(total))
    return {"dice": after, "change": change, "low": low, "high": high}


def one_class(confusions: Counts, index: int) -> Counts:
    """…×2×2: class `index` (first) against all others, of confusions …×K×K.

    >>> one_class(np.array([[3, 1, 0], [0, 2, 4], [0, 0, 5]]), 1).tolist()
    [[2, 4], [1, 8]]
    """
    hits = confusions[..., index, index]
    missed = confusions[..., index, :].sum(-1) - hits
    made_up = confusions[..., :, index].sum(-1) - hits
    others = confusions.sum((-2, -1)) - hits - missed - made_up
    return np.stack([hits, missed, made_up, others], -1).reshape(*hits.shape, 2, 2)


def first_dice(sums: Counts) -> Floats:
    """Dice of the first class of confusions …×K×K."""
    return dice(sums)[..., 0]


def decide(changes: Mapping[str, Change]) -> tuple[str, str]:
    """The edit that decides, and its verdict on the level.

    The removal (zero or mean) that costs least decides; of all edits where neither was run.

    - idle: its interval lies within ±`IDLE`.
    - carries: it costs `CARRIES` or more, and its whole interval is below 0.
    - helps: it costs more than `IDLE`, and its whole interval is below 0.
    - hurts: it gains more than `IDLE`, and the intervals of all removals are above 0. The deciding
      one is the best of them, and the best of several gains by chance alone more often.
    - unclear: none of these; or there is no interval (one image, or an absent class); or the whole
      network has no more Dice than `CARRIES`, so that there is nothing to lose.

    >>> decide({"zero": {"dice": 0.6, "change": -0.2, "low": -0.3, "high": -0.1}})
    ('zero', 'carries')
    """
    removals = [edit for edit in changes if edit in REMOVING] or list(changes)
    edit = max(removals, key=lambda each: np.nan_to_num(changes[each]["change"], nan=-np.inf))
    after, change, low, high = (changes[edit][name] for name in ("dice", "change", "low", "high"))
    gains = all(changes[each]["low"] > 0 for each in removals)
    if not after - change > CARRIES:  # nor if it is nan
        return edit, "unclear"
    if low >= -IDLE and high <= IDLE:
        return edit, "idle"
    if change < -IDLE and high < 0:
        return edit, "carries" if change <= -CARRIES else "helps"
    return edit, "hurts" if gains and change > IDLE else "unclear"


# ------------------------------------------------------------------ pictures


def draw_levels(overall: Sequence[Row], whole: str) -> Figure:
    """The change of the foreground Dice for each level and edit, and the verdicts.

    `whole` says what the whole network scored on what.
    """
    verdicts = {row["level"]: row["verdict"] for row in overall}
    edits = [edit for edit in EDITS if any(row["edit"] == edit for row in overall)]
    figure, axes = new_figure(9.5, 2.4 + 0.75 * len(verdicts))
    axis = axes[0, 0]
    axis.axvline(0, color="black", linewidth=1)
    axis.axvspan(-IDLE, IDLE, color="#dddddd", label=f"±{IDLE}: too small to matter")
    for number, edit in enumerate(edits):
        rows = [row for row in overall if row["edit"] == edit]
        heights = [row["level"] + 0.17 * (number - (len(edits) - 1) / 2) for row in rows]
        changes, lows, highs = ([row[name] for row in rows] for name in ("change", "low", "high"))
        axis.hlines(heights, lows, highs, color=COLOURS[number], linewidth=2)
        axis.plot(changes, heights, "o", color=COLOURS[number], label=EDITS[edit])
        rings = [10 * row["decides"] for row in rows]
        axis.scatter(changes, heights, np.square(rings), facecolor="none", edgecolor="black")
    left, right = axis.get_xlim()
    axis.set_xlim(min(left, -4 * IDLE), max(right, 4 * IDLE))
    for level, verdict in verdicts.items():
        axis.text(1.02, level, verdict, transform=axis.get_yaxis_transform(), va="center")
    axis.set_yticks(list(verdicts), level_names(overall))
    axis.set_ylim(max(verdicts, default=0) + 0.5, -0.5)
    axis.set_xlabel("change of foreground Dice (below 0: worse)")
    axis.set_title(
        f"What the network loses when one of its skips is broken\n({whole}; "
        "lines: 95% intervals; ring: the removal that costs least, which decides)",
        fontsize=11,
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def draw_classes(rows: Sequence[Row]) -> Figure:
    """The change of Dice for each level (down) and class (across), by the deciding edits."""
    levels = list(dict.fromkeys(row["level"] for row in rows))
    names = list(dict.fromkeys(row["class"] for row in rows))
    changes = np.full((len(levels), len(names)), np.nan)
    for row in rows:
        if row["decides"]:
            changes[levels.index(row["level"]), names.index(row["class"])] = row["change"]
    figure, axes = new_figure(4 + min(0.6 * len(names), 40), 2.2 + 0.5 * len(levels))
    axis, reach = axes[0][0], max(IDLE, np.nanmax(np.abs(changes)))
    colours = colormaps["RdBu"].with_extremes(bad="#dddddd")
    image = axis.imshow(changes, cmap=colours, vmin=-reach, vmax=reach, aspect="auto")
    figure.colorbar(image, label="change of Dice (red: worse)")
    for (down, across), value in np.ndenumerate(changes):
        if len(names) <= MOST_NUMBERS and not np.isnan(value):
            colour = "white" if abs(value) > 0.6 * reach else "black"
            style = {"ha": "center", "va": "center", "color": colour, "fontsize": 8}
            axis.text(across, down, f"{value:+.2f}", **style)
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.set_yticks(range(len(levels)), level_names(rows))
    axis.grid(visible=False)
    axis.set_xlabel("class")
    axis.set_title("What each class loses by the gentlest removal of a skip (grey: none there)")
    return figure


def level_names(rows: Sequence[Row]) -> list[str]:
    """What each level is called in a picture."""
    names = [f"level {row['level']}\n{row['resolution']} {row['kind']}" for row in rows]
    return list(dict.fromkeys(names))
