//! Whether every thread still comes around.
//!
//! A thread that serves counts the turns of its loop in a [`Heartbeat`]. The watchdog thread looks at all counts four times
//! per bound. It wakes each thread whose count has not moved, so that an idle one takes a turn too: a busy thread costs one
//! atomic store a turn, an idle one a wake-up per look. A thread whose count stands still for four looks in a row is
//! *stuck*. While one is, `/readyz` says 503 and the service manager hears nothing.
//!
//! Looks are counted, not time: after the whole process stood still (SIGSTOP, a suspended machine), nothing is stuck.
//!
//! What is not watched: threads that may wait for a disk or a name server, which no other thread waits for.

use crate::pool::Published;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long a thread may take for a turn where the service manager sets no bound.
pub const BOUND: Duration = Duration::from_secs(10);

/// Looks in a row without a turn that make a thread stuck; so many fit into the bound.
const LOOKS: u32 = 4;

/// A thread that has ended in an orderly way, and is watched no more.
const ENDED: u64 = u64::MAX;

/// The turns that a thread has taken. Clone it freely; the thread alone writes.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat(Arc<Turns>);

/// Alone on its cache lines: workers write theirs all the time.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Turns(AtomicU64);

impl Heartbeat {
    /// The thread has come around.
    pub fn beat(&self) {
        let Turns(turns) = &*self.0;
        turns.store(turns.load(Ordering::Relaxed).wrapping_add(1) % ENDED, Ordering::Relaxed);
    }

    /// The thread has nothing left to do and ends.
    pub fn end(&self) {
        self.0.0.store(ENDED, Ordering::Relaxed);
    }

    fn turns(&self) -> u64 {
        self.0.0.load(Ordering::Relaxed)
    }
}

/// A thread to watch.
pub struct Watched {
    /// What the log and `/readyz` call it.
    pub name: String,
    /// Its turns.
    pub heartbeat: Heartbeat,
    /// Makes it take one. Must not wait for it.
    pub wake: Box<dyn Fn() + Send>,
}

/// The running watchdog. Dropping it ends it.
#[derive(Debug)]
pub struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts to watch. A thread may take `bound` for a turn; those that take longer stand in `published`. `alive` is called
    /// at each look at which none does.
    pub fn start(
        watched: Vec<Watched>,
        bound: Duration,
        published: Arc<Published>,
        alive: Box<dyn Fn() + Send>,
    ) -> io::Result<Watchdog> {
        let (stop, stopped) = bounded::<()>(0);
        let mut looks = Looks::new(watched);
        let watch = move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(bound / LOOKS) {
                let stuck = looks.look(bound);
                if stuck.is_empty() {
                    alive();
                }
                published.set_stuck(stuck);
            }
        };
        let thread = thread::Builder::new().name("watchdog".to_owned()).spawn(watch)?;
        Ok(Watchdog { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // An error means that it panicked, which has been logged.
            let _ = thread.join();
        }
    }
}

/// All threads, with what the last looks found.
struct Looks(Vec<(Watched, Found)>);

#[derive(Default)]
struct Found {
    turns: u64,
    /// Looks since the count moved.
    still: u32,
}

impl Looks {
    fn new(watched: Vec<Watched>) -> Looks {
        Looks(watched.into_iter().map(|watched| (watched, Found::default())).collect())
    }

    /// Looks at each thread, wakes those that have not moved, and returns the names of those that are stuck.
    fn look(&mut self, bound: Duration) -> Vec<String> {
        let mut stuck = Vec::new();
        for (Watched { name, heartbeat, wake }, found) in &mut self.0 {
            let turns = heartbeat.turns();
            if turns == ENDED || turns != found.turns {
                if found.still > LOOKS {
                    log::warn!("{name} responds again");
                }
                *found = Found { turns, still: 0 };
                continue;
            }
            wake();
            if found.still >= LOOKS {
                if found.still == LOOKS {
                    log::error!("{name} has not responded for {bound:?}");
                }
                stuck.push(name.clone());
            }
            found.still = found.still.saturating_add(1);
        }
        stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;

    const TIME: Duration = Duration::from_secs(1);

    fn watched(name: &str, wake: impl Fn() + Send + 'static) -> (Heartbeat, Watched) {
        let heartbeat = Heartbeat::default();
        (heartbeat.clone(), Watched { name: name.to_owned(), heartbeat, wake: Box::new(wake) })
    }

    #[test]
    fn a_thread_that_takes_no_turn_for_four_looks_is_stuck_until_it_takes_one() {
        let (wakes, woken) = unbounded();
        let (slow, first) = watched("slow", move || wakes.send(()).unwrap());
        let idle = Heartbeat::default();
        let of_idle = idle.clone();
        let second = Watched { name: "idle".to_owned(), heartbeat: idle, wake: Box::new(move || of_idle.beat()) };
        let (ended, third) = watched("ended", || {});
        ended.end();
        let mut looks = Looks::new(vec![first, second, third]);
        for _ in 0..4 {
            assert_eq!(looks.look(TIME), Vec::<String>::new());
        }
        assert_eq!(woken.try_iter().count(), 4);
        for _ in 0..100 {
            assert_eq!(looks.look(TIME), ["slow"]);
        }
        slow.beat();
        assert_eq!(looks.look(TIME), Vec::<String>::new());
        for _ in 0..4 {
            assert_eq!(looks.look(TIME), Vec::<String>::new());
        }
        assert_eq!(looks.look(TIME), ["slow"]);
    }
}
