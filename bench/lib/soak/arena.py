"""One tcplb under everything at once: its backends, its clients, the disturber, and the account at the end.

A soak has one for each way to move bytes, each a process of its own. Whatever is wrong becomes a line in `failures`.
"""

import json
import math
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

from .. import processes
from . import clients, config, wire
from .admin import Admin
from .disturb import Disturber

SERVER = Path(__file__).resolve().parent / "server.py"
SERVERS = ("s1", "s2", "s3", "s4", "s5", "w1")
OWN_PORTS = (*config.LISTENERS, "extra", "admin", "refusing")
WARM_UP = 0.1  # Of the time: what memory grows in it is not held against tcplb.
MIB = 1 << 20
SPARE_PIPES = 2 * 2 * 16  # Descriptors that workers may keep in empty pipes.
MOST_TOLD = 12  # Failures of a kind that are listed; all are counted.


class Arena:
    """See the module."""

    idle_timeout = 2.0
    lifetime = 2.0
    per_source = 4
    per_second = 5

    def __init__(self, binary, relay, seed, seconds, directory, ports):
        """With as many `ports` of its own as `ports_needed` says."""
        self.zero = time.monotonic()
        self.relay = relay
        self.seed = seed
        self.seconds = seconds
        self.directory = Path(directory)
        self.random = random.Random(f"{seed} {relay}")
        self.ring = wire.Ring(seed)
        self.binary = binary
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.ends = defaultdict(Counter)
        self.cut = Counter()
        self.failures = []
        self.failure_count = Counter()
        self.compared = 0
        self.mismatches = 0
        self.connects = Counter()
        self.refusals = Counter()
        self.doubtful = Counter()  # Of those: clients that may have been let in and then cut.
        self.harm = []  # (from, to, pool or None, backend): what may cut a connection.
        self.barred = []  # (from, to, pool, backend): backends that may not get new clients.
        self.samples = []
        self._sources = 0
        ports = iter(ports)
        self.ports = {name: next(ports) for name in OWN_PORTS}
        self.servers = {name: Server(name, seed, directory, [next(ports) for _ in range(3)]) for name in SERVERS}
        self.black_hole = []
        self.measured = {}
        self.tcplb = None
        self.admin = Admin(self.ports["admin"])
        self.file = self.directory / "tcplb.toml"

    def run(self):
        """Start, load, rest, check; what came of it."""
        self.dig_black_hole()
        for server in self.servers.values():
            server.start()
        self.write_config()
        command = [str(self.binary), "--config", str(self.file)]
        self.tcplb = processes.Process(command, self.directory / "tcplb.log")
        for name in (*config.LISTENERS, "admin"):
            self.tcplb.wait_for_port(self.ports[name])
        self.wait_for("all backends are up", self.all_up)
        self.meet_every_worker()
        idle = self.descriptors(), self.threads()
        self.zero = began = time.monotonic()
        disturber = Disturber(self)
        busy = [threading.Thread(target=self.play, args=(kind, n), daemon=True) for kind in clients.KINDS for n in range(kind.threads)]
        busy.append(threading.Thread(target=disturber.run, daemon=True))
        for thread in busy:
            thread.start()
        self.watch(began + self.seconds)
        self.stopping.set()
        for thread in busy:
            thread.join(60)
        if any(thread.is_alive() for thread in busy):
            self.fail("the load", "a client or the disturber did not end")
        took = time.monotonic() - began
        self.reckon(disturber, idle)
        self.complaints()
        return {
            "relay": self.relay,
            "seconds": took,
            "kinds": {kind.name: dict(self.ends[kind.name]) for kind in clients.KINDS},
            "cut": dict(self.cut),
            "connections": sum(self.connects.values()),
            "compared": self.compared,
            "mismatches": self.mismatches,
            "done": dict(disturber.done),
            "failures": self.failures,
            "failure_count": dict(self.failure_count),
            "rss": self.samples,
            "measured": self.measured,
        }

    def meet_every_worker(self):
        """What a worker opens for its first client and keeps belongs to the start."""
        for _ in range(32):
            visit = clients.Visit(self, "main", self.random)
            try:
                clients.well_behaved(visit)
            finally:
                visit.close()
        self.wait_for("the first clients have left", lambda: not self.active())

    def dig_black_hole(self):
        """A port where connects get no answer, for the queue behind it is full; it is the port that is taken, too."""
        self.black_hole = [socket.create_server(("127.0.0.1", 0), backlog=0)]
        address = self.black_hole[0].getsockname()
        for _ in range(4):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(address)
            self.black_hole.append(waiting)
        self.ports["black-hole"] = self.ports["taken"] = address[1]

    # What clients say.

    def connected(self, listener):
        with self.lock:
            self.connects[listener] += 1

    def refused(self, listener, reason, since=None):
        """A client was reset. With `since`, when it came: for a client that may have been let in, and lost its backend at once."""
        with self.lock:
            self.refusals[listener, reason] += 1
            self.doubtful[listener, reason] += since is not None and self.harmed(listener, None, since) is not None

    def fresh_source(self):
        """An address that is not used yet."""
        with self.lock:
            self._sources += 1
            n = self._sources
        return f"127.{100 + n // 62500 % 100}.{n // 250 % 250}.{n % 250 + 1}"

    def placed(self, visit):
        """A new client is with a backend: may it be?"""
        now = time.monotonic()
        with self.lock:
            barred = list(self.barred)
        for since, until, pool, name in barred:
            if (pool, name) == (self.listener_pool(visit.listener), visit.served_by) and since < visit.began and now < until:
                raise clients.Unexpected(f"sent to {name}, which takes no new connections")

    def listener_pool(self, listener):
        return config.LISTENERS.get(listener)

    def fail(self, what, why, mismatch=False):
        """Something is wrong."""
        with self.lock:
            self.mismatches += mismatch
            self.failure_count[what] += 1
            if self.failure_count[what] <= MOST_TOLD:
                self.failures.append(f"{what}: {why}")

    def play(self, kind, number):
        """One client after another of a kind."""
        chance = random.Random(f"{self.seed} {self.relay} {kind.name} {number}")
        self.stopping.wait(chance.random())
        while not self.stopping.is_set():
            visit = clients.Visit(self, kind.listener, chance)
            try:
                how = kind.play(visit)
                if how != kind.expected:
                    raise clients.Unexpected(how)
            except Exception as error:  # Any failure is reported, and the load goes on.
                how = self.judge(kind, visit, error)
            finally:
                visit.close()
            with self.lock:
                self.ends[kind.name][how] += 1
                self.compared += visit.compared
            self.stopping.wait(kind.pause * chance.uniform(0.5, 1.5))

    def judge(self, kind, visit, error):
        """Was it what was done to its backend? If not, it is a failure."""
        now = time.monotonic()
        if isinstance(error, (*clients.GONE, wire.Short, clients.Suspect)):
            with self.lock:
                if name := self.harmed(kind.listener, visit.served_by, visit.began):
                    self.cut[name] += 1
                    return "cut: its backend was killed or taken out"
        when = f"{visit.began - self.zero:.2f}–{now - self.zero:.2f} s, backend {visit.served_by}"
        self.stopping.wait(0.1)  # What goes wrong at once should not become a flood.
        self.fail(kind.name, f"{type(error).__name__}: {error} ({when})", isinstance(error, wire.Mismatch))
        return "unexpected"

    def harmed(self, listener, served_by, since):
        """What may have cut, since then, a client of this listener and backend (None: of any). The lock is held."""
        now, pool = time.monotonic(), self.listener_pool(listener)
        for begun, until, of, name in self.harm:
            if of in (None, pool) and served_by in (None, name) and begun <= now and since <= until:
                return name
        return None

    # What is done to tcplb.

    def write_config(self, variant=None, broken=None):
        """The file as it shall be next."""
        text = config.text(self, variant or config.FIRST)
        self.file.write_text(broken(text) if broken else text)

    def descriptors(self):
        """How many of each kind it has: sockets, pipes and others. A probe opens one for a moment: the least of some looks."""
        looks = []
        for _ in range(10):
            kinds = Counter()
            for one in Path(f"/proc/{self.tcplb.popen.pid}/fd").iterdir():
                try:
                    kinds[os.readlink(one).split(":")[0]] += 1
                except FileNotFoundError:
                    pass
            looks.append(kinds)
            time.sleep(0.02)
        return {kind: min(look[kind] for look in looks) for kind in ("socket", "pipe", "anon_inode")}

    def threads(self):
        """The least of some looks: the admin API has short-lived ones."""
        return min(self._threads_now() for _ in range(10))

    def _threads_now(self):
        time.sleep(0.02)
        return len(list(Path(f"/proc/{self.tcplb.popen.pid}/task").iterdir()))

    def resident(self):
        """Resident memory, bytes."""
        status = Path(f"/proc/{self.tcplb.popen.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    def active(self):
        """Connections that tcplb believes to be open."""
        names = ("tcplb_connections_active", "tcplb_backend_connections_active")
        return {key: value for key, value in self.admin.metrics().items() if key[0] in names and value}

    def all_up(self):
        status = self.admin.get("/v1/status")
        held = ("main", "greet", "proxied", "waits")
        return all(backend["state"] == "up" for pool in status["pools"] if pool["name"] in held for backend in pool["backends"])

    def watch(self, until):
        """Samples memory while the load is on."""
        every = min(10.0, self.seconds / 10)
        parent = os.getppid()
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(every, left))
            if os.getppid() != parent:
                sys.exit("the parent process is gone")
            if self.tcplb.popen.poll() is not None:
                self.fail("tcplb", f"{self.tcplb.last_words()[-250:]} – then it ended with {self.tcplb.popen.returncode}")
                raise processes.Failed(self.failures[-1])
            self.samples.append(self.resident())

    def wait_for(self, what, seen, patience=40):
        """Until it is so; a failure if it never is."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if seen():
                return True
            time.sleep(0.1)
        self.fail("at rest", f"never: {what}")
        return False

    # The reckoning.

    def reckon(self, disturber, idle):
        """With the load over: is everything given back, and do the counters add up?"""
        if not self.wait_for("no connection is active", lambda: not self.active()):
            self.fail("leak", f"still active: {self.active()}")
        metrics = self.admin.metrics()
        self.counters(metrics, disturber)
        descriptors, threads = self.descriptors(), self.threads()
        allowed = idle[0] | {"pipe": idle[0]["pipe"] + SPARE_PIPES}
        for kind, count in descriptors.items():
            if count > allowed[kind]:
                self.fail("leak", f"{count} descriptors of kind {kind}, {allowed[kind]} at the start")
        if threads != idle[1]:
            self.fail("leak", f"{threads} threads, {idle[1]} at the start")
        memory = self.memory()
        busy = self.tcplb.cpu_ns()
        time.sleep(2)
        share = (self.tcplb.cpu_ns() - busy) / 2e9
        if share > 0.05:
            self.fail("spin", f"{share:.0%} of a core with nothing to do")
        self.measured = {
            "descriptors": [sum(idle[0].values()), sum(descriptors.values())],
            "threads": [idle[1], threads],
            "idle_share": share,
            "accepted": int(sum(value for key, value in metrics.items() if key[0] == "tcplb_connections_accepted_total")),
            **memory,
        }
        self.drain()

    def counters(self, metrics, disturber):
        """What tcplb counted against what clients saw."""

        def get(name, **labels):
            return int(metrics.get((name, frozenset(labels.items())), 0))

        ended = defaultdict(int)
        for listener, pool in config.LISTENERS.items():
            accepted = get("tcplb_connections_accepted_total", listener=listener)
            ended[pool] -= accepted
            if accepted != self.connects[listener]:
                self.fail("counters", f"{listener}: {accepted} accepted, {self.connects[listener]} connected")
            for reason in ("denied", "source_limit", "source_rate", "bad_proxy_header", "no_backend"):
                counted = get("tcplb_connections_refused_total", listener=listener, reason=reason)
                seen, doubtful = self.refusals[listener, reason], self.doubtful[listener, reason]
                if not seen - doubtful <= counted <= seen:
                    self.fail("counters", f"{listener}: {counted} refused as {reason}, clients saw {seen}")
        ended["main"] -= disturber.extra_clients
        for pool, left in ended.items():
            if count := left + get("tcplb_connection_duration_seconds_count", pool=pool):
                self.fail("counters", f"pool {pool}: {count} more ended than were accepted")
        would = get("tcplb_connections_would_refuse_total", listener="counted", reason="denied")
        if would != self.connects["counted"]:
            self.fail("counters", f"counted: {would} would have been denied, {self.connects['counted']} connected")
        for result in ("success", "failure"):
            counted, asked = get("tcplb_config_reloads_total", result=result), disturber.reloads[result]
            if counted != asked:
                self.fail("counters", f"{counted} reloads with {result}, {asked} asked for")

    def memory(self):
        """Does it grow? The last third against the first, after the warm-up, and the end against the warm-up."""
        samples = self.samples[math.ceil(len(self.samples) * WARM_UP) :]
        third = max(1, len(samples) // 3)
        first, last, end = statistics.median(samples[:third]), statistics.median(samples[-third:]), self.resident()
        bound = 1.2 * first + 8 * MIB
        if last > bound or end > bound:
            self.fail("leak", f"memory: {first / MIB:.1f} MiB at first, {last / MIB:.1f} at last, {end / MIB:.1f} at rest")
        return {"rss_first": first, "rss_last": last, "rss_end": end}

    def drain(self):
        """SIGTERM with clients inside: they are served to their end, no other client comes in, and it exits with 0."""
        inside = [clients.Visit(self, "main", self.random) for _ in range(3)]
        try:
            for visit in inside:
                visit.connect()
                visit.talk(visit.order(wire.TALK, 1000, 1000))
            self.tcplb.popen.send_signal(signal.SIGTERM)
            self.wait_for("it drains", lambda: self.admin.call("GET", "/readyz")[0] == 503)
            for visit in inside:
                visit.talk(visit.order(wire.TALK, 100_000, 100_000))
                self.compared += visit.compared
        except Exception as error:
            self.fail("drain", f"{type(error).__name__}: {error}")
        finally:
            for visit in inside:
                visit.close()
        try:
            code = self.tcplb.popen.wait(20)
        except subprocess.TimeoutExpired:
            code = "nothing, 20 s after its last client left"
        if code != 0:
            self.fail("drain", f"exit code {code}")

    def complaints(self):
        """What backends and tcplb itself said."""
        for server in self.servers.values():
            for line in server.log.read_text(errors="replace").splitlines():
                self.fail("backend", line, mismatch=True)
        for line in self.tcplb.log.read_text(errors="replace").splitlines():
            if "panicked" in line or ("ERROR" in line and not config.is_told_refusal(line)):
                self.fail("log", line)


class Server:
    """A backend's process, again and again on the same ports."""

    def __init__(self, name, seed, directory, ports):
        self.name = name
        self.ports = ports
        self.process = None
        self.log = Path(directory) / f"{name}.log"
        self._command = [sys.executable, "-B", str(SERVER), name, str(seed), *map(str, self.ports)]

    def start(self):
        self.process = processes.Process(self._command, self.log)
        for port in self.ports:
            self.process.wait_for_port(port)

    def kill(self):
        self.process.popen.kill()
        self.process.stop()


def ports_needed():
    """How many ports one arena uses. A caller that starts several gives each its own range, since a free port is free for all of them."""
    return len(OWN_PORTS) + 3 * len(SERVERS)


def main(arguments):
    """In a process of its own: `bench/soak` starts it."""
    processes.raise_descriptor_limit()
    threading.stack_size(512 << 10)
    binary, relay, seed, seconds, directory, *ports = arguments
    try:
        result = Arena(binary, relay, int(seed), float(seconds), directory, map(int, ports)).run()
    finally:
        processes.kill_all()
    (Path(directory) / "result.json").write_text(json.dumps(result))
