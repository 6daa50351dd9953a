"""Which skips carry, help, idle or hurt: the verdict on each that was broken, and its picture.

See `ablate` for what the edits are and why the gentlest removal decides.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unetseg.evaluation.confusion import Counts, Floats, bootstrap_interval, dice
from unetseg.skiplab.result import COLOURS, Row, new_figure

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
KEY = (
    f"carries: loses {CARRIES} or more    helps: loses more than {IDLE}    "
    f"hurts: gains more than {IDLE}, and every removal gains\n"
    f"idle: stays within ±{IDLE}    unclear: none of these for certain"
)

Change = Mapping[str, float]
"""dice (after), change (after − before), low and high (the ends of its 95% interval)."""


def paired_change(
    pair: Counts, score: Callable[[Counts], Floats], *, samples: int = 1000, seed: int = 0
) -> Change:
    """How a score changes, with a 95% bootstrap interval: the same images drawn for both.

    Args:
        pair: int64 N×2×K×K, the confusions of each image before and after.
        score: int64 …×K×K sums → … scores, nan where there is none.
        samples: Number of bootstrap samples.
        seed: Seed of the draw.

    Returns:
        nan where there is no score; low and high are nan for fewer than two images too.
    """

    def difference(sums: Counts) -> Floats:
        return score(sums[..., 1, :, :]) - score(sums[..., 0, :, :])

    total = pair.sum(axis=0)
    low, high = bootstrap_interval(pair, difference, samples=samples, seed=seed)
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


def deciding_edit(changes: Mapping[str, Change]) -> str:
    """The removal that costs least; of all edits where neither zero nor mean was run.

    >>> deciding_edit({"zero": {"change": -0.3}, "mean": {"change": -0.1}, "noise": {"change": 0}})
    'mean'
    """
    candidates = removals(changes)
    return max(candidates, key=lambda edit: np.nan_to_num(changes[edit]["change"], nan=-np.inf))


def removals(changes: Mapping[str, Change]) -> list[str]:
    """The edits that the verdict comes from: zero and mean, else all that were run."""
    return [edit for edit in changes if edit in REMOVING] or list(changes)


def decide(changes: Mapping[str, Change]) -> str:
    """The verdict on a level, by the change that the deciding edit makes.

    - idle: its interval lies within ±`IDLE`.
    - carries: it costs `CARRIES` or more, and its whole interval is below 0.
    - helps: it costs more than `IDLE`, and its whole interval is below 0.
    - hurts: it gains more than `IDLE`, and the intervals of all removals are above 0. The deciding
      one is the best of them, and the best of several gains by chance alone more often.
    - unclear: none of these; or there is no interval (one image, or an absent class); or the whole
      network has no more Dice than `CARRIES`, so that there is nothing to lose.

    >>> decide({"zero": {"dice": 0.6, "change": -0.2, "low": -0.3, "high": -0.1}})
    'carries'
    """
    decisive = changes[deciding_edit(changes)]
    if not decisive["dice"] - decisive["change"] > CARRIES:  # nor if it is nan
        return "unclear"
    if decisive["low"] >= -IDLE and decisive["high"] <= IDLE:
        return "idle"
    if abs(decisive["change"]) > IDLE and decisive["high"] < 0:
        return "carries" if decisive["change"] <= -CARRIES else "helps"
    gains = all(changes[edit]["low"] > 0 for edit in removals(changes))
    return "hurts" if gains and decisive["change"] > IDLE else "unclear"


def misleading(overall: Sequence[Row]) -> list[int]:
    """The levels that are idle or hurt and yet read: wrong content in their place costs Dice."""
    wrong = (row for row in overall if row["edit"] in {"shuffle", "noise"} and row["high"] < -IDLE)
    return sorted({row["level"] for row in wrong if row["verdict"] in {"idle", "hurts"}})


# ------------------------------------------------------------------ pictures


def draw_levels(overall: Sequence[Row], whole: str) -> Figure:
    """The change of the foreground Dice for each level and edit, and the verdicts.

    Args:
        overall: The rows of the foreground.
        whole: What the whole network scored on what.
    """
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
    title = "What the network loses when one of its skips is broken"
    axis.set_title(f"{title}\n({whole}; lines: 95% intervals)", fontsize=11)
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
