//! Connections in transit: taken out of a driver, and put back there or into a driver of the next process.
//!
//! [`Driver::take_out`] takes a connection between two events, with everything that belongs to it ([`Detached`]). Poll announces
//! nothing of it any more, no timer fires, no counter is behind, and it is not counted as ended. Its lease and its guard
//! still count it, since its sockets are still open here. Then one of two things happens:
//!
//! * [`Driver::put_back`]: it goes on as if nothing had happened, under the snapshot of that moment.
//! * The next process gets the descriptors and the [`Record`]. It makes an [`Incoming`] of them, and [`Driver::put_in`] goes on.
//!   The [`Detached`] is dropped: that closes the descriptors here, without a FIN or a reset, and ends the lease and the guard.
//!
//! # What each state carries
//!
//! | state | descriptors | held bytes | goes on with |
//! |---|---|---|---|
//! | ReadingPreamble | client | the preamble so far | reading it, within the same time-out |
//! | Sniffing | client | what was taken of the first bytes | looking at them, for the time that is left; a client of Postgres keeps what it was answered |
//! | Waiting | client | what followed the preamble | its route there, and another choice; a place at the end of the queue, whatever its bound; the time that is left |
//! | Dialing | client | what followed the preamble | its route there, and another choice, without the backends that failed; the dial is given up and not counted |
//! | Requesting | client | what was taken of the ClientHello | as Dialing: the next backend gets a request of its own |
//! | Relaying, Open | client, backend, a pipe for each direction that has bytes in one | for each direction those in a buffer; the preamble for the backend among them | relaying |
//! | Relaying, one direction Draining, Shut or Dropped | the same | the same | the other direction; FINs and resets are passed on once |
//! | Relaying, a side has failed | the same | the same | reading out that side, and measuring the other one's queue, with the time that is left |
//!
//! Admitting and Choosing last no longer than one step, so no connection is taken out in them. A dial has [`DIAL_GRACE`] to end
//! before its connection is taken out.
//!
//! With every state go the number, the byte counts, the ages that time-outs count from, and the end of the lifetime. So do the
//! backends that failed, the time spent in queues, and what the access log has reported. The readiness of the sockets goes
//! along, because poll announces some of it only once: an error that the kernel has handed out. Nor does it announce room in a
//! queue that is more than two thirds full.
//!
//! # What the next process may lack
//!
//! The configuration may have lost the backend, the pool or the listener meanwhile. A connection that relays goes on all the
//! same, as after a reload. What is missing is made for this one connection, with default settings, and shows in no status. Any
//! other connection then ends as it does after a reload that removes its pool. A relay takes the time-outs of its pool in the next process.
//!
//! [`Driver::put_in`] refuses only what does not fit together, and gives it back.

mod record;

pub use super::liveness::SavedWatch;
pub use super::sockets::SavedSocket;
pub use record::{Held, Record};

use super::sniffing::Look;
use super::sockets::{Attached, Sockets};
use super::{Connection, Driver, Flushed, Net};
use crate::admission::{AdmissionGuard, ConnectionLimit, ListenerAdmission};
use crate::base::slots::Key;
use crate::base::{OptionalTick, Tick};
use crate::config::model;
use crate::policy::balance::LoadBlock;
use crate::pool::{self, Backend, BackendId, Lease, Listener, Pool, Routing, Snapshot};
use crate::proto::sniff::Sniffer;
use crate::relay::RelayBuffer;
use crate::session::saved::Saved;
use crate::session::{CloseReason, Direction, Input, Ledger, Route, Session, Side, Stage};
use crate::worker::queue::Waiter;
use crate::worker::token::Token;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long a dial may take before its connection is taken out without it.
pub const DIAL_GRACE: Duration = Duration::from_millis(250);

/// A connection that was taken out of a driver. Dropping it closes its descriptors, and counts no end.
pub struct Detached<S, P> {
    record: Record,
    connection: Connection<S, P>,
}

/// A connection that another process had.
#[derive(Debug)]
pub struct Incoming<S, P> {
    /// What is known of it.
    pub record: Record,
    /// The client's socket.
    pub client: S,
    /// The backend's socket, if it relays.
    pub backend: Option<S>,
    /// A pipe with bytes from the client, if there are any in one.
    pub up: Option<P>,
    /// A pipe with bytes from the backend.
    pub down: Option<P>,
}

/// A connection that can't go on here.
#[derive(Debug)]
pub struct Refused<S, P> {
    /// The connection.
    pub incoming: Incoming<S, P>,
    /// Why.
    pub why: String,
}

/// The outcome of [`Driver::put_in`].
pub type PutIn<S, P> = Result<(), Box<Refused<S, P>>>;

/// Connections that were taken out, and how many are still there.
#[derive(Debug)]
pub struct TakenOut<S, P> {
    /// Those that were taken out.
    pub connections: Vec<Detached<S, P>>,
    /// When: no byte of them moves after that.
    pub at: Tick,
    /// How many the driver still has. Where none was taken out, these dial, and come out a little later.
    pub left: usize,
}

impl<S, P> Detached<S, P> {
    /// What the next process needs to know of it.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The backend that it relays to, and the number of its address there, if that is known.
    pub fn relays_to(&self) -> Option<(BackendId, Option<usize>)> {
        let to = self.connection.session.connected_to().filter(|_| self.record.backend.is_some());
        to.map(|(backend, address)| (backend.id, address))
    }

    /// The client's socket.
    pub fn client(&self) -> &S {
        &self.connection.sockets.client.end.socket
    }

    /// The backend's socket, if it relays.
    pub fn backend(&self) -> Option<&S> {
        let backend = self.connection.sockets.backend.as_ref().filter(|_| self.record.backend.is_some());
        backend.map(|backend| &backend.end.socket)
    }

    /// The pipe that holds bytes of this direction.
    pub fn pipe(&self, direction: Direction) -> Option<&P> {
        let Sockets { up, down, .. } = &self.connection.sockets;
        let buffer = if direction == Direction::Up { up } else { down };
        buffer.pipe().map(|(pipe, _)| pipe)
    }
}

impl<S, P> fmt::Debug for Detached<S, P> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Detached").field("record", &self.record).finish_non_exhaustive()
    }
}

impl<S, P> Incoming<S, P> {
    /// Whether it can be put in: its parts fit together, and all descriptors are there. Fails with what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let Incoming { record, backend, up, down, .. } = self;
        record.check()?;
        if record.backend.is_some() != backend.is_some() {
            return Err("the socket of its backend is missing, or one too many".to_owned());
        }
        if (record.up.in_pipe > 0) != up.is_some() || (record.down.in_pipe > 0) != down.is_some() {
            return Err("a pipe with its bytes is missing, or one too many".to_owned());
        }
        Ok(())
    }

    fn refused(self, why: String) -> Box<Refused<S, P>> {
        Box::new(Refused { incoming: self, why })
    }
}

impl<N: Net, L: Ledger> Driver<N, L> {
    /// Takes out up to `most` connections, those in queues first. To be called between two events.
    pub fn take_out(&mut self, most: usize) -> TakenOut<N::Socket, N::Pipe> {
        while self.has_unflushed() {
            self.flush();
        }
        let queued: Vec<Key> = self.queues.keys().take(most).collect();
        let others = (0..self.connections.slots()).filter_map(|slot| self.connections.key_of(slot));
        let others = others.filter(|key| self.may_leave(*key)).take(most - queued.len());
        let keys: Vec<Key> = queued.iter().copied().chain(others).collect();
        let connections = keys.into_iter().filter_map(|key| self.detach(key)).collect();
        TakenOut { connections, at: self.now, left: self.connections.len() }
    }

    /// It is in no queue, and has no dial that may still end soon.
    fn may_leave(&self, key: Key) -> bool {
        self.connections.get(key).is_some_and(|Connection { session, .. }| {
            let dials = session.dials_since().is_some_and(|since| self.now - since < DIAL_GRACE);
            session.stage() != Stage::Waiting && !dials
        })
    }

    fn detach(&mut self, key: Key) -> Option<Detached<N::Socket, N::Pipe>> {
        let record = Record::of(self.connections.get(key)?, self.now)?;
        let pool = self.connections.get(key)?.session.live()?.pool.clone();
        self.queues.leave(&pool, key);
        let connection = self.leave(key)?;
        Some(Detached { record, connection })
    }

    /// Goes on with a connection that was taken out of this driver, under the snapshot that is in force now. A dial goes on, and
    /// a client that waits joins the end of its queue.
    pub fn put_back(&mut self, detached: Detached<N::Socket, N::Pipe>, snapshot: &Snapshot) {
        let Sockets { up, down, .. } = &detached.connection.sockets;
        [up, down].into_iter().for_each(|buffer| buffer.enter(&mut self.relay_resources));
        let Some(key) = self.connections.insert_with(|_| detached.connection) else { return };
        match self.watch(key) {
            Ok(()) => self.step_moved(key, Input::Adopt(snapshot)),
            Err(error) => {
                log::error!("can't watch the sockets of a connection: {error}");
                self.step(key, Input::Stop(CloseReason::Forced));
            }
        }
    }

    /// Goes on with a connection that another process had. No limit is asked: it was admitted. `process` counts the clients of
    /// this process.
    pub fn put_in(
        &mut self,
        incoming: Incoming<N::Socket, N::Pipe>,
        snapshot: &Snapshot,
        process: &ConnectionLimit,
    ) -> PutIn<N::Socket, N::Pipe> {
        if let Err(why) = incoming.check() {
            return Err(incoming.refused(why));
        }
        let Incoming { record, client, backend, up, down } = incoming;
        let Place { listener, route, lease } = Place::of(&record.session, snapshot);
        let guard = guard(&record.session, &listener, process, self.now);
        let pool = route.pool().clone();
        // The record's times count from here.
        let then = self.now.before(record.away);
        let session = Session::restore(&record.session, record.id, listener.totals.clone(), route, lease, then);
        let Some(session) = session else {
            return Err(Incoming { record, client, backend, up, down }.refused("its session is of no use".to_owned()));
        };
        let relays = session.stage() == Stage::Relaying;
        let source = backend.as_ref().and_then(|socket| self.net.count_at(socket, &pool.sources));
        let serial = self.serials.give();
        let sockets = Sockets {
            client: Attached::restore(client, record.client, serial, then),
            backend: backend.zip(record.backend).map(|(socket, saved)| Attached::restore(socket, saved, serial, then)),
            source,
            up: RelayBuffer::holding(&record.up.bytes, up.map(|pipe| (pipe, record.up.in_pipe))),
            down: RelayBuffer::holding(&record.down.bytes, down.map(|pipe| (pipe, record.down.in_pipe))),
            left: record.left,
            look: (session.stage() == Stage::Sniffing)
                .then(|| Box::new(Look::new(Sniffer::resume(listener.wanted(), record.negotiated)))),
            has_spoken: false,
            wants_turn: relays,
        };
        [&sockets.up, &sockets.down].into_iter().for_each(|buffer| buffer.enter(&mut self.relay_resources));
        let connection = Connection {
            flushed: Flushed { up: session.bytes(Direction::Up), down: session.bytes(Direction::Down) },
            session,
            sockets,
            keep_alive_at: record.keep_alive.map(|left| then + left).into(),
            look_at: record.look.map(|left| then + left).into(),
            report_at: if relays { self.first_report() } else { OptionalTick::NONE },
            is_reported: relays,
            runnable: false,
            dirty: false,
            guard,
        };
        // Descriptors end long before the numbers of slots do.
        let Some(key) = self.connections.insert_with(|_| connection) else { return Ok(()) };
        if let Err(error) = self.watch(key)
            && let Some(connection) = self.leave(key)
        {
            let Sockets { client, backend, up, down, .. } = connection.sockets;
            let backend = backend.map(|backend| backend.end.socket);
            let (up, down) = (up.into_pipe(), down.into_pipe());
            let incoming = Incoming { record, client: client.end.socket, backend, up, down };
            return Err(incoming.refused(format!("its sockets can't be watched: {error}")));
        }
        if relays {
            self.reconcile(key);
        } else {
            self.step(key, Input::Adopt(snapshot));
            self.step_moved(key, Input::Begin);
        }
        Ok(())
    }

    /// Takes a connection out of the table, with its sockets out of poll.
    fn leave(&mut self, key: Key) -> Option<Connection<N::Socket, N::Pipe>> {
        let mut connection = self.connections.remove(key)?;
        self.wheel.cancel(key.slot);
        (connection.runnable, connection.dirty) = (false, false);
        let Sockets { client, backend, up, down, .. } = &connection.sockets;
        self.net.release(&client.end.socket);
        backend.iter().for_each(|backend| self.net.release(&backend.end.socket));
        [up, down].into_iter().for_each(|buffer| buffer.leave(&mut self.relay_resources));
        Some(connection)
    }

    /// Has both sockets announced, under new serials.
    fn watch(&mut self, key: Key) -> io::Result<()> {
        let Some(Connection { sockets, .. }) = self.connections.get_mut(key) else { return Ok(()) };
        for side in [Side::Client, Side::Backend] {
            if let Some(attached) = sockets.of(side) {
                attached.serial = self.serials.give();
                let token = Token::Socket(attached.id(side, key));
                self.net.adopt(&attached.end.socket, token)?;
            }
        }
        Ok(())
    }

    /// A step in which a client that waits joins its queue whatever its bound, as it does when a snapshot moves it.
    pub(super) fn step_moved(&mut self, key: Key, input: Input<'_>) {
        let mut moved = VecDeque::from([Waiter { key, since: self.now }]);
        self.queues.next_moved(&mut moved);
        self.step(key, input);
        self.queues.next_moved(&mut moved);
    }
}

/// Where a connection belongs here.
struct Place {
    listener: Arc<Listener>,
    route: Route,
    /// On the backend that it relays to.
    lease: Option<Lease>,
}

impl Place {
    /// What the snapshot lacks is made for this connection.
    fn of(session: &Saved, snapshot: &Snapshot) -> Place {
        let known = (snapshot.listener(&session.listener), session.pool.as_deref().map(|name| snapshot.pool(name)));
        let (listener, pool) = match known {
            (Some(listener), None) => (listener.clone(), None),
            (Some(listener), Some(Some(pool))) => (listener.clone(), Some(pool.clone())),
            (listener, pool) => {
                let own = own_listener(session);
                let pool = pool.map(|pool| pool.unwrap_or(&own.pool).clone());
                (listener.unwrap_or(&own).clone(), pool)
            }
        };
        let route = pool.map_or_else(|| Route::Listener(listener.clone()), Route::Pool);
        let lease = session.relay.as_ref().and_then(|relay| lease(&relay.backend, route.pool()));
        Place { listener, route, lease }
    }
}

/// The right to use the backend of this name, whatever its limit.
fn lease(name: &str, pool: &Pool) -> Option<Lease> {
    if let Some(member) = pool.named(name) {
        return Lease::take(&member.backend, member.slot, u32::MAX);
    }
    // No backend of a pool has this number.
    let backend = Backend::new(BackendId(u64::MAX), name.to_owned(), Vec::new(), Arc::new(LoadBlock::default()), 0);
    Lease::take(&Arc::new(backend.counted_in(&pool.totals)), 0, u32::MAX)
}

/// A listener of this name without routes, with a pool of its own that has no backend.
fn own_listener(session: &Saved) -> Arc<Listener> {
    let pool = pool::without_backends(session.pool.clone().unwrap_or_default());
    let settings = model::Listener {
        name: session.listener.clone(),
        pool: pool.settings.name.clone(),
        ..model::Listener::default()
    };
    let admission = ListenerAdmission::new(&settings);
    let (name, totals) = (settings.name.clone(), admission.totals.clone());
    Arc::new(Listener { name, settings, pool, routing: Routing::default(), addresses: Vec::new(), totals, admission })
}

fn guard(session: &Saved, listener: &Listener, process: &ConnectionLimit, now: Tick) -> AdmissionGuard {
    let is_admitted = !matches!(session.stage, Stage::Preamble | Stage::Admitting);
    let ip = session.client.map(|at| at.ip()).filter(|_| is_admitted);
    listener.admission.take_over(process, ip, now)
}
