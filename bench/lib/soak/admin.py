"""Calls to the admin API under soak; every answer that is not the promised one is an error."""

import http.client
import json
import re

PATIENCE = 30


class Refused(Exception):
    """The API did not do what it should."""


class Admin:
    """At a port of this machine."""

    def __init__(self, port):
        self._port = port

    def call(self, method, path, body=None):
        """The status and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request(method, path, body=json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def ask(self, method, path, body=None, status=200):
        """The body, if the status is this one."""
        got, text = self.call(method, path, body)
        if got != status:
            raise Refused(f"{method} {path} {body or ''}: {got} {text[:200]}")
        return text

    def get(self, path):
        """JSON."""
        return json.loads(self.ask("GET", path))

    def metrics(self):
        """Values by name and labels."""
        found = re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", self.ask("GET", "/metrics"), re.M)
        return {(name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels))): float(value) for name, labels, value in found}
