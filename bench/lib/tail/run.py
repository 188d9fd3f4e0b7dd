"""`bench/compare --tail`: measures, keeps the results of the day, and writes the page, the curves and the tables of the docs."""

import hashlib
import itertools
import json
import sys
import tempfile
import time

from .. import machine, processes, proxies, report, rounds
from . import contenders, curves, generator, page, rows
from .bench import Bench
from .every import every

DOCS = proxies.ROOT / "docs" / "benchmarks.md"
MARK = "tail"
RESULTS = "tail"
# The contenders of a short run.
QUICK = f"{report.NONE},{report.OURS},{contenders.HAPROXY},{contenders.NGINX}"


def prepared(asked):
    """The rows that are asked for, the binary of tcplb, the tools, and the contenders of this machine."""
    processes.clean_up_at_exit()
    limit = processes.raise_descriptor_limit()
    wanted = rounds.chosen(every(), asked.rows, "--rows")
    if short := [row.name for row in wanted if row.descriptors > limit]:
        raise processes.Failed(f"the limit of {limit} descriptors is too low for {', '.join(short)}")
    binary = asked.tcplb or proxies.build_tcplb()
    tools = asked.tools or generator.build()
    return wanted, binary, tools, contenders.found(binary, asked.before, tools)


def run(asked):
    """The whole of it."""
    wanted, binary, tools, found = prepared(asked)
    file = asked.out / f"{RESULTS}-{time.strftime('%Y-%m-%d')}.json"
    kept = kept_results(file, binary) if asked.merge else {"rows": {}, "capacities": {}, "turns": []}
    those = rounds.chosen(found, asked.proxies or (QUICK if asked.quick else None), "--proxies")
    about = machine.describe([one for one in those if one.asks])
    began = time.monotonic()
    how = {"seconds": asked.seconds, "rows": {}, "tcplb": digest(binary)}
    with (
        tempfile.TemporaryDirectory(prefix="tcplb-bench-") as directory,
        Bench(tools, directory, not asked.shared_priority, kept["capacities"]) as bench,
    ):
        try:
            bench.measure_capacities({row.capacity for row in wanted if row.capacity}, those if asked.quick else found)
            for turn, row in itertools.product(range(asked.rounds), wanted):
                before = kept["rows"].setdefault(row.name, [])
                before.append(measure(bench, len(before), row, [one for one in those if one.name in row.contenders], asked.seconds))
                how["rows"][row.name] = turn + 1
        finally:
            # A run that is ended early keeps the rows that it has.
            if how["rows"]:
                how |= {"realtime": bench.is_realtime, "took": round(time.monotonic() - began)}
                kept["turns"].append(about | how)
                write(asked, file, kept)


def measure(bench, turn, row, those, seconds):
    """The figures of a row in one round, by contender."""
    measured = rounds.measure_round(turn, [row], lambda _row: those, lambda row, contender: bench.measure(row, contender, seconds))
    rows.beyond_direct(measured)
    return measured[row.name]


def kept_results(file, binary):
    """What this binary has of today."""
    if not file.exists():
        return {"rows": {}, "capacities": {}, "turns": []}
    kept = json.loads(file.read_text())
    if any(turn["tcplb"] != digest(binary) for turn in kept["turns"]):
        raise processes.Failed(f"--merge: {file} has results of another tcplb; leave --merge out, or give another --out")
    return kept


def digest(binary):
    """Names a binary."""
    return hashlib.sha256(binary.read_bytes()).hexdigest()[:16]


def results_of(kept):
    """The results of the rows that were measured."""
    measured = [row for row in every() if row.name in kept["rows"]]
    count = max((len(found) for found in kept["rows"].values()), default=0)
    by_round = [{name: found[turn] for name, found in kept["rows"].items() if turn < len(found)} for turn in range(count)]
    present = {name for one in by_round for by_name in one.values() for name in by_name}
    return report.Results(measured, [name for name in rows.OF_BULK if name in present], by_round)


def write(asked, file, kept):
    """JSON, page and curves, of today and as the latest; with `--publish` the tables of the docs."""
    results = results_of(kept)
    pages = {
        # The curves are long: no line for each number.
        "json": json.dumps(kept | {"summary": results.summary()}, separators=(",", ":")) + "\n",
        "md": page.whole(results, kept),
        "svg": curves.svg(results, kept),
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    for stem in (file.stem, f"{RESULTS}-latest"):
        for ending, text in pages.items():
            (asked.out / f"{stem}.{ending}").write_text(text)
    if asked.publish:
        report.publish(DOCS, MARK, page.published(results, kept))
    print(f"written to {asked.out}", file=sys.stderr)
    print(pages["md"])
