"""Plots of gradients: against the layer, against the depth, against the stage of a U-Net."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unetseg.skiplab.gradient_flow import at_start, first_layers
from unetseg.skiplab.result import COLOURS, Row, new_figure

MOST_DEPTHS = 3
"""Depths that stand side by side."""
PANEL_WIDTH, PANEL_HEIGHT = 4.0, 2.5
"""Inches."""
MOST_MARKS = 25
"""Marks of one line at the border of a panel."""
Lines = Mapping[str, Sequence[tuple[float, float]]]
"""Points of each line by its label: place along the x axis, and a gradient from 0 to inf."""


def stack_figures(rows: Sequence[Row]) -> dict[str, Figure]:
    """Gradient by layer, first layer's gradient by depth, and the latter after training."""
    last = rows[-1]
    trained = _where(rows, objective=last["objective"])
    before = f"Gradient of the first layer before training, {rows[0]['objective']}"
    figures = {
        "gradients": layer_figure(_where(trained, step=0)),
        "first_layer": depth_figure(at_start(rows), before, {0: "-"}),
    }
    if steps := last["step"]:
        both = f"Gradient of the first layer before (dotted) and after {steps} steps (solid)"
        figures["training"] = depth_figure(trained, both, {0: ":", steps: "-"})
    return figures


def layer_figure(rows: Sequence[Row]) -> Figure:
    """A line per network: gradient by layer. Panels: norm and init down, depths across."""
    depths, settings = _some(sorted({row["depth"] for row in rows})), _settings(rows)
    panels = Panels(rows, len(settings), len(depths))
    for y, setting in enumerate(settings):
        for x, depth in enumerate(depths):
            own = _where(rows, depth=depth, **setting)
            lines = _lines(_where(own, part="weights"), "layer")
            factors = _lines(_where(own, part="factor"), "layer")
            panels.draw(y, x, lines, title=f"{depth} layers, {_said(setting)}")
            panels.draw(y, x, factors, linestyle="none", marker=".")
    panels.marks["• learned factor α"] = any(row["part"] == "factor" for row in rows)
    panels.finish(f"Gradient of each layer before training, {rows[0]['objective']}", "layer")
    return panels.figure


def depth_figure(rows: Sequence[Row], title: str, style_of_step: Mapping[int, str]) -> Figure:
    """A line per network and step: gradient of the first layer by the depth of the stack."""
    firsts = first_layers(rows)
    settings = _settings(firsts)
    panels = Panels(firsts, -(-len(settings) // 2), min(2, len(settings)))
    for number, setting in enumerate(settings):
        for step, style in style_of_step.items():
            lines = _lines(_where(firsts, step=step, **setting), "depth")
            panels.draw(
                *divmod(number, 2), lines, title=_said(setting), linestyle=style, marker="o"
            )
    panels.finish(title, "layers in the network")
    return panels.figure


def unet_figures(rows: Sequence[Row]) -> dict[str, Figure]:
    """The gradient of each stage: of U-Nets before and after training, or of a run's network."""
    if "weights" in rows[0]:
        parts = {f"{state} weights": _where(rows, weights=state) for state in ("fresh", "trained")}
        return {"gradients": stage_figure(rows, [parts], line="skips")}
    steps = max(row["step"] for row in rows)
    moments = {"before training": 0, f"after {steps} steps": steps} if steps else {"at first": 0}
    several = len(_settings(rows)) > 1
    panels = [
        {
            moment + (f", {_said(setting)}" if several else ""): _where(rows, step=step, **setting)
            for moment, step in moments.items()
        }
        for setting in _settings(rows)
    ]
    return {"gradients": stage_figure(rows, panels)}


def stage_figure(
    rows: Sequence[Row], grid: Sequence[Mapping[str, Sequence[Row]]], line: str = "network"
) -> Figure:
    """A line per network: gradient by stage. Each row of the grid has panels by their title."""
    every = [row for row in rows if row["part"] == "weights"]
    networks = [_where(every, network=name) for name in _unique(every, "network")]
    longest = max(networks, key=lambda own: len({row["stage"] for row in own}))
    stages = {stage: place for place, stage in enumerate(_unique(longest, "stage"))}
    panels = Panels(every, len(grid), len(grid[0]), line=line)
    for y, across in enumerate(grid):
        for x, (title, own) in enumerate(across.items()):
            panels.draw(y, x, _stage_lines(own, stages, line), title=title, marker="o")
    panels.finish("Gradient of each stage of the U-Net", "stage, from image to masks")
    for axes in panels.axes[:-1].flat:
        axes.set_xticks(range(len(stages)), [""] * len(stages))
    for axes in panels.axes[-1]:
        axes.set_xticks(range(len(stages)), list(stages), rotation=45, ha="right")
    return panels.figure


class Panels:
    """Plots on one logarithmic scale, with one colour for each line; 0 and inf are drawn too.

    Args:
        rows: All rows that are drawn.
        down: Panels below one another.
        across: Panels side by side.
        line: The column whose values are the lines.
    """

    def __init__(self, rows: Sequence[Row], down: int, across: int, line: str = "network") -> None:
        width = max(PANEL_WIDTH * across, 6.5)
        self.figure, self.axes = new_figure(width, PANEL_HEIGHT * down + 1, down, across)
        self.across = across
        labels = _unique(rows, line)
        self.colours = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(labels)}
        sizes = [row["gradient"] for row in rows]
        exponents = [math.log10(size) for size in sizes if 0 < size < math.inf] or [0.0]
        gap = max(0.2, 0.05 * (max(exponents) - min(exponents)))
        self.nothing, self.everything = min(exponents) - gap, max(exponents) + gap
        vanished, exploded = 0.0 in sizes, math.inf in sizes
        self.limits = (
            10 ** (self.nothing - gap * vanished),
            10 ** (self.everything + gap * exploded),
        )
        self.marks = {"× no gradient at all": vanished, "▲ too large for float32": exploded}

    def draw(self, y: int, x: int, lines: Lines, *, title: str = "", **style: Any) -> None:
        """Draw lines into the panel in row y and column x."""
        axes = self.axes[y][x]
        if title:
            axes.set_title(title, fontsize=10)
        for label, points in lines.items():
            colour = self.colours[label]
            whole = [(at, size if 0 < size < math.inf else math.nan) for at, size in points]
            axes.plot(*zip(*whole, strict=True), color=colour, markersize=4, **style)
            for mark, value, height in (("x", 0, self.nothing), ("^", math.inf, self.everything)):
                places = [at for at, size in points if size == value]
                marks = places[:: max(1, len(places) // MOST_MARKS)]
                axes.plot(marks, [10**height] * len(marks), mark, color=colour, markersize=5)

    def finish(self, title: str, along: str) -> None:
        """Add scales, labels and the legend."""
        for axes in self.axes.flat:
            axes.set_yscale("log")
            axes.set_ylim(*self.limits)
            axes.set_visible(bool(axes.lines))
        for axes in self.axes[:, 0]:
            axes.set_ylabel("norm of the gradient")
        for axes in self.axes[-1]:
            axes.set_xlabel(along)
        marks = [mark for mark, seen in self.marks.items() if seen]
        self.figure.suptitle("\n".join([title, "   ".join(marks)] if marks else [title]))
        handles = [Line2D([], [], color=c, label=name) for name, c in self.colours.items()]
        columns = min(len(handles), 2 * self.across)
        self.figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, frameon=False
        )


def _lines(rows: Sequence[Row], along: str) -> Lines:
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        lines.setdefault(row["network"], []).append((row[along], row["gradient"]))
    return lines


def _stage_lines(rows: Sequence[Row], stages: Mapping[str, int], line: str) -> Lines:
    """The norm of all convolutions of a stage together."""
    lines: dict[str, list[tuple[float, float]]] = {}
    own = [row for row in rows if row["part"] == "weights"]
    for name in _unique(own, line):
        for stage in (stage for stage in stages if _where(own, stage=stage, **{line: name})):
            sizes = [row["gradient"] for row in _where(own, stage=stage, **{line: name})]
            lines.setdefault(name, []).append((stages[stage], math.hypot(*sizes)))
    return lines


def _where(rows: Sequence[Row], **values: object) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def _unique(rows: Sequence[Row], column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))


def _settings(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The pairs of norm and init that there are."""
    pairs = dict.fromkeys((row["norm"], row["init"]) for row in rows)
    return [{"norm": norm, "init": init} for norm, init in pairs]


def _said(setting: Mapping[str, str]) -> str:
    norm = "no norm" if setting["norm"] == "none" else f"{setting['norm']} norm"
    return f"{norm}, init {setting['init']}"


def _some(depths: Sequence[int]) -> list[int]:
    """The smallest, the largest and those in the middle, `MOST_DEPTHS` at most."""
    last = len(depths) - 1
    count = min(len(depths), MOST_DEPTHS)
    return [depths[round(at * last / max(count - 1, 1))] for at in range(count)]
