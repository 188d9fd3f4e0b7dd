//! Connections leave their driver at any point of their lives. They come back, or go to the other driver through the record that
//! another process would get.

use super::Simulation;
use super::world::{SimPipe, SimSocket, World};
use std::collections::BTreeSet;
use std::time::Duration;
use tcplb::base::Endpoint;
use tcplb::config::model::Model;
use tcplb::pool;
use tcplb::relay::Engine;
use tcplb::session::{CloseReason, ConnectionId, Direction, Stage};
use tcplb::worker::driver::transit::{Detached, Incoming, Record};

/// What ten thousand seeds must have carried, and whether it held bytes.
pub const CARRIED: [(&str, bool); 14] = [
    ("carried while its header is read:", false),
    ("carried while its header is read:", true),
    ("carried while its first bytes are looked at:", false),
    ("carried while its first bytes are looked at:", true),
    ("carried while it waits:", false),
    ("carried while it waits:", true),
    ("carried while it dials:", false),
    ("carried while it relays:", false),
    ("carried while it relays:", true),
    ("carried half closed:", false),
    ("carried half closed:", true),
    ("carried while a side has failed:", false),
    ("carried while a side has failed:", true),
    ("came back", false),
];

fn state(record: &Record) -> &'static str {
    match (record.session.stage, &record.session.relay) {
        (_, Some(relay)) if relay.failed.is_some() => "carried while a side has failed:",
        (_, Some(relay)) if relay.first_fin.is_some() => "carried half closed:",
        (_, Some(_)) => "carried while it relays:",
        (Stage::Preamble, _) => "carried while its header is read:",
        (Stage::Sniffing, _) => "carried while its first bytes are looked at:",
        (Stage::Waiting, _) => "carried while it waits:",
        (Stage::Dialing | Stage::Requesting, _) => "carried while it dials:",
        (stage, _) => panic!("taken out in {stage:?}"),
    }
}

impl Simulation {
    /// Takes connections out of a driver. Their peers go on meanwhile, and perhaps the operator does.
    pub fn transit(&mut self) {
        let (from, most) = (self.random(2) as usize, 1 + self.random(4) as usize);
        let before = self.drivers[from].len();
        let taken = self.drivers[from].take_out(most);
        assert_eq!((taken.left, before), (self.drivers[from].len(), taken.left + taken.connections.len()));
        self.check_clients(taken.connections.len());
        self.deliver_stale();
        let comes_back = self.random(3) == 0;
        for _ in 0..self.random(8) {
            let ids = self.world.borrow().open_sockets();
            let id = if ids.is_empty() { None } else { Some(ids[self.random(ids.len() as u32) as usize]) };
            id.into_iter().for_each(|id| self.world.borrow_mut().peer_acts(id));
        }
        if comes_back && self.random(2) == 0 {
            let time = [1, 300, 6_000][self.random(3) as usize];
            self.pass(Duration::from_millis(time));
            self.change();
        }
        for detached in taken.connections {
            if comes_back {
                self.carried.push(("came back", false));
                self.drivers[from].put_back(detached, &self.snapshot);
            } else {
                self.carry(detached, 1 - from);
            }
            self.deliver_stale();
        }
        self.check_clients(0);
        self.check_endings();
    }

    /// Gives another driver what another process gets of a connection.
    fn carry(&mut self, detached: Detached<SimSocket, SimPipe>, to: usize) {
        let text = serde_json::to_string(detached.record()).expect("it can be written");
        let record: Record = serde_json::from_str(&text).expect("it can be read");
        assert_eq!(&record, detached.record());
        let (up, down) = (detached.pipe(Direction::Up), detached.pipe(Direction::Down));
        let holds = up.is_some() || down.is_some() || !record.up.bytes.is_empty() || !record.down.bytes.is_empty();
        self.carried.push((state(&record), holds));
        if matches!(record.session.stage, Stage::Dialing | Stage::Requesting) {
            self.world.borrow_mut().dial_given_up(detached.client(), record.session.attempts);
        }
        let (client, backend) = (detached.client().clone(), detached.backend().cloned());
        let incoming = Incoming { record, client, backend, up: up.cloned(), down: down.cloned() };
        drop(detached);
        let put_in = self.drivers[to].put_in(incoming, &self.snapshot, &self.connection_limit);
        put_in.expect("it fits together");
    }

    /// Each client is counted once, whether its driver has it or it was taken out.
    fn check_clients(&self, out: usize) {
        let clients = out + self.drivers.iter().map(|driver| driver.len()).sum::<usize>();
        assert_eq!(self.connection_limit.active(), clients);
        assert_eq!(self.snapshot.listeners[0].totals.active(), clients);
    }
}

/// All connections that relay go to the other driver, under a configuration that was changed like this.
fn relay_on(seed: u64, change: fn(&mut Model)) -> usize {
    let mut simulation = Simulation::new(seed, Engine::Adaptive);
    simulation.connect();
    simulation.live();
    simulation.world.borrow_mut().lively = false;
    change(&mut simulation.model);
    simulation.snapshot = pool::build(&simulation.model, &simulation.resolved);
    let mut carried = 0;
    for from in [0, 1] {
        for detached in simulation.drivers[from].take_out(usize::MAX).connections {
            if detached.backend().is_some() {
                carried += 1;
                simulation.carry(detached, 1 - from);
            }
        }
    }
    simulation.deliver_stale();
    simulation.deliver_all();
    *simulation.stopped.borrow_mut() = true;
    simulation.drivers.iter_mut().for_each(|driver| driver.stop_all(CloseReason::Shutdown));
    simulation.check_endings();
    assert_eq!((simulation.connection_limit.active(), simulation.world.borrow().open_sockets().len()), (0, 0));
    carried
}

#[test]
fn a_connection_relays_on_where_its_backend_its_pool_or_its_listener_is_gone() {
    let changes: [fn(&mut Model); 4] = [
        |model| model.pools[0].backends.clear(),
        |model| {
            model.pools[0].name = "another".into();
            model.pools[0].backends.clear();
            model.listeners[0].pool = "another".into();
        },
        |model| model.listeners[0].name = "another".into(),
        |model| *model = Model { global: model.global.clone(), listeners: Vec::new(), pools: Vec::new() },
    ];
    for change in changes {
        let carried: usize = (0..200).map(|seed| relay_on(seed, change)).sum();
        assert!(carried > 50, "only {carried}");
    }
}

#[test]
fn what_does_not_fit_together_is_refused_and_comes_back_whole() {
    let mut refused_for = BTreeSet::new();
    for seed in 0..300 {
        let mut simulation = Simulation::new(seed, Engine::Splice);
        simulation.connect();
        simulation.live();
        for detached in simulation.drivers[0].take_out(usize::MAX).connections {
            let (client, backend) = (detached.client().clone(), detached.backend().cloned());
            let pipe = |direction| detached.pipe(direction).cloned();
            let (up, down) = (pipe(Direction::Up), pipe(Direction::Down));
            let mut incoming = Incoming { record: detached.record().clone(), client, backend, up, down };
            if matches!(detached.record().session.stage, Stage::Dialing | Stage::Requesting) {
                let failed = detached.record().session.attempts;
                simulation.world.borrow_mut().dial_given_up(detached.client(), failed);
            }
            drop(detached);
            for spoil in SPOILS {
                let whole = incoming.record.clone();
                let descriptors = [incoming.backend.is_some(), incoming.up.is_some(), incoming.down.is_some()];
                let (backend, up) = (incoming.backend.clone(), incoming.up.clone());
                if spoil(&mut incoming) {
                    let put_in =
                        simulation.drivers[1].put_in(incoming, &simulation.snapshot, &simulation.connection_limit);
                    let refused = put_in.expect_err("it does not fit together");
                    refused_for.insert(refused.why);
                    incoming = refused.incoming;
                }
                (incoming.record, incoming.backend, incoming.up) = (whole, backend, up);
                let after = [incoming.backend.is_some(), incoming.up.is_some(), incoming.down.is_some()];
                assert_eq!(descriptors, after);
            }
            let put_in = simulation.drivers[1].put_in(incoming, &simulation.snapshot, &simulation.connection_limit);
            put_in.expect("it is whole again");
        }
        simulation.check_clients(0);
        simulation.deliver_stale();
        simulation.settle();
        simulation.end();
    }
    assert_eq!(refused_for.len(), SPOILS.len(), "{refused_for:?}");
}

type Spoil = fn(&mut Incoming<SimSocket, SimPipe>) -> bool;

/// Faults, where a connection can have them.
const SPOILS: [Spoil; 7] = [
    |incoming| incoming.backend.take().is_some(),
    |incoming| incoming.up.take().is_some(),
    |incoming| {
        incoming.record.id = ConnectionId(1 << 53);
        true
    },
    |incoming| {
        incoming.record.session.stage = Stage::Closed;
        true
    },
    |incoming| incoming.record.session.relay.take().is_some(),
    |incoming| {
        incoming.record.session.relay.as_mut().map(|relay| relay.up.held = true).is_some() && spoil_held(incoming)
    },
    |incoming| incoming.record.backend.take().is_some(),
];

/// The bytes that it holds are missing.
fn spoil_held(incoming: &mut Incoming<SimSocket, SimPipe>) -> bool {
    incoming.record.up.bytes.clear();
    incoming.record.up.in_pipe == 0
}

impl World {
    /// The dial under way does not count, and the next choice may give the same backend. So many attempts have failed.
    fn dial_given_up(&mut self, client: &SimSocket, failed: u32) {
        let conn = self.socks[client.id].conn;
        let conn = &mut self.conns[conn];
        let host = |at: &Endpoint| at.ip();
        let last = conn.dialed.last().and_then(host);
        conn.dialed.retain(|at| host(at) != last);
        conn.dials = failed;
    }
}
