"""The loss surface of a trained U-Net around its weights, in two random directions.

The directions are filter-normalised (Li et al. 2018, 1712.09913): each filter of a direction is as
long as the same filter of the weights. So a step of 0.1 moves every filter by a tenth of its own
length, and networks of differently scaled weights are seen through the same lens. Parameters of one
dimension (biases, norms) and single numbers (learned α) stay where they are.

Batch norm's statistics belong to the weights they were taken with. "recompute" takes them anew from
the images at each point: the surface of the network as training would meet it there. "keep" leaves
them as trained: the surface of the weights alone, much steeper, because features that change their
scale are no longer normalised. A handful of images gives poor statistics, so the loss with those of
the training is told beside that in the middle; with about twenty images the two are near.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps, rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from torch import nn

from unetseg.config import LandscapeConfig
from unetseg.errors import ConfigError, DivergedError
from unetseg.progress import SILENT, Progress
from unetseg.runtime import dtype_name, explained_memory, versions
from unetseg.skiplab.finding import COLOURS, STYLE, Finding, new_figure, publish
from unetseg.skiplab.images_loss import ImagesLoss, images_loss, recompute_statistics
from unetseg.skiplab.sharpness import Sharpness, measure_sharpness
from unetseg.skiplab.subject import Subject
from unetseg.skiplab.surface import (
    DOUBLED,
    Floats,
    Surface,
    count_minima,
    finite_or_none,
    loss_surface,
    random_direction,
)

WIDE_RANGE = 100.0
"""Ratio of the largest to the least loss beyond which the levels are logarithmic."""
SAME_WIDTH = 1.1
"""Ratio of two radii up to which neither valley is called the wider one."""
SETTLED = 0.01
"""Share of the loss that a point nearby may be lower by without being called lower."""
BAR: dict[str, Any] = {"label": "loss (soft Dice + cross-entropy)", "format": "%g", "shrink": 0.8}
COLOUR_MAP = "viridis"
OFF_SCALE = "#bbbbbb"
MARK = COLOURS[1]
STATISTICS = {
    "recompute": "batch norms take their statistics anew from these images at each point",
    "keep": "batch norms keep the statistics of the training",
}


def landscape(
    subjects: Sequence[Subject],
    config: LandscapeConfig,
    *,
    output: Path,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Finding:
    """Look at the loss around the weights of one trained U-Net, or of two side by side.

    Writes landscape.csv (network, a, b, loss; an empty loss is off the scale), landscape.json,
    landscape.png (contours) and landscape_surface.png. The networks themselves are not changed. The
    surface is computed in the arithmetic of the machine; the sharpness in float32, of the network
    as it is used, batch norms holding the statistics of the training.

    Args:
        subjects: One or two trained U-Nets and their images.
        config: Grid, reach, batch-norm statistics, and the steps of the power iteration.
        output: Folder to write to.
        seed: Seed of the directions, the same for both, and of the power iteration.
        progress: Hears what is done.

    Raises:
        ConfigError: there are neither one nor two subjects.
        DataError: every pixel of the images is ignored.
        DivergedError: the loss of the trained weights themselves is no number.
        OutOfMemoryError: an image does not fit in memory.
    """
    if len(subjects) not in {1, 2}:
        raise ConfigError(f"{len(subjects)} networks: a landscape shows one, or two side by side")
    if len({tuple(view.name for view in subject.views) for subject in subjects}) > 1:
        progress.say("the two networks are looked at with different images")
    with explained_memory("Choose a smaller --window."):
        surfaces = [
            measure_surface(subject, name, config, seed=seed, progress=progress)
            for subject, name in zip(subjects, _names(subjects), strict=True)
        ]
    finding = Finding(output, _rows(surfaces), *describe(surfaces, config.reach))
    facts = {
        "networks": [
            surface.facts() | _subject_facts(subject)
            for surface, subject in zip(surfaces, subjects, strict=True)
        ],
        "loss": "dice_ce of each image, mean over its counted pixels, no class weights",
        "directions": "random normal, filter-normalised; filters of transposed convolutions are "
        "those of their outputs; parameters of less than two dimensions stay",
        "statistics": STATISTICS[config.statistics],
        "sharpness": "eigenvalue of the Hessian, largest in size, in float32 by power iteration, "
        "batch norms holding the statistics of the training",
        "seed": seed,
        "settings": config.model_dump(mode="json"),
        "versions": versions(),
    }
    figures = {"landscape": contour_figure(surfaces), "landscape_surface": relief_figure(surfaces)}
    return publish(output, "landscape", finding, figures, **facts)


# ------------------------------------------------------------------ the surface


def measure_surface(
    subject: Subject,
    name: str,
    config: LandscapeConfig,
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Surface:
    """The surface and the sharpness of one trained U-Net, called `name`.

    Raises:
        DataError: every pixel of the images is ignored.
        DivergedError: the loss of the trained weights themselves is no number.
    """
    network, loss = subject.segmenter, images_loss(subject)
    at_point = partial(_loss_with, subject=subject, loss=loss, statistics=config.statistics)
    centre, as_trained = at_point(deepcopy(network)), at_point(network, statistics="keep")
    if not math.isfinite(centre):
        raise DivergedError(f"the loss of {name} is {centre} at its trained weights")
    generator = torch.Generator().manual_seed(seed)
    directions = [random_direction(network, generator) for _ in range(2)]
    axis = np.linspace(-config.reach, config.reach, config.points)
    task = f"surface of {name}"
    losses = loss_surface(network, at_point, directions, axis, task=task, progress=progress)
    sharpness = None
    if config.iterations:
        sharpness = measure_sharpness(
            network,
            loss.parts,
            iterations=config.iterations,
            seed=seed,
            task=f"sharpness of {name}",
            progress=progress,
        )
    return Surface(name, axis, losses, centre, as_trained, sharpness)


def _loss_with(
    segmenter: nn.Module, subject: Subject, loss: ImagesLoss, *, statistics: str
) -> float:
    """The loss in the machine's arithmetic; "recompute" changes the batch norms of `segmenter`."""
    with subject.machine.autocast():
        if statistics == "recompute":
            recompute_statistics(segmenter, loss.batches)
        return loss(segmenter)


def _names(subjects: Sequence[Subject]) -> list[str]:
    """The names of the run folders; their paths and places where the names are the same."""
    names = [subject.run.resolve().name for subject in subjects]
    if len(set(names)) == len(names):
        return names
    return [f"{subject.run} ({place})" for place, subject in enumerate(subjects, 1)]


def _rows(surfaces: Sequence[Surface]) -> list[dict[str, object]]:
    return [
        {
            "network": surface.name,
            "a": float(surface.axis[column]),
            "b": float(surface.axis[row]),
            "loss": finite_or_none(float(loss)),
        }
        for surface in surfaces
        for (row, column), loss in np.ndenumerate(surface.losses)
    ]


def _subject_facts(subject: Subject) -> dict[str, object]:
    return {
        "run": subject.run,
        "split": subject.split,
        "images": [view.name for view in subject.views],
        "surface_arithmetic": dtype_name(subject.machine.dtype),
    }


# ------------------------------------------------------------------ in words


def describe(surfaces: Sequence[Surface], reach: float) -> tuple[str, str]:
    """What was seen on one or two surfaces of so much reach, and what that means: two sentences."""
    seen = "; ".join(_described(surface, reach) for surface in surfaces)
    if len(surfaces) == 1:
        meaning = _meaning_of_one(surfaces[0], reach)
    else:
        meaning = _meaning_of_two(surfaces[0], surfaces[1], reach)
    return f"{seen[0].upper()}{seen[1:]}.", meaning


def _described(surface: Surface, reach: float) -> str:
    radius = surface.doubling_radius
    doubles = f"doubles after a move of {radius:.0%}" if radius < math.inf else "does not double"
    minima = count_minima(surface.losses)
    otherwise = ""
    if not math.isclose(surface.centre, surface.as_trained, rel_tol=SETTLED):
        otherwise = f" ({surface.as_trained:.3g} with the norms' statistics of the training)"
    text = (
        f"the loss of {surface.name} is {surface.centre:.3g} at its trained weights{otherwise}, "
        f"{doubles} and reaches {_short(surface.highest)} where the filters move by up to "
        f"±{reach:.0%} of their size in each direction, with {minima} low "
        f"point{'s' * (minima != 1)}"
    )
    if surface.off_scale:
        text += f" and {surface.off_scale} points off the scale"
    return text + _bend(surface.sharpness)


def _bend(sharpness: Sharpness | None) -> str:
    if sharpness is None:
        return ""
    unsettled = "" if sharpness.converged else ", not yet settled"
    return f" (sharpness {_short(sharpness.eigenvalue)}{unsettled})"


def _short(number: float) -> str:
    """`number` with three digits, or as a whole number of four to six."""
    return f"{number:,.0f}" if 1000 <= abs(number) < 1e6 else f"{number:.3g}"


def _meaning_of_one(surface: Surface, reach: float) -> str:
    radius = surface.doubling_radius
    bears = (
        f"Random changes of the weights by up to {min(radius, reach):.0%} of their size "
        f"{'less than double' if radius < math.inf else 'do not double'} the loss of this network"
    )
    gain = 1 - surface.lowest / surface.centre if surface.centre else 0
    if gain > SETTLED:
        return f"{bears}, and one lowers it by {gain:.0%}: weights nearby suit these images better."
    if surface.lowest < surface.centre:
        return f"{bears}, and none that was tried lowers it by more than {SETTLED:.0%}."
    return f"{bears}, and none that was tried lowers it: it lies at the bottom of this valley."


def _meaning_of_two(first: Surface, second: Surface, reach: float) -> str:
    for flat, other in ((first, second), (second, first)):
        if flat.is_flat_beside(other):
            return (
                f"{flat.name} does not double its loss in the picture, as {other.name} does; but "
                f"even its lowest, {flat.lowest:.3g}, is above the {other.centre:.3g} of "
                f"{other.name} at its trained weights: what has learned less has less to lose, "
                "which is no sign of a wider valley."
            )
    level = common_level((first, second))
    radii = [(each.radius(level), each.name) for each in (first, second)]
    (inner, narrow), (outer, wide) = sorted(radii)
    below = f"keeps its loss below {level:.3g}"
    if inner == math.inf:
        return f"Either network {below} all over the picture: a larger --reach tells them apart."
    if outer == math.inf:
        outer = math.sqrt(2) * reach  # the corners, where nothing was seen of its end
        bounds = f"{wide} {below} all over the picture"
    else:
        bounds = f"{wide} {below} up to random changes of {outer:.0%} of its weights' size"
    bounds += f", {narrow} up to {inner:.0%}"
    if outer <= SAME_WIDTH * inner:
        return f"{bounds}: neither valley is clearly wider."
    return (
        f"{bounds}: the wider valley bears more rounding and noise in the weights, and is as a "
        "rule the easier one to train in."
    )


def common_level(surfaces: Sequence[Surface]) -> float:
    """Twice the loss of the worse network: the level at which two valleys are compared.

    A valley that ends at twice its own loss would be wide for a network that learned nothing.
    """
    return DOUBLED * max(surface.centre for surface in surfaces)


# ------------------------------------------------------------------ in pictures


def colour_levels(surfaces: Sequence[Surface]) -> list[float]:
    """Round numbers from the least to the largest loss of all surfaces, at most about twenty.

    They are evenly spaced, or logarithmic where the largest is more than 100 times the least.
    """
    low, high = min(s.lowest for s in surfaces), max(s.highest for s in surfaces)
    if not 0 < WIDE_RANGE * low < high:
        return [float(level) for level in MaxNLocator(12).tick_values(low, high)]
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))  # decades
    within = (1, 2, 5) if last - first <= 5 else (1, 3) if last - first <= 10 else (1,)
    decades = range(first, last + 1, math.ceil((last - first) / 20))
    levels = [m * 10.0**decade for decade in (*decades, last + 1) for m in within]
    start = max(index for index, level in enumerate(levels) if level <= low)
    end = min(index for index, level in enumerate(levels) if level >= high)
    return levels[start : end + 1]


def contour_figure(surfaces: Sequence[Surface]) -> Figure:
    """The surfaces from above, on one scale, with the trained weights and the doubled loss."""
    figure, axes = new_figure(5.4 * len(surfaces) + 1.2, 6.2, columns=len(surfaces))
    levels = colour_levels(surfaces)
    marks: dict[str, Artist] = {}  # of all panels, each once
    for surface, panel in zip(surfaces, axes[0], strict=True):
        _draw_contours(panel, surface, levels)
        handles, labels = panel.get_legend_handles_labels()
        marks |= dict(zip(labels, handles, strict=True))
    axes[0, 0].set_ylabel("step along direction 2 (share of each filter's length)")
    colours = ScalarMappable(BoundaryNorm(levels, 256), COLOUR_MAP)
    figure.colorbar(colours, ax=list(axes[0]), ticks=levels, **BAR)
    figure.legend(
        marks.values(), marks, loc="outside lower center", ncols=len(marks), frameon=False
    )
    figure.suptitle("Loss around the trained weights, in two random directions")
    return figure


def _draw_contours(panel: Axes, surface: Surface, levels: Sequence[float]) -> None:
    grid = (surface.axis, surface.axis, np.ma.masked_invalid(surface.losses))
    panel.contourf(*grid, levels=levels, norm=BoundaryNorm(levels, 256), cmap=COLOUR_MAP)
    lines = panel.contour(*grid, levels=levels, colors="white", linewidths=0.6)
    for label in panel.clabel(lines, fmt="%g", fontsize=8):
        label.set_path_effects([withStroke(linewidth=1.5, foreground="#333333")])
        label.set_visible(np.abs(label.get_position()).max() < 0.9 * surface.axis[-1])
    style: dict[str, Any] = {"markersize": 11, "color": MARK, "markeredgecolor": "white"}
    panel.plot(0, 0, "P", **style, label="trained weights")
    if surface.lowest < DOUBLED * surface.centre < surface.highest:
        panel.contour(*grid, levels=[DOUBLED * surface.centre], colors=MARK, linestyles="--")
        panel.plot([], [], "--", color=MARK, label="twice their loss")
    if surface.off_scale:
        panel.set_facecolor(OFF_SCALE)  # seen where nothing is drawn
        panel.plot([], [], "s", color=OFF_SCALE, label="off the scale: the loss is no number")
    panel.set_title(_title(surface), fontsize=10)
    panel.set_xlabel("step along direction 1 (share of each filter's length)")
    panel.set_aspect("equal")
    panel.grid(visible=False)


def relief_figure(surfaces: Sequence[Surface]) -> Figure:
    """The same surfaces in three dimensions, with the same colours and one height scale."""
    levels = colour_levels(surfaces)
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6 * len(surfaces) + 1.2, 5.8), layout="constrained")
        panels = [
            figure.add_subplot(1, len(surfaces), number, projection="3d")
            for number in range(1, len(surfaces) + 1)
        ]
    for surface, panel in zip(surfaces, panels, strict=True):
        _draw_relief(panel, surface, np.array(levels))
    colours = ScalarMappable(BoundaryNorm(levels, 256), COLOUR_MAP)
    figure.colorbar(colours, ax=panels, ticks=levels, **BAR)
    figure.suptitle("The same surface in three dimensions: height and colour are the loss")
    return figure


def _draw_relief(panel: Any, surface: Surface, levels: Floats) -> None:
    """Draw on an Axes3D, for which matplotlib ships no types."""
    wide = levels[0] > 0 and levels[-1] > WIDE_RANGE * levels[0]
    height = np.log10 if wide else np.asarray
    losses = np.where(np.isfinite(surface.losses), surface.losses, np.nan)
    colours = colormaps[COLOUR_MAP](BoundaryNorm(levels, 256)(losses))
    steps = np.meshgrid(surface.axis, surface.axis)
    panel.plot_surface(
        *steps, height(losses), facecolors=colours, rstride=1, cstride=1, shade=False,
        edgecolor="white", linewidth=0.2,
    )  # fmt: skip
    panel.set_title(_title(surface), fontsize=10)
    panel.set(xlabel="step along direction 1", ylabel="step along direction 2")
    panel.set(xticks=surface.axis[[0, -1]], yticks=surface.axis[[0, -1]])
    some = levels[:: math.ceil(len(levels) / 8)]
    panel.set_zticks(height(some), [f"{level:g}" for level in some])
    panel.set_zlim(*height(levels[[0, -1]]))


def _title(surface: Surface) -> str:
    radius = surface.doubling_radius
    doubled = f"doubled at {radius:.0%}" if radius < math.inf else "never doubled"
    bend = f", sharpness {_short(surface.sharpness.eigenvalue)}" if surface.sharpness else ""
    return f"{surface.name}\nloss {surface.centre:.3g} in the middle, {doubled}{bend}"
