//! An operator lists and closes connections, in any state of theirs, while a slice of the worker's time takes a few steps.

use super::oracle::Oracle;
use super::world::SimNet;
use super::{Simulation, run_one};
use std::cell::RefCell;
use std::collections::BTreeSet;
use tcplb::base::Endpoint;
use tcplb::inspect::{Action, Filter, Inspect, Inspection, Joined, Question, Sort, ask};
use tcplb::relay::Engine;
use tcplb::session::Live;
use tcplb::worker::driver::Driver;

/// The one worker of a simulation. It answers at once.
struct Worker<'a> {
    driver: RefCell<&'a mut Driver<SimNet, Oracle>>,
    /// Steps per slice.
    steps: u32,
}

impl Inspect for Worker<'_> {
    fn workers(&self) -> usize {
        1
    }

    fn put(&self, _: usize, mut inspection: Inspection) {
        let mut driver = self.driver.borrow_mut();
        let mut slice = || {
            let mut left = self.steps;
            driver.inspect(&mut inspection, || {
                let is_over = left == 0;
                left = left.saturating_sub(1);
                is_over
            })
        };
        while !slice() {}
        inspection.answer();
    }

    fn has_ended(&self, _: usize) -> bool {
        false
    }
}

impl Simulation {
    fn ask(&mut self, driver: usize, filter: Filter, action: Action) -> Joined {
        let steps = 1 + self.random(5);
        let now = self.world.borrow().now;
        let worker = Worker { driver: RefCell::new(&mut self.drivers[driver]), steps };
        ask(&worker, Question { filter, action }, || now)
    }

    /// The list has each connection once, as it is, in order.
    fn list(&mut self, driver: usize) -> Joined {
        let (_, sort) = Sort::NAMES[self.random(3) as usize];
        let listed = self.ask(driver, Filter::default(), Action::List { sort, limit: 100 });
        assert_eq!(listed.rows.len(), self.drivers[driver].len());
        let world = self.world.borrow();
        let order = |row: &tcplb::inspect::Row| match sort {
            Sort::Age => (row.since.map_or(0, |since| since.0), row.id.0),
            Sort::Idle => (row.last_byte.map_or(0, |last| last.0), row.id.0),
            Sort::Bytes => (u64::MAX - row.bytes_to_backend - row.bytes_to_client, row.id.0),
        };
        assert!(listed.rows.is_sorted_by_key(order), "{sort:?}: {:?}", listed.rows);
        for row in &listed.rows {
            let Some(Endpoint::Inet(at)) = row.client else { panic!("the client's address is lost") };
            let conn = &world.conns[usize::from(at.port())];
            let number = conn.client.expect("a client");
            let client = &world.socks[number];
            let backend = conn.backend.filter(|_| conn.connected);
            assert!(client.open && row.since == Some(conn.accepted) && Live::STATES.contains(&row.state), "{row:?}");
            assert_eq!(row.backend.is_some(), !["preamble", "sniffing", "waiting"].contains(&row.state), "{row:?}");
            assert_eq!(["relaying", "half_closed", "resetting"].contains(&row.state), conn.connected, "{row:?}");
            let bytes = backend.map_or((0, 0), |backend| (world.stream_written(backend), world.stream_written(number)));
            assert_eq!((row.bytes_to_backend, row.bytes_to_client), bytes, "{row:?}");
        }
        drop(world);
        listed
    }

    /// Lists the connections and closes one of them; the others stay.
    pub fn operate(&mut self) {
        let driver = self.random(2) as usize;
        let listed = self.list(driver);
        if listed.rows.is_empty() {
            return;
        }
        let row = &listed.rows[self.random(listed.rows.len() as u32) as usize];
        let only = Filter { id: Some(row.id), ..Filter::default() };
        *self.closing.borrow_mut() = true;
        assert_eq!(self.ask(driver, only.clone(), Action::Close).closed, 1);
        *self.closing.borrow_mut() = false;
        assert_eq!(self.ask(driver, only, Action::Close).closed, 0);
        assert_eq!(self.drivers[driver].len(), listed.rows.len() - 1);
        self.closed_in.insert(row.state);
        self.deliver_stale();
        self.check_endings();
        self.list(driver);
    }
}

#[test]
fn an_operator_closes_connections_in_every_state() {
    let mut closed_in = BTreeSet::new();
    for seed in 0.. {
        closed_in.extend(run_one(seed, Engine::Adaptive).closed_in);
        if closed_in.len() == Live::STATES.len() {
            break;
        }
        assert!(seed < 10_000, "only in {closed_in:?}");
    }
}
