"""What learned skips settled on: α, gates, switches and attention, over images and over training.

An opening is the number that a skip multiplies the encoder's features with: 1 lets them through as
they are, 0 shuts them out. What the network makes of what comes through it does not tell, for the
convolutions behind have weights of their own: see `lab ablate`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from unetseg.data.masks.overlay import Picture, overlay, picture
from unetseg.errors import ConfigError
from unetseg.progress import SILENT, Progress
from unetseg.runtime import explained_memory
from unetseg.skiplab.finding import COLOURS, Finding, new_figure, publish
from unetseg.skiplab.openings import (
    BIAS_GATE,
    BRANCH_ALPHA,
    INPUT_ALPHA,
    OPEN,
    SHOWN,
    SHUT,
    SKIP_ALPHA,
    Array,
    Course,
    Factor,
    Opening,
    learned_factors,
    measure_openings,
    of_kind,
    over_images,
    read_log,
    shut_and_open,
    training_courses,
)
from unetseg.skiplab.subject import Subject

LOOKS = 0.05
"""Contrast from which attention is said to look at the objects, or at the background."""
ADAPTS = 0.02
"""Deviation over images from which gates are said to follow the image."""
COLOUR_MAP, OPACITY = "viridis", 0.65
"""Of attention over its image."""
NARROWEST = 0.05
"""Range of openings that the colours of a level span at least."""
SHORTCUTS = {
    INPUT_ALPHA: (SHUT, "the shortcut passes next to nothing (|α| < 0.1)"),
    BRANCH_ALPHA: (SHUT, "the convolutions add next to nothing (|α| < 0.1)"),
    BIAS_GATE: (0.5, "more of the input passes than of the convolutions (gate < 0.5)"),
}
"""Blocks whose factor is smaller than this are counted, with these words."""


def gates(subject: Subject, *, output: Path, progress: Progress = SILENT) -> Finding:
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
        raise _nothing_learned(subject)
    levels = sorted({opening.level for opening in openings})
    overall = [over_images([o for o in openings if o.level == level]) for level in levels]
    moments = read_log(subject.run / "log.jsonl", progress)
    # α and switches are the same for every image
    rows = [opening.row() for opening in (*of_kind(openings, "gated", "attention"), *overall)]
    rows += [asdict(factor) for factor in factors]
    seen = _seen(overall, factors, len(subject.views))
    finding = Finding(output, rows, seen, _meaning(overall, factors, subject))
    figures = {"gates": _settled(overall, factors)}
    if courses := training_courses(moments, overall, factors):
        figures["gates_training"] = _training(courses)
    if attention := of_kind(openings, "attention"):
        figures["gates_maps"] = _maps(subject, attention)
    if gated := of_kind(openings, "gated"):
        figures["gates_channels"] = _channels(gated)
    facts = {"run": subject.run, "split": subject.split}
    facts |= {"training": [moment.model_dump() for moment in moments]}
    return publish(output, "gates", finding, figures, **facts)


def _nothing_learned(subject: Subject) -> ConfigError:
    network = subject.info.network
    kinds = [f"skip {', '.join(network.skip)}", f"block {network.block}"]
    if network.block == "residual":
        kinds.append(f"shortcut {network.shortcut}")
    return ConfigError(
        f"no skip and no shortcut of {subject.run} learns how far it opens",
        kinds,
        fix="Train with --skip attention, gated, learned or switch, or with --block residual "
        "--shortcut learned, rezero or gated.",
    )


# ------------------------------------------------------------------ in words


def _seen(overall: Sequence[Opening], factors: Sequence[Factor], images: int) -> str:
    parts = []
    if overall:
        shut, wide = _extremes(overall)
        parts += [f"over {images} image{'s' * (images != 1)} {wide} opens to {wide.mean:.2f}"]
        if _apart(shut, wide):
            parts[0] += f", the widest, and {shut} to {shut.mean:.2f}, the least"
    if told := [each for each in overall if each.contrast is not None]:
        most = max(told, key=lambda each: abs(each.contrast or 0))
        where = f"{most.foreground:.2f} on objects and {most.background:.2f} elsewhere"
        parts += [f"attention differs most at level {most.level}, {where}"]
    if gated := of_kind(overall, "gated"):
        shut_gates, open_gates = shut_and_open(gated)
        count = sum(each.values.size for each in gated)
        parts += [f"{shut_gates} of {count} gates are nearly shut and {open_gates} nearly open"]
    parts += [_told(group) for group in _grouped(factors).values()]
    return _sentence(parts)


def _meaning(overall: Sequence[Opening], factors: Sequence[Factor], subject: Subject) -> str:
    parts = _about_attention(of_kind(overall, "attention"))
    parts += _about_gates(of_kind(overall, "gated"), len(subject.views))
    parts += _about_switches(of_kind(overall, "switch"), subject.run)
    if learned := of_kind(overall, "learned"):
        faint = [each for each in learned if abs(each.mean) < SHUT]
        idle = f"the network takes next to nothing from the skip of {_levels(faint)} (|α| < {SHUT})"
        parts += [idle if faint else f"no skip with an α is nearly shut (|α| ≥ {SHUT})"]
    for what, group in _grouped(factors).items():
        if what in SHORTCUTS:
            least, words = SHORTCUTS[what]
            few = sum(abs(factor.value) < least for factor in group)
            parts += [f"in {few} of {len(group)} blocks {words}"]
    return _sentence(parts)


def _about_attention(levels: Sequence[Opening]) -> list[str]:
    told = [(each, each.contrast) for each in levels if each.contrast is not None]
    if levels and not told:
        return ["no image has objects and background, to see whether attention looks at objects"]
    verdicts = {
        "attention looks at the objects at": [each for each, c in told if c >= LOOKS],
        "attention looks at the background, which sets the objects off as well, at": [
            each for each, c in told if c <= -LOOKS
        ],
        "attention treats objects and background alike at": [
            each for each, c in told if abs(c) < LOOKS
        ],
    }
    return [f"{verdict} {_levels(those)}" for verdict, those in verdicts.items() if those]


def _about_gates(levels: Sequence[Opening], images: int) -> list[str]:
    if levels and images == 1:
        return ["whether the gates follow the image takes more than one image to see"]
    follow = [each for each in levels if (each.spread or 0) >= ADAPTS]
    fixed = [each for each in levels if (each.spread or 0) < ADAPTS]
    parts = [f"the gates of {_levels(follow)} follow the image"] if follow else []
    if fixed:
        parts += [f"the gates of {_levels(fixed)} hardly differ from image to image"]
    return parts


def _about_switches(levels: Sequence[Opening], run: Path) -> list[str]:
    if closed := [each for each in levels if not each.mean]:
        fix = f"`unetseg prune {run}` takes out what is closed and saves its computing"
        return [f"the network does without the skip of {_levels(closed)}: {fix}"]
    return ["no switch closed, so there is nothing to prune"] if levels else []


def _grouped(factors: Iterable[Factor]) -> dict[str, list[Factor]]:
    groups: dict[str, list[Factor]] = {}
    for factor in factors:
        groups.setdefault(factor.what, []).append(factor)
    return groups


def _told(factors: Sequence[Factor]) -> str:
    values = sorted(factor.value for factor in factors)
    name = f"{len(values)} {factors[0].what.partition(':')[0]}"
    where = (
        f"between {values[0]:.2g} and {values[-1]:.2g}" if len(values) > 1 else f"{values[0]:.2g}"
    )
    return f"{name}, {factors[0].start:.2g} at the start, now {where}"


def _extremes(openings: Sequence[Opening]) -> tuple[Opening, Opening]:
    """The level that is open least and the one that is open widest; of α the size counts."""
    ordered = sorted(openings, key=lambda opening: abs(opening.mean))
    return ordered[0], ordered[-1]


def _apart(one: Opening, other: Opening) -> bool:
    return f"{one.mean:.2f}" != f"{other.mean:.2f}"


def _levels(openings: Sequence[Opening]) -> str:
    numbers = [str(opening.level) for opening in openings]
    if len(numbers) < 2:
        return f"level {''.join(numbers)}"
    return f"levels {', '.join(numbers[:-1])} and {numbers[-1]}"


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


# ------------------------------------------------------------------ in pictures


def _settled(overall: Sequence[Opening], factors: Sequence[Factor]) -> Figure:
    """The openings of every level, and the learned factors by where they stand."""
    groups = _grouped(factor for factor in factors if factor.what != SKIP_ALPHA)  # an opening too
    most = max(len(overall), *(len({f.stage for f in each}) for each in groups.values()), 1)
    count = bool(overall) + len(groups)
    figure, axes = new_figure(1 + 6 * count, 2.2 + 0.4 * most, columns=count)
    if overall:
        _draw_openings(axes[0, 0], overall)
    for panel, (what, group) in zip(axes[0, bool(overall) :], groups.items(), strict=True):
        stages = list(dict.fromkeys(factor.stage for factor in group))
        places = [stages.index(factor.stage) for factor in group]
        panel.plot([factor.value for factor in group], places, "o", color=COLOURS[0])
        panel.axvline(group[0].start, color="0.4", linestyle="--", label="at the start")
        panel.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        panel.set_yticks(range(len(stages)), stages)
        panel.set_ylim(len(stages) - 0.5, -0.5)
        panel.set_xlabel(what)
        panel.set_title(_told(group))
    return figure


def _draw_openings(panel: Any, overall: Sequence[Opening]) -> None:
    places = range(len(overall))
    panel.hlines(places, [o.low for o in overall], [o.high for o in overall], color="0.8", lw=8)
    marks: list[tuple[str, str, list[float | None]]] = [
        ("o", "mean", [each.mean for each in overall]),
        ("^", "mean on objects", [each.foreground for each in overall]),
        ("v", "mean elsewhere", [each.background for each in overall]),
    ]
    for (marker, label, values), colour in zip(marks, COLOURS, strict=False):
        if any(value is not None for value in values):
            numbers = np.array(values, np.float64)  # nan for None: not drawn
            panel.plot(numbers, places, marker, color=colour, label=label)
    panel.set_yticks(places, [f"level {o.level} ({o.resolution})\n{o.kind}" for o in overall])
    panel.set_ylim(len(overall) - 0.5, -0.5)
    panel.set_xlabel("opening (bar: 5–95% of the pixels or channels)")
    panel.update_datalim([(0, 0), (1, 0)])  # shut and open are in the picture
    panel.autoscale_view(scaley=False)
    shut, wide = _extremes(overall)
    least = f"; least: level {shut.level} ({shut.mean:.2f})" if _apart(shut, wide) else ""
    panel.set_title(f"Widest open: level {wide.level} ({wide.mean:.2f}){least}")
    panel.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def _training(courses: Sequence[Course]) -> Figure:
    """The learned numbers over the training, one panel for each kind."""
    kinds = list(dict.fromkeys(course.what for course in courses))
    figure, axes = new_figure(7 * len(kinds), 4.5, columns=len(kinds))
    for panel, what in zip(axes[0], kinds, strict=True):
        stages: dict[str, int] = {}
        for course in (course for course in courses if course.what == what):
            place = stages.setdefault(course.stage, len(stages))
            panel.plot(
                list(course.points),
                list(course.points.values()),
                color=COLOURS[place % len(COLOURS)],
                linestyle=("-", "--", ":")[place // len(COLOURS) % 3],
                marker=".",
                label=course.stage,
            )
        handles, labels = panel.get_legend_handles_labels()
        by_stage = dict(zip(labels, handles, strict=True))
        panel.legend(by_stage.values(), by_stage, loc="center left", bbox_to_anchor=(1, 0.5))
        panel.locator_params(axis="x", integer=True)
        panel.set_xlabel("training step")
        panel.set_ylabel(what)
        panel.set_title(f"{what.partition(':')[0]} over the training")
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
    for row, view in zip(axes, views, strict=True):
        truth = overlay(view.image, view.truth, class_map.colours, background=class_map.background)
        _show(row[0], picture(view.image), f"image {view.name}"[:34])
        _show(row[1], truth, "truth")
    for column, (level, maps) in zip(axes[:, 2:].T, columns.items(), strict=True):
        low, high = _colour_range(maps)
        for panel, view, opening in zip(column, views, maps, strict=True):
            title = f"level {level}: {low:.2f} dark, {high:.2f} bright"
            _show(panel, laid_over(view.image, opening, low, high), title)
    figure.suptitle("Attention: the share of the encoder's features that passes")
    return figure


def _show(panel: Any, cell: Picture, title: str) -> None:
    panel.imshow(cell)
    panel.set_axis_off()
    panel.set_title(title, fontsize=8)


def laid_over(image: NDArray[Any], opening: Array, low: float, high: float) -> Picture:
    """The grey image under colours from dark (`low` and less) to bright (`high` and more).

    Args:
        image: H×W×C, anything that `picture` takes.
        opening: H×W.
        low: Opening of the darkest colour.
        high: Opening of the brightest.

    Returns:
        uint8 H×W×3.
    """
    grey = picture(image).mean(2, keepdims=True)
    colours = 255 * colormaps[COLOUR_MAP]((opening - low) / (high - low))[..., :3]
    return np.asarray(grey + OPACITY * (colours - grey)).astype(np.uint8)


def _colour_range(maps: Sequence[Array]) -> tuple[float, float]:
    """The openings that are drawn dark and bright: the 1st and 99th percentile, well apart."""
    low, high = np.percentile(np.concatenate([each.ravel() for each in maps]), (1, 99))
    missing = max(0, NARROWEST - (high - low)) / 2
    return float(low - missing), float(high + missing)


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
        shut, wide = shut_and_open([over_images(those)])
        counts = f"{shut} nearly shut (< {SHUT}), {wide} nearly open (> {OPEN})"
        panel.set_title(f"Level {level}: of {table.shape[1]} channels {counts}")
    axes[-1, 0].set_xlabel("channel, from the most shut to the widest open")
    figure.colorbar(drawn, ax=list(axes[:, 0]), label="gate: 0 shut, 1 open")
    return figure
