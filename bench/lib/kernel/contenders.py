"""What forwards: nothing, a rule written by hand, tcplb with each engine, HAProxy."""

import shutil

from .. import proxies
from .lab import AT, BULK, PORT, SERVERS

ADMIN = "127.0.0.1:9000"


class Contender:
    """Something on the balancer's machine. Clients connect to `at`, its port is `port`."""

    def __init__(self, name, lab, port, servers, probed=False):
        self.name, self.lab, self.servers, self.probed = name, lab, servers, probed
        self.at, self.port = (SERVERS[0], port) if name == "direct" else (AT, PORT)
        self._port = port
        self.process = None

    def __enter__(self):
        self.lab.forget()
        if self.name == "nft rule":
            self.lab.nft(self._rule())
        elif self.name != "direct":
            self.start()
        # iperf3's server answers no stranger.
        self.lab.wait_for(self.at, self.port, "connect" if self._port == BULK else "ask")
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.stop()
        if self.name == "nft rule":
            self.lab.nft("delete table ip byhand")
        if self.name == "kernel":
            self.lab.run("balancer", [self.lab.tcplb, "kernel", "flush"])

    def start(self):
        """Starts the process; also again, beside its rules."""
        command = self._haproxy() if self.name == "HAProxy" else self._tcplb()
        self.process = self.lab.start("balancer", command, self.name)

    def _rule(self):
        """Each server in turn, chosen for each connection."""
        backends = ", ".join(f"{number} : {server} . {self._port}" for number, server in enumerate(self.servers))
        return (
            "table ip byhand {\n map backends { type mark : ipv4_addr . inet_service\n"
            f"  elements = {{ {backends} }} }}\n"
            " chain prerouting { type nat hook prerouting priority dstnat\n"
            f"  ip daddr {AT} tcp dport {PORT} ct mark set numgen inc mod {len(self.servers)}\n"
            f"  ip daddr {AT} tcp dport {PORT} meta l4proto tcp dnat ip to ct mark map @backends\n }}\n}}\n"
        )

    def _tcplb(self):
        health = '[pool.health]\ninterval = "1s"\nfall = 2\nrise = 1\n' if self.probed else '[pool.health]\nkind = "off"\n'
        backends = "".join(f'[[pool.backend]]\nname = "{server}"\naddress = "{server}:{self._port}"\n' for server in self.servers)
        engine = "kernel" if self.name == "kernel" else "proxy"
        self.config = self.lab.directory / f"{engine}.toml"
        self.config.write_text(
            f'[global]\nadmin = "{ADMIN}"\nworkers = {proxies.THREADS}\nuser = "nobody"\n[[listener]]\nname = "web"\n'
            f'bind = ["{AT}:{PORT}"]\nengine = "{engine}"\n[[pool]]\nname = "web"\n{health}{backends}'
        )
        self.config.chmod(0o644)
        return [self.lab.tcplb, "--config", self.config]

    def _haproxy(self):
        check = " check inter 1s fall 2 rise 1" if self.probed else ""
        servers = "".join(f"    server s{number} {server}:{self._port}{check}\n" for number, server in enumerate(self.servers))
        config = self.lab.directory / "haproxy.cfg"
        config.write_text(
            f"global\n    nbthread {proxies.THREADS}\n    maxconn 6000\n    maxpipes 1000\n    tune.pipesize 262144\n"
            "    tune.bufsize 65536\n    tune.maxaccept 64\ndefaults\n    mode tcp\n    balance roundrobin\n    backlog 4096\n"
            "    option splice-auto\n    option redispatch 1\n    timeout connect 10s\n    timeout client 1h\n    timeout server 1h\n"
            f"listen bench\n    bind {AT}:{PORT} shards by-thread\n{servers}"
        )
        return [shutil.which("haproxy"), "-db", "-f", config]


NAMES = ("direct", "nft rule", "kernel", "proxy", "HAProxy")


def found():
    """The names of those that can take part."""
    return [name for name in NAMES if name != "HAProxy" or shutil.which("haproxy")]
