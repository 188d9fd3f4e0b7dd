//! What the driver reports to a session, and what a session answers.
//!
//! Each effect that asks for something names the input that answers it. All other inputs may come at any time.

use super::{BackendPreamble, CloseReason, Direction, NoAnswer, NoHeader, Record, Side};
use crate::base::Endpoint;
use crate::policy::balance::Client;
use crate::policy::health::ConnectFailure;
use crate::policy::limit::Reason;
use crate::pool::{Backend, DialSource, Lease, PickError, Pool, ResetOrder, Snapshot, Tried};
use crate::proto::proxy::Header;
use crate::proto::sniff::postgres::Reply;
use crate::proto::sniff::{Protocols, Sniffed};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What the driver reports.
#[derive(Debug)]
pub enum Input<'a> {
    /// The sockets are watched: the first input, also of a session that was rebuilt.
    Begin,
    /// Answer to [`Effect::ReadPreamble`], once the preamble is whole or invalid.
    Header(Result<Box<Header>, NoHeader>),
    /// Answer to [`Effect::Admit`].
    Admitted(Result<(), Reason>),
    /// Bytes have come that decide nothing yet; to [`Effect::Sniff`].
    Heard,
    /// Answer to [`Effect::Sniff`]; `None`: the first bytes are those of no wanted protocol.
    Sniffed(Result<Option<Box<Sniffed>>, NoAnswer>),
    /// Answer to [`Effect::Queue`] where it has room.
    Queued {
        /// The clients before it.
        ahead: u32,
        /// How the client has left already, if it has.
        left: Option<Left>,
    },
    /// Answer to [`Effect::Queue`] where the queue has no room.
    NoPlace,
    /// Its turn in the queue has come: there may be a backend.
    Turn,
    /// The client left: to be reported while the session waits in a queue.
    Left(Left),
    /// Answer to [`Effect::Pick`].
    Picked(Result<Lease, PickError>),
    /// Answer to [`Effect::Dial`], at once or later.
    Dialed(Result<(), DialFailure>),
    /// Answer to [`Effect::Dial`] where a warm connection to that address was ready.
    TookWarm,
    /// Answer to [`Effect::Request`], once the backend has sent something.
    Replied(Reply),
    /// Answer to [`Effect::Announce`]: the preamble's length.
    Announced(u64),
    /// Bytes were moved in this direction, or at least tried to be. From a side that has failed, a source that fails is the
    /// end of what it sent.
    Moved(Direction, Moved),
    /// A reset, or a dead peer, was seen on a socket without reading or writing it.
    Reset(Side),
    /// Answer to [`Effect::Measure`].
    Unsent(u64),
    /// The moment that [`super::Session::deadline`] named may have come.
    Deadline,
    /// This snapshot is in force from now on. A session that waits is in no queue at that moment.
    Adopt(&'a Snapshot),
    /// These connections are reset: see [`mod@crate::pool::reset_order`]. A relay that is one of them ends for this reason.
    ResetBackends {
        /// Which ones.
        order: &'a ResetOrder,
        /// Why.
        reason: CloseReason,
    },
    /// The session must end now.
    Stop(CloseReason),
}

/// How a client left before it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Left {
    /// Its FIN has come: it sends nothing more, but may wait for an answer.
    Finished,
    /// Its socket is closed in both directions.
    Gone,
}

/// Why a dial gave no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialFailure {
    /// It concerns this address: refused, unreachable, reset, or no local port is left to connect to it from. Waiting for a
    /// port would cost more than it brings: the kernel searches all of them at each try.
    Failed(ConnectFailure),
    /// It would fail for any address: no descriptor, no memory.
    Starved,
}

/// The result of one round of moving bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes read from the source.
    pub read: u64,
    /// Bytes written to the sink.
    pub written: u64,
    /// Are there bytes that the sink did not take?
    pub held: bool,
    /// What is held is in a pipe. It can't follow other bytes any more.
    pub piped: bool,
    /// The source's FIN was read.
    pub fin: bool,
    /// The end that failed. A source that fails has sent no FIN.
    pub failed: Option<Failed>,
}

impl Moved {
    /// Has neither end of the direction sent a FIN or failed? Then the deadline has not come nearer.
    pub fn goes_on(&self) -> bool {
        !self.fin && self.failed.is_none()
    }
}

/// Which end of a direction failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Reading failed.
    Source,
    /// Writing failed.
    Sink,
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The client's preamble is being read.
    Preamble,
    /// The client is known, but not whether the listener admits it.
    Admitting,
    /// The listener's routes need its first bytes.
    Sniffing,
    /// It has no backend, and a backend is being chosen.
    Choosing,
    /// It has no backend, and is in the pool's queue.
    Waiting,
    /// A backend is being connected, or will be once there is a descriptor.
    Dialing,
    /// A backend is connected, and is asked for TLS.
    Requesting,
    /// A backend is connected.
    Relaying,
    /// It has ended.
    Closed,
}

/// What the driver does next. Before [`Effect::Pick`], [`Effect::Queue`] and [`Effect::Dial`] the socket of an earlier attempt
/// is closed.
#[derive(Debug)]
pub enum Effect<'a> {
    /// Nothing until the next input.
    Wait,
    /// Read the client's preamble. What follows it is held for the up direction.
    ReadPreamble,
    /// Ask whether the listener admits this client.
    Admit(Client),
    /// Look at the client's first bytes for one of these protocols, at those that are there and those that come. What is taken
    /// of them is held for the up direction.
    Sniff {
        /// Which ones.
        wanted: Protocols,
    },
    /// Choose a backend for this client, unless others waited for one before it.
    Pick {
        /// Out of these.
        pool: &'a Arc<Pool>,
        /// The client.
        client: Client,
        /// Backends that have failed.
        tried: &'a [Tried],
    },
    /// Stand in the queue of this pool until it is its turn.
    Queue {
        /// The pool.
        pool: &'a Arc<Pool>,
    },
    /// Connect to this address, or take a warm connection to it.
    Dial {
        /// The address.
        to: &'a Endpoint,
        /// Where the connection comes from.
        from: DialSource<'a>,
        /// The backend that may have one, and the number of the address there. `None`: it has to be dialled.
        warm: Option<(&'a Backend, usize)>,
    },
    /// Connected: send this and an SSLRequest to the backend, and read its answer.
    Request {
        /// What the backend expects before.
        preamble: Option<BackendPreamble<'a>>,
    },
    /// Connected: hold this for the backend, before any byte of the client.
    Announce(BackendPreamble<'a>),
    /// Connected: relay from now on, and read at once what has already come.
    Relay {
        /// The pool that the backend serves.
        pool: &'a Arc<Pool>,
    },
    /// Send a FIN to that side.
    Finish(Side),
    /// That side has failed: drop what is held for it, and relay what it sent before to its end.
    ReadOut(Side),
    /// Ask how many bytes, a FIN included, that side's kernel has not acknowledged yet.
    Measure(Side),
    /// The session has ended.
    End {
        /// How to close both sockets.
        ending: Ending,
        /// Its record.
        record: &'a Record,
    },
}

/// Both pass for each chunk that is relayed: a cache line at most.
const _: () = assert!(size_of::<Input<'_>>() <= 64 && size_of::<Effect<'_>>() <= 64);

impl Effect<'_> {
    /// Is a backend's socket of an earlier attempt to be closed first?
    pub fn leaves_attempt(&self) -> bool {
        matches!(self, Effect::Pick { .. } | Effect::Queue { .. } | Effect::Dial { .. })
    }
}

/// How the sockets are closed at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order: a FIN where none was sent yet.
    Fin,
    /// With a reset.
    Reset,
}
