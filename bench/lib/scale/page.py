"""Tables and plots of `bench/scale`, and their places in docs/scale.md."""

from math import log10
from statistics import median

from .. import report
from ..plot import COLOURS, FAINT, INK, text
from ..proxies import ROOT
from ..report import number

PAGE = ROOT / "docs/scale.md"
PICTURES = ROOT / "docs/images"
VERDICTS = {True: "yes", False: "**no**", None: ""}


def medians(rounds, name):
    """The medians of a proxy's figures over the rounds, by size."""
    found = {}
    for one in rounds:
        for size, figures in one.get(name, {}).items():
            for key, value in figures.items():
                found.setdefault(int(size), {}).setdefault(key, []).append(value)
    return {size: {key: median(values) for key, values in figures.items()} for size, figures in found.items()}


def points(by_size, key):
    return [(size, figures[key]) for size, figures in sorted(by_size.items()) if key in figures]


def names_of(rounds):
    return list(dict.fromkeys(name for one in rounds for name in one))


def sweep_table(sweep, rounds):
    """A row for each figure and proxy, a column for each size, and the verdict."""
    sizes = sorted({int(size) for one in rounds for by_size in one.values() for size in by_size})
    lines = [f"| {sweep.title} | | {' | '.join(number(size, 0) for size in sizes)} | against size |", "|---|---|" + "--:|" * len(sizes) + "---|"]
    for figure in sweep.figures:
        for name in names_of(rounds):
            found = dict(points(medians(rounds, name), figure.key))
            if found:
                cells = " | ".join(number(found[size], figure.digits) if size in found else "–" for size in sizes)
                lines.append(f"| {figure.title}, {figure.unit} | {name} | {cells} | {sweep_verdict(figure, found)} |")
    return lines


def sweep_verdict(figure, found):
    return figure.verdict(list(found.items())).words if len(found) > 2 else ""


def checks_table(checks):
    return ["| | measured | as it should be |", "|---|--:|---|", *(f"| {what} | {value} | {VERDICTS[good]} |" for what, value, good in checks)]


def series_table(axis, columns, series):
    """The begin, the middle and the end of a series."""
    heads = " | ".join(f"{title}, {unit}" if unit else title for _, title, unit, _ in columns)
    lines = [f"| | {axis} | {heads} |", "|---|--:|" + "--:|" * len(columns)]
    for name, samples in series.items():
        for sample in (samples[0], samples[len(samples) // 2], samples[-1]):
            cells = " | ".join(number(sample[key], digits) for key, _, _, digits in columns)
            lines.append(f"| {name} | {round(sample['at'], 1):g} | {cells} |")
    return lines


def source(about):
    return (
        f"{about['date']}, commit {about['commit']}, {about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, "
        f"load average before the start {about['load_average_at_start']:.1f}"
    )


WIDTH, LEFT, TOP, PANEL_WIDTH, PANEL_HEIGHT, ACROSS, DOWN = 1000, 64, 96, 420, 200, 480, 290


def picture(title, panels, about):
    """Panels of lines, two in a row. A panel is its title, its axis, whether that is logarithmic, and points by proxy."""
    rows = -(-len(panels) // 2)
    height = TOP + rows * DOWN
    names = list(dict.fromkeys(name for _, _, _, lines in panels for name in lines))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        text(LEFT, 28, title, size=18, weight="bold", anchor="start"),
    ]
    for turn, name in enumerate(names):
        x = LEFT + 110 * turn
        parts += [f'<rect x="{x}" y="42" width="14" height="14" rx="2" fill="{COLOURS[name]}"/>', text(x + 20, 54, name, anchor="start")]
    for turn, panel in enumerate(panels):
        parts += _panel(LEFT + turn % 2 * ACROSS, TOP + turn // 2 * DOWN, *panel)
    parts.append(text(LEFT, height - 10, source(about), size=11, anchor="start", fill="#868e96"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(left, top, title, axis, logarithmic, lines):
    every = [point for line in lines.values() for point in line]
    scale = (lambda x: log10(max(x, 1))) if logarithmic else (lambda x: x)
    lowest, widest = min(scale(x) for x, _ in every), max(scale(x) for x, _ in every)
    step = _step(max(y for _, y in every) * 1.05)
    highest = step * (int(max(y for _, y in every) / step) + 1)
    across = lambda x: left + (scale(x) - lowest) / max(widest - lowest, 1e-9) * PANEL_WIDTH
    up = lambda y: top + PANEL_HEIGHT * (1 - max(y, 0) / highest)
    parts = [text(left, top - 12, title, anchor="start", weight="bold")]
    for turn in range(round(highest / step) + 1):
        y, colour = up(turn * step), FAINT if turn else INK
        parts.append(f'<line x1="{left}" x2="{left + PANEL_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}"/>')
        parts.append(text(left - 8, y + 4, _mark(turn * step), size=12, anchor="end"))
    parts += [text(across(x), top + PANEL_HEIGHT + 18, label, size=12) for x, label in _marks(every, logarithmic)]
    parts.append(text(left + PANEL_WIDTH / 2, top + PANEL_HEIGHT + 38, axis, size=12, fill="#868e96"))
    for name, line in lines.items():
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        if len(line) < 20:
            parts += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3.5" fill="{COLOURS[name]}"/>' for x, y in line]
    return parts


def _step(highest):
    """The distance of the lines of the grid: 1, 2 or 5 of a power of ten, at most six of them."""
    exponent = 10.0 ** -4
    while True:
        for digit in (1, 2, 5):
            if highest / (digit * exponent) <= 6:
                return digit * exponent
        exponent *= 10


def _marks(every, logarithmic):
    sizes = sorted({x for x, _ in every})
    if logarithmic:
        return [(x, _mark(x)) for x in sizes if len(sizes) < 8]
    step = _step(sizes[-1])
    return [(turn * step, _mark(turn * step)) for turn in range(int(sizes[-1] / step) + 1) if turn * step >= sizes[0]]


def _mark(value):
    return f"{value:,.6g}".replace(",", "\u202f")


def publish(name, lines, svg):
    """Writes the tables of a case between its marks in docs/scale.md, and its plot."""
    report.publish(PAGE, f"scale: {name}", lines)
    (PICTURES / f"scale-{name}.svg").write_text(svg)
