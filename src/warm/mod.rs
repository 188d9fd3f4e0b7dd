//! Warm connections: each usable backend of a pool with `warm_connections = N` has N connections ahead of need.
//!
//! A thread of its own, the keeper, dials, checks and replaces them. A worker that would dial takes one instead, if there
//! is one to the address that it would dial. So the client saves the round trip of a connect. The connections of a backend
//! are one table for all workers ([`crate::pool::WarmConnections`]): N are N, and a burst at one worker finds all of them.
//!
//! # For which protocols
//!
//! Only for those in which the client speaks first: HTTP, TLS, PostgreSQL, Redis. A server that speaks first (SMTP, SSH, MySQL)
//! has greeted on a warm connection before there is a client. The keeper notices it and closes all of the pool.
//! A server that needs a thread or a process for each connection has N busy ones more.
//!
//! # The life of one
//!
//! | phase | what happens | next |
//! |---|---|---|
//! | – | the backend is usable, has fewer than wanted, and no pause | dialled: Connecting |
//! | Connecting | connected | Ready |
//! | Connecting | refused, unreachable, not connected within `connect_timeout` | closed; a pause of the backend |
//! | Ready | a worker takes it for a client of the same address | the worker's; it looks at it, see below |
//! | Ready | FIN or reset | closed and replaced; a pause if it lived shorter than [`SHORT_LIVED`] |
//! | Ready | bytes | Spoke |
//! | Ready | its age is over: [`MAX_AGE`](crate::policy::warm::MAX_AGE), shortened by up to a quarter | closed and replaced |
//! | Spoke | FIN or reset within [`FAREWELL`] | as FIN in Ready: the backend had said why it closes |
//! | Spoke | none | the backend speaks first: the pool has none from now on |
//! | any | clients or the last probe failed at its address | closed |
//! | any | the backend is down, left out, draining, disabled, without weight, or gone; fewer are wanted | closed |
//! | any | a client's lease needs its place below `max_connections` | closed by the worker |
//!
//! How many are wanted: N, less in a slow start by the backend's share (rounded up), at most what leases leave of
//! `max_connections`. Backups have theirs too: they are for the moment when all primaries are down.
//!
//! # The hand-out
//!
//! The worker takes the youngest one out of the table, removes it from the keeper's poll and looks at it with MSG_PEEK. One
//! that is not silent and open is closed, and the next is tried; without any the worker dials. From there the session goes
//! on as after a dial that was connected at once: a PROXY header leaves now, with the client's address.
//!
//! A backend may close it after that look. While no byte has moved in either direction, the session dials the same backend
//! instead, and the client notices nothing (`session`, the rows of "warm"). Bytes of the client, or a PROXY header,
//! may be on their way already. Then the client sees the reset, as on any connection that its backend closes at that moment.
//!
//! # What bounds it
//!
//! A backend has at most [`DIALS_AT_ONCE`] dials under way, and one turn of the keeper begins at most [`DIALS`]. Turns are
//! [`TURN`] apart; without a pool that has warm connections the thread sleeps. A failed dial of the keeper is not counted
//! as a failure of the backend: probes and clients decide about it. All backends together have an eighth of the limit on open
//! files at most, which is set aside for them ([`descriptors`](crate::config::descriptors)).

mod keeper;

use crate::mailbox::{Mailbox, Merge, Slot};
use crate::net::TcpTuning;
#[cfg(doc)]
use crate::policy::warm::{DIALS_AT_ONCE, FAREWELL, SHORT_LIVED};
use crate::pool::Snapshot;
use crate::watchdog::{Heartbeat, Watched};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use keeper::Keeper;
pub use keeper::{DIALS, TURN};
use mio::{Poll, Registry, Token};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The token of orders. Those of connections are below it.
const ORDERS: Token = Token(usize::MAX);

/// How long the end waits for the thread.
const FAREWELL_OF_THREAD: Duration = Duration::from_secs(2);

/// What the keeper is to do next.
#[derive(Debug, Default)]
pub struct Orders {
    /// Keep connections to the backends of this snapshot.
    pub adopt: Option<Adopt>,
    /// The process takes no new clients: close all connections, and keep none from now on.
    pub drain: bool,
    /// End the thread.
    pub end: bool,
}

/// A snapshot for the keeper.
#[derive(Debug)]
pub struct Adopt {
    /// The next snapshot.
    pub snapshot: Arc<Snapshot>,
    /// Dropped once it is done: backends that have left have no warm connection any more.
    pub done: Option<Sender<()>>,
}

impl Merge for Orders {
    fn merge(&mut self, later: Orders) {
        self.adopt = later.adopt.or(self.adopt.take());
        self.drain |= later.drain;
        self.end |= later.end;
    }
}

/// The keeper before its thread starts: workers and control must know it before.
pub struct Prepared {
    poll: Poll,
    access: Access,
    wake: Mailbox<()>,
}

/// What other threads need of the keeper. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Access {
    /// Where it takes orders.
    pub orders: Arc<Slot<Orders>>,
    /// Its poll, which a connection that is handed out must leave.
    pub registry: Arc<Registry>,
}

/// The running thread; dropping it stops it.
#[derive(Debug)]
pub struct Warm {
    access: Access,
    wake: Mailbox<()>,
    heartbeat: Heartbeat,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// Prepares the keeper.
pub fn prepare() -> io::Result<Prepared> {
    let poll = Poll::new()?;
    let (wake, _) = Mailbox::new(&poll, ORDERS, 1)?;
    let access = Access { orders: Arc::new(wake.slot()), registry: Arc::new(poll.registry().try_clone()?) };
    Ok(Prepared { poll, access, wake })
}

impl Prepared {
    /// For the workers and for control.
    pub fn access(&self) -> Access {
        self.access.clone()
    }

    /// Starts the thread with the first snapshot. It keeps at most so many connections.
    pub fn spawn(self, snapshot: Arc<Snapshot>, tuning: TcpTuning, most: u64) -> io::Result<Warm> {
        let Prepared { poll, access, wake } = self;
        access.orders.put(Orders { adopt: Some(Adopt { snapshot, done: None }), ..Orders::default() });
        let heartbeat = Heartbeat::default();
        let keeper = Keeper::new(poll, access.orders.clone(), tuning, most, heartbeat.clone());
        let (end, ended) = bounded(0);
        let work = move || {
            let _end: Sender<()> = end;
            keeper.run();
        };
        let thread = thread::Builder::new().name("warm".to_owned()).spawn(work)?;
        Ok(Warm { access, wake, heartbeat, ended, thread: Some(thread) })
    }
}

impl Warm {
    /// The heartbeat that the watchdog checks.
    pub fn watched(&self) -> Watched {
        let (wake, heartbeat) = (self.wake.clone(), self.heartbeat.clone());
        Watched { name: "warm".to_owned(), heartbeat, wake: Box::new(move || wake.wake()) }
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        self.access.orders.put(Orders { end: true, ..Orders::default() });
        // Nothing is ever sent: the channel disconnects when the thread ends.
        if self.ended.recv_timeout(FAREWELL_OF_THREAD) == Err(RecvTimeoutError::Timeout) {
            return log::error!("the keeper of warm connections did not end within {FAREWELL_OF_THREAD:?}");
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the keeper of warm connections panicked");
        }
    }
}
