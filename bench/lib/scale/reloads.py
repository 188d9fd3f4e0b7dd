"""Reloads in a row with connections held open. No connection may be cut, and nothing may grow with the number of reloads."""

import time
from statistics import median

from .. import processes
from ..report import number
from . import bend, held, setup
from .sweeps import LEAVING_S

MIB = 1 << 20
BACKENDS = 200
LISTENERS = 10
HELD = 500
SAMPLES = 50
LEAST = 60  # Fewer reloads are too few for a verdict.
# The reloads after which some more connections are opened, which an old process then has to serve to its end.
OPENED_EVERY = 10
OPENED = 5
# Reloads of the peers take longer, so they have fewer.
PEER_SHARE = 0.3
# tcplb keeps its last 10 000 events. They are there before the first sample, so that their number does not grow afterwards.
EVENTS = 10_000


def measure(contender, directory, count):
    """Samples over the number of reloads, and rows of the table of checks."""
    if contender.name != "tcplb":
        count = max(int(count * PEER_SHARE), 1)
    with held.Echo() as echo:
        port, another = processes.free_ports(2)
        first = setup.Plan(setup.listeners(LISTENERS, port), setup.addresses(1, BACKENDS, echo.port))
        # Every kind of change, and each is taken back by a later one.
        plans = [
            first.but(weight=2),
            first.but(weight=2, listeners=(f"127.0.0.1:{another}", *first.listeners)),
            first.but(weight=2, backends=(*first.backends, *setup.addresses(3, 20, echo.port))),
            first,
        ]
        with setup.Running(contender, first, directory) as proxy:
            if contender.name == "tcplb":
                fill_events(proxy, EVENTS)
            with held.Held(port) as ends:
                ends.open(HELD)
                return _run(contender, proxy, plans, ends, count)


def fill_events(proxy, events):
    """Reloads that change every weight, until as many events have happened."""
    plan = proxy.plan
    for turn in range(-(-events // len(plan.backends))):
        proxy.reload(plan.but(weight=3 + turn % 2))
    proxy.reload(plan)


def _run(contender, proxy, plans, ends, count):
    every = max(count // SAMPLES, 1)
    samples, took, cpu = [], [], proxy.process.cpu_in_all_s()
    for number in range(1, count + 1):
        took.append(proxy.reload(plans[number % len(plans)]))
        if number % OPENED_EVERY == 0 and number < count:
            ends.open(OPENED)
        if number % every == 0:
            ends.echo()
            if contender.name != "tcplb":
                time.sleep(LEAVING_S)
            now = proxy.process.cpu_in_all_s()
            samples.append(
                {
                    "at": number,
                    "memory": proxy.process.memory() / MIB,
                    "descriptors": proxy.process.descriptors(),
                    "processes": len(proxy.process.pids()),
                    "reload": 1e3 * median(took),
                    "cpu": 1e3 * (now - cpu) / len(took),
                }
            )
            took, cpu = [], now
    return samples, _checks(contender, samples, ends, count)


def _checks(contender, samples, ends, count):
    # The connections that are opened meanwhile take memory and descriptors of their own.
    per_sample = OPENED / OPENED_EVERY * count / len(samples)
    own = lambda key, each: [sample[key] - each * per_sample * turn for turn, sample in enumerate(samples)]
    verdicts = {
        "memory": bend.steady(own("memory", 1024 / MIB), 0.5),
        "descriptors": bend.steady(own("descriptors", 2), 4, growth=1.0),
        "CPU of a reload": bend.steady([sample["cpu"] for sample in samples], 1.0, growth=bend.STEEPER),
    }
    if count < LEAST:
        verdicts = dict.fromkeys(verdicts, bend.TOO_SHORT)
    ours = contender.name == "tcplb"
    held_in_all = len(ends) + ends.cut
    return [
        (f"{contender.name}: held connections that were cut by {number(count, 0)} reloads", f"{ends.cut} of {held_in_all}", not ends.cut if ours else None),
        *(
            (f"{contender.name}: {what} over the reloads", verdict.words, verdict.good if ours else None)
            for what, verdict in verdicts.items()
        ),
    ]
