"""What the measurements of the tail share: servers, priorities, and the capacities that rates are shares of."""

import os
import sys
import time

from .. import backends, load, machine, processes, report, rounds
from . import contenders, rows
from .contenders import Listener, Plan, Running

# The load generator goes before the server, and the server before the proxy: latency is the proxy's then, not a wait for a core. We
# read the CPU of the proxy at both ends of a measurement, and otherwise wait.
OUR_PRIORITY, LOAD_PRIORITY, SERVER_PRIORITY, PROXY_PRIORITY = 23, 22, 21, 20
CAPACITY_S = 2
# The capacity is the highest of these shares of the closed loop's rate that is kept up. In each of the runs, 99 % of the requests are
# answered within the bound. A closed loop has more work per turn than an open one, so its rate cannot be kept up.
CAPACITY_RUNS = 2
CAPACITY_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
CAPACITY_BOUND_US = 10_000
CAPACITY_STREAMS = (1, 4)


class Bench:
    """What measurements share."""

    def __init__(self, tools, directory, is_realtime, capacities):
        within = contenders.realtime if is_realtime else lambda _priority: []
        self.tools, self.directory, self.capacities = tools, directory, capacities
        self.within_load, self.within_server, self.within_proxy = map(within, (LOAD_PRIORITY, SERVER_PRIORITY, PROXY_PRIORITY))
        self.is_realtime = bool(self.within_load)
        if self.is_realtime:
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(OUR_PRIORITY))
        self.servers = {rows.WEB: backends.Web(directory, self.within_server), rows.BULK: backends.Bulk(directory)}
        self.ports = [server.port for server in self.servers.values()]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in self.servers.values():
            server.stop()

    def start(self, contender, *names):
        """A fresh process of the contender, with a listener for each of these servers."""
        listeners = tuple(Listener(name, processes.free_port(), (f"127.0.0.1:{self.servers[name].port}",)) for name in names)
        return self.run(contender, Plan(listeners, processes.free_port()))

    def run(self, contender, plan):
        """A fresh process of the contender with a plan."""
        self.ports += [one.port for one in plan.listeners]
        return Running(contender, plan, self.directory, self.within_proxy)

    def capacity(self, what):
        """Of the slowest one: requests a second, short connections a second, bytes a second up or down."""
        return self.capacities[what]

    def measure_capacities(self, wanted, those):
        """Of tcplb and its peers."""
        for what in wanted:
            if what not in self.capacities:
                able = rows.EVERY if what in (rows.KEPT, rows.SHORT) else rows.OF_BULK
                names = set(able) - set(report.NOT_PEERS) | {report.OURS}
                found = {one.name: self._capacity(one, what) for one in those if one.name in names}
                print(f"capacity  {what}: {found}", file=sys.stderr, flush=True)
                self.capacities[what] = min(found.values())
                self.capacities[f"{what} of each"] = found

    def _capacity(self, contender, what):
        if what in (rows.KEPT, rows.SHORT):
            return self._capacity_of_requests(contender, what)
        with self.fresh(contender, rows.BULK) as running:
            return min(self._bulk(running.ports[rows.BULK], streams, what == "down") for streams in CAPACITY_STREAMS)

    def _capacity_of_requests(self, contender, kind):
        with self.fresh(contender, rows.WEB) as running:
            got = load.wrk(running.ports[rows.WEB], rows.CONNECTIONS, CAPACITY_S, kind == rows.SHORT, within=self.within_proxy)
        closed = got["requests"] / got["duration"] * 1e6
        for share in CAPACITY_SHARES:
            if all(self._keeps_up(contender, kind, share * closed) for _ in range(CAPACITY_RUNS)):
                break
        return share * closed

    def _keeps_up(self, contender, kind, rate):
        with self.fresh(contender, rows.WEB) as running:
            found = rows.requests(self, running, kind, rows.CONNECTIONS, rate, CAPACITY_S)
        return found["p99"] <= CAPACITY_BOUND_US and not found["errors"]

    def fresh(self, contender, *names):
        """As `start`, without what others have left in TIME_WAIT."""
        machine.forget_time_wait(self.ports)
        self.ports = [server.port for server in self.servers.values()]
        return self.start(contender, *names)

    def _bulk(self, port, streams, download):
        for attempt in range(load.ATTEMPTS):
            try:
                arrived, took = load.iperf3(port, streams, CAPACITY_S, download)
                return arrived / took
            except processes.Failed:
                # The server takes one test at a time, and is sometimes not quite done with the last one.
                if attempt == load.ATTEMPTS - 1:
                    raise
                time.sleep(0.3)

    def measure(self, row, contender, seconds):
        """One measurement."""
        self.ports = [server.port for server in self.servers.values()]
        return rounds.guarded(lambda: row.measure(self, contender, seconds), self.ports)
