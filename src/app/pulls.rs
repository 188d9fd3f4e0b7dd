//! Hands over to processes that this one did not start ([`crate::handover::pull`]).
//!
//! The thread `take-over` accepts them, one after the other. It accepts none during a hand-over of any kind: they wait in the socket's
//! queue. The successor gets the listening socket, so they wait for the process that is there afterwards.
//!
//! | what connects | what follows |
//! |---|---|
//! | a process of root, of this process's user, or of the user of its start | a hand-over like that of an upgrade ([`super::upgrade`]) |
//! | a process of another user | it is refused, and the log warns |
//! | a process that leaves without a word, like a start that looks whether the address is taken | nothing |
//! | a process that sends nothing | it is refused after [`HELLO`]; others wait for their turn, and an upgrade does not |
//! | a process whose message comes after an upgrade has begun | it waits, and is refused if the upgrade succeeds |
//!
//! A successor that takes over serves the socket once it has everything. This process then ends, also as process 1 of a container.

use super::successor::Successor;
use super::upgrade::{Shared, Upgrades, Word, hand_over};
use crate::base::{Address, Endpoint, Listen};
use crate::confine;
use crate::handover::message::SocketOf;
use crate::handover::pull::{self, Puller};
use crate::handover::{Letter, Post};
use crate::net::listen::{self, BoundFiles, Listening};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, ErrorKind, PipeReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// How long a puller may take to begin: it has read its configuration before it connects.
const HELLO: Duration = Duration::from_secs(10);

/// The pause after a failure to accept, like a lack of descriptors.
const PAUSE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The socket, and what serves it.
pub struct Pulls {
    /// The first field, since a file is removed before its socket closes.
    _files: BoundFiles,
    /// The thread has it once it runs.
    listening: Option<Listening>,
    endpoint: Endpoint,
    /// The user of the start.
    started_by: u32,
}

impl Pulls {
    /// Listens. Called before privileges are given up.
    pub fn bind(path: &Path) -> Result<Pulls, String> {
        let listening = listen::bind_for_messages(path).map_err(|error| {
            let hint = confine::hint_to_binding(&Listen(Address::Unix(path.to_owned())), &error);
            format!("take_over: can't listen on {}: {error}{hint}", path.display())
        })?;
        let (mut files, endpoint) = (BoundFiles::default(), Endpoint::Unix(path.into()));
        files.add(&endpoint);
        let started_by = rustix::process::getuid().as_raw();
        Ok(Pulls { _files: files, listening: Some(listening), endpoint, started_by })
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A copy of the listening socket, for a successor.
    pub fn lend(&self) -> io::Result<Option<(SocketOf, OwnedFd)>> {
        let copy = |listening: &Listening| listening.as_fd().try_clone_to_owned();
        let copy = self.listening.as_ref().map(copy).transpose()?;
        Ok(copy.map(|copy| (SocketOf::own(&self.endpoint, None), copy)))
    }

    /// Starts the thread. [`Shared::leave_sockets`] ends it, once it has no hand-over under way.
    pub fn serve(&mut self, upgrades: Upgrades) -> io::Result<()> {
        let Some(listening) = self.listening.take() else { return Ok(()) };
        let (stop, writer) = io::pipe()?;
        *upgrades.0.pulling.lock() = Some(writer);
        let started_by = self.started_by;
        let serve = move || serve(&listening, &stop, started_by, &upgrades.0);
        thread::Builder::new().name("take-over".to_owned()).spawn(serve)?;
        Ok(())
    }
}

fn serve(listening: &Listening, stop: &PipeReader, started_by: u32, shared: &Shared) {
    loop {
        let mut wanted = [PollFd::new(listening, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        let polled = poll(&mut wanted, None);
        let [asked, stopped] = wanted.map(|wanted| !wanted.revents().is_empty());
        if stopped {
            return;
        }
        if polled.is_err() || !asked {
            continue;
        }
        // Waits for the end of another hand-over.
        let turn = shared.launcher.lock();
        if shared.handed_over.load(Ordering::SeqCst) {
            return;
        }
        let accepted = pull::accept(listening);
        drop(turn);
        match accepted {
            Ok(puller) => take(puller, started_by, shared),
            // The puller has left, or the other process that has this socket was quicker.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                log::warn!("take-over: can't accept a process that asks for it: {error}");
                let _ = poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&PAUSE));
            }
        }
    }
}

/// Hands over, unless the process may not take over.
fn take(puller: Puller, started_by: u32, shared: &Shared) {
    let (begun, Puller { channel, pid, uid }) = (Instant::now(), puller);
    let (post, successor) = (Post::new(channel), Successor::Puller { pid });
    let name = successor.to_string();
    // The process may have left.
    let refuse = |why: String| drop(post.send_last(&Word::Refused { why, stopping: false }));
    if ![0, rustix::process::geteuid().as_raw(), started_by].contains(&uid) {
        log::warn!("take-over refused: {name} runs as user {uid}: expected root, or the user of this process");
        return refuse(format!("user {uid} may not take over: expected root, or the user of the running process"));
    }
    match post.receive::<Word>(begun + HELLO) {
        Ok(None) => {}
        Ok(Some(Letter { message, .. })) => {
            log::info!("take-over: {name} asks for it");
            let _turn = shared.launcher.lock();
            if shared.handed_over.load(Ordering::SeqCst) {
                return refuse("another process has taken over meanwhile: try again".to_owned());
            }
            // It reports a failure itself.
            let _ = hand_over(shared, begun, post, successor, Some(message));
        }
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            shared.failed("take-over", &format!("{name} sent nothing within {HELLO:?}"));
        }
        Err(error) => shared.failed("take-over", &format!("a message of {name} can't be read: {error}")),
    }
}
