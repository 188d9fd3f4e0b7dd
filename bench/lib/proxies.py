"""The proxies under comparison: how each is found, started with its config of `peers/`, and named in the report.

All run the same number of threads, on a loopback port of their own, in front of one backend, without logs and without health
probes. A proxy is started afresh for every measurement, so none inherits anything.
"""

import re
import shutil
import subprocess
from pathlib import Path

from . import processes
from .backends import filled_in, nginx_user

THREADS = 2
ROOT = Path(__file__).resolve().parent.parent.parent
NGINX_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


class Proxy:
    """A way to start one kind of proxy."""

    def __init__(self, name, binary, command, version):
        self.name = name
        self.binary = binary
        self._command = command
        self._version = version

    def version(self):
        """What it says it is."""
        return version_of(self.binary, self._version)

    def start(self, backend_port, directory):
        """Starts it in front of the backend; the process and its port."""
        port = processes.free_port()
        command = [self.binary, *self._command(port, backend_port, directory)]
        process = processes.Process(command, Path(directory) / f"{self.name}.log")
        process.wait_for_port(port)
        return process, port


def version_of(binary, asks):
    """What a program says it is."""
    done = subprocess.run([binary, *asks], capture_output=True, text=True, timeout=20)
    found = re.search(r"\d+\.\d+\.\d+[^\s/]*", done.stdout + done.stderr)
    return found[0] if found else "?"


def build_tcplb(fresh=False):
    """The release binary where cargo puts it, built if it is not there, or in any case to be that of the source."""
    target = subprocess.run(
        ["cargo", "metadata", "--no-deps", "--format-version", "1"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    binary = Path(re.search(r'"target_directory":"([^"]+)"', target.stdout)[1]) / "release" / "tcplb"
    if fresh or not binary.exists():
        subprocess.run(["cargo", "build", "--release"], cwd=ROOT, check=True)
    return binary


def found(tcplb, before=None):
    """tcplb, an earlier one if there is a binary of it, and the peers on this machine, in the order of the report."""
    every = [
        Proxy("tcplb", str(tcplb), _tcplb, ["--version"]),
        Proxy("before", before and str(before), _tcplb, ["--version"]),
        Proxy("haproxy", shutil.which("haproxy"), _haproxy(["splice-auto"]), ["-v"]),
        Proxy("haproxy-splice", shutil.which("haproxy"), _haproxy(["splice-request", "splice-response"]), ["-v"]),
        Proxy("nginx", shutil.which("nginx"), _nginx, ["-v"]),
        Proxy("envoy", shutil.which("envoy"), _envoy, ["--version"]),
    ]
    return [proxy for proxy in every if proxy.binary]


def _tcplb(port, backend, _directory):
    return ["-l", f"127.0.0.1:{port}", "-b", f"127.0.0.1:{backend}", "-w", str(THREADS), "--health", "off"]


def _haproxy(splicing):
    """HAProxy decides by itself when to splice (`splice-auto`), or always splices: cheaper for bulk, dearer for requests.
    Its users have to choose; the comparison has both."""

    def command(port, backend, directory):
        options = "\n    ".join(f"option {option}" for option in splicing)
        config = filled_in(
            "haproxy.cfg", directory, port=port, backend=f"127.0.0.1:{backend}", threads=THREADS, splicing=options
        )
        return ["-db", "-f", str(config)]

    return command


def _nginx(port, backend, directory):
    config = filled_in(
        "nginx.conf",
        directory,
        port=port,
        backend=f"127.0.0.1:{backend}",
        threads=THREADS,
        user=nginx_user(),
        modules=f"load_module {NGINX_MODULE};" if NGINX_MODULE.exists() else "",
    )
    return ["-p", str(directory), "-c", str(config), "-g", "daemon off;"]


def _envoy(port, backend, directory):
    config = filled_in("envoy.yaml", directory, port=port, backend_host="127.0.0.1", backend_port=backend)
    return ["-c", str(config), "--concurrency", str(THREADS), "--log-level", "off", "--disable-hot-restart"]
