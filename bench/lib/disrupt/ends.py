"""The two ends of connections, each in an epoll loop of its own process. Both know every byte that must arrive.

A byte follows from the connection's number, the direction and the offset (`soak/wire.Ring`). A byte that is lost, repeated, changed,
or of another connection, is therefore not the one that belongs at its place.
"""

import errno
import heapq
import itertools
import random
import select
import socket
import time

from ..soak import wire
from . import kinds
from .kinds import GREETING, HEADER, KINDS, MARK

CHUNK = wire.CHUNK
TURN_S = 0.05
# How long connections may take to end in order.
FINISH_S = 20.0
# More than the buffers of the proxy's socket to a stalled end hold. The kernel drops what arrives when all connections together hold
# too much, so there is no more.
FILL = 4 << 20
# A socket takes its port at the connect, so that sockets to different servers can share one (linux/in.h).
IP_BIND_ADDRESS_NO_PORT = 24
# Places for the times of a stream's last sends.
SLOTS = 1024

# The states that the main process sets.
RUNNING, NO_NEW, FINISHING = range(3)

IN, OUT, BAD = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR | select.EPOLLHUP


class Known(wire.Ring):
    """The bytes of all connections, and what is wrong with others."""

    def deviation(self, position, got):
        """What is wrong with these bytes, which should be those at the position."""
        wanted = self.chunk(position, len(got))
        wrong = next(place for place, (one, other) in enumerate(zip(got, wanted)) if one != other)
        rest = got[wrong : wrong + 64]
        found = self._bytes.find(rest) if len(rest) >= 8 else -1
        if found < 0:
            return "changed"
        ahead = (found - position - wrong) % wire.RING_LENGTH
        return f"{ahead} lost" if ahead < wire.RING_LENGTH // 2 else f"{wire.RING_LENGTH - ahead} repeated"


class End:
    """One end of a connection."""

    __slots__ = (
        "socket", "kind", "number", "part", "other", "out", "into", "sent", "received", "owed", "answered", "head",
        "mask", "connecting", "reads", "blocked", "closing", "finished", "ended", "gone", "turns", "asked", "last",
    )  # fmt: skip

    def __init__(self, socket_):
        self.socket = socket_
        self.kind = self.number = self.part = self.other = None
        self.out = self.into = self.sent = self.received = self.owed = self.answered = self.turns = 0
        self.head = b""
        self.mask, self.reads = IN, True
        # `closing`: a FIN follows what is owed. `finished`: it is sent. `ended`: that of the other end has come.
        self.connecting = self.blocked = self.closing = self.finished = self.ended = self.gone = False
        self.asked = self.last = None


class Loop:
    """What clients and the backend have in common."""

    def __init__(self, state, times):
        self._ring, self._state, self._times = Known(14), state, times
        self._poll, self._ends, self._timers, self._serial = select.epoll(), {}, [], itertools.count()
        self._finishing = False
        # By number: kind, bytes sent and received, how it ended, what was wrong with its bytes.
        self.records = {}

    def turn(self):
        """Serves what is ready and what is due."""
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            due, _, end, act, every = heapq.heappop(self._timers)
            if not end.gone and act(end, now):
                self._later(max(due + every, now), end, act, every)
        if self._state.value == FINISHING and not self._finishing:
            self._finish()
        wait = min(TURN_S, max(0.0, self._timers[0][0] - time.monotonic())) if self._timers else TURN_S
        for descriptor, events in self._poll.poll(wait):
            if end := self._ends.get(descriptor):
                self._serve(end, events)

    def _serve(self, end, events):
        if events & OUT:
            self._writable(end)
        if events & (IN | BAD) and not end.gone:
            if end.ended and events & BAD:
                self._close(end, "reset")
            else:
                self._read(end)

    def _add(self, end):
        self._ends[end.socket.fileno()] = end
        self._poll.register(end.socket, end.mask)

    def _later(self, due, end, act, every):
        heapq.heappush(self._timers, (due, next(self._serial), end, act, every))

    def _watch(self, end):
        mask = (IN if end.reads and not end.ended else 0) | (OUT if end.blocked else 0)
        if mask != end.mask and not end.gone:
            end.mask = mask
            self._poll.modify(end.socket, mask)

    def _named(self, end, kind, number, part, other, up):
        """Kind and number are known."""
        end.kind, end.number, end.part, end.other = kind, number, part, other
        starts = wire.up_start(number), wire.down_start(number)
        end.out, end.into = starts if up else starts[::-1]

    def _begin(self, end):
        """Does from now on what its kind does."""
        part, now = end.part, time.monotonic()
        if part.every:
            self._later(now + random.random() * part.every, end, self._send_more, part.every)
        if part.stalls:
            end.reads = False
            self._later(now + random.random() * kinds.STALL_S, end, self._read_a_piece, kinds.STALL_S)
        if part.fills:
            end.owed = FILL
        end.closing = part.finishes
        if self._finishing:
            self._finish_one(end)
        self._flush(end)

    def _send_more(self, end, now):
        part = end.part
        if self._finishing:
            return False
        if end.other.answers:
            # One request at a time.
            if end.asked:
                return True
            end.asked = (now, end.received + end.other.size)
        # A send that the network does not take is left out.
        if end.owed <= 4 * part.size:
            end.owed += part.size
            if end.kind is kinds.STREAM:
                self._times[end.number * SLOTS + end.turns % SLOTS] = now
                end.turns += 1
            self._flush(end)
        return not end.gone

    def _read_a_piece(self, end, _now):
        if not end.reads:
            self._read(end)
        return not end.gone and not end.reads

    def _read(self, end):
        try:
            got = end.socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._close(end, "reset")
            return
        if got:
            self._take(end, got)
        else:
            self._has_ended(end)

    def _take(self, end, got):
        position = end.into + end.received
        if got != self._ring.chunk(position, len(got)):
            self._close(end, "wrong", f"{self._ring.deviation(position, got)}, at byte {end.received} or behind")
            return
        end.received += len(got)
        self._arrived(end, time.monotonic())
        if end.part.answers:
            requests = end.received // end.part.answers
            end.owed += (requests - end.answered) * end.part.size
            end.answered = requests
            self._flush(end)

    def _arrived(self, end, now):
        """Bytes have come."""

    def _has_ended(self, end):
        finishing = self._state.value == FINISHING
        if end.kind is None:
            self._close(end, None)
            return
        if not finishing and not end.other.finishes and end.kind is not kinds.SHORT:
            self._close(end, "FIN")
            return
        end.ended = True
        if end.part.answers:
            end.closing = True
            self._flush(end)
        self._settle(end)

    def _writable(self, end):
        end.blocked = False
        self._flush(end)

    def _flush(self, end):
        """Sends what is owed, as far as the network takes it."""
        if end.finished or end.gone:
            return
        end.blocked = False
        try:
            while end.owed:
                count = end.socket.send(self._ring.chunk(end.out + end.sent, min(CHUNK, end.owed)))
                end.sent += count
                end.owed -= count
            if end.closing:
                end.socket.shutdown(socket.SHUT_WR)
                end.finished = True
        except BlockingIOError:
            end.blocked = True
        except OSError:
            self._close(end, "reset")
            return
        self._settle(end)

    def _settle(self, end):
        if end.finished and end.ended:
            self._close(end, "in order")
        else:
            self._watch(end)

    def _close(self, end, how, wrong=None):
        if end.gone:
            return
        end.gone = True
        self._ends.pop(end.socket.fileno(), None)
        end.socket.close()
        if how is not None and end.kind is not None and (end.kind is not kinds.SHORT or how != "in order"):
            self.records[end.number] = (KINDS.index(end.kind), end.sent, end.received, how, wrong)

    def _finish(self):
        """All that is still sent is what others wait for."""
        self._finishing = True
        for end in list(self._ends.values()):
            if end.kind:
                self._finish_one(end)
                self._flush(end)
                self._watch(end)

    def _finish_one(self, end):
        end.reads = True
        if end.part.fills:
            end.owed = 0
        # The answers to the last requests go out before the FIN.
        end.closing = end.closing or end.ended or not end.part.answers

    def run_to_the_end(self):
        """Serves until all connections have ended in order, or until that takes too long."""
        deadline = time.monotonic() + FINISH_S
        while self._ends_left() and time.monotonic() < deadline:
            self.turn()
        for end in list(self._ends.values()):
            self._close(end, "without an end")

    def _ends_left(self):
        return any(end.kind for end in self._ends.values())


class Backend(Loop):
    """Accepts connections, reads of what kind they are, and does its part."""

    def __init__(self, state, times, listening):
        super().__init__(state, times)
        self._listening = listening
        self._poll.register(listening, IN)

    def turn(self):
        super().turn()
        try:
            while True:
                accepted, _ = self._listening.accept()
                accepted.setblocking(False)
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._add(End(accepted))
        except BlockingIOError:
            pass

    def _take(self, end, got):
        if end.kind is None:
            end.head += got
            if len(end.head) < HEADER.size:
                return
            mark, kind, number = HEADER.unpack_from(end.head)
            if mark != MARK:
                self._close(end, None)
                return
            got, end.head = end.head[HEADER.size :], b""
            self._named(end, KINDS[kind], number, KINDS[kind].backend, KINDS[kind].client, up=False)
            end.owed = GREETING
            self._flush(end)
            if not end.gone:
                self._begin(end)
        if got and not end.gone:
            super()._take(end, got)


class Clients(Loop):
    """Holds connections through a proxy, and measures how long nothing arrives."""

    # Connections that are being established at once.
    AT_ONCE = 100

    def __init__(self, state, times, port, counts, through, cut):
        super().__init__(state, times)
        self._port, self._through, self._cut = port, through, cut
        self._wanted = iter([kind for kind, count in counts.items() for _ in range(count)])
        self._next, self._opening = 0, 0
        # When it ended, the number, and how long nothing came, in seconds; those of streams that are longer than normal, and all
        # times of requests.
        self.silences, self.answers = [], []

    def turn(self):
        while self._opening < self.AT_ONCE and (kind := next(self._wanted, None)):
            self._open(kind)
        super().turn()

    def _open(self, kind):
        socket_ = connect(self._port, self._next)
        end = End(socket_)
        self._named(end, kind, self._next, kind.client, kind.backend, up=True)
        end.connecting, end.blocked, end.mask = True, True, OUT
        self._next += 1
        self._opening += 1
        self._add(end)

    def _writable(self, end):
        if not end.connecting:
            super()._writable(end)
        elif end.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._close(end, "reset")
        else:
            end.connecting = end.blocked = False
            end.socket.send(HEADER.pack(MARK, KINDS.index(end.kind), end.number))
            self._watch(end)

    def _arrived(self, end, now):
        if end.last is None:
            if end.received >= GREETING:
                end.last = now
                self._opening -= 1
                self._through.value += 1
                self._begin(end)
        elif end.kind is kinds.STREAM:
            self._stream_arrived(end, now)
        if end.asked and end.received >= end.asked[1]:
            self.answers.append((now, end.number, now - end.asked[0]))
            end.asked = None

    def _stream_arrived(self, end, now):
        """Some sends have come. Only the first can have been waited for, and what its sender waited is left out."""
        arrived = (end.received - GREETING) // end.other.size
        if arrived == end.turns:
            return
        first, end.turns = end.turns, arrived
        silence, end.last = now - end.last, now
        if first:
            sent = [self._times[end.number * SLOTS + turn % SLOTS] for turn in (first - 1, first)]
            silence -= max(0.0, sent[1] - sent[0] - kinds.STREAM_S)
            if silence > 1.2 * kinds.STREAM_S:
                self.silences.append((now, end.number, silence))

    def _close(self, end, how, wrong=None):
        if not end.gone and how not in (None, "in order"):
            self._cut.value += 1
        super()._close(end, how, wrong)


def connect(port, number):
    """A connection that is being established, from one of many addresses."""
    end = socket.socket()
    end.setblocking(False)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    end.bind((f"127.50.0.{1 + number % 200}", 0))
    if (error := end.connect_ex(("127.0.0.1", port))) not in (0, errno.EINPROGRESS):
        raise OSError(error, "connect")
    return end

