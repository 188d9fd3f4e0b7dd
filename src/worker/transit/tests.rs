//! Two sets of workers, as of two processes, over real sockets.

use super::*;
use crate::admission::ConnectionLimit;
use crate::base::{Address, Endpoint, Listen};
use crate::config::model::{self, Global, Model};
use crate::mailbox::Mailbox;
use crate::net::TcpTuning;
use crate::net::listen::{self, Listening};
use crate::pool::{self, BoundAddress, BoundAddressId, Resolved, Snapshot, SnapshotPlan};
use crate::relay::Engine;
use crate::session::{CloseReason, ConnectionIds, Direction};
use crate::telemetry::{EndCounts, WorkerTotals};
use crate::worker::driver::transit::Record;
use crate::worker::{self, ListenSocket, WorkerContext};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

const BOUND: BoundAddressId = BoundAddressId(7);

struct Process {
    peers: Arc<[Peer]>,
    snapshot: Arc<Snapshot>,
    limit: Arc<ConnectionLimit>,
    threads: Vec<JoinHandle<io::Result<EndCounts>>>,
}

impl Process {
    /// With workers of these sockets for a listener, whose pool has this backend.
    fn start(at: SocketAddr, backend: SocketAddr, sockets: Vec<Option<Listening>>, first_sequence: u64) -> Process {
        let backends = vec![model::Backend { name: "b".into(), ..model::Backend::at(Address::Inet(backend)) }];
        let pools = vec![model::Pool { name: "p".into(), backends, ..model::Pool::default() }];
        let listeners = vec![model::Listener { pool: "p".into(), ..model::Listener::default() }];
        let model = Model { global: Global::default(), listeners, pools };
        let resolved = Resolved::from([(("p".into(), "b".into()), vec![Endpoint::Inet(backend)])]);
        let (asked, endpoint) = (Listen::parse(&at.to_string()).unwrap(), Endpoint::Inet(at));
        let addresses = [vec![BoundAddress { id: BOUND, group: BOUND, asked, endpoint }]];
        let plan =
            SnapshotPlan { model: &model, resolved: &resolved, addresses: &addresses, states: &[], now: clock::now() };
        let snapshot = Arc::new(pool::next(None, &plan));
        let limit = ConnectionLimit::new(100);
        let both: Vec<_> = sockets.iter().map(|_| worker::prepare().unwrap()).collect();
        let (prepared, peers): (Vec<_>, Vec<_>) = both.into_iter().unzip();
        let peers: Arc<[Peer]> = peers.into();
        let poll = mio::Poll::new().unwrap();
        let (prober, _) = Mailbox::new(&poll, mio::Token(0), 1).unwrap();
        let context = WorkerContext {
            snapshot: snapshot.clone(),
            connection_limit: limit.clone(),
            peers: peers.clone(),
            engine: Engine::Splice,
            pipes: 8,
            tuning: TcpTuning::of(&model.global),
            prober,
            totals: prepared.iter().map(|_| WorkerTotals::default()).collect(),
            first_sequence,
            keeper: Arc::new(poll.registry().try_clone().unwrap()),
            log: None,
        };
        let threads = prepared.into_iter().zip(sockets).enumerate().map(|(me, (prepared, socket))| {
            let (context, listener) = (context.clone(), snapshot.listeners[0].clone());
            let sockets = socket.map(|socket| ListenSocket::new(BOUND, listener, socket)).into_iter().collect();
            thread::spawn(move || worker::run(prepared, me, sockets, context))
        });
        let threads = threads.collect();
        Process { peers, snapshot, limit, threads }
    }

    /// Connections of the process, of the listener and of the backend.
    fn counts(&self) -> (usize, usize, u32) {
        let backend = &self.snapshot.pools[0].members[0].backend;
        (self.limit.active(), self.snapshot.listeners[0].totals.active(), backend.active())
    }

    /// Ends once its connections have. How they ended.
    fn drain(self) -> Vec<EndCounts> {
        self.peers.iter().for_each(|peer| peer.orders.put(Orders { drain: true, ..Orders::default() }));
        self.threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    }
}

fn bytes_in_all(process: &Process) -> (u64, u64) {
    let counters = &process.snapshot.pools[0].members[0].backend.counters;
    (counters.bytes_to_backend.load(Ordering::Relaxed), counters.bytes_to_client.load(Ordering::Relaxed))
}

/// As another process gets it: the descriptors are new ones, and the record was text.
fn passed(detached: &Detached) -> Incoming {
    let socket = |socket: &Socket| Socket::from_fd(socket.as_fd().try_clone_to_owned().unwrap());
    let end = |end: BorrowedFd<'_>| end.try_clone_to_owned().unwrap();
    let pipe = |pipe: &Pipe| {
        let [read, write] = pipe.ends().map(end);
        Pipe::from_ends(read, write)
    };
    let text = serde_json::to_vec(detached.record()).unwrap();
    let record: Record = serde_json::from_slice(&text).unwrap();
    let (client, backend) = (socket(detached.client()), detached.backend().map(socket));
    let (up, down) = (detached.pipe(Direction::Up).map(pipe), detached.pipe(Direction::Down).map(pipe));
    Incoming { record, client, backend, up, down }
}

/// Takes one connection out of the first worker, once it relays.
fn take_one(process: &Process) -> Departed {
    loop {
        let departed = take_out(&process.peers, 0, 10).expect("the worker answers");
        if departed.connections().iter().any(|detached| detached.backend().is_some()) {
            return departed;
        }
        drop(departed);
        thread::yield_now();
    }
}

fn echo(client: &mut TcpStream, byte: u8) {
    client.write_all(&[byte]).unwrap();
    let mut answer = [0];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [byte]);
}

#[test]
fn a_connection_goes_to_another_process_with_bytes_in_all_buffers_and_ends_there() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let bound = listen::bind(&Listen::parse("127.0.0.1:0").unwrap(), 1, &TcpTuning::of(&Global::default())).unwrap();
    let [sockets] = <[_; 1]>::try_from(bound).unwrap();
    let Endpoint::Inet(at) = sockets.endpoint else { panic!("an address") };
    let listening = sockets.sockets.into_iter().map(Some).collect();
    let old = Process::start(at, server.local_addr().unwrap(), listening, 0);
    let begin = ConnectionIds::begin_next(old.peers.iter().map(|peer| peer.given.load(Ordering::Relaxed)));
    let new = Process::start(at, server.local_addr().unwrap(), vec![None, None], begin);

    let mut client = TcpStream::connect(at).unwrap();
    let (mut backend, _) = server.accept().unwrap();
    // The client writes until nothing takes more: the backend does not read.
    client.set_nonblocking(true).unwrap();
    let mut sent = 0;
    let pattern: Vec<u8> = (0..=250).collect();
    let mut stalled = 0;
    while stalled < 1_000 {
        match client.write(&pattern[sent % pattern.len()..]) {
            Ok(count) => (sent, stalled) = (sent + count, 0),
            Err(_) => {
                stalled += 1;
                thread::yield_now();
            }
        }
    }
    client.set_nonblocking(false).unwrap();

    // It comes back, and then goes.
    drop(take_one(&old));
    let departed = take_one(&old);
    assert_eq!((departed.left(), old.counts()), (0, (1, 1, 1)));
    let record = departed.connections()[0].record().clone();
    assert!(record.up.in_pipe > 0 || !record.up.bytes.is_empty(), "nothing is held");
    let incoming = passed(&departed.connections()[0]);
    departed.commit(&[]);
    assert_eq!(old.counts(), (0, 0, 0));
    let refused = put_in(&new.peers[record.id.worker(2)], vec![incoming]).recv().unwrap();
    assert!(refused.is_empty());
    assert_eq!(new.counts(), (1, 1, 1));
    let moved_before = bytes_in_all(&old);
    assert_eq!(old.drain(), [EndCounts::default()], "nothing has ended there");

    client.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    backend.read_to_end(&mut got).unwrap();
    assert!(got.len() == sent && got.iter().zip(pattern.iter().cycle()).all(|(got, sent)| got == sent));
    backend.write_all(b"whole").unwrap();
    drop(backend);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"whole");
    while new.counts() != (0, 0, 0) {
        thread::yield_now();
    }
    let moved = bytes_in_all(&new);
    assert_eq!((moved_before.0 + moved.0, moved_before.1 + moved.1), (sent as u64, 5));
    new.drain();
}

#[test]
fn workers_that_drain_stay_for_connections_of_another_process() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let bound = listen::bind(&Listen::parse("127.0.0.1:0").unwrap(), 1, &TcpTuning::of(&Global::default())).unwrap();
    let [sockets] = <[_; 1]>::try_from(bound).unwrap();
    let Endpoint::Inet(at) = sockets.endpoint else { panic!("an address") };
    let listening = sockets.sockets.into_iter().map(Some).collect();
    let old = Process::start(at, server.local_addr().unwrap(), listening, 0);
    let new = Process::start(at, server.local_addr().unwrap(), vec![None, None], 1);
    let mut client = TcpStream::connect(at).unwrap();
    let (mut backend, _) = server.accept().unwrap();
    let departed = take_one(&old);
    let (incoming, peers) = (passed(&departed.connections()[0]), new.peers.clone());
    let stays = stay(&peers).expect("all run");
    peers.iter().for_each(|peer| peer.orders.put(Orders { drain: true, ..Orders::default() }));
    // Each has carried out the drain once it answers the next order.
    (0..2).for_each(|worker| drop(take_out(&peers, worker, 1).expect("it runs")));
    departed.commit(&[]);
    let worker = incoming.record.id.worker(2);
    assert!(put_in(&peers[worker], vec![incoming]).recv().unwrap().is_empty());
    drop(stays);
    let answers = thread::spawn(move || {
        let mut byte = [0];
        backend.read_exact(&mut byte).unwrap();
        backend.write_all(&byte).unwrap();
    });
    echo(&mut client, 78);
    answers.join().unwrap();
    drop(client);
    let counts = new.threads.into_iter().map(|thread| thread.join().unwrap().unwrap());
    assert_eq!(counts.map(|counts| counts.finished).sum::<u64>(), 1);
    assert!(stay(&peers).is_none(), "they have ended");
    old.drain();
}

#[test]
fn a_worker_that_drains_waits_for_connections_that_are_out() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let bound = listen::bind(&Listen::parse("127.0.0.1:0").unwrap(), 1, &TcpTuning::of(&Global::default())).unwrap();
    let [sockets] = <[_; 1]>::try_from(bound).unwrap();
    let Endpoint::Inet(at) = sockets.endpoint else { panic!("an address") };
    let process = Process::start(at, server.local_addr().unwrap(), sockets.sockets.into_iter().map(Some).collect(), 0);
    let mut client = TcpStream::connect(at).unwrap();
    let (mut backend, _) = server.accept().unwrap();
    let departed = take_one(&process);
    let peers = process.peers.clone();
    peers[0].orders.put(Orders { drain: true, ..Orders::default() });
    // It has carried out the drain once it answers the next order.
    let empty = take_out(&peers, 0, 1).expect("it runs");
    assert!(empty.connections().is_empty() && empty.left() == 0);
    drop((empty, departed));
    let answers = thread::spawn(move || {
        let mut byte = [0];
        backend.read_exact(&mut byte).unwrap();
        backend.write_all(&byte).unwrap();
    });
    echo(&mut client, 77);
    answers.join().unwrap();
    // A stop ends what comes back, and a worker that has ended has nothing.
    let departed = take_out(&peers, 0, 1).expect("it runs");
    peers[0].orders.put(Orders { stop: Some(CloseReason::Shutdown), ..Orders::default() });
    drop(departed);
    for thread in process.threads {
        assert_eq!(thread.join().unwrap().unwrap(), EndCounts { finished: 0, reset: 1 });
    }
    assert!(take_out(&peers, 0, 1).is_none());
    let refused = put_in(&peers[0], Vec::new()).recv().unwrap();
    assert!(refused.is_empty());
}
