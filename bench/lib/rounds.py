"""Interleaved rounds: each row is measured with each contender in turn, and the order rotates from round to round."""

import sys

from . import machine


def measure_round(turn, rows, candidates, measure):
    """One round: figures by row and contender, each printed on stderr as it comes. `candidates` gives those of a row, and `measure`
    the figures of one."""
    measured = {}
    for row in rows:
        by_name = measured.setdefault(row.name, {})
        those = candidates(row)
        first = turn % len(those)
        for contender in those[first:] + those[:first]:
            figures = by_name[contender.name] = measure(row, contender)
            shown = ", ".join(_shown(key, value) for key, value in figures.items() if not isinstance(value, list | dict))
            print(f"round {turn + 1}  {row.name:16} {contender.name:14} {shown}", file=sys.stderr, flush=True)
    return measured


def _shown(key, value):
    return f"{key} {value:.5g}" if isinstance(value, float) else f"{key} {value}"


def guarded(measure, ports):
    """The figures of one measurement, or why there are none. What it leaves in TIME_WAIT on the ports is removed; the list may grow
    meanwhile."""
    waiting = machine.time_wait()
    try:
        figures = measure()
    except Exception as error:  # Whatever it is, the other measurements of a long run are not lost for it.
        figures = {"failed": f"{type(error).__name__}: {error}"}
    machine.forget_time_wait(ports)
    return figures | {"time_wait_before": waiting}


def chosen(every, names, flag):
    """Those that were asked for."""
    if names is None:
        return every
    wanted = names.split(",")
    known = [one.name for one in every]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"{flag}: there is no {', '.join(unknown)} here; there are {', '.join(known)}")
    return [one for one in every if one.name in wanted]
