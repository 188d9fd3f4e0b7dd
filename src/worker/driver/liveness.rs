//! Checks peers that have bytes to acknowledge, and ends the connections of those that are dead.
//!
//! The connection's own timer triggers a look, eight times per `dead_peer_timeout`. Looks begin at the flush after bytes
//! were written to a side, and end when that side has acknowledged all of them. An idle connection needs no look: keepalive covers it.
//! So relaying a chunk costs nothing, and a connection with traffic at most two system calls per look.
//!
//! [`crate::policy::liveness`] decides what a look means.

use super::sockets::{Attached, Sockets};
use super::{Driver, Net};
use crate::base::Tick;
use crate::base::slots::Key;
use crate::policy::liveness::{Liveness, PeerState, Timing};
use crate::session::{Direction, Input, Ledger, Side, Stage};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;
use std::time::Duration;

/// What is known of one side's acknowledgements.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    liveness: Liveness,
    /// Bytes written to it at the last look.
    written: u64,
    /// It had acknowledged all of them, and a FIN if there was one.
    settled: bool,
    /// How often its closed window was probed before that was limited.
    restore: Option<ProbeInterval>,
}

/// The time between two probes of a closed window, in milliseconds as the kernel has it.
#[derive(Clone, Copy, Debug)]
struct ProbeInterval(NonZeroU32);

impl ProbeInterval {
    fn new(time: Duration) -> Option<ProbeInterval> {
        NonZeroU32::new(u32::try_from(time.as_millis()).unwrap_or(u32::MAX)).map(ProbeInterval)
    }

    fn time(self) -> Duration {
        Duration::from_millis(self.0.get().into())
    }
}

/// The same for another process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedWatch {
    /// For how long it has owed an acknowledgement.
    pub owes: Option<Duration>,
    /// Bytes written to it at the last look.
    pub written: u64,
    /// It had acknowledged all of them.
    pub settled: bool,
    /// How often its closed window was probed before that was limited.
    pub restore: Option<Duration>,
}

impl SavedWatch {
    pub(super) fn restore(self, now: Tick) -> Watch {
        let SavedWatch { owes, written, settled, restore } = self;
        let liveness = Liveness::owing(owes.map(|age| now.before(age)));
        Watch { liveness, written, settled, restore: restore.and_then(ProbeInterval::new) }
    }
}

impl Watch {
    pub(super) fn save(&self, now: Tick) -> SavedWatch {
        let Watch { liveness, written, settled, restore } = *self;
        let owes = liveness.owes_since().map(|since| now - since);
        SavedWatch { owes, written, settled, restore: restore.map(ProbeInterval::time) }
    }

    /// A FIN was sent, which no byte count shows.
    pub(super) fn sent_fin(&mut self) {
        self.settled = false;
    }
}

impl<N: Net, L: Ledger> Driver<N, L> {
    /// Bytes were sent: has a relaying connection looked at, unless that is set already.
    pub(super) fn schedule_check(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.session.stage() == Stage::Relaying && connection.look_at.is_none() {
            connection.look_at = (self.now + Timing::within(self.net.dead_peer_timeout()).look).into();
            self.reconcile(key);
        }
    }

    /// Looks at both sides, if it is time.
    pub(super) fn check_peers(&mut self, key: Key) {
        let timing = Timing::within(self.net.dead_peer_timeout());
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.look_at.take_if_due(self.now).is_none() {
            return;
        }
        for side in [Side::Client, Side::Backend] {
            let written = connection.session.bytes(Direction::to(side));
            let Some(Attached { end, watch, .. }) = connection.sockets.of(side) else { continue };
            if watch.settled && watch.written == written {
                continue;
            }
            let Some(seen) = self.net.acknowledgements(&end.socket) else {
                (watch.settled, watch.written) = (true, written);
                continue;
            };
            let verdict = watch.liveness.judge(seen, &timing, self.now);
            if verdict == PeerState::Dead {
                return self.step(key, Input::Reset(side));
            }
            // Bytes that are newer than the last look may wait behind a window that has closed and shows nothing yet.
            watch.settled = verdict == PeerState::Settled && watch.written == written;
            watch.written = written;
            if !watch.settled {
                connection.look_at = (self.now + timing.look).into();
            }
            if seen.window_closed && watch.restore.is_none() {
                watch.restore = self.net.limit_probe_interval(&end.socket, timing.probe).and_then(ProbeInterval::new);
            } else if !seen.window_closed
                && let Some(before) = watch.restore.take()
            {
                self.net.set_probe_interval(&end.socket, before.time());
            }
        }
    }
}

impl<S, P> Sockets<S, P> {
    /// Before sockets are closed in order: the kernel gives up what it still has to deliver sooner, the shorter the interval
    /// of its probes is.
    pub(super) fn unwatch(&mut self, net: &mut impl Net<Socket = S, Pipe = P>) {
        for side in [Side::Client, Side::Backend] {
            if let Some(Attached { end, watch, .. }) = self.of(side)
                && let Some(before) = watch.restore
            {
                net.set_probe_interval(&end.socket, before.time());
            }
        }
    }
}
