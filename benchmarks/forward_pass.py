"""The forward pass alone, against the product of two matrices on the same machine.

    python -m benchmarks.forward_pass
    python -m benchmarks.forward_pass --engine auto --engine compile --network resnet34

A prepared image in memory goes through the network of each engine and of the plain scripts; a
4096³ product in unetseg's arithmetic is measured in turns with them, as what the machine can do at
all. The last line is one JSON object.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender, ContenderError
from benchmarks.networks import fresh_run, gflop
from benchmarks.rounds import markdown, paired_ratio, parser, report, spread
from unetseg.timing import in_turns

ENGINES = ("auto", "eager", "compile", "openvino")
SCRIPTS = ("plain", "flags")
PRODUCT = "product"
SIDE = 4096
"""Of the matrices."""
TURN = 1.5
"""Seconds that a contender works in a round, about."""
MOST_UNITS = 64


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table and a line of JSON."""
    flags = parser("forward_pass", __doc__)
    flags.add_argument("--network", default="classic", help="classic, base32 or resnet34")
    flags.add_argument("--height", type=int, default=512)
    flags.add_argument("--width", type=int, default=512)
    flags.add_argument("--engine", action="append", help="of unetseg (default: all there are)")
    flags.add_argument("--device", default="cpu")
    flags.add_argument("--threads", type=int, help="threads of each contender")
    flags.add_argument("--rounds", type=int, default=9)
    flags.add_argument("--seconds", type=float, default=120, help="of all rounds")
    given = flags.parse_args(arguments)
    if given.threads:
        os.environ["OMP_NUM_THREADS"] = str(given.threads)
    with tempfile.TemporaryDirectory(prefix="forward-pass-") as folder, ExitStack() as stack:
        them = start(commands(given, Path(folder)), stack)
        for contender in them.values():
            contender.warm_up(TURN, MOST_UNITS)
        turns = {name: one.go for name, one in them.items()}
        measured = in_turns(turns, given.rounds, given.seconds)
    work = gflop(given.network, given.height, given.width)
    found = figures(measured, work, them)
    report("forward_pass", "The forward pass", table(found, given), found, write=given.save)


def commands(given: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """The contenders, by name."""
    size, device = [str(given.height), str(given.width)], given.device
    run = str(fresh_run(given.network, folder))
    found = {PRODUCT: ["multiply", str(SIDE), device]}
    for engine in given.engine or ENGINES:
        found[engine] = ["forward-ours", run, *size, device, engine]
    for kind in SCRIPTS:
        found[kind] = ["forward-script", kind, given.network, *size, device]
    return found


def start(words: dict[str, list[str]], stack: ExitStack) -> dict[str, Contender]:
    """The contenders that can work here; an engine may not be installed."""
    them = {}
    for name, command in words.items():
        try:
            them[name] = Contender(name, ["benchmarks.workers", *command])
        except ContenderError:
            continue  # it has said why
        stack.callback(them[name].close)
    return them


def figures(
    measured: dict[str, list[float]], work: float, them: dict[str, Contender]
) -> dict[str, Any]:
    """What is told of the rounds, for JSON.

    Args:
        measured: Seconds of every round.
        work: 10⁹ operations of a forward pass.
        them: The contenders.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in measured.keys() - {PRODUCT}:
        times = paired_ratio(measured[name], measured[PRODUCT])  # of the product / of the network
        relative = work / (2 * SIDE**3 / 1e9)
        rows[name] = {
            "seconds": round(spread(measured[name]).median, 4),
            "gflop_per_second": round(work / spread(measured[name]).median, 1),
            "share_of_product": round(times.median * relative, 4),
            "spread": [round(bound * relative, 4) for bound in (times.low, times.high)],
            "ready_seconds": round(them[name].started, 2),
            "first_seconds": round(them[name].first, 2),
        }
    ours = next(name for name in them if name not in {PRODUCT, *SCRIPTS})
    return {
        "engine": them[ours].facts["engine"],
        "share_of_product": rows[ours]["share_of_product"],
        **{
            f"ratio_{kind}": round(paired_ratio(measured[ours], measured[kind]).median, 3)
            for kind in SCRIPTS
        },
        "product_gflop_per_second": round(2 * SIDE**3 / 1e9 / spread(measured[PRODUCT]).median, 1),
        "dtype": them[PRODUCT].facts["dtype"],
        "gflop": round(work, 1),
        "rounds": len(measured[PRODUCT]),
        "contenders": dict(sorted(rows.items(), key=lambda row: float(row[1]["seconds"]))),
    }


def table(result: dict[str, Any], given: argparse.Namespace) -> list[str]:
    """The figures as lines of Markdown."""
    rows = []
    for name, row in result["contenders"].items():
        low, high = row["spread"]
        share = f"{row['share_of_product']:.1%} ({low:.1%}–{high:.1%})"
        cells = [name, row["seconds"], row["gflop_per_second"], share]
        rows.append([*cells, row["ready_seconds"], row["first_seconds"]])
    head = ["contender", "s", "GFLOP/s", "share of the product", "start-up, s", "first image, s"]
    return [
        f"{given.network}, {given.width}×{given.height}: {result['gflop']} GFLOP; {SIDE}³ product "
        f"in {result['dtype']}: {result['product_gflop_per_second']} GFLOP/s; "
        f"auto takes the engine {result['engine']}",
        "",
        *markdown(head, rows),
    ]


if __name__ == "__main__":
    main()
