//! `[[pool]]`: servers that serve the same thing, and how they are chosen.

use super::kinds::{self, count, number, word};
use super::presets::Applied;
use super::{CONNECTS, Flag, Section, Setting, Source, TIMES, setting};
use crate::config::model::{NoBackend, Pool, Probe, SendProxy, SourceAddress};

const PEERS: &str = "Addresses and balancing";
const LIMITS: &str = "Limits";

/// The table.
pub static POOL: Section<Pool> = Section {
    name: "pool",
    many: true,
    doc: "Servers that serve the same thing; as many pools as you like. Open connections keep the time-outs they began with.",
    within: &["health", "backend", "discover"],
    defaults: Pool::default,
    settings: &[
        setting!(Pool.name: kinds::NAME, "Its name in listeners, logs, metrics and API.")
            .more("Two pools cannot share a name.")
            .set("\"web\"")
            .makes_another(),
        // The keys behind it win.
        Setting::new("preset", &Applied, "Sets several keys at once for a kind of server.")
            .more("The keys that stand in the pool win, also those of its `[pool.health]`. `tcplb config reference` lists what each preset sets.")
            .see("configuration.md#presets")
            .absent("none")
            .example("\"patroni-primary\""),
        setting!(Pool.algorithm: kinds::ALGORITHM, "How a backend is chosen.")
            .see("algorithms.md")
            .flag_as(Flag { long: "algorithm", short: Some('a'), alias: Some("algo"), heading: PEERS }),
        setting!(
            Pool.approximate: kinds::SWITCH,
            "Whether listeners with `engine = \"kernel\"` come close to an algorithm that follows load, by weights that change."
        )
        .more(
            "The kernel can't compare loads for each connection. With `least-connections`, `power-of-two` and `least-time` such a \
             listener needs this key: each second the weights in the kernel's rules follow the loads. Listeners of the proxy \
             follow load exactly. The key is refused where it would do nothing.",
        )
        .see("kernel-engine.md#algorithms-that-follow-load"),
        setting!(
            "send_proxy", Pool.send_proxy: word::<SendProxy>(),
            |pool| Some(pool.send_proxy.map_or(SendProxy::Off, SendProxy::As)),
            |pool, send| pool.send_proxy = send.version(),
            "The PROXY header that connections to backends begin with, which holds the client's address."
        )
        .more(
            "`v1` is a line of text. `v2` is binary and passes on what came with a client's own header. Without a header \
             backends see tcplb's address. A backend that does not expect the header takes it for garbage.",
        )
        .flag("send-proxy", PEERS)
.proxy_only(CONNECTS),
        setting!(Pool.source: kinds::SOURCE_ADDRESS, "The local address of connections to backends.")
            .more(
                "`client` is the client's address: it needs CAP_NET_ADMIN, and routes that lead the answers of backends back \
                 through this machine. Several addresses of this machine are used in turn, each with ports of its own; one \
                 without a free port is passed over. Probes come from the first address of the list, and with `client` from \
                 the address that the system chooses.",
            )
            .see("operations.md#the-source-address")
            .absent("the system's choice"),
        setting!(Pool.connect_timeout: kinds::TIME, "How long one attempt to connect to a backend may take.")
            .more("After it tcplb tries another backend.")
            .flag("connect-timeout", LIMITS)
.proxy_only(CONNECTS),
        setting!(Pool.connect_attempts: count::<u32>(), "How many different backends tcplb tries before it resets the client.")
.proxy_only(CONNECTS),
        setting!(Pool.idle_timeout: kinds::TIME, "tcplb closes a connection after this long without a byte either way.")
            .more("It finds dead peers earlier, within `dead_peer_timeout`.")
            .flag("idle-timeout", LIMITS)
.proxy_only(TIMES),
        setting!(Pool.half_close_timeout: kinds::TIME, "The same, once one of the two sides has sent its FIN.")
.proxy_only(TIMES),
        setting!(
            "max_lifetime", Pool.max_lifetime: kinds::TIME_OR_ZERO,
            |pool| Some(pool.max_lifetime.unwrap_or_default()),
            |pool, time| pool.max_lifetime = Some(time).filter(|time| !time.is_zero()),
            "tcplb closes a connection after this long, spread by a tenth; `\"0s\"`: never."
        )
        .more(
            "The spread keeps clients from coming back all at once. tcplb waits for 100 ms without a byte, at most a tenth \
             longer; a connection that is busy even then is reset.",
        )
.proxy_only(TIMES),
        setting!(Pool.on_down: word(), "What becomes of the connections of a backend that goes down.")
            .more(
                "`keep` lets them go on, since the backend may only have been slow to answer. `reset` resets them, so that \
                 clients connect again at once.",
            )
            .needs("probes, and health.kind is \"off\"", |pool| pool.health.kind.probe() != Probe::Off),
        setting!(Pool.on_remove: kinds::ON_REMOVE, "The same for a backend that is removed.")
            .more("`drain 30s` resets what is open after that time."),
        setting!(
            Pool.slow_start: kinds::TIME_OR_ZERO,
            "The time over which a backend that comes up, or is added, grows to its whole share."
        )
.proxy_only("the kernel's rules have whole shares only"),
        setting!(
            Pool.warm_connections: number::<u32, 0, 1_000>(),
            "How many connections to each backend are kept established ahead of need; 0: none."
        )
        .more(
            "Only for protocols in which the client speaks first. A backend gets no more of them while it is down, draining or \
             disabled. They count for its `max_connections`; clients come first.",
        )
        .see("warm-connections.md")
.proxy_only(CONNECTS),
        setting!(Pool.no_backend: kinds::NO_BACKEND, "What becomes of a client that no backend can take.")
            .more("`reset` resets it at once. `wait 3s` lets it wait for a backend and resets it after that.")
.proxy_only(CONNECTS),
        setting!(
            Pool.abandoned: word(),
            "What becomes of a client that has sent its FIN while it waits for a backend."
        )
        .more("`serve` keeps its place, since it may wait for an answer. `drop` resets it, as a client that has given up.")
        .needs("no_backend = \"wait …\"", |pool| matches!(pool.no_backend, NoBackend::Wait(_))),
        setting!(Pool.max_queue: number::<u32, 1, 1_000_000>(), "How many clients may wait for a backend at each worker.")
            .more("tcplb resets the next one at once. A reload that lowers it resets no client that waits. A waiting client holds a descriptor and counts for `max_connections`.")
            .needs("no_backend = \"wait …\"", |pool| matches!(pool.no_backend, NoBackend::Wait(_))),
        setting!(Pool.all_down: word(), "What the pool does when all of its backends are down.")
            .more(
                "`reset` treats clients as `no_backend` says. `try-all` tries the backends all the same, since probes may be \
                 wrong about all of them at once.",
            ),
        setting!(
            Pool.outlier_failures: number::<u32, 0, { u32::MAX as u64 }>(),
            "After this many failed clients in a row a backend is left out for a while; 0: never."
        )
        .more(
            "The first time is a second, then twice as long each time, up to a minute. A client fails if it cannot reach the \
             backend, or if the backend resets its connection within a second without a byte. At least half of the pool \
             stays in service.",
        )
        .see("health.md")
.proxy_only("tcplb does not see which clients fail"),
    ],
};

/// Reads what stands in the section itself.
pub fn read(source: &Source<'_>) -> Pool {
    let mut pool = Pool::default();
    POOL.read(source, &mut pool);
    if pool.source == SourceAddress::Client && pool.warm_connections > 0 {
        source.wrong("warm_connections", "expected 0 beside source = \"client\": a warm connection has no client yet");
    }
    pool
}
