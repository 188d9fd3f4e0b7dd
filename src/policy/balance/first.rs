//! First: the first usable backend in the order of the configuration, so that a pool fills one server after the other.
//!
//! A backend is full at its `max_connections`; without a limit the first one that is up takes every client. Servers that get no
//! client can be switched off. HAProxy calls the same `balance first`.

use super::candidates::Candidates;
use super::{Balance, Client, Member, Preview, View};

struct First(Candidates);

/// See the module.
pub fn build(members: &[Member], _start: u64) -> Box<dyn Balance> {
    Box::new(First(Candidates::new(members)))
}

impl Balance for First {
    fn pick(&self, _: Client, view: &View<'_>, _: &mut fastrand::Rng) -> Option<usize> {
        self.0.next_from(0, view)
    }

    fn preview(&self, _: Client, view: &View<'_>) -> Preview {
        Preview::Certain(self.0.next_from(0, view))
    }
}
