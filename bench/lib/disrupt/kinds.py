"""The kinds of connections, as a table: what each end sends, and how it reads. Both ends know it from the first bytes."""

import struct
from dataclasses import dataclass

# What a client sends first: a mark, the kind, and the connection's number.
HEADER = struct.Struct(">4sHI")
MARK = b"DSRP"
# What a backend sends first, of its stream. A client that has it is through.
GREETING = 16
# How often a stalled end reads one piece. It reads nothing in between.
STALL_S = 3.0
STREAM_S = 0.010


@dataclass(frozen=True)
class Part:
    """What one end of a connection does."""

    every: float = 0.0  # Seconds from one send to the next, or from one request to the next.
    size: int = 0  # Bytes of a send, a request or an answer.
    answers: int = 0  # So many bytes that arrive are a request, and get an answer.
    fills: bool = False  # Fills the buffers on the way at the start, and then sends what a stalled end reads.
    stalls: bool = False  # Reads as little as `STALL_S` says.
    finishes: bool = False  # Sends its FIN at the start, and goes on reading.


@dataclass(frozen=True)
class Kind:
    """A kind of connection."""

    name: str
    client: Part
    backend: Part


STREAM = Kind("streams", Part(), Part(every=STREAM_S, size=100))
DOWNLOAD = Kind("downloads", Part(), Part(every=0.01, size=20_000))
UPLOAD = Kind("uploads", Part(every=0.01, size=20_000), Part())
ASKS = Kind("requests", Part(every=0.5, size=128), Part(size=1024, answers=128))
CLIENT_FINISHED = Kind("half-closed by the client", Part(finishes=True), Part(every=0.25, size=1000))
BACKEND_FINISHED = Kind("half-closed by the backend", Part(every=0.25, size=1000), Part(finishes=True))
CLIENT_STALLS = Kind("stalled clients", Part(stalls=True), Part(fills=True, every=STALL_S, size=1 << 16))
BACKEND_STALLS = Kind("stalled backends", Part(fills=True, every=STALL_S, size=1 << 16), Part(stalls=True))
IDLE = Kind("idle", Part(every=15.0, size=64), Part(size=64, answers=64))
# One request and its answer. The next two tables have no number of it: such clients come and go.
SHORT = Kind("short", Part(size=64), Part(size=64, answers=64))
KINDS = (STREAM, DOWNLOAD, UPLOAD, ASKS, CLIENT_FINISHED, BACKEND_FINISHED, CLIENT_STALLS, BACKEND_STALLS, IDLE, SHORT)

STREAMS = 60


def mix(total, bulk):
    """How many of each kind make so many connections; `bulk` is the number of downloads, and that of uploads. Streams come first."""
    counts = {STREAM: STREAMS, DOWNLOAD: bulk, UPLOAD: bulk, ASKS: total * 12 // 100}
    for kind in (CLIENT_FINISHED, BACKEND_FINISHED, CLIENT_STALLS, BACKEND_STALLS):
        counts[kind] = total // 100
    counts[IDLE] = total - sum(counts.values())
    return counts


def described(counts):
    """The mix and its rates in words, for the page."""
    bulk = sum(counts[kind] * part.size / part.every for kind, part in ((DOWNLOAD, DOWNLOAD.backend), (UPLOAD, UPLOAD.client)))
    numbers = ", ".join(f"{count} {kind.name}" for kind, count in counts.items())
    return f"{numbers}. Bulk is limited to {bulk / 1e6:.0f} MB/s in all, and there are {counts[ASKS] / ASKS.client.every:.0f} requests/s."
