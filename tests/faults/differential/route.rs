//! The ways from a client to a backend.

use super::cases::Case;
use crate::harness::Harness;
use crate::scenario::{Observation, Scenario};
use crossbeam_channel::{Receiver, unbounded};
use rustix::net::sockopt;
use std::time::Duration;
use testkit::foreign::{Foreign, haproxy, nginx};
use testkit::{At, Conn, PATIENCE, Server, eventually, free_address, need, raise_descriptor_limit};

/// The client's side, then the backend's.
pub type Pair = [Observation; 2];

/// A foreign balancer may leave pairs without an end. Nothing happens for so long: nothing will.
const FOREIGN_PATIENCE: Duration = Duration::from_secs(4);

/// How often pairs play again that a busy machine has kept from reading.
const TRIES: usize = 5;

/// How many pairs play at once.
const WAVE: usize = 160;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    Direct,
    Copy,
    Splice,
    Adaptive,
    Haproxy,
    Nginx,
}

impl Route {
    pub const OURS: [Route; 3] = [Route::Copy, Route::Splice, Route::Adaptive];
    pub const PEERS: [Route; 2] = [Route::Haproxy, Route::Nginx];

    pub fn name(self) -> &'static str {
        match self {
            Route::Direct => "direct",
            Route::Copy => "tcplb, copy",
            Route::Splice => "tcplb, splice",
            Route::Adaptive => "tcplb, adaptive",
            Route::Haproxy => "HAProxy",
            Route::Nginx => "nginx",
        }
    }

    /// Plays the cases, all at once; `None` where a program is missing.
    pub fn play(self, cases: &[Case]) -> Option<Vec<Pair>> {
        match self {
            Route::Copy => Some(through_tcplb("copy", cases)),
            Route::Splice => Some(through_tcplb("splice", cases)),
            Route::Adaptive => Some(through_tcplb("adaptive", cases)),
            Route::Direct => Some(Plain::direct().play(Scenario::default, cases, PATIENCE)),
            Route::Haproxy | Route::Nginx => {
                Some(Plain::behind(self)?.play(Scenario::default, cases, FOREIGN_PATIENCE))
            }
        }
    }
}

/// tcplb gives up a side that takes nothing for a second after the other side's reset. A pair in which a side could not read
/// for half of that proves nothing, and plays again.
fn through_tcplb(relay: &str, cases: &[Case]) -> Vec<Pair> {
    let harness = Harness::start(relay);
    let mut played: Vec<Option<Pair>> = cases.iter().map(|_| None).collect();
    for tries in 0..=TRIES {
        let open: Vec<usize> = (0..cases.len()).filter(|case| played[*case].is_none()).collect();
        for wave in open.chunks(WAVE) {
            let mut scenario = Scenario::default();
            for case in wave {
                scenario.add(harness.pair(), &cases[*case].client, &cases[*case].backend);
            }
            for (case, pair) in wave.iter().zip(scenario.observe(PATIENCE)) {
                let proves = tries == TRIES || pair.iter().all(|seen| !seen.starved);
                played[*case] = proves.then_some(pair);
            }
        }
    }
    harness.close();
    played.into_iter().map(|pair| pair.expect("the last try counts")).collect()
}

/// Backends without a balancer, or behind a foreign one.
pub struct Plain {
    at: At,
    accepted: Receiver<Conn>,
    _backend: Server,
    balancer: Option<Foreign>,
}

impl Plain {
    pub fn direct() -> Plain {
        raise_descriptor_limit();
        let (accept, accepted) = unbounded();
        let backend = Server::start(move |conn| accept.send(conn).map_err(std::io::Error::other));
        Plain { at: backend.at().clone(), accepted, _backend: backend, balancer: None }
    }

    fn behind(route: Route) -> Option<Plain> {
        let (direct, at) = (Plain::direct(), free_address());
        let backend = &direct.at;
        let balancer = if route == Route::Haproxy {
            let config = format!(
                "listen relay\n    mode tcp\n    maxconn 4000\n    bind {at} backlog 4096\n    server backend {backend}\n"
            );
            haproxy(&format!("    maxconn 4000\n{config}"), &[])?
        } else {
            let module = need("ngx_stream_module.so")?;
            // By default nginx closes both directions when one has ended.
            let config = format!(
                "stream {{ server {{
                    listen {at} backlog=4096; proxy_pass {backend};
                    proxy_half_close on; tcp_nodelay on; proxy_connect_timeout 10s; proxy_timeout 60s;
                }} }}"
            );
            nginx(&[&module], &config, &[])?
        };
        let plain = Plain { at: At::Tcp(at), balancer: Some(balancer), ..direct };
        // The first connection that is taken reaches the backend, too, and must not stay there as that of the first client.
        eventually("the balancer accepts", || Conn::try_to(&plain.at).is_ok_and(|_client| plain.accepted().is_some()));
        Some(plain)
    }

    fn accepted(&self) -> Option<Conn> {
        self.accepted.recv_timeout(PATIENCE).ok()
    }

    /// Plays the cases, a bounded number at once.
    pub fn play(&self, mut scenario: impl FnMut() -> Scenario, cases: &[Case], patience: Duration) -> Vec<Pair> {
        let mut played = Vec::new();
        for wave in cases.chunks(WAVE) {
            let mut scenario = scenario();
            for case in wave {
                scenario.add(self.pair(), &case.client, &case.backend);
            }
            played.extend(scenario.observe(patience));
        }
        played
    }

    fn pair(&self) -> (Conn, Conn) {
        let client = Conn::to(&self.at);
        let backend = self.accepted().expect("the connection reaches the backend");
        if self.balancer.is_none() {
            // A balancer passes an urgent byte on in its place among the others, so that is where it is expected.
            for conn in [&client, &backend] {
                sockopt::set_socket_oobinline(conn, true).expect("leave urgent bytes in their place");
            }
        }
        (client, backend)
    }
}
