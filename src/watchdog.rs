//! Checks that every thread still runs its loop.
//!
//! A thread that serves counts the turns of its loop in a [`Heartbeat`]. The watchdog thread reads all counts four
//! times per bound. It wakes each thread whose count has not moved, so that an idle one takes a turn too. This costs a
//! busy thread one atomic store a turn, an idle one a wake-up per check. A thread whose count stays the same for four
//! checks in a row is *stuck*. While one is, `/readyz` answers 503 and the service manager gets no watchdog message.
//!
//! The watchdog counts checks instead of time: after a pause of the whole process (SIGSTOP, suspend), no thread is
//! stuck.
//!
//! Threads that may wait for a disk or a name server are not watched; no other thread waits for them.

use crate::pool::Published;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long a turn may take where the service manager sets no bound.
pub const BOUND: Duration = Duration::from_secs(10);

/// Checks in a row without a turn that make a thread stuck; this many fit into the bound.
const LOOKS: u32 = 4;

/// The count of a thread that has ended normally and is no longer watched.
const ENDED: u64 = u64::MAX;

/// The turns that a thread has taken. Cheap to clone; only the thread writes it.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat(Arc<Turns>);

/// Alone on its cache lines, since workers write theirs often.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Turns(AtomicU64);

impl Heartbeat {
    /// Counts a turn.
    pub fn beat(&self) {
        let Turns(turns) = &*self.0;
        turns.store(turns.load(Ordering::Relaxed).wrapping_add(1) % ENDED, Ordering::Relaxed);
    }

    /// Marks the thread as ended. A caller that sees this sees all that the thread did before.
    pub fn end(&self) {
        self.0.0.store(ENDED, Ordering::Release);
    }

    /// Has the thread ended normally?
    pub fn has_ended(&self) -> bool {
        self.turns() == ENDED
    }

    fn turns(&self) -> u64 {
        self.0.0.load(Ordering::Acquire)
    }
}

/// A thread to watch.
pub struct Watched {
    /// Its name in the log and in `/readyz`.
    pub name: String,
    /// The thread's turns.
    pub heartbeat: Heartbeat,
    /// Makes the thread take a turn. Must not wait for it.
    pub wake: Box<dyn Fn() + Send>,
}

/// The running watchdog; dropping it stops it.
#[derive(Debug)]
pub struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts to watch. A turn may take `bound`; threads that exceed it are stored in `published` as stuck. Each check
    /// that finds no stuck thread calls `alive`.
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
            // An error means that the thread panicked, which has been logged.
            let _ = thread.join();
        }
    }
}

/// All threads, with the results of the last checks.
struct Looks(Vec<(Watched, Found)>);

#[derive(Default)]
struct Found {
    turns: u64,
    /// Checks since the count moved.
    still: u32,
}

impl Looks {
    fn new(watched: Vec<Watched>) -> Looks {
        Looks(watched.into_iter().map(|watched| (watched, Found::default())).collect())
    }

    /// Checks each thread, wakes those that have not moved, and returns the names of stuck ones.
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
