"""Upgrades in a row, with thousands of connections of every kind and with clients that come all the while."""

import re
import threading
import time
from dataclasses import dataclass
from statistics import median

from .. import machine, processes
from ..report import number
from ..scale import setup
from . import contenders, kinds
from .traffic import Traffic

MIB = 1 << 20
BACKENDS = 8
GOAL_MS = 50.0
SCRAPE_S = 0.25
SAMPLES = 5
# What may differ between two samples, since clients come and go, and pipes with bytes too.
SLACK_DESCRIPTORS = 64
SLACK_MEMORY = 1.0


@dataclass(frozen=True)
class Pace:
    """How much, and how long."""

    connections: int = 5000
    bulk: int = 20
    upgrades: int = 10
    per_second: int = 200
    # Keepalive is set at 5 s of age. What a connection takes is measured after that.
    settle_s: float = 6.0
    between_s: float = 4.0
    is_judged: bool = True


QUICK = Pace(connections=600, bulk=5, upgrades=2, settle_s=1.0, between_s=2.0, is_judged=False)


class Scraper(threading.Thread):
    """Reads the metrics all the while: no counter may be less than before."""

    def __init__(self, proxy):
        super().__init__(daemon=True)
        self._proxy, self._over = proxy, threading.Event()
        self.count, self.failed, self.back, self._highest = 0, [], set(), {}

    def run(self):
        while not self._over.wait(SCRAPE_S):
            self.scrape()

    def end(self):
        self._over.set()
        self.join()

    def scrape(self):
        """Reads once; the value of each counter."""
        self.count += 1
        try:
            found = counters(self._proxy.call("GET", "/metrics"))
        except (OSError, processes.Failed) as error:
            self.failed.append(str(error))
            return {}
        self.back |= {series for series, value in found.items() if value < self._highest.get(series, value)}
        self._highest |= found
        return found


def counters(text):
    """Values by series, of counters and histograms of tcplb. What others count, like the CPU of the process, begins anew."""
    counted = {name for name, kind in re.findall(r"^# TYPE (tcplb_\w+) (\w+)$", text, re.M) if kind in ("counter", "histogram")}
    found = {}
    for series, value in re.findall(r"^(tcplb_\w+(?:\{.*\})?) (\S+)$", text, re.M):
        name = series.partition("{")[0]
        if {name, re.sub("_(bucket|sum|count)$", "", name)} & counted:
            found[series] = float(value)
    return found


def sample(proxy):
    """What the processes take, as medians of some samples."""
    samples = []
    for _ in range(SAMPLES):
        time.sleep(0.2)
        process = proxy.process
        samples.append((len(process.pids()), process.descriptors(), process.memory() / MIB))
    return dict(zip(("processes", "descriptors", "memory"), map(median, zip(*samples))))


def measure(binary, directory, pace):
    """The figures of all upgrades, and rows of the table of checks."""
    counts = kinds.mix(pace.connections, pace.bulk)
    with Traffic() as traffic:
        port = processes.free_port()
        plan = setup.Plan((f"127.0.0.1:{port}",), setup.addresses(1, BACKENDS, traffic.port))
        with contenders.Running(contenders.Tcplb(binary), plan, directory) as proxy:
            traffic.hold(port, counts)
            traffic.come(port, pace.per_second)
            time.sleep(pace.settle_s)
            scraper = Scraper(proxy)
            scraper.start()
            before = sample(proxy)
            upgrades, free_since = [], time.monotonic()
            for _ in range(pace.upgrades):
                began = time.monotonic()
                figures = proxy.upgrade()
                upgrades.append({"from": began, "to": time.monotonic() + 0.1, "quiet_from": free_since, **figures})
                time.sleep(pace.between_s)
                upgrades[-1]["memory"] = proxy.process.memory() / MIB
                free_since = upgrades[-1]["to"] + 0.5
            time.sleep(max(0.0, pace.settle_s - pace.between_s))
            after = sample(proxy)
            scraper.end()
            paused = scraper.scrape().get("tcplb_upgrade_pause_seconds_count", 0)
            outcome = traffic.finish()
    machine.forget_time_wait([port, traffic.port])
    seen, quiet = [], []
    for one in upgrades:
        add_what_clients_saw(one, outcome, seen, quiet)
    rows = [{key: value for key, value in one.items() if key not in ("from", "to", "quiet_from")} for one in upgrades]
    case = {"upgrades": rows, "before": before, "after": after, "mix": kinds.described(counts), "per_second": pace.per_second}
    case |= {"connections": pace.connections, "streams": {"upgrade": spread(seen), "quiet": spread(quiet)}, "cut": outcome.cut}
    return case | {"checks": checks(case, outcome, scraper, paused, pace)}


def add_what_clients_saw(one, outcome, seen, quiet):
    """Pauses of streams during an upgrade, and during as long a time before it."""
    begun, ended = one["from"], one["to"]
    pauses = outcome.pauses(begun, ended)
    seen += pauses
    free = begun - 0.5
    quiet += outcome.pauses(max(one["quiet_from"], free - (ended - begun)), free)
    one["streams_ms"] = spread(pauses)
    one["request_ms"] = 1e3 * outcome.longest_answer(begun, ended)
    one["arrival_ms"] = 1e3 * outcome.longest_arrival(begun - 0.1, ended)


def spread(seconds):
    """Median, 99th percentile and maximum, in ms."""
    ordered = sorted(seconds)
    at = lambda share: 1e3 * ordered[round(share * (len(ordered) - 1))]
    return {"p50": at(0.5), "p99": at(0.99), "max": at(1.0)}


def checks(case, outcome, scraper, paused, pace):
    """What must be so."""
    upgrades, before, after = case["upgrades"], case["before"], case["after"]
    judged = lambda good: good if pace.is_judged else None
    words = lambda counter: ", ".join(f"{count} {what}" for what, count in counter.items())
    cut, failed = sum(outcome.cut.values()), outcome.failed()
    moved, left = (sum(one[key] for one in upgrades) for key in ("connections", "left"))
    worst = max(one["pause_ms"]["p99"] or 0.0 for one in upgrades)
    # A process may keep a buffer of the hand-over, or not. What grows with upgrades shows in all of them.
    least = min(one["memory"] for one in upgrades[len(upgrades) // 2 :])
    of_streams = case["streams"]["upgrade"]["p99"] + 1e3 * kinds.STREAM_S
    return [
        (f"bytes lost, of {outcome.moved / 1e9:.1f} GB", number(outcome.lost, 0), not outcome.lost),
        ("bytes repeated, out of order or changed", listed(outcome.wrong), not outcome.wrong),
        ("established connections cut", f"{cut} of {outcome.held}{f' ({words(outcome.cut)})' if cut else ''}", not cut),
        ("new connections that failed", f"{failed.total()} of {number(len(outcome.arrivals), 0)}{f' ({words(failed)})' if failed else ''}", not failed),
        ("connections moved by all upgrades; left in an old process", f"{number(moved, 0)}; {left}", not left and moved >= pace.connections * pace.upgrades),
        (f"highest p99 of the pauses as tcplb reports them, goal {GOAL_MS:.0f} ms", f"{worst:.1f} ms", judged(worst < GOAL_MS)),
        (f"p99 of the longest gaps of streams, {1e3 * kinds.STREAM_S:.0f} ms of them normal, goal {GOAL_MS:.0f} ms", f"{of_streams:.1f} ms", judged(of_streams < GOAL_MS)),
        ("pauses in `tcplb_upgrade_pause_seconds`", number(paused, 0), paused == moved),
        ("processes before and after", f"{before['processes']:.0f}, {after['processes']:.0f}", after["processes"] == before["processes"]),
        (
            "descriptors before and after",
            f"{number(before['descriptors'], 0)}, {number(after['descriptors'], 0)}",
            judged(after["descriptors"] <= before["descriptors"] + SLACK_DESCRIPTORS),
        ),
        (
            "anonymous memory before, and the least after one of the later upgrades, MiB",
            f"{before['memory']:.1f}, {least:.1f}",
            judged(least <= 1.1 * before["memory"] + SLACK_MEMORY),
        ),
        (f"counters that went back, in {scraper.count} scrapes", listed(sorted(scraper.back)), not scraper.back),
        ("scrapes that failed", listed(scraper.failed), not scraper.failed),
    ]


def listed(some):
    """Their number, and the first one."""
    return f"{len(some)}: {some[0]}" if some else "0"
