//! What a check of sessions begins with: choices, and a listener with its pools.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tcplb::base::{Address, Endpoint};
use tcplb::config::model::{self, Model, ProxyVersion};
use tcplb::policy::routes::Conditions;
use tcplb::pool::{self, Pool, Resolved, Snapshot};
use tcplb::proto::sniff::{Hello, Protocol, Sniffed};

const WAIT: Duration = Duration::from_secs(4);
pub const LIFETIME: Duration = Duration::from_secs(30);

/// That of the listener, and that of its route.
const POOLS: [&str; 2] = ["p", "q"];

/// Choices, a byte each; all zero once they are used up.
pub struct Choices<'a>(pub std::slice::Iter<'a, u8>);

impl Choices<'_> {
    pub fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    pub fn below(&mut self, bound: u8) -> u8 {
        self.next() % bound
    }

    pub fn is_over(&self) -> bool {
        self.0.as_slice().is_empty()
    }
}

/// Up to three backends, the first with two addresses. Perhaps the listener has a route, and a pool for silent clients.
pub fn settings(choices: &mut Choices<'_>) -> (model::Pool, model::Listener, Resolved) {
    let mut resolved = HashMap::new();
    let mut backends = Vec::new();
    for number in 0..=choices.below(3) {
        let at = ([10, 0, 0, number], 80).into();
        let name = format!("b{number}");
        let second = (number == 0).then(|| Endpoint::Inet(([10, 0, 1, 0], 80).into()));
        let endpoints: Vec<Endpoint> = [Endpoint::Inet(at)].into_iter().chain(second).collect();
        for pool in POOLS {
            resolved.insert((pool.to_owned(), name.clone()), endpoints.clone());
        }
        backends.push(model::Backend { name, ..model::Backend::at(Address::Inet(at)) });
    }
    let (connect_attempts, waiting) = (1 + u32::from(choices.below(3)), choices.next());
    let conditions = Conditions { protocol: Some(Protocol::Tls), ..Conditions::default() };
    let route = model::Route { conditions, pool: POOLS[1].into(), ..model::Route::default() };
    let is_routed = waiting & 4 != 0;
    let listener = model::Listener {
        pool: POOLS[0].into(),
        routes: if is_routed { vec![route] } else { Vec::new() },
        silent_pool: (is_routed && waiting & 8 != 0).then(|| POOLS[1].into()),
        ..model::Listener::default()
    };
    let settings = model::Pool {
        name: POOLS[0].into(),
        connect_attempts,
        no_backend: if waiting & 1 == 0 { model::NoBackend::Reset } else { model::NoBackend::Wait(WAIT) },
        abandoned: if waiting & 2 == 0 { model::Abandoned::Serve } else { model::Abandoned::Drop },
        send_proxy: [None, Some(ProxyVersion::V1), Some(ProxyVersion::V2)][usize::from(choices.below(3))],
        half_close_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
        backends,
        ..model::Pool::default()
    };
    (settings, listener, resolved)
}

/// Both pools have these settings.
pub fn build(settings: &model::Pool, listener: model::Listener, resolved: &Resolved) -> Snapshot {
    let pools = POOLS.map(|name| model::Pool { name: name.into(), ..settings.clone() }).into();
    let model = Model { global: model::Global::default(), listeners: vec![listener], pools };
    pool::build(&model, resolved)
}

pub fn leases(pools: &[Arc<Pool>]) -> u32 {
    pools.iter().flat_map(|pool| &pool.members).map(|member| member.backend.active()).sum()
}

/// What the first bytes of a client say.
pub fn hello(protocol: Protocol) -> Box<Sniffed> {
    Box::new(Sniffed { protocol, hello: Some(Hello::default()) })
}
