//! Round robin: each usable backend in turn. Weights do not matter, but weight 0 is skipped.
//!
//! One cursor, shared by all workers, counts positions; a position of an unusable backend is skipped. So the turns are
//! the exact round of the usable backends, whichever worker chooses.

use super::candidates::Candidates;
use super::cursor::Cursor;
use super::{Balance, Client, Member, Preview, View};

/// Round robin; the sticky variant uses it for a client's first connection.
pub(super) struct RoundRobin {
    candidates: Candidates,
    cursor: Cursor,
}

/// Builds the algorithm for these members.
pub fn build(members: &[Member], start: u64) -> Box<dyn Balance> {
    Box::new(RoundRobin::new(members, start))
}

impl RoundRobin {
    pub(super) fn new(members: &[Member], start: u64) -> RoundRobin {
        RoundRobin { candidates: Candidates::new(members), cursor: Cursor::new(members.len(), start) }
    }

    pub(super) fn take(&self, view: &View<'_>) -> Option<usize> {
        self.cursor.take(|start| self.find(start, view))
    }

    pub(super) fn peek(&self, view: &View<'_>) -> Option<usize> {
        self.cursor.peek(|start| self.find(start, view))
    }

    /// The positions that a turn from `start` skips, and its backend.
    fn find(&self, start: usize, view: &View<'_>) -> Option<(usize, usize)> {
        let index = self.candidates.next_from(start, view)?;
        let passed = if index < start { index + self.candidates.len() - start } else { index - start };
        Some((passed, index))
    }

    pub(super) fn has_weight(&self, index: usize) -> bool {
        self.candidates.weight(index) > 0
    }
}

impl Balance for RoundRobin {
    fn pick(&self, _: Client, view: &View<'_>, _: &mut fastrand::Rng) -> Option<usize> {
        self.take(view)
    }

    fn preview(&self, _: Client, view: &View<'_>) -> Preview {
        Preview::Certain(self.peek(view))
    }
}
