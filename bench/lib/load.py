"""Load: wrk for requests, iperf3 and plain readers for bulk, plain sockets for idle connections."""

import json
import re
import socket
import threading
import time
from pathlib import Path

from . import processes
from .backends import close_hard

SCRIPT = Path(__file__).resolve().parent / "wrk.lua"
PATIENCE = 30.0  # How much longer than asked for a load generator may take, in seconds.
READ_BYTES = 256 * 1024
ATTEMPTS = 3


def wrk(port, connections, seconds, close=False, threads=2, origin="http://127.0.0.1", within=()):
    """Small requests from `connections` at once, kept alive or one connection each: wrk's figures, times in µs. `within` begins
    the command."""
    command = [*within, "wrk", "-t", str(min(threads, connections)), "-c", str(connections), "-d", f"{seconds}s"]
    command += ["--timeout", "10s", "-s", str(SCRIPT)] + (["-H", "Connection: close"] if close else [])
    output = processes.run([*command, f"{origin}:{port}/"], seconds + PATIENCE)
    figures = json.loads(re.search(r"^JSON (.*)$", output, re.M)[1])
    if not figures["requests"]:
        raise processes.Failed("not one request was answered")
    return figures


def iperf3(port, streams, seconds, download, host="127.0.0.1", within=()):
    """Bulk for `seconds`: bytes that arrived, and the seconds it took. `within` begins the command."""
    command = [*within, "iperf3", "-c", host, "-p", str(port), "-P", str(streams), "-t", str(seconds), "-J"]
    answer = json.loads(processes.run(command + (["-R"] if download else []), seconds + PATIENCE))
    arrived = answer["end"].get("sum_received")
    if "error" in answer or not arrived or not arrived["bytes"]:
        raise processes.Failed(f"iperf3: {answer.get('error', 'nothing arrived')}")
    return arrived["bytes"], arrived["seconds"]


class BulkReaders:
    """Threads that download `/bulk` again and again over a connection each until they are stopped."""

    def __init__(self, port, count):
        self._stopping = threading.Event()
        self._bytes = [0] * count
        self._threads = [threading.Thread(target=self._read, args=(port, n), daemon=True) for n in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        deadline = time.monotonic() + 10
        while not all(self._bytes):
            if time.monotonic() > deadline:
                raise processes.Failed("a bulk stream does not flow")
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)

    def bytes(self):
        """Read so far."""
        return sum(self._bytes)

    def _read(self, port, n):
        buffer = bytearray(READ_BYTES)
        with socket.create_connection(("127.0.0.1", port), 10) as stream:
            while not self._stopping.is_set():
                stream.sendall(b"GET /bulk HTTP/1.1\r\nHost: bench\r\n\r\n")
                left = _body_left(stream, buffer)
                while left and not self._stopping.is_set():
                    got = stream.recv_into(buffer)
                    if not got:
                        raise processes.Failed("a bulk stream ended early")
                    left -= got
                    self._bytes[n] += got


class IdleConnections:
    """Connections that made one request each and then say nothing."""

    def __init__(self, port, count):
        self._sockets = []
        try:
            for _ in range(count):
                end = socket.create_connection(("127.0.0.1", port), 10)
                self._sockets.append(end)
                end.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
                if not end.recv(4096).startswith(b"HTTP/1.1 200 "):
                    raise processes.Failed(f"connection {len(self._sockets)} of {count} got no answer")
        except BaseException:
            close_hard(self._sockets)
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        close_hard(self._sockets)


def _body_left(stream, buffer):
    """Reads an answer's head; how much of the body is still to come."""
    got = 0
    while (end := buffer.find(b"\r\n\r\n", 0, got)) < 0:
        more = stream.recv_into(memoryview(buffer)[got:])
        if not more:
            raise processes.Failed("a bulk stream got no answer")
        got += more
    length = int(re.search(rb"Content-Length: (\d+)", buffer[:end])[1])
    return length - (got - end - 4)
