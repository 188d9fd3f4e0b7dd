"""A backend, clients that hold connections, and clients that come and go: three processes, and what the two ends agree on."""

import collections
import gc
import multiprocessing
import os
import select
import socket
import time
from dataclasses import dataclass, field

from .. import processes
from ..soak import wire
from . import ends, kinds
from .ends import BAD, IN, OUT
from .kinds import GREETING, HEADER, KINDS, MARK, SHORT, STREAM_S

# Numbers of connections that come and go begin here.
FIRST_SHORT = 1 << 20
PATIENCE_S = 10.0
# The priority of the clients and the backend, as far as it is allowed: what they measure is not their own wait.
NICE = -10
SHORT_BYTES = GREETING + SHORT.backend.size
# A process that does not report within this time has failed.
REPORT_S = 60.0


@dataclass
class Outcome:
    """What became of all connections."""

    held: int = 0
    cut: collections.Counter = field(default_factory=collections.Counter)  # Connections that did not end in order, by how they ended.
    lost: int = 0  # Bytes that were sent and did not arrive.
    moved: int = 0  # Bytes that arrived, and were the right ones.
    wrong: list = field(default_factory=list)  # What was wrong with bytes that arrived.
    silences: list = field(default_factory=list)  # Of streams: when it ended, the number, seconds.
    answers: list = field(default_factory=list)  # The same of requests, all of them.
    arrivals: list = field(default_factory=list)  # Of short connections: when it began, how it ended, seconds.

    def failed(self):
        """Short connections that were not served, by what happened."""
        return collections.Counter(how for _, how, _ in self.arrivals if how != SERVED)

    def longest_arrival(self, begun, ended):
        """Seconds of the longest short connection that began in this time."""
        return max((took for at, _, took in self.arrivals if begun <= at <= ended), default=0.0)

    def longest_answer(self, begun, ended):
        """Seconds of the longest request that ended in this time."""
        return max((took for at, _, took in self.answers if begun <= at <= ended), default=0.0)

    def pauses(self, begun, ended):
        """The longest time without a byte of each stream, beyond the normal one, in seconds."""
        longest = dict.fromkeys(range(kinds.STREAMS), STREAM_S)
        for at, number, silence in self.silences:
            if begun <= at <= ended:
                longest[number] = max(longest[number], silence)
        return sorted(silence - STREAM_S for silence in longest.values())


SERVED = "served"


class Traffic:
    """The three processes. Without a call they do nothing."""

    def __init__(self):
        self._state = multiprocessing.RawValue("b", ends.RUNNING)
        self._times = multiprocessing.RawArray("d", kinds.STREAMS * ends.SLOTS)
        self._through, self._cut = (multiprocessing.RawValue("L", 0) for _ in range(2))
        self._processes, self._held = {}, 0
        listening = socket.create_server(("0.0.0.0", 0), backlog=4096)
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        self._start("backend", self._serve, listening)
        listening.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process, _ in self._processes.values():
            process.kill()
            process.join()

    def hold(self, port, counts):
        """Establishes connections through this port, and returns when all are."""
        self._held = sum(counts.values())
        self._start("clients", self._hold, port, counts)
        deadline = time.monotonic() + processes.START_TIMEOUT
        while self._through.value < self._held:
            if self._cut.value or time.monotonic() > deadline or not self._processes["clients"][0].is_alive():
                raise processes.Failed(f"{self._through.value} of {self._held} connections are established, {self._cut.value} were cut")
            time.sleep(0.02)

    def come(self, port, rate):
        """Has so many clients a second come from now on."""
        self._start("arrivals", self._come, port, rate)

    def cut(self):
        """The held connections that have been cut by now."""
        return self._cut.value

    def finish(self):
        """Ends all connections in order: what became of them."""
        outcome = Outcome(held=self._held)
        self._state.value = ends.NO_NEW
        outcome.arrivals = self._report("arrivals")
        self._state.value = ends.FINISHING
        clients, outcome.silences, outcome.answers = self._report("clients")
        _compare(outcome, clients, self._report("backend"))
        return outcome

    def _start(self, name, work, *arguments):
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.Process(target=_run, args=(work, theirs, *arguments), daemon=True)
        process.start()
        theirs.close()
        self._processes[name] = (process, ours)

    def _report(self, name):
        process, pipe = self._processes[name]
        try:
            if pipe.poll(REPORT_S):
                return pipe.recv()
        except EOFError:
            process.join(1)
        raise processes.Failed(f"the process of the {name} does not report, exit code {process.exitcode}")

    def _serve(self, listening):
        backend = ends.Backend(self._state, self._times, listening)
        while self._state.value != ends.FINISHING:
            backend.turn()
        backend.run_to_the_end()
        return backend.records

    def _hold(self, port, counts):
        clients = ends.Clients(self._state, self._times, port, counts, self._through, self._cut)
        while self._state.value != ends.FINISHING:
            clients.turn()
        clients.run_to_the_end()
        return clients.records, clients.silences, clients.answers

    def _come(self, port, rate):
        return Arrivals(port, rate, self._state).run()


def _run(work, pipe, *arguments):
    # Both would be pauses of the streams: turns of the collector, and a wait for one of the few cores.
    gc.disable()
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except PermissionError:
        pass
    pipe.send(work(*arguments))


def _compare(outcome, clients, backend):
    """What one end has sent beside what the other end got. An end that did not hear of a connection got nothing."""
    for number in range(outcome.held):
        client, server = (records.get(number, (None, 0, 0, "without an end", None)) for records in (clients, backend))
        for (_, sent, *_), (_, _, received, _, wrong) in ((client, server), (server, client)):
            outcome.lost += max(0, sent - received)
            outcome.moved += received
            if wrong:
                outcome.wrong.append(f"connection {number}: {wrong}")
        if hows := {client[3], server[3]} - {"in order"}:
            kind = next((record[0] for record in (client, server) if record[0] is not None), None)
            outcome.cut[f"{'unknown' if kind is None else KINDS[kind].name}: {' and '.join(sorted(hows))}"] += 1
    outcome.wrong += [f"short connection: {record[4]}" for number, record in backend.items() if number >= FIRST_SHORT and record[4]]


class Arrivals:
    """Clients that come at a steady rate, each with one request. They come whether or not earlier ones are served."""

    def __init__(self, port, rate, state):
        self._port, self._rate, self._state = port, rate, state
        self._ring, self._poll, self._open, self._outcomes = ends.Known(14), select.epoll(), {}, []
        self._next = 0

    def run(self):
        begun = time.monotonic()
        while (comes := self._state.value == ends.RUNNING) or self._open:
            wait = begun + self._next / self._rate - time.monotonic() if comes else ends.TURN_S
            if wait <= 0:
                self._come()
                continue
            for descriptor, events in self._poll.poll(min(ends.TURN_S, wait)):
                self._serve(self._open[descriptor], events)
            self._give_up()
        return self._outcomes

    def _come(self):
        number, now = FIRST_SHORT + self._next, time.monotonic()
        self._next += 1
        try:
            end = ends.connect(self._port, number)
        except OSError as error:
            self._outcomes.append((now, _word(error), 0.0))
            return
        self._open[end.fileno()] = Arrival(end, number, now)
        self._poll.register(end, OUT)

    def _serve(self, one, events):
        try:
            if events & (OUT | BAD) and (error := one.end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                raise OSError(error, os.strerror(error))
            if events & OUT:
                request = self._ring.chunk(wire.up_start(one.number), SHORT.client.size)
                one.end.sendall(HEADER.pack(MARK, KINDS.index(SHORT), one.number) + request)
                self._poll.modify(one.end, IN)
                return
            got = one.end.recv(SHORT_BYTES)
        except OSError as error:
            self._close(one, _word(error))
            return
        one.got += got
        if not got:
            self._close(one, "FIN before the answer")
        elif len(one.got) >= SHORT_BYTES:
            self._close(one, SERVED if one.got == self._ring.chunk(wire.down_start(one.number), SHORT_BYTES) else "wrong bytes")

    def _give_up(self):
        late = time.monotonic() - PATIENCE_S
        for one in [one for one in self._open.values() if one.begun < late]:
            self._close(one, "no answer")

    def _close(self, one, how):
        self._outcomes.append((one.begun, how, time.monotonic() - one.begun))
        del self._open[one.end.fileno()]
        one.end.close()


@dataclass
class Arrival:
    """One of them."""

    end: socket.socket
    number: int
    begun: float
    got: bytes = b""


def _word(error):
    words = {"ConnectionRefusedError": "refused", "ConnectionResetError": "reset", "BrokenPipeError": "reset"}
    return words.get(type(error).__name__, error.strerror or str(error))
