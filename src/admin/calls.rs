//! Runs calls on threads: at most [`CALLS_MAX`] at once. As many as [`AdminShare`] grants wait in a queue.
//!
//! A call may wait for control, and its answer for a peer that reads slowly, so each call has a thread while it runs. A
//! thread that has answered takes the next call from the queue, and ends when the queue is empty. A call that has
//! waited for [`http::PATIENCE`] is refused: its caller has probably given up.

use super::http::{self, Response};
use super::incoming::Request;
use super::server::{Handler, Peer};
use crate::config::descriptors::AdminShare;
use parking_lot::{Condvar, Mutex};
use socket2::Socket;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

pub use crate::config::descriptors::ADMIN_CALLS as CALLS_MAX;

/// Answers are built on the heap; this is for the JSON of small requests.
const STACK: usize = 256 * 1024;

pub(super) struct Calls(Arc<CallQueue>);

/// A whole request, and the blocking socket for its answer.
pub(super) struct Call {
    pub socket: Socket,
    pub peer: Peer,
    pub request: Request,
    pub since: Instant,
}

struct CallQueue {
    handler: Arc<dyn Handler>,
    /// Calls that may wait; one more is refused.
    queue_max: usize,
    state: Mutex<State>,
    /// Notified when a thread ends.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    threads: usize,
    queue: VecDeque<Call>,
}

/// One of the [`CALLS_MAX`] places. Every way out of a thread gives it back.
struct CallGuard {
    shared: Arc<CallQueue>,
    given_back: bool,
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if !self.given_back {
            self.shared.state.lock().threads -= 1;
        }
        self.shared.ended.notify_all();
    }
}

impl Calls {
    pub(super) fn new(handler: Arc<dyn Handler>, share: AdminShare) -> Calls {
        Calls(Arc::new(CallQueue { handler, queue_max: share.queued, state: Mutex::default(), ended: Condvar::new() }))
    }

    /// Waits until no call runs.
    pub(super) fn finish(&self, until: Instant) {
        let mut state = self.0.state.lock();
        while state.threads > 0 && !self.0.ended.wait_until(&mut state, until).timed_out() {}
    }

    /// Runs a call now or queues it. If neither is possible, gives the socket back with the reason.
    pub(super) fn take(&self, call: Call) -> Result<(), (Socket, &'static str)> {
        {
            let mut state = self.0.state.lock();
            if state.queue.len() >= self.0.queue_max {
                return Err((call.socket, "too many requests at once"));
            }
            state.queue.push_back(call);
            if state.threads >= CALLS_MAX {
                return Ok(());
            }
            state.threads += 1;
        }
        let place = CallGuard { shared: self.0.clone(), given_back: false };
        let spawned =
            thread::Builder::new().name("admin-call".to_owned()).stack_size(STACK).spawn(move || place.work());
        if spawned.is_ok() {
            return Ok(());
        }
        // The failed spawn dropped the place with the closure. Threads that run already serve the queue.
        let mut state = self.0.state.lock();
        match state.queue.pop_back() {
            Some(call) if state.threads == 0 => Err((call.socket, "no thread can be started")),
            other => {
                state.queue.extend(other);
                Ok(())
            }
        }
    }
}

impl CallGuard {
    fn work(mut self) {
        while let Some(call) = self.next() {
            // An error here is the client's: it has closed or reads too slowly.
            let _ = answer(call, &*self.shared.handler);
        }
    }

    /// The next call. If there is none, the place is given back under the same lock, so a call that comes now finds it
    /// free.
    fn next(&mut self) -> Option<Call> {
        let mut state = self.shared.state.lock();
        let call = state.queue.pop_front();
        if call.is_none() {
            state.threads -= 1;
            self.given_back = true;
        }
        call
    }
}

fn answer(call: Call, handler: &dyn Handler) -> io::Result<()> {
    let Call { mut socket, peer, request, since } = call;
    let response = if since.elapsed() < http::PATIENCE {
        handler.answer(&request, peer)
    } else {
        Response::overloaded("the request waited for 10 seconds for others to end")
    };
    http::answer(&mut socket, &response, request.method == "HEAD")
}
