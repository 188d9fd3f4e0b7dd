"""The configuration that tcplb runs with under soak, in its variants, broken ones among them."""

from collections import namedtuple

# Listeners and their pools.
LISTENERS = {
    "main": "main",
    "crowd": "main",
    "counted": "main",
    "denied": "main",
    "source": "main",
    "rate": "main",
    "greet": "greet",
    "proxied": "proxied",
    "shaky": "shaky",
    "idle": "idle",
    "life": "life",
    "nobody": "nobody",
    "waits": "waits",
    "doomed": "doomed",
}

ALGORITHMS = (
    "round-robin",
    "weighted-round-robin",
    "sticky-round-robin",
    "least-connections",
    "power-of-two",
    "source-hash",
    "maglev",
    "least-time",
    "random",
)

Variant = namedtuple("Variant", "algorithm weights fourth extra half_close slow_start outliers")
FIRST = Variant("round-robin", (1, 1, 1), False, False, 15, "0s", 0)
PROBES = {"kind": "tcp", "interval": "500ms", "fall": 2, "rise": 1}
PLAIN, GREETING, PROXY = range(3)  # The ports of a server.


def any_variant(random):
    """What a reload may bring."""
    return Variant(
        algorithm=random.choice(ALGORITHMS),
        weights=tuple(random.choice((1, 1, 2, 5)) for _ in range(3)),
        fourth=random.random() < 0.5,
        extra=False,
        half_close=random.choice((15, 20)),
        slow_start=random.choice(("0s", "2s")),
        outliers=random.choice((0, 5)),
    )


def text(arena, variant):
    """The file."""
    ports = arena.ports
    limits = {
        "crowd": {"max_connections": 2},
        "counted": {"deny": ["127.0.0.0/8"], "limits": "count"},
        "denied": {"deny": ["127.9.0.0/16"]},
        "source": {"max_connections_per_source": arena.per_source},
        "rate": {"connection_rate_per_source": f"{arena.per_second}/s"},
        "proxied": {"accept_proxy": True, "trusted_proxies": ["127.0.0.0/8"]},
    }
    file = _table(
        "[global]", workers=2, admin=f"127.0.0.1:{ports['admin']}", relay=arena.relay, shutdown_timeout="15s"
    )
    for name, pool in (LISTENERS | ({"extra": "main"} if variant.extra else {})).items():
        file += _table("[[listener]]", name=name, bind=[f"127.0.0.1:{ports[name]}"], pool=pool, **limits.get(name, {}))

    def servers(port, *names):
        return [{"name": name, "address": f"127.0.0.1:{arena.servers[name].ports[port]}"} for name in names]

    def pool(name, backends, health=PROBES, **settings):
        nonlocal file
        # Until probes have found out that one is back, the next may have gone: clients wait for it.
        common = {"name": name, "no_backend": "wait 8s", "idle_timeout": "20s", "half_close_timeout": f"{variant.half_close}s"}
        file += _table("[[pool]]", **common | settings) + _table("[pool.health]", **health)
        for backend in backends:
            file += _table("[[pool.backend]]", **backend)

    main = [one | {"weight": weight} for one, weight in zip(servers(PLAIN, "s1", "s2", "s3"), variant.weights)]
    pool(
        "main",
        main + (servers(PLAIN, "s4") if variant.fourth else []),
        algorithm=variant.algorithm,
        slow_start=variant.slow_start,
        outlier_failures=variant.outliers,
        connect_timeout="3s",
    )
    pool("greet", servers(GREETING, "s1", "s2", "s3"), algorithm="least-connections")
    first, *others = servers(PROXY, "s1", "s2", "s3")
    pool("proxied", [first | {"send_proxy": "v1"}, *others], send_proxy="v2", algorithm="random")
    broken = [{"name": name, "address": f"127.0.0.1:{ports[name]}"} for name in ("refusing", "black-hole")]
    pool(
        "shaky",
        servers(PLAIN, "s1", "s2") + broken,
        health={"kind": "off"},
        connect_timeout="300ms",
        connect_attempts=4,
    )
    pool("idle", servers(PLAIN, "s1", "s3"), idle_timeout=f"{arena.idle_timeout:.0f}s")
    pool("life", servers(PLAIN, "s1", "s3"), max_lifetime=f"{arena.lifetime:.0f}s")
    pool("nobody", [], no_backend="reset")
    pool("waits", servers(PLAIN, "w1"))
    pool("doomed", servers(PLAIN, "s1", "s2"), on_remove="reset")
    return file


def broken(random, arena, good):
    """The same with a mistake."""
    port = arena.ports["taken"]
    return random.choice(
        (
            good + "[global\n",
            good.replace("idle_timeout", "idle_tiemout", 1),
            good.replace('pool = "main"', 'pool = "mian"', 1),
            good.replace('algorithm = "', 'algorithm = "un', 1),
            good + _table("[[listener]]", name="taken", bind=[f"127.0.0.1:{port}"], pool="main"),
        )
    )


def is_told_refusal(line):
    """Is this line of the log the answer to a broken file? Those are errors, and meant to be."""
    return "reload refused: " in line


def _table(head, **values):
    return head + "\n" + "".join(f"{key} = {_value(value)}\n" for key, value in values.items()) + "\n"


def _value(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
