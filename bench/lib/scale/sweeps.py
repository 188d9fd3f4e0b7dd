"""The cases that grow in size: connections at once, backends of a pool, listeners. Each size is a start afresh."""

import time
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Callable

from .. import backends, load, machine, processes
from ..report import number
from . import bend, held, setup

MIB = 1 << 20
# Old processes of HAProxy and nginx end within this time.
LEAVING_S = 0.3
# The keepalive of a backend's connection is set at 5 s of age. What an idle connection takes is measured after that.
SETTLED_S = 6.0
# A share of the descriptors is the proxy's own; a connection takes two.
SPARE_DESCRIPTORS = 1500
MOST_CONNECTIONS = 100_000
PROBES_PER_SECOND = 1000
MEMORY_NOISE = 256 * 1024


@dataclass(frozen=True)
class Figure:
    """One number of a size, in units of which the table shows `digits`. `verdict` judges it against the size."""

    key: str
    title: str
    unit: str
    digits: int
    verdict: Callable
    logarithmic: bool = False  # Whether the plot has sizes on a logarithmic scale, as for costs that should be flat.


@dataclass(frozen=True)
class Sweep:
    """A case: what grows, its figures, and the measurement of one proxy at one size."""

    name: str
    title: str
    sizes: tuple
    quick: tuple
    figures: tuple
    measure: Callable  # (contender, size, directory, pace) to figures by key; what is missing was not measured.
    checks: Callable  # (medians of tcplb by size) to rows of the table of checks.


@dataclass(frozen=True)
class Pace:
    """How long a measurement takes."""

    load_s: int = 2
    connections: int = 2000
    idle_s: float = 3.0
    settle_s: float = SETTLED_S
    started_s: float = 1.5
    probes_s: float = 5.0
    reloads: int = 4


QUICK = Pace(load_s=1, connections=200, idle_s=0.5, settle_s=0.2, started_s=0.0, probes_s=1.0, reloads=1)


def _memory(key, title):
    return Figure(key, title, "MiB", 1, lambda points: bend.proportional(points, MEMORY_NOISE / MIB))


def _flat(key, title, unit, noise, digits=1):
    return Figure(key, title, unit, digits, partial(bend.constant, noise=noise), logarithmic=True)


def _linear(key, title, unit, noise, digits=2):
    return Figure(key, title, unit, digits, partial(bend.proportional, noise=noise))


def connections_sizes(limit):
    """Doubled from 1 000 up to what the limit on descriptors allows."""
    most = min(MOST_CONNECTIONS, (limit - SPARE_DESCRIPTORS) // 2)
    sizes = [size for step in range(7) if (size := 1000 << step) < most * 0.8]
    return (*sizes, most)


def connections(limit):
    """Connections that made one echo each and then are silent."""
    sizes = connections_sizes(limit)
    return Sweep(
        "connections",
        "connections at once",
        sizes,
        sizes[:1],
        (
            _memory("memory", "memory"),
            _linear("idle", "CPU of all while silent", "ms/s", 2.0),
            _flat("opened", "CPU to open one and echo", "µs", 20),
            _flat("request", "CPU of a short connection beside them", "µs", 15),
        ),
        _connections,
        lambda medians: [
            (f"memory of a connection, at {number(size, 0)} of them", f"{figures['each']:.0f} bytes", figures["each"] <= 1024)
            for size, figures in medians.items()
        ],
    )


def _connections(contender, count, directory, pace):
    with held.Echo() as echo:
        port = processes.free_port()
        # As many backends as source ports to them suffice.
        servers = setup.addresses(120, -(-count // held.PER_ADDRESS), echo.port)
        with setup.Running(contender, setup.Plan((f"127.0.0.1:{port}",), servers, connections=count + 50), directory) as proxy:
            memory, cpu, began = proxy.process.memory(), proxy.process.cpu_ns(), echo.accepted.value
            with held.Held(port) as ends:
                ends.open(count)
                echoed = ends.echo()
                opened = (proxy.process.cpu_ns() - cpu) / 1e3 / count
                if echoed != count or echo.accepted.value - began != count:
                    raise processes.Failed(f"{echoed} of {count} connections echo, {echo.accepted.value - began} are at the backend")
                time.sleep(pace.settle_s)
                grown, idle = proxy.process.memory() - memory, _idle(proxy, pace)
                request = _short_connections(proxy, port, pace.connections)
                if ends.echo() != count:
                    raise processes.Failed(f"{ends.cut} of {count} connections were cut")
    machine.forget_time_wait([port, echo.port])
    return {"memory": grown / MIB, "each": grown / count, "idle": idle, "opened": opened, "request": request}


def _short_connections(proxy, port, count):
    """CPU of a connection with one echo, opened one after the other."""
    cpu = proxy.process.cpu_ns()
    for _ in range(count):
        with held.Held(port) as one:
            one.open(1)
            if one.echo() != 1:
                raise processes.Failed("a short connection does not echo")
    return (proxy.process.cpu_ns() - cpu) / 1e3 / count


def pools():
    """Backends of one pool."""
    return Sweep(
        "backends",
        "backends in a pool",
        (10, 100, 1000, 3000, 10_000, 30_000),
        (1000,),
        (
            _memory("memory", "memory"),
            _memory("after", "memory after reloads"),
            _linear("start", "start", "s", 0.25),
            _linear("start_cpu", "CPU of the start", "s", 0.05),
            _linear("reload", "reload that changes every weight", "s", 0.25),
            _linear("reload_cpu", "CPU of that reload", "s", 0.05),
            _linear("idle", "CPU while silent", "ms/s", 2.0),
            _flat("choice", "CPU of a short connection", "µs", 8),
            _flat("request", "CPU of a request on an open connection", "µs", 20),
            _flat("least", "the same, `least-connections`", "µs", 8),
            _flat("probe", "CPU of a TCP probe", "µs", 8),
        ),
        _pool,
        lambda medians: [
            (
                f"{number(PROBES_PER_SECOND, 0)} TCP probes a second of {number(size, 0)} backends",
                f"{figures['probe'] * PROBES_PER_SECOND / 1e4:.1f} % of a core",
                figures["probe"] * PROBES_PER_SECOND <= 50_000,
            )
            for size, figures in medians.items()
            if size >= PROBES_PER_SECOND and "probe" in figures
        ],
    )


def _pool(contender, count, directory, pace):
    web = backends.Web(directory)
    try:
        port = processes.free_port()
        plan = setup.Plan((f"127.0.0.1:{port}",), setup.addresses(1, count, web.port))
        with setup.Running(contender, plan, directory) as proxy:
            figures = {"memory": proxy.process.memory() / MIB, "start": proxy.start_s, "start_cpu": proxy.start_cpu_s}
            time.sleep(pace.started_s)
            figures["idle"] = _idle(proxy, pace)
            figures["choice"] = _choice(proxy, port, web, pace)
            figures["request"] = _requests(proxy, port, 1, pace, close=False)
            figures |= _reloads(proxy, [plan.but(weight=2 + turn % 2) for turn in range(pace.reloads)])
            figures["after"] = proxy.process.memory() / MIB
        if contender.name == "tcplb":
            with setup.Running(contender, plan.but(algorithm="least-connections"), directory) as proxy:
                figures["least"] = _choice(proxy, port, web, pace)
        if contender.name != "nginx":
            interval = max(count / PROBES_PER_SECOND, 0.1)
            with setup.Running(contender, plan.but(probe_seconds=interval), directory) as proxy:
                figures["probe"] = _probe(proxy, count / interval, count, pace)
        return figures
    finally:
        web.stop()


def _choice(proxy, port, web, pace):
    spent = _requests(proxy, port, 64, pace, close=True)
    machine.forget_time_wait([port, web.port])
    return spent


def _requests(proxy, port, at_once, pace, close):
    """CPU of a request, with a connection of its own or with one of those that stay open."""
    cpu = proxy.process.cpu_ns()
    got = load.wrk(port, at_once, pace.load_s, close=close)
    if got["errors"]:
        raise processes.Failed(f"{got['errors']} of {got['requests']} requests went wrong")
    return (proxy.process.cpu_ns() - cpu) / 1e3 / got["requests"]


def _idle(proxy, pace):
    """CPU of a proxy without traffic, in ms per second."""
    cpu, since = proxy.process.cpu_ns(), time.monotonic()
    time.sleep(pace.idle_s)
    return (proxy.process.cpu_ns() - cpu) / 1e6 / (time.monotonic() - since)


def _reloads(proxy, plans):
    """The time of a reload, and its CPU, in seconds. Where a start takes long, one has to do."""
    cpu = proxy.process.cpu_in_all_s()
    took = [proxy.reload(plan) for plan in (plans if proxy.start_s < 2 else plans[:1])]
    if proxy.name != "tcplb":
        time.sleep(LEAVING_S)
    return {"reload": median(took), "reload_cpu": (proxy.process.cpu_in_all_s() - cpu) / len(took)}


def _probe(proxy, rate, count, pace):
    """CPU of a probe, once all backends have had their first one. The kernel counts the connects, those of other programs
    among them: where there are many of them, the interval has to stand for the count."""
    time.sleep(1 + count / 7500)
    cpu, connects, since = proxy.process.cpu_ns(), machine.connects(), time.monotonic()
    time.sleep(pace.probes_s)
    took = time.monotonic() - since
    spent, probes = (proxy.process.cpu_ns() - cpu) / 1e3, machine.connects() - connects
    if probes < 0.8 * rate * took:
        raise processes.Failed(f"{probes} connects in {took:.1f} s are fewer than {rate:.0f} probes a second")
    return spent / min(probes, 1.15 * rate * took)


def listeners():
    """Listeners in front of one pool."""
    return Sweep(
        "listeners",
        "listeners",
        (1, 10, 100, 1000, 2000, 4000),
        (500,),
        (
            _memory("memory", "memory"),
            _linear("start", "start", "s", 0.25),
            _linear("start_cpu", "CPU of the start", "s", 0.05),
            _linear("idle", "CPU while silent", "ms/s", 2.0),
            _linear("reload", "reload that adds one", "s", 0.25),
            _linear("reload_cpu", "CPU of that reload", "s", 0.05),
            _flat("choice", "CPU of a short connection", "µs", 8),
            _flat("request", "CPU of a request on an open connection", "µs", 20),
        ),
        _listeners,
        lambda medians: [],
    )


def _listeners(contender, count, directory, pace):
    web = backends.Web(directory)
    try:
        port, another = processes.free_ports(2)
        plan = setup.Plan(setup.listeners(count, port), (f"127.0.0.1:{web.port}",))
        with setup.Running(contender, plan, directory) as proxy:
            figures = {"memory": proxy.process.memory() / MIB, "start": proxy.start_s, "start_cpu": proxy.start_cpu_s}
            time.sleep(pace.started_s)
            figures["idle"] = _idle(proxy, pace)
            figures["choice"] = _choice(proxy, port, web, pace)
            figures["request"] = _requests(proxy, port, 1, pace, close=False)
            more = plan.but(listeners=(f"127.0.0.1:{another}", *plan.listeners))
            figures |= _reloads(proxy, [(more, plan)[turn % 2] for turn in range(pace.reloads)])
        return figures
    finally:
        web.stop()
