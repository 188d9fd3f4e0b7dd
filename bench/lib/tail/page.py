"""The tables of the tail."""

from statistics import median

from ..report import number
from . import changes, rows

# Titles of the groups, and what their rows have in common.
GROUPS = {
    rows.OPEN: ("At fixed rates", "The capacity is that of the slowest one, tcplb or a peer."),
    rows.BESIDE: (
        "Beside bulk at one rate",
        f"{rows.BESIDE_CONNECTIONS} kept connections with {rows.BESIDE_RATE} requests/s, beside bulk at {rows.BULK_SHARE * 100:.0f} % of the slowest one's.",
    ),
    rows.ADDED: ("Added latency", f"{rows.ADDED_RATE} requests/s."),
    changes.GROUP: (
        "While things change",
        f"{rows.CONNECTIONS} kept connections with {changes.KEPT_RATE} requests/s, and {changes.SHORT_RATE} short connections a second beside them. "
        "A rate behind a cell is how often the change was made.",
    ),
}
# On a quiet machine the generator sends some 50 µs late at p99.
DISTURBED_US = 200
RESULTS = (
    "[bench/results/tail-latest.md](../bench/results/tail-latest.md) has every figure: p90, the longest, CPU, failures.",
    "",
    "![Percentile curves](../bench/results/tail-latest.svg)",
)
# A contender that has less of the bulk than others is marked.
BULK_AS_ASKED = 0.97
GOALS = ("p99", "p999")


def whole(results, kept):
    """The report as a page."""
    lines = ["# The tail of tcplb and its peers", "", *_source(kept), "", *_verdicts(results), *_losses(results)]
    for group, (title, words) in GROUPS.items():
        found = [row for row in results.rows if row.group == group]
        lines += [f"## {title}", "", words, ""] if found else []
        for row in found:
            lines += _details(results, row)
    if notes := list(results.troubles()):
        lines += ["## What went wrong", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(lines)


def published(results, kept):
    """The tables of the docs: a line per row, a column per contender."""
    lines = [*_source(kept), "", *RESULTS, ""]
    for group, (title, words) in GROUPS.items():
        found = [row for row in results.rows if row.group == group]
        if found:
            lines += [f"### {title}", "", words, "", *_compact(results, found), ""]
    return lines + _losses(results)


def _source(kept):
    last, counts = kept["turns"][-1], {len(found) for found in kept["rows"].values()}
    spread = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    loads = [turn["load_average_at_start"] for turn in kept["turns"]]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    priority = "real-time priorities" if last["realtime"] else "no real-time priorities"
    words = {"kept": "{:.0f} requests/s", "short": "{:.0f} short connections/s", "up": "{:.2f} GiB/s up", "down": "{:.2f} GiB/s down"}
    capacities = [
        text.format(kept["capacities"][what] / (1 if what in ("kept", "short") else 1 << 30))
        for what, text in words.items()
        if what in kept["capacities"]
    ]
    return [
        f"{last['date']}, commit {last['commit']}. {last['cpu']}, {last['cores']} cores, Linux {last['kernel']}, {priority}. "
        f"Load average before the starts {min(loads):.1f} to {max(loads):.1f}. {versions}.",
        "",
        f"Medians (lowest–highest) of {spread} interleaved rounds of {last['seconds']} s. Times are in µs, from the moment at which a "
        f"request is due. The slowest capacities are {', '.join(capacities) or 'not needed'}. {_disturbed(kept)}",
    ]


def _disturbed(kept):
    """How quiet the machine was."""
    delays = [found["own_p99"] for measured in kept["rows"].values() for one in measured for found in one.values() if "own_p99" in found]
    late = sum(delay > DISTURBED_US for delay in delays)
    return f"In {late} of {len(delays)} measurements, other work delayed the generator itself by more than {DISTURBED_US} µs at p99."


def _verdicts(results):
    """tcplb against the best peer, by row."""
    lines = ["| tcplb against the best peer | p99 | p99.9 |", "|---|--:|--:|"]
    for row in results.rows:
        lines.append(f"| {row.group}, {row.title} | {' | '.join(_ratio(results, row, key) for key in GOALS)} |")
    return [*lines, ""]


def _losses(results):
    """Where a peer is ahead."""
    lost = []
    for row in results.rows:
        for key in GOALS:
            if is_lost(ratio := results.ratio(row, _figure(row, key))):
                lost.append(f"- {row.group}, {row.title}: {rows.TITLES[key]}, {ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f}) of {ratio.peer}")
    return ["Where a peer is ahead:", "", *(lost or ["- nowhere"]), ""]


def is_lost(ratio):
    """Whether the peer is ahead, as far as two digits show."""
    return ratio is not None and round(ratio.median, 2) > 1


def _ratio(results, row, key):
    ratio = results.ratio(row, _figure(row, key))
    if not ratio:
        return "–"
    shown = f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f}) {ratio.peer}"
    return f"**{shown}**" if is_lost(ratio) else shown


def _details(results, row):
    """Everything of a row, a line per contender."""
    keys = [figure for figure in row.figures if any(results.known(row, figure, name) for name in results.proxies)]
    heads = [f"{figure.title}, {figure.unit}" if figure.unit and figure.unit != "µs" else figure.title for figure in keys]
    lines = [f"### {row.title}", "", f"| `{row.name}` | {' | '.join(heads)} |", "|---|" + "--:|" * len(heads)]
    for name in results.proxies:
        if any(results.known(row, figure, name) for figure in keys):
            lines.append(f"| {name} | {' | '.join(_cell(results, row, figure, name) for figure in keys)} |")
    return [*lines, ""]


def _compact(results, found):
    names = [name for name in results.proxies if any(results.known(row, _figure(row, "p99"), name) for row in found)]
    lines = [
        f"| p50 / p99 / p99.9 | {' | '.join(names)} | tcplb against the best: p99 | p99.9 |",
        "|---|" + "--:|" * (len(names) + 2),
    ]
    for row in found:
        cells = [_three(results, row, name) for name in names] + [_ratio(results, row, key) for key in GOALS]
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return lines


def _three(results, row, name):
    known = [results.median(row, _figure(row, key), name) for key in ("p50", "p99", "p999")]
    if known[0] is None:
        return "–"
    return "; ".join([" / ".join(number(value, 0) for value in known), *_remarks(results, row, name)])


def _remarks(results, row, name):
    """What a reader has to know beside the times."""
    if errors := sum(results.known(row, _figure(row, "errors"), name)):
        yield f"{number(errors, 0)} failed"
    by_key = {figure.key: figure for figure in row.figures}
    if "done" in by_key and (done := results.median(row, by_key["done"], name)):
        yield f"{number(done, 0 if done >= 10 else 1)}/s"
    if "bulk" in by_key and (bulk := results.median(row, by_key["bulk"], name)) is not None:
        if bulk < BULK_AS_ASKED * max(results.median(row, by_key["bulk"], other) or 0 for other in results.proxies):
            yield f"{bulk:.2f} GiB/s"


def _cell(results, row, figure, name):
    known = results.known(row, figure, name)
    if not known:
        return "–"
    if figure.key in ("errors", "held_up"):
        return number(sum(known), 0)
    text = number(median(known), figure.digits)
    return text + (f" ({number(min(known), figure.digits)}–{number(max(known), figure.digits)})" if len(known) > 1 else "")


def _figure(row, key):
    return next(figure for figure in row.figures if figure.key == key)
