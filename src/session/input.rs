//! What the driver tells a session, and what a session answers.
//!
//! Each effect that asks something names the input that answers it; all other inputs may come at any time.

use super::{CloseReason, Direction, NoHeader, Side};
use crate::config::model::ProxyVersion;
use crate::policy::limit::Reason;
use crate::pool::{Lease, PickError};
use crate::proto::proxy::Header;

/// What the driver reports.
#[derive(Debug)]
pub enum Input {
    /// Answer to [`Effect::ReadHeader`], once it is known.
    Header(Result<Header, NoHeader>),
    /// Answer to [`Effect::Admit`].
    Admitted(Result<(), Reason>),
    /// Answer to [`Effect::Queue`] where the queue has no room.
    NoPlace,
    /// Its turn in the queue has come: there may be a backend.
    Turn,
    /// The client left, now or before: to be reported while the session waits in a queue.
    Left(Left),
    /// Answer to [`Effect::Pick`].
    Picked(Result<Lease, PickError>),
    /// Answer to [`Effect::Dial`], at once or later.
    Dialed(Result<(), DialFailure>),
    /// Answer to [`Effect::Announce`]: the header's length.
    Announced(u64),
    /// Bytes were moved, or at least tried to be, one way. From a side that has failed, a source that fails is the end of what
    /// it sent.
    Moved(Direction, Moved),
    /// A reset, or a dead peer, was seen on a socket without reading or writing it.
    Reset(Side),
    /// Answer to [`Effect::Measure`].
    Unsent(u64),
    /// The moment that [`super::Session::deadline`] named may have come.
    Deadline,
    /// It has to end now.
    Stop(CloseReason),
}

/// How a client left before it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
    /// Its FIN has come: it sends nothing more, but may wait for an answer.
    Finished,
    /// Its socket is closed in both directions.
    Gone,
}

/// Why a dial gave no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialFailure {
    /// It concerns this backend: refused, unreachable, reset; or no local port is left to connect to it from. Waiting for
    /// one would cost more than it brings: the kernel searches all of them at each try.
    Backend,
    /// It would concern any: no descriptor, no memory.
    Starved,
}

/// What one round of moving bytes came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes read from the source.
    pub read: u64,
    /// Bytes written to the sink.
    pub written: u64,
    /// Are bytes held that the sink did not take?
    pub held: bool,
    /// The source's FIN was read.
    pub fin: bool,
    /// Whose socket failed. A source that fails has sent no FIN.
    pub failed: Option<Failed>,
}

/// Which end of a way failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Reading did.
    Source,
    /// Writing did.
    Sink,
}

/// The one thing to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing until the next input.
    Wait,
    /// Read the client's PROXY header; what follows it is held for the up way.
    ReadHeader,
    /// Ask whether the listener admits the client, whose address is known.
    Admit,
    /// Stand in the pool's queue until it is its turn; a socket of an earlier attempt is closed first.
    Queue,
    /// Choose a backend; a socket of an earlier attempt is closed first.
    Pick,
    /// Connect to [`super::Session::endpoint`]; a socket of an earlier attempt is closed first.
    Dial,
    /// Connected: have [`super::Session::introduction`] held for the backend in this version, before anything of the client's.
    Announce(ProxyVersion),
    /// Connected: relay from now on, and look at once for what has come already.
    Relay,
    /// Send a FIN to that side.
    Finish(Side),
    /// That side has failed: drop what is held for it, and relay what it sent before to its end.
    ReadOut(Side),
    /// Ask how many bytes, a FIN included, that side's kernel has not acknowledged yet.
    Measure(Side),
    /// Close both sockets, so; the session is over.
    End(Ending),
}

/// How the sockets are closed at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order: a FIN where none was sent yet.
    Fin,
    /// With a reset.
    Reset,
}
