//! The number of a connection: the access log, the debug log and the admin API name it by the same one.

use crate::config::check::WORKERS_MAX;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Unique in the process, and below 2^53: a JSON number holds it exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

/// Gives the connections of one worker their numbers: a sequence, times 1024, plus the worker's number.
#[derive(Debug)]
pub struct ConnectionIds {
    worker: u64,
    given: u64,
}

/// The sequences of the next process begin this many behind the last one that any worker of this process has given. The process
/// goes on accepting until the next one does; no worker accepts so many in that time.
const HEADROOM: u64 = 1 << 26;

/// The numbers of connections that the kernel carries begin here. A worker's sequence does not reach them within 2^42 connections.
const OF_KERNEL: u64 = 1 << 52;

const WORKERS: u64 = 1024;
const _: () = assert!(WORKERS_MAX as u64 <= WORKERS);

/// Sequences repeat after this many connections of a worker.
const SEQUENCES: u64 = (1 << 53) / WORKERS;

impl ConnectionIds {
    /// Those of the worker with this number, in a process whose sequences begin behind `begin`.
    pub fn new(worker: usize, begin: u64) -> ConnectionIds {
        ConnectionIds { worker: worker as u64 % WORKERS, given: begin % SEQUENCES }
    }

    /// The number of the worker.
    pub fn worker(&self) -> usize {
        self.worker as usize
    }

    /// The last sequence that was given.
    pub fn given(&self) -> u64 {
        self.given
    }

    /// Where the sequences of the next process begin, if the workers of this one have given these.
    pub fn begin_next(given: impl IntoIterator<Item = u64>) -> u64 {
        (given.into_iter().max().unwrap_or(0) + HEADROOM) % SEQUENCES
    }

    /// The next one.
    pub fn give(&mut self) -> ConnectionId {
        self.given = (self.given + 1) % SEQUENCES;
        ConnectionId(self.given * WORKERS + self.worker)
    }
}

impl ConnectionId {
    /// The number of the worker that serves the connection, of so many. A connection that comes from another process goes to
    /// that worker, too, however many workers that process had.
    pub fn worker(self, workers: usize) -> usize {
        (self.0 % WORKERS) as usize % workers.max(1)
    }

    /// That of a connection which the kernel carries, by the number of its entry there.
    pub fn of_entry(entry: u32) -> ConnectionId {
        ConnectionId(OF_KERNEL + u64::from(entry))
    }

    /// The number of the kernel's entry, if the kernel carries the connection.
    pub fn entry(self) -> Option<u32> {
        self.0.checked_sub(OF_KERNEL).and_then(|entry| u32::try_from(entry).ok())
    }

    /// Does a JSON number hold it exactly?
    pub fn is_exact(self) -> bool {
        self.0 < SEQUENCES * WORKERS
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_gives_numbers_that_this_one_does_not_give_meanwhile() {
        let mut old = ConnectionIds::new(3, 0);
        let given = old.give().0.max(old.give().0);
        let begin = ConnectionIds::begin_next([old.given(), 1]);
        for worker in 0..4 {
            let next = ConnectionIds::new(worker, begin).give().0;
            assert!(next > given + 1_000_000 * WORKERS && ConnectionId(next).is_exact());
        }
        assert_eq!(ConnectionIds::begin_next([SEQUENCES - 1]), HEADROOM - 1, "they wrap");
        assert!(!ConnectionId(SEQUENCES * WORKERS).is_exact());
    }

    #[test]
    fn numbers_differ_between_workers_and_stay_exact_in_json() {
        let (mut first, mut last) = (ConnectionIds::new(0, 0), ConnectionIds::new(WORKERS_MAX - 1, 0));
        assert_eq!([first.give(), first.give(), last.give()], [1024, 2048, 2047].map(ConnectionId));
        let worker = |id| ConnectionId(id).worker(WORKERS_MAX);
        assert_eq!((worker(2048), worker(2047)), (0, WORKERS_MAX - 1));
        assert_eq!((ConnectionId(2047).worker(2), ConnectionId(2047).worker(0)), ((WORKERS_MAX - 1) % 2, 0));
        last.given = SEQUENCES - 2;
        let greatest = last.give();
        assert_eq!(greatest.0, (1 << 53) - 1);
        assert_eq!((greatest.0 as f64) as u64, greatest.0);
        assert_eq!(last.give(), ConnectionId(WORKERS - 1));
    }
}
