//! What figures come to: the totals of listeners, and the marks that may leave.

use super::*;
use crate::admission::ConnectionLimit;
use crate::base::{Address, Listen, Tick};
use crate::config::model::{self, Global, Model};
use crate::kernel::approximation::Approximation;
use crate::kernel::{Planner, wanted};
use crate::mailbox::Mailbox;
use crate::pool::{BoundAddress, BoundAddressId, Resolved, Snapshot, SnapshotPlan, next};
use mio::{Poll, Token};
use std::time::SystemTime;

fn front() -> SocketAddr {
    ([192, 0, 2, 1], 80).into()
}

/// A listener of the kernel with this name, at [`front`], over backends at these ports.
fn snapshot(listener: &str, ports: &[u16]) -> (Model, Arc<Snapshot>) {
    let address = |port| Address::Inet(([10, 0, 0, 1], port).into());
    let backends = ports.iter().map(|port| model::Backend::at(address(*port))).collect();
    let pools = vec![model::Pool { name: "web".into(), backends, ..model::Pool::default() }];
    let listener = model::Listener {
        name: listener.into(),
        pool: "web".into(),
        engine: ListenerEngine::Kernel,
        ..model::Listener::default()
    };
    let model = Model { global: Global::default(), listeners: vec![listener], pools };
    let of_backend = |backend: &model::Backend| {
        let Address::Inet(at) = backend.address else { panic!("{backend:?}") };
        (("web".to_owned(), backend.name.clone()), vec![Endpoint::Inet(at)])
    };
    let resolved: Resolved = model.pools[0].backends.iter().map(of_backend).collect();
    let (id, group) = (BoundAddressId(1), BoundAddressId(1));
    let bound = BoundAddress { id, group, asked: Listen(Address::Inet(front())), endpoint: Endpoint::Inet(front()) };
    let plan =
        SnapshotPlan { model: &model, resolved: &resolved, addresses: &[vec![bound]], states: &[], now: Tick(0) };
    let snapshot = Arc::new(next(None, &plan));
    (model, snapshot)
}

/// The directory of the next rules, after those of another process.
fn directory(planner: &mut Planner, snapshot: &Snapshot) -> Arc<Directory> {
    let table = planner.plan(&wanted::of(snapshot, true, &Approximation::default()));
    Arc::new(Directory::new(snapshot, &table, planner, &Directory::default()))
}

/// A counter without a helper; the poll belongs to its orders.
fn counter(model: Model, snapshot: Arc<Snapshot>) -> (Counter, Poll) {
    let poll = Poll::new().unwrap();
    let (wake, _) = Mailbox::<()>::new(&poll, Token(0), 1).unwrap();
    let model = Arc::new(model);
    let started = (Tick(0), SystemTime::UNIX_EPOCH);
    let published = Published::new(snapshot, model.clone(), model, ConnectionLimit::new(1), started);
    (Counter::new(Arc::default(), Entries::gone(), Arc::new(published), Arc::new(wake.slot())), poll)
}

fn figures(counts: &[(Mark, u64, u64)]) -> Figures {
    let (to, failed, from_clients, to_clients) = (front(), 0, 0, 0);
    let count = |&(mark, active, opened)| Count { mark, to, active, opened, failed, from_clients, to_clients };
    Figures { counts: counts.iter().map(count).collect(), ..Figures::default() }
}

#[test]
fn a_mark_of_a_backend_that_left_before_is_released_once_it_has_no_connection() {
    let mut planner = Planner::default();
    directory(&mut planner, &snapshot("in", &[1, 2]).1);
    let (model, after) = snapshot("in", &[1]);
    let (mut counter, _poll) = counter(model, after.clone());
    counter.directory = directory(&mut planner, &after);
    let [left] = planner.leaving()[..] else { panic!("{:?}", planner.leaving()) };
    assert!(counter.directory.marked(left).is_none());
    (0..3).for_each(|_| counter.add(&figures(&[(left, 1, 0)])));
    assert!(counter.orders.take().is_none(), "its connection counts, known or not");
    counter.add(&figures(&[]));
    assert!(counter.orders.take().is_none(), "one look may pass over an entry");
    // No other mark has lost a connection.
    counter.add(&figures(&[]));
    assert_eq!(counter.orders.take().unwrap().unused, [left]);
    planner.release(left);
    counter.directory = directory(&mut planner, &after);
    (0..3).for_each(|_| counter.add(&figures(&[])));
    assert!(counter.orders.take().is_none() && planner.leaving().is_empty());
}

#[test]
fn connections_of_a_renamed_listener_are_in_its_totals() {
    let mut planner = Planner::default();
    let (model, before) = snapshot("old", &[1]);
    let (mut counter, _poll) = counter(model, before.clone());
    counter.directory = directory(&mut planner, &before);
    let (mark, _) = counter.directory.marks().next().unwrap();
    let totals = |snapshot: &Snapshot| {
        let totals = &snapshot.listeners[0].totals;
        (totals.accepted(), totals.active())
    };
    counter.add(&figures(&[(mark, 2, 2)]));
    assert_eq!(totals(&before), (2, 2));
    let (_, after) = snapshot("new", &[1]);
    counter.directory = directory(&mut planner, &after);
    counter.add(&figures(&[(mark, 3, 1)]));
    assert_eq!((totals(&before), totals(&after)), ((2, 0), (1, 3)));
    counter.add(&figures(&[]));
    assert_eq!((totals(&before), totals(&after)), ((2, 0), (1, 0)));
}

#[test]
fn looks_take_a_hundredth_of_a_core_unless_counts_are_to_be_fresh() {
    for (cpu, idle, fresh) in [
        (0, 1_000, 1_000),
        (5, 1_000, 1_000),
        (20, 2_000, 1_000),
        (80, 8_000, 1_600),
        (500, 10_000, 10_000),
        (900, 18_000, 18_000),
    ] {
        let pauses = [false, true].map(|fresh| pause(Duration::from_millis(cpu), fresh).as_millis());
        assert_eq!(pauses, [idle, fresh], "{cpu} ms");
    }
}

#[test]
fn a_drain_that_is_not_over_has_the_next_look_soon() {
    let (model, before) = snapshot("in", &[1]);
    // No listener leads there any more.
    let listeners = vec![model::Listener { engine: ListenerEngine::Proxy, ..model.listeners[0].clone() }];
    let after = crate::pool::build(&Model { listeners, ..model.clone() }, &Resolved::new());
    let (mut counter, _poll) = counter(model, before);
    let backend = after.pools[0].members[0].backend.clone();
    let cpu = Duration::from_millis(80);
    let ended = Instant::now();
    counter.looked = (ended, cpu);
    let next = |counter: &Counter| (counter.next_look() - ended).as_millis();
    counter.directory = directory(&mut Planner::default(), &after);
    assert_eq!(next(&counter), 8_000);
    backend.expect_clients();
    counter.directory = directory(&mut Planner::default(), &after);
    assert_eq!(next(&counter), 1_600);
    counter.note_unled();
    assert_eq!(next(&counter), 8_000);
    let mut its = Forwarded::new(backend);
    its.set(1);
    assert_eq!(next(&counter), 1_600);
    drop(its);
    counter.is_outdated = true;
    assert_eq!(next(&counter), 1_600);
}
