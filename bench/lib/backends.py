"""What stands behind the proxies, the same for all of them: a web server (nginx) and a bulk server (iperf3)."""

import os
import socket
import string
import struct
import tempfile
from pathlib import Path

from . import processes

PEERS = Path(__file__).resolve().parent.parent / "peers"

BULK_FILE_BYTES = 64 << 20


def filled_in(template, directory, **values):
    """Writes `peers/<template>` with its variables replaced into `directory`; where it stands."""
    text = string.Template((PEERS / template).read_text()).substitute(directory=directory, **values)
    path = Path(directory) / template
    path.write_text(text)
    return path


def nginx_user():
    """Workers of a root master would become `nobody`, which can't read our files; others have no choice."""
    return "user root;" if os.geteuid() == 0 else ""


class Web:
    """nginx with one worker: a small answer at `/`, 64 MiB at `/bulk` from memory."""

    def __init__(self, directory, within=(), bulk_bytes=BULK_FILE_BYTES):
        """`within` begins the command."""
        self.port = processes.free_port()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.files = tempfile.TemporaryDirectory(prefix="tcplb-bench-", dir=memory)
        (Path(self.files.name) / "bulk").write_bytes(os.urandom(1 << 20) * (bulk_bytes >> 20))
        config = filled_in("web.conf", directory, port=self.port, user=nginx_user(), files=self.files.name)
        self._command = [*within, "nginx", "-p", str(directory), "-c", str(config), "-g", "daemon off;"]
        self._log = Path(directory) / "web.log"
        self.start()

    def start(self):
        """Starts it, at first and after a kill."""
        self.process = processes.Process(self._command, self._log)
        self.process.wait_for_port(self.port)

    def stop(self):
        """Ends it."""
        self.process.stop()
        self.files.cleanup()


class Bulk:
    """iperf3's server: source and sink of bulk streams."""

    def __init__(self, directory):
        self.port = processes.free_port()
        command = ["iperf3", "-s", "-B", "127.0.0.1", "-p", str(self.port)]
        self.process = processes.Process(command, Path(directory) / "iperf3.log")
        self.process.wait_for_port(self.port)

    def stop(self):
        """Ends it."""
        self.process.stop()


def close_hard(sockets):
    """Closes thousands of connections with a reset, so that none lingers in TIME_WAIT into the next measurement."""
    for end in sockets:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()
