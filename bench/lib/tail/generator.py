"""Load at fixed times: requests by `bench/tools`, bulk at a fixed rate by iperf3."""

import json
import math
import subprocess
import time

from .. import load, processes, proxies

WARM_UP_S = 0.3
# The generator waits so long for the last answers.
PATIENCE_S = 30.0
PERCENTILES = ("p50", "p90", "p99", "p999", "max")
GIB = 1 << 30
# From the start of iperf3 until its streams have their rate.
SETTLING_S = 0.4
BUSY_S = 0.3


def build():
    """The program of bench/tools. Cargo runs only if the sources are newer than the program."""
    target = proxies.ROOT / "target"
    program, crate = target / "release" / "tcplb-bench", proxies.ROOT / "bench" / "tools"
    sources = [crate / "Cargo.toml", *(crate / "src").iterdir()]
    if not program.exists() or program.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        command = ["cargo", "build", "--quiet", "--release", "--package", "tcplb-bench", "--target-dir", str(target)]
        subprocess.run(command, cwd=proxies.ROOT, check=True)
    return program


class Requests:
    """Requests at fixed times, from the start of the schedule to the last answer."""

    def __init__(self, binary, within, port, kind, connections, rate, seconds):
        self._seconds = seconds
        command = [*within, str(binary), "load", f"127.0.0.1:{port}", "--kind", kind, "--connections", str(connections)]
        command += ["--rate", f"{rate:.1f}", "--seconds", str(seconds), "--warm-up", str(WARM_UP_S)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self._popen = subprocess.Popen(command, **pipes)
        line = self._popen.stdout.readline()
        if line != "begins\n":
            self._popen.wait()
            raise processes.Failed(f"the load generator does not begin: {line.strip()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._popen.kill()
        self._popen.wait()

    def result(self):
        """What became of them: times in µs."""
        try:
            output, _ = self._popen.communicate(timeout=self._seconds + PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise processes.Failed("the load generator does not end") from error
        if self._popen.returncode != 0:
            raise processes.Failed(f"the load generator failed: {output.strip()[-300:]}")
        return json.loads(output)


class Bulk:
    """iperf3 streams at a total rate, in bytes a second, for some seconds."""

    def __init__(self, port, streams, rate, seconds, download):
        command = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-P", str(streams), "-t", str(math.ceil(seconds)), "-J"]
        command += ["-b", f"{rate * 8 / streams:.0f}", *(["-R"] if download else [])]
        for attempt in range(load.ATTEMPTS):
            self._popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            time.sleep(SETTLING_S)
            # The server takes one test at a time, and is sometimes not quite done with the last one.
            if self._popen.poll() is None:
                break
            if attempt == load.ATTEMPTS - 1:
                raise processes.Failed(f"iperf3 ended at its start: {self._popen.stdout.read()[-300:]}")
            time.sleep(BUSY_S)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._popen.kill()
        self._popen.wait()

    def rate(self):
        """GiB per second that arrived, once it has ended."""
        try:
            output, _ = self._popen.communicate(timeout=load.PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise processes.Failed("iperf3 does not end") from error
        answer = json.loads(output)
        arrived = answer["end"].get("sum_received")
        if "error" in answer or not arrived:
            raise processes.Failed(f"iperf3: {answer.get('error', 'nothing arrived')}")
        return arrived["bytes"] / GIB / arrived["seconds"]
