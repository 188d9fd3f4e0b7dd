"""tcplb, its peers, the floor and no proxy at all, with several listeners of the same workers."""

import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from .. import processes, proxies
from ..backends import filled_in, nginx_user
from ..report import BEFORE, FLOOR, FLOOR_SPLICE, NONE, OURS
from . import controls

HAPROXY, HAPROXY_SPLICE, NGINX = "haproxy", "haproxy-splice", "nginx"


@dataclass(frozen=True)
class Listener:
    """A listener on a port of 127.0.0.1, with its backends. It may refuse every client."""

    name: str
    port: int
    backends: tuple
    weight: int = 1  # Of its first backend.
    refuses: bool = False


@dataclass(frozen=True)
class Plan:
    """What a proxy is to serve."""

    listeners: tuple
    admin: int  # The port of tcplb's API.
    probes: bool = False
    reloads: bool = False  # HAProxy needs a master for them.

    def with_weight(self, weight):
        """The same, with another weight of the first backend of the first listener."""
        first, *others = self.listeners
        return replace(self, listeners=(replace(first, weight=weight), *others))


class Running:
    """A contender that serves a plan. Without a proxy, `process` is `None`, and the ports are those of the first backends."""

    def __init__(self, contender, plan, directory, within):
        self.contender, self.plan, self.directory, self.process = contender, plan, Path(directory), None
        self.ports = {one.name: one.port for one in plan.listeners}
        command = contender.command(plan, self.directory)
        if command is None:
            self.ports = {one.name: int(one.backends[0].split(":")[1]) for one in plan.listeners}
            return
        self.process = processes.Process([*within, *command], self.directory / f"{contender.name}.log")
        self.process.name = contender.name
        try:
            for port in self.ports.values():
                self.process.wait_for_port(port)
        except BaseException:
            self.process.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.stop()

    def cpu_ns(self):
        """CPU of all its threads so far."""
        return self.process.cpu_ns() if self.process else 0

    @property
    def control(self):
        """How it is changed and asked."""
        return self.contender.control

    def reload(self, plan):
        """Has it serve another plan with the same listeners."""
        self.plan = plan
        self.contender.command(plan, self.directory)
        self.control.reload(self)


@dataclass(frozen=True)
class Contender:
    """One of them: its name, its binary, what it says of its version, and its command."""

    name: str
    binary: str
    asks: tuple
    command_of: object
    control: object = None

    def version(self):
        """What it says it is."""
        return proxies.version_of(self.binary, self.asks) if self.asks else "–"

    def command(self, plan, directory):
        """Writes its files and returns its command."""
        return self.command_of(self.binary, plan, directory)


def found(tcplb, before, tools):
    """All that can take part on this machine."""
    haproxy, nginx = shutil.which("haproxy"), shutil.which("nginx")
    every = [
        Contender(NONE, "-", (), lambda *_: None),
        Contender(FLOOR, str(tools), (), _floor()),
        Contender(FLOOR_SPLICE, str(tools), (), _floor("--splice", "true")),
        Contender(OURS, str(tcplb), ("--version",), _tcplb, controls.Tcplb()),
        Contender(BEFORE, before and str(before), ("--version",), _tcplb, controls.Tcplb()),
        Contender(HAPROXY, haproxy, ("-v",), _haproxy("splice-auto"), controls.Haproxy()),
        Contender(HAPROXY_SPLICE, haproxy, ("-v",), _haproxy("splice-request", "splice-response"), controls.Haproxy()),
        Contender(NGINX, nginx, ("-v",), _nginx, controls.Nginx()),
    ]
    return [contender for contender in every if contender.binary]


def _floor(*flags):
    def command(binary, plan, _directory):
        routes = [f"127.0.0.1:{one.port}={'close' if one.refuses else one.backends[0]}" for one in plan.listeners]
        return [binary, "floor", *routes, "--threads", str(proxies.THREADS), *flags]

    return command


def tcplb_text(plan):
    """tcplb's file."""
    health = 'kind = "tcp"\ninterval = "1s"' if plan.probes else 'kind = "off"'
    parts = [f'[global]\nworkers = {proxies.THREADS}\nadmin = "127.0.0.1:{plan.admin}"\n']
    for one in plan.listeners:
        deny = 'deny = ["0.0.0.0/0"]\n' if one.refuses else ""
        parts.append(f'[[listener]]\nname = "{one.name}"\nbind = ["127.0.0.1:{one.port}"]\npool = "{one.name}"\n{deny}')
        parts.append(f'[[pool]]\nname = "{one.name}"\n[pool.health]\n{health}\n')
        for number, at in enumerate(one.backends):
            weight = f"weight = {one.weight}\n" if number == 0 else ""
            parts.append(f'[[pool.backend]]\nname = "b{number}"\naddress = "{at}"\n{weight}')
    return "".join(parts)


def _tcplb(binary, plan, directory):
    file = directory / "tcplb.toml"
    file.write_text(tcplb_text(plan))
    return [binary, "--config", str(file), "--log-level", "warn"]


def _haproxy(*options):
    def command(binary, plan, directory):
        check = " check inter 1s" if plan.probes else ""
        parts = []
        for one in plan.listeners:
            servers = [
                f"    server b{number} {at}{check}" + (f" weight {one.weight}" if number == 0 else "")
                for number, at in enumerate(one.backends)
            ]
            # `roundrobin` takes 4095 servers.
            balance = ["    balance static-rr"] if len(servers) > 4000 else []
            # A listening socket per thread, as tcplb and nginx have.
            reject = ["    tcp-request connection reject"] if one.refuses else []
            parts += [f"listen {one.name}", f"    bind 127.0.0.1:{one.port} shards by-thread", *reject, *balance, *servers]
        file = filled_in(
            "tail-haproxy.cfg",
            directory,
            threads=proxies.THREADS,
            admin=f"stats socket {directory}/haproxy.sock level admin expose-fd listeners",
            splicing="\n    ".join(f"option {option}" for option in options),
            listeners="\n".join(parts),
        )
        return [binary, *(["-W"] if plan.reloads else []), "-db", "-f", str(file)]

    return command


def _nginx(binary, plan, directory):
    parts = []
    for one in plan.listeners:
        fails = "" if plan.probes else " max_fails=0"
        servers = " ".join(
            f"server {at}{fails}" + (f" weight={one.weight};" if number == 0 else ";") for number, at in enumerate(one.backends)
        )
        parts.append(f"upstream {one.name} {{ {servers} }}")
        deny = " deny all;" if one.refuses else ""
        parts.append(f"server {{ listen 127.0.0.1:{one.port} reuseport backlog=4096;{deny} proxy_pass {one.name}; }}")
    file = filled_in(
        "tail-nginx.conf",
        directory,
        threads=proxies.THREADS,
        user=nginx_user(),
        modules=f"load_module {proxies.NGINX_MODULE};" if proxies.NGINX_MODULE.exists() else "",
        listeners="\n    ".join(parts),
    )
    return [binary, "-p", str(directory), "-c", str(file), "-g", "daemon off;"]


def realtime(priority):
    """What begins a command that is to run at this real-time priority, if it may."""
    command = ["chrt", "--fifo", str(priority)]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return command
