//! The pools of the simulation, and how their addresses answer.

use super::preamble::DENIED;
use super::routes::{ROUTED, SILENT, SNIFF, routes};
use super::world::Answer;
use super::{CONNECT, HALF_CLOSE, IDLE, LIFETIME, WAIT};
use std::collections::HashMap;
use std::net::SocketAddr;
use tcplb::base::{Address, Endpoint};
use tcplb::config::model::{self, Model, ProxyVersion, SendProxy};
use tcplb::pool::{self, Resolved, Snapshot};

/// A backend's addresses, and the header that it expects.
pub type Backend = (Vec<Endpoint>, Option<ProxyVersion>);

/// A pool over these backends, each with the addresses given and the header that it expects.
pub fn make_pool(backends: &[Backend], connect_attempts: u32) -> (Snapshot, Model, Resolved) {
    make_pool_with(backends, model::Pool { connect_attempts, ..model::Pool::default() }, (None, None))
}

pub fn make_pool_with(
    backends: &[Backend],
    settings: model::Pool,
    (max_connections, max_connections_per_source): (Option<u32>, Option<u32>),
) -> (Snapshot, Model, Resolved) {
    let mut resolved = HashMap::new();
    let mut configured = Vec::new();
    for (number, (endpoints, send_proxy)) in backends.iter().enumerate() {
        let (name, send_proxy) = (format!("b{number}"), *send_proxy);
        let Endpoint::Inet(at) = endpoints[0] else { unreachable!() };
        configured.push(model::Backend {
            name: name.clone(),
            send_proxy: send_proxy.map(SendProxy::As),
            max_connections,
            ..model::Backend::at(Address::Inet(at))
        });
        resolved.insert(("sim".to_owned(), name), endpoints.clone());
    }
    let settings = model::Pool {
        name: "sim".into(),
        connect_timeout: CONNECT,
        idle_timeout: IDLE,
        half_close_timeout: HALF_CLOSE,
        backends: configured,
        ..settings
    };
    let deny = vec![DENIED.parse().expect("a prefix")];
    let listener =
        model::Listener { pool: "sim".into(), deny, max_connections_per_source, ..model::Listener::default() };
    let global = model::Global::default();
    let model = Model { global, listeners: vec![listener], pools: vec![settings] };
    (pool::build(&model, &resolved), model, resolved)
}

pub type Answers = HashMap<Endpoint, (Answer, Option<ProxyVersion>)>;

/// One to three pools of one to three backends of one or two addresses, most of which answer. Where there are several, a listener
/// with routes leads to them.
pub fn random_pools(random: &mut fastrand::Rng) -> ((Snapshot, Model, Resolved), Answers) {
    let mut answers = HashMap::new();
    let mut backends = random_backends(random, 0, &mut answers);
    let settings = model::Pool {
        connect_attempts: random.u32(1..4),
        max_lifetime: (random.u8(..4) == 0).then_some(LIFETIME),
        no_backend: if random.bool() { model::NoBackend::Wait(WAIT) } else { model::NoBackend::Reset },
        abandoned: if random.bool() { model::Abandoned::Drop } else { model::Abandoned::Serve },
        ..model::Pool::default()
    };
    let max_connections = (random.u8(..3) == 0).then_some(1);
    let per_source = random.bool().then_some(1);
    let (_, mut model, mut resolved) = make_pool_with(&backends, settings.clone(), (max_connections, per_source));
    if random.bool() {
        for (number, name) in (1..).zip([ROUTED, SILENT]) {
            backends = random_backends(random, number, &mut answers);
            let (_, more, places) = make_pool_with(&backends, settings.clone(), (max_connections, None));
            resolved.extend(places.into_iter().map(|((_, backend), at)| ((name.to_owned(), backend), at)));
            model.pools.extend(more.pools.into_iter().map(|pool| model::Pool { name: name.into(), ..pool }));
        }
        let silent_pool = random.bool().then(|| SILENT.into());
        let listener = &mut model.listeners[0];
        (listener.routes, listener.sniff_timeout, listener.silent_pool) = (routes(), SNIFF, silent_pool);
    }
    ((pool::build(&model, &resolved), model, resolved), answers)
}

/// Backends with the number of their pool in their addresses.
fn random_backends(random: &mut fastrand::Rng, pool: u8, answers: &mut Answers) -> Vec<Backend> {
    let mut backends = Vec::new();
    for number in 0..random.u8(1..4) {
        let endpoints: Vec<Endpoint> = (0..random.u16(1..3))
            .map(|address| Endpoint::Inet(([10, 0, pool, number + 1], 1000 + address).into()))
            .collect();
        let send_proxy = [None, None, Some(ProxyVersion::V1), Some(ProxyVersion::V2)][random.usize(..4)];
        for endpoint in &endpoints {
            let answer = match random.u8(..20) {
                0..8 => Answer::Done,
                8..14 => Answer::Later,
                14..16 => Answer::LaterRefused,
                16 => Answer::Never,
                17..19 => Answer::Refused,
                _ => Answer::NoDescriptor,
            };
            answers.insert(endpoint.clone(), (answer, send_proxy));
        }
        backends.push((endpoints, send_proxy));
    }
    backends
}

/// The number of the pool that an address belongs to.
pub fn pool_number(at: &Endpoint) -> u8 {
    let Endpoint::Inet(SocketAddr::V4(at)) = at else { panic!("{at} is no backend's") };
    at.ip().octets()[2]
}
