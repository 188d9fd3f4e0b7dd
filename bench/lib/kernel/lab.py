"""Three machines in network namespaces: clients, the balancer, servers. Each run has its own."""

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from .. import processes
from ..backends import filled_in, nginx_user

AT, PORT = "10.99.1.1", 80  # Where clients connect.
SERVERS = ("10.99.2.2", "10.99.2.3")
WEB, BULK, ECHO, SHORT = 8080, 5201, 7000, 8081
ENDS = Path(__file__).resolve().parent / "ends.py"
GROUPS = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
CLONE_NEWNET = 0x40000000


class Group:
    """A control group, which counts the CPU of all that is started in it, children that have ended too. What the kernel does with
    a packet counts for the process that runs meanwhile, which is one of ours as long as the machine does nothing else."""

    def __init__(self, name, parent=None):
        root = parent.path if parent else next((group for group in GROUPS if (group / "cgroup.procs").exists()), None)
        if root is None:
            raise processes.Failed("there is no cgroup2 mounted at /sys/fs/cgroup or /sys/fs/cgroup/unified")
        self.path = root / name
        self.path.mkdir()

    def wrap(self, command):
        """The command that starts another one in the group."""
        return ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh", *map(str, command)]

    def cpu_us(self):
        """User and system time so far, µs."""
        line = (self.path / "cpu.stat").read_text().split("\n")[0]
        return int(line.split()[1])

    def remove(self):
        """Removes it once its last process has ended."""
        for _ in range(100):
            try:
                return self.path.rmdir()
            except OSError:
                time.sleep(0.05)


class Lab:
    """The machines, and what is started on them."""

    def __init__(self, directory, tcplb):
        self.directory, self.tcplb = Path(directory), str(tcplb)
        self.names = {who: f"tcplb-{who}-{os.getpid()}" for who in ("clients", "balancer", "servers")}
        self.all = Group(f"tcplb-bench-{os.getpid()}")
        self.of_balancer = Group("balancer", self.all)
        self.of_others = Group("others", self.all)

    def __enter__(self):
        for name in self.names.values():
            run("ip", "netns", "add", name)
        clients, balancer, servers = self.names.values()
        for name, device, peer in ((clients, "wire", "left"), (servers, "wire", "right")):
            run("ip", "link", "add", device, "netns", name, "type", "veth", "peer", "name", peer, "netns", balancer)
        addresses = [(clients, "wire", "10.99.1.2/24"), (balancer, "left", f"{AT}/24"), (balancer, "right", "10.99.2.1/24")]
        for name, device, address in addresses + [(servers, "wire", f"{server}/24") for server in SERVERS]:
            run(*self._in(name), "ip", "addr", "add", address, "dev", device)
        for name, device in ((clients, "wire"), (balancer, "left"), (balancer, "right"), (servers, "wire")):
            run(*self._in(name), "ip", "link", "set", "lo", "up")
            run(*self._in(name), "ip", "link", "set", device, "up")
        run(*self._in(clients), "ip", "route", "add", "default", "via", AT)
        run(*self._in(servers), "ip", "route", "add", "default", "via", "10.99.2.1")
        # Ports enough for each measurement; the kernel counts bytes, as a tcplb would want it.
        self.set("clients", "net/ipv4/ip_local_port_range", "1024 65000")
        self.set("balancer", "net/ipv4/ip_local_port_range", "1024 65000")
        self.set("balancer", "net/ipv4/ip_forward", "1")
        self.nft("add table ip load")  # Loads the modules, with their settings.
        self.nft("delete table ip load")
        self.set("balancer", "net/netfilter/nf_conntrack_acct", "1")
        # So that connections also end in conntrack during a measurement, as they do under a steady load.
        self.set("balancer", "net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1")
        return self

    def __exit__(self, *_):
        processes.kill_all()
        for name in self.names.values():
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
        for group in (self.of_balancer, self.of_others, self.all):
            group.remove()

    def _in(self, name):
        return ["ip", "netns", "exec", name]

    def within(self, who):
        """What begins a command on a machine, in its control group."""
        group = self.of_balancer if who == "balancer" else self.of_others
        return group.wrap(self._in(self.names[who]))

    def set(self, who, key, value):
        """Sets a parameter of a machine's kernel."""
        run(*self._in(self.names[who]), "sh", "-c", f"echo '{value}' > /proc/sys/{key}")

    def start(self, who, command, log):
        """Starts a program on a machine."""
        return processes.Process([*self.within(who), *map(str, command)], self.directory / f"{log}.log")

    def run(self, who, command, timeout=60):
        """Runs a program there to its end; what it prints."""
        return processes.run([*self.within(who), *map(str, command)], timeout)

    def nft(self, script):
        """Runs a script of nft on the balancer."""
        path = self.directory / "script.nft"
        path.write_text(script)
        run(*self._in(self.names["balancer"]), "nft", "-f", str(path))

    def forget(self):
        """Removes what earlier measurements left: entries of conntrack, sockets in TIME_WAIT."""
        subprocess.run([*self._in(self.names["balancer"]), "conntrack", "-F"], capture_output=True)
        for name in self.names.values():
            subprocess.run([*self._in(name), "ss", "-K", "-Htn", "state", "time-wait"], capture_output=True)

    def wait_for(self, at, port, what="ask"):
        """Returns when a client there gets an answer, or connects."""
        for _ in range(600):
            done = subprocess.run([*self._in(self.names["clients"]), sys.executable, ENDS, what, at, str(port)], capture_output=True)
            if done.returncode == 0:
                return
            time.sleep(0.05)
        raise processes.Failed(f"nothing answers at {at}:{port}: {done.stderr.decode(errors='replace')[-300:]}")

    def web(self):
        """nginx with one worker, for requests, and iperf3, for bulk."""
        config = filled_in("web.conf", self.directory, port=WEB, user=nginx_user(), files=self.directory)
        self.start("servers", ["nginx", "-p", self.directory, "-c", config, "-g", "daemon off;"], "web")
        self.start("servers", ["iperf3", "-s", "-p", BULK], "iperf3")
        self.wait_for(SERVERS[0], WEB)

    def api(self, method, path, body=None, admin="127.0.0.1:9000"):
        """A call of tcplb's API on the balancer; its answer."""
        with inside(self.names["balancer"]):
            import http.client

            connection = http.client.HTTPConnection(admin, timeout=30)
            connection.request(method, path, body and json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
        if answer.status >= 300:
            raise processes.Failed(f"{method} {path}: {answer.status} {text}")
        return text


class inside:
    """This thread is on another machine meanwhile."""

    def __init__(self, name):
        self._name = name

    def __enter__(self):
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self._name}", os.O_RDONLY)
        setns(there)
        os.close(there)

    def __exit__(self, *_):
        setns(self._own)
        os.close(self._own)


def setns(descriptor):
    """Enters a network namespace. Python has it from 3.12 on."""
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def run(*command):
    """Runs a tool, which must succeed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise processes.Failed(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
