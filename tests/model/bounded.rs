//! What a worker does between two looks at its poll is bounded, whatever number of connections, bytes, deadlines and backends there
//! are. Counted, without a clock: the driver is real, over sockets that always have bytes or never.

use proptest::prelude::*;
use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tcplb::admission::ConnectionLimit;
use tcplb::base::{Address, Endpoint, Tick};
use tcplb::config::model::{self, Model};
use tcplb::pool::{self, DialSource, Snapshot, SnapshotPlan};
use tcplb::relay::{AfterBytes, CHUNK, Engine, Io, RelayResources};
use tcplb::session::{self, ConnectionIds, Fact, Ledger, Side};
use tcplb::worker::driver::{ALONE, Accepted, BESIDE, Dialed, Driver, Event, FirstBytes, Net, Transport};
use tcplb::worker::token::{SocketId, Token};

/// What may move between two looks, of events and of each of the two queues. The last read of each of the three may begin just below
/// a turn.
const LOOP: u64 = 6 * ALONE as u64;

/// The same beside small messages.
const LOOP_BESIDE: u64 = 6 * BESIDE as u64;

const IDLE: Duration = Duration::from_secs(60);

/// A socket, whose peer sends a message of this size for each announcement; one of [`u64::MAX`] never ends, and 0 is none.
#[derive(Clone)]
struct Peer {
    message: u64,
    unread: Rc<Cell<u64>>,
    number: usize,
    token: Rc<Cell<Option<SocketId>>>,
}

/// What has been done.
#[derive(Clone, Default)]
struct Work {
    /// Bytes that were read.
    read: Rc<Cell<u64>>,
    /// System calls.
    calls: Rc<Cell<u64>>,
    /// Turns of each connection, by the number of its client.
    turns: Rc<Cell<Vec<u64>>>,
}

impl Work {
    fn count(cell: &Cell<u64>, more: u64) {
        cell.set(cell.get() + more);
    }

    fn take(&self) -> (u64, u64) {
        (self.read.take(), self.calls.take())
    }
}

struct Kernel {
    work: Work,
    /// Tokens of the backends' sockets, in the order of the dials.
    dialed: Vec<Rc<Cell<Option<SocketId>>>>,
}

impl Kernel {
    fn read(&mut self, socket: &Peer, room: u64) -> io::Result<usize> {
        Work::count(&self.work.calls, 1);
        let read = socket.unread.get().min(room);
        if read == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        if socket.message < u64::MAX {
            socket.unread.set(socket.unread.get() - read);
        }
        Work::count(&self.work.read, read);
        let mut turns = self.work.turns.take();
        turns.resize(turns.len().max(socket.number + 1), 0);
        turns[socket.number] += 1;
        self.work.turns.set(turns);
        Ok(read as usize)
    }
}

impl Io for Kernel {
    type Socket = Peer;
    type Pipe = ();

    fn recv(&mut self, socket: &Peer, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(socket, buffer.len() as u64)
    }

    fn send(&mut self, _socket: &Peer, bytes: &[u8], _then: AfterBytes) -> io::Result<usize> {
        Work::count(&self.work.calls, 1);
        Ok(bytes.len())
    }

    fn pipe(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn fill(&mut self, socket: &Peer, _pipe: &(), most: usize) -> io::Result<usize> {
        self.read(socket, most as u64)
    }

    fn empty(&mut self, _pipe: &(), _socket: &Peer, bytes: usize) -> io::Result<usize> {
        Work::count(&self.work.calls, 1);
        Ok(bytes)
    }
}

fn id(token: Token) -> Option<SocketId> {
    if let Token::Socket(id) = token { Some(id) } else { None }
}

impl Net for Kernel {
    fn adopt(&mut self, socket: &Peer, token: Token) -> io::Result<()> {
        socket.token.set(id(token));
        Ok(())
    }

    fn release(&mut self, _socket: &Peer) {}

    fn dial(&mut self, _to: &Endpoint, _from: DialSource<'_>, token: Token, _: FirstBytes) -> io::Result<Dialed<Peer>> {
        let token = Rc::new(Cell::new(id(token)));
        self.dialed.push(token.clone());
        Ok(Dialed {
            socket: Peer { message: 0, unread: Rc::default(), number: 0, token },
            is_connected: true,
            source: None,
        })
    }

    fn has_bytes(&mut self, _socket: &Peer) -> io::Result<bool> {
        Ok(false)
    }

    fn peek(&mut self, _socket: &Peer, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn local(&mut self, _socket: &Peer) -> Option<Endpoint> {
        None
    }

    fn outcome(&mut self, _socket: &Peer) -> Option<io::Error> {
        None
    }

    fn keep_alive(&mut self, _socket: &Peer) {}

    fn finish(&mut self, _socket: &Peer) {}

    fn unsent(&mut self, _socket: &Peer) -> u64 {
        0
    }

    fn reset(&mut self, _socket: Peer) {
        Work::count(&self.work.calls, 1);
    }

    fn has_urgent_gaps(&self, _to: &Endpoint) -> bool {
        false
    }
}

/// Counts how often byte counters were added to the totals.
#[derive(Clone, Default)]
struct Counted(Rc<Cell<u64>>);

impl Ledger for Counted {
    fn record(&mut self, fact: Fact<'_>, _now: Tick) {
        if let Fact::Relayed { .. } = fact {
            Work::count(&self.0, 1);
        }
    }
}

struct Bench {
    driver: Driver<Kernel, Counted>,
    work: Work,
    counted: Counted,
    clients: Vec<Peer>,
    model: Model,
    snapshot: Snapshot,
    now: Tick,
}

impl Bench {
    /// Connections that relay, of clients that send messages of these sizes.
    fn new(engine: Engine, messages: &[u64]) -> Bench {
        let at = |port: usize| SocketAddr::from(([127, 0, 0, 1], port as u16));
        let backends = (0..3).map(|n| model::Backend::at(Address::Inet(at(n + 1)))).collect();
        let pool = model::Pool { idle_timeout: IDLE, max_lifetime: None, backends, ..model::Pool::default() };
        let listeners = vec![model::Listener { pool: pool.name.clone(), ..model::Listener::default() }];
        let model = Model { global: model::Global::default(), listeners, pools: vec![pool] };
        let snapshot = pool::build(&model, &resolved(&model));
        let (work, counted) = (Work::default(), Counted::default());
        let kernel = Kernel { work: work.clone(), dialed: Vec::new() };
        let relay = RelayResources::new(engine, 8);
        let driver = Driver::new(kernel, counted.clone(), relay, ConnectionIds::new(0, 0), 7, Tick(1));
        let mut bench = Bench { driver, work, counted, clients: Vec::new(), model, snapshot, now: Tick(1) };
        messages.iter().for_each(|message| bench.connect(*message));
        bench.work.take();
        bench
    }

    fn connect(&mut self, message: u64) {
        let listener = self.snapshot.listeners[0].clone();
        let limit = ConnectionLimit::new(usize::MAX);
        let mut guard = listener.admission.reserve(&limit).expect("room");
        guard.accepted();
        let token = Rc::new(Cell::new(None));
        let socket = Peer { message, unread: Rc::default(), number: self.clients.len(), token };
        self.clients.push(socket.clone());
        let client = Some(Endpoint::Inet(([127, 0, 0, 1], 1).into()));
        let (preamble, transport) = (session::Preamble::None, Transport::Tcp);
        self.driver.serve(Accepted { socket, client, port: 80, transport, preamble, listener, guard });
    }

    /// Every client's bytes are announced.
    fn announce(&mut self, clients: impl Iterator<Item = usize>) {
        for client in clients {
            let Peer { message, unread, token, .. } = &self.clients[client];
            unread.set(*message);
            let id = token.get().expect("it is watched");
            assert_eq!(id.side, Side::Client);
            self.driver.handle_event(id, Event { readable: true, ..Event::default() });
        }
    }

    /// One loop of the worker, at this time.
    fn turn(&mut self, events: impl Iterator<Item = usize>) -> (u64, u64) {
        self.driver.set_now(self.now);
        self.announce(events);
        self.driver.run_turns();
        self.driver.handle_deadlines();
        self.driver.sweep(&self.snapshot, || true);
        self.driver.go_on_flushing();
        self.work.take()
    }

    fn turns(&self) -> Vec<u64> {
        let turns = self.work.turns.take();
        self.work.turns.set(turns.clone());
        turns
    }

    fn change(&mut self) {
        self.model.pools[0].backends[0].weight += 1;
        let (model, resolved) = (&self.model, resolved(&self.model));
        let plan = SnapshotPlan { model, resolved: &resolved, addresses: &[], states: &[], now: Tick(1) };
        self.snapshot = pool::next(Some(&self.snapshot), &plan);
    }
}

fn resolved(model: &Model) -> pool::Resolved {
    let of = |pool: &model::Pool| -> Vec<_> {
        let entry = |backend: &model::Backend| {
            let Address::Inet(at) = backend.address else { unreachable!() };
            ((pool.name.clone(), backend.name.clone()), vec![Endpoint::Inet(at)])
        };
        pool.backends.iter().map(entry).collect()
    };
    model.pools.iter().flat_map(of).collect::<HashMap<_, _>>()
}

const ENGINES: [Engine; 3] = [Engine::Copy, Engine::Splice, Engine::Adaptive];

#[test]
fn bulk_of_any_number_of_connections_moves_a_bounded_number_of_bytes_between_two_looks() {
    for engine in ENGINES {
        for connections in [1, 8, 500] {
            let mut bench = Bench::new(engine, &vec![u64::MAX; connections]);
            for turn in 0..4 * connections + 20 {
                // An edge is announced once: nothing is read to its end here.
                // The first messages may be small ones; bulk is alone a while after them.
                let (first, least) = (turn == 0, if turn == 0 { CHUNK } else { ALONE });
                let (read, _) = bench.turn(0..if first { connections } else { 0 });
                bench.now = if first { bench.now + Duration::from_millis(200) } else { bench.now };
                assert!(read <= LOOP, "{engine:?}, {connections} connections: {read} bytes in loop {turn}");
                assert!(read >= least as u64, "{engine:?}, {connections} connections: idle in loop {turn}");
                assert_eq!(bench.driver.sleep(), Some(Duration::ZERO), "more waits");
            }
            let turns = bench.turns();
            let least = turns.iter().min().copied().unwrap_or_default();
            assert!(turns.len() == connections && least > 0, "no turn: {turns:?}");
        }
    }
}

#[test]
fn a_small_message_moves_in_the_loop_of_its_event_whatever_bulk_waits() {
    for engine in ENGINES {
        let mut messages = vec![u64::MAX; 100];
        messages.extend([64; 100]);
        let mut bench = Bench::new(engine, &messages);
        for turn in 0..20 {
            bench.turn(0..if turn == 0 { 100 } else { 0 });
        }
        let before = bench.turns();
        let (read, _) = bench.turn(100..200);
        // The bytes of small messages came first, and shorten the turns of bulk.
        assert!(read <= LOOP_BESIDE, "{engine:?}: {read}");
        let after = bench.turns();
        let served = (100..200).filter(|client| after[*client] > before.get(*client).copied().unwrap_or(0)).count();
        assert_eq!(served, 100, "{engine:?}");
    }
}

#[test]
fn many_messages_of_middle_size_are_put_off_in_their_order_and_bulk_goes_on_beside_them() {
    let mut messages = vec![16 * 1024; 400];
    messages.push(u64::MAX);
    let mut bench = Bench::new(Engine::Adaptive, &messages);
    for turn in 0..10 {
        bench.turn(400..if turn == 0 { 401 } else { 400 });
    }
    let bulk = bench.turns()[400];
    let (read, _) = bench.turn(0..256);
    assert!((BESIDE as u64..=LOOP_BESIDE).contains(&read), "{read}");
    let loops = (1..).find(|_| {
        let (read, _) = bench.turn(0..0);
        assert!(read <= LOOP_BESIDE, "{read}");
        bench.turns()[..256].iter().all(|turns| *turns > 0)
    });
    let most = 256 * 16 * 1024 / BESIDE as u64;
    assert!(loops.is_some_and(|loops| loops <= most), "{loops:?} of {most}");
    assert!(bench.turns()[400] > bulk, "bulk stands still");
}

#[test]
fn a_thousand_deadlines_end_a_bounded_number_of_connections_in_a_loop() {
    let mut bench = Bench::new(Engine::Adaptive, &vec![0; 1_000]);
    bench.now = bench.now + 2 * IDLE;
    let mut loops = 0;
    while !bench.driver.is_empty() {
        let before = bench.driver.len();
        bench.turn(0..0);
        assert!(before - bench.driver.len() <= 64, "{} ended in a loop", before - bench.driver.len());
        assert!(bench.driver.is_empty() || bench.driver.sleep().is_some_and(|sleep| sleep < IDLE));
        bench.now = bench.now + Duration::from_millis(10);
        loops += 1;
        assert!(loops < 20_000, "{} are left", bench.driver.len());
    }
}

#[test]
fn byte_counters_of_many_connections_reach_the_totals_in_parts() {
    let mut bench = Bench::new(Engine::Adaptive, &vec![64; 1_000]);
    for part in 0..4 {
        bench.turn(part * 250..(part + 1) * 250);
    }
    assert!(bench.driver.has_unflushed());
    bench.driver.flush();
    let mut parts = vec![bench.counted.0.take()];
    while bench.driver.has_unflushed() {
        assert_eq!(bench.driver.sleep(), Some(Duration::ZERO));
        // A connection that moves bytes meanwhile is in the list already, or comes into the next one.
        bench.turn(0..0);
        parts.push(bench.counted.0.take());
    }
    assert_eq!(parts.iter().sum::<u64>(), 1_000);
    assert!(parts.iter().all(|part| *part <= 256), "{parts:?}");
}

#[test]
fn a_change_reaches_one_connection_after_the_other_and_is_answered_behind_the_last() {
    let mut bench = Bench::new(Engine::Adaptive, &vec![0; 1_000]);
    let old = bench.snapshot.pools[0].clone();
    bench.change();
    let had = Arc::strong_count(&old);
    let (done, answer) = crossbeam_channel::bounded::<()>(1);
    bench.driver.adopt(&bench.snapshot, Some(done));
    assert_eq!((Arc::strong_count(&old), bench.work.take().1), (had, 0), "nothing is done at once");
    for visited in 1..=1_000 {
        assert_eq!(answer.try_recv(), Err(crossbeam_channel::TryRecvError::Empty), "{visited}");
        assert_eq!(bench.driver.sleep(), Some(Duration::ZERO));
        bench.turn(0..0);
        assert_eq!(Arc::strong_count(&old), had - visited);
    }
    assert_eq!(answer.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected));
    assert_ne!(bench.driver.sleep(), Some(Duration::ZERO));
}

#[test]
fn an_order_to_reset_means_the_connections_of_its_time_and_each_sweep_ends_whatever_follows() {
    let mut bench = Bench::new(Engine::Adaptive, &vec![0; 300]);
    let all = bench.snapshot.pools[0].members.iter().map(|member| member.backend.reset_order());
    let order = all.reduce(|mut sum, order| {
        sum.extend(order);
        sum
    });
    bench.driver.reset_backends(order.expect("backends"));
    for ended in 1..=300 {
        // A change in each loop begins no sweep anew.
        bench.change();
        bench.now = bench.now + Duration::from_micros(10);
        bench.driver.set_now(bench.now);
        bench.driver.adopt(&bench.snapshot, None);
        bench.connect(0);
        bench.driver.sweep(&bench.snapshot, || true);
        assert_eq!(bench.driver.len(), 300, "one of then is reset, and one of now is not: {ended}");
    }
    bench.driver.sweep(&bench.snapshot, || false);
    assert_eq!(bench.driver.len(), 300);
}

proptest! {
    #[test]
    fn any_mixture_of_messages_is_served_in_bounded_loops(
        messages in prop::collection::vec(prop_oneof![1u64..200, 1_000u64..100_000, Just(u64::MAX)], 1..120),
        engine in prop::sample::select(ENGINES.to_vec()),
    ) {
        let mut bench = Bench::new(engine, &messages);
        for turn in 0..40 {
            // What has been read to its end is announced again.
            let (read, _) = bench.turn((0..messages.len()).filter(|client| turn == 0 || messages[*client] < CHUNK as u64));
            prop_assert!(read <= LOOP, "{} bytes", read);
        }
    }
}
