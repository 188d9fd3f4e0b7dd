"""An echo server on every address of this machine, and clients that hold connections through a proxy."""

import multiprocessing
import selectors
import socket

from .. import backends, processes

# Connections of one source address to one port: the kernel has some 28 000 ports for them.
PER_ADDRESS = 20_000


class Echo:
    """A process that echoes on a port of every address of this machine, and counts its connections."""

    def __init__(self):
        self._listening = socket.socket()
        self._listening.bind(("0.0.0.0", processes.free_port()))
        self._listening.listen(4096)
        self._listening.setblocking(False)
        self.port = self._listening.getsockname()[1]
        self.accepted = multiprocessing.Value("L", 0, lock=False)
        self._process = multiprocessing.Process(target=self._serve, daemon=True)
        self._process.start()
        self._listening.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.join()

    def _serve(self):
        ready = selectors.DefaultSelector()
        ready.register(self._listening, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is self._listening:
                    self._accept(ready)
                else:
                    _echo(ready, key.fileobj)

    def _accept(self, ready):
        try:
            while True:
                end, _ = self._listening.accept()
                self.accepted.value += 1
                end.setblocking(False)
                ready.register(end, selectors.EVENT_READ)
        except BlockingIOError:
            pass


def _echo(ready, end):
    try:
        if data := end.recv(4096):
            end.sendall(data)
            return
    except OSError:
        pass
    ready.unregister(end)
    end.close()


class Held:
    """Connections through a listener on 127.0.0.1; each one can be asked for an echo."""

    def __init__(self, port):
        self._port, self._ends, self.cut = port, [], 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        backends.close_hard(self._ends)

    def __len__(self):
        return len(self._ends)

    def open(self, count):
        """So many more."""
        for _ in range(count):
            source = f"127.0.0.{1 + len(self._ends) // PER_ADDRESS}"
            self._ends.append(socket.create_connection(("127.0.0.1", self._port), 10, (source, 0)))

    def echo(self):
        """The number that echo. A connection that does not is counted in `cut` and held no more."""
        asked = []
        for number, end in enumerate(self._ends):
            try:
                end.sendall(b"%08d" % number)
                asked.append(number)
            except OSError:
                pass
        alive = [self._ends[number] for number in asked if _exactly(self._ends[number], 8) == b"%08d" % number]
        kept = set(alive)
        self.cut += len(self._ends) - len(alive)
        backends.close_hard([end for end in self._ends if end not in kept])
        self._ends = alive
        return len(alive)


def _exactly(end, length):
    """So many bytes, or less at the end."""
    got = b""
    try:
        while len(got) < length and (more := end.recv(length - len(got))):
            got += more
    except OSError:
        pass
    return got
