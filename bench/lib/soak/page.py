"""The report of a soak as a page: per way to move bytes, and everything that is wrong."""

from ..report import number
from .clients import KINDS

MIB = 1 << 20


def markdown(about, seed, seconds, results):
    """The page."""
    whole = [result for result in results if "kinds" in result]
    names = [result["relay"] for result in whole]
    wrong = [f"{result['relay']}: {failure}" for result in results for failure in result["failures"]]
    counted = sum(sum(result.get("failure_count", {}).values()) for result in results)
    lines = [
        "# Soak",
        "",
        f"{about['date']}, commit {about['commit']}. {about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, "
        f"load average at the start {about['load_average_at_start']:.1f}. Seed {seed}, {seconds:.0f} s of load. A tcplb for each "
        "way to move bytes, side by side, on one machine with their clients and backends.",
        "",
        f"**{'Nothing is wrong' if not wrong else f'Wrong: {number(max(counted, len(wrong)), 0)}'}.**",
        "",
        f"| | {' | '.join(names)} |",
        "|---|" + "--:|" * len(names),
    ]

    def row(title, figure):
        lines.append(f"| {title} | {' | '.join(figure(result) for result in whole)} |")

    row("connections", lambda r: number(r["connections"], 0))
    row("… per second", lambda r: number(r["connections"] / r["seconds"], 0))
    row("MiB compared", lambda r: number(r["compared"] / MIB, 0))
    row("mismatches", lambda r: number(r["mismatches"], 0))
    row("leaks", lambda r: str(r["failure_count"].get("leak", 0)))
    row("connections of killed or removed backends cut", lambda r: number(sum(r["cut"].values()), 0))
    row("anything else than promised", lambda r: number(sum(r["failure_count"].values()), 0))
    row("descriptors, before → after", lambda r: _both(r["measured"]["descriptors"]))
    row("threads, before → after", lambda r: _both(r["measured"]["threads"]))
    row("memory, MiB: first third, last third, at rest", _memory)
    row("share of a core at rest", lambda r: f"{r['measured']['idle_share']:.1%}")
    lines += ["", "## What was done to it", "", f"| | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    for action in sorted({action for result in whole for action in result["done"]}):
        row(action, lambda r, action=action: number(r["done"].get(action, 0), 0))
    lines += ["", "## Clients", "", f"| kind | how it ends | {' | '.join(names)} |", "|---|---|" + "--:|" * len(names)]
    for kind in KINDS:
        row(f"{kind.name} | {kind.expected}", lambda r, kind=kind: _ends(r["kinds"][kind.name], kind.expected))
    lines += ["", "In brackets: cut because their backend was killed or taken out."]
    if wrong:
        lines += ["", "## What is wrong", "", *(f"- {one}" for one in wrong)]
    return "\n".join(lines)


def _ends(ends, expected):
    text = number(ends.get(expected, 0), 0)
    if cut := sum(count for how, count in ends.items() if how.startswith("cut")):
        text += f" ({number(cut, 0)})"
    if unexpected := ends.get("unexpected"):
        text += f", **{number(unexpected, 0)} otherwise**"
    return text


def _both(pair):
    return f"{pair[0]} → {pair[1]}"


def _memory(result):
    return ", ".join(f"{result['measured'][key] / MIB:.1f}" for key in ("rss_first", "rss_last", "rss_end"))
