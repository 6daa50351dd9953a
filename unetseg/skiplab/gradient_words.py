"""What the measured gradients say, in plain words."""

from collections.abc import Sequence

from unetseg.skiplab.finding import Row
from unetseg.skiplab.gradient_flow import at_start, first_layers

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
    weakest, strongest = firsts[0], firsts[-1]
    seen = (
        f"Before training, the gradient of the first of {depth} convolutions is "
        f"{say(_size(weakest))} with {_kind(weakest)} and {say(_size(strongest))} with "
        f"{_kind(strongest)}."
    )
    stiff = sum(row["stuck_float32"] == 1 for row in firsts)
    sound = [_kind(row) for row in firsts if SOUND[0] <= _size(row) <= SOUND[1]]
    advice = f"build deep networks on {'; '.join(sound)}" if sound else "build shallower networks"
    meaning = (
        f"At a learning rate of {lr:g}, {stiff} of these {len(firsts)} kinds cannot move a single "
        f"weight of that layer in float32, and in {len(sound)} its gradient neither vanishes nor "
        f"explodes ({SOUND[0]:g} to {SOUND[1]:g}): {advice}."
    )
    return seen, meaning


def unet_words(rows: Sequence[Row], lr: float) -> tuple[str, str]:
    """What was seen in U-Nets with different skips, and what it means."""
    firsts = sorted(first_layers(at_start(rows)), key=_size)
    weakest, strongest = firsts[0], firsts[-1]
    after = {_kind(row): _size(row) for row in first_layers(rows)}
    steps = max(row["step"] for row in rows)
    low, high = _kind(weakest), _kind(strongest)
    seen = (
        f"The gradient of the first layer is {say(_size(weakest))} before training and "
        f"{say(after[low])} after {steps} steps with {low}, {say(_size(strongest))} and "
        f"{say(after[high])} with {high}; {_stiffness(firsts, lr)}."
    )
    ratio = _ratio(_size(weakest), _size(strongest))
    if ratio < CLEAR:
        return seen, (
            "The gradient reaches the first layer whichever of these you choose, so choose by the "
            "Dice: see `unetseg lab compare`."
        )
    amount = "no gradient" if _size(weakest) == 0 else f"a gradient {ratio:.2g} times weaker"
    return seen, (
        f"Before training the first layer gets {amount} with {low} than with {high}: "
        "`unetseg lab compare` tells whether that costs Dice."
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
    if kept == lost:
        return seen, "This network makes no use of skips, so nothing depends on them."
    ratio = _ratio(kept, lost)
    if ratio >= CLEAR and lost < kept:
        amount = "nothing" if lost == 0 else f"a gradient {ratio:.2g} times weaker"
        return seen, (
            f"The skips are the gradient's way to the first layer: without them {amount} would "
            "arrive there."
        )
    size = "of much the same size" if ratio < CLEAR else f"even {ratio:.2g} times stronger"
    return seen, (
        f"The gradient finds its way to the first layer without skips, {size}: what they carry is "
        "seen by `unetseg lab ablate`."
    )


def _stiffness(firsts: Sequence[Row], lr: float) -> str:
    """How many weights of the first layer a step leaves as they are, where that is most."""
    single, half = (max(row[name] for row in firsts) for name in ("stuck_float32", "stuck_bf16"))
    return (
        f"a plain step at a learning rate of {lr:g} leaves up to {single:.0%} of that layer's "
        f"weights as they are in float32, {half:.0%} in bfloat16"
    )


def say(number: float) -> str:
    """A number in two digits; what is too large for float32 is called so.

    >>> say(0.03512), say(0.0), say(float("inf"))
    ('0.035', '0', 'too large for float32')
    """
    return "too large for float32" if number == float("inf") else f"{number:.2g}"


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
    return large / small if small else float("inf")
