"""The loss surface of a trained U-Net around its weights, in two random directions.

The directions are filter-normalised (Li et al. 2018, 1712.09913): each filter of a direction is as
long as the same filter of the weights, so that networks of differently scaled weights are seen
through the same lens. Parameters of one dimension (biases, norms) and single numbers stay.

Batch norm's statistics belong to the weights they were taken with. "recompute" takes them anew from
the images at each point, as training would meet the surface there; "keep" leaves them as trained:
much steeper, because features that change their scale are no longer normalised. A handful of images
gives poor statistics; with about twenty the loss in the middle is near that of the trained network.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps, rc_context
from matplotlib.artist import Artist
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn

from unetseg.config import LandscapeConfig
from unetseg.errors import DivergedError
from unetseg.progress import SILENT, Progress
from unetseg.runtime import dtype_name, explained_memory, versions
from unetseg.skiplab.look import COLOURS, STYLE, Result, Subject, new_figure, publish
from unetseg.skiplab.loss_surface import (
    DOUBLED,
    Surface,
    images_loss,
    loss_surface,
    measure_sharpness,
    random_direction,
    recompute_statistics,
    valley_radius,
)
from unetseg.storage import json_value

WIDE_RANGE = 100.0
"""Ratio of the largest to the least loss beyond which the levels are logarithmic."""
SAME_WIDTH = 1.1
"""Ratio of two radii up to which neither valley is called the wider one."""
BAR: dict[str, Any] = {"label": "loss (soft Dice + cross-entropy)", "format": "%g", "shrink": 0.8}
COLOUR_MAP = "viridis"
OFF_SCALE = "#bbbbbb"
MARK = COLOURS[1]
CENTRE: dict[str, Any] = {"markersize": 11, "color": MARK, "markeredgecolor": "white"}
SUMMARY = ("network", "centre", "lowest", "doubling_radius", "sharpness", "verdict")
CAPTION = (
    "The loss, soft Dice + cross-entropy, around the trained weights (centre): it doubles after a "
    "step of doubling_radius times each filter's length and bends at most by sharpness, the "
    "largest eigenvalue of its Hessian. Of two networks the wider keeps its loss below twice that "
    "of the worse one over the longer steps; one that is flat beside a valley has learned too "
    "little to lose anything."
)


def landscape(
    subject: Subject,
    beside: Subject | None = None,
    *,
    config: LandscapeConfig,
    output: Path,
    progress: Progress = SILENT,
) -> Result:
    """Look at the loss around the weights of one trained U-Net, or of two side by side.

    Writes landscape.csv (network, a, b, loss; an empty loss is off the scale), landscape.json,
    landscape.png (contours) and landscape_surface.png. The networks themselves are not changed. The
    surface is computed in the arithmetic of the machine; the sharpness in float32, of the network
    as it is used, batch norms holding the statistics of the training.

    Both are drawn on the same scale, their directions with the same seed.

    Raises:
        DataError: every pixel of the images is ignored.
        DivergedError: the loss of the trained weights themselves is no number.
        OutOfMemoryError: an image does not fit in memory.
    """
    subjects = [subject, beside] if beside else [subject]
    if len({tuple(view.name for view in each.views) for each in subjects}) > 1:
        progress.say("the two networks are looked at with different images")
    names = [subject.run.resolve().name for subject in subjects]
    if len(set(names)) < len(names):
        names = [f"{subject.run} ({number})" for number, subject in enumerate(subjects, 1)]
    with explained_memory("Choose a smaller --window."):
        surfaces = [
            measure_surface(each, name, config, progress=progress)
            for each, name in zip(subjects, names, strict=True)
        ]
    networks: list[dict[str, Any]] = json_value([surface.facts() for surface in surfaces])
    if len(surfaces) == 2:
        words = compare_valleys(surfaces, config.reach)
        networks = [own | {"verdict": word} for own, word in zip(networks, words, strict=True)]
    summary = [
        {name: own[name] for name in SUMMARY if name in own}
        | {"sharpness": (own["sharpness"] or {}).get("eigenvalue")}
        for own in networks
    ]
    for own, each in zip(networks, subjects, strict=True):
        own.update(run=each.run, split=each.split, images=[view.name for view in each.views])
        own.update(surface_arithmetic=dtype_name(each.machine.dtype))
    rows = json_value([row for surface in surfaces for row in surface.rows()])
    return publish(
        Result(output, rows, summary, CAPTION),
        "landscape",
        {"landscape": contour_figure(surfaces), "landscape_surface": relief_figure(surfaces)},
        networks=networks,
        seed=config.seed,
        settings=config.model_dump(mode="json"),
        versions=versions(),
    )


# ------------------------------------------------------------------ the surface


def measure_surface(
    subject: Subject,
    name: str,
    config: LandscapeConfig,
    *,
    progress: Progress = SILENT,
) -> Surface:
    """The surface and the sharpness of one trained U-Net, called `name`.

    Raises:
        DataError: every pixel of the images is ignored.
        DivergedError: the loss of the trained weights themselves is no number.
    """
    network, loss = subject.segmenter, images_loss(subject)

    def at_point(moved: nn.Module, statistics: str = config.statistics) -> float:
        with subject.machine.autocast():
            if statistics == "recompute":  # changes the batch norms of `moved`
                recompute_statistics(moved, loss.batches)
            return loss(moved)

    centre, as_trained = at_point(deepcopy(network)), at_point(network, statistics="keep")
    if not math.isfinite(centre):
        raise DivergedError(f"the loss of {name} is {centre} at its trained weights")
    generator = torch.Generator().manual_seed(config.seed)
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
            seed=config.seed,
            task=f"sharpness of {name}",
            progress=progress,
        )
    return Surface(name, axis, losses, centre, as_trained, sharpness)


# ------------------------------------------------------------------ two valleys


def compare_valleys(surfaces: Sequence[Surface], reach: float) -> list[str]:
    """One word for each of two surfaces: wider, narrower or equal; or flat beside a valley.

    The valleys end where the loss is twice that of the worse network: at twice its own loss, a
    network that learned nothing would have a wide one. A surface that never doubles, unlike the
    other, and is all above the other's trained weights, is flat: it has less to lose. Radii within
    a tenth of each other are equal.
    """
    first, second = surfaces
    for flat, other in ((first, second), (second, first)):
        ends = [surface.doubling_radius < math.inf for surface in (flat, other)]
        if ends == [False, True] and flat.lowest > other.centre:
            return ["flat" if surface is flat else "valley" for surface in surfaces]
    level = DOUBLED * max(surface.centre for surface in surfaces)
    corner = math.sqrt(2) * reach  # nothing was seen of the end of a valley that goes on there
    radii = [min(valley_radius(each.axis, each.losses, level), corner) for each in surfaces]
    if max(radii) <= SAME_WIDTH * min(radii):
        return ["equal", "equal"]
    return ["wider" if radius == max(radii) else "narrower" for radius in radii]


# ------------------------------------------------------------------ in pictures


def colour_levels(surfaces: Sequence[Surface]) -> list[float]:
    """Round numbers from the least to the largest loss of all surfaces, at most about twenty.

    They are evenly spaced, or logarithmic where the largest is more than 100 times the least.
    """
    low, high = min(s.lowest for s in surfaces), max(s.highest for s in surfaces)
    if not 0 < WIDE_RANGE * low < high:
        return [float(level) for level in MaxNLocator(12).tick_values(low, high)]
    exponents = MaxNLocator(20).tick_values(math.log10(low), math.log10(high))
    return [float(f"{10**exponent:.2g}") for exponent in exponents]


def contour_figure(surfaces: Sequence[Surface]) -> Figure:
    """The surfaces from above, on one scale, with the trained weights and the doubled loss."""
    figure, axes = new_figure(5.4 * len(surfaces) + 1.2, 6.2, columns=len(surfaces))
    levels = colour_levels(surfaces)
    norm = BoundaryNorm(levels, 256)
    marks: dict[str, Artist] = {}  # of all panels, each once
    for surface, panel in zip(surfaces, axes[0], strict=True):
        grid = (surface.axis, surface.axis, np.ma.masked_invalid(surface.losses))
        panel.contourf(*grid, levels=levels, norm=norm, cmap=COLOUR_MAP)
        panel.clabel(panel.contour(*grid, levels=levels, colors="white", linewidths=0.6), fmt="%g")
        panel.plot(0, 0, "P", **CENTRE, label="trained weights")
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
        handles, labels = panel.get_legend_handles_labels()
        marks |= dict(zip(labels, handles, strict=True))
    axes[0, 0].set_ylabel("step along direction 2 (share of each filter's length)")
    figure.colorbar(ScalarMappable(norm, COLOUR_MAP), ax=list(axes[0]), ticks=levels, **BAR)
    figure.legend(marks.values(), marks, loc="outside lower center", ncols=len(marks))
    figure.suptitle("Loss around the trained weights, in two random directions")
    return figure


def relief_figure(surfaces: Sequence[Surface]) -> Figure:
    """The same surfaces in three dimensions, with the same colours and one height scale."""
    levels = np.array(colour_levels(surfaces))
    norm, some = BoundaryNorm(levels, 256), levels[:: math.ceil(len(levels) / 8)]
    height = np.log10 if levels[0] > 0 and levels[-1] > WIDE_RANGE * levels[0] else np.asarray
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6 * len(surfaces) + 1.2, 5.8), layout="constrained")
    for number, surface in enumerate(surfaces, 1):
        # an Axes3D, for which matplotlib ships no types
        panel: Any = figure.add_subplot(1, len(surfaces), number, projection="3d")
        losses = np.where(np.isfinite(surface.losses), surface.losses, np.nan)
        panel.plot_surface(
            *np.meshgrid(surface.axis, surface.axis), height(losses),
            facecolors=colormaps[COLOUR_MAP](norm(losses)), rstride=1, cstride=1, shade=False,
            edgecolor="white", linewidth=0.2,
        )  # fmt: skip
        panel.set_title(_title(surface), fontsize=10)
        panel.set(xlabel="step along direction 1", ylabel="step along direction 2")
        panel.set(xticks=surface.axis[[0, -1]], yticks=surface.axis[[0, -1]])
        panel.set_zticks(height(some), [f"{level:g}" for level in some])
        panel.set_zlim(*height(levels[[0, -1]]))
    figure.colorbar(ScalarMappable(norm, COLOUR_MAP), ax=figure.axes, ticks=levels, **BAR)
    figure.suptitle("The same surface in three dimensions: height and colour are the loss")
    return figure


def _title(surface: Surface) -> str:
    radius = surface.doubling_radius
    doubled = f"doubled at {radius:.0%}" if radius < math.inf else "never doubled"
    bend = f", sharpness {surface.sharpness.eigenvalue:.3g}" if surface.sharpness else ""
    return f"{surface.name}\nloss {surface.centre:.3g} in the middle, {doubled}{bend}"
