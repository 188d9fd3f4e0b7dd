//! The caller's side: asks every worker, waits for a bounded time, and joins the answers.

use super::inspection::{Answer, Inspection};
use super::{Action, Question, Row};
use crate::base::Tick;
use crossbeam_channel::bounded;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A worker that takes no slice for this long is silent.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// So is one that has not answered after this time.
pub const PATIENCE_IN_ALL: Duration = Duration::from_secs(30);

/// Stands for the number of a worker: the thread that knows the connections which the kernel carries.
pub const KERNEL: usize = usize::MAX;

/// How often the caller checks that workers go on.
const LOOK: Duration = Duration::from_millis(50);

/// The workers, as a caller reaches them.
pub trait Inspect {
    /// The number of workers.
    fn workers(&self) -> usize;

    /// Hands a question to a worker, without waiting for it.
    fn put(&self, worker: usize, inspection: Inspection);

    /// Hands a question about the connections that the kernel carries to the thread that knows them. False: there is none.
    fn put_to_kernel(&self, _inspection: Inspection) -> bool {
        false
    }

    /// Where the kernel forwards a client of this listener, from this port if it is known; `None`: nowhere.
    fn forwards(&self, _listener: &str, _client: IpAddr, _port: Option<u16>) -> Option<Forwards> {
        None
    }

    /// Has this worker ended? It has no connection then. If it answered, the answer is already in the channel.
    fn has_ended(&self, worker: usize) -> bool;
}

/// Where the kernel's rules lead a client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forwards {
    /// The backend, where the client's address decides, or its address and port.
    pub backend: Option<String>,
    /// The share of each backend, where it does not.
    pub shares: HashMap<String, f64>,
}

/// What all workers answered together.
#[derive(Debug, Default)]
pub struct Joined {
    /// The connections, in the order of the question.
    pub rows: Vec<Row>,
    /// How many were closed.
    pub closed: u64,
    /// The numbers of the workers that did not answer; [`KERNEL`] for the thread that knows the kernel's connections.
    pub silent: Vec<usize>,
}

/// A worker that has not answered.
struct Awaited {
    worker: usize,
    slices: Arc<AtomicU64>,
    seen: u64,
    /// When it last went on.
    at: Tick,
}

/// Asks the workers that may have connections which `question` is about, and returns once each has answered or is silent.
pub fn ask(workers: &dyn Inspect, question: Question, now: impl Fn() -> Tick) -> Joined {
    let begun = now();
    let action = question.action;
    let only = question.filter.id.map(|id| if id.entry().is_some() { KERNEL } else { id.worker(workers.workers()) });
    let question = Arc::new(question);
    let asked = (0..workers.workers()).chain([KERNEL]).filter(|worker| only.is_none_or(|only| only == *worker));
    // The sender is kept: with all others gone, the channel would not make anyone wait.
    let (sender, answers) = bounded(workers.workers() + 1);
    let mut awaited: Vec<Awaited> = Vec::new();
    for worker in asked {
        let slices = Arc::new(AtomicU64::new(0));
        let inspection = Inspection::new(question.clone(), worker, slices.clone(), sender.clone(), begun);
        if worker != KERNEL {
            workers.put(worker, inspection);
        } else if !workers.put_to_kernel(inspection) {
            continue;
        }
        awaited.push(Awaited { worker, slices, seen: 0, at: begun });
    }
    let mut joined = Joined::default();
    while !awaited.is_empty() {
        let answer = answers.recv_timeout(LOOK).ok();
        // Read before the channel: a worker may answer and end at any moment.
        let asked = awaited.iter().map(|it| it.worker);
        let ended: Vec<usize> = asked.filter(|it| *it != KERNEL && workers.has_ended(*it)).collect();
        for Answer { worker, mut rows, closed } in answer.into_iter().chain(answers.try_iter()) {
            awaited.retain(|awaited| awaited.worker != worker);
            joined.rows.append(&mut rows);
            joined.closed += closed;
        }
        let now = now();
        awaited.retain_mut(|awaited| {
            let Awaited { worker, slices, seen, at } = awaited;
            let before = std::mem::replace(seen, slices.load(Ordering::Relaxed));
            if before != *seen {
                *at = now;
            }
            let has_ended = ended.contains(worker);
            let is_silent = !has_ended && (now - *at >= PATIENCE || now - begun >= PATIENCE_IN_ALL);
            if is_silent {
                joined.silent.push(*worker);
            }
            !is_silent && !has_ended
        });
    }
    if let Action::List { sort, limit } = action {
        joined.rows.sort_unstable_by_key(|row| (u64::MAX - row.rank(sort), row.id.0));
        joined.rows.truncate(limit);
    }
    joined
}
