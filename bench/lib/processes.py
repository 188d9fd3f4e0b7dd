"""Processes under measurement: started in a group of their own, read from /proc, and gone when the benchmark ends.

CPU is the run time that the scheduler counts per thread (`schedstat`, nanoseconds), user and system together; the ticks of
`stat` are 10 ms and too coarse for short runs. Work that the kernel does in its own threads (ksoftirqd) is counted for no process.
"""

import atexit
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

START_TIMEOUT = 60.0
STOP_TIMEOUT = 3.0
LISTEN = "0A"  # The state of a listening socket in /proc/net/tcp.

# What reading /proc raises of a process that ends meanwhile.
ENDED = (FileNotFoundError, ProcessLookupError)

_started = []


class Failed(Exception):
    """A measurement could not be made; the text says why."""


class Process:
    """A program with its children."""

    def __init__(self, command, log):
        """Starts `command`; what it prints is appended to the file `log`."""
        self.name = Path(command[0]).name
        self.log = Path(log)
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        _started.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def wait_for_port(self, port):
        """Returns when `port` is listened on. Nothing connects to it: the backend would see that."""
        deadline = time.monotonic() + START_TIMEOUT
        while not _is_listening(port):
            if self.popen.poll() is not None:
                raise Failed(f"{self.name} ended at its start: {self.last_words()}")
            if time.monotonic() > deadline:
                raise Failed(f"{self.name} does not listen after {START_TIMEOUT:.0f} s")
            time.sleep(0.005)

    def last_words(self):
        """The end of what it printed."""
        return self.log.read_text(errors="replace").strip()[-400:] or "it printed nothing"

    def pids(self):
        """Itself and its descendants."""
        found, waiting = [], [self.popen.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    waiting += map(int, children.read_text().split())
                except ENDED:
                    continue
        return found

    def cpu_ns(self):
        """Run time so far of all threads, ns."""
        total = 0
        for pid in self.pids():
            for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                total += int(thread.read_text().split()[0])
        return total

    def cpu_in_all_s(self):
        """CPU so far in seconds, that of threads and children that have ended too; in ticks of 10 ms."""
        ticks = 0
        for pid in self.pids():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except ENDED:
                continue
            ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def descriptors(self):
        """Open ones, of all its processes."""
        total = 0
        for pid in self.pids():
            try:
                total += len(os.listdir(f"/proc/{pid}/fd"))
            except ENDED:
                continue
        return total

    def memory(self):
        """User-space memory of its own: anonymous pages, shared ones in parts, bytes."""
        total = 0
        for pid in self.pids():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except ENDED:
                continue
            total += int(re.search(r"^Pss_Anon:\s+(\d+) kB", rollup, re.M)[1]) * 1024
        return total

    def wait(self, seconds):
        """Returns when it has ended, or when it takes too long."""
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            pass

    def stop(self):
        """Ends it and everything in its group."""
        if self not in _started:
            return
        _started.remove(self)
        _signal_group(self.popen.pid, signal.SIGTERM)
        self.wait(STOP_TIMEOUT)
        _signal_group(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


def run(command, timeout):
    """Runs a load generator to its end; its standard output. Its group dies with us, or after `timeout` seconds."""
    popen = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        output, _ = popen.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[0]} took more than {timeout:.0f} s") from error
    finally:
        _signal_group(popen.pid, signal.SIGKILL)
        popen.wait()
    text = output.decode(errors="replace")
    if popen.returncode != 0:
        raise Failed(f"{command[0]} failed ({popen.returncode}): {text.strip()[-300:]}")
    return text


def free_port():
    """A port that is free, below those the kernel gives to outgoing connections: no client can take it meanwhile."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(1000):
        port = random.randrange(max(1024, lowest // 3), lowest)
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port
    raise Failed("no free port")


def free_ports(count):
    """So many different ones."""
    ports = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


def raise_descriptor_limit():
    """To the hard limit, for us and all we start; what it is then."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def clean_up_at_exit():
    """Whatever ends us, short of SIGKILL, ends what we started."""
    atexit.register(_stop_all)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def kill_all():
    """Ends all that we started, at once and without asking."""
    for process in list(_started):
        _signal_group(process.popen.pid, signal.SIGKILL)
        process.stop()


def _stop_all():
    for process in list(_started):
        process.stop()


def _signal_group(leader, number):
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        pass


def _is_listening(port):
    """Listening sockets come first in /proc/net/tcp, so the thousands in TIME_WAIT are not read."""
    wanted = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as sockets:
                next(sockets)
                for line in sockets:
                    _, local, _, state, *_ = line.split()
                    if state != LISTEN:
                        break
                    if local.endswith(wanted):
                        return True
        except FileNotFoundError:
            continue
    return False
