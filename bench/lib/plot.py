"""The goals as a picture: cost per unit of work relative to the best peer, as SVG written by hand."""

from xml.sax.saxutils import escape

from .report import OURS, number

COLOURS = {OURS: "#d9480f", "haproxy": "#4c6ef5", "haproxy-splice": "#91a7ff", "nginx": "#37b24d", "envoy": "#ae3ec9"}
INK, FAINT = "#212529", "#ced4da"
# Keeps figures readable where lines of the grid pass behind them.
_HALO = ' stroke="#ffffff" stroke-width="4" stroke-linejoin="round" paint-order="stroke"'
HIGHEST = 2.5  # Bars beyond are cut off, with their value written at the cut.

BAR, GAP, GROUP_GAP = 34, 5, 30
LEFT, TOP, PLOT_HEIGHT, BOTTOM = 56, 96, 300, 92

# What stands under a group of bars.
LABELS = {
    "keepalive-64": ("small requests", "64 connections", "CPU µs/request"),
    "keepalive-1024": ("small requests", "1024 connections", "CPU µs/request"),
    "short-64": ("short connections", "64 at once", "CPU µs/connection"),
    "bulk-1-up": ("1 bulk stream", "upload", "CPU s/GiB"),
    "bulk-1-down": ("1 bulk stream", "download", "CPU s/GiB"),
    "bulk-8-up": ("8 bulk streams", "upload", "CPU s/GiB"),
    "bulk-8-down": ("8 bulk streams", "download", "CPU s/GiB"),
    "beside-bulk": ("small requests", "beside 4 bulk streams", "p99 ms"),
    "idle": ("4000 idle connections", "after one request", "bytes/connection"),
}


def svg(results, machine):
    """Grouped bars: a group for every figure with a goal, a bar for every proxy, 1 for the best peer."""
    groups = [
        (row, figure, best)
        for row in results.rows
        for figure in row.figures
        if figure.goal is not None and (best := _best(results, row, figure))
    ]
    names = [OURS, *results.peers()]
    group_width = max(len(names) * (BAR + GAP) - GAP, 130)
    width = max(LEFT + len(groups) * (group_width + GROUP_GAP) + 20, 720)
    height = TOP + PLOT_HEIGHT + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        text(LEFT, 28, "What a unit of work costs, relative to the best peer", size=18, weight="bold", anchor="start"),
        text(LEFT, 48, "1 is the best peer; lower is better. The figures above the bars are the medians.", anchor="start"),
        *_legend(names),
        *_axis(width),
    ]
    x = LEFT + GROUP_GAP / 2
    for row, figure, best in groups:
        parts += _group(results, row, figure, best, names, x, group_width)
        x += group_width + GROUP_GAP
    source = f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}"
    parts += [text(LEFT, height - 12, source, size=11, anchor="start", fill="#868e96"), "</svg>"]
    return "\n".join(parts) + "\n"


def _best(results, row, figure):
    peer = results.best_peer(row, figure)
    return results.median(row, figure, peer) if peer else None


def _legend(names):
    x, parts = LEFT, []
    for name in names:
        parts.append(f'<rect x="{x}" y="62" width="14" height="14" rx="2" fill="{COLOURS[name]}"/>')
        parts.append(text(x + 20, 74, name, anchor="start"))
        x += 40 + 8 * len(name)
    parts.append(f'<line x1="{x}" x2="{x + 24}" y1="69" y2="69" stroke="{INK}" stroke-width="2" stroke-dasharray="4 3"/>')
    parts.append(text(x + 30, 74, "goal for tcplb", anchor="start"))
    return parts


def _axis(width):
    parts = []
    for half in range(int(HIGHEST * 2) + 1):
        value = half / 2
        y = _y(value)
        colour, stroke = (INK, 1.5) if value in (0, 1) else (FAINT, 1)
        parts.append(f'<line x1="{LEFT}" x2="{width - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="{stroke}"/>')
        parts.append(text(LEFT - 8, y + 4, f"{value:g}", anchor="end"))
    return parts


def _group(results, row, figure, best, names, left, group_width):
    parts = []
    bars = len(names) * (BAR + GAP) - GAP
    x = left + (group_width - bars) / 2
    for name in names:
        value = results.median(row, figure, name)
        if value is None:
            parts.append(text(x + BAR / 2, _y(0) - 6, "–"))
        else:
            share = value / best
            top = _y(min(share, HIGHEST))
            parts.append(
                f'<rect x="{x:.1f}" y="{top:.1f}" width="{BAR}" height="{_y(0) - top:.1f}" rx="2" fill="{COLOURS[name]}">'
                f"<title>{escape(f'{name}: {value:.3g} {figure.unit}, {share:.2f} of the best peer')}</title></rect>"
            )
            if share > HIGHEST:
                parts.append(text(x + BAR / 2, top + 16, f"×{share:.1f}", size=11, fill="#ffffff"))
            parts.append(text(x + BAR / 2, top - 5, number(value, figure.digits if value < 100 else 0), size=11))
        if name == OURS:
            y = _y(figure.goal)
            parts.append(
                f'<line x1="{x - 5:.1f}" x2="{x + BAR + 5:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{INK}" stroke-width="2" '
                'stroke-dasharray="4 3"/>'
            )
        x += BAR + GAP
    middle = left + group_width / 2
    for line, label in enumerate(LABELS[row.name]):
        parts.append(text(middle, _y(0) + 20 + 17 * line, label, fill=INK if line < 2 else "#868e96"))
    return parts


def _y(value):
    return TOP + PLOT_HEIGHT * (1 - value / HIGHEST)


def text(x, y, shown, size=13, weight="normal", anchor="middle", fill=INK):
    """Text, at a place."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{fill}"'
        f'{_HALO if size < 12 and fill == INK else ""}>'
        f"{escape(shown)}</text>"
    )
