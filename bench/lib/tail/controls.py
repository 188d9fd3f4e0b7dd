"""How each proxy is changed and asked while it runs: reloads, weights, lists of connections, figures of all backends."""

import http.client
import json
import os
import signal
import socket
import time

from .. import processes, proxies
from ..scale.setup import PATIENCE

LOOK_S = 0.002


class Tcplb:
    """By its API. `POST /v1/reload` does what SIGHUP does, and answers once it is done."""

    def reload(self, running):
        self._call(running, "POST", "/v1/reload")

    def set_weight(self, running, pool, name, weight):
        self._call(running, "PATCH", f"/v1/pools/{pool}/backends/{name}", {"weight": weight})

    def list(self, running):
        """Bytes of the list of connections."""
        return self._call(running, "GET", "/v1/connections")

    def scrape(self, running):
        """Bytes of the figures of all backends."""
        return self._call(running, "GET", "/metrics")

    def _call(self, running, method, path, body=None):
        caller = http.client.HTTPConnection("127.0.0.1", running.plan.admin, timeout=PATIENCE)
        try:
            caller.request(method, path, body=json.dumps(body) if body is not None else None)
            answer = caller.getresponse()
            got = answer.read()
        finally:
            caller.close()
        if answer.status >= 300:
            raise processes.Failed(f"{method} {path}: {answer.status} {got[:300]}")
        return len(got)


class Haproxy:
    """By its socket, and by a signal to its master."""

    def reload(self, running):
        log = running.process.log
        before = log.stat().st_size

        def logged(words):
            with log.open("rb") as text:
                text.seek(before)
                return words in text.read()

        # The master misses a signal that comes soon after a reload.
        for _ in range(20):
            os.kill(running.process.popen.pid, signal.SIGUSR2)
            if _comes_true(lambda: logged(b"Reloading HAProxy"), 0.5):
                break
        if not _comes_true(lambda: logged(b"Loading success"), PATIENCE):
            raise processes.Failed(f"haproxy has no new worker: {running.process.last_words()}")

    def set_weight(self, running, pool, name, weight):
        if answer := self._say(running, f"set server {pool}/{name} weight {weight}").strip():
            raise processes.Failed(f"haproxy sets no weight: {answer.decode()}")

    def list(self, running):
        return len(self._say(running, "show sess"))

    def scrape(self, running):
        return len(self._say(running, "show stat"))

    def _say(self, running, command):
        with socket.socket(socket.AF_UNIX) as end:
            end.settimeout(PATIENCE)
            end.connect(str(running.directory / "haproxy.sock"))
            end.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: end.recv(1 << 16), b""))


class Nginx:
    """By a signal to its master. It has no other way."""

    def reload(self, running):
        process = running.process
        before = set(process.pids())
        os.kill(process.popen.pid, signal.SIGHUP)
        if not _comes_true(lambda: len(set(process.pids()) - before) >= proxies.THREADS, PATIENCE):
            raise processes.Failed(f"nginx has no new workers: {process.last_words()}")


def _comes_true(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_S)
    return True
