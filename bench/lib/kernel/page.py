"""The tables of `bench/kernel`."""

from statistics import median

from ..report import number
from . import changes, contenders, costs

TITLES = {
    "direct": "no balancer, routed",
    "nft rule": "a rule of nftables, by hand",
    "kernel": 'tcplb, `engine = "kernel"`',
    "proxy": 'tcplb, `engine = "proxy"`',
    "HAProxy": "HAProxy",
}


def measured(case):
    """Where a result comes from."""
    about = case["machine"]
    return (
        f"Measured {about['date']}, commit {about['commit']}, {about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, "
        f"load average before the start {about['load_average_at_start']:.1f}."
    )


def of_costs(case):
    """A table for each row: the figures of each contender, and its cost against the rule written by hand."""
    rounds = case["rounds"]
    text = f"{measured(case)} Medians (lowest–highest) of {len(rounds)} interleaved rounds of {case['seconds']} s."
    lines = [f"{text} The ratio is the median of those of each round."]
    for row, (title, figures) in costs.ROWS.items():
        heads = {"cpu": "CPU of the machine", "own": "of it in the balancer's processes", "rate": "rate", "p50": "p50", "p99": "p99"}
        lines += ["", f"| {title} | " + " | ".join(f"{heads[key]}, {unit}" for key, (unit, _) in figures.items()) + " | of the rule's CPU | failed |"]
        lines.append("|---|" + "--:|" * (len(figures) + 2))
        for name in contenders.NAMES:
            own = [one[row][name] for one in rounds if name in one[row]]
            if not own:
                continue
            cells = [spread([one[key] for one in own], digits) for key, (_, digits) in figures.items()]
            ratios = [one[row][name]["cpu"] / one[row]["nft rule"]["cpu"] for one in rounds]
            ratio = "" if name == "nft rule" else spread(ratios, 2)
            lines.append(f"| {TITLES[name]} | {' | '.join(cells)} | {ratio} | {sum(one['errors'] for one in own)} |")
    return lines


def of_changes(case):
    """What failed, and what was cut."""
    lines = [
        f"{measured(case)} {changes.RATE} short connections a second over two backends, probed each second, down after two probes. One backend "
        "goes, and comes back five seconds later. *killed*: its port refuses. *vanished*: nothing answers.",
        "",
        "| | failed | the last one failed after, s | failed after the return | longest that was served, s |",
        "|---|--:|--:|--:|--:|",
    ]
    for kind, by_name in case["deaths"].items():
        for name, one in by_name.items():
            longest = "–" if one["longest"] is None else f"{one['longest']:.2f}"
            lines.append(f"| {kind}: {TITLES[name]} | {one['failed']} of {one['connections']} | {one['for']:.1f} | {one['failed_after_return']} | {longest} |")
    lines += ["", f"Of {changes.HELD} open connections, those that a change cut:", ""]
    names = ["kernel", "proxy"]
    lines += ["| | " + " | ".join(TITLES[name] for name in names) + " |", "|---|--:|--:|"]
    lines += [f"| {change} | " + " | ".join(str(by_name[name]) for name in names) + " |" for change, by_name in case["cuts"].items()]
    return lines


def of_size(case):
    """What sizes cost."""
    lines = [
        f"{measured(case)} CPU is that of tcplb, its helper and each nft. A change is a call of the API that drains a backend or enables it, from up "
        "to 12 callers at once. It is answered once nft has the rules. Its time counts from the moment at which it was due.",
        "",
        "| | start, s | CPU of the start, s | changes asked for, /s | made, /s | p50, ms | p99, ms | longest, ms | runs of nft, /s | one run, ms | CPU, share of a core | CPU of a change, ms |",
        "|---|" + "--:|" * 11,
    ]
    for title, one in case["cases"].items():
        run = "–" if one["run_ms"] is None else f"{one['run_ms']:.0f}"
        cells = [f"{one['start_s']:.2f}", f"{one['start_cpu_s']:.2f}", f"{one['asked']:.0f}", f"{one['made']:.0f}"]
        cells += [f"{one[key]:.0f}" for key in ("p50_ms", "p99_ms", "longest_ms")]
        cells += [f"{one['runs']:.1f}", run, f"{one['cpu_share']:.2f}", f"{one['cpu_ms']:.1f}"]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def spread(values, digits):
    """The median, with the lowest and the highest."""
    middle = number(median(values), digits)
    return middle if len(values) < 2 else f"{middle} ({number(min(values), digits)}–{number(max(values), digits)})"
