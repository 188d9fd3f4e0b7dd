"""The rows of the comparison: which work, which figures come of it, and which of them have a goal.

A measurement is a function of the proxy's process (`None`: no proxy, the client talks to the backend), its port and the
seconds to run; it returns its figures by key. Every figure is one number per unit of work, so runs of different length and
speed compare.
"""

import time
from dataclasses import dataclass
from typing import Callable

from . import load
from .processes import Failed

GIB = 1 << 30

STREAMS_BESIDE = 4
CONNECTIONS_BESIDE = 16
IDLE_CONNECTIONS = 4000
SETTLING_S = 1.0


@dataclass(frozen=True)
class Figure:
    """One number of a row. `goal` is the most that tcplb's may be of the best peer's; `limit` the most it may be."""

    key: str
    title: str
    unit: str
    digits: int = 1
    higher_is_better: bool = False
    goal: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Row:
    """One kind of work."""

    name: str
    title: str
    backend: str
    figures: tuple[Figure, ...]
    measure: Callable
    descriptors: int = 4096


def rows():
    """Every row, in the order in which it is measured and reported."""
    return [
        _requests("keepalive-1", 1, None),
        _requests("keepalive-64", 64, 0.85),
        _requests("keepalive-1024", 1024, 0.75),
        Row(
            "short-64",
            "one connection per request, 64 at once",
            "web",
            (
                Figure("cpu", "CPU per connection", "µs", goal=0.85),
                Figure("rate", "connections", "/s", 0, higher_is_better=True),
                Figure("p50", "latency, median", "µs", 0),
                Figure("p99", "latency, p99", "µs", 0),
            ),
            lambda proxy, port, seconds: _measure_requests(proxy, port, seconds, 64, close=True),
        ),
        _bulk("bulk-1-up", 1, download=False),
        _bulk("bulk-1-down", 1, download=True),
        _bulk("bulk-8-up", 8, download=False),
        _bulk("bulk-8-down", 8, download=True),
        Row(
            "beside-bulk",
            f"{CONNECTIONS_BESIDE} keep-alive connections beside {STREAMS_BESIDE} bulk streams",
            "web",
            (
                Figure("p99", "latency of small requests, p99", "ms", 2, goal=0.7),
                Figure("p50", "latency of small requests, median", "ms", 2),
                Figure("rate", "small requests", "/s", 0, higher_is_better=True),
                Figure("bulk", "bulk", "GiB/s", 2, higher_is_better=True),
            ),
            _measure_beside_bulk,
        ),
        Row(
            "idle",
            f"{IDLE_CONNECTIONS} connections idle after one request",
            "web",
            (Figure("memory", "user-space memory per connection", "bytes", 0, goal=0.25, limit=1024),),
            _measure_idle,
            2 * IDLE_CONNECTIONS + 1024,
        ),
    ]


def _requests(name, connections, goal):
    plural = "s" if connections > 1 else ""
    return Row(
        name,
        f"small requests over {connections} keep-alive connection{plural}",
        "web",
        (
            Figure("cpu", "CPU per request", "µs", goal=goal),
            Figure("rate", "requests", "/s", 0, higher_is_better=True),
            Figure("p50", "latency, median", "µs", 0),
            Figure("p99", "latency, p99", "µs", 0),
        ),
        lambda proxy, port, seconds: _measure_requests(proxy, port, seconds, connections),
    )


def _bulk(name, streams, download):
    plural = "s" if streams > 1 else ""
    return Row(
        name,
        f"{streams} bulk stream{plural}, {'download' if download else 'upload'}",
        "bulk",
        (
            Figure("cpu", "CPU per GiB", "s", 3, goal=0.6),
            Figure("rate", "bulk", "GiB/s", 2, higher_is_better=True),
        ),
        lambda proxy, port, seconds: _measure_bulk(proxy, port, seconds, streams, download),
    )


def _measure_requests(proxy, port, seconds, connections, close=False):
    before = proxy.cpu_ns() if proxy else 0
    got = load.wrk(port, connections, seconds, close)
    figures = {
        "rate": got["requests"] / got["duration"] * 1e6,
        "p50": got["p50"],
        "p99": got["p99"],
        "errors": got["errors"],
    }
    if proxy:
        figures["cpu"] = (proxy.cpu_ns() - before) / 1e3 / got["requests"]
    return figures


def _measure_bulk(proxy, port, seconds, streams, download):
    # iperf3's server takes one test at a time, and is sometimes not quite done with the last one.
    for attempt in range(load.ATTEMPTS):
        before = proxy.cpu_ns() if proxy else 0
        try:
            arrived, took = load.iperf3(port, streams, seconds, download)
            break
        except Failed:
            if attempt == load.ATTEMPTS - 1:
                raise
            time.sleep(SETTLING_S)
    figures = {"rate": arrived / GIB / took}
    if proxy:
        figures["cpu"] = (proxy.cpu_ns() - before) / 1e9 / (arrived / GIB)
    return figures


def _measure_beside_bulk(_proxy, port, seconds):
    with load.BulkReaders(port, STREAMS_BESIDE) as bulk:
        before, start = bulk.bytes(), time.monotonic()
        got = load.wrk(port, CONNECTIONS_BESIDE, seconds, threads=1)
        rate = (bulk.bytes() - before) / GIB / (time.monotonic() - start)
    return {
        "p99": got["p99"] / 1e3,
        "p50": got["p50"] / 1e3,
        "rate": got["requests"] / got["duration"] * 1e6,
        "bulk": rate,
        "errors": got["errors"],
    }


def _measure_idle(proxy, port, _seconds):
    if not proxy:
        return {}
    before = proxy.memory()
    with load.IdleConnections(port, IDLE_CONNECTIONS):
        time.sleep(SETTLING_S)
        return {"memory": (proxy.memory() - before) / IDLE_CONNECTIONS}
