//! An event loop: one thread, one poll, its own listeners and connections.
//!
//! It waits, routes each event to its receiver (a listener, the mailbox, a connection), and gives the time to the
//! driver. It decides nothing about connections; [`crate::session`] does.
//!
//! ```text
//! poll ─► mail?        orders (a new snapshot, backends to be reset, questions, connections to and from other processes,
//! look                      drain, stop), a connection handed over, or just a wake:
//! look                      at paused listeners again
//!      ─► listener?    accept: serve it here, or hand it to a worker with less to do
//!      ─► connection?  driver
//!      ─► deadlines, unfinished turns, questions about connections, counters
//! ```
//!
//! # What bounds it
//!
//! Accepting stops at `max_connections` of the process or of that listener. It also stops while the process has no
//! descriptors left for a client and its backend. It goes on when a connection ends anywhere, or a little later. Meanwhile
//! clients wait in the kernel's backlog. The mailbox holds [`MAILBOX`] clients: a connection that does not fit stays with the worker that accepted it.

mod accept;
mod arrivals;
pub mod driver;
mod host;
pub mod kernel;
pub mod ledger;
pub mod orders;
mod queue;
pub mod token;
pub mod transit;

use crate::access_log;
use crate::admission::ConnectionLimit;
use crate::base::Tick;
use crate::clock;
use crate::inspect::Inspections;
use crate::mailbox::{Mailbox, Slot};
use crate::net::{Socket, TcpTuning};
use crate::pool::{Note, Snapshot};
use crate::relay::{self, Engine};
use crate::session::{CloseReason, ConnectionIds, Fact, Ledger};
use crate::telemetry::{EndCounts, WorkerTotals};
use crate::watchdog::Heartbeat;
pub use accept::ListenSocket;
use accept::{Acceptor, Turn};
use arrivals::Arrivals;
use crossbeam_channel::Receiver;
use driver::{Accepted, Driver, Transport};
use host::{Hosts, Load, STANDS_STILL};
use kernel::Kernel;
use ledger::WorkerLedger;
use mio::{Events, Poll, Registry};
use orders::{Adopt, Lend, Orders};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use token::Token;
use transit::Depart;

/// Clients that may wait in a worker's mailbox.
pub const MAILBOX: usize = 1024;

/// Events taken from one poll.
const BATCH: usize = 256;

/// Clients of other workers that one loop begins to serve.
const HANDED: usize = 16;

/// How often byte counters are added to the shared totals; the contract says at least once a second.
const FLUSH: Duration = Duration::from_millis(250);

/// How long a turn may spend on questions about connections, and on what concerns each of them, beside the step that it is at.
const SLICE: Duration = Duration::from_micros(50);

/// A client that another worker accepted.
#[derive(Debug)]
pub struct Handed {
    accepted: Accepted<Socket>,
    /// A descriptor for the backend's socket.
    spare: OwnedFd,
}

/// A worker as its peers see it.
#[derive(Debug)]
pub struct Peer {
    /// Where clients are handed over.
    pub mailbox: Mailbox<Handed>,
    /// Orders from control, the prober and the admin API.
    pub orders: Slot<Orders>,
    /// Connections it has; those in the mailbox come on top.
    pub connections: AtomicUsize,
    /// When a client came into the empty mailbox.
    waits_since: AtomicU64,
    /// How much of the last moment it was at work, in percent.
    pub busy: AtomicU32,
    /// The sequence of the last number that it gave to a connection.
    pub given: AtomicU64,
    /// When bytes of its connections last moved, or at most [`FLUSH`] later.
    pub moved: AtomicU64,
    /// Connections on their way to it.
    arrivals: Arrivals,
    /// Shows that its loop goes on.
    pub heartbeat: Heartbeat,
}

impl Peer {
    /// Gives it a client to serve; gives the client back if the worker is about to end, or its mailbox is full.
    fn hand_over(&self, client: Handed, now: Tick) -> Result<(), Handed> {
        if !self.arrivals.announce() {
            return Err(client);
        }
        if self.mailbox.waiting() == 0 {
            self.waits_since.store(now.0, Ordering::Relaxed);
        }
        let Err(client) = self.mailbox.offer(client) else { return Ok(()) };
        self.arrivals.arrived();
        // The worker may have been about to end, and have seen this client on its way.
        self.mailbox.wake();
        Err(client)
    }

    /// How much it has to do; `None` if it has ended or stands still.
    fn load(&self, now: Tick) -> Option<Load> {
        let waiting = self.mailbox.waiting();
        let stands_still = waiting > 0 && now - Tick(self.waits_since.load(Ordering::Relaxed)) > STANDS_STILL;
        if stands_still || self.arrivals.is_closed() {
            return None;
        }
        let connections = self.connections.load(Ordering::Relaxed) + waiting;
        Some(Load { connections, busy: self.busy.load(Ordering::Relaxed) })
    }
}

/// What every worker of the process shares.
#[derive(Clone)]
pub struct WorkerContext {
    /// All pools and listeners.
    pub snapshot: Arc<Snapshot>,
    /// How many clients there may be.
    pub connection_limit: Arc<ConnectionLimit>,
    /// All workers, this one included.
    pub peers: Arc<[Peer]>,
    /// How bytes are moved.
    pub engine: Engine,
    /// The most pipes that all workers together may have open.
    pub pipes: usize,
    /// What is set on backends' sockets.
    pub tuning: TcpTuning,
    /// The poll of the keeper of warm connections, which those that are used must leave.
    pub keeper: Arc<Registry>,
    /// Where failed connects are reported.
    pub prober: Mailbox<Note>,
    /// What is counted of each worker, by its number.
    pub totals: Arc<[WorkerTotals]>,
    /// The connections' numbers begin behind this sequence: those of the process before end there.
    pub first_sequence: u64,
    /// Where lines of the access log go, if there is one.
    pub log: Option<access_log::LogHandle>,
}

/// A worker before its thread starts: its mailbox must exist before any worker runs.
pub struct Prepared {
    poll: Poll,
    registry: Registry,
    mail: Receiver<Handed>,
}

/// Prepares one worker and gives what its peers need.
pub fn prepare() -> io::Result<(Prepared, Peer)> {
    let poll = Poll::new()?;
    let (mailbox, mail) = Mailbox::new(&poll, Token::Mail.encode(), MAILBOX)?;
    let registry = poll.registry().try_clone()?;
    let orders = mailbox.slot();
    Ok((
        Prepared { poll, registry, mail },
        Peer {
            mailbox,
            orders,
            connections: AtomicUsize::new(0),
            waits_since: AtomicU64::new(0),
            busy: AtomicU32::new(0),
            given: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            arrivals: Arrivals::default(),
            heartbeat: Heartbeat::default(),
        },
    ))
}

struct Worker {
    poll: Poll,
    mail: Receiver<Handed>,
    driver: Driver<Kernel, WorkerLedger>,
    acceptor: Acceptor,
    hosts: Hosts,
    shared: WorkerContext,
    me: usize,
    /// Questions about its connections.
    inspections: Inspections,
    utilization: Utilization,
    flushed: Tick,
    /// Full batches of events in a row: more may be ready.
    full_batches: usize,
    /// Connections after clients were last accepted. Fewer now means that descriptors have become free.
    had: usize,
    /// Every connection ends for this reason, also one that a peer still hands over.
    stopped: Option<CloseReason>,
}

/// How much of the worker's time was spent waiting.
struct Utilization {
    slept: Duration,
    /// What had been slept when `busy` was last worked out, and when that was.
    mark: (Duration, Tick),
}

/// Runs a worker until it has been drained or stopped.
pub fn run(prepared: Prepared, me: usize, sockets: Vec<ListenSocket>, shared: WorkerContext) -> io::Result<EndCounts> {
    let Prepared { poll, registry, mail } = prepared;
    let kernel = Kernel::new(registry, shared.tuning, shared.keeper.clone());
    let log = shared.log.as_ref().map(|log| log.buffer(shared.connection_limit.clone()));
    let ledger = WorkerLedger::new(shared.prober.clone(), log);
    let relay = relay::RelayResources::new(shared.engine, (shared.pipes / shared.peers.len()).max(1));
    let driver = Driver::new(
        kernel,
        ledger,
        relay,
        ConnectionIds::new(me, shared.first_sequence),
        fastrand::u64(..),
        clock::now(),
    );
    let acceptor = Acceptor::new(sockets, poll.registry().try_clone()?)?;
    let (flushed, utilization) = (clock::now(), Utilization::new(clock::now()));
    Worker {
        poll,
        mail,
        driver,
        acceptor,
        hosts: Hosts::default(),
        shared,
        me,
        inspections: Inspections::default(),
        utilization,
        flushed,
        full_batches: 0,
        had: 0,
        stopped: None,
    }
    .run()
}

impl Worker {
    fn run(&mut self) -> io::Result<EndCounts> {
        let mut events = Events::with_capacity(BATCH);
        let mut awake = None;
        loop {
            self.this().heartbeat.beat();
            let asleep = clock::now();
            if let Some(awake) = awake.take() {
                self.shared.totals[self.me].turns.add(asleep - awake);
            }
            match self.poll.poll(&mut events, self.sleep(asleep)) {
                // The process was stopped and goes on (signal(7)): events from meanwhile come before time-outs.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            let now = clock::now();
            awake = Some(now);
            self.utilization.slept += now - asleep;
            self.driver.set_now(now);
            self.route(&events);
            self.serve_handed(HANDED);
            self.driver.run_turns();
            if self.has_heard_all() {
                self.driver.handle_deadlines();
            }
            self.inspect();
            self.sweep();
            self.accept(now);
            self.publish(now);
            self.driver.ledger.tend(now);
            self.wake_for_room();
            self.wake_called();
            if self.acceptor.is_closed() && self.driver.is_empty() && self.this().arrivals.close() {
                self.this().heartbeat.end();
                return Ok(self.driver.ledger.ended());
            }
        }
    }

    /// This worker as its peers see it.
    fn this(&self) -> &Peer {
        &self.shared.peers[self.me]
    }

    /// Gives each event to its receiver.
    fn route(&mut self, events: &Events) {
        let mut count = 0;
        for event in events {
            count += 1;
            match Token::decode(event.token()) {
                Some(Token::Socket(socket)) => self.driver.handle_event(socket, event.into()),
                Some(Token::Listener(number)) => self.acceptor.ready(number),
                Some(Token::Mail) => self.read_mail(),
                None => {}
            }
        }
        self.full_batches = if count == BATCH { self.full_batches + 1 } else { 0 };
    }

    /// Publishes how many connections it has and, now and then, its byte counters and how busy it is.
    fn publish(&mut self, now: Tick) {
        self.publish_len();
        self.this().given.store(self.driver.last_sequence(), Ordering::Relaxed);
        if self.driver.has_unflushed() {
            self.this().moved.store(now.0, Ordering::Relaxed);
        }
        self.driver.go_on_flushing();
        if now - self.flushed >= FLUSH || self.driver.is_empty() {
            self.driver.flush();
            self.flushed = now;
            // Without a connection it may sleep for long, and must not count as busy until then.
            let busy = if self.driver.is_empty() { 0 } else { self.utilization.busy(now) };
            self.this().busy.store(busy, Ordering::Relaxed);
        }
    }

    fn publish_len(&self) {
        self.this().connections.store(self.driver.len(), Ordering::Relaxed);
    }

    /// Wakes all workers if a limit that stopped some of them has room again.
    fn wake_for_room(&self) {
        let process = &self.shared.connection_limit;
        let mut with_room = 0;
        if process.should_look_at_listeners() {
            // Each is asked: it answers yes once per wait.
            let listeners = self.shared.snapshot.listeners.iter();
            with_room = listeners.filter(|listener| listener.admission.should_wake()).count();
        }
        if process.should_wake() || with_room > 0 {
            self.shared.peers.iter().for_each(|peer| peer.mailbox.wake());
        }
    }

    /// Wakes the workers whose clients wait longer for a backend that may have room.
    fn wake_called(&mut self) {
        let peers = &self.shared.peers;
        self.driver.take_called().filter_map(|worker| peers.get(worker)).for_each(|peer| peer.mailbox.wake());
    }

    /// Has every socket that was ready had a turn? In a long pause (the process was stopped, the machine froze), a deadline
    /// may pass while bytes of that connection wait. They may come in a later batch, and must be read first. The kernel reports ready
    /// sockets in turn, so after as many full batches as there are sockets none is left from before.
    fn has_heard_all(&self) -> bool {
        self.full_batches == 0 || self.full_batches * BATCH > 2 * self.driver.len() + BATCH
    }

    /// Until the next event at the latest when something is due.
    fn sleep(&self, now: Tick) -> Option<Duration> {
        let flush = self.driver.has_unflushed().then_some(FLUSH);
        let log = self.driver.ledger.sleep(now);
        let at_once = !self.inspections.is_empty() || !self.mail.is_empty();
        let at_once = at_once.then_some(Duration::ZERO);
        [self.driver.sleep(), self.acceptor.sleep(), flush, log, at_once].into_iter().flatten().min()
    }

    fn read_mail(&mut self) {
        // A wake without a client means that there is room again, for clients that are not accepted or wait for a backend.
        self.acceptor.resume();
        self.driver.look_at_queues();
        if let Some(depart) = self.this().orders.take().and_then(|orders| self.carry_out(orders)) {
            // A client that a peer handed over before counts among those that are left.
            self.serve_handed(MAILBOX);
            self.depart(depart);
        }
    }

    /// Serves up to so many clients that peers handed over.
    fn serve_handed(&mut self, most: usize) {
        for _ in 0..most {
            let Ok(Handed { accepted, spare }) = self.mail.try_recv() else { return };
            self.this().arrivals.arrived();
            self.driver.net.spares.put(spare);
            match self.stopped {
                Some(reason) => self.driver.turn_away(accepted, reason),
                None => self.driver.serve_handed(accepted, &self.shared.snapshot),
            }
            self.publish_len();
        }
    }

    /// Carries out all but the last one, which comes after the mail.
    fn carry_out(&mut self, orders: Orders) -> Option<Depart> {
        let Orders { adopt, reset, inspect, lend, accept, leave, back, arrive, drain, stop, depart } = orders;
        if let Some(Adopt { snapshot, sockets, done }) = adopt {
            let spares = &mut self.driver.net.spares;
            self.acceptor.adopt(&snapshot, sockets, &self.shared.connection_limit, spares, clock::now());
            self.driver.adopt(&snapshot, Some(done));
            self.shared.snapshot = snapshot;
            // The last look may have missed a listener that is new here.
            self.shared.connection_limit.look_at_listeners();
        }
        if !reset.is_empty() {
            self.driver.reset_backends(reset);
        }
        self.inspections.add(inspect);
        // The one that asked may have stopped waiting.
        match lend {
            Some(Lend::Addresses(to)) => drop(to.try_send(self.acceptor.addresses())),
            Some(Lend::Copies(addresses, to)) => drop(to.try_send(self.acceptor.lend(&addresses))),
            None => {}
        }
        match accept {
            Some(true) => self.acceptor.accept_again(),
            Some(false) => self.acceptor.pause(),
            None => {}
        }
        if leave {
            self.driver.ledger.begin_drain();
            self.acceptor.leave();
        }
        back.into_iter().for_each(|connections| self.come_back(connections));
        arrive.into_iter().for_each(|arrive| self.arrive(arrive));
        if drain {
            self.driver.ledger.begin_drain();
            self.acceptor.drain(&self.shared.connection_limit, &mut self.driver.net.spares, clock::now());
        }
        if let Some(reason) = stop {
            self.stopped = Some(reason);
            for accepted in self.acceptor.close() {
                record_accepted(&mut self.driver.ledger, &accepted, clock::now());
                self.driver.turn_away(accepted, reason);
            }
            self.driver.stop_all(reason);
        }
        depart
    }

    /// One slice of what concerns every connection.
    fn sweep(&mut self) {
        let end = clock::now() + SLICE;
        self.driver.sweep(&self.shared.snapshot, || clock::now() >= end);
    }

    /// One slice for one question per turn: so a client's bytes wait for a slice, however many connections there are and
    /// however many callers ask.
    fn inspect(&mut self) {
        let driver = &mut self.driver;
        self.inspections.turn(|inspection| {
            let end = clock::now() + SLICE;
            driver.inspect(inspection, || clock::now() >= end)
        });
    }

    fn accept(&mut self, now: Tick) {
        if self.driver.len() < self.had {
            self.acceptor.descriptors_freed();
        }
        self.accept_all(now);
        self.had = self.driver.len();
    }

    fn accept_all(&mut self, now: Tick) {
        loop {
            match self.acceptor.next(&self.shared.connection_limit, &mut self.driver.net.spares, now) {
                Turn::Client(accepted) => {
                    record_accepted(&mut self.driver.ledger, &accepted, now);
                    let kept = match self.host(accepted.transport, now) {
                        Some(peer) => self.hand_over(accepted, peer, now).err(),
                        None => Some(accepted),
                    };
                    kept.into_iter().for_each(|accepted| self.driver.serve(accepted));
                }
                Turn::Over => return,
            }
        }
    }

    /// Gives a client to this peer; gives it back if no descriptor is left for its backend, or the peer takes none.
    fn hand_over(&mut self, accepted: Accepted<Socket>, peer: usize, now: Tick) -> Result<(), Accepted<Socket>> {
        let spares = &mut self.driver.net.spares;
        let Some(spare) = spares.take() else { return Err(accepted) };
        self.shared.peers[peer].hand_over(Handed { accepted, spare }, now).map_err(|Handed { accepted, spare }| {
            spares.put(spare);
            accepted
        })
    }

    /// The number of the worker that is to serve a fresh connection instead of this one ([`host`]).
    fn host(&mut self, transport: Transport, now: Tick) -> Option<usize> {
        let busy = self.this().busy.load(Ordering::Relaxed);
        let own = Load { connections: self.driver.len() + self.mail.len(), busy };
        let others = self.shared.peers.iter().enumerate().filter(|(number, _)| *number != self.me);
        let loads = others.filter_map(|(number, peer)| Some((number, peer.load(now)?)));
        self.hosts.choose(own, loads, transport, now)
    }
}

fn record_accepted(ledger: &mut WorkerLedger, accepted: &Accepted<Socket>, now: Tick) {
    ledger.record(Fact::Accepted { listener: &accepted.listener.totals }, now);
}

impl Utilization {
    fn new(now: Tick) -> Utilization {
        Utilization { slept: Duration::ZERO, mark: (Duration::ZERO, now) }
    }

    /// Percent of the time since the last call that was not slept.
    fn busy(&mut self, now: Tick) -> u32 {
        let (slept, since) = self.mark;
        self.mark = (self.slept, now);
        let span = (now - since).as_micros().max(1);
        let asleep = (self.slept - slept).as_micros().min(span);
        (100 * (span - asleep) / span) as u32
    }
}
