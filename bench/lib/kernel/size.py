"""Thousands of backends, a hundred changes a second, a hundred listeners: what the kernel engine costs then."""

import re
import time

from .lab import AT, PORT, SERVERS, WEB

BACKENDS, LISTENERS = 10_000, 100
CHANGES_PER_SECOND, SECONDS = 100, 20
ADMIN = "127.0.0.1:9000"


def text(listeners, backends):
    """A file with so many listeners over one pool, and so many backends in it. The last backend serves; the others have no server."""
    ports = "".join(
        f'[[listener]]\nname = "l{number}"\nbind = ["{AT}:{PORT + number}"]\nengine = "kernel"\n' for number in range(listeners)
    )
    names = [f"10.{100 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}:{WEB}" for number in range(backends - 1)]
    rows = "".join(f'[[pool.backend]]\nname = "{name}"\naddress = "{name}"\n' for name in [*names, f"{SERVERS[0]}:{WEB}"])
    return f'[global]\nadmin = "{ADMIN}"\nuser = "nobody"\n{ports}[[pool]]\nname = "web"\n[pool.health]\nkind = "off"\n{rows}'


def measure(lab, listeners, backends, rate):
    """Figures of a start, and of changes at that rate if there is one."""
    lab.forget()
    config = lab.directory / "many.toml"
    config.write_text(text(listeners, backends))
    config.chmod(0o644)
    begun, before = time.monotonic(), lab.of_balancer.cpu_us()
    process = lab.start("balancer", [lab.tcplb, "--config", config], "many")
    try:
        wait_until(lambda: metric(lab, "tcplb_kernel_changes_total") > 0, process)
        figures = {"start_s": time.monotonic() - begun, "start_cpu_s": (lab.of_balancer.cpu_us() - before) / 1e6}
        if rate:
            figures |= changes(lab, rate)
        return figures
    finally:
        process.stop()
        lab.run("balancer", [lab.tcplb, "kernel", "flush"], 120)


def changes(lab, rate):
    """Backends are drained and enabled, `rate` of them a second."""
    keys = ["tcplb_kernel_changes_total", "tcplb_kernel_change_seconds_sum", "tcplb_kernel_change_seconds_count"]
    before, cpu, begun = [metric(lab, key) for key in keys], lab.of_balancer.cpu_us(), time.monotonic()
    late = 0.0
    for number in range(rate * SECONDS):
        at = begun + number / rate
        late = max(late, time.monotonic() - at)
        time.sleep(max(0.0, at - time.monotonic()))
        backend = f"10.100.{number // 2 // 250 % 250}.{number // 2 % 250 + 1}:{WEB}"
        lab.api("PATCH", f"/v1/pools/web/backends/{backend}", {"state": ["draining", "enabled"][number % 2]})
    took = time.monotonic() - begun
    spent = (lab.of_balancer.cpu_us() - cpu) / 1e6
    changes, seconds, runs = (after - first for after, first in zip([metric(lab, key) for key in keys], before))
    return {
        "asked": rate * SECONDS,
        "took_s": took,
        "late_s": late,
        "changes": changes,
        "runs": runs,
        "run_ms": seconds / runs * 1e3 if runs else None,
        "cpu_share": spent / took,
        "cpu_ms_per_change": spent / (rate * SECONDS) * 1e3,
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
