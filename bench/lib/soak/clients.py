"""The clients of the soak: each kind is a function that makes one connection and says how it ended.

Each outcome of the table `KINDS` is one that tcplb promises for what the client and its backend did. Anything else raises, and
the arena calls it a failure unless the client's own backend was killed, or taken out by force, meanwhile.
"""

import math
import socket
import struct
import time
from collections import namedtuple

from . import wire

PATIENCE = 25.0
IP_BIND_ADDRESS_NO_PORT = 24  # The port is chosen at connect, so that one address can have many connections.
BUSY = b"HTTP/1.1 503"  # Out of descriptors, the API can say no more.
GONE = (ConnectionResetError, BrokenPipeError)

Kind = namedtuple("Kind", "name listener play expected threads pause")


class Unexpected(Exception):
    """It ended in another way than promised."""


class Suspect(Unexpected):
    """The same, unless a backend was taken from a client meanwhile."""


class Visit:
    """One connection of one client, and what is known of it so far: which backend, how many bytes were right."""

    def __init__(self, arena, listener, random):
        self.arena = arena
        self.listener = listener
        self.random = random
        self.ring = arena.ring
        self.began = time.monotonic()
        self.served_by = None
        self.compared = 0
        self.end = None

    def connect(self, source=None):
        """As one of many addresses, unless a certain one is wanted."""
        pick = self.random.randrange
        source = source or f"127.{pick(1, 8)}.{pick(1, 255)}.{pick(1, 255)}"
        self.end = socket.socket()
        self.end.settimeout(PATIENCE)
        self.end.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        self.end.bind((source, 0))
        try:
            self.end.connect(("127.0.0.1", self.arena.ports[self.listener]))
        except ConnectionResetError:
            pass  # Connected and refused before it could look: the next read says so again.
        self.end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.arena.connected(self.listener)
        return self

    def close(self):
        if self.end:
            self.end.close()

    def order(self, verb, up=0, down=0, at=0, manner=wire.PLAIN, announced=None):
        """An order with a key of its own."""
        host, port = announced or ("0.0.0.0", 0)
        return wire.Order(verb, manner, self.random.getrandbits(32), up, down, at, host, port)

    def learn_name(self):
        """The backend's first words."""
        name = wire.exactly(self.end, wire.NAME_LENGTH)
        if len(name) < wire.NAME_LENGTH:
            raise wire.Short("a FIN instead of the backend's name")
        name = name.decode(errors="replace").strip()
        if self.served_by not in (None, name) or name not in self.arena.servers:
            raise wire.Mismatch(f"served by {self.served_by}, then by {name!r}")
        if self.served_by is None:
            self.served_by = name
            self.arena.placed(self)

    def upload(self, order):
        send = wire.send_urgent if order.manner == wire.URGENT else wire.send
        send(self.end, self.ring, wire.up_start(order.key), order.up)

    def download(self, order, length=None):
        length = order.down if length is None else length
        receive = wire.receive_urgent if order.manner == wire.URGENT else wire.receive
        receive(self.end, self.ring, wire.down_start(order.key), length)
        self.compared += length

    def hear_verdict(self, order):
        data = wire.exactly(self.end, wire.VERDICT_LENGTH)
        if len(data) < wire.VERDICT_LENGTH:
            raise wire.Short("a FIN instead of the verdict")
        if not wire.is_good(data, order.up):
            raise wire.Mismatch("the backend read something else than was sent")
        self.compared += order.up

    def talk(self, order):
        """All of it, checked at both ends."""
        self.end.sendall(order.pack())
        self.upload(order)
        self.learn_name()
        self.hear_verdict(order)
        self.download(order)

    def hear_fin(self):
        if more := self.end.recv(1):
            raise wire.Mismatch(f"{more!r} after the last byte")

    def hear_reset(self):
        """Whatever comes before it."""
        try:
            while self.end.recv(wire.CHUNK):
                pass
        except GONE:
            return
        raise Suspect("a FIN instead of a reset")

    def is_reset(self):
        """Was it refused? If not, it gets an answer."""
        try:
            self.talk(self.order(wire.TALK, 10, 10))
        except GONE:
            return True
        return False


def size(random):
    """Mostly small, now and then megabytes."""
    if random.random() < 0.02:
        return random.randrange(1 << 20, 6 << 20)
    return int(math.exp(random.uniform(0, math.log(128 << 10))))


def well_behaved(visit):
    random = visit.random
    visit.connect()
    for _ in range(random.choice((1, 1, 1, 3))):
        visit.talk(visit.order(wire.TALK, size(random), size(random)))
    visit.end.shutdown(socket.SHUT_WR)
    visit.hear_fin()
    return "served"


def half_closing(visit):
    """The client's FIN comes before the answer."""
    order = visit.order(wire.TALK, size(visit.random), size(visit.random))
    visit.connect()
    visit.end.sendall(order.pack())
    visit.upload(order)
    visit.end.shutdown(socket.SHUT_WR)
    visit.learn_name()
    visit.hear_verdict(order)
    visit.download(order)
    visit.hear_fin()
    return "served"


def long_lived(visit):
    """One connection for as long as there is time, through whatever happens."""
    visit.connect()
    while not visit.arena.stopping.is_set():
        visit.talk(visit.order(wire.TALK, visit.random.randrange(2000), visit.random.randrange(2000)))
        visit.arena.stopping.wait(visit.random.uniform(0.02, 0.2))
    visit.end.shutdown(socket.SHUT_WR)
    visit.hear_fin()
    return "served"


def greeted(visit):
    """The backend speaks first."""
    visit.connect()
    visit.learn_name()
    wire.receive(visit.end, visit.ring, 0, wire.GREETING_LENGTH)
    return _go_on(visit)


def answered_early(visit):
    order = visit.order(wire.ANSWER_FIRST, size(visit.random), size(visit.random))
    visit.connect().end.sendall(order.pack())
    visit.learn_name()
    visit.download(order)
    visit.upload(order)
    visit.hear_verdict(order)
    return _go_on(visit)


def both_ways_at_once(visit):
    """Reads in the same turn as it writes: neither side may wait for the other."""
    order = visit.order(wire.DUPLEX, visit.random.randrange(4 << 20), visit.random.randrange(4 << 20))
    visit.connect().end.sendall(order.pack())
    visit.learn_name()
    up, down = wire.up_start(order.key), wire.down_start(order.key)
    sent = got = 0
    while sent < order.up or got < order.down:
        if sent < order.up:
            step = min(wire.CHUNK // 4, order.up - sent)
            wire.send(visit.end, visit.ring, up + sent, step)
            sent += step
        if got < order.down:
            step = min(wire.CHUNK // 4, order.down - got)
            wire.receive(visit.end, visit.ring, down + got, step)
            got += step
    visit.hear_verdict(order)
    visit.compared += got
    return _go_on(visit)


def urgent(visit):
    """Urgent data on both sides: that byte stays in its place, the others in theirs."""
    order = visit.order(wire.TALK, size(visit.random), size(visit.random), manner=wire.URGENT)
    visit.connect().talk(order)
    return _go_on(visit)


def trickling(visit):
    """Both sides a few bytes at a time."""
    order = visit.order(wire.TRICKLE, 40, 60)
    data = order.pack() + visit.ring.chunk(wire.up_start(order.key), order.up)
    visit.connect()
    for at in range(0, len(data), 7):
        visit.end.sendall(data[at : at + 7])
        visit.arena.stopping.wait(0.02)
    visit.learn_name()
    visit.hear_verdict(order)
    visit.download(order)
    return "served"


def leaving_at_once(visit):
    visit.connect()
    if visit.random.random() < 0.5:
        wire.reset(visit.end)
    return "left"


def reset_while_sending(visit):
    order = visit.order(wire.TALK, 1 << 20, 0)
    visit.connect().end.sendall(order.pack())
    wire.send(visit.end, visit.ring, wire.up_start(order.key), visit.random.randrange(300_000))
    wire.reset(visit.end)
    return "left"


def reset_by_backend(visit):
    order = visit.order(wire.RESET_AT, at=visit.random.choice((0, 1, 1000, 70_000, 500_000)))
    visit.connect().end.sendall(order.pack())
    got = b""
    try:
        visit.learn_name()
        while more := visit.end.recv(wire.CHUNK):
            wire.compare(visit.ring, wire.down_start(order.key) + len(got), more, len(got))
            got += more
    except GONE:
        visit.compared += len(got)
        return "reset"
    raise Unexpected("a FIN instead of the backend's reset")


def early_fin(visit):
    """The backend's FIN comes first; what the client still sends must arrive."""
    order = visit.order(wire.FIN_EARLY, up=size(visit.random), at=size(visit.random))
    visit.connect().end.sendall(order.pack())
    visit.learn_name()
    visit.download(order, order.at)
    visit.hear_fin()
    visit.upload(order)
    visit.end.shutdown(socket.SHUT_WR)
    return "FIN after all bytes"


def stalled_backend(visit):
    """Sends until no byte is taken any more, which must come soon, then leaves."""
    order = visit.order(wire.STALL, up=1 << 30)
    visit.connect().end.sendall(order.pack())
    visit.learn_name()
    visit.end.settimeout(0.5)
    taken = 0
    try:
        while taken < 64 << 20:
            taken += visit.end.send(visit.ring.chunk(taken, wire.CHUNK))
    except TimeoutError:
        wire.reset(visit.end)
        return "held back"
    raise Unexpected("64 MiB were taken for a backend that reads nothing")


def flooded(visit):
    """The backend sends without end; the client reads some, then nothing, then leaves."""
    order = visit.order(wire.FLOOD)
    visit.connect().end.sendall(order.pack())
    visit.learn_name()
    visit.download(order, visit.random.randrange(3 << 20))
    visit.arena.stopping.wait(visit.random.uniform(0, 1))
    wire.reset(visit.end)
    return "left"


def silent(visit):
    """Both sides silent: the idle time-out of its pool ends it."""
    visit.connect()
    try:
        visit.talk(visit.order(wire.TALK, 10, 10))
        visit.hear_fin()
    except wire.Short:
        pass  # Its backend was stopped: silent before its first word.
    lasted = time.monotonic() - visit.began
    if lasted < visit.arena.idle_timeout:
        raise wire.Short(f"closed after {lasted:.1f} s")
    return "idle time-out"


def outliving(visit):
    """Talks on until its lifetime is over."""
    visit.connect()
    try:
        while True:
            # Nothing after the order, or its end could be what is cut off.
            visit.talk(visit.order(wire.TALK, 0, 10))
            time.sleep(0.05)
    except (*GONE, wire.Short):
        lasted = time.monotonic() - visit.began
        # A tenth of spread, and it may have ended between two of our words.
        if not 0.85 * visit.arena.lifetime < lasted < visit.arena.lifetime + 5:
            raise
        return "lifetime over"


def garbage(visit):
    """What is no order, the backend resets."""
    visit.connect().end.sendall(b"\x16\x03" + visit.random.randbytes(visit.random.randrange(60, 3000)))
    visit.hear_reset()
    return "reset"


def denied(visit):
    visit.connect(f"127.9.{visit.random.randrange(256)}.{visit.random.randrange(1, 255)}")
    if not visit.is_reset():
        raise Unexpected("a denied client was served")
    visit.arena.refused(visit.listener, "denied")
    return "refused"


def nobody(visit):
    visit.connect()
    if not visit.is_reset():
        raise Unexpected("served by no backend")
    visit.arena.refused(visit.listener, "no_backend")
    return "refused"


def crowding(visit):
    """One source with as many connections as it may have, and one more."""
    arena, source = visit.arena, visit.arena.fresh_source()
    others = [Visit(arena, visit.listener, visit.random) for _ in range(arena.per_source)]
    try:
        for other in others:
            other.connect(source)
            other.talk(other.order(wire.TALK, 10, 10))
            visit.compared += other.compared
        visit.connect(source)
        if not visit.is_reset():
            visit.served_by = None  # Whichever backend it was that one of the others lost, that made room.
            raise Suspect("one source had more connections than it may")
        arena.refused(visit.listener, "source_limit", visit.began)
    finally:
        for other in others:
            other.close()
    return "refused, the others served"


def hurrying(visit):
    """One source that connects too often: its burst is served, and at most what the rate lets in after it."""
    arena, source, served = visit.arena, visit.arena.fresh_source(), 0
    tries = 3 * arena.per_second
    for _ in range(tries):
        one = Visit(arena, visit.listener, visit.random)
        try:
            one.connect(source)
            if one.is_reset():
                arena.refused(visit.listener, "source_rate", one.began)
            else:
                served += 1
                visit.compared += one.compared
        finally:
            one.close()
    most = arena.per_second * (1 + time.monotonic() - visit.began) + 1
    if not arena.per_second <= served <= most:
        raise Suspect(f"{served} of {tries} were let in, expected {arena.per_second} to {most:.0f}")
    return "the burst served, the rest refused"


def proxied(visit):
    """A PROXY header in front, at once or in pieces; the backend must hear of the same client."""
    random = visit.random
    announced = (f"10.{random.randrange(256)}.{random.randrange(256)}.{random.randrange(256)}", random.randrange(1, 65536))
    header = random.choice((wire.proxy_v1, wire.proxy_v2))(announced, ("192.0.2.1", 80))
    order = visit.order(wire.TALK, size(random), size(random), announced=announced)
    cut = random.randrange(1, len(header)) if random.random() < 0.2 else 0
    visit.connect()
    if cut:
        visit.end.sendall(header[:cut])
        time.sleep(0.02)
    visit.end.sendall(header[cut:])
    visit.talk(order)
    return _go_on(visit, announced)


def bad_header(visit):
    """No header, or a broken one."""
    random = visit.random
    good = wire.proxy_v1(("10.0.0.1", 1000), ("10.0.0.2", 80))
    visit.connect()
    visit.end.sendall(
        random.choice(
            (
                b"GET / HTTP/1.1\r\n\r\n",
                random.randbytes(300),
                good.replace(b"TCP4", b"TCP5"),
                good.replace(b"10.0.0.1", b"10.0.0.256"),
                wire.proxy_v2(("10.0.0.1", 1), ("10.0.0.2", 2))[:12] + struct.pack(">BBH", 0x31, 0x11, 12) + bytes(12),
            )
        )
    )
    visit.hear_reset()
    visit.arena.refused(visit.listener, "bad_proxy_header")
    return "refused"


def slow_header(visit):
    """A slow-loris: its header is not whole in time."""
    visit.connect()
    header = wire.proxy_v1(("10.0.0.1", 1000), ("10.0.0.2", 80))
    try:
        for at in range(len(header) - 2):
            visit.end.sendall(header[at : at + 1])
            time.sleep(0.3)
    except GONE:
        visit.arena.refused(visit.listener, "bad_proxy_header")
        return "refused"
    raise Unexpected("a header could take longer than 5 s")


def slow_admin(visit):
    """The same at the admin API: 408, or no more than being closed."""
    with socket.create_connection(("127.0.0.1", visit.arena.ports["admin"]), PATIENCE) as end:
        request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 400
        try:
            for at in range(len(request)):
                end.sendall(request[at : at + 1])
                end.settimeout(0.1)
                try:
                    if not end.recv(1000).startswith((b"HTTP/1.1 408", BUSY)):
                        raise Unexpected("no 408")
                    return "refused"
                except TimeoutError:
                    end.settimeout(PATIENCE)
        except GONE:
            return "refused"
    raise Unexpected("a request could take longer than 10 s")


def garbage_admin(visit):
    with socket.create_connection(("127.0.0.1", visit.arena.ports["admin"]), PATIENCE) as end:
        try:
            end.sendall(visit.random.randbytes(500) + b"\r\n\r\n")
            answer = end.recv(1000)
        except GONE:
            return "refused"
    if answer and not answer.startswith((b"HTTP/1.1 4", BUSY)):
        raise Unexpected(f"garbage was answered with {answer[:40]}")
    return "refused"


def _go_on(visit, announced=None):
    """Another exchange over the same connection: it is as good as new."""
    visit.talk(visit.order(wire.TALK, 100, 100, announced=announced))
    visit.end.shutdown(socket.SHUT_WR)
    visit.hear_fin()
    return "served"


KINDS = [
    Kind("well-behaved", "main", well_behaved, "served", 6, 0.04),
    Kind("well-behaved, long-lived", "main", long_lived, "served", 4, 0),
    Kind("well-behaved, at a full listener", "crowd", well_behaved, "served", 4, 0.05),
    Kind("well-behaved, limits only counted", "counted", well_behaved, "served", 1, 0.1),
    Kind("well-behaved, half of the backends broken", "shaky", well_behaved, "served", 3, 0.1),
    Kind("well-behaved, waiting for the backend", "waits", well_behaved, "served", 2, 0.1),
    Kind("well-behaved, backend taken out by force", "doomed", long_lived, "served", 2, 0.1),
    Kind("FIN before the answer", "main", half_closing, "served", 2, 0.05),
    Kind("both ways at once", "main", both_ways_at_once, "served", 1, 0.2),
    Kind("urgent data", "main", urgent, "served", 1, 0.1),
    Kind("trickle", "main", trickling, "served", 2, 0.1),
    Kind("backend speaks first", "greet", greeted, "served", 1, 0.05),
    Kind("answer before asked", "main", answered_early, "served", 1, 0.05),
    Kind("leaves at once", "main", leaving_at_once, "left", 2, 0.1),
    Kind("reset by the client", "main", reset_while_sending, "left", 2, 0.1),
    Kind("reset by the backend", "main", reset_by_backend, "reset", 2, 0.1),
    Kind("backend's FIN early", "main", early_fin, "FIN after all bytes", 1, 0.05),
    Kind("backend stalls", "main", stalled_backend, "held back", 1, 0.5),
    Kind("backend floods", "main", flooded, "left", 1, 0.5),
    Kind("garbage", "main", garbage, "reset", 1, 0.1),
    Kind("silent", "idle", silent, "idle time-out", 2, 0),
    Kind("outlives its lifetime", "life", outliving, "lifetime over", 2, 0),
    Kind("denied", "denied", denied, "refused", 1, 0.1),
    Kind("no backend", "nobody", nobody, "refused", 1, 0.1),
    Kind("too many of a source", "source", crowding, "refused, the others served", 1, 0.2),
    Kind("source too fast", "rate", hurrying, "the burst served, the rest refused", 1, 0.5),
    Kind("PROXY header", "proxied", proxied, "served", 2, 0.05),
    Kind("bad PROXY header", "proxied", bad_header, "refused", 1, 0.1),
    Kind("slow PROXY header", "proxied", slow_header, "refused", 2, 0.1),
    Kind("slow admin request", "admin", slow_admin, "refused", 2, 0.1),
    Kind("garbage to the admin API", "admin", garbage_admin, "refused", 1, 0.3),
]
