"""The verdict on each skip that was broken, by the change of Dice, in words.

See `ablate` for what the edits are and why the gentlest removal decides.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from unetseg.evaluation.confusion import Counts, Floats, bootstrap_interval, dice
from unetseg.skiplab.finding import Row
from unetseg.skiplab.subject import Subject
from unetseg.text import plural

CARRIES = 0.05
"""Dice that a level which carries the network brings at least."""
IDLE = 0.005
"""Dice changes up to this are too small to matter."""
FEW = 10
"""Images below which the sentences warn of too narrow intervals."""
REMOVING = ("zero", "mean")
"""Edits that take the content away and put nothing false in its place."""
VERDICTS = {
    "carries": "is carried by",
    "helps": "is helped by",
    "hurts": "is hurt by",
    "idle": "does not need",
    "unclear": "may or may not need",
}
"""What the network does, in words that the levels of each verdict follow."""

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
    if not has_dice(decisive["dice"] - decisive["change"]):
        return "unclear"
    if decisive["low"] >= -IDLE and decisive["high"] <= IDLE:
        return "idle"
    if abs(decisive["change"]) > IDLE and decisive["high"] < 0:
        return "carries" if decisive["change"] <= -CARRIES else "helps"
    gains = all(changes[edit]["low"] > 0 for edit in removals(changes))
    return "hurts" if gains and decisive["change"] > IDLE else "unclear"


def has_dice(score: float) -> bool:
    """Whether the whole network has Dice to lose: more than `CARRIES`, and not nan."""
    return score > CARRIES


def headline(subject: Subject, score: float) -> str:
    """On what the whole network scored how much."""
    images = plural(len(subject.views), "image")
    amount = "none, as there is no foreground" if np.isnan(score) else f"{score:.3f}"
    return f"on {images} of split {subject.split} the whole network has {amount}"


def what_was_seen(overall: Sequence[Row], subject: Subject, score: float) -> str:
    """One sentence on the rows of the foreground: what each level's deciding edit changed."""
    judged = [row for row in overall if row["decides"]]
    changes = [
        f"{row['change']:+.3f} at level {row['level']} ({row['edit']}{_interval(row)})"
        for row in judged
        if not np.isnan(row["change"])
    ]
    end = f"broken in the gentlest way, the skips change it by {', '.join(changes)}"
    if not changes:
        end = "breaking skips changes nothing of it" if judged else "there is no skip to break"
    return f"Foreground Dice: {headline(subject, score)}; {end}."


def _interval(row: Row) -> str:
    return "" if np.isnan(row["low"]) else f", 95% {row['low']:+.3f} to {row['high']:+.3f}"


def what_it_means(overall: Sequence[Row], subject: Subject, score: float) -> str:
    """One sentence on the rows of the foreground: which levels matter, and what to try."""
    judged = [row for row in overall if row["decides"]]
    if not judged:
        return "The decoder works from the bottom of the U alone: there is no skip to lose."
    if not has_dice(score):
        return (
            "The whole network has no Dice to lose on these images, so no skip is judged: choose "
            "images with foreground, and a network that finds it."
        )
    if len(subject.views) < 2:
        return "One image gives no interval, so no skip is judged: use two images or more."
    parts = []
    for verdict, words in VERDICTS.items():
        levels = [f"level {row['level']}" for row in judged if row["verdict"] == verdict]
        parts += [f"{words} {' and '.join(levels)}"] if levels else []
    parts += [f"is misled by wrong content at level {number}" for number in misleading(overall)]
    *others, last = parts
    sentence = f"This network {', '.join(others)}{' and ' * bool(others)}{last}"
    gone = {"idle", "hurts"} & {row["verdict"] for row in judged}
    if gone and subject.info.network.preset != "classic":  # whose skips are given
        sentence += f"; train one with --skip {_without(overall)} to see whether it does as well"
    if len(subject.views) < FEW:
        sentence += "; with so few images this is a hint, no more"
    return sentence + "."


def misleading(overall: Sequence[Row]) -> list[int]:
    """The levels that are idle or hurt and yet read: wrong content in their place costs Dice."""
    wrong = (row for row in overall if row["edit"] in {"shuffle", "noise"} and row["high"] < -IDLE)
    return sorted({row["level"] for row in wrong if row["verdict"] in {"idle", "hurts"}})


def _without(overall: Sequence[Row]) -> str:
    """The kinds of all levels, none for those that bring nothing, as --skip takes them."""
    gone = {"idle", "hurts", "none"}
    kinds = {row["level"]: "none" if row["verdict"] in gone else row["kind"] for row in overall}
    return ",".join(kinds.values())
