"""Clients and servers of `bench/kernel`, each a process on its machine.

    ends.py ask AT PORT                     one connection, which must be answered
    ends.py connect AT PORT                 one connection, which must be established
    ends.py echo AT PORT                    a server that sends back what comes
    ends.py short AT PORT RATE SECONDS      short connections; prints a line of JSON
    ends.py hold AT PORT COUNT              connections that are asked whenever a line comes in; prints how many answered
"""

import json
import selectors
import socket
import sys
import time

PATIENCE = 10.0


def ask(at, port):
    with socket.create_connection((at, port), 2) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        if not client.recv(100):
            sys.exit("an end without an answer")


def connect(at, port):
    socket.create_connection((at, port), 2).close()


def echo(at, port):
    poll = selectors.DefaultSelector()
    server = socket.create_server((at, port), backlog=4096)
    server.setblocking(False)
    poll.register(server, selectors.EVENT_READ)
    while True:
        for key, _ in poll.select():
            if key.fileobj is server:
                client, _ = server.accept()
                poll.register(client, selectors.EVENT_READ)
                continue
            try:
                got = key.fileobj.recv(4096)
                if got:
                    key.fileobj.sendall(got)
                    continue
            except OSError:
                pass
            poll.unregister(key.fileobj)
            key.fileobj.close()


def short(at, port, rate, seconds):
    """A connection each 1 / `rate` seconds, whatever became of those before: it sends a byte and waits for it."""
    poll, open_since, failed, times, done = selectors.DefaultSelector(), {}, [], [], 0
    begun = time.monotonic()
    total, made = int(rate * seconds), 0
    while made < total or open_since:
        now = time.monotonic() - begun
        while made < total and made / rate <= now:
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex((at, port))
            open_since[client] = made / rate
            poll.register(client, selectors.EVENT_WRITE)
            made += 1
        for key, events in poll.select(max(0.0, min(made / rate - now, 0.05)) if made < total else 0.05):
            client = key.fileobj
            try:
                if events & selectors.EVENT_WRITE:
                    client.sendall(b"x")
                    poll.modify(client, selectors.EVENT_READ)
                    continue
                if client.recv(1) != b"x":
                    raise ConnectionError("an end without an answer")
                times.append(time.monotonic() - begun - open_since[client])
                done += 1
            except OSError as error:
                failed.append((open_since[client], type(error).__name__))
            close(poll, client, open_since)
        now = time.monotonic() - begun
        for client, since in list(open_since.items()):
            if now - since > PATIENCE:
                failed.append((since, "TimeoutError"))
                close(poll, client, open_since)
    times.sort()
    print(json.dumps({"done": done, "failed": failed, "longest": times[-1] if times else None}))


def close(poll, client, open_since):
    """The client ends first, and leaves no TIME_WAIT."""
    poll.unregister(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    del open_since[client]


def hold(at, port, count):
    clients = [socket.create_connection((at, port), PATIENCE) for _ in range(count)]
    for _ in sys.stdin:
        alive = 0
        for client in clients:
            try:
                client.settimeout(PATIENCE)
                client.sendall(b"x")
                alive += client.recv(1) == b"x"
            except OSError:
                pass
        print(alive, flush=True)


if __name__ == "__main__":
    what, at, *numbers = sys.argv[1:]
    {"ask": ask, "connect": connect, "echo": echo, "short": short, "hold": hold}[what](at, *map(int, numbers))
