"""How far learned skips open: α, gates, switches and attention, over images and over training.

An opening is the number that a skip multiplies the encoder's features with: 1 lets them through as
they are, 0 shuts them out. What the network makes of what comes through it does not tell, for the
convolutions behind have weights of their own: see `lab ablate`.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import BaseModel, FiniteFloat
from torch import Tensor, nn

from unetseg.data.masks.class_map import IGNORED
from unetseg.data.masks.overlay import Picture, overlay, picture
from unetseg.errors import ConfigError
from unetseg.progress import SILENT, Progress
from unetseg.runtime import explained_memory
from unetseg.skiplab.look import COLOURS, Result, Row, Subject, new_figure, publish
from unetseg.storage import parse_json
from unetseg.unet.shortcuts import CARRY, Gate, Highway, ScaledBranch, ScaledInput
from unetseg.unet.skips import SWITCH_SPEED, SWITCH_START, Learned, Switch

Array = NDArray[np.float32]

TASK = "reading the openings"
SHUT, OPEN = 0.1, 0.9
"""Openings below and above these are called shut and open."""
SHOWN = 6
"""Images whose attention is drawn."""
FOLLOWS = {"gated", "attention"}
"""Kinds of skip that follow the image; α and switches are the same for every image."""

OPENING = "mean opening of the skips: on one validation image"
SKIP_ALPHA = "α of the skips: α·encoder + decoder"
INPUT_ALPHA = "α of the shortcuts: F(x) + αx"
BRANCH_ALPHA = "α of the shortcuts: x + αF(x)"
LOG_ODDS = "log-odds of the switches: open above 0"
BIAS_GATE = "gates of the shortcuts: mean of σ(b)"
"""By their biases alone: what the input adds differs from pixel to pixel, and is left out."""
COLOUR_MAP, OPACITY = "viridis", 0.65
"""Of attention over its image."""
NARROWEST = 0.05
"""Range of openings that the colours of a level span at least."""
CAPTION = (
    f"An opening is the number that a skip multiplies the features with: shut below {SHUT}, open "
    f"above {OPEN}, partly between. Attention with a contrast above 0 lets more through on the "
    "objects than elsewhere (1: on them alone), and gates with a spread above 0 follow the image."
)


@dataclass(frozen=True)
class Opening:
    """How much the skip of one level lets through of one image, or of all on average."""

    level: int
    kind: str
    image: str
    """"all" where it is averaged over the images."""
    values: Array
    """C gates, H×W attention (of the first images only), or one number."""
    mean: float
    low: float
    """5th percentile over channels or pixels."""
    high: float
    """95th percentile."""
    foreground: float | None
    """Of attention: mean over the foreground of the truth."""
    background: float | None
    """Of attention: mean over all else that is not ignored."""
    spread: float | None = None
    """Deviation over the images: of the mean; of gates, that of each channel, averaged."""

    @property
    def resolution(self) -> str:
        """Side of the features relative to the image the network sees."""
        return f"1/{1 << self.level}"

    @property
    def contrast(self) -> float | None:
        """(foreground − background) / their sum: 1 only objects pass, 0 alike, −1 none does."""
        if self.foreground is None or self.background is None:
            return None
        total = self.foreground + self.background
        return (self.foreground - self.background) / total if total else 0.0

    def row(self) -> dict[str, Any]:
        """The opening as a row of the table; of gates also how many are shut, and how many open."""
        gated = self.kind == "gated"
        row = {
            "nearly_shut": int((self.values < SHUT).sum()) if gated else None,
            "nearly_open": int((self.values > OPEN).sum()) if gated else None,
            "verdict": verdict_on(self.mean),
        }
        columns = "level resolution kind image mean low high spread foreground background contrast"
        return {name: getattr(self, name) for name in columns.split()} | row


@dataclass(frozen=True)
class Factor:
    """A number that the network learned: an α, the log-odds of a switch, a gate's bias."""

    name: str
    what: str
    value: float
    start: float
    """Its value before training."""

    @property
    def opening(self) -> float:
        """What it multiplies with: itself, but 0 or 1 for the log-odds of a switch."""
        return float(self.value > 0) if self.what == LOG_ODDS else self.value

    @property
    def stage(self) -> str:
        """Where in the U it stands.

        >>> Factor("decoder.steps.2.block.shortcut.alpha", BRANCH_ALPHA, 0.1, 0).stage
        'decoder level 2'
        """
        matched = re.match(r"(encoder|decoder)\D*(\d+)", self.name)
        side, level = matched.groups() if matched else ("network", "")
        return f"{'skip' if '.skip.' in self.name else side} level {level}"


class Moment(BaseModel):
    """What one validation of the training wrote about the skips."""

    step: int
    openings: list[FiniteFloat | None]
    """Mean of each level, full resolution first; None where it is not learned."""
    factors: dict[str, FiniteFloat]
    """Learned numbers by the name of their parameter."""


class Course(NamedTuple):
    """One learned number over the training."""

    what: str
    stage: str
    points: dict[int, float]
    """Its value by the step of the training."""


def verdict_on(opening: float) -> str:
    """Whether a path is shut, open or partly open; of an α the size counts.

    >>> [verdict_on(opening) for opening in (0.05, -0.5, 1.2)]
    ['shut', 'partly', 'open']
    """
    return "shut" if abs(opening) < SHUT else "open" if abs(opening) > OPEN else "partly"


def gates(subject: Subject, *, output: Path, progress: Progress = SILENT) -> Result:
    """Show what the skips and shortcuts of a trained U-Net settled on.

    Writes gates.csv (the openings by level and image, then the learned factors), gates.json,
    gates.png, and where there is something to show: gates_training.png (over the training),
    gates_maps.png (attention over the images) and gates_channels.png (gates by channel and image).
    Openings are computed in float32: bf16 has no number between 0.996 and 1.

    Args:
        subject: The trained U-Net and its images.
        output: Folder to write to.
        progress: Hears what is done.

    Raises:
        ConfigError: no skip and no shortcut of the network learns how far it opens.
        OutOfMemoryError: an image does not fit in memory.
    """
    factors = learned_factors(subject.segmenter.network, subject.info.network.alpha)
    with explained_memory("Choose a smaller --window."):
        openings = measure_openings(subject, progress)
    if not openings and not factors:
        network = subject.info.network
        kinds = [f"skip {', '.join(network.skip)}", f"block {network.block}"]
        if network.block == "residual":
            kinds.append(f"shortcut {network.shortcut}")
        raise ConfigError(
            f"no skip and no shortcut of {subject.run} learns how far it opens",
            kinds,
            fix="Train with --skip attention, gated, learned or switch, or with --block residual "
            "--shortcut learned, rezero or gated.",
        )
    levels = sorted({opening.level for opening in openings})
    overall = [over_images([o for o in openings if o.level == level]) for level in levels]
    moments = read_log(subject.run / "log.jsonl", progress)
    rows = [each.row() for each in (*(o for o in openings if o.kind in FOLLOWS), *overall)]
    rows += [asdict(factor) | {"verdict": verdict_on(factor.opening)} for factor in factors]
    figures = {"gates": _settled(overall, factors)}
    if courses := training_courses(moments, overall, factors):
        figures["gates_training"] = _training(courses)
    if attention := [each for each in openings if each.kind == "attention"]:
        figures["gates_maps"] = _maps(subject, attention)
    if gated := [each for each in openings if each.kind == "gated"]:
        figures["gates_channels"] = _channels(gated)
    training = [moment.model_dump() for moment in moments]
    result = Result(output, rows, _summary(overall, factors), CAPTION)
    return publish(
        result, "gates", figures, run=subject.run, split=subject.split, training=training
    )


def _summary(overall: Sequence[Opening], factors: Sequence[Factor]) -> list[Row]:
    """A row for each level whose skip learns, and for each stage whose shortcuts do."""
    rows: list[Row] = [
        {"where": f"level {each.level}", "what": each.kind, "opening": each.mean}
        | {"low": each.low, "high": each.high, "contrast": each.contrast, "spread": each.spread}
        | {"verdict": verdict_on(each.mean)}
        for each in overall
    ]
    # α and switches of skips are openings already
    for what, group in _by_meaning(factors, without=(SKIP_ALPHA, LOG_ODDS)).items():
        for stage in dict.fromkeys(factor.stage for factor in group):
            values = [factor.value for factor in group if factor.stage == stage]
            mean = float(np.mean(values))
            name = what.partition(":")[0]
            row = {"where": stage, "what": name, "opening": mean, "low": min(values)}
            rows.append(row | {"high": max(values), "verdict": verdict_on(mean)})
    return rows


def _by_meaning(factors: Sequence[Factor], *, without: Sequence[str]) -> dict[str, list[Factor]]:
    groups: dict[str, list[Factor]] = {}
    for factor in factors:
        if factor.what not in without:
            groups.setdefault(factor.what, []).append(factor)
    return groups


# ------------------------------------------------------------------ over images


@torch.inference_mode()
def measure_openings(subject: Subject, progress: Progress = SILENT) -> list[Opening]:
    """The openings of every image and every level whose skip learns; empty where none does."""
    device, segmenter = subject.machine.device, subject.segmenter
    kinds = subject.info.network.skip_of_levels(len(segmenter.network.decoder.steps))
    openings = []
    progress.start(TASK, len(subject.views))
    for index, view in enumerate(subject.views):
        pixels = segmenter.prepared(view.tensor.to(device), view.statistics.to(device))
        opened = segmenter.network.openings(pixels)
        for level, (kind, tensor) in enumerate(zip(kinds, opened, strict=True)):
            if tensor is None:
                continue
            values: Array = tensor.float().cpu().numpy()
            if kind == "attention":
                values = enlarged(values[0, 0], level, pixels.shape[-2:], view.truth.shape)
                sides = on_objects(values, view.truth, subject.info.class_map.foreground)
                kept = values if index < SHOWN else values[:0]
            else:
                kept, sides = values.ravel(), (None, None)
            openings.append(Opening(level, kind, view.name, kept, *_range(values), *sides))
        progress.advance(TASK, file=view.name)
    progress.finish(TASK)
    return openings


def enlarged(opening: Array, level: int, seen: Sequence[int], shape: Sequence[int]) -> Array:
    """A map of `level` as large as its image: each pixel has the number of the square it lies in.

    So every pixel of the truth counts, however small an object is. A number stands for a square of
    2^level pixels of what the network sees: `seen` is the height and width of that, without what
    continues it at the border, and `shape` that of the image.
    """
    rows, columns = (
        (2 * np.arange(side) + 1) * length // (2 * side) >> level
        for side, length in zip(shape, seen, strict=True)
    )
    return np.asarray(opening[np.ix_(rows, columns)])


def on_objects(
    opening: Array, truth: NDArray[np.uint8], foreground: Sequence[int]
) -> tuple[float | None, float | None]:
    """Mean of `opening` H×W over the foreground of `truth`, and over all else; None of no pixels.

    >>> on_objects(np.array([[1, 0, 0.5]], np.float32), np.array([[1, 0, 255]], np.uint8), [1])
    (1.0, 0.0)
    """
    objects = np.isin(truth, foreground)
    sides = opening[objects], opening[~objects & (truth != IGNORED)]
    inside, outside = (float(side.mean(dtype=np.float64)) if side.size else None for side in sides)
    return inside, outside


def over_images(openings: Sequence[Opening]) -> Opening:
    """The openings of one level averaged over the images; of gates, channel by channel.

    Foreground and background are averaged over the images that have both.
    """
    first = openings[0]
    mean, low, high = np.mean([[each.mean, each.low, each.high] for each in openings], 0).tolist()
    values, spread = np.array([mean], np.float32), float(np.std([each.mean for each in openings]))
    if first.kind == "gated":
        channels = np.stack([each.values for each in openings])
        values, spread = channels.mean(0), float(channels.std(0).mean())
        mean, low, high = _range(values)
    both = [(o.foreground or 0, o.background or 0) for o in openings if o.contrast is not None]
    inside, outside = np.mean(both, 0).tolist() if both else (None, None)
    return Opening(first.level, first.kind, "all", values, mean, low, high, inside, outside, spread)


def _range(values: Array) -> tuple[float, float, float]:
    """Mean, 5th and 95th percentile."""
    low, high = np.percentile(values, (5, 95))
    return float(values.mean(dtype=np.float64)), float(low), float(high)


# ------------------------------------------------------------------ learned numbers, over training


def learned_factors(network: nn.Module, alpha: float | None = None) -> list[Factor]:
    """The numbers that tell how far the skips and shortcuts of `network` open.

    `alpha` is the first value of every α, where it is not the default of its kind.
    """
    first = {INPUT_ALPHA: 1.0, BRANCH_ALPHA: 0.0, SKIP_ALPHA: 1.0}
    first = {what: value if alpha is None else alpha for what, value in first.items()}
    first |= {LOG_ODDS: SWITCH_START, BIAS_GATE: torch.tensor(CARRY).sigmoid().item()}
    kinds = {ScaledInput: INPUT_ALPHA, ScaledBranch: BRANCH_ALPHA, Learned: SKIP_ALPHA}
    factors = []
    for name, part in network.named_modules():
        match part:
            case ScaledInput() | ScaledBranch() | Learned():
                own, what, value = "alpha", kinds[type(part)], part.alpha.item()
            case Switch():
                own, what, value = "log_odds", LOG_ODDS, part.log_odds.item()
            case Highway(gate=Gate(bias=Tensor() as bias)):
                own, what, value = "gate", BIAS_GATE, bias.sigmoid().mean().item()
            case _:
                continue
        factors.append(Factor(f"{name}.{own}", what, value, first[what]))
    return factors


def read_log(path: Path, progress: Progress = SILENT) -> list[Moment]:
    """What the validations wrote into log.jsonl, by step; empty where there is no such file.

    Where a resumed training went back some steps, what it wrote anew counts.
    """
    moments: list[Moment] = []
    broken = 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for line in lines:
        try:
            content = parse_json(line)
            if not isinstance(content, dict) or content.get("event") != "skips":
                continue
            moment = Moment.model_validate(content)
        except ValueError:  # cut off by a crash, or pydantic's error
            broken += 1
            continue
        while moments and moments[-1].step >= moment.step:
            moments.pop()
        moments.append(moment)
    if broken:
        progress.say(f"{broken} lines of {path} cannot be read and are left out")
    if not moments:
        progress.say(f"{path} tells nothing of the skips over the training")
    return moments


def training_courses(
    moments: Sequence[Moment], overall: Sequence[Opening], factors: Sequence[Factor]
) -> list[Course]:
    """The mean openings of gates and attention, and the factors, along the training."""
    courses = []
    for each in (each for each in overall if each.kind in FOLLOWS):
        means = {m.step: m.openings[each.level] for m in moments if each.level < len(m.openings)}
        points = {step: mean for step, mean in means.items() if mean is not None}
        courses.append(Course(OPENING, f"level {each.level}", points))
    for factor in factors:
        key = factor.name.replace(".log_odds", ".slow_log_odds")
        speed = SWITCH_SPEED if factor.what == LOG_ODDS else 1.0
        points = {m.step: speed * m.factors[key] for m in moments if key in m.factors}
        courses.append(Course(factor.what, factor.stage, points))
    return [course for course in courses if course.points]


# ------------------------------------------------------------------ in pictures


def _settled(overall: Sequence[Opening], factors: Sequence[Factor]) -> Figure:
    """The openings of every level, and the learned factors by where they stand."""
    groups = _by_meaning(factors, without=(SKIP_ALPHA,))  # α of the skips are openings already
    most = max(len(overall), *(len({f.stage for f in each}) for each in groups.values()), 1)
    count = bool(overall) + len(groups)
    figure, axes = new_figure(1 + 6 * count, 2.2 + 0.4 * most, columns=count)
    for panel, (what, group) in zip(axes[0, bool(overall) :], groups.items(), strict=True):
        stages = list(dict.fromkeys(factor.stage for factor in group))
        places = [stages.index(factor.stage) for factor in group]
        panel.plot([factor.value for factor in group], places, "o")
        panel.axvline(group[0].start, color="0.4", linestyle="--", label="at the start")
        _name_rows(panel, stages, what)
    if overall:
        panel, places = axes[0, 0], list(range(len(overall)))
        panel.hlines(places, [o.low for o in overall], [o.high for o in overall], color="0.8", lw=8)
        for marker, name in (("o", "mean"), ("^", "foreground"), ("v", "background")):
            values = np.array([getattr(each, name) for each in overall], np.float64)
            if not np.isnan(values).all():  # None is nan, and not drawn
                panel.plot(values, places, marker, label=name)
        panel.update_datalim([(0, 0), (1, 0)])  # shut and open are in the picture
        panel.autoscale_view(scaley=False)
        names = [f"level {each.level} ({each.resolution})\n{each.kind}" for each in overall]
        _name_rows(panel, names, "opening of the skips (bar: 5–95% of the pixels or channels)")
    return figure


def _name_rows(panel: Any, names: Sequence[str], what: str) -> None:
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_xlabel(what)
    panel.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def _training(courses: Sequence[Course]) -> Figure:
    """The learned numbers over the training, one panel for each kind."""
    kinds = list(dict.fromkeys(course.what for course in courses))
    figure, axes = new_figure(7 * len(kinds), 4.5, columns=len(kinds))
    for panel, kind in zip(axes[0], kinds, strict=True):
        own = [course for course in courses if course.what == kind]
        stages = list(dict.fromkeys(course.stage for course in own))
        for number, stage in enumerate(stages):
            colour, style = COLOURS[number % len(COLOURS)], "-" if number < len(COLOURS) else "--"
            panel.plot([], [], style, color=colour, label=stage)
            for course in (course for course in own if course.stage == stage):
                steps, values = zip(*course.points.items(), strict=True)
                panel.plot(steps, values, style, color=colour, marker=".")
        panel.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        panel.locator_params(axis="x", integer=True)
        panel.set(xlabel="training step", ylabel=kind)
    return figure


def _maps(subject: Subject, attention: Sequence[Opening]) -> Figure:
    """The first images, their truth, and the attention of every level over them."""
    class_map, views = subject.info.class_map, subject.views[:SHOWN]
    columns: dict[int, list[Array]] = {}
    for each in attention[: len(attention) // len(subject.views) * len(views)]:
        columns.setdefault(each.level, []).append(each.values)
    heights = [view.truth.shape[0] / view.truth.shape[1] for view in views]
    size = 2.5 * (2 + len(columns)), sum(2.5 * height + 0.3 for height in heights) + 0.4  # inches
    figure, axes = new_figure(*size, len(views), 2 + len(columns))
    axes[0, 0].get_gridspec().set_height_ratios(heights)
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 1].set_title("truth", fontsize=8)
    for row, view in zip(axes, views, strict=True):
        truth = overlay(view.image, view.truth, class_map.colours, background=class_map.background)
        row[0].imshow(picture(view.image))
        row[1].imshow(truth)
        row[0].set_title(view.name[:34], fontsize=8)
    for column, (level, maps) in zip(axes[:, 2:].T, columns.items(), strict=True):
        low, high = np.percentile(np.concatenate([each.ravel() for each in maps]), (1, 99))
        missing = max(0, NARROWEST - (high - low)) / 2
        low, high = float(low - missing), float(high + missing)
        for panel, view, opening in zip(column, views, maps, strict=True):
            panel.imshow(laid_over(view.image, opening, low, high))
        column[0].set_title(f"level {level}: {low:.2f} dark, {high:.2f} bright", fontsize=8)
    figure.suptitle("Attention: the share of the encoder's features that passes")
    return figure


def laid_over(image: NDArray[Any], opening: Array, low: float, high: float) -> Picture:
    """The grey image H×W×C under colours: `low` and less are dark, `high` and more bright."""
    grey = picture(image).mean(2, keepdims=True)
    colours = 255 * colormaps[COLOUR_MAP]((opening - low) / (high - low))[..., :3]
    return np.asarray(grey + OPACITY * (colours - grey)).astype(np.uint8)


def _channels(gated: Sequence[Opening]) -> Figure:
    """The gates of every level: one row for each image, the channels sorted."""
    levels: dict[int, list[Opening]] = {}
    for each in gated:
        levels.setdefault(each.level, []).append(each)
    height = 1.6 + 0.1 * min(30, len(gated) // len(levels))
    figure, axes = new_figure(9, 0.6 + height * len(levels), len(levels))
    for panel, (level, those) in zip(axes[:, 0], levels.items(), strict=True):
        table = np.stack([each.values for each in those])  # images, channels
        table = table[:, np.argsort(table.mean(0))]
        drawn = panel.imshow(table, COLOUR_MAP, aspect="auto", interpolation="nearest")
        drawn.set_clim(0, 1)
        panel.grid(visible=False)
        panel.locator_params(integer=True)
        panel.set_ylabel("image")
        panel.set_title(f"level {level}: {table.shape[1]} channels")
    axes[-1, 0].set_xlabel("channel, from the most shut to the widest open")
    figure.colorbar(drawn, ax=list(axes[:, 0]), label="gate: 0 shut, 1 open")
    return figure
