//! How threads talk: a bounded channel and the waker of the receiver's poll loop, tied together, so that nobody can send
//! and forget to wake.
//!
//! No sender waits for a receiver without a bound. A letter that finds no room comes back ([`Mailbox::offer`]), or waits for
//! a stated time ([`Mailbox::send_within`]). What must not be lost goes into a [`Slot`] beside the mailbox, which has room
//! always: an order that has not been read is merged with the next one.

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use mio::{Poll, Token, Waker};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The sending side; clone it freely.
#[derive(Debug)]
pub struct Mailbox<T> {
    sender: Sender<T>,
    waker: Arc<Waker>,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Mailbox { sender: self.sender.clone(), waker: self.waker.clone() }
    }
}

impl<T> Mailbox<T> {
    /// A mailbox for the owner of `poll`, who sees `token` whenever mail has come. At most `size` letters wait.
    /// mio allows one waker per poll.
    pub fn new(poll: &Poll, token: Token, size: usize) -> io::Result<(Mailbox<T>, Receiver<T>)> {
        let waker = Arc::new(Waker::new(poll.registry(), token)?);
        let (sender, receiver) = bounded(size);
        Ok((Mailbox { sender, waker }, receiver))
    }

    /// A slot for orders to the same owner, who sees the same token.
    pub fn slot<O: Merge>(&self) -> Slot<O> {
        Slot { waiting: Mutex::new(None), any: AtomicBool::new(false), waker: self.waker.clone() }
    }

    /// Sends without waiting; gives the letter back when the box is full or its owner gone.
    pub fn offer(&self, letter: T) -> Result<(), T> {
        self.sender.try_send(letter).map_err(TrySendError::into_inner)?;
        self.wake();
        Ok(())
    }

    /// Sends, waiting at most this long for room. False if there was none, or the owner is gone.
    pub fn send_within(&self, letter: T, patience: Duration) -> bool {
        let sent = self.sender.send_timeout(letter, patience).is_ok();
        self.wake();
        sent
    }

    /// Wakes the owner without a letter.
    pub fn wake(&self) {
        wake(&self.waker);
    }
}

/// Orders of which two make one.
pub trait Merge {
    /// Adds an order that was given after this one. The result is bounded, however many are added.
    fn merge(&mut self, later: Self);
}

/// Room for one order, which waits until its owner comes around.
#[derive(Debug)]
pub struct Slot<O> {
    waiting: Mutex<Option<O>>,
    /// Is there one? So that the owner takes the lock only then.
    any: AtomicBool,
    waker: Arc<Waker>,
}

impl<O: Merge> Slot<O> {
    /// Gives an order, without waiting for the owner to read it.
    pub fn put(&self, order: O) {
        let mut waiting = self.waiting.lock();
        match &mut *waiting {
            Some(earlier) => earlier.merge(order),
            None => *waiting = Some(order),
        }
        self.any.store(true, Ordering::Release);
        drop(waiting);
        wake(&self.waker);
    }

    /// The owner's: all that was put since the last call.
    pub fn take(&self) -> Option<O> {
        if !self.any.swap(false, Ordering::Acquire) {
            return None;
        }
        self.waiting.lock().take()
    }
}

fn wake(waker: &Waker) {
    if let Err(error) = waker.wake() {
        log::error!("can't wake a thread: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Merge for Vec<u8> {
        fn merge(&mut self, later: Vec<u8>) {
            self.extend(later);
        }
    }

    #[test]
    fn a_full_mailbox_makes_no_sender_wait_and_a_slot_always_has_room() {
        let (mailbox, letters) = Mailbox::new(&Poll::new().unwrap(), Token(0), 1).unwrap();
        let slot: Slot<Vec<u8>> = mailbox.slot();
        assert_eq!((mailbox.offer(1), mailbox.offer(2)), (Ok(()), Err(2)));
        assert!(!mailbox.send_within(3, Duration::from_millis(1)));
        assert_eq!(slot.take(), None);
        (0..3).for_each(|order| slot.put(vec![order]));
        assert_eq!((slot.take(), slot.take()), (Some(vec![0, 1, 2]), None));
        assert_eq!(letters.try_iter().collect::<Vec<_>>(), [1]);
    }
}
