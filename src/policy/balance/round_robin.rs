//! Round robin: each usable backend in turn. Weights play no part, except that 0 is left out.
//!
//! One cursor, shared by all workers, counts positions handed out; a position that falls on an unusable backend is
//! passed over. So the turns are the full round with the unusable left out, which is exactly the round of those that are
//! left, whichever worker asks.

use super::candidates::Candidates;
use super::cursor::Cursor;
use super::{Balance, Client, Member, View};

/// See the module; the sticky variant uses it for a client's first connection.
pub(super) struct RoundRobin {
    candidates: Candidates,
    cursor: Cursor,
}

/// See the module.
pub fn build(members: &[Member], start: u64) -> Box<dyn Balance> {
    Box::new(RoundRobin::new(members, start))
}

impl RoundRobin {
    pub(super) fn new(members: &[Member], start: u64) -> RoundRobin {
        RoundRobin { candidates: Candidates::new(members), cursor: Cursor::new(members.len(), start) }
    }

    pub(super) fn take(&self, view: &View<'_>) -> Option<usize> {
        self.cursor.take(|start| {
            let index = self.candidates.next_from(start, view)?;
            let passed = if index < start { index + self.candidates.len() - start } else { index - start };
            Some((passed, index))
        })
    }

    pub(super) fn has_weight(&self, index: usize) -> bool {
        self.candidates.weight(index) > 0
    }
}

impl Balance for RoundRobin {
    fn pick(&self, _: Client, view: &View<'_>, _: &mut fastrand::Rng) -> Option<usize> {
        self.take(view)
    }
}
