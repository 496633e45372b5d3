"""Drawings of a report: SVG texts made by hand, without a library and without a script.

Everything that is not a number of ours is escaped. Coordinates have one decimal; colours are
classes of the report's style sheet.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

WIDTH: Final = 640
"""Width of a figure, pixels."""
HEIGHT: Final = 280
"""Height of a figure, pixels."""
_LEFT: Final = 62
_RIGHT: Final = 12
_TOP: Final = 34
_BOTTOM: Final = 44
_LEGEND_ROW: Final = 24
"""Height of a row of the legend, pixels."""
_NAME_MAX: Final = 28
"""Characters of a name in a legend; of longer ones the beginning is shown."""
_SHORT_NAME: Final = 11
"""Up to so many characters four names fit into a row, otherwise two."""
_TICKS: Final = 5
"""Ticks of an axis, about."""
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
"""Distances of ticks, times a power of ten."""
_RADIUS: Final = 230.0
"""Radius of the ring of nodes, pixels."""
_CENTRE: Final = 260.0
"""Centre of that ring, pixels."""


class Line(NamedTuple):
    """One line of a plot."""

    name: str
    """What it shows."""
    points: Sequence[tuple[float, float]]
    """Its points, x ascending."""
    is_stepped: bool = False
    """Whether it keeps its value until the next point."""


def plot(title: str, lines: Sequence[Line], *, x_name: str, y_name: str) -> str:
    """Draws lines over one pair of axes, with a legend.

    Args:
        title: for people who cannot see it, too.
        lines: at most eight; no line may have an infinite point.
        x_name: what the horizontal axis shows, with its unit.
        y_name: what the vertical axis shows, with its unit.
    """
    points = [point for line in lines for point in line.points]
    x_max = max((x for x, _ in points), default=0.0) or 1.0
    y_max = max((y for _, y in points), default=0.0) or 1.0
    parts = [_axes(x_max, y_max, x_name, y_name)]
    columns = 4 if all(len(line.name) <= _SHORT_NAME for line in lines) else 2
    for number, line in enumerate(lines):
        parts.append(_curve(line, number, x_max, y_max))
        parts.append(_legend(line.name, number, columns))
    rows = -(-len(lines) // columns)
    label = html.escape(title, quote=True)
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {HEIGHT + rows * _LEGEND_ROW}">'
        f"<title>{label}</title>{''.join(parts)}</svg>"
    )


def _x(value: float, x_max: float) -> float:
    return _LEFT + value / x_max * (WIDTH - _LEFT - _RIGHT)


def _y(value: float, y_max: float) -> float:
    return HEIGHT - _BOTTOM - value / y_max * (HEIGHT - _TOP - _BOTTOM)


def _curve(line: Line, number: int, x_max: float, y_max: float) -> str:
    path: list[str] = []
    last_y: float | None = None
    for x, y in line.points:
        place = f"{_x(x, x_max):.1f}"
        if line.is_stepped and last_y is not None:
            path.append(f"{place},{_y(last_y, y_max):.1f}")
        path.append(f"{place},{_y(y, y_max):.1f}")
        last_y = y
    name = html.escape(line.name, quote=True)
    return f'<polyline class="line c{number}" data-line="{name}" points="{" ".join(path)}"/>'


def _legend(name: str, number: int, columns: int) -> str:
    row, column = divmod(number, columns)
    x = _LEFT + 8 + column * (WIDTH - _LEFT - _RIGHT) // columns
    y = HEIGHT + 4 + row * _LEGEND_ROW
    shown = name if len(name) <= _NAME_MAX else name[: _NAME_MAX - 1] + "\u2026"
    return (
        f'<rect class="key c{number}" x="{x}" y="{y}" width="12" height="12"/>'
        f'<text x="{x + 18}" y="{y + 11}">{html.escape(shown)}</text>'
    )


def _axes(x_max: float, y_max: float, x_name: str, y_name: str) -> str:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = [
        f'<line class="axis" x1="{_LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>',
        f'<line class="axis" x1="{_LEFT}" y1="{_TOP}" x2="{_LEFT}" y2="{bottom}"/>',
        f'<text class="name" x="{right}" y="{HEIGHT - 6}">{html.escape(x_name)}</text>',
        f'<text x="4" y="16">{html.escape(y_name)}</text>',
    ]
    for value in ticks(x_max):
        place = f"{_x(value, x_max):.1f}"
        parts.append(f'<text class="x" x="{place}" y="{bottom + 18}">{value:g}</text>')
    for value in ticks(y_max):
        place = f"{_y(value, y_max):.1f}"
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{place}" x2="{right}" y2="{place}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 5}" y="{place}">{value:g}</text>')
    return "".join(parts)


def ticks(maximum: float) -> list[float]:
    """Round numbers from 0 to a maximum above 0, some five of them."""
    power = 10.0 ** math.floor(math.log10(maximum / _TICKS))
    step = next((each * power for each in _STEPS if each * power * _TICKS >= maximum), 10 * power)
    return [number * step for number in range(int(maximum / step + 1e-9) + 1)]


# The graph ---------------------------------------------------------------------------------------


class Graph(NamedTuple):
    """One moment of the swarm, ready to draw."""

    held: Sequence[float]
    """For each node, the part it holds; below 0: it is down."""
    edges: Sequence[tuple[int, int, int]]
    """(from, to, bytes)."""
    seeders: int
    """The first so many nodes."""
    bad: Sequence[int]
    """Nodes that break the rules."""


def graph(title: str, moment: Graph) -> str:
    """Draws nodes on a ring: how full each is, and who sent most to whom.

    Args:
        title: for people who cannot see it, too.
        moment: what is drawn.
    """
    count = max(len(moment.held), 1)
    places = [_place(number, count) for number in range(len(moment.held))]
    heaviest = max((size for _, _, size in moment.edges), default=1)
    parts = [
        _edge(places[source], places[target], size / heaviest)
        for source, target, size in moment.edges
    ]
    parts += [
        _node(place, held, number, moment)
        for number, (place, held) in enumerate(zip(places, moment.held, strict=True))
    ]
    label, size = html.escape(title, quote=True), int(2 * _CENTRE)
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {size} {size}">'
        f"<title>{label}</title>{''.join(parts)}</svg>"
    )


def _place(number: int, count: int) -> tuple[float, float]:
    angle = 2 * math.pi * number / count - math.pi / 2
    return _CENTRE + _RADIUS * math.cos(angle), _CENTRE + _RADIUS * math.sin(angle)


def _edge(start: tuple[float, float], end: tuple[float, float], weight: float) -> str:
    return (
        f'<line class="edge" x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" '
        f'y2="{end[1]:.1f}" stroke-width="{0.4 + 2.4 * weight:.2f}"/>'
    )


def _node(place: tuple[float, float], held: float, number: int, moment: Graph) -> str:
    kind = "seeder" if number < moment.seeders else "gateway"
    if number in moment.bad:
        kind = "bad"
    if held < 0:
        kind = "down"
    radius = 9.0 if len(moment.held) <= 48 else 5.0
    x, y, part = place[0], place[1], max(held, 0.0)
    what = f"{kind} {number}: {'down' if held < 0 else f'{part:.0%}'}"
    return (
        f'<g class="{kind}"><title>{html.escape(what)}</title>'
        f'<circle class="rim" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'
        f'<circle class="fill" cx="{x:.1f}" cy="{y:.1f}" r="{radius * math.sqrt(part):.1f}"/></g>'
    )
