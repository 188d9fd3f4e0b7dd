//! Counts clients on their way from one worker to another, so that a worker does not end before they arrive.
//!
//! A worker that drains ends with its last connection, and its mailbox ends with it. A peer that still accepts may hand over a
//! client at that moment: the message would be lost, and the client with it. So a peer announces a client before
//! it sends the message. A worker ends only by an exchange that fails while a client is announced. Either the peer
//! finds the worker closed and keeps the client, or the worker finds the announcement and reads the message.

use std::sync::atomic::{AtomicU32, Ordering};

/// Set once, when the worker ends.
const CLOSED: u32 = 1 << 31;

/// How many clients are on their way to a worker, and whether it has ended.
#[derive(Debug, Default)]
pub(super) struct Arrivals(AtomicU32);

impl Arrivals {
    /// A client will be sent. False: the worker has ended.
    pub(super) fn announce(&self) -> bool {
        let one_more = |announced: u32| (announced & CLOSED == 0).then(|| announced + 1);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok()
    }

    /// A client that was announced has arrived, or is not sent after all.
    pub(super) fn arrived(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    /// Has the worker ended?
    pub(super) fn is_closed(&self) -> bool {
        self.0.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// Ends, unless a client is on its way.
    pub(super) fn close(&self) -> bool {
        self.0.compare_exchange(0, CLOSED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    #[test]
    fn a_worker_ends_only_while_no_client_is_announced_and_no_client_is_announced_after_that() {
        let arrivals = Arrivals::default();
        assert!(arrivals.announce() && arrivals.announce());
        assert!(!arrivals.close());
        arrivals.arrived();
        assert!(!arrivals.close(), "one is still on its way");
        arrivals.arrived();
        assert!(arrivals.close());
        assert!(!arrivals.announce());
    }

    #[test]
    fn every_announced_client_arrives_before_the_end_whatever_the_timing() {
        for _ in 0..200 {
            let (arrivals, kept) = (Arrivals::default(), AtomicUsize::new(0));
            let (sender, messages) = crossbeam_channel::bounded(4);
            let read = thread::scope(|scope| {
                for _ in 0..2 {
                    let (sender, arrivals, kept) = (sender.clone(), &arrivals, &kept);
                    scope.spawn(move || {
                        for _ in 0..20 {
                            if !arrivals.announce() {
                                kept.fetch_add(1, Ordering::SeqCst);
                            } else if sender.try_send(()).is_err() {
                                arrivals.arrived();
                                kept.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    });
                }
                let mut read = 0;
                while !arrivals.close() {
                    while messages.try_recv().is_ok() {
                        arrivals.arrived();
                        read += 1;
                    }
                }
                read
            });
            assert_eq!(read + kept.into_inner(), 40, "a client was lost");
        }
    }
}
