"""What clients notice of changes: a backend that goes and comes back, a drain, a reload, a restart, a crash, an upgrade."""

import json
import signal
import subprocess
import time

from ..processes import Failed
from .contenders import Contender
from .ends import PATIENCE
from .lab import ENDS, SERVERS, SHORT

RATE, SECONDS = 200, 14  # Of short connections.
GOES, RETURNS = 3.0, 8.0  # When a backend does, in seconds.
HELD = 1000  # Connections that are open during a change.
DEATHS = ("killed", "vanished")
FAULTS = ("kernel", "proxy", "HAProxy")
CHANGES = ("drain", "reload", "upgrade", "kill -9 and start", "restart")


class Backends:
    """Two servers that send back what comes."""

    def __init__(self, lab):
        self.lab = lab
        self.processes = [self._start(server) for server in SERVERS]
        for server in SERVERS:
            lab.wait_for(server, SHORT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.stop()

    def go(self, death):
        """The first one is killed, or its machine answers no more."""
        if death == "killed":
            self.processes[0].stop()
        else:
            self._drop("add table ip gone; add chain ip gone in { type filter hook input priority 0; }; "
                       f"add rule ip gone in ip daddr {SERVERS[0]} drop")

    def come_back(self, death):
        """It serves again."""
        if death == "killed":
            self.processes[0] = self._start(SERVERS[0])
        else:
            self._drop("delete table ip gone")

    def _start(self, server):
        return self.lab.start("servers", ["python3", ENDS, "echo", server, SHORT], "echo")

    def _drop(self, script):
        self.lab.run("servers", ["nft", script])


def death(lab, name, kind):
    """A backend goes and comes back under short connections: how many failed, and for how long."""
    with Backends(lab) as backends, Contender(name, lab, SHORT, SERVERS, probed=True) as contender:
        time.sleep(3)  # Both are up.
        command = [*lab.within("clients"), "python3", ENDS, "short", contender.at, contender.port, RATE, SECONDS]
        begun = time.monotonic()
        clients = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        time.sleep(GOES)
        went = time.monotonic() - begun
        backends.go(kind)
        time.sleep(max(0.0, RETURNS - (time.monotonic() - begun)))
        came = time.monotonic() - begun
        backends.come_back(kind)
        output, _ = clients.communicate(timeout=SECONDS + 3 * PATIENCE)
    got = json.loads(output)
    # Each failure counts for the time at which the client began.
    gone = [since - went for since, _ in got["failed"] if since < came]
    return {
        "connections": got["done"] + len(got["failed"]),
        "failed": len(gone),
        "for": max([0.0, *gone]),
        "failed_after_return": len(got["failed"]) - len(gone),
        "longest": got["longest"],
    }


class Held:
    """Clients whose connections stay open."""

    def __init__(self, lab, contender):
        command = [*lab.within("clients"), "python3", ENDS, "hold", contender.at, contender.port, HELD]
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def alive(self):
        """How many of them still get an answer."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise Failed("the clients that hold connections have ended")
        return int(line)

    def end(self):
        """Closes them."""
        self.process.kill()
        self.process.wait()


def cut(lab, name, change):
    """How many of the connections that were open a change has cut."""
    with Backends(lab), Contender(name, lab, SHORT, SERVERS) as contender:
        held = Held(lab, contender)
        try:
            before = held.alive()
            if before != HELD:
                raise Failed(f"{before} of {HELD} connections are open")
            apply(lab, contender, change)
            return HELD - held.alive()
        finally:
            held.end()


def apply(lab, contender, change):
    """Makes a change, and waits until clients are served again."""
    if change == "drain":
        lab.api("PATCH", f"/v1/pools/web/backends/{SERVERS[0]}", {"state": "draining"})
        time.sleep(1)
    elif change == "reload":
        text = contender.config.read_text()
        contender.config.write_text(text.replace("[[pool]]", '[[pool]]\nalgorithm = "maglev"', 1))
        lab.api("POST", "/v1/reload")
    elif change == "upgrade":
        lab.api("POST", "/v1/upgrade")
    else:
        contender.process.popen.send_signal(signal.SIGTERM if change == "restart" else signal.SIGKILL)
        # A proxy that has connections waits for their end.
        contender.process.wait(5)
        contender.process.stop()
        contender.start()
    lab.wait_for(contender.at, contender.port)
