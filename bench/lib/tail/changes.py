"""The rows in which something changes or is asked for while requests come: what is done, how often, and with which contenders."""

import os
import signal
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager

from .. import backends, load, processes, report
from ..scale import setup
from . import rows
from .contenders import HAPROXY, NGINX, Listener, Plan
from .generator import WARM_UP_S, Requests
from .rows import CONNECTIONS, KEPT, SHORT, WEB, Figure, Row

GROUP = "while things change"
KEPT_RATE, SHORT_RATE, SHORT_PLACES = 4000, 200, 16
WEBS, KILLED_S = 4, 0.5
BACKENDS, MANY_BACKENDS = 100, 10_000
RELOADS, WEIGHTS, SCRAPES, KILLS = 30, 100, 10, 1
FLOOD, FLOOD_PLACES = "flood", 512
# Two cores cannot relay 10 000 connections a second and have time left, so that flood is refused by an access rule.
REFUSED_RATE, RELAYED_RATE = 10_000, 4000
IDLE = 4000
# As often as the answers come.
IN_A_LOOP = 1000
WITH_API = (report.OURS, report.BEFORE, HAPROXY)
WITH_RELOAD = (*WITH_API, NGINX)
FIGURES = (
    *rows.figures("CPU of the proxy", "% of a core", 0),
    Figure("short_p99", "short connections: p99", "µs", 0),
    Figure("short_p999", "p99.9", "µs", 0),
    Figure("done", "done", "/s", 1, higher_is_better=True),
)


class Again(threading.Thread):
    """Does something so many times a second, or as often as it can up to that. Its argument counts up."""

    def __init__(self, action, rate):
        super().__init__(daemon=True)
        self._action, self._rate, self._over, self._began = action, rate, threading.Event(), time.monotonic()
        self.done, self.error = 0, None

    def run(self):
        self._began = time.monotonic()
        turn = 0
        while not self._over.wait(max(0.0, self._began + turn / self._rate - time.monotonic())):
            try:
                self._action(turn)
            except Exception as error:  # Reported where the thread ends.
                self.error = error
                return
            self.done += 1
            # A turn that took too long is not made up for.
            turn = max(turn + 1, int((time.monotonic() - self._began) * self._rate))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self.join(setup.PATIENCE)

    def per_second(self):
        """How often it was done; an error of the action is one of the measurement."""
        if self.error:
            raise processes.Failed(f"{type(self.error).__name__}: {self.error}")
        return self.done / (time.monotonic() - self._began)


def every():
    """The rows."""
    of = lambda name, title, contenders, measure, **more: Row(name, title, GROUP, FIGURES, measure, contenders, **more)
    many = {"descriptors": 2 * IDLE + 4096}
    return [
        of("during-nothing", "nothing changes", rows.EVERY, _measure(_nothing)),
        of("during-kills", f"one of {WEBS} backends is killed and back each second", WITH_RELOAD, _measure(_kills)),
        of("during-reloads", f"{RELOADS} reloads a second of {BACKENDS} backends", WITH_RELOAD, _measure(_reloads)),
        of("during-weights", f"{WEIGHTS} changes of a weight a second", WITH_API, _measure(_weights)),
        of(
            "during-flood",
            f"{REFUSED_RATE} connections a second on another listener, refused",
            (report.FLOOR, *WITH_RELOAD),
            _measure(_flood(REFUSED_RATE, refuses=True)),
        ),
        of(
            "during-arrivals",
            f"{RELAYED_RATE} connections a second on another listener, relayed",
            (report.FLOOR, *WITH_RELOAD),
            _measure(_flood(RELAYED_RATE, refuses=False)),
        ),
        of("during-lists", f"lists of {IDLE} connections in a loop", WITH_API, _measure(_lists), **many),
        of("during-scrapes", f"{SCRAPES} scrapes a second of {MANY_BACKENDS} backends", WITH_API, _measure(_scrapes)),
    ]


def _measure(change):
    def measure(bench, contender, seconds):
        with change(bench, contender, seconds) as (running, again):
            with (
                Requests(bench.tools, bench.within_load, running.ports[WEB], KEPT, CONNECTIONS, KEPT_RATE, seconds) as kept,
                Requests(bench.tools, bench.within_load, running.ports[WEB], SHORT, SHORT_PLACES, SHORT_RATE, seconds) as short,
            ):
                before = running.process.cpu_in_all_s() if running.process else 0
                with again:
                    found, of_short = kept.result(), short.result()
                    done = again.per_second()
                after = running.process.cpu_in_all_s() if running.process else 0
        if running.process:
            found["cpu"] = 100 * (after - before) / (seconds + WARM_UP_S)
        found["errors"] = found.pop("failed") + of_short["failed"]
        found["failures"] = {"kept": found["failures"], "short": of_short["failures"]}
        return found | {"short_p99": of_short["p99"], "short_p999": of_short["p999"], "done": done}

    return measure


@contextmanager
def _served(bench, contender, addresses, *more, **kinds):
    """The contender with these backends for the requests, and further listeners."""
    first = Listener(WEB, processes.free_port(), tuple(addresses))
    with bench.run(contender, Plan((first, *more), processes.free_port(), **kinds)) as running:
        yield running


def _addresses(bench, count=1):
    return setup.addresses(1, count, bench.servers[WEB].port)


class _Nothing:
    """No change."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def per_second(self):
        return 0.0


@contextmanager
def _nothing(bench, contender, _seconds):
    with _served(bench, contender, _addresses(bench)) as running:
        yield running, _Nothing()


class Mortal(backends.Web):
    """A web server that is killed and comes back."""

    def __init__(self, directory, within):
        super().__init__(directory, within, bulk_bytes=0)

    def kill(self):
        os.killpg(self.process.popen.pid, signal.SIGKILL)
        self.process.stop()


@contextmanager
def _kills(bench, contender, _seconds):
    with ExitStack() as stack:
        webs = []
        for _ in range(WEBS):
            webs.append(Mortal(stack.enter_context(tempfile.TemporaryDirectory(dir=bench.directory)), bench.within_server))
            stack.callback(webs[-1].stop)
            bench.ports.append(webs[-1].port)
        addresses = [f"127.0.0.1:{web.port}" for web in webs]

        def kill(turn):
            web = webs[turn % WEBS]
            web.kill()
            time.sleep(KILLED_S)
            web.start()

        with _served(bench, contender, addresses, probes=True) as running:
            yield running, Again(kill, KILLS)


@contextmanager
def _reloads(bench, contender, _seconds):
    with _served(bench, contender, _addresses(bench, BACKENDS), reloads=True) as running:
        yield running, Again(lambda turn: running.reload(running.plan.with_weight(2 + turn % 2)), RELOADS)


@contextmanager
def _weights(bench, contender, _seconds):
    with _served(bench, contender, _addresses(bench, BACKENDS)) as running:
        yield running, Again(lambda turn: running.control.set_weight(running, WEB, f"b{turn % BACKENDS}", 2 + turn // BACKENDS % 2), WEIGHTS)


class Flood:
    """Connections at a fixed rate, which the client closes at once."""

    def __init__(self, bench, port, rate, seconds):
        self._begin = lambda: Requests(bench.tools, bench.within_load, port, FLOOD, FLOOD_PLACES, rate, seconds)
        self._seconds = seconds

    def __enter__(self):
        self._requests = self._begin()
        return self

    def __exit__(self, *_):
        self._requests.__exit__()

    def per_second(self):
        """How many connections were established."""
        return self._requests.result()["answered"] / self._seconds


def _flood(rate, refuses):
    @contextmanager
    def change(bench, contender, seconds):
        flooded = Listener(FLOOD, processes.free_port(), _addresses(bench), refuses=refuses)
        with _served(bench, contender, _addresses(bench), flooded) as running:
            yield running, Flood(bench, running.ports[FLOOD], rate, seconds)

    return change


@contextmanager
def _lists(bench, contender, _seconds):
    with _served(bench, contender, _addresses(bench)) as running, load.IdleConnections(running.ports[WEB], IDLE):
        yield running, Again(lambda _turn: running.control.list(running), IN_A_LOOP)


@contextmanager
def _scrapes(bench, contender, _seconds):
    with _served(bench, contender, _addresses(bench, MANY_BACKENDS)) as running:
        yield running, Again(lambda _turn: running.control.scrape(running), SCRAPES)
