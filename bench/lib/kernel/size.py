"""Thousands of backends, a hundred changes a second, a hundred listeners: what the kernel engine costs then."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

from ..report import percentiles
from .lab import AT, PORT, SERVERS, WEB

BACKENDS, LISTENERS = 10_000, 100
CHANGES_PER_SECOND, SECONDS = 100, 20
CALLERS = 12  # Of the API, which answers 16 at once.
ADMIN = "127.0.0.1:9000"


def names(backends):
    """The last backend serves; the others have no server."""
    others = [f"10.{100 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}:{WEB}" for number in range(backends - 1)]
    return [*others, f"{SERVERS[0]}:{WEB}"]


def text(listeners, backends):
    """A file with so many listeners over one pool, and so many backends in it."""
    ports = "".join(
        f'[[listener]]\nname = "l{number}"\nbind = ["{AT}:{PORT + number}"]\nengine = "kernel"\n' for number in range(listeners)
    )
    rows = "".join(f'[[pool.backend]]\nname = "{name}"\naddress = "{name}"\n' for name in names(backends))
    return f'[global]\nadmin = "{ADMIN}"\nuser = "nobody"\n{ports}[[pool]]\nname = "web"\n[pool.health]\nkind = "off"\n{rows}'


def measure(lab, listeners, backends, rate):
    """Figures of a start, and of changes at that rate."""
    lab.forget()
    config = lab.directory / "many.toml"
    config.write_text(text(listeners, backends))
    config.chmod(0o644)
    begun, before = time.monotonic(), lab.of_balancer.cpu_us()
    process = lab.start("balancer", [lab.tcplb, "--config", config], "many")
    try:
        wait_until(lambda: metric(lab, "tcplb_kernel_changes_total") > 0, process)
        figures = {"start_s": time.monotonic() - begun, "start_cpu_s": (lab.of_balancer.cpu_us() - before) / 1e6}
        return figures | changes(lab, backends, rate)
    finally:
        process.stop()
        lab.run("balancer", [lab.tcplb, "kernel", "flush"], 120)


def changes(lab, backends, rate):
    """Backends are drained, and enabled again, `rate` of them a second. A call of the API is answered once nft has the change."""
    keys = ["tcplb_kernel_changes_total", "tcplb_kernel_change_seconds_sum", "tcplb_kernel_change_seconds_count"]
    before, cpu, begun = [metric(lab, key) for key in keys], lab.of_balancer.cpu_us(), time.monotonic()
    some = names(backends)[: max(1, min((backends - 1) // 4, 500))]

    def change(number):
        at = begun + number / rate
        time.sleep(max(0.0, at - time.monotonic()))
        state = ["draining", "enabled"][number // len(some) % 2]
        lab.api("PATCH", f"/v1/pools/web/backends/{some[number % len(some)]}", {"state": state})
        return time.monotonic() - at

    with ThreadPoolExecutor(CALLERS) as callers:
        times = list(callers.map(change, range(rate * SECONDS)))
    took = time.monotonic() - begun
    spent = (lab.of_balancer.cpu_us() - cpu) / 1e6
    changes, seconds, runs = (after - first for after, first in zip([metric(lab, key) for key in keys], before))
    p50, p99, _, longest = percentiles(times)
    return {
        "asked": rate,
        "made": len(times) / took,
        "p50_ms": p50 * 1e3,
        "p99_ms": p99 * 1e3,
        "longest_ms": longest * 1e3,
        "changes": changes,
        "runs": runs / took,
        "run_ms": seconds / runs * 1e3 if runs else None,
        "cpu_share": spent / took,
        "cpu_ms": spent / len(times) * 1e3,
    }


def metric(lab, name):
    """The sum of a metric's series; 0 as long as there is no answer."""
    try:
        page = lab.api("GET", "/metrics")
    except OSError:
        return 0.0
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page, re.M))


def wait_until(holds, process):
    deadline = time.monotonic() + 300
    while not holds():
        if time.monotonic() > deadline or process.popen.poll() is not None:
            raise TimeoutError(process.last_words())
        time.sleep(0.05)
