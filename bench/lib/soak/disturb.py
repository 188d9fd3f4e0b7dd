"""What is done to tcplb and its backends while clients are served: one thing after the other, at random.

Each action puts back what it took away before it ends, and reports to the arena what it may have cut.
"""

import math
import resource
import signal
import socket
import time
from collections import Counter

from . import clients, config, wire

SETTLED = 0.5  # Workers have adopted a change so soon after it was answered.


class Disturber:
    """See the module."""

    def __init__(self, arena):
        self.arena = arena
        self.random = arena.random
        self.done = Counter()
        self.reloads = Counter()
        self.extra_clients = 0
        self.variant = config.FIRST
        self._actions = {
            "backends killed": (self.kill, 4),
            "backends stopped for a while": (self.stop, 3),
            "out of descriptors": (self.exhaust, 2),
            "reloads applied": (self.reload, 4),
            "reloads refused": (self.reload_broken, 3),
            "listeners added and removed": (self.extra_listener, 2),
            "backends drained or disabled": (self.drain, 3),
            "weights changed": (self.weigh, 2),
            "backends added and removed": (self.add_and_remove, 2),
            "backends taken out by force": (self.take_out, 2),
            "looked at": (self.look, 2),
        }

    def run(self):
        """Until the load is over; each action at least once."""
        names, weights = list(self._actions), [weight for _, weight in self._actions.values()]
        first = self.random.sample(names, len(names))
        while not self.arena.stopping.is_set():
            name = first.pop() if first else self.random.choices(names, weights)[0]
            try:
                self._actions[name][0]()
                self.done[name] += 1
            except Exception as error:  # Any failure is reported, and the load goes on.
                self.arena.fail(name, f"{type(error).__name__}: {error} (at {time.monotonic() - self.arena.zero:.2f} s)")
            self.pause(0.1, 0.6)

    def pause(self, least, most):
        self.arena.stopping.wait(self.random.uniform(least, most))

    # Backends.

    def kill(self):
        """SIGKILL, and back after a while."""
        server = self.arena.servers[self.random.choice(list(self.arena.servers))]
        with self.harming(None, server.name):
            server.kill()
        self.pause(0, 2)
        server.start()

    def stop(self):
        """SIGSTOP: the kernel accepts for it, and no process answers."""
        process = self.arena.servers[self.random.choice(("s1", "s2", "s3", "s4", "s5"))].process.popen
        process.send_signal(signal.SIGSTOP)
        try:
            self.pause(0.3, 2.5)
        finally:
            process.send_signal(signal.SIGCONT)

    # tcplb.

    def exhaust(self):
        """No descriptor left for a while, shorter than time-outs of connects, but for one pool."""
        pid = self.arena.tcplb.popen.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        with self.harming("shaky", "for want of descriptors", after=0.5):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (self.random.choice((10, 60, 100)), hard))
            try:
                self.pause(0.3, 1)
            finally:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))

    def reload(self):
        """Another file, by signal or API."""
        self.apply(config.any_variant(self.random))

    def apply(self, variant):
        self.arena.write_config(variant)
        self.ask_for_reload("success")
        self.variant = variant
        if not variant.fourth:
            with self.barring("main", "s4"):
                self.pause(0.5, 1.5)

    def reload_broken(self):
        """A broken file: nothing changes."""
        generation = self.arena.admin.get("/v1/status")["generation"]
        self.arena.write_config(self.variant, lambda text: config.broken(self.random, self.arena, text))
        try:
            self.ask_for_reload("failure")
            self.expect(self.arena.admin.get("/v1/status")["generation"] == generation, "a broken file changed something")
        finally:
            self.arena.write_config(self.variant)

    def ask_for_reload(self, result):
        self.reloads[result] += 1
        if self.random.random() < 0.5:
            self.arena.admin.ask("POST", "/v1/reload", status=200 if result == "success" else 400)
            return
        self.arena.tcplb.popen.send_signal(signal.SIGHUP)
        key = ("tcplb_config_reloads_total", frozenset({("result", result)}))
        self.eventually("SIGHUP has a result", lambda: self.arena.admin.metrics()[key] == self.reloads[result])

    def extra_listener(self):
        """A listener comes, and goes while a client is connected to it."""
        arena = self.arena
        self.apply(self.variant._replace(extra=True))
        visit = clients.Visit(arena, "extra", self.random)
        try:
            visit.connect()
            self.extra_clients += 1
            visit.talk(visit.order(wire.TALK, 1000, 1000))
            self.apply(self.variant._replace(extra=False))
            visit.talk(visit.order(wire.TALK, 100_000, 100_000))
            arena.compared += visit.compared
        finally:
            visit.close()
        self.eventually("a removed listener is closed", lambda: self.is_refused(arena.ports["extra"]))

    def is_refused(self, port):
        with socket.socket() as end:
            refused = end.connect_ex(("127.0.0.1", port)) != 0
        self.extra_clients += not refused
        return refused

    # Over the admin API.

    def drain(self):
        state = self.random.choice(("draining", "disabled"))
        self.while_barred({"state": state}, {"state": "enabled"})

    def weigh(self):
        if self.random.random() < 0.5:
            self.while_barred({"weight": 0}, {"weight": 3})
        else:
            name = self.random.choice(("s1", "s2", "s3"))
            self.arena.admin.ask("PATCH", f"/v1/pools/main/backends/{name}", {"weight": self.random.randrange(1, 100)})

    def while_barred(self, change, back):
        """A backend that takes no new clients for a while."""
        name = self.random.choice(("s1", "s2", "s3"))
        path = f"/v1/pools/main/backends/{name}"
        self.arena.admin.ask("PATCH", path, change)
        with self.barring("main", name):
            self.pause(1, 3)
        self.arena.admin.ask("PATCH", path, back)

    def add_and_remove(self):
        """Open connections stay."""
        admin, address = self.arena.admin, f"127.0.0.1:{self.arena.servers['s5'].ports[config.PLAIN]}"
        admin.ask("POST", "/v1/pools/main/backends", {"address": address, "name": "s5"}, status=201)
        self.pause(0.5, 3)
        admin.ask("DELETE", "/v1/pools/main/backends/s5")
        with self.barring("main", "s5"):
            self.pause(1, 2)

    def take_out(self):
        """Open connections are reset."""
        admin, address = self.arena.admin, f"127.0.0.1:{self.arena.servers['s5'].ports[config.PLAIN]}"
        body = {"address": address, "name": "s5", "weight": 100}
        admin.ask("POST", "/v1/pools/doomed/backends", body, status=201)
        self.pause(0.5, 2)
        with self.harming("doomed", "s5", after=1):
            admin.ask("DELETE", "/v1/pools/doomed/backends/s5" + self.random.choice(("", "?force=true")))

    def look(self):
        """Reads everything that can be read."""
        admin = self.arena.admin
        for path in ("/", "/v1/status", "/v1/config", "/v1/openapi.json", "/healthz", "/readyz", "/metrics", "/v1/pools/main/backends"):
            admin.ask("GET", path)
        admin.ask("POST", "/v1/reload?dry_run=true")
        admin.ask("PATCH", "/v1/pools/main/backends/nobody", {"weight": 1}, status=404)
        admin.ask("POST", "/v1/pools/main/backends", {"address": "nonsense"}, status=400)

    # Help.

    def harming(self, pool, name, after=0.0):
        """Connections to it may be cut within this."""
        return _Window(self.arena.harm, pool, name, 0, after)

    def barring(self, pool, name):
        """It may get no new client within this, once the change has settled."""
        return _Window(self.arena.barred, pool, name, SETTLED, 0)

    def expect(self, holds, otherwise):
        if not holds:
            raise clients.Unexpected(otherwise)

    def eventually(self, what, seen):
        deadline = time.monotonic() + 20
        while not seen():
            self.expect(time.monotonic() < deadline, f"never: {what}")
            time.sleep(0.02)


class _Window:
    """A stretch of time in a list; open-ended while it lasts."""

    def __init__(self, windows, pool, name, before, after):
        self._windows = windows
        self._entry = [0.0, math.inf, pool, name]
        self._before = before
        self._after = after

    def __enter__(self):
        self._entry[0] = time.monotonic() + self._before
        self._windows.append(self._entry)

    def __exit__(self, *_):
        self._entry[1] = time.monotonic() + self._after
