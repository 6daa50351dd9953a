"""What learned skips settled on: α, gates, switches and attention, over images and over training.

An opening is the number that a skip multiplies the encoder's features with: 1 lets them through as
they are, 0 shuts them out. What the network makes of what comes through it does not tell, for the
convolutions behind have weights of their own: see `lab ablate`.
"""

from collections.abc import Sequence
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
from unetseg.skiplab.openings import (
    LOG_ODDS,
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
    verdict_on,
)
from unetseg.skiplab.result import COLOURS, Result, Row, new_figure, publish
from unetseg.skiplab.trained import Subject

COLOUR_MAP, OPACITY = "viridis", 0.65
"""Of attention over its image."""
NARROWEST = 0.05
"""Range of openings that the colours of a level span at least."""
CAPTION = (
    f"An opening is the number that a skip multiplies the features with: shut below {SHUT}, open "
    f"above {OPEN}, partly between. Attention with a contrast above 0 lets more through on the "
    "objects than elsewhere (1: on them alone), and gates with a spread above 0 follow the image."
)


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
    # α and switches are the same for every image
    rows = [opening.row() for opening in (*of_kind(openings, "gated", "attention"), *overall)]
    rows += [asdict(factor) | {"verdict": verdict_on(factor.opening)} for factor in factors]
    figures = {"gates": _settled(overall, factors)}
    if courses := training_courses(moments, overall, factors):
        figures["gates_training"] = _training(courses)
    if attention := of_kind(openings, "attention"):
        figures["gates_maps"] = _maps(subject, attention)
    if gated := of_kind(openings, "gated"):
        figures["gates_channels"] = _channels(gated)
    facts = {"run": subject.run, "split": subject.split}
    facts |= {"training": [moment.model_dump() for moment in moments]}
    result = Result(output, rows, _summary(overall, factors), CAPTION)
    return publish(result, "gates", figures, **facts)


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


# ------------------------------------------------------------------ in pictures


def _settled(overall: Sequence[Opening], factors: Sequence[Factor]) -> Figure:
    """The openings of every level, and the learned factors by where they stand."""
    groups = _by_meaning(factors, without=(SKIP_ALPHA,))  # α of the skips are openings already
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
        panel.set_title(f"{what.partition(':')[0]}, learned from {group[0].start:.2g}")
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
    panel.set_title("How far the skips open")
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
        low, high = np.percentile(np.concatenate([each.ravel() for each in maps]), (1, 99))
        missing = max(0, NARROWEST - (high - low)) / 2
        low, high = float(low - missing), float(high + missing)
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
        shut, wide = shut_and_open(table.mean(0))
        counts = f"{shut} nearly shut (< {SHUT}), {wide} nearly open (> {OPEN})"
        panel.set_title(f"Level {level}: of {table.shape[1]} channels {counts}")
    axes[-1, 0].set_xlabel("channel, from the most shut to the widest open")
    figure.colorbar(drawn, ax=list(axes[:, 0]), label="gate: 0 shut, 1 open")
    return figure
