"""The tables of `bench/disrupt`."""

from statistics import median

from ..report import number
from ..scale.page import checks_table, source
from .changes import CHANGES


def three(spread, digits=1):
    """Median, 99th percentile and maximum."""
    return " / ".join("–" if value is None else number(value, digits) for value in (spread["p50"], spread["p99"], spread["max"]))


def of_upgrades(case):
    """A row for each upgrade, and the checks."""
    lines = [
        f"Measured {source(case['machine'])}.",
        "",
        f"{case['mix']} {case['per_second']} more clients a second come, send a request and leave.",
        "",
        "| upgrade | took, s | moved | pause as tcplb reports it, ms: p50 / p99 / longest | pause of a stream, ms: p50 / p99 / longest | longest request, ms | longest new connection, ms | memory, MiB |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for turn, one in enumerate(case["upgrades"], 1):
        cells = [turn, f"{one['seconds']:.2f}", number(one["connections"], 0), three(one["pause_ms"]), three(one["streams_ms"])]
        cells += [f"{one['request_ms']:.1f}", f"{one['arrival_ms']:.1f}", f"{one['memory']:.1f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    streams = case["streams"]
    lines += [
        f"| all | | | | {three(streams['upgrade'])} | | | |",
        f"| no upgrade, as long | | | | {three(streams['quiet'])} | | | |",
        "",
    ]
    return lines + checks_table(case["checks"])


def of_changes(case):
    """A row for each change and proxy."""
    rounds = f"{len(case['rounds'])} interleaved rounds" if len(case["rounds"]) > 1 else "one round"
    quiet = median(figures["quiet_ms"] for one in case["rounds"] for by_proxy in one.values() for figures in by_proxy.values())
    lines = [
        f"Measured {source(case['machine'])}, {rounds}.",
        "",
        f"{case['mix']} {case['per_second']} more clients a second come. Without a change the longest pause of a stream is {quiet:.1f} ms.",
        "",
        "| change | proxy | connections cut | new connections failed | longest new one, ms | longest pause of a stream, ms | old processes | memory, MiB |",
        "|---|---|--:|--:|--:|--:|---|--:|",
    ]
    for change in CHANGES:
        for proxy in dict.fromkeys(proxy for one in case["rounds"] for proxy in one[change]):
            found = [one[change][proxy] for one in case["rounds"] if proxy in one[change]]
            lines.append(row(change, proxy, found))
    return lines + (["", *checks_table(case["checks"])] if case["checks"] else [])


def row(change, proxy, found):
    """Shares and counts are of all rounds, times and memory are medians."""
    of = lambda key: [figures[key] for figures in found]
    held, cut, came, failed = (sum(of(key)) for key in ("held", "cut", "came", "failed"))
    made, wanted = sum(of("made")), sum(of("wanted"))
    name = f"{change}, {made} of {wanted}" if wanted > len(found) else change
    gone = [seconds for seconds in of("gone_s") if seconds is not None]
    left = median(of("left"))
    if left > 0:
        old = f"{left:.0f} left"
    else:
        old = f"gone after {median(gone):.1f} s" if gone and median(gone) > 0 else "none"
    cells = [name, proxy, f"{100 * cut / held:.1f} %", f"{failed} of {number(came, 0)}", f"{median(of('arrival_ms')):.0f}"]
    # A stream that is cut has no pause.
    cells += ["–" if cut == held else f"{median(of('pause_ms')):.0f}", old, f"{median(of('memory')):+.1f}"]
    return f"| {' | '.join(cells)} |"
