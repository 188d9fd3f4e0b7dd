"""From raw rounds to a table: medians, spread, and tcplb against the best peer.

The rounds are interleaved and the machine is never quite quiet. So tcplb is compared with a peer round by round, and the ratio
of a figure is the median of those. The best peer is the one with the best median.
"""

from dataclasses import dataclass
from statistics import median

OURS = "tcplb"
BEFORE = "before"
NONE = "none"
# A relay that does nothing else, and the same with splice.
FLOOR, FLOOR_SPLICE = "floor", "floor-splice"
NOT_PEERS = (OURS, BEFORE, NONE, FLOOR, FLOOR_SPLICE)


@dataclass(frozen=True)
class Ratio:
    """tcplb's figure over the best peer's."""

    peer: str
    median: float
    low: float
    high: float


class Results:
    """What was measured: `rounds[n][row name][proxy name]` holds figures by key, or `failed` with the reason."""

    def __init__(self, rows, proxies, rounds):
        self.rows = rows
        self.proxies = proxies
        self._rounds = rounds

    def peers(self):
        """Those that tcplb is compared with."""
        return [name for name in self.proxies if name not in NOT_PEERS]

    def values(self, row, figure, proxy):
        """A figure round by round; `None` where there is none."""
        return [one.get(row.name, {}).get(proxy, {}).get(figure.key) for one in self._rounds]

    def known(self, row, figure, proxy):
        """The same without the gaps."""
        return [value for value in self.values(row, figure, proxy) if value is not None]

    def median(self, row, figure, proxy):
        """The median over the rounds, if anything was measured."""
        known = self.known(row, figure, proxy)
        return median(known) if known else None

    def best_peer(self, row, figure):
        """The peer with the best median, if any has one."""
        known = {peer: value for peer in self.peers() if (value := self.median(row, figure, peer)) is not None}
        if not known:
            return None
        return (max if figure.higher_is_better else min)(known, key=known.get)

    def ratio(self, row, figure):
        """tcplb against the best peer, if both were measured in the same rounds."""
        peer = self.best_peer(row, figure)
        return peer and self.against(row, figure, peer)

    def against(self, row, figure, peer):
        """tcplb against another proxy, if both were measured in the same rounds."""
        pairs = zip(self.values(row, figure, OURS), self.values(row, figure, peer))
        ratios = [ours / theirs for ours, theirs in pairs if ours is not None and theirs]
        return Ratio(peer, median(ratios), min(ratios), max(ratios)) if ratios else None

    def reached(self, row, figure):
        """Is the goal reached? `None`: it has none, or a figure is missing."""
        ours, ratio = self.median(row, figure, OURS), self.ratio(row, figure)
        if (figure.goal is None and figure.limit is None) or ours is None or ratio is None:
            return None
        within_limit = figure.limit is None or ours <= figure.limit
        return within_limit and (figure.goal is None or ratio.median <= figure.goal)

    def troubles(self):
        """Everything that went wrong, a line each."""
        for number, one in enumerate(self._rounds, 1):
            for row in self.rows:
                for proxy, figures in one.get(row.name, {}).items():
                    if "failed" in figures:
                        yield f"round {number}, {row.name}, {proxy}: failed: {figures['failed']}"
                    elif figures.get("errors"):
                        yield f"round {number}, {row.name}, {proxy}: {figures['errors']} requests went wrong"

    def summary(self):
        """The figures of the table, for programs."""
        lines = []
        for row in self.rows:
            for figure in row.figures:
                ratio = self.ratio(row, figure)
                lines.append(
                    {
                        "row": row.name,
                        "figure": figure.key,
                        "unit": figure.unit,
                        "medians": {proxy: self.median(row, figure, proxy) for proxy in self.proxies},
                        "ratio": ratio and vars(ratio),
                        "goal": figure.goal,
                        "limit": figure.limit,
                        "reached": self.reached(row, figure),
                    }
                )
        return lines


def markdown(results, machine, seconds, rounds, skipped):
    """The report as a page."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "# tcplb and its peers",
        "",
        f"{machine['date']}, commit {machine['commit']}. {machine['cpu']}, {machine['cores']} cores shared by clients, "
        f"proxy and backend over loopback, Linux {machine['kernel']}, load average before the start {machine['load_average_at_start']:.1f}. {versions}.",
        "",
        f"Medians (lowest–highest) of {rounds} interleaved rounds of {seconds} s. CPU is the proxy's own, user and system. "
        "“Against the best” is tcplb over the best peer, round by round: below 1 is less, which is better except for "
        "rates (↑). A goal is the most that this ratio may be. “None” is the client on the backend, without a proxy.",
        "",
    ]
    if results.peers():
        lines += _goals(results)
    if BEFORE in results.proxies:
        lines += _changes(results)
    lines += _everything(results)
    for title, notes in (("Not measured", skipped), ("What went wrong", list(results.troubles()))):
        if notes:
            lines += [f"## {title}", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(lines)


def _goals(results):
    lines = ["## Goals", "", "| work | tcplb | best peer | against the best | goal | reached |", "|---|--:|--:|--:|--:|---|"]
    for row in results.rows:
        for figure in row.figures:
            if figure.goal is None:
                continue
            ratio = results.ratio(row, figure)
            peer = f"{_cell(results, row, figure, ratio.peer)} {ratio.peer}" if ratio else "–"
            lines.append(
                f"| {row.title}: {figure.title}, {figure.unit} | {_cell(results, row, figure, OURS)} | {peer} "
                f"| {_ratio(ratio)} | {_goal(figure)} | {_verdict(results.reached(row, figure))} |"
            )
    return lines + [""]


def _changes(results):
    lines = ["## Against the binary before", "", "| work | tcplb | before | against before |", "|---|--:|--:|--:|"]
    for row in results.rows:
        for figure in row.figures:
            cells = " | ".join(_cell(results, row, figure, name) for name in (OURS, BEFORE))
            arrow = " ↑" if figure.higher_is_better else ""
            ratio = _ratio(results.against(row, figure, BEFORE))
            lines.append(f"| {row.title}: {figure.title}, {figure.unit}{arrow} | {cells} | {ratio} |")
    return lines + [""]


def _everything(results):
    names = results.proxies
    lines = ["## Everything", "", f"| work | {' | '.join(names)} | against the best |", "|---|" + "--:|" * (len(names) + 1)]
    for row in results.rows:
        lines.append(f"| **{row.title}** |" + " |" * (len(names) + 1))
        for figure in row.figures:
            cells = " | ".join(_cell(results, row, figure, name) for name in names)
            arrow = " ↑" if figure.higher_is_better else ""
            lines.append(f"| {figure.title}, {figure.unit}{arrow} | {cells} | {_ratio(results.ratio(row, figure))} |")
    return lines + [""]


def _cell(results, row, figure, proxy):
    known = results.known(row, figure, proxy)
    if not known:
        return "–"
    text = number(median(known), figure.digits)
    if len(known) > 1:
        text += f" ({number(min(known), figure.digits)}–{number(max(known), figure.digits)})"
    return text


def publish(page, mark, lines):
    """Writes the lines into a file, between a mark and the next end."""
    before, rest = page.read_text().split(f"<!-- {mark} -->\n")
    _, after = rest.split("<!-- end -->", 1)
    page.write_text(f"{before}<!-- {mark} -->\n{chr(10).join(lines)}\n<!-- end -->{after}")


def percentiles(times):
    """p50, p99, p99.9 and the longest; zeros without any."""
    ordered = sorted(times) or [0]
    return [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99, 0.999, 1.0)]


def number(value, digits):
    """With spaces between thousands, so that long figures can be compared by eye."""
    return f"{value:,.{digits}f}".replace(",", "\u202f")


def _ratio(ratio):
    if ratio is None:
        return "–"
    spread = f" ({ratio.low:.2f}–{ratio.high:.2f})" if ratio.low != ratio.high else ""
    return f"{ratio.median:.2f}{spread}"


def _goal(figure):
    limit = f", ≤ {figure.limit:.0f} {figure.unit}" if figure.limit is not None else ""
    return f"≤ {figure.goal:.2f}{limit}"


def _verdict(reached):
    return {True: "yes", False: "**no**", None: "?"}[reached]
