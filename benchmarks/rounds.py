"""Contenders measured in turns: ratios, their spread, and the machine they were measured on.

A shared machine is faster in one minute than in the next. So contenders are measured in turns
(`unetseg.timing`), each round gives one ratio, and the median of the ratios is what is told, with
the middle half of them.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

from unetseg.resources import processor
from unetseg.storage import write_text

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "pillow", "openvino")


@dataclass(frozen=True)
class Ratio:
    """How many times as long the others took as we did."""

    median: float
    low: float
    """The lower quartile of the rounds."""
    high: float
    """The upper quartile."""

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"

    def rounded(self) -> dict[str, float]:
        """The three numbers, for JSON."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


def spread(values: Sequence[float]) -> Ratio:
    """Median and quartiles of `values`; of one value, that value.

    >>> spread([3.0, 1.0, 2.0, 5.0, 4.0])
    Ratio(median=3.0, low=2.0, high=4.0)
    """
    if len(values) == 1:
        return Ratio(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Ratio(median, low, high)


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The ratio of each round, theirs / ours, as median and quartiles.

    Args:
        ours: Seconds for a unit of work, one number per round.
        theirs: The same of the others, from the same rounds in the same order.

    Raises:
        ValueError: not the same number of rounds.

    >>> print(paired_ratio([1.0, 2.0, 1.0], [2.0, 8.0, 3.0]))
    3.00 (2.50–3.50)
    """
    return spread([their / our for our, their in zip(ours, theirs, strict=True)])


def ratios(seconds: Mapping[str, Sequence[float]], ours: str = "ours") -> dict[str, Any]:
    """`ratio_NAME` and `spread_NAME` (quartiles) of all others, from `in_turns`, for JSON."""
    told: dict[str, Any] = {}
    for name in seconds.keys() - {ours}:
        ratio = paired_ratio(seconds[ours], seconds[name])
        told[f"ratio_{name}"] = round(ratio.median, 3)
        told[f"spread_{name}"] = [round(ratio.low, 3), round(ratio.high, 3)]
    return dict(sorted(told.items()))


def ratio_text(told: Mapping[str, Any], name: str) -> str:
    """What `ratios` tells of `name`, for a table.

    >>> ratio_text({"ratio_plain": 6.1, "spread_plain": [5.9, 6.25]}, "plain")
    '6.10 (5.90–6.25)'
    """
    return str(Ratio(told[f"ratio_{name}"], *told[f"spread_{name}"]))


def machine_lines() -> list[str]:
    """Date, processor and versions, as lines of text; imports nothing heavy."""
    (model, units), cores = processor(), os.cpu_count() or 1
    found = []
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{package} {metadata.version(package)}")
    python = ".".join(str(part) for part in sys.version_info[:3])
    return [
        f"{date.today().isoformat()} · {model}, {cores} core{'s' if cores > 1 else ''}",
        f"units: {', '.join(units) or 'unknown'} · Python {python}, {', '.join(found)}",
    ]


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table as lines of Markdown.

    >>> markdown(["side", "MB"], [[64, 12]])
    ['| side | MB |', '|---|---|', '| 64 | 12 |', '']
    """
    cells = [f"| {' | '.join(map(str, row))} |" for row in (head, *rows)]
    return [cells[0], "|" + "---|" * len(head), *cells[1:], ""]


def report(
    name: str, title: str, lines: Sequence[str], result: Mapping[str, object], *, write: bool
) -> None:
    """Print lines, and `result` as the last one, as JSON; write results/NAME.md where wanted."""
    if write:
        text = "\n".join([f"# {title}", "", *machine_lines(), "", *lines, ""])
        write_text(RESULTS / f"{name}.md", text)
    sys.stdout.write("\n".join([*machine_lines(), "", *lines, json.dumps(result)]) + "\n")
    sys.stdout.flush()


def parser(name: str, text: str | None) -> argparse.ArgumentParser:
    """The arguments of `python -m benchmarks.NAME`: --save, to which each adds its own."""
    arguments = argparse.ArgumentParser(description=text, prog=f"benchmarks.{name}")
    arguments.add_argument(
        "--save", action="store_true", help=f"write benchmarks/results/{name}.md"
    )
    return arguments
