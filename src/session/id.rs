//! The number of a connection: the access log, the debug log and the admin API name it by the same one.

use crate::config::check::WORKERS_MAX;
use serde::Serialize;
use std::fmt;

/// Unique in the process, and below 2^53: a JSON number holds it exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ConnectionId(pub u64);

/// Gives the connections of one worker their numbers: a sequence, times 1024, plus the worker's number.
#[derive(Debug)]
pub struct ConnectionIds {
    worker: u64,
    given: u64,
}

const WORKERS: u64 = 1024;
const _: () = assert!(WORKERS_MAX as u64 <= WORKERS);

/// Sequences repeat after this many connections of a worker.
const SEQUENCES: u64 = (1 << 53) / WORKERS;

impl ConnectionIds {
    /// Those of the worker with this number.
    pub fn new(worker: usize) -> ConnectionIds {
        ConnectionIds { worker: worker as u64 % WORKERS, given: 0 }
    }

    /// The next one.
    pub fn give(&mut self) -> ConnectionId {
        self.given = (self.given + 1) % SEQUENCES;
        ConnectionId(self.given * WORKERS + self.worker)
    }
}

impl ConnectionId {
    /// The number of the worker that serves the connection.
    pub fn worker(self) -> usize {
        (self.0 % WORKERS) as usize
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
    fn numbers_differ_between_workers_and_stay_exact_in_json() {
        let (mut first, mut last) = (ConnectionIds::new(0), ConnectionIds::new(WORKERS_MAX - 1));
        assert_eq!([first.give(), first.give(), last.give()], [1024, 2048, 2047].map(ConnectionId));
        assert_eq!((ConnectionId(2048).worker(), ConnectionId(2047).worker()), (0, WORKERS_MAX - 1));
        last.given = SEQUENCES - 2;
        let greatest = last.give();
        assert_eq!(greatest.0, (1 << 53) - 1);
        assert_eq!((greatest.0 as f64) as u64, greatest.0);
        assert_eq!(last.give(), ConnectionId(WORKERS - 1));
    }
}
