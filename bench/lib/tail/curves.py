"""Percentile curves as SVG, a panel for each row: how long one of so many requests takes."""

import math
from statistics import median
from xml.sax.saxutils import escape

from .. import plot
from ..report import BEFORE, FLOOR, FLOOR_SPLICE, NONE, OURS

COLOURS = plot.COLOURS | {NONE: "#adb5bd", FLOOR: "#212529", FLOOR_SPLICE: "#868e96", BEFORE: "#f59f00"}
WIDTH, HEIGHT = 420, 240
LEFT, TOP, GAP_X, GAP_Y = 60, 110, 80, 78
COLUMNS = 2
# The curve begins at the median, as far as the points of the generator have it.
FIRST = 1.99
TICKS = {2: "p50", 10: "p90", 100: "p99", 1000: "p99.9", 10000: "p99.99", 100000: "p99.999"}

# Lines across, in µs.
GRID = [step * 10**exponent for exponent in range(8) for step in (1, 2, 5)]


def svg(results, kept):
    """All panels. Both axes are logarithmic."""
    panels = [(row, lines) for row in results.rows if (lines := _lines(results, row))]
    names = [name for name in results.proxies if any(name in lines for _, lines in panels)]
    count = math.ceil(len(panels) / COLUMNS)
    width, height = LEFT + COLUMNS * (WIDTH + GAP_X), TOP + count * (HEIGHT + GAP_Y) + 10
    about = kept["turns"][-1]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        plot.text(LEFT, 28, "How long requests take, from the moment at which they are due", size=18, weight="bold", anchor="start"),
        plot.text(LEFT, 48, "Medians of the rounds at each percentile. Lower is better.", anchor="start"),
        *_legend(names),
    ]
    for index, (row, lines) in enumerate(panels):
        left = LEFT + index % COLUMNS * (WIDTH + GAP_X)
        top = TOP + index // COLUMNS * (HEIGHT + GAP_Y)
        parts += _panel(row, lines, left, top)
    source = f"{about['date']}, {about['cpu']}, {about['cores']} cores, Linux {about['kernel']}"
    parts += [plot.text(LEFT, height - 8, source, size=11, anchor="start", fill="#868e96"), "</svg>"]
    return "\n".join(parts) + "\n"


def _lines(results, row):
    """By contender: points of the curve, each the median over the rounds that have it."""
    found = {}
    for name in results.proxies:
        by_place = {}
        for curve in results.known(row, _Curve, name):
            for one_of, latency in curve[:-1]:
                by_place.setdefault(one_of, []).append(latency)
        if by_place:
            found[name] = [(one_of, median(latencies)) for one_of, latencies in sorted(by_place.items()) if one_of >= FIRST]
    return found


class _Curve:
    """Stands for a figure: the curve."""

    key = "curve"


def _legend(names):
    x, parts = LEFT, []
    for name in names:
        parts.append(f'<line x1="{x}" x2="{x + 18}" y1="69" y2="69" stroke="{COLOURS[name]}" stroke-width="{_stroke(name)}"/>')
        parts.append(plot.text(x + 24, 74, name, anchor="start"))
        x += 46 + 8 * len(name)
    return parts


def _stroke(name):
    return 3 if name == OURS else 1.6


def _panel(row, lines, left, top):
    points = [point for line in lines.values() for point in line]
    most = max(one_of for one_of, _ in points)
    low, high = _bounds([latency for _, latency in points])
    across = lambda one_of: left + WIDTH * math.log(one_of / FIRST) / math.log(max(most, 20) / FIRST)
    down = lambda latency: top + HEIGHT * (1 - math.log(max(latency, low) / low) / math.log(high / low))
    parts = [plot.text(left, top - 10, row.title, weight="bold", anchor="start")]
    for value in (value for value in GRID if low <= value <= high):
        y, is_power = down(value), math.log10(value).is_integer()
        stroke = 1 if is_power else 0.4
        parts.append(f'<line x1="{left}" x2="{left + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="{plot.FAINT}" stroke-width="{stroke}"/>')
        if is_power or high / low <= 100:
            parts.append(plot.text(left - 6, y + 4, _time(value), size=11, anchor="end"))
    for one_of, label in TICKS.items():
        if one_of <= most:
            x = across(one_of)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + HEIGHT}" stroke="{plot.FAINT}" stroke-width="1"/>')
            parts.append(plot.text(x, top + HEIGHT + 16, label, size=11))
    for name, line in lines.items():
        path = " ".join(f"{across(one_of):.1f},{down(latency):.1f}" for one_of, latency in line)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="{_stroke(name)}" stroke-linejoin="round">'
            f"<title>{escape(name)}</title></polyline>"
        )
    return parts


def _bounds(latencies):
    """The lines of the grid below and above."""
    low = max((value for value in GRID if value <= min(latencies)), default=GRID[0])
    return low, min((value for value in GRID if value > max(latencies)), default=GRID[-1])


def _time(micros):
    if micros < 1000:
        return f"{micros:g} µs"
    return f"{micros / 1000:g} ms" if micros < 1_000_000 else f"{micros / 1_000_000:g} s"
