"""`bench/compare --tail --trace`: what of the tail is the proxy's, by perf's tracepoints of the scheduler and of epoll_wait.

A worker keeps its other connections waiting from the return of `epoll_wait` until it calls that again. That is its *loop*, and it counts
only the time on a core. Before it, a worker that was woken waits for a core: *wait*. What remains of a request's time is that of the
client, of the server, and of the machine.

Tracing costs about a microsecond per event, so these figures compare proxies with one another only.
"""

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from .. import processes, report, rounds
from . import contenders
from .bench import OUR_PRIORITY, Bench
from .run import prepared

EVENTS = "syscalls:sys_enter_epoll_wait,syscalls:sys_exit_epoll_wait,sched:sched_switch,sched:sched_waking"
# perf needs as long to begin.
BEGIN_S = 1
END_S = 60
LINE = re.compile(r"^\s*\S.*?\s+(?P<tid>\d+)\s+(?P<time>\d+\.\d+):\s+(?P<event>\S+):\s*(?P<words>.*)$")
WAKING = re.compile(r"pid=(\d+)")
# The words differ between the versions of perf.
SWITCHES = (
    re.compile(r"prev_comm=.* prev_pid=(?P<left>\d+) prev_prio=\d+ prev_state=(?P<state>\S+) ==> next_comm=.* next_pid=(?P<next>\d+)"),
    re.compile(r".*:(?P<left>\d+) \[\d+\] (?P<state>\S+) ==> .*:(?P<next>\d+) \[\d+\]"),
)
# Of report.percentiles.
TITLES = ("p50", "p99", "p99.9", "max")


class Traced(Bench):
    """A bench that remembers the threads of the last proxy."""

    threads = frozenset()

    def run(self, contender, plan):
        running = super().run(contender, plan)
        pids = running.process.pids() if running.process else []
        self.threads = frozenset(int(thread.name) for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir())
        return running


class Times:
    """Of the threads of a proxy, in µs: their loops on a core, and their waits for one."""

    def __init__(self, threads):
        self._threads = threads
        self._begun, self._off, self._off_since, self._woken = {}, defaultdict(float), {}, {}
        self.loops, self.waits = [], []

    def take(self, line):
        """A line of `perf script`."""
        if not (found := LINE.match(line)):
            return
        thread, at, event = int(found["tid"]), float(found["time"]) * 1e6, found["event"]
        if event.endswith("sched_waking"):
            self._waking(int(WAKING.search(found["words"])[1]), at)
        elif event.endswith("sched_switch"):
            self._switch(found["words"], at)
        elif thread in self._threads:
            self._epoll_wait(thread, at, is_over="exit" in event)

    def _epoll_wait(self, thread, at, is_over):
        if is_over:
            self._begun[thread], self._off[thread] = at, 0.0
        elif (begun := self._begun.pop(thread, None)) is not None:
            self.loops.append(at - begun - self._off[thread])

    def _waking(self, thread, at):
        if thread in self._threads:
            self._woken[thread] = at

    def _switch(self, words, at):
        found = next(filter(None, (pattern.search(words) for pattern in SWITCHES)), None)
        if not found:
            raise processes.Failed(f"perf describes a switch in other words: {words}")
        left, following = int(found["left"]), int(found["next"])
        if left in self._threads and found["state"].startswith("R"):
            self._off_since[left] = at
        if (since := self._off_since.pop(following, None)) is not None:
            self._off[following] += at - since
        if (woken := self._woken.pop(following, None)) is not None:
            self.waits.append(at - woken)


def run(asked):
    """One traced measurement of each row with each proxy; a table."""
    wanted, _, tools, found = prepared(asked)
    # The floor and no proxy have no threads that call epoll_wait.
    those = rounds.chosen([one for one in found if one.control], asked.proxies, "--proxies")
    with tempfile.TemporaryDirectory(prefix="tcplb-bench-") as directory, Traced(tools, directory, not asked.shared_priority, {}) as bench:
        bench.measure_capacities({row.capacity for row in wanted if row.capacity}, found)
        lines = [line for row in wanted for line in _table(bench, row, those, asked.seconds, directory)]
    page = "\n".join(["# What of the tail is the proxy's", "", "Times are in µs.", "", *lines])
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "tail-trace-latest.md").write_text(page)
    print(page)


def _table(bench, row, those, seconds, directory):
    heads = [f"{what} {title}" for what in ("loop", "wait for a core") for title in TITLES]
    lines = [f"## {row.group}, {row.title}", "", f"| | {' | '.join(heads)} | request p99 | p99.9 |", "|---|" + "--:|" * (len(heads) + 2)]
    for contender in those:
        if contender.name not in row.contenders:
            continue
        figures, times = _measure(bench, row, contender, seconds, directory)
        cells = [*report.percentiles(times.loops), *report.percentiles(times.waits), figures["p99"], figures["p999"]]
        lines.append(f"| {contender.name} | {' | '.join(report.number(cell, 0) for cell in cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return [*lines, ""]


def _measure(bench, row, contender, seconds, directory):
    data = Path(directory) / "perf.data"
    command = ["perf", "record", "--quiet", "--all-cpus", "--mmap-pages", "8M", "--event", EVENTS, "--output", str(data)]
    within = contenders.realtime(OUR_PRIORITY) if bench.is_realtime else []
    perf = processes.Process([*within, *command], Path(directory) / "perf.log")
    try:
        time.sleep(BEGIN_S)
        figures = bench.measure(row, contender, seconds)
        perf.popen.send_signal(signal.SIGINT)
        perf.wait(END_S)
        if not data.exists():
            raise processes.Failed(f"perf recorded nothing: {perf.last_words()}")
    finally:
        perf.stop()
    times = Times(bench.threads)
    script = ["perf", "script", "--input", str(data), "--fields", "comm,tid,time,event,trace"]
    with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace") as lines:
        for line in lines.stdout:
            times.take(line)
    if not times.loops:
        raise processes.Failed(f"perf saw no epoll_wait of {contender.name}")
    return figures, times
