"""What a unit of work costs the whole machine: clients, balancer and server together."""

import time

from .. import load
from ..processes import Failed
from .contenders import Contender
from .lab import BULK, SERVERS, WEB

GIB = 1 << 30
CLIENTS = 64

# Row, title, its figures with unit and digits. The first one is the cost.
ROWS = {
    "requests": ("small requests over 64 connections", {"cpu": ("µs", 1), "own": ("µs", 1), "rate": ("/s", 0), "p50": ("µs", 0), "p99": ("µs", 0)}),
    "short": ("one connection per request, 64 at once", {"cpu": ("µs", 1), "own": ("µs", 1), "rate": ("/s", 0), "p50": ("µs", 0), "p99": ("µs", 0)}),
    "bulk": ("one bulk stream, download", {"cpu": ("s/GiB", 3), "own": ("s/GiB", 3), "rate": ("GiB/s", 2)}),
}


def measure(lab, name, row, seconds):
    """Figures of one run with a contender that was started afresh."""
    port = BULK if row == "bulk" else WEB
    with Contender(name, lab, port, SERVERS[:1]) as contender:
        if row == "bulk":
            return bulk(lab, contender, seconds)
        return requests(lab, contender, row == "short", seconds)


def requests(lab, contender, close, seconds):
    within = lab.within("clients")
    before = cpu_us(lab)
    got = load.wrk(contender.port, CLIENTS, seconds, close, origin=f"http://{contender.at}", within=within)
    spent, own = (after - first for after, first in zip(cpu_us(lab), before))
    figures = {"cpu": spent / got["requests"], "own": own / got["requests"], "rate": got["requests"] / got["duration"] * 1e6, "errors": got["errors"]}
    return figures | {"p50": got["p50"], "p99": got["p99"]}


def bulk(lab, contender, seconds):
    # iperf3's server takes one client at a time, and is not quite done with the check of before.
    for attempt in range(load.ATTEMPTS):
        time.sleep(0.5)
        before = cpu_us(lab)
        try:
            arrived, took = load.iperf3(contender.port, 1, seconds, True, host=contender.at, within=lab.within("clients"))
            break
        except Failed:
            if attempt == load.ATTEMPTS - 1:
                raise
    spent, own = ((after - first) / 1e6 / (arrived / GIB) for after, first in zip(cpu_us(lab), before))
    return {"cpu": spent, "own": own, "rate": arrived / GIB / took, "errors": 0}


def cpu_us(lab):
    """That of all, and of the balancer's processes."""
    return lab.all.cpu_us(), lab.of_balancer.cpu_us()
