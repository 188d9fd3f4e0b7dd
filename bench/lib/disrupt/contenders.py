"""tcplb, HAProxy and nginx under change: reload, upgrade, and backends that are added and removed by their APIs.

An old process of HAProxy or nginx serves its connections until they end. A bound makes it end sooner; each peer takes part with a
bound and without.
"""

import json
import os
import signal
import socket
import time
from pathlib import Path

from .. import processes, proxies
from ..scale import setup
from ..soak import wire
from . import ends
from .kinds import HEADER, KINDS, MARK, SHORT
from .traffic import SHORT_BYTES

# The bound on old processes, in seconds. Operators choose 30 s or more; the bench has no time for that, and the result is the same.
BOUND_S = 2
POOL = "pool"


class Family(processes.Process):
    """A proxy with all its processes, also those that have taken over from the first one: they stay in its group. A daemon has a
    group of its own, whose number is in its file."""

    def __init__(self, command, log, pid_file):
        super().__init__(command, log)
        self._groups, self._followers, self._pid_file = {self.popen.pid}, [], pid_file

    def pids(self):
        """Those that run."""
        if self._pid_file and self._pid_file.exists() and (text := self._pid_file.read_text().strip()):
            self._groups.add(int(text))
            self._pid_file = None
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    state, _, group = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:3]
                except processes.ENDED:
                    continue
                if int(group) in self._groups and state not in "ZX":
                    found.append(int(entry))
        return found

    def follow(self, command):
        """Starts another process beside them."""
        another = processes.Process(command, self.log)
        self._followers.append(another)
        self._groups.add(another.popen.pid)
        return another.popen

    def stop(self):
        """Ends all of them."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.pids():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            _wait(lambda: not self.pids(), processes.STOP_TIMEOUT)
        for one in self._followers:
            one.stop()
        super().stop()


class Running(setup.Running):
    """A proxy that serves a plan while it is changed."""

    def start(self, command, log):
        return Family(command, log, self.directory / self._contender.pid_file)

    def is_served(self, host, port):
        """Whether a short connection gets the right answer."""
        ring, number = ends.Known(14), 1 << 30
        with socket.create_connection((host, port), 5) as end:
            end.sendall(HEADER.pack(MARK, KINDS.index(SHORT), number) + ring.chunk(wire.up_start(number), SHORT.client.size))
            return wire.exactly(end, SHORT_BYTES) == ring.chunk(wire.down_start(number), SHORT_BYTES)

    def upgrade(self):
        """Starts the binary again, and has it take over; tcplb's figures of it."""
        return self._contender.upgrade(self)

    def swap(self, name, address, old):
        """Adds a backend and removes another one, by the API."""
        self._contender.swap(self, name, address, old)


class Tcplb(setup.Tcplb):
    """tcplb, whose file leaves out what it does by default: an upgrade moves connections, a removed backend keeps its own."""

    bound, swaps, pid_file = None, True, "no daemon"

    def upgrade(self, running):
        return json.loads(running.call("POST", "/v1/upgrade"))

    def swap(self, running, name, address, old):
        running.call("POST", f"/v1/pools/{POOL}/backends", {"address": address, "name": name})
        running.call("DELETE", f"/v1/pools/{POOL}/backends/{old}")


class Haproxy(setup.Haproxy):
    """HAProxy: a master with a worker for reloads, and one process that `-sf` and `-x` replace for the upgrade.

    The other way to an upgrade is SIGUSR2 to the master, which starts the binary anew at every reload.
    """

    swaps, pid_file = True, "no daemon"

    def __init__(self, binary, bound=None, has_master=True):
        super().__init__(binary)
        self.bound, self._has_master = bound, has_master

    def command(self, file):
        return [self.binary, *(["-W"] if self._has_master else []), "-db", "-f", str(file)]

    def text(self, plan, directory, admin):
        text = super().text(plan, directory, admin).replace("static-rr", "roundrobin")
        own = f" stats socket {self._socket(directory)} level admin expose-fd listeners\n"
        own += f" hard-stop-after {self.bound}s\n" if self.bound else ""
        return text.replace("global\n", f"global\n{own}", 1)

    def upgrade(self, running):
        at, old = str(self._socket(running.directory)), running.process.popen.pid
        new = running.process.follow([*self.command(running.file), "-x", at, "-sf", str(old)])
        answers = lambda: new.poll() is not None or f"\nPid: {new.pid}\n" in self._say(running, "show info")
        if not _wait(answers) or new.poll() is not None:
            raise processes.Failed(f"the new haproxy does not run: {running.process.last_words()}")

    def swap(self, running, name, address, old):
        at = f"{POOL}/{name}"
        answer = self._say(running, f"add server {at} {address}; enable server {at}")
        if "New server registered" not in answer:
            raise processes.Failed(f"haproxy adds no server: {answer.strip()}")
        # A server that has connections cannot be deleted: it stays, in maintenance.
        self._say(running, f"set server {POOL}/{old} state maint; del server {POOL}/{old}")

    def _say(self, running, command):
        """The answer to a command."""
        with socket.socket(socket.AF_UNIX) as end:
            end.settimeout(5)
            end.connect(str(self._socket(running.directory)))
            end.sendall(f"{command}\n".encode())
            return wire.exactly(end, 1 << 16).decode()

    def _socket(self, directory):
        return Path(directory) / "haproxy.sock"


class Nginx(setup.Nginx):
    """nginx as a daemon: a master that is the child of the process that started it ignores SIGUSR2."""

    swaps, pid_file = False, "scale.pid"

    def __init__(self, binary, bound=None):
        super().__init__(binary)
        self.bound = bound

    def command(self, file):
        return [self.binary, "-p", str(file.parent), "-c", str(file)]

    def text(self, plan, directory, admin):
        bound = f"worker_shutdown_timeout {self.bound}s;\n" if self.bound else ""
        text = super().text(plan, directory, admin).replace("events {", f"{bound}events {{", 1)
        return text.replace("proxy_timeout 1h;", "proxy_timeout 1h; proxy_half_close on;")

    def reload(self, running):
        before = set(running.process.pids())
        os.kill(self._master(running), signal.SIGHUP)
        if not _wait(lambda: len(set(running.process.pids()) - before) >= proxies.THREADS):
            raise processes.Failed(f"nginx has no new workers {setup.PATIENCE:.0f} s after the reload")

    def upgrade(self, running):
        old, before = self._master(running), set(running.process.pids())
        os.kill(old, signal.SIGUSR2)
        if not _wait(lambda: len(set(running.process.pids()) - before) > proxies.THREADS):
            raise processes.Failed("nginx has no new master with workers after SIGUSR2")
        os.kill(old, signal.SIGWINCH)
        os.kill(old, signal.SIGQUIT)

    def _master(self, running):
        return int((running.directory / self.pid_file).read_text())


def _wait(condition, seconds=setup.PATIENCE):
    """Whether it comes true within the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
