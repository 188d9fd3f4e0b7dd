//! Clients that never stop coming.

use crate::{At, Conn, eventually};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

/// Clients that connect as fast as they can, and reset their connections a little later; until dropped.
pub struct Flood {
    over: Arc<AtomicBool>,
    clients: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Begins.
    pub fn at(at: &At) -> Flood {
        let (over, clients) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (at, stop, count) = (at.clone(), over.clone(), clients.clone());
        let connect = move || {
            let mut open = VecDeque::new();
            while !stop.load(Ordering::Relaxed) {
                open.push_back(Conn::attempt(&at));
                count.fetch_add(1, Ordering::Relaxed);
                if open.len() > 50 {
                    open.pop_front().into_iter().for_each(Conn::reset);
                }
            }
            open.into_iter().for_each(Conn::reset);
        };
        Flood { over, clients, thread: Some(thread::spawn(connect)) }
    }

    /// Waits until it has gone on for a while.
    pub fn rises(&self, by: u64) {
        let before = self.clients.load(Ordering::Relaxed);
        eventually("the flood goes on", || self.clients.load(Ordering::Relaxed) > before + by);
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().into_iter().for_each(|thread| thread.join().expect("it ends"));
    }
}
