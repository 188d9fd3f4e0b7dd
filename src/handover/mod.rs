//! The hand-over of a running balancer to a new process: what the two say to each other. Linux only.
//!
//! *Predecessor*: the process that runs. *Successor*: the one that takes over. There are two ways to start a successor:
//!
//! * The launcher ([`crate::launcher`]) starts it with one end of a [`Channel`] as its standard input. The environment variable
//!   [`FLAG`] says so.
//! * Others start it with `--take-over SOCKET`. It connects to the predecessor ([`pull`]), and the connection is the channel.
//!
//! | step | from | message | meaning |
//! |---|---|---|---|
//! | 1 | successor | [`Message::Hello`] | its configuration is read and valid; nothing is bound |
//! | 2 | predecessor | [`Message::Welcome`] | what was changed at run time, counted and learnt, and how many sockets follow, with a [`Life`]; or [`Message::Refused`] |
//! | 3 | predecessor | [`Message::Sockets`], several | the listening sockets, those of the admin API too |
//! | 4 | successor | [`Message::Running`] | all is bound, privileges are given up, all threads run and clients are accepted. The predecessor accepts no client from now on, and keeps the listening sockets |
//! | 5 | predecessor | [`Message::Prepare`], several | connections that no thread of it touches now |
//! | 6 | successor | [`Message::Ready`] | it holds their descriptors, but has not touched a byte. It lists those that it can't take |
//! | 7 | predecessor | [`Message::Commit`] | they belong to the successor. The predecessor closes its own descriptors then |
//! | 8 | successor | [`Message::Resumed`] | its workers have them: the pause of their clients is over |
//! | 9 | predecessor | [`Message::Farewell`] | no connection follows; what it has counted by now |
//! | 10 | successor | [`Message::Done`] | it has everything |
//! | 11 | predecessor | [`Message::Released`] | it has decided to end |
//!
//! Each wait has a bound. A predecessor that gives up sends [`Message::Refused`] and closes the channel. Before step 4 a failure changes
//! nothing. After it the predecessor accepts clients again, unless it stops. A connection belongs to the predecessor until it sends
//! Commit. So a failure costs no connection that the successor does not have already.
//!
//! # Which of the two goes on
//!
//! The predecessor decides, and only its death leaves the decision to the successor. The process that goes on counts the upgrade: a
//! predecessor counts a failure, a successor a success. So each upgrade counts once.
//!
//! | state | event | predecessor | successor |
//! |---|---|---|---|
//! | up to step 3 | any failure | goes on | is killed, or ends |
//! | from step 4 | the successor dies or gives up | goes on | ends with the connections that it has, if it lives |
//! | up to step 10 | the predecessor is asked to stop | sends Refused, which says so, and stops; it outlasts a successor that it has launched | ends with the connections that it has, even if the predecessor has ended |
//! | up to step 10 | the successor is asked to stop | goes on | sends Refused instead of its next answer to Prepare or Farewell, and ends with the connections that it has |
//! | from step 4 | the successor is silent for too long | sends Refused, and goes on | the same |
//! | step 9 | the successor dies before Done | goes on; connections that were committed are lost | – |
//! | step 9 | the successor lives, and Done does not come | sends Refused, and goes on | ends with the connections that it has |
//! | step 10 | Released can't be sent: the successor is gone | goes on | – |
//! | step 11 | Released is sent | ends | goes on |
//! | step 3 to 10 | the predecessor dies without Refused | – | goes on, with the connections of the last Prepare too: no other process touches them |
//! | step 4 to 10 | the predecessor sends Refused without a stop, and dies | – | goes on with the connections that it has |
//! | step 10 | the predecessor lives, and neither Released nor Refused comes | stands still; then Released can't be sent, and it goes on | ends with the connections that it has |
//!
//! A stop ends a hand-over at its next message, up to step 10. A successor starts no upgrade of its own before step 11.
//!
//! The connections of the last Prepare are in one process only, however both end:
//!
//! * The predecessor sends Refused before they go on there. A Refused has room in the channel, even if the successor reads nothing.
//! * A successor that gives up waits for the predecessor's end. If the predecessor lives, the successor closes the channel for further
//!   messages. Then it reads what was sent before, and that decides: Commit, Released, Refused, or nothing.
//! * No worker of the successor ends before the hand-over does. So a stop of the successor between Ready and Commit costs none.
//!
//! Both processes are tcplb, but may be of different versions. [`MAJOR`] changes when an older process could not understand the
//! messages. Unknown fields are ignored.

pub mod channel;
pub mod message;
pub mod pull;

pub use channel::{Channel, Parcel};
pub use message::{Hello, Letter, MAJOR, Message, Post};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::env;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The environment variable of a process that the launcher has started.
pub const FLAG: &str = "TCPLB_HAND_OVER";

/// The channel to the predecessor of this process.
pub struct Link {
    /// The channel.
    pub post: Post,
    /// This process was started by others, and has connected to the predecessor.
    pub pulled: bool,
}

/// The predecessor of a process that the launcher has started; `None`: it was started by others. To be called once, before another
/// thread runs.
pub fn predecessor() -> io::Result<Option<Link>> {
    if env::var_os(FLAG).is_none() {
        return Ok(None);
    }
    take_stdin().map(|channel| Some(Link { post: Post::new(channel), pulled: false }))
}

/// Shows a successor that this process has ended: a pipe whose writing end no other process has. So the reading end is closed then,
/// in any PID namespace and however the process has ended.
#[derive(Debug)]
pub struct Life {
    shown: io::PipeReader,
    _kept: io::PipeWriter,
}

impl Life {
    /// That of this process.
    pub fn new() -> io::Result<Life> {
        let (shown, kept) = io::pipe()?;
        Ok(Life { shown, _kept: kept })
    }
}

impl AsFd for Life {
    /// The end for a successor.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shown.as_fd()
    }
}

/// Takes the channel that is the standard input, which is empty from now on.
pub fn take_stdin() -> io::Result<Channel> {
    let channel = Channel::of(io::stdin().as_fd().try_clone_to_owned()?)?;
    let empty = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&empty)?;
    Ok(channel)
}

/// Starts a successor and hands over to it.
pub trait Upgrader: Send + Sync {
    /// Returns once the successor has taken over, or has failed to. Takes up to some minutes.
    fn upgrade(&self) -> Result<Figures, Refusal>;
}

/// An upgrade in figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The process that has taken over.
    pub pid: i32,
    /// The connections that moved.
    pub connections: usize,
    /// The connections that the old process keeps until they end.
    pub left: usize,
    /// How long it took.
    pub seconds: f64,
    /// How long a connection stood still, from its last byte in the old process until the new process could move one.
    pub pause_ms: Pause,
}

/// In milliseconds; null without connections.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    /// The median.
    pub p50: Option<f64>,
    /// The 99th percentile.
    pub p99: Option<f64>,
    /// The longest.
    pub max: Option<f64>,
}

/// Why there was no upgrade. The process goes on as before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another one is under way.
    UnderWay,
    /// There is no launcher; the text says why.
    Unavailable(String),
    /// It failed; the text says why.
    Failed(String),
}
