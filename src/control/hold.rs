//! Control stands still while a successor takes over, so that what it was given stays true.
//!
//! | state | event | what follows |
//! |---|---|---|
//! | running | `Hold` | no change begins: commands and reloads are refused, sets of sources, names and weights wait |
//! | running, a reload is under way | `Hold` | refused |
//! | held | a reload by SIGHUP | it waits; [`Held::takes_reload`] passes it on to the successor, which has read the file already |
//! | held | [`Held::handed_over`] | the workers close their listeners and end with their last connection |
//! | held | [`Held`] is dropped | running: the upgrade has failed, and reloads that wait begin |
//! | held | `Stop` | [`Held::is_over`] says so; this stop and the next one wait for the end of the hold |

use super::remote::Refused;
use super::{ControlLoop, DataPlane};
use crate::pool::{BackendId, ResetOrder, ResetScope, Snapshot};
use crate::state_file::{self, Saver};
use crossbeam_channel::{Receiver, Sender, after, bounded, never};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Control stands still until this is dropped.
#[derive(Debug)]
pub struct Held {
    /// The newest snapshot.
    pub snapshot: Arc<Snapshot>,
    /// What was changed at run time, as the state file has it.
    pub changes: String,
    /// When connections are reset.
    pub cuts: Cuts,
    asked: Arc<Requests>,
    end: Sender<()>,
}

/// When connections are reset, by the backend that they were made to.
#[derive(Debug, Default)]
pub struct Cuts(HashMap<BackendId, Vec<(Instant, ResetScope)>>);

/// What signals have asked for meanwhile.
#[derive(Debug, Default)]
struct Requests {
    stop: AtomicBool,
    reload: AtomicBool,
}

/// Control's side.
pub(super) struct Hold {
    asked: Arc<Requests>,
    /// A message: the successor has taken over. Disconnected: it has not.
    pub(super) end: Receiver<()>,
}

/// What follows a hold.
pub(super) enum HoldEnd {
    /// The upgrade has failed.
    GoOn,
    /// The same, and a stop has come meanwhile.
    Stop,
    /// The successor has taken over.
    Leave,
}

impl Held {
    /// Whether a stop waits for the end of the hold.
    pub fn is_over(&self) -> bool {
        self.asked.stop.load(Ordering::Relaxed)
    }

    /// Whether a reload waits, which is the successor's task from now on.
    pub fn takes_reload(&self) -> bool {
        self.asked.reload.swap(false, Ordering::Relaxed)
    }

    /// The successor has taken over: the process ends with its last connection.
    pub fn handed_over(&self) {
        let _ = self.end.try_send(());
    }
}

impl Cuts {
    fn of(orders: &[(Instant, ResetOrder)]) -> Cuts {
        let mut cuts = Cuts::default();
        for (at, order) in orders {
            order.iter().for_each(|(id, scope)| cuts.0.entry(id).or_default().push((*at, scope.clone())));
        }
        cuts
    }

    /// When a connection is reset that was made to this backend, at the address of this number if that is known.
    pub fn at(&self, backend: BackendId, address: Option<usize>) -> Option<Instant> {
        let cuts = self.0.get(&backend)?.iter().filter(|(_, scope)| scope.includes(address));
        cuts.map(|(at, _)| *at).min()
    }
}

impl<C: DataPlane> ControlLoop<C> {
    /// Stands still, if nothing is under way.
    pub(super) fn hold(&mut self, answer: &Sender<Result<Held, Refused>>) {
        let refused = if self.draining {
            Some(Refused::Draining)
        } else if self.held.is_some() {
            Some(Refused::Upgrading)
        } else if self.reload.is_some() || !self.next_reload.is_empty() {
            Some(Refused::Invalid("a reload is under way: try again once it is over".to_owned()))
        } else {
            None
        };
        if let Some(refused) = refused {
            let _ = answer.try_send(Err(refused));
            return;
        }
        let asked = Arc::new(Requests::default());
        let (end, ended) = bounded(1);
        let held = Held {
            snapshot: self.parts.config_state.snapshot().clone(),
            // No change is in flight, so all that runs is published.
            changes: state_file::text(&self.parts.published),
            cuts: Cuts::of(&self.cuts),
            asked: asked.clone(),
            end,
        };
        if answer.try_send(Ok(held)).is_ok() {
            self.held = Some(Hold { asked, end: ended });
        }
    }

    /// Fires at the end of the hold.
    pub(super) fn hold_ends(&self) -> Receiver<()> {
        self.held.as_ref().map_or_else(never, |held| held.end.clone())
    }

    /// Ends the hold: what follows.
    pub(super) fn end_hold(&mut self, handed_over: bool) -> HoldEnd {
        let Some(Hold { asked, .. }) = self.held.take() else { return HoldEnd::GoOn };
        let stop = asked.stop.load(Ordering::Relaxed);
        self.stops += usize::from(stop);
        match stop {
            _ if handed_over => {
                if asked.reload.load(Ordering::Relaxed) {
                    reload_is_late();
                }
                if stop {
                    log::warn!("a stop came too late for this process: the new one has taken over, and serves");
                }
                HoldEnd::Leave
            }
            true => HoldEnd::Stop,
            false => HoldEnd::GoOn,
        }
    }

    /// Another process serves. The channel fires when the connections of this one are reset.
    pub(super) fn leave(&mut self) -> Receiver<Instant> {
        let time = self.parts.config_state.running().global.shutdown_timeout;
        log::info!("another process serves: {time:?} for the connections that are open here");
        (self.draining, self.handed_over) = (true, true);
        self.give_up_reloads();
        self.give_up_adds();
        self.plan_renewals();
        self.parts.saver.iter().for_each(Saver::disown);
        self.parts.data_plane.leave();
        after(time)
    }

    /// A stop comes during a hold.
    pub(super) fn stop_later(&self) {
        if let Some(held) = &self.held {
            held.asked.stop.store(true, Ordering::Relaxed);
            log::info!("a stop waits for the end of the upgrade, which it ends");
        }
    }

    /// Whether a stop waits for the end of a hold. The next one must wait in its queue.
    pub(super) fn is_stopping_later(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.asked.stop.load(Ordering::Relaxed))
    }

    /// A reload waits for the end of a hold.
    pub(super) fn note_reload(&self) {
        if let Some(held) = &self.held {
            held.asked.reload.store(true, Ordering::Relaxed);
            log::info!("SIGHUP waits: the new process reads the file again, or this one if the upgrade fails");
        }
    }
}

/// A reload by a signal came once the successor could not be asked for it.
pub(super) fn reload_is_late() {
    log::warn!("SIGHUP ignored: a new process has taken over");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_departure_cuts_the_connections_at_its_addresses_in_its_own_time() {
        let now = Instant::now();
        let [soon, late] = [1, 60].map(|seconds| now + Duration::from_secs(seconds));
        let at = |numbers: &[usize]| ResetScope::At(numbers.iter().copied().collect());
        let [two, gone, stays] = [1, 2, 3].map(BackendId);
        let orders = [
            (late, ResetOrder::from_iter([(two, at(&[1])), (gone, ResetScope::All)])),
            (soon, ResetOrder::from_iter([(two, at(&[0]))])),
        ];
        let cuts = Cuts::of(&orders);
        assert_eq!([0, 1, 2].map(|number| cuts.at(two, Some(number))), [Some(soon), Some(late), None]);
        assert_eq!(cuts.at(two, None), Some(soon), "its address is not known");
        assert_eq!((cuts.at(gone, Some(7)), cuts.at(stays, Some(0))), (Some(late), None));
    }
}
