"""The rows of the tail: which load, beside what, and which figures come of it.

Times are in µs and count from the moment at which a request is due. A measurement is a function of the bench, a contender and the
seconds to run; it returns its figures by key, and the percentile curve.
"""

from dataclasses import dataclass
from typing import Callable

from ..report import BEFORE, FLOOR, FLOOR_SPLICE, NONE, OURS
from ..rows import Figure
from .contenders import HAPROXY, HAPROXY_SPLICE, NGINX
from .generator import PERCENTILES, WARM_UP_S, Bulk, Requests

EVERY = (NONE, FLOOR, OURS, BEFORE, HAPROXY, NGINX)
OF_BULK = (NONE, FLOOR, FLOOR_SPLICE, OURS, BEFORE, HAPROXY, HAPROXY_SPLICE, NGINX)
TITLES = {"p50": "p50", "p90": "p90", "p99": "p99", "p999": "p99.9", "max": "max"}

OPEN, BESIDE, ADDED = "open loop", "beside bulk", "added"
SHARES = (0.5, 0.8)
CONNECTIONS = 64
BESIDE_CONNECTIONS, BESIDE_RATE = 16, 2000
BESIDE_STREAMS = (1, 4, 32)
# Of the slowest contender's bulk.
BULK_SHARE = 0.6
# Bulk begins before the requests, and ends after them.
BULK_MORE_S = 1
ADDED_CONNECTIONS, ADDED_RATE = (1, 64, 1024), 2000
KEPT, SHORT = "kept", "short"
WEB, BULK = "web", "bulk"


@dataclass(frozen=True)
class Row:
    """One kind of work, and the contenders that take part."""

    name: str
    title: str
    group: str
    figures: tuple
    measure: Callable
    contenders: tuple = EVERY
    capacity: str | None = None  # Its rate is a share of this one.
    descriptors: int = 4096


def figures(cpu, unit, digits=1):
    """Percentiles, and the CPU under this title."""
    times = [Figure(key, TITLES[key], "µs", 0, goal=1.0 if key in ("p99", "p999") else None) for key in PERCENTILES]
    others = [Figure("errors", "failed", "", 0), Figure("held_up", "held up", "", 0)]
    return (*times, Figure("cpu", cpu, unit, digits), *others, Figure("own_p99", "the generator's own delay, p99", "µs", 0))


OF_REQUESTS = figures("CPU per request", "µs")
OF_SHORT = figures("CPU per connection", "µs")
BESIDE_BULK = (*figures("CPU of the proxy", "% of a core", 0), Figure("bulk", "bulk", "GiB/s", 2, higher_is_better=True))
OVER_DIRECT = (
    *(Figure(f"added_{key}", f"{TITLES[key]} beyond none", "µs", 0) for key in ("p50", "p99", "p999")),
    *OF_REQUESTS,
)


def rows():
    """Those in which nothing changes."""
    return [*_open(), *_beside(), *_added()]


def _open():
    words = {KEPT: f"{CONNECTIONS} kept connections", SHORT: f"one connection per request, {CONNECTIONS} places"}
    return [
        Row(
            f"open-{kind}-{share * 100:.0f}",
            f"{words[kind]}, {share * 100:.0f} % of the capacity",
            OPEN,
            OF_SHORT if kind == SHORT else OF_REQUESTS,
            _at_share(kind, share),
            capacity=kind,
        )
        for kind in (KEPT, SHORT)
        for share in SHARES
    ]


def _at_share(kind, share):
    def measure(bench, contender, seconds):
        with bench.start(contender, WEB) as running:
            return requests(bench, running, kind, CONNECTIONS, share * bench.capacity(kind), seconds)

    return measure


def _beside():
    return [
        Row(
            f"beside-{streams}-{'down' if download else 'up'}",
            f"{streams} bulk stream{'s' if streams > 1 else ''}, {'download' if download else 'upload'}",
            BESIDE,
            BESIDE_BULK,
            _beside_bulk(streams, download),
            OF_BULK,
            "down" if download else "up",
        )
        for streams in BESIDE_STREAMS
        for download in (False, True)
    ]


def _beside_bulk(streams, download):
    def measure(bench, contender, seconds):
        rate = BULK_SHARE * bench.capacity("down" if download else "up")
        with bench.start(contender, WEB, BULK) as running:
            with Bulk(running.ports[BULK], streams, rate, seconds + BULK_MORE_S, download) as bulk:
                found = requests(bench, running, KEPT, BESIDE_CONNECTIONS, BESIDE_RATE, seconds)
                found["bulk"] = bulk.rate()
        if running.process:
            # With bulk, most of the CPU is not that of requests: a share of a core at the same work for all.
            found["cpu"] = found["cpu"] * found["made"] / 1e4 / found["took"]
        return found

    return measure


def _added():
    return [
        Row(
            f"added-{count}",
            f"{count} kept connection{'s' if count > 1 else ''}",
            ADDED,
            OVER_DIRECT,
            _at_rate(count),
            descriptors=4 * count + 1024,
        )
        for count in ADDED_CONNECTIONS
    ]


def _at_rate(count):
    def measure(bench, contender, seconds):
        with bench.start(contender, WEB) as running:
            return requests(bench, running, KEPT, count, ADDED_RATE, seconds)

    return measure


def requests(bench, running, kind, connections, rate, seconds):
    """Figures of requests at fixed times."""
    with Requests(bench.tools, bench.within_load, running.ports[WEB], kind, connections, rate, seconds) as load:
        before = running.cpu_ns()
        found = load.result()
        after = running.cpu_ns()
    found["errors"] = found.pop("failed")
    if running.process:
        found["cpu"] = (after - before) / 1e3 / max(found["made"], 1)
    return found | {"rate": rate, "took": seconds + WARM_UP_S}


def beyond_direct(measured):
    """Adds to the figures of a round what each contender has beyond no proxy at all."""
    for by_name in measured.values():
        direct = by_name.get(NONE, {})
        for name, found in by_name.items():
            for key in PERCENTILES:
                if name != NONE and key in found and key in direct:
                    found[f"added_{key}"] = found[key] - direct[key]
