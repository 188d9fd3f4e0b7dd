//! Properties: whatever the model, its print is read as the same; whatever the text, reading it ends with an answer.

use super::super::*;
use crate::base::{Address, Listen, Size};
use crate::config::model::*;
use crate::config::text;
use crate::policy::balance::REGISTRY;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::string::string_regex;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

const EXAMPLE: &str = include_str!("../../../../config.example");

/// Letters that TOML has a meaning for, too.
fn name() -> impl Strategy<Value = String> {
    "[a-z0-9.ü\"'\\\\#=\\[\\]{},-]{1,12}"
}

fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![(1..10_000_000_000_u64).prop_map(Duration::from_millis), (1..100_000_u64).prop_map(Duration::from_secs)]
}

fn zero_or_time() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(Duration::ZERO), time()]
}

/// An address of some kind whose port nobody else has.
fn address(kind: u8, port: u16) -> Address {
    match kind % 5 {
        0 => Address::Inet(SocketAddr::from(([127, 0, 0, 1], port))),
        1 => Address::Inet(SocketAddr::from((Ipv6Addr::LOCALHOST, port))),
        2 => Address::Name(format!("host-{kind}.internal"), port),
        3 => Address::Unix(format!("/run/a \"quoted\" ü/{port}.sock").into()),
        _ => Address::Any(port),
    }
}

fn prefixes() -> impl Strategy<Value = Vec<IpNet>> {
    let four = (any::<[u8; 4]>(), 0..=32_u8).prop_map(|(ip, bits)| Ipv4Net::new(ip.into(), bits).map(IpNet::from));
    let six = (any::<[u8; 16]>(), 0..=128_u8).prop_map(|(ip, bits)| Ipv6Net::new(ip.into(), bits).map(IpNet::from));
    vec(prop_oneof![four, six].prop_map(|net| net.unwrap().trunc()), 0..3)
}

fn global() -> impl Strategy<Value = Global> {
    let relay = prop_oneof![Just(Engine::Copy), Just(Engine::Splice), Just(Engine::Adaptive)];
    let relay = (relay, prop_oneof![Just(Names::Later), Just(Names::Required)]);
    let token = option::of("/[a-z \"]{1,9}");
    let log = (option::of("-|/[a-z \"]{1,9}"), prop_oneof![Just(LogFormat::Text), Just(LogFormat::Json)]);
    let account = (option::of((name(), option::of(name()))), prop_oneof![Just(Sandbox::Auto), Just(Sandbox::Off)]);
    let limit = option::of(1..=4_294_967_295_usize);
    let times = (zero_or_time(), zero_or_time(), 2..=36_000_u64);
    let limit = (limit, option::of((16..=u16::MAX).prop_map(Size::kib)));
    let log = (log, any::<bool>());
    (1..=1024_usize, limit, times, relay, option::of(0..5_u8), token, account, log).prop_map(
        |(
            workers,
            (max_connections, socket_buffer),
            (shutdown_delay, shutdown_timeout, dead_peer),
            (relay, names),
            admin,
            token,
            (account, sandbox),
            ((log, log_format), metrics_per_backend),
        )| Global {
            workers,
            max_connections,
            shutdown_delay,
            shutdown_timeout,
            dead_peer_timeout: Duration::from_secs(dead_peer),
            socket_buffer,
            relay,
            names,
            // Without a token only local addresses do.
            admin: admin.map(|kind| Listen(address(if token.is_some() { kind } else { kind % 2 }, 1))),
            admin_token_file: token.map(Into::into),
            user: account.as_ref().map(|(user, _)| user.clone()),
            group: account.and_then(|(_, group)| group),
            sandbox,
            access_log: log.map(|path| std::path::PathBuf::from(path).into()),
            log_format,
            metrics_per_backend,
        },
    )
}

/// What a listener has besides its name, addresses and pool.
fn listener() -> impl Strategy<Value = (Listener, Vec<u8>, usize)> {
    let limit = || option::of(1_u32..);
    let rate = option::of((1_u32..).prop_map(|per_second| Rate { per_second }));
    let lists = (prefixes(), prefixes(), prefixes(), [prefix_file(), prefix_file()]);
    (any::<[bool; 2]>(), lists, limit(), limit(), rate, vec(0..5_u8, 1..4), any::<usize>()).prop_map(
        |(
            [accept_proxy, limits_dry_run],
            (trusted_proxies, allow, deny, [allow_file, deny_file]),
            one,
            other,
            rate,
            binds,
            pool,
        )| {
            let listener = Listener {
                accept_proxy,
                trusted_proxies,
                allow,
                deny,
                allow_file,
                deny_file,
                max_connections: one,
                max_connections_per_source: other,
                connection_rate_per_source: rate,
                limits_dry_run,
                ..Listener::default()
            };
            (listener, binds, pool)
        },
    )
}

fn proxy() -> impl Strategy<Value = Option<SendProxy>> {
    option::of((0..SendProxy::NAMES.len()).prop_map(|at| SendProxy::NAMES[at].1))
}

fn prefix_file() -> impl Strategy<Value = Option<PrefixFile>> {
    option::of(name().prop_map(|name| PrefixFile { path: name.into(), prefixes: Arc::default() }))
}

fn health() -> impl Strategy<Value = Health> {
    let expect = vec((100..=599_u16, 0..100_u16).prop_map(|(first, more)| (first, (first + more).min(599))), 1..4);
    let http = ("/[a-z?\"\\\\]{0,9}", option::of("[a-z.:]{1,9}"), expect)
        .prop_map(|(path, host, expect)| HealthKind::Http { path, host, expect });
    let kind = prop_oneof![Just(HealthKind::Tcp), Just(HealthKind::Off), http];
    (kind, option::of(1_u16..), time(), time(), 1_u32.., 1_u32..).prop_map(|(kind, port, one, other, rise, fall)| {
        // Without probes there is no port to probe, and no first probe to wait for.
        let port = port.filter(|_| kind != HealthKind::Off);
        let down = port.is_some_and(|port| port % 2 == 0);
        let initial = if down { InitialHealth::Down } else { InitialHealth::Up };
        Health { kind, initial, port, interval: one.max(other), timeout: one.min(other), rise, fall }
    })
}

fn backend() -> impl Strategy<Value = Backend> {
    (name(), 0..4_u8, 1_u16.., any::<u16>(), option::of(1_u32..), any::<bool>(), proxy()).prop_map(
        |(name, kind, port, weight, max_connections, backup, send_proxy)| Backend {
            name,
            address: address(kind, port),
            weight,
            max_connections,
            backup,
            send_proxy,
        },
    )
}

fn pool() -> impl Strategy<Value = Pool> {
    let times = (time(), time(), time(), zero_or_time(), zero_or_time());
    let removed = prop_oneof![Just(OnRemove::Keep), Just(OnRemove::Reset), time().prop_map(OnRemove::Drain)];
    let ends = (prop_oneof![Just(OnDown::Keep), Just(OnDown::Reset)], removed);
    let none = prop_oneof![Just(NoBackend::Reset), time().prop_map(NoBackend::Wait)];
    let all_down = prop_oneof![Just(AllDown::Reset), Just(AllDown::TryAll)];
    let abandoned = prop_oneof![Just(Abandoned::Serve), Just(Abandoned::Drop)];
    let bad = (none, (abandoned, all_down), any::<u32>());
    (name(), 0..REGISTRY.len(), times, 1_u32.., ends, bad, proxy(), health(), vec(backend(), 0..4)).prop_map(
        |(name, algorithm, times, connect_attempts, (on_down, on_remove), bad, send_proxy, health, backends)| {
            let (no_backend, (abandoned, all_down), outlier_failures) = bad;
            let (connect_timeout, idle_timeout, half_close_timeout, lifetime, slow_start) = times;
            // A unix socket has no port to probe.
            let unix = backends.iter().any(|backend: &Backend| matches!(backend.address, Address::Unix(_)));
            let health = Health { port: health.port.filter(|_| !unix), ..health };
            Pool {
                name,
                algorithm: &REGISTRY[algorithm],
                connect_timeout,
                connect_attempts,
                idle_timeout,
                half_close_timeout,
                max_lifetime: Some(lifetime).filter(|time| !time.is_zero()),
                on_down,
                on_remove,
                slow_start,
                no_backend,
                abandoned,
                all_down,
                outlier_failures,
                send_proxy: send_proxy.and_then(SendProxy::version),
                health,
                backends: named(backends, |backend, name| backend.name = name, |backend| &backend.name),
            }
        },
    )
}

fn model() -> impl Strategy<Value = Model> {
    (global(), vec((name(), listener()), 1..4), vec(pool(), 1..4)).prop_map(|(global, listeners, pools)| {
        let pools = named(pools, |pool, name| pool.name = name, |pool| &pool.name);
        let mut port = 1;
        let listeners = listeners.into_iter().map(|(name, (mut listener, kinds, pool))| {
            listener.name = name;
            listener.pool.clone_from(&pools[pool % pools.len()].name);
            for kind in kinds {
                port += 1;
                listener.bind.push(Listen(address(kind, port)));
            }
            listener
        });
        let listeners = listeners.collect();
        let listeners =
            named(listeners, |listener: &mut Listener, name| listener.name = name, |listener| &listener.name);
        Model { global, listeners, pools }
    })
}

/// With names that are all different: a number goes before each.
fn named<T>(mut all: Vec<T>, set: impl Fn(&mut T, String), get: impl Fn(&T) -> &String) -> Vec<T> {
    for (number, one) in all.iter_mut().enumerate() {
        let name = format!("{number}{}", get(one));
        set(one, name);
    }
    all
}

/// A header or a setting, whole or with something missing.
fn line() -> impl Strategy<Value = String> {
    let header = "\\[{1,2}(global|listener|pool|pool\\.(health|backend|discover))\\]{1,2}";
    let key = "(name|bind|pool|workers|kind|weight|address|health\\.path)";
    let value = "(\"[a-z:0-9]{0,5}\"?|[0-9]{1,6}|\\[[\"a:1,]{0,6}\\]?|\\{ ?\\}?|true|1979-05-27)";
    string_regex(&format!("({header}|{key} ?=? ?{value})")).unwrap()
}

proptest! {
    #[test]
    fn what_is_printed_is_read_as_the_same(model in model()) {
        let printed = text::print(&model);
        let parsed = parse(&printed, "printed").map_err(|mistakes| TestCaseError::fail(format!("{mistakes}\n{printed}")))?;
        prop_assert!(!parsed.workers_per_core);
        prop_assert_eq!(parsed.model, model);
    }

    #[test]
    fn any_text_gets_an_answer(text in "(\\PC|[\n\t\"'=\\[\\]{}#.,]){0,200}") {
        answered(&text)?;
    }

    #[test]
    fn almost_right_text_gets_an_answer(lines in vec(line(), 0..12)) {
        answered(&lines.join("\n"))?;
    }

    #[test]
    fn the_example_with_pieces_moved_about_gets_an_answer(
        edits in vec((any::<prop::sample::Index>(), 0..30_usize, "[\\[\\]{}\"'=#\n.,a-z0-9-]{0,4}"), 1..8)
    ) {
        let mut letters: Vec<char> = EXAMPLE.replace("\n#", "\n").chars().collect();
        for (at, gone, come) in edits {
            let at = at.index(letters.len());
            let end = (at + gone).min(letters.len());
            letters.splice(at..end, come.chars());
        }
        answered(&letters.into_iter().collect::<String>())?;
    }
}

/// No panic; if there are mistakes, each is one line that names a line of the file, in order.
fn answered(text: &str) -> Result<(), TestCaseError> {
    let Err(Mistakes(lines)) = parse(text, "f") else { return Ok(()) };
    prop_assert!(!lines.is_empty() && lines.len() <= MISTAKES_MAX + 1);
    let mut last = 1;
    for told in lines.into_iter().filter(|told| told != "f: … and more") {
        let number: Option<usize> = told.strip_prefix("f:").and_then(|rest| rest.split(':').next()?.parse().ok());
        let number = number.ok_or_else(|| TestCaseError::fail(told.clone()))?;
        prop_assert!(number >= last && number <= text.lines().count() + 1, "{}", told);
        prop_assert!(!told.contains('\n'), "{}", told);
        last = number;
    }
    Ok(())
}
