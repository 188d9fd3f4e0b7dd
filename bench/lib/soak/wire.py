"""What soak's clients and backends say to each other, and how each knows what must arrive.

A connection carries one order after the other. An order says what the backend shall do and has a key; the key says where in a
ring of random bytes both streams begin. So both ends know every byte beforehand, and a byte lost, doubled, changed or taken from
another connection is a mismatch. The backend answers each order with its own name first.
"""

import random
import socket
import struct
from collections import namedtuple

RING_LENGTH = 1_048_573  # A prime: no chunk of a program's usual sizes fits in it without a shift.
CHUNK = 1 << 16
NAME_LENGTH = 12
GREETING_LENGTH = 5000  # What a backend says that speaks first, after its name.
MAGIC = b"SOAK"
_ORDER = struct.Struct(">4sccHIIII4sH")
_VERDICT = struct.Struct(">I4s")
_V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

ORDER_LENGTH = _ORDER.size
VERDICT_LENGTH = _VERDICT.size

TALK = b"T"  # Read all, say whether it was right, send all.
ANSWER_FIRST = b"A"  # Send all, then read.
DUPLEX = b"D"  # Both at once.
TRICKLE = b"L"  # As TALK, a few bytes at a time.
RESET_AT = b"R"  # Reset after `at` bytes.
FIN_EARLY = b"F"  # FIN after `at` bytes, then go on reading.
STALL = b"S"  # Neither read nor write.
FLOOD = b"O"  # Write until it breaks.

PLAIN = b"-"
URGENT = b"u"  # With a byte of urgent data in the middle, which must arrive in its place.


class Order(namedtuple("Order", "verb manner key up down at host port")):
    """What the backend shall do; `host` and `port` are those that a PROXY header must announce."""

    def pack(self):
        return _ORDER.pack(MAGIC, self.verb, self.manner, 0, self.key, self.up, self.down, self.at, socket.inet_aton(self.host), self.port)

    @staticmethod
    def unpack(data):
        magic, verb, manner, _, key, up, down, at, host, port = _ORDER.unpack(data)
        if magic != MAGIC:
            return None
        return Order(verb, manner, key, up, down, at, socket.inet_ntoa(host), port)


class Short(Exception):
    """A FIN came before everything that was announced."""


class Mismatch(Exception):
    """A byte is not the one that was sent."""


class Ring:
    """The random bytes; the same for the same seed."""

    def __init__(self, seed):
        once = random.Random(seed).randbytes(RING_LENGTH)
        self._bytes = once + once[:CHUNK]

    def chunk(self, start, length):
        """At most a chunk from any position."""
        at = start % RING_LENGTH
        return self._bytes[at : at + length]


def up_start(key):
    """Where the client's stream begins."""
    return key * 7919


def down_start(key):
    """Where the backend's does."""
    return key * 104_729 + 524_287


def send(end, ring, start, length):
    """Sends so much of the ring."""
    for sent in range(0, length, CHUNK):
        end.sendall(ring.chunk(start + sent, min(CHUNK, length - sent)))


def receive(end, ring, start, length):
    """Receives so much and compares each byte."""
    done = 0
    while done < length:
        got = end.recv(min(CHUNK, length - done))
        if not got:
            raise Short(f"a FIN after {done} of {length} bytes")
        compare(ring, start + done, got, done)
        done += len(got)


def send_urgent(end, ring, start, length):
    """The same with an urgent byte in the middle: one that can't be there by itself."""
    middle = length // 2
    send(end, ring, start, middle)
    end.send(_urgent_byte(ring, start + middle), socket.MSG_OOB)
    send(end, ring, start + middle, length - middle)


def receive_urgent(end, ring, start, length):
    """The same at the other end. To it the byte is one like all: that is how tcplb sends it on."""
    middle = length // 2
    receive(end, ring, start, middle)
    byte = end.recv(1)
    if not byte:
        raise Short("a FIN instead of the urgent byte")
    if byte != _urgent_byte(ring, start + middle):
        raise Mismatch("the urgent byte is not in its place")
    receive(end, ring, start + middle, length - middle)


def _urgent_byte(ring, position):
    return bytes((ring.chunk(position, 1)[0] ^ 0xFF,))


def compare(ring, start, got, done):
    """Are these the bytes that belong here?"""
    wanted = ring.chunk(start, len(got))
    if got != wanted:
        wrong = next(n for n, (one, other) in enumerate(zip(got, wanted)) if one != other)
        raise Mismatch(f"byte {done + wrong} is {got[wrong]}, expected {wanted[wrong]}")


def exactly(end, length):
    """So many bytes; fewer only at a FIN."""
    got = b""
    while len(got) < length and (more := end.recv(length - len(got))):
        got += more
    return got


def reset(end):
    """Closes with a reset."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def verdict(good, count):
    """The backend's: was what it read what it should be?"""
    return _VERDICT.pack(count, b"good" if good else b"bad!")


def is_good(data, count):
    """What the client reads of it."""
    return data == verdict(True, count)


def proxy_v1(source, destination):
    """A PROXY header of version 1."""
    return f"PROXY TCP4 {source[0]} {destination[0]} {source[1]} {destination[1]}\r\n".encode()


def proxy_v2(source, destination):
    """A PROXY header of version 2."""
    addresses = b"".join(socket.inet_aton(host) for host, _ in (source, destination))
    ports = struct.pack(">HH", source[1], destination[1])
    return _V2_SIGNATURE + b"\x21\x11" + struct.pack(">H", 12) + addresses + ports


def read_proxy(end):
    """The source that the header in front announces; `None` for one without a source, as probes send it."""
    head = exactly(end, 16)
    if head.startswith(_V2_SIGNATURE):
        rest = exactly(end, struct.unpack(">H", head[14:16])[0])
        if head[12:14] != b"\x21\x11":
            return None
        return socket.inet_ntoa(rest[:4]), struct.unpack(">H", rest[8:10])[0]
    while head and not head.endswith(b"\r\n"):
        more = end.recv(1)
        if not more:
            break
        head += more
    words = head.split()
    if words[:2] == [b"PROXY", b"TCP4"]:
        return words[2].decode(), int(words[4])
    return None
