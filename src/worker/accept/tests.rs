use super::*;
use crate::base::Listen as Asked;
use crate::config::model::{self, Global, Model};
use crate::pool::{self, BoundAddress, Resolved, SnapshotPlan};
use mio::Poll;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// What is left of the queue of a listening socket made of memory, and what was done with it.
#[derive(Default)]
struct Queue {
    waiting: Cell<u32>,
    accepted: Cell<u32>,
    reset: Rc<Cell<u32>>,
    error: Cell<Option<Errno>>,
    gave_up: Cell<u32>,
    calls: Cell<u32>,
    inherited: Cell<bool>,
    stopped: Cell<bool>,
    closed: Cell<bool>,
}

struct Fake(Rc<Queue>);

/// A client: where it was accepted.
struct Client(Rc<Queue>);

impl Listen for Fake {
    type Socket = Client;

    fn accept(&self) -> io::Result<(Client, Option<Endpoint>)> {
        self.0.calls.set(self.0.calls.get() + 1);
        if let Some(error) = self.0.error.get() {
            return Err(error.into());
        }
        if self.0.gave_up.get() > 0 {
            self.0.gave_up.set(self.0.gave_up.get() - 1);
            return Err(Errno::CONNABORTED.into());
        }
        if self.0.waiting.get() == 0 {
            return Err(Errno::AGAIN.into());
        }
        self.0.waiting.set(self.0.waiting.get() - 1);
        self.0.accepted.set(self.0.accepted.get() + 1);
        Ok((Client(self.0.clone()), None))
    }

    fn is_unix(&self) -> bool {
        false
    }

    fn is_inherited(&self) -> bool {
        self.0.inherited.get()
    }

    fn queue_limit(&self) -> u32 {
        QUEUE
    }

    fn stop_queueing(&self) {
        self.0.stopped.set(true);
    }

    fn reset(socket: Client) {
        socket.0.reset.set(socket.0.reset.get() + 1);
    }

    fn watch(&self, _: &Registry, _: Token) -> io::Result<()> {
        Ok(())
    }

    fn copy(&self) -> io::Result<OwnedFd> {
        Ok(io::pipe()?.0.into())
    }

    fn unwatch(&self, _: &Registry) {
        self.0.closed.set(true);
    }
}

/// What a fake's queue can hold.
const QUEUE: u32 = 100;

/// More than any test takes.
const FLOOD: u32 = 1_000_000;

struct Bench {
    acceptor: Acceptor<Fake>,
    queues: Vec<Rc<Queue>>,
    process: Arc<ConnectionLimit>,
    spares: Spares,
    now: Tick,
    served: RefCell<Vec<Accepted<Client>>>,
}

/// A snapshot of listeners with these limits, each at an address with its number.
fn snapshot(limits: &[Option<u32>]) -> Arc<Snapshot> {
    let asked = |number| Asked::parse(&format!("127.0.0.1:{}", 1000 + number)).unwrap();
    let listener = |(number, limit): (usize, &Option<u32>)| model::Listener {
        name: number.to_string(),
        bind: vec![asked(number)],
        max_connections: *limit,
        ..model::Listener::default()
    };
    let listeners = limits.iter().enumerate().map(listener).collect();
    let model = Model { global: Global::default(), listeners, pools: vec![model::Pool::default()] };
    let address = |number: usize| {
        let id = BoundAddressId(number as u32);
        let endpoint = Endpoint::Inet(format!("127.0.0.1:{}", 1000 + number).parse().unwrap());
        vec![BoundAddress { id, group: id, asked: asked(number), endpoint }]
    };
    let addresses: Vec<_> = (0..limits.len()).map(address).collect();
    let plan =
        SnapshotPlan { model: &model, resolved: &Resolved::new(), addresses: &addresses, states: &[], now: Tick(1) };
    Arc::new(pool::next(None, &plan))
}

impl Bench {
    /// A socket for each listener, and room for so many clients in all of the process.
    fn new(limits: &[Option<u32>], room: usize) -> Bench {
        let queues: Vec<Rc<Queue>> = limits.iter().map(|_| Rc::default()).collect();
        let snapshot = snapshot(limits);
        let socket = |(number, queue): (usize, &Rc<Queue>)| {
            let id = BoundAddressId(number as u32);
            ListenSocket::new(id, snapshot.listener_of(id).unwrap().clone(), Fake(queue.clone()))
        };
        let sockets = queues.iter().enumerate().map(socket).collect();
        let registry = Poll::new().unwrap().registry().try_clone().unwrap();
        let acceptor = Acceptor::new(sockets, registry).unwrap();
        let (spares, served) = (Spares::default(), RefCell::default());
        Bench { acceptor, queues, process: ConnectionLimit::new(room), spares, now: Tick(1_000_000), served }
    }

    fn knock(&mut self, number: usize, clients: u32) {
        self.queues[number].waiting.set(clients);
        self.acceptor.ready(number as u32);
    }

    /// One loop of the worker, whose clients stay; how many it took.
    fn turn(&mut self) -> usize {
        let mut taken = 0;
        while let Turn::Client(client) = self.acceptor.next(&self.process, &mut self.spares, self.now) {
            self.served.borrow_mut().push(client);
            taken += 1;
        }
        taken
    }

    fn accepted(&self, number: usize) -> u32 {
        self.queues[number].accepted.get()
    }

    fn remove(&mut self, rest: &[Option<u32>]) {
        let (process, spares) = (self.process.clone(), &mut self.spares);
        self.acceptor.adopt(&snapshot(rest), Vec::new(), &process, spares, self.now);
    }

    fn drain(&mut self) {
        let process = self.process.clone();
        self.acceptor.drain(&process, &mut self.spares, self.now);
    }
}

#[test]
fn each_ready_socket_gets_its_share_of_every_loop() {
    for sockets in [1, 2, 3, 7, 64] {
        let mut bench = Bench::new(&vec![None; sockets], usize::MAX);
        (0..sockets).for_each(|number| bench.knock(number, FLOOD));
        for turns in 1..=5 {
            assert_eq!(bench.turn(), BATCH as usize);
            for number in 0..sockets {
                let least = turns * (BATCH / sockets as u32);
                assert!(
                    bench.accepted(number) >= least,
                    "{number} of {sockets}: {} in {turns}",
                    bench.accepted(number)
                );
            }
        }
    }
}

#[test]
fn more_sockets_than_a_batch_take_turns() {
    let sockets = 100;
    let mut bench = Bench::new(&vec![None; sockets], usize::MAX);
    (0..sockets).for_each(|number| bench.knock(number, FLOOD));
    (0..25).for_each(|_| assert_eq!(bench.turn(), BATCH as usize));
    for number in 0..sockets {
        assert_eq!(bench.accepted(number), 25 * BATCH / sockets as u32, "{number}");
    }
}

#[test]
fn a_client_beside_a_flood_is_taken_in_the_same_loop() {
    for order in [[0, 1], [1, 0]] {
        let mut bench = Bench::new(&[None, None], usize::MAX);
        bench.knock(order[0], FLOOD);
        for turn in 0..10 {
            bench.knock(order[1], 1);
            assert_eq!(bench.turn(), BATCH as usize, "what one does not use goes to the other");
            assert_eq!(bench.accepted(order[1]), turn + 1);
        }
    }
}

#[test]
fn places_that_become_free_go_to_each_socket_in_turn() {
    let mut bench = Bench::new(&[None, None, None], 1);
    (0..3).for_each(|number| bench.knock(number, FLOOD));
    for turn in 1..=9 {
        assert_eq!(bench.turn(), 1);
        assert_eq!(bench.turn(), 0, "no room");
        assert_eq!(bench.acceptor.sleep(), None, "the end of a connection wakes it");
        bench.served.borrow_mut().clear();
        bench.acceptor.resume();
        assert_eq!((0..3).map(|number| bench.accepted(number)).sum::<u32>(), turn);
    }
    assert_eq!([0, 1, 2].map(|number| bench.accepted(number)), [3, 3, 3]);
}

#[test]
fn a_listener_at_its_limit_does_not_hold_up_others() {
    let mut bench = Bench::new(&[Some(2), None], usize::MAX);
    bench.knock(0, FLOOD);
    bench.knock(1, 5);
    assert_eq!(bench.turn(), 7);
    assert_eq!((bench.accepted(0), bench.accepted(1)), (2, 5));
    assert_eq!((bench.turn(), bench.acceptor.sleep()), (0, None));
    bench.served.borrow_mut().clear();
    bench.acceptor.resume();
    assert_eq!((bench.turn(), bench.accepted(0)), (2, 4));
}

#[test]
fn an_accept_that_keeps_failing_rests_and_others_go_on() {
    for error in [Errno::PERM, Errno::OPNOTSUPP, Errno::INVAL, Errno::CONNABORTED] {
        let mut bench = Bench::new(&[None, None], usize::MAX);
        bench.queues[0].error.set(Some(error));
        bench.knock(0, FLOOD);
        for turn in 1..=100 {
            bench.knock(1, 3);
            bench.turn();
            assert_eq!(bench.accepted(1), 3 * turn);
        }
        assert_eq!(bench.queues[0].calls.get(), FAILURES, "{error}: it rests");
        assert_eq!(bench.acceptor.sleep(), Some(PAUSE));
        bench.now = bench.now + PAUSE;
        bench.turn();
        assert_eq!(bench.queues[0].calls.get(), FAILURES + 1, "{error}: one try, then it rests again");
        bench.queues[0].error.set(None);
        bench.now = bench.now + PAUSE;
        assert_eq!((bench.turn(), bench.accepted(0)), (BATCH as usize, BATCH), "it goes on");
    }
}

#[test]
fn clients_that_gave_up_while_they_waited_hold_up_no_other_client() {
    let mut bench = Bench::new(&[None], usize::MAX);
    for round in 1..=100 {
        bench.queues[0].gave_up.set(FAILURES - 1);
        bench.knock(0, 2);
        // One that gave up counts as one of the loop's.
        (0..2).for_each(|_| _ = bench.turn());
        assert_eq!(bench.accepted(0), 2 * round);
    }
}

#[test]
fn without_a_descriptor_all_wait_for_one_pause_or_a_connection_that_ends() {
    let mut bench = Bench::new(&[None, None], usize::MAX);
    bench.queues[0].error.set(Some(Errno::MFILE));
    bench.knock(0, 1);
    bench.knock(1, 1);
    assert_eq!((bench.turn(), bench.turn(), bench.turn()), (0, 0, 0));
    assert_eq!((bench.queues[0].calls.get(), bench.acceptor.sleep()), (1, Some(PAUSE)));
    bench.queues[0].error.set(None);
    bench.acceptor.descriptors_freed();
    assert_eq!(bench.turn(), 2);
}

#[test]
fn a_drain_serves_the_clients_that_wait_and_no_more_than_the_queue_can_hold() {
    for (waiting, served) in [(0, 0), (1, 1), (90, 90), (FLOOD, QUEUE)] {
        let mut bench = Bench::new(&[None], usize::MAX);
        // No event was read for them yet.
        bench.queues[0].waiting.set(waiting);
        bench.drain();
        assert!(bench.queues[0].closed.get(), "at once");
        assert_eq!(bench.acceptor.is_closed(), served == 0);
        let mut loops = 0;
        while bench.turn() > 0 {
            loops += 1;
        }
        assert_eq!((bench.served.borrow().len() as u32, loops), (served, served.div_ceil(BATCH)));
        assert!(bench.acceptor.is_closed());
    }
}

#[test]
fn a_removed_listener_closes_at_once_and_other_listeners_are_served_beside_its_clients() {
    let mut bench = Bench::new(&[None, None], usize::MAX);
    bench.queues[1].waiting.set(FLOOD);
    bench.remove(&[None]);
    assert_eq!((bench.queues[1].closed.get(), bench.queues[0].closed.get()), (true, false));
    assert_eq!((bench.accepted(1), bench.acceptor.sleep()), (QUEUE, Some(Duration::ZERO)));
    bench.knock(0, BATCH / 2);
    bench.turn();
    assert_eq!(bench.accepted(0), BATCH / 2, "half of the loop's");
    while bench.turn() > 0 {}
    assert_eq!(bench.served.borrow().len() as u32, QUEUE + BATCH / 2);
    assert!(!bench.acceptor.is_closed());
}

#[test]
fn a_removed_listener_without_room_keeps_its_clients_for_a_while_and_lets_no_further_one_queue() {
    for (limits, room) in [([None, Some(2)], usize::MAX), ([None, None], 2)] {
        let mut bench = Bench::new(&limits, room);
        bench.knock(1, 5);
        assert_eq!(bench.turn(), 2);
        bench.remove(&[None]);
        assert!(bench.queues[1].stopped.get() && !bench.queues[1].closed.get());
        bench.served.borrow_mut().truncate(1);
        bench.acceptor.resume();
        bench.now = bench.now + PAUSE;
        assert_eq!((bench.turn(), bench.accepted(1)), (1, 3), "one left, one is served");
        bench.now = bench.now + LEAVE;
        bench.turn();
        assert!(bench.queues[1].closed.get());
    }
}

#[test]
fn a_drain_without_room_lasts_as_long_as_clients_wait() {
    let mut bench = Bench::new(&[None], 1);
    bench.knock(0, 3);
    assert_eq!(bench.turn(), 1);
    bench.drain();
    bench.now = bench.now + 10 * LEAVE;
    for served in 1..=3 {
        assert_eq!((bench.turn(), bench.accepted(0)), (usize::from(served > 1), served));
        assert!(!bench.queues[0].closed.get());
        bench.served.borrow_mut().clear();
        bench.acceptor.resume();
    }
    bench.turn();
    assert!(bench.queues[0].closed.get() && bench.acceptor.is_closed());
}

#[test]
fn a_drain_does_not_wait_for_an_accept_that_keeps_failing() {
    let mut bench = Bench::new(&[None], 1);
    bench.queues[0].error.set(Some(Errno::PERM));
    bench.drain();
    assert!(bench.acceptor.is_closed());
}

#[test]
fn a_socket_of_the_service_manager_refuses_clients_until_its_listener_is_put_back() {
    let mut bench = Bench::new(&[None, None], 1);
    bench.queues[1].inherited.set(true);
    bench.remove(&[None]);
    assert!(!bench.queues[1].closed.get());
    bench.knock(0, 1);
    bench.turn();
    bench.knock(1, 3);
    bench.turn();
    assert_eq!((bench.queues[1].reset.get(), bench.queues[1].waiting.get()), (3, 0), "even without room");
    let (queue, next) = (Rc::new(Queue::default()), snapshot(&[None, None]));
    let id = BoundAddressId(1);
    let socket = ListenSocket::new(id, next.listener_of(id).unwrap().clone(), Fake(queue.clone()));
    let process = bench.process.clone();
    bench.acceptor.adopt(&next, vec![socket], &process, &mut bench.spares, bench.now);
    assert!(bench.queues[1].closed.get() && !queue.closed.get());
    bench.served.borrow_mut().clear();
    bench.acceptor.resume();
    queue.waiting.set(1);
    bench.acceptor.ready(1);
    assert_eq!((bench.turn(), queue.reset.get()), (1, 0));
}

#[test]
fn closing_gives_back_the_clients_that_were_taken_in() {
    let mut bench = Bench::new(&[None], usize::MAX);
    bench.queues[0].waiting.set(80);
    bench.drain();
    bench.turn();
    assert_eq!(bench.acceptor.close().count(), 80 - BATCH as usize);
    assert!(bench.acceptor.is_closed());
}
