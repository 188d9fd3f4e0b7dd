//! Threads that serve no client have a lower priority than workers.
//!
//! A scrape of 10 000 backends takes a thread 100 ms, and a reload may take longer. On a machine whose cores are busy, a worker that wakes
//! would wait for the end of that thread's time slice, some milliseconds. With a lower priority the thread is interrupted, and it
//! still gets a quarter of a core from workers that want all of it.

use rustix::process::nice;

/// What is added to the nice value: a weight of 335 beside 1024 (sched(7)).
const LOWER: i32 = 5;

/// Lowers the priority of the calling thread, and of the threads that it starts. Linux only: elsewhere a nice value is the
/// process's (setpriority(2)).
pub fn yield_to_workers() {
    if let Err(error) = nice(LOWER) {
        log::debug!("a thread keeps its priority: {error}");
    }
}
