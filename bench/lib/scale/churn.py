"""A day's worth of churn in ten minutes: connections, deployments, weights, health flips, reloads and scrapes at a steady rate.

One process of the benchmark is the server, two are clients, one answers the probes. Threads of the main process make the
changes. All rates are per second and do not depend on what tcplb can do, so that its CPU can be compared over time.
"""

import itertools
import multiprocessing
import selectors
import socket
import threading
import time

from .. import backends, processes
from ..report import number
from . import bend, held, reloads, setup

MIB = 1 << 20
DAY_MINUTES = 10
SAMPLES = 120
BACKENDS = 40
KEPT = BACKENDS - 1  # Those that reloads leave in the pool.
HELD = 200
CLIENTS = 2
SOURCES = 4096
NEW_ADDRESSES = 2000
# The part of the day that the benchmark has to make for the verdicts to be about a day.
MADE = 0.7
LEAST_MINUTES = 2

# What happens, how often in a day, and so per second of the ten minutes.
DAY = {
    "connections": 864_000,
    "backends replaced by the API": 2_880,
    "weights changed by the API": 2_880,
    "drains, taken back": 2_880,
    "health flips": 1_440,
    "reloads": 144,
    "scrapes of metrics and status": 5_760,
}


def per_second(what):
    return DAY[what] / (DAY_MINUTES * 60)


class Day:
    """A tcplb under churn, and what makes it."""

    def __init__(self, contender, directory, echo_port):
        web, limited, self._probes_port = processes.free_ports(3)
        self._ports = (web, limited)
        self._echo = echo_port
        self._down = multiprocessing.Array("b", BACKENDS, lock=False)
        self._contender = _Churned(contender, limited, self._probes_port)
        self._over = multiprocessing.Event()
        self.done, self.faults = dict.fromkeys(DAY, 0), []
        self._served = [multiprocessing.Value("L", 0, lock=False) for _ in range(CLIENTS)]
        self._failed = [multiprocessing.Value("L", 0, lock=False) for _ in range(CLIENTS)]
        self._processes = [multiprocessing.Process(target=_answer_probes, args=(self._probes_port, self._down), daemon=True)]
        self._processes += [multiprocessing.Process(target=self._connect, args=(number,), daemon=True) for number in range(CLIENTS)]
        self._processes[0].start()
        self._fixed = setup.addresses(1, BACKENDS, echo_port)
        self._proxy = setup.Running(self._contender, setup.Plan((f"127.0.0.1:{web}",), self._fixed), directory)

    def run(self, seconds):
        """Samples over the minutes."""
        with self._proxy as proxy, held.Held(self._ports[0]) as ends:
            reloads.fill_events(proxy, reloads.EVENTS)
            ends.open(HELD)
            for process in self._processes[1:]:
                process.start()
            changes = [self._replace, self._weigh, self._drain, self._flip, self._reload, self._scrape]
            threads = [
                threading.Thread(target=self._pace, args=(what, change), daemon=True) for what, change in zip(list(DAY)[1:], changes)
            ]
            for thread in threads:
                thread.start()
            samples = self._sample(proxy, ends, seconds)
            self._over.set()
            for thread in threads:
                thread.join(setup.PATIENCE)
            for process in self._processes[1:]:
                process.join(setup.PATIENCE)
            self.done["connections"] = sum(served.value for served in self._served)
            ends.echo()
            return samples, self._checks(samples, ends)

    def stop(self):
        """Ends all processes."""
        self._over.set()
        for process in self._processes:
            if process.pid:
                process.kill()
                process.join()

    def _sample(self, proxy, ends, seconds):
        every, samples, began = seconds / SAMPLES, [], time.monotonic()
        cpu, served = proxy.process.cpu_in_all_s(), 0
        for number in range(1, SAMPLES + 1):
            time.sleep(max(0.0, began + number * every - time.monotonic()))
            now, so_far = proxy.process.cpu_in_all_s(), sum(value.value for value in self._served)
            samples.append(
                {
                    "at": number * every / 60,
                    "memory": proxy.process.memory() / MIB,
                    "descriptors": proxy.process.descriptors(),
                    "cpu": 100 * (now - cpu) / every,
                    "rate": (so_far - served) / every,
                }
            )
            cpu, served = now, so_far
            if number % 10 == 0:
                ends.echo()
        return samples

    def _checks(self, samples, ends):
        values = lambda key: [sample[key] for sample in samples]
        verdicts = {
            "memory": bend.steady(values("memory"), 0.5),
            "descriptors": bend.steady(values("descriptors"), 32, growth=1.0),
            "CPU": bend.steady(values("cpu"), 2.0, growth=1.25),
        }
        share = samples[-1]["at"] / DAY_MINUTES
        # Memory and the counts of a minute say nothing about a day.
        least = MADE * share
        if samples[-1]["at"] < LEAST_MINUTES:
            verdicts, least = dict.fromkeys(verdicts, bend.TOO_SHORT), 0.0
        failed = sum(value.value for value in self._failed)
        return [
            *((f"{what}: done, of a day's {number(DAY[what], 0)}", number(count, 0), count > least * DAY[what]) for what, count in self.done.items()),
            ("connections that failed", number(failed, 0), not failed),
            ("changes that failed", f"{len(self.faults)}: {self.faults[0]}" if self.faults else "0", not self.faults),
            ("held connections that were cut", f"{ends.cut} of {HELD}", not ends.cut),
            *((f"{what} over the day", verdict.words, verdict.good) for what, verdict in verdicts.items()),
        ]

    def _pace(self, what, change):
        """Makes a change again and again at its rate."""
        pause, began = 1 / per_second(what), time.monotonic()
        for number in itertools.count(1):
            if self._over.wait(max(0.0, began + number * pause - time.monotonic())):
                return
            try:
                change(number)
                self.done[what] += 1
            except (processes.Failed, OSError) as error:
                self.faults.append(f"{what}: {error}")

    def _replace(self, number):
        """A deployment: a backend with a name and an address that are new is added, and an older one is removed."""
        name = lambda turn: f"new{turn}"
        address = setup.addresses(5, NEW_ADDRESSES, self._echo)[number % NEW_ADDRESSES]
        self._proxy.call("POST", "/v1/pools/pool/backends", {"address": address, "name": name(number)})
        if number > BACKENDS:
            self._proxy.call("DELETE", f"/v1/pools/pool/backends/{name(number - BACKENDS)}")

    def _weigh(self, number):
        self._proxy.call("PATCH", f"/v1/pools/pool/backends/b{number % KEPT}", {"weight": 1 + number % 7})

    def _drain(self, number):
        state = ("draining", "enabled")[number % 2]
        self._proxy.call("PATCH", f"/v1/pools/pool/backends/b{number // 2 % KEPT}", {"state": state})

    def _flip(self, number):
        """One backend goes down, and one that went down four turns ago comes back."""
        self._down[number % BACKENDS] = 1
        self._down[(number - 4) % BACKENDS] = 0

    def _reload(self, number):
        self._proxy.reload(self._proxy.plan.but(backends=self._fixed[: (BACKENDS, KEPT)[number % 2]]))

    def _scrape(self, number):
        self._proxy.call("GET", ("/metrics", "/v1/status")[number % 2])

    def _connect(self, own):
        """A client: a connection with one echo at a time, at a steady rate, from many addresses."""
        pause, began = CLIENTS / per_second("connections"), time.monotonic()
        for number in itertools.count(1):
            if (ahead := began + number * pause - time.monotonic()) > 0 and self._over.wait(ahead):
                return
            if self._over.is_set():
                return
            source = (number * CLIENTS + own) % SOURCES
            try:
                with socket.socket() as end:
                    end.settimeout(10)
                    end.bind((f"127.200.{source // 250}.{source % 250 + 1}", 0))
                    end.connect(("127.0.0.1", self._ports[number % 2]))
                    end.sendall(b"echo")
                    good = end.recv(4) == b"echo"
                    # Half of the clients end with a FIN, the others with a reset.
                    if number % 4 < 2:
                        backends.close_hard([end])
            except OSError:
                good = False
            (self._served if good else self._failed)[own].value += 1


class _Churned(setup.Tcplb):
    """tcplb whose probes go to a port of their own, and that has a second listener, with a limit per source."""

    def __init__(self, tcplb, limited, probes):
        super().__init__(tcplb.binary)
        self._limited, self._probes = limited, probes

    def text(self, plan, directory, admin):
        text = super().text(plan, directory, admin)
        probes = f'kind = "http"\nport = {self._probes}\ninterval = "1s"\nrise = 1\nfall = 1\n'
        limited = (
            f'[[listener]]\nname = "limited"\nbind = ["127.0.0.1:{self._limited}"]\npool = "pool"\nmax_connections_per_source = 100\n'
        )
        return text.replace('kind = "off"\n', probes).replace("[[pool]]\n", limited + "[[pool]]\n", 1)


def _answer_probes(port, down):
    """Answers HTTP probes of every address with 200, and those of backends that are down with 503."""
    ready = selectors.DefaultSelector()
    listening = socket.create_server(("0.0.0.0", port), backlog=4096)
    ready.register(listening, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            end = key.fileobj
            if end is listening:
                end, _ = listening.accept()
                ready.register(end, selectors.EVENT_READ)
                continue
            try:
                if end.recv(4096):
                    _, network, _, host = map(int, end.getsockname()[0].split("."))
                    is_down = network == 1 and down[host - 1]
                    end.sendall(b"HTTP/1.1 503 down\r\n\r\n" if is_down else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            except OSError:
                pass
            ready.unregister(end)
            end.close()


def measure(contender, directory, seconds):
    """Samples over the minutes, and rows of the table of checks."""
    with held.Echo() as echo:
        day = Day(contender, directory, echo.port)
        try:
            return day.run(seconds)
        finally:
            day.stop()
