//! The hand-over of a running balancer to a new process: what the two say to each other. Linux only.
//!
//! *Predecessor*: the process that runs. *Successor*: the one that takes over. The launcher ([`crate::launcher`]) has started the
//! successor with one end of a [`Channel`] as its standard input. The environment variable [`FLAG`] says so.
//!
//! | step | from | message | meaning |
//! |---|---|---|---|
//! | 1 | successor | [`Message::Hello`] | its configuration is read and valid; nothing is bound |
//! | 2 | predecessor | [`Message::Welcome`] | what was changed at run time, counted and learnt, and how many sockets follow; or [`Message::Refused`] |
//! | 3 | predecessor | [`Message::Sockets`], several | the listening sockets, those of the admin API too |
//! | 4 | successor | [`Message::Running`] | all is bound, privileges are given up, all threads run and clients are accepted. The predecessor accepts no client from now on, and keeps the listening sockets |
//! | 5 | predecessor | [`Message::Prepare`], several | connections that no thread of it touches now |
//! | 6 | successor | [`Message::Ready`] | it holds their descriptors, but has not touched a byte. It lists those that it can't take |
//! | 7 | predecessor | [`Message::Commit`] | they belong to the successor. The predecessor closes its own descriptors then |
//! | 8 | predecessor | [`Message::Farewell`] | no connection follows; what it has counted by now |
//! | 9 | successor | [`Message::Done`] | the predecessor may end |
//!
//! Each wait has a bound. Before step 4 a failure changes nothing. After it the predecessor accepts clients again. A
//! connection belongs to the predecessor until it sends Commit. So a failure costs no connection that the successor does not have already.
//!
//! Both processes are tcplb, but may be of different versions. [`MAJOR`] changes when an older process could not understand the
//! messages. Unknown fields are ignored.

pub mod channel;
pub mod message;

pub use channel::{Channel, Parcel};
pub use message::{Hello, MAJOR, Message, Post};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::env;
use std::io;
use std::os::fd::AsFd;

/// The environment variable of a process that the launcher has started.
pub const FLAG: &str = "TCPLB_HAND_OVER";

/// The predecessor of this process; `None`: it was started by others. To be called once, before another thread runs.
pub fn predecessor() -> io::Result<Option<Post>> {
    if env::var_os(FLAG).is_none() {
        return Ok(None);
    }
    take_stdin().map(|channel| Some(Post::new(channel)))
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
    /// How long a connection stood still.
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
