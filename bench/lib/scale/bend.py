"""Verdicts, computed: does a cost grow in proportion to a size, does it stay the same, does it grow with time?"""

from dataclasses import dataclass
from statistics import median

from ..report import number

# A step that costs this much more per unit than all before it is a bend.
STEEPER = 1.5
# The growth from the middle third of a series to its last third that is noise.
GROWTH = 1.04


@dataclass(frozen=True)
class Verdict:
    """What a figure does, in words; `good` is `None` where a bend is only reported."""

    words: str
    good: bool | None = None


def proportional(points, noise):
    """A total against a size: the first size behind which a unit costs clearly more than below it. A step that exceeds the
    expected one by less than `noise` is none."""
    points = sorted(points)
    (first, start), *_ = points
    for (size, value), (after, beyond) in zip(points[1:], points[2:]):
        unit = max(value - start, noise) / (size - first)
        step = (beyond - value) / (after - size)
        if step > STEEPER * unit and beyond - value - unit * (after - size) > noise:
            return Verdict(f"**bends at {number(size, 0)}**: a unit costs {step / unit:.1f} times as much beyond")
    return Verdict("linear")


def constant(points, noise):
    """A cost of one unit of work against a size: the first size at which it is clearly higher than at the cheapest one below."""
    points = sorted(points)
    lowest = points[0][1]
    for size, value in points:
        if value > STEEPER * lowest + noise:
            return Verdict(f"**bends at {number(size, 0)}**: {value / max(lowest, 1e-9):.1f} times the lowest")
        lowest = min(lowest, value)
    last = points[-1][1] / max(lowest, 1e-9)
    return Verdict("flat" if last <= 1.1 else f"flat within {last:.2f} times")


TOO_SHORT = Verdict("too short for a verdict")


def steady(values, noise, growth=GROWTH):
    """A series over time: its last third beside its middle third. The first third is the time to settle."""
    third = len(values) // 3
    middle, last = median(values[third : 2 * third]), median(values[-third:])
    if last - middle > max(noise, (growth - 1) * middle):
        return Verdict(f"**grows**: {last / max(middle, 1e-9):.2f} times from the middle third to the last", False)
    return Verdict("flat", True)
