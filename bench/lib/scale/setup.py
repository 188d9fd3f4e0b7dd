"""tcplb, HAProxy and nginx with any number of listeners and backends: their files, their start and their reload."""

import http.client
import json
import os
import shutil
import signal
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path

from .. import processes, proxies
from ..backends import nginx_user

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
PATIENCE = 120.0
NAMES = ("tcplb", "haproxy", "nginx")


@dataclass(frozen=True)
class Plan:
    """What a proxy is to serve: listeners and backends are addresses with ports. The last listener is asked at the start."""

    listeners: tuple
    backends: tuple
    weight: int = 1  # Of every backend.
    probe_seconds: float | None = None  # From one TCP probe of a backend to the next; without it there are none.
    connections: int = 2000  # The most at once.
    algorithm: str = "weighted-round-robin"  # Of tcplb. HAProxy and nginx have round robin.

    def but(self, **changes):
        """The same with other values."""
        return replace(self, **changes)


def addresses(network, count, port):
    """As many addresses of 127.`network`.0.0/15 with the port."""
    return tuple(f"127.{network + n // 62500}.{n // 250 % 250}.{n % 250 + 1}:{port}" for n in range(count))


def listeners(count, port):
    """As many listeners; the last one is on 127.0.0.1."""
    return (*addresses(100, count - 1, port), f"127.0.0.1:{port}")


class Running:
    """A proxy that serves a plan, with the seconds and the CPU that its start took."""

    def __init__(self, contender, plan, directory):
        self.name, self._contender, self.directory = contender.name, contender, Path(directory)
        self.file = self.directory / f"{contender.name}.conf"
        self.plan, self.admin = plan, processes.free_port()
        self._write()
        began = time.monotonic()
        self.process = self.start(contender.command(self.file), self.directory / f"{contender.name}.log")
        try:
            self._wait_until_served(began + PATIENCE)
            self.start_s = time.monotonic() - began
            self.start_cpu_s = self.process.cpu_in_all_s()
        except BaseException:
            self.process.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stop()

    def start(self, command, log):
        """Its process."""
        return processes.Process(command, log)

    def is_served(self, host, port):
        """Whether a client is answered."""
        with socket.create_connection((host, port), 10) as end:
            end.sendall(REQUEST)
            return bool(end.recv(4096))

    def reload(self, plan):
        """Serves another plan, with the same listeners or some more; the seconds until it does."""
        self.plan = plan
        self._write()
        time.sleep(self._contender.breath_s)
        began = time.monotonic()
        self._contender.reload(self)
        return time.monotonic() - began

    def call(self, method, path, body=None):
        """A call of tcplb's API that must work; its answer."""
        caller = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=PATIENCE)
        try:
            caller.request(method, path, body=json.dumps(body) if body is not None else None)
            answer = caller.getresponse()
            text = answer.read().decode()
        finally:
            caller.close()
        if answer.status >= 300:
            raise processes.Failed(f"{method} {path}: {answer.status} {text[:300]}")
        return text

    def _write(self):
        self.file.write_text(self._contender.text(self.plan, self.directory, self.admin))

    def _wait_until_served(self, deadline):
        host, port = self.plan.listeners[-1].split(":")
        while True:
            try:
                if self.is_served(host, int(port)):
                    return
            except OSError:
                pass
            # The first process of a daemon ends with 0.
            if self.process.popen.poll():
                raise processes.Failed(f"{self.process.name} ended at its start: {self.process.last_words()}")
            if time.monotonic() > deadline:
                raise processes.Failed(f"{self.process.name} serves nothing after {PATIENCE:.0f} s: {self.process.last_words()}")
            time.sleep(0.002)


class Tcplb:
    """tcplb from a file, with its API."""

    name = "tcplb"
    breath_s = 0.0

    def __init__(self, binary):
        self.binary = str(binary)

    def command(self, file):
        return [self.binary, "--config", str(file), "--log-level", "warn"]

    def text(self, plan, _directory, admin):
        health = f'kind = "tcp"\ninterval = "{plan.probe_seconds * 1e3:.0f}ms"' if plan.probe_seconds else 'kind = "off"'
        parts = [f'[global]\nworkers = {proxies.THREADS}\nadmin = "127.0.0.1:{admin}"\n']
        parts += [f'[[listener]]\nname = "l{n}"\nbind = ["{at}"]\npool = "pool"\n' for n, at in enumerate(plan.listeners)]
        parts.append(f'[[pool]]\nname = "pool"\nalgorithm = "{plan.algorithm}"\n[pool.health]\n{health}\n')
        parts += [
            f'[[pool.backend]]\nname = "b{n}"\naddress = "{at}"\nweight = {plan.weight}\n' for n, at in enumerate(plan.backends)
        ]
        return "".join(parts)

    def reload(self, running):
        running.call("POST", "/v1/reload")


class Haproxy:
    """HAProxy as a master with a worker. Its `roundrobin` takes 4 095 servers, so it has `static-rr`."""

    name = "haproxy"
    breath_s = 0.1  # See its reload.

    def __init__(self, binary):
        self.binary = binary

    def command(self, file):
        return [self.binary, "-W", "-db", "-f", str(file)]

    def text(self, plan, _directory, _admin):
        check = f" check inter {plan.probe_seconds * 1e3:.0f}ms" if plan.probe_seconds else ""
        parts = [
            f"global\n nbthread {proxies.THREADS}\n maxconn {plan.connections}\n no strict-limits\n tune.maxaccept 64\n"
            f"defaults\n mode tcp\n maxconn {plan.connections}\n backlog 4096\n option splice-auto\n timeout connect 10s\n"
            " timeout client 1h\n timeout server 1h\n timeout tunnel 1h\n"
        ]
        parts += [f"frontend l{n}\n bind {at} shards by-thread\n default_backend pool\n" for n, at in enumerate(plan.listeners)]
        parts.append("backend pool\n balance static-rr\n")
        parts += [f" server b{n} {at} weight {plan.weight}{check}\n" for n, at in enumerate(plan.backends)]
        return "".join(parts)

    def reload(self, running):
        log, process = running.process.log, running.process
        before = log.stat().st_size

        def logged(words):
            with log.open("rb") as text:
                text.seek(before)
                return words in text.read()

        # The master misses a signal that comes soon after a reload.
        for _ in range(20):
            if _signal_and_wait(process, signal.SIGUSR2, lambda: logged(b"Reloading HAProxy"), 0.5):
                break
        if not _wait(process, lambda: logged(b"Loading success"), PATIENCE):
            raise processes.Failed(f"haproxy has no new worker {PATIENCE:.0f} s after the reload: {process.last_words()}")


class Nginx:
    """nginx's stream module. It has no active probes."""

    name = "nginx"
    breath_s = 0.0

    def __init__(self, binary):
        self.binary = binary

    def command(self, file):
        return [self.binary, "-p", str(file.parent), "-c", str(file), "-g", "daemon off;"]

    def text(self, plan, directory, _admin):
        modules = f"load_module {proxies.NGINX_MODULE};\n" if proxies.NGINX_MODULE.exists() else ""
        servers = "".join(f"  server {at} weight={plan.weight} max_fails=0;\n" for at in plan.backends)
        entries = "".join(
            f" server {{ listen {at} reuseport backlog=4096; proxy_pass pool; proxy_timeout 1h; }}\n" for at in plan.listeners
        )
        # A worker counts both sides and its listening sockets.
        slots = 2 * plan.connections + 2 * proxies.THREADS * len(plan.listeners)
        return (
            f"{modules}{nginx_user()}\nworker_processes {proxies.THREADS};\npid {directory}/scale.pid;\n"
            f"error_log {directory}/scale-error.log error;\nevents {{ worker_connections {slots}; multi_accept on; }}\n"
            f"stream {{\n access_log off;\n tcp_nodelay on;\n upstream pool {{\n{servers} }}\n{entries}}}\n"
        )

    def reload(self, running):
        process = running.process
        before = set(process.pids())
        if not _signal_and_wait(process, signal.SIGHUP, lambda: len(set(process.pids()) - before) >= proxies.THREADS, PATIENCE):
            raise processes.Failed(f"nginx has no new workers {PATIENCE:.0f} s after the reload: {process.last_words()}")


def contenders(tcplb, wanted):
    """Those that are asked for and are on this machine."""
    kinds = {"haproxy": Haproxy, "nginx": Nginx}
    peers = [kind(binary) for name, kind in kinds.items() if name in wanted and (binary := shutil.which(name))]
    return [Tcplb(tcplb), *peers]


def _signal_and_wait(process, number, done, seconds):
    """Sends the signal to the master; whether it is done within the time."""
    os.kill(process.popen.pid, number)
    return _wait(process, done, seconds)


def _wait(process, done, seconds):
    """Whether it is done within the time."""
    deadline = time.monotonic() + seconds
    while not done():
        if process.popen.poll() is not None:
            raise processes.Failed(f"{process.name} ended at a reload: {process.last_words()}")
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True
