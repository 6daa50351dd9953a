"""What the measured gradients say, in plain words."""

import math
from collections.abc import Sequence

from unetseg.skiplab.finding import Row
from unetseg.skiplab.gradient_flow import at_start, first_layers
from unetseg.text import plural

SOUND = 1e-3, 1e3
"""Gradients of the first layer that have neither vanished nor exploded."""
CLEAR = 2.0
"""Factor from which one gradient is called stronger than another."""


def first_layer_table(rows: Sequence[Row]) -> list[Row]:
    """The first layer's gradient at the start: a row for each kind of stack, a column per depth."""
    table: dict[tuple[object, ...], dict[str, object]] = {}
    for row in first_layers(at_start(rows)):
        kind = {name: row[name] for name in ("network", "norm", "init")}
        columns = table.setdefault(tuple(kind.values()), kind)
        columns[f"depth {row['depth']}"] = row["gradient"]
    return list(table.values())


def stack_words(rows: Sequence[Row], lr: float) -> tuple[str, str]:
    """What was seen in stacks of convolutions, and what it means."""
    depth = max(row["depth"] for row in rows)
    deep = [row for row in at_start(rows) if row["depth"] == depth]
    firsts = sorted(first_layers(deep), key=_size)
    ends = firsts[:1] if len(firsts) == 1 else [firsts[0], firsts[-1]]
    sizes = " and ".join(f"{say(_size(row))} with {_kind(row)}" for row in ends)
    seen = f"Before training, the gradient of the first of {depth} convolutions is {sizes}."
    sound = [_kind(row) for row in firsts if SOUND[0] <= _size(row) <= SOUND[1]]
    advice = f"build deep networks on {'; '.join(sound)}" if sound else "build shallower networks"
    found = _one_kind(firsts[0]) if len(firsts) == 1 else _many_kinds(firsts, len(sound))
    bounds = f"({SOUND[0]:g} to {SOUND[1]:g})"
    return seen, f"At a learning rate of {lr:g}, {found} {bounds}: {advice}."


def _one_kind(row: Row) -> str:
    moves = "cannot move a single weight" if row["stuck_float32"] == 1 else "can move weights"
    size = _size(row)
    fate = "vanishes" if size < SOUND[0] else "explodes" if size > SOUND[1] else ""
    fate = f"{fate}, being outside the sound range" if fate else "neither vanishes nor explodes"
    return f"this kind {moves} of that layer in float32, and its gradient {fate}"


def _many_kinds(firsts: Sequence[Row], sound: int) -> str:
    stiff = sum(row["stuck_float32"] == 1 for row in firsts)
    return (
        f"{stiff} of these {len(firsts)} kinds cannot move a single weight of that layer in "
        f"float32, and in {sound} of them its gradient neither vanishes nor explodes"
    )


def unet_words(rows: Sequence[Row], lr: float) -> tuple[str, str]:
    """What was seen in U-Nets with different skips, and what it means."""
    firsts = sorted(first_layers(at_start(rows)), key=_size)
    weakest, strongest = firsts[0], firsts[-1]
    after = {_kind(row): _size(row) for row in first_layers(rows)}
    steps = max(row["step"] for row in rows)
    ends = firsts[:1] if len(firsts) == 1 else [weakest, strongest]
    sizes = [f"{say(_size(row))} before training" for row in ends]
    if steps:
        ways = [f" and {say(after[_kind(row)])} after {plural(steps, 'step')}" for row in ends]
        sizes = [size + way for size, way in zip(sizes, ways, strict=True)]
    each = ", ".join(f"{size} with {_kind(row)}" for size, row in zip(sizes, ends, strict=True))
    seen = f"The gradient of the first layer is {each}; {_stiffness(firsts, lr)}."
    return seen, _choice(weakest, strongest, several=len(firsts) > 1)


def _choice(weakest: Row, strongest: Row, *, several: bool) -> str:
    """What the first layer's gradients say about the choice between U-Nets."""
    low, high = _size(weakest), _size(strongest)
    way = "whichever of these you choose" if several else f"with {_kind(weakest)}"
    if low == high and low in {0, math.inf}:
        amount = "No gradient" if low == 0 else "A gradient too large for float32"
        return f"{amount} reaches the first layer {way}: such networks do not learn, choose others."
    if _ratio(low, high) < CLEAR:
        advice = "choose" if several else "choose the skips"
        return (
            f"The gradient reaches the first layer {way}, so {advice} by the Dice: "
            "see `unetseg lab compare`."
        )
    return (
        f"Before training the first layer gets {_weaker(low, high)} with {_kind(weakest)} than "
        f"with {_kind(strongest)}: `unetseg lab compare` tells whether that costs Dice."
    )


def run_words(rows: Sequence[Row], lr: float) -> tuple[str, str]:
    """What zeroing a network's skips does to its gradient, and what it means."""
    firsts = {(row["weights"], row["skips"]): row for row in first_layers(rows)}
    sizes = {state: _size(row) for state, row in firsts.items()}
    kept, lost = sizes["trained", "skips as they are"], sizes["trained", "skips zeroed"]
    before = sizes["fresh", "skips as they are"], sizes["fresh", "skips zeroed"]
    seen = (
        f"Without its skips, the first layer of the trained network gets a gradient of {say(lost)} "
        f"instead of {say(kept)}; with fresh weights {say(before[1])} instead of {say(before[0])}; "
        f"{_stiffness([firsts['trained', 'skips as they are']], lr)}."
    )
    return seen, _worth(kept, lost)


def _worth(kept: float, lost: float) -> str:
    """What the skips are to the gradient of a trained network's first layer."""
    if kept == lost and kept in {0, math.inf}:
        amount = "No gradient arrives" if kept == 0 else "The gradient is too large for float32"
        return f"{amount} at the first layer, with skips or without: they make no difference here."
    if kept == lost:
        return "This network makes no use of skips, so nothing depends on them."
    ratio = _ratio(kept, lost)
    if ratio >= CLEAR and lost < kept:
        amount = "nothing" if lost == 0 else _weaker(lost, kept)
        return (
            f"The skips are the gradient's way to the first layer: without them {amount} would "
            "arrive there."
        )
    size = f"even {_times(ratio)} stronger" if ratio >= CLEAR else "of much the same size"
    return (
        f"The gradient finds its way to the first layer without skips, {size}: what they carry is "
        "seen by `unetseg lab ablate`."
    )


def _weaker(low: float, high: float) -> str:
    return "no gradient" if low == 0 else f"a gradient {_times(_ratio(low, high))} weaker"


def _times(ratio: float) -> str:
    return "beyond measure" if ratio == math.inf else f"{ratio:.2g} times"


def _stiffness(firsts: Sequence[Row], lr: float) -> str:
    """How many weights of the first layer a step leaves as they are, where that is most."""
    single, half = (max(row[name] for row in firsts) for name in ("stuck_float32", "stuck_bf16"))
    return (
        f"a plain step at a learning rate of {lr:g} leaves up to {single:.0%} of that layer's "
        f"weights as they are in float32, {half:.0%} in bfloat16"
    )


def say(size: float) -> str:
    """A number in two digits; what is too large for float32 is called so.

    >>> say(0.03512), say(0.0), say(float("inf"))
    ('0.035', '0', 'too large for float32')
    """
    return "too large for float32" if size == math.inf else f"{size:.2g}"


def _kind(row: Row) -> str:
    """The network with its norm and its first weights."""
    norm = "no norm" if row["norm"] == "none" else f"{row['norm']} norm"
    return f"{row['network']} ({norm}, init {row['init']})"


def _size(row: Row) -> float:
    size: float = row["gradient"]
    return size


def _ratio(one: float, other: float) -> float:
    """How many times the larger is the smaller; infinite where only one of them is 0."""
    small, large = sorted((one, other))
    if small == large:
        return 1.0
    return large / small if small else math.inf
