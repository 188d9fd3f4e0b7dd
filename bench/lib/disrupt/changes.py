"""What a change costs clients: a reload, an upgrade, and backends that come and go, through tcplb, HAProxy and nginx."""

import itertools
import shutil
import time
from dataclasses import dataclass

from .. import machine, processes
from ..scale import setup
from . import contenders, kinds
from .contenders import BOUND_S, Haproxy, Nginx, Tcplb
from .traffic import SERVED, Traffic

MIB = 1 << 20
BACKENDS = 8
SWAP_S = 0.1
# How often the processes are counted.
LOOK_S = 0.1

RELOAD, UPGRADE, SWAPS_BY_RELOAD, SWAPS_BY_API = "reload", "upgrade", "backends come and go, by reload", "backends come and go, by API"
CHANGES = (RELOAD, UPGRADE, SWAPS_BY_RELOAD, SWAPS_BY_API)


@dataclass(frozen=True)
class Pace:
    """How much, and how long."""

    connections: int = 1000
    bulk: int = 5
    per_second: int = 200
    settle_s: float = 1.0
    swaps: int = 40
    # From the last change to the end, in which bounded processes end. HAProxy's bound gives stalled connections a second more.
    watched_s: float = BOUND_S + 2.0


QUICK = Pace(connections=200, bulk=1, settle_s=0.3, swaps=5, watched_s=BOUND_S + 1.5)


def contenders_of(change, binary, names):
    """The proxies that can make the change, by names with their bounds on old processes."""
    found = {"tcplb": Tcplb(binary)}
    kinds_of = {"haproxy": (Haproxy, "hard-stop-after"), "nginx": (Nginx, "worker_shutdown_timeout")}
    for name, (kind, setting) in kinds_of.items():
        path = shutil.which(name)
        if not path or name not in names or change == SWAPS_BY_API and not kind.swaps:
            continue
        more = {"has_master": change != UPGRADE} if kind is Haproxy else {}
        # By the API no process becomes old.
        if change != SWAPS_BY_API:
            found[f"{name}, `{setting} {BOUND_S}s`"] = kind(path, bound=BOUND_S, **more)
        found[name if change == SWAPS_BY_API else f"{name}, no `{setting}`"] = kind(path, **more)
    return found


def measure(contender, change, directory, pace):
    """The figures of one change."""
    counts = kinds.mix(pace.connections, pace.bulk)
    with Traffic() as traffic:
        port = processes.free_port()
        plan = setup.Plan((f"127.0.0.1:{port}",), setup.addresses(1, BACKENDS, traffic.port))
        with contenders.Running(contender, plan, directory) as proxy:
            traffic.hold(port, counts)
            traffic.come(port, pace.per_second)
            time.sleep(pace.settle_s)
            process = proxy.process
            count, memory = len(process.pids()), process.memory()
            began = time.monotonic()
            made, wanted = make(proxy, change, traffic.port, pace)
            took = time.monotonic() - began
            gone = watch(process, count, began, time.monotonic() + pace.watched_s)
            left, more = len(process.pids()) - count, (process.memory() - memory) / MIB
            ended = time.monotonic()
            outcome = traffic.finish()
    machine.forget_time_wait([port, traffic.port])
    came = [(how, seconds) for at, how, seconds in outcome.arrivals if at >= began]
    return {
        "held": outcome.held,
        "cut": sum(outcome.cut.values()),
        "came": len(came),
        "failed": sum(how != SERVED for how, _ in came),
        "arrival_ms": 1e3 * max(seconds for _, seconds in came),
        "pause_ms": 1e3 * outcome.pauses(began, ended)[-1],
        "quiet_ms": 1e3 * outcome.pauses(began - pace.settle_s, began)[-1],
        "left": left,
        "gone_s": gone,
        "memory": more,
        "made": made,
        "wanted": wanted,
        "took": took,
        "wrong": len(outcome.wrong),
        "how": dict(outcome.cut) | {f"new: {how}": count for how, count in outcome.failed().items()},
    }


def watch(process, count, began, until):
    """When the last old process was gone, in seconds from the change; `None` if one is still there."""
    last, present = 0.0, True
    while time.monotonic() < until:
        if present := len(process.pids()) > count:
            last = time.monotonic() - began
        time.sleep(LOOK_S)
    return None if present else last


def make(proxy, change, backend_port, pace):
    """Makes the change: how many were made, of how many."""
    if change == RELOAD:
        proxy.reload(proxy.plan.but(weight=2))
    elif change == UPGRADE:
        proxy.upgrade()
    else:
        return swap(proxy, change, backend_port, pace), pace.swaps
    return 1, 1


def swap(proxy, change, backend_port, pace):
    """Replaces a backend by a new one at a steady rate, as far as the proxy keeps up; how many."""
    fresh = setup.addresses(3, pace.swaps, backend_port)
    names = [f"b{place}" for place in range(BACKENDS)]
    began = time.monotonic()
    for turn in itertools.count():
        late = time.monotonic() - began - turn * SWAP_S
        if turn == pace.swaps or time.monotonic() - began > pace.swaps * SWAP_S:
            return turn
        if late < 0:
            time.sleep(-late)
        place = turn % BACKENDS
        if change == SWAPS_BY_API:
            name = f"new{turn}"
            proxy.swap(name, fresh[turn], names[place])
            names[place] = name
        else:
            kept = list(proxy.plan.backends)
            kept[place] = fresh[turn]
            proxy.reload(proxy.plan.but(backends=tuple(kept)))


def checks(rounds):
    """What must be so of tcplb, a row for each change."""
    rows = []
    for change in CHANGES:
        found = [one[change]["tcplb"] for one in rounds if "tcplb" in one[change]]
        of = lambda key: sum(figures[key] for figures in found)
        shown = f"{of('cut')} of {of('held')}; {of('failed')} of {of('came')}; {of('wrong')}; {of('made')} of {of('wanted')}"
        good = not (of("cut") or of("failed") or of("wrong")) and of("made") == of("wanted")
        rows.append((f"tcplb, {change}: cut; failed; wrong bytes; changes made", shown, good))
    return rows
