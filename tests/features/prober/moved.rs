//! A backend whose name gets other addresses: what its successor knows.

use super::support::*;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use tcplb::base::{Address, Endpoint, Tick};
use tcplb::config::model::{self, Global, Health, HealthKind, Model, OnDown};
use tcplb::policy::health::AgentState;
use tcplb::pool::{Resolved, Snapshot, SnapshotPlan, build, next};
use tcplb::prober::{self, HealthEffect, Prober};

/// A pool of `moves` and `other`, each with a name, and its prober.
struct Moving {
    model: Model,
    other: SocketAddr,
    now: Arc<Snapshot>,
    prober: Prober,
    effects: Receiver<HealthEffect>,
}

impl Moving {
    fn start(moves: &str, health: Health, at: &[SocketAddr], other: SocketAddr) -> Moving {
        read_log();
        let backends = [moves, "other"].map(|name| model::Backend {
            name: name.to_owned(),
            ..model::Backend::at(Address::Name(format!("{name}.test"), 80))
        });
        let pool = model::Pool {
            name: "pool".into(),
            health,
            outlier_failures: 1,
            on_down: OnDown::Reset,
            backends: backends.into(),
            ..Default::default()
        };
        let model = Model { global: Global::default(), listeners: Vec::new(), pools: vec![pool] };
        let now = Arc::new(build(&model, &resolved(&model, at, other)));
        let (sender, effects) = channel();
        let on_effect = Box::new(move |effect| drop(sender.send(effect)));
        let prober = prober::spawn(now.clone(), Arc::default(), on_effect).unwrap();
        Moving { model, other, now, prober, effects }
    }

    /// The name has these addresses. Returns what the successor knew before the prober saw it.
    fn move_to(&mut self, at: &[SocketAddr]) -> AgentState {
        let resolved = resolved(&self.model, at, self.other);
        let plan = SnapshotPlan { model: &self.model, resolved: &resolved, addresses: &[], states: &[], now: Tick(1) };
        self.now = Arc::new(next(Some(&self.now), &plan));
        let before = self.agent();
        all_read(&self.prober, &self.now);
        before
    }

    fn agent(&self) -> AgentState {
        backend(&self.now.pools[0], 0).agent()
    }

    fn is(&self, bits: impl Fn(&tcplb::pool::Pool, usize) -> bool) -> bool {
        let pool = &self.now.pools[0];
        bits(pool, pool.members[0].slot)
    }

    /// A client fails.
    fn fail(&self) {
        assert!(self.prober.mailbox().offer(failed(&self.now.pools[0], 0)).is_ok());
        all_read(&self.prober, &self.now);
    }
}

fn resolved(model: &Model, moves: &[SocketAddr], other: SocketAddr) -> Resolved {
    let places = [moves, &[other]].map(|at| at.iter().copied().map(Endpoint::Inet).collect());
    let names = model.pools[0].backends.iter().map(|it| ("pool".to_owned(), it.name.clone()));
    names.zip(places).collect()
}

/// An agent that says this.
fn agent(line: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        listener.incoming().flatten().for_each(|mut stream| drop(stream.write_all(line.as_bytes())));
    });
    at
}

#[test]
fn the_report_of_an_agent_holds_until_the_agent_at_the_new_address_speaks() {
    let drains = AgentState { drains: true, percent: Some(50) };
    let (first, speaks) = (agent("drain 50%\n"), agent("ready 80%\n"));
    // Accepts, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let quiet = silent.local_addr().unwrap();
    let health = Health { kind: HealthKind::Agent, interval: HOUR, timeout: HOUR, ..tcp() };
    let mut moving = Moving::start("agent-moves", health, &[first], quiet);
    eventually("its agent drains it", || moving.agent() == drains && !moving.is(|pool, slot| pool.up.get(slot)));
    assert_eq!(moving.move_to(&[quiet]), drains, "its first weight is right");
    assert_eq!((moving.agent(), moving.is(|pool, slot| pool.up.get(slot))), (drains, false));
    // Its round has begun, and takes an hour. The other backend is there too.
    let _asked = [(); 2].map(|()| eventually_some("a probe of each", || silent.accept().ok()));
    assert_eq!(moving.move_to(&[quiet, speaks]), drains);
    let both = AgentState { drains: false, percent: Some(65) };
    eventually("the new agent speaks for its address", || moving.agent() == both);
    eventually("one that does not drain is enough", || moving.is(|pool, slot| pool.up.get(slot)));
    assert_eq!(lines("agent-moves is draining:").len(), 1, "{:?}", lines("agent-moves"));
}

#[test]
fn an_ejection_goes_with_an_address_that_stays_and_ends_with_the_last_one() {
    let servers = [(); 5].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [a, b, c, d, other] = servers.each_ref().map(|server| server.local_addr().unwrap());
    let mut moving = Moving::start("outlier-moves", Health { interval: HOUR, ..tcp() }, &[a, b], other);
    moving.fail();
    moving.move_to(&[b, c]);
    eventually("its successor is let in again", || lines("outlier-moves is let in again").len() == 1);
    moving.fail();
    moving.move_to(&[d]);
    assert!(!moving.is(|pool, slot| pool.ejected.get(slot)), "the server at the new address has failed no client");
    assert!(moving.is(|pool, slot| pool.up.get(slot)));
    moving.fail();
    let out = lines("outlier-moves is left out for ");
    let times: Vec<&str> = out.iter().filter_map(|line| line.split([' ', ':']).nth(6)).collect();
    assert_eq!(times, ["1s", "2s", "1s"], "{out:?}");
}

#[test]
fn a_fall_also_resets_connections_that_were_made_before_an_address_left() {
    let servers = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [a, b, other] = servers.each_ref().map(|server| server.local_addr().unwrap());
    let mut moving = Moving::start("falls-moved", Health { interval: HOUR, fall: 1, ..tcp() }, &[a, b], other);
    let before = backend(&moving.now.pools[0], 0).clone();
    moving.move_to(&[a]);
    moving.fail();
    let now = backend(&moving.now.pools[0], 0);
    assert!(now.continues(&before) && now.id != before.id);
    let effects: Vec<HealthEffect> = moving.effects.try_iter().collect();
    let reset =
        effects.iter().find_map(|effect| if let HealthEffect::Reset(order) = effect { Some(order) } else { None });
    let order = reset.expect("a reset");
    assert_eq!(effects.last(), Some(&HealthEffect::Usable), "the kernel's rules follow");
    assert!([before.id, now.id].iter().all(|id| order.includes(*id, Some(0))), "{order:?}");
}
