"""Pictures of an ablation: what every level and every class loses."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unetseg.skiplab.finding import COLOURS, Row, new_figure
from unetseg.skiplab.verdicts import CARRIES, IDLE, misleading

MOST_NUMBERS = 20
"""Classes up to which the map of the classes shows its numbers too."""
EDITS = {
    "zero": "zero: nothing in its place",
    "mean": "mean: its mean over all images",
    "shuffle": "shuffle: that of another image",
    "noise": "noise: random, of equal mean and deviation",
}
KEY = (
    f"carries: loses {CARRIES} or more    helps: loses more than {IDLE}    "
    f"hurts: gains more than {IDLE}, and every removal gains\n"
    f"idle: stays within ±{IDLE}    unclear: none of these for certain"
)


def draw_levels(overall: Sequence[Row], headline: str) -> Figure:
    """The change of the foreground Dice for each level and edit, and the verdicts."""
    verdicts = {row["level"]: row["verdict"] for row in overall}
    figure, axes = new_figure(9.5, 2.4 + 0.75 * len(verdicts))
    axis = axes[0][0]
    axis.axvline(0, color="black", linewidth=1)
    axis.axvspan(-IDLE, IDLE, color="#dddddd", label=f"±{IDLE}: too small to matter")
    _draw_edits(axis, overall)
    left, right = axis.get_xlim()
    axis.set_xlim(min(left, -4 * IDLE), max(right, 4 * IDLE))
    across = axis.get_yaxis_transform()
    for level, verdict in verdicts.items():
        read = "\n(but read)" if level in misleading(overall) else ""
        axis.text(1.02, level, verdict + read, transform=across, va="center")
    axis.set_yticks(list(verdicts), level_names(overall))
    axis.set_ylim(max(verdicts, default=0) + 0.5, -0.5)
    axis.set_xlabel(f"change of foreground Dice (below 0: worse)\n{KEY}", fontsize=9)
    title = "What the network loses when one of its skips is broken\n"
    axis.set_title(f"{title}(foreground Dice: {headline}; lines: 95% intervals)", fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def _draw_edits(axis: Axes, overall: Sequence[Row]) -> None:
    """A point and its interval for each level and edit, and a ring around those that decide."""
    edits = [edit for edit in EDITS if any(row["edit"] == edit for row in overall)]
    rings: list[tuple[float, float]] = []
    for number, edit in enumerate(edits):
        rows = [row for row in overall if row["edit"] == edit]
        heights = [row["level"] + 0.17 * (number - (len(edits) - 1) / 2) for row in rows]
        changes, lows, highs = ([row[name] for row in rows] for name in ("change", "low", "high"))
        axis.hlines(heights, lows, highs, color=COLOURS[number], linewidth=2)
        axis.plot(changes, heights, "o", color=COLOURS[number], label=EDITS[edit])
        points = zip(rows, changes, heights, strict=True)
        rings += [(change, height) for row, change, height in points if row["decides"]]
    if rings:
        label = "decides the verdict: the removal that costs least"
        axis.plot(*zip(*rings, strict=True), "o", ms=11, mfc="none", mec="black", label=label)


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
    axis.set_title(
        "What each class loses by the gentlest removal of a skip\n(grey: no such skip or class)"
    )
    return figure


def level_names(rows: Sequence[Row]) -> list[str]:
    """What each level is called in a picture."""
    names = {
        row["level"]: f"level {row['level']}\n{row['resolution']} {row['kind']}" for row in rows
    }
    return list(names.values())
