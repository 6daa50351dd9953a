"""Charts as inline SVG: in the colours of the page, dark or light, sharp on paper."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 14, 32
"""Margins of the axes, in the units of WIDTH."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart; its style is a class of the page's CSS."""

    points: Points
    style: str = "line"
    dots: bool = False


def line_chart(title: str, lines: Sequence[Line], x_label: str, unit: float = 1.0) -> Markup:
    """A chart of lines with its axes, as an image with `title` as its alternative text.

    Args:
        title: What it shows.
        lines: At least one with a point.
        x_label: What runs along.
        unit: What x values are divided by for the labels.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_ticks, y_ticks = ticks(min(xs) / unit, max(xs) / unit), ticks(min(ys), max(ys))
    left, right = min(min(xs), x_ticks[0] * unit), max(max(xs), x_ticks[-1] * unit)
    low, high = min(min(ys), y_ticks[0]), max(max(ys), y_ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / ((right - left) or 1) * (WIDTH - LEFT - RIGHT)
        up = (y - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)
        return LEFT + across, HEIGHT - BOTTOM - up

    parts = []
    for y in y_ticks:
        _, at = place(left, y)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        )
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in x_ticks:
        at, _ = place(x * unit, low)
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - 14}" text-anchor="middle">{x:g}</text>')
    end = WIDTH - RIGHT
    parts.append(f'<text x="{end}" y="{HEIGHT - 1}" text-anchor="end">{escape(x_label)}</text>')
    for line in lines:
        points = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in line.points)
        parts.append(f'<polyline class="{line.style}" points="{points}"/>')
        if line.dots:
            places = (place(*point) for point in line.points)
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in places]
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers across a range, no more than `most` and those inside.

    >>> ticks(0.12, 0.93), ticks(0, 110), ticks(3, 3)
    ([0.2, 0.4, 0.6, 0.8], [0.0, 50.0, 100.0], [3])
    """
    if high <= low:
        return [low]
    scale = 10.0 ** len(str(int(high - low)))
    steps = [
        scale / tens * part for tens in (1, 10, 100, 1e3, 1e4, 1e5, 1e6) for part in (1, 0.5, 0.2)
    ]
    found = [low]
    for step in steps:
        first, last = -int(-low // step), int(high // step)
        found_now = [round(number * step, 10) for number in range(first, last + 1)]
        if len(found_now) > most:
            break
        found = found_now or found
    return found
