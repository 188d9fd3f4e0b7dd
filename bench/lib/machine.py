"""Where a result comes from: a number without its machine means nothing."""

import os
import platform
import re
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path

from .proxies import ROOT


def describe(proxies):
    """Date, hardware, kernel, and the versions of everything that took part."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_average_at_start": os.getloadavg()[0],
        "commit": _output(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]),
        "versions": {proxy.name: proxy.version() for proxy in proxies} | _tools(),
    }


def time_wait():
    """Connections in TIME_WAIT: too many of them and connecting becomes slower for the next client."""
    return int(re.search(r"^TCP:.* tw (\d+)", Path("/proc/net/sockstat").read_text(), re.M)[1])


def connects():
    """Connections that any process here has begun since the start. A TCP probe is over before its listener could accept it,
    so this is where such probes can be counted."""
    heads, values = re.findall(r"^Tcp: (.*)$", Path("/proc/net/snmp").read_text(), re.M)
    return int(dict(zip(heads.split(), values.split()))["ActiveOpens"])


def forget_time_wait(ports):
    """Removes what waits in TIME_WAIT on these ports (ours), so that the next measurement does not search among tens of
    thousands of used source ports. Where that is not allowed nothing happens: rotation makes it fair, `time_wait_before`
    shows it."""
    filters = " or ".join(f"sport = :{port} or dport = :{port}" for port in ports)
    command = ["ss", "-K", "-Htn", "state", "time-wait", f"( {filters} )"]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)


def _cpu_model():
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else platform.machine()


def _tools():
    commands = {"wrk": ["wrk", "-v"], "iperf3": ["iperf3", "--version"], "nginx (web backend)": ["nginx", "-v"]}
    return {
        name: found[0] if (found := re.search(r"\d+\.\d+[\w.]*", _output(command))) else "?"
        for name, command in commands.items()
        if shutil.which(command[0])
    }


def _output(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return (done.stdout + done.stderr).strip()
